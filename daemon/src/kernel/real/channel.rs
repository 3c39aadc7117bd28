//! A netlink connection into one namespace.

use std::{
    ffi::CStr,
    os::fd::{AsFd, FromRawFd, IntoRawFd},
    pin::Pin,
};

use futures_util::{Stream, StreamExt};
use nix::errno::Errno;
use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
    proto::{ConnectionHandle, NetlinkCodec, from_socket_with_codec},
    sys::{Socket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE},
};

use super::{
    super::OpError,
    worker::{Worker, errno},
};

/// `NLM_F_DUMP_INTR`: the dump is not consistent, since something changed meanwhile (`linux/netlink.h`).
const NLM_F_DUMP_INTR: u16 = 0x10;
/// `NLM_F_CAPPED`: the request is not repeated in the error, apart from its header.
const NLM_F_CAPPED: u16 = 0x100;
/// `NLM_F_ACK_TLVS`: the extended ack follows.
const NLM_F_ACK_TLVS: u16 = 0x200;
/// Room for the answers of what is in flight.
const RECEIVE_BUFFER: u32 = 1 << 20;

/// A connection. The socket belongs for ever to the namespace in which it was opened, and holds it.
#[derive(Debug)]
pub(super) struct Channel {
    handle: ConnectionHandle<RouteNetlinkMessage>,
    task: tokio::task::JoinHandle<()>,
    /// The namespace's inode.
    pub inode: u64,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Opens a socket in the namespace that the calling thread is in.
pub(super) fn open_socket() -> Result<Socket, Errno> {
    let mut socket = Socket::new(NETLINK_ROUTE).map_err(|error| errno(&error))?;
    socket.bind_auto().map_err(|error| errno(&error))?;
    socket.set_non_blocking(true).map_err(|error| errno(&error))?;
    socket.set_ext_ack(true).map_err(|error| errno(&error))?;
    socket.set_netlink_get_strict_chk(true).map_err(|error| errno(&error))?;
    // A smaller buffer works too: what is lost is asked for again.
    let _as_large_as_allowed = socket.set_rx_buf_sz(RECEIVE_BUFFER);
    Ok(socket)
}

impl Channel {
    /// Opens a connection into a namespace.
    pub fn open(worker: &Worker, ns: impl AsFd + Send + 'static, inode: u64) -> Result<Self, Errno> {
        let socket = worker.within(ns, open_socket)?;
        Self::adopt(socket, inode)
    }

    fn adopt(socket: Socket, inode: u64) -> Result<Self, Errno> {
        // SAFETY: the descriptor was just taken out of the socket that owned it, so the new one is its only owner.
        let socket = unsafe { TokioSocket::from_raw_fd(socket.into_raw_fd()) };
        let (connection, handle, _unasked) =
            from_socket_with_codec::<RouteNetlinkMessage, TokioSocket, NetlinkCodec>(socket);
        let task = tokio::spawn(connection);
        Ok(Self { handle, task, inode })
    }

    /// Whether it broke off: the kernel would not take a message for want of memory.
    pub fn is_broken(&self) -> bool {
        self.task.is_finished()
    }

    /// Sends one change; the answer is its ack.
    pub fn change(&self, message: RouteNetlinkMessage, flags: u16) -> Pending {
        self.changes(vec![(message, flags)])
    }

    /// Sends changes in one datagram: the kernel does all of them or the process was never there.
    pub fn changes(&self, messages: Vec<(RouteNetlinkMessage, u16)>) -> Pending {
        self.send(messages.into_iter().map(|(message, flags)| request(message, NLM_F_ACK | flags)).collect())
    }

    /// Asks for one thing.
    pub fn get(&self, message: RouteNetlinkMessage) -> Pending {
        self.send(vec![request(message, 0)])
    }

    /// Asks for everything of a sort, and waits: a socket has one dump at a time (`netlink_dump_start()` answers EBUSY).
    pub async fn dump(&self, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, OpError> {
        self.send(vec![request(message, NLM_F_DUMP)]).answer().await
    }

    fn send(&self, messages: Vec<NetlinkMessage<RouteNetlinkMessage>>) -> Pending {
        match self.handle.request_batch(messages, SocketAddr::new(0, 0)) {
            Ok(stream) => Pending { stream: Some(Box::pin(stream)) },
            Err(_) => Pending { stream: None },
        }
    }
}

fn request(message: RouteNetlinkMessage, flags: u16) -> NetlinkMessage<RouteNetlinkMessage> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | flags;
    message
}

/// A request on its way.
pub(super) struct Pending {
    stream: Option<Pin<Box<dyn Stream<Item = NetlinkMessage<RouteNetlinkMessage>>>>>,
}

impl Pending {
    /// What came back; none of it if the kernel refused.
    pub async fn answer(self) -> Result<Vec<RouteNetlinkMessage>, OpError> {
        let Some(mut stream) = self.stream else { return Err(Errno::ENOTCONN.into()) };
        let mut answers = Vec::new();
        let mut refused = None;
        while let Some(message) = stream.next().await {
            if message.header.flags & NLM_F_DUMP_INTR != 0 {
                refused.get_or_insert(OpError::from(Errno::EAGAIN));
            }
            match message.payload {
                NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                NetlinkPayload::Error(error) => {
                    if let Some(code) = error.code {
                        let errno = Errno::from_raw(code.get().abs());
                        let words = extended_ack(message.header.flags, &error.header);
                        refused.get_or_insert(OpError { errno, message: words });
                    }
                }
                NetlinkPayload::Done(done) if done.code < 0 => {
                    refused.get_or_insert(Errno::from_raw(-done.code).into());
                }
                NetlinkPayload::Overrun(_) => {
                    refused.get_or_insert(Errno::ENOBUFS.into());
                }
                _ => {}
            }
        }
        // An ack that all is well is not handed on; a connection that broke off is found out by looking again.
        match refused {
            Some(error) => Err(error),
            None => Ok(answers),
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

/// Sends one change on a socket of its own, in the namespace that the calling thread is in, and waits for its ack.
pub(super) fn once(message: RouteNetlinkMessage, flags: u16) -> Result<(), Errno> {
    match exchange(message, NLM_F_ACK | flags)? {
        NetlinkPayload::Error(error) => error.code.map_or(Ok(()), |code| Err(Errno::from_raw(code.get().abs()))),
        _ => Err(Errno::EBADMSG),
    }
}

/// Asks one question in the same way.
pub(super) fn once_get(message: RouteNetlinkMessage) -> Result<RouteNetlinkMessage, Errno> {
    match exchange(message, 0)? {
        NetlinkPayload::InnerMessage(answer) => Ok(answer),
        NetlinkPayload::Error(error) => Err(Errno::from_raw(error.raw_code().abs())),
        _ => Err(Errno::EBADMSG),
    }
}

fn exchange(message: RouteNetlinkMessage, flags: u16) -> Result<NetlinkPayload<RouteNetlinkMessage>, Errno> {
    let socket = open_socket()?;
    socket.set_non_blocking(false).map_err(|error| errno(&error))?;
    let mut message = request(message, flags);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).map_err(|error| errno(&error))?;
    let (answer, _) = socket.recv_from_full().map_err(|error| errno(&error))?;
    Ok(NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(|_| Errno::EBADMSG)?.payload)
}
