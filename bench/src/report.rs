//! Reports: tables, JSON and a plot.

use std::{collections::BTreeSet, fs, io, path::Path};

use comfy_table::{CellAlignment, Table, presets};
use plotters::prelude::*;
use serde_json::json;

use crate::{Results, netnsd::percentile};

/// Returns the median of all rounds.
fn median(results: &Results, name: &str, n: u32, measurement: &str) -> Option<f64> {
    let values = results.get(&(name.to_owned(), n))?.get(measurement)?;
    Some(percentile(values.clone(), 50))
}

fn measured_sizes(results: &Results) -> Vec<u32> {
    let sizes: BTreeSet<u32> = results.keys().map(|(_, n)| *n).collect();
    sizes.into_iter().collect()
}

fn contestant_names(results: &Results) -> Vec<&str> {
    let mut names: Vec<&str> = results.keys().map(|(name, _)| name.as_str()).collect();
    names.dedup();
    names
}

/// A target: a measurement, an optional reference, and a limit for their ratio or difference.
struct Target {
    title: &'static str,
    measured: (&'static str, &'static str),
    reference: Option<(&'static str, &'static str)>,
    limit: Limit,
}

#[derive(Clone, Copy)]
enum Limit {
    /// Maximum ratio to the reference, or maximum value without one.
    MaxRatio(f64),
    /// Minimum ratio to the reference.
    MinRatio(f64),
    /// Maximum difference to the reference.
    MaxDifference(f64),
}

const TARGETS: &[Target] = {
    const fn target(
        title: &'static str,
        measured: (&'static str, &'static str),
        reference: Option<(&'static str, &'static str)>,
        limit: Limit,
    ) -> Target {
        Target {
            title,
            measured,
            reference,
            limit,
        }
    }
    use Limit::{MaxDifference, MaxRatio, MinRatio};
    &[
        target(
            "W(N) as one document, beside the floor",
            ("netnsd", "make"),
            Some(("raw", "make")),
            MaxRatio(1.25),
        ),
        target(
            "a tutorial's script, beside it",
            ("ip-script", "make"),
            Some(("netnsd", "make")),
            MinRatio(20.0),
        ),
        target(
            "ip -batch, beside it",
            ("ip-batch", "make"),
            Some(("netnsd", "make")),
            MinRatio(2.0),
        ),
        target(
            "the same document again, ms",
            ("netnsd", "again"),
            None,
            MaxRatio(20.0),
        ),
        target(
            "single PUTs, beside singly and durable",
            ("netnsd-singly", "make"),
            Some(("raw-singly", "make")),
            MaxRatio(1.5),
        ),
        target(
            "single PUTs from 16, beside the floor",
            ("netnsd-16", "make"),
            Some(("raw", "make")),
            MaxRatio(1.3),
        ),
        target(
            "GET one, beside axum alone",
            ("netnsd", "get one /s"),
            Some(("netnsd", "axum /s")),
            MinRatio(0.5),
        ),
        target(
            "GET the list, over serialising it, ms",
            ("netnsd", "get list"),
            Some(("netnsd", "serialise list")),
            MaxDifference(5.0),
        ),
        target(
            "start over what is right, beside dumps",
            ("netnsd", "start"),
            Some(("raw", "dump")),
            MaxRatio(1.5),
        ),
        target(
            "start after a reboot, beside the floor",
            ("netnsd", "start after reboot"),
            Some(("raw", "make")),
            MaxRatio(1.25),
        ),
        target(
            "a veth end is back, p50, ms",
            ("netnsd", "heal p50"),
            None,
            MaxRatio(20.0),
        ),
        target(
            "a veth end is back, p99, ms",
            ("netnsd", "heal p99"),
            None,
            MaxRatio(50.0),
        ),
        target(
            "delete all, beside raw",
            ("netnsd", "delete"),
            Some(("raw", "delete")),
            MaxRatio(1.25),
        ),
        target(
            "memory, idle, MB",
            ("netnsd", "rss MB"),
            None,
            MaxRatio(25.0),
        ),
        target(
            "processor, idle, %",
            ("netnsd", "idle cpu %"),
            None,
            MaxRatio(0.1),
        ),
        target(
            "exec, beside ip netns exec",
            ("netnsd", "exec"),
            Some(("netnsd", "ip netns exec")),
            MaxRatio(1.3),
        ),
        target(
            "start on an empty directory, ms",
            ("netnsd", "start empty"),
            None,
            MaxRatio(50.0),
        ),
        target(
            "Gbit/s through it, beside raw",
            ("netnsd", "Gbit/s"),
            Some(("raw", "Gbit/s")),
            MinRatio(0.95),
        ),
    ]
};

/// Measurements that must not grow with N: contestant, measurement, and true if it counts per
/// namespace.
const GROWTH: &[(&str, &str, bool)] = &[
    ("netnsd", "make", true),
    ("raw", "make", true),
    ("netnsd", "change one", false),
];

impl Limit {
    /// Returns the ratio or difference to the reference, and true if it is within the limit.
    fn compare(self, value: f64, reference: Option<f64>) -> (f64, bool) {
        let ratio = value / reference.unwrap_or(1.0);
        match self {
            Limit::MaxRatio(max) => (ratio, ratio <= max),
            Limit::MinRatio(min) => (ratio, ratio >= min),
            Limit::MaxDifference(max) => {
                let difference = value - reference.unwrap_or(0.0);
                (difference, difference <= max)
            }
        }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Limit::MaxRatio(max) => write!(f, "<= {max}"),
            Limit::MinRatio(min) => write!(f, ">= {min}"),
            Limit::MaxDifference(max) => write!(f, "<= +{max}"),
        }
    }
}

/// Returns a table with a column for each N after those of the header.
fn create_table(header: &[&str], sizes: &[u32]) -> Table {
    let mut table = Table::new();
    let header = header
        .iter()
        .map(|&text| text.to_owned())
        .chain(sizes.iter().map(|n| format!("W({n})")));
    table.load_style(presets::ASCII_MARKDOWN).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Returns tables of W(N) by contestant, of targets, of growth, and of all measurements.
pub fn format_tables(results: &Results) -> String {
    let sizes = measured_sizes(results);
    [
        apply_time_table(results, &sizes),
        target_table(results, &sizes),
        growth_table(results, &sizes),
        measurement_table(results, &sizes),
    ]
    .map(|table| format!("{table}\n"))
    .join("\n")
}

/// Times to apply W(N) by contestant.
fn apply_time_table(results: &Results, sizes: &[u32]) -> Table {
    let mut table = create_table(&["W(N), ms (x floor)"], sizes);
    for name in contestant_names(results) {
        let cell = |n: &u32| match (
            median(results, name, *n, "make"),
            median(results, "raw", *n, "make"),
        ) {
            (Some(ms), Some(floor)) => format!("{ms:.0} ({:.2})", ms / floor),
            (Some(ms), None) => format!("{ms:.0}"),
            (None, _) => String::new(),
        };
        table.add_row(std::iter::once(name.to_owned()).chain(sizes.iter().map(cell)));
    }
    table
}

/// The targets, and which of them are met.
fn target_table(results: &Results, sizes: &[u32]) -> Table {
    let mut table = create_table(&["mark", "limit"], sizes);
    for target in TARGETS {
        let compare = |n: u32| {
            let value = median(results, target.measured.0, n, target.measured.1)?;
            let reference = match target.reference {
                Some((name, measurement)) => Some(median(results, name, n, measurement)?),
                None => None,
            };
            Some(target.limit.compare(value, reference))
        };
        let cell = |n: &u32| {
            compare(*n).map_or(String::new(), |(value, is_met)| {
                format!("{value:.2} {}", if is_met { "ok" } else { "no" })
            })
        };
        table.add_row(
            [target.title.to_owned(), target.limit.to_string()]
                .into_iter()
                .chain(sizes.iter().map(cell)),
        );
    }
    table
}

/// Growth of measurements with N.
fn growth_table(results: &Results, sizes: &[u32]) -> Table {
    let mut table = create_table(&["growth, x the smallest W(N)"], sizes);
    for (name, measurement, per_namespace) in GROWTH {
        let cost = |n: u32| {
            let count = if *per_namespace { f64::from(n) } else { 1.0 };
            Some(median(results, name, n, measurement)? / count)
        };
        let smallest = sizes.first().and_then(|n| cost(*n));
        let cell = |n: &u32| match (cost(*n), smallest) {
            (Some(cost), Some(smallest)) => format!("{:.2}", cost / smallest),
            _ => String::new(),
        };
        let unit = if *per_namespace { ", a namespace" } else { "" };
        table.add_row(
            std::iter::once(format!("{name}: {measurement}{unit}")).chain(sizes.iter().map(cell)),
        );
    }
    table
}

/// All measurements of all contestants.
fn measurement_table(results: &Results, sizes: &[u32]) -> Table {
    let mut table = create_table(&["all that was measured"], sizes);
    for name in contestant_names(results) {
        let measurements: BTreeSet<&String> = sizes
            .iter()
            .filter_map(|n| results.get(&(name.to_owned(), *n)))
            .flat_map(|values| values.keys())
            .collect();
        for measurement in measurements {
            let cell = |n: &u32| {
                median(results, name, *n, measurement)
                    .map_or(String::new(), |value| format!("{value:.2}"))
            };
            table.add_row(
                std::iter::once(format!("{name}: {measurement}")).chain(sizes.iter().map(cell)),
            );
        }
    }
    table
}

/// Writes all values to `results.json`, and a plot of W(N) by contestant to `results.svg`.
pub fn write_files(results: &Results, out: &Path) -> io::Result<()> {
    let rounds: Vec<_> = results
        .iter()
        .map(|((name, n), values)| json!({"contestant": name, "n": n, "values": values}))
        .collect();
    fs::write(
        out.join("results.json"),
        serde_json::to_string_pretty(&rounds)? + "\n",
    )?;
    plot_apply_times(results, &out.join("results.svg")).map_err(io::Error::other)
}

fn plot_apply_times(results: &Results, path: &Path) -> Result<(), String> {
    let sizes = measured_sizes(results);
    let (Some(min), Some(max)) = (sizes.first(), sizes.last()) else {
        return Ok(());
    };
    let root = SVGBackend::new(path, (900, 560)).into_drawing_area();
    let text = |error: DrawingAreaErrorKind<_>| error.to_string();
    root.fill(&WHITE).map_err(text)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("W(N): milliseconds per namespace", ("sans-serif", 20))
        .margin(20)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(
            (f64::from(*min)..f64::from(*max) * 1.01).log_scale(),
            (0.3..300.0).log_scale(),
        )
        .map_err(text)?;
    chart
        .configure_mesh()
        .x_desc("N")
        .y_desc("ms per namespace")
        .draw()
        .map_err(text)?;
    for (i, name) in contestant_names(results).into_iter().enumerate() {
        let points: Vec<(f64, f64)> = sizes
            .iter()
            .filter_map(|n| {
                Some((
                    f64::from(*n),
                    median(results, name, *n, "make")? / f64::from(*n),
                ))
            })
            .collect();
        let color = Palette99::pick(i).to_rgba();
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)).point_size(3))
            .map_err(text)?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()
        .map_err(text)?;
    root.present().map_err(text)
}
