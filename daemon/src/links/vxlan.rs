//! VXLAN devices: `IFLA_VXLAN_*` of linux/if_link.h.

use std::net::IpAddr;

use netnsd_api::VxlanFields;
use rtnetlink::packet_route::link::{InfoData, InfoVxlan};

use super::driver::{LinkDriver, SettingsChange};

/// Driver of VXLAN devices.
#[derive(Debug)]
pub struct Driver;

/// Settings of a VXLAN device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "named as the API's fields")]
pub struct VxlanSettings {
    pub vni: u32,
    pub local: Option<IpAddr>,
    pub group: Option<IpAddr>,
    pub udp_port: u16,
    pub learning: bool,
    /// TTL; 0 is the kernel's choice.
    pub ttl: u8,
    /// Bytes of the headers around a frame; 0 if the kernel is asked, which does not show it.
    overhead: u32,
}

impl VxlanSettings {
    /// Returns true if they differ only in what the kernel changes in place.
    fn is_alike(&self, other: &Self) -> bool {
        let fixed = |settings: &Self| {
            (
                settings.vni,
                settings.local,
                settings.group,
                settings.udp_port,
            )
        };
        fixed(self) == fixed(other)
    }
}

impl LinkDriver for Driver {
    type Spec = VxlanFields;
    type Settings = VxlanSettings;

    const KIND: &'static str = "vxlan";
    const CREATE_LABEL: &'static str = "vxlan_add";
    const SET_LABEL: &'static str = "vxlan_set";

    fn settings(spec: &VxlanFields) -> VxlanSettings {
        VxlanSettings {
            vni: spec.vni,
            local: spec.local.map(|local| local.0),
            group: spec.group.map(|group| group.0),
            udp_port: spec.udp_port,
            learning: spec.learning,
            ttl: spec.ttl.unwrap_or(0),
            overhead: spec.overhead(),
        }
    }

    fn encode(settings: &VxlanSettings) -> Option<InfoData> {
        let mut attributes = vec![
            InfoVxlan::Id(settings.vni),
            InfoVxlan::Port(settings.udp_port),
            InfoVxlan::Learning(settings.learning),
        ];
        attributes.extend((settings.ttl != 0).then_some(InfoVxlan::Ttl(settings.ttl)));
        attributes.extend(settings.local.map(|local| match local {
            IpAddr::V4(v4) => InfoVxlan::Local(v4),
            IpAddr::V6(v6) => InfoVxlan::Local6(v6),
        }));
        attributes.extend(settings.group.map(|group| match group {
            IpAddr::V4(v4) => InfoVxlan::Group(v4),
            IpAddr::V6(v6) => InfoVxlan::Group6(v6),
        }));
        Some(InfoData::Vxlan(attributes))
    }

    fn encode_change(settings: &VxlanSettings) -> Option<InfoData> {
        Some(InfoData::Vxlan(vec![
            InfoVxlan::Learning(settings.learning),
            InfoVxlan::Ttl(settings.ttl),
        ]))
    }

    fn decode(data: &InfoData) -> Option<VxlanSettings> {
        let InfoData::Vxlan(attributes) = data else {
            return None;
        };
        let mut seen = VxlanSettings {
            vni: 0,
            local: None,
            group: None,
            udp_port: 0,
            learning: false,
            ttl: 0,
            overhead: 0,
        };
        for attribute in attributes {
            match attribute {
                InfoVxlan::Id(id) => seen.vni = *id,
                InfoVxlan::Local(v4) => seen.local = Some(IpAddr::V4(*v4)),
                InfoVxlan::Local6(v6) => seen.local = Some(IpAddr::V6(*v6)),
                InfoVxlan::Group(v4) => seen.group = Some(IpAddr::V4(*v4)),
                InfoVxlan::Group6(v6) => seen.group = Some(IpAddr::V6(*v6)),
                InfoVxlan::Port(port) => seen.udp_port = *port,
                InfoVxlan::Learning(learning) => seen.learning = *learning,
                InfoVxlan::Ttl(ttl) => seen.ttl = *ttl,
                _ => {}
            }
        }
        Some(seen)
    }

    /// `vxlan_changelink()`, drivers/net/vxlan/vxlan_core.c.
    fn change(now: &VxlanSettings, wanted: &VxlanSettings) -> SettingsChange {
        if !now.is_alike(wanted) {
            SettingsChange::Recreate
        } else if (now.learning, now.ttl) != (wanted.learning, wanted.ttl) {
            SettingsChange::InPlace
        } else {
            SettingsChange::None
        }
    }

    fn ip_args(settings: &VxlanSettings) -> String {
        let VxlanSettings { vni, udp_port, .. } = settings;
        let mut args = format!(" id {vni} dstport {udp_port}{}", changeable_args(settings));
        if let Some(local) = settings.local {
            args += &format!(" local {local}");
        }
        if let Some(group) = settings.group {
            args += &format!(" group {group}");
        }
        args
    }

    fn ip_change_args(settings: &VxlanSettings) -> String {
        format!(" id {}{}", settings.vni, changeable_args(settings))
    }

    fn overhead(settings: &VxlanSettings) -> Option<u32> {
        Some(settings.overhead)
    }
}

fn changeable_args(settings: &VxlanSettings) -> String {
    let learning = if settings.learning {
        "learning"
    } else {
        "nolearning"
    };
    format!(" {learning} ttl {}", settings.ttl)
}
