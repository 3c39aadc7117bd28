//! Answers to dry runs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Name, ResourceRef};

/// One operation of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedOperation {
    /// The operation, such as `address_add`.
    pub op: String,
    /// The namespace of the operation; null: the host's.
    pub namespace: Option<Name>,
    /// The resource of the operation.
    pub resource: ResourceRef,
    /// The equivalent `ip`, `sysctl` or shell line.
    pub command: String,
}

/// The answer to a write with `?dry_run=true`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DryRun {
    /// The operations, in order.
    pub plan: Vec<PlannedOperation>,
    /// The answer that the write would get; null for a DELETE.
    pub result: serde_json::Value,
}
