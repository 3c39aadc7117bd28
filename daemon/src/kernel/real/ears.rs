//! What listens to all namespaces that are watched: one socket.
//!
//! It is in a namespace of its own, which has an id for each of them (`NETLINK_LISTEN_ALL_NSID`,
//! netlink(7)). The kernel walks past every socket that listens with every notice, so that one in
//! each namespace would be dear. Like this also those without an id on the host are heard, those in
//! the making are not, and none is kept alive.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::IoSliceMut,
    os::fd::{AsRawFd, RawFd},
};

use nix::{
    cmsg_space,
    errno::Errno,
    libc,
    sched::{CloneFlags, unshare},
    sys::{
        socket::{
            ControlMessageOwned, MsgFlags, NetlinkAddr, RecvMsg, bind, recvmsg, setsockopt, sockopt,
        },
        stat::{fstat, stat},
    },
};
use rtnetlink::sys::{Socket, protocols::NETLINK_ROUTE};

use super::{
    channel::{self, Channel},
    local::Local,
    message,
    news::{Ports, notified},
    worker::{self, Pinned},
};
use crate::kernel::{Ns, NsChange, OpError};

/// Groups (`RTNLGRP_…`, `linux/rtnetlink.h`), each the bit one below its number: links (1),
/// addresses (5, 9), ids of namespaces (28).
const GROUPS: u32 = 1 | 1 << 4 | 1 << 8 | 1 << 27;
/// The numbers of those that nothing on the host is asked for: neighbours, routes, what sysctls of
/// `net.ipv4.conf` and `net.ipv6.conf` say.
const INSIDE: [u32; 5] = [3, 7, 11, 24, 25];
/// Room for what was not read yet, in bytes; what does not fit is looked for.
const ROOM: usize = 64 << 20;

/// What listens, and to what.
#[derive(Debug)]
pub(super) struct Ears {
    pub socket: Socket,
    /// Into the namespace that it is in, which gives the others their ids.
    channel: Channel,
    /// The kernel finds the lowest ids soonest (`peernet2id()`, net/core/net_namespace.c): the
    /// host, which has most to say, is the first that is listened to.
    next_id: u32,
    /// Whether it listens to [`INSIDE`].
    inside: bool,
    /// What is listened to: its inode, and its id.
    known: BTreeMap<Ns, (u64, u32)>,
    by_id: BTreeMap<u32, Behind>,
}

/// What is behind an id.
#[derive(Debug, Default)]
struct Behind {
    /// A namespace may have several.
    names: BTreeSet<Ns>,
    ports: Ports,
}

impl Ears {
    /// Opens the socket, in a new namespace.
    pub fn open(local: &Local) -> Result<Self, Errno> {
        let (socket, channel) = local.away(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok::<_, Errno>((listen()?, Channel::open()?))
        })?;
        Ok(Self {
            socket,
            channel,
            next_id: 0,
            inside: false,
            known: BTreeMap::new(),
            by_id: BTreeMap::new(),
        })
    }

    /// What listens to the same, but not to what was let go of: an id cannot be taken back.
    pub fn again(&self, local: &Local) -> Result<Self, Errno> {
        let mut ears = Self::open(local)?;
        for ns in self.known.keys() {
            ears.attend(local, ns)?;
        }
        // What changed meanwhile is still to be told.
        let same = self.known.keys().all(|ns| ears.inode(ns) == self.inode(ns));
        same.then_some(ears).ok_or(Errno::EAGAIN)
    }

    /// How many namespaces are listened to.
    pub fn count(&self) -> usize {
        self.known.len()
    }

    /// The inode of what is listened to under this name.
    pub fn inode(&self, ns: &Ns) -> Option<u64> {
        self.known.get(ns).map(|(inode, _)| *inode)
    }

    /// Listens to what a name means now, if that is anything.
    pub fn attend(&mut self, local: &Local, ns: &Ns) -> Result<(), Errno> {
        let Pinned::Namespace(file) = local.pinned(ns)? else {
            self.leave(ns);
            return Ok(());
        };
        let inode = fstat(&file)?.st_ino;
        if self.inode(ns) == Some(inode) {
            return Ok(());
        }
        // Only now: what somebody listens to costs whoever changes it, on the whole machine.
        if *ns != Ns::Host && !self.inside {
            for group in INSIDE {
                self.socket
                    .add_membership(group)
                    .map_err(|error| worker::errno(&error))?;
            }
            self.inside = true;
        }
        let id = self.id_of(file.as_raw_fd()).map_err(|error| error.errno)?;
        self.leave(ns);
        self.known.insert(ns.clone(), (inode, id));
        self.by_id.entry(id).or_default().names.insert(ns.clone());
        Ok(())
    }

    /// The id of a namespace: until it dies it has the one that it was given first.
    fn id_of(&mut self, ns: RawFd) -> Result<u32, OpError> {
        let id = i32::try_from(self.next_id).map_err(|_| Errno::EOVERFLOW)?;
        match self.channel.change(message::new_nsid(ns, id), 0) {
            // None is given twice: what was said of one that is gone is not taken for another's.
            Ok(()) => self.next_id += 1,
            Err(error) if error.errno == Errno::EEXIST => {
                return self.channel.netnsid(ns)?.ok_or(error);
            }
            Err(error) => return Err(error),
        }
        Ok(id.cast_unsigned())
    }

    /// Listens no more to what a name meant.
    pub fn leave(&mut self, ns: &Ns) {
        let Some((_, id)) = self.known.remove(ns) else {
            return;
        };
        let Some(behind) = self.by_id.get_mut(&id) else {
            return;
        };
        behind.names.remove(ns);
        if behind.names.is_empty() {
            self.by_id.remove(&id);
        }
    }

    /// Finds the names that mean something else by now, or nothing.
    pub fn check_names(&mut self, changes: &mut BTreeSet<(Ns, NsChange)>) {
        let moved = |(ns, (inode, _)): (&Ns, &(u64, u32))| {
            let pins = stat(&worker::path(ns.name()?.as_str())).map_or(0, |found| found.st_ino);
            (pins != *inode).then(|| ns.clone())
        };
        let moved: Vec<Ns> = self.known.iter().filter_map(moved).collect();
        moved.into_iter().for_each(|ns| self.lose(ns, changes));
    }

    /// Takes in what was said.
    pub fn hear(&mut self, changes: &mut BTreeSet<(Ns, NsChange)>) {
        hear(self.socket.as_raw_fd(), |heard| match heard {
            Ok((Some(id), said)) => self.take(id, said, changes),
            // The namespace of the socket says which of the others are gone.
            Ok((None, said)) => {
                for id in notified(said).filter_map(|notice| notice.id_gone()) {
                    let names = self.by_id.remove(&id).unwrap_or_default().names;
                    names.into_iter().for_each(|ns| self.lose(ns, changes));
                }
            }
            Err(errno) => {
                tracing::debug!(error = errno.desc(), "notifications were lost");
                let all: Vec<Ns> = self.known.keys().cloned().collect();
                // Perhaps also which of them are gone.
                all.into_iter().for_each(|ns| self.lose(ns, changes));
            }
        });
    }

    fn take(&mut self, id: u32, said: &[u8], changes: &mut BTreeSet<(Ns, NsChange)>) {
        // Also namespaces that were let go of are heard while they live.
        let Some(behind) = self.by_id.get_mut(&id) else {
            return;
        };
        let news = notified(said).filter(|notice| !behind.ports.say_again(notice));
        for what in news.filter_map(|notice| notice.about()) {
            let names = behind
                .names
                .iter()
                .filter(|ns| **ns != Ns::Host || what.is_of_links());
            changes.extend(names.map(|ns| (ns.clone(), what.clone())));
        }
    }

    /// What a name meant may be gone: it is looked for, and listened to anew. The host stays.
    fn lose(&mut self, ns: Ns, changes: &mut BTreeSet<(Ns, NsChange)>) {
        if ns != Ns::Host {
            self.leave(&ns);
        }
        changes.insert((ns, NsChange::Everything));
    }
}

/// Opens a socket that listens in the namespace that the calling thread is in, and in those that
/// this one knows.
pub(super) fn listen() -> Result<Socket, Errno> {
    let socket = Socket::new(NETLINK_ROUTE).map_err(|error| worker::errno(&error))?;
    socket
        .set_listen_all_namespaces(true)
        .map_err(|error| worker::errno(&error))?;
    // Only the machine's own root may take more than others. A smaller buffer works too: what is
    // lost is looked for.
    let _as_large_as_allowed = setsockopt(&socket, sockopt::RcvBufForce, &ROOM)
        .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &ROOM));
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
    Ok(socket)
}

/// Reads what came, each with the id of the namespace that it came from, if that is another one.
fn hear(socket: RawFd, mut take: impl FnMut(Result<(Option<u32>, &[u8]), Errno>)) {
    let mut buffer = [0; channel::ROOM];
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
                let id = id_of(&message);
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

/// `NETLINK_LISTEN_ALL_NSID` of a message.
fn id_of(message: &RecvMsg<'_, '_, ()>) -> Option<u32> {
    message.cmsgs().ok()?.find_map(|found| match found {
        ControlMessageOwned::Unknown(found)
            if (found.cmsg_header.cmsg_level, found.cmsg_header.cmsg_type)
                == (libc::SOL_NETLINK, libc::NETLINK_LISTEN_ALL_NSID) =>
        {
            Some(u32::from_ne_bytes(
                found.data_bytes.get(..4)?.try_into().ok()?,
            ))
        }
        _ => None,
    })
}
