//! The whole network as one document, judged by `ip -j`.

mod common;

use std::io::BufRead;

use common::{Answer, Host, same, skip::has};
use serde_json::{Value, json};
use sqlx::{ConnectOptions, SqliteConnection, sqlite::SqliteConnectOptions};

const PATH: &str = "/v1/topology";
const YAML: [(&str, &str); 2] = [
    ("content-type", "application/yaml"),
    ("accept", "application/yaml"),
];

/// A router between two networks, one of them behind a bridge.
const LAB: &str = "
namespaces:
- name: router
  labels: {lab: one}
  sysctls: {net.ipv4.ip_forward: 1}
- name: left
  labels: {lab: one}
  routes: [{destination: default, via: 10.1.0.1}]
- name: right
  labels: {lab: two}
  routes: [{destination: default, via: 10.2.0.1}]
bridges:
- name: br0
  namespace: router
  addresses: [10.1.0.1/24]
veths:
- name: left
  endpoints:
  - {namespace: left, interface: eth0, addresses: [10.1.0.2/24]}
  - {namespace: router, interface: p0, bridge: br0}
- name: right
  endpoints:
  - {namespace: right, interface: eth0, addresses: [10.2.0.2/24]}
  - {namespace: router, interface: p1, addresses: [10.2.0.1/24]}
";

fn counts(result: &Value) -> [usize; 4] {
    let of = |what: &str| result[what].as_array().map_or(0, Vec::len);
    [
        of("created"),
        of("updated"),
        of("deleted"),
        result["unchanged"].as_u64().unwrap() as usize,
    ]
}

fn apply(host: &Host, yaml: &str) -> Value {
    host.raw("PUT", PATH, &YAML, yaml.as_bytes().to_vec()).ok()
}

#[test]
fn document_makes_a_network_and_round_trips() {
    let host = Host::started();
    assert_eq!(counts(&apply(&host, LAB)), [6, 0, 0, 0]);
    let reply = host
        .post(
            "/v1/namespaces/left/ping",
            json!({"address": "10.2.0.2", "timeout_ms": 20000}),
        )
        .ok();
    assert_eq!(reply["received"], 1, "{reply}");
    // Putting back an answer of GET, in both forms, changes nothing.
    let exported = host.get(PATH).ok();
    assert_eq!(
        exported["bridges"],
        json!([{"name": "br0", "namespace": "router", "addresses": ["10.1.0.1/24"]}])
    );
    assert_eq!(
        exported["namespaces"][0],
        json!({"name": "left", "labels": {"lab": "one"},
        "routes": [{"destination": "default", "via": "10.1.0.1"}]})
    );
    assert_eq!(counts(&host.put(PATH, exported).ok()), [0, 0, 0, 6]);
    let (head, yaml) = host.whole("GET", PATH, &YAML, "");
    assert!(head.contains("content-type: application/yaml"), "{head}");
    host.wait_until_settled();
    let before = host.kernel();
    assert_eq!(counts(&apply(&host, &yaml)), [0, 0, 0, 6], "{yaml}");
    same(&before, &host.kernel());
}

#[test]
fn put_deletes_unnamed_and_patch_does_not() {
    let host = Host::started();
    apply(&host, LAB);
    let one = json!({"namespaces": [{"name": "left"}, {"name": "new"}]});
    assert_eq!(counts(&host.patch(PATH, one.clone()).ok()), [1, 1, 0, 0]);
    let refused = host.put(PATH, json!({"namespaces": [{"name": "left"}], "veths": [{"name": "left", "endpoints": [{"namespace": "router"}, {}]}]}));
    refused.refused(
        422,
        "unknown_reference",
        Some("/veths/0/endpoints/0/namespace"),
    );
    assert_eq!(counts(&host.put(PATH, one).ok()), [0, 0, 5, 2]);
    let names = host.ip(&["netns", "list"]);
    assert_eq!(names.as_array().unwrap().len(), 2, "{names}");
    assert_eq!(counts(&host.put(PATH, json!({})).ok()), [0, 0, 2, 0]);
    assert_eq!(host.ip(&["netns", "list"]), json!([]));
}

#[test]
fn label_selector_limits_a_document() {
    let host = Host::started();
    apply(&host, LAB);
    let one = host.get("/v1/topology?label=lab=one").ok();
    assert_eq!(
        (one["namespaces"].as_array().unwrap().len(), &one["veths"]),
        (2, &json!([]))
    );
    // The namespace of lab two goes, unless something holds it; those of lab one are none of its
    // business.
    let nothing = json!({});
    host.put("/v1/topology?label=lab=two", nothing.clone())
        .refused(409, "in_use", None);
    host.delete("/v1/veths/right");
    assert_eq!(
        counts(&host.put("/v1/topology?label=lab=two", nothing).ok()),
        [0, 0, 1, 0]
    );
    assert_eq!(
        host.get("/v1/namespaces").ok()["items"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    // A resource that loses its label is still named by the document.
    let unlabelled = json!({"namespaces": [{"name": "left"}, {"name": "router", "labels": {"lab": "one"}}, {"name": "other"}]});
    assert_eq!(
        counts(&host.put("/v1/topology?label=lab=one", unlabelled).ok()),
        [0, 2, 0, 0]
    );
}

#[test]
fn refused_document_is_rolled_back() {
    let host = Host::started();
    apply(&host, LAB);
    host.wait_until_settled();
    let (kernel, recorded) = (host.kernel(), host.get(PATH).ok());
    // Everything is made anew elsewhere, then the kernel refuses a value.
    let bad = LAB
        .replace("net.ipv4.ip_forward: 1", "net.ipv4.ip_default_ttl: 100000")
        .replace("10.2", "10.3");
    host.raw("PUT", PATH, &YAML, bad.clone().into_bytes())
        .refused(422, "kernel_rejected", None);
    host.wait_until_settled();
    same(&kernel, &host.kernel());
    assert_eq!(host.get(PATH).ok(), recorded);
    // The same followed line by line: the problem is the last one.
    let (head, body) = host.whole(
        "PUT",
        PATH,
        &[
            ("content-type", "application/yaml"),
            ("accept", "application/x-ndjson"),
        ],
        &bad,
    );
    let last: Value = serde_json::from_str(body.lines().last().unwrap()).unwrap();
    assert_eq!(
        (last["code"].as_str(), head.contains("200")),
        (Some("kernel_rejected"), true),
        "{body}"
    );
    host.wait_until_settled();
    same(&kernel, &host.kernel());
}

#[test]
fn progress_is_reported_during_a_write() {
    use std::io::{BufRead, Read};
    let host = Host::started();
    let namespaces: Vec<Value> = (0..500)
        .map(|i| json!({"name": format!("n{i:03}")}))
        .collect();
    let document = json!({"namespaces": namespaces}).to_string();
    let headers = [
        ("content-type", "application/json"),
        ("accept", "application/x-ndjson"),
    ];
    let mut answer = host.open("PUT", PATH, &headers, &document);
    let mut line = String::new();
    while !line.starts_with('{') {
        line.clear();
        assert!(answer.read_line(&mut line).unwrap() > 0);
    }
    // It is read before anything is shown: the engine shows what it has done.
    assert_eq!(
        host.get("/v1/namespaces?limit=1").ok()["items"],
        json!([]),
        "{line}"
    );
    answer.read_to_string(&mut line).unwrap();
    let lines: Vec<Value> = line
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (last, progress) = lines.split_last().unwrap();
    assert_eq!(counts(last), [500, 0, 0, 0]);
    assert!(
        progress.len() > 1 && progress.is_sorted_by_key(|line| line["done"].as_u64()),
        "{progress:?}"
    );
    // One entry tells how it ended, and nobody waited for it.
    let log = host.get("/v1/audit").ok();
    let entries: Vec<_> = log["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["path"] == PATH)
        .collect();
    assert_eq!(
        (entries.len(), &entries[0]["status"]),
        (1, &json!(200)),
        "{log}"
    );
}

#[test]
fn document_progress_comes_line_by_line() {
    let host = Host::started();
    let follow = |yaml: &str| {
        let headers = [
            ("content-type", "application/yaml"),
            ("accept", "application/x-ndjson"),
        ];
        let (head, body) = host.whole("PUT", PATH, &headers, yaml);
        (
            head,
            body.lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect::<Vec<Value>>(),
        )
    };
    let (head, lines) = follow(LAB);
    assert!(
        head.contains("content-type: application/x-ndjson"),
        "{head}"
    );
    let (last, progress) = lines.split_last().unwrap();
    assert_eq!(counts(last), [6, 0, 0, 0]);
    assert!(
        progress
            .iter()
            .all(|line| line["done"].as_u64() <= line["total"].as_u64()),
        "{progress:?}"
    );
    assert!(
        progress.is_sorted_by_key(|line| line["done"].as_u64()) && !progress.is_empty(),
        "{progress:?}"
    );
    let (_, lines) = follow(LAB);
    assert_eq!((lines.len(), counts(&lines[0])), (1, [0, 0, 0, 6]));
    // A refusal before anything is done is an answer like any other.
    let (head, _) = follow("bridges: [{name: br9, namespace: nowhere}]");
    assert!(
        head.starts_with("HTTP/1.0 422") && head.contains("application/problem+json"),
        "{head}"
    );
}

#[test]
fn dry_run_of_a_document_changes_nothing() {
    let host = Host::started();
    let before = host.kernel();
    let answer = host
        .raw("PUT", "/v1/topology?dry_run=true", &YAML, LAB.into())
        .ok();
    assert_eq!(counts(&answer["result"]), [6, 0, 0, 0]);
    assert!(answer["plan"].as_array().unwrap().len() > 10, "{answer}");
    same(&before, &host.kernel());
    assert_eq!(
        host.get(PATH).ok(),
        json!({"namespaces": [], "bridges": [], "veths": [], "links": []})
    );
}

#[test]
fn document_errors_name_their_place() {
    let host = Host::started();
    for (document, code, pointer) in [
        (
            json!({"namespaces": [{"name": "a"}, {"name": "a"}]}),
            "duplicate",
            "/namespaces/1/name",
        ),
        (json!({"veths": [{}]}), "invalid_field", "/veths/0/name"),
        (
            json!({"bridges": {"name": "br0"}}),
            "invalid_field",
            "/bridges",
        ),
        (json!({"bridges": ["br0"]}), "invalid_field", "/bridges/0"),
        (json!({"cables": []}), "unknown_field", "/cables"),
        (
            json!({"links": [{"name": "d0", "type": "dummy", "vni": 1}]}),
            "unknown_field",
            "/links/0/vni",
        ),
        (
            json!({"bridges": [{"name": "br0"}, {"name": "br1", "colour": 1}]}),
            "unknown_field",
            "/bridges/1/colour",
        ),
        (
            json!({"bridges": [{"name": "br0", "addresses": ["10.0.0.1/24"]}, {"name": "br1", "addresses": ["10.0.0.1/24"]}]}),
            "duplicate",
            "/bridges/0/addresses/0",
        ),
    ] {
        host.put(PATH, document).refused(422, code, Some(pointer));
    }
    host.put(PATH, json!([]))
        .refused(422, "invalid_field", None);
    host.raw("PUT", PATH, &YAML, b"a: [b".to_vec())
        .refused(400, "malformed_json", None);
    host.raw("PUT", PATH, &YAML, Vec::new())
        .refused(422, "invalid_field", None);
    for (yaml, why) in [
        (
            "namespaces: [{name: a}]\nnamespaces: [{name: b}]\n",
            "duplicate key \"namespaces\" at line 2",
        ),
        (
            "namespaces: [{name: a, sysctls: {net.a: 1, net.a: 1}}]\n",
            "duplicate key \"net.a\"",
        ),
        (
            "namespaces:\n- &a {name: a}\n- *a\n",
            "anchors (&) and aliases (*) are not supported",
        ),
        (&format!("a: {}", "[".repeat(40_000)), "recursion limit"),
    ] {
        let answer = host.raw("PUT", PATH, &YAML, yaml.into());
        assert!(
            answer.json["detail"].as_str().unwrap().contains(why),
            "{}",
            answer.json
        );
        answer.refused(400, "malformed_json", None);
    }
    host.raw(
        "PUT",
        PATH,
        &[("content-type", "text/plain")],
        b"{}".to_vec(),
    )
    .refused(415, "unsupported_media_type", None);
    host.raw("PUT", "/v1/topology?prune=true", &YAML, b"{}".to_vec())
        .refused(400, "invalid_query", None);
    assert_eq!(
        host.get(PATH).ok(),
        json!({"namespaces": [], "bridges": [], "veths": [], "links": []})
    );
}

#[test]
fn document_may_be_larger_than_other_bodies() {
    let host = Host::started();
    // 1,200 resources in some 1.6 MiB, most of it labels.
    let label = "x".repeat(1000);
    let namespaces: Vec<Value> = (0..400)
        .map(|i| json!({"name": format!("n{i}"), "labels": {"a": label, "b": label, "c": label}}))
        .collect();
    let veths: Vec<Value> = (0..400)
        .map(|i| json!({"name": format!("v{i}"), "endpoints": [{"namespace": format!("n{i}"), "interface": "eth0"}, {"bridge": "br0", "interface": format!("p{i}")}]}))
        .collect();
    let document = json!({"namespaces": namespaces, "bridges": [{"name": "br0"}], "veths": veths});
    assert!(document.to_string().len() > 1 << 20);
    assert_eq!(
        counts(&host.put(PATH, document.clone()).ok()),
        [801, 0, 0, 0]
    );
    assert_eq!(
        host.ip(&["link", "show", "master", "br0"])
            .as_array()
            .unwrap()
            .len(),
        400
    );
    assert_eq!(counts(&host.put(PATH, document).ok()), [0, 0, 0, 801]);
    assert_eq!(counts(&host.put(PATH, json!({})).ok()), [0, 0, 801, 0]);
}

#[test]
fn topology_survives_a_reboot() {
    let mut host = Host::started();
    apply(&host, LAB);
    let before = host.get(PATH).ok();
    host.reboot();
    assert_eq!(host.get(PATH).ok(), before);
    let reply = host
        .post(
            "/v1/namespaces/left/ping",
            json!({"address": "10.2.0.2", "timeout_ms": 20000}),
        )
        .ok();
    assert_eq!(reply["received"], 1, "{reply}");
}

/// The first packet through a router that has only just been made is not lost: a router asks for
/// neighbours by its link-local address, which the kernel keeps back for a second or two while it
/// looks for duplicates.
#[test]
fn first_ipv6_packet_through_a_router_arrives() {
    if !has("ping") {
        return;
    }
    let host = Host::started();
    let namespace = |name: &str, via: &str| json!({"name": name, "routes": [{"destination": "default", "via": via}]});
    let end = |namespace: &str, interface: &str, address: &str, mac: &str| json!({"namespace": namespace, "interface": interface, "addresses": [address], "mac": mac});
    let document = json!({
        "namespaces": [namespace("one", "fd00:1::fe"), namespace("two", "fd00:2::fe"),
            {"name": "router", "sysctls": {"net.ipv6.conf.all.forwarding": 1}}],
        "bridges": [{"name": "lan", "namespace": "router", "addresses": ["fd00:2::fe/64"], "mac": "02:00:00:00:00:01"}],
        "veths": [
            {"name": "a", "endpoints": [end("one", "eth0", "fd00:1::1/64", "02:00:00:00:00:02"),
                end("router", "eth1", "fd00:1::fe/64", "02:00:00:00:00:03")]},
            {"name": "b", "endpoints": [end("two", "eth0", "fd00:2::1/64", "02:00:00:00:00:04"),
                {"namespace": "router", "interface": "port", "bridge": "lan"}]}]});
    for round in 0..20 {
        host.put("/v1/topology", document.clone()).ok();
        // A packet that is lost is never answered; on a busy machine an answer may take long.
        let ping = "ip netns exec one ping -6 -n -c 1 -W 20 fd00:2::1";
        assert!(host.sh(ping).status.success(), "round {round}");
        host.put("/v1/topology", json!({})).ok();
    }
}

fn with_tag(host: &Host, method: &str, path: &str, name: &str, tag: &str, body: &Value) -> Answer {
    let headers = [("content-type", "application/json"), (name, tag)];
    host.raw(method, path, &headers, body.to_string().into_bytes())
}

fn tag(host: &Host, path: &str) -> String {
    host.get(path).etag.unwrap()
}

#[test]
fn tag_of_the_network_changes_with_each_write() {
    let mut host = Host::started();
    let mut tags = vec![tag(&host, PATH)];
    host.put("/v1/namespaces/a", json!({})).ok();
    tags.push(tag(&host, PATH));
    host.patch("/v1/namespaces/a", json!({"labels": {"lab": "one"}}))
        .ok();
    tags.push(tag(&host, PATH));
    // Made again as it was, it is another resource.
    host.delete("/v1/namespaces/a").ok();
    host.put("/v1/namespaces/a", json!({"labels": {"lab": "one"}}))
        .ok();
    tags.push(tag(&host, PATH));
    for (i, tag) in tags.iter().enumerate() {
        assert!(!tags[..i].contains(tag), "{tags:?}");
    }
    let last = tags.pop().unwrap();
    // A write that changes nothing, a refused one and a restart are no change.
    host.put("/v1/namespaces/a", json!({"labels": {"lab": "one"}}))
        .ok();
    host.put("/v1/namespaces/b", json!({"sysctls": {"net.none": "1"}}))
        .refused(422, "invalid_field", None);
    assert_eq!(tag(&host, PATH), last);
    host.restart();
    assert_eq!(tag(&host, PATH), last);
    // A reader who has it already is sent nothing.
    let known = host.raw("GET", PATH, &[("if-none-match", &last)], Vec::new());
    assert_eq!((known.status, known.etag.as_ref()), (304, Some(&last)));
    let yaml = host.raw("GET", PATH, &YAML, Vec::new());
    assert_eq!(yaml.etag.as_ref(), Some(&last));
    host.raw("GET", PATH, &[("if-match", &tags[0])], Vec::new())
        .refused(412, "precondition_failed", None);
}

#[test]
fn stale_document_is_refused() {
    let host = Host::started();
    apply(&host, LAB);
    let before = tag(&host, PATH);
    let (one, two) = ("/v1/topology?label=lab=one", "/v1/topology?label=lab=two");
    let before_of_one = tag(&host, one);
    host.put("/v1/namespaces/new", json!({"labels": {"lab": "two"}}))
        .ok();
    host.wait_until_settled();
    let kernel = host.kernel();
    for method in ["PUT", "PATCH"] {
        for path in [PATH, "/v1/topology?dry_run=true", "/v1/topology?wait=false"] {
            with_tag(&host, method, path, "if-match", &before, &json!({})).refused(
                412,
                "precondition_failed",
                None,
            );
        }
    }
    let lines = [
        ("content-type", "application/json"),
        ("accept", "application/x-ndjson"),
        ("if-match", before.as_str()),
    ];
    host.raw("PUT", PATH, &lines, b"{}".to_vec())
        .refused(412, "precondition_failed", None);
    with_tag(&host, "PUT", PATH, "if-none-match", "*", &json!({})).refused(
        412,
        "precondition_failed",
        None,
    );
    same(&kernel, &host.kernel());
    // The tag of a selection is that of the selected resources.
    assert_eq!(tag(&host, one), before_of_one);
    with_tag(&host, "PUT", two, "if-match", &before_of_one, &json!({})).refused(
        412,
        "precondition_failed",
        None,
    );
    let document = host.get(one).ok();
    let unchanged = with_tag(&host, "PUT", one, "if-match", &before_of_one, &document);
    assert_eq!(counts(&unchanged.ok()), [0, 0, 0, 2]);
    let now = tag(&host, PATH);
    let done = with_tag(&host, "PUT", PATH, "if-match", &now, &json!({}));
    assert_eq!(counts(&done.ok()), [0, 0, 7, 0]);
    with_tag(&host, "PUT", PATH, "if-match", "*", &json!({})).ok();
}

/// Editors who read the document, add to it and put it back lose nothing of each other's.
#[test]
fn editors_of_one_document_lose_nothing() {
    const EDITORS: usize = 8;
    let host = Host::started();
    let socket = host.socket();
    let refused: usize = std::thread::scope(|scope| {
        let edit = |name: String| {
            let client = netnsd_client::Client::unix(&socket);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let send = |headers: &[(&str, &str)], method: &str, body: String| {
                let method = method.parse().unwrap();
                let sending = client.request(method, PATH, headers, body);
                runtime.block_on(sending).unwrap()
            };
            for refused in 0.. {
                let read = send(&[], "GET", String::new());
                let mut document = read.json();
                let namespaces = document["namespaces"].as_array_mut().unwrap();
                namespaces.push(json!({ "name": name }));
                let headers = [
                    ("content-type", "application/json"),
                    ("if-match", read.header("etag").unwrap()),
                ];
                match send(&headers, "PUT", document.to_string()).status.as_u16() {
                    200 => return refused,
                    412 => {}
                    other => panic!("{other}"),
                }
            }
            unreachable!()
        };
        let editors: Vec<_> = (0..EDITORS)
            .map(|i| scope.spawn(move || edit(format!("net{i}"))))
            .collect();
        let refused = editors.into_iter().map(|editor| editor.join().unwrap());
        refused.sum()
    });
    let names = host.ip(&["netns", "list"]);
    assert_eq!(
        names.as_array().unwrap().len(),
        EDITORS,
        "{refused} {names}"
    );
}

/// A document waits behind a write that the database holds up, and its client leaves meanwhile.
#[test]
fn document_whose_client_left_is_logged_as_such() {
    let host = Host::started();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let options = SqliteConnectOptions::new().filename(host.state_dir().join("netnsd.db"));
    let mut lock = runtime.block_on(options.connect()).unwrap();
    let execute = |lock: &mut SqliteConnection, sql: &'static str| {
        runtime.block_on(sqlx::query(sql).execute(lock)).unwrap();
    };
    execute(&mut lock, "BEGIN IMMEDIATE");
    let first = host.open("PUT", "/v1/namespaces/first", &[], "");
    let headers = [
        ("content-type", "application/json"),
        ("accept", "application/x-ndjson"),
    ];
    let mut second = host.open(
        "PATCH",
        PATH,
        &headers,
        r#"{"namespaces": [{"name": "second"}]}"#,
    );
    let mut head = String::new();
    second.read_line(&mut head).unwrap();
    assert!(head.contains("200"), "its status line says nothing: {head}");
    drop(second);
    let lines = || {
        let log = host.log();
        let of_it = log.lines().filter(|line| line.contains("method=PATCH"));
        of_it.map(str::to_owned).collect::<Vec<_>>()
    };
    host.until("the line is there", || !lines().is_empty());
    execute(&mut lock, "ROLLBACK");
    drop(first);
    assert!(
        lines().len() == 1 && lines()[0].contains("status=499"),
        "{:?}",
        lines()
    );
    // The next write in the queue is carried out.
    host.put("/v1/namespaces/third", json!({})).ok();
    host.get("/v1/namespaces/second")
        .refused(404, "not_found", None);
    // Others are logged at their end.
    let (_, body) = host.whole("PUT", PATH, &headers, "{}");
    assert!(body.contains("deleted"), "{body}");
    host.until("the other line is there", || {
        host.log().lines().any(|line| {
            line.contains("method=PUT") && line.contains(PATH) && line.contains("status=200")
        })
    });
}
