//! Records: resources as they are kept in memory and as rows.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use netnsd_api::{Kind, Mac, Name, SysctlKey, Token};

use super::{Spec, Version};

/// Secret of this machine: two machines derive different MAC addresses for the same names.
pub type MachineKey = [u8; 32];

/// A recorded resource: its intent, and what earlier intents left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Identifier that no other resource ever has (UUID version 7).
    pub uid: String,
    /// Number of the intent's version, from 1.
    pub generation: u64,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Time of the last change of the intent.
    pub updated_at: Timestamp,
    /// Intent.
    pub spec: Arc<Spec>,
    /// Earlier intents that may still be in the kernel.
    pub applied: Vec<Spec>,
    /// Values of sysctls before netnsd set them.
    pub prior: BTreeMap<SysctlKey, String>,
    /// True until the devices that others made at its locations are taken over.
    pub adopt: bool,
    /// MAC addresses of its devices where the intent leaves them open, one for each end.
    pub macs: Vec<Mac>,
    /// True until the addresses that its devices have in the kernel are recorded, of a resource
    /// from before they were.
    pub keep_macs: bool,
}

impl Record {
    /// Returns the version of its intent.
    pub fn version(&self) -> Version<'_> {
        Version {
            uid: &self.uid,
            generation: self.generation,
            updated_at: self.updated_at,
        }
    }

    /// Returns the row that records it.
    pub fn row(&self) -> Row {
        Row {
            uid: self.uid.clone(),
            kind: self.spec.kind(),
            name: self.spec.name().clone(),
            generation: self.generation,
            created_at: self.created_at,
            updated_at: self.updated_at,
            desired: Some(self.spec.clone()),
            applied: self.applied.clone(),
            prior: self.prior.clone(),
            adopt: self.adopt,
            macs: if self.keep_macs {
                Vec::new()
            } else {
                self.macs.clone()
            },
        }
    }
}

/// Mutable part of a record: traces of earlier intents.
#[derive(Debug)]
#[allow(missing_docs, reason = "named as the record's fields")]
pub struct Leftovers<'a> {
    pub applied: &'a mut Vec<Spec>,
    pub prior: &'a mut BTreeMap<SysctlKey, String>,
    pub adopt: &'a mut bool,
    pub keep_macs: &'a mut bool,
}

/// Row of a recorded resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Identifier that no other resource ever has.
    pub uid: String,
    /// Kind.
    pub kind: Kind,
    /// Name.
    pub name: Name,
    /// Number of the intent's version.
    pub generation: u64,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Time of the last change of the intent.
    pub updated_at: Timestamp,
    /// Intent; `None` for a tombstone, whose devices are still to be deleted.
    pub desired: Option<Arc<Spec>>,
    /// Earlier intents that may still be in the kernel.
    pub applied: Vec<Spec>,
    /// Values of sysctls before netnsd set them.
    pub prior: BTreeMap<SysctlKey, String>,
    /// True until the devices that others made at its locations are taken over.
    pub adopt: bool,
    /// MAC addresses of its devices where the intent leaves them open; empty if not recorded yet.
    pub macs: Vec<Mac>,
}

/// Row of an API token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// Public part.
    pub token: Token,
    /// SHA-256 of the secret, hexadecimal.
    pub hash: String,
}
