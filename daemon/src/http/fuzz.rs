//! Parsers of requests, for `crate::fuzz`.

use netnsd_api::{Kind, read_json, read_yaml};
use serde_json::Value;

use super::{
    body, exec,
    query::{Label, Query},
    resource::{self, WriteParams},
    topology,
};
use crate::model::Spec;

/// Reads a resource of a body; `None` if it is invalid.
pub(crate) fn body(kind: Kind, value: &Value) -> Option<Spec> {
    let map = body::without_read_only(value.as_object()?.clone());
    resource::read_spec(kind, map).ok()
}

pub(crate) fn query(text: &str) {
    drop(WriteParams::read(Some(text)));
    drop(Label::read(text));
    drop(exec::read(Some(text)));
    drop(Query::read(Some(text)).and_then(|mut query| query.limit()));
}

pub(crate) fn frame(data: &[u8]) {
    drop(exec::parse_frame(data));
}

pub(crate) fn document(data: &[u8]) {
    let json = read_json(data).ok();
    let yaml = std::str::from_utf8(data)
        .ok()
        .and_then(|text| read_yaml(text).ok());
    for value in json.into_iter().chain(yaml) {
        if let Value::Object(map) = value {
            drop(topology::read(map));
        }
    }
}
