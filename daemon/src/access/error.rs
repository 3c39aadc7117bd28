//! Reasons for which a caller may not do something.

use netnsd_api::{FieldError, ResourceRef, Role};

use super::Caller;
use crate::model::DocumentItem;

/// Right that a caller lacks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// A resource is out of the caller's scope.
    #[error("{caller} reaches only what is called {prefix}…, and not {resource}")]
    OutOfScope {
        /// Name of the caller.
        caller: String,
        /// Prefix of the names that it may access.
        prefix: String,
        /// Resource out of its scope.
        resource: ResourceRef,
        /// False for a dependent of what the caller named: it must not learn this name.
        is_named: bool,
    },
    /// The daemon would choose the pair's name, which reveals which names others have.
    #[error("{caller} reaches only what is called {prefix}…: give the pair a name")]
    NameNotGiven {
        /// Name of the caller.
        caller: String,
        /// Prefix of the names that it may access.
        prefix: String,
    },
    /// Only admins may do it.
    #[error("{right}, and {caller} is {role}")]
    AdminOnly {
        /// Right, and whom it is for.
        right: &'static str,
        /// Name of the caller.
        caller: String,
        /// Role of the caller.
        role: Role,
    },
    /// Only admins may do it in namespaces that are not recorded.
    #[error("{work} in namespaces that netnsd does not manage are for admins")]
    UnmanagedNamespace {
        /// Work, in the plural.
        work: &'static str,
    },
    /// A caller without credentials of a user has none that its command could run with.
    #[error(
        "commands of an operator run as its own user, and {caller} is none: use the Unix socket, or a token of an admin"
    )]
    NoUser {
        /// Name of the caller.
        caller: String,
    },
    /// A field of a resource gives it something of the host.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// A resource of a topology document is refused.
    #[error("{error}")]
    InDocument {
        /// JSON pointer to the resource.
        item: String,
        /// Reason.
        error: Box<AccessError>,
    },
}

impl AccessError {
    /// Returns the error of an item of a document.
    pub fn in_document(self, item: &DocumentItem) -> Self {
        Self::InDocument {
            item: item.pointer(),
            error: Box::new(self),
        }
    }

    /// Returns the error of a right that only admins have.
    pub(super) fn admin_only(right: &'static str, caller: &Caller) -> Self {
        Self::AdminOnly {
            right,
            caller: caller.name.clone(),
            role: caller.role,
        }
    }
}
