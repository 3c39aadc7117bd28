//! Many clients at once: no update is lost, every answered write is true, nobody is forgotten;
//! idle, slow and deaf clients are in nobody's way.
//!
//! `NETNSD_LOAD_S` makes the time longer that clients write.

mod common;

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use common::{Host, random::Random};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};

/// Clients that write at once, and for how long.
const CLIENTS: u64 = 64;
const SECONDS: u64 = 5;
/// Namespaces that they all write to.
const SHARED: u64 = 8;
/// Writes while others do not read what they asked for.
const WRITES: usize = 500;
/// Connections that are open and idle.
const IDLE: usize = 10_000;

/// A client of its own, with a connection that stays open.
struct Client {
    stream: UnixStream,
    rest: Vec<u8>,
}

struct Answer {
    status: u16,
    etag: String,
    retry_after: bool,
    json: Value,
}

impl Client {
    fn new(host: &std::path::Path) -> Self {
        let stream = UnixStream::connect(host).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        Self {
            stream,
            rest: Vec::new(),
        }
    }

    fn ask(&mut self, method: &str, path: &str, headers: &str, body: &Value) -> Answer {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: netnsd\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n",
            body.len()
        );
        self.stream.write_all((head + &body).as_bytes()).unwrap();
        let end = loop {
            if let Some(end) = self
                .rest
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
            {
                break end;
            }
            self.more();
        };
        let head = String::from_utf8(self.rest.drain(..end + 4).collect()).unwrap();
        let value = |name: &str| {
            let line = head
                .lines()
                .find(|line| line.to_lowercase().starts_with(&format!("{name}:")))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let length: usize = value("content-length").map_or(0, |length| length.parse().unwrap());
        while self.rest.len() < length {
            self.more();
        }
        let body: Vec<u8> = self.rest.drain(..length).collect();
        Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            etag: value("etag").unwrap_or_default(),
            retry_after: value("retry-after").is_some(),
            json: serde_json::from_slice(&body).unwrap_or_default(),
        }
    }

    fn more(&mut self) {
        let mut buffer = [0; 65_536];
        let read = self.stream.read(&mut buffer).unwrap();
        assert!(read > 0, "the daemon hung up");
        self.rest.extend_from_slice(&buffer[..read]);
    }
}

/// Resident memory of a process, in KiB (`VmRSS`, proc(5)).
fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// One client's writes until the time is over: how often it counted up each shared namespace, and
/// how long each write took.
fn write(
    socket: &std::path::Path,
    seed: u64,
    until: Instant,
    busy: &AtomicU64,
) -> (BTreeMap<String, u64>, Vec<Duration>) {
    let (mut client, mut random) = (Client::new(socket), Random(seed));
    let (mut counted, mut times) = (BTreeMap::new(), Vec::new());
    while Instant::now() < until {
        let path = format!("/v1/namespaces/s{}", random.below(SHARED));
        let start = Instant::now();
        let answer = if random.one_in(4) {
            // Links come and go between what all write to.
            let own = format!("/v1/veths/v{}", random.below(SHARED * 2));
            match random.below(3) {
                0 => client.ask("DELETE", &own, "", &Value::Null),
                _ => {
                    let end = |random: &mut Random| json!({"namespace": format!("s{}", random.below(SHARED))});
                    let ends = json!([end(&mut random), end(&mut random)]);
                    client.ask("PUT", &own, "", &json!({"endpoints": ends}))
                }
            }
        } else {
            let now = client.ask("GET", &path, "", &Value::Null);
            let count: u64 = now.json["labels"]["count"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap();
            let next = json!({"labels": {"count": (count + 1).to_string()}});
            let answer = client.ask(
                "PATCH",
                &path,
                &format!("if-match: {}\r\n", now.etag),
                &next,
            );
            if answer.status == 200 {
                *counted.entry(path).or_default() += 1;
            }
            answer
        };
        match answer.status {
            200..300 => times.push(start.elapsed()),
            404 | 412 => {}
            503 => {
                assert!(answer.retry_after, "{}", answer.json);
                busy.fetch_add(1, Ordering::SeqCst);
            }
            other => panic!("{other}: {}", answer.json),
        }
    }
    (counted, times)
}

#[test]
fn concurrent_updates_are_not_lost() {
    let host = Host::started();
    for i in 0..SHARED {
        host.put(
            &format!("/v1/namespaces/s{i}"),
            json!({"labels": {"count": "0"}}),
        )
        .ok();
    }
    let seconds = common::random::number("NETNSD_LOAD_S").unwrap_or(SECONDS);
    let (socket, until, busy) = (
        host.socket(),
        Instant::now() + Duration::from_secs(seconds),
        AtomicU64::new(0),
    );
    let (mut counted, mut times): (BTreeMap<String, u64>, Vec<Duration>) = Default::default();
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..CLIENTS)
            .map(|seed| {
                scope.spawn({
                    let (socket, busy) = (&socket, &busy);
                    move || write(socket, seed, until, busy)
                })
            })
            .collect();
        for run in runs {
            let (own, took) = run.join().unwrap();
            own.into_iter()
                .for_each(|(path, count)| *counted.entry(path).or_default() += count);
            times.extend(took);
        }
    });
    times.sort();
    for (path, count) in &counted {
        assert_eq!(
            host.get(path).ok()["labels"]["count"],
            count.to_string(),
            "{path}"
        );
    }
    assert_eq!(
        host.post("/v1/reconcile", json!({})).ok(),
        json!({"repaired": [], "failed": []}),
        "every answer is true"
    );
    let at = |part: usize| times[(times.len() * part / 1000).min(times.len() - 1)];
    println!(
        "{CLIENTS} clients for {seconds} s: {} writes, p50 {:?}, p99 {:?}, at most {:?}; {} times busy; {} KiB",
        times.len(),
        at(500),
        at(990),
        times[times.len() - 1],
        busy.load(Ordering::SeqCst),
        memory(host.pid())
    );
}

#[test]
fn idle_and_slow_clients_do_not_block_others() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let wanted = IDLE as u64 + 500;
    if hard < wanted {
        let reason = format!("the hard limit of open files is {hard}");
        return common::skip::skip_unless_root(&reason);
    }
    setrlimit(Resource::RLIMIT_NOFILE, wanted.max(soft), hard).unwrap();
    let host = Host::started();
    host.put("/v1/namespaces/net0", json!({})).ok();
    let before = memory(host.pid());
    let idle: Vec<UnixStream> = (0..IDLE)
        .map(|_| UnixStream::connect(host.socket()).unwrap())
        .collect();
    host.get("/v1/namespaces/net0").ok();
    let with_idle = memory(host.pid());

    // One that sends a byte now and then, and readers of events that never read.
    let mut slow = UnixStream::connect(host.socket()).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let slow = std::thread::spawn(move || {
        for byte in b"GET /v1/namespaces/net0 HTTP/1.0\r\n\r\n" {
            slow.write_all(&[*byte]).unwrap();
            // The pause between two bytes is the point of the test.
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut answer = String::new();
        slow.read_to_string(&mut answer).unwrap();
        answer
    });
    let deaf: Vec<UnixStream> = (0..50)
        .map(|_| {
            let mut stream = UnixStream::connect(host.socket()).unwrap();
            stream
                .write_all(b"GET /v1/events?since=0 HTTP/1.1\r\nhost: netnsd\r\n\r\n")
                .unwrap();
            stream
        })
        .collect();
    let mut client = Client::new(&host.socket());
    let start = Instant::now();
    for i in 0..WRITES {
        let labels = json!({"labels": {"count": i.to_string()}});
        assert_eq!(
            client
                .ask("PATCH", "/v1/namespaces/net0", "", &labels)
                .status,
            200
        );
    }
    let took = start.elapsed();
    let with_deaf = memory(host.pid());
    println!(
        "{before} KiB; with {IDLE} idle connections {with_idle} KiB; after {WRITES} writes with {} deaf readers {with_deaf} KiB, in {took:?}",
        deaf.len()
    );
    assert!(
        with_deaf < with_idle + 32 * 1024,
        "what is not read is not kept: {with_idle} KiB, {with_deaf} KiB"
    );
    drop((idle, deaf));
    let answer = slow.join().unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 OK"), "{answer}");
}
