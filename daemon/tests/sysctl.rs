//! Sysctls: in any order, beside addresses, given back, and refused with a reason.

mod common;

use std::collections::BTreeMap;

use common::{
    Host,
    random::{Random, number},
};
use serde_json::{Map, Value, json};

/// A sysctl as a command in the namespace reads it.
fn read(host: &Host, namespace: &str, path: &str) -> String {
    host.run(&[
        "ip",
        "netns",
        "exec",
        namespace,
        "cat",
        &format!("/proc/sys/net/{path}"),
    ])
    .trim()
    .to_owned()
}

fn state(host: &Host, path: &str) -> String {
    host.get(path).ok()["status"]["state"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn addresses(host: &Host, namespace: &str, interface: &str) -> Vec<String> {
    let links = host.ip(&["-n", namespace, "addr", "show", "dev", interface]);
    let all = links[0]["addr_info"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let global = all.iter().filter(|address| address["scope"] == "global");
    global
        .map(|address| address["local"].as_str().unwrap().to_owned())
        .collect()
}

/// A pair with its first end in a namespace.
fn pair(namespace: &str, addresses: &[&str]) -> Value {
    json!({"endpoints": [{"namespace": namespace, "interface": "eth0", "addresses": addresses}, {"interface": namespace}]})
}

#[test]
fn disabled_ipv6_with_addresses_is_refused() {
    let host = Host::started();
    host.put("/v1/namespaces/a", json!({})).ok();
    host.put("/v1/veths/p", pair("a", &["10.0.0.1/24", "fd00::1/64"]))
        .ok();
    for place in ["all", "default", "eth0"] {
        let key = format!("net.ipv6.conf.{place}.disable_ipv6");
        let pointer = format!("/sysctls/{key}");
        host.patch("/v1/namespaces/a", json!({"sysctls": {key: 1}}))
            .refused(422, "invalid_field", Some(&pointer));
    }
    assert_eq!(addresses(&host, "a", "eth0"), ["10.0.0.1", "fd00::1"]);

    host.put(
        "/v1/namespaces/b",
        json!({"sysctls": {"net.ipv6.conf.all.disable_ipv6": 1}}),
    )
    .ok();
    let pointer = Some("/endpoints/0/addresses/1");
    host.put("/v1/veths/q", pair("b", &["10.0.0.2/24", "fd00::2/64"]))
        .refused(422, "invalid_field", pointer);
    host.put("/v1/veths/q", pair("b", &["10.0.0.2/24"])).ok();
    assert_eq!(addresses(&host, "b", "eth0"), ["10.0.0.2"]);

    let mut q = pair("c", &["fd00::3/64"]);
    q["name"] = json!("r");
    let document = json!({"namespaces": [{"name": "c", "sysctls": {"net.ipv6.conf.default.disable_ipv6": 1}}], "veths": [q]});
    let pointer = "/namespaces/0/sysctls/net.ipv6.conf.default.disable_ipv6";
    host.put("/v1/topology", document)
        .refused(422, "invalid_field", Some(pointer));
}

#[test]
fn ipv6_per_interface_overrides_all() {
    let mut host = Host::started();
    let key = |place: &str| format!("net.ipv6.conf.{place}.disable_ipv6");
    let sysctls = json!({key("all"): 1, key("default"): 1, key("eth0"): 0});
    let mut veth = pair("h", &["fd00::1/64"]);
    veth["name"] = json!("v");
    host.put(
        "/v1/topology",
        json!({"namespaces": [{"name": "h", "sysctls": sysctls}], "veths": [veth]}),
    )
    .ok();
    let is_right = |host: &Host| {
        let values = ["all", "default", "eth0"]
            .map(|place| read(host, "h", &format!("ipv6/conf/{place}/disable_ipv6")));
        assert_eq!(values, ["1", "1", "0"]);
        assert_eq!(addresses(host, "h", "eth0"), ["fd00::1"]);
        assert_eq!(
            (state(host, "/v1/namespaces/h"), state(host, "/v1/veths/v")),
            ("in_sync".into(), "in_sync".into())
        );
    };
    is_right(&host);
    host.reboot();
    is_right(&host);
    // The same one after the other: for a moment IPv6 is off everywhere, and the address comes back
    // with the answer.
    host.put("/v1/namespaces/h", json!({})).ok();
    assert_eq!(read(&host, "h", "ipv6/conf/default/disable_ipv6"), "0");
    host.put(
        "/v1/namespaces/h",
        json!({"sysctls": {key("all"): 1, key("eth0"): 0}}),
    )
    .ok();
    assert_eq!(addresses(&host, "h", "eth0"), ["fd00::1"]);
}

#[test]
fn sysctl_default_reaches_own_links() {
    let mut host = Host::started();
    let asked = json!({"sysctls": {"net.ipv6.conf.default.accept_ra": 0, "net.ipv4.conf.default.rp_filter": 2}});
    host.put("/v1/namespaces/before", asked.clone()).ok();
    host.put("/v1/namespaces/after", json!({})).ok();
    for namespace in ["before", "after"] {
        host.put(
            &format!("/v1/veths/{namespace}"),
            pair(namespace, &["10.0.0.1/24"]),
        )
        .ok();
    }
    let before = read(&host, "after", "ipv6/conf/eth0/accept_ra");
    assert_ne!(before, "0");
    host.run(&[
        "ip", "-n", "after", "link", "add", "theirs", "type", "veth", "peer", "name", "theirs2",
    ]);
    host.put("/v1/namespaces/after", asked).ok();
    let is_right = |host: &Host| {
        for namespace in ["before", "after"] {
            let values = ["ipv6/conf/eth0/accept_ra", "ipv4/conf/eth0/rp_filter"]
                .map(|path| read(host, namespace, path));
            assert_eq!(values, ["0", "2"], "{namespace}");
        }
    };
    is_right(&host);
    assert_eq!(
        read(&host, "after", "ipv6/conf/theirs/accept_ra"),
        before,
        "what others made"
    );
    host.reboot();
    is_right(&host);
    // One of its own goes before; taken away it is as `default` again.
    host.patch(
        "/v1/namespaces/after",
        json!({"sysctls": {"net.ipv6.conf.eth0.accept_ra": 2}}),
    )
    .ok();
    assert_eq!(read(&host, "after", "ipv6/conf/eth0/accept_ra"), "2");
    host.patch(
        "/v1/namespaces/after",
        json!({"sysctls": {"net/ipv6/conf/eth0/accept_ra": null}}),
    )
    .ok();
    is_right(&host);
    host.patch("/v1/namespaces/after", json!({"sysctls": null}))
        .ok();
    assert_eq!(read(&host, "after", "ipv6/conf/eth0/accept_ra"), before);
    assert_eq!(
        read(&host, "after", "ipv4/conf/eth0/rp_filter"),
        read(&host, "after", "ipv4/conf/default/rp_filter")
    );
}

#[test]
fn ipv6_mtu_survives_the_carrier() {
    let host = Host::started();
    for round in 0..number("NETNSD_ROUNDS").unwrap_or(3) {
        let mut veth = pair("a", &["fd00::1/64"]);
        veth["name"] = json!("v");
        let namespace = json!({"name": "a", "sysctls": {"net.ipv6.conf.eth0.mtu": 1400}});
        host.put(
            "/v1/topology",
            json!({"namespaces": [namespace], "veths": [veth]}),
        )
        .ok();
        host.wait_until_settled();
        host.until(&format!("it is 1400 in round {round}"), || {
            read(&host, "a", "ipv6/conf/eth0/mtu") == "1400"
        });
        host.sh("ip link set a down; ip link set a up");
        host.until("it is 1400 again", || {
            read(&host, "a", "ipv6/conf/eth0/mtu") == "1400"
        });
        host.put("/v1/topology", json!({})).ok();
    }
}

/// Sysctls that change each other, as paths below `/proc/sys/net`.
const FAMILY: [&str; 14] = [
    "ipv4/ip_forward",
    "ipv4/conf/all/accept_redirects",
    "ipv4/conf/all/rp_filter",
    "ipv4/conf/default/forwarding",
    "ipv4/conf/default/rp_filter",
    "ipv4/conf/eth0/forwarding",
    "ipv4/conf/eth0/rp_filter",
    "ipv6/conf/all/forwarding",
    "ipv6/conf/default/forwarding",
    "ipv6/conf/eth0/forwarding",
    "ipv6/conf/all/disable_ipv6",
    "ipv6/conf/default/disable_ipv6",
    "ipv6/conf/eth0/disable_ipv6",
    "ipv6/conf/default/accept_ra",
];

#[test]
fn coupled_sysctls_are_order_independent() {
    let host = Host::started();
    let others = ["ipv4/conf/all/forwarding", "ipv6/conf/eth0/accept_ra"];
    let values = |namespace: &str| -> BTreeMap<&str, String> {
        let paths: Vec<&str> = FAMILY.into_iter().chain(others).collect();
        let files: Vec<String> = paths
            .iter()
            .map(|path| format!("/proc/sys/net/{path}"))
            .collect();
        let mut argv = vec!["ip", "netns", "exec", namespace, "cat"];
        argv.extend(files.iter().map(String::as_str));
        let text = host.run(&argv);
        paths
            .into_iter()
            .zip(text.lines().map(str::to_owned))
            .collect()
    };
    let make = |namespace: &str, sysctls: &Map<String, Value>| {
        host.put(
            &format!("/v1/namespaces/{namespace}"),
            json!({"sysctls": sysctls}),
        )
        .ok();
        host.put(
            &format!("/v1/veths/{namespace}"),
            pair(namespace, &["10.0.0.1/24"]),
        )
        .ok();
    };
    let (seed, rounds) = (number("NETNSD_SEED").unwrap_or(7), 12);
    let mut random = Random(seed);
    make("walked", &Map::new());
    let mut asked = Map::new();
    for round in 0..rounds {
        for _ in 0..=random.below(3) {
            let key = format!("net.{}", random.of(&FAMILY).replace('/', "."));
            if asked.remove(&key).is_none() {
                asked.insert(key, random.below(2).into());
            }
        }
        host.put("/v1/namespaces/walked", json!({"sysctls": asked}))
            .ok();
        let direct = format!("direct{round}");
        make(&direct, &asked);
        assert_eq!(
            values("walked"),
            values(&direct),
            "seed {seed}, round {round}: {asked:?}"
        );
        assert_eq!(
            host.post("/v1/reconcile", json!({})).ok()["repaired"],
            json!([]),
            "round {round}: {asked:?}"
        );
        host.delete(&format!("/v1/namespaces/{direct}?cascade=true"));
    }
    host.put("/v1/namespaces/walked", json!({})).ok();
    make("fresh", &Map::new());
    assert_eq!(values("walked"), values("fresh"), "seed {seed}");
}

#[test]
fn refused_sysctl_names_valid_values() {
    let host = Host::started();
    host.put("/v1/namespaces/a", json!({})).ok();
    let refused = |key: &str, words: &str| {
        let pointer = format!("/sysctls/{}", key.replace('/', "~1"));
        let answers = [
            host.patch("/v1/namespaces/a", json!({"sysctls": {key: 1}})),
            host.put("/v1/namespaces/b", json!({"sysctls": {key: 1}})),
        ];
        for answer in answers {
            assert!(
                answer.json["detail"].as_str().unwrap().contains(words),
                "{}",
                answer.json
            );
            answer.refused(422, "invalid_field", Some(&pointer));
        }
    };
    refused("net.core.rmem_max", "is the host's");
    // The sandbox's host has none either.
    refused("net.ipv4.tcp_mem", "no such sysctl");
    refused("net.ipv4.ip_forwad", "no such sysctl");
    refused("net.ipv4.conf.eth7.rp_fliter", "no such sysctl");
    refused("net.ipv4.neigh.eth7.gc_stale_tiem", "no such sysctl");
    refused("net.ipv4.route.flush", "cannot be restored");
    refused(
        "net.netfilter.nf_hooks_lwtunnel",
        "is one switch of the whole host",
    );
    refused("net.ipv4.tcp_child_ehash_entries", "kernel memory");
    refused("net.ipv4.udp_child_hash_entries", "kernel memory");
    refused(
        "net.ipv4.conf.eth0.100.rp_filter",
        "net.ipv4.conf.eth0/100.rp_filter",
    );
    host.get("/v1/namespaces/b").refused(404, "not_found", None);
    let document =
        json!({"namespaces": [{"name": "c"}, {"name": "d", "sysctls": {"net.core.rmem_max": 1}}]});
    let pointer = Some("/namespaces/1/sysctls/net.core.rmem_max");
    host.put("/v1/topology", document)
        .refused(422, "invalid_field", pointer);
    let twice = json!({"sysctls": {"net.ipv4.ip_forward": 1, "net/ipv4/ip_forward": 1}});
    host.put("/v1/namespaces/a", twice).refused(
        422,
        "duplicate",
        Some("/sysctls/net~1ipv4~1ip_forward"),
    );

    // An interface with a dot, spelled as sysctl(8) does with slashes; the answer has one spelling.
    let mut veth = pair("a", &[]);
    veth["endpoints"][0]["interface"] = json!("eth0.100");
    host.put("/v1/veths/p", veth).ok();
    let sysctls = json!({"sysctls": {"net/ipv4/conf/eth0.100/rp_filter": 1}});
    let first = host.put("/v1/namespaces/a", sysctls.clone());
    assert_eq!(
        first.json["sysctls"],
        json!({"net.ipv4.conf.eth0/100.rp_filter": "1"})
    );
    let again = host.put("/v1/namespaces/a", sysctls);
    assert_eq!(
        (again.etag, &again.json["sysctls"]),
        (first.etag, &first.json["sysctls"])
    );
    assert_eq!(read(&host, "a", "ipv4/conf/eth0.100/rp_filter"), "1");
}

#[test]
fn refused_sysctl_does_not_stop_the_rest() {
    let mut host = Host::started();
    let route = json!([{"destination": "default", "via": "10.0.0.9"}]);
    let sysctls = json!({"net.ipv4.ip_default_ttl": 100_000, "net.ipv4.ip_forward": 1});
    host.put(
        "/v1/namespaces/a?wait=false",
        json!({"routes": route, "sysctls": sysctls}),
    )
    .ok();
    host.put("/v1/veths/p", pair("a", &["10.0.0.1/24"])).ok();
    let is_right = |host: &Host| {
        host.until("it says why", || {
            state(host, "/v1/namespaces/a") == "failed"
        });
        let reason = host.get("/v1/namespaces/a").ok()["status"]["reason"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(
            reason.contains("ip_default_ttl") && reason.contains("100000"),
            "{reason}"
        );
        host.until("the rest is there", || {
            let routes = host.ip(&["-n", "a", "route", "show", "default"]);
            routes.as_array().is_some_and(|routes| !routes.is_empty())
                && read(host, "a", "ipv4/ip_forward") == "1"
        });
        assert_eq!(state(host, "/v1/veths/p"), "in_sync");
    };
    is_right(&host);
    host.reboot();
    is_right(&host);
}
