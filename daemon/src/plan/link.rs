//! Links: bridges and veth pairs, their places, settings, addresses and ports.

use std::collections::BTreeSet;

use ipnet::IpNet;
use netnsd_api::{Bridge, Centiseconds, Cidr, Endpoint, Mac, Port, Veth};

use super::{Phase, Planner, Task};
use crate::{
    engine::Spec,
    kernel::{BridgeSettings, NewEnd, Ns, ObservedAddress, ObservedBridge, ObservedLink, ObservedPort, Op, mark},
};

/// Where a link is, or should be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    ns: Ns,
    name: String,
}

impl Place {
    fn of_bridge(spec: &Bridge) -> Self {
        Self { ns: Ns::of(spec.namespace.as_ref()), name: spec.device().to_owned() }
    }

    fn of_end(end: &Endpoint) -> Self {
        Self { ns: Ns::of(end.namespace.as_ref()), name: end.device().to_owned() }
    }
}

/// A link's settings that bridges and veth ends share.
struct Common<'a> {
    mac: Option<Mac>,
    mtu: Option<u32>,
    /// What the MTU was asked to be before. What it is otherwise by now is the kernel's choice, such as a bridge's by its ports.
    old_mtus: Vec<u32>,
    addresses: &'a [Cidr],
}

/// The MTU that the kernel gives to bridges and veths (`ETH_DATA_LEN`, `linux/if_ether.h`).
const DEFAULT_MTU: u32 = 1500;

impl Planner<'_> {
    /// Takes away what a task no longer wants to have at all.
    pub(super) fn take_away(&mut self, task: &Task<'_>) {
        if task.desired.is_some() {
            return;
        }
        match task.resource.kind {
            netnsd_api::Kind::Namespace => self.take_namespace(task),
            netnsd_api::Kind::Bridge => {
                for place in bridge_places(task) {
                    if self.is_ours(&place, task, None) {
                        self.delete_link(task, &place);
                    }
                }
            }
            netnsd_api::Kind::Veth => {
                for end in 0..2 {
                    if let Some(place) = self.find_end(task, end) {
                        self.delete_pair(task, &place);
                    }
                }
            }
        }
    }

    fn is_ours(&self, place: &Place, task: &Task<'_>, end: Option<usize>) -> bool {
        let mark = mark::mark(&task.resource, end, task.uid);
        self.now.link(&place.ns, &place.name).is_some_and(|link| link.mark.as_deref() == Some(&mark))
    }

    /// The place, of those where it was ever asked to be, where an end of the pair is now.
    fn find_end(&self, task: &Task<'_>, end: usize) -> Option<Place> {
        task.specs()
            .filter_map(|spec| match spec {
                Spec::Veth(spec) => Some(Place::of_end(&spec.endpoints[end])),
                _ => None,
            })
            .find(|place| self.is_ours(place, task, Some(end)))
    }

    fn delete_link(&mut self, task: &Task<'_>, place: &Place) {
        self.emit(Phase::TakeLinks, task, Op::LinkDelete { ns: place.ns.clone(), name: place.name.clone() });
        self.forget_link(&place.ns, &place.name);
    }

    /// Deletes a pair by the end that is at `place`: the kernel takes the other along.
    fn delete_pair(&mut self, task: &Task<'_>, place: &Place) {
        self.delete_link(task, place);
        for end in 0..2 {
            if let Some(other) = self.find_end(task, end) {
                self.forget_link(&other.ns, &other.name);
            }
        }
    }

    /// Whether something that is not this resource's is at the place.
    fn taken(&self, place: &Place, task: &Task<'_>, end: Option<usize>) -> bool {
        self.now.link(&place.ns, &place.name).is_some() && !self.is_ours(place, task, end)
    }

    fn name_conflict(&mut self, task: &Task<'_>, place: &Place) {
        let Place { ns, name } = place;
        self.conflict(
            task,
            format!(
                "{ns} has an interface {name} that is not of {}: choose another name, or delete it first",
                task.resource
            ),
        );
    }

    /// Whether the namespace of a place is there (or made by this plan).
    fn ns_is_there(&mut self, task: &Task<'_>, ns: &Ns) -> bool {
        if *ns == Ns::Host || self.now.namespaces.get(ns).is_some_and(|known| known.inode != 0) {
            return true;
        }
        self.pending(task, format!("{ns} is not there"));
        false
    }

    pub(super) fn bridge(&mut self, task: &Task<'_>, spec: &Bridge) {
        let place = Place::of_bridge(spec);
        if !self.ns_is_there(task, &place.ns) {
            return;
        }
        if self.taken(&place, task, None) {
            return self.name_conflict(task, &place);
        }
        if !self.is_ours(&place, task, None) {
            let old: Vec<Place> = bridge_places(task).into_iter().filter(|old| self.is_ours(old, task, None)).collect();
            match old.iter().find(|old| old.ns == place.ns) {
                Some(old) => self.rename(task, old, &place),
                None => {
                    // A bridge cannot change its namespace (NETIF_F_NETNS_LOCAL, net/bridge/br_device.c).
                    for old in &old {
                        self.delete_link(task, old);
                    }
                    self.make_bridge(task, spec, &place);
                }
            }
        }
        let Some(known) = self.now.link(&place.ns, &place.name).and_then(|link| link.bridge.clone()) else { return };
        let old = previous_bridge(task);
        let mut set = bridge_changes(spec, old, &known);
        let bridge_set = |set| Op::BridgeSet { ns: place.ns.clone(), name: place.name.clone(), set };
        if known.stp && known.root_id != known.bridge_id {
            // It shows, and goes by, the times of the root; its own are set when they are asked for, and not seen.
            let times = BridgeSettings {
                forward_delay: set.forward_delay.take(),
                hello_time: set.hello_time.take(),
                max_age: set.max_age.take(),
                ..BridgeSettings::default()
            };
            if old.is_some_and(|old| times_of(old) != times_of(spec)) && times != BridgeSettings::default() {
                self.emit_blind(Phase::MakeBridges, task, bridge_set(times));
            }
        }
        if set != BridgeSettings::default() {
            self.emit(Phase::MakeBridges, task, bridge_set(set));
        }
        self.common(
            task,
            &place,
            &Common {
                mac: spec.mac,
                mtu: spec.mtu,
                // One that was elsewhere was made anew here.
                old_mtus: old
                    .filter(|old| (&old.namespace, old.device()) == (&spec.namespace, spec.device()))
                    .and_then(|old| old.mtu)
                    .into_iter()
                    .collect(),
                addresses: &spec.addresses,
            },
        );
        self.raise(task, &place, spec.up, &spec.addresses, Phase::RaiseBridges);
    }

    fn make_bridge(&mut self, task: &Task<'_>, spec: &Bridge, place: &Place) {
        let mark = mark::mark(&task.resource, None, task.uid);
        let set = bridge_settings(spec);
        self.emit(
            Phase::MakeBridges,
            task,
            Op::BridgeAdd {
                ns: place.ns.clone(),
                name: place.name.clone(),
                mark: mark.clone(),
                mac: spec.mac,
                mtu: spec.mtu,
                set,
            },
        );
        let made = ObservedLink {
            kind: Some("bridge".into()),
            mark: Some(mark),
            mac: spec.mac,
            mtu: spec.mtu.unwrap_or(DEFAULT_MTU),
            bridge: Some(made_bridge(spec)),
            ..ObservedLink::default()
        };
        self.ns_mut(&place.ns).links.insert(place.name.clone(), made);
        self.plan.new_bridges.insert(spec.name.clone());
    }

    /// Gives a link another name in its namespace.
    fn rename(&mut self, task: &Task<'_>, from: &Place, to: &Place) {
        // Before Linux 6.2 a link that is up cannot be renamed.
        self.lower(task, from, Phase::Lower);
        self.emit(
            Phase::Move,
            task,
            Op::LinkRename { ns: from.ns.clone(), name: from.name.clone(), to_name: to.name.clone() },
        );
        let inside = self.ns_mut(&from.ns);
        if let Some(link) = inside.links.remove(&from.name) {
            inside.links.insert(to.name.clone(), link);
        }
        for port in inside.links.values_mut().filter(|port| port.master.as_deref() == Some(&from.name)) {
            port.master = Some(to.name.clone());
        }
    }

    /// Takes a link down, with what the kernel then takes away: its IPv6 addresses, its routes and neighbours.
    fn lower(&mut self, task: &Task<'_>, place: &Place, phase: Phase) {
        let Some(link) = self.ns_mut(&place.ns).links.get_mut(&place.name) else { return };
        if !link.up {
            return;
        }
        link.up = false;
        link.addresses.retain(|address| address.net.addr().is_ipv4());
        let inside = self.ns_mut(&place.ns);
        inside.forget_routes(&place.name, |_| true);
        inside.neighbours.retain(|neighbour| neighbour.interface.as_str() != place.name);
        self.emit(phase, task, Op::LinkUp { ns: place.ns.clone(), name: place.name.clone(), up: false });
    }

    pub(super) fn veth(&mut self, task: &Task<'_>, spec: &Veth) {
        let places = [0, 1].map(|end| Place::of_end(&spec.endpoints[end]));
        if !places.iter().all(|place| self.ns_is_there(task, &place.ns)) {
            return;
        }
        match [self.find_end(task, 0), self.find_end(task, 1)] {
            [Some(a), Some(b)] => self.place_pair(task, spec, &[a, b], &places),
            // A pair of which one end is not where it was left is no pair any more.
            [Some(left), None] | [None, Some(left)] => {
                self.forget_unmarked_peer(&left, &places);
                self.delete_pair(task, &left);
                self.make_pair(task, spec, &places);
            }
            [None, None] => self.make_pair(task, spec, &places),
        }
        if self.in_conflict(task) {
            return;
        }
        for (end, place) in places.iter().enumerate() {
            self.end(task, &spec.endpoints[end], end, place);
        }
    }

    /// A crash between the making of a pair and the marking of its second end leaves that one without a mark: it goes
    /// with the first.
    fn forget_unmarked_peer(&mut self, left: &Place, places: &[Place; 2]) {
        let Some(index) = self.now.link(&left.ns, &left.name).and_then(|link| link.peer_index) else { return };
        for place in places.iter().filter(|place| *place != left) {
            let is_peer = |link: &ObservedLink| {
                link.mark.is_none() && link.kind.as_deref() == Some("veth") && link.index == index
            };
            if self.now.link(&place.ns, &place.name).is_some_and(is_peer) {
                self.forget_link(&place.ns, &place.name);
            }
        }
    }

    /// Brings two ends that exist to where they should be.
    fn place_pair(&mut self, task: &Task<'_>, spec: &Veth, now: &[Place; 2], wanted: &[Place; 2]) {
        let in_the_way = (0..2).find(|end| now[*end] != wanted[*end] && self.taken(&wanted[*end], task, Some(*end)));
        if let Some(end) = in_the_way {
            let other = self.now.link(&wanted[end].ns, &wanted[end].name).and_then(|link| link.mark.clone());
            // A name that another pair of ours is about to leave (or this one's other end): made anew, in the right order.
            if other.as_deref().and_then(mark::parse).is_none() {
                return self.name_conflict(task, &wanted[end]);
            }
            self.delete_pair(task, &now[0]);
            return self.make_pair(task, spec, wanted);
        }
        for end in 0..2 {
            let (from, to) = (&now[end], &wanted[end]);
            if from.ns != to.ns {
                self.move_link(task, from, to);
            } else if from.name != to.name {
                self.rename(task, from, to);
            }
        }
    }

    fn move_link(&mut self, task: &Task<'_>, from: &Place, to: &Place) {
        self.emit(
            Phase::Move,
            task,
            Op::LinkMove { ns: from.ns.clone(), name: from.name.clone(), to: to.ns.clone(), to_name: to.name.clone() },
        );
        let link = self.now.link(&from.ns, &from.name).cloned().unwrap_or_default();
        self.forget_link(&from.ns, &from.name);
        // A move takes it down and away from its bridge, and clears its addresses and its addrgenmode.
        let moved = ObservedLink {
            up: false,
            carrier: false,
            master: None,
            port: None,
            addresses: Vec::new(),
            addr_gen_none: false,
            ..link
        };
        self.ns_mut(&to.ns).links.insert(to.name.clone(), moved);
    }

    fn make_pair(&mut self, task: &Task<'_>, spec: &Veth, places: &[Place; 2]) {
        for place in places {
            if let Some(other) = self.now.link(&place.ns, &place.name) {
                let ours = other.mark.as_deref().and_then(mark::parse).is_some();
                if !ours {
                    return self.name_conflict(task, place);
                }
            }
        }
        let ends = [0, 1].map(|end| NewEnd {
            ns: places[end].ns.clone(),
            name: places[end].name.clone(),
            mark: mark::mark(&task.resource, Some(end), task.uid),
            mac: spec.endpoints[end].mac,
            mtu: spec.endpoints[end].mtu,
        });
        for end in &ends {
            let made = ObservedLink {
                kind: Some("veth".into()),
                mark: Some(end.mark.clone()),
                mac: end.mac,
                mtu: end.mtu.unwrap_or(DEFAULT_MTU),
                ..ObservedLink::default()
            };
            self.ns_mut(&end.ns).links.insert(end.name.clone(), made);
        }
        self.emit(Phase::MakeVeths, task, Op::VethAdd { ends });
    }

    fn end(&mut self, task: &Task<'_>, spec: &Endpoint, index: usize, place: &Place) {
        let old = previous_ends(task, index);
        self.common(
            task,
            place,
            &Common {
                mac: spec.mac,
                mtu: spec.mtu,
                old_mtus: old.iter().filter_map(|old| old.mtu).collect(),
                addresses: &spec.addresses,
            },
        );
        let known = self.now.link(&place.ns, &place.name).cloned().unwrap_or_default();
        self.addr_gen(task, spec, place, &known, &old);
        match &spec.bridge {
            None => {
                self.leave_bridge(task, place, &known, &old);
                self.raise(task, place, spec.up, &spec.addresses, Phase::RaiseEnds);
            }
            Some(bridge) => {
                let Some(device) = (self.bridge)(bridge) else {
                    return self.pending(task, format!("bridge {bridge} is not there"));
                };
                self.enslave(task, spec, place, &known, &device, &old);
                self.raise(task, place, spec.up, &spec.addresses, Phase::RaisePorts);
            }
        }
    }

    /// A bridge's port needs no IPv6 address: its announcements would be flooded to all ports.
    fn addr_gen(&mut self, task: &Task<'_>, spec: &Endpoint, place: &Place, known: &ObservedLink, old: &[&Endpoint]) {
        let was_port = old.iter().any(|old| old.bridge.is_some());
        let none = spec.bridge.is_some();
        if known.addr_gen_none != none && (none || was_port) {
            self.emit(Phase::Addresses, task, Op::LinkAddrGen { ns: place.ns.clone(), name: place.name.clone(), none });
        }
    }

    fn leave_bridge(&mut self, task: &Task<'_>, place: &Place, known: &ObservedLink, old: &[&Endpoint]) {
        // A bridge that others made it a port of is theirs to decide.
        if known.master.is_some() && old.iter().any(|old| old.bridge.is_some()) {
            self.emit(
                Phase::Release,
                task,
                Op::LinkMaster { ns: place.ns.clone(), name: place.name.clone(), master: None },
            );
            if let Some(link) = self.ns_mut(&place.ns).links.get_mut(&place.name) {
                link.master = None;
                link.port = None;
            }
        }
    }

    fn enslave(
        &mut self,
        task: &Task<'_>,
        spec: &Endpoint,
        place: &Place,
        known: &ObservedLink,
        device: &str,
        old: &[&Endpoint],
    ) {
        let fresh = known.master.as_deref() != Some(device);
        if fresh {
            let op = Op::LinkMaster { ns: place.ns.clone(), name: place.name.clone(), master: Some(device.to_owned()) };
            self.emit(Phase::Enslave, task, op);
        }
        // A port that is new has every default.
        let now =
            if fresh { ObservedPort::defaults() } else { known.port.clone().unwrap_or_else(ObservedPort::defaults) };
        let set = port_changes(&spec.port, old.iter().map(|old| &old.port), &now);
        if set != Port::default() {
            self.emit(Phase::SetPorts, task, Op::PortSet { ns: place.ns.clone(), name: place.name.clone(), set });
        }
    }

    /// MAC, MTU and addresses.
    fn common(&mut self, task: &Task<'_>, place: &Place, spec: &Common<'_>) {
        let Some(known) = self.now.link(&place.ns, &place.name).cloned() else { return };
        let Place { ns, name } = place;
        if let Some(mac) = spec.mac
            && known.mac != Some(mac)
        {
            self.emit(Phase::Addresses, task, Op::LinkMac { ns: ns.clone(), name: name.clone(), mac });
        }
        let mtu = spec.mtu.or(spec.old_mtus.contains(&known.mtu).then_some(DEFAULT_MTU));
        if let Some(mtu) = mtu
            && known.mtu != mtu
        {
            self.emit(Phase::Addresses, task, Op::LinkMtu { ns: ns.clone(), name: name.clone(), mtu });
        }
        let wanted: BTreeSet<IpNet> = spec.addresses.iter().map(|address| address.0).collect();
        let gone: Vec<IpNet> = known
            .addresses
            .iter()
            .filter(|known| known.ours && !wanted.contains(&known.net))
            .map(|known| known.net)
            .collect();
        for address in gone {
            // One may have gone along with another.
            let still = |link: &ObservedLink| link.addresses.iter().any(|known| known.net == address);
            if self.now.link(ns, name).is_some_and(still) {
                self.emit(Phase::Addresses, task, Op::AddressDelete { ns: ns.clone(), name: name.clone(), address });
                self.ns_mut(ns).lose_address(name, address);
            }
        }
        self.add_addresses(task, place, spec.addresses, Phase::Addresses);
    }

    fn add_addresses(&mut self, task: &Task<'_>, place: &Place, addresses: &[Cidr], phase: Phase) {
        for address in addresses {
            let known = self.now.link(&place.ns, &place.name);
            if known.is_none_or(|link| link.addresses.iter().any(|known| known.net == address.0)) {
                continue;
            }
            self.emit(
                phase,
                task,
                Op::AddressAdd { ns: place.ns.clone(), name: place.name.clone(), address: address.0 },
            );
            if let Some(link) = self.ns_mut(&place.ns).links.get_mut(&place.name) {
                link.addresses.push(ObservedAddress {
                    net: address.0,
                    ours: true,
                    secondary: false,
                    permanent: true,
                    scope: "global".into(),
                });
            }
        }
    }

    /// Sets a link up or down; what going down takes away is given back.
    fn raise(&mut self, task: &Task<'_>, place: &Place, up: bool, addresses: &[Cidr], phase: Phase) {
        let Some(known) = self.now.link(&place.ns, &place.name) else { return };
        if known.up == up {
            return;
        }
        if !up {
            self.lower(task, place, phase);
            return self.add_addresses(task, place, addresses, Phase::AddressesAgain);
        }
        self.emit(phase, task, Op::LinkUp { ns: place.ns.clone(), name: place.name.clone(), up });
        if let Some(link) = self.ns_mut(&place.ns).links.get_mut(&place.name) {
            link.up = true;
        }
    }
}

fn bridge_places(task: &Task<'_>) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    for spec in task.specs() {
        if let Spec::Bridge(spec) = spec {
            let place = Place::of_bridge(spec);
            if !places.contains(&place) {
                places.push(place);
            }
        }
    }
    places
}

fn previous_bridge<'a>(task: &Task<'a>) -> Option<&'a Bridge> {
    task.applied.iter().rev().find_map(|spec| match spec {
        Spec::Bridge(spec) => Some(spec),
        _ => None,
    })
}

fn previous_ends<'a>(task: &Task<'a>, index: usize) -> Vec<&'a Endpoint> {
    task.applied
        .iter()
        .filter_map(|spec| match spec {
            Spec::Veth(spec) => Some(&spec.endpoints[index]),
            _ => None,
        })
        .collect()
}

/// What a bridge is set to when it is made.
fn bridge_settings(spec: &Bridge) -> BridgeSettings {
    let time = |time: Option<Centiseconds>| time.map(|time| time.0);
    BridgeSettings {
        stp: spec.stp.then_some(true),
        priority: spec.priority,
        ageing_time: time(spec.ageing_time_s),
        forward_delay: time(spec.forward_delay_s),
        hello_time: time(spec.hello_time_s),
        max_age: time(spec.max_age_s),
        multicast_snooping: spec.multicast_snooping,
        vlan_filtering: spec.vlan_filtering,
        vlan_default_pvid: spec.vlan_default_pvid,
    }
}

/// The kernel's defaults (`br_dev_setup()`, `net/bridge/br_device.c`; times in hundredths of a second).
impl ObservedBridge {
    pub(crate) fn defaults() -> Self {
        Self {
            stp: false,
            priority: 32768,
            ageing_time: 30000,
            forward_delay: 1500,
            hello_time: 200,
            max_age: 2000,
            multicast_snooping: true,
            vlan_filtering: false,
            vlan_default_pvid: 1,
            topology_change: false,
            bridge_id: String::new(),
            root_id: String::new(),
        }
    }
}

/// The kernel's defaults (`new_nbp()`, `net/bridge/br_if.c`); the cost is that of 10 Gbit/s, a veth's speed.
impl ObservedPort {
    pub(crate) fn defaults() -> Self {
        Self {
            state: String::new(),
            path_cost: 2,
            priority: 32,
            hairpin: false,
            isolated: false,
            learning: true,
            bpdu_guard: false,
            root_block: false,
            mcast_fast_leave: false,
        }
    }
}

fn made_bridge(spec: &Bridge) -> ObservedBridge {
    let set = bridge_settings(spec);
    let default = ObservedBridge::defaults();
    ObservedBridge {
        stp: spec.stp,
        priority: set.priority.unwrap_or(default.priority),
        ageing_time: set.ageing_time.unwrap_or(default.ageing_time),
        forward_delay: set.forward_delay.unwrap_or(default.forward_delay),
        hello_time: set.hello_time.unwrap_or(default.hello_time),
        max_age: set.max_age.unwrap_or(default.max_age),
        multicast_snooping: set.multicast_snooping.unwrap_or(default.multicast_snooping),
        vlan_filtering: set.vlan_filtering.unwrap_or(default.vlan_filtering),
        vlan_default_pvid: set.vlan_default_pvid.unwrap_or(default.vlan_default_pvid),
        ..default
    }
}

/// What to change of one setting: to what is asked for, or back to the default if it was asked for once.
fn change<T: Copy + PartialEq>(wanted: Option<T>, was_set: bool, default: T, now: T) -> Option<T> {
    wanted.or(was_set.then_some(default)).filter(|value| *value != now)
}

/// The same for a time: the kernel counts in its own ticks, and gives back up to a hundredth of a second less.
fn change_time(wanted: Option<u32>, was_set: bool, default: u32, now: u32) -> Option<u32> {
    change(wanted, was_set, default, now).filter(|value| value.abs_diff(now) > 1)
}

/// The times that a bridge tells others when it is the root of the spanning tree.
fn times_of(spec: &Bridge) -> [Option<netnsd_api::Centiseconds>; 3] {
    [spec.forward_delay_s, spec.hello_time_s, spec.max_age_s]
}

fn bridge_changes(spec: &Bridge, old: Option<&Bridge>, now: &ObservedBridge) -> BridgeSettings {
    let wanted = bridge_settings(spec);
    // While STP tells of a topology change the kernel itself forgets addresses sooner (`__br_set_topology_change()`).
    let asked_anew = old.is_some_and(|old| old.ageing_time_s != spec.ageing_time_s);
    let sooner = now.topology_change && now.ageing_time.abs_diff(2 * now.forward_delay) <= 2 && !asked_anew;
    let old = old.map(bridge_settings).unwrap_or_default();
    let default = ObservedBridge::defaults();
    let ageing_time = change_time(wanted.ageing_time, old.ageing_time.is_some(), default.ageing_time, now.ageing_time);
    BridgeSettings {
        stp: Some(spec.stp).filter(|stp| *stp != now.stp),
        priority: change(wanted.priority, old.priority.is_some(), default.priority, now.priority),
        ageing_time: ageing_time.filter(|_| !sooner),
        forward_delay: change_time(
            wanted.forward_delay,
            old.forward_delay.is_some(),
            default.forward_delay,
            now.forward_delay,
        ),
        hello_time: change_time(wanted.hello_time, old.hello_time.is_some(), default.hello_time, now.hello_time),
        max_age: change_time(wanted.max_age, old.max_age.is_some(), default.max_age, now.max_age),
        multicast_snooping: change(
            wanted.multicast_snooping,
            old.multicast_snooping.is_some(),
            default.multicast_snooping,
            now.multicast_snooping,
        ),
        vlan_filtering: change(
            wanted.vlan_filtering,
            old.vlan_filtering.is_some(),
            default.vlan_filtering,
            now.vlan_filtering,
        ),
        vlan_default_pvid: change(
            wanted.vlan_default_pvid,
            old.vlan_default_pvid.is_some(),
            default.vlan_default_pvid,
            now.vlan_default_pvid,
        ),
    }
}

fn port_changes<'a>(wanted: &Port, old: impl Iterator<Item = &'a Port> + Clone, now: &ObservedPort) -> Port {
    let default = ObservedPort::defaults();
    let was = |set: fn(&Port) -> bool| old.clone().any(set);
    Port {
        path_cost: change(wanted.path_cost, was(|p| p.path_cost.is_some()), default.path_cost, now.path_cost),
        priority: change(wanted.priority, was(|p| p.priority.is_some()), default.priority, now.priority),
        hairpin: change(wanted.hairpin, was(|p| p.hairpin.is_some()), default.hairpin, now.hairpin),
        isolated: change(wanted.isolated, was(|p| p.isolated.is_some()), default.isolated, now.isolated),
        learning: change(wanted.learning, was(|p| p.learning.is_some()), default.learning, now.learning),
        bpdu_guard: change(wanted.bpdu_guard, was(|p| p.bpdu_guard.is_some()), default.bpdu_guard, now.bpdu_guard),
        root_block: change(wanted.root_block, was(|p| p.root_block.is_some()), default.root_block, now.root_block),
        mcast_fast_leave: change(
            wanted.mcast_fast_leave,
            was(|p| p.mcast_fast_leave.is_some()),
            default.mcast_fast_leave,
            now.mcast_fast_leave,
        ),
    }
}
