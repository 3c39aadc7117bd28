//! Addresses that bridges use for STP.

use std::{fmt, str::FromStr};

use super::{InvalidValue, mac::parse_bytes, string_value::string_value};

/// First five bytes of the link-local multicast addresses (IEEE 802.1D, table 7-10).
const PREFIX: [u8; 5] = [0x01, 0x80, 0xc2, 0x00, 0x00];

/// Link-local multicast address of a bridge's STP frames: `01:80:c2:00:00:00`, or one that ends in
/// 04 to 0f (`br_changelink()`, net/bridge/br_netlink.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupAddr(u8);

impl GroupAddr {
    /// Address of bridges (IEEE 802.1D).
    pub const BRIDGES: Self = Self(0);
    /// Address of provider bridges (IEEE 802.1ad).
    pub const PROVIDER_BRIDGES: Self = Self(8);

    /// Returns the address of these bytes, if it is one for STP frames.
    pub fn from_bytes(bytes: [u8; 6]) -> Option<Self> {
        let [prefix @ .., last] = bytes;
        (prefix == PREFIX && matches!(last, 0 | 4..=15)).then_some(Self(last))
    }

    /// Returns the bytes of the address.
    pub const fn bytes(self) -> [u8; 6] {
        let [a, b, c, d, e] = PREFIX;
        [a, b, c, d, e, self.0]
    }
}

impl FromStr for GroupAddr {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        parse_bytes(text).and_then(Self::from_bytes).ok_or_else(|| {
            InvalidValue(format!(
                "{text:?} is not a group address of a bridge: 01:80:c2:00:00:00, or 04 to 0f \
                     as the last byte"
            ))
        })
    }
}

impl fmt::Display for GroupAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "01:80:c2:00:00:{:02x}", self.0)
    }
}

string_value!(
    GroupAddr,
    "^01:80:[cC]2:00:00:0[04-9A-Fa-f]$",
    "01:80:c2:00:00:00",
    "a link-local multicast address for STP frames"
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::tests::parse_error;

    #[test]
    fn group_address_is_one_for_stp() {
        let address: GroupAddr = "01:80:C2:00:00:0e".parse().unwrap();
        assert_eq!(address.to_string(), "01:80:c2:00:00:0e");
        assert_eq!(GroupAddr::from_bytes(address.bytes()), Some(address));
        for bad in [
            "01:80:c2:00:00:01",
            "01:80:c2:00:00:10",
            "01:80:c2:00:01:00",
            "",
        ] {
            assert!(
                parse_error::<GroupAddr>(bad).contains("01:80:c2:00:00:00"),
                "{bad}"
            );
        }
    }
}
