//! What happens, as a stream of Server-Sent Events or as a list.

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

/// How often a comment is sent while nothing happens.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Events read at once.
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
    // What is no longer kept cannot be told, and a number yet to come is none of this history.
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

/// Where a reader that was cut off goes on (`Last-Event-ID`).
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
            format!("Last-Event-ID: {value:?} is not the number of an event"),
        )
    };
    id.map(Some).ok_or_else(wrong)
}

/// One reader: it holds its place in the history and nothing else, so that a slow one costs nothing
/// and holds up nobody.
struct Reader {
    history: History,
    filter: EventFilter,
    /// The number of the last event that it was given.
    at: u64,
    /// Read, and not given yet; the next one last.
    read: Vec<Event>,
    lifetime: StreamLifetime,
}

impl Reader {
    /// The next event; none once the daemon stops or the reader may no longer read, or when the
    /// reader was too slow for what is kept.
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
                tracing::info!(
                    at = self.at,
                    "a reader of events was too slow and is cut off"
                );
                return None;
            }
            if self.history.newest_id() == self.at {
                tokio::select! {
                    there_is_more = self.history.wait_for_event_after(self.at) => there_is_more.then_some(())?,
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
                    tracing::error!(%error, "events cannot be read");
                    return None;
                }
            }
        }
    }
}
