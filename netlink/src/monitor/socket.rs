//! Netlink monitor: one rtnetlink(7) multicast socket subscribed to every watched namespace.
//!
//! The socket is in a namespace of its own, which has an id for each watched one
//! (`NETLINK_LISTEN_ALL_NSID`, netlink(7)). The kernel walks over every socket with subscriptions
//! for every notification, so that one socket in each namespace would be expensive. This also
//! covers namespaces without an id on the host, leaves out those that are being created, and keeps
//! none alive.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::IoSliceMut,
    os::fd::{AsRawFd, RawFd},
};

use nix::{
    cmsg_space,
    errno::Errno,
    libc::{
        self, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV4_RULE,
        RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_NETCONF, RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV6_RULE,
        RTNLGRP_LINK, RTNLGRP_NEIGH, RTNLGRP_NSID,
    },
    sys::{
        socket::{
            ControlMessageOwned, MsgFlags, NetlinkAddr, RecvMsg, bind, recvmsg, setsockopt, sockopt,
        },
        stat::{fstat, stat},
    },
};
use rtnetlink::sys::{Socket, protocols::NETLINK_ROUTE};

use super::classify::{PortStateCache, split_datagram};
use crate::{
    Error, Ns, NsChange, errno_of,
    netns::{
        file::{NetnsFile, netns_path},
        switch::NamespaceSwitcher,
    },
    nsid,
    socket::{DATAGRAM_BYTES, RouteSocket},
};

/// Multicast groups from the start, as the bit mask of bind(2): links, addresses, namespace ids.
const HOST_GROUPS: u32 = group_bit(RTNLGRP_LINK)
    | group_bit(RTNLGRP_IPV4_IFADDR)
    | group_bit(RTNLGRP_IPV6_IFADDR)
    | group_bit(RTNLGRP_NSID);
/// Groups that are joined with the first named namespace: neighbours, routes, policy rules, and
/// sysctls of `net.ipv4.conf` and `net.ipv6.conf`. The host is not watched for these.
const IN_NETNS_GROUPS: [u32; 7] = [
    RTNLGRP_NEIGH,
    RTNLGRP_IPV4_ROUTE,
    RTNLGRP_IPV6_ROUTE,
    RTNLGRP_IPV4_RULE,
    RTNLGRP_IPV6_RULE,
    RTNLGRP_IPV4_NETCONF,
    RTNLGRP_IPV6_NETCONF,
];
/// Receive buffer, in bytes. What does not fit is found by a comparison.
const RCVBUF_BYTES: usize = 64 << 20;

const fn group_bit(group: u32) -> u32 {
    1 << (group - 1)
}

/// The multicast socket, and its subscriptions.
#[derive(Debug)]
pub(super) struct NetlinkMonitor {
    pub socket: Socket,
    /// Socket in the same namespace, which gives the watched ones their ids.
    requests: RouteSocket,
    /// Next id to give. The kernel finds the lowest ids soonest (`peernet2id()`,
    /// net/core/net_namespace.c): the host, which sends most, is subscribed to first.
    next_id: u32,
    /// True once [`IN_NETNS_GROUPS`] are joined.
    has_netns_groups: bool,
    subscribed: BTreeMap<Ns, Subscription>,
    by_id: BTreeMap<u32, NsidEntry>,
}

#[derive(Debug)]
struct Subscription {
    inode: u64,
    id: u32,
}

/// A watched namespace.
#[derive(Debug, Default)]
struct NsidEntry {
    /// Its names, of which a namespace may have several.
    names: BTreeSet<Ns>,
    ports: PortStateCache,
}

impl NetlinkMonitor {
    /// Opens the socket, in a new namespace.
    pub fn open(switcher: &NamespaceSwitcher) -> Result<Self, Errno> {
        let (socket, requests) =
            switcher.run_in_new(|| Ok::<_, Errno>((open_multicast()?, RouteSocket::open()?)))?;
        Ok(Self {
            socket,
            requests,
            next_id: 0,
            has_netns_groups: false,
            subscribed: BTreeMap::new(),
            by_id: BTreeMap::new(),
        })
    }

    /// Opens another socket with the same subscriptions, which the namespaces that are no longer
    /// watched do not reach: an id cannot be taken back.
    ///
    /// # Errors
    /// EAGAIN if a name stands for another namespace by now, which is still to be reported.
    pub fn reopen(&self, switcher: &NamespaceSwitcher) -> Result<Self, Error> {
        let mut monitor = Self::open(switcher)?;
        for ns in self.subscribed.keys() {
            monitor.subscribe(switcher, ns)?;
        }
        let is_same = self
            .subscribed
            .keys()
            .all(|ns| monitor.inode(ns) == self.inode(ns));
        is_same.then_some(monitor).ok_or(Error::NamespacesChanged)
    }

    /// Returns the number of watched namespaces.
    pub fn count(&self) -> usize {
        self.subscribed.len()
    }

    /// Returns the inode of the namespace that is watched under this name.
    pub fn inode(&self, ns: &Ns) -> Option<u64> {
        self.subscribed.get(ns).map(|known| known.inode)
    }

    /// Subscribes to the namespace that a name stands for now, if any.
    pub fn subscribe(&mut self, switcher: &NamespaceSwitcher, ns: &Ns) -> Result<(), Error> {
        let NetnsFile::Namespace(file) = switcher.open(ns)? else {
            self.unsubscribe(ns);
            return Ok(());
        };
        let inode = fstat(&file)?.st_ino;
        if self.inode(ns) == Some(inode) {
            return Ok(());
        }
        if *ns != Ns::Host {
            self.join_netns_groups()?;
        }
        let id = self.give_id(file.as_raw_fd())?;
        self.unsubscribe(ns);
        self.subscribed
            .insert(ns.clone(), Subscription { inode, id });
        self.by_id.entry(id).or_default().names.insert(ns.clone());
        Ok(())
    }

    /// Joins [`IN_NETNS_GROUPS`] with the first named namespace: a subscription makes changes more
    /// expensive, on the whole machine.
    fn join_netns_groups(&mut self) -> Result<(), Errno> {
        if self.has_netns_groups {
            return Ok(());
        }
        for group in IN_NETNS_GROUPS {
            self.socket
                .add_membership(group)
                .map_err(|error| errno_of(&error))?;
        }
        self.has_netns_groups = true;
        Ok(())
    }

    /// Gives a namespace an id, or returns the one that it has until it dies.
    fn give_id(&mut self, ns: RawFd) -> Result<u32, Error> {
        let id = i32::try_from(self.next_id).map_err(|_| Error::IdsExhausted)?;
        match self.requests.send(nsid::new_nsid(ns, id), 0) {
            // No id is given twice: notifications of a dead namespace are not taken for another's.
            Ok(()) => self.next_id += 1,
            Err(error) if error.errno() == Some(Errno::EEXIST) => {
                return self.requests.netnsid(ns)?.ok_or(error);
            }
            Err(error) => return Err(error),
        }
        Ok(id.cast_unsigned())
    }

    /// Stops watching the namespace that a name stood for.
    pub fn unsubscribe(&mut self, ns: &Ns) {
        let Some(Subscription { id, .. }) = self.subscribed.remove(ns) else {
            return;
        };
        let Some(entry) = self.by_id.get_mut(&id) else {
            return;
        };
        entry.names.remove(ns);
        if entry.names.is_empty() {
            self.by_id.remove(&id);
        }
    }

    /// Finds the names that stand for another namespace by now, or for none.
    pub fn check_names(&mut self, changes: &mut BTreeSet<(Ns, NsChange)>) {
        let moved: Vec<Ns> = self
            .subscribed
            .iter()
            .filter(|(ns, known)| has_moved(ns, known.inode))
            .map(|(ns, _)| ns.clone())
            .collect();
        for ns in moved {
            self.mark_lost(ns, changes);
        }
    }

    /// Reads the notifications up to now.
    pub fn read_events(&mut self, changes: &mut BTreeSet<(Ns, NsChange)>) {
        receive_all(self.socket.as_raw_fd(), |received| match received {
            Ok((Some(id), datagram)) => self.take_datagram(id, datagram, changes),
            // The namespace of the socket reports which of the others are deleted.
            Ok((None, datagram)) => {
                for id in split_datagram(datagram).filter_map(|event| event.deleted_nsid()) {
                    let names = self.by_id.remove(&id).unwrap_or_default().names;
                    names.into_iter().for_each(|ns| self.mark_lost(ns, changes));
                }
            }
            Err(errno) => {
                tracing::debug!(error = errno.desc(), "notifications were lost");
                let all: Vec<Ns> = self.subscribed.keys().cloned().collect();
                // Deletions may be among the lost ones.
                all.into_iter().for_each(|ns| self.mark_lost(ns, changes));
            }
        });
    }

    fn take_datagram(&mut self, id: u32, datagram: &[u8], changes: &mut BTreeSet<(Ns, NsChange)>) {
        // Namespaces that are no longer watched are received while they live.
        let Some(entry) = self.by_id.get_mut(&id) else {
            return;
        };
        for event in split_datagram(datagram) {
            if entry.ports.is_duplicate(&event) {
                continue;
            }
            let Some(change) = event.classify() else {
                continue;
            };
            let watched = entry
                .names
                .iter()
                .filter(|ns| **ns != Ns::Host || change.is_of_links());
            changes.extend(watched.map(|ns| (ns.clone(), change.clone())));
        }
    }

    /// Reports that anything may have changed under a name. The engine looks at it, and subscribes
    /// to it again; the host stays subscribed.
    fn mark_lost(&mut self, ns: Ns, changes: &mut BTreeSet<(Ns, NsChange)>) {
        if ns != Ns::Host {
            self.unsubscribe(&ns);
        }
        changes.insert((ns, NsChange::Everything));
    }
}

/// Returns true if a name stands for another namespace, or for none.
fn has_moved(ns: &Ns, inode: u64) -> bool {
    ns.name().is_some_and(|name| {
        stat(&netns_path(name.as_str())).map_or(0, |found| found.st_ino) != inode
    })
}

/// Opens a multicast socket in the namespace of the calling thread, for that and for those that it
/// has ids for.
pub(super) fn open_multicast() -> Result<Socket, Errno> {
    let socket = Socket::new(NETLINK_ROUTE).map_err(|error| errno_of(&error))?;
    socket
        .set_listen_all_namespaces(true)
        .map_err(|error| errno_of(&error))?;
    // Only root of the initial user namespace may exceed the limit (`net.core.rmem_max`). A smaller
    // buffer works too.
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &RCVBUF_BYTES)
        .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &RCVBUF_BYTES));
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, HOST_GROUPS))?;
    Ok(socket)
}

/// Receives the datagrams up to now, each with the id of its namespace, if that is not the socket's.
fn receive_all(socket: RawFd, mut take: impl FnMut(Result<(Option<u32>, &[u8]), Errno>)) {
    let mut buffer = [0; DATAGRAM_BYTES];
    let mut control = cmsg_space!(libc::c_int);
    loop {
        let mut parts = [IoSliceMut::new(&mut buffer)];
        match recvmsg::<()>(
            socket,
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_DONTWAIT,
        ) {
            Ok(message) => {
                let id = sender_nsid(&message);
                take(Ok((id, message.iovs().next().unwrap_or_default())));
            }
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return,
            // Some were lost (ENOBUFS), or the socket broke.
            Err(errno) => {
                take(Err(errno));
                if errno != Errno::ENOBUFS {
                    return;
                }
            }
        }
    }
}

/// Returns the id of the namespace that sent a datagram (`NETLINK_LISTEN_ALL_NSID`, netlink(7)).
fn sender_nsid(message: &RecvMsg<'_, '_, ()>) -> Option<u32> {
    message.cmsgs().ok()?.find_map(|found| match found {
        ControlMessageOwned::Unknown(found)
            if (found.cmsg_header.cmsg_level, found.cmsg_header.cmsg_type)
                == (libc::SOL_NETLINK, libc::NETLINK_LISTEN_ALL_NSID) =>
        {
            let id = found.data_bytes.get(..4)?.try_into().ok()?;
            Some(u32::from_ne_bytes(id))
        }
        _ => None,
    })
}
