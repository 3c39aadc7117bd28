//! What was found, as tables, JSON and a plot.

use std::{collections::BTreeSet, fs, io, path::Path};

use comfy_table::{CellAlignment, Table, presets};
use plotters::prelude::*;
use serde_json::json;

use crate::{Results, ours::percentile};

/// The median of all rounds.
fn median(results: &Results, name: &str, n: u32, what: &str) -> Option<f64> {
    let values = results.get(&(name.to_owned(), n))?.get(what)?;
    Some(percentile(values.clone(), 50))
}

fn sizes(results: &Results) -> Vec<u32> {
    let sizes: BTreeSet<u32> = results.keys().map(|(_, n)| *n).collect();
    sizes.into_iter().collect()
}

fn names(results: &Results) -> Vec<&str> {
    let mut names: Vec<&str> = results.keys().map(|(name, _)| name.as_str()).collect();
    names.dedup();
    names
}

/// A mark: what is measured, beside what, and how many times that it may be.
struct Mark {
    what: &'static str,
    measured: (&'static str, &'static str),
    beside: Option<(&'static str, &'static str)>,
    limit: Limit,
}

#[derive(Clone, Copy)]
enum Limit {
    /// At most so many times what it stands beside; alone, at most this.
    Most(f64),
    /// At least.
    Least(f64),
    /// At most so much more.
    More(f64),
}

const MARKS: [Mark; 18] = {
    const fn mark(
        what: &'static str,
        measured: (&'static str, &'static str),
        beside: Option<(&'static str, &'static str)>,
        limit: Limit,
    ) -> Mark {
        Mark {
            what,
            measured,
            beside,
            limit,
        }
    }
    use Limit::{Least, More, Most};
    [
        mark(
            "W(N) as one document, beside the floor",
            ("netnsd", "make"),
            Some(("raw", "make")),
            Most(1.25),
        ),
        mark(
            "a tutorial's script, beside it",
            ("ip-script", "make"),
            Some(("netnsd", "make")),
            Least(20.0),
        ),
        mark(
            "ip -batch, beside it",
            ("ip-batch", "make"),
            Some(("netnsd", "make")),
            Least(2.0),
        ),
        mark(
            "the same document again, ms",
            ("netnsd", "again"),
            None,
            Most(20.0),
        ),
        mark(
            "single PUTs, beside singly and durable",
            ("netnsd-singly", "make"),
            Some(("raw-singly", "make")),
            Most(1.5),
        ),
        mark(
            "single PUTs from 16, beside the floor",
            ("netnsd-16", "make"),
            Some(("raw", "make")),
            Most(1.3),
        ),
        mark(
            "GET one, beside axum alone",
            ("netnsd", "get one /s"),
            Some(("netnsd", "axum /s")),
            Least(0.5),
        ),
        mark(
            "GET the list, over serialising it, ms",
            ("netnsd", "get list"),
            Some(("netnsd", "serialise list")),
            More(5.0),
        ),
        mark(
            "start over what is right, beside dumps",
            ("netnsd", "start"),
            Some(("raw", "dump")),
            Most(1.5),
        ),
        mark(
            "start after a reboot, beside the floor",
            ("netnsd", "start after reboot"),
            Some(("raw", "make")),
            Most(1.25),
        ),
        mark(
            "a veth end is back, p50, ms",
            ("netnsd", "heal p50"),
            None,
            Most(20.0),
        ),
        mark(
            "a veth end is back, p99, ms",
            ("netnsd", "heal p99"),
            None,
            Most(50.0),
        ),
        mark(
            "delete all, beside raw",
            ("netnsd", "delete"),
            Some(("raw", "delete")),
            Most(1.25),
        ),
        mark("memory, idle, MB", ("netnsd", "rss MB"), None, Most(25.0)),
        mark(
            "processor, idle, %",
            ("netnsd", "idle cpu %"),
            None,
            Most(0.1),
        ),
        mark(
            "exec, beside ip netns exec",
            ("netnsd", "exec"),
            Some(("netnsd", "ip netns exec")),
            Most(1.3),
        ),
        mark(
            "start on an empty directory, ms",
            ("netnsd", "start empty"),
            None,
            Most(50.0),
        ),
        mark(
            "Gbit/s through it, beside raw",
            ("netnsd", "Gbit/s"),
            Some(("raw", "Gbit/s")),
            Least(0.95),
        ),
    ]
};

/// What must not grow with N, by contestant: per namespace, or as it is.
const GROWTH: [(&str, &str, bool); 3] = [
    ("netnsd", "make", true),
    ("raw", "make", true),
    ("netnsd", "change one", false),
];

impl Limit {
    /// What is measured, against what it stands beside; and whether that is within the limit.
    fn weigh(self, value: f64, beside: Option<f64>) -> (f64, bool) {
        let times = value / beside.unwrap_or(1.0);
        match self {
            Limit::Most(most) => (times, times <= most),
            Limit::Least(least) => (times, times >= least),
            Limit::More(more) => {
                let over = value - beside.unwrap_or(0.0);
                (over, over <= more)
            }
        }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Limit::Most(most) => write!(f, "<= {most}"),
            Limit::Least(least) => write!(f, ">= {least}"),
            Limit::More(more) => write!(f, "<= +{more}"),
        }
    }
}

/// A table with a column for each N after those of the header.
fn table(header: &[&str], sizes: &[u32]) -> Table {
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

/// The tables: W(N) by each contestant, the marks, what grows, and all that was measured.
pub fn tables(results: &Results) -> String {
    let sizes = sizes(results);
    let mut made = table(&["W(N), ms (x floor)"], &sizes);
    for name in names(results) {
        let cell = |n: &u32| match (
            median(results, name, *n, "make"),
            median(results, "raw", *n, "make"),
        ) {
            (Some(ms), Some(floor)) => format!("{ms:.0} ({:.2})", ms / floor),
            (Some(ms), None) => format!("{ms:.0}"),
            (None, _) => String::new(),
        };
        made.add_row(std::iter::once(name.to_owned()).chain(sizes.iter().map(cell)));
    }
    let mut marks = table(&["mark", "limit"], &sizes);
    for mark in &MARKS {
        let found = |n: u32| {
            let value = median(results, mark.measured.0, n, mark.measured.1)?;
            let beside = match mark.beside {
                Some((name, what)) => Some(median(results, name, n, what)?),
                None => None,
            };
            Some(mark.limit.weigh(value, beside))
        };
        let cell = |n: &u32| {
            let text = |(value, kept)| format!("{value:.2} {}", if kept { "ok" } else { "no" });
            found(*n).map(text).unwrap_or_default()
        };
        marks.add_row(
            [mark.what.to_owned(), mark.limit.to_string()]
                .into_iter()
                .chain(sizes.iter().map(cell)),
        );
    }
    let mut growth = table(&["growth, x the smallest W(N)"], &sizes);
    for (name, what, a_namespace) in GROWTH {
        let cost = |n: u32| {
            Some(median(results, name, n, what)? / if a_namespace { f64::from(n) } else { 1.0 })
        };
        let least = sizes.first().and_then(|n| cost(*n));
        let cell = |n: &u32| match (cost(*n), least) {
            (Some(cost), Some(least)) => format!("{:.2}", cost / least),
            _ => String::new(),
        };
        let a_namespace = if a_namespace { ", a namespace" } else { "" };
        growth.add_row(
            std::iter::once(format!("{name}: {what}{a_namespace}")).chain(sizes.iter().map(cell)),
        );
    }
    let mut all = table(&["all that was measured"], &sizes);
    for name in names(results) {
        let whats: BTreeSet<&String> = sizes
            .iter()
            .filter_map(|n| results.get(&(name.to_owned(), *n)))
            .flat_map(|found| found.keys())
            .collect();
        for what in whats {
            let cell = |n: &u32| {
                median(results, name, *n, what).map_or(String::new(), |value| format!("{value:.2}"))
            };
            all.add_row(std::iter::once(format!("{name}: {what}")).chain(sizes.iter().map(cell)));
        }
    }
    format!("{made}\n\n{marks}\n\n{growth}\n\n{all}\n")
}

/// Writes `results.json`, every value of every round, and `results.svg`, W(N) by each contestant.
pub fn write(results: &Results, out: &Path) -> io::Result<()> {
    let rounds: Vec<_> = results
        .iter()
        .map(|((name, n), values)| json!({"contestant": name, "n": n, "values": values}))
        .collect();
    fs::write(
        out.join("results.json"),
        serde_json::to_string_pretty(&rounds)? + "\n",
    )?;
    plot(results, &out.join("results.svg")).map_err(io::Error::other)
}

fn plot(results: &Results, path: &Path) -> Result<(), String> {
    let sizes = sizes(results);
    let (Some(least), Some(most)) = (sizes.first(), sizes.last()) else {
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
            (f64::from(*least)..f64::from(*most) * 1.01).log_scale(),
            (0.3..300.0).log_scale(),
        )
        .map_err(text)?;
    chart
        .configure_mesh()
        .x_desc("N")
        .y_desc("ms per namespace")
        .draw()
        .map_err(text)?;
    for (i, name) in names(results).into_iter().enumerate() {
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
