//! A piece of work: what it is about, what is there, what is missing, and bringing that about.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Instant,
};

use netnsd_api::{Kind, Progress, ResourceRef, State};
use nix::errno::Errno;
use tokio::sync::watch;

use super::{batch::Accepted, core::Core};
use crate::{
    kernel::{BatchOp, FeatureOp, Kernel, Ns, Observed, Op, OpError, WatchChange, sysctl},
    liveness::Part,
    model::{ChangeKind, Record, Spec, ipv6_switches},
    plan::{self, Found, Hands, Plan, Step, Task, Verdict},
};

/// What the kernel refused, by the resource that it was for.
pub(super) type Failures = BTreeMap<ResourceRef, (Op, OpError)>;

/// What to bring about, and to which independent part of the batch each belongs.
#[derive(Debug, Default, Clone)]
pub(super) struct Work {
    pub parts: BTreeMap<ResourceRef, usize>,
    /// Resources that this very batch creates.
    pub created: BTreeSet<ResourceRef>,
    /// Those parts whose writes are refused, and undone, when something of them fails: the
    /// resources that are their own.
    pub waiting: BTreeMap<usize, BTreeSet<ResourceRef>>,
    /// Resources that are only looked at.
    pub looked_at: BTreeSet<ResourceRef>,
    /// Whether the routes that come with addresses are looked at too: only others take them away.
    pub thorough: bool,
    /// True if routes of netnsd's are also looked for where none are asked for: what an earlier
    /// version may have left.
    pub leftovers: bool,
    /// Who wants to know how far it is.
    pub progress: Option<watch::Sender<Progress>>,
}

impl Work {
    /// Resources that are compared, each on its own: what cannot be done for one holds up no other.
    pub fn each(resources: BTreeSet<ResourceRef>) -> Self {
        let parts = resources
            .into_iter()
            .enumerate()
            .map(|(part, resource)| (resource, part))
            .collect();
        Self {
            parts,
            thorough: true,
            ..Self::default()
        }
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Passed {
    pub observed: Observed,
    pub verdicts: BTreeMap<ResourceRef, Verdict>,
    /// Of which something may be where nobody could look.
    pub unseen: BTreeSet<ResourceRef>,
    pub failures: Failures,
    /// Resources whose links were made again or moved.
    pub remade: BTreeSet<ResourceRef>,
    /// The operations that were done, by the resource that they were for.
    pub done: BTreeMap<ResourceRef, Vec<&'static str>>,
}

impl<K: Kernel> Core<K> {
    /// What a batch is about: what it changes, what it names that is not as it should be, and what
    /// hangs on that.
    pub(super) fn work(&self, batch: &[Accepted]) -> Work {
        let mut work = Work::default();
        for (part, accepted) in batch.iter().enumerate() {
            for (resource, did) in &accepted.decision.named {
                if *did != ChangeKind::Unchanged || !self.stands(resource) {
                    work.parts.entry(resource.clone()).or_insert(part);
                }
            }
            for (resource, before) in &accepted.before {
                self.take_in(&mut work, part, resource, before.as_ref());
                if before.is_none() {
                    work.created.insert(resource.clone());
                }
            }
            if accepted.waits() {
                work.waiting
                    .insert(part, accepted.resources().cloned().collect());
            }
            if let Some(progress) = accepted.progress() {
                work.progress = Some(progress.clone());
            }
        }
        self.with_bridges(work)
    }

    /// Takes a resource that was `before` into a piece of work, with what hangs on its change.
    pub(super) fn take_in(
        &self,
        work: &mut Work,
        part: usize,
        resource: &ResourceRef,
        before: Option<&Record>,
    ) {
        let before = before.map(|record| &*record.spec);
        let after = self.intent.spec(resource);
        for other in self
            .affected(before, after)
            .into_iter()
            .chain([resource.clone()])
        {
            work.parts.entry(other).or_insert(part);
        }
    }

    /// The resources whose operations a change may call for.
    fn affected(&self, before: Option<&Spec>, after: Option<&Spec>) -> Vec<ResourceRef> {
        let specs = || before.into_iter().chain(after);
        // Routes, neighbours and sysctls hang on the links of their namespace.
        let mut found: Vec<ResourceRef> = specs()
            .filter(|spec| spec.kind() != Kind::Namespace)
            .flat_map(Spec::namespaces)
            .map(|name| ResourceRef::new(Kind::Namespace, name.clone()))
            .filter(|resource| self.intent.get(resource).is_some())
            .collect();
        let bridges = specs().flat_map(Spec::bridges);
        let bridges = bridges.map(|name| ResourceRef::new(Kind::Bridge, name.clone()));
        found.extend(bridges.filter(|bridge| self.drift.follows_ports(bridge)));
        if let (Some(Spec::Bridge(old)), Some(Spec::Bridge(new))) = (before, after)
            && (old.device(), &old.namespace) != (new.device(), &new.namespace)
        {
            found.extend(
                self.intent
                    .dependents(&ResourceRef::new(Kind::Bridge, new.name.clone())),
            );
        }
        // Where IPv6 is switched off, and be it for a moment, addresses go
        // (`addrconf_disable_ipv6()`, net/ipv6/addrconf.c).
        if let (Some(Spec::Namespace(old)), Some(Spec::Namespace(new))) = (before, after)
            && !ipv6_switches(old).eq(ipv6_switches(new))
        {
            found.extend(
                self.intent
                    .dependents(&ResourceRef::new(Kind::Namespace, new.name.clone())),
            );
        }
        found
    }

    /// Bridges of ports are looked at too: a port changes their carrier.
    pub(super) fn with_bridges(&self, mut work: Work) -> Work {
        let bridges: Vec<ResourceRef> = work
            .parts
            .keys()
            .filter_map(|resource| self.intent.get(resource))
            .flat_map(|record| record.spec.bridges())
            .map(|name| ResourceRef::new(Kind::Bridge, name.clone()))
            .filter(|bridge| !work.parts.contains_key(bridge))
            .collect();
        work.looked_at.extend(bridges);
        work
    }

    /// Takes the bridges of ports that failed into a piece of work: one that is being deleted lets
    /// its ports go first, and is looked at for their sake only.
    pub(super) fn take_in_bridges(&self, work: &mut Work, failures: &Failures) {
        let specs = failures
            .keys()
            .filter_map(|resource| self.intent.spec(resource));
        for name in specs.flat_map(Spec::bridges) {
            let bridge = ResourceRef::new(Kind::Bridge, name.clone());
            let part = work.parts.len();
            work.looked_at.remove(&bridge);
            work.parts.entry(bridge).or_insert(part);
        }
    }

    fn tasks<'a>(
        &'a self,
        resources: impl Iterator<Item = &'a ResourceRef>,
        work: &'a Work,
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
                    devices: self.drift.devices(resource),
                    interfaces: self.interfaces_of(record),
                    new: work.created.contains(resource),
                    macs: &record.macs,
                    keep_macs: record.keep_macs,
                    hands: if record.adopt {
                        Hands::Adopt
                    } else {
                        Hands::Stay
                    },
                });
            }
        }
        tasks
    }

    /// netnsd's interfaces in a namespace of which sysctls of `default` are, or were, asked for.
    fn interfaces_of(&self, record: &Record) -> Vec<String> {
        let is_by_default = |spec: &Spec| match spec {
            Spec::Namespace(spec) => spec.sysctls.keys().any(sysctl::is_inherited),
            _ => false,
        };
        let mut specs = record.applied.iter().chain([&*record.spec]);
        match specs.find(|spec| is_by_default(spec)) {
            Some(spec) => self.intent.devices_in(&Ns::Named(spec.resource().name)),
            None => Vec::new(),
        }
    }

    fn gone_tasks<'a>(&'a self, work: &'a Work) -> impl Iterator<Item = Task<'a>> {
        work.parts.keys().flat_map(|resource| {
            self.gone_of(resource).map(|(uid, gone)| Task {
                resource: resource.clone(),
                uid,
                desired: None,
                applied: &gone.applied,
                prior: &gone.prior,
                devices: self.drift.devices(resource),
                interfaces: Vec::new(),
                new: false,
                macs: &[],
                keep_macs: false,
                hands: Hands::Stay,
            })
        })
    }

    pub(super) async fn observe(&mut self, work: &Work) -> Result<Observed, OpError> {
        self.metrics.liveness.record_progress(Part::Engine);
        self.large |= work.parts.len() + work.looked_at.len() >= LARGE;
        let mut tasks = self.tasks(work.parts.keys().chain(&work.looked_at), work);
        tasks.extend(self.gone_tasks(work));
        let mut scope = plan::scope(&tasks);
        for (ns, part) in &mut scope.namespaces {
            part.prefix_routes = work.thorough;
            part.leftover_routes = work.leftovers && *ns != Ns::Host;
        }
        if let Some(host) = scope.namespaces.get_mut(&Ns::Host) {
            host.most = host.links.len() >= MANY.max(self.intent.count() / 8);
        }
        self.kernel.observe(&scope).await
    }

    /// Plans a piece of work, without what has failed already: the rest is planned around what is
    /// really there.
    pub(super) fn plan(&self, work: &Work, failures: &Failures, observed: &Observed) -> Plan {
        let mut tasks = self.tasks(work.parts.keys(), work);
        tasks.extend(self.gone_tasks(work));
        // What is going to be undone goes no further.
        let over: BTreeSet<usize> = failures
            .keys()
            .filter_map(|failed| self.spoils(work, failed))
            .collect();
        let goes_on = |resource: &ResourceRef| {
            failures.get(resource).is_none_or(|(op, _)| op.is_setting())
                && work
                    .parts
                    .get(resource)
                    .is_none_or(|part| !over.contains(part))
        };
        tasks.retain(|task| goes_on(&task.resource));
        plan::plan(
            &tasks,
            &|bridge| self.intent.bridge_device(bridge),
            observed,
        )
    }

    /// The part whose write is refused when this resource fails. What hangs on a change and was
    /// failing before is no reason.
    pub(super) fn spoils(&self, work: &Work, failed: &ResourceRef) -> Option<usize> {
        let part = *work.parts.get(failed)?;
        let own = work.waiting.get(&part)?;
        let before = self
            .standings
            .get(failed)
            .is_some_and(|standing| standing.state == State::Failed);
        (own.contains(failed) || !before).then_some(part)
    }

    /// Looks, and plans. What lived in namespaces and bridges that have to be made anew is taken
    /// into the work.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub(super) async fn look_and_plan(
        &mut self,
        work: &mut Work,
        failures: &Failures,
    ) -> Result<(Plan, Observed), OpError> {
        loop {
            let observed = self.observe(work).await?;
            let plan = self.plan(work, failures, &observed);
            if !self.widen(work, &plan) {
                return Ok((plan, observed));
            }
        }
    }

    /// Gives back what writes took over, as it was found.
    pub(super) async fn give_back(&mut self, refused: &[&Accepted]) {
        let records: BTreeMap<&ResourceRef, (&Found, Record)> = refused
            .iter()
            .flat_map(|accepted| &accepted.found)
            .filter_map(|(resource, found)| {
                Some((resource, (found, self.intent.get(resource)?.clone())))
            })
            .collect();
        let mut tasks = Vec::new();
        for (resource, (found, record)) in &records {
            tasks.push(Task {
                resource: (*resource).clone(),
                uid: &record.uid,
                desired: Some(&found.spec),
                applied: std::slice::from_ref(&record.spec),
                prior: &record.prior,
                devices: &[],
                interfaces: self.interfaces_of(record),
                new: false,
                macs: &[],
                keep_macs: false,
                hands: Hands::GiveBack(found),
            });
        }
        if tasks.is_empty() {
            return;
        }
        let observed = match self.kernel.observe(&plan::scope(&tasks)).await {
            Ok(observed) => observed,
            Err(error) => {
                return tracing::error!(%error, "what was taken over cannot be given back");
            }
        };
        let plan = plan::plan(&tasks, &|bridge| Some(bridge.to_string()), &observed);
        // Each by itself: what cannot be as it was is left, and the rest goes on.
        let ops: Vec<BatchOp> = (0..)
            .zip(&plan.steps)
            .map(|(part, step)| BatchOp {
                op: step.op.clone(),
                part,
                optional: true,
            })
            .collect();
        for (step, outcome) in plan
            .steps
            .iter()
            .zip(self.kernel.execute(&ops, Box::new(|_| ())).await)
        {
            if let Some(Err(error)) = outcome {
                tracing::error!(resource = %step.resource, op = step.op.label(), %error, "cannot be given back as it was");
            }
        }
    }

    /// Executes a plan, and those after it until nothing is left to do.
    pub(super) async fn bring_about(
        &mut self,
        work: &mut Work,
        mut plan: Plan,
        observed: Observed,
    ) -> Passed {
        let mut passed = Passed {
            observed,
            ..Passed::default()
        };
        let mut waiting: BTreeMap<ResourceRef, String> = BTreeMap::new();
        // Steps that are not done again: blind ones, refused ones, and those that wait.
        let mut tried: HashSet<Step> = HashSet::new();
        for round in 0..ROUNDS {
            self.note_macs(&plan);
            (passed.verdicts, passed.unseen) = (plan.verdicts, plan.unseen);
            for (resource, reason) in &waiting {
                passed
                    .verdicts
                    .entry(resource.clone())
                    .or_insert_with(|| Verdict::Pending(reason.clone()));
            }
            for (resource, op, error) in plan.refused {
                passed.failures.entry(resource).or_insert((op, error));
            }
            let steps: Vec<Step> = plan
                .steps
                .into_iter()
                .filter(|step| !tried.contains(step))
                .collect();
            tried.extend(steps.iter().filter(|step| step.blind).cloned());
            if steps.is_empty() {
                break;
            }
            if round == ROUNDS - 1 {
                for step in steps {
                    let error = OpError {
                        errno: Errno::UnknownErrno,
                        message: None,
                    };
                    passed
                        .failures
                        .entry(step.resource)
                        .or_insert((step.op, error));
                }
                break;
            }
            passed.remade.append(&mut plan.remade);
            self.execute(work, steps, &mut passed, &mut waiting, &mut tried)
                .await;
            // What was heard by now is of this work, and the look that follows finds it; or else it
            // is others' doing.
            for notice in self.kernel.heard() {
                self.notice(notice, &work.parts);
            }
            match self.look_and_plan(work, &passed.failures).await {
                Ok((next, after)) => (plan, passed.observed) = (next, after),
                Err(error) => {
                    tracing::warn!(%error, "the kernel cannot be asked");
                    break;
                }
            }
        }
        passed
    }

    /// Notes the addresses that devices keep: they are recorded with the resource.
    pub(super) fn note_macs(&mut self, plan: &Plan) {
        for (resource, macs) in &plan.macs {
            self.intent.set_macs(resource, macs);
        }
    }

    /// Notes the values that sysctls have before a plan sets them, as far as they were seen:
    /// recorded before they are replaced, they survive a crash in between. Returns true if rows
    /// have to be written for that, beside those of `recorded`, which are going to be in any case.
    pub(super) fn note_prior(
        &mut self,
        plan: &Plan,
        observed: &Observed,
        recorded: &BTreeSet<ResourceRef>,
    ) -> bool {
        let mut is_new = false;
        for step in &plan.steps {
            let Some((name, key)) = step.op.written_sysctl() else {
                continue;
            };
            let seen = observed.namespaces.get(&Ns::Named(name.clone()));
            let Some(value) = seen.and_then(|seen| seen.sysctls.get(key)) else {
                continue;
            };
            let resource = ResourceRef::new(Kind::Namespace, name.clone());
            if self.keep_prior(&resource, key.clone(), value.clone())
                && !recorded.contains(&resource)
            {
                self.confirm(&resource);
                is_new = true;
            }
        }
        is_new
    }

    /// Takes in what lived in namespaces and bridges that are made anew.
    fn widen(&self, work: &mut Work, plan: &Plan) -> bool {
        let anew = |kind: Kind, names: &BTreeSet<netnsd_api::Name>| -> Vec<ResourceRef> {
            names
                .iter()
                .map(|name| ResourceRef::new(kind, name.clone()))
                .collect()
        };
        let mut grown = false;
        let bridges = anew(Kind::Bridge, &plan.new_bridges);
        for resource in anew(Kind::Namespace, &plan.new_namespaces)
            .into_iter()
            .chain(bridges)
        {
            let part = work.parts.get(&resource).copied().unwrap_or_default();
            for dependent in self.intent.dependents(&resource) {
                let inside = self.affected(None, self.intent.spec(&dependent));
                for other in inside.into_iter().chain([dependent]) {
                    grown |= !work.parts.contains_key(&other);
                    work.parts.entry(other).or_insert(part);
                }
            }
        }
        grown
    }

    /// Executes steps. Where no write waits for them, one that only sets something and is refused
    /// holds up nothing: it is `tried`, and what else its part has to do goes on.
    async fn execute(
        &mut self,
        work: &Work,
        steps: Vec<Step>,
        passed: &mut Passed,
        waiting: &mut BTreeMap<ResourceRef, String>,
        tried: &mut HashSet<Step>,
    ) {
        let batch: Vec<BatchOp> = steps
            .iter()
            .map(|step| BatchOp {
                op: step.op.clone(),
                part: work.parts.get(&step.resource).copied().unwrap_or_default(),
                optional: step.may_wait
                    || step.op.is_setting() && self.spoils(work, &step.resource).is_none(),
            })
            .collect();
        let before: usize = passed.done.values().map(Vec::len).sum();
        let (progress, total) = (work.progress.clone(), before + steps.len());
        let metrics = self.metrics.clone();
        let tell = move |done: usize| {
            metrics.liveness.record_progress(Part::Engine);
            if let Some(progress) = &progress {
                progress.send_replace(Progress {
                    done: before + done,
                    total,
                });
            }
        };
        tell(0);
        // Nobody is told of what goes on in them any more: telling costs.
        let going = batch
            .iter()
            .filter_map(|op| op.op.deleted_namespace())
            .map(|name| WatchChange::Remove(Ns::Named(name.clone())));
        self.kernel.watch(going.collect());
        let start = Instant::now();
        let outcomes = self.kernel.execute(&batch, Box::new(tell)).await;
        self.metrics.record_batch(start.elapsed());
        for (step, outcome) in steps.into_iter().zip(outcomes) {
            if let Some(outcome) = &outcome {
                self.metrics.record_operation(
                    step.op.label(),
                    outcome.as_ref().err().map(|error| error.errno),
                );
            }
            match outcome {
                None => {}
                Some(Ok(())) => passed
                    .done
                    .entry(step.resource)
                    .or_default()
                    .push(step.op.label()),
                Some(Err(error)) if step.may_wait && may_come(&step.op, error.errno) => {
                    let reason = format!("{} waits: {error}", step.op.label());
                    waiting.entry(step.resource.clone()).or_insert(reason);
                    tried.insert(step);
                }
                Some(Err(error)) => {
                    if step.op.is_setting() {
                        tried.insert(step.clone());
                        passed
                            .failures
                            .entry(step.resource)
                            .or_insert((step.op, error));
                    } else {
                        passed.failures.insert(step.resource, (step.op, error));
                    }
                }
            }
        }
        for (name, key, value) in self.kernel.replaced_sysctls() {
            let resource = ResourceRef::new(Kind::Namespace, name);
            if self.keep_prior(&resource, key, value) {
                self.confirm(&resource);
            }
        }
    }
}

/// So many of the host's links are asked for one by one, however few there are.
const MANY: usize = 32;

/// Work on so many resources, or of so many rows and events, leaves much memory behind.
pub(super) const LARGE: usize = 512;

/// How often a plan is made and executed until it must be empty.
const ROUNDS: usize = 4;

/// Returns true if what an operation needs may come yet. A sysctl that is not there where its
/// interface is will not.
fn may_come(op: &Op, errno: Errno) -> bool {
    match op {
        Op::Feature(FeatureOp::Sysctl { .. }) => errno == Errno::ENODEV,
        // The id of a deleted namespace, which the kernel is clearing away.
        Op::Namespace(_) => errno == Errno::EAGAIN,
        Op::Link(_) | Op::Feature(_) => is_not_yet(errno),
    }
}

/// Errors that mean that what an operation needs is not there (yet).
pub(super) fn is_not_yet(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::ENETDOWN | Errno::ENODEV | Errno::ENOENT
    )
}
