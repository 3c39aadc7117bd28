//! desired × applied × observed → ordered operations. Pure: no I/O, no clock.
//!
//! A plan is made by walking the tasks while keeping a model of what the kernel will be like after the operations
//! emitted so far (`Planner::now`): taking a link down loses its IPv6 addresses, moving it loses them all, and what was
//! lost and is still asked for is emitted again. Operations are collected by [`Phase`], so that their order does not
//! depend on that of the tasks.

mod command;
mod link;
mod namespace;
mod scope;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use netnsd_api::{Name, ResourceRef, SysctlKey};

pub use self::{command::command, namespace::resolv_conf, scope::scope};
use crate::{
    engine::Spec,
    kernel::{Ns, Observed, ObservedNs, Op},
};

/// One resource to bring about.
#[derive(Debug, Clone)]
pub struct Task<'a> {
    /// Which.
    pub resource: ResourceRef,
    /// Its identity, which its mark carries.
    pub uid: &'a str,
    /// What it should be; none once deleted.
    pub desired: Option<&'a Spec>,
    /// What it was asked to be before, and may in part still be.
    pub applied: &'a [Spec],
    /// Values that sysctls had before netnsd first set them.
    pub prior: &'a BTreeMap<SysctlKey, String>,
    /// Whether a namespace that is missing may be made by attaching (only in the write that creates it).
    pub attach: bool,
}

impl Task<'_> {
    /// Every spec that left, or is to leave, traces in the kernel.
    fn specs(&self) -> impl Iterator<Item = &Spec> {
        self.desired.into_iter().chain(self.applied)
    }
}

/// When an operation is done, relative to those of other resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Neighbours and routes go before what they hang on.
    TakeRoutes,
    /// Links go before their namespace: the kernel would clear them later only.
    TakeLinks,
    TakeNamespaces,
    MakeNamespaces,
    /// Ids before veth pairs: a pair across namespaces gets them ids of the kernel's choice.
    Identify,
    /// Sysctls before links, which inherit `conf.default`.
    Sysctls,
    Dns,
    /// Links that have to leave their place are taken down first.
    Lower,
    Move,
    /// Ports leave their bridges under the names that they have by now.
    Release,
    MakeBridges,
    MakeVeths,
    /// The inside of namespaces is finished before ports go up: the bridge forwards at once.
    Addresses,
    LinkSysctls,
    RaiseBridges,
    RaiseEnds,
    Enslave,
    SetPorts,
    RaisePorts,
    /// Addresses that going down took away.
    AddressesAgain,
    /// Routes that need no gateway make those reachable that do.
    LinkRoutes,
    GatewayRoutes,
    Neighbours,
}

/// One operation of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The operation.
    pub op: Op,
    /// The resource that it is for.
    pub resource: ResourceRef,
    /// Whether the kernel's refusal may mean "not yet" (a route, a neighbour, an interface's sysctl).
    pub may_wait: bool,
    /// Whether its effect cannot be seen: it is planned again, and not done again.
    pub blind: bool,
}

/// Why a resource cannot be (wholly) as asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Something that it needs is not there yet.
    Pending(String),
    /// Something of others holds its name.
    Conflict(String),
}

/// What to do, in order, and what cannot be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The operations.
    pub steps: Vec<Step>,
    /// Resources that wait or are in conflict.
    pub verdicts: BTreeMap<ResourceRef, Verdict>,
    /// Bridges that are made anew: their ports have to be enslaved again.
    pub new_bridges: BTreeSet<Name>,
    /// Namespaces that are made anew: whatever lived in them has to be made again.
    pub new_namespaces: BTreeSet<Name>,
}

/// Plans the tasks. `bridge` tells a bridge resource's device name.
pub fn plan<'a>(tasks: &[Task<'a>], bridge: &dyn Fn(&Name) -> Option<String>, observed: &Observed) -> Plan {
    let mut planner = Planner { now: observed.clone(), bridge, phases: BTreeMap::new(), plan: Plan::default() };
    let mut tasks: Vec<&Task<'a>> = tasks.iter().collect();
    tasks.sort_by(|a, b| a.resource.cmp(&b.resource));
    // What goes first frees names for what comes.
    for task in &tasks {
        planner.take_away(task);
    }
    for task in &tasks {
        match task.desired {
            Some(Spec::Namespace(spec)) => planner.namespace(task, spec),
            Some(Spec::Bridge(spec)) => planner.bridge(task, spec),
            Some(Spec::Veth(spec)) => planner.veth(task, spec),
            None => {}
        }
    }
    // Routes come last: they hang on every link of their namespace.
    for task in &tasks {
        if let Some(Spec::Namespace(spec)) = task.desired {
            planner.inside(task, spec);
        }
    }
    let Planner { phases, mut plan, .. } = planner;
    plan.steps = phases.into_values().flatten().collect();
    plan
}

struct Planner<'p> {
    /// What the kernel is like once everything emitted so far is done.
    now: Observed,
    bridge: &'p dyn Fn(&Name) -> Option<String>,
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
        self.phases.entry(phase).or_default().push(Step { op, resource: task.resource.clone(), may_wait, blind });
    }

    fn pending(&mut self, task: &Task<'_>, reason: String) {
        self.plan.verdicts.entry(task.resource.clone()).or_insert(Verdict::Pending(reason));
    }

    fn conflict(&mut self, task: &Task<'_>, reason: String) {
        self.plan.verdicts.insert(task.resource.clone(), Verdict::Conflict(reason));
    }

    fn in_conflict(&self, task: &Task<'_>) -> bool {
        matches!(self.plan.verdicts.get(&task.resource), Some(Verdict::Conflict(_)))
    }

    fn ns_mut(&mut self, ns: &Ns) -> &mut ObservedNs {
        self.now.namespaces.entry(ns.clone()).or_default()
    }

    /// Takes a link out of the model, with its routes and neighbours.
    fn forget_link(&mut self, ns: &Ns, name: &str) {
        let Some(inside) = self.now.namespaces.get_mut(ns) else { return };
        inside.links.remove(name);
        inside.forget_routes(name, |_| true);
        inside.neighbours.retain(|neighbour| neighbour.interface.as_str() != name);
        for link in inside.links.values_mut().filter(|link| link.master.as_deref() == Some(name)) {
            link.master = None;
            link.port = None;
        }
    }
}

impl ObservedNs {
    /// Takes those routes by an interface out of the model that going down or a lost address takes along.
    fn forget_routes(&mut self, interface: &str, lost: impl Fn(&netnsd_api::Route) -> bool) {
        self.routes.retain(|known| {
            known.route.interface.as_ref().map(netnsd_api::InterfaceName::as_str) != Some(interface)
                || !lost(&known.route)
        });
    }
}
