//! What happened, as clients watch it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Kind, string_enum::string_enum};

string_enum! {
    /// What kind of thing happened.
    #[serde(rename_all = "lowercase")]
    pub enum EventType as "a type of event" {
        /// A resource was asked for.
        Created = "created",
        /// A resource was asked to be otherwise.
        Updated = "updated",
        /// A resource is no longer asked for.
        Deleted = "deleted",
        /// The kernel is as was asked.
        Applied = "applied",
        /// The kernel is no longer as was asked: somebody changed it.
        Drifted = "drifted",
        /// What somebody changed is again as was asked.
        Repaired = "repaired",
        /// The kernel is not as was asked, and could not be made so.
        Failed = "failed",
        /// Others made a namespace (as `ip netns monitor` shows it).
        Appeared = "appeared",
        /// Others removed a namespace.
        Disappeared = "disappeared",
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its number: later events have greater ones.
    pub id: u64,
    /// When it happened (RFC 3339, UTC).
    pub time: String,
    /// What kind of thing it is.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// What it happened to.
    pub resource: EventResource,
    /// More, depending on the type: `generation` of an update, `reason` of what drifted or failed,
    /// `operations` of a repair.
    #[schema(value_type = Object)]
    pub detail: serde_json::Value,
}

/// What an event happened to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventResource {
    /// Its kind.
    pub kind: Kind,
    /// Its name; that of others' namespaces may be any file's name.
    pub name: String,
    /// Its identity; null if netnsd does not manage it.
    pub uid: Option<String>,
}
