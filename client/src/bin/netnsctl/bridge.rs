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
    /// Show one bridge
    #[command(after_help = "Example:\n  netnsctl bridge show br0")]
    Show {
        /// The name
        name: String,
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
        BridgeCommand::Show { name } => resource::show_resource::<Bridge>(context, &name).await,
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
    // Flags that differ from the default: learning is on, all others are off.
    let flags = [
        ("hairpin", port.hairpin),
        ("isolated", port.isolated),
        ("no learning", !port.learning),
        ("bpdu guard", port.bpdu_guard),
        ("root block", port.root_block),
        ("mcast fast leave", port.mcast_fast_leave),
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
        flags.join(", "),
    ]
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
