//! Drift: changes by others to managed state are repaired, and foreign state stays.

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
        "rules": [{"priority": 100, "from": "10.1.0.0/24", "table": 7}],
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
    host.wait_until_settled();
}

/// The kernel without what changes when a thing is made anew, what STP makes of it, and what the
/// kernel itself adds.
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
fn every_kind_of_drift_is_repaired() {
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
        "ip -n net0 rule del priority 100",
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
        assert!(
            output.status.success(),
            "{damage}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let changed = start.elapsed();
        let patience = Instant::now() + std::time::Duration::from_secs(30);
        if damage.contains("elsewhere") {
            host.until("it is back", || {
                host.sh("ip link show port0").status.success()
            });
            host.run(&["ip", "netns", "del", "elsewhere"]);
        }
        host.until("it can be looked into", || {
            host.sh("ip -n net0 link show eth0").status.success()
        });
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
            let all = ["/v1/namespaces/net0", "/v1/bridges/br0", "/v1/veths/lan0"]
                .map(|path| host.get(path).ok());
            all.iter().all(|one| one["status"]["state"] == "in_sync")
        });
        host.wait_until_settled();
    }
    times.sort();
    eprintln!(
        "repaired and seen by ip: median {:?}, worst {:?}",
        times[times.len() / 2],
        times.last().unwrap()
    );
}

fn events(host: &Host, kind: &str) -> Vec<Value> {
    let path = format!("/v1/events?type={kind}");
    host.raw("GET", &path, &[("accept", "application/json")], Vec::new())
        .ok()["items"]
        .as_array()
        .unwrap()
        .clone()
}

fn state(host: &Host, path: &str) -> String {
    host.get(path).ok()["status"]["state"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn repeated_drift_is_repaired_ever_more_slowly() {
    let host = Host::started();
    host.put("/v1/bridges/br0", json!({"addresses": ["10.1.0.254/24"]}))
        .ok();
    let damage = || {
        host.sh("ip addr del 10.1.0.254/24 dev br0")
            .status
            .success()
    };
    // Repaired at once a few times, then less and less often; meanwhile it says so.
    host.until("it gives way", || {
        damage();
        let status = &host.get("/v1/bridges/br0").ok()["status"];
        status["state"] == "drifted" && status["reason"].as_str().unwrap().contains("again")
    });
    host.until("it comes back all the same", || {
        state(&host, "/v1/bridges/br0") == "in_sync"
    });
    for _ in 0..2 {
        host.until("it is damaged again", damage);
        host.until("it comes back all the same", || {
            state(&host, "/v1/bridges/br0") == "in_sync"
        });
    }
    host.until("it is told", || events(&host, "repaired").len() >= 5);
    let warnings = host.log().matches("drift recurring; backing off").count();
    assert!(
        (1..3).contains(&warnings),
        "{warnings} warnings\n{}",
        host.log()
    );
    assert!(events(&host, "drifted").len() >= 5);
}

#[test]
fn report_mode_does_not_repair() {
    let mut host = Host::new();
    host.start_with(|command| {
        command.args(["--repair", "report"]);
    });
    host.put("/v1/bridges/br0", json!({"addresses": ["10.1.0.254/24"]}))
        .ok();
    host.run(&["ip", "addr", "del", "10.1.0.254/24", "dev", "br0"]);
    host.until("it is told", || {
        state(&host, "/v1/bridges/br0") == "drifted"
    });
    host.until("it is told", || !events(&host, "drifted").is_empty());
    let has_address = || {
        host.run(&["ip", "addr", "show", "dev", "br0"])
            .contains("10.1.0.254")
    };
    assert!(!has_address());
    // A pass that is asked for repairs.
    assert_eq!(
        host.post("/v1/reconcile", json!({})).ok()["repaired"],
        json!([{"kind": "bridge", "name": "br0"}])
    );
    assert!(has_address());
    // So does whoever damaged it.
    host.run(&["ip", "link", "set", "br0", "down"]);
    host.until("it is told", || {
        state(&host, "/v1/bridges/br0") == "drifted"
    });
    host.run(&["ip", "link", "set", "br0", "up"]);
    host.until("it is told", || {
        state(&host, "/v1/bridges/br0") == "in_sync"
    });
}

#[test]
fn foreign_additions_are_shown_and_stay() {
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
        host.get("/v1/veths/lan0").ok()["status"]["observed"]["endpoints"][0]["foreign_addresses"]
            .clone()
    };
    host.until("it is shown", || foreign(&host) == json!(["192.0.2.1/24"]));
    let before = host.kernel();
    host.post("/v1/reconcile", json!({})).ok();
    host.restart();
    common::same(&before, &host.kernel());
    // A change of ours and damage to ours leave theirs alone.
    host.patch("/v1/bridges/br0", json!({"priority": 5})).ok();
    host.run(&[
        "ip",
        "-n",
        "net0",
        "addr",
        "del",
        "10.1.0.1/24",
        "dev",
        "eth0",
    ]);
    host.until("it is repaired", || {
        state(&host, "/v1/veths/lan0") == "in_sync" && !events(&host, "repaired").is_empty()
    });
    let text = host.run(&["ip", "-n", "net0", "addr"])
        + &host.run(&["ip", "-n", "net0", "neigh"])
        + &host.run(&["ip", "addr"]);
    for theirs in [
        "192.0.2.1/24",
        "10.1.0.88",
        "theirs",
        "203.0.113.1/24",
        "other",
        "10.1.0.1/24",
    ] {
        assert!(text.contains(theirs), "{theirs}: {text}");
    }
    assert_eq!(
        host.run(&[
            "ip",
            "netns",
            "exec",
            "net0",
            "cat",
            "/proc/sys/net/ipv4/ip_default_ttl"
        ])
        .trim(),
        "77"
    );
}

#[test]
fn unnotified_drift_is_found_by_the_full_check() {
    let mut host = Host::new();
    host.start_with(|command| {
        command.args(["--reconcile-interval-s", "1"]);
    });
    host.put(
        "/v1/namespaces/net0",
        json!({"sysctls": {"net.ipv4.ip_default_ttl": 99}}),
    )
    .ok();
    // No notification tells of it.
    host.run(&[
        "ip",
        "netns",
        "exec",
        "net0",
        "sh",
        "-c",
        "echo 5 >/proc/sys/net/ipv4/ip_default_ttl",
    ]);
    let read = || {
        host.run(&[
            "ip",
            "netns",
            "exec",
            "net0",
            "cat",
            "/proc/sys/net/ipv4/ip_default_ttl",
        ])
    };
    host.until("it is repaired", || read().trim() == "99");
}

#[test]
fn unused_prefix_route_is_not_missed() {
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
    host.wait_until_settled();
    let routes = host.run(&["ip", "route"]);
    assert_eq!(
        host.post("/v1/reconcile", json!({})).ok(),
        json!({"repaired": [], "failed": []})
    );
    assert_eq!(host.run(&["ip", "route"]), routes);
}

#[test]
fn overflow_of_notifications_starts_a_full_check() {
    let host = Host::started();
    lab(&host);
    // Far more notifications than a socket holds, and damage among them.
    host.sh("ip netns exec net0 sh -c 'i=0; while [ $i -lt 300 ]; do ip link add d$i type veth peer name e$i; i=$((i+1)); done; \
        ip addr del 10.1.0.1/24 dev eth0; while [ $i -gt 0 ]; do i=$((i-1)); ip link del d$i; done'");
    let address =
        || host.ip(&["-n", "net0", "addr", "show", "dev", "eth0"])[0]["addr_info"].to_string();
    host.until("it is repaired", || address().contains("10.1.0.1"));
    assert_eq!(host.get("/v1/health").status, 200);
}

#[test]
fn drift_clears_ready_until_repaired() {
    let host = Host::started();
    let names = |i| json!({"name": format!("n{i}")});
    host.put(
        "/v1/topology",
        json!({"namespaces": (0..200).map(names).collect::<Vec<_>>()}),
    )
    .ok();
    host.wait_until_settled();
    let states = || host.get("/v1/ready").json["states"].clone();
    host.until("it is told", || {
        let whole = states()["in_sync"] == 200;
        if whole {
            host.run(&["ip", "-all", "netns", "delete"]);
        }
        states()["drifted"].as_u64() > Some(0)
    });
    host.until("it is repaired", || states()["in_sync"] == 200);
}

/// Routes of every kind that can be asked for are made, put back, and taken away; or refused, and
/// then nothing is left of them.
#[test]
fn every_route_type_is_created_or_refused() {
    let host = Host::started();
    host.put("/v1/namespaces/a", json!({})).ok();
    let ends = json!([{"namespace": "a", "interface": "eth0", "addresses": ["10.0.0.1/24", "fd00::1/64"]},
        {"interface": "port0", "addresses": ["10.0.0.2/24"]}]);
    host.put("/v1/veths/lan0", json!({"endpoints": ends})).ok();
    host.wait_until_settled();
    let all = |host: &Host| {
        let show = "for f in -4 -6; do ip -n a $f route show table all; done";
        String::from_utf8(host.sh(show).stdout)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let before = all(&host);
    let refused = json!({"destination": "198.51.100.0/24", "via": "10.0.0.255"});
    let (mut made, mut left) = (0, Vec::new());
    for route in [
        json!({"destination": "10.9.0.0/16", "via": "10.0.0.2", "table": 255}),
        json!({"destination": "203.0.113.0/24", "type": "blackhole", "table": 255}),
        json!({"destination": "10.0.0.1/32", "interface": "eth0", "table": 255}),
        json!({"destination": "10.0.0.0/24", "interface": "eth0", "metric": 7}),
        json!({"destination": "10.0.0.0/24", "via": "10.0.0.2"}),
        json!({"destination": "127.5.0.0/16", "via": "10.0.0.2"}),
        json!({"destination": "224.0.0.0/4", "interface": "eth0"}),
        json!({"destination": "240.0.0.0/4", "via": "10.0.0.2"}),
        json!({"destination": "255.255.255.255/32", "interface": "eth0"}),
        json!({"destination": "0.0.0.0/8", "via": "10.0.0.2"}),
        json!({"destination": "0.0.0.0/0", "via": "10.0.0.2", "metric": 4_294_967_295_u32}),
        json!({"destination": "169.254.0.0/16", "interface": "eth0"}),
        json!({"destination": "default", "type": "unreachable", "metric": 4_294_967_295_u32}),
        json!({"destination": "default", "via": "10.0.0.2", "table": 4_294_967_295_u32}),
        json!({"destination": "default", "via": "10.0.0.2", "table": 253}),
        json!({"destination": "default", "via": "10.0.0.2", "table": 1}),
        json!({"destination": "fd09::/16", "via": "fd00::2", "table": 255}),
        json!({"destination": "2001:db8::/32", "type": "prohibit", "table": 255}),
        json!({"destination": "fd00::1/128", "interface": "eth0", "table": 255}),
        json!({"destination": "fd00::/64", "interface": "eth0"}),
        json!({"destination": "fd00::/64", "via": "fd00::2", "metric": 256}),
        json!({"destination": "ff00::/8", "interface": "eth0"}),
        json!({"destination": "ff00::/8", "interface": "eth0", "table": 255}),
        json!({"destination": "ff05::/16", "interface": "eth0", "metric": 256}),
        json!({"destination": "fe80::/64", "interface": "eth0"}),
        json!({"destination": "fe80::/64", "interface": "eth0", "metric": 256}),
        json!({"destination": "fe80::/64", "via": "fd00::2", "metric": 256}),
        json!({"destination": "fe80::5/128", "interface": "eth0", "table": 255}),
        json!({"destination": "::1/128", "interface": "eth0"}),
        json!({"destination": "::/0", "type": "unreachable", "metric": 4_294_967_295_u32}),
        json!({"destination": "::/0", "interface": "eth0", "metric": 4_294_967_295_u32}),
        json!({"destination": "::ffff:0:0/96", "type": "unreachable"}),
        json!({"destination": "::/96", "via": "fd00::2"}),
        json!({"destination": "2002::/16", "via": "fd00::2", "table": 4_294_967_295_u32}),
        json!({"destination": "default", "via": "fd00::2", "table": 1}),
    ] {
        let answer = host.patch("/v1/namespaces/a", json!({"routes": [route]}));
        if answer.status != 200 {
            assert!(
                matches!(answer.status, 409 | 422),
                "{route}: {}",
                answer.json
            );
            assert!(
                answer.json["pointer"]
                    .as_str()
                    .is_some_and(|at| at.starts_with("/routes/0")),
                "{}",
                answer.json
            );
            common::same(&before, &all(&host));
            left.push(format!(
                "{route}: {} {}",
                answer.status, answer.json["detail"]
            ));
            continue;
        }
        assert_eq!(
            answer.json["status"]["state"], "in_sync",
            "{route}: {}",
            answer.json
        );
        let there = all(&host);
        assert_eq!(
            host.post("/v1/reconcile", json!({})).ok()["repaired"],
            json!([]),
            "{route}"
        );
        if there != before {
            let flush = "for f in -4 -6; do ip -n a $f route flush table all proto 110; done";
            host.sh(flush);
            host.post("/v1/reconcile", json!({})).ok();
            common::same(&there, &all(&host));
            made += 1;
        }
        // A setting beside it that the kernel refuses leaves it as it was.
        host.patch("/v1/namespaces/a", json!({"routes": [refused]}))
            .refused(422, "kernel_rejected", None);
        common::same(&there, &all(&host));
        host.patch("/v1/namespaces/a", json!({"routes": []})).ok();
        common::same(&before, &all(&host));
    }
    println!("{made} are made; refused are\n{}", left.join("\n"));
    // A refused change in the other direction is undone too, and reconciling finds state that an
    // earlier version left.
    let route = json!({"destination": "10.9.0.0/16", "via": "10.0.0.2", "table": 255});
    host.patch("/v1/namespaces/a", json!({"routes": [route, refused]}))
        .refused(422, "kernel_rejected", None);
    common::same(&before, &all(&host));
    host.patch("/v1/namespaces/a", json!({"routes": []})).ok();
    host.run(&[
        "ip",
        "-n",
        "a",
        "route",
        "add",
        "10.9.0.0/16",
        "via",
        "10.0.0.2",
        "table",
        "255",
        "proto",
        "110",
    ]);
    host.run(&[
        "ip",
        "-n",
        "a",
        "route",
        "add",
        "fd09::/16",
        "via",
        "fd00::2",
        "table",
        "255",
        "proto",
        "110",
    ]);
    assert_eq!(
        host.post("/v1/reconcile", json!({})).ok()["repaired"],
        json!([{"kind": "namespace", "name": "a"}])
    );
    common::same(&before, &all(&host));
}

/// STP and its times are set from any state to any other: by the daemon, by its dry run's lines,
/// back after a refusal, and after damage.
#[test]
fn bridge_timers_change_between_any_two_states() {
    let (host, by_hand) = (Host::started(), Host::new());
    host.put("/v1/namespaces/a", json!({})).ok();
    let (off, on) = (false, true);
    let none = Value::Null;
    let state = |stp: bool, delay: Value, hello: Value, age: Value| json!({"stp": stp, "forward_delay_s": delay, "hello_time_s": hello, "max_age_s": age});
    let states = [
        state(off, none.clone(), none.clone(), none.clone()),
        state(off, json!(0), none.clone(), none.clone()),
        state(off, json!(1), json!(1), json!(6)),
        state(off, json!(30), none.clone(), json!(40)),
        state(on, none.clone(), none.clone(), none.clone()),
        state(on, json!(2), json!(10), none.clone()),
        state(on, json!(30), none.clone(), json!(6)),
    ];
    let shown = |host: &Host| {
        let data = host.ip(&["-d", "link", "show", "br0"])[0]["linkinfo"]["info_data"].clone();
        ["stp_state", "forward_delay", "hello_time", "max_age"]
            .map(|key| data[key].as_u64().unwrap())
    };
    let wanted = |state: &Value| {
        let time =
            |key: &str, default: u64| state[key].as_u64().map_or(default, |seconds| seconds * 100);
        let stp = u64::from(state["stp"] == true);
        [
            stp,
            time("forward_delay_s", 1500),
            time("hello_time_s", 200),
            time("max_age_s", 2000),
        ]
    };
    // The kernel counts in ticks of its own.
    let is = |seen: [u64; 4], wanted: [u64; 4]| {
        seen.iter()
            .zip(wanted)
            .all(|(seen, wanted)| seen.abs_diff(wanted) < 2)
    };
    let put = |state: &Value| {
        let plan = host.put("/v1/bridges/br0?dry_run=true", state.clone()).ok();
        let lines: Vec<&str> = plan["plan"]
            .as_array()
            .unwrap()
            .iter()
            .map(|step| step["command"].as_str().unwrap())
            .collect();
        let output = by_hand.sh(&format!("set -e\n{}", lines.join("\n")));
        assert!(
            output.status.success(),
            "{state} by {lines:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        host.put("/v1/bridges/br0", state.clone()).ok();
        for host in [&host, &by_hand] {
            assert!(
                is(shown(host), wanted(state)),
                "{state} by {lines:?}: {:?}",
                shown(host)
            );
        }
    };
    let refused = json!([{"destination": "198.51.100.0/24", "via": "10.0.0.255"}]);
    let ends = json!([{"namespace": "a", "interface": "eth0", "addresses": ["10.0.0.1/24"]}, {"interface": "port0"}]);
    host.put("/v1/veths/lan0", json!({"endpoints": ends})).ok();
    for from in &states {
        for to in states.iter().filter(|to| *to != from) {
            put(from);
            put(to);
            // Not one that is new, either.
            let mut bridge = from.clone();
            bridge["name"] = json!("br0");
            let document =
                json!({"bridges": [bridge], "namespaces": [{"name": "a", "routes": refused}]});
            host.patch("/v1/topology", document)
                .refused(422, "kernel_rejected", None);
            assert!(
                is(shown(&host), wanted(to)),
                "{to} again: {:?}",
                shown(&host)
            );
            let stp = u8::from(to["stp"] != true);
            host.run(&[
                "sh",
                "-c",
                &format!("ip link set br0 type bridge stp_state {stp}"),
            ]);
            host.post("/v1/reconcile", json!({})).ok();
            assert!(
                is(shown(&host), wanted(to)),
                "{to} repaired: {:?}",
                shown(&host)
            );
        }
        host.delete("/v1/bridges/br0");
        by_hand.sh("ip link del br0");
    }
}

/// Removing many addresses makes the kernel change others, which interrupts dumps: they are
/// repeated.
#[test]
fn many_addresses_are_removed_at_once() {
    let host = Host::started();
    let all: Vec<String> = (1..=500).map(|i| format!("fd00::{i:x}/64")).collect();
    for round in 0..15 {
        let ends = json!([{"interface": "v0", "addresses": all}, {"interface": "v1"}]);
        host.put("/v1/veths/v0", json!({"endpoints": ends})).ok();
        let answer = host.patch(
            "/v1/veths/v0/endpoints/0",
            json!({"addresses": ["fd00::1/64"]}),
        );
        assert_eq!(answer.status, 200, "round {round}: {}", answer.json);
        assert_eq!(host.delete("/v1/veths/v0").status, 204);
    }
}

/// A bridge whose MTU was asked for once goes by its ports again, those of others too, also after a
/// restart; an unequal pair is told.
#[test]
fn bridge_mtu_follows_its_ports_when_unset() {
    let mut host = Host::started();
    let end = |mtu: Value| json!({"endpoints": [{"interface": "p0", "bridge": "br0", "mtu": mtu}, {"interface": "e0", "mtu": mtu}]});
    let mtu = |host: &Host| host.ip(&["link", "show", "br0"])[0]["mtu"].clone();
    host.put("/v1/bridges/br0", json!({})).ok();
    host.put("/v1/veths/v0", end(json!(9000))).ok();
    host.until("the kernel chooses", || mtu(&host) == 9000);
    host.patch("/v1/bridges/br0", json!({"mtu": 1400})).ok();
    assert_eq!(mtu(&host), 1400);
    host.patch("/v1/bridges/br0", json!({"mtu": null})).ok();
    assert_eq!(mtu(&host), 9000);
    host.put("/v1/veths/v0", end(json!(2000))).ok();
    assert_eq!(mtu(&host), 2000);
    host.restart();
    assert_eq!(
        host.post("/v1/reconcile", json!({})).ok()["repaired"],
        json!([])
    );
    assert!(
        host.sh("ip link add x type veth peer name y && ip link set x mtu 1300 master br0")
            .status
            .success()
    );
    host.until("a port of others counts", || mtu(&host) == 1300);
    assert!(host.sh("ip link set x mtu 1700").status.success());
    host.until("as it changes", || mtu(&host) == 1700);
    host.put(
        "/v1/bridges/br0",
        json!({"labels": {"a": "b"}, "ageing_time_s": 60}),
    )
    .ok();
    assert!(host.sh("ip link del x").status.success());
    host.until("and as it goes", || mtu(&host) == 2000);
    assert_eq!(host.delete("/v1/veths/v0").status, 204);
    assert_eq!(mtu(&host), 1500);
    // One that is made anew needs nobody for it.
    host.put("/v1/veths/v0", end(json!(2000))).ok();
    host.reboot();
    host.wait_until_settled();
    assert_eq!(mtu(&host), 2000);
    assert_eq!(
        host.post("/v1/reconcile", json!({})).ok()["repaired"],
        json!([])
    );
    let ends = json!([{"interface": "e2", "mtu": 9000}, {"interface": "e3"}]);
    host.put("/v1/veths/v1", json!({"endpoints": ends})).ok();
    host.until("the pair is ready", || {
        host.get("/v1/veths/v1").ok()["status"]["observed"]["ready"] == true
    });
    let status = host.get("/v1/veths/v1").ok()["status"].clone();
    assert_eq!(
        (&status["state"], &status["reason"]),
        (
            &json!("in_sync"),
            &json!("e2 has MTU 9000, its peer 1500: larger packets are dropped")
        )
    );
}

/// Source addresses: the first of the list is the one that packets leave with, whatever happened to
/// it.
#[test]
fn first_address_stays_the_source_address() {
    let mut host = Host::started();
    host.put("/v1/namespaces/net0", json!({})).ok();
    let ends = |list: &[&str]| {
        json!({"endpoints": [{"namespace": "net0", "interface": "eth0", "addresses": list},
            {"interface": "port0", "addresses": ["10.1.0.254/24", "fd00:1::fe/64"]}]})
    };
    let list = [
        "10.1.0.2/24",
        "10.1.0.1/24",
        "10.1.0.3/24",
        "fd00:1::2/64",
        "fd00:1::1/64",
        "fd00:1::3/64",
    ];
    let order = |host: &Host| -> Vec<String> {
        let shown = host.ip(&["-n", "net0", "address", "show", "dev", "eth0"]);
        let all = shown[0]["addr_info"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|one| one["scope"] == "global");
        all.map(|one| format!("{}/{}", one["local"].as_str().unwrap(), one["prefixlen"]))
            .collect()
    };
    let check = |host: &Host, list: &[&str], when: &str| {
        host.until(when, || order(host) == list);
        for (to, net) in [("10.1.0.254", "10."), ("fd00:1::fe", "fd")] {
            let first = list
                .iter()
                .find(|one| one.starts_with(net))
                .unwrap()
                .split('/')
                .next()
                .unwrap();
            let got = host.ip(&["-n", "net0", "route", "get", to]);
            assert_eq!(got[0]["prefsrc"], first, "{when}");
            // A neighbour solicitation carries the packet's source, which the neighbour then knows.
            host.run(&[
                "sh",
                "-c",
                "ip neigh flush dev port0; ip -n net0 neigh flush dev eth0",
            ]);
            host.run(&[
                "ip", "netns", "exec", "net0", "ping", "-n", "-c", "1", "-W", "10", to,
            ]);
            let known = host.run(&["ip", "neigh", "show", "dev", "port0"]);
            assert!(
                known
                    .lines()
                    .any(|line| line.split(' ').next() == Some(first)),
                "{when}: {known}"
            );
        }
        host.until("it says so", || state(host, "/v1/veths/lan0") == "in_sync");
        assert_eq!(
            host.post("/v1/reconcile", json!({})).ok()["repaired"],
            json!([]),
            "{when}"
        );
    };
    host.put("/v1/veths/lan0", ends(&list)).ok();
    check(&host, &list, "made");
    for promote in ["0", "1"] {
        let set = format!("echo {promote} >/proc/sys/net/ipv4/conf/eth0/promote_secondaries");
        host.run(&["ip", "netns", "exec", "net0", "sh", "-c", &set]);
        for damage in [
            "ip -n net0 addr del 10.1.0.2/24 dev eth0",
            "ip -n net0 addr del 10.1.0.1/24 dev eth0",
            "ip -n net0 addr del fd00:1::1/64 dev eth0",
            "ip -n net0 addr del 10.1.0.2/24 dev eth0; ip -n net0 addr add 10.1.0.2/24 dev eth0",
            "ip -n net0 addr del fd00:1::3/64 dev eth0; ip -n net0 addr add fd00:1::3/64 dev eth0 nodad",
            "ip -n net0 addr flush dev eth0 scope global",
            "ip -n net0 link set eth0 down",
            "ip -n net0 link del eth0",
        ] {
            host.sh(damage);
            host.until("the link is there", || {
                host.sh("ip -n net0 link show eth0").status.success()
            });
            check(&host, &list, damage);
        }
    }
    let other = [
        "10.1.0.3/24",
        "10.1.0.9/24",
        "10.1.0.2/24",
        "fd00:1::9/64",
        "fd00:1::3/64",
    ];
    host.put("/v1/veths/lan0", ends(&other)).ok();
    check(&host, &other, "changed");
    host.reboot();
    check(&host, &other, "after a reboot");
}

/// An MTU that somebody made too small for IPv6 is told in words, and the addresses are back when
/// it is large enough.
#[test]
fn too_small_mtu_explains_missing_ipv6() {
    let host = Host::started();
    let ends = json!([{"interface": "va", "addresses": ["10.0.0.1/24", "fd00::1/64"]}, {"interface": "vb"}]);
    host.put("/v1/veths/v", json!({"endpoints": ends})).ok();
    host.run(&["ip", "link", "set", "dev", "va", "mtu", "1000"]);
    host.until("it is told", || state(&host, "/v1/veths/v") == "pending");
    let reason = host.get("/v1/veths/v").ok()["status"]["reason"]
        .as_str()
        .unwrap()
        .to_owned();
    for word in ["1280", "1000", "fd00::1/64", "MTU"] {
        assert!(reason.contains(word), "{reason}");
    }
    host.run(&["ip", "link", "set", "dev", "va", "mtu", "1500"]);
    host.until("it is back", || state(&host, "/v1/veths/v") == "in_sync");
    assert!(
        host.run(&["ip", "addr", "show", "va"])
            .contains("fd00::1/64")
    );
    // Without IPv6 addresses a small one is as asked for.
    let ends = json!([{"interface": "va", "addresses": ["10.0.0.1/24"], "mtu": 1000}, {"interface": "vb"}]);
    host.put("/v1/veths/v", json!({"endpoints": ends})).ok();
    assert!(
        !host
            .run(&["ip", "addr", "show", "va"])
            .contains("fd00::1/64")
    );
}
