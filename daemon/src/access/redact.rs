//! Hides names out of the reach of a caller with a prefix, which stand in the way of, or beside,
//! its own.

use std::cmp::Reverse;

use netnsd_api::{BridgePort, FdbEntry, Link, LinkAddress, LiveNeighbour, LiveRoute, Problem};

use super::Caller;

/// Stands for a name out of reach.
const REDACTED: &str = "something else";

impl Caller {
    /// Returns a problem without the names of the resources in its list that are out of reach.
    /// Whoever makes a problem that names another resource puts it in that list.
    pub fn redact_problem(&self, mut problem: Problem) -> Problem {
        let (told, hidden): (Vec<_>, Vec<_>) = problem
            .resources
            .into_iter()
            .partition(|resource| self.can_access(resource.name.as_str()));
        problem.resources = told;
        let mut hidden: Vec<String> = hidden.iter().map(ToString::to_string).collect();
        // The longest first: a name may begin with another.
        hidden.sort_by_key(|name| Reverse(name.len()));
        for name in hidden {
            problem.detail = problem.detail.replace(&name, REDACTED);
        }
        problem
    }
}

/// Something seen in a namespace or on a bridge that is within a caller's reach.
pub trait Redact {
    /// Takes out what names things out of the caller's reach.
    fn redact(&mut self, caller: &Caller);
}

impl Redact for Link {
    fn redact(&mut self, caller: &Caller) {
        self.resource
            .take_if(|resource| !caller.can_access(resource.name.as_str()));
        let is_own = self.resource.is_some();
        self.peer.take_if(|peer| match &peer.namespace {
            Some(namespace) => !caller.can_access(namespace),
            // On the host it is a name of the pair's owner.
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

/// These name devices and addresses of the namespace only.
macro_rules! not_redacted {
    ($($seen:ty),*) => {
        $(impl Redact for $seen {
            fn redact(&mut self, _caller: &Caller) {}
        })*
    };
}

not_redacted!(LiveRoute, LiveNeighbour, FdbEntry);

#[cfg(test)]
mod tests {
    use netnsd_api::{Code, Kind, Name, ResourceRef};

    use super::*;

    #[test]
    fn names_out_of_reach_are_not_told() {
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
