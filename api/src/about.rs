//! The daemon itself: version, features, limits, health.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::LinkType;

/// The entry point: `GET /`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Index {
    /// `netnsd`.
    pub name: String,
    /// The daemon's version.
    pub version: String,
    /// Paths by topic.
    pub links: BTreeMap<String, String>,
}

/// The daemon and its host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct About {
    /// `netnsd`.
    pub name: String,
    /// The daemon's version.
    pub version: String,
    /// The version of the API: `v1`.
    pub api: String,
    /// The host's name.
    pub hostname: String,
    /// The kernel's release.
    pub kernel: String,
    /// The kernel's id of this boot.
    pub boot_id: String,
    /// Time at which the daemon started (RFC 3339, UTC).
    pub started_at: String,
    /// The addresses that it listens on: `unix:///path` or `http://ADDR:PORT`.
    pub listen: Vec<String>,
    /// Features of the kernel.
    pub features: Features,
    /// Limits of requests.
    pub limits: Limits,
}

/// Features of the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Features {
    /// True if bridges can filter VLANs.
    pub vlan_filtering: bool,
    /// True if the kernel has IPv6.
    pub ipv6: bool,
    /// Types of links that the kernel can create.
    #[serde(default)]
    pub links: Vec<LinkType>,
}

/// Limits of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Limits {
    /// Maximum size of a body, in bytes.
    pub body_bytes: u64,
    /// Maximum number of items on one page of a list.
    pub page_items: u32,
    /// Maximum number of labels of a resource.
    pub labels: u32,
    /// Maximum number of queued writes; further ones are answered 503.
    pub queued_writes: u32,
}

/// Readiness: the progress of the reconciliation after a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ready {
    /// True once every recorded resource has been tried since the start.
    pub ready: bool,
    /// Number of resources in each state.
    pub states: BTreeMap<String, usize>,
}

/// Liveness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Always `ok`.
    pub status: String,
}
