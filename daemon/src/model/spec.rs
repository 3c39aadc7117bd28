//! Specs: the intent of one resource, of any kind, and what it refers to.

use std::collections::BTreeMap;

use netnsd_api::{Kind, Mac, Name, Namespace, Resource, ResourceRef, SysctlKey, SysctlValue};
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
            Spec::Bridge(bridge) => bridge.namespace.iter().collect(),
            Spec::Veth(veth) => veth
                .endpoints
                .iter()
                .filter_map(|end| end.namespace.as_ref())
                .collect(),
        }
    }

    /// Returns the bridges whose ports the resource's devices are.
    pub fn bridges(&self) -> Vec<&Name> {
        match self {
            Spec::Namespace(_) | Spec::Bridge(_) => Vec::new(),
            Spec::Veth(veth) => veth
                .endpoints
                .iter()
                .filter_map(|end| end.bridge.as_ref())
                .collect(),
        }
    }

    /// Returns the resources that the spec refers to, sorted, each once.
    pub fn references(&self) -> Vec<ResourceRef> {
        let namespaces = match self {
            Spec::Namespace(_) => Vec::new(),
            Spec::Bridge(_) | Spec::Veth(_) => self.namespaces(),
        };
        let namespaces = namespaces
            .into_iter()
            .map(|name| ResourceRef::new(Kind::Namespace, name.clone()));
        let bridges = self
            .bridges()
            .into_iter()
            .map(|name| ResourceRef::new(Kind::Bridge, name.clone()));

        let mut found: Vec<ResourceRef> = namespaces.chain(bridges).collect();
        found.sort();
        found.dedup();
        found
    }

    /// Returns the location of each device that the spec asks for, in the order of its ends.
    pub fn devices(&self) -> Vec<(Ns, String)> {
        match self {
            Spec::Namespace(_) => Vec::new(),
            Spec::Bridge(bridge) => vec![(
                Ns::of(bridge.namespace.as_ref()),
                bridge.device().to_owned(),
            )],
            Spec::Veth(veth) => veth
                .endpoints
                .iter()
                .map(|end| (Ns::of(end.namespace.as_ref()), end.device().to_owned()))
                .collect(),
        }
    }

    /// Returns the MAC address that each device is asked to have, in the order of its ends.
    pub fn asked_macs(&self) -> Vec<Option<Mac>> {
        match self {
            Spec::Namespace(_) => Vec::new(),
            Spec::Bridge(bridge) => vec![bridge.mac],
            Spec::Veth(veth) => veth.endpoints.iter().map(|end| end.mac).collect(),
        }
    }
}

/// Returns the sysctls of a namespace that switch IPv6 on or off.
pub fn ipv6_switches(spec: &Namespace) -> impl Iterator<Item = (&SysctlKey, &SysctlValue)> {
    spec.sysctls
        .iter()
        .filter(|(key, _)| key.is_ipv6() && key.setting() == "disable_ipv6")
}
