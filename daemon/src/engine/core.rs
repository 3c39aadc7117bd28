//! The engine's own thread: decides, records, has the kernel changed, looks, answers.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque, btree_map::Entry},
    ops::Range,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use netnsd_api::{
    AuditEntry, Code, EventType, Kind, NotInSync, PlannedOperation, Problem, Progress, Reconciled, ResourceRef, State,
    SysctlKey,
};
use serde_json::json;
use tokio::sync::{mpsc, watch};

use super::{
    Change, Did, Keeping, Message, Policy, Request, Spec, View, Written,
    drift::Drift,
    journal::Journal,
    settle::{Cause, refusal},
    status::{self, Standing},
    types::did,
    work::{Failures, LARGE, Passed, Work, is_not_yet},
};
use crate::{
    access::{Access, Audit},
    intent::{self, Decision, Intent, Leftovers, Record},
    kernel::{Kernel, Notice, Ns, Observed},
    memory,
    metrics::Metrics,
    plan::{self, Found, Plan, Step, Verdict},
    store::{Commit, Kept, Row, RowChange, Store, StoreError},
};

/// How long the engine is idle before it writes down what it knows to be done; and how long when that failed.
const TIDY: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

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

/// A write that was accepted, and what it replaced.
pub(super) struct Accepted {
    message: Message,
    pub decision: Decision,
    pub before: Vec<(ResourceRef, Option<Record>)>,
    /// What it takes over, as it was found.
    pub found: BTreeMap<ResourceRef, Found>,
    /// What it changes, as it was, with the MAC addresses that the kernel chose.
    was: BTreeMap<ResourceRef, Spec>,
    /// The numbers of its events.
    events: Range<u64>,
}

impl Accepted {
    pub fn progress(&self) -> Option<&watch::Sender<Progress>> {
        self.message.write.progress.as_ref()
    }

    /// Whether its answer waits for the kernel.
    pub fn waits(&self) -> bool {
        self.message.write.wait
    }

    /// Its entry of the audit log, with the answer that it will have.
    fn audit(&self) -> Option<(Arc<Audit>, AuditEntry)> {
        let write = &self.message.write;
        let status = write.status?(did(&self.decision.named), write.wait);
        let audit = write.caller.audit.clone()?;
        let entry = audit.answered(status);
        Some((audit, entry))
    }

    /// The resources that it names or changes.
    pub fn resources(&self) -> impl Iterator<Item = &ResourceRef> {
        let named = self.decision.named.iter().map(|(resource, _)| resource);
        named.chain(self.before.iter().map(|(resource, _)| resource))
    }
}

/// What tells whether two writes may be carried out together: neither touches what the other touches or refers to.
#[derive(Default)]
struct Footprint {
    touched: BTreeSet<ResourceRef>,
    claimed: BTreeSet<(Ns, String)>,
    referred: BTreeSet<ResourceRef>,
}

impl Footprint {
    fn of(decision: &Decision, intent: &Intent) -> Self {
        let mut print = Self::default();
        print.touched.extend(decision.named.iter().map(|(resource, _)| resource.clone()));
        for (resource, after) in &decision.changes {
            print.touched.insert(resource.clone());
            let specs = intent
                .get(resource)
                .map(|record| &record.spec)
                .into_iter()
                .chain(after.as_ref().map(|record| &record.spec));
            for spec in specs {
                print.referred.extend(intent::references(spec));
                print.claimed.extend(intent::interfaces(spec));
            }
        }
        print
    }

    fn meets(&self, other: &Self) -> bool {
        !self.touched.is_disjoint(&other.touched)
            || !self.touched.is_disjoint(&other.referred)
            || !self.referred.is_disjoint(&other.touched)
            || !self.claimed.is_disjoint(&other.claimed)
    }

    fn join(&mut self, other: Self) {
        self.touched.extend(other.touched);
        self.referred.extend(other.referred);
        self.claimed.extend(other.claimed);
    }
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
    /// To be recorded with the next commit, whose fate they share.
    keeping: Vec<Keeping>,
    /// The number of the newest entry of the audit log.
    audited: u64,
    /// Whether the work at hand was on many resources.
    pub large: bool,
    pub metrics: Arc<Metrics>,
}

impl<K: Kernel> Core<K> {
    /// Opens the store and reads everything recorded; `shown` is told the number of the newest event.
    ///
    /// # Errors
    /// When the store cannot be opened or read.
    pub async fn open(
        database: &Path,
        kernel: K,
        view: Arc<View>,
        shown: watch::Sender<u64>,
        policy: Policy,
        metrics: Arc<Metrics>,
        access: &Access,
    ) -> Result<Self, StoreError> {
        let mut store = Store::open(database).await?;
        let rows = store.load().await?;
        access.load(store.tokens().await?);
        let journal = Journal::new(store.newest_event().await?, shown);
        let audited = store.newest_audit().await?;
        let mut core = Self {
            kernel,
            store,
            intent: Intent::default(),
            gone: BTreeMap::new(),
            standings: BTreeMap::new(),
            view,
            journal,
            confirmations: BTreeMap::new(),
            retries: BTreeMap::new(),
            drift: Drift::new(policy),
            foreign: None,
            untidy_since: None,
            keeping: Vec::new(),
            audited,
            large: false,
            metrics,
        };
        for row in rows {
            core.remember(row);
        }
        // Who asks before everything was tried sees what is recorded.
        let reason = Some("recorded, and not compared with the kernel yet".to_owned());
        let standing = Standing { state: State::Pending, reason };
        let entry = |(_, record): (ResourceRef, &Record)| status::entry(record, &standing, &Observed::default());
        core.view.publish(core.intent.all().map(entry).collect(), &[]);
        Ok(core)
    }

    fn remember(&mut self, row: Row) {
        let Row { uid, kind, name, generation, created_at, updated_at, desired, applied, prior, adopt } = row;
        let resource = ResourceRef::new(kind, name);
        match desired {
            Some(spec) => {
                let record = Record { uid, generation, created_at, updated_at, spec, applied, prior, adopt };
                self.intent.set(&resource, Some(record));
            }
            None => {
                self.gone.insert((resource, uid), Gone { applied, prior });
            }
        }
    }

    /// Boots, then serves the queue until it is closed.
    pub async fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        self.boot().await;
        self.rest();
        let mut waiting = VecDeque::new();
        loop {
            let alarm = self.next_alarm();
            tokio::select! {
                request = queue.recv() => {
                    let Some(request) = request else { break };
                    self.take(request, &mut waiting).await;
                    while let Ok(request) = queue.try_recv() {
                        self.take(request, &mut waiting).await;
                    }
                    self.carry_out_all(&mut waiting).await;
                    if !self.keeping.is_empty() {
                        self.tidy().await;
                    }
                }
                notice = self.kernel.notice() => self.notice(notice, &BTreeMap::new()),
                () = tokio::time::sleep_until(alarm.into()) => self.wake().await,
            }
            self.rest();
        }
        self.tidy().await;
        self.store.close().await;
    }

    /// Lets go of what was held for the work at hand.
    fn rest(&mut self) {
        self.kernel.rest();
        if std::mem::take(&mut self.large) {
            memory::give_back();
        }
    }

    /// Takes a request off the queue: writes are gathered, the rest is done in its turn.
    async fn take(&mut self, request: Request, waiting: &mut VecDeque<Message>) {
        match request {
            Request::Write(message) => waiting.push_back(*message),
            Request::Keep(keeping) => self.keeping.push(keeping),
            Request::Reconcile(answer) => {
                self.carry_out_all(waiting).await;
                let reconciled = self.reconcile().await;
                let _asker_gone = answer.send(reconciled);
            }
        }
    }

    async fn carry_out_all(&mut self, waiting: &mut VecDeque<Message>) {
        while !waiting.is_empty() {
            let batch = self.take_batch(waiting);
            self.carry_out(batch).await;
        }
    }

    /// Everything that there is to be brought about.
    fn everything(&self) -> BTreeSet<ResourceRef> {
        let recorded = self.intent.all().map(|(resource, _)| resource);
        recorded.chain(self.gone.keys().map(|(resource, _)| resource.clone())).collect()
    }

    /// Everything recorded, compared with the kernel in one pass.
    async fn boot(&mut self) {
        let all = self.everything();
        let count = all.len();
        let start = Instant::now();
        self.kernel.watch(vec![(Ns::Host, Some(0))]);
        let passed = self.pass(all, false).await;
        self.notice(Notice::NamesLost, &BTreeMap::new());
        self.view.set_ready();
        let ms = start.elapsed().as_secs_f64() * 1000.0;
        let operations: usize = passed.done.values().map(Vec::len).sum();
        tracing::info!(resources = count, operations, ms, "everything recorded has been tried");
    }

    /// One pass over everything, because somebody asks for it.
    async fn reconcile(&mut self) -> Reconciled {
        let passed = self.pass(self.everything(), false).await;
        let not_in_sync = |(resource, standing): (&ResourceRef, &Standing)| NotInSync {
            kind: resource.kind,
            name: resource.name.clone(),
            state: standing.state,
            reason: standing.reason.clone(),
        };
        let stands = |standing: &Standing| matches!(standing.state, State::InSync | State::Pending);
        let failed = self.standings.iter().filter(|(_, standing)| !stands(standing)).map(not_in_sync);
        let reconciled = Reconciled {
            repaired: passed.done.into_keys().filter(|resource| self.stands(resource)).collect(),
            failed: failed.collect(),
        };
        self.tidy().await;
        reconciled
    }

    /// One pass over resources, each on its own. With `spare`, what others change again and again, or what is only to be
    /// reported, is not repaired.
    pub(super) async fn pass(&mut self, resources: BTreeSet<ResourceRef>, spare: bool) -> Passed {
        let mut work = self.with_bridges(Work::each(resources));
        let (mut plan, observed) = match self.look_and_plan(&mut work, &Failures::new()).await {
            Ok(found) => found,
            Err(error) => {
                let standing =
                    Standing { state: State::Failed, reason: Some(format!("the kernel cannot be asked: {error}")) };
                for resource in work.parts.keys() {
                    self.standings.insert(resource.clone(), standing.clone());
                    self.retry_later(resource);
                }
                self.publish(work.parts.keys().chain(&work.looked_at), &Observed::default());
                return Passed::default();
            }
        };
        let (drifted, held) = self.weigh(&plan, spare);
        if !held.is_empty() {
            for resource in held {
                work.parts.remove(&resource);
                work.looked_at.insert(resource);
            }
            plan = self.plan(&work, &Failures::new(), &observed);
        }
        let mut passed = self.bring_about(&mut work, plan, observed).await;
        // Whoever is changing things goes on meanwhile: then it is looked at afresh.
        for _ in 0..AFRESH {
            if !passed.failures.values().any(|(_, error)| is_not_yet(error.errno)) {
                break;
            }
            let Ok((plan, observed)) = self.look_and_plan(&mut work, &Failures::new()).await else { break };
            let done = passed.done;
            passed = self.bring_about(&mut work, plan, observed).await;
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
        let untidy = !self.confirmations.is_empty() || self.journal.has_news();
        let tidy = untidy.then(|| match self.untidy_since {
            Some(failed) => failed + TIDY.1,
            None => Instant::now() + TIDY.0,
        });
        let retries = self.retries.values().map(|again| again.at);
        retries.chain(tidy).fold(self.drift.alarm(), Instant::min)
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

    /// Records what is known to be done, and shows what happened.
    async fn tidy(&mut self) {
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

    /// Commits rows and what the audit log says of them, with what is known to be done and what happened.
    async fn commit(&mut self, rows: BTreeMap<String, RowChange>, mut kept: Vec<Kept>) -> Result<(), StoreError> {
        let mut all = self.confirmations.clone();
        all.extend(rows);
        let (events, retracted) = self.journal.news();
        let mut askers = Vec::new();
        for Keeping { what, answer } in std::mem::take(&mut self.keeping) {
            kept.push(match what {
                Kept::Audit(entry) => Kept::Audit(self.numbered(entry)),
                other => other,
            });
            askers.push(answer);
        }
        self.large |= all.len() + events.len() >= LARGE;
        let commit = Commit { rows: all.into_values().collect(), events, retracted, kept };
        let start = Instant::now();
        let result = self.store.commit(&commit).await;
        for asker in askers {
            let unavailable = |error: &StoreError| Problem::new(Code::StoreUnavailable, error.to_string());
            let _asker_gone = asker.send(result.as_ref().map(drop).map_err(unavailable));
        }
        if commit != Commit::default() {
            self.metrics.commit(start.elapsed(), result.is_err());
        }
        result?;
        self.confirmations.clear();
        self.journal.recorded();
        self.untidy_since = None;
        Ok(())
    }

    /// An entry of the audit log with its number.
    fn numbered(&mut self, entry: AuditEntry) -> AuditEntry {
        self.audited += 1;
        AuditEntry { id: self.audited, ..entry }
    }

    /// Takes writes off the queue that may be carried out together, their changes made in the intent.
    fn take_batch(&mut self, waiting: &mut VecDeque<Message>) -> Vec<Accepted> {
        let mut batch: Vec<Accepted> = Vec::new();
        let mut footprint = Footprint::default();
        while let Some(message) = waiting.front() {
            let alone = message.write.dry_run || matches!(message.write.change, Change::Topology(_));
            if alone && !batch.is_empty() {
                break;
            }
            let new_uid = || uuid::Uuid::now_v7().to_string();
            let decided = self.intent.decide(&message.write, Timestamp::now(), &new_uid);
            let decision = match decided {
                Ok(decision) => decision,
                // It may have been refused for what another of the batch does: final only when it stands alone.
                Err(_) if !batch.is_empty() => break,
                Err(problem) => {
                    if let Some(mut message) = waiting.pop_front() {
                        message.refuse(problem);
                    }
                    continue;
                }
            };
            let print = Footprint::of(&decision, &self.intent);
            if footprint.meets(&print) {
                break;
            }
            footprint.join(print);
            let Some(message) = waiting.pop_front() else { break };
            batch.push(self.accept(message, decision));
            if alone {
                break;
            }
        }
        batch
    }

    fn accept(&mut self, message: Message, decision: Decision) -> Accepted {
        let mut before = Vec::new();
        for (resource, record) in &decision.changes {
            let old = self.intent.set(resource, record.clone());
            if let (Some(old), None) = (&old, record) {
                let mut applied = old.applied.clone();
                applied.push(old.spec.clone());
                let gone = Gone { applied, prior: old.prior.clone() };
                self.gone.insert((resource.clone(), old.uid.clone()), gone);
            }
            before.push((resource.clone(), old));
        }
        Accepted { message, decision, before, found: BTreeMap::new(), was: BTreeMap::new(), events: 0..0 }
    }

    /// Takes a write's changes back. What it may have left in the kernel (`tried`) is kept in mind, but for what was given back.
    fn take_back(&mut self, accepted: &Accepted, tried: bool) {
        for (resource, before) in accepted.before.iter().rev() {
            let after = self.intent.set(resource, before.clone());
            if let Some(before) = before {
                self.gone.remove(&(resource.clone(), before.uid.clone()));
            }
            let Some(after) = after.filter(|_| tried && !accepted.found.contains_key(resource)) else { continue };
            match self.intent.leftovers_mut(resource) {
                Some(Leftovers { applied, prior, .. }) => {
                    applied.push(after.spec);
                    prior.extend(after.prior);
                }
                None => {
                    let gone = Gone { applied: vec![after.spec], prior: after.prior };
                    self.gone.insert((resource.clone(), after.uid), gone);
                }
            }
        }
    }

    /// Carries out a batch: look, plan, record, change, look again, answer.
    async fn carry_out(&mut self, batch: Vec<Accepted>) {
        let mut batch = self.answer_unchanged(batch);
        while !batch.is_empty() {
            let mut work = self.work(&batch);
            let (plan, observed) = match self.look_and_plan(&mut work, &Failures::new()).await {
                Ok(found) => found,
                Err(error) => {
                    let problem = Problem::new(Code::KernelUnavailable, format!("the kernel cannot be asked: {error}"));
                    return self.refuse_all(batch, &problem);
                }
            };
            // Refusals first, before anything is recorded: the others go on without them.
            let count = batch.len();
            let mut fine = Vec::new();
            for mut accepted in batch {
                match conflict_of(&accepted, &plan) {
                    Some(conflict) => {
                        self.take_back(&accepted, false);
                        accepted.message.refuse(conflict);
                    }
                    None => fine.push(accepted),
                }
            }
            batch = fine;
            if batch.len() < count {
                continue;
            }
            if let [only] = &batch[..]
                && only.message.write.dry_run
            {
                return self.answer_dry_run(batch.remove(0), &plan, &observed);
            }
            for accepted in &mut batch {
                accepted.found = accepted
                    .resources()
                    .filter_map(|resource| Some((resource.clone(), plan.found.get(resource)?.clone())))
                    .collect();
                let was = |(resource, before): &(ResourceRef, Option<Record>)| {
                    let next = self.intent.get(resource).map(|record| &record.spec);
                    Some((resource.clone(), status::with_macs(&before.as_ref()?.spec, next, &observed)))
                };
                accepted.was = accepted.before.iter().filter_map(was).collect();
            }
            let recording = Instant::now();
            if let Err(error) = self.record(&mut batch).await {
                tracing::error!(%error, "a write cannot be recorded");
                let problem = Problem::new(Code::StoreUnavailable, format!("{error}: nothing was changed"));
                return self.refuse_all(batch, &problem);
            }
            let store = recording.elapsed();
            self.answer_early(&mut batch, store);
            let changing = Instant::now();
            let passed = self.bring_about(&mut work, plan, observed).await;
            return self.finish(batch, &work, &passed, store, changing).await;
        }
    }

    /// Writes that change nothing are answered from memory, unless a resource is not as it should be.
    fn answer_unchanged(&mut self, batch: Vec<Accepted>) -> Vec<Accepted> {
        let mut rest = Vec::new();
        for mut accepted in batch {
            let nothing = |(resource, did): &(ResourceRef, Did)| {
                *did == Did::Unchanged && (accepted.message.write.dry_run || self.stands(resource))
            };
            if accepted.decision.named.iter().all(nothing) {
                self.take_back(&accepted, false);
                let written = self.written(&accepted);
                accepted.message.answer(Ok(written));
            } else {
                rest.push(accepted);
            }
        }
        rest
    }

    /// What a write came to.
    fn written(&self, accepted: &Accepted) -> Written {
        let entry = match &accepted.decision.named[..] {
            [(resource, _)] => self.view.get(resource.kind, &resource.name),
            _ => None,
        };
        Written {
            named: accepted.decision.named.clone(),
            entry,
            applied: true,
            plan: Vec::new(),
            store: Duration::ZERO,
            kernel: Duration::ZERO,
        }
    }

    fn refuse_all(&mut self, batch: Vec<Accepted>, problem: &Problem) {
        for mut accepted in batch.into_iter().rev() {
            self.take_back(&accepted, false);
            accepted.message.refuse(problem.clone());
        }
    }

    fn answer_dry_run(&mut self, mut accepted: Accepted, plan: &Plan, observed: &Observed) {
        let entry = match &accepted.decision.named[..] {
            [(resource, _)] => self.intent.get(resource).map(|record| {
                let standing = match plan.verdicts.get(resource) {
                    Some(Verdict::Pending(reason)) => Standing { state: State::Pending, reason: Some(reason.clone()) },
                    _ => Standing::in_sync(),
                };
                Arc::new(status::entry(record, &standing, observed))
            }),
            _ => None,
        };
        let operation = |step: &Step| PlannedOperation {
            op: step.op.label().to_owned(),
            namespace: step.op.ns().name().cloned(),
            resource: step.resource.clone(),
            command: plan::command(&step.op),
        };
        let written = Written { entry, plan: plan.steps.iter().map(operation).collect(), ..self.written(&accepted) };
        self.take_back(&accepted, false);
        accepted.message.answer(Ok(written));
    }

    /// Answers those writes of a batch that do not wait for the kernel; they are durable.
    fn answer_early(&mut self, batch: &mut [Accepted], store: Duration) {
        for accepted in batch.iter_mut().filter(|accepted| !accepted.message.write.wait) {
            let (present, gone): (Vec<ResourceRef>, Vec<ResourceRef>) = accepted
                .before
                .iter()
                .map(|(resource, _)| resource.clone())
                .partition(|resource| self.intent.get(resource).is_some());
            for resource in &present {
                let reason = Some("recorded, and being applied".to_owned());
                self.standings.insert(resource.clone(), Standing { state: State::Pending, reason });
            }
            self.view.publish(Vec::new(), &gone);
            self.publish(&present, &Observed::default());
            let written = Written { applied: false, store, ..self.written(accepted) };
            accepted.message.answer(Ok(written));
        }
    }

    /// Records a batch: its changes, its events, and what was known to be done before.
    async fn record(&mut self, batch: &mut [Accepted]) -> Result<(), StoreError> {
        let first = self.journal.next();
        let (mut rows, mut kept, mut audits) = (BTreeMap::new(), Vec::new(), Vec::new());
        for accepted in batch {
            if let Some((audit, entry)) = accepted.audit() {
                let entry = self.numbered(entry);
                kept.push(Kept::Audit(entry.clone()));
                audits.push((audit, entry));
            }
            let start = self.journal.next();
            for (resource, before) in &accepted.before {
                self.row_changes(resource, before.as_ref(), &mut rows);
                self.tell_intent(resource, before.as_ref());
            }
            accepted.events = start..self.journal.next();
        }
        let result = self.commit(rows, kept).await;
        match result {
            Ok(()) => audits.into_iter().for_each(|(audit, entry)| drop(audit.remember(Some(entry)))),
            Err(_) => self.journal.forget_from(first),
        }
        result
    }

    /// The event of a changed intent.
    fn tell_intent(&mut self, resource: &ResourceRef, before: Option<&Record>) {
        let after = self.intent.get(resource);
        let (what, detail) = match (before, after) {
            (None, _) => (EventType::Created, json!({})),
            // Only that it is taken over is new.
            (Some(before), Some(after)) if before.generation == after.generation => return,
            (Some(_), Some(after)) => (EventType::Updated, json!({"generation": after.generation})),
            (Some(_), None) => (EventType::Deleted, json!({})),
        };
        let uid = after.or(before).map(|record| record.uid.as_str());
        self.journal.add(what, resource.kind, &resource.name, uid, detail);
    }

    /// What has to be recorded of a resource that was `before`.
    fn row_changes(&self, resource: &ResourceRef, before: Option<&Record>, changes: &mut BTreeMap<String, RowChange>) {
        if let Some(record) = self.intent.get(resource) {
            changes.insert(record.uid.clone(), RowChange::Put(Box::new(record.row())));
        }
        let Some(before) = before else { return };
        if let Some(gone) = self.gone.get(&(resource.clone(), before.uid.clone())) {
            let row = Row { desired: None, applied: gone.applied.clone(), prior: gone.prior.clone(), ..before.row() };
            changes.insert(before.uid.clone(), RowChange::Put(Box::new(row)));
        } else if self.intent.get(resource).is_none() {
            changes.insert(before.uid.clone(), RowChange::Delete(before.uid.clone()));
        }
    }

    /// Remembers the value that a sysctl had before netnsd first set it.
    pub(super) fn keep_prior(&mut self, resource: ResourceRef, key: SysctlKey, value: String) {
        let Some(left) = self.intent.leftovers_mut(&resource) else { return };
        if let Entry::Vacant(first) = left.prior.entry(key) {
            first.insert(value);
            self.confirm(&resource);
        }
    }

    /// Notes that a resource's row has to be written with a later commit.
    pub(super) fn confirm(&mut self, resource: &ResourceRef) {
        if let Some(record) = self.intent.get(resource) {
            self.confirmations.insert(record.uid.clone(), RowChange::Put(Box::new(record.row())));
        }
    }

    /// Answers a batch after its work; takes back what the kernel refused, unless it was answered already.
    async fn finish(&mut self, batch: Vec<Accepted>, work: &Work, passed: &Passed, store: Duration, changing: Instant) {
        let mut refused = Vec::new();
        let mut done = Vec::new();
        for (part, accepted) in batch.into_iter().enumerate() {
            match passed.failures.iter().find(|(resource, _)| self.spoils(work, resource) == Some(part)) {
                Some((resource, (op, error))) => {
                    refused.push((part, refusal(resource, op, error), accepted));
                }
                None => done.push(accepted),
            }
        }
        let parts: BTreeSet<usize> = refused.iter().map(|(part, ..)| *part).collect();
        let cause = Cause::Write {
            changed: done.iter().flat_map(Accepted::resources).cloned().collect(),
            refused: work.parts.iter().filter(|(_, part)| parts.contains(part)).map(|(of, _)| of.clone()).collect(),
        };
        self.settle(work, passed, &cause);
        if !refused.is_empty() {
            self.undo(refused.iter().map(|(.., accepted)| accepted).collect()).await;
        }
        self.journal.show();
        let kernel = changing.elapsed();
        for mut accepted in done {
            let written = Written { store, kernel, ..self.written(&accepted) };
            accepted.message.answer(Ok(written));
        }
        for (_, problem, mut accepted) in refused {
            accepted.message.refuse(problem);
        }
    }

    /// Takes refused writes back, in the database and in the kernel, by the way that everything goes.
    async fn undo(&mut self, refused: Vec<&Accepted>) {
        self.give_back(&refused).await;
        let mut work = Work::default();
        let (mut rows, mut kept) = (BTreeMap::new(), Vec::new());
        for (part, accepted) in refused.into_iter().enumerate() {
            let recorded = accepted.message.write.caller.audit.as_ref().and_then(|audit| audit.remember(None));
            kept.extend(recorded.map(|entry| Kept::NoAudit(entry.id)));
            let was: Vec<(ResourceRef, Option<Record>)> = accepted
                .before
                .iter()
                .map(|(resource, _)| (resource.clone(), self.intent.get(resource).cloned()))
                .collect();
            self.take_back(accepted, !accepted.before.is_empty());
            self.journal.retract(accepted.events.clone());
            for (resource, after) in &was {
                self.row_changes(resource, after.as_ref(), &mut rows);
                self.take_in(&mut work, part, resource, after.as_ref());
            }
            for resource in accepted.resources() {
                work.parts.entry(resource.clone()).or_insert(part);
            }
            work.exact.extend(accepted.was.clone());
        }
        if let Err(error) = self.commit(rows.clone(), kept).await {
            // They ride along with the next commit that succeeds.
            tracing::error!(%error, "taking a refused write back cannot be recorded yet");
            self.confirmations.extend(rows);
        }
        let mut work = self.with_bridges(work);
        match self.look_and_plan(&mut work, &Failures::new()).await {
            Ok((plan, observed)) => {
                let passed = self.bring_about(&mut work, plan, observed).await;
                self.settle(&work, &passed, &Cause::Undo);
            }
            Err(error) => {
                tracing::error!(%error, "the kernel cannot be asked: what was refused is undone later");
                for resource in work.parts.keys() {
                    self.retry_later(resource);
                }
            }
        }
    }
}

/// The conflict, if any, of what a write itself names or changes.
fn conflict_of(accepted: &Accepted, plan: &Plan) -> Option<Problem> {
    accepted.resources().filter_map(|resource| Some((resource, plan.verdicts.get(resource)?))).find_map(
        |(resource, verdict)| match verdict {
            Verdict::Conflict(reason) => {
                Some(Problem { resources: vec![resource.clone()], ..Problem::new(Code::Conflict, reason.clone()) })
            }
            Verdict::Pending(_) => None,
        },
    )
}
