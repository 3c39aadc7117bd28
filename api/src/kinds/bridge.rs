//! Bridges.

use std::{collections::BTreeMap, ops::RangeInclusive};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    Kind, Resource,
    checks::{check_default_interface, check_labels},
};
use crate::{
    Centiseconds, Code, FieldError, GroupAddr, InterfaceName, MAX_VLAN, Name,
    device::{device_observed, device_spec},
    string_enum::string_enum,
};

/// Maximum ageing time, in seconds.
const MAX_AGEING_TIME: u32 = 1_000_000;
/// Bits of `group_fwd_mask` that the kernel refuses (`BR_GROUPFWD_RESTRICTED`,
/// net/bridge/br_private.h): STP, pause and LACP frames.
const GROUP_FWD_RESTRICTED: u16 = 0b111;
/// Maximum interval of multicast queries, in seconds (`BR_MULTICAST_QUERY_INTVL_MAX`,
/// net/bridge/br_private.h). The kernel silently takes the nearest value of the range.
const MAX_QUERY_INTERVAL: u32 = 86_400;

string_enum! {
    /// EtherType of VLAN tags.
    pub enum VlanProtocol as "a VLAN protocol" {
        /// Customer tags (0x8100).
        #[serde(rename = "802.1q")]
        Ieee8021Q = "802.1q",
        /// Service tags (0x88a8).
        #[serde(rename = "802.1ad")]
        Ieee8021Ad = "802.1ad",
    }
}

device_spec! {
    /// A bridge as it should be (`ip-link(8)`, `brctl(8)`).
    pub struct Bridge {
        /// The resource's name.
        pub name: Name,
        /// Labels for filtering.
        #[serde(default)]
        pub labels: BTreeMap<String, String>,
        /// The device's name; if left out, the resource's name.
        #[serde(default)]
        pub interface: Option<InterfaceName>,
        /// The managed namespace that it is in; null: the host's.
        #[serde(default)]
        pub namespace: Option<Name>,
    } + device {
        /// True if the spanning tree protocol runs.
        #[serde(default)]
        pub stp: bool,
        /// STP priority of the bridge, 0 to 65535.
        #[serde(default)]
        pub priority: Option<u16>,
        /// Time after which a learned MAC address is forgotten, in seconds.
        #[serde(default)]
        pub ageing_time_s: Option<Centiseconds>,
        /// STP forward delay, 2 to 30 seconds (checked by the kernel while STP runs).
        #[serde(default)]
        pub forward_delay_s: Option<Centiseconds>,
        /// STP hello time, 1 to 10 seconds.
        #[serde(default)]
        pub hello_time_s: Option<Centiseconds>,
        /// STP maximum message age, 6 to 40 seconds.
        #[serde(default)]
        pub max_age_s: Option<Centiseconds>,
        /// True if IGMP and MLD snooping is on.
        #[serde(default)]
        pub multicast_snooping: Option<bool>,
        /// True if VLAN filtering is on.
        #[serde(default)]
        pub vlan_filtering: Option<bool>,
        /// VLAN of untagged frames, 0 (none) to 4094.
        #[serde(default)]
        #[schema(maximum = 4094)]
        pub vlan_default_pvid: Option<u16>,
        /// EtherType of the tags that VLAN filtering looks at.
        #[serde(default)]
        pub vlan_protocol: Option<VlanProtocol>,
        /// Link-local multicast frames to forward: bit N is for 01:80:c2:00:00:0N; bits 0 to 2 are
        /// not allowed.
        #[serde(default)]
        pub group_fwd_mask: Option<u16>,
        /// Destination address of its STP frames.
        #[serde(default)]
        pub group_addr: Option<GroupAddr>,
        /// True if it sends IGMP and MLD queries.
        #[serde(default)]
        pub multicast_querier: Option<bool>,
        /// Multicast router at the bridge itself: 0 (none), 1 (found by queries) or 2 (always).
        #[serde(default)]
        #[schema(maximum = 2)]
        pub multicast_router: Option<u8>,
        /// Version of IGMP, 2 or 3.
        #[serde(default)]
        #[schema(minimum = 2, maximum = 3)]
        pub multicast_igmp_version: Option<u8>,
        /// Version of MLD, 1 or 2.
        #[serde(default)]
        #[schema(minimum = 1, maximum = 2)]
        pub multicast_mld_version: Option<u8>,
        /// Number of queries after a leave message, before the group is left.
        #[serde(default)]
        pub multicast_last_member_count: Option<u32>,
        /// Number of queries at the start of a querier.
        #[serde(default)]
        pub multicast_startup_query_count: Option<u32>,
        /// Interval between the queries after a leave message, in seconds.
        #[serde(default)]
        pub multicast_last_member_interval_s: Option<Centiseconds>,
        /// Time after which a group without reports is left, in seconds.
        #[serde(default)]
        pub multicast_membership_interval_s: Option<Centiseconds>,
        /// Time after which a querier that is silent is gone, in seconds.
        #[serde(default)]
        pub multicast_querier_interval_s: Option<Centiseconds>,
        /// Interval between queries, 1 to 86400 seconds.
        #[serde(default)]
        pub multicast_query_interval_s: Option<Centiseconds>,
        /// Time in which the answers to a query are due, in seconds.
        #[serde(default)]
        pub multicast_query_response_interval_s: Option<Centiseconds>,
        /// Interval between the queries at the start of a querier, 1 to 86400 seconds.
        #[serde(default)]
        pub multicast_startup_query_interval_s: Option<Centiseconds>,
    }
}

device_observed! {
    /// Observed state of a bridge.
    pub struct BridgeObserved: device + {
        /// STP bridge id.
        pub bridge_id: String,
        /// STP id of the root bridge.
        pub root_id: String,
        /// Its ports.
        pub ports: Vec<PortObserved>,
    }
}

/// A port in a bridge's status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortObserved {
    /// The device.
    pub interface: String,
    /// The veth pair that it belongs to; null if netnsd does not manage it.
    pub veth: Option<Name>,
    /// The end of the pair, 0 or 1.
    pub endpoint: Option<u8>,
    /// The link resource that it is; null if it is none.
    #[serde(default)]
    pub link: Option<Name>,
    /// STP state: disabled, listening, learning, forwarding, blocking.
    pub state: String,
    /// STP path cost.
    pub path_cost: u32,
    /// STP port priority.
    pub priority: u16,
}

impl Bridge {
    /// Returns the device's name.
    ///
    /// It falls back to the resource's name, for which [`Resource::check`] checks the rules of an
    /// interface name.
    pub fn device(&self) -> &str {
        self.interface
            .as_ref()
            .map_or(self.name.as_str(), InterfaceName::as_str)
    }

    fn check_timers(&self) -> Result<(), FieldError> {
        // Without STP the kernel takes a forward delay of 0 (br_set_forward_delay).
        let forward_delay = if self.stp { 2..=30 } else { 0..=30 };
        check_timer("forward_delay_s", self.forward_delay_s, forward_delay)?;
        check_timer("hello_time_s", self.hello_time_s, 1..=10)?;
        check_timer("max_age_s", self.max_age_s, 6..=40)?;

        if let Some(time) = self.ageing_time_s
            && time.0 > MAX_AGEING_TIME * 100
        {
            return Err(FieldError::new(
                Code::InvalidField,
                "/ageing_time_s",
                format!("an ageing time is at most {MAX_AGEING_TIME} seconds"),
            ));
        }

        let query_interval = 1..=MAX_QUERY_INTERVAL;
        check_timer(
            "multicast_query_interval_s",
            self.multicast_query_interval_s,
            query_interval.clone(),
        )?;
        check_timer(
            "multicast_startup_query_interval_s",
            self.multicast_startup_query_interval_s,
            query_interval,
        )
    }

    fn check_numbers(&self) -> Result<(), FieldError> {
        check_number("multicast_router", self.multicast_router, 0..=2)?;
        check_number("multicast_igmp_version", self.multicast_igmp_version, 2..=3)?;
        check_number("multicast_mld_version", self.multicast_mld_version, 1..=2)?;
        if let Some(mask) = self.group_fwd_mask
            && mask & GROUP_FWD_RESTRICTED != 0
        {
            return Err(FieldError::new(
                Code::InvalidField,
                "/group_fwd_mask",
                format!(
                    "{mask} ({mask:#x}) is not allowed: a bridge forwards no STP (bit 0), pause (bit 1) \
                     or LACP frames (bit 2); use bits 3 to 15"
                ),
            ));
        }
        if let Some(pvid) = self.vlan_default_pvid
            && pvid > MAX_VLAN
        {
            return Err(FieldError::new(
                Code::InvalidField,
                "/vlan_default_pvid",
                format!("{pvid} is not a VLAN id: 0 to {MAX_VLAN}"),
            ));
        }
        Ok(())
    }
}

/// Checks that a number is in a range.
pub(super) fn check_number(
    field: &str,
    number: Option<u8>,
    range: RangeInclusive<u8>,
) -> Result<(), FieldError> {
    match number {
        Some(number) if !range.contains(&number) => Err(FieldError::at(
            Code::InvalidField,
            &[field],
            format!(
                "{number} is out of range: {field} is {} to {}",
                range.start(),
                range.end()
            ),
        )),
        _ => Ok(()),
    }
}

/// Checks that a timer is in a range of seconds.
fn check_timer(
    field: &str,
    time: Option<Centiseconds>,
    seconds: RangeInclusive<u32>,
) -> Result<(), FieldError> {
    let (min, max) = (*seconds.start(), *seconds.end());
    match time {
        Some(time) if !(min * 100..=max * 100).contains(&time.0) => Err(FieldError::at(
            Code::InvalidField,
            &[field],
            format!(
                "{} is out of range: {field} is {min} to {max} seconds",
                f64::from(time.0) / 100.0
            ),
        )),
        _ => Ok(()),
    }
}

impl Resource for Bridge {
    const KIND: Kind = Kind::Bridge;
    type Observed = BridgeObserved;

    fn name(&self) -> &Name {
        &self.name
    }

    fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    fn check(&self) -> Result<(), FieldError> {
        check_labels(&self.labels)?;
        check_default_interface(Self::KIND, &self.name, self.interface.as_ref())?;
        self.check_device(self.device())?;
        self.check_numbers()?;
        self.check_timers()
    }

    fn omit_nested_defaults(spec: &mut Map<String, Value>) {
        if spec.get("interface") == spec.get("name") {
            spec.remove("interface");
        }
    }
}
