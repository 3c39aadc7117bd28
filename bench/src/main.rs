//! What netnsd costs beside the kernel's own price, and beside what people use today: `bench/run`.
//!
//! The workload is W(N): one bridge for each thousand, N namespaces, in each `lo` up and an `eth0`
//! with an address and a default route, its other veth end a port of the bridge. Contestants take
//! turns; each round is a process in a sandbox of its own.

#![forbid(unsafe_code)]

mod others;
mod ours;
mod raw;
mod report;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};
use netnsd::sandbox;
use sqlx::{
    ConnectOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use crate::others::OTHERS;

/// What a round found: times in milliseconds, unless the name says otherwise.
pub type Measured = BTreeMap<&'static str, f64>;

/// All rounds: the values, by contestant, N and what was measured.
pub type Results = BTreeMap<(String, u32), BTreeMap<String, Vec<f64>>>;

#[derive(Parser)]
struct Arguments {
    /// How many namespaces.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 500, 1000])]
    n: Vec<u32>,
    /// How many rounds each contestant has.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Only these contestants.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where results.json and results.svg are written.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// One round of one contestant, in a sandbox of its own; prints what it measured as JSON.
    #[command(hide = true)]
    Round {
        name: String,
        n: u32,
        dir: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.part {
        Some(Part::Round { name, n, dir }) => round(name, *n, dir.as_deref()),
        None => compare(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netnsd-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// How many ports a bridge has at the most; beyond that there are several (the kernel's limit is
/// 1023, `BR_MAX_PORTS`).
const PORTS: u32 = 1000;

/// On which bridge a namespace is, and with which address there.
pub fn place(i: u32) -> (u32, [u8; 4]) {
    let (bridge, port) = (i / PORTS, i % PORTS);
    (
        bridge,
        [10, bridge as u8, (port / 250) as u8, (port % 250) as u8 + 1],
    )
}

/// A bridge's own address.
pub fn gateway(bridge: u32) -> [u8; 4] {
    [10, bridge as u8, 0, 254]
}

/// Milliseconds since then.
pub fn ms(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// Waits until the kernel has done what it does by itself after links came or went: what IPv6 says
/// of itself goes to every port of a bridge, for some ten seconds where there are a thousand, and
/// fifty carriers are told of in each second; whatever is measured meanwhile pays for it. Not for
/// ever: the machine may have other work.
pub fn quiet() {
    /// How long the processors are watched, how much of it they may be busy, and how often that is
    /// tried.
    const WATCHED: Duration = Duration::from_secs(1);
    const BUSY: f64 = 0.01;
    const TRIES: u32 = 40;
    for _ in 0..TRIES {
        let before = ticks();
        std::thread::sleep(WATCHED);
        let after = ticks();
        if (after.0 - before.0) <= BUSY * (after.1 - before.1) {
            return;
        }
    }
}

/// For how long all processors were busy, and for how long they were there (`proc(5)`, the first
/// line of `stat`), in ticks.
fn ticks() -> (f64, f64) {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: Vec<f64> = stat
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|ticks| ticks.parse().ok())
        .collect();
    let idle = |ticks: &[f64]| ticks.iter().skip(3).take(2).sum::<f64>();
    (ticks.iter().sum::<f64>() - idle(&ticks), ticks.iter().sum())
}

/// The contestants for this N that can be had here.
fn contestants(n: u32) -> Vec<&'static str> {
    let others = OTHERS
        .iter()
        .filter(|other| n <= other.most)
        .filter(|other| {
            let there = other.is_there();
            if !there {
                eprintln!("{}: not installed, left out", other.name);
            }
            there
        });
    let ours = ["raw", "raw-singly", "netnsd", "netnsd-singly", "netnsd-16"];
    ours.into_iter()
        .chain(others.map(|other| other.name))
        .collect()
}

fn compare(arguments: &Arguments) -> io::Result<()> {
    let mut results = Results::new();
    for n in &arguments.n {
        let mut names = contestants(*n);
        names.retain(|name| {
            arguments.only.is_empty() || arguments.only.iter().any(|only| only == name)
        });
        for round in 1..=arguments.rounds {
            for name in &names {
                eprint!(
                    "W({n}), round {round} of {}: {name:<14}\r",
                    arguments.rounds
                );
                let found = round_apart(name, *n)?;
                let kept = results.entry(((*name).to_owned(), *n)).or_default();
                for (what, value) in found {
                    kept.entry(what).or_default().push(value);
                }
            }
        }
    }
    eprintln!();
    fs::create_dir_all(&arguments.out)?;
    print!("{}", report::tables(&results));
    report::write(&results, &arguments.out)
}

/// A round in a process of its own, and then some time in which the kernel clears away what it
/// left: otherwise the next one pays for that.
fn round_apart(name: &str, n: u32) -> io::Result<BTreeMap<String, f64>> {
    let output = Command::new(std::env::current_exe()?)
        .args(["round", name, &n.to_string()])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(io::Error::other(format!("{name} at W({n}): {said}")));
    }
    std::thread::sleep(Duration::from_millis(500 + 2 * u64::from(n)));
    serde_json::from_slice(&output.stdout).map_err(io::Error::other)
}

/// What a contestant does in its round.
fn round(name: &str, n: u32, dir: Option<&Path>) -> io::Result<()> {
    // Before the sandbox: on a disk, where a commit costs what it costs.
    let own = tempfile::tempdir()?;
    sandbox::enter()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let start = Instant::now();
    let measured = match name {
        "raw" => {
            let made = raw::make(n)?;
            let make = ms(start);
            quiet();
            let start = Instant::now();
            made.dump()?;
            let dump = ms(start);
            let mut measured = Measured::from([("make", make), ("dump", dump)]);
            ours::packets(&mut measured)?;
            quiet();
            let start = Instant::now();
            made.delete()?;
            measured.insert("delete", ms(start));
            measured
        }
        "raw-singly" => {
            let mut record = Durable::open(&runtime, own.path())?;
            let start = Instant::now();
            raw::make_singly(n, |i| record.commit(i))?;
            Measured::from([("make", ms(start))])
        }
        "netnsd" => runtime.block_on(ours::whole(n, own.path()))?,
        "netnsd-singly" => runtime.block_on(ours::singly(n, 1, own.path()))?,
        "netnsd-16" => runtime.block_on(ours::singly(n, 16, own.path()))?,
        "netnsd-boot" => runtime.block_on(ours::boot(dir.unwrap_or(own.path())))?,
        _ => {
            let other = OTHERS.iter().find(|other| other.name == name);
            let other =
                other.ok_or_else(|| io::Error::other(format!("{name} is no contestant")))?;
            other.make(n)?;
            let mut measured = Measured::from([("make", ms(start))]);
            if other.declares {
                let start = Instant::now();
                other.make(n)?;
                measured.insert("again", ms(start));
            }
            measured
        }
    };
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

/// A database that is written as netnsd's is: each commit durable.
struct Durable<'r> {
    runtime: &'r tokio::runtime::Runtime,
    connection: sqlx::SqliteConnection,
}

impl<'r> Durable<'r> {
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
