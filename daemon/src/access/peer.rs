//! The other side of a connection, as the kernel knows it.

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

/// Where a connection comes from.
#[derive(Debug, Clone)]
pub enum SocketPeer {
    /// A Unix socket; none where the kernel does not say who is there.
    Unix(Option<Identity>),
    /// An address.
    Tcp {
        /// Which.
        address: SocketAddr,
        /// Whether it came to an address of loopback.
        to_loopback: bool,
        /// The names of its certificate, which one of ours vouches for.
        certificate: Vec<String>,
    },
}

/// Returns the first address of the network that counts as one with an address. Nobody owns only a
/// part of an IPv6 /64 (RFC 4291, section 2.5.4), and every local user has all of 127/8 (RFC 1122,
/// section 3.2.1.3).
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into())
        }
        IpAddr::V4(address) if address.is_loopback() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        address => address,
    }
}

/// Who is on the other side of a Unix socket (`SO_PEERCRED`, `SO_PEERGROUPS`, `unix(7)`): as it was
/// when it connected.
pub fn peer_of(stream: &UnixStream) -> SocketPeer {
    let identity = stream.peer_cred().ok().map(|cred| Identity {
        uid: Uid::from_raw(cred.uid()),
        gid: Gid::from_raw(cred.gid()),
        groups: groups_of(stream),
    });
    SocketPeer::Unix(identity)
}

/// The other side's supplementary groups. A kernel that does not tell them leaves it with its own
/// group only.
fn groups_of(stream: &UnixStream) -> Vec<Gid> {
    // NGROUPS_MAX is 65536 (`linux/limits.h`); who is in more groups than fit here is asked about
    // again.
    for room in [64usize, 65536] {
        let mut groups: Vec<libc::gid_t> = vec![0; room];
        let mut length = libc::socklen_t::try_from(size_of_val(&groups[..])).unwrap_or(0);
        // SAFETY: the kernel writes at most `length` bytes, which is how much room there is, and
        // sets it to what it wrote.
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
