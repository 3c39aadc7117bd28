//! VLANs of bridge ports (bridge(8), `bridge vlan`).

use std::collections::{BTreeMap, BTreeSet};

use netnsd_api::{Port, VlanRange};

/// Flags of a VLAN of a port (`BRIDGE_VLAN_INFO_*`, linux/if_bridge.h).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct VlanFlags {
    /// Untagged frames that come in belong to it.
    pub pvid: bool,
    /// Its frames leave untagged.
    pub untagged: bool,
}

impl VlanFlags {
    /// A VLAN whose frames are tagged.
    const TAGGED: Self = Self {
        pvid: false,
        untagged: false,
    };
    /// The VLAN of untagged frames.
    const ACCESS: Self = Self {
        pvid: true,
        untagged: true,
    };
}

/// VLANs that a port has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortVlans(BTreeMap<u16, VlanFlags>);

/// Change of the VLANs of a port: the kernel deletes first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct VlanChange {
    /// VLANs to delete.
    pub delete: Vec<VlanRange>,
    /// VLANs to add, or to change.
    pub add: Vec<(VlanRange, VlanFlags)>,
}

impl PortVlans {
    /// Returns the VLANs of a new port (`nbp_vlan_init()`, net/bridge/br_vlan.c).
    pub fn of_new_port(default_pvid: u16) -> Self {
        let vlan = (default_pvid != 0).then_some((default_pvid, VlanFlags::ACCESS));
        Self(vlan.into_iter().collect())
    }

    /// Adds a VLAN, or changes its flags; a port has one PVID.
    pub fn insert(&mut self, id: u16, flags: VlanFlags) {
        if flags.pvid {
            self.0.values_mut().for_each(|other| other.pvid = false);
        }
        self.0.insert(id, flags);
    }

    /// Applies a change.
    pub fn apply(&mut self, change: &VlanChange) {
        for id in change.delete.iter().flat_map(|range| range.ids()) {
            self.0.remove(&id);
        }
        for (range, flags) in &change.add {
            range.ids().for_each(|id| self.insert(id, *flags));
        }
    }

    /// Returns the VLAN of untagged frames that come in.
    pub fn pvid(&self) -> Option<u16> {
        let mut all = self.0.iter();
        all.find(|(_, flags)| flags.pvid).map(|(id, _)| *id)
    }

    /// Returns the other VLANs.
    pub fn others(&self) -> impl Iterator<Item = u16> {
        self.0
            .iter()
            .filter(|(_, flags)| !flags.pvid)
            .map(|(id, _)| *id)
    }

    /// Returns the change that leads from here to what is wanted, if it is any. VLANs that were
    /// wanted earlier and no longer are go, others stay; `vlan` takes the place of the PVID, and of
    /// the bridge's default, which comes back with its removal.
    pub fn change(
        &self,
        wanted: &Port,
        earlier: &[&Port],
        default_pvid: u16,
    ) -> Option<VlanChange> {
        let mut target: BTreeMap<u16, VlanFlags> = tagged_ids(wanted)
            .map(|id| (id, VlanFlags::TAGGED))
            .collect();
        let had_own = earlier.iter().any(|port| port.vlan.is_some());
        let pvid = wanted
            .vlan
            .or(had_own.then_some(default_pvid).filter(|id| *id != 0));
        if let Some(pvid) = pvid {
            target.entry(pvid).or_insert(VlanFlags::ACCESS);
        }

        let mut gone: BTreeSet<u16> = earlier
            .iter()
            .flat_map(|port| tagged_ids(port).chain(port.vlan))
            .collect();
        if wanted.vlan.is_some() {
            gone.extend(self.pvid());
            let is_default = |flags: &&VlanFlags| flags.untagged;
            let default = self.0.get(&default_pvid).filter(is_default);
            gone.extend(default.map(|_| default_pvid));
        }
        gone.retain(|id| self.0.contains_key(id) && !target.contains_key(id));
        target.retain(|id, flags| self.0.get(id) != Some(flags));

        let of_flags = |wanted: VlanFlags| {
            let ids = target.iter().filter(move |(_, flags)| **flags == wanted);
            let ranges = VlanRange::from_ids(ids.map(|(id, _)| *id));
            ranges.into_iter().map(move |range| (range, wanted))
        };
        let change = VlanChange {
            delete: VlanRange::from_ids(gone),
            add: of_flags(VlanFlags::ACCESS)
                .chain(of_flags(VlanFlags::TAGGED))
                .collect(),
        };
        (change != VlanChange::default()).then_some(change)
    }
}

/// Returns true if a port is asked to have VLANs.
pub fn has_vlans(port: &Port) -> bool {
    port.vlan.is_some() || !port.vlans.is_empty()
}

fn tagged_ids(port: &Port) -> impl Iterator<Item = u16> {
    port.vlans.iter().flat_map(|range| range.ids())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn port(fields: Value) -> Port {
        from_value(fields).unwrap()
    }

    /// Leads a port to what is wanted; the same again changes nothing.
    fn lead(vlans: &mut PortVlans, wanted: Value, earlier: Value, default_pvid: u16) {
        let (wanted, earlier) = (port(wanted), port(earlier));
        if let Some(change) = vlans.change(&wanted, &[&earlier], default_pvid) {
            vlans.apply(&change);
        }
        assert_eq!(vlans.change(&wanted, &[&earlier], default_pvid), None);
    }

    fn shown(vlans: &PortVlans) -> (Option<u16>, Vec<u16>) {
        (vlans.pvid(), vlans.others().collect())
    }

    #[test]
    fn own_vlan_takes_the_place_of_the_default_and_gives_it_back() {
        let mut vlans = PortVlans::of_new_port(1);
        let own = json!({"vlan": 10, "vlans": [20, "30-32"]});
        lead(&mut vlans, own.clone(), json!({}), 1);
        assert_eq!(shown(&vlans), (Some(10), vec![20, 30, 31, 32]));
        vlans.insert(99, VlanFlags::TAGGED);
        lead(
            &mut vlans,
            json!({"vlan": 11, "vlans": ["31-32"]}),
            own.clone(),
            1,
        );
        assert_eq!(shown(&vlans), (Some(11), vec![31, 32, 99]));
        lead(
            &mut vlans,
            json!({}),
            json!({"vlan": 11, "vlans": ["31-32"]}),
            1,
        );
        assert_eq!(shown(&vlans), (Some(1), vec![99]));
    }

    #[test]
    fn tagged_vlans_leave_the_default_alone() {
        let mut vlans = PortVlans::of_new_port(1);
        lead(&mut vlans, json!({"vlans": [20]}), json!({}), 1);
        assert_eq!(shown(&vlans), (Some(1), vec![20]));
        lead(&mut vlans, json!({"vlans": [1]}), json!({"vlans": [20]}), 1);
        assert_eq!(shown(&vlans), (None, vec![1]));
        let mut vlans = PortVlans::of_new_port(0);
        lead(&mut vlans, json!({"vlan": 5}), json!({}), 0);
        lead(&mut vlans, json!({}), json!({"vlan": 5}), 0);
        assert_eq!(shown(&vlans), (None, vec![]));
    }

    #[test]
    fn vlan_of_others_that_took_the_place_goes() {
        let mut vlans = PortVlans::of_new_port(1);
        let own = json!({"vlan": 10});
        lead(&mut vlans, own.clone(), json!({}), 1);
        vlans.insert(7, VlanFlags::ACCESS);
        lead(&mut vlans, own.clone(), own, 1);
        assert_eq!(shown(&vlans), (Some(10), vec![]));
    }
}
