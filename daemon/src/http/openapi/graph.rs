//! The network as a graph.

use netnsd_api::{Code, Graph};
use utoipa::openapi::{Object, path::OperationBuilder, schema::Type};

use super::components::{Components, json_response, or_as};
use crate::http::graph::{GRAPHVIZ, MERMAID};

pub(in crate::http) fn graph(api: &mut Components) -> OperationBuilder {
    let schema = api.schema::<Graph>();
    let text = Object::with_type(Type::String);
    let response = json_response(
        "the graph; as a document on `Accept: text/vnd.mermaid` or `Accept: text/vnd.graphviz`",
        schema,
    );
    let response = or_as(response, MERMAID, text.clone().into());
    api.operation(
        "graph",
        "Show everything recorded, and everything in the kernel, as a graph",
        "topology",
        &[Code::KernelUnavailable],
    )
    .response("200", or_as(response, GRAPHVIZ, text.into()))
}
