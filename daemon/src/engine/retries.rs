//! Scheduled retries of resources that could not be applied, with exponential backoff.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use netnsd_api::ResourceRef;

/// Retries after which the delay no longer doubles: 1 s, 2 s, 4 s, … 64 s.
const MAX_DOUBLINGS: u32 = 6;

/// Scheduled retry.
#[derive(Debug, Clone, Copy)]
struct Retry {
    at: Instant,
    /// Number of retries before this one.
    tries: u32,
}

/// Retries by resource; at most one each.
#[derive(Debug, Default)]
pub(super) struct RetryQueue {
    retries: BTreeMap<ResourceRef, Retry>,
}

impl RetryQueue {
    /// Schedules the next retry of a resource, later than the one before.
    pub fn schedule(&mut self, resource: &ResourceRef) {
        let tries = self
            .retries
            .get(resource)
            .map_or(0, |retry| retry.tries + 1);
        let delay = Duration::from_secs(1 << tries.min(MAX_DOUBLINGS));
        let at = Instant::now() + delay;
        self.retries.insert(resource.clone(), Retry { at, tries });
    }

    /// Schedules a retry at a time; a backoff begins from the start.
    pub fn schedule_at(&mut self, resource: &ResourceRef, at: Instant) {
        self.retries
            .insert(resource.clone(), Retry { at, tries: 0 });
    }

    /// Cancels the retry of a resource.
    pub fn cancel(&mut self, resource: &ResourceRef) {
        self.retries.remove(resource);
    }

    /// Returns the time of the earliest retry.
    pub fn next_due(&self) -> Option<Instant> {
        self.retries.values().map(|retry| retry.at).min()
    }

    /// Returns the resources whose retry is due. They stay scheduled until their outcome is known.
    pub fn due(&self, now: Instant) -> BTreeSet<ResourceRef> {
        self.retries
            .iter()
            .filter(|(_, retry)| retry.at <= now)
            .map(|(resource, _)| resource.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use netnsd_api::Kind;

    use super::*;

    #[test]
    fn backoff_doubles_to_a_minute_and_restarts() {
        let bridge = ResourceRef::new(Kind::Bridge, "br0".parse().unwrap());
        let mut queue = RetryQueue::default();
        let mut delays = Vec::new();
        for _ in 0..9 {
            let now = Instant::now();
            queue.schedule(&bridge);
            let delay = queue.next_due().unwrap() - now;
            delays.push(delay.as_secs());
        }
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        let now = Instant::now();
        queue.schedule_at(&bridge, now);
        assert_eq!(queue.due(now).len(), 1, "a retry at this time is due");
        queue.schedule(&bridge);
        assert_eq!(queue.due(now).len(), 0, "the next one is later");
        queue.cancel(&bridge);
        assert_eq!(queue.next_due(), None, "no retry is left");
    }
}
