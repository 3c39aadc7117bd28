//! Links: requests of rtnetlink(7) that are the same for every type of link.

use std::os::fd::RawFd;

use nix::libc;
use rtnetlink::{
    packet_core::{DefaultNla, Emitable, NLA_F_NESTED, NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        link::{
            AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkExtentMask,
            LinkFlags, LinkMessage, Prop,
        },
    },
};

use crate::{Error, socket::RouteSocket};

/// `IFLA_INET_CONF`, linux/if_link.h.
const IFLA_INET_CONF: u16 = 1;
/// `IPV4_DEVCONF_PROMOTE_SECONDARIES`, linux/ip.h.
const IPV4_DEVCONF_PROMOTE_SECONDARIES: u16 = 20;

/// A link, by its index or by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkId<'n> {
    /// Index in its namespace.
    Index(u32),
    /// Name in its namespace.
    Name(&'n str),
}

/// Builds a link message with these attributes; index 0 if the name is among them.
pub fn link_message(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = attributes;
    message
}

fn named_message(name: &str, attributes: impl IntoIterator<Item = LinkAttribute>) -> LinkMessage {
    let name = LinkAttribute::IfName(name.to_owned());
    link_message(0, [name].into_iter().chain(attributes).collect())
}

fn altname_message(name: &str, altname: &str) -> LinkMessage {
    named_message(
        name,
        [LinkAttribute::PropList(vec![Prop::AltIfName(
            altname.to_owned(),
        )])],
    )
}

/// Builds a request that adds an alternative name (`rtnl_linkprop()`, net/core/rtnetlink.c).
pub fn add_altname(name: &str, altname: &str) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewLinkProp(altname_message(name, altname))
}

/// Builds a request that removes an alternative name.
pub fn delete_altname(name: &str, altname: &str) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelLinkProp(altname_message(name, altname))
}

/// Returns true if a link in an answer has this alternative name.
pub fn has_altname(answer: &[RouteNetlinkMessage], altname: &str) -> bool {
    answer
        .iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(&link.attributes),
            _ => None,
        })
        .flatten()
        .any(|attribute| match attribute {
            LinkAttribute::PropList(names) => names
                .iter()
                .any(|name| matches!(name, Prop::AltIfName(name) if name == altname)),
            _ => false,
        })
}

/// Builds a request that sets one attribute of a link.
pub fn set_link(link: LinkId<'_>, attribute: LinkAttribute) -> RouteNetlinkMessage {
    RouteNetlinkMessage::SetLink(match link {
        LinkId::Index(index) => link_message(index, vec![attribute]),
        LinkId::Name(name) => named_message(name, [attribute]),
    })
}

/// Builds a request that moves a link to another namespace, under a new name or the same.
pub fn move_link(index: u32, ns: RawFd, name: &str) -> RouteNetlinkMessage {
    RouteNetlinkMessage::SetLink(link_message(
        index,
        vec![
            LinkAttribute::NetNsFd(ns),
            LinkAttribute::IfName(name.to_owned()),
        ],
    ))
}

/// Builds a request that sets a link up or down.
pub fn set_link_up(index: u32, up: bool) -> RouteNetlinkMessage {
    let mut message = link_message(index, Vec::new());
    message.header.flags = if up {
        LinkFlags::Up
    } else {
        LinkFlags::empty()
    };
    message.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(message)
}

/// Builds a request that sets how a link generates IPv6 link-local addresses (`addrgenmode` of
/// ip-link(8)): not at all if `none`, else from its MAC address.
pub fn set_addr_gen_mode(index: u32, none: bool) -> RouteNetlinkMessage {
    let mode = if none {
        In6AddrGenMode::None
    } else {
        In6AddrGenMode::Eui64
    };
    let inet6 = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)]);
    set_link(
        LinkId::Index(index),
        LinkAttribute::AfSpecUnspec(vec![inet6]),
    )
}

/// Builds a request that sets `promote_secondaries` of a link (`inet_set_link_af()`,
/// net/ipv4/devinet.c).
pub fn set_promote_secondaries(index: u32, on: bool) -> RouteNetlinkMessage {
    let setting = DefaultNla::new(
        IPV4_DEVCONF_PROMOTE_SECONDARIES,
        u32::from(on).to_ne_bytes().to_vec(),
    );
    let mut settings = vec![0; setting.buffer_len()];
    setting.emit(&mut settings);
    let inet = AfSpecInet::Other(DefaultNla::new(IFLA_INET_CONF | NLA_F_NESTED, settings));
    set_link(
        LinkId::Index(index),
        LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![inet])]),
    )
}

/// Builds a request that deletes a link.
pub fn delete_link(link: LinkId<'_>) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelLink(match link {
        LinkId::Index(index) => link_message(index, Vec::new()),
        LinkId::Name(name) => named_message(name, []),
    })
}

/// Builds a request that deletes every link of a group (`rtnl_group_dellink()`,
/// net/core/rtnetlink.c).
pub fn delete_link_group(group: u32) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelLink(link_message(0, vec![LinkAttribute::Group(group)]))
}

/// Leaves the counters out, which make up most of an answer.
fn without_counters() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

/// Builds a request for one link, without its counters.
pub fn get_link(link: LinkId<'_>) -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetLink(match link {
        LinkId::Index(index) => link_message(index, vec![without_counters()]),
        LinkId::Name(name) => named_message(name, [without_counters()]),
    })
}

/// Builds a request for the link with this alternative name, without its counters.
pub fn get_link_by_altname(altname: &str) -> RouteNetlinkMessage {
    let value = [altname.as_bytes(), &[0]].concat();
    let altname = LinkAttribute::Other(DefaultNla::new(libc::IFLA_ALT_IFNAME, value));
    RouteNetlinkMessage::GetLink(link_message(0, vec![altname, without_counters()]))
}

/// Builds a request for every link, with counters.
pub fn get_links() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetLink(LinkMessage::default())
}

/// Builds a request for every bridge port with its VLANs, in ranges (`rtnl_bridge_getlink()`,
/// net/core/rtnetlink.c).
pub fn get_port_vlans() -> RouteNetlinkMessage {
    let mask = LinkAttribute::ExtMask(vec![LinkExtentMask::BrvlanCompressed]);
    RouteNetlinkMessage::GetLink(port_message(0, mask))
}

/// Builds a message about a bridge port, with one attribute.
pub fn port_message(index: u32, attribute: LinkAttribute) -> LinkMessage {
    let mut message = link_message(index, vec![attribute]);
    message.header.interface_family = AddressFamily::Bridge;
    message
}

/// Builds a request for every link, without counters.
pub fn get_links_without_counters() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetLink(link_message(0, vec![without_counters()]))
}

impl RouteSocket {
    /// Creates a link with an alternative name, in one datagram: it never exists without. The
    /// kernel handles each message on its own, and the alternative name goes by the link's name: if
    /// that is another link's, the alternative name is removed again.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn create_link(
        &self,
        link: RouteNetlinkMessage,
        name: &str,
        altname: &str,
    ) -> Result<(), Error> {
        let refused = self.send_each(vec![
            (link, NLM_F_CREATE | NLM_F_EXCL),
            (add_altname(name, altname), 0),
        ])?;
        let error_at = |position: u32| {
            refused
                .iter()
                .find(|refusal| refusal.position == position)
                .map(|refusal| refusal.error.clone())
        };
        match (error_at(1), error_at(2)) {
            (None, None) => refused
                .into_iter()
                .next()
                .map_or(Ok(()), |refusal| Err(refusal.error)),
            (Some(error), Some(_)) => Err(error),
            (Some(error), None) => {
                self.send(delete_altname(name, altname), 0)?;
                Err(error)
            }
            // Another link has the alternative name.
            (None, Some(error)) => {
                self.send(delete_link(LinkId::Name(name)), 0)?;
                Err(error)
            }
        }
    }
}
