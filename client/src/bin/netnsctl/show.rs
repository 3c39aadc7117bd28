//! Live kernel state and bridge ports, in the format of `ip`.

use netnsd_api::{
    Bridge, BridgePort, FdbEntry, Items, LinkAddress, LiveLink, LiveNeighbour, LiveRoute,
    RT_TABLE_MAIN,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use crate::{
    bridge::{fdb_row, port_row},
    cli::{Context, IpOptions},
    error::CliError,
    ip::{Selection, Show, Table, find_bridge, list_bridges, live_path},
    output::{Format, format_table, or_dash, print_json_or_yaml, print_text},
    resource::{self, ResourcePath},
};

/// Shows a list of a namespace.
pub async fn show_list(
    context: &Context,
    options: &IpOptions,
    list: Show,
    selection: &Selection,
) -> Result<(), CliError> {
    let view = View {
        context,
        options,
        selection,
    };
    match list {
        Show::Links => view.show_links().await,
        Show::Addresses => view.show_addresses().await,
        Show::Routes => view.show_routes().await,
        Show::Neighbours => view.show_neighbours().await,
        Show::Ports => view.show_ports().await,
        Show::Fdb => view.show_fdb().await,
        Show::Bridges => view.show_bridges().await,
        Show::Stp => view.show_stp().await,
    }
}

/// A list to show: of which namespace, with which filters.
struct View<'a> {
    context: &'a Context,
    options: &'a IpOptions,
    selection: &'a Selection,
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

impl View<'_> {
    fn location(&self) -> Option<&str> {
        self.options.netns.as_deref()
    }

    async fn read_live<T: DeserializeOwned>(&self, list: &str) -> Result<Vec<T>, CliError> {
        let body = self
            .context
            .api
            .get(&live_path(self.location(), list))
            .await?;
        Ok(serde_json::from_slice::<Items<T>>(&body)?.items)
    }

    fn selects_device(&self, interface: &str) -> bool {
        self.selection
            .device
            .as_ref()
            .is_none_or(|device| device == interface)
    }

    /// Reads all links; their settings only if they are shown.
    async fn read_all_links(&self, settings: bool) -> Result<Vec<LiveLink>, CliError> {
        let query = if settings { "?settings=true" } else { "" };
        self.read_live(&format!("links{query}")).await
    }

    /// Reads the links that are selected; a device that was named must exist.
    async fn read_links(&self) -> Result<Vec<LiveLink>, CliError> {
        let mut links = self.read_all_links(self.options.details).await?;
        let Selection {
            device,
            kind,
            master,
            up,
            ..
        } = self.selection;
        if let Some(device) = device
            && !links.iter().any(|link| link.name == *device)
        {
            return Err(CliError::Refused(format!("there is no device {device}")));
        }
        links.retain(|link| {
            self.selects_device(&link.name)
                && kind.is_none_or_eq(&link.kind)
                && master.is_none_or_eq(&link.bridge)
                && (!up || link.up)
        });
        Ok(links)
    }

    /// Prints items: as JSON, as YAML, by their names, or as text.
    fn print<T: Serialize>(
        &self,
        items: &[T],
        name: impl Fn(&T) -> String,
        text: impl FnOnce() -> String,
    ) -> Result<(), CliError> {
        let body = serde_json::to_vec(&json!({"items": items}))?;
        if print_json_or_yaml(self.context.format, &body)? {
            return Ok(());
        }
        match self.context.format {
            Format::Name => print_text(
                items
                    .iter()
                    .map(|item| name(item) + "\n")
                    .collect::<String>(),
            ),
            Format::Json | Format::Yaml | Format::Table => print_text(text()),
        }
    }

    fn format_link(&self, link: &LiveLink) -> String {
        let mut text = format_link(link);
        if self.options.details
            && let Some(kind) = &link.kind
        {
            text += &format!("    {kind}{}\n", format_settings(link));
        }
        text
    }

    async fn show_links(&self) -> Result<(), CliError> {
        let links = self.read_links().await?;
        self.print(
            &links,
            |link| link.name.clone(),
            || links.iter().map(|link| self.format_link(link)).collect(),
        )
    }

    /// Prints addresses, each below its link.
    async fn show_addresses(&self) -> Result<(), CliError> {
        let links = self.read_links().await?;
        let mut addresses: Vec<LinkAddress> = self.read_live("addresses").await?;
        addresses.retain(|address| {
            self.options.matches_family(&address.address)
                && links.iter().any(|link| link.name == address.interface)
        });
        self.print(
            &addresses,
            |address| address.address.clone(),
            || {
                let mut text = String::new();
                for link in &links {
                    text += &self.format_link(link);
                    let of_link = addresses
                        .iter()
                        .filter(|address| address.interface == link.name);
                    text.extend(of_link.map(format_address));
                }
                text
            },
        )
    }

    /// Prints routes: IPv4 first, then IPv6.
    async fn show_routes(&self) -> Result<(), CliError> {
        let mut routes: Vec<LiveRoute> = self.read_live("routes").await?;
        let Selection {
            device,
            destination,
            table,
            ..
        } = self.selection;
        let table = table.unwrap_or(Table::Id(RT_TABLE_MAIN));
        routes.retain(|route| {
            (table == Table::All || table == Table::Id(route.table))
                && device.is_none_or_eq(&route.interface)
                && destination
                    .as_ref()
                    .is_none_or(|to| *to == route.destination || *to == short_destination(route))
                && self
                    .options
                    .matches_family(if is_ipv6(route) { ":" } else { "" })
        });
        routes.sort_by_key(is_ipv6);
        self.print(
            &routes,
            |route| route.destination.clone(),
            || {
                routes
                    .iter()
                    .map(|route| format_route(route) + "\n")
                    .collect()
            },
        )
    }

    async fn show_neighbours(&self) -> Result<(), CliError> {
        let mut entries: Vec<LiveNeighbour> = self.read_live("neighbours").await?;
        entries.retain(|entry| {
            self.selects_device(&entry.interface) && self.options.matches_family(&entry.address)
        });
        self.print(
            &entries,
            |entry| entry.address.clone(),
            || entries.iter().map(format_neighbour).collect(),
        )
    }

    /// Returns the names of the bridges that are selected.
    async fn bridge_names(&self) -> Result<Vec<String>, CliError> {
        if let Some(device) = &self.selection.master {
            return Ok(vec![
                find_bridge(self.context, self.location(), device).await?,
            ]);
        }
        let bridges = list_bridges(self.context, self.location()).await?;
        let names = bridges.iter().filter_map(|bridge| bridge["name"].as_str());
        Ok(names.map(str::to_owned).collect())
    }

    /// Reads a list of each bridge that is selected.
    async fn read_of_bridges<T: DeserializeOwned>(&self, list: &str) -> Result<Vec<T>, CliError> {
        let mut items = Vec::new();
        for name in self.bridge_names().await? {
            let path = ResourcePath::resource::<Bridge>(&name).child(list);
            let body = self.context.api.get(&path.to_string()).await?;
            items.extend(serde_json::from_slice::<Items<T>>(&body)?.items);
        }
        Ok(items)
    }

    async fn show_ports(&self) -> Result<(), CliError> {
        let mut ports: Vec<BridgePort> = self.read_of_bridges("ports").await?;
        ports.retain(|port| self.selects_device(&port.interface));
        self.print(
            &ports,
            |port| port.interface.clone(),
            || format_table(PORT_COLUMNS, ports.iter().map(port_row).collect()),
        )
    }

    async fn show_fdb(&self) -> Result<(), CliError> {
        let mut entries: Vec<FdbEntry> = self.read_of_bridges("fdb").await?;
        entries.retain(|entry| self.selects_device(&entry.interface));
        self.print(
            &entries,
            |entry| entry.mac.clone(),
            || format_table(FDB_COLUMNS, entries.iter().map(fdb_row).collect()),
        )
    }

    /// Prints the bridges with their ports, as `brctl show`.
    async fn show_bridges(&self) -> Result<(), CliError> {
        let links = self.read_all_links(true).await?;
        let mut bridges: Vec<&LiveLink> = links
            .iter()
            .filter(|link| link.kind.as_deref() == Some("bridge"))
            .collect();
        if let Some(name) = &self.selection.master {
            bridges.retain(|bridge| bridge.name == *name);
            if bridges.is_empty() {
                return Err(CliError::Refused(format!("there is no bridge {name}")));
            }
        }
        let rows = || {
            let row = |bridge: &&LiveLink| {
                let ports = links
                    .iter()
                    .filter(|link| link.bridge.as_ref() == Some(&bridge.name));
                let ports: Vec<&str> = ports.map(|port| port.name.as_str()).collect();
                let stp = bridge.settings.as_ref().and_then(|settings| settings.stp);
                let stp = if stp == Some(true) { "yes" } else { "no" };
                vec![
                    bridge.name.clone(),
                    or_dash(format_bridge_id(bridge)),
                    stp.into(),
                    ports.join("\n"),
                ]
            };
            let header = ["bridge name", "bridge id", "STP enabled", "interfaces"];
            format_table(&header, bridges.iter().map(row).collect())
        };
        self.print(&bridges, |bridge| bridge.name.clone(), rows)
    }

    /// Prints a bridge and its ports, as `brctl showstp`.
    async fn show_stp(&self) -> Result<(), CliError> {
        for name in self.bridge_names().await? {
            resource::show_resource::<Bridge>(self.context, &name).await?;
        }
        self.show_ports().await
    }
}

const PORT_COLUMNS: &[&str] = &["INTERFACE", "VETH", "STATE", "COST", "PRIORITY", "FLAGS"];
/// The priority of a new bridge in Linux.
const DEFAULT_BRIDGE_PRIORITY: u16 = 0x8000;
const FDB_COLUMNS: &[&str] = &["MAC", "INTERFACE", "LOCAL", "AGE"];

/// Comparison of a filter with a value that may be missing.
trait Filter {
    /// Returns true if there is no filter, or it is this value.
    fn is_none_or_eq(&self, value: &Option<String>) -> bool;
}

impl Filter for Option<String> {
    fn is_none_or_eq(&self, value: &Option<String>) -> bool {
        self.is_none() || self == value
    }
}

/// Returns the settings of a bridge, or of a port, in words.
fn format_settings(link: &LiveLink) -> String {
    let settings = serde_json::to_value(&link.settings).unwrap_or_default();
    let port = settings["port"].as_object().into_iter().flatten();
    let fields = settings.as_object().into_iter().flatten();
    let words = fields.filter(|(_, value)| !value.is_object()).chain(port);
    words
        .map(|(field, value)| format!(" {field} {value}"))
        .collect()
}

/// Returns the id of a bridge: its priority and MAC address, as `brctl show`.
fn format_bridge_id(bridge: &LiveLink) -> Option<String> {
    let settings = bridge.settings.as_ref();
    // The settings are those that differ from the kernel's defaults.
    let priority = settings
        .and_then(|settings| settings.priority)
        .unwrap_or(DEFAULT_BRIDGE_PRIORITY);
    let mac = bridge.mac.as_ref()?.replace(':', "");
    Some(format!("{priority:04x}.{mac}"))
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

/// Returns the destination as ip(8) shows it: without the prefix length of a host.
fn short_destination(route: &LiveRoute) -> &str {
    let full = if route.destination.contains(':') {
        "/128"
    } else {
        "/32"
    };
    route
        .destination
        .strip_suffix(full)
        .unwrap_or(&route.destination)
}

/// Returns a route in the format of `ip route`.
fn format_route(route: &LiveRoute) -> String {
    let to = short_destination(route);
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
