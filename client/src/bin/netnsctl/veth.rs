//! `netnsctl veth`.

use clap::{Args, Subcommand};
use netnsd_api::{Endpoint, EndpointObserved, Stored, Veth};
use serde_json::{Value, json};

use crate::{
    cli::Context,
    fail::Failure,
    output::or_dash,
    resource::{self, Delete, Filter, Labels, LinkOptions, Shown, labels},
    words::{self, Body},
};

/// `netnsctl veth …`
#[derive(Debug, Subcommand)]
pub enum VethCommand {
    /// List veth pairs
    #[command(
        visible_alias = "ls",
        alias = "l",
        after_help = "Example:\n  netnsctl veth list"
    )]
    List(Filter),
    /// Create a veth pair; without a name it is called vethN
    ///
    /// An end is [NAMESPACE:][INTERFACE] and, after commas, any of addr=CIDR (repeatable),
    /// bridge=BRIDGE, mac=MAC, mtu=N, down, and settings of the bridge's port: path_cost=N,
    /// priority=N, hairpin, isolated, learning=off, bpdu_guard, root_block, mcast_fast_leave.
    /// Without a namespace it is on the host, without an interface it is called vethN.
    #[command(
        alias = "a",
        override_usage = "netnsctl veth add [OPTIONS] [NAME] [END END]",
        after_help = "Examples:\n  netnsctl veth add lan0 net0:eth0,addr=10.1.1.1/24 net1:eth0,addr=10.1.1.2/24\n  netnsctl \
                      veth add net0:eth1,addr=10.1.2.1/24 port0,bridge=br0,hairpin\n  netnsctl veth add"
    )]
    Add {
        /// The pair's name, and its two ends
        #[arg(value_name = "NAME|END", num_args = 0..=3)]
        words: Vec<String>,
        /// A label; repeatable
        #[arg(long, value_name = "KEY=VALUE", value_parser = words::pair)]
        label: Vec<(String, String)>,
    },
    /// Show one veth pair
    #[command(after_help = "Example:\n  netnsctl veth show lan0")]
    Show {
        /// Its name
        name: String,
    },
    /// Change one end of a pair, or the pair's labels: what is not named stays
    #[command(
        after_help = "Examples:\n  netnsctl veth set lan0/1 --mtu 1400 --address 10.1.1.2/24\n  netnsctl veth set lan0 \
                      --label team=lab"
    )]
    Set {
        /// The pair for its labels; the pair and which end, 0 or 1, for the rest
        #[arg(value_name = "NAME/0|NAME/1|NAME")]
        which: String,
        #[command(flatten)]
        options: Box<Options>,
    },
    /// Delete veth pairs
    #[command(after_help = "Example:\n  netnsctl veth delete lan0")]
    Delete(Delete),
}

impl VethCommand {
    /// Whether it writes.
    pub fn writes(&self) -> bool {
        use VethCommand::{Add, Delete, Set};
        matches!(self, Add { .. } | Set { .. } | Delete(_))
    }
}

/// An end's fields; `none` leaves a value to the kernel.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    link: LinkOptions,
    /// The bridge that it is a port of
    #[arg(long, value_name = "NAME")]
    bridge: Option<String>,
    /// It is no bridge's port
    #[arg(long, conflicts_with_all = ["bridge", "path_cost", "priority", "hairpin", "isolated", "learning",
        "bpdu_guard", "root_block", "mcast_fast_leave"])]
    no_bridge: bool,
    /// The port's STP cost, or none
    #[arg(long, value_name = "N", value_parser = words::number)]
    path_cost: Option<Value>,
    /// The port's STP priority, or none
    #[arg(long, value_name = "N", value_parser = words::number)]
    priority: Option<Value>,
    /// Whether a frame may leave by the port that it came in by
    #[arg(long, value_name = "on|off", value_parser = words::on_off)]
    hairpin: Option<bool>,
    /// Whether the port talks to no other isolated port
    #[arg(long, value_name = "on|off", value_parser = words::on_off)]
    isolated: Option<bool>,
    /// Whether MAC addresses are learned on the port
    #[arg(long, value_name = "on|off", value_parser = words::on_off)]
    learning: Option<bool>,
    /// Whether a BPDU received disables the port
    #[arg(long, value_name = "on|off", value_parser = words::on_off)]
    bpdu_guard: Option<bool>,
    /// Whether the port may not become the root port
    #[arg(long, value_name = "on|off", value_parser = words::on_off)]
    root_block: Option<bool>,
    /// Whether a multicast group is left at once
    #[arg(long, value_name = "on|off", value_parser = words::on_off)]
    mcast_fast_leave: Option<bool>,
    #[command(flatten)]
    labels: Labels,
}

impl Options {
    /// What is of one end.
    fn end(&self) -> Body {
        let mut body = Body::default();
        self.link.put(&mut body);
        body.put("bridge", self.bridge.clone());
        let mut port = Body::default();
        port.put("path_cost", self.path_cost.clone());
        port.put("priority", self.priority.clone());
        port.put("hairpin", self.hairpin);
        port.put("isolated", self.isolated);
        port.put("learning", self.learning);
        port.put("bpdu_guard", self.bpdu_guard);
        port.put("root_block", self.root_block);
        port.put("mcast_fast_leave", self.mcast_fast_leave);
        body.put("port", Some(port.0).filter(|port| !port.is_empty()));
        if self.no_bridge {
            body.put("bridge", Some(Value::Null));
            // Its settings go with it.
            body.put("port", Some(Value::Null));
        }
        body
    }
}

/// Runs it.
pub async fn run(context: &Context, command: VethCommand) -> Result<(), Failure> {
    match command {
        VethCommand::List(filter) => resource::list::<Veth>(context, &filter).await,
        VethCommand::Add { words, label } => {
            resource::add::<Veth>(context, &pair(&words, &label)?).await
        }
        VethCommand::Show { name } => resource::show::<Veth>(context, &name).await,
        VethCommand::Set { which, options } => set(context, &which, &options).await,
        VethCommand::Delete(what) => resource::delete::<Veth>(context, &what).await,
    }
}

/// The body of a new pair: its name and its ends, each if it was given.
fn pair(words: &[String], label: &[(String, String)]) -> Result<Value, Failure> {
    let (name, ends) = match words {
        [] => (None, None),
        [name] => (Some(name), None),
        [a, b] => (None, Some((a, b))),
        [name, a, b] => (Some(name), Some((a, b))),
        _ => {
            return Err(Failure::Usage(
                "a pair has a name and two ends: veth add [NAME] A B".into(),
            ));
        }
    };
    let mut body = Body::default();
    body.put("name", name.cloned());
    if let Some((a, b)) = ends {
        let end = |text: &str| {
            words::end(text).map_err(|error| Failure::Usage(format!("the end {text:?}: {error}")))
        };
        body.put("endpoints", Some(json!([end(a)?, end(b)?])));
    }
    body.map("labels", label, &[]);
    Ok(body.value())
}

async fn set(context: &Context, which: &str, options: &Options) -> Result<(), Failure> {
    let mut pair = Body::default();
    pair.map("labels", &options.labels.label, &options.labels.no_label);
    let end = options.end();
    match which.split_once('/') {
        None if end.0.is_empty() => {
            resource::set(context, &resource::path::<Veth>(which), &pair.value()).await
        }
        None => Err(Failure::Usage(format!("which end? {which}/0 or {which}/1"))),
        Some((name, _)) if !pair.0.is_empty() => Err(Failure::Usage(format!(
            "labels are the pair's, not an end's: netnsctl veth set {name} --label …"
        ))),
        Some((name, number @ ("0" | "1"))) => {
            let path = format!("{}/endpoints/{number}", resource::path::<Veth>(name));
            resource::set(context, &path, &end.value()).await
        }
        Some((name, other)) => Err(Failure::Usage(format!(
            "a pair has the ends {name}/0 and {name}/1, not {name}/{other}"
        ))),
    }
}

/// An end in the words that `add` takes.
fn words(end: &Endpoint) -> String {
    let mut words = vec![match &end.namespace {
        Some(namespace) => format!("{namespace}:{}", end.device()),
        None => end.device().to_owned(),
    }];
    words.extend(
        end.addresses
            .iter()
            .map(|address| format!("addr={address}")),
    );
    words.extend(end.bridge.iter().map(|bridge| format!("bridge={bridge}")));
    words.extend(end.mac.iter().map(|mac| format!("mac={mac}")));
    words.extend(end.mtu.iter().map(|mtu| format!("mtu={mtu}")));
    let port = &end.port;
    words.extend(
        port.path_cost
            .iter()
            .map(|cost| format!("path_cost={cost}")),
    );
    words.extend(
        port.priority
            .iter()
            .map(|priority| format!("priority={priority}")),
    );
    let switches = [
        ("hairpin", port.hairpin),
        ("isolated", port.isolated),
        ("learning", port.learning),
        ("bpdu_guard", port.bpdu_guard),
        ("root_block", port.root_block),
        ("mcast_fast_leave", port.mcast_fast_leave),
    ];
    words.extend(switches.iter().filter_map(|(word, on)| match on {
        Some(true) => Some((*word).to_owned()),
        Some(false) => Some(format!("{word}=off")),
        None => None,
    }));
    if !end.up {
        words.push("down".into());
    }
    words.join(",")
}

/// What the kernel said of an end.
fn seen(end: Option<&EndpointObserved>) -> String {
    let Some(end) = end else {
        return "not there".into();
    };
    let mut text = format!(
        "index {} mac {} mtu {} {}",
        end.index, end.mac, end.mtu, end.operstate
    );
    if !end.carrier {
        text += " no carrier";
    }
    if !end.foreign_addresses.is_empty() {
        text = format!(
            "{text}, addresses of others: {}",
            end.foreign_addresses.join(" ")
        );
    }
    text
}

fn ready(stored: &Stored<Veth>) -> Option<&'static str> {
    stored
        .status
        .observed
        .as_ref()
        .map(|observed| if observed.ready { "yes" } else { "no" })
}

impl Shown for Veth {
    const COLUMNS: &'static [&'static str] =
        &["NAME", "END 0", "END 1", "READY", "STATE", "LABELS"];

    fn row(stored: &Stored<Self>) -> Vec<String> {
        let [a, b] = &stored.spec.endpoints;
        vec![
            stored.spec.name.to_string(),
            words(a),
            words(b),
            or_dash(ready(stored)),
            stored.status.state.as_str().to_owned(),
            labels(&stored.spec.labels),
        ]
    }

    fn fields(stored: &Stored<Self>) -> Vec<(&'static str, String)> {
        let [a, b] = &stored.spec.endpoints;
        let ends = stored
            .status
            .observed
            .as_ref()
            .map(|observed| &observed.endpoints);
        let [seen_a, seen_b] = [0, 1].map(|end| seen(ends.and_then(|ends| ends[end].as_ref())));
        vec![
            ("ready", ready(stored).unwrap_or_default().to_owned()),
            ("end 0", format!("{}\n{seen_a}", words(a))),
            ("end 1", format!("{}\n{seen_b}", words(b))),
        ]
    }
}
