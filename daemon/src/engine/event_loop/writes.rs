//! Carrying out a batch of writes: observe, plan, commit, apply, observe again, answer.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use netnsd_api::{PlannedOperation, ResourceRef, State};

use super::{EngineLoop, outcome::Cause};
use crate::{
    engine::{
        Entry, WriteError, Written,
        batch::{self, PendingWrite},
        queue::WriteQueue,
        records::RowChanges,
        render,
        status::Health,
        workset::{ApplyOutcome, Workset},
    },
    kernel::{Kernel, Observed},
    liveness::Part,
    model::ChangeKind,
    plan::{self, Plan, PlanStatus, Step},
};

impl<K: Kernel> EngineLoop<K> {
    /// Takes the next batch off the queue and carries it out.
    pub(super) async fn execute_next_batch(&mut self, queue: &mut WriteQueue) {
        self.metrics.liveness.record_progress(Part::Engine);
        let batch = batch::take_batch(queue, &mut self.records);
        let named: usize = batch.iter().map(|write| write.named().len()).sum();
        self.largest_batch = self.largest_batch.max(named);
        self.execute_batch(batch).await;
    }

    async fn execute_batch(&mut self, batch: Vec<PendingWrite>) {
        let batch = self.answer_unchanged(batch);
        let Some(mut batch) = self.refuse_host_addresses(batch).await else {
            return;
        };
        while !batch.is_empty() {
            let mut work = self
                .reconciler
                .workset_of(&batch, &self.records, &self.status);
            let (plan, observed) = match self.observe_and_plan(&mut work).await {
                Ok(found) => found,
                Err(error) => return self.refuse_all(batch, &WriteError::Unobservable(error)),
            };
            // Refusals first, before anything is recorded: the others are planned without them.
            let count = batch.len();
            batch = self.refuse_conflicting(batch, &plan);
            if batch.len() < count {
                continue;
            }
            if batch.iter().any(PendingWrite::is_dry_run) {
                return self.answer_dry_run(batch, &plan, &observed);
            }
            return self.apply_batch(batch, work, plan, observed).await;
        }
    }

    /// Answers writes that change nothing, unless a resource that they name is not in sync;
    /// returns the others.
    fn answer_unchanged(&mut self, batch: Vec<PendingWrite>) -> Vec<PendingWrite> {
        let mut others = Vec::new();
        for mut write in batch {
            let is_done = write.named().iter().all(|(resource, change)| {
                *change == ChangeKind::Unchanged
                    && (write.is_dry_run() || self.status.is_settled(resource))
            });
            if is_done {
                write.roll_back(&mut self.records);
                let written = self.written(&write);
                write.answer(written);
            } else {
                others.push(write);
            }
        }
        others
    }

    /// Refuses writes that add addresses on the host which only admins may add. Returns the
    /// others; `None` if the kernel cannot be asked, and all are refused.
    async fn refuse_host_addresses(
        &mut self,
        batch: Vec<PendingWrite>,
    ) -> Option<Vec<PendingWrite>> {
        if !batch.iter().any(PendingWrite::adds_host_addresses) {
            return Some(batch);
        }
        let observed = match self.reconciler.observe_host().await {
            Ok(observed) => observed,
            Err(error) => {
                self.refuse_all(batch, &WriteError::Unobservable(error));
                return None;
            }
        };
        let mut others = Vec::new();
        for write in batch {
            match write.check_host_addresses(&observed) {
                Ok(()) => others.push(write),
                Err(error) => self.refuse(write, error),
            }
        }
        Some(others)
    }

    /// Refuses writes that the plan shows a reason against; returns the others.
    fn refuse_conflicting(&mut self, batch: Vec<PendingWrite>, plan: &Plan) -> Vec<PendingWrite> {
        let mut others = Vec::new();
        for write in batch {
            match write.find_refusal(plan) {
                Some(error) => self.refuse(write, error),
                None => others.push(write),
            }
        }
        others
    }

    fn refuse(&mut self, mut write: PendingWrite, error: WriteError) {
        write.roll_back(&mut self.records);
        write.refuse(error);
    }

    fn refuse_all(&mut self, batch: Vec<PendingWrite>, error: &WriteError) {
        for write in batch.into_iter().rev() {
            self.refuse(write, error.clone());
        }
    }

    /// Commits a batch, brings it about in the kernel, and answers it.
    async fn apply_batch(
        &mut self,
        mut batch: Vec<PendingWrite>,
        mut work: Workset,
        plan: Plan,
        observed: Observed,
    ) {
        for write in &mut batch {
            write.note_adopted(&plan);
        }
        self.records.save_macs(&plan);
        let changed = batch.iter().flat_map(PendingWrite::changed).cloned();
        self.confirm_prior_sysctls(&plan, &observed, &changed.collect());
        self.reconciler.prefetch_namespaces(&plan);

        let committing = Instant::now();
        if let Err(error) = self.recorder.commit_batch(&self.records, &mut batch).await {
            tracing::error!(%error, "cannot commit a batch");
            return self.refuse_all(batch, &WriteError::Store(error));
        }
        let store = committing.elapsed();
        self.answer_async(&mut batch, store);

        let applying = Instant::now();
        let outcome = self.converge(&mut work, plan, observed).await;
        self.finish_batch(batch, &work, &outcome, store, applying)
            .await;
    }

    /// Answers the writes of a batch that do not wait for the kernel; they are durable.
    fn answer_async(&mut self, batch: &mut [PendingWrite], store: Duration) {
        for write in batch.iter_mut().filter(|write| !write.is_sync()) {
            let (present, deleted): (Vec<ResourceRef>, Vec<ResourceRef>) = write
                .changed()
                .cloned()
                .partition(|resource| self.records.get(resource).is_some());
            for resource in &present {
                let health = Health::new(State::Pending, "recorded, and being applied");
                self.status.set(resource, health);
            }
            self.status.unpublish(&deleted);
            self.publish(&present, &Observed::default());
            let written = Written {
                applied: false,
                store,
                ..self.written(write)
            };
            write.answer(written);
        }
    }

    /// Records the outcome of a batch, rolls back the writes that the kernel refused, and answers
    /// those that wait.
    async fn finish_batch(
        &mut self,
        batch: Vec<PendingWrite>,
        work: &Workset,
        outcome: &ApplyOutcome,
        store: Duration,
        applying: Instant,
    ) {
        let (mut refused, mut errors, mut done) = (Vec::new(), Vec::new(), Vec::new());
        let mut refused_groups = BTreeSet::new();
        for (group, write) in batch.into_iter().enumerate() {
            let failure = outcome
                .failures
                .iter()
                .find(|(resource, _)| work.failed_group(resource, &self.status) == Some(group));
            match failure {
                Some((resource, failure)) => {
                    errors.push(write.error_of(resource, failure));
                    refused.push(write);
                    refused_groups.insert(group);
                }
                None => done.push(write),
            }
        }
        let cause = Cause::Write {
            changed: done
                .iter()
                .flat_map(PendingWrite::resources)
                .cloned()
                .collect(),
            refused: work
                .resources()
                .filter(|resource| {
                    work.group(resource)
                        .is_some_and(|group| refused_groups.contains(&group))
                })
                .cloned()
                .collect(),
        };
        self.record_status(work, outcome, &cause);
        if !refused.is_empty() {
            self.roll_back(&refused).await;
        }
        self.recorder.publish_events();

        let kernel = applying.elapsed();
        for mut write in done {
            let written = Written {
                store,
                kernel,
                ..self.written(&write)
            };
            write.answer(written);
        }
        for (mut write, error) in refused.into_iter().zip(errors) {
            write.refuse(error);
        }
    }

    /// Rolls refused writes back, in the intent, in the database and in the kernel.
    async fn roll_back(&mut self, refused: &[PendingWrite]) {
        self.reconciler
            .restore_adopted(refused, &self.records)
            .await;
        let mut work = Workset::default();
        let mut rows = RowChanges::new();
        for (group, write) in refused.iter().enumerate() {
            let refused_records: Vec<_> = write
                .changed()
                .map(|resource| (resource.clone(), self.records.get(resource).cloned()))
                .collect();
            write.roll_back_tried(&mut self.records);
            self.recorder.retract(write);
            for (resource, record) in &refused_records {
                self.records
                    .add_row_changes(resource, record.as_ref(), &mut rows);
                work.include_change(
                    &self.records,
                    self.reconciler.devices(),
                    group,
                    resource,
                    record.as_ref(),
                );
            }
            for resource in write.resources() {
                work.include(resource.clone(), group);
            }
        }
        self.recorder.commit_rollback(rows).await;

        work.observe_bridges(&self.records);
        match self.observe_and_plan(&mut work).await {
            Ok((plan, observed)) => {
                let outcome = self.converge(&mut work, plan, observed).await;
                self.record_status(&work, &outcome, &Cause::RollBack);
            }
            Err(error) => {
                tracing::error!(%error, "cannot observe the kernel; the rollback will be retried");
                for resource in work.resources() {
                    self.retries.schedule(resource);
                }
            }
        }
    }

    fn answer_dry_run(&mut self, batch: Vec<PendingWrite>, plan: &Plan, observed: &Observed) {
        for mut write in batch {
            let written = Written {
                entry: self.render_planned(&write, plan, observed),
                plan: plan.steps.iter().map(planned_operation).collect(),
                ..self.written(&write)
            };
            write.roll_back(&mut self.records);
            write.answer(written);
        }
    }

    /// Renders the resource that a dry run names as it would be recorded.
    fn render_planned(
        &self,
        write: &PendingWrite,
        plan: &Plan,
        observed: &Observed,
    ) -> Option<Arc<Entry>> {
        let resource = write.only_named()?;
        let record = self.records.get(resource)?;
        let health = match plan.statuses.get(resource) {
            Some(PlanStatus::Pending(reason)) => Health::new(State::Pending, reason),
            Some(PlanStatus::Conflict { .. }) | None => Health::in_sync(),
        };
        Some(Arc::new(render::render_entry(record, &health, observed)))
    }

    /// Returns the answer to a write that is done.
    fn written(&self, write: &PendingWrite) -> Written {
        Written {
            named: write.named().to_vec(),
            entry: write
                .only_named()
                .and_then(|resource| self.status.entry(resource)),
            applied: true,
            plan: Vec::new(),
            store: Duration::ZERO,
            kernel: Duration::ZERO,
        }
    }
}

fn planned_operation(step: &Step) -> PlannedOperation {
    PlannedOperation {
        op: step.op.label().to_owned(),
        namespace: step.op.ns().name().cloned(),
        resource: step.resource.clone(),
        command: plan::command(&step.op),
    }
}
