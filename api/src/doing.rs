//! Requests that do something once: exec, ping; and processes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{InterfaceName, ZonedAddress};

/// A command to run in a namespace, in the environment that `ip netns exec` makes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The program and its arguments; found by `PATH`.
    #[schema(min_items = 1)]
    pub argv: Vec<String>,
    /// Variables to add to the environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The directory to run it in; null is `/`.
    #[serde(default)]
    pub cwd: Option<String>,
    /// What it reads on its standard input; null is nothing.
    #[serde(default)]
    pub stdin: Option<String>,
    /// Seconds after which it is killed, counted from its start; a program that cannot be opened
    /// yet is killed too.
    #[serde(default = "sixty")]
    pub timeout_s: f64,
    /// The user, by name or number, that it runs as; null is root.
    #[serde(default)]
    pub user: Option<String>,
}

fn sixty() -> f64 {
    60.0
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExecResult {
    /// Its exit code; null if a signal ended it.
    pub exit_code: Option<i32>,
    /// The signal that ended it, such as `SIGKILL`.
    pub signal: Option<String>,
    /// Its standard output, if it is text: UTF-8 without control characters other than tab, newline
    /// and carriage return.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<String>,
    /// Its standard error, if it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
    /// Its standard output in base64, if it is not text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout_base64: Option<String>,
    /// Its standard error in base64, if it is not text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_base64: Option<String>,
    /// Whether output past 4 MiB was cut.
    pub truncated: bool,
    /// Whether it was killed because its time was over.
    #[serde(default)]
    pub timed_out: bool,
    /// How long it ran, in milliseconds.
    pub duration_ms: f64,
}

/// An ICMP echo, sent by the daemon itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Ping {
    /// Address to ping; a link-local one may be followed by its zone, the interface:
    /// `fe80::1%eth0`.
    pub address: ZonedAddress,
    /// The interface to ping by; null is what the routes say. A link-local address needs one where
    /// several are up.
    #[serde(default)]
    pub interface: Option<InterfaceName>,
    /// How many times, 1 to 1000. `count` × `interval_ms` + `timeout_ms` is at most 600000, ten
    /// minutes.
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 1000)]
    pub count: u32,
    /// How long to wait for each reply, in milliseconds, 1 to 60000.
    #[serde(default = "second")]
    #[schema(minimum = 1, maximum = 60000)]
    pub timeout_ms: u32,
    /// The time between two requests, in milliseconds, 0 to 60000.
    #[serde(default = "fifth")]
    #[schema(maximum = 60000)]
    pub interval_ms: u32,
    /// Bytes of payload, 0 to 65000.
    #[serde(default = "size")]
    #[schema(maximum = 65000)]
    pub size: u32,
}

fn one() -> u32 {
    1
}
fn second() -> u32 {
    1000
}
fn fifth() -> u32 {
    200
}
fn size() -> u32 {
    56
}

impl Ping {
    /// One echo with every default.
    pub fn new(address: ZonedAddress) -> Self {
        Self {
            address,
            interface: None,
            count: one(),
            timeout_ms: second(),
            interval_ms: fifth(),
            size: size(),
        }
    }
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PingResult {
    /// Requests sent.
    pub transmitted: u32,
    /// Replies received.
    pub received: u32,
    /// The part lost, 0 to 1.
    pub loss: f64,
    /// Round trip times; null if nothing came back.
    pub rtt_ms: Option<RoundTrip>,
    /// Each request's fate.
    pub replies: Vec<PingReply>,
}

/// Round trip times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs, reason = "the names say it")]
pub struct RoundTrip {
    pub min: f64,
    pub avg: f64,
    pub max: f64,
}

/// The fate of one echo request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PingReply {
    /// Its number, from 1.
    pub seq: u32,
    /// Who replied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The round trip time in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<f64>,
    /// The reply's time to live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u8>,
    /// Why there was no reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A process that lives in a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its name (`/proc/PID/comm`).
    pub command: String,
    /// Its effective user.
    pub uid: u32,
}

/// The namespace that a process lives in (`ip netns identify`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProcessNamespace {
    /// The process.
    pub pid: u32,
    /// The namespace's name; null if it has none, as the host's.
    pub namespace: Option<String>,
    /// The namespace's inode number.
    pub inode: u64,
}
