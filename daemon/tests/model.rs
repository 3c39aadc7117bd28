//! Model test: random clients, damage and additions by others, crashes, restarts and reboots,
//! checked against an oracle. After each sequence the kernel must show what is recorded, judged by
//! `ip -j` and `/proc/sys` with rules of this file's own, and `sqlite3` must read the same from the
//! database.
//!
//! `NETNSD_SEED` and `NETNSD_SEQUENCES` choose another run and a longer one.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{
    Host,
    random::{Random, number},
    skip::has,
};
use netnsd_api::{Kind, sparse};
use serde_json::{Map, Value, json};

/// Sequences, unless asked otherwise, by root; an ordinary user's runs are others, and fewer.
const SEQUENCES: u64 = 1_200;
const BY_USERS: u64 = 300;
/// Runs beside each other, each on hosts of its own.
const RUNS: u64 = 4;
/// Sequences that follow each other on one host.
const CHAIN: u64 = 100;

/// Kinds that the clients write: the kernel may lack every type of link.
const KINDS: [(&str, Kind); 3] = [
    ("namespaces", Kind::Namespace),
    ("bridges", Kind::Bridge),
    ("veths", Kind::Veth),
];

/// Where a link is: its namespace, none for the host's, and its name.
type Place = (Option<String>, String);

/// Foreign state, which must still be there later.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Added {
    /// An address of a link, whose index tells whether the link is still the same.
    Address(Place, u64, String),
    /// A blackhole route in this very namespace.
    Route(String, Identity, String),
    /// A route through a link, which goes when the link goes down or loses its last IPv4 address.
    LinkRoute(Place, u64, String),
    /// The alias of a link with this index.
    Alias(Place, u64, String),
    /// The alias of `lo` in this very namespace.
    LoopbackAlias(String, Identity, String),
    /// A link in this very namespace.
    Link(Option<String>, Identity, String),
    /// A namespace.
    Namespace(String),
}

/// Which namespace it is: its inode number, which is given again when it is gone, and when it was
/// made.
type Identity = String;

struct World {
    host: Host,
    random: Random,
    added: BTreeSet<Added>,
    /// Operations since the last quiet moment.
    story: Vec<String>,
    /// The MAC address that each link had when it was first seen without one of its own choice.
    macs: BTreeMap<String, Value>,
    /// The tracked sysctls of a namespace that nobody has touched.
    untouched: BTreeMap<String, String>,
}

/// Sysctls that specs set, and that are back at their first value once no spec sets them.
const SYSCTLS: [&str; 5] = [
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv4.conf.all.accept_redirects",
    "net.ipv6.conf.all.forwarding",
    "net.ipv6.conf.default.accept_ra",
];

/// Kernel state of one namespace.
struct Seen {
    identity: Identity,
    links: BTreeMap<String, Value>,
    routes: Vec<Value>,
    /// Keys as sysctl(8) spells them.
    sysctls: BTreeMap<String, String>,
}

/// Each namespace, none: the host's.
type Views = BTreeMap<Option<String>, Seen>;

const LOOK: &str = r#"
look() {
    echo "== $1 $(stat -Lc %i@%.9Z $2)"
    printf 'addr\nroute show table all\n' | ip $3 -d -j -batch -
    echo 'route show table all' | ip $3 -6 -j -batch -
    echo "-- sysctls"
    nsenter --net=$2 sh -c 'cd /proc/sys/net; grep -s . ipv4/ip_forward ipv4/conf/all/rp_filter \
        ipv4/conf/all/accept_redirects ipv6/conf/all/forwarding ipv6/conf/*/accept_ra ipv6/conf/*/mtu'
}
look host /proc/self/ns/net ""
for ns in $(ls /run/netns 2>/dev/null); do look $ns /run/netns/$ns "-n $ns"; done
"#;

impl World {
    fn new(seed: u64) -> Self {
        let host = Host::started();
        host.run(&["ip", "netns", "add", "untouched"]);
        let mut world = Self {
            host,
            random: Random(seed),
            added: BTreeSet::new(),
            story: Vec::new(),
            macs: BTreeMap::new(),
            untouched: BTreeMap::new(),
        };
        let seen = world.look().remove(&Some("untouched".to_owned())).unwrap();
        world.untouched = seen.sysctls;
        world.host.run(&["ip", "netns", "delete", "untouched"]);
        world
    }

    fn recorded(&self) -> Value {
        self.host.get("/v1/topology").ok()
    }

    fn look(&self) -> Views {
        let output = self.host.sh(LOOK);
        let text = String::from_utf8(output.stdout).unwrap();
        let mut seen = BTreeMap::new();
        for section in text.split("== ").skip(1) {
            let (title, body) = section.split_once('\n').unwrap();
            let (name, identity) = title.split_once(' ').unwrap();
            let (body, sysctls) = body.split_once("-- sysctls\n").unwrap();
            let sysctls = sysctls.lines().filter_map(|line| line.split_once(':'));
            let sysctls = sysctls
                .map(|(file, value)| (format!("net.{}", file.replace('/', ".")), value.to_owned()));
            let sysctls = sysctls.collect();
            let mut lists = serde_json::Deserializer::from_str(body)
                .into_iter::<Value>()
                .map(Result::unwrap);
            let links = lists.next().unwrap();
            let links = links
                .as_array()
                .unwrap()
                .iter()
                .filter(|link| link["ifname"].is_string());
            let links = links
                .map(|link| (link["ifname"].as_str().unwrap().to_owned(), link.clone()))
                .collect();
            let routes = lists
                .flat_map(|list| list.as_array().cloned().unwrap_or_default())
                .collect();
            let name = Some(name.to_owned()).filter(|name| name != "host");
            seen.insert(
                name,
                Seen {
                    identity: identity.to_owned(),
                    links,
                    routes,
                    sysctls,
                },
            );
        }
        seen
    }

    /// A name of the pool of a kind.
    fn name(&mut self, kind: &str) -> String {
        let (letter, count) = match kind {
            "namespaces" => ("n", 3),
            "bridges" => ("b", 2),
            _ => ("v", 4),
        };
        format!("{letter}{}", self.random.below(count))
    }

    /// A namespace, mostly one that is there.
    fn place(&mut self, recorded: &Value) -> Value {
        let there: Vec<Value> = recorded["namespaces"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["name"].clone())
            .collect();
        match self.random.below(10) {
            0 => json!("nowhere"),
            1..=5 if !there.is_empty() => self.random.of(&there),
            _ => Value::Null,
        }
    }

    fn spec(&mut self, kind: &str, recorded: &Value) -> Value {
        let random = &mut self.random;
        let mut spec = json!({});
        random.maybe(
            &mut spec,
            4,
            "labels",
            |random| json!({"colour": random.of(&["red", "blue"])}),
        );
        match kind {
            "namespaces" => {
                random.maybe(&mut spec, 6, "loopback", |_| json!(false));
                if random.one_in(3) {
                    spec["sysctls"] = json!({});
                    for key in SYSCTLS {
                        random.maybe(&mut spec["sysctls"], 3, key, |random| {
                            json!(random.below(2))
                        });
                    }
                    random.maybe(&mut spec["sysctls"], 6, "net.ipv6.conf.eth0.mtu", |_| {
                        json!(1290)
                    });
                    random.maybe(
                        &mut spec["sysctls"],
                        6,
                        "net.ipv6.conf.all.disable_ipv6",
                        |_| json!(1),
                    );
                }
                let routes = [
                    json!({"destination": "192.0.2.0/28", "type": "blackhole"}),
                    json!({"destination": "198.51.100.0/24", "interface": "eth0"}),
                    json!({"destination": "default", "via": "10.0.0.9"}),
                    json!({"destination": "10.99.0.0/16", "via": "10.1.0.9", "metric": 7}),
                    json!({"destination": "2001:db8::/64", "interface": "eth1", "metric": 50}),
                    json!({"destination": "203.0.113.0/28", "type": "blackhole", "table": 255}),
                    json!({"destination": "2001:db8:1::/64", "type": "unreachable", "table": 255}),
                ];
                spec["routes"] = routes
                    .iter()
                    .filter(|_| random.one_in(3))
                    .cloned()
                    .collect();
            }
            "bridges" => {
                random.maybe(&mut spec, 3, "mtu", |random| {
                    json!(1300 + 100 * random.below(2))
                });
                random.maybe(&mut spec, 5, "up", |_| json!(false));
                random.maybe(&mut spec, 3, "stp", |_| json!(true));
                random.maybe(&mut spec, 3, "forward_delay_s", |random| {
                    json!(random.of(&[0, 4, 20]))
                });
                random.maybe(&mut spec, 2, "addresses", |random| {
                    json!([format!("10.50.{}.1/24", random.below(2))])
                });
                random.maybe(&mut spec, 5, "interface", |random| {
                    json!(random.of(&["eth0", "eth1", "br"]))
                });
                if self.random.one_in(3) {
                    spec["namespace"] = self.place(recorded);
                }
            }
            _ => spec["endpoints"] = (0..2).map(|end| self.end(end, recorded)).collect(),
        }
        spec
    }

    fn end(&mut self, end: u64, recorded: &Value) -> Value {
        let namespace = self.place(recorded);
        let random = &mut self.random;
        let mut spec = json!({"namespace": namespace});
        random.maybe(&mut spec, 2, "interface", |random| {
            json!(random.of(&["eth0", "eth1", "lan"]))
        });
        random.maybe(&mut spec, 4, "mac", |random| {
            json!(format!("02:00:5e:00:00:{:02x}", end * 16 + random.below(4)))
        });
        random.maybe(&mut spec, 4, "mtu", |random| {
            json!(1300 + 100 * random.below(2))
        });
        random.maybe(&mut spec, 5, "up", |_| json!(false));
        let fitting: Vec<Value> = recorded["bridges"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|bridge| bridge["namespace"] == namespace)
            .map(|bridge| bridge["name"].clone())
            .collect();
        // Ports on one side of a pair only: two would close loops, and their storms take all of the
        // processors.
        if end == 1 && !fitting.is_empty() && random.one_in(2) {
            spec["bridge"] = random.of(&fitting);
            random.maybe(
                &mut spec,
                3,
                "port",
                |random| json!({"hairpin": random.one_in(2)}),
            );
        } else {
            let pool = [
                "10.0.0.1/24",
                "10.0.0.2/24",
                "10.1.0.1/24",
                "fd00::1/64",
                "10.0.0.3/24",
                "fd00::2/64",
            ];
            let mut addresses: Vec<&str> = pool.into_iter().filter(|_| random.one_in(4)).collect();
            for i in (1..addresses.len()).rev() {
                addresses.swap(i, random.below(i as u64 + 1) as usize);
            }
            spec["addresses"] = json!(addresses);
        }
        spec
    }

    /// One step of a client, of others, or of fate.
    fn step(&mut self) {
        let recorded = self.recorded();
        match self.random.below(100) {
            0..=54 => self.write(&recorded),
            55..=64 => self.document(&recorded),
            65..=79 => self.damage(&recorded),
            80..=93 => self.add(&recorded),
            94..=95 => self.crash(&recorded),
            96..=97 => {
                self.story.push("restart".into());
                self.host.restart();
            }
            _ => {
                self.story.push("reboot".into());
                self.added.clear();
                self.host.reboot();
            }
        }
    }

    fn write(&mut self, recorded: &Value) {
        let (kind, _) = self.random.of(&KINDS);
        let name = self.name(kind);
        let path = format!("/v1/{kind}/{name}");
        match self.random.below(6) {
            0 => {
                let cascade = self.random.one_in(2);
                self.send(
                    "DELETE",
                    &format!("{path}?cascade={cascade}"),
                    &Value::Null,
                    recorded,
                );
            }
            1 => {
                let spec = self.spec(kind, recorded);
                self.send("PATCH", &path, &spec, recorded);
            }
            2 if kind == "veths" => {
                let end = self.random.below(2);
                let spec = self.end(end, recorded);
                self.send("PATCH", &format!("{path}/endpoints/{end}"), &spec, recorded);
            }
            _ => {
                let spec = self.spec(kind, recorded);
                self.send("PUT", &path, &spec, recorded);
            }
        }
    }

    /// Some of what is recorded, and some that is new.
    fn document(&mut self, recorded: &Value) {
        let mut document = json!({});
        for (kind, _) in KINDS {
            let mut items: Map<String, Value> = Map::new();
            for item in recorded[kind].as_array().unwrap() {
                if !self.random.one_in(5) {
                    items.insert(item["name"].as_str().unwrap().into(), item.clone());
                }
            }
            for _ in 0..self.random.below(2) {
                let (name, mut spec) = (self.name(kind), self.spec(kind, recorded));
                spec["name"] = json!(name);
                items.insert(name, spec);
            }
            document[kind] = items.into_iter().map(|(_, item)| item).collect();
        }
        let method = self.random.of(&["PUT", "PATCH"]);
        self.send(method, "/v1/topology", &document, recorded);
    }

    /// A write that succeeds is recorded as it was sent, one that is refused changes nothing, and
    /// only `cascade` destroys devices of others.
    fn send(&mut self, method: &str, path: &str, body: &Value, before: &Value) {
        let json = [("content-type", "application/json")];
        let foreign = if path.contains("cascade=true") {
            BTreeSet::new()
        } else {
            self.foreign_links()
        };
        let text = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let answer = self.host.raw(method, path, &json, text.into_bytes());
        self.story
            .push(format!("{method} {path} {body}: {}", answer.status));
        let after = self.recorded();
        match answer.status {
            200..300 => {
                let path = path.split('?').next().unwrap();
                let found = if path == "/v1/topology" {
                    after
                } else {
                    self.host.get(path).json
                };
                match method {
                    "DELETE" => assert_eq!(found["code"], "not_found", "{:#?}", self.story),
                    _ => assert!(includes(&found, body), "{found}\n{:#?}", self.story),
                }
                if !foreign.is_empty() {
                    let destroyed: Vec<_> =
                        foreign.difference(&self.foreign_links()).cloned().collect();
                    assert!(
                        destroyed.is_empty(),
                        "{destroyed:?} went along\n{:#?}",
                        self.story
                    );
                }
            }
            404 | 409 | 422 => assert_eq!(before, &after, "{}\n{:#?}", answer.json, self.story),
            other => panic!("{other}: {}\n{:#?}", answer.json, self.story),
        }
    }

    /// Returns the links that others added and that are there now.
    fn foreign_links(&self) -> BTreeSet<Added> {
        let links: BTreeSet<Added> = self
            .added
            .iter()
            .filter(|added| matches!(added, Added::Link(Some(_), ..)))
            .cloned()
            .collect();
        if links.is_empty() {
            return links;
        }
        let seen = self.look();
        links
            .into_iter()
            .filter(|added| is_there(added, &seen))
            .collect()
    }

    /// Others break something that is netnsd's.
    fn damage(&mut self, recorded: &Value) {
        let links: Vec<(Place, Value)> = links_of(recorded);
        let namespaces: Vec<Value> = recorded["namespaces"].as_array().unwrap().clone();
        let line = if self.random.one_in(6) && !namespaces.is_empty() {
            format!(
                "ip netns delete {}",
                self.random.of(&namespaces)["name"].as_str().unwrap()
            )
        } else if links.is_empty() {
            return;
        } else {
            let ((ns, name), spec) = self.random.of(&links);
            let ip = ns.as_ref().map_or("ip".into(), |ns| format!("ip -n {ns}"));
            let addresses = spec["addresses"].as_array().cloned().unwrap_or_default();
            match self.random.below(10) {
                0 => format!("{ip} link delete {name}"),
                1 => format!("{ip} link set {name} down"),
                // An MTU that nobody asked netnsd for is others' to choose, and a bridge then keeps
                // it.
                2 if spec["name"].is_null() || spec.get("mtu").is_some() => {
                    format!("{ip} link set {name} mtu 1280")
                }
                3 if !addresses.is_empty() => {
                    format!(
                        "{ip} address delete {} dev {name}",
                        self.random.of(&addresses).as_str().unwrap()
                    )
                }
                4 => format!("{ip} link set {name} nomaster"),
                5 => format!("{ip} route flush proto 110"),
                6 => format!("{ip} link set {name} address 0a:00:00:00:00:99"),
                // One that others added by hand would be theirs from then on: both are only taken
                // away.
                7 if addresses.len() > 1 => {
                    let delete = |i: usize| {
                        format!(
                            "{ip} address delete {} dev {name}",
                            addresses[i].as_str().unwrap()
                        )
                    };
                    format!("{}; {}", delete(0), delete(1))
                }
                8 => {
                    let key = "net.ipv4.conf.all.rp_filter";
                    let item = namespaces
                        .iter()
                        .find(|item| Some(item["name"].as_str().unwrap()) == ns.as_deref());
                    if item.is_none_or(|item| item["sysctls"].get(key).is_none()) {
                        return;
                    }
                    format!("ip netns exec {} sysctl -qw {key}=2", ns.unwrap())
                }
                _ => format!("{ip} link set {name} down && {ip} link set {name} name gone"),
            }
        };
        // Dependents may be deleted with it, and the operation may have become impossible.
        self.host.sh(&line);
        self.story.push(line);
        self.lose();
    }

    /// Others add something.
    fn add(&mut self, recorded: &Value) {
        let links = links_of(recorded);
        // Few: each namespace takes its time to look at.
        let number = self.random.below(4);
        let (line, added) = match self.random.below(7) {
            kind @ (0 | 4 | 5) if !links.is_empty() => {
                let ((ns, name), _) = self.random.of(&links);
                let seen = self.look();
                let Some(link) = seen.get(&ns).and_then(|seen| seen.links.get(&name)) else {
                    return;
                };
                let ip = ns.as_ref().map_or("ip".into(), |ns| format!("ip -n {ns}"));
                let index = link["ifindex"].as_u64().unwrap();
                match kind {
                    0 => {
                        let address = format!("192.168.{number}.1/32");
                        (
                            format!("{ip} address add {address} dev {name}"),
                            Added::Address((ns, name), index, address),
                        )
                    }
                    4 => {
                        let alias = format!("customer-{number}");
                        self.added.retain(
                            |added| !matches!(added, Added::Alias(_, other, _) if *other == index),
                        );
                        (
                            format!("{ip} link set {name} alias {alias}"),
                            Added::Alias((ns, name), index, alias),
                        )
                    }
                    _ => {
                        let to = format!("172.31.{number}.0/24");
                        let line = format!("{ip} route add {to} dev {name} proto static metric 77");
                        (line, Added::LinkRoute((ns, name), index, to))
                    }
                }
            }
            1 | 6 => {
                let namespaces: Vec<Value> = recorded["namespaces"].as_array().unwrap().clone();
                if namespaces.is_empty() {
                    return;
                }
                let ns = self.random.of(&namespaces)["name"]
                    .as_str()
                    .unwrap()
                    .to_owned();
                let Some(identity) = self
                    .look()
                    .get(&Some(ns.clone()))
                    .map(|seen| seen.identity.clone())
                else {
                    return;
                };
                if self.random.one_in(3) {
                    let alias = format!("lo-{number}");
                    self.added.retain(
                        |added| !matches!(added, Added::LoopbackAlias(other, ..) if *other == ns),
                    );
                    (
                        format!("ip -n {ns} link set lo alias {alias}"),
                        Added::LoopbackAlias(ns, identity, alias),
                    )
                } else {
                    let to = format!("192.168.{number}.0/24");
                    let line = format!("ip -n {ns} route add blackhole {to} proto static metric 9");
                    (line, Added::Route(ns, identity, to))
                }
            }
            2 => {
                let seen = self.look();
                let all: Vec<Option<String>> = seen.keys().cloned().collect();
                let ns = self.random.of(&all);
                let (name, ip) = (
                    format!("f{number}"),
                    ns.as_ref().map_or("ip".into(), |ns| format!("ip -n {ns}")),
                );
                let identity = seen[&ns].identity.clone();
                (
                    format!("{ip} link add {name} type bridge"),
                    Added::Link(ns, identity, name),
                )
            }
            _ => (
                format!("ip netns add f{number}"),
                Added::Namespace(format!("f{number}")),
            ),
        };
        if self.host.sh(&line).status.success() {
            self.story.push(line);
            self.added.insert(added);
        }
    }

    /// A crash while a write is under way.
    fn crash(&mut self, recorded: &Value) {
        let (kind, _) = self.random.of(&KINDS);
        let (name, mut spec) = (self.name(kind), self.spec(kind, recorded));
        // The values that sysctls had before are recorded after they are written: a crash in
        // between loses them.
        spec.as_object_mut().unwrap().remove("sysctls");
        let _answer = self.host.open(
            "PUT",
            &format!("/v1/{kind}/{name}"),
            &[("content-type", "application/json")],
            &spec.to_string(),
        );
        for _ in 0..self.random.below(2_000) {
            std::hint::spin_loop();
        }
        self.story
            .push(format!("kill -9 during PUT /v1/{kind}/{name} {spec}"));
        self.host.kill9();
        self.host.start();
        self.lose();
    }

    /// Forgets foreign state that depended on broken state: it may be gone.
    fn lose(&mut self) {
        if !self.added.is_empty() {
            let seen = self.look();
            self.added.retain(|added| is_there(added, &seen));
        }
    }

    /// Everything is as it is recorded, and as others left it.
    fn check(&mut self, before: &Views) -> Views {
        let answer = self.host.post("/v1/reconcile", json!({}));
        assert_eq!(answer.status, 200, "{}", answer.json);
        let failed = answer.json["failed"].as_array().unwrap();
        let conflict = |item: &Value| item["state"] == "conflict";
        assert!(
            failed.iter().all(conflict),
            "{}\n{:#?}",
            answer.json,
            self.story
        );
        let recorded = self.recorded();
        let seen = self.look();
        let mut wrong = Vec::new();
        let excused: BTreeSet<String> = failed
            .iter()
            .map(|item| {
                format!(
                    "{}/{}",
                    item["kind"].as_str().unwrap(),
                    item["name"].as_str().unwrap()
                )
            })
            .collect();
        self.oracle(&recorded, &seen, &excused, &mut wrong);
        let survives = |added: &Added| match added {
            // Its link is still the very one, or else it went with the link.
            Added::Address((ns, name), index, _)
            | Added::Alias((ns, name), index, _)
            | Added::LinkRoute((ns, name), index, _) => {
                let same = |seen: &Views| {
                    seen.get(ns)
                        .and_then(|seen| seen.links.get(name))
                        .is_some_and(|link| link["ifindex"] == *index)
                };
                let identity = |seen: &Views| seen.get(ns).map(|seen| seen.identity.clone());
                same(before) && same(&seen) && identity(before) == identity(&seen)
            }
            Added::Route(ns, identity, _) | Added::LoopbackAlias(ns, identity, _) => seen
                .get(&Some(ns.clone()))
                .is_some_and(|seen| seen.identity == *identity),
            Added::Link(ns, identity, _) => {
                seen.get(ns).is_some_and(|seen| seen.identity == *identity)
            }
            Added::Namespace(_) => true,
        };
        for added in self
            .added
            .iter()
            .filter(|added| survives(added) && !is_there(added, &seen))
        {
            wrong.push(format!("others' {added:?} is gone"));
        }
        self.added.retain(|added| is_there(added, &seen));
        self.database(&recorded, &mut wrong);
        assert!(
            wrong.is_empty(),
            "{wrong:#?}\nafter {:#?}\nrecorded {recorded:#}",
            self.story
        );
        self.story.clear();
        seen
    }

    /// Asserts the expected state, by rules that know nothing of how netnsd works.
    fn oracle(
        &mut self,
        recorded: &Value,
        seen: &Views,
        excused: &BTreeSet<String>,
        wrong: &mut Vec<String>,
    ) {
        let items = |kind: &str| recorded[kind].as_array().unwrap().clone();
        let name_of = |item: &Value| item["name"].as_str().unwrap().to_owned();
        let managed: BTreeSet<String> = items("namespaces").iter().map(name_of).collect();
        let foreign = |name: &String| self.added.contains(&Added::Namespace(name.clone()));
        for name in seen.keys().flatten() {
            if !managed.contains(name) && !foreign(name) {
                wrong.push(format!("namespace {name} is left"));
            }
        }
        let device = |bridge: &Value| {
            let found = items("bridges")
                .into_iter()
                .find(|item| item["name"] == *bridge);
            found
                .map(|item| item.get("interface").unwrap_or(&item["name"]).clone())
                .unwrap_or_default()
        };
        let mut expected: BTreeSet<Place> = BTreeSet::new();
        let mut macs = std::mem::take(&mut self.macs);
        for (kind, path, end, (place, spec)) in resources(recorded) {
            expected.insert(place.clone());
            if excused.contains(&path) {
                continue;
            }
            let Some(link) = seen.get(&place.0).and_then(|seen| seen.links.get(&place.1)) else {
                wrong.push(format!("{path}: {place:?} is not there"));
                continue;
            };
            let mut compare = |what: &str, now: Value, wanted: Value| {
                if now != wanted {
                    wrong.push(format!("{path} {place:?}: {what} is {now}, not {wanted}"));
                }
            };
            let flags: Vec<&str> = link["flags"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(Value::as_str)
                .collect();
            compare("kind", link["linkinfo"]["info_kind"].clone(), json!(kind));
            compare(
                "up",
                flags.contains(&"UP").into(),
                spec.get("up").cloned().unwrap_or(json!(true)),
            );
            if let Some(mtu) = spec.get("mtu") {
                compare("mtu", link["mtu"].clone(), mtu.clone());
            }
            match spec.get("mac") {
                Some(mac) => compare("mac", link["address"].clone(), mac.clone()),
                // Recorded once, and the same whenever a resource of this name is made again.
                None => {
                    let first = macs
                        .entry(format!("{path}/{end}"))
                        .or_insert_with(|| link["address"].clone());
                    compare("lasting mac", link["address"].clone(), first.clone());
                }
            }
            if kind == "veth" {
                let master = spec.get("bridge").map(&device).unwrap_or_default();
                compare("master", link["master"].clone(), master);
            } else {
                let stp = u8::from(spec.get("stp") == Some(&json!(true)));
                let data = &link["linkinfo"]["info_data"];
                compare("stp", data["stp_state"].clone(), json!(stp));
                // With STP the times are those of the root.
                if stp == 0 {
                    let delay = spec
                        .get("forward_delay_s")
                        .and_then(Value::as_f64)
                        .unwrap_or(15.0)
                        * 100.0;
                    let now = data["forward_delay"].as_f64().unwrap_or_default();
                    compare(
                        "forward delay",
                        ((now - delay).abs() <= 1.0).into(),
                        json!(true),
                    );
                }
                if spec.get("mtu").is_none() {
                    let ports = seen[&place.0]
                        .links
                        .values()
                        .filter(|port| port["master"] == link["ifname"]);
                    let lowest = ports
                        .map(|port| port["mtu"].as_u64().unwrap())
                        .min()
                        .unwrap_or(1500);
                    compare("mtu by its ports", link["mtu"].clone(), json!(lowest));
                }
            }
            if let Some(hairpin) = spec["port"].get("hairpin") {
                compare(
                    "hairpin",
                    link["linkinfo"]["info_slave_data"]["hairpin"].clone(),
                    hairpin.clone(),
                );
            }
            let order = in_order(link, &spec["addresses"]);
            compare("order of addresses", json!(order.0), json!(order.1));
            let now: BTreeSet<String> = addresses_of(link).into_iter().collect();
            let wanted: BTreeSet<String> = texts(&spec["addresses"]);
            for address in wanted.difference(&now) {
                compare("address", Value::Null, json!(address));
            }
            for address in now
                .difference(&wanted)
                .filter(|address| !address.starts_with("192.168."))
            {
                compare("address", json!(address), Value::Null);
            }
            let tag = owner_tag(link).unwrap_or_default();
            compare(
                "owner tag",
                tag.starts_with(&format!("netnsd:{}", path.replace('/', ":")))
                    .into(),
                json!(true),
            );
        }
        self.macs = macs;
        for (ns, there) in seen {
            for (name, link) in &there.links {
                let ours = owner_tag(link).filter(|_| name != "lo");
                if let Some(tag) = ours.filter(|_| !expected.contains(&(ns.clone(), name.clone())))
                {
                    wrong.push(format!("{name} in {ns:?} is left: {tag}"));
                }
            }
        }
        for item in items("namespaces") {
            let name = name_of(&item);
            if !excused.contains(&format!("namespace/{name}")) {
                inside(&item, seen.get(&Some(name.clone())), wrong);
                if let Some(seen) = seen.get(&Some(name.clone())) {
                    let here = resources(recorded)
                        .into_iter()
                        .map(|(.., (place, _))| place);
                    let links = here
                        .filter(|place| place.0.as_deref() == Some(&name))
                        .map(|place| place.1);
                    self.sysctls(&item, seen, links.collect(), wrong);
                }
            }
        }
    }

    /// Sysctls have the values that are asked for, and what is not asked for any more its first
    /// value; those of `default` are also the interfaces'.
    fn sysctls(&self, item: &Value, seen: &Seen, links: BTreeSet<String>, wrong: &mut Vec<String>) {
        let name = &item["name"];
        let asked = |key: &str| {
            item["sysctls"]
                .get(key)
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        for key in SYSCTLS {
            // Switching `ip_forward` switches `accept_redirects` (`inet_forward_change()`,
            // net/ipv4/devinet.c).
            if asked(key).is_none()
                && key.contains("redirects")
                && asked("net.ipv4.ip_forward").is_some()
            {
                continue;
            }
            let wanted = asked(key).or_else(|| self.untouched.get(key).cloned());
            if seen.sysctls.get(key) != wanted.as_ref() {
                wrong.push(format!(
                    "{key} of {name} is {:?}, not {wanted:?}",
                    seen.sysctls.get(key)
                ));
            }
        }
        let default = "net.ipv6.conf.default.accept_ra";
        let wanted = asked(default).or_else(|| self.untouched.get(default).cloned());
        for link in &links {
            let now = seen.sysctls.get(&format!("net.ipv6.conf.{link}.accept_ra"));
            if now.is_some() && now != wanted.as_ref() {
                wrong.push(format!(
                    "accept_ra of {link} in {name} is {now:?}, not {wanted:?}"
                ));
            }
        }
        if let Some(mtu) = asked("net.ipv6.conf.eth0.mtu").filter(|_| links.contains("eth0")) {
            let now = seen.sysctls.get("net.ipv6.conf.eth0.mtu");
            if now.is_some_and(|now| *now != mtu) {
                wrong.push(format!(
                    "net.ipv6.conf.eth0.mtu of {name} is {now:?}, not {mtu}"
                ));
            }
        }
    }

    /// The database says the same, and nothing is left over in it.
    fn database(&self, recorded: &Value, wrong: &mut Vec<String>) {
        let file = self.host.state_dir().join("netnsd.db");
        let sql = "SELECT kind, name, desired, applied FROM resources ORDER BY name";
        let read = || -> (BTreeMap<String, Vec<Value>>, bool) {
            let output = std::process::Command::new("sqlite3")
                .args(["-json", "-readonly"])
                .arg(&file)
                .arg(sql)
                .output()
                .unwrap();
            let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let mut found: BTreeMap<String, Vec<Value>> = Kind::ALL
                .map(|kind| (kind.plural().to_owned(), Vec::new()))
                .into();
            let mut clean = true;
            for row in rows {
                let kind: Kind = row["kind"].as_str().unwrap().parse().unwrap();
                // A bridge whose MTU was set and is not any more remembers that until the device is
                // made anew.
                let mtu_was_set =
                    kind == Kind::Bridge && row["applied"].as_str().unwrap().contains("\"mtu\":1");
                clean &= row["desired"].is_string() && (row["applied"] == "[]" || mtu_was_set);
                if let Some(desired) = row["desired"].as_str() {
                    found
                        .get_mut(kind.plural())
                        .unwrap()
                        .push(sparse(kind, serde_json::from_str(desired).unwrap()));
                }
            }
            (found, clean)
        };
        // The status is recorded a moment after the operation.
        let excused = self.host.get("/v1/ready").json["states"]["conflict"] != 0;
        self.host
            .until("what is done is noted", || read().1 || excused);
        let found = serde_json::to_value(read().0).unwrap();
        if found != *recorded {
            wrong.push(format!("the database says {found}"));
        }
    }
}

/// Routes and settings of one namespace.
fn inside(item: &Value, seen: Option<&Seen>, wrong: &mut Vec<String>) {
    let name = &item["name"];
    let Some(seen) = seen else {
        return wrong.push(format!("namespace {name} is not there"));
    };
    let up = |link: &Value| {
        link["flags"]
            .as_array()
            .unwrap()
            .iter()
            .any(|flag| flag == "UP")
    };
    if up(&seen.links["lo"]) != item.get("loopback").is_none() {
        wrong.push(format!("lo of {name} is up: {}", up(&seen.links["lo"])));
    }
    let by = |link: &Value, gateway: &str| {
        let of = |address: &String| {
            let net: ipnet::IpNet = address.parse().unwrap();
            let gateway: std::net::IpAddr = gateway.parse().unwrap();
            net.contains(&gateway) && net.addr() != gateway
        };
        up(link) && addresses_of(link).iter().any(of)
    };
    let ipv6_is_off = item["sysctls"]
        .get("net.ipv6.conf.all.disable_ipv6")
        .is_some();
    let ours: Vec<&Value> = seen
        .routes
        .iter()
        .filter(|route| route["protocol"] == "110")
        .collect();
    let mut wanted = BTreeSet::new();
    for route in item["routes"].as_array().into_iter().flatten() {
        let ipv6 = route["destination"].as_str().unwrap().contains(':');
        let possible = match (route["interface"].as_str(), route["via"].as_str()) {
            (Some(_), _) if ipv6 && ipv6_is_off => false,
            (Some(interface), _) => seen.links.get(interface).is_some_and(up),
            (None, Some(via)) => seen.links.values().any(|link| by(link, via)),
            (None, None) => true,
        };
        let is = |there: &&&Value| there["dst"] == route["destination"];
        wanted.insert(route["destination"].as_str().unwrap().to_owned());
        match (possible, ours.iter().find(is)) {
            (true, None) => wrong.push(format!("a route of {name} is not there: {route}")),
            (false, Some(there)) => {
                wrong.push(format!("a route of {name} cannot be there: {there}"))
            }
            _ => {}
        }
    }
    for route in ours
        .iter()
        .filter(|route| !wanted.contains(route["dst"].as_str().unwrap()))
    {
        wrong.push(format!("a route of {name} is left: {route}"));
    }
}

/// Returns every link that is asked for: its kind, its resource, which end it is, where and what it
/// should be.
fn resources(recorded: &Value) -> Vec<(&'static str, String, usize, (Place, Value))> {
    let mut all = Vec::new();
    let ns = |spec: &Value| spec["namespace"].as_str().map(str::to_owned);
    for item in recorded["bridges"].as_array().unwrap() {
        let name = item["name"].as_str().unwrap();
        let device = item["interface"].as_str().unwrap_or(name).to_owned();
        all.push((
            "bridge",
            format!("bridge/{name}"),
            0,
            ((ns(item), device), item.clone()),
        ));
    }
    for item in recorded["veths"].as_array().unwrap() {
        let name = item["name"].as_str().unwrap();
        for (i, end) in item["endpoints"].as_array().unwrap().iter().enumerate() {
            let place = (ns(end), end["interface"].as_str().unwrap().to_owned());
            all.push(("veth", format!("veth/{name}"), i, (place, end.clone())));
        }
    }
    all
}

fn links_of(recorded: &Value) -> Vec<(Place, Value)> {
    resources(recorded)
        .into_iter()
        .map(|(.., link)| link)
        .collect()
}

fn texts(list: &Value) -> BTreeSet<String> {
    list.as_array()
        .into_iter()
        .flatten()
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

/// Returns the ownership tag of netnsd's among a link's alternative names.
fn owner_tag(link: &Value) -> Option<&str> {
    let names = link["altnames"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    names.into_iter().find(|name| name.starts_with("netnsd:"))
}

/// Returns the addresses of a list that a link has, by network: in the link's order, and in the
/// list's.
fn in_order(link: &Value, list: &Value) -> (Vec<Vec<String>>, Vec<Vec<String>>) {
    let now = addresses_of(link);
    let wanted: Vec<String> = list
        .as_array()
        .into_iter()
        .flatten()
        .map(|address| address.as_str().unwrap().to_owned())
        .collect();
    let network = |address: &String| address.parse::<ipnet::IpNet>().unwrap().trunc();
    let networks: BTreeSet<ipnet::IpNet> = wanted.iter().map(network).collect();
    let of = |all: &[String], other: &[String]| -> Vec<Vec<String>> {
        let of_network = |net: &ipnet::IpNet| {
            all.iter()
                .filter(|address| network(address) == *net && other.contains(address))
                .cloned()
                .collect()
        };
        networks.iter().map(of_network).collect()
    };
    (of(&now, &wanted), of(&wanted, &now))
}

/// Returns the addresses of a link in the kernel's order, but for those that the kernel makes.
fn addresses_of(link: &Value) -> Vec<String> {
    let all = link["addr_info"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|info| info["local"].is_string());
    all.filter(|info| info["scope"] == "global")
        .map(|info| format!("{}/{}", info["local"].as_str().unwrap(), info["prefixlen"]))
        .collect()
}

fn is_there(added: &Added, seen: &Views) -> bool {
    match added {
        Added::Address((ns, name), index, address) => seen
            .get(ns)
            .and_then(|seen| seen.links.get(name))
            .is_some_and(|link| link["ifindex"] == *index && addresses_of(link).contains(address)),
        Added::Alias((ns, name), index, alias) => seen
            .get(ns)
            .and_then(|seen| seen.links.get(name))
            .is_some_and(|link| link["ifindex"] == *index && link["ifalias"] == *alias),
        Added::LoopbackAlias(ns, _, alias) => seen
            .get(&Some(ns.clone()))
            .is_some_and(|seen| seen.links["lo"]["ifalias"] == *alias),
        Added::LinkRoute((ns, name), _, to) => {
            let is = |route: &Value| {
                route["dst"] == to.as_str() && route["dev"] == *name && route["metric"] == 77
            };
            seen.get(ns).is_some_and(|seen| seen.routes.iter().any(is))
        }
        Added::Route(ns, _, to) => {
            let is = |route: &Value| route["dst"] == to.as_str() && route["protocol"] == "static";
            seen.get(&Some(ns.clone()))
                .is_some_and(|seen| seen.routes.iter().any(is))
        }
        Added::Link(ns, _, name) => seen
            .get(ns)
            .is_some_and(|seen| seen.links.contains_key(name)),
        Added::Namespace(name) => seen.contains_key(&Some(name.clone())),
    }
}

/// Returns true if `found` has everything that was sent; defaults may be left out.
fn includes(found: &Value, sent: &Value) -> bool {
    match (found, sent) {
        (Value::Object(found), Value::Object(sent)) => sent.iter().all(|(key, sent)| {
            let found = found.get(key).unwrap_or(&Value::Null);
            let default = found.is_null()
                && (sent.is_null()
                    || *sent == json!([])
                    || *sent == json!({})
                    || key == "interface");
            default || includes(found, sent)
        }),
        (Value::Array(found), Value::Array(sent))
            if sent.iter().all(|item| item["name"].is_string()) =>
        {
            sent.iter().all(|sent| {
                let same = found.iter().find(|found| found["name"] == sent["name"]);
                same.is_some_and(|found| includes(found, sent))
            })
        }
        (Value::Array(found), Value::Array(sent)) => {
            found.len() == sent.len()
                && found
                    .iter()
                    .zip(sent)
                    .all(|(found, sent)| includes(found, sent))
        }
        // Numbers and their texts are the same to a sysctl; what is at its default may be left out.
        (Value::String(found), Value::Number(sent)) => *found == sent.to_string(),
        (Value::Null, sent) => [json!(true), json!(false)].contains(sent),
        _ => found == sent,
    }
}

/// Plays so many sequences; of how many steps they were.
fn play(seed: u64, sequences: u64) -> u64 {
    let mut steps = 0;
    let mut world = World::new(seed);
    let mut before = world.look();
    for i in 0..sequences {
        if i % CHAIN == CHAIN - 1 {
            world = World::new(seed + i);
            before = world.look();
        }
        for _ in 0..=world.random.below(4) {
            world.step();
            // Additions to a link that was recreated are gone with it.
            let hangs = |added: &Added| {
                matches!(
                    added,
                    Added::Address(..)
                        | Added::Alias(..)
                        | Added::LinkRoute(..)
                        | Added::LoopbackAlias(..)
                )
            };
            if world.added.iter().any(hangs) {
                let now = world.look();
                let link = |seen: &Views, (ns, name): &Place| {
                    seen.get(ns)
                        .and_then(|seen| seen.links.get(name))
                        .map(|link| link["ifindex"].clone())
                };
                // A route through a link goes with the link's last IPv4 address, and when it is
                // down.
                let carries = |(ns, name): &Place| {
                    let link = now.get(ns).and_then(|seen| seen.links.get(name));
                    link.is_some_and(|link| {
                        let up = link["flags"]
                            .as_array()
                            .unwrap()
                            .iter()
                            .any(|flag| flag == "UP");
                        up && addresses_of(link)
                            .iter()
                            .any(|address| address.contains('.'))
                    })
                };
                world.added.retain(|added| match added {
                    Added::Address(place, ..) | Added::Alias(place, ..) => {
                        link(&before, place).is_none() || link(&before, place) == link(&now, place)
                    }
                    Added::LinkRoute(place, ..) => {
                        let same = link(&before, place).is_none()
                            || link(&before, place) == link(&now, place);
                        same && carries(place)
                    }
                    Added::LoopbackAlias(ns, identity, _) => now
                        .get(&Some(ns.clone()))
                        .is_some_and(|seen| seen.identity == *identity),
                    _ => true,
                });
                before = now;
            }
            steps += 1;
        }
        before = world.check(&before);
    }
    steps
}

#[test]
fn random_operations_leave_kernel_as_recorded() {
    if !["ip", "sqlite3", "stat"].into_iter().all(has) {
        return;
    }
    let user = nix::unistd::getuid();
    let seed = number("NETNSD_SEED").unwrap_or(7_000 + u64::from(user.as_raw()));
    let sequences =
        number("NETNSD_SEQUENCES").unwrap_or(if user.is_root() { SEQUENCES } else { BY_USERS });
    let steps: u64 = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..RUNS)
            .map(|i| scope.spawn(move || play(seed + 10_000 * i, sequences / RUNS)))
            .collect();
        runs.into_iter().map(|run| run.join().unwrap()).sum()
    });
    println!("{sequences} sequences of {steps} steps, seeds {seed} and on");
}
