//! Passes: recorded resources are compared with the kernel and repaired, without a write.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use netnsd_api::{EventType, NotInSync, Reconciled, ResourceRef, State};
use serde_json::json;

use super::{EngineLoop, outcome::Cause};
use crate::{
    engine::{
        drift::Operations,
        status::Health,
        workset::{ApplyOutcome, Failures, Workset},
    },
    kernel::{Kernel, KernelError, KernelEvent, Observed},
    plan::Plan,
};

/// Number of times that a pass is repeated if something it needed disappeared meanwhile.
const MAX_REPEATS: usize = 2;

/// Treatment of resources that drifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repair {
    /// Repair everything now.
    Always,
    /// Follow the drift policy and the backoff.
    ByPolicy,
}

/// Resources that a plan shows to have drifted.
#[derive(Debug, Default)]
struct Drifted {
    all: BTreeSet<ResourceRef>,
    /// Resources that are not repaired now.
    held: Vec<ResourceRef>,
}

impl<K: Kernel> EngineLoop<K> {
    /// Compares everything recorded with the kernel in one pass; then the daemon is ready.
    pub(super) async fn boot(&mut self) {
        let all = self.records.all_resources();
        let resources = all.len();
        let start = Instant::now();
        self.reconciler.subscribe_host();
        let outcome = self.pass(all, Repair::Always).await;
        self.handle_kernel_event(KernelEvent::NamesLost);
        self.status.set_ready();
        let operations = outcome.count_done();
        let ms = start.elapsed().as_secs_f64() * 1000.0;
        tracing::info!(resources, operations, ms, "initial reconciliation finished");
    }

    /// Compares and repairs everything because a client asks for it.
    pub(super) async fn reconcile(&mut self) -> Reconciled {
        let work = Workset::independent(self.records.all_resources()).find_leftover_routes();
        let outcome = self.pass_over(work, Repair::Always).await;
        let failed = self.status.unsettled().map(|(resource, health)| NotInSync {
            kind: resource.kind,
            name: resource.name.clone(),
            state: health.state,
            reason: health.reason.clone(),
        });
        let reconciled = Reconciled {
            failed: failed.collect(),
            repaired: outcome
                .done
                .into_keys()
                .filter(|resource| self.status.is_settled(resource))
                .collect(),
        };
        self.recorder.flush().await;
        reconciled
    }

    /// Compares resources and repairs each on its own.
    pub(super) async fn pass(
        &mut self,
        resources: BTreeSet<ResourceRef>,
        repair: Repair,
    ) -> ApplyOutcome {
        self.pass_over(Workset::independent(resources), repair)
            .await
    }

    async fn pass_over(&mut self, mut work: Workset, repair: Repair) -> ApplyOutcome {
        work.observe_bridges(&self.records);
        let (mut plan, observed) = match self.observe_and_plan(&mut work).await {
            Ok(found) => found,
            Err(error) => {
                self.fail_all(&work, &error);
                return ApplyOutcome::default();
            }
        };

        let drifted = self.assess_drift(&plan, repair);
        // The repair of many takes seconds, in which readers see that they are not there.
        self.publish(&drifted.all, &observed);
        if !drifted.held.is_empty() {
            for resource in drifted.held {
                work.only_observe(resource);
            }
            plan = self.reconciler.plan(
                &work,
                &Failures::new(),
                &observed,
                &self.records,
                &self.status,
            );
        }
        if self.confirm_prior_sysctls(&plan, &observed, &BTreeSet::new()) {
            self.recorder.flush().await;
        }

        let mut outcome = self.converge(&mut work, plan, observed).await;
        for _ in 0..MAX_REPEATS {
            let mut failures = outcome.failures.values();
            if !failures.any(|failure| failure.is_missing_dependency()) {
                break;
            }
            // A foreign process deleted something meanwhile: observe again.
            work.include_bridges_of_failed(&self.records, &outcome.failures);
            let Ok((plan, observed)) = self.observe_and_plan(&mut work).await else {
                break;
            };
            let earlier = outcome;
            outcome = self.converge(&mut work, plan, observed).await;
            outcome.merge_earlier(earlier);
        }
        self.record_status(&work, &outcome, &Cause::Pass);
        self.note_repairs(&drifted.all, &outcome.done);
        outcome
    }

    /// Records that nothing of a workset could be observed.
    fn fail_all(&mut self, work: &Workset, error: &KernelError) {
        let health = Health::new(State::Failed, format!("netlink request failed: {error}"));
        for resource in work.resources() {
            self.status.set(resource, health.clone());
            self.retries.schedule(resource);
        }
        self.publish(work.all_resources(), &Observed::default());
    }

    /// Finds the resources that were in sync and for which a plan has operations: they drifted.
    /// Records that, and which of them are not repaired now.
    fn assess_drift(&mut self, plan: &Plan, repair: Repair) -> Drifted {
        let mut operations: BTreeMap<&ResourceRef, Operations> = BTreeMap::new();
        for step in &plan.steps {
            let labels = operations.entry(&step.resource).or_default();
            labels.push(step.op.label());
        }
        let mut drifted = Drifted::default();
        for (resource, operations) in operations {
            let state = match self.status.state(resource) {
                Some(state @ (State::InSync | State::Drifted)) => state,
                Some(State::Pending | State::Failed | State::Conflict) | None => continue,
            };
            if state == State::InSync
                && let Some(record) = self.records.get(resource)
            {
                let detail = json!({"operations": operations});
                self.recorder
                    .add_event(EventType::Drifted, resource, Some(&record.uid), detail);
            }
            let health = Health::new(State::Drifted, "drifted, and being repaired");
            self.status.set(resource, health);
            drifted.all.insert(resource.clone());
            if repair == Repair::ByPolicy
                && let Some(hold) = self.drift.find_hold(resource, &operations)
            {
                self.status
                    .set(resource, Health::new(State::Drifted, hold.reason));
                if let Some(at) = hold.until {
                    self.retries.schedule_at(resource, at);
                }
                drifted.held.push(resource.clone());
            }
        }
        drifted
    }

    /// Counts the repairs of resources that had drifted.
    fn note_repairs(
        &mut self,
        drifted: &BTreeSet<ResourceRef>,
        done: &BTreeMap<ResourceRef, Operations>,
    ) {
        for (resource, operations) in done {
            if drifted.contains(resource) && self.status.is_settled(resource) {
                self.drift.note_repair(resource, operations);
                self.metrics.record_repair();
            }
        }
    }
}
