//! Index of netnsd's devices in the kernel: where each was last seen, and whose it is.

use std::collections::BTreeMap;

use netnsd_api::ResourceRef;

use crate::{
    kernel::{Device, LOOPBACK, Ns, Observed, ownership},
    model::Spec,
};

/// Devices that were last seen for each resource.
#[derive(Debug, Default)]
pub(super) struct DeviceIndex {
    /// Maps namespace and ifindex to the owner: `RTM_NEWADDR` carries no link name.
    owners: BTreeMap<(Ns, u32), ResourceRef>,
    devices: BTreeMap<ResourceRef, Vec<Device>>,
    /// Bridges whose MTU netnsd keeps at the lowest of their ports, and their namespaces.
    mtu_followers: BTreeMap<ResourceRef, Ns>,
}

impl DeviceIndex {
    /// Returns the devices of a resource as they were last seen.
    pub fn devices(&self, resource: &ResourceRef) -> &[Device] {
        self.devices.get(resource).map_or(&[], Vec::as_slice)
    }

    /// Returns the resource that owns the device of this ifindex.
    pub fn owner(&self, ns: &Ns, index: u32) -> Option<&ResourceRef> {
        self.owners.get(&(ns.clone(), index))
    }

    /// Updates the devices of a resource from an observation.
    pub fn update(&mut self, resource: &ResourceRef, spec: &Spec, observed: &Observed) {
        let known = self.devices(resource);
        let interfaces = match spec {
            Spec::Namespace(spec) => vec![(Ns::Named(spec.name.clone()), "lo".to_owned())],
            Spec::Bridge(_) | Spec::Veth(_) | Spec::Link(_) => {
                spec.devices().map(|device| device.location()).collect()
            }
        };
        let devices: Vec<Device> = interfaces
            .into_iter()
            .filter_map(|(ns, name)| find_own_device(resource, ns, &name, known, observed))
            .collect();
        let is_indexed = |device: &Device| self.owner(&device.ns, device.index) == Some(resource);
        if self.devices.get(resource) == Some(&devices) && devices.iter().all(is_indexed) {
            return;
        }
        self.forget_devices(resource);
        for device in &devices {
            let key = (device.ns.clone(), device.index);
            self.owners.insert(key, resource.clone());
        }
        self.devices.insert(resource.clone(), devices);
    }

    /// Forgets a resource that is out of the kernel.
    pub fn forget(&mut self, resource: &ResourceRef) {
        self.forget_devices(resource);
        self.mtu_followers.remove(resource);
    }

    fn forget_devices(&mut self, resource: &ResourceRef) {
        for device in self.devices.remove(resource).unwrap_or_default() {
            let key = (device.ns, device.index);
            if self.owners.get(&key) == Some(resource) {
                self.owners.remove(&key);
            }
        }
    }

    /// Sets the intent of a bridge whose MTU follows its ports; `None` if it does not.
    pub fn set_mtu_follower(&mut self, resource: &ResourceRef, spec: Option<&Spec>) {
        let ns = spec
            .and_then(|spec| spec.devices().next())
            .map(|device| device.ns());
        match ns {
            Some(ns) => self.mtu_followers.insert(resource.clone(), ns),
            None => self.mtu_followers.remove(resource),
        };
    }

    /// Returns true if netnsd keeps the MTU of this bridge at the lowest of its ports.
    pub fn is_mtu_follower(&self, resource: &ResourceRef) -> bool {
        self.mtu_followers.contains_key(resource)
    }

    /// Returns the bridges of a namespace whose MTU follows their ports.
    pub fn mtu_followers_in<'a>(&'a self, ns: &'a Ns) -> impl Iterator<Item = &'a ResourceRef> {
        self.mtu_followers
            .iter()
            .filter(move |(_, of)| *of == ns)
            .map(|(bridge, _)| bridge)
    }
}

/// Returns the device of this name if it is the resource's: by its owner tag or, if it has none,
/// because it was the resource's before.
fn find_own_device(
    resource: &ResourceRef,
    ns: Ns,
    name: &str,
    known: &[Device],
    observed: &Observed,
) -> Option<Device> {
    let inside = observed.namespaces.get(&ns)?;
    let (index, owner_tag) = match name {
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
        None => known.contains(&device),
    };
    is_own.then_some(device)
}
