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

/// Reads a JSON object; a patch may also be called `application/merge-patch+json`.
pub(super) async fn object(request: Request, patch: bool) -> Result<Map<String, Value>, Failure> {
    check_type(request.headers(), patch)?;
    let bytes = Bytes::from_request(request, &()).await.map_err(|rejection| match rejection {
        BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) => {
            Failure::new(Code::BodyTooLarge, format!("the body is larger than {BODY_LIMIT} bytes"))
        }
        other => Failure::new(Code::MalformedJson, format!("the body cannot be read: {other}")),
    })?;
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|error| Failure::new(Code::MalformedJson, format!("the body is not JSON: {error}")))?;
    match value {
        Value::Object(map) => Ok(map),
        _ => Err(FieldError::new(Code::InvalidField, "", "the body must be a JSON object").into()),
    }
}

fn check_type(headers: &HeaderMap, patch: bool) -> Result<(), Failure> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || (patch && essence == "application/merge-patch+json") {
        return Ok(());
    }
    let accepted = if patch { "application/json or application/merge-patch+json" } else { "application/json" };
    Err(Failure::new(Code::UnsupportedMediaType, format!("the content type is {given:?}: send {accepted}")))
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
