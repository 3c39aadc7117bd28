//! SQLite: the durable form of the intent, read at the start only, and the history of events. One
//! connection writes.

mod access;
mod files;
mod history;

use std::{
    fs, io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use netnsd_api::{Event, Kind};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{
    ConnectOptions, Connection, QueryBuilder, Sqlite, SqliteConnection,
    migrate::{Migrate, MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use self::files::OpenedFile;
pub use self::{
    access::{AuditLog, AuxRecord},
    history::{EventFilter, History},
};
use crate::model::{MachineKey, Row, Spec, TokenRow};

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// Why the store could not be opened or written: a sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is of a newer netnsd.
    #[error(
        "{path} was written by a newer netnsd (its schema is version {version}): install that version again, or restore a backup"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema's version.
        version: i64,
    },
    /// The file is damaged.
    #[error(
        "{path} is damaged ({reason}): stop netnsd, keep the file, and put a backup in its place"
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is not in its place any more.
    #[error(
        "{path} was removed or replaced while netnsd had it open, so that nothing is recorded any more: save what is asked for (GET /v1/topology), stop netnsd, put a backup in its place, and start netnsd"
    )]
    Replaced {
        /// The database, or its write-ahead log.
        path: PathBuf,
    },
    /// The disk or the file system refuses.
    #[error("cannot {doing} {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The database.
        path: PathBuf,
        /// Why it failed.
        source: sqlx::Error,
    },
}

/// A change of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowChange {
    /// Inserts or replaces it.
    Put(Box<Row>),
    /// Deletes the row of this uid.
    Delete(String),
}

/// What is committed as one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Commit {
    /// Changes of resources.
    pub rows: Vec<RowChange>,
    /// Events that happened, in the order of their ids.
    pub events: Vec<Event>,
    /// Events of writes that were taken back.
    pub retracted: Vec<u64>,
    /// Tokens and entries of the audit log.
    pub aux_records: Vec<AuxRecord>,
}

/// How many events are kept; the newest.
pub const HISTORY: u64 = 32_768;
/// Older events are deleted whenever their number passes a multiple of this.
const TRIM: u64 = 1024;
/// So many rows are put by one statement: it may have 32,766 values (`SQLITE_MAX_VARIABLE_NUMBER`).
const AT_ONCE: usize = 3000;
/// So many are read at once: what they are as text is in memory beside them.
const READ_AT_ONCE: i64 = 1024;
/// A commit of so many rows is one of a kind that comes again and again.
const SHORT: usize = 8;

/// The open database.
#[derive(Debug)]
pub struct Store {
    connection: SqliteConnection,
    /// Whether a commit failed on this connection.
    failed: bool,
    path: PathBuf,
    /// The files that are written: the database and its write-ahead log.
    opened: [OpenedFile; 2],
}

impl Store {
    /// Opens the database, makes it if there is none, and brings an older one up to date (after a
    /// copy beside it).
    ///
    /// # Errors
    /// A newer, damaged or unreadable database, which is left as it is.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let io = |source: io::Error| classify(path, "open", source.into());
        files::close_to_others(path).map_err(io)?;
        // Where it is a link, SQLite puts what is beside it where it leads to.
        let path = &fs::canonicalize(path).map_err(io)?;
        let opened = [OpenedFile::of(path), OpenedFile::of(path)];
        let connection = connect(path)
            .await
            .map_err(|source| classify(path, "open", source))?;
        let mut store = Self {
            connection,
            failed: false,
            path: path.to_owned(),
            opened,
        };
        store.check().await?;
        store.migrate().await?;
        store.opened[1] = OpenedFile::of(&files::beside(path, "-wal"));
        Ok(store)
    }

    async fn check(&mut self) -> Result<(), StoreError> {
        let report: String = sqlx::query_scalar("PRAGMA quick_check(1)")
            .fetch_one(&mut self.connection)
            .await
            .map_err(|source| classify(&self.path, "check", source))?;
        if report != "ok" {
            return Err(StoreError::Damaged {
                path: self.path.clone(),
                reason: report,
            });
        }
        Ok(())
    }

    async fn migrate(&mut self) -> Result<(), StoreError> {
        let io = |path: &Path, source: MigrateError| StoreError::Io {
            doing: "migrate",
            path: path.to_owned(),
            source: sqlx::Error::Migrate(Box::new(source)),
        };
        let table = MIGRATIONS.table_name.clone();
        self.connection
            .ensure_migrations_table(&table)
            .await
            .map_err(|source| io(&self.path, source))?;
        let applied = self
            .connection
            .list_applied_migrations(&table)
            .await
            .map_err(|source| io(&self.path, source))?;
        let newest = MIGRATIONS
            .iter()
            .map(|migration| migration.version)
            .max()
            .unwrap_or(0);
        let present = applied
            .iter()
            .map(|migration| migration.version)
            .max()
            .unwrap_or(0);
        if present > newest {
            return Err(StoreError::Newer {
                path: self.path.clone(),
                version: present,
            });
        }
        if present != 0 && present < newest {
            self.copy(present).await?;
        }
        MIGRATIONS
            .run(&mut self.connection)
            .await
            .map_err(|source| io(&self.path, source))
    }

    /// Copies the database beside itself, before it is migrated.
    async fn copy(&mut self, version: i64) -> Result<(), StoreError> {
        let copy = self.path.with_extension(format!("v{version}.backup.db"));
        // A copy from an earlier, failed try is as good; half of one is none.
        if copy.exists() {
            return Ok(());
        }
        let failed = |source: sqlx::Error| StoreError::Io {
            doing: "copy",
            path: self.path.clone(),
            source,
        };
        let half = files::beside(&copy, ".half");
        // VACUUM INTO takes an empty file, and only that.
        let _none = fs::remove_file(&half);
        files::make_closed(&half).map_err(|error| failed(error.into()))?;
        let vacuum = sqlx::query("VACUUM INTO ?").bind(half.to_string_lossy().into_owned());
        vacuum.execute(&mut self.connection).await.map_err(failed)?;
        fs::rename(&half, &copy).map_err(|error| failed(error.into()))
    }

    /// Everything recorded.
    ///
    /// # Errors
    /// A row that cannot be read is damage.
    pub async fn load_resources(&mut self) -> Result<Vec<Row>, StoreError> {
        let mut rows = Vec::new();
        let mut after = Some(0);
        while let Some(rowid) = after {
            let (json, last) = self
                .load_some(rowid)
                .await
                .map_err(|source| classify(&self.path, "read", source))?;
            let damaged = |reason| StoreError::Damaged {
                path: self.path.clone(),
                reason,
            };
            let raw: Vec<RawRow> =
                serde_json::from_str(&json).map_err(|error| damaged(error.to_string()))?;
            for raw in raw {
                let uid = raw.uid.clone();
                rows.push(
                    raw.read()
                        .map_err(|reason| damaged(format!("row {uid}: {reason}")))?,
                );
            }
            after = last;
        }
        Ok(rows)
    }

    /// Rows after this one, as one text: each by itself would take a way from SQLite's thread to
    /// this one. And the last of them, if there are any.
    async fn load_some(&mut self, after: i64) -> sqlx::Result<(String, Option<i64>)> {
        sqlx::query_as(
            "SELECT json_group_array(json_object('uid', uid, 'kind', kind, 'name', name, 'generation', generation,
                'created_at', created_at, 'updated_at', updated_at, 'desired', desired, 'applied', applied, 'prior', prior,
                'adopt', adopt, 'macs', macs)), max(rowid)
            FROM (SELECT rowid, * FROM resources WHERE rowid > ? ORDER BY rowid LIMIT ?)",
        )
        .bind(after)
        .bind(READ_AT_ONCE)
        .fetch_one(&mut self.connection)
        .await
    }

    /// Every token.
    ///
    /// # Errors
    /// A row that cannot be read is damage.
    pub async fn load_tokens(&mut self) -> Result<Vec<TokenRow>, StoreError> {
        let rows = access::tokens(&mut self.connection)
            .await
            .map_err(|source| classify(&self.path, "read", source))?;
        let damaged = |reason| StoreError::Damaged {
            path: self.path.clone(),
            reason,
        };
        rows.into_iter().map(|row| row.map_err(damaged)).collect()
    }

    /// The key of this machine, made with the database.
    ///
    /// # Errors
    /// A missing key, or one of another length, is damage.
    pub async fn load_machine_key(&mut self) -> Result<MachineKey, StoreError> {
        let key: Vec<u8> = sqlx::query_scalar("SELECT key FROM machine WHERE id = 1")
            .fetch_one(&mut self.connection)
            .await
            .map_err(|source| classify(&self.path, "read", source))?;
        let reason = format!("the machine's key has {} bytes and not 32", key.len());
        key.try_into().map_err(|_| StoreError::Damaged {
            path: self.path.clone(),
            reason,
        })
    }

    /// The number of the newest event; 0 if there is none.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn load_newest_event_id(&mut self) -> Result<u64, StoreError> {
        self.newest("SELECT max(id) FROM events").await
    }

    /// The number of the newest entry of the audit log, also of one that is gone; 0 if there never
    /// was one.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn load_newest_audit_id(&mut self) -> Result<u64, StoreError> {
        self.newest("SELECT max(seq) FROM sqlite_sequence WHERE name = 'audit'")
            .await
    }

    async fn newest(&mut self, select: &'static str) -> Result<u64, StoreError> {
        let newest: Option<i64> = sqlx::query_scalar(select)
            .fetch_one(&mut self.connection)
            .await
            .map_err(|source| classify(&self.path, "read", source))?;
        Ok(newest.and_then(|id| u64::try_from(id).ok()).unwrap_or(0))
    }

    /// Commits changes as one durable transaction.
    ///
    /// # Errors
    /// When the database cannot be written; then nothing of it is recorded.
    pub async fn commit(&mut self, commit: &Commit) -> Result<(), StoreError> {
        if *commit == Commit::default() {
            return Ok(());
        }
        for file in &self.opened {
            file.check()?;
        }
        if self.failed {
            self.renew()
                .await
                .map_err(|source| classify(&self.path, "open", source))?;
        }
        let result = self.try_commit(commit).await;
        if result.is_err() {
            self.failed = self.overwrite().await.is_err();
        }
        result.map_err(|source| classify(&self.path, "write", source))
    }

    /// Replaces a connection on which a commit failed: SQLite may have rolled back by itself what
    /// sqlx still counts as open, and a commit inside of that would be none.
    async fn renew(&mut self) -> sqlx::Result<()> {
        let fresh = connect(&self.path).await?;
        let _beyond_use = std::mem::replace(&mut self.connection, fresh).close().await;
        self.failed = false;
        Ok(())
    }

    /// Writes over what a failed commit left in the write-ahead log. If only its fsync(2) failed it
    /// is whole there, and would be found recorded after a crash that comes before the next commit.
    async fn overwrite(&mut self) -> sqlx::Result<()> {
        self.renew().await?;
        // A commit of one page that changes nothing
        // (https://www.sqlite.org/pragma.html#pragma_user_version).
        sqlx::query("PRAGMA user_version = 0")
            .execute(&mut self.connection)
            .await
            .map(drop)
    }

    /// The whole transaction in one text: each by itself, its statements would take as many ways to
    /// SQLite's thread and back.
    async fn try_commit(&mut self, commit: &Commit) -> sqlx::Result<()> {
        let mut sql = QueryBuilder::new("BEGIN IMMEDIATE;");
        let deleted: Vec<&str> = commit.rows.iter().filter_map(RowChange::deleted).collect();
        delete("resources WHERE uid", &deleted, &mut sql);
        let mut rows: Vec<&Row> = commit.rows.iter().filter_map(RowChange::put).collect();
        // What frees a name goes before what takes it.
        rows.sort_by_key(|row| row.desired.is_some());
        for rows in rows.chunks(AT_ONCE) {
            put_rows(rows, &mut sql).map_err(encode)?;
        }
        delete("events WHERE id", &commit.retracted, &mut sql);
        for events in commit.events.chunks(AT_ONCE) {
            history::add(events, &mut sql);
        }
        if let [first, .., last] | [first @ last] = &commit.events[..]
            && (first.id - 1) / TRIM != last.id / TRIM
        {
            sql.push("DELETE FROM events WHERE id <= ");
            sql.push_bind(integer(last.id.saturating_sub(HISTORY)))
                .push(";");
        }
        access::write(&commit.aux_records, &mut sql);
        sql.push("COMMIT");
        // Only texts that come again are worth being kept by sqlx, with what SQLite makes of them.
        let short = commit.rows.len() + commit.events.len() <= SHORT;
        let result = sql
            .build()
            .persistent(short)
            .execute(&mut self.connection)
            .await;
        if result.is_err() {
            // If it began at all, and if it is not over already.
            let _none_to_roll_back = sqlx::query("ROLLBACK").execute(&mut self.connection).await;
        }
        result.map(drop)
    }

    /// Lets go of what is kept for the next time: SQLite's pages, and the statement of a commit of
    /// many rows.
    pub async fn release_memory(&mut self) {
        // Of statements that do not come again sqlx keeps the last one: now this.
        let shrink = sqlx::query("PRAGMA shrink_memory").persistent(false);
        if let Err(error) = shrink.execute(&mut self.connection).await {
            tracing::debug!(%error, "SQLite keeps its memory");
        }
    }

    /// Closes the database in order (the WAL is folded in).
    pub async fn close(self) {
        if let Err(error) = self.connection.close().await {
            tracing::warn!(%error, "closing the database");
        }
    }
}

async fn connect(path: &Path) -> sqlx::Result<SqliteConnection> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(5))
        // In KiB. Everything is read once, at the start.
        .pragma("cache_size", "-512")
        .disable_statement_logging();
    options.connect().await
}

/// Deletes the rows of these keys, if there are any; `rows` is the table, and the column of the
/// keys.
fn delete(rows: &str, keys: &[impl Serialize], sql: &mut QueryBuilder<Sqlite>) {
    if !keys.is_empty() {
        sql.push(format_args!(
            "DELETE FROM {rows} IN (SELECT value FROM json_each("
        ));
        sql.push_bind(json!(keys).to_string()).push("));");
    }
}

fn put_rows(rows: &[&Row], sql: &mut QueryBuilder<Sqlite>) -> serde_json::Result<()> {
    let text = |row: &&Row| {
        let applied = row
            .applied
            .iter()
            .map(Spec::to_json)
            .collect::<serde_json::Result<Value>>()?;
        Ok((
            row.desired.as_deref().map(Spec::to_text).transpose()?,
            applied.to_string(),
        ))
    };
    let texts = rows
        .iter()
        .map(text)
        .collect::<serde_json::Result<Vec<_>>>()?;
    sql.push(
        "INSERT INTO resources (uid, kind, name, generation, created_at, updated_at, desired, applied, prior, adopt, macs) ",
    );
    sql.push_values(
        rows.iter().zip(texts),
        |mut values, (row, (desired, applied))| {
            values
                .push_bind(row.uid.clone())
                .push_bind(row.kind.as_str())
                .push_bind(row.name.to_string());
            values.push_bind(integer(row.generation));
            values
                .push_bind(row.created_at.to_string())
                .push_bind(row.updated_at.to_string());
            values
                .push_bind(desired)
                .push_bind(applied)
                .push_bind(json!(row.prior).to_string())
                .push_bind(row.adopt);
            values.push_bind(json!(row.macs).to_string());
        },
    );
    sql.push(
        " ON CONFLICT (uid) DO UPDATE SET generation = excluded.generation, updated_at = excluded.updated_at,
        desired = excluded.desired, applied = excluded.applied, prior = excluded.prior, adopt = excluded.adopt,
        macs = excluded.macs;",
    );
    Ok(())
}

/// A number as SQLite has them.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn encode(error: serde_json::Error) -> sqlx::Error {
    sqlx::Error::Encode(Box::new(error))
}

impl RowChange {
    fn put(&self) -> Option<&Row> {
        match self {
            RowChange::Put(row) => Some(row),
            RowChange::Delete(_) => None,
        }
    }

    fn deleted(&self) -> Option<&str> {
        match self {
            RowChange::Put(_) => None,
            RowChange::Delete(uid) => Some(uid),
        }
    }
}

#[derive(Deserialize)]
struct RawRow {
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

impl RawRow {
    fn read(self) -> Result<Row, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let kind = Kind::from_str(&self.kind).map_err(|error| text(&error))?;
        let desired = |json: &str| {
            let mut json = serde_json::Deserializer::from_str(json);
            let spec = Spec::from_json(kind, &mut json)?;
            json.end().map(|()| Arc::new(spec))
        };
        let applied: Vec<Value> =
            serde_json::from_str(&self.applied).map_err(|error| text(&error))?;
        let applied = applied
            .into_iter()
            .map(|value| Spec::from_json(kind, value));
        Ok(Row {
            uid: self.uid,
            kind,
            name: self.name.parse().map_err(|error| text(&error))?,
            generation: u64::try_from(self.generation).map_err(|error| text(&error))?,
            created_at: self.created_at.parse().map_err(|error| text(&error))?,
            updated_at: self.updated_at.parse().map_err(|error| text(&error))?,
            desired: self
                .desired
                .as_deref()
                .map(desired)
                .transpose()
                .map_err(|error| text(&error))?,
            applied: applied
                .collect::<Result<_, _>>()
                .map_err(|error| text(&error))?,
            prior: serde_json::from_str(&self.prior).map_err(|error| text(&error))?,
            adopt: self.adopt != 0,
            macs: serde_json::from_str(&self.macs).map_err(|error| text(&error))?,
        })
    }
}

/// Tells damage from an unwilling disk: SQLite's primary result codes CORRUPT (11) and NOTADB (26).
fn classify(path: &Path, doing: &'static str, source: sqlx::Error) -> StoreError {
    let code = match &source {
        sqlx::Error::Database(error) => error.code().and_then(|code| code.parse::<i64>().ok()),
        _ => None,
    };
    match code.map(|code| code & 0xff) {
        Some(11 | 26) => StoreError::Damaged {
            path: path.to_owned(),
            reason: source.to_string(),
        },
        _ => StoreError::Io {
            doing,
            path: path.to_owned(),
            source,
        },
    }
}

#[cfg(test)]
mod tests {
    use netnsd_api::Namespace;

    use super::*;

    fn row(uid: &str, name: &str) -> Row {
        let spec: Namespace = serde_json::from_value(serde_json::json!({"name": name})).unwrap();
        Row {
            uid: uid.into(),
            kind: Kind::Namespace,
            name: name.parse().unwrap(),
            generation: 1,
            created_at: "2026-11-24T20:11:04.512Z".parse().unwrap(),
            updated_at: "2026-11-24T20:11:04.512Z".parse().unwrap(),
            desired: Some(Arc::new(Spec::Namespace(spec))),
            applied: Vec::new(),
            prior: std::collections::BTreeMap::from([(
                "net.ipv4.ip_forward".parse().unwrap(),
                "0".into(),
            )]),
            adopt: true,
            macs: vec![netnsd_api::Mac([2, 0, 0, 0, 0, 1])],
        }
    }

    fn put(row: Row) -> RowChange {
        RowChange::Put(Box::new(row))
    }

    fn rows<const N: usize>(rows: [RowChange; N]) -> Commit {
        Commit {
            rows: rows.into(),
            ..Commit::default()
        }
    }

    #[tokio::test]
    async fn what_was_committed_is_there_when_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("netnsd.db");
        let mut store = Store::open(&path).await.unwrap();
        let deleted = Row {
            desired: None,
            applied: row("a", "net0")
                .desired
                .as_deref()
                .cloned()
                .into_iter()
                .collect(),
            ..row("a", "net0")
        };
        store.commit(&rows([put(row("a", "net0"))])).await.unwrap();
        // The name is taken again while what had it is not cleared away.
        store
            .commit(&rows([put(row("b", "net0")), put(deleted.clone())]))
            .await
            .unwrap();
        store.close().await;
        let mut store = Store::open(&path).await.unwrap();
        assert_eq!(
            store.load_resources().await.unwrap(),
            [deleted, row("b", "net0")]
        );
        store
            .commit(&rows([RowChange::Delete("a".into())]))
            .await
            .unwrap();
        assert_eq!(store.load_resources().await.unwrap(), [row("b", "net0")]);
    }

    #[tokio::test]
    async fn a_refused_commit_records_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(&dir.path().join("netnsd.db")).await.unwrap();
        let twice = rows([put(row("a", "net0")), put(row("b", "net0"))]);
        store.commit(&twice).await.unwrap_err();
        assert_eq!(store.load_resources().await.unwrap(), []);
        store.commit(&rows([put(row("a", "net0"))])).await.unwrap();
    }

    #[tokio::test]
    async fn refusals_do_not_displace_what_was_done() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("netnsd.db");
        let mut store = Store::open(&path).await.unwrap();
        let entry = |id, status| netnsd_api::AuditEntry {
            id,
            time: "2026-11-24T20:11:04.512Z".into(),
            caller: Some("uid 1000".into()),
            role: None,
            from: "unix".into(),
            method: "POST".into(),
            path: "/v1".into(),
            argv: Some(vec!["ip".into(), "a b".into()]),
            status,
            count: 7,
            request_id: "-".into(),
        };
        store
            .commit(&Commit {
                aux_records: vec![AuxRecord::PutAudit(entry(1, 200))],
                ..Commit::default()
            })
            .await
            .unwrap();
        let flood = "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 40959)
            INSERT INTO audit (id, time, origin, method, path, status, request_id) SELECT i, '', '', '', '', 403, '' FROM n";
        sqlx::raw_sql(flood)
            .execute(&mut store.connection)
            .await
            .unwrap();
        store
            .commit(&Commit {
                aux_records: vec![AuxRecord::PutAudit(entry(40960, 401))],
                ..Commit::default()
            })
            .await
            .unwrap();
        let kept = AuditLog::new(&path).read(Some(0), 50_000).await.unwrap();
        assert_eq!(
            (&kept[0], kept.last().unwrap(), kept.len()),
            (&entry(1, 200), &entry(40960, 401), 1 + 4096)
        );
    }

    #[tokio::test]
    async fn replaced_file_refuses_commits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("netnsd.db");
        let mut store = Store::open(&path).await.unwrap();
        for name in ["netnsd.db", "netnsd.db-wal"] {
            let (file, away) = (dir.path().join(name), dir.path().join("away"));
            fs::rename(&file, &away).unwrap();
            let error = store
                .commit(&rows([put(row("a", "net0"))]))
                .await
                .unwrap_err();
            assert!(
                matches!(&error, StoreError::Replaced { path } if *path == file),
                "{error}"
            );
            fs::copy(&away, &file).unwrap();
            store
                .commit(&rows([put(row("a", "net0"))]))
                .await
                .unwrap_err();
            // The very file may come back.
            fs::rename(&away, &file).unwrap();
            store.commit(&rows([put(row("a", "net0"))])).await.unwrap();
        }
    }

    #[tokio::test]
    async fn noise_is_told_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("netnsd.db");
        std::fs::write(&path, [0x55; 8192]).unwrap();
        assert!(matches!(
            Store::open(&path).await,
            Err(StoreError::Damaged { .. })
        ));
        assert_eq!(std::fs::read(&path).unwrap(), [0x55; 8192]);
    }

    #[tokio::test]
    async fn a_newer_database_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("netnsd.db");
        let mut store = Store::open(&path).await.unwrap();
        sqlx::query("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (999999, 'x', 1, x'00', 0)")
            .execute(&mut store.connection)
            .await
            .unwrap();
        store.close().await;
        assert!(matches!(
            Store::open(&path).await,
            Err(StoreError::Newer {
                version: 999_999,
                ..
            })
        ));
    }
}
