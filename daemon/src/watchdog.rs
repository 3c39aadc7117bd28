//! The watchdog of the service manager (sd_watchdog_enabled(3)): a thread that reports the daemon
//! alive while its parts make progress.
//!
//! It is a thread of its own, so that a busy runtime or a long batch does not keep the report back,
//! and so that a report means more than that the reporter runs.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;

use crate::{daemon::tell_manager, metrics::Metrics};

/// A part of the daemon that has to make progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Threads that serve requests: an answer is a step, or one by the clock where there are no
    /// requests.
    Runtime,
    /// The engine's thread: an operation of the kernel, a commit or a request done is a step, or
    /// one by the clock where it is idle.
    Engine,
}

const PARTS: [Part; 2] = [Part::Runtime, Part::Engine];

/// Steps that parts have made.
#[derive(Debug, Default)]
pub struct Liveness {
    steps: [AtomicU64; PARTS.len()],
    /// Time after which an idle part makes a step; `None` where nobody watches.
    interval: Option<Duration>,
}

impl Liveness {
    /// Makes one for a watchdog of this period.
    pub fn new(period: Option<Duration>) -> Self {
        let interval = period.map(|period| (period / 4).max(Duration::from_millis(1)));
        Self {
            steps: Default::default(),
            interval,
        }
    }

    /// Counts a step of a part.
    pub fn step(&self, part: Part) {
        self.steps[part as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until an idle part has to make a step: for ever where nobody watches.
    pub async fn wait(&self) {
        match self.interval {
            Some(interval) => tokio::time::sleep(interval).await,
            None => std::future::pending().await,
        }
    }

    fn steps(&self, part: Part) -> u64 {
        self.steps[part as usize].load(Ordering::Relaxed)
    }
}

/// A watchdog that reports. Dropped, it stops.
pub struct Watchdog {
    _stop: mpsc::Sender<()>,
    clock: tokio::task::JoinHandle<()>,
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.clock.abort();
    }
}

/// Starts to report to the service manager; `None` if it does not ask for that.
///
/// # Errors
/// When there is no thread.
pub fn start(metrics: &Arc<Metrics>) -> io::Result<Option<Watchdog>> {
    let Some(interval) = metrics.liveness.interval else {
        return Ok(None);
    };
    let (stop, stopped) = mpsc::channel();
    let watched = metrics.clone();
    thread::Builder::new()
        .name("netnsd-watchdog".into())
        .spawn(move || {
            let mut watch = Watch::new(Instant::now(), interval * 2);
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(interval) {
                if watch.all_progress(Instant::now(), |part| watched.liveness.steps(part)) {
                    tell_manager(&[NotifyState::Watchdog]);
                }
            }
        })?;
    let watched = metrics.clone();
    let clock = tokio::spawn(async move {
        loop {
            watched.liveness.wait().await;
            watched.liveness.step(Part::Runtime);
        }
    });
    Ok(Some(Watchdog { _stop: stop, clock }))
}

/// Steps that the thread has seen.
struct Watch {
    seen: [(u64, Instant); PARTS.len()],
    stands: [bool; PARTS.len()],
    patience: Duration,
}

impl Watch {
    fn new(now: Instant, patience: Duration) -> Self {
        Self {
            seen: [(0, now); PARTS.len()],
            stands: [false; PARTS.len()],
            patience,
        }
    }

    /// Returns true if every part has made a step within the patience.
    fn all_progress(&mut self, now: Instant, steps: impl Fn(Part) -> u64) -> bool {
        for part in PARTS {
            let (seen, stands) = (
                &mut self.seen[part as usize],
                &mut self.stands[part as usize],
            );
            let steps = steps(part);
            if seen.0 != steps {
                *seen = (steps, now);
            }
            let stood = std::mem::replace(stands, now.duration_since(seen.1) > self.patience);
            match (stood, *stands) {
                (false, true) => {
                    tracing::error!(?part, "makes no progress: the watchdog is not fed")
                }
                (true, false) => tracing::info!(?part, "makes progress again"),
                _ => {}
            }
        }
        self.stands == [false; PARTS.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_to_step_within_the_patience() {
        let start = Instant::now();
        let mut watch = Watch::new(start, Duration::from_secs(15));
        let mut at = |seconds, runtime, engine| {
            let steps = |part| {
                if part == Part::Runtime {
                    runtime
                } else {
                    engine
                }
            };
            watch.all_progress(start + Duration::from_secs(seconds), steps)
        };
        assert!(at(10, 1, 1));
        assert!(at(20, 1, 2), "an answer that takes 10 s");
        assert!(at(24, 2, 2));
        assert!(at(34, 3, 2), "an operation that takes 14 s");
        assert!(!at(36, 4, 2), "one that does not end");
        assert!(!at(60, 5, 2));
        assert!(at(61, 6, 3));
        assert!(!at(80, 6, 4), "answers that do not end");
        let unwatched = Liveness::new(None);
        assert!(unwatched.interval.is_none());
    }
}
