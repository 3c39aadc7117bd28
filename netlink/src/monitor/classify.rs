//! Classification of notifications: what changed, and whether that is new.

use std::collections::BTreeMap;

use nix::libc::{
    AF_BRIDGE, AF_INET, AF_INET6, IFLA_AF_SPEC, IFLA_IFNAME, IFLA_PROTINFO, NUD_FAILED,
    NUD_PERMANENT, RT_SCOPE_LINK, RTA_OIF, RTM_DELADDR, RTM_DELLINK, RTM_DELNEIGH, RTM_DELNETCONF,
    RTM_DELNSID, RTM_DELROUTE, RTM_DELRULE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWNEIGH, RTM_NEWNETCONF,
    RTM_NEWROUTE, RTM_NEWRULE, RTN_UNICAST, RTPROT_KERNEL,
};
use rtnetlink::packet_core::NLA_TYPE_MASK;

use crate::{NsChange, socket::NETLINK_HEADER_LEN};

/// `NETNSA_NSID`, linux/net_namespace.h.
const NETNSA_NSID: u16 = 1;
/// `RTPROT_RA`, linux/rtnetlink.h.
const RTPROT_RA: u8 = 9;
/// `IFLA_BRPORT_STATE` and `IFLA_BRPORT_PROXYARP`, the first and the last setting of a port in a
/// row, and other settings, linux/if_link.h.
const IFLA_BRPORT_STATE: u16 = 1;
const IFLA_BRPORT_PROXYARP: u16 = 10;
const IFLA_BRPORT_MULTICAST_ROUTER: u16 = 25;
const IFLA_BRPORT_MCAST_FLOOD: u16 = 27;
const IFLA_BRPORT_MCAST_TO_UCAST: u16 = 28;
const IFLA_BRPORT_BCAST_FLOOD: u16 = 30;
const IFLA_BRPORT_NEIGH_SUPPRESS: u16 = 32;
const IFLA_BRPORT_ISOLATED: u16 = 33;

const INET: u8 = AF_INET as u8;
const INET6: u8 = AF_INET6 as u8;
const BRIDGE: u8 = AF_BRIDGE as u8;

/// Last notified state of bridge ports, by ifindex.
#[derive(Debug, Default)]
pub struct PortStateCache(BTreeMap<u32, Vec<u8>>);

impl PortStateCache {
    /// Returns true if a bridge repeats the state of a port, as it does for each when the forwarding
    /// delay is over, also if nothing was delayed (`br_forward_delay_timer_expired()`,
    /// net/bridge/br_stp_timer.c).
    pub fn is_duplicate(&mut self, event: &RtnlEvent<'_>) -> bool {
        if !event.is_of_bridge() {
            return false;
        }
        let Some(index) = read_u32(event.body, 4) else {
            return false;
        };
        let state = (event.kind == RTM_NEWLINK)
            .then(|| port_state(event.body))
            .flatten();
        match state {
            Some(state) if self.0.get(&index) == Some(&state) => return true,
            Some(state) => self.0.insert(index, state),
            None => self.0.remove(&index),
        };
        false
    }
}

/// A notification: its message type, and what follows the header (linux/netlink.h,
/// linux/rtnetlink.h).
#[derive(Debug)]
pub struct RtnlEvent<'d> {
    kind: u16,
    body: &'d [u8],
}

/// Splits a datagram into notifications.
pub fn split_datagram(mut datagram: &[u8]) -> impl Iterator<Item = RtnlEvent<'_>> {
    std::iter::from_fn(move || {
        let length = read_u32(datagram, 0)? as usize;
        let kind = read_u16(datagram, 4)?;
        let body = datagram.get(NETLINK_HEADER_LEN..length)?;
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some(RtnlEvent { kind, body })
    })
}

impl RtnlEvent<'_> {
    /// Returns true if a bridge sent it about a port.
    pub(super) fn is_of_bridge(&self) -> bool {
        matches!(self.kind, RTM_NEWLINK | RTM_DELLINK) && self.body.first() == Some(&BRIDGE)
    }

    /// Returns the id of a namespace that is deleted, as seen from the namespace of the socket.
    pub fn deleted_nsid(&self) -> Option<u32> {
        if self.kind != RTM_DELNSID {
            return None;
        }
        // `struct rtgenmsg`, then attributes.
        let id = find_attribute(self.body.get(4..)?, NETNSA_NSID)?;
        read_u32(id, 0)
    }

    /// Returns the change that it reports; `None` if that is of no interest.
    pub fn classify(&self) -> Option<NsChange> {
        match self.kind {
            RTM_NEWLINK | RTM_DELLINK => self.classify_link(),
            RTM_NEWADDR | RTM_DELADDR => self.classify_address(),
            RTM_NEWROUTE | RTM_DELROUTE => self.classify_route(),
            RTM_NEWRULE | RTM_DELRULE => Some(NsChange::Rules),
            RTM_NEWNEIGH | RTM_DELNEIGH => self.classify_neighbour(),
            RTM_NEWNETCONF | RTM_DELNETCONF => Some(NsChange::Sysctls),
            _ => None,
        }
    }

    /// `struct ifinfomsg`, then attributes.
    fn classify_link(&self) -> Option<NsChange> {
        let name = find_attribute(self.body.get(16..)?, IFLA_IFNAME);
        Some(NsChange::Link {
            index: read_u32(self.body, 4)?,
            name: name.map(read_text).unwrap_or_default(),
            // `ifi_change` of a link that is created, or goes up or down. It is 0 for the carrier,
            // which changes without anybody's doing.
            presence_changed: self.kind == RTM_DELLINK || read_u32(self.body, 12)? != 0,
        })
    }

    /// `struct ifaddrmsg`. The kernel adds link-local addresses of IPv6 on its own.
    fn classify_address(&self) -> Option<NsChange> {
        let (family, scope) = (*self.body.first()?, *self.body.get(3)?);
        let is_automatic = self.kind == RTM_NEWADDR && (family, scope) == (INET6, RT_SCOPE_LINK);
        if is_automatic {
            return None;
        }
        Some(NsChange::Address(read_u32(self.body, 4)?))
    }

    /// `struct rtmsg`, then attributes. The kernel's own routes come with addresses, and matter
    /// only when they are deleted alone.
    fn classify_route(&self) -> Option<NsChange> {
        match *self.body.get(5)? {
            RTPROT_KERNEL if self.kind == RTM_DELROUTE && *self.body.get(7)? == RTN_UNICAST => {
                let oif = find_attribute(self.body.get(12..)?, RTA_OIF)?;
                Some(NsChange::Address(read_u32(oif, 0)?))
            }
            RTPROT_KERNEL | RTPROT_RA => None,
            _ => Some(NsChange::Routes),
        }
    }

    /// `struct ndmsg`. Entries that the kernel learns and forgets on its own are many. One that
    /// somebody deletes has failed by then (`neigh_delete()`, net/core/neighbour.c).
    fn classify_neighbour(&self) -> Option<NsChange> {
        let (family, state) = (*self.body.first()?, read_u16(self.body, 8)?);
        let of_interest = if self.kind == RTM_NEWNEIGH {
            NUD_PERMANENT
        } else {
            NUD_PERMANENT | NUD_FAILED
        };
        (matches!(family, INET | INET6) && state & of_interest != 0).then_some(NsChange::Neighbours)
    }
}

/// Returns the settings and the VLANs in a bridge's notification about a port, without values that change on
/// their own, such as timers (`br_port_fill_attrs()`, net/bridge/br_netlink.c).
fn port_state(body: &[u8]) -> Option<Vec<u8>> {
    let settings = find_attribute(body.get(16..)?, IFLA_PROTINFO)?;
    let vlans = find_attribute(body.get(16..)?, IFLA_AF_SPEC).unwrap_or_default();
    Some(
        attributes(settings)
            .filter(|(kind, _)| {
                matches!(
                    *kind,
                    IFLA_BRPORT_STATE
                        ..=IFLA_BRPORT_PROXYARP
                            | IFLA_BRPORT_MULTICAST_ROUTER
                            | IFLA_BRPORT_MCAST_FLOOD
                            | IFLA_BRPORT_MCAST_TO_UCAST
                            | IFLA_BRPORT_BCAST_FLOOD
                            | IFLA_BRPORT_NEIGH_SUPPRESS
                            | IFLA_BRPORT_ISOLATED
                )
            })
            .flat_map(|(_, value)| value)
            .chain(vlans)
            .copied()
            .collect(),
    )
}

fn read_u32(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn read_u16(bytes: &[u8], offset: usize) -> Option<u16> {
    let bytes = bytes.get(offset..offset + 2)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

fn read_text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
}

fn find_attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(kind, value)| (kind == wanted).then_some(value))
}

/// Iterates over netlink attributes: type, without the flags that say how the value is encoded, and
/// value.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(read_u16(bytes, 0)?);
        let kind = read_u16(bytes, 2)? & NLA_TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}
