//! Routes of a namespace: additions, deletions, and what routes that cannot be added yet wait for.
//!
//! A namespace may have thousands of routes and of addresses: no loop here is quadratic.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use ipnet::IpNet;
use netnsd_api::{Destination, Namespace, Route, RouteType, is_link_local};

use super::{Ownership, Phase, Planner, Task};
use crate::kernel::{
    Ns, ObservedNs, ObservedRoute, Op, RT_TABLE_LOCAL, RT_TABLE_MAIN, RouteChange, protocol,
};
use crate::model::Spec;

/// Key by which the kernel tells routes apart (`fib_table_insert()`, net/ipv4/fib_trie.c;
/// `fib6_add_rt2node()`, net/ipv6/ip6_fib.c): destination with its family, table, metric.
pub(super) type RouteKey = (IpNet, u32, u32);

/// Returns the key of a desired route.
pub(super) fn key_of(route: &Route) -> RouteKey {
    (
        route.destination.net(route.is_ipv6()),
        route.table,
        route.effective_metric(),
    )
}

/// Returns the key of an observed route; `None` if the kernel tells it apart by more.
pub(super) fn key_of_known(known: &ObservedRoute) -> Option<RouteKey> {
    let ObservedRoute {
        route,
        ipv6,
        selective,
        ..
    } = known;
    (!selective).then(|| {
        (
            route.destination.net(*ipv6),
            route.table,
            route.metric.unwrap_or(0),
        )
    })
}

impl Planner<'_> {
    /// Returns netnsd's routes that were observed with several next hops. With a link that is set
    /// down the model loses a next hop; the kernel keeps it, and uses it again once the link is up,
    /// under whatever name (`fib_sync_up()`, net/ipv4/fib_semantics.c).
    fn multipath_routes(&self, ns: &Ns) -> HashMap<RouteKey, ObservedRoute> {
        let seen = self.seen.namespaces.get(ns);
        let routes = seen.into_iter().flat_map(|seen| &seen.routes);
        let multipath = routes.filter(|known| known.ours && !known.route.nexthops.is_empty());
        multipath
            .filter_map(|known| Some((key_of_known(known)?, known.clone())))
            .collect()
    }

    /// Deletes a route, with the next hops that it has before links are set down.
    fn delete_route(
        &mut self,
        task: &Task<'_>,
        ns: &Ns,
        old: &ObservedRoute,
        multipath: &HashMap<RouteKey, ObservedRoute>,
    ) {
        let seen = key_of_known(old).and_then(|key| multipath.get(&key));
        let route = seen.unwrap_or(old).as_route();
        self.emit(
            Phase::DeleteRoutes,
            task,
            Op::route(ns, RouteChange::Delete(route)),
        );
    }

    /// Plans the routes of a namespace; everything else in it is as it will be.
    pub(super) fn plan_routes(&mut self, task: &Task<'_>, spec: &Namespace, known: &ObservedNs) {
        let ns = Ns::Named(spec.name.clone());
        let wanted: HashSet<RouteKey> = spec.routes.iter().map(key_of).collect();
        let multipath = self.multipath_routes(&ns);
        for old in known.routes.iter().filter(|old| old.ours) {
            if key_of_known(old).is_none_or(|key| !wanted.contains(&key)) {
                self.delete_route(task, &ns, old, &multipath);
            }
        }
        if spec.routes.is_empty() {
            return;
        }
        let mut there: HashMap<RouteKey, Vec<&ObservedRoute>> = HashMap::new();
        for other in &known.routes {
            if let Some(key) = key_of_known(other).filter(|key| wanted.contains(key)) {
                there.entry(key).or_default().push(other);
            }
        }
        let reach = Reach::of(known, spec);
        let applied = AppliedRoutes::of(task, &wanted);
        for (i, route) in spec.routes.iter().enumerate() {
            let same = there.get(&key_of(route)).map_or(&[][..], Vec::as_slice);
            let (possible, missing) = reach.split(route);
            if let Some(missing) = missing {
                self.pending(
                    task,
                    format!("route {} waits: {missing}", route.destination),
                );
            }
            let right = possible.as_ref().and_then(|route| {
                same.iter()
                    .find(|other| applied.is_fulfilled(route, other) && task.keeps_extras(i, other))
            });
            let protocol = task.protocol_of(i);
            let ours = same.iter().find(|other| other.ours);
            let may_revive = ours.is_some_and(|ours| {
                let seen = multipath.get(&key_of(route));
                seen.is_some_and(|seen| seen.route != ours.route)
            });
            if let (Some(old), None) = (ours, &possible) {
                // The route is no longer asked for; or the kernel keeps it although no gateway is
                // reachable, and would refuse it now.
                self.delete_route(task, &ns, old, &multipath);
            } else if !may_revive
                && right.is_some_and(|other| {
                    task.ownership == Ownership::Keep || other.protocol == protocol
                })
            {
                continue;
            }
            if let Some(other) = in_the_way(task, same) {
                if let (Some(old), Some(_)) = (ours, &possible) {
                    // The kernel would take the first of them for the one to be replaced
                    // (`fib_table_insert()`, net/ipv4/fib_trie.c).
                    self.delete_route(task, &ns, old, &multipath);
                }
                let reason = format!(
                    "{} is in the way, and netnsd did not make it: delete it, or give this route another metric",
                    shown(other)
                );
                self.conflict_at(task, reason, format!("/routes/{i}"));
                continue;
            }
            let Some(route) = possible else {
                continue;
            };
            // An adopted route keeps the attributes that the API lacks and the body does not set.
            let (route, extras) = match right {
                Some(other) if task.ownership == Ownership::Adopt => {
                    (other.as_route(), other.extras.clone())
                }
                _ => (route.into_owned(), task.extras_of(i)),
            };
            let phase = if route.hops().iter().all(|hop| hop.via.is_none()) {
                Phase::LinkRoutes
            } else {
                Phase::GatewayRoutes
            };
            let replace = !same.is_empty();
            self.emit_retriable(
                phase,
                task,
                Op::route(
                    &ns,
                    RouteChange::Add {
                        route,
                        extras,
                        protocol,
                        replace,
                    },
                ),
            );
        }
    }
}

/// Returns a route of others with the key of a desired one. An adopted route is in the way only if
/// it cannot be made again as it is, or is not the only one.
fn in_the_way<'r>(task: &Task<'_>, same: &[&'r ObservedRoute]) -> Option<&'r ObservedRoute> {
    let may_take = |other: &ObservedRoute| {
        task.ownership == Ownership::Adopt && same.len() == 1 && other.is_adoptable()
    };
    same.iter()
        .find(|other| !other.ours && !may_take(other))
        .copied()
}

/// Writes a route as ip-route(8) does.
fn shown(known: &ObservedRoute) -> String {
    let ObservedRoute { route, .. } = known;
    let kind = known
        .foreign_kind
        .as_deref()
        .or((route.kind != RouteType::Unicast).then(|| route.kind.as_str()));
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
        (
            "nexthops",
            Some(route.nexthops.len().to_string()).filter(|_| !route.nexthops.is_empty()),
        ),
        ("table", table),
        (
            "proto",
            Some(protocol(known.protocol)).filter(|protocol| protocol != "boot"),
        ),
        ("src", route.source.map(|source| source.to_string())),
        (
            "metric",
            route
                .metric
                .filter(|metric| *metric != 0)
                .map(|metric| metric.to_string()),
        ),
    ];
    for (word, value) in words {
        text += &value
            .map(|value| format!(" {word} {value}"))
            .unwrap_or_default();
    }
    text
}

/// Fields of earlier intents' routes that are left to the kernel if they are null.
struct AppliedRoutes<'t> {
    routes: HashMap<RouteKey, Vec<&'t Route>>,
    /// True if null stands for the kernel's default: a released route is as it was found.
    is_exact: bool,
}

impl<'t> AppliedRoutes<'t> {
    fn of(task: &Task<'t>, wanted: &HashSet<RouteKey>) -> Self {
        let mut routes: HashMap<RouteKey, Vec<&Route>> = HashMap::new();
        let applied = task.applied.iter().flat_map(|spec| match spec {
            Spec::Namespace(spec) => &spec.routes[..],
            Spec::Bridge(_) | Spec::Veth(_) | Spec::Link(_) => &[],
        });
        for route in applied.filter(|route| optional_fields(route) != Default::default()) {
            let key = key_of(route);
            if wanted.contains(&key) {
                routes.entry(key).or_default().push(route);
            }
        }
        Self {
            routes,
            is_exact: task.is_released(),
        }
    }

    /// Returns true if a route in the kernel is as asked. A field that is null may have any value
    /// that netnsd did not set.
    fn is_fulfilled(&self, route: &Route, known: &ObservedRoute) -> bool {
        let OptionalFields(asked) = optional_fields(route);
        let OptionalFields(there) = optional_fields(&known.route);
        let was_set = |field: usize| {
            let applied = self.routes.get(&key_of(route));
            let mut applied = applied.into_iter().flatten();
            applied.any(|old| optional_fields(old).0[field].is_some())
        };
        let is_right = |field: usize| {
            asked[field] == there[field]
                || asked[field].is_none() && !self.is_exact && !was_set(field)
        };
        known.is_adoptable()
            && known.route.kind == route.kind
            && known.route.onlink == route.onlink
            && route.has_hops_of(&known.route)
            && (0..asked.len()).all(is_right)
    }
}

/// The source, the MTU, the MSS and the window of a route.
#[derive(Default, PartialEq)]
struct OptionalFields([Option<OptionalField>; 4]);

#[derive(Clone, Copy, PartialEq)]
enum OptionalField {
    Source(IpAddr),
    Number(u32),
}

fn optional_fields(route: &Route) -> OptionalFields {
    let number = |value: Option<u32>| value.map(OptionalField::Number);
    OptionalFields([
        route.source.map(|source| OptionalField::Source(source.0)),
        number(route.mtu),
        number(route.advmss),
        number(route.initcwnd),
    ])
}

/// Indices of what routes depend on in a namespace. An interface of `None` stands for any.
struct Reach<'k> {
    known: &'k ObservedNs,
    /// Every address of every link.
    addresses: HashSet<IpAddr>,
    /// Networks of addresses on links that are up: one such address, and true if there is another
    /// one.
    on_link: HashMap<(IpNet, Option<&'k str>), (IpAddr, bool)>,
    /// Destinations, with the table, of routes without a gateway that are or will be there, by
    /// links that are up.
    link_routes: HashSet<(IpNet, u32, Option<&'k str>)>,
}

impl<'k> Reach<'k> {
    fn of(known: &'k ObservedNs, spec: &'k Namespace) -> Self {
        let mut reach = Self {
            known,
            addresses: HashSet::new(),
            on_link: HashMap::new(),
            link_routes: HashSet::new(),
        };
        for (name, link) in &known.links {
            // Every address of the networks of `lo` is the namespace's own.
            let reaches = link.up && name != "lo";
            for address in &link.addresses {
                let own = address.net.addr();
                reach.addresses.insert(own);
                for interface in [None, Some(name.as_str())].into_iter().filter(|_| reaches) {
                    let entry = reach
                        .on_link
                        .entry((address.net.trunc(), interface))
                        .or_insert((own, false));
                    entry.1 |= entry.0 != own;
                }
            }
        }
        for route in &spec.routes {
            if reach.missing_here(route).is_none() {
                reach.add_link_route(route, route.is_ipv6());
            }
        }
        for other in known
            .routes
            .iter()
            .filter(|other| other.foreign_kind.is_none())
        {
            reach.add_link_route(&other.route, other.ipv6);
        }
        reach
    }

    fn add_link_route(&mut self, route: &'k Route, ipv6: bool) {
        let Some(interface) = route.interface.as_ref().map(|interface| interface.as_str()) else {
            return;
        };
        let is_up = self.known.links.get(interface).is_some_and(|link| link.up);
        if route.kind == RouteType::Unicast && route.via.is_none() && is_up {
            for interface in [None, Some(interface)] {
                self.link_routes
                    .insert((route.destination.net(ipv6), route.table, interface));
            }
        }
    }

    /// Returns the part of a route that the kernel should accept, and the missing dependency of the
    /// rest. Of several next hops, those that are reached are enough.
    fn split<'r>(&self, route: &'r Route) -> (Option<Cow<'r, Route>>, Option<String>) {
        if route.nexthops.is_empty() {
            let missing = self.missing(route);
            let possible = missing.is_none().then_some(Cow::Borrowed(route));
            return (possible, missing);
        }
        let (mut reached, mut missing) = (Vec::new(), None);
        for hop in &route.nexthops {
            match self.missing(&route.with_hops(vec![hop.clone()])) {
                None => reached.push(hop.clone()),
                Some(reason) => drop(missing.get_or_insert(reason)),
            }
        }
        if missing.is_none() {
            return (Some(Cow::Borrowed(route)), None);
        }
        let is_part = !reached.is_empty();
        let possible = is_part.then(|| Cow::Owned(route.with_hops(reached)));
        (possible, missing)
    }

    /// Returns the missing dependency of a route with one next hop; `None` if the kernel should
    /// accept it.
    fn missing(&self, route: &Route) -> Option<String> {
        if let Some(waits) = self.missing_here(route) {
            return Some(waits);
        }
        let via = route.via?.0;
        if route.onlink && via.is_ipv4() && !self.has_ipv4() {
            return Some("no interface has an IPv4 address yet".into());
        }
        if route.onlink || (is_link_local(via) && route.interface.is_some()) {
            return None;
        }
        let interface = route.interface.as_ref().map(|interface| interface.as_str());
        let is_reached = networks_around(via).any(|net| {
            // A gateway is looked for in the route's own table and in `main`
            // (`fib_check_nh_v4_gw()`, net/ipv4/fib_semantics.c).
            self.on_link
                .get(&(net, interface))
                .is_some_and(|(own, others)| *own != via || *others)
                || [RT_TABLE_MAIN, route.table]
                    .iter()
                    .any(|table| self.link_routes.contains(&(net, *table, interface)))
        });
        (!is_reached).then(|| format!("no interface reaches the gateway {via} yet"))
    }

    /// Returns the missing dependency of a route apart from its gateway.
    fn missing_here(&self, route: &Route) -> Option<String> {
        if route.kind == RouteType::Local && route.interface.is_none() && !self.known.loopback {
            return Some("lo is not up".into());
        }
        if let Some(interface) = &route.interface {
            match self.known.links.get(interface.as_str()) {
                None => return Some(format!("there is no interface {interface} yet")),
                Some(link) if !link.up => return Some(format!("{interface} is not up")),
                Some(_) => {}
            }
        }
        // In IPv4 the source of a rejecting route is not checked (`fib_create_info()`,
        // net/ipv4/fib_semantics.c).
        let source = route
            .source
            .filter(|_| !route.kind.is_error() || route.is_ipv6())?
            .0;
        (!self.addresses.contains(&source))
            .then(|| format!("no interface has the source address {source} yet"))
    }

    /// Returns true if there is any IPv4 address. Without one, `lo`'s too, the kernel takes every
    /// gateway for a broadcast address: there is no table `local` yet to tell otherwise
    /// (`__inet_dev_addr_type()`, net/ipv4/fib_frontend.c).
    fn has_ipv4(&self) -> bool {
        self.known.loopback || self.addresses.iter().any(IpAddr::is_ipv4)
    }
}

/// Lists the networks that an address is in, one of each prefix length.
fn networks_around(address: IpAddr) -> impl Iterator<Item = IpNet> {
    let longest = IpNet::from(address);
    std::iter::successors(Some(longest), IpNet::supernet)
}
