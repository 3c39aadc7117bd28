//! Dummy devices: they take packets and drop them, and have addresses that are always there.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::LinkTypeFields;

/// Fields of a dummy device: none besides those of every link.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DummyFields {}

impl LinkTypeFields for DummyFields {}
