//! Links on the real kernel: those of a type that it has live as recorded, and one of a type that
//! it lacks is refused before anything stays.

mod common;

use common::Host;
use netnsd::links::example_fields;
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
        let words = match link_type {
            LinkType::Dummy => "type dummy",
            LinkType::Macvlan => "link v0 type macvlan",
            LinkType::Ipvlan => "link v0 type ipvlan",
            LinkType::Vlan => "link v0 type vlan id 7",
            LinkType::Vxlan => "type vxlan id 42 dstport 4789",
        };
        let script = format!(
            "ip netns add probe && ip -n probe link add v0 type veth && ip -n probe link add name p0 {words}"
        );
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
    let ends = json!({"endpoints": [{"interface": "low0"}, {"interface": "low1"}]});
    host.put("/v1/veths/low", ends).ok();
    for link_type in LinkType::ALL {
        let mut body = example_fields(link_type, "low0");
        let common = json!({"type": link_type, "namespace": "net0", "interface": "up0", "mtu": 1400,
            "addresses": ["192.0.2.1/32", "2001:db8::1/128"]});
        body.as_object_mut()
            .unwrap()
            .extend(common.as_object().unwrap().clone());
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
        let addresses = again["addr_info"].as_array().unwrap().iter();
        let own = addresses.filter(|address| address["scope"] == "global");
        assert_eq!((&again["address"], own.count()), (&mac, 2));
        host.reboot();
        let again = link(&host, "net0", "up0").expect("the link is there after a reboot");
        assert_eq!(again["address"], mac);
        assert_eq!(
            host.post("/v1/reconcile", json!({})).ok(),
            json!({"repaired": [], "failed": []}),
            "{link_type}"
        );
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

/// Makes a pair on the host, whose first end is there to put links on, and two namespaces.
fn with_lower(host: &Host) {
    for name in ["a", "b"] {
        host.put(&format!("/v1/namespaces/{name}"), json!({})).ok();
    }
    let ends = json!({"endpoints": [{"interface": "low0", "mtu": 1450}, {"interface": "low1"}]});
    host.put("/v1/veths/low", ends).ok();
}

fn macvlan(namespace: &str, address: &str) -> Value {
    json!({"type": "macvlan", "namespace": namespace, "interface": "eth0",
        "lower": {"interface": "low0"}, "addresses": [address]})
}

/// Pings, and returns the number of answers.
fn ping(host: &Host, namespace: &str, body: Value) -> Value {
    let path = format!("/v1/namespaces/{namespace}/ping");
    host.post(&path, body).ok()["received"].clone()
}

#[test]
fn macvlans_on_a_device_of_the_host_reach_each_other() {
    let mut host = Host::started();
    with_lower(&host);
    for (namespace, address) in [("a", "10.7.0.1/24"), ("b", "10.7.0.2/24")] {
        let path = format!("/v1/links/{namespace}");
        let made = host.put(&path, macvlan(namespace, address)).ok();
        assert_eq!(made["status"]["state"], "in_sync", "{made}");
    }
    let seen = link(&host, "a", "eth0").unwrap();
    assert_eq!(seen["linkinfo"]["info_data"]["mode"], "bridge");
    assert_eq!(seen["mtu"], 1450, "that of the device below");
    let to_b = json!({"address": "10.7.0.2", "timeout_ms": 20000});
    assert_eq!(ping(&host, "a", to_b.clone()), 1);

    // The mode changes in place; to passthru only by another device.
    let mode = |mode: &str| {
        host.patch("/v1/links/a", json!({"mode": mode})).ok();
        let seen = link(&host, "a", "eth0").unwrap();
        assert_eq!(seen["linkinfo"]["info_data"]["mode"], mode);
        seen["ifindex"].clone()
    };
    assert_eq!(mode("private"), seen["ifindex"]);
    assert_eq!(mode("bridge"), seen["ifindex"]);
    host.delete("/v1/links/b").ok();
    assert_ne!(mode("passthru"), seen["ifindex"]);
    mode("bridge");

    host.put("/v1/links/b", macvlan("b", "10.7.0.2/24")).ok();
    host.reboot();
    assert_eq!(ping(&host, "a", to_b), 1, "after a reboot");
}

#[test]
fn link_waits_for_its_lower_device_and_goes_and_comes_with_it() {
    let host = Host::started();
    host.put("/v1/namespaces/a", json!({})).ok();
    let made = host.put("/v1/links/m0", macvlan("a", "10.7.0.1/24")).ok();
    assert_eq!(
        (&made["status"]["state"], &made["status"]["reason"]),
        (
            &json!("pending"),
            &json!("there is no low0 in the host yet")
        )
    );
    with_lower(&host);
    let made = link(&host, "a", "eth0").expect("it comes with the device that it is on");
    let state = || host.get("/v1/links/m0").ok()["status"]["state"].clone();
    assert_eq!(state(), "in_sync");

    // Others delete the device below: the pair is repaired, and the link after it.
    host.run(&["ip", "link", "del", "low0"]);
    host.until("the link is there again", || {
        link(&host, "a", "eth0").is_some_and(|link| link["ifindex"] != made["ifindex"])
    });
    let again = link(&host, "a", "eth0").unwrap();
    assert_eq!(again["address"], made["address"]);
    assert_eq!(again["addr_info"][0]["local"], "10.7.0.1");

    // On a device of others, it waits.
    host.run(&["ip", "link", "add", "theirs", "type", "veth"]);
    host.patch("/v1/links/m0", json!({"lower": {"interface": "theirs"}}))
        .ok();
    assert_eq!(state(), "in_sync");
    host.run(&["ip", "link", "del", "theirs"]);
    host.until("it waits", || state() == "pending");
    assert_eq!(link(&host, "a", "eth0"), None);
    host.run(&["ip", "link", "add", "theirs", "type", "veth"]);
    host.until("it is there again", || state() == "in_sync");
    assert_eq!(
        link(&host, "a", "eth0").unwrap()["address"],
        made["address"]
    );
}

#[test]
fn device_with_links_on_it_is_in_use() {
    let host = Host::started();
    with_lower(&host);
    host.put("/v1/links/m0", macvlan("a", "10.7.0.1/24")).ok();
    let lower = json!({"namespace": "a", "interface": "eth0"});
    let above = json!({"type": "macvlan", "namespace": "b", "interface": "up0", "lower": lower});
    // The kernel would put it on low0 itself.
    host.put("/v1/links/m1", above)
        .refused(409, "conflict", Some("/lower"));
    let above = json!({"type": "vxlan", "vni": 7, "namespace": "b", "interface": "up0",
        "underlay": "a", "lower": lower});
    host.put("/v1/links/m1", above).ok();
    let refused = host.delete("/v1/veths/low");
    assert_eq!(
        refused.json["resources"],
        json!([{"kind": "link", "name": "m0"}])
    );
    refused.refused(409, "in_use", None);
    host.delete("/v1/namespaces/a").refused(409, "in_use", None);
    host.put("/v1/topology", json!({"namespaces": [{"name": "a"}, {"name": "b"}],
        "links": [{"name": "m0", "type": "macvlan", "namespace": "a", "lower": {"interface": "low0"}}]}))
        .refused(409, "in_use", None);

    host.delete("/v1/veths/low?cascade=true").ok();
    for name in ["m0", "m1"] {
        assert_eq!(host.get(&format!("/v1/links/{name}")).status, 404);
    }
    assert_eq!(link(&host, "b", "up0"), None);
}

#[test]
fn wrong_base_of_a_link_is_refused() {
    let host = Host::started();
    with_lower(&host);
    let put = |more: Value| {
        let mut body = macvlan("a", "10.7.0.1/24");
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        host.put("/v1/links/m0", body)
    };
    let refused = put(json!({"mtu": 9000}));
    let detail = refused.json["detail"].to_string();
    assert!(
        detail.contains("mtu 9000 is above the 1450 of low0 in the host"),
        "{detail}"
    );
    refused.refused(422, "kernel_rejected", None);
    assert_eq!(link(&host, "a", "eth0"), None);
    put(json!({"lower": {"namespace": "none", "interface": "low0"}})).refused(
        422,
        "unknown_reference",
        Some("/lower/namespace"),
    );
    put(json!({"lower": {"namespace": "a", "interface": "eth0"}})).refused(
        422,
        "invalid_field",
        Some("/lower"),
    );
    put(json!({"vlan_id": 7})).refused(422, "unknown_field", Some("/vlan_id"));
    put(json!({"mode": "l2"})).refused(422, "invalid_field", Some("/mode"));

    // A device of others with its name stays.
    host.run(&["ip", "-n", "a", "link", "add", "eth0", "type", "bridge"]);
    put(json!({})).refused(409, "conflict", None);
    assert_eq!(
        link(&host, "a", "eth0").unwrap()["linkinfo"]["info_kind"],
        "bridge"
    );
}

#[test]
fn vxlan_goes_through_its_underlay() {
    let mut host = Host::started();
    for name in ["a", "b", "left", "right"] {
        host.put(&format!("/v1/namespaces/{name}"), json!({})).ok();
    }
    // The tunnels come before the network that they go through.
    for (name, underlay, remote, address) in [
        ("left", "a", "192.0.2.2", "10.8.0.1/24"),
        ("right", "b", "192.0.2.1", "10.8.0.2/24"),
    ] {
        let body = json!({"type": "vxlan", "namespace": name, "interface": "vx0", "vni": 42,
            "underlay": underlay, "remotes": [remote], "addresses": [address]});
        host.put(&format!("/v1/links/{name}"), body).ok();
    }
    let ends = json!({"endpoints": [
        {"namespace": "a", "interface": "eth0", "mtu": 1400, "addresses": ["192.0.2.1/24"]},
        {"namespace": "b", "interface": "eth0", "mtu": 1400, "addresses": ["192.0.2.2/24"]}]});
    host.put("/v1/veths/wire", ends).ok();
    let seen = link(&host, "left", "vx0").unwrap();
    assert_eq!(
        (&seen["mtu"], &seen["linkinfo"]["info_data"]["id"]),
        (&json!(1350), &json!(42))
    );
    let across = |bytes: u32| {
        let body = json!({"address": "10.8.0.2", "size": bytes, "timeout_ms": 20000});
        ping(&host, "left", body)
    };
    assert_eq!(across(56), 1);
    assert_eq!(across(1350 - 28), 1, "as large as the tunnel takes");

    // TTL and learning change in place, the VNI does not.
    host.patch("/v1/links/left", json!({"ttl": 7, "learning": false}))
        .ok();
    let now = link(&host, "left", "vx0").unwrap();
    assert_eq!(
        (&now["ifindex"], &now["linkinfo"]["info_data"]["ttl"]),
        (&seen["ifindex"], &json!(7))
    );
    host.patch("/v1/links/left", json!({"vni": 43})).ok();
    let now = link(&host, "left", "vx0").unwrap();
    assert_eq!(now["linkinfo"]["info_data"]["id"], 43);
    assert_eq!(now["address"], seen["address"]);
    host.patch(
        "/v1/links/left",
        json!({"vni": 42, "ttl": null, "learning": true}),
    )
    .ok();

    // Remotes of others stay, netnsd's come and go.
    let remotes = || {
        let entries = host.bridge(&["-n", "left", "fdb", "show", "dev", "vx0"]);
        let flooded = entries.as_array().unwrap().iter();
        let flooded = flooded.filter(|entry| entry["mac"] == "00:00:00:00:00:00");
        let mut to: Vec<String> = flooded.map(|entry| entry["dst"].to_string()).collect();
        to.sort();
        to.join(" ").replace('"', "")
    };
    let fdb = "bridge -n left fdb append 00:00:00:00:00:00 dev vx0 dst 192.0.2.9 self permanent";
    assert!(host.sh(fdb).status.success());
    host.patch(
        "/v1/links/left",
        json!({"remotes": ["192.0.2.2", "192.0.2.3"]}),
    )
    .ok();
    assert_eq!(remotes(), "192.0.2.2 192.0.2.3 192.0.2.9");
    host.patch("/v1/links/left", json!({"remotes": ["192.0.2.2"]}))
        .ok();
    assert_eq!(remotes(), "192.0.2.2 192.0.2.9");

    // Its underlay is in use, and if others delete it, all comes back.
    host.delete("/v1/namespaces/a").refused(409, "in_use", None);
    host.run(&["ip", "netns", "del", "a"]);
    host.until("the tunnel answers again", || {
        host.get("/v1/ready").json["states"]["in_sync"] == json!(7) && across(56) == 1
    });
    host.reboot();
    let across = json!({"address": "10.8.0.2", "timeout_ms": 20000});
    assert_eq!(ping(&host, "left", across), 1, "after a reboot");
}

#[test]
fn tunnels_of_one_underlay_have_the_mtus_of_their_own_routes() {
    let host = Host::started();
    host.put("/v1/namespaces/a", json!({})).ok();
    let ends = json!({"endpoints": [
        {"namespace": "a", "interface": "eth0", "addresses": ["192.0.2.1/24"]},
        {"namespace": "a", "interface": "eth1"}]});
    host.put("/v1/veths/wire", ends).ok();
    let route = json!({"destination": "198.51.100.0/24", "via": "192.0.2.2", "mtu": 1300});
    host.patch("/v1/namespaces/a", json!({"routes": [route]}))
        .ok();
    let tunnel = |vni: u32, remote: &str| {
        json!({"name": format!("vx{vni}"), "type": "vxlan", "vni": vni, "namespace": "a",
            "underlay": "a", "remotes": [remote]})
    };
    let links = [tunnel(1, "192.0.2.2"), tunnel(2, "198.51.100.2")];
    host.patch("/v1/topology", json!({"links": links})).ok();
    let mtus = ["vx1", "vx2"].map(|name| link(&host, "a", name).unwrap()["mtu"].clone());
    assert_eq!(mtus, [json!(1450), json!(1250)]);
}
