//! Policy rules of routing.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

use crate::{
    Code, FieldError, InterfaceName, InvalidValue, Network, PortRange, UidRange,
    string_enum::string_enum,
    values::{string_or_integer, string_value},
};

string_enum! {
    /// Address families.
    pub enum Family as "an address family" {
        /// IPv4.
        #[serde(rename = "ipv4")]
        Ipv4 = "ipv4",
        /// IPv6.
        #[serde(rename = "ipv6")]
        Ipv6 = "ipv6",
    }
}

impl Family {
    /// Returns the family of a network.
    fn of(net: Network) -> Self {
        if net.0.addr().is_ipv6() {
            Self::Ipv6
        } else {
            Self::Ipv4
        }
    }
}

string_enum! {
    /// Actions of rules that look up no table (`FR_ACT_…`, `linux/fib_rules.h`).
    #[serde(rename_all = "lowercase")]
    pub enum RuleAction as "an action of a rule" {
        /// Packets are dropped silently.
        Blackhole = "blackhole",
        /// Packets are dropped with "network unreachable".
        Unreachable = "unreachable",
        /// Packets are dropped with "administratively prohibited".
        Prohibit = "prohibit",
    }
}

/// The name of a device in a rule, which may be `lo`: by `iif lo` a rule is for the packets of
/// this network namespace itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleInterface(String);

impl RuleInterface {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RuleInterface {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if text != "lo" {
            text.parse::<InterfaceName>()?;
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for RuleInterface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

string_value!(
    RuleInterface,
    r"^[^\s/:%]{1,15}$",
    "eth0",
    "a Linux interface name, or lo"
);

/// The protocol inside IP: its number; answered by its name if that is well known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpProtocol(pub u8);

/// Names of protocols, as /etc/protocols has them.
const PROTOCOLS: [(&str, u8); 11] = [
    ("icmp", 1),
    ("igmp", 2),
    ("tcp", 6),
    ("udp", 17),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("ipv6-icmp", 58),
    ("ospf", 89),
    ("sctp", 132),
    ("udplite", 136),
];

impl IpProtocol {
    fn name(self) -> Option<&'static str> {
        let known = PROTOCOLS.iter().find(|(_, number)| *number == self.0);
        known.map(|(name, _)| *name)
    }
}

impl FromStr for IpProtocol {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let known = PROTOCOLS.iter().find(|(name, _)| *name == text);
        let number = known.map(|(_, number)| *number).or(text.parse().ok());
        number
            .filter(|number| *number != 0)
            .map(Self)
            .ok_or_else(|| {
                let names = PROTOCOLS.map(|(name, _)| name).join(", ");
                InvalidValue(format!(
                    "{text:?} is not a protocol: expected a number from 1 to 255, or one of {names}"
                ))
            })
    }
}

impl fmt::Display for IpProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

impl Serialize for IpProtocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.name() {
            Some(name) => serializer.serialize_str(name),
            None => serializer.serialize_u8(self.0),
        }
    }
}

impl<'de> Deserialize<'de> for IpProtocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = IpProtocol;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a protocol such as \"tcp\", or its number")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<IpProtocol, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<IpProtocol, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<IpProtocol, E> {
                self.visit_str(&number.to_string())
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl PartialSchema for IpProtocol {
    fn schema() -> RefOr<Schema> {
        string_or_integer(
            "the protocol inside IP: a name such as \"tcp\", or a number from 1 to 255",
            "tcp",
        )
    }
}

impl ToSchema for IpProtocol {}

/// A policy rule of routing (`ip-rule(8)`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The priority: rules are tried from the lowest number up; 0 is the kernel's own rule for
    /// table `local`, 32766 that for `main`.
    pub priority: u32,
    /// The family; null: that of the addresses, or both if there is none.
    #[serde(default)]
    pub family: Option<Family>,
    /// The source network of a packet.
    #[serde(default)]
    pub from: Option<Network>,
    /// The destination network of a packet.
    #[serde(default)]
    pub to: Option<Network>,
    /// The device by which a packet came in; `lo`: packets of the namespace itself.
    #[serde(default)]
    pub iif: Option<RuleInterface>,
    /// The device that the sending socket is bound to.
    #[serde(default)]
    pub oif: Option<RuleInterface>,
    /// The firewall mark of a packet.
    #[serde(default)]
    pub fwmark: Option<u32>,
    /// The bits of the mark that are compared; null: all of them.
    #[serde(default)]
    pub fwmask: Option<u32>,
    /// The protocol inside IP.
    #[serde(default)]
    pub ipproto: Option<IpProtocol>,
    /// The source port, or a range of them.
    #[serde(default)]
    pub sport: Option<PortRange>,
    /// The destination port, or a range of them.
    #[serde(default)]
    pub dport: Option<PortRange>,
    /// The user id of the sending socket, or a range of them.
    #[serde(default)]
    pub uid_range: Option<UidRange>,
    /// True if the rule is for the packets that do not match.
    #[serde(default)]
    pub not: bool,
    /// The routing table that is looked up; 254 is `main`.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub table: Option<u32>,
    /// The action instead of a table.
    #[serde(default)]
    pub action: Option<RuleAction>,
    /// Routes of the table with at most this prefix length are ignored: 0 ignores its default
    /// route.
    #[serde(default)]
    #[schema(maximum = 128)]
    pub suppress_prefixlength: Option<u8>,
}

impl Rule {
    /// Returns the families that it is made for.
    pub fn families(&self) -> &'static [Family] {
        let of_address = self.from.or(self.to).map(Family::of);
        match self.family.or(of_address) {
            Some(Family::Ipv4) => &[Family::Ipv4],
            Some(Family::Ipv6) => &[Family::Ipv6],
            None => &Family::ALL,
        }
    }

    /// Returns the rules that the kernel has for it, one for each family, with the mask of a mark
    /// and without networks that all addresses are in.
    pub fn per_family(&self) -> impl Iterator<Item = Rule> {
        let is_part = |net: &Network| net.0.prefix_len() > 0;
        self.families().iter().map(move |family| Rule {
            family: Some(*family),
            from: self.from.filter(is_part),
            to: self.to.filter(is_part),
            fwmask: self.fwmark.map(|_| self.fwmask.unwrap_or(u32::MAX)),
            ..self.clone()
        })
    }

    /// Returns its words in ip-rule(8); the family is an option there. The protocol is a number:
    /// ip(8) knows no names where there is no /etc/protocols.
    pub fn ip_words(&self) -> Vec<String> {
        self.words(self.ipproto.map(|protocol| protocol.0.to_string()))
    }

    fn words(&self, protocol: Option<String>) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        if self.not {
            words.push("not".into());
        }
        let mask = self.fwmask.unwrap_or(u32::MAX);
        let options = [
            ("priority", Some(self.priority.to_string())),
            ("from", self.from.map(|net| net.to_string())),
            ("to", self.to.map(|net| net.to_string())),
            ("iif", self.iif.as_ref().map(ToString::to_string)),
            ("oif", self.oif.as_ref().map(ToString::to_string)),
            (
                "fwmark",
                self.fwmark.map(|mark| format!("{mark:#x}/{mask:#x}")),
            ),
            ("ipproto", protocol),
            ("sport", self.sport.map(|ports| ports.to_string())),
            ("dport", self.dport.map(|ports| ports.to_string())),
            (
                "uidrange",
                self.uid_range
                    .map(|uids| format!("{}-{}", uids.first, uids.last)),
            ),
            ("table", self.table.map(|table| table.to_string())),
            (
                "suppress_prefixlength",
                self.suppress_prefixlength.map(|length| length.to_string()),
            ),
        ];
        for (word, value) in options {
            if let Some(value) = value {
                words.extend([word.to_owned(), value]);
            }
        }
        words.extend(self.action.map(|action| action.as_str().to_owned()));
        words
    }

    /// Validates what needs more than one field.
    ///
    /// # Errors
    /// The first field that is wrong, with its pointer from the rule.
    pub(crate) fn check(&self) -> Result<(), FieldError> {
        match (self.table, self.action) {
            (None, None) => {
                return Err(invalid(
                    "table",
                    "a rule needs a table to look up, or an action: blackhole, unreachable or \
                     prohibit",
                ));
            }
            (Some(_), Some(action)) => {
                return Err(invalid(
                    "action",
                    format!("a rule with a table has no action: leave {action} or the table out"),
                ));
            }
            (Some(0), None) => {
                return Err(invalid(
                    "table",
                    "0 is not a routing table: the main table is 254",
                ));
            }
            (Some(_), None) | (None, Some(_)) => {}
        }
        self.check_families()?;
        if self.suppress_prefixlength.is_some() && self.table.is_none() {
            return Err(invalid(
                "suppress_prefixlength",
                "suppress_prefixlength needs a table: it is about the routes that are found there",
            ));
        }
        self.check_mark()
    }

    fn check_families(&self) -> Result<(), FieldError> {
        let mut known = self.family.map(|family| ("family", family));
        for (field, net) in [("from", self.from), ("to", self.to)] {
            let Some(net) = net else { continue };
            let family = Family::of(net);
            match known {
                Some((other, expected)) if expected != family => {
                    return Err(invalid(
                        field,
                        format!(
                            "\"{net}\" is of {family}, and {other} of {expected}: a rule is of one family"
                        ),
                    ));
                }
                Some(_) => {}
                None => known = Some((field, family)),
            }
        }
        let longest = match known {
            Some((_, Family::Ipv6)) => 128,
            Some((_, Family::Ipv4)) | None => 32,
        };
        match self.suppress_prefixlength {
            Some(length) if length > longest => Err(invalid(
                "suppress_prefixlength",
                match known {
                    Some((_, family)) => {
                        format!("{length} is too long for {family}: at most {longest}")
                    }
                    None => format!(
                        "{length} is too long for IPv4: give family \"ipv6\", or at most {longest}"
                    ),
                },
            )),
            Some(_) | None => Ok(()),
        }
    }

    fn check_mark(&self) -> Result<(), FieldError> {
        match (self.fwmark, self.fwmask) {
            (None, Some(_)) => Err(invalid("fwmask", "fwmask needs fwmark: it is its mask")),
            (Some(_), Some(0)) => Err(invalid(
                "fwmask",
                "a mask of 0 compares nothing: leave fwmark and fwmask out",
            )),
            (Some(mark), Some(mask)) if mark & !mask != 0 => Err(invalid(
                "fwmark",
                format!("{mark:#x} has bits outside the mask {mask:#x}: no packet matches"),
            )),
            (Some(_) | None, None) | (Some(_), Some(_)) => Ok(()),
        }
    }
}

impl fmt::Display for Rule {
    /// Writes it in the words of ip-rule(8).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = self.ipproto.map(|protocol| protocol.to_string());
        f.write_str(&self.words(protocol).join(" "))
    }
}

fn invalid(field: &str, detail: impl Into<String>) -> FieldError {
    FieldError::at(Code::InvalidField, &[field], detail)
}
