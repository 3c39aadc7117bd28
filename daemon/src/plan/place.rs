//! Where links are and how they come to where they should be: made, deleted, moved, renamed.

use netnsd_api::{Bridge, Endpoint, Kind, Mac, Veth};

use super::{Hands, Phase, Planner, Task, settings};
use crate::{
    kernel::{
        DEFAULT_MTU, LinkAt, LinkChange, LinkOp, NewEnd, NewLink, Ns, ObservedLink, Op, ownership,
    },
    model::Spec,
};

/// Returns the location that a bridge is asked to have.
pub(super) fn bridge_at(spec: &Bridge) -> LinkAt {
    LinkAt::new(Ns::of(spec.namespace.as_ref()), spec.device())
}

/// Returns the location that an end of a pair is asked to have.
pub(super) fn end_at(end: &Endpoint) -> LinkAt {
    LinkAt::new(Ns::of(end.namespace.as_ref()), end.device())
}

/// Where a bridge, or an end of a pair, is asked to be and was asked to be before.
fn places<'t>(task: &'t Task<'_>, end: Option<usize>) -> impl Iterator<Item = LinkAt> + 't {
    task.specs().filter_map(move |spec| match (spec, end) {
        (Spec::Bridge(spec), None) => Some(bridge_at(spec)),
        (Spec::Veth(spec), Some(end)) => Some(end_at(&spec.endpoints[end])),
        _ => None,
    })
}

/// Whose link is at a place.
#[derive(Debug, PartialEq, Eq)]
enum Holder {
    Nobody,
    /// The very one that belongs there.
    Itself,
    /// Another link that netnsd made.
    Ours,
    /// A link of others.
    Others,
}

impl Planner<'_> {
    /// Takes away a pair that goes and has one end only. It would not end with a namespace that
    /// goes too: what is left of it is to be gone now, for names are asked for again before the
    /// kernel clears a namespace.
    pub(super) fn take_half(&mut self, task: &Task<'_>) {
        let is_half = || self.find_end(task, 0).is_some() != self.find_end(task, 1).is_some();
        if task.desired.is_none() && task.resource.kind == Kind::Veth && is_half() {
            self.delete(task);
        }
    }

    /// Takes away what a task no longer wants to have at all.
    pub(super) fn take_away(&mut self, task: &Task<'_>) {
        if task.desired.is_some() {
            return;
        }
        match task.resource.kind {
            Kind::Namespace => self.take_namespace(task),
            Kind::Bridge | Kind::Veth => {
                self.delete(task);
            }
        }
    }

    /// Brings every link to its place. Names change hands in turn: who finds its place held by
    /// another link of ours waits until that has left; of those that wait for each other one is
    /// deleted, and made anew once it can be.
    pub(super) fn arrange(&mut self, tasks: &[&Task<'_>]) {
        let mut waiting: Vec<&Task<'_>> = tasks.to_vec();
        while !waiting.is_empty() {
            let before = waiting.len();
            waiting.retain(|task| !self.arrive(task));
            if waiting.len() == before && !waiting.iter().any(|task| self.delete(task)) {
                // What holds their places is not where it was left: it goes with the rest of its
                // own, or the kernel refuses.
                for task in waiting {
                    self.make(task);
                }
                return;
            }
        }
    }

    /// Whether a link of this task is at this place.
    pub(super) fn is_there(&self, place: &LinkAt, task: &Task<'_>, end: Option<usize>) -> bool {
        self.holder(place, task, end) == Holder::Itself
    }

    fn holder(&self, place: &LinkAt, task: &Task<'_>, end: Option<usize>) -> Holder {
        let Some(link) = self.now.link(&place.ns, &place.name) else {
            return Holder::Nobody;
        };
        match link.owner_tag.as_deref() {
            Some(tag) if task.owns(tag, end) => Holder::Itself,
            Some(tag) if ownership::parse(tag).is_some() => Holder::Ours,
            None if link.kind.as_deref() == Some(task.resource.kind.as_str())
                && self.remembers(task, place, link) =>
            {
                Holder::Itself
            }
            _ => Holder::Others,
        }
    }

    /// Returns true if a link without a tag was last seen as the task's own at this place.
    fn remembers(&self, task: &Task<'_>, place: &LinkAt, link: &ObservedLink) -> bool {
        let cookie = self
            .now
            .namespaces
            .get(&place.ns)
            .map_or(0, |known| known.cookie);
        task.remembers(&place.ns, cookie, link.index)
    }

    /// Tags a link of the task's own where its tag is missing, or is a legacy one; with `peer` only
    /// if that is its other end.
    fn tag(&mut self, task: &Task<'_>, end: Option<usize>, place: LinkAt, peer: Option<&LinkAt>) {
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

    /// The place, of those where it was ever asked to be, where an end of the pair is now.
    fn find_end(&self, task: &Task<'_>, end: usize) -> Option<LinkAt> {
        places(task, Some(end))
            .find(|place| self.is_there(place, task, Some(end)))
            .or_else(|| self.strayed(task, Some(end)))
    }

    /// A link of a task that somebody renamed.
    fn strayed(&self, task: &Task<'_>, end: Option<usize>) -> Option<LinkAt> {
        let found_in = |place: LinkAt| {
            let names = self
                .now
                .namespaces
                .get(&place.ns)
                .into_iter()
                .flat_map(|known| &known.strayed);
            names.map(move |name| LinkAt::new(place.ns.clone(), name))
        };
        places(task, end)
            .flat_map(found_in)
            .find(|place| self.is_there(place, task, end))
    }

    /// The address that a device has: the one that is asked for, or the one that it keeps.
    pub(super) fn mac_of(
        &self,
        task: &Task<'_>,
        asked: Option<Mac>,
        end: Option<usize>,
    ) -> Option<Mac> {
        let kept = self
            .plan
            .macs
            .get(&task.resource)
            .map_or(task.macs, Vec::as_slice);
        asked.or_else(|| kept.get(end.unwrap_or_default()).copied())
    }

    /// Finds out which addresses devices have that keep them. One that is asked for is no device's
    /// own.
    pub(super) fn keep_macs(&mut self, task: &Task<'_>) {
        let Some(desired) = task.desired.filter(|_| task.keep_macs) else {
            return;
        };
        let mut macs = task.macs.to_vec();
        for (end, (mac, asked)) in macs.iter_mut().zip(desired.asked_macs()).enumerate() {
            let place = match desired {
                Spec::Veth(_) => self.find_end(task, end),
                _ => self.find_bridges(task).into_iter().next(),
            };
            let known = place.and_then(|place| self.now.link(&place.ns, &place.name)?.mac);
            *mac = known.filter(|_| asked.is_none()).unwrap_or(*mac);
        }
        self.plan.macs.insert(task.resource.clone(), macs);
    }

    fn find_bridges(&self, task: &Task<'_>) -> Vec<LinkAt> {
        let mut found: Vec<LinkAt> = Vec::new();
        for place in places(task, None) {
            if !found.contains(&place) && self.is_there(&place, task, None) {
                found.push(place);
            }
        }
        if found.is_empty() {
            found.extend(self.strayed(task, None));
        }
        found
    }

    /// Deletes what there is of a task's links. Whether there was anything.
    fn delete(&mut self, task: &Task<'_>) -> bool {
        match task.resource.kind {
            Kind::Namespace => false,
            Kind::Bridge => {
                let found = self.find_bridges(task);
                for place in &found {
                    self.lower(task, place, Phase::LowerBridges);
                    self.delete_link(task, place);
                }
                !found.is_empty()
            }
            Kind::Veth => match [self.find_end(task, 0), self.find_end(task, 1)] {
                [None, None] => false,
                [Some(place), None] | [None, Some(place)] => {
                    self.forget_untagged_peer(task, &place);
                    self.delete_link(task, &place);
                    true
                }
                [Some(a), Some(b)] => {
                    // The kernel takes the other end along. Links of one namespace are deleted
                    // together, so by the end that has more company.
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
            },
        }
    }

    fn delete_link(&mut self, task: &Task<'_>, place: &LinkAt) {
        self.emit(Phase::TakeLinks, task, place.delete());
        self.forget_link(&place.ns, &place.name);
    }

    /// Brings a task's links to their places. Whether that is settled: false while another link of
    /// ours is in the way.
    fn arrive(&mut self, task: &Task<'_>) -> bool {
        match task.desired {
            Some(Spec::Bridge(spec)) => self.arrive_bridge(task, spec),
            Some(Spec::Veth(spec)) => self.arrive_veth(task, spec),
            _ => true,
        }
    }

    fn arrive_bridge(&mut self, task: &Task<'_>, spec: &Bridge) -> bool {
        let place = bridge_at(spec);
        if !self.ns_is_there(task, &place.ns) {
            return true;
        }
        self.adopt_bridge(task, &place);
        for own in self.find_bridges(task) {
            self.tag(task, None, own, None);
        }
        match self.holder(&place, task, None) {
            Holder::Itself => return true,
            Holder::Ours => return false,
            Holder::Others => {
                self.name_conflict(task, &place);
                return true;
            }
            Holder::Nobody => {}
        }
        match self
            .find_bridges(task)
            .into_iter()
            .find(|old| old.ns == place.ns)
        {
            Some(old) => self.rename(task, &old, &place),
            None => {
                // A bridge cannot change its namespace (NETIF_F_NETNS_LOCAL,
                // net/bridge/br_device.c).
                self.delete(task);
                self.make(task);
            }
        }
        true
    }

    fn arrive_veth(&mut self, task: &Task<'_>, spec: &Veth) -> bool {
        let wanted = [0, 1].map(|end| end_at(&spec.endpoints[end]));
        if !wanted.iter().all(|place| self.ns_is_there(task, &place.ns)) {
            return true;
        }
        self.adopt_pair(task, &wanted);
        self.tag_pair(task);
        let found = [self.find_end(task, 0), self.find_end(task, 1)];
        // A pair of which one end is not where it was left is no pair any more.
        if let [Some(_), None] | [None, Some(_)] = &found {
            self.delete(task);
        }
        let holders = [0, 1].map(|end| self.holder(&wanted[end], task, Some(end)));
        if let Some(end) = holders.iter().position(|holder| *holder == Holder::Others) {
            self.name_conflict(task, &wanted[end]);
            return true;
        }
        let [Some(first), Some(second)] = found else {
            let free = holders.iter().all(|holder| *holder == Holder::Nobody);
            if free {
                self.make(task);
            }
            return free;
        };
        let now = [first, second];
        // An end that takes the other's place comes after it.
        let order = if wanted[0] == now[1] { [1, 0] } else { [0, 1] };
        let leaves = |end: usize| now[end] != wanted[end];
        let can_come = |end: usize| match holders[end] {
            Holder::Ours => end == order[1] && leaves(order[0]) && wanted[end] == now[order[0]],
            _ => true,
        };
        if !order.into_iter().all(can_come) {
            return false;
        }
        for end in order.into_iter().filter(|end| leaves(*end)) {
            if now[end].ns == wanted[end].ns {
                self.rename(task, &now[end], &wanted[end]);
            } else {
                self.move_link(task, &now[end], &wanted[end]);
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
        let way_out = match task.hands {
            Hands::Stay if kind == resource.kind.as_str() => {
                "choose another name, delete it first, or take it over by PUT with ?adopt=true"
            }
            Hands::Stay => "choose another name, or delete it first",
            _ if resource.kind == Kind::Bridge => "only a bridge is taken over",
            _ => "a pair is taken over when both its ends are where they are asked for",
        };
        let reason =
            format!("{ns} has an interface {name} ({kind}) that is not of {resource}: {way_out}");
        self.conflict(task, reason);
    }

    /// Whether the namespace of a place is there (or made by this plan).
    fn ns_is_there(&mut self, task: &Task<'_>, ns: &Ns) -> bool {
        let known = self.now.namespaces.get(ns);
        if *ns == Ns::Host
            || known.is_some_and(|known| known.inode != 0 && known.alias_of.is_none())
        {
            return true;
        }
        let why = match known {
            Some(known) if known.closed => "cannot be entered",
            Some(known) if known.alias_of.is_some() => "is another namespace",
            _ => "is not there",
        };
        self.pending(task, format!("{ns} {why}"));
        false
    }

    fn make(&mut self, task: &Task<'_>) {
        self.note_remade(task);
        match task.desired {
            Some(Spec::Bridge(spec)) => self.make_bridge(task, spec),
            Some(Spec::Veth(spec)) => self.make_pair(task, spec),
            _ => {}
        }
    }

    fn make_bridge(&mut self, task: &Task<'_>, spec: &Bridge) {
        let place = bridge_at(spec);
        let (owner_tag, mac) = (task.owner_tag(None), self.mac_of(task, spec.mac, None));
        let new = NewLink::Bridge {
            end: NewEnd {
                at: place.clone(),
                owner_tag: owner_tag.clone(),
                mac,
                mtu: spec.mtu,
            },
            settings: settings::bridge_settings(spec),
        };
        let op = LinkOp::Create(Box::new(new));
        self.emit(Phase::MakeBridges, task, op.into());
        let made = ObservedLink {
            kind: Some("bridge".into()),
            owner_tag: Some(owner_tag),
            mac,
            mtu: spec.mtu.unwrap_or(DEFAULT_MTU),
            bridge: Some(settings::made_bridge(spec)),
            ..ObservedLink::default()
        };
        let inside = self.ns_mut(&place.ns);
        inside.inherit_sysctls(&place.name);
        inside.links.insert(place.name, made);
        self.plan.new_bridges.insert(spec.name.clone());
    }

    fn make_pair(&mut self, task: &Task<'_>, spec: &Veth) {
        let ends = [0, 1].map(|end| {
            let (spec, owner_tag) = (&spec.endpoints[end], task.owner_tag(Some(end)));
            NewEnd {
                at: end_at(spec),
                owner_tag,
                mac: self.mac_of(task, spec.mac, Some(end)),
                mtu: spec.mtu,
            }
        });
        for end in &ends {
            let made = ObservedLink {
                kind: Some("veth".into()),
                owner_tag: Some(end.owner_tag.clone()),
                mac: end.mac,
                mtu: end.mtu.unwrap_or(DEFAULT_MTU),
                ..ObservedLink::default()
            };
            let inside = self.ns_mut(&end.at.ns);
            inside.inherit_sysctls(&end.at.name);
            inside.links.insert(end.at.name.clone(), made);
        }
        let op = LinkOp::Create(Box::new(NewLink::Veth { ends }));
        self.emit(Phase::MakeVeths, task, op.into());
    }

    /// Gives a link another name in its namespace.
    fn rename(&mut self, task: &Task<'_>, from: &LinkAt, to: &LinkAt) {
        // Before Linux 6.2 a link that is up cannot be renamed.
        self.lower(task, from, Phase::Lower);
        let op = from.set(LinkChange::Name(to.name.clone()));
        self.emit(Phase::Move, task, op);
        let inside = self.ns_mut(&from.ns);
        inside.forget_sysctls(&from.name);
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
        let link = self
            .now
            .link(&from.ns, &from.name)
            .cloned()
            .unwrap_or_default();
        self.forget_link(&from.ns, &from.name);
        // A move takes it down and away from its bridge, and clears its addresses and its
        // addrgenmode.
        let moved = ObservedLink {
            up: false,
            carrier: false,
            master: None,
            port: None,
            addresses: Vec::new(),
            addr_gen_none: false,
            ..link
        };
        let inside = self.ns_mut(&to.ns);
        inside.inherit_sysctls(&to.name);
        inside.links.insert(to.name.clone(), moved);
    }

    /// Tags the ends of a pair where they need it. An end without a tag is known by the other one:
    /// a crash between making a pair and tagging its second end leaves one, or somebody took the
    /// tag off.
    fn tag_pair(&mut self, task: &Task<'_>) {
        let found = [0, 1].map(|end| self.find_end(task, end));
        for end in 0..2 {
            match (&found[end], &found[1 - end]) {
                (Some(place), _) => self.tag(task, Some(end), place.clone(), None),
                (None, Some(other)) => {
                    if let Some(place) = self.find_untagged_peer(task, end, other) {
                        self.tag(task, Some(end), place, Some(other));
                    }
                }
                (None, None) => {}
            }
        }
    }

    /// Finds the other end of the pair that this one belongs to, where it is asked to be and bears
    /// no tag.
    fn find_untagged_peer(&self, task: &Task<'_>, end: usize, of: &LinkAt) -> Option<LinkAt> {
        let one = self.now.link(&of.ns, &of.name)?;
        let is_peer = |place: &LinkAt| {
            let link = self
                .now
                .link(&place.ns, &place.name)
                .filter(|link| link.owner_tag.is_none());
            link.is_some_and(|link| {
                link.kind.as_deref() == Some(Kind::Veth.as_str())
                    && one.peer_index == Some(link.index)
                    && link.peer_index == Some(one.index)
            })
        };
        places(task, Some(end))
            .filter(|place| place != of)
            .find(is_peer)
    }

    /// Takes the other end of a pair, which goes with this one, out of the model where it bears no
    /// tag.
    fn forget_untagged_peer(&mut self, task: &Task<'_>, left: &LinkAt) {
        for place in (0..2)
            .filter_map(|end| self.find_untagged_peer(task, end, left))
            .collect::<Vec<_>>()
        {
            self.forget_link(&place.ns, &place.name);
        }
    }

    /// Takes a link out of the model, with its routes, neighbours and sysctls.
    fn forget_link(&mut self, ns: &Ns, name: &str) {
        let Some(inside) = self.now.namespaces.get_mut(ns) else {
            return;
        };
        if let Some(bridge) = inside.links.remove(name).and_then(|link| link.master) {
            inside.forget_neighbours(&bridge);
        }
        inside.forget_hanging(name);
        inside.forget_sysctls(name);
        for link in inside
            .links
            .values_mut()
            .filter(|link| link.master.as_deref() == Some(name))
        {
            link.master = None;
            link.port = None;
        }
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
