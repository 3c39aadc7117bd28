//! Authentication of callers and authorisation of writes.
//!
//! From the credentials of a Unix socket's peer, a client certificate or a bearer token, an
//! [`Authenticator`] makes a [`Caller`] with a role, a name prefix and rights on the host.
//! [`authorize`] checks a write against these rights; `http` checks routes.
//!
//! Imports only `model` of the daemon.

pub mod audit;
pub mod authorize;
mod error;
mod host_access;
#[allow(unsafe_code, reason = "SO_PEERGROUPS, which no library asks for")]
mod peer;
mod redact;
mod refusals;
mod tokens;
mod uplink;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use netnsd_api::{HostAccess, ResourceRef, Role};
use nix::unistd::{Gid, Uid};
use tokio::sync::watch;

pub use self::{
    audit::AuditDraft,
    error::AccessError,
    peer::{SocketPeer, network_of, peer_of},
    redact::Redact,
    refusals::Refusals,
    tokens::{AccessRule, Authenticator, Subject, issue_token},
    uplink::Uplink,
};

/// Credentials of a Unix socket's peer, with which an operator's commands run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: Uid,
    /// Primary group id.
    pub gid: Gid,
    /// Supplementary group ids.
    pub groups: Vec<Gid>,
}

/// An authenticated caller and its rights.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Name in the audit log: `uid 1000`, `token ci`.
    pub name: String,
    /// Role.
    pub role: Role,
    /// Prefix of the names of the resources that it may access; empty: all.
    pub prefix: String,
    /// Rights on the host itself.
    pub host: HostAccess,
    /// Devices of the host that the configuration lends.
    pub uplinks: Arc<[Uplink]>,
    /// Credentials, of a caller on a Unix socket; `None` over TCP.
    pub identity: Option<Identity>,
    /// Time at which its rights end.
    expires_at: Option<Timestamp>,
    /// Turns true when its token is revoked; `None` if it has no token.
    revoked: Option<watch::Receiver<bool>>,
    /// Draft of the request's audit entry; `None` if the request is not audited.
    pub audit: Option<Arc<AuditDraft>>,
}

impl Caller {
    /// Returns a caller that may do everything and does not expire.
    pub fn admin(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            role: Role::Admin,
            prefix: String::new(),
            host: HostAccess::Any,
            uplinks: Arc::default(),
            identity: None,
            expires_at: None,
            revoked: None,
            audit: None,
        }
    }

    /// Returns true if resources of this name are within its scope.
    pub fn can_access(&self, name: &str) -> bool {
        name.starts_with(&self.prefix)
    }

    /// Returns true if it may access only names with its prefix.
    pub fn is_scoped(&self) -> bool {
        !self.prefix.is_empty()
    }

    /// Waits until its token is revoked or expires.
    pub async fn expired(&self) {
        tokio::select! {
            () = self.reached_expiry() => (),
            () = self.was_revoked() => (),
        }
    }

    async fn reached_expiry(&self) {
        match self.expires_at {
            Some(at) => wait_until(at, Timestamp::now).await,
            None => std::future::pending().await,
        }
    }

    async fn was_revoked(&self) {
        match self.revoked.clone() {
            // The sender is dropped only when the daemon ends.
            Some(mut revoked) => drop(revoked.wait_for(|revoked| *revoked).await),
            None => std::future::pending().await,
        }
    }

    /// Returns the credentials with which its commands run in a namespace; `None` for admins, whose
    /// commands run as the daemon or as the `user` that they name. `managed` is true if netnsd has
    /// the namespace recorded.
    ///
    /// # Errors
    /// If it may not run the command.
    pub fn command_identity(
        &self,
        managed: bool,
        user: Option<&str>,
    ) -> Result<Option<Identity>, AccessError> {
        if self.role == Role::Admin {
            return Ok(None);
        }
        if user.is_some() {
            return Err(AccessError::admin_only("user is for admins", self));
        }
        if !managed {
            return Err(AccessError::UnmanagedNamespace { work: "commands" });
        }
        match &self.identity {
            Some(identity) => Ok(Some(identity.clone())),
            None => Err(AccessError::NoUser {
                caller: self.name.clone(),
            }),
        }
    }

    /// Returns the error of a resource that it named and that is out of its scope.
    pub fn out_of_scope(&self, resource: &ResourceRef) -> AccessError {
        AccessError::OutOfScope {
            caller: self.name.clone(),
            prefix: self.prefix.clone(),
            resource: resource.clone(),
            is_named: true,
        }
    }
}

/// Time between two readings of the wall clock: it may be set, and the runtime's timers use
/// `CLOCK_MONOTONIC`, which is not.
const CLOCK_CHECK: Duration = Duration::from_secs(5);

/// Waits until the wall clock has reached a time.
async fn wait_until(at: Timestamp, now: impl Fn() -> Timestamp) {
    loop {
        let left = at.duration_since(now());
        if !left.is_positive() {
            return;
        }
        tokio::time::sleep(left.unsigned_abs().min(CLOCK_CHECK)).await;
    }
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
        let waiting = tokio::spawn(wait_until(expiry, move || {
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
