//! IP-based VLANs: devices that share the MAC address of the device that they are on.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Base, LinkTypeFields, Lower};
use crate::string_enum::string_enum;

string_enum! {
    /// Layer at which an ipvlan device takes packets, as in ip-link(8).
    #[derive(Default)]
    #[serde(rename_all = "lowercase")]
    pub enum IpvlanMode as "an ipvlan mode" {
        /// By their frames: the device has neighbours.
        #[default]
        L2 = "l2",
        /// By their addresses: the lower device's namespace routes.
        L3 = "l3",
        /// As `l3`, and through that namespace's firewall.
        L3s = "l3s",
    }
}

/// Fields of an ipvlan device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IpvlanFields {
    /// The device that it is on.
    pub lower: Lower,
    /// Layer at which it takes packets.
    #[serde(default)]
    pub mode: IpvlanMode,
}

impl LinkTypeFields for IpvlanFields {
    const TAKES_MAC: bool = false;

    fn base(&self) -> Base<'_> {
        Base::Lower(&self.lower)
    }

    fn has_own_mac(&self) -> bool {
        false
    }
}
