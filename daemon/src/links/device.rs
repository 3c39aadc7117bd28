//! Devices of every type: `IFLA_*` of linux/if_link.h.

use rtnetlink::packet_route::link::LinkAttribute;

use super::attributes::{AttributeValue, link_attributes};
use crate::model::DeviceSpec;

link_attributes! {
    /// Attributes of every device, with the kernel's defaults (`DEFAULT_TX_QUEUE_LEN`,
    /// net/pkt_sched.h, which `alloc_netdev_mqs()`, net/core/dev.c, gives to devices that choose
    /// none).
    DeviceAttrs, DeviceSettings, LinkAttribute, flags ["off", "on"];

    txqueuelen: u32 = 1000, "txqueuelen", LinkAttribute::TxQueueLen,
        LinkAttribute::TxQueueLen(value) => *value;
}

/// Settings of a device; what is `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "named as the API's fields")]
pub struct DeviceSettings {
    pub txqueuelen: Option<u32>,
}

impl DeviceSettings {
    /// Returns the settings that a device is asked to have.
    pub fn of(spec: &DeviceSpec<'_>) -> Self {
        Self {
            txqueuelen: spec.txqueuelen,
        }
    }
}
