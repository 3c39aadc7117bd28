//! Table `resources`: one row for each recorded resource.

use std::{fmt::Display, sync::Arc};

use netnsd_api::Kind;
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::{CACHED_ROWS, MAX_VARIABLES, to_integer};
use crate::model::{Row, Spec};

/// Number of columns that `upsert_chunk` writes.
const COLUMNS: usize = 11;

/// Rows that are read at once: their JSON text is in memory beside them.
const PAGE: i64 = 1024;

/// Reads all rows, in the order of their insertion.
pub(super) async fn load_rows(connection: &mut SqliteConnection) -> sqlx::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut next = Some(0);
    while let Some(after) = next {
        let (page, last) = load_page(connection, after).await?;
        for row in page {
            rows.push(row.decode()?);
        }
        next = last;
    }
    Ok(rows)
}

/// Reads a page of the rows after this rowid, and the rowid of the last one, if there is any.
///
/// The page is one JSON value: sqlx-sqlite passes each row through a channel between two threads,
/// so that 10,000 rows took 141 ms to read, and 25 ms as JSON.
async fn load_page(
    connection: &mut SqliteConnection,
    after: i64,
) -> sqlx::Result<(Vec<StoredRow>, Option<i64>)> {
    let (json, last): (String, Option<i64>) = sqlx::query_as(
        "SELECT json_group_array(json_object('uid', uid, 'kind', kind, 'name', name,
            'generation', generation, 'created_at', created_at, 'updated_at', updated_at,
            'desired', desired, 'applied', applied, 'prior', prior, 'adopt', adopt,
            'macs', macs)), max(rowid)
        FROM (SELECT rowid, * FROM resources WHERE rowid > ? ORDER BY rowid LIMIT ?)",
    )
    .bind(after)
    .bind(PAGE)
    .fetch_one(connection)
    .await?;
    let page = serde_json::from_str(&json).map_err(|error| sqlx::Error::Decode(error.into()))?;
    Ok((page, last))
}

/// Deletes the rows of these uids.
pub(super) async fn delete_rows(
    connection: &mut SqliteConnection,
    uids: &[&str],
) -> sqlx::Result<()> {
    if uids.is_empty() {
        return Ok(());
    }
    sqlx::query("DELETE FROM resources WHERE uid IN (SELECT value FROM json_each(?))")
        .bind(json!(uids).to_string())
        .execute(connection)
        .await
        .map(drop)
}

/// Inserts rows, or updates those whose uid is recorded.
pub(super) async fn upsert_rows(
    connection: &mut SqliteConnection,
    rows: &[&Row],
) -> sqlx::Result<()> {
    for chunk in rows.chunks(MAX_VARIABLES / COLUMNS) {
        upsert_chunk(connection, chunk).await?;
    }
    Ok(())
}

async fn upsert_chunk(connection: &mut SqliteConnection, rows: &[&Row]) -> sqlx::Result<()> {
    let encoded = rows
        .iter()
        .map(|row| encode_specs(row))
        .collect::<serde_json::Result<Vec<_>>>()
        .map_err(|error| sqlx::Error::Encode(error.into()))?;

    let mut insert = QueryBuilder::<Sqlite>::new(
        "INSERT INTO resources (uid, kind, name, generation, created_at, updated_at, desired, \
            applied, prior, adopt, macs) ",
    );
    insert.push_values(
        rows.iter().zip(encoded),
        |mut values, (row, (desired, applied))| {
            values
                .push_bind(row.uid.clone())
                .push_bind(row.kind.as_str())
                .push_bind(row.name.to_string())
                .push_bind(to_integer(row.generation))
                .push_bind(row.created_at.to_string())
                .push_bind(row.updated_at.to_string())
                .push_bind(desired)
                .push_bind(applied)
                .push_bind(json!(row.prior).to_string())
                .push_bind(row.adopt)
                .push_bind(json!(row.macs).to_string());
        },
    );
    insert.push(
        " ON CONFLICT (uid) DO UPDATE SET generation = excluded.generation, \
            updated_at = excluded.updated_at, desired = excluded.desired, \
            applied = excluded.applied, prior = excluded.prior, adopt = excluded.adopt, \
            macs = excluded.macs",
    );
    insert
        .build()
        .persistent(rows.len() <= CACHED_ROWS)
        .execute(connection)
        .await
        .map(drop)
}

/// Returns the JSON of the desired spec, if there is one, and of the applied specs.
fn encode_specs(row: &Row) -> serde_json::Result<(Option<String>, String)> {
    let desired = row.desired.as_deref().map(Spec::to_text).transpose()?;
    let applied: Value = row
        .applied
        .iter()
        .map(Spec::to_json)
        .collect::<serde_json::Result<_>>()?;
    Ok((desired, applied.to_string()))
}

/// Row as it is stored: specs, maps and lists as JSON text.
#[derive(Deserialize)]
struct StoredRow {
    uid: String,
    kind: String,
    name: String,
    generation: i64,
    created_at: String,
    updated_at: String,
    desired: Option<String>,
    applied: String,
    prior: String,
    adopt: u8,
    macs: String,
}

impl StoredRow {
    fn decode(self) -> sqlx::Result<Row> {
        let kind: Kind = self.column(self.kind.parse())?;
        let desired = match &self.desired {
            Some(text) => Some(Arc::new(self.column(decode_spec(kind, text))?)),
            None => None,
        };
        let applied: Vec<Value> = self.column(serde_json::from_str(&self.applied))?;
        let applied = applied
            .into_iter()
            .map(|value| Spec::from_json(kind, value))
            .collect::<serde_json::Result<_>>();

        Ok(Row {
            kind,
            name: self.column(self.name.parse())?,
            generation: self.column(u64::try_from(self.generation))?,
            created_at: self.column(self.created_at.parse())?,
            updated_at: self.column(self.updated_at.parse())?,
            desired,
            applied: self.column(applied)?,
            prior: self.column(serde_json::from_str(&self.prior))?,
            adopt: self.adopt != 0,
            macs: self.column(serde_json::from_str(&self.macs))?,
            uid: self.uid,
        })
    }

    /// Names the row in the error of one of its columns.
    fn column<T>(&self, result: Result<T, impl Display>) -> sqlx::Result<T> {
        result.map_err(|error| sqlx::Error::Decode(format!("row {}: {error}", self.uid).into()))
    }
}

fn decode_spec(kind: Kind, text: &str) -> serde_json::Result<Spec> {
    let mut json = serde_json::Deserializer::from_str(text);
    let spec = Spec::from_json(kind, &mut json)?;
    json.end()?;
    Ok(spec)
}
