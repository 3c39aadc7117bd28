//! Netlink sockets, each bound to one netlink family and one namespace.
//!
//! The kernel handles a request while it is being sent (`netlink_unicast_kernel()`,
//! net/netlink/af_netlink.c): after sendto(2) the answer is in the receive buffer, and an answer
//! that is not there was dropped. Nothing is awaited.

use std::{
    cell::Cell,
    ffi::CStr,
    fmt,
    marker::PhantomData,
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{MsgFlags, NetlinkAddr, getsockopt, recv, sendto, sockopt::GetStruct},
};
use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_MULTIPART,
        NLM_F_REQUEST, NetlinkDeserializable, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    },
    packet_route::RouteNetlinkMessage,
    sys::{Socket, protocols::NETLINK_ROUTE},
};

use crate::{Error, errno_of};

/// Receive buffer for one datagram, in bytes: the kernel splits a dump into pieces of at most this
/// size (`netlink_recvmsg()`, net/netlink/af_netlink.c).
pub const DATAGRAM_BYTES: usize = 32 << 10;

/// Length of a message's header.
pub(crate) const NETLINK_HEADER_LEN: usize = size_of::<libc::nlmsghdr>();

/// Attribute of an error that holds the extended ack's text (`enum nlmsgerr_attrs`,
/// linux/netlink.h).
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Time for which a request is repeated whose answer was interrupted or lost. Work that the kernel
/// does in the background, such as that for hundreds of new IPv6 addresses (`addrconf_dad_work()`,
/// net/ipv6/addrconf.c), interrupts many dumps in a row.
const RETRY_TIMEOUT: Duration = Duration::from_secs(5);
/// First pause before a repetition; each next one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_micros(100);
/// Longest pause before a repetition.
const MAX_PAUSE: Duration = Duration::from_millis(20);

#[derive(Clone, Copy)]
struct NetnsCookie;

nix::getsockopt_impl!(
    NetnsCookie,
    libc::SOL_SOCKET,
    libc::SO_NETNS_COOKIE,
    u64,
    GetStruct<u64>
);

/// A netlink family: its protocol number (netlink(7)) and its messages.
pub trait Family: fmt::Debug {
    /// Protocol of the socket, such as `NETLINK_ROUTE`.
    const PROTOCOL: isize;
    /// A message of the family.
    type Message: Clone
        + NetlinkSerializable
        + NetlinkDeserializable
        + Into<NetlinkPayload<Self::Message>>;
}

/// rtnetlink(7).
#[derive(Debug)]
pub struct Route;

impl Family for Route {
    const PROTOCOL: isize = NETLINK_ROUTE;
    type Message = RouteNetlinkMessage;
}

/// A socket for rtnetlink(7).
pub type RouteSocket = NetlinkSocket<Route>;

/// A netlink socket. It belongs for ever to the namespace in which it was opened, and keeps that
/// alive.
#[derive(Debug)]
pub struct NetlinkSocket<F> {
    socket: Socket,
    /// Number of the last request. Answers to earlier requests, which were given up, are skipped.
    sequence: Cell<u32>,
    family: PhantomData<F>,
}

impl<F: Family> NetlinkSocket<F> {
    /// Opens a socket in the namespace of the calling thread.
    ///
    /// # Errors
    /// Those of socket(2) and setsockopt(2).
    pub fn open() -> Result<Self, Errno> {
        let socket = Socket::new(F::PROTOCOL).map_err(|error| errno_of(&error))?;
        socket.set_ext_ack(true).map_err(|error| errno_of(&error))?;
        socket
            .set_netlink_get_strict_chk(true)
            .map_err(|error| errno_of(&error))?;
        Ok(Self {
            socket,
            sequence: Cell::new(0),
            family: PhantomData,
        })
    }

    /// Sends one change.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn send(&self, message: F::Message, flags: u16) -> Result<(), Error> {
        self.send_batch(vec![(message, flags)])
    }

    /// Sends changes in one datagram: the kernel handles either all of them or none, also if this
    /// process is killed. It handles each on its own: one that fails does not stop the later ones.
    ///
    /// # Errors
    /// The first that the kernel refuses.
    pub fn send_batch(&self, messages: Vec<(F::Message, u16)>) -> Result<(), Error> {
        self.request(with_ack(messages), |_| None::<()>).map(drop)
    }

    /// Sends changes in one datagram, and returns the error of each that the kernel refused.
    pub(crate) fn send_each(
        &self,
        messages: Vec<(F::Message, u16)>,
    ) -> Result<Vec<Refusal>, Error> {
        Ok(self.exchange(with_ack(messages), |_| None::<()>)?.refused)
    }

    /// Asks for one object.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn get(&self, message: F::Message) -> Result<Vec<F::Message>, Error> {
        retry(|| self.request(vec![(message.clone(), 0)], Some))
    }

    /// Dumps all objects of a type. Each goes through `parse` at once: whole messages are large.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn dump<T>(
        &self,
        message: F::Message,
        mut parse: impl FnMut(F::Message) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        retry(|| self.request(vec![(message.clone(), NLM_F_DUMP)], &mut parse))
    }

    /// Returns the cookie of the socket's namespace (`SO_NETNS_COOKIE`); 0 before Linux 5.14.
    pub fn netns_cookie(&self) -> u64 {
        getsockopt(&self.socket, NetnsCookie).unwrap_or(0)
    }

    /// Sends requests as one datagram. Returns what `parse` made of the answers, or the first error.
    fn request<T>(
        &self,
        messages: Vec<(F::Message, u16)>,
        parse: impl FnMut(F::Message) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let Answers { parsed, refused } = self.exchange(messages, parse)?;
        refused
            .into_iter()
            .next()
            .map_or(Ok(parsed), |refusal| Err(refusal.error))
    }

    /// Sends requests as one datagram, and reads the answers to all of them.
    fn exchange<T>(
        &self,
        messages: Vec<(F::Message, u16)>,
        mut parse: impl FnMut(F::Message) -> Option<T>,
    ) -> Result<Answers<T>, Error> {
        let previous = self.sequence.get();
        let mut unanswered = messages.len();
        let mut answers = Answers::default();
        if unanswered == 0 {
            return Ok(answers);
        }

        let datagram = self.serialize(messages);
        sendto(
            self.socket.as_raw_fd(),
            &datagram,
            &NetlinkAddr::new(0, 0),
            MsgFlags::empty(),
        )?;

        let mut buffer = [0; DATAGRAM_BYTES];
        while unanswered > 0 {
            let length = match recv(
                self.socket.as_raw_fd(),
                &mut buffer,
                MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC,
            ) {
                Ok(length) if length <= DATAGRAM_BYTES => length,
                Ok(_) => return Err(Error::TruncatedAnswer),
                Err(Errno::EINTR) => continue,
                // Some answers found no room; those that did are still read.
                Err(Errno::ENOBUFS) => {
                    answers.refuse(0, Error::AnswerLost);
                    continue;
                }
                Err(Errno::EAGAIN) => {
                    let first = answers.refused.into_iter().next();
                    return Err(first.map_or(Error::AnswerLost, |refusal| refusal.error));
                }
                Err(errno) => return Err(errno.into()),
            };
            let answered = answers.read::<F>(&buffer[..length], previous, &mut parse)?;
            unanswered = unanswered.saturating_sub(answered);
        }
        Ok(answers)
    }

    /// Numbers requests, and writes them one after the other.
    fn serialize(&self, messages: Vec<(F::Message, u16)>) -> Vec<u8> {
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
        bytes
    }
}

fn with_ack<M>(messages: Vec<(M, u16)>) -> Vec<(M, u16)> {
    messages
        .into_iter()
        .map(|(message, flags)| (message, NLM_F_ACK | flags))
        .collect()
}

/// Repeats a request until its answer is complete.
fn retry<T>(mut request: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match request() {
            Err(error) if error.is_transient() && start.elapsed() < RETRY_TIMEOUT => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(MAX_PAUSE);
            }
            result => return result,
        }
    }
}

/// A request that was refused.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Position of the request in its datagram, from 1; 0 if answers were lost.
    pub position: u32,
    pub error: Error,
}

/// Answers to the requests of one datagram.
#[derive(Debug)]
pub struct Answers<T> {
    parsed: Vec<T>,
    refused: Vec<Refusal>,
}

impl<T> Default for Answers<T> {
    fn default() -> Self {
        Self {
            parsed: Vec::new(),
            refused: Vec::new(),
        }
    }
}

impl<T> Answers<T> {
    fn refuse(&mut self, position: u32, error: Error) {
        self.refused.push(Refusal { position, error });
    }

    /// Reads one datagram. Returns the number of requests, of those after sequence number
    /// `previous`, whose answer ends in it.
    ///
    /// # Errors
    /// If a message cannot be parsed.
    pub fn read<F: Family>(
        &mut self,
        mut datagram: &[u8],
        previous: u32,
        parse: &mut impl FnMut(F::Message) -> Option<T>,
    ) -> Result<usize, Error> {
        let mut answered = 0;
        while datagram.len() >= NETLINK_HEADER_LEN {
            let message =
                NetlinkMessage::deserialize(datagram).map_err(|_| Error::InvalidAnswer)?;
            datagram = datagram
                .get((message.header.length as usize).next_multiple_of(4)..)
                .unwrap_or_default();
            let position = message.header.sequence_number.wrapping_sub(previous);
            if position.cast_signed() > 0 && self.read_message::<F>(message, position, parse) {
                answered += 1;
            }
        }
        Ok(answered)
    }

    /// Reads one message. Returns true if it is the last one that answers its request.
    fn read_message<F: Family>(
        &mut self,
        message: NetlinkMessage<F::Message>,
        position: u32,
        parse: &mut impl FnMut(F::Message) -> Option<T>,
    ) -> bool {
        let flags = message.header.flags;
        if flags & NLM_F_DUMP_INTR != 0 {
            self.refuse(position, Error::DumpInterrupted);
        }
        match message.payload {
            NetlinkPayload::InnerMessage(inner) => {
                self.parsed.extend(parse(inner));
                flags & NLM_F_MULTIPART == 0
            }
            NetlinkPayload::Error(error) => {
                if let Some(code) = error.code {
                    let refusal = Error::Kernel {
                        errno: Errno::from_raw(code.get().abs()),
                        message: extended_ack(flags, &error.header),
                    };
                    self.refuse(position, refusal);
                }
                true
            }
            NetlinkPayload::Done(done) => {
                if done.code < 0 {
                    self.refuse(position, Errno::from_raw(-done.code).into());
                }
                true
            }
            _ => false,
        }
    }
}

/// Returns the kernel's own words, which follow the request that the error repeats: all of it, or
/// only its header (`NLM_F_CAPPED`; `netlink_ack()`, net/netlink/af_netlink.c).
fn extended_ack(flags: u16, payload: &[u8]) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let length = u32::from_ne_bytes(payload.get(..4)?.try_into().ok()?) as usize;
    let request = if flags & NLM_F_CAPPED != 0 {
        NETLINK_HEADER_LEN
    } else {
        length
    };
    let mut attributes = payload.get(request.next_multiple_of(4)..)?;
    while attributes.len() >= 4 {
        let size = usize::from(u16::from_ne_bytes([attributes[0], attributes[1]]));
        let kind = u16::from_ne_bytes([attributes[2], attributes[3]]);
        let value = attributes.get(4..size)?;
        if kind == NLMSGERR_ATTR_MSG {
            let text = CStr::from_bytes_until_nul(value).ok()?;
            return Some(text.to_string_lossy().into_owned());
        }
        attributes = attributes.get(size.next_multiple_of(4)..)?;
    }
    None
}
