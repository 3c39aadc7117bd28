//! Random clients against an oracle: creates, changes, deletes, cascades, documents, damage and additions by others, crashes,
//! restarts, reboots. Whenever it is quiet, the kernel must show what is recorded, by rules of this file's own, and the
//! database holds the same to `sqlite3`.
//!
//! `NETNSD_SEED` and `NETNSD_SEQUENCES` make it another and a longer run.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{
    Host, has,
    random::{Random, number},
};
use netnsd_api::{Kind, sparse};
use serde_json::{Map, Value, json};

/// Sequences, unless asked otherwise, by root; an ordinary user's runs are others, and fewer.
const SEQUENCES: u64 = 2_000;
const BY_USERS: u64 = 400;
/// Runs beside each other, each on hosts of its own.
const RUNS: u64 = 4;
/// Sequences that follow each other on one host.
const CHAIN: u64 = 100;

const KINDS: [(&str, Kind); 3] = [("namespaces", Kind::Namespace), ("bridges", Kind::Bridge), ("veths", Kind::Veth)];

/// Where a link is: its namespace, none for the host's, and its name.
type Place = (Option<String>, String);

/// What others added, and may expect to find again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Added {
    /// An address of a link, whose index tells whether the link is still the same.
    Address(Place, u64, String),
    /// A route that leads nowhere, in this very namespace.
    Route(String, Identity, String),
    /// A link in this very namespace.
    Link(Option<String>, Identity, String),
    /// A namespace.
    Namespace(String),
}

/// Which namespace it is: its inode number, which is given again when it is gone, and when it was made.
type Identity = String;

struct World {
    host: Host,
    random: Random,
    added: BTreeSet<Added>,
    /// What was done since the last quiet moment.
    story: Vec<String>,
}

/// What the kernel says of one namespace.
struct Seen {
    identity: Identity,
    links: BTreeMap<String, Value>,
    routes: Vec<Value>,
}

/// Each namespace, none: the host's.
type Views = BTreeMap<Option<String>, Seen>;

const LOOK: &str = r#"
look() {
    echo "== $1 $(stat -Lc %i@%.9Z $2)"
    printf 'addr\nroute show table all\n' | ip $3 -d -j -batch -
    echo 'route show table all' | ip $3 -6 -j -batch -
}
look host /proc/self/ns/net ""
for ns in $(ls /run/netns 2>/dev/null); do look $ns /run/netns/$ns "-n $ns"; done
"#;

impl World {
    fn new(seed: u64) -> Self {
        Self { host: Host::started(), random: Random(seed), added: BTreeSet::new(), story: Vec::new() }
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
            let mut lists = serde_json::Deserializer::from_str(body).into_iter::<Value>().map(Result::unwrap);
            let links = lists.next().unwrap();
            let links = links.as_array().unwrap().iter().filter(|link| link["ifname"].is_string());
            let links = links.map(|link| (link["ifname"].as_str().unwrap().to_owned(), link.clone())).collect();
            let routes = lists.flat_map(|list| list.as_array().cloned().unwrap_or_default()).collect();
            let name = Some(name.to_owned()).filter(|name| name != "host");
            seen.insert(name, Seen { identity: identity.to_owned(), links, routes });
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
        let there: Vec<Value> =
            recorded["namespaces"].as_array().unwrap().iter().map(|item| item["name"].clone()).collect();
        match self.random.below(10) {
            0 => json!("nowhere"),
            1..=5 if !there.is_empty() => self.random.of(&there),
            _ => Value::Null,
        }
    }

    fn spec(&mut self, kind: &str, recorded: &Value) -> Value {
        let random = &mut self.random;
        let mut spec = json!({});
        random.maybe(&mut spec, 4, "labels", |random| json!({"colour": random.of(&["red", "blue"])}));
        match kind {
            "namespaces" => {
                random.maybe(&mut spec, 6, "loopback", |_| json!(false));
                random.maybe(&mut spec, 3, "sysctls", |random| json!({"net.ipv4.ip_forward": random.below(2)}));
                let routes = [
                    json!({"destination": "192.0.2.0/28", "type": "blackhole"}),
                    json!({"destination": "198.51.100.0/24", "interface": "eth0"}),
                    json!({"destination": "default", "via": "10.0.0.9"}),
                    json!({"destination": "10.99.0.0/16", "via": "10.1.0.9", "metric": 7}),
                    json!({"destination": "2001:db8::/64", "interface": "eth1", "metric": 50}),
                ];
                spec["routes"] = routes.iter().filter(|_| random.one_in(3)).cloned().collect();
            }
            "bridges" => {
                random.maybe(&mut spec, 3, "mtu", |random| json!(1300 + 100 * random.below(2)));
                random.maybe(&mut spec, 5, "up", |_| json!(false));
                random.maybe(&mut spec, 3, "stp", |_| json!(true));
                random.maybe(&mut spec, 2, "addresses", |random| json!([format!("10.50.{}.1/24", random.below(2))]));
                random.maybe(&mut spec, 5, "interface", |random| json!(random.of(&["eth0", "eth1", "br"])));
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
        random.maybe(&mut spec, 2, "interface", |random| json!(random.of(&["eth0", "eth1", "lan"])));
        random.maybe(&mut spec, 4, "mac", |random| json!(format!("02:00:5e:00:00:{:02x}", end * 16 + random.below(4))));
        random.maybe(&mut spec, 4, "mtu", |random| json!(1300 + 100 * random.below(2)));
        random.maybe(&mut spec, 5, "up", |_| json!(false));
        let fitting: Vec<Value> = recorded["bridges"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|bridge| bridge["namespace"] == namespace)
            .map(|bridge| bridge["name"].clone())
            .collect();
        if !fitting.is_empty() && random.one_in(2) {
            spec["bridge"] = random.of(&fitting);
            random.maybe(&mut spec, 3, "port", |random| json!({"hairpin": random.one_in(2)}));
        } else {
            let pool = ["10.0.0.1/24", "10.0.0.2/24", "10.1.0.1/24", "fd00::1/64", "10.0.0.3/24"];
            spec["addresses"] = pool.iter().filter(|_| random.one_in(4)).map(|address| json!(address)).collect();
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
                self.send("DELETE", &format!("{path}?cascade={cascade}"), &Value::Null, recorded);
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

    /// A write that succeeds is recorded as it was sent, one that is refused changes nothing.
    fn send(&mut self, method: &str, path: &str, body: &Value, before: &Value) {
        let json = [("content-type", "application/json")];
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.host.raw(method, path, &json, text.into_bytes());
        self.story.push(format!("{method} {path} {body}: {}", answer.status));
        let after = self.recorded();
        match answer.status {
            200..300 => {
                let path = path.split('?').next().unwrap();
                let found = if path == "/v1/topology" { after } else { self.host.get(path).json };
                match method {
                    "DELETE" => assert_eq!(found["code"], "not_found", "{:#?}", self.story),
                    _ => assert!(includes(&found, body), "{found}\n{:#?}", self.story),
                }
            }
            404 | 409 | 422 => assert_eq!(before, &after, "{}\n{:#?}", answer.json, self.story),
            other => panic!("{other}: {}\n{:#?}", answer.json, self.story),
        }
    }

    /// Others break something that is netnsd's.
    fn damage(&mut self, recorded: &Value) {
        let links: Vec<(Place, Value)> = links_of(recorded);
        let namespaces: Vec<Value> = recorded["namespaces"].as_array().unwrap().clone();
        let line = if self.random.one_in(6) && !namespaces.is_empty() {
            format!("ip netns delete {}", self.random.of(&namespaces)["name"].as_str().unwrap())
        } else if links.is_empty() {
            return;
        } else {
            let ((ns, name), spec) = self.random.of(&links);
            let ip = ns.as_ref().map_or("ip".into(), |ns| format!("ip -n {ns}"));
            let addresses = spec["addresses"].as_array().cloned().unwrap_or_default();
            match self.random.below(7) {
                0 => format!("{ip} link delete {name}"),
                1 => format!("{ip} link set {name} down"),
                2 => format!("{ip} link set {name} mtu 1280"),
                3 if !addresses.is_empty() => {
                    format!("{ip} address delete {} dev {name}", self.random.of(&addresses).as_str().unwrap())
                }
                4 => format!("{ip} link set {name} nomaster"),
                5 => format!("{ip} route flush proto 110"),
                _ => format!("{ip} link set {name} down && {ip} link set {name} name gone"),
            }
        };
        // What hung on it may go along, and what it does may not be possible by now.
        self.host.sh(&line);
        self.story.push(line);
        self.lose();
    }

    /// Others add something.
    fn add(&mut self, recorded: &Value) {
        let links = links_of(recorded);
        // Few: each namespace takes its time to look at.
        let number = self.random.below(4);
        let (line, added) = match self.random.below(4) {
            0 if !links.is_empty() => {
                let ((ns, name), _) = self.random.of(&links);
                let seen = self.look();
                let Some(link) = seen.get(&ns).and_then(|seen| seen.links.get(&name)) else { return };
                let ip = ns.as_ref().map_or("ip".into(), |ns| format!("ip -n {ns}"));
                let address = format!("192.168.{number}.1/32");
                let index = link["ifindex"].as_u64().unwrap();
                (format!("{ip} address add {address} dev {name}"), Added::Address((ns, name), index, address))
            }
            1 => {
                let namespaces: Vec<Value> = recorded["namespaces"].as_array().unwrap().clone();
                if namespaces.is_empty() {
                    return;
                }
                let ns = self.random.of(&namespaces)["name"].as_str().unwrap().to_owned();
                let Some(identity) = self.look().get(&Some(ns.clone())).map(|seen| seen.identity.clone()) else {
                    return;
                };
                let to = format!("192.168.{number}.0/24");
                (format!("ip -n {ns} route add blackhole {to} proto static metric 9"), Added::Route(ns, identity, to))
            }
            2 => {
                let seen = self.look();
                let all: Vec<Option<String>> = seen.keys().cloned().collect();
                let ns = self.random.of(&all);
                let (name, ip) = (format!("f{number}"), ns.as_ref().map_or("ip".into(), |ns| format!("ip -n {ns}")));
                let identity = seen[&ns].identity.clone();
                (format!("{ip} link add {name} type bridge"), Added::Link(ns, identity, name))
            }
            _ => (format!("ip netns add f{number}"), Added::Namespace(format!("f{number}"))),
        };
        if self.host.sh(&line).status.success() {
            self.story.push(line);
            self.added.insert(added);
        }
    }

    /// A crash while a write is under way.
    fn crash(&mut self, recorded: &Value) {
        let (kind, _) = self.random.of(&KINDS);
        let (name, spec) = (self.name(kind), self.spec(kind, recorded));
        let _answer = self.host.open(
            "PUT",
            &format!("/v1/{kind}/{name}"),
            &[("content-type", "application/json")],
            &spec.to_string(),
        );
        for _ in 0..self.random.below(2_000) {
            std::hint::spin_loop();
        }
        self.story.push(format!("kill -9 during PUT /v1/{kind}/{name} {spec}"));
        self.host.kill9();
        self.host.start();
        self.lose();
    }

    /// What others added need not be there any more where what it hung on was broken.
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
        assert!(failed.iter().all(conflict), "{}\n{:#?}", answer.json, self.story);
        let recorded = self.recorded();
        let seen = self.look();
        let mut wrong = Vec::new();
        let excused: BTreeSet<String> = failed
            .iter()
            .map(|item| format!("{}/{}", item["kind"].as_str().unwrap(), item["name"].as_str().unwrap()))
            .collect();
        self.oracle(&recorded, &seen, &excused, &mut wrong);
        let survives = |added: &Added| match added {
            // Its link is still the very one, or else it went with the link.
            Added::Address((ns, name), index, _) => {
                let same = |seen: &Views| {
                    seen.get(ns).and_then(|seen| seen.links.get(name)).is_some_and(|link| link["ifindex"] == *index)
                };
                let identity = |seen: &Views| seen.get(ns).map(|seen| seen.identity.clone());
                same(before) && same(&seen) && identity(before) == identity(&seen)
            }
            Added::Route(ns, identity, _) => seen.get(&Some(ns.clone())).is_some_and(|seen| seen.identity == *identity),
            Added::Link(ns, identity, _) => seen.get(ns).is_some_and(|seen| seen.identity == *identity),
            Added::Namespace(_) => true,
        };
        for added in self.added.iter().filter(|added| survives(added) && !is_there(added, &seen)) {
            wrong.push(format!("others' {added:?} is gone"));
        }
        self.added.retain(|added| is_there(added, &seen));
        self.database(&recorded, &mut wrong);
        assert!(wrong.is_empty(), "{wrong:#?}\nafter {:#?}\nrecorded {recorded:#}", self.story);
        self.story.clear();
        seen
    }

    /// What must be there, by rules that know nothing of how netnsd works.
    fn oracle(&self, recorded: &Value, seen: &Views, excused: &BTreeSet<String>, wrong: &mut Vec<String>) {
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
            let found = items("bridges").into_iter().find(|item| item["name"] == *bridge);
            found.map(|item| item.get("interface").unwrap_or(&item["name"]).clone()).unwrap_or_default()
        };
        let mut expected: BTreeSet<Place> = BTreeSet::new();
        for (kind, path, (place, spec)) in resources(recorded) {
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
            let flags: Vec<&str> = link["flags"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            compare("kind", link["linkinfo"]["info_kind"].clone(), json!(kind));
            compare("up", flags.contains(&"UP").into(), spec.get("up").cloned().unwrap_or(json!(true)));
            if let Some(mtu) = spec.get("mtu") {
                compare("mtu", link["mtu"].clone(), mtu.clone());
            }
            if let Some(mac) = spec.get("mac") {
                compare("mac", link["address"].clone(), mac.clone());
            }
            if kind == "veth" {
                let master = spec.get("bridge").map(&device).unwrap_or_default();
                compare("master", link["master"].clone(), master);
            } else {
                let stp = u8::from(spec.get("stp") == Some(&json!(true)));
                compare("stp", link["linkinfo"]["info_data"]["stp_state"].clone(), json!(stp));
            }
            if let Some(hairpin) = spec["port"].get("hairpin") {
                compare("hairpin", link["linkinfo"]["info_slave_data"]["hairpin"].clone(), hairpin.clone());
            }
            let now: BTreeSet<String> = addresses_of(link);
            let wanted: BTreeSet<String> = texts(&spec["addresses"]);
            for address in wanted.difference(&now) {
                compare("address", Value::Null, json!(address));
            }
            for address in now.difference(&wanted).filter(|address| !address.starts_with("192.168.")) {
                compare("address", json!(address), Value::Null);
            }
            let tag = link["altnames"][0].as_str().unwrap_or_default();
            let wanted = format!("netnsd:{}", path.replace('/', ":"));
            compare("owner tag", tag.starts_with(&wanted).into(), json!(true));
        }
        for (ns, there) in seen {
            for (name, link) in &there.links {
                let ours = link["altnames"][0].as_str().is_some_and(|tag| tag.starts_with("netnsd:")) && name != "lo";
                if ours && !expected.contains(&(ns.clone(), name.clone())) {
                    wrong.push(format!("{name} in {ns:?} is left: {}", link["altnames"]));
                }
            }
        }
        for item in items("namespaces") {
            let name = name_of(&item);
            if !excused.contains(&format!("namespace/{name}")) {
                inside(&item, seen.get(&Some(name)), wrong);
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
            let mut found: BTreeMap<String, Vec<Value>> = KINDS.map(|(kind, _)| (kind.to_owned(), Vec::new())).into();
            let mut clean = true;
            for row in rows {
                let kind: Kind = row["kind"].as_str().unwrap().parse().unwrap();
                clean &= row["desired"].is_string() && row["applied"] == "[]";
                if let Some(desired) = row["desired"].as_str() {
                    found.get_mut(kind.plural()).unwrap().push(sparse(kind, serde_json::from_str(desired).unwrap()));
                }
            }
            (found, clean)
        };
        // What is done is noted a moment later.
        let excused = self.host.get("/v1/ready").json["states"]["conflict"] != 0;
        self.host.until("what is done is noted", || read().1 || excused);
        let found = serde_json::to_value(read().0).unwrap();
        if found != *recorded {
            wrong.push(format!("the database says {found}"));
        }
    }
}

/// Routes and settings of one namespace.
fn inside(item: &Value, seen: Option<&Seen>, wrong: &mut Vec<String>) {
    let name = &item["name"];
    let Some(seen) = seen else { return wrong.push(format!("namespace {name} is not there")) };
    let up = |link: &Value| link["flags"].as_array().unwrap().iter().any(|flag| flag == "UP");
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
    let ours: Vec<&Value> = seen.routes.iter().filter(|route| route["protocol"] == "110").collect();
    let mut wanted = BTreeSet::new();
    for route in item["routes"].as_array().into_iter().flatten() {
        let possible = match (route["interface"].as_str(), route["via"].as_str()) {
            (Some(interface), _) => seen.links.get(interface).is_some_and(up),
            (None, Some(via)) => seen.links.values().any(|link| by(link, via)),
            (None, None) => true,
        };
        let is = |there: &&&Value| there["dst"] == route["destination"];
        wanted.insert(route["destination"].as_str().unwrap().to_owned());
        match (possible, ours.iter().find(is)) {
            (true, None) => wrong.push(format!("a route of {name} is not there: {route}")),
            (false, Some(there)) => wrong.push(format!("a route of {name} cannot be there: {there}")),
            _ => {}
        }
    }
    for route in ours.iter().filter(|route| !wanted.contains(route["dst"].as_str().unwrap())) {
        wrong.push(format!("a route of {name} is left: {route}"));
    }
}

/// Every link that is asked for: the kind, the path of its mark, and what it should be.
fn resources(recorded: &Value) -> Vec<(&'static str, String, (Place, Value))> {
    let mut all = Vec::new();
    let ns = |spec: &Value| spec["namespace"].as_str().map(str::to_owned);
    for item in recorded["bridges"].as_array().unwrap() {
        let name = item["name"].as_str().unwrap();
        let device = item["interface"].as_str().unwrap_or(name).to_owned();
        all.push(("bridge", format!("bridge/{name}"), ((ns(item), device), item.clone())));
    }
    for item in recorded["veths"].as_array().unwrap() {
        let name = item["name"].as_str().unwrap();
        for end in item["endpoints"].as_array().unwrap() {
            let place = (ns(end), end["interface"].as_str().unwrap().to_owned());
            all.push(("veth", format!("veth/{name}"), (place, end.clone())));
        }
    }
    all
}

fn links_of(recorded: &Value) -> Vec<(Place, Value)> {
    resources(recorded).into_iter().map(|(_, _, link)| link).collect()
}

fn texts(list: &Value) -> BTreeSet<String> {
    list.as_array().into_iter().flatten().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// Addresses of a link but for those that the kernel makes.
fn addresses_of(link: &Value) -> BTreeSet<String> {
    let all = link["addr_info"].as_array().into_iter().flatten().filter(|info| info["local"].is_string());
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
        Added::Route(ns, _, to) => {
            let is = |route: &Value| route["dst"] == to.as_str() && route["protocol"] == "static";
            seen.get(&Some(ns.clone())).is_some_and(|seen| seen.routes.iter().any(is))
        }
        Added::Link(ns, _, name) => seen.get(ns).is_some_and(|seen| seen.links.contains_key(name)),
        Added::Namespace(name) => seen.contains_key(&Some(name.clone())),
    }
}

/// Whether what was found has all that was sent; what is at its default may be left out.
fn includes(found: &Value, sent: &Value) -> bool {
    match (found, sent) {
        (Value::Object(found), Value::Object(sent)) => sent.iter().all(|(key, sent)| {
            let found = found.get(key).unwrap_or(&Value::Null);
            let default =
                found.is_null() && (sent.is_null() || *sent == json!([]) || *sent == json!({}) || key == "interface");
            default || includes(found, sent)
        }),
        (Value::Array(found), Value::Array(sent)) if sent.iter().all(|item| item["name"].is_string()) => {
            sent.iter().all(|sent| {
                let same = found.iter().find(|found| found["name"] == sent["name"]);
                same.is_some_and(|found| includes(found, sent))
            })
        }
        (Value::Array(found), Value::Array(sent)) => {
            found.len() == sent.len() && found.iter().zip(sent).all(|(found, sent)| includes(found, sent))
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
            // What was added to a link that was made anew is gone with it.
            if world.added.iter().any(|added| matches!(added, Added::Address(..))) {
                let now = world.look();
                let link = |seen: &Views, (ns, name): &Place| {
                    seen.get(ns).and_then(|seen| seen.links.get(name)).map(|link| link["ifindex"].clone())
                };
                world.added.retain(|added| match added {
                    Added::Address(place, ..) => {
                        link(&before, place).is_none() || link(&before, place) == link(&now, place)
                    }
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
fn the_kernel_shows_what_is_recorded_whatever_happens() {
    if !["ip", "sqlite3", "stat"].into_iter().all(has) {
        return;
    }
    let user = nix::unistd::getuid();
    let seed = number("NETNSD_SEED").unwrap_or(7_000 + u64::from(user.as_raw()));
    let sequences = number("NETNSD_SEQUENCES").unwrap_or(if user.is_root() { SEQUENCES } else { BY_USERS });
    let steps: u64 = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..RUNS).map(|i| scope.spawn(move || play(seed + 10_000 * i, sequences / RUNS))).collect();
        runs.into_iter().map(|run| run.join().unwrap()).sum()
    });
    println!("{sequences} sequences of {steps} steps, seeds {seed} and on");
}
