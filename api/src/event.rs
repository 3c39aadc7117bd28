//! What happened, as clients watch it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Kind, values::words};

/// What kind of thing happened.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum EventType {
    /// A resource was asked for.
    Created,
    /// A resource was asked to be otherwise.
    Updated,
    /// A resource is no longer asked for.
    Deleted,
    /// The kernel is as was asked.
    Applied,
    /// The kernel is no longer as was asked: somebody changed it.
    Drifted,
    /// What somebody changed is again as was asked.
    Repaired,
    /// The kernel is not as was asked, and could not be made so.
    Failed,
    /// Others made a namespace (as `ip netns monitor` shows it).
    Appeared,
    /// Others removed a namespace.
    Disappeared,
}

impl EventType {
    /// Every type.
    pub const ALL: [EventType; 9] = [
        EventType::Created,
        EventType::Updated,
        EventType::Deleted,
        EventType::Applied,
        EventType::Drifted,
        EventType::Repaired,
        EventType::Failed,
        EventType::Appeared,
        EventType::Disappeared,
    ];

    /// The type as JSON names it.
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::Created => "created",
            EventType::Updated => "updated",
            EventType::Deleted => "deleted",
            EventType::Applied => "applied",
            EventType::Drifted => "drifted",
            EventType::Repaired => "repaired",
            EventType::Failed => "failed",
            EventType::Appeared => "appeared",
            EventType::Disappeared => "disappeared",
        }
    }
}

words!(
    EventType,
    "a type of event: it is one of created, updated, deleted, applied, drifted, repaired, failed, appeared, disappeared"
);

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
