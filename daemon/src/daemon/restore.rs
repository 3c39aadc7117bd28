//! `netnsd restore`: puts a backup in the place of the database.

use std::path::Path;

use super::{DaemonError, Result, build_runtime, prerequisites::lock_state_dir};
use crate::{settings::Settings, store};

/// Restores a backup; returns a sentence on what was done.
///
/// # Errors
/// If a daemon runs, or the file is no backup that can be restored; the database is as it was.
pub fn restore(settings: &Settings, backup: &Path) -> Result<String> {
    let _lock_guard = lock_state_dir(&settings.state_dir)?;
    let restored = build_runtime()?
        .block_on(store::restore(&settings.database(), backup))
        .map_err(|error| DaemonError::Other(error.to_string()))?;
    let replaced = restored.replaced.map_or(String::new(), |path| {
        format!("; the database before is {}", path.display())
    });
    let resources = restored.resources;
    Ok(format!(
        "restored {resources} resource{}{replaced}",
        if resources == 1 { "" } else { "s" }
    ))
}
