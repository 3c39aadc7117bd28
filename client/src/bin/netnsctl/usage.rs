//! Errors of the command line itself, in the same voice as all others.

use std::{error::Error as _, ffi::OsString};

use clap::{
    Command,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::{
    cli::build_command,
    completion::kind_command,
    error::CliError,
    output::join_words,
    status::parse_kind,
    suggest::{did_you_mean, find_nearest, find_own_command, find_own_option},
};

/// Returns the error for a command line that clap refused; prints the help or the version if that
/// was asked for.
pub fn describe_usage_error(error: &clap::Error, words: &[OsString]) -> CliError {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return match error.print() {
            Ok(()) => CliError::Exit(u8::try_from(error.exit_code()).unwrap_or(2)),
            Err(error) => error.into(),
        };
    }
    let root = build_command();
    let unknown = match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        _ => None,
    };
    let (path, command) = find_command(&root, words, unknown);
    let words: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
    let details = Details { error, path, words };
    let text = match error.kind() {
        ErrorKind::InvalidSubcommand => details.unknown_command(command),
        ErrorKind::UnknownArgument => details.unknown_argument(&root, command),
        ErrorKind::InvalidValue => details.unknown_value(),
        ErrorKind::ValueValidation => details.invalid_value(),
        ErrorKind::MissingRequiredArgument => details.missing_argument(),
        ErrorKind::ArgumentConflict => details.conflict(),
        _ => details.first_line(),
    };
    CliError::Usage(format!("{text}\n  see {} --help", details.path))
}

/// Follows the words to the command that they name, up to one that is none; returns its words and
/// the command.
fn find_command<'a>(
    root: &'a Command,
    words: &[OsString],
    unknown: Option<&str>,
) -> (String, &'a Command) {
    let (mut path, mut command) = (root.get_name().to_owned(), root);
    let words = words.iter().skip(1).filter_map(|word| word.to_str());
    for word in words.take_while(|word| Some(*word) != unknown) {
        if let Some(next) = resolve_command(command, word) {
            command = next;
            path = format!("{path} {}", next.get_name());
        } else if !command.has_subcommands() {
            break;
        }
    }
    (path, command)
}

/// Returns the command of a word, which may be a unique prefix.
fn resolve_command<'a>(command: &'a Command, word: &str) -> Option<&'a Command> {
    command.find_subcommand(word).or_else(|| {
        let mut starting = command
            .get_subcommands()
            .filter(|next| !word.is_empty() && next.get_name().starts_with(word));
        let only = starting.next();
        only.filter(|_| starting.next().is_none())
    })
}

/// A refusal of clap, and the words of the command.
struct Details<'a> {
    error: &'a clap::Error,
    path: String,
    /// The command line.
    words: Vec<&'a str>,
}

impl Details<'_> {
    /// Returns the strings of a context.
    fn strings(&self, kind: ContextKind) -> Vec<String> {
        match self.error.get(kind) {
            Some(ContextValue::String(text)) => vec![text.clone()],
            Some(ContextValue::Strings(texts)) => texts.clone(),
            _ => Vec::new(),
        }
    }

    fn string(&self, kind: ContextKind) -> String {
        self.strings(kind).into_iter().next().unwrap_or_default()
    }

    /// Returns an argument as it is typed, without its value: `--label`, `NAME`.
    fn argument(&self, kind: ContextKind) -> String {
        let text = self.string(kind);
        let text = text.split([' ', '=']).next().unwrap_or_default();
        text.trim_matches(['<', '>', '[', ']', '.']).to_owned()
    }

    fn unknown_command(&self, command: &Command) -> String {
        let word = self.string(ContextKind::InvalidSubcommand);
        let known: Vec<&str> = command
            .get_subcommands()
            .filter(|next| !next.is_hide_set())
            .flat_map(|next| std::iter::once(next.get_name()).chain(next.get_visible_aliases()))
            .collect();
        let kind = self.path.split(' ').nth(1);
        if kind.is_none() && word == "restore" {
            return "there is no command \"restore\": netnsd restore FILE restores a backup while \
                    netnsd is stopped, netnsctl apply --prune -f FILE a document"
                .to_owned();
        }
        if let Some(own) = find_own_command(kind, &word) {
            let own = self.with_kind_and_name(&word, own);
            return format!("there is no command {word:?}: use {own}");
        }
        let starting: Vec<&str> = known
            .iter()
            .filter(|known| known.starts_with(&word))
            .copied()
            .collect();
        if !starting.is_empty() {
            return format!(
                "{word:?} is ambiguous: it may be {}",
                join_words(&starting, "or")
            );
        }
        match find_nearest(&word, known.iter().copied()) {
            Some(near) => format!(
                "there is no command {word:?}: did you mean {} {near}?",
                self.path
            ),
            None => format!(
                "there is no command {word:?}: expected {}",
                join_words(&known, "or")
            ),
        }
    }

    /// Returns the words after a word of the command line.
    fn words_after(&self, word: &str) -> &[&str] {
        let at = self.words.iter().position(|other| *other == word);
        at.map_or(&[], |index| &self.words[index + 1..])
    }

    /// Returns a command with the kind and the name that follow a verb, as in `get ns net0`.
    fn with_kind_and_name(&self, verb: &str, own: String) -> String {
        let (kind, name) = match self.words_after(verb) {
            [word, rest @ ..] => match parse_kind(word) {
                Ok(kind) => (Some(kind_command(kind)), rest.first()),
                Err(_) => (None, Some(word)),
            },
            [] => (None, None),
        };
        let own = match kind {
            Some(kind) => own.replacen("netnsctl netns", &format!("netnsctl {kind}"), 1),
            None => own,
        };
        let Some(name) = name.filter(|name| !name.starts_with('-')) else {
            return own;
        };
        match own.strip_suffix(" list") {
            Some(kind) => format!("{kind} show {name}"),
            None => own.replacen("NAME", name, 1),
        }
    }

    fn unknown_argument(&self, root: &Command, command: &Command) -> String {
        let word = self.string(ContextKind::InvalidArg);
        if !word.starts_with('-') {
            let takes_file = command
                .get_arguments()
                .any(|argument| argument.get_long() == Some("file"));
            let mut before = self.words.iter().rev().skip_while(|other| **other != word);
            let before = before.nth(1).copied().unwrap_or_default();
            let hint = if parse_kind(before).is_ok() {
                format!(": write {before}/{word}")
            } else if command.get_name() == "export" {
                format!(": netnsctl export > {word}")
            } else if takes_file {
                format!(": give a document as --file {word}")
            } else {
                String::new()
            };
            return format!("unexpected word {word:?}{hint}");
        }
        let own = [root, command]
            .into_iter()
            .flat_map(Command::get_arguments)
            .filter_map(|argument| argument.get_long())
            .map(|long| format!("--{long}"));
        let known: Vec<String> = own.collect();
        let is_known = |option: &&str| {
            let name = option.split(' ').next().unwrap_or_default();
            known.iter().any(|known| known == name)
        };
        if let Some(own) = find_own_option(&word).filter(is_known) {
            return format!("unknown option {word}: use {own}");
        }
        format!(
            "unknown option {word}{}",
            did_you_mean(&word, known.iter().map(String::as_str))
        )
    }

    /// Describes a value that is not one of a few.
    fn unknown_value(&self) -> String {
        let argument = self.argument(ContextKind::InvalidArg);
        let value = self.string(ContextKind::InvalidValue);
        if value.is_empty() {
            return format!("{argument} needs a value");
        }
        let known = self.strings(ContextKind::ValidValue);
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        format!(
            "{argument}: {value:?} is not {}{}",
            join_words(&known, "or"),
            did_you_mean(&value, known.iter().copied())
        )
    }

    /// Describes a value that its parser refused.
    fn invalid_value(&self) -> String {
        let argument = self.argument(ContextKind::InvalidArg);
        let value = self.string(ContextKind::InvalidValue);
        let reason = self.error.source().map_or(String::new(), |source| {
            // Of the parsers for numbers.
            match source.to_string().as_str() {
                "invalid digit found in string" | "invalid float literal" => {
                    format!("{value:?} is not a number")
                }
                other => other.to_owned(),
            }
        });
        if reason.contains(&value) {
            format!("{argument}: {reason}")
        } else {
            format!("{argument} {value:?}: {reason}")
        }
    }

    fn missing_argument(&self) -> String {
        let missing = self.strings(ContextKind::InvalidArg);
        let missing: Vec<String> = missing
            .iter()
            .map(|argument| argument.replace(['<', '>'], "").replace("...", ""))
            .collect();
        let missing: Vec<&str> = missing.iter().map(String::as_str).collect();
        let verb = if missing.len() == 1 { "is" } else { "are" };
        format!(
            "{} {verb} missing{}",
            join_words(&missing, "and"),
            self.usage()
        )
    }

    /// Returns the usage of the command, as a part of a sentence.
    fn usage(&self) -> String {
        match self.error.get(ContextKind::Usage) {
            Some(ContextValue::StyledStr(usage)) => {
                let usage = usage.to_string();
                let words: Vec<&str> = usage.split_whitespace().skip(1).collect();
                format!(": {}", words.join(" "))
            }
            _ => String::new(),
        }
    }

    fn conflict(&self) -> String {
        let argument = self.argument(ContextKind::InvalidArg);
        let prior = self.argument(ContextKind::PriorArg);
        if argument == prior || prior.is_empty() {
            format!("{argument} may be given only once")
        } else {
            format!("{argument} cannot be used with {prior}")
        }
    }

    /// Returns the first line of clap's own message.
    fn first_line(&self) -> String {
        let text = self.error.to_string();
        let line = text.lines().next().unwrap_or_default();
        line.trim_start_matches("error: ").to_owned()
    }
}
