//! VLAN devices: `IFLA_VLAN_*` of linux/if_link.h.

use netnsd_api::{VlanFields, VlanProtocol};
use rtnetlink::packet_route::link::{self, InfoData, InfoVlan};

use super::driver::{LinkDriver, SettingsChange};

/// Driver of VLAN devices.
#[derive(Debug)]
pub struct Driver;

/// Settings of a VLAN device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "named as the API's fields")]
pub struct VlanSettings {
    pub vlan_id: u16,
    pub protocol: VlanProtocol,
}

impl LinkDriver for Driver {
    type Spec = VlanFields;
    type Settings = VlanSettings;

    const KIND: &'static str = "vlan";
    const CREATE_LABEL: &'static str = "vlan_add";
    const SET_LABEL: &'static str = "vlan_set";

    fn settings(spec: &VlanFields) -> VlanSettings {
        VlanSettings {
            vlan_id: spec.vlan_id,
            protocol: spec.protocol,
        }
    }

    fn encode(settings: &VlanSettings) -> Option<InfoData> {
        let protocol = match settings.protocol {
            VlanProtocol::Ieee8021Q => link::VlanProtocol::Ieee8021Q,
            VlanProtocol::Ieee8021Ad => link::VlanProtocol::Ieee8021Ad,
        };
        Some(InfoData::Vlan(vec![
            InfoVlan::Id(settings.vlan_id),
            InfoVlan::Protocol(protocol),
        ]))
    }

    fn decode(data: &InfoData) -> Option<VlanSettings> {
        let InfoData::Vlan(attributes) = data else {
            return None;
        };
        let mut seen = VlanSettings {
            vlan_id: 0,
            protocol: VlanProtocol::Ieee8021Q,
        };
        for attribute in attributes {
            match attribute {
                InfoVlan::Id(id) => seen.vlan_id = *id,
                InfoVlan::Protocol(link::VlanProtocol::Ieee8021Ad) => {
                    seen.protocol = VlanProtocol::Ieee8021Ad;
                }
                _ => {}
            }
        }
        Some(seen)
    }

    /// `vlan_changelink()`, net/8021q/vlan_netlink.c, changes neither.
    fn change(now: &VlanSettings, wanted: &VlanSettings) -> SettingsChange {
        if now == wanted {
            SettingsChange::None
        } else {
            SettingsChange::Recreate
        }
    }

    fn ip_args(settings: &VlanSettings) -> String {
        let VlanSettings { vlan_id, protocol } = settings;
        format!(" protocol {protocol} id {vlan_id}")
    }
}
