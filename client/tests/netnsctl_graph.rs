//! `netnsctl graph`: drawings of the real network and of documents.

mod common;

use std::{fs, path::Path};

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A document with an end that is down, and a namespace whose route cannot be set yet.
const BROKEN: &str = "
namespaces:
- {name: left}
- {name: right}
- {name: waits, routes: [{destination: default, via: 10.9.9.9}]}
veths:
- name: lan
  endpoints:
  - {namespace: left, interface: eth0}
  - {namespace: right, interface: eth0, up: false}
";

#[test]
fn router_is_drawn_as_in_the_readme() {
    let host = host!();
    assert_eq!(host.run_ok(&["graph"]), "nothing recorded\n");
    let document = root().join("examples/router.yaml");
    let document = document.to_str().unwrap();
    host.run_ok(&["apply", "-f", document]);
    let mut drawing = String::new();
    host.wait_until("all links are up", || {
        drawing = host.run_ok(&["graph"]);
        !drawing.contains("DOWN")
    });
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(
        readme.contains(&drawing),
        "README.md does not show:\n{drawing}"
    );
    // Without the kernel's states it is the same.
    let planned = host.run_ok(&["graph", "-f", document]);
    let without_states: String = drawing
        .lines()
        .map(|line| {
            line.strip_suffix("up")
                .unwrap_or(line)
                .trim_end()
                .to_owned()
                + "\n"
        })
        .collect();
    assert_eq!(planned, without_states);
}

#[test]
fn states_and_foreign_devices_are_marked() {
    let host = host!();
    fs::write(host.dir.path().join("broken.yaml"), BROKEN).unwrap();
    host.run_ok(&["apply", "-f", "broken.yaml"]);
    let made = host.run_script(
        "ip netns add byhand && ip link add br9 type bridge &&
         ip link add base type veth peer name other && ip link set base up",
    );
    assert_eq!((made.code, made.err.as_str()), (Some(0), ""));
    let expected = "\
host
├─ br9                          DOWN unmanaged
├─ base ─── other               DOWN unmanaged
└─ other ── base                DOWN unmanaged
byhand (unmanaged)
left
└─ eth0 ── right:eth0           DOWN
waits (pending)
";
    let squeeze = |text: &str| -> Vec<String> {
        let words = text.lines().map(|line| line.split_whitespace());
        words
            .map(|words| words.collect::<Vec<_>>().join(" "))
            .collect()
    };
    let drawing = host.run_ok(&["graph"]);
    assert_eq!(squeeze(&drawing), squeeze(expected), "{drawing}");
    let colored = host.run_ok(&["--color", "always", "graph"]);
    for text in [
        "\u{1b}[90mbr9\u{1b}[0m",
        "\u{1b}[31mright:eth0\u{1b}[0m",
        "\u{1b}[31mDOWN\u{1b}[0m",
        "\u{1b}[33mwaits\u{1b}[0m",
    ] {
        assert!(colored.contains(text), "{text:?}: {colored:?}");
    }
}

#[test]
fn document_is_drawn_without_a_daemon() {
    let host = host!();
    fs::write(host.dir.path().join("broken.yaml"), BROKEN).unwrap();
    let graph = |options: &[&str]| {
        let url = ["--url", "unix:///nowhere", "graph", "-f", "broken.yaml"];
        host.run_ok(&[&url, options].concat())
    };
    let drawing = "left\n└─ eth0 ── right:eth0\nwaits (empty)\n";
    assert_eq!(graph(&[]), drawing);
    let from_stdin = host.run_script("netnsctl graph -f - <broken.yaml");
    assert_eq!(from_stdin.out, drawing);
    let json: Value = serde_json::from_str(&graph(&["-o", "json"])).unwrap();
    assert_eq!(json["edges"][0]["id"], "pair/lan");
    assert!(graph(&["-o", "yaml"]).contains("id: pair/lan\n"));
    assert_eq!(
        graph(&["-o", "name"]),
        "namespace/left\nnamespace/right\nnamespace/waits\n\
         interface/left/eth0\ninterface/right/eth0\n"
    );
    assert_eq!(
        graph(&["--mermaid"]),
        "\
flowchart LR
  subgraph n0[\"left\"]
    n3[\"eth0\"]
  end
  subgraph n1[\"right\"]
    n4[\"eth0\"]
  end
  subgraph n2[\"waits\"]
  end
  n3 === n4
"
    );
    assert!(graph(&["--dot"]).contains("\"interface/left/eth0\" -- \"interface/right/eth0\""));

    host.run(&["graph", "-f", "none.yaml"])
        .assert_failed(2, &["cannot read none.yaml"]);
    assert_eq!(host.run(&["graph", "--mermaid", "--dot"]).code, Some(2));
    host.run(&["--dry-run", "graph"])
        .assert_failed(2, &["--dry-run"]);
}
