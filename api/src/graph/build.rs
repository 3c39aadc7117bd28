//! Builds a graph of what is recorded and what the kernel has.

use std::collections::{HashMap, HashSet};

use super::{EdgeKind, Graph, GraphEdge, GraphNode, KernelLink, KernelNamespace, NodeKind};
use crate::{
    Endpoint, InterfaceAddress, Kind, Link, Name, Peer, ResourceRef, State, Topology, Veth,
};

/// Devices that the kernel itself adds to each namespace once a tunnel's module is loaded
/// (`fb_tunnels_only_for_init_net`, admin-guide/sysctl/net.rst).
const FALLBACK_TUNNELS: [&str; 9] = [
    "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0",
];

const LOOPBACK: &str = "lo";
/// Addresses that the kernel itself gives `lo`.
const LOOPBACK_ADDRESSES: [&str; 2] = ["127.0.0.1/8", "::1/128"];

/// Namespace and name of a device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place {
    namespace: Option<String>,
    device: String,
}

impl Place {
    fn new(namespace: Option<&str>, device: &str) -> Self {
        Self {
            namespace: namespace.map(str::to_owned),
            device: device.to_owned(),
        }
    }

    /// Returns the id of a node or an edge at this place.
    fn id(&self, kind: &str) -> String {
        let namespace = self.namespace.as_deref().unwrap_or_default();
        format!("{kind}/{namespace}/{}", self.device)
    }
}

impl From<&Peer> for Place {
    fn from(peer: &Peer) -> Self {
        Self::new(peer.namespace.as_deref(), &peer.interface)
    }
}

/// Resource of a device, and which end of it; 0 if it has one only.
type Owner = (ResourceRef, usize);

impl Graph {
    /// Returns the graph of what is recorded and of what the kernel has: a device is drawn where
    /// the kernel has it, else where it is recorded. Links of resources that are not among the
    /// recorded count as unmanaged.
    pub fn new(
        recorded: &Topology,
        states: &HashMap<ResourceRef, State>,
        live: &[KernelNamespace],
    ) -> Self {
        let mut builder = Builder::new(recorded, states, live);
        builder.add_namespaces();
        builder.add_bridges();
        for veth in &recorded.veths {
            builder.add_veth(veth);
        }
        for link in &recorded.links {
            builder.add_link(link);
        }
        for link in &recorded.links {
            builder.add_lower(link);
        }
        builder.add_other_devices();
        builder.add_live_edges();
        builder.finish()
    }
}

struct Builder<'a> {
    recorded: &'a Topology,
    states: &'a HashMap<ResourceRef, State>,
    live: &'a [KernelNamespace],
    links: HashMap<Place, &'a KernelLink>,
    /// Places of the links that have an owner tag.
    owned: HashMap<&'a Owner, Place>,
    /// Ids of devices, by their places.
    devices: HashMap<Place, String>,
    /// Ids of all nodes.
    ids: HashSet<String>,
    nodes: Vec<GraphNode>,
    edges: Vec<GraphEdge>,
}

impl<'a> Builder<'a> {
    fn new(
        recorded: &'a Topology,
        states: &'a HashMap<ResourceRef, State>,
        live: &'a [KernelNamespace],
    ) -> Self {
        let (mut links, mut owned) = (HashMap::new(), HashMap::new());
        for namespace in live {
            for link in &namespace.links {
                let place = Place::new(namespace.name.as_deref(), &link.name);
                if let Some(owner) = &link.owner {
                    owned.entry(owner).or_insert_with(|| place.clone());
                }
                links.insert(place, link);
            }
        }
        Self {
            recorded,
            states,
            live,
            links,
            owned,
            devices: HashMap::new(),
            ids: HashSet::new(),
            nodes: Vec::new(),
            edges: Vec::new(),
        }
    }

    fn state(&self, resource: &ResourceRef) -> Option<State> {
        self.states.get(resource).copied()
    }

    /// Returns the place of a device in the kernel, else the recorded one.
    fn current_place(&self, owner: &Owner, recorded: Place) -> Place {
        self.owned.get(owner).cloned().unwrap_or(recorded)
    }

    /// Adds a node, unless there is one with its id.
    fn add_node(&mut self, node: GraphNode) {
        if self.ids.insert(node.id.clone()) {
            self.nodes.push(node);
        }
    }

    fn add_namespaces(&mut self) {
        for namespace in &self.recorded.namespaces {
            let resource = ResourceRef::new(Kind::Namespace, namespace.name.clone());
            self.add_namespace(namespace.name.as_str(), true, self.state(&resource));
        }
        for name in self.live.iter().filter_map(|live| live.name.as_deref()) {
            self.add_namespace(name, false, None);
        }
        // A document may refer to namespaces that are only recorded.
        let bridges = self.recorded.bridges.iter().map(|bridge| &bridge.namespace);
        let ends = self.recorded.veths.iter().flat_map(|veth| &veth.endpoints);
        let links = self.recorded.links.iter().map(|link| &link.device);
        let ends = ends.chain(links).map(|end| &end.namespace);
        let lowers = self.recorded.links.iter().map(|link| link.fields.base());
        let lowers = lowers.filter_map(|base| base.lower()?.namespace.as_ref());
        for name in bridges.chain(ends).flatten().chain(lowers) {
            self.add_namespace(name.as_str(), true, None);
        }
    }

    fn add_namespace(&mut self, name: &str, managed: bool, state: Option<State>) {
        self.add_node(GraphNode {
            id: format!("namespace/{name}"),
            kind: NodeKind::Namespace,
            name: name.to_owned(),
            namespace: None,
            managed,
            state,
            operstate: None,
            addresses: self.loopback_addresses(Some(name)),
        });
    }

    /// Returns the addresses of a namespace's `lo` that the kernel did not give it.
    fn loopback_addresses(&self, namespace: Option<&str>) -> Vec<String> {
        let lo = self.links.get(&Place::new(namespace, LOOPBACK));
        let addresses = lo.into_iter().flat_map(|lo| &lo.addresses);
        addresses
            .filter(|address| !LOOPBACK_ADDRESSES.contains(&address.as_str()))
            .cloned()
            .collect()
    }

    fn add_bridges(&mut self) {
        for bridge in &self.recorded.bridges {
            let namespace = bridge.namespace.as_ref().map(Name::as_str);
            let place = Place::new(namespace, bridge.device());
            self.add_bridge(&bridge.name, place, &bridge.addresses);
        }
    }

    fn add_bridge(&mut self, name: &Name, recorded: Place, addresses: &[InterfaceAddress]) {
        let owner = (ResourceRef::new(Kind::Bridge, name.clone()), 0);
        let place = self.current_place(&owner, recorded);
        let node = GraphNode {
            id: bridge_id(name),
            kind: NodeKind::Bridge,
            name: name.to_string(),
            ..self.device(&place)
        };
        self.add_recorded_device(node, place, &owner, addresses);
    }

    fn add_veth(&mut self, veth: &Veth) {
        let resource = ResourceRef::new(Kind::Veth, veth.name.clone());
        let [a, b] = [0, 1].map(|i| {
            let end = &veth.endpoints[i];
            // netnsd chooses the name of a device without one when it records the pair.
            let device = match end.device() {
                "" => format!("{}/{i}", veth.name),
                device => device.to_owned(),
            };
            self.add_end(&(resource.clone(), i), end, &device)
        });
        let id = format!("pair/{}", veth.name);
        self.add_edge(EdgeKind::Pair, id, a, b, Some(&resource));
    }

    fn add_link(&mut self, link: &Link) {
        let resource = ResourceRef::new(Kind::Link, link.name.clone());
        self.add_end(&(resource, 0), &link.device, link.device_name());
    }

    /// Adds the edge to the device that a link is on, unless the kernel has the link and tells it.
    fn add_lower(&mut self, link: &Link) {
        let resource = ResourceRef::new(Kind::Link, link.name.clone());
        let owner = (resource, 0);
        let Some(lower) = link.fields.base().lower() else {
            return;
        };
        if self.owned.contains_key(&owner) {
            return;
        }
        let namespace = lower.namespace.as_ref().map(Name::as_str);
        let below = Place::new(namespace, lower.interface.as_str());
        let b = match self.devices.get(&below) {
            Some(id) => id.clone(),
            None => {
                let node = self.device(&below);
                self.devices.insert(below, node.id.clone());
                let id = node.id.clone();
                self.add_node(node);
                id
            }
        };
        let namespace = link.device.namespace.as_ref().map(Name::as_str);
        let place = Place::new(namespace, link.device_name());
        let a = self.device(&place).id;
        let id = place.id(EdgeKind::Lower.as_str());
        self.add_edge(EdgeKind::Lower, id, a, b, Some(&owner.0));
    }

    /// Adds a device that may be a port, and returns its id.
    fn add_end(&mut self, owner: &Owner, end: &Endpoint, device: &str) -> String {
        let namespace = end.namespace.as_ref().map(Name::as_str);
        let place = self.current_place(owner, Place::new(namespace, device));
        if let Some(bridge) = &end.bridge
            && !self.owned.contains_key(owner)
        {
            // A document may refer to bridges that are only recorded.
            self.add_bridge(bridge, Place::new(namespace, bridge.as_str()), &[]);
            let id = place.id(EdgeKind::Port.as_str());
            let a = self.device(&place).id;
            self.add_edge(EdgeKind::Port, id, a, bridge_id(bridge), Some(&owner.0));
        }
        let node = self.device(&place);
        let id = node.id.clone();
        self.add_recorded_device(node, place, owner, &end.addresses);
        id
    }

    /// Returns the node of an unmanaged device.
    fn device(&self, place: &Place) -> GraphNode {
        let live = self.links.get(place);
        let kind = if live.is_some_and(|live| live.is_kind(KernelLink::BRIDGE)) {
            NodeKind::Bridge
        } else {
            NodeKind::Interface
        };
        GraphNode {
            id: place.id(kind.as_str()),
            kind,
            name: place.device.clone(),
            namespace: place.namespace.clone(),
            managed: false,
            state: None,
            operstate: live.map(|live| live.operstate.clone()),
            addresses: live.map_or_else(Vec::new, |live| live.addresses.clone()),
        }
    }

    fn add_recorded_device(
        &mut self,
        mut node: GraphNode,
        place: Place,
        owner: &Owner,
        addresses: &[InterfaceAddress],
    ) {
        node.state = self.state(&owner.0);
        match self.links.get(&place) {
            // A device of others may hold the place.
            Some(link) => node.managed = link.owner.as_ref() == Some(owner),
            None => {
                node.managed = true;
                node.addresses = addresses.iter().map(ToString::to_string).collect();
            }
        }
        self.devices.entry(place).or_insert_with(|| node.id.clone());
        self.add_node(node);
    }

    fn add_edge(
        &mut self,
        kind: EdgeKind,
        id: String,
        a: String,
        b: String,
        resource: Option<&ResourceRef>,
    ) {
        self.edges.push(GraphEdge {
            id,
            a,
            b,
            kind,
            resource: resource.cloned(),
            state: resource.and_then(|resource| self.state(resource)),
        });
    }

    /// Adds the devices that only the kernel has.
    fn add_other_devices(&mut self) {
        for (place, link) in self.live_links() {
            let is_left_out =
                link.name == LOOPBACK || FALLBACK_TUNNELS.contains(&link.name.as_str());
            if !is_left_out && !self.devices.contains_key(&place) {
                let node = self.device(&place);
                self.devices.insert(place, node.id.clone());
                self.add_node(node);
            }
        }
    }

    /// Adds the edges that the kernel has, besides those of recorded pairs.
    fn add_live_edges(&mut self) {
        let mut pairs = HashSet::new();
        for (place, link) in self.live_links() {
            let Some(a) = self.devices.get(&place).cloned() else {
                continue;
            };
            let owner = link.owner.as_ref().map(|(resource, _)| resource);
            let owner = owner.filter(|owner| self.states.contains_key(owner));
            let master = link.master.as_deref();
            let master = master.map(|master| Place::new(place.namespace.as_deref(), master));
            if let Some(b) = master.and_then(|master| self.devices.get(&master).cloned()) {
                let id = place.id(EdgeKind::Port.as_str());
                self.add_edge(EdgeKind::Port, id, a.clone(), b, owner);
            }
            let attached = link.attached.as_ref().map(Place::from);
            let Some(b) = attached.and_then(|place| self.devices.get(&place).cloned()) else {
                continue;
            };
            let kind = if link.is_kind(KernelLink::VETH) {
                EdgeKind::Pair
            } else {
                EdgeKind::Lower
            };
            // Both ends of a pair name each other; `add_veth` has added the recorded pairs.
            let ends = if a < b {
                (a.clone(), b.clone())
            } else {
                (b.clone(), a.clone())
            };
            if kind == EdgeKind::Lower || owner.is_none() && pairs.insert(ends) {
                self.add_edge(kind, place.id(kind.as_str()), a, b, None);
            }
        }
    }

    fn live_links(&self) -> impl Iterator<Item = (Place, &'a KernelLink)> + use<'a> {
        self.live.iter().flat_map(|namespace| {
            let name = namespace.name.as_deref();
            let links = namespace.links.iter();
            links.map(move |link| (Place::new(name, &link.name), link))
        })
    }

    fn finish(mut self) -> Graph {
        let has_host = self.live.iter().any(|namespace| namespace.name.is_none())
            || self.devices.keys().any(|place| place.namespace.is_none());
        if has_host {
            self.add_node(GraphNode {
                id: NodeKind::Host.to_string(),
                kind: NodeKind::Host,
                name: NodeKind::Host.to_string(),
                namespace: None,
                managed: false,
                state: None,
                operstate: None,
                addresses: self.loopback_addresses(None),
            });
        }
        self.nodes
            .sort_by_cached_key(|node| (node.kind, node.namespace.clone(), node.name.clone()));
        self.edges.sort_by(|a, b| a.id.cmp(&b.id));
        Graph {
            nodes: self.nodes,
            edges: self.edges,
        }
    }
}

fn bridge_id(name: &Name) -> String {
    format!("bridge/{name}")
}
