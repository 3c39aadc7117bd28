//! `GET /v1/graph` against `ip -j`: what netnsd made, what others made, and what a caller sees.

mod common;

use std::{
    collections::BTreeSet,
    io::Write,
    process::{Command, Stdio},
};

use common::{Host, skip::has};
use serde_json::{Value, json};

const MERMAID: &str = "text/vnd.mermaid";
const GRAPHVIZ: &str = "text/vnd.graphviz";

/// A network of netnsd's, and beside it one that others made.
fn make_networks(host: &Host) {
    host.put(
        "/v1/bridges/lan",
        json!({"interface": "br-lan", "addresses": ["10.2.0.254/24"]}),
    )
    .ok();
    host.put("/v1/namespaces/net0", json!({})).ok();
    host.put(
        "/v1/namespaces/waits",
        json!({"routes": [{"destination": "default", "via": "10.9.9.9"}]}),
    )
    .ok();
    let ends = json!([
        {"namespace": "net0", "interface": "eth0", "addresses": ["10.2.0.1/24", "fd00::1/64"]},
        {"interface": "port0", "bridge": "lan"}]);
    host.put("/v1/veths/lan0", json!({"endpoints": ends})).ok();
    let made = host.sh("set -e
        ip netns add byhand
        ip link add docker0 type bridge
        ip link add veth1 master docker0 type veth peer name eth0 netns byhand
        ip -n byhand address add 172.16.0.1/24 dev eth0
        ip -n byhand address add 192.0.2.1/32 dev lo
        ip -n net0 link add left type veth peer name right
        # Not every kernel has macvlan.
        ip link add mv0 link veth1 netns byhand type macvlan || true");
    assert!(made.status.success(), "{made:?}");
}

/// Returns the answer as text with its media type.
fn get_as(host: &Host, accept: &str) -> (String, String) {
    host.typed(async |client| {
        let headers = [("accept", accept)];
        let answer = client.request(http::Method::GET, "/v1/graph", &headers, "");
        let answer = answer.await.unwrap();
        let kind = answer.header("content-type").unwrap_or_default().to_owned();
        (String::from_utf8(answer.body.to_vec()).unwrap(), kind)
    })
}

/// Returns the nodes of devices as `NAMESPACE/DEVICE ADDRESSES`, by `ip -j`.
fn devices_by_ip(host: &Host) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for namespace in ["", "net0", "waits", "byhand"] {
        let of = ["-n", namespace];
        let of = if namespace.is_empty() { &[][..] } else { &of };
        let links = host.ip(&[of, &["address"]].concat());
        for link in links.as_array().unwrap() {
            let name = link["ifname"].as_str().unwrap();
            let addresses: Vec<String> = link["addr_info"]
                .as_array()
                .unwrap()
                .iter()
                .map(|address| {
                    format!(
                        "{}/{}",
                        address["local"].as_str().unwrap(),
                        address["prefixlen"]
                    )
                })
                .collect();
            // The tunnels that each namespace has by itself.
            if name != "lo" && link["link_type"] == "ether" {
                let state = link["operstate"].as_str().unwrap().to_lowercase();
                found.insert(format!(
                    "{namespace}/{name} {state} {}",
                    addresses.join(" ")
                ));
            }
        }
    }
    found
}

fn devices_by_graph(graph: &Value) -> BTreeSet<String> {
    let nodes = graph["nodes"].as_array().unwrap().iter();
    let devices = nodes.filter(|node| node["kind"] == "bridge" || node["kind"] == "interface");
    devices
        .map(|node| {
            let namespace = node["namespace"].as_str().unwrap_or_default();
            // The bridge has another name than its device.
            let name = match node["id"].as_str().unwrap() {
                "bridge/lan" => "br-lan",
                _ => node["name"].as_str().unwrap(),
            };
            let addresses: Vec<&str> = node["addresses"]
                .as_array()
                .unwrap()
                .iter()
                .map(|address| address.as_str().unwrap())
                .collect();
            let state = node["operstate"].as_str().unwrap();
            format!("{namespace}/{name} {state} {}", addresses.join(" "))
        })
        .collect()
}

#[test]
fn graph_agrees_with_ip() {
    let host = Host::started();
    make_networks(&host);
    // Addresses of IPv6 are tentative for a while, and devices get carrier.
    host.until("the graph agrees with ip", || {
        devices_by_graph(&host.get("/v1/graph").ok()) == devices_by_ip(&host)
    });
    let graph = host.get("/v1/graph").ok();
    let nodes = graph["nodes"].as_array().unwrap();
    let node = |id: &str| {
        let found = nodes.iter().find(|node| node["id"] == id);
        found.unwrap_or_else(|| panic!("{id} is not in {nodes:#?}"))
    };
    let state = |id: &str| (node(id)["managed"].clone(), node(id)["state"].clone());
    assert_eq!(state("host"), (json!(false), Value::Null));
    assert_eq!(state("namespace/net0"), (json!(true), json!("in_sync")));
    assert_eq!(state("namespace/waits"), (json!(true), json!("pending")));
    assert_eq!(state("namespace/byhand"), (json!(false), Value::Null));
    assert_eq!(
        node("namespace/byhand")["addresses"],
        json!(["192.0.2.1/32"])
    );
    assert_eq!(state("bridge/lan"), (json!(true), json!("in_sync")));
    assert_eq!(state("bridge//docker0"), (json!(false), Value::Null));
    assert_eq!(state("interface//port0"), (json!(true), json!("in_sync")));
    assert_eq!(state("interface/net0/left"), (json!(false), Value::Null));

    let mut edges: Vec<String> = graph["edges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|edge| {
            let text = |key: &str| edge[key].as_str().unwrap_or("-").to_owned();
            let veth = edge["resource"]["name"].as_str().unwrap_or("-");
            let (id, a, b, state) = (text("id"), text("a"), text("b"), text("state"));
            format!("{id} {a} {b} {veth} {state}")
        })
        .collect();
    let lower = "lower/byhand/mv0 interface/byhand/mv0 interface//veth1 - -";
    let has_macvlan = devices_by_ip(&host)
        .iter()
        .any(|device| device.starts_with("byhand/mv0"));
    if has_macvlan {
        assert_eq!(edges.remove(0), lower);
    }
    assert_eq!(
        edges,
        [
            "pair//veth1 interface//veth1 interface/byhand/eth0 - -",
            "pair/lan0 interface/net0/eth0 interface//port0 lan0 in_sync",
            "pair/net0/left interface/net0/left interface/net0/right - -",
            "port//port0 interface//port0 bridge/lan lan0 in_sync",
            "port//veth1 interface//veth1 bridge//docker0 - -",
        ]
    );
    host.get("/v1/graph?x=y")
        .refused(400, "invalid_query", None);
    // The typed client reads it too.
    let typed = host.typed(async |client| client.get_graph().await.unwrap());
    assert_eq!(typed.nodes.len(), nodes.len());
}

#[test]
fn documents_are_asked_for_by_accept() {
    let host = Host::started();
    make_networks(&host);
    let (json, kind) = get_as(&host, "*/*");
    assert_eq!(kind, "application/json");
    assert!(json.ends_with("}\n"), "{json}");
    let (mermaid, kind) = get_as(&host, MERMAID);
    assert_eq!(kind, MERMAID);
    assert!(
        mermaid.starts_with("flowchart LR\n  subgraph n0[\"host\"]\n"),
        "{mermaid}"
    );
    assert!(
        mermaid.contains("[[\"lan<br>10.2.0.254/24\"]]\n"),
        "{mermaid}"
    );
    let (dot, kind) = get_as(&host, GRAPHVIZ);
    assert_eq!(kind, GRAPHVIZ);
    if !has("dot") {
        return;
    }
    let svg = draw_svg(&dot);
    for text in ["lan", "10.2.0.254/24", "byhand", "eth0"] {
        assert!(svg.contains(&format!(">{text}</text>")), "{text}: {svg}");
    }
}

/// Draws a graph by dot(1).
fn draw_svg(dot: &str) -> String {
    let mut child = Command::new("dot")
        .arg("-Tsvg")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(dot.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && errors.is_empty(),
        "{errors}\n{dot}"
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn prefix_hides_the_rest() {
    let (host, address) = Host::started_on_tcp();
    let url = format!("http://{address}/v1/graph");
    make_networks(&host);
    let secret = host
        .post(
            "/v1/tokens",
            json!({"name": "red", "role": "viewer", "prefix": "red-"}),
        )
        .ok()["secret"]
        .as_str()
        .unwrap()
        .to_owned();
    let see = || {
        let bearer = format!("Authorization: Bearer {secret}");
        host.run(&["curl", "-sS", "-H", &bearer, &url])
    };
    assert_eq!(see(), "{\"nodes\":[],\"edges\":[]}\n");

    host.put("/v1/namespaces/red-a", json!({})).ok();
    host.put("/v1/bridges/red-br", json!({})).ok();
    let ends = json!([{"namespace": "red-a", "interface": "eth0"},
        {"interface": "red-port", "bridge": "red-br"}]);
    host.put("/v1/veths/red-v", json!({"endpoints": ends})).ok();
    let ends = json!([{"namespace": "red-a", "interface": "up0"}, {"namespace": "net0"}]);
    host.put("/v1/veths/uplink", json!({"endpoints": ends}))
        .ok();
    let graph: Value = serde_json::from_str(&see()).unwrap();
    let ids = |list: &str| -> Vec<String> {
        let all = graph[list].as_array().unwrap().iter();
        all.map(|item| item["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        ids("nodes"),
        [
            "host",
            "namespace/red-a",
            "bridge/red-br",
            "interface//red-port",
            "interface/red-a/eth0",
            "interface/red-a/up0"
        ]
    );
    assert_eq!(ids("edges"), ["pair/red-v", "port//red-port"]);
    let up0 = &graph["nodes"][5];
    assert_eq!(
        (&up0["managed"], &up0["state"]),
        (&json!(false), &Value::Null)
    );
}
