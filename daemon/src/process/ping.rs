//! ICMP echoes, made by the daemon itself.

use std::{
    collections::VecDeque,
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr, SocketAddrV6},
    os::fd::{AsRawFd, OwnedFd},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use netnsd_api::{Name, Ping, PingReply, PingResult, Problem, RoundTrip};
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
    failed,
    icmp::{Answer, Mark},
    invalid,
    sockets::{Opener, Target},
};

/// The largest IP packet.
const LARGEST: usize = 65_536;

/// How many packets are read before the clock is looked at again, so that a flood cannot keep a
/// ping alive.
const BURST: usize = 64;

/// The longest time that a ping may take in all, in milliseconds: it holds a place among those that
/// run at the same time.
const LONGEST_MS: u64 = 600_000;

/// Refuses values out of their range.
pub(super) fn check(request: &Ping) -> Result<(), Problem> {
    let ranges = [
        ("count", request.count, 1, 1000),
        ("timeout_ms", request.timeout_ms, 1, 60_000),
        ("interval_ms", request.interval_ms, 0, 60_000),
        ("size", request.size, 0, 65_000),
    ];
    for (field, value, least, most) in ranges {
        if !(least..=most).contains(&value) {
            return Err(invalid(
                &[field],
                format!("{value} is out of range: {field} is {least} to {most}"),
            ));
        }
    }
    let whole =
        u64::from(request.count) * u64::from(request.interval_ms) + u64::from(request.timeout_ms);
    if whole > LONGEST_MS {
        let detail = format!(
            "count {} × interval_ms {} + timeout_ms {} is {whole} ms, and a ping takes {LONGEST_MS} ms at most: lower count or \
             interval_ms",
            request.count, request.interval_ms, request.timeout_ms
        );
        return Err(invalid(&["count"], detail));
    }
    match (&request.address.zone, &request.interface) {
        (Some(zone), Some(interface)) if zone != interface => {
            let detail = format!(
                "{interface} is not the interface of {}: leave one of them out",
                request.address
            );
            Err(invalid(&["interface"], detail))
        }
        _ => Ok(()),
    }
}

/// Sends the requests and waits until each is answered or given up.
pub(super) async fn run(
    sockets: &Opener,
    name: &Name,
    namespace: OwnedFd,
    request: &Ping,
) -> Result<PingResult, Problem> {
    let (socket, scope_id) = sockets.icmp(Target::of(name, request), namespace).await?;
    // SAFETY: an OwnedFd keeps the same descriptor open until it is dropped, and the AsyncFd
    // deregisters it before that.
    let socket = unsafe { AsyncFd::register(socket) };
    let socket = socket.map_err(|error| failed("watch a socket", errno(&error.into())))?;
    let mut session = Session::new(socket, scope_id, request);
    // Sending may have to wait too.
    let _not_all_were_sent = timeout(Duration::from_millis(LONGEST_MS), session.run()).await;
    Ok(session.result())
}

/// One request under way.
struct Sent {
    seq: u16,
    at: Instant,
}

struct Session<'a> {
    socket: AsyncFd<OwnedFd>,
    /// The index of a link-local address' interface (`sin6_scope_id`, ipv6(7)); 0 for others.
    scope_id: u32,
    request: &'a Ping,
    mark: Mark,
    /// When each was sent, and what became of it; `seq` counts from 1.
    requests: Vec<(Instant, Option<PingReply>)>,
    /// Those without an answer, oldest first.
    waiting: VecDeque<Sent>,
    buffer: Vec<u8>,
}

impl<'a> Session<'a> {
    fn new(socket: AsyncFd<OwnedFd>, scope_id: u32, request: &'a Ping) -> Self {
        let mark = Mark {
            v6: request.address.address.is_ipv6(),
            ident: ident(),
            cookie: cookie(),
        };
        let (requests, waiting) = (Vec::new(), VecDeque::new());
        Self {
            socket,
            scope_id,
            request,
            mark,
            requests,
            waiting,
            buffer: vec![0; LARGEST],
        }
    }

    async fn run(&mut self) {
        let interval = Duration::from_millis(self.request.interval_ms.into());
        let mut next = Instant::now();
        loop {
            self.receive();
            self.expire();
            let more = self.requests.len() < self.request.count as usize;
            if more && Instant::now() >= next {
                self.send().await;
                next += interval;
                continue;
            }
            let oldest = self.waiting.front().map(|sent| sent.at + self.patience());
            let wake = match (more.then_some(next), oldest) {
                (Some(a), Some(b)) => a.min(b),
                (Some(one), None) | (None, Some(one)) => one,
                (None, None) => return,
            };
            self.wait(wake).await;
        }
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.request.timeout_ms.into())
    }

    async fn wait(&self, wake: Instant) {
        tokio::select! {
            // Retained: it is `receive` that clears it, once a read says that nothing is left.
            ready = self.socket.readable() => if let Ok(mut ready) = ready { ready.retain_ready() },
            () = sleep_until(wake) => {}
        }
    }

    async fn send(&mut self) {
        let seq = (self.requests.len() + 1) as u16;
        let packet = self.mark.request(seq, self.request.size as usize);
        let address = SockaddrStorage::from(match self.request.address.address {
            IpAddr::V4(v4) => SocketAddr::from((v4, 0)),
            IpAddr::V6(v6) => SocketAddrV6::new(v6, 0, 0, self.scope_id).into(),
        });
        let sending = self.socket.async_io(Interest::WRITABLE, |socket| {
            sendto(socket.as_raw_fd(), &packet, &address, MsgFlags::empty())
                .map_err(io::Error::from)
        });
        let at = Instant::now();
        let error = match timeout(self.patience(), sending).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(errno(&error).desc().to_lowercase()),
            Err(_) => Some("timeout".to_owned()),
        };
        if error.is_none() {
            self.waiting.push_back(Sent { seq, at });
        }
        self.requests
            .push((at, error.map(|error| unanswered(seq, error))));
    }

    /// Reads what has come, at most a burst.
    fn receive(&mut self) {
        for _ in 0..BURST {
            let mut buffer = std::mem::take(&mut self.buffer);
            let got = self.socket.try_io(Interest::READABLE, |socket| {
                Ok(packet(socket, &mut buffer)?)
            });
            if let Ok((length, from, hops)) = got {
                self.consider(&buffer[..length], from, hops);
            }
            self.buffer = buffer;
            if got.is_err() {
                return;
            }
        }
    }

    fn consider(&mut self, packet: &[u8], from: Option<IpAddr>, hops: Option<u8>) {
        let now = Instant::now();
        let Some(answer) = self.mark.read(packet) else {
            return;
        };
        let seq = match answer {
            Answer::Reply { seq, .. } | Answer::Error { seq, .. } => seq,
        };
        // A second answer, or one after the timeout, changes nothing.
        let Some((at, fate @ None)) = usize::from(seq)
            .checked_sub(1)
            .and_then(|at| self.requests.get_mut(at))
        else {
            return;
        };
        *fate = match answer {
            Answer::Reply { .. } if !may_answer(from, self.request.address.address) => return,
            Answer::Reply { ttl, .. } => Some(PingReply {
                seq: seq.into(),
                from: from.map(|from| from.to_string()),
                rtt_ms: Some(milliseconds(now - *at)),
                ttl: ttl.or(hops),
                error: None,
            }),
            Answer::Error { reason, .. } => Some(unanswered(seq, reason.to_owned())),
        };
        self.waiting.retain(|sent| sent.seq != seq);
    }

    fn expire(&mut self) {
        let oldest_allowed = Instant::now().checked_sub(self.patience());
        while let Some(&Sent { seq, at }) = self.waiting.front()
            && oldest_allowed.is_some_and(|allowed| at <= allowed)
        {
            self.waiting.pop_front();
            if let Some((_, fate)) = self.requests.get_mut(usize::from(seq) - 1) {
                *fate = Some(unanswered(seq, "timeout".to_owned()));
            }
        }
    }

    fn result(self) -> PingResult {
        let replies: Vec<PingReply> = self
            .requests
            .into_iter()
            .filter_map(|(_, fate)| fate)
            .collect();
        let times: Vec<f64> = replies.iter().filter_map(|reply| reply.rtt_ms).collect();
        let (transmitted, received) = (replies.len() as u32, times.len() as u32);
        let loss = 1.0 - f64::from(received) / f64::from(transmitted.max(1));
        PingResult {
            transmitted,
            received,
            loss,
            rtt_ms: round_trip(&times),
            replies,
        }
    }
}

/// One packet: its length, its sender, and in IPv6 the hops it had left.
fn packet(
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

/// Only the one asked answers, unless many were asked, or "this host" by its unspecified address.
fn may_answer(from: Option<IpAddr>, asked: IpAddr) -> bool {
    asked.is_multicast() || asked.is_unspecified() || from == Some(asked)
}

fn unanswered(seq: u16, error: String) -> PingReply {
    PingReply {
        seq: seq.into(),
        from: None,
        rtt_ms: None,
        ttl: None,
        error: Some(error),
    }
}

fn round_trip(times: &[f64]) -> Option<RoundTrip> {
    let min = times.iter().copied().reduce(f64::min)?;
    let max = times.iter().copied().reduce(f64::max)?;
    let avg = times.iter().sum::<f64>() / times.len() as f64;
    Some(RoundTrip {
        min,
        avg: (avg * 1e3).round() / 1e3,
        max,
    })
}

/// In milliseconds, to the microsecond.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// Distinct for each ping of this daemon, and not predictable from its last run.
fn ident() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed) ^ (std::process::id() as u16)
}

/// Tells our packets from those of another ping that chose the same identifier.
fn cookie() -> [u8; 8] {
    let random = uuid::Uuid::now_v7().into_bytes();
    std::array::from_fn(|at| random[8 + at])
}
