//! Who refers to whom, who has which device name and which address.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netnsd_api::{Name, ResourceRef, is_link_local};

use super::{interfaces, references, segment};
use crate::{engine::Spec, kernel::Ns};

/// The indices over everything recorded, so that a check never walks the world.
#[derive(Debug, Default)]
pub(super) struct Index {
    dependents: BTreeMap<ResourceRef, BTreeSet<ResourceRef>>,
    interfaces: BTreeMap<(Ns, String), ResourceRef>,
    addresses: BTreeMap<(Ns, IpAddr), ResourceRef>,
    segments: BTreeMap<(Name, IpAddr), ResourceRef>,
}

impl Index {
    pub(super) fn dependents(&self, resource: &ResourceRef) -> Vec<ResourceRef> {
        self.dependents.get(resource).into_iter().flatten().cloned().collect()
    }

    pub(super) fn interface(&self, ns: &Ns, device: &str) -> Option<&ResourceRef> {
        self.interfaces.get(&(ns.clone(), device.to_owned()))
    }

    pub(super) fn address(&self, ns: &Ns, address: IpAddr) -> Option<&ResourceRef> {
        self.addresses.get(&(ns.clone(), address))
    }

    pub(super) fn segment_address(&self, bridge: &Name, address: IpAddr) -> Option<&ResourceRef> {
        self.segments.get(&(bridge.clone(), address))
    }

    pub(super) fn insert(&mut self, resource: &ResourceRef, spec: &Spec) {
        for target in references(spec) {
            self.dependents.entry(target).or_default().insert(resource.clone());
        }
        for key in interfaces(spec) {
            self.interfaces.insert(key, resource.clone());
        }
        for (ns, bridge, address) in addresses(spec) {
            self.addresses.insert((ns, address), resource.clone());
            if let Some(bridge) = bridge {
                self.segments.insert((bridge, address), resource.clone());
            }
        }
    }

    pub(super) fn remove(&mut self, resource: &ResourceRef, spec: &Spec) {
        for target in references(spec) {
            if let Some(set) = self.dependents.get_mut(&target) {
                set.remove(resource);
                if set.is_empty() {
                    self.dependents.remove(&target);
                }
            }
        }
        for key in interfaces(spec) {
            take(&mut self.interfaces, &key, resource);
        }
        for (ns, bridge, address) in addresses(spec) {
            take(&mut self.addresses, &(ns, address), resource);
            if let Some(bridge) = bridge {
                take(&mut self.segments, &(bridge, address), resource);
            }
        }
    }
}

/// Takes a claim back, unless another has it by now.
fn take<K: Ord>(map: &mut BTreeMap<K, ResourceRef>, key: &K, resource: &ResourceRef) {
    if map.get(key) == Some(resource) {
        map.remove(key);
    }
}

/// Each address of a spec: where it is, and on which bridge's segment. Link-local ones may be on many links.
fn addresses(spec: &Spec) -> Vec<(Ns, Option<Name>, IpAddr)> {
    let all: Vec<(Ns, Option<Name>, IpAddr)> = match spec {
        Spec::Namespace(_) => Vec::new(),
        Spec::Bridge(bridge) => {
            let place = (Ns::of(bridge.namespace.as_ref()), Some(bridge.name.clone()));
            bridge.addresses.iter().map(|address| (place.0.clone(), place.1.clone(), address.0.addr())).collect()
        }
        Spec::Veth(veth) => {
            let of_end = |i: usize| {
                let end = &veth.endpoints[i];
                let (ns, segment) = (Ns::of(end.namespace.as_ref()), segment(veth, i).cloned());
                end.addresses.iter().map(move |address| (ns.clone(), segment.clone(), address.0.addr()))
            };
            of_end(0).chain(of_end(1)).collect()
        }
    };
    all.into_iter().filter(|(_, _, address)| !is_link_local(*address)).collect()
}
