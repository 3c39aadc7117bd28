//! Table `audit`: who did what, with what answer.
//!
//! Requests that were carried out (status below 400) and those that were not are trimmed apart, so
//! that the latter cannot displace the former.

use std::path::{Path, PathBuf};

use netnsd_api::{AuditEntry, Role};
use serde_json::json;
use sqlx::{FromRow, QueryBuilder, Row, Sqlite, SqliteConnection, SqlitePool, sqlite::SqliteRow};

use super::{CACHED_ROWS, OpenedFile, StoreError, schema, to_integer, to_unsigned};

/// Entries of requests that were carried out that are kept, at the least: the newest.
const DONE_KEPT: i64 = 32_768;

/// Entries of other requests that are kept, at the least: the newest.
const FAILED_KEPT: i64 = 4096;

/// Older entries are deleted whenever the id of a new one is a multiple of this.
const TRIM_INTERVAL: u64 = 1024;

/// Inserts entries.
pub(super) async fn insert_entries(
    connection: &mut SqliteConnection,
    entries: &[&AuditEntry],
) -> sqlx::Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let mut insert = QueryBuilder::<Sqlite>::new(
        "INSERT INTO audit (id, time, caller, role, origin, method, path, argv, status, count, \
            request_id) ",
    );
    insert.push_values(entries, |mut values, entry| {
        values
            .push_bind(to_integer(entry.id))
            .push_bind(entry.time.clone())
            .push_bind(entry.caller.clone())
            .push_bind(entry.role.map(Role::as_str))
            .push_bind(entry.from.clone())
            .push_bind(entry.method.clone())
            .push_bind(entry.path.clone())
            .push_bind(entry.argv.as_ref().map(|argv| json!(argv).to_string()))
            .push_bind(entry.status)
            .push_bind(to_integer(entry.count))
            .push_bind(entry.request_id.clone());
    });
    insert
        .build()
        .persistent(entries.len() <= CACHED_ROWS)
        .execute(connection)
        .await
        .map(drop)
}

/// Deletes the entries of these ids.
pub(super) async fn delete_entries(
    connection: &mut SqliteConnection,
    ids: &[u64],
) -> sqlx::Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query("DELETE FROM audit WHERE id IN (SELECT value FROM json_each(?))")
        .bind(json!(ids).to_string())
        .execute(connection)
        .await
        .map(drop)
}

/// Deletes the oldest entries, if these new ones make it due.
pub(super) async fn trim_entries(
    connection: &mut SqliteConnection,
    new: &[&AuditEntry],
) -> sqlx::Result<()> {
    if !new
        .iter()
        .any(|entry| entry.id.is_multiple_of(TRIM_INTERVAL))
    {
        return Ok(());
    }
    sqlx::query(
        "DELETE FROM audit WHERE status < 400 AND id <= \
            (SELECT id FROM audit WHERE status < 400 ORDER BY id DESC LIMIT 1 OFFSET ?)",
    )
    .bind(DONE_KEPT)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "DELETE FROM audit WHERE status >= 400 AND id <= \
            (SELECT id FROM audit WHERE status >= 400 ORDER BY id DESC LIMIT 1 OFFSET ?)",
    )
    .bind(FAILED_KEPT)
    .execute(connection)
    .await
    .map(drop)
}

/// Returns the largest id that an entry ever had, also of a deleted one; 0 if there was none.
pub(super) async fn load_newest_id(connection: &mut SqliteConnection) -> sqlx::Result<u64> {
    let newest: Option<i64> =
        sqlx::query_scalar("SELECT max(seq) FROM sqlite_sequence WHERE name = 'audit'")
            .fetch_one(connection)
            .await?;
    Ok(to_unsigned(newest))
}

/// Reader of the audit log, on connections of its own.
#[derive(Debug, Clone)]
pub struct AuditLog {
    pool: SqlitePool,
    path: PathBuf,
    file: OpenedFile,
}

impl AuditLog {
    /// Creates a reader of an existing database.
    pub fn new(database: &Path) -> Self {
        Self {
            pool: schema::reader_pool(database),
            path: database.to_owned(),
            file: OpenedFile::of(database),
        }
    }

    /// Returns the oldest `limit` entries after the id `since`, or the newest ones if it is `None`,
    /// in ascending order.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn read(
        &self,
        since: Option<u64>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        self.file.check()?;
        let query = match since {
            Some(since) => sqlx::query_as::<_, StoredEntry>(
                "SELECT * FROM audit WHERE id > ? ORDER BY id LIMIT ?",
            )
            .bind(to_integer(since)),
            None => sqlx::query_as(
                "SELECT * FROM (SELECT * FROM audit ORDER BY id DESC LIMIT ?) ORDER BY id",
            ),
        };
        let stored = query
            .bind(limit)
            .fetch_all(&self.pool)
            .await
            .map_err(|source| StoreError::from_sqlx(&self.path, "read", source))?;
        Ok(stored.into_iter().map(StoredEntry::decode).collect())
    }
}

struct StoredEntry {
    id: i64,
    time: String,
    caller: Option<String>,
    role: Option<String>,
    origin: String,
    method: String,
    path: String,
    argv: Option<String>,
    status: u16,
    count: i64,
    request_id: String,
}

impl FromRow<'_, SqliteRow> for StoredEntry {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            time: row.try_get("time")?,
            caller: row.try_get("caller")?,
            role: row.try_get("role")?,
            origin: row.try_get("origin")?,
            method: row.try_get("method")?,
            path: row.try_get("path")?,
            argv: row.try_get("argv")?,
            status: row.try_get("status")?,
            count: row.try_get("count")?,
            request_id: row.try_get("request_id")?,
        })
    }
}

impl StoredEntry {
    fn decode(self) -> AuditEntry {
        AuditEntry {
            id: self.id.unsigned_abs(),
            time: self.time,
            caller: self.caller,
            role: self.role.and_then(|role| role.parse().ok()),
            from: self.origin,
            method: self.method,
            path: self.path,
            argv: self.argv.and_then(|argv| serde_json::from_str(&argv).ok()),
            status: self.status,
            count: self.count.unsigned_abs(),
            request_id: self.request_id,
        }
    }
}
