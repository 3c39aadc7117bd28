//! Links on the real kernel: those of a type that it has live as recorded, and one of a type that
//! it lacks is refused before anything stays.

mod common;

use common::Host;
use netnsd_api::LinkType;
use serde_json::{Value, json};

/// Returns the links that `ip` shows in a namespace, by name.
fn link(host: &Host, namespace: &str, name: &str) -> Option<Value> {
    let links = host.ip(&["-n", namespace, "-d", "addr", "show"]);
    let mut links = links.as_array().cloned().unwrap_or_default().into_iter();
    links.find(|link| link["ifname"] == name)
}

/// Returns the types of links that the kernel has, as `ip link add` finds.
fn types_of_ip(host: &Host) -> Vec<String> {
    let is_made = |link_type: &LinkType| {
        let script = format!("ip netns add probe && ip -n probe link add p0 type {link_type}");
        let made = host.sh(&script).status.success();
        host.run(&["ip", "netns", "del", "probe"]);
        made
    };
    let types = LinkType::ALL.iter().filter(|link_type| is_made(link_type));
    types.map(ToString::to_string).collect()
}

#[test]
fn features_name_the_link_types_of_the_kernel() {
    let host = Host::started();
    let features = host.get("/v1").ok()["features"]["links"].clone();
    assert_eq!(features, json!(types_of_ip(&host)));
}

#[test]
fn link_of_each_type_is_made_or_refused_whole() {
    let mut host = Host::started();
    let types = types_of_ip(&host);
    host.put("/v1/namespaces/net0", json!({})).ok();
    for link_type in LinkType::ALL {
        let body = json!({"type": link_type, "namespace": "net0", "interface": "up0", "mtu": 1400,
            "addresses": ["192.0.2.1/32", "2001:db8::1/128"]});
        let answer = host.put("/v1/links/l0", body);
        if !types.contains(&link_type.to_string()) {
            answer.refused(422, "unsupported_by_kernel", Some("/type"));
            assert_eq!(host.get("/v1/links/l0").status, 404);
            assert_eq!(link(&host, "net0", "up0"), None);
            continue;
        }
        let made = answer.ok();
        assert_eq!(made["status"]["state"], "in_sync", "{made}");
        let seen = link(&host, "net0", "up0").expect("the link is there");
        assert_eq!(seen["linkinfo"]["info_kind"], link_type.as_str());
        assert_eq!(
            (&seen["mtu"], &seen["flags"][0]),
            (&json!(1400), &json!("BROADCAST"))
        );
        let mac = seen["address"].clone();

        // Deleted by others, it is there again, with its addresses and its MAC address.
        host.run(&["ip", "-n", "net0", "link", "del", "up0"]);
        host.post("/v1/reconcile", json!({})).ok();
        let again = link(&host, "net0", "up0").expect("the link is repaired");
        assert_eq!(
            (
                &again["address"],
                again["addr_info"].as_array().map(Vec::len)
            ),
            (&mac, Some(2))
        );
        host.reboot();
        let again = link(&host, "net0", "up0").expect("the link is there after a reboot");
        assert_eq!(again["address"], mac);
        host.delete("/v1/links/l0").ok();
        assert_eq!(link(&host, "net0", "up0"), None);
    }
}

#[test]
fn dry_run_of_a_link_names_the_ip_command() {
    let host = Host::started();
    let body = json!({"type": "dummy", "mac": "02:00:00:00:00:07", "mtu": 1400});
    let answer = host.put("/v1/links/l0?dry_run=true", body).ok();
    let command = answer["plan"][0]["command"].as_str().unwrap();
    assert!(
        command.contains("ip link add name l0 address 02:00:00:00:00:07 mtu 1400 type dummy"),
        "{command}"
    );
}

#[test]
fn queue_length_is_kept_and_reset() {
    let host = Host::started();
    let length = |interface: &str| host.ip(&["link", "show", interface])[0]["txqlen"].clone();
    let ends = |first: Value| json!({"endpoints": [first, {"interface": "b0", "up": false}]});
    host.put("/v1/bridges/br0", json!({"txqueuelen": 50})).ok();
    let first = json!({"interface": "a0", "txqueuelen": 25});
    host.put("/v1/veths/cable", ends(first)).ok();
    assert_eq!((length("br0"), length("a0")), (json!(50), json!(25)));

    host.run(&["ip", "link", "set", "a0", "txqueuelen", "7"]);
    host.post("/v1/reconcile", json!({})).ok();
    assert_eq!(length("a0"), 25, "changed by others");
    host.run(&["ip", "link", "set", "b0", "txqueuelen", "7"]);
    host.put("/v1/veths/cable", ends(json!({"interface": "a0"})))
        .ok();
    assert_eq!(length("a0"), 1000, "no longer asked for");
    assert_eq!(length("b0"), 7, "never asked for");
}
