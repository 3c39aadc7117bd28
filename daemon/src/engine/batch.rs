//! Batches of writes that are carried out together: one transaction, one netlink batch.
//!
//! Life of a write:
//!
//! | Stage | Type | Where |
//! |---|---|---|
//! | sent by a client | [`Write`](super::Write) | [`Engine::write`](super::Engine::write) |
//! | waiting in the queue | [`QueuedWrite`] | [`WriteQueue`] |
//! | validated against the intent | [`Decision`] | [`take_batch`] |
//! | in the intent in memory | [`PendingWrite`] | [`Records::apply`] |
//! | planned; refused without a trace if the plan shows a conflict | `Plan` | `Reconciler` |
//! | durable: rows, events, audit entry (answered here with `wait=false`) | `Commit` | `Recorder` |
//! | in the kernel | `ApplyOutcome` | `Reconciler` |
//! | status recorded; rolled back if the kernel refused it | `Cause` | `EngineLoop` |
//! | answered | [`Written`](super::Written) or [`WriteError`](super::WriteError) | [`QueuedWrite::answer`] |
//!
//! **Invariant:** a write that is answered with an error has left nothing in the intent, in the
//! database and in the kernel. Exception: what the kernel could not be brought back to is recorded
//! as leftovers, and retried.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use netnsd_api::{AuditEntry, Kind, Progress, ResourceRef, Role};
use tokio::sync::watch;

use super::{
    QueuedWrite, WriteError, Written,
    failure::OpFailure,
    host_addresses::{self, HostAddress},
    queue::WriteQueue,
    records::{Previous, Records},
};
use crate::{
    access::AuditDraft,
    intent::Intent,
    kernel::{Ns, Observed},
    model::{Change, ChangeKind, Decision, Spec, WriteOutcome},
    plan::{AdoptionSnapshot, Plan, PlanStatus},
};

/// Write whose changes are made in the intent, and not committed or not applied yet.
pub(super) struct PendingWrite {
    queued: QueuedWrite,
    decision: Decision,
    /// Records that it replaced, for the rollback.
    previous: Previous,
    /// Devices that it adopts, as they were found.
    adopted: BTreeMap<ResourceRef, AdoptionSnapshot>,
    /// Ids of its events.
    events: Range<u64>,
}

impl PendingWrite {
    fn new(queued: QueuedWrite, decision: Decision, previous: Previous) -> Self {
        Self {
            queued,
            decision,
            previous,
            adopted: BTreeMap::new(),
            events: 0..0,
        }
    }

    /// Returns the resources that the write names, each with its change.
    pub fn named(&self) -> &[(ResourceRef, ChangeKind)] {
        &self.decision.named
    }

    /// Returns the resources that it changes, with the records that it replaced.
    pub fn previous(&self) -> &Previous {
        &self.previous
    }

    /// Returns the resources that it changes.
    pub fn changed(&self) -> impl Iterator<Item = &ResourceRef> {
        self.previous.iter().map(|(resource, _)| resource)
    }

    /// Returns the resources that it names or changes.
    pub fn resources(&self) -> impl Iterator<Item = &ResourceRef> {
        let named = self.decision.named.iter().map(|(resource, _)| resource);
        named.chain(self.changed())
    }

    /// Returns the resource that it names, if it names exactly one.
    pub fn only_named(&self) -> Option<&ResourceRef> {
        match &self.decision.named[..] {
            [(resource, _)] => Some(resource),
            _ => None,
        }
    }

    /// Returns the receiver of the kernel's progress.
    pub fn progress(&self) -> Option<&watch::Sender<Progress>> {
        self.queued.write.progress.as_ref()
    }

    /// Returns true if the client waits until the kernel is done.
    pub fn is_sync(&self) -> bool {
        self.queued.write.wait
    }

    /// Returns true if only the plan is asked for.
    pub fn is_dry_run(&self) -> bool {
        self.queued.write.dry_run
    }

    /// Returns the audit state of its request, if the request is audited.
    pub fn audit(&self) -> Option<&Arc<AuditDraft>> {
        self.queued.write.caller.audit.as_ref()
    }

    /// Returns its audit entry, if it is recorded together with its changes.
    pub fn audit_entry(&self) -> Option<(Arc<AuditDraft>, AuditEntry)> {
        let audit = self.audit()?;
        let outcome = WriteOutcome::of(&self.decision.named, self.is_sync());
        Some((audit.clone(), audit.with_outcome(outcome)?))
    }

    /// Returns the ids of its events.
    pub fn events(&self) -> Range<u64> {
        self.events.clone()
    }

    /// Sets the ids of its events.
    pub fn set_events(&mut self, events: Range<u64>) {
        self.events = events;
    }

    /// Returns the devices that it adopts, as they were found.
    pub fn adopted(&self) -> &BTreeMap<ResourceRef, AdoptionSnapshot> {
        &self.adopted
    }

    /// Notes the devices that a plan adopts for it.
    pub fn note_adopted(&mut self, plan: &Plan) {
        let found = self
            .resources()
            .filter_map(|resource| Some((resource.clone(), plan.found.get(resource)?.clone())));
        self.adopted = found.collect();
    }

    /// Answers the client; later answers are ignored.
    pub fn answer(&mut self, written: Written) {
        self.queued.answer(Ok(written));
    }

    /// Answers the client with the reason to refuse the write.
    pub fn refuse(&mut self, error: WriteError) {
        self.queued.answer(Err(error));
    }

    /// Rolls its changes back in the intent before anything was done in the kernel.
    pub fn roll_back(&self, records: &mut Records) {
        records.roll_back(&self.previous, |_| false);
    }

    /// Rolls its changes back in the intent after operations were tried. Adopted devices were
    /// restored already and leave nothing.
    pub fn roll_back_tried(&self, records: &mut Records) {
        records.roll_back(&self.previous, |resource| {
            !self.adopted.contains_key(resource)
        });
    }

    /// Returns the error of a failed operation, with the resource's location in the document if a
    /// field of it is to blame.
    pub fn error_of(&self, resource: &ResourceRef, failure: &OpFailure) -> WriteError {
        let mut others = Vec::new();
        if !self.resources().any(|own| own == resource) {
            others.push(resource.clone());
            let ns = failure.op().ns();
            let namespace = ns.name().cloned();
            others.extend(namespace.map(|name| ResourceRef::new(Kind::Namespace, name)));
        }
        let error = WriteError::Operation {
            resource: resource.clone(),
            failure: Box::new(failure.clone()),
            others,
        };
        let is_of_a_field =
            failure.refused_sysctl().is_some() || failure.refused_link_type(resource).is_some();
        if is_of_a_field {
            self.locate(resource, error)
        } else {
            error
        }
    }

    /// Adds the resource's location in the document, if the write is one.
    fn locate(&self, resource: &ResourceRef, error: WriteError) -> WriteError {
        match self.queued.write.change.item_of(resource) {
            Some(item) => error.in_document(item),
            None => error,
        }
    }

    /// Returns the reason, if any, that a plan shows: the write is refused before anything is
    /// recorded.
    pub fn find_refusal(&self, plan: &Plan) -> Option<WriteError> {
        self.find_conflict(plan)
            .or_else(|| self.find_refused_setting(plan))
            .or_else(|| self.find_foreign_links(plan))
    }

    /// Returns the conflict, if any, of a resource that it names or changes.
    fn find_conflict(&self, plan: &Plan) -> Option<WriteError> {
        self.resources()
            .filter_map(|resource| Some((resource, plan.statuses.get(resource)?)))
            .find_map(|(resource, status)| match status {
                PlanStatus::Conflict { reason, pointer } => {
                    let error = WriteError::Conflict {
                        resource: resource.clone(),
                        reason: reason.clone(),
                        pointer: pointer.clone(),
                    };
                    Some(self.locate(resource, error))
                }
                PlanStatus::Pending(_) => None,
            })
    }

    /// Returns the error of a setting that the kernel is known to refuse, if the client waits for
    /// the kernel.
    fn find_refused_setting(&self, plan: &Plan) -> Option<WriteError> {
        if !self.is_sync() {
            return None;
        }
        let (resource, op, error) = plan
            .refused
            .iter()
            .find(|(resource, ..)| self.resources().any(|own| own == resource))?;
        let failure = OpFailure::refused(op.clone(), error.clone());
        Some(self.error_of(resource, &failure))
    }

    /// Returns the error, if any, that it deletes a namespace with links that others made, and
    /// does not ask for that.
    fn find_foreign_links(&self, plan: &Plan) -> Option<WriteError> {
        if self.queued.write.change.cascades() {
            return None;
        }
        let (resource, links) = plan.foreign_links.iter().find(|(resource, _)| {
            self.decision
                .changes
                .iter()
                .any(|(changed, after)| changed == *resource && after.is_none())
        })?;
        Some(WriteError::ForeignLinks {
            resource: resource.clone(),
            links: links.to_vec(),
        })
    }

    /// Returns true if it adds addresses on the host that its caller may not choose freely.
    pub fn adds_host_addresses(&self) -> bool {
        self.host_addresses().any(|(_, new)| !new.is_empty())
    }

    /// Checks the addresses that it adds on the host.
    ///
    /// # Errors
    /// The first address that only admins may add.
    pub fn check_host_addresses(&self, observed: &Observed) -> Result<(), WriteError> {
        let write = &self.queued.write;
        let replaced: Vec<&Spec> = self
            .previous
            .iter()
            .filter_map(|(_, before)| before.as_ref())
            .map(|record| &*record.spec)
            .collect();
        for (resource, new) in self.host_addresses() {
            let checked = host_addresses::check_addresses(&write.caller, &new, &replaced, observed);
            checked.map_err(|error| self.locate(resource, error.into()))?;
        }
        Ok(())
    }

    /// Returns the addresses that it adds on the host, by resource; none of an admin's, who may
    /// add any.
    fn host_addresses(&self) -> impl Iterator<Item = (&ResourceRef, Vec<HostAddress>)> {
        let is_restricted = self.queued.write.caller.role < Role::Admin;
        let changes = self
            .previous
            .iter()
            .zip(&self.decision.changes)
            .filter(move |_| is_restricted);
        changes.filter_map(|((resource, before), (_, after))| {
            let before = before.as_ref().map(|record| &*record.spec);
            let new = host_addresses::added_addresses(before, &after.as_ref()?.spec);
            Some((resource, new))
        })
    }
}

/// Resources and devices that a write touches or refers to.
#[derive(Default)]
struct Footprint {
    touched: BTreeSet<ResourceRef>,
    devices: BTreeSet<(Ns, String)>,
    referenced: BTreeSet<ResourceRef>,
}

impl Footprint {
    fn of(decision: &Decision, intent: &Intent) -> Self {
        let mut footprint = Self::default();
        footprint
            .touched
            .extend(decision.named.iter().map(|(resource, _)| resource.clone()));
        for (resource, after) in &decision.changes {
            footprint.touched.insert(resource.clone());
            let after = after.as_ref().map(|record| &*record.spec);
            for spec in intent.spec(resource).into_iter().chain(after) {
                footprint.referenced.extend(spec.references());
                footprint
                    .devices
                    .extend(spec.devices().map(|device| device.location()));
            }
        }
        footprint
    }

    /// Returns true if two writes must not be in one batch: one touches what the other touches or
    /// refers to.
    fn conflicts_with(&self, other: &Self) -> bool {
        !self.touched.is_disjoint(&other.touched)
            || !self.touched.is_disjoint(&other.referenced)
            || !self.referenced.is_disjoint(&other.touched)
            || !self.devices.is_disjoint(&other.devices)
    }

    fn merge(&mut self, other: Self) {
        self.touched.extend(other.touched);
        self.referenced.extend(other.referenced);
        self.devices.extend(other.devices);
    }
}

/// Takes writes off the queue that may be carried out together, and makes their changes in the
/// intent. Refuses those that are not valid.
pub(super) fn take_batch(queue: &mut WriteQueue, records: &mut Records) -> Vec<PendingWrite> {
    let mut batch: Vec<PendingWrite> = Vec::new();
    let mut footprint = Footprint::default();
    while let Some(queued) = queue.peek() {
        let is_alone = queued.write.dry_run || matches!(queued.write.change, Change::Topology(_));
        if is_alone && !batch.is_empty() {
            break;
        }
        let decision = match records.validate_write(&queued.write) {
            Ok(decision) => decision,
            // Another write of the batch may be the reason: only a refusal of the first one is
            // final.
            Err(_) if !batch.is_empty() => break,
            Err(error) => {
                if let Some(mut queued) = queue.pop() {
                    queued.answer(Err(error.into()));
                }
                continue;
            }
        };
        let own_footprint = Footprint::of(&decision, records.intent());
        if footprint.conflicts_with(&own_footprint) {
            break;
        }
        footprint.merge(own_footprint);
        let Some(queued) = queue.pop() else { break };
        let previous = records.apply(&decision.changes);
        batch.push(PendingWrite::new(queued, decision, previous));
        if is_alone {
            break;
        }
    }
    batch
}
