//! Addresses with a prefix length.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;

use super::{InvalidValue, string_value::string_value};

/// An address with its prefix length; host bits are kept: `10.0.0.1/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr(pub IpNet);

impl FromStr for Cidr {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        parse_net(text)
            .map(Self)
            .ok_or_else(|| InvalidValue(explain_invalid(text)))
    }
}

/// Parses an address with its prefix length.
///
/// Octets with a leading zero are refused: some parsers take them as octal (RFC 6943, section
/// 3.1.1).
fn parse_net(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    if !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    IpNet::new(address.parse().ok()?, length.parse().ok()?).ok()
}

/// Returns why a text is not an address with its prefix length.
fn explain_invalid(text: &str) -> String {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    match (address.parse::<IpAddr>(), length) {
        (Ok(address), None) => {
            let usual = if address.is_ipv4() { 24 } else { 64 };
            format!("{text:?} has no prefix length: write it as {text}/{usual}")
        }
        (Ok(address), Some(length)) => {
            let max = if address.is_ipv4() { 32 } else { 128 };
            format!("{length:?} is not a prefix length of {address}: 0 to {max}")
        }
        (Err(_), None) => {
            format!("{text:?} is not an address with its prefix length: write it like 10.0.0.1/24")
        }
        (Err(_), Some(_)) => {
            format!("{address:?} is not an IP address: write it like 10.0.0.1/24")
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

string_value!(
    Cidr,
    r"^[0-9A-Fa-f.:]+/[0-9]{1,3}$",
    "10.0.0.1/24",
    "an IPv4 or IPv6 address with its prefix length"
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::tests::parse_error;

    #[test]
    fn address_without_prefix_length_is_explained() {
        assert_eq!(
            parse_error::<Cidr>("10.1.1.1"),
            "\"10.1.1.1\" has no prefix length: write it as 10.1.1.1/24"
        );
        assert!(parse_error::<Cidr>("10.0.0.1/33").contains("0 to 32"));
        assert!(parse_error::<Cidr>("10.0.0/24").contains("not an IP address"));
        assert_eq!(
            "10.0.0.1/24".parse::<Cidr>().unwrap().to_string(),
            "10.0.0.1/24"
        );
    }
}
