//! SQLite database: the durable form of the intent, which is read only at the start, with the history
//! of events, the tokens and the audit log.
//!
//! [`Store`] has the one connection that writes; [`History`], [`AuditLog`] and [`Backups`] read on
//! connections of their own. Each table has a module: `resources`, `history`, `tokens`, `audit`; `schema` migrates
//! them.
//!
//! **Invariant:** a [`Commit`] is one durable transaction, recorded whole or not at all.

mod audit;
mod backup;
mod error;
mod files;
mod history;
mod migrations;
mod resources;
mod schema;
#[cfg(test)]
mod tests;
mod tokens;

use std::{
    fs,
    path::{Path, PathBuf},
};

use netnsd_api::{AuditEntry, Event};
use sqlx::{Connection, SqliteConnection};

use self::files::OpenedFile;
pub use self::{
    audit::AuditLog,
    backup::{Backups, Restored, restore},
    error::StoreError,
    history::{EventFilter, History},
};
use crate::model::{MachineKey, Row, TokenRow};

/// Change of a row of the resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowChange {
    /// Inserts or replaces the row.
    Put(Box<Row>),
    /// Deletes the row of this uid.
    Delete(String),
}

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

/// Changes that are committed as one transaction.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Commit {
    /// Changes of resources.
    pub rows: Vec<RowChange>,
    /// New events, in ascending order of their ids.
    pub events: Vec<Event>,
    /// Ids of events whose writes were rolled back.
    pub retracted: Vec<u64>,
    /// Changes of tokens and of the audit log.
    pub aux_records: Vec<AuxRecord>,
}

/// Largest number of bound values in a statement (`SQLITE_MAX_VARIABLE_NUMBER`).
const MAX_VARIABLES: usize = 32_766;

/// Largest number of rows of an INSERT whose prepared statement is cached: small commits repeat.
const CACHED_ROWS: usize = 8;

/// Open database, with the one connection that writes.
#[derive(Debug)]
pub struct Store {
    connection: SqliteConnection,
    /// True if a commit failed and its connection could not be replaced yet.
    must_reconnect: bool,
    path: PathBuf,
    /// The files that are written: the database and its write-ahead log.
    opened: [OpenedFile; 2],
}

impl Store {
    /// Opens the database; creates it if there is none, and migrates an older one (after a copy
    /// beside it).
    ///
    /// # Errors
    /// If the database is newer, damaged or unreadable; it is left as it is then.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        files::make_private(path).map_err(|error| open_error(path, error.into()))?;
        // SQLite puts the write-ahead log where a symbolic link leads to.
        let path = &fs::canonicalize(path).map_err(|error| open_error(path, error.into()))?;
        let database = OpenedFile::of(path);

        let mut connection = schema::connect_writer(path)
            .await
            .map_err(|source| open_error(path, source))?;
        schema::check_integrity(&mut connection, path).await?;
        schema::migrate(&mut connection, path).await?;

        let wal = OpenedFile::of(&files::path_beside(path, "-wal"));
        Ok(Self {
            connection,
            must_reconnect: false,
            path: path.to_owned(),
            opened: [database, wal],
        })
    }

    /// Reads all resources.
    ///
    /// # Errors
    /// If the database cannot be read; a row that cannot be decoded is damage.
    pub async fn load_resources(&mut self) -> Result<Vec<Row>, StoreError> {
        let rows = resources::load_rows(&mut self.connection).await;
        rows.map_err(|source| self.read_error(source))
    }

    /// Reads all tokens.
    ///
    /// # Errors
    /// If the database cannot be read; a row that cannot be decoded is damage.
    pub async fn load_tokens(&mut self) -> Result<Vec<TokenRow>, StoreError> {
        let tokens = tokens::load_tokens(&mut self.connection).await;
        tokens.map_err(|source| self.read_error(source))
    }

    /// Reads the key of this machine, which was created with the database.
    ///
    /// # Errors
    /// If the database cannot be read; a key that is missing or not 32 bytes long is damage.
    pub async fn load_machine_key(&mut self) -> Result<MachineKey, StoreError> {
        let key = schema::load_machine_key(&mut self.connection).await;
        key.map_err(|source| self.read_error(source))
    }

    /// Reads the id of the newest event; 0 if there is none.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn load_newest_event_id(&mut self) -> Result<u64, StoreError> {
        let newest = history::load_newest_id(&mut self.connection).await;
        newest.map_err(|source| self.read_error(source))
    }

    /// Reads the id of the newest entry of the audit log, also of a deleted one; 0 if there never
    /// was one.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn load_newest_audit_id(&mut self) -> Result<u64, StoreError> {
        let newest = audit::load_newest_id(&mut self.connection).await;
        newest.map_err(|source| self.read_error(source))
    }

    fn read_error(&self, source: sqlx::Error) -> StoreError {
        StoreError::from_sqlx(&self.path, "read", source)
    }

    /// Commits changes as one durable transaction.
    ///
    /// # Errors
    /// If the database cannot be written; nothing of the commit is recorded then.
    pub async fn commit(&mut self, commit: &Commit) -> Result<(), StoreError> {
        if *commit == Commit::default() {
            return Ok(());
        }
        for file in &self.opened {
            file.check()?;
        }
        if self.must_reconnect {
            self.reconnect()
                .await
                .map_err(|source| open_error(&self.path, source))?;
        }

        let result = self.write_commit(commit).await;
        if result.is_err() {
            self.must_reconnect = self.overwrite_failed_commit().await.is_err();
        }
        result.map_err(|source| StoreError::from_sqlx(&self.path, "write", source))
    }

    /// Writes a commit as one transaction.
    ///
    /// The rows of a table are one INSERT: each statement is a round trip to the thread of
    /// sqlx-sqlite. Processor time in ms for 1, 100 and 3,000 resources with an event each: this
    /// function 0.39, 2.0 and 50; one text of all statements 0.12, 1.9 and 72. On a disk a commit of
    /// one resource takes at least 0.72 ms, and 0.54 as one text.
    async fn write_commit(&mut self, commit: &Commit) -> sqlx::Result<()> {
        let mut deleted = Vec::new();
        let mut put = Vec::new();
        for change in &commit.rows {
            match change {
                RowChange::Put(row) => put.push(&**row),
                RowChange::Delete(uid) => deleted.push(uid.as_str()),
            }
        }
        // Rows that free a name come before those that take it.
        put.sort_by_key(|row| row.desired.is_some());

        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        resources::delete_rows(&mut transaction, &deleted).await?;
        resources::upsert_rows(&mut transaction, &put).await?;
        history::delete_events(&mut transaction, &commit.retracted).await?;
        history::insert_events(&mut transaction, &commit.events).await?;
        history::trim_events(&mut transaction, &commit.events).await?;
        write_aux_records(&mut transaction, &commit.aux_records).await?;
        transaction.commit().await
    }

    /// Replaces the connection after a failed commit: SQLite may have rolled back the transaction
    /// by itself while sqlx still counts it as open, and a later commit within it would not end it.
    async fn reconnect(&mut self) -> sqlx::Result<()> {
        let fresh = schema::connect_writer(&self.path).await?;
        let failed = std::mem::replace(&mut self.connection, fresh);
        // The old connection is of no use, whether it closes in order or not.
        let _ = failed.close().await;
        self.must_reconnect = false;
        Ok(())
    }

    /// Overwrites what a failed commit left in the write-ahead log. If only its fsync(2) failed, it
    /// is complete there, and a crash before the next commit would make it durable.
    async fn overwrite_failed_commit(&mut self) -> sqlx::Result<()> {
        self.reconnect().await?;
        // A commit of one page that changes nothing
        // (https://www.sqlite.org/pragma.html#pragma_user_version).
        sqlx::query("PRAGMA user_version = 0")
            .execute(&mut self.connection)
            .await
            .map(drop)
    }

    /// Releases cached memory: SQLite's pages, and the statement of a commit of many rows.
    pub async fn release_memory(&mut self) {
        // sqlx keeps the last statement that is not cached, which becomes this one.
        let shrink = sqlx::query("PRAGMA shrink_memory").persistent(false);
        if let Err(error) = shrink.execute(&mut self.connection).await {
            tracing::debug!(%error, "SQLite keeps its memory");
        }
    }

    /// Closes the database in order: SQLite folds the write-ahead log in.
    pub async fn close(self) {
        if let Err(error) = self.connection.close().await {
            tracing::warn!(%error, "cannot close the database in order");
        }
    }
}

/// Writes changes of tokens in their order, then those of the audit log.
async fn write_aux_records(
    connection: &mut SqliteConnection,
    records: &[AuxRecord],
) -> sqlx::Result<()> {
    let mut new_entries = Vec::new();
    let mut deleted_entries = Vec::new();
    for record in records {
        match record {
            AuxRecord::PutToken(token) => tokens::insert_token(connection, token).await?,
            AuxRecord::DeleteToken(name) => tokens::delete_token(connection, name).await?,
            AuxRecord::PutAudit(entry) => new_entries.push(entry),
            AuxRecord::DeleteAudit(id) => deleted_entries.push(*id),
        }
    }
    audit::insert_entries(connection, &new_entries).await?;
    audit::delete_entries(connection, &deleted_entries).await?;
    audit::trim_entries(connection, &new_entries).await
}

fn open_error(path: &Path, source: sqlx::Error) -> StoreError {
    StoreError::from_sqlx(path, "open", source)
}

/// Converts an id or a counter to SQLite's signed integer.
fn to_integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Converts the result of an aggregate; 0 if there was no row.
fn to_unsigned(number: Option<i64>) -> u64 {
    number
        .and_then(|number| u64::try_from(number).ok())
        .unwrap_or(0)
}
