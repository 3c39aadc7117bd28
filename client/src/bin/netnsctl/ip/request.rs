//! Requests in the words of `ip`, `bridge` and `brctl`, parsed.

use netnsd_api::{Kind, LinkType};
use serde_json::{Map, Value};

use super::select::Selection;
use crate::entries::Edit;

/// One command.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// `help`: the help of the command.
    Help,
    /// A command that only reads.
    Show(Show, Selection),
    /// `link add`.
    AddLink(DeviceWords, NewLink),
    /// `link set`, and `bridge link set`.
    SetLink(SetLink),
    /// `link delete`; with the type if it was given.
    DeleteLink(String, Option<DeviceType>),
    /// `addr add` and its siblings: an edit of the addresses of a device.
    EditDevice(Edit, String),
    /// `addr flush dev DEVICE …`.
    FlushAddresses(String, Selection),
    /// `route flush …`.
    FlushRoutes(Selection),
    /// `neigh flush … nud permanent`.
    FlushNeighbours(Selection),
    /// `route add`, `neigh add` and their siblings: an edit of a list of the namespace.
    EditNamespace(Edit),
}

impl Request {
    /// Returns true if it writes.
    pub fn is_write(&self) -> bool {
        !matches!(self, Request::Help | Request::Show(..))
    }
}

/// The list that a reading command shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// `link show`.
    Links,
    /// `addr show`.
    Addresses,
    /// `route show`.
    Routes,
    /// `rule show`.
    Rules,
    /// `neigh show`.
    Neighbours,
    /// `bridge link show`.
    Ports,
    /// `bridge fdb show`, `brctl showmacs`.
    Fdb,
    /// `brctl show`.
    Bridges,
    /// `brctl showstp`.
    Stp,
}

/// Types of `ip link add … type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceType {
    /// A veth pair.
    Veth,
    /// A bridge.
    Bridge,
    /// A type of kind `link`.
    Link(LinkType),
}

impl DeviceType {
    /// Returns the managed type of this name in ip-link(8).
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "veth" => Some(Self::Veth),
            "bridge" => Some(Self::Bridge),
            other => other.parse().ok().map(Self::Link),
        }
    }

    /// Returns the names of the managed types.
    pub fn words() -> Vec<&'static str> {
        let links = LinkType::ALL.into_iter().map(LinkType::as_str);
        ["veth", "bridge"].into_iter().chain(links).collect()
    }

    /// Returns the kind of its resources.
    pub fn kind(self) -> Kind {
        match self {
            Self::Veth => Kind::Veth,
            Self::Bridge => Kind::Bridge,
            Self::Link(_) => Kind::Link,
        }
    }
}

/// A new link, with what only its type has.
#[derive(Debug, Clone, PartialEq)]
pub enum NewLink {
    /// A veth pair: its other end.
    Veth(DeviceWords),
    /// A bridge: its fields.
    Bridge(Map<String, Value>),
    /// A link of another type: its fields.
    Link(LinkType, Map<String, Value>),
}

/// The words about a device that every type has.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeviceWords {
    /// Its name, which `link add` may leave out.
    pub name: Option<String>,
    /// The namespace to place it in: a name, or a process id.
    pub netns: Option<String>,
    /// The device that it is on.
    pub lower: Option<String>,
    /// The bridge to attach it to; `Some(None)` for `nomaster`.
    pub master: Option<Option<String>>,
    /// Fields of the resource, such as `interface`, `mac` and `up`.
    pub fields: Map<String, Value>,
}

/// A change of a device.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SetLink {
    /// The words that every device has.
    pub device: DeviceWords,
    /// Fields of a bridge.
    pub bridge: Map<String, Value>,
    /// Fields of a bridge port.
    pub port: Map<String, Value>,
    /// For brctl: the bridge whose port it must be.
    pub port_of: Option<String>,
}
