//! Bridges: `IFLA_BR_*` of linux/if_link.h.

use netnsd_api::{Bridge, Centiseconds, DEFAULT_MTU, LinkSettings};
use rtnetlink::packet_route::link::{BridgeStpState, InfoBridge, InfoData};

use super::{
    attributes::{AttributeValue, link_attributes},
    driver::LinkDriver,
};

/// Driver of bridges.
#[derive(Debug)]
pub struct Driver;

impl LinkDriver for Driver {
    type Spec = Bridge;
    type Settings = BridgeSettings;

    const KIND: &'static str = "bridge";
    const CREATE_LABEL: &'static str = "bridge_add";
    const SET_LABEL: &'static str = "bridge_set";
    /// `NETIF_F_NETNS_LOCAL`, net/bridge/br_device.c.
    const CAN_MOVE: bool = false;

    fn settings(spec: &Bridge) -> BridgeSettings {
        BridgeSettings::of(spec)
    }

    fn encode(settings: &BridgeSettings) -> Option<InfoData> {
        let attributes = BridgeAttrs::encode(settings);
        (!attributes.is_empty()).then_some(InfoData::Bridge(attributes))
    }

    fn ip_args(settings: &BridgeSettings) -> String {
        BridgeAttrs::ip_args(settings)
    }

    /// An MTU given at the creation would follow the ports' (`br_mtu_auto_adjust()`,
    /// net/bridge/br_if.c).
    fn mtus_after_creation(mtu: u32) -> Option<Vec<u32>> {
        Some(bridge_mtu(DEFAULT_MTU, mtu))
    }
}

link_attributes! {
    /// Attributes of a bridge, with the kernel's defaults (`br_dev_setup()`,
    /// net/bridge/br_device.c). A kernel without VLAN filtering does not show the last two.
    BridgeAttrs, BridgeSettings, InfoBridge, flags ["0", "1"];

    stp: bool = false, "stp_state", encode_stp,
        InfoBridge::StpState(state) => *state != BridgeStpState::Disabled;
    priority: u16 = 32768, "priority", InfoBridge::Priority,
        InfoBridge::Priority(value) => *value;
    ageing_time: Centiseconds = Centiseconds(30000), "ageing_time",
        |time| InfoBridge::AgeingTime(time.0),
        InfoBridge::AgeingTime(value) => Centiseconds(*value);
    forward_delay: Centiseconds = Centiseconds(1500), "forward_delay",
        |time| InfoBridge::ForwardDelay(time.0),
        InfoBridge::ForwardDelay(value) => Centiseconds(*value);
    hello_time: Centiseconds = Centiseconds(200), "hello_time",
        |time| InfoBridge::HelloTime(time.0),
        InfoBridge::HelloTime(value) => Centiseconds(*value);
    max_age: Centiseconds = Centiseconds(2000), "max_age",
        |time| InfoBridge::MaxAge(time.0),
        InfoBridge::MaxAge(value) => Centiseconds(*value);
    multicast_snooping: bool = true, "mcast_snooping", InfoBridge::MulticastSnooping,
        InfoBridge::MulticastSnooping(value) => *value;
    vlan_filtering: bool = false, "vlan_filtering", InfoBridge::VlanFiltering,
        InfoBridge::VlanFiltering(value) => *value;
    vlan_default_pvid: u16 = 1, "vlan_default_pvid", InfoBridge::VlanDefaultPvid,
        InfoBridge::VlanDefaultPvid(value) => *value;
}

/// Settings of a bridge; what is `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "named as the API's fields")]
pub struct BridgeSettings {
    pub stp: Option<bool>,
    pub priority: Option<u16>,
    pub ageing_time: Option<Centiseconds>,
    pub forward_delay: Option<Centiseconds>,
    pub hello_time: Option<Centiseconds>,
    pub max_age: Option<Centiseconds>,
    pub multicast_snooping: Option<bool>,
    pub vlan_filtering: Option<bool>,
    pub vlan_default_pvid: Option<u16>,
}

impl BridgeSettings {
    /// Returns the settings that a bridge is asked to have. STP counts as asked for if it is on.
    pub fn of(spec: &Bridge) -> Self {
        Self {
            stp: spec.stp.then_some(true),
            priority: spec.priority,
            ageing_time: spec.ageing_time_s,
            forward_delay: spec.forward_delay_s,
            hello_time: spec.hello_time_s,
            max_age: spec.max_age_s,
            multicast_snooping: spec.multicast_snooping,
            vlan_filtering: spec.vlan_filtering,
            vlan_default_pvid: spec.vlan_default_pvid,
        }
    }

    /// Returns the times that a bridge tells others while it is the root of the spanning tree.
    pub fn root_times(&self) -> Self {
        Self {
            forward_delay: self.forward_delay,
            hello_time: self.hello_time,
            max_age: self.max_age,
            ..Self::default()
        }
    }

    /// Returns a spec that asks for these settings and is otherwise as given.
    pub fn into_spec(self, spec: Bridge) -> Bridge {
        Bridge {
            stp: self.stp.unwrap_or(spec.stp),
            priority: self.priority,
            ageing_time_s: self.ageing_time,
            forward_delay_s: self.forward_delay,
            hello_time_s: self.hello_time,
            max_age_s: self.max_age,
            multicast_snooping: self.multicast_snooping,
            vlan_filtering: self.vlan_filtering,
            vlan_default_pvid: self.vlan_default_pvid,
            ..spec
        }
    }

    /// Returns the settings as the list of links shows them.
    pub fn into_link_settings(self) -> LinkSettings {
        LinkSettings {
            stp: self.stp,
            priority: self.priority,
            ageing_time_s: self.ageing_time,
            forward_delay_s: self.forward_delay,
            hello_time_s: self.hello_time,
            max_age_s: self.max_age,
            multicast_snooping: self.multicast_snooping,
            vlan_filtering: self.vlan_filtering,
            vlan_default_pvid: self.vlan_default_pvid,
            ..LinkSettings::default()
        }
    }
}

fn encode_stp(on: bool) -> InfoBridge {
    InfoBridge::StpState(if on {
        BridgeStpState::KernelStp
    } else {
        BridgeStpState::Disabled
    })
}

/// Returns the MTUs to set one after the other so that a bridge has the wanted one and no longer
/// follows its ports: the kernel takes an MTU for asked for only when it changes
/// (`br_change_mtu()`, net/bridge/br_device.c).
pub fn bridge_mtu(now: u32, wanted: u32) -> Vec<u32> {
    let other = if wanted == u32::from(u16::MAX) {
        wanted - 1
    } else {
        wanted + 1
    };
    if wanted == now {
        vec![other, wanted]
    } else {
        vec![wanted]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unasked_setting_goes_back_to_its_default() {
        let now = BridgeAttrs {
            priority: 7,
            max_age: Centiseconds(1999),
            ..BridgeAttrs::default()
        };
        let earlier = BridgeSettings {
            priority: Some(7),
            max_age: Some(Centiseconds(2000)),
            ..BridgeSettings::default()
        };
        let changes = now.changes(&BridgeSettings::default(), &[&earlier]);
        // A time that differs by the kernel's rounding only is not set again.
        let expected = BridgeSettings {
            priority: Some(32768),
            ..BridgeSettings::default()
        };
        assert_eq!(changes, expected);
        assert_eq!(
            now.changes(&BridgeSettings::default(), &[]),
            BridgeSettings::default()
        );
    }

    #[test]
    fn encoded_settings_are_decoded_as_they_were() {
        let mut attrs = BridgeAttrs {
            stp: true,
            priority: 1,
            ageing_time: Centiseconds(2),
            forward_delay: Centiseconds(3),
            hello_time: Centiseconds(4),
            max_age: Centiseconds(5),
            multicast_snooping: false,
            vlan_filtering: true,
            vlan_default_pvid: 6,
        };
        let settings = attrs.settings();
        let mut decoded = BridgeAttrs::default();
        for attribute in BridgeAttrs::encode(&settings) {
            decoded.decode(&attribute);
        }
        assert_eq!(decoded, attrs);
        assert_eq!(attrs.non_defaults(), settings);
        attrs.apply(&BridgeAttrs::default().settings());
        assert_eq!(attrs.non_defaults(), BridgeSettings::default());
        assert_eq!(
            BridgeAttrs::ip_args(&settings),
            " stp_state 1 priority 1 ageing_time 2 forward_delay 3 hello_time 4 max_age 5 \
             mcast_snooping 0 vlan_filtering 1 vlan_default_pvid 6"
        );
    }
}
