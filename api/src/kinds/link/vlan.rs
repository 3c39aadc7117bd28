//! VLAN devices: the frames of one VLAN on another device (IEEE 802.1Q).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Base, LinkTypeFields, Lower};
use crate::{Code, FieldError, VlanProtocol};

/// Highest VLAN id (`VLAN_N_VID - 2`, linux/if_vlan.h).
const MAX_VLAN_ID: u16 = 4094;

/// Fields of a VLAN device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VlanFields {
    /// The device that it is on.
    pub lower: Lower,
    /// Id of the VLAN, 1 to 4094.
    #[schema(minimum = 1, maximum = 4094)]
    pub vlan_id: u16,
    /// Protocol of the tags.
    #[serde(default = "default_protocol")]
    pub protocol: VlanProtocol,
}

const fn default_protocol() -> VlanProtocol {
    VlanProtocol::Ieee8021Q
}

impl LinkTypeFields for VlanFields {
    fn base(&self) -> Base<'_> {
        Base::Lower(&self.lower)
    }

    fn has_own_mac(&self) -> bool {
        false
    }

    fn check(&self) -> Result<(), FieldError> {
        if !(1..=MAX_VLAN_ID).contains(&self.vlan_id) {
            let detail = format!("{} is not a VLAN id: 1 to {MAX_VLAN_ID} are", self.vlan_id);
            return Err(FieldError::at(Code::InvalidField, &["vlan_id"], detail));
        }
        Ok(())
    }
}
