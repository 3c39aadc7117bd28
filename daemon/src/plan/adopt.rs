//! Adoption: takes over namespaces, bridges and pairs that others made, in place, and releases them
//! as they were found if the kernel refuses the rest of the write.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use netnsd_api::{
    Bridge, Endpoint, Kind, Name, Namespace, NetnsId, Port, ResourceRef, VlanRange, is_link_local,
};

use super::{
    Ownership, Phase, Planner, Task,
    address::{WantedAddress, wanted_addresses},
    place::{device_at, set_owner, settings_change},
    route::{RouteKey, key_of, key_of_known},
};
use crate::{
    kernel::{
        LinkAt, Ns, ObservedAddress, ObservedBridge, ObservedLink, ObservedNs, ObservedPort,
        ObservedRoute, Op, ROUTE_PROTOCOL, ROUTE_PROTOCOL_KERNEL, RouteExtras, ownership,
    },
    links::{DeviceType, PortVlans, SettingsChange, has_vlans},
    model::{DeviceSpec, Spec},
};

/// State of a resource before its adoption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdoptionSnapshot {
    /// Spec with every setting set. Bridges are named by their devices.
    pub spec: Spec,
    /// Owner tag of a deleted record on the namespace, or on each device.
    owner_tags: Vec<Option<String>>,
    /// Protocol and extra attributes of each route of `spec`.
    routes: Vec<(u8, RouteExtras)>,
    /// Devices, in the order of their ends.
    devices: Vec<FoundDevice>,
}

/// State of a device before its adoption, besides its spec.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FoundDevice {
    /// Addresses, without those that the kernel makes itself.
    addresses: Vec<ObservedAddress>,
    /// True if it made no IPv6 link-local address.
    addr_gen_none: bool,
}

impl Task<'_> {
    pub(super) fn is_released(&self) -> bool {
        matches!(self.ownership, Ownership::Release(_))
    }

    /// Returns the protocol of a desired route, by its index.
    pub(super) fn protocol_of(&self, route: usize) -> u8 {
        match self.ownership {
            Ownership::Release(found) => found
                .routes
                .get(route)
                .map(|(protocol, _)| *protocol)
                .unwrap_or_default(),
            _ => ROUTE_PROTOCOL,
        }
    }

    /// Returns the extra attributes of a desired route, by its index.
    pub(super) fn extras_of(&self, route: usize) -> RouteExtras {
        match self.ownership {
            Ownership::Release(found) => found
                .routes
                .get(route)
                .map(|(_, extras)| extras.clone())
                .unwrap_or_default(),
            _ => RouteExtras::default(),
        }
    }

    /// Returns true if the extra attributes of a route are as they should be: a released resource
    /// gets exactly those that it had.
    pub(super) fn keeps_extras(&self, route: usize, known: &ObservedRoute) -> bool {
        match self.ownership {
            Ownership::Release(found) => found
                .routes
                .get(route)
                .is_none_or(|(_, extras)| *extras == known.extras),
            _ => true,
        }
    }

    /// Returns the addresses that a device is to have.
    pub(super) fn addresses_of(&self, device: &DeviceSpec<'_>) -> Vec<WantedAddress> {
        match self.found_device(device) {
            Some(found) => found.addresses.iter().map(WantedAddress::exactly).collect(),
            None => {
                let earlier = self.applied.iter();
                let earlier = earlier
                    .filter_map(|spec| spec.devices().nth(device.end))
                    .map(|device| device.addresses);
                wanted_addresses(device.name, device.addresses, earlier)
            }
        }
    }

    /// Returns true if a device is to make no IPv6 link-local address. A bridge port needs none:
    /// its announcements would be flooded to all ports.
    pub(super) fn addr_gen_none(&self, device: &DeviceSpec<'_>) -> bool {
        self.found_device(device)
            .map_or(device.port.is_some(), |found| found.addr_gen_none)
    }

    /// Returns the state to which a device of a released resource goes back.
    fn found_device(&self, device: &DeviceSpec<'_>) -> Option<&FoundDevice> {
        match self.ownership {
            Ownership::Release(found) => found.devices.get(device.end),
            Ownership::Keep | Ownership::Adopt => None,
        }
    }

    /// Returns true if a device with this tag may be adopted: it has no owner, or the owner's
    /// record was deleted.
    fn may_take(&self, found: Option<&str>, end: usize) -> bool {
        // A namespace that netnsd pins under another name has `alias_of`: any other tag is of a
        // deleted record.
        let may = |owner: (ResourceRef, usize)| {
            self.resource.kind == Kind::Namespace || owner == (self.resource.clone(), end)
        };
        found.and_then(ownership::parse).is_none_or(may)
    }
}

impl Planner<'_> {
    pub(super) fn adopt_namespace(&mut self, task: &Task<'_>, ns: &Ns) {
        let known = self
            .now
            .namespaces
            .get(ns)
            .filter(|known| known.inode != 0 && known.alias_of.is_none());
        let (Some(Spec::Namespace(spec)), Some(known)) = (task.desired, known) else {
            return;
        };
        let was = known.owner_tag.clone();
        if task.ownership != Ownership::Adopt
            || was.as_deref().is_some_and(|tag| task.owns(tag, 0))
            || !task.may_take(was.as_deref(), 0)
        {
            return;
        }
        let found = AdoptionSnapshot {
            spec: Spec::Namespace(found_namespace(spec, known)),
            owner_tags: vec![current(&known.owner_tag)],
            routes: found_routes(spec, known)
                .map(|known| (known.protocol, known.extras.clone()))
                .collect(),
            devices: Vec::new(),
        };
        let owner_tag = Some(task.owner_tag(0));
        self.ns_mut(ns).owner_tag.clone_from(&owner_tag);
        self.adopt(
            task,
            found,
            vec![set_owner(
                &LinkAt::loopback(ns.clone()),
                was,
                owner_tag,
                None,
            )],
        );
    }

    /// Adopts the devices of a resource if all of them are at their locations and of its type, and
    /// the ends of a pair are each other's peers.
    pub(super) fn adopt_devices(&mut self, task: &Task<'_>, spec: &Spec, places: &[LinkAt]) {
        if task.ownership != Ownership::Adopt {
            return;
        }
        let ends = || places.iter().enumerate();
        let here: Vec<bool> = ends()
            .map(|(end, place)| self.is_at(place, task, end))
            .collect();
        if here.iter().all(|here| *here) {
            return;
        }
        let links: Option<Vec<&ObservedLink>> = places
            .iter()
            .map(|place| self.now.link(&place.ns, &place.name))
            .collect();
        let Some(links) = links else {
            return;
        };

        let kind = task.device_type().map(DeviceType::kind);
        let may_take = |(end, link): (usize, &&ObservedLink)| {
            link.kind.as_deref() == kind
                && self.has_base_of(spec, &places[end], link)
                && settings_change(spec, link) == SettingsChange::None
                && (here[end] || task.may_take(link.owner_tag.as_deref(), end))
        };
        if !links.iter().enumerate().all(may_take) || !are_peers(&links) {
            return;
        }
        let found = AdoptionSnapshot {
            spec: found_spec(spec, &links),
            owner_tags: links.iter().map(|link| current(&link.owner_tag)).collect(),
            routes: Vec::new(),
            devices: links.iter().map(|link| found_device(link)).collect(),
        };
        let macs = links.iter().filter_map(|link| link.mac);
        let macs = macs.filter(|_| spec.has_own_macs()).collect();
        let taken: Vec<(usize, &LinkAt)> = ends().filter(|(end, _)| !here[*end]).collect();
        let ops = taken
            .into_iter()
            .map(|(end, place)| {
                let peer = task.is_pair().then(|| places.get(1 - end)).flatten();
                self.adopt_link(place.clone(), task.owner_tag(end), peer)
            })
            .collect();
        self.adopt(task, found, ops);
        self.plan.macs.insert(task.resource.clone(), macs);
    }

    fn adopt_link(&mut self, place: LinkAt, owner_tag: String, peer: Option<&LinkAt>) -> Op {
        let link = self.ns_mut(&place.ns).links.get_mut(&place.name);
        let was = link.and_then(|link| link.owner_tag.replace(owner_tag.clone()));
        set_owner(&place, was, Some(owner_tag), peer)
    }

    fn adopt(&mut self, task: &Task<'_>, found: AdoptionSnapshot, ops: Vec<Op>) {
        for op in ops {
            self.emit(Phase::Adopt, task, op);
        }
        self.plan.found.insert(task.resource.clone(), found);
    }

    /// Removes the owner tags of a released resource.
    pub(super) fn release(&mut self, task: &Task<'_>) {
        let Ownership::Release(found) = task.ownership else {
            return;
        };
        if let Spec::Namespace(spec) = &found.spec {
            return self.release_namespace(task, found, Ns::Named(spec.name.clone()));
        }
        for (device, before) in found.spec.devices().zip(&found.owner_tags) {
            let place = device_at(&device);
            if !self.is_at(&place, task, device.end) {
                continue;
            }
            let link = self.now.link(&place.ns, &place.name);
            let tag = link.and_then(|link| link.owner_tag.clone());
            if tag != *before {
                let op = set_owner(&place, tag, before.clone(), None);
                self.emit(Phase::ReleaseAdopted, task, op);
            }
        }
    }

    fn release_namespace(&mut self, task: &Task<'_>, found: &AdoptionSnapshot, ns: Ns) {
        let known = self.now.namespaces.get(&ns);
        let tag = known.and_then(|known| known.owner_tag.clone());
        if tag.as_deref().is_some_and(|tag| task.owns(tag, 0)) {
            let before = found.owner_tags.first().cloned().flatten();
            let op = set_owner(&LinkAt::loopback(ns), tag, before, None);
            self.emit(Phase::ReleaseAdopted, task, op);
        }
    }
}

fn current(tag: &Option<String>) -> Option<String> {
    tag.as_deref()
        .map(|tag| ownership::current(tag).into_owned())
}

fn found_namespace(spec: &Namespace, known: &ObservedNs) -> Namespace {
    Namespace {
        netnsid: known.netnsid.map(NetnsId::Id),
        loopback: known.loopback,
        routes: found_routes(spec, known)
            .map(ObservedRoute::as_route)
            .collect(),
        // Those of others stay beside those of netnsd.
        rules: Vec::new(),
        neighbours: known.neighbours.clone(),
        // Sysctls get back the values from before they were set.
        sysctls: BTreeMap::new(),
        dns: None,
        attach: None,
        // Those that were there before stay.
        addresses: Vec::new(),
        ..spec.clone()
    }
}

/// Returns the routes that can be made again as they are. Others are left alone, and the kernel
/// makes those of addresses itself.
fn found_routes<'k>(
    spec: &'k Namespace,
    known: &'k ObservedNs,
) -> impl Iterator<Item = &'k ObservedRoute> {
    let taken: HashSet<RouteKey> = spec.routes.iter().map(key_of).collect();
    let is_taken =
        move |known: &ObservedRoute| key_of_known(known).is_some_and(|key| taken.contains(&key));
    let is_made =
        move |known: &&ObservedRoute| known.protocol != ROUTE_PROTOCOL_KERNEL || is_taken(known);
    known
        .routes
        .iter()
        .filter(|known| known.is_adoptable())
        .filter(is_made)
}

/// Returns true if there is one link, or two that are each other's peers.
fn are_peers(links: &[&ObservedLink]) -> bool {
    match links {
        [one, two] => one.peer_index == Some(two.index) && two.peer_index == Some(one.index),
        _ => true,
    }
}

fn found_device(known: &ObservedLink) -> FoundDevice {
    // Link-local addresses are made by the kernel itself.
    let addresses = known.addresses.iter();
    FoundDevice {
        addresses: addresses
            .filter(|address| !is_link_local(address.net.addr()))
            .cloned()
            .collect(),
        addr_gen_none: known.addr_gen_none,
    }
}

/// Returns a spec that asks for devices as they were found.
fn found_spec(spec: &Spec, links: &[&ObservedLink]) -> Spec {
    let mut found = spec.clone();
    if let (Spec::Bridge(bridge), Some(known)) = (&mut found, links.first())
        && let Some(settings) = &known.bridge
    {
        *bridge = found_bridge(bridge, known, settings);
    }
    for (end, known) in found.endpoints_mut().iter_mut().zip(links) {
        *end = found_end(end, known);
    }
    found
}

fn found_bridge(spec: &Bridge, known: &ObservedLink, bridge: &ObservedBridge) -> Bridge {
    let spec = Bridge {
        // Without one asked for it keeps its own.
        mac: spec.mac.and(known.mac),
        mtu: Some(known.mtu),
        up: known.up,
        txqueuelen: Some(known.device.txqueuelen),
        alias: Some(known.device.alias.clone()).filter(|alias| !alias.is_empty()),
        promiscuous: known.device.promiscuous,
        allmulticast: known.device.allmulticast,
        arp: known.device.arp,
        // See `FoundDevice`.
        addresses: Vec::new(),
        ..spec.clone()
    };
    bridge.attrs.settings().into_spec(spec)
}

/// Returns the settings of a port as it was found; of its tagged VLANs those that are asked for.
fn found_port(spec: &Port, known: &ObservedPort) -> Port {
    let vlans = known.vlans.as_ref().filter(|_| has_vlans(spec));
    let asked: BTreeSet<u16> = spec.vlans.iter().flat_map(|range| range.ids()).collect();
    let found = vlans.into_iter().flat_map(PortVlans::others);
    Port {
        vlan: vlans.and_then(PortVlans::pvid),
        vlans: VlanRange::from_ids(found.filter(|id| asked.contains(id))),
        ..known.attrs.settings()
    }
}

fn found_end(spec: &Endpoint, known: &ObservedLink) -> Endpoint {
    Endpoint {
        mac: known.mac,
        mtu: Some(known.mtu),
        up: known.up,
        txqueuelen: Some(known.device.txqueuelen),
        alias: Some(known.device.alias.clone()).filter(|alias| !alias.is_empty()),
        promiscuous: known.device.promiscuous,
        allmulticast: known.device.allmulticast,
        arp: known.device.arp,
        // See `FoundDevice`.
        addresses: Vec::new(),
        // A name that no resource can have is left out.
        bridge: known
            .master
            .as_deref()
            .and_then(|master| master.parse::<Name>().ok()),
        port: known
            .port
            .as_ref()
            .map(|port| found_port(&spec.port, port))
            .unwrap_or_default(),
        ..spec.clone()
    }
}
