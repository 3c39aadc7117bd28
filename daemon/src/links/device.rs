//! Devices of every type: `IFLA_*` of linux/if_link.h and flags of linux/if.h.

use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

use super::attributes::{AttributeValue, link_attributes};
use crate::model::DeviceSpec;

/// Types whose devices do no ARP from their creation (`IFF_NOARP`; `dummy_setup()`,
/// drivers/net/dummy.c, and its siblings).
const TYPES_WITHOUT_ARP: [&str; 4] = ["dummy", "tun", "vrf", "wireguard"];

/// Setting of every device in a link message: an attribute, or a flag of its header.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as the API's fields")]
pub enum DeviceAttribute {
    TxQueueLen(u32),
    Alias(String),
    Promiscuous(bool),
    Allmulticast(bool),
    Arp(bool),
}

impl DeviceAttribute {
    /// Returns the setting that an attribute has, if any.
    pub fn of(attribute: &LinkAttribute) -> Option<Self> {
        match attribute {
            LinkAttribute::TxQueueLen(length) => Some(Self::TxQueueLen(*length)),
            LinkAttribute::IfAlias(alias) => Some(Self::Alias(alias.clone())),
            _ => None,
        }
    }

    /// Returns the settings that flags have. Promiscuous mode is shown as it was asked for: packet
    /// sockets and bridges are counted apart (`dev_get_flags()`, net/core/dev.c).
    pub fn of_flags(flags: LinkFlags) -> [Self; 3] {
        [
            Self::Promiscuous(flags.contains(LinkFlags::Promisc)),
            Self::Allmulticast(flags.contains(LinkFlags::Allmulti)),
            Self::Arp(!flags.contains(LinkFlags::Noarp)),
        ]
    }

    /// Adds the setting to a request.
    pub fn add_to(self, message: &mut LinkMessage) {
        let (flag, on) = match self {
            Self::TxQueueLen(length) => {
                return message.attributes.push(LinkAttribute::TxQueueLen(length));
            }
            Self::Alias(alias) => return message.attributes.push(LinkAttribute::IfAlias(alias)),
            Self::Promiscuous(on) => (LinkFlags::Promisc, on),
            Self::Allmulticast(on) => (LinkFlags::Allmulti, on),
            Self::Arp(on) => (LinkFlags::Noarp, !on),
        };
        message.header.flags.set(flag, on);
        message.header.change_mask |= flag;
    }
}

link_attributes! {
    /// Attributes of every device, with the kernel's defaults (`DEFAULT_TX_QUEUE_LEN`,
    /// net/pkt_sched.h, which `alloc_netdev_mqs()`, net/core/dev.c, gives to devices that choose
    /// none).
    DeviceAttrs, DeviceSettings, DeviceAttribute, flags ["off", "on"];

    txqueuelen: u32 = 1000, "txqueuelen", DeviceAttribute::TxQueueLen,
        DeviceAttribute::TxQueueLen(value) => *value;
    alias: String = String::new(), "alias", DeviceAttribute::Alias,
        DeviceAttribute::Alias(value) => value.clone();
    promiscuous: bool = false, "promisc", DeviceAttribute::Promiscuous,
        DeviceAttribute::Promiscuous(value) => *value;
    allmulticast: bool = false, "allmulticast", DeviceAttribute::Allmulticast,
        DeviceAttribute::Allmulticast(value) => *value;
    arp: bool = true, "arp", DeviceAttribute::Arp, DeviceAttribute::Arp(value) => *value;
}

impl DeviceAttrs {
    /// Returns the attributes of a new device of a type.
    pub fn of_new(kind: &str) -> Self {
        Self {
            arp: !TYPES_WITHOUT_ARP.contains(&kind),
            ..Self::default()
        }
    }
}

/// Settings of a device; what is `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "named as the API's fields")]
pub struct DeviceSettings {
    pub txqueuelen: Option<u32>,
    pub alias: Option<String>,
    pub promiscuous: Option<bool>,
    pub allmulticast: Option<bool>,
    pub arp: Option<bool>,
}

impl DeviceSettings {
    /// Returns the settings that a device is asked to have. Flags count as asked for if they differ
    /// from the kernel's.
    pub fn of(spec: &DeviceSpec<'_>) -> Self {
        Self {
            txqueuelen: spec.txqueuelen,
            alias: spec.alias.map(str::to_owned),
            promiscuous: spec.promiscuous.then_some(true),
            allmulticast: spec.allmulticast.then_some(true),
            arp: (!spec.arp).then_some(false),
        }
    }

    /// Leaves out ARP that a device of this type has never done.
    pub fn for_type(self, kind: Option<&str>) -> Self {
        let is_without = kind.is_some_and(|kind| TYPES_WITHOUT_ARP.contains(&kind));
        Self {
            arp: self.arp.filter(|on| !(*on && is_without)),
            ..self
        }
    }
}
