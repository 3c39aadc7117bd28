//! Namespaces: made, marked, identified; and what is inside them beside links.

use std::net::IpAddr;

use netnsd_api::{Destination, Dns, Namespace, NetnsId, Route, RouteType, SysctlKey, is_link_local};

use super::{Phase, Planner, Task};
use crate::{
    engine::Spec,
    kernel::{Ns, ObservedNs, ObservedRoute, Op, mark::mark},
};

/// The first line of a file that netnsd wrote: a file without it is somebody else's.
const DNS_MARK: &str = "# written by netnsd";

/// What `/etc/netns/NAME/resolv.conf` holds (`resolv.conf(5)`).
pub fn resolv_conf(dns: &Dns) -> String {
    let mut text = format!("{DNS_MARK}\n");
    for server in &dns.nameservers {
        text += &format!("nameserver {server}\n");
    }
    for (word, values) in [("search", &dns.search), ("options", &dns.options)] {
        if !values.is_empty() {
            text += &format!("{word} {}\n", values.join(" "));
        }
    }
    text
}

impl Planner<'_> {
    pub(super) fn take_namespace(&mut self, task: &Task<'_>) {
        let ns = Ns::Named(task.resource.name.clone());
        let Some(known) = self.now.namespaces.get(&ns) else { return };
        if known.inode != 0 && known.mark.as_deref() != Some(&mark(&task.resource, None, task.uid)) {
            return;
        }
        let name = task.resource.name.clone();
        if known.dns.as_deref().is_some_and(|text| text.starts_with(DNS_MARK)) {
            self.emit(Phase::Dns, task, Op::DnsSet { name: name.clone(), content: None });
        }
        self.emit(Phase::TakeNamespaces, task, Op::NamespaceDelete { name });
        self.now.namespaces.remove(&ns);
    }

    pub(super) fn namespace(&mut self, task: &Task<'_>, spec: &Namespace) {
        let ns = Ns::Named(spec.name.clone());
        let mark = mark(&task.resource, None, task.uid);
        let name = spec.name.clone();
        match self.now.namespaces.get(&ns) {
            Some(known) if known.inode != 0 && known.mark.as_deref() != Some(&mark) => {
                return self.conflict(
                    task,
                    format!(
                        "/run/netns/{name} exists, and netnsd did not make it: choose another name, or delete it first"
                    ),
                );
            }
            Some(known) if known.inode != 0 => {}
            _ => {
                let op = match &spec.attach {
                    Some(attach) if task.attach => {
                        Op::NamespaceAttach { name: name.clone(), pid: attach.pid, mark: mark.clone() }
                    }
                    _ => Op::NamespaceAdd { name: name.clone(), mark: mark.clone() },
                };
                self.emit(Phase::MakeNamespaces, task, op);
                let dns = self.now.namespaces.get(&ns).and_then(|stale| stale.dns.clone());
                self.now.namespaces.insert(
                    ns.clone(),
                    ObservedNs { mark: Some(mark), inode: 1, link_count: 1, dns, ..ObservedNs::default() },
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
            self.emit(Phase::Identify, task, Op::LoopbackSet { name: name.clone(), up: spec.loopback });
            self.ns_mut(&ns).loopback = spec.loopback;
        }
        self.dns(task, spec, dns);
    }

    fn dns(&mut self, task: &Task<'_>, spec: &Namespace, known: Option<String>) {
        let wanted = spec.dns.as_ref().map(resolv_conf);
        let ours = known.as_deref().is_some_and(|text| text.starts_with(DNS_MARK));
        match (&wanted, &known) {
            (None, None) => {}
            (Some(wanted), Some(known)) if wanted == known => {}
            (None, Some(_)) if !ours => {}
            (Some(_), Some(_)) if !ours => self.conflict(
                task,
                format!("/etc/netns/{}/resolv.conf exists, and netnsd did not write it: remove it first", spec.name),
            ),
            _ => self.emit(Phase::Dns, task, Op::DnsSet { name: spec.name.clone(), content: wanted }),
        }
    }

    /// What hangs on links: sysctls of interfaces, routes, neighbours.
    pub(super) fn inside(&mut self, task: &Task<'_>, spec: &Namespace) {
        if self.in_conflict(task) {
            return;
        }
        self.sysctls(task, spec);
        self.neighbours(task, spec);
        self.routes(task, spec);
    }

    fn sysctls(&mut self, task: &Task<'_>, spec: &Namespace) {
        let ns = Ns::Named(spec.name.clone());
        let restored = task
            .applied
            .iter()
            .filter_map(|spec| match spec {
                Spec::Namespace(old) => Some(old),
                _ => None,
            })
            .flat_map(|old| old.sysctls.keys())
            .filter(|key| !spec.sysctls.contains_key(key))
            .filter_map(|key| Some((key.clone(), task.prior.get(key)?.clone())));
        let mut wanted: Vec<(SysctlKey, String)> =
            restored.chain(spec.sysctls.iter().map(|(key, value)| (key.clone(), value.0.clone()))).collect();
        // Writing ip_forward resets others (Documentation/networking/ip-sysctl.rst), and "all" overrides single interfaces.
        wanted.sort_by_key(|(key, _)| {
            let rank = match key.as_str() {
                "net.ipv4.ip_forward" => 0,
                text if text.contains(".all.") => 1,
                text if text.contains(".default.") => 2,
                _ => 3,
            };
            (rank, key.clone())
        });
        wanted.dedup();
        let forwarding_changes = wanted.first().is_some_and(|(key, value)| {
            key.as_str() == "net.ipv4.ip_forward"
                && !self
                    .now
                    .namespaces
                    .get(&ns)
                    .and_then(|known| known.sysctls.get(key))
                    .is_some_and(|now| same_value(now, value))
        });
        for (key, value) in wanted {
            let known = self.ns_mut(&ns);
            let right = known.sysctls.get(&key).is_some_and(|now| same_value(now, &value));
            if right && !forwarding_changes {
                continue;
            }
            match key.interface() {
                Some(interface) if !known.links.contains_key(&interface) => {
                    self.pending(task, format!("sysctl {key} waits for the interface {interface}"));
                }
                interface => {
                    known.sysctls.insert(key.clone(), value.clone());
                    let op = Op::SysctlSet { name: spec.name.clone(), key, value };
                    match interface {
                        Some(_) => self.emit_waiting(Phase::LinkSysctls, task, op),
                        None => self.emit(Phase::Sysctls, task, op),
                    }
                }
            }
        }
    }

    fn neighbours(&mut self, task: &Task<'_>, spec: &Namespace) {
        let ns = Ns::Named(spec.name.clone());
        let known = self.ns_mut(&ns).clone();
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

    fn routes(&mut self, task: &Task<'_>, spec: &Namespace) {
        let ns = Ns::Named(spec.name.clone());
        let known = self.ns_mut(&ns).clone();
        for old in known.routes.iter().filter(|old| old.ours) {
            if !spec.routes.iter().any(|route| same_key(route, old)) {
                self.emit(Phase::TakeRoutes, task, Op::RouteDelete { name: spec.name.clone(), route: old.as_route() });
            }
        }
        for route in &spec.routes {
            let same: Vec<&ObservedRoute> = known.routes.iter().filter(|other| same_key(route, other)).collect();
            let missing = missing(route, &known, spec);
            let fulfilled = same.iter().find(|other| fulfils(other, route));
            if let (Some(old), Some(_)) = (fulfilled.filter(|old| old.ours), &missing) {
                // The kernel keeps it though nothing reaches its gateway any more; made afresh it would not take it.
                self.emit(Phase::TakeRoutes, task, Op::RouteDelete { name: spec.name.clone(), route: old.as_route() });
            } else if fulfilled.is_some() {
                continue;
            }
            if let Some(missing) = missing {
                self.pending(task, format!("route {} waits: {missing}", route.destination));
                continue;
            }
            let phase = if route.via.is_none() { Phase::LinkRoutes } else { Phase::GatewayRoutes };
            // Only what is ours is replaced: another's route of the same key makes the kernel refuse.
            let replace = same.iter().any(|other| other.ours);
            self.emit_waiting(phase, task, Op::RouteAdd { name: spec.name.clone(), route: route.clone(), replace });
        }
    }
}

impl ObservedRoute {
    /// The route with its family told by the destination.
    fn as_route(&self) -> Route {
        Route { destination: Destination::Net(self.route.destination.net(self.ipv6)), ..self.route.clone() }
    }
}

fn same_value(now: &str, wanted: &str) -> bool {
    now == wanted || matches!((now.parse::<i64>(), wanted.parse::<i64>()), (Ok(a), Ok(b)) if a == b)
}

/// What the kernel tells routes apart by.
fn same_key(route: &Route, known: &ObservedRoute) -> bool {
    route.is_ipv6() == known.ipv6
        && route.destination.net(known.ipv6) == known.route.destination.net(known.ipv6)
        && route.table == known.route.table
        && route.effective_metric() == known.route.metric.unwrap_or(0)
}

fn fulfils(known: &ObservedRoute, route: &Route) -> bool {
    known.foreign_kind.is_none()
        && known.route.kind == route.kind
        && known.route.via == route.via
        && known.route.onlink == route.onlink
        && (route.interface.is_none() || known.route.interface == route.interface)
        && (route.source.is_none() || known.route.source == route.source)
}

/// What a route still waits for; none if the kernel should take it.
fn missing(route: &Route, known: &ObservedNs, spec: &Namespace) -> Option<String> {
    if route.kind != RouteType::Unicast {
        return None;
    }
    if let Some(interface) = &route.interface {
        match known.links.get(interface.as_str()) {
            None => return Some(format!("there is no interface {interface} yet")),
            Some(link) if !link.up => return Some(format!("{interface} is not up")),
            Some(_) => {}
        }
    }
    if let Some(source) = route.source {
        let has = |address: &crate::kernel::ObservedAddress| address.net.addr() == source.0;
        if !known.links.values().any(|link| link.addresses.iter().any(has)) {
            return Some(format!("no interface has the source address {source} yet"));
        }
    }
    let via = route.via?.0;
    if route.onlink || (is_link_local(via) && route.interface.is_some()) {
        return None;
    }
    let on_link = known.links.iter().any(|(name, link)| {
        link.up
            && route.interface.as_ref().is_none_or(|interface| interface.as_str() == name)
            && link.addresses.iter().any(|address| address.net.contains(&via) && address.net.addr() != via)
    });
    (!on_link && !by_link_route(via, known, spec)).then(|| format!("no interface reaches the gateway {via} yet"))
}

/// Whether a route without a gateway covers the address.
fn by_link_route(via: IpAddr, known: &ObservedNs, spec: &Namespace) -> bool {
    let covers = |route: &Route| {
        route.kind == RouteType::Unicast
            && route.via.is_none()
            && route.destination.net(route.is_ipv6()).contains(&via)
            && route
                .interface
                .as_ref()
                .is_some_and(|interface| known.links.get(interface.as_str()).is_some_and(|link| link.up))
    };
    spec.routes.iter().any(covers)
        || known.routes.iter().any(|other| other.foreign_kind.is_none() && covers(&other.route))
}
