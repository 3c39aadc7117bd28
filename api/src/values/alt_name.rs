//! Alternative names of network devices.

use std::{fmt, str::FromStr};

use super::{InvalidValue, string_value::string_value};

/// Maximum length of an alternative name, in bytes (`ALTIFNAMSIZ - 1`, linux/if.h).
const MAX_LEN: usize = 127;

/// Alternative name of a network device (`altname` of ip-link(8)): 1 to 127 bytes, none of them
/// `/`, `:`, `%` or white space. The kernel takes any character; these are the rules of an
/// interface name, so that either can stand for the other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AltName(String);

impl AltName {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AltName {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if text.is_empty() || text.len() > MAX_LEN {
            return Err(InvalidValue(format!(
                "{text:?} is {} bytes long: an alternative name has 1 to {MAX_LEN}",
                text.len()
            )));
        }
        let is_bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%');
        if text.contains(is_bad) {
            return Err(InvalidValue(format!(
                "{text:?} is not a valid alternative name: it has a space, a control character or \
                 one of / : %"
            )));
        }
        if matches!(text, "lo" | "all" | "default" | "." | "..") {
            return Err(InvalidValue(format!(
                "{text:?} is reserved: choose another alternative name"
            )));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for AltName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

string_value!(
    AltName,
    r"^[^\s/:%]{1,127}$",
    "uplink-to-rack-7",
    "an alternative name: 1 to 127 bytes, none of / : % or white space"
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::tests::parse_error;

    #[test]
    fn alternative_name_is_longer_than_an_interface_name() {
        "x".repeat(127).parse::<AltName>().unwrap();
        for bad in [
            "",
            &"x".repeat(128),
            "a b",
            "netnsd:bridge:br0:u",
            "lo",
            "a/b",
        ] {
            parse_error::<AltName>(bad);
        }
    }
}
