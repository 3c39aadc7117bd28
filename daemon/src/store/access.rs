//! Tokens and the audit log as rows.

use std::path::{Path, PathBuf};

use netnsd_api::{AuditEntry, Token};
use serde_json::json;
use sqlx::{QueryBuilder, Sqlite, SqlitePool};

use super::{OpenedFile, StoreError, classify, integer};

use crate::model::TokenRow;

/// Number of entries of what was done that are kept at the least; the newest.
const DONE: u32 = 32_768;

/// The same of what was not carried out: it is bounded apart, so that it cannot displace what was
/// done.
const FAILED: u32 = 4096;

/// Older ones are deleted whenever the number of an entry is a multiple of this.
const TRIM: u64 = 1024;

/// Change of a table beside the resources: tokens and the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuxRecord {
    /// Inserts a token.
    PutToken(TokenRow),
    /// Deletes the token of this name.
    DeleteToken(String),
    /// Inserts an entry of the audit log.
    PutAudit(AuditEntry),
    /// Deletes the entry of this id: its write was rolled back.
    DeleteAudit(u64),
}

/// Records these, and lets go of the entries of the audit log that are too many then.
pub(super) fn write(kept: &[AuxRecord], sql: &mut QueryBuilder<Sqlite>) {
    for one in kept {
        one.write(sql);
    }
    let is_time = |one: &AuxRecord| matches!(one, AuxRecord::PutAudit(entry) if entry.id.is_multiple_of(TRIM));
    if kept.iter().any(is_time) {
        for (which, most) in [("status < 400", DONE), ("status >= 400", FAILED)] {
            sql.push(format_args!(
                "DELETE FROM audit WHERE {which} AND id <= (SELECT id FROM audit WHERE {which} ORDER BY id DESC LIMIT 1 OFFSET {most});"
            ));
        }
    }
}

impl AuxRecord {
    fn write(&self, sql: &mut QueryBuilder<Sqlite>) {
        match self {
            AuxRecord::PutToken(TokenRow { token, hash }) => {
                sql.push(
                    "INSERT INTO tokens (name, role, prefix, host, expires_at, created_at, hash) ",
                );
                sql.push_values([()], |mut values, ()| {
                    values
                        .push_bind(token.name.to_string())
                        .push_bind(token.role.as_str());
                    values
                        .push_bind(token.prefix.clone())
                        .push_bind(token.host.as_str());
                    values
                        .push_bind(token.expires_at.clone())
                        .push_bind(token.created_at.clone());
                    values.push_bind(hash.clone());
                });
                sql.push(";");
            }
            AuxRecord::DeleteToken(name) => {
                sql.push("DELETE FROM tokens WHERE name = ")
                    .push_bind(name.clone())
                    .push(";");
            }
            AuxRecord::PutAudit(entry) => {
                sql.push("INSERT INTO audit (id, time, caller, role, origin, method, path, argv, status, count, request_id) ");
                sql.push_values([()], |mut values, ()| {
                    values
                        .push_bind(integer(entry.id))
                        .push_bind(entry.time.clone());
                    values
                        .push_bind(entry.caller.clone())
                        .push_bind(entry.role.map(netnsd_api::Role::as_str));
                    values
                        .push_bind(entry.from.clone())
                        .push_bind(entry.method.clone());
                    values
                        .push_bind(entry.path.clone())
                        .push_bind(entry.argv.as_ref().map(|argv| json!(argv).to_string()));
                    values
                        .push_bind(entry.status)
                        .push_bind(integer(entry.count));
                    values.push_bind(entry.request_id.clone());
                });
                sql.push(";");
            }
            AuxRecord::DeleteAudit(id) => {
                sql.push("DELETE FROM audit WHERE id = ")
                    .push_bind(integer(*id))
                    .push(";");
            }
        }
    }
}

pub(super) async fn tokens(
    connection: &mut sqlx::SqliteConnection,
) -> sqlx::Result<Vec<Result<TokenRow, String>>> {
    let rows: Vec<RawToken> = sqlx::query_as(
        "SELECT name, role, prefix, host, expires_at, created_at, hash FROM tokens ORDER BY name",
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(RawToken::read).collect())
}

#[derive(sqlx::FromRow)]
struct RawToken {
    name: String,
    role: String,
    prefix: Option<String>,
    host: String,
    expires_at: Option<String>,
    created_at: String,
    hash: String,
}

impl RawToken {
    fn read(self) -> Result<TokenRow, String> {
        let wrong = |error: netnsd_api::InvalidValue| format!("token {}: {}", self.name, error.0);
        Ok(TokenRow {
            token: Token {
                name: self.name.parse().map_err(wrong)?,
                role: self.role.parse().map_err(wrong)?,
                prefix: self.prefix,
                host: self.host.parse().map_err(wrong)?,
                expires_at: self.expires_at,
                created_at: self.created_at,
            },
            hash: self.hash,
        })
    }
}

/// Reads the audit log, on connections of its own that only read.
#[derive(Debug, Clone)]
pub struct AuditLog {
    pool: SqlitePool,
    path: PathBuf,
    file: OpenedFile,
}

impl AuditLog {
    /// Over a database that is there.
    pub fn new(database: &Path) -> Self {
        Self {
            pool: super::history::reading(database),
            path: database.to_owned(),
            file: OpenedFile::of(database),
        }
    }

    /// The oldest `limit` entries after number `since`, or the newest if it is left out; in their
    /// order.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn read(
        &self,
        since: Option<u64>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        self.file.check()?;
        let select = match since {
            Some(_) => "SELECT * FROM audit WHERE id > ?1 ORDER BY id LIMIT ?2",
            None => {
                "SELECT * FROM (SELECT * FROM audit WHERE id > ?1 ORDER BY id DESC LIMIT ?2) ORDER BY id"
            }
        };
        let rows: Vec<RawEntry> = sqlx::query_as(select)
            .bind(integer(since.unwrap_or(0)))
            .bind(limit)
            .fetch_all(&self.pool)
            .await
            .map_err(|source| classify(&self.path, "read", source))?;
        Ok(rows.into_iter().map(RawEntry::read).collect())
    }
}

#[derive(sqlx::FromRow)]
struct RawEntry {
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

impl RawEntry {
    fn read(self) -> AuditEntry {
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
