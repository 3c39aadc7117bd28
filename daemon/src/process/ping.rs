//! Ping: ICMP echo requests that the daemon itself sends.

use std::{
    collections::VecDeque,
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr, SocketAddrV6},
    os::fd::{AsRawFd, OwnedFd},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use netnsd_api::{Name, Ping, PingReply, PingResult, RoundTrip};
use netnsd_netlink::errno_of as errno;
use nix::{
    cmsg_space,
    errno::Errno,
    libc,
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendto},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, sleep_until, timeout},
};

use super::{
    ProcessError,
    icmp::{Answer, EchoId},
    sockets::{Opener, Target},
};

/// Largest IP packet in bytes.
const MAX_PACKET: usize = 65_536;

/// Packets read before the time is checked again, so that a flood cannot keep a ping running.
const BURST: usize = 64;

/// Longest duration of a ping in milliseconds: it holds a permit that long.
const MAX_DURATION_MS: u64 = 600_000;

/// Checks that the values of a request are in their ranges.
pub(super) fn check_request(request: &Ping) -> Result<(), ProcessError> {
    let ranges = [
        ("count", request.count, 1, 1000),
        ("timeout_ms", request.timeout_ms, 1, 60_000),
        ("interval_ms", request.interval_ms, 0, 60_000),
        ("size", request.size, 0, 65_000),
    ];
    for (field, value, least, most) in ranges {
        if !(least..=most).contains(&value) {
            return Err(ProcessError::invalid(
                &[field],
                format!("{value} is out of range: {field} is {least} to {most}"),
            ));
        }
    }
    let whole =
        u64::from(request.count) * u64::from(request.interval_ms) + u64::from(request.timeout_ms);
    if whole > MAX_DURATION_MS {
        let detail = format!(
            "count {} × interval_ms {} + timeout_ms {} is {whole} ms, and a ping takes {MAX_DURATION_MS} ms at most: lower count or \
             interval_ms",
            request.count, request.interval_ms, request.timeout_ms
        );
        return Err(ProcessError::invalid(&["count"], detail));
    }
    match (&request.address.zone, &request.interface) {
        (Some(zone), Some(interface)) if zone != interface => {
            let detail = format!(
                "{interface} is not the interface of {}: leave one of them out",
                request.address
            );
            Err(ProcessError::invalid(&["interface"], detail))
        }
        _ => Ok(()),
    }
}

/// Sends the echo requests and waits until each is answered or timed out.
pub(super) async fn run_ping(
    sockets: &Opener,
    name: &Name,
    namespace: OwnedFd,
    request: &Ping,
) -> Result<PingResult, ProcessError> {
    let (socket, scope_id) = sockets
        .open_icmp(Target::of(name, request), namespace)
        .await?;
    // SAFETY: an OwnedFd keeps the same descriptor open until it is dropped, and the AsyncFd
    // deregisters it before that.
    let socket = unsafe { AsyncFd::register(socket) };
    let socket =
        socket.map_err(|error| ProcessError::refused("watch a socket", errno(&error.into())))?;
    let mut echoes = EchoRun::new(socket, scope_id, request);
    // Sending may have to wait too: a ping that takes too long has sent fewer requests.
    let _ = timeout(Duration::from_millis(MAX_DURATION_MS), echoes.run()).await;
    Ok(echoes.into_result())
}

/// Request that was sent and not answered yet.
struct Sent {
    seq: u16,
    at: Instant,
}

/// Ping that is running.
struct EchoRun<'a> {
    socket: AsyncFd<OwnedFd>,
    /// Index of the interface of a link-local address (`sin6_scope_id`, ipv6(7)); 0 for others.
    scope_id: u32,
    request: &'a Ping,
    echo_id: EchoId,
    /// Time of sending and result of each request; `seq` counts from 1.
    requests: Vec<(Instant, Option<PingReply>)>,
    /// Requests without an answer, oldest first.
    waiting: VecDeque<Sent>,
    buffer: Vec<u8>,
}

impl<'a> EchoRun<'a> {
    fn new(socket: AsyncFd<OwnedFd>, scope_id: u32, request: &'a Ping) -> Self {
        let echo_id = EchoId {
            v6: request.address.address.is_ipv6(),
            ident: next_ident(),
            cookie: random_cookie(),
        };
        let (requests, waiting) = (Vec::new(), VecDeque::new());
        Self {
            socket,
            scope_id,
            request,
            echo_id,
            requests,
            waiting,
            buffer: vec![0; MAX_PACKET],
        }
    }

    async fn run(&mut self) {
        let interval = Duration::from_millis(self.request.interval_ms.into());
        let mut next = Instant::now();
        loop {
            self.receive_burst();
            self.expire_requests();
            let more = self.requests.len() < self.request.count as usize;
            if more && Instant::now() >= next {
                self.send_request().await;
                next += interval;
                continue;
            }
            let oldest = self
                .waiting
                .front()
                .map(|sent| sent.at + self.reply_timeout());
            let wake = match (more.then_some(next), oldest) {
                (Some(a), Some(b)) => a.min(b),
                (Some(one), None) | (None, Some(one)) => one,
                (None, None) => return,
            };
            self.wait_until(wake).await;
        }
    }

    fn reply_timeout(&self) -> Duration {
        Duration::from_millis(self.request.timeout_ms.into())
    }

    async fn wait_until(&self, wake: Instant) {
        tokio::select! {
            // Retained: `receive_burst` clears it, once a read finds no packet.
            ready = self.socket.readable() => if let Ok(mut ready) = ready { ready.retain_ready() },
            () = sleep_until(wake) => {}
        }
    }

    async fn send_request(&mut self) {
        let seq = (self.requests.len() + 1) as u16;
        let packet = self.echo_id.encode_request(seq, self.request.size as usize);
        let address = SockaddrStorage::from(match self.request.address.address {
            IpAddr::V4(v4) => SocketAddr::from((v4, 0)),
            IpAddr::V6(v6) => SocketAddrV6::new(v6, 0, 0, self.scope_id).into(),
        });
        let sending = self.socket.async_io(Interest::WRITABLE, |socket| {
            sendto(socket.as_raw_fd(), &packet, &address, MsgFlags::empty())
                .map_err(io::Error::from)
        });
        let at = Instant::now();
        let error = match timeout(self.reply_timeout(), sending).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(errno(&error).desc().to_lowercase()),
            Err(_) => Some("timeout".to_owned()),
        };
        if error.is_none() {
            self.waiting.push_back(Sent { seq, at });
        }
        self.requests
            .push((at, error.map(|error| failed_reply(seq, error))));
    }

    /// Reads the packets that have arrived, at most [`BURST`].
    fn receive_burst(&mut self) {
        for _ in 0..BURST {
            let mut buffer = std::mem::take(&mut self.buffer);
            let got = self.socket.try_io(Interest::READABLE, |socket| {
                Ok(receive_packet(socket, &mut buffer)?)
            });
            if let Ok((length, from, hops)) = got {
                self.handle_packet(&buffer[..length], from, hops);
            }
            self.buffer = buffer;
            if got.is_err() {
                return;
            }
        }
    }

    fn handle_packet(&mut self, packet: &[u8], from: Option<IpAddr>, hops: Option<u8>) {
        let now = Instant::now();
        let Some(answer) = self.echo_id.decode(packet) else {
            return;
        };
        let seq = match answer {
            Answer::Reply { seq, .. } | Answer::Error { seq, .. } => seq,
        };
        // A second answer, or one after the timeout, changes nothing.
        let Some((at, result @ None)) = usize::from(seq)
            .checked_sub(1)
            .and_then(|at| self.requests.get_mut(at))
        else {
            return;
        };
        *result = match answer {
            Answer::Reply { .. } if !may_answer(from, self.request.address.address) => return,
            Answer::Reply { ttl, .. } => Some(PingReply {
                seq: seq.into(),
                from: from.map(|from| from.to_string()),
                rtt_ms: Some(milliseconds(now - *at)),
                ttl: ttl.or(hops),
                error: None,
            }),
            Answer::Error { reason, .. } => Some(failed_reply(seq, reason.to_owned())),
        };
        self.waiting.retain(|sent| sent.seq != seq);
    }

    fn expire_requests(&mut self) {
        let oldest_allowed = Instant::now().checked_sub(self.reply_timeout());
        while let Some(&Sent { seq, at }) = self.waiting.front()
            && oldest_allowed.is_some_and(|allowed| at <= allowed)
        {
            self.waiting.pop_front();
            if let Some((_, result)) = self.requests.get_mut(usize::from(seq) - 1) {
                *result = Some(failed_reply(seq, "timeout".to_owned()));
            }
        }
    }

    fn into_result(self) -> PingResult {
        let replies: Vec<PingReply> = self
            .requests
            .into_iter()
            .filter_map(|(_, result)| result)
            .collect();
        let times: Vec<f64> = replies.iter().filter_map(|reply| reply.rtt_ms).collect();
        let (transmitted, received) = (replies.len() as u32, times.len() as u32);
        let loss = 1.0 - f64::from(received) / f64::from(transmitted.max(1));
        PingResult {
            transmitted,
            received,
            loss,
            rtt_ms: summarize_times(&times),
            replies,
        }
    }
}

/// Receives a packet; returns its length, its sender, and in IPv6 its hop limit.
fn receive_packet(
    socket: &OwnedFd,
    buffer: &mut [u8],
) -> Result<(usize, Option<IpAddr>, Option<u8>), Errno> {
    let mut control = cmsg_space!(libc::c_int);
    let mut parts = [IoSliceMut::new(buffer)];
    let got = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::empty(),
    )?;
    let hops = got.cmsgs().ok().and_then(|mut all| {
        all.find_map(|one| match one {
            ControlMessageOwned::Ipv6HopLimit(hops) => u8::try_from(hops).ok(),
            _ => None,
        })
    });
    let from = got.address.and_then(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    Ok((got.bytes, from, hops))
}

/// Returns true if the sender may answer: it is the target, unless that is a multicast address, or
/// the unspecified one, which stands for this host.
fn may_answer(from: Option<IpAddr>, asked: IpAddr) -> bool {
    asked.is_multicast() || asked.is_unspecified() || from == Some(asked)
}

fn failed_reply(seq: u16, error: String) -> PingReply {
    PingReply {
        seq: seq.into(),
        from: None,
        rtt_ms: None,
        ttl: None,
        error: Some(error),
    }
}

fn summarize_times(times: &[f64]) -> Option<RoundTrip> {
    let min = times.iter().copied().reduce(f64::min)?;
    let max = times.iter().copied().reduce(f64::max)?;
    let avg = times.iter().sum::<f64>() / times.len() as f64;
    Some(RoundTrip {
        min,
        avg: (avg * 1e3).round() / 1e3,
        max,
    })
}

/// Converts to milliseconds, rounded to microseconds.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// Returns an identifier that differs for each ping of this daemon, and from those of its last run.
fn next_ident() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed) ^ (std::process::id() as u16)
}

/// Returns a random payload, which other pings with the same identifier do not have.
fn random_cookie() -> [u8; 8] {
    let random = uuid::Uuid::now_v7().into_bytes();
    std::array::from_fn(|at| random[8 + at])
}
