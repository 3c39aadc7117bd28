//! Options of ip(8) that begin with one hyphen, before the command.

use std::ffi::OsString;

use super::parse::{BRCTL_COMMANDS, matches};
use crate::{cli::build_command, error::CliError};

/// Translates the options of ip(8) on a command line to those of clap: `-netns NAME` is
/// `--netns NAME`, and `-all netns exec` is `netns exec --all`.
pub fn translate_words(words: Vec<OsString>) -> Result<Vec<OsString>, CliError> {
    let with_value = options_with_value();
    let mut translated: Vec<OsString> = Vec::new();
    let mut all = false;
    let mut words = words.into_iter();
    translated.extend(words.next()); // The program.
    let mut rest = Vec::new();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy().into_owned();
        match text.strip_prefix('-') {
            Some(option) if !option.starts_with('-') && matches(option, "all") => all = true,
            Some(option) if option.len() > 1 && matches(option, "netns") => {
                translated.push("--netns".into());
                translated.extend(words.next());
            }
            Some(option) if option.len() > 1 && matches(option, "details") => {
                translated.push("-d".into());
            }
            Some(_) => {
                translated.push(word);
                if with_value.contains(&text) {
                    translated.extend(words.next());
                }
            }
            None => {
                rest.push(word);
                rest.extend(words.by_ref());
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
            ("netnsctl -details link", "netnsctl -d link"),
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
