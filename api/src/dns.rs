//! Name resolution of a namespace.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Code, FieldError, ZonedAddress};

/// Content of a namespace's `resolv.conf` (`resolv.conf(5)`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// Addresses of name servers, link-local ones with their zone (`fe80::1%eth0`); the resolver
    /// uses at most 3.
    #[serde(default)]
    pub nameservers: Vec<ZonedAddress>,
    /// Search domains.
    #[serde(default)]
    pub search: Vec<String>,
    /// Options of resolv.conf(5), such as `ndots:2`.
    #[serde(default)]
    pub options: Vec<String>,
}

/// Options of resolv.conf(5) in glibc up to 2.42; those with a colon take a number.
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
    // The spelling before the hyphens, still accepted (`res_setoptions()`, resolv/res_init.c).
    "no_tld_query",
];

/// Maximum edit distance at which an option is suggested for a misspelt one.
const MAX_SUGGESTION_DISTANCE: usize = 3;

impl Dns {
    /// Validates the search domains and the options.
    ///
    /// # Errors
    /// The first invalid item, with its pointer from the namespace.
    pub(crate) fn check(&self) -> Result<(), FieldError> {
        for (field, words) in [("search", &self.search), ("options", &self.options)] {
            if let Some(i) = words.iter().position(|word| !is_word(word)) {
                let detail = format!("{:?} is not one word of resolv.conf(5)", words[i]);
                return Err(invalid_item(field, i, detail));
            }
        }
        for (i, option) in self.options.iter().enumerate() {
            check_option(option).map_err(|detail| invalid_item("options", i, detail))?;
        }
        Ok(())
    }
}

fn is_word(word: &str) -> bool {
    (1..=253).contains(&word.len()) && word.chars().all(|c| c.is_ascii_graphic())
}

fn invalid_item(field: &str, i: usize, detail: String) -> FieldError {
    FieldError::at(Code::InvalidField, &["dns", field, &i.to_string()], detail)
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
        .min_by_key(|known| edit_distance(&name, known));
    let advice =
        match nearest.filter(|known| edit_distance(&name, known) <= MAX_SUGGESTION_DISTANCE) {
            Some(known) if known.ends_with(':') => {
                format!(
                    "did you mean {known}{}?",
                    number.filter(|number| !number.is_empty()).unwrap_or("2")
                )
            }
            Some(known) => format!("did you mean {known}?"),
            None => format!("known are {}", OPTIONS.join(", ").replace(':', ":N")),
        };
    Err(format!(
        "{option:?} is not an option of resolv.conf(5): {advice}"
    ))
}

/// Returns the edit distance of two words (Levenshtein).
fn edit_distance(a: &str, b: &str) -> usize {
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

    fn check_error(option: &str) -> String {
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
    fn option_must_be_known_to_resolv_conf() {
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
            let detail = check_error(option);
            assert!(detail.ends_with(advice), "{detail}");
        }
        assert!(check_error("colour").contains("attempts:N, debug"));
        assert!(check_error("ndots:2 rotate").contains("not one word"));
    }
}
