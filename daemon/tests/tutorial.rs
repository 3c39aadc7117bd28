//! The steps of a namespace tutorial by HTTP alone, checked by `ip -j`, `bridge -j`, `/proc` and
//! real pings.

mod common;

use common::Host;
use serde_json::{Value, json};

/// Two namespaces joined by a pair, with addresses.
fn joined(host: &Host) {
    host.put("/v1/namespaces/net0", json!({})).ok();
    host.put("/v1/namespaces/net1", json!({})).ok();
    let ends = json!([{"namespace": "net0", "interface": "veth0", "addresses": ["10.1.1.1/24", "fd00:1::1/64"]},
        {"namespace": "net1", "interface": "veth1", "addresses": ["10.1.1.2/24", "fd00:1::2/64"]}]);
    host.put("/v1/veths/pair", json!({"endpoints": ends})).ok();
}

fn pings(host: &Host, namespace: &str, address: &str) -> bool {
    let answer = host
        .post(
            &format!("/v1/namespaces/{namespace}/ping"),
            json!({"address": address, "count": 2}),
        )
        .ok();
    answer["received"] == 2
}

/// Names of a list.
fn names(list: &Value, key: &str) -> Vec<String> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(|item| item[key].as_str().map(str::to_owned))
        .collect()
}

#[test]
fn namespace_is_created_listed_and_entered() {
    let host = Host::started();
    host.put("/v1/namespaces/net0", json!({"labels": {"team": "lab"}}))
        .ok();
    assert_eq!(
        names(&host.get("/v1/namespaces").ok()["items"], "name"),
        ["net0"]
    );
    assert_eq!(names(&host.ip(&["netns", "list"]), "name"), ["net0"]);
    assert!(
        host.sh("test -e /run/netns/net0 && ip netns exec net0 true")
            .status
            .success()
    );
    let again = host.put("/v1/namespaces/net0", json!({"labels": {"team": "lab"}}));
    assert_eq!(
        (again.status, again.etag.as_deref()),
        (200, Some("\"1\"")),
        "the same body changes nothing"
    );
}

#[test]
fn netnsid_is_set() {
    let host = Host::started();
    host.put("/v1/namespaces/net0", json!({"netnsid": 100}))
        .ok();
    host.put("/v1/namespaces/net1", json!({"netnsid": "auto"}))
        .ok();
    let list = host.ip(&["netns", "list"]);
    let id = |name: &str| {
        list.as_array()
            .unwrap()
            .iter()
            .find(|ns| ns["name"] == name)
            .unwrap()["id"]
            .clone()
    };
    assert_eq!(id("net0"), 100);
    assert!(id("net1").is_u64());
    assert_eq!(
        host.get("/v1/namespaces/net0").ok()["status"]["observed"]["netnsid"],
        100
    );
    // Somebody else's id is refused; that of one that was deleted is free, if not at once.
    host.run(&["ip", "netns", "add", "theirs"]);
    host.run(&["ip", "netns", "set", "theirs", "200"]);
    let refused = host.put("/v1/namespaces/net2", json!({"netnsid": 200}));
    assert_eq!(
        (refused.status, host.get("/v1/namespaces/net2").status),
        (409, 404),
        "{refused:?}"
    );
    assert!(
        refused.json["detail"]
            .to_string()
            .contains("another namespace has this id"),
        "{refused:?}"
    );
    host.delete("/v1/namespaces/net0").ok();
    host.put("/v1/namespaces/net2", json!({"netnsid": 100}))
        .ok();
    let has_id = |name: &str, id: u32| {
        host.get(&format!("/v1/namespaces/{name}")).ok()["status"]["observed"]["netnsid"] == id
    };
    host.until("net2 has the id of net0", || has_id("net2", 100));
    // It changes hands in one document, however many others are looked at.
    let document = |owner: &str| {
        let others =
            (0..20).map(|i| json!({"name": format!("other{i}"), "labels": {"with": owner}}));
        json!({"namespaces": others.chain([json!({"name": owner, "netnsid": 300})]).collect::<Vec<_>>()})
    };
    for owner in ["first", "next", "last"] {
        host.put("/v1/topology", document(owner)).ok();
        host.until("it has the id", || has_id(owner, 300));
    }
}

#[test]
fn processes_are_identified_and_listed() {
    let host = Host::started();
    host.put("/v1/namespaces/net0", json!({})).ok();
    let mut sleeper = host.spawn(&["ip", "netns", "exec", "net0", "sleep", "1000"]);
    host.until("the sleeper is in net0", || {
        let list = host.get("/v1/namespaces/net0/processes").ok();
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|process| process["pid"] == sleeper.id() && process["command"] == "sleep")
    });
    let answer = host
        .get(&format!("/v1/processes/{}/namespace", sleeper.id()))
        .ok();
    assert_eq!(answer["namespace"], "net0");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    host.get("/v1/processes/4000000/namespace")
        .refused(404, "not_found", None);
}

#[test]
fn commands_run_in_one_and_all_namespaces() {
    let host = Host::started();
    for name in ["net0", "net1"] {
        host.put(&format!("/v1/namespaces/{name}"), json!({})).ok();
    }
    let items = host.get("/v1/namespaces").ok()["items"].clone();
    for name in names(&items, "name") {
        let answer = host
            .post(
                &format!("/v1/namespaces/{name}/exec"),
                json!({"argv": ["ip", "netns", "identify"]}),
            )
            .ok();
        assert_eq!(
            (answer["exit_code"].clone(), answer["stdout"].clone()),
            (json!(0), json!(format!("{name}\n")))
        );
    }
    let answer = host
        .post(
            "/v1/namespaces/net0/exec",
            json!({"argv": ["sh", "-c", "echo out; echo err >&2; exit 3"]}),
        )
        .ok();
    assert_eq!(
        (&answer["exit_code"], &answer["stdout"], &answer["stderr"]),
        (&json!(3), &json!("out\n"), &json!("err\n"))
    );
    host.post(
        "/v1/namespaces/net0/exec",
        json!({"argv": ["no-such-program"]}),
    )
    .refused(422, "invalid_field", Some("/argv/0"));
}

#[test]
fn loopback_is_up_unless_disabled() {
    let host = Host::started();
    host.put("/v1/namespaces/net0", json!({})).ok();
    host.put("/v1/namespaces/net1", json!({"loopback": false}))
        .ok();
    assert!(pings(&host, "net0", "127.0.0.1"));
    assert!(pings(&host, "net0", "::1"));
    assert!(!pings(&host, "net1", "127.0.0.1"));
}

#[test]
fn new_namespace_is_isolated() {
    let host = Host::started();
    joined(&host);
    host.put("/v1/namespaces/alone", json!({})).ok();
    for address in ["10.1.1.1", "10.1.1.2", "192.0.2.1", "fd00:1::1"] {
        assert!(!pings(&host, "alone", address), "{address}");
    }
}

#[test]
fn pair_names_are_given_or_generated() {
    let host = Host::started();
    let automatic = host.post("/v1/veths", json!({}));
    assert_eq!(
        (automatic.status, automatic.location.as_deref()),
        (201, Some("/v1/veths/veth0"))
    );
    let ends = automatic.json["endpoints"].clone();
    assert_eq!(names(&ends, "interface"), ["veth0", "veth1"]);
    host.put(
        "/v1/veths/named",
        json!({"endpoints": [{"interface": "left"}, {"interface": "right"}]}),
    )
    .ok();
    let links = host.ip(&["-d", "link"]);
    for (name, peer) in [("veth0", "veth1"), ("left", "right")] {
        let link = links
            .as_array()
            .unwrap()
            .iter()
            .find(|link| link["ifname"] == name)
            .unwrap();
        assert_eq!(
            (&link["linkinfo"]["info_kind"], &link["link"]),
            (&json!("veth"), &json!(peer))
        );
    }
    assert_eq!(
        names(&host.get("/v1/veths").ok()["items"], "name"),
        ["named", "veth0"]
    );
    let live = host.get("/v1/host/links").ok();
    let left = live["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|link| link["name"] == "left")
        .unwrap();
    assert_eq!(
        left["peer"],
        json!({"namespace": null, "interface": "right"})
    );
    assert_eq!(left["resource"], json!({"kind": "veth", "name": "named"}));
}

#[test]
fn existing_endpoint_is_moved() {
    let host = Host::started();
    host.put("/v1/namespaces/netns0", json!({})).ok();
    let ends = json!([{"interface": "veth0", "addresses": ["10.1.1.1/24"]}, {"interface": "veth1", "addresses": ["10.1.1.2/24"]}]);
    host.put("/v1/veths/pair", json!({"endpoints": ends})).ok();
    let before =
        host.get("/v1/veths/pair").ok()["status"]["observed"]["endpoints"][0]["mac"].clone();
    host.patch("/v1/veths/pair/endpoints/0", json!({"namespace": "netns0"}))
        .ok();
    let link = &host.ip(&["-n", "netns0", "addr", "show", "veth0"])[0];
    assert_eq!(link["address"], before, "it is the same device");
    assert_eq!(link["addr_info"][0]["local"], "10.1.1.1");
    assert_eq!(host.ip(&["addr", "show", "veth1"])[0]["operstate"], "UP");
    assert!(pings(&host, "netns0", "10.1.1.2"));
    // And back.
    host.patch("/v1/veths/pair/endpoints/0", json!({"namespace": null}))
        .ok();
    assert_eq!(
        host.ip(&["addr", "show", "veth0"])[0]["addr_info"][0]["local"],
        "10.1.1.1"
    );
}

#[test]
fn pair_carries_ipv4_and_ipv6() {
    let host = Host::started();
    joined(&host);
    assert!(pings(&host, "net0", "10.1.1.2") && pings(&host, "net1", "fd00:1::1"));
    let route = host.ip(&["-n", "net0", "route", "get", "10.1.1.2"]);
    assert_eq!(
        (&route[0]["dev"], &route[0]["prefsrc"]),
        (&json!("veth0"), &json!("10.1.1.1"))
    );
    let routes = host.get("/v1/namespaces/net0/routes").ok();
    assert!(names(&routes["items"], "destination").contains(&"10.1.1.0/24".to_owned()));
    let neighbours = host.get("/v1/namespaces/net0/neighbours").ok();
    assert!(names(&neighbours["items"], "address").contains(&"10.1.1.2".to_owned()));
}

#[test]
fn deleting_a_pair_deletes_both_ends() {
    let host = Host::started();
    joined(&host);
    assert_eq!(host.delete("/v1/veths/pair").status, 204);
    for ns in ["net0", "net1"] {
        assert_eq!(names(&host.ip(&["-n", ns, "link"]), "ifname"), ["lo"]);
    }
    host.delete("/v1/veths/pair")
        .refused(404, "not_found", None);
}

#[test]
fn pair_with_one_end_up_is_not_ready() {
    let host = Host::started();
    let ends = json!([{"interface": "veth0"}, {"interface": "veth1", "up": false}]);
    let made = host.put("/v1/veths/pair", json!({"endpoints": ends})).ok();
    assert_eq!(made["status"]["observed"]["ready"], false);
    assert!(
        made["status"]["reason"].as_str().unwrap().contains("veth1"),
        "{}",
        made["status"]["reason"]
    );
    let up = &host.ip(&["link", "show", "veth0"])[0];
    assert_eq!(up["operstate"], "LOWERLAYERDOWN");
    assert!(
        up["flags"]
            .as_array()
            .unwrap()
            .contains(&json!("NO-CARRIER"))
    );
    let ready = host.patch("/v1/veths/pair/endpoints/1", json!({"up": true}));
    assert_eq!(ready.status, 200);
    let pair = host.get("/v1/veths/pair").ok();
    assert_eq!(
        (
            &pair["status"]["observed"]["ready"],
            &pair["status"]["reason"]
        ),
        (&json!(true), &Value::Null)
    );
    host.until("both ends say up", || {
        let pair = host.get("/v1/veths/pair").ok();
        pair["status"]["observed"]["endpoints"]
            .as_array()
            .unwrap()
            .iter()
            .all(|end| end["operstate"] == "up")
    });
}

#[test]
fn bridge_has_every_brctl_setting() {
    let host = Host::started();
    host.put(
        "/v1/bridges/br0",
        json!({"addresses": ["10.2.0.254/24"], "stp": true, "priority": 4096, "ageing_time_s": 123.45, "forward_delay_s": 4.5,
            "hello_time_s": 1, "max_age_s": 10, "multicast_snooping": false, "mtu": 1400, "mac": "02:00:00:00:00:01"}),
    )
    .ok();
    let port = json!({"path_cost": 7, "priority": 5, "hairpin": true, "isolated": true, "learning": false, "bpdu_guard": true,
        "root_block": true, "mcast_fast_leave": true});
    host.put(
        "/v1/veths/lan0",
        json!({"endpoints": [{}, {"interface": "port0", "bridge": "br0", "port": port}]}),
    )
    .ok();
    let bridge = &host.ip(&["-d", "addr", "show", "br0"])[0];
    let data = &bridge["linkinfo"]["info_data"];
    for (key, value) in [
        ("stp_state", 1),
        ("priority", 4096),
        ("ageing_time", 12344),
        ("forward_delay", 450),
        ("hello_time", 100),
        ("max_age", 1000),
        ("mcast_snooping", 0),
    ] {
        assert_eq!(data[key], value, "{key}");
    }
    assert_eq!(
        (
            &bridge["mtu"],
            &bridge["address"],
            &bridge["addr_info"][0]["local"]
        ),
        (
            &json!(1400),
            &json!("02:00:00:00:00:01"),
            &json!("10.2.0.254")
        )
    );
    let link = host.bridge(&["-d", "link", "show", "dev", "port0"])[0].clone();
    for (key, value) in [
        ("cost", json!(7)),
        ("priority", json!(5)),
        ("hairpin", json!(true)),
        ("isolated", json!(true)),
        ("learning", json!(false)),
        ("guard", json!(true)),
        ("root_block", json!(true)),
        ("fastleave", json!(true)),
    ] {
        assert_eq!(link[key], value, "{key}");
    }
    let ports = host.get("/v1/bridges/br0/ports").ok();
    let shown = &ports["items"][0];
    assert_eq!(
        (
            &shown["interface"],
            &shown["veth"],
            &shown["endpoint"],
            &shown["hairpin"],
            &shown["path_cost"]
        ),
        (
            &json!("port0"),
            &json!("lan0"),
            &json!(1),
            &json!(true),
            &json!(7)
        )
    );
    assert_eq!(
        host.get("/v1/bridges/br0").ok()["status"]["observed"]["ports"][0]["interface"],
        "port0"
    );
    // A setting that is no longer requested goes back to the kernel's default.
    host.put("/v1/bridges/br0", json!({"stp": true})).ok();
    let data = host.ip(&["-d", "link", "show", "br0"])[0]["linkinfo"]["info_data"].clone();
    assert_eq!(
        (
            &data["priority"],
            &data["ageing_time"],
            &data["forward_delay"]
        ),
        (&json!(32768), &json!(30000), &json!(1500))
    );
    // A bridge's port makes itself no IPv6 address.
    assert_eq!(
        names(
            &host.ip(&["addr", "show", "port0"])[0]["addr_info"],
            "local"
        ),
        Vec::<String>::new()
    );
}

#[test]
fn bridge_connects_and_learns_three_namespaces() {
    let host = Host::started();
    host.put(
        "/v1/bridges/br0",
        json!({"addresses": ["10.2.0.254/24", "fd00:2::fe/64"]}),
    )
    .ok();
    for i in 1..=3 {
        host.put(
            &format!("/v1/namespaces/n{i}"),
            json!({"routes": [{"destination": "default", "via": "10.2.0.254"}]}),
        )
        .ok();
        let addresses = json!([format!("10.2.0.{i}/24"), format!("fd00:2::{i}/64")]);
        let ends = json!([{"namespace": format!("n{i}"), "interface": "eth0", "addresses": addresses}, {"bridge": "br0"}]);
        host.put(&format!("/v1/veths/lan{i}"), json!({"endpoints": ends}))
            .ok();
    }
    for i in 1..=3 {
        for j in [1, 2, 3, 254] {
            assert!(
                pings(&host, &format!("n{i}"), &format!("10.2.0.{j}")),
                "n{i} to {j}"
            );
        }
        assert!(pings(&host, &format!("n{i}"), "fd00:2::fe"));
    }
    let mac = host.ip(&["-n", "n1", "link", "show", "eth0"])[0]["address"].clone();
    let fdb = host.get("/v1/bridges/br0/fdb").ok();
    assert!(
        fdb["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|entry| entry["mac"] == mac && entry["local"] == false)
    );
    let bridge = host.get("/v1/bridges/br0").ok();
    assert_eq!(
        bridge["status"]["observed"]["ports"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    assert_eq!(bridge["status"]["state"], "in_sync");
}

#[test]
fn router_namespace_forwards_between_subnets() {
    let host = Host::started();
    let forward = json!({"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": "1"});
    host.put("/v1/namespaces/router", json!({"sysctls": forward}))
        .ok();
    for (name, net) in [("west", 1), ("east", 2)] {
        let routes = json!([{"destination": "default", "via": format!("10.3.{net}.254")}, {"destination": "default", "via": format!("fd00:3:{net}::fe")}]);
        let waiting = host
            .put(&format!("/v1/namespaces/{name}"), json!({"routes": routes}))
            .ok();
        assert_eq!(waiting["status"]["state"], "pending");
        let ends = json!([
            {"namespace": name, "interface": "eth0", "addresses": [format!("10.3.{net}.1/24"), format!("fd00:3:{net}::1/64")]},
            {"namespace": "router", "interface": name, "addresses": [format!("10.3.{net}.254/24"), format!("fd00:3:{net}::fe/64")]}]);
        host.put(&format!("/v1/veths/{name}"), json!({"endpoints": ends}))
            .ok();
        assert_eq!(
            host.get(&format!("/v1/namespaces/{name}")).ok()["status"]["state"],
            "in_sync"
        );
    }
    assert!(pings(&host, "west", "10.3.2.1"));
    // The router looks for neighbours from its link-local addresses, which take a second to be
    // usable.
    host.until("IPv6 is forwarded", || pings(&host, "east", "fd00:3:1::1"));
    host.put("/v1/namespaces/router", json!({})).ok();
    assert!(
        !pings(&host, "west", "10.3.2.1"),
        "what is no longer asked for is as before"
    );
}

#[test]
fn every_route_and_neighbour_type_is_created() {
    let host = Host::started();
    joined(&host);
    let routes = json!([
        {"destination": "default", "via": "10.1.1.2", "metric": 10},
        {"destination": "10.7.0.0/16", "via": "10.1.1.2", "interface": "veth0", "table": 100, "source": "10.1.1.1"},
        {"destination": "10.8.0.0/16", "type": "blackhole"},
        {"destination": "10.9.0.0/16", "type": "unreachable"},
        {"destination": "10.10.0.0/16", "type": "prohibit"},
        {"destination": "10.11.0.0/16", "interface": "veth0"},
        {"destination": "10.12.0.0/16", "via": "192.0.2.1", "interface": "veth0", "onlink": true},
        {"destination": "fd00:9::/64", "via": "fd00:1::2"},
        {"destination": "fd00:8::/64", "type": "blackhole"}]);
    let neighbours = json!([{"address": "10.1.1.77", "mac": "02:00:00:00:00:77", "interface": "veth0"},
        {"address": "fd00:1::77", "mac": "02:00:00:00:00:77", "interface": "veth0"}]);
    let made = host
        .put(
            "/v1/namespaces/net0",
            json!({"routes": routes, "neighbours": neighbours}),
        )
        .ok();
    assert_eq!(
        made["status"]["state"], "in_sync",
        "{}",
        made["status"]["reason"]
    );
    let main = host.ip(&["-n", "net0", "-d", "route"]);
    let find = |list: &Value, dst: &str| {
        list.as_array()
            .unwrap()
            .iter()
            .find(|route| route["dst"] == dst)
            .cloned()
            .unwrap_or(Value::Null)
    };
    assert_eq!(
        (
            &find(&main, "default")["gateway"],
            &find(&main, "default")["metric"]
        ),
        (&json!("10.1.1.2"), &json!(10))
    );
    for (dst, kind) in [
        ("10.8.0.0/16", "blackhole"),
        ("10.9.0.0/16", "unreachable"),
        ("10.10.0.0/16", "prohibit"),
    ] {
        assert_eq!(find(&main, dst)["type"], kind);
    }
    assert_eq!(find(&main, "10.11.0.0/16")["scope"], "link");
    assert_eq!(find(&main, "10.12.0.0/16")["flags"], json!(["onlink"]));
    let other = host.ip(&["-n", "net0", "route", "show", "table", "100"]);
    assert_eq!(
        (&other[0]["dst"], &other[0]["prefsrc"]),
        (&json!("10.7.0.0/16"), &json!("10.1.1.1"))
    );
    let six = host.ip(&["-6", "-n", "net0", "-d", "route"]);
    assert_eq!(find(&six, "fd00:9::/64")["gateway"], "fd00:1::2");
    assert_eq!(find(&six, "fd00:8::/64")["type"], "blackhole");
    let neigh = host.ip(&["-n", "net0", "neigh", "show", "nud", "permanent"]);
    assert!(
        names(&neigh, "dst").contains(&"10.1.1.77".to_owned())
            && names(&neigh, "dst").contains(&"fd00:1::77".to_owned())
    );
    // A gateway is changed in place, and everything goes again.
    host.patch(
        "/v1/namespaces/net0",
        json!({"routes": [{"destination": "default", "via": "10.1.1.3", "metric": 10}], "neighbours": []}),
    )
    .ok();
    let main = host.ip(&["-n", "net0", "route"]);
    assert_eq!(find(&main, "default")["gateway"], "10.1.1.3");
    assert_eq!(main.as_array().unwrap().len(), 2);
    assert_eq!(
        host.ip(&["-n", "net0", "neigh", "show", "nud", "permanent"]),
        json!([])
    );
}

#[test]
fn command_sees_its_resolv_conf() {
    let host = Host::started();
    let dns = json!({"nameservers": ["10.1.1.53", "fd00::53"], "search": ["lab.example"], "options": ["ndots:2"]});
    host.put("/v1/namespaces/net0", json!({"dns": dns})).ok();
    let wanted = "nameserver 10.1.1.53\nnameserver fd00::53\nsearch lab.example\noptions ndots:2\n";
    let answer = host
        .post(
            "/v1/namespaces/net0/exec",
            json!({"argv": ["cat", "/etc/resolv.conf"]}),
        )
        .ok();
    assert!(
        answer["stdout"].as_str().unwrap().ends_with(wanted),
        "{answer}"
    );
    let by_ip = host.sh("ip netns exec net0 cat /etc/resolv.conf");
    assert!(String::from_utf8_lossy(&by_ip.stdout).ends_with(wanted));
    host.put("/v1/namespaces/net0", json!({})).ok();
    assert!(!host.sh("test -e /etc/netns/net0").status.success());
}

#[test]
fn process_namespace_is_attached() {
    let host = Host::started();
    let mut holder = host.spawn(&["unshare", "--net", "sleep", "1000"]);
    host.until("it has a namespace of its own", || {
        host.sh(&format!(
            "test $(readlink /proc/{}/ns/net) != $(readlink /proc/self/ns/net)",
            holder.id()
        ))
        .status
        .success()
    });
    let made = host.put(
        "/v1/namespaces/caught",
        json!({"attach": {"pid": holder.id()}}),
    );
    assert_eq!(made.status, 201, "{}", made.json);
    assert_eq!(
        host.get(&format!("/v1/processes/{}/namespace", holder.id()))
            .ok()["namespace"],
        "caught"
    );
    host.put(
        "/v1/namespaces/nobody",
        json!({"attach": {"pid": 4_000_000}}),
    )
    .refused(422, "kernel_rejected", None);
    assert!(!host.sh("test -e /run/netns/nobody").status.success());
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn deletion_leaves_nothing() {
    let host = Host::started();
    host.put(
        "/v1/namespaces/net0",
        json!({"dns": {"nameservers": ["10.0.0.1"]}}),
    )
    .ok();
    host.put("/v1/bridges/br0", json!({})).ok();
    host.put(
        "/v1/veths/lan0",
        json!({"endpoints": [{"namespace": "net0", "interface": "eth0"}, {"interface": "port0", "bridge": "br0"}]}),
    )
    .ok();
    let refused = host.delete("/v1/namespaces/net0");
    assert_eq!(
        (refused.status, &refused.json["resources"]),
        (409, &json!([{"kind": "veth", "name": "lan0"}]))
    );
    host.delete("/v1/bridges/br0").refused(409, "in_use", None);
    assert_eq!(host.delete("/v1/bridges/br0?cascade=true").status, 204);
    assert!(
        host.ip(&["link", "show", "port0"])[0]
            .get("master")
            .is_none()
    );
    assert_eq!(host.delete("/v1/namespaces/net0?cascade=true").status, 204);
    assert_eq!(names(&host.ip(&["link"]), "ifname"), ["lo"]);
    assert!(
        host.sh("test -z \"$(ls /run/netns)\" && test ! -e /etc/netns/net0")
            .status
            .success()
    );
    for kind in ["namespaces", "bridges", "veths"] {
        assert_eq!(host.get(&format!("/v1/{kind}")).ok()["items"], json!([]));
    }
}

/// A network with a bit of everything, and pings that must pass.
fn everything(host: &Host) {
    joined(host);
    host.put(
        "/v1/bridges/br0",
        json!({"addresses": ["10.2.0.254/24"], "stp": false, "priority": 7}),
    )
    .ok();
    host.put(
        "/v1/namespaces/lab",
        json!({"netnsid": 42, "routes": [{"destination": "default", "via": "10.2.0.254"}],
        "sysctls": {"net.ipv4.ip_forward": 1}, "dns": {"nameservers": ["10.2.0.254"]},
        "neighbours": [{"address": "10.2.0.9", "mac": "02:00:00:00:00:09", "interface": "eth0"}]}),
    )
    .ok();
    let ends = json!([{"namespace": "lab", "interface": "eth0", "addresses": ["10.2.0.1/24"], "mtu": 1400},
        {"interface": "port0", "bridge": "br0", "port": {"hairpin": true}}]);
    host.put("/v1/veths/lan0", json!({"endpoints": ends})).ok();
}

fn everything_works(host: &Host) {
    assert!(
        pings(host, "net0", "10.1.1.2")
            && pings(host, "net1", "fd00:1::1")
            && pings(host, "lab", "10.2.0.254")
    );
    assert_eq!(
        host.ip(&["-n", "lab", "link", "show", "eth0"])[0]["mtu"],
        1400
    );
    assert_eq!(
        host.bridge(&["-d", "link", "show", "dev", "port0"])[0]["hairpin"],
        true
    );
    let ready = host.get("/v1/ready").ok();
    assert_eq!(
        (&ready["ready"], &ready["states"]["in_sync"]),
        (&json!(true), &json!(6)),
        "{ready}"
    );
}

#[test]
fn reboot_restores_the_network_before_ready() {
    let mut host = Host::started();
    everything(&host);
    everything_works(&host);
    host.reboot();
    everything_works(&host);
    host.reboot();
    everything_works(&host);
}

#[test]
fn restart_loses_no_packet_and_changes_nothing() {
    if !common::skip::has("ping") {
        return;
    }
    let mut host = Host::started();
    everything(&host);
    host.wait_until_settled();
    let before = host.kernel();
    let ping = host.spawn_ping("net0", "10.1.1.2", 5);
    host.until("it pings", || ping.received() >= 20);
    host.restart();
    host.kill9();
    host.start();
    let by_now = ping.received();
    host.until("it pings on", || ping.received() >= by_now + 20);
    let (transmitted, received) = ping.stop();
    assert_eq!(transmitted, received);
    common::same(&before, &host.kernel());
    assert!(host.log().contains("operations=0"), "{}", host.log());
    everything_works(&host);
}
