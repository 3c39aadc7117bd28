//! A host with a daemon, on which netnsctl is run as a user does.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(missing_docs, reason = "the names say it")]

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use netnsd::sandbox::Sandbox;
use serde_json::{Value, json};

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Who has it is admin at 127.0.0.1:8080 too.
pub const TOKEN: &str = "what-only-this-test-knows";

pub const NETNSCTL: &str = env!("CARGO_BIN_EXE_netnsctl");

/// A host with the daemon.
pub struct Host {
    daemon: Child,
    pub sandbox: Sandbox,
    pub dir: tempfile::TempDir,
}

/// The daemon's program, which lies beside netnsctl if it was built.
fn netnsd() -> Option<PathBuf> {
    let path = Path::new(NETNSCTL).with_file_name("netnsd");
    if !path.exists() {
        eprintln!(
            "skipped: {} is not built (cargo build -p netnsd)",
            path.display()
        );
        return None;
    }
    Some(path)
}

impl Host {
    /// A fresh host with the daemon ready on it; none if the daemon is not built.
    pub fn start() -> Option<Self> {
        let program = netnsd()?;
        let dir = tempfile::Builder::new()
            .prefix("netnsctl-test-")
            .tempdir_in("/tmp")
            .unwrap();
        let sandbox = Sandbox::new().unwrap();
        let path = dir.path().join("notify");
        let notify = UnixDatagram::bind(&path).unwrap();
        notify.set_read_timeout(Some(PATIENCE)).unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        fs::write(dir.path().join("token"), TOKEN).unwrap();
        let daemon = sandbox
            .command(program)
            .unwrap()
            .env("NETNSD_STATE_DIR", dir.path().join("state"))
            .env("NETNSD_SOCKET", dir.path().join("netnsd.sock"))
            .env("NETNSD_LISTEN", "127.0.0.1:8080")
            .env("NETNSD_TOKEN_FILE", dir.path().join("token"))
            .env("NOTIFY_SOCKET", &path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let host = Self {
            daemon,
            sandbox,
            dir,
        };
        let mut text = [0; 256];
        loop {
            let size = notify
                .recv(&mut text)
                .unwrap_or_else(|error| panic!("not ready: {error}\n{}", host.log()));
            if text[..size].starts_with(b"READY=1") {
                return Some(host);
            }
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// A command on the host, with netnsctl in its path.
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
    pub fn run(&self, line: &[&str]) -> Ran {
        Ran::of(self.command(NETNSCTL).args(line).output().unwrap())
    }

    /// Runs netnsctl, which succeeds; gives what it printed.
    #[track_caller]
    pub fn ok(&self, line: &[&str]) -> String {
        let ran = self.run(line);
        assert_eq!(
            (ran.code, ran.err.as_str()),
            (Some(0), ""),
            "netnsctl {line:?}"
        );
        ran.out
    }

    /// Runs netnsctl, which succeeds and prints JSON.
    #[track_caller]
    pub fn json(&self, line: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[&["-o", "json"], line].concat())).unwrap()
    }

    pub fn sh(&self, script: &str) -> Ran {
        Ran::of(self.command("sh").args(["-c", script]).output().unwrap())
    }

    /// What `ip -j` says.
    #[track_caller]
    pub fn ip(&self, args: &[&str]) -> Value {
        let output = self.command("ip").arg("-j").args(args).output().unwrap();
        assert!(
            output.status.success(),
            "ip {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        match serde_json::from_slice(&output.stdout) {
            // iproute2 has two ways to say nothing, and pads some lists with empty objects.
            Ok(Value::Array(items)) => items
                .into_iter()
                .filter(|item| *item != json!({}))
                .collect(),
            _ => json!([]),
        }
    }

    /// The names of the namespaces, as `ip netns` lists them.
    pub fn namespaces(&self) -> Vec<String> {
        let list = self.ip(&["netns", "list"]);
        let mut names: Vec<String> = list
            .as_array()
            .unwrap()
            .iter()
            .map(|ns| ns["name"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    }

    /// Two namespaces with a pair between them.
    #[track_caller]
    pub fn joined(&self) {
        self.ok(&["netns", "add", "net0", "net1"]);
        self.ok(&[
            "veth",
            "add",
            "lan0",
            "net0:eth0,addr=10.1.1.1/24",
            "net1:eth0,addr=10.1.1.2/24",
        ]);
    }

    /// Waits for something that happens by itself.
    #[track_caller]
    pub fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _gone = self.daemon.kill();
        let _reaped = self.daemon.wait();
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// That it failed with this code, and said these things in at most two lines.
    #[track_caller]
    pub fn failed(&self, code: i32, said: &[&str]) {
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

/// A host, or the test is over.
#[macro_export]
macro_rules! host {
    () => {
        match common::Host::start() {
            Some(host) => host,
            None => return,
        }
    };
}
