//! Everything recorded, in memory: the intent, and tombstones of what was deleted but may still be
//! in the kernel.
//!
//! **Invariant:** the intent is changed only by the writes of a batch ([`Records::apply`]) and by
//! rolling them back; everything else changes only what a record remembers of the kernel.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use jiff::Timestamp;
use netnsd_api::{Kind, ResourceRef, SysctlKey};

use super::Write;
use crate::{
    intent::{Intent, IntentError},
    kernel::{Ns, Observed},
    model::{Decision, Leftovers, MachineKey, Record, Row, Spec},
    plan::{self, Plan},
    store::RowChange,
};

/// Changes of rows, by uid.
pub(super) type RowChanges = BTreeMap<String, RowChange>;

/// Records that changes replaced, in the order of the changes; `None` where there was none.
pub(super) type Previous = Vec<(ResourceRef, Option<Record>)>;

/// Deleted resource that may still be in the kernel.
#[derive(Debug, Clone)]
pub(super) struct Tombstone {
    /// Intents of which there may be something left.
    pub applied: Vec<Spec>,
    /// Values of sysctls before netnsd set them.
    pub prior: BTreeMap<SysctlKey, String>,
}

/// Intent and tombstones.
#[derive(Debug)]
pub(super) struct Records {
    intent: Intent,
    /// By kind, name and uid.
    tombstones: BTreeMap<(ResourceRef, String), Tombstone>,
}

impl Records {
    /// Builds the records from rows of the database.
    pub fn load(key: MachineKey, rows: Vec<Row>) -> Self {
        let mut records = Self {
            intent: Intent::new(key),
            tombstones: BTreeMap::new(),
        };
        for row in rows {
            records.insert(row);
        }
        records.complete_macs();
        records
    }

    fn insert(&mut self, row: Row) {
        let Row {
            uid,
            kind,
            name,
            generation,
            created_at,
            updated_at,
            desired,
            applied,
            prior,
            adopt,
            macs,
        } = row;
        let resource = ResourceRef::new(kind, name);
        let Some(spec) = desired else {
            self.tombstones
                .insert((resource, uid), Tombstone { applied, prior });
            return;
        };
        let keep_macs = macs.len() != spec.devices().count();
        let record = Record {
            uid,
            generation,
            created_at,
            updated_at,
            spec,
            applied,
            prior,
            adopt,
            macs,
            keep_macs,
        };
        self.intent.set(&resource, Some(record));
    }

    /// Derives MAC addresses for resources from before they were recorded, once all that are
    /// recorded are known. Devices that are in the kernel keep those that they have.
    fn complete_macs(&mut self) {
        let incomplete: Vec<ResourceRef> = self
            .intent
            .all()
            .filter(|(_, record)| record.keep_macs)
            .map(|(resource, _)| resource)
            .collect();
        for resource in incomplete {
            if let Some(spec) = self.intent.spec(&resource) {
                let macs = self.intent.derive_macs(spec);
                self.intent.set_macs(&resource, &macs);
            }
        }
    }

    /// Returns the intent.
    pub fn intent(&self) -> &Intent {
        &self.intent
    }

    /// Returns the record of a resource; `None` if it is not recorded, or deleted.
    pub fn get(&self, resource: &ResourceRef) -> Option<&Record> {
        self.intent.get(resource)
    }

    /// Returns the intent of a resource.
    pub fn spec(&self, resource: &ResourceRef) -> Option<&Spec> {
        self.intent.spec(resource)
    }

    /// Returns the tombstones of a kind and name, with their uids.
    pub fn tombstones(&self, resource: &ResourceRef) -> impl Iterator<Item = (&str, &Tombstone)> {
        self.tombstones
            .range((resource.clone(), String::new())..)
            .take_while(move |((of, _), _)| of == resource)
            .map(|((_, uid), tombstone)| (uid.as_str(), tombstone))
    }

    /// Returns every resource that is recorded or has a tombstone.
    pub fn all_resources(&self) -> BTreeSet<ResourceRef> {
        let recorded = self.intent.all().map(|(resource, _)| resource);
        recorded
            .chain(self.tombstones.keys().map(|(resource, _)| resource.clone()))
            .collect()
    }

    /// Returns true if a namespace of this name is recorded or has a tombstone.
    pub fn manages_namespace(&self, name: &str) -> bool {
        let Ok(name) = name.parse() else { return false };
        let resource = ResourceRef::new(Kind::Namespace, name);
        self.intent.get(&resource).is_some() || self.tombstones(&resource).next().is_some()
    }

    /// Validates a write against the intent, and returns the changes that it comes to.
    ///
    /// # Errors
    /// The reason to refuse the write.
    pub fn validate_write(&mut self, write: &Write) -> Result<Decision, IntentError> {
        self.intent
            .validate_write(&write.proposal(), Timestamp::now(), &new_uid)
    }

    /// Makes the changes of a validated write, and returns what they replaced. A deleted resource
    /// leaves a tombstone.
    pub fn apply(&mut self, changes: &[(ResourceRef, Option<Record>)]) -> Previous {
        let mut previous = Vec::new();
        for (resource, record) in changes {
            let old = self.intent.set(resource, record.clone());
            if let (Some(old), None) = (&old, record) {
                let mut applied = old.applied.clone();
                applied.push(Spec::clone(&old.spec));
                let tombstone = Tombstone {
                    applied,
                    prior: old.prior.clone(),
                };
                self.tombstones
                    .insert((resource.clone(), old.uid.clone()), tombstone);
            }
            previous.push((resource.clone(), old));
        }
        previous
    }

    /// Rolls changes back. Resources for which `may_remain` is true may have left something in the
    /// kernel, which is remembered with their record or as a tombstone.
    pub fn roll_back(&mut self, previous: &Previous, may_remain: impl Fn(&ResourceRef) -> bool) {
        for (resource, before) in previous.iter().rev() {
            let after = self.intent.set(resource, before.clone());
            if let Some(before) = before {
                self.tombstones
                    .remove(&(resource.clone(), before.uid.clone()));
            }
            let Some(after) = after.filter(|_| may_remain(resource)) else {
                continue;
            };
            match self.intent.leftovers_mut(resource) {
                Some(Leftovers { applied, prior, .. }) => {
                    applied.push(Arc::unwrap_or_clone(after.spec));
                    prior.extend(after.prior);
                }
                None => {
                    let tombstone = Tombstone {
                        applied: vec![Arc::unwrap_or_clone(after.spec)],
                        prior: after.prior,
                    };
                    self.tombstones
                        .insert((resource.clone(), after.uid), tombstone);
                }
            }
        }
    }

    /// Adds the row changes of a resource whose record was `previous`.
    pub fn add_row_changes(
        &self,
        resource: &ResourceRef,
        previous: Option<&Record>,
        changes: &mut RowChanges,
    ) {
        if let Some(record) = self.intent.get(resource) {
            changes.insert(record.uid.clone(), RowChange::Put(Box::new(record.row())));
        }
        let Some(previous) = previous else { return };
        let key = (resource.clone(), previous.uid.clone());
        if let Some(tombstone) = self.tombstones.get(&key) {
            let row = Row {
                desired: None,
                applied: tombstone.applied.clone(),
                prior: tombstone.prior.clone(),
                ..previous.row()
            };
            changes.insert(previous.uid.clone(), RowChange::Put(Box::new(row)));
        } else if self.intent.get(resource).is_none() {
            changes.insert(
                previous.uid.clone(),
                RowChange::Delete(previous.uid.clone()),
            );
        }
    }

    /// Saves the MAC addresses that a plan chose for devices; they are recorded with their
    /// resource.
    pub fn save_macs(&mut self, plan: &Plan) {
        for (resource, macs) in &plan.macs {
            self.intent.set_macs(resource, macs);
        }
    }

    /// Saves the observed values of the sysctls that a plan sets for the first time: recorded
    /// before they are replaced, they survive a crash in between. Returns the namespaces whose rows
    /// changed.
    pub fn save_prior_sysctls(
        &mut self,
        plan: &Plan,
        observed: &Observed,
    ) -> BTreeSet<ResourceRef> {
        let mut changed = BTreeSet::new();
        for step in &plan.steps {
            let Some((name, key)) = step.op.written_sysctl() else {
                continue;
            };
            let seen = observed.namespaces.get(&Ns::Named(name.clone()));
            let Some(value) = seen.and_then(|seen| seen.sysctls.get(key)) else {
                continue;
            };
            let resource = ResourceRef::new(Kind::Namespace, name.clone());
            if self.save_prior_sysctl(&resource, key.clone(), value.clone()) {
                changed.insert(resource);
            }
        }
        changed
    }

    /// Saves the value that a sysctl had before netnsd first set it; returns true if none was
    /// saved yet, so that the resource's row has to be written.
    pub fn save_prior_sysctl(
        &mut self,
        resource: &ResourceRef,
        key: SysctlKey,
        value: String,
    ) -> bool {
        let Some(left) = self.intent.leftovers_mut(resource) else {
            return false;
        };
        // An interface begins with the value of `default`, which netnsd may have set by now.
        let default = key.at("default").filter(|_| key.interface().is_some());
        let value = default
            .and_then(|default| left.prior.get(&default).cloned())
            .unwrap_or(value);
        let Entry::Vacant(first) = left.prior.entry(key) else {
            return false;
        };
        first.insert(value);
        true
    }

    /// Removes the tombstones of a kind and name, whose devices are out of the kernel; returns
    /// their uids.
    pub fn remove_tombstones(&mut self, resource: &ResourceRef) -> Vec<String> {
        let uids: Vec<String> = self
            .tombstones(resource)
            .map(|(uid, _)| uid.to_owned())
            .collect();
        for uid in &uids {
            self.tombstones.remove(&(resource.clone(), uid.clone()));
        }
        uids
    }

    /// Clears what is remembered of earlier intents, except for settings that last as long as the
    /// device, unless this work made it (`is_new`). Nothing is left to adopt either. Returns true
    /// if the row changed.
    pub fn clear_leftovers(&mut self, resource: &ResourceRef, is_new: bool) -> bool {
        let Some(record) = self.intent.get(resource) else {
            return false;
        };
        let lasting = if is_new {
            None
        } else {
            plan::lasting(&record.spec, &record.applied)
        };
        if record.applied.iter().eq(&lasting) && !record.adopt && !record.keep_macs {
            return false;
        }
        let Some(left) = self.intent.leftovers_mut(resource) else {
            return false;
        };
        *left.applied = lasting.into_iter().collect();
        *left.adopt = false;
        *left.keep_macs = false;
        true
    }
}

fn new_uid() -> String {
    uuid::Uuid::now_v7().to_string()
}
