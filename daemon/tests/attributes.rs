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
    for row in rows {
        let (now, wanted) = (&data[row.4], expected(row));
        let is_near = match (now.as_i64(), wanted.as_i64()) {
            (Some(now), Some(wanted)) if wanted > 9 => (now - wanted).abs() <= 1,
            _ => *now == wanted,
        };
        assert!(is_near, "{} is {now}, not {wanted}", row.4);
    }
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
    host.post("/v1/reconcile", json!({})).ok();
    assert_shown(&data("br0"), &rows, |row| row.5.clone());
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

    let others = changes_by_others(&rows);
    let set = ["ip", "link", "set", "p0", "type", "bridge_slave"];
    host.run(&[&set[..], &others].concat());
    host.post("/v1/reconcile", json!({})).ok();
    assert_shown(&data(), &rows, |row| row.5.clone());
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
