//! Table `events`: the history of events. Only the newest are kept.

use std::path::{Path, PathBuf};

use netnsd_api::{Event, EventResource, EventType, Kind};
use serde_json::json;
use sqlx::{FromRow, QueryBuilder, Row, Sqlite, SqliteConnection, SqlitePool, sqlite::SqliteRow};
use tokio::sync::watch;

use super::{CACHED_ROWS, MAX_VARIABLES, OpenedFile, StoreError, schema, to_integer, to_unsigned};

/// Number of events that are kept: the newest.
const EVENTS_KEPT: u64 = 32_768;

/// Older events are deleted whenever the id of a new one passes a multiple of this.
const TRIM_INTERVAL: u64 = 1024;

/// Number of columns that `insert_events` writes.
const COLUMNS: usize = 7;

/// Inserts events.
pub(super) async fn insert_events(
    connection: &mut SqliteConnection,
    events: &[Event],
) -> sqlx::Result<()> {
    for chunk in events.chunks(MAX_VARIABLES / COLUMNS) {
        let mut insert = QueryBuilder::<Sqlite>::new(
            "INSERT INTO events (id, time, type, kind, name, uid, detail) ",
        );
        insert.push_values(chunk, |mut values, event| {
            values
                .push_bind(to_integer(event.id))
                .push_bind(event.time.clone())
                .push_bind(event.kind.as_str())
                .push_bind(event.resource.kind.as_str())
                .push_bind(event.resource.name.clone())
                .push_bind(event.resource.uid.clone())
                .push_bind(event.detail.to_string());
        });
        insert
            .build()
            .persistent(chunk.len() <= CACHED_ROWS)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Deletes the events of these ids.
pub(super) async fn delete_events(
    connection: &mut SqliteConnection,
    ids: &[u64],
) -> sqlx::Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query("DELETE FROM events WHERE id IN (SELECT value FROM json_each(?))")
        .bind(json!(ids).to_string())
        .execute(connection)
        .await
        .map(drop)
}

/// Deletes the oldest events, if these new ones make it due.
pub(super) async fn trim_events(
    connection: &mut SqliteConnection,
    new: &[Event],
) -> sqlx::Result<()> {
    let (Some(first), Some(last)) = (new.first(), new.last()) else {
        return Ok(());
    };
    if (first.id - 1) / TRIM_INTERVAL == last.id / TRIM_INTERVAL {
        return Ok(());
    }
    sqlx::query("DELETE FROM events WHERE id <= ?")
        .bind(to_integer(last.id.saturating_sub(EVENTS_KEPT)))
        .execute(connection)
        .await
        .map(drop)
}

/// Returns the id of the newest event; 0 if there is none.
pub(super) async fn load_newest_id(connection: &mut SqliteConnection) -> sqlx::Result<u64> {
    let newest: Option<i64> = sqlx::query_scalar("SELECT max(id) FROM events")
        .fetch_one(connection)
        .await?;
    Ok(to_unsigned(newest))
}

/// Reader of the history, on connections of its own.
#[derive(Debug, Clone)]
pub struct History {
    pool: SqlitePool,
    path: PathBuf,
    file: OpenedFile,
    newest: watch::Receiver<u64>,
}

/// Selection of events; an empty list selects all.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Kinds of the resources.
    pub kinds: Vec<Kind>,
    /// Names of the resources.
    pub names: Vec<String>,
    /// Prefix of the resources' names.
    pub prefix: String,
    /// Types of the events.
    pub types: Vec<EventType>,
}

impl History {
    /// Creates a reader of an existing database; `newest` holds the id of the newest event that
    /// may be shown.
    pub fn new(database: &Path, newest: watch::Receiver<u64>) -> Self {
        Self {
            pool: schema::reader_pool(database),
            path: database.to_owned(),
            file: OpenedFile::of(database),
            newest,
        }
    }

    /// Returns the id of the newest event.
    pub fn newest_id(&self) -> u64 {
        *self.newest.borrow()
    }

    /// Waits until there is an event after this id; returns false if there will be none, because
    /// the engine has ended.
    pub async fn wait_for_event_after(&mut self, id: u64) -> bool {
        self.newest.wait_for(|newest| *newest > id).await.is_ok()
    }

    /// Returns the id of the newest event that may be deleted: all later ones are kept.
    pub fn last_trimmed_id(&self) -> u64 {
        self.newest_id().saturating_sub(EVENTS_KEPT)
    }

    /// Returns at most `limit` events after the id `after`, in ascending order, and the id up to
    /// which events were searched.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn read_after(
        &self,
        after: u64,
        filter: &EventFilter,
        limit: u32,
    ) -> Result<(Vec<Event>, u64), StoreError> {
        self.file.check()?;
        let newest = self.newest_id();
        let events = self
            .select_events(after, newest, filter, limit)
            .await
            .map_err(|source| StoreError::from_sqlx(&self.path, "read", source))?;

        let is_full = events.len() >= limit as usize;
        let searched = match events.last() {
            Some(last) if is_full => last.id,
            _ => newest.max(after),
        };
        Ok((events, searched))
    }

    async fn select_events(
        &self,
        after: u64,
        newest: u64,
        filter: &EventFilter,
        limit: u32,
    ) -> sqlx::Result<Vec<Event>> {
        let stored: Vec<StoredEvent> = sqlx::query_as(
            "SELECT id, time, type AS event_type, kind, name, uid, detail FROM events
            WHERE id > ?1 AND id <= ?2
                AND (?3 = '[]' OR kind IN (SELECT value FROM json_each(?3)))
                AND (?4 = '[]' OR name IN (SELECT value FROM json_each(?4)))
                AND (?5 = '[]' OR type IN (SELECT value FROM json_each(?5)))
                AND substr(name, 1, length(?6)) = ?6
            ORDER BY id LIMIT ?7",
        )
        .bind(to_integer(after))
        .bind(to_integer(newest))
        .bind(json!(filter.kinds).to_string())
        .bind(json!(filter.names).to_string())
        .bind(json!(filter.types).to_string())
        .bind(&filter.prefix)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        stored.into_iter().map(StoredEvent::decode).collect()
    }
}

struct StoredEvent {
    id: i64,
    time: String,
    event_type: String,
    kind: String,
    name: String,
    uid: Option<String>,
    detail: String,
}

impl FromRow<'_, SqliteRow> for StoredEvent {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            time: row.try_get("time")?,
            event_type: row.try_get("event_type")?,
            kind: row.try_get("kind")?,
            name: row.try_get("name")?,
            uid: row.try_get("uid")?,
            detail: row.try_get("detail")?,
        })
    }
}

impl StoredEvent {
    fn decode(self) -> sqlx::Result<Event> {
        Ok(Event {
            id: self.column(u64::try_from(self.id))?,
            kind: self.column(self.event_type.parse())?,
            resource: EventResource {
                kind: self.column(self.kind.parse())?,
                name: self.name.clone(),
                uid: self.uid.clone(),
            },
            detail: self.column(serde_json::from_str(&self.detail))?,
            time: self.time,
        })
    }

    /// Names the event in the error of one of its columns.
    fn column<T>(&self, result: Result<T, impl std::fmt::Display>) -> sqlx::Result<T> {
        result.map_err(|error| sqlx::Error::Decode(format!("event {}: {error}", self.id).into()))
    }
}
