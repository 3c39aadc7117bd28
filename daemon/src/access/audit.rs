//! What the audit log says of a request.

use std::sync::{Mutex, PoisonError};

use netnsd_api::AuditEntry;

/// The entry of one request. A write's is recorded in one commit with what it changes, a command's once it has begun: both say
/// what the answer will be. What is left unrecorded, or is answered otherwise, is recorded before it is answered.
#[derive(Debug)]
pub struct Audit {
    /// Without its number and its status.
    draft: AuditEntry,
    recorded: Mutex<Option<AuditEntry>>,
}

impl Audit {
    /// Of a request that has no answer yet.
    pub fn new(draft: AuditEntry) -> Self {
        Self { draft, recorded: Mutex::default() }
    }

    /// The entry, once it is answered by this HTTP status.
    pub fn answered(&self, status: u16) -> AuditEntry {
        AuditEntry { status, ..self.draft.clone() }
    }

    /// Remembers the entry that is durable, if one is; what was remembered before.
    pub fn remember(&self, entry: Option<AuditEntry>) -> Option<AuditEntry> {
        std::mem::replace(&mut *self.recorded.lock().unwrap_or_else(PoisonError::into_inner), entry)
    }

    /// Whether it is durable that the answer was of this status.
    pub fn says(&self, status: u16) -> bool {
        let recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        recorded.as_ref().is_some_and(|entry| entry.status == status)
    }
}
