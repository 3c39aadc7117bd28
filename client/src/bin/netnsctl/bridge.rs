//! `netnsctl bridge`.

use clap::{Args, Subcommand};
use netnsd_api::{Bridge, BridgePort, Centiseconds, FdbEntry, Stored};
use serde_json::Value;

use crate::{
    body::BodyBuilder,
    cli::{Context, IpOptions},
    error::CliError,
    ip::{self, Words},
    output::{on_off, or_dash, yes_no},
    parse_args,
    recorded::Recorded,
    resource::{
        self, AddressEdits, DeleteArgs, DeviceOptions, Filter, LabelOptions, ResourcePath,
        ShowInTable, format_labels, join_lines,
    },
};

/// `netnsctl bridge …`
#[derive(Debug, Subcommand)]
pub enum BridgeCommand {
    /// List bridges
    #[command(
        visible_alias = "ls",
        alias = "l",
        after_help = "Example:\n  netnsctl bridge list"
    )]
    List(Filter),
    /// Create a bridge
    #[command(
        alias = "a",
        after_help = "Example:\n  netnsctl bridge add br0 --address 10.1.2.254/24 --stp on"
    )]
    Add {
        /// The name
        name: String,
        #[command(flatten)]
        options: BridgeOptions,
    },
    /// Show one bridge, or list them
    #[command(after_help = "Example:\n  netnsctl bridge show br0")]
    Show {
        /// The name
        name: Option<String>,
    },
    /// Change a bridge: other fields stay
    #[command(after_help = "Example:\n  netnsctl bridge set br0 --ageing-time 60 --stp off")]
    Set {
        /// The name
        name: String,
        #[command(flatten)]
        options: BridgeOptions,
        #[command(flatten)]
        addresses: AddressEdits,
    },
    /// Delete bridges; with --cascade their ports are detached
    #[command(after_help = "Example:\n  netnsctl bridge delete br0 --cascade")]
    Delete(DeleteArgs),
    /// Show and change ports, in the words of `bridge link`
    #[command(
        after_help = "Examples:\n  netnsctl bridge link\n  netnsctl bridge link show master br0\n  netnsctl bridge link set dev port0 hairpin on"
    )]
    Link(Words),
    /// Show the forwarding tables, in the words of `bridge fdb`
    #[command(after_help = "Examples:\n  netnsctl bridge fdb\n  netnsctl bridge fdb show br br0")]
    Fdb(Words),
}

impl BridgeCommand {
    /// Returns true if it writes.
    pub fn is_write(&self) -> bool {
        match self {
            BridgeCommand::Add { .. } | BridgeCommand::Set { .. } | BridgeCommand::Delete(_) => {
                true
            }
            BridgeCommand::List(_) | BridgeCommand::Show { .. } => false,
            BridgeCommand::Link(words) => words.is_write(ip::parse_bridge_link),
            BridgeCommand::Fdb(words) => words.is_write(ip::parse_bridge_fdb),
        }
    }

    /// Returns true if the command takes the options of ip(8), such as `-n`.
    pub fn takes_ip_options(&self) -> bool {
        matches!(self, BridgeCommand::Link(_) | BridgeCommand::Fdb(_))
    }
}

/// Options for the fields of a bridge; `none` leaves a value to the kernel.
#[derive(Debug, Args)]
pub struct BridgeOptions {
    #[command(flatten)]
    device: DeviceOptions,
    /// Spanning tree protocol
    #[arg(long, value_name = "on|off", value_parser = parse_args::parse_on_off)]
    stp: Option<bool>,
    /// STP priority, 0 to 65535, or none
    #[arg(long, value_name = "N", value_parser = parse_args::parse_number_or_none)]
    priority: Option<Value>,
    /// Time after which a learned MAC address is forgotten, or none
    #[arg(long, alias = "ageing-time-s", value_name = "SECONDS", value_parser = parse_args::parse_number_or_none)]
    ageing_time: Option<Value>,
    /// STP forward delay, or none
    #[arg(long, alias = "forward-delay-s", value_name = "SECONDS", value_parser = parse_args::parse_number_or_none)]
    forward_delay: Option<Value>,
    /// STP hello time, or none
    #[arg(long, alias = "hello-time-s", value_name = "SECONDS", value_parser = parse_args::parse_number_or_none)]
    hello_time: Option<Value>,
    /// STP maximum message age, or none
    #[arg(long, alias = "max-age-s", value_name = "SECONDS", value_parser = parse_args::parse_number_or_none)]
    max_age: Option<Value>,
    /// IGMP and MLD snooping
    #[arg(long, value_name = "on|off", value_parser = parse_args::parse_on_off)]
    multicast_snooping: Option<bool>,
    /// VLAN filtering
    #[arg(long, value_name = "on|off", value_parser = parse_args::parse_on_off)]
    vlan_filtering: Option<bool>,
    /// VLAN of untagged frames, or none
    #[arg(long, value_name = "VLAN", value_parser = parse_args::parse_number_or_none)]
    vlan_default_pvid: Option<Value>,
    /// VLAN tags: 802.1q or 802.1ad, or none
    #[arg(long, value_name = "PROTOCOL", value_parser = parse_args::parse_text_or_none)]
    vlan_protocol: Option<Value>,
    /// Link-local multicast frames to forward, bit N for 01:80:c2:00:00:0N, or none
    #[arg(long, value_name = "MASK", value_parser = parse_args::parse_mask_or_none)]
    group_fwd_mask: Option<Value>,
    /// Destination address of STP frames, or none
    #[arg(long, value_name = "ADDRESS", value_parser = parse_args::parse_text_or_none)]
    group_addr: Option<Value>,
    /// Send IGMP and MLD queries
    #[arg(long, value_name = "on|off", value_parser = parse_args::parse_on_off)]
    multicast_querier: Option<bool>,
    /// Multicast router at the bridge: 0 never, 1 found by queries, 2 always, or none
    #[arg(long, value_name = "N", value_parser = parse_args::parse_number_or_none)]
    multicast_router: Option<Value>,
    /// IGMP version, 2 or 3, or none
    #[arg(long, value_name = "N", value_parser = parse_args::parse_number_or_none)]
    multicast_igmp_version: Option<Value>,
    /// MLD version, 1 or 2, or none
    #[arg(long, value_name = "N", value_parser = parse_args::parse_number_or_none)]
    multicast_mld_version: Option<Value>,
    /// Number of queries after a leave message, or none
    #[arg(long, value_name = "N", value_parser = parse_args::parse_number_or_none)]
    multicast_last_member_count: Option<Value>,
    /// Number of queries at the start of a querier, or none
    #[arg(long, value_name = "N", value_parser = parse_args::parse_number_or_none)]
    multicast_startup_query_count: Option<Value>,
    /// Interval between the queries after a leave message, or none
    #[arg(long, alias = "multicast-last-member-interval-s", value_name = "SECONDS", value_parser = parse_args::parse_number_or_none)]
    multicast_last_member_interval: Option<Value>,
    /// Time after which a group without reports is left, or none
    #[arg(long, alias = "multicast-membership-interval-s", value_name = "SECONDS", value_parser = parse_args::parse_number_or_none)]
    multicast_membership_interval: Option<Value>,
    /// Time after which a silent querier is gone, or none
    #[arg(long, alias = "multicast-querier-interval-s", value_name = "SECONDS", value_parser = parse_args::parse_number_or_none)]
    multicast_querier_interval: Option<Value>,
    /// Interval between queries, or none
    #[arg(long, alias = "multicast-query-interval-s", value_name = "SECONDS", value_parser = parse_args::parse_number_or_none)]
    multicast_query_interval: Option<Value>,
    /// Time in which answers to a query are due, or none
    #[arg(long, alias = "multicast-query-response-interval-s", value_name = "SECONDS", value_parser = parse_args::parse_number_or_none)]
    multicast_query_response_interval: Option<Value>,
    /// Interval between the queries at the start of a querier, or none
    #[arg(long, alias = "multicast-startup-query-interval-s", value_name = "SECONDS", value_parser = parse_args::parse_number_or_none)]
    multicast_startup_query_interval: Option<Value>,
    #[command(flatten)]
    labels: LabelOptions,
}

impl BridgeOptions {
    /// Returns the body of a request with the options that were given.
    fn into_body(self) -> BodyBuilder {
        let mut body = BodyBuilder::default();
        self.device.apply_to(&mut body);
        body.set("stp", self.stp);
        body.set("priority", self.priority);
        body.set("ageing_time_s", self.ageing_time);
        body.set("forward_delay_s", self.forward_delay);
        body.set("hello_time_s", self.hello_time);
        body.set("max_age_s", self.max_age);
        body.set("multicast_snooping", self.multicast_snooping);
        body.set("vlan_filtering", self.vlan_filtering);
        body.set("vlan_default_pvid", self.vlan_default_pvid);
        body.set("vlan_protocol", self.vlan_protocol);
        body.set("group_fwd_mask", self.group_fwd_mask);
        body.set("group_addr", self.group_addr);
        body.set("multicast_querier", self.multicast_querier);
        body.set("multicast_router", self.multicast_router);
        body.set("multicast_igmp_version", self.multicast_igmp_version);
        body.set("multicast_mld_version", self.multicast_mld_version);
        body.set(
            "multicast_last_member_count",
            self.multicast_last_member_count,
        );
        body.set(
            "multicast_startup_query_count",
            self.multicast_startup_query_count,
        );
        body.set(
            "multicast_last_member_interval_s",
            self.multicast_last_member_interval,
        );
        body.set(
            "multicast_membership_interval_s",
            self.multicast_membership_interval,
        );
        body.set(
            "multicast_querier_interval_s",
            self.multicast_querier_interval,
        );
        body.set("multicast_query_interval_s", self.multicast_query_interval);
        body.set(
            "multicast_query_response_interval_s",
            self.multicast_query_response_interval,
        );
        body.set(
            "multicast_startup_query_interval_s",
            self.multicast_startup_query_interval,
        );
        self.labels.apply_to(&mut body);
        body
    }
}

/// Runs a command.
pub async fn run_bridge(
    context: &Context,
    options: &IpOptions,
    command: BridgeCommand,
) -> Result<(), CliError> {
    match command {
        BridgeCommand::List(filter) => resource::list_resources::<Bridge>(context, &filter).await,
        BridgeCommand::Add { name, options } => {
            let mut body = options.into_body();
            body.set("name", Some(name));
            resource::add_resource::<Bridge>(context, &body.build()).await
        }
        BridgeCommand::Show { name } => {
            resource::show_or_list::<Bridge>(context, name.as_deref()).await
        }
        BridgeCommand::Set {
            name,
            options,
            addresses,
        } => {
            let target = ResourcePath::resource::<Bridge>(&name);
            let find = async || Recorded::read::<Bridge>(context, &name).await;
            let body = options.into_body();
            resource::set_fields(context, &target, body, &addresses.edits(), find).await
        }
        BridgeCommand::Delete(args) => resource::delete_resources::<Bridge>(context, &args).await,
        BridgeCommand::Link(words) => {
            let names = ["bridge", "link"];
            words
                .run(context, options, &names, ip::parse_bridge_link)
                .await
        }
        BridgeCommand::Fdb(words) => {
            let names = ["bridge", "fdb"];
            words
                .run(context, options, &names, ip::parse_bridge_fdb)
                .await
        }
    }
}

/// Returns a port as a row of a table.
pub fn port_row(port: &BridgePort) -> Vec<String> {
    let endpoint = port
        .veth
        .as_ref()
        .zip(port.endpoint)
        .map(|(veth, end)| format!("{veth}/{end}"));
    // Flags that differ from the default: learning and flooding are on, all others are off.
    let flags = [
        ("hairpin", port.hairpin),
        ("isolated", port.isolated),
        ("no learning", !port.learning),
        ("bpdu guard", port.bpdu_guard),
        ("root block", port.root_block),
        ("mcast fast leave", port.mcast_fast_leave),
        ("no flood", !port.flood),
        ("no mcast flood", !port.mcast_flood),
        ("no bcast flood", !port.bcast_flood),
        ("mcast to unicast", port.mcast_to_unicast),
        ("neigh suppress", port.neigh_suppress),
        ("proxy arp", port.proxy_arp),
        ("no mcast router", port.mcast_router == 0),
        ("mcast router", port.mcast_router == 2),
    ];
    let flags: Vec<&str> = flags
        .iter()
        .filter(|(_, is_set)| *is_set)
        .map(|(flag, _)| *flag)
        .collect();
    vec![
        port.interface.clone(),
        or_dash(endpoint),
        port.state.clone(),
        port.path_cost.to_string(),
        port.priority.to_string(),
        [flags.join(", "), vlans_of(port)]
            .into_iter()
            .filter(|text| !text.is_empty())
            .collect::<Vec<_>>()
            .join(", "),
    ]
}

/// Returns the VLANs of a port, the untagged one first; nothing for the bridge's default alone.
fn vlans_of(port: &BridgePort) -> String {
    if port.vlans.is_empty() && port.vlan.is_none_or(|vlan| vlan == 1) {
        return String::new();
    }
    let untagged = port.vlan.map(|vlan| format!("{vlan} untagged"));
    let tagged = port.vlans.iter().map(ToString::to_string);
    let all: Vec<String> = untagged.into_iter().chain(tagged).collect();
    format!("vlan {}", all.join(" "))
}

/// Returns an entry of a forwarding table as a row of a table.
pub fn fdb_row(entry: &FdbEntry) -> Vec<String> {
    vec![
        entry.mac.clone(),
        entry.interface.clone(),
        yes_no(entry.local),
        or_dash(entry.age_s.map(|age| format!("{age:.2}"))),
    ]
}

impl ShowInTable for Bridge {
    const COLUMNS: &'static [&'static str] = &[
        "NAME",
        "NAMESPACE",
        "UP",
        "STP",
        "ADDRESSES",
        "PORTS",
        "STATE",
        "LABELS",
    ];

    fn row(stored: &Stored<Self>) -> Vec<String> {
        let spec = &stored.spec;
        let addresses: Vec<String> = spec.addresses.iter().map(ToString::to_string).collect();
        vec![
            spec.name.to_string(),
            or_dash(spec.namespace.as_ref()),
            yes_no(spec.up),
            on_off(spec.stp),
            or_dash((!addresses.is_empty()).then(|| addresses.join(","))),
            or_dash(
                stored
                    .status
                    .observed
                    .as_ref()
                    .map(|observed| observed.ports.len()),
            ),
            stored.status.state.to_string(),
            format_labels(&spec.labels),
        ]
    }

    fn fields(stored: &Stored<Self>) -> Vec<(&'static str, String)> {
        let spec = &stored.spec;
        let mut fields = vec![
            ("interface", spec.device().to_owned()),
            (
                "namespace",
                spec.namespace
                    .as_ref()
                    .map_or("(host)".into(), ToString::to_string),
            ),
            ("mac", format_optional(spec.mac)),
            ("mtu", format_optional(spec.mtu)),
            ("up", yes_no(spec.up)),
            ("addresses", join_lines(&spec.addresses)),
            ("alias", format_optional(spec.alias.as_ref())),
            ("altnames", join_lines(&spec.altnames)),
            ("stp", on_off(spec.stp)),
            ("priority", format_optional(spec.priority)),
            ("ageing time", format_seconds(spec.ageing_time_s)),
            ("forward delay", format_seconds(spec.forward_delay_s)),
            ("hello time", format_seconds(spec.hello_time_s)),
            ("max age", format_seconds(spec.max_age_s)),
            (
                "multicast snooping",
                spec.multicast_snooping.map_or(String::new(), on_off),
            ),
            (
                "vlan filtering",
                spec.vlan_filtering.map_or(String::new(), on_off),
            ),
            ("vlan default pvid", format_optional(spec.vlan_default_pvid)),
            ("vlan protocol", format_optional(spec.vlan_protocol)),
            (
                "group fwd mask",
                spec.group_fwd_mask
                    .map_or(String::new(), |mask| format!("{mask:#x}")),
            ),
            ("group addr", format_optional(spec.group_addr)),
            (
                "multicast querier",
                spec.multicast_querier.map_or(String::new(), on_off),
            ),
            ("multicast router", format_optional(spec.multicast_router)),
            (
                "multicast igmp version",
                format_optional(spec.multicast_igmp_version),
            ),
            (
                "multicast mld version",
                format_optional(spec.multicast_mld_version),
            ),
            (
                "multicast last member count",
                format_optional(spec.multicast_last_member_count),
            ),
            (
                "multicast startup query count",
                format_optional(spec.multicast_startup_query_count),
            ),
            (
                "multicast last member interval",
                format_seconds(spec.multicast_last_member_interval_s),
            ),
            (
                "multicast membership interval",
                format_seconds(spec.multicast_membership_interval_s),
            ),
            (
                "multicast querier interval",
                format_seconds(spec.multicast_querier_interval_s),
            ),
            (
                "multicast query interval",
                format_seconds(spec.multicast_query_interval_s),
            ),
            (
                "multicast query response interval",
                format_seconds(spec.multicast_query_response_interval_s),
            ),
            (
                "multicast startup query interval",
                format_seconds(spec.multicast_startup_query_interval_s),
            ),
        ];
        if let Some(observed) = &stored.status.observed {
            fields[2].1.clone_from(&observed.mac);
            fields[3].1 = observed.mtu.to_string();
            let ports: Vec<String> = observed
                .ports
                .iter()
                .map(|port| format!("{} {}", port.interface, port.state))
                .collect();
            fields.extend([
                ("index", observed.index.to_string()),
                ("carrier", yes_no(observed.carrier)),
                ("operstate", observed.operstate.clone()),
                ("foreign addresses", join_lines(&observed.foreign_addresses)),
                ("bridge id", observed.bridge_id.clone()),
                ("root id", observed.root_id.clone()),
                ("ports", join_lines(&ports)),
            ]);
        }
        fields
    }
}

fn format_seconds(time: Option<Centiseconds>) -> String {
    time.map_or(String::new(), |time| {
        format!("{} s", f64::from(time.0) / 100.0)
    })
}

fn format_optional(value: Option<impl ToString>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}
