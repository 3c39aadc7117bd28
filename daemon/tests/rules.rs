//! Policy rules of namespaces.

mod common;

use common::Host;
use serde_json::{Value, json};

/// Rules with every selector; the comment is what `ip rule` shows.
fn rules() -> Value {
    json!([
        {"priority": 100, "from": "10.0.0.0/8", "to": "10.1.0.0/16", "table": 100},
        {"priority": 110, "iif": "lo", "oif": "none0", "table": 254, "suppress_prefixlength": 0},
        {"priority": 120, "fwmark": 16, "fwmask": 255, "family": "ipv6", "action": "prohibit"},
        {"priority": 130, "fwmark": 5, "not": true, "family": "ipv4", "table": 253},
        {"priority": 140, "ipproto": "tcp", "sport": "1000-2000", "dport": 80, "table": 7},
        {"priority": 150, "uid_range": 0, "action": "unreachable"},
        {"priority": 160, "from": "fd00::/8", "action": "blackhole"},
        {"priority": 170, "fwmark": 0, "fwmask": 240, "table": 9},
        {"priority": 0, "from": "192.0.2.7/32", "table": 12},
    ])
}

/// Rules of one family in the kernel, without the kernel's own.
fn kernel_rules(host: &Host, namespace: &str, family: &str) -> Vec<Value> {
    let all = host.ip(&["-n", namespace, family, "rule"]);
    let all = all.as_array().unwrap().iter();
    all.filter(|rule| rule["protocol"] == "110")
        .cloned()
        .collect()
}

fn priorities(rules: &[Value]) -> Vec<u64> {
    rules
        .iter()
        .map(|rule| rule["priority"].as_u64().unwrap())
        .collect()
}

fn foreign_rules(host: &Host, namespace: &str) -> Vec<String> {
    ["-4", "-6"]
        .iter()
        .flat_map(|family| {
            let all = host.run(&["ip", "-n", namespace, family, "rule"]);
            let others = all.lines().filter(|line| !line.contains("proto 110"));
            others.map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn every_selector_reaches_the_kernel() {
    let host = Host::started();
    host.put("/v1/namespaces/a", json!({"rules": rules()})).ok();
    let v4 = kernel_rules(&host, "a", "-4");
    let v6 = kernel_rules(&host, "a", "-6");
    assert_eq!(priorities(&v4), [0, 100, 110, 130, 140, 150, 170]);
    assert_eq!(priorities(&v6), [110, 120, 140, 150, 160, 170]);
    let at = |rules: &[Value], priority: u64| {
        let found = rules.iter().find(|rule| rule["priority"] == priority);
        let mut rule = found.unwrap().clone();
        rule.as_object_mut()
            .unwrap()
            .retain(|key, _| !["priority", "protocol"].contains(&key.as_str()));
        rule
    };
    assert_eq!(
        at(&v4, 100),
        json!({"src": "10.0.0.0", "srclen": 8, "dst": "10.1.0.0", "dstlen": 16, "table": "100"})
    );
    assert_eq!(
        at(&v6, 110),
        json!({"src": "all", "iif": "lo", "oif": "none0", "oif_detached": null, "table": "main",
            "suppress_prefixlen": 0})
    );
    assert_eq!(
        at(&v6, 120),
        json!({"src": "all", "fwmark": "0x10", "fwmask": "0xff", "action": "prohibit"})
    );
    assert_eq!(
        at(&v4, 130),
        json!({"not": null, "src": "all", "fwmark": "0x5", "table": "default"})
    );
    assert_eq!(
        at(&v4, 140),
        json!({"src": "all", "ipproto": "tcp", "sport_start": 1000, "sport_end": 2000, "dport": 80,
            "table": "7"})
    );
    assert_eq!(
        at(&v4, 150),
        json!({"src": "all", "uid_start": 0, "uid_end": 0, "action": "unreachable"})
    );
    assert_eq!(
        at(&v6, 160),
        json!({"src": "fd00::", "srclen": 8, "action": "blackhole"})
    );
    assert_eq!(
        at(&v4, 170),
        json!({"src": "all", "fwmark": "0", "fwmask": "0xf0", "table": "9"})
    );

    // The live view has the same, and the kernel's own.
    let live = host.get("/v1/namespaces/a/rules").ok();
    let of = |protocol: &str| {
        let all = live["items"].as_array().unwrap().iter();
        all.filter(|rule| rule["protocol"] == protocol).count()
    };
    assert_eq!(of("netnsd"), v4.len() + v6.len());
    assert_eq!(of("kernel"), 5, "{live}");
    let first = &live["items"][1];
    assert_eq!(
        (&first["from"], &first["table"], &first["family"]),
        (&json!("192.0.2.7/32"), &json!(12), &json!("ipv4"))
    );
    let on_host = host.get("/v1/host/rules").ok();
    assert_eq!(on_host["items"].as_array().unwrap().len(), 5);

    // An update that changes nothing sends nothing.
    let plan = host
        .patch("/v1/namespaces/a?dry_run=true", json!({"rules": rules()}))
        .ok();
    assert_eq!(plan["plan"], json!([]));
}

#[test]
fn rules_of_others_stay() {
    let host = Host::started();
    host.run(&["ip", "netns", "add", "a"]);
    for line in [
        "ip -n a rule add from 10.0.0.0/8 table 100 priority 100",
        "ip -n a rule add from 10.0.0.0/8 table 100 priority 100 protocol 4",
        "ip -n a -6 rule add fwmark 1 table 7 priority 5",
        "ip -n a rule add goto 32766 priority 6",
        "ip -n a rule add l3mdev priority 1000 2>/dev/null || true",
    ] {
        assert!(host.sh(line).status.success(), "{line}");
    }
    let before = foreign_rules(&host, "a");
    let same = json!([
        {"priority": 100, "from": "10.0.0.0/8", "table": 100},
        {"priority": 5, "fwmark": 1, "table": 7, "family": "ipv6"},
    ]);
    host.put("/v1/namespaces/a?adopt=true", json!({"rules": same}))
        .ok();
    assert_eq!(foreign_rules(&host, "a"), before);
    assert_eq!(priorities(&kernel_rules(&host, "a", "-4")), [100]);
    assert_eq!(priorities(&kernel_rules(&host, "a", "-6")), [5]);
    host.patch("/v1/namespaces/a", json!({"rules": []})).ok();
    assert_eq!(foreign_rules(&host, "a"), before);
    assert_eq!(kernel_rules(&host, "a", "-4"), [] as [Value; 0]);
    assert_eq!(kernel_rules(&host, "a", "-6"), [] as [Value; 0]);
}

#[test]
fn rules_come_back_after_any_loss() {
    let mut host = Host::started();
    host.put("/v1/namespaces/a", json!({"rules": rules()})).ok();
    host.wait_until_settled();
    let look = |host: &Host| (kernel_rules(host, "a", "-4"), kernel_rules(host, "a", "-6"));
    let before = look(&host);
    for damage in [
        "ip -n a rule del priority 100",
        "ip -n a -6 rule del priority 120",
        "ip -n a rule flush; ip -n a -6 rule flush",
        // It fails if the daemon pins a new one before ip has removed the file.
        "ip netns del a || true",
    ] {
        assert!(host.sh(damage).status.success(), "{damage}");
        host.until(damage, || {
            host.sh("ip -n a rule").status.success() && look(&host) == before
        });
        host.until("it is in sync", || {
            host.get("/v1/namespaces/a").ok()["status"]["state"] == "in_sync"
        });
    }
    host.kill9();
    host.run(&["ip", "-n", "a", "rule", "del", "priority", "140"]);
    host.start();
    host.wait_until_settled();
    assert_eq!(look(&host), before);
    host.reboot();
    host.wait_until_settled();
    assert_eq!(look(&host), before);
}

/// The kernel deletes the first rule that has the selectors of a request, which may be another
/// one: each subset of rules that include each other becomes each other subset.
#[test]
fn nested_rules_are_deleted_one_by_one() {
    let host = Host::started();
    let all = [
        json!({"priority": 9, "table": 7, "family": "ipv4"}),
        json!({"priority": 9, "from": "10.0.0.0/8", "table": 7}),
        json!({"priority": 9, "from": "10.0.0.0/9", "not": true, "table": 7}),
        json!({"priority": 9, "from": "10.0.0.0/8", "dport": 80, "table": 7}),
        json!({"priority": 9, "family": "ipv4", "fwmark": 0, "fwmask": 1, "table": 7}),
    ];
    let subset = |bits: usize| -> Vec<Value> {
        let chosen = all.iter().enumerate();
        chosen
            .filter(|(i, _)| bits & 1 << i != 0)
            .map(|(_, rule)| rule.clone())
            .collect()
    };
    // A walk on which each change adds and removes.
    for bits in [31, 10, 21, 3, 28, 6, 25, 12, 30, 1, 2, 4, 31, 8, 0] {
        let rules = subset(bits);
        host.put("/v1/namespaces/a", json!({"rules": rules})).ok();
        let mut there: Vec<String> = kernel_rules(&host, "a", "-4")
            .iter()
            .map(|rule| {
                let has = |key: &str| rule.get(key).is_some();
                format!(
                    "{} {} {} {}",
                    rule["src"],
                    has("not"),
                    has("dport"),
                    has("fwmask")
                )
            })
            .collect();
        let mut wanted: Vec<String> = rules
            .iter()
            .map(|rule| {
                let from = rule["from"].as_str().map_or("all", |_| "10.0.0.0");
                let has = |key: &str| rule.get(key).is_some();
                format!(
                    "{:?} {} {} {}",
                    from,
                    has("not"),
                    has("dport"),
                    has("fwmask")
                )
            })
            .collect();
        there.sort();
        wanted.sort();
        assert_eq!(there, wanted, "{bits}");
    }
}

#[test]
fn wrong_rule_is_refused_by_its_field() {
    let host = Host::started();
    for (rule, code, field, words) in [
        (json!({"table": 7}), "invalid_field", "priority", "priority"),
        (
            json!({"priority": 5}),
            "invalid_field",
            "table",
            "blackhole",
        ),
        (
            json!({"priority": 5, "table": 0}),
            "invalid_field",
            "table",
            "main table is 254",
        ),
        (
            json!({"priority": 5, "table": 7, "action": "prohibit"}),
            "invalid_field",
            "action",
            "leave prohibit",
        ),
        (
            json!({"priority": 5, "action": "goto"}),
            "invalid_field",
            "action",
            "unreachable",
        ),
        (
            json!({"priority": 5, "table": 7, "from": "10.0.0.1/8"}),
            "invalid_field",
            "from",
            "10.0.0.0/8",
        ),
        (
            json!({"priority": 5, "table": 7, "from": "10.0.0.0/8", "to": "fd00::/8"}),
            "invalid_field",
            "to",
            "from of ipv4",
        ),
        (
            json!({"priority": 5, "table": 7, "from": "10.0.0.0/8", "family": "ipv6"}),
            "invalid_field",
            "from",
            "family of ipv6",
        ),
        (
            json!({"priority": 5, "table": 7, "fwmask": 1}),
            "invalid_field",
            "fwmask",
            "fwmark",
        ),
        (
            json!({"priority": 5, "table": 7, "fwmark": 256, "fwmask": 255}),
            "invalid_field",
            "fwmark",
            "0x100",
        ),
        (
            json!({"priority": 5, "table": 7, "suppress_prefixlength": 64}),
            "invalid_field",
            "suppress_prefixlength",
            "at most 32",
        ),
        (
            json!({"priority": 5, "action": "blackhole", "suppress_prefixlength": 0}),
            "invalid_field",
            "suppress_prefixlength",
            "needs a table",
        ),
        (
            json!({"priority": 5, "table": 7, "dport": "90-80"}),
            "invalid_field",
            "dport",
            "1 to 65535",
        ),
        (
            json!({"priority": 5, "table": 7, "ipproto": "tpc"}),
            "invalid_field",
            "ipproto",
            "tcp",
        ),
        (
            json!({"priority": 5, "table": 7, "iif": "a b"}),
            "invalid_field",
            "iif",
            "interface name",
        ),
        (
            json!({"priority": 5, "table": 7, "lookup": 7}),
            "unknown_field",
            "lookup",
            "lookup",
        ),
    ] {
        let answer = host.put("/v1/namespaces/a", json!({"rules": [rule]}));
        let detail = answer.json["detail"].as_str().unwrap().to_owned();
        answer.refused(422, code, Some(&format!("/rules/0/{field}")));
        assert!(detail.contains(words), "{rule}: {detail}");
    }
    // The same rule of one family, by another spelling.
    let twice = json!([{"priority": 5, "fwmark": 1, "table": 7},
        {"priority": 5, "fwmark": 1, "fwmask": 4_294_967_295_u32, "family": "ipv6", "table": 7}]);
    host.put("/v1/namespaces/a", json!({"rules": twice}))
        .refused(422, "duplicate", Some("/rules/1"));
    // The kernel does not tell them apart.
    let inverted = json!([{"priority": 5, "fwmark": 1, "table": 7},
        {"priority": 5, "fwmark": 1, "not": true, "table": 7}]);
    host.put("/v1/namespaces/a", json!({"rules": inverted}))
        .refused(422, "duplicate", Some("/rules/1"));
}

/// Packets follow the rules: a mark, a source and a table decide where they go.
#[test]
fn packets_follow_the_rules() {
    let host = Host::started();
    host.put(
        "/v1/namespaces/a",
        json!({"routes": [
            {"destination": "10.9.0.0/16", "via": "10.1.0.2"},
            {"destination": "10.9.0.0/16", "type": "blackhole", "table": 7},
        ], "rules": [
            {"priority": 50, "to": "10.9.2.0/24", "table": 7},
            {"priority": 60, "from": "10.1.0.9/32", "action": "prohibit"},
        ]}),
    )
    .ok();
    let ends = json!([{"namespace": "a", "interface": "eth0", "addresses": ["10.1.0.1/24", "10.1.0.9/24"]}, {}]);
    host.put("/v1/veths/v", json!({"endpoints": ends})).ok();
    host.wait_until_settled();
    let via = |words: &[&str]| {
        let line = [&["ip", "-n", "a", "route", "get"], words].concat();
        host.sh(&line.join(" ")).status.success()
    };
    assert!(via(&["10.9.1.1"]));
    assert!(!via(&["10.9.2.1"]));
    assert!(!via(&["10.9.1.1", "from", "10.1.0.9"]));
    host.patch("/v1/namespaces/a", json!({"rules": []})).ok();
    assert!(via(&["10.9.2.1"]));
    assert!(via(&["10.9.1.1", "from", "10.1.0.9"]));
}
