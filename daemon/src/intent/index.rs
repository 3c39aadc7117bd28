//! Indices over the records: references, device names, addresses, ids.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
};

use netnsd_api::{
    Base, InterfaceAddress, Kind, Mac, Name, Namespace, NetnsId, ResourceRef, is_link_local,
};

use super::segment;
use crate::{
    kernel::Ns,
    model::{
        Record, Spec, SpecOf,
        auto_name::{self, Numbers},
    },
};

/// Owners of each key. There is one, except while a change of many resources is validated.
type Claims<K> = BTreeMap<K, Vec<ResourceRef>>;

/// Indices, so that no check iterates over all records.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Pairs of a resource and one that refers to it.
    dependents: BTreeSet<(ResourceRef, ResourceRef)>,
    interfaces: Claims<(Ns, String)>,
    /// Resources on each device.
    uppers: Claims<(Ns, String)>,
    /// Resources whose own packets use the addresses and routes of each namespace.
    tunnels: Claims<Ns>,
    addresses: Claims<(Ns, IpAddr)>,
    segments: Claims<(Name, IpAddr)>,
    /// Explicit ids of namespaces.
    netnsids: Claims<u32>,
    /// Automatic names that are taken: those of devices, and those of veth pairs.
    devices: BTreeMap<Ns, Numbers>,
    pairs: Numbers,
    /// Number of devices that have, or ask for, each MAC address.
    macs: BTreeMap<Mac, u32>,
}

impl Index {
    pub(super) fn dependents(&self, resource: &ResourceRef) -> Vec<ResourceRef> {
        let first = ResourceRef::new(Kind::ALL[0], Name::unset());
        let from_first = self.dependents.range((resource.clone(), first)..);
        from_first
            .take_while(|(target, _)| target == resource)
            .map(|(_, dependent)| dependent.clone())
            .collect()
    }

    /// Returns the owner of a device.
    pub(super) fn owner(&self, ns: &Ns, device: &str) -> Option<&ResourceRef> {
        self.interfaces
            .get(&(ns.clone(), device.to_owned()))?
            .first()
    }

    /// Returns the resources on a device.
    pub(super) fn uppers(&self, ns: &Ns, device: &str) -> &[ResourceRef] {
        if self.uppers.is_empty() {
            return &[];
        }
        let key = (ns.clone(), device.to_owned());
        self.uppers.get(&key).map_or(&[], Vec::as_slice)
    }

    /// Returns the resources whose own packets use the addresses and routes of a namespace.
    pub(super) fn tunnels(&self, ns: &Ns) -> &[ResourceRef] {
        self.tunnels.get(ns).map_or(&[], Vec::as_slice)
    }

    /// The devices in a namespace.
    pub(super) fn devices_in(&self, ns: &Ns) -> impl Iterator<Item = &str> {
        let from_first = self.interfaces.range((ns.clone(), String::new())..);
        from_first
            .take_while(move |((of, _), _)| of == ns)
            .map(|((_, device), _)| device.as_str())
    }

    /// Returns an owner of a device other than `me`.
    pub(super) fn interface(
        &self,
        ns: &Ns,
        device: &str,
        me: &ResourceRef,
    ) -> Option<&ResourceRef> {
        another(&self.interfaces, &(ns.clone(), device.to_owned()), me)
    }

    /// Returns an owner of an address in a namespace other than `me`.
    pub(super) fn address(
        &self,
        ns: &Ns,
        address: IpAddr,
        me: &ResourceRef,
    ) -> Option<&ResourceRef> {
        another(&self.addresses, &(ns.clone(), address), me)
    }

    /// Returns an owner of an address on a bridge's segment other than `me`.
    pub(super) fn segment_address(
        &self,
        bridge: &Name,
        address: IpAddr,
        me: &ResourceRef,
    ) -> Option<&ResourceRef> {
        another(&self.segments, &(bridge.clone(), address), me)
    }

    /// Returns the namespace, other than `me`, that asks for this netnsid.
    pub(super) fn netnsid(&self, id: u32, me: &ResourceRef) -> Option<&ResourceRef> {
        another(&self.netnsids, &id, me)
    }

    /// Automatic names that no device of a namespace has, from the first on.
    pub(super) fn free_devices(&self, ns: &Ns) -> impl Iterator<Item = String> {
        self.devices
            .get(ns)
            .unwrap_or(&auto_name::NONE)
            .free()
            .map(auto_name::name)
    }

    /// Automatic names that no veth pair has, from the first on.
    pub(super) fn free_pairs(&self) -> impl Iterator<Item = String> {
        self.pairs.free().map(auto_name::name)
    }

    /// Returns true if a resource has this MAC address recorded, or asks for it.
    pub(super) fn has_mac(&self, mac: Mac) -> bool {
        self.macs.contains_key(&mac)
    }

    pub(super) fn insert(&mut self, resource: &ResourceRef, record: &Record) {
        let spec = &*record.spec;
        for mac in macs(record) {
            *self.macs.entry(mac).or_default() += 1;
        }
        if let (Kind::Veth, Some(number)) =
            (resource.kind, auto_name::number(resource.name.as_str()))
        {
            self.pairs.insert(number);
        }
        for target in spec.references() {
            self.dependents.insert((target, resource.clone()));
        }
        for key in spec.devices().map(|device| device.location()) {
            if let Some(number) = auto_name::number(&key.1) {
                self.devices
                    .entry(key.0.clone())
                    .or_default()
                    .insert(number);
            }
            claim(&mut self.interfaces, key, resource);
        }
        if let Some((ns, device)) = spec.lower() {
            claim(&mut self.uppers, (ns, device.to_owned()), resource);
        }
        if let Some(ns) = underlay(spec) {
            claim(&mut self.tunnels, ns, resource);
        }
        if let Some(id) = explicit_netnsid(spec) {
            claim(&mut self.netnsids, id, resource);
        }
        for (ns, bridge, address) in addresses(spec) {
            claim(&mut self.addresses, (ns, address), resource);
            if let Some(bridge) = bridge {
                claim(&mut self.segments, (bridge, address), resource);
            }
        }
    }

    pub(super) fn remove(&mut self, resource: &ResourceRef, record: &Record) {
        let spec = &*record.spec;
        for mac in macs(record) {
            if let Entry::Occupied(mut count) = self.macs.entry(mac) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
        if let (Kind::Veth, Some(number)) =
            (resource.kind, auto_name::number(resource.name.as_str()))
        {
            self.pairs.remove(number);
        }
        for target in spec.references() {
            self.dependents.remove(&(target, resource.clone()));
        }
        for key in spec.devices().map(|device| device.location()) {
            take(&mut self.interfaces, &key, resource);
            self.free_device(&key);
        }
        if let Some((ns, device)) = spec.lower() {
            take(&mut self.uppers, &(ns, device.to_owned()), resource);
        }
        if let Some(ns) = underlay(spec) {
            take(&mut self.tunnels, &ns, resource);
        }
        if let Some(id) = explicit_netnsid(spec) {
            take(&mut self.netnsids, &id, resource);
        }
        for (ns, bridge, address) in addresses(spec) {
            take(&mut self.addresses, &(ns, address), resource);
            if let Some(bridge) = bridge {
                take(&mut self.segments, &(bridge, address), resource);
            }
        }
    }

    /// Notes that a device's name is free, once nobody claims it.
    fn free_device(&mut self, key: &(Ns, String)) {
        let Some(number) = auto_name::number(&key.1).filter(|_| !self.interfaces.contains_key(key))
        else {
            return;
        };
        if let Some(numbers) = self.devices.get_mut(&key.0) {
            numbers.remove(number);
            if numbers.is_empty() {
                self.devices.remove(&key.0);
            }
        }
    }
}

fn another<'c, K: Ord>(
    claims: &'c Claims<K>,
    key: &K,
    me: &ResourceRef,
) -> Option<&'c ResourceRef> {
    claims.get(key)?.iter().find(|owner| *owner != me)
}

fn claim<K: Ord>(claims: &mut Claims<K>, key: K, resource: &ResourceRef) {
    // Room for one: there are many keys, and hardly ever two who claim the same.
    let owners = claims.entry(key).or_insert_with(|| Vec::with_capacity(1));
    if !owners.contains(resource) {
        owners.push(resource.clone());
    }
}

/// Takes a claim back.
fn take<K: Ord>(claims: &mut Claims<K>, key: &K, resource: &ResourceRef) {
    if let Some(owners) = claims.get_mut(key) {
        owners.retain(|owner| owner != resource);
        if owners.is_empty() {
            claims.remove(key);
        }
    }
}

/// MAC addresses that a resource has recorded or asks for.
fn macs(record: &Record) -> impl Iterator<Item = Mac> {
    record
        .macs
        .iter()
        .copied()
        .chain(record.spec.devices().filter_map(|device| device.mac))
}

/// Returns the namespace whose addresses and routes a resource's own packets use.
fn underlay(spec: &Spec) -> Option<Ns> {
    match spec.base() {
        Base::Underlay { namespace, .. } => Some(Ns::of(namespace)),
        Base::Alone | Base::Lower(_) => None,
    }
}

/// Returns the netnsid that a namespace asks for by number.
fn explicit_netnsid(spec: &Spec) -> Option<u32> {
    match Namespace::of(spec)?.netnsid? {
        NetnsId::Id(id) => Some(id),
        NetnsId::Auto => None,
    }
}

/// Each address of a spec: where it is, and on which bridge's segment. Link-local ones may be on
/// many links.
fn addresses(spec: &Spec) -> Vec<(Ns, Option<Name>, IpAddr)> {
    let mut found = Vec::new();
    for device in spec.devices() {
        let (ns, bridge) = (device.ns(), segment(spec, device.end));
        let addresses = device.addresses.iter().map(InterfaceAddress::ip);
        found.extend(
            addresses
                .filter(|address| !is_link_local(*address))
                .map(|address| (ns.clone(), bridge.cloned(), address)),
        );
    }
    if let Some(namespace) = Namespace::of(spec) {
        let ns = Ns::Named(namespace.name.clone());
        let addresses = namespace.addresses.iter().map(InterfaceAddress::ip);
        found.extend(
            addresses
                .filter(|address| !is_link_local(*address))
                .map(|address| (ns.clone(), None, address)),
        );
    }
    found
}
