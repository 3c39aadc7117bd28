//! `netnsctl veth`.

use clap::{Args, Subcommand};
use netnsd_api::{Endpoint, EndpointObserved, Namespace, Stored, Veth};
use serde_json::{Value, json};

use crate::{
    body::BodyBuilder,
    cli::{Context, IpOptions},
    error::CliError,
    ip,
    output::or_dash,
    parse_args,
    recorded::Recorded,
    resource::{
        self, AddressEdits, DeleteArgs, DeviceOptions, Filter, LabelOptions, ResourcePath,
        ShowInTable, format_labels,
    },
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
    /// Create a veth pair [default name: vethN]
    ///
    /// An end is [NAMESPACE:][INTERFACE] and, after commas, any of addr=CIDR (repeatable),
    /// bridge=BRIDGE, mac=MAC, mtu=N, down, and settings of the bridge port: path_cost=N,
    /// priority=N, mcast_router=N, hairpin, isolated, learning=off, flood=off, mcast_flood=off,
    /// bcast_flood=off, mcast_to_unicast, neigh_suppress, proxy_arp, bpdu_guard, root_block,
    /// mcast_fast_leave, vlan=N (untagged), vlans=N+N-N (tagged).
    /// The default namespace is the host's, the default interface vethN.
    #[command(
        alias = "a",
        override_usage = "netnsctl veth add [OPTIONS] [NAME] [END END]",
        after_help = "Examples:\n  netnsctl veth add lan0 net0:eth0,addr=10.1.1.1/24 net1:eth0,addr=10.1.1.2/24\n  netnsctl \
                      veth add net0:eth1,addr=10.1.2.1/24 port0,bridge=br0,hairpin\n  netnsctl veth add"
    )]
    Add {
        /// The name of the pair, and its two ends; or the words of ip: NAME peer NAME
        #[arg(value_name = "NAME|END")]
        words: Vec<String>,
        /// A label; repeatable
        #[arg(long, value_name = "KEY=VALUE", value_parser = parse_args::parse_key_value)]
        label: Vec<(String, String)>,
    },
    /// Show one veth pair, or list them
    #[command(after_help = "Example:\n  netnsctl veth show lan0")]
    Show {
        /// The name
        name: Option<String>,
    },
    /// Change one end of a pair, or the pair's labels: other fields stay
    #[command(
        after_help = "Examples:\n  netnsctl veth set lan0/1 --mtu 1400 --address 10.1.1.2/24\n  netnsctl veth set lan0 \
                      --label team=lab"
    )]
    Set {
        /// The pair (for labels), or one of its ends (for all other options)
        #[arg(value_name = "NAME/0|NAME/1|NAME")]
        target: String,
        #[command(flatten)]
        options: Box<EndpointOptions>,
    },
    /// Delete veth pairs
    #[command(after_help = "Example:\n  netnsctl veth delete lan0")]
    Delete(DeleteArgs),
}

impl VethCommand {
    /// Returns true if it writes.
    pub fn is_write(&self) -> bool {
        use VethCommand::{Add, Delete, Set};
        matches!(self, Add { .. } | Set { .. } | Delete(_))
    }
}

/// Options for the fields of an end; `none` leaves a value to the kernel.
#[derive(Debug, Args)]
pub struct EndpointOptions {
    #[command(flatten)]
    device: DeviceOptions,
    #[command(flatten)]
    addresses: AddressEdits,
    /// The bridge that it is a port of
    #[arg(long, value_name = "NAME")]
    bridge: Option<String>,
    /// Detach it from its bridge
    #[arg(long, conflicts_with_all = ["bridge", "path_cost", "priority", "hairpin", "isolated", "learning", "bpdu_guard", "root_block", "mcast_fast_leave", "flood", "mcast_flood", "bcast_flood", "mcast_to_unicast", "neigh_suppress", "proxy_arp", "mcast_router", "vlan", "vlans"])]
    no_bridge: bool,
    /// STP path cost of the port, or none
    #[arg(long, value_name = "N", value_parser = parse_args::parse_number_or_none)]
    path_cost: Option<Value>,
    /// STP priority of the port, or none
    #[arg(long, value_name = "N", value_parser = parse_args::parse_number_or_none)]
    priority: Option<Value>,
    /// Hairpin mode: a frame may leave by the port that it came in by
    #[arg(long, value_name = "on|off", value_parser = parse_args::parse_on_off)]
    hairpin: Option<bool>,
    /// Isolate the port from other isolated ports
    #[arg(long, value_name = "on|off", value_parser = parse_args::parse_on_off)]
    isolated: Option<bool>,
    /// Learn MAC addresses on the port
    #[arg(long, value_name = "on|off", value_parser = parse_args::parse_on_off)]
    learning: Option<bool>,
    /// Disable the port when it receives a BPDU
    #[arg(long, value_name = "on|off", value_parser = parse_args::parse_on_off)]
    bpdu_guard: Option<bool>,
    /// Never let the port become the root port
    #[arg(long, value_name = "on|off", value_parser = parse_args::parse_on_off)]
    root_block: Option<bool>,
    /// Leave multicast groups immediately
    #[arg(long, value_name = "on|off", value_parser = parse_args::parse_on_off)]
    mcast_fast_leave: Option<bool>,
    /// Send frames to unknown unicast addresses by the port
    #[arg(long, value_name = "on|off", value_parser = parse_args::parse_on_off)]
    flood: Option<bool>,
    /// Send frames to unknown multicast groups by the port
    #[arg(long, value_name = "on|off", value_parser = parse_args::parse_on_off)]
    mcast_flood: Option<bool>,
    /// Send broadcast frames by the port
    #[arg(long, value_name = "on|off", value_parser = parse_args::parse_on_off)]
    bcast_flood: Option<bool>,
    /// Send a multicast frame to each member of its group as a unicast frame
    #[arg(long, value_name = "on|off", value_parser = parse_args::parse_on_off)]
    mcast_to_unicast: Option<bool>,
    /// Answer ARP and neighbour solicitations for those behind the port
    #[arg(long, value_name = "on|off", value_parser = parse_args::parse_on_off)]
    neigh_suppress: Option<bool>,
    /// Answer ARP requests on the port for addresses that the bridge knows
    #[arg(long, value_name = "on|off", value_parser = parse_args::parse_on_off)]
    proxy_arp: Option<bool>,
    /// Multicast router at the port: 0 never, 1 found by queries, 2 always, or none
    #[arg(long, value_name = "N", value_parser = parse_args::parse_number_or_none)]
    mcast_router: Option<Value>,
    /// VLAN of untagged frames, or none
    #[arg(long, value_name = "VLAN", value_parser = parse_args::parse_number_or_none)]
    vlan: Option<Value>,
    /// Tagged VLANs, such as 10,20-30, or none
    #[arg(long, value_name = "LIST", value_parser = parse_args::parse_vlans)]
    vlans: Option<Value>,
    #[command(flatten)]
    labels: LabelOptions,
}

impl EndpointOptions {
    /// Returns the body of a request for one end, with the options that were given.
    fn to_endpoint_body(&self) -> BodyBuilder {
        let mut body = BodyBuilder::default();
        self.device.apply_to(&mut body);
        body.set("bridge", self.bridge.clone());
        let mut port = BodyBuilder::default();
        port.set("path_cost", self.path_cost.clone());
        port.set("priority", self.priority.clone());
        port.set("hairpin", self.hairpin);
        port.set("isolated", self.isolated);
        port.set("learning", self.learning);
        port.set("bpdu_guard", self.bpdu_guard);
        port.set("root_block", self.root_block);
        port.set("mcast_fast_leave", self.mcast_fast_leave);
        port.set("flood", self.flood);
        port.set("mcast_flood", self.mcast_flood);
        port.set("bcast_flood", self.bcast_flood);
        port.set("mcast_to_unicast", self.mcast_to_unicast);
        port.set("neigh_suppress", self.neigh_suppress);
        port.set("proxy_arp", self.proxy_arp);
        port.set("mcast_router", self.mcast_router.clone());
        port.set("vlan", self.vlan.clone());
        port.set("vlans", self.vlans.clone());
        body.set("port", (!port.is_empty()).then(|| port.build()));
        if self.no_bridge {
            body.set("bridge", Some(Value::Null));
            // The port's settings need a bridge.
            body.set("port", Some(Value::Null));
        }
        body
    }
}

/// Runs a command.
pub async fn run_veth(context: &Context, command: VethCommand) -> Result<(), CliError> {
    match command {
        VethCommand::List(filter) => resource::list_resources::<Veth>(context, &filter).await,
        VethCommand::Add { words, label } => add_pair(context, &words, &label).await,
        VethCommand::Show { name } => {
            resource::show_or_list::<Veth>(context, name.as_deref()).await
        }
        VethCommand::Set { target, options } => set_veth(context, &target, &options).await,
        VethCommand::Delete(args) => resource::delete_resources::<Veth>(context, &args).await,
    }
}

/// Creates a pair, also in the words of ip(8).
async fn add_pair(
    context: &Context,
    words: &[String],
    label: &[(String, String)],
) -> Result<(), CliError> {
    if let Some(at) = words
        .iter()
        .skip(1)
        .position(|word| word == "peer" || word == "type")
    {
        if !label.is_empty() {
            return Err(CliError::Usage(
                "labels need the other form: veth add NAME END END --label KEY=VALUE".into(),
            ));
        }
        let (name, rest) = words.split_at(at + 1);
        let mut line = vec!["add".to_owned()];
        line.extend_from_slice(name);
        if rest[0] == "peer" {
            line.extend(["type", "veth"].map(str::to_owned));
        }
        line.extend_from_slice(rest);
        let request = ip::parse_link(&line).map_err(CliError::Usage)?;
        return ip::execute(context, &IpOptions::default(), request).await;
    }
    let body = parse_pair(words, label)?;
    refuse_namespaces_as_interfaces(context, &body).await?;
    resource::add_resource::<Veth>(context, &body).await
}

/// Refuses an end on the host that has the name of a namespace: most probably its colon is missing.
async fn refuse_namespaces_as_interfaces(context: &Context, body: &Value) -> Result<(), CliError> {
    for end in body["endpoints"].as_array().into_iter().flatten() {
        let (None, Some(name)) = (end["namespace"].as_str(), end["interface"].as_str()) else {
            continue;
        };
        let path = ResourcePath::resource::<Namespace>(name).to_string();
        if context.api.get_optional(&path).await?.is_some() {
            return Err(CliError::Usage(format!(
                "{name} is a namespace: write {name}:eth0 for an end in it"
            )));
        }
    }
    Ok(())
}

/// Returns true if a word has the form of an end, and not of a name.
fn is_end(word: &str) -> bool {
    word.contains([':', ','])
}

/// Returns the body of a new pair, with its name and its ends if they were given.
fn parse_pair(words: &[String], label: &[(String, String)]) -> Result<Value, CliError> {
    let (name, ends) = match words {
        [] => (None, None),
        [end] if is_end(end) => {
            return Err(CliError::Usage(format!(
                "{end:?} is one end, and a pair has two: veth add [NAME] END END"
            )));
        }
        [name] => (Some(name), None),
        [name, end] if !is_end(name) && is_end(end) => {
            return Err(CliError::Usage(format!(
                "a pair has two ends: veth add {name} {end} END, or :{name} for an end on the host"
            )));
        }
        [a, b] => (None, Some((a, b))),
        [name, a, b] => (Some(name), Some((a, b))),
        _ => {
            return Err(CliError::Usage(
                "a pair has a name and two ends: veth add [NAME] END END".into(),
            ));
        }
    };
    let mut body = BodyBuilder::default();
    body.set("name", name.cloned());
    if let Some((a, b)) = ends {
        body.set(
            "endpoints",
            Some(json!([parse_endpoint(a)?, parse_endpoint(b)?])),
        );
    }
    body.set_map("labels", label, &[]);
    Ok(body.build())
}

fn parse_endpoint(text: &str) -> Result<Value, CliError> {
    parse_args::parse_endpoint(text)
        .map_err(|error| CliError::Usage(format!("the end {text:?}: {error}")))
}

/// Changes the labels of a pair (`NAME`) or the fields of one end (`NAME/0`, `NAME/1`).
async fn set_veth(
    context: &Context,
    target: &str,
    options: &EndpointOptions,
) -> Result<(), CliError> {
    let mut pair_body = BodyBuilder::default();
    options.labels.apply_to(&mut pair_body);
    let end_body = options.to_endpoint_body();
    let edits = options.addresses.edits();
    match target.split_once('/') {
        None if end_body.is_empty() && edits.is_empty() => {
            let find = async || Recorded::read::<Veth>(context, target).await;
            let path = ResourcePath::resource::<Veth>(target);
            resource::set_fields(context, &path, pair_body, &edits, find).await
        }
        None => Err(CliError::Usage(format!(
            "these options are for one end: {target}/0 or {target}/1"
        ))),
        Some((name, _)) if !pair_body.is_empty() => Err(CliError::Usage(format!(
            "labels belong to the pair: netnsctl veth set {name} --label …"
        ))),
        Some((name, end @ ("0" | "1"))) => {
            let index = usize::from(end == "1");
            let pair_path = ResourcePath::resource::<Veth>(name);
            let find = async || {
                let pair = Recorded::read::<Veth>(context, name).await?;
                Ok(Recorded::end(&pair.fields, pair_path.clone(), index))
            };
            let path = pair_path.clone().child(&format!("endpoints/{end}"));
            resource::set_fields(context, &path, end_body, &edits, find).await
        }
        Some((name, other)) => Err(CliError::Usage(format!(
            "a pair has the ends {name}/0 and {name}/1, not {name}/{other}"
        ))),
    }
}

/// Returns an end in the syntax of `add`.
fn format_endpoint(end: &Endpoint) -> String {
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
    if let Ok(Value::Object(port)) = serde_json::to_value(&end.port) {
        words.extend(port.into_iter().map(|(word, value)| match value {
            Value::Bool(true) => word,
            Value::Bool(false) => format!("{word}=off"),
            Value::Array(vlans) => {
                let vlans: Vec<String> = vlans.iter().map(value_text).collect();
                format!("{word}={}", vlans.join("+"))
            }
            other => format!("{word}={other}"),
        }));
    }
    if !end.up {
        words.push("down".into());
    }
    words.join(",")
}

/// Returns a number or a text without quotes.
fn value_text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// Returns the observed state of an end.
fn format_observed(end: Option<&EndpointObserved>) -> String {
    let Some(end) = end else {
        return "not present".into();
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
            "{text}, foreign addresses: {}",
            end.foreign_addresses.join(" ")
        );
    }
    text
}

fn format_ready(stored: &Stored<Veth>) -> Option<&'static str> {
    stored
        .status
        .observed
        .as_ref()
        .map(|observed| if observed.ready { "yes" } else { "no" })
}

impl ShowInTable for Veth {
    const COLUMNS: &'static [&'static str] =
        &["NAME", "END 0", "END 1", "READY", "STATE", "LABELS"];

    fn row(stored: &Stored<Self>) -> Vec<String> {
        let [a, b] = &stored.spec.endpoints;
        vec![
            stored.spec.name.to_string(),
            format_endpoint(a),
            format_endpoint(b),
            or_dash(format_ready(stored)),
            stored.status.state.to_string(),
            format_labels(&stored.spec.labels),
        ]
    }

    fn fields(stored: &Stored<Self>) -> Vec<(&'static str, String)> {
        let [a, b] = &stored.spec.endpoints;
        let ends = stored
            .status
            .observed
            .as_ref()
            .map(|observed| &observed.endpoints);
        let [observed_a, observed_b] =
            [0, 1].map(|end| format_observed(ends.and_then(|ends| ends[end].as_ref())));
        vec![
            ("ready", format_ready(stored).unwrap_or_default().to_owned()),
            ("end 0", format!("{}\n{observed_a}", format_endpoint(a))),
            ("end 1", format!("{}\n{observed_b}", format_endpoint(b))),
        ]
    }
}
