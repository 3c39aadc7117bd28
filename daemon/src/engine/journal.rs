//! Journal: events from their occurrence until readers may see them. They are recorded with the
//! next commit, and shown once they are durable.

use crate::model::format_rfc3339;
use jiff::Timestamp;
use netnsd_api::{Event, EventResource, EventType, Kind};
use serde_json::Value;
use tokio::sync::watch;

/// Number of events that wait while the database cannot be written; then the oldest are dropped.
const MAX_WAITING: usize = 50_000;

/// Events that are not recorded yet, and how far the others are shown.
#[derive(Debug)]
pub(super) struct Journal {
    /// Id of the next event.
    next: u64,
    /// Events that are not recorded yet.
    waiting: Vec<Event>,
    /// Ids of recorded events to delete: their writes were rolled back.
    retracted: Vec<u64>,
    /// Id of the newest recorded event.
    recorded: u64,
    /// Receives the id of the newest event that readers may see.
    shown: watch::Sender<u64>,
}

impl Journal {
    /// Returns the journal of a database whose newest event has this id.
    pub fn new(newest: u64, shown: watch::Sender<u64>) -> Self {
        shown.send_replace(newest);
        Self {
            next: newest + 1,
            waiting: Vec::new(),
            retracted: Vec::new(),
            recorded: newest,
            shown,
        }
    }

    /// Returns the id of the next event.
    pub fn next_id(&self) -> u64 {
        self.next
    }

    /// Adds an event.
    pub fn add(
        &mut self,
        event_type: EventType,
        kind: Kind,
        name: impl ToString,
        uid: Option<&str>,
        detail: Value,
    ) {
        let resource = EventResource {
            kind,
            name: name.to_string(),
            uid: uid.map(ToOwned::to_owned),
        };
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.drain(..MAX_WAITING / 10);
        }
        self.waiting.push(Event {
            id: self.next,
            time: format_rfc3339(Timestamp::now()),
            kind: event_type,
            resource,
            detail,
        });
        self.next += 1;
    }

    /// Drops the events from this id on, none of which is recorded.
    pub fn drop_from(&mut self, id: u64) {
        self.waiting.retain(|event| event.id < id);
        self.next = id;
    }

    /// Deletes recorded events with the next commit.
    pub fn retract(&mut self, ids: std::ops::Range<u64>) {
        self.retracted.extend(ids);
    }

    /// Returns true if there is something to record.
    pub fn has_unrecorded(&self) -> bool {
        !self.waiting.is_empty() || !self.retracted.is_empty()
    }

    /// Returns the events to record, and the ids of those to delete.
    pub fn unrecorded(&self) -> (Vec<Event>, Vec<u64>) {
        (self.waiting.clone(), self.retracted.clone())
    }

    /// Notes that everything was recorded.
    pub fn mark_recorded(&mut self) {
        // New vectors release the memory: a document has thousands of events.
        (self.waiting, self.retracted) = (Vec::new(), Vec::new());
        self.recorded = self.next - 1;
    }

    /// Shows the recorded events to readers, unless some of them are still to be deleted.
    pub fn show(&self) {
        if self.retracted.is_empty() && *self.shown.borrow() != self.recorded {
            self.shown.send_replace(self.recorded);
        }
    }
}
