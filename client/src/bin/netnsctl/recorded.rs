//! Changes of what is recorded that lose nothing of other people's: a JSON patch with `If-Match`,
//! computed again if somebody else was faster.

use netnsd_api::Resource;
use serde_json::{Value, json};

use crate::{
    api::with_query,
    cli::Context,
    entries::Edit,
    error::CliError,
    resource::{ResourcePath, print_written},
};

/// Attempts to write before giving up, each after somebody else changed the resource.
pub const MAX_ATTEMPTS: usize = 20;

/// A part of the recorded network, at one generation.
#[derive(Debug)]
pub struct Recorded {
    /// The path that takes its patches.
    pub target: ResourcePath,
    /// The generation of its resource.
    pub generation: u64,
    /// Its fields: of a namespace, a bridge, or an end of a pair.
    pub fields: Value,
}

impl Recorded {
    /// Returns a resource, as it was read.
    pub fn new(target: ResourcePath, fields: Value) -> Self {
        Self {
            target,
            generation: generation(&fields),
            fields,
        }
    }

    /// Returns an end of a pair.
    pub fn end(pair: &Value, pair_path: ResourcePath, index: usize) -> Self {
        Self {
            target: pair_path.child(&format!("endpoints/{index}")),
            generation: generation(pair),
            fields: pair["endpoints"][index].clone(),
        }
    }

    /// Reads a resource.
    pub async fn read<R: Resource>(context: &Context, name: &str) -> Result<Self, CliError> {
        let target = ResourcePath::resource::<R>(name);
        let body = context.api.get(&target.to_string()).await?;
        Ok(Self::new(target, serde_json::from_slice(&body)?))
    }
}

fn generation(resource: &Value) -> u64 {
    resource["generation"].as_u64().unwrap_or_default()
}

/// Returns the operation that sets a field, unless it has that value.
pub fn set_field(fields: &Value, field: &str, value: &Value) -> Option<Value> {
    (fields[field] != *value)
        .then(|| json!({"op": "add", "path": format!("/{field}"), "value": value}))
}

/// Returns the operations that have the effect of a merge patch (RFC 7396) at a path.
pub fn merge_operations(path: &str, fields: &Value, merge: &Value) -> Vec<Value> {
    let mut operations = Vec::new();
    for (field, value) in merge.as_object().into_iter().flatten() {
        let path = format!("{path}/{}", field.replace('~', "~0").replace('/', "~1"));
        match (value, fields.get(field)) {
            (Value::Null, None) => {}
            (Value::Null, Some(_)) => operations.push(json!({"op": "remove", "path": path})),
            (Value::Object(_), Some(old @ Value::Object(_))) => {
                operations.extend(merge_operations(&path, old, value));
            }
            (new, old) if old == Some(new) => {}
            (new, _) => operations.push(json!({"op": "add", "path": path, "value": new})),
        }
    }
    operations
}

/// Returns the operations that apply edits to lists, one after the other.
pub fn edit_operations(fields: &Value, edits: &[Edit]) -> Result<Vec<Value>, CliError> {
    let mut edited = fields.clone();
    let mut names: Vec<&str> = edits.iter().map(Edit::field).collect();
    names.dedup();
    for edit in edits {
        if edited[edit.field()].is_null() {
            edited[edit.field()] = json!([]);
        }
        if let Value::Array(list) = &mut edited[edit.field()] {
            edit.apply(list)?;
        }
    }
    let operations = names
        .into_iter()
        .filter_map(|field| set_field(fields, field, &edited[field]));
    Ok(operations.collect())
}

/// Reads what is recorded, and patches it with the operations that `change` computes from it; reads
/// it again if somebody else changed it in between.
pub async fn patch_recorded(
    context: &Context,
    find: impl AsyncFn() -> Result<Recorded, CliError>,
    change: impl AsyncFn(&Recorded) -> Result<Vec<Value>, CliError>,
) -> Result<(), CliError> {
    for _ in 0..MAX_ATTEMPTS {
        let recorded = find().await?;
        let operations = change(&recorded).await?;
        if operations.is_empty() {
            return Ok(()); // It is so already.
        }
        let query: Vec<(&str, &str)> = context.write_params().collect();
        let path = with_query(&recorded.target.to_string(), &query);
        let patched = context
            .api
            .patch_if_match(&path, &operations.into(), recorded.generation)
            .await?;
        if let Some(answer) = patched {
            return print_written(context, &recorded.target, &answer, false);
        }
    }
    Err(changed_too_often("the resource"))
}

/// Returns the error after [`MAX_ATTEMPTS`].
pub fn changed_too_often(subject: &str) -> CliError {
    CliError::Refused(format!(
        "others changed {subject} {MAX_ATTEMPTS} times meanwhile; try again"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merge_becomes_operations() {
        let fields = json!({"mtu": 1500, "labels": {"a/b": "1", "c": "2"}, "mac": null});
        let merge = json!({"mtu": 1400, "labels": {"a/b": null, "c": "2", "d": "3"}, "dns": null});
        assert_eq!(
            Value::from(merge_operations("", &fields, &merge)),
            json!([
                {"op": "remove", "path": "/labels/a~1b"},
                {"op": "add", "path": "/labels/d", "value": "3"},
                {"op": "add", "path": "/mtu", "value": 1400},
            ])
        );
    }

    #[test]
    fn edits_are_applied_in_order() {
        use crate::entries::Verb;

        let fields = json!({"addresses": ["10.0.0.1/24"]});
        let edit = |verb, text: &str| {
            Edit::Address(verb, text.parse::<netnsd_api::Cidr>().unwrap().into())
        };
        let edits = [
            edit(Verb::Delete, "10.0.0.1/24"),
            edit(Verb::Add, "10.0.0.2/24"),
        ];
        assert_eq!(
            Value::from(edit_operations(&fields, &edits).unwrap()),
            json!([{"op": "add", "path": "/addresses", "value": ["10.0.0.2/24"]}])
        );
        edit_operations(&fields, &[edit(Verb::Delete, "10.0.0.9/24")]).unwrap_err();
    }
}
