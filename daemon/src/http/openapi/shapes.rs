//! Variants of a kind's schema for each verb, derived from the schema of its configuration.

use netnsd_api::{READ_ONLY, Resource, Stored};
use serde_json::{Map, Value, json};
use utoipa::{PartialSchema, ToSchema};

use super::to_value;

type Schemas = Map<String, Value>;

/// Parts of a kind's schemas beyond the schema of its configuration.
#[derive(Debug)]
pub(super) struct Shapes {
    name: String,
    /// Name of the schema of its observed state.
    observed: String,
    /// Configuration fields that every answer has, with their defaults.
    shown: Vec<String>,
    /// Schema of the fields that only answers have.
    own: Value,
}

impl Shapes {
    pub fn of<R: Resource>() -> Self {
        let least = serde_json::from_value::<R>(json!({"name": "x"}))
            .ok()
            .map(|least| to_value(&least));
        let shown = least
            .as_ref()
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(field, _)| field.clone());
        let stored = to_value(&Stored::<R>::schema());
        let own = stored["allOf"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|part| part["properties"].is_object());
        Self {
            name: <R as ToSchema>::name().into_owned(),
            observed: <R::Observed as ToSchema>::name().into_owned(),
            shown: shown.collect(),
            own: own.cloned().unwrap_or_default(),
        }
    }

    /// Adds NAMEPut, NAMEPatch, NAMEAnswer and NAMEStatus beside NAME.
    fn add(&self, schemas: &mut Schemas) {
        let Some(mut intent) = schemas.get(&self.name).cloned() else {
            return;
        };
        let mut answer = intent.clone();
        let own = self.own["properties"].as_object().into_iter().flatten();
        own.for_each(|(field, schema)| answer["properties"][field] = schema.clone());
        // `Status` is a generic type: it gets its name here.
        let mut status = schemas
            .remove(&format!("Status_{}", self.observed))
            .unwrap_or_default();
        status["properties"]["observed"] =
            or_null(&self.observed, "Kernel state when it was last observed.");
        schemas.insert(format!("{}Status", self.name), status);
        answer["properties"]["status"] = reference(&format!("{}Status", self.name));
        let always = self.own["required"]
            .as_array()
            .into_iter()
            .flatten()
            .cloned();
        answer["required"] = self
            .shown
            .iter()
            .map(|field| json!(field))
            .chain(always)
            .collect();
        open(
            &mut answer,
            &format!("{} in an answer: configuration and status.", self.name),
        );
        add_patch(schemas, &self.name, &intent);
        ignore_read_only(&mut intent);
        intent["required"] = json!(["name"]);
        let mut put = intent.clone();
        without(&mut put, "required");
        put["description"] = json!(format!(
            "{} of a path that names it: its name may be left out.",
            self.name
        ));
        for (of, schema) in [("", intent), ("Put", put), ("Answer", answer)] {
            schemas.insert(format!("{}{of}", self.name), schema);
        }
    }
}

/// Adds the schemas derived from those of the kinds and of endpoints, and that of JSON patches.
pub(super) fn add(schemas: &mut Schemas, kinds: &[Shapes]) {
    kinds.iter().for_each(|kind| kind.add(schemas));
    let Some(endpoint) = schemas.get("Endpoint").cloned() else {
        return;
    };
    add_patch(schemas, "Endpoint", &endpoint);
    let mut answer = endpoint;
    let observed = or_null(
        "EndpointObserved",
        "Kernel state of the endpoint when its pair was last observed.",
    );
    answer["properties"]["status"] = json!({
        "type": "object",
        "description": "State of the pair, and observed state of this endpoint.",
        "required": ["state", "reason", "observed"],
        "properties": {
            "state": reference("State"),
            "reason": {"type": ["string", "null"]},
            "observed": observed,
        },
    });
    let fields = answer["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(field, _)| json!(field));
    answer["required"] = fields.collect();
    open(&mut answer, "One endpoint of a veth pair in an answer.");
    schemas.insert("EndpointAnswer".into(), answer);
    schemas.insert("JsonPatch".into(), json_patch());
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn or_null(name: &str, description: &str) -> Value {
    json!({"anyOf": [reference(name), {"type": "null"}], "description": description})
}

/// Opens a schema of answers for fields of later versions.
fn open(answer: &mut Value, description: &str) {
    without(answer, "additionalProperties");
    answer["description"] = json!(description);
}

fn without(schema: &mut Value, key: &str) {
    schema.as_object_mut().map(|fields| fields.remove(key));
}

/// Adds the read-only fields to a request's schema, which it may have without effect.
fn ignore_read_only(request: &mut Value) {
    for field in READ_ONLY {
        request["properties"][field] =
            json!({"readOnly": true, "description": "Ignored in a request."});
    }
}

/// Adds the schema of a merge patch: each field, or null to reset it to its default.
fn add_patch(schemas: &mut Schemas, name: &str, intent: &Value) {
    let mut patch = mergeable(intent, schemas);
    ignore_read_only(&mut patch);
    patch["description"] = json!(format!(
        "A merge patch of {name} (RFC 7396): null resets a field to its default."
    ));
    schemas.insert(format!("{name}Patch"), patch);
}

/// Returns the schema of values that may be merged into an object of a schema.
fn mergeable(object: &Value, schemas: &Schemas) -> Value {
    let mut merged = object.clone();
    without(&mut merged, "required");
    for property in merged["properties"]
        .as_object_mut()
        .into_iter()
        .flatten()
        .map(|(_, property)| property)
    {
        let known = |schema: &Value| {
            let target = schemas.get(
                schema["$ref"]
                    .as_str()?
                    .strip_prefix("#/components/schemas/")?,
            )?;
            target["properties"]
                .is_object()
                .then(|| mergeable(target, schemas))
        };
        let inner =
            known(property).or_else(|| property["oneOf"].as_array()?.iter().find_map(known));
        if let Some(inner) = inner {
            *property = inner;
        } else if property["additionalProperties"].is_object() {
            property["additionalProperties"] = nullable(&property["additionalProperties"]);
        }
        *property = nullable(property);
    }
    merged
}

fn nullable(schema: &Value) -> Value {
    let nothing = json!({"type": "null"});
    let is_null = |of: &Value| {
        of.as_array()
            .is_some_and(|all| all.contains(&json!("null")) || all.contains(&nothing))
    };
    if is_null(&schema["type"]) || is_null(&schema["oneOf"]) || is_null(&schema["anyOf"]) {
        return schema.clone();
    }
    json!({"anyOf": [schema, nothing]})
}

/// Returns the schema of a JSON patch.
fn json_patch() -> Value {
    let pointer = |description: &str| json!({"type": "string", "description": description, "pattern": "^(/.*)?$"});
    let operation = |names: &[&str], fields: &[&str]| {
        let mut properties = json!({
            "op": {"type": "string", "enum": names},
            "path": pointer("JSON pointer (RFC 6901)."),
        });
        for field in fields {
            properties[*field] = match *field {
                "from" => pointer("JSON pointer to the source of the value (RFC 6901)."),
                _ => json!({
                    "description": "The value; for `test` the expected value: with another one \
                                    the patch is answered 409 `conflict`.",
                }),
            };
        }
        let required: Vec<&str> = ["op", "path"].iter().chain(fields).copied().collect();
        json!({"type": "object", "required": required, "properties": properties})
    };
    json!({
        "type": "array",
        "description": "Operations that are applied in order, all or none (RFC 6902).",
        "maxItems": 1000,
        "items": {"oneOf": [
            operation(&["add", "replace", "test"], &["value"]),
            operation(&["remove"], &[]),
            operation(&["move", "copy"], &["from"]),
        ]},
    })
}
