//! Who refers to whom, who has which device name and which address.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netnsd_api::{Name, ResourceRef, is_link_local};

use super::{interfaces, references, segment};
use crate::{engine::Spec, kernel::Ns};

/// Who claims what. While a change of many resources is being weighed two may claim the same.
type Claims<K> = BTreeMap<K, BTreeSet<ResourceRef>>;

/// The indices over everything recorded, so that a check never walks the world.
#[derive(Debug, Default)]
pub(super) struct Index {
    dependents: Claims<ResourceRef>,
    interfaces: Claims<(Ns, String)>,
    addresses: Claims<(Ns, IpAddr)>,
    segments: Claims<(Name, IpAddr)>,
}

impl Index {
    pub(super) fn dependents(&self, resource: &ResourceRef) -> Vec<ResourceRef> {
        self.dependents.get(resource).into_iter().flatten().cloned().collect()
    }

    /// Who has a device of this name.
    pub(super) fn owner(&self, ns: &Ns, device: &str) -> Option<&ResourceRef> {
        self.interfaces.get(&(ns.clone(), device.to_owned()))?.first()
    }

    /// Who, but for `me`, has a device of this name.
    pub(super) fn interface(&self, ns: &Ns, device: &str, me: &ResourceRef) -> Option<&ResourceRef> {
        another(&self.interfaces, &(ns.clone(), device.to_owned()), me)
    }

    /// Who, but for `me`, has this address in a namespace.
    pub(super) fn address(&self, ns: &Ns, address: IpAddr, me: &ResourceRef) -> Option<&ResourceRef> {
        another(&self.addresses, &(ns.clone(), address), me)
    }

    /// Who, but for `me`, has this address on a bridge.
    pub(super) fn segment_address(&self, bridge: &Name, address: IpAddr, me: &ResourceRef) -> Option<&ResourceRef> {
        another(&self.segments, &(bridge.clone(), address), me)
    }

    pub(super) fn insert(&mut self, resource: &ResourceRef, spec: &Spec) {
        for target in references(spec) {
            self.dependents.entry(target).or_default().insert(resource.clone());
        }
        for key in interfaces(spec) {
            self.interfaces.entry(key).or_default().insert(resource.clone());
        }
        for (ns, bridge, address) in addresses(spec) {
            self.addresses.entry((ns, address)).or_default().insert(resource.clone());
            if let Some(bridge) = bridge {
                self.segments.entry((bridge, address)).or_default().insert(resource.clone());
            }
        }
    }

    pub(super) fn remove(&mut self, resource: &ResourceRef, spec: &Spec) {
        for target in references(spec) {
            take(&mut self.dependents, &target, resource);
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

fn another<'c, K: Ord>(claims: &'c Claims<K>, key: &K, me: &ResourceRef) -> Option<&'c ResourceRef> {
    claims.get(key)?.iter().find(|owner| *owner != me)
}

/// Takes a claim back.
fn take<K: Ord>(claims: &mut Claims<K>, key: &K, resource: &ResourceRef) {
    if let Some(owners) = claims.get_mut(key) {
        owners.remove(resource);
        if owners.is_empty() {
            claims.remove(key);
        }
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
