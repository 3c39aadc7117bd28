//! Limit on failed authentications over TCP.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::access::network_of;

/// Failures of one network within [`WINDOW`] that are answered 401; further ones are answered 429.
const LIMIT: u32 = 20;
/// Time in which failures are counted together.
const WINDOW: Duration = Duration::from_secs(60);
/// Networks that are counted separately; failures of further ones are counted together.
const NETWORKS: usize = 1024;

/// Counts failed authentications by the network that they come from. A valid token is accepted
/// whatever was sent before it: secrets that netnsd makes have 256 bits, and are not found by
/// trying.
#[derive(Debug, Default)]
pub struct FailedAuthLimiter {
    counts: Mutex<HashMap<Option<IpAddr>, Count>>,
}

#[derive(Debug)]
struct Count {
    since: Instant,
    failures: u32,
}

impl FailedAuthLimiter {
    /// Counts a failure of a client at this address; returns true if its network had too many.
    pub(super) fn count(&self, from: IpAddr) -> bool {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut network = Some(network_of(from));
        if !counts.contains_key(&network) && counts.len() >= NETWORKS {
            counts.retain(|_, count| count.since.elapsed() < WINDOW);
            if counts.len() >= NETWORKS {
                network = None;
            }
        }

        let count = counts.entry(network).or_insert_with(Count::new);
        if count.since.elapsed() >= WINDOW {
            *count = Count::new();
        }
        count.failures = count.failures.saturating_add(1);
        count.failures > LIMIT
    }
}

impl Count {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            failures: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_network_and_bounded() {
        let refused =
            |limiter: &FailedAuthLimiter, from: &str| limiter.count(from.parse().unwrap());
        for (from, same, other) in [
            ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
            ("2001:db8::1", "2001:db8::ffff", "2001:db8:0:1::1"),
            ("127.0.0.1", "127.9.9.9", "::1"),
        ] {
            let limiter = FailedAuthLimiter::default();
            assert!((0..LIMIT).all(|_| !refused(&limiter, from)));
            assert!(
                refused(&limiter, from) && refused(&limiter, same) && !refused(&limiter, other),
                "{from}"
            );
        }
        let limiter = FailedAuthLimiter::default();
        let address = |i: u32| IpAddr::from((0x0a00_0000 + i).to_be_bytes());
        let most = NETWORKS as u32 + LIMIT;
        assert!((0..most).all(|i| !limiter.count(address(i))));
        assert!(
            limiter.count(address(most)) && limiter.count(address(most + 1)),
            "further networks are counted together"
        );
        let counts = limiter.counts.lock().unwrap().len();
        assert!(!limiter.count(address(0)) && counts == NETWORKS + 1);
    }
}
