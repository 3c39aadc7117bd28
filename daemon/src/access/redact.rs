//! Redaction: replaces the names of resources that are out of a caller's scope in what it gets.

use std::cmp::Reverse;

use netnsd_api::{BridgePort, FdbEntry, LinkAddress, LiveLink, LiveNeighbour, LiveRoute, Problem};

use super::Caller;

/// Replacement of a redacted name.
const REDACTED: &str = "something else";

impl Caller {
    /// Redacts the resources in a problem's list that are out of scope, there and in its detail.
    /// Code that makes a problem whose detail names another resource adds it to that list.
    pub fn redact_problem(&self, mut problem: Problem) -> Problem {
        let (shown, hidden): (Vec<_>, Vec<_>) = problem
            .resources
            .into_iter()
            .partition(|resource| self.can_access(resource.name.as_str()));
        problem.resources = shown;
        let mut hidden: Vec<String> = hidden.iter().map(ToString::to_string).collect();
        // The longest first: one name may be the start of another.
        hidden.sort_by_key(|name| Reverse(name.len()));
        for name in hidden {
            problem.detail = problem.detail.replace(&name, REDACTED);
        }
        problem
    }
}

/// A kernel object in a namespace or on a bridge that is within a caller's scope.
pub trait Redact {
    /// Removes the names of resources that are out of the caller's scope.
    fn redact(&mut self, caller: &Caller);
}

impl Redact for LiveLink {
    fn redact(&mut self, caller: &Caller) {
        self.resource
            .take_if(|resource| !caller.can_access(resource.name.as_str()));
        let is_own = self.resource.is_some();
        self.peer.take_if(|peer| match &peer.namespace {
            Some(namespace) => !caller.can_access(namespace),
            // On the host, the name of a device is its owner's.
            None => caller.is_scoped() && !is_own,
        });
    }
}

impl Redact for LinkAddress {
    fn redact(&mut self, caller: &Caller) {
        self.resource
            .take_if(|resource| !caller.can_access(resource.name.as_str()));
    }
}

impl Redact for BridgePort {
    fn redact(&mut self, caller: &Caller) {
        if self
            .veth
            .take_if(|veth| !caller.can_access(veth.as_str()))
            .is_some()
        {
            self.endpoint = None;
        }
    }
}

// Routes, neighbours and forwarding entries name only devices and addresses of their namespace.

impl Redact for LiveRoute {
    fn redact(&mut self, _caller: &Caller) {}
}

impl Redact for LiveNeighbour {
    fn redact(&mut self, _caller: &Caller) {}
}

impl Redact for FdbEntry {
    fn redact(&mut self, _caller: &Caller) {}
}

#[cfg(test)]
mod tests {
    use netnsd_api::{Code, Kind, Name, ResourceRef};

    use super::*;

    #[test]
    fn names_out_of_scope_are_redacted() {
        let caller = Caller {
            prefix: "red-".into(),
            ..Caller::admin("token red")
        };
        let veth = |name: &str| ResourceRef::new(Kind::Veth, name.parse::<Name>().unwrap());
        let detail = "used by veth core, veth core-up, veth red-v";
        let resources = vec![veth("core"), veth("core-up"), veth("red-v")];
        let redacted = caller.redact_problem(Problem {
            resources,
            ..Problem::new(Code::InUse, detail)
        });
        assert_eq!(
            redacted.detail,
            "used by something else, something else, veth red-v"
        );
        assert_eq!(redacted.resources, [veth("red-v")]);
    }
}
