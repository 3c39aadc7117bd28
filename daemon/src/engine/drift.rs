//! Drift monitor: which resources foreign changes concern, when these are observed, and how often
//! each is repaired.
//!
//! Kernel events mark resources dirty; besides, all resources are scanned in turn. A resource that
//! drifts again and again is repaired ever more slowly.
//!
//! **Invariant:** no foreign process can make the engine spend all of its time on repairs: dirty
//! resources are observed at most every [`MIN_INTERVAL`], and in batches.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use netnsd_api::{EventType, Kind, Namespace, ResourceRef, SysctlKey};

use super::{
    DriftPolicy,
    devices::DeviceIndex,
    records::Records,
    workset::{Workset, namespace_ref},
};
use crate::{
    intent::Intent,
    kernel::{KernelEvent, LOOPBACK, Ns, NsChange},
    model::Spec,
};

/// Time from the first event to the observation: one change has several events.
const DEBOUNCE: Duration = Duration::from_millis(2);
/// Shortest time between two observations because of events.
const MIN_INTERVAL: Duration = Duration::from_millis(20);
/// Consecutive repairs made without delay; further ones back off exponentially.
const FREE_REPAIRS: u32 = 3;
/// First delay of the backoff.
const BACKOFF_START: Duration = Duration::from_millis(200);
/// Longest delay of the backoff.
const BACKOFF_LIMIT: Duration = Duration::from_secs(60);
/// Time without a repair after which the backoff starts again.
const BACKOFF_RESET: Duration = Duration::from_secs(10);
/// Resources that are compared at once because of events.
const MAX_BATCH: usize = 64;
/// Scan roots that are compared at once, with the resources in them.
const SCAN_BATCH: usize = 32;

/// Labels of the operations of a repair, in their order.
pub(super) type Operations = Vec<&'static str>;

/// Reason not to repair a resource now.
#[derive(Debug)]
pub(super) struct Hold {
    pub reason: String,
    /// Time of the next repair; `None` if the policy is to report only.
    pub until: Option<Instant>,
}

/// Part of a scan.
#[derive(Debug)]
pub(super) struct ScanBatch {
    /// Number of batches that a whole scan has.
    pub count: usize,
    /// Resources to compare.
    pub resources: BTreeSet<ResourceRef>,
}

/// Foreign changes, and the repairs that they caused.
#[derive(Debug)]
pub(super) struct DriftMonitor {
    policy: DriftPolicy,
    dirty: BTreeSet<ResourceRef>,
    /// Time at which the dirty resources are observed.
    dirty_due: Option<Instant>,
    last_observed: Option<Instant>,
    /// Repairs of each resource by their operations: the same ones again and again are a fight,
    /// different ones are not.
    repairs: BTreeMap<ResourceRef, BTreeMap<Operations, Repairs>>,
    /// Last scan root of the batch before; `None` at the start of a scan.
    scan_cursor: Option<ResourceRef>,
    next_scan: Instant,
    /// Names in `/run/netns` that netnsd does not manage; `None` before the first listing.
    foreign_netns: Option<BTreeSet<String>>,
}

/// Consecutive repairs of one resource by the same operations.
#[derive(Debug, Clone, Copy)]
struct Repairs {
    count: u32,
    last: Instant,
}

impl Repairs {
    /// Returns the time between the last repair and the next one.
    fn delay(self) -> Duration {
        match self.count.checked_sub(FREE_REPAIRS + 1) {
            None => Duration::ZERO,
            Some(further) => BACKOFF_START
                .saturating_mul(1 << further.min(16))
                .min(BACKOFF_LIMIT),
        }
    }
}

impl DriftMonitor {
    /// Returns a monitor whose first scan begins after an interval.
    pub fn new(policy: DriftPolicy) -> Self {
        Self {
            policy,
            dirty: BTreeSet::new(),
            dirty_due: None,
            last_observed: None,
            repairs: BTreeMap::new(),
            scan_cursor: None,
            next_scan: Instant::now() + policy.scan_interval.pause(1, Duration::ZERO),
            foreign_netns: None,
        }
    }

    /// Returns the time of the next observation.
    pub fn next_due(&self) -> Instant {
        self.dirty_due
            .map_or(self.next_scan, |due| due.min(self.next_scan))
    }

    /// Schedules a resource for observation.
    pub fn mark_dirty(&mut self, resource: ResourceRef) {
        self.dirty.insert(resource);
        if self.dirty_due.is_none() {
            let now = Instant::now();
            let earliest = self.last_observed.map_or(now, |last| last + MIN_INTERVAL);
            self.dirty_due = Some((now + DEBOUNCE).max(earliest));
        }
    }

    /// Takes the dirty resources that are due; at most [`MAX_BATCH`], so that writes do not wait
    /// for all of them.
    pub fn take_due(&mut self, now: Instant) -> BTreeSet<ResourceRef> {
        if self.dirty_due.is_none_or(|due| due > now) {
            return BTreeSet::new();
        }
        let later = self.dirty.iter().nth(MAX_BATCH).cloned();
        let later = later
            .map(|first| self.dirty.split_off(&first))
            .unwrap_or_default();
        self.dirty_due = (!later.is_empty()).then_some(now);
        std::mem::replace(&mut self.dirty, later)
    }

    /// Notes that the dirty resources that were taken are observed.
    pub fn note_observed(&mut self) {
        self.last_observed = Some(Instant::now());
    }

    /// Returns true if the next part of the scan is due.
    pub fn is_scan_due(&self, now: Instant) -> bool {
        self.next_scan <= now
    }

    /// Takes the next part of the scan: scan roots after the cursor, and what lives in them.
    pub fn take_scan_batch(&mut self, intent: &Intent) -> ScanBatch {
        let after = self.scan_cursor.take();
        let roots: Vec<ResourceRef> = intent
            .leading()
            .filter(|root| {
                after
                    .as_ref()
                    .is_none_or(|after| *root > (after.kind, &after.name))
            })
            .take(SCAN_BATCH)
            .map(|(kind, name)| ResourceRef::new(kind, name.clone()))
            .collect();
        let dependents = roots
            .iter()
            .filter(|root| root.kind == Kind::Namespace)
            .flat_map(|root| intent.dependents(root));
        let resources = dependents.chain(roots.iter().cloned()).collect();
        self.scan_cursor = roots.last().filter(|_| roots.len() == SCAN_BATCH).cloned();
        ScanBatch {
            count: intent.leading().count().div_ceil(SCAN_BATCH),
            resources,
        }
    }

    /// Schedules the next part of a scan of so many parts, of which the last one took this long.
    pub fn schedule_scan(&mut self, count: usize, took: Duration) {
        let count = u32::try_from(count).unwrap_or(u32::MAX).max(1);
        self.next_scan = Instant::now() + self.policy.scan_interval.pause(count, took);
    }

    /// Marks the resources that a kernel event concerns, except those of a workset that is being
    /// observed anyway; `netns_names` lists `/run/netns` if the event says that names were lost.
    /// Returns the foreign namespaces that came or went.
    pub fn handle_event(
        &mut self,
        event: KernelEvent,
        netns_names: Vec<String>,
        records: &Records,
        devices: &DeviceIndex,
        in_work: &Workset,
    ) -> Vec<(EventType, String)> {
        let mut foreign = Vec::new();
        let affected = match event {
            KernelEvent::Appeared(name) => {
                let affected = affected_by_name(&name, records);
                if !records.manages_namespace(&name)
                    && self
                        .foreign_netns
                        .get_or_insert_default()
                        .insert(name.clone())
                {
                    foreign.push((EventType::Appeared, name));
                }
                affected
            }
            KernelEvent::Disappeared(name) => {
                let affected = affected_by_name(&name, records);
                if self.foreign_netns.get_or_insert_default().remove(&name)
                    && !records.manages_namespace(&name)
                {
                    foreign.push((EventType::Disappeared, name));
                }
                affected
            }
            KernelEvent::NamesLost => {
                let names = netns_names.into_iter().collect();
                self.compare_netns_names(&names, records, &mut foreign)
            }
            KernelEvent::Changed(ns, change) => affected_by_change(&ns, &change, records, devices),
        };
        for resource in affected {
            if !in_work.contains(&resource) {
                self.mark_dirty(resource);
            }
        }
        foreign
    }

    /// Compares the names in `/run/netns` with those known before: adds the foreign ones that came
    /// or went, except at the first time, and returns the managed ones that are missing.
    fn compare_netns_names(
        &mut self,
        names: &BTreeSet<String>,
        records: &Records,
        changes: &mut Vec<(EventType, String)>,
    ) -> Vec<ResourceRef> {
        let foreign: BTreeSet<String> = names
            .iter()
            .filter(|name| !records.manages_namespace(name))
            .cloned()
            .collect();
        if let Some(before) = self.foreign_netns.replace(foreign.clone()) {
            for name in foreign.difference(&before) {
                changes.push((EventType::Appeared, name.clone()));
            }
            for name in before.difference(&foreign) {
                if !records.manages_namespace(name) {
                    changes.push((EventType::Disappeared, name.clone()));
                }
            }
        }
        records
            .intent()
            .all()
            .map(|(resource, _)| resource)
            .filter(|resource| {
                resource.kind == Kind::Namespace && !names.contains(resource.name.as_str())
            })
            .collect()
    }

    /// Returns why a resource is not repaired now by these operations; `None` if it is.
    pub fn find_hold(&self, resource: &ResourceRef, operations: &Operations) -> Option<Hold> {
        if !self.policy.repair {
            return Some(Hold {
                reason: "drifted; not repaired because repair = \"report\"".into(),
                until: None,
            });
        }
        let repairs = self.repairs.get(resource)?.get(operations)?;
        let due = repairs.last + repairs.delay();
        (due > Instant::now()).then(|| {
            let (count, seconds) = (repairs.count, repairs.delay().as_secs_f64());
            Hold {
                reason: format!("drifted again after {count} repairs; next repair in {seconds} s"),
                until: Some(due),
            }
        })
    }

    /// Counts a repair. The first of a series is logged as a warning, and so is the first one that
    /// backs off.
    pub fn note_repair(&mut self, resource: &ResourceRef, operations: &Operations) {
        let now = Instant::now();
        let all = self.repairs.entry(resource.clone()).or_default();
        all.retain(|_, repairs| now <= repairs.last + BACKOFF_RESET.max(repairs.delay() * 4));
        let repairs = all.entry(operations.clone()).or_insert(Repairs {
            count: 0,
            last: now,
        });
        *repairs = Repairs {
            count: repairs.count + 1,
            last: now,
        };
        let operations = operations.join(" ");
        match repairs.count {
            1 => tracing::warn!(%resource, operations, "drift repaired"),
            count if count == FREE_REPAIRS + 1 => {
                tracing::warn!(%resource, operations, "drift recurring; backing off");
            }
            _ => tracing::debug!(%resource, operations, "drift repaired"),
        }
    }

    /// Forgets the repairs of a resource that is no longer recorded.
    pub fn forget(&mut self, resource: &ResourceRef) {
        self.repairs.remove(resource);
    }
}

/// Returns the namespace of this name and what lives in it, if netnsd manages it.
fn affected_by_name(name: &str, records: &Records) -> Vec<ResourceRef> {
    if !records.manages_namespace(name) {
        return Vec::new();
    }
    let Ok(name) = name.parse() else {
        return Vec::new();
    };
    let namespace = ResourceRef::new(Kind::Namespace, name);
    let dependents = records.intent().dependents(&namespace);
    std::iter::once(namespace).chain(dependents).collect()
}

/// Returns the resources that a change in a namespace concerns.
fn affected_by_change(
    ns: &Ns,
    change: &NsChange,
    records: &Records,
    devices: &DeviceIndex,
) -> Vec<ResourceRef> {
    let intent = records.intent();
    let mut affected: Vec<ResourceRef> = match change {
        NsChange::Link { index, name, .. } => {
            let by_index = devices.owner(ns, *index).cloned();
            let by_name = intent.owner(ns, name);
            let bridges = devices.mtu_followers_in(ns).cloned();
            let uppers = intent.uppers_of_device(ns, name).iter().cloned();
            let tunnels = intent.tunnels(ns).iter().cloned();
            let own = by_index.into_iter().chain(by_name);
            own.chain(bridges).chain(uppers).chain(tunnels).collect()
        }
        NsChange::Address(index) => {
            let owner = devices.owner(ns, *index);
            owner
                .into_iter()
                .chain(intent.tunnels(ns))
                .cloned()
                .collect()
        }
        NsChange::Routes => intent.tunnels(ns).to_vec(),
        NsChange::Rules | NsChange::Neighbours | NsChange::Sysctls => Vec::new(),
        NsChange::Everything => match ns.name() {
            Some(name) => intent.dependents(&namespace_ref(name)),
            None => intent.all().map(|(resource, _)| resource).collect(),
        },
    };
    if let Some(name) = ns.name()
        && let namespace = namespace_ref(name)
        && let Some(Spec::Namespace(spec)) = records.spec(&namespace)
        && concerns_namespace(spec, change)
    {
        affected.push(namespace);
    }
    affected
}

/// Returns true if a change may concern what the namespace itself is asked for: `lo`, and routes,
/// neighbours and sysctls, which depend on links.
fn concerns_namespace(spec: &Namespace, change: &NsChange) -> bool {
    let has_contents =
        !(spec.routes.is_empty() && spec.neighbours.is_empty() && spec.sysctls.is_empty());
    match change {
        NsChange::Link {
            index: LOOPBACK, ..
        }
        | NsChange::Address(LOOPBACK)
        | NsChange::Everything => true,
        NsChange::Link {
            presence_changed,
            name,
            ..
        } => {
            // The kernel resets some sysctls when a carrier comes or the MTU changes, and forgets
            // all of them with an MTU that is too small for IPv6 (`addrconf_notify()`,
            // net/ipv6/addrconf.c).
            let has_sysctls = spec
                .sysctls
                .keys()
                .any(|key: &SysctlKey| key.is_ipv6() && key.interface().as_ref() == Some(name));
            *presence_changed && has_contents || has_sysctls
        }
        NsChange::Address(_) => has_contents,
        NsChange::Routes => !spec.routes.is_empty(),
        NsChange::Rules => !spec.rules.is_empty(),
        NsChange::Neighbours => !spec.neighbours.is_empty(),
        NsChange::Sysctls => !spec.sysctls.is_empty(),
    }
}
