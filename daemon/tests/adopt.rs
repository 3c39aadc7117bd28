//! Adoption: a network made by `ip` is taken over in place, under traffic.

mod common;

use common::{Host, shape::sorted};
use serde_json::{Value, json};

/// Two namespaces on a bridge, as a script makes them: addresses, routes, STP, a second pair
/// between the namespaces, a bridge inside one of them.
const BY_HAND: &str = "
set -e
ip link add lan type bridge stp_state 1 forward_delay 200
ip addr add 10.1.0.254/24 dev lan
ip addr add 10.1.9.254/24 dev lan noprefixroute
ip link set lan up
for i in 1 2; do
    ip netns add n$i
    ip -n n$i link set lo up
    ip link add port$i type veth peer name eth0 netns n$i
    ip -n n$i addr add 10.1.0.$i/24 dev eth0
    ip -n n$i addr add fd00:1::$i/64 dev eth0 nodad
    ip link set port$i master lan
    bridge link set dev port$i hairpin on
    ip link set port$i alias 'port of n'$i
    ip link set port$i up
    ip -n n$i link set eth0 up
    ip -n n$i route add default via 10.1.0.254 proto static
done
ip -n n1 link add x type veth peer name x netns n2
ip -n n1 link set x up
ip -n n2 link set x up
ip -n n1 link add inner type bridge
ip -n n1 link set inner up
ip netns exec n1 sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
";

fn documents() -> [(&'static str, Value); 6] {
    let end = |i: u8| {
        json!({"namespace": format!("n{i}"), "interface": "eth0",
            "addresses": [format!("10.1.0.{i}/24"), format!("fd00:1::{i}/64")]})
    };
    let port =
        |i: u8| json!({"interface": format!("port{i}"), "bridge": "br", "port": {"hairpin": true}});
    let routes = json!([{"destination": "default", "via": "10.1.0.254"}]);
    [
        (
            "/v1/namespaces/n1",
            json!({"routes": routes, "sysctls": {"net.ipv4.ip_forward": 1}}),
        ),
        ("/v1/namespaces/n2", json!({"routes": routes})),
        (
            "/v1/bridges/br",
            json!({"interface": "lan", "stp": true, "forward_delay_s": 2, "addresses": ["10.1.0.254/24", "10.1.9.254/24"]}),
        ),
        ("/v1/bridges/inner", json!({"namespace": "n1"})),
        ("/v1/veths/p1", json!({"endpoints": [end(1), port(1)]})),
        (
            "/v1/veths/x",
            json!({"endpoints": [{"namespace": "n1", "interface": "x"}, {"namespace": "n2", "interface": "x"}]}),
        ),
    ]
}

/// Makes it, and waits until its bridge forwards.
fn make(host: &Host) {
    let output = host.sh(BY_HAND);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let forwards = || {
        let ports = host.bridge(&["link", "show"]);
        ports
            .as_array()
            .unwrap()
            .iter()
            .all(|port| port["state"] == "forwarding")
    };
    host.until("the ports forward", forwards);
    host.wait_until_settled();
}

/// The kernel without what taking over leaves: owner tags and protocol numbers.
fn untagged(host: &Host) -> Vec<String> {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.retain(|key, _| {
                    !["altnames", "protocol", "inet6_addr_gen_mode"].contains(&key.as_str())
                        && !key.contains("timer")
                });
                map.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    sorted(host, strip)
}

#[test]
fn adoption_under_traffic_loses_no_packet() {
    let mut host = Host::started();
    make(&host);
    let before = untagged(&host);
    let there = host.get("/v1/namespaces?include=unmanaged").ok();
    assert_eq!(there["items"].as_array().map(Vec::len), Some(2));
    let pings = host.spawn_ping("n1", "10.1.0.2", 5);
    host.until("pings come back", || pings.received() > 20);
    for (path, body) in documents() {
        host.put(path, body.clone()).refused(409, "conflict", None);
        let path = format!("{path}?adopt=true");
        let plan = host.put(&format!("{path}&dry_run=true"), body.clone()).ok();
        assert!(
            plan["plan"]
                .as_array()
                .is_some_and(|plan| plan[0]["op"] == "link_owner"),
            "{plan}"
        );
        let made = host.put(&path, body.clone());
        assert_eq!(
            (made.status, &made.json["status"]["state"]),
            (201, &"in_sync".into()),
            "{}",
            made.json
        );
        // The same again changes nothing.
        let again = host.put(&path, body);
        assert_eq!(
            (again.status, again.etag.as_deref()),
            (200, Some("\"1\"")),
            "{}",
            again.json
        );
    }
    host.until("pings go on", || pings.received() > 100);
    let (sent, received) = pings.stop();
    assert_eq!(sent, received, "no packet is lost");
    common::same(&before, &untagged(&host));

    // They are netnsd's now: kept, healed, changed, and taken away.
    let routes = host.ip(&["-n", "n1", "route", "show", "default"]);
    assert_eq!(routes[0]["protocol"], "110");
    host.restart();
    common::same(&before, &untagged(&host));
    assert!(
        host.sh("ip -n n1 addr del 10.1.0.1/24 dev eth0")
            .status
            .success()
    );
    host.wait_until_settled();
    host.until("the address is back", || {
        host.run(&["ip", "-n", "n1", "addr"])
            .contains("10.1.0.1/24")
    });
    host.patch("/v1/bridges/br", json!({"addresses": ["10.1.0.254/24"]}))
        .ok();
    assert!(
        !host
            .run(&["ip", "addr", "show", "lan"])
            .contains("10.1.9.254")
    );
    host.reboot();
    assert_eq!(host.ip(&["link", "show", "port1"])[0]["master"], "lan");
    for path in [
        "/v1/namespaces/n1?cascade=true",
        "/v1/bridges/br",
        "/v1/namespaces/n2",
    ] {
        assert_eq!(host.delete(path).status, 204, "{path}");
    }
    assert_eq!(host.run(&["ip", "netns", "list"]), "");
    assert_eq!(host.ip(&["link"]).as_array().map(Vec::len), Some(1));
}

#[test]
fn different_link_is_not_adopted() {
    let host = Host::started();
    make(&host);
    host.run(&[
        "sh",
        "-c",
        "echo 1 >/proc/sys/net/ipv6/conf/port1/disable_ipv6",
    ]);
    let end =
        |namespace: Value, interface: &str| json!({"namespace": namespace, "interface": interface});
    for ns in ["n1", "n2"] {
        host.put(&format!("/v1/namespaces/{ns}?adopt=true"), json!({}))
            .ok();
    }
    let marked = host.kernel();
    for (path, body) in [
        ("/v1/bridges/port1", json!({})),
        // A pair that is none, though the index of each is what the other says of its peer.
        (
            "/v1/veths/a",
            json!({"endpoints": [end("n1".into(), "eth0"), end("n2".into(), "x")]}),
        ),
        (
            "/v1/veths/b",
            json!({"endpoints": [end("n1".into(), "eth0"), end(Value::Null, "port2")]}),
        ),
        (
            "/v1/veths/c",
            json!({"endpoints": [end("n1".into(), "eth0"), end(Value::Null, "elsewhere")]}),
        ),
        (
            "/v1/veths/d",
            json!({"endpoints": [end(Value::Null, "lan"), end(Value::Null, "port1")]}),
        ),
    ] {
        let answer = host.put(&format!("{path}?adopt=true"), body);
        assert_eq!(
            (answer.status, &answer.json["code"]),
            (409, &"conflict".into()),
            "{path}: {}",
            answer.json
        );
        common::same(&marked, &host.kernel());
    }
    // One that the kernel refuses half-way: everything is as it was.
    let refused = host.put(
        "/v1/veths/p1?adopt=true",
        json!({"endpoints": [{"namespace": "n1", "interface": "eth0", "addresses": ["10.1.0.77/24"]},
            {"interface": "port1", "mtu": 1400, "addresses": ["fd00:9::1/64"]}]}),
    );
    assert_eq!(
        (refused.status, &refused.json["errno"]),
        (422, &"EACCES".into()),
        "{}",
        refused.json
    );
    common::same(&marked, &host.kernel());
}

#[test]
fn crash_during_adoption_is_repaired_at_start() {
    let mut host = Host::started();
    make(&host);
    let before = untagged(&host);
    host.put("/v1/namespaces/n1?adopt=true&wait=false", json!({}))
        .ok();
    host.put("/v1/namespaces/n2?adopt=true", json!({})).ok();
    host.put(
        "/v1/bridges/br?adopt=true&wait=false",
        documents()[2].1.clone(),
    )
    .ok();
    host.put(
        "/v1/veths/p1?adopt=true&wait=false",
        documents()[4].1.clone(),
    )
    .ok();
    host.kill9();
    host.start();
    host.wait_until_settled();
    common::same(&before, &untagged(&host));
    for path in ["/v1/namespaces/n1", "/v1/bridges/br", "/v1/veths/p1"] {
        assert_eq!(host.get(path).ok()["status"]["state"], "in_sync", "{path}");
    }
}

/// Routes with more than the API can say, as others make them, each with the same as it is asked
/// for.
const ROUTES: [&str; 8] = [
    "10.7.0.0/16 via 10.1.0.9 mtu 1300 advmss 1200 initcwnd 20 quickack 1",
    "10.8.0.0/16 via 10.1.0.9 src 10.1.0.1 window 4096 rtt 80 rto_min 40 hoplimit 9",
    "10.9.0.0/16 via 10.1.0.9 mtu lock 1280 congctl reno features ecn",
    "10.10.0.0/16 dev eth0 scope global initrwnd 12 fastopen_no_cookie 1",
    "blackhole 10.11.0.0/16 metric 9",
    "fd07::/16 via fd00:1::9 mtu 1300 advmss 1200 pref high",
    "fd08::/16 dev eth0 pref low hoplimit 3",
    "fd09::/16 via fd00:1::9 table 255 mtu 1400",
];

/// The kernel as `ip -d` tells it, every route with its details; without marks and protocols where
/// they are to differ.
fn details(host: &Host, marked: bool) -> Vec<String> {
    let look = "for ns in '' '-n n1' '-n n2'; do for f in -4 -6; do ip $ns $f -d route show table all; done; ip $ns -d link; \
        bridge $ns -d link; done";
    let text = String::from_utf8(host.sh(look).stdout).unwrap();
    let keep = |line: &str| {
        let line = match marked {
            true => line.to_owned(),
            false => line
                .replace(" proto boot", "")
                .replace(" proto 110", "")
                .replace(" proto static", ""),
        };
        let words: Vec<&str> = line.split_whitespace().collect();
        let timer = words.iter().position(|word| word.ends_with("_timer"));
        timer.map_or_else(
            || words.join(" "),
            |_| {
                words
                    .iter()
                    .filter(|word| !word.contains('.'))
                    .copied()
                    .collect::<Vec<_>>()
                    .join(" ")
            },
        )
    };
    let mut lines: Vec<String> = text
        .lines()
        .map(keep)
        .filter(|line| {
            marked || !(line.starts_with("alias ") || line.starts_with("altname netnsd:"))
        })
        .collect();
    if !marked {
        lines
            .iter_mut()
            .for_each(|line| *line = line.replace("addrgenmode none", "addrgenmode eui64"));
    }
    lines.sort();
    lines
}

#[test]
fn adopted_routes_keep_unknown_attributes() {
    let host = Host::started();
    make(&host);
    for route in ROUTES {
        let family = if route.contains("::") { "-6" } else { "-4" };
        let line = format!("ip -n n1 {family} route add {route}");
        assert!(host.sh(&line).status.success(), "{line}");
    }
    // And some that the body does not name, or netnsd has no words for.
    for line in [
        "ip -n n1 route add 10.20.0.0/16 nexthop via 10.1.0.9 nexthop via 10.1.0.8",
        "ip -n n1 route add 10.21.0.0/16 via inet6 fe80::9 dev eth0",
        "ip -n n1 route add 10.22.0.0/16 via 10.1.0.9 tos 0x10",
        "ip -n n1 route add throw 10.23.0.0/16",
        "ip -n n1 -6 route add fd20::/16 via fd00:1::9 expires 3600",
        "ip link set lan type bridge mcast_hash_max 512 group_fwd_mask 8 mcast_querier 1",
        "ip link set port1 type bridge_slave mcast_flood off neigh_suppress on",
    ] {
        host.sh(line);
    }
    host.wait_until_settled();
    let (before, exact) = (details(&host, false), details(&host, true));
    let steady = |lines: Vec<String>| -> Vec<String> {
        lines
            .into_iter()
            .map(|line| line.split(" expires").next().unwrap().to_owned())
            .collect()
    };
    let (before, exact) = (steady(before), steady(exact));
    let route = |text: &str| {
        let words: Vec<&str> = text.split(' ').collect();
        let after = |word: &str| {
            words
                .iter()
                .position(|other| *other == word)
                .map(|at| words[at + 1])
        };
        let kind = if words[0] == "blackhole" {
            "blackhole"
        } else {
            "unicast"
        };
        let number = |word: &str| after(word).and_then(|value| value.parse::<u32>().ok());
        json!({"destination": words[usize::from(kind == "blackhole")], "type": kind, "via": after("via"), "interface": after("dev"),
            "metric": number("metric"), "table": number("table").unwrap_or(254)})
    };
    let mut routes: Vec<Value> = ROUTES.iter().map(|text| route(text)).collect();
    let spec = json!({"name": "n1", "routes": routes});

    // A link with more attributes than netnsd can recreate is a conflict, and stays.
    for (i, (destination, via)) in [("10.21.0.0/16", "10.1.0.9"), ("fd20::/16", "fd00:1::9")]
        .into_iter()
        .enumerate()
    {
        if !exact.iter().any(|line| line.contains(destination)) {
            eprintln!("this kernel has no such route: {i}");
            continue;
        }
        let body = json!({"routes": [{"destination": destination, "via": via}]});
        host.put("/v1/namespaces/n1?adopt=true", body)
            .refused(409, "conflict", Some("/routes/0"));
        assert_eq!(exact, steady(details(&host, true)));
    }

    // A refusal leaves every byte as it was.
    routes.push(json!({"destination": "198.51.100.0/24", "via": "10.1.0.255"}));
    routes.push(json!({"destination": "10.7.0.0/16", "via": "10.1.0.8", "table": 77}));
    routes[2]["via"] = json!("10.1.0.8");
    let bridge = json!({"name": "br", "interface": "lan", "stp": false, "forward_delay_s": 0, "hello_time_s": 3, "ageing_time_s": 9,
        "mtu": 1500, "addresses": ["10.1.0.254/24", "10.1.9.254/24"]});
    let pair = json!({"name": "p1", "endpoints": [
        {"namespace": "n1", "interface": "eth0", "addresses": ["10.1.0.1/24", "fd00:1::1/64"]},
        {"interface": "port1", "bridge": "br", "port": {"hairpin": false, "path_cost": 9, "isolated": true}}]});
    let document = json!({"namespaces": [{"name": "n1", "routes": routes}], "bridges": [bridge], "veths": [pair]});
    let refused = host.patch("/v1/topology?adopt=true", document);
    assert_eq!(
        (refused.status, &refused.json["code"]),
        (422, &"kernel_rejected".into()),
        "{}",
        refused.json
    );
    common::same(&exact, &steady(details(&host, true)));

    let plan = host
        .patch(
            "/v1/topology?adopt=true&dry_run=true",
            json!({"namespaces": [spec]}),
        )
        .ok();
    let lines: Vec<String> = plan["plan"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["command"].as_str().unwrap().to_owned())
        .collect();
    host.patch("/v1/topology?adopt=true", json!({"namespaces": [spec]}))
        .ok();
    common::same(&before, &steady(details(&host, false)));
    let ours = details(&host, true);
    assert_eq!(
        ours.iter()
            .filter(|line| line.contains("proto 110"))
            .count(),
        ROUTES.len(),
        "{ours:#?}"
    );
    assert_eq!(
        host.post("/v1/reconcile", json!({})).ok()["repaired"],
        json!([])
    );
    common::same(&before, &steady(details(&host, false)));

    // The lines of the dry run do the same; the mark is that of a namespace that was never made.
    for line in lines.iter().filter(|line| !line.contains("netnsd:")) {
        let output = host.sh(line);
        assert!(
            output.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    common::same(&before, &steady(details(&host, false)));
}

/// Addresses with everything that `ip` can say of one.
const ADDRESSES: &str = "
set -e
ip link add v0 type veth peer name v1
ip addr add 10.0.0.1/24 brd 10.0.0.255 label v0:a metric 77 dev v0
ip addr add 10.0.0.9/24 dev v0 valid_lft 90000 preferred_lft 80000
ip addr add 10.3.0.1/24 scope link noprefixroute dev v0
ip addr add 192.0.2.1 peer 192.0.2.100/32 dev v0
ip addr add fd00::1/64 metric 88 dev v0
ip addr add fd00::9/64 dev v0 noprefixroute preferred_lft 0
ip link set v0 up
ip link set v1 up
ip route add 10.44.0.0/16 via 10.0.0.77 src 10.0.0.9
";

/// Returns the addresses as `ip` prints them without lifetimes, and without their protocol if
/// asked.
fn addresses(host: &Host, marks: bool) -> Vec<Value> {
    let mut all = host.ip(&["addr", "show", "dev", "v0"])[0]["addr_info"]
        .as_array()
        .unwrap()
        .clone();
    for address in all.iter_mut().filter_map(Value::as_object_mut) {
        address.retain(|key, _| marks || key != "protocol");
        for (_, life) in address
            .iter_mut()
            .filter(|(key, _)| key.ends_with("_life_time"))
        {
            *life = json!(life.as_u64().unwrap().div_ceil(1000));
        }
    }
    all
}

#[test]
fn adopted_addresses_keep_every_attribute() {
    let host = Host::started();
    assert!(host.sh(ADDRESSES).status.success());
    host.wait_until_settled();
    let before = addresses(&host, false);
    let ends = |addresses: Value| json!({"endpoints": [{"interface": "v0", "addresses": addresses}, {"interface": "v1"}]});
    let all = json!([
        "10.0.0.1/24",
        "10.0.0.9/24",
        "10.3.0.1/24",
        "fd00::9/64",
        "fd00::1/64"
    ]);
    let taken = host.put("/v1/veths/v0?adopt=true", ends(all)).ok();
    assert_eq!(taken["status"]["state"], "in_sync", "{taken}");
    assert_eq!(
        taken["status"]["observed"]["endpoints"][0]["foreign_addresses"],
        json!(["192.0.2.1 peer 192.0.2.100/32"])
    );
    assert_eq!(addresses(&host, false), before);
    assert_eq!(
        host.post("/v1/reconcile", json!({})).ok()["repaired"],
        json!([])
    );
    // They are netnsd's: in another order they are what they were, and so is the route that prefers
    // one.
    let other = json!([
        "10.0.0.9/24",
        "10.3.0.1/24",
        "10.0.0.1/24",
        "fd00::1/64",
        "fd00::9/64"
    ]);
    host.patch("/v1/veths/v0", ends(other)).ok();
    let one = |all: &[Value], local: &str| {
        all.iter()
            .find(|one| one["local"] == local)
            .cloned()
            .unwrap()
    };
    let now = addresses(&host, false);
    for local in ["10.3.0.1", "192.0.2.1", "fd00::9"] {
        assert_eq!(one(&now, local), one(&before, local));
    }
    assert_eq!(
        (
            &one(&now, "10.0.0.1")["secondary"],
            &one(&now, "fd00::1")["nodad"]
        ),
        (&json!(true), &json!(true))
    );
    assert_eq!(
        (
            &one(&now, "10.0.0.1")["label"],
            &one(&now, "10.0.0.1")["broadcast"]
        ),
        (&json!("v0:a"), &json!("10.0.0.255"))
    );
    assert_eq!(
        host.ip(&["route", "show", "10.44.0.0/16"])[0]["prefsrc"],
        "10.0.0.9"
    );
    // Beside an address with a peer, and combinations that cannot be.
    host.patch(
        "/v1/veths/v0/endpoints/0",
        json!({"addresses": ["192.0.2.1/32"]}),
    )
    .ok();
    assert!(
        host.run(&["ip", "addr", "show", "dev", "v0"])
            .contains("inet 192.0.2.1/32")
    );
    host.run(&[
        "ip",
        "addr",
        "add",
        "10.5.0.1",
        "peer",
        "10.5.0.2/24",
        "dev",
        "v0",
    ]);
    host.run(&["ip", "addr", "add", "fd05::1/128", "dev", "v0"]);
    let before = host.kernel();
    for (asked, other) in [
        ("10.5.0.1/24", "10.5.0.1 peer 10.5.0.2/24"),
        ("fd05::1/64", "fd05::1/128"),
    ] {
        let refused = host.patch(
            "/v1/veths/v0/endpoints/0",
            json!({"addresses": ["192.0.2.1/32", asked]}),
        );
        assert!(
            refused.json["detail"].as_str().unwrap().contains(other),
            "{}",
            refused.json
        );
        refused.refused(409, "conflict", None);
        common::same(&before, &host.kernel());
    }
}

#[test]
fn released_addresses_get_every_attribute_back() {
    let host = Host::started();
    assert!(host.sh(ADDRESSES).status.success());
    host.wait_until_settled();
    host.run(&[
        "sh",
        "-c",
        "echo 1 >/proc/sys/net/ipv6/conf/v1/disable_ipv6",
    ]);
    let before = addresses(&host, true);
    let ends = json!({"endpoints": [
        {"interface": "v0", "addresses": ["10.0.0.9/24", "10.7.0.1/24", "10.0.0.1/24", "fd00::1/64", "fd00::9/64"]},
        {"interface": "v1", "addresses": ["fd00:9::1/64"]}]});
    host.put("/v1/veths/v0?adopt=true", ends)
        .refused(422, "kernel_rejected", None);
    host.wait_until_settled();
    assert_eq!(addresses(&host, true), before);
    assert_eq!(
        host.ip(&["route", "show", "10.44.0.0/16"])[0]["prefsrc"],
        "10.0.0.9"
    );
}
