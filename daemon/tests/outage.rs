//! Outages: after a repair packets come through again at once, because MAC addresses last.

mod common;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use common::Host;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

/// Time between two echo requests.
const EVERY: Duration = Duration::from_millis(10);

/// A reply: its sequence number, and when it came (ping -D), in seconds.
type Reply = (u32, f64);

/// A running ping(8) whose replies are kept.
struct Pinger {
    child: Child,
    replies: Arc<Mutex<Vec<Reply>>>,
    reader: std::thread::JoinHandle<()>,
    what: String,
    /// Packets that the machine had dropped when it began.
    dropped: u64,
}

impl Pinger {
    /// Pings an address from inside a namespace until it is stopped.
    fn start(host: &Host, namespace: &str, address: &str) -> Self {
        let mut child = host
            .sandbox
            .command("ip")
            .unwrap()
            .args([
                "netns", "exec", namespace, "ping", "-n", "-D", "-i", "0.01", address,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let replies = Arc::new(Mutex::new(Vec::new()));
        let (kept, lines) = (
            replies.clone(),
            BufReader::new(child.stdout.take().unwrap()),
        );
        let reader = std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                kept.lock().unwrap().extend(read_reply(&line));
            }
        });
        Self {
            child,
            replies,
            reader,
            what: format!("{address} from {namespace}"),
            dropped: backlog_drops(),
        }
    }

    fn count(&self) -> usize {
        self.replies.lock().unwrap().len()
    }

    /// The longest time without a reply since this many had come, less the time between two.
    fn outage(&self, since: usize) -> Duration {
        let replies = self.replies.lock().unwrap();
        let times = replies[since.saturating_sub(1)..]
            .windows(2)
            .map(|pair| pair[1].1 - pair[0].1);
        let longest = times.fold(0.0, f64::max);
        Duration::from_secs_f64(longest).saturating_sub(EVERY)
    }

    /// Ends it; which requests before the last reply had none.
    fn stop(mut self) -> Vec<u32> {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT).unwrap();
        self.child.wait().unwrap();
        self.reader.join().unwrap();
        let replies = self.replies.lock().unwrap();
        let last = replies.iter().map(|(number, _)| *number).max().unwrap_or(0);
        (1..=last)
            .filter(|number| !replies.iter().any(|(other, _)| other == number))
            .collect()
    }

    /// Ends it; none may be lost, but for some that a busy machine drops before any bridge sees
    /// them.
    #[track_caller]
    fn stop_without_loss(self) {
        let (what, count, before) = (self.what.clone(), self.count(), self.dropped);
        let lost = self.stop();
        let excused = (backlog_drops() - before).min(20);
        assert!(
            lost.len() as u64 <= excused,
            "{what}: {} lost, {count} came back: {lost:?}",
            lost.len()
        );
    }
}

/// Packets that all namespaces together lost, as a processor's queue was full
/// (`net.core.netdev_max_backlog`): the second number of each line (`softnet_seq_show()`,
/// net/core/net-procfs.c).
fn backlog_drops() -> u64 {
    let text = std::fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
    let dropped = text
        .lines()
        .filter_map(|line| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok());
    dropped.sum()
}

/// Reads a line like `[1764375742.25] 64 bytes from fd00::1: icmp_seq=7 ttl=64 time=0.04 ms`.
fn read_reply(line: &str) -> Option<Reply> {
    let (time, rest) = line.strip_prefix('[')?.split_once(']')?;
    let number = rest.split_once("bytes from")?.1.split_once("icmp_seq=")?.1;
    Some((number.split(' ').next()?.parse().ok()?, time.parse().ok()?))
}

/// Waits until each of them has had so many replies more.
#[track_caller]
fn replies<'p>(host: &Host, pingers: impl Iterator<Item = &'p Pinger> + Clone, more: usize) {
    let before: Vec<usize> = pingers.clone().map(Pinger::count).collect();
    host.until("replies come", || {
        pingers
            .clone()
            .zip(&before)
            .all(|(pinger, before)| pinger.count() >= before + more)
    });
}

/// MAC addresses of the links of the host (an empty name) and of these namespaces.
fn macs(host: &Host, namespaces: &[&str]) -> BTreeMap<(String, String), String> {
    let mut all = BTreeMap::new();
    for ns in std::iter::once(&"").chain(namespaces) {
        let args: &[&str] = if ns.is_empty() {
            &["link"]
        } else {
            &["-n", ns, "link"]
        };
        let links = host.ip(args);
        for link in links
            .as_array()
            .unwrap()
            .iter()
            .filter(|link| link["link_type"] == "ether")
        {
            let text = |key: &str| link[key].as_str().unwrap().to_owned();
            all.insert(((*ns).to_owned(), text("ifname")), text("address"));
        }
    }
    all
}

fn bridge_mac(host: &Host) -> String {
    host.ip(&["link", "show", "br0"])[0]["address"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn make_bridge(host: &Host) {
    host.put(
        "/v1/bridges/br0",
        json!({"addresses": ["10.1.0.254/24", "fd00:1::fe/64"]}),
    )
    .ok();
}

/// A namespace with an address of each family, behind a port of br0.
fn make_host(host: &Host, name: &str, number: u32) {
    let routes = json!([{"destination": "default", "via": "10.1.0.254"}]);
    host.put(&format!("/v1/namespaces/{name}"), json!({"routes": routes}))
        .ok();
    make_pair(host, name, number);
}

fn make_pair(host: &Host, name: &str, number: u32) {
    let addresses = json!([
        format!("10.1.0.{number}/24"),
        format!("fd00:1::{number}/64")
    ]);
    let ends = json!([{"namespace": name, "interface": "eth0", "addresses": addresses},
        {"interface": format!("p-{name}"), "bridge": "br0"}]);
    host.put(&format!("/v1/veths/{name}"), json!({"endpoints": ends}))
        .ok();
}

#[test]
fn changing_ports_cost_other_ports_no_packet() {
    let host = Host::started();
    make_bridge(&host);
    let mac = bridge_mac(&host);
    let names: Vec<String> = (0..10).map(|i| format!("n{i}")).collect();
    let start = |i: usize| {
        make_host(&host, &names[i], u32::try_from(i).unwrap() + 1);
        ["10.1.0.254", "fd00:1::fe"].map(|address| Pinger::start(&host, &names[i], address))
    };
    let mut pingers: BTreeMap<usize, [Pinger; 2]> =
        (0..names.len()).map(|i| (i, start(i))).collect();
    replies(&host, pingers.values().flatten(), 5);
    for (i, name) in names.iter().enumerate() {
        pingers
            .remove(&i)
            .into_iter()
            .flatten()
            .for_each(Pinger::stop_without_loss);
        if i % 2 == 0 {
            host.delete(&format!("/v1/namespaces/{name}?cascade=true"))
                .ok();
        } else {
            host.delete(&format!("/v1/veths/{name}")).ok();
        }
        assert_eq!(bridge_mac(&host), mac);
        replies(&host, pingers.values().flatten(), 5);
        pingers.insert(i, start(i));
        replies(&host, pingers.values().flatten(), 5);
        assert_eq!(bridge_mac(&host), mac);
    }
    // The lowest address that a port can have comes, and goes.
    let low = json!({"endpoints": [{"interface": "low0"}, {"interface": "low1", "mac": "02:00:00:00:00:01", "bridge": "br0"}]});
    host.put("/v1/veths/low", low).ok();
    replies(&host, pingers.values().flatten(), 5);
    assert_eq!(bridge_mac(&host), mac);
    host.delete("/v1/veths/low").ok();
    replies(&host, pingers.values().flatten(), 5);
    pingers
        .into_values()
        .flatten()
        .for_each(Pinger::stop_without_loss);
}

#[test]
fn repaired_network_carries_packets_at_once() {
    // A bound for a busy machine. Neighbour caches are warm: a wrong entry would last for 20 s and
    // more.
    const BOUND: Duration = Duration::from_secs(15);
    let mut host = Host::started();
    make_bridge(&host);
    make_host(&host, "net0", 1);
    make_host(&host, "far", 9);
    host.wait_until_settled();
    let whole = macs(&host, &["net0", "far"]);
    let targets = ["10.1.0.1", "fd00:1::1", "10.1.0.254", "fd00:1::fe"];
    let pingers = targets.map(|address| Pinger::start(&host, "far", address));
    replies(&host, pingers.iter(), 20);
    let mut outages: [Vec<(Duration, &str)>; 2] = [Vec::new(), Vec::new()];
    for damage in [
        "ip link del p-net0",
        "ip -n net0 link del eth0",
        "ip link set p-net0 down",
        "ip -n net0 link set eth0 down",
        "ip link set p-net0 nomaster",
        "ip -n net0 addr del 10.1.0.1/24 dev eth0",
        "ip -n net0 addr del fd00:1::1/64 dev eth0",
        "ip -n net0 addr flush dev eth0 scope global",
        "ip addr del 10.1.0.254/24 dev br0",
        "ip addr del fd00:1::fe/64 dev br0",
        "ip -n net0 route flush exact 10.1.0.0/24",
        "ip -n net0 -6 route del fd00:1::/64 dev eth0",
        "ip route del 10.1.0.0/24 dev br0",
        "ip -n net0 route flush table main && ip -n net0 -6 route flush table main",
        "ip link set p-net0 down && ip link set p-net0 name other",
        "ip netns add elsewhere && ip link set p-net0 netns elsewhere",
        "ip -n net0 link set eth0 address 02:00:00:00:00:bd",
        "ip link set br0 address 02:00:00:00:00:bd",
        "ip link set br0 down",
        "ip link del br0",
        "ip netns del net0",
        "umount -l /run/netns/net0",
        "ip netns del net0 && ip link del br0",
    ] {
        let since = pingers.each_ref().map(Pinger::count);
        let output = host.sh(damage);
        assert!(
            output.status.success(),
            "{damage}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let done = Instant::now();
        replies(&host, pingers.iter(), 20);
        let took = done.elapsed();
        let all = [
            "/v1/namespaces/net0",
            "/v1/bridges/br0",
            "/v1/veths/net0",
            "/v1/veths/far",
        ];
        host.until("it says so", || {
            all.iter()
                .all(|path| host.get(path).ok()["status"]["state"] == "in_sync")
        });
        assert_eq!(macs(&host, &["net0", "far"]), whole, "after {damage}");
        for (i, pinger) in pingers.iter().enumerate() {
            let outage = pinger.outage(since[i]);
            assert!(
                outage < BOUND,
                "{damage}: {} for {outage:?} of {took:?}",
                pinger.what
            );
            // Nothing was amiss where no request was without its reply.
            if outage > EVERY / 2 {
                outages[i % 2].push((outage, damage));
            }
        }
        host.sh("ip netns del elsewhere");
        // One who starts afresh does not take the next damage for a fight.
        host.restart();
    }
    for (family, outages) in ["IPv4", "IPv6"].into_iter().zip(&mut outages) {
        outages.sort();
        let at = |percent: usize| outages[(outages.len() - 1) * percent / 100];
        eprintln!(
            "{family}: {} outages: min {:?}, median {:?}, p95 {:?}",
            outages.len(),
            at(0).0,
            at(50).0,
            at(95)
        );
    }
}

/// A neighbour entry that is wrong is put right by who was made again, and not by its expiry.
#[test]
fn recreated_link_announces_its_addresses() {
    let host = Host::started();
    make_bridge(&host);
    make_host(&host, "net0", 1);
    make_host(&host, "far", 9);
    host.wait_until_settled();
    let right = host.ip(&["-n", "net0", "link", "show", "eth0"])[0]["address"].clone();
    for damage in [
        "ip link del p-net0",
        "ip link set p-net0 nomaster",
        "ip -n net0 link set eth0 address 02:00:00:00:00:bd",
    ] {
        for address in ["10.1.0.1", "fd00:1::1"] {
            host.run(&[
                "ip",
                "-n",
                "far",
                "neigh",
                "replace",
                address,
                "lladdr",
                "02:00:00:00:00:bd",
                "dev",
                "eth0",
                "nud",
                "reachable",
            ]);
        }
        assert!(host.sh(damage).status.success());
        for address in ["10.1.0.1", "fd00:1::1"] {
            host.until("the neighbour is right", || {
                host.ip(&["-n", "far", "neigh", "show", address])[0]["lladdr"] == right
            });
        }
    }
}

#[test]
fn unset_mac_is_the_one_before() {
    let mut host = Host::started();
    make_bridge(&host);
    make_host(&host, "net0", 1);
    let whole = macs(&host, &["net0"]);
    let other = json!({"mac": "02:00:00:00:00:aa"});
    host.patch("/v1/veths/net0/endpoints/0", other.clone()).ok();
    host.patch("/v1/bridges/br0", other).ok();
    assert!(
        macs(&host, &["net0"])
            .values()
            .filter(|mac| *mac == "02:00:00:00:00:aa")
            .count()
            == 2
    );
    host.patch("/v1/veths/net0/endpoints/0", json!({"mac": null}))
        .ok();
    let answer = host.patch("/v1/bridges/br0", json!({"mac": null})).ok();
    assert_eq!(macs(&host, &["net0"]), whole);
    // The intent still asks for none.
    assert_eq!(
        (&answer["mac"], answer["status"]["observed"]["mac"].as_str()),
        (&Value::Null, Some(&*bridge_mac(&host)))
    );
    // Another end, another bridge, another name, made again: the same.
    let eth0 = |ns: &str, name: &str| macs(&host, &[ns])[&(ns.to_owned(), name.to_owned())].clone();
    let before = eth0("net0", "eth0");
    host.put("/v1/namespaces/net1", json!({})).ok();
    host.patch(
        "/v1/veths/net0/endpoints/0",
        json!({"namespace": "net1", "interface": "moved"}),
    )
    .ok();
    assert_eq!(eth0("net1", "moved"), before);
    host.delete("/v1/veths/net0").ok();
    make_pair(&host, "net0", 1);
    assert_eq!(macs(&host, &["net0"]), whole);
    host.reboot();
    assert_eq!(macs(&host, &["net0"]), whole);
}

/// Restores the state that a netnsd from before addresses were recorded left: its database, links
/// with addresses of the kernel's choice, and a bridge that has the lowest of its ports.
fn make_old(host: &Host) {
    let database = host.state_dir().join("netnsd.db");
    host.run(&[
        "sqlite3",
        database.to_str().unwrap(),
        "ALTER TABLE resources DROP COLUMN macs; DROP TABLE machine; DROP INDEX audit_done; DROP INDEX audit_failed;
         ALTER TABLE audit DROP COLUMN argv; ALTER TABLE audit DROP COLUMN count; ALTER TABLE tokens DROP COLUMN host;
         DELETE FROM _sqlx_migrations WHERE version >= 5;",
    ]);
    let br0 = &host.ip(&["-d", "link", "show", "br0"])[0];
    let names = br0["altnames"].as_array().cloned().unwrap_or_default();
    let names = names.iter().map(|name| {
        format!(
            "ip link property add dev br0 altname '{}'\n",
            name.as_str().unwrap()
        )
    });
    let alias = br0["ifalias"]
        .as_str()
        .map(|alias| format!("ip link set br0 alias '{alias}'\n"));
    let marks: String = names.chain(alias).collect();
    let script = format!(
        "set -e
        ip link del br0
        ip link add br0 type bridge
        {marks}
        ip addr add 10.1.0.254/24 dev br0
        ip addr add fd00:1::fe/64 dev br0 nodad
        ip link set br0 up
        for i in 0 1 2; do
            ip -n n$i link set eth0 address 0a:00:00:00:01:0$i
            ip link set p-n$i address 0a:00:00:00:00:0$i
            ip link set p-n$i master br0
        done"
    );
    let output = host.sh(&script);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn upgrade_keeps_addresses_and_pins_the_bridge() {
    if !common::skip::has("sqlite3") {
        return;
    }
    let mut host = Host::started();
    make_bridge(&host);
    let names = ["n0", "n1", "n2"];
    (1..)
        .zip(names)
        .for_each(|(number, name)| make_host(&host, name, number));
    for token in [
        json!({"name": "all", "role": "operator", "host": "none"}),
        json!({"name": "lab", "role": "operator", "prefix": "lab-", "host": "any"}),
    ] {
        host.post("/v1/tokens", token).ok();
    }
    assert!(host.terminate().success());
    make_old(&host);
    let old = macs(&host, &names);
    assert_eq!(bridge_mac(&host), "0a:00:00:00:00:00");
    let pingers: Vec<Pinger> = ["10.1.0.254", "fd00:1::fe", "10.1.0.2", "fd00:1::2"]
        .map(|address| Pinger::start(&host, "n2", address))
        .into();
    replies(&host, pingers.iter(), 20);
    host.start();
    let same = |host: &Host| {
        let mut now = macs(host, &names);
        now.retain(|key, _| old.contains_key(key));
        assert_eq!(now, old);
    };
    same(&host);
    // Rights of tokens on the host were not recorded.
    let tokens = host.get("/v1/tokens").ok();
    assert_eq!(
        (&tokens["items"][0]["host"], &tokens["items"][1]["host"]),
        (&json!("any"), &json!("none"))
    );
    // A lower one comes, and the one whose address the bridge had goes.
    let script = "ip link add low address 02:00:00:00:00:01 type veth peer name low1 && ip link set low master br0 && ip link set low up";
    assert!(host.sh(script).status.success());
    host.delete("/v1/namespaces/n0?cascade=true").ok();
    replies(&host, pingers.iter(), 20);
    assert_eq!(bridge_mac(&host), old[&(String::new(), "br0".into())]);
    pingers.into_iter().for_each(Pinger::stop_without_loss);
    // They are recorded: the next start has nothing to do, and a reboot has the same.
    make_host(&host, "n0", 1);
    let whole = macs(&host, &names);
    host.restart();
    assert_eq!(macs(&host, &names), whole);
    assert!(host.log().contains("operations=0"), "{}", host.log());
    host.reboot();
    let mut whole = whole;
    whole.retain(|(_, name), _| !name.starts_with("low"));
    assert_eq!(macs(&host, &names), whole);
}

#[test]
fn adopted_bridge_keeps_its_address() {
    let mut host = Host::started();
    let script = "
        set -e
        ip link add br0 type bridge
        ip addr add 10.1.0.254/24 dev br0
        ip link set br0 up
        ip netns add n0
        ip link add p0 address 0a:00:00:00:00:01 type veth peer name eth0 netns n0
        ip link set p0 master br0
        ip link set p0 up
        ip -n n0 addr add 10.1.0.1/24 dev eth0
        ip -n n0 link set eth0 up";
    assert!(host.sh(script).status.success());
    let whole = macs(&host, &["n0"]);
    let pinger = Pinger::start(&host, "n0", "10.1.0.254");
    replies(&host, [&pinger].into_iter(), 20);
    let ends = json!([{"namespace": "n0", "interface": "eth0", "addresses": ["10.1.0.1/24"]},
        {"interface": "p0", "bridge": "br0"}]);
    // One that is refused leaves it as it was: nothing of it is netnsd's.
    host.put(
        "/v1/bridges/br0?adopt=true",
        json!({"addresses": ["10.1.0.254/24"], "max_age_s": 0.01}),
    );
    for (path, body) in [
        ("/v1/bridges/br0", json!({"addresses": ["10.1.0.254/24"]})),
        ("/v1/namespaces/n0", json!({})),
        ("/v1/veths/v0", json!({"endpoints": ends})),
    ] {
        host.put(&format!("{path}?adopt=true"), body).ok();
    }
    assert_eq!(macs(&host, &["n0"]), whole);
    let low = json!({"endpoints": [{"interface": "low0"}, {"interface": "low1", "mac": "02:00:00:00:00:01", "bridge": "br0"}]});
    host.put("/v1/veths/low", low).ok();
    replies(&host, [&pinger].into_iter(), 20);
    pinger.stop_without_loss();
    host.delete("/v1/veths/low").ok();
    host.delete("/v1/veths/v0").ok();
    host.put(
        "/v1/veths/v0",
        json!({"endpoints": [{"namespace": "n0", "interface": "eth0"}, {"interface": "p0"}]}),
    )
    .ok();
    assert_eq!(bridge_mac(&host), whole[&(String::new(), "br0".into())]);
    host.reboot();
    assert_eq!(bridge_mac(&host), whole[&(String::new(), "br0".into())]);
}
