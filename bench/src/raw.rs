//! What the kernel itself asks for: W(N) by raw netlink.

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
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

use crate::{PORTS, gateway, place};

/// How many namespaces are made together. Their acks fit into the default buffer of a socket.
const BATCH: usize = 32;

const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    Ok(socket)
}

/// Sends messages as one datagram.
fn post(socket: &Socket, messages: Vec<(Message, u16)>) -> io::Result<()> {
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

/// The messages of one datagram that came back.
fn receive(socket: &Socket) -> io::Result<Vec<NetlinkPayload<Message>>> {
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

/// Sends messages as one datagram and takes their acks.
fn send(socket: &Socket, messages: Vec<(Message, u16)>) -> io::Result<()> {
    let count = messages.len();
    post(
        socket,
        messages
            .into_iter()
            .map(|(message, flags)| (message, NLM_F_ACK | flags))
            .collect(),
    )?;
    let mut acks = 0;
    while acks < count {
        for message in receive(socket)? {
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

fn link(index: u32, name: Option<&str>, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = name
        .map(|name| LinkAttribute::IfName(name.into()))
        .into_iter()
        .chain(attributes)
        .collect();
    message
}

fn up(index: u32, name: Option<&str>, attributes: Vec<LinkAttribute>) -> (Message, u16) {
    let mut message = link(index, name, attributes);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    (Message::SetLink(message), 0)
}

/// What it takes to go on with a W(N) that was made: the sockets, which hold the namespaces too.
pub struct Made {
    host: Socket,
    inside: Vec<Socket>,
}

/// A namespace that was made: its socket, and itself.
struct Namespace {
    socket: Socket,
    fd: OwnedFd,
}

/// A host's side: its socket, its own namespace, the indices of the bridges.
struct Host {
    socket: Socket,
    home: OwnedFd,
    bridges: Vec<u32>,
}

impl Host {
    /// Makes the bridges of so many namespaces, with their addresses.
    fn start(n: u32) -> io::Result<Self> {
        let socket = open()?;
        let home = OwnedFd::from(fs::File::open("/proc/thread-self/ns/net")?);
        fs::create_dir_all("/run/netns")?;
        let mut bridges = Vec::new();
        for i in 0..n.div_ceil(PORTS) {
            let (name, info) = (
                bridge(i),
                LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
            );
            send(
                &socket,
                vec![
                    (Message::NewLink(link(0, Some(&name), vec![info])), NEW),
                    up(0, Some(&name), vec![]),
                ],
            )?;
            let index = nix::net::if_::if_nametoindex(&*name)?;
            send(&socket, vec![address(index, gateway(i), 16)])?;
            bridges.push(index);
        }
        Ok(Self {
            socket,
            home,
            bridges,
        })
    }

    fn namespace(&self, i: u32) -> io::Result<Namespace> {
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
        let socket = open()?;
        setns(&self.home, CloneFlags::CLONE_NEWNET)?;
        Ok(Namespace {
            socket,
            fd: fs::File::open(&path)?.into(),
        })
    }
}

/// The name of a bridge.
fn bridge(i: u32) -> String {
    format!("br{i}")
}

/// The pair: a port on the host, its peer made inside the namespace.
fn pair(i: u32, ns: &Namespace) -> (Message, u16) {
    let peer = link(
        0,
        Some("eth0"),
        vec![LinkAttribute::NetNsFd(ns.fd.as_raw_fd())],
    );
    let veth = LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]);
    (
        Message::NewLink(link(0, Some(&format!("p{i}")), vec![veth])),
        NEW,
    )
}

/// All that is done inside a namespace.
fn inside(i: u32) -> Vec<(Message, u16)> {
    let (bridge, net) = place(i);
    // The first link of a new namespace beside lo has the index 2.
    vec![
        up(1, None, vec![]),
        address(2, net, 16),
        up(2, None, vec![]),
        default_route(2, gateway(bridge)),
    ]
}

/// The port made ready: no IPv6 address of its own, enslaved, up.
fn port(i: u32, bridges: &[u32]) -> [(Message, u16); 2] {
    let (name, bridge) = (format!("p{i}"), bridges[place(i).0 as usize]);
    let no_address = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    let quiet = link(
        0,
        Some(&name),
        vec![LinkAttribute::AfSpecUnspec(vec![no_address])],
    );
    [
        (Message::SetLink(quiet), 0),
        up(0, Some(&name), vec![LinkAttribute::Controller(bridge)]),
    ]
}

/// The floor: W(N) in batches, a bridge, N namespaces, in each `lo` up and an `eth0` with an
/// address and a default route.
pub fn make(n: u32) -> io::Result<Made> {
    let host = Host::start(n)?;
    let mut made = Vec::new();
    for batch in (0..n).collect::<Vec<_>>().chunks(BATCH) {
        let namespaces: Vec<(u32, Namespace)> = batch
            .iter()
            .map(|i| Ok((*i, host.namespace(*i)?)))
            .collect::<io::Result<_>>()?;
        send(
            &host.socket,
            namespaces.iter().map(|(i, ns)| pair(*i, ns)).collect(),
        )?;
        for (i, ns) in &namespaces {
            send(&ns.socket, inside(*i))?;
        }
        made.extend(namespaces.into_iter().map(|(_, ns)| ns.socket));
    }
    // Last: what a namespace says when its link comes up is flooded to every port that is up by
    // then.
    for batch in (0..n).collect::<Vec<_>>().chunks(BATCH) {
        send(
            &host.socket,
            batch.iter().flat_map(|i| port(*i, &host.bridges)).collect(),
        )?;
    }
    Ok(Made {
        host: host.socket,
        inside: made,
    })
}

/// W(N) one namespace after the other, `recorded` after each.
pub fn make_singly(n: u32, mut recorded: impl FnMut(u32) -> io::Result<()>) -> io::Result<()> {
    let host = Host::start(n)?;
    for i in 0..n {
        let ns = host.namespace(i)?;
        send(&host.socket, vec![pair(i, &ns)])?;
        send(&ns.socket, inside(i))?;
        send(&host.socket, port(i, &host.bridges).into())?;
        recorded(i)?;
    }
    Ok(())
}

impl Made {
    /// Asks for links, addresses and routes everywhere, through a new socket in each namespace; the
    /// number of answers.
    pub fn dump(&self) -> io::Result<usize> {
        let home = fs::File::open("/proc/thread-self/ns/net")?;
        let mut count = dump(&self.host)?;
        for i in 0..self.inside.len() {
            setns(
                fs::File::open(format!("/run/netns/n{i}"))?,
                CloneFlags::CLONE_NEWNET,
            )?;
            let socket = open();
            setns(&home, CloneFlags::CLONE_NEWNET)?;
            count += dump(&socket?)?;
        }
        Ok(count)
    }

    /// Deletes it all, the links as one group: their deletions share a grace period of the kernel.
    pub fn delete(self) -> io::Result<()> {
        let n = self.inside.len() as u32;
        const GROUP: u32 = 4711;
        for batch in (0..n).collect::<Vec<_>>().chunks(BATCH) {
            let join = |i: &u32| {
                let message = link(0, Some(&format!("p{i}")), vec![LinkAttribute::Group(GROUP)]);
                (Message::SetLink(message), 0)
            };
            send(&self.host, batch.iter().map(join).collect())?;
        }
        send(
            &self.host,
            vec![(
                Message::DelLink(link(0, None, vec![LinkAttribute::Group(GROUP)])),
                0,
            )],
        )?;
        let away = |i| (Message::DelLink(link(0, Some(&bridge(i)), vec![])), 0);
        send(&self.host, (0..n.div_ceil(PORTS)).map(away).collect())?;
        for i in 0..n {
            let path = format!("/run/netns/n{i}");
            umount2(path.as_str(), MntFlags::MNT_DETACH)?;
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

/// Looks at links of the namespace that it was opened in.
pub struct Eyes(Socket);

impl Eyes {
    pub fn open() -> io::Result<Self> {
        open().map(Self)
    }

    /// Whether a link is there, in a bridge, and operational.
    pub fn is_port_up(&self, name: &str) -> io::Result<bool> {
        post(
            &self.0,
            vec![(Message::GetLink(link(0, Some(name), vec![])), 0)],
        )?;
        let Some(NetlinkPayload::InnerMessage(Message::NewLink(found))) = receive(&self.0)?.pop()
        else {
            return Ok(false);
        };
        let has = |wanted: fn(&LinkAttribute) -> bool| found.attributes.iter().any(wanted);
        Ok(
            has(|attribute| matches!(attribute, LinkAttribute::Controller(_)))
                && has(|attribute| matches!(attribute, LinkAttribute::OperState(State::Up))),
        )
    }
}

/// Links, addresses and routes of a socket's namespace: how many messages came.
fn dump(socket: &Socket) -> io::Result<usize> {
    let questions = [
        Message::GetLink(LinkMessage::default()),
        Message::GetAddress(AddressMessage::default()),
        Message::GetRoute(RouteMessage::default()),
    ];
    let mut count = 0;
    for question in questions {
        post(socket, vec![(question, NLM_F_DUMP)])?;
        let mut more = true;
        while more {
            for message in receive(socket)? {
                more = matches!(message, NetlinkPayload::InnerMessage(_));
                count += usize::from(more);
            }
        }
    }
    Ok(count)
}

fn address(index: u32, ip: [u8; 4], prefix_len: u8) -> (Message, u16) {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = prefix_len;
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(ip.into()),
        AddressAttribute::Address(ip.into()),
    ];
    (Message::NewAddress(message), NEW)
}

fn default_route(index: u32, gateway: [u8; 4]) -> (Message, u16) {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = 254;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    let gateway = RouteAddress::Inet(gateway.into());
    message.attributes = vec![RouteAttribute::Gateway(gateway), RouteAttribute::Oif(index)];
    (Message::NewRoute(message), NEW)
}
