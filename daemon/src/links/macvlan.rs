//! Macvlan devices: `IFLA_MACVLAN_*` of linux/if_link.h.

use netnsd_api::{MacvlanFields, MacvlanMode};
use rtnetlink::packet_route::link::{InfoData, InfoMacVlan, MacVlanMode};

use super::driver::{LinkDriver, SettingsChange};

/// Driver of macvlan devices.
#[derive(Debug)]
pub struct Driver;

impl LinkDriver for Driver {
    type Spec = MacvlanFields;
    type Settings = MacvlanMode;

    const KIND: &'static str = "macvlan";
    const CREATE_LABEL: &'static str = "macvlan_add";
    const SET_LABEL: &'static str = "macvlan_set";
    /// `macvlan_common_newlink()`, drivers/net/macvlan.c.
    const IS_FLAT: bool = true;

    fn settings(spec: &MacvlanFields) -> MacvlanMode {
        spec.mode
    }

    fn encode(mode: &MacvlanMode) -> Option<InfoData> {
        let mode = match mode {
            MacvlanMode::Bridge => MacVlanMode::Bridge,
            MacvlanMode::Private => MacVlanMode::Private,
            MacvlanMode::Vepa => MacVlanMode::Vepa,
            MacvlanMode::Passthru => MacVlanMode::Passthrough,
        };
        Some(InfoData::MacVlan(vec![InfoMacVlan::Mode(mode)]))
    }

    /// Mode `source` of others is shown as one that it is not, so that it is changed.
    fn decode(data: &InfoData) -> Option<MacvlanMode> {
        let InfoData::MacVlan(attributes) = data else {
            return None;
        };
        attributes.iter().find_map(|attribute| match attribute {
            InfoMacVlan::Mode(MacVlanMode::Bridge) => Some(MacvlanMode::Bridge),
            InfoMacVlan::Mode(MacVlanMode::Private) => Some(MacvlanMode::Private),
            InfoMacVlan::Mode(MacVlanMode::Passthrough) => Some(MacvlanMode::Passthru),
            InfoMacVlan::Mode(_) => Some(MacvlanMode::Vepa),
            _ => None,
        })
    }

    /// `macvlan_changelink()`, drivers/net/macvlan.c: not to or from `passthru`.
    fn change(now: &MacvlanMode, wanted: &MacvlanMode) -> SettingsChange {
        if now == wanted {
            SettingsChange::None
        } else if [now, wanted].contains(&&MacvlanMode::Passthru) {
            SettingsChange::Recreate
        } else {
            SettingsChange::InPlace
        }
    }

    fn ip_args(mode: &MacvlanMode) -> String {
        format!(" mode {mode}")
    }
}
