//! Tests of the routes as a whole.

use std::collections::BTreeSet;

use super::{openapi, table};
use crate::access::rules;

#[test]
fn every_path_is_described_and_none_else() {
    let served: BTreeSet<String> = table()
        .into_iter()
        .map(|(path, _)| path.to_owned())
        .collect();
    let described: BTreeSet<String> = openapi().paths.into_iter().map(|(path, _)| path).collect();
    assert_eq!(served, described);
}

/// Which role each request needs. A route that is added is added here.
const ROLES: &str = "
    viewer   GET     /
    viewer   GET     /metrics
    viewer   GET     /openapi.json
    viewer   GET     /openapi.yaml
    viewer   GET     /v1
    admin    GET     /v1/audit
    viewer   GET     /v1/bridges
    operator POST    /v1/bridges
    operator DELETE  /v1/bridges/{name}
    viewer   GET     /v1/bridges/{name}
    operator PATCH   /v1/bridges/{name}
    operator PUT     /v1/bridges/{name}
    viewer   GET     /v1/bridges/{name}/fdb
    viewer   GET     /v1/bridges/{name}/ports
    viewer   GET     /v1/events
    viewer   GET     /v1/health
    viewer   GET     /v1/host/addresses
    viewer   GET     /v1/host/links
    viewer   GET     /v1/host/neighbours
    viewer   GET     /v1/host/routes
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
fn every_route_has_its_role() {
    let description = serde_json::to_value(openapi()).unwrap();
    let mut needed = BTreeSet::new();
    for (path, operations) in description["paths"].as_object().unwrap() {
        for method in operations
            .as_object()
            .unwrap()
            .keys()
            .map(|method| method.to_uppercase())
        {
            let role = rules::needs(&method.parse().unwrap(), path);
            needed.insert(format!("{role} {method} {path}"));
        }
    }
    let written: BTreeSet<String> = ROLES
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|line| !line.is_empty())
        .collect();
    assert_eq!(needed, written);
}
