//! Redaction: replaces the names of resources that are out of a caller's scope in what it gets.

use netnsd_api::{BridgePort, FdbEntry, LinkAddress, LiveLink, LiveNeighbour, LiveRoute, LiveRule};

use super::Caller;

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
        let mut owner = self.veth.iter().chain(&self.link);
        if owner.any(|name| !caller.can_access(name.as_str())) {
            (self.veth, self.endpoint, self.link) = (None, None, None);
        }
    }
}

// Routes, rules, neighbours and forwarding entries name only devices and addresses of their namespace.

impl Redact for LiveRoute {
    fn redact(&mut self, _caller: &Caller) {}
}

impl Redact for LiveRule {
    fn redact(&mut self, _caller: &Caller) {}
}

impl Redact for LiveNeighbour {
    fn redact(&mut self, _caller: &Caller) {}
}

impl Redact for FdbEntry {
    fn redact(&mut self, _caller: &Caller) {}
}
