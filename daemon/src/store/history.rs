//! The history of events, for readers: connections of their own, that only read.

use std::{path::Path, time::Duration};

use netnsd_api::{Event, EventResource, EventType, Kind};
use serde_json::json;
use sqlx::{
    ConnectOptions, QueryBuilder, Sqlite, SqlitePool,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};
use tokio::sync::watch;

use super::{HISTORY, OpenedFile, StoreError, classify, integer};

/// Reads events that happened, from the oldest kept to the newest.
#[derive(Debug, Clone)]
pub struct History {
    pool: SqlitePool,
    path: std::path::PathBuf,
    file: OpenedFile,
    newest: watch::Receiver<u64>,
}

/// Which events are meant; an empty list means all.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Of resources of these kinds.
    pub kinds: Vec<Kind>,
    /// Of resources of these names.
    pub names: Vec<String>,
    /// Of resources whose names begin with this.
    pub prefix: String,
    /// Of these types.
    pub types: Vec<EventType>,
}

/// Connections to a database for readers: few, and none while nobody reads.
pub(super) fn reading(database: &Path) -> SqlitePool {
    let options = SqliteConnectOptions::new()
        .filename(database)
        .read_only(true)
        .disable_statement_logging();
    SqlitePoolOptions::new()
        .max_connections(2)
        .idle_timeout(Duration::from_secs(60))
        .connect_lazy_with(options)
}

/// Adds events.
pub(super) fn add(events: &[Event], sql: &mut QueryBuilder<Sqlite>) {
    sql.push("INSERT INTO events (id, time, type, kind, name, uid, detail) ");
    sql.push_values(events, |mut values, event| {
        values
            .push_bind(integer(event.id))
            .push_bind(event.time.clone())
            .push_bind(event.kind.as_str());
        values
            .push_bind(event.resource.kind.as_str())
            .push_bind(event.resource.name.clone());
        values
            .push_bind(event.resource.uid.clone())
            .push_bind(event.detail.to_string());
    });
    sql.push(";");
}

impl History {
    /// Over a database that is there; `newest` tells the number of the newest event that may be
    /// shown.
    pub fn new(database: &Path, newest: watch::Receiver<u64>) -> Self {
        Self {
            pool: reading(database),
            path: database.to_owned(),
            file: OpenedFile::of(database),
            newest,
        }
    }

    /// The number of the newest event.
    pub fn newest_id(&self) -> u64 {
        *self.newest.borrow()
    }

    /// Waits until there is an event after this one. False once there will be none any more.
    pub async fn wait_for_event_after(&mut self, id: u64) -> bool {
        self.newest.wait_for(|newest| *newest > id).await.is_ok()
    }

    /// The number that every event still kept is greater than.
    pub fn last_trimmed_id(&self) -> u64 {
        self.newest_id().saturating_sub(HISTORY)
    }

    /// At most `limit` events after number `after`, and the number up to which they were looked
    /// for.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn read_after(
        &self,
        after: u64,
        filter: &EventFilter,
        limit: u32,
    ) -> Result<(Vec<Event>, u64), StoreError> {
        self.file.check()?;
        let newest = self.newest_id();
        let rows: Vec<RawEvent> = sqlx::query_as(SELECT)
            .bind(integer(after))
            .bind(integer(newest))
            .bind(json!(filter.kinds).to_string())
            .bind(json!(filter.names).to_string())
            .bind(json!(filter.types).to_string())
            .bind(&filter.prefix)
            .bind(limit)
            .fetch_all(&self.pool)
            .await
            .map_err(|source| classify(&self.path, "read", source))?;
        let damaged = |reason| StoreError::Damaged {
            path: self.path.clone(),
            reason,
        };
        let events = rows
            .into_iter()
            .map(|row| row.read().map_err(damaged))
            .collect::<Result<Vec<Event>, _>>()?;
        let full = events.len() >= limit as usize;
        let looked = events
            .last()
            .filter(|_| full)
            .map_or(newest.max(after), |event| event.id);
        Ok((events, looked))
    }
}

const SELECT: &str = "
    SELECT id, time, type AS event_type, kind, name, uid, detail FROM events
    WHERE id > ?1 AND id <= ?2
        AND (?3 = '[]' OR kind IN (SELECT value FROM json_each(?3)))
        AND (?4 = '[]' OR name IN (SELECT value FROM json_each(?4)))
        AND (?5 = '[]' OR type IN (SELECT value FROM json_each(?5)))
        AND substr(name, 1, length(?6)) = ?6
    ORDER BY id LIMIT ?7";

#[derive(sqlx::FromRow)]
struct RawEvent {
    id: i64,
    time: String,
    event_type: String,
    kind: String,
    name: String,
    uid: Option<String>,
    detail: String,
}

impl RawEvent {
    fn read(self) -> Result<Event, String> {
        let text = |error: &dyn std::fmt::Display| format!("event {}: {error}", self.id);
        Ok(Event {
            id: u64::try_from(self.id).map_err(|error| text(&error))?,
            kind: self.event_type.parse().map_err(|error| text(&error))?,
            resource: EventResource {
                kind: self.kind.parse().map_err(|error| text(&error))?,
                name: self.name.clone(),
                uid: self.uid.clone(),
            },
            detail: serde_json::from_str(&self.detail).map_err(|error| text(&error))?,
            time: self.time.clone(),
        })
    }
}
