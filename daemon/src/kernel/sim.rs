//! A simulated kernel: for faults that the real one does not produce on demand, and for properties
//! over many networks.
//!
//! It keeps to what the real one does as far as the planner counts on it: a veth's ends live and
//! die together, going down takes IPv6 addresses and routes along, moving takes everything, a
//! deleted primary address its secondaries; the order of addresses is the kernel's.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use netnsd_api::{
    Centiseconds, Destination, MIN_IPV6_MTU, Mac, Name, NetnsId, NextHop, Route, RouteType, Rule,
    SysctlKey, is_link_local,
};
use nix::errno::Errno;

use super::{
    ADDRESS_PROTOCOL_KERNEL_LL, AddressChange, Announcement, BatchOp, FeatureOp, Kernel,
    KernelError, KernelEvent, LOOPBACK, LinkAt, LinkChange, LinkEvent, LinkOp, NamespaceChange,
    NamespaceOp, NeighbourChange, NewLink, Ns, Observed, ObservedAddress, ObservedBridge,
    ObservedLink, ObservedNs, ObservedPort, ObservedRoute, ObservedRule, Op, Outcome,
    ROUTE_PROTOCOL, RemoteChange, RouteChange, RouteExtras, RuleChange, Scope, Selectors,
    WatchChange, sysctl,
};
use crate::links::{BridgeSettings, LinkSettings, PortVlans};

/// Returns the `lo` of a namespace, which the simulated kernel has once there are addresses on it.
fn loopback() -> ObservedLink {
    ObservedLink {
        index: LOOPBACK,
        mtu: 65536,
        ..ObservedLink::default()
    }
}

/// First bytes of the MAC addresses that this kernel chooses itself.
const CHOSEN: [u8; 4] = [0xfe, 0, 0, 0];

/// A simulated kernel; clones share it, so that a test sees what the engine did.
#[derive(Debug, Clone)]
pub struct SimKernel {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    namespaces: BTreeMap<Ns, ObservedNs>,
    /// The other end of each veth end.
    peers: BTreeMap<LinkAt, LinkAt>,
    executed: Vec<Op>,
    announced: Vec<Announcement>,
    /// After how many more operations one fails, and how.
    fault: Option<(usize, Errno)>,
    /// Namespaces that cannot be entered.
    closed: BTreeSet<Ns>,
    /// The host's `/etc/nsswitch.conf`.
    nsswitch: Option<String>,
    replaced: Vec<(Name, SysctlKey, String)>,
    next: u64,
}

impl Default for SimKernel {
    fn default() -> Self {
        let namespaces = BTreeMap::from([(
            Ns::Host,
            ObservedNs {
                inode: 1,
                cookie: 1,
                link_count: 1,
                ..ObservedNs::default()
            },
        )]);
        let state = State {
            namespaces,
            peers: BTreeMap::new(),
            executed: Vec::new(),
            announced: Vec::new(),
            fault: None,
            closed: BTreeSet::new(),
            nsswitch: None,
            replaced: Vec::new(),
            next: 2,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }
}

impl SimKernel {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes one operation fail: the next one after `after` others.
    pub fn fail(&self, after: usize, errno: Errno) {
        self.state().fault = Some((after, errno));
    }

    /// Makes a namespace inaccessible, or accessible again.
    pub fn close(&self, ns: &Ns, closed: bool) {
        let mut state = self.state();
        if closed {
            state.closed.insert(ns.clone())
        } else {
            state.closed.remove(ns)
        };
    }

    /// Returns true if the operation that was to fail has failed.
    pub fn failed(&self) -> bool {
        self.state().fault.is_none()
    }

    /// The operations executed since this was last asked.
    pub fn executed(&self) -> Vec<Op> {
        std::mem::take(&mut self.state().executed)
    }

    /// The links that were announced since this was last asked.
    pub fn announced(&self) -> Vec<Announcement> {
        std::mem::take(&mut self.state().announced)
    }

    /// Everything there is.
    pub fn everything(&self) -> BTreeMap<Ns, ObservedNs> {
        self.state().namespaces.clone()
    }

    /// Everything there is, apart from the numbers that the kernel chooses and the order of things.
    pub fn shape(&self) -> String {
        let mut all = self.everything();
        for known in all.values_mut() {
            known.inode = 0;
            known.cookie = 0;
            known.sysctls.retain(|_, value| value != "0");
            known.routes.sort_by_key(|route| format!("{route:?}"));
            known.rules.sort_by_key(|rule| format!("{rule:?}"));
            for link in known.links.values_mut() {
                link.index = 0;
                link.peer_index = None;
                link.peer_netnsid = None;
                link.mac = link.mac.filter(|mac| !mac.0.starts_with(&CHOSEN));
                // The kernel makes those itself.
                link.addresses
                    .retain(|address| !is_link_local(address.net.addr()));
            }
        }
        format!("{all:#?}")
    }

    /// Replaces the host's `/etc/nsswitch.conf`.
    pub fn set_nsswitch(&self, content: Option<&str>) {
        self.state().nsswitch = content.map(str::to_owned);
    }

    /// Takes the owner tag of a link away (of `lo`: of its namespace).
    pub fn untag(&self, ns: &Ns, name: &str) {
        let mut state = self.state();
        match name {
            "lo" => drop(state.ns(ns).map(|known| known.owner_tag = None)),
            name => drop(
                state
                    .link(&LinkAt::new(ns.clone(), name))
                    .map(|link| link.owner_tag = None),
            ),
        }
    }

    /// Writes every owner tag as older versions did.
    pub fn make_tags_legacy(&self) {
        let legacy = |tag: &mut String| {
            if let Some((path, uid)) = tag
                .strip_prefix("netnsd:")
                .and_then(|rest| rest.rsplit_once(':'))
            {
                *tag = format!("netnsd:{}:{uid}", path.replace(':', "/"));
            }
        };
        for known in self.state().namespaces.values_mut() {
            let links = known.links.values_mut().map(|link| &mut link.owner_tag);
            links
                .chain([&mut known.owner_tag])
                .flatten()
                .for_each(legacy);
        }
    }

    /// Sets whether secondary addresses of a link take the place of the primary one.
    pub fn promote_secondaries(&self, ns: &Ns, name: &str, on: bool) {
        if let Ok(link) = self.state().link(&LinkAt::new(ns.clone(), name)) {
            link.promote_secondaries = on;
        }
    }

    /// Does one operation, as somebody else would by `ip`.
    ///
    /// # Errors
    /// What the kernel would say.
    pub fn apply(&self, op: &Op) -> Outcome {
        self.state().apply(op).map_err(KernelError::from)
    }
}

impl Kernel for SimKernel {
    fn prefetch_namespaces(&mut self, _namespaces: usize) {}

    async fn observe(&mut self, scope: &Scope) -> Result<Observed, KernelError> {
        let state = self.state();
        let nsswitch = state.nsswitch.clone().filter(|_| scope.nsswitch);
        let mut observed = Observed {
            nsswitch,
            ..Observed::default()
        };
        for (ns, part) in &scope.namespaces {
            let Some(known) = state.namespaces.get(ns) else {
                continue;
            };
            if state.closed.contains(ns) {
                let seen = ObservedNs {
                    inaccessible: true,
                    dns: known.dns.clone(),
                    ..ObservedNs::default()
                };
                observed.namespaces.insert(ns.clone(), seen);
                continue;
            }
            let mut seen = known.clone();
            let tagged = |link: &ObservedLink| {
                link.owner_tag
                    .as_ref()
                    .is_some_and(|tag| part.owner_tags.contains(tag))
            };
            let strayed = known
                .links
                .iter()
                .filter(|(name, link)| !part.links.contains(*name) && tagged(link));
            seen.renamed = strayed.map(|(name, _)| name.clone()).collect();
            seen.links.retain(|name, _| {
                let is_read = part.all_links && name != "lo" || seen.renamed.contains(name);
                is_read || part.links.contains(name)
            });
            if part.links.contains("lo") {
                let lo = seen.links.entry("lo".to_owned()).or_insert_with(loopback);
                lo.up = seen.loopback;
            }
            let others = known.links.keys().filter(|name| *name != "lo");
            seen.link_count = others.count() + 1;
            for (name, link) in &mut seen.links {
                let peer = state
                    .peers
                    .get(&LinkAt::new(ns.clone(), name))
                    .and_then(|peer| state.namespaces.get(&peer.ns)?.links.get(&peer.name));
                link.peer_index = peer.map(|peer| peer.index).or(link.peer_index);
                // Each namespace has the same id from everywhere: its inode number.
                link.peer_netnsid = link
                    .peer_netnsid
                    .filter(|base| i64::from(*base) != known.inode as i64);
                link.carrier = link.up && peer.is_none_or(|peer| peer.up);
                link.operstate = if link.carrier { "up" } else { "down" }.into();
            }
            for base in &part.base_netnsids {
                let inode = state.namespaces.get(base).map(|base| base.inode);
                let id = inode.and_then(|inode| i32::try_from(inode).ok());
                seen.base_netnsids.extend(id.map(|id| (base.clone(), id)));
            }
            if !part.routes {
                seen.routes
                    .retain(|route| route.ours && part.leftover_routes);
            }
            if !part.rules {
                seen.rules.clear();
            }
            seen.neighbours.retain(|known| match known.proxy {
                true => part.proxy_neighbours,
                false => part.neighbours,
            });
            seen.sysctls = part
                .sysctls
                .iter()
                .filter_map(|key| Some((key.clone(), known.sysctl(key)?)))
                .collect();
            observed.namespaces.insert(ns.clone(), seen);
        }
        Ok(observed)
    }

    async fn execute(
        &mut self,
        ops: &[BatchOp],
        done: Box<dyn Fn(usize) + Send>,
    ) -> Vec<Option<Outcome>> {
        let mut state = self.state();
        let mut failed = BTreeSet::new();
        ops.iter()
            .map(|BatchOp { op, part, optional }| {
                if failed.contains(part) {
                    return None;
                }
                let result = match &mut state.fault {
                    Some((0, errno)) => {
                        let errno = *errno;
                        state.fault = None;
                        Err(errno)
                    }
                    fault => {
                        if let Some((left, _)) = fault {
                            *left -= 1;
                        }
                        state.apply(op)
                    }
                };
                if result.is_err() && !optional {
                    failed.insert(*part);
                }
                state.executed.push(op.clone());
                done(state.executed.len());
                Some(result.map_err(KernelError::from))
            })
            .collect()
    }

    async fn next_event(&mut self) -> KernelEvent {
        std::future::pending().await
    }

    fn drain_events(&mut self) -> Vec<KernelEvent> {
        Vec::new()
    }

    fn watch(&mut self, _changes: Vec<WatchChange>) {}

    fn list_netns_names(&mut self) -> Vec<String> {
        self.state()
            .namespaces
            .keys()
            .filter_map(|ns| ns.name().map(ToString::to_string))
            .collect()
    }

    fn announce(&mut self, links: &[Announcement]) {
        self.state().announced.extend_from_slice(links);
    }

    fn replaced_sysctls(&mut self) -> Vec<(Name, SysctlKey, String)> {
        std::mem::take(&mut self.state().replaced)
    }

    fn release_idle(&mut self) {}
}

impl ObservedNs {
    /// A sysctl's value: those never written are 0, those of interfaces that are not there do not
    /// exist.
    fn sysctl(&self, key: &SysctlKey) -> Option<String> {
        match key.interface() {
            Some(interface) if !self.links.contains_key(&interface) => None,
            Some(interface) if sysctl::is_ipv6_mtu(key) && !self.sysctls.contains_key(key) => {
                Some(self.links.get(&interface)?.mtu.to_string())
            }
            _ => Some(self.sysctls.get(key).cloned().unwrap_or_else(|| "0".into())),
        }
    }
}

impl ObservedNs {
    /// Finds the device of a next hop, which must be up.
    fn resolve_hop(&self, hop: &NextHop, onlink: bool) -> Result<NextHop, Errno> {
        let mut hop = hop.clone();
        if let (Some(via), false) = (hop.via, onlink) {
            let reach = self.links.iter().find(|(device, link)| {
                link.up
                    && hop
                        .interface
                        .as_ref()
                        .is_none_or(|wanted| wanted.as_str() == *device)
                    && link
                        .addresses
                        .iter()
                        .any(|address| address.net.contains(&via.0))
            });
            let by_route = self.routes.iter().find(|other| {
                let is_direct = other.route.via.is_none() && other.route.nexthops.is_empty();
                is_direct && other.route.destination.net(other.ipv6).contains(&via.0)
            });
            let device = reach
                .map(|(device, _)| device.clone())
                .or_else(|| by_route?.route.interface.as_ref().map(ToString::to_string));
            let device = device.ok_or(Errno::ENETUNREACH)?;
            hop.interface = hop.interface.or_else(|| device.parse().ok());
        }
        if let Some(interface) = &hop.interface
            && !self.links.get(interface.as_str()).ok_or(Errno::ENODEV)?.up
        {
            return Err(Errno::ENETDOWN);
        }
        Ok(hop)
    }
}

type Done = Result<(), Errno>;

impl State {
    fn ns(&mut self, ns: &Ns) -> Result<&mut ObservedNs, Errno> {
        self.namespaces.get_mut(ns).ok_or(Errno::ENOENT)
    }

    fn named(&mut self, name: &Name) -> Result<&mut ObservedNs, Errno> {
        self.ns(&Ns::Named(name.clone()))
    }

    fn link(&mut self, at: &LinkAt) -> Result<&mut ObservedLink, Errno> {
        let links = &mut self.ns(&at.ns)?.links;
        links.get_mut(&at.name).ok_or(Errno::ENODEV)
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn apply(&mut self, op: &Op) -> Done {
        match op {
            Op::Namespace(op) => self.change_namespace(op),
            Op::Link(LinkOp::Create(new)) => self.create_link(new),
            Op::Link(LinkOp::Delete(link)) => {
                self.delete_link(link);
                Ok(())
            }
            Op::Link(LinkOp::Move { from, to }) => self.move_link(from, to),
            Op::Link(LinkOp::Set { link, change }) => self.set_link(link, change),
            Op::Feature(op) => self.change_feature(op),
        }
    }

    fn change_namespace(&mut self, NamespaceOp { name, change }: &NamespaceOp) -> Done {
        match change {
            NamespaceChange::Create { owner_tag } | NamespaceChange::Attach { owner_tag, .. } => {
                self.add_namespace(name, owner_tag)
            }
            NamespaceChange::Delete => {
                let ns = Ns::Named(name.clone());
                let known = self.namespaces.get(&ns);
                let links: Vec<LinkAt> = known
                    .into_iter()
                    .flat_map(|known| known.links.keys())
                    .map(|name| LinkAt::new(ns.clone(), name))
                    .collect();
                for link in &links {
                    self.delete_link(link);
                }
                self.delete_tunnels(&ns);
                self.namespaces.remove(&ns);
                Ok(())
            }
            NamespaceChange::SetId(id) => {
                let wanted = match id {
                    NetnsId::Id(id) => *id,
                    NetnsId::Auto => 0,
                };
                let known = self.named(name)?;
                match known.netnsid {
                    Some(now) if *id != NetnsId::Auto && now != wanted => Err(Errno::EEXIST),
                    Some(_) => Ok(()),
                    None => {
                        known.netnsid = Some(wanted);
                        Ok(())
                    }
                }
            }
            NamespaceChange::SetLoopbackUp(up) => {
                let inside = self.named(name)?;
                inside.loopback = *up;
                if let (false, Some(lo)) = (*up, inside.links.get_mut("lo")) {
                    lo.addresses.retain(|address| !address.is_ipv6());
                }
                Ok(())
            }
        }
    }

    fn create_link(&mut self, new: &NewLink) -> Done {
        for end in new.ends() {
            let other = self.ns(&end.at.ns)?.links.get(&end.at.name);
            if other.is_some_and(|other| other.owner_tag.as_ref() != Some(&end.owner_tag)) {
                return Err(Errno::EEXIST);
            }
        }
        let base = &new.birthplace.as_ref().unwrap_or(&new.end.at).ns;
        let lower = match new.lower_at() {
            Some(lower) => Some(self.link(&lower)?.clone()),
            None => None,
        };
        let base_id = i32::try_from(self.ns(base)?.inode).ok();
        for end in new.ends() {
            let created = ObservedLink::created(&new.settings, end);
            let below = lower.as_ref();
            let made = ObservedLink {
                bridge: created.bridge.map(|_| ObservedBridge::default()),
                mtu: end
                    .mtu
                    .or(below.map(|lower| lower.mtu))
                    .unwrap_or(created.mtu),
                peer_index: below.map(|lower| lower.index),
                peer_netnsid: base_id,
                ..created
            };
            self.add_link(&end.at, made)?;
        }
        if let Some(peer) = &new.peer {
            self.peers.insert(new.end.at.clone(), peer.at.clone());
            self.peers.insert(peer.at.clone(), new.end.at.clone());
        }
        self.set_settings(&new.end.at, &new.settings)
    }

    fn set_settings(&mut self, at: &LinkAt, settings: &LinkSettings) -> Done {
        if let LinkSettings::Bridge(settings) = settings {
            return self.set_bridge(at, settings);
        }
        self.link(at)?.settings = Some(settings.clone());
        Ok(())
    }

    fn set_link(&mut self, at: &LinkAt, change: &LinkChange) -> Done {
        match change {
            LinkChange::Name(name) => {
                if self.link(at)?.up {
                    return Err(Errno::EBUSY);
                }
                self.rename(at, &LinkAt::new(at.ns.clone(), name))
            }
            LinkChange::Up(up) => self.set_up(at, *up),
            LinkChange::Mac(mac) => {
                self.link(at)?.mac = Some(*mac);
                self.ns(&at.ns)?.lose(&at.name, LinkEvent::MacChanged);
                Ok(())
            }
            LinkChange::Mtu(mtu) => {
                self.link(at)?.set_mtu(*mtu);
                self.ns(&at.ns)?.reset_ipv6_mtu(&at.name);
                Ok(())
            }
            LinkChange::AddrGenModeNone(none) => {
                self.link(at)?.addr_gen_none = *none;
                Ok(())
            }
            LinkChange::Master(master) => {
                if let Some(master) = master {
                    let master = LinkAt::new(at.ns.clone(), master);
                    let is_bridge = self.link(&master)?.bridge.is_some();
                    is_bridge.then_some(()).ok_or(Errno::EOPNOTSUPP)?;
                }
                let mut pvid = None;
                if let Some(master) = master {
                    let master = self.link(&LinkAt::new(at.ns.clone(), master))?;
                    let bridge = master.bridge.as_ref();
                    pvid = bridge.map(|bridge| bridge.attrs.vlan_default_pvid);
                }
                let link = self.link(at)?;
                link.master.clone_from(master);
                link.port = pvid.map(|pvid| ObservedPort {
                    vlans: Some(PortVlans::of_new_port(pvid)),
                    ..ObservedPort::default()
                });
                Ok(())
            }
            LinkChange::Device(settings) => {
                self.link(at)?.device.apply(settings);
                if settings.arp.is_some() {
                    self.ns(&at.ns)?.lose(&at.name, LinkEvent::MacChanged);
                }
                Ok(())
            }
            LinkChange::Altname { name, present } => self.set_altname(at, name, *present),
            LinkChange::Settings(settings) => self.set_settings(at, settings),
            LinkChange::Port(settings) => {
                let port = self.link(at)?.port.as_mut().ok_or(Errno::EINVAL)?;
                port.attrs.apply(settings);
                Ok(())
            }
            LinkChange::Vlans(change) => {
                let port = self.link(at)?.port.as_mut().ok_or(Errno::EINVAL)?;
                port.vlans.get_or_insert_default().apply(change);
                Ok(())
            }
            LinkChange::Owner { owner_tag, .. } => self.set_owner(at, owner_tag),
        }
    }

    fn set_altname(&mut self, at: &LinkAt, altname: &str, present: bool) -> Done {
        let mut links = self.ns(&at.ns)?.links.iter();
        let is_taken = links.any(|(name, link)| {
            name == altname || *name != at.name && link.altnames.contains(altname)
        });
        if present && is_taken {
            return Err(Errno::EEXIST);
        }
        let altnames = &mut self.link(at)?.altnames;
        if present {
            altnames.insert(altname.to_owned());
        } else {
            altnames.remove(altname);
        }
        Ok(())
    }

    fn set_owner(&mut self, at: &LinkAt, owner_tag: &Option<String>) -> Done {
        let known = self.ns(&at.ns)?;
        if at.name == "lo" {
            known.owner_tag.clone_from(owner_tag);
            return Ok(());
        }
        let is_taken = known.links.iter().any(|(name, link)| {
            *name != at.name && owner_tag.is_some() && link.owner_tag == *owner_tag
        });
        if is_taken {
            return Err(Errno::EEXIST);
        }
        self.link(at)?.owner_tag.clone_from(owner_tag);
        Ok(())
    }

    fn change_feature(&mut self, op: &FeatureOp) -> Done {
        match op {
            FeatureOp::Address { link, change } => self.change_addresses(link, change),
            FeatureOp::Remote { link, change } => {
                let remotes = &mut self.link(link)?.remotes;
                match change {
                    RemoteChange::Add(to) => remotes.insert(*to),
                    RemoteChange::Delete(to) => remotes.remove(to),
                };
                Ok(())
            }
            FeatureOp::Route { ns, change } => match change {
                RouteChange::Add {
                    route,
                    extras,
                    protocol,
                    replace,
                } => self.add_route(ns, route, extras, *protocol, *replace),
                RouteChange::Delete(route) => {
                    let routes = &mut self.ns(ns)?.routes;
                    routes.retain(|known| !(known.ours && same_route(known, route)));
                    Ok(())
                }
            },
            FeatureOp::Rule { ns, change } => self.change_rule(ns, change),
            FeatureOp::Neighbour { ns, change } => self.change_neighbour(ns, change),
            FeatureOp::Sysctl { name, key, value } => self.write_sysctl(name, key, value),
            FeatureOp::Dns {
                name,
                file,
                content,
            } => {
                if let Ok(known) = self.named(name) {
                    match content {
                        Some(content) => known.dns.insert(*file, content.clone()),
                        None => known.dns.remove(file),
                    };
                }
                Ok(())
            }
        }
    }

    fn change_addresses(&mut self, at: &LinkAt, change: &AddressChange) -> Done {
        if at.name == "lo" {
            let lo = self.ns(&at.ns)?.links.entry(at.name.clone());
            lo.or_insert_with(loopback);
        }
        self.link(at)?;
        match change {
            AddressChange::Add { address, replace } => self.add_address(at, address, *replace),
            AddressChange::Delete { address, promote } => {
                self.ns(&at.ns)?.lose_address(&at.name, address, *promote);
                Ok(())
            }
            AddressChange::Reorder { delete, add, .. } => {
                self.ns(&at.ns)?.reorder_addresses(&at.name, delete, add);
                Ok(())
            }
            // The simulated kernel has no prefix routes.
            AddressChange::AddPrefixRoute(_) => Ok(()),
        }
    }

    fn change_rule(&mut self, ns: &Ns, change: &RuleChange) -> Done {
        let rules = &mut self.ns(ns)?.rules;
        match change {
            RuleChange::Add(rule) => {
                let new = ObservedRule::of_netnsd(rule.clone());
                if !rules.contains(&new) {
                    let exists =
                        |known: &ObservedRule| known.is_ours() && is_taken_for(known, rule);
                    if rules.iter().any(exists) {
                        return Err(Errno::EEXIST);
                    }
                    let later = |known: &ObservedRule| known.rule.priority > rule.priority;
                    let place = rules.iter().position(later).unwrap_or(rules.len());
                    rules.insert(place, new);
                }
            }
            RuleChange::Delete(rule) => {
                let is_hit =
                    |known: &ObservedRule| known.is_ours() && matches_deletion(known, rule);
                if let Some(place) = rules.iter().position(is_hit) {
                    rules.remove(place);
                }
            }
        }
        Ok(())
    }

    fn change_neighbour(&mut self, ns: &Ns, change: &NeighbourChange) -> Done {
        let known = self.ns(ns)?;
        match change {
            NeighbourChange::Set(neighbour) => {
                let link = known.links.get(neighbour.interface.as_str());
                if !link.ok_or(Errno::ENODEV)?.up {
                    return Err(Errno::ENETDOWN);
                }
                known
                    .neighbours
                    .retain(|other| other.key() != neighbour.key());
                known.neighbours.push(neighbour.clone());
            }
            NeighbourChange::Delete(neighbour) => {
                known.neighbours.retain(|other| other != neighbour);
            }
        }
        Ok(())
    }

    fn write_sysctl(&mut self, name: &Name, key: &SysctlKey, value: &str) -> Done {
        let known = self.named(name)?;
        let before = known.sysctl(key).ok_or(Errno::ENODEV)?;
        let along: Vec<_> = sysctl::changed_along(key)
            .into_iter()
            .filter_map(|along| Some((along.clone(), known.sysctl(&along)?)))
            .collect();
        known
            .sysctls
            .entry(key.clone())
            .or_insert_with(|| before.clone());
        known.write_sysctl(key, value);
        let replaced = along.into_iter().chain([(key.clone(), before)]);
        self.replaced
            .extend(replaced.map(|(key, before)| (name.clone(), key, before)));
        Ok(())
    }

    fn add_namespace(&mut self, name: &Name, owner_tag: &str) -> Done {
        let ns = Ns::Named(name.clone());
        match self.namespaces.get(&ns) {
            Some(known) if known.owner_tag.as_deref() == Some(owner_tag) => Ok(()),
            Some(known) if known.inode != 0 => Err(Errno::EEXIST),
            _ => {
                let inode = self.number();
                let owner_tag = Some(owner_tag.to_owned());
                let made = ObservedNs {
                    inode,
                    cookie: inode,
                    owner_tag,
                    link_count: 1,
                    ..ObservedNs::default()
                };
                self.namespaces.insert(ns, made);
                Ok(())
            }
        }
    }

    fn add_link(&mut self, at: &LinkAt, mut link: ObservedLink) -> Done {
        link.index = u32::try_from(self.number()).unwrap_or(u32::MAX);
        let ([.., a, b], [c, d, e, f]) = (link.index.to_be_bytes(), CHOSEN);
        link.mac = link.mac.or(Some(Mac([c, d, e, f, a, b])));
        let known = self.ns(&at.ns)?;
        match known.links.get(&at.name) {
            Some(other) if other.owner_tag == link.owner_tag => Ok(()),
            Some(_) => Err(Errno::EEXIST),
            None => {
                known.inherit_sysctls(&at.name);
                known.links.insert(at.name.clone(), link);
                Ok(())
            }
        }
    }

    fn delete_link(&mut self, at: &LinkAt) {
        let peer = self.peers.remove(at);
        for LinkAt { ns, name } in peer.into_iter().chain([at.clone()]) {
            self.peers.remove(&LinkAt::new(ns.clone(), name.clone()));
            let Some(known) = self.namespaces.get_mut(&ns) else {
                continue;
            };
            if let Some(link) = known.remove_link(&name) {
                self.delete_uppers(link.index);
            }
        }
    }

    /// Deletes the links on a deleted device: indices are given once here.
    fn delete_uppers(&mut self, index: u32) {
        let mut uppers = Vec::new();
        for (ns, known) in &self.namespaces {
            let on_it = known
                .links
                .iter()
                .filter(|(_, link)| link.peer_index == Some(index));
            uppers.extend(on_it.map(|(name, _)| LinkAt::new(ns.clone(), name)));
        }
        for upper in &uppers {
            self.delete_link(upper);
        }
    }

    /// Deletes the links elsewhere whose own packets go through a namespace
    /// (`vxlan_exit_rtnl()`, drivers/net/vxlan/vxlan_core.c).
    fn delete_tunnels(&mut self, ns: &Ns) {
        let inode = self.namespaces.get(ns).map(|known| known.inode);
        let Some(id) = inode.and_then(|inode| i32::try_from(inode).ok()) else {
            return;
        };
        let mut through = Vec::new();
        for (ns, known) in &self.namespaces {
            let links = known
                .links
                .iter()
                .filter(|(_, link)| link.peer_netnsid == Some(id));
            through.extend(links.map(|(name, _)| LinkAt::new(ns.clone(), name)));
        }
        for link in &through {
            self.delete_link(link);
        }
    }

    fn rename(&mut self, from: &LinkAt, to: &LinkAt) -> Done {
        if self.ns(&to.ns)?.links.contains_key(&to.name) {
            return Err(Errno::EEXIST);
        }
        let known = self.ns(&from.ns)?;
        let link = known.links.remove(&from.name).ok_or(Errno::ENODEV)?;
        let (own, others): (BTreeMap<_, _>, _) = std::mem::take(&mut known.sysctls)
            .into_iter()
            .partition(|(key, _)| key.interface().as_deref() == Some(&from.name));
        known.sysctls = others;
        known.sysctls.extend(
            own.into_iter()
                .filter_map(|(key, value)| Some((key.at(&to.name)?, value))),
        );
        for port in known.links.values_mut() {
            if port.master.as_ref() == Some(&from.name) {
                port.master = Some(to.name.clone());
            }
        }
        self.ns(&to.ns)?.links.insert(to.name.clone(), link);
        self.move_peer(from, to);
        Ok(())
    }

    fn move_peer(&mut self, from: &LinkAt, to: &LinkAt) {
        if let Some(peer) = self.peers.remove(from) {
            self.peers.insert(peer.clone(), to.clone());
            self.peers.insert(to.clone(), peer);
        }
    }

    fn move_link(&mut self, from: &LinkAt, to: &LinkAt) -> Done {
        if self.link(from)?.bridge.is_some() {
            return Err(Errno::EINVAL);
        }
        if self.ns(&to.ns)?.links.contains_key(&to.name) {
            return Err(Errno::EEXIST);
        }
        let link = self.ns(&from.ns)?.remove_link(&from.name);
        let link = link.ok_or(Errno::ENODEV)?.moved();
        let target = self.ns(&to.ns)?;
        target.links.insert(to.name.clone(), link);
        target.inherit_sysctls(&to.name);
        self.move_peer(from, to);
        Ok(())
    }

    fn set_up(&mut self, at: &LinkAt, up: bool) -> Done {
        self.link(at)?.up = up;
        let known = self.ns(&at.ns)?;
        if up {
            known.reset_ipv6_mtu(&at.name);
        } else {
            known.set_link_down(&at.name);
        }
        Ok(())
    }

    fn set_bridge(&mut self, at: &LinkAt, set: &BridgeSettings) -> Done {
        let bridge = self.link(at)?.bridge.as_mut();
        let bridge = bridge.ok_or(Errno::EOPNOTSUPP)?;
        // The times are taken first (`br_changelink()`, net/bridge/br_netlink.c), and bounded while
        // STP is on.
        let (min, max) = (Centiseconds(200), Centiseconds(3000));
        let is_out = |delay: &Centiseconds| *delay < min || *delay > max;
        if bridge.attrs.stp && set.forward_delay.as_ref().is_some_and(is_out) {
            return Err(Errno::ERANGE);
        }
        bridge.attrs.apply(set);
        if set.stp == Some(true) {
            // `br_stp_start()`, net/bridge/br_stp_if.c.
            bridge.attrs.forward_delay = bridge.attrs.forward_delay.clamp(min, max);
        }
        Ok(())
    }

    fn add_address(&mut self, at: &LinkAt, new: &ObservedAddress, replace: bool) -> Done {
        let LinkAt { ns, name } = at;
        let disabled = |key: &SysctlKey, value: &str| {
            key.is_ipv6()
                && key.setting() == "disable_ipv6"
                && key.is_of(name)
                && sysctl::is_on(value)
        };
        if new.is_ipv6()
            && self
                .ns(ns)?
                .sysctls
                .iter()
                .any(|(key, value)| disabled(key, value))
        {
            // A link without IPv6 has no link-local address.
            let is_link_local = new.protocol == ADDRESS_PROTOCOL_KERNEL_LL;
            return if is_link_local {
                Ok(())
            } else {
                Err(Errno::EACCES)
            };
        }
        let link = self.link(at)?;
        if new.is_ipv6() && link.mtu < MIN_IPV6_MTU {
            return Err(Errno::EINVAL);
        }
        match link.addresses.iter_mut().find(|known| known.excludes(new)) {
            Some(known) if known.is_same(new) => {
                if replace {
                    // The secondary flag, the label and the broadcast address stay
                    // (`inet_rtm_newaddr()`, net/ipv4/devinet.c).
                    *known = ObservedAddress {
                        secondary: known.secondary,
                        label: known.label.clone(),
                        broadcast: known.broadcast,
                        ..new.clone()
                    };
                }
                Ok(())
            }
            Some(_) => Err(Errno::EEXIST),
            None => {
                self.ns(ns)?.add_address(name, new.clone());
                Ok(())
            }
        }
    }

    fn add_route(
        &mut self,
        ns: &Ns,
        route: &Route,
        extras: &RouteExtras,
        protocol: u8,
        replace: bool,
    ) -> Done {
        let known = self.ns(ns)?;
        let hops = route.hops();
        let hops = hops.iter().map(|hop| known.resolve_hop(hop, route.onlink));
        let mut route = route.with_hops(hops.collect::<Result<_, _>>()?);
        if route.kind == RouteType::Local && route.interface.is_none() && !known.loopback {
            return Err(Errno::ENETDOWN);
        }
        let same = known
            .routes
            .iter()
            .position(|other| same_route(other, &route));
        route.metric = Some(route.effective_metric());
        let ipv6 = route.is_ipv6();
        if route.destination.net(ipv6).prefix_len() == 0 {
            route.destination = Destination::Default;
        }
        let made = ObservedRoute {
            route,
            ipv6,
            ours: protocol == ROUTE_PROTOCOL,
            protocol,
            scope: "global".into(),
            foreign_kind: None,
            extras: extras.clone(),
            unsupported: false,
            selective: false,
        };
        match same {
            Some(i) if replace => known.routes[i] = made,
            Some(i) if known.routes[i] == made => {}
            Some(_) => return Err(Errno::EEXIST),
            None => known.routes.push(made),
        }
        Ok(())
    }
}

/// Returns true if the kernel takes a rule for a new one (`rule_exists()`, net/core/fib_rules.c).
fn is_taken_for(known: &ObservedRule, new: &Rule) -> bool {
    let known = &known.rule;
    let same = Rule {
        from: new.from.and(known.from),
        to: new.to.and(known.to),
        not: new.not,
        ..known.clone()
    };
    same == *new
}

/// Returns true if the kernel takes a rule for the one that a request deletes (see `Selectors`).
fn matches_deletion(known: &ObservedRule, request: &Rule) -> bool {
    let known = &known.rule;
    let fields = |rule: &Rule| {
        let (from, to, iif, oif) = (rule.from, rule.to, rule.iif.clone(), rule.oif.clone());
        let mark = rule.fwmark.filter(|mark| *mark != 0);
        let numbers = (mark, rule.fwmask, rule.ipproto, rule.uid_range);
        (from, to, iif, oif, numbers, rule.sport, rule.dport)
    };
    // The fields that the request has, of the known rule.
    let same = Rule {
        from: request.from.and(known.from),
        to: request.to.and(known.to),
        iif: request.iif.as_ref().and(known.iif.clone()),
        oif: request.oif.as_ref().and(known.oif.clone()),
        fwmark: request.fwmark.filter(|mark| *mark != 0).and(known.fwmark),
        fwmask: request.fwmask.and(known.fwmask),
        ipproto: request.ipproto.and(known.ipproto),
        sport: request.sport.and(known.sport),
        dport: request.dport.and(known.dport),
        uid_range: request.uid_range.and(known.uid_range),
        ..request.clone()
    };
    let length = request.suppress_prefixlength;
    (known.family, known.priority, known.table, known.action)
        == (
            request.family,
            request.priority,
            request.table,
            request.action,
        )
        && (length.is_none() || length == known.suppress_prefixlength)
        && Selectors::of(request).is_within(Selectors::of(known))
        && fields(&same) == fields(request)
}

fn same_route(known: &ObservedRoute, route: &Route) -> bool {
    let ipv6 = match route.destination {
        Destination::Net(net) => net.addr().is_ipv6(),
        Destination::Default => route.is_ipv6(),
    };
    known.ipv6 == ipv6
        && known.route.destination.net(ipv6) == route.destination.net(ipv6)
        && known.route.table == route.table
        && known.route.metric.unwrap_or(0)
            == route
                .metric
                .filter(|metric| *metric != 0)
                .unwrap_or(if ipv6 { 1024 } else { 0 })
}
