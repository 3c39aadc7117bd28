//! Bridges: `IFLA_BR_*` of linux/if_link.h.

use netnsd_api::{Bridge, Centiseconds, DEFAULT_MTU, GroupAddr, LinkSettings, VlanProtocol};
use rtnetlink::packet_route::link::{
    BridgeStpState, InfoBridge, InfoData, VlanProtocol as KernelVlanProtocol,
};

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
    /// net/bridge/br_device.c; `br_multicast_ctx_init()`, net/bridge/br_multicast.c). A kernel
    /// without VLAN filtering does not show those of VLANs.
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
    vlan_protocol: VlanProtocol = VlanProtocol::Ieee8021Q, "vlan_protocol", encode_vlan_protocol,
        InfoBridge::VlanProtocol(value) => vlan_protocol(*value);
    group_fwd_mask: u16 = 0, "group_fwd_mask", InfoBridge::GroupFwdMask,
        InfoBridge::GroupFwdMask(value) => *value;
    group_addr: GroupAddr = GroupAddr::BRIDGES, "group_address",
        |address| InfoBridge::GroupAddr(address.bytes()),
        InfoBridge::GroupAddr(value) => GroupAddr::from_bytes(*value).unwrap_or(GroupAddr::BRIDGES);
    multicast_querier: bool = false, "mcast_querier", InfoBridge::MulticastQuerier,
        InfoBridge::MulticastQuerier(value) => *value;
    multicast_router: u8 = 1, "mcast_router",
        |router: u8| InfoBridge::MulticastRouter(router.into()),
        InfoBridge::MulticastRouter(value) => (*value).into();
    multicast_igmp_version: u8 = 2, "mcast_igmp_version", InfoBridge::MulticastIgmpVersion,
        InfoBridge::MulticastIgmpVersion(value) => *value;
    multicast_mld_version: u8 = 1, "mcast_mld_version", InfoBridge::MulticastMldVersion,
        InfoBridge::MulticastMldVersion(value) => *value;
    multicast_last_member_count: u32 = 2, "mcast_last_member_count",
        InfoBridge::MulticastLastMemberCount,
        InfoBridge::MulticastLastMemberCount(value) => *value;
    multicast_startup_query_count: u32 = 2, "mcast_startup_query_count",
        InfoBridge::MulticastStartupQueryCount,
        InfoBridge::MulticastStartupQueryCount(value) => *value;
    multicast_last_member_interval: Centiseconds = Centiseconds(100), "mcast_last_member_interval",
        |time| InfoBridge::MulticastLastMemberInterval(u64::from(time.0)),
        InfoBridge::MulticastLastMemberInterval(value) => long_time(*value);
    multicast_membership_interval: Centiseconds = Centiseconds(26000), "mcast_membership_interval",
        |time| InfoBridge::MulticastMembershipInterval(u64::from(time.0)),
        InfoBridge::MulticastMembershipInterval(value) => long_time(*value);
    multicast_querier_interval: Centiseconds = Centiseconds(25500), "mcast_querier_interval",
        |time| InfoBridge::MulticastQuerierInterval(u64::from(time.0)),
        InfoBridge::MulticastQuerierInterval(value) => long_time(*value);
    multicast_query_interval: Centiseconds = Centiseconds(12500), "mcast_query_interval",
        |time| InfoBridge::MulticastQueryInterval(u64::from(time.0)),
        InfoBridge::MulticastQueryInterval(value) => long_time(*value);
    multicast_query_response_interval: Centiseconds = Centiseconds(1000), "mcast_query_response_interval",
        |time| InfoBridge::MulticastQueryResponseInterval(u64::from(time.0)),
        InfoBridge::MulticastQueryResponseInterval(value) => long_time(*value);
    multicast_startup_query_interval: Centiseconds = Centiseconds(3125), "mcast_startup_query_interval",
        |time| InfoBridge::MulticastStartupQueryInterval(u64::from(time.0)),
        InfoBridge::MulticastStartupQueryInterval(value) => long_time(*value);
}

/// Defines the settings of a bridge: each row has the attribute, its type, and the field in the
/// API. STP is a field that is never null there.
macro_rules! bridge_settings {
    ($($field:ident: $type:ty = $api:ident;)+) => {
        /// Settings of a bridge; what is `None` stays as it is.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "named as the API's fields")]
        pub struct BridgeSettings {
            pub stp: Option<bool>,
            $(pub $field: Option<$type>,)+
        }

        impl BridgeSettings {
            /// Returns the settings that a bridge is asked to have. STP counts as asked for if it
            /// is on.
            pub fn of(spec: &Bridge) -> Self {
                Self {
                    stp: spec.stp.then_some(true),
                    $($field: spec.$api,)+
                }
            }

            /// Returns a spec that asks for these settings and is otherwise as given.
            pub fn into_spec(self, spec: Bridge) -> Bridge {
                Bridge {
                    stp: self.stp.unwrap_or(spec.stp),
                    $($api: self.$field,)+
                    ..spec
                }
            }

            /// Returns the settings as the list of links shows them.
            pub fn into_link_settings(self) -> LinkSettings {
                LinkSettings {
                    stp: self.stp,
                    $($api: self.$field,)+
                    ..LinkSettings::default()
                }
            }
        }
    };
}

bridge_settings! {
    priority: u16 = priority;
    ageing_time: Centiseconds = ageing_time_s;
    forward_delay: Centiseconds = forward_delay_s;
    hello_time: Centiseconds = hello_time_s;
    max_age: Centiseconds = max_age_s;
    multicast_snooping: bool = multicast_snooping;
    vlan_filtering: bool = vlan_filtering;
    vlan_default_pvid: u16 = vlan_default_pvid;
    vlan_protocol: VlanProtocol = vlan_protocol;
    group_fwd_mask: u16 = group_fwd_mask;
    group_addr: GroupAddr = group_addr;
    multicast_querier: bool = multicast_querier;
    multicast_router: u8 = multicast_router;
    multicast_igmp_version: u8 = multicast_igmp_version;
    multicast_mld_version: u8 = multicast_mld_version;
    multicast_last_member_count: u32 = multicast_last_member_count;
    multicast_startup_query_count: u32 = multicast_startup_query_count;
    multicast_last_member_interval: Centiseconds = multicast_last_member_interval_s;
    multicast_membership_interval: Centiseconds = multicast_membership_interval_s;
    multicast_querier_interval: Centiseconds = multicast_querier_interval_s;
    multicast_query_interval: Centiseconds = multicast_query_interval_s;
    multicast_query_response_interval: Centiseconds = multicast_query_response_interval_s;
    multicast_startup_query_interval: Centiseconds = multicast_startup_query_interval_s;
}

impl BridgeSettings {
    /// Returns the times that a bridge tells others while it is the root of the spanning tree.
    pub fn root_times(&self) -> Self {
        Self {
            forward_delay: self.forward_delay,
            hello_time: self.hello_time,
            max_age: self.max_age,
            ..Self::default()
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

fn encode_vlan_protocol(protocol: VlanProtocol) -> InfoBridge {
    InfoBridge::VlanProtocol(match protocol {
        VlanProtocol::Ieee8021Q => KernelVlanProtocol::Ieee8021Q,
        VlanProtocol::Ieee8021Ad => KernelVlanProtocol::Ieee8021Ad,
    })
}

fn vlan_protocol(protocol: KernelVlanProtocol) -> VlanProtocol {
    if protocol == KernelVlanProtocol::Ieee8021Ad {
        VlanProtocol::Ieee8021Ad
    } else {
        VlanProtocol::Ieee8021Q
    }
}

/// Returns a time that the kernel shows with 64 bits.
fn long_time(hundredths: u64) -> Centiseconds {
    Centiseconds(u32::try_from(hundredths).unwrap_or(u32::MAX))
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
            vlan_protocol: VlanProtocol::Ieee8021Ad,
            group_fwd_mask: 8,
            group_addr: GroupAddr::PROVIDER_BRIDGES,
            multicast_querier: true,
            multicast_router: 2,
            multicast_igmp_version: 3,
            multicast_mld_version: 2,
            multicast_last_member_count: 7,
            multicast_startup_query_count: 8,
            multicast_last_member_interval: Centiseconds(9),
            multicast_membership_interval: Centiseconds(10),
            multicast_querier_interval: Centiseconds(11),
            multicast_query_interval: Centiseconds(12),
            multicast_query_response_interval: Centiseconds(13),
            multicast_startup_query_interval: Centiseconds(14),
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
             mcast_snooping 0 vlan_filtering 1 vlan_default_pvid 6 vlan_protocol 802.1ad \
             group_fwd_mask 8 group_address 01:80:c2:00:00:08 mcast_querier 1 mcast_router 2 \
             mcast_igmp_version 3 mcast_mld_version 2 mcast_last_member_count 7 \
             mcast_startup_query_count 8 mcast_last_member_interval 9 \
             mcast_membership_interval 10 mcast_querier_interval 11 mcast_query_interval 12 \
             mcast_query_response_interval 13 mcast_startup_query_interval 14"
        );
    }
}
