//! `netnsctl addr|route|neigh|link`: what the kernel says, printed as `ip` prints it.

use clap::Args;
use netnsd_api::{Items, Link, LinkAddress, LiveNeighbour, LiveRoute};
use serde::de::DeserializeOwned;

use crate::{
    cli::Context,
    curl::encoded,
    fail::Failure,
    output::{Format, line, print},
};

/// Where to look, and for what.
#[derive(Debug, Args)]
pub struct Look {
    /// The namespace, netnsd's or not; without it the host
    name: Option<String>,
    /// Only of this device
    #[arg(long, value_name = "INTERFACE")]
    dev: Option<String>,
    /// Only IPv4
    #[arg(short = '4', conflicts_with = "ipv6")]
    ipv4: bool,
    /// Only IPv6
    #[arg(short = '6')]
    ipv6: bool,
    /// Routes of this table, or of all that netnsd tells of; by default of main
    #[arg(long, value_name = "N|main|all")]
    table: Option<String>,
}

impl Look {
    fn path(&self, what: &str) -> String {
        match &self.name {
            Some(name) => format!("/v1/namespaces/{}/{what}", encoded(name)),
            None => format!("/v1/host/{what}"),
        }
    }

    fn is_of(&self, interface: &str) -> bool {
        self.dev.as_ref().is_none_or(|dev| dev == interface)
    }

    fn wants(&self, address: &str) -> bool {
        let ipv6 = address.contains(':');
        !(self.ipv4 && ipv6 || self.ipv6 && !ipv6)
    }

    /// The table to show; none is all.
    fn table(&self) -> Result<Option<u32>, Failure> {
        match self.table.as_deref() {
            None | Some("main") => Ok(Some(254)),
            Some("all") => Ok(None),
            Some("default") => Ok(Some(253)),
            Some(number) => number.parse().map(Some).map_err(|_| {
                Failure::Usage(format!("{number:?} is no table: a number, main or all"))
            }),
        }
    }

    /// Asks; in JSON the answer is printed as it is, and nothing remains to do.
    async fn ask<T: DeserializeOwned>(
        &self,
        context: &Context,
        what: &str,
    ) -> Result<Option<Vec<T>>, Failure> {
        let body = context.api.get(&self.path(what)).await?;
        if context.format == Format::Json {
            line(&body)?;
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice::<Items<T>>(&body)?.items))
    }
}

/// The two lines of a link.
fn head(link: &Link) -> String {
    let peer = link.peer.as_ref().map(|peer| match &peer.namespace {
        Some(namespace) => format!("@{namespace}:{}", peer.interface),
        None => format!("@{}", peer.interface),
    });
    let loopback = link.name == "lo";
    let flags = [
        ("NO-CARRIER", link.up && !link.carrier),
        ("LOOPBACK", loopback),
        ("UP", link.up),
        ("LOWER_UP", link.carrier && link.up),
    ];
    let flags: Vec<&str> = flags
        .iter()
        .filter(|(_, on)| *on)
        .map(|(flag, _)| *flag)
        .collect();
    let master = link
        .bridge
        .as_ref()
        .map_or(String::new(), |bridge| format!(" master {bridge}"));
    let mut text = format!(
        "{}: {}{}: <{}> mtu {}{master} state {}\n",
        link.index,
        link.name,
        peer.unwrap_or_default(),
        flags.join(","),
        link.mtu,
        link.operstate.to_uppercase()
    );
    if let Some(mac) = &link.mac {
        text += &format!(
            "    link/{} {mac}\n",
            if loopback { "loopback" } else { "ether" }
        );
    }
    text
}

/// Prints links.
pub async fn links(context: &Context, look: &Look) -> Result<(), Failure> {
    let Some(links) = look.ask::<Link>(context, "links").await? else {
        return Ok(());
    };
    let mut text = String::new();
    for link in links.iter().filter(|link| look.is_of(&link.name)) {
        match context.format {
            Format::Name => text += &format!("{}\n", link.name),
            _ => text += &head(link),
        }
    }
    print(text)
}

/// Prints addresses, each below its link.
pub async fn addresses(context: &Context, look: &Look) -> Result<(), Failure> {
    let Some(addresses) = look.ask::<LinkAddress>(context, "addresses").await? else {
        return Ok(());
    };
    let wanted =
        |address: &&LinkAddress| look.wants(&address.address) && look.is_of(&address.interface);
    if context.format == Format::Name {
        return print(
            addresses
                .iter()
                .filter(wanted)
                .map(|address| format!("{}\n", address.address))
                .collect::<String>(),
        );
    }
    let Some(links) = look.ask::<Link>(context, "links").await? else {
        return Ok(());
    };
    let mut text = String::new();
    for link in links.iter().filter(|link| look.is_of(&link.name)) {
        text += &head(link);
        for address in addresses
            .iter()
            .filter(wanted)
            .filter(|address| address.interface == link.name)
        {
            let family = if address.address.contains(':') {
                "inet6"
            } else {
                "inet"
            };
            let dynamic = if address.permanent { "" } else { " dynamic" };
            text += &format!(
                "    {family} {} scope {}{dynamic} {}\n",
                address.address, address.scope, link.name
            );
        }
    }
    print(text)
}

/// A route as `ip route` prints it.
fn route(route: &LiveRoute) -> String {
    // ip leaves a single host's prefix length out.
    let full = if route.destination.contains(':') {
        "/128"
    } else {
        "/32"
    };
    let to = route
        .destination
        .strip_suffix(full)
        .unwrap_or(&route.destination);
    let mut text = match route.kind.as_str() {
        "unicast" => to.to_owned(),
        kind => format!("{kind} {to}"),
    };
    let words = [
        ("via", route.via.clone()),
        ("dev", route.interface.clone()),
        (
            "table",
            (route.table != 254).then(|| route.table.to_string()),
        ),
        (
            "proto",
            (route.protocol != "boot").then(|| route.protocol.clone()),
        ),
        (
            "scope",
            (route.scope != "global").then(|| route.scope.clone()),
        ),
        ("src", route.source.clone()),
        (
            "metric",
            (route.metric != 0).then(|| route.metric.to_string()),
        ),
    ];
    for (word, value) in words {
        if let Some(value) = value {
            text = format!("{text} {word} {value}");
        }
    }
    if route.onlink { text + " onlink" } else { text }
}

/// Whether a route is of IPv6: a default one says so only by its gateway, or by the kernel's
/// metric.
fn is_ipv6(route: &LiveRoute) -> bool {
    if route.destination != "default" {
        return route.destination.contains(':');
    }
    match route.via.as_ref().or(route.source.as_ref()) {
        Some(address) => address.contains(':'),
        None => route.metric >= 256,
    }
}

/// Prints routes: those of IPv4, then those of IPv6.
pub async fn routes(context: &Context, look: &Look) -> Result<(), Failure> {
    let table = look.table()?;
    let Some(mut routes) = look.ask::<LiveRoute>(context, "routes").await? else {
        return Ok(());
    };
    routes.retain(|route| {
        let of_table = table.is_none_or(|table| table == route.table);
        let of_device = look.dev.is_none()
            || route
                .interface
                .as_deref()
                .is_some_and(|interface| look.is_of(interface));
        of_table && of_device && look.wants(if is_ipv6(route) { ":" } else { "" })
    });
    routes.sort_by_key(is_ipv6);
    let text = |shown: &LiveRoute| match context.format {
        Format::Name => format!("{}\n", shown.destination),
        _ => format!("{}\n", route(shown)),
    };
    print(routes.iter().map(text).collect::<String>())
}

/// Prints neighbours.
pub async fn neighbours(context: &Context, look: &Look) -> Result<(), Failure> {
    let Some(entries) = look.ask::<LiveNeighbour>(context, "neighbours").await? else {
        return Ok(());
    };
    let wanted = entries
        .iter()
        .filter(|entry| look.is_of(&entry.interface) && look.wants(&entry.address));
    let text = |entry: &LiveNeighbour| {
        let mac = entry
            .mac
            .as_ref()
            .map_or(String::new(), |mac| format!(" lladdr {mac}"));
        match context.format {
            Format::Name => format!("{}\n", entry.address),
            _ => format!(
                "{} dev {}{mac} {}\n",
                entry.address,
                entry.interface,
                entry.state.to_uppercase()
            ),
        }
    };
    print(wanted.map(text).collect::<String>())
}
