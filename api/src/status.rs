//! A resource as GET shows it: specification, identity and status.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Resource, string_enum::string_enum};

string_enum! {
    /// The state of a resource.
    #[serde(rename_all = "snake_case")]
    pub enum State as "a state" {
        /// The kernel matches the specification.
        InSync = "in_sync",
        /// A dependency is missing; the resource is applied automatically once it exists.
        Pending = "pending",
        /// The kernel was changed by others, and the change is not repaired yet.
        Drifted = "drifted",
        /// The kernel refuses it; netnsd retries.
        Failed = "failed",
        /// A name that it needs is taken by something that netnsd does not manage.
        Conflict = "conflict",
    }
}

/// The status of a resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status<O> {
    /// The state.
    pub state: State,
    /// The reason why it is not in sync, a sentence; null if it is.
    pub reason: Option<String>,
    /// The kernel's state at the last observation; null if it does not exist.
    pub observed: Option<O>,
}

/// A resource as GET shows it: its specification and its status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(bound = "")]
pub struct Stored<R: Resource> {
    /// The specification.
    #[serde(flatten)]
    pub spec: R,
    /// Its identity: a new one each time it is created.
    pub uid: String,
    /// Number of changes of the specification; the ETag.
    pub generation: u64,
    /// False for a namespace that netnsd does not manage; else left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<bool>,
    /// Time of creation (RFC 3339, UTC).
    pub created_at: String,
    /// Time of the last change of the specification (RFC 3339, UTC).
    pub updated_at: String,
    /// Its status.
    pub status: Status<R::Observed>,
}
