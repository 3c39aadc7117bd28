//! Output: tables without borders, the API's JSON, YAML, or names.

use std::{
    borrow::Cow,
    cmp::Ordering,
    io::{self, Write},
};

use clap::ValueEnum;
use comfy_table::{Table, presets};
use netnsd_api::DryRun;

use crate::{error::CliError, yaml::to_yaml};

/// Colors of text in terminals (ECMA-48, select graphic rendition).
pub const RED: u8 = 31;
pub const GREEN: u8 = 32;
pub const YELLOW: u8 = 33;
pub const BLUE: u8 = 34;
pub const MAGENTA: u8 = 35;
pub const CYAN: u8 = 36;
pub const GREY: u8 = 90;

/// Output formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// The API's answer, unchanged
    Json,
    /// The API's answer as YAML
    Yaml,
    /// Names only
    Name,
}

/// Writes text to stdout with control characters escaped: names may come from others, and terminals
/// obey control sequences.
pub fn print_text(text: impl AsRef<[u8]>) -> Result<(), CliError> {
    write_raw(escape_controls(&String::from_utf8_lossy(text.as_ref())).as_bytes())
}

/// Escapes control characters except newlines and tabs, as JSON does; escaped JSON is the same
/// JSON.
pub fn escape_controls(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe_control) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe_control(c) {
            escaped += &format!("\\u{:04x}", u32::from(c));
        } else {
            escaped.push(c);
        }
    }
    escaped.into()
}

fn is_unsafe_control(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t')
}

/// Writes bytes to stdout unchanged.
pub fn write_raw(bytes: impl AsRef<[u8]>) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes.as_ref())?;
    Ok(out.flush()?)
}

/// Writes one line to stdout; an answer of the daemon already ends with a newline.
pub fn print_line(text: impl AsRef<[u8]>) -> Result<(), CliError> {
    let text = text.as_ref();
    print_text([text.strip_suffix(b"\n").unwrap_or(text), b"\n"].concat())
}

/// Returns a table without borders; nothing if it has no rows.
pub fn format_table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if !header.is_empty() {
        table.set_header(header);
    }
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
        .to_string()
        .lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}

/// Returns words as a list in a sentence: `a, b or c`.
pub fn join_words(words: &[&str], conjunction: &str) -> String {
    match words {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} {conjunction} {last}", first.join(", ")),
    }
}

/// Compares names as people do: runs of digits by their number, so that `net2` precedes `net10`.
pub fn compare_natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let (digits_a, rest_a) = split_digits(a);
        let (digits_b, rest_b) = split_digits(b);
        if !digits_a.is_empty() && !digits_b.is_empty() {
            let (number_a, number_b) = (
                digits_a.trim_start_matches('0'),
                digits_b.trim_start_matches('0'),
            );
            let order = number_a
                .len()
                .cmp(&number_b.len())
                .then_with(|| number_a.cmp(number_b))
                .then_with(|| digits_a.len().cmp(&digits_b.len()));
            if order != Ordering::Equal {
                return order;
            }
            (a, b) = (rest_a, rest_b);
            continue;
        }
        match (a.chars().next(), b.chars().next()) {
            (Some(first_a), Some(first_b)) if first_a == first_b => {
                (a, b) = (&a[first_a.len_utf8()..], &b[first_b.len_utf8()..]);
            }
            (first_a, first_b) => return first_a.cmp(&first_b),
        }
    }
}

/// Splits a text after the digits that it begins with.
fn split_digits(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// Returns the cell of a table for an optional value.
pub fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Returns `yes` or `no`.
pub fn yes_no(value: bool) -> String {
    (if value { "yes" } else { "no" }).to_owned()
}

/// Returns `on` or `off`.
pub fn on_off(value: bool) -> String {
    (if value { "on" } else { "off" }).to_owned()
}

/// Prints an answer of the daemon in a format of programs; returns false for the others, in which
/// the command prints.
pub fn print_json_or_yaml(format: Format, body: &[u8]) -> Result<bool, CliError> {
    match format {
        Format::Json => print_line(body)?,
        Format::Yaml => print_text(to_yaml(body)?)?,
        Format::Table | Format::Name => return Ok(false),
    }
    Ok(true)
}

/// Prints the answer to a dry run: the equivalent commands.
pub fn print_dry_run(format: Format, body: &[u8]) -> Result<(), CliError> {
    if print_json_or_yaml(format, body)? {
        return Ok(());
    }
    let dry_run: DryRun = serde_json::from_slice(body)?;
    let commands: String = dry_run
        .plan
        .into_iter()
        .map(|operation| operation.command + "\n")
        .collect();
    print_text(commands)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_by_their_numbers() {
        let mut names = ["net10", "net2", "net", "a-10", "a-9b", "net02", "net1", "b"];
        names.sort_by(|a, b| compare_natural(a, b));
        assert_eq!(
            names,
            ["a-9b", "a-10", "b", "net", "net1", "net2", "net02", "net10"]
        );
    }
}
