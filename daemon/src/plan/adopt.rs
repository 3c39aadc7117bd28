//! Adoption: takes over namespaces, bridges and pairs that others made, in place, and releases them
//! as they were found if the kernel refuses the rest of the write.

use std::collections::{BTreeMap, HashSet};

use netnsd_api::{
    Bridge, Cidr, Endpoint, Kind, Name, Namespace, NetnsId, ResourceRef, Veth, is_link_local,
};

use super::{
    Ownership, Phase, Planner, Task,
    place::{bridge_at, end_at, set_owner},
    route::{RouteKey, key_of, key_of_known},
};
use crate::{
    kernel::{
        LinkAt, Ns, ObservedAddress, ObservedBridge, ObservedLink, ObservedNs, ObservedRoute, Op,
        ROUTE_PROTOCOL, ROUTE_PROTOCOL_KERNEL, RouteExtras, ownership,
    },
    model::Spec,
};

/// State of a resource before its adoption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdoptionSnapshot {
    /// Spec with every setting set. Bridges are named by their devices.
    pub spec: Spec,
    /// Owner tags of a deleted record; the second is that of a pair's second end.
    owner_tags: [Option<String>; 2],
    /// Protocol and extra attributes of each route of `spec`.
    routes: Vec<(u8, RouteExtras)>,
    /// Addresses of each end of a pair, or of a bridge, without those that the kernel makes itself.
    addresses: [Vec<ObservedAddress>; 2],
    /// True for ends of a pair that made no IPv6 link-local address.
    addr_gen_none: [bool; 2],
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

    /// Returns the addresses that an end of a pair, or a bridge, is to have.
    pub(super) fn addresses_of(&self, asked: &[Cidr], end: usize) -> Vec<ObservedAddress> {
        match self.ownership {
            Ownership::Release(found) => found.addresses[end].clone(),
            _ => asked
                .iter()
                .map(|address| ObservedAddress::new(address.0))
                .collect(),
        }
    }

    /// Returns true if an end is to make no IPv6 link-local address. A bridge port needs none: its
    /// announcements would be flooded to all ports.
    pub(super) fn addr_gen_none(&self, spec: &Endpoint, end: usize) -> bool {
        match self.ownership {
            Ownership::Release(found) => found.addr_gen_none[end],
            _ => spec.bridge.is_some(),
        }
    }

    /// Returns true if a device with this tag may be adopted: it has no owner, or the owner's
    /// record was deleted.
    fn may_take(&self, found: Option<&str>, end: Option<usize>) -> bool {
        // A namespace that netnsd pins under another name has `alias_of`: any other tag is of a
        // deleted record.
        let may = |owner: (ResourceRef, Option<usize>)| {
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
            || was.as_deref().is_some_and(|tag| task.owns(tag, None))
            || !task.may_take(was.as_deref(), None)
        {
            return;
        }
        let found = AdoptionSnapshot {
            spec: Spec::Namespace(found_namespace(spec, known)),
            owner_tags: [current(&known.owner_tag), None],
            routes: found_routes(spec, known)
                .map(|known| (known.protocol, known.extras.clone()))
                .collect(),
            addresses: [Vec::new(), Vec::new()],
            addr_gen_none: [false; 2],
        };
        let owner_tag = Some(task.owner_tag(None));
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

    pub(super) fn adopt_bridge(&mut self, task: &Task<'_>, place: &LinkAt) {
        if task.ownership != Ownership::Adopt || self.is_at(place, task, None) {
            return;
        }
        let (Some(Spec::Bridge(spec)), Some(known)) =
            (task.desired, self.now.link(&place.ns, &place.name))
        else {
            return;
        };
        if let (Some(settings), true) = (
            &known.bridge,
            task.may_take(known.owner_tag.as_deref(), None),
        ) {
            let found = AdoptionSnapshot {
                spec: Spec::Bridge(found_bridge(spec, known, settings)),
                owner_tags: [current(&known.owner_tag), None],
                routes: Vec::new(),
                addresses: [found_addresses(known), Vec::new()],
                addr_gen_none: [false; 2],
            };
            let macs = known.mac.into_iter().collect();
            let op = self.adopt_link(place.clone(), task.owner_tag(None), None);
            self.adopt(task, found, vec![op]);
            self.plan.macs.insert(task.resource.clone(), macs);
        }
    }

    /// Adopts a pair if both ends are at their locations, and each is the peer of the other.
    pub(super) fn adopt_pair(&mut self, task: &Task<'_>, places: &[LinkAt; 2]) {
        let here = [0, 1].map(|end| self.is_at(&places[end], task, Some(end)));
        let Some(Spec::Veth(spec)) = task.desired else {
            return;
        };
        if task.ownership != Ownership::Adopt || here == [true, true] {
            return;
        }
        let links = [0, 1].map(|end: usize| self.now.link(&places[end].ns, &places[end].name));
        let [Some(one), Some(two)] = links else {
            return;
        };
        let free = |end: usize, link: &ObservedLink| {
            here[end] || task.may_take(link.owner_tag.as_deref(), Some(end))
        };
        let is_veth = |link: &ObservedLink| link.kind.as_deref() == Some(Kind::Veth.as_str());
        let are_peers = one.peer_index == Some(two.index) && two.peer_index == Some(one.index);
        if !(free(0, one) && free(1, two) && is_veth(one) && is_veth(two) && are_peers) {
            return;
        }
        let found = AdoptionSnapshot {
            spec: Spec::Veth(Veth {
                endpoints: [
                    found_end(&spec.endpoints[0], one),
                    found_end(&spec.endpoints[1], two),
                ],
                ..spec.clone()
            }),
            owner_tags: [current(&one.owner_tag), current(&two.owner_tag)],
            routes: Vec::new(),
            addresses: [found_addresses(one), found_addresses(two)],
            addr_gen_none: [one.addr_gen_none, two.addr_gen_none],
        };
        let macs = [one.mac, two.mac].into_iter().flatten().collect();
        let take = |end: usize| {
            self.adopt_link(
                places[end].clone(),
                task.owner_tag(Some(end)),
                Some(&places[1 - end]),
            )
        };
        let ops = [0, 1]
            .into_iter()
            .filter(|end| !here[*end])
            .map(take)
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
        let places: Vec<(LinkAt, Option<usize>)> = match &found.spec {
            Spec::Namespace(spec) => {
                let ns = Ns::Named(spec.name.clone());
                let tag = self
                    .now
                    .namespaces
                    .get(&ns)
                    .and_then(|known| known.owner_tag.clone());
                if tag.as_deref().is_some_and(|tag| task.owns(tag, None)) {
                    let lo = LinkAt::loopback(ns);
                    self.emit(
                        Phase::ReleaseAdopted,
                        task,
                        set_owner(&lo, tag, found.owner_tags[0].clone(), None),
                    );
                }
                return;
            }
            Spec::Bridge(spec) => vec![(bridge_at(spec), None)],
            Spec::Veth(spec) => (0..2)
                .map(|end| (end_at(&spec.endpoints[end]), Some(end)))
                .collect(),
        };
        for (place, end) in places {
            if self.is_at(&place, task, end) {
                let tag = self
                    .now
                    .link(&place.ns, &place.name)
                    .and_then(|link| link.owner_tag.clone());
                let before = found.owner_tags[end.unwrap_or_default()].clone();
                if tag != before {
                    self.emit(
                        Phase::ReleaseAdopted,
                        task,
                        set_owner(&place, tag, before, None),
                    );
                }
            }
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
        neighbours: known.neighbours.clone(),
        // Sysctls get back the values from before they were set.
        sysctls: BTreeMap::new(),
        dns: None,
        attach: None,
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

/// Returns the addresses that the kernel did not make itself.
fn found_addresses(known: &ObservedLink) -> Vec<ObservedAddress> {
    known
        .addresses
        .iter()
        .filter(|address| !is_link_local(address.net.addr()))
        .cloned()
        .collect()
}

fn found_bridge(spec: &Bridge, known: &ObservedLink, bridge: &ObservedBridge) -> Bridge {
    let spec = Bridge {
        // Without one asked for it keeps its own.
        mac: spec.mac.and(known.mac),
        mtu: Some(known.mtu),
        up: known.up,
        // See `AdoptionSnapshot::addresses`.
        addresses: Vec::new(),
        ..spec.clone()
    };
    bridge.attrs.settings().into_spec(spec)
}

fn found_end(spec: &Endpoint, known: &ObservedLink) -> Endpoint {
    Endpoint {
        mac: known.mac,
        mtu: Some(known.mtu),
        up: known.up,
        // See `AdoptionSnapshot::addresses`.
        addresses: Vec::new(),
        // A name that no resource can have is left out.
        bridge: known
            .master
            .as_deref()
            .and_then(|master| master.parse::<Name>().ok()),
        port: known
            .port
            .as_ref()
            .map(|port| port.attrs.settings())
            .unwrap_or_default(),
        ..spec.clone()
    }
}
