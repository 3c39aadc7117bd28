//! Namespaces: creation, tag, id; neighbours, and the order of what is inside.

use std::collections::BTreeSet;

use netnsd_api::{Namespace, Neighbour, NetnsId, RouteType};

use super::{Phase, Planner, Task, address::wanted_addresses, place::set_owner};
use crate::{
    kernel::{
        LOOPBACK, LinkAt, NamespaceChange, NeighbourChange, Ns, ObservedLink, ObservedNs, Op,
        StalePin, ownership,
    },
    model::{Spec, SpecOf},
};

impl Planner<'_> {
    pub(super) fn delete_namespace(&mut self, task: &Task<'_>) {
        let ns = Ns::Named(task.resource.name.clone());
        let Some(known) = self.now.namespaces.get(&ns) else {
            return;
        };
        if known.inaccessible || known.inode != 0 && !self.is_own_namespace(task, &ns) {
            return;
        }
        let name = task.resource.name.clone();
        let is_there = known.inode != 0
            || known
                .stale
                .as_ref()
                .is_some_and(|stale| is_lost_pin(task, stale));
        if task
            .applied
            .iter()
            .all(|spec| !matches!(spec, Spec::Namespace(spec) if spec.attach.is_some()))
        {
            let foreign: Vec<String> = foreign_links(known).collect();
            if !foreign.is_empty() {
                self.plan
                    .foreign_links
                    .insert(task.resource.clone(), foreign);
            }
        }
        let dns = known.dns.clone();
        self.plan_dns(task, &name, None, &dns);
        if is_there {
            let op = Op::namespace(&name, NamespaceChange::Delete);
            self.emit(Phase::DeleteNamespaces, task, op);
        }
        self.now.namespaces.remove(&ns);
    }

    /// Returns true if the namespace is the task's own: by its tag, or, if somebody removed that,
    /// by its last known identity.
    fn is_own_namespace(&self, task: &Task<'_>, ns: &Ns) -> bool {
        let known = self
            .now
            .namespaces
            .get(ns)
            .filter(|known| known.alias_of.is_none());
        known.is_some_and(|known| match &known.owner_tag {
            Some(tag) => task.owns(tag, 0),
            None => task.remembers(ns, known.cookie, LOOPBACK),
        })
    }

    /// Tags the task's own namespace if its tag is missing or legacy.
    fn tag_namespace(&mut self, task: &Task<'_>, ns: &Ns) {
        let owner_tag = task.owner_tag(0);
        if !self.is_own_namespace(task, ns) {
            return;
        }
        let was = self.ns_mut(ns).owner_tag.replace(owner_tag.clone());
        if was.as_ref() != Some(&owner_tag) {
            let lo = LinkAt::loopback(ns.clone());
            let op = set_owner(&lo, was, Some(owner_tag), None);
            self.emit(Phase::Adopt, task, op);
        }
    }

    pub(super) fn plan_namespace(&mut self, task: &Task<'_>, spec: &Namespace) {
        let ns = Ns::Named(spec.name.clone());
        let owner_tag = task.owner_tag(0);
        let name = spec.name.clone();
        self.adopt_namespace(task, &ns);
        self.tag_namespace(task, &ns);
        match self.now.namespaces.get(&ns) {
            Some(known) if known.inaccessible => {
                let reason = "cannot be entered: it is no network namespace, or not netnsd's: choose another name, or delete it";
                return self.conflict(task, format!("/run/netns/{name} {reason}"));
            }
            Some(ObservedNs {
                alias_of: Some(alias),
                ..
            }) => {
                let reason = match alias {
                    Ns::Host => {
                        "the host's own network namespace, whose interfaces belong to no namespace"
                            .to_owned()
                    }
                    other => format!("{other} already, and one namespace has one name"),
                };
                return self.conflict(
                    task,
                    format!(
                        "/run/netns/{name} is {reason}: choose another name, or remove that one"
                    ),
                );
            }
            Some(ObservedNs {
                stale: Some(stale), ..
            }) if !is_lost_pin(task, stale) => {
                let reason =
                    format!("/run/netns/{name} is {stale}: remove it, or choose another name");
                return self.conflict(task, reason);
            }
            Some(known) if known.inode != 0 && known.owner_tag.as_ref() != Some(&owner_tag) => {
                return self.conflict(
                    task,
                    format!(
                        "/run/netns/{name} exists, and netnsd did not make it: choose another name, delete it first, or take \
                         it over by PUT with ?adopt=true"
                    ),
                );
            }
            Some(known) if known.inode != 0 => {}
            known => {
                let dns = known.map(|known| known.dns.clone()).unwrap_or_default();
                if known.is_some_and(|known| known.stale.is_some()) {
                    let op = Op::namespace(&name, NamespaceChange::Delete);
                    self.emit(Phase::DeleteNamespaces, task, op);
                }
                let change = match &spec.attach {
                    Some(attach) if task.is_new => NamespaceChange::Attach {
                        pid: attach.pid,
                        owner_tag: owner_tag.clone(),
                    },
                    _ => NamespaceChange::Create {
                        owner_tag: owner_tag.clone(),
                    },
                };
                let op = Op::namespace(&name, change);
                self.emit(Phase::CreateNamespaces, task, op);
                self.now.namespaces.insert(
                    ns.clone(),
                    ObservedNs {
                        owner_tag: Some(owner_tag),
                        inode: 1,
                        link_count: 1,
                        dns,
                        ..ObservedNs::default()
                    },
                );
                self.plan.new_namespaces.insert(name.clone());
            }
        }
        let known = self.ns_mut(&ns);
        let (netnsid, loopback, dns) = (known.netnsid, known.loopback, known.dns.clone());
        let id_is_right = match spec.netnsid {
            Some(NetnsId::Id(id)) => netnsid == Some(id),
            Some(NetnsId::Auto) => netnsid.is_some(),
            None => true,
        };
        if let (Some(id), false) = (spec.netnsid, id_is_right) {
            let op = Op::namespace(&name, NamespaceChange::SetId(id));
            self.emit_retriable(Phase::SetNetnsIds, task, op);
        }
        if loopback != spec.loopback {
            let op = Op::namespace(&name, NamespaceChange::SetLoopbackUp(spec.loopback));
            self.emit(Phase::Addresses, task, op);
            let inside = self.ns_mut(&ns);
            inside.loopback = spec.loopback;
            if let Some(lo) = inside.links.get_mut("lo") {
                lo.up = spec.loopback;
                if !spec.loopback {
                    lo.addresses.retain(|address| !address.is_ipv6());
                }
            }
            if !spec.loopback {
                // In IPv6 local routes are on `lo`, and those that reject
                // (`ip6_route_info_create()`, net/ipv6/route.c). IPv4 keeps them.
                inside.routes.retain(|known| match known.route.kind {
                    RouteType::Unicast => true,
                    RouteType::Local => !known.ipv6 || known.route.interface.is_some(),
                    RouteType::Blackhole
                    | RouteType::Unreachable
                    | RouteType::Prohibit
                    | RouteType::Throw => !known.ipv6,
                });
            }
        }
        self.plan_loopback_addresses(task, &ns, spec);
        self.plan_dns(task, &name, spec.dns.as_ref(), &dns);
        self.shared_sysctls(task, spec);
    }

    fn plan_loopback_addresses(&mut self, task: &Task<'_>, ns: &Ns, spec: &Namespace) {
        let earlier = || {
            let specs = task.applied.iter().filter_map(Namespace::of);
            specs.map(|spec| spec.addresses.as_slice())
        };
        if spec.addresses.is_empty() && earlier().all(<[_]>::is_empty) {
            return;
        }
        let lo = LinkAt::loopback(ns.clone());
        let inside = self.ns_mut(ns);
        let up = inside.loopback;
        // A new namespace was not read.
        let link = inside.links.entry(lo.name.clone());
        let mtu = link.or_insert_with(|| new_loopback(up)).mtu;
        let wanted = wanted_addresses(&lo.name, &spec.addresses, earlier());
        self.plan_addresses(task, &lo, &wanted, mtu);
    }

    /// Plans what depends on links: sysctls of interfaces, neighbours, rules, routes.
    pub(super) fn plan_contents(&mut self, task: &Task<'_>, spec: &Namespace) {
        if self.in_conflict(task) {
            return;
        }
        self.link_sysctls(task, spec);
        let ns = Ns::Named(spec.name.clone());
        // Nothing there changes any more, and a copy may be large.
        let known = std::mem::take(self.ns_mut(&ns));
        self.plan_neighbours(task, spec, &known);
        self.plan_rules(task, spec, &known);
        self.plan_routes(task, spec, &known);
        *self.ns_mut(&ns) = known;
    }

    fn plan_neighbours(&mut self, task: &Task<'_>, spec: &Namespace, known: &ObservedNs) {
        let ns = Ns::Named(spec.name.clone());
        let there: BTreeSet<&Neighbour> = known.neighbours.iter().collect();
        let wanted: BTreeSet<_> = spec.neighbours.iter().map(Neighbour::key).collect();
        let gone = task
            .applied
            .iter()
            .filter_map(|spec| match spec {
                Spec::Namespace(old) => Some(&old.neighbours),
                _ => None,
            })
            .flatten()
            .filter(|old| !wanted.contains(&old.key()) && there.contains(old));
        for neighbour in gone {
            let op = Op::neighbour(&ns, NeighbourChange::Delete(neighbour.clone()));
            self.emit(Phase::DeleteRoutes, task, op);
        }
        for neighbour in spec
            .neighbours
            .iter()
            .filter(|neighbour| !there.contains(neighbour))
        {
            match known.links.get(neighbour.interface.as_str()) {
                Some(link) if link.up => {
                    let op = Op::neighbour(&ns, NeighbourChange::Set(neighbour.clone()));
                    self.emit_retriable(Phase::Neighbours, task, op);
                }
                Some(_) => self.pending(
                    task,
                    format!(
                        "neighbour {} waits for {} to be up",
                        neighbour.address, neighbour.interface
                    ),
                ),
                None => {
                    self.pending(
                        task,
                        format!(
                            "neighbour {} waits for the interface {}",
                            neighbour.address, neighbour.interface
                        ),
                    );
                }
            }
        }
    }
}

/// Returns the `lo` of a new namespace (`loopback_setup()`, drivers/net/loopback.c).
fn new_loopback(up: bool) -> ObservedLink {
    ObservedLink {
        index: LOOPBACK,
        mtu: 65536,
        up,
        ..ObservedLink::default()
    }
}

/// Returns true for the remains of a namespace whose mount was lost. Under a recorded name that is
/// any file, and also a link to a process that ended: it was adopted so.
fn is_lost_pin(task: &Task<'_>, stale: &StalePin) -> bool {
    match stale {
        StalePin::Lost => true,
        StalePin::File | StalePin::Link { dangling: true, .. } => !task.is_new,
        StalePin::Link { .. } | StalePin::Other(_) => false,
    }
}

/// Lists the links that netnsd did not make, with their types, without those that the kernel makes
/// in each namespace (`FALLBACK`).
fn foreign_links(known: &ObservedNs) -> impl Iterator<Item = String> {
    known.links.iter().filter_map(|(name, link)| {
        let kind = link.kind.as_deref().unwrap_or("physical");
        let is_own = link
            .owner_tag
            .as_deref()
            .is_some_and(|tag| ownership::parse(tag).is_some());
        (!is_own && !FALLBACK.contains(&(name.as_str(), kind))).then(|| format!("{name} ({kind})"))
    })
}

/// The fallback devices of tunnels, by name and kind, which come with each namespace
/// (`net.core.fb_tunnels_only_for_init_net`).
const FALLBACK: [(&str, &str); 9] = [
    ("tunl0", "ipip"),
    ("sit0", "sit"),
    ("gre0", "gre"),
    ("gretap0", "gretap"),
    ("erspan0", "erspan"),
    ("ip6tnl0", "ip6tnl"),
    ("ip6gre0", "ip6gre"),
    ("ip_vti0", "vti"),
    ("ip6_vti0", "vti6"),
];
