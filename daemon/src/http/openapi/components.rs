//! Parts that the descriptions of operations are made of: schemas, parameters, bodies, responses.

use std::collections::BTreeMap;

use netnsd_api::{Code, EventType, Name, Problem, Resource, Stored};
use serde_json::{Map, Value, json};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        Content, HeaderBuilder, Object, Ref, RefOr, Required, Response, ResponseBuilder, Schema,
        path::{OperationBuilder, Parameter, ParameterBuilder, ParameterIn},
        request_body::{RequestBody, RequestBodyBuilder},
        schema::{AnyOfBuilder, Type},
    },
};

use super::{
    shapes::{self, Shapes},
    to_value,
};

pub(super) const JSON: &str = "application/json";

/// Codes with which any request may be refused.
const ALWAYS: [Code; 5] = [
    Code::InvalidQuery,
    Code::Internal,
    Code::Unauthenticated,
    Code::Forbidden,
    Code::TooManyRequests,
];
/// Codes of requests with a body.
pub(super) const BODY: [Code; 5] = [
    Code::MalformedJson,
    Code::UnsupportedMediaType,
    Code::BodyTooLarge,
    Code::InvalidField,
    Code::UnknownField,
];
/// Codes of writes.
pub(super) const WRITE: [Code; 6] = [
    Code::PreconditionFailed,
    Code::Conflict,
    Code::KernelRejected,
    Code::StoreUnavailable,
    Code::KernelUnavailable,
    Code::Overloaded,
];

/// Collects the schemas to which the descriptions of operations refer.
#[derive(Default)]
pub(in crate::http) struct Components {
    schemas: BTreeMap<String, RefOr<Schema>>,
    kinds: Vec<Shapes>,
}

impl Components {
    /// Adds a type's schema, with those that it refers to, and returns a reference to it.
    pub(super) fn schema<T: ToSchema>(&mut self) -> RefOr<Schema> {
        let mut all = Vec::new();
        T::schemas(&mut all);
        all.push((T::name().into_owned(), T::schema()));
        self.schemas.extend(all);
        reference(&T::name())
    }

    /// Returns the schema of a generic type, which is written out where it is used, and adds those
    /// that it refers to.
    pub(super) fn inline<T: ToSchema + PartialSchema>(&mut self) -> RefOr<Schema> {
        let mut all = Vec::new();
        T::schemas(&mut all);
        self.schemas.extend(all);
        T::schema()
    }

    /// Adds a resource kind's schemas: its configuration and the variants of it for each verb.
    pub(super) fn resource<R: Resource>(&mut self) {
        self.schema::<R>();
        self.schema::<R::Observed>();
        let mut all = Vec::new();
        Stored::<R>::schemas(&mut all);
        all.retain(|(name, _)| *name != <R as ToSchema>::name());
        self.schemas.extend(all);
        self.kinds.push(Shapes::of::<R>());
    }

    /// Begins an operation that may be refused with `codes`, besides those of any request.
    pub(super) fn operation(
        &mut self,
        id: &str,
        summary: &str,
        tag: &str,
        codes: &[Code],
    ) -> OperationBuilder {
        let mut by_status: BTreeMap<u16, Vec<String>> = BTreeMap::new();
        for code in ALWAYS.iter().chain(codes) {
            let name = to_value(code);
            let name = name.as_str().map(|name| format!("`{name}`"));
            by_status.entry(code.status()).or_default().extend(name);
        }

        let problem = self.schema::<Problem>();
        let mut operation = OperationBuilder::new()
            .operation_id(Some(id))
            .summary(Some(summary))
            .tag(tag);
        for (status, codes) in by_status {
            let response = problem_response(&codes.join(", "), problem.clone());
            operation = operation.response(status.to_string(), response);
        }
        operation
    }

    /// Returns all schemas by name, with those derived from the schemas of the kinds.
    pub(super) fn into_schemas(mut self) -> Map<String, Value> {
        self.schema::<Name>();
        self.schema::<EventType>();
        let mut schemas: Map<String, Value> = self
            .schemas
            .iter()
            .map(|(name, schema)| (name.clone(), to_value(schema)))
            .collect();
        shapes::add(&mut schemas, &self.kinds);
        schemas
    }
}

/// Returns a reference to a schema by its name.
pub(super) fn reference(name: &str) -> RefOr<Schema> {
    Ref::from_schema_name(name).into()
}

pub(super) fn any_of(schemas: &[&RefOr<Schema>]) -> RefOr<Schema> {
    let all = schemas.iter().fold(AnyOfBuilder::new(), |all, schema| {
        all.item((*schema).clone())
    });
    Schema::from(all.build()).into()
}

/// Returns the schema of an object of any fields.
pub(super) fn any_object(description: &str) -> RefOr<Schema> {
    let mut object = Object::with_type(Type::Object);
    object.description = Some(description.into());
    object.into()
}

fn parameter(
    name: &str,
    location: ParameterIn,
    description: &str,
    schema: RefOr<Schema>,
    required: Required,
) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(location)
        .description(Some(description))
        .schema(Some(schema))
        .required(required)
        .build()
}

pub(super) fn query(name: &str, description: &str, kind: Type) -> Parameter {
    query_schema(name, description, Object::with_type(kind).into())
}

pub(super) fn query_schema(name: &str, description: &str, schema: RefOr<Schema>) -> Parameter {
    parameter(
        name,
        ParameterIn::Query,
        description,
        schema,
        Required::False,
    )
}

pub(super) fn header(name: &str, description: &str, kind: Type) -> Parameter {
    let schema = Object::with_type(kind).into();
    parameter(
        name,
        ParameterIn::Header,
        description,
        schema,
        Required::False,
    )
}

/// Returns the parameter of a precondition: `If-Match` or `If-None-Match`.
pub(super) fn precondition(name: &str) -> Parameter {
    let description = "ETags, or *: only if the tag is (not) one of these";
    header(name, description, Type::String)
}

pub(super) fn path_parameter(name: &str, description: &str, schema: RefOr<Schema>) -> Parameter {
    parameter(name, ParameterIn::Path, description, schema, Required::True)
}

/// Returns the path parameter of a resource's name.
pub(super) fn name() -> Parameter {
    path_parameter("name", "name of the resource", reference("Name"))
}

pub(super) fn dry_run_parameter() -> Parameter {
    query(
        "dry_run",
        "change nothing; return the planned operations",
        Type::Boolean,
    )
}

pub(super) fn adopt() -> Parameter {
    let description =
        "take over, in place, what others made of the same kind at the same places; for admins";
    query("adopt", description, Type::Boolean)
}

pub(super) fn wait() -> Parameter {
    query(
        "wait",
        "false: answer 202 once the change is durable, before it is applied; default true",
        Type::Boolean,
    )
}

pub(super) fn json_response(description: &str, schema: RefOr<Schema>) -> Response {
    response(description, JSON, schema)
}

pub(super) fn problem_response(description: &str, schema: RefOr<Schema>) -> Response {
    response(description, "application/problem+json", schema)
}

pub(super) fn response(description: &str, media_type: &str, schema: RefOr<Schema>) -> Response {
    ResponseBuilder::new()
        .description(description)
        .content(media_type, Content::new(Some(schema)))
        .build()
}

/// Adds a media type to a response.
pub(super) fn or_as(mut response: Response, media_type: &str, schema: RefOr<Schema>) -> Response {
    let content = Content::new(Some(schema));
    response.content.insert(media_type.into(), content.into());
    response
}

/// Adds the header with the time that a write took.
pub(super) fn with_timing(response: Response) -> Response {
    with_header(
        response,
        "Server-Timing",
        "store;dur=…, kernel;dur=… in milliseconds",
    )
}

pub(super) fn with_header(mut response: Response, name: &str, description: &str) -> Response {
    let header = HeaderBuilder::new()
        .description(Some(description))
        .schema(Some(Object::with_type(Type::String)))
        .build();
    response.headers.insert(name.to_owned(), header.into());
    response
}

pub(super) fn with_etag(response: Response) -> Response {
    with_header(response, "ETag", "the generation, in quotes")
}

/// Returns a required JSON body.
pub(super) fn body(schema: &RefOr<Schema>, example: &Value) -> RequestBody {
    let body = RequestBodyBuilder::new().required(Some(Required::True));
    body.content(JSON, with_example(schema, example)).build()
}

/// Makes a body optional: a request without one is the same as one with `{}`.
pub(super) fn optional(mut body: RequestBody) -> RequestBody {
    body.required = Some(Required::False);
    body
}

/// Returns the body of a PATCH: fields to merge, with their example, or operations, with a `test`
/// of the value at the JSON pointer `tested` as theirs.
pub(super) fn patch_body(
    merge: &RefOr<Schema>,
    example: &Value,
    tested: &str,
    value: &Value,
) -> RequestBody {
    let operations = json!([{"op": "test", "path": tested, "value": value}]);
    let body = RequestBodyBuilder::new()
        .content(JSON, with_example(merge, example))
        .content("application/merge-patch+json", with_example(merge, example))
        .content(
            "application/json-patch+json",
            with_example(&reference("JsonPatch"), &operations),
        );
    optional(body.build())
}

pub(super) fn with_example(schema: &RefOr<Schema>, example: &Value) -> Content {
    let mut content = Content::new(Some(schema.clone()));
    content.example = Some(example.clone());
    content
}
