//! What the kernel says, as clients get it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Centiseconds, Name, Port, ResourceRef};

/// What the kernel said of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NamespaceObserved {
    /// Its file.
    pub path: String,
    /// The namespace's inode number, its identity while it lives.
    pub inode: u64,
    /// Its id as seen from the host.
    pub netnsid: Option<u32>,
    /// How many links are in it, `lo` included.
    pub links: usize,
}

/// What the kernel said of a bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BridgeObserved {
    /// The device's index.
    pub index: u32,
    /// Its MAC address.
    pub mac: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is set up.
    pub up: bool,
    /// Whether it has carrier: some port forwards.
    pub carrier: bool,
    /// Its operational state (RFC 2863), in lower case as JSON.
    pub operstate: String,
    /// The addresses that were asked for and are there.
    pub addresses: Vec<String>,
    /// Addresses that others gave it.
    pub foreign_addresses: Vec<String>,
    /// STP's id of this bridge.
    pub bridge_id: String,
    /// STP's id of the root.
    pub root_id: String,
    /// Its ports.
    pub ports: Vec<PortObserved>,
}

/// A port in a bridge's status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortObserved {
    /// The device.
    pub interface: String,
    /// The veth pair that it belongs to; null if it is another's.
    pub veth: Option<Name>,
    /// Which end of the pair it is.
    pub endpoint: Option<u8>,
    /// STP's state of it: disabled, listening, learning, forwarding, blocking.
    pub state: String,
    /// STP's cost of the path through it.
    pub path_cost: u32,
    /// Its STP priority.
    pub priority: u16,
}

/// What the kernel said of a veth pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VethObserved {
    /// Whether both ends are up and have carrier.
    pub ready: bool,
    /// Its two ends.
    #[schema(value_type = Vec<Option<EndpointObserved>>)]
    pub endpoints: [Option<EndpointObserved>; 2],
}

/// What the kernel said of one end of a veth pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EndpointObserved {
    /// The device's index.
    pub index: u32,
    /// Its MAC address.
    pub mac: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is set up.
    pub up: bool,
    /// Whether it has carrier: the other end is up.
    pub carrier: bool,
    /// Its operational state (RFC 2863), in lower case.
    pub operstate: String,
    /// The addresses that were asked for and are there.
    pub addresses: Vec<String>,
    /// Addresses that others gave it.
    pub foreign_addresses: Vec<String>,
    /// The bridge device that it is a port of.
    pub bridge: Option<String>,
}

/// A list, and where it goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The items, sorted by name.
    pub items: Vec<T>,
    /// What `?cursor=` takes for the next page; null at the end.
    pub next: Option<String>,
}

/// A list that comes whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Items<T> {
    /// The items.
    pub items: Vec<T>,
}

/// A network device, live from the kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its kind as `ip -d link` says (veth, bridge, …); null for what has none, such as `lo`.
    pub kind: Option<String>,
    /// Its MAC address.
    pub mac: Option<String>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is set up.
    pub up: bool,
    /// Whether it has carrier.
    pub carrier: bool,
    /// Its operational state (RFC 2863), in lower case.
    pub operstate: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// The bridge device that it is a port of.
    pub bridge: Option<String>,
    /// Its other end, if it is a veth.
    pub peer: Option<Peer>,
    /// The resource that it belongs to; null if another made it.
    pub resource: Option<ResourceRef>,
    /// Its counters.
    pub statistics: Statistics,
    /// With `?settings=true`: those of a bridge, and of a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<LinkSettings>,
}

/// What a bridge, and what a port of a bridge, is set to, called as the fields of a resource; what
/// is at the kernel's default is left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
#[allow(missing_docs, reason = "named as the fields of a bridge")]
pub struct LinkSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stp: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ageing_time_s: Option<Centiseconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward_delay_s: Option<Centiseconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hello_time_s: Option<Centiseconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age_s: Option<Centiseconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multicast_snooping: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan_filtering: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan_default_pvid: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
}

/// The other end of a veth pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Peer {
    /// The namespace that it is in; null is the host.
    pub namespace: Option<String>,
    /// The device there.
    pub interface: String,
}

/// A device's counters since it was made (`rtnl_link_stats64`, `linux/if_link.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs, reason = "named as iproute2 does")]
pub struct Statistics {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

/// An address of a device, live from the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LinkAddress {
    /// The address in CIDR form.
    pub address: String,
    /// The other end's address, of a point-to-point one (`peer` in ip-address(8)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The device.
    pub interface: String,
    /// Its scope: global, link, host, …
    pub scope: String,
    /// Whether it is there for ever.
    pub permanent: bool,
    /// The resource that asked for it; null if another did.
    pub resource: Option<ResourceRef>,
}

/// A route, live from the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LiveRoute {
    /// Where it leads to: `default` or a network.
    pub destination: String,
    /// The device that it leaves by.
    pub interface: Option<String>,
    /// The gateway.
    pub via: Option<String>,
    /// The source address that it prefers.
    pub source: Option<String>,
    /// The metric.
    pub metric: u32,
    /// The table.
    pub table: u32,
    /// What becomes of a packet: unicast, local, broadcast, blackhole, …
    #[serde(rename = "type")]
    pub kind: String,
    /// Who made it: kernel, boot, static, netnsd or a number.
    pub protocol: String,
    /// How far it reaches: global, link, host, …
    pub scope: String,
    /// Whether the gateway is taken as reachable.
    pub onlink: bool,
    /// True if netnsd can take it over as it is; not one with several next hops, a nexthop object,
    /// a gateway of the other family, an encapsulation, a TOS or an expiry.
    pub adoptable: bool,
}

/// An ARP or NDP entry, live from the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LiveNeighbour {
    /// The neighbour's IP address.
    pub address: String,
    /// Its MAC address, if known.
    pub mac: Option<String>,
    /// The device that it is reached by.
    pub interface: String,
    /// reachable, stale, permanent, failed, …
    pub state: String,
}

/// A port of a bridge, live from the kernel, as `bridge link` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BridgePort {
    /// The device.
    pub interface: String,
    /// The veth pair that it belongs to; null if it is another's.
    pub veth: Option<Name>,
    /// Which end of the pair it is.
    pub endpoint: Option<u8>,
    /// STP's state of it.
    pub state: String,
    /// STP's cost of the path through it.
    pub path_cost: u32,
    /// Its STP priority.
    pub priority: u16,
    /// Whether a frame may leave by the port that it came in by.
    pub hairpin: bool,
    /// Whether it talks to no other isolated port.
    pub isolated: bool,
    /// Whether MAC addresses are learned on it.
    pub learning: bool,
    /// Whether a BPDU received disables it.
    pub bpdu_guard: bool,
    /// Whether it may not become the root port.
    pub root_block: bool,
    /// Whether a multicast group is left at once.
    pub mcast_fast_leave: bool,
}

/// An entry of a bridge's forwarding table, as `brctl showmacs` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FdbEntry {
    /// The MAC address.
    pub mac: String,
    /// The port behind which it is.
    pub interface: String,
    /// Whether it is the bridge's own.
    pub local: bool,
    /// Seconds since a frame came from it; null for what does not age.
    pub age_s: Option<f64>,
}

/// A namespace that netnsd did not make, in a list with `?include=unmanaged`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnmanagedNamespace {
    /// Its name in `/run/netns`.
    pub name: String,
    /// Always false.
    pub managed: bool,
    /// What the kernel said of it.
    pub status: UnmanagedStatus,
}

/// The status of a namespace that netnsd did not make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnmanagedStatus {
    /// What the kernel said of it.
    pub observed: NamespaceObserved,
}

/// Where to begin: `GET /`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Index {
    /// `netnsd`.
    pub name: String,
    /// The daemon's version.
    pub version: String,
    /// Paths, by what is there.
    pub links: std::collections::BTreeMap<String, String>,
}

/// About the daemon.
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
    /// When the daemon started (RFC 3339, UTC).
    pub started_at: String,
    /// Where it listens: `unix:///path` or `http://ADDR:PORT`.
    pub listen: Vec<String>,
    /// What the kernel can do.
    pub features: Features,
    /// The limits of requests.
    pub limits: Limits,
}

/// What the kernel can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Features {
    /// Whether bridges filter VLANs.
    pub vlan_filtering: bool,
    /// Whether there is IPv6.
    pub ipv6: bool,
}

/// The limits of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Limits {
    /// The largest body in bytes.
    pub body_bytes: u64,
    /// The most items on one page of a list.
    pub page_items: u32,
    /// The most labels of a resource.
    pub labels: u32,
    /// The most writes that wait at once; more are answered 503.
    pub queued_writes: u32,
}

/// Whether everything recorded has been tried since the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ready {
    /// Whether it has.
    pub ready: bool,
    /// How many resources are in each state.
    pub states: std::collections::BTreeMap<String, usize>,
}

/// One operation of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedOperation {
    /// What is done, such as `address_add`.
    pub op: String,
    /// The namespace that it is done in; null is the host.
    pub namespace: Option<Name>,
    /// The resource that it is for.
    pub resource: ResourceRef,
    /// The `ip`, `sysctl` or shell line that does the same by hand.
    pub command: String,
}

/// What a write with `?dry_run=true` would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DryRun {
    /// The operations, in order.
    pub plan: Vec<PlannedOperation>,
    /// What the write would answer; null for a DELETE.
    pub result: serde_json::Value,
}

/// That the daemon lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Always `ok`.
    pub status: String,
}
