//! Events, as a stream of Server-Sent Events or as a list.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{RawQuery, State},
    http::HeaderMap,
    response::{
        IntoResponse,
        sse::{self, KeepAlive, Sse},
    },
};
use futures_util::stream;
use netnsd_api::{Code, Event, Items};

use super::{
    App, headers, json::Json, lifetime::StreamLifetime, problem::Failure, query::Query,
    resource::Answer,
};
use crate::{
    access::Caller,
    store::{EventFilter, History},
};

/// Time between two comments on a stream without events, which show that the connection is alive.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Events per query of the database.
const CHUNK: u32 = 256;

pub(super) async fn events(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answer {
    let mut query = Query::read(query.as_deref())?;
    let filter = EventFilter {
        kinds: query.values("kind")?,
        names: query.conditions("name")?,
        prefix: caller.prefix.clone(),
        types: query.values("type")?,
    };
    let since = query.number("since", 0..=u64::MAX)?;
    query.finish()?;
    let history = app.history.clone();
    if headers::accepts(&headers, &["application/json"]) {
        return list(&history, since.unwrap_or(0), &filter).await;
    }
    let since = last_event_id(&headers)?.or(since);
    let newest = history.newest_id();
    // Events that were dropped cannot be sent, and an id that is still to come is not of this
    // database.
    let at = since.map_or(newest, |since| {
        since.clamp(history.last_trimmed_id(), newest)
    });
    let reader = Reader {
        history,
        filter,
        at,
        read: Vec::new(),
        lifetime: StreamLifetime::new(&app.stopping, caller),
    };
    let events = stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Some((Ok::<_, Infallible>(event), reader))
    });
    Ok(Sse::new(events)
        .keep_alive(KeepAlive::new().interval(HEARTBEAT))
        .into_response())
}

async fn list(history: &History, since: u64, filter: &EventFilter) -> Answer {
    let mut items: Vec<Event> = Vec::new();
    let mut at = since;
    loop {
        let (events, looked) = history.read_after(at, filter, CHUNK).await?;
        let more = events.len() == CHUNK as usize;
        items.extend(events);
        at = looked;
        if !more {
            return Ok(Json(Items { items }).into_response());
        }
    }
}

/// Reads `Last-Event-ID`, with which a reader resumes after its connection was closed.
fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Failure> {
    let Some(value) = headers.get("last-event-id") else {
        return Ok(None);
    };
    let id = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let wrong = || {
        Failure::new(
            Code::InvalidQuery,
            format!("Last-Event-ID: {value:?} is not an event id"),
        )
    };
    id.map(Some).ok_or_else(wrong)
}

/// Reader of a stream. It has its position in the history and one query's events, so that a slow
/// one costs little and delays nobody.
struct Reader {
    history: History,
    filter: EventFilter,
    /// Id of the last event read.
    at: u64,
    /// Events read and not sent yet, in reverse order.
    read: Vec<Event>,
    lifetime: StreamLifetime,
}

impl Reader {
    /// Returns the next event; `None` if the daemon stops, the caller's rights expire, or the
    /// reader was so slow that events it has not read were dropped.
    async fn next(&mut self) -> Option<sse::Event> {
        loop {
            if let Some(event) = self.read.pop() {
                let data = serde_json::to_string(&event).ok()?;
                return Some(
                    sse::Event::default()
                        .id(event.id.to_string())
                        .event(event.kind.as_str())
                        .data(data),
                );
            }
            if self.at < self.history.last_trimmed_id() {
                tracing::info!(at = self.at, "event reader too slow; closing its stream");
                return None;
            }
            if self.history.newest_id() == self.at {
                tokio::select! {
                    has_more = self.history.wait_for_event_after(self.at) => has_more.then_some(())?,
                    _ = self.lifetime.expired() => return None,
                }
            }
            match self.history.read_after(self.at, &self.filter, CHUNK).await {
                Ok((events, looked)) => {
                    self.at = looked;
                    self.read = events;
                    self.read.reverse();
                }
                Err(error) => {
                    tracing::error!(%error, "cannot read events");
                    return None;
                }
            }
        }
    }
}
