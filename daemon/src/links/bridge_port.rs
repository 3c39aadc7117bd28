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
    flood: bool = true, "flood", InfoBridgePort::UnicastFlood,
        InfoBridgePort::UnicastFlood(value) => *value;
    mcast_flood: bool = true, "mcast_flood", InfoBridgePort::MulticastFlood,
        InfoBridgePort::MulticastFlood(value) => *value;
    bcast_flood: bool = true, "bcast_flood", InfoBridgePort::BroadcastFlood,
        InfoBridgePort::BroadcastFlood(value) => *value;
    mcast_to_unicast: bool = false, "mcast_to_unicast", InfoBridgePort::MulticastToUnicast,
        InfoBridgePort::MulticastToUnicast(value) => *value;
    neigh_suppress: bool = false, "neigh_suppress", InfoBridgePort::NeighSupress,
        InfoBridgePort::NeighSupress(value) => *value;
    proxy_arp: bool = false, "proxy_arp", InfoBridgePort::ProxyARP,
        InfoBridgePort::ProxyARP(value) => *value;
    mcast_router: u8 = 1, "mcast_router", |router: u8| InfoBridgePort::MulticastRouter(router.into()),
        InfoBridgePort::MulticastRouter(value) => (*value).into();
}
