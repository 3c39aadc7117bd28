//! Reasons for which the engine refuses or fails to do what it is asked for.

use std::sync::Arc;

use netnsd_api::{FieldError, ResourceRef};

use super::failure::OpFailure;
use crate::{intent::IntentError, kernel::KernelError, model::DocumentItem, store::StoreError};

/// Number of links that a message lists.
const MAX_LISTED_LINKS: usize = 10;

/// The engine is stopping, or has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("netnsd is stopping")]
pub struct Stopping;

/// Reason for which something beside the resources is not recorded.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RecordError {
    /// The engine is stopping.
    #[error(transparent)]
    Stopping(#[from] Stopping),
    /// The database cannot be written.
    #[error("{0}")]
    Store(Arc<StoreError>),
}

/// Reason for which a write is refused or failed; nothing has changed then.
///
/// Its message may name resources that are out of the caller's scope.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// The engine is stopping.
    #[error(transparent)]
    Stopping(#[from] Stopping),
    /// All places of the queue are taken.
    #[error("write queue is full ({pending} pending); retry later")]
    QueueFull {
        /// Number of writes in the queue.
        pending: usize,
    },
    /// The caller has as many pending writes as it may have.
    #[error("{caller} has {pending} pending writes, which is its share of the queue; retry later")]
    ShareFull {
        /// Name of the caller.
        caller: String,
        /// Number of its writes.
        pending: usize,
    },
    /// The intent refuses it.
    #[error(transparent)]
    Intent(#[from] IntentError),
    /// Only admins may add an address on the host.
    #[error(transparent)]
    HostAddress(#[from] FieldError),
    /// Something that is not netnsd's is in the way.
    #[error("{reason}")]
    Conflict {
        /// Resource that is not applied.
        resource: ResourceRef,
        /// Obstacle, and what to do about it.
        reason: String,
        /// JSON pointer to the field of the resource that leads there.
        pointer: Option<String>,
    },
    /// A namespace to be deleted has links that others made.
    #[error(
        "{resource} has interfaces that netnsd did not make: {}; move them out, or ?cascade=true deletes the namespace with them",
        list_links(links)
    )]
    ForeignLinks {
        /// Namespace.
        resource: ResourceRef,
        /// Names of the links.
        links: Vec<String>,
    },
    /// An operation failed.
    #[error("{}", failure.describe(resource))]
    Operation {
        /// Resource that the operation is for.
        resource: ResourceRef,
        /// Operation, and the reason.
        failure: Box<OpFailure>,
        /// The resource and its namespace, if the write names neither.
        others: Vec<ResourceRef>,
    },
    /// The kernel cannot be asked.
    #[error("netlink request failed: {0}")]
    Unobservable(KernelError),
    /// The database cannot be written.
    #[error("{0}: nothing was changed")]
    Store(Arc<StoreError>),
    /// A resource of a topology document is refused.
    #[error("{error}")]
    InDocument {
        /// JSON pointer to the resource.
        item: String,
        /// Reason.
        error: Box<WriteError>,
    },
}

impl WriteError {
    /// Returns the error of an item of a document.
    pub(super) fn in_document(self, item: &DocumentItem) -> Self {
        Self::InDocument {
            item: item.pointer(),
            error: Box::new(self),
        }
    }
}

fn list_links(links: &[String]) -> String {
    let listed = links[..links.len().min(MAX_LISTED_LINKS)].join(", ");
    match links.len().saturating_sub(MAX_LISTED_LINKS) {
        0 => listed,
        count => format!("{listed} and {count} more"),
    }
}
