//! Networks.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;

use super::{Cidr, InvalidValue, string_value::string_value};

/// A network in CIDR form, without host bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network(pub IpNet);

impl FromStr for Network {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if let Ok(address) = text.parse::<IpAddr>() {
            let full = if address.is_ipv4() { 32 } else { 128 };
            return Err(InvalidValue(format!(
                "{text:?} has no prefix length: write it as {text}/{full}"
            )));
        }
        let net = text.parse::<Cidr>().map_err(|_| {
            InvalidValue(format!(
                "{text:?} is not a network: write one like 10.2.0.0/16 or fd00:2::/64"
            ))
        })?;
        if net.0.trunc() != net.0 {
            return Err(InvalidValue(format!(
                "{text:?} has host bits set: the network is {}",
                net.0.trunc()
            )));
        }
        Ok(Self(net.0))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

string_value!(
    Network,
    r"^[0-9A-Fa-f.:]+/[0-9]{1,3}$",
    "10.2.0.0/16",
    "a network in CIDR form"
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::tests::parse_error;

    #[test]
    fn network_with_host_bits_is_explained() {
        assert!(parse_error::<Network>("10.2.3.4/16").contains("the network is 10.2.0.0/16"));
        assert!(parse_error::<Network>("fd00::1").contains("fd00::1/128"));
        assert!(parse_error::<Network>("all").contains("fd00:2::/64"));
    }
}
