//! Request bodies: JSON objects, documents and patches. Errors have the JSON pointer of the
//! mistake.

use std::time::Duration;

use axum::{
    body::{Bytes, HttpBody},
    extract::{
        FromRequest, Request,
        rejection::{BytesRejection, FailedToBufferBody},
    },
    http::{HeaderMap, header},
};
use json_patch::{PatchErrorKind, PatchOperation};
use netnsd_api::{Code, FieldError, READ_ONLY, read_json, read_yaml};
use serde_json::{Map, Value};

use super::{BODY_LIMIT, problem::Failure, resource::internal};

const JSON: &str = "application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";
/// Media types of YAML: that of RFC 9512, and older names.
pub(super) const YAML: [&str; 3] = ["application/yaml", "application/x-yaml", "text/yaml"];

/// Time in which a body of up to 1 MiB must be received.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Time in addition for each MiB of the largest body that the route accepts.
const TIMEOUT_PER_MIB: Duration = Duration::from_secs(1);
/// Operations in one JSON patch: other writes wait while they are applied.
const MAX_OPERATIONS: usize = 1000;
/// Segments in a path of a JSON patch: a very deep value overflows the stack when it is dropped.
const MAX_PATH_SEGMENTS: usize = 64;
/// Values that `copy` and `move` operations of one patch may copy: each operation could double the
/// size or the depth of the resource.
const MAX_COPIED: usize = 10_000;

/// Reads a JSON object.
pub(super) async fn object(request: Request) -> Result<Map<String, Value>, Failure> {
    match content_type(&request, &[JSON])? {
        None => Ok(Map::new()),
        Some(_) => expect_object(json(&read(request, BODY_LIMIT).await?)?),
    }
}

/// Reads a document of at most `limit` bytes, JSON or YAML, and converts it with `make`. As it may
/// be large, it is parsed on a blocking thread, not on one that serves other requests.
pub(super) async fn document<T: Send + 'static>(
    request: Request,
    limit: usize,
    make: fn(Map<String, Value>) -> Result<T, FieldError>,
) -> Result<T, Failure> {
    let Some(kind) = content_type(&request, &[JSON, YAML[0], YAML[1], YAML[2]])? else {
        return Ok(make(Map::new())?);
    };
    let bytes = read(request, limit).await?;
    let parse = move || {
        let value = if kind == JSON {
            json(&bytes)
        } else {
            yaml(&bytes)
        };
        Ok(make(expect_object(value?)?)?)
    };
    tokio::task::spawn_blocking(parse).await.map_err(internal)?
}

fn json(bytes: &[u8]) -> Result<Value, Failure> {
    read_json(bytes).map_err(|error| {
        Failure::new(
            Code::MalformedJson,
            format!("the body is not JSON: {error}"),
        )
    })
}

fn yaml(bytes: &[u8]) -> Result<Value, Failure> {
    let wrong = |error: String| {
        Failure::new(
            Code::MalformedJson,
            format!("the body is not YAML: {error}"),
        )
    };
    read_yaml(std::str::from_utf8(bytes).map_err(|error| wrong(error.to_string()))?).map_err(wrong)
}

async fn read(request: Request, limit: usize) -> Result<Bytes, Failure> {
    let too_large = || {
        Failure::new(
            Code::BodyTooLarge,
            format!("the body is larger than {limit} bytes"),
        )
    };
    // Before anything is read: a client that sent `Expect: 100-continue` need not send the body.
    let length = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > limit as u64) {
        return Err(too_large());
    }
    let within = BODY_TIMEOUT + TIMEOUT_PER_MIB * (limit >> 20) as u32;
    let read = tokio::time::timeout(within, Bytes::from_request(request, &()))
        .await
        .map_err(|_| {
            let detail = format!(
                "the body did not come within {} s: send it faster, or less of it",
                within.as_secs()
            );
            Failure::new(Code::MalformedJson, detail)
        })?;
    read.map_err(|rejection| match rejection {
        BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) => too_large(),
        _ => Failure::new(
            Code::MalformedJson,
            "the body cannot be read to its end: the connection ended before it",
        ),
    })
}

fn expect_object(value: Value) -> Result<Map<String, Value>, Failure> {
    match value {
        Value::Object(map) => Ok(map),
        _ => Err(FieldError::new(Code::InvalidField, "", "the body must be an object").into()),
    }
}

/// Returns the content type, which must be one of these; `None` for a request without a body, which
/// is the same as `{}`.
fn content_type(
    request: &Request,
    accepted: &[&'static str],
) -> Result<Option<&'static str>, Failure> {
    let headers = request.headers();
    check_encoding(headers)?;
    let Some(given) = headers.get(header::CONTENT_TYPE) else {
        return if request.body().is_end_stream() {
            Ok(None)
        } else {
            Err(unsupported("there is no content type", accepted))
        };
    };
    let given = String::from_utf8_lossy(given.as_bytes());
    let essence = given
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let found = accepted.iter().find(|kind| **kind == essence);
    let wrong = || unsupported(&format!("the content type is {given:?}"), accepted);
    found.copied().map(Some).ok_or_else(wrong)
}

fn unsupported(what: &str, accepted: &[&str]) -> Failure {
    let (kinds, first) = (
        accepted.join(" or "),
        accepted.first().copied().unwrap_or_default(),
    );
    // curl has a short form for JSON since 7.82.
    let short = if first == JSON { ", or --json" } else { "" };
    let detail = format!("{what}: send {kinds} (with curl: -H 'Content-Type: {first}'{short})");
    Failure::new(Code::UnsupportedMediaType, detail)
}

/// Refuses compressed bodies.
fn check_encoding(headers: &HeaderMap) -> Result<(), Failure> {
    let values = headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()));
    match values
        .into_iter()
        .find(|value| !value.trim().eq_ignore_ascii_case("identity"))
    {
        Some(other) => {
            let detail =
                format!("Content-Encoding is {other:?}: send the body as it is, not compressed");
            Err(Failure::new(Code::UnsupportedMediaType, detail))
        }
        None => Ok(()),
    }
}

/// Body of a PATCH: a change of a resource.
#[derive(Debug)]
pub(super) enum Patch {
    /// Fields to merge (RFC 7396).
    Merge(Value),
    /// Operations to apply in order (RFC 6902).
    Operations(Vec<PatchOperation>),
}

impl Patch {
    /// Reads a patch of the kind that its content type names.
    pub async fn read(request: Request) -> Result<Self, Failure> {
        match content_type(&request, &[MERGE_PATCH, JSON, JSON_PATCH])? {
            None => Ok(Self::Merge(Value::Object(Map::new()))),
            Some(JSON_PATCH) => Ok(Self::Operations(operations(json(
                &read(request, BODY_LIMIT).await?,
            )?)?)),
            Some(_) => Ok(Self::Merge(Value::Object(expect_object(json(
                &read(request, BODY_LIMIT).await?,
            )?)?))),
        }
    }

    /// Applies the patch to a resource; returns the result without its read-only fields.
    pub fn apply(&self, mut target: Value) -> Result<Map<String, Value>, FieldError> {
        match self {
            Self::Merge(patch) => merge(&mut target, patch),
            Self::Operations(operations) => apply_operations(operations, &mut target)?,
        }
        match target {
            Value::Object(map) => Ok(without_read_only(map)),
            _ => Err(FieldError::new(
                Code::InvalidField,
                "",
                "a resource is an object",
            )),
        }
    }
}

/// Reads the operations of a JSON patch.
fn operations(value: Value) -> Result<Vec<PatchOperation>, FieldError> {
    let Value::Array(items) = value else {
        let detail = "a JSON patch is a list of operations, such as [{\"op\": \"replace\", \"path\": \"/mtu\", \"value\": 1400}]";
        return Err(FieldError::new(Code::InvalidField, "", detail));
    };
    if items.len() > MAX_OPERATIONS {
        let detail = format!(
            "a JSON patch has at most {MAX_OPERATIONS} operations, and this one has {}",
            items.len()
        );
        return Err(FieldError::new(Code::InvalidField, "", detail));
    }
    let operation = |(at, item): (usize, Value)| {
        let wrong = |detail| FieldError::at(Code::InvalidField, &[&at.to_string()], detail);
        let read = serde_json::from_value::<PatchOperation>(item);
        let read =
            read.map_err(|error| wrong(format!("operation {at} is none of RFC 6902: {error}")))?;
        match read.path().count() {
            0..=MAX_PATH_SEGMENTS => Ok(read),
            steps => Err(wrong(format!(
                "operation {at}: its path has {steps} steps, and {MAX_PATH_SEGMENTS} are the most"
            ))),
        }
    };
    items.into_iter().enumerate().map(operation).collect()
}

/// Applies the operations of a JSON patch.
fn apply_operations(operations: &[PatchOperation], target: &mut Value) -> Result<(), FieldError> {
    let mut copied = 0;
    for (at, operation) in operations.iter().enumerate() {
        copied += from(operation)
            .and_then(|from| target.pointer(from))
            .map_or(0, count);
        if copied > MAX_COPIED {
            let detail = format!(
                "operation {at} copies too much: {MAX_COPIED} values are the most of one patch"
            );
            return Err(FieldError::at(
                Code::InvalidField,
                &[&at.to_string()],
                detail,
            ));
        }
        json_patch::patch_unsafe(target, std::slice::from_ref(operation))
            .map_err(|error| operation_error(at, operation, &error.kind, target))?;
    }
    Ok(())
}

/// Returns the JSON pointer of the value that an operation moves or copies.
fn from(operation: &PatchOperation) -> Option<&str> {
    match operation {
        PatchOperation::Move(operation) => Some(operation.from.as_str()),
        PatchOperation::Copy(operation) => Some(operation.from.as_str()),
        PatchOperation::Add(_)
        | PatchOperation::Remove(_)
        | PatchOperation::Replace(_)
        | PatchOperation::Test(_) => None,
    }
}

/// Counts a value and those in it.
fn count(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(count).sum::<usize>(),
        Value::Object(map) => 1 + map.values().map(count).sum::<usize>(),
        _ => 1,
    }
}

/// Returns the error of an operation that cannot be applied.
fn operation_error(
    at: usize,
    operation: &PatchOperation,
    kind: &PatchErrorKind,
    target: &Value,
) -> FieldError {
    let verb = match operation {
        PatchOperation::Add(_) => "add",
        PatchOperation::Remove(_) => "remove",
        PatchOperation::Replace(_) => "replace",
        PatchOperation::Move(_) => "move",
        PatchOperation::Copy(_) => "copy",
        PatchOperation::Test(_) => "test",
    };
    let path = operation.path().as_str();
    let at_field = |field: &str, detail: String| {
        let detail = format!("operation {at} ({verb} {path:?}): {detail}");
        (format!("/{at}/{field}"), detail)
    };
    let (code, (pointer, detail)) = match (kind, operation) {
        (PatchErrorKind::TestFailed, PatchOperation::Test(test)) => {
            let found = target.pointer(path).unwrap_or(&Value::Null);
            (
                Code::Conflict,
                at_field("value", format!("it is {found}, not {}", test.value)),
            )
        }
        (PatchErrorKind::InvalidFromPointer, _) => {
            let from = from(operation).unwrap_or_default();
            (
                Code::InvalidField,
                at_field("from", format!("the resource has no {from:?}")),
            )
        }
        (PatchErrorKind::CannotMoveInsideItself, _) => (
            Code::InvalidField,
            at_field("path", "a value cannot be moved into itself".into()),
        ),
        _ => (
            Code::InvalidField,
            at_field("path", "the resource has no such place".into()),
        ),
    };
    FieldError::new(code, pointer, detail)
}

/// Removes the fields of responses that requests may not set.
pub(super) fn without_read_only(mut map: Map<String, Value>) -> Map<String, Value> {
    for field in READ_ONLY {
        map.remove(field);
    }
    map
}

/// Merges a patch into a value (RFC 7396).
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else {
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merge_patch_follows_rfc_7396() {
        // Some of the examples in RFC 7396, appendix A.
        for (mut target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (
                json!({"a": "b"}),
                json!({"b": "c"}),
                json!({"a": "b", "b": "c"}),
            ),
            (
                json!({"a": "b", "b": "c"}),
                json!({"a": null}),
                json!({"b": "c"}),
            ),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]})),
            (
                json!({}),
                json!({"a": {"bb": {"ccc": null}}}),
                json!({"a": {"bb": {}}}),
            ),
        ] {
            merge(&mut target, &patch);
            assert_eq!(target, result);
        }
    }

    fn patched(operations: Value) -> Result<Value, FieldError> {
        let target = json!({"addresses": ["10.0.0.1/24"], "labels": {"a/b": "1"}, "mtu": 1500});
        let patch = Patch::Operations(super::operations(operations)?);
        patch.apply(target).map(Value::Object)
    }

    #[test]
    fn operations_are_applied_in_order() {
        let operations = json!([
            {"op": "test", "path": "/mtu", "value": 1500},
            {"op": "add", "path": "/addresses/-", "value": "10.0.0.2/24"},
            {"op": "remove", "path": "/addresses/0"},
            {"op": "move", "from": "/labels/a~1b", "path": "/labels/c"},
            {"op": "copy", "from": "/labels/c", "path": "/labels/d"},
            {"op": "replace", "path": "/mtu", "value": null},
            {"op": "add", "path": "/status", "value": "of no account"},
        ]);
        let result =
            json!({"addresses": ["10.0.0.2/24"], "labels": {"c": "1", "d": "1"}, "mtu": null});
        assert_eq!(patched(operations).unwrap(), result);
    }

    #[test]
    fn invalid_operations_are_named() {
        let double = json!({"op": "copy", "from": "/labels", "path": "/labels/x"});
        for (operations, code, pointer, detail) in [
            (
                json!({}),
                Code::InvalidField,
                "",
                "a JSON patch is a list of operations",
            ),
            (
                json!([{"op": "add", "path": "/x", "value": 1}, {"op": "put", "path": "/x"}]),
                Code::InvalidField,
                "/1",
                "operation 1",
            ),
            (
                json!([{"op": "add", "path": "/x"}]),
                Code::InvalidField,
                "/0",
                "operation 0",
            ),
            (
                json!([{"op": "remove", "path": "mtu"}]),
                Code::InvalidField,
                "/0",
                "operation 0",
            ),
            (
                json!([{"op": "remove", "path": "/x"}]),
                Code::InvalidField,
                "/0/path",
                "operation 0 (remove \"/x\"): the resource has no",
            ),
            (
                json!([{"op": "add", "path": "/addresses/7", "value": ""}]),
                Code::InvalidField,
                "/0/path",
                "operation 0 (add",
            ),
            (
                json!([{"op": "copy", "from": "/x", "path": "/y"}]),
                Code::InvalidField,
                "/0/from",
                "operation 0 (copy \"/y\")",
            ),
            (
                json!([{"op": "move", "from": "/labels", "path": "/labels/x"}]),
                Code::InvalidField,
                "/0/path",
                "operation 0 (move",
            ),
            (
                json!([{"op": "remove", "path": "/labels"}, {"op": "test", "path": "/mtu", "value": 1400}]),
                Code::Conflict,
                "/1/value",
                "operation 1 (test \"/mtu\"): it is 1500, not 1400",
            ),
            (
                vec![double; 100].into(),
                Code::InvalidField,
                "/99",
                "operation 99 copies too much",
            ),
            (
                json!([{"op": "remove", "path": "/x".repeat(65)}]),
                Code::InvalidField,
                "/0",
                "operation 0: its path has 65 steps",
            ),
            (
                vec![json!({"op": "remove", "path": "/x"}); 1001].into(),
                Code::InvalidField,
                "",
                "a JSON patch has at most 1000",
            ),
            (
                json!([{"op": "replace", "path": "", "value": []}]),
                Code::InvalidField,
                "",
                "a resource is an object",
            ),
        ] {
            let error = patched(operations).unwrap_err();
            assert_eq!((error.code, &*error.pointer), (code, pointer), "{error}");
            assert!(error.detail.starts_with(detail), "{error}");
        }
    }
}
