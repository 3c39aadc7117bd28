//! netnsd: W(N) and other operations over the API.

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

use crate::{
    Measurements, PORTS_PER_BRIDGE, baselines::namespace_address, bridge_and_address, elapsed_ms,
    gateway_address, raw_netlink::LinkObserver, wait_until_idle,
};

/// Number of repetitions of short operations, for their median.
const REPETITIONS: usize = 50;

/// A daemon with its own state directory.
struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill(); // It may have ended.
        let _ = self.child.wait();
    }
}

impl Daemon {
    /// Starts a daemon and waits until it is ready; returns the time that it took.
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

    /// Returns its resident memory in megabytes (`proc(5)`, VmRSS of `status`, in kilobytes).
    fn read_rss(&self) -> f64 {
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

    /// Returns the processor time used so far, in seconds (`proc(5)`, utime and stime of `stat`, in
    /// ticks of 10 ms).
    fn read_cpu_time(&self) -> f64 {
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

/// Returns W(N) as one document.
fn topology_document(n: u32) -> Value {
    let namespace = |i| json!({"name": format!("n{i}"), "routes": default_route(i)});
    let veth = |i| json!({"name": format!("v{i}"), "endpoints": endpoint_specs(i)});
    json!({
        "bridges": (0..n.div_ceil(PORTS_PER_BRIDGE)).map(bridge_spec).collect::<Vec<_>>(),
        "namespaces": (0..n).map(namespace).collect::<Vec<_>>(),
        "veths": (0..n).map(veth).collect::<Vec<_>>(),
    })
}

fn bridge_spec(i: u32) -> Value {
    json!({"name": format!("br{i}"), "addresses": [format!("{}/16", Ipv4Addr::from(gateway_address(i)))]})
}

fn default_route(i: u32) -> Value {
    json!([{"destination": "default", "via": Ipv4Addr::from(gateway_address(bridge_and_address(i).0))}])
}

fn endpoint_specs(i: u32) -> Value {
    json!([{"namespace": format!("n{i}"), "interface": "eth0", "addresses": [format!("{}/16", namespace_address(i))]},
        {"interface": format!("p{i}"), "bridge": format!("br{}", bridge_and_address(i).0)}])
}

/// Sends a request that must succeed.
async fn send_request(
    client: &Client,
    method: Method,
    path: &str,
    text: String,
) -> io::Result<Answer> {
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

/// Returns the time of a request in milliseconds, without that of JSON in the client.
async fn time_request(
    client: &Client,
    method: Method,
    path: &str,
    body: &Value,
) -> io::Result<f64> {
    let text = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let start = Instant::now();
    send_request(client, method, path, text).await?;
    Ok(elapsed_ms(start))
}

/// Returns the median time of repeated requests.
async fn median_time(
    client: &Client,
    method: Method,
    path: &str,
    body: impl Fn(usize) -> Value,
) -> io::Result<f64> {
    let mut times = Vec::new();
    for i in 0..REPETITIONS {
        times.push(time_request(client, method.clone(), path, &body(i)).await?);
    }
    Ok(percentile(times, 50))
}

/// Returns a percentile of values.
pub fn percentile(mut values: Vec<f64>, percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values
        .get((values.len() * percent / 100).min(values.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}

/// Measures W(N) as one document, then everything else that has a target. `dir` is on a disk.
pub async fn measure_all(n: u32, dir: &Path) -> io::Result<Measurements> {
    let mut measured = Measurements::new();
    let (daemon, client, started) = Daemon::start(dir).await?;
    measured.insert("start empty", started.as_secs_f64() * 1e3);
    let text = topology_document(n);
    for name in ["make", "again"] {
        measured.insert(
            name,
            time_request(&client, Method::PUT, "/v1/topology", &text).await?,
        );
        wait_until_idle();
    }
    let body = |i: usize| {
        json!({"endpoints": [{"namespace": "n0", "interface": "eth0",
        "addresses": [format!("10.0.255.{}/16", i % 200 + 1)]}, {"interface": "p0", "bridge": "br0"}]})
    };
    measured.insert(
        "change one",
        median_time(&client, Method::PUT, "/v1/veths/v0", body).await?,
    );
    time_request(
        &client,
        Method::PUT,
        "/v1/veths/v0",
        &json!({"endpoints": endpoint_specs(0)}),
    )
    .await?;
    measured.insert(
        "get list",
        median_time(&client, Method::GET, "/v1/namespaces?limit=1000", |_| {
            Value::Null
        })
        .await?,
    );
    let list = send_request(
        &client,
        Method::GET,
        "/v1/namespaces?limit=1000",
        String::new(),
    )
    .await?
    .json();
    let serialising = (0..REPETITIONS).map(|_| {
        let start = Instant::now();
        std::hint::black_box(list.to_string());
        elapsed_ms(start)
    });
    measured.insert("serialise list", percentile(serialising.collect(), 50));
    measured.insert(
        "get one /s",
        measure_request_rate(&client, "/v1/namespaces/n0").await?,
    );
    measured.insert("axum /s", measure_axum_rate(&client, dir).await?);
    let body = |_| json!({"argv": ["/bin/true"]});
    measured.insert(
        "exec",
        median_time(&client, Method::POST, "/v1/namespaces/n0/exec", body).await?,
    );
    measured.insert("ip netns exec", measure_ip_netns_exec()?);
    measure_repair(n, &mut measured).await?;
    wait_until_idle();
    let before = (daemon.read_cpu_time(), Instant::now());
    tokio::time::sleep(Duration::from_secs(60)).await;
    measured.insert(
        "idle cpu %",
        (daemon.read_cpu_time() - before.0) / before.1.elapsed().as_secs_f64() * 100.0,
    );
    measured.insert("rss MB", daemon.read_rss());
    drop((daemon, client));
    let (daemon, client, started) = Daemon::start(dir).await?;
    measured.insert("start", started.as_secs_f64() * 1e3);
    wait_until_idle();
    measured.insert("rss after start MB", daemon.read_rss());
    measure_throughput(&mut measured)?;
    let state = copy_state(dir)?;
    wait_until_idle();
    measured.insert(
        "delete",
        time_request(&client, Method::PUT, "/v1/topology", &json!({})).await?,
    );
    drop((daemon, client));
    // Creating a namespace takes longer the more exist.
    wait_until_idle();
    measured.insert(
        "start after reboot",
        measure_start_after_reboot(n, state.path())?,
    );
    Ok(measured)
}

/// Copies the state directory, to a disk too.
fn copy_state(dir: &Path) -> io::Result<tempfile::TempDir> {
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

/// Starts a daemon with a recorded state on a fresh host, in a process of its own; returns the time
/// until it is ready.
fn measure_start_after_reboot(n: u32, dir: &Path) -> io::Result<f64> {
    let mut command = Command::new(std::env::current_exe()?);
    let output = command
        .args(["round", "netnsd-boot", &n.to_string()])
        .arg(dir)
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let measurements: Value = serde_json::from_str(text.trim()).map_err(io::Error::other)?;
    measurements["make"]
        .as_f64()
        .ok_or_else(|| io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// Measures the start of a daemon on a state directory.
pub async fn start_on(dir: &Path) -> io::Result<Measurements> {
    let (_daemon, _, started) = Daemon::start(dir).await?;
    Ok(Measurements::from([("make", started.as_secs_f64() * 1e3)]))
}

/// Measures W(N) by one PUT for each resource, over a number of connections.
pub async fn apply_singly(n: u32, connections: u32, dir: &Path) -> io::Result<Measurements> {
    let (daemon, client, _) = Daemon::start(dir).await?;
    let start = Instant::now();
    for i in 0..n.div_ceil(PORTS_PER_BRIDGE) {
        send_request(
            &client,
            Method::PUT,
            &format!("/v1/bridges/br{i}"),
            bridge_spec(i).to_string(),
        )
        .await?;
    }
    let mut tasks = tokio::task::JoinSet::new();
    for first in 0..connections {
        let client = Client::unix(&daemon.socket);
        tasks.spawn(async move {
            for i in (first..n).step_by(connections as usize) {
                let namespace = format!("/v1/namespaces/n{i}");
                send_request(
                    &client,
                    Method::PUT,
                    &namespace,
                    json!({"routes": default_route(i)}).to_string(),
                )
                .await?;
                let veth = json!({"endpoints": endpoint_specs(i)}).to_string();
                send_request(&client, Method::PUT, &format!("/v1/veths/v{i}"), veth).await?;
            }
            Ok::<_, io::Error>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(io::Error::other)??;
    }
    Ok(Measurements::from([("make", elapsed_ms(start))]))
}

/// Returns the requests per second over one connection, one at a time.
async fn measure_request_rate(client: &Client, path: &str) -> io::Result<f64> {
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < Duration::from_secs(1) {
        send_request(client, Method::GET, path, String::new()).await?;
        count += 1;
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}

/// Returns the requests per second of an axum handler with the same answer.
async fn measure_axum_rate(client: &Client, dir: &Path) -> io::Result<f64> {
    let body = send_request(client, Method::GET, "/v1/namespaces/n0", String::new())
        .await?
        .body;
    let socket = dir.join("axum.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket)?;
    listener.set_nonblocking(true)?;
    // As in the daemon, the server has threads of its own.
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
    let rate = measure_request_rate(&Client::unix(&socket), "/v1/namespaces/n0").await;
    runtime.shutdown_background();
    rate
}

/// Returns the median time of `ip netns exec`.
fn measure_ip_netns_exec() -> io::Result<f64> {
    let mut times = Vec::new();
    for _ in 0..REPETITIONS {
        let start = Instant::now();
        Command::new("ip")
            .args(["netns", "exec", "n0", "/bin/true"])
            .status()?;
        times.push(elapsed_ms(start));
    }
    Ok(percentile(times, 50))
}

/// Measures the time from the deletion of a veth end by `ip` until it is repaired.
async fn measure_repair(n: u32, measured: &mut Measurements) -> io::Result<()> {
    let observer = LinkObserver::open()?;
    let mut times = Vec::new();
    for i in (0..n).step_by((n as usize).div_ceil(REPETITIONS).max(1)) {
        // Let the previous repair finish.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let port = format!("p{i}");
        let mut ip = Command::new("ip").args(["link", "delete", &port]).spawn()?;
        // Measure from the moment of deletion; `ip` ends only after an RCU grace period.
        while observer.is_port_up(&port)? {
            std::hint::spin_loop();
        }
        let start = Instant::now();
        while !observer.is_port_up(&port)? {
            if start.elapsed() > Duration::from_secs(10) {
                return Err(io::Error::other(format!("{port} did not come back")));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        times.push(elapsed_ms(start));
        ip.wait()?;
    }
    measured.insert("heal p50", percentile(times.clone(), 50));
    measured.insert("heal p99", percentile(times, 99));
    Ok(())
}

/// Measures the throughput between two namespaces in Gbit/s, if iperf3 is installed.
pub fn measure_throughput(measured: &mut Measurements) -> io::Result<()> {
    if Command::new("iperf3")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        return Ok(());
    }
    let mut server = iperf3_in("n0")
        .args(["-s", "-1"])
        .stdout(Stdio::null())
        .spawn()?;
    // The connection is refused until the server listens.
    let mut result = Value::Null;
    for _ in 0..100 {
        let output = iperf3_in("n1")
            .args(["-c", &namespace_address(0), "-t", "2", "-J"])
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

/// Returns an iperf3 command in a namespace.
fn iperf3_in(namespace: &str) -> Command {
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", namespace, "iperf3"])
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    command
}
