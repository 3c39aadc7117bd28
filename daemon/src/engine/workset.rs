//! Worksets: the resources that one piece of work observes, plans and changes.

use std::collections::{BTreeMap, BTreeSet};

use netnsd_api::{Kind, Name, Progress, ResourceRef, State};
use tokio::sync::watch;

use super::{devices::DeviceIndex, failure::OpFailure, records::Records, status::StatusBoard};
use crate::{
    kernel::{KernelEvent, Ns, Observed},
    model::{Record, Spec, ipv6_switches},
    plan::{Plan, PlanStatus},
};

/// Failed operations, by the resource that they were for.
pub(super) type Failures = BTreeMap<ResourceRef, OpFailure>;

/// Resources to converge, in independent groups: if an operation of one group fails, the others
/// continue.
#[derive(Debug, Default, Clone)]
pub(super) struct Workset {
    groups: BTreeMap<ResourceRef, usize>,
    /// Resources that this batch creates.
    created: BTreeSet<ResourceRef>,
    /// Own resources of each synchronous write, by its group: if one fails, the write is rolled
    /// back.
    sync_writes: BTreeMap<usize, BTreeSet<ResourceRef>>,
    observe_only: BTreeSet<ResourceRef>,
    /// True if the routes that the kernel adds with addresses are checked too: only others delete
    /// them.
    check_prefix_routes: bool,
    /// True if netnsd's routes are also searched where none are asked for: an earlier version may
    /// have left some.
    find_leftover_routes: bool,
    progress: Option<watch::Sender<Progress>>,
}

impl Workset {
    /// Returns a workset in which each resource is a group of its own: one that fails blocks no
    /// other.
    pub fn independent(resources: BTreeSet<ResourceRef>) -> Self {
        let groups = resources
            .into_iter()
            .enumerate()
            .map(|(group, resource)| (resource, group))
            .collect();
        Self {
            groups,
            check_prefix_routes: true,
            ..Self::default()
        }
    }

    /// Also searches for routes that an earlier version may have left.
    pub fn find_leftover_routes(mut self) -> Self {
        self.find_leftover_routes = true;
        self
    }

    /// Returns the resources to converge.
    pub fn resources(&self) -> impl Iterator<Item = &ResourceRef> {
        self.groups.keys()
    }

    /// Returns the resources that are only observed.
    pub fn observed_only(&self) -> impl Iterator<Item = &ResourceRef> + Clone {
        self.observe_only.iter()
    }

    /// Returns all resources, those to converge first.
    pub fn all_resources(&self) -> impl Iterator<Item = &ResourceRef> + Clone {
        self.groups.keys().chain(&self.observe_only)
    }

    /// Returns the number of all resources.
    pub fn len(&self) -> usize {
        self.groups.len() + self.observe_only.len()
    }

    /// Returns true if a resource is to be converged.
    pub fn contains(&self, resource: &ResourceRef) -> bool {
        self.groups.contains_key(resource)
    }

    /// Returns the group of a resource.
    pub fn group(&self, resource: &ResourceRef) -> Option<usize> {
        self.groups.get(resource).copied()
    }

    /// Returns true if this batch creates the resource.
    pub fn is_created(&self, resource: &ResourceRef) -> bool {
        self.created.contains(resource)
    }

    /// Returns true if the routes that come with addresses are checked.
    pub fn checks_prefix_routes(&self) -> bool {
        self.check_prefix_routes
    }

    /// Returns true if leftover routes are searched for.
    pub fn finds_leftover_routes(&self) -> bool {
        self.find_leftover_routes
    }

    /// Returns the receiver of the progress, if a client watches it.
    pub fn progress(&self) -> Option<&watch::Sender<Progress>> {
        self.progress.as_ref()
    }

    /// Sets the receiver of the progress.
    pub fn report_progress(&mut self, progress: watch::Sender<Progress>) {
        self.progress = Some(progress);
    }

    /// Includes a resource in a group; one that is in a group already stays there. Returns true if
    /// it was not included before.
    pub fn include(&mut self, resource: ResourceRef, group: usize) -> bool {
        let is_new = !self.groups.contains_key(&resource);
        self.groups.entry(resource).or_insert(group);
        is_new
    }

    /// Notes that this batch creates a resource.
    pub fn mark_created(&mut self, resource: ResourceRef) {
        self.created.insert(resource);
    }

    /// Notes the resources of a synchronous write.
    pub fn add_sync_write(&mut self, group: usize, resources: BTreeSet<ResourceRef>) {
        self.sync_writes.insert(group, resources);
    }

    /// Only observes a resource from now on.
    pub fn only_observe(&mut self, resource: ResourceRef) {
        self.groups.remove(&resource);
        self.observe_only.insert(resource);
    }

    /// Includes a resource whose record was `previous`, and those that depend on its change.
    pub fn include_change(
        &mut self,
        records: &Records,
        devices: &DeviceIndex,
        group: usize,
        resource: &ResourceRef,
        previous: Option<&Record>,
    ) {
        let before = previous.map(|record| &*record.spec);
        let after = records.spec(resource);
        for affected in affected_resources(records, devices, before, after) {
            self.include(affected, group);
        }
        self.include(resource.clone(), group);
        for spec in before.into_iter().chain(after) {
            self.include_above(records, devices, group, spec);
        }
    }

    /// Includes what is on the devices of a spec, and on those, and the tunnels through its
    /// namespaces.
    fn include_above(
        &mut self,
        records: &Records,
        devices: &DeviceIndex,
        group: usize,
        spec: &Spec,
    ) {
        let intent = records.intent();
        let through = match spec {
            Spec::Namespace(spec) => vec![Ns::Named(spec.name.clone())],
            Spec::Bridge(_) | Spec::Veth(_) | Spec::Link(_) => {
                spec.devices().map(|device| device.ns()).collect()
            }
        };
        let tunnels = through.iter().flat_map(|ns| intent.tunnels(ns));
        for above in intent.uppers(spec).chain(tunnels) {
            if self.include_dependent(records, devices, group, above)
                && let Some(spec) = records.spec(above)
            {
                self.include_above(records, devices, group, spec);
            }
        }
    }

    /// Includes a resource whose links come anew, and what depends on them. Returns true if any was
    /// not included before.
    fn include_dependent(
        &mut self,
        records: &Records,
        devices: &DeviceIndex,
        group: usize,
        dependent: &ResourceRef,
    ) -> bool {
        let mut has_grown = self.include(dependent.clone(), group);
        for affected in affected_resources(records, devices, None, records.spec(dependent)) {
            has_grown |= self.include(affected, group);
        }
        has_grown
    }

    /// Observes the bridges of ports too: a port changes their carrier.
    pub fn observe_bridges(&mut self, records: &Records) {
        let bridges: Vec<ResourceRef> = self
            .groups
            .keys()
            .filter_map(|resource| records.spec(resource))
            .flat_map(Spec::bridges)
            .map(bridge_ref)
            .filter(|bridge| !self.groups.contains_key(bridge))
            .collect();
        self.observe_only.extend(bridges);
    }

    /// Includes the bridges of ports that failed: a bridge that was deleted has released its ports,
    /// and had only been observed for their sake.
    pub fn include_bridges_of_failed(&mut self, records: &Records, failures: &Failures) {
        let specs = failures
            .keys()
            .filter_map(|resource| records.spec(resource));
        for name in specs.flat_map(Spec::bridges) {
            let bridge = bridge_ref(name);
            let group = self.groups.len();
            self.observe_only.remove(&bridge);
            self.include(bridge, group);
        }
    }

    /// Includes the dependents of namespaces and bridges that a plan recreates, and what is on the
    /// links that it creates, moves or deletes. Returns true if any was not included before.
    pub fn include_recreated_dependents(
        &mut self,
        records: &Records,
        devices: &DeviceIndex,
        plan: &Plan,
    ) -> bool {
        let namespaces = plan.new_namespaces.iter().map(namespace_ref);
        let recreated = namespaces.chain(plan.new_bridges.iter().map(bridge_ref));
        let mut has_grown = false;
        for resource in recreated {
            let group = self.group(&resource).unwrap_or_default();
            for dependent in records.intent().dependents(&resource) {
                has_grown |= self.include_dependent(records, devices, group, &dependent);
            }
        }
        for (resource, ns, name) in plan.changed_links() {
            let group = self.group(resource).unwrap_or_default();
            for upper in records.intent().uppers_of_device(ns, name) {
                has_grown |= self.include_dependent(records, devices, group, upper);
            }
        }
        has_grown
    }

    /// Returns the group whose write is rolled back if this resource fails. A dependent that was
    /// failing before is no reason.
    pub fn failed_group(&self, failed: &ResourceRef, status: &StatusBoard) -> Option<usize> {
        let group = self.group(failed)?;
        let own = self.sync_writes.get(&group)?;
        let was_failed = status.state(failed) == Some(State::Failed);
        (own.contains(failed) || !was_failed).then_some(group)
    }
}

/// Outcome of converging a workset.
#[derive(Debug, Default)]
pub(super) struct ApplyOutcome {
    /// State of the kernel after the last operation.
    pub observed: Observed,
    pub statuses: BTreeMap<ResourceRef, PlanStatus>,
    /// Resources that may still have state in a namespace that cannot be entered.
    pub unverifiable: BTreeSet<ResourceRef>,
    pub failures: Failures,
    /// Resources whose links were recreated or moved.
    pub remade: BTreeSet<ResourceRef>,
    /// Labels of the operations that were done, by the resource that they were for.
    pub done: BTreeMap<ResourceRef, Vec<&'static str>>,
    /// Namespaces of whose sysctls a value from before netnsd was saved: their rows changed.
    pub saved_sysctls: BTreeSet<ResourceRef>,
    /// Kernel events that arrived meanwhile, in their order.
    pub events: Vec<KernelEvent>,
}

impl ApplyOutcome {
    /// Returns true if something of a resource may be left in the kernel that should not be.
    pub fn may_have_left(&self, resource: &ResourceRef) -> bool {
        self.failures.contains_key(resource) || self.unverifiable.contains(resource)
    }

    /// Returns the number of operations that were done.
    pub fn count_done(&self) -> usize {
        self.done.values().map(Vec::len).sum()
    }

    /// Adds the operations of an earlier outcome of the same workset.
    pub fn merge_earlier(&mut self, earlier: ApplyOutcome) {
        self.remade.extend(earlier.remade);
        for (resource, operations) in earlier.done {
            self.done.entry(resource).or_default().extend(operations);
        }
    }
}

/// Returns the resources whose operations a change may call for.
fn affected_resources(
    records: &Records,
    devices: &DeviceIndex,
    before: Option<&Spec>,
    after: Option<&Spec>,
) -> Vec<ResourceRef> {
    let specs = || before.into_iter().chain(after);
    // Routes, neighbours and sysctls depend on the links of their namespace.
    let mut found: Vec<ResourceRef> = specs()
        .filter(|spec| spec.kind() != Kind::Namespace)
        .flat_map(Spec::namespaces)
        .map(namespace_ref)
        .filter(|namespace| records.get(namespace).is_some())
        .collect();
    let bridges = specs().flat_map(Spec::bridges).map(bridge_ref);
    found.extend(bridges.filter(|bridge| devices.is_mtu_follower(bridge)));
    if let (Some(before), Some(after)) = (before, after)
        && resets_dependents(before, after)
    {
        found.extend(records.intent().dependents(&after.resource()));
    }
    found
}

/// Returns true if a change makes the kernel reset state of the resource's dependents.
fn resets_dependents(before: &Spec, after: &Spec) -> bool {
    if let (Spec::Bridge(old), Spec::Bridge(new)) = (before, after) {
        return (old.device(), &old.namespace) != (new.device(), &new.namespace);
    }
    // Where IPv6 is switched off, even for a moment, addresses are lost
    // (`addrconf_disable_ipv6()`, net/ipv6/addrconf.c).
    if let (Spec::Namespace(old), Spec::Namespace(new)) = (before, after) {
        return !ipv6_switches(old).eq(ipv6_switches(new));
    }
    false
}

/// Returns the reference to a namespace.
pub(super) fn namespace_ref(name: &Name) -> ResourceRef {
    ResourceRef::new(Kind::Namespace, name.clone())
}

/// Returns the reference to a bridge.
pub(super) fn bridge_ref(name: &Name) -> ResourceRef {
    ResourceRef::new(Kind::Bridge, name.clone())
}
