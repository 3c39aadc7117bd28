//! `netnsctl addr|route|neigh|link`: live kernel state in the format of `ip`.

use clap::Args;
use netnsd_api::{
    Items, LinkAddress, LiveLink, LiveNeighbour, LiveRoute, RT_TABLE_DEFAULT, RT_TABLE_MAIN,
};
use serde::de::DeserializeOwned;

use crate::{
    api::percent_encode,
    cli::Context,
    error::CliError,
    output::{Format, print_json_or_yaml, print_text},
};

/// Arguments: a namespace, and filters.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The namespace, managed by netnsd or not [default: the host's]
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
    /// Only routes of this table, or routes of all tables [default: main]
    #[arg(long, value_name = "N|main|all")]
    table: Option<String>,
}

impl ShowArgs {
    /// Returns the path of a live list.
    fn path(&self, list: &str) -> String {
        match &self.name {
            Some(name) => format!("/v1/namespaces/{}/{list}", percent_encode(name)),
            None => format!("/v1/host/{list}"),
        }
    }

    fn matches_device(&self, interface: &str) -> bool {
        self.dev.as_ref().is_none_or(|dev| dev == interface)
    }

    fn matches_family(&self, address: &str) -> bool {
        let ipv6 = address.contains(':');
        !(self.ipv4 && ipv6 || self.ipv6 && !ipv6)
    }

    /// Returns the routing table; `None` stands for all.
    fn table_filter(&self) -> Result<Option<u32>, CliError> {
        match self.table.as_deref() {
            None | Some("main") => Ok(Some(RT_TABLE_MAIN)),
            Some("all") => Ok(None),
            Some("default") => Ok(Some(RT_TABLE_DEFAULT)),
            Some(number) => number.parse().map(Some).map_err(|_| {
                CliError::Usage(format!(
                    "invalid routing table {number:?}: expected a number, main or all"
                ))
            }),
        }
    }

    /// Reads a live list; with the JSON and YAML formats it is printed and `None` returned.
    async fn read_or_print_json<T: DeserializeOwned>(
        &self,
        context: &Context,
        list: &str,
    ) -> Result<Option<Vec<T>>, CliError> {
        let body = context.api.get(&self.path(list)).await?;
        if print_json_or_yaml(context.format, &body)? {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice::<Items<T>>(&body)?.items))
    }
}

/// Returns the two lines of a link.
fn format_link(link: &LiveLink) -> String {
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
pub async fn show_links(context: &Context, args: &ShowArgs) -> Result<(), CliError> {
    let Some(links) = args
        .read_or_print_json::<LiveLink>(context, "links")
        .await?
    else {
        return Ok(());
    };
    let mut text = String::new();
    for link in links.iter().filter(|link| args.matches_device(&link.name)) {
        match context.format {
            Format::Name => text += &format!("{}\n", link.name),
            Format::Json | Format::Yaml | Format::Table => text += &format_link(link),
        }
    }
    print_text(text)
}

/// Prints addresses, each below its link.
pub async fn show_addresses(context: &Context, args: &ShowArgs) -> Result<(), CliError> {
    let Some(mut addresses) = args
        .read_or_print_json::<LinkAddress>(context, "addresses")
        .await?
    else {
        return Ok(());
    };
    addresses.retain(|address| {
        args.matches_family(&address.address) && args.matches_device(&address.interface)
    });
    if context.format == Format::Name {
        let names = addresses
            .iter()
            .map(|address| format!("{}\n", address.address));
        return print_text(names.collect::<String>());
    }

    let Some(links) = args
        .read_or_print_json::<LiveLink>(context, "links")
        .await?
    else {
        return Ok(());
    };
    let mut text = String::new();
    for link in links.iter().filter(|link| args.matches_device(&link.name)) {
        text += &format_link(link);
        let of_link = addresses
            .iter()
            .filter(|address| address.interface == link.name);
        text.extend(of_link.map(format_address));
    }
    print_text(text)
}

/// Returns the line of an address.
fn format_address(address: &LinkAddress) -> String {
    let family = if address.address.contains(':') {
        "inet6"
    } else {
        "inet"
    };
    let dynamic = if address.permanent { "" } else { " dynamic" };
    format!(
        "    {family} {} scope {}{dynamic} {}\n",
        address.address, address.scope, address.interface
    )
}

/// Returns a route in the format of `ip route`.
fn format_route(route: &LiveRoute) -> String {
    // ip(8) omits the prefix length of a host.
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
            (route.table != RT_TABLE_MAIN).then(|| route.table.to_string()),
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

/// Returns true for an IPv6 route; a default route shows its family only by its gateway, or the
/// kernel's metric.
fn is_ipv6(route: &LiveRoute) -> bool {
    if route.destination != "default" {
        return route.destination.contains(':');
    }
    match route.via.as_ref().or(route.source.as_ref()) {
        Some(address) => address.contains(':'),
        None => route.metric >= 256,
    }
}

/// Prints routes: IPv4 first, then IPv6.
pub async fn show_routes(context: &Context, args: &ShowArgs) -> Result<(), CliError> {
    let table = args.table_filter()?;
    let Some(mut routes) = args
        .read_or_print_json::<LiveRoute>(context, "routes")
        .await?
    else {
        return Ok(());
    };
    routes.retain(|route| {
        let matches_table = table.is_none_or(|table| table == route.table);
        let matches_device = args.dev.is_none()
            || route
                .interface
                .as_deref()
                .is_some_and(|interface| args.matches_device(interface));
        matches_table
            && matches_device
            && args.matches_family(if is_ipv6(route) { ":" } else { "" })
    });
    routes.sort_by_key(is_ipv6);
    let text = |shown: &LiveRoute| match context.format {
        Format::Name => format!("{}\n", shown.destination),
        Format::Json | Format::Yaml | Format::Table => format!("{}\n", format_route(shown)),
    };
    print_text(routes.iter().map(text).collect::<String>())
}

/// Prints neighbours.
pub async fn show_neighbours(context: &Context, args: &ShowArgs) -> Result<(), CliError> {
    let Some(entries) = args
        .read_or_print_json::<LiveNeighbour>(context, "neighbours")
        .await?
    else {
        return Ok(());
    };
    let mut text = String::new();
    for entry in entries.iter().filter(|entry| {
        args.matches_device(&entry.interface) && args.matches_family(&entry.address)
    }) {
        text += &match context.format {
            Format::Name => format!("{}\n", entry.address),
            Format::Json | Format::Yaml | Format::Table => format_neighbour(entry),
        };
    }
    print_text(text)
}

/// Returns a neighbour in the format of `ip neigh`.
fn format_neighbour(entry: &LiveNeighbour) -> String {
    let mac = entry
        .mac
        .as_ref()
        .map_or(String::new(), |mac| format!(" lladdr {mac}"));
    format!(
        "{} dev {}{mac} {}\n",
        entry.address,
        entry.interface,
        entry.state.to_uppercase()
    )
}
