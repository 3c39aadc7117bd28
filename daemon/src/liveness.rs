//! Counts the progress of the daemon's parts; the watchdog reads the counters.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// A part of the daemon that has to make progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Threads that serve requests: each response counts as progress, and so does a timer while
    /// there are no requests.
    Runtime,
    /// The engine's thread: each kernel operation, commit and finished request counts as progress,
    /// and so does a timer while it is idle.
    Engine,
}

impl Part {
    /// All parts, in the order of their declaration.
    pub const ALL: [Part; 2] = [Part::Runtime, Part::Engine];
}

/// Progress counters, one for each part.
#[derive(Debug, Default)]
pub struct Liveness {
    counters: [AtomicU64; Part::ALL.len()],
    /// Time between two steps of an idle part; `None` if no watchdog is enabled.
    interval: Option<Duration>,
}

impl Liveness {
    /// Creates the counters for a watchdog of this period (`WatchdogSec=`, systemd.service(5)).
    pub fn new(period: Option<Duration>) -> Self {
        let interval = period.map(|period| (period / 4).max(Duration::from_millis(1)));
        Self {
            counters: Default::default(),
            interval,
        }
    }

    /// Counts a step of a part.
    pub fn record_progress(&self, part: Part) {
        self.counters[part as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until an idle part has to record progress; for ever if no watchdog is enabled.
    pub async fn wait_until_idle_step(&self) {
        match self.interval {
            Some(interval) => tokio::time::sleep(interval).await,
            None => std::future::pending().await,
        }
    }

    /// Returns the number of steps that a part has recorded.
    pub fn progress(&self, part: Part) -> u64 {
        self.counters[part as usize].load(Ordering::Relaxed)
    }

    /// Returns the time between two steps of an idle part; `None` if no watchdog is enabled.
    pub fn interval(&self) -> Option<Duration> {
        self.interval
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disabled_watchdog_has_no_interval() {
        assert!(Liveness::new(None).interval().is_none());
    }
}
