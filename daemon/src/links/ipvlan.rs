//! Ipvlan devices: `IFLA_IPVLAN_*` of linux/if_link.h.

use netnsd_api::{IpvlanFields, IpvlanMode};
use rtnetlink::packet_route::link::{InfoData, InfoIpVlan, IpVlanMode};

use super::driver::{LinkDriver, SettingsChange};

/// Driver of ipvlan devices.
#[derive(Debug)]
pub struct Driver;

impl LinkDriver for Driver {
    type Spec = IpvlanFields;
    type Settings = IpvlanMode;

    const KIND: &'static str = "ipvlan";
    const CREATE_LABEL: &'static str = "ipvlan_add";
    const SET_LABEL: &'static str = "ipvlan_set";
    /// `ipvlan_link_new()`, drivers/net/ipvlan/ipvlan_main.c.
    const IS_FLAT: bool = true;

    fn settings(spec: &IpvlanFields) -> IpvlanMode {
        spec.mode
    }

    fn encode(mode: &IpvlanMode) -> Option<InfoData> {
        let mode = match mode {
            IpvlanMode::L2 => IpVlanMode::L2,
            IpvlanMode::L3 => IpVlanMode::L3,
            IpvlanMode::L3s => IpVlanMode::L3S,
        };
        Some(InfoData::IpVlan(vec![InfoIpVlan::Mode(mode)]))
    }

    fn decode(data: &InfoData) -> Option<IpvlanMode> {
        let InfoData::IpVlan(attributes) = data else {
            return None;
        };
        attributes.iter().find_map(|attribute| match attribute {
            InfoIpVlan::Mode(IpVlanMode::L2) => Some(IpvlanMode::L2),
            InfoIpVlan::Mode(IpVlanMode::L3) => Some(IpvlanMode::L3),
            InfoIpVlan::Mode(IpVlanMode::L3S) => Some(IpvlanMode::L3s),
            _ => None,
        })
    }

    /// The mode is that of all ipvlan devices of one lower device (`ipvlan_set_port_mode()`,
    /// drivers/net/ipvlan/ipvlan_main.c).
    fn change(now: &IpvlanMode, wanted: &IpvlanMode) -> SettingsChange {
        if now == wanted {
            SettingsChange::None
        } else {
            SettingsChange::InPlace
        }
    }

    fn ip_args(mode: &IpvlanMode) -> String {
        format!(" mode {mode}")
    }
}
