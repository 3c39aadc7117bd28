//! `netnsctl netns`.

use clap::{Args, Subcommand};
use netnsd_api::{
    Namespace, Neighbour, NetnsId, RT_TABLE_MAIN, Route, RouteType, Rule, Stored, format_next_hops,
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{
    body::BodyBuilder,
    cli::{Context, IpOptions},
    entries::Edit,
    error::CliError,
    events,
    exec::{self, ExecArgs},
    ip::{self, Request},
    output::{Format, format_table, on_off, or_dash, print_line, print_text, yes_no},
    parse_args,
    ping::{self, PingArgs},
    process,
    recorded::Recorded,
    resource::{
        self, DeleteArgs, Filter, LabelOptions, ResourcePath, ShowInTable, format_labels,
        join_lines,
    },
};

/// `netnsctl netns …`
#[derive(Debug, Subcommand)]
pub enum NetnsCommand {
    /// List namespaces
    #[command(
        visible_alias = "ls",
        alias = "l",
        after_help = "Example:\n  netnsctl netns list --label team=lab"
    )]
    List {
        #[command(flatten)]
        filter: Filter,
        /// Include namespaces in /run/netns that netnsd does not manage
        #[arg(long)]
        unmanaged: bool,
    },
    /// Create namespaces
    #[command(
        alias = "a",
        after_help = "Example:\n  netnsctl netns add net0 net1 --label team=lab"
    )]
    Add {
        /// The names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        #[command(flatten)]
        options: NamespaceOptions,
    },
    /// Show one namespace, or list them
    #[command(after_help = "Example:\n  netnsctl netns show net0")]
    Show {
        /// The name
        name: Option<String>,
    },
    /// Change a namespace: other fields stay
    #[command(
        after_help = "Examples:\n  netnsctl netns set net0 auto\n  netnsctl netns set net0 --sysctl net.ipv4.ip_forward=1"
    )]
    Set {
        /// The name
        name: String,
        /// Its nsid in the host's namespace, as in `ip netns set`
        #[arg(value_name = "NETNSID|auto", value_parser = parse_args::parse_netnsid, conflicts_with = "netnsid",
            allow_negative_numbers = true)]
        id: Option<Value>,
        #[command(flatten)]
        options: NamespaceOptions,
        #[command(flatten)]
        entries: EntryEdits,
    },
    /// Delete namespaces
    #[command(
        after_help = "Examples:\n  netnsctl netns delete net0 --cascade\n  netnsctl netns delete --all"
    )]
    Delete(DeleteArgs),
    /// Show the namespace of a process
    #[command(after_help = "Example:\n  netnsctl netns identify $$")]
    Identify {
        /// The process id [default: that of netnsctl, and so of the shell]
        pid: Option<u32>,
    },
    /// List the processes in a namespace
    #[command(after_help = "Example:\n  netnsctl netns pids net0")]
    Pids {
        /// The name
        name: String,
        /// Show their commands and users too
        #[arg(short, long)]
        long: bool,
    },
    /// Run a command in one namespace, or in all of them
    ///
    /// It has the standard input and output of netnsctl, and a terminal if netnsctl has one.
    /// netnsctl exits with its exit code, or as a shell does: 128+N if the signal N killed it, 126 if
    /// it cannot be executed, 127 if it is not found.
    #[command(
        override_usage = "netnsctl netns exec [OPTIONS] NAME|--all [--] COMMAND [ARGUMENT]...",
        after_help = "Options of netnsctl come before NAME; later ones are options of the command.\n\nExamples:\n  netnsctl netns \
                      exec net0 -- ip address\n  netnsctl netns exec --all -- ip route"
    )]
    Exec(ExecArgs),
    /// Run a shell in a namespace: $SHELL, or /bin/sh
    #[command(after_help = "Example:\n  netnsctl netns shell net0")]
    Shell {
        /// The name
        name: String,
    },
    /// Print namespaces as they are created and deleted, as `ip netns monitor` does
    #[command(after_help = "Example:\n  netnsctl netns monitor")]
    Monitor,
    /// List netnsids, as `ip netns list-id` does
    #[command(after_help = "Example:\n  netnsctl netns list-id")]
    ListId,
    /// Create a namespace from that of a process; it stays when the process ends
    #[command(after_help = "Example:\n  netnsctl netns attach lab $PID")]
    Attach {
        /// The name
        name: String,
        /// The process id
        pid: u32,
    },
    /// Ping from a namespace
    #[command(after_help = "Example:\n  netnsctl netns ping net0 10.1.1.2 -c 3")]
    Ping(PingArgs),
}

impl NetnsCommand {
    /// Returns true if it writes.
    pub fn is_write(&self) -> bool {
        use NetnsCommand::{Add, Attach, Delete, Set};
        matches!(self, Add { .. } | Attach { .. } | Delete(_) | Set { .. })
    }

    /// Returns true if it prints a list that `ip -j netns` prints too.
    pub fn has_json_of_ip(&self) -> bool {
        matches!(self, NetnsCommand::List { .. } | NetnsCommand::ListId)
    }
}

/// Options for the fields of a namespace.
#[derive(Debug, Args)]
pub struct NamespaceOptions {
    /// Its nsid in the host's namespace
    #[arg(long, value_name = "NETNSID|auto|none", value_parser = parse_args::parse_netnsid)]
    netnsid: Option<Value>,
    /// Set lo up or down
    #[arg(long, value_name = "on|off", value_parser = parse_args::parse_on_off)]
    loopback: Option<bool>,
    /// An IP address of lo; repeatable; with set they replace all, none removes them
    #[arg(long, value_name = "CIDR|none", value_parser = parse_args::parse_text_or_none)]
    address: Vec<Value>,
    /// A route as in `ip route add`: "default via 10.0.0.1 [dev X] [metric N] [table N] [src A]
    /// [onlink] [mtu N] [advmss N] [initcwnd N] [nexthop via A dev X weight N]…"; repeatable; with set they replace all routes, none removes them
    #[arg(long, value_name = "ROUTE", value_parser = parse_args::parse_route)]
    route: Vec<Value>,
    /// A policy rule as in `ip rule add`: "priority 100 from 10.0.0.0/8 table 7"; of both families
    /// unless it has an address or `family ipv4|ipv6`; repeatable like --route
    #[arg(long, value_name = "RULE", value_parser = parse_args::parse_rule)]
    rule: Vec<Value>,
    /// A permanent neighbour as in `ip neigh add`: "10.0.0.2 lladdr MAC dev X", or "proxy 10.0.0.2
    /// dev X"; repeatable like --route
    #[arg(long, value_name = "NEIGHBOUR", value_parser = parse_args::parse_neighbour)]
    neighbour: Vec<Value>,
    /// A sysctl below net.; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_args::parse_key_value)]
    sysctl: Vec<(String, String)>,
    /// With set: stop managing this sysctl; repeatable
    #[arg(long, value_name = "KEY")]
    no_sysctl: Vec<String>,
    /// A name server in its resolv.conf, a link-local one with its interface (fe80::1%eth0);
    /// repeatable, none removes them
    #[arg(long, value_name = "ADDRESS", value_parser = parse_args::parse_text_or_none)]
    dns_server: Vec<Value>,
    /// A search domain in its resolv.conf; repeatable, none removes them
    #[arg(long, value_name = "DOMAIN", value_parser = parse_args::parse_text_or_none)]
    dns_search: Vec<Value>,
    /// An option of resolv.conf(5), such as ndots:2; repeatable, none removes them
    #[arg(long, value_name = "OPTION", value_parser = parse_args::parse_text_or_none)]
    dns_option: Vec<Value>,
    /// Use the name resolution of the host
    #[arg(long, conflicts_with_all = ["dns_server", "dns_search", "dns_option"])]
    no_dns: bool,
    #[command(flatten)]
    labels: LabelOptions,
}

impl NamespaceOptions {
    /// Returns the body of a request with the options that were given.
    fn to_body(&self) -> BodyBuilder {
        let mut body = BodyBuilder::default();
        body.set("netnsid", self.netnsid.clone());
        body.set("loopback", self.loopback);
        body.set_list("addresses", &self.address);
        body.set_list("routes", &self.route);
        body.set_list("rules", &self.rule);
        body.set_list("neighbours", &self.neighbour);
        body.set_map("sysctls", &self.sysctl, &self.no_sysctl);
        let mut dns = BodyBuilder::default();
        dns.set_list("nameservers", &self.dns_server);
        dns.set_list("search", &self.dns_search);
        dns.set_list("options", &self.dns_option);
        if self.no_dns {
            body.set("dns", Some(Value::Null));
        } else if !dns.is_empty() {
            body.set("dns", Some(dns.build()));
        }
        self.labels.apply_to(&mut body);
        body
    }
}

/// Options of `set` for single routes, rules and neighbours.
#[derive(Debug, Default, Args)]
pub struct EntryEdits {
    /// Add a route, written as for --route, and keep the others; repeatable
    #[arg(long, value_name = "ROUTE")]
    add_route: Vec<String>,
    /// Remove a route: its destination, and more words if several have it; repeatable
    #[arg(long, value_name = "ROUTE")]
    remove_route: Vec<String>,
    /// Add a rule, written as for --rule, and keep the others; repeatable
    #[arg(long, value_name = "RULE")]
    add_rule: Vec<String>,
    /// Remove a rule: its priority, and more words if several have it; repeatable
    #[arg(long, value_name = "RULE")]
    remove_rule: Vec<String>,
    /// Add a neighbour, written as for --neighbour, and keep the others; repeatable
    #[arg(long, value_name = "NEIGHBOUR")]
    add_neighbour: Vec<String>,
    /// Remove a neighbour: "ADDRESS dev INTERFACE"; repeatable
    #[arg(long, value_name = "NEIGHBOUR")]
    remove_neighbour: Vec<String>,
}

impl EntryEdits {
    /// Returns the edits: removals first.
    fn edits(&self) -> Result<Vec<Edit>, CliError> {
        let lists: [(&str, &[String], ip::Parser); 6] = [
            ("delete", &self.remove_route, ip::parse_route),
            ("add", &self.add_route, ip::parse_route),
            ("delete", &self.remove_rule, ip::parse_rule),
            ("add", &self.add_rule, ip::parse_rule),
            ("delete", &self.remove_neighbour, ip::parse_neighbour),
            ("add", &self.add_neighbour, ip::parse_neighbour),
        ];
        let mut edits = Vec::new();
        for (verb, texts, parser) in lists {
            for text in texts {
                let words = [verb].into_iter().chain(text.split_whitespace());
                let words: Vec<String> = words.map(str::to_owned).collect();
                if let Request::EditNamespace(edit) = parser(&words).map_err(CliError::Usage)? {
                    edits.push(edit);
                }
            }
        }
        Ok(edits)
    }
}

/// Runs a command.
pub async fn run_netns(
    context: &Context,
    options: &IpOptions,
    command: Option<NetnsCommand>,
) -> Result<(), CliError> {
    let list = NetnsCommand::List {
        filter: Filter::default(),
        unmanaged: false,
    };
    let command = command.unwrap_or(list);
    if options.json {
        return list_as_ip(context, options, command).await;
    }
    match command {
        NetnsCommand::List {
            filter,
            unmanaged: false,
        } => resource::list_resources::<Namespace>(context, &filter).await,
        NetnsCommand::List {
            filter,
            unmanaged: true,
        } => list_with_unmanaged(context, &filter).await,
        NetnsCommand::Add { names, options } => {
            resource::for_each_name(&names, async |name| {
                let mut body = options.to_body();
                body.set("name", Some(name));
                resource::add_resource::<Namespace>(context, &body.build()).await
            })
            .await
        }
        NetnsCommand::Show { name } => {
            resource::show_or_list::<Namespace>(context, name.as_deref()).await
        }
        NetnsCommand::Set {
            name,
            id,
            options,
            entries,
        } => {
            let mut body = options.to_body();
            body.set("netnsid", id);
            let target = ResourcePath::resource::<Namespace>(&name);
            let find = async || Recorded::read::<Namespace>(context, &name).await;
            resource::set_fields(context, &target, body, &entries.edits()?, find).await
        }
        NetnsCommand::Delete(args) => resource::delete_resources::<Namespace>(context, &args).await,
        NetnsCommand::Identify { pid } => process::show_process_namespace(context, pid).await,
        NetnsCommand::Pids { name, long } => process::list_processes(context, &name, long).await,
        NetnsCommand::Exec(args) => exec::run_command(context, &args).await,
        NetnsCommand::Shell { name } => exec::run_shell(context, &name).await,
        NetnsCommand::Monitor => events::monitor_namespaces(context).await,
        NetnsCommand::ListId => list_netnsids(context).await,
        NetnsCommand::Attach { name, pid } => {
            resource::add_resource::<Namespace>(
                context,
                &json!({"name": name, "attach": {"pid": pid}}),
            )
            .await
        }
        NetnsCommand::Ping(args) => ping::ping_address(context, &args).await,
    }
}

/// A namespace in a list that includes those that netnsd does not manage.
#[derive(Debug, Deserialize)]
struct AnyNamespace {
    name: String,
    managed: Option<bool>,
    status: AnyNamespaceStatus,
}

#[derive(Debug, Deserialize)]
struct AnyNamespaceStatus {
    state: Option<netnsd_api::State>,
    observed: Option<netnsd_api::NamespaceObserved>,
}

impl AnyNamespace {
    fn netnsid(&self) -> Option<u32> {
        self.status.observed.as_ref()?.netnsid
    }

    fn row(&self) -> Vec<String> {
        let links = self.status.observed.as_ref().map(|observed| observed.links);
        vec![
            self.name.clone(),
            or_dash(self.netnsid()),
            or_dash(links),
            yes_no(self.managed != Some(false)),
            or_dash(self.status.state),
        ]
    }
}

fn parse_namespaces(items: &[Box<RawValue>]) -> Result<Vec<AnyNamespace>, CliError> {
    items
        .iter()
        .map(|item| Ok(serde_json::from_str(item.get())?))
        .collect()
}

/// Lists namespaces, including those that netnsd does not manage.
async fn list_with_unmanaged(context: &Context, filter: &Filter) -> Result<(), CliError> {
    let mut query = filter.query();
    query.push(("include", "unmanaged"));
    let list = context.api.list("/v1/namespaces", &query).await?;
    if context.format == Format::Json {
        return print_line(&list.body);
    }
    let namespaces = parse_namespaces(&list.items)?;
    if context.format == Format::Name {
        return namespaces
            .into_iter()
            .try_for_each(|item| print_line(item.name));
    }
    print_text(format_table(
        &["NAME", "NETNSID", "LINKS", "MANAGED", "STATE"],
        namespaces.iter().map(AnyNamespace::row).collect(),
    ))
}

/// Lists namespaces, or netnsids, in the JSON of `ip -j netns`.
async fn list_as_ip(
    context: &Context,
    options: &IpOptions,
    command: NetnsCommand,
) -> Result<(), CliError> {
    options.check_format(context.format)?;
    let of_ids = matches!(command, NetnsCommand::ListId);
    let (mut query, unmanaged) = match &command {
        NetnsCommand::List { filter, unmanaged } => (filter.query(), *unmanaged),
        _ => (Vec::new(), true),
    };
    if unmanaged {
        query.push(("include", "unmanaged"));
    }
    let list = context.api.list("/v1/namespaces", &query).await?;
    let mut items = Vec::new();
    for item in parse_namespaces(&list.items)? {
        match (of_ids, item.netnsid()) {
            (true, Some(id)) => items.push(json!({"nsid": id, "name": item.name})),
            (true, None) => {}
            (false, Some(id)) => items.push(json!({"name": item.name, "id": id})),
            (false, None) => items.push(json!({"name": item.name})),
        }
    }
    options.print_json(&items)
}

/// Lists netnsids.
async fn list_netnsids(context: &Context) -> Result<(), CliError> {
    let list = context
        .api
        .list("/v1/namespaces", &[("include", "unmanaged")])
        .await?;
    if context.format == Format::Json {
        return print_line(&list.body);
    }
    let mut ids: Vec<(u32, String)> = parse_namespaces(&list.items)?
        .into_iter()
        .filter_map(|item| Some((item.netnsid()?, item.name)))
        .collect();
    ids.sort();
    ids.into_iter()
        .try_for_each(|(id, name)| match context.format {
            Format::Name => print_line(name),
            _ => print_line(format!("nsid {id} (iproute2 netns name: {name})")),
        })
}

/// Returns a route in the syntax of `ip route`.
fn format_route(route: &Route) -> String {
    let mut text = match route.kind {
        RouteType::Unicast => route.destination.to_string(),
        kind @ (RouteType::Blackhole
        | RouteType::Unreachable
        | RouteType::Prohibit
        | RouteType::Throw
        | RouteType::Local) => format!("{kind} {}", route.destination),
    };
    let words = [
        ("via", route.via.map(|via| via.to_string())),
        ("dev", route.interface.as_ref().map(ToString::to_string)),
        (
            "table",
            (route.table != RT_TABLE_MAIN).then(|| route.table.to_string()),
        ),
        ("src", route.source.map(|source| source.to_string())),
        ("metric", route.metric.map(|metric| metric.to_string())),
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
    if route.onlink {
        text += " onlink";
    }
    text + &format_next_hops(&route.nexthops)
}

/// Returns a rule in the syntax of `ip rule`, with its family if that is not told by an address.
fn format_rule(rule: &Rule) -> String {
    match rule.family {
        Some(family) if rule.from.is_none() && rule.to.is_none() => {
            format!("{rule} family {family}")
        }
        _ => rule.to_string(),
    }
}

/// Returns a neighbour in the syntax of `ip neigh`.
fn format_neighbour(entry: &Neighbour) -> String {
    match entry.mac {
        Some(mac) => format!("{} lladdr {mac} dev {}", entry.address, entry.interface),
        None => format!("proxy {} dev {}", entry.address, entry.interface),
    }
}

impl ShowInTable for Namespace {
    const COLUMNS: &'static [&'static str] = &["NAME", "NETNSID", "LINKS", "STATE", "LABELS"];

    fn row(stored: &Stored<Self>) -> Vec<String> {
        let observed = stored.status.observed.as_ref();
        vec![
            stored.spec.name.to_string(),
            or_dash(observed.and_then(|observed| observed.netnsid)),
            or_dash(observed.map(|observed| observed.links)),
            stored.status.state.to_string(),
            format_labels(&stored.spec.labels),
        ]
    }

    fn fields(stored: &Stored<Self>) -> Vec<(&'static str, String)> {
        let spec = &stored.spec;
        let routes: Vec<String> = spec.routes.iter().map(format_route).collect();
        let rules: Vec<String> = spec.rules.iter().map(format_rule).collect();
        let neighbours: Vec<String> = spec.neighbours.iter().map(format_neighbour).collect();
        let sysctls: Vec<String> = spec
            .sysctls
            .iter()
            .map(|(key, value)| format!("{key}={}", value.0))
            .collect();
        let dns = spec.dns.clone().unwrap_or_default();
        let netnsid = spec.netnsid.map(|id| match id {
            NetnsId::Auto => "auto".to_owned(),
            NetnsId::Id(id) => id.to_string(),
        });
        let mut fields = vec![
            ("netnsid", netnsid.unwrap_or_default()),
            ("loopback", on_off(spec.loopback)),
            ("addresses", join_lines(&spec.addresses)),
            ("routes", join_lines(&routes)),
            ("rules", join_lines(&rules)),
            ("neighbours", join_lines(&neighbours)),
            ("sysctls", join_lines(&sysctls)),
            ("dns servers", join_lines(&dns.nameservers)),
            ("dns search", join_lines(&dns.search)),
            ("dns options", join_lines(&dns.options)),
        ];
        if let Some(observed) = &stored.status.observed {
            if let (Some(NetnsId::Auto) | None, Some(id)) = (spec.netnsid, observed.netnsid) {
                fields[0].1 = format!("{} (the kernel's choice)", id);
            }
            fields.push(("path", observed.path.clone()));
            fields.push(("inode", observed.inode.to_string()));
            fields.push(("links", observed.links.to_string()));
        }
        fields
    }
}
