//! Parsers of requests, for `crate::fuzz`.

use netnsd_api::{Bridge, Kind, Namespace, Veth, read_json, read_yaml};
use serde_json::Value;

use super::{
    body, exec,
    query::{Label, Query},
    resource::{self, ResourceRoutes, WriteParams},
    topology,
};
use crate::model::Spec;

/// Reads a resource of a body; `None` if it is invalid.
pub(crate) fn body(kind: Kind, value: &Value) -> Option<Spec> {
    let map = body::without_read_only(value.as_object()?.clone());
    match kind {
        Kind::Namespace => resource::read::<Namespace>(map).map(ResourceRoutes::into_spec),
        Kind::Bridge => resource::read::<Bridge>(map).map(ResourceRoutes::into_spec),
        Kind::Veth => resource::read::<Veth>(map).map(ResourceRoutes::into_spec),
    }
    .ok()
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
