//! The whole network in one document.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::{Kind, Name, Resource, ResourceRef, State, resource_kinds};

macro_rules! define_topology {
    ($($kind:ident($spec:ident) $name:ident $plural:ident $description:literal;)+) => {
        /// Every resource of a document, specifications only.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct Topology {
            $(
                /// The resources of this kind, each with a name.
                #[serde(default)]
                pub $plural: Vec<crate::$spec>,
            )+
        }

        impl Topology {
            /// Returns the resources of a kind as JSON.
            ///
            /// # Errors
            /// None that is known: every specification has a form in JSON.
            pub fn to_json(&self, kind: Kind) -> serde_json::Result<Vec<Value>> {
                match kind {
                    $(Kind::$kind => self.$plural.iter().map(serde_json::to_value).collect(),)+
                }
            }
        }

        /// Returns a specification as a topology document shows it: without the fields that are at
        /// their default.
        pub fn sparse(kind: Kind, spec: Value) -> Value {
            let Value::Object(mut spec) = spec else {
                return spec;
            };
            match kind {
                $(Kind::$kind => {
                    static DEFAULTS: LazyLock<Value> =
                        LazyLock::new(|| default_fields::<crate::$spec>(crate::$spec::least()));

                    crate::$spec::omit_nested_defaults(&mut spec);
                    omit_defaults(&mut spec, &DEFAULTS, crate::$spec::ALWAYS_SHOWN);
                })+
            }
            Value::Object(spec)
        }
    };
}

resource_kinds!(define_topology);

/// Returns all fields of a type in JSON, given those that it requires.
pub(crate) fn default_fields<T: Serialize + DeserializeOwned>(required: Value) -> Value {
    serde_json::from_value::<T>(required)
        .and_then(serde_json::to_value)
        .unwrap_or_default()
}

/// Removes the fields that are at their default, except those of `always_shown`.
pub(crate) fn omit_defaults(
    fields: &mut Map<String, Value>,
    defaults: &Value,
    always_shown: &[&str],
) {
    fields.retain(|key, value| {
        always_shown.contains(&key.as_str()) || defaults.get(key) != Some(value)
    });
}

/// Removes the fields that are at their default from each item of a list.
pub(crate) fn omit_defaults_of_items(
    fields: &mut Map<String, Value>,
    list: &str,
    defaults: &Value,
    always_shown: &[&str],
) {
    let Some(Value::Array(items)) = fields.get_mut(list) else {
        return;
    };
    for item in items {
        if let Value::Object(item) = item {
            omit_defaults(item, defaults, always_shown);
        }
    }
}

/// Changes made by a topology document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TopologyResult {
    /// Resources created.
    pub created: Vec<ResourceRef>,
    /// Resources updated.
    pub updated: Vec<ResourceRef>,
    /// Resources deleted.
    pub deleted: Vec<ResourceRef>,
    /// Number of resources of the document that did not change.
    pub unchanged: usize,
}

/// Progress of a topology write, a line of `application/x-ndjson`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// Number of kernel operations done.
    pub done: usize,
    /// Total number of kernel operations, as far as known.
    pub total: usize,
}

/// The result of a full reconciliation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reconciled {
    /// Resources that were not in sync, and are now.
    pub repaired: Vec<ResourceRef>,
    /// Resources that are still not in sync.
    pub failed: Vec<NotInSync>,
}

/// A resource that is not in sync.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NotInSync {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: Name,
    /// Its state.
    pub state: State,
    /// The reason, a sentence.
    pub reason: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Bridge, Namespace, Veth};

    fn check_round_trip<R: Resource>(full: Value, short: Value) {
        let resource: R = serde_json::from_value(full.clone()).unwrap();
        let shown = sparse(R::KIND, serde_json::to_value(&resource).unwrap());
        assert_eq!(shown, short);
        assert_eq!(serde_json::from_value::<R>(shown).unwrap(), resource);
    }

    #[test]
    fn sparse_omits_defaults_and_reads_back() {
        check_round_trip::<Namespace>(json!({"name": "x"}), json!({"name": "x"}));
        let route =
            json!({"destination": "default", "via": "10.0.0.1", "table": 254, "metric": null});
        check_round_trip::<Namespace>(
            json!({"name": "a", "loopback": false, "routes": [route], "dns": {"search": ["a.example"]}}),
            json!({"name": "a", "loopback": false, "routes": [{"destination": "default", "via": "10.0.0.1"}],
                "dns": {"search": ["a.example"]}}),
        );
        check_round_trip::<Bridge>(
            json!({"name": "br0", "interface": "br1"}),
            json!({"name": "br0", "interface": "br1"}),
        );
        check_round_trip::<Veth>(
            json!({"name": "v"}),
            json!({"name": "v", "endpoints": [{}, {}]}),
        );
        let ends = json!([{"namespace": "a", "interface": "eth0"}, {"bridge": "br0", "port": {"hairpin": true}}]);
        check_round_trip::<Veth>(
            json!({"name": "v", "endpoints": ends}),
            json!({"name": "v", "endpoints": ends}),
        );
        let bridge: Bridge =
            serde_json::from_value(json!({"name": "br0", "interface": "br0"})).unwrap();
        assert_eq!(
            sparse(Kind::Bridge, serde_json::to_value(&bridge).unwrap()),
            json!({"name": "br0"})
        );
    }
}
