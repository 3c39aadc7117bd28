//! The live state of the kernel, netnsd's or not.

use serde::{Deserialize, Serialize};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{Object, RefOr, Schema},
};

use crate::{
    Centiseconds, GroupAddr, Name, NamespaceObserved, NextHop, Port, ResourceRef, Rule,
    VlanProtocol, VlanRange,
};

/// A network device, live from the kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LiveLink {
    /// Interface index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its kind as in `ip -d link` (veth, bridge, …); null for devices without one, such as `lo`.
    pub kind: Option<String>,
    /// Its MAC address.
    pub mac: Option<String>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// True if the device is set up.
    pub up: bool,
    /// True if the device has carrier.
    pub carrier: bool,
    /// Operational state (RFC 2863), in lower case.
    pub operstate: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// The bridge device that it is a port of.
    pub bridge: Option<String>,
    /// Its peer, if it is a veth.
    pub peer: Option<Peer>,
    /// The resource that it belongs to; null if netnsd does not manage it.
    pub resource: Option<ResourceRef>,
    /// Its counters.
    pub statistics: Statistics,
    /// With `?settings=true`: its settings, and those of a bridge and of a bridge port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<LinkSettings>,
}

/// Settings of a device, of a bridge and of a bridge port, named like the fields of a resource; those at the
/// kernel's default are left out.
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
    pub vlan_protocol: Option<VlanProtocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_fwd_mask: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_addr: Option<GroupAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multicast_querier: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multicast_router: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multicast_igmp_version: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multicast_mld_version: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multicast_last_member_count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multicast_startup_query_count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multicast_last_member_interval_s: Option<Centiseconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multicast_membership_interval_s: Option<Centiseconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multicast_querier_interval_s: Option<Centiseconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multicast_query_interval_s: Option<Centiseconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multicast_query_response_interval_s: Option<Centiseconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multicast_startup_query_interval_s: Option<Centiseconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub txqueuelen: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promiscuous: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allmulticast: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arp: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
}

/// The peer of a veth device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Peer {
    /// Its namespace; null: the host's.
    pub namespace: Option<String>,
    /// Its name.
    pub interface: String,
}

/// Counters of a device since its creation (`rtnl_link_stats64`, `linux/if_link.h`).
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
    /// The peer address of a point-to-point address (`peer` in ip-address(8)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The device.
    pub interface: String,
    /// Its scope: global, link, host, …
    pub scope: String,
    /// True if the address does not expire.
    pub permanent: bool,
    /// The resource that requests it; null if netnsd did not set it.
    pub resource: Option<ResourceRef>,
}

/// A route, live from the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LiveRoute {
    /// The destination: `default` or a network.
    pub destination: String,
    /// The output device.
    pub interface: Option<String>,
    /// The gateway.
    pub via: Option<String>,
    /// Several next hops, instead of `interface` and `via`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nexthops: Vec<NextHop>,
    /// The preferred source address.
    pub source: Option<String>,
    /// The metric.
    pub metric: u32,
    /// The table.
    pub table: u32,
    /// Its type: unicast, local, broadcast, blackhole, …
    #[serde(rename = "type")]
    pub kind: String,
    /// Its origin: kernel, boot, static, netnsd or a number.
    pub protocol: String,
    /// Its scope: global, link, host, …
    pub scope: String,
    /// True if the gateway is taken as reachable.
    pub onlink: bool,
    /// The path MTU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The maximum segment size that TCP advertises.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// TCP's initial congestion window in segments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initcwnd: Option<u32>,
    /// True if netnsd can adopt it unchanged: it has no nexthop object, gateway of the other
    /// family, encapsulation, TOS or expiry.
    pub adoptable: bool,
}

/// A policy rule, live from the kernel; each is of one family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveRule {
    /// The fields that netnsd can set; `action` is null if the rule has one that it cannot.
    #[serde(flatten)]
    pub rule: Rule,
    /// Its origin: kernel, boot, static, netnsd or a number.
    pub protocol: String,
    /// The priority of the rule that it goes to (`goto`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goto: Option<u32>,
    /// True if it does nothing (`nop`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nop: bool,
    /// True if it looks up the table of the packet's VRF (`l3mdev`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub l3mdev: bool,
    /// The TOS of a packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tos: Option<u8>,
    /// The group of devices whose routes are ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suppress_ifgroup: Option<u32>,
}

impl PartialSchema for LiveRule {
    /// Returns the fields of a rule beside those of the kernel: `Rule` itself has no others.
    fn schema() -> RefOr<Schema> {
        let mut live = match Rule::schema() {
            RefOr::T(Schema::Object(rule)) => rule,
            _ => Object::new(),
        };
        let number = <Option<u32> as PartialSchema>::schema;
        for (name, schema) in [
            ("protocol", String::schema()),
            ("goto", number()),
            ("nop", bool::schema()),
            ("l3mdev", bool::schema()),
            ("tos", <Option<u8> as PartialSchema>::schema()),
            ("suppress_ifgroup", number()),
        ] {
            live.properties.insert(name.into(), schema);
        }
        live.required.push("protocol".into());
        live.additional_properties = None;
        live.description =
            Some("A policy rule, live from the kernel; each is of one family.".into());
        live.into()
    }
}

impl ToSchema for LiveRule {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Rule::schemas(schemas);
    }
}

/// An ARP or NDP entry, live from the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LiveNeighbour {
    /// The neighbour's IP address.
    pub address: String,
    /// Its MAC address, if known.
    pub mac: Option<String>,
    /// The device on whose link it is.
    pub interface: String,
    /// NUD state: reachable, stale, permanent, failed, …
    pub state: String,
    /// True if it is answered for (`ip neigh show proxy`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proxy: bool,
}

/// A port of a bridge, live from the kernel (`bridge link`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BridgePort {
    /// The device.
    pub interface: String,
    /// The veth pair that it belongs to; null if netnsd does not manage it.
    pub veth: Option<Name>,
    /// The end of the pair, 0 or 1.
    pub endpoint: Option<u8>,
    /// The link resource that it is; null if it is none.
    #[serde(default)]
    pub link: Option<Name>,
    /// STP state.
    pub state: String,
    /// STP path cost.
    pub path_cost: u32,
    /// STP port priority.
    pub priority: u16,
    /// True if a frame may leave by the port that it came in by.
    pub hairpin: bool,
    /// True if the port cannot reach other isolated ports.
    pub isolated: bool,
    /// True if MAC addresses are learned on the port.
    pub learning: bool,
    /// True if a received BPDU disables the port.
    pub bpdu_guard: bool,
    /// True if the port may not become the root port.
    pub root_block: bool,
    /// True if a multicast group is left immediately.
    pub mcast_fast_leave: bool,
    /// True if frames to unknown unicast addresses leave by the port.
    pub flood: bool,
    /// True if frames to unknown multicast groups leave by the port.
    pub mcast_flood: bool,
    /// True if broadcast frames leave by the port.
    pub bcast_flood: bool,
    /// True if a multicast frame is sent to each member of its group as a unicast frame.
    pub mcast_to_unicast: bool,
    /// True if the bridge answers ARP and neighbour solicitations for those behind the port.
    pub neigh_suppress: bool,
    /// True if the bridge answers ARP requests on the port for addresses that it knows.
    pub proxy_arp: bool,
    /// Multicast router at the port: 0 (none), 1 (found by queries) or 2 (always).
    pub mcast_router: u8,
    /// VLAN of untagged frames that come in (PVID); null if there is none.
    pub vlan: Option<u16>,
    /// Other VLANs of the port, each also with those that leave untagged.
    pub vlans: Vec<VlanRange>,
}

/// An entry of a bridge's forwarding table (`bridge fdb`, `brctl showmacs`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FdbEntry {
    /// The MAC address.
    pub mac: String,
    /// The port that it was learned on.
    pub interface: String,
    /// True if it is an address of the bridge itself.
    pub local: bool,
    /// Seconds since the last frame from it; null if it does not age.
    pub age_s: Option<f64>,
}

/// A namespace that netnsd does not manage, in a list with `?include=unmanaged`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnmanagedNamespace {
    /// Its name in `/run/netns`.
    pub name: String,
    /// Always false.
    pub managed: bool,
    /// Its observed state.
    pub status: UnmanagedStatus,
}

/// The status of a namespace that netnsd does not manage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnmanagedStatus {
    /// Its observed state.
    pub observed: NamespaceObserved,
}
