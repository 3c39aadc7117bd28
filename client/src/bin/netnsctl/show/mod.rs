//! Live kernel state and bridge ports, in the format of `ip`: text, or the JSON of `ip -j`.

mod ip_json;
mod text;

use netnsd_api::{
    Bridge, BridgePort, Family, FdbEntry, Items, LinkAddress, LiveLink, LiveNeighbour, LiveRoute,
    LiveRule,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use self::text::TextWriter;
use crate::{
    bridge::{fdb_row, port_row},
    cli::{Context, IpOptions},
    error::CliError,
    ip::{RouteFields, Selection, Show, Table, find_bridge, is_ipv6, list_bridges, live_path},
    output::{
        Format, escape_controls, format_table, or_dash, print_json_or_yaml, print_text, write_raw,
    },
    resource::{self, ResourcePath},
};

impl Show {
    /// Returns its command and the options of ip(8) that have an effect on it.
    fn command_and_options(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Show::Links => ("link show", &["-d", "-s", "-br", "-o", "-j", "-p"]),
            Show::Addresses => (
                "addr show",
                &["-4", "-6", "-d", "-s", "-br", "-o", "-j", "-p"],
            ),
            Show::Routes => ("route show", &["-4", "-6", "-d", "-o", "-j", "-p"]),
            Show::Rules => ("rule show", &["-4", "-6", "-o", "-j", "-p"]),
            Show::Neighbours => ("neigh show", &["-4", "-6", "-br", "-o", "-j", "-p"]),
            Show::Ports => ("bridge link", &["-d", "-o", "-j", "-p"]),
            Show::Fdb => ("bridge fdb", &["-o", "-j", "-p"]),
            Show::Bridges => ("brctl show", &[]),
            Show::Stp => ("brctl showstp", &[]),
        }
    }
}

impl IpOptions {
    /// Refuses options of ip(8) beside a format of the API.
    pub fn check_format(&self, format: Format) -> Result<(), CliError> {
        let of_text = ["-s", "-br", "-o", "-j", "-p"];
        match self.given().into_iter().find(|it| of_text.contains(it)) {
            Some(option) if format != Format::Table => Err(CliError::Usage(format!(
                "{option} is for the output of ip, --output for that of the API: give one of them"
            ))),
            Some(_) | None => Ok(()),
        }
    }

    /// Refuses options that have no effect beside each other.
    fn check_combination(&self, list: Show) -> Result<(), CliError> {
        let one_line = self.brief || self.oneline && list == Show::Addresses && !self.json;
        let line_option = if self.brief { "-br" } else { "-o" };
        for (option, given) in [("-s", self.stats), ("-d", self.details)] {
            if given && one_line {
                return Err(CliError::Usage(format!(
                    "{option} has no effect beside {line_option}: leave one of them out"
                )));
            }
        }
        Ok(())
    }

    /// Prints items as `ip -j` does, or indented as by `ip -j -p`.
    pub fn print_json(&self, items: &[Value]) -> Result<(), CliError> {
        let text = if self.pretty {
            serde_json::to_string_pretty(items)?
        } else {
            serde_json::to_string(items)?
        };
        print_text(text + "\n")
    }
}

/// Shows a list of a namespace.
pub async fn show_list(
    context: &Context,
    options: &IpOptions,
    list: Show,
    selection: &Selection,
) -> Result<(), CliError> {
    let (command, honoured) = list.command_and_options();
    options.check_honoured(honoured, command)?;
    options.check_format(context.format)?;
    options.check_combination(list)?;
    let view = View {
        context,
        options,
        selection,
    };
    match list {
        Show::Links => view.show_links().await,
        Show::Addresses => view.show_addresses().await,
        Show::Routes => view.show_routes().await,
        Show::Rules => view.show_rules().await,
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

    /// Reads all links; their settings only if they are shown.
    async fn read_all_links(&self, settings: bool) -> Result<Vec<LiveLink>, CliError> {
        let query = if settings { "?settings=true" } else { "" };
        self.read_live(&format!("links{query}")).await
    }

    /// Reads the links that are selected; a device that was named must exist.
    async fn read_links(&self) -> Result<Vec<LiveLink>, CliError> {
        let mut links = self.read_all_links(self.options.details).await?;
        let selection = self.selection;
        if let Some(device) = &selection.device
            && !links.iter().any(|link| link.name == *device)
        {
            return Err(CliError::Refused(format!("there is no device {device}")));
        }
        links.retain(|link| {
            selection.selects_device(&link.name)
                && selection.selects_link(link.kind.as_deref(), link.bridge.as_deref(), link.up)
        });
        Ok(links)
    }

    fn text(&self) -> TextWriter<'_> {
        TextWriter {
            context: self.context,
            options: self.options,
        }
    }

    /// Prints items: as the JSON of `ip -j`, as JSON or YAML of the API, by their names, or as
    /// text, which has its colors.
    fn print<T: Serialize>(
        &self,
        items: &[T],
        name: impl Fn(&T) -> String,
        as_ip: impl FnOnce() -> Vec<Value>,
        text: impl FnOnce() -> String,
    ) -> Result<(), CliError> {
        if self.options.json {
            return self.options.print_json(&as_ip());
        }
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
            Format::Json | Format::Yaml | Format::Table => write_raw(text()),
        }
    }

    async fn show_links(&self) -> Result<(), CliError> {
        let links = self.read_links().await?;
        let text = self.text();
        self.print(
            &links,
            |link| link.name.clone(),
            || {
                let links = links.iter();
                links
                    .map(|link| ip_json::link(self.options, link))
                    .collect()
            },
            || {
                let format = |link| {
                    if self.options.brief {
                        text.brief_link(link)
                    } else {
                        text.link(link)
                    }
                };
                links.iter().map(format).collect()
            },
        )
    }

    /// Prints addresses, each below its link; with a filter of addresses, only links that have
    /// such an address.
    async fn show_addresses(&self) -> Result<(), CliError> {
        let (options, selection) = (self.options, self.selection);
        let mut links = self.read_links().await?;
        let mut addresses: Vec<LinkAddress> = self.read_live("addresses").await?;
        addresses.retain(|address| {
            options.matches_family(&address.address)
                && selection.selects_network(&address.address)
                && selection.selects_scope(&address.scope, address.permanent)
                && links.iter().any(|link| link.name == address.interface)
        });
        let of_link = |link: &LiveLink| -> Vec<&LinkAddress> {
            let of_link = addresses.iter();
            of_link
                .filter(|address| address.interface == link.name)
                .collect()
        };
        if options.ipv4 || options.ipv6 || selection.filters_addresses() {
            links.retain(|link| !of_link(link).is_empty());
        }
        let text = self.text();
        self.print(
            &addresses,
            |address| address.address.clone(),
            || {
                let links = links.iter();
                links
                    .map(|link| ip_json::link_with_addresses(options, link, &of_link(link)))
                    .collect()
            },
            || {
                let format = |link: &LiveLink| {
                    if options.brief {
                        text.brief_addresses(link, &of_link(link))
                    } else {
                        text.link_with_addresses(link, &of_link(link))
                    }
                };
                links.iter().map(format).collect()
            },
        )
    }

    /// Prints routes: IPv4 first, then IPv6.
    async fn show_routes(&self) -> Result<(), CliError> {
        let mut routes: Vec<LiveRoute> = self.read_live("routes").await?;
        routes.retain(|route| {
            let family = if is_ipv6(route) { ":" } else { "" };
            self.options.matches_family(family)
                && self.selection.selects_route(&RouteFields::of_live(route))
        });
        routes.sort_by_key(is_ipv6);
        let all_tables = self.selection.table == Some(Table::All);
        let text = self.text();
        self.print(
            &routes,
            |route| route.destination.clone(),
            || {
                let routes = routes.iter();
                routes
                    .map(|route| ip_json::route(self.options, all_tables, route))
                    .collect()
            },
            || routes.iter().map(|route| text.route(route)).collect(),
        )
    }

    /// Prints rules: those of IPv4, or with -6 of IPv6, as `ip rule`.
    async fn show_rules(&self) -> Result<(), CliError> {
        let family = self.options.family().unwrap_or(Family::Ipv4);
        let mut rules: Vec<LiveRule> = self.read_live("rules").await?;
        rules.retain(|live| live.rule.family == Some(family));
        let text = self.text();
        self.print(
            &rules,
            |live| live.rule.priority.to_string(),
            || rules.iter().map(ip_json::rule).collect(),
            || rules.iter().map(|live| text.rule(live)).collect(),
        )
    }

    async fn show_neighbours(&self) -> Result<(), CliError> {
        let selection = self.selection;
        let mut entries: Vec<LiveNeighbour> = self.read_live("neighbours").await?;
        entries.retain(|entry| {
            selection.selects_device(&entry.interface)
                && self.options.matches_family(&entry.address)
                && selection.selects_network(&entry.address)
                && selection.selects_state(&entry.state)
        });
        let text = self.text();
        self.print(
            &entries,
            |entry| entry.address.clone(),
            || {
                let entries = entries.iter();
                entries
                    .map(|entry| ip_json::neighbour(self.options, entry))
                    .collect()
            },
            || entries.iter().map(|entry| text.neighbour(entry)).collect(),
        )
    }

    /// Returns the names of the bridges that are selected, and of their devices.
    async fn bridges(&self) -> Result<Vec<(String, String)>, CliError> {
        if let Some(device) = &self.selection.master {
            let name = find_bridge(self.context, self.location(), device).await?;
            return Ok(vec![(name, device.clone())]);
        }
        let bridges = list_bridges(self.context, self.location()).await?;
        let names = bridges.iter().filter_map(|bridge| {
            let name = bridge["name"].as_str()?;
            let device = bridge["interface"].as_str().unwrap_or(name);
            Some((name.to_owned(), device.to_owned()))
        });
        Ok(names.collect())
    }

    /// Reads a list of each bridge that is selected; returns the items, and the device of the
    /// bridge of each.
    async fn read_of_bridges<T: DeserializeOwned>(
        &self,
        list: &str,
        is_selected: impl Fn(&T) -> bool,
    ) -> Result<(Vec<T>, Vec<String>), CliError> {
        let (mut items, mut devices) = (Vec::new(), Vec::new());
        for (name, device) in self.bridges().await? {
            let path = ResourcePath::resource::<Bridge>(&name).child(list);
            let body = self.context.api.get(&path.to_string()).await?;
            let found = serde_json::from_slice::<Items<T>>(&body)?.items;
            items.extend(found.into_iter().filter(&is_selected));
            devices.resize(items.len(), device);
        }
        Ok((items, devices))
    }

    async fn show_ports(&self) -> Result<(), CliError> {
        let is_selected = |port: &BridgePort| self.selection.selects_device(&port.interface);
        let (ports, bridges) = self.read_of_bridges("ports", is_selected).await?;
        self.print(
            &ports,
            |port| port.interface.clone(),
            || {
                let ports = ports.iter().zip(&bridges);
                ports
                    .map(|(port, bridge)| ip_json::port(self.options, bridge, port))
                    .collect()
            },
            || as_text(PORT_COLUMNS, ports.iter().map(port_row).collect()),
        )
    }

    async fn show_fdb(&self) -> Result<(), CliError> {
        let is_selected = |entry: &FdbEntry| self.selection.selects_device(&entry.interface);
        let (entries, bridges) = self.read_of_bridges("fdb", is_selected).await?;
        self.print(
            &entries,
            |entry| entry.mac.clone(),
            || {
                let entries = entries.iter().zip(&bridges);
                entries
                    .map(|(entry, bridge)| ip_json::fdb_entry(bridge, entry))
                    .collect()
            },
            || as_text(FDB_COLUMNS, entries.iter().map(fdb_row).collect()),
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
            as_text(&header, bridges.iter().map(row).collect())
        };
        self.print(&bridges, |bridge| bridge.name.clone(), Vec::new, rows)
    }

    /// Prints a bridge and its ports, as `brctl showstp`.
    async fn show_stp(&self) -> Result<(), CliError> {
        for (name, _) in self.bridges().await? {
            resource::show_resource::<Bridge>(self.context, &name).await?;
        }
        self.show_ports().await
    }
}

const PORT_COLUMNS: &[&str] = &["INTERFACE", "VETH", "STATE", "COST", "PRIORITY", "FLAGS"];
/// The priority of a new bridge in Linux.
const DEFAULT_BRIDGE_PRIORITY: u16 = 0x8000;
const FDB_COLUMNS: &[&str] = &["MAC", "INTERFACE", "LOCAL", "AGE"];

/// Returns a table with control characters escaped.
fn as_text(header: &[&str], rows: Vec<Vec<String>>) -> String {
    escape_controls(&format_table(header, rows)).into_owned()
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
