//! `netnsd try`: the daemon in a sandbox, a small network by the same HTTP requests that anybody sends, and pings through it.

use std::path::Path;

use bytes::Bytes;
use http::Method;
use netnsd_client::Client;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::{
    daemon,
    settings::{LogFormat, Settings},
};

/// The network that is shown.
const NETWORK: &str = include_str!("../../examples/try.json");

#[derive(Deserialize)]
struct Step {
    about: String,
    requests: Vec<Put>,
    pings: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct Put {
    path: String,
    body: Value,
}

/// Shows it, and stays until Ctrl-C unless `exit`; tells whether every ping was answered.
///
/// # Errors
/// A sentence that says what failed.
pub async fn run(exit: bool) -> Result<bool, String> {
    let dir = tempfile::Builder::new()
        .prefix("netnsd-try-")
        .tempdir()
        .map_err(|error| format!("no place for the socket: {error}"))?;
    let socket = dir.path().join("netnsd.sock");
    let settings = Settings {
        state_dir: dir.path().join("state"),
        socket: socket.clone(),
        listen: Vec::new(),
        token: None,
        log_format: LogFormat::Text,
    };
    let (ready, is_ready) = oneshot::channel();
    let mut daemon = tokio::spawn(daemon::run(settings, ready));
    tokio::select! {
        ended = &mut daemon => return Err(reason(ended)),
        _ = is_ready => {}
    }
    println!("netnsd runs in a sandbox: nothing on this machine is changed. Its socket is\n  {}\n", socket.display());
    let answered = show(&Client::unix(&socket), &socket).await?;
    println!("{}", if answered { "Every ping was answered." } else { "Some pings were NOT answered." });
    if exit {
        return Ok(answered);
    }
    invite(&socket);
    match daemon.await {
        Ok(Ok(())) => Ok(answered),
        ended => Err(reason(ended)),
    }
}

fn reason(ended: Result<Result<(), String>, tokio::task::JoinError>) -> String {
    match ended {
        Ok(Ok(())) => "the daemon has ended".into(),
        Ok(Err(reason)) => reason,
        Err(error) => format!("the daemon has ended: {error}"),
    }
}

async fn show(client: &Client, socket: &Path) -> Result<bool, String> {
    let steps: Vec<Step> = serde_json::from_str(NETWORK).map_err(|error| format!("examples/try.json: {error}"))?;
    let mut all = true;
    for step in steps {
        println!("# {}", step.about);
        for Put { path, body } in step.requests {
            println!("{}", curl(socket, "PUT", &path, Some(&body)));
            let answer = send(client, Method::PUT, &path, &body).await?;
            if !answer.status.is_success() {
                return Err(format!("PUT {path}: {}", answer.json()["detail"].as_str().unwrap_or("no reason given")));
            }
        }
        for (from, to) in step.pings {
            let path = format!("/v1/namespaces/{from}/ping");
            let body = json!({"address": to});
            println!("{}", curl(socket, "POST", &path, Some(&body)));
            let answer = send(client, Method::POST, &path, &body).await?.json();
            match answer["rtt_ms"]["avg"].as_f64() {
                Some(rtt) => println!("  {from} reaches {to} in {rtt:.3} ms"),
                None => {
                    all = false;
                    println!(
                        "  {from} does NOT reach {to}: {}",
                        answer["replies"][0]["error"].as_str().unwrap_or("no reply")
                    );
                }
            }
        }
        println!();
    }
    Ok(all)
}

async fn send(client: &Client, method: Method, path: &str, body: &Value) -> Result<netnsd_client::Answer, String> {
    let headers = [("content-type", "application/json")];
    client.request(method, path, &headers, Bytes::from(body.to_string())).await.map_err(|error| error.to_string())
}

/// The curl line that sends a request.
fn curl(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> String {
    let data = body.map_or_else(String::new, |body| format!(" -H 'Content-Type: application/json' -d '{body}'"));
    format!("curl --unix-socket {} -X {method} http://netnsd{path}{data}", socket.display())
}

fn invite(socket: &Path) {
    let pid = std::process::id();
    let user = if nix::unistd::geteuid().is_root() && is_plain_root() { "" } else { " --user --preserve-credentials" };
    println!("Go on from another terminal:");
    println!("  {}", curl(socket, "GET", "/v1/veths", None));
    println!("  {}", curl(socket, "POST", "/v1/namespaces/alice/exec", Some(&json!({"argv": ["ip", "addr"]}))));
    println!("See it as `ip` does:");
    println!("  nsenter --target {pid}{user} --mount --net ip netns list");
    println!("Ctrl-C ends it, and nothing is left.");
}

/// Whether this is the root of the machine, not that of a user namespace.
fn is_plain_root() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.split_whitespace().nth(2) == Some("4294967295"))
}
