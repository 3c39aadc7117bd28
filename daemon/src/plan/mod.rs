//! Plans: desired × applied × observed → ordered operations. Pure: no I/O, no clock.
//!
//! The planner visits the tasks while it keeps a model of the kernel after the operations emitted
//! so far (`Planner::now`): a link that goes down loses its IPv6 addresses, a link that moves loses
//! them all, and lost state that is still asked for is emitted again. Operations are collected by
//! [`Phase`], so their order does not depend on that of the tasks.

mod address;
mod adopt;
mod command;
mod dns;
mod link;
mod namespace;
mod place;
mod route;
mod rule;
mod scope;
mod sysctl;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use netnsd_api::{Kind, Mac, Name, ResourceRef, SysctlKey, is_link_local};

pub use self::{adopt::AdoptionSnapshot, command::command, scope::scope};
use crate::{
    kernel::{
        Device, KernelError, LinkAt, LinkChange, LinkOp, Ns, Observed, ObservedNs, Op, ownership,
    },
    links::{DeviceType, LinkSettings},
    model::{BridgeDevice, Spec},
};

/// Number of links on each other that is more than the kernel has (`MAX_NEST_DEV`,
/// linux/netdevice.h).
const MAX_DEPTH: u8 = 9;

/// Resource to converge.
#[derive(Debug, Clone)]
pub struct Task<'a> {
    /// Resource.
    pub resource: ResourceRef,
    /// UID, which is part of its owner tags.
    pub uid: &'a str,
    /// Intent; `None` if it is deleted.
    pub desired: Option<&'a Spec>,
    /// Earlier intents that may still be in the kernel.
    pub applied: &'a [Spec],
    /// Values of sysctls before netnsd first set them.
    pub prior: &'a BTreeMap<SysctlKey, String>,
    /// Identities of its links when they were last observed: a link without a tag is still its own.
    pub devices: &'a [Device],
    /// Interfaces that netnsd made in the namespace, to which sysctls of `default` apply too.
    pub interfaces: Vec<String>,
    /// True if this write creates it: a namespace may be attached, and no part of it exists yet.
    pub is_new: bool,
    /// MAC addresses of its devices where the intent leaves them open, one for each end.
    pub macs: &'a [Mac],
    /// True if existing devices keep their MAC addresses, which are then recorded.
    pub keep_macs: bool,
    /// Change of ownership.
    pub ownership: Ownership<'a>,
}

/// Change of ownership of a task's devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership<'a> {
    /// None: devices of others are left alone.
    Keep,
    /// Devices of others at its locations are adopted.
    Adopt,
    /// It was adopted, and is released as it was found, which is what is desired.
    Release(&'a AdoptionSnapshot),
}

impl Task<'_> {
    /// Returns every spec that left, or is to leave, traces in the kernel.
    fn specs(&self) -> impl Iterator<Item = &Spec> {
        self.desired.into_iter().chain(self.applied)
    }

    /// Returns the owner tag of a device, or of the namespace.
    fn owner_tag(&self, end: usize) -> String {
        ownership::owner_tag(&self.resource, end, self.uid)
    }

    /// Returns true if a tag, legacy or not, is that of a device.
    fn owns(&self, tag: &str, end: usize) -> bool {
        ownership::current(tag) == self.owner_tag(end)
    }

    /// Returns the location at which a link is created whose base is in another namespace, under a
    /// name of its own: a device of the same name may be there. It moves from there to its own.
    fn birthplace(&self, spec: &Spec) -> Option<LinkAt> {
        let ns = spec.base_ns()?;
        let is_elsewhere = spec.devices().any(|device| device.ns() != ns);
        is_elsewhere.then(|| LinkAt::new(ns, birth_name(self.uid)))
    }

    /// Returns true if its devices are the two ends of a pair, which live and die together.
    fn is_pair(&self) -> bool {
        self.resource.kind == Kind::Veth
    }

    /// Returns the type of its devices, as it is desired or was applied last.
    fn device_type(&self) -> Option<DeviceType> {
        let mut settings = self.specs().filter_map(LinkSettings::of);
        settings.next().map(|settings| settings.device_type())
    }

    /// Returns true if one of its links was last observed here. False if the namespace's cookie is
    /// unknown.
    fn remembers(&self, ns: &Ns, cookie: u64, index: u32) -> bool {
        let here =
            |device: &Device| device.ns == *ns && device.cookie == cookie && device.index == index;
        cookie != 0 && self.devices.iter().any(here)
    }
}

/// Returns a name of 15 bytes with the last group of a UID, which is random (RFC 9562, version 7).
fn birth_name(uid: &str) -> String {
    let group = uid.rsplit('-').next().unwrap_or_default();
    format!("nn-{group}")
}

/// Phase of a plan: orders operations of all resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Adopted devices are tagged before they are changed.
    Adopt,
    /// Neighbours, rules and routes are deleted before the links they depend on.
    DeleteRoutes,
    /// Bridges that are deleted are set down before: with each port that leaves a bridge that is
    /// up, it tries all the others again (`br_port_state_selection()`, net/bridge/br_stp.c).
    SetBridgesDown,
    /// Links are deleted before their namespace: the kernel would clear them only later.
    DeleteLinks,
    DeleteNamespaces,
    CreateNamespaces,
    /// Ids before links: a pair across namespaces gives them ids of the kernel's choice.
    SetNetnsIds,
    /// Sysctls before links, which inherit `conf.default`.
    Sysctls,
    Dns,
    /// Links that have to be down, or to leave their location, are set down first.
    SetLinksDown,
    Move,
    /// Ports leave their bridges under their new names.
    ReleasePorts,
    /// Alternative names are free before other links take them.
    ReleaseAltnames,
    CreateLinks,
    Settings,
    /// Sysctls of links come after the changes that reset them, and before addresses, which IPv6
    /// refuses where it is switched off.
    Mtus,
    LinkSysctls,
    /// Namespaces are complete before ports are set up: the bridge forwards at once.
    Addresses,
    SetBridgesUp,
    SetLinksUp,
    /// A bridge's address is pinned before ports come that could change it. As late as that: it
    /// cannot be undone.
    PinMacs,
    Enslave,
    SetPorts,
    SetPortsUp,
    /// The IPv6 MTU of a link is reset when it is set up.
    LinkMtuSysctls,
    /// Routes without a gateway make gateways reachable.
    LinkRoutes,
    GatewayRoutes,
    /// Rules come after the routes that they look up.
    Rules,
    Neighbours,
    /// Released devices lose their tags after all changes.
    ReleaseAdopted,
}

impl Phase {
    /// Returns the place of an operation for a link that is on so many others: it is created once
    /// they are as they should be, since it takes its MTU from them, and is up only if they are.
    fn order(self, depth: u8) -> (Stage, u8, Phase) {
        if self < Phase::CreateLinks {
            (Stage::Before, 0, self)
        } else if self < Phase::LinkRoutes {
            (Stage::Links, depth, self)
        } else {
            (Stage::After, 0, self)
        }
    }
}

/// Part of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Before,
    /// By depth: links that stand alone, then those on them, and so on.
    Links,
    After,
}

/// Operation of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Step {
    /// Operation.
    pub op: Op,
    /// Resource that it is for.
    pub resource: ResourceRef,
    /// True if a refusal may mean "not yet" (a route, a neighbour, an interface's sysctl).
    pub retriable: bool,
    /// True if its effect cannot be observed: it is planned again, and not executed again.
    pub unverifiable: bool,
}

/// Reason for which a resource cannot be (wholly) as asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlanStatus {
    /// A dependency does not exist yet.
    Pending(String),
    /// A device or file of others is in its place.
    Conflict {
        /// Description, with a way out.
        reason: String,
        /// JSON pointer to the field concerned; `None` if all of the resource is.
        pointer: Option<String>,
    },
}

/// Operations in order, and what they cannot bring about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Operations.
    pub steps: Vec<Step>,
    /// Resources that are pending or in conflict.
    pub statuses: BTreeMap<ResourceRef, PlanStatus>,
    /// Operations that the kernel would refuse, known without a try.
    pub refused: Vec<(ResourceRef, Op, KernelError)>,
    /// Bridges that are created: their ports have to be enslaved again.
    pub new_bridges: BTreeSet<Name>,
    /// Resources whose links are created again, moved, or get another MAC address: their addresses
    /// are announced.
    pub remade: BTreeSet<ResourceRef>,
    /// Adopted resources, as they were found.
    pub found: BTreeMap<ResourceRef, AdoptionSnapshot>,
    /// MAC addresses of devices that were made by a record without them; one for each end.
    pub macs: BTreeMap<ResourceRef, Vec<Mac>>,
    /// Links of others, with their types, in namespaces that are deleted. Attached ones are left
    /// out: their processes keep them.
    pub foreign_links: BTreeMap<ResourceRef, Vec<String>>,
    /// Namespaces that are created: everything in them has to be made again.
    pub new_namespaces: BTreeSet<Name>,
    /// Resources that may have state in a namespace that cannot be entered.
    pub unobserved: BTreeSet<ResourceRef>,
}

impl Plan {
    /// Returns namespace and name of the links that come or go, each with the resource that it is
    /// for.
    pub fn changed_links(&self) -> impl Iterator<Item = (&ResourceRef, &Ns, &str)> {
        self.steps.iter().flat_map(|step| {
            let links = match &step.op {
                Op::Link(LinkOp::Create(new)) => [
                    Some(new.end.at.parts()),
                    new.peer.as_ref().map(|peer| peer.at.parts()),
                ],
                Op::Link(LinkOp::Delete(link)) => [Some(link.parts()), None],
                Op::Link(LinkOp::Move { from, to }) => [Some(from.parts()), Some(to.parts())],
                Op::Link(LinkOp::Set {
                    link,
                    change: LinkChange::Name(name),
                }) => [Some(link.parts()), Some((&link.ns, name.as_str()))],
                Op::Link(LinkOp::Set { .. }) | Op::Namespace(_) | Op::Feature(_) => [None, None],
            };
            let links = links.into_iter().flatten();
            links.map(|(ns, name)| (&step.resource, ns, name))
        })
    }
}

/// Returns the part of earlier intents that stays in the kernel although it is no longer asked for,
/// and has to stay recorded: a bridge's MTU was set.
pub fn lasting(spec: &Spec, applied: &[Spec]) -> Option<Spec> {
    match spec {
        Spec::Bridge(spec) => link::left_mtu(spec, applied).map(Spec::Bridge),
        Spec::Namespace(_) | Spec::Veth(_) | Spec::Link(_) => None,
    }
}

/// Plans the tasks. `bridge` returns the device of a bridge.
pub fn plan<'a>(
    tasks: &[Task<'a>],
    bridge: &dyn Fn(&Name) -> Option<BridgeDevice>,
    observed: &Observed,
) -> Plan {
    let mut planner = Planner {
        seen: observed,
        now: observed.clone(),
        bridge,
        link_local_gateways: link_local_gateways(tasks),
        depths: depths(tasks),
        unplaced: BTreeSet::new(),
        phases: BTreeMap::new(),
        plan: Plan::default(),
    };
    let mut tasks: Vec<&Task<'a>> = tasks.iter().collect();
    tasks.sort_by(|a, b| a.resource.cmp(&b.resource));
    // Deletions free names for creations.
    for task in &tasks {
        planner.delete_half_pair(task);
    }
    for task in &tasks {
        planner.delete_removed(task);
    }
    for task in &tasks {
        if let Some(Spec::Namespace(spec)) = task.desired {
            planner.plan_namespace(task, spec);
        }
    }
    let (given_back, ours): (Vec<_>, Vec<_>) = tasks
        .iter()
        .copied()
        .partition(|task| matches!(task.ownership, Ownership::Release(_)));
    for task in &ours {
        planner.record_macs(task);
    }
    planner.place_links(&ours);
    let mut upwards = tasks.clone();
    upwards.sort_by_key(|task| planner.depth(task));
    for task in upwards {
        match task.desired {
            Some(Spec::Bridge(spec)) => planner.plan_bridge(task, spec),
            Some(spec @ (Spec::Veth(_) | Spec::Link(_))) => planner.plan_ends(task, spec),
            Some(Spec::Namespace(_)) | None => {}
        }
    }
    for task in &tasks {
        if let Some(Spec::Bridge(spec)) = task.desired {
            planner.follow_ports(task, spec);
        }
    }
    // Routes come last: they depend on every link of their namespace.
    for task in &tasks {
        if let Some(Spec::Namespace(spec)) = task.desired {
            planner.plan_contents(task, spec);
        }
    }
    for task in given_back {
        planner.release(task);
    }
    let Planner {
        phases, mut plan, ..
    } = planner;
    let closed = observed
        .namespaces
        .iter()
        .filter(|(_, inside)| inside.inaccessible);
    let closed: BTreeSet<&Name> = closed.filter_map(|(ns, _)| ns.name()).collect();
    if !closed.is_empty() {
        let lives_there = |task: &&&Task<'_>| {
            task.specs()
                .flat_map(Spec::namespaces)
                .any(|name| closed.contains(name))
        };
        plan.unobserved = tasks
            .iter()
            .filter(lives_there)
            .map(|task| task.resource.clone())
            .collect();
    }
    plan.steps = phases.into_values().flatten().collect();
    plan
}

/// Returns the number of links that each task's link is on, where it is on any.
fn depths(tasks: &[Task<'_>]) -> BTreeMap<ResourceRef, u8> {
    let lowers: BTreeMap<&ResourceRef, (Ns, &str)> = tasks
        .iter()
        .filter_map(|task| Some((&task.resource, task.desired?.lower()?)))
        .collect();
    if lowers.is_empty() {
        return BTreeMap::new();
    }
    let owners: BTreeMap<(Ns, String), &ResourceRef> = tasks
        .iter()
        .filter_map(|task| Some((&task.resource, task.desired?)))
        .flat_map(|(resource, spec)| {
            let locations = spec.devices().map(|device| device.location());
            locations.map(move |location| (location, resource))
        })
        .collect();
    let depth_of = |resource: &ResourceRef| {
        let mut depth = 0;
        let mut below = lowers.get(resource);
        while let Some((ns, device)) = below.filter(|_| depth < MAX_DEPTH) {
            depth += 1;
            let owner = owners.get(&(ns.clone(), (*device).to_owned()));
            below = owner.and_then(|owner| lowers.get(owner));
        }
        depth
    };
    let resources = lowers.keys().map(|resource| (*resource).clone());
    resources
        .map(|resource| (resource.clone(), depth_of(&resource)))
        .collect()
}

fn link_local_gateways(tasks: &[Task<'_>]) -> BTreeSet<(Ns, String)> {
    let routes = tasks
        .iter()
        .filter_map(|task| task.desired)
        .flat_map(|spec| match spec {
            Spec::Namespace(spec) => spec
                .routes
                .iter()
                .map(|route| (&spec.name, route))
                .collect(),
            Spec::Bridge(_) | Spec::Veth(_) | Spec::Link(_) => Vec::new(),
        });
    let mut gateways = BTreeSet::new();
    for (name, route) in routes {
        for hop in route.hops().iter() {
            if let (Some(via), Some(interface)) = (hop.via, &hop.interface)
                && is_link_local(via.0)
            {
                gateways.insert((Ns::Named(name.clone()), interface.to_string()));
            }
        }
    }
    gateways
}

struct Planner<'p> {
    /// Observed state.
    seen: &'p Observed,
    /// State after the operations emitted so far.
    now: Observed,
    bridge: &'p dyn Fn(&Name) -> Option<BridgeDevice>,
    /// Links that are used by routes with a link-local gateway.
    link_local_gateways: BTreeSet<(Ns, String)>,
    /// Number of links that a resource's link is on, where it is on any.
    depths: BTreeMap<ResourceRef, u8>,
    /// Locations of links that are not there yet, while links are placed; empty if no link is on
    /// another.
    unplaced: BTreeSet<LinkAt>,
    phases: BTreeMap<(Stage, u8, Phase), Vec<Step>>,
    plan: Plan,
}

impl Planner<'_> {
    fn emit(&mut self, phase: Phase, task: &Task<'_>, op: Op) {
        self.push(phase, task, op, (false, false));
    }

    fn emit_unverifiable(&mut self, phase: Phase, task: &Task<'_>, op: Op) {
        self.push(phase, task, op, (false, true));
    }

    fn emit_retriable(&mut self, phase: Phase, task: &Task<'_>, op: Op) {
        self.push(phase, task, op, (true, false));
    }

    fn push(
        &mut self,
        phase: Phase,
        task: &Task<'_>,
        op: Op,
        (retriable, unverifiable): (bool, bool),
    ) {
        let order = phase.order(self.depth(task));
        self.phases.entry(order).or_default().push(Step {
            op,
            resource: task.resource.clone(),
            retriable,
            unverifiable,
        });
    }

    /// Returns the number of links that a task's link is on.
    fn depth(&self, task: &Task<'_>) -> u8 {
        self.depths.get(&task.resource).copied().unwrap_or(0)
    }

    /// Records that neighbours of a task's links know outdated addresses.
    fn note_remade(&mut self, task: &Task<'_>) {
        if !task.is_new {
            self.plan.remade.insert(task.resource.clone());
        }
    }

    fn pending(&mut self, task: &Task<'_>, reason: String) {
        self.plan
            .statuses
            .entry(task.resource.clone())
            .or_insert(PlanStatus::Pending(reason));
    }

    fn conflict(&mut self, task: &Task<'_>, reason: String) {
        self.set_conflict(
            task,
            PlanStatus::Conflict {
                reason,
                pointer: None,
            },
        );
    }

    /// Records a conflict of one field; the rest of the resource is planned.
    fn conflict_at(&mut self, task: &Task<'_>, reason: String, pointer: String) {
        self.set_conflict(
            task,
            PlanStatus::Conflict {
                reason,
                pointer: Some(pointer),
            },
        );
    }

    /// Records a conflict, unless there is one already.
    fn set_conflict(&mut self, task: &Task<'_>, status: PlanStatus) {
        if !matches!(
            self.plan.statuses.get(&task.resource),
            Some(PlanStatus::Conflict { .. })
        ) {
            self.plan.statuses.insert(task.resource.clone(), status);
        }
    }

    /// Returns true if all of a resource is in conflict, not only one of its fields.
    fn in_conflict(&self, task: &Task<'_>) -> bool {
        matches!(
            self.plan.statuses.get(&task.resource),
            Some(PlanStatus::Conflict { pointer: None, .. })
        )
    }

    fn ns_mut(&mut self, ns: &Ns) -> &mut ObservedNs {
        self.now.namespaces.entry(ns.clone()).or_default()
    }
}
