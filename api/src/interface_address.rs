//! Addresses of devices, with what ip-address(8) can say of them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, value::MapAccessDeserializer},
};
use utoipa::ToSchema;

use crate::{Address, Cidr, Code, FieldError};

/// Maximum length of a label, in bytes (`IFNAMSIZ` without the NUL, linux/if.h).
const MAX_LABEL: usize = 15;

/// An address of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum InterfaceAddress {
    /// An address with its prefix length.
    Plain(Cidr),
    /// An address with more than that.
    Detailed(Box<DetailedAddress>),
}

/// An address with settings of ip-address(8).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DetailedAddress {
    /// The address with its prefix length.
    pub address: Cidr,
    /// Address of the other end of a point-to-point link, with the prefix length that the kernel
    /// keeps. That of `address` is the same, or of one host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<Cidr>,
    /// Broadcast address; only in IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broadcast: Option<Address>,
    /// Metric of the route to the address's network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub metric: Option<u32>,
    /// Label, which begins with the name of the device; only in IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

impl InterfaceAddress {
    /// Returns the address with its prefix length; with a peer that is the peer's.
    pub fn net(&self) -> IpNet {
        let Cidr(net) = self.cidr();
        self.peer()
            .and_then(|Cidr(peer)| IpNet::new(net.addr(), peer.prefix_len()).ok())
            .unwrap_or(net)
    }

    /// Returns the address.
    pub fn ip(&self) -> IpAddr {
        self.cidr().0.addr()
    }

    /// Returns the address as it is written, with its prefix length.
    pub fn cidr(&self) -> Cidr {
        match self {
            Self::Plain(cidr) => *cidr,
            Self::Detailed(details) => details.address,
        }
    }

    /// Returns what it has beside address and prefix length.
    pub fn details(&self) -> Option<&DetailedAddress> {
        match self {
            Self::Plain(_) => None,
            Self::Detailed(details) => Some(details),
        }
    }

    /// Returns the address of the other end, with its prefix length.
    pub fn peer(&self) -> Option<Cidr> {
        self.details()?.peer
    }

    /// Returns the broadcast address.
    pub fn broadcast(&self) -> Option<Ipv4Addr> {
        match self.details()?.broadcast?.0 {
            IpAddr::V4(broadcast) => Some(broadcast),
            IpAddr::V6(_) => None,
        }
    }

    /// Returns the metric of the route to its network.
    pub fn metric(&self) -> Option<u32> {
        self.details()?.metric
    }

    /// Returns the label.
    pub fn label(&self) -> Option<&str> {
        self.details()?.label.as_deref()
    }

    /// Returns what identifies it in a list: the kernel refuses a second one with the same
    /// (`find_matching_ifa()`, net/ipv4/devinet.c).
    pub(crate) fn key(&self) -> (IpAddr, IpNet) {
        let network = match (self.peer(), self.net()) {
            (Some(Cidr(peer)), IpNet::V4(_)) => peer.trunc(),
            (_, net) => net.trunc(),
        };
        (self.ip(), network)
    }

    /// Validates the address of a device with this name, which is empty if netnsd chooses it.
    pub(crate) fn check(&self, device: &str) -> Result<(), FieldError> {
        let cidr = self.cidr();
        if !is_host(self.ip()) {
            let pointer = if self.details().is_some() {
                "/address"
            } else {
                ""
            };
            return Err(invalid(
                pointer,
                format!(
                    "\"{cidr}\" is not a host address (it is unspecified, multicast or broadcast)"
                ),
            ));
        }
        self.details()
            .map_or(Ok(()), |details| details.check(device))
    }
}

impl DetailedAddress {
    fn check(&self, device: &str) -> Result<(), FieldError> {
        if let Some(peer) = self.peer {
            self.check_peer(peer)?;
        }
        if let Some(broadcast) = self.broadcast
            && (self.is_ipv6() || broadcast.0.is_ipv6())
        {
            let reason = "only IPv4 addresses have a broadcast address, which is an IPv4 one";
            return Err(invalid("/broadcast", format!("\"{broadcast}\": {reason}")));
        }
        if self.metric == Some(0) {
            let detail = "0 is not a metric of an address: 1 to 4294967295, or leave it out";
            return Err(invalid("/metric", detail.to_owned()));
        }
        match &self.label {
            Some(label) => self.check_label(label, device),
            None => Ok(()),
        }
    }

    fn is_ipv6(&self) -> bool {
        self.address.0.addr().is_ipv6()
    }

    fn check_peer(&self, peer: Cidr) -> Result<(), FieldError> {
        let (own, other) = (self.address.0, peer.0);
        if other.addr().is_ipv6() != self.is_ipv6() {
            let detail = format!(
                "\"{peer}\" is not of the family of {own}: give an IPv{} address",
                if self.is_ipv6() { 6 } else { 4 }
            );
            return Err(invalid("/peer", detail));
        }
        if !is_host(other.addr()) || other.addr() == own.addr() {
            let detail =
                format!("\"{peer}\" is not the address of another host: give that of the peer");
            return Err(invalid("/peer", detail));
        }
        let length = own.prefix_len();
        if length != other.prefix_len() && length != own.max_prefix_len() {
            let detail = format!(
                "{own} has a peer in /{}, and the kernel keeps the prefix length of the peer only: write {}/{0} or {1}/{2}",
                other.prefix_len(),
                own.addr(),
                own.max_prefix_len()
            );
            return Err(invalid("/address", detail));
        }
        Ok(())
    }

    fn check_label(&self, label: &str, device: &str) -> Result<(), FieldError> {
        if self.is_ipv6() {
            let detail = format!("{label:?}: only IPv4 addresses have labels: leave it out");
            return Err(invalid("/label", detail));
        }
        // ip-address(8) refuses others.
        if device.is_empty() || !label.starts_with(device) {
            let begin = match device {
                "" => "the name of its interface, so give that too".to_owned(),
                device => format!("the name of its interface: {device}:1"),
            };
            return Err(invalid(
                "/label",
                format!("{label:?} is not a label of the address: it begins with {begin}"),
            ));
        }
        let is_printable = |c: char| c.is_ascii_graphic();
        if label.len() > MAX_LABEL || !label.chars().all(is_printable) {
            let detail = format!(
                "{label:?} is not a label: it has at most {MAX_LABEL} bytes, printable and without spaces"
            );
            return Err(invalid("/label", detail));
        }
        Ok(())
    }
}

fn invalid(pointer: &str, detail: String) -> FieldError {
    FieldError::new(Code::InvalidField, pointer, detail)
}

/// Returns true for an address that one host can have.
fn is_host(address: IpAddr) -> bool {
    let is_broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_multicast() || address.is_unspecified() || is_broadcast)
}

impl<'de> Deserialize<'de> for InterfaceAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = InterfaceAddress;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string such as \"10.0.0.1/24\", or an object with it as `address`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<InterfaceAddress, E> {
                text.parse().map(InterfaceAddress::Plain).map_err(E::custom)
            }

            fn visit_map<A: de::MapAccess<'de>>(
                self,
                map: A,
            ) -> Result<InterfaceAddress, A::Error> {
                let details = DetailedAddress::deserialize(MapAccessDeserializer::new(map))?;
                Ok(details.into())
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl From<DetailedAddress> for InterfaceAddress {
    /// Makes a plain one of an address without settings.
    fn from(details: DetailedAddress) -> Self {
        match details {
            DetailedAddress {
                address,
                peer: None,
                broadcast: None,
                metric: None,
                label: None,
            } => Self::Plain(address),
            details => Self::Detailed(Box::new(details)),
        }
    }
}

impl From<Cidr> for InterfaceAddress {
    fn from(cidr: Cidr) -> Self {
        Self::Plain(cidr)
    }
}

impl fmt::Display for InterfaceAddress {
    /// Writes it as ip-address(8) does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer() {
            Some(peer) => write!(f, "{} peer {peer}", self.ip()),
            None => self.cidr().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{Bridge, Resource, parse};

    fn check(addresses: Value) -> Result<Bridge, FieldError> {
        let bridge: Bridge =
            parse(&json!({"name": "b", "interface": "br0", "addresses": addresses}))?;
        bridge.check().map(|()| bridge)
    }

    #[test]
    fn address_keeps_its_form() {
        let detailed = json!({"address": "10.0.0.1/32", "peer": "10.0.0.2/24", "metric": 7,
            "broadcast": "10.0.0.255", "label": "br0:x"});
        let bridge =
            check(json!(["10.0.0.9/24", {"address": "10.0.0.8/24", "peer": null}, detailed]));
        let addresses = bridge.unwrap().addresses;
        assert_eq!(
            serde_json::to_value(&addresses).unwrap(),
            json!(["10.0.0.9/24", "10.0.0.8/24", detailed])
        );
        assert_eq!(addresses[2].to_string(), "10.0.0.1 peer 10.0.0.2/24");
        assert_eq!(addresses[2].net().to_string(), "10.0.0.1/24");
    }

    #[test]
    fn invalid_address_has_its_pointer_and_reason() {
        let address = |fields: Value| {
            let mut entry = json!({"address": "10.0.0.1/24"});
            for (key, value) in fields.as_object().unwrap() {
                entry[key] = value.clone();
            }
            entry
        };
        let v6 = |field: &str, value: Value| json!({"address": "fd00::1/64", field: value});
        for (entry, pointer, words) in [
            (json!(7), "", "or an object"),
            (json!("10.0.0.1"), "", "no prefix length"),
            (json!("0.0.0.0/0"), "", "not a host address"),
            (json!({}), "/address", "address"),
            (address(json!({"x": 1})), "/x", "x"),
            (
                address(json!({"address": "224.0.0.1/8", "metric": 1})),
                "/address",
                "not a host address",
            ),
            (
                address(json!({"peer": "10.0.0.2"})),
                "/peer",
                "no prefix length",
            ),
            (
                address(json!({"peer": "fd00::2/64"})),
                "/peer",
                "IPv4 address",
            ),
            (
                address(json!({"peer": "10.0.0.1/24"})),
                "/peer",
                "another host",
            ),
            (
                address(json!({"peer": "10.0.0.2/30"})),
                "/address",
                "10.0.0.1/30 or 10.0.0.1/32",
            ),
            (
                address(json!({"broadcast": "fd00::1"})),
                "/broadcast",
                "only IPv4",
            ),
            (address(json!({"metric": 0})), "/metric", "1 to 4294967295"),
            (address(json!({"metric": -1})), "/metric", "-1"),
            (address(json!({"label": "x"})), "/label", "begins with"),
            (
                address(json!({"label": "br0:0123456789abc"})),
                "/label",
                "at most 15",
            ),
            (
                v6("broadcast", json!("10.0.0.255")),
                "/broadcast",
                "only IPv4",
            ),
            (v6("label", json!("br0:1")), "/label", "only IPv4"),
        ] {
            let error = check(json!(["10.9.0.1/24", entry])).unwrap_err();
            assert_eq!(error.pointer, format!("/addresses/1{pointer}"), "{entry}");
            assert!(error.detail.contains(words), "{}", error.detail);
        }
    }

    #[test]
    fn duplicate_address_is_refused_by_its_network() {
        let with_peer = |peer| json!({"address": "10.0.0.1/32", "peer": peer});
        check(json!([with_peer("10.0.0.2/32"), with_peer("10.0.0.3/32")])).unwrap();
        let error = check(json!([with_peer("10.0.0.2/24"), with_peer("10.0.0.3/24")])).unwrap_err();
        assert_eq!(
            (error.code, &*error.pointer),
            (Code::Duplicate, "/addresses/1")
        );
    }
}
