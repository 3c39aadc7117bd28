//! Status board: the health of each resource, and its publication to readers.

use std::{collections::BTreeMap, sync::Arc};

use netnsd_api::{ResourceRef, State};

use super::{Entry, View, records::Records, render};
use crate::kernel::Observed;

/// Health of a resource, apart from what was observed of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Health {
    pub state: State,
    pub reason: Option<String>,
}

impl Health {
    /// Returns the health of a resource that is in sync.
    pub fn in_sync() -> Self {
        Self {
            state: State::InSync,
            reason: None,
        }
    }

    /// Returns the health of a resource in this state, for this reason.
    pub fn new(state: State, reason: impl Into<String>) -> Self {
        Self {
            state,
            reason: Some(reason.into()),
        }
    }

    /// Returns true if the resource is in sync, or waits for something outside of netnsd.
    pub fn is_settled(&self) -> bool {
        matches!(self.state, State::InSync | State::Pending)
    }
}

/// Health of all resources, and the view that readers see.
///
/// Resources have no health until they were first compared with the kernel.
#[derive(Debug)]
pub(super) struct StatusBoard {
    health: BTreeMap<ResourceRef, Health>,
    view: Arc<View>,
}

impl StatusBoard {
    /// Publishes the recorded resources as not yet compared.
    pub fn new(view: Arc<View>, records: &Records) -> Self {
        let health = Health::new(State::Pending, "not yet compared with the kernel");
        let entries = records
            .intent()
            .all()
            .map(|(_, record)| render::render_entry(record, &health, &Observed::default()))
            .collect();
        view.publish(entries, &[]);
        Self {
            health: BTreeMap::new(),
            view,
        }
    }

    /// Returns the health of a resource.
    pub fn health(&self, resource: &ResourceRef) -> Option<&Health> {
        self.health.get(resource)
    }

    /// Returns the state of a resource.
    pub fn state(&self, resource: &ResourceRef) -> Option<State> {
        self.health.get(resource).map(|health| health.state)
    }

    /// Returns true if a resource is in sync, or waits for something outside of netnsd.
    pub fn is_settled(&self, resource: &ResourceRef) -> bool {
        self.health
            .get(resource)
            .is_some_and(|health| health.is_settled())
    }

    /// Returns the resources that are not settled.
    pub fn unsettled(&self) -> impl Iterator<Item = (&ResourceRef, &Health)> {
        self.health
            .iter()
            .filter(|(_, health)| !health.is_settled())
    }

    /// Sets the health of a resource.
    pub fn set(&mut self, resource: &ResourceRef, health: Health) {
        self.health.insert(resource.clone(), health);
    }

    /// Forgets a resource that is no longer recorded.
    pub fn remove(&mut self, resource: &ResourceRef) {
        self.health.remove(resource);
    }

    /// Publishes these resources as they were observed; those that are not recorded are skipped.
    pub fn publish<'a>(
        &self,
        records: &Records,
        resources: impl IntoIterator<Item = &'a ResourceRef>,
        observed: &Observed,
    ) {
        let mut entries = Vec::new();
        for resource in resources {
            let Some(record) = records.get(resource) else {
                continue;
            };
            let health = self
                .health
                .get(resource)
                .cloned()
                .unwrap_or_else(Health::in_sync);
            entries.push(render::render_entry(record, &health, observed));
        }
        self.view.publish(entries, &[]);
    }

    /// Removes deleted resources from the view.
    pub fn unpublish(&self, deleted: &[ResourceRef]) {
        self.view.publish(Vec::new(), deleted);
    }

    /// Returns a resource as readers see it.
    pub fn entry(&self, resource: &ResourceRef) -> Option<Arc<Entry>> {
        self.view.get(resource.kind, &resource.name)
    }

    /// Returns true if all recorded resources were compared with the kernel since the start.
    pub fn is_ready(&self) -> bool {
        self.view.ready()
    }

    /// Notes that all recorded resources were compared with the kernel.
    pub fn set_ready(&self) {
        self.view.set_ready();
    }
}
