//! MAC-based VLANs: devices with a MAC address of their own on another device.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Base, LinkTypeFields, Lower};
use crate::string_enum::string_enum;

string_enum! {
    /// Traffic between the macvlan devices of one lower device, as in ip-link(8).
    #[derive(Default)]
    #[serde(rename_all = "lowercase")]
    pub enum MacvlanMode as "a macvlan mode" {
        /// They reach each other directly.
        #[default]
        Bridge = "bridge",
        /// They do not reach each other.
        Private = "private",
        /// They reach each other by a switch outside that sends frames back.
        Vepa = "vepa",
        /// There is one device, which takes over the lower device's MAC address.
        Passthru = "passthru",
    }
}

/// Fields of a macvlan device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MacvlanFields {
    /// The device that it is on.
    pub lower: Lower,
    /// Traffic to its siblings.
    #[serde(default)]
    pub mode: MacvlanMode,
}

impl LinkTypeFields for MacvlanFields {
    fn base(&self) -> Base<'_> {
        Base::Lower(&self.lower)
    }

    fn has_own_mac(&self) -> bool {
        self.mode != MacvlanMode::Passthru
    }
}
