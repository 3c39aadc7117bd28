//! Schemas of parameters, by location and name.

use serde_json::{Value, json};

use crate::http::query::CONDITIONS;

/// Pattern of a condition on labels, see `query::Label`.
const LABEL: &str = "^[^=!].*$";
/// Pattern of a list of ETags, or `*` (RFC 9110, section 13.1).
const ETAGS: &str = r#"^(\*|(W/)?"[^"]*"( *, *(W/)?"[^"]*")*)$"#;

/// Returns the schema of a parameter; `None` if its operation has the whole schema.
fn schema_of(location: &str, name: &str) -> Option<Value> {
    let number = |least: u64| json!({"type": "integer", "format": "int64", "minimum": least});
    let list = |items: Value| json!({"type": "array", "items": items});
    let conditions =
        |items: Value| json!({"type": "array", "items": items, "maxItems": CONDITIONS});
    let reference = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
    Some(match (location, name) {
        ("query", "limit") => {
            json!({"type": "integer", "minimum": 1, "maximum": 10000, "default": 1000})
        }
        ("query", "cursor" | "namespace") => reference("Name"),
        ("query", "label") => conditions(json!({"type": "string", "pattern": LABEL})),
        ("query", "include") => json!({"type": "string", "enum": ["unmanaged"]}),
        ("query", "kind") => conditions(reference("Kind")),
        ("query", "type") => conditions(reference("EventType")),
        ("query", "name") => conditions(json!({"type": "string"})),
        ("query", "since") | ("header", "Last-Event-ID") => number(0),
        ("query", "argv") => json!({"type": "array", "minItems": 1, "items": {"type": "string"}}),
        ("query", "env") => list(json!({"type": "string", "pattern": "^[^=]*=.*$"})),
        ("query", "rows") => {
            json!({"type": "integer", "minimum": 0, "maximum": 65535, "default": 24})
        }
        ("query", "cols") => {
            json!({"type": "integer", "minimum": 0, "maximum": 65535, "default": 80})
        }
        ("query", "timeout_s") => {
            json!({"type": "number", "exclusiveMinimum": 0, "maximum": 86400, "default": 86400})
        }
        ("query", "wait") => json!({"type": "boolean", "default": true}),
        ("query", "adopt" | "cascade" | "dry_run" | "links" | "settings" | "tty") => {
            json!({"type": "boolean", "default": false})
        }
        ("header", "If-Match" | "If-None-Match") => json!({"type": "string", "pattern": ETAGS}),
        ("path", "end") => json!({"type": "string", "enum": ["0", "1"]}),
        ("path", "pid") => number(1),
        _ => return None,
    })
}

/// Sets the schemas of an operation's parameters.
pub(super) fn specify(operation: &mut Value) {
    for parameter in operation
        .get_mut("parameters")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let text = |field: &str| parameter[field].as_str().unwrap_or_default().to_owned();
        let (location, name) = (text("in"), text("name"));
        if let Some(schema) = schema_of(&location, &name) {
            parameter["schema"] = schema;
        }
        if name == "argv" {
            parameter["required"] = json!(true);
        }
    }
}
