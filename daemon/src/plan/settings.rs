//! Settings of bridges and their ports: what they are by default, and what has to change.

use netnsd_api::{Bridge, Centiseconds, LinkSettings, Port};

use crate::kernel::{BridgeSettings, ObservedBridge, ObservedLink, ObservedPort};

/// What a bridge is set to when it is made.
pub(super) fn bridge_settings(spec: &Bridge) -> BridgeSettings {
    let time = |time: Option<Centiseconds>| time.map(|time| time.0);
    BridgeSettings {
        stp: spec.stp.then_some(true),
        priority: spec.priority,
        ageing_time: time(spec.ageing_time_s),
        forward_delay: time(spec.forward_delay_s),
        hello_time: time(spec.hello_time_s),
        max_age: time(spec.max_age_s),
        multicast_snooping: spec.multicast_snooping,
        vlan_filtering: spec.vlan_filtering,
        vlan_default_pvid: spec.vlan_default_pvid,
    }
}

/// The kernel's defaults (`br_dev_setup()`, `net/bridge/br_device.c`; times in hundredths of a
/// second).
impl ObservedBridge {
    pub(crate) fn defaults() -> Self {
        Self {
            stp: false,
            priority: 32768,
            ageing_time: 30000,
            forward_delay: 1500,
            hello_time: 200,
            max_age: 2000,
            multicast_snooping: true,
            vlan_filtering: false,
            vlan_default_pvid: 1,
            topology_change: false,
            bridge_id: String::new(),
            root_id: String::new(),
        }
    }
}

/// The kernel's defaults (`new_nbp()`, `net/bridge/br_if.c`); the cost is that of 10 Gbit/s, a
/// veth's speed.
impl ObservedPort {
    pub(crate) fn defaults() -> Self {
        Self {
            state: String::new(),
            path_cost: 2,
            priority: 32,
            hairpin: false,
            isolated: false,
            learning: true,
            bpdu_guard: false,
            root_block: false,
            mcast_fast_leave: false,
        }
    }
}

pub(super) fn made_bridge(spec: &Bridge) -> ObservedBridge {
    let set = bridge_settings(spec);
    let default = ObservedBridge::defaults();
    ObservedBridge {
        stp: spec.stp,
        priority: set.priority.unwrap_or(default.priority),
        ageing_time: set.ageing_time.unwrap_or(default.ageing_time),
        forward_delay: set.forward_delay.unwrap_or(default.forward_delay),
        hello_time: set.hello_time.unwrap_or(default.hello_time),
        max_age: set.max_age.unwrap_or(default.max_age),
        multicast_snooping: set.multicast_snooping.unwrap_or(default.multicast_snooping),
        vlan_filtering: set.vlan_filtering.unwrap_or(default.vlan_filtering),
        vlan_default_pvid: set.vlan_default_pvid.unwrap_or(default.vlan_default_pvid),
        ..default
    }
}

/// What to change of one setting: to what is asked for, or back to the default if it was asked for
/// once.
fn change<T: Copy + PartialEq>(wanted: Option<T>, was_set: bool, default: T, now: T) -> Option<T> {
    wanted
        .or(was_set.then_some(default))
        .filter(|value| *value != now)
}

/// The same for a time: the kernel counts in its own ticks, and gives back up to a hundredth of a
/// second less.
fn change_time(wanted: Option<u32>, was_set: bool, default: u32, now: u32) -> Option<u32> {
    change(wanted, was_set, default, now).filter(|value| value.abs_diff(now) > 1)
}

/// The times that a bridge tells others when it is the root of the spanning tree.
pub(super) fn times_of(spec: &Bridge) -> [Option<Centiseconds>; 3] {
    [spec.forward_delay_s, spec.hello_time_s, spec.max_age_s]
}

pub(super) fn bridge_changes(
    spec: &Bridge,
    old: Option<&Bridge>,
    now: &ObservedBridge,
) -> BridgeSettings {
    let wanted = bridge_settings(spec);
    // While STP tells of a topology change the kernel itself forgets addresses sooner
    // (`__br_set_topology_change()`).
    let asked_anew = old.is_some_and(|old| old.ageing_time_s != spec.ageing_time_s);
    let sooner =
        now.topology_change && now.ageing_time.abs_diff(2 * now.forward_delay) <= 2 && !asked_anew;
    let old = old.map(bridge_settings).unwrap_or_default();
    let default = ObservedBridge::defaults();
    let ageing_time = change_time(
        wanted.ageing_time,
        old.ageing_time.is_some(),
        default.ageing_time,
        now.ageing_time,
    );
    BridgeSettings {
        stp: Some(spec.stp).filter(|stp| *stp != now.stp),
        priority: change(
            wanted.priority,
            old.priority.is_some(),
            default.priority,
            now.priority,
        ),
        ageing_time: ageing_time.filter(|_| !sooner),
        forward_delay: change_time(
            wanted.forward_delay,
            old.forward_delay.is_some(),
            default.forward_delay,
            now.forward_delay,
        ),
        hello_time: change_time(
            wanted.hello_time,
            old.hello_time.is_some(),
            default.hello_time,
            now.hello_time,
        ),
        max_age: change_time(
            wanted.max_age,
            old.max_age.is_some(),
            default.max_age,
            now.max_age,
        ),
        multicast_snooping: change(
            wanted.multicast_snooping,
            old.multicast_snooping.is_some(),
            default.multicast_snooping,
            now.multicast_snooping,
        ),
        vlan_filtering: change(
            wanted.vlan_filtering,
            old.vlan_filtering.is_some(),
            default.vlan_filtering,
            now.vlan_filtering,
        ),
        vlan_default_pvid: change(
            wanted.vlan_default_pvid,
            old.vlan_default_pvid.is_some(),
            default.vlan_default_pvid,
            now.vlan_default_pvid,
        ),
    }
}

/// Everything that a port is set to.
pub(super) fn port_settings(now: &ObservedPort) -> Port {
    Port {
        path_cost: Some(now.path_cost),
        priority: Some(now.priority),
        hairpin: Some(now.hairpin),
        isolated: Some(now.isolated),
        learning: Some(now.learning),
        bpdu_guard: Some(now.bpdu_guard),
        root_block: Some(now.root_block),
        mcast_fast_leave: Some(now.mcast_fast_leave),
    }
}

pub(super) fn port_changes<'a>(
    wanted: &Port,
    old: impl Iterator<Item = &'a Port> + Clone,
    now: &ObservedPort,
) -> Port {
    let default = ObservedPort::defaults();
    let was = |set: fn(&Port) -> bool| old.clone().any(set);
    Port {
        path_cost: change(
            wanted.path_cost,
            was(|p| p.path_cost.is_some()),
            default.path_cost,
            now.path_cost,
        ),
        priority: change(
            wanted.priority,
            was(|p| p.priority.is_some()),
            default.priority,
            now.priority,
        ),
        hairpin: change(
            wanted.hairpin,
            was(|p| p.hairpin.is_some()),
            default.hairpin,
            now.hairpin,
        ),
        isolated: change(
            wanted.isolated,
            was(|p| p.isolated.is_some()),
            default.isolated,
            now.isolated,
        ),
        learning: change(
            wanted.learning,
            was(|p| p.learning.is_some()),
            default.learning,
            now.learning,
        ),
        bpdu_guard: change(
            wanted.bpdu_guard,
            was(|p| p.bpdu_guard.is_some()),
            default.bpdu_guard,
            now.bpdu_guard,
        ),
        root_block: change(
            wanted.root_block,
            was(|p| p.root_block.is_some()),
            default.root_block,
            now.root_block,
        ),
        mcast_fast_leave: change(
            wanted.mcast_fast_leave,
            was(|p| p.mcast_fast_leave.is_some()),
            default.mcast_fast_leave,
            now.mcast_fast_leave,
        ),
    }
}

/// What a link's settings are, where they are not the kernel's defaults; none for what is neither
/// bridge nor port.
pub fn own_settings(link: &ObservedLink) -> Option<LinkSettings> {
    fn own<T: PartialEq>(now: T, default: T) -> Option<T> {
        Some(now).filter(|now| *now != default)
    }
    let time = |now: u32, default: u32| {
        own(now, default)
            .filter(|now| now.abs_diff(default) > 1)
            .map(Centiseconds)
    };
    let mut settings = LinkSettings::default();
    if let Some(now) = &link.bridge {
        let default = ObservedBridge::defaults();
        settings = LinkSettings {
            stp: own(now.stp, default.stp),
            priority: own(now.priority, default.priority),
            ageing_time_s: time(now.ageing_time, default.ageing_time)
                .filter(|_| !now.topology_change),
            multicast_snooping: own(now.multicast_snooping, default.multicast_snooping),
            vlan_filtering: own(now.vlan_filtering, default.vlan_filtering),
            vlan_default_pvid: own(now.vlan_default_pvid, default.vlan_default_pvid),
            ..settings
        };
        // Otherwise they are the root's, also for a while after STP was switched off.
        if now.root_id == now.bridge_id {
            settings.forward_delay_s = time(now.forward_delay, default.forward_delay);
            settings.hello_time_s = time(now.hello_time, default.hello_time);
            settings.max_age_s = time(now.max_age, default.max_age);
        }
    }
    if let Some(now) = &link.port {
        // What would have to be changed of a new port.
        settings.port = Some(port_changes(
            &port_settings(now),
            std::iter::empty(),
            &ObservedPort::defaults(),
        ));
    }
    (link.bridge.is_some() || link.port.is_some()).then_some(settings)
}
