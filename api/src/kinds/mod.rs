//! The resource kinds: the one list of them, and the trait that they share.

mod bridge;
pub(crate) mod checks;
mod link;
mod namespace;
mod veth;

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

pub use self::{bridge::*, link::*, namespace::*, veth::*};
use crate::{FieldError, Name, string_enum::string_enum};

/// The list of resource kinds, in the order in which they are created.
///
/// It invokes a callback macro once with all rows; what depends on the set of kinds is generated
/// from it, here and in other crates. A row names the variant of [`Kind`], the type of its
/// specification (at the root of this crate), its name in JSON, its plural in paths, and a
/// description for people:
///
/// ```
/// macro_rules! print_kinds {
///     ($(
///         $kind:ident($spec:ident) $name:ident $plural:ident $description:literal;
///     )+) => {
///         $(
///             let kind = netnsd_api::Kind::$kind;
///             println!("{kind}: /v1/{}, a {}", stringify!($plural), $description);
///             assert_eq!(stringify!($name), kind.as_str());
///             let _: Option<netnsd_api::$spec> = None;
///         )+
///     };
/// }
/// netnsd_api::resource_kinds!(print_kinds);
/// ```
#[macro_export]
macro_rules! resource_kinds {
    ($callback:path) => {
        $callback! {
            Namespace(Namespace) namespace namespaces "network namespace";
            Bridge(Bridge) bridge bridges "bridge";
            Veth(Veth) veth veths "veth pair";
            Link(Link) link links "link";
        }
    };
}

macro_rules! define_kind {
    ($($kind:ident($spec:ident) $name:ident $plural:ident $description:literal;)+) => {
        string_enum! {
            /// The kinds of resources, as JSON names them.
            #[serde(rename_all = "lowercase")]
            pub enum Kind as "a kind" {
                $(
                    #[doc = concat!("A ", $description, ".")]
                    $kind = stringify!($name),
                )+
            }
        }

        impl Kind {
            /// Returns the kind's name in paths and documents: `namespaces`.
            pub const fn plural(self) -> &'static str {
                match self {
                    $(Kind::$kind => stringify!($plural),)+
                }
            }

            /// Returns the kind as people call it: `network namespace`, `veth pair`.
            pub const fn description(self) -> &'static str {
                match self {
                    $(Kind::$kind => $description,)+
                }
            }
        }
    };
}

resource_kinds!(define_kind);

impl Kind {
    /// Returns the kind with this plural.
    pub fn from_plural(plural: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.plural() == plural)
    }
}

/// Names one resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct ResourceRef {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: Name,
}

impl ResourceRef {
    /// Names the resource of this kind and name.
    pub fn new(kind: Kind, name: Name) -> Self {
        Self { kind, name }
    }
}

impl fmt::Display for ResourceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// The specification of a resource, as clients send it.
pub trait Resource:
    Serialize + DeserializeOwned + ToSchema + Clone + PartialEq + fmt::Debug + Send + Sync + 'static
{
    /// Its kind.
    const KIND: Kind;
    /// Its state in the kernel, as `status.observed` shows it.
    type Observed: Serialize
        + DeserializeOwned
        + ToSchema
        + Clone
        + PartialEq
        + fmt::Debug
        + Send
        + Sync
        + 'static;

    /// Returns the resource's name.
    fn name(&self) -> &Name;

    /// Returns the resource's labels.
    fn labels(&self) -> &BTreeMap<String, String>;

    /// Validates what needs more than one field.
    ///
    /// # Errors
    /// The first field that is wrong, with its JSON pointer.
    fn check(&self) -> Result<(), FieldError>;

    /// Returns the least that a request must have.
    fn least() -> Value {
        json!({"name": "x"})
    }

    /// Fields that a topology document shows also where they are at their default.
    const ALWAYS_SHOWN: &[&str] = &["name"];

    /// Removes from a specification in JSON the nested fields that are at their default.
    ///
    /// [`sparse`](crate::sparse) removes those at the top itself.
    fn omit_nested_defaults(_spec: &mut Map<String, Value>) {}
}

/// Returns the default of fields that are on unless switched off.
pub(crate) fn enabled() -> bool {
    true
}
