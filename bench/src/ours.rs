//! netnsd asked for W(N), and for what its users ask for after that.

use std::{
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use http::Method;
use netnsd_client::{Answer, Client};
use serde_json::{Value, json};
use tokio::net::UnixListener;

use crate::{Measured, PORTS, gateway, ms, others::address, place, quiet, raw::Eyes};

/// How often a short thing is done, for its median.
const TIMES: usize = 50;

/// A daemon on a state directory.
struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

impl Daemon {
    /// Starts it, and awaits that it is ready; how long that took.
    async fn start(dir: &Path) -> io::Result<(Self, Client, Duration)> {
        let socket = dir.join("netnsd.sock");
        let program = std::env::current_exe()?.with_file_name("netnsd");
        let start = Instant::now();
        let mut command = Command::new(program);
        command
            .arg("--state-dir")
            .arg(dir.join("state"))
            .arg("--socket")
            .arg(&socket);
        let child = command
            .env("NETNSD_LOG", "error")
            .stdin(Stdio::null())
            .spawn()?;
        let client = Client::unix(&socket);
        while !client.get_ready().await.is_ok_and(|ready| ready.ready) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok((Self { child, socket }, client, start.elapsed()))
    }

    /// Its resident memory in megabytes (`proc(5)`, VmRSS of `status`, in kilobytes).
    fn rss(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .unwrap_or_default();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap_or_default();
        line.split_whitespace()
            .next()
            .and_then(|kb| kb.parse::<f64>().ok())
            .unwrap_or_default()
            / 1024.0
    }

    /// Processor time used until now, in seconds (`proc(5)`, utime and stime of `stat`, in ticks of
    /// 10 ms).
    fn cpu(&self) -> f64 {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        let fields = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(11)
            .take(2);
        fields
            .filter_map(|ticks| ticks.parse::<f64>().ok())
            .sum::<f64>()
            / 100.0
    }
}

/// W(N) as one document.
fn document(n: u32) -> Value {
    let namespace = |i| json!({"name": format!("n{i}"), "routes": routes(i)});
    let veth = |i| json!({"name": format!("v{i}"), "endpoints": ends(i)});
    json!({
        "bridges": (0..n.div_ceil(PORTS)).map(bridge).collect::<Vec<_>>(),
        "namespaces": (0..n).map(namespace).collect::<Vec<_>>(),
        "veths": (0..n).map(veth).collect::<Vec<_>>(),
    })
}

fn bridge(i: u32) -> Value {
    json!({"name": format!("br{i}"), "addresses": [format!("{}/16", Ipv4Addr::from(gateway(i)))]})
}

fn routes(i: u32) -> Value {
    json!([{"destination": "default", "via": Ipv4Addr::from(gateway(place(i).0))}])
}

fn ends(i: u32) -> Value {
    json!([{"namespace": format!("n{i}"), "interface": "eth0", "addresses": [format!("{}/16", address(i))]},
        {"interface": format!("p{i}"), "bridge": format!("br{}", place(i).0)}])
}

/// Asks for something that must succeed.
async fn ask(client: &Client, method: Method, path: &str, text: String) -> io::Result<Answer> {
    let headers = [("content-type", "application/json")];
    let answer = client
        .request(method.clone(), path, &headers, text)
        .await
        .map_err(io::Error::other)?;
    if !answer.status.is_success() {
        return Err(io::Error::other(format!(
            "{method} {path}: {}",
            answer.json()
        )));
    }
    Ok(answer)
}

/// How long that takes, in milliseconds: what the client makes of JSON before and after it does not
/// count.
async fn timed(client: &Client, method: Method, path: &str, body: &Value) -> io::Result<f64> {
    let text = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let start = Instant::now();
    ask(client, method, path, text).await?;
    Ok(ms(start))
}

/// The median of many times.
async fn median(
    client: &Client,
    method: Method,
    path: &str,
    body: impl Fn(usize) -> Value,
) -> io::Result<f64> {
    let mut times = Vec::new();
    for i in 0..TIMES {
        times.push(timed(client, method.clone(), path, &body(i)).await?);
    }
    Ok(percentile(times, 50))
}

/// The value below which so many in a hundred are.
pub fn percentile(mut values: Vec<f64>, percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values
        .get((values.len() * percent / 100).min(values.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}

/// W(N) as one document, then everything else that has a mark. `dir` is on a disk.
pub async fn whole(n: u32, dir: &Path) -> io::Result<Measured> {
    let mut measured = Measured::new();
    let (daemon, client, started) = Daemon::start(dir).await?;
    measured.insert("start empty", started.as_secs_f64() * 1e3);
    let text = document(n);
    for name in ["make", "again"] {
        measured.insert(
            name,
            timed(&client, Method::PUT, "/v1/topology", &text).await?,
        );
        quiet();
    }
    let body = |i: usize| {
        json!({"endpoints": [{"namespace": "n0", "interface": "eth0",
        "addresses": [format!("10.0.255.{}/16", i % 200 + 1)]}, {"interface": "p0", "bridge": "br0"}]})
    };
    measured.insert(
        "change one",
        median(&client, Method::PUT, "/v1/veths/v0", body).await?,
    );
    timed(
        &client,
        Method::PUT,
        "/v1/veths/v0",
        &json!({"endpoints": ends(0)}),
    )
    .await?;
    measured.insert(
        "get list",
        median(&client, Method::GET, "/v1/namespaces?limit=1000", |_| {
            Value::Null
        })
        .await?,
    );
    let list = ask(
        &client,
        Method::GET,
        "/v1/namespaces?limit=1000",
        String::new(),
    )
    .await?
    .json();
    let serialising = (0..TIMES).map(|_| {
        let start = Instant::now();
        std::hint::black_box(list.to_string());
        ms(start)
    });
    measured.insert("serialise list", percentile(serialising.collect(), 50));
    measured.insert("get one /s", rate(&client, "/v1/namespaces/n0").await?);
    measured.insert("axum /s", axum_rate(&client, dir).await?);
    let body = |_| json!({"argv": ["/bin/true"]});
    measured.insert(
        "exec",
        median(&client, Method::POST, "/v1/namespaces/n0/exec", body).await?,
    );
    measured.insert("ip netns exec", ip_exec()?);
    heal(n, &mut measured).await?;
    quiet();
    let before = (daemon.cpu(), Instant::now());
    tokio::time::sleep(Duration::from_secs(60)).await;
    measured.insert(
        "idle cpu %",
        (daemon.cpu() - before.0) / before.1.elapsed().as_secs_f64() * 100.0,
    );
    measured.insert("rss MB", daemon.rss());
    drop((daemon, client));
    let (daemon, client, started) = Daemon::start(dir).await?;
    measured.insert("start", started.as_secs_f64() * 1e3);
    quiet();
    measured.insert("rss after start MB", daemon.rss());
    packets(&mut measured)?;
    let recorded = copy(dir)?;
    quiet();
    measured.insert(
        "delete",
        timed(&client, Method::PUT, "/v1/topology", &json!({})).await?,
    );
    drop((daemon, client));
    // A kernel that has a thousand namespaces already takes longer for each that comes.
    quiet();
    measured.insert("start after reboot", reboot(n, recorded.path())?);
    Ok(measured)
}

/// A copy of what is recorded there, on a disk too.
fn copy(dir: &Path) -> io::Result<tempfile::TempDir> {
    let copy = tempfile::tempdir()?;
    std::fs::create_dir(copy.path().join("state"))?;
    for entry in std::fs::read_dir(dir.join("state"))? {
        let entry = entry?;
        std::fs::copy(
            entry.path(),
            copy.path().join("state").join(entry.file_name()),
        )?;
    }
    Ok(copy)
}

/// A reboot: the same record on a fresh host, in a process of its own.
fn reboot(n: u32, dir: &Path) -> io::Result<f64> {
    let mut command = Command::new(std::env::current_exe()?);
    let output = command
        .args(["round", "netnsd-boot", &n.to_string()])
        .arg(dir)
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let found: Value = serde_json::from_str(text.trim()).map_err(io::Error::other)?;
    found["make"]
        .as_f64()
        .ok_or_else(|| io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// A daemon started over what is recorded there: its time until ready.
pub async fn boot(dir: &Path) -> io::Result<Measured> {
    let (_daemon, _, started) = Daemon::start(dir).await?;
    Ok(Measured::from([("make", started.as_secs_f64() * 1e3)]))
}

/// W(N) by a PUT of each resource, over so many connections.
pub async fn singly(n: u32, connections: u32, dir: &Path) -> io::Result<Measured> {
    let (daemon, client, _) = Daemon::start(dir).await?;
    let start = Instant::now();
    for i in 0..n.div_ceil(PORTS) {
        ask(
            &client,
            Method::PUT,
            &format!("/v1/bridges/br{i}"),
            bridge(i).to_string(),
        )
        .await?;
    }
    let mut tasks = tokio::task::JoinSet::new();
    for first in 0..connections {
        let client = Client::unix(&daemon.socket);
        tasks.spawn(async move {
            for i in (first..n).step_by(connections as usize) {
                let namespace = format!("/v1/namespaces/n{i}");
                ask(
                    &client,
                    Method::PUT,
                    &namespace,
                    json!({"routes": routes(i)}).to_string(),
                )
                .await?;
                let veth = json!({"endpoints": ends(i)}).to_string();
                ask(&client, Method::PUT, &format!("/v1/veths/v{i}"), veth).await?;
            }
            Ok::<_, io::Error>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(io::Error::other)??;
    }
    Ok(Measured::from([("make", ms(start))]))
}

/// Requests a second over one connection, one at a time.
async fn rate(client: &Client, path: &str) -> io::Result<f64> {
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < Duration::from_secs(1) {
        ask(client, Method::GET, path, String::new()).await?;
        count += 1;
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}

/// The same of an axum handler that returns the same bytes.
async fn axum_rate(client: &Client, dir: &Path) -> io::Result<f64> {
    let body = ask(client, Method::GET, "/v1/namespaces/n0", String::new())
        .await?
        .body;
    let socket = dir.join("axum.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket)?;
    listener.set_nonblocking(true)?;
    // Like the daemon it has threads of its own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.spawn(async move {
        let handler = move || {
            let body = body.clone();
            async move { ([("content-type", "application/json")], body) }
        };
        let router = Router::new().route("/v1/namespaces/n0", get(handler));
        axum::serve(UnixListener::from_std(listener)?, router).await
    });
    let rate = rate(&Client::unix(&socket), "/v1/namespaces/n0").await;
    runtime.shutdown_background();
    rate
}

/// `ip netns exec`, for comparison.
fn ip_exec() -> io::Result<f64> {
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let start = Instant::now();
        Command::new("ip")
            .args(["netns", "exec", "n0", "/bin/true"])
            .status()?;
        times.push(ms(start));
    }
    Ok(percentile(times, 50))
}

/// A veth end deleted by `ip`, until it is back and answers as it did.
async fn heal(n: u32, measured: &mut Measured) -> io::Result<()> {
    let eyes = Eyes::open()?;
    let mut times = Vec::new();
    for i in (0..n).step_by((n as usize).div_ceil(TIMES).max(1)) {
        // No repair of the one before is going on any more.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let port = format!("p{i}");
        let mut ip = Command::new("ip").args(["link", "delete", &port]).spawn()?;
        // From the moment that it is gone; `ip` itself ends only once the kernel has waited for a
        // grace period.
        while eyes.is_port_up(&port)? {
            std::hint::spin_loop();
        }
        let start = Instant::now();
        while !eyes.is_port_up(&port)? {
            if start.elapsed() > Duration::from_secs(10) {
                return Err(io::Error::other(format!("{port} did not come back")));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        times.push(ms(start));
        ip.wait()?;
    }
    measured.insert("heal p50", percentile(times.clone(), 50));
    measured.insert("heal p99", percentile(times, 99));
    Ok(())
}

/// What goes through from one namespace to another, in Gbit/s; nothing where iperf3 is not
/// installed.
pub fn packets(measured: &mut Measured) -> io::Result<()> {
    let within = |name: &str| {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", name, "iperf3"])
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        command
    };
    if Command::new("iperf3")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        return Ok(());
    }
    let mut server = within("n0")
        .args(["-s", "-1"])
        .stdout(Stdio::null())
        .spawn()?;
    // It listens when a connection comes through: refused until then.
    let mut result = Value::Null;
    for _ in 0..100 {
        let output = within("n1")
            .args(["-c", &address(0), "-t", "2", "-J"])
            .output()?;
        result = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if result["error"].is_null() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    server.kill()?;
    server.wait()?;
    let bits = result["end"]["sum_received"]["bits_per_second"].as_f64();
    measured.insert("Gbit/s", bits.unwrap_or(f64::NAN) / 1e9);
    Ok(())
}
