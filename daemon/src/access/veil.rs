//! Hides names out of the reach of a caller with a prefix, which stand in the way of, or beside,
//! its own.

use std::cmp::Reverse;

use netnsd_api::{BridgePort, FdbEntry, Link, LinkAddress, LiveNeighbour, LiveRoute, Problem};

use super::Caller;

/// Stands for a name out of reach.
const VEIL: &str = "something else";

impl Caller {
    /// Returns a problem without the names of the resources in its list that are out of reach.
    /// Whoever makes a problem that names another resource puts it in that list.
    pub fn veil_problem(&self, mut problem: Problem) -> Problem {
        let (told, hidden): (Vec<_>, Vec<_>) = problem
            .resources
            .into_iter()
            .partition(|resource| self.reaches(resource.name.as_str()));
        problem.resources = told;
        let mut hidden: Vec<String> = hidden.iter().map(ToString::to_string).collect();
        // The longest first: a name may begin with another.
        hidden.sort_by_key(|name| Reverse(name.len()));
        for name in hidden {
            problem.detail = problem.detail.replace(&name, VEIL);
        }
        problem
    }
}

/// Something seen in a namespace or on a bridge that is within a caller's reach.
pub trait Veil {
    /// Takes out what names things out of the caller's reach.
    fn veil(&mut self, caller: &Caller);
}

impl Veil for Link {
    fn veil(&mut self, caller: &Caller) {
        self.resource
            .take_if(|resource| !caller.reaches(resource.name.as_str()));
        let is_own = self.resource.is_some();
        self.peer.take_if(|peer| match &peer.namespace {
            Some(namespace) => !caller.reaches(namespace),
            // On the host it is a name of the pair's owner.
            None => caller.is_confined() && !is_own,
        });
    }
}

impl Veil for LinkAddress {
    fn veil(&mut self, caller: &Caller) {
        self.resource
            .take_if(|resource| !caller.reaches(resource.name.as_str()));
    }
}

impl Veil for BridgePort {
    fn veil(&mut self, caller: &Caller) {
        if self
            .veth
            .take_if(|veth| !caller.reaches(veth.as_str()))
            .is_some()
        {
            self.endpoint = None;
        }
    }
}

/// These name devices and addresses of the namespace only.
macro_rules! unveiled {
    ($($seen:ty),*) => {
        $(impl Veil for $seen {
            fn veil(&mut self, _caller: &Caller) {}
        })*
    };
}

unveiled!(LiveRoute, LiveNeighbour, FdbEntry);

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
        let veiled = caller.veil_problem(Problem {
            resources,
            ..Problem::new(Code::InUse, detail)
        });
        assert_eq!(
            veiled.detail,
            "used by something else, something else, veth red-v"
        );
        assert_eq!(veiled.resources, [veth("red-v")]);
    }
}
