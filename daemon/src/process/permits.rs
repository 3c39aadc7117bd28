//! Places for what runs at the same time: a share for each caller, and some kept for admins.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use netnsd_api::{Code, Problem};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::closing;

/// Places in all.
const AT_ONCE: usize = 256;
/// Places that callers who are no admins hold together; the rest is kept for admins.
const SHARED: usize = 224;
/// Places that one caller who is no admin holds.
const SHARE: usize = 64;

/// A place, which is free again when the last clone of this is dropped.
#[derive(Clone)]
pub struct Permit {
    _places: Arc<[OwnedSemaphorePermit]>,
}

/// Places of one kind of work.
#[derive(Clone)]
pub(super) struct Permits {
    /// Names the work, in the plural.
    work: &'static str,
    all: Arc<Semaphore>,
    shared: Arc<Semaphore>,
    /// Places of each caller who holds one or waits for one.
    shares: Arc<Mutex<HashMap<String, Weak<Semaphore>>>>,
}

impl Permits {
    pub(super) fn new(work: &'static str) -> Self {
        let [all, shared] = [AT_ONCE, SHARED].map(|places| Arc::new(Semaphore::new(places)));
        Self {
            work,
            all,
            shared,
            shares: Arc::default(),
        }
    }

    /// Takes a place for a caller, by its name, or for an admin, who has no share; waits for one at
    /// most this long.
    ///
    /// # Errors
    /// `too_many_requests` when none became free.
    pub(super) async fn acquire(
        &self,
        share: Option<&str>,
        wait: Duration,
    ) -> Result<Permit, Problem> {
        let pools = self.pools(share);
        let all = async {
            // The own share first: who waits for that holds no place of others.
            let mut places = Vec::with_capacity(pools.len());
            for pool in pools {
                places.push(pool.acquire_owned().await.map_err(|_| closing())?);
            }
            Ok(Permit {
                _places: places.into(),
            })
        };
        timeout(wait, all)
            .await
            .unwrap_or_else(|_| Err(self.refused(share)))
    }

    /// Takes a place as `acquire` does, without waiting.
    ///
    /// # Errors
    /// `too_many_requests` when none is free.
    pub(super) fn try_acquire(&self, share: Option<&str>) -> Result<Permit, Problem> {
        let places = self
            .pools(share)
            .into_iter()
            .map(|pool| pool.try_acquire_owned().map_err(|_| self.refused(share)));
        Ok(Permit {
            _places: places.collect::<Result<_, _>>()?,
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

    fn refused(&self, share: Option<&str>) -> Problem {
        let work = self.work;
        let detail = match share {
            Some(caller) => format!(
                "no place is free: {caller} may have {SHARE} {work} at the same time, all who are no admins {SHARED}; end \
                 one, or try again later"
            ),
            None => format!("{AT_ONCE} {work} run already: end one, or try again later"),
        };
        Problem::new(Code::TooManyRequests, detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn full_share_leaves_places_to_others_and_to_admins() {
        let permits = Permits::new("commands");
        let wait = Duration::from_millis(20);
        let mut held = Vec::new();
        for _ in 0..SHARE {
            held.push(permits.acquire(Some("red"), wait).await.unwrap());
        }
        for problem in [
            permits.acquire(Some("red"), wait).await.err(),
            permits.try_acquire(Some("red")).err(),
        ] {
            assert_eq!(problem.unwrap().code, Code::TooManyRequests);
        }
        for caller in 0..SHARED - SHARE {
            held.push(permits.try_acquire(Some(&format!("uid {caller}"))).unwrap());
        }
        assert!(permits.try_acquire(Some("blue")).is_err());
        for _ in 0..AT_ONCE - SHARED {
            held.push(permits.try_acquire(None).unwrap());
        }
        assert!(permits.acquire(None, wait).await.is_err());
        held.clear();
        // Its share is whole again, and callers who are gone are forgotten.
        held.push(permits.try_acquire(Some("red")).unwrap());
        assert_eq!(permits.shares.lock().unwrap().len(), 1);
    }
}
