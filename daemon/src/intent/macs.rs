//! Stable MAC addresses, derived from the machine's key and the resource's name.

use netnsd_api::{Mac, ResourceRef};
use sha2::{Digest, Sha256};

use crate::model::{DeviceSpec, MachineKey, Spec};

/// Derives the MAC addresses of a resource's devices, one for each end. An address that is taken,
/// or that the resource asks for itself, is skipped. Empty if the kernel chooses them.
pub(super) fn derive_macs(key: &MachineKey, spec: &Spec, taken: impl Fn(Mac) -> bool) -> Vec<Mac> {
    if !spec.has_own_macs() {
        return Vec::new();
    }
    let resource = spec.resource();
    let asked: Vec<Mac> = spec.devices().filter_map(|device| device.mac).collect();
    let mut macs: Vec<Mac> = Vec::new();
    for DeviceSpec { end, .. } in spec.devices() {
        let is_free = |mac: &Mac| !taken(*mac) && !asked.contains(mac) && !macs.contains(mac);
        let mac = (0..=u32::MAX)
            .map(|counter| derive_mac(key, &resource, end, counter))
            .find(is_free);
        macs.extend(mac);
    }
    macs
}

/// First six bytes of SHA-256, made locally administered and unicast (IEEE 802, clause 8.2).
fn derive_mac(key: &MachineKey, resource: &ResourceRef, end: usize, counter: u32) -> Mac {
    let text = format!("{}/{}/{end}/{counter}", resource.kind, resource.name);
    let hash = Sha256::new()
        .chain_update(key)
        .chain_update(text)
        .finalize();
    let mut bytes = [0; 6];
    bytes.copy_from_slice(&hash[..6]);
    bytes[0] = bytes[0] & !1 | 2;
    Mac(bytes)
}

#[cfg(test)]
mod tests {
    use netnsd_api::Kind;
    use serde_json::{Value, json};

    use super::*;

    fn spec(kind: Kind, json: Value) -> Spec {
        Spec::from_json(kind, json).unwrap()
    }

    fn pair(name: &str) -> Spec {
        spec(
            Kind::Veth,
            json!({"name": name, "endpoints": [{"interface": "a"}, {"interface": "b"}]}),
        )
    }

    #[test]
    fn derived_macs_differ_by_key_kind_name_and_end() {
        let free = |_| false;
        let bridge = spec(Kind::Bridge, json!({"name": "v", "interface": "v"}));
        let namespace = spec(Kind::Namespace, json!({"name": "v"}));
        let (one, other) = ([1; 32], [2; 32]);
        let mut all = derive_macs(&one, &pair("v"), free);
        assert_eq!(all, derive_macs(&one, &pair("v"), free));
        all.extend(derive_macs(&one, &pair("w"), free));
        all.extend(derive_macs(&one, &bridge, free));
        all.extend(derive_macs(&other, &pair("v"), free));
        assert_eq!(all.len(), 7);
        assert!(all.iter().all(|mac| mac.0[0] & 3 == 2), "{all:?}");
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 7);
        assert_eq!(derive_macs(&one, &namespace, free), []);
    }

    #[test]
    fn taken_mac_is_passed_over() {
        let key = [7; 32];
        let first = derive_macs(&key, &pair("v"), |_| false);
        let second = derive_macs(&key, &pair("v"), |mac| mac == first[0]);
        assert!(second[0] != first[0] && second[1] == first[1]);
        let asks = spec(
            Kind::Veth,
            json!({"name": "v", "endpoints": [{"interface": "a"}, {"interface": "b", "mac": first[0].to_string()}]}),
        );
        assert_eq!(derive_macs(&key, &asks, |_| false)[0], second[0]);
    }
}
