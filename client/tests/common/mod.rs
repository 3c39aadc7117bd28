//! A host with a daemon on which tests run netnsctl.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(missing_docs, reason = "the names say it")]

#[path = "../../../daemon/tests/common/skip.rs"]
pub mod skip;

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use netnsd::sandbox::Sandbox;
use serde_json::{Value, json};

/// Time after which a test gives up waiting, enough for a load of 20.
pub const TIMEOUT: Duration = Duration::from_secs(300);

/// The admin token of the daemon at 127.0.0.1:8080.
pub const TOKEN: &str = "secret-of-this-test";

pub const NETNSCTL: &str = env!("CARGO_BIN_EXE_netnsctl");

/// A sandboxed host with a running daemon.
pub struct TestHost {
    daemon: Child,
    program: PathBuf,
    notify: UnixDatagram,
    pub sandbox: Sandbox,
    pub dir: tempfile::TempDir,
}

/// Returns the path of the daemon, which is beside netnsctl if it was built.
fn netnsd_path() -> Option<PathBuf> {
    let path = Path::new(NETNSCTL).with_file_name("netnsd");
    if !path.exists() {
        skip::skip(&format!(
            "{} is not built: cargo build --workspace",
            path.display()
        ));
        return None;
    }
    Some(path)
}

/// Starts the daemon, which tells the socket `notify` when it is ready.
fn start_daemon(program: &Path, sandbox: &Sandbox, dir: &Path) -> Child {
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join("log"))
        .unwrap();
    sandbox
        .command(program)
        .unwrap()
        .env("NETNSD_STATE_DIR", dir.join("state"))
        .env("NETNSD_SOCKET", dir.join("netnsd.sock"))
        .env("NETNSD_LISTEN", "127.0.0.1:8080")
        .env("NETNSD_TOKEN_FILE", dir.join("token"))
        .env("NOTIFY_SOCKET", dir.join("notify"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl TestHost {
    /// Starts a host with a daemon and waits until it is ready; `None` if the daemon is not built.
    pub fn start() -> Option<Self> {
        let program = netnsd_path()?;
        let dir = tempfile::Builder::new()
            .prefix("netnsctl-test-")
            .tempdir_in("/tmp")
            .unwrap();
        let sandbox = Sandbox::new().unwrap();
        fs::write(dir.path().join("token"), TOKEN).unwrap();
        let notify = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        notify.set_read_timeout(Some(TIMEOUT)).unwrap();
        let daemon = start_daemon(&program, &sandbox, dir.path());
        let host = Self {
            daemon,
            program,
            notify,
            sandbox,
            dir,
        };
        host.wait_until_ready();
        Some(host)
    }

    /// Kills the daemon, starts it again and waits until it is ready.
    pub fn restart(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        self.daemon = start_daemon(&self.program, &self.sandbox, self.dir.path());
        self.wait_until_ready();
    }

    fn wait_until_ready(&self) {
        let mut text = [0; 256];
        loop {
            let size = self
                .notify
                .recv(&mut text)
                .unwrap_or_else(|error| panic!("not ready: {error}\n{}", self.log()));
            if text[..size].starts_with(b"READY=1") {
                return;
            }
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Returns a command on the host, with netnsctl in its path.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.sandbox.command(program).unwrap();
        let bin = Path::new(NETNSCTL).parent().unwrap().display();
        command
            .env(
                "PATH",
                format!("{bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            )
            .env("HOME", self.dir.path())
            .env_remove("XDG_CONFIG_HOME")
            .env(
                "NETNSCTL_URL",
                format!("unix://{}", self.dir.path().join("netnsd.sock").display()),
            )
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs netnsctl.
    pub fn run(&self, line: &[&str]) -> Outcome {
        Outcome::of(self.command(NETNSCTL).args(line).output().unwrap())
    }

    /// Runs netnsctl, which must succeed; returns its output.
    #[track_caller]
    pub fn run_ok(&self, line: &[&str]) -> String {
        let outcome = self.run(line);
        assert_eq!(
            (outcome.code, outcome.err.as_str()),
            (Some(0), ""),
            "netnsctl {line:?}"
        );
        outcome.out
    }

    /// Runs netnsctl, which must succeed; returns its output as JSON.
    #[track_caller]
    pub fn run_json(&self, line: &[&str]) -> Value {
        serde_json::from_str(&self.run_ok(&[&["-o", "json"], line].concat())).unwrap()
    }

    /// Runs a shell script on the host.
    pub fn run_script(&self, script: &str) -> Outcome {
        Outcome::of(self.command("sh").args(["-c", script]).output().unwrap())
    }

    /// Returns the output of `ip -j`.
    #[track_caller]
    pub fn ip_json(&self, args: &[&str]) -> Value {
        let output = self.command("ip").arg("-j").args(args).output().unwrap();
        assert!(
            output.status.success(),
            "ip {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        match serde_json::from_slice(&output.stdout) {
            // iproute2 prints nothing for an empty list, and pads some lists with empty objects.
            Ok(Value::Array(items)) => items
                .into_iter()
                .filter(|item| *item != json!({}))
                .collect(),
            _ => json!([]),
        }
    }

    /// Returns the names that `ip netns` lists.
    pub fn list_namespaces(&self) -> Vec<String> {
        let list = self.ip_json(&["netns", "list"]);
        let mut names: Vec<String> = list
            .as_array()
            .unwrap()
            .iter()
            .map(|ns| ns["name"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    }

    /// Adds two namespaces with a veth pair between them.
    #[track_caller]
    pub fn add_connected_namespaces(&self) {
        self.run_ok(&["netns", "add", "net0", "net1"]);
        self.run_ok(&[
            "veth",
            "add",
            "lan0",
            "net0:eth0,addr=10.1.1.1/24",
            "net1:eth0,addr=10.1.1.2/24",
        ]);
    }

    /// Waits until a condition holds.
    #[track_caller]
    pub fn wait_until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < TIMEOUT, "timed out waiting for: {what}");
        }
    }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        let _ = self.daemon.kill(); // It may have ended.
        let _ = self.daemon.wait();
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
    }
}

/// The outcome of a command.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Outcome {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Asserts the exit code, and that stderr has these texts in at most two lines.
    #[track_caller]
    pub fn assert_failed(&self, code: i32, said: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for text in said {
            assert!(self.err.contains(text), "{text:?} is not in {self:?}");
        }
        assert!(
            self.err.starts_with("netnsctl: ") && self.err.lines().count() <= 2,
            "{self:?}"
        );
    }
}

/// Starts a host, or ends the test.
#[macro_export]
macro_rules! host {
    () => {
        match common::TestHost::start() {
            Some(host) => host,
            None => return,
        }
    };
}
