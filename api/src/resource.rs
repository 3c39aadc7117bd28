//! The three kinds of resources that hold intent, as clients send and get them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    Address, Centiseconds, Cidr, Code, Destination, Dns, FieldError, InterfaceName, Kind,
    LEAST_IPV6_MTU, Mac, Name, NetnsId, Resource, SysctlKey, SysctlValue, is_link_local,
    string_enum::string_enum, values::unique_sysctls,
};

fn yes() -> bool {
    true
}

/// A network namespace as it should be (`ip-netns(8)`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    /// The name, which is also that of its file in `/run/netns`.
    pub name: Name,
    /// Labels to find it by.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its id as seen from the host (`ip netns set`).
    #[serde(default)]
    pub netnsid: Option<NetnsId>,
    /// Whether `lo` is up.
    #[serde(default = "yes")]
    pub loopback: bool,
    /// Routes in it, beside those that the kernel makes itself.
    #[serde(default)]
    #[schema(max_items = 16384)]
    pub routes: Vec<Route>,
    /// Permanent ARP and NDP entries in it.
    #[serde(default)]
    #[schema(max_items = 16384)]
    pub neighbours: Vec<Neighbour>,
    /// Sysctls below `net.` in it.
    #[serde(default, deserialize_with = "unique_sysctls")]
    pub sysctls: BTreeMap<SysctlKey, SysctlValue>,
    /// Its own name resolution, in `/etc/netns/NAME`; null is the host's.
    #[serde(default)]
    pub dns: Option<Dns>,
    /// On creation: pins the namespace that this process is in, instead of making one (`ip netns
    /// attach`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach: Option<Attach>,
}

/// Which process's namespace to pin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// The process.
    pub pid: u32,
}

/// A route (`ip-route(8)`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Where it leads to.
    pub destination: Destination,
    /// The gateway.
    #[serde(default)]
    pub via: Option<Address>,
    /// The device that it leaves by; null leaves it to the kernel to find the gateway's.
    #[serde(default)]
    pub interface: Option<InterfaceName>,
    /// The metric (priority); null is the kernel's default: 0 for IPv4, 1024 for IPv6.
    #[serde(default)]
    pub metric: Option<u32>,
    /// The routing table; 254 is `main`.
    #[serde(default = "main_table")]
    #[schema(minimum = 1)]
    pub table: u32,
    /// The source address that packets by this route prefer.
    #[serde(default)]
    pub source: Option<Address>,
    /// What becomes of a packet.
    #[serde(default, rename = "type")]
    pub kind: RouteType,
    /// Take the gateway as reachable on `interface`, whatever the addresses say.
    #[serde(default)]
    pub onlink: bool,
}

fn main_table() -> u32 {
    254
}

string_enum! {
    /// What becomes of a packet that a route matches (`RTN_…`, `linux/rtnetlink.h`).
    #[derive(Default)]
    #[serde(rename_all = "lowercase")]
    pub enum RouteType as "a type of route" {
        /// Sent on.
        #[default]
        Unicast = "unicast",
        /// Dropped in silence.
        Blackhole = "blackhole",
        /// Dropped, the sender told "host unreachable".
        Unreachable = "unreachable",
        /// Dropped, the sender told "administratively prohibited".
        Prohibit = "prohibit",
    }
}

impl Route {
    /// Whether it is of IPv6: by its destination, or for `default` by its gateway or source.
    pub fn is_ipv6(&self) -> bool {
        match self.destination {
            Destination::Net(net) => net.addr().is_ipv6(),
            Destination::Default => self
                .via
                .or(self.source)
                .is_some_and(|address| address.0.is_ipv6()),
        }
    }

    /// The metric in effect: the kernel's default where none was given (`IP6_RT_PRIO_USER` for
    /// IPv6).
    pub fn effective_metric(&self) -> u32 {
        match self.metric {
            // The kernel takes an IPv6 metric of 0 for "the default".
            None | Some(0) if self.is_ipv6() => 1024,
            other => other.unwrap_or(0),
        }
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let family = |ipv6: bool| if ipv6 { "IPv6" } else { "IPv4" };
        let ipv6 = self.is_ipv6();
        if self.table == 0 {
            return Err((
                "table",
                "0 is not a routing table: the main one is 254".into(),
            ));
        }
        if self.kind != RouteType::Unicast {
            if self.via.is_some() {
                return Err((
                    "via",
                    format!(
                        "a {} route has no gateway: leave via out",
                        self.kind.as_str()
                    ),
                ));
            }
            if self.interface.is_some() {
                return Err((
                    "interface",
                    format!(
                        "a {} route has no interface: leave it out",
                        self.kind.as_str()
                    ),
                ));
            }
        } else if self.via.is_none() && self.interface.is_none() {
            return Err((
                "via",
                "a unicast route needs via (its gateway), interface, or both".into(),
            ));
        }
        for (field, address) in [("via", self.via), ("source", self.source)] {
            let Some(address) = address else { continue };
            if address.0.is_ipv6() != ipv6 {
                return Err((
                    field,
                    format!(
                        "\"{address}\" is {}, the route is {}: both are of one family",
                        family(!ipv6),
                        family(ipv6)
                    ),
                ));
            }
            if address.0.is_unspecified() || address.0.is_multicast() {
                return Err((field, format!("\"{address}\" is no host's address")));
            }
        }
        if let Some(via) = self.via
            && is_link_local(via.0)
            && self.interface.is_none()
        {
            return Err((
                "interface",
                format!("the gateway {via} is link-local: say by which interface"),
            ));
        }
        if self.onlink && (self.via.is_none() || self.interface.is_none()) {
            return Err(("onlink", "onlink needs both via and interface".into()));
        }
        Ok(())
    }
}

/// A permanent ARP or NDP entry (`ip-neighbour(8)`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Neighbour {
    /// The neighbour's IP address.
    pub address: Address,
    /// Its MAC address.
    pub mac: Mac,
    /// The device that it is reached by.
    pub interface: InterfaceName,
}

/// A bridge as it should be (`ip-link(8)`, `brctl(8)`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Bridge {
    /// The resource's name.
    pub name: Name,
    /// Labels to find it by.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The device's name; left out, it is the resource's.
    #[serde(default)]
    pub interface: Option<InterfaceName>,
    /// The managed namespace that it lives in; null is the host.
    #[serde(default)]
    pub namespace: Option<Name>,
    /// The MAC address; null: one of its own that lasts, shown by `status.observed.mac`.
    #[serde(default)]
    pub mac: Option<Mac>,
    /// The MTU in bytes, 68 to 65535; null leaves the kernel's choice.
    #[serde(default)]
    #[schema(minimum = 68, maximum = 65535)]
    pub mtu: Option<u32>,
    /// Whether it is up.
    #[serde(default = "yes")]
    pub up: bool,
    /// Addresses of the bridge itself.
    #[serde(default)]
    #[schema(max_items = 1024)]
    pub addresses: Vec<Cidr>,
    /// Whether the spanning tree protocol runs.
    #[serde(default)]
    pub stp: bool,
    /// The bridge's STP priority, 0 to 65535.
    #[serde(default)]
    pub priority: Option<u16>,
    /// How long a MAC address is remembered, in seconds.
    #[serde(default)]
    pub ageing_time_s: Option<Centiseconds>,
    /// STP's forward delay, 2 to 30 seconds (checked by the kernel while STP runs).
    #[serde(default)]
    pub forward_delay_s: Option<Centiseconds>,
    /// STP's hello time, 1 to 10 seconds.
    #[serde(default)]
    pub hello_time_s: Option<Centiseconds>,
    /// STP's maximum message age, 6 to 40 seconds.
    #[serde(default)]
    pub max_age_s: Option<Centiseconds>,
    /// Whether IGMP and MLD are snooped.
    #[serde(default)]
    pub multicast_snooping: Option<bool>,
    /// Whether VLANs are filtered.
    #[serde(default)]
    pub vlan_filtering: Option<bool>,
    /// The VLAN of untagged frames, 0 (none) to 4094.
    #[serde(default)]
    #[schema(maximum = 4094)]
    pub vlan_default_pvid: Option<u16>,
}

impl Bridge {
    /// The device's name.
    ///
    /// It falls back to the resource's name, which [`Resource::check`] holds to the rules of an
    /// interface name.
    pub fn device(&self) -> &str {
        self.interface
            .as_ref()
            .map_or(self.name.as_str(), InterfaceName::as_str)
    }
}

/// A veth pair as it should be (`veth(4)`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Veth {
    /// The resource's name; POST without one takes the first free `vethN`.
    #[serde(default = "Name::unset")]
    pub name: Name,
    /// Labels to find it by.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its two ends.
    #[serde(default)]
    #[schema(value_type = Vec<Endpoint>, min_items = 2, max_items = 2)]
    pub endpoints: [Endpoint; 2],
}

/// One end of a veth pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// The managed namespace that it lives in; null is the host.
    #[serde(default)]
    pub namespace: Option<Name>,
    /// The device's name; left out, it keeps the name it has, at first the first free `vethN`
    /// there.
    #[serde(default)]
    pub interface: Option<InterfaceName>,
    /// The MAC address; null: one of its own that lasts, shown by `status.observed.mac`.
    #[serde(default)]
    pub mac: Option<Mac>,
    /// The MTU in bytes, 68 to 65535; null leaves the kernel's choice.
    #[serde(default)]
    #[schema(minimum = 68, maximum = 65535)]
    pub mtu: Option<u32>,
    /// Whether it is up.
    #[serde(default = "yes")]
    pub up: bool,
    /// Its addresses.
    #[serde(default)]
    #[schema(max_items = 1024)]
    pub addresses: Vec<Cidr>,
    /// The bridge that it is a port of, which lives in the same namespace.
    #[serde(default)]
    pub bridge: Option<Name>,
    /// Settings of the bridge port; only with `bridge`.
    #[serde(default)]
    pub port: Port,
}

impl Default for Endpoint {
    fn default() -> Self {
        Self {
            namespace: None,
            interface: None,
            mac: None,
            mtu: None,
            up: true,
            addresses: Vec::new(),
            bridge: None,
            port: Port::default(),
        }
    }
}

impl Endpoint {
    /// The device's name; empty until the intent has chosen one.
    pub fn device(&self) -> &str {
        self.interface.as_ref().map_or("", InterfaceName::as_str)
    }

    /// Checks what one field alone cannot know; pointers are relative to the endpoint.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self) -> Result<(), FieldError> {
        check_mtu(self.mtu)?;
        check_addresses(&self.addresses)?;
        check_ipv6_mtu(self.mtu, &self.addresses)?;
        if self.bridge.is_none() && self.port != Port::default() {
            return Err(FieldError::new(
                Code::InvalidField,
                "/port",
                "port needs bridge: only a bridge's port has these settings",
            ));
        }
        if let Some(cost) = self.port.path_cost
            && !(1..=65535).contains(&cost)
        {
            return Err(FieldError::new(
                Code::InvalidField,
                "/port/path_cost",
                format!("{cost} is not a path cost: it is 1 to 65535"),
            ));
        }
        if let Some(priority) = self.port.priority
            && priority > 63
        {
            return Err(FieldError::new(
                Code::InvalidField,
                "/port/priority",
                format!("{priority} is not a port priority: it is 0 to 63"),
            ));
        }
        Ok(())
    }
}

/// Settings of a bridge port (`bridge-link(8)`); what is left out stays as the kernel chose.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// STP's cost of the path through it, 1 to 65535.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_cost: Option<u32>,
    /// Its STP priority, 0 to 63.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u16>,
    /// Whether a frame may leave by the port that it came in by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hairpin: Option<bool>,
    /// Whether it talks to no other isolated port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolated: Option<bool>,
    /// Whether MAC addresses are learned on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning: Option<bool>,
    /// Whether a BPDU received disables it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpdu_guard: Option<bool>,
    /// Whether it may not become the root port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_block: Option<bool>,
    /// Whether a multicast group is left at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcast_fast_leave: Option<bool>,
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), FieldError> {
    if labels.len() > 64 {
        return Err(FieldError::new(
            Code::InvalidField,
            "/labels",
            format!("{} labels are too many: at most 64", labels.len()),
        ));
    }
    for (key, value) in labels {
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
        if key.is_empty() || key.len() > 128 || !key.chars().all(fine) {
            return Err(FieldError::at(
                Code::InvalidField,
                &["labels", key],
                format!(
                    "{key:?} is not a label's key: it has 1 to 128 characters of A-Z a-z 0-9 . _ - /"
                ),
            ));
        }
        if value.len() > 1024 || value.chars().any(char::is_control) {
            return Err(FieldError::at(
                Code::InvalidField,
                &["labels", key],
                "a label's value has at most 1024 bytes and no control characters",
            ));
        }
    }
    Ok(())
}

/// The most routes, neighbours or sysctls of a namespace.
const MOST_INSIDE: usize = 16_384;

/// The most addresses of an interface.
const MOST_ADDRESSES: usize = 1024;

fn check_count(field: &str, count: usize, most: usize) -> Result<(), FieldError> {
    let too_many = || {
        FieldError::at(
            Code::InvalidField,
            &[field],
            format!("{count} {field} are too many: at most {most}"),
        )
    };
    if count > most {
        Err(too_many())
    } else {
        Ok(())
    }
}

fn check_mtu(mtu: Option<u32>) -> Result<(), FieldError> {
    match mtu {
        Some(mtu) if !(68..=65535).contains(&mtu) => Err(FieldError::new(
            Code::InvalidField,
            "/mtu",
            format!("{mtu} is not an MTU: it is 68 to 65535 bytes"),
        )),
        _ => Ok(()),
    }
}

/// Checks that an MTU suffices for the IPv6 addresses beside it (RFC 8200, section 5).
fn check_ipv6_mtu(mtu: Option<u32>, addresses: &[Cidr]) -> Result<(), FieldError> {
    let Some(mtu) = mtu.filter(|mtu| *mtu < LEAST_IPV6_MTU) else {
        return Ok(());
    };
    let Some(address) = addresses.iter().find(|address| address.0.addr().is_ipv6()) else {
        return Ok(());
    };
    let detail = format!(
        "{mtu} is too small: IPv6 needs an MTU of at least {LEAST_IPV6_MTU}: {address} is on this interface"
    );
    Err(FieldError::new(Code::InvalidField, "/mtu", detail))
}

fn check_addresses(addresses: &[Cidr]) -> Result<(), FieldError> {
    check_count("addresses", addresses.len(), MOST_ADDRESSES)?;
    check_unique(
        "addresses",
        addresses.iter().map(|address| (*address, address)),
    )?;
    for (i, address) in addresses.iter().enumerate() {
        let ip = address.0.addr();
        let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
        if ip.is_multicast() || ip.is_unspecified() || broadcast {
            return Err(FieldError::at(
                Code::InvalidField,
                &["addresses", &i.to_string()],
                format!("\"{address}\" is no host's address"),
            ));
        }
    }
    Ok(())
}

fn check_unique<K: Ord, T: fmt::Display>(
    field: &str,
    items: impl IntoIterator<Item = (K, T)>,
) -> Result<(), FieldError> {
    let mut seen = BTreeSet::new();
    for (i, (key, item)) in items.into_iter().enumerate() {
        if !seen.insert(key) {
            return Err(FieldError::at(
                Code::Duplicate,
                &[field, &i.to_string()],
                format!("\"{item}\" is given twice"),
            ));
        }
    }
    Ok(())
}

impl Resource for Namespace {
    const KIND: Kind = Kind::Namespace;
    type Observed = crate::NamespaceObserved;

    fn name(&self) -> &Name {
        &self.name
    }

    fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    fn check(&self) -> Result<(), FieldError> {
        check_labels(&self.labels)?;
        check_count("routes", self.routes.len(), MOST_INSIDE)?;
        check_count("neighbours", self.neighbours.len(), MOST_INSIDE)?;
        check_count("sysctls", self.sysctls.len(), MOST_INSIDE)?;
        for (i, route) in self.routes.iter().enumerate() {
            route.check().map_err(|(field, detail)| {
                FieldError::at(
                    Code::InvalidField,
                    &["routes", &i.to_string(), field],
                    detail,
                )
            })?;
        }
        // What the kernel tells two routes apart by.
        let key = |route: &Route| {
            (
                route.destination.net(route.is_ipv6()),
                route.table,
                route.effective_metric(),
            )
        };
        check_unique(
            "routes",
            self.routes
                .iter()
                .map(|route| (key(route), route.destination)),
        )?;
        check_unique(
            "neighbours",
            self.neighbours
                .iter()
                .map(|entry| ((entry.interface.clone(), entry.address), entry.address)),
        )?;
        for (i, entry) in self.neighbours.iter().enumerate() {
            if entry.address.0.is_multicast() || entry.address.0.is_unspecified() {
                return Err(FieldError::at(
                    Code::InvalidField,
                    &["neighbours", &i.to_string(), "address"],
                    format!("\"{}\" is no host's address", entry.address),
                ));
            }
        }
        // One variable of the kernel under two names (`devinet_sysctl`, net/ipv4/devinet.c).
        let value = |key: &str| {
            self.sysctls
                .iter()
                .find(|(known, _)| known.as_str() == key)
                .map(|(_, value)| value)
        };
        let (key, other) = ("net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding");
        if let (Some(one), Some(two)) = (value(key), value(other))
            && one != two
        {
            let detail = format!(
                "{key} = {} and {other} = {} are one setting: give one of them",
                one.0, two.0
            );
            return Err(FieldError::at(
                Code::InvalidField,
                &["sysctls", other],
                detail,
            ));
        }
        self.dns.as_ref().map_or(Ok(()), Dns::check)
    }
}

impl Resource for Bridge {
    const KIND: Kind = Kind::Bridge;
    type Observed = crate::BridgeObserved;

    fn name(&self) -> &Name {
        &self.name
    }

    fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    fn check(&self) -> Result<(), FieldError> {
        check_labels(&self.labels)?;
        if self.interface.is_none() {
            self.name
                .as_str()
                .parse::<InterfaceName>()
                .map_err(|error| {
                    FieldError::new(
                        Code::InvalidField,
                        "/interface",
                        format!(
                            "the bridge's name is not one of a device ({error}): give interface too"
                        ),
                    )
                })?;
        }
        check_mtu(self.mtu)?;
        check_addresses(&self.addresses)?;
        check_ipv6_mtu(self.mtu, &self.addresses)?;
        if let Some(pvid) = self.vlan_default_pvid
            && pvid > 4094
        {
            return Err(FieldError::new(
                Code::InvalidField,
                "/vlan_default_pvid",
                format!("{pvid} is not a VLAN: it is 0 to 4094"),
            ));
        }
        let times = [
            ("forward_delay_s", self.forward_delay_s, 2, 30),
            ("hello_time_s", self.hello_time_s, 1, 10),
            ("max_age_s", self.max_age_s, 6, 40),
        ];
        for (field, time, least, most) in times {
            // Without STP the kernel takes a forward delay of 0 (br_set_forward_delay).
            let zero_is_fine = field == "forward_delay_s" && !self.stp;
            if let Some(time) = time
                && !(least * 100..=most * 100).contains(&time.0)
                && !(zero_is_fine && time.0 <= most * 100)
            {
                return Err(FieldError::at(
                    Code::InvalidField,
                    &[field],
                    format!(
                        "{} is out of range: {field} is {least} to {most} seconds",
                        f64::from(time.0) / 100.0
                    ),
                ));
            }
        }
        if let Some(time) = self.ageing_time_s
            && time.0 > 100_000_000
        {
            return Err(FieldError::new(
                Code::InvalidField,
                "/ageing_time_s",
                "an ageing time is at most 1000000 seconds",
            ));
        }
        Ok(())
    }
}

impl Resource for Veth {
    const KIND: Kind = Kind::Veth;
    type Observed = crate::VethObserved;

    fn name(&self) -> &Name {
        &self.name
    }

    fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    fn check(&self) -> Result<(), FieldError> {
        check_labels(&self.labels)?;
        for (i, endpoint) in self.endpoints.iter().enumerate() {
            endpoint
                .check()
                .map_err(|error| error.below(&["endpoints", &i.to_string()]))?;
        }
        let [a, b] = &self.endpoints;
        if a.namespace == b.namespace && a.interface.is_some() && a.interface == b.interface {
            return Err(FieldError::new(
                Code::Duplicate,
                "/endpoints/1/interface",
                format!(
                    "both ends are called {:?} in one namespace: give them different names",
                    b.device()
                ),
            ));
        }
        Ok(())
    }
}

string_enum! {
    /// The state of a resource.
    #[serde(rename_all = "snake_case")]
    pub enum State as "a state" {
        /// The kernel is as it was asked to be.
        InSync = "in_sync",
        /// Something that it needs is not there yet; it is applied by itself as soon as it can be.
        Pending = "pending",
        /// Somebody changed it, and it is not repaired yet.
        Drifted = "drifted",
        /// The kernel refuses it; it is tried again.
        Failed = "failed",
        /// A name that it needs is held by something that netnsd did not make.
        Conflict = "conflict",
    }
}

/// How a resource stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status<O> {
    /// The state.
    pub state: State,
    /// Why it is not in sync, or what is missing: a sentence, or null.
    pub reason: Option<String>,
    /// What the kernel said when it was last looked at; null if it is not there.
    pub observed: Option<O>,
}

/// A resource as GET answers it: what was asked for, and how it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(bound = "")]
pub struct Stored<R: Resource> {
    /// What was asked for.
    #[serde(flatten)]
    pub spec: R,
    /// Its identity: a new one each time it is created.
    pub uid: String,
    /// Counts the changes of what was asked for; the ETag.
    pub generation: u64,
    /// Whether netnsd made it: false only for the namespaces of others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<bool>,
    /// When it was created (RFC 3339, UTC).
    pub created_at: String,
    /// When what was asked for last changed (RFC 3339, UTC).
    pub updated_at: String,
    /// How it stands.
    pub status: Status<R::Observed>,
}
