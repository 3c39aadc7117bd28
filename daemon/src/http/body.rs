//! Bodies: JSON objects, each mistake told with its place.

use axum::{
    body::Bytes,
    extract::{
        FromRequest, Request,
        rejection::{BytesRejection, FailedToBufferBody},
    },
    http::{HeaderMap, header},
};
use netnsd_api::{Code, FieldError, READ_ONLY};
use serde_json::{Map, Value};

use super::{BODY_LIMIT, problem::Failure};

const JSON: &str = "application/json";
const PATCH: &str = "application/merge-patch+json";
/// What YAML is called: by RFC 9512, and before it.
pub(super) const YAML: [&str; 3] = ["application/yaml", "application/x-yaml", "text/yaml"];

/// Reads a JSON object; a patch may also be called `application/merge-patch+json`.
pub(super) async fn object(request: Request, patch: bool) -> Result<Map<String, Value>, Failure> {
    let accepted: &[&str] = if patch { &[JSON, PATCH] } else { &[JSON] };
    content_type(request.headers(), accepted)?;
    let bytes = read(request, BODY_LIMIT).await?;
    let value = serde_json::from_slice(&bytes)
        .map_err(|error| Failure::new(Code::MalformedJson, format!("the body is not JSON: {error}")))?;
    whole(value)
}

/// Reads a document of at most `limit` bytes, JSON or YAML.
pub(super) async fn document(request: Request, limit: usize) -> Result<Map<String, Value>, Failure> {
    let kind = content_type(request.headers(), &[JSON, YAML[0], YAML[1], YAML[2]])?;
    let bytes = read(request, limit).await?;
    let value = if kind == JSON {
        serde_json::from_slice(&bytes).map_err(|error| format!("the body is not JSON: {error}"))
    } else {
        yaml_serde::from_slice(&bytes).map_err(|error| format!("the body is not YAML: {error}"))
    };
    whole(value.map_err(|detail| Failure::new(Code::MalformedJson, detail))?)
}

async fn read(request: Request, limit: usize) -> Result<Bytes, Failure> {
    Bytes::from_request(request, &()).await.map_err(|rejection| match rejection {
        BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) => {
            Failure::new(Code::BodyTooLarge, format!("the body is larger than {limit} bytes"))
        }
        other => Failure::new(Code::MalformedJson, format!("the body cannot be read: {other}")),
    })
}

fn whole(value: Value) -> Result<Map<String, Value>, Failure> {
    match value {
        Value::Object(map) => Ok(map),
        _ => Err(FieldError::new(Code::InvalidField, "", "the body must be an object").into()),
    }
}

/// The content type, which must be one of these.
fn content_type(headers: &HeaderMap, accepted: &[&'static str]) -> Result<&'static str, Failure> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let found = accepted.iter().find(|kind| **kind == essence);
    found.copied().ok_or_else(|| {
        let detail = format!("the content type is {given:?}: send {}", accepted.join(" or "));
        Failure::new(Code::UnsupportedMediaType, detail)
    })
}

/// Leaves out what answers carry beside what was asked for.
pub(super) fn without_read_only(mut map: Map<String, Value>) -> Map<String, Value> {
    for field in READ_ONLY {
        map.remove(field);
    }
    map
}

/// Merges a patch into a value (RFC 7396).
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
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
    fn a_patch_merges_as_the_rfc_says() {
        // Of the examples in RFC 7396, appendix A.
        for (mut target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            merge(&mut target, &patch);
            assert_eq!(target, result);
        }
    }
}
