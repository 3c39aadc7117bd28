//! Reads that only live looks need.

use std::{
    collections::BTreeMap,
    fs::File,
    os::fd::{AsRawFd, OwnedFd},
};

use netnsd_api::{FdbEntry, LiveNeighbour, NamespaceObserved};
use nix::errno::Errno;
use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        link::{InfoBridge, InfoData, LinkAttribute, LinkInfo},
        neighbour::NeighbourState,
    },
};

use super::{
    channel::Channel,
    listed,
    local::Local,
    message, observe,
    worker::{self, Pinned},
};
use crate::{
    kernel::{Ns, ObservedLink, OpError, look, look::LookError},
    links::BridgeSettings,
};

impl Local {
    /// The connection into a namespace that may not be there.
    fn look_into(&mut self, ns: &Ns) -> Result<&Channel, LookError> {
        let open = self.channel(ns).map_err(OpError::from)?;
        open.map(|open| &open.channel)
            .ok_or(LookError::NoSuchNamespace)
    }

    /// Every link of a namespace with its addresses, `lo` among them.
    pub(in crate::kernel) fn every_link(
        &mut self,
        ns: &Ns,
    ) -> Result<BTreeMap<String, ObservedLink>, LookError> {
        Ok(observe::all_links(
            self.look_into(ns)?,
            message::get_links(),
        )?)
    }

    fn names_of(&mut self, ns: &Ns) -> Result<BTreeMap<u32, String>, OpError> {
        let links = self
            .reach(ns)?
            .channel
            .dump(message::get_links_briefly(), observe::link_of)?;
        Ok(links
            .into_iter()
            .map(|parsed| (parsed.link.index, parsed.name))
            .collect())
    }

    /// Every ARP and NDP entry, as `ip neigh` shows them.
    pub(in crate::kernel) fn all_neighbours(
        &mut self,
        ns: &Ns,
    ) -> Result<Vec<LiveNeighbour>, LookError> {
        self.look_into(ns)?;
        let names = self.names_of(ns)?;
        let channel = &self.reach(ns)?.channel;
        let mut found = Vec::new();
        for seen in observe::all_neighbours(channel)? {
            let (Some(address), Some(interface)) = (seen.address, names.get(&seen.index)) else {
                continue;
            };
            if seen.state == NeighbourState::Noarp {
                continue;
            }
            found.push(LiveNeighbour {
                address: address.to_string(),
                mac: seen.mac.map(|mac| netnsd_api::Mac(mac).to_string()),
                interface: interface.clone(),
                state: format!("{:?}", seen.state).to_lowercase(),
            });
        }
        Ok(found)
    }

    /// A bridge's forwarding table, as `brctl showmacs` shows it.
    pub(in crate::kernel) fn fdb(
        &mut self,
        ns: &Ns,
        bridge: &str,
    ) -> Result<Vec<FdbEntry>, LookError> {
        self.look_into(ns)?;
        let names = self.names_of(ns)?;
        let master = names
            .iter()
            .find(|(_, name)| *name == bridge)
            .map(|(index, _)| *index)
            .ok_or(LookError::NoSuchNamespace)?;
        let channel = &self.reach(ns)?.channel;
        let mut found: BTreeMap<(String, String), FdbEntry> = BTreeMap::new();
        let question = message::get_neighbours(AddressFamily::Bridge, Some(master));
        for seen in channel.dump(question, observe::neighbour_of)? {
            let (Some(mac), Some(interface)) = (seen.mac, names.get(&seen.index)) else {
                continue;
            };
            // Multicast entries are no stations; those of single VLANs repeat the plain ones.
            if mac[0] & 1 == 1 || seen.vlan {
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

    /// Every namespace that has a name.
    pub(in crate::kernel) fn namespaces(
        &mut self,
    ) -> Result<Vec<(String, NamespaceObserved)>, OpError> {
        let mut found = Vec::new();
        for name in listed() {
            let entered = match worker::pinned(&name) {
                Ok(Pinned::Namespace(fd)) => self.open(fd),
                // It is in the way of its name all the same.
                Ok(Pinned::Stale(_)) => Err(Errno::EINVAL),
                _ => continue,
            };
            let seen = match entered {
                Ok(open) => observe::summary(self, &name, open)?,
                // Not a network namespace, or one that is closed to us (`setns(2)`).
                Err(Errno::EINVAL | Errno::EPERM | Errno::EACCES) => {
                    let path = worker::path(&name).display().to_string();
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

    /// The namespaces that one namespace has ids for.
    pub(in crate::kernel) fn neighbourhood(
        &mut self,
        from: &Ns,
    ) -> Result<look::Neighbourhood, OpError> {
        let named = listed()
            .into_iter()
            .filter_map(|name| match worker::pinned(&name) {
                Ok(Pinned::Namespace(fd)) => Some((Some(name), fd)),
                _ => None,
            });
        let host = File::open(worker::HERE)
            .ok()
            .map(|file| (None, OwnedFd::from(file)));
        let mut found = BTreeMap::new();
        for (name, fd) in named.chain(host) {
            // One of another kind has no id (`get_net_ns_by_fd()`, net/core/net_namespace.c).
            let Ok(Some(id)) = self.netnsid(from, fd.as_raw_fd()) else {
                continue;
            };
            let open = self.open(fd)?;
            let links = observe::all_links(&open.channel, message::get_links_briefly())?;
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

    /// Returns true if bridges filter VLANs; tries it in a namespace that has no name.
    pub(in crate::kernel) fn vlan_filtering(&self) -> bool {
        let answer = self.away(|| -> Result<Vec<RouteNetlinkMessage>, OpError> {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
            let set = BridgeSettings {
                vlan_filtering: Some(true),
                ..BridgeSettings::default()
            };
            let channel = Channel::open()?;
            channel.change(
                message::new_bridge("probe", None),
                NLM_F_CREATE | NLM_F_EXCL,
            )?;
            channel.changes(
                message::set_bridge("probe", &set)
                    .map(|message| (message, 0))
                    .into_iter()
                    .collect(),
            )?;
            channel.get(message::get_link(Some("probe"), 0))
        });
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
}
