//! `examples/*.yaml`: each is applied, does what its comment says, and applied again changes
//! nothing.

mod common;

use std::{fs, path::Path};

use common::{Host, skip::has};
use serde_json::{Value, json};

/// A ping that a document's comment promises.
struct Promise {
    /// The namespace that it comes from; none is the host.
    from: Option<String>,
    to: String,
    answered: bool,
}

struct Example {
    text: String,
    promises: Vec<Promise>,
    /// Number of resources that it names.
    resources: usize,
}

/// Every link of every namespace, by what would not be the same had it been made anew.
fn links(host: &Host) -> Vec<Value> {
    let names = host.ip(&["netns", "list"]);
    let inside = names
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|ns| ns["name"].as_str());
    let of = |prefix: &[&str]| {
        host.ip(&[prefix, &["link"]].concat())
            .as_array()
            .cloned()
            .unwrap_or_default()
    };
    let all = inside.flat_map(|name| of(&["-n", name])).chain(of(&[]));
    all.map(|link| {
        json!([
            link["ifindex"],
            link["ifname"],
            link["address"],
            link["master"]
        ])
    })
    .collect()
}

fn path(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(name)
}

impl Example {
    fn read(name: &str) -> Self {
        let text = fs::read_to_string(path(name)).unwrap();
        let promises: Vec<Promise> = text.lines().filter_map(promise).collect();
        assert!(!promises.is_empty(), "{name} promises nothing");
        let resources = text.lines().filter(|line| line.starts_with("  - ")).count();
        Self {
            text,
            promises,
            resources,
        }
    }

    #[track_caller]
    fn patch(&self, host: &Host) -> Value {
        host.raw(
            "PATCH",
            "/v1/topology",
            &[("content-type", "application/yaml")],
            self.text.clone().into_bytes(),
        )
        .ok()
    }

    /// Applies it twice.
    #[track_caller]
    fn apply(&self, host: &Host) {
        let first = self.patch(host);
        assert_eq!(
            first["created"].as_array().unwrap().len(),
            self.resources,
            "{first}"
        );
        assert_eq!(
            (&first["updated"], &first["deleted"], &first["unchanged"]),
            (&json!([]), &json!([]), &json!(0))
        );
        let before = links(host);
        let second = self.patch(host);
        assert_eq!(
            second,
            json!({"created": [], "updated": [], "deleted": [], "unchanged": self.resources})
        );
        assert_eq!(before, links(host));
    }

    fn keep_promises(&self, host: &Host) {
        let with_ping = has("ping");
        for Promise { from, to, answered } in &self.promises {
            if let Some(from) = from {
                // The first packet may wait for a bridge port that is only just up.
                let body = json!({"address": to, "count": if *answered { 3 } else { 1 }});
                let result = host.post(&format!("/v1/namespaces/{from}/ping"), body).ok();
                assert_eq!(
                    result["received"].as_u64() > Some(0),
                    *answered,
                    "{from:?} to {to}: {result}"
                );
            }
            if with_ping {
                let inside = from
                    .as_ref()
                    .map(|from| format!("ip netns exec {from} "))
                    .unwrap_or_default();
                let output = host.sh(&format!(
                    "{inside}ping -n -c 1 -W {} {to}",
                    if *answered { 10 } else { 1 }
                ));
                let said = String::from_utf8_lossy(&output.stdout);
                assert_eq!(
                    said.contains(&format!("bytes from {to}")),
                    *answered,
                    "{from:?} to {to}: {said}"
                );
            }
        }
    }
}

/// `# netnsctl netns ping NAME ADDRESS` or, from the host, `# ping ADDRESS`; `# no answer` may
/// follow.
fn promise(line: &str) -> Option<Promise> {
    let line = line.strip_prefix("# ")?;
    let (command, answered) = match line.split_once('#') {
        Some((command, "no answer" | " no answer")) => (command, false),
        _ => (line, true),
    };
    match command.split_whitespace().collect::<Vec<_>>()[..] {
        ["netnsctl", "netns", "ping", from, to] => Some(Promise {
            from: Some(from.to_owned()),
            to: to.to_owned(),
            answered,
        }),
        ["ping", to] => Some(Promise {
            from: None,
            to: to.to_owned(),
            answered,
        }),
        _ => None,
    }
}

fn works(name: &str) -> Host {
    let host = Host::started();
    let example = Example::read(name);
    example.apply(&host);
    example.keep_promises(&host);
    host
}

#[test]
fn two_namespaces_example_works() {
    works("two-namespaces.yaml");
}

#[test]
fn bridge_lan_example_works() {
    works("bridge-lan.yaml");
}

#[test]
fn router_example_works() {
    let host = works("router.yaml");
    let links = host.ip(&["link"]);
    assert_eq!(
        links.as_array().unwrap().len(),
        1,
        "the host has no part in it: {links}"
    );
}

#[test]
fn fifty_nodes_example_works() {
    let host = works("fifty-nodes.yaml");
    assert_eq!(host.ip(&["netns", "list"]).as_array().unwrap().len(), 50);
    assert_eq!(host.bridge(&["link"]).as_array().unwrap().len(), 50);
    // Read, and deleted, as one.
    host.put("/v1/namespaces/beside", json!({})).ok();
    let lab = host.get("/v1/topology?label=lab=fifty").ok();
    assert_eq!(lab["namespaces"].as_array().unwrap().len(), 50);
    let result = host.put("/v1/topology?label=lab=fifty", json!({})).ok();
    assert_eq!(result["deleted"].as_array().unwrap().len(), 101);
    assert_eq!(host.ip(&["netns", "list"]), json!([{"name": "beside"}]));
}

#[test]
fn vpn_jail_example_works() {
    let host = works("vpn-jail.yaml");
    let links = host.ip(&["-n", "jail", "link"]);
    let names: Vec<_> = links
        .as_array()
        .unwrap()
        .iter()
        .map(|link| link["ifname"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["lo", "eth0"], "one way out");

    let script = json!({"argv": ["cat", "/etc/resolv.conf"]});
    let resolv = host.post("/v1/namespaces/jail/exec", script).ok();
    let lines: Vec<_> = resolv["stdout"]
        .as_str()
        .unwrap()
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    assert_eq!(
        lines,
        [
            "nameserver 192.0.2.53",
            "search jail.example",
            "options timeout:1"
        ]
    );

    let script = "cat /etc/nsswitch.conf; ls -A /run/systemd/resolve /run/nscd 2>/dev/null; true";
    host.sh("mkdir -p /run/systemd/resolve /run/nscd; touch /run/systemd/resolve/io.systemd.Resolve /run/nscd/socket");
    let inside = host
        .post(
            "/v1/namespaces/jail/exec",
            json!({"argv": ["sh", "-c", script]}),
        )
        .ok();
    let inside = inside["stdout"].as_str().unwrap();
    for leak in ["resolve ", "mdns", "io.systemd.Resolve", "socket"] {
        assert!(
            !inside
                .lines()
                .any(|line| !line.starts_with('#') && line.contains(leak)),
            "{leak}: {inside}"
        );
    }

    let ask = || {
        host.post(
            "/v1/namespaces/jail/ping",
            json!({"address": "192.0.2.53", "count": 3}),
        )
        .ok()
    };
    let tunnel = |up: bool| {
        host.patch("/v1/veths/tunnel/endpoints/0", json!({"up": up}))
            .ok()
    };
    tunnel(false);
    let down = ask();
    assert_eq!(down["received"], 0, "{down}");
    let error = down["replies"][0]["error"]
        .as_str()
        .unwrap_or_default()
        .to_lowercase();
    assert!(
        error.contains("unreachable"),
        "the jail is told at once: {down}"
    );
    tunnel(true);
    assert_eq!(ask()["received"], 3, "and is let out again");
}

/// A service that it is dropped into is one to systemd, whatever else this machine has.
#[test]
fn service_example_is_a_valid_unit() {
    if !has("systemd-analyze") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
    for unit in ["netns@.service", "netnsd.service"] {
        fs::copy(units.join(unit), dir.path().join(unit)).unwrap();
    }
    let service = dir.path().join("lives.service");
    fs::write(&service, "[Service]\nExecStart=/bin/sleep infinity\n").unwrap();
    fs::create_dir(dir.path().join("lives.service.d")).unwrap();
    fs::copy(
        path("service-in-netns.conf"),
        dir.path().join("lives.service.d/netns.conf"),
    )
    .unwrap();
    let verify = |service: &Path| {
        let mut command = std::process::Command::new("systemd-analyze");
        command
            .args(["verify", "--man=no"])
            .arg(service)
            .env("SYSTEMD_UNIT_PATH", dir.path());
        String::from_utf8(command.output().unwrap().stderr).unwrap()
    };
    assert!(
        !verify(&service).contains("netns.conf"),
        "{}",
        verify(&service)
    );
    // It would tell of a mistake.
    fs::write(
        dir.path().join("lives.service.d/other.conf"),
        "[Service]\nInaccessiblePath=/x\n",
    )
    .unwrap();
    assert!(
        verify(&service).contains("other.conf:2"),
        "{}",
        verify(&service)
    );
}

#[test]
fn all_examples_work_side_by_side() {
    let host = Host::started();
    let mut names: Vec<_> = fs::read_dir(path(""))
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "bridge-lan.yaml",
            "fifty-nodes.yaml",
            "router.yaml",
            "two-namespaces.yaml",
            "vpn-jail.yaml"
        ]
    );
    let resources: usize = names
        .iter()
        .map(|name| {
            let example = Example::read(name);
            example.apply(&host);
            example.resources
        })
        .sum();
    // An export can be put back, as YAML and as JSON.
    let put = |kind: &str, body: Vec<u8>| {
        host.raw("PUT", "/v1/topology", &[("content-type", kind)], body)
            .ok()
    };
    let all = host.get("/v1/topology").ok();
    let nothing = json!({"created": [], "updated": [], "deleted": [], "unchanged": resources});
    assert_eq!(
        put("application/json", all.to_string().into_bytes()),
        nothing
    );
}
