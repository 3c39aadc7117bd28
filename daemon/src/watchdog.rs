//! Watchdog of the service manager (sd_watchdog_enabled(3)): a thread that reports the daemon alive
//! while all of its parts make progress.
//!
//! It has a thread of its own, so that neither a busy runtime nor a long batch delays the report,
//! and so that a report means more than that the reporting thread runs.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;

use crate::{
    liveness::{Liveness, Part},
    service_manager,
};

/// Running watchdog. Dropping it stops the reports.
pub struct Watchdog {
    _stop: mpsc::Sender<()>,
    idle_timer: tokio::task::JoinHandle<()>,
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.idle_timer.abort();
    }
}

/// Starts reporting to the service manager; returns `None` if it does not ask for reports.
///
/// # Errors
/// If the thread cannot be created.
pub fn start(liveness: Arc<Liveness>) -> io::Result<Option<Watchdog>> {
    let Some(interval) = liveness.interval() else {
        return Ok(None);
    };

    let (stop, stopped) = mpsc::channel();
    let watched = liveness.clone();
    thread::Builder::new()
        .name("netnsd-watchdog".into())
        .spawn(move || report_progress(&watched, interval, &stopped))?;

    let idle_timer = tokio::spawn(async move {
        loop {
            liveness.wait_until_idle_step().await;
            liveness.record_progress(Part::Runtime);
        }
    });
    Ok(Some(Watchdog {
        _stop: stop,
        idle_timer,
    }))
}

/// Reports to the service manager every `interval` while all parts make progress, until the sender
/// of `stopped` is dropped.
fn report_progress(liveness: &Liveness, interval: Duration, stopped: &mpsc::Receiver<()>) {
    let mut monitor = ProgressMonitor::new(Instant::now(), interval * 2);
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(interval) {
        if monitor.all_progress(Instant::now(), |part| liveness.progress(part)) {
            service_manager::notify(&[NotifyState::Watchdog]);
        }
    }
}

/// Compares the counters of all parts with those seen before.
struct ProgressMonitor {
    seen: [(u64, Instant); Part::ALL.len()],
    stalled: [bool; Part::ALL.len()],
    patience: Duration,
}

impl ProgressMonitor {
    fn new(now: Instant, patience: Duration) -> Self {
        Self {
            seen: [(0, now); Part::ALL.len()],
            stalled: [false; Part::ALL.len()],
            patience,
        }
    }

    /// Returns true if every part has made progress within the patience.
    fn all_progress(&mut self, now: Instant, progress: impl Fn(Part) -> u64) -> bool {
        for part in Part::ALL {
            let seen = &mut self.seen[part as usize];
            let steps = progress(part);
            if seen.0 != steps {
                *seen = (steps, now);
            }

            let stalled = now.duration_since(seen.1) > self.patience;
            let was_stalled = std::mem::replace(&mut self.stalled[part as usize], stalled);
            match (was_stalled, stalled) {
                (false, true) => {
                    tracing::error!(?part, "makes no progress: watchdog report withheld")
                }
                (true, false) => tracing::info!(?part, "makes progress again"),
                (false, false) | (true, true) => {}
            }
        }
        !self.stalled.contains(&true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_must_progress_within_the_patience() {
        let start = Instant::now();
        let mut monitor = ProgressMonitor::new(start, Duration::from_secs(15));
        let mut at = |seconds, runtime, engine| {
            let progress = |part| match part {
                Part::Runtime => runtime,
                Part::Engine => engine,
            };
            monitor.all_progress(start + Duration::from_secs(seconds), progress)
        };
        assert!(at(10, 1, 1));
        assert!(at(20, 1, 2), "a response may take 10 s");
        assert!(at(24, 2, 2));
        assert!(at(34, 3, 2), "an operation may take 14 s");
        assert!(!at(36, 4, 2), "an operation that does not end is a stall");
        assert!(!at(60, 5, 2));
        assert!(at(61, 6, 3));
        assert!(!at(80, 6, 4), "requests that do not end are a stall");
    }
}
