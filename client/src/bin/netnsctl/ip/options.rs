//! Options of ip(8) that begin with one hyphen, before the command.

use std::ffi::OsString;

use super::parse::{BRCTL_COMMANDS, matches};
use crate::{cli::build_command, error::CliError};

/// The counterpart of an option of ip(8).
#[derive(Debug, Clone, Copy)]
enum Counterpart {
    /// An option of netnsctl without a value.
    Flag(&'static str),
    /// `-all`.
    All,
    /// `-netns NAME`.
    Netns,
    /// `-family FAMILY`.
    Family,
    /// `-color[=WHEN]`.
    Color,
    /// None.
    Missing,
}

/// Options of ip(8) and bridge(8), in the order in which iproute2 compares them, which decides
/// abbreviations.
const IP_OPTIONS: &[(&str, Counterpart)] = &[
    ("loops", Counterpart::Missing),
    ("family", Counterpart::Family),
    ("human-readable", Counterpart::Missing),
    ("iec", Counterpart::Missing),
    ("stats", Counterpart::Flag("--stats")),
    ("statistics", Counterpart::Flag("--stats")),
    ("details", Counterpart::Flag("--details")),
    ("resolve", Counterpart::Missing),
    ("oneline", Counterpart::Flag("--oneline")),
    ("timestamp", Counterpart::Missing),
    ("tshort", Counterpart::Missing),
    ("Version", Counterpart::Flag("--version")),
    ("force", Counterpart::Missing),
    ("batch", Counterpart::Missing),
    ("brief", Counterpart::Flag("--brief")),
    ("json", Counterpart::Flag("--json")),
    ("pretty", Counterpart::Flag("--pretty")),
    ("rcvbuf", Counterpart::Missing),
    ("color", Counterpart::Color),
    ("compressvlans", Counterpart::Missing),
    ("netns", Counterpart::Netns),
    ("Numeric", Counterpart::Missing),
    ("all", Counterpart::All),
    ("echo", Counterpart::Missing),
];

/// Options of one letter that are netnsctl's own, and mean the same or something else.
const OWN_LETTERS: [&str; 6] = ["h", "n", "o", "v", "4", "6"];

/// Objects of ip(8) and programs whose lists netnsctl prints on one line each.
const ONELINE_OBJECTS: [&str; 7] = [
    "address",
    "route",
    "rule",
    "neighbour",
    "neighbor",
    "link",
    "bridge",
];

/// Returns the counterpart of an option without its hyphen, and the value after `=`.
fn find_counterpart(option: &str) -> Option<(&'static str, Counterpart, Option<&str>)> {
    let (name, value) = option
        .split_once('=')
        .map_or((option, None), |(name, value)| (name, Some(value)));
    if OWN_LETTERS.contains(&name) {
        return None;
    }
    let mut known = IP_OPTIONS.iter();
    let (full, counterpart) = known.find(|(full, _)| matches(name, full))?;
    Some((full, *counterpart, value))
}

/// Returns true if `-o` before this word is ip's, which has no value, and not `--output`.
fn is_oneline(next: Option<&OsString>) -> bool {
    let next = next.map(|word| word.to_string_lossy());
    next.is_some_and(|word| {
        word.starts_with('-') || ONELINE_OBJECTS.iter().any(|object| matches(&word, object))
    })
}

/// Translates the options of ip(8) on a command line to those of clap: `-netns NAME` is
/// `--netns NAME`, and `-all netns exec` is `netns exec --all`.
pub fn translate_words(words: Vec<OsString>) -> Result<Vec<OsString>, CliError> {
    let with_value = options_with_value();
    let mut translated: Vec<OsString> = Vec::new();
    let mut all = false;
    let mut words = words.into_iter().peekable();
    translated.extend(words.next()); // The program.
    let mut rest = Vec::new();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy().into_owned();
        let Some(option) = text.strip_prefix('-') else {
            rest.push(word);
            rest.extend(words.by_ref());
            break;
        };
        match find_counterpart(option) {
            Some((_, Counterpart::All, None)) => all = true,
            Some((_, Counterpart::Flag(own), None)) => translated.push(own.into()),
            Some((_, Counterpart::Netns, None)) => {
                translated.push("--netns".into());
                translated.extend(words.next());
            }
            Some((_, Counterpart::Family, None)) => {
                let family = words.next().unwrap_or_default();
                translated.push(family_option(&family.to_string_lossy())?.into());
            }
            Some((_, Counterpart::Color, value)) => {
                translated.push(format!("--color={}", value.unwrap_or("always")).into());
            }
            Some((full, Counterpart::Missing, None)) => {
                return Err(CliError::Usage(format!(
                    "-{full} of ip is not done by netnsctl: leave it out"
                )));
            }
            None if option == "o" && is_oneline(words.peek()) => {
                translated.push("--oneline".into());
            }
            Some(_) | None => {
                translated.push(word);
                if with_value.contains(&text) {
                    translated.extend(words.next());
                }
            }
        }
    }
    suggest_brctl(&rest)?;
    if all {
        // After the object and its verb.
        let at = rest.len().min(2);
        rest.insert(at, "--all".into());
    }
    translated.extend(rest);
    Ok(translated)
}

/// Returns the option of an address family.
fn family_option(family: &str) -> Result<&'static str, CliError> {
    match family {
        "inet" => Ok("-4"),
        "inet6" => Ok("-6"),
        other => Err(CliError::Usage(format!(
            "-family {other:?}: expected inet or inet6"
        ))),
    }
}

/// Returns the spellings of options before the command that take a value.
fn options_with_value() -> Vec<String> {
    let command = build_command();
    let mut spellings = Vec::new();
    for argument in command.get_arguments() {
        if argument.get_action().takes_values() {
            spellings.extend(argument.get_short().map(|short| format!("-{short}")));
            spellings.extend(argument.get_long().map(|long| format!("--{long}")));
        }
    }
    spellings
}

/// Refuses a command of brctl(8) without the word brctl, or after `bridge`.
fn suggest_brctl(words: &[OsString]) -> Result<(), CliError> {
    let texts: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let (at, word) = match texts.as_slice() {
        [first, second, ..] if first == "bridge" && second != "show" => (1, second),
        [first, ..] if first != "show" => (0, first),
        _ => return Ok(()),
    };
    if !BRCTL_COMMANDS.contains(&&**word) {
        return Ok(());
    }
    Err(CliError::Usage(format!(
        "{word} is a command of brctl: netnsctl brctl {}",
        texts[at..].join(" ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translate(line: &str) -> String {
        let words = line.split(' ').map(OsString::from).collect();
        match translate_words(words) {
            Ok(words) => words
                .iter()
                .map(|word| word.to_string_lossy())
                .collect::<Vec<_>>()
                .join(" "),
            Err(CliError::Usage(text)) => text,
            Err(other) => format!("{other:?}"),
        }
    }

    #[test]
    fn options_of_ip_are_translated() {
        for (line, expected) in [
            ("netnsctl -n net0 link", "netnsctl -n net0 link"),
            ("netnsctl -netns net0 -4 a", "netnsctl --netns net0 -4 a"),
            (
                "netnsctl -all netns exec ip -all",
                "netnsctl netns exec --all ip -all",
            ),
            (
                "netnsctl -o json -a netns delete",
                "netnsctl -o json netns delete --all",
            ),
            ("netnsctl -details link", "netnsctl --details link"),
            ("netnsctl -br -4 a", "netnsctl --brief -4 a"),
            ("netnsctl -s -s l", "netnsctl --stats --stats l"),
            ("netnsctl -j -p addr", "netnsctl --json --pretty addr"),
            ("netnsctl -o link", "netnsctl --oneline link"),
            ("netnsctl -o -4 addr", "netnsctl --oneline -4 addr"),
            ("netnsctl -o json link", "netnsctl -o json link"),
            ("netnsctl -o jsn netns", "netnsctl -o jsn netns"),
            ("netnsctl -f inet6 route", "netnsctl -6 route"),
            ("netnsctl -c=auto link", "netnsctl --color=auto link"),
            ("netnsctl -c r", "netnsctl --color=always r"),
            (
                "netnsctl -r neigh",
                "-resolve of ip is not done by netnsctl: leave it out",
            ),
            (
                "netnsctl -b file",
                "-batch of ip is not done by netnsctl: leave it out",
            ),
            (
                "netnsctl netns exec n -netns",
                "netnsctl netns exec n -netns",
            ),
            ("netnsctl bridge show br0", "netnsctl bridge show br0"),
            (
                "netnsctl addbr br0",
                "addbr is a command of brctl: netnsctl brctl addbr br0",
            ),
            (
                "netnsctl bridge stp br0 on",
                "stp is a command of brctl: netnsctl brctl stp br0 on",
            ),
        ] {
            assert_eq!(translate(line), expected, "{line}");
        }
    }
}
