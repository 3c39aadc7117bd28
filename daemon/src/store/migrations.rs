//! The files of `migrations/`, in order.
//!
//! Not by `sqlx::migrate!`: for that macro SQLite and sqlx would be built a second time, for the
//! compiler.

use sqlx::{
    SqlSafeStr,
    migrate::{Migration, MigrationType, Migrator},
};

/// Name and content of a migration.
macro_rules! migration {
    ($file:literal) => {
        ($file, include_str!(concat!("../../../migrations/", $file)))
    };
}

/// Names and contents: `NNNN_description.sql`.
const FILES: &[(&str, &str)] = &[
    migration!("0001_resources.sql"),
    migration!("0002_events.sql"),
    migration!("0003_access.sql"),
    migration!("0004_adopt.sql"),
    migration!("0005_macs.sql"),
    migration!("0007_audit.sql"),
    migration!("0008_token_host.sql"),
    migration!("0009_audit_failed.sql"),
    migration!("0010_kinds.sql"),
];

/// Returns the migrations as `sqlx::migrate!` makes them, with the same checksums.
pub(super) fn migrator() -> Migrator {
    let migrations = FILES.iter().filter_map(|(file, sql)| {
        let (version, description) = split_name(file)?;
        Some(Migration::new(
            version,
            description.into(),
            MigrationType::Simple,
            SqlSafeStr::into_sql_str(*sql),
            false,
        ))
    });
    Migrator {
        migrations: migrations.collect::<Vec<_>>().into(),
        ..Migrator::DEFAULT
    }
}

/// Returns version and description of `NNNN_description.sql`.
fn split_name(file: &str) -> Option<(i64, String)> {
    let (version, description) = file.strip_suffix(".sql")?.split_once('_')?;
    Some((version.parse().ok()?, description.replace('_', " ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_file_is_listed() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations");
        let mut files: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let listed: Vec<&str> = FILES.iter().map(|(file, _)| *file).collect();
        assert_eq!(files, listed, "FILES is not the content of migrations/");
        assert_eq!(migrator().iter().count(), files.len());
    }
}
