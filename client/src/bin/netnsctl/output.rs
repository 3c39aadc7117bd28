//! What is printed: tables without borders, the API's JSON, or names.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use clap::ValueEnum;
use comfy_table::{Table, presets};
use netnsd_api::DryRun;

use crate::fail::Failure;

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// Exactly what the API answers
    Json,
    /// The same as YAML
    Yaml,
    /// Names only
    Name,
}

/// Writes text to stdout, with control characters escaped: names may be of others, and a terminal
/// takes orders from them.
pub fn print(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    raw(visible(&String::from_utf8_lossy(text.as_ref())).as_bytes())
}

/// Escapes control characters but newlines and tabs, as JSON does: of JSON it makes the same JSON.
pub fn visible(text: &str) -> Cow<'_, str> {
    let is_order = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(is_order) {
        return text.into();
    }
    let escape = |c: char| {
        if is_order(c) {
            format!("\\u{:04x}", u32::from(c))
        } else {
            c.into()
        }
    };
    text.chars().map(escape).collect::<String>().into()
}

/// Writes bytes to stdout as they are; a reader that went away ends the command in silence.
pub fn raw(bytes: impl AsRef<[u8]>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes.as_ref())?;
    Ok(out.flush()?)
}

/// Writes one line to stdout; an answer of the daemon ends with its newline already.
pub fn line(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    let text = text.as_ref();
    print([text.strip_suffix(b"\n").unwrap_or(text), b"\n"].concat())
}

/// A table without borders; nothing if it has no rows.
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
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

/// What a table shows where there is nothing.
pub fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// JSON as YAML.
pub fn yaml(json: &[u8]) -> Result<String, Failure> {
    let value: serde_json::Value = serde_json::from_slice(json)?;
    yaml_serde::to_string(&value)
        .map_err(|error| Failure::Refused(format!("this cannot be YAML: {error}")))
}

/// Prints the answer to a dry run: the commands that do the same by hand.
pub fn dry_run(format: Format, body: &[u8]) -> Result<(), Failure> {
    match format {
        Format::Json => line(body),
        Format::Yaml => print(yaml(body)?),
        _ => {
            let dry: DryRun = serde_json::from_slice(body)?;
            print(
                dry.plan
                    .into_iter()
                    .map(|operation| operation.command + "\n")
                    .collect::<String>(),
            )
        }
    }
}
