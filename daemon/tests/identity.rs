//! Ownership and identity: owner tags, foreign aliases, names in `/run/netns`.

mod common;

use common::Host;
use serde_json::{Value, json};

/// A namespace with a pair to a bridge of the host.
fn lab(host: &Host) {
    host.put("/v1/namespaces/net0", json!({})).ok();
    host.put("/v1/bridges/br0", json!({"addresses": ["10.1.0.254/24"]}))
        .ok();
    let ends = json!([{"namespace": "net0", "interface": "eth0", "addresses": ["10.1.0.1/24"]},
        {"interface": "port0", "bridge": "br0"}]);
    host.put("/v1/veths/lan0", json!({"endpoints": ends})).ok();
    host.wait_until_settled();
}

/// Where the lab has links, as arguments of `ip`.
const LINKS: [&str; 4] = [
    "ip -n net0 link show dev lo",
    "ip -n net0 link show dev eth0",
    "ip link show dev port0",
    "ip link show dev br0",
];

fn link(host: &Host, which: &str) -> Value {
    host.ip(&which.split(' ').skip(1).collect::<Vec<_>>())[0].clone()
}

/// Indices, owner tags and aliases.
fn identities(host: &Host) -> Vec<Value> {
    LINKS
        .iter()
        .map(|which| link(host, which))
        .map(|link| json!([link["ifindex"], link["altnames"], link["ifalias"]]))
        .collect()
}

/// Does the same to each link of the lab: what follows `ip`, with the word `LINK` for the link.
fn to_each(host: &Host, command: &str) {
    for which in LINKS {
        let (prefix, device) = which.split_once(" link show dev ").unwrap();
        let line = command.replace("IP", prefix).replace("LINK", device);
        let output = host.sh(&line);
        assert!(
            output.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

fn events(host: &Host) -> usize {
    host.raw(
        "GET",
        "/v1/events",
        &[("accept", "application/json")],
        Vec::new(),
    )
    .ok()["items"]
        .as_array()
        .unwrap()
        .len()
}

fn all_in_sync(host: &Host) -> bool {
    let all = ["/v1/namespaces/net0", "/v1/bridges/br0", "/v1/veths/lan0"]
        .map(|path| host.get(path).ok());
    all.iter().all(|one| one["status"]["state"] == "in_sync")
}

#[test]
fn foreign_alias_changes_nothing() {
    let mut host = Host::started();
    lab(&host);
    let before = events(&host);
    to_each(&host, "IP link set dev LINK alias 'customer 7'");
    let with_aliases = identities(&host);
    assert!(
        with_aliases.iter().all(|link| link[2] == "customer 7"),
        "{with_aliases:?}"
    );
    assert_eq!(
        host.post("/v1/reconcile", json!({})).ok(),
        json!({"repaired": [], "failed": []})
    );
    assert_eq!(events(&host), before, "nothing happened that is told");
    // They outlive our own writes, repairs and a restart.
    host.patch("/v1/bridges/br0", json!({"ageing_time_s": 77, "mtu": 1400}))
        .ok();
    host.patch(
        "/v1/veths/lan0/endpoints/0",
        json!({"addresses": ["10.1.0.2/24"]}),
    )
    .ok();
    host.patch(
        "/v1/namespaces/net0",
        json!({"sysctls": {"net.ipv4.ip_forward": 1}}),
    )
    .ok();
    host.run(&["ip", "link", "set", "port0", "nomaster"]);
    host.until("it is repaired", || {
        link(&host, LINKS[2])["master"] == "br0"
    });
    host.run(&["ip", "link", "set", "br0", "down"]);
    host.run(&["ip", "link", "set", "br0", "name", "other"]);
    host.until("it has its name again", || {
        host.sh("ip link show br0 up | grep -q br0")
            .status
            .success()
    });
    host.restart();
    assert!(all_in_sync(&host));
    assert_eq!(identities(&host), with_aliases);
}

#[test]
fn legacy_tags_are_replaced_under_traffic() {
    let mut host = Host::started();
    lab(&host);
    let before = identities(&host);
    let pings = host.spawn_ping("net0", "10.1.0.254", 5);
    host.until("pings come back", || pings.received() > 20);
    assert!(host.terminate().success());
    // As netnsd 0.1 left them.
    to_each(
        &host,
        "tag=$(IP -j link show dev LINK | grep -o 'netnsd:[^\"]*'); IP link property del dev LINK altname $tag; \
         legacy=$(echo $tag | sed 's,:,/,2; s,^\\(netnsd:veth/[^:]*\\):,\\1/,'); IP link set dev LINK alias $legacy",
    );
    let legacy: Vec<Value> = identities(&host)
        .iter()
        .map(|link| link[2].clone())
        .collect();
    let is_legacy = |alias: &Value| {
        alias
            .as_str()
            .is_some_and(|alias| alias.starts_with("netnsd:") && alias.contains('/'))
    };
    assert!(legacy.iter().all(is_legacy), "{legacy:?}");
    // Somebody's own text is no tag.
    host.run(&["ip", "link", "set", "lo", "alias", "netnsd: what is it"]);
    host.start();
    assert!(all_in_sync(&host));
    assert_eq!(identities(&host), before);
    assert_eq!(
        host.ip(&["link", "show", "lo"])[0]["ifalias"],
        "netnsd: what is it"
    );
    assert_eq!(
        host.post("/v1/reconcile", json!({})).ok(),
        json!({"repaired": [], "failed": []})
    );
    host.until("pings go on", || pings.received() > 60);
    let (sent, received) = pings.stop();
    assert_eq!(sent, received, "no packet is lost");
}

#[test]
fn removed_tags_are_restored_in_place() {
    let mut host = Host::started();
    lab(&host);
    let before = identities(&host);
    let untag = "IP link property del dev LINK altname $(IP -j link show dev LINK | grep -o 'netnsd:[^\"]*')";
    to_each(&host, untag);
    host.until("they are back", || {
        identities(&host) == before && all_in_sync(&host)
    });
    // While the daemon is stopped, an end is still known by the other one; the rest is told, and
    // left as it is.
    assert!(host.terminate().success());
    let one = untag.replace("IP", "ip").replace("LINK", "port0");
    assert!(host.sh(&one).status.success());
    host.start();
    assert!(all_in_sync(&host));
    assert_eq!(identities(&host), before);
    assert!(host.terminate().success());
    to_each(&host, untag);
    let without = identities(&host);
    host.start();
    assert_eq!(identities(&host), without);
    for path in ["/v1/namespaces/net0", "/v1/bridges/br0", "/v1/veths/lan0"] {
        let found = host.get(path).ok();
        assert_eq!(found["status"]["state"], "conflict", "{found}");
        assert!(
            found["status"]["reason"]
                .as_str()
                .unwrap()
                .contains("?adopt=true"),
            "{found}"
        );
        let body: Value = found.as_object().unwrap().clone().into();
        host.put(&format!("{path}?adopt=true"), body).ok();
    }
    assert_eq!(identities(&host), before);
}

/// A process on the host of the sandbox, or in a namespace, that ends with the test.
struct Sleeper(std::process::Child);

impl Sleeper {
    fn start(host: &Host, argv: &[&str]) -> Self {
        Self(host.spawn(&[argv, &["sleep", "1000"]].concat()))
    }

    fn ns(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Says which namespace a process is in.
fn inode(process: &Sleeper) -> String {
    std::fs::read_link(process.ns())
        .unwrap()
        .display()
        .to_string()
}

/// Starts a process in a namespace of its own, without a name.
fn container(host: &Host) -> Sleeper {
    let here = Sleeper::start(host, &[]);
    let sleeper = Sleeper::start(host, &["unshare", "-n"]);
    host.until("it is in its namespace", || inode(&sleeper) != inode(&here));
    sleeper
}

fn says(answer: common::Answer, status: u16, code: &str, words: &[&str]) {
    let detail = answer.json["detail"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(
        words.iter().all(|word| detail.contains(word)),
        "{words:?}: {}",
        answer.json
    );
    answer.refused(status, code, None);
}

fn kernel(host: &Host) -> (Vec<String>, String) {
    (
        host.kernel(),
        host.run(&[
            "sh",
            "-c",
            "ls -lA --time-style=+ /run/netns; cat /proc/self/mounts | grep netns",
        ]),
    )
}

#[test]
fn host_namespace_is_never_managed() {
    let host = Host::started();
    host.put("/v1/namespaces/net0", json!({})).ok();
    let here = Sleeper::start(&host, &[]);
    host.run(&["ip", "link", "set", "lo", "up"]);
    host.run(&["ln", "-s", &here.ns(), "/run/netns/link"]);
    host.run(&[
        "sh",
        "-c",
        "touch /run/netns/mount && mount --bind /proc/self/ns/net /run/netns/mount",
    ]);
    let before = kernel(&host);
    for name in ["link", "mount"] {
        let path = format!("/v1/namespaces/{name}");
        for query in ["", "?adopt=true", "?adopt=true&dry_run=true", "?wait=false"] {
            let put = host.put(&format!("{path}{query}"), json!({"loopback": false}));
            says(
                put,
                409,
                "conflict",
                &[
                    &format!("/run/netns/{name}"),
                    "the host's own network namespace",
                ],
            );
        }
        assert_eq!(host.get(&path).status, 404);
    }
    let attach = json!({"name": "own", "attach": {"pid": here.0.id()}});
    says(
        host.post("/v1/namespaces", attach),
        409,
        "conflict",
        &["the host's own network namespace"],
    );
    assert_eq!(kernel(&host), before);
    assert_eq!(
        host.get("/v1/namespaces").ok()["items"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
}

#[test]
fn namespace_has_one_name() {
    let host = Host::started();
    let (one, other) = (container(&host), container(&host));
    let attach = |name: &str, process: &Sleeper| {
        host.post(
            "/v1/namespaces",
            json!({"name": name, "attach": {"pid": process.0.id()}}),
        )
    };
    attach("c1", &one).ok();
    says(
        attach("c2", &one),
        409,
        "conflict",
        &["namespace c1 already"],
    );
    host.run(&[
        "sh",
        "-c",
        "touch /run/netns/c3 && mount --bind /run/netns/c1 /run/netns/c3",
    ]);
    for query in ["", "?adopt=true"] {
        says(
            host.put(&format!("/v1/namespaces/c3{query}"), json!({})),
            409,
            "conflict",
            &["namespace c1 already"],
        );
    }
    host.run(&["ip", "netns", "delete", "c3"]);
    assert_eq!(
        host.post("/v1/reconcile", json!({})).ok(),
        json!({"repaired": [], "failed": []})
    );
    host.put(
        "/v1/namespaces/c1",
        json!({"attach": {"pid": one.0.id()}, "sysctls": {"net.ipv4.ip_forward": 1}}),
    )
    .ok();
    // Once it is deleted, the namespace that its process keeps may have another name, or the same
    // again.
    for name in ["c2", "c1", "c1"] {
        let recorded = host.get("/v1/namespaces").ok()["items"][0]["name"]
            .as_str()
            .unwrap()
            .to_owned();
        assert_eq!(
            host.delete(&format!("/v1/namespaces/{recorded}")).status,
            204
        );
        let made = attach(name, &one).ok();
        assert_eq!(made["status"]["state"], "in_sync", "{made}");
        let tags = host.ip(&["-n", name, "link", "show", "lo"])[0]["altnames"].clone();
        assert_eq!(
            tags,
            json!([format!(
                "netnsd:namespace:{name}:{}",
                made["uid"].as_str().unwrap()
            )])
        );
    }
    attach("c4", &other).ok();
}

#[test]
fn foreign_entries_in_run_netns_stay() {
    let host = Host::started();
    host.put("/v1/namespaces/net0", json!({})).ok();
    host.run(&[
        "sh",
        "-c",
        "cd /run/netns && ln -s /proc/4000000/ns/net dangling && ln -s /etc/passwd elsewhere && ln -s loop loop && mkdir dir && \
         echo theirs >file",
    ]);
    // `ip netns` opens whatever has a name there.
    let names = || host.run(&["ls", "-lA", "--time-style=+", "/run/netns"]);
    let before = names();
    for (name, what) in [
        (
            "dangling",
            "is a dangling symbolic link to /proc/4000000/ns/net",
        ),
        (
            "elsewhere",
            "is a symbolic link to /etc/passwd, which is no network namespace",
        ),
        ("loop", "is a symbolic link to loop"),
        ("dir", "is a directory"),
        ("file", "is a file"),
    ] {
        for query in ["", "?dry_run=true", "?adopt=true", "?wait=false"] {
            let put = host.put(&format!("/v1/namespaces/{name}{query}"), json!({}));
            says(
                put,
                409,
                "conflict",
                &[&format!("/run/netns/{name} {what}"), "choose another name"],
            );
        }
        says(
            host.get(&format!("/v1/namespaces/{name}/links")),
            404,
            "not_found",
            &[],
        );
        assert_eq!(host.delete(&format!("/v1/namespaces/{name}")).status, 404);
        let listed = host.get("/v1/namespaces?include=unmanaged").ok();
        let mut listed = listed["items"].as_array().unwrap().iter();
        let item = listed
            .find(|item| item["name"] == name)
            .unwrap_or_else(|| panic!("{name} is not listed"));
        assert_eq!(item["status"]["observed"]["inode"], 0);
    }
    assert_eq!(names(), before);
    // The empty file that a lost mount leaves is replaced.
    host.run(&["sh", "-c", "(umask 777; : >/run/netns/lost)"]);
    host.put("/v1/namespaces/lost", json!({})).ok();
}

#[test]
fn recorded_name_without_a_pin_is_recreated() {
    let mut host = Host::started();
    for name in ["file", "link", "dir"] {
        host.put(&format!("/v1/namespaces/{name}"), json!({})).ok();
    }
    assert!(host.terminate().success());
    for name in ["file", "link", "dir"] {
        host.run(&["ip", "netns", "delete", name]);
    }
    host.run(&[
        "sh",
        "-c",
        "cd /run/netns && echo left >file && ln -s /proc/4000000/ns/net link && mkdir dir && touch dir/theirs",
    ]);
    host.start();
    let state = |name: &str| host.get(&format!("/v1/namespaces/{name}")).ok()["status"].clone();
    for name in ["file", "link"] {
        assert_eq!(state(name)["state"], "in_sync", "{name}");
    }
    assert_eq!(state("dir")["state"], "conflict");
    assert!(
        state("dir")["reason"]
            .as_str()
            .unwrap()
            .contains("/run/netns/dir is a directory"),
        "{}",
        state("dir")
    );
    assert_eq!(
        host.delete("/v1/namespaces/dir?dry_run=true").ok()["plan"],
        json!([])
    );
    assert_eq!(host.delete("/v1/namespaces/dir").status, 204);
    assert_eq!(host.get("/v1/namespaces/dir").status, 404);
    assert_eq!(host.run(&["ls", "/run/netns/dir"]), "theirs\n");
}

/// A link in `/run/netns` may lead to another name there, which is unmounted by nobody.
#[test]
fn deleting_an_adopted_link_leaves_its_target() {
    let host = Host::started();
    host.run(&["ip", "netns", "add", "theirs"]);
    host.run(&["ln", "-s", "/run/netns/theirs", "/run/netns/link"]);
    host.put("/v1/namespaces/link?adopt=true", json!({})).ok();
    assert_eq!(host.delete("/v1/namespaces/link").status, 204);
    assert_eq!(host.run(&["ls", "/run/netns"]), "theirs\n");
    host.run(&["ip", "-n", "theirs", "link", "show", "lo"]);
}

#[test]
fn foreign_devices_block_namespace_deletion() {
    let host = Host::started();
    lab(&host);
    host.put("/v1/namespaces/net1", json!({})).ok();
    host.run(&[
        "ip", "-n", "net1", "link", "add", "x7", "type", "veth", "peer", "name", "x8",
    ]);
    host.run(&["ip", "-n", "net1", "link", "add", "lan7", "type", "bridge"]);
    let before = host.kernel();
    let words = [
        "namespace net1",
        "netnsd did not make",
        "lan7 (bridge), x7 (veth), x8 (veth)",
        "?cascade=true",
    ];
    for query in ["", "?dry_run=true", "?wait=false"] {
        says(
            host.delete(&format!("/v1/namespaces/net1{query}")),
            409,
            "in_use",
            &words,
        );
        says(
            host.put(&format!("/v1/topology{query}"), json!({})),
            409,
            "in_use",
            &words,
        );
    }
    assert_eq!(host.kernel(), before);
    // A document that keeps it is another matter; and what is netnsd's own goes without a question.
    let document = json!({"namespaces": [{"name": "net1"}]});
    host.put("/v1/topology", document.clone()).ok();
    host.put("/v1/topology?cascade=true&dry_run=true", json!({}))
        .ok();
    host.patch("/v1/topology?cascade=true", document)
        .refused(400, "invalid_query", None);
    host.put("/v1/topology?cascade=true", json!({})).ok();
    assert_eq!(host.run(&["ip", "netns", "list"]), "");
    // Moved out, they stay.
    host.put("/v1/namespaces/net1", json!({})).ok();
    host.run(&[
        "ip", "-n", "net1", "link", "add", "x7", "type", "veth", "peer", "name", "x8",
    ]);
    host.run(&[
        "sh",
        "-c",
        "ip -n net1 link set x7 netns $$; ip -n net1 link set x8 netns $$",
    ]);
    assert_eq!(host.delete("/v1/namespaces/net1").status, 204);
    host.run(&["ip", "link", "show", "x7"]);
    // One that was attached loses its name only.
    let container = container(&host);
    host.post(
        "/v1/namespaces",
        json!({"name": "c1", "attach": {"pid": container.0.id()}}),
    )
    .ok();
    host.run(&["ip", "link", "set", "x8", "netns", "c1"]);
    assert_eq!(host.delete("/v1/namespaces/c1").status, 204);
    let inside = format!("nsenter --net={} ip link show x8", container.ns());
    assert!(host.sh(&inside).status.success());
}
