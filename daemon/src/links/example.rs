//! Examples for tests that go through every type.

use netnsd_api::LinkType;
use serde_json::{Value, json};

/// Returns fields of a link of a type that is on the host's device `lower`, if it is on one.
pub fn example_fields(link_type: LinkType, lower: &str) -> Value {
    let lower = json!({"interface": lower});
    match link_type {
        LinkType::Dummy => json!({}),
        LinkType::Macvlan | LinkType::Ipvlan => json!({"lower": lower}),
        LinkType::Vlan => json!({"lower": lower, "vlan_id": 7}),
        LinkType::Vxlan => json!({"vni": 42, "remotes": ["192.0.2.7"], "learning": false}),
    }
}
