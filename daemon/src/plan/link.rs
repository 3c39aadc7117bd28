//! Settings of links that are at their locations: MAC addresses, MTUs, addresses, bridge ports, up
//! and down.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use netnsd_api::{Bridge, GroupAddr, Mac, Port, VlanProtocol, is_link_local};
use nix::errno::Errno;

use super::{
    Phase, Planner, Task,
    address::WantedAddress,
    place::{device_at, settings_change},
};
use crate::{
    kernel::{
        AddressChange, DEFAULT_MTU, FeatureOp, KernelError, LinkAt, LinkChange, LinkEvent,
        ObservedAddress, ObservedBridge, ObservedLink, ObservedPort, Op, RemoteChange,
    },
    links::{
        BridgeAttrs, BridgeSettings, DeviceSettings, LinkSettings, PortVlans, SettingsChange,
        bridge_mtu,
    },
    model::{BridgeDevice, DeviceSpec, Spec},
};

/// Settings that bridges and veth ends share.
struct Common {
    mac: Option<Mac>,
    mtu: Option<u32>,
    /// Device that it is on and its MTU: the default, and the most that it may have.
    lower_mtu: Option<(LinkAt, u32)>,
    /// MTUs that were asked for before. Any other value is the kernel's choice, such as that of a
    /// bridge by its ports.
    old_mtus: Vec<u32>,
    addresses: Vec<WantedAddress>,
    settings: DeviceSettings,
    /// Settings that were asked for before.
    old_settings: Vec<DeviceSettings>,
    altnames: BTreeSet<String>,
    /// Alternative names that were asked for before.
    old_altnames: BTreeSet<String>,
}

impl Planner<'_> {
    pub(super) fn plan_bridge(&mut self, task: &Task<'_>, spec: &Bridge) {
        let Some((device, place)) = self.own_device(task) else {
            return;
        };
        self.set_down_unless(task, &place, spec.up);
        let Some(known) = self.now.link(&place.ns, &place.name).cloned() else {
            return;
        };
        // A bridge that was in another namespace was created again here.
        let anew = |old: &&Bridge| {
            self.plan.new_bridges.contains(&spec.name) || old.namespace != spec.namespace
        };
        let old = previous_bridge(task).filter(|old| !anew(old));
        self.plan_bridge_settings(task, spec, &place, &known, old);
        if let (Some(mtu), Some(old), false) = (spec.mtu, old, task.is_released())
            && old.mtu != spec.mtu
        {
            // A bridge may have this MTU from its ports, now or after some of them have left, and
            // would lose it with the others.
            let mut steps = bridge_mtu(mtu, mtu);
            if known.mtu != mtu {
                // The last one is set below, where its effect is observed.
                steps.pop();
            }
            for mtu in steps {
                self.emit_unverifiable(Phase::Mtus, task, place.set(LinkChange::Mtu(mtu)));
            }
        }
        let old_mtus = Vec::new();
        let mac = self.mac_of(task, &device);
        let addresses = task.addresses_of(&device);
        let earlier = previous_devices(task, device.end);
        self.plan_common(
            task,
            &place,
            &Common {
                mac,
                mtu: spec.mtu,
                lower_mtu: None,
                old_mtus,
                addresses,
                settings: DeviceSettings::of(&device),
                old_settings: earlier.iter().map(DeviceSettings::of).collect(),
                altnames: altnames(&device).collect(),
                old_altnames: earlier.iter().flat_map(altnames).collect(),
            },
        );
        self.pin_mac(task, spec, &place, mac);
        self.set_up_if(task, &place, spec.up, Phase::SetBridgesUp);
    }

    /// Returns the desired device of a task that has one, and its location, if it is there.
    fn own_device<'t>(&self, task: &Task<'t>) -> Option<(DeviceSpec<'t>, LinkAt)> {
        let device = task.desired?.devices().next()?;
        let place = device_at(&device);
        self.is_at(&place, task, device.end)
            .then_some((device, place))
    }

    /// Sets the MAC address that a bridge has already: then it no longer takes the lowest address
    /// of its ports (`br_stp_recalculate_bridge_id()`, net/bridge/br_stp_if.c). The kernel does not
    /// show that it is pinned.
    fn pin_mac(&mut self, task: &Task<'_>, spec: &Bridge, place: &LinkAt, mac: Option<Mac>) {
        let is_kept = spec.mac.is_none() && self.plan.macs.contains_key(&task.resource);
        let is_there = !self.plan.new_bridges.contains(&spec.name);
        if let Some(mac) = mac.filter(|_| is_kept && is_there) {
            self.ns_mut(&place.ns)
                .lose(&place.name, LinkEvent::MacChanged);
            self.emit_unverifiable(Phase::PinMacs, task, place.set(LinkChange::Mac(mac)));
        }
    }

    /// Sets the MTU of a bridge whose MTU was once asked for to the lowest of its ports: the kernel
    /// does so only for others (`br_mtu_auto_adjust()`, net/bridge/br_if.c).
    pub(super) fn follow_ports(&mut self, task: &Task<'_>, spec: &Bridge) {
        let was_made = self.plan.new_bridges.contains(&spec.name);
        if was_made || left_mtu(spec, task.applied).is_none() {
            return;
        }
        let Some((_, place)) = self.own_device(task) else {
            return;
        };
        let Some(inside) = self.now.namespaces.get(&place.ns) else {
            return;
        };
        let Some(known) = inside.links.get(&place.name) else {
            return;
        };
        let ports = inside
            .links
            .values()
            .filter(|link| link.master.as_ref() == Some(&place.name));
        let mtu = ports.map(|port| port.mtu).min().unwrap_or(DEFAULT_MTU);
        if known.mtu != mtu {
            self.emit(Phase::SetPorts, task, place.set(LinkChange::Mtu(mtu)));
        }
    }

    fn plan_bridge_settings(
        &mut self,
        task: &Task<'_>,
        spec: &Bridge,
        place: &LinkAt,
        known: &ObservedLink,
        old: Option<&Bridge>,
    ) {
        let Some(known) = &known.bridge else { return };
        let mut set = bridge_changes(spec, old, known);
        if set.stp == Some(false) && set.forward_delay.is_some() {
            // In one message the kernel takes the times first, and bounds the delay while STP is on
            // (`br_changelink()`, net/bridge/br_netlink.c; `br_set_forward_delay()`,
            // net/bridge/br_stp.c).
            let stp = set.stp.take();
            let first = BridgeSettings {
                stp,
                ..BridgeSettings::default()
            };
            self.emit(Phase::Settings, task, set_bridge(place, first));
        }
        if known.root_id != known.bridge_id {
            // A bridge shows and uses the times of the root; its own are set when they are asked
            // for, and not observed.
            let times = set.root_times();
            (set.forward_delay, set.hello_time, set.max_age) = (None, None, None);
            let asked = |spec| BridgeSettings::of(spec).root_times();
            if old.is_some_and(|old| asked(old) != asked(spec))
                && times != BridgeSettings::default()
            {
                self.emit_unverifiable(Phase::Settings, task, set_bridge(place, times));
            }
        }
        if set != BridgeSettings::default() {
            self.emit(Phase::Settings, task, set_bridge(place, set));
        }
    }

    /// Plans devices that may be bridge ports.
    pub(super) fn plan_ends(&mut self, task: &Task<'_>, spec: &Spec) {
        for device in spec.devices() {
            let place = device_at(&device);
            if self.is_at(&place, task, device.end) {
                self.plan_type_settings(task, spec, &place);
                self.plan_remotes(task, spec, &place);
                self.plan_end(task, spec, &device, &place);
            }
        }
    }

    /// Plans the settings of a link's type.
    fn plan_type_settings(&mut self, task: &Task<'_>, spec: &Spec, place: &LinkAt) {
        let (Some(wanted), Some(link)) = (
            LinkSettings::of(spec),
            self.ns_mut(&place.ns).links.get_mut(&place.name),
        ) else {
            return;
        };
        if settings_change(spec, link) == SettingsChange::InPlace {
            link.settings = Some(wanted.clone());
            self.emit(
                Phase::Settings,
                task,
                place.set(LinkChange::Settings(wanted)),
            );
        }
    }

    /// Plans the addresses to which a vxlan sends flooded frames; those of others stay.
    fn plan_remotes(&mut self, task: &Task<'_>, spec: &Spec, place: &LinkAt) {
        let wanted: BTreeSet<IpAddr> = spec.remotes().collect();
        let Some(link) = self.ns_mut(&place.ns).links.get_mut(&place.name) else {
            return;
        };
        let earlier = task.applied.iter().flat_map(Spec::remotes);
        let gone: BTreeSet<IpAddr> = earlier
            .filter(|to| !wanted.contains(to) && link.remotes.contains(to))
            .collect();
        let new: Vec<IpAddr> = wanted.difference(&link.remotes).copied().collect();
        link.remotes.retain(|to| !gone.contains(to));
        link.remotes.extend(&new);
        let changes = gone.into_iter().map(RemoteChange::Delete);
        for change in changes.chain(new.into_iter().map(RemoteChange::Add)) {
            let link = place.clone();
            self.emit(
                Phase::Settings,
                task,
                FeatureOp::Remote { link, change }.into(),
            );
        }
    }

    fn plan_end(&mut self, task: &Task<'_>, whole: &Spec, spec: &DeviceSpec<'_>, place: &LinkAt) {
        let old = previous_devices(task, spec.end);
        self.set_down_unless(task, place, spec.up);
        self.plan_common(
            task,
            place,
            &Common {
                mac: self.mac_of(task, spec),
                mtu: self.mtu_of(whole, spec),
                lower_mtu: self.lower_mtu(whole),
                old_mtus: old.iter().filter_map(|old| old.mtu).collect(),
                addresses: task.addresses_of(spec),
                settings: DeviceSettings::of(spec),
                old_settings: old.iter().map(DeviceSettings::of).collect(),
                altnames: altnames(spec).collect(),
                old_altnames: old.iter().flat_map(altnames).collect(),
            },
        );
        let known = self
            .now
            .link(&place.ns, &place.name)
            .cloned()
            .unwrap_or_default();
        self.plan_addr_gen(task, task.addr_gen_none(spec), place, &known, &old);
        match spec.port {
            None => {
                self.leave_bridge(task, place, &known, &old);
                self.set_up_if(task, place, spec.up, Phase::SetLinksUp);
            }
            Some(port) => {
                let Some(device) = (self.bridge)(port.bridge) else {
                    return self.pending(task, format!("bridge {} is not there", port.bridge));
                };
                self.enslave(task, port.settings, place, &known, &device, &old);
                self.set_up_if(task, place, spec.up, Phase::SetPortsUp);
            }
        }
    }

    /// Plans `addrgenmode`. That of an end which was never a port is left to others.
    fn plan_addr_gen(
        &mut self,
        task: &Task<'_>,
        none: bool,
        place: &LinkAt,
        known: &ObservedLink,
        old: &[DeviceSpec<'_>],
    ) {
        let was_port = old.iter().any(|old| old.port.is_some());
        if known.addr_gen_none != none && (none || was_port) {
            self.emit(
                Phase::Mtus,
                task,
                place.set(LinkChange::AddrGenModeNone(none)),
            );
            if let Some(link) = self.ns_mut(&place.ns).links.get_mut(&place.name) {
                link.addr_gen_none = none;
            }
        }
    }

    fn leave_bridge(
        &mut self,
        task: &Task<'_>,
        place: &LinkAt,
        known: &ObservedLink,
        old: &[DeviceSpec<'_>],
    ) {
        // If others made it a port, they decide.
        if known.master.is_some() && old.iter().any(|old| old.port.is_some()) {
            self.emit(
                Phase::ReleasePorts,
                task,
                place.set(LinkChange::Master(None)),
            );
            let inside = self.ns_mut(&place.ns);
            if let Some(link) = inside.links.get_mut(&place.name) {
                link.port = None;
                if let Some(bridge) = link.master.take() {
                    inside.lose(&bridge, LinkEvent::MacChanged);
                }
            }
        }
    }

    fn enslave(
        &mut self,
        task: &Task<'_>,
        settings: &Port,
        place: &LinkAt,
        known: &ObservedLink,
        bridge: &BridgeDevice,
        old: &[DeviceSpec<'_>],
    ) {
        let device = bridge.name.as_str();
        let fresh = known.master.as_deref() != Some(device);
        if fresh {
            self.note_remade(task);
            let op = place.set(LinkChange::Master(Some(device.to_owned())));
            self.emit(Phase::Enslave, task, op);
            let inside = self.ns_mut(&place.ns);
            known
                .master
                .as_deref()
                .into_iter()
                .chain([device])
                .for_each(|bridge| inside.lose(bridge, LinkEvent::MacChanged));
            if let Some(link) = inside.links.get_mut(&place.name) {
                link.master = Some(device.to_owned());
            }
        }
        // A new port has the kernel's defaults.
        let now = match &known.port {
            Some(port) if !fresh => port.clone(),
            _ => ObservedPort {
                vlans: Some(PortVlans::of_new_port(bridge.default_pvid)),
                ..ObservedPort::default()
            },
        };
        let ports = old.iter().filter_map(|old| old.port);
        let earlier: Vec<&Port> = ports.map(|port| port.settings).collect();
        let set = now.attrs.changes(settings, &earlier);
        if set != Port::default() {
            self.emit(Phase::SetPorts, task, place.set(LinkChange::Port(set)));
        }
        let vlans = now.vlans.as_ref();
        let change = vlans.and_then(|vlans| vlans.change(settings, &earlier, bridge.default_pvid));
        if let Some(change) = change {
            self.emit(Phase::SetPorts, task, place.set(LinkChange::Vlans(change)));
        }
    }

    /// Plans MAC address, MTU and addresses.
    fn plan_common(&mut self, task: &Task<'_>, place: &LinkAt, spec: &Common) {
        let Some(known) = self.now.link(&place.ns, &place.name).cloned() else {
            return;
        };
        let LinkAt { ns, name } = place;
        if let Some(mac) = spec.mac
            && known.mac != Some(mac)
        {
            self.note_remade(task);
            self.emit(Phase::Addresses, task, place.set(LinkChange::Mac(mac)));
            let inside = self.ns_mut(ns);
            inside.lose(name, LinkEvent::MacChanged);
            if let Some(link) = inside.links.get_mut(name) {
                link.mac = Some(mac);
            }
        }
        let default_mtu = spec.lower_mtu.as_ref().map_or(DEFAULT_MTU, |(_, mtu)| *mtu);
        let was_asked = spec.old_mtus.contains(&known.mtu);
        let mtu = spec.mtu.or(was_asked.then_some(default_mtu));
        if let Some(mtu) = mtu
            && known.mtu != mtu
        {
            let op = place.set(LinkChange::Mtu(mtu));
            match &spec.lower_mtu {
                Some((lower, most)) if mtu > *most => {
                    let error = KernelError::refused(
                        Errno::EINVAL,
                        format!("mtu {mtu} is above the {most} of {lower}, which {name} is on"),
                    );
                    self.plan.refused.push((task.resource.clone(), op, error));
                }
                _ => {
                    self.emit(Phase::Mtus, task, op);
                    self.set_mtu(place, mtu);
                }
            }
        }
        let earlier: Vec<&DeviceSettings> = spec.old_settings.iter().collect();
        let changes = known.device.changes(&spec.settings, &earlier);
        let changes = changes.for_type(known.kind.as_deref());
        if changes != DeviceSettings::default() {
            if changes.arp.is_some() {
                self.ns_mut(ns).lose(name, LinkEvent::MacChanged);
            }
            self.emit(
                Phase::Settings,
                task,
                place.set(LinkChange::Device(changes)),
            );
        }
        self.plan_altnames(task, place, spec, &known);
        self.plan_addresses(task, place, &spec.addresses, mtu.unwrap_or(known.mtu));
        self.add_prefix_routes(task, place);
    }

    /// Plans alternative names; those of others stay.
    fn plan_altnames(
        &mut self,
        task: &Task<'_>,
        place: &LinkAt,
        spec: &Common,
        known: &ObservedLink,
    ) {
        let left = spec.old_altnames.difference(&spec.altnames);
        for altname in left.filter(|altname| known.altnames.contains(*altname)) {
            let (name, present) = (altname.clone(), false);
            let op = place.set(LinkChange::Altname { name, present });
            self.emit(Phase::ReleaseAltnames, task, op);
        }
        for altname in spec.altnames.difference(&known.altnames) {
            let (name, present) = (altname.clone(), true);
            let op = place.set(LinkChange::Altname { name, present });
            self.emit(Phase::Settings, task, op);
        }
    }

    /// Restores the routes to the networks of addresses that somebody deleted: the kernel makes
    /// them with the address, and when the link comes up, and never again.
    fn add_prefix_routes(&mut self, task: &Task<'_>, place: &LinkAt) {
        let LinkAt { ns, name } = place;
        let Some(there) = self
            .seen
            .namespaces
            .get(ns)
            .and_then(|seen| seen.prefix_routes.as_ref())
        else {
            return;
        };
        let (Some(seen), Some(now)) = (self.seen.link(ns, name), self.now.link(ns, name)) else {
            return;
        };
        let lacks = |address: &&ObservedAddress| {
            let stays = now.up && now.addresses.iter().any(|other| other.is_same(address));
            stays
                && has_prefix_route(seen, address)
                && !there.contains(&(name.clone(), address.network()))
        };
        let lacking: Vec<ObservedAddress> = seen.addresses.iter().filter(lacks).cloned().collect();
        for address in lacking {
            let op = place.change_addresses(AddressChange::AddPrefixRoute(address));
            self.emit_retriable(Phase::LinkRoutes, task, op);
        }
    }

    fn set_mtu(&mut self, LinkAt { ns, name }: &LinkAt, mtu: u32) {
        let inside = self.ns_mut(ns);
        if let Some(link) = inside.links.get_mut(name) {
            link.set_mtu(mtu);
        }
        inside.reset_ipv6_mtu(name);
    }

    /// Sets a link down, and removes from the model what the kernel then deletes: IPv6 addresses,
    /// routes and neighbours.
    pub(super) fn set_down(&mut self, task: &Task<'_>, place: &LinkAt, phase: Phase) {
        let inside = self.ns_mut(&place.ns);
        if inside.links.get(&place.name).is_none_or(|link| !link.up) {
            return;
        }
        inside.set_link_down(&place.name);
        self.emit(phase, task, place.set(LinkChange::Up(false)));
    }

    /// Sets a link down first if it is to be down: settings made afterwards stay.
    fn set_down_unless(&mut self, task: &Task<'_>, place: &LinkAt, up: bool) {
        if !up {
            self.set_down(task, place, Phase::SetLinksDown);
        }
    }

    fn set_up_if(&mut self, task: &Task<'_>, place: &LinkAt, up: bool, phase: Phase) {
        if !up
            || self
                .now
                .link(&place.ns, &place.name)
                .is_none_or(|link| link.up)
        {
            return;
        }
        self.add_link_local(task, place);
        if let Some(link) = self.ns_mut(&place.ns).links.get_mut(&place.name) {
            link.up = true;
        }
        self.ns_mut(&place.ns).reset_ipv6_mtu(&place.name);
        let op = place.set(LinkChange::Up(true));
        if self.depth(task) > 0 {
            // A VLAN is up only if the device below is (`vlan_dev_open()`, net/8021q/vlan_dev.c).
            self.emit_retriable(phase, task, op);
        } else {
            self.emit(phase, task, op);
        }
    }
}

/// Returns the settings that lead a bridge from what it is to what is asked for.
fn bridge_changes(spec: &Bridge, old: Option<&Bridge>, now: &ObservedBridge) -> BridgeSettings {
    let wanted = BridgeSettings {
        stp: Some(spec.stp),
        ..BridgeSettings::of(spec)
    };
    let earlier = old.map(BridgeSettings::of);
    let mut changes = now
        .attrs
        .changes(&wanted, &earlier.iter().collect::<Vec<_>>());

    // A bridge of 802.1ad that was not asked for an address has another default
    // (`recalculate_group_addr()`, net/bridge/br_vlan.c).
    let is_provider =
        spec.vlan_filtering == Some(true) && spec.vlan_protocol == Some(VlanProtocol::Ieee8021Ad);
    if spec.group_addr.is_none() && changes.group_addr.is_some() && is_provider {
        changes.group_addr =
            Some(GroupAddr::PROVIDER_BRIDGES).filter(|address| *address != now.attrs.group_addr);
    }

    // While STP tells of a topology change the kernel itself forgets addresses sooner
    // (`__br_set_topology_change()`, net/bridge/br_stp.c).
    let is_asked_anew = old.is_some_and(|old| old.ageing_time_s != spec.ageing_time_s);
    let BridgeAttrs {
        ageing_time,
        forward_delay,
        ..
    } = now.attrs;
    let is_shortened =
        now.topology_change && ageing_time.0.abs_diff(2 * forward_delay.0) <= 2 && !is_asked_anew;
    changes.ageing_time = changes.ageing_time.filter(|_| !is_shortened);
    changes
}

/// Returns true if the kernel has made a route to the network of an address of netnsd's: in IPv6 it does
/// once there is a carrier.
fn has_prefix_route(link: &ObservedLink, address: &ObservedAddress) -> bool {
    let net = address.network();
    let is_ready = match net {
        // No route to 0.0.0.0/8 (`ipv4_is_zeronet()`, linux/in.h).
        IpNet::V4(net) => link.up && net.network().octets()[0] != 0,
        IpNet::V6(_) => link.operstate == "up" && !is_link_local(net.addr()),
    };
    let is_made = !address.is_without_route()
        && !address.secondary
        && (net.prefix_len() < net.max_prefix_len() || net.addr() != address.net.addr());
    is_ready && is_made && address.is_ours()
}

/// Returns the MTU that was asked of a bridge and no longer is, as a spec. The device keeps the
/// fact until it is created again (`BROPT_MTU_SET_BY_USER`, net/bridge/br_private.h), and does not
/// show it.
pub(super) fn left_mtu(spec: &Bridge, applied: &[Spec]) -> Option<Bridge> {
    let mtu_of = |old: &Spec| match old {
        Spec::Bridge(old) if old.namespace == spec.namespace => old.mtu,
        Spec::Namespace(_) | Spec::Bridge(_) | Spec::Veth(_) | Spec::Link(_) => None,
    };
    let mtu = applied
        .iter()
        .find_map(mtu_of)
        .filter(|_| spec.mtu.is_none())?;
    Some(Bridge {
        mtu: Some(mtu),
        ..spec.clone()
    })
}

fn previous_bridge<'a>(task: &Task<'a>) -> Option<&'a Bridge> {
    task.applied.iter().rev().find_map(|spec| match spec {
        Spec::Bridge(spec) => Some(spec),
        Spec::Namespace(_) | Spec::Veth(_) | Spec::Link(_) => None,
    })
}

/// Returns a device as earlier intents asked for it.
fn previous_devices<'a>(task: &Task<'a>, end: usize) -> Vec<DeviceSpec<'a>> {
    let specs = task.applied.iter();
    specs.filter_map(|spec| spec.devices().nth(end)).collect()
}

fn altnames(spec: &DeviceSpec<'_>) -> impl Iterator<Item = String> {
    spec.altnames.iter().map(ToString::to_string)
}

/// Returns the operation that changes settings of a bridge.
fn set_bridge(place: &LinkAt, settings: BridgeSettings) -> Op {
    place.set(LinkChange::Settings(LinkSettings::Bridge(settings)))
}
