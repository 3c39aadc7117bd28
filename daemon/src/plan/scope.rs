//! Scope: the state that has to be read to plan a set of tasks.

use netnsd_api::{Destination, Route, is_link_local};

use super::{Task, link::left_mtu};
use crate::{
    kernel::{Ns, RT_TABLE_LOCAL, Scope, sysctl},
    links::has_vlans,
    model::Spec,
};

/// Returns the scope of the tasks.
pub fn scope(tasks: &[Task<'_>]) -> Scope {
    let mut scope = Scope::default();
    for (task, spec) in tasks
        .iter()
        .flat_map(|task| task.specs().map(move |spec| (task, spec)))
    {
        match spec {
            Spec::Namespace(spec) => {
                let inside = scope.ns(&Ns::Named(spec.name.clone()));
                inside.summary = true;
                if task.desired.is_none() {
                    // Everything in a deleted namespace is deleted with it, also links of others.
                    inside.all_links = true;
                    continue;
                }
                if !spec.addresses.is_empty() {
                    inside.links.insert("lo".to_owned());
                }
                // A gateway may be reached by any link there.
                inside.all_links |= !spec.routes.is_empty();
                inside.routes |= !spec.routes.is_empty();
                inside.kernel_routes |= spec.routes.iter().any(is_among_kernels_own);
                inside.rules |= !spec.rules.is_empty();
                inside.neighbours |= spec.neighbours.iter().any(|entry| !entry.proxy);
                inside.proxy_neighbours |= spec.neighbours.iter().any(|entry| entry.proxy);
                inside.links.extend(
                    spec.neighbours
                        .iter()
                        .map(|entry| entry.interface.to_string()),
                );
                let sysctls = super::sysctl::keys_of(task);
                inside
                    .links
                    .extend(sysctls.iter().filter_map(netnsd_api::SysctlKey::interface));
                inside
                    .sysctls
                    .extend(sysctls.iter().filter_map(sysctl::template));
                inside.sysctls.extend(sysctls);
                scope.nsswitch |= spec.dns.is_some();
            }
            Spec::Bridge(_) | Spec::Veth(_) | Spec::Link(_) => add_devices(&mut scope, task, spec),
        }
    }
    scope
}

/// Adds what a link is created on.
fn add_base(scope: &mut Scope, task: &Task<'_>, spec: &Spec) {
    let Some(base) = spec.base_ns() else {
        return;
    };
    for device in spec.devices().filter(|device| device.ns() != base) {
        scope.ns(&device.ns()).base_netnsids.insert(base.clone());
    }
    let inside = scope.ns(&base);
    inside
        .links
        .extend(spec.lower().map(|(_, name)| name.to_owned()));
    inside
        .links
        .extend(task.birthplace(spec).map(|birthplace| birthplace.name));
    inside.route_mtus.extend(spec.routed_addresses());
    if spec.remotes().next().is_some() {
        for device in spec.devices() {
            let inside = scope.ns(&device.ns());
            inside.remotes.insert(device.name.to_owned());
        }
    }
}

fn add_devices(scope: &mut Scope, task: &Task<'_>, spec: &Spec) {
    add_base(scope, task, spec);
    for device in spec.devices() {
        let inside = scope.ns(&device.ns());
        inside.links.insert(device.name.to_owned());
        if !task.is_new {
            inside.owner_tags.insert(task.owner_tag(device.end));
        }
        inside.port_vlans |= device.port.is_some_and(|port| has_vlans(port.settings));
        if let Spec::Bridge(bridge) = spec {
            // Its MTU follows its ports, also those of others.
            inside.all_links |= left_mtu(bridge, task.applied).is_some();
        }
    }
}

/// Returns true for a route that may have the key of one that the kernel makes itself.
fn is_among_kernels_own(route: &Route) -> bool {
    let Destination::Net(net) = route.destination else {
        return route.table == RT_TABLE_LOCAL;
    };
    let v6 = net.addr().is_ipv6() && (is_link_local(net.addr()) || net.addr().is_multicast());
    route.table == RT_TABLE_LOCAL || v6
}
