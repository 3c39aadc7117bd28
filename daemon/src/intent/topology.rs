//! A whole document of resources, weighed as one change.

use std::collections::BTreeSet;

use jiff::Timestamp;
use netnsd_api::{Code, FieldError, ResourceRef};

use super::{Intent, IntentError};
use crate::{
    access::{Caller, authorize},
    model::{ChangeKind, Decision, Document, DocumentItem, Precondition, Record, tag_versions},
};

impl Intent {
    /// Checks conditions on the resources that a document's request selects.
    pub(super) fn check_network(
        &self,
        preconditions: &[Precondition],
        document: &Document,
    ) -> Result<(), IntentError> {
        if preconditions.is_empty() {
            return Ok(());
        }
        let selected = self
            .all()
            .map(|(_, record)| record)
            .filter(|record| (document.selects)(&record.spec));
        let etag = tag_versions(selected.map(Record::version));
        if preconditions
            .iter()
            .all(|precondition| precondition.holds(Some(&etag)))
        {
            Ok(())
        } else {
            Err(IntentError::NetworkChanged { etag })
        }
    }

    /// Validates a document. Its resources are checked as they will be among each other: all of
    /// them are set, checked, and rolled back.
    pub(super) fn decide_topology(
        &mut self,
        caller: &Caller,
        document: &Document,
        now: Timestamp,
        new_uid: &dyn Fn() -> String,
    ) -> Result<Decision, IntentError> {
        let mut named = BTreeSet::new();
        for placed in &document.specs {
            if !named.insert(placed.spec.resource()) {
                let detail = format!("{} is given twice in this document", placed.spec.resource());
                let error = FieldError::new(Code::Duplicate, "/name", detail);
                return Err(IntentError::from(error).in_document(placed));
            }
        }
        // A resource that loses its label by the document is still one of it.
        let selected = |placed: &&DocumentItem| {
            let recorded = self.spec(&placed.spec.resource());
            let mut specs = recorded.into_iter().chain([&placed.spec]);
            specs.any(|spec| (document.selects)(spec))
        };
        let specs: Vec<&DocumentItem> = document.specs.iter().filter(selected).collect();
        let unwanted = |(resource, record): &(ResourceRef, &Record)| {
            document.prune && !named.contains(resource) && (document.selects)(&record.spec)
        };
        let deleted: Vec<ResourceRef> = self
            .all()
            .filter(unwanted)
            .map(|(resource, _)| resource)
            .collect();

        let mut before = Vec::new();
        let result = self.put_in_place(caller, &specs, &deleted, now, new_uid, &mut before);
        for (resource, record) in before.into_iter().rev() {
            self.set(&resource, record);
        }
        result
    }

    fn put_in_place(
        &mut self,
        caller: &Caller,
        specs: &[&DocumentItem],
        deleted: &[ResourceRef],
        now: Timestamp,
        new_uid: &dyn Fn() -> String,
        before: &mut Vec<(ResourceRef, Option<Record>)>,
    ) -> Result<Decision, IntentError> {
        let mut decision = Decision {
            named: Vec::new(),
            changes: Vec::new(),
        };
        for resource in deleted {
            before.push((resource.clone(), self.set(resource, None)));
            decision.named.push((resource.clone(), ChangeKind::Deleted));
            decision.changes.push((resource.clone(), None));
        }
        // Names are chosen last, beside those that were asked for.
        let (unnamed, whole): (Vec<&DocumentItem>, Vec<&DocumentItem>) =
            specs.iter().partition(|placed| has_unnamed_end(placed));
        let mut changed = Vec::new();
        for placed in whole.into_iter().chain(unnamed) {
            let resource = placed.spec.resource();
            let mut spec = placed.spec.clone();
            let current = self.get(&resource);
            self.complete(&mut spec, current.map(|record| &*record.spec))
                .map_err(|error| error.in_document(placed))?;
            let (did, record) = self.next(current, spec, now, new_uid);
            decision.named.push((resource.clone(), did));
            if let Some(record) = record {
                authorize::check_host_use(caller, &record.spec)
                    .map_err(|error| IntentError::from(error).in_document(placed))?;
                before.push((resource.clone(), self.set(&resource, Some(record.clone()))));
                decision.changes.push((resource, Some(record)));
                changed.push(placed);
            }
        }
        for placed in changed {
            let resource = placed.spec.resource();
            if let Some(record) = self.get(&resource) {
                let owner = self.lower_owner(&record.spec);
                authorize::check_base_use(caller, &record.spec, owner)
                    .map_err(|error| IntentError::from(error).in_document(placed))?;
                self.check(&resource, &record.spec)
                    .map_err(|error| error.in_document(placed))?;
            }
        }
        for resource in deleted {
            let mut dependents = self.dependents(resource);
            let old = before.iter().find(|(other, _)| other == resource);
            if let Some(old) = old.and_then(|(_, record)| record.as_ref()) {
                dependents.extend(self.uppers_without_lower(&old.spec));
            }
            // Where the document itself says so, the mistake is there.
            for placed in specs
                .iter()
                .filter(|placed| dependents.contains(&placed.spec.resource()))
            {
                self.check(&placed.spec.resource(), &placed.spec)
                    .map_err(|error| error.in_document(placed))?;
            }
            if !dependents.is_empty() {
                return Err(IntentError::InUse {
                    resource: resource.clone(),
                    dependents,
                    way_out: "the document must name it, or not leave those behind",
                });
            }
        }
        decision.named.sort();
        Ok(decision)
    }
}

fn has_unnamed_end(placed: &DocumentItem) -> bool {
    let mut ends = placed.spec.endpoints().iter();
    ends.any(|end| end.interface.is_none())
}
