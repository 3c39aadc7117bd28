//! Foreign state stays: a thousand changes by others, among netnsd's own writes, repairs and
//! restarts, are all found again, byte for byte in `ip -j`; also state from before the first
//! start.

mod common;

use common::{Host, random::Random, skip::has};
use serde_json::{Value, json};

/// Changes by root; an ordinary user's run is another, and shorter.
const CHANGES: u64 = 1_000;
const BY_USERS: u64 = 250;
const NAMESPACES: [&str; 3] = ["net0", "net1", "net2"];

/// A foreign change, and how to see it: a command, and the key that selects it in its output.
struct Foreign {
    ask: Vec<String>,
    key: &'static str,
    value: Value,
    seen: String,
}

/// Returns the part of a command's output that a key and value select.
fn look(host: &Host, ask: &[String], key: &str, value: &Value) -> String {
    let ask: Vec<&str> = ask.iter().map(String::as_str).collect();
    let said = host.run(&ask);
    if ask.contains(&"-j") {
        let said: Value = serde_json::from_str(&said).unwrap_or_default();
        let lists = |item: &Value| {
            item["addr_info"]
                .as_array()
                .cloned()
                .unwrap_or_else(|| vec![item.clone()])
        };
        let all: Vec<Value> = said
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(lists)
            .collect();
        if key == "ifalias" {
            return all[0][key].to_string();
        }
        all.iter()
            .find(|item| item[key] == *value)
            .map(Value::to_string)
            .unwrap_or_default()
    } else {
        said
    }
}

fn lab(host: &Host) {
    host.put("/v1/bridges/br0", json!({"addresses": ["10.1.0.254/24"]}))
        .ok();
    for (i, name) in NAMESPACES.iter().enumerate() {
        host.put(
            &format!("/v1/namespaces/{name}"),
            json!({"routes": [{"destination": "default", "via": "10.1.0.254"}], "sysctls": {"net.ipv4.ip_forward": 1},
                "neighbours": [{"address": "10.1.0.99", "mac": "02:00:00:00:00:99", "interface": "eth0"}]}),
        )
        .ok();
        let ends = json!([{"namespace": name, "interface": "eth0", "addresses": [format!("10.1.0.{}/24", i + 1)]},
            {"interface": format!("port{i}"), "bridge": "br0"}]);
        host.put(&format!("/v1/veths/lan{i}"), json!({"endpoints": ends}))
            .ok();
    }
    host.wait_until_settled();
}

/// The next change by others; the number makes it another than all before.
fn change(host: &Host, random: &mut Random, number: u64) -> Foreign {
    let (high, low) = (number / 250, number % 250 + 1);
    let i = random.below(NAMESPACES.len() as u64) as usize;
    let name = NAMESPACES[i];
    let words =
        |line: String| -> Vec<String> { line.split_whitespace().map(str::to_owned).collect() };
    let (line, ask, key, value) = match random.below(9) {
        0 => {
            let address = format!("172.{}.{low}.1", 16 + high);
            let line = format!("ip -n {name} address add {address}/24 dev eth0");
            (
                line,
                format!("ip -n {name} -j address show dev eth0"),
                "local",
                json!(address),
            )
        }
        1 => {
            let address = format!("fd99:{high}:{low}::1");
            let line = format!("ip -n {name} address add {address}/64 dev eth0 nodad");
            (
                line,
                format!("ip -n {name} -j address show dev eth0"),
                "local",
                json!(address),
            )
        }
        2 => {
            let address = format!("192.168.{high}.{low}");
            let on = random.of(&["br0".to_owned(), format!("port{i}"), "lo".to_owned()]);
            (
                format!("ip address add {address}/32 dev {on}"),
                format!("ip -j address show dev {on}"),
                "local",
                json!(address),
            )
        }
        3 => {
            let to = format!("100.{}.{low}.0/24", 64 + high);
            let kind = random.of(&["blackhole", "unreachable", "prohibit"]);
            let line = format!(
                "ip -n {name} route add {kind} {to} proto static metric {}",
                1 + low
            );
            (
                line,
                format!("ip -n {name} -j route show type {kind}"),
                "dst",
                json!(to),
            )
        }
        4 => {
            let to = format!("100.{}.{low}.0/24", 96 + high);
            let table = random.of(&["main", "77"]);
            let line = format!("ip -n {name} route add {to} via 10.1.0.254 table {table}");
            (
                line,
                format!("ip -n {name} -j route show table {table}"),
                "dst",
                json!(to),
            )
        }
        5 => {
            let address = format!("10.1.0.{}", 100 + number % 150);
            let mac = format!("02:00:00:01:{high:02x}:{low:02x}");
            let line =
                format!("ip -n {name} neigh replace {address} lladdr {mac} dev eth0 nud permanent");
            (
                line,
                format!("ip -n {name} -j neigh show dev eth0 nud permanent"),
                "dst",
                json!(address),
            )
        }
        6 => {
            let link = format!("x{number}");
            let kind = random.of(&["bridge", "veth"]);
            (
                format!("ip -n {name} link add {link} type {kind}"),
                format!("ip -n {name} -j link show dev {link}"),
                "ifname",
                json!(link),
            )
        }
        7 => {
            let place = random.of(&[
                "dev br0".to_owned(),
                format!("dev port{i}"),
                "dev lo".to_owned(),
            ]);
            let inside = random.of(&["dev eth0", "dev lo"]);
            let (ns, place) = if random.one_in(2) {
                (String::new(), place)
            } else {
                (format!("-n {name}"), inside.into())
            };
            let line = format!("ip {ns} link set {place} alias 'customer {number}'");
            (
                line,
                format!("ip {ns} -j link show {place}"),
                "ifalias",
                Value::Null,
            )
        }
        _ => {
            let file = random.of(&[
                "net/ipv4/conf/eth0/log_martians",
                "net/ipv4/tcp_retries2",
                "net/ipv6/conf/eth0/hop_limit",
            ]);
            let line = format!(
                "ip netns exec {name} sh -c 'echo {} >/proc/sys/{file}'",
                1 + number % 200
            );
            (
                line,
                format!("ip netns exec {name} cat /proc/sys/{file}"),
                "",
                Value::Null,
            )
        }
    };
    let output = host.sh(&line);
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let ask = words(ask);
    let seen = look(host, &ask, key, &value);
    assert!(!seen.is_empty(), "{line}");
    Foreign {
        ask,
        key,
        value,
        seen,
    }
}

/// One of our own doings: a write, damage that is repaired, a pass, a restart.
fn ours(host: &mut Host, random: &mut Random, number: u64) {
    let i = random.below(NAMESPACES.len() as u64);
    let name = NAMESPACES[i as usize];
    let lan = format!("/v1/veths/lan{i}/endpoints");
    match random.below(9) {
        0 => drop(
            host.patch(
                &format!("{lan}/0"),
                json!({"addresses": [format!("10.1.0.{}/24", i + 1), format!("10.2.{i}.1/24")]}),
            )
            .ok(),
        ),
        1 => drop(host.patch(&format!("{lan}/0"), json!({"addresses": [format!("10.1.0.{}/24", i + 1)]})).ok()),
        2 => drop(host.patch(&format!("{lan}/1"), json!({"port": {"hairpin": random.one_in(2)}})).ok()),
        3 => {
            let routes = json!([{"destination": "default", "via": "10.1.0.254"},
                {"destination": format!("10.9.{}.0/24", number % 200), "via": "10.1.0.254"}]);
            host.patch(&format!("/v1/namespaces/{name}"), json!({"routes": routes})).ok();
        }
        4 => drop(host.patch(&format!("/v1/namespaces/{name}"), json!({"labels": {"n": number.to_string()}})).ok()),
        5 => drop(host.sh(&format!("ip link set port{i} nomaster; ip link set port{i} type bridge_slave cost 9"))),
        6 => drop(host.sh(&format!(
            "ip -n {name} route del default; ip netns exec {name} sh -c 'echo 0 >/proc/sys/net/ipv4/ip_forward'"
        ))),
        7 => drop(host.post("/v1/reconcile", json!({})).ok()),
        _ if random.one_in(4) => host.restart(),
        _ => drop(host.patch("/v1/bridges/br0", json!({"ageing_time_s": 60 + number % 9})).ok()),
    }
}

fn all_there(host: &Host, all: &[Foreign]) {
    let gone: Vec<String> = all
        .iter()
        .filter_map(|one| {
            let now = look(host, &one.ask, one.key, &one.value);
            (now != one.seen)
                .then(|| format!("{:?} {}: {} was {}", one.ask, one.value, now, one.seen))
        })
        .collect();
    assert!(gone.is_empty(), "{gone:#?}");
}

#[test]
fn foreign_changes_survive_writes_and_repairs() {
    if !has("ip") {
        return;
    }
    let mut host = Host::started();
    lab(&host);
    let user = nix::unistd::getuid();
    let changes = if user.is_root() { CHANGES } else { BY_USERS };
    let mut random = Random(20_261_125 + u64::from(user.as_raw()));
    let mut all: Vec<Foreign> = Vec::new();
    for number in 0..changes {
        let new = change(&host, &mut random, number);
        // The last write of a foreign sysctl counts.
        all.retain(|old| (&old.ask, &old.value) != (&new.ask, &new.value));
        all.push(new);
        if number % 8 == 0 {
            ours(&mut host, &mut random, number);
        }
    }
    host.restart();
    host.post("/v1/reconcile", json!({})).ok();
    host.wait_until_settled();
    all_there(&host, &all);
    let shown =
        host.get("/v1/veths/lan0").ok()["status"]["observed"]["endpoints"][0]["foreign_addresses"]
            .clone();
    assert!(
        shown.as_array().is_some_and(|shown| shown.len() > 5),
        "{shown}"
    );
    println!(
        "{changes} changes by others, of which {} last: all are there",
        all.len()
    );
}

#[test]
fn foreign_state_survives_the_boot_pass() {
    let mut host = Host::started();
    lab(&host);
    host.power_cycle();
    for line in [
        "ip link add uplink type veth peer name other",
        "ip address add 192.0.2.1/24 dev uplink",
        "ip link set uplink up",
        "ip link set other up",
        "ip route add 198.51.100.0/24 via 192.0.2.9",
        "ip netns add theirs",
        "ip -n theirs link add inner type bridge",
        "ip -n theirs link set lo up",
    ] {
        assert!(host.sh(line).status.success(), "{line}");
    }
    let theirs = |host: &Host| -> Vec<String> {
        [
            "ip -j -d address show dev uplink",
            "ip -j -d address show dev other",
            "ip -j route",
            "ip -n theirs -j -d link",
        ]
        .map(|ask| {
            let said = host.run(&ask.split(' ').collect::<Vec<_>>());
            let mut said: Value = serde_json::from_str(&said).unwrap();
            // The bridge of ours brings a route of the kernel's.
            said.as_array_mut()
                .unwrap()
                .retain(|item| item["dev"] != "br0");
            said.to_string()
        })
        .into()
    };
    let tentative = |host: &Host| theirs(host).concat().contains("tentative");
    host.until("it is up", || {
        host.ip(&["link", "show", "dev", "uplink"])[0]["operstate"] == "UP" && !tentative(&host)
    });
    let before = theirs(&host);
    host.start();
    host.wait_until_settled();
    assert_eq!(theirs(&host), before);
}

/// Foreign addresses that the kernel deletes with one of netnsd's, or promotes in its place, are
/// there afterwards.
#[test]
fn foreign_address_in_our_network_survives() {
    for promote in ["0", "1"] {
        let host = Host::started();
        let put = |address: &str| {
            let ends = json!([{"namespace": "net0", "interface": "eth0", "addresses": [address]}, {"interface": "port0"}]);
            host.put("/v1/veths/lan0", json!({"endpoints": ends})).ok();
        };
        host.put("/v1/namespaces/net0", json!({})).ok();
        put("10.1.0.1/24");
        let set = format!(
            "for of in all eth0; do echo {promote} > /proc/sys/net/ipv4/conf/$of/promote_secondaries; done; \
             ip address add 10.1.0.9/24 dev eth0 && ip address add 10.1.0.10/24 dev eth0"
        );
        assert!(
            host.sh(&format!("ip netns exec net0 sh -ec '{set}'"))
                .status
                .success()
        );
        for ours in ["10.1.0.2", "10.1.0.3"] {
            put(&format!("{ours}/24"));
            let shown = host.ip(&["-n", "net0", "-4", "address", "show", "dev", "eth0"]);
            let all = shown[0]["addr_info"].as_array().unwrap().iter();
            let mut all: Vec<&str> = all
                .map(|address| address["local"].as_str().unwrap())
                .collect();
            all.sort_unstable();
            assert_eq!(
                all,
                ["10.1.0.10", ours, "10.1.0.9"],
                "promote_secondaries={promote}"
            );
        }
        assert_eq!(
            host.post("/v1/reconcile", json!({})).ok()["repaired"],
            json!([])
        );
    }
}

/// A route of others where one of netnsd's should be is named, and left; the rest is kept right
/// meanwhile.
#[test]
fn foreign_route_in_the_way_is_a_conflict() {
    let mut host = Host::started();
    let wanted = json!({"routes": [{"destination": "default", "via": "10.1.0.254"}, {"destination": "10.8.0.0/16", "via": "10.1.0.254"},
        {"destination": "default", "via": "fd00:1::fe"}], "sysctls": {"net.ipv4.ip_forward": 1}});
    host.put("/v1/namespaces/a", wanted.clone()).ok();
    let ends = json!([{"namespace": "a", "interface": "eth0", "addresses": ["10.1.0.1/24", "fd00:1::1/64"]}, {"interface": "port0"}]);
    host.put("/v1/veths/lan0", json!({"endpoints": ends})).ok();
    host.wait_until_settled();
    let status = |host: &Host| host.get("/v1/namespaces/a").ok()["status"].clone();
    assert_eq!(status(&host)["state"], "in_sync", "{}", status(&host));
    for (family, theirs, i) in [
        ("-4", "default via 10.1.0.99 dev eth0 proto static", 0),
        (
            "-6",
            "default via fd00:1::99 dev eth0 proto static metric 1024",
            2,
        ),
    ] {
        let line = format!("ip -n a {family} route replace {theirs}");
        assert!(host.sh(&line).status.success(), "{line}");
        let reason = format!(
            "{theirs} is in the way, and netnsd did not make it: delete it, or give this route another metric"
        );
        let told = |host: &Host| {
            host.until("it is told", || status(host)["state"] == "conflict");
            assert_eq!(status(host)["reason"], json!(reason));
        };
        told(&host);
        let pointer = format!("/routes/{i}");
        host.put("/v1/namespaces/a", wanted.clone())
            .refused(409, "conflict", Some(&pointer));
        let mut named = wanted.clone();
        named["name"] = json!("a");
        let document = json!({"namespaces": [{"name": "b"}, named]});
        let pointer = format!("/namespaces/1{pointer}");
        host.patch("/v1/topology", document)
            .refused(409, "conflict", Some(&pointer));
        // A veth there is no concern of that route.
        host.patch("/v1/veths/lan0/endpoints/0", json!({"mtu": 1400}))
            .ok();
        host.patch("/v1/veths/lan0/endpoints/0", json!({"mtu": null}))
            .ok();
        host.restart();
        told(&host);
        let whole = || {
            let routes = host.run(&["ip", "-n", "a", "route"]);
            let forward = host.run(&[
                "ip",
                "netns",
                "exec",
                "a",
                "cat",
                "/proc/sys/net/ipv4/ip_forward",
            ]);
            routes.contains("10.8.0.0/16 via 10.1.0.254") && forward == "1\n"
        };
        assert!(whole());
        assert!(
            host.sh(
                "ip -n a route del 10.8.0.0/16; ip netns exec a sysctl -qw net.ipv4.ip_forward=0"
            )
            .status
            .success()
        );
        host.until("the rest is repaired", whole);
        assert!(
            host.run(&["ip", "-n", "a", family, "route"])
                .contains(theirs.split(" proto").next().unwrap())
        );
        assert!(
            host.sh(&format!("ip -n a {family} route del {theirs}"))
                .status
                .success()
        );
        host.until("netnsd's is there", || status(&host)["state"] == "in_sync");
        assert!(
            !host
                .run(&["ip", "-n", "a", family, "route"])
                .contains("static")
        );
    }
}

/// Where the addresses of a link are changed.
struct Link {
    /// `-n` and the namespace, or nothing.
    ns: &'static [&'static str],
    device: &'static str,
    path: &'static str,
}

impl Link {
    fn ip(&self, host: &Host, args: &[&str]) -> Value {
        host.ip(&[self.ns, args].concat())
    }

    fn addresses(&self, host: &Host) -> Vec<Value> {
        self.ip(host, &["address", "show", "dev", self.device])[0]["addr_info"]
            .as_array()
            .unwrap()
            .clone()
    }

    /// The addresses of these, in the kernel's order.
    fn order(&self, host: &Host, ours: &[&str]) -> Vec<String> {
        let text = |address: &Value| {
            format!(
                "{}/{}",
                address["local"].as_str().unwrap(),
                address["prefixlen"]
            )
        };
        self.addresses(host)
            .iter()
            .map(text)
            .filter(|text| ours.contains(&text.as_str()))
            .collect()
    }

    fn change(&self, host: &Host, addresses: &[&str]) {
        let answer = host.patch(self.path, json!({"addresses": addresses})).ok();
        let seen = &answer["status"]["observed"];
        let seen = if seen["endpoints"].is_array() {
            &seen["endpoints"][0]
        } else {
            seen
        };
        assert_eq!(seen["addresses"], json!(addresses));
    }

    /// The source that a packet to this address leaves with.
    fn source(&self, host: &Host, to: &str) -> String {
        self.ip(host, &["route", "get", to])[0]["prefsrc"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// Routes that the kernel did not make.
    fn routes(&self, host: &Host) -> Vec<String> {
        let all = [
            &["route", "show", "table", "all"][..],
            &["-6", "route", "show", "table", "all"],
        ];
        let all = all.map(|args| self.ip(host, args).as_array().unwrap().clone());
        let mut all: Vec<String> = all
            .concat()
            .iter()
            .filter(|route| route["protocol"] != "kernel")
            .map(Value::to_string)
            .collect();
        all.sort();
        all
    }
}

/// Routes by an interface, also those of the table local and those that prefer one of its
/// addresses, outlive every change of its addresses, in a namespace and on the host, whatever
/// `promote_secondaries` is.
#[test]
fn foreign_routes_survive_address_changes() {
    for promote in ["0", "1"] {
        let host = Host::started();
        host.put("/v1/namespaces/net0", json!({})).ok();
        let ends = json!([{"namespace": "net0", "interface": "eth0"}, {"interface": "port0"}]);
        host.put("/v1/veths/lan0", json!({"endpoints": ends})).ok();
        host.put("/v1/bridges/br0", json!({})).ok();
        host.put(
            "/v1/veths/port",
            json!({"endpoints": [{"interface": "port", "bridge": "br0"}, {}]}),
        )
        .ok();
        host.wait_until_settled();
        for link in [
            Link {
                ns: &["-n", "net0"],
                device: "eth0",
                path: "/v1/veths/lan0/endpoints/0",
            },
            Link {
                ns: &[],
                device: "br0",
                path: "/v1/bridges/br0",
            },
        ] {
            let device = link.device;
            let ip = format!("ip {}", link.ns.join(" "));
            let exec = link
                .ns
                .last()
                .map(|ns| format!("ip netns exec {ns} "))
                .unwrap_or_default();
            link.change(
                &host,
                &["10.1.0.1/24", "10.1.0.2/24", "fd00:1::1/64", "fd00:1::2/64"],
            );
            for line in [
                format!(
                    "{exec}sh -c 'echo {promote} >/proc/sys/net/ipv4/conf/{device}/promote_secondaries'"
                ),
                format!("{ip} address add 172.16.0.77/16 dev {device}"),
                format!("{ip} address add 10.1.0.77/24 brd + label {device}:v dev {device}"),
                format!("{ip} route add 10.44.0.0/16 via 10.1.0.9"),
                format!("{ip} route add 10.45.0.0/16 dev {device} table 77"),
                format!("{ip} route add local 10.46.0.1 dev {device} table local"),
                format!(
                    "{ip} route add 10.47.0.0/16 via 10.1.0.9 src 10.1.0.1 metric 5 mtu 1400 advmss 1000"
                ),
                format!("{ip} route add 10.48.0.0/16 via 10.1.0.9 src 10.1.0.77"),
                format!("{ip} route add 10.49.0.0/16 via 10.1.0.9 src 10.1.0.1 table 77"),
                format!("{ip} -6 route add fd44::/64 via fd00:1::9"),
                format!("{ip} -6 route add fd46::1 dev {device} table local"),
                format!(
                    "{ip} -6 route add fd47::/64 via fd00:1::9 src fd00:1::1 metric 5 mtu 1400"
                ),
            ] {
                let output = host.sh(&line);
                assert!(
                    output.status.success(),
                    "{line}: {}",
                    String::from_utf8_lossy(&output.stderr)
                );
            }
            let theirs = |host: &Host| {
                let mut all = link.addresses(host);
                all.retain(|one| {
                    one["local"]
                        .as_str()
                        .is_some_and(|local| local.ends_with(".77"))
                });
                all
            };
            let (routes, addresses) = (link.routes(&host), theirs(&host));
            for list in [
                &["10.1.0.2/24", "10.1.0.1/24", "fd00:1::2/64", "fd00:1::1/64"][..],
                &[
                    "10.1.0.3/24",
                    "10.1.0.2/24",
                    "10.1.0.1/24",
                    "fd00:1::2/64",
                    "fd00:1::1/64",
                    "fd00:1::3/64",
                ],
                &["10.2.0.1/24", "10.1.0.1/24", "10.1.0.3/24", "fd00:1::1/64"],
                &["10.1.0.1/24", "fd00:2::1/64", "fd00:1::1/64"],
                &["10.1.0.1/24", "fd00:1::1/64"],
            ] {
                link.change(&host, list);
                let v4 = list.iter().copied().filter(|one| one.contains('.'));
                let heads = |one: &&str| {
                    let net = |one: &str| one.rsplit_once('.').map(|(net, _)| net.to_owned());
                    list.iter().find(|other| net(other) == net(one)) == Some(one)
                };
                let (mut order, rest): (Vec<&str>, Vec<&str>) = v4.partition(heads);
                order.extend(
                    rest.into_iter()
                        .chain(list.iter().copied().filter(|one| one.contains(':'))),
                );
                assert_eq!(link.order(&host, list), order, "{promote}");
                common::same(&routes, &link.routes(&host));
                assert_eq!(theirs(&host), addresses, "{list:?} {promote}");
                let first = |net: &str| {
                    list.iter()
                        .find(|one| one.starts_with(net))
                        .unwrap()
                        .split('/')
                        .next()
                        .unwrap()
                };
                assert_eq!(link.source(&host, "10.1.0.200"), first("10.1.0."));
                assert_eq!(link.source(&host, "fd00:1::200"), first("fd00:1:"));
                assert_eq!(
                    host.post("/v1/reconcile", json!({})).ok()["repaired"],
                    json!([])
                );
            }
            // A route that prefers an address goes with it; others stay.
            link.change(&host, &["10.1.0.5/24"]);
            link.change(&host, &[]);
            let left = link.routes(&host).concat();
            for to in [
                "10.44.", "10.45.", "10.46.", "10.48.", "fd44:", "fd46:", "fd47:",
            ] {
                assert!(left.contains(to), "{to} of {left}");
            }
            let asked = format!("{exec}cat /proc/sys/net/ipv4/conf/{device}/promote_secondaries");
            assert_eq!(host.run(&["sh", "-c", &asked]).trim(), promote);
        }
    }
}
