//! Live kernel state as text in the format of `ip`, with its colors.

use netnsd_api::{
    LinkAddress, LiveLink, LiveNeighbour, LiveRoute, LiveRule, RT_TABLE_DEFAULT, RT_TABLE_LOCAL,
    RT_TABLE_MAIN, Rule, format_next_hops,
};

use crate::{
    cli::{Context, IpOptions},
    output::{BLUE, CYAN, GREEN, MAGENTA, RED, YELLOW, escape_controls},
};

/// The names of counters in the API and their columns in `ip -s`.
const COUNTERS: [&str; 4] = ["bytes", "packets", "errors", "dropped"];

/// Writer of text in the format of `ip`.
pub struct TextWriter<'a> {
    pub context: &'a Context,
    pub options: &'a IpOptions,
}

/// Returns the flags of a device, as far as they are known, in the order of ip(8).
pub fn link_flags(link: &LiveLink) -> Vec<&'static str> {
    let flags = [
        ("NO-CARRIER", link.up && !link.carrier),
        ("LOOPBACK", is_loopback(link)),
        ("UP", link.up),
        ("LOWER_UP", link.carrier && link.up),
    ];
    let set = flags.into_iter().filter(|(_, on)| *on);
    set.map(|(flag, _)| flag).collect()
}

/// Returns true for `lo`.
pub fn is_loopback(link: &LiveLink) -> bool {
    link.name == "lo"
}

/// Returns the destination as ip(8) shows it: without the prefix length of a host.
pub fn short_destination(route: &LiveRoute) -> &str {
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

/// Returns the name of a routing table as in iproute2's rt_tables.
pub fn table_name(table: u32) -> String {
    match table {
        RT_TABLE_DEFAULT => "default".into(),
        RT_TABLE_MAIN => "main".into(),
        RT_TABLE_LOCAL => "local".into(),
        other => other.to_string(),
    }
}

impl TextWriter<'_> {
    fn device(&self, name: &str) -> String {
        self.context.paint(CYAN, name)
    }

    fn mac(&self, mac: &str) -> String {
        self.context.paint(YELLOW, mac)
    }

    /// Returns an address in the color of its family; a prefix length has no color.
    fn address(&self, text: &str) -> String {
        let color = if text.contains(':') { BLUE } else { MAGENTA };
        match text.split_once('/') {
            Some((address, length)) => format!(
                "{}/{}",
                self.context.paint(color, address),
                escape_controls(length)
            ),
            None => self.context.paint(color, text),
        }
    }

    fn state(&self, operstate: &str, width: usize) -> String {
        let text = format!("{:<width$}", operstate.to_uppercase());
        match operstate {
            "up" => self.context.paint(GREEN, &text),
            "down" => self.context.paint(RED, &text),
            _ => escape_controls(&text).into_owned(),
        }
    }

    /// Returns the name of a device and its peer: `eth0@eth1`, or `eth0@net1:eth1` if that is in
    /// another namespace.
    fn name_with_peer(&self, link: &LiveLink) -> String {
        let Some(peer) = &link.peer else {
            return link.name.clone();
        };
        match &peer.namespace {
            Some(namespace) if peer.namespace != self.options.netns => {
                format!("{}@{namespace}:{}", link.name, peer.interface)
            }
            Some(_) | None => format!("{}@{}", link.name, peer.interface),
        }
    }

    /// Returns the line of `ip -br link`.
    pub fn brief_link(&self, link: &LiveLink) -> String {
        format!(
            "{} {} {} <{}>\n",
            self.device(&format!("{:<16}", self.name_with_peer(link))),
            self.state(&link.operstate, 14),
            link.mac.as_ref().map_or(String::new(), |mac| self.mac(mac)),
            link_flags(link).join(",")
        )
    }

    /// Returns the line of `ip -br addr`.
    pub fn brief_addresses(&self, link: &LiveLink, addresses: &[&LinkAddress]) -> String {
        let addresses: Vec<String> = addresses
            .iter()
            .map(|address| self.local_and_peer(address))
            .collect();
        let line = format!(
            "{} {} {}",
            self.device(&format!("{:<16}", self.name_with_peer(link))),
            self.state(&link.operstate, 14),
            addresses.join(" ")
        );
        format!("{}\n", line.trim_end())
    }

    /// Returns the lines of a link: with its settings and counters if they were asked for.
    pub fn link(&self, link: &LiveLink) -> String {
        let mut lines = self.link_head(link);
        lines.extend(self.counters(link));
        self.join(&lines)
    }

    /// Returns the lines of a link and its addresses.
    pub fn link_with_addresses(&self, link: &LiveLink, addresses: &[&LinkAddress]) -> String {
        if self.options.oneline {
            let line = |address: &&LinkAddress| {
                format!(
                    "{}: {}    {}\n",
                    link.index,
                    self.device(&link.name),
                    self.address_words(address)
                )
            };
            return addresses.iter().map(line).collect();
        }
        let mut lines = self.link_head(link);
        let addresses = addresses.iter();
        lines.extend(addresses.map(|address| format!("    {}", self.address_words(address))));
        lines.extend(self.counters(link));
        self.join(&lines)
    }

    /// Returns lines, or with `-o` one line in which `\` separates them.
    fn join(&self, lines: &[String]) -> String {
        let separator = if self.options.oneline { "\\" } else { "\n" };
        lines.join(separator) + "\n"
    }

    fn link_head(&self, link: &LiveLink) -> Vec<String> {
        let master = link.bridge.as_ref().map_or(String::new(), |bridge| {
            format!(" master {}", self.device(bridge))
        });
        let mut lines = vec![format!(
            "{}: {}: <{}> mtu {}{master} state {}",
            link.index,
            self.device(&self.name_with_peer(link)),
            link_flags(link).join(","),
            link.mtu,
            self.state(&link.operstate, 0)
        )];
        // As ip leaves it out beside the addresses of one family.
        let one_family = self.options.ipv4 || self.options.ipv6;
        if let Some(mac) = link.mac.as_ref().filter(|_| !one_family) {
            let kind = if is_loopback(link) {
                "loopback"
            } else {
                "ether"
            };
            lines.push(format!("    link/{kind} {}", self.mac(mac)));
        }
        if self.options.details
            && let Some(kind) = &link.kind
        {
            let text = format!("    {kind}{}", format_settings(link));
            lines.push(escape_controls(&text).into_owned());
        }
        lines
    }

    /// Returns the counters in columns, as `ip -s`.
    fn counters(&self, link: &LiveLink) -> Vec<String> {
        if !self.options.stats {
            return Vec::new();
        }
        let statistics = &link.statistics;
        let directions = [
            (
                "RX",
                [
                    statistics.rx_bytes,
                    statistics.rx_packets,
                    statistics.rx_errors,
                    statistics.rx_dropped,
                ],
            ),
            (
                "TX",
                [
                    statistics.tx_bytes,
                    statistics.tx_packets,
                    statistics.tx_errors,
                    statistics.tx_dropped,
                ],
            ),
        ];
        let lines = directions.into_iter().flat_map(|(direction, values)| {
            let (mut head, mut line) = (format!("    {direction}:"), " ".repeat(7));
            for (name, value) in COUNTERS.iter().zip(values) {
                let least = if *name == "bytes" { 6 } else { name.len() };
                let width = least.max(value.to_string().len()) + 1;
                head += &format!("{name:>width$}");
                line += &format!("{value:>width$}");
            }
            [head, line]
        });
        lines.collect()
    }

    fn local_and_peer(&self, address: &LinkAddress) -> String {
        match &address.peer {
            None => self.address(&address.address),
            // The prefix length is that of the peer.
            Some(peer) => {
                let local = address.address.split('/').next().unwrap_or_default();
                format!("{} peer {}", self.address(local), self.address(peer))
            }
        }
    }

    fn address_words(&self, address: &LinkAddress) -> String {
        let family = if address.address.contains(':') {
            "inet6"
        } else {
            "inet"
        };
        let dynamic = if address.permanent { "" } else { " dynamic" };
        format!(
            "{family} {} scope {}{dynamic} {}",
            self.local_and_peer(address),
            escape_controls(&address.scope),
            escape_controls(&address.interface)
        )
    }

    /// Returns the line of a route; with `-d` also the words that are left out by default.
    pub fn route(&self, route: &LiveRoute) -> String {
        let details = self.options.details;
        let to = match short_destination(route) {
            "default" => "default".to_owned(),
            to => self.address(to),
        };
        let mut text = match route.kind.as_str() {
            "unicast" if !details => to,
            kind => format!("{kind} {to}"),
        };
        let words = [
            ("via", route.via.as_ref().map(|via| self.address(via))),
            (
                "dev",
                route.interface.as_ref().map(|name| self.device(name)),
            ),
            (
                "table",
                (route.table != RT_TABLE_MAIN).then(|| table_name(route.table)),
            ),
            (
                "proto",
                (details || route.protocol != "boot").then(|| route.protocol.clone()),
            ),
            (
                "scope",
                (details || route.scope != "global").then(|| route.scope.clone()),
            ),
            (
                "src",
                route.source.as_ref().map(|source| self.address(source)),
            ),
            (
                "metric",
                (route.metric != 0).then(|| route.metric.to_string()),
            ),
            ("mtu", route.mtu.map(|mtu| mtu.to_string())),
            ("advmss", route.advmss.map(|mss| mss.to_string())),
            (
                "initcwnd",
                route.initcwnd.map(|segments| segments.to_string()),
            ),
        ];
        for (word, value) in words {
            if let Some(value) = value {
                text = format!("{text} {word} {value}");
            }
        }
        let onlink = if route.onlink { " onlink" } else { "" };
        let hops = escape_controls(&format_next_hops(&route.nexthops)).into_owned();
        format!("{text}{onlink}{hops}\n")
    }

    /// Returns the line of a policy rule.
    pub fn rule(&self, live: &LiveRule) -> String {
        let LiveRule { rule, .. } = live;
        let not = if rule.not { "not " } else { "" };
        let from = rule
            .from
            .map_or("all".to_owned(), |net| self.address(&net.to_string()));
        let mut text = format!("{}:\t{not}from {from}", rule.priority);
        if let Some(tos) = live.tos {
            text += &format!(" tos {tos:#x}");
        }
        let selectors = Rule {
            not: false,
            from: None,
            table: None,
            suppress_prefixlength: None,
            ..rule.clone()
        };
        // The words begin with the priority, which is shown already.
        let words = selectors.to_string();
        let shown = format!("priority {}", rule.priority);
        text += &escape_controls(words.strip_prefix(&shown).unwrap_or(&words));
        let lookup = match (rule.table, live.l3mdev) {
            (_, true) => Some("[l3mdev-table]".to_owned()),
            (table, false) => table.map(table_name),
        };
        let last = [
            ("lookup", lookup),
            (
                "suppress_prefixlength",
                rule.suppress_prefixlength.map(|length| length.to_string()),
            ),
            (
                "suppress_ifgroup",
                live.suppress_ifgroup.map(|group| group.to_string()),
            ),
            ("goto", live.goto.map(|priority| priority.to_string())),
            ("proto", rule_protocol(live).map(str::to_owned)),
        ];
        if live.nop {
            text += " nop";
        }
        for (word, value) in last {
            if let Some(value) = value {
                text = format!("{text} {word} {value}");
            }
        }
        text + "\n"
    }

    /// Returns the line of a neighbour.
    pub fn neighbour(&self, entry: &LiveNeighbour) -> String {
        let mac = entry
            .mac
            .as_ref()
            .map_or(String::new(), |mac| self.mac(mac));
        if self.options.brief {
            let line = format!(
                "{} {} {mac}",
                self.address(&format!("{:<39}", entry.address)),
                self.device(&format!("{:<16}", entry.interface)),
            );
            return format!("{}\n", line.trim_end());
        }
        let mac = if mac.is_empty() {
            mac
        } else {
            format!(" lladdr {mac}")
        };
        format!(
            "{} dev {}{mac} {}\n",
            self.address(&entry.address),
            self.device(&entry.interface),
            if entry.proxy {
                "proxy".into()
            } else {
                escape_controls(&entry.state.to_uppercase()).to_string()
            }
        )
    }
}

/// Returns the protocol of a rule, if ip(8) shows it.
pub fn rule_protocol(live: &LiveRule) -> Option<&str> {
    let protocol = live.protocol.as_str();
    (!matches!(protocol, "kernel" | "boot" | "unspec")).then_some(protocol)
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
