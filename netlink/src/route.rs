//! Routes: requests of rtnetlink(7), and routes that are created again.

use std::net::IpAddr;

use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHopFlags, RouteProtocol,
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
