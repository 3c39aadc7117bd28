//! `docs/api.md` is true: its requests are sent, in their order, to a daemon on a host of its own,
//! and the answers are those that the guide shows. `NETNSD_WRITE_GUIDE=1 cargo test -p netnsd
//! --test guide` writes the answers anew.
//!
//! Values that differ from one run to the next (identities, times, MAC addresses, …) are not
//! compared, and blocks that differ in nothing else are not written again.

mod common;

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use common::{Host, skip::has};
use indexmap::IndexMap;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde::Deserialize;
use serde_json::Value;

/// Largest width of a line of JSON in the guide.
const WIDTH: usize = 118;

/// Where netnsd's socket is, as the documents say.
const SOCKET: &str = "/run/netnsd/netnsd.sock";

/// Headers that each answer has, or that differ each time.
const UNSHOWN: [&str; 9] = [
    "date",
    "content-length",
    "x-request-id",
    "x-content-type-options",
    "server-timing",
    "transfer-encoding",
    "connection",
    "cache-control",
    "vary",
];

/// Members whose values differ from run to run.
const VOLATILE: [&str; 25] = [
    "uid",
    "created_at",
    "updated_at",
    "time",
    "inode",
    "index",
    "mac",
    "bridge_id",
    "root_id",
    "rtt_ms",
    "duration_ms",
    "age_s",
    "statistics",
    "hostname",
    "kernel",
    "boot_id",
    "started_at",
    "listen",
    "features",
    "version",
    "id",
    "pid",
    "secret",
    "request_id",
    "operstate",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A part of a document.
enum Part {
    /// Lines as they are.
    Text(String),
    /// A block to run, and the answer that is said to come.
    Run {
        script: String,
        answer: Option<String>,
    },
}

/// Takes a document apart: `sh` blocks, each with the `http` block that follows it directly.
fn parts(document: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut lines = document.lines().peekable();
    let mut text = String::new();
    while let Some(line) = lines.next() {
        if line != "```sh" {
            text += line;
            text.push('\n');
            continue;
        }
        parts.push(Part::Text(std::mem::take(&mut text)));
        let script = block(&mut lines);
        let answer = lines.next_if_eq(&"```http").map(|_| block(&mut lines));
        parts.push(Part::Run { script, answer });
    }
    parts.push(Part::Text(text));
    parts
}

/// The rest of a block.
fn block<'a>(lines: &mut impl Iterator<Item = &'a str>) -> String {
    lines
        .take_while(|line| *line != "```")
        .fold(String::new(), |text, line| text + line + "\n")
}

/// A shell on the host, in the project's directory, where netnsd's socket is where the documents
/// say.
fn shell(host: &Host, script: &str) -> Child {
    let mut command = host.sandbox.command("sh").unwrap();
    command
        .args(["-e", "-c", script])
        .current_dir(root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0);
    command.spawn().unwrap()
}

/// Runs a block and returns its output; of a stream that does not end, as many lines as are
/// expected.
fn run(host: &Host, functions: &str, script: &str, expected: usize) -> String {
    let mut child = shell(host, &format!("{functions}{script}"));
    let mut printed = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    if script.contains(" -N ") {
        // Beside what is shown of it, an answer has the headers that are not.
        let mut shown = 0;
        while shown < expected && output.read_line(&mut printed).unwrap() > 0 {
            shown = shorten(&printed).lines().count();
        }
        killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL).unwrap();
    } else {
        output.read_to_string(&mut printed).unwrap();
    }
    child.wait().unwrap();
    printed
}

/// An answer as `curl -i` prints it, as the guide shows it.
fn shorten(printed: &str) -> String {
    let (head, body) = printed.split_once("\r\n\r\n").unwrap_or((printed, ""));
    let mut text = String::new();
    let mut kind = "";
    for line in head.lines() {
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        if name == "content-type" {
            kind = value;
        }
        if !UNSHOWN.contains(&name) && line != "content-type: application/json" {
            writeln!(text, "{line}").unwrap();
        }
    }
    if !body.trim().is_empty() {
        text.push('\n');
    }
    match kind {
        "application/json" | "application/problem+json" => {
            writeln!(text, "{}", pretty(body)).unwrap()
        }
        "application/x-ndjson" => body
            .lines()
            .for_each(|line| writeln!(text, "{}", flat(&parse(line))).unwrap()),
        _ => text += body,
    }
    text
}

/// JSON with its members in their order.
#[derive(Deserialize)]
#[serde(untagged)]
enum Json {
    Object(IndexMap<String, Json>),
    Array(Vec<Json>),
    Other(Value),
}

fn parse(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// On one line.
fn flat(json: &Json) -> String {
    let list = |items: Vec<String>| items.join(", ");
    match json {
        Json::Object(members) => {
            let members = members
                .iter()
                .map(|(key, value)| format!("\"{key}\": {}", flat(value)));
            format!("{{{}}}", list(members.collect()))
        }
        Json::Array(items) => format!("[{}]", list(items.iter().map(flat).collect())),
        Json::Other(value) => value.to_string(),
    }
}

/// As people lay it out: on one line what fits there, else as many members a line as fit.
fn pretty(text: &str) -> String {
    let mut out = String::new();
    spread(&parse(text), 0, &mut out);
    out
}

fn spread(json: &Json, indent: usize, out: &mut String) {
    let (open, close, members): (_, _, Vec<(String, &Json)>) = match json {
        _ if room(out) > flat(json).chars().count() => return *out += &flat(json),
        Json::Object(members) => (
            '{',
            '}',
            members
                .iter()
                .map(|(key, value)| (format!("\"{key}\": "), value))
                .collect(),
        ),
        Json::Array(items) => (
            '[',
            ']',
            items.iter().map(|item| (String::new(), item)).collect(),
        ),
        Json::Other(_) => return *out += &flat(json),
    };
    out.push(open);
    let last = members.len().saturating_sub(1);
    // Only what is short stands beside others.
    let mut beside = false;
    for (i, (key, value)) in members.into_iter().enumerate() {
        let length = key.chars().count() + flat(value).chars().count() + 1;
        let short = indent + 2 + length <= WIDTH;
        if beside && short && length < room(out) {
            out.push(' ');
        } else {
            write!(out, "\n{:1$}", "", indent + 2).unwrap();
        }
        *out += &key;
        spread(value, indent + 2, out);
        *out += if i < last { "," } else { "" };
        beside = short;
    }
    write!(out, "\n{:1$}{close}", "", indent).unwrap();
}

/// Returns the number of characters by which the last line may still grow.
fn room(text: &str) -> usize {
    WIDTH.saturating_sub(text.rsplit('\n').next().unwrap_or_default().chars().count())
}

/// An answer without what differs from run to run.
fn steady(answer: &str) -> Vec<Value> {
    let (head, body) = answer.split_once("\n\n").unwrap_or((answer, ""));
    let mut parts: Vec<Value> = head.lines().map(Value::from).collect();
    match serde_json::from_str::<Value>(body) {
        Ok(json) => parts.push(json),
        Err(_) => parts.extend(body.lines().map(|line| {
            let json = line.strip_prefix("data: ").unwrap_or(line);
            let numbered = line.starts_with("id: ");
            serde_json::from_str(json).unwrap_or(Value::from(if numbered { "id" } else { line }))
        })),
    }
    parts.iter_mut().for_each(mask);
    parts
}

fn mask(value: &mut Value) {
    match value {
        Value::Object(members) => {
            // The kernel gives these as it comes across them.
            if members.contains_key("inode") {
                members.remove("netnsid");
            }
            // And a neighbour goes from state to state.
            if members.contains_key("address") && members.contains_key("mac") {
                members.remove("state");
            }
            for (key, value) in members {
                if VOLATILE.contains(&key.as_str()) && !value.is_null() {
                    *value = Value::from("…");
                }
                mask(value);
            }
        }
        Value::Array(items) => {
            // These come when duplicate address detection is through with them.
            items.retain(|item| !item.as_str().is_some_and(|text| text.starts_with("fe80::")));
            items.iter_mut().for_each(mask);
        }
        Value::String(text) => *text = without_identities(text),
        _ => {}
    }
}

/// A text without the identities in it, as an owner tag has one, and without MAC addresses, which
/// are this machine's.
fn without_identities(text: &str) -> String {
    // Of a resource, or the ETag of the network.
    let is_identity =
        |part: &str| matches!(part.len(), 32 | 36) && uuid::Uuid::try_parse(part).is_ok();
    let is_mac = |word: &str| word.parse::<netnsd_api::Mac>().is_ok();
    let words: Vec<&str> = text
        .split(' ')
        .map(|word| if is_mac(word) { "…" } else { word })
        .collect();
    let text = words.join(" ");
    let parts = text.split_inclusive([':', ' ', ')']);
    parts
        .map(|part| {
            if is_identity(part.trim_matches([':', ' ', ')', '"'])) {
                "…"
            } else {
                part
            }
        })
        .collect()
}

#[test]
fn guide_shows_real_answers() {
    if !has("curl") {
        return;
    }
    let path = root().join("docs/api.md");
    let guide = fs::read_to_string(&path).unwrap();
    let write = std::env::var_os("NETNSD_WRITE_GUIDE").is_some();
    let host = guided();
    let (mut functions, mut text, mut wrong) = (String::new(), String::new(), String::new());
    for part in parts(&guide) {
        let (script, answer) = match part {
            Part::Text(lines) => {
                text += &lines;
                continue;
            }
            Part::Run { script, answer } => (script, answer),
        };
        write!(text, "```sh\n{script}```\n").unwrap();
        let Some(said) = answer else {
            if script.contains("() {") {
                functions += &script;
                continue;
            }
            let printed = run(&host, &functions, &script, 0);
            let good =
                |line: &&str| line.starts_with("HTTP/1.1 ") && !line.starts_with("HTTP/1.1 2");
            assert_eq!(printed.lines().find(good), None, "{script}{printed}");
            continue;
        };
        let now = shorten(&run(&host, &functions, &script, said.lines().count()));
        let now = now.replace(host.socket().to_str().unwrap(), SOCKET);
        let same = steady(&said) == steady(&now);
        if !same {
            write!(wrong, "---- {script}---- is answered\n{now}").unwrap();
        }
        write!(text, "```http\n{}```\n", if same { said } else { now }).unwrap();
    }
    if write {
        fs::write(&path, text).unwrap();
        return;
    }
    assert!(
        wrong.is_empty(),
        "docs/api.md is stale (NETNSD_WRITE_GUIDE=1 cargo test -p netnsd --test guide)\n{wrong}"
    );
}

/// A host where netnsd's socket is where the documents say.
fn guided() -> Host {
    let host = Host::started();
    host.run(&["mkdir", "-p", "/run/netnsd"]);
    host.run(&["ln", "-s", host.socket().to_str().unwrap(), SOCKET]);
    host
}
