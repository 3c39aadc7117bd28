//! Checks a write against the rights of its caller: role, name prefix and rights on the host.

use netnsd_api::Role;

use super::{AccessError, Caller};
pub use super::{host_access::check_host_use, uplink::check_base_use};
use crate::model::{Change, ChangeKind, Decision, DocumentItem, Spec};

/// Checks the names and references of a change as it was sent, without looking at recorded
/// resources.
///
/// # Errors
/// The right that is missing, the same for a resource that exists and for one that does not.
pub fn check_request(caller: &Caller, change: &Change) -> Result<(), AccessError> {
    match change {
        Change::Create(Spec::Veth(veth)) if caller.is_scoped() && veth.name.is_unset() => {
            Err(AccessError::NameNotGiven {
                caller: caller.name.clone(),
                prefix: caller.prefix.clone(),
            })
        }
        Change::Create(spec) | Change::Put(spec) => check_references(caller, spec),
        Change::Edit(resource, _) | Change::Delete { resource, .. }
            if !caller.can_access(resource.name.as_str()) =>
        {
            Err(caller.out_of_scope(resource))
        }
        // The result of an edit is checked once it is computed: it depends on the caller's own
        // resource only.
        Change::Edit(..) | Change::Delete { .. } => Ok(()),
        Change::Topology(document) => {
            let check = |item: &DocumentItem| {
                check_references(caller, &item.spec).map_err(|error| error.in_document(item))
            };
            document.specs.iter().try_for_each(check)
        }
    }
}

/// Checks a spec's name and references against the caller's prefix.
///
/// # Errors
/// The first one that is out of scope.
pub fn check_references(caller: &Caller, spec: &Spec) -> Result<(), AccessError> {
    if !caller.is_scoped() {
        return Ok(());
    }
    let mut named = std::iter::once(spec.resource()).chain(spec.references());
    match named.find(|other| !caller.can_access(other.name.as_str())) {
        Some(outside) => Err(caller.out_of_scope(&outside)),
        None => Ok(()),
    }
}

/// Checks everything that a write would change; `adopt` is true if it takes over resources that
/// others made.
///
/// # Errors
/// The first resource that is out of scope, or the right that is missing.
pub fn check_decision(
    caller: &Caller,
    decision: &Decision,
    adopt: bool,
) -> Result<(), AccessError> {
    let named = decision.named.iter().map(|(resource, _)| resource.clone());
    let changed = decision
        .changes
        .iter()
        .map(|(resource, _)| resource.clone());
    let specs = decision
        .changes
        .iter()
        .filter_map(|(_, after)| after.as_ref())
        .map(|record| &*record.spec);
    let referred = specs.clone().flat_map(Spec::references);

    if let Some(outside) = named
        .chain(changed)
        .chain(referred)
        .find(|other| !caller.can_access(other.name.as_str()))
    {
        return Err(AccessError::OutOfScope {
            caller: caller.name.clone(),
            prefix: caller.prefix.clone(),
            resource: outside,
            is_named: false,
        });
    }

    if caller.role == Role::Admin {
        return Ok(());
    }
    let right = if adopt {
        "adopt is for admins, who may change what others made"
    } else if specs.into_iter().any(|spec| attaches_new(decision, spec)) {
        "attach is for admins, who may reach every process"
    } else {
        return Ok(());
    };
    Err(AccessError::admin_only(right, caller))
}

/// Returns true if a spec makes a new namespace of a process's.
fn attaches_new(decision: &Decision, spec: &Spec) -> bool {
    let attaches = matches!(spec, Spec::Namespace(namespace) if namespace.attach.is_some());
    attaches
        && decision
            .named
            .contains(&(spec.resource(), ChangeKind::Created))
}
