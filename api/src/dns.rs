//! Name resolution of a namespace.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Code, FieldError, ZonedAddress};

/// Content of a namespace's `resolv.conf` (`resolv.conf(5)`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// Addresses of name servers, a link-local one with its zone (`fe80::1%eth0`); the resolver
    /// uses at most 3.
    #[serde(default)]
    pub nameservers: Vec<ZonedAddress>,
    /// Domains to search.
    #[serde(default)]
    pub search: Vec<String>,
    /// Options of resolv.conf(5), such as `ndots:2`.
    #[serde(default)]
    pub options: Vec<String>,
}

/// Options that resolv.conf(5) of glibc 2.42 and before has; those that end in a colon are followed
/// by a number.
const OPTIONS: [&str; 19] = [
    "attempts:",
    "debug",
    "edns0",
    "inet6",
    "ip6-bytestring",
    "ip6-dotint",
    "ndots:",
    "no-aaaa",
    "no-check-names",
    "no-ip6-dotint",
    "no-reload",
    "no-tld-query",
    "rotate",
    "single-request",
    "single-request-reopen",
    "timeout:",
    "trust-ad",
    "use-vc",
    // Older than the hyphens, and still taken (`res_setoptions()`, resolv/res_init.c).
    "no_tld_query",
];

/// Edits that a misspelt option may be away from the right one.
const MISSPELT: usize = 3;

impl Dns {
    /// Checks what the types of the fields do not.
    ///
    /// # Errors
    /// The first mistake, with its pointer from the namespace.
    pub(crate) fn check(&self) -> Result<(), FieldError> {
        let at = |field: &str, i: usize, detail: String| {
            FieldError::at(Code::InvalidField, &["dns", field, &i.to_string()], detail)
        };
        let is_word = |word: &String| {
            !word.is_empty() && word.len() <= 253 && word.chars().all(|c| c.is_ascii_graphic())
        };
        for (field, words) in [("search", &self.search), ("options", &self.options)] {
            if let Some(i) = words.iter().position(|word| !is_word(word)) {
                return Err(at(
                    field,
                    i,
                    format!("{:?} is not one word of resolv.conf(5)", words[i]),
                ));
            }
        }
        match self
            .options
            .iter()
            .enumerate()
            .find_map(|(i, option)| Some((i, check_option(option).err()?)))
        {
            Some((i, detail)) => Err(at("options", i, detail)),
            None => Ok(()),
        }
    }
}

fn check_option(option: &str) -> Result<(), String> {
    let (name, number) = match option.split_once(':') {
        Some((name, number)) => (format!("{name}:"), Some(number)),
        None => (option.to_owned(), None),
    };
    if OPTIONS.contains(&name.as_str()) {
        return match number {
            Some(number) if number.parse::<u32>().is_err() => Err(format!(
                "{option:?} has no number after its colon: write it like {name}2"
            )),
            _ => Ok(()),
        };
    }
    let nearest = OPTIONS
        .into_iter()
        .min_by_key(|known| distance(&name, known));
    let advice = match nearest.filter(|known| distance(&name, known) <= MISSPELT) {
        Some(known) if known.ends_with(':') => {
            format!(
                "did you mean {known}{}?",
                number.filter(|number| !number.is_empty()).unwrap_or("2")
            )
        }
        Some(known) => format!("did you mean {known}?"),
        None => format!("it has {}", OPTIONS.join(", ").replace(':', ":N")),
    };
    Err(format!(
        "{option:?} is no option of resolv.conf(5): {advice}"
    ))
}

/// Returns how many letters have to be added, removed or replaced (Levenshtein's distance).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(option: &str) -> String {
        let dns = Dns {
            options: vec!["rotate".into(), option.into()],
            ..Dns::default()
        };
        let error = dns.check().expect_err(option);
        assert_eq!(
            (error.code, error.pointer.as_str()),
            (Code::InvalidField, "/dns/options/1")
        );
        error.detail
    }

    #[test]
    fn options_are_those_of_resolv_conf() {
        let known = OPTIONS.map(|option| option.replace(':', ":3"));
        assert_eq!(
            Dns {
                options: known.into(),
                ..Dns::default()
            }
            .check(),
            Ok(())
        );
        for (option, advice) in [
            ("ndot:9", "did you mean ndots:9?"),
            ("ndots", "did you mean ndots:2?"),
            ("timout:", "did you mean timeout:2?"),
            ("rotat", "did you mean rotate?"),
            ("single-requests", "did you mean single-request?"),
            ("use_vc", "did you mean use-vc?"),
            ("rotate:1", "did you mean rotate?"),
            ("ndots:", "write it like ndots:2"),
            ("ndots:-1", "write it like ndots:2"),
            ("timeout:2s", "write it like timeout:2"),
        ] {
            let detail = refused(option);
            assert!(detail.ends_with(advice), "{detail}");
        }
        assert!(refused("colour").contains("attempts:N, debug"));
        assert!(refused("ndots:2 rotate").contains("not one word"));
    }
}
