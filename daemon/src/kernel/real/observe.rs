//! Looking: what is there of a scope.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use netnsd_api::Neighbour;
use nix::errno::Errno;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage, route::RouteMessage};

use super::{
    channel::Channel,
    local::{Local, Open, Place},
    message, parse,
    worker::{self, Worker},
};
use crate::kernel::{
    Ns, NsScope, Observed, ObservedAddress, ObservedLink, ObservedNs, ObservedRoute, OpError,
    ROUTE_PROTOCOL, ROUTE_PROTOCOL_KERNEL, Scope, ownership,
};

/// Reads a scope on one thread.
pub(in crate::kernel) fn observe(local: &mut Local, scope: &Scope) -> Result<Observed, OpError> {
    gather(
        scope,
        scope
            .namespaces
            .iter()
            .map(|(ns, part)| found(local, ns, part)),
    )
}

/// Reads a scope on two threads if there is enough to read.
pub(super) fn observe_with(
    other: &Worker,
    local: &mut Local,
    scope: &Scope,
) -> Result<Observed, OpError> {
    let parts = scope.namespaces.clone().into_iter().collect();
    gather(
        scope,
        other
            .share(local, parts, |local, (ns, part)| found(local, ns, part))?
            .into_iter(),
    )
}

/// A namespace and what is in it, if it is there.
type Seen = Option<(Ns, ObservedNs)>;

fn gather(
    scope: &Scope,
    seen: impl Iterator<Item = Result<Seen, OpError>>,
) -> Result<Observed, OpError> {
    let namespaces = seen
        .filter_map(Result::transpose)
        .collect::<Result<_, _>>()?;
    Ok(Observed {
        namespaces,
        nsswitch: scope.nsswitch.then(worker::read_nsswitch).flatten(),
    })
}

/// Reads a namespace, if it exists.
fn found(local: &mut Local, ns: &Ns, part: &NsScope) -> Result<Seen, OpError> {
    local.make_room();
    Ok(namespace(local, ns, part)?.map(|seen| (ns.clone(), seen)))
}

fn namespace(local: &mut Local, ns: &Ns, part: &NsScope) -> Result<Option<ObservedNs>, OpError> {
    let mut seen = ObservedNs {
        dns: ns.name().map(worker::read_dns).unwrap_or_default(),
        ..ObservedNs::default()
    };
    let open = match local.find(ns) {
        Ok(Place::There(open)) => open,
        Ok(Place::Stale(stale)) => {
            return Ok(Some(ObservedNs {
                stale: Some(stale),
                ..seen
            }));
        }
        Ok(Place::Nothing) => return Ok((!seen.dns.is_empty()).then_some(seen)),
        // Not a network namespace, or one that is closed to us: it holds up nobody.
        Err(errno @ (Errno::EINVAL | Errno::EPERM | Errno::EACCES)) if *ns != Ns::Host => {
            tracing::warn!(%ns, error = errno.desc(), "cannot be entered");
            return Ok(Some(ObservedNs {
                closed: true,
                ..seen
            }));
        }
        Err(errno) => return Err(errno.into()),
    };
    seen.inode = open.inode;
    seen.cookie = open.channel.netns_cookie();
    let raw = open.raw();
    let whole = part.all_links || part.summary || part.most;
    let mut links = if whole {
        all_links(&open.channel, message::get_links_briefly())?
    } else {
        some_links(&open.channel, ns, part)?
    };
    if !part.owner_tags.is_empty() && part.links.iter().any(|name| !links.contains_key(name)) {
        if !whole {
            let borne: BTreeSet<&String> = links
                .values()
                .filter_map(|link| link.owner_tag.as_ref())
                .collect();
            let missing = part.owner_tags.iter().filter(|tag| !borne.contains(tag));
            let renamed = these_links(
                &open.channel,
                missing.map(|tag| message::get_link_by_tag(tag)),
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
        seen.strayed = links
            .iter()
            .filter(strayed)
            .map(|(name, _)| name.clone())
            .collect();
    }
    let names: BTreeMap<u32, String> = links
        .iter()
        .map(|(name, link)| (link.index, name.clone()))
        .collect();
    seen.link_count = links.len();
    seen.links = links;
    if part.routes {
        seen.routes = routes(&open.channel, &names, None, part.kernel_routes)?;
    } else if part.leftover_routes {
        seen.routes = routes(&open.channel, &names, Some(ROUTE_PROTOCOL), false)?;
    }
    if part.prefix_routes {
        seen.prefix_routes = Some(prefix_routes(&open.channel, &names, &seen, part.routes)?);
    }
    if part.neighbours {
        seen.neighbours = neighbours(&open.channel, &names)?;
    }
    if let Some(lo) = seen.links.remove("lo") {
        seen.loopback = lo.up;
        seen.owner_tag = lo.owner_tag;
    }
    if let Ns::Named(name) = ns {
        seen.alias_of = local.alias_of(seen.inode, name, seen.owner_tag.as_deref())?;
    }
    if !part.all_links {
        seen.links
            .retain(|name, _| part.links.contains(name) || seen.strayed.contains(name));
    }
    if part.summary && *ns != Ns::Host {
        seen.netnsid = local.netnsid(&Ns::Host, raw)?;
    }
    if !part.sysctls.is_empty() {
        let file = local
            .reach(ns)?
            .ns
            .try_clone()
            .map_err(|error| worker::errno(&error))?;
        let read =
            |key: &netnsd_api::SysctlKey| Some((key.clone(), worker::read_sysctl(key).ok()?));
        seen.sysctls = local.within(file, || Ok(part.sysctls.iter().filter_map(read).collect()))?;
    }
    Ok(Some(seen))
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

/// Every link that answers the question, with its addresses.
pub(super) fn all_links(
    channel: &Channel,
    question: RouteNetlinkMessage,
) -> Result<BTreeMap<String, ObservedLink>, OpError> {
    let parsed = channel.dump(question, link_of)?;
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
    for (index, address) in channel.dump(message::get_addresses(0), address_of)? {
        if let Some(name) = names.get(&index)
            && let Some(link) = links.get_mut(name)
        {
            link.addresses.push(address.on(name));
        }
    }
    Ok(links)
}

/// The links that were asked for by their names, and `lo` of a named namespace, which bears its
/// owner tag.
fn some_links(
    channel: &Channel,
    ns: &Ns,
    part: &NsScope,
) -> Result<BTreeMap<String, ObservedLink>, OpError> {
    let lo = matches!(ns, Ns::Named(_)).then_some("lo");
    these_links(
        channel,
        part.links
            .iter()
            .map(String::as_str)
            .chain(lo)
            .map(|name| message::get_link(Some(name), 0)),
    )
}

/// The links that answer these questions, with their addresses.
fn these_links(
    channel: &Channel,
    questions: impl Iterator<Item = RouteNetlinkMessage>,
) -> Result<BTreeMap<String, ObservedLink>, OpError> {
    let mut found = Vec::new();
    for question in questions {
        match channel.get(question) {
            Ok(answers) => found.extend(answers.into_iter().filter_map(link_of)),
            Err(error) if error.errno == Errno::ENODEV => {}
            Err(error) => return Err(error),
        }
    }
    let name = |parsed: &parse::ParsedLink| (parsed.link.index, Some(parsed.name.clone()));
    let mut masters: BTreeMap<u32, Option<String>> = found.iter().map(name).collect();
    for master in found.iter().filter_map(|parsed| parsed.master) {
        if let std::collections::btree_map::Entry::Vacant(entry) = masters.entry(master) {
            let name = match channel.get(message::get_link(None, master)) {
                Ok(answers) => answers
                    .into_iter()
                    .find_map(link_of)
                    .map(|parsed| parsed.name),
                Err(error) if error.errno == Errno::ENODEV => None,
                Err(error) => return Err(error),
            };
            entry.insert(name);
        }
    }
    let mut links = BTreeMap::new();
    for mut parsed in found {
        parsed.link.master = parsed
            .master
            .and_then(|master| masters.get(&master).cloned().flatten());
        match channel.dump(message::get_addresses(parsed.link.index), address_of) {
            Ok(seen) => {
                let here = seen
                    .into_iter()
                    .filter(|(index, _)| *index == parsed.link.index);
                parsed
                    .link
                    .addresses
                    .extend(here.map(|(_, address)| address.on(&parsed.name)));
            }
            // It went away between the two questions.
            Err(error) if error.errno == Errno::ENODEV => continue,
            Err(error) => return Err(error),
        }
        links.insert(parsed.name, parsed.link);
    }
    Ok(links)
}

/// The routes of both families, all or those of a protocol.
fn routes(
    channel: &Channel,
    names: &BTreeMap<u32, String>,
    protocol: Option<u8>,
    kernel: bool,
) -> Result<Vec<ObservedRoute>, OpError> {
    let mut routes = routes_of(channel, names, false, protocol, kernel)?;
    routes.extend(routes_of(channel, names, true, protocol, kernel)?);
    Ok(routes)
}

/// The routes that the kernel made with addresses: of those that were looked at, or else asked for
/// where there is an address of netnsd's.
fn prefix_routes(
    channel: &Channel,
    names: &BTreeMap<u32, String>,
    seen: &ObservedNs,
    looked: bool,
) -> Result<BTreeSet<(String, IpNet)>, OpError> {
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
            routes_of(channel, names, ipv6, of_kernel, false)?
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

/// The routes of one family, all or those of a protocol, the kernel's own among them or not; a
/// kernel without IPv6 has nothing to say of it.
pub(super) fn routes_of(
    channel: &Channel,
    names: &BTreeMap<u32, String>,
    ipv6: bool,
    protocol: Option<u8>,
    kernel: bool,
) -> Result<Vec<ObservedRoute>, OpError> {
    let route_of = |answer| match answer {
        RouteNetlinkMessage::NewRoute(message) => parse::route(&message, names, kernel),
        _ => None,
    };
    match channel.dump(message::get_routes(ipv6, protocol), route_of) {
        Err(error) if matches!(error.errno, Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT) => {
            Ok(Vec::new())
        }
        other => other,
    }
}

/// The routes of one family, of a table or of all, that prefer one of these addresses as source;
/// those that the kernel makes with addresses are left out.
pub(super) fn routes_from(
    channel: &Channel,
    ipv6: bool,
    table: Option<u32>,
    sources: &[IpAddr],
) -> Result<Vec<RouteMessage>, OpError> {
    channel.dump(message::get_routes(ipv6, None), |answer| match answer {
        RouteNetlinkMessage::NewRoute(route) if parse::prefers(&route, table, sources) => {
            Some(route)
        }
        _ => None,
    })
}

fn neighbours(channel: &Channel, names: &BTreeMap<u32, String>) -> Result<Vec<Neighbour>, OpError> {
    let permanent = |seen| parse::permanent(&seen, names);
    Ok(all_neighbours(channel)?
        .into_iter()
        .filter_map(permanent)
        .collect())
}

/// Every neighbour of both families.
pub(super) fn all_neighbours(channel: &Channel) -> Result<Vec<parse::ParsedNeighbour>, OpError> {
    channel.dump(
        message::get_neighbours(AddressFamily::Unspec, None),
        neighbour_of,
    )
}

pub(super) fn neighbour_of(answer: RouteNetlinkMessage) -> Option<parse::ParsedNeighbour> {
    match answer {
        RouteNetlinkMessage::NewNeighbour(message) => Some(parse::neighbour(&message)),
        _ => None,
    }
}

/// Returns a namespace as `ip netns list` shows it.
pub(super) fn summary(
    local: &mut Local,
    name: &str,
    open: Open,
) -> Result<netnsd_api::NamespaceObserved, OpError> {
    let links = open.channel.dump(message::get_links_briefly(), link_of)?;
    let netnsid = local.netnsid(&Ns::Host, open.raw())?;
    Ok(netnsd_api::NamespaceObserved {
        path: worker::path(name).display().to_string(),
        inode: open.inode,
        netnsid,
        links: links.len(),
    })
}
