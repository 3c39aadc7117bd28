//! Kernel state that only the live views show.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use netnsd_api::{FdbEntry, LinkType, LiveNeighbour, NamespaceObserved};
use netnsd_netlink::{
    Error, NamespaceSwitcher, NetnsFile, NsConnection, RouteSocket, errno_of,
    link::{self, LinkId},
    neigh::{get_fdb, parse_neigh},
    netns::file::{THREAD_NETNS, list_names, netns_path, open_netns},
};
use nix::{errno::Errno, sys::utsname::uname};
use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        RouteNetlinkMessage,
        link::{InfoBridge, InfoData, InfoKind, LinkAttribute, LinkInfo},
        neighbour::NeighbourState,
    },
};

use super::{message, observe};
use crate::{
    kernel::{
        KernelError, LinkAt, NewEnd, NewLink, Ns, ObservedLink, ObservedRule, query,
        query::QueryError,
    },
    links::{BridgeSettings, PortVlans},
};

/// Returns the socket in a namespace that may not exist.
fn enter<'s>(switcher: &'s mut NamespaceSwitcher, ns: &Ns) -> Result<&'s RouteSocket, QueryError> {
    let open = switcher.try_connection(ns).map_err(KernelError::from)?;
    open.map(|open| &open.route)
        .ok_or(QueryError::NoSuchNamespace)
}

/// Reads every link of a namespace with its addresses, `lo` included.
pub(in crate::kernel) fn every_link(
    switcher: &mut NamespaceSwitcher,
    ns: &Ns,
) -> Result<BTreeMap<String, ObservedLink>, QueryError> {
    Ok(observe::all_links(enter(switcher, ns)?, link::get_links())?)
}

/// Reads the VLANs of every bridge port of a namespace, by the index of its link.
pub(in crate::kernel) fn port_vlans(
    switcher: &mut NamespaceSwitcher,
    ns: &Ns,
) -> Result<BTreeMap<u32, PortVlans>, QueryError> {
    Ok(observe::port_vlans(enter(switcher, ns)?)?)
}

fn names_of(
    switcher: &mut NamespaceSwitcher,
    ns: &Ns,
) -> Result<BTreeMap<u32, String>, KernelError> {
    let links = switcher
        .connection(ns)?
        .route
        .dump(link::get_links_without_counters(), observe::link_of)?;
    Ok(links
        .into_iter()
        .map(|parsed| (parsed.link.index, parsed.name))
        .collect())
}

/// Reads every policy rule.
pub(in crate::kernel) fn all_rules(
    switcher: &mut NamespaceSwitcher,
    ns: &Ns,
) -> Result<Vec<ObservedRule>, QueryError> {
    Ok(observe::rules(enter(switcher, ns)?)?)
}

/// Reads every ARP and NDP entry, as `ip neigh` and `ip neigh show proxy` show them.
pub(in crate::kernel) fn all_neighbours(
    switcher: &mut NamespaceSwitcher,
    ns: &Ns,
) -> Result<Vec<LiveNeighbour>, QueryError> {
    enter(switcher, ns)?;
    let names = names_of(switcher, ns)?;
    let socket = &switcher.connection(ns)?.route;
    let mut found = Vec::new();
    let mut all = observe::all_neighbours(socket)?;
    all.extend(observe::proxy_neighbours(socket)?);
    for seen in all {
        let (Some(address), Some(interface)) = (seen.address, names.get(&seen.index)) else {
            continue;
        };
        if seen.state == NeighbourState::Noarp && !seen.is_proxy {
            continue;
        }
        found.push(LiveNeighbour {
            address: address.to_string(),
            mac: seen.mac.map(|mac| netnsd_api::Mac(mac).to_string()),
            interface: interface.clone(),
            state: format!("{:?}", seen.state).to_lowercase(),
            proxy: seen.is_proxy,
        });
    }
    Ok(found)
}

/// Reads a bridge's forwarding table, as `brctl showmacs` shows it.
pub(in crate::kernel) fn fdb(
    switcher: &mut NamespaceSwitcher,
    ns: &Ns,
    bridge: &str,
) -> Result<Vec<FdbEntry>, QueryError> {
    enter(switcher, ns)?;
    let names = names_of(switcher, ns)?;
    let master = names
        .iter()
        .find(|(_, name)| *name == bridge)
        .map(|(index, _)| *index)
        .ok_or(QueryError::NoSuchNamespace)?;
    let socket = &switcher.connection(ns)?.route;
    let mut found: BTreeMap<(String, String), FdbEntry> = BTreeMap::new();
    for seen in socket.dump(get_fdb(master), parse_neigh)? {
        let (Some(mac), Some(interface)) = (seen.mac, names.get(&seen.index)) else {
            continue;
        };
        // Multicast entries are not stations; those of single VLANs repeat the others.
        if mac[0] & 1 == 1 || seen.has_vlan {
            continue;
        }
        let local = seen.state == NeighbourState::Permanent;
        let entry = FdbEntry {
            mac: netnsd_api::Mac(mac).to_string(),
            interface: interface.clone(),
            local,
            age_s: seen
                .updated
                .filter(|_| !local)
                .map(|ticks| f64::from(ticks) / 100.0),
        };
        found.insert((entry.mac.clone(), entry.interface.clone()), entry);
    }
    Ok(found.into_values().collect())
}

/// Summarizes every namespace that has a name.
pub(in crate::kernel) fn namespaces(
    switcher: &mut NamespaceSwitcher,
) -> Result<Vec<(String, NamespaceObserved)>, KernelError> {
    let mut found = Vec::new();
    for name in list_names() {
        let entered = match open_netns(&name) {
            Ok(NetnsFile::Namespace(fd)) => switcher.connect(fd),
            // It blocks its name nevertheless.
            Ok(NetnsFile::Stale(_)) => Err(Errno::EINVAL),
            _ => continue,
        };
        let seen = match entered {
            Ok(open) => observe::summary(switcher, &name, open)?,
            // Not a network namespace, or one of another user namespace (setns(2)).
            Err(Errno::EINVAL | Errno::EPERM | Errno::EACCES) => {
                let path = netns_path(&name).display().to_string();
                NamespaceObserved {
                    path,
                    inode: 0,
                    netnsid: None,
                    links: 0,
                }
            }
            Err(errno) => return Err(errno.into()),
        };
        found.push((name, seen));
    }
    Ok(found)
}

/// Reads the links of the host and of every namespace that has a name by this request; none of a
/// namespace that cannot be entered.
pub(in crate::kernel) fn all_namespaces(
    switcher: &NamespaceSwitcher,
    get_links: fn() -> RouteNetlinkMessage,
) -> Result<Vec<query::SeenNamespace>, KernelError> {
    let mut found = Vec::new();
    for name in std::iter::once(None).chain(list_names().into_iter().map(Some)) {
        let links = match connect(switcher, name.as_deref()) {
            Ok(Some(open)) => observe::all_links(&open.route, get_links())?,
            // It blocks its name nevertheless; see `namespaces`.
            Err(Errno::EINVAL | Errno::EPERM | Errno::EACCES) => BTreeMap::new(),
            Ok(None) => continue,
            Err(errno) => return Err(errno.into()),
        };
        found.push(query::SeenNamespace { name, links });
    }
    Ok(found)
}

/// Connects to a namespace, the host's without a name; `None` if there is none of this name any
/// more.
fn connect(
    switcher: &NamespaceSwitcher,
    name: Option<&str>,
) -> Result<Option<NsConnection>, Errno> {
    let opened = match name {
        Some(name) => open_netns(name),
        None => File::open(THREAD_NETNS)
            .map(|file| NetnsFile::Namespace(file.into()))
            .map_err(|error| errno_of(&error)),
    };
    match opened {
        Ok(NetnsFile::Namespace(fd)) => switcher.connect(fd).map(Some),
        Ok(NetnsFile::Stale(_)) => Err(Errno::EINVAL),
        _ => Ok(None),
    }
}

/// Ids that one namespace has for others, asked for when needed.
pub(in crate::kernel) struct Netnsids {
    from: Option<String>,
    connection: Option<NsConnection>,
    known: BTreeMap<Option<String>, Option<u32>>,
}

impl Netnsids {
    /// Returns those of a namespace; `None`: of the host.
    pub fn of(from: Option<String>) -> Self {
        Self {
            from,
            connection: None,
            known: BTreeMap::new(),
        }
    }

    /// Returns true if this is the id of a namespace.
    pub fn is_id_of(&mut self, switcher: &NamespaceSwitcher, name: Option<&str>, id: i32) -> bool {
        let key = name.map(str::to_owned);
        if !self.known.contains_key(&key) {
            let found = self.ask(switcher, name);
            self.known.insert(key.clone(), found);
        }
        let known = self.known.get(&key).copied().flatten();
        known.is_some() && known == u32::try_from(id).ok()
    }

    fn ask(&mut self, switcher: &NamespaceSwitcher, name: Option<&str>) -> Option<u32> {
        if self.connection.is_none() {
            self.connection = connect(switcher, self.from.as_deref()).ok()?;
        }
        let other = connect(switcher, name).ok()??;
        let route = &self.connection.as_ref()?.route;
        route.netnsid(other.ns.as_raw_fd()).ok()?
    }
}

/// Returns the namespaces that one namespace has ids for, with the names of their links.
pub(in crate::kernel) fn neighbourhood(
    switcher: &mut NamespaceSwitcher,
    from: &Ns,
) -> Result<query::Neighbourhood, KernelError> {
    let named = list_names()
        .into_iter()
        .filter_map(|name| match open_netns(&name) {
            Ok(NetnsFile::Namespace(fd)) => Some((Some(name), fd)),
            _ => None,
        });
    let host = File::open(THREAD_NETNS)
        .ok()
        .map(|file| (None, OwnedFd::from(file)));
    let mut found = BTreeMap::new();
    for (name, fd) in named.chain(host) {
        // A namespace of another type has no id (`get_net_ns_by_fd()`, net/core/net_namespace.c).
        let Ok(Some(id)) = switcher.netnsid(from, fd.as_raw_fd()) else {
            continue;
        };
        let open = switcher.connect(fd)?;
        let links = observe::all_links(&open.route, link::get_links_without_counters())?;
        found.insert(
            id,
            (
                name,
                links
                    .into_iter()
                    .map(|(name, link)| (link.index, name))
                    .collect(),
            ),
        );
    }
    Ok(found)
}

/// Returns true if bridges of this kernel can filter VLANs: tries it in a new namespace.
pub(in crate::kernel) fn vlan_filtering(switcher: &NamespaceSwitcher) -> bool {
    let answer = switcher.run_in_new(probe_vlan_filtering);
    let Some(RouteNetlinkMessage::NewLink(link)) = answer.unwrap_or_default().pop() else {
        return false;
    };
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().any(|info| match info {
            LinkInfo::Data(InfoData::Bridge(settings)) => {
                settings.contains(&InfoBridge::VlanFiltering(true))
            }
            _ => false,
        }),
        _ => false,
    })
}

/// Creates a bridge that filters VLANs, and returns it as the kernel reports it.
fn probe_vlan_filtering() -> Result<Vec<RouteNetlinkMessage>, Error> {
    let settings = BridgeSettings {
        vlan_filtering: Some(true),
        ..BridgeSettings::default()
    };
    let socket = RouteSocket::open()?;
    let end = NewEnd {
        at: LinkAt::new(Ns::Host, "probe"),
        owner_tag: String::new(),
        mac: None,
        mtu: None,
    };
    let message = message::new_link(&NewLink::bridge(end, settings), None, None);
    socket.send(message, NLM_F_CREATE | NLM_F_EXCL)?;
    socket.get(link::get_link(LinkId::Name("probe")))
}

/// Returns the types of links that the kernel can create: those of which it has the module, loaded
/// or not, and those that an attempt finds in a new namespace: the kernel then wants more than a
/// name, or makes the link. Where there is no module the attempt loads none.
pub(in crate::kernel) fn link_types(switcher: &NamespaceSwitcher) -> Vec<LinkType> {
    let aliases = read_module_aliases();
    let mut types = LinkType::ALL.to_vec();
    types.retain(|link_type| {
        let alias = format!("rtnl-link-{link_type}");
        let probed = || switcher.run_in_new(|| probe_link(*link_type));
        aliases.contains(&alias) || probed().is_ok_and(|found| found)
    });
    types
}

/// Returns the aliases of the modules that the kernel may load (`modules.alias`, depmod(8)).
fn read_module_aliases() -> BTreeSet<String> {
    let release = uname().map(|system| system.release().to_owned());
    let path = Path::new("/lib/modules")
        .join(release.unwrap_or_default())
        .join("modules.alias");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let words = text
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1));
    words.map(str::to_owned).collect()
}

/// Returns true if the kernel knows a type of links (`rtnl_newlink()`, net/core/rtnetlink.c).
fn probe_link(link_type: LinkType) -> Result<bool, Error> {
    let info = vec![LinkInfo::Kind(InfoKind::from(link_type.as_str()))];
    let attributes = vec![
        LinkAttribute::IfName("probe".to_owned()),
        LinkAttribute::LinkInfo(info),
    ];
    let message = RouteNetlinkMessage::NewLink(link::link_message(0, attributes));
    match RouteSocket::open()?.send(message, NLM_F_CREATE | NLM_F_EXCL) {
        Err(error) if error.errno().is_none() => Err(error),
        answer => Ok(answer.err().and_then(|error| error.errno()) != Some(Errno::EOPNOTSUPP)),
    }
}
