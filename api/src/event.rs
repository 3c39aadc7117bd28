//! Events.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Kind, string_enum::string_enum};

string_enum! {
    /// Types of events.
    #[serde(rename_all = "lowercase")]
    pub enum EventType as "an event type" {
        /// A resource was created.
        Created = "created",
        /// The specification of a resource was changed.
        Updated = "updated",
        /// A resource was deleted.
        Deleted = "deleted",
        /// The kernel matches the specification.
        Applied = "applied",
        /// The kernel was changed by others and no longer matches.
        Drifted = "drifted",
        /// A change by others was repaired.
        Repaired = "repaired",
        /// A resource could not be applied.
        Failed = "failed",
        /// Others created a namespace (`ip netns monitor`).
        Appeared = "appeared",
        /// Others deleted a namespace.
        Disappeared = "disappeared",
    }
}

/// An event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its id; later events have greater ids.
    pub id: u64,
    /// Time of the event (RFC 3339, UTC).
    pub time: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// The resource that it concerns.
    pub resource: EventResource,
    /// Details by type: `generation` of an update, `reason` of a drift or failure, `operations` of
    /// a repair.
    #[schema(value_type = Object)]
    pub detail: serde_json::Value,
}

/// The resource that an event concerns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventResource {
    /// Its kind.
    pub kind: Kind,
    /// Its name; for namespaces of others any file name.
    pub name: String,
    /// Its identity; null if netnsd does not manage it.
    pub uid: Option<String>,
}
