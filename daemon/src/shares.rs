//! Bounded numbers of slots: a share for each holder, and a bound on all holders together.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// Slots in use, by their holders.
#[derive(Debug, Clone)]
pub struct Shares<K: Hash + Eq> {
    counts: Arc<Mutex<Counts<K>>>,
    freed: Arc<Notify>,
}

#[derive(Debug)]
struct Counts<K> {
    total: usize,
    by_holder: HashMap<K, usize>,
}

/// A slot in use; dropping it frees the slot.
#[derive(Debug)]
pub struct Slot<K: Hash + Eq> {
    shares: Shares<K>,
    holder: K,
    size: usize,
}

/// The bound that was reached, with the number of slots in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitReached {
    /// All holders together use as many slots as there are.
    Total(usize),
    /// The holder uses its whole share.
    Holder(usize),
}

impl<K: Hash + Eq> Default for Shares<K> {
    fn default() -> Self {
        Self {
            counts: Arc::new(Mutex::new(Counts {
                total: 0,
                by_holder: HashMap::new(),
            })),
            freed: Arc::default(),
        }
    }
}

impl<K: Hash + Eq + Clone> Shares<K> {
    /// Acquires a slot if the holder uses fewer than `share` and all together fewer than `total`.
    ///
    /// # Errors
    /// The bound that is reached.
    pub fn acquire(&self, holder: K, share: usize, total: usize) -> Result<Slot<K>, LimitReached> {
        self.acquire_sized(holder, 1, share, total)
    }

    /// Waits until the holder uses fewer than `share`, then acquires a slot.
    pub async fn acquire_when_free(&self, holder: K, share: usize) -> Slot<K> {
        loop {
            let freed = self.freed.notified();
            if let Ok(slot) = self.acquire(holder.clone(), share, usize::MAX) {
                return slot;
            }
            freed.await;
        }
    }

    /// Acquires a slot that counts as `size`. The last slot of a share may be larger than what is
    /// left of the share: it then counts as what is left, so that a holder never uses more than its
    /// share.
    ///
    /// # Errors
    /// The bound that is reached.
    pub fn acquire_sized(
        &self,
        holder: K,
        size: usize,
        share: usize,
        total: usize,
    ) -> Result<Slot<K>, LimitReached> {
        let mut counts = self.lock_counts();
        let own = counts.by_holder.get(&holder).copied().unwrap_or_default();
        if counts.total >= total {
            return Err(LimitReached::Total(counts.total));
        }
        if own >= share {
            return Err(LimitReached::Holder(own));
        }

        let size = size.min(share - own);
        counts.total += size;
        counts.by_holder.insert(holder.clone(), own + size);
        Ok(Slot {
            shares: self.clone(),
            holder,
            size,
        })
    }
}

impl<K: Hash + Eq> Shares<K> {
    /// Returns the number of slots in use.
    pub fn in_use(&self) -> usize {
        self.lock_counts().total
    }

    fn lock_counts(&self) -> MutexGuard<'_, Counts<K>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq> Drop for Slot<K> {
    fn drop(&mut self) {
        let mut counts = self.shares.lock_counts();
        counts.total -= self.size;
        if let Some(own) = counts.by_holder.get_mut(&self.holder) {
            *own -= self.size;
            if *own == 0 {
                counts.by_holder.remove(&self.holder);
            }
        }
        drop(counts);
        self.shares.freed.notify_waiters();
    }
}

#[cfg(test)]
impl<K: Hash + Eq> Shares<K> {
    /// Returns true if no slot is in use and no holder is remembered.
    pub(crate) fn is_empty(&self) -> bool {
        let counts = self.lock_counts();
        counts.total == 0 && counts.by_holder.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holder_uses_no_more_than_its_share() {
        let shares = Shares::default();
        let large = shares.acquire_sized("a", 900, 100, 350).unwrap();
        assert_eq!(
            shares.acquire_sized("a", 1, 100, 350).unwrap_err(),
            LimitReached::Holder(100)
        );
        let others = ["b", "c"].map(|holder| shares.acquire_sized(holder, 100, 100, 350).unwrap());
        assert_eq!(
            shares
                .acquire_sized("d", 60, 100, 350)
                .map(|slot| slot.size),
            Ok(60)
        );
        let last = shares.acquire_sized("d", 60, 100, 350).unwrap();
        assert_eq!(
            shares.acquire_sized("e", 1, 100, 350).unwrap_err(),
            LimitReached::Total(360)
        );
        drop((large, others, last));
        assert!(shares.is_empty());
    }
}
