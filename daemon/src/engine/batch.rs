//! Writes: which may be carried out together, and what becomes of each.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use netnsd_api::{
    AuditEntry, Code, EventType, Kind, PlannedOperation, Problem, Progress, ResourceRef, Role,
    State,
};
use serde_json::json;
use tokio::sync::watch;

use super::{
    Message, Written,
    core::{Core, Gone},
    host::{self, HostAddress},
    queue::Turns,
    settle::{Cause, refusal},
    status::{self, Standing},
    work::{Failures, LARGE, Passed, Work},
};
use crate::{
    access::AuditDraft,
    intent::Intent,
    kernel::{Kernel, Ns, Observed, Op, OpError},
    model::{Change, ChangeKind, Decision, Leftovers, Record, Row, Spec, main_change},
    plan::{self, Found, Plan, Step, Verdict},
    store::{AuxRecord, RowChange, StoreError},
};

/// A write that was accepted, and what it replaced.
pub(super) struct Accepted {
    message: Message,
    pub decision: Decision,
    pub before: Vec<(ResourceRef, Option<Record>)>,
    /// What it takes over, as it was found.
    pub found: BTreeMap<ResourceRef, Found>,
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
    fn audit(&self) -> Option<(Arc<AuditDraft>, AuditEntry)> {
        let write = &self.message.write;
        let status = write.status?(main_change(&self.decision.named), write.wait);
        let audit = write.caller.audit.clone()?;
        let entry = audit.with_status(status);
        Some((audit, entry))
    }

    /// Returns the kernel's refusal as its problem.
    fn refusal(&self, resource: &ResourceRef, op: &Op, error: &OpError) -> Problem {
        let mut problem = self.placed(resource, refusal(resource, op, error));
        if !self.resources().any(|own| own == resource) {
            let namespace = op
                .ns()
                .name()
                .map(|name| ResourceRef::new(Kind::Namespace, name.clone()));
            problem.resources = std::iter::once(resource.clone()).chain(namespace).collect();
        }
        problem
    }

    /// A problem of one of its resources, with that one's place in the document.
    fn placed(&self, resource: &ResourceRef, mut problem: Problem) -> Problem {
        let Change::Topology(document) = &self.message.write.change else {
            return problem;
        };
        let placed = document
            .specs
            .iter()
            .find(|placed| placed.spec.resource() == *resource);
        problem.pointer = problem
            .pointer
            .zip(placed)
            .map(|(pointer, placed)| placed.pointer() + &pointer);
        problem
    }

    /// The addresses that it adds on the host, by resource; none of an admin's, who may give any.
    fn host_addresses(&self) -> impl Iterator<Item = (&ResourceRef, Vec<HostAddress>)> {
        let is_bound = self.message.write.caller.role < Role::Admin;
        let changes = self
            .before
            .iter()
            .zip(&self.decision.changes)
            .filter(move |_| is_bound);
        changes.filter_map(|((resource, before), (_, after))| {
            let before = before.as_ref().map(|record| &*record.spec);
            Some((resource, host::new_addresses(before, &after.as_ref()?.spec)))
        })
    }

    fn adds_host_addresses(&self) -> bool {
        self.host_addresses().any(|(_, new)| !new.is_empty())
    }

    fn check_host_addresses(&self, observed: &Observed) -> Result<(), Problem> {
        let write = &self.message.write;
        let replaced: Vec<&Spec> = self
            .before
            .iter()
            .filter_map(|(_, before)| before.as_ref())
            .map(|record| &*record.spec)
            .collect();
        for (resource, new) in self.host_addresses() {
            let checked = host::check(&write.caller, &new, &replaced, observed);
            checked.map_err(|error| write.change.locate(resource, error.into()))?;
        }
        Ok(())
    }

    /// The resources that it names or changes.
    pub fn resources(&self) -> impl Iterator<Item = &ResourceRef> {
        let named = self.decision.named.iter().map(|(resource, _)| resource);
        named.chain(self.before.iter().map(|(resource, _)| resource))
    }
}

/// What tells whether two writes may be carried out together: neither touches what the other
/// touches or refers to.
#[derive(Default)]
struct Footprint {
    touched: BTreeSet<ResourceRef>,
    claimed: BTreeSet<(Ns, String)>,
    referred: BTreeSet<ResourceRef>,
}

impl Footprint {
    fn of(decision: &Decision, intent: &Intent) -> Self {
        let mut print = Self::default();
        print
            .touched
            .extend(decision.named.iter().map(|(resource, _)| resource.clone()));
        for (resource, after) in &decision.changes {
            print.touched.insert(resource.clone());
            for spec in intent
                .spec(resource)
                .into_iter()
                .chain(after.as_ref().map(|record| &*record.spec))
            {
                print.referred.extend(spec.references());
                print.claimed.extend(spec.devices());
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

impl<K: Kernel> Core<K> {
    /// Takes writes off the queue that may be carried out together, their changes made in the
    /// intent.
    pub(super) fn take_batch(&mut self, waiting: &mut Turns) -> Vec<Accepted> {
        let mut batch: Vec<Accepted> = Vec::new();
        let mut footprint = Footprint::default();
        while let Some(message) = waiting.peek() {
            let alone =
                message.write.dry_run || matches!(message.write.change, Change::Topology(_));
            if alone && !batch.is_empty() {
                break;
            }
            let new_uid = || uuid::Uuid::now_v7().to_string();
            let decided = self
                .intent
                .decide(&message.write, Timestamp::now(), &new_uid);
            let decision = match decided {
                Ok(decision) => decision,
                // It may have been refused for what another of the batch does: final only when it
                // stands alone.
                Err(_) if !batch.is_empty() => break,
                Err(problem) => {
                    if let Some(mut message) = waiting.pop() {
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
            let Some(message) = waiting.pop() else { break };
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
                applied.push(Spec::clone(&old.spec));
                let gone = Gone {
                    applied,
                    prior: old.prior.clone(),
                };
                self.gone.insert((resource.clone(), old.uid.clone()), gone);
            }
            before.push((resource.clone(), old));
        }
        Accepted {
            message,
            decision,
            before,
            found: BTreeMap::new(),
            events: 0..0,
        }
    }

    /// Takes a write's changes back. What it may have left in the kernel (`tried`) is kept in mind,
    /// but for what was given back.
    fn take_back(&mut self, accepted: &Accepted, tried: bool) {
        for (resource, before) in accepted.before.iter().rev() {
            let after = self.intent.set(resource, before.clone());
            if let Some(before) = before {
                self.gone.remove(&(resource.clone(), before.uid.clone()));
            }
            let Some(after) = after.filter(|_| tried && !accepted.found.contains_key(resource))
            else {
                continue;
            };
            match self.intent.leftovers_mut(resource) {
                Some(Leftovers { applied, prior, .. }) => {
                    applied.push(Arc::unwrap_or_clone(after.spec));
                    prior.extend(after.prior);
                }
                None => {
                    let gone = Gone {
                        applied: vec![Arc::unwrap_or_clone(after.spec)],
                        prior: after.prior,
                    };
                    self.gone.insert((resource.clone(), after.uid), gone);
                }
            }
        }
    }

    /// Carries out a batch: look, plan, record, change, look again, answer.
    pub(super) async fn carry_out(&mut self, batch: Vec<Accepted>) {
        // Also where nothing is to be done: the document that says so was large.
        self.large |= batch
            .iter()
            .map(|accepted| accepted.decision.named.len())
            .sum::<usize>()
            >= LARGE;
        let batch = self.answer_unchanged(batch);
        let Some(mut batch) = self.refuse_host_addresses(batch).await else {
            return;
        };
        while !batch.is_empty() {
            let mut work = self.work(&batch);
            let (plan, observed) = match self.look_and_plan(&mut work, &Failures::new()).await {
                Ok(found) => found,
                Err(error) => return self.refuse_all(batch, &cannot_ask(&error)),
            };
            // Refusals first, before anything is recorded: the others go on without them.
            let count = batch.len();
            let mut fine = Vec::new();
            for mut accepted in batch {
                let refusal =
                    conflict_of(&accepted, &plan).or_else(|| refusal_of(&accepted, &plan));
                match refusal.or_else(|| foreign_links_of(&accepted, &plan)) {
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
                    .filter_map(|resource| {
                        Some((resource.clone(), plan.found.get(resource)?.clone()))
                    })
                    .collect();
            }
            self.note_macs(&plan);
            let recorded = batch
                .iter()
                .flat_map(|accepted| &accepted.before)
                .map(|(resource, _)| resource.clone());
            // Rows beside them ride along with the same commit.
            self.note_prior(&plan, &observed, &recorded.collect());
            let is_new = |step: &&Step| step.op.created_namespace().is_some();
            self.kernel.expect(plan.steps.iter().filter(is_new).count());
            let recording = Instant::now();
            if let Err(error) = self.record(&mut batch).await {
                tracing::error!(%error, "a write cannot be recorded");
                let problem = Problem::new(
                    Code::StoreUnavailable,
                    format!("{error}: nothing was changed"),
                );
                return self.refuse_all(batch, &problem);
            }
            let store = recording.elapsed();
            self.answer_early(&mut batch, store);
            let changing = Instant::now();
            let passed = self.bring_about(&mut work, plan, observed).await;
            return self.finish(batch, &work, &passed, store, changing).await;
        }
    }

    /// Writes that change nothing are answered from memory, unless a resource is not as it should
    /// be.
    fn answer_unchanged(&mut self, batch: Vec<Accepted>) -> Vec<Accepted> {
        let mut rest = Vec::new();
        for mut accepted in batch {
            let nothing = |(resource, did): &(ResourceRef, ChangeKind)| {
                *did == ChangeKind::Unchanged
                    && (accepted.message.write.dry_run || self.stands(resource))
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

    /// Refuses writes that give addresses to the host which are for admins; returns the others, or
    /// `None` if the kernel cannot be asked, and all are refused.
    async fn refuse_host_addresses(&mut self, batch: Vec<Accepted>) -> Option<Vec<Accepted>> {
        if !batch.iter().any(|accepted| accepted.adds_host_addresses()) {
            return Some(batch);
        }
        let observed = match self.kernel.observe(&host::scope()).await {
            Ok(observed) => observed,
            Err(error) => {
                self.refuse_all(batch, &cannot_ask(&error));
                return None;
            }
        };
        let mut rest = Vec::new();
        for mut accepted in batch {
            match accepted.check_host_addresses(&observed) {
                Ok(()) => rest.push(accepted),
                Err(problem) => {
                    self.take_back(&accepted, false);
                    accepted.message.refuse(problem);
                }
            }
        }
        Some(rest)
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
                    Some(Verdict::Pending(reason)) => Standing {
                        state: State::Pending,
                        reason: Some(reason.clone()),
                    },
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
        let written = Written {
            entry,
            plan: plan.steps.iter().map(operation).collect(),
            ..self.written(&accepted)
        };
        self.take_back(&accepted, false);
        accepted.message.answer(Ok(written));
    }

    /// Answers those writes of a batch that do not wait for the kernel; they are durable.
    fn answer_early(&mut self, batch: &mut [Accepted], store: Duration) {
        for accepted in batch
            .iter_mut()
            .filter(|accepted| !accepted.message.write.wait)
        {
            let (present, gone): (Vec<ResourceRef>, Vec<ResourceRef>) = accepted
                .before
                .iter()
                .map(|(resource, _)| resource.clone())
                .partition(|resource| self.intent.get(resource).is_some());
            for resource in &present {
                let reason = Some("recorded, and being applied".to_owned());
                self.standings.insert(
                    resource.clone(),
                    Standing {
                        state: State::Pending,
                        reason,
                    },
                );
            }
            self.view.publish(Vec::new(), &gone);
            self.publish(&present, &Observed::default());
            let written = Written {
                applied: false,
                store,
                ..self.written(accepted)
            };
            accepted.message.answer(Ok(written));
        }
    }

    /// Records a batch: its changes, its events, and what was known to be done before.
    async fn record(&mut self, batch: &mut [Accepted]) -> Result<(), StoreError> {
        if self.has_backlog() {
            // Its entries are older, and so have lower numbers.
            self.tidy().await;
        }
        let first = self.journal.next();
        let (mut rows, mut kept, mut audits) = (BTreeMap::new(), Vec::new(), Vec::new());
        for accepted in batch {
            if let Some((audit, entry)) = accepted.audit() {
                let entry = self.numbered(entry);
                kept.push(AuxRecord::PutAudit(entry.clone()));
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
            Ok(()) => audits
                .into_iter()
                .for_each(|(audit, entry)| drop(audit.set_recorded(Some(entry)))),
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
        self.journal
            .add(what, resource.kind, &resource.name, uid, detail);
    }

    /// What has to be recorded of a resource that was `before`.
    fn row_changes(
        &self,
        resource: &ResourceRef,
        before: Option<&Record>,
        changes: &mut BTreeMap<String, RowChange>,
    ) {
        if let Some(record) = self.intent.get(resource) {
            changes.insert(record.uid.clone(), RowChange::Put(Box::new(record.row())));
        }
        let Some(before) = before else { return };
        if let Some(gone) = self.gone.get(&(resource.clone(), before.uid.clone())) {
            let row = Row {
                desired: None,
                applied: gone.applied.clone(),
                prior: gone.prior.clone(),
                ..before.row()
            };
            changes.insert(before.uid.clone(), RowChange::Put(Box::new(row)));
        } else if self.intent.get(resource).is_none() {
            changes.insert(before.uid.clone(), RowChange::Delete(before.uid.clone()));
        }
    }

    /// Answers a batch after its work; takes back what the kernel refused, unless it was answered
    /// already.
    async fn finish(
        &mut self,
        batch: Vec<Accepted>,
        work: &Work,
        passed: &Passed,
        store: Duration,
        changing: Instant,
    ) {
        let mut refused = Vec::new();
        let mut done = Vec::new();
        for (part, accepted) in batch.into_iter().enumerate() {
            match passed
                .failures
                .iter()
                .find(|(resource, _)| self.spoils(work, resource) == Some(part))
            {
                Some((resource, (op, error))) => {
                    let problem = accepted.refusal(resource, op, error);
                    refused.push((part, problem, accepted));
                }
                None => done.push(accepted),
            }
        }
        let parts: BTreeSet<usize> = refused.iter().map(|(part, ..)| *part).collect();
        let cause = Cause::Write {
            changed: done.iter().flat_map(Accepted::resources).cloned().collect(),
            refused: work
                .parts
                .iter()
                .filter(|(_, part)| parts.contains(part))
                .map(|(of, _)| of.clone())
                .collect(),
        };
        self.settle(work, passed, &cause);
        if !refused.is_empty() {
            self.undo(refused.iter().map(|(.., accepted)| accepted).collect())
                .await;
        }
        self.journal.show();
        let kernel = changing.elapsed();
        for mut accepted in done {
            let written = Written {
                store,
                kernel,
                ..self.written(&accepted)
            };
            accepted.message.answer(Ok(written));
        }
        for (_, problem, mut accepted) in refused {
            accepted.message.refuse(problem);
        }
    }

    /// Takes refused writes back, in the database and in the kernel, by the way that everything
    /// goes.
    async fn undo(&mut self, refused: Vec<&Accepted>) {
        self.give_back(&refused).await;
        let mut work = Work::default();
        let mut rows = BTreeMap::new();
        for (part, accepted) in refused.into_iter().enumerate() {
            let recorded = accepted
                .message
                .write
                .caller
                .audit
                .as_ref()
                .and_then(|audit| audit.set_recorded(None));
            self.untrue.extend(recorded.map(|entry| entry.id));
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
        }
        if let Err(error) = self.commit(rows.clone(), Vec::new()).await {
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

/// Settings of waiting writes that the kernel is known to refuse, told before anything is done.
fn refusal_of(accepted: &Accepted, plan: &Plan) -> Option<Problem> {
    let is_own = |(resource, ..): &&(ResourceRef, Op, OpError)| {
        accepted.resources().any(|own| own == resource)
    };
    let (resource, op, error) = plan
        .refused
        .iter()
        .filter(|_| accepted.waits())
        .find(is_own)?;
    Some(accepted.refusal(resource, op, error))
}

/// The conflict, if any, of what a write itself names or changes.
fn conflict_of(accepted: &Accepted, plan: &Plan) -> Option<Problem> {
    accepted
        .resources()
        .filter_map(|resource| Some((resource, plan.verdicts.get(resource)?)))
        .find_map(|(resource, verdict)| match verdict {
            Verdict::Conflict { reason, pointer } => {
                let resources = vec![resource.clone()];
                let problem = Problem {
                    pointer: pointer.clone(),
                    resources,
                    ..Problem::new(Code::Conflict, reason.clone())
                };
                Some(accepted.message.write.change.locate(resource, problem))
            }
            Verdict::Pending(_) => None,
        })
}

/// The problem, if any, that a write deletes namespaces with links that others made, and does not
/// ask for it.
fn foreign_links_of(accepted: &Accepted, plan: &Plan) -> Option<Problem> {
    if accepted.message.write.change.cascades() {
        return None;
    }
    let (resource, links) = plan.foreign_links.iter().find(|(resource, _)| {
        accepted
            .decision
            .changes
            .iter()
            .any(|(changed, after)| changed == *resource && after.is_none())
    })?;
    let more = links.len().saturating_sub(LISTED);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    let listed = links
        .iter()
        .take(LISTED)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    let way_out = "move them out, or ?cascade=true deletes the namespace with them";
    let detail =
        format!("{resource} has interfaces that netnsd did not make: {listed}{more}; {way_out}");
    Some(Problem {
        resources: vec![resource.clone()],
        ..Problem::new(Code::InUse, detail)
    })
}

fn cannot_ask(error: &OpError) -> Problem {
    Problem::new(
        Code::KernelUnavailable,
        format!("the kernel cannot be asked: {error}"),
    )
}

/// Number of links that a sentence lists.
const LISTED: usize = 10;
