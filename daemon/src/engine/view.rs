//! View: everything recorded as readers see it, without waiting for the engine.
//!
//! **Invariant:** readers never wait for a write: the lock is held only while entries are looked up
//! or replaced, never across an await.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;
use jiff::Timestamp;
use netnsd_api::{Bridge, Kind, Name, PortObserved, ResourceRef, State, Stored};

use crate::{
    access::Caller,
    model::{Spec, Version},
};

/// Resource as readers see it.
#[derive(Debug, PartialEq)]
pub struct Entry {
    /// Intent.
    pub spec: Arc<Spec>,
    /// Identifier that no other resource ever has.
    pub uid: String,
    /// Number of the intent's version.
    pub generation: u64,
    /// Time of the last change of the intent.
    pub updated_at: Timestamp,
    /// State.
    pub state: State,
    /// Body of the answer to GET (a `netnsd_api::Stored` as JSON).
    pub json: Bytes,
    /// Answer of a bridge, without its ports.
    pub(super) bridge: Option<Box<Stored<Bridge>>>,
    /// Bridges whose ports the resource's devices are.
    pub(super) ports: Vec<(Name, PortObserved)>,
}

impl Entry {
    /// Returns the version of its intent.
    pub fn version(&self) -> Version<'_> {
        Version {
            uid: &self.uid,
            generation: self.generation,
            updated_at: self.updated_at,
        }
    }

    /// Returns the entry as a caller may see it: ports out of its scope do not show their resource.
    pub fn redact(self: Arc<Self>, caller: &Caller) -> Arc<Self> {
        let is_hidden = |port: &PortObserved| {
            let mut owner = port.veth.iter().chain(&port.link);
            owner.any(|name| !caller.can_access(name.as_str()))
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
            (port.veth, port.endpoint, port.link) = (None, None, None);
        }
        self.with_ports(ports)
    }

    /// Returns the entry of a bridge with these ports. Entries are kept without them, so that the
    /// thousandth port costs no more than the first.
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
            updated_at: self.updated_at,
            state: self.state,
            json: json.map_or_else(|| self.json.clone(), Bytes::from),
            bridge: stored,
            ports: Vec::new(),
        })
    }
}

/// Everything recorded; updated by the engine after each batch.
#[derive(Debug, Default)]
pub struct View {
    inner: RwLock<ViewInner>,
    became_ready: tokio::sync::Notify,
}

#[derive(Debug, Default)]
struct ViewInner {
    kinds: BTreeMap<Kind, BTreeMap<Name, Arc<Entry>>>,
    ports: BTreeMap<Name, BTreeMap<(Name, Option<u8>), PortObserved>>,
    ready: bool,
}

impl ViewInner {
    /// Returns an entry with the ports of its bridge.
    fn with_current_ports(&self, entry: &Arc<Entry>) -> Arc<Entry> {
        let ports = self.ports.get(entry.spec.name());
        match ports.filter(|_| entry.spec.kind() == Kind::Bridge) {
            Some(ports) => entry.with_ports(ports.values().cloned().collect()),
            None => entry.clone(),
        }
    }

    fn remove(&mut self, resource: &ResourceRef) {
        let entries = self.kinds.entry(resource.kind).or_default();
        let Some(old) = entries.remove(&resource.name) else {
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
        let known = self.get(resource.kind, &resource.name);
        // Most entries are unchanged, and replacing them would fragment the heap.
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
        let entries = self.kinds.entry(resource.kind).or_default();
        entries.insert(resource.name, Arc::new(entry));
    }

    fn get(&self, kind: Kind, name: &Name) -> Option<&Arc<Entry>> {
        self.kinds.get(&kind)?.get(name)
    }
}

impl View {
    /// Returns a resource.
    pub fn get(&self, kind: Kind, name: &Name) -> Option<Arc<Entry>> {
        let inner = self.read();
        inner
            .get(kind, name)
            .map(|entry| inner.with_current_ports(entry))
    }

    /// Returns at most `limit` resources of a kind that pass the filter, sorted by name, with names
    /// after `after`; and true if there are more.
    pub fn list(
        &self,
        kind: Kind,
        after: Option<&Name>,
        limit: usize,
        filter: impl Fn(&Entry) -> bool,
    ) -> (Vec<Arc<Entry>>, bool) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let inner = self.read();
        let entries = inner.kinds.get(&kind).into_iter();
        let mut found = entries
            .flat_map(|entries| entries.range((from, Bound::Unbounded)))
            .map(|(_, entry)| entry)
            .filter(|entry| filter(entry));
        let page: Vec<_> = found
            .by_ref()
            .take(limit)
            .map(|entry| inner.with_current_ports(entry))
            .collect();
        (page, found.next().is_some())
    }

    /// Returns the resources that pass the filter as they are at one moment, in the order of kind
    /// and name, bridges without their ports.
    pub fn all(&self, filter: impl Fn(&Entry) -> bool) -> Vec<Arc<Entry>> {
        let inner = self.read();
        let entries = inner.kinds.values().flat_map(BTreeMap::values);
        entries.filter(|entry| filter(entry)).cloned().collect()
    }

    /// Returns true if everything recorded has been compared with the kernel since the start.
    pub fn ready(&self) -> bool {
        self.read().ready
    }

    /// Waits until everything recorded has been compared with the kernel.
    pub async fn wait_ready(&self) {
        let became = self.became_ready.notified();
        tokio::pin!(became);
        // Enabled before the check, so that no notification is lost in between.
        became.as_mut().enable();
        if !self.ready() {
            became.await;
        }
    }

    /// Counts the resources that a caller can access by state.
    pub fn states(&self, caller: &Caller) -> BTreeMap<State, usize> {
        let mut counts = BTreeMap::from(State::ALL.map(|state| (state, 0)));
        let all = self.read();
        let within = |entry: &&Arc<Entry>| caller.can_access(entry.spec.name().as_str());
        for entry in all.kinds.values().flat_map(BTreeMap::values).filter(within) {
            *counts.entry(entry.state).or_default() += 1;
        }
        counts
    }

    /// Counts the resources of each kind by state; states without any are left out.
    pub fn states_by_kind(&self) -> Vec<(Kind, BTreeMap<State, usize>)> {
        let inner = self.read();
        let count = |kind: Kind| {
            let mut counts = BTreeMap::new();
            for entry in inner
                .kinds
                .get(&kind)
                .into_iter()
                .flat_map(BTreeMap::values)
            {
                *counts.entry(entry.state).or_default() += 1;
            }
            (kind, counts)
        };
        Kind::ALL.map(count).into()
    }

    /// Replaces entries, and removes those of deleted resources.
    pub(super) fn publish(&self, entries: Vec<Entry>, deleted: &[ResourceRef]) {
        let mut inner = self.write();
        for resource in deleted {
            inner.remove(resource);
        }
        for entry in entries {
            inner.insert(entry);
        }
    }

    pub(super) fn set_ready(&self) {
        self.write().ready = true;
        self.became_ready.notify_waiters();
    }

    fn read(&self) -> RwLockReadGuard<'_, ViewInner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, ViewInner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}
