//! desired × applied × observed → ordered operations. Pure: no I/O, no clock.
//!
//! A plan is made by walking the tasks while keeping a model of what the kernel will be like after
//! the operations emitted so far (`Planner::now`): taking a link down loses its IPv6 addresses,
//! moving it loses them all, and what was lost and is still asked for is emitted again. Operations
//! are collected by [`Phase`], so that their order does not depend on that of the tasks.

mod address;
mod adopt;
mod command;
mod dns;
mod link;
mod namespace;
mod place;
mod route;
mod scope;
mod settings;
mod sysctl;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use netnsd_api::{Mac, Name, ResourceRef, SysctlKey, is_link_local};

pub use self::{adopt::Found, command::command, scope::scope, settings::own_settings};
use crate::{
    kernel::{Device, Ns, Observed, ObservedNs, Op, OpError, ownership},
    model::Spec,
};

/// One resource to bring about.
#[derive(Debug, Clone)]
pub struct Task<'a> {
    /// Which.
    pub resource: ResourceRef,
    /// Its identity, which its owner tags carry.
    pub uid: &'a str,
    /// What it should be; none once deleted.
    pub desired: Option<&'a Spec>,
    /// What it was asked to be before, and may in part still be.
    pub applied: &'a [Spec],
    /// Values that sysctls had before netnsd first set them.
    pub prior: &'a BTreeMap<SysctlKey, String>,
    /// Where its links were last seen: one without a tag is still its own.
    pub devices: &'a [Device],
    /// netnsd's own interfaces in the namespace that it is about, where sysctls of `default` are
    /// theirs too.
    pub interfaces: Vec<String>,
    /// Whether this very write creates it: a namespace may be attached, and nothing of it is
    /// anywhere yet.
    pub new: bool,
    /// The addresses of its devices where none is asked for, one for each end.
    pub macs: &'a [Mac],
    /// True if devices that are there keep the addresses that they have, and those are recorded.
    pub keep_macs: bool,
    /// Whether what others made becomes netnsd's, or theirs again.
    pub hands: Hands<'a>,
}

/// Whether what a task is about changes hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hands<'a> {
    /// It does not: what others made is left alone.
    Stay,
    /// What others made at its places is taken over.
    Adopt,
    /// It was taken over, and is given back as it was found, which is what is desired.
    GiveBack(&'a Found),
}

impl Task<'_> {
    /// Every spec that left, or is to leave, traces in the kernel.
    fn specs(&self) -> impl Iterator<Item = &Spec> {
        self.desired.into_iter().chain(self.applied)
    }

    /// Returns the owner tag of what it is about.
    fn owner_tag(&self, end: Option<usize>) -> String {
        ownership::owner_tag(&self.resource, end, self.uid)
    }

    /// Returns true if a tag, legacy or not, is that of what it is about.
    fn owns(&self, tag: &str, end: Option<usize>) -> bool {
        ownership::current(tag) == self.owner_tag(end)
    }

    /// Returns true if one of its links was last seen here. Of a namespace whose cookie is not
    /// known, nothing is sure.
    fn remembers(&self, ns: &Ns, cookie: u64, index: u32) -> bool {
        let here =
            |device: &Device| device.ns == *ns && device.cookie == cookie && device.index == index;
        cookie != 0 && self.devices.iter().any(here)
    }
}

/// When an operation is done, relative to those of other resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// What is taken over is netnsd's before anything of it is changed.
    Adopt,
    /// Neighbours and routes go before what they hang on.
    TakeRoutes,
    /// Bridges that go are down before: with each port that leaves one that is up it tries all the
    /// others anew (`br_port_state_selection()`, net/bridge/br_stp.c).
    LowerBridges,
    /// Links go before their namespace: the kernel would clear them later only.
    TakeLinks,
    TakeNamespaces,
    MakeNamespaces,
    /// Ids before veth pairs: a pair across namespaces gets them ids of the kernel's choice.
    Identify,
    /// Sysctls before links, which inherit `conf.default`.
    Sysctls,
    Dns,
    /// Links that have to be down, or to leave their place, are taken down first.
    Lower,
    Move,
    /// Ports leave their bridges under the names that they have by now.
    Release,
    MakeBridges,
    MakeVeths,
    /// Sysctls of links come after what resets them, and before addresses, which IPv6 refuses where
    /// it is switched off.
    Mtus,
    LinkSysctls,
    /// The inside of namespaces is finished before ports go up: the bridge forwards at once.
    Addresses,
    RaiseBridges,
    RaiseEnds,
    /// A bridge's address is pinned before ports come that could change it. As late as that: it
    /// cannot be undone.
    Pin,
    Enslave,
    SetPorts,
    RaisePorts,
    /// The IPv6 MTU of a link is set back when it goes up.
    LinkMtuSysctls,
    /// Routes that need no gateway make those reachable that do.
    LinkRoutes,
    GatewayRoutes,
    Neighbours,
    /// What is given back is changed back before.
    GiveBack,
}

/// One operation of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Step {
    /// The operation.
    pub op: Op,
    /// The resource that it is for.
    pub resource: ResourceRef,
    /// Whether the kernel's refusal may mean "not yet" (a route, a neighbour, an interface's
    /// sysctl).
    pub may_wait: bool,
    /// Whether its effect cannot be seen: it is planned again, and not done again.
    pub blind: bool,
}

/// Why a resource cannot be (wholly) as asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Something that it needs is not there yet.
    Pending(String),
    /// Something of others is where it should be.
    Conflict {
        /// What it is, and what to do.
        reason: String,
        /// The field, as a JSON pointer, that asks for its place; none if all of the resource does.
        pointer: Option<String>,
    },
}

/// What to do, in order, and what cannot be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The operations.
    pub steps: Vec<Step>,
    /// Resources that wait or are in conflict.
    pub verdicts: BTreeMap<ResourceRef, Verdict>,
    /// Operations that the kernel would refuse, as is known without trying.
    pub refused: Vec<(ResourceRef, Op, OpError)>,
    /// Bridges that are made anew: their ports have to be enslaved again.
    pub new_bridges: BTreeSet<Name>,
    /// Resources whose links are made again, moved, or get another MAC address: their neighbours
    /// are told of it.
    pub remade: BTreeSet<ResourceRef>,
    /// What is taken over, as it is before.
    pub found: BTreeMap<ResourceRef, Found>,
    /// The addresses that devices keep which were not made by a record with addresses; one for each
    /// end.
    pub macs: BTreeMap<ResourceRef, Vec<Mac>>,
    /// Links that netnsd did not make, with their kinds, in namespaces that are deleted. Attached
    /// ones are left out: their processes keep them.
    pub foreign_links: BTreeMap<ResourceRef, Vec<String>>,
    /// Namespaces that are made anew: whatever lived in them has to be made again.
    pub new_namespaces: BTreeSet<Name>,
    /// Resources of which something may be in a namespace that cannot be entered: what they leave
    /// may still be there.
    pub unseen: BTreeSet<ResourceRef>,
}

/// Returns the part of earlier intents that stays in the kernel though it is no longer asked for,
/// and has to be kept in mind: that a bridge's MTU was set.
pub fn lasting(spec: &Spec, applied: &[Spec]) -> Option<Spec> {
    match spec {
        Spec::Bridge(spec) => link::left_mtu(spec, applied).map(Spec::Bridge),
        _ => None,
    }
}

/// Plans the tasks. `bridge` tells a bridge resource's device name.
pub fn plan<'a>(
    tasks: &[Task<'a>],
    bridge: &dyn Fn(&Name) -> Option<String>,
    observed: &Observed,
) -> Plan {
    let mut planner = Planner {
        seen: observed,
        now: observed.clone(),
        bridge,
        link_local_gateways: link_local_gateways(tasks),
        phases: BTreeMap::new(),
        plan: Plan::default(),
    };
    let mut tasks: Vec<&Task<'a>> = tasks.iter().collect();
    tasks.sort_by(|a, b| a.resource.cmp(&b.resource));
    // What goes first frees names for what comes.
    for task in &tasks {
        planner.take_half(task);
    }
    for task in &tasks {
        planner.take_away(task);
    }
    for task in &tasks {
        if let Some(Spec::Namespace(spec)) = task.desired {
            planner.namespace(task, spec);
        }
    }
    let (given_back, ours): (Vec<_>, Vec<_>) = tasks
        .iter()
        .copied()
        .partition(|task| matches!(task.hands, Hands::GiveBack(_)));
    for task in &ours {
        planner.keep_macs(task);
    }
    planner.arrange(&ours);
    for task in &tasks {
        match task.desired {
            Some(Spec::Bridge(spec)) => planner.bridge(task, spec),
            Some(Spec::Veth(spec)) => planner.veth(task, spec),
            _ => {}
        }
    }
    for task in &tasks {
        if let Some(Spec::Bridge(spec)) = task.desired {
            planner.follow_ports(task, spec);
        }
    }
    // Routes come last: they hang on every link of their namespace.
    for task in &tasks {
        if let Some(Spec::Namespace(spec)) = task.desired {
            planner.inside(task, spec);
        }
    }
    for task in given_back {
        planner.give_back(task);
    }
    let Planner {
        phases, mut plan, ..
    } = planner;
    let closed = observed
        .namespaces
        .iter()
        .filter(|(_, inside)| inside.closed);
    let closed: BTreeSet<&Name> = closed.filter_map(|(ns, _)| ns.name()).collect();
    if !closed.is_empty() {
        let lives_there = |task: &&&Task<'_>| {
            task.specs()
                .flat_map(Spec::namespaces)
                .any(|name| closed.contains(name))
        };
        plan.unseen = tasks
            .iter()
            .filter(lives_there)
            .map(|task| task.resource.clone())
            .collect();
    }
    plan.steps = phases.into_values().flatten().collect();
    plan
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
            _ => Vec::new(),
        });
    let routes = routes.filter(|(_, route)| route.via.is_some_and(|via| is_link_local(via.0)));
    routes
        .filter_map(|(name, route)| {
            Some((
                Ns::Named(name.clone()),
                route.interface.as_ref()?.to_string(),
            ))
        })
        .collect()
}

struct Planner<'p> {
    /// What the kernel is like before.
    seen: &'p Observed,
    /// What the kernel is like once everything emitted so far is done.
    now: Observed,
    bridge: &'p dyn Fn(&Name) -> Option<String>,
    /// Links by which routes with a link-local gateway go.
    link_local_gateways: BTreeSet<(Ns, String)>,
    phases: BTreeMap<Phase, Vec<Step>>,
    plan: Plan,
}

impl Planner<'_> {
    fn emit(&mut self, phase: Phase, task: &Task<'_>, op: Op) {
        self.push(phase, task, op, (false, false));
    }

    fn emit_blind(&mut self, phase: Phase, task: &Task<'_>, op: Op) {
        self.push(phase, task, op, (false, true));
    }

    fn emit_waiting(&mut self, phase: Phase, task: &Task<'_>, op: Op) {
        self.push(phase, task, op, (true, false));
    }

    fn push(&mut self, phase: Phase, task: &Task<'_>, op: Op, (may_wait, blind): (bool, bool)) {
        self.phases.entry(phase).or_default().push(Step {
            op,
            resource: task.resource.clone(),
            may_wait,
            blind,
        });
    }

    /// Notes that links of a task are not where, or what, their neighbours knew.
    fn note_remade(&mut self, task: &Task<'_>) {
        if !task.new {
            self.plan.remade.insert(task.resource.clone());
        }
    }

    fn pending(&mut self, task: &Task<'_>, reason: String) {
        self.plan
            .verdicts
            .entry(task.resource.clone())
            .or_insert(Verdict::Pending(reason));
    }

    fn conflict(&mut self, task: &Task<'_>, reason: String) {
        self.set_conflict(
            task,
            Verdict::Conflict {
                reason,
                pointer: None,
            },
        );
    }

    /// Notes that others' doing is in the way of one field; the rest of the resource goes on.
    fn conflict_at(&mut self, task: &Task<'_>, reason: String, pointer: String) {
        self.set_conflict(
            task,
            Verdict::Conflict {
                reason,
                pointer: Some(pointer),
            },
        );
    }

    /// Notes a conflict, unless there is one already.
    fn set_conflict(&mut self, task: &Task<'_>, verdict: Verdict) {
        if !matches!(
            self.plan.verdicts.get(&task.resource),
            Some(Verdict::Conflict { .. })
        ) {
            self.plan.verdicts.insert(task.resource.clone(), verdict);
        }
    }

    /// Returns true if all of a resource is in conflict, not only one of its fields.
    fn in_conflict(&self, task: &Task<'_>) -> bool {
        matches!(
            self.plan.verdicts.get(&task.resource),
            Some(Verdict::Conflict { pointer: None, .. })
        )
    }

    fn ns_mut(&mut self, ns: &Ns) -> &mut ObservedNs {
        self.now.namespaces.entry(ns.clone()).or_default()
    }
}

impl ObservedNs {
    /// Takes the neighbours of a link out of the model: with its MAC address the kernel forgets
    /// them, permanent ones too
    ///
    /// (`neigh_changeaddr()`, net/core/neighbour.c). That of a bridge which is to be pinned may
    /// change with its ports.
    fn forget_neighbours(&mut self, interface: &str) {
        self.neighbours
            .retain(|neighbour| neighbour.interface.as_str() != interface);
    }

    /// Takes what hangs on a link that is up out of the model: routes by it, and its neighbours.
    fn forget_hanging(&mut self, interface: &str) {
        let by = |name: &Option<netnsd_api::InterfaceName>| {
            name.as_ref().is_some_and(|name| name.as_str() == interface)
        };
        self.routes.retain(|known| !by(&known.route.interface));
        self.forget_neighbours(interface);
    }

    /// Takes the sysctls of a link out of the model.
    fn forget_sysctls(&mut self, interface: &str) {
        self.sysctls
            .retain(|key, _| key.interface().as_deref() != Some(interface));
    }
}
