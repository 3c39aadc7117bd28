//! The whole network in one document.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::{Bridge, Dns, Endpoint, Kind, Name, Namespace, ResourceRef, Route, Veth};

/// Every resource that a document names, intent only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// Namespaces.
    #[serde(default)]
    pub namespaces: Vec<Namespace>,
    /// Bridges.
    #[serde(default)]
    pub bridges: Vec<Bridge>,
    /// Veth pairs, each with a name.
    #[serde(default)]
    pub veths: Vec<Veth>,
}

/// What a topology changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TopologyResult {
    /// Resources that were not there before.
    pub created: Vec<ResourceRef>,
    /// Resources that are now otherwise.
    pub updated: Vec<ResourceRef>,
    /// Resources that are no longer there.
    pub deleted: Vec<ResourceRef>,
    /// How many resources of the document were so already.
    pub unchanged: usize,
}

/// How far a topology is, as a line of `application/x-ndjson`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// Kernel operations done.
    pub done: usize,
    /// Kernel operations in all, as far as they are known.
    pub total: usize,
}

/// What a pass over everything recorded came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reconciled {
    /// Resources that were not as asked, and are now.
    pub repaired: Vec<ResourceRef>,
    /// Resources that are still not as asked.
    pub failed: Vec<NotInSync>,
}

/// A resource that is not as it was asked to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NotInSync {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: Name,
    /// Its state.
    pub state: crate::State,
    /// Why, in a sentence.
    pub reason: Option<String>,
}

/// What a kind's fields are when they are left out.
struct Defaults {
    namespace: Value,
    route: Value,
    dns: Value,
    bridge: Value,
    veth: Value,
    endpoint: Value,
}

static DEFAULTS: LazyLock<Defaults> = LazyLock::new(|| {
    fn of<T: Serialize + for<'de> Deserialize<'de>>(least: Value) -> Value {
        serde_json::from_value::<T>(least)
            .and_then(serde_json::to_value)
            .unwrap_or_default()
    }
    let name = json!({"name": "x"});
    Defaults {
        namespace: of::<Namespace>(name.clone()),
        route: of::<Route>(json!({"destination": "default"})),
        dns: of::<Dns>(json!({})),
        bridge: of::<Bridge>(name.clone()),
        veth: of::<Veth>(name),
        endpoint: of::<Endpoint>(json!({})),
    }
});

/// A resource's intent as a topology document shows it: without the fields that are at their
/// default, and without `attach`, which is for the creation only.
pub fn sparse(kind: Kind, intent: Value) -> Value {
    let defaults = &*DEFAULTS;
    let Value::Object(mut fields) = intent else {
        return intent;
    };
    let each = |fields: &mut Map<String, Value>, list: &str, default: &Value| {
        for item in fields
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            leave_out(item, default, &["destination"]);
        }
    };
    let default = match kind {
        Kind::Namespace => {
            fields.remove("attach");
            each(&mut fields, "routes", &defaults.route);
            if let Some(dns) = fields.get_mut("dns") {
                leave_out(dns, &defaults.dns, &[]);
            }
            &defaults.namespace
        }
        Kind::Bridge => {
            if fields.get("interface") == fields.get("name") {
                fields.remove("interface");
            }
            &defaults.bridge
        }
        Kind::Veth => {
            each(&mut fields, "endpoints", &defaults.endpoint);
            &defaults.veth
        }
    };
    let mut value = Value::Object(fields);
    leave_out(&mut value, default, &["name", "endpoints"]);
    value
}

/// Takes the fields out that are at their default, but for some.
fn leave_out(value: &mut Value, default: &Value, but: &[&str]) {
    if let Value::Object(fields) = value {
        fields.retain(|key, value| but.contains(&key.as_str()) || default.get(key) != Some(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Resource;

    fn there_and_back<R: Resource>(full: Value, short: Value) {
        let resource: R = serde_json::from_value(full.clone()).unwrap();
        let shown = sparse(R::KIND, serde_json::to_value(&resource).unwrap());
        assert_eq!(shown, short);
        assert_eq!(serde_json::from_value::<R>(shown).unwrap(), resource);
    }

    #[test]
    fn only_what_is_not_at_its_default_is_shown() {
        there_and_back::<Namespace>(json!({"name": "x"}), json!({"name": "x"}));
        let route =
            json!({"destination": "default", "via": "10.0.0.1", "table": 254, "metric": null});
        there_and_back::<Namespace>(
            json!({"name": "a", "loopback": false, "routes": [route], "dns": {"search": ["a.example"]}}),
            json!({"name": "a", "loopback": false, "routes": [{"destination": "default", "via": "10.0.0.1"}],
                "dns": {"search": ["a.example"]}}),
        );
        there_and_back::<Bridge>(
            json!({"name": "br0", "interface": "br1"}),
            json!({"name": "br0", "interface": "br1"}),
        );
        there_and_back::<Veth>(
            json!({"name": "v"}),
            json!({"name": "v", "endpoints": [{}, {}]}),
        );
        let ends = json!([{"namespace": "a", "interface": "eth0"}, {"bridge": "br0", "port": {"hairpin": true}}]);
        there_and_back::<Veth>(
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
