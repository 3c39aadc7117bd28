//! Changes: what writes ask for, and what they come to.

use std::{fmt, sync::Arc};

use netnsd_api::{FieldError, ResourceRef};

use super::{Record, Spec};

/// Computes the new intent from the recorded one; may be called more than once.
pub type Edit = Arc<dyn Fn(&Spec) -> Result<Spec, EditError> + Send + Sync>;

/// Failure of an [`Edit`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// A field of the patch, or of the result, is invalid.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The recorded intent cannot be read.
    #[error("{0}")]
    Unreadable(String),
}

/// Returns true if a resource of this intent is selected.
pub type Selects = Arc<dyn Fn(&Spec) -> bool + Send + Sync>;

/// Topology document.
#[derive(Clone)]
pub struct Document {
    /// Its resources.
    pub specs: Vec<DocumentItem>,
    /// True if recorded resources that it does not name are deleted.
    pub prune: bool,
    /// True if namespaces are deleted with the links of others in them.
    pub cascade: bool,
    /// Selects the resources concerned, of the document and of the records (`?label=`).
    pub selects: Selects,
}

impl Document {
    /// Returns the item of a resource.
    pub fn item_of(&self, resource: &ResourceRef) -> Option<&DocumentItem> {
        self.specs
            .iter()
            .find(|item| item.spec.resource() == *resource)
    }
}

/// Resource of a topology document.
#[derive(Debug, Clone)]
pub struct DocumentItem {
    /// Intent.
    pub spec: Spec,
    /// Index in the document's list of its kind.
    pub index: usize,
}

impl DocumentItem {
    /// Returns the JSON pointer to the item.
    pub fn pointer(&self) -> String {
        format!("/{}/{}", self.spec.kind().plural(), self.index)
    }
}

/// Change that a write asks for.
#[derive(Clone)]
pub enum Change {
    /// POST: the resource must not exist. A veth's name may be unset: the first free `vethN` is
    /// taken.
    Create(Spec),
    /// PUT: create or replace.
    Put(Spec),
    /// PATCH: the resource must exist.
    Edit(ResourceRef, Edit),
    /// DELETE.
    Delete {
        /// Which.
        resource: ResourceRef,
        /// Take along (namespace) or let go (bridge) what depends on it.
        cascade: bool,
    },
    /// PUT and PATCH of the topology.
    Topology(Document),
}

impl Change {
    /// Returns a resource's item, if the change is a document that has it.
    pub fn item_of(&self, resource: &ResourceRef) -> Option<&DocumentItem> {
        match self {
            Change::Topology(document) => document.item_of(resource),
            Change::Create(_) | Change::Put(_) | Change::Edit(..) | Change::Delete { .. } => None,
        }
    }

    /// Returns true if `?cascade=true` is asked for.
    pub fn cascades(&self) -> bool {
        matches!(
            self,
            Change::Delete { cascade: true, .. } | Change::Topology(Document { cascade: true, .. })
        )
    }
}

#[cfg(test)]
impl Change {
    /// Returns the change to the specs of a topology document in JSON.
    pub(crate) fn topology(prune: bool, document: &serde_json::Value) -> Self {
        let mut specs = Vec::new();
        for kind in netnsd_api::Kind::ALL {
            let items = document[kind.plural()].as_array().into_iter().flatten();
            for (index, item) in items.enumerate() {
                let spec = Spec::from_json(kind, item.clone()).unwrap();
                specs.push(DocumentItem { spec, index });
            }
        }
        Change::Topology(Document {
            specs,
            prune,
            cascade: false,
            selects: Arc::new(|_| true),
        })
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Create(spec) => write!(f, "create {}", spec.resource()),
            Change::Put(spec) => write!(f, "put {}", spec.resource()),
            Change::Edit(resource, _) => write!(f, "edit {resource}"),
            Change::Delete { resource, cascade } => {
                write!(f, "delete {resource}, cascade {cascade}")
            }
            Change::Topology(document) => {
                write!(f, "topology of {} resources", document.specs.len())
            }
        }
    }
}

/// `If-Match` and `If-None-Match` of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precondition {
    /// `If-Match: *`: it exists. `If-Match: "3"`: and has one of these tags.
    Match(Option<Vec<String>>),
    /// `If-None-Match: *`: it does not exist. `If-None-Match: "3"`: or has none of these tags.
    NoneMatch(Option<Vec<String>>),
}

impl Precondition {
    /// Returns true if it holds for a resource with this tag; `None` if there is no resource.
    pub fn holds(&self, etag: Option<&str>) -> bool {
        let is_one_of =
            |tags: &[String]| etag.is_some_and(|etag| tags.iter().any(|tag| tag == etag));
        match self {
            Self::Match(None) => etag.is_some(),
            Self::Match(Some(tags)) => is_one_of(tags),
            Self::NoneMatch(None) => etag.is_none(),
            Self::NoneMatch(Some(tags)) => !is_one_of(tags),
        }
    }
}

/// Change of one resource by a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum ChangeKind {
    Created,
    Updated,
    Unchanged,
    Deleted,
}

/// Returns the change of the first resource that a write names; `Unchanged` if it names none.
pub fn main_change(named: &[(ResourceRef, ChangeKind)]) -> ChangeKind {
    named
        .first()
        .map_or(ChangeKind::Unchanged, |(_, change)| *change)
}

/// Outcome of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It is durable, and not applied yet.
    Accepted,
    /// It is durable and applied; the change is that of the first resource that it names.
    Applied(ChangeKind),
}

impl WriteOutcome {
    /// Returns the outcome of a write that names these resources.
    pub fn of(named: &[(ResourceRef, ChangeKind)], is_applied: bool) -> Self {
        if is_applied {
            Self::Applied(main_change(named))
        } else {
            Self::Accepted
        }
    }
}

/// Outcome of validating a write.
#[derive(Debug, Clone)]
pub struct Decision {
    /// Resources that the write names, each with its change.
    pub named: Vec<(ResourceRef, ChangeKind)>,
    /// New record of each resource that changes; `None` if it is deleted.
    pub changes: Vec<(ResourceRef, Option<Record>)>,
}
