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
    Centiseconds, Code, FieldError, InterfaceName, Name,
    device::{device_observed, device_spec},
};

/// Maximum VLAN id (`VLAN_VID_MASK - 1`, linux/if_vlan.h).
const MAX_VLAN: u16 = 4094;
/// Maximum ageing time, in seconds.
const MAX_AGEING_TIME: u32 = 1_000_000;

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
        Ok(())
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
        self.check_device()?;
        if let Some(pvid) = self.vlan_default_pvid
            && pvid > MAX_VLAN
        {
            return Err(FieldError::new(
                Code::InvalidField,
                "/vlan_default_pvid",
                format!("{pvid} is not a VLAN id: 0 to {MAX_VLAN}"),
            ));
        }
        self.check_timers()
    }

    fn omit_nested_defaults(spec: &mut Map<String, Value>) {
        if spec.get("interface") == spec.get("name") {
            spec.remove("interface");
        }
    }
}
