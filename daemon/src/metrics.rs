//! Prometheus metrics. Every label has a bounded number of values.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use netnsd_api::{Kind, State};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

use crate::liveness::{Liveness, Part};

/// Labels of a request; `route` is the pattern of its path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    method: String,
    route: String,
    code: u16,
}

/// Labels of a route.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    method: String,
    route: String,
}

/// Labels of a kernel operation; `result` is `ok` or the name of the errno.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    op: String,
    result: String,
}

/// Labels of the number of resources.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceState {
    kind: String,
    state: String,
}

/// All metrics of the daemon.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    request_time: Family<Route, Histogram>,
    operations: Family<Operation, Counter>,
    batch_time: Histogram,
    repairs: Counter,
    commits: Counter,
    commit_failures: Counter,
    commit_time: Histogram,
    queued: Gauge,
    resources: Family<ResourceState, Gauge>,
    memory: Gauge,
    cpu: Gauge<f64, std::sync::atomic::AtomicU64>,
    descriptors: Gauge,
    /// Progress counters that the watchdog reads.
    pub liveness: Arc<Liveness>,
}

/// Returns a histogram of times from 0.1 ms to some 15 s.
fn time_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.5, 14))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("netnsd");
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            request_time: Family::new_with_constructor(time_histogram),
            operations: Family::default(),
            batch_time: time_histogram(),
            repairs: Counter::default(),
            commits: Counter::default(),
            commit_failures: Counter::default(),
            commit_time: time_histogram(),
            queued: Gauge::default(),
            resources: Family::default(),
            memory: Gauge::default(),
            cpu: Gauge::default(),
            descriptors: Gauge::default(),
            liveness: Arc::default(),
        };
        registry.register(
            "build",
            "The daemon's version",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register(
            "http_requests",
            "Requests answered",
            metrics.requests.clone(),
        );
        let time = "Time from a request's head to its answer's";
        registry.register_with_unit(
            "http_request_duration",
            time,
            Unit::Seconds,
            metrics.request_time.clone(),
        );
        registry.register(
            "kernel_operations",
            "Operations that the kernel did or refused",
            metrics.operations.clone(),
        );
        let time = "Time of a batch of operations, from the first sent to the last answered";
        registry.register_with_unit(
            "kernel_batch_duration",
            time,
            Unit::Seconds,
            metrics.batch_time.clone(),
        );
        registry.register(
            "repairs",
            "Resources put right after others changed them",
            metrics.repairs.clone(),
        );
        registry.register(
            "store_commits",
            "Commits of the database",
            metrics.commits.clone(),
        );
        registry.register(
            "store_commit_failures",
            "Commits that failed",
            metrics.commit_failures.clone(),
        );
        registry.register_with_unit(
            "store_commit_duration",
            "Time of a commit, its fsync included",
            Unit::Seconds,
            metrics.commit_time.clone(),
        );
        registry.register(
            "queue_depth",
            "Requests that wait for the engine",
            metrics.queued.clone(),
        );
        registry.register("resources", "Resources recorded", metrics.resources.clone());
        registry.register_with_unit(
            "process_resident_memory",
            "Memory in use",
            Unit::Bytes,
            metrics.memory.clone(),
        );
        registry.register_with_unit(
            "process_cpu",
            "Processor time used since the start",
            Unit::Seconds,
            metrics.cpu.clone(),
        );
        registry.register(
            "process_open_fds",
            "Open file descriptors",
            metrics.descriptors.clone(),
        );
        metrics.registry = registry;
        metrics
    }
}

impl Metrics {
    /// Counts a request and its time. `route` is `None` if no route matches the path.
    pub fn record_request(&self, method: &str, route: Option<&str>, code: u16, time: Duration) {
        self.liveness.record_progress(Part::Runtime);
        let (method, route) = (known_method(method), route.unwrap_or("none").to_owned());
        let label = Route {
            method: method.clone(),
            route: route.clone(),
        };
        self.request_time
            .get_or_create(&label)
            .observe(time.as_secs_f64());
        self.requests
            .get_or_create(&Request {
                method,
                route,
                code,
            })
            .inc();
    }

    /// Counts a kernel operation that succeeded, or failed with this error.
    pub fn record_operation(&self, op: &str, error: Option<nix::errno::Errno>) {
        let result = error.map_or_else(|| "ok".to_owned(), |errno| format!("{errno:?}"));
        self.operations
            .get_or_create(&Operation {
                op: op.to_owned(),
                result,
            })
            .inc();
    }

    /// Counts the time of a batch of kernel operations.
    pub fn record_batch(&self, time: Duration) {
        self.batch_time.observe(time.as_secs_f64());
    }

    /// Counts a resource whose drift was repaired.
    pub fn record_repair(&self) {
        self.repairs.inc();
    }

    /// Counts a commit and its time.
    pub fn record_commit(&self, time: Duration, failed: bool) {
        self.liveness.record_progress(Part::Engine);
        self.commits.inc();
        self.commit_failures.inc_by(u64::from(failed));
        self.commit_time.observe(time.as_secs_f64());
    }

    /// Renders all metrics as OpenMetrics text, the gauges updated: `states` counts the resources
    /// of each kind by their state, `queued` is the number of queued writes.
    ///
    /// # Errors
    /// If the text cannot be formatted.
    pub fn render(
        &self,
        states: &[(Kind, BTreeMap<State, usize>)],
        queued: usize,
    ) -> Result<String, std::fmt::Error> {
        self.queued.set(i64::try_from(queued).unwrap_or(i64::MAX));
        for (kind, states) in states {
            for state in State::ALL {
                let label = ResourceState {
                    kind: kind.to_string(),
                    state: state.as_str().to_owned(),
                };
                let count = states.get(&state).copied().unwrap_or(0);
                self.resources
                    .get_or_create(&label)
                    .set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
        self.update_process_gauges();
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Reads the gauges of the process from proc_pid_stat(5); if that fails, the last values stay.
    fn update_process_gauges(&self) {
        let Ok(process) = procfs::process::Process::myself() else {
            return;
        };
        if let Ok(stat) = process.stat() {
            let ticks = procfs::ticks_per_second() as f64;
            self.memory
                .set(i64::try_from(stat.rss * procfs::page_size()).unwrap_or(i64::MAX));
            self.cpu.set((stat.utime + stat.stime) as f64 / ticks);
        }
        if let Ok(count) = process.fd_count() {
            self.descriptors
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

/// Returns the method; unknown methods become one, so that clients cannot create labels.
fn known_method(method: &str) -> String {
    match method {
        "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" => method.to_owned(),
        _ => "other".to_owned(),
    }
}
