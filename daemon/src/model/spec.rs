//! Specs: the intent of one resource, of any kind, and what it refers to.

use std::{collections::BTreeMap, net::IpAddr};

use netnsd_api::{
    AltName, Base, Bridge, Endpoint, FieldError, InterfaceAddress, Kind, Mac, Name, Namespace,
    Port, Resource, ResourceRef, SysctlKey, SysctlValue,
};
use netnsd_netlink::Ns;
use serde::{Deserialize, Deserializer};

/// Defines [`Spec`] from the list of resource kinds.
macro_rules! define_spec {
    ($($kind:ident($spec:ident) $name:ident $plural:ident $description:literal;)+) => {
        /// Intent of one resource, of any kind.
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[allow(missing_docs, reason = "one for each kind")]
        pub enum Spec {
            $($kind(netnsd_api::$spec),)+
        }

        $(
            impl SpecOf for netnsd_api::$spec {
                fn into_spec(self) -> Spec {
                    Spec::$kind(self)
                }

                fn of(spec: &Spec) -> Option<&Self> {
                    if let Spec::$kind(spec) = spec { Some(spec) } else { None }
                }
            }
        )+

        impl Spec {
            /// Returns the kind.
            pub fn kind(&self) -> Kind {
                match self {
                    $(Spec::$kind(_) => Kind::$kind,)+
                }
            }

            /// Returns the name.
            pub fn name(&self) -> &Name {
                match self {
                    $(Spec::$kind(spec) => spec.name(),)+
                }
            }

            /// Returns the labels.
            pub fn labels(&self) -> &BTreeMap<String, String> {
                match self {
                    $(Spec::$kind(spec) => spec.labels(),)+
                }
            }

            /// Validates what one resource alone can answer.
            ///
            /// # Errors
            /// The first field that is wrong.
            pub fn check(&self) -> Result<(), FieldError> {
                match self {
                    $(Spec::$kind(spec) => spec.check(),)+
                }
            }

            /// Deserializes the spec of a resource of this kind.
            ///
            /// # Errors
            /// The deserializer's error if the JSON does not fit the kind.
            pub fn from_json<'de, D: Deserializer<'de>>(
                kind: Kind,
                json: D,
            ) -> Result<Self, D::Error> {
                match kind {
                    $(Kind::$kind => netnsd_api::$spec::deserialize(json).map(Spec::$kind),)+
                }
            }

            /// Serializes the spec as a JSON value.
            ///
            /// # Errors
            /// Those of serde_json; none is known for these types.
            pub fn to_json(&self) -> serde_json::Result<serde_json::Value> {
                match self {
                    $(Spec::$kind(spec) => serde_json::to_value(spec),)+
                }
            }

            /// Serializes the spec as JSON text.
            ///
            /// # Errors
            /// As [`Spec::to_json`].
            pub fn to_text(&self) -> serde_json::Result<String> {
                match self {
                    $(Spec::$kind(spec) => serde_json::to_string(spec),)+
                }
            }
        }
    };
}

netnsd_api::resource_kinds!(define_spec);

/// Specification of one kind.
pub trait SpecOf: Resource {
    /// Wraps it as that of any kind.
    fn into_spec(self) -> Spec;

    /// Returns the specification in a spec; `None` if that is of another kind.
    fn of(spec: &Spec) -> Option<&Self>;
}

impl Spec {
    /// Returns kind and name.
    pub fn resource(&self) -> ResourceRef {
        ResourceRef::new(self.kind(), self.name().clone())
    }

    /// Returns true if a part of the resource lives in this namespace (`?namespace=`).
    pub fn is_in(&self, namespace: &Name) -> bool {
        self.namespaces().contains(&namespace)
    }

    /// Returns the namespaces that the resource, or a part of it, lives in.
    pub fn namespaces(&self) -> Vec<&Name> {
        match self {
            Spec::Namespace(namespace) => vec![&namespace.name],
            Spec::Bridge(_) | Spec::Veth(_) | Spec::Link(_) => self
                .devices()
                .filter_map(|device| device.namespace)
                .collect(),
        }
    }

    /// Returns the bridges whose ports the resource's devices are.
    pub fn bridges(&self) -> impl Iterator<Item = &Name> {
        self.devices()
            .filter_map(|device| Some(device.port?.bridge))
    }

    /// Returns the base that the spec's device is created on.
    pub fn base(&self) -> Base<'_> {
        match self {
            Spec::Namespace(_) | Spec::Bridge(_) | Spec::Veth(_) => Base::Alone,
            Spec::Link(link) => link.fields.base(),
        }
    }

    /// Returns the namespace that the spec's device is created in, if a base says which.
    pub fn base_ns(&self) -> Option<Ns> {
        self.base().namespace().map(Ns::of)
    }

    /// Returns namespace and name of the device that the spec's device is on.
    pub fn lower(&self) -> Option<(Ns, &str)> {
        let lower = self.base().lower()?;
        Some((Ns::of(lower.namespace.as_ref()), lower.interface.as_str()))
    }

    /// Returns the addresses to which its device sends flooded frames.
    pub fn remotes(&self) -> impl Iterator<Item = IpAddr> {
        let remotes = match self {
            Spec::Namespace(_) | Spec::Bridge(_) | Spec::Veth(_) => &[],
            Spec::Link(link) => link.fields.remotes(),
        };
        remotes.iter().map(|remote| remote.0)
    }

    /// Returns the addresses by whose routes its device's own packets leave.
    pub fn routed_addresses(&self) -> Vec<IpAddr> {
        match self {
            Spec::Namespace(_) | Spec::Bridge(_) | Spec::Veth(_) => Vec::new(),
            Spec::Link(link) => link.fields.routed_addresses(),
        }
    }

    /// Returns true if its devices have MAC addresses of their own where none are asked for.
    pub fn has_own_macs(&self) -> bool {
        match self {
            Spec::Namespace(_) | Spec::Bridge(_) | Spec::Veth(_) => true,
            Spec::Link(link) => link.fields.has_own_mac(),
        }
    }

    /// Returns the resources that the spec refers to, sorted, each once.
    pub fn references(&self) -> Vec<ResourceRef> {
        let namespaces = self
            .devices()
            .filter_map(|device| device.namespace)
            .chain(self.base().namespace().flatten())
            .map(|name| ResourceRef::new(Kind::Namespace, name.clone()));
        let bridges = self
            .bridges()
            .map(|name| ResourceRef::new(Kind::Bridge, name.clone()));

        let mut found: Vec<ResourceRef> = namespaces.chain(bridges).collect();
        found.sort();
        found.dedup();
        found
    }

    /// Returns each device that the spec asks for, in the order of its ends.
    pub fn devices(&self) -> impl Iterator<Item = DeviceSpec<'_>> + Clone {
        let single = match self {
            Spec::Bridge(bridge) => Some(DeviceSpec::of_bridge(bridge)),
            Spec::Link(link) => Some(DeviceSpec {
                name: link.device_name(),
                ..DeviceSpec::of_end(&link.device, 0, "")
            }),
            Spec::Namespace(_) | Spec::Veth(_) => None,
        };
        let ends: &[Endpoint] = match self {
            Spec::Veth(veth) => &veth.endpoints,
            Spec::Namespace(_) | Spec::Bridge(_) | Spec::Link(_) => &[],
        };
        let ends = ends.iter().zip(["/endpoints/0", "/endpoints/1"]).zip(0..);
        let ends = ends.map(|((spec, pointer), end)| DeviceSpec::of_end(spec, end, pointer));
        single.into_iter().chain(ends)
    }

    /// Returns the ends that it has: devices that may be ports.
    pub fn endpoints(&self) -> &[Endpoint] {
        match self {
            Spec::Namespace(_) | Spec::Bridge(_) => &[],
            Spec::Veth(veth) => &veth.endpoints,
            Spec::Link(link) => std::slice::from_ref(&link.device),
        }
    }

    /// Returns the ends that it has.
    pub fn endpoints_mut(&mut self) -> &mut [Endpoint] {
        match self {
            Spec::Namespace(_) | Spec::Bridge(_) => &mut [],
            Spec::Veth(veth) => &mut veth.endpoints,
            Spec::Link(link) => std::slice::from_mut(&mut link.device),
        }
    }
}

/// Device that a spec asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceSpec<'s> {
    /// Its number in the resource: 1 for the second end of a pair, else 0.
    pub end: usize,
    /// JSON pointer of its fields in the resource.
    pointer: &'static str,
    /// Namespace that it lives in; `None` is the host's.
    pub namespace: Option<&'s Name>,
    /// Interface name; empty until the intent has chosen one.
    pub name: &'s str,
    /// MAC address that is asked for.
    pub mac: Option<Mac>,
    /// MTU in bytes that is asked for.
    pub mtu: Option<u32>,
    /// True if it is set up.
    pub up: bool,
    /// Addresses.
    pub addresses: &'s [InterfaceAddress],
    /// Length of the transmit queue, in packets.
    pub txqueuelen: Option<u32>,
    /// Alias.
    pub alias: Option<&'s str>,
    /// Alternative names.
    pub altnames: &'s [AltName],
    /// True if it is asked to receive all frames.
    pub promiscuous: bool,
    /// True if it is asked to receive all multicast frames.
    pub allmulticast: bool,
    /// False if it is asked to do no ARP.
    pub arp: bool,
    /// Bridge port that it is.
    pub port: Option<PortSpec<'s>>,
}

/// Device of a bridge, as its ports see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeDevice {
    /// Interface name.
    pub name: String,
    /// VLAN that the bridge gives to new ports; 0 for none.
    pub default_pvid: u16,
}

impl BridgeDevice {
    /// Returns the device that a bridge is asked to have.
    pub fn of(spec: &Bridge) -> Self {
        let device = Self::with_default_pvid(spec.device());
        Self {
            default_pvid: spec.vlan_default_pvid.unwrap_or(device.default_pvid),
            ..device
        }
    }

    /// Returns a device with the kernel's default VLAN (`br_vlan_init()`, net/bridge/br_vlan.c).
    pub fn with_default_pvid(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            default_pvid: 1,
        }
    }
}

/// Bridge port that a device is asked to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortSpec<'s> {
    /// Bridge, by the name of its resource.
    pub bridge: &'s Name,
    /// Settings of the port.
    pub settings: &'s Port,
}

impl<'s> DeviceSpec<'s> {
    fn of_bridge(bridge: &'s Bridge) -> Self {
        Self {
            end: 0,
            pointer: "",
            namespace: bridge.namespace.as_ref(),
            name: bridge.device(),
            mac: bridge.mac,
            mtu: bridge.mtu,
            up: bridge.up,
            addresses: &bridge.addresses,
            txqueuelen: bridge.txqueuelen,
            alias: bridge.alias.as_deref(),
            altnames: &bridge.altnames,
            promiscuous: bridge.promiscuous,
            allmulticast: bridge.allmulticast,
            arp: bridge.arp,
            port: None,
        }
    }

    fn of_end(spec: &'s Endpoint, end: usize, pointer: &'static str) -> Self {
        let settings = &spec.port;
        Self {
            end,
            pointer,
            namespace: spec.namespace.as_ref(),
            name: spec.device(),
            mac: spec.mac,
            mtu: spec.mtu,
            up: spec.up,
            addresses: &spec.addresses,
            txqueuelen: spec.txqueuelen,
            alias: spec.alias.as_deref(),
            altnames: &spec.altnames,
            promiscuous: spec.promiscuous,
            allmulticast: spec.allmulticast,
            arp: spec.arp,
            port: spec
                .bridge
                .as_ref()
                .map(|bridge| PortSpec { bridge, settings }),
        }
    }

    /// Returns the namespace that it lives in.
    pub fn ns(&self) -> Ns {
        Ns::of(self.namespace)
    }

    /// Returns its namespace and name.
    pub fn location(&self) -> (Ns, String) {
        (self.ns(), self.name.to_owned())
    }

    /// Returns the JSON pointer of one of its fields.
    pub fn pointer(&self, field: &str) -> String {
        format!("{}/{field}", self.pointer)
    }
}

/// Returns the sysctls of a namespace that switch IPv6 on or off.
pub fn ipv6_switches(spec: &Namespace) -> impl Iterator<Item = (&SysctlKey, &SysctlValue)> {
    spec.sysctls
        .iter()
        .filter(|(key, _)| key.is_ipv6() && key.setting() == "disable_ipv6")
}
