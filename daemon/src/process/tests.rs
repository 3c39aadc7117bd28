//! Each test owns a thread with mount and network namespaces of its own: the machine's are never
//! touched.

use std::{fs, future::Future, path::Path, thread, time::Duration, time::Instant};

use base64::{Engine, prelude::BASE64_STANDARD};
use netnsd_api::{Code, Exec, ExecResult, Name, Ping, Problem, ZonedAddress};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use super::{CallerScope, Launch, ProcessError, Processes};

/// Runs a test in a sandbox that has the namespace `a` and a stale file `stale`; skips it without
/// privileges.
fn sandbox<F: Future<Output = ()>>(test: impl FnOnce(Processes) -> F + Send + 'static) {
    if !crate::skip::is_root() {
        return;
    }
    let body = move || {
        enter_sandbox();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { test(Processes::start().unwrap()).await });
    };
    thread::spawn(body).join().unwrap();
}

fn enter_sandbox() {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_PRIVATE | MsFlags::MS_REC,
        None::<&str>,
    )
    .unwrap();
    // The files of the old /etc stay reachable through links, beside an /etc/netns of this sandbox.
    mount(
        Some("tmpfs"),
        "/run",
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    fs::create_dir_all("/run/old-etc").unwrap();
    mount(
        Some("/etc"),
        "/run/old-etc",
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .unwrap();
    mount(
        Some("tmpfs"),
        "/etc",
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    for entry in fs::read_dir("/run/old-etc").unwrap().flatten() {
        let to = Path::new("/etc").join(entry.file_name());
        if !matches!(entry.file_name().to_str(), Some("netns" | "resolv.conf")) {
            std::os::unix::fs::symlink(entry.path(), to).unwrap();
        }
    }
    fs::write("/etc/resolv.conf", "nameserver 192.0.2.1\n").unwrap();
    fs::create_dir_all("/etc/netns/a").unwrap();
    fs::write("/etc/netns/a/resolv.conf", "nameserver 192.0.2.99\n").unwrap();
    fs::create_dir_all("/run/netns").unwrap();
    fs::write("/run/netns/stale", "").unwrap();
    fs::write("/run/netns/a", "").unwrap();
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let from = Some("/proc/thread-self/ns/net");
        mount(
            from,
            "/run/netns/a",
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .unwrap();
    };
    thread::spawn(make).join().unwrap();
}

fn a() -> Name {
    "a".parse().unwrap()
}

fn command(argv: &[&str]) -> Exec {
    serde_json::from_value(serde_json::json!({ "argv": argv })).unwrap()
}

fn shell(script: &str) -> Exec {
    command(&["sh", "-c", script])
}

async fn ok(processes: &Processes, request: &Exec) -> ExecResult {
    processes
        .run_command(&a(), request, Launch::default(), async {
            Ok::<_, Problem>(())
        })
        .await
        .unwrap()
        .0
}

async fn text(processes: &Processes, request: &Exec) -> String {
    let result = ok(processes, request).await;
    assert_eq!(
        (result.exit_code, result.stderr.as_deref()),
        (Some(0), Some("")),
        "{result:?}"
    );
    result.stdout.unwrap()
}

async fn refused(processes: &Processes, request: &Exec, pointer: &str) -> String {
    let problem = processes
        .run_command(&a(), request, Launch::default(), async {
            Ok::<_, Problem>(())
        })
        .await
        .err()
        .unwrap();
    assert_eq!(
        (problem.code, problem.pointer.as_deref()),
        (Code::InvalidField, Some(pointer)),
        "{problem}"
    );
    problem.detail
}

async fn ping(processes: &Processes, address: &str, count: u32) -> netnsd_api::PingResult {
    let address: ZonedAddress = address.parse().unwrap();
    let request = Ping {
        count,
        interval_ms: 5,
        timeout_ms: 300,
        ..Ping::new(address)
    };
    processes
        .ping(&a(), &request, &CallerScope::default())
        .await
        .unwrap()
}

fn alive(pid: &str) -> bool {
    // A zombie is not alive, but its directory is there until it is reaped.
    Path::new(&format!("/proc/{}", pid.trim())).exists()
}

async fn gone(pid: &str) -> bool {
    for _ in 0..100 {
        if !alive(pid) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

#[test]
fn ends_are_told() {
    sandbox(async |p: Processes| {
        let result = ok(&p, &shell("echo out; echo err >&2; exit 7")).await;
        assert_eq!((result.exit_code, result.signal), (Some(7), None));
        assert_eq!(
            (result.stdout.as_deref(), result.stderr.as_deref()),
            (Some("out\n"), Some("err\n"))
        );
        let result = ok(&p, &shell("kill -TERM $$")).await;
        assert_eq!(
            (result.exit_code, result.signal.as_deref()),
            (None, Some("SIGTERM"))
        );
        assert!(!result.timed_out);
    });
}

#[test]
fn a_timeout_kills_the_group() {
    sandbox(async |p: Processes| {
        let request = Exec {
            timeout_s: 0.4,
            ..shell("sleep 77 & echo $!; wait")
        };
        let result = ok(&p, &request).await;
        assert_eq!(
            (result.signal.as_deref(), result.timed_out),
            (Some("SIGKILL"), true)
        );
        assert!(result.duration_ms >= 400.0 && result.duration_ms < 5000.0);
        let pid = result.stdout.unwrap();
        assert!(
            gone(&pid).await
                || fs::read_to_string(format!("/proc/{}/status", pid.trim()))
                    .unwrap()
                    .contains("Z (")
        );
    });
}

#[test]
fn what_is_left_in_the_background_is_left_alone() {
    sandbox(async |p: Processes| {
        let started = Instant::now();
        let pid = text(&p, &shell("sleep 78 & echo $!")).await;
        assert!(started.elapsed() < Duration::from_secs(10));
        assert!(alive(&pid));
        assert!(
            p.list_processes(&a())
                .await
                .unwrap()
                .iter()
                .any(|one| one.pid.to_string() == pid.trim())
        );
        let id = nix::unistd::Pid::from_raw(pid.trim().parse().unwrap());
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGKILL).unwrap();
    });
}

#[test]
fn a_dropped_future_kills_the_group() {
    sandbox(async |p: Processes| {
        let request = shell("sleep 79 & echo $$ $! > /run/pids; wait");
        let name = a();
        tokio::select! {
            _ = p.run_command(&name, &request, Launch::default(), async { Ok::<_, Problem>(()) }) => panic!("it ended"),
            () = async { while fs::read_to_string("/run/pids").unwrap_or_default().len() < 4 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            } } => {}
        }
        let pids = fs::read_to_string("/run/pids").unwrap();
        for pid in pids.split_whitespace() {
            assert!(
                gone(pid).await,
                "the shell and its child are killed and reaped"
            );
        }
        assert!(p.list_processes(&a()).await.unwrap().is_empty());
    });
}

#[test]
fn output_is_capped_and_need_not_be_text() {
    sandbox(async |p: Processes| {
        let result = ok(&p, &shell("head -c 5M /dev/zero | tr '\\0' x")).await;
        assert!(result.truncated && result.exit_code == Some(0));
        assert_eq!(result.stdout.unwrap().len(), 4 << 20);
        let result = ok(&p, &shell("printf '\\377\\376'")).await;
        assert_eq!((result.stdout, result.truncated), (None, false));
        assert_eq!(
            BASE64_STANDARD
                .decode(result.stdout_base64.unwrap())
                .unwrap(),
            [0xff, 0xfe]
        );
        for (text, is_text) in [
            ("a\\tb\\r\\n", true),
            ("a\\000b", false),
            ("\\033[1mbold", false),
            ("\\177", true),
        ] {
            let result = ok(&p, &shell(&format!("printf '{text}'"))).await;
            assert_eq!(
                (result.stdout.is_some(), result.stdout_base64.is_some()),
                (is_text, !is_text),
                "{text}"
            );
        }
        // 4 MiB end in the middle of a character, which must not make base64 of it.
        let result = ok(
            &p,
            &shell("printf x; yes é | tr -d '\\n' | head -c 5000000"),
        )
        .await;
        assert_eq!(
            (result.truncated, result.stdout.unwrap().len()),
            (true, (4 << 20) - 1)
        );
    });
}

#[test]
fn input_reaches_it() {
    sandbox(async |p: Processes| {
        let input = "0123456789abcdef".repeat(1 << 16);
        let request = Exec {
            stdin: Some(input.clone()),
            ..command(&["cat"])
        };
        assert!(text(&p, &request).await == input);
        // One that does not read it is no error.
        assert_eq!(
            text(
                &p,
                &Exec {
                    argv: vec!["true".into()],
                    ..request
                }
            )
            .await,
            ""
        );
    });
}

#[test]
fn environment_directory_and_user_are_set() {
    sandbox(async |p: Processes| {
        let mut request = Exec {
            cwd: Some("/proc".into()),
            ..shell("pwd; env")
        };
        request.env.insert("COLOUR".into(), "blue".into());
        let printed = text(&p, &request).await;
        assert!(
            printed.starts_with("/proc\n")
                && printed.contains("COLOUR=blue\n")
                && printed.contains("HOME=")
        );
        assert!(
            !printed.contains("CARGO"),
            "the daemon's own environment leaks: {printed}"
        );
        let request = Exec {
            user: Some("nobody".into()),
            ..shell("id -un; id -G; grep CapEff /proc/self/status")
        };
        let printed = text(&p, &request).await;
        assert!(
            printed.starts_with("nobody\n65534\n") && printed.ends_with("0000000000000000\n"),
            "{printed}"
        );
        let limits = |user: Option<&str>| Exec {
            user: user.map(String::from),
            ..shell("awk '/core|processes|open files/ {print $(NF-2), $(NF-1)}' /proc/self/limits")
        };
        let [files, core] = [1024, 0].map(|soft| format!("{soft} "));
        for (user, processes) in [(None, None), (Some("nobody"), Some("4096 4096"))] {
            let printed = text(&p, &limits(user)).await;
            // In the order of proc_pid_limits(5).
            let lines: Vec<&str> = printed.lines().collect();
            assert!(
                lines[0].starts_with(&core) && lines[0].ends_with("0 0"),
                "{printed}"
            );
            assert!(
                processes.is_none_or(|limit| lines[1].ends_with(limit)),
                "{printed}"
            );
            assert!(lines[2].starts_with(&files), "{printed}");
        }
        refused(
            &p,
            &Exec {
                user: Some("no such".into()),
                ..request.clone()
            },
            "/user",
        )
        .await;
        refused(
            &p,
            &Exec {
                cwd: Some("/no/such".into()),
                ..request
            },
            "/cwd",
        )
        .await;
    });
}

#[test]
fn what_cannot_run_is_refused() {
    sandbox(async |p: Processes| {
        let detail = refused(&p, &command(&["no-such-program"]), "/argv/0").await;
        assert!(
            detail.starts_with("program \"no-such-program\" was not found in PATH /usr"),
            "{detail}"
        );
        refused(&p, &command(&["/etc/passwd"]), "/argv/0").await;
        refused(&p, &command(&[]), "/argv").await;
        refused(&p, &command(&["echo", "a\0b"]), "/argv/1").await;
        for timeout_s in [0.0, -1.0, f64::NAN, f64::INFINITY, 86_401.0] {
            refused(
                &p,
                &Exec {
                    timeout_s,
                    ..command(&["true"])
                },
                "/timeout_s",
            )
            .await;
        }
        for name in ["stale", "none"] {
            let name = name.parse().unwrap();
            assert_eq!(
                p.run_command(&name, &command(&["true"]), Launch::default(), async {
                    Ok::<_, Problem>(())
                })
                .await
                .err()
                .unwrap()
                .code,
                Code::NotFound
            );
            assert_eq!(
                p.list_processes(&name)
                    .await
                    .map_err(Problem::from)
                    .unwrap_err()
                    .code,
                Code::NotFound
            );
            let ping = Ping::new("127.0.0.1".parse().unwrap());
            assert_eq!(
                p.ping(&name, &ping, &CallerScope::default())
                    .await
                    .map_err(Problem::from)
                    .unwrap_err()
                    .code,
                Code::NotFound
            );
        }
    });
}

#[test]
fn it_sees_what_ip_netns_exec_shows() {
    sandbox(async |p: Processes| {
        assert_eq!(
            text(&p, &command(&["cat", "/etc/resolv.conf"])).await,
            "nameserver 192.0.2.99\n"
        );
        text(&p, &shell("ip link add only-here type bridge")).await;
        assert!(
            text(&p, &command(&["ls", "/sys/class/net"]))
                .await
                .contains("only-here\n")
        );
        // Nothing of it reached the mounts outside.
        assert_eq!(
            fs::read_to_string("/etc/resolv.conf").unwrap(),
            "nameserver 192.0.2.1\n"
        );
        // A service manager's descriptor, without close-on-exec, must not leak either.
        let kept = nix::unistd::dup(fs::File::open("/dev/null").unwrap()).unwrap();
        assert_eq!(
            text(&p, &command(&["ls", "/proc/self/fd"])).await,
            "0\n1\n2\n3\n"
        );
        drop(kept);
        let signals = text(
            &p,
            &command(&["grep", "-E", "SigBlk|SigIgn", "/proc/self/status"]),
        )
        .await;
        assert_eq!(signals.matches("0000000000000000").count(), 2, "{signals}");
    });
}

#[test]
fn pings_are_answered_or_told_why_not() {
    sandbox(async |p: Processes| {
        let result = ping(&p, "127.0.0.1", 1).await;
        assert_eq!(
            result.replies[0].error.as_deref(),
            Some("network is unreachable")
        );
        text(
            &p,
            &shell("ip link set lo up; ip link add lan0 type bridge; ip addr add 10.9.0.1/24 dev lan0; ip link set lan0 up"),
        )
        .await;
        for address in ["127.0.0.1", "::1"] {
            let result = ping(&p, address, 20).await;
            assert_eq!(
                (result.transmitted, result.received, result.loss),
                (20, 20, 0.0),
                "{result:?}"
            );
            let reply = &result.replies[19];
            assert_eq!(
                (reply.seq, reply.from.as_deref(), reply.ttl),
                (20, Some(address), Some(64))
            );
            assert!(result.rtt_ms.unwrap().min <= result.rtt_ms.unwrap().max);
        }
        for size in [0, 1, 65_000] {
            let request = Ping {
                size,
                ..Ping::new("127.0.0.1".parse().unwrap())
            };
            assert_eq!(
                p.ping(&a(), &request, &CallerScope::default())
                    .await
                    .unwrap()
                    .received,
                1,
                "size {size}"
            );
        }
        let result = ping(&p, "10.9.0.77", 2).await;
        assert_eq!(
            (result.received, result.loss, result.rtt_ms),
            (0, 1.0, None)
        );
        assert!(result.replies.iter().all(|reply| reply.error.is_some()));
        text(&p, &shell("ip route add unreachable 10.8.0.0/24")).await;
        assert_eq!(
            ping(&p, "10.8.0.1", 1).await.replies[0].error.as_deref(),
            Some("no route to host")
        );
        let wrong = Ping {
            count: 0,
            ..Ping::new("::1".parse().unwrap())
        };
        assert_eq!(
            p.ping(&a(), &wrong, &CallerScope::default())
                .await
                .map_err(Problem::from)
                .unwrap_err()
                .pointer
                .as_deref(),
            Some("/count")
        );
    });
}

#[test]
fn processes_are_found_and_identified() {
    sandbox(async |p: Processes| {
        let (name, request) = (
            a(),
            Exec {
                timeout_s: 20.0,
                ..command(&["sleep", "10"])
            },
        );
        let look = async {
            loop {
                if let [one] = &p.list_processes(&a()).await.unwrap()[..]
                    && one.command == "sleep"
                {
                    break one.clone();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let identified = async {
            let one = look.await;
            assert_eq!(one.uid, 0);
            p.identify_process(one.pid).await.unwrap()
        };
        tokio::select! {
            _ = p.run_command(&name, &request, Launch::default(), async { Ok::<_, Problem>(()) }) => panic!("it ended"),
            found = identified => assert_eq!(found.namespace.as_deref(), Some("a")),
        }
        assert_eq!(
            p.identify_process(std::process::id())
                .await
                .unwrap()
                .namespace,
            None
        );
        assert_eq!(
            p.identify_process(0).await.unwrap_err(),
            ProcessError::NoProcess(0)
        );
    });
}
