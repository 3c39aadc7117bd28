//! Operations that every resource kind has, and those of a veth pair's endpoints.

use netnsd_api::{Code, DryRun, Endpoint, Kind, State, UnmanagedNamespace};
use serde_json::json;
use utoipa::{
    ToSchema,
    openapi::{
        Object, RefOr, Response, Schema,
        path::{OperationBuilder, Parameter},
        schema::{Array, SchemaType, Type},
    },
};

use super::components::{
    BODY, Components, WRITE, adopt, any_of, body, dry_run_parameter, json_response, name, optional,
    patch_body, path_parameter, precondition, query, query_schema, reference, wait, with_etag,
    with_header, with_timing,
};
use crate::http::resource::ResourceRoutes;

/// Returns a reference to one of a kind's schemas: "", "Put", "Patch" or "Answer".
fn shape<R: ResourceRoutes>(of: &str) -> RefOr<Schema> {
    reference(&format!("{}{of}", <R as ToSchema>::name()))
}

/// Returns the id of an operation on one resource.
fn id<R: ResourceRoutes>(verb: &str) -> String {
    format!("{verb}_{}", R::KIND)
}

pub(in crate::http) fn list<R: ResourceRoutes>(api: &mut Components) -> OperationBuilder {
    api.resource::<R>();
    let item = if R::KIND == Kind::Namespace {
        any_of(&[&shape::<R>("Answer"), &api.schema::<UnmanagedNamespace>()])
    } else {
        shape::<R>("Answer")
    };
    let next = Object::builder()
        .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
        .build();
    let page = Object::builder()
        .property("items", Array::builder().items(item).build())
        .property("next", next)
        .required("items")
        .required("next")
        .build();

    let tag = R::KIND.plural();
    let mut operation = api
        .operation(
            &format!("list_{tag}"),
            &format!("List {tag}, sorted by name"),
            tag,
            &[],
        )
        .parameter(query(
            "limit",
            "maximum number of items, 1 to 10000",
            Type::Integer,
        ))
        .parameter(query(
            "cursor",
            "`next` of the previous page: return the items after it",
            Type::String,
        ))
        .parameter(query(
            "label",
            "key=value, key or key!=value; repeatable",
            Type::String,
        ))
        .parameter(query_schema(
            "state",
            "only resources in this state",
            api.schema::<State>(),
        ))
        .parameter(query(
            "namespace",
            "only resources with at least one part in this namespace",
            Type::String,
        ));
    if R::KIND == Kind::Namespace {
        let description = "also namespaces that netnsd did not create (UnmanagedNamespace)";
        operation = operation.parameter(query("include", description, Type::String));
    }
    operation.response("200", json_response("a page", page.into()))
}

pub(in crate::http) fn create<R: ResourceRoutes>(api: &mut Components) -> OperationBuilder {
    let codes = [
        &BODY[..],
        &WRITE,
        &[
            Code::AlreadyExists,
            Code::UnknownReference,
            Code::Duplicate,
            Code::UnsupportedByKernel,
        ],
    ]
    .concat();
    let operation = api.operation(
        &id::<R>("create"),
        &format!("Create a {}, which must not exist", R::KIND),
        R::KIND.plural(),
        &codes,
    );
    // netnsd chooses the name of a pair that is sent without one.
    let new = shape::<R>(if R::KIND == Kind::Veth { "Put" } else { "" });
    let mut example = R::example();
    example["name"] = json!("net0");
    write(api, operation, &shape::<R>("Answer"), Outcome::Created)
        .request_body(Some(body(&new, &example)))
}

pub(in crate::http) fn get<R: ResourceRoutes>(api: &mut Components) -> OperationBuilder {
    api.operation(
        &id::<R>("get"),
        &format!("Show a {} and its status", R::KIND),
        R::KIND.plural(),
        &[Code::NotFound, Code::PreconditionFailed],
    )
    .parameter(name())
    .parameter(precondition("If-Match"))
    .parameter(precondition("If-None-Match"))
    .response(
        "200",
        with_etag(json_response("the resource", shape::<R>("Answer"))),
    )
    .response("304", Response::new("unchanged: the ETag matches"))
}

pub(in crate::http) fn put<R: ResourceRoutes>(api: &mut Components) -> OperationBuilder {
    let codes = [
        &BODY[..],
        &WRITE,
        &[
            Code::UnknownReference,
            Code::Duplicate,
            Code::UnsupportedByKernel,
        ],
    ]
    .concat();
    let operation = api
        .operation(
            &id::<R>("put"),
            &format!("Create or replace a {}", R::KIND),
            R::KIND.plural(),
            &codes,
        )
        .parameter(name())
        .parameter(adopt());
    write(api, operation, &shape::<R>("Answer"), Outcome::Either)
        .request_body(Some(optional(body(&shape::<R>("Put"), &R::example()))))
}

pub(in crate::http) fn patch<R: ResourceRoutes>(api: &mut Components) -> OperationBuilder {
    let codes = [
        &BODY[..],
        &WRITE,
        &[
            Code::UnknownReference,
            Code::Duplicate,
            Code::UnsupportedByKernel,
            Code::NotFound,
        ],
    ]
    .concat();
    let operation = api
        .operation(
            &id::<R>("patch"),
            &format!("Change fields of a {}", R::KIND),
            R::KIND.plural(),
            &codes,
        )
        .parameter(name());
    let merged = json!({"labels": {"team": null}});
    write(api, operation, &shape::<R>("Answer"), Outcome::Changed).request_body(Some(patch_body(
        &shape::<R>("Patch"),
        &merged,
        "/labels",
        &json!({}),
    )))
}

pub(in crate::http) fn delete<R: ResourceRoutes>(api: &mut Components) -> OperationBuilder {
    let codes = [&WRITE[..], &[Code::NotFound, Code::InUse]].concat();
    let dry_run = api.schema::<DryRun>();
    api.operation(
        &id::<R>("delete"),
        &format!("Delete a {}", R::KIND),
        R::KIND.plural(),
        &codes,
    )
    .parameter(name())
    .parameter(query(
        "cascade",
        "also delete dependents, and foreign interfaces in a namespace; a bridge releases its ports",
        Type::Boolean,
    ))
    .parameter(dry_run_parameter())
    .parameter(wait())
    .parameter(precondition("If-Match"))
    .parameter(precondition("If-None-Match"))
    .response(
        "200",
        json_response("with `dry_run`: the planned operations", dry_run),
    )
    .response(
        "202",
        Response::new("with `wait=false`: the change is durable and being applied"),
    )
    .response("204", Response::new("deleted"))
}

pub(in crate::http) fn get_endpoint(api: &mut Components) -> OperationBuilder {
    api.schema::<Endpoint>();
    api.operation(
        "get_endpoint",
        "Show one endpoint of a veth pair",
        "veths",
        &[Code::NotFound],
    )
    .parameter(name())
    .parameter(end())
    .response(
        "200",
        with_etag(json_response(
            "the endpoint and its `status`",
            reference("EndpointAnswer"),
        )),
    )
}

pub(in crate::http) fn patch_endpoint(api: &mut Components) -> OperationBuilder {
    let codes = [
        &BODY[..],
        &WRITE,
        &[Code::NotFound, Code::UnknownReference, Code::Duplicate],
    ]
    .concat();
    let operation = api
        .operation(
            "patch_endpoint",
            "Change or move one endpoint of a veth pair",
            "veths",
            &codes,
        )
        .parameter(name())
        .parameter(end())
        .request_body(Some(patch_body(
            &reference("EndpointPatch"),
            &json!({"namespace": "net0"}),
            "/addresses",
            &json!([]),
        )));
    write(
        api,
        operation,
        &reference("EndpointAnswer"),
        Outcome::Changed,
    )
}

fn end() -> Parameter {
    path_parameter(
        "end",
        "index of the endpoint",
        Object::with_type(Type::String).into(),
    )
}

/// Effect of a successful write on its resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Created,
    Changed,
    Either,
}

/// Adds the parameters and responses of a write that answers with the resource.
fn write(
    api: &mut Components,
    operation: OperationBuilder,
    resource: &RefOr<Schema>,
    outcome: Outcome,
) -> OperationBuilder {
    let dry_run = api.schema::<DryRun>();
    let operation = operation
        .parameter(dry_run_parameter())
        .parameter(wait())
        .parameter(precondition("If-Match"))
        .parameter(precondition("If-None-Match"))
        .response(
            "202",
            with_timing(with_etag(json_response(
                "with `wait=false`: the change is durable and being applied",
                resource.clone(),
            ))),
        );
    let ok = match outcome {
        Outcome::Created => json_response("with `dry_run`: the planned operations", dry_run),
        Outcome::Changed | Outcome::Either => with_etag(json_response(
            "the changed resource; with `dry_run`: the planned operations",
            any_of(&[resource, &dry_run]),
        )),
    };
    let operation = operation.response("200", with_timing(ok));
    if outcome == Outcome::Changed {
        return operation;
    }
    let created = with_header(
        json_response("created", resource.clone()),
        "Location",
        "path of the resource",
    );
    operation.response("201", with_timing(with_etag(created)))
}
