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
    /// Names only
    Name,
}

/// Writes to stdout; a reader that went away ends the command in silence.
pub fn print(bytes: impl AsRef<[u8]>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes.as_ref())?;
    Ok(out.flush()?)
}

/// Writes one line to stdout.
pub fn line(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    print([text.as_ref(), b"\n"].concat())
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

/// Prints the answer to a dry run.
pub fn dry_run(format: Format, body: &[u8]) -> Result<(), Failure> {
    if format == Format::Json {
        return line(body);
    }
    let dry: DryRun = serde_json::from_slice(body)?;
    let row = |op: netnsd_api::PlannedOperation| {
        vec![op.op, or_dash(op.namespace), format!("{}/{}", op.resource.kind, op.resource.name)]
    };
    print(table(&["OP", "NAMESPACE", "RESOURCE"], dry.plan.into_iter().map(row).collect()))
}
