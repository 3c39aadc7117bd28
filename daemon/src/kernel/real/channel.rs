//! A netlink connection into one namespace.
//!
//! The kernel does what rtnetlink is asked for while the question is being sent (`netlink_unicast_kernel()`,
//! `net/netlink/af_netlink.c`): once it is sent the answer is there, and what is not there was lost. So nothing is awaited.

use std::{
    cell::Cell,
    ffi::CStr,
    os::fd::{AsRawFd, RawFd},
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, NetlinkAddr, recv, sendto},
};
use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_MULTIPART, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{RouteNetlinkMessage, nsid::NsidAttribute},
    sys::{Socket, protocols::NETLINK_ROUTE},
};

use super::{
    super::{OpError, Outcome},
    message,
    worker::errno,
};

/// `NLM_F_DUMP_INTR`: the dump is not consistent, since something changed meanwhile (`linux/netlink.h`).
const NLM_F_DUMP_INTR: u16 = 0x10;
/// `NLM_F_CAPPED`: the request is not repeated in the error, apart from its header.
const NLM_F_CAPPED: u16 = 0x100;
/// `NLM_F_ACK_TLVS`: the extended ack follows.
const NLM_F_ACK_TLVS: u16 = 0x200;
/// The most bytes that come at once: a dump is given in pieces of no more (`netlink_recvmsg()`).
pub(super) const ROOM: usize = 32 << 10;
/// The length of a message's header (`struct nlmsghdr`).
const HEADER: usize = 16;

/// A connection. The socket belongs for ever to the namespace in which it was opened, and holds it.
#[derive(Debug)]
pub(super) struct Channel {
    socket: Socket,
    /// The number of the last request: answers to earlier ones, which were given up, are passed over.
    sequence: Cell<u32>,
}

impl Channel {
    /// Opens a connection into the namespace that the calling thread is in.
    pub fn open() -> Result<Self, Errno> {
        let socket = Socket::new(NETLINK_ROUTE).map_err(|error| errno(&error))?;
        socket.set_ext_ack(true).map_err(|error| errno(&error))?;
        socket.set_netlink_get_strict_chk(true).map_err(|error| errno(&error))?;
        Ok(Self { socket, sequence: Cell::new(0) })
    }

    /// Makes one change.
    pub fn change(&self, message: RouteNetlinkMessage, flags: u16) -> Outcome {
        self.changes(vec![(message, flags)])
    }

    /// Makes changes sent in one datagram: the kernel does all of them or the process was never there.
    pub fn changes(&self, messages: Vec<(RouteNetlinkMessage, u16)>) -> Outcome {
        let messages = messages.into_iter().map(|(message, flags)| (message, NLM_F_ACK | flags)).collect();
        self.ask(messages, |_| None::<()>).map(drop)
    }

    /// Asks for one thing.
    pub fn get(&self, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, OpError> {
        self.ask(vec![(message, 0)], Some)
    }

    /// Asks for everything of a sort; what `take` makes of each. Whole messages are large, and may be many: none is kept.
    pub fn dump<T>(
        &self,
        message: RouteNetlinkMessage,
        take: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, OpError> {
        self.ask(vec![(message, NLM_F_DUMP)], take)
    }

    /// The id of a namespace as seen from this one.
    pub fn netnsid(&self, ns: RawFd) -> Result<Option<u32>, OpError> {
        let answers = self.get(message::get_nsid(NsidAttribute::Fd(ns as u32)))?;
        let id = answers.iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewNsId(nsid) => nsid.attributes.iter().find_map(|attribute| match attribute {
                NsidAttribute::Id(id) => u32::try_from(*id).ok(),
                _ => None,
            }),
            _ => None,
        });
        Ok(id)
    }

    /// Sends requests as one datagram. What was taken of what came back; none of it if the kernel refused.
    fn ask<T>(
        &self,
        messages: Vec<(RouteNetlinkMessage, u16)>,
        mut take: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, OpError> {
        let before = self.sequence.get();
        let mut unanswered = messages.len();
        if unanswered == 0 {
            return Ok(Vec::new());
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
        sendto(self.socket.as_raw_fd(), &bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut answers = Answers::new();
        let mut buffer = [0; ROOM];
        while unanswered > 0 {
            let length = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC)
            {
                Ok(length) if length <= ROOM => length,
                Ok(_) => return Err(Errno::EMSGSIZE.into()),
                Err(Errno::EINTR) => continue,
                // Some found no room; those that did are still read.
                Err(Errno::ENOBUFS) => {
                    answers.refused.get_or_insert(Errno::ENOBUFS.into());
                    continue;
                }
                Err(Errno::EAGAIN) => return Err(answers.refused.unwrap_or(Errno::ENOBUFS.into())),
                Err(errno) => return Err(errno.into()),
            };
            unanswered = unanswered.saturating_sub(answers.take_all(&buffer[..length], before, &mut take)?);
        }
        answers.refused.map_or(Ok(answers.found), Err)
    }
}

/// What came back until now.
pub(super) struct Answers<T> {
    found: Vec<T>,
    refused: Option<OpError>,
}

impl<T> Answers<T> {
    pub fn new() -> Self {
        Self { found: Vec::new(), refused: None }
    }

    /// Takes in what came at once; how many requests, of those after number `before`, it brings to their end.
    pub fn take_all(
        &mut self,
        mut rest: &[u8],
        before: u32,
        take: &mut impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<usize, OpError> {
        let mut ended = 0;
        while rest.len() >= HEADER {
            let message = NetlinkMessage::deserialize(rest).map_err(|_| Errno::EBADMSG)?;
            rest = rest.get((message.header.length as usize).next_multiple_of(4)..).unwrap_or_default();
            let is_late = message.header.sequence_number.wrapping_sub(before).cast_signed() <= 0;
            if !is_late && self.take(message, take) {
                ended += 1;
            }
        }
        Ok(ended)
    }

    /// Takes a message in; whether it is the last one that answers its request.
    fn take(
        &mut self,
        message: NetlinkMessage<RouteNetlinkMessage>,
        take: &mut impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> bool {
        let flags = message.header.flags;
        let mut refuse = |errno: Errno, message| {
            self.refused.get_or_insert(OpError { errno, message });
        };
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
                    refuse(Errno::from_raw(code.get().abs()), extended_ack(flags, &error.header));
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

/// The kernel's own words (`NLMSGERR_ATTR_MSG`, `linux/netlink.h`), which follow the request that the error repeats.
fn extended_ack(flags: u16, payload: &[u8]) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let length = u32::from_ne_bytes(payload.get(..4)?.try_into().ok()?) as usize;
    let request = if flags & NLM_F_CAPPED != 0 { 16 } else { length };
    let mut rest = payload.get(request.next_multiple_of(4)..)?;
    while rest.len() >= 4 {
        let size = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let kind = u16::from_ne_bytes([rest[2], rest[3]]);
        let value = rest.get(4..size)?;
        if kind == 1 {
            return Some(CStr::from_bytes_until_nul(value).ok()?.to_string_lossy().into_owned());
        }
        rest = rest.get(size.next_multiple_of(4)..)?;
    }
    None
}
