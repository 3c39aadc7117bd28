//! Files of the database: private to the daemon, and checked to be at their paths.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::StoreError;

/// Identity of an open file, and the path where it was opened.
#[derive(Debug, Clone)]
pub(super) struct OpenedFile {
    path: PathBuf,
    /// Device and inode; `None` if there was no file.
    identity: Option<(u64, u64)>,
}

impl OpenedFile {
    /// Remembers the file at this path.
    pub fn of(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            identity: identity_at(path),
        }
    }

    /// Checks that the file is still at its path: SQLite continues to use a file that was removed
    /// or replaced, and what it writes there is lost.
    ///
    /// # Errors
    /// [`StoreError::Replaced`] if the file is gone, or another is at its path.
    pub fn check(&self) -> Result<(), StoreError> {
        if identity_at(&self.path) == self.identity {
            Ok(())
        } else {
            Err(StoreError::Replaced {
                path: self.path.clone(),
            })
        }
    }
}

fn identity_at(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Returns the path of a file beside another: its name with a suffix, as of the write-ahead log
/// (`-wal`) and its index (`-shm`).
pub(super) fn path_beside(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Creates the database's file if there is none, and removes the access of others from it and the
/// files beside it: it holds hashes of tokens and the audit log. SQLite gives the latter the mode
/// of the former (`findCreateFileMode()`, os_unix.c).
pub(super) fn make_private(database: &Path) -> io::Result<()> {
    create_private(database)?;
    for path in [
        database.to_owned(),
        path_beside(database, "-wal"),
        path_beside(database, "-shm"),
    ] {
        let Ok(metadata) = fs::metadata(&path) else {
            continue;
        };
        let mode = metadata.permissions().mode();
        if metadata.is_file() && mode & 0o077 != 0 {
            tracing::warn!(
                path = %path.display(),
                "others had access to a file of the database: access removed"
            );
            fs::set_permissions(&path, Permissions::from_mode(mode & 0o700))?;
        }
    }
    Ok(())
}

/// Creates an empty file that only its owner can open.
///
/// # Errors
/// If it exists, or cannot be created.
pub(super) fn create_new_private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Creates an empty file that only its owner can open, if there is none.
pub(super) fn create_private(path: &Path) -> io::Result<()> {
    match create_new_private(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}
