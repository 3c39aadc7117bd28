//! Kills and failing system calls at every point where the daemon can be hit.
//!
//! strace(1) kills the daemon as it enters its Nth call of a kind (netlink and socket messages,
//! database writes and their syncs, mounts, …), or makes that call fail, in a start after a reboot
//! and during writes. Afterwards every answered write is there, an unanswered one is there wholly
//! or not at all, a refused one has left nothing, and nothing else is left over.
//!
//! By default only every so many-th call is hit, for a minute in all. `NETNSD_TEST_EXHAUSTIVE=1`
//! hits each one.

mod common;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    sync::{Mutex, OnceLock},
};

use common::{Host, PATIENCE, clear_daemon_environment, shape::look, skip::has};
use serde_json::{Value, json};

/// Calls at which the daemon is killed, with the distances between two sampled calls during writes
/// and in a start.
const KILLS: [(&str, usize, usize); 6] = [
    ("sendto", 41, 23),
    ("pwrite64", 17, 5),
    ("fsync", 7, 3),
    ("mount", 5, 3),
    ("umount2", 2, 2),
    ("setns", 37, 19),
];

/// A system call that fails.
struct Fault {
    call: &'static str,
    errno: &'static str,
    /// Number of the last call that fails.
    last: usize,
    /// Distance between two sampled calls.
    stride: usize,
}

const fn fault(call: &'static str, errno: &'static str, last: usize, stride: usize) -> Fault {
    Fault {
        call,
        errno,
        last,
        stride,
    }
}

/// A dying and a full disk, no memory for netlink, no file descriptors, a kernel that refuses.
const FAULTS: [Fault; 8] = [
    fault("sendto", "ENOBUFS", 170, 31),
    fault("pwrite64", "EIO", 40, 9),
    fault("pwrite64", "ENOSPC", 20, 9),
    fault("fsync", "EIO", 20, 9),
    fault("openat", "EMFILE", 60, 13),
    fault("mount", "ENOMEM", 8, 3),
    fault("umount2", "EBUSY", 3, 2),
    fault("setns", "EPERM", 200, 37),
];

/// Returns the calls to hit: all with `NETNSD_TEST_EXHAUSTIVE`, otherwise each `stride`-th.
fn sampled_calls(stride: usize) -> impl Iterator<Item = usize> {
    let stride = if std::env::var_os("NETNSD_TEST_EXHAUSTIVE").is_some() {
        1
    } else {
        stride
    };
    (1..).step_by(stride)
}

/// Returns writes that make, change and delete a little of everything, in order.
fn writes() -> Vec<(&'static str, &'static str, Value)> {
    let end =
        |address: &str| json!({"namespace": "a", "interface": "eth0", "addresses": [address]});
    vec![
        (
            "PUT",
            "/v1/namespaces/a",
            json!({"routes": [{"destination": "default", "via": "10.0.0.254"}], "netnsid": 7,
            "sysctls": {"net.ipv4.ip_forward": 1}, "dns": {"nameservers": ["192.0.2.53"]}}),
        ),
        (
            "PUT",
            "/v1/bridges/br0",
            json!({"addresses": ["10.0.0.254/24"], "stp": true}),
        ),
        (
            "PUT",
            "/v1/veths/v",
            json!({"endpoints": [end("10.0.0.1/24"),
                {"interface": "port", "bridge": "br0", "port": {"hairpin": true}}]}),
        ),
        (
            "PATCH",
            "/v1/veths/v/endpoints/0",
            json!({"addresses": ["10.0.0.2/24", "fd00::2/64"], "mtu": 1400}),
        ),
        (
            "PATCH",
            "/v1/topology",
            json!({"namespaces": [{"name": "b"}], "veths": [{"name": "w", "endpoints": [
            {"namespace": "b", "interface": "eth0"}, {"namespace": "a", "interface": "eth1"}]}]}),
        ),
        (
            "PATCH",
            "/v1/veths/w/endpoints/1",
            json!({"namespace": "b", "interface": "eth2"}),
        ),
        (
            "PUT",
            "/v1/bridges/found?adopt=true",
            json!({"stp": true, "addresses": ["10.7.0.1/24"]}),
        ),
        ("DELETE", "/v1/namespaces/b?cascade=true", Value::Null),
        ("DELETE", "/v1/bridges/br0?cascade=true", Value::Null),
        ("DELETE", "/v1/namespaces/a?cascade=true", Value::Null),
    ]
}

/// Returns the recorded document before the first write and after each.
fn documents() -> &'static [Value] {
    static ALL: OnceLock<Vec<Value>> = OnceLock::new();
    ALL.get_or_init(|| {
        let host = Host::started();
        let mut all = vec![host.get("/v1/topology").ok()];
        for (method, path, body) in writes() {
            let answer = host.raw(method, path, &JSON, encode_body(&body));
            assert!(answer.status < 300, "{method} {path}: {}", answer.json);
            all.push(host.get("/v1/topology").ok());
        }
        all
    })
}

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

fn encode_body(body: &Value) -> Vec<u8> {
    if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    }
}

/// Returns what the kernel shows of a document on a host where nothing else ever was.
fn expected_shape(document: &Value) -> Vec<String> {
    static KNOWN: Mutex<BTreeMap<String, Vec<String>>> = Mutex::new(BTreeMap::new());
    if let Some(known) = KNOWN.lock().unwrap().get(&document.to_string()) {
        return known.clone();
    }
    let host = Host::started();
    add_foreign_bridge(&host);
    // The document may name the foreign bridge, as adopted.
    host.raw(
        "PUT",
        "/v1/topology?adopt=true",
        &JSON,
        encode_body(document),
    )
    .ok();
    let shape = look(&host);
    KNOWN
        .lock()
        .unwrap()
        .insert(document.to_string(), shape.clone());
    shape
}

/// Adds a bridge that netnsd did not make; one of the writes adopts it.
fn add_foreign_bridge(host: &Host) {
    host.run(&[
        "ip",
        "link",
        "add",
        "found",
        "type",
        "bridge",
        "stp_state",
        "1",
    ]);
    host.run(&["ip", "link", "set", "found", "up"]);
}

/// Starts a daemon whose `n`th call of a kind, on each of its threads, is tampered with as
/// strace's `inject=` says. Returns true if it lived to be ready.
fn start_injected(host: &mut Host, call: &str, injection: &str, n: usize) -> bool {
    let mut command = host.sandbox.command("strace").unwrap();
    clear_daemon_environment(&mut command);
    // -D: the tracer is a grandchild, so that the child is the daemon itself.
    command
        .args(["-D", "-f", "-qq", "-o", "/dev/null", "-e"])
        .arg(format!("trace={call}"))
        .arg("-e")
        .arg(format!("inject={call}:{injection}:when={n}"))
        .arg(common::NETNSD)
        .arg("--state-dir")
        .arg(host.state_dir())
        .arg("--socket")
        .arg(host.socket());
    host.try_start_as(command)
}

/// Sends a write; returns the status and body of the answer, if there is one.
fn send(host: &Host, write: &(&str, &str, Value)) -> Option<(u16, String)> {
    let answer = exchange(host, write).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

fn exchange(host: &Host, (method, path, body): &(&str, &str, Value)) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(host.socket())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let body = encode_body(body);
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n"
    )?;
    stream.write_all(&body)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Sends the writes until one is not answered; returns the number of answers.
fn write_until_killed(host: &Host) -> usize {
    let all = writes();
    for (i, write) in all.iter().enumerate() {
        match send(host, write) {
            Some((200..300, _)) => {}
            Some((status, body)) => panic!("{write:?}: {status} {body}"),
            None => return i,
        }
    }
    all.len()
}

/// Sends the writes, each up to four times while it is refused. Returns the number of those done
/// and of refusals. It ends early when the database refuses four times: its thread that failed is
/// replaced by another, which fails at the same call.
fn write_with_retries(host: &Host, context: &str) -> (usize, usize) {
    let mut refused = 0;
    let all = documents();
    for (i, write) in writes().iter().enumerate() {
        for retry in 0.. {
            match send(host, write) {
                Some((200..300, _)) => break,
                // It was done, and its answer lost.
                Some((404, _)) if write.0 == "DELETE" && retry > 0 => break,
                Some((409 | 422 | 503, body)) => {
                    refused += 1;
                    let now = host.get("/v1/topology").ok();
                    assert_eq!(
                        now, all[i],
                        "{context}: {write:?} was refused but recorded: {body}"
                    );
                    if retry == 3 && body.contains("store_unavailable") {
                        return (i, refused);
                    }
                    assert!(retry < 3, "{context}: {write:?}: {body}\n{}", host.log());
                }
                None if retry < 3 => {}
                other => panic!("{context}: {write:?}: {other:?}\n{}", host.log()),
            }
        }
    }
    (writes().len(), refused)
}

/// Starts the daemon again, and asserts that one of `allowed` is recorded, that the kernel shows
/// it, and that nothing is left once everything is deleted.
fn assert_recovers(host: &mut Host, allowed: &[Value], context: &str) {
    host.start();
    let recorded = host.get("/v1/topology").ok();
    assert!(
        allowed.contains(&recorded),
        "{context}: unexpected record {recorded}"
    );
    // A resource that waits for something the crash removed may have been tried too early.
    let pass = host.post("/v1/reconcile", json!({})).ok();
    assert_eq!(pass["failed"], json!([]), "{context}: failed resources");

    let now = without_empty_directories(look(host));
    let expected = without_empty_directories(expected_shape(&recorded));
    assert!(
        now == expected,
        "{context}: unexpected {:#?}, missing {:#?}",
        difference(&now, &expected),
        difference(&expected, &now)
    );

    host.put("/v1/topology", json!({})).ok();
    let links: Value = host.ip(&["link"]);
    let links: Vec<&str> = links
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|link| link["ifname"].as_str())
        .collect();
    let is_adopted = recorded["bridges"]
        .as_array()
        .unwrap()
        .iter()
        .any(|bridge| bridge["name"] == "found");
    // lo, and the foreign bridge unless it was adopted and so deleted.
    let expected = if is_adopted { 1 } else { 2 };
    assert_eq!(
        links.len(),
        expected,
        "{context}: links are left: {links:?}"
    );
    assert_eq!(
        host.run(&["ip", "netns", "list"]),
        "",
        "{context}: namespaces are left"
    );
}

fn without_empty_directories(lines: Vec<String>) -> Vec<String> {
    lines
        .into_iter()
        .filter(|line| !line.starts_with("names: \"/") && line != "names: \"\"")
        .collect()
}

fn difference(these: &[String], those: &[String]) -> Vec<String> {
    these
        .iter()
        .filter(|line| !those.contains(line))
        .cloned()
        .collect()
}

/// Copies another host's state directory.
fn copy_state(state: &Path, host: &Host) {
    let status = Command::new("cp")
        .arg("-r")
        .arg(state)
        .arg(host.state_dir())
        .status()
        .unwrap();
    assert!(status.success(), "cp of the state directory: {status}");
}

/// Kills the daemon during the writes, at sampled calls of a kind; returns the number of kills.
fn kill_during_writes(call: &str, stride: usize) -> usize {
    let mut kills = 0;
    for n in sampled_calls(stride) {
        let mut host = Host::new();
        add_foreign_bridge(&host);
        let is_ready = start_injected(&mut host, call, "signal=KILL", n);
        let answered = if is_ready {
            write_until_killed(&host)
        } else {
            0
        };
        if is_ready && host.terminate().success() {
            assert_eq!(answered, writes().len(), "a write was not answered");
            break;
        }

        kills += 1;
        let all = documents();
        let next = (answered + 1).min(all.len() - 1);
        assert_recovers(
            &mut host,
            &all[answered..=next],
            &format!("killed at {call} {n}, after {answered} answers"),
        );
    }
    kills
}

/// Kills the daemon in a start after a reboot, with everything to be made, at sampled calls of a
/// kind; returns the number of kills.
fn kill_during_start(call: &str, stride: usize, state: &Path) -> usize {
    let mut kills = 0;
    for n in sampled_calls(stride) {
        let mut host = Host::new();
        add_foreign_bridge(&host);
        copy_state(state, &host);
        if start_injected(&mut host, call, "signal=KILL", n) && host.terminate().success() {
            break;
        }

        kills += 1;
        assert_recovers(
            &mut host,
            &documents()[4..=4],
            &format!("killed at {call} {n} in a start"),
        );
    }
    kills
}

/// Lets sampled calls of a kind fail; returns the number of failed calls and of refused writes.
fn fail_calls(fault: &Fault, state: &Path) -> (usize, usize) {
    let Fault { call, errno, .. } = fault;
    let (mut faults, mut refused) = (0, 0);
    for n in sampled_calls(fault.stride).take_while(|n| *n <= fault.last) {
        faults += 1;
        let mut host = Host::new();
        add_foreign_bridge(&host);
        copy_state(state, &host);
        let context = format!("{call} {n} fails with {errno}");
        if start_injected(&mut host, call, &format!("error={errno}"), n) {
            let (done, refusals) = write_with_retries(&host, &context);
            refused += refusals;
            // Not SIGTERM: the failing call may be the one that wakes its handler.
            host.kill9();
            assert_recovers(&mut host, &documents()[done..=done], &context);
        } else {
            assert!(
                !host.log().contains("panicked"),
                "{context}: {}",
                host.log()
            );
            assert_recovers(&mut host, &documents()[..1], &context);
        }
    }
    (faults, refused)
}

/// Runs these on four threads: most of the time is spent waiting for the disk.
fn run_in_parallel<T: Sync, R: Send>(all: &[T], run: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = Mutex::new(all.iter());
    std::thread::scope(|scope| {
        let work =
            || std::iter::from_fn(|| { next.lock().unwrap().next() }.map(&run)).collect::<Vec<R>>();
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        runs.into_iter()
            .flat_map(|run| run.join().unwrap())
            .collect()
    })
}

fn has_tools() -> bool {
    ["strace", "ip", "bridge"].into_iter().all(has)
}

#[test]
fn killed_daemon_recovers_what_it_answered() {
    if !has_tools() {
        return;
    }
    let mut host = Host::started();
    for write in &writes()[..4] {
        assert!(
            send(&host, write).is_some_and(|(status, _)| status < 300),
            "{write:?} was refused"
        );
    }
    host.terminate();
    let state = host.state_dir();

    let all: Vec<(&str, usize, bool)> = KILLS
        .iter()
        .flat_map(|(call, writing, starting)| [(*call, *writing, true), (*call, *starting, false)])
        .collect();
    let kills = run_in_parallel(&all, |(call, stride, during_writes)| {
        let (kills, when) = if *during_writes {
            (kill_during_writes(call, *stride), "during writes")
        } else {
            (kill_during_start(call, *stride, &state), "in a start")
        };
        println!("killed {kills} times at {call}, {when}");
        kills
    });
    println!("killed {} times", kills.iter().sum::<usize>());
}

#[test]
fn failing_call_loses_no_answered_write() {
    if !has_tools() {
        return;
    }
    // The first start, which creates the database, is not tampered with.
    let mut host = Host::started();
    host.terminate();
    let state = host.state_dir();

    let counts = run_in_parallel(&FAULTS, |fault| {
        let (faults, refused) = fail_calls(fault, &state);
        let Fault { call, errno, .. } = fault;
        println!("{call} failed {faults} times with {errno}: {refused} writes were refused");
        faults
    });
    println!("{} calls failed", counts.iter().sum::<usize>());
}
