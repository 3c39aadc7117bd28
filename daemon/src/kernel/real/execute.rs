//! Executes batches of operations. An operation is finished when the kernel has answered.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use netnsd_api::{Name, NetnsId, SysctlKey};
use nix::errno::Errno;
use rtnetlink::{
    packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE},
    packet_route::{
        RouteNetlinkMessage, link::LinkAttribute, nsid::NsidAttribute, route::RouteScope,
    },
};

use super::{
    channel::Channel,
    local::{Local, Open},
    message, observe, parse,
    worker::{self, MANY, Pinned, Worker},
};
use crate::kernel::{
    ADDRESS_PROTOCOL_KERNEL_LL, AddressChange, BatchOp, DEFAULT_MTU, FeatureOp, LOOPBACK, LinkAt,
    LinkChange, LinkOp, NamespaceChange, NamespaceOp, NeighbourChange, NewLink, Ns,
    ObservedAddress, ObservedLink, ObservedRoute, Op, OpError, Outcome, ROUTE_PROTOCOL,
    ROUTE_PROTOCOL_KERNEL, RT_TABLE_MAIN, RouteChange, moved, prefix_route,
};
use crate::links::bridge_mtu;

/// Time that a batch waits in all for ids of deleted namespaces, which the kernel clears away in
/// its own time (`cleanup_net()`, net/core/net_namespace.c).
pub(super) const ID_WAIT: Duration = Duration::from_secs(1);
const LIVING: Duration = Duration::from_millis(200);
const AGAIN: Duration = Duration::from_millis(5);

/// Executes a batch. Two threads create namespaces, and one of them continues with the next
/// operations in those that exist.
pub(super) fn execute(
    local: &mut Local,
    other: &Worker,
    ops: &[BatchOp],
    done: &dyn Fn(usize),
) -> Vec<Option<Outcome>> {
    local.id_wait = ID_WAIT;
    let mut course = Course {
        ops,
        outcomes: vec![None; ops.len()],
        failed: BTreeSet::new(),
    };
    let mut indices = Indices::default();
    let mut making = Vec::new();
    let mut next = 0;
    while next < ops.len() {
        let run =
            |is_one: fn(&Op) -> bool| ops[next..].iter().take_while(|op| is_one(&op.op)).count();
        let deletions = run(|op| matches!(op, Op::Link(LinkOp::Delete(_))));
        let creations = run(|op| op.created_namespace().is_some());
        let room = local.make_room();
        let end = next + deletions.max(creations.min(room)).max(1);
        let these: Vec<usize> = (next..end).filter(|i| course.goes_on(*i)).collect();
        let chosen: Vec<&Op> = these.iter().map(|i| &ops[*i].op).collect();
        if end - next >= MANY && creations > 0 {
            course.note(std::mem::replace(&mut making, these), local.finish_making());
            begin_namespaces(local, other, &chosen);
        } else if deletions > 1 {
            course.note(these, delete(local, &mut indices, &chosen));
        } else {
            let results = chosen
                .into_iter()
                .map(|op| perform(local, &mut indices, op))
                .collect();
            course.note(these, results);
        }
        done(end - local.unmade());
        next = end;
    }
    course.note(making, local.finish_making());
    done(ops.len());
    course.outcomes
}

/// Progress of a batch.
struct Course<'o> {
    ops: &'o [BatchOp],
    outcomes: Vec<Option<Outcome>>,
    /// Parts that failed: the rest of each is skipped.
    failed: BTreeSet<usize>,
}

impl Course<'_> {
    fn goes_on(&self, i: usize) -> bool {
        !self.failed.contains(&self.ops[i].part)
    }

    fn note(&mut self, these: Vec<usize>, results: Vec<Outcome>) {
        for (i, result) in these.into_iter().zip(results) {
            if result.is_err() && !self.ops[i].optional {
                self.failed.insert(self.ops[i].part);
            }
            self.outcomes[i] = Some(result);
        }
    }
}

/// Cache of interface indices.
#[derive(Default)]
struct Indices(BTreeMap<LinkAt, u32>);

impl Indices {
    /// Returns the index of a link, from the kernel if it is not cached.
    fn get(&mut self, local: &mut Local, link: &LinkAt) -> Result<u32, OpError> {
        if let Some(index) = self.0.get(link) {
            return Ok(*index);
        }
        let index = look_at(local, link)
            .map_err(|error| match error.errno {
                Errno::ENODEV => no_device(link),
                _ => error,
            })?
            .index;
        self.0.insert(link.clone(), index);
        Ok(index)
    }

    /// Drops the names that may mean another link, or none, after an operation.
    fn forget(&mut self, op: &Op) {
        match op {
            Op::Namespace(NamespaceOp {
                change: NamespaceChange::Delete,
                ..
            })
            | Op::Link(LinkOp::Delete(_)) => self.0.clear(),
            Op::Link(LinkOp::Move { from, to }) => {
                self.0.remove(from);
                self.0.remove(to);
            }
            Op::Link(LinkOp::Set {
                link,
                change: LinkChange::Name(name),
            }) => {
                self.0.remove(link);
                self.0.remove(&LinkAt::new(link.ns.clone(), name.clone()));
            }
            Op::Namespace(_) | Op::Link(_) | Op::Feature(_) => {}
        }
    }
}

/// Executes one operation.
fn perform(local: &mut Local, indices: &mut Indices, op: &Op) -> Outcome {
    let outcome = match op {
        Op::Namespace(op) => change_namespace(local, op),
        Op::Link(op) => change_link(local, indices, op),
        Op::Feature(op) => change_feature(local, indices, op),
    };
    indices.forget(op);
    complete(local, indices, op, outcome)
}

/// Deletes links. Each deletion waits for a grace period of the kernel: those of one namespace
/// share one.
fn delete(local: &mut Local, indices: &mut Indices, ops: &[&Op]) -> Vec<Outcome> {
    let mut by_ns: BTreeMap<Ns, Vec<usize>> = BTreeMap::new();
    for (i, op) in ops.iter().enumerate() {
        by_ns.entry(op.ns()).or_default().push(i);
    }

    let mut outcomes = vec![Ok(()); ops.len()];
    for (ns, those) in by_ns {
        let links: Vec<&Op> = those.iter().map(|i| ops[*i]).collect();
        let results = match &links[..] {
            [only] => vec![perform(local, indices, only)],
            _ => delete_together(local, indices, &ns, &links),
        };
        for (i, result) in those.into_iter().zip(results) {
            outcomes[i] = result;
        }
    }
    outcomes
}

/// Deletes links of one namespace, as a group that they are put into first.
fn delete_together(local: &mut Local, indices: &mut Indices, ns: &Ns, ops: &[&Op]) -> Vec<Outcome> {
    // A random number: no link of others is in that group.
    let group = uuid::Uuid::now_v7().as_u128() as u32;
    let mut joined: Vec<Outcome> = Vec::new();
    for op in ops {
        joined.push(match op {
            Op::Link(LinkOp::Delete(link)) => {
                let message = message::set_named(&link.name, LinkAttribute::Group(group));
                local.change(ns, message, 0)
            }
            other => perform(local, indices, other),
        });
    }
    let deleted = local.change(ns, message::delete_group(group), 0);

    let mut outcomes = Vec::new();
    for (op, outcome) in ops.iter().zip(joined) {
        indices.forget(op);
        outcomes.push(complete(local, indices, op, outcome.and(deleted.clone())));
    }
    outcomes
}

fn change_namespace(local: &mut Local, NamespaceOp { name, change }: &NamespaceOp) -> Outcome {
    let ns = Ns::Named(name.clone());
    match change {
        NamespaceChange::Create { owner_tag } => {
            local.forget(&ns);
            if let Some(open) = add_namespace(local, name, owner_tag)? {
                local.hold(ns, open);
            }
            Ok(())
        }
        NamespaceChange::Attach { pid, owner_tag } => attach(local, name, *pid, owner_tag),
        NamespaceChange::Delete => {
            local.forget(&ns);
            Ok(worker::unpin(name.as_str())?)
        }
        NamespaceChange::SetId(id) => set_netnsid(local, name, *id),
        NamespaceChange::SetLoopbackUp(up) => local.change(&ns, message::set_up(LOOPBACK, *up), 0),
    }
}

fn change_link(local: &mut Local, indices: &mut Indices, op: &LinkOp) -> Outcome {
    match op {
        LinkOp::Create(new) => create_link(local, new),
        LinkOp::Delete(link) => {
            let message = message::delete_link(indices.get(local, link)?);
            local.change(&link.ns, message, 0)
        }
        LinkOp::Move { from, to } => {
            let target = local.reach(&to.ns)?.raw();
            let message = message::move_link(indices.get(local, from)?, target, &to.name);
            local.change(&from.ns, message, 0)
        }
        LinkOp::Set { link, change } => set_link(local, indices, link, change),
    }
}

fn create_link(local: &mut Local, new: &NewLink) -> Outcome {
    match new {
        NewLink::Veth { ends } => {
            let peer = local.reach(&ends[1].at.ns)?.raw();
            let channel = &local.reach(&ends[0].at.ns)?.channel;
            channel.create(
                message::new_veth(ends, peer),
                &ends[0].at.name,
                &ends[0].owner_tag,
            )
        }
        NewLink::Bridge { end, settings } => {
            let name = &end.at.name;
            let channel = &local.reach(&end.at.ns)?.channel;
            channel.create(message::new_bridge(name, end.mac), name, &end.owner_tag)?;

            // An MTU given at the creation would follow the ports' (br_mtu_auto_adjust(),
            // net/bridge/br_if.c).
            let mtus = end.mtu.map(|mtu| bridge_mtu(DEFAULT_MTU, mtu));
            let mut messages: Vec<Change> = mtus
                .into_iter()
                .flatten()
                .map(|mtu| (message::set_named(name, LinkAttribute::Mtu(mtu)), 0))
                .collect();
            messages.extend(message::set_bridge(name, settings).map(|message| (message, 0)));
            channel.changes(messages)
        }
    }
}

fn set_link(
    local: &mut Local,
    indices: &mut Indices,
    link: &LinkAt,
    change: &LinkChange,
) -> Outcome {
    let message = match change {
        LinkChange::Name(name) => message::set_link(
            indices.get(local, link)?,
            LinkAttribute::IfName(name.clone()),
        ),
        LinkChange::Up(up) => message::set_up(indices.get(local, link)?, *up),
        LinkChange::Mac(mac) => message::set_link(
            indices.get(local, link)?,
            LinkAttribute::Address(mac.0.to_vec()),
        ),
        LinkChange::Mtu(mtu) => {
            message::set_link(indices.get(local, link)?, LinkAttribute::Mtu(*mtu))
        }
        LinkChange::AddrGenModeNone(none) => message::addr_gen(indices.get(local, link)?, *none),
        LinkChange::Master(master) => {
            let master = match master {
                Some(master) => indices.get(local, &LinkAt::new(link.ns.clone(), master))?,
                None => 0,
            };
            message::set_link(indices.get(local, link)?, LinkAttribute::Controller(master))
        }
        LinkChange::Bridge(settings) => match message::set_bridge(&link.name, settings) {
            Some(message) => message,
            None => return Ok(()),
        },
        LinkChange::Port(settings) => message::set_port(indices.get(local, link)?, settings),
        LinkChange::Owner {
            was,
            owner_tag,
            peer,
        } => return set_owner(local, link, (was, owner_tag), peer.as_ref()),
    };
    local.change(&link.ns, message, 0)
}

fn change_feature(local: &mut Local, indices: &mut Indices, op: &FeatureOp) -> Outcome {
    match op {
        FeatureOp::Address { link, change } => change_addresses(local, indices, link, change),
        FeatureOp::Route { ns, change } => change_route(local, indices, ns, change),
        FeatureOp::Neighbour { ns, change } => change_neighbour(local, indices, ns, change),
        FeatureOp::Sysctl { name, key, value } => set_sysctl(local, name, key, value),
        FeatureOp::Dns {
            name,
            file,
            content,
        } => Ok(worker::write_dns(name, *file, content.as_deref())?),
    }
}

fn change_addresses(
    local: &mut Local,
    indices: &mut Indices,
    link: &LinkAt,
    change: &AddressChange,
) -> Outcome {
    let index = indices.get(local, link)?;
    match change {
        AddressChange::Add { address, replace } => {
            let message = message::new_address(index, address);
            local.change(&link.ns, message, made(*replace))
        }
        AddressChange::Delete { address, promote } => {
            let message = message::delete_address(index, address);
            let messages = promoting(index, *promote, vec![(message, 0)]);
            local.reach(&link.ns)?.channel.changes(messages)
        }
        AddressChange::Reorder {
            delete,
            add,
            promote,
        } => {
            let channel = &local.reach(&link.ns)?.channel;
            reorder_addresses(channel, index, (delete, add), *promote)
        }
        AddressChange::AddPrefixRoute(address) => {
            let route = prefix_route(&link.name, *address);
            let message = message::route(&route, Some(index), ROUTE_PROTOCOL_KERNEL);
            // Beside the route of another link in the same network, as the kernel does it.
            let flags = NLM_F_CREATE | NLM_F_APPEND;
            local.change(&link.ns, RouteNetlinkMessage::NewRoute(message), flags)
        }
    }
}

fn change_route(
    local: &mut Local,
    indices: &mut Indices,
    ns: &Ns,
    change: &RouteChange,
) -> Outcome {
    let (RouteChange::Add { route, .. } | RouteChange::Delete(route)) = change;
    let oif = match &route.interface {
        Some(interface) => {
            let link = LinkAt::new(ns.clone(), interface.as_str());
            Some(indices.get(local, &link)?)
        }
        None => None,
    };
    match change {
        RouteChange::Add {
            route,
            extras,
            protocol,
            replace,
        } => {
            let message = message::whole_route(route, extras, oif, *protocol);
            local.change(ns, RouteNetlinkMessage::NewRoute(message), made(*replace))
        }
        RouteChange::Delete(route) => {
            let mut message = message::route(route, oif, ROUTE_PROTOCOL);
            // Any scope (fib_table_delete(), net/ipv4/fib_trie.c).
            message.header.scope = RouteScope::NoWhere;
            local.change(ns, RouteNetlinkMessage::DelRoute(message), 0)
        }
    }
}

fn change_neighbour(
    local: &mut Local,
    indices: &mut Indices,
    ns: &Ns,
    change: &NeighbourChange,
) -> Outcome {
    let (NeighbourChange::Set(neighbour) | NeighbourChange::Delete(neighbour)) = change;
    let link = LinkAt::new(ns.clone(), neighbour.interface.as_str());
    let message = message::neighbour(neighbour, indices.get(local, &link)?);
    match change {
        NeighbourChange::Set(_) => {
            let flags = NLM_F_CREATE | NLM_F_REPLACE;
            local.change(ns, RouteNetlinkMessage::NewNeighbour(message), flags)
        }
        NeighbourChange::Delete(_) => {
            local.change(ns, RouteNetlinkMessage::DelNeighbour(message), 0)
        }
    }
}

/// Wraps changes in `promote_secondaries` on and off, if needed. All is one datagram: the setting
/// is never seen otherwise, nor left so by a crash.
fn promoting(index: u32, promote: bool, changes: Vec<Change>) -> Vec<Change> {
    let set = |on| promote.then(|| (message::promote_secondaries(index, on), 0));
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
    channel: &Channel,
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
            let routes = observe::routes_from(channel, ipv6, table, &moved)?;
            lost.extend(
                routes
                    .into_iter()
                    .map(|route| (message::same_route(route), flags)),
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
        channel.changes(promoting(index, promote, changes))?;
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

fn no_device(link: &LinkAt) -> OpError {
    let LinkAt { ns, name } = link;
    OpError {
        errno: Errno::ENODEV,
        message: Some(format!("{ns} has no interface {name}")),
    }
}

/// Turns errors that say "already so" into success, and tags the second end of a new pair.
fn complete(local: &mut Local, indices: &mut Indices, op: &Op, outcome: Outcome) -> Outcome {
    let Err(error) = outcome else {
        return match op {
            Op::Link(LinkOp::Create(new)) => tag_second_end(local, new),
            Op::Namespace(_) | Op::Link(_) | Op::Feature(_) => Ok(()),
        };
    };
    let is_so = match op {
        Op::Namespace(_) => false,
        Op::Link(LinkOp::Create(new)) => error.errno == Errno::EEXIST && is_created(local, new)?,
        Op::Link(LinkOp::Delete(_)) => matches!(error.errno, Errno::ENODEV | Errno::ENOENT),
        // A link without IPv6 makes itself no address.
        Op::Link(LinkOp::Set {
            change: LinkChange::AddrGenModeNone(_),
            ..
        }) => matches!(error.errno, Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP),
        Op::Link(LinkOp::Move { .. } | LinkOp::Set { .. }) => false,
        Op::Feature(op) => is_feature_so(local, indices, op, error.errno)?,
    };
    if is_so { Ok(()) } else { Err(error) }
}

fn tag_second_end(local: &mut Local, new: &NewLink) -> Outcome {
    match new {
        NewLink::Bridge { .. } => Ok(()),
        NewLink::Veth { ends: [_, second] } => {
            let message = message::add_owner_tag(&second.at.name, &second.owner_tag);
            local.change(&second.at.ns, message, 0)
        }
    }
}

/// Returns true if every device of a link is there and carries its owner tag.
fn is_created(local: &mut Local, new: &NewLink) -> Result<bool, OpError> {
    for end in new.ends() {
        if !is_tagged(local, &end.at, &end.owner_tag)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns true if an error says that the feature is as the operation wants it.
fn is_feature_so(
    local: &mut Local,
    indices: &mut Indices,
    op: &FeatureOp,
    errno: Errno,
) -> Result<bool, OpError> {
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
                errno == Errno::EEXIST && has_address(local, indices, link, address)?
            }
            // With an MTU that is too small for it IPv6 is off, and has no addresses.
            AddressChange::Delete { .. } => {
                matches!(errno, Errno::EADDRNOTAVAIL | Errno::ENODEV | Errno::ENXIO)
            }
            AddressChange::Reorder { .. } => false,
            AddressChange::AddPrefixRoute(_) => errno == Errno::EEXIST,
        },
        FeatureOp::Route { ns, change } => match change {
            RouteChange::Add { route, .. } => {
                errno == Errno::EEXIST && has_route(local, ns, route)?
            }
            RouteChange::Delete(_) => matches!(errno, Errno::ESRCH | Errno::ENODEV),
        },
        FeatureOp::Neighbour { change, .. } => match change {
            NeighbourChange::Set(_) => false,
            NeighbourChange::Delete(_) => matches!(errno, Errno::ENOENT | Errno::ENODEV),
        },
        FeatureOp::Sysctl { .. } | FeatureOp::Dns { .. } => false,
    })
}

fn has_address(
    local: &mut Local,
    indices: &mut Indices,
    link: &LinkAt,
    address: &ObservedAddress,
) -> Result<bool, OpError> {
    let question = message::get_addresses(indices.get(local, link)?);
    let channel = &local.reach(&link.ns)?.channel;
    let there = channel.dump(question, observe::address_of)?;
    Ok(there.iter().any(|(_, known)| known.is_same(address)))
}

/// Replaces the owner tag of a link, in one datagram: it is never there with both tags, or
/// without one.
fn set_owner(
    local: &mut Local,
    link: &LinkAt,
    (was, owner_tag): (&Option<String>, &Option<String>),
    peer: Option<&LinkAt>,
) -> Outcome {
    if let Some(other) = peer {
        check_peer(local, link, other)?;
    }

    let name = &link.name;
    let added = owner_tag
        .iter()
        .map(|tag| (message::add_owner_tag(name, tag), 0));
    let deleted = was
        .iter()
        .map(|tag| (message::delete_owner_tag(name, tag), 0));
    let messages = added.chain(deleted).collect();
    let outcome = local.reach(&link.ns)?.channel.changes(messages);

    match (outcome, owner_tag) {
        (Err(error), Some(tag)) if error.errno == Errno::EEXIST && is_tagged(local, link, tag)? => {
            Ok(())
        }
        (Err(error), _) if error.errno == Errno::ENOENT => Ok(()),
        (outcome, _) => outcome,
    }
}

/// Fails with `EBUSY` if two links are not the ends of one pair.
fn check_peer(local: &mut Local, link: &LinkAt, other: &LinkAt) -> Outcome {
    let (one, two) = (look_at(local, link)?, look_at(local, other)?);
    let raw = local.reach(&other.ns)?.raw();
    // A link does not show an id for the namespace that it is in itself.
    let netnsid = if link.ns == other.ns {
        None
    } else {
        local.netnsid(&link.ns, raw)?
    };
    let peer_netnsid = one.peer_netnsid.and_then(|id| u32::try_from(id).ok());
    if one.peer_index == Some(two.index) && peer_netnsid == netnsid {
        return Ok(());
    }
    Err(OpError {
        errno: Errno::EBUSY,
        message: Some(format!("{link} is not the other end of {other}")),
    })
}

/// Returns a link as it is now.
fn look_at(local: &mut Local, link: &LinkAt) -> Result<ObservedLink, OpError> {
    let channel = &local.reach(&link.ns)?.channel;
    let answers = channel.get(message::get_link(Some(&link.name), 0))?;
    let found = answers.iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => Some(parse::link(link).link),
        _ => None,
    });
    found.ok_or_else(|| no_device(link))
}

fn is_tagged(local: &mut Local, link: &LinkAt, owner_tag: &str) -> Result<bool, OpError> {
    match look_at(local, link) {
        Ok(link) => Ok(link.owner_tag.as_deref() == Some(owner_tag)),
        Err(error) if error.errno == Errno::ENODEV => Ok(false),
        Err(error) => Err(error),
    }
}

/// Returns true if the very route is there, and netnsd made it.
fn has_route(local: &mut Local, ns: &Ns, route: &netnsd_api::Route) -> Result<bool, OpError> {
    let channel = &local.reach(ns)?.channel;
    let links = observe::all_links(channel, message::get_links_briefly())?;
    let names = links
        .into_iter()
        .map(|(name, link)| (link.index, name))
        .collect();
    let known = observe::routes_of(
        channel,
        &names,
        route.is_ipv6(),
        Some(ROUTE_PROTOCOL),
        false,
    )?;
    let ours = |known: &ObservedRoute| known.protocol == ROUTE_PROTOCOL && known.is_adoptable();
    Ok(known.into_iter().filter(ours).any(|known| {
        let known = known.route;
        known.destination.net(route.is_ipv6()) == route.destination.net(route.is_ipv6())
            && (known.table, known.kind, known.via, known.onlink)
                == (route.table, route.kind, route.via, route.onlink)
            && known.metric == Some(route.effective_metric())
            && (route.interface.is_none() || known.interface == route.interface)
    }))
}

/// Explains why a namespace could not be pinned.
fn pinned_nowhere(errno: Errno) -> OpError {
    let no_directory = "/run/netns is no directory: remove it, and try again";
    OpError {
        errno,
        message: (errno == Errno::ENOTDIR).then(|| no_directory.to_owned()),
    }
}

/// Begins to create namespaces, with the other thread's help.
fn begin_namespaces(local: &mut Local, other: &Worker, ops: &[&Op]) {
    let mut new: Vec<(Name, String)> = Vec::new();
    for (name, owner_tag) in ops.iter().filter_map(|op| op.created_namespace()) {
        local.forget(&Ns::Named(name.clone()));
        new.push((name.clone(), owner_tag.clone()));
    }
    local.begin_making(other, new);
}

/// Creates a namespace; returns a connection into it if it is new: most often the next operations
/// are done inside.
pub(super) fn add_namespace(
    local: &mut Local,
    name: &Name,
    owner_tag: &str,
) -> Result<Option<Open>, OpError> {
    if matches!(worker::pinned(name.as_str())?, Pinned::Namespace(_)) {
        return if is_tagged(local, &LinkAt::loopback(Ns::Named(name.clone())), owner_tag)? {
            Ok(None)
        } else {
            Err(Errno::EEXIST.into())
        };
    }
    let open = local.new_namespace()?;
    pin(&open, name, owner_tag)?;
    Ok(Some(open))
}

/// Pins a namespace after it is tagged: a name that can be seen is tagged.
fn pin(open: &Open, name: &Name, owner_tag: &str) -> Outcome {
    open.channel
        .change(message::add_owner_tag("lo", owner_tag), 0)?;
    worker::pin(name.as_str(), &open.ns).map_err(pinned_nowhere)
}

fn attach(local: &mut Local, name: &Name, pid: u32, owner_tag: &str) -> Outcome {
    local.forget(&Ns::Named(name.clone()));
    let file = std::fs::File::open(format!("/proc/{pid}/ns/net")).map_err(|error| OpError {
        errno: error.raw_os_error().map_or(Errno::ESRCH, Errno::from_raw),
        message: Some(format!("process {pid}: {error}")),
    })?;
    let open = local.open(file.into())?;
    let answers = open.channel.get(message::get_link(None, LOOPBACK))?;
    let was = answers
        .into_iter()
        .find_map(observe::link_of)
        .and_then(|lo| lo.link.owner_tag);
    if let Some(alias) = local.alias_of(open.inode, name, was.as_deref())? {
        let message = match alias {
            Ns::Host => format!(
                "process {pid} is in the host's own network namespace, which is always there"
            ),
            other => format!("process {pid} is in {other} already, and one namespace has one name"),
        };
        return Err(OpError {
            errno: Errno::EEXIST,
            message: Some(message),
        });
    }
    // The tag is of a record that no longer exists.
    if let Some(was) = was.filter(|was| was != owner_tag) {
        open.channel
            .change(message::delete_owner_tag("lo", &was), 0)?;
    }
    match pin(&open, name, owner_tag) {
        // It was tagged before, and lost its name.
        Err(error) if error.errno == Errno::EEXIST => {
            Ok(worker::pin(name.as_str(), &open.ns).map_err(pinned_nowhere)?)
        }
        other => other,
    }
}

fn set_netnsid(local: &mut Local, name: &Name, id: NetnsId) -> Outcome {
    let raw = local.reach(&Ns::Named(name.clone()))?.raw();
    let wanted = match id {
        NetnsId::Auto => -1,
        NetnsId::Id(id) => i32::try_from(id).map_err(|_| Errno::EINVAL)?,
    };
    let start = Instant::now();
    loop {
        let outcome = local.change(&Ns::Host, message::new_nsid(raw, wanted), 0);
        let error = match outcome {
            Err(error) if error.errno == Errno::EEXIST => error,
            other => return other,
        };
        match local.netnsid(&Ns::Host, raw)? {
            Some(now) if id == NetnsId::Auto || id == NetnsId::Id(now) => return Ok(()),
            Some(now) => {
                let message = format!(
                    "it has the id {now}, which cannot be changed while the namespace lives"
                );
                return Err(OpError {
                    errno: Errno::EEXIST,
                    message: Some(message),
                });
            }
            None => {}
        }
        // A namespace that was just deleted keeps its id until the kernel has cleared it away.
        let is_dying = is_dying(local, wanted)?;
        if let Some(left) = local
            .id_wait
            .checked_sub(AGAIN)
            .filter(|_| is_dying || start.elapsed() < LIVING)
        {
            local.id_wait = left;
            std::thread::sleep(AGAIN);
        } else if is_dying {
            let message = format!(
                "the kernel is still clearing away a deleted namespace that has the id {wanted}"
            );
            return Err(OpError {
                errno: Errno::EAGAIN,
                message: Some(message),
            });
        } else {
            return Err(OpError {
                message: Some("another namespace has this id".into()),
                ..error
            });
        }
    }
}

/// Returns true if no living namespace has this id: the kernel no longer finds one that is being
/// cleared away (`get_net_ns_by_id()`, net/core/net_namespace.c).
fn is_dying(local: &mut Local, id: i32) -> Result<bool, OpError> {
    match local
        .reach(&Ns::Host)?
        .channel
        .get(message::get_nsid(NsidAttribute::Id(id)))
    {
        Ok(_) => Ok(false),
        Err(error) if error.errno == Errno::ENOENT => Ok(true),
        Err(error) => Err(error),
    }
}

fn set_sysctl(local: &mut Local, name: &Name, key: &SysctlKey, value: &str) -> Outcome {
    let ns = local
        .reach(&Ns::Named(name.clone()))?
        .ns
        .try_clone()
        .map_err(|error| worker::errno(&error))?;
    let before = local
        .within(ns, || worker::write_sysctl(key, value))
        .map_err(|errno| OpError {
            errno,
            message: Some(worker::refused_sysctl(key, value, errno)),
        })?;
    local.replaced.extend(
        before
            .into_iter()
            .map(|(key, before)| (name.clone(), key, before)),
    );
    Ok(())
}
