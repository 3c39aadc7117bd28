//! Shared by the tests: a private host, a daemon on it, and ways to observe both.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(missing_docs, reason = "the names say it")]

pub mod random;
pub mod shape;
pub mod skip;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixDatagram, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use netnsd::sandbox::Sandbox;
use netnsd_client::Client;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

pub const NETNSD: &str = env!("CARGO_BIN_EXE_netnsd");
/// Time after which a wait has failed, on a machine with a load of 20 too. Each wait ends with its
/// event.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A host of the test's own, with at most one daemon that was started by [`Host::start`].
pub struct Host {
    pub sandbox: Sandbox,
    dir: TempDir,
    daemon: Option<Child>,
    /// Held open: a daemon that stops tells it too.
    notify: Option<UnixDatagram>,
    runtime: tokio::runtime::Runtime,
    client: Client,
}

/// An answer, taken apart for tests.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub etag: Option<String>,
    pub location: Option<String>,
    pub content_type: Option<String>,
    pub json: Value,
}

impl Answer {
    /// The body of a success.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(
            (200..300).contains(&self.status),
            "{}: {}",
            self.status,
            self.json
        );
        self.json
    }

    /// A refusal of this status and code, and at this pointer if one is given.
    #[track_caller]
    pub fn refused(self, status: u16, code: &str, pointer: Option<&str>) {
        assert_eq!(
            (self.status, self.json["code"].as_str()),
            (status, Some(code)),
            "{}",
            self.json
        );
        if pointer.is_some() {
            assert_eq!(self.json["pointer"].as_str(), pointer, "{}", self.json);
        }
        assert_eq!(
            self.content_type.as_deref(),
            Some("application/problem+json")
        );
    }
}

impl Host {
    /// A fresh host with nothing on it.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("netnsd-test-")
            .tempdir()
            .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let client = Client::unix(dir.path().join("netnsd.sock"));
        Self {
            sandbox: Sandbox::new().unwrap(),
            dir,
            daemon: None,
            notify: None,
            runtime,
            client,
        }
    }

    /// A fresh host with a daemon that is ready.
    pub fn started() -> Self {
        let mut host = Self::new();
        host.start();
        host
    }

    /// A fresh host whose daemon listens on TCP too, by the token `root-token`, and that address.
    pub fn started_on_tcp() -> (Self, String) {
        let mut host = Self::new();
        let token = host.dir().join("token");
        fs::write(&token, "root-token\n").unwrap();
        host.start_with(|command| {
            command
                .args(["--listen", "127.0.0.1:0", "--token-file"])
                .arg(&token);
        });
        let about = host.get("/v1").ok();
        let urls = about["listen"].as_array().unwrap();
        let address = urls
            .iter()
            .find_map(|url| url.as_str()?.strip_prefix("http://"))
            .unwrap()
            .to_owned();
        (host, address)
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("netnsd.sock")
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The daemon's command line on this host, to be added to.
    pub fn netnsd(&self) -> Command {
        self.netnsd_with(&self.state_dir(), &self.socket())
    }

    /// The same with another state directory or socket.
    pub fn netnsd_with(&self, state_dir: &Path, socket: &Path) -> Command {
        let mut command = self.sandbox.command(NETNSD).unwrap();
        clear_daemon_environment(&mut command);
        command
            .arg("--state-dir")
            .arg(state_dir)
            .arg("--socket")
            .arg(socket)
            .stdin(Stdio::null());
        command
    }

    /// Starts the daemon and waits until it says that it is ready.
    pub fn start(&mut self) {
        self.start_with(|_| ());
    }

    /// The same, with more on its command line or in its environment.
    pub fn start_with(&mut self, more: impl FnOnce(&mut Command)) {
        let mut command = self.netnsd();
        more(&mut command);
        self.start_as(command);
    }

    /// Starts the daemon by a command line made elsewhere.
    pub fn start_as(&mut self, command: Command) {
        assert!(
            self.try_start_as(command),
            "the daemon ended\n{}",
            self.log()
        );
    }

    /// The same with one that may end before it is ready; returns true if it got ready.
    pub fn try_start_as(&mut self, mut command: Command) -> bool {
        assert!(self.daemon.is_none(), "the daemon runs already");
        let (notify, path) = self.notify_socket();
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        command
            .env("NOTIFY_SOCKET", &path)
            .env("NETNSD_LOG", "info")
            .stderr(log)
            .stdout(Stdio::null());
        self.daemon = Some(command.spawn().unwrap());
        let ready = self.wait_ready(&notify);
        self.notify = Some(notify);
        // A connection to the daemon before is no use, and only idempotent requests may find that
        // out.
        self.client = Client::unix(self.socket());
        ready
    }

    fn notify_socket(&self) -> (UnixDatagram, PathBuf) {
        let path = self.dir.path().join("notify");
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).unwrap();
        // The interval at which wait_ready checks for the daemon's end: one that fails to start
        // sends no notification.
        socket
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        (socket, path)
    }

    fn wait_ready(&mut self, notify: &UnixDatagram) -> bool {
        let start = Instant::now();
        let mut message = [0; 4096];
        loop {
            if let Ok(length) = notify.recv(&mut message)
                && message[..length]
                    .split(|byte| *byte == b'\n')
                    .any(|line| line == b"READY=1")
            {
                return true;
            }
            if self.daemon.as_mut().unwrap().try_wait().unwrap().is_some() {
                self.daemon = None;
                return false;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "the daemon did not get ready\n{}",
                self.log()
            );
        }
    }

    /// Returns the daemon's next message to its service manager; `None` if there is none within
    /// this time.
    pub fn notification(&self, within: Duration) -> Option<String> {
        let notify = self.notify.as_ref().expect("the daemon was started");
        notify.set_read_timeout(Some(within)).unwrap();
        let mut message = [0; 4096];
        let length = notify.recv(&mut message).ok()?;
        Some(String::from_utf8_lossy(&message[..length]).into_owned())
    }

    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("the daemon runs").id()
    }

    /// Returns the log of the daemons on this host.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).unwrap();
    }

    /// Ends the daemon in order.
    pub fn terminate(&mut self) -> ExitStatus {
        self.end_by(Signal::SIGTERM)
    }

    /// Ends the daemon by a signal.
    pub fn end_by(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.daemon.take().unwrap().wait().unwrap()
    }

    /// Ends the daemon as a crash does.
    pub fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
        self.daemon.take().unwrap().wait().unwrap();
    }

    pub fn restart(&mut self) {
        let status = self.terminate();
        assert!(status.success(), "{status}\n{}", self.log());
        self.start();
    }

    /// The same by another command line.
    pub fn restart_as(&mut self, command: impl FnOnce(&Self) -> Command) {
        let status = self.terminate();
        assert!(status.success(), "{status}\n{}", self.log());
        let command = command(self);
        self.start_as(command);
    }

    /// The machine loses power and comes back: a fresh host with the same state directory. The
    /// daemon is not started.
    pub fn power_cycle(&mut self) {
        if self.daemon.is_some() {
            self.kill9();
        }
        self.sandbox = Sandbox::new().unwrap();
    }

    /// The same, and the daemon is started.
    pub fn reboot(&mut self) {
        self.power_cycle();
        self.start();
    }

    /// Sends a request as it is.
    pub fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        let method = method.parse().unwrap();
        let answer = self
            .runtime
            .block_on(self.client.request(method, path, headers, body));
        let answer = answer.unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
        let header = |name| answer.header(name).map(str::to_owned);
        assert!(header("x-request-id").is_some(), "every answer has an id");
        Answer {
            status: answer.status.as_u16(),
            etag: header("etag"),
            location: header("location"),
            content_type: header("content-type"),
            json: answer.json(),
        }
    }

    /// Opens a connection of its own and sends a request, whose answer is read as it comes:
    /// HTTP/1.0 has no chunks.
    pub fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> BufReader<UnixStream> {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let headers: String = headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\n{headers}content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        BufReader::new(stream)
    }

    /// The same, read to its end: the head, and the body.
    pub fn whole(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (String, String) {
        let mut text = String::new();
        self.open(method, path, headers, body)
            .read_to_string(&mut text)
            .unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    fn send(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.raw(
            method,
            path,
            &[("content-type", "application/json")],
            body.to_string().into_bytes(),
        )
    }

    pub fn get(&self, path: &str) -> Answer {
        self.raw("GET", path, &[], Vec::new())
    }

    pub fn put(&self, path: &str, body: Value) -> Answer {
        self.send("PUT", path, &body)
    }

    pub fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, &body)
    }

    pub fn patch(&self, path: &str, body: Value) -> Answer {
        self.send("PATCH", path, &body)
    }

    pub fn delete(&self, path: &str) -> Answer {
        self.raw("DELETE", path, &[], Vec::new())
    }

    /// The typed client.
    pub fn typed<T>(&self, ask: impl AsyncFnOnce(Client) -> T) -> T {
        self.runtime.block_on(ask(self.client.clone()))
    }

    /// Starts a command in the sandbox.
    pub fn spawn(&self, argv: &[&str]) -> Child {
        self.sandbox
            .command(argv[0])
            .unwrap()
            .args(&argv[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    #[track_caller]
    fn json(&self, program: &str, args: &[&str]) -> Value {
        let output = self
            .sandbox
            .command(program)
            .unwrap()
            .arg("-j")
            .args(args)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{program} {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        match serde_json::from_slice(&output.stdout) {
            // iproute2 has two ways to say nothing, and pads some lists with empty objects.
            Ok(Value::Array(items)) => Value::Array(
                items
                    .into_iter()
                    .filter(|item| item.as_object().is_none_or(|map| !map.is_empty()))
                    .collect(),
            ),
            Ok(other) => other,
            Err(_) => Value::Array(Vec::new()),
        }
    }

    /// Returns the output of `ip -j`.
    #[track_caller]
    pub fn ip(&self, args: &[&str]) -> Value {
        self.json("ip", args)
    }

    /// Returns the output of `bridge -j`.
    #[track_caller]
    pub fn bridge(&self, args: &[&str]) -> Value {
        self.json("bridge", args)
    }

    /// The kernel's state as `ip -j` tells it, of the host and of every namespace, without what
    /// changes by itself.
    pub fn kernel(&self) -> Vec<String> {
        let names = self.ip(&["netns", "list"]);
        let mut all = vec![names.clone()];
        let inside = names
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|ns| ns["name"].as_str());
        for prefix in std::iter::once(vec![]).chain(inside.map(|name| vec!["-n", name])) {
            for what in [
                &["-d", "addr"][..],
                &["route", "show", "table", "all"],
                &["-6", "route", "show", "table", "all"],
            ] {
                all.push(self.ip(&[&prefix[..], what].concat()));
            }
            all.push(self.ip(&[&prefix[..], &["neigh", "show", "nud", "permanent"]].concat()));
        }
        let mut text = Value::Array(all);
        steady(&mut text);
        serde_json::to_string_pretty(&text)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// Waits for something that happens by itself.
    #[track_caller]
    pub fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(
                start.elapsed() < PATIENCE,
                "waited in vain: {what}\n{}",
                self.log()
            );
            std::thread::yield_now();
        }
    }

    /// Waits until every link that has carrier says that it is up, and no address is being looked
    /// for twice.
    pub fn wait_until_settled(&self) {
        self.until("links settle", || {
            let pairs = self.get("/v1/veths").ok();
            let ends = pairs["items"]
                .as_array()
                .into_iter()
                .flatten()
                .flat_map(|pair| {
                    pair["status"]["observed"]["endpoints"]
                        .as_array()
                        .cloned()
                        .unwrap_or_default()
                });
            let bridges = self.get("/v1/bridges").ok();
            let bridges: Vec<Value> = bridges["items"].as_array().cloned().unwrap_or_default();
            let bridges = bridges
                .into_iter()
                .map(|bridge| bridge["status"]["observed"].clone());
            // A bridge without ports never says.
            let never_says = |link: &Value| {
                link["operstate"] == "unknown"
                    && link["ports"].as_array().is_some_and(Vec::is_empty)
            };
            ends.chain(bridges).all(|link| {
                link["up"] != true
                    || never_says(&link)
                    || (link["carrier"] == true) == (link["operstate"] == "up")
            })
        });
        let script =
            "{ ip addr show tentative; ip -all netns exec ip addr show tentative; } | grep inet6";
        let tentative = || self.sh(script).stdout;
        self.until("addresses settle", || tentative().is_empty());
    }

    /// Pings without pause.
    pub fn spawn_ping(&self, namespace: &str, address: &str, interval_ms: u32) -> Pings {
        let interval = format!("{:.3}", f64::from(interval_ms) / 1000.0);
        let mut child = self
            .sandbox
            .command("ip")
            .unwrap()
            .args([
                "netns", "exec", namespace, "ping", "-n", "-i", &interval, address,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let received = Arc::new(AtomicU32::new(0));
        let summary = Arc::new(Mutex::new(String::new()));
        let (count, text) = (received.clone(), summary.clone());
        let lines = BufReader::new(child.stdout.take().unwrap());
        let reader = std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                if line.contains("bytes from") {
                    count.fetch_add(1, Ordering::SeqCst);
                }
                if line.contains("packets transmitted") {
                    *text.lock().unwrap() = line;
                }
            }
        });
        Pings {
            child,
            received,
            summary,
            reader,
        }
    }

    /// Runs a command on this host; its output on success.
    pub fn run(&self, argv: &[&str]) -> String {
        let output = self.sandbox.run(argv).unwrap();
        assert!(
            output.status.success(),
            "{argv:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a shell script on this host, whatever becomes of it.
    pub fn sh(&self, script: &str) -> Output {
        self.sandbox.run(&["/bin/sh", "-c", script]).unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        if std::thread::panicking() {
            eprintln!("---- the daemon's log ----\n{}", self.log());
        }
    }
}

/// Removes the variables that a daemon reads from a command's environment.
pub fn clear_daemon_environment(command: &mut Command) {
    for (key, _) in std::env::vars_os() {
        let ours = key.to_string_lossy().starts_with("NETNSD_");
        if ours
            || ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "WATCHDOG_USEC"]
                .iter()
                .any(|name| key == *name)
        {
            command.env_remove(key);
        }
    }
}

/// Removes values that change by themselves: timers, and the end of duplicate address detection.
fn steady(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !key.ends_with("timer") && key != "tentative");
            map.values_mut().for_each(steady);
        }
        Value::Array(items) => items.iter_mut().for_each(steady),
        _ => {}
    }
}

/// Asserts that two states are the same; the message has the lines that differ.
#[track_caller]
pub fn same(before: &[String], after: &[String]) {
    let count =
        |lines: &[String], line: &String| lines.iter().filter(|other| *other == line).count();
    let (gone, new): (Vec<_>, Vec<_>) = (
        before
            .iter()
            .filter(|line| count(after, line) < count(before, line))
            .collect(),
        after
            .iter()
            .filter(|line| count(before, line) < count(after, line))
            .collect(),
    );
    assert!(before == after, "gone: {gone:#?}\nnew: {new:#?}");
}

/// A running ping(8).
pub struct Pings {
    child: Child,
    received: Arc<AtomicU32>,
    summary: Arc<Mutex<String>>,
    reader: std::thread::JoinHandle<()>,
}

impl Pings {
    /// Returns the number of replies so far.
    pub fn received(&self) -> u32 {
        self.received.load(Ordering::SeqCst)
    }

    /// Ends it; returns the numbers of requests and of replies.
    pub fn stop(mut self) -> (u32, u32) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT).unwrap();
        self.child.wait().unwrap();
        self.reader.join().unwrap();
        let summary = self.summary.lock().unwrap().clone();
        let numbers: Vec<u32> = summary
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        (numbers[0], numbers[1])
    }
}
