//! OpenAPI document: operations from the route table, schemas generated from the types.
//!
//! Each submodule describes the operations of one area; [`routes`](super::routes) names the
//! function that describes a route. A test compares the committed `openapi.yaml` with this.

pub(super) mod access;
mod components;
pub(super) mod daemon;
pub(super) mod events;
pub(super) mod exec;
pub(super) mod graph;
pub(super) mod live;
mod parameters;
pub(super) mod resources;
mod shapes;
pub(super) mod topology;

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::openapi::{RefOr, path::Operation};

pub(super) use self::components::Components;
use super::routes::{self, RouteSpec};

/// An OpenAPI 3.1 document.
#[derive(Debug, Serialize)]
pub struct OpenApi {
    openapi: &'static str,
    info: Value,
    servers: Value,
    tags: Value,
    /// Operations by path and lower-case method.
    pub paths: Map<String, Value>,
    components: Value,
    security: Value,
}

impl OpenApi {
    /// Serializes the document as JSON.
    ///
    /// # Errors
    /// None known.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }

    /// Serializes the document as YAML.
    ///
    /// # Errors
    /// None known.
    pub fn to_yaml(&self) -> Result<String, yaml_serde::Error> {
        yaml_serde::to_string(self)
    }
}

/// Tags of operations with their descriptions.
const TAGS: [(&str, &str); 10] = [
    (
        "namespaces",
        "Network namespaces: their configuration, live state, and commands in them.",
    ),
    ("bridges", "Bridges, their ports and forwarding tables."),
    ("veths", "Veth pairs and their endpoints."),
    ("links", "Links of other types, such as dummy interfaces."),
    ("topology", "The whole network as one document."),
    ("events", "Changes of resources, as a stream or a list."),
    ("host", "Live kernel state of the host itself."),
    ("processes", "The network namespaces of processes."),
    ("daemon", "The daemon itself."),
    ("access", "Bearer tokens and the audit log."),
];

/// Example answers by operation id, recorded from a daemon by `daemon/tests/openapi.rs`.
type Examples = BTreeMap<String, Value>;

/// Returns the description of every route.
pub fn openapi() -> OpenApi {
    // A test fails if an operation has no example, also because this file cannot be read.
    let mut examples: Examples =
        serde_json::from_str(include_str!("openapi/answers.json")).unwrap_or_default();
    let mut components = Components::default();
    let mut paths = Map::new();
    for route in routes::all() {
        let operation = describe(&route, &mut components, &mut examples);
        let operations = paths.entry(route.path).or_insert_with(|| json!({}));
        operations[route.method.as_str().to_lowercase()] = operation;
    }
    let tags = TAGS
        .iter()
        .map(|(name, description)| json!({"name": name, "description": description}));
    OpenApi {
        openapi: "3.1.0",
        info: json!({
            "title": "netnsd",
            "version": "v1",
            "description": "Linux network namespaces, veth pairs, bridges and links. On the Unix socket the caller is known by its \
                user; over TCP every request carries the bearer token.",
            "contact": {"name": "netnsd"},
            "license": {"name": "Apache-2.0 OR MIT", "identifier": "Apache-2.0 OR MIT"},
        }),
        servers: json!([
            {"url": "http://netnsd", "description": "Over the Unix socket: curl --unix-socket /run/netnsd/netnsd.sock"},
            {"url": "http://127.0.0.1:{port}", "description": "Over TCP, where the daemon listens (--listen)",
                "variables": {"port": {"default": "8080", "description": "The port of --listen."}}},
        ]),
        tags: tags.collect(),
        paths,
        components: json!({
            "schemas": components.into_schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        }),
        security: json!([{}, {"token": []}]),
    }
}

/// Describes one route: its operation with an example answer, the schemas of its parameters and the
/// role that it requires.
fn describe(route: &RouteSpec, components: &mut Components, examples: &mut Examples) -> Value {
    let mut operation = (route.describe)(components).build();
    add_example(&mut operation, examples);
    let mut operation = to_value(&operation);
    parameters::specify(&mut operation);
    if let Some(summary) = operation["summary"].as_str() {
        operation["description"] = json!(format!(
            "{summary}. Needs the role `{}`.",
            route.policy.role
        ));
    }
    operation
}

fn add_example(operation: &mut Operation, examples: &mut Examples) {
    let example = operation
        .operation_id
        .as_ref()
        .and_then(|id| examples.remove(id));
    // The 200 of a POST of a resource is the answer to a dry run.
    let status = ["201", "200"]
        .into_iter()
        .find(|status| operation.responses.responses.contains_key(*status));
    if let (Some(status), Some(example)) = (status, example)
        && let Some(RefOr::T(response)) = operation.responses.responses.get_mut(status)
        && let Some(RefOr::T(content)) = response.content.get_mut("application/json")
    {
        content.example = Some(example);
    }
}

/// Serializes a part of the document.
fn to_value(part: &impl Serialize) -> Value {
    serde_json::to_value(part).unwrap_or_default()
}
