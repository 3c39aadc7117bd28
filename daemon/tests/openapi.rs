//! The committed `openapi.yaml` is what the code says, and its examples are what the daemon
//! answers. `NETNSD_WRITE_OPENAPI=1 cargo test -p netnsd --test openapi`, done twice, records the
//! answers, which are compiled in, and writes it with them.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use common::Host;
use serde_json::{Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn writes() -> bool {
    std::env::var_os("NETNSD_WRITE_OPENAPI").is_some()
}

/// Answers that have no example: they are text, or a stream, or of a link, of which the kernel may
/// lack every type.
const WITHOUT: [&str; 9] = [
    "exec_socket",
    "metrics",
    "openapi_json",
    "openapi_yaml",
    "create_link",
    "get_link",
    "put_link",
    "patch_link",
    "delete_link",
];

/// Asks for one answer of each operation: its id, and the request.
fn asked() -> Vec<(&'static str, &'static str, String, Value)> {
    let none = Value::Null;
    let ends = json!([{"namespace": "net0", "interface": "eth0", "addresses": ["10.1.1.1/24"]},
        {"interface": "port0", "bridge": "br0", "port": {"hairpin": true}}]);
    let mut all: Vec<(&str, &str, &str, Value)> = vec![
        (
            "create_namespace",
            "POST",
            "/v1/namespaces",
            json!({"name": "net0", "netnsid": 100, "labels": {"team": "lab"},
            "routes": [{"destination": "default", "via": "10.1.1.254"}], "sysctls": {"net.ipv4.ip_forward": "1"}}),
        ),
        ("put_namespace", "PUT", "/v1/namespaces/net1", json!({})),
        (
            "create_bridge",
            "POST",
            "/v1/bridges",
            json!({"name": "br0", "addresses": ["10.1.1.254/24"]}),
        ),
        (
            "create_veth",
            "POST",
            "/v1/veths",
            json!({"name": "lan0", "endpoints": ends}),
        ),
        (
            "put_veth",
            "PUT",
            "/v1/veths/cable",
            json!({"endpoints": [{}, {"namespace": "net1"}]}),
        ),
        (
            "put_bridge",
            "PUT",
            "/v1/bridges/br0",
            json!({"addresses": ["10.1.1.254/24"], "stp": false}),
        ),
        (
            "patch_namespace",
            "PATCH",
            "/v1/namespaces/net1",
            json!({"labels": {"team": "lab"}}),
        ),
        (
            "patch_bridge",
            "PATCH",
            "/v1/bridges/br0",
            json!({"labels": {"team": "lab"}}),
        ),
        (
            "patch_veth",
            "PATCH",
            "/v1/veths/cable",
            json!({"labels": {"team": "lab"}}),
        ),
        (
            "patch_endpoint",
            "PATCH",
            "/v1/veths/lan0/endpoints/0",
            json!({"mtu": 1400}),
        ),
        (
            "ping",
            "POST",
            "/v1/namespaces/net0/ping",
            json!({"address": "10.1.1.254"}),
        ),
        (
            "exec",
            "POST",
            "/v1/namespaces/net0/exec",
            json!({"argv": ["echo", "hello"]}),
        ),
        (
            "patch_topology",
            "PATCH",
            "/v1/topology",
            json!({"namespaces": [{"name": "net2"}]}),
        ),
        (
            "delete_namespace",
            "DELETE",
            "/v1/namespaces/net2?dry_run=true",
            none.clone(),
        ),
        (
            "delete_bridge",
            "DELETE",
            "/v1/bridges/br0?dry_run=true&cascade=true",
            none.clone(),
        ),
        (
            "delete_veth",
            "DELETE",
            "/v1/veths/cable?dry_run=true",
            none.clone(),
        ),
        (
            "create_token",
            "POST",
            "/v1/tokens",
            json!({"name": "ci", "role": "operator", "prefix": "ci-"}),
        ),
        ("reconcile", "POST", "/v1/reconcile", none.clone()),
    ];
    for (id, path) in [
        ("list_namespaces", "/v1/namespaces"),
        ("get_namespace", "/v1/namespaces/net0"),
        ("list_bridges", "/v1/bridges"),
        ("get_bridge", "/v1/bridges/br0"),
        ("list_veths", "/v1/veths"),
        ("list_links", "/v1/links"),
        ("get_veth", "/v1/veths/lan0"),
        ("get_endpoint", "/v1/veths/lan0/endpoints/1"),
        ("get_topology", "/v1/topology"),
        ("graph", "/v1/graph"),
        ("index", "/"),
        ("about", "/v1"),
        ("health", "/v1/health"),
        ("ready", "/v1/ready"),
        ("bridge_ports", "/v1/bridges/br0/ports"),
        ("bridge_fdb", "/v1/bridges/br0/fdb"),
        ("host_links", "/v1/host/links?settings=true"),
        ("host_addresses", "/v1/host/addresses"),
        ("host_routes", "/v1/host/routes"),
        ("host_rules", "/v1/host/rules"),
        ("host_neighbours", "/v1/host/neighbours"),
        ("namespace_links", "/v1/namespaces/net0/links"),
        ("namespace_addresses", "/v1/namespaces/net0/addresses"),
        ("namespace_routes", "/v1/namespaces/net0/routes"),
        ("namespace_rules", "/v1/namespaces/net0/rules"),
        ("namespace_neighbours", "/v1/namespaces/net0/neighbours"),
        ("namespace_processes", "/v1/namespaces/net0/processes"),
        ("process_namespace", "/v1/processes/{pid}/namespace"),
        ("events", "/v1/events?name=net0"),
        ("list_tokens", "/v1/tokens"),
        ("get_token", "/v1/tokens/ci"),
        ("audit", "/v1/audit?limit=1"),
    ] {
        all.push((id, "GET", path, none.clone()));
    }
    let mut all: Vec<_> = all
        .into_iter()
        .map(|(id, method, path, body)| (id, method, path.to_owned(), body))
        .collect();
    all.push((
        "put_topology",
        "PUT",
        "/v1/topology".into(),
        json!({"namespaces": [{"name": "net0"}]}),
    ));
    all
}

/// Returns the daemon's answer to each.
fn answers() -> BTreeMap<String, Value> {
    let host = Host::started();
    let mut sleeper: Option<std::process::Child> = None;
    let mut answers: BTreeMap<String, Value> = BTreeMap::new();
    for (id, method, path, body) in asked() {
        if id == "namespace_processes" {
            sleeper = Some(host.spawn(&["ip", "netns", "exec", "net0", "sleep", "600"]));
            host.until("it sleeps there", || {
                host.get("/v1/namespaces/net0/processes").ok()["items"] != json!([])
            });
        }
        let headers = [
            ("content-type", "application/json"),
            ("accept", "application/json"),
        ];
        // The one that was listed just before: a sandbox may look at no process outside it.
        let listed = answers
            .get("namespace_processes")
            .map(|answer| answer["items"][0]["pid"].to_string());
        let path = path.replace("{pid}", &listed.unwrap_or_default());
        let text = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        let answer = host.raw(method, &path, &headers, text);
        assert!(answer.status < 300, "{id}: {}", answer.json);
        answers.insert(id.to_owned(), answer.json);
    }
    if let Some(mut sleeper) = sleeper {
        let _ = sleeper.kill();
        let _ = sleeper.wait();
    }
    answers
}

/// Says where a value is not as its schema says; a member that the schema does not have is a
/// mistake too.
fn misfit(value: &Value, schema: &Value, root: &Value) -> Option<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        return misfit(
            value,
            root.pointer(&reference[1..])
                .expect("references lead somewhere"),
            root,
        );
    }
    if let Some(any) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
        let misfits: Vec<String> = any
            .iter()
            .map_while(|one| misfit(value, one, root))
            .collect();
        return (misfits.len() == any.len()).then(|| misfits.join(", or "));
    }
    let types = match &schema["type"] {
        Value::Array(types) => types.clone(),
        Value::Null => Vec::new(),
        one => vec![one.clone()],
    };
    let is = |name: &Value| match (name.as_str().unwrap(), value) {
        ("null", Value::Null) | ("boolean", Value::Bool(_)) | ("string", Value::String(_)) => true,
        ("number", Value::Number(_))
        | ("array", Value::Array(_))
        | ("object", Value::Object(_)) => true,
        ("integer", Value::Number(number)) => !number.is_f64(),
        _ => false,
    };
    if !types.is_empty() && !types.iter().any(is) {
        return Some(format!("{value} is not one of {types:?}"));
    }
    let of = |enumeration: &Vec<Value>| !enumeration.contains(value);
    if schema["enum"].as_array().is_some_and(of) {
        return Some(format!("{value} is not one of {}", schema["enum"]));
    }
    match value {
        Value::Array(items) => items
            .iter()
            .find_map(|item| misfit(item, &schema["items"], root)),
        Value::Object(map) => {
            let missing = |field: &&Value| !map.contains_key(field.as_str().unwrap());
            let missing = schema["required"]
                .as_array()
                .into_iter()
                .flatten()
                .find(missing);
            let member = |(key, value): (&String, &Value)| match (
                &schema["properties"][key],
                &schema["additionalProperties"],
            ) {
                (Value::Null, Value::Null) if schema["properties"].is_null() => None,
                (Value::Null, Value::Object(_)) => {
                    misfit(value, &schema["additionalProperties"], root)
                }
                (Value::Null, _) => Some("it has no place in the schema".to_owned()),
                (schema, _) => misfit(value, schema, root),
            };
            let wrong = map
                .iter()
                .find_map(|entry| Some(format!("{}: {}", entry.0, member(entry)?)));
            missing.map(|field| format!("{field} is missing")).or(wrong)
        }
        _ => None,
    }
}

#[test]
fn answers_match_their_schemas() {
    if !common::skip::has("ip") {
        return;
    }
    let openapi: Value = serde_json::from_str(&netnsd::http::openapi().to_json().unwrap()).unwrap();
    let paths = openapi["paths"].as_object().unwrap();
    let operations: Vec<&Value> = paths
        .values()
        .flat_map(|path| path.as_object().unwrap().values())
        .collect();
    for (id, answer) in answers() {
        let operation = operations
            .iter()
            .find(|operation| operation["operationId"] == id.as_str())
            .unwrap();
        let schema = |status: &str| {
            operation["responses"][status]["content"]["application/json"]["schema"].clone()
        };
        let misfits: Vec<String> = ["200", "201"]
            .iter()
            .map(|status| schema(status))
            .filter(|schema| !schema.is_null())
            .filter_map(|schema| misfit(&answer, &schema, &openapi))
            .collect();
        let schemas = ["200", "201"]
            .iter()
            .filter(|status| !schema(status).is_null())
            .count();
        assert!(
            misfits.len() < schemas.max(1),
            "{id}: {misfits:?}\n{answer}"
        );
    }
    // An answer can be put back: a request's schema allows the fields that only answers have.
    let schemas = &openapi["components"]["schemas"];
    for kind in ["Namespace", "Bridge", "Veth"] {
        let fields = |of: &str| -> BTreeSet<String> {
            schemas[format!("{kind}{of}")]["properties"]
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect()
        };
        assert!(
            fields("Answer").is_subset(&fields("Put"))
                && fields("Answer").is_subset(&fields("Patch")),
            "{kind}"
        );
        assert_eq!(schemas[format!("{kind}Put")]["required"], Value::Null);
        assert_eq!(schemas[kind]["additionalProperties"], false);
    }
}

/// Where in a value there is something, whatever it is.
fn places(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    found.insert(at.to_owned());
    match value {
        Value::Object(map) => map
            .iter()
            .for_each(|(key, value)| places(value, &format!("{at}/{key}"), found)),
        Value::Array(items) => items
            .iter()
            .for_each(|item| places(item, &format!("{at}/*"), found)),
        _ => {}
    }
}

#[test]
fn examples_match_real_answers() {
    if !common::skip::has("ip") {
        return;
    }
    let path = root().join("daemon/src/http/openapi/answers.json");
    let mut recorded: BTreeMap<String, Value> =
        serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    for (id, answer) in answers() {
        let (mut now, mut then) = (BTreeSet::new(), BTreeSet::new());
        places(&answer, "", &mut now);
        places(recorded.get(&id).unwrap_or(&Value::Null), "", &mut then);
        if now != then && writes() {
            recorded.insert(id, answer);
        } else {
            assert!(
                now == then,
                "{id} is answered otherwise by now: {:?}",
                now.symmetric_difference(&then)
            );
        }
    }
    if writes() {
        return fs::write(
            &path,
            serde_json::to_string_pretty(&recorded).unwrap() + "\n",
        )
        .unwrap();
    }
    // None is left out.
    let openapi: Value = serde_json::from_str(&netnsd::http::openapi().to_json().unwrap()).unwrap();
    let operations = openapi["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|path| path.as_object().unwrap().values());
    for operation in operations {
        let id = operation["operationId"].as_str().unwrap();
        let answer = ["201", "200"].iter().find_map(|status| {
            let json = &operation["responses"][status]["content"]["application/json"];
            (!json.is_null()).then_some(json)
        });
        if let Some(answer) = answer.filter(|_| !WITHOUT.contains(&id)) {
            assert!(
                !answer["example"].is_null(),
                "{id} has no example of its answer"
            );
        }
    }
}

#[test]
fn openapi_yaml_is_current() {
    let path = root().join("openapi.yaml");
    let now = netnsd::http::openapi().to_yaml().unwrap();
    if writes() {
        fs::write(&path, &now).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == now,
        "openapi.yaml is stale: NETNSD_WRITE_OPENAPI=1 cargo test -p netnsd --test openapi (twice)"
    );
}
