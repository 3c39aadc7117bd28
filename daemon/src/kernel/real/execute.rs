//! Doing: operations in order, as many at once on their way as order allows.
//!
//! A wave is a run of operations of which none needs what another of it makes: all are sent, then all are awaited. On one
//! socket the kernel keeps the order itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use netnsd_api::{Name, NetnsId, SysctlKey};
use nix::{errno::Errno, sys::stat::fstat};
use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE},
    packet_route::{RouteNetlinkMessage, link::LinkAttribute, route::RouteScope},
};

use super::{
    RealKernel,
    channel::{self, Pending},
    message, observe, parse,
    worker::{self, Pinned},
};
use crate::kernel::{BatchOp, DEFAULT_MTU, Ns, ObservedLink, Op, OpError, Outcome, ROUTE_PROTOCOL, bridge_mtu};

/// The most operations on their way at once: their acks fit into a socket's buffer.
const WAVE: usize = 64;

/// How long a namespace's id may be that of a deleted one, and how often it is tried.
const DYING: Duration = Duration::from_millis(1_000);
const AGAIN: Duration = Duration::from_millis(5);

/// What kinds of operations make a wave together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// System calls, one after the other.
    Call,
    MakeVeth,
    MakeBridge,
    Delete,
    /// One after the other too: what one leaves another takes, in a namespace with another socket.
    Place,
    Configure,
    /// Routes need every interface to be configured.
    Route,
}

fn class(op: &Op) -> Class {
    match op {
        Op::NamespaceAdd { .. }
        | Op::NamespaceAttach { .. }
        | Op::NamespaceDelete { .. }
        | Op::NetnsIdSet { .. }
        | Op::SysctlSet { .. }
        | Op::DnsSet { .. }
        | Op::LinkMark { .. } => Class::Call,
        Op::VethAdd { .. } => Class::MakeVeth,
        Op::BridgeAdd { .. } => Class::MakeBridge,
        Op::LinkDelete { .. } => Class::Delete,
        Op::LinkMove { .. } | Op::LinkRename { .. } => Class::Place,
        Op::RouteAdd { .. } | Op::RouteDelete { .. } | Op::NeighbourAdd { .. } | Op::NeighbourDelete { .. } => {
            Class::Route
        }
        _ => Class::Configure,
    }
}

/// Indices of links, by where they are.
type Indices = BTreeMap<(Ns, String), u32>;

pub(super) async fn execute(kernel: &mut RealKernel, ops: &[BatchOp], done: &dyn Fn(usize)) -> Vec<Option<Outcome>> {
    let mut outcomes: Vec<Option<Outcome>> = vec![None; ops.len()];
    let mut failed = BTreeSet::new();
    let mut indices = Indices::new();
    let mut start = 0;
    while start < ops.len() {
        let class_here = class(&ops[start].op);
        let run = ops[start..].iter().take_while(|op| class(&op.op) == class_here).count();
        let end = start
            + match class_here {
                Class::Call | Class::Place => 1,
                Class::Delete => run,
                _ => run.min(WAVE),
            };
        let wave: Vec<usize> = (start..end).filter(|i| !failed.contains(&ops[*i].part)).collect();
        let wave_ops: Vec<&Op> = wave.iter().map(|i| &ops[*i].op).collect();
        let results = match class_here {
            Class::Delete => delete(kernel, &mut indices, &wave_ops).await,
            Class::Call => {
                let mut results = Vec::new();
                for op in wave_ops {
                    results.push(call(kernel, op).await);
                }
                results
            }
            _ => send(kernel, &mut indices, &wave_ops).await,
        };
        for (i, result) in wave.into_iter().zip(results) {
            if result.is_err() && !ops[i].optional {
                failed.insert(ops[i].part);
            }
            outcomes[i] = Some(result);
        }
        done(end);
        start = end;
    }
    outcomes
}

/// The links that an operation needs the index of.
fn needs(op: &Op) -> Vec<(Ns, String)> {
    let of = |ns: &Ns, name: &str| vec![(ns.clone(), name.to_owned())];
    match op {
        Op::LinkDelete { ns, name }
        | Op::LinkMove { ns, name, .. }
        | Op::LinkRename { ns, name, .. }
        | Op::LinkUp { ns, name, .. }
        | Op::LinkMac { ns, name, .. }
        | Op::LinkMtu { ns, name, .. }
        | Op::LinkAddrGen { ns, name, .. }
        | Op::PortSet { ns, name, .. }
        | Op::AddressAdd { ns, name, .. }
        | Op::AddressDelete { ns, name, .. } => of(ns, name),
        Op::LinkMaster { ns, name, master } => {
            let mut both = of(ns, name);
            both.extend(master.iter().map(|master| (ns.clone(), master.clone())));
            both
        }
        Op::LoopbackSet { name, .. } => of(&Ns::Named(name.clone()), "lo"),
        Op::RouteAdd { name, route, .. } | Op::RouteDelete { name, route } => {
            route.interface.iter().map(|interface| (Ns::Named(name.clone()), interface.to_string())).collect()
        }
        Op::NeighbourAdd { name, neighbour } | Op::NeighbourDelete { name, neighbour } => {
            of(&Ns::Named(name.clone()), neighbour.interface.as_str())
        }
        _ => Vec::new(),
    }
}

/// Learns the indices that operations need and that are not known yet.
async fn learn(kernel: &mut RealKernel, indices: &mut Indices, ops: &[&Op]) {
    let wanted: BTreeSet<(Ns, String)> =
        ops.iter().flat_map(|op| needs(op)).filter(|key| !indices.contains_key(key)).collect();
    let mut asked = Vec::new();
    for (ns, name) in wanted {
        if let Ok(open) = kernel.reach(&ns) {
            let pending = open.channel.get(message::get_link(Some(&name), 0));
            asked.push(((ns, name), pending));
        }
    }
    for (key, pending) in asked {
        for answer in pending.answer().await.unwrap_or_default() {
            if let RouteNetlinkMessage::NewLink(link) = answer {
                indices.insert(key.clone(), link.header.index);
            }
        }
    }
}

/// Sends a wave and awaits it.
async fn send(kernel: &mut RealKernel, indices: &mut Indices, ops: &[&Op]) -> Vec<Outcome> {
    learn(kernel, indices, ops).await;
    let mut sent: Vec<Result<Pending, OpError>> = Vec::new();
    for op in ops {
        sent.push(send_one(kernel, indices, op));
    }
    let mut outcomes = Vec::new();
    for (op, pending) in ops.iter().zip(sent) {
        let outcome = match pending {
            Ok(pending) => pending.answer().await.map(drop),
            Err(error) => Err(error),
        };
        outcomes.push(outcome);
        forget(indices, op);
    }
    for (op, outcome) in ops.iter().zip(&mut outcomes) {
        let result = std::mem::replace(outcome, Ok(()));
        *outcome = complete(kernel, op, result).await;
    }
    outcomes
}

/// Deletes links. Each deletion waits for a grace period of the kernel: those of one namespace share one.
async fn delete(kernel: &mut RealKernel, indices: &mut Indices, ops: &[&Op]) -> Vec<Outcome> {
    let mut by_ns: BTreeMap<Ns, Vec<usize>> = BTreeMap::new();
    for (i, op) in ops.iter().enumerate() {
        by_ns.entry(op.ns()).or_default().push(i);
    }
    let mut outcomes = vec![Ok(()); ops.len()];
    for (ns, those) in by_ns {
        let links: Vec<&Op> = those.iter().map(|i| ops[*i]).collect();
        let results = match &links[..] {
            [_] => send(kernel, indices, &links).await,
            _ => delete_together(kernel, indices, &ns, &links).await,
        };
        for (i, result) in those.into_iter().zip(results) {
            outcomes[i] = result;
        }
    }
    outcomes
}

/// Deletes links of one namespace, as a group that they are put into first.
async fn delete_together(kernel: &mut RealKernel, indices: &mut Indices, ns: &Ns, ops: &[&Op]) -> Vec<Outcome> {
    // A number of chance: nobody else's links are in it.
    let group = uuid::Uuid::now_v7().as_u128() as u32;
    let mut outcomes = Vec::new();
    for wave in ops.chunks(WAVE) {
        learn(kernel, indices, wave).await;
        let join = |op: &&Op| {
            let index = needs(op).first().and_then(|key| indices.get(key)).ok_or(Errno::ENODEV)?;
            let message = message::set_link(*index, LinkAttribute::Group(group));
            Ok::<_, OpError>(kernel.reach(ns)?.channel.change(message, 0))
        };
        let sent: Vec<Result<Pending, OpError>> = wave.iter().map(join).collect();
        for pending in sent {
            outcomes.push(match pending {
                Ok(pending) => pending.answer().await.map(drop),
                Err(error) => Err(error),
            });
        }
    }
    let deleted = match kernel.reach(ns) {
        Ok(open) => open.channel.change(message::delete_group(group), 0).answer().await.map(drop),
        Err(error) => Err(error),
    };
    indices.clear();
    let mut completed = Vec::new();
    for (op, outcome) in ops.iter().zip(outcomes) {
        let outcome = outcome.and(deleted.clone());
        completed.push(complete(kernel, op, outcome).await);
    }
    completed
}

/// Names that mean another link, or none, after an operation.
fn forget(indices: &mut Indices, op: &Op) {
    match op {
        Op::LinkDelete { .. } | Op::NamespaceDelete { .. } => indices.clear(),
        Op::LinkMove { ns, name, to, to_name } => {
            indices.remove(&(ns.clone(), name.clone()));
            indices.remove(&(to.clone(), to_name.clone()));
        }
        Op::LinkRename { ns, name, to_name } => {
            indices.remove(&(ns.clone(), name.clone()));
            indices.remove(&(ns.clone(), to_name.clone()));
        }
        _ => {}
    }
}

fn send_one(kernel: &mut RealKernel, indices: &Indices, op: &Op) -> Result<Pending, OpError> {
    let index =
        |ns: &Ns, name: &str| indices.get(&(ns.clone(), name.to_owned())).copied().ok_or_else(|| no_device(ns, name));
    match op {
        Op::VethAdd { ends } => {
            let peer = kernel.reach(&ends[1].ns)?.raw();
            let channel = &kernel.reach(&ends[0].ns)?.channel;
            // In one datagram: a pair is never there without its mark.
            let made = (message::new_veth(ends, peer), NLM_F_CREATE | NLM_F_EXCL);
            Ok(channel.changes(vec![made, (message::mark(&ends[0].name, &ends[0].mark), 0)]))
        }
        Op::BridgeAdd { ns, name, mark, mac, mtu, set } => {
            let made = (message::new_bridge(name, *mac), NLM_F_CREATE | NLM_F_EXCL);
            let mut messages = vec![made, (message::mark(name, mark), 0)];
            // Given at the creation it would follow the ports' (br_mtu_auto_adjust(), net/bridge/br_if.c).
            let steps = mtu.map(|mtu| bridge_mtu(DEFAULT_MTU, mtu)).unwrap_or_default();
            messages.extend(steps.into_iter().map(|mtu| (message::mtu(name, mtu), 0)));
            messages.extend(message::set_bridge(name, set).map(|message| (message, 0)));
            Ok(kernel.reach(ns)?.channel.changes(messages))
        }
        Op::LinkDelete { ns, name } => {
            let message = message::delete_link(index(ns, name)?);
            Ok(kernel.reach(ns)?.channel.change(message, 0))
        }
        Op::LinkMove { ns, name, to, to_name } => {
            let target = kernel.reach(to)?.raw();
            let message = message::move_link(index(ns, name)?, target, to_name);
            Ok(kernel.reach(ns)?.channel.change(message, 0))
        }
        Op::LinkRename { ns, name, to_name } => {
            let message = message::set_link(index(ns, name)?, LinkAttribute::IfName(to_name.clone()));
            Ok(kernel.reach(ns)?.channel.change(message, 0))
        }
        Op::LinkUp { ns, name, up } => {
            let message = message::set_up(index(ns, name)?, *up);
            Ok(kernel.reach(ns)?.channel.change(message, 0))
        }
        Op::LoopbackSet { name, up } => {
            let ns = Ns::Named(name.clone());
            let message = message::set_up(index(&ns, "lo")?, *up);
            Ok(kernel.reach(&ns)?.channel.change(message, 0))
        }
        Op::LinkMac { ns, name, mac } => {
            let message = message::set_link(index(ns, name)?, LinkAttribute::Address(mac.0.to_vec()));
            Ok(kernel.reach(ns)?.channel.change(message, 0))
        }
        Op::LinkMtu { ns, name, mtu } => {
            let message = message::set_link(index(ns, name)?, LinkAttribute::Mtu(*mtu));
            Ok(kernel.reach(ns)?.channel.change(message, 0))
        }
        Op::LinkAddrGen { ns, name, none } => {
            let message = message::addr_gen(index(ns, name)?, *none);
            Ok(kernel.reach(ns)?.channel.change(message, 0))
        }
        Op::LinkMaster { ns, name, master } => {
            let master = match master {
                Some(master) => index(ns, master)?,
                None => 0,
            };
            let message = message::set_link(index(ns, name)?, LinkAttribute::Controller(master));
            Ok(kernel.reach(ns)?.channel.change(message, 0))
        }
        Op::BridgeSet { ns, name, set } => {
            let messages = message::set_bridge(name, set).map(|message| (message, 0)).into_iter().collect();
            Ok(kernel.reach(ns)?.channel.changes(messages))
        }
        Op::PortSet { ns, name, set } => {
            let message = message::set_port(index(ns, name)?, set);
            Ok(kernel.reach(ns)?.channel.change(message, 0))
        }
        Op::AddressAdd { ns, name, address, protocol, replace } => {
            let message = message::new_address(index(ns, name)?, *address, *protocol);
            Ok(kernel.reach(ns)?.channel.change(message, made(*replace)))
        }
        Op::AddressDelete { ns, name, address } => {
            let message = RouteNetlinkMessage::DelAddress(message::address(index(ns, name)?, *address));
            Ok(kernel.reach(ns)?.channel.change(message, 0))
        }
        _ => send_route(kernel, &index, op),
    }
}

fn send_route(
    kernel: &mut RealKernel,
    index: &dyn Fn(&Ns, &str) -> Result<u32, OpError>,
    op: &Op,
) -> Result<Pending, OpError> {
    match op {
        Op::RouteAdd { name, route, protocol, replace } => {
            let ns = Ns::Named(name.clone());
            let oif = route.interface.as_ref().map(|interface| index(&ns, interface.as_str())).transpose()?;
            let message = RouteNetlinkMessage::NewRoute(message::route(route, oif, *protocol));
            Ok(kernel.reach(&ns)?.channel.change(message, made(*replace)))
        }
        Op::RouteDelete { name, route } => {
            let ns = Ns::Named(name.clone());
            let oif = route.interface.as_ref().map(|interface| index(&ns, interface.as_str())).transpose()?;
            let mut message = message::route(route, oif, ROUTE_PROTOCOL);
            // Any scope (fib_table_delete(), net/ipv4/fib_trie.c).
            message.header.scope = RouteScope::NoWhere;
            Ok(kernel.reach(&ns)?.channel.change(RouteNetlinkMessage::DelRoute(message), 0))
        }
        Op::NeighbourAdd { name, neighbour } => {
            let ns = Ns::Named(name.clone());
            let message = message::neighbour(neighbour, index(&ns, neighbour.interface.as_str())?);
            Ok(kernel
                .reach(&ns)?
                .channel
                .change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE))
        }
        Op::NeighbourDelete { name, neighbour } => {
            let ns = Ns::Named(name.clone());
            let message = message::neighbour(neighbour, index(&ns, neighbour.interface.as_str())?);
            Ok(kernel.reach(&ns)?.channel.change(RouteNetlinkMessage::DelNeighbour(message), 0))
        }
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// The flags of what is made: it must not be there yet, or may be.
fn made(replace: bool) -> u16 {
    NLM_F_CREATE | if replace { NLM_F_REPLACE } else { NLM_F_EXCL }
}

fn no_device(ns: &Ns, name: &str) -> OpError {
    OpError { errno: Errno::ENODEV, message: Some(format!("{ns} has no interface {name}")) }
}

/// What is already so is no error; what is made is marked on its other side too.
async fn complete(kernel: &mut RealKernel, op: &Op, outcome: Outcome) -> Outcome {
    let errno = outcome.as_ref().err().map(|error| error.errno);
    match (op, errno) {
        (Op::VethAdd { ends }, None) => {
            let pending = kernel.reach(&ends[1].ns)?.channel.change(message::mark(&ends[1].name, &ends[1].mark), 0);
            pending.answer().await.map(drop)
        }
        (Op::VethAdd { ends }, Some(Errno::EEXIST)) => {
            let [a, b] = ends;
            let same =
                is_marked(kernel, &a.ns, &a.name, &a.mark).await? && is_marked(kernel, &b.ns, &b.name, &b.mark).await?;
            if same { Ok(()) } else { outcome }
        }
        (Op::BridgeAdd { ns, name, mark, .. }, Some(Errno::EEXIST)) => {
            if is_marked(kernel, ns, name, mark).await? {
                Ok(())
            } else {
                outcome
            }
        }
        (Op::LinkDelete { .. }, Some(Errno::ENODEV | Errno::ENOENT)) => Ok(()),
        (Op::AddressAdd { .. }, Some(Errno::EEXIST)) => Ok(()),
        (Op::AddressDelete { .. }, Some(Errno::EADDRNOTAVAIL | Errno::ENODEV)) => Ok(()),
        (Op::RouteDelete { .. }, Some(Errno::ESRCH | Errno::ENODEV)) => Ok(()),
        (Op::NeighbourDelete { .. }, Some(Errno::ENOENT | Errno::ENODEV)) => Ok(()),
        // A link without IPv6 makes itself no address.
        (Op::LinkAddrGen { .. }, Some(Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP)) => Ok(()),
        (Op::RouteAdd { name, route, .. }, Some(Errno::EEXIST)) => {
            if has_route(kernel, name, route).await? {
                Ok(())
            } else {
                outcome
            }
        }
        _ => outcome,
    }
}

/// Marks a link that is there.
async fn set_mark(
    kernel: &mut RealKernel,
    ns: &Ns,
    name: &str,
    mark: Option<&str>,
    peer: Option<&(Ns, String)>,
) -> Outcome {
    if let Some((other_ns, other)) = peer {
        let (one, two) = (look_at(kernel, ns, name).await?, look_at(kernel, other_ns, other).await?);
        let raw = kernel.reach(other_ns)?.raw();
        // Of the namespace that it is in itself a link says no id.
        let netnsid = if ns == other_ns { None } else { kernel.netnsid(ns, raw).await? };
        if one.peer_index != Some(two.index) || one.peer_netnsid.and_then(|id| u32::try_from(id).ok()) != netnsid {
            let message = format!("{name} in {ns} is not the other end of {other} in {other_ns}");
            return Err(OpError { errno: Errno::EBUSY, message: Some(message) });
        }
    }
    kernel.reach(ns)?.channel.change(message::mark(name, mark.unwrap_or_default()), 0).answer().await.map(drop)
}

/// One link as it is now.
async fn look_at(kernel: &mut RealKernel, ns: &Ns, name: &str) -> Result<ObservedLink, OpError> {
    let answers = kernel.reach(ns)?.channel.get(message::get_link(Some(name), 0)).answer().await?;
    let link = answers.iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => Some(parse::link(link).link),
        _ => None,
    });
    link.ok_or_else(|| no_device(ns, name))
}

async fn is_marked(kernel: &mut RealKernel, ns: &Ns, name: &str, mark: &str) -> Result<bool, OpError> {
    match look_at(kernel, ns, name).await {
        Ok(link) => Ok(link.mark.as_deref() == Some(mark)),
        Err(error) if error.errno == Errno::ENODEV => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the very route is there already, and is ours.
async fn has_route(kernel: &mut RealKernel, name: &Name, route: &netnsd_api::Route) -> Result<bool, OpError> {
    let channel = &kernel.reach(&Ns::Named(name.clone()))?.channel;
    let links = observe::all_links(channel).await?;
    let names = links.into_iter().map(|(name, link)| (link.index, name)).collect();
    let answers = observe::optional(channel.dump(message::get_routes(route.is_ipv6())).await)?;
    Ok(answers.iter().any(|answer| match answer {
        RouteNetlinkMessage::NewRoute(message) if u8::from(message.header.protocol) == ROUTE_PROTOCOL => {
            parse::route(message, &names).is_some_and(|known| {
                let known = known.route;
                known.destination.net(route.is_ipv6()) == route.destination.net(route.is_ipv6())
                    && (known.table, known.kind, known.via, known.onlink)
                        == (route.table, route.kind, route.via, route.onlink)
                    && known.metric == Some(route.effective_metric())
                    && (route.interface.is_none() || known.interface == route.interface)
            })
        }
        _ => false,
    }))
}

async fn call(kernel: &mut RealKernel, op: &Op) -> Outcome {
    match op {
        Op::NamespaceAdd { name, mark } => add_namespace(kernel, name, mark).await,
        Op::NamespaceAttach { name, pid, mark } => attach(kernel, name, *pid, mark),
        Op::NamespaceDelete { name } => {
            kernel.open.remove(&Ns::Named(name.clone()));
            Ok(worker::unpin(name.as_str())?)
        }
        Op::NetnsIdSet { name, id } => set_netnsid(kernel, name, *id).await,
        Op::SysctlSet { name, key, value } => set_sysctl(kernel, name, key, value),
        Op::LinkMark { ns, name, mark, peer } => set_mark(kernel, ns, name, mark.as_deref(), peer.as_ref()).await,
        Op::DnsSet { name, content } => Ok(worker::write_dns(name, content.as_deref())?),
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// Marks the namespace that this thread is in; without a runtime, on a socket that blocks.
fn mark_here(mark: &str) -> Result<(), Errno> {
    channel::once(message::mark("lo", mark), 0)
}

/// Why a namespace got no name, with what to do about it.
fn pinned_nowhere(errno: Errno) -> OpError {
    let no_directory = "/run/netns is no directory: remove it, and try again";
    OpError { errno, message: (errno == Errno::ENOTDIR).then(|| no_directory.to_owned()) }
}

async fn add_namespace(kernel: &mut RealKernel, name: &Name, mark: &str) -> Outcome {
    let ns = Ns::Named(name.clone());
    kernel.open.remove(&ns);
    if matches!(worker::pinned(name.as_str())?, Pinned::Namespace(_)) {
        return if is_marked(kernel, &ns, "lo", mark).await? { Ok(()) } else { Err(Errno::EEXIST.into()) };
    }
    let (name, mark) = (name.to_string(), mark.to_owned());
    kernel.worker.run(move || worker::make(&name, || mark_here(&mark)))?.map_err(pinned_nowhere)
}

fn attach(kernel: &mut RealKernel, name: &Name, pid: u32, mark: &str) -> Outcome {
    kernel.open.remove(&Ns::Named(name.clone()));
    let file = std::fs::File::open(format!("/proc/{pid}/ns/net")).map_err(|error| OpError {
        errno: error.raw_os_error().map_or(Errno::ESRCH, Errno::from_raw),
        message: Some(format!("process {pid}: {error}")),
    })?;
    if fstat(&file)?.st_ino == fstat(&*kernel.host)?.st_ino {
        let message = Some(format!("process {pid} is in the host's own namespace"));
        return Err(OpError { errno: Errno::EINVAL, message });
    }
    let (name, mark) = (name.to_string(), mark.to_owned());
    let pinned = kernel.worker.within(file, move || {
        mark_here(&mark)?;
        worker::pin_current(&name)
    });
    pinned.map_err(pinned_nowhere)
}

async fn set_netnsid(kernel: &mut RealKernel, name: &Name, id: NetnsId) -> Outcome {
    let ns = kernel.reach(&Ns::Named(name.clone()))?.ns.clone();
    let wanted = match id {
        NetnsId::Auto => -1,
        NetnsId::Id(id) => i32::try_from(id).map_err(|_| Errno::EINVAL)?,
    };
    let raw = ns.as_fd().as_raw_fd();
    let patience = Instant::now() + DYING;
    loop {
        let outcome = kernel.reach(&Ns::Host)?.channel.change(message::new_nsid(raw, wanted), 0).answer().await;
        let error = match outcome {
            Err(error) if error.errno == Errno::EEXIST => error,
            other => return other.map(drop),
        };
        match kernel.netnsid(&Ns::Host, raw).await? {
            Some(now) if id == NetnsId::Auto || id == NetnsId::Id(now) => return Ok(()),
            Some(now) => {
                let message = format!("it has the id {now}, which cannot be changed while the namespace lives");
                return Err(OpError { errno: Errno::EEXIST, message: Some(message) });
            }
            None if Instant::now() > patience => {
                return Err(OpError { message: Some("another namespace has this id".into()), ..error });
            }
            // A namespace that was just deleted keeps its id until the kernel has cleared it away.
            None => tokio::time::sleep(AGAIN).await,
        }
    }
}

fn set_sysctl(kernel: &mut RealKernel, name: &Name, key: &SysctlKey, value: &str) -> Outcome {
    let ns = kernel.reach(&Ns::Named(name.clone()))?.ns.clone();
    let (written, text) = (key.clone(), value.to_owned());
    let result = kernel.worker.within(ns, move || worker::write_sysctl(&written, &text));
    let before = result.map_err(|errno| OpError { errno, message: Some(format!("sysctl {key} = {value}")) })?;
    if let Some(before) = before {
        kernel.replaced.push((name.clone(), key.clone(), before));
    }
    Ok(())
}
