//! Attributes of bridges, ports and devices on the real kernel, as `ip` shows them: set, repaired
//! after a change by others, and back at the kernel's default when they are no longer asked for.

mod common;

use common::Host;
use serde_json::{Map, Value, json};

/// An attribute: field in the API, value, word of ip-link(8), a value that others set, key of
/// `ip -j`, value there, and the kernel's default there.
type Row = (
    &'static str,
    Value,
    &'static str,
    &'static str,
    &'static str,
    Value,
    Value,
);

fn bridge_rows() -> Vec<Row> {
    let time = |field, word, key, default: u64| -> Row {
        (
            field,
            json!(20.5),
            word,
            "3000",
            key,
            json!(2050),
            json!(default),
        )
    };
    vec![
        (
            "group_fwd_mask",
            json!(8),
            "group_fwd_mask",
            "16",
            "group_fwd_mask",
            json!("0x8"),
            json!("0"),
        ),
        (
            "group_addr",
            json!("01:80:c2:00:00:0e"),
            "group_address",
            "01:80:c2:00:00:08",
            "group_addr",
            json!("01:80:c2:00:00:0e"),
            json!("01:80:c2:00:00:00"),
        ),
        (
            "multicast_querier",
            json!(true),
            "mcast_querier",
            "0",
            "mcast_querier",
            json!(1),
            json!(0),
        ),
        (
            "multicast_router",
            json!(2),
            "mcast_router",
            "0",
            "mcast_router",
            json!(2),
            json!(1),
        ),
        (
            "multicast_igmp_version",
            json!(3),
            "mcast_igmp_version",
            "2",
            "mcast_igmp_version",
            json!(3),
            json!(2),
        ),
        (
            "multicast_mld_version",
            json!(2),
            "mcast_mld_version",
            "1",
            "mcast_mld_version",
            json!(2),
            json!(1),
        ),
        (
            "multicast_last_member_count",
            json!(5),
            "mcast_last_member_count",
            "6",
            "mcast_last_member_cnt",
            json!(5),
            json!(2),
        ),
        (
            "multicast_startup_query_count",
            json!(5),
            "mcast_startup_query_count",
            "6",
            "mcast_startup_query_cnt",
            json!(5),
            json!(2),
        ),
        time(
            "multicast_last_member_interval_s",
            "mcast_last_member_interval",
            "mcast_last_member_intvl",
            100,
        ),
        time(
            "multicast_membership_interval_s",
            "mcast_membership_interval",
            "mcast_membership_intvl",
            26000,
        ),
        time(
            "multicast_querier_interval_s",
            "mcast_querier_interval",
            "mcast_querier_intvl",
            25500,
        ),
        time(
            "multicast_query_interval_s",
            "mcast_query_interval",
            "mcast_query_intvl",
            12500,
        ),
        time(
            "multicast_query_response_interval_s",
            "mcast_query_response_interval",
            "mcast_query_response_intvl",
            1000,
        ),
        time(
            "multicast_startup_query_interval_s",
            "mcast_startup_query_interval",
            "mcast_startup_query_intvl",
            3125,
        ),
    ]
}

fn port_rows() -> Vec<Row> {
    let flag = |field, on: bool| -> Row {
        let others = if on { "off" } else { "on" };
        (
            field,
            json!(on),
            field,
            others,
            field,
            json!(on),
            json!(!on),
        )
    };
    vec![
        flag("flood", false),
        flag("mcast_flood", false),
        flag("bcast_flood", false),
        flag("mcast_to_unicast", true),
        flag("neigh_suppress", true),
        flag("proxy_arp", true),
        (
            "mcast_router",
            json!(2),
            "mcast_router",
            "0",
            "multicast_router",
            json!(2),
            json!(1),
        ),
    ]
}

/// Asserts values of `ip -j`; times may be one tick off.
#[track_caller]
fn assert_shown(data: &Value, rows: &[Row], expected: impl Fn(&Row) -> Value) {
    if let Some(difference) = find_difference(data, rows, expected) {
        panic!("{difference}");
    }
}

fn find_difference(data: &Value, rows: &[Row], expected: impl Fn(&Row) -> Value) -> Option<String> {
    rows.iter().find_map(|row| {
        let (now, wanted) = (&data[row.4], expected(row));
        let is_near = match (now.as_i64(), wanted.as_i64()) {
            (Some(now), Some(wanted)) if wanted > 9 => (now - wanted).abs() <= 1,
            _ => *now == wanted,
        };
        (!is_near).then(|| format!("{} is {now}, not {wanted}", row.4))
    })
}

fn body(rows: &[Row]) -> Map<String, Value> {
    let field = |row: &Row| (row.0.to_owned(), row.1.clone());
    rows.iter().map(field).collect()
}

fn changes_by_others(rows: &[Row]) -> Vec<&str> {
    rows.iter().flat_map(|row| [row.2, row.3]).collect()
}

#[test]
fn bridge_options_are_kept_and_reset() {
    let host = Host::started();
    let rows = bridge_rows();
    let data =
        |name: &str| host.ip(&["-d", "link", "show", name])[0]["linkinfo"]["info_data"].clone();
    let made = host.put("/v1/bridges/br0", body(&rows).into()).ok();
    assert_eq!(made["status"]["state"], "in_sync", "{made}");
    host.put("/v1/bridges/br1", json!({})).ok();
    assert_shown(&data("br0"), &rows, |row| row.5.clone());

    let others = changes_by_others(&rows);
    for bridge in ["br0", "br1"] {
        let set = ["ip", "link", "set", bridge, "type", "bridge"];
        host.run(&[&set[..], &others].concat());
    }
    let foreign = data("br1");
    host.until("the options are repaired", || {
        find_difference(&data("br0"), &rows, |row| row.5.clone()).is_none()
    });
    host.put("/v1/bridges/br0", json!({})).ok();
    assert_shown(&data("br0"), &rows, |row| row.6.clone());
    // Nobody asked netnsd for those of br1.
    assert_shown(&data("br1"), &rows, |row| foreign[row.4].clone());
}

#[test]
fn port_options_are_kept_and_reset() {
    let host = Host::started();
    let rows = port_rows();
    let data = || host.ip(&["-d", "link", "show", "p0"])[0]["linkinfo"]["info_slave_data"].clone();
    let veth = |port: Value| json!({"endpoints": [{"interface": "p0", "bridge": "br0", "port": port}, {"interface": "p1"}]});
    host.put("/v1/bridges/br0", json!({})).ok();
    let made = host.put("/v1/veths/cable", veth(body(&rows).into())).ok();
    assert_eq!(made["status"]["state"], "in_sync", "{made}");
    assert_shown(&data(), &rows, |row| row.5.clone());
    let ports = host.get("/v1/bridges/br0/ports").ok();
    for row in &rows {
        assert_eq!(ports["items"][0][row.0], row.1, "{}", row.0);
    }

    for row in &rows {
        host.run(&[
            "ip",
            "link",
            "set",
            "p0",
            "type",
            "bridge_slave",
            row.2,
            row.3,
        ]);
        host.until("the option is repaired", || {
            find_difference(&data(), &rows, |row| row.5.clone()).is_none()
        });
    }
    host.put("/v1/veths/cable", veth(json!({}))).ok();
    assert_shown(&data(), &rows, |row| row.6.clone());
}

#[test]
fn vlan_protocol_is_set_or_refused_whole() {
    let host = Host::started();
    let has_vlans = host.get("/v1").ok()["features"]["vlan_filtering"] == true;
    let answer = host.put("/v1/bridges/br0", json!({"vlan_protocol": "802.1ad"}));
    if has_vlans {
        answer.ok();
        let shown = host.ip(&["-d", "link", "show", "br0"]);
        assert_eq!(
            shown[0]["linkinfo"]["info_data"]["vlan_protocol"],
            "802.1ad"
        );
    } else {
        answer.refused(422, "unsupported_by_kernel", None);
        assert_eq!(host.get("/v1/bridges/br0").status, 404);
    }
}

#[test]
fn option_out_of_range_is_refused() {
    let host = Host::started();
    for (field, bad) in [
        ("group_fwd_mask", json!(2)),
        ("group_addr", json!("01:80:c2:00:00:02")),
        ("multicast_router", json!(3)),
        ("multicast_igmp_version", json!(1)),
        ("multicast_mld_version", json!(3)),
        ("multicast_query_interval_s", json!(0.5)),
        ("multicast_startup_query_interval_s", json!(90_000)),
        ("vlan_protocol", json!("802.1x")),
    ] {
        let pointer = format!("/{field}");
        host.put("/v1/bridges/br0", json!({field: bad})).refused(
            422,
            "invalid_field",
            Some(&pointer),
        );
    }
    let port = json!({"bridge": "br0", "port": {"mcast_router": 3}});
    host.put("/v1/veths/cable", json!({"endpoints": [port, {}]}))
        .refused(422, "invalid_field", Some("/endpoints/0/port/mcast_router"));
}

/// Returns alias, alternative names without owner tags, and flags of a device.
fn device(host: &Host, name: &str) -> Value {
    let link = host.ip(&["-d", "link", "show", name])[0].clone();
    let strings = |key: &str| -> Vec<String> {
        let all = link[key].as_array().cloned().unwrap_or_default();
        all.iter()
            .filter_map(|item| item.as_str().map(str::to_owned))
            .collect()
    };
    let mut altnames = strings("altnames");
    altnames.retain(|name| !name.starts_with("netnsd:"));
    altnames.sort();
    let mut flags = strings("flags");
    flags.retain(|flag| ["PROMISC", "ALLMULTI", "NOARP"].contains(&flag.as_str()));
    flags.sort();
    json!([link["ifalias"], altnames, flags])
}

#[test]
fn device_attributes_are_kept_and_reset() {
    let host = Host::started();
    let fields = |name: &str| {
        json!({"alias": "to rack 7", "altnames": [format!("{name}-one"), format!("{name}-two")],
            "promiscuous": true, "allmulticast": true, "arp": false})
    };
    let end = |fields: Value| {
        let mut end = json!({"interface": "a0"});
        end.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        json!({"endpoints": [end, {"interface": "b0"}]})
    };
    host.put("/v1/bridges/br0", fields("br0")).ok();
    host.put("/v1/veths/cable", end(fields("a0"))).ok();
    for name in ["br0", "a0"] {
        let wanted = json!([
            "to rack 7",
            [format!("{name}-one"), format!("{name}-two")],
            ["ALLMULTI", "NOARP", "PROMISC"]
        ]);
        assert_eq!(device(&host, name), wanted);
        let altname = format!("{name}-two");
        for change in [
            vec!["set", name, "alias", "others"],
            vec!["property", "del", "dev", name, "altname", &altname],
            vec!["set", name, "promisc", "off"],
            vec!["set", name, "allmulticast", "off"],
            vec!["set", name, "arp", "on"],
        ] {
            host.run(&[&["ip", "link"][..], &change].concat());
            host.until("it is repaired", || device(&host, name) == wanted);
        }
        host.run(&[
            "ip",
            "link",
            "property",
            "add",
            "dev",
            name,
            "altname",
            &format!("{name}-foreign"),
        ]);
    }
    host.run(&[
        "ip", "link", "set", "b0", "alias", "others", "promisc", "on",
    ]);
    host.put("/v1/bridges/br0", json!({})).ok();
    host.put("/v1/veths/cable", end(json!({}))).ok();
    for name in ["br0", "a0"] {
        let foreign = format!("{name}-foreign");
        assert_eq!(
            device(&host, name),
            json!([null, [foreign], []]),
            "no longer asked for"
        );
    }
    assert_eq!(
        device(&host, "b0"),
        json!(["others", [], ["PROMISC"]]),
        "never asked for"
    );
}

#[test]
fn promiscuous_mode_of_a_port_is_not_the_users() {
    let host = Host::started();
    host.put("/v1/bridges/br0", json!({})).ok();
    let port = |on: bool| {
        let end = json!({"interface": "p0", "bridge": "br0", "promiscuous": on});
        host.put(
            "/v1/veths/cable",
            json!({"endpoints": [end, {"interface": "p1"}]}),
        )
        .ok();
        let link = host.ip(&["-d", "link", "show", "p0"])[0].clone();
        (link["promiscuity"].clone(), device(&host, "p0")[2].clone())
    };
    assert_eq!(port(false), (json!(1), json!([])), "by the bridge");
    assert_eq!(port(true), (json!(2), json!(["PROMISC"])), "by both");
    assert_eq!(port(false), (json!(1), json!([])), "by the bridge again");
}

#[test]
fn arp_switched_off_keeps_permanent_neighbours() {
    let host = Host::started();
    let neighbour = json!({"address": "10.0.0.9", "mac": "02:00:00:00:00:09", "interface": "e0"});
    host.put("/v1/namespaces/net0", json!({"neighbours": [neighbour]}))
        .ok();
    for arp in [true, false, true] {
        let end = json!({"namespace": "net0", "interface": "e0", "addresses": ["10.0.0.1/24"], "arp": arp});
        host.put(
            "/v1/veths/cable",
            json!({"endpoints": [end, {"interface": "p1"}]}),
        )
        .ok();
        let seen = host.ip(&["-n", "net0", "neigh", "show", "10.0.0.9"]);
        assert_eq!(seen[0]["state"][0], "PERMANENT", "arp {arp}: {seen}");
    }
}

#[test]
fn altname_that_is_taken_is_a_conflict() {
    let host = Host::started();
    host.put("/v1/bridges/br0", json!({"altnames": ["lan"]}))
        .ok();
    let answer = host.put("/v1/bridges/br1", json!({"altnames": ["lan"]}));
    let detail = answer.json["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("has the name lan"), "{detail}");
    answer.refused(409, "conflict", None);
    assert_eq!(host.get("/v1/bridges/br1").status, 404);
    // In one document it goes from one to the other.
    host.put(
        "/v1/topology",
        json!({"bridges": [{"name": "br0"}, {"name": "br1", "altnames": ["lan"]}]}),
    )
    .ok();
    assert_eq!(device(&host, "br1")[1], json!(["lan"]));
    assert_eq!(device(&host, "br0")[1], json!([]));

    for (fields, pointer) in [
        (json!({"altnames": ["x", "x"]}), "/altnames/1"),
        (json!({"altnames": ["br2"]}), "/altnames/0"),
    ] {
        host.put("/v1/bridges/br2", fields)
            .refused(422, "duplicate", Some(pointer));
    }
    for (fields, pointer) in [
        (json!({"altnames": ["a b"]}), "/altnames/0"),
        (json!({"alias": ""}), "/alias"),
        (json!({"alias": "netnsd:bridge/x:u"}), "/alias"),
    ] {
        host.put("/v1/bridges/br2", fields)
            .refused(422, "invalid_field", Some(pointer));
    }
}

#[test]
fn port_vlans_are_kept_and_reset_or_refused_whole() {
    let host = Host::started();
    let has_vlans = host.get("/v1").ok()["features"]["vlan_filtering"] == true;
    let veth = |port: Value| json!({"endpoints": [{"interface": "p0", "bridge": "br0", "port": port}, {"interface": "p1"}]});
    host.put(
        "/v1/bridges/br0",
        if has_vlans {
            json!({"vlan_filtering": true})
        } else {
            json!({})
        },
    )
    .ok();
    let answer = host.put(
        "/v1/veths/cable",
        veth(json!({"vlan": 10, "vlans": [20, "30-32"]})),
    );
    if !has_vlans {
        answer.refused(422, "unsupported_by_kernel", None);
        assert_eq!(host.get("/v1/veths/cable").status, 404);
        assert!(!host.sh("ip link show p0").status.success());
        return;
    }
    answer.ok();
    let vlans = || {
        let shown = host.bridge(&["-compressvlans", "vlan", "show", "dev", "p0"]);
        shown[0]["vlans"].clone()
    };
    let untagged = |vlan: u16| json!({"vlan": vlan, "flags": ["PVID", "Egress Untagged"]});
    let wanted = json!([untagged(10), {"vlan": 20}, {"vlan": 30, "vlanEnd": 32}]);
    assert_eq!(vlans(), wanted);
    let shown = host.get("/v1/bridges/br0/ports").ok()["items"][0].clone();
    assert_eq!(
        (&shown["vlan"], &shown["vlans"]),
        (&json!(10), &json!([20, "30-32"]))
    );

    for change in [
        "del vid 31",
        "add vid 7 pvid untagged",
        "add vid 20 untagged",
        "del vid 10",
    ] {
        host.run(&["sh", "-c", &format!("bridge vlan {change} dev p0")]);
        host.until("the VLANs are repaired", || vlans() == wanted);
    }
    host.run(&["bridge", "vlan", "add", "vid", "99", "dev", "p0"]);
    host.put("/v1/veths/cable", veth(json!({"vlans": [20]})))
        .ok();
    assert_eq!(vlans(), json!([untagged(1), {"vlan": 20}, {"vlan": 99}]));
}

#[test]
fn vlan_that_is_none_is_refused() {
    let host = Host::started();
    for (port, code, field) in [
        (json!({"vlan": 0}), "invalid_field", "vlan"),
        (json!({"vlans": [4095]}), "invalid_field", "vlans/0"),
        (json!({"vlans": [7, "9-8"]}), "invalid_field", "vlans/1"),
        (json!({"vlan": 7, "vlans": ["5-8"]}), "duplicate", "vlans/0"),
    ] {
        let ends = json!({"endpoints": [{"bridge": "br0", "port": port}, {}]});
        let pointer = format!("/endpoints/0/port/{field}");
        host.put("/v1/veths/cable", ends)
            .refused(422, code, Some(&pointer));
    }
}
