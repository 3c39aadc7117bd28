//! `kill -9` at each step: strace kills the daemon as it enters its Nth system call of a kind (netlink and socket messages,
//! database writes and their syncs, mounts), for every N, in a start after a reboot and in the midst of writes. Afterwards
//! what was answered is there, what was not answered is there wholly or not at all, and nothing is left over.

mod common;

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    process::{Command, Stdio},
    sync::{Mutex, OnceLock},
    time::Duration,
};

use common::{Host, clean, has, shape::look};
use serde_json::{Value, json};

/// What the daemon may be killed at.
const CALLS: [&str; 6] = ["sendto", "sendmsg", "pwrite64", "fdatasync", "mount", "umount2"];

/// Writes, one after the other, that make, change and delete a little of everything.
fn writes() -> Vec<(&'static str, &'static str, Value)> {
    let end = |address: &str| json!({"namespace": "a", "interface": "eth0", "addresses": [address]});
    vec![
        (
            "PUT",
            "/v1/namespaces/a",
            json!({"routes": [{"destination": "default", "via": "10.0.0.254"}], "netnsid": 7,
            "sysctls": {"net.ipv4.ip_forward": 1}, "dns": {"nameservers": ["192.0.2.53"]}}),
        ),
        ("PUT", "/v1/bridges/br0", json!({"addresses": ["10.0.0.254/24"], "stp": true})),
        (
            "PUT",
            "/v1/veths/v",
            json!({"endpoints": [end("10.0.0.1/24"), {"interface": "port", "bridge": "br0", "port": {"hairpin": true}}]}),
        ),
        ("PATCH", "/v1/veths/v/endpoints/0", json!({"addresses": ["10.0.0.2/24", "fd00::2/64"], "mtu": 1400})),
        (
            "PATCH",
            "/v1/topology",
            json!({"namespaces": [{"name": "b"}], "veths": [{"name": "w", "endpoints": [
            {"namespace": "b", "interface": "eth0"}, {"namespace": "a", "interface": "eth1"}]}]}),
        ),
        ("PATCH", "/v1/veths/w/endpoints/1", json!({"namespace": "b", "interface": "eth2"})),
        ("PUT", "/v1/bridges/found?adopt=true", json!({"stp": true, "addresses": ["10.7.0.1/24"]})),
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
            assert!(host.raw(method, path, &JSON, text(&body)).status < 300, "{method} {path}");
            all.push(host.get("/v1/topology").ok());
        }
        all
    })
}

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

fn text(body: &Value) -> Vec<u8> {
    if body.is_null() { Vec::new() } else { body.to_string().into_bytes() }
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
    host.raw("PUT", "/v1/topology?adopt=true", &JSON, text(document)).ok();
    let shape = look(&host);
    KNOWN.lock().unwrap().insert(document.to_string(), shape.clone());
    shape
}

/// Something of others, which is taken over in the end.
fn others(host: &Host) {
    host.run(&["ip", "link", "add", "found", "type", "bridge", "stp_state", "1"]);
    host.run(&["ip", "link", "set", "found", "up"]);
}

/// A daemon that is killed at its Nth call of a kind, on each of its threads; whether it lived to be ready.
fn start(host: &mut Host, call: &str, n: usize) -> bool {
    let mut command = host.sandbox.command("strace").unwrap();
    clean(&mut command);
    let inject = format!("inject={call}:signal=KILL:when={n}");
    // The tracer is a grandchild, so that what is started is the daemon itself.
    command.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e"]).arg(format!("trace={call}")).arg("-e").arg(inject);
    command.arg(common::NETNSD).arg("--state-dir").arg(host.state_dir()).arg("--socket").arg(host.socket());
    host.try_start_as(command)
}

/// Sends the writes until one is not answered; how many were.
fn write(host: &Host) -> usize {
    for (i, (method, path, body)) in writes().into_iter().enumerate() {
        let answered = || -> std::io::Result<String> {
            let mut stream = UnixStream::connect(host.socket())?;
            stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            let body = text(&body);
            write!(
                stream,
                "{method} {path} HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                body.len()
            )?;
            stream.write_all(&body)?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        match answered() {
            Ok(answer) if answer.contains("\r\n\r\n") => {
                assert!(answer.starts_with("HTTP/1.0 2"), "{method} {path}: {answer}")
            }
            _ => return i,
        }
    }
    writes().len()
}

/// Starts again: what is recorded is one of these documents, the kernel shows it, and nothing else is left.
fn recovers(host: &mut Host, may_be: &[Value], what: &str) {
    host.start();
    let recorded = host.get("/v1/topology").ok();
    assert!(may_be.contains(&recorded), "{what}: recorded is {recorded}");
    // A resource that waited for what the crash took may have been tried too early.
    let pass = host.post("/v1/reconcile", json!({})).ok();
    assert_eq!(pass["failed"], json!([]), "{what}");
    // Empty directories may be there or not.
    let things = |lines: Vec<String>| -> Vec<String> {
        lines.into_iter().filter(|line| !line.starts_with("names: \"/") && line != "names: \"\"").collect()
    };
    let (now, wanted) = (things(look(host)), things(shape_of(&recorded)));
    let only = |these: &[String], those: &[String]| -> Vec<String> {
        these.iter().filter(|line| !those.contains(line)).cloned().collect()
    };
    assert!(now == wanted, "{what}: only here {:#?}, only there {:#?}", only(&now, &wanted), only(&wanted, &now));
    host.put("/v1/topology", json!({})).ok();
    let left: Value = host.ip(&["link"]);
    let left: Vec<&str> = left.as_array().unwrap().iter().filter_map(|link| link["ifname"].as_str()).collect();
    let adopted = recorded["bridges"].as_array().unwrap().iter().any(|bridge| bridge["name"] == "found");
    assert_eq!(left.len(), if adopted { 1 } else { 2 }, "{what}: {left:?} is left");
    assert_eq!(host.run(&["ip", "netns", "list"]), "", "{what}");
}

/// Killed at every call of one kind; how often.
fn in_the_midst_of_writes(call: &str) -> usize {
    for n in 1.. {
        let mut host = Host::new();
        others(&host);
        let ready = start(&mut host, call, n);
        let answered = if ready { write(&host) } else { 0 };
        if ready && host.terminate().success() {
            assert_eq!(answered, writes().len());
            return n - 1;
        }
        let all = documents();
        let next = (answered + 1).min(all.len() - 1);
        recovers(&mut host, &all[answered..=next], &format!("killed at {call} {n}, after {answered} answers"));
    }
    unreachable!()
}

/// The same in a start after a reboot, with everything to be made.
fn in_a_start(call: &str, state: &std::path::Path) -> usize {
    for n in 1.. {
        let mut host = Host::new();
        others(&host);
        let copied =
            Command::new("cp").arg("-r").arg(state).arg(host.state_dir()).stdin(Stdio::null()).status().unwrap();
        assert!(copied.success());
        let ready = start(&mut host, call, n);
        if ready && host.terminate().success() {
            return n - 1;
        }
        recovers(&mut host, &documents()[4..=4], &format!("killed at {call} {n} in a start"));
    }
    unreachable!()
}

#[test]
fn it_is_killed_at_each_step() {
    if !["strace", "ip", "bridge"].into_iter().all(has) {
        return;
    }
    let mut before = Host::started();
    for (method, path, body) in &writes()[..4] {
        assert!(before.raw(method, path, &JSON, text(body)).status < 300);
    }
    before.terminate();
    let state = before.state_dir();
    assert!(fs::exists(state.join("netnsd.db")).unwrap());
    let next = Mutex::new(CALLS.iter().flat_map(|call| [(*call, true), (*call, false)]));
    let kills: usize = std::thread::scope(|scope| {
        let run = || {
            let mut kills = 0;
            while let Some((call, writing)) = { next.lock().unwrap().next() } {
                let count = if writing { in_the_midst_of_writes(call) } else { in_a_start(call, &state) };
                println!(
                    "killed {count} times at {call}, {}",
                    if writing { "in the midst of writes" } else { "in a start" }
                );
                kills += count;
            }
            kills
        };
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        runs.into_iter().map(|run| run.join().unwrap()).sum()
    });
    println!("killed {kills} times: nothing that was answered was lost, and nothing is left over");
}
