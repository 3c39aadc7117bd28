//! Pings by an interface.

mod common;

use common::Host;
use serde_json::{Value, json};

const PING: &str = "/v1/namespaces/a/ping";

/// `a` with the links `eth0` and `eth1`, each to a namespace of its own with the same link-local
/// address.
fn host() -> Host {
    let host = Host::started();
    let spaces: Vec<Value> = ["a", "b0", "b1"].map(|name| json!({"name": name})).into();
    let pair = |i: u8| {
        json!({"name": format!("v{i}"), "endpoints": [
            {"namespace": "a", "interface": format!("eth{i}"), "addresses": [format!("10.0.{i}.1/24")]},
            {"namespace": format!("b{i}"), "interface": "eth0", "addresses": [format!("10.0.{i}.2/24"), "fe80::77/64"]}]})
    };
    host.put(
        "/v1/topology",
        json!({"namespaces": spaces, "bridges": [], "veths": [pair(0), pair(1)]}),
    )
    .ok();
    host.wait_until_settled();
    host
}

#[track_caller]
fn answered(host: &Host, body: Value) {
    let result = host.post(PING, body.clone()).ok();
    assert_eq!(
        result["received"], result["transmitted"],
        "{body}: {result}"
    );
}

#[track_caller]
fn refused(host: &Host, body: Value, pointer: &str) -> String {
    let answer = host.post(PING, body);
    let detail = answer.json["detail"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    answer.refused(422, "invalid_field", Some(pointer));
    detail
}

#[test]
fn link_local_ping_uses_its_interface() {
    let host = host();
    for i in [0, 1] {
        // Only behind that one.
        let other = format!("b{}", 1 - i);
        host.run(&["ip", "-n", &other, "link", "set", "eth0", "down"]);
        host.put(&format!("/v1/veths/v{}", 1 - i), json!({"endpoints": [
            {"namespace": "a", "interface": format!("eth{}", 1 - i)}, {"namespace": other, "interface": "eth0", "up": false}]})).ok();
        answered(
            &host,
            json!({"address": format!("fe80::77%eth{i}"), "count": 3}),
        );
        answered(
            &host,
            json!({"address": "fe80::77", "interface": format!("eth{i}"), "count": 3}),
        );
        answered(
            &host,
            json!({"address": format!("fe80::77%eth{i}"), "interface": format!("eth{i}")}),
        );
        host.put(
            &format!("/v1/veths/v{}", 1 - i),
            json!({"endpoints": [
            {"namespace": "a", "interface": format!("eth{}", 1 - i), "addresses": [format!("10.0.{}.1/24", 1 - i)]},
            {"namespace": other, "interface": "eth0", "addresses": [format!("10.0.{}.2/24", 1 - i), "fe80::77/64"]}]}),
        )
        .ok();
        host.wait_until_settled();
    }
    let detail = refused(&host, json!({"address": "fe80::77"}), "/address");
    assert!(
        detail.contains("fe80::77%eth0") && detail.ends_with("eth0, eth1"),
        "{detail}"
    );
    // With one up it is that one.
    host.run(&["ip", "-n", "a", "link", "add", "spare", "type", "bridge"]);
    host.put(
        "/v1/veths/v0",
        json!({"endpoints": [
        {"namespace": "a", "interface": "eth0", "up": false}, {"namespace": "b0", "interface": "eth0"}]}),
    )
    .ok();
    answered(&host, json!({"address": "fe80::77"}));
}

#[test]
fn ping_uses_the_named_interface() {
    let host = host();
    answered(&host, json!({"address": "10.0.1.2", "interface": "eth1"}));
    let lost = host
        .post(
            PING,
            json!({"address": "10.0.1.2", "interface": "eth0", "timeout_ms": 100}),
        )
        .ok();
    assert_eq!(lost["received"], 0, "{lost}");
    answered(&host, json!({"address": "10.0.1.2"}));
}

#[test]
fn invalid_ping_is_refused_with_its_field() {
    let host = host();
    let detail = refused(&host, json!({"address": "fe80::77%eth9"}), "/address");
    assert!(
        detail.ends_with("there is no interface eth9 in a: it has eth0, eth1"),
        "{detail}"
    );
    refused(
        &host,
        json!({"address": "fe80::77", "interface": "eth9"}),
        "/interface",
    );
    refused(
        &host,
        json!({"address": "10.0.0.2", "interface": "eth9"}),
        "/interface",
    );
    refused(
        &host,
        json!({"address": "fe80::77%eth0", "interface": "eth1"}),
        "/interface",
    );
    refused(&host, json!({"address": "10.0.0.2%eth0"}), "/address");
    let detail = refused(
        &host,
        json!({"address": "10.0.0.2", "count": 1000, "interval_ms": 60000}),
        "/count",
    );
    assert!(
        detail.contains("count 1000") && detail.contains("interval_ms 60000"),
        "{detail}"
    );
    refused(
        &host,
        json!({"address": "10.0.0.2", "count": 600, "interval_ms": 1000}),
        "/count",
    );
}
