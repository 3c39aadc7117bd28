//! Event loop: the engine's own thread. It waits for writes, kernel events and timers, and has the
//! parts of the engine carry them out, one after the other.
//!
//! **Invariant:** nothing else changes the records, the database or the kernel, so that no part
//! needs a lock. The loop itself does no I/O.

mod outcome;
mod pass;
mod writes;

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use netnsd_api::ResourceRef;
use tokio::sync::mpsc;

use self::pass::Repair;
use super::{
    DriftPolicy, Request, View,
    drift::DriftMonitor,
    queue::WriteQueue,
    reconciler::Reconciler,
    recorder::Recorder,
    records::Records,
    retries::RetryQueue,
    status::StatusBoard,
    workset::{ApplyOutcome, Failures, Workset},
};
use crate::{
    kernel::{Kernel, KernelError, KernelEvent, Observed},
    liveness::Part,
    memory,
    metrics::Metrics,
    plan::Plan,
};

/// Number of resources, or of rows and events, from which work leaves so much memory behind that
/// it is released afterwards.
const LARGE_WORK: usize = 512;

/// Parts of the engine.
pub(super) struct EngineLoop<K: Kernel> {
    records: Records,
    recorder: Recorder,
    reconciler: Reconciler<K>,
    drift: DriftMonitor,
    retries: RetryQueue,
    status: StatusBoard,
    /// Number of resources that the largest batch named since memory was last released.
    largest_batch: usize,
    metrics: Arc<Metrics>,
}

impl<K: Kernel> EngineLoop<K> {
    /// Returns a loop over what is recorded and over a kernel, and publishes the resources as not
    /// yet compared.
    pub fn new(
        records: Records,
        recorder: Recorder,
        kernel: K,
        view: Arc<View>,
        policy: DriftPolicy,
        metrics: Arc<Metrics>,
    ) -> Self {
        let status = StatusBoard::new(view, &records);
        Self {
            records,
            recorder,
            reconciler: Reconciler::new(kernel, metrics.clone()),
            drift: DriftMonitor::new(policy),
            retries: RetryQueue::default(),
            status,
            largest_batch: 0,
            metrics,
        }
    }

    /// Boots, then serves requests until their channel is closed.
    pub async fn run(mut self, mut requests: mpsc::UnboundedReceiver<Request>) {
        self.boot().await;
        self.release_idle().await;
        let mut queue = WriteQueue::default();
        loop {
            self.metrics.liveness.record_progress(Part::Engine);
            let due = self.next_due();
            tokio::select! {
                request = requests.recv() => {
                    let Some(request) = request else { break };
                    self.accept_request(request, &mut queue).await;
                    self.execute_queue(&mut requests, &mut queue).await;
                }
                Some(()) = self.recorder.receive_aux_request() => self.recorder.flush().await,
                event = self.reconciler.next_event() => self.handle_kernel_event(event),
                () = tokio::time::sleep_until(due.into()) => self.run_due().await,
                // Only makes a step of liveness.
                () = self.metrics.liveness.wait_until_idle_step() => continue,
            }
            self.release_idle().await;
        }
        self.recorder.close().await;
    }

    /// Executes the queue until it is empty. Writes that arrive meanwhile take their turn before
    /// the rest of a caller who sent many.
    async fn execute_queue(
        &mut self,
        requests: &mut mpsc::UnboundedReceiver<Request>,
        queue: &mut WriteQueue,
    ) {
        loop {
            while let Ok(request) = requests.try_recv() {
                self.accept_request(request, queue).await;
            }
            if queue.is_empty() {
                break;
            }
            self.execute_next_batch(queue).await;
            // A batch without a commit left them in the lane.
            if self.recorder.has_aux_requests() {
                self.recorder.flush().await;
            }
        }
    }

    /// Puts a write into the queue. A reconciliation comes after the writes that were sent before
    /// it.
    async fn accept_request(&mut self, request: Request, queue: &mut WriteQueue) {
        match request {
            Request::Write(write) => queue.push(*write),
            Request::Reconcile(answer) => {
                while !queue.is_empty() {
                    self.execute_next_batch(queue).await;
                }
                let reconciled = self.reconcile().await;
                let _ = answer.send(reconciled); // the client may be gone
            }
        }
    }

    /// Returns the time at which something is due without a request.
    fn next_due(&self) -> Instant {
        let due = [self.retries.next_due(), self.recorder.next_due()];
        due.into_iter()
            .flatten()
            .fold(self.drift.next_due(), Instant::min)
    }

    /// Runs what is due: retries, drift, and else a flush.
    async fn run_due(&mut self) {
        let retries = self.retries.due(Instant::now());
        let has_retries = !retries.is_empty();
        if has_retries {
            self.pass(retries, Repair::Always).await;
        }
        if !self.observe_drift().await && !has_retries {
            self.recorder.flush().await;
        }
    }

    /// Observes and repairs the dirty resources, and those whose turn it is in the scan. Returns
    /// false if there were none.
    async fn observe_drift(&mut self) -> bool {
        let now = Instant::now();
        let dirty = self.drift.take_due(now);
        let has_dirty = !dirty.is_empty();
        if has_dirty {
            self.pass(dirty, Repair::ByPolicy).await;
            self.drift.note_observed();
        }
        if !self.drift.is_scan_due(now) {
            return has_dirty;
        }
        let scan = self.drift.take_scan_batch(self.records.intent());
        let start = Instant::now();
        if !scan.resources.is_empty() {
            self.pass(scan.resources, Repair::ByPolicy).await;
        }
        self.drift.schedule_scan(scan.count, start.elapsed());
        true
    }

    /// Handles a kernel event between two pieces of work.
    fn handle_kernel_event(&mut self, event: KernelEvent) {
        self.handle_event_during(event, &Workset::default());
    }

    /// Handles a kernel event; resources of the workset are being observed anyway.
    fn handle_event_during(&mut self, event: KernelEvent, work: &Workset) {
        let names = match event {
            KernelEvent::NamesLost => self.reconciler.list_netns_names(),
            KernelEvent::Appeared(_) | KernelEvent::Disappeared(_) | KernelEvent::Changed(..) => {
                Vec::new()
            }
        };
        let devices = self.reconciler.devices();
        let foreign = self
            .drift
            .handle_event(event, names, &self.records, devices, work);
        for (event_type, name) in foreign {
            self.recorder.add_foreign_netns_event(event_type, &name);
        }
    }

    /// Observes and plans a workset.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    async fn observe_and_plan(
        &mut self,
        work: &mut Workset,
    ) -> Result<(Plan, Observed), KernelError> {
        self.reconciler
            .observe_and_plan(work, &Failures::new(), &self.records, &self.status)
            .await
    }

    /// Brings a plan about, and takes over what became known meanwhile.
    async fn converge(
        &mut self,
        work: &mut Workset,
        plan: Plan,
        observed: Observed,
    ) -> ApplyOutcome {
        let mut outcome = self
            .reconciler
            .converge(work, plan, observed, &mut self.records, &self.status)
            .await;
        for resource in &outcome.saved_sysctls {
            self.recorder.confirm(&self.records, resource);
        }
        for event in std::mem::take(&mut outcome.events) {
            self.handle_event_during(event, work);
        }
        outcome
    }

    /// Saves the values that sysctls have before a plan sets them. Returns true if rows have to be
    /// committed for that, besides those of the resources that are committed anyway.
    fn confirm_prior_sysctls(
        &mut self,
        plan: &Plan,
        observed: &Observed,
        committed: &BTreeSet<ResourceRef>,
    ) -> bool {
        let changed = self.records.save_prior_sysctls(plan, observed);
        let mut is_needed = false;
        for resource in changed.difference(committed) {
            self.recorder.confirm(&self.records, resource);
            is_needed = true;
        }
        is_needed
    }

    /// Releases what was held for the last piece of work; after a large one also memory, which is
    /// more than everything that stays.
    async fn release_idle(&mut self) {
        self.reconciler.release_idle();
        let sizes = [
            std::mem::take(&mut self.largest_batch),
            self.reconciler.take_largest_observation(),
            self.recorder.take_largest_commit(),
        ];
        if sizes.iter().any(|size| *size >= LARGE_WORK) {
            self.recorder.release_memory().await;
            memory::trim_heap();
        }
    }
}
