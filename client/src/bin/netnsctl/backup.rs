//! `netnsctl backup`.

use std::{io::Write, path::Path};

use tempfile::NamedTempFile;

use crate::{cli::Context, error::CliError};

/// Writes a copy of the daemon's database to a file, which only its owner can read. An older file
/// of this name is replaced once the new one is complete and on the disk.
pub async fn write_backup(context: &Context, file: &Path) -> Result<(), CliError> {
    let copy = context.api.get("/v1/backup").await?;
    let directory = match file.parent() {
        Some(directory) if directory != Path::new("") => directory,
        Some(_) | None => Path::new("."),
    };
    write_whole(directory, file, &copy)
        .map_err(|error| CliError::Refused(format!("cannot write {}: {error}", file.display())))
}

fn write_whole(directory: &Path, file: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut half = NamedTempFile::new_in(directory)?;
    half.write_all(content)?;
    half.as_file().sync_all()?;
    half.persist(file)?;
    std::fs::File::open(directory)?.sync_all()
}
