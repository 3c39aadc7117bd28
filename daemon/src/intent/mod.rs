//! The network as it should be, in memory: references, uniqueness, what depends on what. Pure.
//!
//! [`Intent::decide`] tells what a write would change, or why it may not; [`Intent::set`] makes one
//! change and keeps the indices, also to take a change back.

mod automatic;
mod check;
mod decide;
mod index;
mod macs;
#[cfg(test)]
mod tests;
mod topology;

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use netnsd_api::{Kind, Mac, Name, Namespace, ResourceRef, SysctlKey, SysctlValue, Veth};

use self::index::Index;
pub use self::macs::{MachineKey, asked_macs};
use crate::{
    engine::{Did, Spec},
    kernel::Ns,
    store::Row,
};

/// One resource as it should be, and what is left of how it should have been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its identity.
    pub uid: String,
    /// Its generation.
    pub generation: u64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its intent last changed.
    pub updated_at: Timestamp,
    /// What is asked for.
    pub spec: Arc<Spec>,
    /// Earlier intents that may still be in the kernel.
    pub applied: Vec<Spec>,
    /// Sysctls' values before netnsd set them.
    pub prior: BTreeMap<SysctlKey, String>,
    /// Whether what others made at its places is taken over; until that is done.
    pub adopt: bool,
    /// The addresses of its devices where it asks for none, one for each end.
    pub macs: Vec<Mac>,
    /// True until the addresses that its devices have in the kernel are recorded, of a resource
    /// from before they were.
    pub keep_macs: bool,
}

impl Record {
    /// The row that records it.
    pub fn row(&self) -> Row {
        Row {
            uid: self.uid.clone(),
            kind: self.spec.kind(),
            name: self.spec.name().clone(),
            generation: self.generation,
            created_at: self.created_at,
            updated_at: self.updated_at,
            desired: Some(self.spec.clone()),
            applied: self.applied.clone(),
            prior: self.prior.clone(),
            adopt: self.adopt,
            macs: if self.keep_macs {
                Vec::new()
            } else {
                self.macs.clone()
            },
        }
    }
}

/// What a record keeps of how things were, and not of how they should be.
#[derive(Debug)]
#[allow(missing_docs, reason = "named as the record's fields")]
pub struct Leftovers<'a> {
    pub applied: &'a mut Vec<Spec>,
    pub prior: &'a mut BTreeMap<SysctlKey, String>,
    pub adopt: &'a mut bool,
    pub keep_macs: &'a mut bool,
}

/// What a write would change.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The resources that the write names, and what happens to each.
    pub named: Vec<(ResourceRef, Did)>,
    /// Each change: the resource, and what becomes of it.
    pub changes: Vec<(ResourceRef, Option<Record>)>,
}

/// Everything recorded.
#[derive(Debug, Default)]
pub struct Intent {
    key: MachineKey,
    records: [BTreeMap<Name, Record>; 3],
    index: Index,
}

impl Intent {
    /// Nothing recorded, on the machine with this key.
    pub fn new(key: MachineKey) -> Self {
        Self {
            key,
            ..Self::default()
        }
    }

    /// One resource.
    pub fn get(&self, resource: &ResourceRef) -> Option<&Record> {
        self.records[resource.kind as usize].get(&resource.name)
    }

    /// What is asked for of one resource.
    pub fn spec(&self, resource: &ResourceRef) -> Option<&Spec> {
        self.get(resource).map(|record| &*record.spec)
    }

    /// One resource, to note what is left of earlier intents; its intent itself is changed by
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

    /// Notes the addresses that a resource's devices have where it asks for none.
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

    /// Derives addresses for a resource, which no other has recorded or asks for.
    pub fn derive_macs(&self, spec: &Spec) -> Vec<Mac> {
        macs::derive_macs(&self.key, spec, |mac| self.index.has_mac(mac))
    }

    /// Every resource, in the order of [`Kind`] and name.
    pub fn all(&self) -> impl Iterator<Item = (ResourceRef, &Record)> {
        Kind::ALL.into_iter().flat_map(|kind| {
            self.records[kind as usize]
                .iter()
                .map(move |(name, record)| (ResourceRef::new(kind, name.clone()), record))
        })
    }

    /// Namespaces, and what lives in none: with the dependents of the namespaces it is everything.
    /// In order.
    pub fn leading(&self) -> impl Iterator<Item = (Kind, &Name)> {
        let leads = |kind, record: &Record| {
            kind == Kind::Namespace || namespaces_of(&record.spec).is_empty()
        };
        Kind::ALL.into_iter().flat_map(move |kind| {
            let records = self.records[kind as usize].iter();
            records
                .filter(move |(_, record)| leads(kind, record))
                .map(move |(name, _)| (kind, name))
        })
    }

    /// How many resources there are.
    pub fn count(&self) -> usize {
        self.records.iter().map(BTreeMap::len).sum()
    }

    /// Puts a record in the place of what was there (none takes it away), and gives back what was
    /// there.
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

    /// The device of a bridge resource.
    pub fn bridge_device(&self, bridge: &Name) -> Option<String> {
        match &*self.records[Kind::Bridge as usize].get(bridge)?.spec {
            Spec::Bridge(spec) => Some(spec.device().to_owned()),
            _ => None,
        }
    }

    /// Whose device this is.
    pub fn owner(&self, ns: &Ns, device: &str) -> Option<ResourceRef> {
        self.index.owner(ns, device).cloned()
    }

    /// The devices that are asked for in a namespace.
    pub fn devices_in(&self, ns: &Ns) -> Vec<String> {
        self.index.devices_in(ns).map(str::to_owned).collect()
    }

    /// Resources that refer to this one, sorted.
    pub fn dependents(&self, resource: &ResourceRef) -> Vec<ResourceRef> {
        self.index.dependents(resource)
    }
}

/// Returns true if a device or pair has a name of those that netnsd chooses.
pub fn is_automatic(name: &str) -> bool {
    automatic::number(name).is_some()
}

/// The bridge on whose segment an end's addresses are: its own, or the one that its other end is a
/// port of.
fn segment(veth: &Veth, end: usize) -> Option<&Name> {
    veth.endpoints[end]
        .bridge
        .as_ref()
        .or(veth.endpoints[1 - end].bridge.as_ref())
}

/// The namespaces that a spec lives in.
pub fn namespaces_of(spec: &Spec) -> Vec<&Name> {
    match spec {
        Spec::Namespace(Namespace { name, .. }) => vec![name],
        Spec::Bridge(bridge) => bridge.namespace.iter().collect(),
        Spec::Veth(veth) => veth
            .endpoints
            .iter()
            .filter_map(|end| end.namespace.as_ref())
            .collect(),
    }
}

/// The sysctls that switch IPv6 on or off.
pub fn ipv6_switches(spec: &Namespace) -> impl Iterator<Item = (&SysctlKey, &SysctlValue)> {
    spec.sysctls
        .iter()
        .filter(|(key, _)| key.is_ipv6() && key.setting() == "disable_ipv6")
}

/// The bridges that a spec's ends are ports of.
pub fn bridges_of(spec: &Spec) -> Vec<&Name> {
    match spec {
        Spec::Veth(veth) => veth
            .endpoints
            .iter()
            .filter_map(|end| end.bridge.as_ref())
            .collect(),
        _ => Vec::new(),
    }
}

/// The resources that a spec refers to.
pub fn references(spec: &Spec) -> Vec<ResourceRef> {
    let namespaces = match spec {
        Spec::Namespace(_) => Vec::new(),
        other => namespaces_of(other),
    };
    let mut found: Vec<ResourceRef> = namespaces
        .into_iter()
        .map(|name| ResourceRef::new(Kind::Namespace, name.clone()))
        .chain(
            bridges_of(spec)
                .into_iter()
                .map(|name| ResourceRef::new(Kind::Bridge, name.clone())),
        )
        .collect();
    found.sort();
    found.dedup();
    found
}

/// The devices that a spec claims.
pub fn interfaces(spec: &Spec) -> Vec<(Ns, String)> {
    match spec {
        Spec::Namespace(_) => Vec::new(),
        Spec::Bridge(bridge) => vec![(
            Ns::of(bridge.namespace.as_ref()),
            bridge.device().to_owned(),
        )],
        Spec::Veth(veth) => veth
            .endpoints
            .iter()
            .map(|end| (Ns::of(end.namespace.as_ref()), end.device().to_owned()))
            .collect(),
    }
}
