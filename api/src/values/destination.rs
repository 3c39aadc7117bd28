//! Destinations of routes.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Cidr, InvalidValue, string_value::string_value};

/// The destination of a route: `default` or a network in CIDR form, without host bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// All addresses; the family is that of the gateway (IPv4 without one).
    Default,
    /// The addresses of one network.
    Net(IpNet),
}

impl FromStr for Destination {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if text == "default" {
            return Ok(Self::Default);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            let full = if address.is_ipv4() { 32 } else { 128 };
            return Err(InvalidValue(format!(
                "{text:?} has no prefix length: write it as {text}/{full}, or \"default\""
            )));
        }
        let net = text.parse::<Cidr>().map_err(|_| {
            InvalidValue(format!(
                "{text:?} is not a destination: write \"default\" or a network like 10.2.0.0/16"
            ))
        })?;
        if net.0.trunc() != net.0 {
            return Err(InvalidValue(format!(
                "{text:?} has host bits set: the network is {}",
                net.0.trunc()
            )));
        }
        Ok(Self::Net(net.0))
    }
}

impl Destination {
    /// Returns the network; `default` is `0.0.0.0/0` or `::/0`.
    pub fn net(&self, ipv6: bool) -> IpNet {
        match self {
            Self::Net(net) => *net,
            Self::Default if ipv6 => Ipv6Net::default().into(),
            Self::Default => Ipv4Net::default().into(),
        }
    }
}

impl From<IpNet> for Destination {
    fn from(net: IpNet) -> Self {
        if net.prefix_len() == 0 {
            Self::Default
        } else {
            Self::Net(net)
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Net(net) => net.fmt(f),
        }
    }
}

string_value!(
    Destination,
    r"^(default|[0-9A-Fa-f.:]+/[0-9]{1,3})$",
    "default",
    "\"default\" or a network in CIDR form"
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::tests::parse_error;

    #[test]
    fn destination_with_host_bits_is_explained() {
        assert!(parse_error::<Destination>("10.2.3.4/16").contains("the network is 10.2.0.0/16"));
        assert!(parse_error::<Destination>("10.2.3.4").contains("10.2.3.4/32"));
    }
}
