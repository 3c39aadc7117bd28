//! MAC addresses.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use ipnet::Ipv6Net;

use super::{InvalidValue, string_value::string_value};

/// An Ethernet address of one device: six bytes, not multicast, not zero (`is_valid_ether_addr()`
/// of `linux/etherdevice.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Returns the address of these bytes, if there are six.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Returns the IPv6 link-local address of a device with this address
    /// (`IN6_ADDR_GEN_MODE_EUI64`; RFC 4291, appendix A).
    pub fn link_local(self) -> Ipv6Net {
        let [a, b, c, d, e, f] = self.0.map(u16::from);
        let (first, middle) = (a << 8 | b, [c << 8 | 0xff, 0xfe00 | d]);
        let address = Ipv6Addr::new(
            0xfe80,
            0,
            0,
            0,
            first ^ 0x0200,
            middle[0],
            middle[1],
            e << 8 | f,
        );
        Ipv6Net::new_assert(address, 64)
    }
}

impl FromStr for Mac {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let bytes = parse_bytes(text).ok_or_else(|| {
            InvalidValue(format!(
                "{text:?} is not a MAC address: write six bytes like 02:00:00:00:00:01"
            ))
        })?;
        if bytes[0] & 1 == 1 {
            return Err(InvalidValue(format!(
                "{text:?} is a multicast address: the first byte of a unicast MAC address is even"
            )));
        }
        if bytes == [0; 6] {
            return Err(InvalidValue(format!(
                "{text:?} is not the address of a device: leave mac out for an automatic one"
            )));
        }
        Ok(Self(bytes))
    }
}

/// Parses six bytes of two hexadecimal digits each, separated by colons.
pub(super) fn parse_bytes(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next()?;
        // `from_str_radix` would take a sign.
        if part.len() != 2 || part.starts_with('+') {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

string_value!(
    Mac,
    "^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$",
    "02:00:00:00:00:01",
    "a unicast MAC address"
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::tests::parse_error;

    #[test]
    fn mac_is_unicast() {
        assert_eq!(
            "02:0A:00:00:00:01".parse::<Mac>().unwrap().to_string(),
            "02:0a:00:00:00:01"
        );
        for bad in [
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "+2:00:00:00:00:01",
        ] {
            parse_error::<Mac>(bad);
        }
    }
}
