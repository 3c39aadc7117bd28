//! Who calls, and what they may do: one place decides, for every route and every change.
//!
//! [`Access`] makes a [`Caller`] of what the kernel says of a Unix socket's other side, or of a
//! bearer token; [`rules::needs`] tells which role a route needs; [`Caller::may_change`] whether a
//! change is within its reach.

pub mod audit;
mod host;
#[allow(unsafe_code, reason = "SO_PEERGROUPS, which no library asks for")]
mod peer;
mod refusals;
pub mod rules;
mod tokens;
mod veil;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use netnsd_api::{Code, HostAccess, Problem, ResourceRef, Role};
use nix::unistd::{Gid, Uid};
use tokio::sync::watch;

pub use self::{
    audit::Audit,
    peer::{Peer, network_of, peer_of},
    refusals::Refusals,
    tokens::{Access, Rule, Subject, issue},
    veil::Veil,
};
use crate::model::{Change, ChangeKind, Decision, DocumentItem, Spec};

/// As whom an operator's commands run: the caller on the other side of a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub uid: Uid,
    /// The group.
    pub gid: Gid,
    /// The supplementary groups.
    pub groups: Vec<Gid>,
}

/// Who calls.
#[derive(Debug, Clone)]
pub struct Caller {
    /// As the audit log names it: `uid 1000`, `token ci`.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// What the names of resources that it reaches begin with; empty: all.
    pub prefix: String,
    /// Its rights on the host itself.
    pub host: HostAccess,
    /// Who it is to the kernel; none where it came over TCP.
    pub identity: Option<Identity>,
    /// Until when it may.
    expires_at: Option<Timestamp>,
    /// Turns true when it may no longer; none for what cannot be revoked.
    revoked: Option<watch::Receiver<bool>>,
    /// What the audit log says of its request, if that is to be recorded.
    pub audit: Option<Arc<Audit>>,
}

impl Caller {
    /// One who may do everything, for ever.
    pub fn admin(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            role: Role::Admin,
            prefix: String::new(),
            host: HostAccess::Any,
            identity: None,
            expires_at: None,
            revoked: None,
            audit: None,
        }
    }

    /// Whether resources of this name are within its reach.
    pub fn reaches(&self, name: &str) -> bool {
        name.starts_with(&self.prefix)
    }

    /// Whether it reaches everything.
    pub fn is_confined(&self) -> bool {
        !self.prefix.is_empty()
    }

    /// Ends when it may no longer do anything: its token was revoked, or has expired.
    pub async fn over(&self) {
        let expired = async {
            match self.expires_at {
                Some(at) => passed(at, Timestamp::now).await,
                None => std::future::pending().await,
            }
        };
        let revoked = async {
            match self.revoked.clone() {
                // Nobody who could revoke it is left only when the daemon ends.
                Some(mut revoked) => drop(revoked.wait_for(|revoked| *revoked).await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = expired => (),
            () = revoked => (),
        }
    }

    /// As whom its commands run in a namespace: none for admins, who run them as the daemon or whom
    /// they name.
    ///
    /// # Errors
    /// That it may not run this at all.
    pub fn runs_as(&self, managed: bool, user: Option<&str>) -> Result<Option<Identity>, Problem> {
        if self.role == Role::Admin {
            return Ok(None);
        }
        if user.is_some() {
            return Err(forbidden(format!(
                "user is for admins, and {} is {}",
                self.name, self.role
            )));
        }
        if !managed {
            return Err(forbidden(
                "commands in namespaces that netnsd does not manage are for admins",
            ));
        }
        match &self.identity {
            Some(identity) => Ok(Some(identity.clone())),
            None => Err(forbidden(format!(
                "commands of an operator run as its own user, and {} is none: use the Unix socket, or a token of an admin",
                self.name
            ))),
        }
    }

    /// Checks the names and references of a change as it was sent, against nothing that is
    /// recorded.
    ///
    /// # Errors
    /// `forbidden`, the same for what exists and for what does not.
    pub fn may_name(&self, change: &Change) -> Result<(), Problem> {
        match change {
            Change::Create(Spec::Veth(veth)) if self.is_confined() && veth.name.is_unset() => {
                // The name that would be chosen tells which ones others have.
                let detail = format!(
                    "{} reaches only what is called {}…: give the pair a name",
                    self.name, self.prefix
                );
                Err(forbidden(detail))
            }
            Change::Create(spec) | Change::Put(spec) => self.may_refer(spec),
            Change::Edit(resource, _) | Change::Delete { resource, .. }
                if !self.reaches(resource.name.as_str()) =>
            {
                Err(self.outside(resource))
            }
            // Edits are checked once they are made: their outcome depends on the caller's own
            // resource only.
            Change::Edit(..) | Change::Delete { .. } => Ok(()),
            Change::Topology(document) => {
                let check = |placed: &DocumentItem| {
                    self.may_refer(&placed.spec)
                        .map_err(|problem| placed.locate(problem))
                };
                document.specs.iter().try_for_each(check)
            }
        }
    }

    /// Checks a spec's name and references against the prefix.
    ///
    /// # Errors
    /// `forbidden`, naming the first that is out of reach.
    pub fn may_refer(&self, spec: &Spec) -> Result<(), Problem> {
        if !self.is_confined() {
            return Ok(());
        }
        let mut named = std::iter::once(spec.resource()).chain(spec.references());
        match named.find(|other| !self.reaches(other.name.as_str())) {
            Some(outside) => Err(self.outside(&outside)),
            None => Ok(()),
        }
    }

    /// Whether it may change this, and take over what others made.
    ///
    /// # Errors
    /// What it may not.
    pub fn may_change(&self, decision: &Decision, adopt: bool) -> Result<(), Problem> {
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
            .find(|other| !self.reaches(other.name.as_str()))
        {
            // Something that hangs on what the caller names: nobody asked for it by its name.
            return Err(Problem {
                resources: vec![outside.clone()],
                ..self.outside(&outside)
            });
        }
        let attaches =
            |spec: &&Spec| matches!(spec, Spec::Namespace(spec) if spec.attach.is_some());
        let is_new = |spec: &Spec| {
            decision
                .named
                .contains(&(spec.resource(), ChangeKind::Created))
        };
        let attach = specs
            .filter(attaches)
            .any(is_new)
            .then_some("attach is for admins, who may reach every process");
        let what = adopt
            .then_some("adopt is for admins, who may change what others made")
            .or(attach);
        match what.filter(|_| self.role < Role::Admin) {
            Some(what) => Err(forbidden(format!(
                "{what}, and {} is {}",
                self.name, self.role
            ))),
            None => Ok(()),
        }
    }

    /// That a resource is out of its reach.
    pub fn outside(&self, resource: &ResourceRef) -> Problem {
        forbidden(format!(
            "{} reaches only what is called {}…, and not {resource}",
            self.name, self.prefix
        ))
    }
}

/// Time between two looks at the clock: it may be set while the runtime's timers go by one that is
/// not (`CLOCK_MONOTONIC`).
const CLOCK_CHECK: Duration = Duration::from_secs(5);

/// Waits until the clock has reached a time.
async fn passed(at: Timestamp, now: impl Fn() -> Timestamp) {
    loop {
        let left = at.duration_since(now());
        if !left.is_positive() {
            return;
        }
        tokio::time::sleep(left.unsigned_abs().min(CLOCK_CHECK)).await;
    }
}

/// A problem of what is not allowed.
pub fn forbidden(detail: impl Into<String>) -> Problem {
    Problem::new(Code::Forbidden, detail)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    #[tokio::test]
    async fn expiry_follows_a_clock_that_is_set() {
        let clock = Arc::new(AtomicI64::new(0));
        let now = clock.clone();
        let expiry = Timestamp::from_second(1_000_000).unwrap();
        let waiting = tokio::spawn(passed(expiry, move || {
            Timestamp::from_second(now.load(Ordering::SeqCst)).unwrap()
        }));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        clock.store(1_000_001, Ordering::SeqCst);
        tokio::time::timeout(Duration::from_secs(60), waiting)
            .await
            .unwrap()
            .unwrap();
    }
}
