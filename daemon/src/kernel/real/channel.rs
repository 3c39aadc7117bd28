//! A netlink connection into one namespace.
//!
//! The kernel does what rtnetlink is asked for while the question is being sent
//! (`netlink_unicast_kernel()`, `net/netlink/af_netlink.c`): once it is sent the answer is there,
//! and what is not there was lost. So nothing is awaited.

use std::{
    cell::Cell,
    ffi::CStr,
    os::fd::{AsRawFd, RawFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{MsgFlags, NetlinkAddr, getsockopt, recv, sendto, sockopt::GetStruct},
};
use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_MULTIPART, NLM_F_REQUEST,
        NetlinkMessage, NetlinkPayload,
    },
    packet_route::{RouteNetlinkMessage, nsid::NsidAttribute},
    sys::{Socket, protocols::NETLINK_ROUTE},
};

use super::{
    super::{OpError, Outcome},
    message,
    worker::errno,
};

/// `NLM_F_DUMP_INTR`: the dump is not consistent, since something changed meanwhile
/// (`linux/netlink.h`).
const NLM_F_DUMP_INTR: u16 = 0x10;
/// `NLM_F_CAPPED`: the request is not repeated in the error, apart from its header.
const NLM_F_CAPPED: u16 = 0x100;
/// `NLM_F_ACK_TLVS`: the extended ack follows.
const NLM_F_ACK_TLVS: u16 = 0x200;
/// The most bytes that come at once: a dump is given in pieces of no more (`netlink_recvmsg()`).
pub(super) const ROOM: usize = 32 << 10;
/// The length of a message's header (`struct nlmsghdr`).
const HEADER: usize = 16;

/// `SO_NETNS_COOKIE`, asm-generic/socket.h.
const SO_NETNS_COOKIE: libc::c_int = 71;

#[derive(Clone, Copy)]
struct NetnsCookie;

nix::getsockopt_impl!(
    NetnsCookie,
    libc::SOL_SOCKET,
    SO_NETNS_COOKIE,
    u64,
    GetStruct<u64>
);

/// How long a question is repeated whose answer was interrupted, or lost in a full buffer; and how
/// long the pauses before are, at first and at most. What the kernel finishes by itself, such as
/// hundreds of new IPv6 addresses (`addrconf_dad_work()`, net/ipv6/addrconf.c), interrupts many
/// dumps one after the other.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSES: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(20));

/// Asks again until the answer is whole.
fn repeat<T>(mut ask: impl FnMut() -> Result<T, OpError>) -> Result<T, OpError> {
    let start = Instant::now();
    let mut pause = PAUSES.0;
    loop {
        match ask() {
            Err(error)
                if matches!(error.errno, Errno::EAGAIN | Errno::ENOBUFS)
                    && start.elapsed() < PATIENCE =>
            {
                std::thread::sleep(pause);
                pause = (pause * 2).min(PAUSES.1);
            }
            other => return other,
        }
    }
}

/// A connection. The socket belongs for ever to the namespace in which it was opened, and holds it.
#[derive(Debug)]
pub(super) struct Channel {
    socket: Socket,
    /// The number of the last request: answers to earlier ones, which were given up, are passed
    /// over.
    sequence: Cell<u32>,
}

impl Channel {
    /// Opens a connection into the namespace that the calling thread is in.
    pub fn open() -> Result<Self, Errno> {
        let socket = Socket::new(NETLINK_ROUTE).map_err(|error| errno(&error))?;
        socket.set_ext_ack(true).map_err(|error| errno(&error))?;
        socket
            .set_netlink_get_strict_chk(true)
            .map_err(|error| errno(&error))?;
        Ok(Self {
            socket,
            sequence: Cell::new(0),
        })
    }

    /// Makes one change.
    pub fn change(&self, message: RouteNetlinkMessage, flags: u16) -> Outcome {
        self.changes(vec![(message, flags)])
    }

    /// Makes changes sent in one datagram: the kernel does all of them or the process was never
    /// there.
    pub fn changes(&self, messages: Vec<(RouteNetlinkMessage, u16)>) -> Outcome {
        let messages = messages
            .into_iter()
            .map(|(message, flags)| (message, NLM_F_ACK | flags))
            .collect();
        self.ask(messages, |_| None::<()>).map(drop)
    }

    /// Makes a link with its owner tag, in one datagram: it is never there without. The kernel
    /// takes each message by itself, and the tag goes by the name: where that is another link's by
    /// now, the tag is taken off it again.
    pub fn create(&self, link: RouteNetlinkMessage, name: &str, owner_tag: &str) -> Outcome {
        let made = (link, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL);
        let tagged = (message::add_owner_tag(name, owner_tag), NLM_F_ACK);
        let refused = self.exchange(vec![made, tagged], |_| None::<()>)?.refused;
        let [link, tag] = [1, 2].map(|place| {
            refused
                .iter()
                .find(|(of, _)| *of == place)
                .map(|(_, error)| error.clone())
        });
        match (link, tag) {
            (None, None) => refused
                .into_iter()
                .next()
                .map_or(Ok(()), |(_, error)| Err(error)),
            (Some(error), Some(_)) => Err(error),
            (Some(error), None) => {
                self.change(message::delete_owner_tag(name, owner_tag), 0)?;
                Err(error)
            }
            // Another link bears the tag.
            (None, Some(error)) => {
                self.change(message::delete_link_named(name), 0)?;
                Err(error)
            }
        }
    }

    /// Asks for one thing.
    pub fn get(&self, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, OpError> {
        repeat(|| self.ask(vec![(message.clone(), 0)], Some))
    }

    /// Asks for everything of a sort; what `take` makes of each. Whole messages are large, and may
    /// be many: none is kept.
    pub fn dump<T>(
        &self,
        message: RouteNetlinkMessage,
        mut take: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, OpError> {
        repeat(|| self.ask(vec![(message.clone(), NLM_F_DUMP)], &mut take))
    }

    /// The id of a namespace as seen from this one.
    pub fn netnsid(&self, ns: RawFd) -> Result<Option<u32>, OpError> {
        let answers = self.get(message::get_nsid(NsidAttribute::Fd(ns as u32)))?;
        let id = answers.iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewNsId(nsid) => {
                nsid.attributes
                    .iter()
                    .find_map(|attribute| match attribute {
                        NsidAttribute::Id(id) => u32::try_from(*id).ok(),
                        _ => None,
                    })
            }
            _ => None,
        });
        Ok(id)
    }

    /// Returns the cookie of the namespace that it leads into; 0 where the kernel has none (before
    /// Linux 5.14).
    pub fn netns_cookie(&self) -> u64 {
        getsockopt(&self.socket, NetnsCookie).unwrap_or(0)
    }

    /// Sends requests as one datagram. What was taken of what came back; none of it if the kernel
    /// refused.
    fn ask<T>(
        &self,
        messages: Vec<(RouteNetlinkMessage, u16)>,
        take: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, OpError> {
        let Answers { found, refused } = self.exchange(messages, take)?;
        refused
            .into_iter()
            .next()
            .map_or(Ok(found), |(_, error)| Err(error))
    }

    /// Sends requests as one datagram, and takes what comes back.
    fn exchange<T>(
        &self,
        messages: Vec<(RouteNetlinkMessage, u16)>,
        mut take: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Answers<T>, OpError> {
        let before = self.sequence.get();
        let mut unanswered = messages.len();
        if unanswered == 0 {
            return Ok(Answers::new());
        }
        let mut bytes = Vec::new();
        for (message, flags) in messages {
            let mut message = NetlinkMessage::from(message);
            message.header.flags = NLM_F_REQUEST | flags;
            message.header.sequence_number = self.sequence.get().wrapping_add(1);
            self.sequence.set(message.header.sequence_number);
            message.finalize();
            let start = bytes.len();
            bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut bytes[start..]);
        }
        sendto(
            self.socket.as_raw_fd(),
            &bytes,
            &NetlinkAddr::new(0, 0),
            MsgFlags::empty(),
        )?;
        let mut answers = Answers::new();
        let mut buffer = [0; ROOM];
        while unanswered > 0 {
            let length = match recv(
                self.socket.as_raw_fd(),
                &mut buffer,
                MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC,
            ) {
                Ok(length) if length <= ROOM => length,
                Ok(_) => return Err(Errno::EMSGSIZE.into()),
                Err(Errno::EINTR) => continue,
                // Some found no room; those that did are still read.
                Err(Errno::ENOBUFS) => {
                    answers.refused.push((0, Errno::ENOBUFS.into()));
                    continue;
                }
                Err(Errno::EAGAIN) => {
                    let refused = answers.refused.into_iter().next();
                    return Err(refused.map_or(Errno::ENOBUFS.into(), |(_, error)| error));
                }
                Err(errno) => return Err(errno.into()),
            };
            unanswered = unanswered.saturating_sub(answers.take_all(
                &buffer[..length],
                before,
                &mut take,
            )?);
        }
        Ok(answers)
    }
}

/// What came back until now.
pub(super) struct Answers<T> {
    found: Vec<T>,
    /// By the place of the request in its datagram, from 1; 0 for what was lost.
    refused: Vec<(u32, OpError)>,
}

impl<T> Answers<T> {
    pub fn new() -> Self {
        Self {
            found: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// Takes in what came at once; how many requests, of those after number `before`, it brings to
    /// their end.
    pub fn take_all(
        &mut self,
        mut rest: &[u8],
        before: u32,
        take: &mut impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<usize, OpError> {
        let mut ended = 0;
        while rest.len() >= HEADER {
            let message = NetlinkMessage::deserialize(rest).map_err(|_| Errno::EBADMSG)?;
            rest = rest
                .get((message.header.length as usize).next_multiple_of(4)..)
                .unwrap_or_default();
            let place = message.header.sequence_number.wrapping_sub(before);
            if place.cast_signed() > 0 && self.take(message, place, take) {
                ended += 1;
            }
        }
        Ok(ended)
    }

    /// Takes a message in; whether it is the last one that answers its request.
    fn take(
        &mut self,
        message: NetlinkMessage<RouteNetlinkMessage>,
        place: u32,
        take: &mut impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> bool {
        let flags = message.header.flags;
        let mut refuse =
            |errno: Errno, message| self.refused.push((place, OpError { errno, message }));
        if flags & NLM_F_DUMP_INTR != 0 {
            refuse(Errno::EAGAIN, None);
        }
        match message.payload {
            NetlinkPayload::InnerMessage(inner) => {
                self.found.extend(take(inner));
                flags & NLM_F_MULTIPART == 0
            }
            NetlinkPayload::Error(error) => {
                if let Some(code) = error.code {
                    refuse(
                        Errno::from_raw(code.get().abs()),
                        extended_ack(flags, &error.header),
                    );
                }
                true
            }
            NetlinkPayload::Done(done) => {
                if done.code < 0 {
                    refuse(Errno::from_raw(-done.code), None);
                }
                true
            }
            _ => false,
        }
    }
}

/// The kernel's own words (`NLMSGERR_ATTR_MSG`, `linux/netlink.h`), which follow the request that
/// the error repeats.
fn extended_ack(flags: u16, payload: &[u8]) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let length = u32::from_ne_bytes(payload.get(..4)?.try_into().ok()?) as usize;
    let request = if flags & NLM_F_CAPPED != 0 {
        16
    } else {
        length
    };
    let mut rest = payload.get(request.next_multiple_of(4)..)?;
    while rest.len() >= 4 {
        let size = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let kind = u16::from_ne_bytes([rest[2], rest[3]]);
        let value = rest.get(4..size)?;
        if kind == 1 {
            return Some(
                CStr::from_bytes_until_nul(value)
                    .ok()?
                    .to_string_lossy()
                    .into_owned(),
            );
        }
        rest = rest.get(size.next_multiple_of(4)..)?;
    }
    None
}
