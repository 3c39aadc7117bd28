//! The network as a graph: what is recorded, and what the kernel has.

mod build;
mod dot;
mod mermaid;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Peer, ResourceRef, State, string_enum::string_enum};

string_enum! {
    /// The kind of a node.
    #[serde(rename_all = "snake_case")]
    pub enum NodeKind as "a kind of node" {
        /// The host's network namespace.
        Host = "host",
        /// Another network namespace.
        Namespace = "namespace",
        /// A bridge.
        Bridge = "bridge",
        /// Any other device, such as an end of a veth pair.
        Interface = "interface",
    }
}

string_enum! {
    /// The kind of an edge.
    #[serde(rename_all = "snake_case")]
    pub enum EdgeKind as "a kind of edge" {
        /// Joins the two ends of a veth pair.
        Pair = "pair",
        /// Joins a port with its bridge, or a device with another kind of master.
        Port = "port",
        /// Joins a device, such as a VLAN or a macvlan, with the device below it.
        Lower = "lower",
    }
}

/// The network as a graph. The namespace of a device is a field of its node, not an edge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Graph {
    /// Namespaces, bridges and interfaces, by kind, namespace and name. `lo` is left out.
    pub nodes: Vec<GraphNode>,
    /// Connections between devices, by id.
    pub edges: Vec<GraphEdge>,
}

/// A namespace or a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GraphNode {
    /// `host`, `namespace/NAME`, `bridge/NAME` for a recorded bridge, `bridge/NAMESPACE/DEVICE` for
    /// another one, `interface/NAMESPACE/DEVICE`; NAMESPACE is empty on the host.
    pub id: String,
    /// Its kind.
    pub kind: NodeKind,
    /// Name of the namespace, of the bridge resource, or of the device.
    pub name: String,
    /// The namespace that a device is in; null for the host's, and for a namespace.
    pub namespace: Option<String>,
    /// True if netnsd manages it.
    pub managed: bool,
    /// The state of its resource; null if it has none.
    pub state: Option<State>,
    /// Operational state of a device (RFC 2863), in lower case; null if it is not in the kernel.
    pub operstate: Option<String>,
    /// Addresses of a device: those in the kernel, or those recorded if it is not there. Of a
    /// namespace: those of its `lo` besides 127.0.0.1/8 and ::1/128.
    pub addresses: Vec<String>,
}

/// A connection between two devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GraphEdge {
    /// `pair/NAME` for a recorded veth pair, else the kind and the place of `a`: `port/net0/eth0`.
    pub id: String,
    /// Id of a node: end 0 of a pair, the port, or the upper device.
    pub a: String,
    /// Id of a node: end 1 of a pair, the master, or the lower device.
    pub b: String,
    /// Its kind.
    pub kind: EdgeKind,
    /// The veth pair that it is, or an end of which is the port; null if netnsd does not manage it.
    pub resource: Option<ResourceRef>,
    /// The state of that veth pair.
    pub state: Option<State>,
}

/// Links of one namespace, live from the kernel, for [`Graph::new`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelNamespace {
    /// Its name; `None`: the host's.
    pub name: Option<String>,
    /// Its links.
    pub links: Vec<KernelLink>,
}

/// A link, live from the kernel, for [`Graph::new`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelLink {
    /// Its name.
    pub name: String,
    /// Its kind as in `ip -d link`; `None` for devices without one.
    pub kind: Option<String>,
    /// Operational state, in lower case.
    pub operstate: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Name of its master, such as a bridge.
    pub master: Option<String>,
    /// The resource whose owner tag it has, and which end of it.
    pub owner: Option<(ResourceRef, usize)>,
    /// The other end of its pair, if it is a veth; else the device below it.
    pub attached: Option<Peer>,
}

impl KernelLink {
    /// Kind of one end of a veth pair.
    pub const VETH: &'static str = "veth";
    /// Kind of a bridge.
    pub const BRIDGE: &'static str = "bridge";

    fn is_kind(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }
}

/// Appearance of a node, by its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// As it should be.
    Settled,
    /// Failed, in conflict, or down.
    Broken,
    /// Pending or drifted.
    Unsettled,
    /// Not managed by netnsd.
    Unmanaged,
}

impl GraphNode {
    /// Returns its appearance.
    pub fn style(&self) -> Style {
        match self.state {
            Some(State::Failed | State::Conflict) => Style::Broken,
            Some(State::Pending | State::Drifted) => Style::Unsettled,
            Some(State::InSync) | None if !self.managed && self.kind != NodeKind::Host => {
                Style::Unmanaged
            }
            Some(State::InSync) | None if self.is_down() => Style::Broken,
            Some(State::InSync) | None => Style::Settled,
        }
    }

    /// Returns true for a device in the kernel through which no packet passes.
    pub fn is_down(&self) -> bool {
        // Devices that know no carrier, such as dummies, are `unknown` (operstates.rst).
        self.operstate
            .as_deref()
            .is_some_and(|state| !matches!(state, "up" | "unknown"))
    }

    /// Returns the lines of its label: its name, its state unless it is right, its addresses.
    fn label(&self) -> impl Iterator<Item = &str> {
        let state = self.state.filter(|state| *state != State::InSync);
        let state = state
            .map(State::as_str)
            .or(self.is_down().then_some("down"));
        let addresses = self.shown_addresses();
        [self.name.as_str()]
            .into_iter()
            .chain(state)
            .chain(addresses)
    }

    /// Returns the addresses besides the link-local ones, which every device has.
    pub fn shown_addresses(&self) -> impl Iterator<Item = &str> {
        let all = self.addresses.iter().map(String::as_str);
        all.filter(|address| !address.starts_with("fe80:"))
    }
}

impl Graph {
    /// Returns the host and the namespaces, each with its devices; the host only if it has any.
    pub fn by_namespace(&self) -> Vec<(&GraphNode, Vec<&GraphNode>)> {
        let mut devices: HashMap<Option<&str>, Vec<&GraphNode>> = HashMap::new();
        for node in self.nodes.iter().filter(|node| node.is_device()) {
            devices
                .entry(node.namespace.as_deref())
                .or_default()
                .push(node);
        }
        let places = self.nodes.iter().filter(|node| !node.is_device());
        places
            .map(|place| {
                let name = (place.kind == NodeKind::Namespace).then_some(place.name.as_str());
                (place, devices.remove(&name).unwrap_or_default())
            })
            .filter(|(place, devices)| place.kind == NodeKind::Namespace || !devices.is_empty())
            .collect()
    }
}

impl GraphNode {
    /// Returns true for a bridge or an interface.
    pub fn is_device(&self) -> bool {
        match self.kind {
            NodeKind::Bridge | NodeKind::Interface => true,
            NodeKind::Host | NodeKind::Namespace => false,
        }
    }
}
