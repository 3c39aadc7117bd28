//! Neighbours.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Address, Code, FieldError, InterfaceName, Mac};

/// A permanent ARP or NDP entry (`ip-neighbour(8)`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Neighbour {
    /// The neighbour's IP address.
    pub address: Address,
    /// Its MAC address.
    pub mac: Mac,
    /// The device on whose link it is.
    pub interface: InterfaceName,
}

impl Neighbour {
    /// Returns the fields by which the kernel tells two neighbours apart.
    pub fn key(&self) -> (&InterfaceName, Address) {
        (&self.interface, self.address)
    }

    /// Checks that the address is that of a host.
    pub(crate) fn check(&self) -> Result<(), FieldError> {
        self.address
            .check_host()
            .map_err(|detail| FieldError::new(Code::InvalidField, "/address", detail))
    }
}
