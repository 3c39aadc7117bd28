//! Bad input: each mistake with its status, code and pointer, and nothing changed by it.

mod common;

use std::time::Instant;

use common::{Answer, Host, same};
use serde_json::{Value, json};

/// A host with a network, and what it looks like.
fn host() -> Host {
    let host = Host::started();
    host.put("/v1/namespaces/net0", json!({})).ok();
    host.put("/v1/namespaces/net1", json!({})).ok();
    host.put("/v1/bridges/br0", json!({})).ok();
    host.put("/v1/bridges/inner", json!({"namespace": "net0"}))
        .ok();
    host.put(
        "/v1/veths/taken",
        json!({"endpoints": [{"namespace": "net0", "interface": "eth0", "addresses": ["10.0.0.1/24"]}, {}]}),
    )
    .ok();
    host
}

/// Returns the recorded document, and the state in the kernel and on disk.
fn state(host: &Host) -> Vec<String> {
    let lists = ["namespaces", "bridges", "veths"]
        .map(|kind| serde_json::to_string_pretty(&host.get(&format!("/v1/{kind}")).ok()).unwrap());
    let files = String::from_utf8(host.sh("ls /run/netns /etc/netns").stdout).unwrap();
    lists
        .iter()
        .chain([&files])
        .flat_map(|text| text.lines().map(str::to_owned))
        .chain(host.kernel())
        .collect()
}

#[test]
fn wrong_field_is_named_by_its_pointer() {
    let host = host();
    // Operational states and carrier settle by themselves shortly after the network is made.
    host.wait_until_settled();
    let before = state(&host);
    let veth = |end: Value| ("/v1/veths/v", json!({"endpoints": [end, {}]}));
    let ns = |body: Value| ("/v1/namespaces/n", body);
    let br = |body: Value| ("/v1/bridges/b", body);
    let interface = |name: &str| veth(json!({"interface": name}));
    let route = |route: Value| ns(json!({"routes": [route]}));
    let cases = [
        (ns(json!({"colour": "red"})), "unknown_field", "/colour"),
        (
            veth(json!({"colour": "red"})),
            "unknown_field",
            "/endpoints/0/colour",
        ),
        (ns(json!({"loopback": "yes"})), "invalid_field", "/loopback"),
        (ns(json!({"name": "other"})), "invalid_field", "/name"),
        (ns(json!({"netnsid": -1})), "invalid_field", "/netnsid"),
        (
            interface("1234567890123456"),
            "invalid_field",
            "/endpoints/0/interface",
        ),
        (interface("a b"), "invalid_field", "/endpoints/0/interface"),
        (interface("a/b"), "invalid_field", "/endpoints/0/interface"),
        (interface("a:b"), "invalid_field", "/endpoints/0/interface"),
        (
            interface("veth%d"),
            "invalid_field",
            "/endpoints/0/interface",
        ),
        (interface(""), "invalid_field", "/endpoints/0/interface"),
        (interface("lo"), "invalid_field", "/endpoints/0/interface"),
        (
            veth(json!({"addresses": ["10.0.0.9"]})),
            "invalid_field",
            "/endpoints/0/addresses/0",
        ),
        (
            veth(json!({"addresses": ["10.0.0.9/33"]})),
            "invalid_field",
            "/endpoints/0/addresses/0",
        ),
        (
            veth(json!({"addresses": ["10.0.0.9/24", "10.0.0.9/24"]})),
            "duplicate",
            "/endpoints/0/addresses/1",
        ),
        (
            veth(json!({"namespace": "net0", "addresses": ["10.0.0.1/24"]})),
            "duplicate",
            "/endpoints/0/addresses/0",
        ),
        (
            veth(json!({"mac": "01:00:5e:00:00:01"})),
            "invalid_field",
            "/endpoints/0/mac",
        ),
        (
            veth(json!({"mtu": 67})),
            "invalid_field",
            "/endpoints/0/mtu",
        ),
        (
            veth(json!({"mtu": 70000})),
            "invalid_field",
            "/endpoints/0/mtu",
        ),
        (
            veth(json!({"mtu": 1279, "addresses": ["10.0.0.1/24", "fd00::1/64"]})),
            "invalid_field",
            "/endpoints/0/mtu",
        ),
        (
            veth(json!({"addresses": ["10.0.0.01/24"]})),
            "invalid_field",
            "/endpoints/0/addresses/0",
        ),
        (
            veth(json!({"namespace": "nowhere"})),
            "unknown_reference",
            "/endpoints/0/namespace",
        ),
        (
            veth(json!({"bridge": "nowhere"})),
            "unknown_reference",
            "/endpoints/0/bridge",
        ),
        (
            veth(json!({"bridge": "inner"})),
            "invalid_field",
            "/endpoints/0/bridge",
        ),
        (
            veth(json!({"port": {"hairpin": true}})),
            "invalid_field",
            "/endpoints/0/port",
        ),
        (
            veth(json!({"namespace": "net0", "interface": "eth0"})),
            "duplicate",
            "/endpoints/0/interface",
        ),
        (
            ("/v1/veths/v", json!({"endpoints": [{}, {}, {}]})),
            "invalid_field",
            "/endpoints",
        ),
        (
            ("/v1/veths/v", json!({"endpoints": [{}]})),
            "invalid_field",
            "/endpoints",
        ),
        (
            (
                "/v1/veths/v",
                json!({"endpoints": [{"interface": "x"}, {"interface": "x"}]}),
            ),
            "duplicate",
            "/endpoints/1/interface",
        ),
        (
            route(json!({"destination": "default", "via": "fd00::1", "source": "10.0.0.1"})),
            "invalid_field",
            "/routes/0/source",
        ),
        (
            route(json!({"destination": "10.0.0.0/8", "via": "fd00::1"})),
            "invalid_field",
            "/routes/0/via",
        ),
        (
            route(json!({"destination": "10.0.0.1/8", "via": "10.0.0.1"})),
            "invalid_field",
            "/routes/0/destination",
        ),
        (
            route(json!({"via": "10.0.0.1"})),
            "invalid_field",
            "/routes/0/destination",
        ),
        (
            route(json!({"destination": "default"})),
            "invalid_field",
            "/routes/0/via",
        ),
        (
            ns(json!({"sysctls": {"kernel.hostname": "x"}})),
            "invalid_field",
            "/sysctls/kernel.hostname",
        ),
        (
            ns(json!({"sysctls": {"net.ipv4...x": 1}})),
            "invalid_field",
            "/sysctls/net.ipv4...x",
        ),
        (
            ns(json!({"sysctls": {"net.ipv4.no_such_key": 1}})),
            "invalid_field",
            "/sysctls/net.ipv4.no_such_key",
        ),
        (br(json!({"priority": 70000})), "invalid_field", "/priority"),
        (
            br(json!({"hello_time_s": 11})),
            "invalid_field",
            "/hello_time_s",
        ),
        (
            br(json!({"namespace": "nowhere"})),
            "unknown_reference",
            "/namespace",
        ),
        (
            br(json!({"interface": "taken-by-nobody-x"})),
            "invalid_field",
            "/interface",
        ),
        (
            br(json!({"vlan_default_pvid": 5000})),
            "invalid_field",
            "/vlan_default_pvid",
        ),
        (
            ("/v1/bridges/a-name-longer-than-15", json!({})),
            "invalid_field",
            "/interface",
        ),
    ];
    for ((path, body), code, pointer) in cases {
        let answer = host.put(path, body.clone());
        let context = format!("{path} {body}: {}", answer.json);
        assert_eq!(
            (answer.status, answer.json["code"].as_str()),
            (422, Some(code)),
            "{context}"
        );
        if !pointer.is_empty() {
            assert_eq!(answer.json["pointer"].as_str(), Some(pointer), "{context}");
        }
        assert_eq!(
            answer.content_type.as_deref(),
            Some("application/problem+json")
        );
        assert!(
            answer.json["detail"]
                .as_str()
                .is_some_and(|detail| detail.len() > 10),
            "{context}"
        );
    }
    same(&before, &state(&host));
}

#[test]
fn malformed_request_is_refused() {
    let host = host();
    host.wait_until_settled();
    let before = state(&host);
    let json_type = [("content-type", "application/json")];
    let put = |path: &str, body: &str| host.raw("PUT", path, &json_type, body.as_bytes().to_vec());
    put("/v1/namespaces/n", "{\"loopback\": tru").refused(400, "malformed_json", None);
    put("/v1/namespaces/n", "").refused(400, "malformed_json", None);
    for twice in [
        "{\"loopback\": true, \"loopback\": false}",
        "{\"labels\": {\"loopback\": \"1\", \"loopback\": \"1\"}}",
    ] {
        let answer = put("/v1/namespaces/n", twice);
        assert!(
            answer.json["detail"]
                .as_str()
                .unwrap()
                .contains("duplicate key \"loopback\""),
            "{}",
            answer.json
        );
        answer.refused(400, "malformed_json", None);
    }
    let gzip = [
        ("content-type", "application/json"),
        ("content-encoding", "gzip"),
    ];
    host.raw("PUT", "/v1/namespaces/n", &gzip, b"{}".to_vec())
        .refused(415, "unsupported_media_type", None);
    put("/v1/namespaces/n", "[]").refused(422, "invalid_field", Some(""));
    let long = format!("/v1/namespaces/{}", "x".repeat(65));
    put(&long, "{}").refused(422, "invalid_field", Some("/name"));
    put("/v1/namespaces/..%2fx", "{}").refused(422, "invalid_field", Some("/name"));
    host.post("/v1/namespaces", json!({}))
        .refused(422, "invalid_field", Some("/name"));
    host.post("/v1/namespaces", json!({"name": ""}))
        .refused(422, "invalid_field", Some("/name"));
    host.post("/v1/namespaces", json!({"name": "../x"}))
        .refused(422, "invalid_field", Some("/name"));
    host.post("/v1/namespaces", json!({"name": "net0"}))
        .refused(409, "already_exists", None);
    host.raw(
        "PUT",
        "/v1/namespaces/n",
        &[("content-type", "text/plain")],
        b"{}".to_vec(),
    )
    .refused(415, "unsupported_media_type", None);
    host.raw("PUT", "/v1/namespaces/n", &[], b"{}".to_vec())
        .refused(415, "unsupported_media_type", None);
    let large = format!("{{\"labels\": {{\"a\": \"{}\"}}}}", "x".repeat(1 << 20));
    put("/v1/namespaces/n", &large).refused(413, "body_too_large", None);
    host.get("/v1/namespaces?colour=red")
        .refused(400, "invalid_query", None);
    host.get("/v1/namespaces?limit=0")
        .refused(400, "invalid_query", None);
    let unlike = host.get("/v1/zebra");
    assert!(
        !unlike.json["detail"].as_str().unwrap().contains("nearest"),
        "{}",
        unlike.json
    );
    unlike.refused(404, "no_such_path", None);
    for (path, nearest) in [
        ("/v1/namespace", "/v1/namespaces"),
        ("/v1/namespaces/net0/link", "/v1/namespaces/net0/links"),
        ("/namespaces/net0", "/v1/namespaces/net0"),
        ("/metric", "/metrics"),
        ("/v1/netns", "/v1/namespaces"),
        ("/v1/monitor", "/v1/events"),
        ("/v1/processes/1", "/v1/processes/1/namespace"),
        ("/v1/identify/1", "/v1/processes/1/namespace"),
        ("/v1/namespaces/net0/pids", "/v1/namespaces/net0/processes"),
    ] {
        let answer = host.get(path);
        assert!(
            answer.json["detail"]
                .as_str()
                .unwrap()
                .contains(&format!("is {nearest}:")),
            "{path}: {}",
            answer.json
        );
        answer.refused(404, "no_such_path", None);
    }
    host.get("/v1/namespaces?label=%ff")
        .refused(400, "invalid_query", None);
    let limit = host.get("/v1/namespaces?limit=many");
    assert_eq!(
        limit.json["detail"],
        "limit=many: it is a whole number, 1 to 10000"
    );
    host.get("/v1/namespaces/none")
        .refused(404, "not_found", None);
    host.get("/v1/namespaces/%ff")
        .refused(404, "not_found", None);
    host.get("/v1/namespaces?label==x")
        .refused(400, "invalid_query", None);
    host.raw(
        "GET",
        "/v1/namespaces/net0",
        &[("if-match", "\"7\"")],
        Vec::new(),
    )
    .refused(412, "precondition_failed", None);
    let method = host.raw("POST", "/v1/namespaces/net0", &json_type, b"{}".to_vec());
    let detail = method.json["detail"].as_str().unwrap().to_owned();
    assert!(
        ["GET", "PUT", "PATCH", "DELETE"]
            .iter()
            .all(|method| detail.contains(method)),
        "{detail}"
    );
    method.refused(405, "method_not_allowed", None);
    let conditional = |headers: &[(&str, &str)]| {
        let headers: Vec<(&str, &str)> = json_type.iter().chain(headers).copied().collect();
        host.raw(
            "PUT",
            "/v1/namespaces/net0",
            &headers,
            b"{\"loopback\": false}".to_vec(),
        )
    };
    conditional(&[("if-match", "\"7\"")]).refused(412, "precondition_failed", None);
    conditional(&[("if-none-match", "*")]).refused(412, "precondition_failed", None);
    same(&before, &state(&host));
    assert_eq!(
        put(
            "/v1/namespaces/net0",
            "{\"name\": null, \"loopback\": null, \"routes\": null}"
        )
        .etag
        .as_deref(),
        Some("\"1\"")
    );
    let matched: Answer = conditional(&[("if-match", "\"1\"")]);
    assert_eq!(
        (matched.status, matched.etag.as_deref()),
        (200, Some("\"2\""))
    );
    assert_eq!(
        host.raw(
            "GET",
            "/v1/namespaces/net0",
            &[("if-none-match", "\"2\"")],
            Vec::new()
        )
        .status,
        304
    );
}

#[test]
fn dry_run_lists_commands_and_changes_nothing() {
    let host = host();
    host.wait_until_settled();
    let before = state(&host);
    let answer = host
        .put(
            "/v1/veths/taken?dry_run=true",
            json!({"endpoints": [{"namespace": "net1", "interface": "eth0", "mtu": 1400}, {}]}),
        )
        .ok();
    let ops: Vec<&str> = answer["plan"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["op"].as_str().unwrap())
        .collect();
    assert!(
        ops.contains(&"link_move") && ops.contains(&"link_mtu"),
        "{ops:?}"
    );
    assert_eq!(answer["result"]["endpoints"][0]["namespace"], "net1");
    assert_eq!(
        host.delete("/v1/namespaces/net0?cascade=true&dry_run=true")
            .ok()["result"],
        Value::Null
    );
    same(&before, &state(&host));
}

#[test]
fn foreign_resource_is_a_conflict_and_stays() {
    let host = host();
    host.sh("ip link add theirs type bridge; ip netns add theirs; ip -n net0 link add dev theirs type bridge");
    host.wait_until_settled();
    let before = state(&host);
    host.put("/v1/bridges/theirs", json!({}))
        .refused(409, "conflict", None);
    host.put("/v1/namespaces/theirs", json!({}))
        .refused(409, "conflict", None);
    host.put(
        "/v1/veths/v",
        json!({"endpoints": [{"namespace": "net0", "interface": "theirs"}, {}]}),
    )
    .refused(409, "conflict", None);
    host.put(
        "/v1/veths/taken",
        json!({"endpoints": [{"namespace": "net0", "interface": "theirs"}, {}]}),
    )
    .refused(409, "conflict", None);
    same(&before, &state(&host));
    let list = host.get("/v1/namespaces?include=unmanaged").ok();
    let theirs = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|ns| ns["name"] == "theirs")
        .unwrap();
    assert_eq!(theirs["managed"], false);
    assert!(host.get("/v1/namespaces/theirs/links").ok()["items"][0]["name"] == "lo");
    // A name that pins a namespace of another type, which nobody enters as one of the network.
    host.sh("touch /run/netns/hostname; mount --bind /proc/self/ns/uts /run/netns/hostname");
    let closed = host.put("/v1/namespaces/hostname?adopt=true", json!({}));
    assert!(
        closed.json["detail"]
            .as_str()
            .unwrap()
            .contains("cannot be entered"),
        "{}",
        closed.json
    );
    closed.refused(409, "conflict", None);
    let list = host.get("/v1/namespaces?include=unmanaged").ok();
    let listed = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|ns| ns["name"] == "hostname")
        .unwrap();
    assert_eq!(
        (&listed["managed"], &listed["status"]["observed"]["inode"]),
        (&json!(false), &json!(0))
    );
    host.sh("umount /run/netns/hostname; rm /run/netns/hostname");
    host.put("/v1/namespaces/hostname", json!({})).ok();
}

#[test]
fn refusal_reaches_a_client_that_still_sends() {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
        time::Duration,
    };
    let host = Host::started();
    // Neither has a reason to read the body: the one is a DELETE (Ansible sends `null` with it),
    // the other is refused for its head.
    for (head, status) in [
        (
            "DELETE /v1/namespaces/nobody HTTP/1.1\r\nContent-Type: application/json",
            404,
        ),
        (
            "PUT /v1/namespaces/net0?colour=red HTTP/1.1\r\nContent-Type: application/json",
            400,
        ),
    ] {
        let mut stream = UnixStream::connect(host.socket()).unwrap();
        write!(
            stream,
            "{head}\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n\r\n"
        )
        .unwrap();
        // An answer that comes now is an answer with the door shut.
        stream
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let mut answer = [0; 4096];
        stream.read(&mut answer).unwrap_err();
        write!(stream, "null").unwrap();
        stream.set_read_timeout(None).unwrap();
        let length = stream.read(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
    }
}

#[test]
fn too_many_conditions_are_refused() {
    let host = Host::started();
    let repeat = |condition: &str, count: usize| vec![condition; count].join("&");
    for path in ["/v1/namespaces", "/v1/bridges", "/v1/topology"] {
        assert_eq!(
            host.get(&format!("{path}?{}", repeat("label=z!=", 16)))
                .status,
            200
        );
        host.get(&format!("{path}?{}", repeat("label=z!=", 17)))
            .refused(400, "invalid_query", None);
    }
    for condition in ["kind=veth", "type=created", "name=x"] {
        host.get(&format!("/v1/events?{}", repeat(condition, 17)))
            .refused(400, "invalid_query", None);
    }
}

#[test]
fn too_long_lists_are_refused() {
    let host = Host::started();
    let addresses = |most: usize| {
        (0..most)
            .map(|i| format!("10.0.{}.{}/32", i / 200, i % 200 + 1))
            .collect::<Vec<_>>()
    };
    let bridge = |most| json!({"interface": "many", "addresses": addresses(most)});
    host.put("/v1/bridges/many", bridge(1025))
        .refused(422, "invalid_field", Some("/addresses"));
    host.put("/v1/bridges/many", bridge(1024)).ok();
    let route = |i: usize| json!({"destination": format!("10.{}.{}.0/24", i / 250, i % 250), "type": "blackhole"});
    let routes = |most: usize| json!({"routes": (0..most).map(route).collect::<Vec<_>>()});
    host.put("/v1/namespaces/many", routes(16_385))
        .refused(422, "invalid_field", Some("/routes"));
    let put = Instant::now();
    host.put("/v1/namespaces/many", routes(16_384)).ok();
    let made = Instant::now();
    host.patch("/v1/namespaces/many", json!({"labels": {"a": "b"}}))
        .ok();
    println!(
        "16,384 routes: PUT {:?}, PATCH of a label {:?}",
        made - put,
        made.elapsed()
    );
    assert_eq!(
        host.ip(&["-n", "many", "route"]).as_array().unwrap().len(),
        16_384
    );
}

#[test]
fn recorded_netnsid_is_refused_from_the_record() {
    let host = Host::started();
    host.put("/v1/namespaces/first", json!({"netnsid": 5})).ok();
    let second = json!({"netnsid": 5});
    host.put("/v1/namespaces/second", second.clone())
        .refused(422, "duplicate", Some("/netnsid"));
    host.put("/v1/namespaces/second?dry_run=true", second.clone())
        .refused(422, "duplicate", Some("/netnsid"));
    host.delete("/v1/namespaces/first").ok();
    host.put("/v1/namespaces/second", second).ok();
}
