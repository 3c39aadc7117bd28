//! From text to a JSON value; duplicate keys and excessive nesting are refused.

use std::fmt;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

/// Maximum depth of lists and mappings in a YAML document; `serde_json` has the same limit.
const MAX_DEPTH: usize = 127;

/// Reads JSON (RFC 8259).
///
/// # Errors
/// The error with its line and column; a duplicate key is one.
pub fn read_json(bytes: &[u8]) -> Result<Value, String> {
    serde_json::from_slice::<UniqueKeys>(bytes)
        .map(|read| read.0)
        .map_err(|error| error.to_string())
}

/// A JSON value whose objects have no duplicate keys.
struct UniqueKeys(Value);

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(UniqueKeysVisitor)
            .map(UniqueKeys)
    }
}

struct UniqueKeysVisitor;

impl<'de> Visitor<'de> for UniqueKeysVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }
    fn visit_string<E: de::Error>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(UniqueKeys(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(de::Error::custom(duplicate_key(&key)));
            }
            let UniqueKeys(value) = entries.next_value()?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

fn duplicate_key(key: &str) -> String {
    format!("duplicate key {key:?}")
}

/// Reads one document of YAML 1.2 (core schema), without anchors and aliases; JSON is YAML too.
///
/// Numbers with leading zeros, and those that JSON cannot express, become strings. Keys are always
/// strings.
///
/// # Errors
/// The error with its line and column; a duplicate key is one.
pub fn read_yaml(text: &str) -> Result<Value, String> {
    let mut parser = Parser::new_from_str(text);
    let mut document = None;
    let mut stack: Vec<Collection> = Vec::new();
    loop {
        let Some(next) = parser.next_event() else {
            return Ok(document.unwrap_or_default());
        };
        let (event, span) = next.map_err(|error| at(error.marker(), error.info()))?;
        let anchor = match &event {
            Event::Alias(anchor)
            | Event::Scalar(.., anchor, _)
            | Event::SequenceStart(anchor, _)
            | Event::MappingStart(anchor, _) => *anchor,
            _ => 0,
        };
        if anchor != 0 {
            return Err(at(
                &span.start,
                "anchors (&) and aliases (*) are not supported: write the value out",
            ));
        }
        let value = match event {
            Event::DocumentStart(_) if document.is_some() => {
                return Err(at(&span.start, "only one document is accepted"));
            }
            Event::SequenceStart(_, tag) => {
                check_tag(tag.as_deref(), "seq").map_err(|message| at(&span.start, &message))?;
                stack.push(Collection::List(Vec::new()));
                None
            }
            Event::MappingStart(_, tag) => {
                check_tag(tag.as_deref(), "map").map_err(|message| at(&span.start, &message))?;
                stack.push(Collection::Map(Map::new(), None));
                None
            }
            Event::Scalar(text, style, _, tag) => {
                // A key is a string, even if it looks like a number.
                if let Some(Collection::Map(map, key @ None)) = stack.last_mut() {
                    if map.contains_key(&*text) {
                        return Err(at(&span.start, &duplicate_key(&text)));
                    }
                    *key = Some(text.into_owned());
                    None
                } else {
                    Some(
                        parse_scalar(&text, style, tag.as_deref())
                            .map_err(|message| at(&span.start, &message))?,
                    )
                }
            }
            Event::SequenceEnd | Event::MappingEnd => match stack.pop() {
                Some(Collection::List(items)) => Some(Value::Array(items)),
                Some(Collection::Map(map, _)) => Some(Value::Object(map)),
                None => None,
            },
            _ => None,
        };
        if stack.len() > MAX_DEPTH {
            return Err(at(
                &span.start,
                &format!("lists and mappings are nested more than {MAX_DEPTH} deep"),
            ));
        }
        let Some(value) = value else { continue };
        match stack.last_mut() {
            None => document = Some(value),
            Some(Collection::List(items)) => items.push(value),
            Some(Collection::Map(map, key)) => match key.take() {
                Some(key) => drop(map.insert(key, value)),
                None => {
                    return Err(at(
                        &span.start,
                        "a key must be a string, not a list or a mapping",
                    ));
                }
            },
        }
    }
}

/// Returns the line and the column, from 1, of the value at a JSON pointer (RFC 6901) in a document
/// of YAML or JSON; of the innermost value around it, if it is missing.
pub fn locate_pointer(text: &str, pointer: &str) -> Option<(usize, usize)> {
    let wanted: Vec<String> = pointer
        .split('/')
        .skip(1)
        .map(|key| key.replace("~1", "/").replace("~0", "~"))
        .collect();
    let mut parser = Parser::new_from_str(text);
    let mut open: Vec<Position> = Vec::new();
    let mut best: Option<(usize, Marker)> = None;
    while let Some(Ok((event, span))) = parser.next_event() {
        match event {
            Event::SequenceEnd | Event::MappingEnd => {
                open.pop();
                if let Some(position) = open.last_mut() {
                    position.advance();
                }
                continue;
            }
            Event::Scalar(key, ..) if matches!(open.last(), Some(Position::Key(None))) => {
                if let Some(position) = open.last_mut() {
                    *position = Position::Key(Some((key.into_owned(), span.start)));
                }
                continue;
            }
            Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..) => {}
            _ => continue,
        }
        let depth = open.len();
        let is_around = depth <= wanted.len()
            && open
                .iter()
                .zip(&wanted)
                .all(|(position, key)| position.is_at(key));
        if is_around && best.as_ref().is_none_or(|(deepest, _)| *deepest < depth) {
            let start = match open.last() {
                Some(Position::Key(Some((_, start)))) => *start,
                _ => span.start,
            };
            best = Some((depth, start));
        }
        match event {
            Event::SequenceStart(..) => open.push(Position::Item(0)),
            Event::MappingStart(..) => open.push(Position::Key(None)),
            _ => {
                if let Some(position) = open.last_mut() {
                    position.advance();
                }
            }
        }
    }
    best.map(|(_, start)| (start.line(), start.col() + 1))
}

/// The position of the current value in a list or a mapping that is still open.
enum Position {
    Item(usize),
    /// The key and where it is; `None` before a key.
    Key(Option<(String, Marker)>),
}

impl Position {
    fn is_at(&self, key: &str) -> bool {
        match self {
            Position::Item(index) => index.to_string() == key,
            Position::Key(current) => current.as_ref().is_some_and(|(current, _)| current == key),
        }
    }

    fn advance(&mut self) {
        match self {
            Position::Item(index) => *index += 1,
            Position::Key(key) => *key = None,
        }
    }
}

/// A list or a mapping that is still open; a mapping with the key of the next value.
enum Collection {
    List(Vec<Value>),
    Map(Map<String, Value>, Option<String>),
}

/// Appends the position to a message.
fn at(position: &Marker, message: &str) -> String {
    format!(
        "{message} at line {} column {}",
        position.line(),
        position.col() + 1
    )
}

fn check_tag(tag: Option<&Tag>, expected: &str) -> Result<(), String> {
    match tag {
        Some(tag) if !(tag.is_yaml_core_schema() && tag.suffix == expected) => {
            Err(unexpected_tag(tag))
        }
        _ => Ok(()),
    }
}

fn unexpected_tag(tag: &Tag) -> String {
    format!("unexpected tag {tag}")
}

/// Returns the value of a scalar.
fn parse_scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    match tag {
        Some(tag) if tag.is_yaml_core_schema() => match tag.suffix.as_str() {
            "str" => Ok(text.into()),
            "null" | "bool" | "int" | "float" => Ok(parse_plain(text)),
            _ => Err(unexpected_tag(tag)),
        },
        Some(tag) => Err(unexpected_tag(tag)),
        None if style == ScalarStyle::Plain => Ok(parse_plain(text)),
        None => Ok(text.into()),
    }
}

/// Returns the value of a scalar without quotes, by the core schema (YAML 1.2.2, section 10.3.2).
fn parse_plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => parse_number(text).map_or_else(|| text.into(), Value::Number),
    }
}

/// Returns the number that JSON can express, or nothing.
fn parse_number(text: &str) -> Option<Number> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !digits.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return None;
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(digits) = digits
            .strip_prefix(prefix)
            .filter(|_| digits.len() == text.len())
        {
            return u64::from_str_radix(digits, radix).ok().map(Number::from);
        }
    }
    // A code such as 007, rather than a number.
    if digits.len() > 1
        && digits.starts_with('0')
        && digits.bytes().all(|byte| byte.is_ascii_digit())
    {
        return None;
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    let whole = text
        .parse::<u64>()
        .map(Number::from)
        .or_else(|_| text.parse::<i64>().map(Number::from));
    whole.ok().or_else(|| Number::from_f64(text.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn duplicate_key_is_refused_by_name() {
        for text in [
            "{\"a\": 1, \"b\": {\"c\": 1, \"c\": 2}}",
            "{\"c\": null, \"c\": null}",
            "[{\"c\": 1, \"\\u0063\": 1}]",
        ] {
            let error = read_json(text.as_bytes()).unwrap_err();
            assert!(
                error.starts_with("duplicate key \"c\" at line 1"),
                "{error}"
            );
            assert!(
                read_yaml(text)
                    .unwrap_err()
                    .starts_with("duplicate key \"c\" at line 1")
            );
        }
        let error = read_yaml("a:\n  c: 1\nb: 2\na:\n  d: 1\n").unwrap_err();
        assert_eq!(error, "duplicate key \"a\" at line 4 column 1");
    }

    #[test]
    fn pointer_is_located_in_yaml_and_json() {
        let text = "namespaces:\n- {name: a}\n- name: b\n  sysctls: {net/x: 1}\n  routes:\n  - destination: default\n";
        for (pointer, expected) in [
            ("", (1, 1)),
            ("/namespaces", (1, 1)),
            ("/namespaces/0/name", (2, 4)),
            ("/namespaces/1", (3, 3)),
            ("/namespaces/1/sysctls/net~1x", (4, 13)),
            ("/namespaces/1/routes/0/destination", (6, 5)),
            ("/namespaces/1/routes/0/via", (6, 5)),
            ("/namespaces/1/missing", (3, 3)),
        ] {
            assert_eq!(locate_pointer(text, pointer), Some(expected), "{pointer}");
        }
        assert_eq!(locate_pointer("{\"a\":\n [1, 2]}", "/a/1"), Some((2, 6)));
        assert_eq!(locate_pointer("", "/a"), None);
    }

    #[test]
    fn json_is_read_like_serde_json() {
        for text in [
            "{\"a\": [1, -2, 3.5, 1e3, true, null, \"x\\n\"], \"b\": {}}",
            "[]",
            "18446744073709551615",
            "\"\"",
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(read_json(text.as_bytes()).unwrap(), value);
        }
        for text in ["", "{", "{} {}", "nan", "{a: 1}", "1e400", "\u{feff}{}"] {
            assert!(read_json(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn yaml_follows_core_schema() {
        let text = "
# a comment
null: [~, null, ~, '', \"\\u0041\", 1, -1, 0x1f, 0o17, 1.5, .5, 1e3, +3]
1: {true: True, no: no, yes: \"true\"}
strings: [007, 0123, 1.2.3.4, 10.0.0.1/24, fd00::1, 1_000, .inf, .nan, 0x, 02:00:00:00:00:01, '1', !!str 2]
empty:
folded: >
  a
  b
literal: |
  a: [b
  &c
";
        let expected = json!({
            "null": [null, null, null, "", "A", 1, -1, 31, 15, 1.5, 0.5, 1000.0, 3],
            "1": {"true": true, "no": "no", "yes": "true"},
            "strings": ["007", "0123", "1.2.3.4", "10.0.0.1/24", "fd00::1", "1_000", ".inf", ".nan", "0x",
                "02:00:00:00:00:01", "1", "2"],
            "empty": null, "folded": "a b\n", "literal": "a: [b\n&c\n",
        });
        assert_eq!(read_yaml(text).unwrap(), expected);
        assert_eq!(read_yaml(&expected.to_string()).unwrap(), expected);
        assert_eq!(read_yaml("").unwrap(), Value::Null);
        assert_eq!(read_yaml("---\na: 1\n...\n").unwrap(), json!({"a": 1}));
    }

    #[test]
    fn yaml_beyond_json_is_refused() {
        for (text, why) in [
            (
                "a: &x 1\nb: *x\n",
                "anchors (&) and aliases (*) are not supported: write the value out at line 1",
            ),
            ("a: &x {}\n", "anchors"),
            ("- &x [1]\n", "anchors"),
            ("a: 1\n---\nb: 2\n", "only one document"),
            ("? [a]\n: 1\n", "a key must be a string"),
            ("a: !mine 1\n", "unexpected tag !mine"),
            ("a: !!set {b}\n", "unexpected tag"),
            ("a: [b\n", ""),
            ("a: 1\n b: 2\n", ""),
        ] {
            let error = read_yaml(text).expect_err(text);
            assert!(
                error.starts_with(why) && error.contains("at line "),
                "{text}: {error}"
            );
        }
    }

    /// Each of these took quadratic time, or the time of a whole request, without the limit.
    #[test]
    fn deep_nesting_is_refused_early() {
        let long = 1 << 20;
        for text in [
            format!("a: {}", "[".repeat(long)),
            "{".repeat(long),
            "[a: ".repeat(long),
            "{a: ".repeat(long),
            "- ".repeat(long),
            "? ".repeat(long),
        ] {
            let error = read_yaml(&text).unwrap_err();
            assert!(
                error.contains("nested more than 127 deep") || error.contains("recursion limit"),
                "{error}"
            );
        }
        let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(
            read_yaml(&deep(MAX_DEPTH)).is_ok() && read_json(deep(MAX_DEPTH).as_bytes()).is_ok()
        );
        assert!(
            read_yaml(&deep(MAX_DEPTH + 1)).is_err()
                && read_json(deep(MAX_DEPTH + 1).as_bytes()).is_err()
        );
    }
}
