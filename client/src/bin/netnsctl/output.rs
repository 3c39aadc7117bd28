//! What is printed: tables without borders, the API's JSON, or names.

use std::io::{self, Write};

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

/// Writes to stdout; a reader that went away ends the command in silence.
pub fn print(bytes: impl AsRef<[u8]>) -> Result<(), Failure> {
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
    table.to_string().lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// What a table shows where there is nothing.
pub fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// JSON as YAML.
pub fn yaml(json: &[u8]) -> Result<String, Failure> {
    let value: serde_json::Value = serde_json::from_slice(json)?;
    yaml_serde::to_string(&value).map_err(|error| Failure::Refused(format!("this cannot be YAML: {error}")))
}

/// Prints the answer to a dry run: the commands that do the same by hand.
pub fn dry_run(format: Format, body: &[u8]) -> Result<(), Failure> {
    match format {
        Format::Json => line(body),
        Format::Yaml => print(yaml(body)?),
        _ => {
            let dry: DryRun = serde_json::from_slice(body)?;
            print(dry.plan.into_iter().map(|operation| operation.command + "\n").collect::<String>())
        }
    }
}
