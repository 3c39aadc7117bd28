//! Start of the daemon, refusals to start, and its end.

#![allow(
    unsafe_code,
    reason = "a descriptor is handed over as a service manager does it"
)]

mod common;

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream, process::CommandExt},
    path::Path,
    process::{Command, Output, Stdio},
};

use common::{Host, NETNSD, clear_daemon_environment};
use nix::sys::signal::Signal;
use serde_json::json;

fn netnsd(arguments: &[&str]) -> Output {
    let mut command = Command::new(NETNSD);
    clear_daemon_environment(&mut command);
    command.args(arguments).output().unwrap()
}

/// Its one sentence on stderr, checked to be one.
fn sentence(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[test]
fn wrong_option_stops_the_start() {
    for (arguments, parts) in [
        (
            vec!["--listen", "nonsense"],
            vec!["--listen", "nonsense", "127.0.0.1:8080"],
        ),
        (
            vec!["--listen", "127.0.0.1:0"],
            vec!["token_file", "--token-file"],
        ),
        (
            vec!["--listen", "0.0.0.0:80", "--token-file", "/t"],
            vec!["0.0.0.0:80", "TLS"],
        ),
        (
            vec!["--log-format", "xml"],
            vec!["--log-format", "xml", "json"],
        ),
        (
            vec!["--config", "/does/not/exist"],
            vec!["--config", "/does/not/exist"],
        ),
        (vec!["--stat-dir", "/x"], vec!["--stat-dir"]),
        (vec!["--state-dir"], vec!["--state-dir"]),
        (vec!["frobnicate"], vec!["frobnicate"]),
    ] {
        let output = netnsd(&arguments);
        let text = sentence(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        for part in parts {
            assert!(text.contains(part), "{text} lacks {part}");
        }
    }
}

#[test]
fn wrong_environment_or_file_stops_the_start() {
    let host = Host::new();
    let output = host
        .netnsd()
        .env("NETNSD_LOG_FORMAT", "xml")
        .output()
        .unwrap();
    assert!(sentence(&output).contains("NETNSD_LOG_FORMAT"));
    let file = host.dir().join("netnsd.toml");
    fs::write(&file, "state_dri = '/x'").unwrap();
    let output = host.netnsd().arg("--config").arg(&file).output().unwrap();
    assert!(sentence(&output).contains("state_dri"));
}

#[test]
fn missing_token_file_is_named() {
    let host = Host::new();
    let output = host
        .netnsd()
        .args(["--listen", "127.0.0.1:0", "--token-file", "/nowhere"])
        .output()
        .unwrap();
    assert!(sentence(&output).contains("/nowhere"));
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn missing_capabilities_are_named() {
    let mut command = Command::new(NETNSD);
    clear_daemon_environment(&mut command);
    if nix::unistd::geteuid().is_root() {
        // Root as well has only those that the bounding set lets through.
        command = Command::new("setpriv");
        clear_daemon_environment(&mut command);
        command.args(["--bounding-set=-all", NETNSD]);
    }
    let output = command
        .args(["--state-dir", "/nowhere/state"])
        .output()
        .unwrap();
    let text = sentence(&output);
    assert!(
        text.contains("CAP_NET_ADMIN") && text.contains("CAP_SYS_ADMIN") && text.contains("root"),
        "{text}"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn second_daemon_on_state_directory_is_refused() {
    let host = Host::started();
    let other = host.dir().join("other.sock");
    let output = host
        .netnsd_with(&host.state_dir(), &other)
        .output()
        .unwrap();
    let text = sentence(&output);
    assert!(
        text.contains(&host.pid().to_string()) && text.contains("state"),
        "{text}"
    );
    assert!(!output.status.success() && !other.exists());
}

#[test]
fn socket_in_use_is_not_taken() {
    let host = Host::started();
    let output = host
        .netnsd_with(&host.dir().join("two"), &host.socket())
        .output()
        .unwrap();
    assert!(sentence(&output).contains("netnsd.sock"));
    UnixStream::connect(host.socket()).unwrap();
}

#[test]
fn created_files_are_private() {
    let host = Host::started();
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (mode(host.socket()), mode(host.state_dir())),
        (0o660, 0o700)
    );
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn database_is_closed_to_others_in_an_open_directory() {
    let mut host = Host::new();
    fs::create_dir(host.state_dir()).unwrap();
    set_mode(&host.state_dir(), 0o755);
    host.start();
    let files =
        ["netnsd.db", "netnsd.db-wal", "netnsd.db-shm"].map(|name| host.state_dir().join(name));
    let modes = || {
        files
            .each_ref()
            .map(|file| fs::metadata(file).unwrap().permissions().mode() & 0o777)
    };
    assert_eq!(modes(), [0o600; 3]);
    // As an earlier version left them.
    host.kill9();
    files.iter().for_each(|file| set_mode(file, 0o644));
    host.start();
    assert_eq!(modes(), [0o600; 3]);
}

#[test]
fn state_directory_that_others_can_write_is_refused() {
    let host = Host::new();
    fs::create_dir(host.state_dir()).unwrap();
    for mode in [0o777, 0o1777, 0o770] {
        set_mode(&host.state_dir(), mode);
        let text = sentence(&host.netnsd().output().unwrap());
        assert!(
            text.contains("state_dir") && text.contains(&format!("{mode:04o}")),
            "{text}"
        );
        assert_eq!(fs::read_dir(host.state_dir()).unwrap().count(), 0);
    }
}

#[test]
fn removed_or_replaced_database_refuses_writes() {
    let mut host = Host::started();
    host.put("/v1/namespaces/net0", json!({})).ok();
    let (database, away) = (host.state_dir().join("netnsd.db"), host.dir().join("away"));
    let refused = |host: &Host| {
        host.put("/v1/namespaces/net1", json!({}))
            .refused(503, "store_unavailable", None);
        assert_eq!(
            host.sh("ip netns list | wc -l").stdout,
            b"1\n",
            "nothing is made"
        );
        host.get("/v1/audit")
            .refused(503, "store_unavailable", None);
        let events = host.raw(
            "GET",
            "/v1/events",
            &[("accept", "application/json")],
            Vec::new(),
        );
        assert!(
            events.json["detail"]
                .as_str()
                .unwrap()
                .contains("removed or replaced"),
            "{}",
            events.json
        );
        events.refused(503, "store_unavailable", None);
        host.get("/v1/namespaces/net0").ok();
    };
    fs::rename(&database, &away).unwrap();
    refused(&host);
    fs::copy(&away, &database).unwrap();
    refused(&host);
    // The very file comes back.
    fs::rename(&away, &database).unwrap();
    host.put("/v1/namespaces/net1", json!({})).ok();
    // It is lost for good, and what was asked for is saved as the sentence says.
    fs::remove_file(&database).unwrap();
    host.put("/v1/bridges/br0", json!({}))
        .refused(503, "store_unavailable", None);
    let saved = host.get("/v1/topology").ok();
    host.restart();
    host.until("it is told", || {
        host.log().contains("namespace net0, namespace net1")
    });
    assert!(
        host.log().contains("count=2") && host.log().contains("the database does not know"),
        "{}",
        host.log()
    );
    host.put("/v1/topology?adopt=true", saved).ok();
    host.restart();
    assert_eq!(host.get("/v1/ready").ok()["states"]["in_sync"], 2);
}

#[test]
fn lost_write_ahead_log_is_reported_at_start() {
    let mut host = Host::started();
    let ends = json!([{"namespace": "net0", "interface": "eth0"}, {"interface": "port0", "bridge": "br0"}]);
    let document = json!({"namespaces": [{"name": "net0"}], "bridges": [{"name": "br0"}],
        "veths": [{"name": "pair", "endpoints": ends}]});
    host.put("/v1/topology", document.clone()).ok();
    host.restart();
    assert!(
        !host.log().contains("the database does not know"),
        "{}",
        host.log()
    );
    host.kill9();
    for name in ["netnsd.db", "netnsd.db-wal", "netnsd.db-shm"] {
        fs::remove_file(host.state_dir().join(name)).unwrap();
    }
    host.sh("ip netns add others");
    host.start();
    host.until("it is told", || {
        host.log().contains("namespace net0, bridge br0, veth pair")
    });
    assert!(host.log().contains("count=3"), "{}", host.log());
    host.put("/v1/topology?adopt=true", document).ok();
}

#[test]
fn signal_ends_the_daemon_in_order() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut host = Host::started();
        assert!(host.end_by(signal).success(), "{}", host.log());
        assert!(!host.socket().exists());
        host.start();
    }
}

#[test]
fn daemon_starts_after_a_crash() {
    let mut host = Host::started();
    host.kill9();
    assert!(host.socket().exists());
    host.start();
    UnixStream::connect(host.socket()).unwrap();
    host.reboot();
}

#[test]
fn daemon_answers_on_its_socket() {
    let host = Host::started();
    let mut stream = UnixStream::connect(host.socket()).unwrap();
    write!(
        stream,
        "GET /nowhere HTTP/1.1\r\nHost: netnsd\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

#[test]
fn passed_socket_is_served() {
    let mut host = Host::new();
    let handed_over =
        std::os::unix::net::UnixListener::bind(host.dir().join("activated.sock")).unwrap();
    // LISTEN_PID must be the daemon's own: a shell that becomes the daemon knows it.
    let mut command = host.sandbox.command("/bin/sh").unwrap();
    clear_daemon_environment(&mut command);
    command
        .args([
            "-c",
            "LISTEN_PID=$$ exec \"$@\"",
            "sh",
            NETNSD,
            "--state-dir",
        ])
        .arg(host.state_dir());
    command
        .arg("--socket")
        .arg(host.socket())
        .env("LISTEN_FDS", "1")
        .stdin(Stdio::null());
    // SAFETY: two system calls; the listener lives as long as the closure.
    unsafe {
        command.pre_exec(move || {
            let number = std::os::fd::AsRawFd::as_raw_fd(&handed_over);
            let done = match number {
                3 => nix::libc::fcntl(3, nix::libc::F_SETFD, 0),
                _ => nix::libc::dup2(number, 3),
            };
            nix::errno::Errno::result(done)
                .map(drop)
                .map_err(std::io::Error::from)
        });
    }
    host.start_as(command);
    let mut stream = UnixStream::connect(host.dir().join("activated.sock")).unwrap();
    write!(
        stream,
        "GET /nowhere HTTP/1.1\r\nHost: netnsd\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    assert!(!host.socket().exists());
    assert!(host.terminate().success());
    assert!(
        host.dir().join("activated.sock").exists(),
        "the service manager's socket stays"
    );
}
