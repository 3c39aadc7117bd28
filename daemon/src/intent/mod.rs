//! Intent: the recorded network, in memory, with indices.
//!
//! [`Intent::validate_write`] validates a write; [`Intent::set`] makes one change and keeps the
//! indices, also to roll a change back. Pure.

mod check;
mod decide;
mod error;
mod index;
mod macs;
#[cfg(test)]
mod tests;
mod topology;

use std::collections::BTreeMap;

use netnsd_api::{Kind, Mac, Name, ResourceRef};

use self::index::Index;
pub use self::{decide::Proposal, error::IntentError};
use crate::{
    kernel::Ns,
    model::{BridgeDevice, Leftovers, MachineKey, Record, Spec},
};

/// All records.
#[derive(Debug, Default)]
pub struct Intent {
    key: MachineKey,
    records: [BTreeMap<Name, Record>; Kind::ALL.len()],
    index: Index,
}

impl Intent {
    /// Creates an intent without records, on the machine with this key.
    pub fn new(key: MachineKey) -> Self {
        Self {
            key,
            ..Self::default()
        }
    }

    /// Returns the record of a resource.
    pub fn get(&self, resource: &ResourceRef) -> Option<&Record> {
        self.records[resource.kind as usize].get(&resource.name)
    }

    /// Returns the intent of a resource.
    pub fn spec(&self, resource: &ResourceRef) -> Option<&Spec> {
        self.get(resource).map(|record| &*record.spec)
    }

    /// Returns the traces of earlier intents in a record; the intent itself is changed by
    /// [`Intent::set`] only.
    pub fn leftovers_mut(&mut self, resource: &ResourceRef) -> Option<Leftovers<'_>> {
        let Record {
            applied,
            prior,
            adopt,
            keep_macs,
            ..
        } = self.records[resource.kind as usize].get_mut(&resource.name)?;
        Some(Leftovers {
            applied,
            prior,
            adopt,
            keep_macs,
        })
    }

    /// Records the MAC addresses of a resource's devices.
    pub fn set_macs(&mut self, resource: &ResourceRef, macs: &[Mac]) {
        if let Some(record) = self
            .get(resource)
            .filter(|record| record.macs != macs)
            .cloned()
        {
            self.set(
                resource,
                Some(Record {
                    macs: macs.to_vec(),
                    ..record
                }),
            );
        }
    }

    /// Derives MAC addresses for a resource that no other resource has or asks for.
    pub fn derive_macs(&self, spec: &Spec) -> Vec<Mac> {
        macs::derive_macs(&self.key, spec, |mac| self.index.has_mac(mac))
    }

    /// Iterates over all records in the order of kind and name.
    pub fn all(&self) -> impl Iterator<Item = (ResourceRef, &Record)> {
        Kind::ALL.into_iter().flat_map(|kind| {
            self.records[kind as usize]
                .iter()
                .map(move |(name, record)| (ResourceRef::new(kind, name.clone()), record))
        })
    }

    /// Iterates over namespaces, and resources that are in none, in order. With the dependents of
    /// the namespaces they are all resources.
    pub fn leading(&self) -> impl Iterator<Item = (Kind, &Name)> {
        let leads =
            |kind, record: &Record| kind == Kind::Namespace || record.spec.namespaces().is_empty();
        Kind::ALL.into_iter().flat_map(move |kind| {
            let records = self.records[kind as usize].iter();
            records
                .filter(move |(_, record)| leads(kind, record))
                .map(move |(name, _)| (kind, name))
        })
    }

    /// Returns the number of records.
    pub fn count(&self) -> usize {
        self.records.iter().map(BTreeMap::len).sum()
    }

    /// Replaces the record of a resource (`None` deletes it), and returns the previous one.
    pub fn set(&mut self, resource: &ResourceRef, record: Option<Record>) -> Option<Record> {
        let records = &mut self.records[resource.kind as usize];
        let before = match record {
            Some(record) => {
                let before = records.insert(resource.name.clone(), record);
                if let Some(before) = &before {
                    self.index.remove(resource, before);
                }
                before
            }
            None => {
                let before = records.remove(&resource.name)?;
                self.index.remove(resource, &before);
                Some(before)
            }
        };
        if let Some(record) = self.records[resource.kind as usize].get(&resource.name) {
            self.index.insert(resource, record);
        }
        before
    }

    /// Returns the device of a bridge.
    pub fn bridge_device(&self, bridge: &Name) -> Option<BridgeDevice> {
        match &*self.records[Kind::Bridge as usize].get(bridge)?.spec {
            Spec::Bridge(spec) => Some(BridgeDevice::of(spec)),
            _ => None,
        }
    }

    /// Returns the resource that a device belongs to.
    pub fn owner(&self, ns: &Ns, device: &str) -> Option<ResourceRef> {
        self.index.owner(ns, device).cloned()
    }

    /// Returns the names of the recorded devices in a namespace.
    pub fn devices_in(&self, ns: &Ns) -> Vec<String> {
        self.index.devices_in(ns).map(str::to_owned).collect()
    }

    /// Returns the resources on a device.
    pub fn uppers_of_device(&self, ns: &Ns, device: &str) -> &[ResourceRef] {
        self.index.uppers(ns, device)
    }

    /// Returns the resource that has the device which a spec's is on.
    fn lower_owner(&self, spec: &Spec) -> Option<&ResourceRef> {
        let (ns, device) = spec.lower()?;
        self.index.owner(&ns, device)
    }

    /// Returns the resources on the devices of a spec.
    pub fn uppers<'a>(&'a self, spec: &'a Spec) -> impl Iterator<Item = &'a ResourceRef> {
        let devices = spec.devices();
        devices.flat_map(|device| self.index.uppers(&device.ns(), device.name))
    }

    /// Returns the resources on those devices of a deleted spec that no other resource has.
    pub fn uppers_without_lower<'a>(
        &'a self,
        deleted: &'a Spec,
    ) -> impl Iterator<Item = ResourceRef> + 'a {
        let devices = deleted.devices().map(|device| (device.ns(), device.name));
        let orphaned = devices.filter(|(ns, name)| self.index.owner(ns, name).is_none());
        orphaned.flat_map(|(ns, name)| self.index.uppers(&ns, name).to_vec())
    }

    /// Returns the resources whose own packets use the addresses and routes of a namespace.
    pub fn tunnels(&self, ns: &Ns) -> &[ResourceRef] {
        self.index.tunnels(ns)
    }

    /// Returns the resources that cannot be without this one, sorted: those that refer to it, and
    /// those on its devices.
    pub fn users(&self, resource: &ResourceRef) -> Vec<ResourceRef> {
        let mut users = self.dependents(resource);
        if let Some(spec) = self.spec(resource) {
            users.extend(self.uppers(spec).cloned());
        }
        users.sort();
        users.dedup();
        users
    }

    /// Returns the resources that refer to this one, sorted.
    pub fn dependents(&self, resource: &ResourceRef) -> Vec<ResourceRef> {
        self.index.dependents(resource)
    }
}

/// Returns the bridge on whose segment a device's addresses are: itself, the one whose port it is,
/// or the one whose port the other end of its pair is.
fn segment(spec: &Spec, end: usize) -> Option<&Name> {
    if let Spec::Bridge(bridge) = spec {
        return Some(&bridge.name);
    }
    let bridge_of = |end: usize| spec.endpoints().get(end)?.bridge.as_ref();
    bridge_of(end).or_else(|| bridge_of(1 - end))
}
