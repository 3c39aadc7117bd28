//! Builds netlink messages of operations and questions.

use std::{net::IpAddr, os::fd::RawFd};

use netnsd_api::{Neighbour, Port, Route, RouteType};
use rtnetlink::{
    packet_core::{DefaultNla, Emitable, NLA_F_NESTED},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{
            AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope,
            CacheInfo,
        },
        link::{
            AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind,
            InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags,
            LinkInfo, LinkMessage, Prop,
        },
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
        nsid::{NsidAttribute, NsidMessage},
        route::{
            RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHopFlags,
            RoutePreference, RouteProtocol, RouteRealm, RouteScope,
        },
    },
};

use super::super::{NewEnd, ObservedAddress, RouteExtras, ownership};
use crate::links::{BridgeAttrs, BridgeSettings, PortAttrs};

/// `IFLA_ALT_IFNAME`, linux/if_link.h.
const IFLA_ALT_IFNAME: u16 = 53;

fn link(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = attributes;
    message
}

fn end(end: &NewEnd) -> Vec<LinkAttribute> {
    let mut attributes = vec![LinkAttribute::IfName(end.at.name.clone())];
    attributes.extend(end.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    attributes.extend(end.mtu.map(LinkAttribute::Mtu));
    attributes
}

/// Returns the message that creates a veth pair, with the peer in the namespace of `peer_ns`.
pub(super) fn new_veth(ends: &[NewEnd; 2], peer_ns: RawFd) -> RouteNetlinkMessage {
    let mut peer = end(&ends[1]);
    peer.push(LinkAttribute::NetNsFd(peer_ns));
    let mut attributes = end(&ends[0]);
    attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(link(0, peer)))),
    ]));
    RouteNetlinkMessage::NewLink(link(0, attributes))
}

/// Returns the message that creates a bridge.
pub(super) fn new_bridge(name: &str, mac: Option<netnsd_api::Mac>) -> RouteNetlinkMessage {
    let mut attributes = vec![LinkAttribute::IfName(name.to_owned())];
    attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(
        InfoKind::Bridge,
    )]));
    RouteNetlinkMessage::NewLink(link(0, attributes))
}

/// Returns the message that sets one attribute of a link, by name.
pub(super) fn set_named(name: &str, attribute: LinkAttribute) -> RouteNetlinkMessage {
    RouteNetlinkMessage::SetLink(link(
        0,
        vec![LinkAttribute::IfName(name.to_owned()), attribute],
    ))
}

fn altname(name: &str, altname: &str) -> LinkMessage {
    let list = LinkAttribute::PropList(vec![Prop::AltIfName(altname.to_owned())]);
    link(0, vec![LinkAttribute::IfName(name.to_owned()), list])
}

/// Returns the message that adds an owner tag to a link, by name (`rtnl_linkprop()`,
/// net/core/rtnetlink.c).
pub(super) fn add_owner_tag(name: &str, tag: &str) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewLinkProp(altname(name, tag))
}

/// Returns the message that deletes an owner tag of a link, by name; a legacy one is its alias.
pub(super) fn delete_owner_tag(name: &str, tag: &str) -> RouteNetlinkMessage {
    match ownership::is_legacy(tag) {
        true => set_named(name, LinkAttribute::IfAlias(String::new())),
        false => RouteNetlinkMessage::DelLinkProp(altname(name, tag)),
    }
}

/// Returns the message that sets one attribute of a link.
pub(super) fn set_link(index: u32, attribute: LinkAttribute) -> RouteNetlinkMessage {
    RouteNetlinkMessage::SetLink(link(index, vec![attribute]))
}

/// Returns the message that moves a link to another namespace.
pub(super) fn move_link(index: u32, ns: RawFd, name: &str) -> RouteNetlinkMessage {
    RouteNetlinkMessage::SetLink(link(
        index,
        vec![
            LinkAttribute::NetNsFd(ns),
            LinkAttribute::IfName(name.to_owned()),
        ],
    ))
}

/// Returns the message that deletes a link.
pub(super) fn delete_link(index: u32) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelLink(link(index, Vec::new()))
}

/// Returns the message that deletes a link, by name.
pub(super) fn delete_link_named(name: &str) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelLink(link(0, vec![LinkAttribute::IfName(name.to_owned())]))
}

/// Returns the message that deletes every link of a group (`rtnl_group_dellink()`,
/// net/core/rtnetlink.c).
pub(super) fn delete_group(group: u32) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelLink(link(0, vec![LinkAttribute::Group(group)]))
}

/// Returns the message that sets a link up or down.
pub(super) fn set_up(index: u32, up: bool) -> RouteNetlinkMessage {
    let mut message = link(index, Vec::new());
    message.header.flags = if up {
        LinkFlags::Up
    } else {
        LinkFlags::empty()
    };
    message.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(message)
}

/// Returns the message that sets `addrgenmode`.
pub(super) fn addr_gen(index: u32, none: bool) -> RouteNetlinkMessage {
    let mode = if none {
        In6AddrGenMode::None
    } else {
        In6AddrGenMode::Eui64
    };
    set_link(
        index,
        LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
            mode,
        )])]),
    )
}

/// Returns the message that changes settings of a bridge, if any are given.
pub(super) fn set_bridge(name: &str, settings: &BridgeSettings) -> Option<RouteNetlinkMessage> {
    let settings = BridgeAttrs::encode(settings);
    if settings.is_empty() {
        return None;
    }
    let info = vec![
        LinkInfo::Kind(InfoKind::Bridge),
        LinkInfo::Data(InfoData::Bridge(settings)),
    ];
    // Without NLM_F_CREATE this changes the link of that name (rtnl_newlink(),
    // net/core/rtnetlink.c).
    let attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(info),
    ];
    Some(RouteNetlinkMessage::NewLink(link(0, attributes)))
}

/// Returns the message that changes settings of a bridge port.
pub(super) fn set_port(index: u32, settings: &Port) -> RouteNetlinkMessage {
    let settings = PortAttrs::encode(settings);
    let info = vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(settings)),
    ];
    RouteNetlinkMessage::NewLink(link(index, vec![LinkAttribute::LinkInfo(info)]))
}

/// Asks for a link by its name, or by its index.
pub(super) fn get_link(name: Option<&str>, index: u32) -> RouteNetlinkMessage {
    // Counters make up most of an answer, and nobody asks for them by name.
    let brief = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
    let attributes = name
        .map(|name| LinkAttribute::IfName(name.to_owned()))
        .into_iter()
        .chain([brief])
        .collect();
    RouteNetlinkMessage::GetLink(link(index, attributes))
}

/// Returns the question for the link with an owner tag.
pub(super) fn get_link_by_tag(tag: &str) -> RouteNetlinkMessage {
    let brief = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
    let altname = DefaultNla::new(IFLA_ALT_IFNAME, [tag.as_bytes(), &[0]].concat());
    RouteNetlinkMessage::GetLink(link(0, vec![LinkAttribute::Other(altname), brief]))
}

/// Returns the question for all links, with counters.
pub(super) fn get_links() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetLink(LinkMessage::default())
}

/// Returns the question for all links, without counters, which make up most of an answer.
pub(super) fn get_links_briefly() -> RouteNetlinkMessage {
    let mask = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
    RouteNetlinkMessage::GetLink(link(0, vec![mask]))
}

fn family(ipv6: bool) -> AddressFamily {
    if ipv6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    }
}

/// Returns the identifying part of an address.
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

/// Returns the message that adds an address, or changes one.
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

/// Returns the message that deletes an address.
pub(super) fn delete_address(index: u32, gone: &ObservedAddress) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelAddress(address(index, gone))
}

/// Returns the message that sets `promote_secondaries` of a link (`inet_set_link_af()`,
/// net/ipv4/devinet.c).
pub(super) fn promote_secondaries(index: u32, on: bool) -> RouteNetlinkMessage {
    let setting = DefaultNla::new(
        IPV4_DEVCONF_PROMOTE_SECONDARIES,
        u32::from(on).to_ne_bytes().to_vec(),
    );
    let mut settings = vec![0; setting.buffer_len()];
    setting.emit(&mut settings);
    let inet = AfSpecInet::Other(DefaultNla::new(IFLA_INET_CONF | NLA_F_NESTED, settings));
    set_link(
        index,
        LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![inet])]),
    )
}

/// `linux/if_link.h`, `linux/ip.h`.
const IFLA_INET_CONF: u16 = 1;
const IPV4_DEVCONF_PROMOTE_SECONDARIES: u16 = 20;

/// Returns the question for the addresses of a link (0: of all links).
pub(super) fn get_addresses(index: u32) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    RouteNetlinkMessage::GetAddress(message)
}

/// Returns a route as a message.
pub(super) fn route(route: &Route, oif: Option<u32>, protocol: u8) -> RouteMessage {
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
    };
    // As iproute2 chooses it: a gateway is beyond the link, a bare interface is not.
    let on_link = route.kind == RouteType::Unicast && route.via.is_none() && !ipv6;
    message.header.scope = if on_link {
        RouteScope::Link
    } else {
        RouteScope::Universe
    };
    message.header.flags = if route.onlink {
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
    if let Some(oif) = oif {
        message.attributes.push(RouteAttribute::Oif(oif));
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

/// Returns a route as a message, with the attributes that the API lacks.
pub(super) fn whole_route(
    plain: &Route,
    extras: &RouteExtras,
    oif: Option<u32>,
    protocol: u8,
) -> RouteMessage {
    let RouteExtras {
        metrics,
        realms,
        preference,
        scope,
    } = extras;
    let mut message = route(plain, oif, protocol);
    if let Some(scope) = scope {
        message.header.scope = RouteScope::from(*scope);
    }
    if !metrics.is_empty() {
        let metric = |(kind, value): &(u16, Vec<u8>)| {
            RouteMetric::Other(DefaultNla::new(*kind, value.clone()))
        };
        message.attributes.push(RouteAttribute::Metrics(
            metrics.iter().map(metric).collect(),
        ));
    }
    let realm = |realms: u32| RouteRealm {
        source: (realms >> 16) as u16,
        destination: realms as u16,
    };
    message
        .attributes
        .extend(realms.map(|realms| RouteAttribute::Realm(realm(realms))));
    message
        .attributes
        .extend(preference.map(|value| RouteAttribute::Preference(RoutePreference::from(value))));
    message
}

/// Returns the message that makes an observed route again, without attributes that the kernel shows
/// and does not take.
pub(super) fn same_route(mut seen: RouteMessage) -> RouteNetlinkMessage {
    seen.header.flags &= RouteFlags::Onlink;
    let by_nexthop = seen
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, RouteAttribute::NhId(_)));
    seen.attributes.retain_mut(|attribute| match attribute {
        RouteAttribute::CacheInfo(_) => false,
        // They say what the nexthop object says (`rtm_to_fib_config()`, net/ipv4/fib_frontend.c).
        RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::Oif(_) => !by_nexthop,
        RouteAttribute::MultiPath(hops) => {
            hops.iter_mut()
                .for_each(|hop| hop.flags &= RouteNextHopFlags::Onlink);
            !by_nexthop
        }
        _ => true,
    });
    RouteNetlinkMessage::NewRoute(seen)
}

/// Returns the question for the routes of a family, all or those of a protocol.
pub(super) fn get_routes(ipv6: bool, protocol: Option<u8>) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(ipv6);
    // The kernel takes 0 for all.
    message.header.protocol = RouteProtocol::from(protocol.unwrap_or(0));
    RouteNetlinkMessage::GetRoute(message)
}

/// Returns a permanent neighbour as a message.
pub(super) fn neighbour(neighbour: &Neighbour, index: u32) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    let (family, address) = match neighbour.address.0 {
        IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
    };
    message.header.family = family;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![
        NeighbourAttribute::Destination(address),
        NeighbourAttribute::LinkLayerAddress(neighbour.mac.0.to_vec()),
    ];
    message
}

/// Returns the question for all neighbours, of whatever family; of a bridge, for its forwarding
/// table.
pub(super) fn get_neighbours(family: AddressFamily, master: Option<u32>) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    message.attributes = master
        .map(NeighbourAttribute::Controller)
        .into_iter()
        .collect();
    RouteNetlinkMessage::GetNeighbour(message)
}

/// Returns the message that gives a namespace an id (-1: the kernel's choice).
pub(super) fn new_nsid(ns: RawFd, id: i32) -> RouteNetlinkMessage {
    let mut message = NsidMessage::default();
    message.attributes = vec![NsidAttribute::Fd(ns as u32), NsidAttribute::Id(id)];
    RouteNetlinkMessage::NewNsId(message)
}

/// Returns the question for the id of a namespace that is known by an open file, or by an id that
/// it may have.
pub(super) fn get_nsid(of: NsidAttribute) -> RouteNetlinkMessage {
    let mut message = NsidMessage::default();
    message.attributes = vec![of];
    RouteNetlinkMessage::GetNsId(message)
}
