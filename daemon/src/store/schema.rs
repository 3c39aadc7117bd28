//! Schema of the database: connection options, integrity check, migrations and the machine's key.

use std::{fs, path::Path, sync::LazyLock, time::Duration};

use sqlx::{
    ConnectOptions, SqliteConnection, SqlitePool,
    migrate::{Migrate, MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{StoreError, backup, files, migrations};
use crate::model::MachineKey;

static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(migrations::migrator);

/// Opens the connection that writes.
pub(super) async fn connect_writer(path: &Path) -> sqlx::Result<SqliteConnection> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(5))
        // In KiB. A small cache is enough: everything is read once, at the start.
        .pragma("cache_size", "-512")
        .disable_statement_logging();
    options.connect().await
}

/// Returns a pool of at most two connections that only read; idle ones are closed.
pub(super) fn reader_pool(database: &Path) -> SqlitePool {
    SqlitePoolOptions::new()
        .max_connections(2)
        .idle_timeout(Duration::from_secs(60))
        .connect_lazy_with(reader_options(database))
}

/// Opens a connection that only reads.
pub(super) async fn connect_reader(database: &Path) -> sqlx::Result<SqliteConnection> {
    reader_options(database).connect().await
}

fn reader_options(database: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(database)
        .read_only(true)
        .disable_statement_logging()
}

/// Opens a copy of a database that nobody else has open, and folds its write-ahead log in: all of
/// it is in one file.
pub(super) async fn connect_copy(path: &Path) -> sqlx::Result<SqliteConnection> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Delete)
        .synchronous(SqliteSynchronous::Full)
        .disable_statement_logging();
    options.connect().await
}

/// Checks the integrity of the database (`PRAGMA quick_check`).
///
/// # Errors
/// [`StoreError::Damaged`] with SQLite's first finding.
pub(super) async fn check_integrity(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<(), StoreError> {
    let report: String = sqlx::query_scalar("PRAGMA quick_check(1)")
        .fetch_one(connection)
        .await
        .map_err(|source| StoreError::from_sqlx(path, "check", source))?;
    if report == "ok" {
        return Ok(());
    }
    Err(StoreError::Damaged {
        path: path.to_owned(),
        // On lines of its own after the database that it is in.
        reason: report.lines().collect::<Vec<_>>().join(" "),
    })
}

/// Brings the schema up to date; an older database is copied first.
///
/// # Errors
/// [`StoreError::Newer`] if the schema is newer than this program.
pub(super) async fn migrate(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<(), StoreError> {
    let applied = check_version(connection, path).await?;
    if applied != 0 && applied < newest_version() {
        copy_database(connection, path, applied)
            .await
            .map_err(|source| StoreError::Io {
                operation: "copy",
                path: path.to_owned(),
                source,
            })?;
    }
    MIGRATIONS
        .run(connection)
        .await
        .map_err(|source| migration_error(path, source))
}

/// Brings the copy of a backup up to date.
///
/// # Errors
/// [`StoreError::InvalidBackup`] if it is not netnsd's, [`StoreError::Newer`] if its schema is
/// newer than this program.
pub(super) async fn upgrade(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<(), StoreError> {
    let not_ours = || StoreError::InvalidBackup {
        path: path.to_owned(),
        reason: "it is not a database of netnsd".to_owned(),
    };
    if check_version(connection, path).await? == 0 {
        return Err(not_ours());
    }
    match MIGRATIONS.run(connection).await {
        // Another program of the same library has its own migrations.
        Err(MigrateError::VersionMismatch(_) | MigrateError::VersionMissing(_)) => Err(not_ours()),
        result => result.map_err(|source| migration_error(path, source)),
    }
}

fn newest_version() -> i64 {
    let versions = MIGRATIONS.iter().map(|migration| migration.version);
    versions.max().unwrap_or(0)
}

/// Returns the version of the newest migration that was applied; 0 for a new database.
///
/// # Errors
/// [`StoreError::Newer`] if it is newer than this program.
async fn check_version(connection: &mut SqliteConnection, path: &Path) -> Result<i64, StoreError> {
    let applied = applied_version(connection)
        .await
        .map_err(|source| migration_error(path, source))?;
    if applied > newest_version() {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            version: applied,
        });
    }
    Ok(applied)
}

async fn applied_version(connection: &mut SqliteConnection) -> Result<i64, MigrateError> {
    let table = &MIGRATIONS.table_name;
    connection.ensure_migrations_table(table).await?;
    let applied = connection.list_applied_migrations(table).await?;
    let versions = applied.iter().map(|migration| migration.version);
    Ok(versions.max().unwrap_or(0))
}

fn migration_error(path: &Path, source: MigrateError) -> StoreError {
    StoreError::Io {
        operation: "migrate",
        path: path.to_owned(),
        source: sqlx::Error::Migrate(Box::new(source)),
    }
}

/// Copies the database to `NAME.vVERSION.backup.db` beside it.
async fn copy_database(
    connection: &mut SqliteConnection,
    path: &Path,
    version: i64,
) -> sqlx::Result<()> {
    let copy = path.with_extension(format!("v{version}.backup.db"));
    // The copy of an earlier attempt is complete: it got its name only when it was.
    if copy.exists() {
        return Ok(());
    }

    let half = files::path_beside(&copy, ".half");
    backup::write_copy(connection, &half).await?;
    fs::rename(&half, &copy)?;
    Ok(())
}

/// Reads the key of this machine, which the first migration of its table created.
pub(super) async fn load_machine_key(
    connection: &mut SqliteConnection,
) -> sqlx::Result<MachineKey> {
    let key: Vec<u8> = sqlx::query_scalar("SELECT key FROM machine WHERE id = 1")
        .fetch_one(connection)
        .await?;
    key.try_into().map_err(|key: Vec<u8>| {
        let reason = format!("the machine's key has {} bytes and not 32", key.len());
        sqlx::Error::Decode(reason.into())
    })
}
