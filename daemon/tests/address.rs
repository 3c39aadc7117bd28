//! Settings of addresses on the real kernel, as `ip` shows them: peer, broadcast address, metric and
//! label, of devices and of `lo`; set, repaired, changed, and back at the default.

mod common;

use common::Host;
use serde_json::{Value, json};

/// Returns the addresses of an interface in a namespace, without those that the kernel makes.
fn addresses(host: &Host, namespace: &str, interface: &str) -> Vec<Value> {
    let shown = host.ip(&["-n", namespace, "addr", "show", "dev", interface]);
    let all = shown[0]["addr_info"].as_array().cloned();
    let by_kernel =
        |local: &str| local.starts_with("fe80:") || local == "127.0.0.1" || local == "::1";
    let ours = all.unwrap_or_default().into_iter();
    ours.filter(|known| !known["local"].as_str().is_some_and(by_kernel))
        .collect()
}

/// Returns the fields of `ip -j addr` that a test asks for, of each address.
fn shown(host: &Host, interface: &str, fields: &[&str]) -> Value {
    let pick = |known: &Value| fields.iter().map(|field| known[*field].clone()).collect();
    addresses(host, "net0", interface)
        .iter()
        .map(pick)
        .collect::<Vec<Value>>()
        .into()
}

fn veth(addresses: Value) -> Value {
    json!({"endpoints": [
        {"namespace": "net0", "interface": "eth0", "addresses": addresses},
        {"interface": "p0"}]})
}

#[test]
fn address_settings_are_kept_and_reset() {
    const FIELDS: [&str; 6] = [
        "local",
        "address",
        "prefixlen",
        "broadcast",
        "metric",
        "label",
    ];
    let mut host = Host::started();
    host.put("/v1/namespaces/net0", json!({})).ok();
    let detailed = json!([
        "10.0.0.9/24",
        {"address": "10.0.0.1/24", "broadcast": "10.0.0.255", "metric": 50, "label": "eth0:web"},
        {"address": "10.1.0.1/32", "peer": "10.1.0.2/32", "metric": 60},
        {"address": "fd00::1/64", "metric": 70}]);
    let made = host.put("/v1/veths/cable", veth(detailed.clone())).ok();
    assert_eq!(made["status"]["state"], "in_sync", "{made}");
    assert_eq!(made["endpoints"][0]["addresses"], detailed);
    let right = json!([
        ["10.0.0.9", null, 24, null, null, "eth0"],
        ["10.1.0.1", "10.1.0.2", 32, null, 60, "eth0"],
        ["10.0.0.1", null, 24, "10.0.0.255", 50, "eth0:web"],
        ["fd00::1", null, 64, null, 70, null]
    ]);
    assert_eq!(shown(&host, "eth0", &FIELDS), right);
    let observed = host.get("/v1/veths/cable").ok()["status"]["observed"].clone();
    assert_eq!(
        observed["endpoints"][0]["addresses"],
        json!([
            "10.0.0.9/24",
            "10.0.0.1/24",
            "10.1.0.1 peer 10.1.0.2/32",
            "fd00::1/64"
        ])
    );

    // Others delete two, and change one: without netnsd's protocol number it is theirs, and stays.
    let ip = |words: &str| host.run(&["sh", "-c", &format!("ip -n net0 addr {words} dev eth0")]);
    ip("del 10.0.0.1/24");
    ip("del 10.1.0.1 peer 10.1.0.2/32");
    host.post("/v1/reconcile", json!({})).ok();
    assert_eq!(shown(&host, "eth0", &FIELDS), right);
    ip("change fd00::1/64 metric 9");
    host.post("/v1/reconcile", json!({})).ok();
    let state = host.get("/v1/veths/cable").ok()["status"]["state"].clone();
    assert!(state == "conflict" || shown(&host, "eth0", &FIELDS) == right);
    ip("del fd00::1/64");
    host.post("/v1/reconcile", json!({})).ok();
    assert_eq!(shown(&host, "eth0", &FIELDS), right);
    host.reboot();
    assert_eq!(shown(&host, "eth0", &FIELDS), right);

    // The order stays when a label changes, and what is no longer asked for goes.
    let changed = json!([
        "10.0.0.9/24",
        {"address": "10.0.0.1/24", "label": "eth0:w"},
        "10.1.0.1/32",
        "fd00::1/64"]);
    host.put("/v1/veths/cable", veth(changed)).ok();
    let right = json!([
        ["10.0.0.9", null, 24, null, null, "eth0"],
        ["10.1.0.1", null, 32, null, null, "eth0"],
        ["10.0.0.1", null, 24, null, null, "eth0:w"],
        ["fd00::1", null, 64, null, null, null]
    ]);
    assert_eq!(shown(&host, "eth0", &FIELDS), right);
}

#[test]
fn metric_is_that_of_the_route_to_the_network() {
    let host = Host::started();
    host.put("/v1/namespaces/net0", json!({})).ok();
    let metrics = || {
        let metric = |family, net| {
            host.ip(&["-n", "net0", family, "route", "show", net])[0]["metric"].clone()
        };
        (metric("-4", "10.0.0.0/24"), metric("-6", "fd00::/64"))
    };
    let both = |metric: u32| {
        veth(
            json!([{"address": "10.0.0.1/24", "metric": metric}, {"address": "fd00::1/64", "metric": metric}]),
        )
    };
    host.put("/v1/veths/cable", both(50)).ok();
    host.wait_until_settled();
    assert_eq!(metrics(), (json!(50), json!(50)));
    host.put("/v1/veths/cable", both(51)).ok();
    assert_eq!(metrics(), (json!(51), json!(51)));
    // A route to the network that others delete comes back with the metric.
    host.run(&["ip", "-n", "net0", "route", "del", "10.0.0.0/24"]);
    host.post("/v1/reconcile", json!({})).ok();
    assert_eq!(metrics(), (json!(51), json!(51)));
    host.put(
        "/v1/veths/cable",
        veth(json!(["10.0.0.1/24", "fd00::1/64"])),
    )
    .ok();
    host.wait_until_settled();
    assert_eq!(metrics(), (Value::Null, json!(256)));
}

#[test]
fn setting_of_others_is_left_unless_asked_for() {
    let host = Host::started();
    host.put("/v1/namespaces/net0", json!({})).ok();
    host.put("/v1/veths/cable", veth(json!(["10.0.0.1/24"])))
        .ok();
    host.run(&[
        "ip",
        "-n",
        "net0",
        "addr",
        "change",
        "10.0.0.1/24",
        "dev",
        "eth0",
        "metric",
        "7",
    ]);
    let changed = host
        .put(
            "/v1/veths/cable",
            veth(json!(["10.0.0.1/24", "10.0.1.1/24"])),
        )
        .ok();
    assert_eq!(changed["status"]["state"], "in_sync");
    assert_eq!(
        shown(&host, "eth0", &["local", "metric"]),
        json!([["10.0.0.1", 7], ["10.0.1.1", null]])
    );
}

#[test]
fn loopback_addresses_are_kept_and_removed() {
    let mut host = Host::started();
    let asked =
        json!(["192.0.2.1/32", {"address": "192.0.2.2/32", "label": "lo:any"}, "2001:db8::1/128"]);
    let made = host
        .put("/v1/namespaces/net0", json!({"addresses": asked}))
        .ok();
    assert_eq!(
        (&made["status"]["state"], &made["addresses"]),
        (&json!("in_sync"), &asked)
    );
    let right = json!([
        ["192.0.2.1", "lo"],
        ["192.0.2.2", "lo:any"],
        ["2001:db8::1", null]
    ]);
    let now = |host: &Host| shown(host, "lo", &["local", "label"]);
    assert_eq!(now(&host), right);

    // Drift is repaired by itself, and an address of others stays.
    host.run(&[
        "ip",
        "-n",
        "net0",
        "addr",
        "add",
        "192.0.2.9/32",
        "dev",
        "lo",
    ]);
    host.run(&[
        "ip",
        "-n",
        "net0",
        "addr",
        "del",
        "192.0.2.2/32",
        "dev",
        "lo",
    ]);
    host.until("lo has its addresses again", || {
        addresses(&host, "net0", "lo").len() == 4
    });
    host.run(&["ip", "-n", "net0", "link", "set", "lo", "down"]);
    host.until("lo is up with its IPv6 address", || {
        addresses(&host, "net0", "lo").len() == 4
            && host.ip(&["-n", "net0", "link", "show", "lo"])[0]["flags"]
                .to_string()
                .contains("UP")
    });
    host.run(&[
        "ip",
        "-n",
        "net0",
        "addr",
        "del",
        "192.0.2.9/32",
        "dev",
        "lo",
    ]);
    host.post("/v1/reconcile", json!({})).ok();
    assert_eq!(now(&host), right);
    host.reboot();
    assert_eq!(now(&host), right);

    // It is the source of a route, and nobody else has it.
    let with_route = json!({"addresses": asked, "routes": [{"destination": "198.51.100.0/24", "via": "10.0.0.2", "source": "192.0.2.1"}]});
    host.put("/v1/namespaces/net0", with_route).ok();
    host.put("/v1/veths/cable", veth(json!(["10.0.0.1/24"])))
        .ok();
    let route = host.ip(&["-n", "net0", "route", "show", "198.51.100.0/24"]);
    assert_eq!(route[0]["prefsrc"], "192.0.2.1");
    host.put("/v1/veths/cable", veth(json!(["192.0.2.1/24"])))
        .refused(422, "duplicate", Some("/endpoints/0/addresses/0"));

    host.put("/v1/namespaces/net0", json!({})).ok();
    assert_eq!(now(&host), json!([]));
}

#[test]
fn dry_run_names_the_words_of_ip_address() {
    let host = Host::started();
    host.put("/v1/namespaces/net0", json!({})).ok();
    let addresses =
        json!([{"address": "10.0.0.1/32", "peer": "10.0.0.2/32", "metric": 5, "label": "eth0:p"}]);
    let answer = host
        .put("/v1/veths/cable?dry_run=true", veth(addresses))
        .ok();
    let plan = answer["plan"].as_array().unwrap().iter();
    let command = plan.map(|step| step["command"].as_str().unwrap_or_default().to_owned());
    let words = "address add 10.0.0.1 peer 10.0.0.2/32 dev eth0 label eth0:p metric 5";
    assert!(
        command.clone().any(|command| command.contains(words)),
        "{:?}",
        command.collect::<Vec<_>>()
    );
}
