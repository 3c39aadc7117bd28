//! The lower bound: W(N) by raw netlink messages.

use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};
use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage,
        NetlinkPayload,
    },
    packet_route::{
        AddressFamily, RouteNetlinkMessage as Message,
        address::{AddressAttribute, AddressMessage},
        link::{
            AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
            LinkFlags, LinkInfo, LinkMessage, State,
        },
        route::{
            RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
            RouteType,
        },
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

use crate::{PORTS_PER_BRIDGE, bridge_and_address, gateway_address};

/// Number of namespaces in a batch, whose acks fit into the default receive buffer of a socket.
const BATCH_SIZE: usize = 32;

/// Flags of messages that create an object.
const CREATE_FLAGS: u16 = NLM_F_CREATE | NLM_F_EXCL;

fn open_socket() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    Ok(socket)
}

/// Sends messages as one datagram, without waiting for answers.
fn send_datagram(socket: &Socket, messages: Vec<(Message, u16)>) -> io::Result<()> {
    let mut bytes = Vec::new();
    for (message, flags) in messages {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len(), 0);
        message.serialize(&mut bytes[start..]);
    }
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).map(drop)
}

/// Receives one datagram and returns its messages.
fn receive_messages(socket: &Socket) -> io::Result<Vec<NetlinkPayload<Message>>> {
    let (answer, _) = socket.recv_from_full()?;
    let mut rest = &answer[..];
    let mut messages = Vec::new();
    while rest.len() >= 16 {
        let message = NetlinkMessage::deserialize(rest).map_err(io::Error::other)?;
        rest = &rest[(message.header.length as usize)
            .next_multiple_of(4)
            .min(rest.len())..];
        messages.push(message.payload);
    }
    Ok(messages)
}

/// Sends messages as one datagram and receives their acks.
fn send_batch(socket: &Socket, messages: Vec<(Message, u16)>) -> io::Result<()> {
    let count = messages.len();
    send_datagram(
        socket,
        messages
            .into_iter()
            .map(|(message, flags)| (message, NLM_F_ACK | flags))
            .collect(),
    )?;
    let mut acks = 0;
    while acks < count {
        for message in receive_messages(socket)? {
            if let NetlinkPayload::Error(error) = message {
                acks += 1;
                if error.code.is_some() {
                    return Err(error.to_io());
                }
            }
        }
    }
    Ok(())
}

fn link_message(index: u32, name: Option<&str>, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = name
        .map(|name| LinkAttribute::IfName(name.into()))
        .into_iter()
        .chain(attributes)
        .collect();
    message
}

/// Returns a message that sets a link up.
fn set_link_up(index: u32, name: Option<&str>, attributes: Vec<LinkAttribute>) -> (Message, u16) {
    let mut message = link_message(index, name, attributes);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    (Message::SetLink(message), 0)
}

/// An applied W(N): its sockets, which also keep the namespaces alive.
pub struct AppliedNetwork {
    host: Socket,
    namespaces: Vec<Socket>,
}

/// A new namespace and a socket in it.
struct Namespace {
    socket: Socket,
    fd: OwnedFd,
}

/// The host: a socket, its namespace, and the indices of the bridges.
struct Host {
    socket: Socket,
    netns: OwnedFd,
    bridges: Vec<u32>,
}

impl Host {
    /// Creates the bridges of W(N), with their addresses.
    fn create_bridges(n: u32) -> io::Result<Self> {
        let socket = open_socket()?;
        let netns = OwnedFd::from(fs::File::open("/proc/thread-self/ns/net")?);
        fs::create_dir_all("/run/netns")?;
        let mut bridges = Vec::new();
        for i in 0..n.div_ceil(PORTS_PER_BRIDGE) {
            let (name, info) = (
                bridge_name(i),
                LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
            );
            send_batch(
                &socket,
                vec![
                    (
                        Message::NewLink(link_message(0, Some(&name), vec![info])),
                        CREATE_FLAGS,
                    ),
                    set_link_up(0, Some(&name), vec![]),
                ],
            )?;
            let index = nix::net::if_::if_nametoindex(&*name)?;
            send_batch(&socket, vec![add_address(index, gateway_address(i), 16)])?;
            bridges.push(index);
        }
        Ok(Self {
            socket,
            netns,
            bridges,
        })
    }

    /// Creates a named namespace.
    fn create_namespace(&self, i: u32) -> io::Result<Namespace> {
        let path = format!("/run/netns/n{i}");
        fs::File::create_new(&path)?;
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount(
            Some("/proc/thread-self/ns/net"),
            path.as_str(),
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )?;
        let socket = open_socket()?;
        setns(&self.netns, CloneFlags::CLONE_NEWNET)?;
        Ok(Namespace {
            socket,
            fd: fs::File::open(&path)?.into(),
        })
    }
}

/// Returns the name of a bridge.
fn bridge_name(i: u32) -> String {
    format!("br{i}")
}

/// Returns the message for a veth pair: a port on the host, its peer in the namespace.
fn create_pair(i: u32, ns: &Namespace) -> (Message, u16) {
    let peer = link_message(
        0,
        Some("eth0"),
        vec![LinkAttribute::NetNsFd(ns.fd.as_raw_fd())],
    );
    let veth = LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]);
    (
        Message::NewLink(link_message(0, Some(&format!("p{i}")), vec![veth])),
        CREATE_FLAGS,
    )
}

/// Returns the messages for a namespace: links up, address and default route.
fn configure_namespace(i: u32) -> Vec<(Message, u16)> {
    let (bridge, net) = bridge_and_address(i);
    // The first link of a new namespace after lo has the index 2.
    vec![
        set_link_up(1, None, vec![]),
        add_address(2, net, 16),
        set_link_up(2, None, vec![]),
        add_default_route(2, gateway_address(bridge)),
    ]
}

/// Returns the messages for a port: no IPv6 address, enslaved, up.
fn configure_port(i: u32, bridges: &[u32]) -> [(Message, u16); 2] {
    let (name, bridge) = (format!("p{i}"), bridges[bridge_and_address(i).0 as usize]);
    let no_address = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    let without_address = link_message(
        0,
        Some(&name),
        vec![LinkAttribute::AfSpecUnspec(vec![no_address])],
    );
    [
        (Message::SetLink(without_address), 0),
        set_link_up(0, Some(&name), vec![LinkAttribute::Controller(bridge)]),
    ]
}

/// Applies W(N) in batches.
pub fn apply(n: u32) -> io::Result<AppliedNetwork> {
    let host = Host::create_bridges(n)?;
    let mut sockets = Vec::new();
    for batch in (0..n).collect::<Vec<_>>().chunks(BATCH_SIZE) {
        let namespaces: Vec<(u32, Namespace)> = batch
            .iter()
            .map(|i| Ok((*i, host.create_namespace(*i)?)))
            .collect::<io::Result<_>>()?;
        send_batch(
            &host.socket,
            namespaces
                .iter()
                .map(|(i, ns)| create_pair(*i, ns))
                .collect(),
        )?;
        for (i, ns) in &namespaces {
            send_batch(&ns.socket, configure_namespace(*i))?;
        }
        sockets.extend(namespaces.into_iter().map(|(_, ns)| ns.socket));
    }
    // Last: multicast that a namespace sends when its link comes up is flooded to all ports that are
    // up by then.
    for batch in (0..n).collect::<Vec<_>>().chunks(BATCH_SIZE) {
        send_batch(
            &host.socket,
            batch
                .iter()
                .flat_map(|i| configure_port(*i, &host.bridges))
                .collect(),
        )?;
    }
    Ok(AppliedNetwork {
        host: host.socket,
        namespaces: sockets,
    })
}

/// Applies W(N) one namespace after the other, and calls `record` after each.
pub fn apply_singly(n: u32, mut record: impl FnMut(u32) -> io::Result<()>) -> io::Result<()> {
    let host = Host::create_bridges(n)?;
    for i in 0..n {
        let ns = host.create_namespace(i)?;
        send_batch(&host.socket, vec![create_pair(i, &ns)])?;
        send_batch(&ns.socket, configure_namespace(i))?;
        send_batch(&host.socket, configure_port(i, &host.bridges).into())?;
        record(i)?;
    }
    Ok(())
}

impl AppliedNetwork {
    /// Dumps links, addresses and routes of all namespaces through a new socket in each; returns the
    /// number of messages.
    pub fn dump(&self) -> io::Result<usize> {
        let netns = fs::File::open("/proc/thread-self/ns/net")?;
        let mut count = dump_namespace(&self.host)?;
        for i in 0..self.namespaces.len() {
            setns(
                fs::File::open(format!("/run/netns/n{i}"))?,
                CloneFlags::CLONE_NEWNET,
            )?;
            let socket = open_socket();
            setns(&netns, CloneFlags::CLONE_NEWNET)?;
            count += dump_namespace(&socket?)?;
        }
        Ok(count)
    }

    /// Deletes everything, the links as one group: their deletions share an RCU grace period.
    pub fn delete(self) -> io::Result<()> {
        let n = self.namespaces.len() as u32;
        const GROUP: u32 = 4711;
        for batch in (0..n).collect::<Vec<_>>().chunks(BATCH_SIZE) {
            let set_group = |i: &u32| {
                let message =
                    link_message(0, Some(&format!("p{i}")), vec![LinkAttribute::Group(GROUP)]);
                (Message::SetLink(message), 0)
            };
            send_batch(&self.host, batch.iter().map(set_group).collect())?;
        }
        send_batch(
            &self.host,
            vec![(
                Message::DelLink(link_message(0, None, vec![LinkAttribute::Group(GROUP)])),
                0,
            )],
        )?;
        let delete_bridge = |i| {
            (
                Message::DelLink(link_message(0, Some(&bridge_name(i)), vec![])),
                0,
            )
        };
        send_batch(
            &self.host,
            (0..n.div_ceil(PORTS_PER_BRIDGE))
                .map(delete_bridge)
                .collect(),
        )?;
        for i in 0..n {
            let path = format!("/run/netns/n{i}");
            umount2(path.as_str(), MntFlags::MNT_DETACH)?;
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

/// Observes links of the namespace that it was opened in.
pub struct LinkObserver(Socket);

impl LinkObserver {
    pub fn open() -> io::Result<Self> {
        open_socket().map(Self)
    }

    /// Returns true if a link exists, is in a bridge, and is operational.
    pub fn is_port_up(&self, name: &str) -> io::Result<bool> {
        send_datagram(
            &self.0,
            vec![(Message::GetLink(link_message(0, Some(name), vec![])), 0)],
        )?;
        let Some(NetlinkPayload::InnerMessage(Message::NewLink(found))) =
            receive_messages(&self.0)?.pop()
        else {
            return Ok(false);
        };
        let has = |predicate: fn(&LinkAttribute) -> bool| found.attributes.iter().any(predicate);
        Ok(
            has(|attribute| matches!(attribute, LinkAttribute::Controller(_)))
                && has(|attribute| matches!(attribute, LinkAttribute::OperState(State::Up))),
        )
    }
}

/// Dumps links, addresses and routes of a socket's namespace; returns the number of messages.
fn dump_namespace(socket: &Socket) -> io::Result<usize> {
    let requests = [
        Message::GetLink(LinkMessage::default()),
        Message::GetAddress(AddressMessage::default()),
        Message::GetRoute(RouteMessage::default()),
    ];
    let mut count = 0;
    for request in requests {
        send_datagram(socket, vec![(request, NLM_F_DUMP)])?;
        let mut more = true;
        while more {
            for message in receive_messages(socket)? {
                more = matches!(message, NetlinkPayload::InnerMessage(_));
                count += usize::from(more);
            }
        }
    }
    Ok(count)
}

fn add_address(index: u32, ip: [u8; 4], prefix_len: u8) -> (Message, u16) {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = prefix_len;
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(ip.into()),
        AddressAttribute::Address(ip.into()),
    ];
    (Message::NewAddress(message), CREATE_FLAGS)
}

fn add_default_route(index: u32, gateway: [u8; 4]) -> (Message, u16) {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    let gateway = RouteAddress::Inet(gateway.into());
    message.attributes = vec![RouteAttribute::Gateway(gateway), RouteAttribute::Oif(index)];
    (Message::NewRoute(message), CREATE_FLAGS)
}
