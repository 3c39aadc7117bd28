//! The typed client against the real daemon.

mod common;

use common::Host;
use netnsd_api::{Bridge, Code, Exec, Name, Namespace, Ping, Veth};
use netnsd_client::Error;
use serde_json::json;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn of<R: serde::de::DeserializeOwned>(value: serde_json::Value) -> R {
    serde_json::from_value(value).unwrap()
}

#[test]
fn answers_parse_into_api_types() {
    let host = Host::started();
    host.typed(async |client| {
        assert_eq!(client.get_about().await.unwrap().name, "netnsd");
        let made = client.put_resource::<Namespace>(&of(json!({"name": "net0"}))).await.unwrap();
        assert_eq!((made.generation, made.status.observed.unwrap().links), (1, 1));
        client.create_resource::<Bridge>(&of(json!({"name": "br0", "addresses": ["10.0.0.254/24"]}))).await.unwrap();
        let ends = json!([{"namespace": "net0", "interface": "eth0", "addresses": ["10.0.0.1/24"]}, {"interface": "port0", "bridge": "br0"}]);
        let pair = client.create_resource::<Veth>(&of(json!({"name": "lan0", "endpoints": ends}))).await.unwrap();
        assert!(pair.status.observed.unwrap().ready);
        let patched = client.patch_resource::<Veth>(&name("lan0"), &json!({"labels": {"a": "b"}})).await.unwrap();
        assert_eq!(patched.spec.labels["a"], "b");
        assert_eq!(client.list_page::<Veth>("label=a=b").await.unwrap().items.len(), 1);
        assert_eq!(client.list_page::<Veth>("label=a!=b").await.unwrap().items.len(), 0);
        assert_eq!(client.get_resource::<Bridge>(&name("br0")).await.unwrap().status.observed.unwrap().ports.len(), 1);
        let net0 = name("net0");
        let links = client.list_links(Some(&net0)).await.unwrap();
        assert_eq!(links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>(), ["lo", "eth0"]);
        assert_eq!(links[1].peer.as_ref().unwrap().interface, "port0");
        assert!(client.list_addresses(Some(&net0)).await.unwrap().iter().any(|address| address.address == "10.0.0.1/24"));
        assert!(client.list_routes(Some(&net0)).await.unwrap().iter().any(|route| route.destination == "10.0.0.0/24"));
        let ping = client.ping_address(&net0, &Ping::new("10.0.0.254".parse().unwrap())).await.unwrap();
        assert_eq!(ping.received, 1);
        assert!(client.list_neighbours(Some(&net0)).await.unwrap().iter().any(|entry| entry.address == "10.0.0.254"));
        let exec: Exec = of(json!({"argv": ["sh", "-c", "exit 4"]}));
        assert_eq!(client.run_command(&net0, &exec).await.unwrap().exit_code, Some(4));
        assert!(client.list_processes(&net0).await.unwrap().is_empty());
        let Err(Error::Problem(problem)) = client.delete_resource::<Namespace>(&net0, false).await else { panic!("it is in use") };
        assert_eq!((problem.code, problem.resources.len()), (Code::InUse, 1));
        client.delete_resource::<Namespace>(&net0, true).await.unwrap();
        assert_eq!(client.list_page::<Veth>("").await.unwrap().items.len(), 0);
    });
}

#[test]
fn client_follows_pages() {
    let host = Host::started();
    host.typed(async |client| {
        for i in 0..5 {
            client
                .put_resource::<Namespace>(&of(json!({"name": format!("n{i}")})))
                .await
                .unwrap();
        }
        let (mut seen, mut query) = (Vec::new(), "limit=2".to_owned());
        loop {
            let page = client.list_page::<Namespace>(&query).await.unwrap();
            seen.extend(
                page.items
                    .into_iter()
                    .map(|item| item.spec.name.to_string()),
            );
            let Some(next) = page.next else { break };
            query = format!("limit=2&cursor={next}");
        }
        assert_eq!(seen, ["n0", "n1", "n2", "n3", "n4"]);
    });
}

#[test]
fn tcp_needs_a_token() {
    use std::io::{Read, Write};
    let mut host = Host::new();
    let token = host.dir().join("token");
    std::fs::write(&token, "secret\n").unwrap();
    host.start_with(|command| {
        command
            .args(["--listen", "127.0.0.1:0", "--token-file"])
            .arg(&token);
    });
    let about = host.get("/v1").ok();
    let url = about["listen"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|url| url.as_str())
        .find(|url| url.starts_with("http://"))
        .unwrap();
    let address = url.strip_prefix("http://").unwrap();
    let script = |header: &str| {
        format!(
            "exec 3<>/dev/tcp/{}; printf 'GET /v1/health HTTP/1.1\\r\\nHost: localhost\\r\\n{header}Connection: close\\r\\n\\r\\n' >&3; head -1 <&3",
            address.replace(':', "/")
        )
    };
    let ask = |header: &str| {
        let mut child = host.sandbox.command("bash").unwrap();
        let output = child.args(["-c", &script(header)]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(ask("").contains("401"), "{}", ask(""));
    assert!(ask("Authorization: Bearer secret\\r\\n").contains("200"));
    let mut stream = std::os::unix::net::UnixStream::connect(host.socket()).unwrap();
    write!(
        stream,
        "GET /v1/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(" 200 "), "the Unix socket asks for none");
}
