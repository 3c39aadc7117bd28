//! The small values that resources are made of, each checked where it is parsed.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, schema::Type},
};

/// Why a value is not acceptable: a sentence that names the value and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(pub String);

fn invalid(text: String) -> InvalidValue {
    InvalidValue(text)
}

/// Implements serde and OpenAPI for a type that JSON spells as a string, from its `FromStr` and
/// `Display`.
macro_rules! string_value {
    ($type:ident, $pattern:expr, $example:expr, $doc:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl de::Visitor<'_> for Visitor {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a string such as ")?;
                        f.write_str(concat!("\"", $example, "\""))
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Visitor)
            }
        }
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .pattern(Some($pattern))
                    .description(Some($doc))
                    .examples([serde_json::json!($example)])
                    .into()
            }
        }
        impl ToSchema for $type {}
    };
}

/// The name of a resource: 1 to 64 characters of `[A-Za-z0-9._-]`, not starting with `.` or `-`.
///
/// A namespace's name is also a file name in `/run/netns`, so no other character is allowed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name that is still to be chosen: that of a veth pair sent to POST without one.
    pub fn unset() -> Self {
        Self(String::new())
    }

    /// Whether the name is still to be chosen.
    pub fn is_unset(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for Name {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let rule = "a name has 1 to 64 characters of A-Z a-z 0-9 . _ - and starts with none of . -";
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if text.is_empty()
            || text.len() > 64
            || text.starts_with(['.', '-'])
            || !text.chars().all(allowed)
        {
            return Err(invalid(format!("{text:?} is not a valid name: {rule}")));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

string_value!(
    Name,
    "^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$",
    "net0",
    "a resource's name: 1 to 64 characters of A-Z a-z 0-9 . _ -, not starting with . or -"
);

/// The name of a network device, as `dev_valid_name()` of the kernel (`net/core/dev.c`) takes it.
///
/// 1 to 15 bytes (`IFNAMSIZ` less the terminator), none of them `/`, `:`, `%` or white space; not
/// `.` or `..`, and not `lo`, `all` or `default`, which mean something else to the kernel or to its
/// sysctls.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if text.is_empty() || text.len() > 15 {
            return Err(invalid(format!(
                "{text:?} is {} bytes long: an interface name has 1 to 15",
                text.len()
            )));
        }
        // '%' is a template to the kernel (veth%d), so it never names a device.
        if text
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%'))
        {
            return Err(invalid(format!(
                "{text:?} is not a valid interface name: it has a space, a control character or one of / : %"
            )));
        }
        if matches!(text, "lo" | "all" | "default" | "." | "..") {
            return Err(invalid(format!(
                "{text:?} is reserved: choose another interface name"
            )));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

string_value!(
    InterfaceName,
    r"^[^\s/:%]{1,15}$",
    "eth0",
    "a Linux interface name: 1 to 15 bytes, none of / : % or white space; not lo, all, default, . or .."
);

/// Parses an address with its prefix length. An octet with a leading zero is octal to some (RFC
/// 6943, section 3.1.1), and refused.
fn parse_net(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let length: u8 = length
        .parse()
        .ok()
        .filter(|_| length.bytes().all(|byte| byte.is_ascii_digit()))?;
    IpNet::new(address.parse().ok()?, length).ok()
}

/// An address with its prefix length; host bits are kept: `10.0.0.1/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr(pub IpNet);

impl FromStr for Cidr {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if let Some(net) = parse_net(text) {
            return Ok(Self(net));
        }
        Err(invalid(match text.split_once('/') {
            None => match text.parse::<IpAddr>() {
                Ok(address) => {
                    let usual = if address.is_ipv4() { 24 } else { 64 };
                    format!("{text:?} has no prefix length: write it as {text}/{usual}")
                }
                Err(_) => format!(
                    "{text:?} is not an address with its prefix length: write it like 10.0.0.1/24"
                ),
            },
            Some((address, length)) => match address.parse::<IpAddr>() {
                Ok(address) => {
                    let most = if address.is_ipv4() { 32 } else { 128 };
                    format!("{length:?} is not a prefix length of {address}: it is 0 to {most}")
                }
                Err(_) => format!("{address:?} is not an IP address: write it like 10.0.0.1/24"),
            },
        }))
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

/// An IPv4 or IPv6 address without a prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub IpAddr);

impl FromStr for Address {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        text.parse().map(Self).map_err(|_| {
            invalid(format!(
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
    /// Returns true if the address tells a host only together with its link: IPv6, link-local
    /// unicast (RFC 4291) or multicast of interface or link scope.
    pub fn needs_zone(&self) -> bool {
        let multicast = |v6: &Ipv6Addr| v6.is_multicast() && matches!(v6.octets()[1] & 0x0f, 1 | 2);
        is_link_local(self.address) || matches!(&self.address, IpAddr::V6(v6) if multicast(v6))
    }
}

impl FromStr for ZonedAddress {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let (address, zone) = match text.split_once('%') {
            Some((address, zone)) => (address, Some(zone.parse()?)),
            None => (text, None),
        };
        let read = Self {
            address: address.parse::<Address>()?.0,
            zone,
        };
        if read.zone.is_some() && !read.needs_zone() {
            return Err(invalid(format!(
                "{text:?} has a zone, as only a link-local IPv6 address has: write it as {address}"
            )));
        }
        Ok(read)
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

/// Where a route leads to: `default` or a network in CIDR form, without host bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// Every address; the family is that of the gateway (IPv4 where there is none).
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
            return Err(invalid(format!(
                "{text:?} has no prefix length: write it as {text}/{full}, or \"default\""
            )));
        }
        let net = text.parse::<Cidr>().map_err(|_| {
            invalid(format!(
                "{text:?} is not a destination: write \"default\" or a network like 10.2.0.0/16"
            ))
        })?;
        if net.0.trunc() != net.0 {
            return Err(invalid(format!(
                "{text:?} has host bits set: the network is {}",
                net.0.trunc()
            )));
        }
        Ok(Self::Net(net.0))
    }
}

impl Destination {
    /// The network itself; `default` is `0.0.0.0/0` or `::/0`.
    pub fn net(&self, ipv6: bool) -> IpNet {
        match self {
            Self::Net(net) => *net,
            Self::Default if ipv6 => IpNet::from(ipnet::Ipv6Net::default()),
            Self::Default => IpNet::from(ipnet::Ipv4Net::default()),
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

/// An Ethernet address of one device: six bytes, not multicast, not zero (`is_valid_ether_addr()`
/// of `linux/etherdevice.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address that these bytes spell, if they are an Ethernet address at all.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The IPv6 link-local address of a device with this one (`IN6_ADDR_GEN_MODE_EUI64`; RFC 4291,
    /// appendix A).
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
        let wrong = || {
            invalid(format!(
                "{text:?} is not a MAC address: write six bytes like 02:00:00:00:00:01"
            ))
        };
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts
                .next()
                .filter(|part| part.len() == 2 && !part.starts_with('+'))
                .ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        if bytes[0] & 1 == 1 {
            return Err(invalid(format!(
                "{text:?} is a multicast address: the first byte of a device's own MAC is even"
            )));
        }
        if bytes == [0; 6] {
            return Err(invalid(format!(
                "{text:?} is no device's address: leave mac out for an automatic one"
            )));
        }
        Ok(Self(bytes))
    }
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

/// A key of sysctl(8) below `net.`, such as `net.ipv4.ip_forward`.
///
/// As in sysctl(8), dots separate the parts, and a `/` stands for a dot inside one
/// (`net.ipv4.conf.eth0/1.forwarding`); where the first separator is a `/`, the two change places
/// (`net/ipv4/conf/eth0.1/forwarding`). It is kept and answered with dots.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SysctlKey(String);

/// Actions rather than settings: what is written there is not kept, or cannot be taken back
/// (`ipv4_sysctl_rtcache_flush()`, net/ipv4/route.c; `addrconf_sysctl_stable_secret()`,
/// net/ipv6/addrconf.c).
const NOT_RESTORABLE: [&str; 2] = ["flush", "stable_secret"];

impl SysctlKey {
    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parts of the path below `/proc/sys`.
    pub fn parts(&self) -> impl Iterator<Item = String> {
        self.0.split('.').map(|part| part.replace('/', "."))
    }

    /// The interface that the key is of: `net.{ipv4,ipv6}.{conf,neigh}.IFACE.…` and
    /// `net.mpls.conf.IFACE.…`.
    pub fn interface(&self) -> Option<String> {
        self.place()
            .filter(|place| !matches!(place.as_str(), "all" | "default" | "lo"))
    }

    /// The part after `conf` or `neigh`: an interface, `all` or `default`.
    fn place(&self) -> Option<String> {
        let mut parts = self.0.split('.').skip(2);
        let is_by_interface = matches!(parts.next(), Some("conf" | "neigh"));
        parts
            .next()
            .filter(|_| is_by_interface)
            .map(|part| part.replace('/', "."))
    }

    /// Returns true if the key is of this interface, of `all` or of `default`.
    pub fn is_of(&self, place: &str) -> bool {
        self.place().as_deref() == Some(place)
    }

    /// The last part: the name of the setting.
    pub fn setting(&self) -> &str {
        self.0.rsplit('.').next().unwrap_or_default()
    }

    /// Returns true for a key of IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.0.starts_with("net.ipv6.")
    }

    /// The same setting of another interface, of `all` or of `default`; `None` for a key that is
    /// not by interface.
    pub fn at(&self, place: &str) -> Option<Self> {
        self.place()?;
        let parts: Vec<&str> = self.0.split('.').collect();
        let [net, family, kind, _, setting] = parts[..] else {
            return None;
        };
        Some(Self(format!(
            "{net}.{family}.{kind}.{}.{setting}",
            place.replace('.', "/")
        )))
    }
}

impl FromStr for SysctlKey {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let wrong = |why: &str| {
            Err(invalid(format!(
                "{text:?} is not a sysctl of a namespace: {why}"
            )))
        };
        let swap = |c: char| match c {
            '.' => '/',
            '/' => '.',
            other => other,
        };
        let key: String = match text.find(['.', '/']) {
            Some(first) if text[first..].starts_with('/') => text.chars().map(swap).collect(),
            _ => text.to_owned(),
        };
        if !key.starts_with("net.") {
            return wrong("only keys below net. are, such as net.ipv4.ip_forward");
        }
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '@');
        if key.len() > 255 || !key.chars().all(fine) {
            return wrong("a key has at most 255 characters of A-Z a-z 0-9 . _ - / @");
        }
        let key = Self(key);
        if key
            .parts()
            .any(|part| part.is_empty() || part == "." || part == "..")
            || key.parts().count() < 2
        {
            return wrong("none of its parts is empty or ..");
        }
        if NOT_RESTORABLE.contains(&key.setting()) {
            return wrong(
                "what is written there cannot be given back: write it by sysctl(8), inside the namespace",
            );
        }
        let parts: Vec<&str> = key.0.split('.').collect();
        match parts[..] {
            [
                net,
                family,
                kind @ ("conf" | "neigh"),
                ref interface @ ..,
                setting,
            ] if interface.len() != 1 => {
                if interface.is_empty() {
                    return wrong(&format!(
                        "it ends with a setting, as in net.{family}.{kind}.{setting}.KEY"
                    ));
                }
                let right = format!("{net}.{family}.{kind}.{}.{setting}", interface.join("/"));
                wrong(&format!(
                    "a dot inside an interface's name is written as /: {right}"
                ))
            }
            _ => Ok(key),
        }
    }
}

impl fmt::Display for SysctlKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

string_value!(
    SysctlKey,
    r"^net[./][A-Za-z0-9._/@-]+$",
    "net.ipv4.ip_forward",
    "a sysctl key below net."
);

/// Reads the sysctls of a namespace; two spellings of one key are one too many.
pub(crate) fn unique_sysctls<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<SysctlKey, SysctlValue>, D::Error> {
    struct Unique<'s>(&'s BTreeMap<SysctlKey, SysctlValue>);
    impl<'de> de::DeserializeSeed<'de> for Unique<'_> {
        type Value = SysctlKey;
        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<SysctlKey, D::Error> {
            let key = SysctlKey::deserialize(deserializer)?;
            match self.0.contains_key(&key) {
                true => Err(de::Error::custom(format!(
                    "{GIVEN_TWICE}: the sysctl {key}, in two spellings"
                ))),
                false => Ok(key),
            }
        }
    }
    struct Visitor;
    impl<'de> de::Visitor<'de> for Visitor {
        type Value = BTreeMap<SysctlKey, SysctlValue>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of sysctls")
        }
        fn visit_map<M: de::MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
            let mut sysctls = BTreeMap::new();
            while let Some(key) = map.next_key_seed(Unique(&sysctls))? {
                sysctls.insert(key, map.next_value()?);
            }
            Ok(sysctls)
        }
    }
    deserializer.deserialize_map(Visitor)
}

/// The beginning of the message of a mistake that has the code `duplicate`.
pub(crate) const GIVEN_TWICE: &str = "given twice";

/// The value of a sysctl: given as a string or an integer, answered as a string.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct SysctlValue(pub String);

impl<'de> Deserialize<'de> for SysctlValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = SysctlValue;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an integer")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<SysctlValue, E> {
                // The kernel separates the numbers of one value by tabs: white space has one
                // spelling here.
                let words: Vec<&str> = text.split_whitespace().collect();
                let value = words.join(" ");
                if value.is_empty() || value.len() > 1024 || value.chars().any(char::is_control) {
                    return Err(E::custom(format!(
                        "{text:?} is not a sysctl's value: it has 1 to 1024 printable characters"
                    )));
                }
                Ok(SysctlValue(value))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<SysctlValue, E> {
                Ok(SysctlValue(number.to_string()))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<SysctlValue, E> {
                Ok(SysctlValue(number.to_string()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl PartialSchema for SysctlValue {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::SchemaType::from_iter([
                Type::String,
                Type::Integer,
            ]))
            .description(Some(
                "a sysctl's value: a string or an integer; answers give a string",
            ))
            .examples([serde_json::json!("1")])
            .into()
    }
}
impl ToSchema for SysctlValue {}

/// A time in seconds as bridges take it: fractions down to the hundredth, the unit that the kernel
/// counts in (`USER_HZ`, `linux/if_link.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Centiseconds(pub u32);

impl Serialize for Centiseconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(100) {
            serializer.serialize_u32(self.0 / 100)
        } else {
            serializer.serialize_f64(f64::from(self.0) / 100.0)
        }
    }
}

impl<'de> Deserialize<'de> for Centiseconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Centiseconds;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of seconds")
            }
            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<Centiseconds, E> {
                let hundredths = (seconds * 100.0).round();
                if !(0.0..=f64::from(i32::MAX)).contains(&hundredths)
                    || (hundredths - seconds * 100.0).abs() > 1e-6
                {
                    return Err(E::custom(format!(
                        "{seconds} is not a time in seconds of at most two decimals"
                    )));
                }
                Ok(Centiseconds(hundredths as u32))
            }
            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Centiseconds, E> {
                self.visit_f64(seconds as f64)
            }
            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Centiseconds, E> {
                self.visit_f64(seconds as f64)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl PartialSchema for Centiseconds {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Number)
            .minimum(Some(0))
            .description(Some("a time in seconds; fractions down to 0.01"))
            .examples([serde_json::json!(15)])
            .into()
    }
}
impl ToSchema for Centiseconds {}

/// The netnsid that was asked for, as `ip netns set NAME NETNSID|auto` takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NetnsId {
    /// The kernel's choice.
    Auto,
    /// This one.
    Id(u32),
}

impl Serialize for NetnsId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Id(id) => serializer.serialize_u32(*id),
        }
    }
}

impl<'de> Deserialize<'de> for NetnsId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = NetnsId;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer from 0, \"auto\" or null")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<NetnsId, E> {
                if text == "auto" {
                    return Ok(NetnsId::Auto);
                }
                Err(E::invalid_value(de::Unexpected::Str(text), &self))
            }
            fn visit_u64<E: de::Error>(self, id: u64) -> Result<NetnsId, E> {
                match u32::try_from(id) {
                    Ok(id) if id <= i32::MAX as u32 => Ok(NetnsId::Id(id)),
                    _ => Err(E::custom(format!(
                        "{id} is too large for a netnsid: the largest is {}",
                        i32::MAX
                    ))),
                }
            }
            fn visit_i64<E: de::Error>(self, id: i64) -> Result<NetnsId, E> {
                Err(E::custom(format!(
                    "{id} is not a netnsid: it is an integer from 0, \"auto\" or null"
                )))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl PartialSchema for NetnsId {
    fn schema() -> RefOr<Schema> {
        use utoipa::openapi::schema::OneOfBuilder;
        OneOfBuilder::new()
            .item(
                ObjectBuilder::new()
                    .schema_type(Type::Integer)
                    .minimum(Some(0))
                    .maximum(Some(i32::MAX)),
            )
            .item(
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .enum_values(Some(["auto"])),
            )
            .description(Some("a netnsid, or \"auto\" for the kernel's choice"))
            .into()
    }
}
impl ToSchema for NetnsId {}

/// The MTU that the kernel gives to bridges and veths (`ETH_DATA_LEN`, `linux/if_ether.h`).
pub const DEFAULT_MTU: u32 = 1500;

/// The least MTU with which a link carries IPv6 (`IPV6_MIN_MTU`, linux/ipv6.h).
pub const LEAST_IPV6_MTU: u32 = 1280;

/// Whether an address is of `fe80::/10`, which no gateway can be reached by without its interface.
pub fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if Ipv6Addr::is_unicast_link_local(&v6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_belong_to_link_local_addresses() {
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
            let detail = refused::<ZonedAddress>(text);
            assert!(detail.contains(words), "{detail}");
        }
    }

    fn refused<T: FromStr<Err = InvalidValue> + fmt::Debug>(text: &str) -> String {
        text.parse::<T>().expect_err(text).0
    }

    #[test]
    fn names_are_file_names_of_64_characters_at_most() {
        for good in ["a", "net0", "A.b_c-d", "0", &"x".repeat(64)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            ".a",
            "-a",
            "../x",
            "a/b",
            "a b",
            "ü",
            &"x".repeat(65),
        ] {
            refused::<Name>(bad);
        }
    }

    #[test]
    fn interface_names_are_those_of_the_kernel() {
        for good in ["e", "veth0", "eth0.100", "überzwölf", "123456789012345"] {
            good.parse::<InterfaceName>().unwrap();
        }
        for bad in [
            "",
            "1234567890123456",
            "a b",
            "a/b",
            "a:b",
            "veth%d",
            "lo",
            "all",
            "default",
            ".",
            "..",
            "a\tb",
        ] {
            refused::<InterfaceName>(bad);
        }
    }

    #[test]
    fn an_address_without_prefix_is_told_how_to_be_written() {
        assert_eq!(
            refused::<Cidr>("10.1.1.1"),
            "\"10.1.1.1\" has no prefix length: write it as 10.1.1.1/24"
        );
        assert!(refused::<Cidr>("10.0.0.1/33").contains("0 to 32"));
        assert!(refused::<Cidr>("10.0.0/24").contains("not an IP address"));
        assert_eq!(
            "10.0.0.1/24".parse::<Cidr>().unwrap().to_string(),
            "10.0.0.1/24"
        );
    }

    #[test]
    fn a_destination_with_host_bits_is_told_its_network() {
        assert!(refused::<Destination>("10.2.3.4/16").contains("the network is 10.2.0.0/16"));
        assert!(refused::<Destination>("10.2.3.4").contains("10.2.3.4/32"));
    }

    #[test]
    fn macs_are_unicast() {
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
            refused::<Mac>(bad);
        }
    }

    #[test]
    fn sysctls_stay_below_net() {
        for bad in [
            "kernel.hostname",
            "net.",
            "net",
            "net..ipv4",
            "net.ipv4.../x",
            "net.//.x",
            "net.ipv4.ip forward",
        ] {
            refused::<SysctlKey>(bad);
        }
        let key: SysctlKey = "net.ipv4.conf.eth0/1.forwarding".parse().unwrap();
        assert_eq!(key.interface().as_deref(), Some("eth0.1"));
        assert_eq!(
            "net.ipv4.conf.all.forwarding"
                .parse::<SysctlKey>()
                .unwrap()
                .interface(),
            None
        );
        assert_eq!(
            key.at("default").unwrap().as_str(),
            "net.ipv4.conf.default.forwarding"
        );
        assert_eq!(key.at("default").unwrap().at("eth0.1").as_ref(), Some(&key));
    }

    #[test]
    fn sysctl_separators_are_those_of_sysctl() {
        let key = |text: &str| text.parse::<SysctlKey>().unwrap();
        assert_eq!(
            key("net/ipv4/conf/eth0.100/rp_filter"),
            key("net.ipv4.conf.eth0/100.rp_filter")
        );
        assert_eq!(key("net/ipv4/ip_forward").as_str(), "net.ipv4.ip_forward");
        let mistake = refused::<SysctlKey>("net.ipv4.conf.eth0.100.rp_filter");
        assert!(
            mistake.ends_with("is written as /: net.ipv4.conf.eth0/100.rp_filter"),
            "{mistake}"
        );
        for bad in [
            "net.ipv4.conf.eth0",
            "net.ipv4.route.flush",
            "net.ipv6.conf.eth0.stable_secret",
            "/net/ipv4/ip_forward",
        ] {
            refused::<SysctlKey>(bad);
        }
    }
}
