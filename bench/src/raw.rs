//! The floor: W(N) by raw netlink, one namespace at a time, recording nothing.

use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};
use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage as Message,
        address::{AddressAttribute, AddressMessage},
        link::{
            AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags,
            LinkInfo, LinkMessage,
        },
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    Ok(socket)
}

/// Sends messages as one datagram and takes their acks.
fn send(socket: &Socket, messages: Vec<(Message, u16)>) -> io::Result<()> {
    let mut bytes = Vec::new();
    let count = messages.len();
    for (message, flags) in messages {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len(), 0);
        message.serialize(&mut bytes[start..]);
    }
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
    let mut acks = 0;
    while acks < count {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = &answer[..];
        while rest.len() >= 16 {
            let message = NetlinkMessage::<Message>::deserialize(rest).map_err(io::Error::other)?;
            if let NetlinkPayload::Error(error) = &message.payload {
                acks += 1;
                if error.code.is_some() {
                    return Err(error.to_io());
                }
            }
            rest = &rest[(message.header.length as usize).next_multiple_of(4).min(rest.len())..];
        }
    }
    Ok(())
}

fn link(index: u32, name: Option<&str>, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = name.map(|name| LinkAttribute::IfName(name.into())).into_iter().chain(attributes).collect();
    message
}

fn up(index: u32, name: Option<&str>, attributes: Vec<LinkAttribute>) -> (Message, u16) {
    let mut message = link(index, name, attributes);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    (Message::SetLink(message), 0)
}

/// Makes W(N): a bridge, N namespaces, in each `lo` up and an `eth0` with an address and a default route.
pub fn make(n: u32) -> io::Result<()> {
    let host = open()?;
    let home = OwnedFd::from(fs::File::open("/proc/thread-self/ns/net")?);
    fs::create_dir_all("/run/netns")?;
    let info = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]);
    send(&host, vec![(Message::NewLink(link(0, Some("br0"), vec![info])), NEW), up(0, Some("br0"), vec![])])?;
    let bridge = index("br0")?;
    send(&host, vec![address(bridge, [10, 0, 0, 254], 16)])?;
    for i in 0..n {
        let path = format!("/run/netns/n{i}");
        fs::File::create_new(&path)?;
        unshare(CloneFlags::CLONE_NEWNET)?;
        let none: Option<&str> = None;
        mount(Some("/proc/thread-self/ns/net"), path.as_str(), none, MsFlags::MS_BIND, none)?;
        let inside = open()?;
        let ns = OwnedFd::from(fs::File::open(&path)?);
        setns(&home, CloneFlags::CLONE_NEWNET)?;
        let port = format!("p{i}");
        let peer = link(0, Some("eth0"), vec![LinkAttribute::NetNsFd(ns.as_raw_fd())]);
        let veth = LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]);
        send(&host, vec![(Message::NewLink(link(0, Some(&port), vec![veth])), NEW)])?;
        // The first link of a new namespace beside lo has the index 2.
        let net = [10, 0, (i / 250) as u8, (i % 250) as u8 + 1];
        send(&inside, vec![up(1, None, vec![]), address(2, net, 16), up(2, None, vec![]), default_route(2)])?;
        let no_address = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let quiet = link(0, Some(&port), vec![LinkAttribute::AfSpecUnspec(vec![no_address])]);
        send(&host, vec![(Message::SetLink(quiet), 0), up(0, Some(&port), vec![LinkAttribute::Controller(bridge)])])?;
    }
    Ok(())
}

fn address(index: u32, ip: [u8; 4], prefix_len: u8) -> (Message, u16) {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = prefix_len;
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(ip.into()), AddressAttribute::Address(ip.into())];
    (Message::NewAddress(message), NEW)
}

fn default_route(index: u32) -> (Message, u16) {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = 254;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    let gateway = RouteAddress::Inet([10, 0, 0, 254].into());
    message.attributes = vec![RouteAttribute::Gateway(gateway), RouteAttribute::Oif(index)];
    (Message::NewRoute(message), NEW)
}

fn index(name: &str) -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(name)?)
}
