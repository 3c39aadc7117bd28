//! Sysctls of namespaces.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, de};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

use super::{
    InvalidValue,
    string_value::{string_or_integer, string_value},
};

/// A key of sysctl(8) below `net.`, such as `net.ipv4.ip_forward`.
///
/// As in sysctl(8), dots separate the parts, and a `/` stands for a dot inside a part
/// (`net.ipv4.conf.eth0/1.forwarding`); if the first separator is a `/`, their roles are swapped
/// (`net/ipv4/conf/eth0.1/forwarding`). It is stored with dots as separators.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SysctlKey(String);

/// Actions rather than settings: a value written there is not kept, or cannot be restored
/// (`ipv4_sysctl_rtcache_flush()`, net/ipv4/route.c; `addrconf_sysctl_stable_secret()`,
/// net/ipv6/addrconf.c).
const NOT_RESTORABLE: [&str; 2] = ["flush", "stable_secret"];

impl SysctlKey {
    /// Returns the key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the components of the path below `/proc/sys`.
    pub fn parts(&self) -> impl Iterator<Item = String> {
        self.0.split('.').map(|part| part.replace('/', "."))
    }

    /// Returns the interface of the key: `net.{ipv4,ipv6}.{conf,neigh}.IFACE.…` and
    /// `net.mpls.conf.IFACE.…`.
    pub fn interface(&self) -> Option<String> {
        self.scope()
            .filter(|scope| !matches!(scope.as_str(), "all" | "default" | "lo"))
    }

    /// Returns the part after `conf` or `neigh`: an interface, `all` or `default`.
    fn scope(&self) -> Option<String> {
        let mut parts = self.0.split('.').skip(2);
        let is_per_interface = matches!(parts.next(), Some("conf" | "neigh"));
        parts
            .next()
            .filter(|_| is_per_interface)
            .map(|part| part.replace('/', "."))
    }

    /// Returns true if the key is one of this interface (or `all`, or `default`).
    pub fn is_of(&self, interface: &str) -> bool {
        self.scope().as_deref() == Some(interface)
    }

    /// Returns the last part, the name of the setting.
    pub fn setting(&self) -> &str {
        self.0.rsplit('.').next().unwrap_or_default()
    }

    /// Returns true for a key below `net.ipv6.`.
    pub fn is_ipv6(&self) -> bool {
        self.0.starts_with("net.ipv6.")
    }

    /// Returns the same setting of another interface (or `all`, or `default`); `None` for a key
    /// that is not per interface.
    pub fn at(&self, interface: &str) -> Option<Self> {
        self.scope()?;
        let parts: Vec<&str> = self.0.split('.').collect();
        let [net, family, kind, _, setting] = parts[..] else {
            return None;
        };
        Some(Self(format!(
            "{net}.{family}.{kind}.{}.{setting}",
            interface.replace('.', "/")
        )))
    }
}

impl FromStr for SysctlKey {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let key = Self(normalize_separators(text));
        key.check().map(|()| key).map_err(|reason| {
            InvalidValue(format!("{text:?} is not a sysctl of a namespace: {reason}"))
        })
    }
}

/// Swaps dots and slashes if the first separator is a slash.
fn normalize_separators(text: &str) -> String {
    match text.find(['.', '/']) {
        Some(first) if text[first..].starts_with('/') => text
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => text.to_owned(),
    }
}

impl SysctlKey {
    /// Validates the key; the error is the reason.
    fn check(&self) -> Result<(), String> {
        if !self.0.starts_with("net.") {
            return Err("it must be below net., such as net.ipv4.ip_forward".into());
        }
        if self.0.len() > 255 || !self.0.chars().all(is_key_char) {
            return Err("a key has at most 255 characters of A-Z a-z 0-9 . _ - / @".into());
        }
        if self.parts().count() < 2
            || self
                .parts()
                .any(|part| part.is_empty() || part == "." || part == "..")
        {
            return Err("no part may be empty, . or ..".into());
        }
        if NOT_RESTORABLE.contains(&self.setting()) {
            return Err("a value written there cannot be restored: write it by sysctl(8), inside the namespace".into());
        }
        self.check_interface()
    }

    /// Checks that a key per interface has its interface in a single part.
    fn check_interface(&self) -> Result<(), String> {
        let parts: Vec<&str> = self.0.split('.').collect();
        match parts[..] {
            [_, family, table @ ("conf" | "neigh"), setting] => Err(format!(
                "it ends with a setting, as in net.{family}.{table}.{setting}.KEY"
            )),
            [
                net,
                family,
                table @ ("conf" | "neigh"),
                ref interface @ ..,
                setting,
            ] if interface.len() > 1 => Err(format!(
                "a dot inside an interface name is written as /: {net}.{family}.{table}.{}.{setting}",
                interface.join("/")
            )),
            _ => Ok(()),
        }
    }
}

fn is_key_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '@')
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

/// Reads the sysctls of a namespace; refuses two spellings of one key.
pub(crate) fn deserialize_sysctls<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<SysctlKey, SysctlValue>, D::Error> {
    struct Unique<'s>(&'s BTreeMap<SysctlKey, SysctlValue>);
    impl<'de> de::DeserializeSeed<'de> for Unique<'_> {
        type Value = SysctlKey;
        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<SysctlKey, D::Error> {
            let key = SysctlKey::deserialize(deserializer)?;
            match self.0.contains_key(&key) {
                true => Err(de::Error::custom(format!(
                    "{DUPLICATE_SYSCTL} {key}, in two spellings"
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

/// The beginning of the message of an error with the code `duplicate`.
pub(crate) const DUPLICATE_SYSCTL: &str = "duplicate sysctl";

/// The value of a sysctl: taken as a string or an integer, answered as a string.
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
                // The kernel separates the numbers of a value by tabs: normalize white space.
                let words: Vec<&str> = text.split_whitespace().collect();
                let value = words.join(" ");
                if value.is_empty() || value.len() > 1024 || value.chars().any(char::is_control) {
                    return Err(E::custom(format!(
                        "{text:?} is not a sysctl value: it has 1 to 1024 printable characters"
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
        string_or_integer(
            "a sysctl's value: a string or an integer; answers give a string",
            "1",
        )
    }
}

impl ToSchema for SysctlValue {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::tests::parse_error;

    #[test]
    fn sysctl_key_is_below_net() {
        for bad in [
            "kernel.hostname",
            "net.",
            "net",
            "net..ipv4",
            "net.ipv4.../x",
            "net.//.x",
            "net.ipv4.ip forward",
        ] {
            parse_error::<SysctlKey>(bad);
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
    fn sysctl_separators_follow_sysctl_8() {
        let key = |text: &str| text.parse::<SysctlKey>().unwrap();
        assert_eq!(
            key("net/ipv4/conf/eth0.100/rp_filter"),
            key("net.ipv4.conf.eth0/100.rp_filter")
        );
        assert_eq!(key("net/ipv4/ip_forward").as_str(), "net.ipv4.ip_forward");
        let mistake = parse_error::<SysctlKey>("net.ipv4.conf.eth0.100.rp_filter");
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
            parse_error::<SysctlKey>(bad);
        }
    }
}
