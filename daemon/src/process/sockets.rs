//! Thread that opens sockets inside namespaces, so that no other thread enters one.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    io,
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
};

use netnsd_api::{InterfaceName, Name, Ping};
use netnsd_netlink::NamespaceSwitcher;
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    libc,
    net::if_::{InterfaceFlags, if_nametoindex},
    sched::{CloneFlags, setns},
    sys::socket::{
        AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket,
        sockopt::{BindToDevice, Ipv6RecvHopLimit},
    },
};
use tokio::sync::{mpsc, oneshot};

use super::{ProcessError, icmp};

/// Capacity of the thread's queue.
const QUEUE: usize = 64;

/// Destination of a socket's packets.
pub(super) struct Target {
    name: Name,
    address: IpAddr,
    /// True if the address is valid only together with its interface (link-local).
    needs_interface: bool,
    interface: Option<InterfaceName>,
    /// Field of the request that names the interface.
    field: &'static str,
}

impl Target {
    /// Returns the destination of a ping from a namespace.
    pub(super) fn of(name: &Name, ping: &Ping) -> Self {
        let field = if ping.interface.is_some() {
            "interface"
        } else {
            "address"
        };
        let interface = ping.interface.clone().or_else(|| ping.address.zone.clone());
        let (address, needs_interface) = (ping.address.address, ping.address.needs_zone());
        Self {
            name: name.clone(),
            address,
            needs_interface,
            interface,
            field,
        }
    }
}

struct Job {
    namespace: OwnedFd,
    target: Target,
    answer: oneshot::Sender<Result<(OwnedFd, u32), ProcessError>>,
}

/// Handle of the thread.
#[derive(Clone)]
pub(super) struct Opener(mpsc::Sender<Job>);

impl Opener {
    /// Starts the thread; it ends when the last clone is dropped.
    pub(super) fn start() -> io::Result<Self> {
        let switcher = NamespaceSwitcher::new()?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("netnsd-sockets".into())
            .spawn(move || serve_jobs(&switcher, queue))?;
        Ok(Self(jobs))
    }

    /// Opens a raw ICMP or ICMPv6 socket, which belongs to the namespace for ever and is usable from
    /// any thread. Returns it with the scope id of the target's address; 0 if it needs none.
    pub(super) async fn open_icmp(
        &self,
        target: Target,
        namespace: OwnedFd,
    ) -> Result<(OwnedFd, u32), ProcessError> {
        let (answer, result) = oneshot::channel();
        self.0
            .send(Job {
                namespace,
                target,
                answer,
            })
            .await
            .map_err(|_| ProcessError::Stopping)?;
        result.await.map_err(|_| ProcessError::Stopping)?
    }
}

fn serve_jobs(switcher: &NamespaceSwitcher, mut queue: mpsc::Receiver<Job>) {
    while let Some(job) = queue.blocking_recv() {
        let open = || open_in_namespace(&job.namespace, &job.target);
        let opened = switcher.restore_host_ns_after(open);
        let _ = job.answer.send(opened); // The request may have ended.
    }
}

fn open_in_namespace(namespace: &OwnedFd, target: &Target) -> Result<(OwnedFd, u32), ProcessError> {
    let v6 = target.address.is_ipv6();
    setns(namespace, CloneFlags::CLONE_NEWNET)
        .map_err(|errno| ProcessError::refused("enter the network namespace", errno))?;
    let (family, protocol) = match v6 {
        false => (AddressFamily::Inet, SockProtocol::Icmp),
        true => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Raw, flags, protocol).map_err(|errno| match errno {
        Errno::EAFNOSUPPORT => ProcessError::NoIpv6,
        _ => ProcessError::refused("open a raw socket", errno),
    })?;
    drop_non_echoes(&socket, v6)
        .map_err(|errno| ProcessError::refused("filter a raw socket", errno))?;
    let scope_id = if target.needs_interface {
        find_scope_id(target)?
    } else {
        bind_to_interface(&socket, target)?;
        0
    };
    Ok((socket, scope_id))
}

/// Returns the index of the interface on whose link the address is: the one named, or the only one
/// that is up.
fn find_scope_id(target: &Target) -> Result<u32, ProcessError> {
    let no_interface = |errno| ProcessError::refused("list the interfaces", errno);
    if let Some(interface) = &target.interface {
        return if_nametoindex(interface.as_str())
            .map_err(|errno| interface_error(target, interface, errno));
    }
    let up = list_interfaces(InterfaceFlags::IFF_UP).map_err(no_interface)?;
    let candidates = Vec::from_iter(&up);
    match candidates[..] {
        // The kernel refuses to send, and its error is the result.
        [] => Ok(0),
        [only] => if_nametoindex(only.as_str()).map_err(no_interface),
        _ => {
            let (address, names) = (target.address, join_names(&up));
            let detail = format!(
                "{address} is link-local, and more than one interface is up in {}: give interface, or write \
                 {address}%{}; they are {names}",
                target.name, candidates[0]
            );
            Err(ProcessError::invalid(&["address"], detail))
        }
    }
}

/// Binds a socket to the interface named, if one is (`SO_BINDTODEVICE`, socket(7)).
fn bind_to_interface(socket: &OwnedFd, target: &Target) -> Result<(), ProcessError> {
    let Some(interface) = &target.interface else {
        return Ok(());
    };
    let device = OsString::from(interface.as_str());
    setsockopt(socket, BindToDevice, &device)
        .map_err(|errno| interface_error(target, interface, errno))
}

fn interface_error(target: &Target, interface: &InterfaceName, errno: Errno) -> ProcessError {
    if errno != Errno::ENODEV {
        return ProcessError::refused("choose the interface", errno);
    }
    let there = list_interfaces(InterfaceFlags::empty()).unwrap_or_default();
    let names = if there.is_empty() {
        "none but lo".to_owned()
    } else {
        join_names(&there)
    };
    ProcessError::invalid(
        &[target.field],
        format!(
            "there is no interface {interface} in {}: it has {names}",
            target.name
        ),
    )
}

/// Returns the names of the interfaces that have these flags, without `lo`.
fn list_interfaces(flags: InterfaceFlags) -> Result<BTreeSet<String>, Errno> {
    let right = |found: InterfaceFlags| {
        found.contains(flags) && !found.contains(InterfaceFlags::IFF_LOOPBACK)
    };
    let names = getifaddrs()?
        .filter(|found| right(found.flags))
        .map(|found| found.interface_name);
    // The names of IPv4 addresses are labels, which may have a colon.
    Ok(names.filter(|name| !name.contains(':')).collect())
}

fn join_names(names: &BTreeSet<String>) -> String {
    Vec::from_iter(names.iter().map(String::as_str)).join(", ")
}

/// Makes the kernel drop packets that do not answer an echo, such as the requests themselves on
/// `lo`.
fn drop_non_echoes(socket: &OwnedFd, v6: bool) -> Result<(), Errno> {
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
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            FILTER,
            blocked.as_ptr().cast(),
            length,
        )
    };
    Errno::result(done).map(drop)
}
