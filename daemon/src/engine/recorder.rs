//! Recorder: the only part of the engine that commits, and the only one that knows the audit log.
//!
//! A commit is one transaction of rows, events, and records beside the resources (tokens and audit
//! entries). Confirmations of what was done wait in memory for the next commit, or are flushed once
//! the engine is idle. Events are shown to readers once they are durable.
//!
//! **Invariant:** a commit that fails records nothing, and everything that waited before it still
//! waits after it, in the same order.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use netnsd_api::{AuditEntry, EventType, ResourceRef, Role};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::{
    AUX_LANE_CAPACITY, AuxRequest, RecordError,
    batch::PendingWrite,
    journal::Journal,
    records::{Records, RowChanges},
};
use crate::{
    access::{Refusals, audit},
    metrics::Metrics,
    model::{MachineKey, Record, Row, TokenRow},
    store::{AuxRecord, Commit, RowChange, Store, StoreError},
};

/// Idle time before confirmations are flushed.
const FLUSH_DELAY: Duration = Duration::from_millis(5);
/// Time between a failed commit and the next flush.
const FLUSH_RETRY: Duration = Duration::from_secs(1);

/// Audit entries of admins that wait in memory until they can be recorded, at most.
pub(super) const BACKLOG_CAPACITY: usize = 1024;

/// Contents of the database at the start.
pub(super) struct Stored {
    pub key: MachineKey,
    pub rows: Vec<Row>,
    pub tokens: Vec<TokenRow>,
}

/// Store, journal, and everything that waits for a commit.
pub(super) struct Recorder {
    store: Store,
    journal: Journal,
    /// Rows to write with the next commit, by uid.
    confirmations: RowChanges,
    /// Time of the last failed commit; `None` after one that succeeded.
    flush_failed_at: Option<Instant>,
    /// Requests to record tokens and audit entries.
    aux_lane: mpsc::Receiver<AuxRequest>,
    /// Taken off the lane: they are recorded, or fail, with the next commit.
    pending_aux_writes: Vec<AuxRequest>,
    /// Audit entries of admins that could not be recorded yet.
    backlog: Vec<AuditEntry>,
    refusals: Arc<Refusals>,
    /// Id of the newest audit entry.
    last_audit_id: u64,
    /// Recorded audit entries of writes that were rolled back.
    retracted_audit_ids: Vec<u64>,
    /// Number of rows and events of the largest commit since memory was last released.
    largest_commit: usize,
    metrics: Arc<Metrics>,
}

impl Recorder {
    /// Opens the database and reads it; `shown` receives the id of the newest durable event.
    ///
    /// # Errors
    /// When the database cannot be opened or read.
    pub async fn open(
        database: &Path,
        aux_lane: mpsc::Receiver<AuxRequest>,
        refusals: Arc<Refusals>,
        shown: watch::Sender<u64>,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, Stored), StoreError> {
        let mut store = Store::open(database).await?;
        let rows = store.load_resources().await?;
        let tokens = store.load_tokens().await?;
        let journal = Journal::new(store.load_newest_event_id().await?, shown);
        let last_audit_id = store.load_newest_audit_id().await?;
        let key = store.load_machine_key().await?;
        let recorder = Self {
            store,
            journal,
            confirmations: BTreeMap::new(),
            flush_failed_at: None,
            aux_lane,
            pending_aux_writes: Vec::new(),
            backlog: Vec::new(),
            refusals,
            last_audit_id,
            retracted_audit_ids: Vec::new(),
            largest_commit: 0,
            metrics,
        };
        Ok((recorder, Stored { key, rows, tokens }))
    }

    /// Adds an event, which is recorded with the next commit.
    pub fn add_event(
        &mut self,
        event_type: EventType,
        resource: &ResourceRef,
        uid: Option<&str>,
        detail: Value,
    ) {
        self.journal
            .add(event_type, resource.kind, &resource.name, uid, detail);
    }

    /// Adds an event of a namespace that netnsd does not manage.
    pub fn add_foreign_netns_event(&mut self, event_type: EventType, name: &str) {
        self.journal.add(
            event_type,
            netnsd_api::Kind::Namespace,
            name,
            None,
            json!({}),
        );
    }

    /// Shows the durable events to readers.
    pub fn publish_events(&self) {
        self.journal.show();
    }

    /// Writes a resource's row with the next commit.
    pub fn confirm(&mut self, records: &Records, resource: &ResourceRef) {
        if let Some(record) = records.get(resource) {
            self.confirmations
                .insert(record.uid.clone(), RowChange::Put(Box::new(record.row())));
        }
    }

    /// Deletes the row of this uid with the next commit.
    pub fn confirm_deletion(&mut self, uid: String) {
        self.confirmations
            .insert(uid.clone(), RowChange::Delete(uid));
    }

    /// Waits for a record beside the resources; `None` once every sender is gone. It waits in the
    /// recorder for the next commit.
    pub async fn receive_aux_request(&mut self) -> Option<()> {
        let request = self.aux_lane.recv().await?;
        self.pending_aux_writes.push(request);
        Some(())
    }

    /// Returns true if records beside the resources wait in the lane.
    pub fn has_aux_requests(&self) -> bool {
        !self.aux_lane.is_empty()
    }

    /// Returns the time of the next flush; `None` if nothing waits.
    pub fn next_due(&self) -> Option<Instant> {
        let is_waiting = !self.confirmations.is_empty()
            || !self.retracted_audit_ids.is_empty()
            || !self.backlog.is_empty()
            || self.journal.has_unrecorded();
        let flush = is_waiting.then(|| match self.flush_failed_at {
            Some(failed) => failed + FLUSH_RETRY,
            None => Instant::now() + FLUSH_DELAY,
        });
        flush.into_iter().chain(self.refusals.due_at()).min()
    }

    /// Commits a batch: its rows, its events, its audit entries, and everything that waits.
    ///
    /// # Errors
    /// When the database cannot be written; then nothing is recorded.
    pub async fn commit_batch(
        &mut self,
        records: &Records,
        batch: &mut [PendingWrite],
    ) -> Result<(), Arc<StoreError>> {
        if !self.backlog.is_empty() {
            // Its entries are older, and so have lower ids.
            self.flush().await;
        }
        let first = self.journal.next_id();
        let (mut rows, mut aux_records, mut audits) = (BTreeMap::new(), Vec::new(), Vec::new());
        for write in batch {
            if let Some((audit, entry)) = write.audit_entry() {
                let entry = self.number_audit_entry(entry);
                aux_records.push(AuxRecord::PutAudit(entry.clone()));
                audits.push((audit, entry));
            }
            let start = self.journal.next_id();
            for (resource, previous) in write.previous() {
                records.add_row_changes(resource, previous.as_ref(), &mut rows);
                self.add_intent_event(resource, previous.as_ref(), records.get(resource));
            }
            write.set_events(start..self.journal.next_id());
        }
        let result = self.commit(rows, aux_records).await;
        match result {
            Ok(()) => {
                for (audit, entry) in audits {
                    audit.set_recorded(Some(entry));
                }
            }
            Err(_) => self.journal.drop_from(first),
        }
        result
    }

    /// Adds the event of a changed intent.
    fn add_intent_event(
        &mut self,
        resource: &ResourceRef,
        before: Option<&Record>,
        after: Option<&Record>,
    ) {
        let (event_type, detail) = match (before, after) {
            (None, _) => (EventType::Created, json!({})),
            // Only its adoption is new.
            (Some(before), Some(after)) if before.generation == after.generation => return,
            (Some(_), Some(after)) => (EventType::Updated, json!({"generation": after.generation})),
            (Some(_), None) => (EventType::Deleted, json!({})),
        };
        let uid = after.or(before).map(|record| record.uid.as_str());
        self.add_event(event_type, resource, uid, detail);
    }

    /// Retracts the events and the audit entry of a write that is rolled back; the next commit
    /// deletes them.
    pub fn retract(&mut self, write: &PendingWrite) {
        let recorded = write.audit().and_then(|audit| audit.set_recorded(None));
        self.retracted_audit_ids
            .extend(recorded.map(|entry| entry.id));
        self.journal.retract(write.events());
    }

    /// Commits the rows of writes that were rolled back; if that fails they wait for the next
    /// commit.
    pub async fn commit_rollback(&mut self, rows: RowChanges) {
        if let Err(error) = self.commit(rows.clone(), Vec::new()).await {
            tracing::error!(%error, "cannot persist rollback; will retry");
            self.confirmations.extend(rows);
        }
    }

    /// Commits everything that waits, and shows the events.
    pub async fn flush(&mut self) {
        match self.commit(BTreeMap::new(), Vec::new()).await {
            Ok(()) => self.journal.show(),
            Err(error) => {
                if self.flush_failed_at.is_none() {
                    tracing::warn!(%error, "cannot persist confirmations; will retry");
                }
                self.flush_failed_at = Some(Instant::now());
            }
        }
    }

    /// Flushes for the last time, and closes the database.
    pub async fn close(mut self) {
        self.refusals.end_window();
        self.flush().await;
        if !self.backlog.is_empty() {
            tracing::error!(count = self.backlog.len(), "audit entries are lost");
        }
        self.store.close().await;
    }

    /// Returns the number of rows and events of the largest commit since the last call.
    pub fn take_largest_commit(&mut self) -> usize {
        std::mem::take(&mut self.largest_commit)
    }

    /// Releases SQLite's memory.
    pub async fn release_memory(&mut self) {
        self.store.release_memory().await;
    }

    /// Commits rows and their audit entries, together with everything that waits.
    async fn commit(
        &mut self,
        rows: RowChanges,
        mut aux_records: Vec<AuxRecord>,
    ) -> Result<(), Arc<StoreError>> {
        let mut all = self.confirmations.clone();
        all.extend(rows);
        let (events, retracted) = self.journal.unrecorded();
        let refusals = self.refusals.take_due();
        self.add_waiting_audit(&refusals, &mut aux_records);
        let requests = self.take_aux_requests();
        for request in &requests {
            aux_records.push(self.number_aux_record(&request.record));
        }
        self.largest_commit = self.largest_commit.max(all.len() + events.len());
        let commit = Commit {
            rows: all.into_values().collect(),
            events,
            retracted,
            aux_records,
        };

        let start = Instant::now();
        let result = self.store.commit(&commit).await.map_err(Arc::new);
        if result.is_ok() {
            log_audit_records(&commit.aux_records);
        }
        self.answer_aux_requests(requests, &result);
        if result.is_err() {
            self.refusals.put_back(refusals);
        }
        if commit != Commit::default() {
            self.metrics.record_commit(start.elapsed(), result.is_err());
        }
        result?;

        self.confirmations.clear();
        self.retracted_audit_ids.clear();
        self.backlog.clear();
        self.journal.mark_recorded();
        self.flush_failed_at = None;
        Ok(())
    }

    /// Takes the records that wait in the lane: in one commit, none waits for writes or needs a
    /// commit of its own. Their number is bounded, and with it the length of the statement's text.
    fn take_aux_requests(&mut self) -> Vec<AuxRequest> {
        let mut requests = std::mem::take(&mut self.pending_aux_writes);
        requests
            .extend(std::iter::from_fn(|| self.aux_lane.try_recv().ok()).take(AUX_LANE_CAPACITY));
        requests
    }

    /// Adds retractions, the backlog and counted refusals to the records of a commit.
    fn add_waiting_audit(&mut self, refusals: &[AuditEntry], aux_records: &mut Vec<AuxRecord>) {
        let retracted = self.retracted_audit_ids.iter().copied();
        aux_records.extend(retracted.map(AuxRecord::DeleteAudit));
        for entry in self.backlog.clone().iter().chain(refusals) {
            let entry = self.number_audit_entry(entry.clone());
            aux_records.push(AuxRecord::PutAudit(entry));
        }
    }

    fn number_aux_record(&mut self, record: &AuxRecord) -> AuxRecord {
        match record {
            AuxRecord::PutAudit(entry) => {
                AuxRecord::PutAudit(self.number_audit_entry(entry.clone()))
            }
            AuxRecord::PutToken(_) | AuxRecord::DeleteToken(_) | AuxRecord::DeleteAudit(_) => {
                record.clone()
            }
        }
    }

    /// Returns an audit entry with the next id.
    fn number_audit_entry(&mut self, entry: AuditEntry) -> AuditEntry {
        self.last_audit_id += 1;
        AuditEntry {
            id: self.last_audit_id,
            ..entry
        }
    }

    /// Answers the requests of a commit. An audit entry that could not be recorded is logged.
    fn answer_aux_requests(
        &mut self,
        requests: Vec<AuxRequest>,
        result: &Result<(), Arc<StoreError>>,
    ) {
        for AuxRequest { record, answer } in requests {
            let answered = match result {
                Ok(()) => Ok(()),
                Err(error) => {
                    if let AuxRecord::PutAudit(entry) = &record {
                        audit::log_entry(entry, false);
                    }
                    if self.add_to_backlog(&record) {
                        Ok(())
                    } else {
                        Err(RecordError::Store(error.clone()))
                    }
                }
            };
            let _ = answer.send(answered); // the client may be gone
        }
    }

    /// Adds an entry that could not be recorded to the backlog, and returns true, if it says what
    /// an admin did and there is room: somebody must be able to act while the database fails.
    fn add_to_backlog(&mut self, record: &AuxRecord) -> bool {
        let AuxRecord::PutAudit(entry) = record else {
            return false;
        };
        let fits = entry.role == Some(Role::Admin)
            && entry.status < 400
            && self.backlog.len() < BACKLOG_CAPACITY;
        if fits {
            self.backlog.push(entry.clone());
        }
        fits
    }
}

/// Logs the audit entries that are durable now, and the retractions.
fn log_audit_records(records: &[AuxRecord]) {
    for record in records {
        match record {
            AuxRecord::PutAudit(entry) => audit::log_entry(entry, true),
            AuxRecord::DeleteAudit(id) => audit::log_retraction(*id),
            AuxRecord::PutToken(_) | AuxRecord::DeleteToken(_) => {}
        }
    }
}
