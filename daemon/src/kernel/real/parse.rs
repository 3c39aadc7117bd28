//! Parsing of netlink messages.

use std::collections::BTreeMap;

use ipnet::IpNet;
use netnsd_api::{
    Address, Destination, Family, IpProtocol, Mac, Neighbour, Network, NextHop, PortRange, Route,
    RouteType, Rule, RuleAction, RuleInterface, Statistics, UidRange,
};
use netnsd_netlink::{neigh::Neigh, route::ip_addr};
use rtnetlink::{
    packet_core::{DefaultNla, Nla},
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
        link::{
            AfSpecBridge, AfSpecInet, AfSpecInet6, AfSpecUnspec, BridgeId, BridgePortState,
            BridgeVlanInfoFlags, In6AddrGenMode, InfoBridge, InfoBridgePort, InfoData,
            InfoPortData, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, Prop,
        },
        neighbour::NeighbourState,
        route::{
            RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop,
            RouteNextHopFlags, RouteProtocol, RouteRealm, RouteScope, RouteType as KernelRouteType,
        },
        rule::{
            RuleAction as KernelRuleAction, RuleAttribute, RuleFlags, RuleMessage, RulePortRange,
        },
    },
};

use super::super::{
    ObservedAddress, ObservedBridge, ObservedLink, ObservedPort, ObservedRoute, ObservedRule,
    ROUTE_PROTOCOL, RT_TABLE_LOCAL, RouteExtras, RuleExtras, ownership,
};
use crate::links::{DeviceAttribute, LinkSettings, PortVlans, VlanFlags};

/// Masks of ports (linux/fib_rules.h).
const FRA_SPORT_MASK: u16 = 28;
const FRA_DPORT_MASK: u16 = 29;

/// Metrics of routes (linux/rtnetlink.h); the first is a mask of those that are locked.
const RTAX_LOCK: u16 = 1;
pub(super) const RTAX_MTU: u16 = 2;
pub(super) const RTAX_ADVMSS: u16 = 8;
pub(super) const RTAX_INITCWND: u16 = 11;

/// A link with its name; `master` is an index, and the link's own field is not set yet.
pub(super) struct ParsedLink {
    pub name: String,
    pub link: ObservedLink,
    pub master: Option<u32>,
}

pub(super) fn link(message: &LinkMessage) -> ParsedLink {
    let mut parsed = ParsedLink {
        name: String::new(),
        link: ObservedLink::default(),
        master: None,
    };
    let link = &mut parsed.link;
    link.index = message.header.index;
    link.up = message.header.flags.contains(LinkFlags::Up);
    let mut vxlan_lower = None;
    for setting in DeviceAttribute::of_flags(message.header.flags) {
        link.device.decode(&setting);
    }
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => parsed.name.clone_from(name),
            LinkAttribute::PropList(names) => {
                link.owner_tag = names.iter().find_map(owner_tag).or(link.owner_tag.take());
                link.altnames = names.iter().filter_map(altname).collect();
            }
            LinkAttribute::IfAlias(alias)
                if ownership::is_legacy(alias) && ownership::parse(alias).is_some() =>
            {
                link.owner_tag.get_or_insert_with(|| alias.clone());
            }
            LinkAttribute::Address(bytes) => link.mac = Mac::from_bytes(bytes),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Carrier(carrier) => link.carrier = *carrier == 1,
            LinkAttribute::OperState(state) => link.operstate = state.to_string().to_lowercase(),
            LinkAttribute::Controller(index) => parsed.master = Some(*index),
            LinkAttribute::Link(index) => link.peer_index = Some(*index),
            LinkAttribute::LinkNetNsId(id) => link.peer_netnsid = Some(*id),
            LinkAttribute::Stats64(stats) => {
                link.statistics = Statistics {
                    rx_bytes: stats.rx_bytes,
                    rx_packets: stats.rx_packets,
                    rx_errors: stats.rx_errors,
                    rx_dropped: stats.rx_dropped,
                    tx_bytes: stats.tx_bytes,
                    tx_packets: stats.tx_packets,
                    tx_errors: stats.tx_errors,
                    tx_dropped: stats.tx_dropped,
                };
            }
            LinkAttribute::AfSpecUnspec(families) => {
                link.addr_gen_none = addr_gen_none(families);
                link.promote_secondaries = promote_secondaries(families);
            }
            LinkAttribute::LinkInfo(infos) => {
                info(link, infos);
                vxlan_lower = vxlan_lower.or(find_vxlan_lower(infos));
            }
            other => {
                if let Some(setting) = DeviceAttribute::of(other) {
                    link.device.decode(&setting);
                }
            }
        }
    }
    // The kernel gives a vxlan's own index as `IFLA_LINK` (`dev_get_iflink()`, net/core/dev.c).
    link.peer_index = vxlan_lower.unwrap_or(link.peer_index);
    parsed
}

/// Returns an alternative name that is an owner tag.
fn owner_tag(name: &Prop) -> Option<String> {
    match name {
        Prop::AltIfName(name)
            if !ownership::is_legacy(name) && ownership::parse(name).is_some() =>
        {
            Some(name.clone())
        }
        _ => None,
    }
}

/// Returns an alternative name that is no owner tag.
fn altname(name: &Prop) -> Option<String> {
    match name {
        Prop::AltIfName(text) if owner_tag(name).is_none() => Some(text.clone()),
        _ => None,
    }
}

fn addr_gen_none(families: &[AfSpecUnspec]) -> bool {
    families
        .iter()
        .filter_map(|family| match family {
            AfSpecUnspec::Inet6(specs) => Some(specs),
            _ => None,
        })
        .flatten()
        .any(|spec| matches!(spec, AfSpecInet6::AddrGenMode(In6AddrGenMode::None)))
}

fn promote_secondaries(families: &[AfSpecUnspec]) -> bool {
    let inet = families.iter().filter_map(|family| match family {
        AfSpecUnspec::Inet(specs) => Some(specs),
        _ => None,
    });
    inet.flatten()
        .any(|spec| matches!(spec, AfSpecInet::DevConf(conf) if conf.promote_secondaries != 0))
}

fn info(link: &mut ObservedLink, infos: &[LinkInfo]) {
    for info in infos {
        match info {
            LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
            LinkInfo::Data(InfoData::Bridge(settings)) => link.bridge = Some(bridge(settings)),
            LinkInfo::Data(data) => link.settings = LinkSettings::decode(data),
            LinkInfo::PortData(InfoPortData::BridgePort(settings)) => {
                link.port = Some(port(settings))
            }
            _ => {}
        }
    }
}

/// Returns the device that a vxlan is on, if it is on one; `None` for other types.
fn find_vxlan_lower(infos: &[LinkInfo]) -> Option<Option<u32>> {
    infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(attributes)) => {
            Some(attributes.iter().find_map(|attribute| match attribute {
                InfoVxlan::Link(index) => Some(*index),
                _ => None,
            }))
        }
        _ => None,
    })
}

fn bridge_id(id: &BridgeId) -> String {
    let mac: String = id
        .address
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{:04x}.{mac}", id.priority)
}

fn bridge(attributes: &[InfoBridge]) -> ObservedBridge {
    let mut seen = ObservedBridge::default();
    for attribute in attributes {
        match attribute {
            InfoBridge::TopologyChange(value) => seen.topology_change = *value != 0,
            InfoBridge::BridgeId(id) => seen.bridge_id = bridge_id(id),
            InfoBridge::RootId(id) => seen.root_id = bridge_id(id),
            setting => seen.attrs.decode(setting),
        }
    }
    seen
}

fn port(attributes: &[InfoBridgePort]) -> ObservedPort {
    let mut seen = ObservedPort::default();
    for attribute in attributes {
        match attribute {
            InfoBridgePort::State(state) => seen.state = port_state(*state).to_owned(),
            setting => seen.attrs.decode(setting),
        }
    }
    seen
}

/// Returns the index of a bridge port and its VLANs.
pub(super) fn port_vlans(message: &LinkMessage) -> (u32, PortVlans) {
    let specs = message
        .attributes
        .iter()
        .filter_map(|attribute| match attribute {
            LinkAttribute::AfSpecBridge(specs) => Some(specs),
            _ => None,
        });
    let (mut vlans, mut first) = (PortVlans::default(), None);
    for spec in specs.flatten() {
        let AfSpecBridge::VlanInfo(info) = spec else {
            continue;
        };
        if info.flags.contains(BridgeVlanInfoFlags::RangeBegin) {
            first = Some(info.vid);
            continue;
        }
        let flags = VlanFlags {
            pvid: info.flags.contains(BridgeVlanInfoFlags::Pvid),
            untagged: info.flags.contains(BridgeVlanInfoFlags::Untagged),
        };
        for id in first.take().unwrap_or(info.vid)..=info.vid {
            vlans.insert(id, flags);
        }
    }
    (message.header.index, vlans)
}

/// Returns the state of a port as bridge(8) spells it.
fn port_state(state: BridgePortState) -> &'static str {
    match state {
        BridgePortState::Disabled => "disabled",
        BridgePortState::Listening => "listening",
        BridgePortState::Learning => "learning",
        BridgePortState::Forwarding => "forwarding",
        BridgePortState::Blocking => "blocking",
        _ => "unknown",
    }
}

/// Parses an address, and the index of its link; the label is set also if it is the link's name.
pub(super) fn address(message: &AddressMessage) -> Option<(u32, ObservedAddress)> {
    let (mut local, mut address, mut flags) = (None, None, AddressFlags::empty());
    let header = &message.header;
    let mut seen = ObservedAddress {
        protocol: 0,
        scope: header.scope.into(),
        ..ObservedAddress::new(IpNet::default())
    };
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            AddressAttribute::Protocol(protocol) => seen.protocol = (*protocol).into(),
            AddressAttribute::Broadcast(broadcast) => seen.broadcast = Some(*broadcast),
            AddressAttribute::Label(label) => seen.label = Some(label.clone()),
            AddressAttribute::RoutePriority(metric) => seen.metric = *metric,
            AddressAttribute::CacheInfo(info) => {
                let lifetimes = (info.ifa_preferred, info.ifa_valid);
                seen.lifetimes =
                    Some(lifetimes).filter(|lifetimes| *lifetimes != (u32::MAX, u32::MAX));
            }
            _ => {}
        }
    }
    // An IPv6 address without a peer has IFA_ADDRESS only.
    seen.net = IpNet::new(local.or(address)?, header.prefix_len).ok()?;
    seen.peer = address.filter(|address| *address != seen.net.addr());
    // In IPv6 the same bit marks temporary addresses.
    seen.secondary = !seen.is_ipv6() && flags.contains(AddressFlags::Secondary);
    seen.permanent = flags.contains(AddressFlags::Permanent);
    seen.flags = (flags & settable_flags()).bits();
    Some((header.index, seen))
}

/// Returns the flags that an address is created with; the others are the kernel's (`inet6_addr_modify()`,
/// net/ipv6/addrconf.c).
fn settable_flags() -> AddressFlags {
    AddressFlags::Nodad
        | AddressFlags::Homeaddress
        | AddressFlags::Managetempaddr
        | AddressFlags::Noprefixroute
        | AddressFlags::Mcautojoin
}

/// Returns an address's scope as iproute2 spells it.
pub(in crate::kernel) fn address_scope(scope: u8) -> String {
    match AddressScope::from(scope) {
        AddressScope::Universe => "global".into(),
        AddressScope::Site => "site".into(),
        AddressScope::Link => "link".into(),
        AddressScope::Host => "host".into(),
        AddressScope::Nowhere => "nowhere".into(),
        other => u8::from(other).to_string(),
    }
}

/// Parses a route. Returns `None` for the kernel's own of table `local` and of IPv6 link-local and
/// multicast networks, which are many, unless `kernel` is true.
pub(super) fn route(
    message: &RouteMessage,
    names: &BTreeMap<u32, String>,
    kernel: bool,
) -> Option<ObservedRoute> {
    let header = &message.header;
    if header.flags.contains(RouteFlags::Cloned) || !kernel && is_kernels_own(message) {
        return None;
    }
    let ipv6 = header.address_family == rtnetlink::packet_route::AddressFamily::Inet6;
    let mut route = Route {
        destination: Destination::Default,
        via: None,
        interface: None,
        metric: Some(0),
        table: u32::from(header.table),
        source: None,
        kind: RouteType::Unicast,
        onlink: header.flags.contains(RouteFlags::Onlink),
        nexthops: Vec::new(),
        mtu: None,
        advmss: None,
        initcwnd: None,
    };
    let mut destination = None;
    let mut extras = RouteExtras {
        scope: (!ipv6).then(|| header.scope.into()),
        ..RouteExtras::default()
    };
    let mut unsupported = false;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip_addr(address),
            RouteAttribute::Gateway(address) => route.via = ip_addr(address).map(Address),
            RouteAttribute::PrefSource(address) => route.source = ip_addr(address).map(Address),
            RouteAttribute::Oif(index) => {
                route.interface = names.get(index).and_then(|name| name.parse().ok())
            }
            RouteAttribute::Priority(metric) => route.metric = Some(*metric),
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Metrics(metrics) => {
                extras.metrics = metrics.iter().map(metric).collect();
                take_metrics(&mut route, &mut extras.metrics);
            }
            RouteAttribute::MultiPath(hops) => unsupported |= !take_hops(&mut route, hops, names),
            RouteAttribute::Realm(RouteRealm {
                source,
                destination,
                ..
            }) => {
                extras.realms = Some(u32::from(*source) << 16 | u32::from(*destination));
            }
            RouteAttribute::Preference(preference) => {
                extras.preference = Some(u8::from(*preference))
            }
            // Set only if the route expires (`rt6_fill_node()`, net/ipv6/route.c).
            RouteAttribute::CacheInfo(info) => unsupported |= info.expires != 0,
            RouteAttribute::Source(_) | RouteAttribute::Iif(_) => {}
            // A nexthop object, a gateway of the other family, an encapsulation, or an attribute of
            // a newer kernel.
            _ => unsupported = true,
        }
    }
    let net =
        destination.and_then(|address| IpNet::new(address, header.destination_prefix_length).ok());
    route.destination = net.map_or(Destination::Default, Destination::from);
    let foreign_kind = match header.kind {
        KernelRouteType::Unicast => None,
        KernelRouteType::BlackHole => {
            route.kind = RouteType::Blackhole;
            None
        }
        KernelRouteType::Unreachable => {
            route.kind = RouteType::Unreachable;
            None
        }
        KernelRouteType::Prohibit => {
            route.kind = RouteType::Prohibit;
            None
        }
        KernelRouteType::Throw => {
            route.kind = RouteType::Throw;
            None
        }
        KernelRouteType::Local => {
            route.kind = RouteType::Local;
            None
        }
        other => Some(format!("{other:?}").to_lowercase()),
    };
    if route.kind.is_error() {
        // The kernel reports `lo` for these in IPv6.
        route.interface = None;
    }
    Some(ObservedRoute {
        route,
        ipv6,
        ours: u8::from(header.protocol) == ROUTE_PROTOCOL,
        protocol: header.protocol.into(),
        scope: scope(header.scope),
        foreign_kind,
        extras,
        unsupported,
        selective: header.tos != 0 || header.source_prefix_length != 0,
    })
}

/// Reads the next hops of a route, without those that are dead: their device is down, or has no
/// address any more. Returns false if one has attributes that the API lacks.
fn take_hops(route: &mut Route, hops: &[RouteNextHop], names: &BTreeMap<u32, String>) -> bool {
    let is_dead = |hop: &&RouteNextHop| hop.flags.contains(RouteNextHopFlags::Dead);
    let mut is_known = true;
    let mut on_link = 0;
    let mut alive = Vec::new();
    for hop in hops.iter().filter(|hop| !is_dead(hop)) {
        let name = names.get(&hop.interface_index);
        let mut seen = NextHop {
            via: None,
            interface: name.and_then(|name| name.parse().ok()),
            weight: u16::from(hop.hops) + 1,
        };
        for attribute in &hop.attributes {
            match attribute {
                RouteAttribute::Gateway(address) => seen.via = ip_addr(address).map(Address),
                _ => is_known = false,
            }
        }
        on_link += usize::from(hop.flags.contains(RouteNextHopFlags::Onlink));
        alive.push(seen);
    }
    route.onlink = on_link > 0;
    is_known &= on_link == 0 || on_link == alive.len();
    *route = route.with_hops(alive);
    is_known
}

/// Moves the metrics that the API has fields for to those. One that is locked stays where it is.
fn take_metrics(route: &mut Route, metrics: &mut Vec<(u16, Vec<u8>)>) {
    let number = |value: &[u8]| value.try_into().map(u32::from_ne_bytes).ok();
    let locks = metrics
        .iter()
        .find(|(kind, _)| *kind == RTAX_LOCK)
        .and_then(|(_, value)| number(value))
        .unwrap_or(0);
    metrics.retain(|(kind, value)| {
        let field = match *kind {
            RTAX_MTU => &mut route.mtu,
            RTAX_ADVMSS => &mut route.advmss,
            RTAX_INITCWND => &mut route.initcwnd,
            _ => return true,
        };
        if locks & 1 << kind != 0 {
            return true;
        }
        *field = number(value);
        false
    });
}

/// Returns true for a route that the kernel created on its own, and that `ip route` does not show,
/// or only for IPv6.
fn is_kernels_own(message: &RouteMessage) -> bool {
    let header = &message.header;
    let of_itself = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Table(table) => *table == RT_TABLE_LOCAL,
        RouteAttribute::Destination(RouteAddress::Inet6(to)) => {
            netnsd_api::is_link_local((*to).into()) || to.is_multicast()
        }
        _ => false,
    };
    header.protocol == RouteProtocol::Kernel && message.attributes.iter().any(of_itself)
}

/// Returns a metric of a route: its type, and its value as the kernel encodes it.
fn metric(metric: &RouteMetric) -> (u16, Vec<u8>) {
    let mut value = vec![0; metric.value_len()];
    metric.emit_value(&mut value);
    (metric.kind(), value)
}

/// Returns a route's protocol as iproute2 spells it, or its number.
pub(crate) fn protocol(number: u8) -> String {
    match RouteProtocol::from(number) {
        RouteProtocol::Unspec => "unspec".into(),
        RouteProtocol::IcmpRedirect => "redirect".into(),
        RouteProtocol::Other(ROUTE_PROTOCOL) => "netnsd".into(),
        RouteProtocol::Other(number) => number.to_string(),
        other => format!("{other:?}").to_lowercase(),
    }
}

fn scope(scope: RouteScope) -> String {
    match scope {
        RouteScope::Universe => "global".into(),
        RouteScope::Other(number) => number.to_string(),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// Parses a policy rule; `None` if it is of another family than IPv4 and IPv6.
pub(super) fn rule(message: &RuleMessage) -> Option<ObservedRule> {
    let header = &message.header;
    let family = match header.family {
        AddressFamily::Inet => Family::Ipv4,
        AddressFamily::Inet6 => Family::Ipv6,
        _ => return None,
    };
    let mut rule = Rule {
        priority: 0,
        family: Some(family),
        from: None,
        to: None,
        iif: None,
        oif: None,
        fwmark: None,
        fwmask: None,
        ipproto: None,
        sport: None,
        dport: None,
        uid_range: None,
        not: header.flags.contains(RuleFlags::Invert),
        table: None,
        action: None,
        suppress_prefixlength: None,
    };
    let mut extras = RuleExtras {
        tos: header.tos,
        ..RuleExtras::default()
    };
    let network = |address: &std::net::IpAddr, length| {
        let net = IpNet::new(*address, length).ok()?;
        Some(Network(net))
    };
    let ports = |range: &RulePortRange| PortRange {
        first: range.start,
        last: range.end,
    };
    let (mut table, mut mark, mut mask) = (u32::from(header.table), 0, 0);
    let mut protocol = 0;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Source(address) => rule.from = network(address, header.src_len),
            RuleAttribute::Destination(address) => rule.to = network(address, header.dst_len),
            RuleAttribute::Iifname(name) => rule.iif = interface(name, &mut extras),
            RuleAttribute::Oifname(name) => rule.oif = interface(name, &mut extras),
            RuleAttribute::Goto(priority) => extras.goto = Some(*priority),
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::FwMark(value) => mark = *value,
            RuleAttribute::FwMask(value) => mask = *value,
            // Always sent; this value stands for none.
            RuleAttribute::SuppressPrefixLen(u32::MAX) => {}
            RuleAttribute::SuppressPrefixLen(length) => {
                rule.suppress_prefixlength = u8::try_from(*length).ok();
                extras.others |= rule.suppress_prefixlength.is_none();
            }
            RuleAttribute::SuppressIfGroup(group) => extras.suppress_ifgroup = Some(*group),
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::L3MDev(on) => extras.l3mdev = *on,
            RuleAttribute::UidRange(range) => {
                rule.uid_range = Some(UidRange {
                    first: range.start,
                    last: range.end,
                });
            }
            RuleAttribute::Protocol(number) => protocol = u8::from(*number),
            RuleAttribute::IpProtocol(number) => {
                rule.ipproto = Some(IpProtocol(u8::from(*number)));
            }
            RuleAttribute::SourcePortRange(range) => rule.sport = Some(ports(range)),
            RuleAttribute::DestinationPortRange(range) => rule.dport = Some(ports(range)),
            // A single port has a mask of all its bits, since Linux 6.15.
            RuleAttribute::Other(other)
                if matches!(other.kind(), FRA_SPORT_MASK | FRA_DPORT_MASK)
                    && is_full_mask(other) => {}
            // Realms, a tunnel id, or an attribute of a newer kernel.
            _ => extras.others = true,
        }
    }
    if mask != 0 {
        (rule.fwmark, rule.fwmask) = (Some(mark), Some(mask));
    }
    match header.action {
        KernelRuleAction::ToTable => rule.table = Some(table).filter(|table| *table != 0),
        KernelRuleAction::Blackhole => rule.action = Some(RuleAction::Blackhole),
        KernelRuleAction::Unreachable => rule.action = Some(RuleAction::Unreachable),
        KernelRuleAction::Prohibit => rule.action = Some(RuleAction::Prohibit),
        KernelRuleAction::Goto => {}
        KernelRuleAction::Nop => extras.nop = true,
        _ => extras.others = true,
    }
    Some(ObservedRule {
        rule,
        protocol,
        extras,
    })
}

fn is_full_mask(mask: &DefaultNla) -> bool {
    let mut value = vec![0; mask.value_len()];
    mask.emit_value(&mut value);
    value.iter().all(|byte| *byte == u8::MAX)
}

/// Returns the name of a device in a rule; one that no device can have is noted in `extras`.
fn interface(name: &str, extras: &mut RuleExtras) -> Option<RuleInterface> {
    let parsed = name.parse().ok();
    extras.others |= parsed.is_none();
    parsed
}

/// Returns a neighbour if it is permanent, or an address that is answered for.
pub(super) fn neighbour(seen: &Neigh, names: &BTreeMap<u32, String>) -> Option<Neighbour> {
    let mac = match seen.state {
        _ if seen.is_proxy => None,
        NeighbourState::Permanent => Some(Mac(seen.mac?)),
        _ => return None,
    };
    Some(Neighbour {
        address: Address(seen.address?),
        mac,
        interface: names.get(&seen.index)?.parse().ok()?,
        proxy: seen.is_proxy,
    })
}
