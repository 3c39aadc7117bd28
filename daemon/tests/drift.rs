//! What others change is put right; what is theirs stays.

mod common;

use std::time::Instant;

use common::{Host, shape::sorted};
use serde_json::{Value, json};

/// A router and a host behind a bridge, with everything that can drift.
fn lab(host: &Host) {
    host.put(
        "/v1/namespaces/net0",
        json!({"routes": [{"destination": "default", "via": "10.1.0.254"},
        {"destination": "fd00:9::/64", "via": "fd00:1::fe"}],
        "neighbours": [{"address": "10.1.0.77", "mac": "02:00:00:00:00:77", "interface": "eth0"}],
        "sysctls": {"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1, "net.ipv4.conf.all.rp_filter": 2}}),
    )
    .ok();
    host.put(
        "/v1/bridges/br0",
        json!({"addresses": ["10.1.0.254/24"], "stp": true, "priority": 100, "hello_time_s": 3}),
    )
    .ok();
    let ends = json!([{"namespace": "net0", "interface": "eth0", "addresses": ["10.1.0.1/24", "fd00:1::1/64"], "mtu": 1400},
        {"interface": "port0", "bridge": "br0", "port": {"path_cost": 7, "hairpin": true}}]);
    host.put("/v1/veths/lan0", json!({"endpoints": ends})).ok();
    host.settled();
}

/// The kernel without what changes when a thing is made anew, what STP makes of it, and what the kernel itself adds.
fn shape(host: &Host) -> Vec<String> {
    sorted(host, steady)
}

fn steady(value: &mut Value) {
    const CHANGING: [&str; 18] = [
        "ifindex",
        "link_index",
        "link_netnsid",
        "id",
        "bridge_id",
        "root_id",
        "root_port",
        "designated_bridge",
        "designated_root",
        "operstate",
        "flags",
        "state",
        "topology_change",
        "topology_change_detected",
        "ageing_time",
        "root_path_cost",
        "designated_cost",
        "config_pending",
    ];
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !CHANGING.contains(&key.as_str()) && !key.contains("timer"));
            map.values_mut().for_each(steady);
        }
        Value::Array(items) => {
            // Link-local addresses, and their routes.
            let by_itself = |item: &Value| match item["dst"].as_str() {
                Some(to) => to.starts_with("fe80:") || to.starts_with("ff00:"),
                None => item["scope"] == "link",
            };
            items.retain(|item| !by_itself(item));
            items.iter_mut().for_each(steady);
        }
        _ => {}
    }
}

#[test]
fn every_kind_of_damage_is_repaired() {
    let host = Host::started();
    lab(&host);
    let whole = shape(&host);
    let mut times = Vec::new();
    for damage in [
        "ip link del port0",
        "ip -n net0 link del eth0",
        "ip link set port0 down",
        "ip -n net0 link set eth0 down",
        "ip link set port0 nomaster",
        "ip -n net0 addr del 10.1.0.1/24 dev eth0",
        "ip -n net0 addr del fd00:1::1/64 dev eth0",
        "ip -n net0 addr flush dev eth0 scope global",
        "ip addr del 10.1.0.254/24 dev br0",
        "ip -n net0 route del default",
        "ip -n net0 route flush exact default",
        "ip -n net0 -6 route del fd00:9::/64",
        "ip -n net0 route del 10.1.0.0/24 dev eth0",
        "ip -n net0 -6 route del fd00:1::/64 dev eth0",
        "ip route del 10.1.0.0/24 dev br0",
        "ip -n net0 route flush table main && ip -n net0 -6 route flush table main",
        "ip -n net0 neigh del 10.1.0.77 dev eth0",
        "ip netns exec net0 sh -c 'echo 0 >/proc/sys/net/ipv4/ip_forward'",
        "ip netns exec net0 sh -c 'echo 0 >/proc/sys/net/ipv6/conf/all/forwarding'",
        "ip netns exec net0 sh -c 'echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter'",
        "ip -n net0 link set eth0 mtu 1300",
        "ip link set port0 down && ip link set port0 name other",
        "ip netns add elsewhere && ip link set port0 netns elsewhere",
        "ip link set br0 type bridge stp_state 0",
        "ip link set br0 type bridge priority 200",
        "ip link set br0 type bridge hello_time 500",
        "ip link set br0 down",
        "ip link set port0 type bridge_slave cost 9",
        "bridge link set dev port0 hairpin off",
        "ip link del br0",
        "ip -n net0 link set lo down",
        "ip netns del net0",
        "umount -l /run/netns/net0",
        "ip netns del net0 && ip link del br0",
    ] {
        let start = Instant::now();
        let output = host.sh(damage);
        assert!(output.status.success(), "{damage}: {}", String::from_utf8_lossy(&output.stderr));
        let changed = start.elapsed();
        let patience = Instant::now() + std::time::Duration::from_secs(30);
        if damage.contains("elsewhere") {
            host.until("it is back", || host.sh("ip link show port0").status.success());
            host.run(&["ip", "netns", "del", "elsewhere"]);
        }
        host.until("it can be looked into", || host.sh("ip -n net0 link show eth0").status.success());
        loop {
            let now = shape(&host);
            if now == whole {
                break;
            }
            if Instant::now() > patience {
                eprintln!("after {damage}");
                common::same(&whole, &now);
            }
        }
        times.push((start.elapsed() - changed, damage));
        host.until("it says so", || {
            let all = ["/v1/namespaces/net0", "/v1/bridges/br0", "/v1/veths/lan0"].map(|path| host.get(path).ok());
            all.iter().all(|one| one["status"]["state"] == "in_sync")
        });
        host.settled();
    }
    times.sort();
    eprintln!("repaired and seen by ip: median {:?}, worst {:?}", times[times.len() / 2], times.last().unwrap());
}

fn events(host: &Host, kind: &str) -> Vec<Value> {
    let path = format!("/v1/events?type={kind}");
    host.raw("GET", &path, &[("accept", "application/json")], Vec::new()).ok()["items"].as_array().unwrap().clone()
}

fn state(host: &Host, path: &str) -> String {
    host.get(path).ok()["status"]["state"].as_str().unwrap().to_owned()
}

#[test]
fn the_same_damage_over_and_over_is_no_fight() {
    let host = Host::started();
    host.put("/v1/bridges/br0", json!({"addresses": ["10.1.0.254/24"]})).ok();
    let damage = || host.sh("ip addr del 10.1.0.254/24 dev br0").status.success();
    // Repaired at once a few times, then less and less often; meanwhile it says so.
    host.until("it gives way", || {
        damage();
        state(&host, "/v1/bridges/br0") == "drifted"
    });
    let reason = host.get("/v1/bridges/br0").ok()["status"]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("again"), "{reason}");
    host.until("it comes back all the same", || state(&host, "/v1/bridges/br0") == "in_sync");
    for _ in 0..2 {
        host.until("it is damaged again", damage);
        host.until("it comes back all the same", || state(&host, "/v1/bridges/br0") == "in_sync");
    }
    host.until("it is told", || events(&host, "repaired").len() >= 5);
    let said = host.log().matches("again and again").count();
    assert!((1..3).contains(&said), "said {said} times\n{}", host.log());
    assert!(events(&host, "drifted").len() >= 5);
}

#[test]
fn changes_are_only_reported_where_that_is_asked_for() {
    let mut host = Host::new();
    host.start_with(|command| {
        command.args(["--repair", "report"]);
    });
    host.put("/v1/bridges/br0", json!({"addresses": ["10.1.0.254/24"]})).ok();
    host.run(&["ip", "addr", "del", "10.1.0.254/24", "dev", "br0"]);
    host.until("it is told", || state(&host, "/v1/bridges/br0") == "drifted");
    host.until("it is told", || !events(&host, "drifted").is_empty());
    let has_address = || host.run(&["ip", "addr", "show", "dev", "br0"]).contains("10.1.0.254");
    assert!(!has_address());
    // A pass that is asked for repairs.
    assert_eq!(host.post("/v1/reconcile", json!({})).ok()["repaired"], json!([{"kind": "bridge", "name": "br0"}]));
    assert!(has_address());
    // So does whoever damaged it.
    host.run(&["ip", "link", "set", "br0", "down"]);
    host.until("it is told", || state(&host, "/v1/bridges/br0") == "drifted");
    host.run(&["ip", "link", "set", "br0", "up"]);
    host.until("it is told", || state(&host, "/v1/bridges/br0") == "in_sync");
}

#[test]
fn what_others_add_is_shown_and_stays() {
    let mut host = Host::started();
    lab(&host);
    for theirs in [
        "ip -n net0 addr add 192.0.2.1/24 dev eth0",
        "ip -n net0 route add 198.51.100.0/24 via 10.1.0.99",
        "ip -n net0 neigh add 10.1.0.88 lladdr 02:00:00:00:00:88 dev eth0",
        "ip -n net0 link add theirs type veth peer name peer",
        "ip addr add 203.0.113.1/24 dev br0",
        "ip link add other type bridge",
        "ip link set other master br0 2>/dev/null || ip link add x0 type veth peer name x1 && ip link set x0 master br0",
        "ip netns exec net0 sh -c 'echo 77 >/proc/sys/net/ipv4/ip_default_ttl'",
    ] {
        assert!(host.sh(theirs).status.success(), "{theirs}");
    }
    let foreign = |host: &Host| {
        host.get("/v1/veths/lan0").ok()["status"]["observed"]["endpoints"][0]["foreign_addresses"].clone()
    };
    host.until("it is shown", || foreign(&host) == json!(["192.0.2.1/24"]));
    let before = host.kernel();
    host.post("/v1/reconcile", json!({})).ok();
    host.restart();
    common::same(&before, &host.kernel());
    // A change of ours and damage to ours leave theirs alone.
    host.patch("/v1/bridges/br0", json!({"priority": 5})).ok();
    host.run(&["ip", "-n", "net0", "addr", "del", "10.1.0.1/24", "dev", "eth0"]);
    host.until("it is repaired", || {
        state(&host, "/v1/veths/lan0") == "in_sync" && !events(&host, "repaired").is_empty()
    });
    let text = host.run(&["ip", "-n", "net0", "addr"])
        + &host.run(&["ip", "-n", "net0", "neigh"])
        + &host.run(&["ip", "addr"]);
    for theirs in ["192.0.2.1/24", "10.1.0.88", "theirs", "203.0.113.1/24", "other", "10.1.0.1/24"] {
        assert!(text.contains(theirs), "{theirs}: {text}");
    }
    assert_eq!(host.run(&["ip", "netns", "exec", "net0", "cat", "/proc/sys/net/ipv4/ip_default_ttl"]).trim(), "77");
}

#[test]
fn what_is_not_heard_is_found_in_the_round() {
    let mut host = Host::new();
    host.start_with(|command| {
        command.args(["--reconcile-interval-s", "1"]);
    });
    host.put("/v1/namespaces/net0", json!({"sysctls": {"net.ipv4.ip_default_ttl": 99}})).ok();
    // No notification tells of it.
    host.run(&["ip", "netns", "exec", "net0", "sh", "-c", "echo 5 >/proc/sys/net/ipv4/ip_default_ttl"]);
    let read = || host.run(&["ip", "netns", "exec", "net0", "cat", "/proc/sys/net/ipv4/ip_default_ttl"]);
    host.until("it is repaired", || read().trim() == "99");
}

#[test]
fn networks_that_get_no_route_miss_none() {
    let host = Host::started();
    let addresses = json!([
        "10.0.0.1/0",
        "10.2.0.1/7",
        "10.3.0.1/31",
        "10.4.0.1/32",
        "169.254.7.1/16",
        "fd00::1/128",
        "fe80::7/64"
    ]);
    let ends = json!([{"interface": "a", "addresses": addresses}, {"interface": "b"}]);
    host.put("/v1/veths/v", json!({"endpoints": ends})).ok();
    host.settled();
    let routes = host.run(&["ip", "route"]);
    assert_eq!(host.post("/v1/reconcile", json!({})).ok(), json!({"repaired": [], "failed": []}));
    assert_eq!(host.run(&["ip", "route"]), routes);
}

#[test]
fn a_storm_of_changes_is_looked_at_afresh() {
    let host = Host::started();
    lab(&host);
    // Far more notifications than a socket holds, and damage among them.
    host.sh("ip netns exec net0 sh -c 'i=0; while [ $i -lt 300 ]; do ip link add d$i type veth peer name e$i; i=$((i+1)); done; \
        ip addr del 10.1.0.1/24 dev eth0; while [ $i -gt 0 ]; do i=$((i-1)); ip link del d$i; done'");
    let address = || host.ip(&["-n", "net0", "addr", "show", "dev", "eth0"])[0]["addr_info"].to_string();
    host.until("it is repaired", || address().contains("10.1.0.1"));
    assert_eq!(host.get("/v1/health").status, 200);
}
