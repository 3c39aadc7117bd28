//! The resource kinds: the one list of them, and what they have in common.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use utoipa::ToSchema;

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
    /// The resource of this kind and name.
    pub fn new(kind: Kind, name: Name) -> Self {
        Self { kind, name }
    }
}

impl fmt::Display for ResourceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// What the three kinds have in common.
pub trait Resource:
    Serialize + DeserializeOwned + ToSchema + Clone + PartialEq + fmt::Debug + Send + Sync + 'static
{
    /// The kind.
    const KIND: Kind;
    /// What the kernel said of it.
    type Observed: Serialize
        + DeserializeOwned
        + ToSchema
        + Clone
        + PartialEq
        + fmt::Debug
        + Send
        + Sync
        + 'static;
    /// Its name.
    fn name(&self) -> &Name;
    /// Its labels.
    fn labels(&self) -> &BTreeMap<String, String>;
    /// Checks what one field alone cannot know.
    ///
    /// # Errors
    /// The first field that is wrong, with its JSON pointer.
    fn check(&self) -> Result<(), FieldError>;
}
