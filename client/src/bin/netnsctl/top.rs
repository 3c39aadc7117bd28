//! `netnsctl top`: the rates of links.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use clap::Args;
use netnsd_api::{Items, Kind, LiveLink};
use serde::Serialize;
use terminal_size::{Height, terminal_size};

use crate::{
    api::percent_encode,
    cli::Context,
    error::CliError,
    output::{
        Format, compare_natural, format_table, print_json_or_yaml, print_line, print_text,
        write_raw,
    },
    resource::{collection_path, item_names},
};

/// Moves the cursor home and clears the terminal (ECMA-48: CUP, ED).
const CLEAR: &str = "\u{1b}[H\u{1b}[J";

/// `netnsctl top …`
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Only links in these namespaces [default: all, and the host's]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Seconds between two tables
    #[arg(short, long, value_name = "SECONDS", default_value_t = 1.0)]
    interval: f64,
}

/// Namespace (empty: the host's) and name of a link.
type LinkKey = (String, String);

/// Rates of a link over an interval.
#[derive(Debug, Serialize)]
struct Rates {
    /// `None` is the host's.
    namespace: Option<String>,
    interface: String,
    up: bool,
    rx_bits_per_s: f64,
    rx_packets_per_s: f64,
    tx_bits_per_s: f64,
    tx_packets_per_s: f64,
    /// Packets that were lost in the interval: errors and drops.
    lost: u64,
}

impl Rates {
    fn between(key: &LinkKey, before: &LiveLink, after: &LiveLink, seconds: f64) -> Self {
        let (old, new) = (&before.statistics, &after.statistics);
        // A new device of the same name starts from zero.
        let rate = |old: u64, new: u64| new.saturating_sub(old) as f64 / seconds;
        let lost = |link: &netnsd_api::Statistics| {
            link.rx_errors + link.rx_dropped + link.tx_errors + link.tx_dropped
        };
        let (namespace, interface) = key.clone();
        Self {
            namespace: (!namespace.is_empty()).then_some(namespace),
            interface,
            up: after.up && after.carrier,
            rx_bits_per_s: 8.0 * rate(old.rx_bytes, new.rx_bytes),
            rx_packets_per_s: rate(old.rx_packets, new.rx_packets),
            tx_bits_per_s: 8.0 * rate(old.tx_bytes, new.tx_bytes),
            tx_packets_per_s: rate(old.tx_packets, new.tx_packets),
            lost: lost(new).saturating_sub(lost(old)),
        }
    }

    fn name(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}:{}", self.interface),
            None => self.interface.clone(),
        }
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.name(),
            (if self.up { "up" } else { "down" }).to_owned(),
            format_rate(self.rx_bits_per_s),
            format_rate(self.rx_packets_per_s),
            format_rate(self.tx_bits_per_s),
            format_rate(self.tx_packets_per_s),
            self.lost.to_string(),
        ]
    }
}

/// Returns a rate with a prefix of SI: `12.3M`.
fn format_rate(rate: f64) -> String {
    let (mut rate, mut prefix) = (rate, "");
    for next in ["k", "M", "G", "T"] {
        if rate < 999.5 {
            break;
        }
        (rate, prefix) = (rate / 1000.0, next);
    }
    if prefix.is_empty() || rate >= 99.95 {
        format!("{rate:.0}{prefix}")
    } else {
        format!("{rate:.1}{prefix}")
    }
}

/// Shows the rates of links: again and again on a terminal, else once after one interval.
pub async fn show_top(context: &Context, args: &TopArgs) -> Result<(), CliError> {
    let interval = Duration::try_from_secs_f64(args.interval)
        .ok()
        .filter(|interval| !interval.is_zero())
        .ok_or_else(|| {
            CliError::Usage(format!(
                "--interval {}: expected a number of seconds above 0",
                args.interval
            ))
        })?;
    let is_live = context.format == Format::Table && io::stdout().is_terminal();
    let mut before = read_links(context, &args.names).await?;
    let mut since = Instant::now();
    loop {
        tokio::time::sleep(interval).await;
        let after = read_links(context, &args.names).await?;
        let now = Instant::now();
        let rates = compute_rates(&before, &after, now.duration_since(since));
        if !is_live {
            return print_rates(context, &rates);
        }
        write_raw(CLEAR)?;
        // The last line keeps the cursor.
        let height = terminal_size().map_or(24, |(_, Height(rows))| usize::from(rows));
        let table = format_rates(&rates);
        let lines: Vec<&str> = table.lines().take(height.saturating_sub(1)).collect();
        print_text(lines.join("\n") + "\n")?;
        (before, since) = (after, now);
    }
}

/// Returns the rates of the links that were there all the time, the busiest first.
fn compute_rates(
    before: &BTreeMap<LinkKey, LiveLink>,
    after: &BTreeMap<LinkKey, LiveLink>,
    time: Duration,
) -> Vec<Rates> {
    let mut rates: Vec<Rates> = after
        .iter()
        .filter_map(|(key, link)| {
            let old = before.get(key).filter(|old| old.index == link.index)?;
            Some(Rates::between(key, old, link, time.as_secs_f64()))
        })
        .collect();
    let total = |rates: &Rates| rates.rx_bits_per_s + rates.tx_bits_per_s;
    rates.sort_by(|a, b| {
        total(b)
            .total_cmp(&total(a))
            .then_with(|| compare_natural(&a.name(), &b.name()))
    });
    rates
}

fn format_rates(rates: &[Rates]) -> String {
    let header = [
        "LINK", "STATE", "RX bit/s", "RX pkt/s", "TX bit/s", "TX pkt/s", "LOST",
    ];
    format_table(&header, rates.iter().map(Rates::row).collect())
}

fn print_rates(context: &Context, rates: &[Rates]) -> Result<(), CliError> {
    let body = serde_json::to_vec(&serde_json::json!({ "items": rates }))?;
    if print_json_or_yaml(context.format, &body)? {
        return Ok(());
    }
    match context.format {
        Format::Name => rates.iter().try_for_each(|rates| print_line(rates.name())),
        Format::Table | Format::Json | Format::Yaml => print_text(format_rates(rates)),
    }
}

/// Reads the links of namespaces; without names those of the host and of all of netnsd's.
async fn read_links(
    context: &Context,
    names: &[String],
) -> Result<BTreeMap<LinkKey, LiveLink>, CliError> {
    let mut links = BTreeMap::new();
    if !names.is_empty() {
        for name in names {
            let body = context.api.get(&links_path(name)).await?;
            add_links(&mut links, name, &body)?;
        }
        return Ok(links);
    }
    add_links(&mut links, "", &context.api.get("/v1/host/links").await?)?;
    let list = context
        .api
        .list(&collection_path(Kind::Namespace), &[])
        .await?;
    for name in item_names(&list.items)? {
        // It may have been deleted meanwhile.
        if let Some(body) = context.api.get_optional(&links_path(&name)).await? {
            add_links(&mut links, &name, &body)?;
        }
    }
    Ok(links)
}

fn links_path(namespace: &str) -> String {
    format!("/v1/namespaces/{}/links", percent_encode(namespace))
}

fn add_links(
    links: &mut BTreeMap<LinkKey, LiveLink>,
    namespace: &str,
    body: &[u8],
) -> Result<(), CliError> {
    for link in serde_json::from_slice::<Items<LiveLink>>(body)?.items {
        links.insert((namespace.to_owned(), link.name.clone()), link);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_has_three_digits_and_a_prefix() {
        for (rate, text) in [
            (0.0, "0"),
            (999.0, "999"),
            (1234.0, "1.2k"),
            (123_456.0, "123k"),
            (9.99e9, "10.0G"),
        ] {
            assert_eq!(format_rate(rate), text);
        }
    }
}
