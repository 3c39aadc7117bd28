//! From a JSON value to a typed request; every error has its JSON pointer.

use serde::{
    Deserialize, Deserializer,
    de::{
        self, DeserializeOwned, IntoDeserializer, Visitor,
        value::{MapDeserializer, SeqDeserializer},
    },
};
use serde_json::{Value, json};
use serde_path_to_error::Segment;

use crate::{Code, FieldError, values::DUPLICATE_SYSCTL};

/// Fields of answers besides the specification; ignored in requests.
pub const READ_ONLY: [&str; 6] = [
    "uid",
    "generation",
    "created_at",
    "updated_at",
    "status",
    "managed",
];

/// Reads the body of a request. A field that is null counts as left out.
///
/// # Errors
/// `unknown_field` or `invalid_field`, with the pointer of the first field that does not fit `T`.
pub fn parse<T: DeserializeOwned>(value: &Value) -> Result<T, FieldError> {
    // Tracking the path doubles the time, so it is done only once there is an error.
    T::deserialize(RequestValue(value)).or_else(|_| parse_with_path(value))
}

/// Parses a value that is known to be invalid, with the path of the error.
fn parse_with_path<T: DeserializeOwned>(value: &Value) -> Result<T, FieldError> {
    serde_path_to_error::deserialize(RequestValue(value)).map_err(|error| {
        let mut path: Vec<String> = error
            .path()
            .iter()
            .filter_map(|segment| match segment {
                Segment::Seq { index } => Some(index.to_string()),
                Segment::Map { key } => Some(key.clone()),
                Segment::Enum { variant } => Some(variant.clone()),
                Segment::Unknown => None,
            })
            .collect();
        let detail = error.inner().to_string();
        if let Some(nested) = unnest_field_error(&detail) {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            return nested.below(&path);
        }
        // serde names the field in its message; the path may end before it.
        let unknown = quoted_after(&detail, "unknown field `");
        let missing = quoted_after(&detail, "missing field `");
        let code = match (unknown, missing) {
            (Some(field), _) => {
                if path.last() != Some(&field) {
                    path.push(field);
                }
                Code::UnknownField
            }
            (_, Some(field)) => {
                if path.last() != Some(&field) {
                    path.push(field);
                }
                Code::InvalidField
            }
            _ if detail.starts_with(DUPLICATE_SYSCTL) => Code::Duplicate,
            _ => Code::InvalidField,
        };
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        FieldError::at(code, &path, to_json_terms(&detail))
    })
}

/// Begins the message of a serde error that carries a field error.
const NESTED: &str = "field error: ";

/// Returns the serde error of a `Deserialize` that parses a part of its input by [`parse`].
pub(crate) fn nest_field_error<E: de::Error>(error: FieldError) -> E {
    let FieldError {
        code,
        pointer,
        detail,
    } = error;
    E::custom(format!("{NESTED}{}", json!([code, pointer, detail])))
}

fn unnest_field_error(message: &str) -> Option<FieldError> {
    let (code, pointer, detail): (Code, String, String) =
        serde_json::from_str(message.strip_prefix(NESTED)?).ok()?;
    Some(FieldError {
        code,
        pointer,
        detail,
    })
}

/// Returns the names of a struct's fields, as its `Deserialize` asks for them.
pub(crate) fn field_names<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut names: &[&str] = &[];
    // Fails always, once it has asked.
    let _ = T::deserialize(FieldNames(&mut names));
    names
}

/// A deserializer that keeps the names of the fields that it is asked for.
struct FieldNames<'n>(&'n mut &'static [&'static str]);

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("no struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// Returns the name that follows a prefix in a message, up to the closing backquote.
fn quoted_after(detail: &str, prefix: &str) -> Option<String> {
    Some(detail.strip_prefix(prefix)?.split('`').next()?.to_owned())
}

/// Replaces Rust's terms in a message of serde by JSON's.
fn to_json_terms(detail: &str) -> String {
    const TERMS: [(&str, &str); 20] = [
        ("invalid type: unit value", "invalid type: null"),
        ("invalid type: sequence", "invalid type: array"),
        ("invalid type: map", "invalid type: object"),
        ("invalid type: floating point", "invalid type: number"),
        ("unknown variant", "unknown value"),
        ("expected a sequence", "expected an array"),
        ("expected a map", "expected an object"),
        ("expected unit", "expected null"),
        ("expected a borrowed string", "expected a string"),
        ("expected string or map", "expected a string"),
        ("expected u8", "expected a whole number from 0 to 255"),
        ("expected u16", "expected a whole number from 0 to 65535"),
        (
            "expected u32",
            "expected a whole number from 0 to 4294967295",
        ),
        ("expected u64", "expected a whole number, 0 or more"),
        ("expected usize", "expected a whole number, 0 or more"),
        (
            "expected i32",
            "expected a whole number from -2147483648 to 2147483647",
        ),
        ("expected i64", "expected a whole number"),
        ("expected f64", "expected a number"),
        ("integer `", "number `"),
        ("floating point `", "number `"),
    ];
    TERMS
        .iter()
        .fold(detail.to_owned(), |detail, (rust, json)| {
            detail.replace(rust, json)
        })
}

/// A JSON value of a request: known fields of a struct that are null are left out, so that they
/// get their defaults.
///
/// Null stays in maps, and so do unknown fields of a struct.
#[derive(Clone, Copy)]
struct RequestValue<'a>(&'a Value);

impl<'de> IntoDeserializer<'de, serde_json::Error> for RequestValue<'de> {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for RequestValue<'de> {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Array(items) => {
                let mut items = SeqDeserializer::new(items.iter().map(RequestValue));
                let value = visitor.visit_seq(&mut items)?;
                items.end()?;
                Ok(value)
            }
            Value::Object(map) => visitor.visit_map(MapDeserializer::new(
                map.iter()
                    .map(|(key, value)| (key.as_str(), RequestValue(value))),
            )),
            plain => plain.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        // serde would take an array for the fields in their order.
        let Value::Object(map) = self.0 else {
            return Err(de::Error::invalid_type(unexpected(self.0), &"an object"));
        };
        let given = map
            .iter()
            .filter(|(key, value)| !(value.is_null() && fields.contains(&key.as_str())));
        visitor.visit_map(MapDeserializer::new(
            given.map(|(key, value)| (key.as_str(), RequestValue(value))),
        ))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        if self.0.is_null() {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

fn unexpected(value: &Value) -> de::Unexpected<'_> {
    match value {
        Value::Null => de::Unexpected::Unit,
        Value::Bool(value) => de::Unexpected::Bool(*value),
        Value::Number(_) => de::Unexpected::Other("number"),
        Value::String(text) => de::Unexpected::Str(text),
        Value::Array(_) => de::Unexpected::Other("array"),
        Value::Object(_) => de::Unexpected::Map,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Namespace, RT_TABLE_MAIN, Veth};

    fn parse_error<T: DeserializeOwned + std::fmt::Debug>(value: Value) -> (Code, String, String) {
        let error = parse::<T>(&value).expect_err(&value.to_string());
        (error.code, error.pointer, error.detail)
    }

    #[test]
    fn error_has_pointer_to_its_field() {
        let (code, pointer, detail) = parse_error::<Veth>(
            json!({"endpoints": [{"addresses": ["10.0.0.1/24", "10.1.1.1"]}, {}]}),
        );
        assert_eq!(
            (code, pointer.as_str()),
            (Code::InvalidField, "/endpoints/0/addresses/1")
        );
        assert_eq!(
            detail,
            "\"10.1.1.1\" has no prefix length: write it as 10.1.1.1/24"
        );

        let (code, pointer, _) = parse_error::<Veth>(json!({"endpoints": [{}, {"colour": 1}]}));
        assert_eq!(
            (code, pointer.as_str()),
            (Code::UnknownField, "/endpoints/1/colour")
        );
        let (code, pointer, _) = parse_error::<Veth>(json!({"endpoints": [{}, {}, {}]}));
        assert_eq!((code, pointer.as_str()), (Code::InvalidField, "/endpoints"));
        let (code, pointer, _) =
            parse_error::<Namespace>(json!({"name": "a", "sysctls": {"kernel.x": 1}}));
        assert_eq!(
            (code, pointer.as_str()),
            (Code::InvalidField, "/sysctls/kernel.x")
        );
        let twice =
            json!({"name": "a", "sysctls": {"net.ipv4.ip_forward": 1, "net/ipv4/ip_forward": 1}});
        let (code, pointer, _) = parse_error::<Namespace>(twice);
        assert_eq!(
            (code, pointer.as_str()),
            (Code::Duplicate, "/sysctls/net~1ipv4~1ip_forward")
        );
        let (code, pointer, _) = parse_error::<Namespace>(json!({"name": "a", "routes": [{}]}));
        assert_eq!(
            (code, pointer.as_str()),
            (Code::InvalidField, "/routes/0/destination")
        );
        let (code, pointer, _) = parse_error::<Namespace>(json!({"name": "a", "wat": {}}));
        assert_eq!((code, pointer.as_str()), (Code::UnknownField, "/wat"));
    }

    #[test]
    fn null_counts_as_left_out_except_in_maps() {
        let body = json!({"name": null, "labels": null, "endpoints": [{"up": null, "port": null, "mac": null}, {}]});
        assert_eq!(
            parse::<Veth>(&body).unwrap(),
            parse::<Veth>(&json!({})).unwrap()
        );
        let route = json!({"destination": "default", "via": "10.0.0.1", "table": null, "type": null, "onlink": null});
        let namespace: Namespace =
            parse(&json!({"name": "a", "loopback": null, "routes": [route]})).unwrap();
        assert!(namespace.loopback && namespace.routes[0].table == RT_TABLE_MAIN);

        let (code, pointer, _) = parse_error::<Namespace>(json!({"name": "a", "wat": null}));
        assert_eq!((code, pointer.as_str()), (Code::UnknownField, "/wat"));
        let (code, pointer, _) =
            parse_error::<Namespace>(json!({"name": "a", "labels": {"team": null}}));
        assert_eq!(
            (code, pointer.as_str()),
            (Code::InvalidField, "/labels/team")
        );
        let (code, pointer, _) = parse_error::<Veth>(json!({"endpoints": [null, {}]}));
        assert_eq!(
            (code, pointer.as_str()),
            (Code::InvalidField, "/endpoints/0")
        );
        let (code, pointer, _) = parse_error::<Namespace>(json!({"name": null}));
        assert_eq!((code, pointer.as_str()), (Code::InvalidField, "/name"));
    }

    #[test]
    fn error_uses_terms_of_json() {
        let detail = |value: Value| parse_error::<Veth>(json!({"endpoints": [value, {}]})).2;
        assert_eq!(
            detail(json!({"mtu": -1})),
            "invalid value: number `-1`, expected a whole number from 0 to 4294967295"
        );
        assert_eq!(
            detail(json!({"mtu": 1.5})),
            "invalid type: number `1.5`, expected a whole number from 0 to 4294967295"
        );
        assert_eq!(
            detail(json!({"mtu": "1500"})).replace('\\', ""),
            "invalid type: string \"1500\", expected a whole number from 0 to 4294967295"
        );
        assert_eq!(
            detail(json!({"up": []})),
            "invalid type: array, expected a boolean"
        );
        assert_eq!(
            detail(json!({"addresses": {}})),
            "invalid type: object, expected an array"
        );
        assert_eq!(
            detail(json!({"namespace": {}})),
            "invalid type: object, expected a string such as \"net0\""
        );
        let route = json!({"destination": "default", "type": "x"});
        let (_, _, detail) = parse_error::<Namespace>(json!({"name": "a", "routes": [route]}));
        assert!(
            detail.starts_with("unknown value `x`, expected one of `unicast`"),
            "{detail}"
        );
    }

    #[test]
    fn array_is_not_accepted_as_object() {
        let (code, pointer, _) = parse_error::<Veth>(json!({"endpoints": [[], {}]}));
        assert_eq!(
            (code, pointer.as_str()),
            (Code::InvalidField, "/endpoints/0")
        );
        let (_, pointer, detail) = parse_error::<Namespace>(json!({"name": "a", "dns": 5}));
        assert_eq!(
            (pointer.as_str(), detail.as_str()),
            ("/dns", "invalid type: number, expected an object")
        );
        let (_, pointer, _) = parse_error::<Namespace>(
            json!({"name": "a", "routes": [{"destination": "default", "type": "x"}]}),
        );
        assert_eq!(pointer, "/routes/0/type");
    }
}
