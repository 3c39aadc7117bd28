//! What the engine takes, and what it answers.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, RwLock},
    time::Duration,
};

use bytes::Bytes;
use netnsd_api::{
    Bridge, Kind, Name, PlannedOperation, PortObserved, Progress, ResourceRef, State, Stored,
};
use tokio::sync::watch;

use crate::{
    access::Caller,
    model::{Change, ChangeKind, Precondition, Spec, main_change},
};

/// One resource as readers see it.
#[derive(Debug, PartialEq)]
pub struct Entry {
    /// What was asked for.
    pub spec: Arc<Spec>,
    /// Its identity.
    pub uid: String,
    /// Its generation.
    pub generation: u64,
    /// Its state.
    pub state: State,
    /// The whole resource as GET answers it (a `netnsd_api::Stored`), as JSON.
    pub json: Bytes,
    /// Of a bridge: the answer to put its ports into.
    pub(super) bridge: Option<Box<Stored<Bridge>>>,
    /// Of a veth pair: the ports that its ends are.
    pub(super) ports: Vec<(Name, PortObserved)>,
}

impl Entry {
    /// Returns the entry as a caller may see it: ports that others made have no resource's name.
    pub fn redact(self: Arc<Self>, caller: &Caller) -> Arc<Self> {
        let is_hidden = |port: &PortObserved| {
            port.veth
                .as_ref()
                .is_some_and(|veth| !caller.can_access(veth.as_str()))
        };
        let observed = self
            .bridge
            .as_ref()
            .and_then(|stored| stored.status.observed.as_ref());
        let Some(observed) = observed.filter(|observed| observed.ports.iter().any(is_hidden))
        else {
            return self;
        };
        let mut ports = observed.ports.clone();
        for port in ports.iter_mut().filter(|port| is_hidden(port)) {
            (port.veth, port.endpoint) = (None, None);
        }
        self.with_ports(ports)
    }

    /// A bridge with these ports: they are kept apart, so that a thousandth port costs what the
    /// first did.
    fn with_ports(&self, ports: Vec<PortObserved>) -> Arc<Entry> {
        let mut stored = self.bridge.clone();
        if let Some(observed) = stored
            .as_mut()
            .and_then(|stored| stored.status.observed.as_mut())
        {
            observed.ports = ports;
        }
        let json = stored
            .as_ref()
            .and_then(|stored| serde_json::to_vec(stored).ok());
        Arc::new(Entry {
            spec: self.spec.clone(),
            uid: self.uid.clone(),
            generation: self.generation,
            state: self.state,
            json: json.map_or_else(|| self.json.clone(), Bytes::from),
            bridge: stored,
            ports: Vec::new(),
        })
    }
}

/// What readers see: everything recorded, updated by the engine after each batch.
#[derive(Debug, Default)]
pub struct View {
    inner: RwLock<ViewInner>,
    became_ready: tokio::sync::Notify,
}

#[derive(Debug, Default)]
struct ViewInner {
    kinds: [BTreeMap<Name, Arc<Entry>>; 3],
    ports: BTreeMap<Name, BTreeMap<(Name, Option<u8>), PortObserved>>,
    ready: bool,
}

impl ViewInner {
    fn complete(&self, entry: &Arc<Entry>) -> Arc<Entry> {
        match (&*entry.spec, self.ports.get(entry.spec.name())) {
            (Spec::Bridge(_), Some(ports)) => entry.with_ports(ports.values().cloned().collect()),
            _ => entry.clone(),
        }
    }

    fn remove(&mut self, resource: &ResourceRef) {
        let Some(old) = self.kinds[resource.kind as usize].remove(&resource.name) else {
            return;
        };
        for (bridge, port) in &old.ports {
            if let Some(ports) = self.ports.get_mut(bridge) {
                ports.remove(&(resource.name.clone(), port.endpoint));
                if ports.is_empty() {
                    self.ports.remove(bridge);
                }
            }
        }
    }

    fn insert(&mut self, entry: Entry) {
        let resource = entry.spec.resource();
        let known = self.kinds[resource.kind as usize].get(&resource.name);
        // Most often nothing is new, and what moved each time would leave the heap full of holes.
        if known.is_some_and(|known| **known == entry) {
            return;
        }
        self.remove(&resource);
        for (bridge, port) in &entry.ports {
            self.ports
                .entry(bridge.clone())
                .or_default()
                .insert((resource.name.clone(), port.endpoint), port.clone());
        }
        self.kinds[resource.kind as usize].insert(resource.name, Arc::new(entry));
    }
}

impl View {
    /// One resource.
    pub fn get(&self, kind: Kind, name: &Name) -> Option<Arc<Entry>> {
        let inner = self.read();
        inner.kinds[kind as usize]
            .get(name)
            .map(|entry| inner.complete(entry))
    }

    /// At most `limit` resources of a kind that pass the filter, sorted by name, from after `after`
    /// on; and whether there are more.
    pub fn list(
        &self,
        kind: Kind,
        after: Option<&Name>,
        limit: usize,
        filter: impl Fn(&Entry) -> bool,
    ) -> (Vec<Arc<Entry>>, bool) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let inner = self.read();
        let mut found = inner.kinds[kind as usize]
            .range((from, Bound::Unbounded))
            .map(|(_, entry)| entry)
            .filter(|entry| filter(entry));
        let page: Vec<_> = found
            .by_ref()
            .take(limit)
            .map(|entry| inner.complete(entry))
            .collect();
        (page, found.next().is_some())
    }

    /// Whether everything recorded has been tried since the start.
    pub fn ready(&self) -> bool {
        self.read().ready
    }

    /// Waits until everything recorded has been tried.
    pub async fn wait_ready(&self) {
        let became = self.became_ready.notified();
        tokio::pin!(became);
        // Listening begins before the look, so that nothing is missed between.
        became.as_mut().enable();
        if !self.ready() {
            became.await;
        }
    }

    /// Returns how many of the resources that a caller reaches are in each state.
    pub fn states(&self, caller: &Caller) -> BTreeMap<State, usize> {
        let mut counts = BTreeMap::from(State::ALL.map(|state| (state, 0)));
        let all = self.read();
        let within = |entry: &&Arc<Entry>| caller.can_access(entry.spec.name().as_str());
        for entry in all.kinds.iter().flat_map(BTreeMap::values).filter(within) {
            *counts.entry(entry.state).or_default() += 1;
        }
        counts
    }

    /// How many resources of each kind are in each state; states without any are left out.
    pub fn states_by_kind(&self) -> Vec<(Kind, BTreeMap<State, usize>)> {
        let inner = self.read();
        let count = |kind: Kind| {
            let mut counts = BTreeMap::new();
            for entry in inner.kinds[kind as usize].values() {
                *counts.entry(entry.state).or_default() += 1;
            }
            (kind, counts)
        };
        Kind::ALL.map(count).into()
    }

    /// Puts entries in and takes others out.
    pub(super) fn publish(&self, entries: Vec<Entry>, gone: &[ResourceRef]) {
        let mut inner = self
            .inner
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        for resource in gone {
            inner.remove(resource);
        }
        for entry in entries {
            inner.insert(entry);
        }
    }

    pub(super) fn set_ready(&self) {
        self.inner
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .ready = true;
        self.became_ready.notify_waiters();
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, ViewInner> {
        self.inner
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A write.
#[derive(Debug, Clone)]
pub struct Write {
    /// What it changes.
    pub change: Change,
    /// On what conditions; all must hold.
    pub preconditions: Vec<Precondition>,
    /// Only tell what would be done.
    pub dry_run: bool,
    /// Answer once it is applied; else once it is durable.
    pub wait: bool,
    /// Take over what others made at its places (`?adopt=true`).
    pub adopt: bool,
    /// Told how far the kernel is.
    pub progress: Option<watch::Sender<Progress>>,
    /// Who asks for it.
    pub caller: Arc<Caller>,
    /// The HTTP status of its answer once it has done this, and is applied or not: the audit log
    /// has it with the change. None where whoever asks records it.
    pub status: Option<fn(ChangeKind, bool) -> u16>,
}

#[cfg(test)]
impl Write {
    /// A write of one who may do everything.
    pub(crate) fn by_admin(change: Change) -> Self {
        let caller = Arc::new(Caller::admin("a test"));
        Self {
            change,
            preconditions: Vec::new(),
            dry_run: false,
            wait: true,
            adopt: false,
            progress: None,
            caller,
            status: None,
        }
    }
}

/// The answer to a write.
#[derive(Debug, Clone)]
pub struct Written {
    /// What it did (for a dry run: would do), to each resource that it names.
    pub named: Vec<(ResourceRef, ChangeKind)>,
    /// The resource afterwards, where it names one; none once deleted.
    pub entry: Option<Arc<Entry>>,
    /// Whether the kernel is as asked; else (`wait` was false) netnsd still works on it.
    pub applied: bool,
    /// The operations of a dry run.
    pub plan: Vec<PlannedOperation>,
    /// Time spent on the database's commit.
    pub store: Duration,
    /// Time spent on the kernel.
    pub kernel: Duration,
}

impl Written {
    /// Returns the answer as a caller may see it: what is planned for others' resources is left
    /// out.
    pub(super) fn redact(mut self, caller: &Caller) -> Self {
        self.entry = self.entry.map(|entry| entry.redact(caller));
        self.plan
            .retain(|operation| caller.can_access(operation.resource.name.as_str()));
        self
    }

    /// What it did to the resource that it names, where it names one.
    pub fn change_kind(&self) -> ChangeKind {
        main_change(&self.named)
    }
}

/// What is done about changes by others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Whether they are repaired, or only reported.
    pub repair: bool,
    /// In what time everything is compared once, besides what is heard of changes.
    pub interval: Interval,
}

/// How often everything is compared with the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interval {
    /// Once in this time.
    Every(Duration),
    /// Once a minute; more rarely where that would take more than a thousandth of a processor, but
    /// once in ten minutes.
    Paced,
}

impl Interval {
    /// How many times as long as a comparison takes the pause after it is, at the least: two
    /// threads look.
    const PART: u32 = 2000;
    /// How often everything is compared at the most, and at the least.
    const PACED: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(600));

    /// How long after one turn the next one begins, where a round has so many and this one took
    /// that long.
    pub(super) fn pause(self, turns: u32, took: Duration) -> Duration {
        match self {
            Self::Every(interval) => interval / turns,
            Self::Paced => (took * Self::PART).clamp(Self::PACED.0 / turns, Self::PACED.1 / turns),
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            repair: true,
            interval: Interval::Paced,
        }
    }
}

/// How many writes may wait in the queue; one more is answered 503, `overloaded`.
pub const QUEUE: usize = 1024;
