//! The database's files: for the daemon alone, and still in their places.

use std::{
    fs::{self, OpenOptions, Permissions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::StoreError;

/// A file that is open, and where it was opened.
#[derive(Debug, Clone)]
pub(super) struct OpenedFile {
    path: PathBuf,
    /// Its device and inode; none where there was no such file.
    file: Option<(u64, u64)>,
}

impl OpenedFile {
    /// Remembers which file is in its place.
    pub fn of(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            file: file_at(path),
        }
    }

    /// Checks that it is there still: SQLite goes on with a file that has no name any more, and
    /// what is written to it is lost.
    ///
    /// # Errors
    /// `StoreError::Replaced` if it is gone, or another is there.
    pub fn check(&self) -> Result<(), StoreError> {
        if file_at(&self.path) == self.file {
            Ok(())
        } else {
            Err(StoreError::Replaced {
                path: self.path.clone(),
            })
        }
    }
}

fn file_at(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Returns the path of the write-ahead log of a database (`-wal`) or of its index (`-shm`).
pub(super) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Makes the database's file where there is none, and takes it and the files beside it away from
/// others: it has hashes of tokens and the audit log. SQLite gives the latter the mode of the
/// former (`findCreateFileMode()`, os_unix.c).
pub(super) fn close_to_others(database: &Path) -> io::Result<()> {
    make_closed(database)?;
    for path in [
        database.to_owned(),
        beside(database, "-wal"),
        beside(database, "-shm"),
    ] {
        let Ok(metadata) = fs::metadata(&path) else {
            continue;
        };
        let mode = metadata.permissions().mode();
        if metadata.is_file() && mode & 0o077 != 0 {
            tracing::warn!(path = %path.display(), "others could read a file of the database: it is closed to them now");
            fs::set_permissions(&path, Permissions::from_mode(mode & 0o700))?;
        }
    }
    Ok(())
}

/// Makes an empty file that others cannot open, where there is none.
pub(super) fn make_closed(path: &Path) -> io::Result<()> {
    match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
    {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}
