//! Addresses: requests of rtnetlink(7).

use rtnetlink::packet_route::{RouteNetlinkMessage, address::AddressMessage};

/// Builds a request for the addresses of one link, or of every link if `index` is `None`.
pub fn get_addresses(index: Option<u32>) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    // The kernel takes 0 for every link.
    message.header.index = index.unwrap_or(0);
    RouteNetlinkMessage::GetAddress(message)
}
