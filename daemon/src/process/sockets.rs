//! The thread that opens sockets inside namespaces, so that no other thread ever enters one.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use netnsd_api::{Code, Problem};
use nix::{
    errno::Errno,
    libc,
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt::Ipv6RecvHopLimit},
};
use tokio::sync::{mpsc, oneshot};

use super::{closing, failed, icmp};
use crate::kernel::real::worker::HERE;

/// How many may wait for the thread before the next has to wait to ask.
const WAITING: usize = 64;

struct Job {
    namespace: OwnedFd,
    v6: bool,
    answer: oneshot::Sender<Result<OwnedFd, Problem>>,
}

/// Asks the thread for sockets.
#[derive(Clone)]
pub(super) struct Opener(mpsc::Sender<Job>);

impl Opener {
    /// Starts the thread; it ends when the last clone is dropped.
    pub(super) fn start() -> io::Result<Self> {
        let home = File::open(HERE)?;
        let (jobs, queue) = mpsc::channel(WAITING);
        std::thread::Builder::new().name("netnsd-sockets".into()).spawn(move || serve(&home, queue))?;
        Ok(Self(jobs))
    }

    /// A raw ICMP or ICMPv6 socket that belongs to the namespace for ever, usable from any thread.
    pub(super) async fn icmp(&self, namespace: OwnedFd, v6: bool) -> Result<OwnedFd, Problem> {
        let (answer, result) = oneshot::channel();
        self.0.send(Job { namespace, v6, answer }).await.map_err(|_| closing())?;
        result.await.map_err(|_| closing())?
    }
}

fn serve(home: &File, mut queue: mpsc::Receiver<Job>) {
    while let Some(job) = queue.blocking_recv() {
        let opened = open_inside(&job.namespace, job.v6);
        // A thread keeps the namespace it is in alive: one deleted meanwhile must be able to go.
        if let Err(errno) = setns(home, CloneFlags::CLONE_NEWNET) {
            tracing::error!(%errno, "the thread for sockets could not leave a namespace");
        }
        // Whoever asked may be gone.
        let _ = job.answer.send(opened);
    }
}

fn open_inside(namespace: &OwnedFd, v6: bool) -> Result<OwnedFd, Problem> {
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| failed("enter the network namespace", errno))?;
    let (family, protocol) = match v6 {
        false => (AddressFamily::Inet, SockProtocol::Icmp),
        true => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Raw, flags, protocol).map_err(|errno| match errno {
        Errno::EAFNOSUPPORT => Problem::new(Code::UnsupportedByKernel, "this kernel has no IPv6"),
        _ => failed("open a raw socket", errno),
    })?;
    filter(&socket, v6).map_err(|errno| failed("filter a raw socket", errno))?;
    Ok(socket)
}

/// Lets the kernel drop what answers no echo, such as the requests themselves on `lo`.
fn filter(socket: &OwnedFd, v6: bool) -> Result<(), Errno> {
    if !v6 {
        return set_filter(socket, libc::SOL_RAW, &icmp::blocked_v4());
    }
    setsockopt(socket, Ipv6RecvHopLimit, &true)?;
    set_filter(socket, libc::IPPROTO_ICMPV6, &icmp::blocked_v6())
}

fn set_filter(socket: &OwnedFd, level: i32, blocked: &[u32]) -> Result<(), Errno> {
    /// `ICMP_FILTER` and `ICMPV6_FILTER` are both 1.
    const FILTER: i32 = 1;
    let length = size_of_val(blocked) as libc::socklen_t;
    // SAFETY: the pointer and the length are those of one live slice, which the kernel only reads.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, FILTER, blocked.as_ptr().cast(), length) };
    Errno::result(done).map(drop)
}
