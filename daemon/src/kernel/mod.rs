//! The only room that talks to the kernel: netlink, `setns`, mounts, `/proc/sys`.
//!
//! What the rest of the house sees of it are the types here: a [`Scope`] says what to look at,
//! [`Observed`] is what was there, an [`Op`] is one change. Two kernels understand them: the real
//! one ([`real::RealKernel`]) and a simulated one ([`sim::SimKernel`]), which fails on demand.

pub mod look;
mod op;
pub mod ownership;
pub mod real;
pub mod sim;
pub mod sysctl;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
pub use netnsd_api::DEFAULT_MTU;
use netnsd_api::{Address, Destination, Mac, Name, Neighbour, Route, RouteType, Statistics};
pub use netnsd_netlink::{DnsFile, KernelEvent, Ns, NsChange, StalePin, WatchChange};
use nix::errno::Errno;

pub use self::op::{
    AddressChange, FeatureOp, LinkAt, LinkChange, LinkOp, NamespaceChange, NamespaceOp,
    NeighbourChange, NewEnd, NewLink, Op, RouteChange,
};
pub(crate) use self::real::protocol;

/// Routes that netnsd makes carry this protocol number (`rtm_protocol`, `linux/rtnetlink.h`; none
/// of the registered ones).
pub const ROUTE_PROTOCOL: u8 = 110;
/// Routes that the kernel itself made (`RTPROT_KERNEL`).
pub const ROUTE_PROTOCOL_KERNEL: u8 = 2;
/// `RT_TABLE_MAIN` and `RT_TABLE_LOCAL` (`linux/rtnetlink.h`).
pub const RT_TABLE_MAIN: u32 = 254;
/// The table that the kernel looks at first, and keeps its own routes to local addresses in.
pub const RT_TABLE_LOCAL: u32 = 255;
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

/// What to look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// For each namespace what of it.
    pub namespaces: BTreeMap<Ns, NsScope>,
    /// The host's `/etc/nsswitch.conf`.
    pub nsswitch: bool,
}

impl Scope {
    /// What to look at in this namespace.
    pub fn ns(&mut self, ns: &Ns) -> &mut NsScope {
        self.namespaces.entry(ns.clone()).or_default()
    }
}

/// What to look at in one namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NsScope {
    /// These links, with their addresses.
    pub links: BTreeSet<String>,
    /// And those that bear these owner tags, under whatever name, where some link is not under its
    /// own.
    pub owner_tags: BTreeSet<String>,
    /// Those are most of what is there: one answer with everything takes less than one for each.
    pub most: bool,
    /// Also every other link, with its addresses: routes need them to know what is reachable.
    pub all_links: bool,
    /// The netnsid and the number of links.
    pub summary: bool,
    /// Routes.
    pub routes: bool,
    /// Of the kernel's own routes also those of table `local` and of IPv6 link-local and multicast
    /// networks.
    pub kernel_routes: bool,
    /// Routes of netnsd's, where no others are looked at: what an earlier version may have left.
    pub leftover_routes: bool,
    /// Those of them that the kernel made with addresses of netnsd's.
    pub prefix_routes: bool,
    /// Permanent neighbours.
    pub neighbours: bool,
    /// These sysctls.
    pub sysctls: BTreeSet<netnsd_api::SysctlKey>,
}

/// What was there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Each namespace of the scope that exists.
    pub namespaces: BTreeMap<Ns, ObservedNs>,
    /// Content of the host's `/etc/nsswitch.conf`; none if there is no such file.
    pub nsswitch: Option<String>,
}

impl Observed {
    /// A link, if it was looked at and is there.
    pub fn link(&self, ns: &Ns, name: &str) -> Option<&ObservedLink> {
        self.namespaces.get(ns)?.links.get(name)
    }
}

/// One namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedNs {
    /// Its inode number; 0 where it is not there, and only what else bears its name is.
    pub inode: u64,
    /// Its cookie (`SO_NETNS_COOKIE`, since Linux 5.14), which no other namespace gets until the
    /// next boot; 0 if it is not known. Inode numbers are given again at once.
    pub cookie: u64,
    /// What `/run/netns/NAME` is where it pins no namespace.
    pub stale: Option<StalePin>,
    /// The name that it has before this one: it is the host's own namespace, or netnsd pins it
    /// under another name.
    pub alias_of: Option<Ns>,
    /// Whether it cannot be entered, so that nobody knows whose it is: no network namespace, or one
    /// of another user namespace.
    pub closed: bool,
    /// The owner tag on its `lo`.
    pub owner_tag: Option<String>,
    /// Its id as seen from the host.
    pub netnsid: Option<u32>,
    /// Whether `lo` is up.
    pub loopback: bool,
    /// How many links are in it, `lo` included.
    pub link_count: usize,
    /// The links that were looked at, `lo` excepted, by name.
    pub links: BTreeMap<String, ObservedLink>,
    /// Those of them that were found by their owner tag only: somebody renamed them.
    pub strayed: BTreeSet<String>,
    /// Routes of every table, as far as they were looked at.
    pub routes: Vec<ObservedRoute>,
    /// The links and networks of those that the kernel made with an address; none where nobody
    /// looked.
    pub prefix_routes: Option<BTreeSet<(String, IpNet)>>,
    /// Permanent neighbours.
    pub neighbours: Vec<Neighbour>,
    /// The sysctls that were looked at and exist, white space as one space.
    pub sysctls: BTreeMap<netnsd_api::SysctlKey, String>,
    /// Contents of those files in `/etc/netns/NAME` that exist.
    pub dns: BTreeMap<DnsFile, String>,
}

impl ObservedNs {
    /// Gives a link an address where the kernel puts it. IPv4 (`__inet_insert_ifa()`,
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

    /// Takes an address away, with what the kernel takes along (`__inet_del_ifa()`,
    /// net/ipv4/devinet.c). In IPv4 the secondary ones of its network go with a primary one, or
    /// with `promote` the first of them takes its place; routes of the main table go that prefer
    /// what is gone as source (`fib_sync_down_addr()`, net/ipv4/fib_semantics.c), and with the last
    /// address every route by the link (`fib_disable_ip()`, net/ipv4/fib_frontend.c). IPv6 routes
    /// stay, and forget it as source (`rt6_remove_prefsrc()`, net/ipv6/route.c), but for that to
    /// its own network.
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
                return !(prefers && known.route.table == RT_TABLE_MAIN || last && by);
            }
            if prefers {
                known.route.source = None;
            }
            !(connected && unconnected)
        });
    }

    /// Takes addresses away and makes some, and puts back the routes that prefer one of those that
    /// come again.
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

/// The addresses that are deleted and added again.
pub fn moved<'a>(
    delete: &'a [ObservedAddress],
    add: &'a [ObservedAddress],
) -> impl Iterator<Item = IpAddr> + 'a {
    delete
        .iter()
        .filter(|gone| add.iter().any(|new| new.is_same(gone)))
        .map(|gone| gone.net.addr())
}

/// The place after the last IPv4 address.
fn end_of_ipv4(all: &[ObservedAddress]) -> usize {
    all.iter()
        .rposition(|known| !known.is_ipv6())
        .map_or(0, |last| last + 1)
}

/// The place after the last primary IPv4 address whose scope is no wider than this one.
fn end_of_primaries(all: &[ObservedAddress], scope: u8) -> usize {
    let before =
        |known: &ObservedAddress| !known.is_ipv6() && !known.secondary && known.scope >= scope;
    all.iter().rposition(before).map_or(0, |last| last + 1)
}

/// One link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedLink {
    /// Its index.
    pub index: u32,
    /// Its kind, such as `veth`.
    pub kind: Option<String>,
    /// Its owner tag; a legacy one only where there is no other.
    pub owner_tag: Option<String>,
    /// Its MAC address.
    pub mac: Option<Mac>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is set up (`IFF_UP`).
    pub up: bool,
    /// Whether it has carrier (`IFLA_CARRIER`).
    pub carrier: bool,
    /// Its operational state, in lower case without separators: up, down, lowerlayerdown, …
    pub operstate: String,
    /// The name of the bridge that it is a port of.
    pub master: Option<String>,
    /// Its index's peer (`IFLA_LINK`), and the netnsid of where the peer is if that is elsewhere.
    pub peer_index: Option<u32>,
    /// See `peer_index`.
    pub peer_netnsid: Option<i32>,
    /// Whether it makes itself no IPv6 link-local address (`IN6_ADDR_GEN_MODE_NONE`).
    pub addr_gen_none: bool,
    /// True if a secondary IPv4 address takes the place of a primary one that is deleted
    /// (`promote_secondaries`, ip-sysctl.rst); that of all interfaces does the same and is not seen
    /// here.
    pub promote_secondaries: bool,
    /// Its addresses, in the kernel's order: IPv4 before IPv6.
    pub addresses: Vec<ObservedAddress>,
    /// What a bridge is set to.
    pub bridge: Option<ObservedBridge>,
    /// What a bridge's port is set to.
    pub port: Option<ObservedPort>,
    /// Its counters.
    pub statistics: Statistics,
}

/// A link as the kernel tells it from all others: a namespace gives no index twice
/// (`dev_index_reserve()`, net/core/dev.c), unless it is asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Where it is.
    pub ns: Ns,
    /// The cookie of that namespace.
    pub cookie: u64,
    /// Its index.
    pub index: u32,
}

impl ObservedLink {
    /// Sets the MTU; where it is too small for IPv6 that ends on the link.
    pub fn set_mtu(&mut self, mtu: u32) {
        self.mtu = mtu;
        if mtu < netnsd_api::MIN_IPV6_MTU {
            self.addresses.retain(|address| !address.is_ipv6());
        }
    }
}

/// One address of a link, with all that the kernel keeps of it (`struct ifaddrmsg`,
/// linux/if_addr.h).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObservedAddress {
    /// The address (`IFA_LOCAL`) with its prefix length.
    pub net: IpNet,
    /// The other end's address (`IFA_ADDRESS`), where that is another; the prefix length is its
    /// then.
    pub peer: Option<IpAddr>,
    /// Number of whoever made it (`IFA_PROTO`); 0 if unknown.
    pub protocol: u8,
    /// `IFA_F_SECONDARY` of IPv4: it goes when the first of its network goes.
    pub secondary: bool,
    /// `IFA_F_PERMANENT`.
    pub permanent: bool,
    /// Those of the flags that an address is made with (`IFA_F_NODAD`, `IFA_F_NOPREFIXROUTE`, …).
    pub flags: u32,
    /// Its scope (`enum rt_scope_t`, linux/rtnetlink.h).
    pub scope: u8,
    /// Broadcast address (`IFA_BROADCAST`).
    pub broadcast: Option<Ipv4Addr>,
    /// Label (`IFA_LABEL`), where it is not the link's name.
    pub label: Option<String>,
    /// Metric of the route to its network (`IFA_RT_PRIORITY`); 0 is the kernel's default.
    pub metric: u32,
    /// Seconds for which it is preferred, and valid; none: for ever.
    pub lifetimes: Option<(u32, u32)>,
}

impl ObservedAddress {
    /// An address as netnsd makes it: in IPv6 without duplicate address detection.
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

    /// Leaves out a label that is the name of its link, which every IPv4 address has by default.
    fn on(mut self, interface: &str) -> Self {
        self.label = self.label.filter(|label| label != interface);
        self
    }

    /// Returns true if netnsd made it.
    pub fn is_ours(&self) -> bool {
        self.protocol == ADDRESS_PROTOCOL
    }

    /// Returns true if it is of IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.net.addr().is_ipv6()
    }

    /// Returns true if both are one and the same address of a link.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.net, self.peer) == (other.net, other.peer)
    }

    /// Returns true if a link that has this one is refused the other: in IPv4
    /// (`find_matching_ifa()`, net/ipv4/devinet.c) where both are of one network, in IPv6
    /// (`ipv6_chk_same_addr()`, net/ipv6/addrconf.c) whatever their prefix lengths are.
    pub fn excludes(&self, other: &Self) -> bool {
        self.net.addr() == other.net.addr() && (self.is_ipv6() || self.network() == other.network())
    }

    /// The network that it belongs to: that of the other end, if there is one.
    pub fn network(&self) -> IpNet {
        self.peer
            .and_then(|peer| IpNet::new(peer, self.net.prefix_len()).ok())
            .unwrap_or(self.net)
            .trunc()
    }

    /// Returns true if no route to its network comes with it (`IFA_F_NOPREFIXROUTE`).
    pub fn is_without_route(&self) -> bool {
        self.flags & IFA_F_NOPREFIXROUTE != 0
    }

    /// The scope of an IPv6 address, which the kernel sorts them by: the widest first
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

/// What a bridge is set to; times in hundredths of a second.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as the API's fields")]
pub struct ObservedBridge {
    pub stp: bool,
    pub priority: u16,
    pub ageing_time: u32,
    pub forward_delay: u32,
    pub hello_time: u32,
    pub max_age: u32,
    pub multicast_snooping: bool,
    pub vlan_filtering: bool,
    pub vlan_default_pvid: u16,
    pub topology_change: bool,
    pub bridge_id: String,
    pub root_id: String,
}

/// What a bridge's port is set to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as the API's fields")]
pub struct ObservedPort {
    pub state: String,
    pub path_cost: u32,
    pub priority: u16,
    pub hairpin: bool,
    pub isolated: bool,
    pub learning: bool,
    pub bpdu_guard: bool,
    pub root_block: bool,
    pub mcast_fast_leave: bool,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedRoute {
    /// The route; `metric` and `interface` are always what the kernel says. Of a type that the API
    /// does not know, `kind` is unicast and `foreign_kind` has the kernel's name for it.
    pub route: Route,
    /// Whether it is of IPv6 (a default route does not say so itself).
    pub ipv6: bool,
    /// Whether netnsd made it.
    pub ours: bool,
    /// Who made it (`rtm_protocol`, `linux/rtnetlink.h`).
    pub protocol: u8,
    /// The scope as iproute2 spells it.
    pub scope: String,
    /// Types that the API does not know, such as `local` or `broadcast`.
    pub foreign_kind: Option<String>,
    /// What it has besides.
    pub extras: RouteExtras,
    /// True if it cannot be made again as it is from what is read here: it has several next hops, a
    /// nexthop object, a gateway of the other family, an encapsulation or an expiry.
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

    /// Returns the route with its family told by the destination.
    pub fn as_route(&self) -> Route {
        Route {
            destination: Destination::Net(self.route.destination.net(self.ipv6)),
            ..self.route.clone()
        }
    }
}

/// Attributes of a route that the API has no fields for. A route that is taken over keeps them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct RouteExtras {
    /// `RTA_METRICS`: the value of each `RTAX_*` (`linux/rtnetlink.h`) as the kernel writes it.
    pub metrics: Vec<(u16, Vec<u8>)>,
    /// `RTA_FLOW`: the realms, in IPv4.
    pub realms: Option<u32>,
    /// `RTA_PREF`: the router preference, in IPv6.
    pub preference: Option<u8>,
    /// `rtm_scope`, in IPv4; none is the one that ip-route(8) chooses.
    pub scope: Option<u8>,
}

/// A bridge's settings; what is none stays as it is. Times in hundredths of a second.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "named as the API's fields")]
pub struct BridgeSettings {
    pub stp: Option<bool>,
    pub priority: Option<u16>,
    pub ageing_time: Option<u32>,
    pub forward_delay: Option<u32>,
    pub hello_time: Option<u32>,
    pub max_age: Option<u32>,
    pub multicast_snooping: Option<bool>,
    pub vlan_filtering: Option<bool>,
    pub vlan_default_pvid: Option<u16>,
}

/// The values that a bridge's MTU is set to, one after the other: the kernel takes an MTU for asked
/// for, and no longer that of the ports, only when it changes (`br_change_mtu()`,
/// net/bridge/br_device.c).
pub fn bridge_mtu(now: u32, wanted: u32) -> Vec<u32> {
    let other = if wanted == u32::from(u16::MAX) {
        wanted - 1
    } else {
        wanted + 1
    };
    if wanted == now {
        vec![other, wanted]
    } else {
        vec![wanted]
    }
}

/// The route to an address's network as the kernel makes it (`fib_add_ifaddr()`,
/// net/ipv4/fib_frontend.c; `addrconf_prefix_route()`, net/ipv6/addrconf.c).
pub fn prefix_route(interface: &str, address: IpNet) -> Route {
    let ipv6 = address.addr().is_ipv6();
    Route {
        destination: Destination::from(address.trunc()),
        via: None,
        interface: interface.parse().ok(),
        // `IP6_RT_PRIO_ADDRCONF`, linux/ipv6_route.h.
        metric: ipv6.then_some(256),
        table: 254,
        source: (!ipv6).then_some(Address(address.addr())),
        kind: RouteType::Unicast,
        onlink: false,
    }
}

/// Why the kernel did not do an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpError {
    /// The kernel's error.
    pub errno: Errno,
    /// The kernel's own words (its extended ack), if it had any.
    pub message: Option<String>,
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.message {
            Some(message) => write!(f, "{message} ({})", self.errno.desc()),
            None => f.write_str(self.errno.desc()),
        }
    }
}

impl From<Errno> for OpError {
    fn from(errno: Errno) -> Self {
        Self {
            errno,
            message: None,
        }
    }
}

/// An operation of a batch, and to which of the batch's independent parts it belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchOp {
    /// What to do.
    pub op: Op,
    /// The part: when an operation fails, the later ones of its part are skipped, those of others
    /// go on.
    pub part: usize,
    /// Whether a failure is passed over: the part goes on (used for what may be pending).
    pub optional: bool,
}

/// A link whose neighbours are told where its addresses are.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as a link's fields")]
pub struct Announcement {
    pub ns: Ns,
    pub name: String,
    pub index: u32,
    pub mac: Mac,
    pub addresses: Vec<IpAddr>,
}

/// What became of an operation.
pub type Outcome = Result<(), OpError>;

/// A kernel: the real one or a simulated one.
///
/// Its futures are not `Send`: a kernel lives on the engine's own thread.
#[allow(
    async_fn_in_trait,
    reason = "used only as a type parameter of the engine, on one thread"
)]
pub trait Kernel {
    /// Looks.
    ///
    /// # Errors
    /// When the kernel cannot be asked at all; what is not there is no error.
    async fn observe(&mut self, scope: &Scope) -> Result<Observed, OpError>;

    /// So many namespaces are going to be made by the next operations: begins with what nobody sees
    /// of that.
    fn expect(&mut self, namespaces: usize);

    /// Does operations in order, and tells `done` how many are behind it. The answer has one
    /// outcome for each; none for those that were skipped because an earlier one of the same part
    /// failed.
    async fn execute(
        &mut self,
        ops: &[BatchOp],
        done: Box<dyn Fn(usize) + Send>,
    ) -> Vec<Option<Outcome>>;

    /// Waits for what others do. It may be dropped while it waits, and asked again: nothing is
    /// lost.
    async fn notice(&mut self) -> KernelEvent;

    /// What others did up to now, without waiting. Between changes of one's own and the look after
    /// them it tells what that look would not find.
    fn heard(&mut self) -> Vec<KernelEvent>;

    /// Changes which namespaces are watched.
    fn watch(&mut self, changes: Vec<WatchChange>);

    /// What is in `/run/netns`.
    fn names(&mut self) -> Vec<String>;

    /// Tells a link's neighbours which MAC address its addresses have: one gratuitous ARP request,
    /// or one unsolicited neighbour advertisement, for each. Neighbours that do not hear it find
    /// out later: a failure is only logged.
    fn announce(&mut self, links: &[Announcement]);

    /// The values that `SysctlSet` replaced since this was last asked.
    fn replaced_sysctls(&mut self) -> Vec<(Name, netnsd_api::SysctlKey, String)>;

    /// Lets go of what is held between operations: an open connection keeps a namespace alive.
    fn rest(&mut self);
}
