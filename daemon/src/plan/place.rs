//! Locations of links: creation, deletion, moves, renames.

use netnsd_api::{Kind, Mac};

use super::{Ownership, Phase, Planner, Task};
use crate::{
    kernel::{
        LinkAt, LinkChange, LinkEvent, LinkOp, NewEnd, NewLink, Ns, ObservedLink, Op, ownership,
    },
    links::{DeviceType, LinkSettings, SettingsChange},
    model::{DeviceSpec, Spec},
};

/// Returns the location that a device is asked to have.
pub(super) fn device_at(device: &DeviceSpec<'_>) -> LinkAt {
    LinkAt::new(device.ns(), device.name)
}

/// Returns the locations that a device is and was asked to have.
fn places(task: &Task<'_>, end: usize) -> impl Iterator<Item = LinkAt> {
    let asked = task
        .specs()
        .filter_map(move |spec| spec.devices().nth(end))
        .map(|device| device_at(&device));
    asked.chain(task.specs().filter_map(|spec| task.birthplace(spec)))
}

/// Returns the location of the device that a link is on.
fn lower_at(spec: &Spec) -> Option<LinkAt> {
    let (ns, name) = spec.lower()?;
    Some(LinkAt::new(ns, name))
}

/// Returns the locations that the devices of a task are asked to have.
fn asked_places<'t>(task: &'t Task<'_>) -> impl Iterator<Item = LinkAt> + 't {
    let devices = task.desired.into_iter().flat_map(Spec::devices);
    devices.map(|device| device_at(&device))
}

/// Returns the way of a link to the settings of its type that are asked for.
pub(super) fn settings_change(spec: &Spec, link: &ObservedLink) -> SettingsChange {
    match (LinkSettings::of(spec), &link.settings) {
        (Some(wanted), Some(now)) => wanted.change_from(now),
        (None, _) | (_, None) => SettingsChange::None,
    }
}

/// State of what a link is created on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BaseState {
    There,
    /// It comes by this plan.
    Awaited,
    Missing,
}

/// Owner of the link at a location.
#[derive(Debug, PartialEq, Eq)]
enum Occupant {
    Vacant,
    /// The link that belongs there.
    SameLink,
    /// Another link that netnsd made.
    OtherManaged,
    /// A link of others.
    Foreign,
}

impl Planner<'_> {
    /// Deletes a pair that is removed and has one end only. It would not disappear with its
    /// namespace: the end has to be gone now, because its name may be asked for before the kernel
    /// clears the namespace.
    pub(super) fn delete_half_pair(&mut self, task: &Task<'_>) {
        let is_half = || self.locate(task, 0).is_some() != self.locate(task, 1).is_some();
        if task.desired.is_none() && task.is_pair() && is_half() {
            self.delete(task);
        }
    }

    /// Deletes the devices of a removed resource.
    pub(super) fn delete_removed(&mut self, task: &Task<'_>) {
        if task.desired.is_some() {
            return;
        }
        match task.resource.kind {
            Kind::Namespace => self.delete_namespace(task),
            Kind::Bridge | Kind::Veth | Kind::Link => {
                self.delete(task);
            }
        }
    }

    /// Brings every link to its location. A link whose location is occupied by another managed link
    /// waits until that has left; if links wait for each other, one of them is deleted, and created
    /// again later.
    pub(super) fn place_links(&mut self, tasks: &[&Task<'_>]) {
        let mut waiting: Vec<&Task<'_>> = tasks.to_vec();
        waiting.sort_by_key(|task| self.depth(task));
        if !self.depths.is_empty() {
            self.unplaced = waiting.iter().flat_map(|task| asked_places(task)).collect();
        }
        while !waiting.is_empty() {
            let before = waiting.len();
            waiting.retain(|task| {
                let is_placed = self.place_link(task);
                if is_placed && !self.unplaced.is_empty() {
                    for place in asked_places(task) {
                        self.unplaced.remove(&place);
                    }
                }
                !is_placed
            });
            if waiting.len() == before && !waiting.iter().any(|task| self.delete(task)) {
                // The occupants are not where they were left: they leave with the rest of their
                // resource, or the kernel refuses.
                for task in waiting {
                    self.create_link(task);
                }
                return;
            }
        }
    }

    /// Returns true if a link of this task is at this location.
    pub(super) fn is_at(&self, place: &LinkAt, task: &Task<'_>, end: usize) -> bool {
        self.occupant(place, task, end) == Occupant::SameLink
    }

    fn occupant(&self, place: &LinkAt, task: &Task<'_>, end: usize) -> Occupant {
        let Some(link) = self.now.link(&place.ns, &place.name) else {
            return Occupant::Vacant;
        };
        match link.owner_tag.as_deref() {
            Some(tag) if task.owns(tag, end) => Occupant::SameLink,
            Some(tag) if ownership::parse(tag).is_some() => Occupant::OtherManaged,
            None if link.kind.as_deref() == task.device_type().map(DeviceType::kind)
                && self.remembers(task, place, link) =>
            {
                Occupant::SameLink
            }
            _ => Occupant::Foreign,
        }
    }

    /// Returns true if a link without a tag was last observed here as the task's own.
    fn remembers(&self, task: &Task<'_>, place: &LinkAt, link: &ObservedLink) -> bool {
        let cookie = self
            .now
            .namespaces
            .get(&place.ns)
            .map_or(0, |known| known.cookie);
        task.remembers(&place.ns, cookie, link.index)
    }

    /// Tags a link of the task if its tag is missing or legacy; with `peer` only if that is its
    /// other end.
    fn tag(&mut self, task: &Task<'_>, end: usize, place: LinkAt, peer: Option<&LinkAt>) {
        let owner_tag = task.owner_tag(end);
        let Some(link) = self.ns_mut(&place.ns).links.get_mut(&place.name) else {
            return;
        };
        let was = link.owner_tag.replace(owner_tag.clone());
        if was.as_ref() != Some(&owner_tag) {
            self.emit(
                Phase::Adopt,
                task,
                set_owner(&place, was, Some(owner_tag), peer),
            );
        }
    }

    /// Returns the present location of a device, among those it was ever asked to have.
    fn locate(&self, task: &Task<'_>, end: usize) -> Option<LinkAt> {
        places(task, end)
            .find(|place| self.is_at(place, task, end))
            .or_else(|| self.find_renamed(task, end))
    }

    /// Returns every location of a device: after a crash the one from before may be there too.
    fn locate_all(&self, task: &Task<'_>, end: usize) -> Vec<LinkAt> {
        let mut found: Vec<LinkAt> = Vec::new();
        for place in places(task, end) {
            if !found.contains(&place) && self.is_at(&place, task, end) {
                found.push(place);
            }
        }
        if found.is_empty() {
            found.extend(self.find_renamed(task, end));
        }
        found
    }

    /// Returns the location of a link of the task that somebody renamed.
    fn find_renamed(&self, task: &Task<'_>, end: usize) -> Option<LinkAt> {
        let found_in = |place: LinkAt| {
            let names = self
                .now
                .namespaces
                .get(&place.ns)
                .into_iter()
                .flat_map(|known| &known.renamed);
            names.map(move |name| LinkAt::new(place.ns.clone(), name))
        };
        places(task, end)
            .flat_map(found_in)
            .find(|place| self.is_at(place, task, end))
    }

    /// Returns the MAC address that a device is to have: the one that is asked for, or the recorded
    /// one.
    pub(super) fn mac_of(&self, task: &Task<'_>, device: &DeviceSpec<'_>) -> Option<Mac> {
        let kept = self
            .plan
            .macs
            .get(&task.resource)
            .map_or(task.macs, Vec::as_slice);
        device.mac.or_else(|| kept.get(device.end).copied())
    }

    /// Records the MAC addresses of devices that keep theirs. An address that is asked for is not
    /// the device's own.
    pub(super) fn record_macs(&mut self, task: &Task<'_>) {
        let Some(desired) = task.desired.filter(|_| task.keep_macs) else {
            return;
        };
        let mut macs = task.macs.to_vec();
        for (mac, device) in macs.iter_mut().zip(desired.devices()) {
            let place = self.locate(task, device.end);
            let known = place.and_then(|place| self.now.link(&place.ns, &place.name)?.mac);
            *mac = known.filter(|_| device.mac.is_none()).unwrap_or(*mac);
        }
        self.plan.macs.insert(task.resource.clone(), macs);
    }

    /// Deletes the existing links of a task. Returns true if there were any.
    fn delete(&mut self, task: &Task<'_>) -> bool {
        if task.is_pair() {
            return self.delete_pair(task);
        }
        let found = self.locate_all(task, 0);
        for place in &found {
            if task.resource.kind == Kind::Bridge {
                self.set_down(task, place, Phase::SetBridgesDown);
            }
            self.delete_link(task, place);
        }
        !found.is_empty()
    }

    fn delete_pair(&mut self, task: &Task<'_>) -> bool {
        match [self.locate(task, 0), self.locate(task, 1)] {
            [None, None] => false,
            [Some(place), None] | [None, Some(place)] => {
                self.forget_untagged_peer(task, &place);
                self.delete_link(task, &place);
                true
            }
            [Some(a), Some(b)] => {
                // The kernel deletes the peer too. Links of one namespace are deleted together, so
                // the end with more links beside it is chosen.
                let company = |place: &LinkAt| {
                    self.now
                        .namespaces
                        .get(&place.ns)
                        .map_or(0, |ns| ns.links.len())
                };
                let (by, other) = if company(&b) > company(&a) {
                    (b, a)
                } else {
                    (a, b)
                };
                self.delete_link(task, &by);
                self.forget_link(&other.ns, &other.name);
                true
            }
        }
    }

    fn delete_link(&mut self, task: &Task<'_>, place: &LinkAt) {
        self.emit(Phase::DeleteLinks, task, place.delete());
        self.forget_link(&place.ns, &place.name);
    }

    /// Brings a task's links to their locations. Returns false while another managed link occupies
    /// one.
    fn place_link(&mut self, task: &Task<'_>) -> bool {
        let Some(spec) = task.desired else {
            return true;
        };
        let places: Vec<LinkAt> = spec.devices().map(|device| device_at(&device)).collect();
        if !places.iter().all(|place| self.ns_is_there(task, &place.ns)) {
            return true;
        }
        match self.find_base(task, spec) {
            BaseState::There => {}
            BaseState::Awaited => return false,
            BaseState::Missing => {
                self.delete(task);
                return true;
            }
        }
        self.adopt_devices(task, spec, &places);
        match &places[..] {
            [first, second] => self.place_pair(task, [first, second]),
            [place] => self.place_device(task, place),
            _ => true,
        }
    }

    fn place_device(&mut self, task: &Task<'_>, place: &LinkAt) -> bool {
        for own in self.locate_all(task, 0) {
            if self.is_to_recreate(task, &own) {
                self.delete_link(task, &own);
            } else {
                self.tag(task, 0, own, None);
            }
        }
        match self.occupant(place, task, 0) {
            Occupant::SameLink => return true,
            Occupant::OtherManaged => return false,
            Occupant::Foreign => {
                self.name_conflict(task, place);
                return true;
            }
            Occupant::Vacant => {}
        }
        let found = self.locate_all(task, 0);
        let can_move = task.device_type().is_some_and(DeviceType::can_move);
        if let Some(old) = found.iter().find(|old| old.ns == place.ns) {
            self.rename(task, old, place);
        } else if let Some(old) = found.first().filter(|_| can_move) {
            self.move_link(task, old, place);
        } else {
            self.delete(task);
            self.create_link(task);
        }
        true
    }

    /// Returns true if a link has the type that its task asks for.
    fn has_type_of(&self, task: &Task<'_>, place: &LinkAt) -> bool {
        let link = self.now.link(&place.ns, &place.name);
        let kind = link.and_then(|link| link.kind.as_deref());
        kind == task.device_type().map(DeviceType::kind)
    }

    /// Returns true if a link has to be created again: what it is cannot be changed.
    fn is_to_recreate(&self, task: &Task<'_>, own: &LinkAt) -> bool {
        let (Some(spec), Some(link)) = (task.desired, self.now.link(&own.ns, &own.name)) else {
            return false;
        };
        !self.has_type_of(task, own)
            || !self.has_base_of(spec, own, link)
            || settings_change(spec, link) == SettingsChange::Recreate
    }

    /// Returns true if a link is on the base that is asked for.
    pub(super) fn has_base_of(&self, spec: &Spec, own: &LinkAt, link: &ObservedLink) -> bool {
        let Some(base) = spec.base_ns() else {
            return true;
        };
        // The kernel names another namespace by its id, and the link's own by none.
        let inside = self.now.namespaces.get(&own.ns);
        let base_id = inside.and_then(|inside| inside.base_netnsids.get(&base));
        let is_base = if base == own.ns {
            link.peer_netnsid.is_none()
        } else {
            base_id.is_some() && link.peer_netnsid.as_ref() == base_id
        };
        let lower = lower_at(spec).and_then(|lower| self.now.link(&lower.ns, &lower.name));
        is_base && link.peer_index == lower.map(|lower| lower.index)
    }

    /// Looks for what a link is created on, and notes why it is pending if that is not there.
    fn find_base(&mut self, task: &Task<'_>, spec: &Spec) -> BaseState {
        if let Some(ns) = spec.base_ns()
            && !self.ns_is_there(task, &ns)
        {
            return BaseState::Missing;
        }
        let Some(lower) = lower_at(spec) else {
            return BaseState::There;
        };
        if self.unplaced.contains(&lower) {
            return BaseState::Awaited;
        }
        let LinkAt { ns, name } = &lower;
        let Some(known) = self.now.link(ns, name) else {
            self.pending(task, format!("there is no {name} in {ns} yet"));
            return BaseState::Missing;
        };
        let own = task.device_type().filter(|own| own.is_flat());
        if let Some(kind) = own.map(DeviceType::kind)
            && known.kind.as_deref() == Some(kind)
        {
            let reason = format!(
                "{name} in {ns} is a {kind} itself, and the kernel puts a {kind} on the device \
                 below: name that one"
            );
            self.conflict_at(task, reason, "/lower".into());
            return BaseState::Missing;
        }
        BaseState::There
    }

    fn place_pair(&mut self, task: &Task<'_>, wanted: [&LinkAt; 2]) -> bool {
        self.tag_pair(task);
        let found = [self.locate(task, 0), self.locate(task, 1)];
        // If one end is missing, the whole pair is created again.
        if let [Some(_), None] | [None, Some(_)] = &found {
            self.delete(task);
        }
        let occupants = [0, 1].map(|end| self.occupant(wanted[end], task, end));
        if let Some(end) = occupants
            .iter()
            .position(|occupant| *occupant == Occupant::Foreign)
        {
            self.name_conflict(task, wanted[end]);
            return true;
        }
        let [Some(first), Some(second)] = found else {
            let free = occupants
                .iter()
                .all(|occupant| *occupant == Occupant::Vacant);
            if free {
                self.create_link(task);
            }
            return free;
        };
        let now = [first, second];
        // An end that takes the other's location is moved after it.
        let order = if *wanted[0] == now[1] { [1, 0] } else { [0, 1] };
        let leaves = |end: usize| now[end] != *wanted[end];
        let can_come = |end: usize| match occupants[end] {
            Occupant::OtherManaged => {
                end == order[1] && leaves(order[0]) && *wanted[end] == now[order[0]]
            }
            _ => true,
        };
        if !order.into_iter().all(can_come) {
            return false;
        }
        for end in order.into_iter().filter(|end| leaves(*end)) {
            if now[end].ns == wanted[end].ns {
                self.rename(task, &now[end], wanted[end]);
            } else {
                self.move_link(task, &now[end], wanted[end]);
            }
        }
        true
    }

    fn name_conflict(&mut self, task: &Task<'_>, place: &LinkAt) {
        let LinkAt { ns, name } = place;
        let (link, resource) = (self.now.link(ns, name), &task.resource);
        let kind = link
            .and_then(|link| link.kind.clone())
            .unwrap_or_else(|| "physical".into());
        let own = task.device_type().map(DeviceType::kind);
        let way_out = match task.ownership {
            Ownership::Keep if Some(&*kind) == own => {
                "choose another name, delete it first, or take it over by PUT with ?adopt=true"
            }
            Ownership::Keep => "choose another name, or delete it first",
            Ownership::Adopt | Ownership::Release(_) if task.is_pair() => {
                "a pair is taken over when both its ends are where they are asked for"
            }
            Ownership::Adopt | Ownership::Release(_) if Some(&*kind) == own => {
                "a link is taken over if what cannot be changed in place is as asked for: write what it has"
            }
            Ownership::Adopt | Ownership::Release(_) => {
                &format!("only a {} is taken over", own.unwrap_or_default())
            }
        };
        let reason =
            format!("{ns} has an interface {name} ({kind}) that is not of {resource}: {way_out}");
        self.conflict(task, reason);
    }

    /// Returns true if the namespace exists, or is created by this plan.
    fn ns_is_there(&mut self, task: &Task<'_>, ns: &Ns) -> bool {
        let known = self.now.namespaces.get(ns);
        if *ns == Ns::Host
            || known.is_some_and(|known| known.inode != 0 && known.alias_of.is_none())
        {
            return true;
        }
        let why = match known {
            Some(known) if known.inaccessible => "cannot be entered",
            Some(known) if known.alias_of.is_some() => "is another namespace",
            _ => "is not there",
        };
        self.pending(task, format!("{ns} {why}"));
        false
    }

    fn create_link(&mut self, task: &Task<'_>) {
        let Some((spec, settings)) = task
            .desired
            .and_then(|spec| Some((spec, LinkSettings::of(spec)?)))
        else {
            return;
        };
        self.note_remade(task);
        let mut ends = Vec::new();
        for device in spec.devices() {
            let end = NewEnd {
                at: device_at(&device),
                owner_tag: task.owner_tag(device.end),
                mac: self.mac_of(task, &device),
                mtu: self.mtu_at_creation(spec, &device),
            };
            let made = self.created(spec, &settings, &end);
            let inside = self.ns_mut(&end.at.ns);
            inside.inherit_sysctls(&end.at.name);
            inside.links.insert(end.at.name.clone(), made);
            ends.push(end);
        }
        if let Spec::Bridge(bridge) = spec {
            self.plan.new_bridges.insert(bridge.name.clone());
        }
        let mut ends = ends.into_iter();
        if let Some(end) = ends.next() {
            let peer = ends.next();
            let new = NewLink {
                settings,
                birthplace: task.birthplace(spec),
                lower: spec.lower().map(|(_, name)| name.to_owned()),
                end,
                peer,
            };
            let op = LinkOp::Create(Box::new(new));
            self.emit(Phase::CreateLinks, task, op.into());
        }
    }

    /// Returns a link as it is after its creation: without an MTU of its own it has that of the
    /// device that it is on.
    fn created(&self, spec: &Spec, settings: &LinkSettings, end: &NewEnd) -> ObservedLink {
        let made = ObservedLink::created(settings, end);
        match end.mtu {
            Some(_) => made,
            None => ObservedLink {
                mtu: self.lower_mtu(spec).map_or(made.mtu, |(_, mtu)| mtu),
                ..made
            },
        }
    }

    /// Returns the device that a link is on and its MTU, which the link has where it is not asked
    /// for one, and may not exceed (`macvlan_change_mtu()`, drivers/net/macvlan.c;
    /// `vlan_dev_change_mtu()`, net/8021q/vlan_dev.c).
    pub(super) fn lower_mtu(&self, spec: &Spec) -> Option<(LinkAt, u32)> {
        let lower = lower_at(spec)?;
        let mtu = self.now.link(&lower.ns, &lower.name)?.mtu;
        Some((lower, mtu))
    }

    /// Returns the MTU to create a device with: one that is more than the device below has is
    /// refused later, or that one's is changed before.
    fn mtu_at_creation(&self, spec: &Spec, device: &DeviceSpec<'_>) -> Option<u32> {
        let most = self.lower_mtu(spec).map_or(u32::MAX, |(_, most)| most);
        self.mtu_of(spec, device).filter(|mtu| *mtu <= most)
    }

    /// Returns the MTU that a device is to have: the one that is asked for or, through an
    /// underlay, what its lower device or its routes leave.
    pub(super) fn mtu_of(&self, spec: &Spec, device: &DeviceSpec<'_>) -> Option<u32> {
        if device.mtu.is_some() {
            return device.mtu;
        }
        let overhead = LinkSettings::of(spec)?.overhead()?;
        let below = match spec.lower() {
            Some(_) => self.lower_mtu(spec).map(|(_, mtu)| mtu),
            None => {
                let base = self.now.namespaces.get(&spec.base_ns()?)?;
                let routed = spec.routed_addresses().into_iter();
                let mtus = routed.filter_map(|address| base.route_mtus.get(&address));
                mtus.min().copied()
            }
        };
        below.map(|mtu| mtu.saturating_sub(overhead))
    }

    /// Renames a link in its namespace.
    fn rename(&mut self, task: &Task<'_>, from: &LinkAt, to: &LinkAt) {
        // Before Linux 6.2 a link that is up cannot be renamed.
        self.set_down(task, from, Phase::SetLinksDown);
        let op = from.set(LinkChange::Name(to.name.clone()));
        self.emit(Phase::Move, task, op);
        let inside = self.ns_mut(&from.ns);
        inside
            .sysctls
            .retain(|key, _| key.interface().as_deref() != Some(&*from.name));
        if let Some(link) = inside.links.remove(&from.name) {
            inside.links.insert(to.name.clone(), link);
        }
        for port in inside
            .links
            .values_mut()
            .filter(|port| port.master.as_deref() == Some(&from.name))
        {
            port.master = Some(to.name.clone());
        }
    }

    fn move_link(&mut self, task: &Task<'_>, from: &LinkAt, to: &LinkAt) {
        self.note_remade(task);
        let op = LinkOp::Move {
            from: from.clone(),
            to: to.clone(),
        };
        self.emit(Phase::Move, task, op.into());
        let link = self.forget_link(&from.ns, &from.name);
        let moved = link.unwrap_or_default().moved();
        let inside = self.ns_mut(&to.ns);
        inside.inherit_sysctls(&to.name);
        inside.links.insert(to.name.clone(), moved);
    }

    /// Tags the ends of a pair if needed. An end without a tag is known by the other one: a crash
    /// between the creation and the second tag, or somebody, removed it.
    fn tag_pair(&mut self, task: &Task<'_>) {
        let found = [0, 1].map(|end| self.locate(task, end));
        for end in 0..2 {
            match (&found[end], &found[1 - end]) {
                (Some(place), _) => self.tag(task, end, place.clone(), None),
                (None, Some(other)) => {
                    if let Some(place) = self.find_untagged_peer(task, end, other) {
                        self.tag(task, end, place, Some(other));
                    }
                }
                (None, None) => {}
            }
        }
    }

    /// Returns the location of an end's peer, if that is where it is asked to be and has no tag.
    fn find_untagged_peer(&self, task: &Task<'_>, end: usize, of: &LinkAt) -> Option<LinkAt> {
        let one = self.now.link(&of.ns, &of.name)?;
        let is_peer = |place: &LinkAt| {
            let link = self
                .now
                .link(&place.ns, &place.name)
                .filter(|link| link.owner_tag.is_none());
            link.is_some_and(|link| {
                link.kind.as_deref() == Some(DeviceType::Veth.kind())
                    && one.peer_index == Some(link.index)
                    && link.peer_index == Some(one.index)
            })
        };
        places(task, end).filter(|place| place != of).find(is_peer)
    }

    /// Removes the untagged peer, which is deleted with this end, from the model.
    fn forget_untagged_peer(&mut self, task: &Task<'_>, left: &LinkAt) {
        for place in (0..2)
            .filter_map(|end| self.find_untagged_peer(task, end, left))
            .collect::<Vec<_>>()
        {
            self.forget_link(&place.ns, &place.name);
        }
    }

    /// Removes a link from the model, with what hung on it. A bridge that is to be pinned may get
    /// another MAC address when a port leaves.
    fn forget_link(&mut self, ns: &Ns, name: &str) -> Option<ObservedLink> {
        let inside = self.now.namespaces.get_mut(ns)?;
        let link = inside.remove_link(name)?;
        if let Some(bridge) = &link.master {
            inside.lose(bridge, LinkEvent::MacChanged);
        }
        Some(link)
    }
}

/// Returns the operation that replaces the owner tag of a link; with `peer` only if that is the
/// other end of its pair.
pub(super) fn set_owner(
    link: &LinkAt,
    was: Option<String>,
    owner_tag: Option<String>,
    peer: Option<&LinkAt>,
) -> Op {
    link.set(LinkChange::Owner {
        was,
        owner_tag,
        peer: peer.cloned(),
    })
}
