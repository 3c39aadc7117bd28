//! Faults of the machine: what was refused has left nothing, and the daemon goes on.

mod common;

use common::{Host, same};
use serde_json::json;

#[test]
fn full_disk_refuses_writes_and_loses_nothing() {
    let mut host = Host::new();
    let full = host.sh("mkdir /run/small && mount -t tmpfs -o size=512k tmpfs /run/small");
    assert!(
        full.status.success(),
        "{}",
        String::from_utf8_lossy(&full.stderr)
    );
    let mut command = host.netnsd_with("/run/small/state".as_ref(), &host.socket());
    command.env("NETNSD_LOG", "info");
    host.start_as(command);
    host.put("/v1/namespaces/net0", json!({})).ok();
    host.wait_until_settled();
    let before = host.kernel();
    let count_held = || {
        host.sh(&format!("ls -l /proc/{}/fd | grep -c net:", host.pid()))
            .stdout
    };
    let held = count_held();
    host.sh("dd if=/dev/zero of=/run/small/filler bs=4k 2>/dev/null");
    let labels: serde_json::Map<String, serde_json::Value> = (0..60)
        .map(|i| (format!("key{i}"), json!("x".repeat(900))))
        .collect();
    host.put("/v1/namespaces/net1", json!({"labels": labels}))
        .refused(503, "store_unavailable", None);
    host.delete("/v1/namespaces/none")
        .refused(404, "not_found", None);
    host.get("/v1/namespaces/net1")
        .refused(404, "not_found", None);
    same(&before, &host.kernel());
    host.until(
        "the namespace that was made while it could not be recorded is gone",
        || count_held() == held,
    );
    // Not only the first time.
    host.put("/v1/namespaces/net1", json!({"labels": labels}))
        .refused(503, "store_unavailable", None);
    host.sh("rm /run/small/filler");
    host.put("/v1/namespaces/net1", json!({"labels": labels}))
        .ok();
    host.restart_as(|host| host.netnsd_with("/run/small/state".as_ref(), &host.socket()));
    assert_eq!(
        host.get("/v1/namespaces").ok()["items"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn lost_pin_under_a_name_is_replaced() {
    let host = Host::started();
    // As `ip netns add` leaves it once the mount is gone: empty, and without permissions.
    host.sh("mkdir -p /run/netns && : > /run/netns/net0 && chmod 0 /run/netns/net0");
    host.put("/v1/namespaces/net0", json!({})).ok();
    assert!(host.sh("ip netns exec net0 true").status.success());
}

#[test]
fn broken_run_netns_is_used_once_mended() {
    let host = Host::started();
    host.put("/v1/bridges/br0", json!({})).ok();
    host.sh("umount /run/netns; rm -rf /run/netns && : > /run/netns");
    let refused = host.put("/v1/namespaces/net0", json!({}));
    assert!((400..600).contains(&refused.status), "{}", refused.json);
    let said = refused.json["detail"].as_str().unwrap();
    assert!(
        said.contains("/run/netns is no directory: remove it"),
        "{said}"
    );
    host.get("/v1/namespaces/net0")
        .refused(404, "not_found", None);
    // Unrelated resources are still written.
    host.put("/v1/bridges/br0", json!({"stp": true})).ok();
    host.sh("rm /run/netns");
    host.put("/v1/namespaces/net0", json!({})).ok();
    assert!(host.sh("ip netns exec net0 true").status.success());
}

#[test]
fn many_namespaces_take_few_descriptors() {
    let mut host = Host::new();
    host.start();
    let limits = || std::fs::read_to_string(format!("/proc/{}/limits", host.pid())).unwrap();
    let files = |limits: String| -> Vec<String> {
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"))
            .unwrap()
            .to_owned();
        line.split_whitespace()
            .skip(3)
            .take(2)
            .map(ToOwned::to_owned)
            .collect()
    };
    let own = files(limits());
    assert_eq!(own[0], own[1], "it takes what it is allowed");
    host.put("/v1/namespaces/net0", json!({})).ok();
    let soft = host
        .post(
            "/v1/namespaces/net0/exec",
            json!({"argv": ["sh", "-c", "ulimit -Sn"]}),
        )
        .ok();
    assert_eq!(
        soft["stdout"], "1024\n",
        "and a command what select(2) knows"
    );

    // Each of these is held open while the whole is made, if there is room for that.
    let limited = host.sh(&format!("prlimit --pid {} --nofile=400:400", host.pid()));
    assert!(
        limited.status.success(),
        "{}",
        String::from_utf8_lossy(&limited.stderr)
    );
    host.delete("/v1/namespaces/net0");
    let namespace = |i| json!({"name": format!("n{i}")});
    let veth = |i| {
        let ends = json!([{"namespace": format!("n{i}"), "interface": "eth0"}, {"interface": format!("p{i}"), "bridge": "br0"}]);
        json!({"name": format!("v{i}"), "endpoints": ends})
    };
    let document = json!({"bridges": [{"name": "br0"}], "namespaces": (0..200).map(namespace).collect::<Vec<_>>(),
        "veths": (0..200).map(veth).collect::<Vec<_>>()});
    host.put("/v1/topology", document).ok();
    assert_eq!(
        host.ip(&["link", "show", "master", "br0"])
            .as_array()
            .unwrap()
            .len(),
        200
    );
    host.put("/v1/topology", json!({})).ok();
    assert_eq!(host.sh("ls /run/netns").stdout, b"");
}
