//! The daemon itself: health, readiness, metrics, this document.

use netnsd_api::{About, Code, Health, Index, NotInSync, Ready, Reconciled};
use utoipa::openapi::{
    KnownFormat, Object, ObjectBuilder, SchemaFormat, path::OperationBuilder, schema::Type,
};

use super::components::{Components, any_object, json_response, query, response};
use crate::http::{about::LINK_COUNTERS, backup::SQLITE};

pub(in crate::http) fn index(api: &mut Components) -> OperationBuilder {
    let schema = api.schema::<Index>();
    api.operation("index", "List the main paths", "daemon", &[])
        .response("200", json_response("paths by topic", schema))
}

pub(in crate::http) fn about(api: &mut Components) -> OperationBuilder {
    let schema = api.schema::<About>();
    api.operation("about", "Show information about the daemon", "daemon", &[])
        .response("200", json_response("the information", schema))
}

pub(in crate::http) fn health(api: &mut Components) -> OperationBuilder {
    let schema = api.schema::<Health>();
    api.operation("health", "Check that the daemon runs", "daemon", &[])
        .response("200", json_response("it runs", schema))
}

pub(in crate::http) fn ready(api: &mut Components) -> OperationBuilder {
    let schema = api.schema::<Ready>();
    api.operation(
        "ready",
        "Check that the initial reconciliation has finished",
        "daemon",
        &[Code::Starting],
    )
    .response("200", json_response("it has finished", schema))
}

pub(in crate::http) fn reconcile(api: &mut Components) -> OperationBuilder {
    let schema = api.schema::<Reconciled>();
    api.schema::<NotInSync>();
    api.operation(
        "reconcile",
        "Compare all resources with the kernel now, and repair differences",
        "daemon",
        &[Code::KernelUnavailable, Code::Overloaded],
    )
    .response(
        "200",
        json_response("repaired resources, and those still not in sync", schema),
    )
}

pub(in crate::http) fn metrics(api: &mut Components) -> OperationBuilder {
    let text = Object::with_type(Type::String).into();
    let links = "also the counters of the links that netnsd made or took over, 8 series for each";
    let codes = [Code::KernelUnavailable];
    api.operation("metrics", "Metrics for Prometheus", "daemon", &codes)
        .parameter(query(LINK_COUNTERS, links, Type::Boolean))
        .response(
            "200",
            response(
                "metrics; in the Prometheus text format with Accept: text/plain",
                "application/openmetrics-text",
                text,
            ),
        )
}

pub(in crate::http) fn backup(api: &mut Components) -> OperationBuilder {
    let bytes = ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)))
        .build();
    let description = "everything that is committed, as a SQLite database for `netnsd restore`";
    api.operation(
        "backup",
        "Copy the whole database, with tokens' hashes and the audit log",
        "daemon",
        &[Code::StoreUnavailable],
    )
    .response("200", response(description, SQLITE, bytes.into()))
}

pub(in crate::http) fn openapi_yaml(api: &mut Components) -> OperationBuilder {
    document(api, "openapi_yaml", "application/yaml")
}

pub(in crate::http) fn openapi_json(api: &mut Components) -> OperationBuilder {
    document(api, "openapi_json", "application/json")
}

fn document(api: &mut Components, id: &str, media_type: &str) -> OperationBuilder {
    let schema = any_object("this OpenAPI document");
    api.operation(id, "This OpenAPI document", "daemon", &[])
        .response("200", response("this OpenAPI document", media_type, schema))
}
