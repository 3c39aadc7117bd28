//! Names of network devices.

use std::{fmt, str::FromStr};

use super::{InvalidValue, string_value::string_value};

/// Maximum length of an interface name, in bytes (`IFNAMSIZ - 1`, linux/if.h).
const MAX_LEN: usize = 15;

/// The name of a network device, as `dev_valid_name()` of the kernel (`net/core/dev.c`) takes it.
///
/// 1 to 15 bytes (`IFNAMSIZ` less the terminator), none of them `/`, `:`, `%` or white space; not
/// `.` or `..`, and not `lo`, `all` or `default`, which mean something else to the kernel or to its
/// sysctls.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if text.is_empty() || text.len() > MAX_LEN {
            return Err(InvalidValue(format!(
                "{text:?} is {} bytes long: an interface name has 1 to {MAX_LEN}",
                text.len()
            )));
        }
        // The kernel takes '%' as a template (veth%d), so no device has it in its name.
        if text
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%'))
        {
            return Err(InvalidValue(format!(
                "{text:?} is not a valid interface name: it has a space, a control character or one of / : %"
            )));
        }
        if matches!(text, "lo" | "all" | "default" | "." | "..") {
            return Err(InvalidValue(format!(
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::tests::parse_error;

    #[test]
    fn interface_name_follows_kernel_rules() {
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
            parse_error::<InterfaceName>(bad);
        }
    }
}
