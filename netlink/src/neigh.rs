//! Neighbours, and forwarding tables of bridges: requests and answers of rtnetlink(7).

use std::net::IpAddr;

use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
};

/// Builds a request for every neighbour, of any family.
pub fn get_neighbours() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default())
}

/// Builds a request for every address that is answered for, of any family.
pub fn get_proxy_neighbours() -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.flags = NeighbourFlags::Proxy;
    RouteNetlinkMessage::GetNeighbour(message)
}

/// Builds a request for the forwarding table of a bridge.
pub fn get_fdb(bridge: u32) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.attributes = vec![NeighbourAttribute::Controller(bridge)];
    RouteNetlinkMessage::GetNeighbour(message)
}

/// Builds a request for the forwarding table of a device of its own.
pub fn get_own_fdb(device: u32) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = device;
    RouteNetlinkMessage::GetNeighbour(message)
}

/// Builds the entry by which a vxlan sends flooded frames to an address
/// (`vxlan_fdb_add()`, drivers/net/vxlan/vxlan_core.c): that of MAC address zero.
pub fn flood_entry(device: u32, to: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = device;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    let to = match to {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    };
    message.attributes = vec![
        NeighbourAttribute::LinkLayerAddress(vec![0; 6]),
        NeighbourAttribute::Destination(to),
    ];
    message
}

/// A neighbour, or an entry of a forwarding table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neigh {
    /// Index of its link.
    pub index: u32,
    /// IP address; `None` in the forwarding table of a bridge.
    pub address: Option<IpAddr>,
    /// MAC address.
    pub mac: Option<[u8; 6]>,
    /// State (`NUD_*`, linux/neighbour.h).
    pub state: NeighbourState,
    /// Time since it was last confirmed or learned, in hundredths of a second (`ndm_updated`).
    pub updated: Option<u32>,
    /// True if the address is answered for (`NTF_PROXY`, linux/neighbour.h).
    pub is_proxy: bool,
    /// True if the entry is of a single VLAN.
    pub has_vlan: bool,
}

/// Reads an answer; `None` if it is no neighbour.
pub fn parse_neigh(answer: RouteNetlinkMessage) -> Option<Neigh> {
    let RouteNetlinkMessage::NewNeighbour(message) = answer else {
        return None;
    };
    let mut neigh = Neigh {
        index: message.header.ifindex,
        address: None,
        mac: None,
        state: message.header.state,
        updated: None,
        is_proxy: message.header.flags.contains(NeighbourFlags::Proxy),
        has_vlan: false,
    };
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                neigh.address = Some(IpAddr::V4(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                neigh.address = Some(IpAddr::V6(*v6));
            }
            // In a forwarding table the length tells the family.
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
                let v6 = || <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from);
                neigh.address = v4.or_else(|_| v6()).ok();
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                neigh.mac = bytes.as_slice().try_into().ok();
            }
            NeighbourAttribute::CacheInfo(info) => neigh.updated = Some(info.updated),
            NeighbourAttribute::Vlan(_) => neigh.has_vlan = true,
            _ => {}
        }
    }
    Some(neigh)
}
