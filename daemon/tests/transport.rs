//! HTTP as curl, socat and a shell speak it.

mod common;

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::Shutdown,
    os::{fd::AsFd, unix::net::UnixStream},
    time::{Duration, Instant},
};

use common::Host;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

/// Sends bytes, and reads the answer to its end; the client may end its side first.
fn send(host: &Host, request: &str, ends: bool) -> String {
    let mut stream = UnixStream::connect(host.socket()).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    if ends {
        stream.shutdown(Shutdown::Write).unwrap();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn half_closed_client_is_answered() {
    let host = Host::started();
    host.put("/v1/namespaces/net0", json!({})).ok();
    for _ in 0..50 {
        let answer = send(
            &host,
            "GET /v1/host/links HTTP/1.1\r\nHost: x\r\n\r\n",
            true,
        );
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("}\n"),
            "{answer}"
        );
    }
    // Also where that takes longer, and one that sends all of it in the end.
    let body = json!({"argv": ["sh", "-c", "sleep 0.5; echo done"]}).to_string();
    let head =
        "POST /v1/namespaces/net0/exec HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
    let answer = send(
        &host,
        &format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()),
        true,
    );
    assert!(answer.contains("\"stdout\":\"done\\n\""), "{answer}");
    // One that does not send all of its request waits for nothing.
    let cut = send(&host, &format!("{head}Content-Length: 100\r\n\r\n{{"), true);
    assert!(cut.starts_with("HTTP/1.1 400"), "{cut}");
}

#[test]
fn shell_clients_get_readable_answers() {
    let host = Host::started();
    let plain = |request: &str| {
        send(
            &host,
            &format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
            false,
        )
    };
    // No body is an empty one, a trailing slash none.
    assert!(plain("PUT /v1/namespaces/net0/").starts_with("HTTP/1.1 201"));
    assert!(plain("PATCH /v1/namespaces/net0").starts_with("HTTP/1.1 200"));
    assert_eq!(
        host.get("/v1/namespaces/?limit=1").ok()["items"][0]["name"],
        "net0"
    );
    for path in [
        "/",
        "/v1",
        "/v1/namespaces",
        "/v1/namespaces/net0",
        "/v1/topology",
        "/v1/nothing",
        "/openapi.json",
    ] {
        assert!(plain(&format!("GET {path}")).ends_with("}\n"), "{path}");
    }
    let index = host.get("/").ok();
    assert_eq!(
        (&index["name"], &index["links"]["namespaces"]),
        (&json!("netnsd"), &json!("/v1/namespaces"))
    );
    for path in index["links"].as_object().unwrap().values() {
        let answer = plain(&format!("HEAD {}", path.as_str().unwrap()));
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
    let twice = send(
        &host,
        "GET /v1 HTTP/1.1\r\nHost: x\r\nHost: y\r\nConnection: close\r\n\r\n",
        false,
    );
    assert!(
        twice.starts_with("HTTP/1.1 400") && twice.contains("2 Host headers"),
        "{twice}"
    );
    // A client that asks first is spared the body that is too large.
    let head = "PUT /v1/namespaces/net1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n";
    let large = send(
        &host,
        &format!("{head}Content-Length: 99999999\r\n\r\n"),
        false,
    );
    assert!(large.starts_with("HTTP/1.1 413"), "{large}");
}

#[test]
fn json_patch_changes_one_field() {
    let host = Host::started();
    let path = "/v1/bridges/br0";
    host.put(path, json!({"addresses": ["10.0.0.1/24"]})).ok();
    let patch = |path: &str, operations: Value| {
        let kind = [("content-type", "application/json-patch+json")];
        host.raw("PATCH", path, &kind, operations.to_string().into_bytes())
    };
    let add = json!([{"op": "test", "path": "/mtu", "value": null}, {"op": "add", "path": "/addresses/-", "value": "10.0.0.2/24"}]);
    let patched = patch(path, add);
    assert_eq!(
        (patched.status, patched.etag.as_deref()),
        (200, Some("\"2\"")),
        "{}",
        patched.json
    );
    assert_eq!(
        patched.json["addresses"],
        json!(["10.0.0.1/24", "10.0.0.2/24"])
    );
    let found = host.ip(&["addr", "show", "br0"]);
    let found: Vec<&Value> = found[0]["addr_info"]
        .as_array()
        .unwrap()
        .iter()
        .map(|address| &address["local"])
        .collect();
    assert!(found.contains(&&json!("10.0.0.2")), "{found:?}");
    patch(path, json!([{"op": "test", "path": "/mtu", "value": 1400}])).refused(
        409,
        "conflict",
        Some("/0/value"),
    );
    patch(path, json!([{"op": "remove", "path": "/addresses/7"}])).refused(
        422,
        "invalid_field",
        Some("/0/path"),
    );
    patch(
        path,
        json!([{"op": "replace", "path": "/name", "value": "br1"}]),
    )
    .refused(422, "invalid_field", Some("/name"));
    patch(path, json!([{"op": "replace", "path": "/mtu", "value": 1}])).refused(
        422,
        "invalid_field",
        Some("/mtu"),
    );
    patch(path, json!({"mtu": 1400})).refused(422, "invalid_field", Some(""));
    patch("/v1/bridges/none", json!([])).refused(404, "not_found", None);
    host.put(
        "/v1/veths/v",
        json!({"endpoints": [{"interface": "a"}, {"interface": "b"}]}),
    )
    .ok();
    let end = patch(
        "/v1/veths/v/endpoints/1",
        json!([{"op": "replace", "path": "/mtu", "value": 1400}]),
    )
    .ok();
    assert_eq!(end["mtu"], 1400);
    assert_eq!(host.ip(&["link", "show", "b"])[0]["mtu"], 1400);
    assert_eq!(host.get(path).ok()["generation"], 2);
}

#[test]
fn malformed_head_is_answered_with_a_problem() {
    let host = Host::started();
    let good = "GET /v1/health HTTP/1.1\r\nHost: x\r\n";
    let headers: String = (0..150).map(|i| format!("X-{i}: {i}\r\n")).collect();
    for (request, status, code) in [
        (
            "GET /v1 HTTP/1.1\r\nno header\r\n\r\n".to_owned(),
            400,
            "malformed_request",
        ),
        (
            format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(70_000)),
            414,
            "uri_too_long",
        ),
        (format!("{good}{headers}\r\n"), 431, "head_too_large"),
    ] {
        // By itself, and after one that is answered.
        for before in [String::new(), format!("{good}\r\n")] {
            let mut stream = UnixStream::connect(host.socket()).unwrap();
            stream.write_all(before.as_bytes()).unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            if !before.is_empty() {
                lines
                    .by_ref()
                    .lines()
                    .find(|line| line.as_ref().unwrap().starts_with('{'))
                    .unwrap()
                    .unwrap();
            }
            // It may be answered before all of it was taken.
            let _sent = stream.write_all(request.as_bytes());
            let mut answer = Vec::new();
            // A reset is an end, too.
            let _ended = lines.read_to_end(&mut answer);
            let answer = String::from_utf8(answer).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            let body: Value = serde_json::from_str(body).unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
            assert!(
                head.contains("application/problem+json") && head.contains("x-request-id"),
                "{head}"
            );
            assert_eq!(
                (&body["status"], &body["code"]),
                (&json!(status), &json!(code))
            );
        }
    }
}

#[test]
fn http2_is_not_served() {
    let host = Host::started();
    let answer = send(
        &host,
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        true,
    );
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
        "{answer:?}"
    );
    let filter = "label=z!=&".repeat(17);
    for path in ["namespaces", "bridges", "topology"] {
        host.get(&format!("/v1/{path}?{filter}"))
            .refused(400, "invalid_query", None);
    }
}

/// Waits until the daemon closes a connection; returns the time since `start`.
fn closed(mut stream: &UnixStream, start: Instant) -> Duration {
    stream
        .set_read_timeout(Some(Duration::from_secs(100)))
        .unwrap();
    // An answer may come first, and a reset is an end too.
    if let Err(error) = stream.read_to_end(&mut Vec::new()) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    start.elapsed()
}

#[test]
fn idle_connection_is_closed() {
    let host = Host::started();
    let start = Instant::now();
    let open = |text: &str| {
        let mut stream = UnixStream::connect(host.socket()).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    };
    let answered = "GET /v1 HTTP/1.1\r\nHost: x\r\n\r\n";
    for stream in [
        open(""),
        open("G"),
        open("PRI * HTTP/2.0\r\n"),
        open(answered),
    ]
    .iter()
    {
        assert!(closed(stream, start) < Duration::from_secs(60));
    }
    host.get("/v1").ok();
}

#[test]
fn stuck_client_is_closed_and_quiet_one_kept() {
    let host = Host::started();
    let connect = || {
        let stream = UnixStream::connect(host.socket()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(100)))
            .unwrap();
        stream
    };
    let mut quiet = BufReader::new(connect());
    quiet
        .get_mut()
        .write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let head = "PUT /v1/namespaces/net0 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
    let mut slow = connect();
    write!(slow, "{head}Content-Length: 100\r\n\r\n{{").unwrap();
    let mut stuck = connect();
    stuck
        .write_all(
            "GET /openapi.yaml HTTP/1.1\r\nHost: x\r\n\r\n"
                .repeat(64)
                .as_bytes(),
        )
        .unwrap();

    let mut hung_up = [PollFd::new(stuck.as_fd(), PollFlags::empty())];
    assert_eq!(
        poll(&mut hung_up, PollTimeout::try_from(100_000).unwrap()),
        Ok(1),
        "a stuck client is cut off"
    );
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("within 31 s"),
        "{answer}"
    );
    host.put("/v1/namespaces/net0", json!({})).ok();
    assert!(
        quiet
            .lines()
            .any(|line| line.unwrap().starts_with("event: created"))
    );
}

#[test]
fn stop_ends_running_requests() {
    let mut host = Host::started();
    let open = |text: &str| {
        let mut stream = UnixStream::connect(host.socket()).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    };
    let head = "PUT /v1/namespaces/net0 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
    let slow = open(&format!("{head}Content-Length: 100\r\n\r\n{{"));
    let (silent, begun) = (open(""), open("GET /v1 HT"));
    // Each is accepted by the time that a later one is answered.
    host.get("/v1").ok();
    let start = Instant::now();
    assert!(host.terminate().success());
    assert!(
        start.elapsed() < Duration::from_secs(45),
        "systemd kills by then"
    );
    for stream in [slow, silent, begun] {
        closed(&stream, start);
    }
}

#[test]
fn log_line_names_caller_and_reason() {
    let mut host = Host::new();
    host.start_with(|command| {
        command.args(["--log-format", "json"]);
    });
    host.put("/v1/bridges/br0", json!({})).ok();
    host.put("/v1/bridges/br1", json!({"mtu": 1}))
        .refused(422, "invalid_field", Some("/mtu"));
    let answered = |path: &str| {
        let log = host.log();
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let mut lines = lines.filter(|line: &Value| line["fields"]["path"] == path);
        lines
            .find(|line| line["fields"]["message"] == "answered")
            .map(|line| line["fields"].clone())
    };
    // The answer may overtake its line.
    host.until("both are logged", || answered("/v1/bridges/br1").is_some());
    let (created, refused) = (
        answered("/v1/bridges/br0").unwrap(),
        answered("/v1/bridges/br1").unwrap(),
    );
    assert_eq!(
        (&created["method"], &created["status"], &created["caller"]),
        (&json!("PUT"), &json!(201), &json!("uid 0"))
    );
    assert_eq!(
        (&created["code"], &created["detail"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(
        (&refused["status"], &refused["caller"], &refused["code"]),
        (&json!(422), &json!("uid 0"), &json!("invalid_field"))
    );
    assert!(
        refused["detail"]
            .as_str()
            .unwrap()
            .contains("not a valid MTU"),
        "{refused}"
    );
    for line in [created, refused] {
        let ms = line["ms"].as_f64().unwrap();
        assert_eq!(ms, (ms * 1000.0).round() / 1000.0, "{line}");
    }
}
