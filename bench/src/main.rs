//! W(N) by N + 1 pairs of PUTs over one connection, beside the same by raw netlink, in the same run.
//!
//! `cargo run --release -p netnsd-bench -- [N] [ROUNDS]`; each round of each contestant has a sandbox of its own.

mod raw;

use std::{
    io,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use http::Method;
use netnsd::sandbox;
use netnsd_client::Client;
use serde_json::{Value, json};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.first().map(String::as_str) {
        Some("raw") => number(&arguments, 1, 100).and_then(raw_round),
        Some("netnsd") => number(&arguments, 1, 100).and_then(netnsd_round),
        _ => number(&arguments, 0, 100).and_then(|n| compare(n, number(&arguments, 1, 5)?)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netnsd-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn number(arguments: &[String], at: usize, default: u32) -> io::Result<u32> {
    arguments
        .get(at)
        .map_or(Ok(default), |text| text.parse().map_err(|_| io::Error::other(format!("{text:?} is no number"))))
}

/// Runs the contestants in turn, each round a process of its own, and prints medians in milliseconds.
fn compare(n: u32, rounds: u32) -> io::Result<()> {
    let names = ["raw", "netnsd"];
    let mut times: [Vec<f64>; 2] = Default::default();
    let mut memory = String::new();
    for _ in 0..rounds {
        for (name, times) in names.iter().zip(&mut times) {
            let output = Command::new(std::env::current_exe()?).args([name, n.to_string().as_str()]).output()?;
            let text = String::from_utf8_lossy(&output.stdout);
            let mut words = text.split_whitespace();
            let time = words.next().and_then(|word| word.parse().ok());
            times.push(time.ok_or_else(|| io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))?);
            memory = words.collect::<Vec<_>>().join(" ");
            // The kernel clears the last round's namespaces in the background.
            std::thread::sleep(Duration::from_millis(500));
        }
    }
    let medians = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    });
    println!(
        "W({n}), median of {rounds} rounds: raw {:.1} ms, netnsd {:.1} ms, ratio {:.2}",
        medians[0],
        medians[1],
        medians[1] / medians[0]
    );
    println!("netnsd afterwards: {memory}");
    Ok(())
}

fn raw_round(n: u32) -> io::Result<()> {
    sandbox::enter()?;
    let start = Instant::now();
    raw::make(n)?;
    println!("{:.3}", start.elapsed().as_secs_f64() * 1000.0);
    Ok(())
}

/// The same by HTTP. Prints the time, and the daemon's memory before and after.
fn netnsd_round(n: u32) -> io::Result<()> {
    sandbox::enter()?;
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("netnsd.sock");
    let program = std::env::current_exe()?.with_file_name("netnsd");
    let mut daemon = Command::new(program)
        .arg("--state-dir")
        .arg(dir.path().join("state"))
        .arg("--socket")
        .arg(&socket)
        .env("NETNSD_LOG", "error")
        .stdin(Stdio::null())
        .spawn()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let client = Client::unix(&socket);
        while !client.ready().await.is_ok_and(|ready| ready.ready) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let idle = rss(daemon.id());
        let start = Instant::now();
        put(&client, "/v1/bridges/br0", &json!({"addresses": ["10.0.0.254/16"]})).await?;
        for i in 0..n {
            let routes = json!([{"destination": "default", "via": "10.0.0.254"}]);
            put(&client, &format!("/v1/namespaces/n{i}"), &json!({"routes": routes})).await?;
            let address = format!("10.0.{}.{}/16", i / 250, i % 250 + 1);
            let ends = json!([{"namespace": format!("n{i}"), "interface": "eth0", "addresses": [address]},
                {"interface": format!("p{i}"), "bridge": "br0"}]);
            put(&client, &format!("/v1/veths/v{i}"), &json!({"endpoints": ends})).await?;
        }
        println!("{:.3} idle {idle}, with W({n}) {}", start.elapsed().as_secs_f64() * 1000.0, rss(daemon.id()));
        Ok(())
    });
    daemon.kill()?;
    daemon.wait()?;
    result
}

async fn put(client: &Client, path: &str, body: &Value) -> io::Result<()> {
    let headers = [("content-type", "application/json")];
    let answer = client.request(Method::PUT, path, &headers, body.to_string()).await.map_err(io::Error::other)?;
    if !answer.status.is_success() {
        return Err(io::Error::other(format!("PUT {path}: {}", answer.json())));
    }
    Ok(())
}

/// A process's resident memory (`proc(5)`, VmRSS).
fn rss(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}
