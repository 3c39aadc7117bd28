//! Entity tags (RFC 9110, section 8.8.3) of resources and of the network.

use jiff::Timestamp;
use sha2::{Digest, Sha256};

/// Version of a resource's intent.
#[derive(Debug, Clone, Copy)]
pub struct Version<'a> {
    /// Identifier of the resource.
    pub uid: &'a str,
    /// Number of the intent's version.
    pub generation: u64,
    /// Time of the last change of the intent. A generation is counted twice after a backup of the
    /// database was restored; the time differs.
    pub updated_at: Timestamp,
}

/// Returns the tag of a set of resources, in the order of kind and name. It depends on nothing but
/// their versions, and so is the same after a restart.
pub fn tag_versions<'a>(versions: impl Iterator<Item = Version<'a>>) -> String {
    let mut hash = Sha256::new();
    for version in versions {
        // An identifier has no zero byte.
        hash.update(version.uid);
        hash.update([0]);
        hash.update(version.generation.to_be_bytes());
        hash.update(version.updated_at.as_nanosecond().to_be_bytes());
    }
    let digest = hash.finalize();
    digest[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
