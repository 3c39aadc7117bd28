//! Base of a link: a device, or the namespace that its own packets go through.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{InterfaceName, Name};

/// A network device, managed or not, by its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Lower {
    /// The managed namespace that it is in; null: the host's.
    #[serde(default)]
    pub namespace: Option<Name>,
    /// Its name.
    #[schema(value_type = String)]
    pub interface: InterfaceName,
}

/// Base of a link. The link is created in its namespace, and goes when it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base<'f> {
    /// None: the link stands alone, in its own namespace.
    Alone,
    /// A device that the link is on.
    Lower(&'f Lower),
    /// The namespace whose addresses and routes the link's own packets use.
    Underlay {
        /// Namespace; `None` is the host's.
        namespace: Option<&'f Name>,
        /// Device there that they leave by.
        lower: Option<&'f Lower>,
    },
}

impl<'f> Base<'f> {
    /// Returns the device that the link is on.
    pub fn lower(self) -> Option<&'f Lower> {
        match self {
            Self::Alone => None,
            Self::Lower(lower) => Some(lower),
            Self::Underlay { lower, .. } => lower,
        }
    }

    /// Returns the namespace of the base, `None` inside for the host's; `None` if there is no base.
    pub fn namespace(self) -> Option<Option<&'f Name>> {
        match self {
            Self::Alone => None,
            Self::Lower(lower) => Some(lower.namespace.as_ref()),
            Self::Underlay { namespace, .. } => Some(namespace),
        }
    }

    /// Returns the field that names the base's namespace.
    pub fn namespace_field(self) -> &'static str {
        match self {
            Self::Alone => "namespace",
            Self::Lower(_) => "lower/namespace",
            Self::Underlay { .. } => "underlay",
        }
    }
}
