//! The engine's own thread: decides, records, has the kernel changed, looks, answers.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque, btree_map::Entry},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use netnsd_api::{Code, Kind, PlannedOperation, Problem, ResourceRef, State, SysctlKey};
use nix::errno::Errno;
use tokio::sync::mpsc;

use super::{
    Did, Message, Spec, View, Written,
    status::{self, Standing},
};
use crate::{
    intent::{self, Decision, Intent, Record},
    kernel::{BatchOp, Kernel, Observed, Op, OpError},
    plan::{self, Plan, Step, Task, Verdict},
    store::{Row, RowChange, Store, StoreError},
};

/// How often a plan is made and executed until it must be empty.
const ROUNDS: usize = 4;
/// How often, and how long apart at first, the kernel is looked at again for a link that is still settling.
const SETTLE: (u32, Duration) = (7, Duration::from_millis(10));
/// How long the engine is idle before it writes down what it knows to be done.
const TIDY: Duration = Duration::from_millis(500);

/// Something deleted that may still be in the kernel.
#[derive(Debug, Clone)]
struct Gone {
    resource: ResourceRef,
    applied: Vec<Spec>,
    prior: BTreeMap<SysctlKey, String>,
}

/// A resource that is looked at again by itself.
#[derive(Debug, Clone, Copy)]
struct Again {
    at: Instant,
    tries: u32,
}

/// A write that was accepted, and what it replaced.
struct Accepted {
    message: Message,
    decision: Decision,
    before: Vec<(ResourceRef, Option<Record>)>,
}

/// What tells whether two writes may be carried out together: neither touches what the other touches or refers to.
#[derive(Default)]
struct Footprint {
    touched: BTreeSet<ResourceRef>,
    claimed: BTreeSet<(crate::kernel::Ns, String)>,
    referred: BTreeSet<ResourceRef>,
}

impl Footprint {
    fn of(decision: &Decision, intent: &Intent) -> Self {
        let mut print = Self::default();
        print.touched.insert(decision.resource.clone());
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

/// What to bring about, and to which independent part of the batch each belongs.
#[derive(Debug, Default, Clone)]
struct Work {
    parts: BTreeMap<ResourceRef, usize>,
    /// Namespaces that this very batch creates: they may be attached.
    created: BTreeSet<ResourceRef>,
    /// Resources that are only looked at.
    looked_at: BTreeSet<ResourceRef>,
}

/// What came of it.
#[derive(Debug, Default)]
struct Passed {
    observed: Observed,
    verdicts: BTreeMap<ResourceRef, Verdict>,
    failures: BTreeMap<ResourceRef, (Op, OpError)>,
    operations: usize,
    /// Whatever it was about, with what lived in things made anew.
    touched: BTreeSet<ResourceRef>,
}

/// The engine's state, on its own thread.
pub(super) struct Core<K: Kernel> {
    kernel: K,
    store: Store,
    intent: Intent,
    gone: BTreeMap<String, Gone>,
    standings: BTreeMap<ResourceRef, Standing>,
    view: Arc<View>,
    /// What is known to be done and not recorded yet, by uid: it rides along with the next commit.
    confirmations: BTreeMap<String, RowChange>,
    retries: BTreeMap<ResourceRef, Again>,
    settling: BTreeMap<ResourceRef, Again>,
}

impl<K: Kernel> Core<K> {
    /// Opens the store and reads everything recorded.
    ///
    /// # Errors
    /// When the store cannot be opened or read.
    pub async fn open(database: &Path, kernel: K, view: Arc<View>) -> Result<Self, StoreError> {
        let mut store = Store::open(database).await?;
        let rows = store.load().await?;
        let mut core = Self {
            kernel,
            store,
            intent: Intent::default(),
            gone: BTreeMap::new(),
            standings: BTreeMap::new(),
            view,
            confirmations: BTreeMap::new(),
            retries: BTreeMap::new(),
            settling: BTreeMap::new(),
        };
        for row in rows {
            core.remember(row);
        }
        Ok(core)
    }

    fn remember(&mut self, row: Row) {
        let Row { uid, kind, name, generation, created_at, updated_at, desired, applied, prior } = row;
        let resource = ResourceRef::new(kind, name);
        match desired {
            Some(spec) => {
                let record = Record { uid, generation, created_at, updated_at, spec, applied, prior };
                self.intent.set(&resource, Some(record));
            }
            None => {
                self.gone.insert(uid, Gone { resource, applied, prior });
            }
        }
    }

    /// Boots, then serves the queue until it is closed.
    pub async fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        self.boot().await;
        self.kernel.rest();
        let mut waiting = VecDeque::new();
        loop {
            let alarm = self.next_alarm();
            let message = match alarm {
                Some(at) => match tokio::time::timeout_at(at.into(), queue.recv()).await {
                    Ok(message) => message,
                    Err(_) => {
                        self.wake().await;
                        self.kernel.rest();
                        continue;
                    }
                },
                None => queue.recv().await,
            };
            let Some(message) = message else { break };
            waiting.push_back(message);
            while let Ok(message) = queue.try_recv() {
                waiting.push_back(message);
            }
            while !waiting.is_empty() {
                let batch = self.take_batch(&mut waiting);
                self.carry_out(batch).await;
            }
            self.kernel.rest();
        }
        self.tidy().await;
        self.store.close().await;
    }

    /// Everything recorded, compared with the kernel in one pass.
    async fn boot(&mut self) {
        let all: BTreeSet<ResourceRef> = self
            .intent
            .all()
            .map(|(resource, _)| resource)
            .chain(self.gone.values().map(|gone| gone.resource.clone()))
            .collect();
        let count = all.len();
        let start = Instant::now();
        let passed = self.pass(all).await;
        self.view.set_ready();
        let ms = start.elapsed().as_secs_f64() * 1000.0;
        tracing::info!(resources = count, operations = passed, ms, "everything recorded has been tried");
    }

    /// One pass over resources, each on its own; gives the number of operations.
    async fn pass(&mut self, resources: BTreeSet<ResourceRef>) -> usize {
        let work = Work {
            parts: resources.into_iter().enumerate().map(|(part, resource)| (resource, part)).collect(),
            ..Work::default()
        };
        let work = self.with_bridges(work);
        let observed = match self.observe(&work).await {
            Ok(observed) => observed,
            Err(error) => {
                let standing =
                    Standing { state: State::Failed, reason: Some(format!("the kernel cannot be asked: {error}")) };
                for resource in work.parts.keys() {
                    self.standings.insert(resource.clone(), standing.clone());
                    self.retry_later(resource);
                }
                self.publish(work.parts.keys().chain(&work.looked_at), &Observed::default());
                return 0;
            }
        };
        let passed = self.bring_about(work.clone(), observed).await;
        self.settle(&work, &passed);
        passed.operations
    }

    fn next_alarm(&self) -> Option<Instant> {
        let tidy = (!self.confirmations.is_empty()).then(|| Instant::now() + TIDY);
        self.retries.values().chain(self.settling.values()).map(|again| again.at).chain(tidy).min()
    }

    /// What is due by itself: retries, links that settle, confirmations.
    async fn wake(&mut self) {
        let now = Instant::now();
        let due = |map: &BTreeMap<ResourceRef, Again>| -> BTreeSet<ResourceRef> {
            map.iter().filter(|(_, again)| again.at <= now).map(|(resource, _)| resource.clone()).collect()
        };
        let (retries, settling) = (due(&self.retries), due(&self.settling));
        if retries.is_empty() && settling.is_empty() {
            return self.tidy().await;
        }
        if !retries.is_empty() {
            self.pass(retries).await;
        }
        if !settling.is_empty() {
            let work = Work { looked_at: settling, ..Work::default() };
            if let Ok(observed) = self.observe(&work).await {
                self.publish(&work.looked_at, &observed);
            }
        }
    }

    /// Records what is known to be done.
    async fn tidy(&mut self) {
        let changes: Vec<RowChange> = self.confirmations.values().cloned().collect();
        match self.store.commit(&changes).await {
            Ok(()) => self.confirmations.clear(),
            Err(error) => tracing::warn!(%error, "what is done cannot be recorded yet"),
        }
    }

    /// Takes writes off the queue that may be carried out together, their changes made in the intent.
    fn take_batch(&mut self, waiting: &mut VecDeque<Message>) -> Vec<Accepted> {
        let mut batch: Vec<Accepted> = Vec::new();
        let mut footprint = Footprint::default();
        while let Some(message) = waiting.front() {
            if message.write.dry_run && !batch.is_empty() {
                break;
            }
            let decided = self.intent.decide(&message.write, Timestamp::now(), || uuid::Uuid::now_v7().to_string());
            let decision = match decided {
                Ok(decision) => decision,
                // It may have been refused for what another of the batch does: final only when it stands alone.
                Err(_) if !batch.is_empty() => break,
                Err(problem) => {
                    if let Some(message) = waiting.pop_front() {
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
            let last = message.write.dry_run;
            batch.push(self.accept(message, decision));
            if last {
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
                let gone = Gone { resource: resource.clone(), applied, prior: old.prior.clone() };
                self.gone.insert(old.uid.clone(), gone);
            }
            before.push((resource.clone(), old));
        }
        Accepted { message, decision, before }
    }

    /// Takes a write's changes back. What it may have left in the kernel (`tried`) is kept in mind.
    fn take_back(&mut self, accepted: &Accepted, tried: bool) {
        for (resource, before) in accepted.before.iter().rev() {
            let after = self.intent.set(resource, before.clone());
            if let Some(before) = before {
                self.gone.remove(&before.uid);
            }
            let Some(after) = after.filter(|_| tried) else { continue };
            match self.intent.leftovers_mut(resource) {
                Some((applied, prior)) => {
                    applied.push(after.spec);
                    prior.extend(after.prior);
                }
                None => {
                    let gone = Gone { resource: resource.clone(), applied: vec![after.spec], prior: after.prior };
                    self.gone.insert(after.uid, gone);
                }
            }
        }
    }

    /// Carries out a batch: look, plan, record, change, look again, answer.
    async fn carry_out(&mut self, mut batch: Vec<Accepted>) {
        batch = self.answer_unchanged(batch);
        loop {
            if batch.is_empty() {
                return;
            }
            let work = self.work(&batch);
            let observed = match self.observe(&work).await {
                Ok(observed) => observed,
                Err(error) => {
                    let problem = Problem::new(Code::KernelUnavailable, format!("the kernel cannot be asked: {error}"));
                    return self.refuse_all(batch, &problem);
                }
            };
            let plan = self.plan(&work, &BTreeMap::new(), &observed);
            // Refusals first, before anything is recorded: the others go on without them.
            let (refused, accepted): (Vec<Accepted>, Vec<Accepted>) =
                batch.into_iter().partition(|accepted| conflict_of(accepted, &plan).is_some());
            if !refused.is_empty() {
                for accepted in refused {
                    self.take_back(&accepted, false);
                    let reason = conflict_of(&accepted, &plan).unwrap_or_default();
                    accepted.message.refuse(Problem::new(Code::Conflict, reason));
                }
                batch = accepted;
                continue;
            }
            batch = accepted;
            if let [only] = &batch[..]
                && only.message.write.dry_run
            {
                return self.answer_dry_run(batch.remove(0), &plan, &observed);
            }
            let recording = Instant::now();
            if let Err(error) = self.record(&batch).await {
                tracing::error!(%error, "a write cannot be recorded");
                let problem = Problem::new(Code::StoreUnavailable, format!("{error}: nothing was changed"));
                return self.refuse_all(batch, &problem);
            }
            let store = recording.elapsed();
            let changing = Instant::now();
            let passed = self.bring_about(work.clone(), observed).await;
            return self.finish(batch, work, passed, store, changing).await;
        }
    }

    /// Writes that change nothing are answered from memory, unless the resource is not as it should be.
    fn answer_unchanged(&mut self, batch: Vec<Accepted>) -> Vec<Accepted> {
        let mut rest = Vec::new();
        for accepted in batch {
            let fine = |standing: &Standing| matches!(standing.state, State::InSync | State::Pending);
            let stands = self.standings.get(&accepted.decision.resource).is_some_and(fine);
            if accepted.decision.did == Did::Unchanged && (stands || accepted.message.write.dry_run) {
                let entry = self.view.get(accepted.decision.resource.kind, &accepted.decision.resource.name);
                accepted.message.answer(Ok(Written {
                    did: Did::Unchanged,
                    entry,
                    plan: Vec::new(),
                    store: Duration::ZERO,
                    kernel: Duration::ZERO,
                }));
            } else {
                rest.push(accepted);
            }
        }
        rest
    }

    fn refuse_all(&mut self, batch: Vec<Accepted>, problem: &Problem) {
        for accepted in batch.into_iter().rev() {
            self.take_back(&accepted, false);
            accepted.message.refuse(problem.clone());
        }
    }

    fn answer_dry_run(&mut self, accepted: Accepted, plan: &Plan, observed: &Observed) {
        let resource = &accepted.decision.resource;
        let standing = match plan.verdicts.get(resource) {
            Some(Verdict::Pending(reason)) => Standing { state: State::Pending, reason: Some(reason.clone()) },
            _ => Standing::in_sync(),
        };
        let entry = self.intent.get(resource).map(|record| Arc::new(status::entry(record, &standing, observed)));
        let operation = |step: &Step| PlannedOperation {
            op: step.op.label().to_owned(),
            namespace: step.op.ns().name().cloned(),
            resource: step.resource.clone(),
        };
        let written = Written {
            did: accepted.decision.did,
            entry,
            plan: plan.steps.iter().map(operation).collect(),
            store: Duration::ZERO,
            kernel: Duration::ZERO,
        };
        self.take_back(&accepted, false);
        accepted.message.answer(Ok(written));
    }

    /// What a batch is about: what it changes, and what hangs on that.
    fn work(&self, batch: &[Accepted]) -> Work {
        let mut work = Work::default();
        for (part, accepted) in batch.iter().enumerate() {
            work.parts.entry(accepted.decision.resource.clone()).or_insert(part);
            for (resource, before) in &accepted.before {
                self.take_in(&mut work, part, resource, before.as_ref());
                if before.is_none() {
                    work.created.insert(resource.clone());
                }
            }
        }
        self.with_bridges(work)
    }

    /// Takes a resource that was `before` into a piece of work, with what hangs on its change.
    fn take_in(&self, work: &mut Work, part: usize, resource: &ResourceRef, before: Option<&Record>) {
        let before = before.map(|record| &record.spec);
        let after = self.intent.get(resource).map(|record| &record.spec);
        for other in self.affected(before, after).into_iter().chain([resource.clone()]) {
            work.parts.entry(other).or_insert(part);
        }
    }

    /// The resources whose operations a change may call for.
    fn affected(&self, before: Option<&Spec>, after: Option<&Spec>) -> Vec<ResourceRef> {
        let specs = || before.into_iter().chain(after);
        // Routes, neighbours and sysctls hang on the links of their namespace.
        let mut found: Vec<ResourceRef> = specs()
            .filter(|spec| spec.kind() != Kind::Namespace)
            .flat_map(intent::namespaces_of)
            .map(|name| ResourceRef::new(Kind::Namespace, name.clone()))
            .filter(|resource| self.intent.get(resource).is_some())
            .collect();
        if let (Some(Spec::Bridge(old)), Some(Spec::Bridge(new))) = (before, after)
            && (old.device(), &old.namespace) != (new.device(), &new.namespace)
        {
            found.extend(self.intent.dependents(&ResourceRef::new(Kind::Bridge, new.name.clone())));
        }
        found
    }

    /// Bridges of ports are looked at too: a port changes their carrier.
    fn with_bridges(&self, mut work: Work) -> Work {
        let bridges: Vec<ResourceRef> = work
            .parts
            .keys()
            .filter_map(|resource| self.intent.get(resource))
            .flat_map(|record| intent::bridges_of(&record.spec))
            .map(|name| ResourceRef::new(Kind::Bridge, name.clone()))
            .filter(|bridge| !work.parts.contains_key(bridge))
            .collect();
        work.looked_at.extend(bridges);
        work
    }

    fn tasks<'a>(
        &'a self,
        resources: impl Iterator<Item = &'a ResourceRef>,
        created: &BTreeSet<ResourceRef>,
    ) -> Vec<Task<'a>> {
        let mut tasks = Vec::new();
        for resource in resources {
            if let Some(record) = self.intent.get(resource) {
                tasks.push(Task {
                    resource: resource.clone(),
                    uid: &record.uid,
                    desired: Some(&record.spec),
                    applied: &record.applied,
                    prior: &record.prior,
                    attach: created.contains(resource),
                });
            }
        }
        tasks
    }

    fn gone_tasks<'a>(&'a self, work: &Work) -> Vec<Task<'a>> {
        let of_work = |gone: &&Gone| work.parts.contains_key(&gone.resource);
        let task = |(uid, gone): (&'a String, &'a Gone)| Task {
            resource: gone.resource.clone(),
            uid,
            desired: None,
            applied: &gone.applied,
            prior: &gone.prior,
            attach: false,
        };
        self.gone.iter().filter(|(_, gone)| of_work(gone)).map(task).collect()
    }

    async fn observe(&mut self, work: &Work) -> Result<Observed, OpError> {
        let mut tasks = self.tasks(work.parts.keys().chain(&work.looked_at), &work.created);
        tasks.extend(self.gone_tasks(work));
        let scope = plan::scope(&tasks);
        self.kernel.observe(&scope).await
    }

    /// Plans a piece of work, without what has failed already: the rest is planned around what is really there.
    fn plan(&self, work: &Work, failures: &BTreeMap<ResourceRef, (Op, OpError)>, observed: &Observed) -> Plan {
        let mut tasks = self.tasks(work.parts.keys(), &work.created);
        tasks.extend(self.gone_tasks(work));
        tasks.retain(|task| !failures.contains_key(&task.resource));
        plan::plan(&tasks, &|bridge| self.intent.bridge_device(bridge), observed)
    }

    /// Records a batch: its changes, and what was known to be done before.
    async fn record(&mut self, batch: &[Accepted]) -> Result<(), StoreError> {
        let mut changes = self.confirmations.clone();
        for (resource, before) in batch.iter().flat_map(|accepted| &accepted.before) {
            self.row_changes(resource, before.as_ref(), &mut changes);
        }
        let changes: Vec<RowChange> = changes.into_values().collect();
        self.store.commit(&changes).await?;
        self.confirmations.clear();
        Ok(())
    }

    /// What has to be recorded of a resource that was `before`.
    fn row_changes(&self, resource: &ResourceRef, before: Option<&Record>, changes: &mut BTreeMap<String, RowChange>) {
        if let Some(record) = self.intent.get(resource) {
            changes.insert(record.uid.clone(), RowChange::Put(Box::new(record.row())));
        }
        if let Some(before) = before
            && let Some(gone) = self.gone.get(&before.uid)
        {
            let row = Row { desired: None, applied: gone.applied.clone(), prior: gone.prior.clone(), ..before.row() };
            changes.insert(before.uid.clone(), RowChange::Put(Box::new(row)));
        }
    }

    /// Plans and executes until nothing is left to do.
    async fn bring_about(&mut self, mut work: Work, mut observed: Observed) -> Passed {
        let mut passed = Passed::default();
        let mut waiting: Vec<(Step, String)> = Vec::new();
        for round in 0..ROUNDS {
            let mut plan = self.plan(&work, &passed.failures, &observed);
            if self.widen(&mut work, &plan) {
                match self.observe(&work).await {
                    Ok(wider) => observed = wider,
                    Err(error) => tracing::warn!(%error, "the kernel cannot be asked"),
                }
                plan = self.plan(&work, &passed.failures, &observed);
            }
            passed.verdicts = plan.verdicts;
            for (step, reason) in &waiting {
                passed.verdicts.entry(step.resource.clone()).or_insert_with(|| Verdict::Pending(reason.clone()));
            }
            let steps: Vec<Step> =
                plan.steps.into_iter().filter(|step| !waiting.iter().any(|(other, _)| other == step)).collect();
            if steps.is_empty() {
                break;
            }
            if round == ROUNDS - 1 {
                for step in steps {
                    let error = OpError { errno: Errno::UnknownErrno, message: None };
                    passed.failures.entry(step.resource).or_insert((step.op, error));
                }
                break;
            }
            passed.operations += steps.len();
            self.execute(&work, steps, &mut passed, &mut waiting).await;
            match self.observe(&work).await {
                Ok(after) => observed = after,
                Err(error) => {
                    tracing::warn!(%error, "the kernel cannot be asked");
                    break;
                }
            }
        }
        passed.observed = observed;
        passed.touched = work.parts.into_keys().collect();
        passed
    }

    /// Takes in what lived in namespaces and bridges that are made anew.
    fn widen(&self, work: &mut Work, plan: &Plan) -> bool {
        let anew = |kind: Kind, names: &BTreeSet<netnsd_api::Name>| -> Vec<ResourceRef> {
            names.iter().map(|name| ResourceRef::new(kind, name.clone())).collect()
        };
        let mut grown = false;
        let bridges = anew(Kind::Bridge, &plan.new_bridges);
        for resource in anew(Kind::Namespace, &plan.new_namespaces).into_iter().chain(bridges) {
            let part = work.parts.get(&resource).copied().unwrap_or_default();
            for dependent in self.intent.dependents(&resource) {
                let spec = self.intent.get(&dependent).map(|record| &record.spec);
                let inside = self.affected(None, spec);
                for other in inside.into_iter().chain([dependent]) {
                    grown |= !work.parts.contains_key(&other);
                    work.parts.entry(other).or_insert(part);
                }
            }
        }
        grown
    }

    async fn execute(&mut self, work: &Work, steps: Vec<Step>, passed: &mut Passed, waiting: &mut Vec<(Step, String)>) {
        let batch: Vec<BatchOp> = steps
            .iter()
            .map(|step| BatchOp {
                op: step.op.clone(),
                part: work.parts.get(&step.resource).copied().unwrap_or_default(),
                optional: step.may_wait,
            })
            .collect();
        let outcomes = self.kernel.execute(&batch).await;
        for (step, outcome) in steps.into_iter().zip(outcomes) {
            let Some(Err(error)) = outcome else { continue };
            if step.may_wait && is_not_yet(error.errno) {
                let reason = format!("{} waits: {error}", step.op.label());
                waiting.push((step, reason));
            } else {
                passed.failures.entry(step.resource).or_insert((step.op, error));
            }
        }
        for (name, key, value) in self.kernel.replaced_sysctls() {
            self.keep_prior(ResourceRef::new(Kind::Namespace, name), key, value);
        }
    }

    /// Remembers the value that a sysctl had before netnsd first set it.
    fn keep_prior(&mut self, resource: ResourceRef, key: SysctlKey, value: String) {
        let Some((_, prior)) = self.intent.leftovers_mut(&resource) else { return };
        if let Entry::Vacant(first) = prior.entry(key) {
            first.insert(value);
            self.confirm(&resource);
        }
    }

    /// Notes that a resource's row has to be written with a later commit.
    fn confirm(&mut self, resource: &ResourceRef) {
        if let Some(record) = self.intent.get(resource) {
            self.confirmations.insert(record.uid.clone(), RowChange::Put(Box::new(record.row())));
        }
    }

    /// Answers a batch after its work; takes back what the kernel refused.
    async fn finish(&mut self, batch: Vec<Accepted>, work: Work, passed: Passed, store: Duration, changing: Instant) {
        let mut failed = Vec::new();
        let mut done = Vec::new();
        for (part, accepted) in batch.into_iter().enumerate() {
            // What hangs on the change and was failing before is no reason to refuse it.
            let failing = |resource: &ResourceRef| {
                self.standings.get(resource).is_some_and(|standing| standing.state == State::Failed)
                    && accepted.decision.resource != *resource
                    && accepted.before.iter().all(|(changed, _)| changed != resource)
            };
            let mut of_part = passed.failures.iter().filter(|(resource, _)| work.parts.get(resource) == Some(&part));
            let failure = of_part.find(|(resource, _)| !failing(resource));
            match failure {
                Some((resource, (op, error))) => {
                    let problem = refusal(resource, op, error);
                    failed.push((accepted, problem));
                }
                None => done.push(accepted),
            }
        }
        self.settle(&work, &passed);
        if !failed.is_empty() {
            self.undo(&failed).await;
        }
        let kernel = changing.elapsed();
        for accepted in done {
            let resource = &accepted.decision.resource;
            let entry = self.view.get(resource.kind, &resource.name);
            let written = Written { did: accepted.decision.did, entry, plan: Vec::new(), store, kernel };
            accepted.message.answer(Ok(written));
        }
        for (accepted, problem) in failed {
            accepted.message.refuse(problem);
        }
    }

    /// Takes refused writes back, in the database and in the kernel, by the way that everything goes.
    async fn undo(&mut self, failed: &[(Accepted, Problem)]) {
        let mut work = Work::default();
        let mut changes = self.confirmations.clone();
        for (part, (accepted, _)) in failed.iter().enumerate() {
            let was: Vec<(ResourceRef, Option<Record>)> = accepted
                .before
                .iter()
                .map(|(resource, _)| (resource.clone(), self.intent.get(resource).cloned()))
                .collect();
            self.take_back(accepted, accepted.decision.did != Did::Unchanged);
            for (resource, after) in &was {
                self.row_changes(resource, after.as_ref(), &mut changes);
                self.take_in(&mut work, part, resource, after.as_ref());
            }
        }
        let rows: Vec<RowChange> = changes.values().cloned().collect();
        match self.store.commit(&rows).await {
            Ok(()) => self.confirmations.clear(),
            // They ride along with the next commit that succeeds.
            Err(error) => {
                tracing::error!(%error, "taking a refused write back cannot be recorded yet");
                self.confirmations = changes;
            }
        }
        let work = self.with_bridges(work);
        match self.observe(&work).await {
            Ok(observed) => {
                let passed = self.bring_about(work.clone(), observed).await;
                self.settle(&work, &passed);
            }
            Err(error) => {
                tracing::error!(%error, "the kernel cannot be asked: what was refused is undone later");
                for resource in work.parts.keys() {
                    self.retry_later(resource);
                }
            }
        }
    }

    /// Takes down how everything of a piece of work stands now.
    fn settle(&mut self, work: &Work, passed: &Passed) {
        let mut gone = Vec::new();
        for resource in &passed.touched {
            let standing = match (passed.failures.get(resource), passed.verdicts.get(resource)) {
                (Some((op, error)), _) => {
                    Standing { state: State::Failed, reason: Some(refusal(resource, op, error).detail) }
                }
                (_, Some(Verdict::Conflict(reason))) => {
                    Standing { state: State::Conflict, reason: Some(reason.clone()) }
                }
                (_, Some(Verdict::Pending(reason))) => Standing { state: State::Pending, reason: Some(reason.clone()) },
                (None, None) => Standing::in_sync(),
            };
            let failed = passed.failures.contains_key(resource);
            if !failed {
                self.clear_gone(resource);
            }
            if self.intent.get(resource).is_none() {
                self.standings.remove(resource);
                gone.push(resource.clone());
                if failed {
                    self.retry_later(resource);
                } else {
                    self.retries.remove(resource);
                }
                continue;
            }
            match standing.state {
                State::InSync => {
                    self.retries.remove(resource);
                    self.clear_leftovers(resource);
                }
                State::Pending => {
                    self.clear_leftovers(resource);
                    self.retry_later(resource);
                }
                _ => {
                    tracing::warn!(%resource, reason = standing.reason.as_deref().unwrap_or_default(), "not as it was asked to be");
                    self.retry_later(resource);
                }
            }
            self.standings.insert(resource.clone(), standing);
        }
        self.view.publish(Vec::new(), &gone);
        self.publish(passed.touched.union(&work.looked_at), &passed.observed);
    }

    /// What was deleted is out of the kernel: its row goes.
    fn clear_gone(&mut self, resource: &ResourceRef) {
        let done: Vec<String> =
            self.gone.iter().filter(|(_, gone)| gone.resource == *resource).map(|(uid, _)| uid.clone()).collect();
        for uid in done {
            self.gone.remove(&uid);
            self.confirmations.insert(uid.clone(), RowChange::Delete(uid));
        }
    }

    /// Nothing of earlier intents is left in the kernel.
    fn clear_leftovers(&mut self, resource: &ResourceRef) {
        let Some((applied, _)) = self.intent.leftovers_mut(resource) else { return };
        if !applied.is_empty() {
            applied.clear();
            self.confirm(resource);
        }
    }

    fn retry_later(&mut self, resource: &ResourceRef) {
        let tries = self.retries.get(resource).map_or(0, |again| again.tries + 1);
        // 1 s, 2 s, 4 s, … 64 s.
        let delay = Duration::from_secs(1 << tries.min(6));
        self.retries.insert(resource.clone(), Again { at: Instant::now() + delay, tries });
    }

    /// Makes readers see what was observed of these resources.
    fn publish<'a>(&mut self, resources: impl IntoIterator<Item = &'a ResourceRef>, observed: &Observed) {
        let mut entries = Vec::new();
        for resource in resources {
            let Some(record) = self.intent.get(resource) else {
                self.settling.remove(resource);
                continue;
            };
            let standing = self.standings.get(resource).cloned().unwrap_or_else(Standing::in_sync);
            entries.push(status::entry(record, &standing, observed));
            let tries = self.settling.get(resource).map_or(0, |again| again.tries + 1);
            if status::unsettled(&record.spec, observed) && tries < SETTLE.0 {
                let at = Instant::now() + SETTLE.1 * (1 << tries);
                self.settling.insert(resource.clone(), Again { at, tries });
            } else {
                self.settling.remove(resource);
            }
        }
        self.view.publish(entries, &[]);
    }
}

/// The conflict, if any, of what a write itself changes.
fn conflict_of(accepted: &Accepted, plan: &Plan) -> Option<String> {
    let touched = accepted.before.iter().map(|(resource, _)| resource).chain([&accepted.decision.resource]);
    touched.filter_map(|resource| plan.verdicts.get(resource)).find_map(|verdict| match verdict {
        Verdict::Conflict(reason) => Some(reason.clone()),
        Verdict::Pending(_) => None,
    })
}

/// Errors that mean that what an operation needs is not there (yet).
fn is_not_yet(errno: Errno) -> bool {
    matches!(errno, Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::ENETDOWN | Errno::ENODEV | Errno::ENOENT)
}

/// The kernel's refusal as a problem.
fn refusal(resource: &ResourceRef, op: &Op, error: &OpError) -> Problem {
    let code = match error.errno {
        Errno::EEXIST | Errno::EBUSY => Code::Conflict,
        Errno::UnknownErrno | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT => {
            Code::UnsupportedByKernel
        }
        Errno::ENOMEM | Errno::ENOBUFS | Errno::EMFILE | Errno::ENFILE => Code::KernelUnavailable,
        _ => Code::KernelRejected,
    };
    let what = format!("{} of {resource} in {}", op.label(), op.ns());
    if error.errno == Errno::UnknownErrno {
        let detail = format!("{what}: this kernel takes it without an error and does not keep it");
        return Problem { op: Some(op.label().into()), ..Problem::new(code, detail) };
    }
    Problem {
        op: Some(op.label().into()),
        errno: Some(format!("{:?}", error.errno)),
        kernel_message: error.message.clone(),
        ..Problem::new(code, format!("the kernel refused {what}: {error}"))
    }
}
