//! Ports of bridges: `IFLA_BRPORT_*` of linux/if_link.h.

use netnsd_api::Port;
use rtnetlink::packet_route::link::InfoBridgePort;

use super::attributes::{AttributeValue, link_attributes};

link_attributes! {
    /// Attributes of a bridge port, with the kernel's defaults (`new_nbp()`, net/bridge/br_if.c);
    /// the cost is that of 10 Gbit/s, a veth's speed.
    PortAttrs, Port, InfoBridgePort, flags ["off", "on"];

    path_cost: u32 = 2, "cost", InfoBridgePort::Cost, InfoBridgePort::Cost(value) => *value;
    priority: u16 = 32, "priority", InfoBridgePort::Priority,
        InfoBridgePort::Priority(value) => *value;
    hairpin: bool = false, "hairpin", InfoBridgePort::HairpinMode,
        InfoBridgePort::HairpinMode(value) => *value;
    isolated: bool = false, "isolated", InfoBridgePort::Isolated,
        InfoBridgePort::Isolated(value) => *value;
    learning: bool = true, "learning", InfoBridgePort::Learning,
        InfoBridgePort::Learning(value) => *value;
    bpdu_guard: bool = false, "guard", InfoBridgePort::Guard,
        InfoBridgePort::Guard(value) => *value;
    root_block: bool = false, "root_block", InfoBridgePort::Protect,
        InfoBridgePort::Protect(value) => *value;
    mcast_fast_leave: bool = false, "fastleave", InfoBridgePort::FastLeave,
        InfoBridgePort::FastLeave(value) => *value;
}
