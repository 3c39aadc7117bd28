//! `kill -9` at each step, and each system call failing in its turn: strace kills the daemon as it
//! enters its Nth call of a kind (netlink and socket messages, database writes and their syncs,
//! mounts, …), or has that call fail, for every N, in a start after a reboot and in the midst of
//! writes. Afterwards what was answered is there, what was not answered is there wholly or not at
//! all, what was refused has left nothing, and nothing is left over.

mod common;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    sync::{Mutex, OnceLock},
    time::Duration,
};

use common::{Host, clean, has, shape::look};
use serde_json::{Value, json};

/// What the daemon is killed at.
const KILLS: [&str; 6] = ["sendto", "pwrite64", "fsync", "mount", "umount2", "setns"];

/// What fails, how, and up to which call: a dying and a full disk, no memory for netlink, no file
/// descriptors, a kernel that refuses.
const FAULTS: [(&str, &str, usize); 8] = [
    ("sendto", "ENOBUFS", 170),
    ("pwrite64", "EIO", 40),
    ("pwrite64", "ENOSPC", 20),
    ("fsync", "EIO", 20),
    ("openat", "EMFILE", 60),
    ("mount", "ENOMEM", 8),
    ("umount2", "EBUSY", 3),
    ("setns", "EPERM", 200),
];

/// Writes, one after the other, that make, change and delete a little of everything.
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
            json!({"endpoints": [end("10.0.0.1/24"), {"interface": "port", "bridge": "br0", "port": {"hairpin": true}}]}),
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

/// The document after so many of the writes.
fn documents() -> &'static [Value] {
    static ALL: OnceLock<Vec<Value>> = OnceLock::new();
    ALL.get_or_init(|| {
        let host = Host::started();
        let mut all = vec![host.get("/v1/topology").ok()];
        for (method, path, body) in writes() {
            assert!(
                host.raw(method, path, &JSON, text(&body)).status < 300,
                "{method} {path}"
            );
            all.push(host.get("/v1/topology").ok());
        }
        all
    })
}

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

fn text(body: &Value) -> Vec<u8> {
    if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    }
}

/// What the kernel shows of a document on a host where nothing else ever was.
fn shape_of(document: &Value) -> Vec<String> {
    static KNOWN: Mutex<BTreeMap<String, Vec<String>>> = Mutex::new(BTreeMap::new());
    if let Some(known) = KNOWN.lock().unwrap().get(&document.to_string()) {
        return known.clone();
    }
    let host = Host::started();
    others(&host);
    // What was taken over is there already.
    host.raw("PUT", "/v1/topology?adopt=true", &JSON, text(document))
        .ok();
    let shape = look(&host);
    KNOWN
        .lock()
        .unwrap()
        .insert(document.to_string(), shape.clone());
    shape
}

/// Something of others, which is taken over in the end.
fn others(host: &Host) {
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

/// A daemon whose Nth call of a kind, on each of its threads, is not like the others; whether it
/// lived to be ready.
fn start(host: &mut Host, call: &str, what: &str, n: usize) -> bool {
    let mut command = host.sandbox.command("strace").unwrap();
    clean(&mut command);
    // The tracer is a grandchild, so that what is started is the daemon itself.
    command
        .args(["-D", "-f", "-qq", "-o", "/dev/null", "-e"])
        .arg(format!("trace={call}"));
    command
        .arg("-e")
        .arg(format!("inject={call}:{what}:when={n}"));
    command
        .arg(common::NETNSD)
        .arg("--state-dir")
        .arg(host.state_dir())
        .arg("--socket")
        .arg(host.socket());
    host.try_start_as(command)
}

/// Sends a write; the status and body of the answer, if there is one.
fn send(host: &Host, (method, path, body): &(&str, &str, Value)) -> Option<(u16, String)> {
    let ask = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(host.socket())?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let body = text(body);
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        )?;
        stream.write_all(&body)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Sends the writes until one is not answered; how many were.
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

/// Sends the writes, each again when it is refused, until one is again and again; how many were
/// done, and how often one was refused. A thread of the database that failed is replaced by
/// another, which fails at the same place.
fn write_in_spite_of(host: &Host, what: &str) -> (usize, usize) {
    let mut refused = 0;
    let all = documents();
    for (i, write) in writes().iter().enumerate() {
        for again in 0.. {
            match send(host, write) {
                Some((200..300, _)) => break,
                // It was done, and its answer lost.
                Some((404, _)) if write.0 == "DELETE" && again > 0 => break,
                // Nothing of it was recorded.
                Some((409 | 422 | 503, body)) => {
                    refused += 1;
                    let now = host.get("/v1/topology").ok();
                    assert_eq!(now, all[i], "{what}: {write:?} was refused: {body}");
                    if again == 3 && body.contains("store_unavailable") {
                        return (i, refused);
                    }
                    assert!(again < 3, "{what}: {write:?}: {body}\n{}", host.log());
                }
                None if again < 3 => {}
                other => panic!("{what}: {write:?}: {other:?}\n{}", host.log()),
            }
        }
    }
    (writes().len(), refused)
}

/// Starts again: what is recorded is one of these documents, the kernel shows it, and nothing else
/// is left.
fn recovers(host: &mut Host, may_be: &[Value], what: &str) {
    host.start();
    let recorded = host.get("/v1/topology").ok();
    assert!(may_be.contains(&recorded), "{what}: recorded is {recorded}");
    // A resource that waited for what the crash took may have been tried too early.
    let pass = host.post("/v1/reconcile", json!({})).ok();
    assert_eq!(pass["failed"], json!([]), "{what}");
    // Empty directories may be there or not.
    let things = |lines: Vec<String>| -> Vec<String> {
        lines
            .into_iter()
            .filter(|line| !line.starts_with("names: \"/") && line != "names: \"\"")
            .collect()
    };
    let (now, wanted) = (things(look(host)), things(shape_of(&recorded)));
    let only = |these: &[String], those: &[String]| -> Vec<String> {
        these
            .iter()
            .filter(|line| !those.contains(line))
            .cloned()
            .collect()
    };
    assert!(
        now == wanted,
        "{what}: only here {:#?}, only there {:#?}",
        only(&now, &wanted),
        only(&wanted, &now)
    );
    host.put("/v1/topology", json!({})).ok();
    let left: Value = host.ip(&["link"]);
    let left: Vec<&str> = left
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|link| link["ifname"].as_str())
        .collect();
    let adopted = recorded["bridges"]
        .as_array()
        .unwrap()
        .iter()
        .any(|bridge| bridge["name"] == "found");
    assert_eq!(
        left.len(),
        if adopted { 1 } else { 2 },
        "{what}: {left:?} is left"
    );
    assert_eq!(host.run(&["ip", "netns", "list"]), "", "{what}");
}

/// Each by root; an ordinary user tries fewer.
fn stride() -> usize {
    if nix::unistd::getuid().is_root() {
        1
    } else {
        9
    }
}

/// Gives a host a state directory that was another's.
fn copy(state: &Path, host: &Host) {
    assert!(
        Command::new("cp")
            .arg("-r")
            .arg(state)
            .arg(host.state_dir())
            .status()
            .unwrap()
            .success()
    );
}

/// Killed at every call of one kind; how often.
fn killed_in_the_midst_of_writes(call: &str) -> usize {
    for n in (1..).step_by(stride()) {
        let mut host = Host::new();
        others(&host);
        let ready = start(&mut host, call, "signal=KILL", n);
        let answered = if ready { write_until_killed(&host) } else { 0 };
        if ready && host.terminate().success() {
            assert_eq!(answered, writes().len());
            return n / stride();
        }
        let all = documents();
        let next = (answered + 1).min(all.len() - 1);
        recovers(
            &mut host,
            &all[answered..=next],
            &format!("killed at {call} {n}, after {answered} answers"),
        );
    }
    unreachable!()
}

/// The same in a start after a reboot, with everything to be made.
fn killed_in_a_start(call: &str, state: &Path) -> usize {
    for n in (1..).step_by(stride()) {
        let mut host = Host::new();
        others(&host);
        copy(state, &host);
        if start(&mut host, call, "signal=KILL", n) && host.terminate().success() {
            return n / stride();
        }
        recovers(
            &mut host,
            &documents()[4..=4],
            &format!("killed at {call} {n} in a start"),
        );
    }
    unreachable!()
}

/// Every call of one kind fails in its turn, up to so many; how many did, and how many writes were
/// refused for it.
fn failing(call: &str, errno: &str, most: usize, state: &Path) -> (usize, usize) {
    let (mut faults, mut refused) = (0, 0);
    for n in (1..=most).step_by(stride()) {
        faults += 1;
        let mut host = Host::new();
        others(&host);
        copy(state, &host);
        let what = format!("{call} {n} fails with {errno}");
        if start(&mut host, call, &format!("error={errno}"), n) {
            let (done, times) = write_in_spite_of(&host, &what);
            refused += times;
            // What wakes a signal's handler may be what fails.
            host.kill9();
            recovers(&mut host, &documents()[done..=done], &what);
        } else {
            // It says why it does not start, and the next time it does.
            assert!(!host.log().contains("panicked"), "{what}: {}", host.log());
            recovers(&mut host, &documents()[..1], &what);
        }
    }
    (faults, refused)
}

/// Runs these beside each other.
fn together<T: Sync, R: Send>(all: &[T], run: impl Fn(&T) -> R + Sync) -> Vec<R> {
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

fn can_run() -> bool {
    ["strace", "ip", "bridge"].into_iter().all(has)
}

#[test]
fn it_is_killed_at_each_step() {
    if !can_run() {
        return;
    }
    let mut before = Host::started();
    for write in &writes()[..4] {
        assert!(send(&before, write).is_some_and(|(status, _)| status < 300));
    }
    before.terminate();
    let state = before.state_dir();
    let all: Vec<(&str, bool)> = KILLS
        .iter()
        .flat_map(|call| [(*call, true), (*call, false)])
        .collect();
    let kills = together(&all, |(call, writing)| {
        let count = if *writing {
            killed_in_the_midst_of_writes(call)
        } else {
            killed_in_a_start(call, &state)
        };
        println!(
            "killed {count} times at {call}, {}",
            if *writing {
                "in the midst of writes"
            } else {
                "in a start"
            }
        );
        count
    });
    println!(
        "killed {} times: nothing that was answered was lost, and nothing is left over",
        kills.iter().sum::<usize>()
    );
}

#[test]
fn each_call_fails_in_its_turn() {
    if !can_run() {
        return;
    }
    // The first start, which makes the database, is another matter.
    let mut before = Host::started();
    before.terminate();
    let state = before.state_dir();
    let counts = together(&FAULTS, |(call, errno, most)| {
        let (faults, refused) = failing(call, errno, *most, &state);
        println!("{call} failed {faults} times with {errno}: {refused} writes were refused");
        faults
    });
    println!(
        "{} faults: what was refused left nothing, what was answered was there",
        counts.iter().sum::<usize>()
    );
}
