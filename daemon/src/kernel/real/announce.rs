//! Announcements of addresses to neighbours: gratuitous ARP requests (RFC 5227, section 3) and
//! unsolicited neighbour advertisements (RFC 4861, section 7.2.6), one for each address.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
};

use netnsd_api::Mac;
use nix::{
    errno::Errno,
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

use netnsd_netlink::{Error, NamespaceSwitcher, NetnsFile};

use crate::kernel::Announcement;

/// Next header of ICMPv6 (RFC 4443).
const ICMPV6: u8 = 58;

/// Sends the packets from a link.
pub(super) fn announce(switcher: &NamespaceSwitcher, link: &Announcement) -> Result<(), Error> {
    let NetnsFile::Namespace(ns) = switcher.open(&link.ns)? else {
        return Err(Error::NoSuchNamespace(link.ns.clone()));
    };
    switcher.run_in(ns, || send_all(link))?;
    Ok(())
}

fn send_all(link: &Announcement) -> Result<(), Errno> {
    // Without a protocol it receives nothing (packet(7)).
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    let is_router = is_router(&link.name);
    link.addresses.iter().try_for_each(|address| match address {
        IpAddr::V4(v4) => send(&socket, link.index, &arp_request(link.mac, *v4)),
        IpAddr::V6(v6) => send(
            &socket,
            link.index,
            &advertisement(link.mac, *v6, is_router),
        ),
    })
}

/// Returns true if a link of the namespace that this thread is in forwards IPv6: its
/// neighbours stop using it as a router after an advertisement without the router flag
/// (`ndisc_recv_na()`, net/ipv6/ndisc.c).
fn is_router(link: &str) -> bool {
    let path = format!("/proc/sys/net/ipv6/conf/{link}/forwarding");
    fs::read_to_string(path).is_ok_and(|value| value.trim() != "0")
}

/// Sends a frame (packet(7)).
#[allow(unsafe_code, reason = "nix cannot make the address of a packet socket")]
fn send(socket: &OwnedFd, index: u32, frame: &[u8]) -> Result<(), Errno> {
    let mut to = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: u16::from_ne_bytes([frame[12], frame[13]]),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    };
    to.sll_addr[..6].copy_from_slice(&frame[..6]);
    let length = size_of_val(&to) as libc::socklen_t;
    let (fd, to) = (socket.as_raw_fd(), (&raw const to).cast());
    // SAFETY: both pointers are of live values of these lengths, which the kernel only reads.
    let sent = unsafe { libc::sendto(fd, frame.as_ptr().cast(), frame.len(), 0, to, length) };
    Errno::result(sent).map(drop)
}

/// Builds an ARP request for a host's own address (`struct arphdr`, linux/if_arp.h).
fn arp_request(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    const BROADCAST: [u8; 6] = [0xff; 6];
    // Ethernet, IPv4, their lengths, request.
    const HEADER: [u8; 10] = [0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1];
    let address = address.octets();
    [
        &BROADCAST[..],
        &mac.0,
        &HEADER,
        &mac.0,
        &address,
        &[0; 6],
        &address,
    ]
    .concat()
}

/// Builds a neighbour advertisement to all nodes that overrides their caches.
fn advertisement(mac: Mac, address: Ipv6Addr, is_router: bool) -> Vec<u8> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
    const LENGTH: u8 = 32;
    let flags = if is_router { 0xa0 } else { 0x20 };
    // Type, code, checksum; flags; the address; its link-layer address as an option of 8 bytes.
    let mut icmp = [
        &[136, 0, 0, 0, flags, 0, 0, 0][..],
        &address.octets(),
        &[2, 1],
        &mac.0,
    ]
    .concat();
    let pseudo = [
        &address.octets()[..],
        &ALL_NODES.octets(),
        &[0, 0, 0, LENGTH, 0, 0, 0, ICMPV6],
    ]
    .concat();
    let checksum = checksum(&[&pseudo[..], &icmp].concat());
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
    // Version 6, length, next header, hop limit 255: any other value means that it was forwarded.
    let header = [0x60, 0, 0, 0, 0, LENGTH, ICMPV6, 255];
    let ethernet = [&ALL_NODES_MAC[..], &mac.0, &[0x86, 0xdd]].concat();
    [
        &ethernet[..],
        &header,
        &address.octets(),
        &ALL_NODES.octets(),
        &icmp,
    ]
    .concat()
}

/// Computes the Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_follow_rfcs() {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let arp = arp_request(mac, Ipv4Addr::new(10, 1, 0, 1));
        assert_eq!(arp.len(), 42);
        assert_eq!(
            arp[20..],
            [
                0, 1, 2, 0, 0, 0, 0, 1, 10, 1, 0, 1, 0, 0, 0, 0, 0, 0, 10, 1, 0, 1
            ]
        );
        let address: Ipv6Addr = "fd00:1::1".parse().unwrap();
        let na = advertisement(mac, address, true);
        assert_eq!((na.len(), na[54], na[58]), (14 + 40 + 32, 136, 0xa0));
        // With its own checksum in it, the sum over everything is 0.
        let pseudo = [&na[22..54], &[0, 0, 0, 32, 0, 0, 0, ICMPV6]].concat();
        assert_eq!(checksum(&[&pseudo[..], &na[54..]].concat()), 0);
    }
}
