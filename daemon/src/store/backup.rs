//! Backup of the database while it is written, and restore while no daemon has it open.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use sqlx::{Connection, SqliteConnection};
use tokio::sync::Mutex;

use super::{OpenedFile, StoreError, files, open_error, resources, schema, tokens};

/// Makes backups on connections of its own.
#[derive(Debug)]
pub struct Backups {
    path: PathBuf,
    file: OpenedFile,
    /// Held while the copy has its name.
    turn: Mutex<()>,
}

impl Backups {
    /// Makes backups of the database at this path, which is open.
    pub fn new(database: &Path) -> Self {
        Self {
            path: database.to_owned(),
            file: OpenedFile::of(database),
            turn: Mutex::new(()),
        }
    }

    /// Writes everything that is committed to a new file, and returns it; its name is removed
    /// already. Writers do not wait for it.
    ///
    /// # Errors
    /// If the database cannot be read, or the copy not be written beside it.
    pub async fn create(&self) -> Result<File, StoreError> {
        self.file.check()?;
        let copy = files::path_beside(&self.path, ".backup");
        let _turn = self.turn.lock().await;
        let written = async {
            let mut connection = schema::connect_reader(&self.path).await?;
            write_copy(&mut connection, &copy).await?;
            connection.close().await?;
            Ok(File::open(&copy)?)
        };
        let written = written.await;
        let removed = fs::remove_file(&copy);
        written
            .and_then(|file| removed.map(|()| file).map_err(sqlx::Error::from))
            .map_err(|source| StoreError::from_sqlx(&self.path, "back up", source))
    }
}

/// Writes a copy of the database, as one transaction sees it, to a private file of this name.
pub(super) async fn write_copy(connection: &mut SqliteConnection, copy: &Path) -> sqlx::Result<()> {
    // VACUUM INTO refuses a file that is not empty; an interrupted attempt may have left one.
    remove_if_present(copy)?;
    files::create_private(copy)?;
    sqlx::query("VACUUM INTO ?")
        .bind(copy.to_string_lossy().into_owned())
        .execute(connection)
        .await
        .map(drop)
}

/// Outcome of a restore.
#[derive(Debug)]
pub struct Restored {
    /// Number of resources in the backup.
    pub resources: usize,
    /// Path of the database that was replaced; `None` if there was none.
    pub replaced: Option<PathBuf>,
}

/// Puts a copy of a backup, brought up to the schema of this program, in the place of a database
/// that is not open. The one that was there becomes `NAME.replaced.db`.
///
/// # Errors
/// If the backup is not a database of netnsd, damaged or newer, or a file cannot be written. The
/// database is as it was then.
pub async fn restore(database: &Path, backup: &Path) -> Result<Restored, StoreError> {
    let copy = files::path_beside(database, ".restore");
    let restored = async {
        let resources = check_backup(backup, &copy).await?;
        let replaced = replace(database, &copy)
            .await
            .map_err(|source| StoreError::from_sqlx(database, "replace", source))?;
        Ok(Restored {
            resources,
            replaced,
        })
    };
    let restored = restored.await;
    // Gone already after a success.
    let _ = remove_database(&copy);
    restored
}

/// Copies a backup to a file of this name and checks it there, so that the backup stays as it is;
/// returns the number of its resources.
async fn check_backup(backup: &Path, copy: &Path) -> Result<usize, StoreError> {
    copy_files(backup, copy).map_err(|source| StoreError::Io {
        operation: "copy",
        path: backup.to_owned(),
        source: source.into(),
    })?;
    let invalid = |reason: String| StoreError::InvalidBackup {
        path: backup.to_owned(),
        reason,
    };
    let checked = async {
        let mut connection = schema::connect_copy(copy)
            .await
            .map_err(|source| open_error(copy, source))?;
        let failed = |source| StoreError::from_sqlx(copy, "read", source);
        schema::check_integrity(&mut connection, copy).await?;
        schema::upgrade(&mut connection, copy).await?;
        let rows = resources::load_rows(&mut connection)
            .await
            .map_err(failed)?;
        tokens::load_tokens(&mut connection).await.map_err(failed)?;
        schema::load_machine_key(&mut connection)
            .await
            .map_err(failed)?;
        connection.close().await.map_err(failed)?;
        Ok(rows.iter().filter(|row| row.desired.is_some()).count())
    };
    match checked.await {
        Ok(count) => Ok(count),
        Err(StoreError::Damaged { reason, .. }) => Err(invalid(format!("it is damaged: {reason}"))),
        Err(StoreError::Newer { version, .. }) => Err(invalid(format!(
            "it was written by a newer netnsd (its schema is version {version}): install that \
             version first"
        ))),
        Err(StoreError::InvalidBackup { reason, .. }) => Err(invalid(reason)),
        Err(error @ (StoreError::Io { .. } | StoreError::Replaced { .. })) => Err(error),
    }
}

/// Copies a database, and its write-ahead log if it was copied without being closed.
fn copy_files(backup: &Path, copy: &Path) -> io::Result<()> {
    remove_database(copy)?;
    let mut from = File::open(backup)?;
    let log = match File::open(files::path_beside(backup, "-wal")) {
        Ok(log) => Some(log),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    io::copy(&mut from, &mut files::create_new_private(copy)?)?;
    if let Some(mut log) = log {
        let to = files::path_beside(copy, "-wal");
        io::copy(&mut log, &mut files::create_new_private(&to)?)?;
    }
    Ok(())
}

/// Renames the copy to the database; returns the new path of the old one. At each instant one of
/// the two is at the database's path.
async fn replace(database: &Path, copy: &Path) -> sqlx::Result<Option<PathBuf>> {
    File::open(copy)?.sync_all()?;
    let replaced = database.with_extension("replaced.db");
    let is_present = database.exists();
    if is_present {
        // Closing it folds the write-ahead log in. A damaged one keeps it, under its new name.
        if let Ok(connection) = schema::connect_writer(database).await {
            let _ = connection.close().await;
        }
        remove_database(&replaced)?;
        fs::hard_link(database, &replaced)?;
    }
    // The log of the old database must not be applied to the new one.
    let (log, index) = (
        files::path_beside(database, "-wal"),
        files::path_beside(database, "-shm"),
    );
    if log.exists() {
        fs::rename(&log, files::path_beside(&replaced, "-wal"))?;
    }
    remove_if_present(&index)?;
    fs::rename(copy, database)?;
    if let Some(directory) = database.parent() {
        File::open(directory)?.sync_all()?;
    }
    Ok(is_present.then_some(replaced))
}

/// Removes a database, with the files that SQLite may have left beside it.
fn remove_database(path: &Path) -> io::Result<()> {
    for suffix in ["-wal", "-shm", "-journal"] {
        remove_if_present(&files::path_beside(path, suffix))?;
    }
    remove_if_present(path)
}

fn remove_if_present(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
