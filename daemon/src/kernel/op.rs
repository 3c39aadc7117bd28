//! Operations: changes of the kernel, as plans hold them and kernels execute them.
//!
//! Every operation may be repeated: a state that is already as asked is no error, unless something
//! of others is in its way.

use std::{fmt, net::IpAddr};

use netnsd_api::{Mac, Name, Neighbour, NetnsId, Port, Route, Rule, SysctlKey};

use super::{DnsFile, Ns, ObservedAddress, RouteExtras};
use crate::links::{BridgeSettings, DeviceSettings, LinkSettings, NoSettings, VlanChange};

/// Location of a link: its namespace, and its name there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkAt {
    /// Namespace.
    pub ns: Ns,
    /// Interface name.
    pub name: String,
}

impl LinkAt {
    /// Returns the location of an interface.
    pub fn new(ns: Ns, name: impl Into<String>) -> Self {
        Self {
            ns,
            name: name.into(),
        }
    }

    /// Returns the namespace and the name.
    pub fn parts(&self) -> (&Ns, &str) {
        (&self.ns, &self.name)
    }

    /// Returns the location of a namespace's loopback device.
    pub fn loopback(ns: Ns) -> Self {
        Self::new(ns, "lo")
    }

    /// Returns the operation that changes the link.
    pub fn set(&self, change: LinkChange) -> Op {
        Op::Link(LinkOp::Set {
            link: self.clone(),
            change,
        })
    }

    /// Returns the operation that changes the link's addresses.
    pub fn change_addresses(&self, change: AddressChange) -> Op {
        Op::Feature(FeatureOp::Address {
            link: self.clone(),
            change,
        })
    }

    /// Returns the operation that deletes the link.
    pub fn delete(&self) -> Op {
        Op::Link(LinkOp::Delete(self.clone()))
    }
}

impl fmt::Display for LinkAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.name, self.ns)
    }
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Op {
    /// On a namespace.
    Namespace(NamespaceOp),
    /// On a link.
    Link(LinkOp),
    /// On state that is attached to a namespace or a link.
    Feature(FeatureOp),
}

/// Operation on the namespace that `/run/netns/NAME` pins.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NamespaceOp {
    /// Name.
    pub name: Name,
    /// Change.
    pub change: NamespaceChange,
}

/// Change of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NamespaceChange {
    /// Creates, tags and pins it.
    Create {
        /// Owner tag of its `lo`.
        owner_tag: String,
    },
    /// Pins the namespace of a process.
    Attach {
        /// Process.
        pid: u32,
        /// Owner tag of its `lo`.
        owner_tag: String,
    },
    /// Unpins it; also removes a file that pins nothing.
    Delete,
    /// Gives it an id as seen from the host.
    SetId(NetnsId),
    /// Sets `lo` up or down.
    SetLoopbackUp(bool),
}

/// Operation on a link.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LinkOp {
    /// Creates a link, or a pair of them, each end in its namespace.
    Create(Box<NewLink>),
    /// Changes a link.
    Set {
        /// Link.
        link: LinkAt,
        /// Change.
        change: LinkChange,
    },
    /// Moves a link to another namespace, under another name if that differs.
    Move {
        /// Present location.
        from: LinkAt,
        /// New location.
        to: LinkAt,
    },
    /// Deletes a link; a veth's peer goes with it.
    Delete(LinkAt),
}

/// Link that is to be created.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NewLink {
    /// Type, and settings besides the defaults.
    pub settings: LinkSettings,
    /// Location at which it is created if its base is in another namespace, and from which it is
    /// moved.
    pub birthplace: Option<LinkAt>,
    /// Device that it is on, in the namespace that it is created in.
    pub lower: Option<String>,
    /// Device.
    pub end: NewEnd,
    /// Other end of a veth pair.
    pub peer: Option<NewEnd>,
}

impl NewLink {
    /// Creates a veth pair.
    pub fn veth([end, peer]: [NewEnd; 2]) -> Self {
        Self {
            settings: LinkSettings::Veth(NoSettings),
            birthplace: None,
            lower: None,
            end,
            peer: Some(peer),
        }
    }

    /// Creates a bridge.
    pub fn bridge(end: NewEnd, settings: BridgeSettings) -> Self {
        Self {
            settings: LinkSettings::Bridge(settings),
            birthplace: None,
            lower: None,
            end,
            peer: None,
        }
    }

    /// Returns the location of the device that it is on.
    pub fn lower_at(&self) -> Option<LinkAt> {
        let birthplace = self.birthplace.as_ref().unwrap_or(&self.end.at);
        let lower = self.lower.as_ref()?;
        Some(LinkAt::new(birthplace.ns.clone(), lower))
    }

    /// Iterates over the devices that it has.
    pub fn ends(&self) -> impl Iterator<Item = &NewEnd> {
        std::iter::once(&self.end).chain(&self.peer)
    }
}

/// Device of a link that is to be created.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NewEnd {
    /// Location.
    pub at: LinkAt,
    /// Owner tag.
    pub owner_tag: String,
    /// MAC address; `None` leaves it to the kernel.
    pub mac: Option<Mac>,
    /// MTU in bytes; `None` leaves it to the kernel.
    pub mtu: Option<u32>,
}

/// Change of a link.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LinkChange {
    /// Gives it another name; it must be down.
    Name(String),
    /// Sets it up or down.
    Up(bool),
    /// Sets the MAC address.
    Mac(Mac),
    /// Sets the MTU in bytes.
    Mtu(u32),
    /// Sets `addrgenmode`: `none` (no IPv6 link-local address) if true, else `eui64`.
    AddrGenModeNone(bool),
    /// Makes it a port of this bridge of its namespace, or of none.
    Master(Option<String>),
    /// Changes settings that every device has.
    Device(DeviceSettings),
    /// Adds an alternative name, or removes it.
    Altname {
        /// Alternative name.
        name: String,
        /// True to add it.
        present: bool,
    },
    /// Changes settings of its type.
    Settings(LinkSettings),
    /// Changes settings of a bridge port.
    Port(Port),
    /// Changes the VLANs of a bridge port.
    Vlans(VlanChange),
    /// Replaces the owner tag (on `lo`: of its namespace).
    Owner {
        /// Tag that was found.
        was: Option<String>,
        /// New tag.
        owner_tag: Option<String>,
        /// The change is made only if this is the other end of its pair.
        peer: Option<LinkAt>,
    },
}

/// Operation on state that is attached to a namespace or a link.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FeatureOp {
    /// Changes the addresses of a link.
    Address {
        /// Link.
        link: LinkAt,
        /// Change.
        change: AddressChange,
    },
    /// Changes the addresses to which a vxlan sends flooded frames.
    Remote {
        /// Link.
        link: LinkAt,
        /// Change.
        change: RemoteChange,
    },
    /// Changes the routes of a namespace.
    Route {
        /// Namespace.
        ns: Ns,
        /// Change.
        change: RouteChange,
    },
    /// Changes the policy rules of a namespace.
    Rule {
        /// Namespace.
        ns: Ns,
        /// Change.
        change: RuleChange,
    },
    /// Changes the permanent neighbours of a namespace.
    Neighbour {
        /// Namespace.
        ns: Ns,
        /// Change.
        change: NeighbourChange,
    },
    /// Writes a sysctl in a namespace.
    Sysctl {
        /// Namespace.
        name: Name,
        /// Key.
        key: SysctlKey,
        /// Value.
        value: String,
    },
    /// Writes a file in `/etc/netns/NAME`; `None` removes it, and then its directory if that is
    /// empty.
    Dns {
        /// Namespace.
        name: Name,
        /// File.
        file: DnsFile,
        /// Content.
        content: Option<String>,
    },
}

/// Change of a link's addresses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AddressChange {
    /// Adds an address, which must not be there yet.
    Add {
        /// Address.
        address: ObservedAddress,
        /// If it is there, its protocol, flags, metric and lifetimes are changed to these.
        replace: bool,
    },
    /// Deletes an address.
    Delete {
        /// Address.
        address: ObservedAddress,
        /// Secondary addresses of its network stay whatever `promote_secondaries` says.
        promote: bool,
    },
    /// Deletes and adds addresses at once, and restores the routes that prefer one of those that
    /// are added again.
    Reorder {
        /// Addresses to delete.
        delete: Vec<ObservedAddress>,
        /// Addresses to add, in order.
        add: Vec<ObservedAddress>,
        /// See `Delete`.
        promote: bool,
    },
    /// Restores the route to an address's network that the kernel made with the address.
    AddPrefixRoute(ObservedAddress),
}

/// Change of the addresses to which a vxlan sends flooded frames.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RemoteChange {
    /// Adds an address.
    Add(IpAddr),
    /// Deletes an address.
    Delete(IpAddr),
}

/// Change of a namespace's routes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RouteChange {
    /// Adds a route, which must not be there yet.
    Add {
        /// Route.
        route: Route,
        /// Attributes without a field in the API.
        extras: RouteExtras,
        /// `rtm_protocol`.
        protocol: u8,
        /// It takes the place of the route of the same key.
        replace: bool,
    },
    /// Deletes a route.
    Delete(Route),
}

/// Change of a namespace's policy rules. Each is of one family.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RuleChange {
    /// Adds a rule.
    Add(Rule),
    /// Deletes a rule that netnsd made.
    Delete(Rule),
}

/// Change of a namespace's permanent and proxy neighbours.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NeighbourChange {
    /// Adds or replaces a neighbour.
    Set(Neighbour),
    /// Deletes a neighbour.
    Delete(Neighbour),
}

impl From<LinkOp> for Op {
    fn from(op: LinkOp) -> Self {
        Op::Link(op)
    }
}

impl From<FeatureOp> for Op {
    fn from(op: FeatureOp) -> Self {
        Op::Feature(op)
    }
}

impl Op {
    /// Returns the operation that changes a namespace.
    pub fn namespace(name: &Name, change: NamespaceChange) -> Self {
        Op::Namespace(NamespaceOp {
            name: name.clone(),
            change,
        })
    }

    /// Returns the operation that changes the routes of a namespace.
    pub fn route(ns: &Ns, change: RouteChange) -> Self {
        Op::Feature(FeatureOp::Route {
            ns: ns.clone(),
            change,
        })
    }

    /// Returns the operation that changes the policy rules of a namespace.
    pub fn rule(ns: &Ns, change: RuleChange) -> Self {
        Op::Feature(FeatureOp::Rule {
            ns: ns.clone(),
            change,
        })
    }

    /// Returns the operation that changes the permanent neighbours of a namespace.
    pub fn neighbour(ns: &Ns, change: NeighbourChange) -> Self {
        Op::Feature(FeatureOp::Neighbour {
            ns: ns.clone(),
            change,
        })
    }

    /// Returns the name and owner tag of the namespace that it creates.
    pub fn created_namespace(&self) -> Option<(&Name, &String)> {
        match self {
            Op::Namespace(NamespaceOp {
                name,
                change: NamespaceChange::Create { owner_tag },
            }) => Some((name, owner_tag)),
            Op::Namespace(_) | Op::Link(_) | Op::Feature(_) => None,
        }
    }

    /// Returns the namespace that it deletes.
    pub fn deleted_namespace(&self) -> Option<&Name> {
        match self {
            Op::Namespace(NamespaceOp {
                name,
                change: NamespaceChange::Delete,
            }) => Some(name),
            Op::Namespace(_) | Op::Link(_) | Op::Feature(_) => None,
        }
    }

    /// Returns the namespace and the key of the sysctl that it writes.
    pub fn written_sysctl(&self) -> Option<(&Name, &SysctlKey)> {
        match self {
            Op::Feature(FeatureOp::Sysctl { name, key, .. }) => Some((name, key)),
            Op::Namespace(_) | Op::Link(_) | Op::Feature(_) => None,
        }
    }

    /// Returns the name of the operation in plans, errors and metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Op::Namespace(op) => op.change.label(),
            Op::Link(op) => op.label(),
            Op::Feature(op) => op.label(),
        }
    }

    /// Returns true if it only changes a setting of what is there, so that later operations may go
    /// on without it. If a creation, deletion, move, rename or change of owner fails, later
    /// operations could change devices of others.
    pub fn is_setting(&self) -> bool {
        match self {
            Op::Namespace(op) => match op.change {
                NamespaceChange::Create { .. }
                | NamespaceChange::Attach { .. }
                | NamespaceChange::Delete => false,
                NamespaceChange::SetId(_) | NamespaceChange::SetLoopbackUp(_) => true,
            },
            Op::Link(op) => match op {
                LinkOp::Create(_) | LinkOp::Move { .. } | LinkOp::Delete(_) => false,
                LinkOp::Set { change, .. } => {
                    !matches!(change, LinkChange::Name(_) | LinkChange::Owner { .. })
                }
            },
            Op::Feature(_) => true,
        }
    }

    /// Returns the namespace that it is done in.
    pub fn ns(&self) -> Ns {
        match self {
            Op::Namespace(op) => match op.change {
                NamespaceChange::SetLoopbackUp(_) => Ns::Named(op.name.clone()),
                NamespaceChange::Create { .. }
                | NamespaceChange::Attach { .. }
                | NamespaceChange::Delete
                | NamespaceChange::SetId(_) => Ns::Host,
            },
            Op::Link(op) => op.ns().clone(),
            Op::Feature(op) => match op {
                FeatureOp::Address { link, .. } | FeatureOp::Remote { link, .. } => link.ns.clone(),
                FeatureOp::Route { ns, .. }
                | FeatureOp::Rule { ns, .. }
                | FeatureOp::Neighbour { ns, .. } => ns.clone(),
                FeatureOp::Sysctl { name, .. } => Ns::Named(name.clone()),
                FeatureOp::Dns { .. } => Ns::Host,
            },
        }
    }
}

impl NamespaceChange {
    fn label(&self) -> &'static str {
        match self {
            NamespaceChange::Create { .. } => "namespace_add",
            NamespaceChange::Attach { .. } => "namespace_attach",
            NamespaceChange::Delete => "namespace_delete",
            NamespaceChange::SetId(_) => "netnsid_set",
            NamespaceChange::SetLoopbackUp(_) => "loopback_set",
        }
    }
}

impl LinkOp {
    fn label(&self) -> &'static str {
        match self {
            LinkOp::Create(new) => new.settings.create_label(),
            LinkOp::Delete(_) => "link_delete",
            LinkOp::Move { .. } => "link_move",
            LinkOp::Set { change, .. } => match change {
                LinkChange::Name(_) => "link_rename",
                LinkChange::Up(_) => "link_up",
                LinkChange::Mac(_) => "link_mac",
                LinkChange::Mtu(_) => "link_mtu",
                LinkChange::AddrGenModeNone(_) => "link_addrgenmode",
                LinkChange::Master(_) => "link_master",
                LinkChange::Device(_) => "link_set",
                LinkChange::Altname { .. } => "link_altname",
                LinkChange::Settings(settings) => settings.set_label(),
                LinkChange::Port(_) => "port_set",
                LinkChange::Vlans(_) => "port_vlans",
                LinkChange::Owner { .. } => "link_owner",
            },
        }
    }

    /// Returns the namespace that it is done in.
    pub fn ns(&self) -> &Ns {
        match self {
            LinkOp::Create(new) => &new.end.at.ns,
            LinkOp::Set { link, .. } | LinkOp::Delete(link) => &link.ns,
            LinkOp::Move { from, .. } => &from.ns,
        }
    }
}

impl FeatureOp {
    fn label(&self) -> &'static str {
        match self {
            FeatureOp::Address { change, .. } => match change {
                AddressChange::Add { .. } => "address_add",
                AddressChange::Delete { .. } => "address_delete",
                AddressChange::Reorder { .. } => "address_reorder",
                AddressChange::AddPrefixRoute(_) => "prefix_route_add",
            },
            FeatureOp::Remote { change, .. } => match change {
                RemoteChange::Add(_) => "remote_add",
                RemoteChange::Delete(_) => "remote_delete",
            },
            FeatureOp::Route { change, .. } => match change {
                RouteChange::Add { .. } => "route_add",
                RouteChange::Delete(_) => "route_delete",
            },
            FeatureOp::Rule { change, .. } => match change {
                RuleChange::Add(_) => "rule_add",
                RuleChange::Delete(_) => "rule_delete",
            },
            FeatureOp::Neighbour { change, .. } => match change {
                NeighbourChange::Set(_) => "neighbour_add",
                NeighbourChange::Delete(_) => "neighbour_delete",
            },
            FeatureOp::Sysctl { .. } => "sysctl_set",
            FeatureOp::Dns { .. } => "dns_set",
        }
    }
}
