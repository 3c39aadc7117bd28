//! Permits for work that runs at the same time: a share for each caller, and a reserve for admins.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::ProcessError;

/// Permits in all.
pub(super) const TOTAL: usize = 256;
/// Permits that all callers but admins hold together; the rest is reserved for admins.
pub(super) const NON_ADMINS: usize = 224;
/// Permits of one caller who is not an admin.
pub(super) const SHARE: usize = 64;

/// Permit to run; it is free again when the last clone is dropped.
#[derive(Clone)]
pub struct Permit {
    _permits: Arc<[OwnedSemaphorePermit]>,
}

/// Permits of one kind of work.
#[derive(Clone)]
pub(super) struct Permits {
    /// Name of the work, in the plural.
    work: &'static str,
    all: Arc<Semaphore>,
    shared: Arc<Semaphore>,
    /// Permits of each caller who holds one or waits for one.
    shares: Arc<Mutex<HashMap<String, Weak<Semaphore>>>>,
}

impl Permits {
    pub(super) fn new(work: &'static str) -> Self {
        let [all, shared] = [TOTAL, NON_ADMINS].map(|permits| Arc::new(Semaphore::new(permits)));
        Self {
            work,
            all,
            shared,
            shares: Arc::default(),
        }
    }

    /// Acquires a permit for a caller, by its name, or for an admin (`None`), who has no share; waits
    /// at most this long.
    ///
    /// # Errors
    /// [`ProcessError::ShareFull`] or [`ProcessError::Full`] if none became free.
    pub(super) async fn acquire(
        &self,
        share: Option<&str>,
        wait: Duration,
    ) -> Result<Permit, ProcessError> {
        let pools = self.pools(share);
        let all = async {
            // The own share first: while it waits for that, a caller holds no permit of others.
            let mut permits = Vec::with_capacity(pools.len());
            for pool in pools {
                permits.push(
                    pool.acquire_owned()
                        .await
                        .map_err(|_| ProcessError::Stopping)?,
                );
            }
            Ok(Permit {
                _permits: permits.into(),
            })
        };
        timeout(wait, all)
            .await
            .unwrap_or_else(|_| Err(self.refused(share)))
    }

    /// Acquires a permit as `acquire` does, without waiting.
    ///
    /// # Errors
    /// [`ProcessError::ShareFull`] or [`ProcessError::Full`] if none is free.
    pub(super) fn try_acquire(&self, share: Option<&str>) -> Result<Permit, ProcessError> {
        let permits = self
            .pools(share)
            .into_iter()
            .map(|pool| pool.try_acquire_owned().map_err(|_| self.refused(share)));
        Ok(Permit {
            _permits: permits.collect::<Result<_, _>>()?,
        })
    }

    fn pools(&self, share: Option<&str>) -> Vec<Arc<Semaphore>> {
        let Some(caller) = share else {
            return vec![self.all.clone()];
        };
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.retain(|_, share| share.strong_count() > 0);
        let own = shares
            .get(caller)
            .and_then(Weak::upgrade)
            .unwrap_or_else(|| {
                let own = Arc::new(Semaphore::new(SHARE));
                shares.insert(caller.to_owned(), Arc::downgrade(&own));
                own
            });
        vec![own, self.shared.clone(), self.all.clone()]
    }

    fn refused(&self, share: Option<&str>) -> ProcessError {
        let work = self.work;
        match share {
            Some(caller) => ProcessError::ShareFull {
                caller: caller.to_owned(),
                work,
            },
            None => ProcessError::Full { work },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn full_share_leaves_permits_to_others_and_admins() {
        let permits = Permits::new("commands");
        let wait = Duration::from_millis(20);
        let mut held = Vec::new();
        for _ in 0..SHARE {
            held.push(permits.acquire(Some("red"), wait).await.unwrap());
        }
        for error in [
            permits.acquire(Some("red"), wait).await.err(),
            permits.try_acquire(Some("red")).err(),
        ] {
            assert!(matches!(error, Some(ProcessError::ShareFull { .. })));
        }
        for caller in 0..NON_ADMINS - SHARE {
            held.push(permits.try_acquire(Some(&format!("uid {caller}"))).unwrap());
        }
        assert!(permits.try_acquire(Some("blue")).is_err());
        for _ in 0..TOTAL - NON_ADMINS {
            held.push(permits.try_acquire(None).unwrap());
        }
        assert_eq!(
            permits.acquire(None, wait).await.err(),
            Some(ProcessError::Full { work: "commands" })
        );
        held.clear();
        // The share is free again, and callers without permits are forgotten.
        held.push(permits.try_acquire(Some("red")).unwrap());
        assert_eq!(permits.shares.lock().unwrap().len(), 1);
    }
}
