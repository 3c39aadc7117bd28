//! Faults of the machine: what was refused has left nothing, and the daemon goes on.

mod common;

use common::{Host, same};
use serde_json::json;

#[test]
fn a_full_disk_refuses_writes_and_loses_nothing() {
    let mut host = Host::new();
    let full = host.sh("mkdir /run/small && mount -t tmpfs -o size=512k tmpfs /run/small");
    assert!(full.status.success(), "{}", String::from_utf8_lossy(&full.stderr));
    let mut command = host.netnsd_with("/run/small/state".as_ref(), &host.socket());
    command.env("NETNSD_LOG", "info");
    host.start_as(command);
    host.put("/v1/namespaces/net0", json!({})).ok();
    host.settled();
    let before = host.kernel();
    host.sh("dd if=/dev/zero of=/run/small/filler bs=4k 2>/dev/null");
    let labels: serde_json::Map<String, serde_json::Value> =
        (0..60).map(|i| (format!("key{i}"), json!("x".repeat(900)))).collect();
    host.put("/v1/namespaces/net1", json!({"labels": labels})).refused(503, "store_unavailable", None);
    host.delete("/v1/namespaces/none").refused(404, "not_found", None);
    host.get("/v1/namespaces/net1").refused(404, "not_found", None);
    same(&before, &host.kernel());
    // Not only the first time.
    host.put("/v1/namespaces/net1", json!({"labels": labels})).refused(503, "store_unavailable", None);
    host.sh("rm /run/small/filler");
    host.put("/v1/namespaces/net1", json!({"labels": labels})).ok();
    host.restart_as(|host| host.netnsd_with("/run/small/state".as_ref(), &host.socket()));
    assert_eq!(host.get("/v1/namespaces").ok()["items"].as_array().unwrap().len(), 2);
}

#[test]
fn a_stale_file_under_a_name_is_used_again() {
    let host = Host::started();
    host.sh("mkdir -p /run/netns && : > /run/netns/net0");
    host.put("/v1/namespaces/net0", json!({})).ok();
    assert!(host.sh("ip netns exec net0 true").status.success());
}

#[test]
fn a_place_for_names_that_is_none_is_told_and_used_once_it_is_mended() {
    let host = Host::started();
    host.put("/v1/bridges/br0", json!({})).ok();
    host.sh("umount /run/netns; rm -rf /run/netns && : > /run/netns");
    let refused = host.put("/v1/namespaces/net0", json!({}));
    assert!((400..600).contains(&refused.status), "{}", refused.json);
    let said = refused.json["detail"].as_str().unwrap();
    assert!(said.contains("/run/netns is no directory: remove it"), "{said}");
    host.get("/v1/namespaces/net0").refused(404, "not_found", None);
    // What has nothing to do with it goes on.
    host.put("/v1/bridges/br0", json!({"stp": true})).ok();
    host.sh("rm /run/netns");
    host.put("/v1/namespaces/net0", json!({})).ok();
    assert!(host.sh("ip netns exec net0 true").status.success());
}
