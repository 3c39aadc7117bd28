//! Requests of rtnetlink(7) for operations.

use std::{collections::BTreeMap, net::IpAddr, os::fd::RawFd};

use netnsd_api::{
    Family, InterfaceName, Neighbour, Network, Port, PortRange, Route, RouteType, Rule, RuleAction,
    VlanRange,
};
use netnsd_netlink::link::{self, LinkId, link_message};
use rtnetlink::{
    packet_core::DefaultNla,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{
            AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope,
            CacheInfo,
        },
        link::{
            AfSpecBridge, BridgeVlanInfo, BridgeVlanInfoFlags, InfoData, InfoKind, InfoPortData,
            InfoPortKind, InfoVeth, InfoVxlan, LinkAttribute, LinkInfo,
        },
        neighbour::{
            NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
        },
        route::{
            RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop,
            RouteNextHopFlags, RoutePreference, RouteProtocol, RouteRealm, RouteScope,
        },
        rule::{
            RuleAction as KernelRuleAction, RuleAttribute, RuleFlags, RuleMessage, RulePortRange,
            RuleUidRange,
        },
    },
};

use super::{
    super::{LOOPBACK, NewEnd, NewLink, ObservedAddress, ROUTE_PROTOCOL, RouteExtras, ownership},
    parse::{RTAX_ADVMSS, RTAX_INITCWND, RTAX_MTU},
};
use crate::links::{DeviceAttrs, DeviceSettings, LinkSettings, PortAttrs, VlanChange, VlanFlags};

fn end_attributes(end: &NewEnd) -> Vec<LinkAttribute> {
    let mut attributes = vec![LinkAttribute::IfName(end.at.name.clone())];
    attributes.extend(end.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    attributes.extend(end.mtu.map(LinkAttribute::Mtu));
    attributes
}

/// Builds a request that creates a link, on the device of index `lower`, the peer of a pair in the
/// namespace of `peer_ns`.
pub(super) fn new_link(
    new: &NewLink,
    lower: Option<u32>,
    peer_ns: Option<RawFd>,
) -> RouteNetlinkMessage {
    let mut end = new.end.clone();
    let is_mtu_set_later = |mtu| new.settings.mtus_after_creation(mtu).is_some();
    end.mtu = end.mtu.filter(|mtu| !is_mtu_set_later(*mtu));

    let mut data = match &new.peer {
        Some(peer) => {
            let mut attributes = end_attributes(peer);
            attributes.extend(peer_ns.map(LinkAttribute::NetNsFd));
            Some(InfoData::Veth(InfoVeth::Peer(link_message(0, attributes))))
        }
        None => new.settings.encode(),
    };
    let mut attributes = end_attributes(&end);
    match (lower, &mut data) {
        (Some(lower), Some(InfoData::Vxlan(data))) => data.push(InfoVxlan::Link(lower)),
        (Some(lower), _) => attributes.push(LinkAttribute::Link(lower)),
        (None, _) => {}
    }
    attributes.push(LinkAttribute::LinkInfo(link_info(&new.settings, data)));
    RouteNetlinkMessage::NewLink(link_message(0, attributes))
}

fn link_info(settings: &LinkSettings, data: Option<InfoData>) -> Vec<LinkInfo> {
    let kind = InfoKind::from(settings.device_type().kind());
    let data = data.map(LinkInfo::Data);
    std::iter::once(LinkInfo::Kind(kind)).chain(data).collect()
}

/// Builds a request that removes an owner tag; a legacy one is the link's alias.
pub(super) fn delete_owner_tag(name: &str, tag: &str) -> RouteNetlinkMessage {
    if ownership::is_legacy(tag) {
        link::set_link(LinkId::Name(name), LinkAttribute::IfAlias(String::new()))
    } else {
        link::delete_altname(name, tag)
    }
}

/// Builds a request that changes settings of a link's type; `None` if none is given.
pub(super) fn set_settings(name: &str, settings: &LinkSettings) -> Option<RouteNetlinkMessage> {
    let info = link_info(settings, Some(settings.encode_change()?));
    // Without NLM_F_CREATE this changes the link of that name (rtnl_newlink(),
    // net/core/rtnetlink.c).
    let attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(info),
    ];
    Some(RouteNetlinkMessage::NewLink(link_message(0, attributes)))
}

/// Builds a request that changes settings that every device has.
pub(super) fn set_device(index: u32, settings: &DeviceSettings) -> RouteNetlinkMessage {
    let mut message = link_message(index, Vec::new());
    for setting in DeviceAttrs::encode(settings) {
        setting.add_to(&mut message);
    }
    RouteNetlinkMessage::SetLink(message)
}

/// Builds a request that changes a bridge port's settings.
pub(super) fn set_port(index: u32, settings: &Port) -> RouteNetlinkMessage {
    let settings = PortAttrs::encode(settings);
    let info = vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(settings)),
    ];
    RouteNetlinkMessage::NewLink(link_message(index, vec![LinkAttribute::LinkInfo(info)]))
}

/// Builds the requests that change the VLANs of a bridge port, in one datagram: the port is never
/// seen without its PVID.
pub(super) fn change_vlans(index: u32, change: &VlanChange) -> Vec<(RouteNetlinkMessage, u16)> {
    let request = |ranges: Vec<AfSpecBridge>| {
        (!ranges.is_empty()).then(|| link::port_message(index, LinkAttribute::AfSpecBridge(ranges)))
    };
    let deleted = change.delete.iter();
    let deleted = deleted.flat_map(|range| vlan_infos(*range, VlanFlags::default()));
    let added = change
        .add
        .iter()
        .flat_map(|(range, flags)| vlan_infos(*range, *flags));
    let deleted = request(deleted.collect()).map(RouteNetlinkMessage::DelLink);
    let added = request(added.collect()).map(RouteNetlinkMessage::SetLink);
    deleted
        .into_iter()
        .chain(added)
        .map(|message| (message, 0))
        .collect()
}

/// Returns the attributes of a range of VLANs: one, or those of its first and its last.
fn vlan_infos(range: VlanRange, flags: VlanFlags) -> Vec<AfSpecBridge> {
    let mut common = BridgeVlanInfoFlags::empty();
    common.set(BridgeVlanInfoFlags::Pvid, flags.pvid);
    common.set(BridgeVlanInfoFlags::Untagged, flags.untagged);
    let info = |vid, more| {
        let flags = common | more;
        AfSpecBridge::VlanInfo(BridgeVlanInfo { flags, vid })
    };
    let (first, last) = range.bounds();
    if first == last {
        return vec![info(first, BridgeVlanInfoFlags::empty())];
    }
    vec![
        info(first, BridgeVlanInfoFlags::RangeBegin),
        info(last, BridgeVlanInfoFlags::RangeEnd),
    ]
}

fn family(ipv6: bool) -> AddressFamily {
    if ipv6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    }
}

/// Builds a message with the attributes that identify an address.
fn address(index: u32, known: &ObservedAddress) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(known.is_ipv6());
    message.header.prefix_len = known.net.prefix_len();
    message.header.index = index;
    let local = known.net.addr();
    message.attributes = vec![
        AddressAttribute::Local(local),
        AddressAttribute::Address(known.peer.unwrap_or(local)),
    ];
    message
}

/// Builds a request that adds an address, or changes its settings.
pub(super) fn new_address(index: u32, new: &ObservedAddress) -> RouteNetlinkMessage {
    let mut message = address(index, new);
    message.header.scope = AddressScope::from(new.scope);
    message
        .attributes
        .push(AddressAttribute::Protocol(AddressProtocol::from(
            new.protocol,
        )));
    if new.flags != 0 {
        message
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::from_bits_retain(
                new.flags,
            )));
    }
    message
        .attributes
        .extend(new.broadcast.map(AddressAttribute::Broadcast));
    message
        .attributes
        .extend(new.label.clone().map(AddressAttribute::Label));
    if new.metric != 0 {
        message
            .attributes
            .push(AddressAttribute::RoutePriority(new.metric));
    }
    if let Some((preferred, valid)) = new.lifetimes {
        let mut info = CacheInfo::default();
        (info.ifa_preferred, info.ifa_valid) = (preferred, valid);
        message.attributes.push(AddressAttribute::CacheInfo(info));
    }
    RouteNetlinkMessage::NewAddress(message)
}

/// Builds a request that deletes an address.
pub(super) fn delete_address(index: u32, gone: &ObservedAddress) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelAddress(address(index, gone))
}

/// Indices of the devices of a route, by name.
pub(super) type Oifs = BTreeMap<String, u32>;

/// Builds a message for a route.
pub(super) fn route(route: &Route, oifs: &Oifs, protocol: u8) -> RouteMessage {
    let ipv6 = route.is_ipv6();
    let net = route.destination.net(ipv6);
    let mut message = RouteMessage::default();
    message.header.address_family = family(ipv6);
    message.header.destination_prefix_length = net.prefix_len();
    message.header.protocol = RouteProtocol::from(protocol);
    message.header.kind = match route.kind {
        RouteType::Unicast => rtnetlink::packet_route::route::RouteType::Unicast,
        RouteType::Blackhole => rtnetlink::packet_route::route::RouteType::BlackHole,
        RouteType::Unreachable => rtnetlink::packet_route::route::RouteType::Unreachable,
        RouteType::Prohibit => rtnetlink::packet_route::route::RouteType::Prohibit,
        RouteType::Throw => rtnetlink::packet_route::route::RouteType::Throw,
        RouteType::Local => rtnetlink::packet_route::route::RouteType::Local,
    };
    // As iproute2 chooses it: a gateway is beyond the link, a bare interface is not.
    let is_direct = route.via.is_none() && route.nexthops.is_empty();
    message.header.scope = match route.kind {
        RouteType::Unicast if is_direct && !ipv6 => RouteScope::Link,
        RouteType::Local if !ipv6 => RouteScope::Host,
        RouteType::Unicast
        | RouteType::Local
        | RouteType::Blackhole
        | RouteType::Unreachable
        | RouteType::Prohibit
        | RouteType::Throw => RouteScope::Universe,
    };
    message.header.flags = if route.onlink && route.nexthops.is_empty() {
        RouteFlags::Onlink
    } else {
        RouteFlags::empty()
    };
    message.attributes.push(RouteAttribute::Table(route.table));
    if net.prefix_len() > 0 {
        message
            .attributes
            .push(RouteAttribute::Destination(RouteAddress::from(net.addr())));
    }
    if let Some(via) = route.via {
        message
            .attributes
            .push(RouteAttribute::Gateway(RouteAddress::from(via.0)));
    }
    let index = |name: &Option<InterfaceName>| oifs.get(name.as_ref()?.as_str()).copied();
    let oif = match route.kind {
        RouteType::Local => index(&route.interface).or(Some(LOOPBACK)),
        RouteType::Unicast
        | RouteType::Blackhole
        | RouteType::Unreachable
        | RouteType::Prohibit
        | RouteType::Throw => index(&route.interface),
    };
    message.attributes.extend(oif.map(RouteAttribute::Oif));
    if !route.nexthops.is_empty() {
        let hops = route.nexthops.iter().map(|hop| {
            let mut next = RouteNextHop::default();
            next.hops = u8::try_from(hop.weight.saturating_sub(1)).unwrap_or(u8::MAX);
            next.interface_index = index(&hop.interface).unwrap_or(0);
            if route.onlink {
                next.flags = RouteNextHopFlags::Onlink;
            }
            let gateway = hop.via.map(|via| RouteAddress::from(via.0));
            next.attributes = gateway.map(RouteAttribute::Gateway).into_iter().collect();
            next
        });
        let hops = hops.collect();
        message.attributes.push(RouteAttribute::MultiPath(hops));
    }
    if let Some(source) = route.source {
        message
            .attributes
            .push(RouteAttribute::PrefSource(RouteAddress::from(source.0)));
    }
    if let Some(metric) = route.metric.filter(|metric| *metric != 0) {
        message.attributes.push(RouteAttribute::Priority(metric));
    }
    message
}

/// Builds a message for a route with attributes that the API has no fields for.
pub(super) fn whole_route(
    plain: &Route,
    extras: &RouteExtras,
    oifs: &Oifs,
    protocol: u8,
) -> RouteMessage {
    let RouteExtras {
        metrics,
        realms,
        preference,
        scope,
    } = extras;
    let mut message = route(plain, oifs, protocol);
    if let Some(scope) = scope {
        message.header.scope = RouteScope::from(*scope);
    }
    let fields = [
        (RTAX_MTU, plain.mtu),
        (RTAX_ADVMSS, plain.advmss),
        (RTAX_INITCWND, plain.initcwnd),
    ];
    let fields = fields
        .into_iter()
        .filter_map(|(kind, value)| Some((kind, value?.to_ne_bytes().to_vec())));
    let metrics: Vec<RouteMetric> = fields
        .chain(metrics.iter().cloned())
        .map(|(kind, value)| RouteMetric::Other(DefaultNla::new(kind, value)))
        .collect();
    if !metrics.is_empty() {
        message.attributes.push(RouteAttribute::Metrics(metrics));
    }
    message.attributes.extend(realms.map(|realms| {
        RouteAttribute::Realm(RouteRealm {
            source: (realms >> 16) as u16,
            destination: realms as u16,
        })
    }));
    message
        .attributes
        .extend(preference.map(|value| RouteAttribute::Preference(RoutePreference::from(value))));
    message
}

/// Builds a message for a policy rule of one family.
pub(super) fn rule(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    let header = &mut message.header;
    header.family = family(rule.family == Some(Family::Ipv6));
    let length = |net: Option<Network>| net.map_or(0, |net| net.0.prefix_len());
    (header.src_len, header.dst_len) = (length(rule.from), length(rule.to));
    header.flags = if rule.not {
        RuleFlags::Invert
    } else {
        RuleFlags::empty()
    };
    header.action = match rule.action {
        None => KernelRuleAction::ToTable,
        Some(RuleAction::Blackhole) => KernelRuleAction::Blackhole,
        Some(RuleAction::Unreachable) => KernelRuleAction::Unreachable,
        Some(RuleAction::Prohibit) => KernelRuleAction::Prohibit,
    };
    let ports = |range: PortRange| RulePortRange {
        start: range.first,
        end: range.last,
    };
    let name = |name: &netnsd_api::RuleInterface| name.as_str().to_owned();
    let protocol = RouteProtocol::from(ROUTE_PROTOCOL);
    let required = [
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Protocol(protocol),
    ];
    let optional = [
        rule.from.map(|net| RuleAttribute::Source(net.0.addr())),
        rule.to.map(|net| RuleAttribute::Destination(net.0.addr())),
        rule.iif.as_ref().map(name).map(RuleAttribute::Iifname),
        rule.oif.as_ref().map(name).map(RuleAttribute::Oifname),
        rule.fwmark.map(RuleAttribute::FwMark),
        rule.fwmask.map(RuleAttribute::FwMask),
        rule.ipproto
            .map(|protocol| RuleAttribute::IpProtocol(protocol.0.into())),
        rule.sport.map(ports).map(RuleAttribute::SourcePortRange),
        rule.dport
            .map(ports)
            .map(RuleAttribute::DestinationPortRange),
        rule.uid_range.map(|uids| {
            RuleAttribute::UidRange(RuleUidRange {
                start: uids.first,
                end: uids.last,
            })
        }),
        rule.table.map(RuleAttribute::Table),
        rule.suppress_prefixlength
            .map(|length| RuleAttribute::SuppressPrefixLen(length.into())),
    ];
    message.attributes = required
        .into_iter()
        .chain(optional.into_iter().flatten())
        .collect();
    message
}

/// Builds a message for a permanent or a proxy neighbour.
pub(super) fn neighbour(neighbour: &Neighbour, index: u32) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    let (family, address) = match neighbour.address.0 {
        IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
    };
    message.header.family = family;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    if neighbour.proxy {
        message.header.flags = NeighbourFlags::Proxy;
    }
    let mac = neighbour
        .mac
        .map(|mac| NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message.attributes = std::iter::once(NeighbourAttribute::Destination(address))
        .chain(mac)
        .collect();
    message
}
