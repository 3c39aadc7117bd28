//! Reasons for which a write is refused before the kernel is asked.

use netnsd_api::{FieldError, ResourceRef};

use crate::{
    access::AccessError,
    model::{DocumentItem, EditError},
};

/// Reason to refuse a write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IntentError {
    /// The caller lacks a right.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A field is invalid beside the rest of the intent.
    #[error("{error}")]
    Field {
        /// Field, and what is expected there.
        error: FieldError,
        /// Recorded resources that it contradicts.
        resources: Vec<ResourceRef>,
    },
    /// A patch does not lead to a valid resource.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// A resource to be created exists.
    #[error("{0} exists already: PUT replaces it, PATCH changes it")]
    AlreadyExists(ResourceRef),
    /// The resource does not exist.
    #[error("there is no {0}")]
    NotFound(ResourceRef),
    /// A resource to be deleted is used by others.
    #[error("{resource} is used by {}; {way_out}", list(dependents))]
    InUse {
        /// Resource to be deleted.
        resource: ResourceRef,
        /// Resources that use it.
        dependents: Vec<ResourceRef>,
        /// Advice.
        way_out: &'static str,
    },
    /// A condition of the request does not hold.
    #[error("the resource is not as the request expects: {}", state(etag.as_deref()))]
    PreconditionFailed {
        /// Tag of the resource; `None` if it does not exist.
        etag: Option<String>,
    },
    /// A condition of the request on the whole network does not hold.
    #[error(
        "the network is not as the request expects: its ETag is \"{etag}\"; read the topology \
         again with the same labels"
    )]
    NetworkChanged {
        /// Tag of the resources that the request selects.
        etag: String,
    },
    /// A resource of a topology document is refused.
    #[error("{error}")]
    InDocument {
        /// JSON pointer to the resource.
        item: String,
        /// Reason.
        error: Box<IntentError>,
    },
}

impl IntentError {
    /// Returns the error of a field that contradicts recorded resources.
    pub(super) fn field(error: FieldError, resources: Vec<ResourceRef>) -> Self {
        Self::Field { error, resources }
    }

    /// Returns the error of an item of a document.
    pub(super) fn in_document(self, item: &DocumentItem) -> Self {
        Self::InDocument {
            item: item.pointer(),
            error: Box::new(self),
        }
    }
}

impl From<FieldError> for IntentError {
    fn from(error: FieldError) -> Self {
        Self::field(error, Vec::new())
    }
}

fn list(resources: &[ResourceRef]) -> String {
    let names: Vec<String> = resources.iter().map(ToString::to_string).collect();
    names.join(", ")
}

fn state(etag: Option<&str>) -> String {
    match etag {
        Some(etag) => format!("its ETag is \"{etag}\""),
        None => "it does not exist".to_owned(),
    }
}
