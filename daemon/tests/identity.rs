//! Whose a thing is, and which thing it is: owner tags, aliases of others, names in `/run/netns`.

mod common;

use common::Host;
use serde_json::{Value, json};

/// A namespace with a pair to a bridge of the host.
fn lab(host: &Host) {
    host.put("/v1/namespaces/net0", json!({})).ok();
    host.put("/v1/bridges/br0", json!({"addresses": ["10.1.0.254/24"]})).ok();
    let ends = json!([{"namespace": "net0", "interface": "eth0", "addresses": ["10.1.0.1/24"]},
        {"interface": "port0", "bridge": "br0"}]);
    host.put("/v1/veths/lan0", json!({"endpoints": ends})).ok();
    host.settled();
}

/// Where the lab has links, as arguments of `ip`.
const LINKS: [&str; 4] =
    ["ip -n net0 link show dev lo", "ip -n net0 link show dev eth0", "ip link show dev port0", "ip link show dev br0"];

fn link(host: &Host, which: &str) -> Value {
    host.ip(&which.split(' ').skip(1).collect::<Vec<_>>())[0].clone()
}

/// Indices, owner tags and aliases.
fn identities(host: &Host) -> Vec<Value> {
    LINKS
        .iter()
        .map(|which| link(host, which))
        .map(|link| json!([link["ifindex"], link["altnames"], link["ifalias"]]))
        .collect()
}

/// Does the same to each link of the lab: what follows `ip`, with the word `LINK` for the link.
fn to_each(host: &Host, command: &str) {
    for which in LINKS {
        let (prefix, device) = which.split_once(" link show dev ").unwrap();
        let line = command.replace("IP", prefix).replace("LINK", device);
        let output = host.sh(&line);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn events(host: &Host) -> usize {
    host.raw("GET", "/v1/events", &[("accept", "application/json")], Vec::new()).ok()["items"].as_array().unwrap().len()
}

fn all_in_sync(host: &Host) -> bool {
    let all = ["/v1/namespaces/net0", "/v1/bridges/br0", "/v1/veths/lan0"].map(|path| host.get(path).ok());
    all.iter().all(|one| one["status"]["state"] == "in_sync")
}

#[test]
fn aliases_of_others_change_nothing() {
    let mut host = Host::started();
    lab(&host);
    let before = events(&host);
    to_each(&host, "IP link set dev LINK alias 'customer 7'");
    let with_aliases = identities(&host);
    assert!(with_aliases.iter().all(|link| link[2] == "customer 7"), "{with_aliases:?}");
    assert_eq!(host.post("/v1/reconcile", json!({})).ok(), json!({"repaired": [], "failed": []}));
    assert_eq!(events(&host), before, "nothing happened that is told");
    // They outlive our own writes, repairs and a restart.
    host.patch("/v1/bridges/br0", json!({"ageing_time_s": 77, "mtu": 1400})).ok();
    host.patch("/v1/veths/lan0/endpoints/0", json!({"addresses": ["10.1.0.2/24"]})).ok();
    host.patch("/v1/namespaces/net0", json!({"sysctls": {"net.ipv4.ip_forward": 1}})).ok();
    host.run(&["ip", "link", "set", "port0", "nomaster"]);
    host.until("it is repaired", || link(&host, LINKS[2])["master"] == "br0");
    host.run(&["ip", "link", "set", "br0", "down"]);
    host.run(&["ip", "link", "set", "br0", "name", "other"]);
    host.until("it has its name again", || host.sh("ip link show br0 up | grep -q br0").status.success());
    host.restart();
    assert!(all_in_sync(&host));
    assert_eq!(identities(&host), with_aliases);
}

#[test]
fn legacy_tags_are_replaced_under_traffic() {
    let mut host = Host::started();
    lab(&host);
    let before = identities(&host);
    let pings = host.spawn_ping("net0", "10.1.0.254", 5);
    host.until("pings come back", || pings.received() > 20);
    assert!(host.terminate().success());
    // As netnsd 0.1 left them.
    to_each(
        &host,
        "tag=$(IP -j link show dev LINK | grep -o 'netnsd:[^\"]*'); IP link property del dev LINK altname $tag; \
         legacy=$(echo $tag | sed 's,:,/,2; s,^\\(netnsd:veth/[^:]*\\):,\\1/,'); IP link set dev LINK alias $legacy",
    );
    let legacy: Vec<Value> = identities(&host).iter().map(|link| link[2].clone()).collect();
    let is_legacy =
        |alias: &Value| alias.as_str().is_some_and(|alias| alias.starts_with("netnsd:") && alias.contains('/'));
    assert!(legacy.iter().all(is_legacy), "{legacy:?}");
    // Somebody's own text is no tag.
    host.run(&["ip", "link", "set", "lo", "alias", "netnsd: what is it"]);
    host.start();
    assert!(all_in_sync(&host));
    assert_eq!(identities(&host), before);
    assert_eq!(host.ip(&["link", "show", "lo"])[0]["ifalias"], "netnsd: what is it");
    assert_eq!(host.post("/v1/reconcile", json!({})).ok(), json!({"repaired": [], "failed": []}));
    host.until("pings go on", || pings.received() > 60);
    let (sent, received) = pings.stop();
    assert_eq!(sent, received, "no packet is lost");
}

#[test]
fn tags_taken_off_are_put_back_in_place() {
    let mut host = Host::started();
    lab(&host);
    let before = identities(&host);
    let untag = "IP link property del dev LINK altname $(IP -j link show dev LINK | grep -o 'netnsd:[^\"]*')";
    to_each(&host, untag);
    host.until("they are back", || identities(&host) == before && all_in_sync(&host));
    // While the daemon is stopped, an end is still known by the other one; the rest is told, and left as it is.
    assert!(host.terminate().success());
    let one = untag.replace("IP", "ip").replace("LINK", "port0");
    assert!(host.sh(&one).status.success());
    host.start();
    assert!(all_in_sync(&host));
    assert_eq!(identities(&host), before);
    assert!(host.terminate().success());
    to_each(&host, untag);
    let without = identities(&host);
    host.start();
    assert_eq!(identities(&host), without);
    for path in ["/v1/namespaces/net0", "/v1/bridges/br0", "/v1/veths/lan0"] {
        let found = host.get(path).ok();
        assert_eq!(found["status"]["state"], "conflict", "{found}");
        assert!(found["status"]["reason"].as_str().unwrap().contains("?adopt=true"), "{found}");
        let body: Value = found.as_object().unwrap().clone().into();
        host.put(&format!("{path}?adopt=true"), body).ok();
    }
    assert_eq!(identities(&host), before);
}
