//! Processes in namespaces.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A process in a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Its name (`/proc/PID/comm`).
    pub command: String,
    /// Its effective user.
    pub uid: u32,
}

/// The namespace of a process (`ip netns identify`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProcessNamespace {
    /// Process id.
    pub pid: u32,
    /// The namespace's name; null if it has none, such as the host's.
    pub namespace: Option<String>,
    /// The namespace's inode number.
    pub inode: u64,
}
