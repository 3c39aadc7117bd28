//! Neighbours.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Address, Code, FieldError, InterfaceName, Mac};

/// A permanent ARP or NDP entry, or an address that is answered for (`ip-neighbour(8)`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Neighbour {
    /// The neighbour's IP address.
    pub address: Address,
    /// Its MAC address; null for a proxy entry.
    #[serde(default)]
    pub mac: Option<Mac>,
    /// The device on whose link it is.
    pub interface: InterfaceName,
    /// True if requests for the address that come in by the device are answered with the device's
    /// own MAC address (`ip neigh add proxy`).
    #[serde(default)]
    pub proxy: bool,
}

impl Neighbour {
    /// Returns the fields by which the kernel tells two neighbours apart.
    pub fn key(&self) -> (&InterfaceName, Address, bool) {
        (&self.interface, self.address, self.proxy)
    }

    /// Checks that the address is that of a host, and that it has a MAC address or is a proxy.
    pub(crate) fn check(&self) -> Result<(), FieldError> {
        let detail = match (self.mac, self.proxy) {
            (None, false) => Some("a neighbour needs a MAC address, or proxy: true".to_owned()),
            (Some(mac), true) => Some(format!(
                "a proxy entry has no MAC address, the device's own is answered: leave {mac} out"
            )),
            (Some(_), false) | (None, true) => None,
        };
        if let Some(detail) = detail {
            return Err(FieldError::new(Code::InvalidField, "/mac", detail));
        }
        self.address
            .check_host()
            .map_err(|detail| FieldError::new(Code::InvalidField, "/address", detail))
    }
}
