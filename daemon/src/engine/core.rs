//! The engine's own thread: what it knows, what it is asked and when it wakes by itself, and what
//! it records.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use netnsd_api::{
    AuditEntry, Code, Kind, NotInSync, Problem, Reconciled, ResourceRef, Role, State, SysctlKey,
};
use tokio::sync::{mpsc, watch};

use super::{
    KEEPINGS, Keeping, Policy, Request, View,
    drift::Drift,
    journal::Journal,
    queue::Turns,
    settle::Cause,
    status::{self, Standing},
    work::{Failures, LARGE, Passed, Work, is_not_yet},
};
use crate::{
    access::{Authenticator, Refusals, audit},
    intent::Intent,
    kernel::{Kernel, KernelEvent, Ns, Observed, WatchChange},
    liveness::Part,
    memory,
    metrics::Metrics,
    model::{Record, Row, Spec},
    store::{AuxRecord, Commit, RowChange, Store, StoreError},
};

/// How long the engine is idle before it writes down what it knows to be done; and how long when
/// that failed.
const TIDY: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// Entries of admins that wait in memory until they can be recorded, at most.
pub(super) const BACKLOG: usize = 1024;

/// How often a pass is made afresh when things went away under it.
const AFRESH: usize = 2;

/// Something deleted that may still be in the kernel.
#[derive(Debug, Clone)]
pub(super) struct Gone {
    pub applied: Vec<Spec>,
    pub prior: BTreeMap<SysctlKey, String>,
}

/// A resource that is looked at again by itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Again {
    pub at: Instant,
    pub tries: u32,
}

/// The engine's state, on its own thread.
pub(super) struct Core<K: Kernel> {
    pub kernel: K,
    store: Store,
    pub intent: Intent,
    /// By what they were called, and their identity.
    pub gone: BTreeMap<(ResourceRef, String), Gone>,
    pub standings: BTreeMap<ResourceRef, Standing>,
    pub view: Arc<View>,
    pub journal: Journal,
    /// What is known to be done and not recorded yet, by uid: it rides along with the next commit.
    pub confirmations: BTreeMap<String, RowChange>,
    pub retries: BTreeMap<ResourceRef, Again>,
    pub drift: Drift,
    /// Others' namespaces; none before they were first looked at.
    pub foreign: Option<BTreeSet<String>>,
    /// When the last try to record what is done failed.
    untidy_since: Option<Instant>,
    /// Lane of tokens and audit entries.
    lane: mpsc::Receiver<Keeping>,
    /// Taken off the lane: recorded with the next commit, whatever that is of, and fails with it.
    keeping: Vec<Keeping>,
    /// Entries of admins that could not be recorded yet.
    backlog: Vec<AuditEntry>,
    refusals: Arc<Refusals>,
    /// The number of the newest entry of the audit log.
    audited: u64,
    /// Entries of it that are recorded, and of writes that were taken back.
    pub untrue: Vec<u64>,
    /// Resources that were made again or moved, until their addresses are announced.
    pub unannounced: BTreeSet<ResourceRef>,
    /// Whether the work at hand was on many resources.
    pub large: bool,
    pub metrics: Arc<Metrics>,
}

impl<K: Kernel> Core<K> {
    /// Opens the store and reads everything recorded; `shown` is told the number of the newest
    /// event.
    ///
    /// # Errors
    /// When the store cannot be opened or read.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is something else, and there is one caller"
    )]
    pub async fn open(
        database: &Path,
        kernel: K,
        lane: mpsc::Receiver<Keeping>,
        refusals: Arc<Refusals>,
        view: Arc<View>,
        shown: watch::Sender<u64>,
        policy: Policy,
        metrics: Arc<Metrics>,
        access: &Authenticator,
    ) -> Result<Self, StoreError> {
        let mut store = Store::open(database).await?;
        let rows = store.load_resources().await?;
        access.load(store.load_tokens().await?);
        let journal = Journal::new(store.load_newest_event_id().await?, shown);
        let audited = store.load_newest_audit_id().await?;
        let intent = Intent::new(store.load_machine_key().await?);
        let mut core = Self {
            kernel,
            store,
            intent,
            gone: BTreeMap::new(),
            standings: BTreeMap::new(),
            view,
            journal,
            confirmations: BTreeMap::new(),
            retries: BTreeMap::new(),
            drift: Drift::new(policy),
            foreign: None,
            untidy_since: None,
            lane,
            keeping: Vec::new(),
            backlog: Vec::new(),
            refusals,
            audited,
            untrue: Vec::new(),
            unannounced: BTreeSet::new(),
            large: false,
            metrics,
        };
        for row in rows {
            core.remember(row);
        }
        core.complete_macs();
        // Who asks before everything was tried sees what is recorded.
        let reason = Some("recorded, and not compared with the kernel yet".to_owned());
        let standing = Standing {
            state: State::Pending,
            reason,
        };
        let entry = |(_, record): (ResourceRef, &Record)| {
            status::entry(record, &standing, &Observed::default())
        };
        core.view
            .publish(core.intent.all().map(entry).collect(), &[]);
        Ok(core)
    }

    fn remember(&mut self, row: Row) {
        let Row {
            uid,
            kind,
            name,
            generation,
            created_at,
            updated_at,
            desired,
            applied,
            prior,
            adopt,
            macs,
        } = row;
        let resource = ResourceRef::new(kind, name);
        match desired {
            Some(spec) => {
                let keep_macs = macs.len() != spec.asked_macs().len();
                let record = Record {
                    uid,
                    generation,
                    created_at,
                    updated_at,
                    spec,
                    applied,
                    prior,
                    adopt,
                    macs,
                    keep_macs,
                };
                self.intent.set(&resource, Some(record));
            }
            None => {
                self.gone.insert((resource, uid), Gone { applied, prior });
            }
        }
    }

    /// Derives addresses for what was recorded before they were, once all that are recorded are
    /// known. What is in the kernel keeps those that it has.
    fn complete_macs(&mut self) {
        let without: Vec<ResourceRef> = self
            .intent
            .all()
            .filter(|(_, record)| record.keep_macs)
            .map(|(resource, _)| resource)
            .collect();
        for resource in without {
            if let Some(spec) = self.intent.spec(&resource) {
                let macs = self.intent.derive_macs(spec);
                self.intent.set_macs(&resource, &macs);
            }
        }
    }

    /// Boots, then serves the queue until it is closed.
    pub async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Request>) {
        self.boot().await;
        self.rest().await;
        let mut waiting = Turns::default();
        loop {
            self.metrics.liveness.record_progress(Part::Engine);
            let alarm = self.next_alarm();
            tokio::select! {
                request = queue.recv() => {
                    let Some(request) = request else { break };
                    self.take(request, &mut waiting).await;
                    // Writes that came meanwhile have their turn before the rest of a caller who
                    // sent many.
                    loop {
                        while let Ok(request) = queue.try_recv() {
                            self.take(request, &mut waiting).await;
                        }
                        if waiting.is_empty() {
                            break;
                        }
                        self.carry_out_batch(&mut waiting).await;
                        // A batch without a commit left the lane as it was.
                        if !self.lane.is_empty() {
                            self.tidy().await;
                        }
                    }
                }
                Some(first) = self.lane.recv() => {
                    self.keeping.push(first);
                    self.tidy().await;
                }
                notice = self.kernel.notice() => self.notice(notice, &BTreeMap::new()),
                () = tokio::time::sleep_until(alarm.into()) => self.wake().await,
                // Only to make a step.
                () = self.metrics.liveness.wait_until_idle_step() => continue,
            }
            self.rest().await;
        }
        self.refusals.end_window();
        self.tidy().await;
        if !self.backlog.is_empty() {
            tracing::error!(
                count = self.backlog.len(),
                "entries of the audit log are lost"
            );
        }
        self.store.close().await;
    }

    /// Lets go of what was held for the work at hand.
    async fn rest(&mut self) {
        self.kernel.rest();
        if std::mem::take(&mut self.large) {
            self.store.release_memory().await;
            memory::trim_heap();
        }
    }

    /// Takes a request off the queue: writes are gathered, the rest is done in its turn.
    async fn take(&mut self, request: Request, waiting: &mut Turns) {
        match request {
            Request::Write(message) => waiting.push(*message),
            Request::Reconcile(answer) => {
                while !waiting.is_empty() {
                    self.carry_out_batch(waiting).await;
                }
                let reconciled = self.reconcile().await;
                let _asker_gone = answer.send(reconciled);
            }
        }
    }

    async fn carry_out_batch(&mut self, waiting: &mut Turns) {
        self.metrics.liveness.record_progress(Part::Engine);
        let batch = self.take_batch(waiting);
        self.carry_out(batch).await;
    }

    /// Everything that there is to be brought about.
    fn everything(&self) -> BTreeSet<ResourceRef> {
        let recorded = self.intent.all().map(|(resource, _)| resource);
        recorded
            .chain(self.gone.keys().map(|(resource, _)| resource.clone()))
            .collect()
    }

    /// Everything recorded, compared with the kernel in one pass.
    async fn boot(&mut self) {
        let all = self.everything();
        let count = all.len();
        let start = Instant::now();
        self.kernel.watch(vec![WatchChange::Add {
            ns: Ns::Host,
            inode: None,
        }]);
        let passed = self.pass(all, false).await;
        self.notice(KernelEvent::NamesLost, &BTreeMap::new());
        self.view.set_ready();
        let ms = start.elapsed().as_secs_f64() * 1000.0;
        let operations: usize = passed.done.values().map(Vec::len).sum();
        tracing::info!(
            resources = count,
            operations,
            ms,
            "everything recorded has been tried"
        );
    }

    /// One pass over everything, because somebody asks for it.
    async fn reconcile(&mut self) -> Reconciled {
        let work = Work {
            leftovers: true,
            ..Work::each(self.everything())
        };
        let passed = self.pass_over(work, false).await;
        let not_in_sync = |(resource, standing): (&ResourceRef, &Standing)| NotInSync {
            kind: resource.kind,
            name: resource.name.clone(),
            state: standing.state,
            reason: standing.reason.clone(),
        };
        let stands = |standing: &Standing| matches!(standing.state, State::InSync | State::Pending);
        let failed = self
            .standings
            .iter()
            .filter(|(_, standing)| !stands(standing))
            .map(not_in_sync);
        let reconciled = Reconciled {
            repaired: passed
                .done
                .into_keys()
                .filter(|resource| self.stands(resource))
                .collect(),
            failed: failed.collect(),
        };
        self.tidy().await;
        reconciled
    }

    /// One pass over resources, each on its own. With `spare`, what others change again and again,
    /// or what is only to be reported, is not repaired.
    pub(super) async fn pass(&mut self, resources: BTreeSet<ResourceRef>, spare: bool) -> Passed {
        self.pass_over(Work::each(resources), spare).await
    }

    /// The same over a piece of work.
    async fn pass_over(&mut self, work: Work, spare: bool) -> Passed {
        let mut work = self.with_bridges(work);
        let (mut plan, observed) = match self.look_and_plan(&mut work, &Failures::new()).await {
            Ok(found) => found,
            Err(error) => {
                let standing = Standing {
                    state: State::Failed,
                    reason: Some(format!("the kernel cannot be asked: {error}")),
                };
                for resource in work.parts.keys() {
                    self.standings.insert(resource.clone(), standing.clone());
                    self.retry_later(resource);
                }
                self.publish(
                    work.parts.keys().chain(&work.looked_at),
                    &Observed::default(),
                );
                return Passed::default();
            }
        };
        let (drifted, held) = self.weigh(&plan, spare);
        // The repair of many takes seconds, in which readers see that they are not there.
        self.publish(&drifted, &observed);
        if !held.is_empty() {
            for resource in held {
                work.parts.remove(&resource);
                work.looked_at.insert(resource);
            }
            plan = self.plan(&work, &Failures::new(), &observed);
        }
        if self.note_prior(&plan, &observed, &BTreeSet::new()) {
            self.tidy().await;
        }
        let mut passed = self.bring_about(&mut work, plan, observed).await;
        // Whoever is changing things goes on meanwhile: then it is looked at afresh.
        for _ in 0..AFRESH {
            if !passed
                .failures
                .values()
                .any(|(_, error)| is_not_yet(error.errno))
            {
                break;
            }
            self.take_in_bridges(&mut work, &passed.failures);
            let Ok((plan, observed)) = self.look_and_plan(&mut work, &Failures::new()).await else {
                break;
            };
            let (done, remade) = (passed.done, passed.remade);
            passed = self.bring_about(&mut work, plan, observed).await;
            passed.remade.extend(remade);
            for (resource, operations) in done {
                passed.done.entry(resource).or_default().extend(operations);
            }
        }
        self.settle(&work, &passed, &Cause::Pass);
        self.note_repairs(&drifted, &passed.done);
        passed
    }

    /// Whether a resource is as it was asked to be, or waits for others.
    pub(super) fn stands(&self, resource: &ResourceRef) -> bool {
        let fine = |standing: &Standing| matches!(standing.state, State::InSync | State::Pending);
        self.standings.get(resource).is_some_and(fine)
    }

    /// Whether a namespace of this name is, or was, asked for.
    pub(super) fn manages(&self, name: &str) -> bool {
        let Ok(name) = name.parse() else { return false };
        let resource = ResourceRef::new(Kind::Namespace, name);
        self.intent.get(&resource).is_some() || self.gone_of(&resource).next().is_some()
    }

    /// What was deleted under this name and may still be in the kernel, by uid.
    pub(super) fn gone_of(&self, resource: &ResourceRef) -> impl Iterator<Item = (&str, &Gone)> {
        self.gone
            .range((resource.clone(), String::new())..)
            .take_while(move |((of, _), _)| of == resource)
            .map(|((_, uid), gone)| (uid.as_str(), gone))
    }

    fn next_alarm(&self) -> Instant {
        let untidy = !self.confirmations.is_empty()
            || !self.untrue.is_empty()
            || !self.backlog.is_empty()
            || self.journal.has_news();
        let tidy = untidy.then(|| match self.untidy_since {
            Some(failed) => failed + TIDY.1,
            None => Instant::now() + TIDY.0,
        });
        let retries = self.retries.values().map(|again| again.at);
        retries
            .chain(tidy)
            .chain(self.refusals.due_at())
            .fold(self.drift.alarm(), Instant::min)
    }

    /// What is due by itself: retries, what others did, confirmations.
    async fn wake(&mut self) {
        let now = Instant::now();
        let due = self.retries.iter().filter(|(_, again)| again.at <= now);
        let due: BTreeSet<ResourceRef> = due.map(|(resource, _)| resource.clone()).collect();
        let any = !due.is_empty();
        if any {
            self.pass(due, false).await;
        }
        if !self.look_after_others().await && !any {
            self.tidy().await;
        }
    }

    /// Returns true if entries of the audit log wait in memory.
    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Records what is known to be done, and shows what happened.
    pub(super) async fn tidy(&mut self) {
        match self.commit(BTreeMap::new(), Vec::new()).await {
            Ok(()) => self.journal.show(),
            Err(error) => {
                if self.untidy_since.is_none() {
                    tracing::warn!(%error, "what is done cannot be recorded yet");
                }
                self.untidy_since = Some(Instant::now());
            }
        }
    }

    /// Commits rows and their audit entries, together with confirmations, events, and what is in
    /// the lane.
    pub(super) async fn commit(
        &mut self,
        rows: BTreeMap<String, RowChange>,
        mut aux_records: Vec<AuxRecord>,
    ) -> Result<(), StoreError> {
        // In one commit, none waits for writes or needs its own. The bound is also that of the
        // statement's text.
        self.keeping
            .extend(std::iter::from_fn(|| self.lane.try_recv().ok()).take(KEEPINGS));
        let mut all = self.confirmations.clone();
        all.extend(rows);
        let (events, retracted) = self.journal.news();
        aux_records.extend(self.untrue.iter().copied().map(AuxRecord::DeleteAudit));
        let refusals = self.refusals.take_due();
        for entry in self
            .backlog
            .clone()
            .into_iter()
            .chain(refusals.iter().cloned())
        {
            aux_records.push(AuxRecord::PutAudit(self.numbered(entry)));
        }
        let asked = std::mem::take(&mut self.keeping);
        for Keeping { what, .. } in &asked {
            aux_records.push(match what {
                AuxRecord::PutAudit(entry) => AuxRecord::PutAudit(self.numbered(entry.clone())),
                other => other.clone(),
            });
        }
        self.large |= all.len() + events.len() >= LARGE;
        let commit = Commit {
            rows: all.into_values().collect(),
            events,
            retracted,
            aux_records,
        };
        let start = Instant::now();
        let result = self.store.commit(&commit).await;
        if result.is_ok() {
            log_kept(&commit.aux_records);
        }
        for Keeping { what, answer } in asked {
            if let (AuxRecord::PutAudit(entry), Err(_)) = (&what, &result) {
                audit::log_entry(entry, false);
            }
            let unavailable =
                |error: &StoreError| Problem::new(Code::StoreUnavailable, error.to_string());
            let kept = match &result {
                Err(_) if self.put_into_backlog(&what) => Ok(()),
                other => other.as_ref().map(drop).map_err(unavailable),
            };
            let _asker_gone = answer.send(kept);
        }
        if result.is_err() {
            self.refusals.put_back(refusals);
        }
        if commit != Commit::default() {
            self.metrics.record_commit(start.elapsed(), result.is_err());
        }
        result?;
        self.confirmations.clear();
        self.untrue.clear();
        self.backlog.clear();
        self.journal.recorded();
        self.untidy_since = None;
        Ok(())
    }

    /// Keeps what could not be recorded in memory, and returns true, if it tells what an admin did
    /// and there is room: somebody must be able to act then.
    fn put_into_backlog(&mut self, what: &AuxRecord) -> bool {
        let AuxRecord::PutAudit(entry) = what else {
            return false;
        };
        let is_kept =
            entry.role == Some(Role::Admin) && entry.status < 400 && self.backlog.len() < BACKLOG;
        if is_kept {
            self.backlog.push(entry.clone());
        }
        is_kept
    }

    /// An entry of the audit log with its number.
    pub(super) fn numbered(&mut self, entry: AuditEntry) -> AuditEntry {
        self.audited += 1;
        AuditEntry {
            id: self.audited,
            ..entry
        }
    }

    /// Remembers the value that a sysctl had before netnsd first set it; returns true if there was
    /// none yet, so that the resource's row has to be written.
    pub(super) fn keep_prior(
        &mut self,
        resource: &ResourceRef,
        key: SysctlKey,
        value: String,
    ) -> bool {
        let Some(left) = self.intent.leftovers_mut(resource) else {
            return false;
        };
        // An interface begins with what `default` is, which may be netnsd's by now.
        let default = key.at("default").filter(|_| key.interface().is_some());
        let value = default
            .and_then(|default| left.prior.get(&default).cloned())
            .unwrap_or(value);
        let Entry::Vacant(first) = left.prior.entry(key) else {
            return false;
        };
        first.insert(value);
        true
    }

    /// Notes that a resource's row has to be written with a later commit.
    pub(super) fn confirm(&mut self, resource: &ResourceRef) {
        if let Some(record) = self.intent.get(resource) {
            self.confirmations
                .insert(record.uid.clone(), RowChange::Put(Box::new(record.row())));
        }
    }
}

/// Writes what is durable now and concerns the audit log to the log too.
fn log_kept(kept: &[AuxRecord]) {
    for one in kept {
        match one {
            AuxRecord::PutAudit(entry) => audit::log_entry(entry, true),
            AuxRecord::DeleteAudit(id) => audit::log_retraction(*id),
            _ => {}
        }
    }
}
