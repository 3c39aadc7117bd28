//! Drift policy: repair or report, and how often everything is scanned.

use std::time::Duration;

/// Treatment of foreign changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriftPolicy {
    /// True to repair them, false to report them only.
    pub repair: bool,
    /// Time between two full scans, which find changes that no kernel event told of.
    pub scan_interval: ScanInterval,
}

impl Default for DriftPolicy {
    fn default() -> Self {
        Self {
            repair: true,
            scan_interval: ScanInterval::Adaptive,
        }
    }
}

/// Time between two full scans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScanInterval {
    /// Fixed time.
    Every(Duration),
    /// A minute; longer if scans would take more than a thousandth of a processor, but at most ten
    /// minutes.
    Adaptive,
}

impl ScanInterval {
    /// Shortest pause after a part of a scan, as a multiple of its duration: two threads observe.
    const PAUSE_FACTOR: u32 = 2000;
    /// Shortest adaptive interval.
    const SHORTEST: Duration = Duration::from_secs(60);
    /// Longest adaptive interval.
    const LONGEST: Duration = Duration::from_secs(600);

    /// Returns the pause after one of `parts` parts of a scan, which took this long.
    pub(super) fn pause(self, parts: u32, took: Duration) -> Duration {
        match self {
            Self::Every(interval) => interval / parts,
            Self::Adaptive => {
                (took * Self::PAUSE_FACTOR).clamp(Self::SHORTEST / parts, Self::LONGEST / parts)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_grows_with_the_scan_up_to_ten_minutes() {
        let (second, ms) = (Duration::from_secs(1), Duration::from_millis(1));
        assert_eq!(ScanInterval::Adaptive.pause(1, ms), 60 * second);
        assert_eq!(ScanInterval::Adaptive.pause(4, ms), 15 * second);
        assert_eq!(ScanInterval::Adaptive.pause(4, 20 * ms), 40 * second);
        assert_eq!(ScanInterval::Adaptive.pause(4, second), 150 * second);
        assert_eq!(ScanInterval::Every(7 * second).pause(7, second), second);
    }
}
