//! VXLAN devices: Ethernet frames in UDP packets of another network (RFC 7348).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Base, LinkTypeFields, Lower};
use crate::{
    Address, Code, FieldError, Name,
    kinds::{
        checks::{check_count, check_unique},
        enabled,
    },
};

/// Highest network identifier (`VXLAN_VNI_MASK`, net/vxlan.h).
const MAX_VNI: u32 = 0x00ff_ffff;
/// Port of VXLAN that IANA has assigned.
const VXLAN_PORT: u16 = 4789;
/// Most addresses that flooded frames are sent to.
const MAX_REMOTES: usize = 1024;
/// Bytes of the headers around a frame: Ethernet, IP, UDP, VXLAN.
const OVERHEAD: [u32; 2] = [50, 70];

/// Fields of a VXLAN device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VxlanFields {
    /// Network identifier, 1 to 16777215.
    #[schema(minimum = 1, maximum = 16_777_215)]
    pub vni: u32,
    /// The managed namespace whose addresses and routes the UDP packets use; null: the host's.
    #[serde(default)]
    pub underlay: Option<Name>,
    /// The device of the underlay that the UDP packets leave by; null: as its routes say.
    #[serde(default)]
    pub lower: Option<Lower>,
    /// Source address of the UDP packets; null: the kernel's choice.
    #[serde(default)]
    pub local: Option<Address>,
    /// Addresses to which flooded frames are sent.
    #[serde(default)]
    #[schema(max_items = 1024)]
    pub remotes: Vec<Address>,
    /// Multicast group to which flooded frames are sent; needs `lower`.
    #[serde(default)]
    pub group: Option<Address>,
    /// UDP port.
    #[serde(default = "default_port")]
    #[schema(minimum = 1)]
    pub udp_port: u16,
    /// True if the addresses behind which MAC addresses are seen are learned.
    #[serde(default = "enabled")]
    pub learning: bool,
    /// TTL of the UDP packets, 1 to 255; null: the kernel's choice.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub ttl: Option<u8>,
}

const fn default_port() -> u16 {
    VXLAN_PORT
}

impl VxlanFields {
    /// Returns the addresses of others, each with its field.
    fn far_addresses(&self) -> impl Iterator<Item = (String, IpAddr)> {
        let group = self
            .group
            .iter()
            .map(|group| ("/group".to_owned(), group.0));
        let remotes = self.remotes.iter().enumerate();
        group.chain(remotes.map(|(i, remote)| (format!("/remotes/{i}"), remote.0)))
    }

    /// Returns the bytes by which the MTU is below that of the underlay.
    pub fn overhead(&self) -> u32 {
        let local = self.local.map(|local| local.0);
        let mut addresses = self
            .far_addresses()
            .map(|(_, address)| address)
            .chain(local);
        OVERHEAD[usize::from(addresses.any(|address| address.is_ipv6()))]
    }

    fn check_families(&self) -> Result<(), FieldError> {
        let local = self.local.map(|local| ("/local".to_owned(), local.0));
        let mut all = local.into_iter().chain(self.far_addresses());
        let Some((first, address)) = all.next() else {
            return Ok(());
        };
        match all.find(|(_, other)| other.is_ipv6() != address.is_ipv6()) {
            Some((pointer, other)) => {
                let field = first.trim_start_matches('/');
                let detail = format!(
                    "{other} and {address} of {field} are of two families: write IPv4 addresses or IPv6 ones"
                );
                Err(FieldError::new(Code::InvalidField, pointer, detail))
            }
            None => Ok(()),
        }
    }

    fn check_group(&self) -> Result<(), FieldError> {
        let Some(group) = self.group else {
            return Ok(());
        };
        let detail = if !group.0.is_multicast() {
            format!("{group} is not a multicast address: write others in remotes")
        } else if self.lower.is_none() {
            format!("the group {group} is joined on a device: set lower")
        } else {
            return Ok(());
        };
        Err(FieldError::at(Code::InvalidField, &["group"], detail))
    }

    fn check_remotes(&self) -> Result<(), FieldError> {
        check_count("remotes", self.remotes.len(), MAX_REMOTES)?;
        check_unique(
            "remotes",
            self.remotes.iter().map(|remote| (remote.0, remote)),
        )?;
        let is_wrong = |address: IpAddr| address.is_multicast() || address.is_unspecified();
        match self.remotes.iter().position(|remote| is_wrong(remote.0)) {
            Some(i) => {
                let detail = format!(
                    "{} is not the address of a host: a multicast address is the group",
                    self.remotes[i]
                );
                Err(FieldError::at(
                    Code::InvalidField,
                    &["remotes", &i.to_string()],
                    detail,
                ))
            }
            None => Ok(()),
        }
    }
}

impl LinkTypeFields for VxlanFields {
    fn base(&self) -> Base<'_> {
        Base::Underlay {
            namespace: self.underlay.as_ref(),
            lower: self.lower.as_ref(),
        }
    }

    fn remotes(&self) -> &[Address] {
        &self.remotes
    }

    fn routed_addresses(&self) -> Vec<IpAddr> {
        let remotes = self.remotes.iter().filter(|_| self.lower.is_none());
        remotes.map(|remote| remote.0).collect()
    }

    fn check(&self) -> Result<(), FieldError> {
        let invalid =
            |field: &str, detail: String| Err(FieldError::at(Code::InvalidField, &[field], detail));
        if !(1..=MAX_VNI).contains(&self.vni) {
            return invalid(
                "vni",
                format!("{} is not a VNI: 1 to {MAX_VNI} are", self.vni),
            );
        }
        if self.udp_port == 0 {
            return invalid(
                "udp_port",
                format!("0 is not a port: {VXLAN_PORT} is usual"),
            );
        }
        if self.ttl == Some(0) {
            return invalid(
                "ttl",
                "0 is not a TTL: 1 to 255 are; leave it out".to_owned(),
            );
        }
        if let Some(lower) = &self.lower
            && lower.namespace != self.underlay
        {
            let detail = "the lower device of a vxlan is in its underlay: write the same namespace";
            return Err(FieldError::new(
                Code::InvalidField,
                "/lower/namespace",
                detail,
            ));
        }
        self.check_group()?;
        self.check_remotes()?;
        self.check_families()
    }
}
