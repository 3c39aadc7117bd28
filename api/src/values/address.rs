//! IP addresses.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use super::{InterfaceName, InvalidValue, string_value::string_value};

/// An IPv4 or IPv6 address without a prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub IpAddr);

impl Address {
    /// Checks that a single host can have the address.
    ///
    /// # Errors
    /// The reason, a sentence.
    pub(crate) fn check_host(self) -> Result<(), String> {
        if self.0.is_unspecified() || self.0.is_multicast() {
            return Err(format!(
                "\"{self}\" is not a host address (it is unspecified or multicast)"
            ));
        }
        Ok(())
    }
}

impl FromStr for Address {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        text.parse().map(Self).map_err(|_| {
            InvalidValue(format!(
                "{text:?} is not an IP address: write it like 10.0.0.1 or 2001:db8::1, without a prefix length"
            ))
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

string_value!(
    Address,
    r"^[0-9A-Fa-f.:]+$",
    "10.0.0.254",
    "an IPv4 or IPv6 address"
);

/// An IPv4 or IPv6 address; a link-local one may be followed by its zone, the interface (RFC 4007,
/// section 11): `fe80::1%eth0`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ZonedAddress {
    /// The address.
    pub address: IpAddr,
    /// The interface on whose link the address is.
    pub zone: Option<InterfaceName>,
}

impl ZonedAddress {
    /// Returns true if the address identifies a host only together with its link: IPv6 link-local
    /// unicast (RFC 4291), or multicast of interface or link scope.
    pub fn needs_zone(&self) -> bool {
        is_link_local(self.address) || is_link_scope_multicast(self.address)
    }
}

/// Returns true for an address of `fe80::/10`, which is no gateway without an interface.
pub fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if Ipv6Addr::is_unicast_link_local(&v6))
}

/// Returns true for an IPv6 multicast address of interface or link scope (RFC 4291, section 2.7).
fn is_link_scope_multicast(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_multicast() && matches!(v6.octets()[1] & 0x0f, 1 | 2))
}

impl FromStr for ZonedAddress {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let (address, zone) = match text.split_once('%') {
            Some((address, zone)) => (address, Some(zone.parse()?)),
            None => (text, None),
        };
        let zoned = Self {
            address: address.parse::<Address>()?.0,
            zone,
        };
        if zoned.zone.is_some() && !zoned.needs_zone() {
            return Err(InvalidValue(format!(
                "{text:?} has a zone, but only a link-local IPv6 address has one: write it as {address}"
            )));
        }
        Ok(zoned)
    }
}

impl fmt::Display for ZonedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.zone {
            Some(zone) => write!(f, "{}%{zone}", self.address),
            None => self.address.fmt(f),
        }
    }
}

string_value!(
    ZonedAddress,
    r"^[0-9A-Fa-f.:]+(%[^\s/:%]{1,15})?$",
    "10.0.0.254",
    "an IPv4 or IPv6 address, a link-local one with its zone: fe80::1%eth0"
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::tests::parse_error;

    #[test]
    fn zone_is_only_for_link_local_addresses() {
        for text in [
            "10.0.0.1",
            "2001:db8::1",
            "fe80::1",
            "fe80::1%eth0",
            "ff02::1%a.b",
        ] {
            assert_eq!(text.parse::<ZonedAddress>().unwrap().to_string(), text);
        }
        for (text, words) in [
            ("10.0.0.1%eth0", "write it as 10.0.0.1"),
            ("2001:db8::1%eth0", "only a link-local IPv6 address"),
            ("ff0e::1%eth0", "only a link-local IPv6 address"),
            ("fe80::1%", "0 bytes long"),
            ("fe80::1%a%b", "not a valid interface name"),
            ("%eth0", "not an IP address"),
            ("fe80::1/64", "without a prefix length"),
        ] {
            let detail = parse_error::<ZonedAddress>(text);
            assert!(detail.contains(words), "{detail}");
        }
    }
}
