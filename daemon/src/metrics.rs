//! Prometheus metrics. Every label has a bounded number of values, except those of links, which are
//! there on request.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    fs,
    sync::Arc,
    time::Duration,
};

use netnsd_api::{Kind, ResourceRef, State, Statistics};
use nix::{
    sys::resource::{RLIM_INFINITY, Resource, getrlimit},
    unistd::{SysconfVar, sysconf},
};
use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeLabelSet, EncodeMetric,
        text::{encode_eof, encode_registry},
    },
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
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

/// Labels of a link.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LinkLabels {
    /// Namespace; empty for the host.
    namespace: String,
    interface: String,
    resource: String,
}

/// Counters of a link that bears an owner tag.
#[derive(Debug, Clone)]
pub struct LinkCounters {
    /// Namespace; `None` for the host.
    pub namespace: Option<String>,
    /// Name of the device.
    pub interface: String,
    /// Resource that the device belongs to.
    pub resource: ResourceRef,
    /// Counters since the device was created.
    pub statistics: Statistics,
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
    ready: Gauge,
    /// Progress counters that the watchdog reads.
    pub liveness: Arc<Liveness>,
}

/// Returns a histogram of times from 0.5 ms to some 8 s. Each route has one, so the buckets are few.
fn time_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 4.0, 8))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut root = Registry::default();
        root.register_collector(Box::new(ProcessCollector));
        let registry = root.sub_registry_with_prefix("netnsd");
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
            ready: Gauge::default(),
            liveness: Arc::default(),
        };
        registry.register(
            "build",
            "Version of the daemon",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register(
            "http_requests",
            "HTTP requests answered",
            metrics.requests.clone(),
        );
        let time = "Time from the head of a request to the head of its response";
        registry.register_with_unit(
            "http_request_duration",
            time,
            Unit::Seconds,
            metrics.request_time.clone(),
        );
        registry.register(
            "kernel_operations",
            "Kernel operations that succeeded or failed",
            metrics.operations.clone(),
        );
        let time = "Time that the kernel takes for the operations of one batch of writes";
        registry.register_with_unit(
            "kernel_batch_duration",
            time,
            Unit::Seconds,
            metrics.batch_time.clone(),
        );
        registry.register(
            "repairs",
            "Resources repaired after a change made outside netnsd",
            metrics.repairs.clone(),
        );
        registry.register(
            "store_commits",
            "Commits to the database, failed ones included",
            metrics.commits.clone(),
        );
        registry.register(
            "store_commit_failures",
            "Commits to the database that failed",
            metrics.commit_failures.clone(),
        );
        registry.register_with_unit(
            "store_commit_duration",
            "Time of a commit to the database, including its fsync",
            Unit::Seconds,
            metrics.commit_time.clone(),
        );
        registry.register(
            "queue_depth",
            "Writes that wait in the queue",
            metrics.queued.clone(),
        );
        registry.register(
            "resources",
            "Resources by kind and state",
            metrics.resources.clone(),
        );
        registry.register(
            "ready",
            "1 once the initial reconciliation has finished, else 0",
            metrics.ready.clone(),
        );
        metrics.registry = root;
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

    /// Counts a kernel operation by its result: `ok`, or the name of an error.
    pub fn record_operation(&self, op: &str, result: String) {
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

    /// Renders all metrics, the gauges updated: `states` counts the resources of each kind by their
    /// state, `queued` is the number of queued writes, `links` are those whose counters are asked
    /// for.
    ///
    /// # Errors
    /// If the text cannot be formatted.
    pub fn render(
        &self,
        format: Format,
        ready: bool,
        states: &[(Kind, BTreeMap<State, usize>)],
        queued: usize,
        links: Vec<LinkCounters>,
    ) -> Result<String, fmt::Error> {
        self.ready.set(i64::from(ready));
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
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        if !links.is_empty() {
            let mut registry = Registry::default();
            registry.register_collector(Box::new(LinkCollector(links)));
            encode_registry(&mut text, &registry)?;
        }
        encode_eof(&mut text)?;
        match format {
            Format::OpenMetrics => Ok(text),
            Format::Prometheus => to_prometheus_text(&text),
        }
    }
}

/// Text formats of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus text format 0.0.4.
    Prometheus,
}

impl Format {
    /// Returns the media type of the format.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Converts OpenMetrics text to the Prometheus text format 0.0.4. Samples are the same in both; the
/// older format names a counter and an info by their samples, and has neither units nor `# EOF`.
fn to_prometheus_text(open_metrics: &str) -> Result<String, fmt::Error> {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').map(|(_, help)| help);
        } else if let Some((family, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            if let Some(help) = help.take() {
                writeln!(text, "# HELP {family}{suffix} {help}")?;
            }
            writeln!(text, "# TYPE {family}{suffix} {kind}")?;
        } else if !line.starts_with('#') {
            writeln!(text, "{line}")?;
        }
    }
    Ok(text)
}

/// Collects the metrics of the process from proc_pid_stat(5), under the names that Prometheus'
/// client libraries agree on. Values that cannot be read are left out.
#[derive(Debug)]
struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        if let Some(stat) = ProcessStat::read() {
            let cpu = ConstCounter::new(stat.cpu_time);
            let help = "User and system CPU time spent";
            let seconds = Some(&Unit::Seconds);
            cpu.encode(encoder.encode_descriptor(
                "process_cpu",
                help,
                seconds,
                MetricType::Counter,
            )?)?;
            if let Some(boot) = read_boot_time() {
                let start = boot + stat.started_after_boot;
                let help = "Start time of the process since the Unix epoch";
                encode_gauge(&mut encoder, "process_start_time", help, seconds, start)?;
            }
            let memory = [
                (
                    "process_virtual_memory",
                    "Virtual memory size",
                    stat.virtual_bytes,
                ),
                (
                    "process_resident_memory",
                    "Resident memory size",
                    stat.resident_bytes,
                ),
            ];
            for (name, help, bytes) in memory {
                encode_gauge(&mut encoder, name, help, Some(&Unit::Bytes), bytes)?;
            }
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            let help = "Open file descriptors";
            let count = open.count() as f64;
            encode_gauge(&mut encoder, "process_open_fds", help, None, count)?;
        }
        if let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE)
            && limit != RLIM_INFINITY
        {
            let help = "Limit of open file descriptors";
            encode_gauge(&mut encoder, "process_max_fds", help, None, limit as f64)?;
        }
        Ok(())
    }
}

/// Values of this process from proc_pid_stat(5), in seconds and bytes.
struct ProcessStat {
    cpu_time: f64,
    started_after_boot: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
}

impl ProcessStat {
    fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The name before may have spaces and parentheses; the third field, the state, follows it.
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let ticks = sysconf(SysconfVar::CLK_TCK).ok()?? as f64;
        let page_size = sysconf(SysconfVar::PAGE_SIZE).ok()?? as f64;
        Some(Self {
            cpu_time: (field(14)? + field(15)?) / ticks,
            started_after_boot: field(22)? / ticks,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * page_size,
        })
    }
}

/// Reads the time of the boot in seconds since the Unix epoch (`btime`, proc_stat(5)).
fn read_boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    seconds.trim().parse().ok()
}

/// Reads one counter of a link.
type ReadCounter = fn(&Statistics) -> u64;

/// Names, units, descriptions and sources of the counters of links: after `netnsd_link_` they are
/// named as node_exporter names those of the host.
const LINK_COUNTERS: [(&str, Option<Unit>, &str, ReadCounter); 8] = [
    ("receive", Some(Unit::Bytes), "Bytes received", |link| {
        link.rx_bytes
    }),
    ("receive_packets", None, "Packets received", |link| {
        link.rx_packets
    }),
    ("receive_errs", None, "Receive errors", |link| {
        link.rx_errors
    }),
    ("receive_drop", None, "Packets dropped on receipt", |link| {
        link.rx_dropped
    }),
    ("transmit", Some(Unit::Bytes), "Bytes sent", |link| {
        link.tx_bytes
    }),
    ("transmit_packets", None, "Packets sent", |link| {
        link.tx_packets
    }),
    ("transmit_errs", None, "Send errors", |link| link.tx_errors),
    (
        "transmit_drop",
        None,
        "Packets dropped before they were sent",
        |link| link.tx_dropped,
    ),
];

/// Collects the counters of links, as they were read for one request.
#[derive(Debug)]
struct LinkCollector(Vec<LinkCounters>);

impl Collector for LinkCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let labelled: Vec<(LinkLabels, &Statistics)> = self
            .0
            .iter()
            .map(|link| {
                let labels = LinkLabels {
                    namespace: link.namespace.clone().unwrap_or_default(),
                    interface: link.interface.clone(),
                    resource: format!("{}/{}", link.resource.kind, link.resource.name),
                };
                (labels, &link.statistics)
            })
            .collect();
        for (name, unit, help, read) in &LINK_COUNTERS {
            let name = format!("netnsd_link_{name}");
            let counter = MetricType::Counter;
            let mut family = encoder.encode_descriptor(&name, help, unit.as_ref(), counter)?;
            for (labels, statistics) in &labelled {
                ConstCounter::new(read(statistics)).encode(family.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

fn encode_gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: f64,
) -> Result<(), fmt::Error> {
    let gauge = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    ConstGauge::new(value).encode(gauge)
}

/// Returns the method; unknown methods become one, so that clients cannot create labels.
fn known_method(method: &str) -> String {
    match method {
        "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" => method.to_owned(),
        _ => "other".to_owned(),
    }
}
