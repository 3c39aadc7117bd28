//! Benchmarks of netnsd against raw netlink and against other tools: `bench/run`.
//!
//! The workload is W(N): one bridge for each thousand namespaces, and N namespaces, each with `lo`
//! up and an `eth0` with an address and a default route, whose veth peer is a port of the bridge.
//! Contestants take turns; each round is a process in a sandbox of its own.

#![forbid(unsafe_code)]

mod baselines;
mod netnsd;
mod raw_netlink;
mod report;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use ::netnsd::sandbox;
use clap::{Parser, Subcommand};
use sqlx::{
    ConnectOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use crate::baselines::BASELINES;

/// Results of a round: times in milliseconds, unless the name has another unit.
pub type Measurements = BTreeMap<&'static str, f64>;

/// Values of all rounds, by contestant, N and measurement.
pub type Results = BTreeMap<(String, u32), BTreeMap<String, Vec<f64>>>;

#[derive(Parser)]
struct Arguments {
    /// Numbers of namespaces.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 500, 1000])]
    n: Vec<u32>,
    /// Number of rounds of each contestant.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Only these contestants.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Output directory for results.json and results.svg.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    #[command(subcommand)]
    command: Option<Subcommands>,
}

#[derive(Subcommand)]
enum Subcommands {
    /// Runs one round of one contestant in a sandbox of its own; prints its results as JSON.
    #[command(hide = true)]
    Round {
        name: String,
        n: u32,
        dir: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.command {
        Some(Subcommands::Round { name, n, dir }) => run_round(name, *n, dir.as_deref()),
        None => compare_contestants(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netnsd-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Maximum number of ports of a bridge of W(N) (the kernel's limit is 1023, `BR_MAX_PORTS`).
const PORTS_PER_BRIDGE: u32 = 1000;

/// Returns the bridge of a namespace, and its address there.
pub fn bridge_and_address(i: u32) -> (u32, [u8; 4]) {
    let (bridge, port) = (i / PORTS_PER_BRIDGE, i % PORTS_PER_BRIDGE);
    (
        bridge,
        [10, bridge as u8, (port / 250) as u8, (port % 250) as u8 + 1],
    )
}

/// Returns the address of a bridge.
pub fn gateway_address(bridge: u32) -> [u8; 4] {
    [10, bridge as u8, 0, 254]
}

/// Returns the milliseconds since a time.
pub fn elapsed_ms(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// Waits until the processors are idle, but not forever.
///
/// After links were created or deleted the kernel works in the background, at the cost of whatever
/// is measured meanwhile: IPv6 sends multicast to every port of a bridge, for some ten seconds with
/// a thousand ports, and link watch handles fifty carrier changes a second.
pub fn wait_until_idle() {
    const INTERVAL: Duration = Duration::from_secs(1);
    /// Maximum fraction of the interval that idle processors are busy.
    const MAX_BUSY: f64 = 0.01;
    /// The machine may have other work, so do not wait forever.
    const TRIES: u32 = 40;
    for _ in 0..TRIES {
        let before = cpu_ticks();
        std::thread::sleep(INTERVAL);
        let after = cpu_ticks();
        if (after.0 - before.0) <= MAX_BUSY * (after.1 - before.1) {
            return;
        }
    }
}

/// Returns the busy and the total time of all processors in ticks (`proc(5)`, first line of
/// `stat`).
fn cpu_ticks() -> (f64, f64) {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: Vec<f64> = stat
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|ticks| ticks.parse().ok())
        .collect();
    let total: f64 = ticks.iter().sum();
    let idle: f64 = ticks.iter().skip(3).take(2).sum();
    (total - idle, total)
}

/// Returns the contestants for an N that are installed.
fn list_contestants(n: u32) -> Vec<&'static str> {
    let mut names = vec!["raw", "raw-singly", "netnsd", "netnsd-singly", "netnsd-16"];
    for baseline in BASELINES.iter().filter(|baseline| n <= baseline.max_n) {
        if baseline.is_installed() {
            names.push(baseline.name);
        } else {
            eprintln!("{}: not installed, skipped", baseline.name);
        }
    }
    names
}

/// Runs all rounds of all contestants, and reports the results.
fn compare_contestants(arguments: &Arguments) -> io::Result<()> {
    let mut results = Results::new();
    for n in &arguments.n {
        let mut names = list_contestants(*n);
        names.retain(|name| {
            arguments.only.is_empty() || arguments.only.iter().any(|only| only == name)
        });
        for round in 1..=arguments.rounds {
            for name in &names {
                eprint!(
                    "W({n}), round {round} of {}: {name:<14}\r",
                    arguments.rounds
                );
                let measurements = spawn_round(name, *n)?;
                let values = results.entry(((*name).to_owned(), *n)).or_default();
                for (measurement, value) in measurements {
                    values.entry(measurement).or_default().push(value);
                }
            }
        }
    }
    eprintln!();
    fs::create_dir_all(&arguments.out)?;
    print!("{}", report::format_tables(&results));
    report::write_files(&results, &arguments.out)
}

/// Runs a round in a process of its own, and waits while the kernel cleans up after it.
fn spawn_round(name: &str, n: u32) -> io::Result<BTreeMap<String, f64>> {
    let output = Command::new(std::env::current_exe()?)
        .args(["round", name, &n.to_string()])
        .output()?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{name} at W({n}): {stderr}")));
    }
    std::thread::sleep(Duration::from_millis(500 + 2 * u64::from(n)));
    serde_json::from_slice(&output.stdout).map_err(io::Error::other)
}

/// Runs the round of a contestant in this process, and prints its results.
fn run_round(name: &str, n: u32, dir: Option<&Path>) -> io::Result<()> {
    // Created before the sandbox: on a disk, where a commit has its real cost.
    let temp_dir = tempfile::tempdir()?;
    sandbox::enter()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let start = Instant::now();
    let measured = match name {
        "raw" => {
            let network = raw_netlink::apply(n)?;
            let apply = elapsed_ms(start);
            wait_until_idle();
            let start = Instant::now();
            network.dump()?;
            let dump = elapsed_ms(start);
            let mut measured = Measurements::from([("make", apply), ("dump", dump)]);
            netnsd::measure_throughput(&mut measured)?;
            wait_until_idle();
            let start = Instant::now();
            network.delete()?;
            measured.insert("delete", elapsed_ms(start));
            measured
        }
        "raw-singly" => {
            let mut database = DurableDatabase::open(&runtime, temp_dir.path())?;
            let start = Instant::now();
            raw_netlink::apply_singly(n, |i| database.commit(i))?;
            Measurements::from([("make", elapsed_ms(start))])
        }
        "netnsd" => runtime.block_on(netnsd::measure_all(n, temp_dir.path()))?,
        "netnsd-singly" => runtime.block_on(netnsd::apply_singly(n, 1, temp_dir.path()))?,
        "netnsd-16" => runtime.block_on(netnsd::apply_singly(n, 16, temp_dir.path()))?,
        "netnsd-boot" => runtime.block_on(netnsd::start_on(dir.unwrap_or(temp_dir.path())))?,
        _ => {
            let baseline = BASELINES
                .iter()
                .find(|baseline| baseline.name == name)
                .ok_or_else(|| io::Error::other(format!("unknown contestant {name}")))?;
            baseline.apply(n)?;
            let mut measured = Measurements::from([("make", elapsed_ms(start))]);
            if baseline.is_declarative {
                let start = Instant::now();
                baseline.apply(n)?;
                measured.insert("again", elapsed_ms(start));
            }
            measured
        }
    };
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

/// A database with the durability of netnsd's.
struct DurableDatabase<'r> {
    runtime: &'r tokio::runtime::Runtime,
    connection: sqlx::SqliteConnection,
}

impl<'r> DurableDatabase<'r> {
    fn open(runtime: &'r tokio::runtime::Runtime, dir: &Path) -> io::Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(dir.join("raw.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let connection = runtime.block_on(async {
            let mut connection = options.connect().await?;
            sqlx::raw_sql("CREATE TABLE made (i INTEGER PRIMARY KEY)")
                .execute(&mut connection)
                .await?;
            Ok(connection)
        });
        Ok(Self {
            runtime,
            connection: connection.map_err(|error: sqlx::Error| io::Error::other(error))?,
        })
    }

    fn commit(&mut self, i: u32) -> io::Result<()> {
        let made = sqlx::query("INSERT INTO made VALUES (?)")
            .bind(i)
            .execute(&mut self.connection);
        self.runtime
            .block_on(made)
            .map(drop)
            .map_err(io::Error::other)
    }
}
