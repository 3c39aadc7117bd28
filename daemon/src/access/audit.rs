//! What the audit log says of a request.

use std::sync::{Mutex, OnceLock, PoisonError};

use netnsd_api::{AuditEntry, Role};

/// Bytes of a command that are recorded.
const ARGV_BYTES: usize = 4096;

/// Returns as much of a command as is recorded; a last `…` stands for the rest.
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

/// The entry of one request. A write's is recorded in one commit with what it changes, a command's
/// once it has begun: both say what the answer will be. What is left unrecorded, or is answered
/// otherwise, is recorded before it is answered.
#[derive(Debug)]
pub struct AuditDraft {
    /// Without its number and its status.
    draft: AuditEntry,
    argv: OnceLock<Vec<String>>,
    recorded: Mutex<Option<AuditEntry>>,
}

impl AuditDraft {
    /// Of a request that has no answer yet.
    pub fn new(draft: AuditEntry) -> Self {
        Self {
            draft,
            argv: OnceLock::new(),
            recorded: Mutex::default(),
        }
    }

    /// The entry, once it is answered by this HTTP status.
    pub fn with_status(&self, status: u16) -> AuditEntry {
        AuditEntry {
            status,
            argv: self.argv.get().cloned(),
            ..self.draft.clone()
        }
    }

    /// Adds the command that is asked for, cut after [`ARGV_BYTES`]; the first one stays.
    pub fn set_argv(&self, argv: &[String]) {
        let _first_stays = self.argv.set(cut_argv(argv));
    }

    /// Remembers the entry that is durable, if one is; what was remembered before.
    pub fn set_recorded(&self, entry: Option<AuditEntry>) -> Option<AuditEntry> {
        std::mem::replace(
            &mut *self.recorded.lock().unwrap_or_else(PoisonError::into_inner),
            entry,
        )
    }

    /// Whether it is durable that the answer was of this status.
    pub fn is_recorded_with(&self, status: u16) -> bool {
        let recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        recorded
            .as_ref()
            .is_some_and(|entry| entry.status == status)
    }
}

/// Target of the log's lines that are entries of the audit log.
pub const TARGET: &str = "audit";

/// Writes an entry to the log, as one line; `recorded` unless the database does not have it. Its
/// texts are quoted: what a client sent cannot make lines of its own.
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

/// Writes to the log that an entry is not true any more: its write was taken back.
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
