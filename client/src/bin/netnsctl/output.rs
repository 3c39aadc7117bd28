//! Output: tables without borders, the API's JSON, YAML, or names.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use clap::ValueEnum;
use comfy_table::{Table, presets};
use netnsd_api::DryRun;

use crate::error::CliError;

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

/// Returns JSON as YAML.
pub fn to_yaml(json: &[u8]) -> Result<String, CliError> {
    let value: serde_json::Value = serde_json::from_slice(json)?;
    yaml_serde::to_string(&value)
        .map_err(|error| CliError::Refused(format!("cannot convert to YAML: {error}")))
}

/// Prints the answer to a dry run: the equivalent commands.
pub fn print_dry_run(format: Format, body: &[u8]) -> Result<(), CliError> {
    match format {
        Format::Json => print_line(body),
        Format::Yaml => print_text(to_yaml(body)?),
        Format::Table | Format::Name => {
            let dry_run: DryRun = serde_json::from_slice(body)?;
            let commands: String = dry_run
                .plan
                .into_iter()
                .map(|operation| operation.command + "\n")
                .collect();
            print_text(commands)
        }
    }
}
