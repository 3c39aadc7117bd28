//! Specs: the intent of one resource, of any kind, and what it refers to.

use std::collections::BTreeMap;

use netnsd_api::{
    Bridge, Kind, Mac, Name, Namespace, Resource, ResourceRef, SysctlKey, SysctlValue, Veth,
};
use serde::{Deserialize, Deserializer};

use crate::kernel::Ns;

/// Intent of one resource, of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "one for each kind")]
pub enum Spec {
    Namespace(Namespace),
    Bridge(Bridge),
    Veth(Veth),
}

/// Evaluates the same expression for the spec of each kind.
macro_rules! each {
    ($spec:expr, $inner:ident => $result:expr) => {
        match $spec {
            Spec::Namespace($inner) => $result,
            Spec::Bridge($inner) => $result,
            Spec::Veth($inner) => $result,
        }
    };
}

impl Spec {
    /// Returns the kind.
    pub fn kind(&self) -> Kind {
        match self {
            Spec::Namespace(_) => Kind::Namespace,
            Spec::Bridge(_) => Kind::Bridge,
            Spec::Veth(_) => Kind::Veth,
        }
    }

    /// Returns the name.
    pub fn name(&self) -> &Name {
        each!(self, inner => inner.name())
    }

    /// Returns kind and name.
    pub fn resource(&self) -> ResourceRef {
        ResourceRef::new(self.kind(), self.name().clone())
    }

    /// Returns the labels.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        each!(self, inner => inner.labels())
    }

    /// Returns true if a part of the resource lives in this namespace (`?namespace=`).
    pub fn is_in(&self, namespace: &Name) -> bool {
        match self {
            Spec::Namespace(inner) => inner.name == *namespace,
            Spec::Bridge(inner) => inner.namespace.as_ref() == Some(namespace),
            Spec::Veth(inner) => inner
                .endpoints
                .iter()
                .any(|end| end.namespace.as_ref() == Some(namespace)),
        }
    }

    /// Deserializes the spec of a resource of this kind.
    ///
    /// # Errors
    /// The deserializer's error if the JSON does not fit the kind.
    pub fn from_json<'de, D: Deserializer<'de>>(kind: Kind, json: D) -> Result<Self, D::Error> {
        Ok(match kind {
            Kind::Namespace => Spec::Namespace(Namespace::deserialize(json)?),
            Kind::Bridge => Spec::Bridge(Bridge::deserialize(json)?),
            Kind::Veth => Spec::Veth(Veth::deserialize(json)?),
        })
    }

    /// Serializes the spec as a JSON value.
    ///
    /// # Errors
    /// Those of serde_json; none is known for these types.
    pub fn to_json(&self) -> serde_json::Result<serde_json::Value> {
        each!(self, inner => serde_json::to_value(inner))
    }

    /// Serializes the spec as JSON text.
    ///
    /// # Errors
    /// As [`Spec::to_json`].
    pub fn to_text(&self) -> serde_json::Result<String> {
        each!(self, inner => serde_json::to_string(inner))
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
