//! ICMP echo requests sent by the daemon from a namespace.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{InterfaceName, ZonedAddress};

/// An ICMP echo, sent by the daemon itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Ping {
    /// Address to ping; a link-local one may be followed by its zone, the interface:
    /// `fe80::1%eth0`.
    pub address: ZonedAddress,
    /// The output interface; null: by the routes. A link-local address needs one where several
    /// are up.
    #[serde(default)]
    pub interface: Option<InterfaceName>,
    /// Number of requests, 1 to 1000. `count` × `interval_ms` + `timeout_ms` is at most 600000, ten
    /// minutes.
    #[serde(default = "default_count")]
    #[schema(minimum = 1, maximum = 1000)]
    pub count: u32,
    /// Time to wait for each reply, in milliseconds, 1 to 60000.
    #[serde(default = "default_timeout_ms")]
    #[schema(minimum = 1, maximum = 60000)]
    pub timeout_ms: u32,
    /// Time between two requests, in milliseconds, 0 to 60000.
    #[serde(default = "default_interval_ms")]
    #[schema(maximum = 60000)]
    pub interval_ms: u32,
    /// Bytes of payload, 0 to 65000.
    #[serde(default = "default_size")]
    #[schema(maximum = 65000)]
    pub size: u32,
}

fn default_count() -> u32 {
    1
}

fn default_timeout_ms() -> u32 {
    1000
}

fn default_interval_ms() -> u32 {
    200
}

fn default_size() -> u32 {
    56
}

impl Ping {
    /// Returns a ping of one request with the defaults.
    pub fn new(address: ZonedAddress) -> Self {
        Self {
            address,
            interface: None,
            count: default_count(),
            timeout_ms: default_timeout_ms(),
            interval_ms: default_interval_ms(),
            size: default_size(),
        }
    }
}

/// The result of a ping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PingResult {
    /// Requests sent.
    pub transmitted: u32,
    /// Replies received.
    pub received: u32,
    /// Fraction of lost replies, 0 to 1.
    pub loss: f64,
    /// Round trip times; null without a reply.
    pub rtt_ms: Option<RoundTrip>,
    /// The outcome of each request.
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

/// The outcome of one echo request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PingReply {
    /// Its number, from 1.
    pub seq: u32,
    /// Address of the host that replied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The round trip time in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<f64>,
    /// The reply's time to live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u8>,
    /// The reason why there is no reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
