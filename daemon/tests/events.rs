//! Events, as lists and as streams.

mod common;

use std::{
    io::{BufRead, BufReader},
    os::unix::net::UnixStream,
};

use common::Host;
use serde_json::{Value, json};

const LIST: [(&str, &str); 1] = [("accept", "application/json")];

fn list(host: &Host, query: &str) -> Vec<Value> {
    let answer = host
        .raw("GET", &format!("/v1/events{query}"), &LIST, Vec::new())
        .ok();
    answer["items"].as_array().unwrap().clone()
}

fn told(event: &Value) -> String {
    format!(
        "{} {}",
        event["type"].as_str().unwrap(),
        event["resource"]["name"].as_str().unwrap()
    )
}

/// A stream whose head is read.
fn follow(host: &Host, query: &str, headers: &[(&str, &str)]) -> BufReader<UnixStream> {
    let mut stream = host.open("GET", &format!("/v1/events{query}"), headers, "");
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        assert!(
            stream.read_line(&mut line).unwrap() > 0,
            "the head ended early"
        );
    }
    stream
}

/// The next event of a stream: its id, its type, its data. None at its end.
fn next(stream: &mut BufReader<UnixStream>) -> Option<(u64, String, Value)> {
    let (mut id, mut kind, mut data) = (0, String::new(), Value::Null);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).unwrap() == 0 {
            return None;
        }
        match line.trim_end().split_once(": ") {
            Some(("id", value)) => id = value.parse().unwrap(),
            Some(("event", value)) => value.clone_into(&mut kind),
            Some(("data", value)) => data = serde_json::from_str(value).unwrap(),
            _ if line == "\n" && !data.is_null() => return Some((id, kind, data)),
            _ => {}
        }
    }
}

#[test]
fn event_stream_resumes_after_a_cut() {
    let mut host = Host::started();
    let mut stream = follow(&host, "", &[]);
    host.put("/v1/namespaces/net0", json!({})).ok();
    let (id, kind, data) = next(&mut stream).unwrap();
    assert_eq!(
        (kind.as_str(), told(&data).as_str()),
        ("created", "created net0")
    );
    assert_eq!(data["id"], id);
    assert_eq!(
        data["resource"],
        json!({"kind": "namespace", "name": "net0", "uid": host.get("/v1/namespaces/net0").ok()["uid"]})
    );
    assert_eq!(next(&mut stream).unwrap().1, "applied");
    host.put("/v1/namespaces/net0", json!({"labels": {"a": "b"}}))
        .ok();
    let (updated, kind, data) = next(&mut stream).unwrap();
    assert_eq!(
        (kind.as_str(), &data["detail"]),
        ("updated", &json!({"generation": 2}))
    );
    next(&mut stream).unwrap();
    // The daemon's end is the stream's; the history goes on afterwards.
    host.restart();
    assert!(next(&mut stream).is_none());
    host.delete("/v1/namespaces/net0");
    let mut stream = follow(&host, "", &[("last-event-id", &updated.to_string())]);
    let after = [next(&mut stream).unwrap(), next(&mut stream).unwrap()];
    assert_eq!(after.map(|(_, kind, _)| kind), ["applied", "deleted"]);
    let mut stream = follow(
        &host,
        &format!("?since={id}&type=updated&type=deleted"),
        &[],
    );
    assert_eq!(
        [next(&mut stream).unwrap().1, next(&mut stream).unwrap().1],
        ["updated", "deleted"]
    );
}

#[test]
fn event_list_is_filtered() {
    let host = Host::started();
    host.put("/v1/namespaces/net0", json!({})).ok();
    host.put("/v1/bridges/br0", json!({})).ok();
    host.put("/v1/bridges/br0", json!({"namespace": "nowhere"}))
        .refused(422, "unknown_reference", None);
    host.until("everything is told", || list(&host, "").len() == 4);
    let all = list(&host, "");
    assert_eq!(
        all.iter().map(told).collect::<Vec<_>>(),
        ["created net0", "applied net0", "created br0", "applied br0"]
    );
    assert_eq!(list(&host, "?kind=bridge").len(), 2);
    assert_eq!(list(&host, "?name=net0&type=created").len(), 1);
    assert_eq!(list(&host, &format!("?since={}", all[1]["id"])).len(), 2);
    for wrong in ["?kind=bridges", "?type=made", "?since=-1", "?colour=red"] {
        host.raw("GET", &format!("/v1/events{wrong}"), &LIST, Vec::new())
            .refused(400, "invalid_query", None);
    }
}

#[test]
fn foreign_namespaces_appear_and_disappear() {
    let host = Host::new();
    host.run(&["ip", "netns", "add", "early"]);
    let mut host = host;
    host.start();
    let mut stream = follow(&host, "?type=appeared&type=disappeared", &[]);
    host.put("/v1/namespaces/ours", json!({})).ok();
    host.run(&["ip", "netns", "add", "theirs"]);
    host.run(&["ip", "netns", "delete", "early"]);
    host.delete("/v1/namespaces/ours");
    host.run(&["ip", "netns", "delete", "theirs"]);
    let seen: Vec<String> = (0..3)
        .map(|_| told(&next(&mut stream).unwrap().2))
        .collect();
    assert_eq!(
        seen,
        ["appeared theirs", "disappeared early", "disappeared theirs"]
    );
    assert_eq!(
        list(&host, "?type=appeared")[0]["resource"]["uid"],
        Value::Null
    );
}

#[test]
fn first_namespace_of_a_host_is_seen() {
    // There is no /run/netns yet.
    let host = Host::started();
    let mut stream = follow(&host, "?type=appeared", &[]);
    host.run(&["ip", "netns", "add", "theirs"]);
    assert_eq!(told(&next(&mut stream).unwrap().2), "appeared theirs");
}

#[test]
fn slow_reader_does_not_block_others() {
    let host = Host::started();
    let mut stream = follow(&host, "?since=0", &[]);
    // More than its connection and the history hold.
    let documents = [0, 1].map(|round| {
        let item = |i: usize| json!({"name": format!("br{i}"), "up": false, "labels": {"round": format!("{round}")}});
        json!({"bridges": (0..200).map(item).collect::<Vec<_>>()})
    });
    let mut made = 0;
    while made < 40_000 {
        for document in &documents {
            host.put("/v1/topology", document.clone()).ok();
            made += 400;
        }
    }
    let newest = list(&host, "?kind=bridge").last().unwrap()["id"]
        .as_u64()
        .unwrap();
    let mut last = 0;
    while let Some((id, ..)) = next(&mut stream) {
        assert!(id > last);
        last = id;
    }
    assert!(last < newest, "it was cut off at {last} of {newest}");
    let kept = list(&host, "").len();
    assert!((10_000..40_000).contains(&kept), "{kept} are kept");
}

#[test]
fn reconcile_request_runs_a_pass() {
    // Left alone, the damage would be repaired before it is asked for.
    let mut host = Host::new();
    host.start_with(|command| {
        command.args(["--repair", "report"]);
    });
    host.put("/v1/bridges/br0", json!({"addresses": ["10.0.0.1/24"]}))
        .ok();
    assert_eq!(
        host.post("/v1/reconcile", json!({})).ok(),
        json!({"repaired": [], "failed": []})
    );
    host.run(&["ip", "address", "del", "10.0.0.1/24", "dev", "br0"]);
    let answer = host.post("/v1/reconcile", json!({})).ok();
    assert_eq!(
        answer,
        json!({"repaired": [{"kind": "bridge", "name": "br0"}], "failed": []})
    );
    let link = host.ip(&["address", "show", "dev", "br0"]);
    assert_eq!(link[0]["addr_info"][0]["local"], "10.0.0.1");
}

#[test]
fn unwaited_write_returns_at_once_and_is_applied() {
    let host = Host::started();
    let answer = host.put("/v1/namespaces/net0?wait=false", json!({}));
    assert_eq!(
        (answer.status, answer.location.as_deref()),
        (202, Some("/v1/namespaces/net0"))
    );
    assert_eq!(answer.json["name"], "net0");
    host.until("it is there", || {
        host.get("/v1/namespaces/net0").ok()["status"]["state"] == "in_sync"
    });
    assert_eq!(host.ip(&["netns", "list"])[0]["name"], "net0");
    let topology = host.put("/v1/topology?wait=false", json!({}));
    assert_eq!(
        (topology.status, &topology.json["deleted"]),
        (202, &json!([{"kind": "namespace", "name": "net0"}]))
    );
    host.until("it is gone", || host.ip(&["netns", "list"]) == json!([]));
}
