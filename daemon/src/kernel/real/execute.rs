//! Doing: operations in order, each of which is done when the kernel has taken it.

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
    ADDRESS_PROTOCOL_KERNEL_LL, BatchOp, DEFAULT_MTU, LOOPBACK, Ns, ObservedAddress, ObservedLink,
    ObservedRoute, Op, OpError, Outcome, ROUTE_PROTOCOL, ROUTE_PROTOCOL_KERNEL, RT_TABLE_MAIN,
    bridge_mtu, moved, prefix_route,
};

/// How long a batch waits, in all, for ids of deleted namespaces, which the kernel clears away in
/// its own time (`cleanup_net()`, net/core/net_namespace.c); how long for one of a namespace that
/// lives, which may be a deleted one too, for who looks into it lets go of it a moment later; and
/// how often it is tried.
pub(super) const ID_WAIT: Duration = Duration::from_secs(1);
const LIVING: Duration = Duration::from_millis(200);
const AGAIN: Duration = Duration::from_millis(5);

/// Does a batch. Namespaces are made by two threads, and one of them goes on with what comes next
/// in those that are there.
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
        let deletions = run(|op| matches!(op, Op::LinkDelete { .. }));
        let creations = run(|op| matches!(op, Op::NamespaceAdd { .. }));
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

/// How far a batch is.
struct Course<'o> {
    ops: &'o [BatchOp],
    outcomes: Vec<Option<Outcome>>,
    /// The parts that failed: the rest of them is left.
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

/// Indices of links, by where they are.
#[derive(Default)]
struct Indices(BTreeMap<(Ns, String), u32>);

impl Indices {
    /// The index of a link; what is not known is asked for.
    fn get(&mut self, local: &mut Local, ns: &Ns, name: &str) -> Result<u32, OpError> {
        let key = (ns.clone(), name.to_owned());
        if let Some(index) = self.0.get(&key) {
            return Ok(*index);
        }
        let found = look_at(local, ns, name);
        let index = found
            .map_err(|error| {
                if error.errno == Errno::ENODEV {
                    no_device(ns, name)
                } else {
                    error
                }
            })?
            .index;
        self.0.insert(key, index);
        Ok(index)
    }

    /// Forgets the names that mean another link, or none, after an operation.
    fn forget(&mut self, op: &Op) {
        match op {
            Op::LinkDelete { .. } | Op::NamespaceDelete { .. } => self.0.clear(),
            Op::LinkMove {
                ns,
                name,
                to,
                to_name,
            } => {
                self.0.remove(&(ns.clone(), name.clone()));
                self.0.remove(&(to.clone(), to_name.clone()));
            }
            Op::LinkRename { ns, name, to_name } => {
                self.0.remove(&(ns.clone(), name.clone()));
                self.0.remove(&(ns.clone(), to_name.clone()));
            }
            _ => {}
        }
    }
}

/// Does one operation.
fn perform(local: &mut Local, indices: &mut Indices, op: &Op) -> Outcome {
    let outcome = ask(local, indices, op);
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
    // A number of chance: nobody else's links are in it.
    let group = uuid::Uuid::now_v7().as_u128() as u32;
    let mut join = |op: &&Op| {
        let Op::LinkDelete { ns, name } = op else {
            return Err(Errno::ENOSYS.into());
        };
        local.change(ns, message::set_named(name, LinkAttribute::Group(group)), 0)
    };
    let joined: Vec<Outcome> = ops.iter().map(&mut join).collect();
    let deleted = local.change(ns, message::delete_group(group), 0);
    let complete = |(op, outcome): (&&Op, Outcome)| {
        indices.forget(op);
        complete(local, indices, op, outcome.and(deleted.clone()))
    };
    ops.iter().zip(joined).map(complete).collect()
}

/// Asks the kernel for an operation.
fn ask(local: &mut Local, indices: &mut Indices, op: &Op) -> Outcome {
    match op {
        Op::VethAdd { ends } => {
            let peer = local.reach(&ends[1].ns)?.raw();
            let channel = &local.reach(&ends[0].ns)?.channel;
            channel.create(
                message::new_veth(ends, peer),
                &ends[0].name,
                &ends[0].owner_tag,
            )
        }
        Op::BridgeAdd {
            ns,
            name,
            owner_tag,
            mac,
            mtu,
            set,
        } => {
            local
                .reach(ns)?
                .channel
                .create(message::new_bridge(name, *mac), name, owner_tag)?;
            let mut messages = Vec::new();
            // Given at the creation it would follow the ports' (br_mtu_auto_adjust(),
            // net/bridge/br_if.c).
            let steps = mtu
                .map(|mtu| bridge_mtu(DEFAULT_MTU, mtu))
                .unwrap_or_default();
            messages.extend(
                steps
                    .into_iter()
                    .map(|mtu| (message::set_named(name, LinkAttribute::Mtu(mtu)), 0)),
            );
            messages.extend(message::set_bridge(name, set).map(|message| (message, 0)));
            local.reach(ns)?.channel.changes(messages)
        }
        Op::LinkDelete { ns, name } => {
            let message = message::delete_link(indices.get(local, ns, name)?);
            local.change(ns, message, 0)
        }
        Op::LinkMove {
            ns,
            name,
            to,
            to_name,
        } => {
            let target = local.reach(to)?.raw();
            let message = message::move_link(indices.get(local, ns, name)?, target, to_name);
            local.change(ns, message, 0)
        }
        Op::LinkRename { ns, name, to_name } => {
            let message = message::set_link(
                indices.get(local, ns, name)?,
                LinkAttribute::IfName(to_name.clone()),
            );
            local.change(ns, message, 0)
        }
        Op::LinkUp { ns, name, up } => {
            let message = message::set_up(indices.get(local, ns, name)?, *up);
            local.change(ns, message, 0)
        }
        Op::LoopbackSet { name, up } => {
            local.change(&Ns::Named(name.clone()), message::set_up(LOOPBACK, *up), 0)
        }
        Op::LinkMac { ns, name, mac } => {
            let message = message::set_link(
                indices.get(local, ns, name)?,
                LinkAttribute::Address(mac.0.to_vec()),
            );
            local.change(ns, message, 0)
        }
        Op::LinkMtu { ns, name, mtu } => {
            let message =
                message::set_link(indices.get(local, ns, name)?, LinkAttribute::Mtu(*mtu));
            local.change(ns, message, 0)
        }
        Op::LinkAddrGen { ns, name, none } => {
            let message = message::addr_gen(indices.get(local, ns, name)?, *none);
            local.change(ns, message, 0)
        }
        Op::LinkMaster { ns, name, master } => {
            let master = match master {
                Some(master) => indices.get(local, ns, master)?,
                None => 0,
            };
            let message = message::set_link(
                indices.get(local, ns, name)?,
                LinkAttribute::Controller(master),
            );
            local.change(ns, message, 0)
        }
        Op::BridgeSet { ns, name, set } => {
            let messages = message::set_bridge(name, set)
                .map(|message| (message, 0))
                .into_iter()
                .collect();
            local.reach(ns)?.channel.changes(messages)
        }
        Op::PortSet { ns, name, set } => {
            let message = message::set_port(indices.get(local, ns, name)?, set);
            local.change(ns, message, 0)
        }
        Op::AddressAdd {
            ns,
            name,
            address,
            replace,
        } => {
            let message = message::new_address(indices.get(local, ns, name)?, address);
            local.change(ns, message, made(*replace))
        }
        Op::AddressDelete {
            ns,
            name,
            address,
            promote,
        } => {
            let index = indices.get(local, ns, name)?;
            let message = message::delete_address(index, address);
            local
                .reach(ns)?
                .channel
                .changes(promoting(index, *promote, vec![(message, 0)]))
        }
        Op::AddressReorder {
            ns,
            name,
            delete,
            add,
            promote,
        } => {
            let index = indices.get(local, ns, name)?;
            reorder_addresses(&local.reach(ns)?.channel, index, (delete, add), *promote)
        }
        Op::PrefixRouteAdd { ns, name, address } => {
            let oif = indices.get(local, ns, name)?;
            let message = message::route(
                &prefix_route(name, *address),
                Some(oif),
                ROUTE_PROTOCOL_KERNEL,
            );
            // Beside that of another link in the same network, as the kernel does it.
            local.change(
                ns,
                RouteNetlinkMessage::NewRoute(message),
                NLM_F_CREATE | NLM_F_APPEND,
            )
        }
        _ => ask_more(local, indices, op),
    }
}

/// The rest: routes, neighbours, and what takes more than a message.
fn ask_more(local: &mut Local, indices: &mut Indices, op: &Op) -> Outcome {
    match op {
        Op::RouteAdd {
            name,
            route,
            extras,
            protocol,
            replace,
        } => {
            let ns = Ns::Named(name.clone());
            let oif = route
                .interface
                .as_ref()
                .map(|interface| indices.get(local, &ns, interface.as_str()))
                .transpose()?;
            let message = message::whole_route(route, extras, oif, *protocol);
            local.change(&ns, RouteNetlinkMessage::NewRoute(message), made(*replace))
        }
        Op::RouteDelete { name, route } => {
            let ns = Ns::Named(name.clone());
            let oif = route
                .interface
                .as_ref()
                .map(|interface| indices.get(local, &ns, interface.as_str()))
                .transpose()?;
            let mut message = message::route(route, oif, ROUTE_PROTOCOL);
            // Any scope (fib_table_delete(), net/ipv4/fib_trie.c).
            message.header.scope = RouteScope::NoWhere;
            local.change(&ns, RouteNetlinkMessage::DelRoute(message), 0)
        }
        Op::NeighbourAdd { name, neighbour } => {
            let ns = Ns::Named(name.clone());
            let message = message::neighbour(
                neighbour,
                indices.get(local, &ns, neighbour.interface.as_str())?,
            );
            local.change(
                &ns,
                RouteNetlinkMessage::NewNeighbour(message),
                NLM_F_CREATE | NLM_F_REPLACE,
            )
        }
        Op::NeighbourDelete { name, neighbour } => {
            let ns = Ns::Named(name.clone());
            let message = message::neighbour(
                neighbour,
                indices.get(local, &ns, neighbour.interface.as_str())?,
            );
            local.change(&ns, RouteNetlinkMessage::DelNeighbour(message), 0)
        }
        _ => call(local, op),
    }
}

/// Changes with `promote_secondaries` on for them, if that is needed. All is one datagram: nobody
/// sees the setting otherwise, and no end of this process leaves it so.
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

/// Deletes and adds addresses, and puts back the routes that the kernel takes away, or makes forget
/// their source, meanwhile.
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

/// Changes in one datagram: the answers must fit into the socket's buffer.
const AT_ONCE: usize = 100;

/// The flags of what is made: it must not be there yet, or may be.
fn made(replace: bool) -> u16 {
    NLM_F_CREATE | if replace { NLM_F_REPLACE } else { NLM_F_EXCL }
}

fn no_device(ns: &Ns, name: &str) -> OpError {
    OpError {
        errno: Errno::ENODEV,
        message: Some(format!("{ns} has no interface {name}")),
    }
}

/// What is already so is no error; what is made is tagged on its other side too.
fn complete(local: &mut Local, indices: &mut Indices, op: &Op, outcome: Outcome) -> Outcome {
    let errno = outcome.as_ref().err().map(|error| error.errno);
    match (op, errno) {
        (Op::VethAdd { ends }, None) => local.change(
            &ends[1].ns,
            message::add_owner_tag(&ends[1].name, &ends[1].owner_tag),
            0,
        ),
        (Op::VethAdd { ends }, Some(Errno::EEXIST)) => {
            let [a, b] = ends;
            let same = is_tagged(local, &a.ns, &a.name, &a.owner_tag)?
                && is_tagged(local, &b.ns, &b.name, &b.owner_tag)?;
            if same { Ok(()) } else { outcome }
        }
        (
            Op::BridgeAdd {
                ns,
                name,
                owner_tag,
                ..
            },
            Some(Errno::EEXIST),
        ) => {
            if is_tagged(local, ns, name, owner_tag)? {
                Ok(())
            } else {
                outcome
            }
        }
        (Op::LinkDelete { .. }, Some(Errno::ENODEV | Errno::ENOENT)) => Ok(()),
        // A link without IPv6 has no link-local address.
        (
            Op::AddressAdd { address, .. },
            Some(Errno::EACCES | Errno::EINVAL | Errno::EOPNOTSUPP),
        ) if address.protocol == ADDRESS_PROTOCOL_KERNEL_LL => Ok(()),
        (
            Op::AddressAdd {
                ns, name, address, ..
            },
            Some(Errno::EEXIST),
        ) => {
            let question = message::get_addresses(indices.get(local, ns, name)?);
            let there = local
                .reach(ns)?
                .channel
                .dump(question, observe::address_of)?;
            if there.iter().any(|(_, known)| known.is_same(address)) {
                Ok(())
            } else {
                outcome
            }
        }
        (Op::PrefixRouteAdd { .. }, Some(Errno::EEXIST)) => Ok(()),
        // With an MTU that is too small for it IPv6 is off, and has no addresses.
        (Op::AddressDelete { .. }, Some(Errno::EADDRNOTAVAIL | Errno::ENODEV | Errno::ENXIO)) => {
            Ok(())
        }
        (Op::RouteDelete { .. }, Some(Errno::ESRCH | Errno::ENODEV)) => Ok(()),
        (Op::NeighbourDelete { .. }, Some(Errno::ENOENT | Errno::ENODEV)) => Ok(()),
        // A link without IPv6 makes itself no address.
        (Op::LinkAddrGen { .. }, Some(Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP)) => Ok(()),
        (Op::RouteAdd { name, route, .. }, Some(Errno::EEXIST)) => {
            if has_route(local, name, route)? {
                Ok(())
            } else {
                outcome
            }
        }
        _ => outcome,
    }
}

/// Changes the owner tag of a link that is there. In one datagram: it is never there with both, or
/// without.
fn set_owner(local: &mut Local, op: &Op) -> Outcome {
    let Op::LinkSetOwner {
        ns,
        name,
        was,
        owner_tag,
        peer,
    } = op
    else {
        return Err(Errno::ENOSYS.into());
    };
    if let Some((other_ns, other)) = peer {
        let (one, two) = (look_at(local, ns, name)?, look_at(local, other_ns, other)?);
        let raw = local.reach(other_ns)?.raw();
        // Of the namespace that it is in itself a link says no id.
        let netnsid = if ns == other_ns {
            None
        } else {
            local.netnsid(ns, raw)?
        };
        if one.peer_index != Some(two.index)
            || one.peer_netnsid.and_then(|id| u32::try_from(id).ok()) != netnsid
        {
            let message = format!("{name} in {ns} is not the other end of {other} in {other_ns}");
            return Err(OpError {
                errno: Errno::EBUSY,
                message: Some(message),
            });
        }
    }
    let added = owner_tag
        .iter()
        .map(|tag| (message::add_owner_tag(name, tag), 0));
    let deleted = was
        .iter()
        .map(|tag| (message::delete_owner_tag(name, tag), 0));
    match (
        local
            .reach(ns)?
            .channel
            .changes(added.chain(deleted).collect()),
        owner_tag,
    ) {
        (Err(error), Some(tag))
            if error.errno == Errno::EEXIST && is_tagged(local, ns, name, tag)? =>
        {
            Ok(())
        }
        (Err(error), _) if error.errno == Errno::ENOENT => Ok(()),
        (outcome, _) => outcome,
    }
}

/// One link as it is now.
fn look_at(local: &mut Local, ns: &Ns, name: &str) -> Result<ObservedLink, OpError> {
    let answers = local
        .reach(ns)?
        .channel
        .get(message::get_link(Some(name), 0))?;
    let link = answers.iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => Some(parse::link(link).link),
        _ => None,
    });
    link.ok_or_else(|| no_device(ns, name))
}

fn is_tagged(local: &mut Local, ns: &Ns, name: &str, owner_tag: &str) -> Result<bool, OpError> {
    match look_at(local, ns, name) {
        Ok(link) => Ok(link.owner_tag.as_deref() == Some(owner_tag)),
        Err(error) if error.errno == Errno::ENODEV => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the very route is there already, and is ours.
fn has_route(local: &mut Local, name: &Name, route: &netnsd_api::Route) -> Result<bool, OpError> {
    let channel = &local.reach(&Ns::Named(name.clone()))?.channel;
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

/// What no netlink message does alone.
fn call(local: &mut Local, op: &Op) -> Outcome {
    match op {
        Op::NamespaceAdd { name, owner_tag } => {
            let ns = Ns::Named(name.clone());
            local.forget(&ns);
            if let Some(open) = add_namespace(local, name, owner_tag)? {
                local.hold(ns, open);
            }
            Ok(())
        }
        Op::NamespaceAttach {
            name,
            pid,
            owner_tag,
        } => attach(local, name, *pid, owner_tag),
        Op::NamespaceDelete { name } => {
            local.forget(&Ns::Named(name.clone()));
            Ok(worker::unpin(name.as_str())?)
        }
        Op::NetnsIdSet { name, id } => set_netnsid(local, name, *id),
        Op::SysctlSet { name, key, value } => set_sysctl(local, name, key, value),
        Op::LinkSetOwner { .. } => set_owner(local, op),
        Op::DnsSet {
            name,
            file,
            content,
        } => Ok(worker::write_dns(name, *file, content.as_deref())?),
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// Why a namespace got no name, with what to do about it.
fn pinned_nowhere(errno: Errno) -> OpError {
    let no_directory = "/run/netns is no directory: remove it, and try again";
    OpError {
        errno,
        message: (errno == Errno::ENOTDIR).then(|| no_directory.to_owned()),
    }
}

/// Has namespaces made, with the other thread's help.
fn begin_namespaces(local: &mut Local, other: &Worker, ops: &[&Op]) {
    let new = ops.iter().filter_map(|op| match op {
        Op::NamespaceAdd { name, owner_tag } => Some((name.clone(), owner_tag.clone())),
        _ => None,
    });
    let new: Vec<(Name, String)> = new.collect();
    new.iter()
        .for_each(|(name, _)| local.forget(&Ns::Named(name.clone())));
    local.begin_making(other, new);
}

/// Makes a namespace; gives a connection into it if it is new: what comes next is most often done
/// inside.
pub(super) fn add_namespace(
    local: &mut Local,
    name: &Name,
    owner_tag: &str,
) -> Result<Option<Open>, OpError> {
    if matches!(worker::pinned(name.as_str())?, Pinned::Namespace(_)) {
        return if is_tagged(local, &Ns::Named(name.clone()), "lo", owner_tag)? {
            Ok(None)
        } else {
            Err(Errno::EEXIST.into())
        };
    }
    let open = local.new_namespace()?;
    pin(&open, name, owner_tag)?;
    Ok(Some(open))
}

/// Gives a namespace its name, once it is tagged: a name that can be seen is.
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
    // The tag of a record that is no more.
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

/// Returns true if no living namespace has this id: of one that is on its way out the kernel knows
/// nothing any more (`get_net_ns_by_id()`, net/core/net_namespace.c).
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
