//! Listening: links, addresses, routes, neighbours and settings in every watched namespace, names, mounts.
//!
//! One epoll descriptor over names and sockets is what the engine's thread waits for; mounts are waited for beside it,
//! because polling tells of each change of them once only, and a nested poll would swallow it. A socket that listens keeps its namespace
//! alive, so that a namespace whose name is gone must be let go of.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
            sockopt,
        },
        stat::{fstat, stat},
    },
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    local::Local,
    names::Names,
    worker::{self, Pinned, Worker},
};
use crate::kernel::{Notice, Ns, ROUTE_PROTOCOL_KERNEL, What};

/// The token of the names; namespaces' sockets have the numbers after it.
const NAMES: u64 = 0;
/// Groups (`RTNLGRP_…`, `linux/rtnetlink.h`), each the bit one below its number: links (1), addresses (5, 9).
pub(super) const LINKS: u32 = 1 | 1 << 4 | 1 << 8;
/// Neighbours (3), routes (7, 11), and what sysctls of `net.ipv4.conf` and `net.ipv6.conf` say (24, 25).
const INSIDE: u32 = 1 << 2 | 1 << 6 | 1 << 10 | 1 << 23 | 1 << 24;
/// Room for what was not read yet, in bytes, in a namespace and on the host; what does not fit is looked for.
const ROOM: (usize, usize) = (1 << 20, 64 << 20);

/// Everything that is listened to.
#[derive(Debug)]
pub(super) struct Watch {
    epoll: AsyncFd<Polled>,
    names: Option<Names>,
    /// `/proc/self/mountinfo`, which is only waited for: a mount that goes takes a namespace's name away.
    mounts: AsyncFd<File>,
    ears: BTreeMap<Ns, Ear>,
    by_token: BTreeMap<u64, Ns>,
    next_token: u64,
    /// Heard, and not told yet.
    heard: VecDeque<Notice>,
    changes: BTreeSet<(Ns, What)>,
}

/// What listens in one namespace.
#[derive(Debug)]
struct Ear {
    socket: OwnedFd,
    inode: u64,
    token: u64,
    ports: Ports,
}

/// What bridges said last of their ports, by index.
#[derive(Debug, Default)]
pub(super) struct Ports(BTreeMap<u32, Vec<u8>>);

impl Ports {
    /// Whether a bridge says once more what it said: of each port it does when the forwarding delay is over, also where nothing was
    /// delayed (`br_forward_delay_timer_expired()`, net/bridge/br_stp_timer.c).
    pub fn say_again(&mut self, notice: &Notified<'_>) -> bool {
        if !notice.is_of_bridge() {
            return false;
        }
        let Some(index) = number(notice.body, 4) else { return false };
        let said = (notice.kind == RTM_NEWLINK).then(|| port(notice.body)).flatten();
        match said {
            Some(said) if self.0.get(&index) == Some(&said) => return true,
            Some(said) => self.0.insert(index, said),
            None => self.0.remove(&index),
        };
        false
    }
}

#[derive(Debug)]
struct Polled(Epoll);

impl AsRawFd for Polled {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

impl Watch {
    /// Begins with names and mounts.
    pub fn start() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mounts = File::open("/proc/self/mountinfo")?;
        // SAFETY: a `File` owns its descriptor, never gives it away here, and always tells the same one.
        let mounts = unsafe { AsyncFd::register_with_interest(mounts, Interest::PRIORITY)? };
        // SAFETY: `Polled` owns its descriptor, never gives it away, and always tells the same one.
        let epoll = unsafe { AsyncFd::register(Polled(epoll))? };
        let mut watch = Self {
            epoll,
            names: None,
            mounts,
            ears: BTreeMap::new(),
            by_token: BTreeMap::new(),
            next_token: NAMES + 1,
            heard: VecDeque::new(),
            changes: BTreeSet::new(),
        };
        watch.watch_names();
        Ok(watch)
    }

    fn polled(&self) -> &Epoll {
        &self.epoll.get_ref().0
    }

    fn watch_names(&mut self) {
        let begun = Names::watch().and_then(|names| {
            self.polled().add(&names, EpollEvent::new(EpollFlags::EPOLLIN, NAMES))?;
            Ok(names)
        });
        match begun {
            Ok(names) => self.names = Some(names),
            Err(errno) => tracing::warn!(
                error = errno.desc(),
                "{} cannot be watched: names that come and go there are found only now and then",
                worker::RUN
            ),
        }
    }

    /// Listens in those namespaces that are to be listened to and are there, and no more in the others.
    pub fn change(
        &mut self,
        local: &mut Local,
        other: &Worker,
        namespaces: Vec<(Ns, Option<u64>)>,
    ) -> Result<(), Errno> {
        let mut new = Vec::new();
        for (ns, inode) in namespaces {
            let known = self.ears.get(&ns).map(|ear| ear.inode);
            if inode.is_none() {
                self.leave(&ns);
            } else if inode != known {
                // Most often none is, and there are many.
                new.push((ns, known));
            }
        }
        let heard = other.share(local, new.clone(), |local, (ns, known)| hear_in(local, ns, *known))?;
        for ((ns, _), heard) in new.into_iter().zip(heard) {
            match heard {
                Ok(Heard::AsBefore) => {}
                Ok(Heard::Nothing) => self.leave(&ns),
                Ok(Heard::By(socket, inode)) => self.listen(ns, socket, inode)?,
                Err(errno) => tracing::warn!(
                    %ns,
                    error = errno.desc(),
                    "cannot be watched: changes by others are found only now and then"
                ),
            }
        }
        Ok(())
    }

    fn listen(&mut self, ns: Ns, socket: OwnedFd, inode: u64) -> Result<(), Errno> {
        self.leave(&ns);
        let token = self.next_token;
        self.polled().add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        self.next_token += 1;
        self.by_token.insert(token, ns.clone());
        self.ears.insert(ns, Ear { socket, inode, token, ports: Ports::default() });
        Ok(())
    }

    /// Lets go of a namespace.
    pub fn leave(&mut self, ns: &Ns) {
        if let Some(ear) = self.ears.remove(ns) {
            self.by_token.remove(&ear.token);
        }
    }

    /// Waits for the next notice. Nothing is lost when it is dropped.
    pub async fn next(&mut self) -> Notice {
        loop {
            if let Some(notice) = self.pop() {
                return notice;
            }
            tokio::select! {
                Ok(mut ready) = self.epoll.readable() => {
                    ready.clear_ready();
                    self.read();
                }
                Ok(mut ready) = self.mounts.ready(Interest::PRIORITY) => {
                    ready.clear_ready();
                    self.check_mounts();
                }
                else => std::future::pending().await,
            }
        }
    }

    fn pop(&mut self) -> Option<Notice> {
        self.heard.pop_front().or_else(|| {
            let (ns, what) = self.changes.pop_first()?;
            Some(Notice::Changed(ns, what))
        })
    }

    /// Everything that can be heard now, after changes of one's own: mounts among those are no news.
    pub fn heard(&mut self) -> Vec<Notice> {
        self.read();
        let mut mounts = [PollFd::new(self.mounts.as_fd(), PollFlags::POLLPRI)];
        let _told_once = poll(&mut mounts, PollTimeout::ZERO);
        std::iter::from_fn(|| self.pop()).collect()
    }

    fn read(&mut self) {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let count = match self.polled().wait(&mut events, EpollTimeout::ZERO) {
                Ok(0) => return,
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(errno) => return tracing::error!(error = errno.desc(), "listening"),
            };
            for event in &events[..count] {
                match event.data() {
                    NAMES => self.hear_names(),
                    token => self.hear_namespace(token),
                }
            }
        }
    }

    fn hear_names(&mut self) {
        let Some(names) = &mut self.names else { return };
        if let Err(errno) = names.hear(&mut self.heard) {
            tracing::warn!(error = errno.desc(), "{} is watched anew", worker::RUN);
            self.names = None;
            self.watch_names();
            self.heard.push_back(Notice::NamesLost);
        }
    }

    /// Finds the namespaces whose name pins something else by now, or nothing, and lets go of them.
    fn check_mounts(&mut self) {
        let moved = |(ns, ear): (&Ns, &Ear)| {
            let pins = stat(&worker::path(ns.name()?.as_str())).map_or(0, |found| found.st_ino);
            (pins != ear.inode).then(|| ns.clone())
        };
        let moved: Vec<Ns> = self.ears.iter().filter_map(moved).collect();
        for ns in moved {
            self.leave(&ns);
            self.changes.insert((ns, What::Everything));
        }
    }

    fn hear_namespace(&mut self, token: u64) {
        let Some(ns) = self.by_token.get(&token) else { return };
        let Some(ear) = self.ears.get_mut(ns) else { return };
        let mut buffer = [0; 32 << 10];
        loop {
            match recv(ear.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) | Err(Errno::EAGAIN) => return,
                Ok(length) => {
                    let news = notified(&buffer[..length]).filter(|notice| !ear.ports.say_again(notice));
                    self.changes.extend(news.filter_map(|notice| Some((ns.clone(), notice.about()?))));
                }
                Err(Errno::EINTR) => {}
                // Some were lost (ENOBUFS), or the socket broke.
                Err(errno) => {
                    tracing::debug!(%ns, error = errno.desc(), "notifications were lost");
                    self.changes.insert((ns.clone(), What::Everything));
                    if errno != Errno::ENOBUFS {
                        return;
                    }
                }
            }
        }
    }
}

impl AsFd for Polled {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

/// Who listens in a namespace now.
enum Heard {
    /// There is no such namespace.
    Nothing,
    /// Who did before: it is the same.
    AsBefore,
    /// This socket, in the namespace of this inode.
    By(OwnedFd, u64),
}

/// Opens what listens in a namespace, unless it is the one that is known.
fn hear_in(local: &Local, ns: &Ns, known: Option<u64>) -> Result<Heard, Errno> {
    let Pinned::Namespace(file) = local.pinned(ns)? else { return Ok(Heard::Nothing) };
    let inode = fstat(&file)?.st_ino;
    if known == Some(inode) {
        return Ok(Heard::AsBefore);
    }
    let (groups, room) = if *ns == Ns::Host { (LINKS, ROOM.1) } else { (LINKS | INSIDE, ROOM.0) };
    Ok(Heard::By(local.within(file, || open_ear(groups, room))?, inode))
}

/// Opens a listening socket in the namespace that the calling thread is in.
pub(super) fn open_ear(groups: u32, room: usize) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    // Only the machine's own root may take more than others. A smaller buffer works too: what is lost is looked for.
    let _as_large_as_allowed =
        setsockopt(&fd, sockopt::RcvBufForce, &room).or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &room));
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(fd)
}

/// A message that tells of a change: its type, and what follows its header (`linux/netlink.h`, `linux/rtnetlink.h`).
pub(super) struct Notified<'n> {
    kind: u16,
    body: &'n [u8],
}

/// The messages of one datagram.
pub(super) fn notified(mut rest: &[u8]) -> impl Iterator<Item = Notified<'_>> {
    std::iter::from_fn(move || {
        let length = number(rest, 0)? as usize;
        let kind = u16::from_ne_bytes(rest.get(4..6)?.try_into().ok()?);
        let body = rest.get(16..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Notified { kind, body })
    })
}

impl Notified<'_> {
    /// Whether it is what a bridge says of a port.
    pub fn is_of_bridge(&self) -> bool {
        matches!(self.kind, RTM_NEWLINK | RTM_DELLINK) && self.body.first() == Some(&BRIDGE)
    }

    /// What it is about; none if it is of no interest.
    pub fn about(&self) -> Option<What> {
        let Self { kind, body } = *self;
        match kind {
            // `struct ifinfomsg`, then attributes.
            RTM_NEWLINK | RTM_DELLINK => Some(What::Link {
                index: number(body, 4)?,
                name: attributes(body.get(16..)?, |kind| kind == IFLA_IFNAME).next().map(text).unwrap_or_default(),
                // `ifi_change` of a link that comes, or goes up or down; a carrier, which comes and goes by itself, is none.
                set: kind == RTM_DELLINK || number(body, 12)? != 0,
            }),
            // RTM_NEWADDR, RTM_DELADDR: `struct ifaddrmsg`; link-local ones of IPv6 the kernel makes by itself.
            20 | 21 => {
                let by_itself = kind == 20 && (*body.first()?, *body.get(3)?) == (INET6, RT_SCOPE_LINK);
                (!by_itself).then_some(What::Address(number(body, 4)?))
            }
            // RTM_NEWROUTE, RTM_DELROUTE: `struct rtmsg`; the kernel's own come and go with addresses.
            24 | 25 => (!matches!(*body.get(5)?, ROUTE_PROTOCOL_KERNEL | RTPROT_RA)).then_some(What::Routes),
            // RTM_NEWNEIGH, RTM_DELNEIGH: `struct ndmsg`; of those that the kernel learns by itself, and forgets, there are many. One
            // that somebody deletes has failed by then (`neigh_delete()`, net/core/neighbour.c).
            28 | 29 => {
                let (family, state) = (*body.first()?, u16::from_ne_bytes(body.get(8..10)?.try_into().ok()?));
                let of_ip = matches!(family, INET | INET6);
                let of_interest = if kind == 28 { NUD_PERMANENT } else { NUD_PERMANENT | NUD_FAILED };
                (of_ip && state & of_interest != 0).then_some(What::Neighbours)
            }
            // RTM_NEWNETCONF, RTM_DELNETCONF.
            80 | 81 => Some(What::Sysctls),
            _ => None,
        }
    }
}

/// What a bridge says of a port, but for what changes by itself, such as timers (`br_port_fill_attrs()`, net/bridge/br_netlink.c):
/// IFLA_BRPORT_STATE to IFLA_BRPORT_LEARNING, and IFLA_BRPORT_ISOLATED (`linux/if_link.h`).
fn port(body: &[u8]) -> Option<Vec<u8>> {
    let settings = attributes(body.get(16..)?, |kind| kind == IFLA_PROTINFO).next()?;
    Some(attributes(settings, |kind| matches!(kind, 1..=8 | 33)).flatten().copied().collect())
}

/// `linux/rtnetlink.h`, `linux/if_link.h`.
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const IFLA_IFNAME: u16 = 3;
const IFLA_PROTINFO: u16 = 12;
/// `NLA_TYPE_MASK`: without the flags that say how a value is written (`linux/netlink.h`).
const TYPE: u16 = 0x3fff;

/// `linux/neighbour.h`.
const NUD_FAILED: u16 = 0x20;
const NUD_PERMANENT: u16 = 0x80;

/// `linux/rtnetlink.h`.
const RT_SCOPE_LINK: u8 = 253;
const RTPROT_RA: u8 = 9;
/// `linux/socket.h`.
const INET: u8 = AddressFamily::Inet as u8;
const INET6: u8 = AddressFamily::Inet6 as u8;
const BRIDGE: u8 = AddressFamily::Bridge as u8;

/// The number at this place.
fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The values of those netlink attributes that are wanted.
fn attributes(mut rest: &[u8], wanted: impl Fn(u16) -> bool) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        loop {
            let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
            let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & TYPE;
            let value = rest.get(4..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            if wanted(kind) {
                return Some(value);
            }
        }
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
}
