//! Execution of operations in order; each is done when the kernel has accepted it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use netnsd_api::{Name, NetnsId, Route, SysctlKey};
use netnsd_netlink::{
    HelperThread, NamespaceSwitcher, RouteSocket,
    address::get_addresses,
    errno_of,
    helper_thread::MIN_SHARED_ITEMS,
    link::{self, LinkId},
    neigh::flood_entry,
    netns::{
        file::{pin, unpin},
        pool::{create_namespace, pin_with_altname},
    },
    nsid,
    resolv_conf::write_dns_file,
    route::recreate_route,
    sysctl::{describe_refusal, write_sysctl},
};
use nix::errno::Errno;
use rtnetlink::{
    packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE},
    packet_route::{
        RouteNetlinkMessage, link::LinkAttribute, nsid::NsidAttribute, route::RouteScope,
    },
};

use super::{message, observe, parse};
use crate::kernel::{
    ADDRESS_PROTOCOL_KERNEL_LL, AddressChange, BatchOp, FeatureOp, KernelError, LOOPBACK, LinkAt,
    LinkChange, LinkOp, NamespaceChange, NamespaceOp, NeighbourChange, NewEnd, NewLink, Ns,
    ObservedAddress, ObservedLink, ObservedRoute, ObservedRule, Op, Outcome, ROUTE_PROTOCOL,
    ROUTE_PROTOCOL_KERNEL, RT_TABLE_MAIN, RemoteChange, RouteChange, RuleChange, moved,
    prefix_route, sysctl::changed_along,
};

/// Time that a batch waits, in all, for the ids of deleted namespaces, which the kernel releases in
/// the background (`cleanup_net()`, net/core/net_namespace.c).
const ID_TIMEOUT: Duration = Duration::from_secs(1);
/// Time that a batch waits for the id of a namespace that lives: it may be deleted, and open for a
/// moment longer in a process that looks into it.
const LIVING_ID_TIMEOUT: Duration = Duration::from_millis(200);
/// Pause between two attempts to set an id.
const ID_RETRY_INTERVAL: Duration = Duration::from_millis(5);

/// Executes a batch. Two threads create its namespaces, and one of them continues with the next
/// operations in those that exist. Adds the previous values of sysctls to `replaced_sysctls`.
pub(super) fn execute(
    switcher: &mut NamespaceSwitcher,
    helper: &HelperThread,
    ops: &[BatchOp],
    done: &dyn Fn(usize),
    replaced_sysctls: &mut Vec<(Name, SysctlKey, String)>,
) -> Vec<Option<Outcome>> {
    let mut state = BatchState {
        indices: BTreeMap::new(),
        id_wait: ID_TIMEOUT,
        replaced_sysctls,
    };
    let mut results = BatchResults {
        ops,
        outcomes: vec![None; ops.len()],
        failed: BTreeSet::new(),
    };
    let mut creating = Vec::new();
    let mut next = 0;
    while next < ops.len() {
        let deletions = count_leading(&ops[next..], |op| matches!(op, Op::Link(LinkOp::Delete(_))));
        let creations = count_leading(&ops[next..], |op| op.created_namespace().is_some());
        let room = switcher.reserve();
        let end = next + deletions.max(creations.min(room)).max(1);
        let positions: Vec<usize> = (next..end).filter(|i| results.is_due(*i)).collect();
        let chosen: Vec<&Op> = positions.iter().map(|i| &ops[*i].op).collect();

        if end - next >= MIN_SHARED_ITEMS && creations > 0 {
            let previous = std::mem::replace(&mut creating, positions);
            results.record(previous, finish_creation(switcher));
            begin_creation(switcher, helper, &chosen);
        } else if deletions > 1 {
            results.record(positions, delete(switcher, &mut state, &chosen));
        } else {
            let outcomes = chosen
                .into_iter()
                .map(|op| perform(switcher, &mut state, op))
                .collect();
            results.record(positions, outcomes);
        }
        done(end - switcher.pending_creations());
        next = end;
    }
    results.record(creating, finish_creation(switcher));
    done(ops.len());
    results.outcomes
}

/// Counts the operations at the beginning that are of a sort.
fn count_leading(ops: &[BatchOp], is_of_sort: fn(&Op) -> bool) -> usize {
    ops.iter().take_while(|op| is_of_sort(&op.op)).count()
}

/// Outcomes of a batch, as far as it was executed.
struct BatchResults<'o> {
    ops: &'o [BatchOp],
    outcomes: Vec<Option<Outcome>>,
    /// Parts of which an operation failed: their later operations are skipped.
    failed: BTreeSet<usize>,
}

impl BatchResults<'_> {
    fn is_due(&self, i: usize) -> bool {
        !self.failed.contains(&self.ops[i].part)
    }

    fn record(&mut self, positions: Vec<usize>, outcomes: Vec<Outcome>) {
        for (i, outcome) in positions.into_iter().zip(outcomes) {
            if outcome.is_err() && !self.ops[i].optional {
                self.failed.insert(self.ops[i].part);
            }
            self.outcomes[i] = Some(outcome);
        }
    }
}

/// State that lasts for one batch.
struct BatchState<'r> {
    /// Cached interface indices.
    indices: BTreeMap<LinkAt, u32>,
    /// Time that the batch may still wait for ids of deleted namespaces.
    id_wait: Duration,
    /// Previous values of the sysctls that were set.
    replaced_sysctls: &'r mut Vec<(Name, SysctlKey, String)>,
}

impl BatchState<'_> {
    /// Returns the index of a link, from the kernel if it is not cached.
    fn index_of(
        &mut self,
        switcher: &mut NamespaceSwitcher,
        link: &LinkAt,
    ) -> Result<u32, KernelError> {
        if let Some(index) = self.indices.get(link) {
            return Ok(*index);
        }
        let index = look_at(switcher, link)
            .map_err(|error| match error.errno() {
                Some(Errno::ENODEV) => no_device(link),
                _ => error,
            })?
            .index;
        self.indices.insert(link.clone(), index);
        Ok(index)
    }

    /// Drops the names that may mean another link, or none, after an operation.
    fn forget(&mut self, op: &Op) {
        match op {
            Op::Namespace(NamespaceOp {
                change: NamespaceChange::Delete,
                ..
            })
            | Op::Link(LinkOp::Delete(_)) => self.indices.clear(),
            Op::Link(LinkOp::Move { from, to }) => {
                self.indices.remove(from);
                self.indices.remove(to);
            }
            Op::Link(LinkOp::Set {
                link,
                change: LinkChange::Name(name),
            }) => {
                self.indices.remove(link);
                self.indices
                    .remove(&LinkAt::new(link.ns.clone(), name.clone()));
            }
            Op::Namespace(_) | Op::Link(_) | Op::Feature(_) => {}
        }
    }
}

/// Sends one change into a namespace.
fn send(
    switcher: &mut NamespaceSwitcher,
    ns: &Ns,
    message: RouteNetlinkMessage,
    flags: u16,
) -> Outcome {
    Ok(switcher.send(ns, message, flags)?)
}

/// Sends changes into a namespace, in one datagram.
fn send_batch(switcher: &mut NamespaceSwitcher, ns: &Ns, changes: Vec<Change>) -> Outcome {
    Ok(switcher.connection(ns)?.route.send_batch(changes)?)
}

/// Executes one operation.
fn perform(switcher: &mut NamespaceSwitcher, state: &mut BatchState<'_>, op: &Op) -> Outcome {
    let outcome = match op {
        Op::Namespace(op) => change_namespace(switcher, state, op),
        Op::Link(op) => change_link(switcher, state, op),
        Op::Feature(op) => change_feature(switcher, state, op),
    };
    state.forget(op);
    complete(switcher, state, op, outcome)
}

/// Deletes links. Each deletion waits for a grace period of the kernel: those of one namespace
/// share one.
fn delete(
    switcher: &mut NamespaceSwitcher,
    state: &mut BatchState<'_>,
    ops: &[&Op],
) -> Vec<Outcome> {
    let mut by_ns: BTreeMap<Ns, Vec<usize>> = BTreeMap::new();
    for (i, op) in ops.iter().enumerate() {
        by_ns.entry(op.ns()).or_default().push(i);
    }

    let mut outcomes = vec![Ok(()); ops.len()];
    for (ns, those) in by_ns {
        let links: Vec<&Op> = those.iter().map(|i| ops[*i]).collect();
        let results = match &links[..] {
            [only] => vec![perform(switcher, state, only)],
            _ => delete_together(switcher, state, &ns, &links),
        };
        for (i, result) in those.into_iter().zip(results) {
            outcomes[i] = result;
        }
    }
    outcomes
}

/// Deletes links of one namespace, as a group that they are put into first.
fn delete_together(
    switcher: &mut NamespaceSwitcher,
    state: &mut BatchState<'_>,
    ns: &Ns,
    ops: &[&Op],
) -> Vec<Outcome> {
    // A random number: no link of others is in that group.
    let group = uuid::Uuid::now_v7().as_u128() as u32;
    let mut joined: Vec<Outcome> = Vec::new();
    for op in ops {
        joined.push(match op {
            Op::Link(LinkOp::Delete(link)) => {
                let message = link::set_link(LinkId::Name(&link.name), LinkAttribute::Group(group));
                send(switcher, ns, message, 0)
            }
            other => perform(switcher, state, other),
        });
    }
    let deleted = send(switcher, ns, link::delete_link_group(group), 0);

    let mut outcomes = Vec::new();
    for (op, outcome) in ops.iter().zip(joined) {
        state.forget(op);
        outcomes.push(complete(switcher, state, op, outcome.and(deleted.clone())));
    }
    outcomes
}

fn change_namespace(
    switcher: &mut NamespaceSwitcher,
    state: &mut BatchState<'_>,
    NamespaceOp { name, change }: &NamespaceOp,
) -> Outcome {
    let ns = Ns::Named(name.clone());
    match change {
        NamespaceChange::Create { owner_tag } => {
            switcher.forget(&ns);
            if let Some(connection) = create_namespace(switcher, name, owner_tag)? {
                switcher.cache(ns, connection);
            }
            Ok(())
        }
        NamespaceChange::Attach { pid, owner_tag } => attach(switcher, name, *pid, owner_tag),
        NamespaceChange::Delete => {
            switcher.forget(&ns);
            Ok(unpin(name.as_str())?)
        }
        NamespaceChange::SetId(id) => set_netnsid(switcher, state, name, *id),
        NamespaceChange::SetLoopbackUp(up) => {
            send(switcher, &ns, link::set_link_up(LOOPBACK, *up), 0)
        }
    }
}

fn change_link(
    switcher: &mut NamespaceSwitcher,
    state: &mut BatchState<'_>,
    op: &LinkOp,
) -> Outcome {
    match op {
        LinkOp::Create(new) => create_link(switcher, state, new),
        LinkOp::Delete(link) => {
            let message = link::delete_link(LinkId::Index(state.index_of(switcher, link)?));
            send(switcher, &link.ns, message, 0)
        }
        LinkOp::Move { from, to } => {
            let target = switcher.connection(&to.ns)?.as_raw_ns();
            let message = link::move_link(state.index_of(switcher, from)?, target, &to.name);
            send(switcher, &from.ns, message, 0)
        }
        LinkOp::Set { link, change } => set_link(switcher, state, link, change),
    }
}

fn create_link(
    switcher: &mut NamespaceSwitcher,
    state: &mut BatchState<'_>,
    new: &NewLink,
) -> Outcome {
    if let Some(birthplace) = &new.birthplace {
        return create_elsewhere(switcher, state, new, birthplace);
    }
    let lower = match new.lower_at() {
        Some(lower) => Some(state.index_of(switcher, &lower)?),
        None => None,
    };
    let peer_ns = match &new.peer {
        Some(peer) => Some(switcher.connection(&peer.at.ns)?.as_raw_ns()),
        None => None,
    };
    let name = &new.end.at.name;
    let socket = &switcher.connection(&new.end.at.ns)?.route;
    socket.create_link(
        message::new_link(new, lower, peer_ns),
        name,
        &new.end.owner_tag,
    )?;

    let mtus = new
        .end
        .mtu
        .and_then(|mtu| new.settings.mtus_after_creation(mtu));
    let messages = mtus.into_iter().flatten().map(|mtu| {
        let message = link::set_link(LinkId::Name(name), LinkAttribute::Mtu(mtu));
        (message, 0)
    });
    Ok(socket.send_batch(messages.collect())?)
}

/// Creates a link in the namespace of its base, and moves it from there. Made at its location at
/// once, by `IFLA_NET_NS_FD`, it would be without an owner tag for a moment.
fn create_elsewhere(
    switcher: &mut NamespaceSwitcher,
    state: &mut BatchState<'_>,
    new: &NewLink,
    birthplace: &LinkAt,
) -> Outcome {
    let to = &new.end.at;
    if is_tagged(switcher, to, &new.end.owner_tag)? {
        return Ok(());
    }
    let born = NewLink {
        birthplace: None,
        end: NewEnd {
            at: birthplace.clone(),
            ..new.end.clone()
        },
        ..new.clone()
    };
    match create_link(switcher, state, &born) {
        Err(error)
            if error.errno() == Some(Errno::EEXIST)
                && is_tagged(switcher, birthplace, &new.end.owner_tag)? => {}
        outcome => outcome?,
    }
    let moved = change_link(
        switcher,
        state,
        &LinkOp::Move {
            from: birthplace.clone(),
            to: to.clone(),
        },
    );
    state.indices.remove(birthplace);
    if moved.is_err() {
        let message = link::delete_link(LinkId::Name(&birthplace.name));
        send(switcher, &birthplace.ns, message, 0)?;
    }
    moved
}

fn set_link(
    switcher: &mut NamespaceSwitcher,
    state: &mut BatchState<'_>,
    link: &LinkAt,
    change: &LinkChange,
) -> Outcome {
    let message = match change {
        LinkChange::Name(name) => link::set_link(
            LinkId::Index(state.index_of(switcher, link)?),
            LinkAttribute::IfName(name.clone()),
        ),
        LinkChange::Up(up) => link::set_link_up(state.index_of(switcher, link)?, *up),
        LinkChange::Mac(mac) => link::set_link(
            LinkId::Index(state.index_of(switcher, link)?),
            LinkAttribute::Address(mac.0.to_vec()),
        ),
        LinkChange::Mtu(mtu) => link::set_link(
            LinkId::Index(state.index_of(switcher, link)?),
            LinkAttribute::Mtu(*mtu),
        ),
        LinkChange::AddrGenModeNone(none) => {
            link::set_addr_gen_mode(state.index_of(switcher, link)?, *none)
        }
        LinkChange::Master(master) => {
            let master = match master {
                Some(master) => state.index_of(switcher, &LinkAt::new(link.ns.clone(), master))?,
                None => 0,
            };
            link::set_link(
                LinkId::Index(state.index_of(switcher, link)?),
                LinkAttribute::Controller(master),
            )
        }
        LinkChange::Device(settings) => {
            message::set_device(state.index_of(switcher, link)?, settings)
        }
        LinkChange::Altname { name, present } => {
            return set_altname(switcher, link, name, *present);
        }
        LinkChange::Settings(settings) => match message::set_settings(&link.name, settings) {
            Some(message) => message,
            None => return Ok(()),
        },
        LinkChange::Port(settings) => message::set_port(state.index_of(switcher, link)?, settings),
        LinkChange::Vlans(change) => {
            let messages = message::change_vlans(state.index_of(switcher, link)?, change);
            return send_batch(switcher, &link.ns, messages);
        }
        LinkChange::Owner {
            was,
            owner_tag,
            peer,
        } => return set_owner(switcher, link, (was, owner_tag), peer.as_ref()),
    };
    send(switcher, &link.ns, message, 0)
}

fn change_feature(
    switcher: &mut NamespaceSwitcher,
    state: &mut BatchState<'_>,
    op: &FeatureOp,
) -> Outcome {
    match op {
        FeatureOp::Address { link, change } => change_addresses(switcher, state, link, change),
        FeatureOp::Remote { link, change } => change_remote(switcher, state, link, change),
        FeatureOp::Route { ns, change } => change_route(switcher, state, ns, change),
        FeatureOp::Rule { ns, change } => change_rule(switcher, ns, change),
        FeatureOp::Neighbour { ns, change } => change_neighbour(switcher, state, ns, change),
        FeatureOp::Sysctl { name, key, value } => set_sysctl(switcher, state, name, key, value),
        FeatureOp::Dns {
            name,
            file,
            content,
        } => Ok(write_dns_file(name, *file, content.as_deref())?),
    }
}

fn change_addresses(
    switcher: &mut NamespaceSwitcher,
    state: &mut BatchState<'_>,
    link: &LinkAt,
    change: &AddressChange,
) -> Outcome {
    let index = state.index_of(switcher, link)?;
    match change {
        AddressChange::Add { address, replace } => {
            let message = message::new_address(index, address);
            send(switcher, &link.ns, message, made(*replace))
        }
        AddressChange::Delete { address, promote } => {
            let message = message::delete_address(index, address);
            let messages = promoting(index, *promote, vec![(message, 0)]);
            send_batch(switcher, &link.ns, messages)
        }
        AddressChange::Reorder {
            delete,
            add,
            promote,
        } => {
            let socket = &switcher.connection(&link.ns)?.route;
            reorder_addresses(socket, index, (delete, add), *promote)
        }
        AddressChange::AddPrefixRoute(address) => {
            let route = prefix_route(&link.name, address);
            let oifs = BTreeMap::from([(link.name.clone(), index)]);
            let message = message::route(&route, &oifs, ROUTE_PROTOCOL_KERNEL);
            // Beside the route of another link in the same network, as the kernel does it.
            let flags = NLM_F_CREATE | NLM_F_APPEND;
            send(
                switcher,
                &link.ns,
                RouteNetlinkMessage::NewRoute(message),
                flags,
            )
        }
    }
}

fn change_route(
    switcher: &mut NamespaceSwitcher,
    state: &mut BatchState<'_>,
    ns: &Ns,
    change: &RouteChange,
) -> Outcome {
    let (RouteChange::Add { route, .. } | RouteChange::Delete(route)) = change;
    let mut oifs = BTreeMap::new();
    for interface in route.hops().iter().filter_map(|hop| hop.interface.as_ref()) {
        let link = LinkAt::new(ns.clone(), interface.as_str());
        oifs.insert(link.name.clone(), state.index_of(switcher, &link)?);
    }
    match change {
        RouteChange::Add {
            route,
            extras,
            protocol,
            replace,
        } => {
            let message = message::whole_route(route, extras, &oifs, *protocol);
            send(
                switcher,
                ns,
                RouteNetlinkMessage::NewRoute(message),
                made(*replace),
            )
        }
        RouteChange::Delete(route) => {
            // Without its next hops IPv6 deletes all of them (`ip6_route_del()`, net/ipv6/route.c).
            let bare = Route {
                nexthops: Vec::new(),
                ..route.clone()
            };
            let mut message = message::route(&bare, &oifs, ROUTE_PROTOCOL);
            // Any scope (fib_table_delete(), net/ipv4/fib_trie.c).
            message.header.scope = RouteScope::NoWhere;
            send(switcher, ns, RouteNetlinkMessage::DelRoute(message), 0)
        }
    }
}

fn change_remote(
    switcher: &mut NamespaceSwitcher,
    state: &mut BatchState<'_>,
    link: &LinkAt,
    change: &RemoteChange,
) -> Outcome {
    let index = state.index_of(switcher, link)?;
    let (message, flags) = match change {
        RemoteChange::Add(to) => (
            RouteNetlinkMessage::NewNeighbour(flood_entry(index, *to)),
            NLM_F_CREATE | NLM_F_APPEND,
        ),
        RemoteChange::Delete(to) => (
            RouteNetlinkMessage::DelNeighbour(flood_entry(index, *to)),
            0,
        ),
    };
    send(switcher, &link.ns, message, flags)
}

fn change_rule(switcher: &mut NamespaceSwitcher, ns: &Ns, change: &RuleChange) -> Outcome {
    let (message, flags) = match change {
        RuleChange::Add(rule) => (
            RouteNetlinkMessage::NewRule(message::rule(rule)),
            NLM_F_CREATE | NLM_F_EXCL,
        ),
        RuleChange::Delete(rule) => (RouteNetlinkMessage::DelRule(message::rule(rule)), 0),
    };
    send(switcher, ns, message, flags)
}

fn change_neighbour(
    switcher: &mut NamespaceSwitcher,
    state: &mut BatchState<'_>,
    ns: &Ns,
    change: &NeighbourChange,
) -> Outcome {
    let (NeighbourChange::Set(neighbour) | NeighbourChange::Delete(neighbour)) = change;
    let link = LinkAt::new(ns.clone(), neighbour.interface.as_str());
    let message = message::neighbour(neighbour, state.index_of(switcher, &link)?);
    match change {
        NeighbourChange::Set(_) => {
            let flags = NLM_F_CREATE | NLM_F_REPLACE;
            send(
                switcher,
                ns,
                RouteNetlinkMessage::NewNeighbour(message),
                flags,
            )
        }
        NeighbourChange::Delete(_) => {
            send(switcher, ns, RouteNetlinkMessage::DelNeighbour(message), 0)
        }
    }
}

/// Wraps changes in `promote_secondaries` on and off, if needed. All is one datagram: the setting
/// is never seen otherwise, nor left so by a crash.
fn promoting(index: u32, promote: bool, changes: Vec<Change>) -> Vec<Change> {
    let set = |on| promote.then(|| (link::set_promote_secondaries(index, on), 0));
    set(true)
        .into_iter()
        .chain(changes)
        .chain(set(false))
        .collect()
}

/// A request and its flags.
type Change = (RouteNetlinkMessage, u16);

/// Deletes and adds addresses, and restores the routes that the kernel deletes, or whose source it
/// removes, meanwhile.
fn reorder_addresses(
    socket: &RouteSocket,
    index: u32,
    (delete, add): (&[ObservedAddress], &[ObservedAddress]),
    promote: bool,
) -> Outcome {
    let moved: Vec<IpAddr> = moved(delete, add).collect();
    let mut lost: Vec<Change> = Vec::new();
    for ipv6 in [false, true] {
        if moved.iter().any(|address| address.is_ipv6() == ipv6) {
            // In other tables IPv4 routes stay (`fib_sync_down_addr()`, net/ipv4/fib_semantics.c).
            let table = (!ipv6).then_some(RT_TABLE_MAIN);
            let flags = NLM_F_CREATE | if ipv6 { NLM_F_REPLACE } else { NLM_F_APPEND };
            let routes = observe::routes_from(socket, ipv6, table, &moved)?;
            lost.extend(
                routes
                    .into_iter()
                    .map(|route| (recreate_route(route), flags)),
            );
        }
    }
    let deletions = delete
        .iter()
        .map(|gone| (message::delete_address(index, gone), 0));
    let additions = add
        .iter()
        .map(|new| (message::new_address(index, new), made(false)));
    let mut changes: Vec<Change> = deletions.chain(additions).chain(lost).collect();
    while !changes.is_empty() {
        let rest = changes.split_off(changes.len().min(AT_ONCE));
        socket.send_batch(promoting(index, promote, changes))?;
        changes = rest;
    }
    Ok(())
}

/// Number of changes in one datagram: the answers must fit into the socket's buffer.
const AT_ONCE: usize = 100;

/// Returns the flags of a creation: the object must not exist, or may.
fn made(replace: bool) -> u16 {
    NLM_F_CREATE | if replace { NLM_F_REPLACE } else { NLM_F_EXCL }
}

fn no_device(link: &LinkAt) -> KernelError {
    let LinkAt { ns, name } = link;
    KernelError::refused(Errno::ENODEV, format!("{ns} has no interface {name}"))
}

/// Turns errors that say "already so" into success, and tags the second end of a new pair.
fn complete(
    switcher: &mut NamespaceSwitcher,
    state: &mut BatchState<'_>,
    op: &Op,
    outcome: Outcome,
) -> Outcome {
    let Err(error) = outcome else {
        return match op {
            Op::Link(LinkOp::Create(new)) => tag_second_end(switcher, new),
            Op::Namespace(_) | Op::Link(_) | Op::Feature(_) => Ok(()),
        };
    };
    if error.is_missing_namespace() {
        return if is_gone_with_namespace(op) {
            Ok(())
        } else {
            Err(error)
        };
    }
    let Some(errno) = error.errno() else {
        return Err(error);
    };
    let is_so = match op {
        Op::Namespace(_) => false,
        Op::Link(LinkOp::Create(new)) => errno == Errno::EEXIST && is_created(switcher, new)?,
        Op::Link(LinkOp::Delete(_)) => matches!(errno, Errno::ENODEV | Errno::ENOENT),
        // A link without IPv6 makes itself no address.
        Op::Link(LinkOp::Set {
            change: LinkChange::AddrGenModeNone(_),
            ..
        }) => matches!(errno, Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP),
        Op::Link(LinkOp::Move { .. } | LinkOp::Set { .. }) => false,
        Op::Feature(op) => is_feature_so(switcher, state, op, errno)?,
    };
    if is_so { Ok(()) } else { Err(error) }
}

/// Returns true if an operation deletes something that cannot be in a namespace that is gone.
fn is_gone_with_namespace(op: &Op) -> bool {
    match op {
        Op::Link(LinkOp::Delete(_)) => true,
        Op::Feature(FeatureOp::Neighbour { change, .. }) => {
            matches!(change, NeighbourChange::Delete(_))
        }
        Op::Feature(FeatureOp::Rule { change, .. }) => matches!(change, RuleChange::Delete(_)),
        Op::Namespace(_) | Op::Link(_) | Op::Feature(_) => false,
    }
}

fn tag_second_end(switcher: &mut NamespaceSwitcher, new: &NewLink) -> Outcome {
    let Some(peer) = &new.peer else {
        return Ok(());
    };
    let message = link::add_altname(&peer.at.name, &peer.owner_tag);
    send(switcher, &peer.at.ns, message, 0)
}

/// Returns true if every device of a link is there and carries its owner tag.
fn is_created(switcher: &mut NamespaceSwitcher, new: &NewLink) -> Result<bool, KernelError> {
    for end in new.ends() {
        if !is_tagged(switcher, &end.at, &end.owner_tag)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns true if an error says that the feature is as the operation wants it.
fn is_feature_so(
    switcher: &mut NamespaceSwitcher,
    state: &mut BatchState<'_>,
    op: &FeatureOp,
    errno: Errno,
) -> Result<bool, KernelError> {
    Ok(match op {
        FeatureOp::Address { link, change } => match change {
            // A link without IPv6 has no link-local address.
            AddressChange::Add { address, .. }
                if address.protocol == ADDRESS_PROTOCOL_KERNEL_LL
                    && matches!(errno, Errno::EACCES | Errno::EINVAL | Errno::EOPNOTSUPP) =>
            {
                true
            }
            AddressChange::Add { address, .. } => {
                errno == Errno::EEXIST && has_address(switcher, state, link, address)?
            }
            // With an MTU that is too small for it IPv6 is off, and has no addresses.
            AddressChange::Delete { .. } => {
                matches!(errno, Errno::EADDRNOTAVAIL | Errno::ENODEV | Errno::ENXIO)
            }
            AddressChange::Reorder { .. } => false,
            AddressChange::AddPrefixRoute(_) => errno == Errno::EEXIST,
        },
        FeatureOp::Remote { change, .. } => match change {
            RemoteChange::Add(_) => false,
            RemoteChange::Delete(_) => matches!(errno, Errno::ENOENT | Errno::ENODEV),
        },
        FeatureOp::Route { ns, change } => match change {
            RouteChange::Add { route, .. } => {
                errno == Errno::EEXIST && has_route(switcher, ns, route)?
            }
            RouteChange::Delete(_) => matches!(errno, Errno::ESRCH | Errno::ENODEV),
        },
        FeatureOp::Rule { ns, change } => match change {
            RuleChange::Add(rule) => errno == Errno::EEXIST && has_rule(switcher, ns, rule)?,
            RuleChange::Delete(_) => errno == Errno::ENOENT,
        },
        FeatureOp::Neighbour { change, .. } => match change {
            NeighbourChange::Set(_) => false,
            NeighbourChange::Delete(_) => matches!(errno, Errno::ENOENT | Errno::ENODEV),
        },
        FeatureOp::Sysctl { .. } | FeatureOp::Dns { .. } => false,
    })
}

fn has_address(
    switcher: &mut NamespaceSwitcher,
    state: &mut BatchState<'_>,
    link: &LinkAt,
    address: &ObservedAddress,
) -> Result<bool, KernelError> {
    let question = get_addresses(Some(state.index_of(switcher, link)?));
    let socket = &switcher.connection(&link.ns)?.route;
    let there = socket.dump(question, observe::address_of)?;
    Ok(there.iter().any(|(_, known)| known.is_same(address)))
}

/// Replaces the owner tag of a link, in one datagram: it is never there with both tags, or
/// without one.
fn set_owner(
    switcher: &mut NamespaceSwitcher,
    link: &LinkAt,
    (was, owner_tag): (&Option<String>, &Option<String>),
    peer: Option<&LinkAt>,
) -> Outcome {
    if let Some(other) = peer {
        check_peer(switcher, link, other)?;
    }

    let name = &link.name;
    let added = owner_tag
        .iter()
        .map(|tag| (link::add_altname(name, tag), 0));
    let deleted = was
        .iter()
        .map(|tag| (message::delete_owner_tag(name, tag), 0));
    let messages = added.chain(deleted).collect();
    let outcome = send_batch(switcher, &link.ns, messages);

    match (outcome, owner_tag) {
        (Err(error), Some(tag))
            if error.errno() == Some(Errno::EEXIST) && is_tagged(switcher, link, tag)? =>
        {
            Ok(())
        }
        (Err(error), _) if error.errno() == Some(Errno::ENOENT) || error.is_missing_namespace() => {
            Ok(())
        }
        (outcome, _) => outcome,
    }
}

/// Adds an alternative name to a link, or removes it.
fn set_altname(
    switcher: &mut NamespaceSwitcher,
    link: &LinkAt,
    altname: &str,
    present: bool,
) -> Outcome {
    let message = if present {
        link::add_altname(&link.name, altname)
    } else {
        link::delete_altname(&link.name, altname)
    };
    match send(switcher, &link.ns, message, 0) {
        Err(error) if present && error.errno() == Some(Errno::EEXIST) => {
            if look_at(switcher, link)?.altnames.contains(altname) {
                return Ok(());
            }
            let message = format!("another link of {} has the name {altname}", link.ns);
            Err(KernelError::refused(Errno::EEXIST, message))
        }
        Err(error) if !present && error.errno() == Some(Errno::ENOENT) => Ok(()),
        outcome => outcome,
    }
}

/// Fails if two links are not the ends of one pair.
fn check_peer(switcher: &mut NamespaceSwitcher, link: &LinkAt, other: &LinkAt) -> Outcome {
    let (one, two) = (look_at(switcher, link)?, look_at(switcher, other)?);
    let raw = switcher.connection(&other.ns)?.as_raw_ns();
    // A link does not show an id for the namespace that it is in itself.
    let netnsid = if link.ns == other.ns {
        None
    } else {
        switcher.netnsid(&link.ns, raw)?
    };
    let peer_netnsid = one.peer_netnsid.and_then(|id| u32::try_from(id).ok());
    if one.peer_index == Some(two.index) && peer_netnsid == netnsid {
        return Ok(());
    }
    Err(KernelError::NotAPair {
        link: link.clone(),
        other: other.clone(),
    })
}

/// Returns a link as it is now.
fn look_at(switcher: &mut NamespaceSwitcher, link: &LinkAt) -> Result<ObservedLink, KernelError> {
    let socket = &switcher.connection(&link.ns)?.route;
    let answers = socket.get(link::get_link(LinkId::Name(&link.name)))?;
    let found = answers.iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => Some(parse::link(link).link),
        _ => None,
    });
    found.ok_or_else(|| no_device(link))
}

fn is_tagged(
    switcher: &mut NamespaceSwitcher,
    link: &LinkAt,
    owner_tag: &str,
) -> Result<bool, KernelError> {
    match look_at(switcher, link) {
        Ok(link) => Ok(link.owner_tag.as_deref() == Some(owner_tag)),
        Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Returns true if the very route is there, and netnsd made it.
fn has_route(
    switcher: &mut NamespaceSwitcher,
    ns: &Ns,
    route: &Route,
) -> Result<bool, KernelError> {
    let socket = &switcher.connection(ns)?.route;
    let links = observe::all_links(socket, link::get_links_without_counters())?;
    let names = links
        .into_iter()
        .map(|(name, link)| (link.index, name))
        .collect();
    let known = observe::routes_of(socket, &names, route.is_ipv6(), Some(ROUTE_PROTOCOL), false)?;
    let ours = |known: &ObservedRoute| known.protocol == ROUTE_PROTOCOL && known.is_adoptable();
    Ok(known.into_iter().filter(ours).any(|known| {
        let known = known.route;
        known.destination.net(route.is_ipv6()) == route.destination.net(route.is_ipv6())
            && (known.table, known.kind, known.onlink) == (route.table, route.kind, route.onlink)
            && (known.mtu, known.advmss, known.initcwnd)
                == (route.mtu, route.advmss, route.initcwnd)
            && known.metric == Some(route.effective_metric())
            && route.has_hops_of(&known)
    }))
}

/// Returns true if the very rule is there, and netnsd made it.
fn has_rule(
    switcher: &mut NamespaceSwitcher,
    ns: &Ns,
    rule: &netnsd_api::Rule,
) -> Result<bool, KernelError> {
    let there = observe::rules(&switcher.connection(ns)?.route)?;
    Ok(there.contains(&ObservedRule::of_netnsd(rule.clone())))
}

/// Begins to create namespaces, with the helper thread.
fn begin_creation(switcher: &mut NamespaceSwitcher, helper: &HelperThread, ops: &[&Op]) {
    let new = ops
        .iter()
        .filter_map(|op| op.created_namespace())
        .map(|(name, owner_tag)| (name.clone(), owner_tag.clone()))
        .collect();
    switcher.begin_creation(helper, new);
}

/// Waits for the namespaces that are being created.
fn finish_creation(switcher: &mut NamespaceSwitcher) -> Vec<Outcome> {
    let outcomes = switcher.finish_creation().into_iter();
    outcomes.map(|outcome| Ok(outcome?)).collect()
}

fn attach(switcher: &mut NamespaceSwitcher, name: &Name, pid: u32, owner_tag: &str) -> Outcome {
    switcher.forget(&Ns::Named(name.clone()));
    let file = std::fs::File::open(format!("/proc/{pid}/ns/net")).map_err(|error| {
        KernelError::refused(errno_of(&error), format!("process {pid}: {error}"))
    })?;
    let connection = switcher.connect(file.into())?;
    let answers = connection
        .route
        .get(link::get_link(LinkId::Index(LOOPBACK)))?;
    let was = answers
        .into_iter()
        .find_map(observe::link_of)
        .and_then(|lo| lo.link.owner_tag);
    if let Some(alias) = observe::alias_of(switcher, connection.inode, name, was.as_deref())? {
        return Err(KernelError::AlreadyNamed { pid, alias });
    }
    // The tag is of a record that no longer exists.
    if let Some(was) = was.filter(|was| was != owner_tag) {
        connection
            .route
            .send(message::delete_owner_tag("lo", &was), 0)?;
    }
    match pin_with_altname(&connection, name, owner_tag) {
        // It was tagged before, and lost its name.
        Err(error) if error.errno() == Some(Errno::EEXIST) => {
            Ok(pin(name.as_str(), &connection.ns)?)
        }
        other => Ok(other?),
    }
}

fn set_netnsid(
    switcher: &mut NamespaceSwitcher,
    state: &mut BatchState<'_>,
    name: &Name,
    id: NetnsId,
) -> Outcome {
    let raw = switcher.connection(&Ns::Named(name.clone()))?.as_raw_ns();
    let wanted = match id {
        NetnsId::Auto => -1,
        NetnsId::Id(id) => i32::try_from(id).map_err(|_| Errno::EINVAL)?,
    };
    let start = Instant::now();
    loop {
        let outcome = send(switcher, &Ns::Host, nsid::new_nsid(raw, wanted), 0);
        match outcome {
            Err(error) if error.errno() == Some(Errno::EEXIST) => {}
            other => return other,
        }
        match switcher.netnsid(&Ns::Host, raw)? {
            Some(now) if id == NetnsId::Auto || id == NetnsId::Id(now) => return Ok(()),
            Some(now) => {
                let message = format!(
                    "it has the id {now}, which cannot be changed while the namespace lives"
                );
                return Err(KernelError::refused(Errno::EEXIST, message));
            }
            None => {}
        }
        // A namespace that was just deleted keeps its id until the kernel has cleared it away.
        let is_dying = is_dying(switcher, wanted)?;
        if let Some(left) = state
            .id_wait
            .checked_sub(ID_RETRY_INTERVAL)
            .filter(|_| is_dying || start.elapsed() < LIVING_ID_TIMEOUT)
        {
            state.id_wait = left;
            std::thread::sleep(ID_RETRY_INTERVAL);
        } else if is_dying {
            return Err(KernelError::IdNotFreed { id: wanted });
        } else {
            return Err(KernelError::refused(
                Errno::EEXIST,
                "another namespace has this id",
            ));
        }
    }
}

/// Returns true if no living namespace has this id: the kernel no longer finds one that is being
/// deleted (`get_net_ns_by_id()`, net/core/net_namespace.c).
fn is_dying(switcher: &mut NamespaceSwitcher, id: i32) -> Result<bool, KernelError> {
    let socket = &switcher.connection(&Ns::Host)?.route;
    match socket.get(nsid::get_nsid(NsidAttribute::Id(id))) {
        Ok(_) => Ok(false),
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn set_sysctl(
    switcher: &mut NamespaceSwitcher,
    state: &mut BatchState<'_>,
    name: &Name,
    key: &SysctlKey,
    value: &str,
) -> Outcome {
    let ns = switcher
        .connection(&Ns::Named(name.clone()))?
        .ns
        .try_clone()
        .map_err(|error| errno_of(&error))?;
    let side_effects = changed_along(key);
    let previous = switcher
        .run_in(ns, || write_sysctl(key, value, &side_effects))
        .map_err(|errno| KernelError::refused(errno, describe_refusal(key, value, errno)))?;
    state.replaced_sysctls.extend(
        previous
            .into_iter()
            .map(|(key, value)| (name.clone(), key, value)),
    );
    Ok(())
}
