//! The values that resources consist of; each is validated when it is parsed.

mod address;
mod alt_name;
mod centiseconds;
mod cidr;
mod destination;
mod group_addr;
mod interface_name;
mod mac;
mod name;
mod netnsid;
mod network;
mod range;
mod string_value;
mod sysctl;
mod vlan_range;

pub(crate) use self::string_value::{string_or_integer, string_value};
pub(crate) use self::sysctl::{DUPLICATE_SYSCTL, deserialize_sysctls};
pub use self::{
    address::{Address, ZonedAddress, is_link_local},
    alt_name::AltName,
    centiseconds::Centiseconds,
    cidr::Cidr,
    destination::Destination,
    group_addr::GroupAddr,
    interface_name::InterfaceName,
    mac::Mac,
    name::Name,
    netnsid::NetnsId,
    network::Network,
    range::{PortRange, UidRange},
    sysctl::{SysctlKey, SysctlValue},
    vlan_range::{MAX_VLAN, VlanRange},
};

/// The reason why a value is not valid: a sentence that names the value and what is expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(pub String);

/// The MTU that the kernel gives to bridges and veths (`ETH_DATA_LEN`, `linux/if_ether.h`).
pub const DEFAULT_MTU: u32 = 1500;

/// Minimum MTU of a link that carries IPv6 (`IPV6_MIN_MTU`, linux/ipv6.h).
pub const MIN_IPV6_MTU: u32 = 1280;

#[cfg(test)]
pub(crate) mod tests {
    use std::{fmt::Debug, str::FromStr};

    use super::InvalidValue;

    /// Returns the message about a text that is not a valid value.
    pub(crate) fn parse_error<T: FromStr<Err = InvalidValue> + Debug>(text: &str) -> String {
        text.parse::<T>().expect_err(text).0
    }
}
