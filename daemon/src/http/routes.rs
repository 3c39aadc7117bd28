//! Route table: each operation of the API once, with its method, path, required role, scope,
//! description and handler. The router, the checks of [`auth`](super::auth) and the OpenAPI
//! document are all made from it.

use std::{collections::HashMap, sync::LazyLock};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    handler::Handler,
    http::Method,
    routing::{self, MethodRouter},
};
use netnsd_api::{Kind, Role};
use utoipa::openapi::path::OperationBuilder;

use self::RouteScope::{Filtered, Resource, Unscoped};
use super::{
    App, about, backup, bridges, events, exec, graph, live, namespaces,
    openapi::{self, Components},
    problem, processes,
    query::Query,
    resource::{self, ResourceRoutes},
    tokens, topology,
    turns::Cost,
    veths,
};

/// An operation of the API.
pub(super) struct RouteSpec {
    pub method: Method,
    /// Path pattern, in the syntax of axum's router and of OpenAPI: `/v1/veths/{name}`.
    pub path: String,
    pub policy: RoutePolicy,
    pub describe: Describe,
    handler: MethodRouter<App>,
}

/// Describes an operation for the OpenAPI document.
pub(super) type Describe = fn(&mut Components) -> OperationBuilder;

/// Rules for the requests of a route, applied before its handler runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RoutePolicy {
    /// Least role of its callers.
    pub role: Role,
    pub scope: RouteScope,
    pub audit: AuditPolicy,
    /// Resource that its requests take much of.
    pub cost: Option<Cost>,
}

/// Treatment of callers that may access only names with a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RouteScope {
    /// Allowed: the handler leaves out, or refuses, what is out of the caller's scope.
    Filtered,
    /// Allowed for resources of this kind, named by `{name}`, that the caller may access.
    Resource(Kind),
    /// Refused: the route is about something without a resource's name.
    Unscoped,
}

/// Requests that are recorded in the audit log; refused ones (401, 403) always are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AuditPolicy {
    /// None: the route only reads.
    Refused,
    /// All, unless `?dry_run=true` makes them change nothing.
    UnlessDryRun,
    /// All.
    All,
}

impl AuditPolicy {
    /// Returns true if a request with this query is recorded.
    pub fn applies(self, query: Option<&str>) -> bool {
        match self {
            Self::Refused => false,
            Self::UnlessDryRun => !is_dry_run(query),
            Self::All => true,
        }
    }
}

fn is_dry_run(query: Option<&str>) -> bool {
    Query::read(query).is_ok_and(|mut query| query.flag("dry_run", false).unwrap_or(false))
}

/// Returns every route.
pub(super) fn all() -> Vec<RouteSpec> {
    let mut routes = daemon();
    routes.extend(resources_of_all_kinds());
    routes.extend(documents_and_events());
    routes.extend(live_state());
    routes.extend(commands());
    routes.extend(access());
    routes
}

/// Routes about the daemon itself.
fn daemon() -> Vec<RouteSpec> {
    use openapi::daemon as describe;
    let viewer = Role::Viewer;
    vec![
        get("/", viewer, Filtered, describe::index, about::index),
        get("/v1", viewer, Filtered, describe::about, about::about),
        get(
            "/v1/health",
            viewer,
            Filtered,
            describe::health,
            about::health,
        ),
        get("/v1/ready", viewer, Filtered, describe::ready, about::ready),
        post(
            "/v1/reconcile",
            Role::Operator,
            Unscoped,
            describe::reconcile,
            about::reconcile,
        ),
        get(
            "/metrics",
            viewer,
            Unscoped,
            describe::metrics,
            about::metrics,
        )
        .with_cost(Cost::LinkCounters),
        get(
            "/openapi.yaml",
            viewer,
            Filtered,
            describe::openapi_yaml,
            about::openapi_yaml,
        ),
        get(
            "/openapi.json",
            viewer,
            Filtered,
            describe::openapi_json,
            about::openapi_json,
        ),
    ]
}

macro_rules! define_resources_of_all_kinds {
    ($($kind:ident($spec:ident) $name:ident $plural:ident $description:literal;)+) => {
        fn resources_of_all_kinds() -> Vec<RouteSpec> {
            [$(resources::<netnsd_api::$spec>()),+].into_iter().flatten().collect()
        }
    };
}

netnsd_api::resource_kinds!(define_resources_of_all_kinds);

/// Routes that every kind of resource has.
fn resources<R: ResourceRoutes>() -> Vec<RouteSpec> {
    use openapi::resources as describe;
    let list = format!("/v1/{}", R::KIND.plural());
    let one = format!("{list}/{{name}}");
    let (viewer, operator) = (Role::Viewer, Role::Operator);
    vec![
        get(
            &list,
            viewer,
            Filtered,
            describe::list::<R>,
            resource::list::<R>,
        ),
        post(
            &list,
            operator,
            Filtered,
            describe::create::<R>,
            resource::create::<R>,
        ),
        get(
            &one,
            viewer,
            Resource(R::KIND),
            describe::get::<R>,
            resource::show::<R>,
        ),
        put(
            &one,
            operator,
            Resource(R::KIND),
            describe::put::<R>,
            resource::put::<R>,
        ),
        patch(
            &one,
            operator,
            Resource(R::KIND),
            describe::patch::<R>,
            resource::patch::<R>,
        ),
        delete(
            &one,
            operator,
            Resource(R::KIND),
            describe::delete::<R>,
            resource::delete::<R>,
        ),
    ]
}

/// Routes of endpoints, topology documents and events.
fn documents_and_events() -> Vec<RouteSpec> {
    let (viewer, operator) = (Role::Viewer, Role::Operator);
    let topology = "/v1/topology";
    let endpoint = "/v1/veths/{name}/endpoints/{end}";
    let veth = Resource(Kind::Veth);
    vec![
        get(
            topology,
            viewer,
            Filtered,
            openapi::topology::get,
            topology::show,
        ),
        put(
            topology,
            operator,
            Filtered,
            openapi::topology::put,
            topology::put,
        )
        .with_body_limit(topology::LIMIT),
        patch(
            topology,
            operator,
            Filtered,
            openapi::topology::patch,
            topology::patch,
        )
        .with_body_limit(topology::LIMIT),
        get(
            "/v1/events",
            viewer,
            Filtered,
            openapi::events::events,
            events::events,
        ),
        get(
            endpoint,
            viewer,
            veth,
            openapi::resources::get_endpoint,
            veths::show,
        ),
        patch(
            endpoint,
            operator,
            veth,
            openapi::resources::patch_endpoint,
            veths::patch,
        ),
    ]
}

/// Routes that show what the kernel has now.
fn live_state() -> Vec<RouteSpec> {
    use openapi::live as describe;
    let viewer = Role::Viewer;
    let (namespace, bridge) = (Resource(Kind::Namespace), Resource(Kind::Bridge));
    vec![
        get(
            "/v1/namespaces/{name}/links",
            viewer,
            namespace,
            describe::namespace_links,
            live::links,
        )
        .with_cost(Cost::KernelQuery),
        get(
            "/v1/namespaces/{name}/addresses",
            viewer,
            namespace,
            describe::namespace_addresses,
            live::addresses,
        )
        .with_cost(Cost::KernelQuery),
        get(
            "/v1/namespaces/{name}/routes",
            viewer,
            namespace,
            describe::namespace_routes,
            live::routes,
        )
        .with_cost(Cost::KernelQuery),
        get(
            "/v1/namespaces/{name}/rules",
            viewer,
            namespace,
            describe::namespace_rules,
            live::rules,
        )
        .with_cost(Cost::KernelQuery),
        get(
            "/v1/namespaces/{name}/neighbours",
            viewer,
            namespace,
            describe::namespace_neighbours,
            live::neighbours,
        )
        .with_cost(Cost::KernelQuery),
        get(
            "/v1/namespaces/{name}/processes",
            viewer,
            namespace,
            describe::namespace_processes,
            namespaces::processes,
        ),
        get(
            "/v1/bridges/{name}/ports",
            viewer,
            bridge,
            describe::bridge_ports,
            bridges::ports,
        )
        .with_cost(Cost::KernelQuery),
        get(
            "/v1/bridges/{name}/fdb",
            viewer,
            bridge,
            describe::bridge_fdb,
            bridges::fdb,
        )
        .with_cost(Cost::KernelQuery),
        get(
            "/v1/host/links",
            viewer,
            Unscoped,
            describe::host_links,
            live::links,
        )
        .with_cost(Cost::KernelQuery),
        get(
            "/v1/host/addresses",
            viewer,
            Unscoped,
            describe::host_addresses,
            live::addresses,
        )
        .with_cost(Cost::KernelQuery),
        get(
            "/v1/host/routes",
            viewer,
            Unscoped,
            describe::host_routes,
            live::routes,
        )
        .with_cost(Cost::KernelQuery),
        get(
            "/v1/host/rules",
            viewer,
            Unscoped,
            describe::host_rules,
            live::rules,
        )
        .with_cost(Cost::KernelQuery),
        get(
            "/v1/host/neighbours",
            viewer,
            Unscoped,
            describe::host_neighbours,
            live::neighbours,
        )
        .with_cost(Cost::KernelQuery),
        get(
            "/v1/graph",
            viewer,
            Filtered,
            openapi::graph::graph,
            graph::graph,
        )
        .with_cost(Cost::KernelQuery),
        get(
            "/v1/processes/{pid}/namespace",
            viewer,
            Filtered,
            describe::process_namespace,
            processes::namespace,
        ),
    ]
}

/// Routes that run something in a namespace.
fn commands() -> Vec<RouteSpec> {
    use openapi::exec as describe;
    let exec_path = "/v1/namespaces/{name}/exec";
    let (operator, namespace) = (Role::Operator, Resource(Kind::Namespace));
    vec![
        post(
            exec_path,
            operator,
            namespace,
            describe::exec,
            namespaces::exec,
        ),
        // A WebSocket is opened by a GET, and runs a command all the same.
        get(
            exec_path,
            operator,
            namespace,
            describe::exec_socket,
            exec::socket,
        )
        .with_audit(AuditPolicy::All),
        post(
            "/v1/namespaces/{name}/ping",
            operator,
            namespace,
            describe::ping,
            namespaces::ping,
        ),
    ]
}

/// Routes of tokens, of the audit log and of the whole database.
fn access() -> Vec<RouteSpec> {
    use openapi::access as describe;
    let (all, one) = ("/v1/tokens", "/v1/tokens/{name}");
    let admin = Role::Admin;
    vec![
        get(all, admin, Unscoped, describe::list_tokens, tokens::list),
        post(all, admin, Unscoped, describe::create_token, tokens::create),
        get(one, admin, Unscoped, describe::get_token, tokens::show),
        delete(one, admin, Unscoped, describe::delete_token, tokens::delete),
        get("/v1/audit", admin, Unscoped, describe::audit, tokens::audit),
        // It has every secret that the database has.
        get(
            "/v1/backup",
            admin,
            Unscoped,
            openapi::daemon::backup,
            backup::backup,
        )
        .with_audit(AuditPolicy::All),
    ]
}

/// Defines the constructor of a route of one method.
macro_rules! constructor {
    ($name:ident, $method:ident, $audit:ident) => {
        fn $name<H, T>(
            path: &str,
            role: Role,
            scope: RouteScope,
            describe: Describe,
            handler: H,
        ) -> RouteSpec
        where
            H: Handler<T, App>,
            T: 'static,
        {
            RouteSpec {
                method: Method::$method,
                path: path.to_owned(),
                policy: RoutePolicy {
                    role,
                    scope,
                    audit: AuditPolicy::$audit,
                    cost: None,
                },
                describe,
                handler: routing::$name(handler),
            }
        }
    };
}

constructor!(get, GET, Refused);
constructor!(post, POST, UnlessDryRun);
constructor!(put, PUT, UnlessDryRun);
constructor!(patch, PATCH, UnlessDryRun);
constructor!(delete, DELETE, UnlessDryRun);

impl RouteSpec {
    fn with_audit(mut self, audit: AuditPolicy) -> Self {
        self.policy.audit = audit;
        self
    }

    fn with_cost(mut self, cost: Cost) -> Self {
        self.policy.cost = Some(cost);
        self
    }

    /// Accepts bodies of up to `bytes` in place of [`BODY_LIMIT`](super::BODY_LIMIT); requests
    /// with one over that take turns.
    fn with_body_limit(mut self, bytes: usize) -> Self {
        self.handler = self.handler.layer(DefaultBodyLimit::max(bytes));
        self.with_cost(Cost::LargeBody)
    }
}

/// Returns a router of every route, without the layers that all have in common.
pub(super) fn router() -> Router<App> {
    let add = |router: Router<App>, route: RouteSpec| router.route(&route.path, route.handler);
    all()
        .into_iter()
        .fold(Router::new(), add)
        .method_not_allowed_fallback(problem::method_not_allowed)
}

/// Policies of the routes, by path pattern and method.
pub(super) struct RouteIndex {
    /// Path patterns, in the order of the table.
    paths: Vec<String>,
    policies: HashMap<String, Vec<(Method, RoutePolicy)>>,
}

static INDEX: LazyLock<RouteIndex> = LazyLock::new(RouteIndex::new);

/// Returns the index of the routes.
pub(super) fn index() -> &'static RouteIndex {
    &INDEX
}

impl RouteIndex {
    fn new() -> Self {
        let (mut paths, mut policies) = (Vec::new(), HashMap::<_, Vec<_>>::new());
        for route in all() {
            if !paths.contains(&route.path) {
                paths.push(route.path.clone());
            }
            let methods = policies.entry(route.path).or_default();
            methods.push((route.method, route.policy));
        }
        Self { paths, policies }
    }

    pub fn paths(&self) -> &[String] {
        &self.paths
    }

    /// Returns the methods of a path pattern, sorted.
    pub fn methods(&self, path: &str) -> Vec<&str> {
        let mut methods: Vec<&str> = self
            .of_path(path)
            .iter()
            .map(|(method, _)| method.as_str())
            .collect();
        methods.sort_unstable();
        methods
    }

    /// Returns the policy for a request; `path` is the pattern of the route that it matched, if it
    /// matched one. A method or a path that does not exist has one too: the caller is checked
    /// before the answer says so.
    pub fn policy(&self, method: &Method, path: Option<&str>) -> RoutePolicy {
        let methods = path.map_or(&[][..], |path| self.of_path(path));
        let find = |wanted: &Method| {
            methods
                .iter()
                .find(|(method, _)| method == wanted)
                .map(|(_, policy)| *policy)
        };
        let is_safe = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        // axum answers HEAD by the handler of GET.
        let found = find(method).or_else(|| is_safe.then(|| find(&Method::GET)).flatten());
        found.unwrap_or_else(|| RoutePolicy::of_missing(methods, is_safe))
    }

    fn of_path(&self, path: &str) -> &[(Method, RoutePolicy)] {
        self.policies.get(path).map_or(&[], Vec::as_slice)
    }
}

impl RoutePolicy {
    /// Returns the policy for a method that a path with these `methods` does not have.
    fn of_missing(methods: &[(Method, RoutePolicy)], is_safe: bool) -> Self {
        let scope = methods.first().map_or(Filtered, |(_, policy)| policy.scope);
        if is_safe {
            return Self {
                role: Role::Viewer,
                scope,
                audit: AuditPolicy::Refused,
                cost: None,
            };
        }
        let least = methods.iter().map(|(_, policy)| policy.role).min();
        Self {
            role: least.map_or(Role::Operator, |role| role.max(Role::Operator)),
            scope,
            audit: AuditPolicy::UnlessDryRun,
            cost: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Role that each request requires. Every route is listed here.
    const ROLES: &str = "
        viewer   GET     /
        viewer   GET     /metrics
        viewer   GET     /openapi.json
        viewer   GET     /openapi.yaml
        viewer   GET     /v1
        admin    GET     /v1/audit
        admin    GET     /v1/backup
        viewer   GET     /v1/bridges
        operator POST    /v1/bridges
        operator DELETE  /v1/bridges/{name}
        viewer   GET     /v1/bridges/{name}
        operator PATCH   /v1/bridges/{name}
        operator PUT     /v1/bridges/{name}
        viewer   GET     /v1/bridges/{name}/fdb
        viewer   GET     /v1/bridges/{name}/ports
        viewer   GET     /v1/events
        viewer   GET     /v1/graph
        viewer   GET     /v1/health
        viewer   GET     /v1/host/addresses
        viewer   GET     /v1/host/links
        viewer   GET     /v1/host/neighbours
        viewer   GET     /v1/host/routes
        viewer   GET     /v1/host/rules
        viewer   GET     /v1/links
        operator POST    /v1/links
        operator DELETE  /v1/links/{name}
        viewer   GET     /v1/links/{name}
        operator PATCH   /v1/links/{name}
        operator PUT     /v1/links/{name}
        viewer   GET     /v1/namespaces
        operator POST    /v1/namespaces
        operator DELETE  /v1/namespaces/{name}
        viewer   GET     /v1/namespaces/{name}
        operator PATCH   /v1/namespaces/{name}
        operator PUT     /v1/namespaces/{name}
        viewer   GET     /v1/namespaces/{name}/addresses
        operator GET     /v1/namespaces/{name}/exec
        operator POST    /v1/namespaces/{name}/exec
        viewer   GET     /v1/namespaces/{name}/links
        viewer   GET     /v1/namespaces/{name}/neighbours
        operator POST    /v1/namespaces/{name}/ping
        viewer   GET     /v1/namespaces/{name}/processes
        viewer   GET     /v1/namespaces/{name}/routes
        viewer   GET     /v1/namespaces/{name}/rules
        viewer   GET     /v1/processes/{pid}/namespace
        viewer   GET     /v1/ready
        operator POST    /v1/reconcile
        admin    GET     /v1/tokens
        admin    POST    /v1/tokens
        admin    DELETE  /v1/tokens/{name}
        admin    GET     /v1/tokens/{name}
        viewer   GET     /v1/topology
        operator PATCH   /v1/topology
        operator PUT     /v1/topology
        viewer   GET     /v1/veths
        operator POST    /v1/veths
        operator DELETE  /v1/veths/{name}
        viewer   GET     /v1/veths/{name}
        operator PATCH   /v1/veths/{name}
        operator PUT     /v1/veths/{name}
        viewer   GET     /v1/veths/{name}/endpoints/{end}
        operator PATCH   /v1/veths/{name}/endpoints/{end}
";

    #[test]
    fn every_route_requires_its_role() {
        let required: BTreeSet<String> = all()
            .iter()
            .map(|route| format!("{} {} {}", route.policy.role, route.method, route.path))
            .collect();
        let listed: BTreeSet<String> = ROLES
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .filter(|line| !line.is_empty())
            .collect();
        assert_eq!(required, listed);
    }

    #[test]
    fn routes_of_one_path_agree_on_scope() {
        for (path, methods) in &index().policies {
            let scopes: Vec<RouteScope> = methods.iter().map(|(_, policy)| policy.scope).collect();
            assert!(
                scopes.iter().all(|scope| *scope == scopes[0]),
                "{path}: {scopes:?}"
            );
            let names_resource = matches!(scopes[0], Resource(_));
            assert!(!names_resource || path.contains("{name}"), "{path}");
        }
    }

    #[test]
    fn reads_are_not_audited_and_writes_are() {
        let audited = |method: Method, path: &str, query: Option<&str>| {
            let policy = index().policy(&method, Some(path));
            policy.audit.applies(query)
        };
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            for path in ["/v1/audit", "/v1/veths", "/v1/reconcile", "/none"] {
                assert!(!audited(method.clone(), path, None), "{method} {path}");
            }
            assert!(audited(method, "/v1/namespaces/{name}/exec", None));
        }
        for query in [None, Some("dry_run=false"), Some("dry_run=yes")] {
            assert!(audited(Method::DELETE, "/v1/veths/{name}", query));
        }
        for query in ["wait=true&dry_run=true", "dry_run=tru%65"] {
            assert!(!audited(Method::DELETE, "/v1/veths/{name}", Some(query)));
        }
        assert!(audited(Method::POST, "/v1/health", None));
    }

    #[test]
    fn missing_method_needs_a_role_of_its_path() {
        let role = |method: Method, path: Option<&str>| index().policy(&method, path).role;
        assert_eq!(role(Method::PUT, Some("/v1/audit")), Role::Admin);
        assert_eq!(role(Method::PUT, Some("/v1/health")), Role::Operator);
        assert_eq!(role(Method::GET, Some("/v1/reconcile")), Role::Viewer);
        assert_eq!(role(Method::HEAD, Some("/v1/tokens")), Role::Admin);
        assert_eq!(role(Method::POST, None), Role::Operator);
        assert_eq!(role(Method::GET, None), Role::Viewer);
    }
}
