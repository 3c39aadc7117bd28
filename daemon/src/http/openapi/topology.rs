//! The whole network as one document.

use netnsd_api::{Code, DryRun, Namespace, Problem, Progress, Topology, TopologyResult};
use serde_json::{Value, json};
use utoipa::openapi::{
    Required, Response, Schema,
    path::{OperationBuilder, Parameter},
    request_body::{RequestBody, RequestBodyBuilder},
    schema::{AnyOfBuilder, Type},
};

use super::components::{
    BODY, Components, JSON, WRITE, adopt, any_of, dry_run_parameter, json_response, or_as,
    precondition, query, wait, with_example, with_header, with_timing,
};
use crate::http::body::YAML;

/// Description of the ETag of a document.
const ETAG: &str = "changes with each write to a resource that the request selects (its scope and \
                    its labels), and stays the same over a restart; of both media types";

pub(in crate::http) fn get(api: &mut Components) -> OperationBuilder {
    let document = api.schema::<Topology>();
    let response = json_response(
        "the document; YAML on `Accept: application/yaml`",
        document.clone(),
    );
    api.operation(
        "get_topology",
        "Export the whole network as a document that can be PUT back",
        "topology",
        &[Code::PreconditionFailed],
    )
    .parameter(label())
    .parameter(precondition("If-Match"))
    .parameter(precondition("If-None-Match"))
    .response(
        "200",
        with_header(or_as(response, YAML[0], document), "ETag", ETAG),
    )
    .response("304", Response::new("unchanged: the ETag matches"))
}

pub(in crate::http) fn put(api: &mut Components) -> OperationBuilder {
    let description = "also delete interfaces that others put into a deleted namespace";
    let operation = begin_write(
        api,
        "put_topology",
        "Make the network equal to a document; delete resources that it does not name",
    )
    .parameter(query("cascade", description, Type::Boolean));
    finish_write(api, operation)
}

pub(in crate::http) fn patch(api: &mut Components) -> OperationBuilder {
    let operation = begin_write(
        api,
        "patch_topology",
        "Create or replace each resource that a document names",
    );
    finish_write(api, operation)
}

fn begin_write(api: &mut Components, id: &str, summary: &str) -> OperationBuilder {
    let codes = [
        &BODY[..],
        &WRITE,
        &[
            Code::UnknownReference,
            Code::Duplicate,
            Code::InUse,
            Code::UnsupportedByKernel,
        ],
    ];
    api.operation(id, summary, "topology", &codes.concat())
}

fn finish_write(api: &mut Components, operation: OperationBuilder) -> OperationBuilder {
    api.schema::<Namespace>();
    let (result, dry_run) = (api.schema::<TopologyResult>(), api.schema::<DryRun>());
    let line = AnyOfBuilder::new()
        .item(api.schema::<Progress>())
        .item(result.clone())
        .item(api.schema::<Problem>())
        .description(Some(
            "one object per line; the last is the result or the problem",
        ));
    let response = json_response(
        "the changes; with `dry_run`: the planned operations",
        any_of(&[&result, &dry_run]),
    );
    let response = or_as(
        response,
        "application/x-ndjson",
        Schema::from(line.build()).into(),
    );
    operation
        .parameter(label())
        .parameter(dry_run_parameter())
        .parameter(wait())
        .parameter(adopt())
        .parameter(precondition("If-Match"))
        .parameter(precondition("If-None-Match"))
        .request_body(Some(document_body(api)))
        .response("200", with_timing(response))
        .response(
            "202",
            with_timing(json_response(
                "with `wait=false`: the change is durable and being applied",
                result,
            )),
        )
}

fn document_body(api: &mut Components) -> RequestBody {
    let (document, example) = (api.schema::<Topology>(), example());
    RequestBodyBuilder::new()
        .required(Some(Required::True))
        .content(JSON, with_example(&document, &example))
        .content(YAML[0], with_example(&document, &example))
        .build()
}

fn example() -> Value {
    json!({
        "namespaces": [{"name": "net0"}],
        "bridges": [{"name": "br0", "addresses": ["10.1.1.254/24"]}],
        "veths": [{"name": "lan0", "endpoints": [
            {"namespace": "net0", "interface": "eth0", "addresses": ["10.1.1.1/24"]},
            {"interface": "port0", "bridge": "br0"},
        ]}],
    })
}

fn label() -> Parameter {
    query(
        "label",
        "only resources with this label: `key=value`, `key`, `key!=value`; repeatable",
        Type::String,
    )
}
