//! `netnsctl bridge`.

use clap::{Args, Subcommand};
use netnsd_api::{Bridge, BridgePort, FdbEntry, Items, Stored};
use serde_json::Value;

use crate::{
    cli::Context,
    fail::Failure,
    output::{Format, line, or_dash, print, table},
    resource::{self, Delete, Filter, Labels, LinkOptions, Shown, labels, lines, switch},
    words::{self, Body},
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
        /// Its name
        name: String,
        #[command(flatten)]
        options: Options,
    },
    /// Show one bridge
    #[command(after_help = "Example:\n  netnsctl bridge show br0")]
    Show {
        /// Its name
        name: String,
    },
    /// Change a bridge: what is not named stays
    #[command(after_help = "Example:\n  netnsctl bridge set br0 --ageing-time 60 --stp off")]
    Set {
        /// Its name
        name: String,
        #[command(flatten)]
        options: Options,
    },
    /// Delete bridges; with --cascade they let their ports go
    #[command(after_help = "Example:\n  netnsctl bridge delete br0 --cascade")]
    Delete(Delete),
    /// List a bridge's ports, as `bridge link` does
    #[command(after_help = "Example:\n  netnsctl bridge link br0")]
    Link {
        /// Its name
        name: String,
    },
    /// List a bridge's forwarding table, as `brctl showmacs` does
    #[command(after_help = "Example:\n  netnsctl bridge fdb br0")]
    Fdb {
        /// Its name
        name: String,
    },
}

impl BridgeCommand {
    /// Whether it writes.
    pub fn writes(&self) -> bool {
        use BridgeCommand::{Add, Delete, Set};
        matches!(self, Add { .. } | Set { .. } | Delete(_))
    }
}

/// A bridge's fields; `none` leaves a value to the kernel.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    link: LinkOptions,
    /// Whether the spanning tree protocol runs
    #[arg(long, value_name = "on|off", value_parser = words::on_off)]
    stp: Option<bool>,
    /// STP priority, 0 to 65535, or none
    #[arg(long, value_name = "N", value_parser = words::number)]
    priority: Option<Value>,
    /// How long a MAC address is remembered, or none
    #[arg(long, alias = "ageing-time-s", value_name = "SECONDS", value_parser = words::number)]
    ageing_time: Option<Value>,
    /// STP's forward delay, or none
    #[arg(long, alias = "forward-delay-s", value_name = "SECONDS", value_parser = words::number)]
    forward_delay: Option<Value>,
    /// STP's hello time, or none
    #[arg(long, alias = "hello-time-s", value_name = "SECONDS", value_parser = words::number)]
    hello_time: Option<Value>,
    /// STP's maximum message age, or none
    #[arg(long, alias = "max-age-s", value_name = "SECONDS", value_parser = words::number)]
    max_age: Option<Value>,
    /// Whether IGMP and MLD are snooped
    #[arg(long, value_name = "on|off", value_parser = words::on_off)]
    multicast_snooping: Option<bool>,
    /// Whether VLANs are filtered
    #[arg(long, value_name = "on|off", value_parser = words::on_off)]
    vlan_filtering: Option<bool>,
    /// The VLAN of untagged frames, or none
    #[arg(long, value_name = "VLAN", value_parser = words::number)]
    vlan_default_pvid: Option<Value>,
    #[command(flatten)]
    labels: Labels,
}

impl Options {
    fn body(self) -> Body {
        let mut body = Body::default();
        self.link.put(&mut body);
        body.put("stp", self.stp);
        body.put("priority", self.priority);
        body.put("ageing_time_s", self.ageing_time);
        body.put("forward_delay_s", self.forward_delay);
        body.put("hello_time_s", self.hello_time);
        body.put("max_age_s", self.max_age);
        body.put("multicast_snooping", self.multicast_snooping);
        body.put("vlan_filtering", self.vlan_filtering);
        body.put("vlan_default_pvid", self.vlan_default_pvid);
        body.map("labels", &self.labels.label, &self.labels.no_label);
        body
    }
}

/// Runs it.
pub async fn run(context: &Context, command: BridgeCommand) -> Result<(), Failure> {
    match command {
        BridgeCommand::List(filter) => resource::list::<Bridge>(context, &filter).await,
        BridgeCommand::Add { name, options } => {
            let mut body = options.body();
            body.put("name", Some(name));
            resource::add::<Bridge>(context, &body.value()).await
        }
        BridgeCommand::Show { name } => resource::show::<Bridge>(context, &name).await,
        BridgeCommand::Set { name, options } => {
            resource::set(
                context,
                &resource::path::<Bridge>(&name),
                &options.body().value(),
            )
            .await
        }
        BridgeCommand::Delete(what) => resource::delete::<Bridge>(context, &what).await,
        BridgeCommand::Link { name } => link(context, &name).await,
        BridgeCommand::Fdb { name } => fdb(context, &name).await,
    }
}

async fn link(context: &Context, name: &str) -> Result<(), Failure> {
    let body = context
        .api
        .get(&format!("{}/ports", resource::path::<Bridge>(name)))
        .await?;
    if context.format == Format::Json {
        return line(&body);
    }
    let ports = serde_json::from_slice::<Items<BridgePort>>(&body)?.items;
    if context.format == Format::Name {
        return ports.into_iter().try_for_each(|port| line(port.interface));
    }
    let row = |port: BridgePort| {
        let veth = port
            .veth
            .zip(port.endpoint)
            .map(|(veth, end)| format!("{veth}/{end}"));
        // Learning is what a port does; the others are what it does not, unless it is told to.
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
            .filter(|(_, on)| *on)
            .map(|(flag, _)| *flag)
            .collect();
        vec![
            port.interface,
            or_dash(veth),
            port.state,
            port.path_cost.to_string(),
            port.priority.to_string(),
            flags.join(", "),
        ]
    };
    let header = ["INTERFACE", "VETH", "STATE", "COST", "PRIORITY", "FLAGS"];
    print(table(&header, ports.into_iter().map(row).collect()))
}

async fn fdb(context: &Context, name: &str) -> Result<(), Failure> {
    let body = context
        .api
        .get(&format!("{}/fdb", resource::path::<Bridge>(name)))
        .await?;
    if context.format == Format::Json {
        return line(&body);
    }
    let entries = serde_json::from_slice::<Items<FdbEntry>>(&body)?.items;
    if context.format == Format::Name {
        return entries.into_iter().try_for_each(|entry| line(entry.mac));
    }
    let row = |entry: FdbEntry| {
        let local = if entry.local { "yes" } else { "no" };
        vec![
            entry.mac,
            entry.interface,
            local.into(),
            or_dash(entry.age_s.map(|age| format!("{age:.2}"))),
        ]
    };
    print(table(
        &["MAC", "INTERFACE", "LOCAL", "AGE"],
        entries.into_iter().map(row).collect(),
    ))
}

impl Shown for Bridge {
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
            (if spec.up { "yes" } else { "no" }).to_owned(),
            switch(spec.stp),
            or_dash((!addresses.is_empty()).then(|| addresses.join(","))),
            or_dash(
                stored
                    .status
                    .observed
                    .as_ref()
                    .map(|observed| observed.ports.len()),
            ),
            stored.status.state.as_str().to_owned(),
            labels(&spec.labels),
        ]
    }

    fn fields(stored: &Stored<Self>) -> Vec<(&'static str, String)> {
        let spec = &stored.spec;
        let seconds = |time: Option<netnsd_api::Centiseconds>| {
            time.map_or(String::new(), |time| {
                format!("{} s", f64::from(time.0) / 100.0)
            })
        };
        let number = |value: Option<u16>| value.map_or(String::new(), |value| value.to_string());
        let mut fields = vec![
            ("interface", spec.device().to_owned()),
            (
                "namespace",
                spec.namespace
                    .as_ref()
                    .map_or("(host)".into(), ToString::to_string),
            ),
            ("mac", spec.mac.map_or(String::new(), |mac| mac.to_string())),
            ("mtu", spec.mtu.map_or(String::new(), |mtu| mtu.to_string())),
            ("up", (if spec.up { "yes" } else { "no" }).into()),
            ("addresses", lines(&spec.addresses)),
            ("stp", switch(spec.stp)),
            ("priority", number(spec.priority)),
            ("ageing time", seconds(spec.ageing_time_s)),
            ("forward delay", seconds(spec.forward_delay_s)),
            ("hello time", seconds(spec.hello_time_s)),
            ("max age", seconds(spec.max_age_s)),
            (
                "multicast snooping",
                spec.multicast_snooping.map_or(String::new(), switch),
            ),
            (
                "vlan filtering",
                spec.vlan_filtering.map_or(String::new(), switch),
            ),
            ("vlan default pvid", number(spec.vlan_default_pvid)),
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
                (
                    "carrier",
                    (if observed.carrier { "yes" } else { "no" }).into(),
                ),
                ("operstate", observed.operstate.clone()),
                ("foreign addresses", lines(&observed.foreign_addresses)),
                ("bridge id", observed.bridge_id.clone()),
                ("root id", observed.root_id.clone()),
                ("ports", lines(&ports)),
            ]);
        }
        fields
    }
}
