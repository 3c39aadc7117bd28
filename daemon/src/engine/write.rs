//! Writes, and the answers to them.

use std::{sync::Arc, time::Duration};

use netnsd_api::{PlannedOperation, Progress, ResourceRef};
use tokio::sync::watch;

use super::Entry;
use crate::{
    access::Caller,
    intent::Proposal,
    model::{Change, ChangeKind, Precondition, WriteOutcome, main_change},
};

/// Number of writes that may wait in the queue; further ones are answered 503, `overloaded`.
pub const QUEUE_CAPACITY: usize = 1024;

/// Request to change resources.
#[derive(Debug, Clone)]
pub struct Write {
    /// Change asked for.
    pub change: Change,
    /// Conditions, all of which must hold.
    pub preconditions: Vec<Precondition>,
    /// True if only the plan is asked for.
    pub dry_run: bool,
    /// True to answer once it is applied, false to answer once it is durable.
    pub wait: bool,
    /// True to take over the devices that others made at its locations (`?adopt=true`).
    pub adopt: bool,
    /// Receives the kernel's progress.
    pub progress: Option<watch::Sender<Progress>>,
    /// Sender of the request.
    pub caller: Arc<Caller>,
}

impl Write {
    /// Returns the part that the intent validates.
    pub(super) fn proposal(&self) -> Proposal<'_> {
        Proposal {
            change: &self.change,
            preconditions: &self.preconditions,
            adopt: self.adopt,
            caller: &self.caller,
        }
    }
}

#[cfg(test)]
impl Write {
    /// Returns a synchronous write of a caller who may do everything.
    pub(crate) fn by_admin(change: Change) -> Self {
        Self {
            change,
            preconditions: Vec::new(),
            dry_run: false,
            wait: true,
            adopt: false,
            progress: None,
            caller: Arc::new(Caller::admin("a test")),
        }
    }
}

/// Answer to a write.
#[derive(Debug, Clone)]
pub struct Written {
    /// Resources that it names, each with its change (for a dry run: the change it would be).
    pub named: Vec<(ResourceRef, ChangeKind)>,
    /// Resource afterwards, if the write names exactly one that was not deleted.
    pub entry: Option<Arc<Entry>>,
    /// True if the kernel already matches; false if `wait` was false and work continues in the
    /// background.
    pub applied: bool,
    /// Operations of a dry run.
    pub plan: Vec<PlannedOperation>,
    /// Time spent on the database's commit.
    pub store: Duration,
    /// Time spent on the kernel.
    pub kernel: Duration,
}

impl Written {
    /// Returns the answer as a caller may see it: operations for resources out of its scope are
    /// left out.
    pub(super) fn redact(mut self, caller: &Caller) -> Self {
        self.entry = self.entry.map(|entry| entry.redact(caller));
        self.plan
            .retain(|operation| caller.can_access(operation.resource.name.as_str()));
        self
    }

    /// Returns the outcome.
    pub fn outcome(&self) -> WriteOutcome {
        WriteOutcome::of(&self.named, self.applied)
    }

    /// Returns the change of the first resource that it names.
    pub fn change_kind(&self) -> ChangeKind {
        main_change(&self.named)
    }
}
