//! The OpenAPI description: schemas generated from the types, operations from the table here. A
//! test holds the table against the routes, another the committed `openapi.yaml` against this.

mod access;
mod parameters;
mod shapes;

use std::collections::BTreeMap;

use netnsd_api::{
    About, Bridge, BridgePort, Code, DryRun, Endpoint, Event, EventType, Exec, ExecResult,
    FdbEntry, Health, Index, Items, Kind, Link, LinkAddress, LiveNeighbour, LiveRoute, Name,
    Namespace, NotInSync, Ping, PingResult, Problem, Process, ProcessNamespace, Progress, Ready,
    Reconciled, State, Stored, Topology, TopologyResult, UnmanagedNamespace, Veth,
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        Content, HeaderBuilder, HttpMethod, Object, Paths, Ref, RefOr, Required, Response,
        ResponseBuilder, Schema,
        path::{Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn},
        request_body::{RequestBody, RequestBodyBuilder},
        schema::{AnyOfBuilder, Array, SchemaType, Type},
    },
};

use self::shapes::Shapes;
use crate::access::rules;

type Schemas = BTreeMap<String, RefOr<Schema>>;

/// An OpenAPI 3.1 description.
#[derive(Debug, Serialize)]
pub struct OpenApi {
    openapi: &'static str,
    info: Value,
    servers: Value,
    tags: Value,
    /// Operations by their method, by path.
    pub paths: Map<String, Value>,
    components: Value,
    security: Value,
}

impl OpenApi {
    /// Writes it as JSON.
    ///
    /// # Errors
    /// None that is known.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }

    /// Writes it as YAML.
    ///
    /// # Errors
    /// None that is known.
    pub fn to_yaml(&self) -> Result<String, yaml_serde::Error> {
        yaml_serde::to_string(self)
    }
}

/// Tags of operations, and what those have in common.
const TAGS: [(&str, &str); 9] = [
    (
        "namespaces",
        "Network namespaces: what they should be, what is in them, and what runs in them.",
    ),
    ("bridges", "Bridges, their ports and forwarding tables."),
    ("veths", "Veth pairs, and their single ends."),
    ("topology", "The whole network as one document."),
    ("events", "What happens, as it happens and afterwards."),
    ("host", "What the kernel shows on the host itself."),
    ("processes", "Which namespace a process lives in."),
    ("daemon", "The daemon itself."),
    ("access", "Tokens, and the log of who did what."),
];

/// Returns the description of every route.
pub fn openapi() -> OpenApi {
    // A file that cannot be read is told of by the test that every answer has an example.
    let answers = serde_json::from_str(include_str!("openapi/answers.json")).unwrap_or_default();
    let mut description = Description {
        paths: Paths::new(),
        schemas: Schemas::new(),
        kinds: Vec::new(),
        answers,
    };
    description.kind::<Namespace>("namespace", namespace_example());
    description.kind::<Bridge>(
        "bridge",
        json!({"addresses": ["10.2.0.254/24"], "stp": true}),
    );
    description.kind::<Veth>("veth", veth_example());
    description.ends();
    description.topology();
    description.events();
    description.looking();
    description.doing();
    description.about();
    description.access();
    description.finish()
}

fn namespace_example() -> Value {
    json!({"labels": {"team": "lab"}, "netnsid": 100, "routes": [{"destination": "default", "via": "10.1.1.254"}],
        "sysctls": {"net.ipv4.ip_forward": "1"}})
}

fn veth_example() -> Value {
    json!({"endpoints": [{"namespace": "net0", "interface": "eth0", "addresses": ["10.1.1.1/24"]},
        {"interface": "port0", "bridge": "br0", "port": {"hairpin": true}}]})
}

struct Description {
    paths: Paths,
    schemas: Schemas,
    kinds: Vec<Shapes>,
    /// What the daemon answered, by the operation's id; recorded by `daemon/tests/openapi.rs`.
    answers: BTreeMap<String, Value>,
}

/// Codes that any request may be answered.
const ALWAYS: [Code; 5] = [
    Code::InvalidQuery,
    Code::Internal,
    Code::Unauthenticated,
    Code::Forbidden,
    Code::TooManyRequests,
];
/// Codes of requests with a body.
const BODY: [Code; 5] = [
    Code::MalformedJson,
    Code::UnsupportedMediaType,
    Code::BodyTooLarge,
    Code::InvalidField,
    Code::UnknownField,
];
/// Codes of writes.
const WRITE: [Code; 6] = [
    Code::PreconditionFailed,
    Code::Conflict,
    Code::KernelRejected,
    Code::StoreUnavailable,
    Code::KernelUnavailable,
    Code::Overloaded,
];

impl Description {
    /// A reference to a type's schema, which comes into the description with all that it refers to.
    fn schema<T: ToSchema>(&mut self) -> RefOr<Schema> {
        let mut all = Vec::new();
        T::schemas(&mut all);
        all.push((T::name().into_owned(), T::schema()));
        self.schemas.extend(all);
        Ref::from_schema_name(T::name()).into()
    }

    /// Adds a kind's schemas: what is asked for, and what is made of that for each verb.
    fn resource<R: netnsd_api::Resource>(&mut self) {
        self.schema::<R>();
        self.schema::<R::Observed>();
        let mut all = Vec::new();
        Stored::<R>::schemas(&mut all);
        all.retain(|(name, _)| *name != <R as ToSchema>::name());
        self.schemas.extend(all);
        self.kinds.push(Shapes::of::<R>());
    }

    /// A schema written out where it is used: that of a generic type.
    fn inline<T: ToSchema + PartialSchema>(&mut self) -> RefOr<Schema> {
        let mut all = Vec::new();
        T::schemas(&mut all);
        self.schemas.extend(all);
        T::schema()
    }

    /// Adds an operation, with an example of its answer.
    fn add(&mut self, method: HttpMethod, path: &str, mut operation: Operation) {
        let example = operation
            .operation_id
            .as_ref()
            .and_then(|id| self.answers.remove(id));
        // The 200 of a POST of a resource is a dry run's.
        let answer = ["201", "200"]
            .iter()
            .find(|status| operation.responses.responses.contains_key(**status));
        if let (Some(status), Some(example)) = (answer, example)
            && let Some(RefOr::T(response)) = operation.responses.responses.get_mut(*status)
            && let Some(RefOr::T(content)) = response.content.get_mut("application/json")
        {
            content.example = Some(example);
        }
        self.paths.add_path_operation(path, vec![method], operation);
    }

    fn operation(
        &mut self,
        id: &str,
        summary: &str,
        tag: &str,
        codes: &[Code],
    ) -> OperationBuilder {
        let mut by_status: BTreeMap<u16, Vec<String>> = BTreeMap::new();
        for code in ALWAYS.iter().chain(codes) {
            let text = serde_json::to_value(code)
                .ok()
                .and_then(|value| value.as_str().map(str::to_owned));
            by_status
                .entry(code.status())
                .or_default()
                .extend(text.map(|text| format!("`{text}`")));
        }
        let problem = self.schema::<Problem>();
        let mut operation = OperationBuilder::new()
            .operation_id(Some(id))
            .summary(Some(summary))
            .tag(tag);
        for (status, codes) in by_status {
            let content = Content::new(Some(problem.clone()));
            let response = ResponseBuilder::new()
                .description(codes.join(", "))
                .content("application/problem+json", content)
                .build();
            operation = operation.response(status.to_string(), response);
        }
        operation
    }

    /// The routes that the three kinds have in common.
    fn kind<R: netnsd_api::Resource>(&mut self, kind: &str, example: Value) {
        let list = format!("/v1/{}", R::KIND.plural());
        let one = format!("{list}/{{name}}");
        let tag = R::KIND.plural();
        self.resource::<R>();
        let shape = |of: &str| -> RefOr<Schema> {
            Ref::from_schema_name(format!("{}{of}", <R as ToSchema>::name())).into()
        };
        let (stored, put) = (shape("Answer"), shape("Put"));
        // A pair can do without a name.
        let new = if R::KIND == Kind::Veth {
            put.clone()
        } else {
            shape("")
        };
        let item = match R::KIND {
            Kind::Namespace => any_of(&[&stored, &self.schema::<UnmanagedNamespace>()]),
            _ => stored.clone(),
        };
        let next = Object::builder()
            .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
            .build();
        let page: RefOr<Schema> = Object::builder()
            .property("items", Array::builder().items(item).build())
            .property("next", next)
            .required("items")
            .required("next")
            .build()
            .into();
        let dry_run = self.schema::<DryRun>();
        let id = |verb: &str| format!("{verb}_{kind}");

        let mut operation = self
            .operation(
                &format!("list_{tag}"),
                &format!("List {tag}, sorted by name"),
                tag,
                &[],
            )
            .parameter(query(
                "limit",
                "how many at the most, 1 to 10000",
                Type::Integer,
            ))
            .parameter(query(
                "cursor",
                "where to go on: `next` of the page before",
                Type::String,
            ))
            .parameter(query(
                "label",
                "key=value, key or key!=value; repeatable",
                Type::String,
            ))
            .parameter(query_schema(
                "state",
                "only those in this state",
                self.schema::<State>(),
            ))
            .parameter(query(
                "namespace",
                "only those that live, with some part, in this namespace",
                Type::String,
            ));
        if R::KIND == Kind::Namespace {
            let include = "also namespaces that others made (UnmanagedNamespace)";
            operation = operation.parameter(query("include", include, Type::String));
        }
        self.add(
            HttpMethod::Get,
            &list,
            operation
                .response("200", json_response("a page", page))
                .build(),
        );

        let codes = [
            &BODY[..],
            &WRITE,
            &[
                Code::AlreadyExists,
                Code::UnknownReference,
                Code::Duplicate,
                Code::UnsupportedByKernel,
            ],
        ];
        let codes = codes.concat();
        let operation = self.operation(
            &id("create"),
            &format!("Create a {kind}, which must not exist"),
            tag,
            &codes,
        );
        let mut named = example.clone();
        named["name"] = json!("net0");
        let operation = written(operation, &stored, &dry_run, Leaves::New)
            .request_body(Some(body(&new, &named)));
        self.add(HttpMethod::Post, &list, operation.build());

        let codes = [Code::NotFound, Code::PreconditionFailed];
        let operation = self
            .operation(
                &id("get"),
                &format!("One {kind}, and how it stands"),
                tag,
                &codes,
            )
            .parameter(name())
            .parameter(header("If-Match"))
            .parameter(header("If-None-Match"))
            .response("200", etag(json_response("the resource", stored.clone())))
            .response("304", Response::new("it is as the ETag says"));
        self.add(HttpMethod::Get, &one, operation.build());

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
        let operation = self
            .operation(
                &id("put"),
                &format!("Create or replace a {kind}"),
                tag,
                &codes,
            )
            .parameter(name())
            .parameter(adopt());
        let operation = written(operation, &stored, &dry_run, Leaves::Either);
        let operation = operation.request_body(Some(optional(body(&put, &example))));
        self.add(HttpMethod::Put, &one, operation.build());

        let codes = [&codes[..], &[Code::NotFound]].concat();
        let operation = self
            .operation(
                &id("patch"),
                &format!("Change fields of a {kind}"),
                tag,
                &codes,
            )
            .parameter(name());
        let operation = written(operation, &stored, &dry_run, Leaves::Old);
        let changed = json!({"labels": {"team": null}});
        let operation =
            operation.request_body(Some(patch_body(&shape("Patch"), &changed, "/labels")));
        self.add(HttpMethod::Patch, &one, operation.build());

        let codes = [&WRITE[..], &[Code::NotFound, Code::InUse]].concat();
        let operation = self
            .operation(&id("delete"), &format!("Delete a {kind}"), tag, &codes)
            .parameter(name())
            .parameter(query(
                "cascade",
                "also what depends on it, and of a namespace what others put into it; a bridge lets its ports go",
                Type::Boolean,
            ))
            .parameter(dry_run_parameter())
            .parameter(wait())
            .parameter(header("If-Match"))
            .parameter(header("If-None-Match"))
            .response("200", json_response("with `dry_run`: what would be done", dry_run))
            .response("202", Response::new("with `wait=false`: it is durable, and being applied"))
            .response("204", Response::new("it is gone"));
        self.add(HttpMethod::Delete, &one, operation.build());
    }

    fn ends(&mut self) {
        let path = "/v1/veths/{name}/endpoints/{end}";
        let end = || {
            path_parameter(
                "end",
                "which end of the pair",
                Object::with_type(Type::String).into(),
            )
        };
        self.schema::<Endpoint>();
        let schema: RefOr<Schema> = Ref::from_schema_name("EndpointAnswer").into();
        let dry_run = self.schema::<DryRun>();
        let operation = self
            .operation(
                "get_endpoint",
                "One end of a veth pair",
                "veths",
                &[Code::NotFound],
            )
            .parameter(name())
            .parameter(end())
            .response(
                "200",
                etag(json_response("the end, and its `status`", schema.clone())),
            );
        self.add(HttpMethod::Get, path, operation.build());
        let codes = [
            &BODY[..],
            &WRITE,
            &[Code::NotFound, Code::UnknownReference, Code::Duplicate],
        ]
        .concat();
        let operation = self
            .operation(
                "patch_endpoint",
                "Change one end of a veth pair; moving it is one PATCH",
                "veths",
                &codes,
            )
            .parameter(name())
            .parameter(end())
            .request_body(Some(patch_body(
                &Ref::from_schema_name("EndpointPatch").into(),
                &json!({"namespace": "net0"}),
                "/addresses",
            )));
        self.add(
            HttpMethod::Patch,
            path,
            written(operation, &schema, &dry_run, Leaves::Old).build(),
        );
    }

    fn look<T: ToSchema>(&mut self, path: &str, id: &str, summary: &str, tag: &str) {
        self.schema::<T>();
        let items = self.inline::<Items<T>>();
        let mut operation = self
            .operation(id, summary, tag, &[Code::NotFound, Code::KernelUnavailable])
            .response("200", json_response("live, from the kernel", items));
        if path.contains("{name}") {
            operation = operation.parameter(name());
        }
        if path.ends_with("/links") {
            let words =
                "also what bridges and ports are set to, where that is not the kernel's default";
            operation = operation.parameter(query("settings", words, Type::Boolean));
        }
        self.add(HttpMethod::Get, path, operation.build());
    }

    fn looking(&mut self) {
        for (place, id, words) in [
            ("namespaces/{name}", "namespace", "a namespace"),
            ("host", "host", "the host"),
        ] {
            let path = |what: &str| format!("/v1/{place}/{what}");
            let tag = if id == "host" { "host" } else { "namespaces" };
            self.look::<Link>(
                &path("links"),
                &format!("{id}_links"),
                &format!("The links of {words}"),
                tag,
            );
            self.look::<LinkAddress>(
                &path("addresses"),
                &format!("{id}_addresses"),
                &format!("The addresses in {words}"),
                tag,
            );
            self.look::<LiveRoute>(
                &path("routes"),
                &format!("{id}_routes"),
                &format!("The routes of {words}"),
                tag,
            );
            self.look::<LiveNeighbour>(
                &path("neighbours"),
                &format!("{id}_neighbours"),
                &format!("The neighbours of {words}"),
                tag,
            );
        }
        self.look::<Process>(
            "/v1/namespaces/{name}/processes",
            "namespace_processes",
            "The processes in a namespace",
            "namespaces",
        );
        self.look::<BridgePort>(
            "/v1/bridges/{name}/ports",
            "bridge_ports",
            "The ports of a bridge, as `bridge link` shows them",
            "bridges",
        );
        self.look::<FdbEntry>(
            "/v1/bridges/{name}/fdb",
            "bridge_fdb",
            "The forwarding table, as `brctl showmacs` shows it",
            "bridges",
        );
        let schema = self.schema::<ProcessNamespace>();
        let operation = self
            .operation(
                "process_namespace",
                "The namespace of a process (`ip netns identify`)",
                "processes",
                &[Code::NotFound],
            )
            .parameter(path_parameter(
                "pid",
                "the process",
                Object::with_type(Type::Integer).into(),
            ))
            .response("200", json_response("the namespace", schema));
        self.add(
            HttpMethod::Get,
            "/v1/processes/{pid}/namespace",
            operation.build(),
        );
    }

    fn doing(&mut self) {
        let codes = [
            &BODY[..],
            &[
                Code::NotFound,
                Code::KernelRejected,
                Code::KernelUnavailable,
            ],
        ]
        .concat();
        let (exec, result) = (self.schema::<Exec>(), self.schema::<ExecResult>());
        let operation = self
            .operation("exec", "Run a command in a namespace", "namespaces", &codes)
            .parameter(name())
            .request_body(Some(body(&exec, &json!({"argv": ["ip", "addr"]}))))
            .response("200", {
                let mut response = json_response("how it ended; as lines, what it writes comes first", result);
                let lines =
                    anything("`{\"stream\", \"data\"}` or `{\"stream\", \"data_base64\"}`, and how it ended last");
                response.content.insert("application/x-ndjson".into(), Content::new(Some(lines)).into());
                response
            });
        self.add(
            HttpMethod::Post,
            "/v1/namespaces/{name}/exec",
            operation.build(),
        );
        let refusals = [
            Code::NotFound,
            Code::InvalidField,
            Code::TooManyRequests,
            Code::KernelRejected,
            Code::KernelUnavailable,
        ];
        let problem = ResponseBuilder::new()
            .description("why there is no WebSocket")
            .content(
                "application/problem+json",
                Content::new(Some(self.schema::<Problem>())),
            )
            .build();
        let text = "a WebSocket: binary frames, the first byte is the channel (0 stdin, 1 stdout, 2 stderr, 3 control)";
        let operation = self
            .operation(
                "exec_socket",
                "Run a command on the other side of a WebSocket",
                "namespaces",
                &refusals,
            )
            .parameter(name())
            .parameter(query(
                "argv",
                "the program, and each argument; repeated",
                Type::String,
            ))
            .parameter(query("tty", "in a terminal of its own", Type::Boolean))
            .parameter(query(
                "rows",
                "lines of the terminal; default 24",
                Type::Integer,
            ))
            .parameter(query(
                "cols",
                "characters on a line of it; default 80",
                Type::Integer,
            ))
            .parameter(query(
                "env",
                "a variable, KEY=VALUE; repeatable",
                Type::String,
            ))
            .parameter(query(
                "cwd",
                "the directory to run it in; default /",
                Type::String,
            ))
            .parameter(query(
                "user",
                "the user that it runs as; default root",
                Type::String,
            ))
            .parameter(query(
                "timeout_s",
                "after how many seconds it is killed; default never",
                Type::Number,
            ))
            .response("101", Response::new(text))
            .response("default", problem);
        self.add(
            HttpMethod::Get,
            "/v1/namespaces/{name}/exec",
            operation.build(),
        );
        let (ping, result) = (self.schema::<Ping>(), self.schema::<PingResult>());
        let operation = self
            .operation("ping", "Ping from a namespace", "namespaces", &codes)
            .parameter(name())
            .request_body(Some(body(
                &ping,
                &json!({"address": "10.1.1.2", "count": 3}),
            )))
            .response("200", json_response("what came back", result));
        self.add(
            HttpMethod::Post,
            "/v1/namespaces/{name}/ping",
            operation.build(),
        );
    }

    fn topology(&mut self) {
        let path = "/v1/topology";
        self.schema::<Namespace>();
        let (document, dry_run) = (self.schema::<Topology>(), self.schema::<DryRun>());
        let (result, progress) = (self.schema::<TopologyResult>(), self.schema::<Progress>());
        let problem = self.schema::<Problem>();
        let label = || {
            query(
                "label",
                "only resources with this label: `key=value`, `key`, `key!=value`; repeatable",
                Type::String,
            )
        };
        let both = ["application/json", "application/yaml"];
        let operation = self
            .operation(
                "get_topology",
                "The whole network, intent only, fit to be PUT back",
                "topology",
                &[],
            )
            .parameter(label())
            .response(
                "200",
                contents(
                    "the document; YAML on `Accept: application/yaml`",
                    &both,
                    &document,
                ),
            );
        self.add(HttpMethod::Get, path, operation.build());
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
        let codes: Vec<Code> = codes
            .concat()
            .into_iter()
            .filter(|code| *code != Code::PreconditionFailed)
            .collect();
        let example = json!({"namespaces": [{"name": "net0"}], "bridges": [{"name": "br0", "addresses": ["10.1.1.254/24"]}],
            "veths": [{"name": "lan0", "endpoints": [{"namespace": "net0", "interface": "eth0", "addresses": ["10.1.1.1/24"]},
                {"interface": "port0", "bridge": "br0"}]}]});
        for (method, id, summary) in [
            (
                HttpMethod::Put,
                "put_topology",
                "Make the network equal to a document, deleting what it does not name",
            ),
            (
                HttpMethod::Patch,
                "patch_topology",
                "Create or replace each resource that a document names",
            ),
        ] {
            let mut body = RequestBodyBuilder::new().required(Some(Required::True));
            for kind in both {
                let mut content = Content::new(Some(document.clone()));
                content.example = Some(example.clone());
                body = body.content(kind, content);
            }
            let lines = AnyOfBuilder::new()
                .item(progress.clone())
                .item(result.clone())
                .item(problem.clone())
                .description(Some("one of these a line, the result or the problem last"));
            let either = any_of(&[&result, &dry_run]);
            let mut response = json_response(
                "what it changed; with `dry_run`: what would be done",
                either,
            );
            response.content.insert(
                "application/x-ndjson".into(),
                Content::new(Some(Schema::from(lines.build()))).into(),
            );
            let mut operation = self.operation(id, summary, "topology", &codes);
            if method == HttpMethod::Put {
                let words =
                    "delete namespaces with the interfaces in them that netnsd did not make";
                operation = operation.parameter(query("cascade", words, Type::Boolean));
            }
            let operation = operation
                .parameter(label())
                .parameter(dry_run_parameter())
                .parameter(wait())
                .parameter(adopt())
                .request_body(Some(body.build()))
                .response("200", timed(response))
                .response(
                    "202",
                    timed(json_response(
                        "with `wait=false`: it is durable, and being applied",
                        result.clone(),
                    )),
                );
            self.add(method, path, operation.build());
        }
    }

    fn events(&mut self) {
        let (event, items) = (self.schema::<Event>(), self.inline::<Items<Event>>());
        let list = json_response(
            "with `Accept: application/json`: those that are kept",
            items,
        );
        let mut response = list;
        response.description = "a stream of Server-Sent Events (`id`, `event`, and `data`: an Event); with `Accept: application/json` the list of those that are kept".into();
        response
            .content
            .insert("text/event-stream".into(), Content::new(Some(event)).into());
        let kinds = Type::String;
        let operation = self
            .operation("events", "What happens", "events", &[])
            .parameter(query_schema(
                "since",
                "only events after this number",
                Object::with_type(Type::Integer).into(),
            ))
            .parameter(query(
                "kind",
                "only of resources of this kind; repeatable",
                kinds,
            ))
            .parameter(query(
                "name",
                "only of resources of this name; repeatable",
                Type::String,
            ))
            .parameter(query("type", "only of this type; repeatable", Type::String))
            .parameter(parameter(
                "Last-Event-ID",
                ParameterIn::Header,
                "the number of the last event that was received",
                Object::with_type(Type::Integer).into(),
                Required::False,
            ))
            .response("200", response);
        self.add(HttpMethod::Get, "/v1/events", operation.build());
    }

    fn about(&mut self) {
        let schema = self.schema::<Reconciled>();
        self.schema::<NotInSync>();
        let operation = self
            .operation(
                "reconcile",
                "Compare everything recorded with the kernel now, and repair it",
                "daemon",
                &[Code::KernelUnavailable, Code::Overloaded],
            )
            .response(
                "200",
                json_response("what was repaired, and what is still not as asked", schema),
            );
        self.add(HttpMethod::Post, "/v1/reconcile", operation.build());
        let schema = self.schema::<Index>();
        let operation = self
            .operation("index", "Where to begin", "daemon", &[])
            .response("200", json_response("paths, by what is there", schema));
        self.add(HttpMethod::Get, "/", operation.build());
        let schema = self.schema::<About>();
        let operation = self
            .operation("about", "About the daemon", "daemon", &[])
            .response("200", json_response("about it", schema));
        self.add(HttpMethod::Get, "/v1", operation.build());
        let schema = self.schema::<Health>();
        let operation = self
            .operation("health", "That the daemon lives", "daemon", &[])
            .response("200", json_response("it does", schema));
        self.add(HttpMethod::Get, "/v1/health", operation.build());
        let schema = self.schema::<Ready>();
        let operation = self
            .operation(
                "ready",
                "Whether everything recorded has been tried",
                "daemon",
                &[Code::Starting],
            )
            .response("200", json_response("it has", schema));
        self.add(HttpMethod::Get, "/v1/ready", operation.build());
        let text = ResponseBuilder::new()
            .description("what is counted, as OpenMetrics text")
            .content(
                "application/openmetrics-text",
                Content::new(Some(Object::with_type(Type::String))),
            );
        let operation = self
            .operation("metrics", "Metrics for Prometheus", "daemon", &[])
            .response("200", text.build());
        self.add(HttpMethod::Get, "/metrics", operation.build());
        for (path, id, kind) in [
            ("/openapi.yaml", "openapi_yaml", "application/yaml"),
            ("/openapi.json", "openapi_json", "application/json"),
        ] {
            let content = Content::new(Some(anything("this description")));
            let response = ResponseBuilder::new()
                .description("this description")
                .content(kind, content)
                .build();
            let operation = self
                .operation(id, "This description", "daemon", &[])
                .response("200", response);
            self.add(HttpMethod::Get, path, operation.build());
        }
    }

    fn finish(mut self) -> OpenApi {
        self.schema::<Name>();
        self.schema::<EventType>();
        let mut schemas: Map<String, Value> = self
            .schemas
            .iter()
            .map(|(name, schema)| (name.clone(), written_out(schema)))
            .collect();
        shapes::add(&mut schemas, &self.kinds);
        let mut paths = match written_out(&self.paths) {
            Value::Object(paths) => paths,
            _ => Map::new(),
        };
        for (path, operations) in &mut paths {
            for (method, operation) in operations.as_object_mut().into_iter().flatten() {
                parameters::specify(operation);
                let role = method
                    .to_uppercase()
                    .parse()
                    .map(|method| rules::needs(&method, path));
                if let (Some(summary), Ok(role)) = (operation["summary"].as_str(), role) {
                    operation["description"] =
                        json!(format!("{summary}. Needs the role `{role}`."));
                }
            }
        }
        let tags = TAGS
            .iter()
            .map(|(name, description)| json!({"name": name, "description": description}));
        OpenApi {
            openapi: "3.1.0",
            info: json!({
                "title": "netnsd",
                "version": "v1",
                "description": "Linux network namespaces, veth pairs and bridges. On the Unix socket the caller is known by its \
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
                "schemas": schemas,
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            }),
            security: json!([{}, {"token": []}]),
        }
    }
}

/// Writes a part of the description out.
fn written_out(part: &impl Serialize) -> Value {
    serde_json::to_value(part).unwrap_or_default()
}

fn any_of(schemas: &[&RefOr<Schema>]) -> RefOr<Schema> {
    let all = schemas.iter().fold(AnyOfBuilder::new(), |all, schema| {
        all.item((*schema).clone())
    });
    Schema::from(all.build()).into()
}

fn anything(description: &str) -> RefOr<Schema> {
    let mut object = Object::with_type(Type::Object);
    object.description = Some(description.into());
    object.into()
}

fn parameter(
    name: &str,
    place: ParameterIn,
    description: &str,
    schema: RefOr<Schema>,
    required: Required,
) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .description(Some(description))
        .schema(Some(schema))
        .required(required)
        .build()
}

fn query(name: &str, description: &str, kind: Type) -> Parameter {
    query_schema(name, description, Object::with_type(kind).into())
}

fn query_schema(name: &str, description: &str, schema: RefOr<Schema>) -> Parameter {
    parameter(
        name,
        ParameterIn::Query,
        description,
        schema,
        Required::False,
    )
}

fn header(name: &str) -> Parameter {
    let description = "ETags, or *: only if the resource is (not) of one of these generations";
    parameter(
        name,
        ParameterIn::Header,
        description,
        Object::with_type(Type::String).into(),
        Required::False,
    )
}

fn path_parameter(name: &str, description: &str, schema: RefOr<Schema>) -> Parameter {
    parameter(name, ParameterIn::Path, description, schema, Required::True)
}

fn name() -> Parameter {
    path_parameter(
        "name",
        "the resource's name",
        Ref::from_schema_name("Name").into(),
    )
}

fn json_response(description: &str, schema: RefOr<Schema>) -> Response {
    ResponseBuilder::new()
        .description(description)
        .content("application/json", Content::new(Some(schema)))
        .build()
}

/// A response of one schema in several media types.
fn contents(description: &str, kinds: &[&str], schema: &RefOr<Schema>) -> Response {
    let builder = ResponseBuilder::new().description(description);
    kinds
        .iter()
        .fold(builder, |builder, kind| {
            builder.content(*kind, Content::new(Some(schema.clone())))
        })
        .build()
}

fn dry_run_parameter() -> Parameter {
    query("dry_run", "only tell what would be done", Type::Boolean)
}

fn adopt() -> Parameter {
    let words =
        "take over, in place, what others made of the same kind at the same places; for admins";
    query("adopt", words, Type::Boolean)
}

fn wait() -> Parameter {
    query(
        "wait",
        "false: answer 202 once it is durable, before it is applied; default true",
        Type::Boolean,
    )
}

/// The response of a write, with the time that it took.
fn timed(response: Response) -> Response {
    with_header(
        response,
        "Server-Timing",
        "store;dur=…, kernel;dur=… in milliseconds",
    )
}

fn with_header(mut response: Response, name: &str, description: &str) -> Response {
    let header = HeaderBuilder::new()
        .description(Some(description))
        .schema(Some(Object::with_type(Type::String)))
        .build();
    response.headers.insert(name.to_owned(), header.into());
    response
}

fn etag(response: Response) -> Response {
    with_header(response, "ETag", "the generation, in quotes")
}

/// A body of JSON.
fn body(schema: &RefOr<Schema>, example: &Value) -> RequestBody {
    let body = RequestBodyBuilder::new().required(Some(Required::True));
    body.content("application/json", with_example(schema, example))
        .build()
}

/// A body that may be left out: that is the same as `{}`.
fn optional(mut body: RequestBody) -> RequestBody {
    body.required = Some(Required::False);
    body
}

/// A body of a PATCH: fields to merge, or operations, of which the example adds to `list`.
fn patch_body(merge: &RefOr<Schema>, example: &Value, list: &str) -> RequestBody {
    let operations = json!([{"op": "test", "path": list, "value": if list == "/labels" { json!({}) } else { json!([]) }}]);
    let body = RequestBodyBuilder::new()
        .content("application/json", with_example(merge, example))
        .content("application/merge-patch+json", with_example(merge, example))
        .content(
            "application/json-patch+json",
            with_example(&Ref::from_schema_name("JsonPatch").into(), &operations),
        );
    optional(body.build())
}

fn with_example(schema: &RefOr<Schema>, example: &Value) -> Content {
    let mut content = Content::new(Some(schema.clone()));
    content.example = Some(example.clone());
    content
}

/// Outcome of a successful write: a new resource, one that was there before, or either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaves {
    New,
    Old,
    Either,
}

/// Parameters and answers of a write that leaves a resource.
fn written(
    operation: OperationBuilder,
    schema: &RefOr<Schema>,
    dry_run: &RefOr<Schema>,
    leaves: Leaves,
) -> OperationBuilder {
    let operation = operation
        .parameter(dry_run_parameter())
        .parameter(wait())
        .parameter(header("If-Match"))
        .parameter(header("If-None-Match"))
        .response(
            "202",
            timed(etag(json_response(
                "with `wait=false`: it is durable, and being applied",
                schema.clone(),
            ))),
        );
    let operation = match leaves {
        Leaves::New => operation.response(
            "200",
            timed(json_response(
                "with `dry_run`: what would be done",
                dry_run.clone(),
            )),
        ),
        Leaves::Old | Leaves::Either => {
            let words = "as it is now; with `dry_run`: what would be done";
            operation.response(
                "200",
                timed(etag(json_response(words, any_of(&[schema, dry_run])))),
            )
        }
    };
    if leaves == Leaves::Old {
        return operation;
    }
    let created = with_header(
        json_response("created", schema.clone()),
        "Location",
        "the path of the resource",
    );
    operation.response("201", timed(etag(created)))
}
