//! The name of a network namespace.

use std::fmt;

use netnsd_api::Name;

/// A network namespace: the host's, in which the daemon runs, or one in `/run/netns`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ns {
    /// The namespace of the daemon.
    Host,
    /// The namespace that `/run/netns/NAME` pins.
    Named(Name),
}

impl Ns {
    /// Returns the namespace that a resource's `namespace` field names.
    pub fn of(name: Option<&Name>) -> Self {
        name.map_or(Ns::Host, |name| Ns::Named(name.clone()))
    }

    /// Returns the name, or `None` for the host.
    pub fn name(&self) -> Option<&Name> {
        match self {
            Ns::Host => None,
            Ns::Named(name) => Some(name),
        }
    }
}

impl fmt::Display for Ns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ns::Host => f.write_str("the host"),
            Ns::Named(name) => write!(f, "namespace {name}"),
        }
    }
}
