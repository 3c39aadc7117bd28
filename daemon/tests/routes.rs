//! Routes in full: several next hops, metrics, all types; and proxy neighbours.

mod common;

use common::Host;
use serde_json::{Value, json};

/// A namespace with two devices, each with an IPv4 and an IPv6 network.
fn lab(host: &Host, spec: Value) {
    host.put("/v1/namespaces/a", spec).ok();
    for i in 0..2 {
        let ends = json!([{"namespace": "a", "interface": format!("eth{i}"),
            "addresses": [format!("10.{i}.0.1/24"), format!("fd00:{i}::1/64")]}, {}]);
        host.put(&format!("/v1/veths/v{i}"), json!({"endpoints": ends}))
            .ok();
    }
    host.wait_until_settled();
}

fn two_hops() -> Value {
    json!([
        {"destination": "10.9.0.0/16", "nexthops": [
            {"via": "10.0.0.2", "weight": 3}, {"via": "10.1.0.2", "interface": "eth1"}]},
        {"destination": "fd09::/64", "mtu": 1400, "nexthops": [
            {"via": "fd00:0::2"}, {"via": "fd00:1::2", "interface": "eth1", "weight": 2}]},
    ])
}

/// The live next hops of a route, as `ip -j` shows them: gateway, device, weight.
fn hops(host: &Host, family: &str, to: &str) -> Vec<String> {
    let routes = host.ip(&["-n", "a", family, "route", "show", to]);
    let routes = routes.as_array().unwrap();
    assert!(routes.len() <= 1, "{routes:?}");
    let Some(route) = routes.first() else {
        return Vec::new();
    };
    let one = std::slice::from_ref(route).to_vec();
    let all = route["nexthops"].as_array().cloned().unwrap_or(one);
    let is_alive = |hop: &&Value| {
        let flags = hop["flags"].as_array().into_iter().flatten();
        !flags.into_iter().any(|flag| flag == "dead")
    };
    let mut hops: Vec<String> = all
        .iter()
        .filter(is_alive)
        .map(|hop| {
            let text = |key: &str| hop[key].as_str().unwrap_or("-").to_owned();
            format!("{} {} {}", text("gateway"), text("dev"), hop["weight"])
        })
        .collect();
    hops.sort();
    hops
}

fn state(host: &Host) -> (String, String) {
    let status = &host.get("/v1/namespaces/a").ok()["status"];
    let text = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
    (text("state"), text("reason"))
}

const V4: [&str; 2] = ["10.0.0.2 eth0 3", "10.1.0.2 eth1 1"];
const V6: [&str; 2] = ["fd00:1::2 eth1 2", "fd00::2 eth0 1"];

#[test]
fn several_next_hops_reach_the_kernel() {
    let mut host = Host::started();
    lab(&host, json!({"routes": two_hops()}));
    let look = |host: &Host| {
        let v4 = hops(host, "-4", "10.9.0.0/16");
        (v4, hops(host, "-6", "fd09::/64"))
    };
    let whole = (
        V4.map(str::to_owned).to_vec(),
        V6.map(str::to_owned).to_vec(),
    );
    assert_eq!(look(&host), whole);
    assert_eq!(state(&host).0, "in_sync");
    let live = host.get("/v1/namespaces/a/routes").ok();
    let found = live["items"].as_array().unwrap().iter();
    let found = found
        .filter(|route| route["protocol"] == "netnsd")
        .collect::<Vec<_>>();
    assert_eq!(found.len(), 2, "{live}");
    assert_eq!(
        found[0]["nexthops"],
        json!([{"via": "10.0.0.2", "interface": "eth0", "weight": 3},
            {"via": "10.1.0.2", "interface": "eth1", "weight": 1}])
    );
    assert_eq!(
        (&found[0]["adoptable"], &found[1]["mtu"]),
        (&json!(true), &json!(1400))
    );

    // By others: one hop less, another weight, gone.
    for damage in [
        "ip -n a route replace 10.9.0.0/16 proto 110 via 10.0.0.2",
        "ip -n a route replace 10.9.0.0/16 proto 110 nexthop via 10.0.0.2 weight 2 nexthop via 10.1.0.2",
        "ip -n a route del 10.9.0.0/16",
        "ip -n a -6 route del fd09::/64 via fd00:1::2 dev eth1",
        "ip -n a -6 route del fd09::/64",
    ] {
        assert!(host.sh(damage).status.success(), "{damage}");
        host.until(damage, || look(&host) == whole);
    }
    host.reboot();
    host.wait_until_settled();
    assert_eq!(look(&host), whole);

    // Changed in place: to one next hop, to two others, and none.
    let one = json!([{"destination": "10.9.0.0/16", "via": "10.1.0.2"},
        {"destination": "fd09::/64", "via": "fd00:1::2"}]);
    host.patch("/v1/namespaces/a", json!({"routes": one})).ok();
    let single = |host: &Host, family: &str, to: &str| {
        let routes = host.ip(&["-n", "a", family, "route", "show", to]);
        routes[0]["gateway"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(single(&host, "-4", "10.9.0.0/16"), "10.1.0.2");
    assert_eq!(single(&host, "-6", "fd09::/64"), "fd00:1::2");
    host.patch("/v1/namespaces/a", json!({"routes": two_hops()}))
        .ok();
    assert_eq!(look(&host), whole);
    host.patch("/v1/namespaces/a", json!({"routes": []})).ok();
    assert_eq!(look(&host), (Vec::new(), Vec::new()));
}

/// A route goes on by the next hops that are left, is pending meanwhile, and gets the others back.
#[test]
fn lost_next_hop_comes_back() {
    let host = Host::started();
    lab(&host, json!({"routes": two_hops()}));
    let is = |v4: &[&str], v6: &[&str]| {
        hops(&host, "-4", "10.9.0.0/16") == v4 && hops(&host, "-6", "fd09::/64") == v6
    };
    host.patch("/v1/veths/v1/endpoints/0", json!({"up": false}))
        .ok();
    host.until("one hop is left", || {
        let (state, reason) = state(&host);
        state == "pending" && reason.contains("eth1 is not up")
    });
    assert_eq!(hops(&host, "-4", "10.9.0.0/16").len(), 1);
    assert_eq!(hops(&host, "-6", "fd09::/64").len(), 1);
    host.patch("/v1/veths/v1/endpoints/0", json!({"up": true}))
        .ok();
    host.until("both are back", || is(&V4, &V6));
    host.until("it is in sync", || state(&host).0 == "in_sync");

    host.delete("/v1/veths/v1").ok();
    host.until("the other hop stays", || {
        let v4 = hops(&host, "-4", "10.9.0.0/16");
        let v6 = hops(&host, "-6", "fd09::/64");
        v4 == ["10.0.0.2 eth0 null"] && v6 == ["fd00::2 eth0 null"]
    });
    let (state, reason) = state(&host);
    assert_eq!(state, "pending");
    assert!(
        reason.contains("there is no interface eth1 yet"),
        "{reason}"
    );
    lab(&host, json!({"routes": two_hops()}));
    host.until("both are back", || is(&V4, &V6));

    // Deleted by others, with everything on it.
    host.run(&["ip", "-n", "a", "link", "del", "eth0"]);
    host.until("both are back", || is(&V4, &V6));
    host.run(&["ip", "-n", "a", "addr", "flush", "dev", "eth1"]);
    host.until("both are back", || is(&V4, &V6));
}

#[test]
fn metrics_are_set_and_unset() {
    let host = Host::started();
    let route = |more: Value| {
        let mut routes = json!([{"destination": "10.9.0.0/16", "via": "10.0.0.2"},
            {"destination": "fd09::/64", "via": "fd00:0::2"}]);
        for route in routes.as_array_mut().unwrap() {
            let more = more.as_object().unwrap().clone();
            route.as_object_mut().unwrap().extend(more);
        }
        json!({"routes": routes})
    };
    let all = json!({"mtu": 1400, "advmss": 1300, "initcwnd": 20});
    lab(&host, route(all.clone()));
    let metrics = |family: &str, to: &str| {
        let routes = host.ip(&["-n", "a", family, "route", "show", to]);
        routes[0]["metrics"].clone()
    };
    let is = |wanted: &Value| {
        metrics("-4", "10.9.0.0/16") == *wanted && metrics("-6", "fd09::/64") == *wanted
    };
    assert!(is(&json!([all])));
    host.run(&[
        "ip",
        "-n",
        "a",
        "route",
        "replace",
        "10.9.0.0/16",
        "via",
        "10.0.0.2",
        "proto",
        "110",
    ]);
    host.until("the metrics are back", || is(&json!([all])));
    host.patch("/v1/namespaces/a", route(json!({"mtu": 1350})))
        .ok();
    assert!(is(&json!([{"mtu": 1350}])));
    host.patch("/v1/namespaces/a", route(json!({}))).ok();
    assert!(is(&Value::Null));
    // Of a field that is null, the value of others stays.
    host.sh("ip -n a route replace 10.9.0.0/16 via 10.0.0.2 proto 110 mtu 1390");
    host.post("/v1/reconcile", json!({})).ok();
    assert_eq!(metrics("-4", "10.9.0.0/16"), json!([{"mtu": 1390}]));
}

#[test]
fn throw_and_local_routes_reach_the_kernel() {
    let host = Host::started();
    let routes = json!([
        {"destination": "10.8.0.0/16", "type": "throw", "table": 7},
        {"destination": "fd08::/64", "type": "throw", "table": 7},
        {"destination": "10.7.0.0/16", "type": "local", "table": 255},
        {"destination": "fd07::/64", "type": "local", "table": 255},
        {"destination": "10.6.0.7/32", "type": "local", "interface": "eth0", "table": 9},
    ]);
    lab(&host, json!({"routes": routes}));
    let look = || {
        let mut found = Vec::new();
        for family in ["-4", "-6"] {
            let all = host.ip(&["-n", "a", family, "route", "show", "table", "all"]);
            let all = all.as_array().unwrap().iter();
            for route in all.filter(|route| route["protocol"] == "110") {
                let text = |key: &str| route[key].as_str().unwrap_or("-").to_owned();
                let dev = if text("type") == "throw" {
                    "-".to_owned()
                } else {
                    text("dev")
                };
                found.push(format!(
                    "{} {} {dev} {}",
                    text("type"),
                    text("dst"),
                    text("table")
                ));
            }
        }
        found.sort();
        found
    };
    let wanted = [
        "local 10.6.0.7 eth0 9",
        "local 10.7.0.0/16 lo local",
        "local fd07::/64 lo local",
        "throw 10.8.0.0/16 - 7",
        "throw fd08::/64 - 7",
    ];
    assert_eq!(look(), wanted);
    assert_eq!(state(&host).0, "in_sync");
    // The namespace answers for addresses of the local network.
    assert!(
        host.sh("ip netns exec a ping -c 1 -W 2 10.7.1.2")
            .status
            .success()
    );
    host.run(&["ip", "-n", "a", "link", "set", "lo", "down"]);
    host.until("they are back", || look() == wanted);
    host.patch("/v1/namespaces/a", json!({"loopback": false}))
        .ok();
    host.until("they wait", || state(&host).1.contains("lo is not up"));
    host.patch("/v1/namespaces/a", json!({"loopback": true}))
        .ok();
    host.until("they are back", || look() == wanted);
    host.patch("/v1/namespaces/a", json!({"routes": []})).ok();
    assert_eq!(look(), [] as [&str; 0]);
}

#[test]
fn wrong_route_is_refused_by_its_field() {
    let host = Host::started();
    let hops = |hops: Value| json!({"destination": "10.9.0.0/16", "nexthops": hops});
    let good = json!({"via": "10.0.0.2"});
    let with = |field: &str, value: Value| {
        let mut route = hops(json!([good, {"via": "10.0.0.3"}]));
        route[field] = value;
        route
    };
    for (route, code, pointer, words) in [
        (
            hops(json!([good])),
            "invalid_field",
            "nexthops",
            "via and interface",
        ),
        (
            hops(json!([good, {}])),
            "invalid_field",
            "nexthops/1/via",
            "needs via",
        ),
        (
            hops(json!([good, good])),
            "duplicate",
            "nexthops/1",
            "10.0.0.2",
        ),
        (
            hops(json!([good, {"via": "fd00::1"}])),
            "invalid_field",
            "nexthops/1/via",
            "one family",
        ),
        (
            hops(json!([good, {"via": "10.0.0.3", "weight": 0}])),
            "invalid_field",
            "nexthops/1/weight",
            "1 to 256",
        ),
        (
            hops(json!([good, {"via": "10.0.0.3", "weight": 257}])),
            "invalid_field",
            "nexthops/1/weight",
            "1 to 256",
        ),
        (
            json!({"destination": "default", "nexthops": [{"via": "fe80::1"}, {"via": "fe80::2", "interface": "eth0"}]}),
            "invalid_field",
            "nexthops/0/interface",
            "link-local",
        ),
        (
            with("via", json!("10.0.0.9")),
            "invalid_field",
            "via",
            "nexthops",
        ),
        (
            with("interface", json!("eth0")),
            "invalid_field",
            "interface",
            "nexthops",
        ),
        (
            with("type", json!("blackhole")),
            "invalid_field",
            "nexthops",
            "blackhole",
        ),
        (
            with("onlink", json!(true)),
            "invalid_field",
            "onlink",
            "interface",
        ),
        (
            with("mtu", json!(67)),
            "invalid_field",
            "mtu",
            "68 to 65520",
        ),
        (
            with("advmss", json!(65_496)),
            "invalid_field",
            "advmss",
            "65495",
        ),
        (
            with("initcwnd", json!(0)),
            "invalid_field",
            "initcwnd",
            "from 1",
        ),
        (
            json!({"destination": "fd00::/8", "type": "throw", "mtu": 1279}),
            "invalid_field",
            "mtu",
            "1280",
        ),
        (
            json!({"destination": "10.0.0.0/8", "type": "throw", "interface": "eth0"}),
            "invalid_field",
            "interface",
            "throw",
        ),
        (
            json!({"destination": "10.0.0.0/8", "type": "local", "via": "10.1.0.1"}),
            "invalid_field",
            "via",
            "local",
        ),
    ] {
        let answer = host.put("/v1/namespaces/a", json!({"routes": [route]}));
        let detail = answer.json["detail"].as_str().unwrap().to_owned();
        answer.refused(422, code, Some(&format!("/routes/0/{pointer}")));
        assert!(detail.contains(words), "{route}: {detail}");
    }
    for (entry, words) in [
        (
            json!({"address": "10.0.0.9", "interface": "eth0"}),
            "proxy: true",
        ),
        (
            json!({"address": "10.0.0.9", "interface": "eth0", "proxy": true, "mac": "02:00:00:00:00:01"}),
            "02:00:00:00:00:01",
        ),
    ] {
        let answer = host.put("/v1/namespaces/a", json!({"neighbours": [entry]}));
        let detail = answer.json["detail"].as_str().unwrap().to_owned();
        answer.refused(422, "invalid_field", Some("/neighbours/0/mac"));
        assert!(detail.contains(words), "{detail}");
    }
}

#[test]
fn proxy_neighbours_come_and_go() {
    let host = Host::started();
    let neighbours = json!([
        {"address": "10.0.0.77", "interface": "eth0", "proxy": true},
        {"address": "fd00:0::77", "interface": "eth0", "proxy": true},
        {"address": "10.0.0.77", "interface": "eth1", "mac": "02:00:00:00:00:77"},
    ]);
    lab(&host, json!({"neighbours": neighbours}));
    let look = || {
        let found = host.ip(&["-n", "a", "neigh", "show", "proxy"]);
        let found = found.as_array().unwrap().iter();
        let mut found: Vec<String> = found
            .map(|entry| format!("{} {}", entry["dst"], entry["dev"]))
            .collect();
        found.sort();
        found
    };
    let wanted = ["\"10.0.0.77\" \"eth0\"", "\"fd00::77\" \"eth0\""];
    assert_eq!(look(), wanted);
    let live = host.get("/v1/namespaces/a/neighbours").ok();
    let proxies = live["items"].as_array().unwrap().iter();
    assert_eq!(proxies.filter(|entry| entry["proxy"] == true).count(), 2);
    // Those of others stay, and the kernel's losses are made good.
    host.sh("ip -n a neigh add proxy 10.0.0.88 dev eth1");
    host.run(&["ip", "-n", "a", "link", "set", "eth0", "down"]);
    host.until("they are back", || look().len() == 3);
    host.sh("ip -n a neigh del proxy 10.0.0.77 dev eth0");
    host.post("/v1/reconcile", json!({})).ok();
    assert_eq!(look().len(), 3);
    host.patch("/v1/namespaces/a", json!({"neighbours": []}))
        .ok();
    assert_eq!(look(), ["\"10.0.0.88\" \"eth1\""]);
}
