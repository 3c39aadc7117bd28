//! Validation of writes: the records that a write leads to, or the reason to refuse it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use netnsd_api::{Code, FieldError, InterfaceName, Kind, Name, ResourceRef, Veth};

use super::{Intent, IntentError};
use crate::{
    access::{Caller, authorize},
    kernel::Ns,
    model::{Change, ChangeKind, Decision, Precondition, Record, Spec},
};

/// Part of a write that its validation depends on.
#[derive(Debug, Clone, Copy)]
pub struct Proposal<'w> {
    /// Change asked for.
    pub change: &'w Change,
    /// Conditions, all of which must hold.
    pub preconditions: &'w [Precondition],
    /// True to adopt the devices that others made at its locations.
    pub adopt: bool,
    /// Sender of the request.
    pub caller: &'w Caller,
}

impl Intent {
    /// Returns the records that a write leads to.
    ///
    /// # Errors
    /// The reason to refuse it: a precondition, a reference, a name that is taken, a field, a right
    /// of the caller.
    pub fn validate_write(
        &mut self,
        write: &Proposal<'_>,
        now: Timestamp,
        new_uid: &dyn Fn() -> String,
    ) -> Result<Decision, IntentError> {
        // Before any record is read: the answer must not depend on resources that the caller may
        // not access.
        authorize::check_request(write.caller, write.change)?;
        let mut decision = self.find_changes(write, now, new_uid)?;
        authorize::check_decision(write.caller, &decision, write.adopt)?;
        if write.adopt {
            self.mark_for_adoption(&mut decision);
        }
        Ok(decision)
    }

    /// Marks the resources that a write names for adoption, also if nothing else of them changes.
    fn mark_for_adoption(&self, decision: &mut Decision) {
        for (resource, did) in &decision.named {
            if let (ChangeKind::Unchanged, Some(record)) = (did, self.get(resource)) {
                decision
                    .changes
                    .push((resource.clone(), Some(record.clone())));
            }
        }
        for record in decision
            .changes
            .iter_mut()
            .filter_map(|(_, record)| record.as_mut())
        {
            record.adopt = true;
        }
    }

    fn find_changes(
        &mut self,
        write: &Proposal<'_>,
        now: Timestamp,
        new_uid: &dyn Fn() -> String,
    ) -> Result<Decision, IntentError> {
        match write.change {
            Change::Create(spec) => {
                let spec = self.named(spec.clone());
                let resource = spec.resource();
                check_preconditions(write.preconditions, self.get(&resource))?;
                if self.get(&resource).is_some() {
                    return Err(IntentError::AlreadyExists(resource));
                }
                self.decide_put(write.caller, spec, now, new_uid)
            }
            Change::Put(spec) => {
                check_preconditions(write.preconditions, self.get(&spec.resource()))?;
                self.decide_put(write.caller, spec.clone(), now, new_uid)
            }
            Change::Edit(resource, edit) => {
                let record = self.recorded(resource)?;
                check_preconditions(write.preconditions, Some(record))?;
                let spec = edit(&record.spec)?;
                authorize::check_references(write.caller, &spec)?;
                self.decide_put(write.caller, spec, now, new_uid)
            }
            Change::Delete { resource, cascade } => {
                let record = self.recorded(resource)?;
                check_preconditions(write.preconditions, Some(record))?;
                self.decide_delete(resource, *cascade, now)
            }
            Change::Topology(document) => {
                self.check_network(write.preconditions, document)?;
                self.decide_topology(write.caller, document, now, new_uid)
            }
        }
    }

    fn recorded(&self, resource: &ResourceRef) -> Result<&Record, IntentError> {
        self.get(resource)
            .ok_or_else(|| IntentError::NotFound(resource.clone()))
    }

    /// Gives a veth pair that was sent without a name the first free one.
    fn named(&self, mut spec: Spec) -> Spec {
        if let Spec::Veth(veth) = &mut spec
            && veth.name.is_unset()
        {
            veth.name = self
                .index
                .free_pairs()
                .find_map(|name| name.parse().ok())
                .unwrap_or_else(Name::unset);
        }
        spec
    }

    fn decide_put(
        &self,
        caller: &Caller,
        mut spec: Spec,
        now: Timestamp,
        new_uid: &dyn Fn() -> String,
    ) -> Result<Decision, IntentError> {
        let resource = spec.resource();
        let current = self.get(&resource);
        self.complete(&mut spec, current.map(|record| &*record.spec))?;
        let (did, record) = self.next(current, spec, now, new_uid);
        if let Some(record) = &record {
            // First: what is taken on the host already is not for all to know.
            authorize::check_host_use(caller, &record.spec)?;
            authorize::check_base_use(caller, &record.spec, self.lower_owner(&record.spec))?;
            self.check(&resource, &record.spec)?;
        }
        let changes = record
            .map(|record| (resource.clone(), Some(record)))
            .into_iter()
            .collect();
        Ok(Decision {
            named: vec![(resource, did)],
            changes,
        })
    }

    /// Fills in what the daemon chooses: device names; and keeps what is of creation only.
    pub(super) fn complete(
        &self,
        spec: &mut Spec,
        current: Option<&Spec>,
    ) -> Result<(), IntentError> {
        match (spec, current) {
            (Spec::Namespace(spec), Some(Spec::Namespace(current))) => {
                if spec.attach.is_some() && spec.attach != current.attach {
                    let detail = format!(
                        "namespace {} exists already: attach is for its creation only",
                        spec.name
                    );
                    return Err(FieldError::new(Code::InvalidField, "/attach", detail).into());
                }
                spec.attach.clone_from(&current.attach);
            }
            (Spec::Bridge(spec), _) if spec.interface.is_none() => {
                spec.interface = spec.name.as_str().parse().ok()
            }
            (Spec::Link(spec), _) if spec.device.interface.is_none() => {
                spec.device.interface = spec.name.as_str().parse().ok()
            }
            (Spec::Veth(spec), current) => {
                let current = match current {
                    Some(Spec::Veth(current)) => Some(current),
                    _ => None,
                };
                self.name_ends(spec, current);
            }
            _ => {}
        }
        Ok(())
    }

    fn name_ends(&self, spec: &mut Veth, current: Option<&Veth>) {
        let resource = ResourceRef::new(Kind::Veth, spec.name.clone());
        for end in 0..2 {
            if spec.endpoints[end].interface.is_some() {
                continue;
            }
            let ns = Ns::of(spec.endpoints[end].namespace.as_ref());
            let kept = current.and_then(|current| current.endpoints[end].interface.clone());
            let other = &spec.endpoints[1 - end];
            let taken_by_other = |name: &InterfaceName| {
                Ns::of(other.namespace.as_ref()) == ns && other.interface.as_ref() == Some(name)
            };
            let free = |name: &InterfaceName| {
                !taken_by_other(name)
                    && self
                        .index
                        .interface(&ns, name.as_str(), &resource)
                        .is_none()
            };
            let unclaimed = || {
                self.index
                    .free_devices(&ns)
                    .filter_map(|name| name.parse().ok())
            };
            let automatic = || unclaimed().find(|name| !taken_by_other(name));
            spec.endpoints[end].interface = kept.filter(free).or_else(automatic);
        }
    }

    fn decide_delete(
        &self,
        resource: &ResourceRef,
        cascade: bool,
        now: Timestamp,
    ) -> Result<Decision, IntentError> {
        let dependents = self.users(resource);
        if !dependents.is_empty() && !cascade {
            let way_out = match resource.kind {
                Kind::Bridge if dependents == self.dependents(resource) => {
                    "?cascade=true lets them go"
                }
                Kind::Bridge => "?cascade=true lets its ports go, and deletes what is on it",
                Kind::Namespace | Kind::Veth | Kind::Link => "?cascade=true deletes them too",
            };
            return Err(IntentError::InUse {
                resource: resource.clone(),
                dependents,
                way_out,
            });
        }
        let along = self.deleted_along(resource);
        let mut changes = Vec::new();
        // A bridge lets its ports go.
        for port in self.dependents(resource) {
            if let Some(old) = self.get(&port).filter(|_| !along.contains(&port)) {
                changes.push((port, Some(release(old, &resource.name, now))));
            }
        }
        changes.extend(along.into_iter().map(|other| (other, None)));
        changes.push((resource.clone(), None));
        Ok(Decision {
            named: vec![(resource.clone(), ChangeKind::Deleted)],
            changes,
        })
    }

    /// Returns the resources that are deleted with one, `?cascade=true`: what is in a namespace or
    /// goes through it, what is on devices that are deleted, and what is on those.
    fn deleted_along(&self, resource: &ResourceRef) -> BTreeSet<ResourceRef> {
        let mut along = BTreeSet::new();
        let mut waiting = vec![resource.clone()];
        while let Some(next) = waiting.pop() {
            let lost = match next.kind {
                Kind::Namespace => self.users(&next),
                Kind::Bridge | Kind::Veth | Kind::Link => {
                    let uppers = self.spec(&next).map(|spec| self.uppers(spec).cloned());
                    uppers.into_iter().flatten().collect()
                }
            };
            waiting.extend(lost.into_iter().filter(|lost| along.insert(lost.clone())));
        }
        along
    }

    /// Returns the record that a resource becomes; `None` if its intent is this already.
    pub(super) fn next(
        &self,
        current: Option<&Record>,
        spec: Spec,
        now: Timestamp,
        new_uid: &dyn Fn() -> String,
    ) -> (ChangeKind, Option<Record>) {
        match current {
            Some(current) if *current.spec == spec => (ChangeKind::Unchanged, None),
            Some(current) => {
                let mut record = updated(current, spec, now);
                if record.spec.has_own_macs() == record.macs.is_empty() {
                    record.macs = self.derive_macs(&record.spec);
                }
                (ChangeKind::Updated, Some(record))
            }
            None => {
                let macs = self.derive_macs(&spec);
                let record = Record {
                    uid: new_uid(),
                    generation: 1,
                    created_at: now,
                    updated_at: now,
                    spec: Arc::new(spec),
                    applied: Vec::new(),
                    prior: BTreeMap::new(),
                    adopt: false,
                    macs,
                    keep_macs: false,
                };
                (ChangeKind::Created, Some(record))
            }
        }
    }
}

fn updated(old: &Record, spec: Spec, now: Timestamp) -> Record {
    let mut applied = old.applied.clone();
    applied.push(Spec::clone(&old.spec));
    Record {
        spec: Arc::new(spec),
        generation: old.generation + 1,
        updated_at: now,
        applied,
        ..old.clone()
    }
}

/// Returns the record with none of its devices a port of this bridge.
fn release(old: &Record, bridge: &Name, now: Timestamp) -> Record {
    let mut spec = Spec::clone(&old.spec);
    for end in spec.endpoints_mut() {
        if end.bridge.as_ref() == Some(bridge) {
            end.bridge = None;
            end.port = netnsd_api::Port::default();
        }
    }
    updated(old, spec, now)
}

fn check_preconditions(
    preconditions: &[Precondition],
    current: Option<&Record>,
) -> Result<(), IntentError> {
    let etag = current.map(|record| record.generation.to_string());
    if preconditions
        .iter()
        .all(|precondition| precondition.holds(etag.as_deref()))
    {
        Ok(())
    } else {
        Err(IntentError::PreconditionFailed { etag })
    }
}
