//! Access: tokens, roles, prefixes, users of the Unix socket, and the audit log.

mod common;

use std::{io::BufRead, os::unix::fs::PermissionsExt, path::Path};

use common::{
    Host,
    skip::{has, is_root},
};
use serde_json::{Value, json};

/// Sends a request over TCP, from within the host: the answer's status and its body.
fn send(host: &Host, address: &str, request: &str) -> (u16, String) {
    let file = host.dir().join("request");
    std::fs::write(&file, request).unwrap();
    let place = address.replace(':', "/");
    let script = format!(
        "exec 3<>/dev/tcp/{place}; cat '{}' >&3; cat <&3",
        file.display()
    );
    let output = host
        .sandbox
        .command("bash")
        .unwrap()
        .args(["-c", &script])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{text} {:?}", String::from_utf8_lossy(&output.stderr)));
    (
        head.split(' ').nth(1).unwrap().parse().unwrap(),
        body.to_owned(),
    )
}

/// Asks in JSON: status and body.
fn ask(
    host: &Host,
    address: &str,
    token: &str,
    method: &str,
    path: &str,
    body: Value,
) -> (u16, Value) {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let request = format!(
        "{method} {path} HTTP/1.0\r\nhost: localhost\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (status, body) = send(host, address, &request);
    (status, serde_json::from_str(&body).unwrap_or(Value::Null))
}

fn token(host: &Host, body: Value) -> String {
    let issued = host.post("/v1/tokens", body).ok();
    issued["secret"].as_str().unwrap().to_owned()
}

#[test]
fn token_has_its_role_after_a_restart() {
    let (mut host, address) = Host::started_on_tcp();
    let viewer = token(&host, json!({"name": "looks", "role": "viewer"}));
    let operator = token(&host, json!({"name": "works", "role": "operator"}));
    let admin = token(
        &host,
        json!({"name": "rules", "role": "admin", "expires_at": "2999-01-01T00:00:00Z"}),
    );
    for secret in [&viewer, &operator, &admin] {
        assert_eq!(secret.len(), "netnsd_".len() + 64, "256 bits");
    }
    let status = |token: &str, method: &str, path: &str, body: Value| {
        ask(&host, &address, token, method, path, body).0
    };
    assert_eq!(status(&viewer, "GET", "/v1/namespaces", Value::Null), 200);
    assert_eq!(status(&viewer, "PUT", "/v1/namespaces/n0", json!({})), 403);
    assert_eq!(
        status(&operator, "PUT", "/v1/namespaces/n0", json!({})),
        201
    );
    assert_eq!(status(&operator, "GET", "/v1/tokens", Value::Null), 403);
    assert_eq!(
        status(
            &operator,
            "PUT",
            "/v1/namespaces/n1",
            json!({"attach": {"pid": 1}})
        ),
        403
    );
    assert_eq!(
        status(&operator, "PUT", "/v1/namespaces/n1?adopt=true", json!({})),
        403
    );
    // A token is no user.
    assert_eq!(
        status(
            &operator,
            "POST",
            "/v1/namespaces/n0/exec",
            json!({"argv": ["true"]})
        ),
        403
    );
    assert_eq!(
        status(
            &viewer,
            "POST",
            "/v1/namespaces/n0/exec",
            json!({"argv": ["true"]})
        ),
        403
    );
    assert_eq!(
        status(
            &admin,
            "POST",
            "/v1/namespaces/n0/exec",
            json!({"argv": ["true"]})
        ),
        200
    );
    assert_eq!(status(&admin, "GET", "/v1/audit", Value::Null), 200);
    assert_eq!(status("netnsd_wrong", "GET", "/v1", Value::Null), 401);
    assert_eq!(status("root-token", "GET", "/v1/tokens", Value::Null), 200);

    host.post("/v1/tokens", json!({"name": "looks", "role": "admin"}))
        .refused(409, "already_exists", None);
    host.post("/v1/tokens", json!({"name": "x", "role": "king"}))
        .refused(422, "invalid_field", Some("/role"));
    host.post(
        "/v1/tokens",
        json!({"name": "x", "role": "viewer", "prefix": "-"}),
    )
    .refused(422, "invalid_field", Some("/prefix"));
    let past = json!({"name": "x", "role": "viewer", "expires_at": "2001-01-01T00:00:00Z"});
    host.post("/v1/tokens", past)
        .refused(422, "invalid_field", Some("/expires_at"));
    for (time, told) in [
        ("9999-12-31T23:59:59Z", "after 9999-12-30T22:00:00"),
        ("soon", "RFC 3339"),
    ] {
        let refused = host.post(
            "/v1/tokens",
            json!({"name": "x", "role": "viewer", "expires_at": time}),
        );
        assert!(
            refused.json["detail"].as_str().unwrap().contains(told),
            "{}",
            refused.json
        );
        refused.refused(422, "invalid_field", Some("/expires_at"));
    }
    let all = host.get("/v1/tokens").ok();
    let names: Vec<_> = all["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| token["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["looks", "rules", "works"]);
    assert!(
        !all.to_string().contains(&viewer[7..]),
        "the secret is shown once"
    );
    // Nor is it on the disk.
    for file in std::fs::read_dir(host.state_dir()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap_or_default();
        assert!(
            !bytes
                .windows(64)
                .any(|part| part == &viewer.as_bytes()[7..])
        );
    }

    host.restart_as(|host| {
        let mut command = host.netnsd();
        command
            .args(["--listen", &address, "--token-file"])
            .arg(host.dir().join("token"));
        command
    });
    let status = |token: &str, path: &str| ask(&host, &address, token, "GET", path, Value::Null).0;
    assert_eq!(
        (status(&viewer, "/v1"), status(&viewer, "/v1/audit")),
        (200, 403)
    );
    assert_eq!(host.delete("/v1/tokens/looks").status, 204);
    assert_eq!(status(&viewer, "/v1"), 401);
    host.delete("/v1/tokens/looks")
        .refused(404, "not_found", None);
}

#[test]
fn wrong_tokens_do_not_lock_out_a_right_one() {
    let (host, address) = Host::started_on_tcp();
    let status = |token: &str| ask(&host, &address, token, "GET", "/v1", Value::Null).0;
    let answers: Vec<u16> = (0..22).map(|_| status("netnsd_wrong")).collect();
    assert_eq!(
        (&answers[..20], &answers[20..]),
        (&[401; 20][..], &[429; 2][..])
    );
    assert_eq!((status("root-token"), status("netnsd_wrong")), (200, 429));
}

#[test]
fn revoked_token_ends_its_streams() {
    let (host, address) = Host::started_on_tcp();
    let secret = token(&host, json!({"name": "watches", "role": "viewer"}));
    let place = address.replace(':', "/");
    let script = format!(
        "exec 3<>/dev/tcp/{place}; printf 'GET /v1/events HTTP/1.0\\r\\nhost: localhost\\r\\nauthorization: Bearer {secret}\\r\\n\\r\\n' >&3; cat <&3"
    );
    let mut child = host.sandbox.command("bash").unwrap();
    let mut child = child
        .args(["-c", &script])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    assert!(lines.next().unwrap().contains("200"));
    host.put("/v1/namespaces/n0", json!({})).ok();
    assert!(lines.any(|line| line.contains("\"created\"")));
    assert_eq!(host.delete("/v1/tokens/watches").status, 204);
    // The stream ends, and with it the reader.
    lines.for_each(drop);
    assert!(child.wait().unwrap().success());
}

#[test]
fn prefix_confines_its_caller() {
    let (host, address) = Host::started_on_tcp();
    let secret = token(
        &host,
        json!({"name": "team", "role": "operator", "prefix": "team-"}),
    );
    let ask =
        |method: &str, path: &str, body: Value| ask(&host, &address, &secret, method, path, body);
    let code = |(status, answer): (u16, Value)| {
        (
            status,
            answer["code"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let (not_found, forbidden) = ((404, "not_found".to_owned()), (403, "forbidden".to_owned()));
    host.put("/v1/namespaces/other", json!({})).ok();
    host.put("/v1/bridges/other-br", json!({})).ok();
    assert_eq!(ask("PUT", "/v1/namespaces/team-a", json!({})).0, 201);
    assert_eq!(
        ask("PUT", "/v1/bridges/team-br", json!({"namespace": "team-a"})).0,
        201
    );

    // A name out of reach is not found, and cannot be created.
    assert_eq!(
        code(ask("GET", "/v1/namespaces/other", Value::Null)),
        not_found
    );
    assert_eq!(
        code(ask("GET", "/v1/namespaces/other/links", Value::Null)),
        not_found
    );
    assert_eq!(
        code(ask("DELETE", "/v1/namespaces/other", Value::Null)),
        not_found
    );
    assert_eq!(
        code(ask(
            "PATCH",
            "/v1/namespaces/other",
            json!({"loopback": false})
        )),
        not_found
    );
    assert_eq!(
        code(ask(
            "POST",
            "/v1/namespaces/other/ping",
            json!({"address": "127.0.0.1"})
        )),
        not_found
    );
    assert_eq!(
        code(ask("PUT", "/v1/namespaces/mine", json!({}))),
        forbidden
    );
    assert_eq!(
        code(ask("POST", "/v1/namespaces", json!({"name": "mine"}))),
        forbidden
    );
    assert_eq!(code(ask("POST", "/v1/veths", json!({}))), forbidden);
    // References too.
    assert_eq!(
        code(ask(
            "PUT",
            "/v1/bridges/team-b2",
            json!({"namespace": "other"})
        )),
        forbidden
    );
    let port = json!({"endpoints": [{"namespace": "team-a"}, {"bridge": "other-br"}]});
    assert_eq!(code(ask("PUT", "/v1/veths/team-v", port)), forbidden);
    // Lists, the whole, and what bears no name.
    let names = |(_, list): (u16, Value)| -> Vec<String> {
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        names(ask("GET", "/v1/namespaces?include=unmanaged", Value::Null)),
        ["team-a"]
    );
    let whole = ask("GET", "/v1/topology", Value::Null).1;
    assert_eq!(
        (
            whole["namespaces"][0]["name"].as_str(),
            whole["bridges"][1].is_null()
        ),
        (Some("team-a"), true)
    );
    for path in ["/v1/host/links", "/v1/audit", "/metrics"] {
        assert_eq!(ask("GET", path, Value::Null).0, 403, "{path}");
    }
    assert_eq!(code(ask("POST", "/v1/reconcile", Value::Null)), forbidden);
    // A whole document neither names nor deletes what lies outside.
    assert_eq!(
        code(ask(
            "PUT",
            "/v1/topology",
            json!({"namespaces": [{"name": "other"}]})
        )),
        forbidden
    );
    assert_eq!(
        ask("PUT", "/v1/topology", json!({})).1["deleted"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(host.get("/v1/namespaces/other").status, 200);
    // A cascade stops at what is another's.
    assert_eq!(ask("PUT", "/v1/namespaces/team-a", json!({})).0, 201);
    host.put(
        "/v1/veths/foreign",
        json!({"endpoints": [{"namespace": "team-a"}, {}]}),
    )
    .ok();
    assert_eq!(
        code(ask(
            "DELETE",
            "/v1/namespaces/team-a?cascade=true",
            Value::Null
        )),
        forbidden
    );
    // Events.
    let since = format!(
        "GET /v1/events HTTP/1.0\r\nhost: localhost\r\nauthorization: Bearer {secret}\r\naccept: application/json\r\n\r\n"
    );
    let (_, text) = send(&host, &address, &since);
    assert!(
        text.contains("team-a") && !text.contains("other") && !text.contains("foreign"),
        "{text}"
    );
}

#[test]
fn prefix_answers_alike_for_present_and_absent_names() {
    let (host, address) = Host::started_on_tcp();
    let secret = token(
        &host,
        json!({"name": "red", "role": "operator", "prefix": "red-"}),
    );
    let ask =
        |method: &str, path: &str, body: Value| ask(&host, &address, &secret, method, path, body);
    let veth = |end: Value| json!({"endpoints": [end, {"namespace": "red-a"}]});
    let red = ask("PUT", "/v1/namespaces/red-a", json!({}));
    assert_eq!(red.0, 201, "{red:?}");
    host.put("/v1/namespaces/blue-x", json!({})).ok();
    host.put("/v1/bridges/blue-x-br", json!({"namespace": "blue-x"}))
        .ok();
    assert_eq!(
        ask("PUT", "/v1/bridges/red-br", json!({"namespace": "red-a"})).0,
        201
    );

    let answers = |name: &str| -> Vec<(u16, String)> {
        let bridge = format!("{name}-br");
        let asked = [
            ask("POST", "/v1/namespaces", json!({"name": name})),
            ask("PUT", &format!("/v1/namespaces/{name}"), json!({})),
            ask("PUT", "/v1/bridges/red-b2", json!({"namespace": name})),
            ask("PATCH", "/v1/bridges/red-br", json!({"namespace": name})),
            ask(
                "PUT",
                "/v1/veths/red-v",
                veth(json!({"namespace": name, "interface": "eth0"})),
            ),
            ask(
                "PUT",
                "/v1/veths/red-v",
                veth(json!({"namespace": "red-a", "bridge": bridge})),
            ),
            ask(
                "PUT",
                "/v1/topology?dry_run=true",
                json!({"bridges": [{"name": "red-br", "namespace": name}]}),
            ),
            ask(
                "PATCH",
                "/v1/topology",
                json!({"namespaces": [{"name": name}]}),
            ),
        ];
        let text = |answer: &Value| {
            answer["detail"]
                .as_str()
                .unwrap_or_default()
                .replace(name, "NAME")
        };
        asked
            .iter()
            .map(|(status, answer)| (*status, format!("{} {}", answer["code"], text(answer))))
            .collect()
    };
    let (present, absent) = (answers("blue-x"), answers("blue-y"));
    assert_eq!(present, absent);
    assert!(
        present.iter().all(|(status, _)| *status == 403),
        "{present:?}"
    );

    let if_match = |name: &str| {
        let request = format!(
            "PUT /v1/namespaces/{name} HTTP/1.0\r\nhost: localhost\r\nauthorization: Bearer {secret}\r\n\
             content-type: application/json\r\nif-match: \"7\"\r\ncontent-length: 2\r\n\r\n{{}}"
        );
        send(&host, &address, &request).0
    };
    assert_eq!((if_match("blue-x"), if_match("blue-y")), (403, 403));
    let unnamed = || ask("POST", "/v1/veths", veth(json!({"namespace": "red-a"})));
    let before = unnamed();
    host.put(
        "/v1/veths/veth0",
        json!({"endpoints": [{"namespace": "blue-x"}, {"namespace": "blue-x"}]}),
    )
    .ok();
    assert_eq!(
        (before.0, &before.1["detail"]),
        (403, &unnamed().1["detail"]),
        "the first free name is not told"
    );
}

#[test]
fn audit_log_records_caller_and_action() {
    let (host, address) = Host::started_on_tcp();
    let secret = token(&host, json!({"name": "works", "role": "operator"}));
    ask(
        &host,
        &address,
        &secret,
        "PUT",
        "/v1/namespaces/n0",
        json!({}),
    );
    ask(
        &host,
        &address,
        &secret,
        "PUT",
        "/v1/namespaces/n0",
        json!({"netnsid": "x"}),
    );
    ask(
        &host,
        &address,
        &secret,
        "PUT",
        "/v1/namespaces/n1?dry_run=true",
        json!({}),
    );
    ask(
        &host,
        &address,
        &secret,
        "GET",
        "/v1/namespaces",
        Value::Null,
    );
    ask(&host, &address, &secret, "GET", "/v1/audit", Value::Null);
    ask(
        &host,
        &address,
        "wrong",
        "DELETE",
        "/v1/namespaces/n0",
        Value::Null,
    );
    // A write that the kernel refuses was recorded before; it has one entry, with its answer.
    let nonsense = json!({"sysctls": {"net.ipv4.ip_forward": "nonsense"}});
    let refused = host.put("/v1/namespaces/n2", nonsense).status;
    assert!(refused >= 400, "{refused}");
    let log = host.get("/v1/audit").ok();
    let told: Vec<String> = log["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            assert!(
                entry["time"].as_str().unwrap().ends_with('Z') && entry["request_id"].is_string()
            );
            let from = if entry["from"].as_str().unwrap().starts_with("127.0.0.1:") {
                "tcp"
            } else {
                "unix"
            };
            let word = |key: &str| entry[key].as_str().unwrap_or("-").to_owned();
            format!(
                "{} {} {from} {} {} {}",
                word("caller"),
                word("role"),
                word("method"),
                word("path"),
                entry["status"]
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            "uid 0 admin unix POST /v1/tokens 201",
            "token works operator tcp PUT /v1/namespaces/n0 201",
            "token works operator tcp PUT /v1/namespaces/n0 422",
            "token works operator tcp GET /v1/audit 403",
            "- - tcp DELETE /v1/namespaces/n0 401",
            &format!("uid 0 admin unix PUT /v1/namespaces/n2 {refused}"),
        ]
    );
    assert!(!log.to_string().contains(&secret[7..]));
    let second = host.get("/v1/audit?since=1&limit=1").ok();
    assert_eq!(
        (
            second["items"][0]["id"].as_u64(),
            second["items"][1].is_null()
        ),
        (Some(2), true)
    );
    host.get("/v1/audit?limit=0")
        .refused(400, "invalid_query", None);
}

#[test]
fn audit_entries_reach_the_journal() {
    use std::os::unix::fs::MetadataExt;
    let mut host = Host::new();
    let log = host.dir().join("log");
    let file = std::fs::File::create(&log).unwrap().metadata().unwrap();
    let stream = format!("{}:{}", file.dev(), file.ino());
    let lines = |host: &Host| -> Vec<String> {
        let log = host.log();
        log.lines()
            .filter(|line| line.contains(" audit: "))
            .map(ToOwned::to_owned)
            .collect()
    };
    for (stream, count) in [("0:0", 0), (&*stream, 3)] {
        host.start_with(|command| {
            command.env("JOURNAL_STREAM", stream);
        });
        host.put("/v1/namespaces/n0", json!({})).ok();
        host.post("/v1/namespaces/n0/exec", json!({"argv": ["true", "a\nb"]}))
            .ok();
        host.delete("/v1/namespaces/n0").ok();
        assert_eq!(lines(&host).len(), count, "{}", host.log());
        host.terminate();
    }
    let lines = lines(&host);
    for part in [
        "recorded=true",
        "caller=\"uid 0\"",
        "path=\"/v1/namespaces/n0/exec\"",
        r#"argv=["true", "a\nb"]"#,
        "status=200",
    ] {
        assert!(lines[1].contains(part), "{part}: {}", lines[1]);
    }
    // The entry of a write that the kernel refuses was recorded before, and is taken back.
    host.start_with(|command| {
        command.env("JOURNAL_STREAM", &stream);
    });
    let nonsense = json!({"sysctls": {"net.ipv4.ip_forward": "nonsense"}});
    let refused = host.put("/v1/namespaces/n2", nonsense).status;
    assert!(
        host.log().contains(&format!("status={refused}")),
        "{}",
        host.log()
    );
}

/// Sends requests over one connection, and waits for the answer of the last, which closes it.
fn send_all(host: &Host, address: &str, requests: &str) {
    let file = host.dir().join("requests");
    std::fs::write(&file, requests).unwrap();
    let place = address.replace(':', "/");
    let script = format!(
        "exec 3<>/dev/tcp/{place}; cat <&3 >/dev/null & cat '{}' >&3; wait",
        file.display()
    );
    assert!(
        host.sandbox
            .command("bash")
            .unwrap()
            .args(["-c", &script])
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn repeated_refusals_are_folded_in_the_audit_log() {
    let (mut host, address) = Host::started_on_tcp();
    host.put("/v1/namespaces/n0", json!({})).ok();
    host.post("/v1/namespaces/n0/exec", json!({"argv": ["true"]}))
        .ok();
    let by = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: evil.example\r\n\r\n");
    let many: String = (0..2000)
        .flat_map(|i| [by("/v1"), by(&format!("/v1/{i}"))])
        .collect();
    send_all(
        &host,
        &address,
        &(many + "GET /v1 HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n"),
    );
    // A known caller that asks for what is not there is counted as well.
    for _ in 0..50 {
        host.delete("/v1/namespaces/none")
            .refused(404, "not_found", None);
    }
    host.restart();
    let log = host.get("/v1/audit?limit=10000").ok();
    let entries = log["items"].as_array().unwrap();
    let of = |status: u16| -> Vec<&Value> {
        entries
            .iter()
            .filter(|entry| entry["status"] == status)
            .collect()
    };
    let count = |status| {
        of(status)
            .iter()
            .map(|entry| entry["count"].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!(
        (
            count(403),
            of(403).len() < 80,
            count(404),
            of(404).len() < 5
        ),
        (4001, true, 50, true),
        "{log}"
    );
    let rest = of(403)
        .into_iter()
        .find(|entry| entry["path"] == "/v1" && entry["count"].as_u64() > Some(1))
        .unwrap();
    assert_eq!(
        (&rest["from"], &rest["caller"]),
        (&json!("127.0.0.1"), &Value::Null)
    );
    let is_exec = |entry: &&Value| {
        entry["path"] == "/v1/namespaces/n0/exec" && entry["argv"] == json!(["true"])
    };
    assert_eq!(entries.iter().filter(is_exec).count(), 1);
}

#[test]
fn running_command_is_in_the_audit_log() {
    let host = Host::started();
    host.put("/v1/namespaces/n0", json!({})).ok();
    let path = "/v1/namespaces/n0/exec";
    let statuses = || -> Vec<Value> {
        let log = host.get("/v1/audit").ok();
        let of_exec = log["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|entry| entry["path"] == path);
        of_exec.map(|entry| entry["status"].clone()).collect()
    };
    let body = json!({"argv": ["sleep", "1000"]}).to_string();
    let waiting = host.open("POST", path, &[("content-type", "application/json")], &body);
    host.until("it is recorded, while it runs", || {
        statuses() == [json!(200)]
    });
    let runs = || {
        !host.get("/v1/namespaces/n0/processes").ok()["items"]
            .as_array()
            .unwrap()
            .is_empty()
    };
    host.until("it runs", runs);
    // Its client leaves, and it ends.
    drop(waiting);
    host.until("it is gone", || !runs());
    host.post(path, json!({"argv": ["true"]})).ok();
    assert_eq!(
        host.get("/v1/audit").ok()["items"]
            .as_array()
            .unwrap()
            .last()
            .unwrap()["argv"],
        json!(["true"])
    );
    host.post(path, json!({"argv": ["/nowhere"]}))
        .refused(422, "invalid_field", Some("/argv/0"));
    // It was recorded before it was tried.
    assert_eq!(statuses(), [json!(200), json!(200), json!(200), json!(422)]);
    // A command that is refused before it begins has no entry.
    host.post("/v1/namespaces/none/exec", json!({"argv": ["true"]}))
        .refused(404, "not_found", None);
    assert_eq!(statuses().len(), 4);
}

#[test]
fn revoked_token_ends_its_command() {
    let (host, address) = Host::started_on_tcp();
    let secret = token(&host, json!({"name": "runs", "role": "admin"}));
    host.put("/v1/namespaces/n0", json!({})).ok();
    let runs = || {
        !host.get("/v1/namespaces/n0/processes").ok()["items"]
            .as_array()
            .unwrap()
            .is_empty()
    };
    std::thread::scope(|scope| {
        let exec = json!({"argv": ["sleep", "1000"]});
        let asked = scope.spawn(|| {
            ask(
                &host,
                &address,
                &secret,
                "POST",
                "/v1/namespaces/n0/exec",
                exec,
            )
        });
        host.until("it runs", runs);
        assert_eq!(host.delete("/v1/tokens/runs").status, 204);
        assert_eq!(asked.join().unwrap().0, 401);
    });
    host.until("it is gone", || !runs());
}

#[test]
fn operator_is_kept_out_of_a_replaced_namespace() {
    let Some(mut host) = open_to_users("[[access]]\nuser = '4001'\nrole = 'operator'\n") else {
        return;
    };
    let operator = |host: &Host, name: &str, act: &str, body: Value| {
        let (status, body) = as_user(
            host,
            4001,
            "",
            "POST",
            &format!("/v1/namespaces/{name}/{act}"),
            &body,
        );
        (status, body["code"].as_str().unwrap_or_default().to_owned())
    };
    let (exec, ping) = (
        json!({"argv": ["true"]}),
        json!({"address": "127.0.0.1", "count": 1, "timeout_ms": 10}),
    );
    let config = host.dir().join("netnsd.toml");
    host.put("/v1/namespaces/n0", json!({})).ok();
    assert_eq!(operator(&host, "n0", "exec", exec.clone()).0, 200);
    assert_eq!(operator(&host, "n0", "ping", ping.clone()).0, 200);
    host.sh("ip netns add theirs");
    assert_eq!(
        operator(&host, "theirs", "ping", ping.clone()),
        (403, "forbidden".into())
    );
    // Somebody else takes the name while nobody looks.
    host.terminate();
    host.sh("ip netns del n0; ip netns add n0");
    host.start_with(|command| {
        command.arg("--config").arg(&config);
    });
    open_to_all(&host.socket(), 0o666);
    assert_eq!(
        host.get("/v1/namespaces/n0").ok()["status"]["state"],
        "conflict"
    );
    assert_eq!(
        operator(&host, "n0", "exec", exec.clone()),
        (409, "conflict".into())
    );
    assert_eq!(
        operator(&host, "n0", "ping", ping),
        (409, "conflict".into())
    );
    // Admins enter any.
    host.post("/v1/namespaces/n0/exec", exec).ok();
}

#[test]
fn unrecorded_command_runs_for_admins_only() {
    let Some(mut host) = open_to_users("[[access]]\nuser = '4001'\nrole = 'operator'\n") else {
        return;
    };
    host.terminate();
    host.sh("mkdir /run/small && mount -t tmpfs -o size=512k tmpfs /run/small");
    let mut command = host.netnsd_with("/run/small/state".as_ref(), &host.socket());
    command.arg("--config").arg(host.dir().join("netnsd.toml"));
    host.start_as(command);
    open_to_all(&host.socket(), 0o666);
    host.put("/v1/namespaces/n0", json!({})).ok();
    host.sh("dd if=/dev/zero of=/run/small/filler bs=4k 2>/dev/null");
    let ran = host.dir().join("ran");
    std::fs::write(&ran, "").unwrap();
    open_to_all(&ran, 0o666);
    let path = "/v1/namespaces/n0/exec";
    let exec = json!({"argv": ["sh", "-c", format!("echo x >>{}", ran.display())]});
    let mut answered = 0;
    // Some entries find room in the log's last page.
    let refused = (0..100)
        .map(|_| as_user(&host, 4001, "", "POST", path, &exec))
        .find(|(status, _)| {
            answered += usize::from(*status == 200);
            *status != 200
        });
    let (status, problem) = refused.expect("the disk is full");
    assert_eq!(
        (status, problem["code"].as_str()),
        (503, Some("store_unavailable")),
        "{problem}"
    );
    assert_eq!(
        std::fs::read_to_string(&ran).unwrap().lines().count(),
        answered,
        "it was not run"
    );
    let labels: serde_json::Map<String, Value> = (0..60)
        .map(|i| (format!("k{i}"), json!("x".repeat(900))))
        .collect();
    let refused = || {
        host.put("/v1/namespaces/n1", json!({"labels": labels}))
            .refused(503, "store_unavailable", None)
    };
    (0..3).for_each(|_| refused());
    // An admin goes on, and is on record once there is room.
    let programs = ["true", "false", "id"];
    for program in programs {
        host.post(path, json!({"argv": [program]})).ok();
    }
    let audit = || {
        host.get("/v1/audit?limit=10000").ok()["items"]
            .as_array()
            .unwrap()
            .clone()
    };
    let by_admin = || -> Vec<Value> {
        let entries = audit()
            .into_iter()
            .filter(|entry| entry["caller"] == "uid 0" && entry["argv"].is_array());
        entries.map(|entry| entry["argv"][0].clone()).collect()
    };
    assert!(by_admin().len() < programs.len());
    host.sh("rm /run/small/filler");
    host.until("it is on record", || by_admin() == programs);
    let times: Vec<String> = audit()
        .iter()
        .map(|entry| entry["time"].as_str().unwrap().to_owned())
        .collect();
    assert!(times.is_sorted(), "{times:?}");
    host.restart_as(|host| host.netnsd_with("/run/small/state".as_ref(), &host.socket()));
    let count = |method: &str| -> u64 {
        let log = host.get("/v1/audit?limit=10000").ok()["items"]
            .as_array()
            .unwrap()
            .clone();
        let failed = log
            .iter()
            .filter(|entry| entry["status"] == 503 && entry["method"] == method);
        failed.map(|entry| entry["count"].as_u64().unwrap()).sum()
    };
    assert_eq!(
        (count("PUT"), count("POST")),
        (3, 1),
        "what was refused meanwhile"
    );
}

/// Sends a request over the Unix socket as another user; returns status and body.
fn as_user(
    host: &Host,
    uid: u32,
    groups: &str,
    method: &str,
    path: &str,
    body: &Value,
) -> (u16, Value) {
    let groups = if groups.is_empty() {
        "--clear-groups".to_owned()
    } else {
        format!("--groups={groups}")
    };
    let script = format!(
        "setpriv --reuid={uid} --regid={uid} {groups} curl -s -w '\\n%{{http_code}}' --unix-socket '{}' -X {method} \
         -H 'content-type: application/json' -d '{body}' 'http://netnsd{path}'",
        host.socket().display()
    );
    let output = host.sh(&script);
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text
        .rsplit_once('\n')
        .unwrap_or_else(|| panic!("{script}: {:?}", output.stderr));
    (
        status.parse().unwrap(),
        serde_json::from_str(body).unwrap_or(Value::Null),
    )
}

fn open_to_all(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A host whose socket every user reaches, by these rules; none where there is only one user.
fn open_to_users(rules: &str) -> Option<Host> {
    if !is_root() || !has("setpriv") || !has("curl") {
        return None;
    }
    let mut host = Host::new();
    let config = host.dir().join("netnsd.toml");
    std::fs::write(&config, rules).unwrap();
    host.start_with(|command| {
        command.arg("--config").arg(&config);
    });
    open_to_all(host.dir(), 0o755);
    open_to_all(&host.socket(), 0o666);
    Some(host)
}

#[test]
fn socket_user_is_bound_by_its_rule() {
    let rules = "[[access]]\nuser = '4001'\nrole = 'operator'\n[[access]]\ngroup = '4100'\nrole = 'viewer'\nprefix = 'lab-'\n";
    let Some(host) = open_to_users(rules) else {
        return;
    };
    let operator =
        |method: &str, path: &str, body: Value| as_user(&host, 4001, "", method, path, &body);
    assert_eq!(operator("PUT", "/v1/namespaces/n0", json!({})).0, 201);
    assert_eq!(
        as_user(&host, 4002, "", "GET", "/v1/namespaces", &Value::Null).0,
        403
    );
    assert_eq!(
        as_user(&host, 4002, "4100", "GET", "/v1/bridges", &Value::Null).0,
        200
    );
    assert_eq!(
        as_user(
            &host,
            4002,
            "4100",
            "GET",
            "/v1/namespaces/n0",
            &Value::Null
        )
        .0,
        404
    );
    assert_eq!(
        as_user(
            &host,
            4002,
            "4100",
            "PUT",
            "/v1/namespaces/lab-1",
            &json!({})
        )
        .0,
        403
    );

    // Its commands are its own, for good: also by a program that would make it root.
    let exec = |body: Value| operator("POST", "/v1/namespaces/n0/exec", body);
    let told = "id -u; id -G; grep NoNewPrivs /proc/self/status; echo x >/proc/sys/net/ipv4/ip_forward 2>/dev/null || echo no";
    let (status, result) = exec(json!({"argv": ["sh", "-c", told]}));
    assert_eq!(
        (status, result["stdout"].as_str()),
        (200, Some("4001\n4001\nNoNewPrivs:\t1\nno\n")),
        "{result}"
    );
    let own_root = host.dir().join("own-root");
    std::fs::copy("/usr/bin/id", &own_root).unwrap();
    open_to_all(&own_root, 0o4755);
    let (_, result) = exec(json!({"argv": [own_root.to_str().unwrap(), "-u"]}));
    assert_eq!(
        result["stdout"], "4001\n",
        "a set-user-ID program gives nothing"
    );
    let (_, result) =
        exec(json!({"argv": ["cat", "/etc/shadow"], "env": {"LD_PRELOAD": "/nowhere.so"}}));
    assert_ne!(result["exit_code"], 0);
    assert_eq!(exec(json!({"argv": ["id"], "user": "root"})).0, 403);
    assert_eq!(exec(json!({"argv": ["id"], "user": "4001"})).0, 403);
    // Nor by the namespaces of others, and those of processes.
    host.sh("ip netns add theirs");
    assert_eq!(
        operator(
            "POST",
            "/v1/namespaces/theirs/exec",
            json!({"argv": ["id"]})
        )
        .0,
        403
    );
    assert_eq!(
        operator("PUT", "/v1/namespaces/n1", json!({"attach": {"pid": 1}})).0,
        403
    );
    assert_eq!(
        operator(
            "PATCH",
            "/v1/topology",
            json!({"namespaces": [{"name": "n1", "attach": {"pid": 1}}]})
        )
        .0,
        403
    );
    assert_eq!(
        operator(
            "PATCH",
            "/v1/topology?adopt=true",
            json!({"namespaces": [{"name": "n1"}]})
        )
        .0,
        403
    );
    assert_eq!(host.get("/v1/namespaces/n1").status, 404);
    // Root's stay root's.
    let result = host
        .post("/v1/namespaces/n0/exec", json!({"argv": ["id", "-u"]}))
        .ok();
    assert_eq!(result["stdout"], "0\n");
}

/// The rules of `docs/teams.md`, as they stand there but for groups by number.
#[test]
fn documented_team_setup_works() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/teams.md");
    let document = std::fs::read_to_string(document).unwrap();
    let rules = document
        .split("```toml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .unwrap();
    let rules = rules
        .replace("\"red\"", "'4100'")
        .replace("\"netnsd\"", "'4101'");
    let Some(host) = open_to_users(&rules) else {
        return;
    };
    let put = |uid, groups: &str, name: &str| {
        as_user(
            &host,
            uid,
            groups,
            "PUT",
            &format!("/v1/namespaces/{name}"),
            &json!({}),
        )
        .0
    };
    assert_eq!(put(4001, "4100,4101", "red-lab"), 201);
    assert_eq!(put(4001, "4100,4101", "blue-lab"), 403);
    assert_eq!(put(4002, "4101", "red-lab"), 403);
    assert_eq!(
        as_user(
            &host,
            4002,
            "4101",
            "GET",
            "/v1/namespaces/red-lab",
            &Value::Null
        )
        .0,
        200
    );
    assert_eq!(
        as_user(
            &host,
            4003,
            "",
            "GET",
            "/v1/namespaces/red-lab",
            &Value::Null
        )
        .0,
        403
    );
}

#[test]
fn host_rule_binds_creation_and_change() {
    let (host, address) = Host::started_on_tcp();
    let secret = |name: &str, rule: Value| {
        token(
            &host,
            json!({"name": name, "role": "operator", "prefix": "red-", "host": rule}),
        )
    };
    let (none, ports, any) = (
        secret("none", Value::Null),
        secret("ports", json!("ports")),
        secret("any", json!("any")),
    );
    assert_eq!(host.get("/v1/tokens/none").ok()["host"], "none");
    host.post(
        "/v1/tokens",
        json!({"name": "x", "role": "admin", "host": "none"}),
    )
    .refused(422, "invalid_field", Some("/host"));
    host.put("/v1/bridges/blue-br", json!({})).ok();
    assert_eq!(
        ask(
            &host,
            &address,
            &none,
            "PUT",
            "/v1/namespaces/red-a",
            json!({})
        )
        .0,
        201
    );
    let veth = |end: Value| json!({"endpoints": [{"namespace": "red-a"}, end]});
    // Each is refused at a field, where it is; the same in a document, and for what is there
    // already.
    let refused = |secret: &str, path: &str, body: &Value, pointer: &str| {
        let check = |(status, problem): (u16, Value), pointer: &str| {
            let told = (
                status,
                problem["code"].as_str(),
                problem["pointer"].as_str(),
            );
            assert_eq!(
                told,
                (403, Some("forbidden"), Some(pointer)),
                "{path} {body}: {problem}"
            );
            problem["detail"].as_str().unwrap().to_owned()
        };
        let (kind, name) = path.split_once('/').unwrap();
        let mut item = body.clone();
        item["name"] = json!(name);
        let document = json!({kind: [item]});
        check(
            ask(&host, &address, secret, "PATCH", "/v1/topology", document),
            &format!("/{kind}/0{pointer}"),
        );
        check(
            ask(
                &host,
                &address,
                secret,
                "PUT",
                &format!("/v1/{path}"),
                body.clone(),
            ),
            pointer,
        )
    };
    refused(&none, "bridges/red-br", &json!({}), "/namespace");
    refused(
        &none,
        "veths/red-v",
        &veth(json!({"interface": "red-v0"})),
        "/endpoints/1/namespace",
    );
    refused(
        &ports,
        "bridges/red-br",
        &json!({"addresses": ["10.9.0.1/24"]}),
        "/addresses/0",
    );
    refused(
        &ports,
        "bridges/red-br",
        &json!({"interface": "docker0"}),
        "/interface",
    );
    let in_use = refused(
        &ports,
        "bridges/red-br",
        &json!({"interface": "blue-br"}),
        "/interface",
    );
    let free = refused(
        &ports,
        "bridges/red-br",
        &json!({"interface": "blue-xx"}),
        "/interface",
    );
    assert_eq!(
        in_use,
        free.replace("blue-xx", "blue-br"),
        "what others have is not told"
    );

    assert_eq!(
        ask(
            &host,
            &address,
            &ports,
            "PUT",
            "/v1/bridges/red-br",
            json!({})
        )
        .0,
        201
    );
    let port = |more: Value| {
        let mut end = json!({"interface": "red-v0", "bridge": "red-br"});
        end.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        veth(end)
    };
    refused(
        &ports,
        "veths/red-v",
        &port(json!({"bridge": null})),
        "/endpoints/1/bridge",
    );
    refused(
        &ports,
        "veths/red-v",
        &port(json!({"addresses": ["169.254.169.253/30"]})),
        "/endpoints/1/addresses/0",
    );
    let chosen = refused(
        &ports,
        "veths/red-v",
        &port(json!({"interface": null})),
        "/endpoints/1/interface",
    );
    assert!(!chosen.contains("veth0"), "{chosen}");
    assert_eq!(
        ask(
            &host,
            &address,
            &ports,
            "PUT",
            "/v1/veths/red-v",
            port(json!({}))
        )
        .0,
        201
    );
    let end = "/v1/veths/red-v/endpoints/1";
    let (status, problem) = ask(
        &host,
        &address,
        &ports,
        "PATCH",
        end,
        json!({"addresses": ["10.9.0.1/24"]}),
    );
    assert_eq!(
        (status, problem["pointer"].as_str()),
        (403, Some("/addresses/0")),
        "{problem}"
    );
    let named = ask(
        &host,
        &address,
        &any,
        "PUT",
        "/v1/bridges/red-own",
        json!({"interface": "lab0", "addresses": ["10.9.0.1/24"]}),
    );
    assert_eq!(named.0, 201, "{named:?}");

    // A thing on the host from before stands, and may be named, moved off and deleted, and not
    // changed.
    let patch = |body: Value| ask(&host, &address, &none, "PATCH", "/v1/bridges/red-own", body).0;
    assert_eq!(
        (patch(json!({})), patch(json!({"labels": {"a": "b"}}))),
        (200, 403)
    );
    let document = json!({"bridges": [{"name": "red-br"}], "namespaces": [{"name": "red-b"}]});
    assert_eq!(
        ask(&host, &address, &none, "PATCH", "/v1/topology", document).0,
        200
    );
    let moved = ask(
        &host,
        &address,
        &none,
        "PATCH",
        end,
        json!({"namespace": "red-b", "bridge": null}),
    );
    assert_eq!(moved.0, 200, "{moved:?}");
    assert_eq!(
        ask(
            &host,
            &address,
            &ports,
            "PATCH",
            end,
            json!({"namespace": null, "bridge": "red-br"})
        )
        .0,
        200
    );
    assert_eq!(
        ask(
            &host,
            &address,
            &none,
            "DELETE",
            "/v1/bridges/red-br?cascade=true",
            Value::Null
        )
        .0,
        204
    );
    assert_eq!(
        ask(&host, &address, &none, "PUT", "/v1/topology", json!({})).0,
        200
    );
    assert_eq!(
        host.get("/v1/bridges").ok()["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn operator_cannot_take_a_host_address() {
    let (host, address) = Host::started_on_tcp();
    let operator = token(&host, json!({"name": "works", "role": "operator"}));
    let run = host.sh(
        "set -e; ip link set lo up; ip addr add 192.0.2.7/32 dev lo; ip link add up0 type bridge; ip link set up0 up
         ip addr add 10.1.1.1/24 dev up0; ip addr add fd00:1::1/64 dev up0 nodad
         ip route add 172.20.0.0/16 via 10.1.1.2; ip route add default via 10.1.1.2; ip route add blackhole 172.30.0.0/24",
    );
    assert!(run.status.success(), "{run:?}");
    host.put("/v1/namespaces/n0", json!({})).ok();
    let write =
        |method: &str, path: &str, body: Value| ask(&host, &address, &operator, method, path, body);
    for taken in [
        "10.1.1.77/32",
        "10.1.0.1/16",
        "10.1.1.1/32",
        "172.20.3.1/24",
        "172.30.0.1/30",
        "192.0.2.6/31",
        "127.0.0.9/32",
        "169.254.169.253/30",
        "128.0.0.1/1",
        "fd00:1::9/128",
        "2000::1/3",
    ] {
        let veth =
            json!({"endpoints": [{"namespace": "n0"}, {"addresses": ["198.51.100.1/24", taken]}]});
        let mut item = veth.clone();
        item["name"] = json!("v0");
        let at = "/endpoints/1/addresses/1";
        for (answer, at) in [
            (write("PUT", "/v1/veths/v0", veth.clone()), at.to_owned()),
            (
                write("PUT", "/v1/veths/v0?dry_run=true", veth.clone()),
                at.to_owned(),
            ),
            (write("PUT", "/v1/veths/v0?wait=false", veth), at.to_owned()),
            (
                write("PUT", "/v1/bridges/b0", json!({"addresses": [taken]})),
                "/addresses/0".to_owned(),
            ),
            (
                write("PATCH", "/v1/topology", json!({"veths": [item]})),
                format!("/veths/0{at}"),
            ),
        ] {
            let (status, problem) = answer;
            let told = (
                status,
                problem["code"].as_str(),
                problem["pointer"].as_str(),
            );
            assert_eq!(
                told,
                (403, Some("forbidden"), Some(&*at)),
                "{taken}: {problem}"
            );
        }
    }
    let links = host.run(&["ip", "-br", "link", "show"]);
    assert_eq!(links.lines().count(), 2, "lo and up0: {links}");
    // An address that nobody has; then one of its own interface, also under another name.
    let free = json!({"addresses": ["10.2.0.1/24", "fd00:2::1/64", "fe80::7/64"]});
    assert_eq!(write("PUT", "/v1/bridges/b0", free).0, 201);
    let wider = json!({"interface": "b1", "addresses": ["10.2.0.2/16", "fd00:2::2/48"]});
    assert_eq!(write("PUT", "/v1/bridges/b0", wider).0, 200);
    let renamed = json!({"bridges": [{"name": "b2", "addresses": ["10.2.0.1/16"]}], "namespaces": [{"name": "n0"}]});
    let renamed = write("PUT", "/v1/topology", renamed);
    assert_eq!(renamed.0, 200, "{renamed:?}");
    let moved = json!({"endpoints": [{"namespace": "n0", "addresses": ["10.1.1.9/24"]}, {}]});
    assert_eq!(write("PUT", "/v1/veths/v0", moved).0, 201);
    let (status, problem) = write(
        "PATCH",
        "/v1/veths/v0/endpoints/0",
        json!({"namespace": null, "interface": "v9"}),
    );
    assert_eq!(
        (status, problem["pointer"].as_str()),
        (403, Some("/addresses/0")),
        "{problem}"
    );
    // An admin may, and what it gave stays an operator's to change otherwise.
    host.put(
        "/v1/bridges/b3",
        json!({"addresses": ["10.1.1.3/24", "169.254.0.1/16"]}),
    )
    .ok();
    assert_eq!(
        write(
            "PATCH",
            "/v1/bridges/b3",
            json!({"labels": {"a": "b"}, "addresses": ["10.1.1.3/24"]})
        )
        .0,
        200
    );
}

#[test]
fn prefix_hides_foreign_attachments() {
    let (host, address) = Host::started_on_tcp();
    let secret = token(
        &host,
        json!({"name": "red", "role": "operator", "prefix": "red-"}),
    );
    let ask =
        |method: &str, path: &str, body: Value| ask(&host, &address, &secret, method, path, body);
    host.put("/v1/namespaces/core", json!({})).ok();
    for (path, body) in [
        ("/v1/namespaces/red-a", json!({})),
        ("/v1/namespaces/red-b", json!({})),
        (
            "/v1/bridges/red-br",
            json!({"namespace": "red-a", "addresses": ["10.9.9.1/24"]}),
        ),
        (
            "/v1/veths/red-v",
            json!({"endpoints": [{"namespace": "red-a"}, {"namespace": "red-b"}]}),
        ),
    ] {
        assert_eq!(ask("PUT", path, body).0, 201, "{path}");
    }
    let port = json!({"namespace": "red-a", "interface": "port0", "bridge": "red-br"});
    let up = json!({"namespace": "red-a", "interface": "up0", "addresses": ["10.8.8.8/24", "fd00:8::8/64"]});
    for (path, body) in [
        (
            "/v1/veths/core-port",
            json!({"endpoints": [port, {"namespace": "core", "addresses": ["10.9.9.9/24"]}]}),
        ),
        (
            "/v1/veths/core-up",
            json!({"endpoints": [{"namespace": "core"}, up]}),
        ),
        ("/v1/bridges/red-there", json!({"namespace": "core"})),
    ] {
        assert_eq!(host.put(path, body).status, 201, "{path}");
    }
    let veth = |end: Value| json!({"endpoints": [{"namespace": "red-b", "interface": "x0"}, end]});
    let off = json!({"sysctls": {"net.ipv6.conf.up0.disable_ipv6": 1}});
    let none = Value::Null;
    for (method, path, body, status) in [
        ("GET", "/v1/namespaces/red-a/links", none.clone(), 200),
        ("GET", "/v1/namespaces/red-a/addresses", none.clone(), 200),
        ("GET", "/v1/namespaces/red-a/routes", none.clone(), 200),
        ("GET", "/v1/namespaces/red-a/neighbours", none.clone(), 200),
        ("GET", "/v1/bridges/red-br", none.clone(), 200),
        ("GET", "/v1/bridges?namespace=red-a", none.clone(), 200),
        ("GET", "/v1/bridges/red-br/ports", none.clone(), 200),
        ("GET", "/v1/bridges/red-br/fdb", none.clone(), 200),
        (
            "PATCH",
            "/v1/bridges/red-br",
            json!({"labels": {"a": "b"}}),
            200,
        ),
        (
            "PATCH",
            "/v1/bridges/red-br",
            json!({"namespace": "red-b"}),
            422,
        ),
        ("PATCH", "/v1/namespaces/red-a", off, 422),
        (
            "PUT",
            "/v1/veths/red-w",
            veth(json!({"namespace": "red-a", "interface": "up0"})),
            422,
        ),
        (
            "PUT",
            "/v1/veths/red-w",
            veth(json!({"namespace": "red-a", "addresses": ["10.8.8.8/32"]})),
            422,
        ),
        (
            "PUT",
            "/v1/veths/red-w",
            veth(json!({"namespace": "red-a", "bridge": "red-br", "addresses": ["10.9.9.9/24"]})),
            422,
        ),
        (
            "PUT",
            "/v1/veths/red-w",
            veth(json!({"namespace": "red-a", "bridge": "red-there"})),
            422,
        ),
        ("DELETE", "/v1/namespaces/red-a", none.clone(), 409),
        (
            "DELETE",
            "/v1/namespaces/red-a?cascade=true",
            none.clone(),
            403,
        ),
        (
            "DELETE",
            "/v1/bridges/red-br?cascade=true",
            none.clone(),
            403,
        ),
        ("PUT", "/v1/topology", json!({}), 409),
    ] {
        let (found, answer) = ask(method, path, body.clone());
        assert_eq!(found, status, "{method} {path} {body}: {answer}");
        let text = answer.to_string();
        assert!(!text.contains("core"), "{method} {path} {body}: {text}");
        if status >= 400 {
            assert!(
                text.contains("something else"),
                "{method} {path} {body}: {text}"
            );
        }
    }
    // Its own are told.
    let links = ask("GET", "/v1/namespaces/red-b/links", Value::Null).1;
    let own = links["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|link| link["resource"]["name"] == "red-v")
        .unwrap();
    assert_eq!(
        own["peer"],
        json!({"namespace": "red-a", "interface": "veth0"})
    );
    let ports = host.get("/v1/bridges/red-br").ok()["status"]["observed"]["ports"].clone();
    assert_eq!(ports[0]["veth"], "core-port", "admins see it");
    let count = |ready: Value| {
        ready["states"]
            .as_object()
            .unwrap()
            .values()
            .map(|n| n.as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!(
        (
            count(ask("GET", "/v1/ready", Value::Null).1),
            count(host.get("/v1/ready").ok())
        ),
        (5, 8)
    );
}

#[test]
fn only_admins_see_processes_elsewhere() {
    let (host, address) = Host::started_on_tcp();
    let secret = |name: &str, prefix: Value| {
        token(
            &host,
            json!({"name": name, "role": "operator", "prefix": prefix}),
        )
    };
    let (red, blue, works) = (
        secret("red", json!("red-")),
        secret("blue", json!("blue-")),
        secret("works", Value::Null),
    );
    host.put("/v1/namespaces/red-a", json!({})).ok();
    host.sh("ip netns add red-theirs");
    let path = |pid: u64| format!("/v1/processes/{pid}/namespace");
    let told =
        |secret: &str, pid: u64| ask(&host, &address, secret, "GET", &path(pid), Value::Null);
    let missing = |secret: &str, pid: u64| {
        let (status, problem) = told(secret, pid);
        assert_eq!(
            (status, problem["detail"].as_str()),
            (404, Some(&*format!("there is no process \"{pid}\"")))
        );
    };
    let mut children = Vec::new();
    let mut start = |name: &str| {
        children.push(host.spawn(&["ip", "netns", "exec", name, "sleep", "1000"]));
        let listed = || {
            host.get(&format!("/v1/namespaces/{name}/processes")).ok()["items"]
                .as_array()
                .unwrap()
                .clone()
        };
        host.until("it runs", || {
            listed().iter().any(|process| process["command"] == "sleep")
        });
        listed()
            .iter()
            .find(|process| process["command"] == "sleep")
            .unwrap()["pid"]
            .as_u64()
            .unwrap()
    };
    let (own, theirs) = (start("red-a"), start("red-theirs"));
    for secret in [&red, &works] {
        let (status, found) = told(secret, own);
        assert_eq!(
            (status, found["namespace"].as_str()),
            (200, Some("red-a")),
            "{found}"
        );
        missing(secret, theirs);
        missing(secret, 1);
        missing(secret, 4_000_000);
    }
    missing(&blue, own);
    assert_eq!(host.get(&path(theirs)).ok()["namespace"], "red-theirs");
    for mut child in children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
