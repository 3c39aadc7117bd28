//! Queries of the kernel for the API's live routes, on a thread of their own: they never wait for
//! writes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    fs, io,
    sync::Arc,
};

use netnsd_api::{
    BridgePort, Destination, FdbEntry, Features, KernelLink, KernelNamespace, Kind, LinkAddress,
    LinkSettings, LiveLink, LiveNeighbour, LiveRoute, LiveRule, NamespaceObserved, Peer,
    ResourceRef, VlanRange,
};
use netnsd_netlink::{NamespaceSwitcher, link, netns::file::list_names};
use nix::errno::Errno;
use tokio::sync::{mpsc, oneshot};

use super::{
    KernelError, Ns, NsScope, Observed, ObservedLink, Scope, ownership, protocol,
    real::{address_scope, observe, query as live},
};
use crate::metrics::LinkCounters;

/// Capacity of the queue.
const QUEUE: usize = 256;

/// Failure of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueryError {
    /// There is no such namespace (or no such bridge in it).
    NoSuchNamespace,
    /// The kernel refused to answer.
    Kernel(KernelError),
}

impl From<netnsd_netlink::Error> for QueryError {
    fn from(error: netnsd_netlink::Error) -> Self {
        QueryError::Kernel(error.into())
    }
}

impl From<KernelError> for QueryError {
    fn from(error: KernelError) -> Self {
        QueryError::Kernel(error)
    }
}

type Answer<T> = oneshot::Sender<Result<T, QueryError>>;

enum Query {
    Links(Ns, Answer<Vec<LiveLink>>),
    Addresses(Ns, Answer<Vec<LinkAddress>>),
    Routes(Ns, Answer<Vec<LiveRoute>>),
    Rules(Ns, Answer<Vec<LiveRule>>),
    Neighbours(Ns, Answer<Vec<LiveNeighbour>>),
    Ports(Ns, String, Answer<Vec<BridgePort>>),
    Fdb(Ns, String, Answer<Vec<FdbEntry>>),
    Namespaces(Answer<Named>),
    Everything(Answer<Vec<KernelNamespace>>),
    Counters(Answer<Vec<LinkCounters>>),
    Features(Answer<Features>),
    Unrecorded(Box<IsRecorded>, Answer<Vec<ResourceRef>>),
}

/// Returns true for a resource that is recorded.
type IsRecorded = dyn Fn(&ResourceRef) -> bool + Send;

impl Query {
    /// Takes the asker of a scan of all namespaces out of the query; returns any other query.
    fn join(self, askers: &mut Vec<Answer<Named>>) -> Option<Self> {
        match self {
            Query::Namespaces(answer) => {
                askers.push(answer);
                None
            }
            other => Some(other),
        }
    }
}

/// Namespaces with their names in `/run/netns`.
type Named = Arc<[(String, NamespaceObserved)]>;

/// Sends queries to the thread.
#[derive(Debug, Clone)]
pub struct KernelQueries {
    queries: mpsc::Sender<Query>,
}

impl KernelQueries {
    /// Starts the thread, in the namespace of the caller.
    ///
    /// # Errors
    /// When there is no thread or no socket.
    pub fn start() -> io::Result<Self> {
        let (queries, queue) = mpsc::channel(QUEUE);
        let (started, start) = std::sync::mpsc::channel();
        std::thread::Builder::new()
            .name("netnsd-query".into())
            .spawn(move || match NamespaceSwitcher::new() {
                Ok(switcher) => {
                    drop(started.send(Ok(())));
                    serve(switcher, queue);
                }
                Err(error) => drop(started.send(Err(error))),
            })?;
        start
            .recv()
            .map_err(|_| io::Error::other("the query thread ended"))??;
        Ok(Self { queries })
    }

    /// Returns the features of the kernel.
    ///
    /// # Errors
    /// When the thread is gone.
    pub async fn features(&self) -> Result<Features, QueryError> {
        self.ask(Query::Features).await
    }

    /// Returns the resources that are not recorded though links of the host, or `lo` of a namespace
    /// with a name that is not recorded, bear their owner tags.
    ///
    /// # Errors
    /// When the thread is gone.
    pub async fn unrecorded(
        &self,
        is_recorded: impl Fn(&ResourceRef) -> bool + Send + 'static,
    ) -> Result<Vec<ResourceRef>, QueryError> {
        self.ask(|answer| Query::Unrecorded(Box::new(is_recorded), answer))
            .await
    }

    async fn ask<T>(&self, query: impl FnOnce(Answer<T>) -> Query) -> Result<T, QueryError> {
        let (answer, answered) = oneshot::channel();
        let gone = |_| QueryError::Kernel(Errno::ESHUTDOWN.into());
        self.queries
            .send(query(answer))
            .await
            .map_err(|_| gone(()))?;
        answered.await.map_err(|_| gone(()))?
    }

    /// Every link of a namespace.
    ///
    /// # Errors
    /// No such namespace, or the kernel's.
    pub async fn links(&self, ns: &Ns) -> Result<Vec<LiveLink>, QueryError> {
        self.ask(|answer| Query::Links(ns.clone(), answer)).await
    }

    /// Every address in a namespace.
    ///
    /// # Errors
    /// No such namespace, or the kernel's.
    pub async fn addresses(&self, ns: &Ns) -> Result<Vec<LinkAddress>, QueryError> {
        self.ask(|answer| Query::Addresses(ns.clone(), answer))
            .await
    }

    /// Every route of a namespace, without the kernel's own of table `local` and of IPv6 link-local
    /// and multicast networks.
    ///
    /// # Errors
    /// No such namespace, or the kernel's.
    pub async fn routes(&self, ns: &Ns) -> Result<Vec<LiveRoute>, QueryError> {
        self.ask(|answer| Query::Routes(ns.clone(), answer)).await
    }

    /// Every policy rule of a namespace.
    ///
    /// # Errors
    /// No such namespace, or the kernel's.
    pub async fn rules(&self, ns: &Ns) -> Result<Vec<LiveRule>, QueryError> {
        self.ask(|answer| Query::Rules(ns.clone(), answer)).await
    }

    /// Every ARP and NDP entry of a namespace.
    ///
    /// # Errors
    /// No such namespace, or the kernel's.
    pub async fn neighbours(&self, ns: &Ns) -> Result<Vec<LiveNeighbour>, QueryError> {
        self.ask(|answer| Query::Neighbours(ns.clone(), answer))
            .await
    }

    /// The ports of a bridge.
    ///
    /// # Errors
    /// No such namespace, or the kernel's.
    pub async fn ports(&self, ns: &Ns, bridge: &str) -> Result<Vec<BridgePort>, QueryError> {
        self.ask(|answer| Query::Ports(ns.clone(), bridge.to_owned(), answer))
            .await
    }

    /// The forwarding table of a bridge.
    ///
    /// # Errors
    /// No such namespace or device, or the kernel's.
    pub async fn fdb(&self, ns: &Ns, bridge: &str) -> Result<Vec<FdbEntry>, QueryError> {
        self.ask(|answer| Query::Fdb(ns.clone(), bridge.to_owned(), answer))
            .await
    }

    /// Every namespace that has a name in `/run/netns`.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn namespaces(&self) -> Result<Named, QueryError> {
        self.ask(Query::Namespaces).await
    }

    /// Every link of the host and of every namespace that has a name in `/run/netns`.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn everything(&self) -> Result<Vec<KernelNamespace>, QueryError> {
        self.ask(Query::Everything).await
    }

    /// Counters of every link with netnsd's owner tag.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn counters(&self) -> Result<Vec<LinkCounters>, QueryError> {
        self.ask(Query::Counters).await
    }
}

fn serve(mut switcher: NamespaceSwitcher, mut queue: mpsc::Receiver<Query>) {
    // Tried when first asked for: what that leaves the kernel takes locks to clear away, which a
    // start would wait for.
    let mut features = None;
    let mut waiting = VecDeque::new();
    while let Some(query) = waiting.pop_front().or_else(|| queue.blocking_recv()) {
        while waiting.len() < QUEUE
            && let Ok(query) = queue.try_recv()
        {
            waiting.push_back(query);
        }
        let switcher = &mut switcher;
        // The client may be gone; then nobody receives the answer.
        match query {
            Query::Links(ns, answer) => drop(answer.send(links(switcher, &ns))),
            Query::Addresses(ns, answer) => drop(answer.send(addresses(switcher, &ns))),
            Query::Routes(ns, answer) => drop(answer.send(routes(switcher, &ns))),
            Query::Rules(ns, answer) => drop(answer.send(rules(switcher, &ns))),
            Query::Neighbours(ns, answer) => drop(answer.send(neighbours(switcher, &ns))),
            Query::Ports(ns, bridge, answer) => drop(answer.send(ports(switcher, &ns, &bridge))),
            Query::Fdb(ns, bridge, answer) => drop(answer.send(live::fdb(switcher, &ns, &bridge))),
            Query::Everything(answer) => {
                drop(answer.send(everything(switcher).map_err(QueryError::from)))
            }
            Query::Counters(answer) => {
                drop(answer.send(counters(switcher).map_err(QueryError::from)))
            }
            Query::Unrecorded(is_recorded, answer) => {
                drop(answer.send(Ok(unrecorded(switcher, &*is_recorded))))
            }
            Query::Namespaces(answer) => {
                // One scan for all who have asked before it begins, and wait for it still.
                let mut askers = vec![answer];
                waiting = std::mem::take(&mut waiting)
                    .into_iter()
                    .filter_map(|other| other.join(&mut askers))
                    .collect();
                askers.retain(|answer| !answer.is_closed());
                if !askers.is_empty() {
                    let found = live::namespaces(switcher)
                        .map(Named::from)
                        .map_err(QueryError::from);
                    askers
                        .into_iter()
                        .for_each(|answer| drop(answer.send(found.clone())));
                }
            }
            Query::Features(answer) => {
                let found = features.get_or_insert_with(|| Features {
                    vlan_filtering: live::vlan_filtering(switcher),
                    ipv6: fs::exists("/proc/sys/net/ipv6").unwrap_or(false),
                    links: live::link_types(switcher),
                });
                drop(answer.send(Ok(found.clone())));
            }
        }
        switcher.release();
    }
}

fn unrecorded(switcher: &mut NamespaceSwitcher, is_recorded: &IsRecorded) -> Vec<ResourceRef> {
    let named = list_names()
        .into_iter()
        .filter_map(|name| Some(ResourceRef::new(Kind::Namespace, name.parse().ok()?)));
    let unknown = named
        .filter(|namespace| !is_recorded(namespace))
        .map(|namespace| Ns::Named(namespace.name));
    let mut found = BTreeSet::new();
    for ns in std::iter::once(Ns::Host).chain(unknown) {
        // A namespace that cannot be entered is not netnsd's.
        let links = live::every_link(switcher, &ns).unwrap_or_default();
        let tags = links.values().filter_map(|link| link.owner_tag.as_deref());
        found.extend(
            tags.filter_map(ownership::parse)
                .map(|(resource, _)| resource),
        );
    }
    found
        .into_iter()
        .filter(|resource| !is_recorded(resource))
        .collect()
}

fn links(switcher: &mut NamespaceSwitcher, ns: &Ns) -> Result<Vec<LiveLink>, QueryError> {
    let seen = live::every_link(switcher, ns)?;
    let mut peers = Peers::default();
    let names: BTreeMap<u32, String> = seen
        .iter()
        .map(|(name, link)| (link.index, name.clone()))
        .collect();
    let mut links = Vec::new();
    for (name, link) in seen {
        let peer = match (&link.kind, link.peer_index, link.peer_netnsid) {
            (Some(kind), Some(index), None) if kind == "veth" => {
                names.get(&index).map(|name| Peer {
                    namespace: ns.name().map(ToString::to_string),
                    interface: name.clone(),
                })
            }
            (Some(kind), Some(index), Some(netnsid)) if kind == "veth" => {
                peers.find(switcher, ns, netnsid, index)
            }
            _ => None,
        };
        links.push(live(name, link, peer));
    }
    links.sort_by_key(|link| link.index);
    Ok(links)
}

fn live(name: String, link: ObservedLink, peer: Option<Peer>) -> LiveLink {
    // The tag of `lo` is its namespace's.
    let tagged = link.owner_tag.as_deref().and_then(ownership::parse);
    let settings = own_settings(&link);
    LiveLink {
        index: link.index,
        name,
        kind: link.kind,
        mac: link.mac.map(|mac| mac.to_string()),
        mtu: link.mtu,
        up: link.up,
        carrier: link.carrier,
        operstate: link.operstate,
        addresses: link.addresses.iter().map(ToString::to_string).collect(),
        bridge: link.master,
        peer,
        resource: tagged.map(|(resource, _)| resource),
        statistics: link.statistics,
        settings,
    }
}

/// Returns the settings of a link that are not the kernel's defaults; `None` for a link that is
/// neither a bridge nor a port and has none.
fn own_settings(link: &ObservedLink) -> Option<LinkSettings> {
    let mut settings = LinkSettings::default();
    if let Some(bridge) = &link.bridge {
        let mut own = bridge.attrs.non_defaults();
        own.ageing_time = own.ageing_time.filter(|_| !bridge.topology_change);
        // A bridge shows the times of the root, also for a while after STP was switched off.
        if bridge.root_id != bridge.bridge_id {
            (own.forward_delay, own.hello_time, own.max_age) = (None, None, None);
        }
        settings = own.into_link_settings();
    }
    settings.port = link.port.as_ref().map(|port| port.attrs.non_defaults());
    let device = link.device.non_defaults();
    settings.txqueuelen = device.txqueuelen;
    settings.alias = device.alias;
    settings.promiscuous = device.promiscuous;
    settings.allmulticast = device.allmulticast;
    settings.arp = device.arp;
    let is_plain = link.bridge.is_none() && settings == LinkSettings::default();
    (!is_plain).then_some(settings)
}

/// Namespaces by the netnsid that one of them has for the others: the name (none: the host), and
/// the links by index.
pub(super) type Neighbourhood = BTreeMap<u32, (Option<String>, BTreeMap<u32, String>)>;

/// Names of the other ends of pairs, namespace by namespace.
#[derive(Default)]
struct Peers {
    known: Option<Neighbourhood>,
}

impl Peers {
    fn find(
        &mut self,
        switcher: &mut NamespaceSwitcher,
        from: &Ns,
        netnsid: i32,
        index: u32,
    ) -> Option<Peer> {
        if self.known.is_none() {
            self.known = Some(live::neighbourhood(switcher, from).unwrap_or_default());
        }
        let (namespace, links) = self.known.as_ref()?.get(&u32::try_from(netnsid).ok()?)?;
        Some(Peer {
            namespace: namespace.clone(),
            interface: links.get(&index)?.clone(),
        })
    }
}

/// Links of one namespace.
pub(super) struct SeenNamespace {
    /// Its name; `None`: the host.
    pub name: Option<String>,
    /// Its links by name.
    pub links: BTreeMap<String, ObservedLink>,
}

fn everything(switcher: &mut NamespaceSwitcher) -> Result<Vec<KernelNamespace>, KernelError> {
    let seen = live::all_namespaces(switcher, link::get_links_without_counters)?;
    let by_index = LinkIndex::new(&seen);
    let mut found = Vec::new();
    for (position, namespace) in seen.iter().enumerate() {
        let mut ids = live::Netnsids::of(namespace.name.clone());
        let mut attached = |link: &ObservedLink| {
            let (position, name) = by_index.find_attached(position, link, |other, id| {
                ids.is_id_of(switcher, seen[other].name.as_deref(), id)
            })?;
            Some(Peer {
                namespace: seen[position].name.clone(),
                interface: name.to_owned(),
            })
        };
        let links = namespace.links.iter().map(|(name, link)| KernelLink {
            name: name.clone(),
            kind: link.kind.clone(),
            operstate: link.operstate.clone(),
            addresses: link.addresses.iter().map(ToString::to_string).collect(),
            master: link.master.clone(),
            owner: tag_of(link),
            attached: attached(link),
        });
        found.push(KernelNamespace {
            name: namespace.name.clone(),
            links: links.collect(),
        });
    }
    Ok(found)
}

/// Links of several namespaces by their index, and by their owner tag.
struct LinkIndex<'a> {
    by_index: HashMap<u32, Vec<SeenLink<'a>>>,
    owned: HashMap<(ResourceRef, usize), (usize, &'a str)>,
}

/// A link, with the position of its namespace.
struct SeenLink<'a> {
    position: usize,
    name: &'a str,
    link: &'a ObservedLink,
}

impl<'a> LinkIndex<'a> {
    fn new(seen: &'a [SeenNamespace]) -> Self {
        let mut by_index = HashMap::<_, Vec<_>>::new();
        let mut owned = HashMap::new();
        for (position, namespace) in seen.iter().enumerate() {
            for (name, link) in &namespace.links {
                by_index.entry(link.index).or_default().push(SeenLink {
                    position,
                    name,
                    link,
                });
                if let Some(owner) = tag_of(link) {
                    owned.insert(owner, (position, name.as_str()));
                }
            }
        }
        Self { by_index, owned }
    }

    /// Returns the place of the peer of a veth, or of the device below another link; `is_at` tells
    /// if a position is that of a netnsid.
    fn find_attached(
        &self,
        position: usize,
        link: &ObservedLink,
        mut is_at: impl FnMut(usize, i32) -> bool,
    ) -> Option<(usize, &'a str)> {
        let is_veth = link.kind.as_deref() == Some(KernelLink::VETH);
        if is_veth && let Some((resource, end)) = tag_of(link) {
            return self.owned.get(&(resource, 1 - end)).copied();
        }
        let same_index = self.by_index.get(&link.peer_index?)?;
        let found = same_index.iter().find(|other| {
            // Few links fulfil this; a netnsid costs a request.
            (!is_veth || other.link.peer_index == Some(link.index))
                && match link.peer_netnsid {
                    None => other.position == position,
                    Some(id) => other.position != position && is_at(other.position, id),
                }
        })?;
        Some((found.position, found.name))
    }
}

fn tag_of(link: &ObservedLink) -> Option<(ResourceRef, usize)> {
    ownership::parse(link.owner_tag.as_deref()?)
}

fn counters(switcher: &NamespaceSwitcher) -> Result<Vec<LinkCounters>, KernelError> {
    let mut found = Vec::new();
    for namespace in live::all_namespaces(switcher, link::get_links)? {
        let tagged = namespace.links.into_iter().filter_map(|(interface, link)| {
            let (resource, _) = tag_of(&link)?;
            Some(LinkCounters {
                namespace: namespace.name.clone(),
                interface,
                resource,
                statistics: link.statistics,
            })
        });
        found.extend(tagged);
    }
    Ok(found)
}

fn addresses(switcher: &mut NamespaceSwitcher, ns: &Ns) -> Result<Vec<LinkAddress>, QueryError> {
    let mut links: Vec<(String, ObservedLink)> =
        live::every_link(switcher, ns)?.into_iter().collect();
    links.sort_by_key(|(_, link)| link.index);
    let mut found = Vec::new();
    for (name, link) in links {
        let resource = link
            .owner_tag
            .as_deref()
            .and_then(ownership::parse)
            .map(|(resource, _)| resource);
        found.extend(link.addresses.into_iter().map(|address| {
            LinkAddress {
                address: address.net.to_string(),
                peer: address
                    .peer
                    .map(|peer| format!("{peer}/{}", address.net.prefix_len())),
                interface: name.clone(),
                scope: address_scope(address.scope),
                permanent: address.permanent,
                resource: resource.clone().filter(|_| address.is_ours()),
            }
        }));
    }
    Ok(found)
}

fn routes(switcher: &mut NamespaceSwitcher, ns: &Ns) -> Result<Vec<LiveRoute>, QueryError> {
    let part = NsScope {
        all_links: true,
        routes: true,
        ..NsScope::default()
    };
    let scope = Scope {
        namespaces: BTreeMap::from([(ns.clone(), part)]),
        ..Scope::default()
    };
    let Observed { mut namespaces, .. } = observe(switcher, &scope)?;
    let seen = namespaces
        .remove(ns)
        .filter(|seen| seen.inode != 0)
        .ok_or(QueryError::NoSuchNamespace)?;
    let live = |known: super::ObservedRoute| {
        let adoptable = known.is_adoptable();
        LiveRoute {
            destination: match known.route.destination {
                Destination::Default => "default".into(),
                Destination::Net(net) => net.to_string(),
            },
            interface: known.route.interface.map(|interface| interface.to_string()),
            via: known.route.via.map(|via| via.to_string()),
            source: known.route.source.map(|source| source.to_string()),
            metric: known.route.metric.unwrap_or(0),
            table: known.route.table,
            kind: known
                .foreign_kind
                .unwrap_or_else(|| known.route.kind.as_str().into()),
            protocol: protocol(known.protocol),
            scope: known.scope,
            onlink: known.route.onlink,
            nexthops: known.route.nexthops,
            mtu: known.route.mtu,
            advmss: known.route.advmss,
            initcwnd: known.route.initcwnd,
            adoptable,
        }
    };
    Ok(seen.routes.into_iter().map(live).collect())
}

fn rules(switcher: &mut NamespaceSwitcher, ns: &Ns) -> Result<Vec<LiveRule>, QueryError> {
    let live = |known: super::ObservedRule| LiveRule {
        rule: known.rule,
        protocol: protocol(known.protocol),
        goto: known.extras.goto,
        nop: known.extras.nop,
        l3mdev: known.extras.l3mdev,
        tos: Some(known.extras.tos).filter(|tos| *tos != 0),
        suppress_ifgroup: known.extras.suppress_ifgroup,
    };
    let rules = live::all_rules(switcher, ns)?;
    Ok(rules.into_iter().map(live).collect())
}

fn neighbours(switcher: &mut NamespaceSwitcher, ns: &Ns) -> Result<Vec<LiveNeighbour>, QueryError> {
    live::all_neighbours(switcher, ns)
}

fn ports(
    switcher: &mut NamespaceSwitcher,
    ns: &Ns,
    bridge: &str,
) -> Result<Vec<BridgePort>, QueryError> {
    let seen = live::every_link(switcher, ns)?;
    let mut vlans = live::port_vlans(switcher, ns)?;
    let port = |(name, link): (String, ObservedLink)| {
        let vlans = vlans.remove(&link.index).unwrap_or_default();
        let port = link
            .port
            .filter(|_| link.master.as_deref() == Some(bridge))?;
        let owner = link.owner_tag.as_deref().and_then(ownership::parse);
        let name_of = |kind: Kind| {
            let (resource, _) = owner
                .as_ref()
                .filter(|(resource, _)| resource.kind == kind)?;
            Some(resource.name.clone())
        };
        let veth = name_of(Kind::Veth);
        let end = owner.as_ref().filter(|_| veth.is_some());
        Some(BridgePort {
            interface: name,
            veth,
            endpoint: end.and_then(|(_, end)| u8::try_from(*end).ok()),
            link: name_of(Kind::Link),
            state: port.state,
            path_cost: port.attrs.path_cost,
            priority: port.attrs.priority,
            hairpin: port.attrs.hairpin,
            isolated: port.attrs.isolated,
            learning: port.attrs.learning,
            bpdu_guard: port.attrs.bpdu_guard,
            root_block: port.attrs.root_block,
            mcast_fast_leave: port.attrs.mcast_fast_leave,
            flood: port.attrs.flood,
            mcast_flood: port.attrs.mcast_flood,
            bcast_flood: port.attrs.bcast_flood,
            mcast_to_unicast: port.attrs.mcast_to_unicast,
            neigh_suppress: port.attrs.neigh_suppress,
            proxy_arp: port.attrs.proxy_arp,
            mcast_router: port.attrs.mcast_router,
            vlan: vlans.pvid(),
            vlans: VlanRange::from_ids(vlans.others()),
        })
    };
    Ok(seen.into_iter().filter_map(port).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_scan_answers_all_who_wait() {
        if !crate::skip::is_root() {
            return;
        }
        let (queries, queue) = mpsc::channel(QUEUE);
        let ask = || {
            let (answer, answered) = oneshot::channel();
            queries.try_send(Query::Namespaces(answer)).unwrap();
            answered
        };
        let (first, gone) = (ask(), ask());
        let (answer, _features) = oneshot::channel();
        queries.try_send(Query::Features(answer)).unwrap();
        let last = ask();
        drop((gone, queries));
        // On a host of its own.
        std::thread::spawn(move || {
            use nix::{mount::MsFlags, sched::CloneFlags};
            let none: Option<&str> = None;
            nix::sched::unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
            nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            nix::mount::mount(none, "/run", Some("tmpfs"), MsFlags::empty(), none)?;
            serve(NamespaceSwitcher::new().unwrap(), queue);
            nix::Result::Ok(())
        });
        let [first, last] =
            [first, last].map(|answered| answered.blocking_recv().unwrap().unwrap());
        assert!(Arc::ptr_eq(&first, &last));
    }
}
