//! Bounded numbers of places: a share for each holder, and a bound on all together.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// Places that are taken, by their holders.
#[derive(Debug, Clone)]
pub struct Shares<K: Hash + Eq> {
    counts: Arc<Mutex<Counts<K>>>,
    freed: Arc<Notify>,
}

#[derive(Debug)]
struct Counts<K> {
    all: usize,
    of: HashMap<K, usize>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Place<K: Hash + Eq> {
    shares: Shares<K>,
    holder: K,
    size: usize,
}

/// The bound that leaves no place, with the number of places taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// All holders together have as many as there may be.
    All(usize),
    /// The holder has its share.
    Share(usize),
}

impl<K: Hash + Eq> Default for Shares<K> {
    fn default() -> Self {
        Self {
            counts: Arc::new(Mutex::new(Counts {
                all: 0,
                of: HashMap::new(),
            })),
            freed: Arc::default(),
        }
    }
}

impl<K: Hash + Eq + Clone> Shares<K> {
    /// Takes a place, where the holder has fewer than `share` and all together have fewer than
    /// `most`.
    ///
    /// # Errors
    /// The bound that is reached.
    pub fn take(&self, holder: K, share: usize, most: usize) -> Result<Place<K>, Full> {
        self.take_sized(holder, 1, share, most)
    }

    /// Takes a place as soon as the holder has fewer than `share`.
    pub async fn wait(&self, holder: K, share: usize) -> Place<K> {
        loop {
            let freed = self.freed.notified();
            if let Ok(place) = self.take(holder.clone(), share, usize::MAX) {
                return place;
            }
            freed.await;
        }
    }

    /// Takes a place that counts as `size`. The last one may be larger than what is left: it counts
    /// as that, so that a holder takes no more than its share from all.
    ///
    /// # Errors
    /// The bound that is reached.
    pub fn take_sized(
        &self,
        holder: K,
        size: usize,
        share: usize,
        most: usize,
    ) -> Result<Place<K>, Full> {
        let mut counts = self.lock();
        let own = counts.of.get(&holder).copied().unwrap_or_default();
        if counts.all >= most {
            return Err(Full::All(counts.all));
        }
        if own >= share {
            return Err(Full::Share(own));
        }
        let size = size.min(share - own);
        counts.all += size;
        counts.of.insert(holder.clone(), own + size);
        Ok(Place {
            shares: self.clone(),
            holder,
            size,
        })
    }
}

impl<K: Hash + Eq> Shares<K> {
    /// Returns the number of places that are taken.
    pub fn taken(&self) -> usize {
        self.lock().all
    }

    fn lock(&self) -> MutexGuard<'_, Counts<K>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq> Drop for Place<K> {
    fn drop(&mut self) {
        let mut counts = self.shares.lock();
        counts.all -= self.size;
        if let Some(own) = counts.of.get_mut(&self.holder) {
            *own -= self.size;
            if *own == 0 {
                counts.of.remove(&self.holder);
            }
        }
        drop(counts);
        self.shares.freed.notify_waiters();
    }
}

#[cfg(test)]
impl<K: Hash + Eq> Shares<K> {
    /// Returns true if nobody has a place and no holder is remembered.
    pub(crate) fn is_empty(&self) -> bool {
        let counts = self.lock();
        counts.all == 0 && counts.of.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holder_takes_no_more_than_its_share_from_all() {
        let shares = Shares::default();
        let large = shares.take_sized("a", 900, 100, 350).unwrap();
        assert_eq!(
            shares.take_sized("a", 1, 100, 350).unwrap_err(),
            Full::Share(100)
        );
        let others = ["b", "c"].map(|holder| shares.take_sized(holder, 100, 100, 350).unwrap());
        assert_eq!(
            shares.take_sized("d", 60, 100, 350).map(|place| place.size),
            Ok(60)
        );
        let last = shares.take_sized("d", 60, 100, 350).unwrap();
        assert_eq!(
            shares.take_sized("e", 1, 100, 350).unwrap_err(),
            Full::All(360)
        );
        drop((large, others, last));
        assert!(shares.is_empty());
    }
}
