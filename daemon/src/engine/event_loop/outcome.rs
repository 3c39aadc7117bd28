//! Recording the outcome of a workset: health, events, retries, and what readers see.

use std::collections::BTreeSet;

use netnsd_api::{EventType, ResourceRef, State};
use serde_json::json;

use super::EngineLoop;
use crate::{
    engine::{
        status::Health,
        workset::{ApplyOutcome, Workset},
    },
    kernel::{Kernel, Observed},
    model::Spec,
    plan::{self, PlanStatus},
};

/// Reason for which a workset was converged.
#[derive(Debug)]
pub(super) enum Cause {
    /// These resources were changed by writes; the refused ones are rolled back next.
    Write {
        changed: BTreeSet<ResourceRef>,
        refused: BTreeSet<ResourceRef>,
    },
    /// Refused writes are rolled back.
    RollBack,
    /// A pass: at boot, for a retry, or because of drift.
    Pass,
}

impl Cause {
    fn has_refused(&self, resource: &ResourceRef) -> bool {
        matches!(self, Self::Write { refused, .. } if refused.contains(resource))
    }

    fn has_changed(&self, resource: &ResourceRef) -> bool {
        matches!(self, Self::Write { changed, .. } if changed.contains(resource))
    }
}

impl<K: Kernel> EngineLoop<K> {
    /// Records the status of every resource of a workset that was converged.
    pub(super) fn record_status(&mut self, work: &Workset, outcome: &ApplyOutcome, cause: &Cause) {
        let (mut deleted, mut recorded) = (Vec::new(), BTreeSet::new());
        for resource in work.resources() {
            if cause.has_refused(resource) {
                continue;
            }
            recorded.insert(resource);
            if !outcome.may_have_left(resource) {
                self.confirm_tombstones_gone(resource);
            }
            if self.records.get(resource).is_some() {
                self.record_health(resource, outcome, cause);
            } else {
                self.forget_deleted(resource, outcome);
                deleted.push(resource.clone());
            }
        }
        self.reconciler.update_subscriptions(
            recorded.iter().copied(),
            &outcome.observed,
            &self.records,
        );
        self.observe_new_namespaces(&recorded, outcome);
        self.status.unpublish(&deleted);
        let published = recorded.iter().copied().chain(work.observed_only());
        self.publish(published, &outcome.observed);
        // At boot everything is new, and no neighbour has an older address.
        let is_ready = self.status.is_ready();
        let remade = outcome.remade.iter().filter(|_| is_ready).cloned();
        self.reconciler
            .announce(remade, &outcome.observed, &self.records);
    }

    /// Deletes the rows of tombstones whose devices are out of the kernel.
    fn confirm_tombstones_gone(&mut self, resource: &ResourceRef) {
        for uid in self.records.remove_tombstones(resource) {
            self.recorder.confirm_deletion(uid);
        }
    }

    /// Forgets a deleted resource. If something of it may be left it is retried.
    fn forget_deleted(&mut self, resource: &ResourceRef, outcome: &ApplyOutcome) {
        self.status.remove(resource);
        self.drift.forget(resource);
        self.reconciler.devices_mut().forget(resource);
        if outcome.may_have_left(resource) {
            self.retries.schedule(resource);
        } else {
            self.retries.cancel(resource);
        }
    }

    /// Records the health of a resource, its event, and its next retry.
    fn record_health(&mut self, resource: &ResourceRef, outcome: &ApplyOutcome, cause: &Cause) {
        let health = health_of(resource, outcome);
        let may_have_left = outcome.may_have_left(resource);
        if !may_have_left && health.is_settled() {
            let is_new = outcome
                .done
                .get(resource)
                .is_some_and(|done| done.contains(&"bridge_add"));
            if self.records.clear_leftovers(resource, is_new) {
                self.recorder.confirm(&self.records, resource);
            }
        }
        if !may_have_left && health.state == State::InSync {
            self.retries.cancel(resource);
        } else {
            self.retries.schedule(resource);
        }
        let follower = self
            .records
            .get(resource)
            .filter(|record| plan::lasting(&record.spec, &record.applied).is_some());
        self.reconciler
            .devices_mut()
            .set_mtu_follower(resource, follower.map(|record| &*record.spec));
        self.add_status_event(resource, &health, outcome, cause);
        self.status.set(resource, health);
    }

    /// Adds the event, if any, of a resource whose health is `now`.
    fn add_status_event(
        &mut self,
        resource: &ResourceRef,
        now: &Health,
        outcome: &ApplyOutcome,
        cause: &Cause,
    ) {
        let before = self.status.health(resource);
        let done = outcome.done.get(resource);
        let (event_type, detail) = if now.is_settled() {
            let before = before.map(|health| health.state);
            let Some(event_type) = settled_event(resource, before, now, done.is_some(), cause)
            else {
                return;
            };
            let detail = match (event_type, now.state) {
                (EventType::Repaired, _) => json!({"operations": done}),
                (_, State::Pending) => json!({"state": now.state, "reason": now.reason}),
                _ => json!({}),
            };
            (event_type, detail)
        } else if before == Some(now) {
            return;
        } else {
            let reason = now.reason.as_deref().unwrap_or_default();
            tracing::warn!(%resource, reason, "resource is not in sync");
            let detail = json!({"state": now.state, "reason": now.reason});
            (EventType::Failed, detail)
        };
        let uid = self.records.get(resource).map(|record| record.uid.as_str());
        self.recorder.add_event(event_type, resource, uid, detail);
    }

    /// Observes namespaces that were just created once more: events of a new namespace are lost
    /// until it is subscribed to.
    fn observe_new_namespaces(
        &mut self,
        resources: &BTreeSet<&ResourceRef>,
        outcome: &ApplyOutcome,
    ) {
        for resource in resources.iter().copied() {
            let is_created = outcome
                .done
                .get(resource)
                .is_some_and(|done| creates_namespace(done));
            if is_created
                && let Some(Spec::Namespace(spec)) = self.records.spec(resource)
                && spec
                    .sysctls
                    .keys()
                    .any(|key| key.is_ipv6() && key.interface().is_some())
            {
                self.drift.mark_dirty(resource.clone());
            }
        }
    }

    /// Publishes resources as they were observed, and remembers where their devices are.
    pub(super) fn publish<'a>(
        &mut self,
        resources: impl IntoIterator<Item = &'a ResourceRef> + Clone,
        observed: &Observed,
    ) {
        for resource in resources.clone() {
            if let Some(spec) = self.records.spec(resource) {
                self.reconciler
                    .devices_mut()
                    .update(resource, spec, observed);
            }
        }
        self.status.publish(&self.records, resources, observed);
    }
}

/// Returns the event of a resource that is settled now; `None` if that is no news.
fn settled_event(
    resource: &ResourceRef,
    before: Option<State>,
    now: &Health,
    has_done: bool,
    cause: &Cause,
) -> Option<EventType> {
    match before {
        _ if cause.has_changed(resource) => Some(EventType::Applied),
        Some(State::Failed | State::Conflict) => Some(EventType::Applied),
        Some(State::Pending) if now.state == State::InSync => Some(EventType::Applied),
        Some(State::Drifted) => Some(EventType::Repaired),
        Some(State::InSync | State::Pending) if matches!(cause, Cause::Pass) && has_done => {
            Some(EventType::Repaired)
        }
        None if has_done => Some(EventType::Applied),
        Some(State::InSync | State::Pending) | None => None,
    }
}

/// Returns the health of a resource after its workset was converged.
fn health_of(resource: &ResourceRef, outcome: &ApplyOutcome) -> Health {
    if let Some(failure) = outcome.failures.get(resource) {
        return Health::new(State::Failed, failure.describe(resource));
    }
    match outcome.statuses.get(resource) {
        Some(PlanStatus::Conflict { reason, .. }) => Health::new(State::Conflict, reason),
        Some(PlanStatus::Pending(reason)) => Health::new(State::Pending, reason),
        None => Health::in_sync(),
    }
}

/// Returns true if one of the operations creates a namespace.
fn creates_namespace(operations: &[&str]) -> bool {
    operations
        .iter()
        .any(|operation| matches!(*operation, "namespace_add" | "namespace_attach"))
}
