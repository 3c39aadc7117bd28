//! Observation: reads the kernel state within a scope.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use netnsd_api::{Name, Neighbour, SysctlKey};
use netnsd_netlink::{
    CurrentNs, HelperThread, NamespaceSwitcher, NetnsFile, NsConnection, RouteSocket,
    address::get_addresses,
    errno_of,
    link::{self, LinkId},
    neigh::{Neigh, get_neighbours, get_own_fdb, get_proxy_neighbours, parse_neigh},
    netns::file::{netns_path, open_netns},
    resolv_conf::{read_dns_files, read_host_nsswitch},
    route::{get_route_to, get_routes, prefers_source, route_device},
    rule::get_rules,
    sysctl::read_sysctl,
};
use nix::{errno::Errno, sys::stat::fstat};
use rtnetlink::packet_route::{RouteNetlinkMessage, route::RouteMessage};

use super::parse;
use crate::kernel::{
    KernelError, Ns, NsScope, Observed, ObservedAddress, ObservedLink, ObservedNs, ObservedRoute,
    ObservedRule, ROUTE_PROTOCOL, ROUTE_PROTOCOL_KERNEL, Scope, ownership,
};
use crate::links::PortVlans;

/// Reads the state within `scope` on this thread.
pub(in crate::kernel) fn observe(
    switcher: &mut NamespaceSwitcher,
    scope: &Scope,
) -> Result<Observed, KernelError> {
    gather(
        scope,
        scope
            .namespaces
            .iter()
            .map(|(ns, part)| found(switcher, ns, part)),
    )
}

/// Reads the state within `scope` on two threads, if it has enough namespaces.
pub(super) fn observe_with(
    helper: &HelperThread,
    switcher: &mut NamespaceSwitcher,
    scope: &Scope,
) -> Result<Observed, KernelError> {
    let parts = scope.namespaces.clone().into_iter().collect();
    gather(
        scope,
        helper
            .split_work(switcher, parts, |switcher, (ns, part)| {
                found(switcher, ns, part)
            })?
            .into_iter(),
    )
}

/// A namespace and its state, if it exists.
type Seen = Option<(Ns, ObservedNs)>;

fn gather(
    scope: &Scope,
    seen: impl Iterator<Item = Result<Seen, KernelError>>,
) -> Result<Observed, KernelError> {
    let namespaces = seen
        .filter_map(Result::transpose)
        .collect::<Result<_, _>>()?;
    Ok(Observed {
        namespaces,
        nsswitch: scope.nsswitch.then(read_host_nsswitch).flatten(),
    })
}

/// Reads the state of a namespace, if it exists.
fn found(switcher: &mut NamespaceSwitcher, ns: &Ns, part: &NsScope) -> Result<Seen, KernelError> {
    switcher.reserve();
    Ok(namespace(switcher, ns, part)?.map(|seen| (ns.clone(), seen)))
}

fn namespace(
    switcher: &mut NamespaceSwitcher,
    ns: &Ns,
    part: &NsScope,
) -> Result<Option<ObservedNs>, KernelError> {
    let mut seen = ObservedNs {
        dns: ns.name().map(read_dns_files).unwrap_or_default(),
        ..ObservedNs::default()
    };
    let open = match switcher.lookup(ns) {
        Ok(CurrentNs::Open(open)) => open,
        Ok(CurrentNs::Stale(stale)) => {
            return Ok(Some(ObservedNs {
                stale: Some(stale),
                ..seen
            }));
        }
        Ok(CurrentNs::Missing) => return Ok((!seen.dns.is_empty()).then_some(seen)),
        // Not a network namespace, or one of another user namespace: the others are still read.
        Err(errno @ (Errno::EINVAL | Errno::EPERM | Errno::EACCES)) if *ns != Ns::Host => {
            tracing::warn!(
                error = errno.desc(),
                namespace = %ns,
                "cannot enter a network namespace"
            );
            return Ok(Some(ObservedNs {
                inaccessible: true,
                ..seen
            }));
        }
        Err(errno) => return Err(errno.into()),
    };
    seen.inode = open.inode;
    seen.cookie = open.route.netns_cookie();
    let raw = open.as_raw_ns();
    let whole = part.all_links || part.summary || part.dump_all_links;
    let mut links = if whole {
        all_links(&open.route, link::get_links_without_counters())?
    } else {
        some_links(&open.route, ns, part)?
    };
    if !part.owner_tags.is_empty() && part.links.iter().any(|name| !links.contains_key(name)) {
        if !whole {
            let borne: BTreeSet<&String> = links
                .values()
                .filter_map(|link| link.owner_tag.as_ref())
                .collect();
            let missing = part.owner_tags.iter().filter(|tag| !borne.contains(tag));
            let renamed = these_links(
                &open.route,
                missing.map(|tag| link::get_link_by_altname(tag)),
            )?;
            links.extend(renamed);
        }
        let strayed = |(name, link): &(&String, &ObservedLink)| {
            !part.links.contains(*name)
                && link
                    .owner_tag
                    .as_deref()
                    .is_some_and(|tag| part.owner_tags.contains(&*ownership::current(tag)))
        };
        seen.renamed = links
            .iter()
            .filter(strayed)
            .map(|(name, _)| name.clone())
            .collect();
    }
    let names: BTreeMap<u32, String> = links
        .iter()
        .map(|(name, link)| (link.index, name.clone()))
        .collect();
    if part.port_vlans {
        let mut vlans = port_vlans(&open.route)?;
        for link in links.values_mut() {
            if let Some(port) = &mut link.port {
                port.vlans = Some(vlans.remove(&link.index).unwrap_or_default());
            }
        }
    }
    seen.link_count = links.len();
    seen.links = links;
    for name in &part.remotes {
        if let Some(link) = seen.links.get_mut(name) {
            link.remotes = remotes(&open.route, link.index)?;
        }
    }
    if part.routes {
        seen.routes = routes(&open.route, &names, None, part.kernel_routes)?;
    } else if part.leftover_routes {
        seen.routes = routes(&open.route, &names, Some(ROUTE_PROTOCOL), false)?;
    }
    if part.prefix_routes {
        seen.prefix_routes = Some(prefix_routes(&open.route, &names, &seen, part.routes)?);
    }
    for address in &part.route_mtus {
        let mtu = route_mtu(&open.route, *address)?;
        seen.route_mtus.extend(mtu.map(|mtu| (*address, mtu)));
    }
    if part.rules {
        seen.rules = rules(&open.route)?;
    }
    if part.neighbours {
        seen.neighbours = neighbours(all_neighbours(&open.route)?, &names);
    }
    if part.proxy_neighbours {
        let proxies = neighbours(proxy_neighbours(&open.route)?, &names);
        seen.neighbours.extend(proxies);
    }
    if let Some(lo) = seen.links.get("lo") {
        seen.loopback = lo.up;
        seen.owner_tag.clone_from(&lo.owner_tag);
        if !part.links.contains("lo") {
            seen.links.remove("lo");
        }
    }
    if let Ns::Named(name) = ns {
        seen.alias_of = alias_of(switcher, seen.inode, name, seen.owner_tag.as_deref())?;
    }
    if !part.all_links {
        seen.links
            .retain(|name, _| part.links.contains(name) || seen.renamed.contains(name));
    }
    for base in &part.base_netnsids {
        let CurrentNs::Open(open) = switcher.lookup(base)? else {
            continue;
        };
        let base_raw = open.as_raw_ns();
        let id = switcher.netnsid(ns, base_raw)?;
        let id = id.and_then(|id| i32::try_from(id).ok());
        seen.base_netnsids.extend(id.map(|id| (base.clone(), id)));
    }
    if part.summary && *ns != Ns::Host {
        seen.netnsid = switcher.netnsid(&Ns::Host, raw)?;
    }
    if !part.sysctls.is_empty() {
        let file = switcher
            .connection(ns)?
            .ns
            .try_clone()
            .map_err(|error| errno_of(&error))?;
        let sysctls = switcher.run_in(file, || Ok::<_, Errno>(read_sysctls(&part.sysctls)));
        seen.sysctls = sysctls?;
    }
    Ok(Some(seen))
}

/// Returns the addresses to which a vxlan sends flooded frames.
fn remotes(socket: &RouteSocket, index: u32) -> Result<BTreeSet<IpAddr>, KernelError> {
    let entries = match socket.dump(get_own_fdb(index), parse_neigh) {
        Ok(entries) => entries,
        // It was deleted between the two requests.
        Err(error) if error.errno() == Some(Errno::ENODEV) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let flooded = |entry: Neigh| {
        let is_own = entry.index == index && entry.mac == Some([0; 6]);
        entry.address.filter(|_| is_own)
    };
    Ok(entries.into_iter().filter_map(flooded).collect())
}

/// Returns the MTU of the route to an address: its own, else that of its device.
fn route_mtu(socket: &RouteSocket, to: IpAddr) -> Result<Option<u32>, KernelError> {
    let found = match socket.get(get_route_to(to)) {
        Ok(answers) => answers.iter().find_map(route_device),
        Err(error) if error.errno().is_some() => None,
        Err(error) => return Err(error.into()),
    };
    let Some((device, mtu)) = found else {
        return Ok(None);
    };
    if mtu.is_some() {
        return Ok(mtu);
    }
    match socket.get(link::get_link(LinkId::Index(device))) {
        Ok(answers) => Ok(answers
            .into_iter()
            .find_map(link_of)
            .map(|parsed| parsed.link.mtu)),
        Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads those of some sysctls that exist in the namespace of the calling thread.
fn read_sysctls(keys: &BTreeSet<SysctlKey>) -> BTreeMap<SysctlKey, String> {
    keys.iter()
        .filter_map(|key| Some((key.clone(), read_sysctl(key).ok()?)))
        .collect()
}

pub(super) fn link_of(answer: RouteNetlinkMessage) -> Option<parse::ParsedLink> {
    match answer {
        RouteNetlinkMessage::NewLink(message) => Some(parse::link(&message)),
        _ => None,
    }
}

pub(super) fn address_of(answer: RouteNetlinkMessage) -> Option<(u32, ObservedAddress)> {
    match answer {
        RouteNetlinkMessage::NewAddress(message) => parse::address(&message),
        _ => None,
    }
}

/// Dumps links, with their addresses.
pub(super) fn all_links(
    socket: &RouteSocket,
    question: RouteNetlinkMessage,
) -> Result<BTreeMap<String, ObservedLink>, KernelError> {
    let parsed = socket.dump(question, link_of)?;
    let names: BTreeMap<u32, String> = parsed
        .iter()
        .map(|parsed| (parsed.link.index, parsed.name.clone()))
        .collect();
    let mut links: BTreeMap<String, ObservedLink> = parsed
        .into_iter()
        .map(|mut parsed| {
            parsed.link.master = parsed.master.and_then(|master| names.get(&master).cloned());
            (parsed.name, parsed.link)
        })
        .collect();
    for (index, address) in socket.dump(get_addresses(None), address_of)? {
        if let Some(name) = names.get(&index)
            && let Some(link) = links.get_mut(name)
        {
            link.addresses.push(address.on(name));
        }
    }
    Ok(links)
}

/// Reads the links that the scope names, and `lo` of a named namespace, which has its owner tag.
fn some_links(
    socket: &RouteSocket,
    ns: &Ns,
    part: &NsScope,
) -> Result<BTreeMap<String, ObservedLink>, KernelError> {
    let lo = Some("lo").filter(|lo| matches!(ns, Ns::Named(_)) && !part.links.contains(*lo));
    these_links(
        socket,
        part.links
            .iter()
            .map(String::as_str)
            .chain(lo)
            .map(|name| link::get_link(LinkId::Name(name))),
    )
}

/// Reads the links that these requests are for, with their addresses; a missing one is left out.
fn these_links(
    socket: &RouteSocket,
    questions: impl Iterator<Item = RouteNetlinkMessage>,
) -> Result<BTreeMap<String, ObservedLink>, KernelError> {
    let mut found = Vec::new();
    for question in questions {
        match socket.get(question) {
            Ok(answers) => found.extend(answers.into_iter().filter_map(link_of)),
            Err(error) if error.errno() == Some(Errno::ENODEV) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let name = |parsed: &parse::ParsedLink| (parsed.link.index, Some(parsed.name.clone()));
    let mut masters: BTreeMap<u32, Option<String>> = found.iter().map(name).collect();
    for master in found.iter().filter_map(|parsed| parsed.master) {
        if let std::collections::btree_map::Entry::Vacant(entry) = masters.entry(master) {
            let name = match socket.get(link::get_link(LinkId::Index(master))) {
                Ok(answers) => answers
                    .into_iter()
                    .find_map(link_of)
                    .map(|parsed| parsed.name),
                Err(error) if error.errno() == Some(Errno::ENODEV) => None,
                Err(error) => return Err(error.into()),
            };
            entry.insert(name);
        }
    }
    let mut links = BTreeMap::new();
    for mut parsed in found {
        parsed.link.master = parsed
            .master
            .and_then(|master| masters.get(&master).cloned().flatten());
        match socket.dump(get_addresses(Some(parsed.link.index)), address_of) {
            Ok(seen) => {
                let here = seen
                    .into_iter()
                    .filter(|(index, _)| *index == parsed.link.index);
                parsed
                    .link
                    .addresses
                    .extend(here.map(|(_, address)| address.on(&parsed.name)));
            }
            // It was deleted between the two requests.
            Err(error) if error.errno() == Some(Errno::ENODEV) => continue,
            Err(error) => return Err(error.into()),
        }
        links.insert(parsed.name, parsed.link);
    }
    Ok(links)
}

/// Reads the VLANs of every bridge port, by the index of its link.
pub(super) fn port_vlans(socket: &RouteSocket) -> Result<BTreeMap<u32, PortVlans>, KernelError> {
    let vlans_of = |answer| match answer {
        RouteNetlinkMessage::NewLink(message) => Some(parse::port_vlans(&message)),
        _ => None,
    };
    let found = socket.dump(link::get_port_vlans(), vlans_of)?;
    Ok(found.into_iter().collect())
}

/// Reads the routes of both families, all or those of a protocol.
fn routes(
    socket: &RouteSocket,
    names: &BTreeMap<u32, String>,
    protocol: Option<u8>,
    kernel: bool,
) -> Result<Vec<ObservedRoute>, KernelError> {
    let mut routes = routes_of(socket, names, false, protocol, kernel)?;
    routes.extend(routes_of(socket, names, true, protocol, kernel)?);
    Ok(routes)
}

/// Returns the routes that the kernel created with addresses: from those that were read already, or
/// else dumped if netnsd has an address there.
fn prefix_routes(
    socket: &RouteSocket,
    names: &BTreeMap<u32, String>,
    seen: &ObservedNs,
    looked: bool,
) -> Result<BTreeSet<(String, IpNet)>, KernelError> {
    let addresses = || {
        seen.links
            .values()
            .flat_map(|link| &link.addresses)
            .filter(|address| address.is_ours())
    };
    let mut found = BTreeSet::new();
    for ipv6 in [false, true] {
        if !addresses().any(|address| address.net.addr().is_ipv6() == ipv6) {
            continue;
        }
        let of_kernel = Some(ROUTE_PROTOCOL_KERNEL);
        let asked = if looked {
            Vec::new()
        } else {
            routes_of(socket, names, ipv6, of_kernel, false)?
        };
        let of_kernel =
            |known: &&ObservedRoute| known.protocol == ROUTE_PROTOCOL_KERNEL && known.ipv6 == ipv6;
        for known in asked.iter().chain(&seen.routes).filter(of_kernel) {
            let to = known.route.destination.net(ipv6);
            found.extend(
                known
                    .route
                    .interface
                    .as_ref()
                    .map(|interface| (interface.to_string(), to)),
            );
        }
    }
    Ok(found)
}

/// Reads the routes of one family, all or those of a protocol, with the kernel's own if `kernel`;
/// none if the kernel lacks IPv6.
pub(super) fn routes_of(
    socket: &RouteSocket,
    names: &BTreeMap<u32, String>,
    ipv6: bool,
    protocol: Option<u8>,
    kernel: bool,
) -> Result<Vec<ObservedRoute>, KernelError> {
    let route_of = |answer| match answer {
        RouteNetlinkMessage::NewRoute(message) => parse::route(&message, names, kernel),
        _ => None,
    };
    match socket.dump(get_routes(ipv6, protocol), route_of) {
        Err(error) if matches!(error.errno(), Some(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT)) => {
            Ok(Vec::new())
        }
        other => Ok(other?),
    }
}

/// Reads the routes of one family, of a table or of all, that prefer one of these addresses as
/// source, without those that the kernel creates with addresses.
pub(super) fn routes_from(
    socket: &RouteSocket,
    ipv6: bool,
    table: Option<u32>,
    sources: &[IpAddr],
) -> Result<Vec<RouteMessage>, KernelError> {
    Ok(socket.dump(get_routes(ipv6, None), |answer| match answer {
        RouteNetlinkMessage::NewRoute(route) if prefers_source(&route, table, sources) => {
            Some(route)
        }
        _ => None,
    })?)
}

/// Reads the policy rules of both families.
pub(super) fn rules(socket: &RouteSocket) -> Result<Vec<ObservedRule>, KernelError> {
    Ok(socket.dump(get_rules(), |answer| match answer {
        RouteNetlinkMessage::NewRule(message) => parse::rule(&message),
        _ => None,
    })?)
}

fn neighbours(all: Vec<Neigh>, names: &BTreeMap<u32, String>) -> Vec<Neighbour> {
    let neighbour = |seen| parse::neighbour(&seen, names);
    all.into_iter().filter_map(neighbour).collect()
}

/// Reads every address that is answered for, of both families.
pub(super) fn proxy_neighbours(socket: &RouteSocket) -> Result<Vec<Neigh>, KernelError> {
    Ok(socket.dump(get_proxy_neighbours(), parse_neigh)?)
}

/// Reads every neighbour of both families.
pub(super) fn all_neighbours(socket: &RouteSocket) -> Result<Vec<Neigh>, KernelError> {
    Ok(socket.dump(get_neighbours(), parse_neigh)?)
}

/// Returns the name that a namespace has besides this one: the host's own has none in
/// `/run/netns`, and netnsd pins each under one name, which its owner tag tells.
pub(super) fn alias_of(
    switcher: &NamespaceSwitcher,
    inode: u64,
    name: &Name,
    owner_tag: Option<&str>,
) -> Result<Option<Ns>, Errno> {
    if fstat(switcher.host())?.st_ino == inode {
        return Ok(Some(Ns::Host));
    }
    let Some((owner, _)) = owner_tag
        .and_then(ownership::parse)
        .filter(|(owner, _)| owner.name != *name)
    else {
        return Ok(None);
    };
    Ok(match open_netns(owner.name.as_str())? {
        NetnsFile::Namespace(other) if fstat(&other)?.st_ino == inode => {
            Some(Ns::Named(owner.name))
        }
        NetnsFile::Namespace(_) | NetnsFile::Stale(_) | NetnsFile::Missing => None,
    })
}

/// Summarizes a namespace as `ip netns list` shows it.
pub(super) fn summary(
    switcher: &mut NamespaceSwitcher,
    name: &str,
    open: NsConnection,
) -> Result<netnsd_api::NamespaceObserved, KernelError> {
    let links = open
        .route
        .dump(link::get_links_without_counters(), link_of)?;
    let netnsid = switcher.netnsid(&Ns::Host, open.as_raw_ns())?;
    Ok(netnsd_api::NamespaceObserved {
        path: netns_path(name).display().to_string(),
        inode: open.inode,
        netnsid,
        links: links.len(),
    })
}
