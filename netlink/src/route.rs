//! Routes: requests of rtnetlink(7), and routes that are created again.

use std::net::IpAddr;

use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHopFlags,
        RouteProtocol,
    },
};

/// Builds a request for the routes of a family, all or those of a protocol.
pub fn get_routes(ipv6: bool, protocol: Option<u8>) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = if ipv6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    };
    // The kernel takes 0 for all.
    message.header.protocol = RouteProtocol::from(protocol.unwrap_or(0));
    RouteNetlinkMessage::GetRoute(message)
}

/// Builds a request for the route that packets to an address take.
pub fn get_route_to(address: IpAddr) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    (
        message.header.address_family,
        message.header.destination_prefix_length,
    ) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    let address = RouteAttribute::Destination(RouteAddress::from(address));
    message.attributes.push(address);
    RouteNetlinkMessage::GetRoute(message)
}

/// Returns the index of the device by which a route of an answer leaves, and its MTU if it has one
/// of its own.
pub fn route_device(answer: &RouteNetlinkMessage) -> Option<(u32, Option<u32>)> {
    let RouteNetlinkMessage::NewRoute(route) = answer else {
        return None;
    };
    let (mut device, mut mtu) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some((device?, mtu))
}

/// Builds a request that creates a route as it was observed, without what the kernel reports and
/// does not accept.
pub fn recreate_route(mut observed: RouteMessage) -> RouteNetlinkMessage {
    observed.header.flags &= RouteFlags::Onlink;
    let has_nexthop_object = observed
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, RouteAttribute::NhId(_)));
    observed.attributes.retain_mut(|attribute| match attribute {
        RouteAttribute::CacheInfo(_) => false,
        // They repeat the nexthop object (`rtm_to_fib_config()`, net/ipv4/fib_frontend.c).
        RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::Oif(_) => {
            !has_nexthop_object
        }
        RouteAttribute::MultiPath(hops) => {
            hops.iter_mut()
                .for_each(|hop| hop.flags &= RouteNextHopFlags::Onlink);
            !has_nexthop_object
        }
        _ => true,
    });
    RouteNetlinkMessage::NewRoute(observed)
}

/// Returns true if a route, of this table if one is given, prefers one of these addresses as source,
/// and the kernel did not create it with an address.
pub fn prefers_source(message: &RouteMessage, table: Option<u32>, sources: &[IpAddr]) -> bool {
    let (mut route_table, mut source) = (u32::from(message.header.table), None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(table) => route_table = *table,
            RouteAttribute::PrefSource(address) => source = ip_addr(address),
            _ => {}
        }
    }
    message.header.protocol != RouteProtocol::Kernel
        && table.is_none_or(|table| table == route_table)
        && source.is_some_and(|source| sources.contains(&source))
}

/// Returns an address of a route, if it is one of IP.
pub fn ip_addr(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
