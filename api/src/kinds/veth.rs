//! Veth pairs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::{Kind, Resource, bridge::check_number, checks::check_labels};
use crate::{
    Code, FieldError, InterfaceName, MAX_VLAN, Name, VlanRange,
    device::{device_observed, device_spec},
    topology::{default_fields, omit_defaults_of_items},
};

/// A veth pair as it should be (`veth(4)`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Veth {
    /// The resource's name; POST without one takes the first free `vethN`.
    #[serde(default = "Name::unset")]
    pub name: Name,
    /// Labels for filtering.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its two ends.
    #[serde(default)]
    #[schema(value_type = Vec<Endpoint>, min_items = 2, max_items = 2)]
    pub endpoints: [Endpoint; 2],
}

device_spec! {
    /// One end of a veth pair.
    pub struct Endpoint {
        /// The managed namespace that it is in; null: the host's.
        #[serde(default)]
        pub namespace: Option<Name>,
        /// The device's name; if left out, it keeps its name, at first the first free `vethN`
        /// there.
        #[serde(default)]
        pub interface: Option<InterfaceName>,
    } + device {
        /// The bridge that it is a port of, in the same namespace.
        #[serde(default)]
        pub bridge: Option<Name>,
        /// Settings of the bridge port; only with `bridge`.
        #[serde(default)]
        pub port: Port,
    }
}

/// Settings of a bridge port (`bridge-link(8)`); those left out keep the kernel's value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// STP path cost, 1 to 65535.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_cost: Option<u32>,
    /// STP port priority, 0 to 63.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u16>,
    /// True if a frame may leave by the port that it came in by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hairpin: Option<bool>,
    /// True if the port cannot reach other isolated ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolated: Option<bool>,
    /// True if MAC addresses are learned on the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning: Option<bool>,
    /// True if a received BPDU disables the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpdu_guard: Option<bool>,
    /// True if the port may not become the root port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_block: Option<bool>,
    /// True if a multicast group is left immediately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcast_fast_leave: Option<bool>,
    /// True if frames to unknown unicast addresses leave by the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flood: Option<bool>,
    /// True if frames to unknown multicast groups leave by the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcast_flood: Option<bool>,
    /// True if broadcast frames leave by the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bcast_flood: Option<bool>,
    /// True if a multicast frame is sent to each member of its group as a unicast frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcast_to_unicast: Option<bool>,
    /// True if the bridge answers ARP and neighbour solicitations for those behind the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neigh_suppress: Option<bool>,
    /// True if the bridge answers ARP requests on the port for addresses that it knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_arp: Option<bool>,
    /// Multicast router at the port: 0 (none), 1 (found by queries) or 2 (always).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 2)]
    pub mcast_router: Option<u8>,
    /// VLAN of untagged frames that come in (PVID), and that leave untagged, 1 to 4094: instead of
    /// the bridge's `vlan_default_pvid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 4094)]
    pub vlan: Option<u16>,
    /// VLANs whose frames come in and leave tagged: ids, and ranges such as "10-20". Those that
    /// others gave the port stay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 4094)]
    pub vlans: Vec<VlanRange>,
}

/// Observed state of a veth pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VethObserved {
    /// True if both ends are up and have carrier.
    pub ready: bool,
    /// Its two ends.
    #[schema(value_type = Vec<Option<EndpointObserved>>)]
    pub endpoints: [Option<EndpointObserved>; 2],
}

device_observed! {
    /// Observed state of one end of a veth pair.
    pub struct EndpointObserved: device + {
        /// The bridge device that it is a port of.
        pub bridge: Option<String>,
    }
}

impl Default for Endpoint {
    fn default() -> Self {
        Self {
            namespace: None,
            interface: None,
            mac: None,
            mtu: None,
            up: true,
            addresses: Vec::new(),
            txqueuelen: None,
            alias: None,
            altnames: Vec::new(),
            promiscuous: false,
            allmulticast: false,
            arp: true,
            bridge: None,
            port: Port::default(),
        }
    }
}

impl Endpoint {
    /// Returns the device's name; empty until the intent has chosen one.
    pub fn device(&self) -> &str {
        self.interface.as_ref().map_or("", InterfaceName::as_str)
    }

    /// Validates what needs more than one field; pointers are relative to the endpoint. `device` is
    /// the name of its interface, empty if netnsd chooses it.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self, device: &str) -> Result<(), FieldError> {
        self.check_device(device)?;
        if self.bridge.is_none() && self.port != Port::default() {
            return Err(FieldError::new(
                Code::InvalidField,
                "/port",
                "port needs bridge: only a bridge port has these settings",
            ));
        }
        self.port.check().map_err(|error| error.below(&["port"]))
    }
}

impl Port {
    fn check(&self) -> Result<(), FieldError> {
        if let Some(cost) = self.path_cost
            && !(1..=65535).contains(&cost)
        {
            return Err(FieldError::new(
                Code::InvalidField,
                "/path_cost",
                format!("{cost} is not a path cost: 1 to 65535"),
            ));
        }
        if let Some(priority) = self.priority
            && priority > 63
        {
            return Err(FieldError::new(
                Code::InvalidField,
                "/priority",
                format!("{priority} is not a port priority: 0 to 63"),
            ));
        }
        check_number("mcast_router", self.mcast_router, 0..=2)?;
        self.check_vlans()
    }

    fn check_vlans(&self) -> Result<(), FieldError> {
        if let Some(vlan) = self.vlan
            && !(1..=MAX_VLAN).contains(&vlan)
        {
            return Err(FieldError::new(
                Code::InvalidField,
                "/vlan",
                format!("{vlan} is not a VLAN id: 1 to {MAX_VLAN}"),
            ));
        }
        let mut seen: BTreeSet<u16> = self.vlan.into_iter().collect();
        for (i, range) in self.vlans.iter().enumerate() {
            if let Some(id) = range.ids().find(|id| !seen.insert(*id)) {
                return Err(FieldError::at(
                    Code::Duplicate,
                    &["vlans", &i.to_string()],
                    format!("VLAN {id} of \"{range}\" is in vlan or vlans already"),
                ));
            }
        }
        Ok(())
    }
}

impl Resource for Veth {
    const KIND: Kind = Kind::Veth;
    const ALWAYS_SHOWN: &[&str] = &["name", "endpoints"];
    type Observed = VethObserved;

    fn name(&self) -> &Name {
        &self.name
    }

    fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    fn check(&self) -> Result<(), FieldError> {
        check_labels(&self.labels)?;
        for (i, endpoint) in self.endpoints.iter().enumerate() {
            endpoint
                .check(endpoint.device())
                .map_err(|error| error.below(&["endpoints", &i.to_string()]))?;
        }

        let [a, b] = &self.endpoints;
        if a.namespace == b.namespace && a.interface.is_some() && a.interface == b.interface {
            return Err(FieldError::new(
                Code::Duplicate,
                "/endpoints/1/interface",
                format!(
                    "both ends are named {:?} in one namespace: give them different names",
                    b.device()
                ),
            ));
        }
        Ok(())
    }

    fn omit_nested_defaults(spec: &mut Map<String, Value>) {
        static ENDPOINT: LazyLock<Value> = LazyLock::new(|| default_fields::<Endpoint>(json!({})));

        omit_defaults_of_items(spec, "endpoints", &ENDPOINT, &[]);
    }
}
