//! What others changed: whom it concerns, when that is looked at, and how often it is repaired.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use netnsd_api::{EventType, Kind, Name, Namespace, ResourceRef, State, SysctlKey};
use serde_json::json;

use super::{
    Policy,
    core::{Again, Core},
    status::Standing,
};
use crate::{
    kernel::{Device, Kernel, KernelEvent, LOOPBACK, Ns, NsChange, Observed, ownership},
    model::{Record, Spec},
    plan::Plan,
};

/// How long after the first notice a look is taken: one change has several.
const GATHER: Duration = Duration::from_millis(2);
/// How long apart looks are, at the least: whoever changes things without pause takes no more than
/// a part of the time.
const PAUSE: Duration = Duration::from_millis(20);
/// So many repairs in a row are made at once; later ones wait ever longer.
const PATIENCE: u32 = 3;
/// How long the first repair after those waits, and at the most.
const WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));
/// How long a resource must have been left alone to be trusted again.
const CALM: Duration = Duration::from_secs(10);
/// How many resources are compared at once because of notices.
const ROUND: usize = 64;
/// How many namespaces, with what lives in them, are compared at once in the rounds that are made
/// without.
const TURN: usize = 32;

/// What is to be looked at because of others.
#[derive(Debug)]
pub(super) struct Drift {
    policy: Policy,
    dirty: BTreeSet<ResourceRef>,
    /// When the dirty ones are looked at, and when that was last done.
    due: Option<Instant>,
    looked: Option<Instant>,
    /// Of each resource by what had to be done: the same again and again is a fight, one thing
    /// after the other is not.
    repairs: BTreeMap<ResourceRef, BTreeMap<Operations, Repairs>>,
    /// How far the round without a notice is, and when it goes on.
    rounded: Option<ResourceRef>,
    next_round: Instant,
    devices: Devices,
    /// Bridges that netnsd gives the lowest MTU of their ports, and where they are.
    followers: BTreeMap<ResourceRef, Ns>,
}

/// What a repair does, by the labels of its operations.
type Operations = Vec<&'static str>;

/// Repairs of one resource, one soon after the other.
#[derive(Debug, Clone, Copy)]
struct Repairs {
    count: u32,
    last: Instant,
}

impl Repairs {
    /// How long the next one waits after the last.
    fn delay(self) -> Duration {
        match self.count.checked_sub(PATIENCE + 1) {
            None => Duration::ZERO,
            Some(over) => WAIT.0.saturating_mul(1 << over.min(16)).min(WAIT.1),
        }
    }
}

/// Whose the devices are, by where they are and their index: notices of addresses tell no name.
#[derive(Debug, Default)]
struct Devices {
    by_index: BTreeMap<(Ns, u32), ResourceRef>,
    of: BTreeMap<ResourceRef, Vec<Device>>,
}

impl Devices {
    fn forget(&mut self, resource: &ResourceRef) {
        for device in self.of.remove(resource).unwrap_or_default() {
            let key = (device.ns, device.index);
            if self.by_index.get(&key) == Some(resource) {
                self.by_index.remove(&key);
            }
        }
    }

    fn learn(&mut self, resource: &ResourceRef, spec: &Spec, observed: &Observed) {
        let before = self.of.get(resource);
        let device = |(ns, name): (Ns, String)| {
            let inside = observed.namespaces.get(&ns)?;
            let (index, owner_tag) = match name.as_str() {
                "lo" => (LOOPBACK, &inside.owner_tag),
                name => inside
                    .links
                    .get(name)
                    .map(|link| (link.index, &link.owner_tag))?,
            };
            let device = Device {
                cookie: inside.cookie,
                ns,
                index,
            };
            let is_own = match owner_tag.as_deref() {
                Some(tag) => ownership::parse(tag).is_some_and(|(owner, _)| owner == *resource),
                None => before.is_some_and(|before| before.contains(&device)),
            };
            is_own.then_some(device)
        };
        let interfaces = match spec {
            Spec::Namespace(spec) => vec![(Ns::Named(spec.name.clone()), "lo".to_owned())],
            spec => spec.devices(),
        };
        let devices: Vec<Device> = interfaces.into_iter().filter_map(device).collect();
        let key = |device: &Device| (device.ns.clone(), device.index);
        let is_known = |device: &Device| self.by_index.get(&key(device)) == Some(resource);
        if self.of.get(resource) == Some(&devices) && devices.iter().all(is_known) {
            return;
        }
        self.forget(resource);
        self.by_index
            .extend(devices.iter().map(|device| (key(device), resource.clone())));
        self.of.insert(resource.clone(), devices);
    }
}

impl Drift {
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            dirty: BTreeSet::new(),
            due: None,
            looked: None,
            repairs: BTreeMap::new(),
            rounded: None,
            next_round: Instant::now() + policy.interval.pause(1, Duration::ZERO),
            devices: Devices::default(),
            followers: BTreeMap::new(),
        }
    }

    /// When something is to be done next.
    pub fn alarm(&self) -> Instant {
        self.due
            .map_or(self.next_round, |due| due.min(self.next_round))
    }

    /// Has a resource looked at soon.
    pub fn mark(&mut self, resource: ResourceRef) {
        self.dirty.insert(resource);
        if self.due.is_none() {
            let now = Instant::now();
            let earliest = self.looked.map_or(now, |looked| looked + PAUSE);
            self.due = Some((now + GATHER).max(earliest));
        }
    }

    /// What is to be looked at now.
    fn take(&mut self, now: Instant) -> BTreeSet<ResourceRef> {
        if self.due.is_none_or(|due| due > now) {
            return BTreeSet::new();
        }
        // What is asked for meanwhile does not wait for all of them.
        let later = self.dirty.iter().nth(ROUND).cloned();
        let later = later
            .map(|first| self.dirty.split_off(&first))
            .unwrap_or_default();
        self.due = (!later.is_empty()).then_some(now);
        std::mem::replace(&mut self.dirty, later)
    }

    /// Returns where the devices of a resource were last seen.
    pub fn devices(&self, resource: &ResourceRef) -> &[Device] {
        self.devices.of.get(resource).map_or(&[], Vec::as_slice)
    }

    /// Remembers where a resource's devices are.
    pub fn learn(&mut self, resource: &ResourceRef, spec: &Spec, observed: &Observed) {
        self.devices.learn(resource, spec, observed);
    }

    /// Forgets a resource that is no longer there.
    pub fn forget(&mut self, resource: &ResourceRef) {
        self.devices.forget(resource);
        self.repairs.remove(resource);
        self.followers.remove(resource);
    }

    /// Remembers a bridge whose MTU goes by its ports through netnsd; none: no longer, or never.
    pub fn follow_ports(&mut self, resource: &ResourceRef, spec: Option<&Spec>) {
        let ns = spec
            .and_then(|spec| spec.devices().into_iter().next())
            .map(|(ns, _)| ns);
        match ns {
            Some(ns) => self.followers.insert(resource.clone(), ns),
            None => self.followers.remove(resource),
        };
    }

    /// Returns true for a bridge whose MTU goes by its ports through netnsd.
    pub fn follows_ports(&self, resource: &ResourceRef) -> bool {
        self.followers.contains_key(resource)
    }

    /// Why a resource is not repaired now, and when it is, if at all.
    fn held(
        &self,
        resource: &ResourceRef,
        operations: &Operations,
    ) -> Option<(String, Option<Instant>)> {
        if !self.policy.repair {
            return Some((
                "changed by others, and left so: repair is \"report\"".into(),
                None,
            ));
        }
        let repairs = self.repairs.get(resource)?.get(operations)?;
        let due = repairs.last + repairs.delay();
        (due > Instant::now()).then(|| {
            let (count, seconds) = (repairs.count, repairs.delay().as_secs_f64());
            (
                format!(
                    "changed by others again after {count} repairs: the next one waits {seconds} s"
                ),
                Some(due),
            )
        })
    }

    /// Notes a repair. Said aloud once when it begins, and once when it does not end.
    fn repaired(&mut self, resource: &ResourceRef, operations: &Operations) {
        let now = Instant::now();
        let all = self.repairs.entry(resource.clone()).or_default();
        all.retain(|_, repairs| now <= repairs.last + CALM.max(repairs.delay() * 4));
        let repairs = all.entry(operations.clone()).or_insert(Repairs {
            count: 0,
            last: now,
        });
        *repairs = Repairs {
            count: repairs.count + 1,
            last: now,
        };
        let operations = operations.join(" ");
        match repairs.count {
            1 => tracing::warn!(%resource, operations, "changed by others, and repaired"),
            count if count == PATIENCE + 1 => {
                tracing::warn!(%resource, operations, "changed by others again and again: repaired ever more slowly");
            }
            _ => tracing::debug!(%resource, operations, "changed by others, and repaired"),
        }
    }
}

/// Whether a change may touch what a namespace itself is asked for: `lo`, and routes, neighbours
/// and sysctls, which hang on links.
fn touches(spec: &Namespace, what: &NsChange) -> bool {
    let inside = !(spec.routes.is_empty() && spec.neighbours.is_empty() && spec.sysctls.is_empty());
    match what {
        NsChange::Link {
            index: LOOPBACK, ..
        }
        | NsChange::Address(LOOPBACK)
        | NsChange::Everything => true,
        NsChange::Link {
            presence_changed,
            name,
            ..
        } => {
            // The kernel sets some back when a carrier comes or the MTU changes, and forgets all of
            // them with an MTU that IPv6 cannot do with (`addrconf_notify()`, net/ipv6/addrconf.c).
            let is_reset =
                |key: &SysctlKey| key.is_ipv6() && key.interface().as_ref() == Some(name);
            *presence_changed && inside || spec.sysctls.keys().any(is_reset)
        }
        NsChange::Address(_) => inside,
        NsChange::Routes => !spec.routes.is_empty(),
        NsChange::Neighbours => !spec.neighbours.is_empty(),
        NsChange::Sysctls => !spec.sysctls.is_empty(),
    }
}

impl<K: Kernel> Core<K> {
    /// Something happened in the kernel that others did. What `besides` holds is being looked at
    /// anyhow.
    pub(super) fn notice(&mut self, notice: KernelEvent, besides: &BTreeMap<ResourceRef, usize>) {
        let concerned = match notice {
            KernelEvent::Appeared(name) => {
                if !self.manages(&name) && self.foreign.get_or_insert_default().insert(name.clone())
                {
                    self.journal
                        .add(EventType::Appeared, Kind::Namespace, &name, None, json!({}));
                }
                self.named(&name)
            }
            KernelEvent::Disappeared(name) => {
                if self.foreign.get_or_insert_default().remove(&name) && !self.manages(&name) {
                    self.journal.add(
                        EventType::Disappeared,
                        Kind::Namespace,
                        &name,
                        None,
                        json!({}),
                    );
                }
                self.named(&name)
            }
            KernelEvent::NamesLost => self.compare_names(),
            KernelEvent::Changed(ns, what) => self.concerned(&ns, &what),
        };
        for resource in concerned
            .into_iter()
            .filter(|resource| !besides.contains_key(resource))
        {
            self.drift.mark(resource);
        }
    }

    /// The namespace of this name and what lives in it, if it is, or was, asked for.
    fn named(&self, name: &str) -> Vec<ResourceRef> {
        if !self.manages(name) {
            return Vec::new();
        }
        let Ok(name) = name.parse() else {
            return Vec::new();
        };
        let resource = ResourceRef::new(Kind::Namespace, name);
        let inside = self.intent.dependents(&resource);
        std::iter::once(resource).chain(inside).collect()
    }

    /// Finds out which namespaces came and went: others' are told, what is there at first excepted,
    /// and of those asked for the ones that are missing are concerned.
    fn compare_names(&mut self) -> Vec<ResourceRef> {
        let names: BTreeSet<String> = self.kernel.names().into_iter().collect();
        let missing = |(resource, _): &(ResourceRef, &Record)| {
            resource.kind == Kind::Namespace && !names.contains(resource.name.as_str())
        };
        let missing: Vec<ResourceRef> = self
            .intent
            .all()
            .filter(missing)
            .map(|(resource, _)| resource)
            .collect();
        let foreign: BTreeSet<String> = names
            .into_iter()
            .filter(|name| !self.manages(name))
            .collect();
        if let Some(before) = self.foreign.replace(foreign.clone()) {
            for name in foreign.difference(&before) {
                self.journal
                    .add(EventType::Appeared, Kind::Namespace, name, None, json!({}));
            }
            let gone: Vec<&String> = before
                .difference(&foreign)
                .filter(|name| !self.manages(name))
                .collect();
            for name in gone {
                self.journal.add(
                    EventType::Disappeared,
                    Kind::Namespace,
                    name,
                    None,
                    json!({}),
                );
            }
        }
        missing
    }

    /// Whom a change concerns.
    fn concerned(&self, ns: &Ns, what: &NsChange) -> Vec<ResourceRef> {
        let by_index = |index: u32| {
            self.drift
                .devices
                .by_index
                .get(&(ns.clone(), index))
                .cloned()
        };
        let mut found: Vec<ResourceRef> = match what {
            NsChange::Link { index, name, .. } => by_index(*index)
                .into_iter()
                .chain(self.intent.owner(ns, name))
                .collect(),
            NsChange::Address(index) => by_index(*index).into_iter().collect(),
            NsChange::Routes | NsChange::Neighbours | NsChange::Sysctls => Vec::new(),
            NsChange::Everything => match ns.name() {
                Some(name) => self
                    .intent
                    .dependents(&ResourceRef::new(Kind::Namespace, name.clone())),
                None => self.intent.all().map(|(resource, _)| resource).collect(),
            },
        };
        if let NsChange::Link { .. } = what {
            let here = self.drift.followers.iter().filter(|(_, of)| *of == ns);
            found.extend(here.map(|(bridge, _)| bridge.clone()));
        }
        if let Some(name) = ns.name()
            && let resource = ResourceRef::new(Kind::Namespace, name.clone())
            && let Some(Spec::Namespace(spec)) = self.intent.spec(&resource)
            && touches(spec, what)
        {
            found.push(resource);
        }
        found
    }

    /// Looks at what others touched, and goes on with the round without a notice. Whether there was
    /// anything to do.
    pub(super) async fn look_after_others(&mut self) -> bool {
        let now = Instant::now();
        let dirty = self.drift.take(now);
        let any = !dirty.is_empty();
        if any {
            self.pass(dirty, true).await;
            self.drift.looked = Some(Instant::now());
        }
        if self.drift.next_round > now {
            return any;
        }
        let (turns, next) = self.next_of_round();
        let turn = Instant::now();
        if !next.is_empty() {
            self.pass(next, true).await;
        }
        let turns = u32::try_from(turns).unwrap_or(u32::MAX).max(1);
        self.drift.next_round =
            Instant::now() + self.drift.policy.interval.pause(turns, turn.elapsed());
        true
    }

    /// How many turns a round has, and the resources whose turn it is: what lives in a namespace is
    /// looked at with it.
    fn next_of_round(&mut self) -> (usize, BTreeSet<ResourceRef>) {
        let after = self.drift.rounded.take();
        let rest = |leading: &(Kind, &Name)| {
            after
                .as_ref()
                .is_none_or(|after| *leading > (after.kind, &after.name))
        };
        let turn = self.intent.leading().filter(rest).take(TURN);
        let turn: Vec<ResourceRef> = turn
            .map(|(kind, name)| ResourceRef::new(kind, name.clone()))
            .collect();
        let following = turn.iter().flat_map(|resource| match resource.kind {
            Kind::Namespace => self.intent.dependents(resource),
            _ => Vec::new(),
        });
        let next = following.chain(turn.iter().cloned()).collect();
        self.drift.rounded = turn.last().filter(|_| turn.len() == TURN).cloned();
        (self.intent.leading().count().div_ceil(TURN), next)
    }

    /// Of what a plan is for: what was in sync before, and what of that is not to be repaired now.
    /// Tells of the drift.
    pub(super) fn weigh(
        &mut self,
        plan: &Plan,
        spare: bool,
    ) -> (BTreeSet<ResourceRef>, Vec<ResourceRef>) {
        let mut operations: BTreeMap<&ResourceRef, Operations> = BTreeMap::new();
        for step in &plan.steps {
            operations
                .entry(&step.resource)
                .or_default()
                .push(step.op.label());
        }
        let (mut drifted, mut held) = (BTreeSet::new(), Vec::new());
        for (resource, operations) in operations {
            let Some(standing) = self.standings.get_mut(resource) else {
                continue;
            };
            if !matches!(standing.state, State::InSync | State::Drifted) {
                continue;
            }
            if standing.state == State::InSync
                && let Some(record) = self.intent.get(resource)
            {
                let detail = json!({"operations": operations});
                self.journal.add(
                    EventType::Drifted,
                    resource.kind,
                    &resource.name,
                    Some(&record.uid),
                    detail,
                );
            }
            let reason = Some("changed by others, and being repaired".into());
            *standing = Standing {
                state: State::Drifted,
                reason,
            };
            drifted.insert(resource.clone());
            if !spare {
                continue;
            }
            if let Some((reason, until)) = self.drift.held(resource, &operations) {
                self.standings.insert(
                    resource.clone(),
                    Standing {
                        state: State::Drifted,
                        reason: Some(reason),
                    },
                );
                if let Some(at) = until {
                    self.retries
                        .insert(resource.clone(), Again { at, tries: 0 });
                }
                held.push(resource.clone());
            }
        }
        (drifted, held)
    }

    /// Notes what was repaired of what had drifted.
    pub(super) fn note_repairs(
        &mut self,
        drifted: &BTreeSet<ResourceRef>,
        done: &BTreeMap<ResourceRef, Operations>,
    ) {
        for (resource, operations) in done {
            if drifted.contains(resource) && self.stands(resource) {
                self.drift.repaired(resource, operations);
                self.metrics.record_repair();
            }
        }
    }
}
