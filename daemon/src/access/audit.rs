//! Entries of the audit log: the draft of one request, and the log lines of all.

use std::sync::{Mutex, OnceLock, PoisonError};

use http::StatusCode;
use netnsd_api::{AuditEntry, Role};

use crate::model::WriteOutcome;

/// Bytes of a command that an entry has at most.
const ARGV_BYTES: usize = 4096;

/// Cuts a command off after [`ARGV_BYTES`]; a last `…` stands for the rest.
fn cut_argv(argv: &[String]) -> Vec<String> {
    let (mut cut, mut left) = (Vec::new(), ARGV_BYTES);
    for argument in argv {
        // Empty arguments count too: there may be many.
        let Some(rest) = left.checked_sub(argument.len() + 1) else {
            let fits = argument
                .char_indices()
                .take_while(|(at, one)| at + one.len_utf8() <= left);
            cut.push(fits.map(|(_, one)| one).chain(['…']).collect());
            break;
        };
        left = rest;
        cut.push(argument.clone());
    }
    cut
}

/// Draft of a request's audit entry, with the entry that is durable, if one is.
///
/// The entry of a write is recorded in the commit of its changes, that of a command before the
/// command runs: both have the status that the response is expected to have. A request without an
/// entry, or whose response has another status, is recorded before its response is sent.
#[derive(Debug)]
pub struct AuditDraft {
    /// The entry, without id and status.
    draft: AuditEntry,
    argv: OnceLock<Vec<String>>,
    /// HTTP status of the response to a write, by its outcome.
    statuses: OnceLock<fn(WriteOutcome) -> StatusCode>,
    recorded: Mutex<Option<AuditEntry>>,
}

impl AuditDraft {
    /// Creates the draft of a request that has no response yet.
    pub fn new(draft: AuditEntry) -> Self {
        Self {
            draft,
            argv: OnceLock::new(),
            statuses: OnceLock::new(),
            recorded: Mutex::default(),
        }
    }

    /// Returns the entry of a response with this HTTP status.
    pub fn with_status(&self, status: u16) -> AuditEntry {
        AuditEntry {
            status,
            argv: self.argv.get().cloned(),
            ..self.draft.clone()
        }
    }

    /// Returns the entry of a write with this outcome; `None` if its status is not known before the
    /// response.
    pub fn with_outcome(&self, outcome: WriteOutcome) -> Option<AuditEntry> {
        let status_of = self.statuses.get()?;
        Some(self.with_status(status_of(outcome).as_u16()))
    }

    /// Sets the HTTP statuses of the responses to the request, which is a write.
    pub fn set_statuses(&self, status_of: fn(WriteOutcome) -> StatusCode) {
        let _ = self.statuses.set(status_of); // the first one stays
    }

    /// Adds the command of the request, unless it has one.
    pub fn set_argv(&self, argv: &[String]) {
        let _ = self.argv.set(cut_argv(argv)); // the first one stays
    }

    /// Sets the entry that is durable, if any, and returns the previous one.
    pub fn set_recorded(&self, entry: Option<AuditEntry>) -> Option<AuditEntry> {
        std::mem::replace(
            &mut *self.recorded.lock().unwrap_or_else(PoisonError::into_inner),
            entry,
        )
    }

    /// Returns true if an entry with this status is durable.
    pub fn is_recorded_with(&self, status: u16) -> bool {
        let recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        recorded
            .as_ref()
            .is_some_and(|entry| entry.status == status)
    }
}

/// `tracing` target of the log lines of audit entries.
pub const TARGET: &str = "audit";

/// Logs an entry as one line; `recorded` is false if the database does not have it. Texts are
/// quoted, so that a client cannot forge lines.
pub fn log_entry(entry: &AuditEntry, recorded: bool) {
    let AuditEntry {
        id,
        time,
        caller,
        role,
        from,
        method,
        path,
        argv,
        status,
        count,
        request_id,
    } = entry;
    let (caller, role) = (caller.as_deref(), role.map(Role::as_str));
    tracing::info!(
        target: TARGET,
        recorded,
        id,
        time,
        caller,
        role,
        from,
        method = ?method,
        path = ?path,
        argv = argv.as_ref().map(tracing::field::debug),
        status,
        count,
        request_id = ?request_id,
        "audit"
    );
}

/// Logs that an entry is no longer true: its write was rolled back.
pub fn log_retraction(id: u64) {
    tracing::info!(target: TARGET, id, "audit entry retracted");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_argv_is_cut_with_a_mark() {
        let short = ["ip".to_owned(), "link".to_owned()];
        assert_eq!(cut_argv(&short), short);
        let long = cut_argv(&["sh".to_owned(), "ä".repeat(ARGV_BYTES), "more".to_owned()]);
        assert!(long.len() == 2 && long[1].len() <= ARGV_BYTES && long[1].ends_with("ä…"));
        assert_eq!(
            cut_argv(&vec![String::new(); 9 * ARGV_BYTES]).len(),
            ARGV_BYTES + 1
        );
    }
}
