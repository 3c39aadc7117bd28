use std::collections::HashMap;

use serde_json::{Value, json};

use super::*;
use crate::{Kind, Topology};

fn document(value: Value) -> Topology {
    serde_json::from_value(value).unwrap()
}

fn graph_of(value: Value) -> Graph {
    Graph::new(&document(value), &HashMap::new(), &[])
}

fn resource(kind: Kind, name: &str) -> ResourceRef {
    ResourceRef::new(kind, name.parse().unwrap())
}

fn link(name: &str, kind: &str) -> KernelLink {
    KernelLink {
        name: name.into(),
        kind: Some(kind.into()),
        operstate: "up".into(),
        ..KernelLink::default()
    }
}

fn peer(namespace: Option<&str>, interface: &str) -> Option<Peer> {
    Some(Peer {
        namespace: namespace.map(str::to_owned),
        interface: interface.into(),
    })
}

fn namespace(name: Option<&str>, links: Vec<KernelLink>) -> KernelNamespace {
    KernelNamespace {
        name: name.map(str::to_owned),
        links,
    }
}

/// Returns the edges as `ID: A B`.
fn edges(graph: &Graph) -> Vec<String> {
    let all = graph.edges.iter();
    all.map(|edge| format!("{}: {} {}", edge.id, edge.a, edge.b))
        .collect()
}

fn node<'g>(graph: &'g Graph, id: &str) -> &'g GraphNode {
    let found = graph.nodes.iter().find(|node| node.id == id);
    found.unwrap_or_else(|| panic!("{id} is not in {:#?}", graph.nodes))
}

fn ids(graph: &Graph) -> Vec<&str> {
    graph.nodes.iter().map(|node| node.id.as_str()).collect()
}

#[test]
fn document_has_what_it_refers_to() {
    let graph = graph_of(json!({"veths": [{"name": "lan0", "endpoints": [
        {"namespace": "net0", "interface": "eth0", "addresses": ["10.0.0.1/24"]},
        {"bridge": "br0"}]}]}));
    assert_eq!(
        ids(&graph),
        [
            "host",
            "namespace/net0",
            "bridge/br0",
            "interface//lan0/1",
            "interface/net0/eth0"
        ]
    );
    assert_eq!(
        edges(&graph),
        [
            "pair/lan0: interface/net0/eth0 interface//lan0/1",
            "port//lan0/1: interface//lan0/1 bridge/br0"
        ]
    );
    assert!(
        graph
            .nodes
            .iter()
            .all(|node| node.state.is_none() && node.operstate.is_none())
    );
    assert_eq!(
        node(&graph, "interface/net0/eth0").addresses,
        ["10.0.0.1/24"]
    );
    assert_eq!(
        Graph::new(&Topology::default(), &HashMap::new(), &[]),
        Graph::default()
    );
}

/// An end that was moved, an end whose place others hold, and a bridge that is not there.
#[test]
fn device_is_where_the_kernel_has_it() {
    let recorded = document(json!({
        "namespaces": [{"name": "net0"}],
        "bridges": [{"name": "br0", "interface": "lan", "addresses": ["10.0.0.9/24"]}],
        "veths": [{"name": "v", "endpoints": [
            {"namespace": "net0", "interface": "eth0"}, {"interface": "v1", "bridge": "br0"}]}],
    }));
    let veth = resource(Kind::Veth, "v");
    let states = HashMap::from([
        (veth.clone(), State::Conflict),
        (resource(Kind::Namespace, "net0"), State::InSync),
        (resource(Kind::Bridge, "br0"), State::Failed),
    ]);
    let live = [
        namespace(
            None,
            vec![KernelLink {
                owner: Some((veth.clone(), 1)),
                addresses: vec!["10.0.0.2/24".into()],
                master: Some("lan".into()),
                ..link("moved", "veth")
            }],
        ),
        namespace(Some("net0"), vec![link("eth0", "dummy")]),
    ];
    let graph = Graph::new(&recorded, &states, &live);
    assert_eq!(
        ids(&graph),
        [
            "host",
            "namespace/net0",
            "bridge/br0",
            "interface//moved",
            "interface/net0/eth0"
        ]
    );
    let held = node(&graph, "interface/net0/eth0");
    assert_eq!((held.managed, held.state), (false, Some(State::Conflict)));
    let moved = node(&graph, "interface//moved");
    assert_eq!((moved.managed, moved.state), (true, Some(State::Conflict)));
    assert_eq!(moved.addresses, ["10.0.0.2/24"]);
    let missing = node(&graph, "bridge/br0");
    assert_eq!(
        (missing.managed, missing.operstate.as_deref()),
        (true, None)
    );
    assert_eq!(missing.addresses, ["10.0.0.9/24"]);
    assert_eq!(
        edges(&graph),
        [
            "pair/v: interface/net0/eth0 interface//moved",
            "port//moved: interface//moved bridge/br0"
        ]
    );
    assert_eq!(graph.edges[1].resource, Some(veth));
}

#[test]
fn foreign_devices_are_unmanaged() {
    let live = [
        namespace(
            None,
            vec![
                link("docker0", "bridge"),
                KernelLink {
                    master: Some("docker0".into()),
                    attached: peer(Some("byhand"), "eth0"),
                    ..link("veth1", "veth")
                },
                // A tag of a resource that is not recorded.
                KernelLink {
                    owner: Some((resource(Kind::Veth, "gone"), 0)),
                    ..link("gone0", "veth")
                },
            ],
        ),
        namespace(
            Some("byhand"),
            vec![
                KernelLink {
                    addresses: vec!["127.0.0.1/8".into(), "192.0.2.1/32".into()],
                    ..link("lo", "loopback")
                },
                link("sit0", "sit"),
                KernelLink {
                    attached: peer(None, "veth1"),
                    ..link("eth0", "veth")
                },
                KernelLink {
                    attached: peer(Some("byhand"), "eth0"),
                    ..link("eth0.5", "vlan")
                },
            ],
        ),
    ];
    let graph = Graph::new(&Topology::default(), &HashMap::new(), &live);
    assert_eq!(
        ids(&graph),
        [
            "host",
            "namespace/byhand",
            "bridge//docker0",
            "interface//gone0",
            "interface//veth1",
            "interface/byhand/eth0",
            "interface/byhand/eth0.5"
        ]
    );
    assert!(graph.nodes.iter().all(|node| !node.managed));
    assert_eq!(node(&graph, "namespace/byhand").addresses, ["192.0.2.1/32"]);
    assert_eq!(
        edges(&graph),
        [
            "lower/byhand/eth0.5: interface/byhand/eth0.5 interface/byhand/eth0",
            "pair//veth1: interface//veth1 interface/byhand/eth0",
            "port//veth1: interface//veth1 bridge//docker0"
        ]
    );
}

/// A graph whose names are as bad as the kernel allows.
fn with_bad_names() -> Graph {
    let live = [
        namespace(None, vec![link("br0", "bridge")]),
        namespace(
            Some("a\"b\\"),
            vec![KernelLink {
                operstate: "down".into(),
                ..link("<b>#\"];end", "dummy")
            }],
        ),
    ];
    Graph::new(&Topology::default(), &HashMap::new(), &live)
}

#[test]
fn mermaid_has_subgraphs_and_escaped_labels() {
    assert_eq!(
        with_bad_names().to_mermaid(),
        "\
flowchart LR
  subgraph n0[\"host\"]
    n2[[\"br0\"]]
  end
  subgraph n1[\"a#34;b#92;\"]
    n3[\"#60;b#62;#35;#34;#93;#59;end<br>down\"]
  end
  classDef unmanaged stroke-dasharray:4 4
  class n1,n2,n3 unmanaged
"
    );
}

#[test]
fn dot_has_clusters_and_escaped_labels() {
    let dot = with_bad_names().to_dot();
    for line in [
        "subgraph \"cluster namespace/a\\\"b\\\\\" {",
        "label=\"a\\\"b\\\\\"; color=gray",
        "\"bridge//br0\" [label=\"br0\", shape=box3d, color=gray]",
        "[label=\"<b>#\\\"];end\\ndown\", color=gray]",
    ] {
        assert!(dot.contains(line), "{line}\n{dot}");
    }
}

#[test]
fn link_of_a_document_is_an_interface_and_may_be_a_port() {
    let recorded = document(json!({
        "bridges": [{"name": "br0"}],
        "links": [{"name": "d0", "type": "dummy", "bridge": "br0", "addresses": ["10.0.0.1/32"]}],
    }));
    let graph = Graph::new(&recorded, &HashMap::new(), &[]);
    assert_eq!(ids(&graph), ["host", "bridge/br0", "interface//d0"]);
    assert_eq!(graph.nodes[2].addresses, ["10.0.0.1/32"]);
    let edge = &graph.edges[0];
    assert_eq!((&*edge.a, &*edge.b), ("interface//d0", "bridge/br0"));
    assert_eq!(edge.resource, Some(resource(Kind::Link, "d0")));
}

#[test]
fn link_of_a_document_is_on_its_lower_device() {
    let recorded = document(json!({
        "namespaces": [{"name": "a"}],
        "links": [
            {"name": "m0", "type": "macvlan", "namespace": "a", "lower": {"interface": "eth0"}},
            {"name": "v0", "type": "vlan", "vlan_id": 7, "lower": {"namespace": "a", "interface": "m0"}},
        ],
    }));
    let graph = Graph::new(&recorded, &HashMap::new(), &[]);
    let ends = |edge: &GraphEdge| (edge.kind, edge.a.clone(), edge.b.clone());
    assert_eq!(
        graph.edges.iter().map(ends).collect::<Vec<_>>(),
        [
            (
                EdgeKind::Lower,
                "interface//v0".into(),
                "interface/a/m0".into()
            ),
            (
                EdgeKind::Lower,
                "interface/a/m0".into(),
                "interface//eth0".into()
            ),
        ]
    );
}
