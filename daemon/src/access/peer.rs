//! The peer of a connection, as the kernel reports it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
};

use nix::{
    libc,
    unistd::{Gid, Uid},
};
use tokio::net::UnixStream;

use super::Identity;

/// The peer of a connection.
#[derive(Debug, Clone)]
pub enum SocketPeer {
    /// A process on a Unix socket; `None` if the kernel does not report its credentials.
    Unix(Option<Identity>),
    /// A host on TCP.
    Tcp {
        /// Its address and port.
        address: SocketAddr,
        /// True if netnsd listens on a loopback address here.
        to_loopback: bool,
        /// DNS names in its certificate, which the configured CA has signed.
        certificate: Vec<String>,
    },
}

/// Returns the first address of the network whose addresses are counted as one source: an IPv6 /64,
/// of which nobody owns only a part (RFC 4291, section 2.5.4), or 127/8, which every local user has
/// whole (RFC 1122, section 3.2.1.3); the address itself for any other.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into())
        }
        IpAddr::V4(address) if address.is_loopback() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        address => address,
    }
}

/// Returns the peer of a Unix socket, with the credentials that it had when it connected
/// (`SO_PEERCRED`, `SO_PEERGROUPS`, `unix(7)`).
pub fn peer_of(stream: &UnixStream) -> SocketPeer {
    let identity = stream.peer_cred().ok().map(|cred| Identity {
        uid: Uid::from_raw(cred.uid()),
        gid: Gid::from_raw(cred.gid()),
        groups: groups_of(stream),
    });
    SocketPeer::Unix(identity)
}

/// Returns the peer's supplementary groups; none if the kernel does not report them, which leaves
/// the peer its primary group only.
fn groups_of(stream: &UnixStream) -> Vec<Gid> {
    // NGROUPS_MAX is 65536 (`linux/limits.h`). The second try is for users in more groups than the
    // first has room for.
    for capacity in [64usize, 65536] {
        let mut groups: Vec<libc::gid_t> = vec![0; capacity];
        let mut length = libc::socklen_t::try_from(size_of_val(&groups[..])).unwrap_or(0);
        // SAFETY: the kernel writes at most `length` bytes, which is the size of `groups`, and sets
        // `length` to the number written.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result == 0 {
            groups.truncate(length as usize / size_of::<libc::gid_t>());
            return groups.into_iter().map(Gid::from_raw).collect();
        }
    }
    Vec::new()
}
