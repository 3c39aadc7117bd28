//! The commands that a dry run prints do what the daemon does: random networks and changes of them,
//! by `sh` on one host and by the daemon on another, and both kernels are the same to `ip` and
//! `bridge`.
//!
//! `NETNSD_SEED` and `NETNSD_CHANGES` make it another and a longer run.

mod common;

use common::{
    Host,
    random::{Random, number},
    shape::look,
    skip::has,
};
use serde_json::{Map, Value, json};

/// Changes compared, unless asked otherwise: at most one a second, for the kernel's grace periods
/// follow each other.
const CHANGES: u64 = 150;
/// Runs beside each other, each on hosts of its own.
const RUNS: u64 = 3;
/// Changes that follow each other on the same two hosts.
const CHAIN: u64 = 30;

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

fn namespace(random: &mut Random, i: u64, links: &[(Option<String>, String)]) -> Value {
    let name = format!("n{i}");
    let own: Vec<&String> = links
        .iter()
        .filter(|(ns, _)| ns.as_deref() == Some(&name))
        .map(|(_, link)| link)
        .collect();
    let mut spec = json!({"name": name});
    // The kernel gives an id by itself to who gets a link from elsewhere, and takes no other
    // afterwards.
    if i.is_multiple_of(2) {
        spec["netnsid"] = json!(100 + i);
    }
    random.maybe(&mut spec, 6, "loopback", |_| json!(false));
    random.maybe(
        &mut spec,
        4,
        "dns",
        |random| json!({"nameservers": ["192.0.2.53"], "search": [format!("a{}.example", random.below(2))]}),
    );
    let mut sysctls = Map::new();
    for key in [
        "net.ipv4.ip_forward",
        "net.ipv4.conf.all.rp_filter",
        "net.ipv6.conf.all.forwarding",
    ] {
        if random.one_in(4) {
            sysctls.insert(key.into(), json!(random.below(2).to_string()));
        }
    }
    let plain = own
        .iter()
        .find(|link| link.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    if let (Some(link), true) = (plain, random.one_in(4)) {
        sysctls.insert(format!("net.ipv4.conf.{link}.proxy_arp"), json!(1));
    }
    spec["sysctls"] = sysctls.into();
    let mut routes = Vec::new();
    for kind in ["blackhole", "unreachable", "prohibit", "throw", "local"] {
        if random.one_in(5) {
            let family = random.of(&["192.0.2.0/28", "2001:db8:5::/48"]);
            routes.push(json!({"destination": family, "type": kind, "metric": 100 + random.below(3), "table": random.of(&[254, 100, 255])}));
        }
    }
    for link in &own {
        if random.one_in(3) {
            routes.push(json!({"destination": format!("198.51.100.{}/32", random.below(4)), "interface": link}));
        }
        if random.one_in(4) {
            routes.push(json!({"destination": "2001:db8:7::/64", "interface": link, "metric": 7}));
        }
        if random.one_in(5) {
            routes
                .push(json!({"destination": "203.0.113.0/24", "via": "172.31.0.1", "interface": link, "onlink": true}));
        }
    }
    for pair in 0..4 {
        if random.one_in(5) {
            routes.push(json!({"destination": format!("10.99.{pair}.0/24"), "via": format!("10.{pair}.0.9")}));
        }
        if random.one_in(6) {
            routes.push(json!({"destination": "default", "via": format!("fd00:{pair}::9"), "metric": 50 + pair}));
        }
    }
    if let [one, two, ..] = own[..]
        && random.one_in(2)
    {
        routes.push(
            json!({"destination": "10.98.0.0/24", "mtu": 1300 + random.below(2), "nexthops": [
            {"interface": one, "weight": 1 + random.below(2)}, {"interface": two}]}),
        );
        routes.push(json!({"destination": "2001:db8:8::/64", "initcwnd": 20, "advmss": 1200,
            "nexthops": [{"via": "fe80::1", "interface": one}, {"via": "fe80::2", "interface": two, "weight": 3}]}));
    }
    if random.one_in(5) {
        routes
            .push(json!({"destination": "default", "via": format!("10.{}.0.9", random.below(4))}));
    }
    // One of each destination, table and metric: the kernel has no two either.
    let mut seen = Vec::new();
    routes.retain(|route: &Value| {
        let key = [&route["destination"], &route["table"], &route["metric"]].map(Value::to_string);
        let new = !seen.contains(&key);
        seen.push(key);
        new
    });
    spec["routes"] = routes.into();
    let rules = [
        json!({"priority": 7, "table": 9}),
        json!({"priority": 7, "from": "10.0.0.0/8", "table": 9}),
        json!({"priority": 7, "from": "10.0.0.0/8", "not": true, "iif": "lo", "table": 9}),
        json!({"priority": 8, "to": "fd00::/8", "fwmark": 16, "fwmask": 255, "action": "prohibit"}),
        json!({"priority": 9, "family": "ipv6", "ipproto": "udp", "dport": "53-54", "action": "blackhole"}),
        json!({"priority": 9, "oif": "it's", "fwmark": 0, "fwmask": 3, "table": 254, "suppress_prefixlength": 0}),
    ];
    let rules: Vec<Value> = rules.into_iter().filter(|_| random.one_in(4)).collect();
    spec["rules"] = rules.into();
    let chosen: Vec<&&String> = own.iter().filter(|_| random.one_in(4)).collect();
    let neighbours: Vec<Value> = chosen
        .into_iter()
        .map(|link| {
            if random.one_in(2) {
                json!({"address": "10.77.0.8", "interface": link, "proxy": true})
            } else {
                json!({"address": "10.77.0.7", "mac": "02:00:5e:00:00:07", "interface": link})
            }
        })
        .collect();
    spec["neighbours"] = neighbours.into();
    spec
}

/// Some are no words to a shell, and there are few: they change hands.
fn device(random: &mut Random) -> &'static str {
    random.of(&["eth0", "eth1", "wan", "$HOME", "it's", "a\"b\\c&"])
}

fn bridge(random: &mut Random, i: u64, namespaces: &[String]) -> Value {
    let mut spec = json!({"name": format!("b{i}")});
    if let (false, true) = (namespaces.is_empty(), random.one_in(2)) {
        spec["namespace"] = json!(random.of(namespaces));
    }
    spec["interface"] = json!(device(random));
    random.maybe(&mut spec, 3, "mac", |random| {
        json!(format!("02:00:5e:01:00:{:02x}", i * 16 + random.below(2)))
    });
    random.maybe(&mut spec, 4, "mtu", |random| {
        json!(1300 + random.below(3) * 100)
    });
    random.maybe(&mut spec, 5, "up", |_| json!(false));
    random.maybe(&mut spec, 2, "addresses", |random| {
        json!([
            format!("10.{}.1.1/24", 50 + i),
            format!("fd50:{i}::{}/64", 1 + random.below(2))
        ])
    });
    random.maybe(&mut spec, 5, "alias", |random| {
        json!(random.of(&["lan", "it's $HOME"]))
    });
    random.maybe(&mut spec, 5, "altnames", |random| {
        json!([format!("alt-b{i}-{}", random.below(2))])
    });
    random.maybe(&mut spec, 4, "stp", |_| json!(true));
    random.maybe(&mut spec, 4, "priority", |random| {
        json!(4096 * random.below(4))
    });
    random.maybe(&mut spec, 4, "ageing_time_s", |random| {
        json!(60 + random.below(2))
    });
    let delays: &[u64] = if spec["stp"] == true {
        &[4, 5]
    } else {
        &[0, 1, 5]
    };
    random.maybe(&mut spec, 3, "forward_delay_s", |random| {
        json!(random.of(delays))
    });
    random.maybe(&mut spec, 4, "hello_time_s", |random| {
        json!(1 + random.below(2))
    });
    random.maybe(&mut spec, 4, "max_age_s", |random| {
        json!(10 + random.below(2))
    });
    random.maybe(&mut spec, 4, "multicast_snooping", |_| json!(false));
    random.maybe(&mut spec, 4, "multicast_querier", |_| json!(true));
    random.maybe(&mut spec, 4, "multicast_router", |random| {
        json!(random.below(3))
    });
    random.maybe(&mut spec, 4, "group_fwd_mask", |random| {
        json!(8 << random.below(4))
    });
    random.maybe(&mut spec, 4, "group_addr", |random| {
        json!(random.of(&["01:80:c2:00:00:00", "01:80:c2:00:00:0e"]))
    });
    random.maybe(&mut spec, 4, "multicast_query_interval_s", |random| {
        json!(1.5 + random.below(2) as f64)
    });
    random.maybe(&mut spec, 4, "multicast_last_member_count", |random| {
        json!(random.below(4))
    });
    spec
}

fn veth(random: &mut Random, i: u64, namespaces: &[String], bridges: &[Value]) -> Value {
    let mut ends: Vec<Value> = (0..2)
        .map(|end| {
            let mut spec = json!({"interface": device(random)});
            if let (false, true) = (namespaces.is_empty(), random.one_in(2)) {
                spec["namespace"] = json!(random.of(namespaces));
            }
            random.maybe(&mut spec, 4, "mac", |random| {
                json!(format!(
                    "02:00:5e:02:{i:02x}:{:02x}",
                    end * 16 + random.below(2)
                ))
            });
            random.maybe(&mut spec, 4, "mtu", |random| {
                json!(1300 + random.below(3) * 100)
            });
            random.maybe(&mut spec, 5, "up", |_| json!(false));
            random.maybe(&mut spec, 5, "alias", |random| {
                json!(random.of(&["a", "b \\ c"]))
            });
            random.maybe(&mut spec, 5, "altnames", |random| {
                json!([
                    format!("alt-v{i}-{end}-{}", random.below(2)),
                    format!("alt-v{i}-{end}")
                ])
            });
            for flag in ["promiscuous", "allmulticast"] {
                random.maybe(&mut spec, 5, flag, |_| json!(true));
            }
            random.maybe(&mut spec, 5, "arp", |_| json!(false));
            let fitting: Vec<&Value> = bridges
                .iter()
                .filter(|bridge| bridge["namespace"] == spec["namespace"])
                .collect();
            if let (false, true) = (fitting.is_empty(), random.one_in(2)) {
                spec["bridge"] = random.of(&fitting)["name"].clone();
                let mut port = json!({});
                random.maybe(&mut port, 4, "path_cost", |random| {
                    json!(1 + random.below(9))
                });
                random.maybe(&mut port, 4, "priority", |random| json!(random.below(64)));
                random.maybe(&mut port, 4, "mcast_router", |random| {
                    json!(random.below(3))
                });
                for flag in [
                    "hairpin",
                    "isolated",
                    "learning",
                    "bpdu_guard",
                    "root_block",
                    "mcast_fast_leave",
                    "flood",
                    "mcast_flood",
                    "bcast_flood",
                    "mcast_to_unicast",
                    "neigh_suppress",
                    "proxy_arp",
                ] {
                    random.maybe(&mut port, 5, flag, |random| json!(random.one_in(2)));
                }
                spec["port"] = port;
            } else {
                let pool = [
                    format!("10.{i}.0.{}/24", end + 1),
                    format!("10.{i}.0.{}/24", end + 3),
                    format!("10.{i}.0.{}/24", end + 5),
                    format!("fd00:{i}::{}/64", end + 1),
                    format!("fd00:{i}::{}/64", end + 3),
                    format!("10.{i}.{}.1/30", 8 + end),
                ];
                let mut addresses: Vec<&String> =
                    pool.iter().filter(|_| random.one_in(2)).collect();
                let by = random.below(addresses.len().max(1) as u64) as usize;
                addresses.rotate_left(by);
                if random.one_in(2) {
                    addresses.reverse();
                }
                spec["addresses"] = addresses
                    .into_iter()
                    .map(|address| address_entry(random, address))
                    .collect();
            }
            spec
        })
        .collect();
    // A pair between ports closes a loop, whose storm takes all of the processors: it stays down.
    if ends.iter().all(|end| end["bridge"].is_string()) {
        ends[1]["up"] = json!(false);
    }
    json!({"name": format!("v{i}"), "endpoints": ends})
}

/// An address, alone or with settings.
fn address_entry(random: &mut Random, address: &str) -> Value {
    let mut entry = json!({"address": address});
    random.maybe(&mut entry, 5, "metric", |random| json!(5 + random.below(2)));
    if !address.contains(':') {
        random.maybe(&mut entry, 8, "broadcast", |_| json!("10.255.255.255"));
    }
    if entry.as_object().is_some_and(|fields| fields.len() == 1) {
        return json!(address);
    }
    entry
}

/// Gives those whose name is taken in their namespace a free one.
fn own_names(bridges: &mut [Value], veths: &mut [Value]) {
    let ends = veths
        .iter_mut()
        .flat_map(|veth| veth["endpoints"].as_array_mut().unwrap());
    let mut specs: Vec<&mut Value> = bridges.iter_mut().chain(ends).collect();
    for i in 0..specs.len() {
        let place = |spec: &Value| json!([spec["namespace"], spec["interface"]]);
        while specs[..i]
            .iter()
            .any(|other| place(other) == place(specs[i]))
        {
            let free = (0..)
                .map(|n| json!(format!("own{n}")))
                .find(|name| specs.iter().all(|spec| spec["interface"] != *name));
            specs[i]["interface"] = free.unwrap();
        }
    }
}

/// A document; most of the one before stays as it was.
fn document(random: &mut Random, before: &Value) -> Value {
    let old = |list: &str, name: &str| {
        before[list]
            .as_array()
            .into_iter()
            .flatten()
            .find(|item| item["name"] == name)
            .cloned()
    };
    let namespaces: Vec<String> = (0..4)
        .filter(|_| !random.one_in(4))
        .map(|i| format!("n{i}"))
        .collect();
    let lives = |ns: &Value| {
        ns.as_str()
            .is_none_or(|ns| namespaces.iter().any(|name| name == ns))
    };
    let mut bridges = Vec::new();
    for i in 0..3 {
        let kept = old("bridges", &format!("b{i}"))
            .filter(|old| lives(&old["namespace"]) && !random.one_in(3));
        match kept {
            Some(kept) => bridges.push(kept),
            None if random.one_in(3) => {}
            None => bridges.push(bridge(random, i, &namespaces)),
        }
    }
    let mut veths = Vec::new();
    for i in 0..4 {
        let fits = |end: &Value| {
            let bridge = bridges
                .iter()
                .find(|bridge| bridge["name"] == end["bridge"]);
            lives(&end["namespace"])
                && (end["bridge"].is_null()
                    || bridge.is_some_and(|bridge| bridge["namespace"] == end["namespace"]))
        };
        let kept = old("veths", &format!("v{i}")).filter(|old| {
            old["endpoints"].as_array().unwrap().iter().all(fits) && !random.one_in(3)
        });
        match kept {
            Some(kept) => veths.push(kept),
            None if random.one_in(4) => {}
            None => veths.push(veth(random, i, &namespaces, &bridges)),
        }
    }
    own_names(&mut bridges, &mut veths);
    let links: Vec<(Option<String>, String)> = veths
        .iter()
        .flat_map(|veth| veth["endpoints"].as_array().unwrap())
        .map(|end| {
            (
                end["namespace"].as_str().map(str::to_owned),
                end["interface"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    let namespaces: Vec<Value> = namespaces
        .iter()
        .map(|name| {
            let i = name[1..].parse().unwrap();
            old("namespaces", name)
                .filter(|_| !random.one_in(2))
                .unwrap_or_else(|| namespace(random, i, &links))
        })
        .collect();
    json!({"namespaces": namespaces, "bridges": bridges, "veths": veths})
}

/// A change to a network: a whole document most often, or one resource put, patched, or deleted
/// with what hangs on it.
fn change(random: &mut Random, recorded: &Value) -> (&'static str, String, Value) {
    let wanted = document(random, recorded);
    let of = |network: &Value| -> Vec<(&'static str, Value)> {
        let kind = |kind: &'static str| {
            network[kind]
                .as_array()
                .cloned()
                .unwrap_or_default()
                .into_iter()
                .map(move |spec| (kind, spec))
        };
        ["namespaces", "bridges", "veths"]
            .into_iter()
            .flat_map(kind)
            .collect()
    };
    let (there, new) = (of(recorded), of(&wanted));
    let other: Vec<_> = new
        .iter()
        .filter(|spec| !there.contains(spec))
        .cloned()
        .collect();
    let path = |kind: &str, spec: &Value| format!("/v1/{kind}/{}", spec["name"].as_str().unwrap());
    match random.below(8) {
        0 if !there.is_empty() => {
            let (kind, spec) = random.of(&there);
            (
                "DELETE",
                format!("{}?cascade=true", path(kind, &spec)),
                Value::Null,
            )
        }
        1 | 2 if !other.is_empty() => {
            let (kind, spec) = random.of(&other);
            ("PUT", format!("{}?wait=true", path(kind, &spec)), spec)
        }
        3 if other.iter().any(|(kind, spec)| {
            there
                .iter()
                .any(|old| (old.0, &old.1["name"]) == (*kind, &spec["name"]))
        }) =>
        {
            let known = |(kind, spec): &&(&str, Value)| {
                there
                    .iter()
                    .any(|old| (old.0, &old.1["name"]) == (*kind, &spec["name"]))
            };
            let (kind, spec) = random.of(&other.iter().filter(known).collect::<Vec<_>>());
            (
                "PATCH",
                format!("{}?wait=true", path(kind, spec)),
                spec.clone(),
            )
        }
        _ => ("PUT", "/v1/topology?wait=true".into(), wanted),
    }
}

#[test]
fn dry_run_commands_do_what_the_daemon_does() {
    if !has("ip") || !has("bridge") || !has("sysctl") {
        return;
    }
    // Each user that runs it compares others.
    let seed =
        number("NETNSD_SEED").unwrap_or(20_261_125 + u64::from(nix::unistd::getuid().as_raw()));
    let changes = number("NETNSD_CHANGES").unwrap_or(CHANGES);
    let commands: usize = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..RUNS)
            .map(|i| scope.spawn(move || compare(seed + i, changes / RUNS)))
            .collect();
        runs.into_iter().map(|run| run.join().unwrap()).sum()
    });
    println!(
        "{changes} changes by {commands} commands, seeds {seed} and on: both kernels are the same"
    );
}

/// Returns the shape of the host and the MAC addresses of all links: the commands contain those
/// that nobody asked for, too.
fn look_with_macs(host: &Host) -> Vec<String> {
    const MACS: &str = r#"
for ns in "" $(ls /run/netns 2>/dev/null); do
    ip ${ns:+-n $ns} -br link | awk -v ns="$ns" '{ split($1, name, "@"); print ns, name[1], $3 }' | sort
done"#;
    let macs = String::from_utf8(host.sh(MACS).stdout).unwrap();
    look(host)
        .into_iter()
        .chain(macs.lines().map(str::to_owned))
        .collect()
}

/// Compares so many changes, and tells by how many commands they were made.
fn compare(seed: u64, changes: u64) -> usize {
    let mut random = Random(seed);
    let (mut compared, mut commands) = (0, 0);
    while compared < changes {
        let (by_daemon, by_hand) = (Host::started(), Host::new());
        let mut recorded = json!({});
        for _ in 0..CHAIN.min(changes - compared) {
            let (method, path, body) = change(&mut random, &recorded);
            let ask =
                |path: &str| by_daemon.raw(method, path, &JSON, body.to_string().into_bytes());
            let answer = ask(&format!("{path}&dry_run=true"));
            if matches!(answer.status, 409 | 422) && !path.contains("topology") {
                // By itself it does not fit: what it names is not there, or its name is another's.
                continue;
            }
            let plan = answer.ok();
            let lines: Vec<&str> = plan["plan"]
                .as_array()
                .unwrap()
                .iter()
                .map(|step| step["command"].as_str().unwrap())
                .collect();
            let script = lines.join("\n");
            // Of those that were deleted the kernel keeps the ids until it has cleared them away;
            // the daemon waits for it too.
            let dying = || {
                by_hand
                    .run(&["ip", "netns", "list-id"])
                    .lines()
                    .any(|id| !id.contains("netns name"))
            };
            by_daemon.until("the ids of deleted namespaces are free", || !dying());
            let output = by_hand.sh(&format!("set -e\n{script}"));
            let error = String::from_utf8_lossy(&output.stderr);
            let what = || {
                format!(
                    "seed {seed}, change {compared}\nfrom {recorded}\nby {method} {path} {body}\nor\n{script}\n{error}"
                )
            };
            assert!(output.status.success(), "{}", what());
            let answer = ask(&path);
            assert!(answer.status < 300, "{answer:?}\n{}", what());
            let (a, b) = (look_with_macs(&by_daemon), look_with_macs(&by_hand));
            if a != b {
                let only = |these: &[String], those: &[String]| {
                    these
                        .iter()
                        .filter(|line| !those.contains(line))
                        .cloned()
                        .collect::<Vec<_>>()
                        .join("\n")
                };
                panic!(
                    "{}\nonly by the daemon:\n{}\nonly by hand:\n{}",
                    what(),
                    only(&a, &b),
                    only(&b, &a)
                );
            }
            compared += 1;
            commands += lines.len();
            recorded = by_daemon.get("/v1/topology").ok();
        }
    }
    commands
}
