//! Reconciler: the part of the engine that owns the kernel. It observes, plans and executes until
//! a workset is as recorded.
//!
//! **Invariant:** it converges at most [`MAX_ROUNDS`] times, and the plan after the last operation
//! is empty; an operation that the plan still has then is a failure. It never commits.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use netnsd_api::{Kind, Name, Progress, ResourceRef, is_link_local};

use super::{
    batch::PendingWrite,
    devices::DeviceIndex,
    failure::{OpFailure, may_succeed_later, name_error},
    host_addresses,
    records::Records,
    status::StatusBoard,
    workset::{ApplyOutcome, Failures, Workset},
};
use crate::{
    kernel::{
        Announcement, BatchOp, Kernel, KernelError, KernelEvent, Ns, Observed, Outcome,
        WatchChange, ownership, sysctl,
    },
    liveness::Part,
    metrics::Metrics,
    model::{BridgeDevice, ChangeKind, Record, Spec},
    plan::{self, AdoptionSnapshot, Ownership, Plan, PlanStatus, Step, Task},
};

/// Rounds of planning and executing after which the plan must be empty.
const MAX_ROUNDS: usize = 4;

/// Number of the host's links up to which they are asked for one by one.
const MAX_SINGLE_LINKS: usize = 32;

/// Kernel, and what is remembered of it between observations.
pub(super) struct Reconciler<K: Kernel> {
    kernel: K,
    devices: DeviceIndex,
    /// Resources whose links were recreated or moved, until their addresses are announced.
    unannounced: BTreeSet<ResourceRef>,
    /// Number of resources of the largest observation since memory was last released.
    largest_observation: usize,
    metrics: Arc<Metrics>,
}

/// State of one [`Reconciler::converge`] that lasts through its rounds.
#[derive(Default)]
struct Convergence {
    outcome: ApplyOutcome,
    /// Resources that wait for something outside of netnsd, and for what.
    waiting: BTreeMap<ResourceRef, String>,
    /// Steps that are not tried again: blind and refused ones, and those that wait.
    tried: HashSet<Step>,
}

impl<K: Kernel> Reconciler<K> {
    /// Returns a reconciler over a kernel of which nothing is known.
    pub fn new(kernel: K, metrics: Arc<Metrics>) -> Self {
        Self {
            kernel,
            devices: DeviceIndex::default(),
            unannounced: BTreeSet::new(),
            largest_observation: 0,
            metrics,
        }
    }

    /// Returns the devices as they were last seen.
    pub fn devices(&self) -> &DeviceIndex {
        &self.devices
    }

    /// Returns the devices as they were last seen, to change what is remembered.
    pub fn devices_mut(&mut self) -> &mut DeviceIndex {
        &mut self.devices
    }

    /// Waits for an event that a foreign change caused. Cancel safe.
    pub async fn next_event(&mut self) -> KernelEvent {
        self.kernel.next_event().await
    }

    /// Returns the names in `/run/netns`.
    pub fn list_netns_names(&mut self) -> Vec<String> {
        self.kernel.list_netns_names()
    }

    /// Closes idle namespace connections; an open one keeps the namespace alive.
    pub fn release_idle(&mut self) {
        self.kernel.release_idle();
    }

    /// Returns the number of resources of the largest observation since the last call.
    pub fn take_largest_observation(&mut self) -> usize {
        std::mem::take(&mut self.largest_observation)
    }

    /// Begins to make the namespaces that a plan creates, before its commit: nothing of that is
    /// visible yet.
    pub fn prefetch_namespaces(&mut self, plan: &Plan) {
        let is_creation = |step: &&Step| step.op.created_namespace().is_some();
        self.kernel
            .prefetch_namespaces(plan.steps.iter().filter(is_creation).count());
    }

    /// Observes the addresses and routes of the host that new addresses must not overlap.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn observe_host(&mut self) -> Result<Observed, KernelError> {
        self.kernel.observe(&host_addresses::scope()).await
    }

    /// Returns the workset of a batch: what it changes, what it names that is not in sync, and
    /// what depends on that.
    pub fn workset_of(
        &self,
        batch: &[PendingWrite],
        records: &Records,
        status: &StatusBoard,
    ) -> Workset {
        let mut work = Workset::default();
        for (group, write) in batch.iter().enumerate() {
            for (resource, change) in write.named() {
                if *change != ChangeKind::Unchanged || !status.is_settled(resource) {
                    work.include(resource.clone(), group);
                }
            }
            for (resource, previous) in write.previous() {
                work.include_change(records, &self.devices, group, resource, previous.as_ref());
                if previous.is_none() {
                    work.mark_created(resource.clone());
                }
            }
            if write.is_sync() {
                work.add_sync_write(group, write.resources().cloned().collect());
            }
            if let Some(progress) = write.progress() {
                work.report_progress(progress.clone());
            }
        }
        work.observe_bridges(records);
        work
    }

    /// Observes and plans a workset, without what has failed already. Dependents of namespaces and
    /// bridges that have to be recreated are included.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn observe_and_plan(
        &mut self,
        work: &mut Workset,
        failures: &Failures,
        records: &Records,
        status: &StatusBoard,
    ) -> Result<(Plan, Observed), KernelError> {
        loop {
            let observed = self.observe(work, records).await?;
            let plan = self.plan(work, failures, &observed, records, status);
            if !work.include_recreated_dependents(records, &self.devices, &plan) {
                return Ok((plan, observed));
            }
        }
    }

    async fn observe(
        &mut self,
        work: &Workset,
        records: &Records,
    ) -> Result<Observed, KernelError> {
        self.metrics.liveness.record_progress(Part::Engine);
        self.largest_observation = self.largest_observation.max(work.len());
        let mut tasks = self.tasks(work.all_resources(), work, records);
        tasks.extend(self.tombstone_tasks(work, records));
        let mut scope = plan::scope(&tasks);
        for (ns, part) in &mut scope.namespaces {
            part.prefix_routes = work.checks_prefix_routes();
            part.leftover_routes = work.finds_leftover_routes() && *ns != Ns::Host;
        }
        if let Some(host) = scope.namespaces.get_mut(&Ns::Host) {
            let most = MAX_SINGLE_LINKS.max(records.intent().count() / 8);
            host.dump_all_links = host.links.len() >= most;
        }
        self.kernel.observe(&scope).await
    }

    /// Plans a workset, without what has failed already: the rest is planned around what is really
    /// there.
    pub fn plan(
        &self,
        work: &Workset,
        failures: &Failures,
        observed: &Observed,
        records: &Records,
        status: &StatusBoard,
    ) -> Plan {
        let mut tasks = self.tasks(work.resources(), work, records);
        tasks.extend(self.tombstone_tasks(work, records));
        // Writes that will be rolled back go no further.
        let aborted: BTreeSet<usize> = failures
            .keys()
            .filter_map(|failed| work.failed_group(failed, status))
            .collect();
        tasks.retain(|task| {
            let failed = failures.get(&task.resource);
            failed.is_none_or(|failure| failure.op().is_setting())
                && work
                    .group(&task.resource)
                    .is_none_or(|group| !aborted.contains(&group))
        });
        let bridge_device = |bridge: &Name| records.intent().bridge_device(bridge);
        plan::plan(&tasks, &bridge_device, observed)
    }

    fn tasks<'a>(
        &'a self,
        resources: impl Iterator<Item = &'a ResourceRef>,
        work: &Workset,
        records: &'a Records,
    ) -> Vec<Task<'a>> {
        let mut tasks = Vec::new();
        for resource in resources {
            let Some(record) = records.get(resource) else {
                continue;
            };
            tasks.push(Task {
                resource: resource.clone(),
                uid: &record.uid,
                desired: Some(&record.spec),
                applied: &record.applied,
                prior: &record.prior,
                devices: self.devices.devices(resource),
                interfaces: inheriting_interfaces(record, records),
                is_new: work.is_created(resource),
                macs: &record.macs,
                keep_macs: record.keep_macs,
                ownership: if record.adopt {
                    Ownership::Adopt
                } else {
                    Ownership::Keep
                },
            });
        }
        tasks
    }

    fn tombstone_tasks<'a>(
        &'a self,
        work: &'a Workset,
        records: &'a Records,
    ) -> impl Iterator<Item = Task<'a>> {
        work.resources().flat_map(move |resource| {
            records
                .tombstones(resource)
                .map(move |(uid, tombstone)| Task {
                    resource: resource.clone(),
                    uid,
                    desired: None,
                    applied: &tombstone.applied,
                    prior: &tombstone.prior,
                    devices: self.devices.devices(resource),
                    interfaces: Vec::new(),
                    is_new: false,
                    macs: &[],
                    keep_macs: false,
                    ownership: Ownership::Keep,
                })
        })
    }

    /// Executes a plan, and those after it until nothing is left to do.
    pub async fn converge(
        &mut self,
        work: &mut Workset,
        mut plan: Plan,
        observed: Observed,
        records: &mut Records,
        status: &StatusBoard,
    ) -> ApplyOutcome {
        let mut state = Convergence::default();
        state.outcome.observed = observed;
        for round in 1..=MAX_ROUNDS {
            records.save_macs(&plan);
            let remade = std::mem::take(&mut plan.remade);
            let steps = state.begin_round(std::mem::take(&mut plan));
            if steps.is_empty() {
                break;
            }
            if round == MAX_ROUNDS {
                state.fail_ineffective(steps);
                break;
            }
            state.outcome.remade.extend(remade);
            self.execute(work, steps, &mut state, records, status).await;
            // Events that arrived by now are of this work, and the next observation shows what
            // they are about; or else they are foreign.
            state.outcome.events.extend(self.kernel.drain_events());
            let failures = &state.outcome.failures;
            match self.observe_and_plan(work, failures, records, status).await {
                Ok((next, after)) => (plan, state.outcome.observed) = (next, after),
                Err(error) => {
                    tracing::warn!(%error, "cannot observe the kernel");
                    break;
                }
            }
        }
        state.outcome
    }

    /// Executes steps. If no client waits for them, a setting that is refused blocks nothing: it
    /// is not tried again, and the rest of its group continues.
    async fn execute(
        &mut self,
        work: &Workset,
        steps: Vec<Step>,
        state: &mut Convergence,
        records: &mut Records,
        status: &StatusBoard,
    ) {
        let batch: Vec<BatchOp> = steps
            .iter()
            .map(|step| BatchOp {
                op: step.op.clone(),
                part: work.group(&step.resource).unwrap_or_default(),
                optional: step.retriable
                    || step.op.is_setting() && work.failed_group(&step.resource, status).is_none(),
            })
            .collect();
        self.unsubscribe_deleted(&batch);

        let report = self.progress_reporter(work, state.outcome.count_done(), steps.len());
        report(0);
        let start = Instant::now();
        let outcomes = self.kernel.execute(&batch, report).await;
        self.metrics.record_batch(start.elapsed());

        for (step, outcome) in steps.into_iter().zip(outcomes) {
            if let Some(outcome) = outcome {
                let result = match &outcome {
                    Ok(()) => "ok".to_owned(),
                    Err(error) => name_error(error),
                };
                self.metrics.record_operation(step.op.label(), result);
                state.note_outcome(step, outcome);
            }
        }
        for (name, key, value) in self.kernel.replaced_sysctls() {
            let resource = ResourceRef::new(Kind::Namespace, name);
            if records.save_prior_sysctl(&resource, key, value) {
                state.outcome.saved_sysctls.insert(resource);
            }
        }
    }

    /// Ends the subscriptions of namespaces that are deleted next: their events cost time.
    fn unsubscribe_deleted(&mut self, batch: &[BatchOp]) {
        let deleted = batch
            .iter()
            .filter_map(|op| op.op.deleted_namespace())
            .map(|name| WatchChange::Remove(Ns::Named(name.clone())));
        self.kernel.watch(deleted.collect());
    }

    /// Returns a function that reports the number of operations done in this round.
    fn progress_reporter(
        &self,
        work: &Workset,
        before: usize,
        count: usize,
    ) -> Box<dyn Fn(usize) + Send> {
        let (metrics, progress) = (self.metrics.clone(), work.progress().cloned());
        Box::new(move |done| {
            metrics.liveness.record_progress(Part::Engine);
            if let Some(progress) = &progress {
                progress.send_replace(Progress {
                    done: before + done,
                    total: before + count,
                });
            }
        })
    }

    /// Restores what refused writes adopted, as it was found.
    pub async fn restore_adopted(&mut self, refused: &[PendingWrite], records: &Records) {
        let adopted: BTreeMap<&ResourceRef, (&AdoptionSnapshot, &Record)> = refused
            .iter()
            .flat_map(PendingWrite::adopted)
            .filter_map(|(resource, found)| Some((resource, (found, records.get(resource)?))))
            .collect();
        if adopted.is_empty() {
            return;
        }
        let tasks: Vec<Task> = adopted
            .iter()
            .map(|(resource, (found, record))| restore_task(resource, found, record, records))
            .collect();
        let observed = match self.kernel.observe(&plan::scope(&tasks)).await {
            Ok(observed) => observed,
            Err(error) => {
                return tracing::error!(%error, "cannot restore adopted devices");
            }
        };
        let bridge_device = |bridge: &Name| Some(BridgeDevice::with_default_pvid(bridge.as_str()));
        let plan = plan::plan(&tasks, &bridge_device, &observed);
        // A group each: a setting that cannot be restored does not stop the rest.
        let ops: Vec<BatchOp> = (0..)
            .zip(&plan.steps)
            .map(|(part, step)| BatchOp {
                op: step.op.clone(),
                part,
                optional: true,
            })
            .collect();
        let outcomes = self.kernel.execute(&ops, Box::new(|_| ())).await;
        for (step, outcome) in plan.steps.iter().zip(outcomes) {
            if let Some(Err(error)) = outcome {
                tracing::error!(resource = %step.resource, op = step.op.label(), %error, "cannot restore an adopted setting");
            }
        }
    }

    /// Subscribes to the events of the host's namespace.
    pub fn subscribe_host(&mut self) {
        self.kernel.watch(vec![WatchChange::Add {
            ns: Ns::Host,
            inode: None,
        }]);
    }

    /// Subscribes to the events of those namespaces that are recorded, observed and netnsd's, and
    /// unsubscribes from the others.
    pub fn update_subscriptions<'a>(
        &mut self,
        resources: impl IntoIterator<Item = &'a ResourceRef>,
        observed: &Observed,
        records: &Records,
    ) {
        let changes = resources
            .into_iter()
            .filter(|resource| resource.kind == Kind::Namespace)
            .map(|resource| {
                let ns = Ns::Named(resource.name.clone());
                match observed_inode(resource, &ns, observed, records) {
                    Some(inode) => WatchChange::Add {
                        ns,
                        inode: Some(inode),
                    },
                    None => WatchChange::Remove(ns),
                }
            });
        self.kernel.watch(changes.collect());
    }

    /// Announces the addresses of links that were recreated or moved, once the links have carrier.
    pub fn announce(
        &mut self,
        remade: impl IntoIterator<Item = ResourceRef>,
        observed: &Observed,
        records: &Records,
    ) {
        self.unannounced.extend(remade);
        if self.unannounced.is_empty() {
            return;
        }
        let mut announcements = Vec::new();
        self.unannounced.retain(|resource| {
            let Some(spec) = records.spec(resource) else {
                return false;
            };
            let found: Option<Vec<Announcement>> = spec
                .devices()
                .map(|device| announcement_of(device.ns(), device.name, observed))
                .collect();
            let ready = found.iter().flatten();
            announcements.extend(ready.filter(|link| !link.addresses.is_empty()).cloned());
            found.is_none()
        });
        self.kernel.announce(&announcements);
    }
}

impl Convergence {
    /// Takes the statuses and refusals of a plan over, and returns the steps to execute.
    fn begin_round(&mut self, plan: Plan) -> Vec<Step> {
        let outcome = &mut self.outcome;
        outcome.statuses = plan.statuses;
        outcome.unverifiable = plan.unobserved;
        for (resource, reason) in &self.waiting {
            outcome
                .statuses
                .entry(resource.clone())
                .or_insert_with(|| PlanStatus::Pending(reason.clone()));
        }
        for (resource, op, error) in plan.refused {
            outcome
                .failures
                .entry(resource)
                .or_insert_with(|| OpFailure::refused(op, error));
        }
        let tried = &self.tried;
        let steps: Vec<Step> = plan
            .steps
            .into_iter()
            .filter(|step| !tried.contains(step))
            .collect();
        self.tried
            .extend(steps.iter().filter(|step| step.unverifiable).cloned());
        steps
    }

    /// Notes the outcome of a step that was executed.
    fn note_outcome(&mut self, step: Step, outcome: Outcome) {
        let error = match outcome {
            Ok(()) => {
                let done = self.outcome.done.entry(step.resource).or_default();
                return done.push(step.op.label());
            }
            Err(error) => error,
        };
        let failures = &mut self.outcome.failures;
        if step.retriable && may_succeed_later(&step.op, &error) {
            let reason = format!("{} waits: {error}", step.op.label());
            self.waiting.entry(step.resource.clone()).or_insert(reason);
            self.tried.insert(step);
        } else if step.op.is_setting() {
            self.tried.insert(step.clone());
            failures
                .entry(step.resource)
                .or_insert_with(|| OpFailure::refused(step.op, error));
        } else {
            failures.insert(step.resource, OpFailure::refused(step.op, error));
        }
    }

    /// Notes the failure of steps that were done, and that the plan still has.
    fn fail_ineffective(&mut self, steps: Vec<Step>) {
        for step in steps {
            self.outcome
                .failures
                .entry(step.resource)
                .or_insert_with(|| OpFailure::not_applied(step.op));
        }
    }
}

/// Returns netnsd's interfaces in a namespace for which sysctls of `default` are, or were, asked:
/// new interfaces inherit them.
fn inheriting_interfaces(record: &Record, records: &Records) -> Vec<String> {
    let mut specs = record.applied.iter().chain([&*record.spec]);
    match specs.find(|spec| sets_inherited_sysctls(spec)) {
        Some(spec) => records.intent().devices_in(&Ns::Named(spec.name().clone())),
        None => Vec::new(),
    }
}

fn sets_inherited_sysctls(spec: &Spec) -> bool {
    match spec {
        Spec::Namespace(spec) => spec.sysctls.keys().any(sysctl::is_inherited),
        Spec::Bridge(_) | Spec::Veth(_) | Spec::Link(_) => false,
    }
}

/// Returns the task that restores an adopted resource as it was found.
fn restore_task<'a>(
    resource: &ResourceRef,
    found: &'a AdoptionSnapshot,
    record: &'a Record,
    records: &Records,
) -> Task<'a> {
    Task {
        resource: resource.clone(),
        uid: &record.uid,
        desired: Some(&found.spec),
        applied: std::slice::from_ref(&record.spec),
        prior: &record.prior,
        devices: &[],
        interfaces: inheriting_interfaces(record, records),
        is_new: false,
        macs: &[],
        keep_macs: false,
        ownership: Ownership::Release(found),
    }
}

/// Returns the inode of a namespace that is there and netnsd's.
fn observed_inode(
    resource: &ResourceRef,
    ns: &Ns,
    observed: &Observed,
    records: &Records,
) -> Option<u64> {
    let inside = observed.namespaces.get(ns)?;
    let record = records.get(resource)?;
    let owner_tag = inside.owner_tag.as_deref()?;
    let is_own = ownership::current(owner_tag) == ownership::owner_tag(resource, 0, &record.uid);
    (is_own && inside.inode != 0).then_some(inside.inode)
}

/// Returns the announcement of a link's addresses; `None` before they can be used. Link-local ones
/// that the kernel made are left out: their duplicate address detection may not be over.
fn announcement_of(ns: Ns, name: &str, observed: &Observed) -> Option<Announcement> {
    let link = observed.link(&ns, name)?;
    let addresses: Vec<IpAddr> = link
        .addresses
        .iter()
        .filter(|known| known.is_ours() || !is_link_local(known.net.addr()))
        .map(|known| known.net.addr())
        .collect();
    let is_ready = addresses.is_empty() || link.up && link.carrier;
    let mac = link.mac.filter(|_| is_ready)?;
    Some(Announcement {
        ns,
        name: name.to_owned(),
        index: link.index,
        mac,
        addresses,
    })
}
