//! Kernel: reads and changes network namespaces through netlink, `setns`, mounts and `/proc/sys`.
//!
//! The rest of the daemon knows the types here only: a [`Scope`] selects the state to read,
//! [`Observed`] is that state, an [`Op`] is one change. There are two kernels: the real one
//! ([`real::RealKernel`]) and a simulated one (`sim::SimKernel`) for tests, which fails on demand.

mod error;
mod losses;
mod op;
pub mod ownership;
pub mod query;
pub mod real;
mod rule;
#[cfg(any(test, feature = "test-support"))]
pub mod sim;
pub mod sysctl;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use netnsd_api::{
    Address, Destination, InterfaceAddress, Mac, Name, Neighbour, Route, RouteType, Statistics,
};
pub use netnsd_api::{DEFAULT_MTU, RT_TABLE_LOCAL, RT_TABLE_MAIN};
pub use netnsd_netlink::{DnsFile, KernelEvent, Ns, NsChange, StalePin, WatchChange};

pub(crate) use self::real::protocol;
pub use self::{
    error::KernelError,
    losses::LinkEvent,
    op::{
        AddressChange, FeatureOp, LinkAt, LinkChange, LinkOp, NamespaceChange, NamespaceOp,
        NeighbourChange, NewEnd, NewLink, Op, RemoteChange, RouteChange, RuleChange,
    },
    rule::{ObservedRule, RuleExtras, Selectors},
};
use crate::links::{BridgeAttrs, DeviceAttrs, LinkSettings, PortAttrs, PortVlans};

/// Routes and policy rules that netnsd makes carry this protocol number (`rtm_protocol`, `linux/rtnetlink.h`; none
/// of the registered ones).
pub const ROUTE_PROTOCOL: u8 = 110;
/// Routes that the kernel itself made (`RTPROT_KERNEL`).
pub const ROUTE_PROTOCOL_KERNEL: u8 = 2;
/// Addresses that netnsd makes carry this protocol number (`IFA_PROTO`, `linux/if_addr.h`, since
/// Linux 5.18).
pub const ADDRESS_PROTOCOL: u8 = 110;
/// Addresses that the kernel made itself of a link's MAC carry this one (`IFAPROT_KERNEL_LL`,
/// linux/if_addr.h).
pub const ADDRESS_PROTOCOL_KERNEL_LL: u8 = 3;
/// Flags of addresses (`linux/if_addr.h`).
pub const IFA_F_NODAD: u32 = 0x02;
#[allow(missing_docs, reason = "see above")]
pub const IFA_F_NOPREFIXROUTE: u32 = 0x200;
/// The index of `lo` in every namespace (`LOOPBACK_IFINDEX`, `net/flow.h`).
pub const LOOPBACK: u32 = 1;

/// State to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Part to read of each namespace.
    pub namespaces: BTreeMap<Ns, NsScope>,
    /// The host's `/etc/nsswitch.conf`.
    pub nsswitch: bool,
}

impl Scope {
    /// Returns the part to read of a namespace.
    pub fn ns(&mut self, ns: &Ns) -> &mut NsScope {
        self.namespaces.entry(ns.clone()).or_default()
    }
}

/// State to read of one namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NsScope {
    /// Names of links to read, with their addresses.
    pub links: BTreeSet<String>,
    /// Owner tags of links to read, whatever their names are.
    pub owner_tags: BTreeSet<String>,
    /// These links are most of the namespace: one dump costs less than a request for each.
    pub dump_all_links: bool,
    /// Every other link too, with its addresses: a route's gateway may be reached by any.
    pub all_links: bool,
    /// The netnsid and the number of links.
    pub summary: bool,
    /// Routes.
    pub routes: bool,
    /// The kernel's own routes too that are in table `local`, or of IPv6 link-local and multicast
    /// networks.
    pub kernel_routes: bool,
    /// Routes that netnsd made, if no others are read: an earlier version may have left them.
    pub leftover_routes: bool,
    /// Routes that the kernel made with addresses of netnsd.
    pub prefix_routes: bool,
    /// Links whose addresses for flooded frames are read.
    pub remotes: BTreeSet<String>,
    /// Ids, as seen from here, of the namespaces that links here are created in.
    pub base_netnsids: BTreeSet<Ns>,
    /// Addresses of which the MTU of the route is read.
    pub route_mtus: BTreeSet<IpAddr>,
    /// Policy rules.
    pub rules: bool,
    /// Permanent neighbours.
    pub neighbours: bool,
    /// Proxy neighbours.
    pub proxy_neighbours: bool,
    /// VLANs of bridge ports.
    pub port_vlans: bool,
    /// Sysctls to read.
    pub sysctls: BTreeSet<netnsd_api::SysctlKey>,
}

/// Observed state of the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Namespaces of the scope that exist.
    pub namespaces: BTreeMap<Ns, ObservedNs>,
    /// Content of the host's `/etc/nsswitch.conf`; none if there is no such file.
    pub nsswitch: Option<String>,
}

impl Observed {
    /// Returns a link, if it was read and exists.
    pub fn link(&self, ns: &Ns, name: &str) -> Option<&ObservedLink> {
        self.namespaces.get(ns)?.links.get(name)
    }
}

/// Observed state of one namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedNs {
    /// Inode number; 0 if the namespace does not exist and only its name, or its files, do.
    pub inode: u64,
    /// Its cookie (`SO_NETNS_COOKIE`, since Linux 5.14), which no other namespace gets until the
    /// next boot; 0 if it is not known. Inode numbers are given again at once.
    pub cookie: u64,
    /// File type of `/run/netns/NAME` if it pins no namespace.
    pub stale: Option<StalePin>,
    /// Name under which the same namespace is known already: the host's, or one that netnsd pins.
    pub alias_of: Option<Ns>,
    /// True if it cannot be entered, so that its owner is unknown: it is no network namespace, or
    /// one of another user namespace.
    pub inaccessible: bool,
    /// The owner tag on its `lo`.
    pub owner_tag: Option<String>,
    /// Its id as seen from the host.
    pub netnsid: Option<u32>,
    /// True if `lo` is up.
    pub loopback: bool,
    /// Number of links, `lo` included.
    pub link_count: usize,
    /// Links that were read, by name; `lo` only if the scope names it.
    pub links: BTreeMap<String, ObservedLink>,
    /// Names of links that were found by their owner tag only: somebody renamed them.
    pub renamed: BTreeSet<String>,
    /// Routes of every table, as far as they were read.
    pub routes: Vec<ObservedRoute>,
    /// Interface and network of the routes that the kernel made with addresses; `None` if they were
    /// not read.
    pub prefix_routes: Option<BTreeSet<(String, IpNet)>>,
    /// Ids of other namespaces as seen from here, as far as they were read and are given.
    pub base_netnsids: BTreeMap<Ns, i32>,
    /// MTU of the route to an address, as far as it was read and there is one.
    pub route_mtus: BTreeMap<IpAddr, u32>,
    /// Policy rules of both families, in the kernel's order.
    pub rules: Vec<ObservedRule>,
    /// Permanent and proxy neighbours.
    pub neighbours: Vec<Neighbour>,
    /// Sysctls that were read and exist; white space is one space.
    pub sysctls: BTreeMap<netnsd_api::SysctlKey, String>,
    /// Contents of the files in `/etc/netns/NAME` that exist.
    pub dns: BTreeMap<DnsFile, String>,
}

impl ObservedNs {
    /// Adds an address to a link where the kernel puts it. IPv4 (`__inet_insert_ifa()`,
    /// net/ipv4/devinet.c): the first of a network is primary and comes after the other primary
    /// ones, the rest are secondary and come last. IPv6 (`ipv6_link_dev_addr()`,
    /// net/ipv6/addrconf.c): the newest comes first among those of its scope.
    pub fn add_address(&mut self, interface: &str, mut new: ObservedAddress) {
        let Some(link) = self.links.get_mut(interface) else {
            return;
        };
        let all = &mut link.addresses;
        if new.is_ipv6() {
            let first = all
                .iter()
                .position(|known| known.is_ipv6() && known.scope_rank() <= new.scope_rank());
            all.insert(first.unwrap_or(all.len()), new);
            return;
        }
        let network = new.network();
        new.secondary = all.iter().any(|known| known.network() == network);
        let place = if new.secondary {
            end_of_ipv4(all)
        } else {
            end_of_primaries(all, new.scope)
        };
        all.insert(place, new);
    }

    /// Deletes an address, with all that the kernel deletes along (`__inet_del_ifa()`,
    /// net/ipv4/devinet.c). In IPv4 the secondary ones of its network go with a primary one, or
    /// with `promote` the first of them takes its place; routes of the main table go that prefer a
    /// deleted address as source (`fib_sync_down_addr()`, net/ipv4/fib_semantics.c), and with the
    /// last address every route by the link (`fib_disable_ip()`, net/ipv4/fib_frontend.c). IPv6
    /// routes stay without that source (`rt6_remove_prefsrc()`, net/ipv6/route.c), except the one
    /// to its own network.
    pub fn lose_address(&mut self, interface: &str, gone: &ObservedAddress, promote: bool) {
        let Some(link) = self.links.get_mut(interface) else {
            return;
        };
        let Some(at) = link.addresses.iter().position(|known| known.is_same(gone)) else {
            return;
        };
        let gone = link.addresses.remove(at);
        let (v4, network) = (!gone.is_ipv6(), gone.network());
        let mut lost = vec![gone.net.addr()];
        let mut promoted = None;
        if v4 && !gone.secondary {
            let below = |known: &ObservedAddress| known.secondary && known.network() == network;
            if promote || link.promote_secondaries {
                if let Some(next) = link.addresses.iter().position(below) {
                    let next = ObservedAddress {
                        secondary: false,
                        ..link.addresses.remove(next)
                    };
                    promoted = Some(next.net.addr());
                    let place = end_of_primaries(&link.addresses, next.scope);
                    link.addresses.insert(place, next);
                }
            } else {
                lost.extend(
                    link.addresses
                        .iter()
                        .filter(|known| below(known))
                        .map(|known| known.net.addr()),
                );
                link.addresses.retain(|known| !below(known));
            }
        }
        let last = v4 && !link.addresses.iter().any(|known| !known.is_ipv6());
        let unconnected = !v4
            && !link
                .addresses
                .iter()
                .any(|known| known.network() == network);
        let has = |address: &IpAddr| {
            self.links
                .values()
                .flat_map(|link| &link.addresses)
                .any(|known| known.net.addr() == *address)
        };
        let lost: Vec<IpAddr> = lost.into_iter().filter(|address| !has(address)).collect();
        self.routes.retain_mut(|known| {
            if known.ipv6 == v4 {
                return true;
            }
            let prefers = known
                .route
                .source
                .is_some_and(|source| lost.contains(&source.0));
            let by = known
                .route
                .interface
                .as_ref()
                .is_some_and(|name| name.as_str() == interface);
            let connected = by
                && known.protocol == ROUTE_PROTOCOL_KERNEL
                && known.route.destination.net(!v4) == network;
            if v4 {
                if let (true, true, Some(address)) = (prefers, connected, promoted) {
                    known.route.source = Some(Address(address));
                    return true;
                }
                return !(prefers && known.route.table == RT_TABLE_MAIN
                    || last && known.lose_hops(interface));
            }
            if prefers {
                known.route.source = None;
            }
            !(connected && unconnected)
        });
    }

    /// Deletes and adds addresses, and restores the routes that prefer one of those that are added
    /// again.
    pub fn reorder_addresses(
        &mut self,
        interface: &str,
        delete: &[ObservedAddress],
        add: &[ObservedAddress],
    ) {
        let moved: Vec<IpAddr> = moved(delete, add).collect();
        let prefers = |known: &&ObservedRoute| {
            known.protocol != ROUTE_PROTOCOL_KERNEL
                && known
                    .route
                    .source
                    .is_some_and(|source| moved.contains(&source.0))
        };
        let before: Vec<ObservedRoute> = self.routes.iter().filter(prefers).cloned().collect();
        delete
            .iter()
            .for_each(|gone| self.lose_address(interface, gone, true));
        add.iter()
            .for_each(|new| self.add_address(interface, new.clone()));
        for known in before
            .into_iter()
            .filter(|known| !self.routes.contains(known))
            .collect::<Vec<_>>()
        {
            let bare = ObservedRoute {
                route: Route {
                    source: None,
                    ..known.route.clone()
                },
                ..known.clone()
            };
            match self.routes.iter_mut().find(|other| **other == bare) {
                Some(other) => *other = known,
                None => self.routes.push(known),
            }
        }
    }
}

/// Iterates over the addresses that are deleted and added again.
pub fn moved<'a>(
    delete: &'a [ObservedAddress],
    add: &'a [ObservedAddress],
) -> impl Iterator<Item = IpAddr> + 'a {
    delete
        .iter()
        .filter(|gone| add.iter().any(|new| new.is_same(gone)))
        .map(|gone| gone.net.addr())
}

/// Returns the index after the last IPv4 address.
fn end_of_ipv4(all: &[ObservedAddress]) -> usize {
    all.iter()
        .rposition(|known| !known.is_ipv6())
        .map_or(0, |last| last + 1)
}

/// Returns the index after the last primary IPv4 address whose scope is no wider than this one.
fn end_of_primaries(all: &[ObservedAddress], scope: u8) -> usize {
    let before =
        |known: &ObservedAddress| !known.is_ipv6() && !known.secondary && known.scope >= scope;
    all.iter().rposition(before).map_or(0, |last| last + 1)
}

/// Observed state of a link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedLink {
    /// Interface index.
    pub index: u32,
    /// Device type (`IFLA_INFO_KIND`), such as `veth`.
    pub kind: Option<String>,
    /// Owner tag; a legacy one only if there is no other.
    pub owner_tag: Option<String>,
    /// MAC address.
    pub mac: Option<Mac>,
    /// MTU in bytes.
    pub mtu: u32,
    /// True if it is set up (`IFF_UP`).
    pub up: bool,
    /// True if it has carrier (`IFLA_CARRIER`).
    pub carrier: bool,
    /// Operational state, in lower case without separators: up, down, lowerlayerdown, …
    pub operstate: String,
    /// Name of the bridge that it is a port of.
    pub master: Option<String>,
    /// Index of the peer, or of the device that it is on (`IFLA_LINK`).
    pub peer_index: Option<u32>,
    /// Netnsid of the namespace of that, or of the underlay, if it is another one.
    pub peer_netnsid: Option<i32>,
    /// True if it makes no IPv6 link-local address (`IN6_ADDR_GEN_MODE_NONE`).
    pub addr_gen_none: bool,
    /// True if a secondary IPv4 address takes the place of a primary one that is deleted
    /// (`promote_secondaries`, ip-sysctl.rst); that of all interfaces does the same and is not seen
    /// here.
    pub promote_secondaries: bool,
    /// Addresses in the kernel's order: IPv4 before IPv6.
    pub addresses: Vec<ObservedAddress>,
    /// Settings that every device has.
    pub device: DeviceAttrs,
    /// Addresses to which a vxlan sends flooded frames, if they were read.
    pub remotes: BTreeSet<IpAddr>,
    /// Settings of its type, where they are not observed one by one.
    pub settings: Option<LinkSettings>,
    /// Alternative names, without owner tags.
    pub altnames: BTreeSet<String>,
    /// State of a bridge.
    pub bridge: Option<ObservedBridge>,
    /// State of a bridge port.
    pub port: Option<ObservedPort>,
    /// Counters.
    pub statistics: Statistics,
}

/// Identity of a link: a namespace gives no index twice (`dev_index_reserve()`, net/core/dev.c),
/// unless it is asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Namespace.
    pub ns: Ns,
    /// Cookie of the namespace.
    pub cookie: u64,
    /// Interface index.
    pub index: u32,
}

impl ObservedLink {
    /// Returns the state of a device right after its creation.
    pub fn created(settings: &LinkSettings, end: &NewEnd) -> Self {
        let (mut bridge, mut own) = (None, Some(settings.clone()));
        if let LinkSettings::Bridge(settings) = settings {
            let made: &mut ObservedBridge = bridge.insert(ObservedBridge::default());
            made.attrs.apply(settings);
            own = None;
        }
        let kind = settings.device_type().kind();
        Self {
            kind: Some(kind.into()),
            device: DeviceAttrs::of_new(kind),
            settings: own,
            owner_tag: Some(end.owner_tag.clone()),
            mac: end.mac,
            mtu: end.mtu.unwrap_or(DEFAULT_MTU),
            bridge,
            ..Self::default()
        }
    }

    /// Sets the MTU. If it is too small for IPv6, that ends on the link.
    pub fn set_mtu(&mut self, mtu: u32) {
        self.mtu = mtu;
        if mtu < netnsd_api::MIN_IPV6_MTU {
            self.addresses.retain(|address| !address.is_ipv6());
        }
    }
}

/// Address of a link, with all that the kernel keeps of it (`struct ifaddrmsg`, linux/if_addr.h).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObservedAddress {
    /// The address (`IFA_LOCAL`) with its prefix length.
    pub net: IpNet,
    /// Address of the other end (`IFA_ADDRESS`), if it differs; the prefix length is then the
    /// peer's.
    pub peer: Option<IpAddr>,
    /// Protocol number of its maker (`IFA_PROTO`); 0 if unknown.
    pub protocol: u8,
    /// `IFA_F_SECONDARY` of IPv4: it goes when the first of its network goes.
    pub secondary: bool,
    /// `IFA_F_PERMANENT`.
    pub permanent: bool,
    /// Flags that an address is made with (`IFA_F_NODAD`, `IFA_F_NOPREFIXROUTE`, …).
    pub flags: u32,
    /// Scope (`enum rt_scope_t`, linux/rtnetlink.h).
    pub scope: u8,
    /// Broadcast address (`IFA_BROADCAST`).
    pub broadcast: Option<Ipv4Addr>,
    /// Label (`IFA_LABEL`), if it is not the link's name.
    pub label: Option<String>,
    /// Metric of the route to its network (`IFA_RT_PRIORITY`); 0 is the kernel's default.
    pub metric: u32,
    /// Preferred and valid lifetime in seconds; `None` if unlimited.
    pub lifetimes: Option<(u32, u32)>,
}

impl ObservedAddress {
    /// Creates an address as netnsd makes it: in IPv6 without duplicate address detection.
    pub fn new(net: IpNet) -> Self {
        Self {
            net,
            peer: None,
            protocol: ADDRESS_PROTOCOL,
            secondary: false,
            permanent: true,
            flags: if net.addr().is_ipv6() { IFA_F_NODAD } else { 0 },
            scope: 0,
            broadcast: None,
            label: None,
            metric: 0,
            lifetimes: None,
        }
    }

    /// Creates the address that is asked for, of a link with this name.
    pub fn of(asked: &InterfaceAddress, interface: &str) -> Self {
        Self {
            peer: asked.peer().map(|peer| peer.0.addr()),
            broadcast: asked.broadcast(),
            label: asked.label().map(ToOwned::to_owned),
            metric: asked.metric().unwrap_or_default(),
            ..Self::new(asked.net())
        }
        .on(interface)
    }

    /// Removes a label that is the name of the link, which every IPv4 address has by default.
    fn on(mut self, interface: &str) -> Self {
        self.label = self.label.filter(|label| label != interface);
        self
    }

    /// Returns true if netnsd made it.
    pub fn is_ours(&self) -> bool {
        self.protocol == ADDRESS_PROTOCOL
    }

    /// Returns true for an IPv6 address.
    pub fn is_ipv6(&self) -> bool {
        self.net.addr().is_ipv6()
    }

    /// Returns true if both are the same address of a link.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.net, self.peer) == (other.net, other.peer)
    }

    /// Returns true if a link that has this one is refused the other: in IPv4
    /// (`find_matching_ifa()`, net/ipv4/devinet.c) where both are of one network, in IPv6
    /// (`ipv6_chk_same_addr()`, net/ipv6/addrconf.c) whatever their prefix lengths are.
    pub fn excludes(&self, other: &Self) -> bool {
        self.net.addr() == other.net.addr() && (self.is_ipv6() || self.network() == other.network())
    }

    /// Returns the network that it belongs to: in IPv4 the other end's, if there is one.
    pub fn network(&self) -> IpNet {
        self.peer
            .filter(IpAddr::is_ipv4)
            .and_then(|peer| IpNet::new(peer, self.net.prefix_len()).ok())
            .unwrap_or(self.net)
            .trunc()
    }

    /// Returns true if no route to its network comes with it (`IFA_F_NOPREFIXROUTE`).
    pub fn is_without_route(&self) -> bool {
        self.flags & IFA_F_NOPREFIXROUTE != 0
    }

    /// Returns the scope by which the kernel sorts IPv6 addresses, widest first
    /// (`ipv6_addr_src_scope()`, net/ipv6.h).
    pub fn scope_rank(&self) -> u8 {
        match self.net.addr() {
            IpAddr::V6(v6) if v6.is_unicast_link_local() || v6.is_loopback() => 0x02,
            IpAddr::V6(v6) if v6.segments()[0] & 0xffc0 == 0xfec0 => 0x05,
            _ => 0x0e,
        }
    }
}

impl fmt::Display for ObservedAddress {
    /// Writes it as `ip address` shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer {
            Some(peer) => write!(
                f,
                "{} peer {peer}/{}",
                self.net.addr(),
                self.net.prefix_len()
            ),
            None => self.net.fmt(f),
        }
    }
}

/// Observed state of a bridge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedBridge {
    /// Settings.
    pub attrs: BridgeAttrs,
    /// True while the spanning tree tells of a topology change.
    pub topology_change: bool,
    /// Identifier in the spanning tree.
    pub bridge_id: String,
    /// Identifier of the spanning tree's root.
    pub root_id: String,
}

/// Observed state of a bridge port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedPort {
    /// State in the spanning tree, as bridge(8) spells it.
    pub state: String,
    /// Settings.
    pub attrs: PortAttrs,
    /// VLANs, if they were read.
    pub vlans: Option<PortVlans>,
}

/// Observed route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedRoute {
    /// Route; `metric` and `interface` are what the kernel says. If the API lacks the type, `kind`
    /// is unicast and `foreign_kind` has the kernel's name.
    pub route: Route,
    /// True for IPv6: a default route has no other sign of its family.
    pub ipv6: bool,
    /// True if netnsd made it.
    pub ours: bool,
    /// Protocol number of its maker (`rtm_protocol`, linux/rtnetlink.h).
    pub protocol: u8,
    /// Scope as iproute2 spells it.
    pub scope: String,
    /// Type that the API lacks, such as `local` or `broadcast`.
    pub foreign_kind: Option<String>,
    /// Attributes without a field in the API.
    pub extras: RouteExtras,
    /// True if it cannot be made again as it is from what is read here: it has a nexthop object, a
    /// gateway of the other family, an encapsulation or an expiry.
    pub unsupported: bool,
    /// True if the kernel tells it apart by more than destination, table and metric: by a TOS, or
    /// in IPv6 by a source network.
    pub selective: bool,
}

impl ObservedRoute {
    /// Returns true if netnsd can take it over as it is.
    pub fn is_adoptable(&self) -> bool {
        self.foreign_kind.is_none() && !self.unsupported && !self.selective
    }

    /// Removes the next hop by a device that goes down. Returns true if nothing is left of the
    /// route.
    pub fn lose_hops(&mut self, interface: &str) -> bool {
        let is_by = |by: &Option<netnsd_api::InterfaceName>| {
            by.as_ref().is_some_and(|by| by.as_str() == interface)
        };
        if self.route.nexthops.is_empty() {
            return is_by(&self.route.interface);
        }
        if self.is_by(interface) {
            let mut hops = std::mem::take(&mut self.route.nexthops);
            hops.retain(|hop| !is_by(&hop.interface));
            if hops.is_empty() {
                return true;
            }
            self.route = self.route.with_hops(hops);
        }
        false
    }

    /// Returns true if a next hop is by this device.
    pub fn is_by(&self, interface: &str) -> bool {
        let hops = self.route.hops();
        let mut devices = hops.iter().filter_map(|hop| hop.interface.as_ref());
        devices.any(|by| by.as_str() == interface)
    }

    /// Returns the route with its family told by the destination.
    pub fn as_route(&self) -> Route {
        Route {
            destination: Destination::Net(self.route.destination.net(self.ipv6)),
            ..self.route.clone()
        }
    }
}

/// Attributes of a route without a field in the API. An adopted route keeps them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct RouteExtras {
    /// `RTA_METRICS`: the value of each `RTAX_*` (`linux/rtnetlink.h`) as the kernel writes it.
    pub metrics: Vec<(u16, Vec<u8>)>,
    /// `RTA_FLOW`: the realms, in IPv4.
    pub realms: Option<u32>,
    /// `RTA_PREF`: the router preference, in IPv6.
    pub preference: Option<u8>,
    /// `rtm_scope`, in IPv4; `None` is the one that ip-route(8) chooses.
    pub scope: Option<u8>,
}

/// Returns the route to an address's network as the kernel makes it (`fib_add_ifaddr()`,
/// net/ipv4/fib_frontend.c; `addrconf_prefix_route()`, net/ipv6/addrconf.c).
pub fn prefix_route(interface: &str, address: &ObservedAddress) -> Route {
    let ipv6 = address.is_ipv6();
    let metric = Some(address.metric).filter(|metric| *metric != 0);
    Route {
        destination: Destination::from(address.network()),
        via: None,
        interface: interface.parse().ok(),
        // `IP6_RT_PRIO_ADDRCONF`, linux/ipv6_route.h.
        metric: metric.or(ipv6.then_some(256)),
        table: 254,
        source: (!ipv6).then_some(Address(address.net.addr())),
        kind: RouteType::Unicast,
        onlink: false,
        nexthops: Vec::new(),
        mtu: None,
        advmss: None,
        initcwnd: None,
    }
}

/// Operation of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchOp {
    /// Operation.
    pub op: Op,
    /// Independent part of the batch. When an operation fails, the later ones of its part are
    /// skipped; other parts continue.
    pub part: usize,
    /// True if the part continues after a failure of this operation.
    pub optional: bool,
}

/// Link whose addresses are announced to its neighbours.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as a link's fields")]
pub struct Announcement {
    pub ns: Ns,
    pub name: String,
    pub index: u32,
    pub mac: Mac,
    pub addresses: Vec<IpAddr>,
}

/// Outcome of an operation.
pub type Outcome = Result<(), KernelError>;

/// Kernel, real or simulated.
///
/// Its futures are not `Send`: a kernel lives on the engine's own thread.
#[allow(
    async_fn_in_trait,
    reason = "used only as a type parameter of the engine, on one thread"
)]
pub trait Kernel {
    /// Reads the state within a scope.
    ///
    /// # Errors
    /// If the kernel cannot be asked at all. State that does not exist is no error.
    async fn observe(&mut self, scope: &Scope) -> Result<Observed, KernelError>;

    /// Announces that the next operations create this number of namespaces: the kernel begins to
    /// unshare them before they are pinned.
    fn prefetch_namespaces(&mut self, namespaces: usize);

    /// Executes operations in order, and reports to `done` how many are finished. Returns one
    /// outcome for each; `None` for those that were skipped because an earlier one of the same part
    /// failed.
    async fn execute(
        &mut self,
        ops: &[BatchOp],
        done: Box<dyn Fn(usize) + Send>,
    ) -> Vec<Option<Outcome>>;

    /// Waits for the next event. It may be dropped and called again: no event is lost.
    async fn next_event(&mut self) -> KernelEvent;

    /// Returns the events up to now, without waiting. Between own changes and the observation after
    /// them, it tells of changes that the observation does not find.
    fn drain_events(&mut self) -> Vec<KernelEvent>;

    /// Changes which namespaces are watched.
    fn watch(&mut self, changes: Vec<WatchChange>);

    /// Lists `/run/netns`.
    fn list_netns_names(&mut self) -> Vec<String>;

    /// Announces the MAC address of a link's addresses: one gratuitous ARP request, or one
    /// unsolicited neighbour advertisement, for each. A failure is only logged: neighbours that
    /// miss it find out later.
    fn announce(&mut self, links: &[Announcement]);

    /// Returns the values that sysctl operations replaced since the last call.
    fn replaced_sysctls(&mut self) -> Vec<(Name, netnsd_api::SysctlKey, String)>;

    /// Closes idle namespace connections; an open one keeps its namespace alive.
    fn release_idle(&mut self);
}
