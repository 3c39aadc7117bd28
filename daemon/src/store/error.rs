//! Errors of the database.

use std::path::{Path, PathBuf};

/// Reason why the database could not be opened, read or written, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The schema is newer than this program.
    #[error(
        "{path} was written by a newer netnsd (its schema is version {version}): install that \
         version again, or restore a backup"
    )]
    Newer {
        /// Path of the database.
        path: PathBuf,
        /// Version of its schema.
        version: i64,
    },
    /// The file is damaged.
    #[error(
        "{path} is damaged ({reason}): stop netnsd, keep the file, and put a backup in its place"
    )]
    Damaged {
        /// Path of the database.
        path: PathBuf,
        /// Result of the check, or the row that cannot be read.
        reason: String,
    },
    /// The file is no longer at its path.
    #[error(
        "{path} was removed or replaced while netnsd had it open, so that nothing is recorded any \
         more: save what is asked for (GET /v1/topology), stop netnsd, put a backup in its place, \
         and start netnsd"
    )]
    Replaced {
        /// Path of the database, or of its write-ahead log.
        path: PathBuf,
    },
    /// A file is not a backup that this program can restore.
    #[error("{path} cannot be restored: {reason}")]
    InvalidBackup {
        /// Path of the file.
        path: PathBuf,
        /// Result of the check.
        reason: String,
    },
    /// The disk, the file system or SQLite refused an operation.
    #[error("cannot {operation} {path}: {source}")]
    Io {
        /// Verb of the operation, such as "open" or "write".
        operation: &'static str,
        /// Path of the database.
        path: PathBuf,
        /// Error of SQLite or of the file system.
        source: sqlx::Error,
    },
}

impl StoreError {
    /// Converts an error of an operation on the database: damage if a row cannot be decoded, or by
    /// SQLite's primary result codes CORRUPT (11) and NOTADB (26); else an I/O error.
    pub(super) fn from_sqlx(path: &Path, operation: &'static str, source: sqlx::Error) -> Self {
        let reason = match &source {
            sqlx::Error::Decode(reason) => Some(reason.to_string()),
            error => is_corruption(error).then(|| error.to_string()),
        };
        let path = path.to_owned();
        match reason {
            Some(reason) => StoreError::Damaged { path, reason },
            None => StoreError::Io {
                operation,
                path,
                source,
            },
        }
    }
}

fn is_corruption(error: &sqlx::Error) -> bool {
    let code = error
        .as_database_error()
        .and_then(|error| error.code()?.parse::<i64>().ok());
    // The lower byte of an extended result code is the primary one.
    matches!(code.map(|code| code & 0xff), Some(11 | 26))
}
