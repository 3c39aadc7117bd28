//! Events between their happening and their being shown: they are recorded with the next commit,
//! and shown once durable.

use crate::model::format_rfc3339;
use jiff::Timestamp;
use netnsd_api::{Event, EventResource, EventType, Kind};
use serde_json::Value;
use tokio::sync::watch;

/// The most events that wait while the database cannot be written; the oldest give way.
const WAITING: usize = 50_000;

/// The events of the engine.
#[derive(Debug)]
pub(super) struct Journal {
    next: u64,
    /// Happened, and not recorded yet.
    waiting: Vec<Event>,
    /// Recorded, and to be taken out of the record: events of writes that were taken back.
    retracted: Vec<u64>,
    /// Recorded up to here.
    recorded: u64,
    /// Shown up to here.
    shown: watch::Sender<u64>,
}

impl Journal {
    /// After the newest event of the record.
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

    /// The number of the next event.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Notes that something happened.
    pub fn add(
        &mut self,
        what: EventType,
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
        if self.waiting.len() >= WAITING {
            self.waiting.drain(..WAITING / 10);
        }
        self.waiting.push(Event {
            id: self.next,
            time: format_rfc3339(Timestamp::now()),
            kind: what,
            resource,
            detail,
        });
        self.next += 1;
    }

    /// Forgets events from this number on, none of which is recorded.
    pub fn forget_from(&mut self, id: u64) {
        self.waiting.retain(|event| event.id < id);
        self.next = id;
    }

    /// Has recorded events taken back.
    pub fn retract(&mut self, ids: std::ops::Range<u64>) {
        self.retracted.extend(ids);
    }

    /// Whether there is something to record.
    pub fn has_news(&self) -> bool {
        !self.waiting.is_empty() || !self.retracted.is_empty()
    }

    /// What is to be recorded: events, and those to be taken out again.
    pub fn news(&self) -> (Vec<Event>, Vec<u64>) {
        (self.waiting.clone(), self.retracted.clone())
    }

    /// The news were recorded.
    pub fn recorded(&mut self) {
        // With their room: a document has thousands.
        (self.waiting, self.retracted) = (Vec::new(), Vec::new());
        self.recorded = self.next - 1;
    }

    /// Shows what is recorded, unless some of it is yet to be taken back.
    pub fn show(&self) {
        if self.retracted.is_empty() && *self.shown.borrow() != self.recorded {
            self.shown.send_replace(self.recorded);
        }
    }
}
