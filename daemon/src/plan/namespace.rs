//! Namespaces: made, tagged, identified; and what is inside them beside links.

use std::net::IpAddr;

use netnsd_api::{Destination, Namespace, NetnsId, Route, RouteType, is_link_local};

use super::{
    Hands, Phase, Planner, Task,
    place::{Place, set_owner},
};
use crate::{
    engine::Spec,
    kernel::{
        LOOPBACK, Ns, ObservedLink, ObservedNs, ObservedRoute, Op, RT_TABLE_LOCAL, RT_TABLE_MAIN, StalePin, ownership,
        protocol,
    },
};

impl Planner<'_> {
    pub(super) fn take_namespace(&mut self, task: &Task<'_>) {
        let ns = Ns::Named(task.resource.name.clone());
        let Some(known) = self.now.namespaces.get(&ns) else { return };
        if known.closed || known.inode != 0 && !self.is_own_namespace(task, &ns) {
            return;
        }
        let name = task.resource.name.clone();
        let is_there = known.inode != 0 || known.stale.as_ref().is_some_and(|stale| is_lost_pin(task, stale));
        if task.applied.iter().all(|spec| !matches!(spec, Spec::Namespace(spec) if spec.attach.is_some())) {
            let foreign: Vec<String> = foreign_links(known).collect();
            if !foreign.is_empty() {
                self.plan.foreign_links.insert(task.resource.clone(), foreign);
            }
        }
        let dns = known.dns.clone();
        self.plan_dns(task, &name, None, &dns);
        if is_there {
            self.emit(Phase::TakeNamespaces, task, Op::NamespaceDelete { name });
        }
        self.now.namespaces.remove(&ns);
    }

    /// Returns true if the namespace of this name is the task's own: by its tag, or, where somebody took that off, by what is
    /// remembered of it.
    fn is_own_namespace(&self, task: &Task<'_>, ns: &Ns) -> bool {
        let known = self.now.namespaces.get(ns).filter(|known| known.alias_of.is_none());
        known.is_some_and(|known| match &known.owner_tag {
            Some(tag) => task.owns(tag, None),
            None => task.remembers(ns, known.cookie, LOOPBACK),
        })
    }

    /// Tags the task's own namespace where its tag is missing, or is a legacy one.
    fn tag_namespace(&mut self, task: &Task<'_>, ns: &Ns) {
        let owner_tag = task.owner_tag(None);
        if !self.is_own_namespace(task, ns) {
            return;
        }
        let was = self.ns_mut(ns).owner_tag.replace(owner_tag.clone());
        if was.as_ref() != Some(&owner_tag) {
            let lo = Place { ns: ns.clone(), name: "lo".into() };
            self.emit(Phase::Adopt, task, set_owner(lo, was, Some(owner_tag), None));
        }
    }

    pub(super) fn namespace(&mut self, task: &Task<'_>, spec: &Namespace) {
        let ns = Ns::Named(spec.name.clone());
        let owner_tag = task.owner_tag(None);
        let name = spec.name.clone();
        self.adopt_namespace(task, &ns);
        self.tag_namespace(task, &ns);
        match self.now.namespaces.get(&ns) {
            Some(known) if known.closed => {
                let reason =
                    "cannot be entered: it is no network namespace, or not netnsd's: choose another name, or delete it";
                return self.conflict(task, format!("/run/netns/{name} {reason}"));
            }
            Some(ObservedNs { alias_of: Some(alias), .. }) => {
                let reason = match alias {
                    Ns::Host => "the host's own network namespace, whose interfaces belong to no namespace".to_owned(),
                    other => format!("{other} already, and one namespace has one name"),
                };
                return self
                    .conflict(task, format!("/run/netns/{name} is {reason}: choose another name, or remove that one"));
            }
            Some(ObservedNs { stale: Some(stale), .. }) if !is_lost_pin(task, stale) => {
                let reason = format!("/run/netns/{name} is {stale}: remove it, or choose another name");
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
                    self.emit(Phase::TakeNamespaces, task, Op::NamespaceDelete { name: name.clone() });
                }
                let op = match &spec.attach {
                    Some(attach) if task.new => {
                        Op::NamespaceAttach { name: name.clone(), pid: attach.pid, owner_tag: owner_tag.clone() }
                    }
                    _ => Op::NamespaceAdd { name: name.clone(), owner_tag: owner_tag.clone() },
                };
                self.emit(Phase::MakeNamespaces, task, op);
                self.now.namespaces.insert(
                    ns.clone(),
                    ObservedNs { owner_tag: Some(owner_tag), inode: 1, link_count: 1, dns, ..ObservedNs::default() },
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
            self.emit(Phase::Identify, task, Op::NetnsIdSet { name: name.clone(), id });
        }
        if loopback != spec.loopback {
            self.emit(Phase::Addresses, task, Op::LoopbackSet { name: name.clone(), up: spec.loopback });
            let inside = self.ns_mut(&ns);
            inside.loopback = spec.loopback;
            if !spec.loopback {
                // In IPv6 what rejects hangs on `lo` (`ip6_route_info_create()`, net/ipv6/route.c).
                inside.routes.retain(|known| !known.ipv6 || known.route.kind == RouteType::Unicast);
            }
        }
        self.plan_dns(task, &name, spec.dns.as_ref(), &dns);
        self.shared_sysctls(task, spec);
    }

    /// What hangs on links: sysctls of interfaces, routes, neighbours.
    pub(super) fn inside(&mut self, task: &Task<'_>, spec: &Namespace) {
        if self.in_conflict(task) {
            return;
        }
        self.link_sysctls(task, spec);
        let ns = Ns::Named(spec.name.clone());
        // Nothing there changes any more, and it may be large.
        let known = std::mem::take(self.ns_mut(&ns));
        self.neighbours(task, spec, &known);
        self.routes(task, spec, &known);
        *self.ns_mut(&ns) = known;
    }

    fn neighbours(&mut self, task: &Task<'_>, spec: &Namespace, known: &ObservedNs) {
        let gone = task
            .applied
            .iter()
            .filter_map(|spec| match spec {
                Spec::Namespace(old) => Some(&old.neighbours),
                _ => None,
            })
            .flatten()
            .filter(|old| {
                !spec.neighbours.iter().any(|new| new.address == old.address && new.interface == old.interface)
            })
            .filter(|old| known.neighbours.contains(old));
        for neighbour in gone {
            self.emit(
                Phase::TakeRoutes,
                task,
                Op::NeighbourDelete { name: spec.name.clone(), neighbour: neighbour.clone() },
            );
        }
        for neighbour in spec.neighbours.iter().filter(|neighbour| !known.neighbours.contains(neighbour)) {
            match known.links.get(neighbour.interface.as_str()) {
                Some(link) if link.up => {
                    let op = Op::NeighbourAdd { name: spec.name.clone(), neighbour: neighbour.clone() };
                    self.emit_waiting(Phase::Neighbours, task, op);
                }
                Some(_) => self.pending(
                    task,
                    format!("neighbour {} waits for {} to be up", neighbour.address, neighbour.interface),
                ),
                None => {
                    self.pending(
                        task,
                        format!("neighbour {} waits for the interface {}", neighbour.address, neighbour.interface),
                    );
                }
            }
        }
    }

    fn routes(&mut self, task: &Task<'_>, spec: &Namespace, known: &ObservedNs) {
        for old in known.routes.iter().filter(|old| old.ours) {
            if !spec.routes.iter().any(|route| same_key(route, old)) {
                self.emit(Phase::TakeRoutes, task, Op::RouteDelete { name: spec.name.clone(), route: old.as_route() });
            }
        }
        for (i, route) in spec.routes.iter().enumerate() {
            let same: Vec<&ObservedRoute> = known.routes.iter().filter(|other| same_key(route, other)).collect();
            let missing = missing(route, known, spec);
            let right = same.iter().find(|other| fulfils(other, route) && task.keeps_extras(i, other));
            let (name, protocol) = (spec.name.clone(), task.protocol_of(i));
            let ours = same.iter().find(|other| other.ours);
            if let (Some(old), Some(_)) = (ours, &missing) {
                // What was asked for before; or the kernel keeps it though nothing reaches its gateway any more, and made afresh it
                // would not take it.
                self.emit(Phase::TakeRoutes, task, Op::RouteDelete { name: name.clone(), route: old.as_route() });
            } else if right.is_some_and(|other| task.hands == Hands::Stay || other.protocol == protocol) {
                continue;
            }
            if let Some(other) = in_the_way(task, &same) {
                if let (Some(old), None) = (ours, &missing) {
                    // The kernel would take the first of them for the one to be replaced (`fib_table_insert()`, net/ipv4/fib_trie.c).
                    self.emit(Phase::TakeRoutes, task, Op::RouteDelete { name, route: old.as_route() });
                }
                let reason = format!(
                    "{} is in the way, and netnsd did not make it: delete it, or give this route another metric",
                    shown(other)
                );
                self.conflict_at(task, reason, format!("/routes/{i}"));
                continue;
            }
            if let Some(missing) = missing {
                self.pending(task, format!("route {} waits: {missing}", route.destination));
                continue;
            }
            // What is taken over keeps what the API has no fields for, and what the body does not say.
            let (route, extras) = match right {
                Some(other) if task.hands == Hands::Adopt => (other.as_route(), other.extras.clone()),
                _ => (route.clone(), task.extras_of(i)),
            };
            let phase = if route.via.is_none() { Phase::LinkRoutes } else { Phase::GatewayRoutes };
            let replace = !same.is_empty();
            self.emit_waiting(phase, task, Op::RouteAdd { name, route, extras, protocol, replace });
        }
    }
}

/// Returns true for what is left of a namespace whose mount was lost. Under a name that is recorded, any file is, and a link that
/// leads to a process which ended: it was adopted so.
fn is_lost_pin(task: &Task<'_>, stale: &StalePin) -> bool {
    match stale {
        StalePin::Lost => true,
        StalePin::File | StalePin::Link { dangling: true, .. } => !task.new,
        StalePin::Link { .. } | StalePin::Other(_) => false,
    }
}

/// Lists the links that are neither netnsd's nor what the kernel makes in each namespace (`FALLBACK`), with their kinds.
fn foreign_links(known: &ObservedNs) -> impl Iterator<Item = String> {
    known.links.iter().filter_map(|(name, link)| {
        let kind = link.kind.as_deref().unwrap_or("physical");
        let is_own = link.owner_tag.as_deref().is_some_and(|tag| ownership::parse(tag).is_some());
        (!is_own && !FALLBACK.contains(&(name.as_str(), kind))).then(|| format!("{name} ({kind})"))
    })
}

/// The fallback devices of tunnels, by name and kind, which come with each namespace (`net.core.fb_tunnels_only_for_init_net`).
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

/// Returns the route, if any, that others made where one of netnsd's is to be. One that is taken over is in the way only if it
/// cannot be made again as it is, or is not the only one.
fn in_the_way<'r>(task: &Task<'_>, same: &[&'r ObservedRoute]) -> Option<&'r ObservedRoute> {
    let may_take = |other: &ObservedRoute| task.hands == Hands::Adopt && same.len() == 1 && other.is_adoptable();
    same.iter().find(|other| !other.ours && !may_take(other)).copied()
}

/// A route as ip-route(8) shows it.
fn shown(known: &ObservedRoute) -> String {
    let ObservedRoute { route, .. } = known;
    let kind = known.foreign_kind.as_deref().or((route.kind != RouteType::Unicast).then(|| route.kind.as_str()));
    let destination = match route.destination {
        Destination::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().to_string(),
        other => other.to_string(),
    };
    let table = match route.table {
        RT_TABLE_MAIN => None,
        RT_TABLE_LOCAL => Some("local".to_owned()),
        other => Some(other.to_string()),
    };
    let mut text = kind.map(|kind| format!("{kind} ")).unwrap_or_default() + &destination;
    let words = [
        ("via", route.via.map(|via| via.to_string())),
        ("dev", route.interface.as_ref().map(ToString::to_string)),
        ("table", table),
        ("proto", Some(protocol(known.protocol)).filter(|protocol| protocol != "boot")),
        ("src", route.source.map(|source| source.to_string())),
        ("metric", route.metric.filter(|metric| *metric != 0).map(|metric| metric.to_string())),
    ];
    for (word, value) in words {
        text += &value.map(|value| format!(" {word} {value}")).unwrap_or_default();
    }
    text
}

/// What the kernel tells routes apart by.
pub(super) fn same_key(route: &Route, known: &ObservedRoute) -> bool {
    !known.selective
        && route.is_ipv6() == known.ipv6
        && route.destination.net(known.ipv6) == known.route.destination.net(known.ipv6)
        && route.table == known.route.table
        && route.effective_metric() == known.route.metric.unwrap_or(0)
}

fn fulfils(known: &ObservedRoute, route: &Route) -> bool {
    known.is_adoptable()
        && known.route.kind == route.kind
        && known.route.via == route.via
        && known.route.onlink == route.onlink
        && (route.interface.is_none() || known.route.interface == route.interface)
        && (route.source.is_none() || known.route.source == route.source)
}

/// What a route still waits for; none if the kernel should take it.
fn missing(route: &Route, known: &ObservedNs, spec: &Namespace) -> Option<String> {
    if let Some(waits) = missing_here(route, known) {
        return Some(waits);
    }
    let via = route.via?.0;
    if route.onlink && via.is_ipv4() && !has_ipv4(known) {
        return Some("no interface has an IPv4 address yet".into());
    }
    if route.onlink || (is_link_local(via) && route.interface.is_some()) {
        return None;
    }
    let on_link = known.links.iter().any(|(name, link)| {
        link.up
            && route.interface.as_ref().is_none_or(|interface| interface.as_str() == name)
            && link.addresses.iter().any(|address| address.net.contains(&via) && address.net.addr() != via)
    });
    (!on_link && !by_link_route(route, via, known, spec)).then(|| format!("no interface reaches the gateway {via} yet"))
}

/// Whether there is any IPv4 address. Without one, `lo`'s too, the kernel takes every gateway for a broadcast address: there is no
/// table `local` yet to tell otherwise (`__inet_dev_addr_type()`, net/ipv4/fib_frontend.c).
fn has_ipv4(known: &ObservedNs) -> bool {
    let ipv4 = |link: &ObservedLink| link.addresses.iter().any(|address| address.net.addr().is_ipv4());
    known.loopback || known.links.values().any(ipv4)
}

/// What a route waits for beside its gateway.
fn missing_here(route: &Route, known: &ObservedNs) -> Option<String> {
    if let Some(interface) = route.interface.as_ref().filter(|_| route.kind == RouteType::Unicast) {
        match known.links.get(interface.as_str()) {
            None => return Some(format!("there is no interface {interface} yet")),
            Some(link) if !link.up => return Some(format!("{interface} is not up")),
            Some(_) => {}
        }
    }
    // In IPv4 nobody looks at the source of what rejects (`fib_create_info()`, net/ipv4/fib_semantics.c).
    let source = route.source.filter(|_| route.kind == RouteType::Unicast || route.is_ipv6())?.0;
    let has = |address: &crate::kernel::ObservedAddress| address.net.addr() == source;
    let there = known.links.values().any(|link| link.addresses.iter().any(has));
    (!there).then(|| format!("no interface has the source address {source} yet"))
}

/// Whether a route without a gateway covers the gateway of this one. It is looked for in its own table and in `main`
/// (`fib_check_nh_v4_gw()`, net/ipv4/fib_semantics.c).
fn by_link_route(route: &Route, via: IpAddr, known: &ObservedNs, spec: &Namespace) -> bool {
    let covers = |other: &Route, ipv6: bool| {
        ipv6 == via.is_ipv6()
            && other.kind == RouteType::Unicast
            && other.via.is_none()
            && (other.table == RT_TABLE_MAIN || other.table == route.table)
            && other.destination.net(ipv6).contains(&via)
            && (route.interface.is_none() || route.interface == other.interface)
            && other
                .interface
                .as_ref()
                .is_some_and(|interface| known.links.get(interface.as_str()).is_some_and(|link| link.up))
    };
    spec.routes.iter().any(|other| covers(other, other.is_ipv6()) && missing_here(other, known).is_none())
        || known.routes.iter().any(|other| other.foreign_kind.is_none() && covers(&other.route, other.ipv6))
}
