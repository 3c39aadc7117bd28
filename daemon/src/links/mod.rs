//! Attributes of devices, by device type: one table each.
//!
//! A table names every attribute once; desired settings, observed state, differences, netlink
//! attributes and arguments of ip-link(8) follow from it. Never does I/O.

mod attributes;
mod bridge;
mod bridge_port;

pub use self::{
    bridge::{BridgeAttrs, BridgeSettings, bridge_mtu},
    bridge_port::PortAttrs,
};
