//! Names of resources.

use std::{fmt, str::FromStr};

use super::{InvalidValue, string_value::string_value};

/// Maximum length of a name, in bytes.
const MAX_LEN: usize = 64;

/// The name of a resource: 1 to 64 characters of `[A-Za-z0-9._-]`, not starting with `.` or `-`.
///
/// A namespace's name is also a file name in `/run/netns`, so no other character is allowed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name of a veth pair that was sent without one, until netnsd chooses it.
    pub fn unset() -> Self {
        Self(String::new())
    }

    /// Returns true if the name is still to be chosen.
    pub fn is_unset(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for Name {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let is_valid = (1..=MAX_LEN).contains(&text.len())
            && !text.starts_with(['.', '-'])
            && text.chars().all(is_name_char);
        if !is_valid {
            return Err(InvalidValue(format!(
                "{text:?} is not a valid name: a name has 1 to {MAX_LEN} characters of A-Z a-z 0-9 . _ - and does not start with . or -"
            )));
        }
        Ok(Self(text.to_owned()))
    }
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::tests::parse_error;

    #[test]
    fn name_is_file_name_of_64_characters() {
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
            parse_error::<Name>(bad);
        }
    }
}
