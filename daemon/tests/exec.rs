//! Commands whose output is carried off as it comes.

mod common;

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::net::UnixStream,
};

use common::Host;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

const PATH: &str = "/v1/namespaces/net0/exec";

fn host() -> Host {
    let host = Host::started();
    host.put("/v1/namespaces/net0", json!({})).ok();
    host
}

/// Starts a command whose answer comes line by line.
fn lines(host: &Host, body: &Value) -> BufReader<UnixStream> {
    let headers = [
        ("content-type", "application/json"),
        ("accept", "application/x-ndjson"),
    ];
    let mut stream = host.open("POST", PATH, &headers, &body.to_string());
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        assert!(
            stream.read_line(&mut line).unwrap() > 0,
            "the head ended early"
        );
    }
    stream
}

fn next(stream: &mut BufReader<UnixStream>) -> Value {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or(Value::Null)
}

fn alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn running_command_streams_its_lines() {
    let host = host();
    // The command waits for us, so its first line cannot have come at its end.
    host.run(&["mkfifo", host.dir().join("fifo").to_str().unwrap()]);
    let fifo = host.dir().join("fifo");
    let mut stream = lines(
        &host,
        &json!({"argv": ["sh", "-c", "echo one; read x <$0; echo $x >&2", fifo]}),
    );
    assert_eq!(
        next(&mut stream),
        json!({"stream": "stdout", "data": "one\n"})
    );
    fs::write(&fifo, "two\n").unwrap();
    assert_eq!(
        next(&mut stream),
        json!({"stream": "stderr", "data": "two\n"})
    );
    let end = next(&mut stream);
    assert_eq!(
        (&end["exit_code"], &end["signal"], &end["timed_out"]),
        (&json!(0), &Value::Null, &json!(false))
    );
}

#[test]
fn stream_keeps_characters_whole() {
    let host = host();
    // An ä in two pieces, and what is no text.
    let mut stream = lines(
        &host,
        &json!({"argv": ["sh", "-c", "printf '\\303'; sleep 0.2; printf '\\244'; sleep 0.2; printf '\\377'"]}),
    );
    assert_eq!(next(&mut stream), json!({"stream": "stdout", "data": "ä"}));
    assert_eq!(
        next(&mut stream),
        json!({"stream": "stdout", "data_base64": "/w=="})
    );
    assert_eq!(next(&mut stream)["exit_code"], 0);
}

#[test]
fn stream_takes_input_and_ends_by_timeout() {
    let host = host();
    let text = "x".repeat(300_000);
    let mut stream = lines(&host, &json!({"argv": ["cat"], "stdin": text}));
    let mut got = String::new();
    loop {
        let line = next(&mut stream);
        match line["data"].as_str() {
            Some(data) => got += data,
            None => break assert_eq!(line["exit_code"], 0),
        }
    }
    assert!(got == text);
    let mut stream = lines(&host, &json!({"argv": ["sleep", "1000"], "timeout_s": 0.2}));
    let end = next(&mut stream);
    assert_eq!(
        (&end["signal"], &end["timed_out"]),
        (&json!("SIGKILL"), &json!(true))
    );
    for (body, status, code) in [
        (json!({"argv": ["/nowhere"]}), 422, "invalid_field"),
        (json!({"argv": []}), 422, "invalid_field"),
    ] {
        let headers = [
            ("content-type", "application/json"),
            ("accept", "application/x-ndjson"),
        ];
        host.raw("POST", PATH, &headers, body.to_string().into_bytes())
            .refused(status, code, None);
    }
}

#[test]
fn client_that_leaves_ends_its_command() {
    let host = host();
    let mut stream = lines(
        &host,
        &json!({"argv": ["sh", "-c", "sleep 1000 & echo $!; wait"]}),
    );
    let pid: u32 = next(&mut stream)["data"]
        .as_str()
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(alive(pid));
    drop(stream);
    host.until("it is gone", || !alive(pid));
}

#[test]
fn stop_ends_running_command_and_ping() {
    let mut host = host();
    let headers = [("content-type", "application/json")];
    let answer = |mut stream: BufReader<UnixStream>| std::io::read_to_string(&mut stream).unwrap();
    let command = host.open(
        "POST",
        PATH,
        &headers,
        &json!({"argv": ["sleep", "1000"]}).to_string(),
    );
    let ping = json!({"address": "127.0.0.1", "count": 10, "interval_ms": 50_000}).to_string();
    let ping = host.open("POST", "/v1/namespaces/net0/ping", &headers, &ping);
    let processes = || {
        host.get("/v1/namespaces/net0/processes").ok()["items"]
            .as_array()
            .unwrap()
            .clone()
    };
    host.until("it runs", || !processes().is_empty());
    let pid = processes()[0]["pid"].as_u64().unwrap() as u32;
    let start = std::time::Instant::now();
    assert!(host.terminate().success());
    assert!(start.elapsed().as_secs() < 20, "it did not wait for them");
    for answer in [answer(command), answer(ping)] {
        assert!(
            answer.contains(" 503 ") && answer.contains("shutting_down"),
            "{answer}"
        );
    }
    host.until("it is gone", || !alive(pid));
}

#[test]
fn unread_answer_keeps_its_permit() {
    let host = host();
    // More than a socket takes in.
    let body = json!({"argv": ["seq", "40000"]}).to_string();
    let headers = [("content-type", "application/json")];
    let mut unread: Vec<_> = (0..256)
        .map(|_| host.open("POST", PATH, &headers, &body))
        .collect();
    for answer in &mut unread {
        assert!(!answer.fill_buf().unwrap().is_empty());
    }
    host.post(PATH, json!({"argv": ["true"]}))
        .refused(429, "too_many_requests", None);
    unread.pop();
    host.post(PATH, json!({"argv": ["true"]})).ok();
}

/// Takes a write lease on a file, so that who executes it waits for the lease's end (fcntl(2)).
/// `None` where the file system has none.
#[allow(unsafe_code, reason = "nix has no leases")]
fn take_lease(path: &std::path::Path) -> Option<fs::File> {
    use std::os::fd::AsRawFd;
    /// include/uapi/asm-generic/fcntl.h
    const F_SETSIG: nix::libc::c_int = 10;
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let (fd, lease) = (file.as_raw_fd(), nix::libc::F_WRLCK);
    // SAFETY: no pointers. The holder is told by SIGURG, which nobody heeds, and not by SIGIO,
    // which would end it.
    let taken = unsafe {
        nix::libc::fcntl(fd, F_SETSIG, nix::libc::SIGURG);
        nix::libc::fcntl(fd, nix::libc::F_SETLEASE, lease)
    };
    (taken == 0).then_some(file)
}

#[test]
fn unstarted_program_ends_by_timeout_or_leaving() {
    let host = host();
    let program = host.dir().join("leased");
    fs::copy("/bin/true", &program).unwrap();
    let Some(_lease) = take_lease(&program) else {
        return common::skip::skip("no leases (fcntl(2)) on this file system");
    };
    let limited = json!({"argv": [program], "timeout_s": 0.5});
    let patient = json!({"argv": [program], "timeout_s": 1000}).to_string();
    let processes = || {
        host.get("/v1/namespaces/net0/processes").ok()["items"]
            .as_array()
            .unwrap()
            .clone()
    };
    let start = std::time::Instant::now();
    let result = host.post(PATH, limited.clone()).ok();
    assert_eq!(
        (&result["signal"], &result["timed_out"]),
        (&json!("SIGKILL"), &json!(true)),
        "{result}"
    );
    let end = next(&mut lines(&host, &limited));
    assert_eq!(
        (&end["signal"], &end["timed_out"]),
        (&json!("SIGKILL"), &json!(true)),
        "{end}"
    );
    let query = format!("argv={}&timeout_s=0.5&tty=true", program.display());
    assert_eq!(
        in_socket(&host, &query, async |mut socket| socket.end().await)["timed_out"],
        true
    );
    // On a busy machine the answer may be here before the kernel has cleared them away.
    host.until("no process is left", || processes().is_empty());

    // Others are served meanwhile, and what waits holds nothing of the daemon's open.
    let headers = [("content-type", "application/json")];
    let waiting: Vec<_> = (0..20)
        .map(|_| host.open("POST", PATH, &headers, &patient))
        .collect();
    host.until("they wait", || processes().len() == waiting.len());
    for process in processes() {
        let files = format!("/proc/{}/fd", process["pid"]);
        host.until("0 to 2, the report and the namespace", || {
            fs::read_dir(&files).unwrap().count() <= 5
        });
    }
    assert_eq!(
        host.post(PATH, json!({"argv": ["echo", "on"]})).ok()["stdout"],
        "on\n"
    );
    // Clients that leave before their command has started leave an entry, and no command.
    drop(waiting);
    host.until("they are gone", || processes().is_empty());
    let log = host.get("/v1/audit?limit=100").ok();
    let tried = log["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["argv"][0] == json!(program));
    assert_eq!(tried.count(), 23);
    // /proc/sys/fs/lease-break-time is 45.
    assert!(start.elapsed().as_secs() < 40, "the kernel ended the lease");
}

#[test]
fn stop_closes_sessions_with_a_reason() {
    let mut host = host();
    let mut stream = lines(
        &host,
        &json!({"argv": ["sh", "-c", "echo $$; exec sleep 1000"]}),
    );
    let pid: u32 = next(&mut stream)["data"]
        .as_str()
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let start = std::time::Instant::now();
    assert!(host.terminate().success());
    assert!(
        start.elapsed().as_secs() < 20,
        "it did not wait for the command"
    );
    assert_eq!(next(&mut stream)["code"], "shutting_down");
    host.until("it is gone", || !alive(pid));
}

/// A session in a WebSocket, driven by hand.
struct Socket<S> {
    socket: tokio_tungstenite::WebSocketStream<S>,
    seen: String,
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Socket<S> {
    async fn send(&mut self, channel: u8, bytes: &[u8]) {
        let frame = [&[channel], bytes].concat();
        self.socket
            .send(Message::Binary(frame.into()))
            .await
            .unwrap();
    }

    /// The next frame: its channel, and its content.
    async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            match self.socket.next().await? {
                Ok(Message::Binary(frame)) => return Some((frame[0], frame[1..].to_vec())),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// Reads until this was written.
    async fn until(&mut self, text: &str) {
        while !self.seen.contains(text) {
            let (_, bytes) = self
                .next()
                .await
                .unwrap_or_else(|| panic!("no {text:?} in {:?}", self.seen));
            self.seen += &String::from_utf8_lossy(&bytes);
        }
        // Later frames may have come in the same read.
        self.seen = self
            .seen
            .split_once(text)
            .map(|(_, rest)| rest.to_owned())
            .unwrap_or_default();
    }

    /// Reads to the end: how it ended.
    async fn end(&mut self) -> Value {
        while let Some((channel, bytes)) = self.next().await {
            if channel == 3 {
                return serde_json::from_slice(&bytes).unwrap();
            }
        }
        Value::Null
    }
}

fn in_socket<T>(
    host: &Host,
    query: &str,
    drive: impl AsyncFnOnce(Socket<netnsd_client::Stream>) -> T,
) -> T {
    let path = format!("{PATH}?{query}");
    host.typed(async |client| {
        let socket = client.websocket(&path).await.unwrap();
        let driving = drive(Socket {
            socket,
            seen: String::new(),
        });
        tokio::time::timeout(std::time::Duration::from_secs(60), driving)
            .await
            .expect("it ends")
    })
}

#[test]
fn session_has_a_terminal() {
    let host = host();
    in_socket(
        &host,
        "argv=sh&argv=-i&tty=true&rows=33&cols=99&env=PS1=%3E%3E&env=TERM=dumb",
        async |mut socket| {
            socket.until(">>").await;
            socket.send(0, b"tty; stty size\n").await;
            socket.until("/dev/pts/").await;
            socket.until("33 99").await;
            socket
                .send(3, b"{\"resize\": {\"rows\": 40, \"cols\": 120}}")
                .await;
            socket.send(0, b"stty size\n").await;
            socket.until("40 120").await;
            // Ctrl-C ends what runs in it, not the shell.
            socket
                .send(0, b"sh -c 'echo rea''dy; exec sleep 1000'\n")
                .await;
            socket.until("ready").await;
            socket.send(0, b"\x03").await;
            socket.until(">>").await;
            socket.send(0, b"cat\n").await;
            socket.send(0, b"through the cat\n").await;
            socket.until("through the cat\r\nthrough the cat").await;
            // Ctrl-D ends the cat, then the shell's exit ends it all.
            socket.send(0, b"\x04").await;
            socket.until(">>").await;
            socket.send(0, b"exit 5\n").await;
            assert_eq!(socket.end().await["exit_code"], 5);
        },
    );
}

#[test]
fn pipes_carry_bytes_and_end_of_file() {
    let host = host();
    in_socket(
        &host,
        "argv=sh&argv=-c&argv=cat%3B+echo+done+%3E%262",
        async |socket| {
            let all: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
            let (mut sink, mut stream) = socket.socket.split();
            // Read the echo now and then, or both sides would wait for the other to read.
            let send = async {
                for piece in all.chunks(100_000) {
                    sink.send(Message::Binary([&[0], piece].concat().into()))
                        .await
                        .unwrap();
                }
                sink.send(Message::Binary(vec![0].into())).await.unwrap();
            };
            let mut got = Vec::new();
            let receive = async {
                while let Some(Ok(message)) = stream.next().await {
                    let Message::Binary(frame) = message else {
                        continue;
                    };
                    match frame[0] {
                        1 => got.extend_from_slice(&frame[1..]),
                        2 => assert_eq!(frame[1..], *b"done\n"),
                        _ => return serde_json::from_slice::<Value>(&frame[1..]).unwrap(),
                    }
                }
                Value::Null
            };
            let ((), end) = tokio::join!(send, receive);
            assert_eq!(end["exit_code"], 0);
            assert!(got == all, "{} of {} bytes", got.len(), all.len());
        },
    );
}

#[test]
fn closed_websocket_ends_the_command() {
    let host = host();
    let pid = in_socket(
        &host,
        "argv=sh&argv=-c&argv=echo+%24%24%3B+exec+sleep+1000&tty=true",
        async |mut socket| {
            let (_, bytes) = socket.next().await.unwrap();
            String::from_utf8(bytes)
                .unwrap()
                .trim()
                .parse::<u32>()
                .unwrap()
        },
    );
    host.until("it is gone", || !alive(pid));
}

#[test]
fn invalid_session_is_refused_before_upgrade() {
    let host = host();
    host.get(&format!("{PATH}?argv=true"))
        .refused(400, "invalid_query", None);
    let refused = |query: &str| {
        host.typed(
            async |client| match client.websocket(&format!("{PATH}?{query}")).await {
                Err(netnsd_client::Error::Problem(problem)) => problem.status,
                Err(other) => panic!("{other}"),
                Ok(_) => panic!("{query:?} was taken"),
            },
        )
    };
    for (query, status) in [
        ("", 400),
        ("argv=a&colour=red", 400),
        ("argv=true&rows=x", 400),
        ("argv=/nowhere", 422),
        ("argv=true&timeout_s=-1", 422),
    ] {
        assert_eq!(refused(query), status, "{query}");
    }
}

/// Peak memory of the daemon, in bytes.
fn peak(host: &Host) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024
}

#[test]
fn large_output_needs_little_memory() {
    // The whole gibibyte: NETNSD_MIB=1024.
    let mib: u64 = std::env::var("NETNSD_MIB")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(64);
    let host = host();
    let before = peak(&host);
    let query = format!("argv=head&argv=-c&argv={}&argv=/dev/zero", mib << 20);
    let start = std::time::Instant::now();
    let received = in_socket(&host, &query, async |mut socket| {
        // A reader that is not there yet: the command waits for it.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let mut received = 0;
        loop {
            match socket.next().await.unwrap() {
                (1, bytes) => received += bytes.len() as u64,
                _ => break received,
            }
        }
    });
    assert_eq!(received, mib << 20);
    let grown = peak(&host) - before;
    println!(
        "{mib} MiB in {:?}, the daemon's peak grew by {grown} bytes",
        start.elapsed()
    );
    assert!(grown < 16 << 20, "its peak grew by {grown} bytes");
}

/// Sends this to a session that runs a command: the code and the reason that it is closed with, and
/// the command has ended.
fn closed_with(host: &Host, message: Message) -> (u16, String) {
    let mut pid = 0;
    let closed = in_socket(
        host,
        "argv=sh&argv=-c&argv=echo+%24%24%3B+exec+sleep+1000",
        async |mut socket| {
            let (_, bytes) = socket.next().await.unwrap();
            pid = String::from_utf8(bytes)
                .unwrap()
                .trim()
                .parse::<u32>()
                .unwrap();
            let (mut sink, mut stream) = socket.socket.split();
            // A body that is too large is not read to its end: the answer comes while it is still
            // being sent.
            let send = async {
                let _broken_off = sink.send(message).await;
            };
            let receive = async {
                while let Some(Ok(message)) = stream.next().await {
                    if let Message::Close(Some(close)) = message {
                        return (close.code.into(), close.reason.to_string());
                    }
                }
                (1006, "the connection was lost".to_owned())
            };
            tokio::join!(send, receive).1
        },
    );
    host.until("the command is gone", || !alive(pid));
    closed
}

#[test]
fn invalid_frame_closes_with_a_reason() {
    let host = host();
    let binary = |bytes: &[u8]| Message::Binary(bytes.to_vec().into());
    for (message, code, words) in [
        (
            Message::Text("ls\n".into()),
            1003,
            "a text frame: send binary ones",
        ),
        (binary(&[]), 1008, "an empty frame"),
        (binary(&[1, b'x']), 1008, "channel 1: send on 0"),
        (binary(b"\x07hello"), 1008, "channel 7"),
        (
            binary(b"\x03{\"resize\": {\"rows\": \"many\"}}"),
            1007,
            "on channel 3 send {\"resize\"",
        ),
        (binary(b"\x03{\"colour\": 1}"), 1007, "on channel 3 send"),
        (
            binary(&vec![0; (1 << 20) + 1]),
            1009,
            "more than 1048576 bytes",
        ),
        (binary(&vec![0; 20 << 20]), 1009, "more than 1048576 bytes"),
    ] {
        let length = message.len();
        let (closed, reason) = closed_with(&host, message);
        assert_eq!(closed, code, "{length} bytes: {reason}");
        assert!(
            reason.starts_with(words) || reason.contains(words),
            "{reason}"
        );
    }
}

#[test]
fn close_frame_is_answered() {
    use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
    let host = host();
    for close in [
        Some(CloseFrame {
            code: CloseCode::Normal,
            reason: "bye".into(),
        }),
        None,
    ] {
        let asked = close.clone().map(|close| close.code);
        let mut pid = 0;
        let answered = in_socket(
            &host,
            "argv=sh&argv=-c&argv=echo+%24%24%3B+exec+sleep+1000",
            async |mut socket| {
                let (_, bytes) = socket.next().await.unwrap();
                pid = String::from_utf8(bytes)
                    .unwrap()
                    .trim()
                    .parse::<u32>()
                    .unwrap();
                socket.socket.send(Message::Close(close)).await.unwrap();
                loop {
                    match socket.socket.next().await {
                        Some(Ok(Message::Close(answer))) => {
                            break Some(answer.map(|answer| answer.code));
                        }
                        Some(Ok(_)) => {}
                        _ => break None,
                    }
                }
            },
        );
        assert_eq!(answered, Some(asked), "no Close frame came back");
        host.until("the command is gone", || !alive(pid));
    }
}
