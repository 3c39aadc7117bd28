//! Device types: a driver for each, and tables of their attributes.
//!
//! A table names every attribute once; desired settings, observed state, differences, netlink
//! attributes and arguments of ip-link(8) follow from it. Never does I/O.

mod attributes;
mod bridge;
mod bridge_port;
mod device;
mod driver;
mod dummy;
#[cfg(any(test, feature = "test-support"))]
mod example;
mod ipvlan;
mod macvlan;
mod port_vlans;
mod veth;
mod vlan;
mod vxlan;

#[cfg(any(test, feature = "test-support"))]
pub use self::example::example_fields;
pub use self::{
    bridge::{BridgeAttrs, BridgeSettings, bridge_mtu},
    bridge_port::PortAttrs,
    device::{DeviceAttribute, DeviceAttrs, DeviceSettings},
    driver::{DeviceType, LinkDriver, LinkSettings, NoSettings, SettingsChange},
    port_vlans::{PortVlans, VlanChange, VlanFlags, has_vlans},
};
