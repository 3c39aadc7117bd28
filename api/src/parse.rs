//! From a JSON value to a typed request, each mistake told with its JSON pointer.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;

use crate::{Code, FieldError};

/// The fields that answers carry beside what was asked for; in a request they are ignored.
pub const READ_ONLY: [&str; 6] = ["uid", "generation", "created_at", "updated_at", "status", "managed"];

/// Reads a request's body.
///
/// # Errors
/// `unknown_field` or `invalid_field`, with the pointer of the first field that does not fit `T`.
pub fn parse<T: DeserializeOwned>(value: &Value) -> Result<T, FieldError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
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
        let quoted = |prefix: &str| Some(detail.strip_prefix(prefix)?.split('`').next()?.to_owned());
        // serde names the field in its message; whether the path ends with it depends on where it was found out.
        let code = match (quoted("unknown field `"), quoted("missing field `")) {
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
            _ => Code::InvalidField,
        };
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        FieldError::at(code, &path, detail)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Namespace, Veth};

    fn refused<T: DeserializeOwned + std::fmt::Debug>(value: Value) -> (Code, String, String) {
        let error = parse::<T>(&value).expect_err(&value.to_string());
        (error.code, error.pointer, error.detail)
    }

    #[test]
    fn mistakes_are_told_with_their_pointer() {
        let (code, pointer, detail) =
            refused::<Veth>(json!({"endpoints": [{"addresses": ["10.0.0.1/24", "10.1.1.1"]}, {}]}));
        assert_eq!((code, pointer.as_str()), (Code::InvalidField, "/endpoints/0/addresses/1"));
        assert_eq!(detail, "\"10.1.1.1\" has no prefix length: write it as 10.1.1.1/24");

        let (code, pointer, _) = refused::<Veth>(json!({"endpoints": [{}, {"colour": 1}]}));
        assert_eq!((code, pointer.as_str()), (Code::UnknownField, "/endpoints/1/colour"));
        let (code, pointer, _) = refused::<Veth>(json!({"endpoints": [{}, {}, {}]}));
        assert_eq!((code, pointer.as_str()), (Code::InvalidField, "/endpoints"));
        let (code, pointer, _) = refused::<Namespace>(json!({"name": "a", "sysctls": {"kernel.x": 1}}));
        assert_eq!((code, pointer.as_str()), (Code::InvalidField, "/sysctls/kernel.x"));
        let (code, pointer, _) = refused::<Namespace>(json!({"name": "a", "routes": [{}]}));
        assert_eq!((code, pointer.as_str()), (Code::InvalidField, "/routes/0/destination"));
        let (code, pointer, _) = refused::<Namespace>(json!({"name": "a", "wat": {}}));
        assert_eq!((code, pointer.as_str()), (Code::UnknownField, "/wat"));
    }
}
