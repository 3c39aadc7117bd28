//! Tests of the monitor, each on a thread with namespaces of its own; as root.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, AsRawFd},
    process::Command,
};

use nix::{
    libc::{NUD_FAILED, NUD_NOARP, NUD_PERMANENT, NUD_STALE, RTM_DELNEIGH, RTM_NEWNEIGH},
    mount::{MsFlags, mount},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, unshare},
    sys::socket::{MsgFlags, recv, setsockopt, sockopt},
};
use rtnetlink::sys::Socket;

use super::{
    classify::{PortStateCache, split_datagram},
    socket::{NetlinkMonitor, open_multicast},
};
use crate::{NamespaceSwitcher, Ns, NsChange};

/// Index of `lo` in every namespace (`LOOPBACK_IFINDEX`, net/flow.h).
const LOOPBACK: u32 = 1;

/// Runs a test on a thread that has a host of its own.
fn on_a_host(test: impl FnOnce(NamespaceSwitcher) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        test(NamespaceSwitcher::new().unwrap());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(args: &str) {
    let output = Command::new("ip").args(args.split(' ')).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {args}: {error}");
}

fn named(name: &str) -> Ns {
    Ns::Named(name.parse().unwrap())
}

#[test]
fn lost_notifications_are_reported() {
    on_a_host(|switcher| {
        ip("netns add a");
        let mut monitor = NetlinkMonitor::open(&switcher).unwrap();
        for ns in [Ns::Host, named("a")] {
            monitor.subscribe(&switcher, &ns).unwrap();
        }
        setsockopt(&monitor.socket, sockopt::RcvBuf, &0).unwrap();
        for host in 1..100 {
            ip(&format!("-n a address add 10.0.0.{host}/24 dev lo"));
        }
        let mut changes = BTreeSet::new();
        monitor.read_events(&mut changes);
        let lost = (named("a"), NsChange::Everything);
        assert!(changes.contains(&lost), "loss not reported: {changes:?}");

        monitor.subscribe(&switcher, &named("a")).unwrap();
        setsockopt(&monitor.socket, sockopt::RcvBuf, &(1 << 20)).unwrap();
        changes.clear();
        ip("-n a address delete 10.0.0.99/24 dev lo");
        ip("address add 10.0.0.99/24 dev lo");
        monitor.read_events(&mut changes);
        assert_eq!(
            changes,
            [Ns::Host, named("a")]
                .map(|ns| (ns, NsChange::Address(LOOPBACK)))
                .into()
        );
    });
}

/// A notification of a neighbour (`struct nlmsghdr`, `struct ndmsg`).
fn neighbour_notification(kind: u16, state: u16) -> Vec<u8> {
    let mut bytes = 28u32.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend([0; 10]);
    bytes.extend([10, 0, 0, 0, 2, 0, 0, 0]);
    bytes.extend(state.to_ne_bytes());
    bytes.extend([0; 2]);
    bytes
}

fn is_neighbour_reported(kind: u16, state: u16) -> bool {
    let notification = neighbour_notification(kind, state);
    split_datagram(&notification).any(|event| event.classify().is_some())
}

#[test]
fn learned_neighbours_are_not_reported() {
    for (kind, state) in [
        (RTM_NEWNEIGH, NUD_PERMANENT),
        (RTM_DELNEIGH, NUD_PERMANENT),
        (RTM_DELNEIGH, NUD_FAILED),
    ] {
        let is_reported = is_neighbour_reported(kind, state);
        assert!(is_reported, "type {kind}, state {state} is not reported");
    }
    for kind in [RTM_NEWNEIGH, RTM_DELNEIGH] {
        for state in [NUD_STALE, NUD_NOARP] {
            let is_reported = is_neighbour_reported(kind, state);
            assert!(!is_reported, "type {kind}, state {state} is reported");
        }
    }
}

/// Waits for the next notifications of bridges about ports, and says which are duplicates.
fn next_of_ports(socket: &Socket, ports: &mut PortStateCache) -> Vec<bool> {
    let mut buffer = [0; 32 << 10];
    loop {
        let ready = poll(
            &mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)],
            PollTimeout::from(10_000u16),
        )
        .unwrap();
        assert_eq!(ready, 1, "no notification came");
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
        let duplicates: Vec<bool> = split_datagram(&buffer[..length])
            .filter(|event| event.is_of_bridge())
            .map(|event| ports.is_duplicate(&event))
            .collect();
        if !duplicates.is_empty() {
            return duplicates;
        }
    }
}

#[test]
fn repeated_port_state_is_a_duplicate() {
    on_a_host(|_| {
        let (socket, mut ports) = (open_multicast().unwrap(), PortStateCache::default());
        ip("link add br0 type bridge forward_delay 10");
        ip("link set br0 up");
        ip("netns add a");
        ip("link add port0 type veth peer name eth0 netns a");
        ip("link set port0 master br0");
        ip("-n a link set eth0 up");
        ip("link set port0 up");
        // A tenth of a second after it forwards, and with its carrier.
        while next_of_ports(&socket, &mut ports) != [true] {}
        ip("link set port0 type bridge_slave cost 100");
        while next_of_ports(&socket, &mut ports) != [false] {}
    });
}
