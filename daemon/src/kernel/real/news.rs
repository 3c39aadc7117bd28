//! What a message says that tells of a change: whom it is about, and whether that is news.

use std::collections::BTreeMap;

use nix::sys::socket::AddressFamily;

use crate::kernel::{NsChange, ROUTE_PROTOCOL_KERNEL};

/// What bridges said last of their ports, by index.
#[derive(Debug, Default)]
pub(super) struct Ports(BTreeMap<u32, Vec<u8>>);

impl Ports {
    /// Whether a bridge says once more what it said: of each port it does when the forwarding delay
    /// is over, also where nothing was delayed (`br_forward_delay_timer_expired()`,
    /// net/bridge/br_stp_timer.c).
    pub fn say_again(&mut self, notice: &Notified<'_>) -> bool {
        if !notice.is_of_bridge() {
            return false;
        }
        let Some(index) = number(notice.body, 4) else {
            return false;
        };
        let said = (notice.kind == RTM_NEWLINK)
            .then(|| port(notice.body))
            .flatten();
        match said {
            Some(said) if self.0.get(&index) == Some(&said) => return true,
            Some(said) => self.0.insert(index, said),
            None => self.0.remove(&index),
        };
        false
    }
}

/// A message that tells of a change: its type, and what follows its header (`linux/netlink.h`,
/// `linux/rtnetlink.h`).
pub(super) struct Notified<'n> {
    kind: u16,
    body: &'n [u8],
}

/// The messages of one datagram.
pub(super) fn notified(mut rest: &[u8]) -> impl Iterator<Item = Notified<'_>> {
    std::iter::from_fn(move || {
        let length = number(rest, 0)? as usize;
        let kind = u16::from_ne_bytes(rest.get(4..6)?.try_into().ok()?);
        let body = rest.get(16..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Notified { kind, body })
    })
}

impl Notified<'_> {
    /// Whether it is what a bridge says of a port.
    pub fn is_of_bridge(&self) -> bool {
        matches!(self.kind, RTM_NEWLINK | RTM_DELLINK) && self.body.first() == Some(&BRIDGE)
    }

    /// The id of a namespace, as seen from the one that says so, that is gone, or going.
    pub fn id_gone(&self) -> Option<u32> {
        // `struct rtgenmsg`, then attributes.
        let told = (self.kind == RTM_DELNSID)
            .then(|| self.body.get(4..))
            .flatten()?;
        attributes(told, |kind| kind == NETNSA_NSID)
            .next()
            .and_then(|id| number(id, 0))
    }

    /// What it is about; none if it is of no interest.
    pub fn about(&self) -> Option<NsChange> {
        let Self { kind, body } = *self;
        match kind {
            // `struct ifinfomsg`, then attributes.
            RTM_NEWLINK | RTM_DELLINK => Some(NsChange::Link {
                index: number(body, 4)?,
                name: attributes(body.get(16..)?, |kind| kind == IFLA_IFNAME)
                    .next()
                    .map(text)
                    .unwrap_or_default(),
                // `ifi_change` of a link that comes, or goes up or down; a carrier, which comes and
                // goes by itself, is none.
                presence_changed: kind == RTM_DELLINK || number(body, 12)? != 0,
            }),
            // RTM_NEWADDR, RTM_DELADDR: `struct ifaddrmsg`; link-local ones of IPv6 the kernel
            // makes by itself.
            20 | 21 => {
                let by_itself =
                    kind == 20 && (*body.first()?, *body.get(3)?) == (INET6, RT_SCOPE_LINK);
                (!by_itself).then_some(NsChange::Address(number(body, 4)?))
            }
            // RTM_NEWROUTE, RTM_DELROUTE: `struct rtmsg`, then attributes; the kernel's own come
            // with addresses, and are missed where they go alone.
            24 | 25 => match *body.get(5)? {
                ROUTE_PROTOCOL_KERNEL if kind == 25 && *body.get(7)? == RTN_UNICAST => {
                    let oif = attributes(body.get(12..)?, |kind| kind == RTA_OIF).next()?;
                    Some(NsChange::Address(number(oif, 0)?))
                }
                ROUTE_PROTOCOL_KERNEL | RTPROT_RA => None,
                _ => Some(NsChange::Routes),
            },
            // RTM_NEWNEIGH, RTM_DELNEIGH: `struct ndmsg`; of those that the kernel learns by
            // itself, and forgets, there are many. One that somebody deletes has failed by then
            // (`neigh_delete()`, net/core/neighbour.c).
            28 | 29 => {
                let (family, state) = (
                    *body.first()?,
                    u16::from_ne_bytes(body.get(8..10)?.try_into().ok()?),
                );
                let of_ip = matches!(family, INET | INET6);
                let of_interest = if kind == 28 {
                    NUD_PERMANENT
                } else {
                    NUD_PERMANENT | NUD_FAILED
                };
                (of_ip && state & of_interest != 0).then_some(NsChange::Neighbours)
            }
            // RTM_NEWNETCONF, RTM_DELNETCONF.
            80 | 81 => Some(NsChange::Sysctls),
            _ => None,
        }
    }
}

/// What a bridge says of a port, but for what changes by itself, such as timers
/// (`br_port_fill_attrs()`, net/bridge/br_netlink.c): IFLA_BRPORT_STATE to IFLA_BRPORT_LEARNING,
/// and IFLA_BRPORT_ISOLATED (`linux/if_link.h`).
fn port(body: &[u8]) -> Option<Vec<u8>> {
    let settings = attributes(body.get(16..)?, |kind| kind == IFLA_PROTINFO).next()?;
    Some(
        attributes(settings, |kind| matches!(kind, 1..=8 | 33))
            .flatten()
            .copied()
            .collect(),
    )
}

/// `linux/rtnetlink.h`, `linux/if_link.h`.
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_DELNSID: u16 = 89;
const IFLA_IFNAME: u16 = 3;
const IFLA_PROTINFO: u16 = 12;
/// `linux/net_namespace.h`.
const NETNSA_NSID: u16 = 1;
/// `NLA_TYPE_MASK`: without the flags that say how a value is written (`linux/netlink.h`).
const TYPE: u16 = 0x3fff;

/// `linux/neighbour.h`.
const NUD_FAILED: u16 = 0x20;
const NUD_PERMANENT: u16 = 0x80;

/// `linux/rtnetlink.h`.
const RT_SCOPE_LINK: u8 = 253;
const RTPROT_RA: u8 = 9;
const RTN_UNICAST: u8 = 1;
const RTA_OIF: u16 = 4;
/// `linux/socket.h`.
const INET: u8 = AddressFamily::Inet as u8;
const INET6: u8 = AddressFamily::Inet6 as u8;
const BRIDGE: u8 = AddressFamily::Bridge as u8;

/// The number at this place.
fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The values of those netlink attributes that are wanted.
fn attributes(mut rest: &[u8], wanted: impl Fn(u16) -> bool) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        loop {
            let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
            let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & TYPE;
            let value = rest.get(4..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            if wanted(kind) {
                return Some(value);
            }
        }
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
}
