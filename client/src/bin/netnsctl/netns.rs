//! `netnsctl netns`.

use clap::{Args, Subcommand};
use netnsd_api::{Namespace, Neighbour, NetnsId, Route, RouteType, Stored};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{
    cli::Context,
    doing::{self, Exec, Ping},
    events,
    fail::Failure,
    output::{Format, line, or_dash, print, table},
    resource::{self, Delete, Filter, Labels, Shown, labels, lines, switch},
    words::{self, Body},
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
        /// Also those that others made (in /run/netns)
        #[arg(long)]
        unmanaged: bool,
    },
    /// Create namespaces
    #[command(
        alias = "a",
        after_help = "Example:\n  netnsctl netns add net0 net1 --label team=lab"
    )]
    Add {
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        #[command(flatten)]
        options: Options,
    },
    /// Show one namespace
    #[command(after_help = "Example:\n  netnsctl netns show net0")]
    Show {
        /// Its name
        name: String,
    },
    /// Change a namespace: what is not named stays
    #[command(
        after_help = "Examples:\n  netnsctl netns set net0 auto\n  netnsctl netns set net0 --sysctl net.ipv4.ip_forward=1"
    )]
    Set {
        /// Its name
        name: String,
        /// Its id as seen from the host, as `ip netns set` takes it
        #[arg(value_name = "NETNSID|auto", value_parser = words::netnsid, conflicts_with = "netnsid")]
        id: Option<Value>,
        #[command(flatten)]
        options: Options,
    },
    /// Delete namespaces
    #[command(
        after_help = "Examples:\n  netnsctl netns delete net0 --cascade\n  netnsctl netns delete --all"
    )]
    Delete(Delete),
    /// Tell the namespace that a process lives in
    #[command(after_help = "Example:\n  netnsctl netns identify $$")]
    Identify {
        /// The process; by default netnsctl itself, and so the shell
        pid: Option<u32>,
    },
    /// List the processes in a namespace
    #[command(after_help = "Example:\n  netnsctl netns pids net0")]
    Pids {
        /// Its name
        name: String,
        /// Also their commands and users
        #[arg(short, long)]
        long: bool,
    },
    /// Run a command in one namespace, or in all of them
    ///
    /// What it reads, writes and ends with is netnsctl's: 128+N if the signal N ended it. It has a
    /// terminal where netnsctl has one.
    #[command(
        override_usage = "netnsctl netns exec [OPTIONS] NAME|--all [--] COMMAND [ARGUMENT]...",
        after_help = "Options of netnsctl come before NAME: what follows is the command's.\n\nExamples:\n  netnsctl netns \
                      exec net0 -- ip address\n  netnsctl netns exec --all -- ip route"
    )]
    Exec(Exec),
    /// Run a shell in a namespace: $SHELL, or /bin/sh
    #[command(after_help = "Example:\n  netnsctl netns shell net0")]
    Shell {
        /// Its name
        name: String,
    },
    /// Tell as namespaces come and go, netnsd's and others', as `ip netns monitor` does
    #[command(after_help = "Example:\n  netnsctl netns monitor")]
    Monitor,
    /// List netnsids, as `ip netns list-id` does
    #[command(after_help = "Example:\n  netnsctl netns list-id")]
    ListId,
    /// Create a namespace of the one that a process is in, which lives on when the process ends
    #[command(after_help = "Example:\n  netnsctl netns attach lab $PID")]
    Attach {
        /// Its name
        name: String,
        /// The process
        pid: u32,
    },
    /// Ping from a namespace
    #[command(after_help = "Example:\n  netnsctl netns ping net0 10.1.1.2 -c 3")]
    Ping(Ping),
}

impl NetnsCommand {
    /// Whether it writes.
    pub fn writes(&self) -> bool {
        use NetnsCommand::{Add, Attach, Delete, Set};
        matches!(self, Add { .. } | Attach { .. } | Delete(_) | Set { .. })
    }
}

/// A namespace's fields.
#[derive(Debug, Args)]
pub struct Options {
    /// Its id as seen from the host
    #[arg(long, value_name = "NETNSID|auto|none", value_parser = words::netnsid)]
    netnsid: Option<Value>,
    /// Whether lo is up
    #[arg(long, value_name = "on|off", value_parser = words::on_off)]
    loopback: Option<bool>,
    /// A route as `ip route add` takes it: "default via 10.0.0.1 [dev X] [metric N] [table N] [src
    /// A] [onlink]"; repeatable; in set these replace all, none empties the list
    #[arg(long, value_name = "ROUTE", value_parser = words::route)]
    route: Vec<Value>,
    /// A permanent neighbour as `ip neigh add` takes it: "10.0.0.2 lladdr MAC dev X"; repeatable
    /// like --route
    #[arg(long, value_name = "NEIGHBOUR", value_parser = words::neighbour)]
    neighbour: Vec<Value>,
    /// A sysctl below net.; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = words::pair)]
    sysctl: Vec<(String, String)>,
    /// In set, a sysctl that is no longer netnsd's concern; repeatable
    #[arg(long, value_name = "KEY")]
    no_sysctl: Vec<String>,
    /// A name server in its resolv.conf, a link-local one with its interface (fe80::1%eth0);
    /// repeatable, none empties the list
    #[arg(long, value_name = "ADDRESS", value_parser = words::text)]
    dns_server: Vec<Value>,
    /// A domain to search in its resolv.conf; repeatable, none empties the list
    #[arg(long, value_name = "DOMAIN", value_parser = words::text)]
    dns_search: Vec<Value>,
    /// An option of resolv.conf(5), such as ndots:2; repeatable, none empties the list
    #[arg(long, value_name = "OPTION", value_parser = words::text)]
    dns_option: Vec<Value>,
    /// No name resolution of its own: it asks as the host does
    #[arg(long, conflicts_with_all = ["dns_server", "dns_search", "dns_option"])]
    no_dns: bool,
    #[command(flatten)]
    labels: Labels,
}

impl Options {
    fn body(&self) -> Body {
        let mut body = Body::default();
        body.put("netnsid", self.netnsid.clone());
        body.put("loopback", self.loopback);
        body.list("routes", &self.route);
        body.list("neighbours", &self.neighbour);
        body.map("sysctls", &self.sysctl, &self.no_sysctl);
        let mut dns = Body::default();
        dns.list("nameservers", &self.dns_server);
        dns.list("search", &self.dns_search);
        dns.list("options", &self.dns_option);
        let given = self.no_dns || !dns.0.is_empty();
        body.put(
            "dns",
            given.then(|| {
                if self.no_dns {
                    Value::Null
                } else {
                    dns.value()
                }
            }),
        );
        body.map("labels", &self.labels.label, &self.labels.no_label);
        body
    }
}

/// Runs it.
pub async fn run(context: &Context, command: NetnsCommand) -> Result<(), Failure> {
    match command {
        NetnsCommand::List {
            filter,
            unmanaged: false,
        } => resource::list::<Namespace>(context, &filter).await,
        NetnsCommand::List {
            filter,
            unmanaged: true,
        } => list_all(context, &filter).await,
        NetnsCommand::Add { names, options } => {
            resource::each(&names, async |name| {
                let mut body = options.body();
                body.put("name", Some(name));
                resource::add::<Namespace>(context, &body.value()).await
            })
            .await
        }
        NetnsCommand::Show { name } => resource::show::<Namespace>(context, &name).await,
        NetnsCommand::Set { name, id, options } => {
            let mut body = options.body();
            body.put("netnsid", id);
            resource::set(context, &resource::path::<Namespace>(&name), &body.value()).await
        }
        NetnsCommand::Delete(what) => resource::delete::<Namespace>(context, &what).await,
        NetnsCommand::Identify { pid } => doing::identify(context, pid).await,
        NetnsCommand::Pids { name, long } => doing::pids(context, &name, long).await,
        NetnsCommand::Exec(exec) => doing::exec(context, &exec).await,
        NetnsCommand::Shell { name } => doing::shell(context, &name).await,
        NetnsCommand::Monitor => events::monitor(context).await,
        NetnsCommand::ListId => list_id(context).await,
        NetnsCommand::Attach { name, pid } => {
            resource::add::<Namespace>(context, &json!({"name": name, "attach": {"pid": pid}}))
                .await
        }
        NetnsCommand::Ping(ping) => doing::ping(context, &ping).await,
    }
}

/// A namespace in a list with those of others.
#[derive(Debug, Deserialize)]
struct Any {
    name: String,
    managed: Option<bool>,
    status: AnyStatus,
}

#[derive(Debug, Deserialize)]
struct AnyStatus {
    state: Option<netnsd_api::State>,
    observed: Option<netnsd_api::NamespaceObserved>,
}

impl Any {
    fn netnsid(&self) -> Option<u32> {
        self.status.observed.as_ref()?.netnsid
    }
}

fn any(items: &[Box<RawValue>]) -> Result<Vec<Any>, Failure> {
    items
        .iter()
        .map(|item| Ok(serde_json::from_str(item.get())?))
        .collect()
}

/// Lists also the namespaces that others made.
async fn list_all(context: &Context, filter: &Filter) -> Result<(), Failure> {
    let mut query = filter.query();
    query.push(("include", "unmanaged"));
    let listed = context.api.list("/v1/namespaces", &query).await?;
    if context.format == Format::Json {
        return line(&listed.body);
    }
    let all = any(&listed.items)?;
    if context.format == Format::Name {
        return all.into_iter().try_for_each(|item| line(item.name));
    }
    let row = |item: &Any| {
        let links = item.status.observed.as_ref().map(|observed| observed.links);
        let managed = if item.managed == Some(false) {
            "no"
        } else {
            "yes"
        };
        let state = item.status.state.map(netnsd_api::State::as_str);
        vec![
            item.name.clone(),
            or_dash(item.netnsid()),
            or_dash(links),
            managed.into(),
            or_dash(state),
        ]
    };
    print(table(
        &["NAME", "NETNSID", "LINKS", "MANAGED", "STATE"],
        all.iter().map(row).collect(),
    ))
}

/// Lists netnsids.
async fn list_id(context: &Context) -> Result<(), Failure> {
    let listed = context
        .api
        .list("/v1/namespaces", &[("include", "unmanaged")])
        .await?;
    if context.format == Format::Json {
        return line(&listed.body);
    }
    let mut all: Vec<(u32, String)> = any(&listed.items)?
        .into_iter()
        .filter_map(|item| Some((item.netnsid()?, item.name)))
        .collect();
    all.sort();
    all.into_iter()
        .try_for_each(|(id, name)| match context.format {
            Format::Name => line(name),
            _ => line(format!("nsid {id} (iproute2 netns name: {name})")),
        })
}

/// A route as `ip route` spells it.
fn route(route: &Route) -> String {
    let mut text = match route.kind {
        RouteType::Unicast => route.destination.to_string(),
        kind => format!("{} {}", kind.as_str(), route.destination),
    };
    let words = [
        ("via", route.via.map(|via| via.to_string())),
        ("dev", route.interface.as_ref().map(ToString::to_string)),
        (
            "table",
            (route.table != 254).then(|| route.table.to_string()),
        ),
        ("src", route.source.map(|source| source.to_string())),
        ("metric", route.metric.map(|metric| metric.to_string())),
    ];
    for (word, value) in words {
        if let Some(value) = value {
            text = format!("{text} {word} {value}");
        }
    }
    if route.onlink { text + " onlink" } else { text }
}

fn neighbour(entry: &Neighbour) -> String {
    format!(
        "{} lladdr {} dev {}",
        entry.address, entry.mac, entry.interface
    )
}

impl Shown for Namespace {
    const COLUMNS: &'static [&'static str] = &["NAME", "NETNSID", "LINKS", "STATE", "LABELS"];

    fn row(stored: &Stored<Self>) -> Vec<String> {
        let observed = stored.status.observed.as_ref();
        vec![
            stored.spec.name.to_string(),
            or_dash(observed.and_then(|observed| observed.netnsid)),
            or_dash(observed.map(|observed| observed.links)),
            stored.status.state.as_str().to_owned(),
            labels(&stored.spec.labels),
        ]
    }

    fn fields(stored: &Stored<Self>) -> Vec<(&'static str, String)> {
        let spec = &stored.spec;
        let routes: Vec<String> = spec.routes.iter().map(route).collect();
        let neighbours: Vec<String> = spec.neighbours.iter().map(neighbour).collect();
        let sysctls: Vec<String> = spec
            .sysctls
            .iter()
            .map(|(key, value)| format!("{key}={}", value.0))
            .collect();
        let dns = spec.dns.clone().unwrap_or_default();
        let wanted = spec.netnsid.map(|id| match id {
            NetnsId::Auto => "auto".to_owned(),
            NetnsId::Id(id) => id.to_string(),
        });
        let mut fields = vec![
            ("netnsid", wanted.unwrap_or_default()),
            ("loopback", switch(spec.loopback)),
            ("routes", lines(&routes)),
            ("neighbours", lines(&neighbours)),
            ("sysctls", lines(&sysctls)),
            ("dns servers", lines(&dns.nameservers)),
            ("dns search", lines(&dns.search)),
            ("dns options", lines(&dns.options)),
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
