//! The command line: global options and commands.

use std::{io::IsTerminal, path::PathBuf};

use clap::{Args, ColorChoice, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use netnsd_api::Family;
use netnsd_client::Server;

use crate::{
    adopt::AdoptArgs,
    api::Api,
    bridge::BridgeCommand,
    error::CliError,
    events::EventsArgs,
    graph::GraphArgs,
    ip::{self, Words},
    login::Login,
    netns::NetnsCommand,
    output::{Format, escape_controls},
    plan::PlanArgs,
    status::{ResourceArg, WaitArgs},
    token::TokenCommand,
    top::TopArgs,
    topology::DocumentArgs,
    veth::VethCommand,
};

/// Manage the network namespaces, veth pairs and bridges of netnsd, in the syntax of iproute2
///
/// Commands can be abbreviated as with ip: `netnsctl a` shows addresses.
#[derive(Debug, Parser)]
#[command(
    name = "netnsctl",
    version,
    infer_subcommands = true,
    after_help = "Exit codes: 0 success, 1 refused or failed, 2 wrong usage, 3 netnsd cannot be reached. Commands in a \
                  namespace: their own, 126 if it cannot be executed, 127 if it is not found.\n\nExample:\n  netnsctl netns list"
)]
pub struct Cli {
    #[command(flatten)]
    pub globals: Globals,
    #[command(flatten)]
    pub ip: IpOptions,
    #[command(subcommand)]
    pub command: Command,
}

/// Words of other tools for commands of every kind; clap accepts them instead.
const COMMAND_ALIASES: [(&str, [&str; 2]); 2] =
    [("add", ["create", "new"]), ("delete", ["rm", "remove"])];

/// Returns the commands. Pages below the first do not repeat the global options, which
/// `netnsctl help options` shows.
pub fn build_command() -> clap::Command {
    let mut root = Cli::command();
    let globals: Vec<clap::Arg> = root
        .get_arguments()
        .filter(|argument| argument.is_global_set())
        .map(|argument| argument.clone().hide(true))
        .collect();
    root = root.mut_subcommands(|command| {
        command.args(globals.clone()).mut_subcommands(|below| {
            let name = below.get_name().to_owned();
            let aliases = COMMAND_ALIASES.into_iter().find(|(own, _)| *own == name);
            below.aliases(aliases.into_iter().flat_map(|(_, words)| words))
        })
    });
    // Takes the global options of the first page as they are.
    root.subcommand(
        clap::Command::new("options")
            .about("The options of every command")
            .hide(true)
            .arg_required_else_help(true),
    )
}

/// Options of ip(8), before the command.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Options of ip, before the command")]
pub struct IpOptions {
    /// The namespace of the command [default: the host's]
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    pub netns: Option<String>,
    /// Only IPv4
    #[arg(short = '4', conflicts_with = "ipv6")]
    pub ipv4: bool,
    /// Only IPv6
    #[arg(short = '6')]
    pub ipv6: bool,
    /// Show the type of a link and its settings; all words of a route
    #[arg(short, long)]
    pub details: bool,
    /// Show the counters of links
    #[arg(short, long, alias = "statistics")]
    pub stats: bool,
    /// One short line each, as `-br` of ip
    #[arg(long)]
    pub brief: bool,
    /// One line each, as `-o` of ip
    #[arg(long)]
    pub oneline: bool,
    /// JSON with the keys of `ip -j`
    #[arg(short, long)]
    pub json: bool,
    /// Indent the JSON
    #[arg(short, long, requires = "json")]
    pub pretty: bool,
}

impl IpOptions {
    /// Returns true if an address is of the family that was asked for.
    pub fn matches_family(&self, address: &str) -> bool {
        self.excluding_family(address.contains(':')).is_none()
    }

    /// Returns the family that was asked for.
    pub fn family(&self) -> Option<Family> {
        match (self.ipv4, self.ipv6) {
            (true, _) => Some(Family::Ipv4),
            (false, true) => Some(Family::Ipv6),
            (false, false) => None,
        }
    }

    /// Returns the option that excludes a family.
    pub fn excluding_family(&self, is_ipv6: bool) -> Option<&'static str> {
        if is_ipv6 {
            self.ipv4.then_some("-4")
        } else {
            self.ipv6.then_some("-6")
        }
    }

    /// Returns the options that were given, as ip(8) spells them.
    pub fn given(&self) -> Vec<&'static str> {
        let options = [
            ("-n", self.netns.is_some()),
            ("-4", self.ipv4),
            ("-6", self.ipv6),
            ("-d", self.details),
            ("-s", self.stats),
            ("-br", self.brief),
            ("-o", self.oneline),
            ("-j", self.json),
            ("-p", self.pretty),
        ];
        let given = options.into_iter().filter(|(_, given)| *given);
        given.map(|(option, _)| option).collect()
    }

    /// Refuses options without an effect on a command that has a namespace.
    pub fn check_honoured(&self, honoured: &[&str], command: &str) -> Result<(), CliError> {
        let mut given = self.given().into_iter();
        match given.find(|option| *option != "-n" && !honoured.contains(option)) {
            Some(option) => Err(CliError::Usage(format!(
                "{option} has no effect on {command}: leave it out"
            ))),
            None => Ok(()),
        }
    }
}

/// The default URL of netnsd.
const DEFAULT_URL: &str = "unix:///run/netnsd/netnsd.sock";

/// Options of every command.
#[derive(Debug, Args)]
pub struct Globals {
    /// URL of netnsd: unix:///PATH, http://HOST:PORT or https://HOST:PORT [default: the saved
    /// login, or unix:///run/netnsd/netnsd.sock]
    #[arg(
        long,
        global = true,
        env = "NETNSCTL_URL",
        value_name = "URL",
        help_heading = "Global options"
    )]
    pub url: Option<String>,
    /// Token file for TCP
    #[arg(
        long,
        global = true,
        env = "NETNSCTL_TOKEN_FILE",
        value_name = "FILE",
        value_hint = clap::ValueHint::FilePath,
        help_heading = "Global options"
    )]
    pub token_file: Option<PathBuf>,
    /// CA certificates (PEM) for https [default: system store]
    #[arg(
        long,
        global = true,
        env = "NETNSCTL_CA_FILE",
        value_name = "FILE",
        value_hint = clap::ValueHint::FilePath,
        help_heading = "Global options"
    )]
    pub ca_file: Option<PathBuf>,
    /// Client certificate (PEM) for https, instead of a token
    #[arg(
        long,
        global = true,
        env = "NETNSCTL_CERT_FILE",
        value_name = "FILE",
        value_hint = clap::ValueHint::FilePath,
        requires = "key_file",
        help_heading = "Global options"
    )]
    pub cert_file: Option<PathBuf>,
    /// Key (PEM) of the client certificate
    #[arg(
        long,
        global = true,
        env = "NETNSCTL_KEY_FILE",
        value_name = "FILE",
        value_hint = clap::ValueHint::FilePath,
        requires = "cert_file",
        help_heading = "Global options"
    )]
    pub key_file: Option<PathBuf>,
    /// Output format
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        ignore_case = true,
        value_name = "FORMAT",
        default_value = "table",
        help_heading = "Global options"
    )]
    pub output: Format,
    /// Print each request as a curl line to stderr
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub verbose: bool,
    /// Do not change anything; print the equivalent ip(8) commands, or the plan of a document
    #[arg(long, global = true, help_heading = "Global options")]
    pub dry_run: bool,
    /// Wait until the change is applied (false: only until it is persisted)
    #[arg(
        long,
        global = true,
        value_name = "true|false",
        default_value_t = true,
        action = clap::ArgAction::Set,
        help_heading = "Global options"
    )]
    pub wait: bool,
    /// Color plans, differences, links, addresses, routes and neighbours
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "WHEN",
        default_value = "auto",
        help_heading = "Global options"
    )]
    pub color: ColorChoice,
}

impl Globals {
    /// Returns the address of netnsd and the credentials: from the options, or the saved login.
    ///
    /// # Errors
    /// An invalid URL, a file that cannot be read.
    pub fn server(&self) -> Result<Server, CliError> {
        // Saved credentials are only for the saved URL.
        let login = if self.url.is_none() {
            Login::load()?.unwrap_or_default()
        } else {
            Login::default()
        };
        let url = self
            .url
            .clone()
            .or((!login.url.is_empty()).then_some(login.url));
        let effective = Login {
            url: url.unwrap_or_else(|| DEFAULT_URL.to_owned()),
            token: self.read_token()?.or(login.token),
            ca_file: self.ca_file.clone().or(login.ca_file),
            cert_file: self.cert_file.clone().or(login.cert_file),
            key_file: self.key_file.clone().or(login.key_file),
        };
        effective.server()
    }

    /// Reads the token file, if one was given.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read_token(&self) -> Result<Option<String>, CliError> {
        let Some(file) = &self.token_file else {
            return Ok(None);
        };
        let token = std::fs::read_to_string(file).map_err(|error| {
            CliError::Usage(format!(
                "--token-file {}: cannot be read ({error})",
                file.display()
            ))
        })?;
        Ok(Some(token.trim().to_owned()))
    }

    /// Returns true if output to stdout is colored.
    pub fn use_color(&self) -> bool {
        match self.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
            }
        }
    }
}

/// Settings of a command from the global options.
#[derive(Debug)]
pub struct Context {
    /// Client of the daemon.
    pub api: Api,
    /// Output format.
    pub format: Format,
    /// True if writes only print what they would do.
    pub dry_run: bool,
    /// True if writes wait until they are applied.
    pub wait: bool,
    /// True if output is colored.
    pub use_color: bool,
}

impl Context {
    /// Returns the query parameters of every write.
    pub fn write_params<'a>(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let dry_run = self.dry_run.then_some(("dry_run", "true"));
        let wait = (!self.wait).then_some(("wait", "false"));
        dry_run.into_iter().chain(wait)
    }

    /// Returns text in a color (ECMA-48) if colors are on, other control characters escaped.
    pub fn paint(&self, color: u8, text: &str) -> String {
        let text = escape_controls(text);
        if self.use_color {
            format!("\u{1b}[{color}m{text}\u{1b}[0m")
        } else {
            text.into_owned()
        }
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
#[allow(
    clippy::large_enum_variant,
    reason = "one, for as long as the program runs"
)]
pub enum Command {
    /// Manage network namespaces; without a command, list them
    #[command(alias = "ns", infer_subcommands = true)]
    Netns {
        #[command(subcommand)]
        command: Option<NetnsCommand>,
    },
    /// Manage bridges
    #[command(subcommand, aliases = ["b", "br"], infer_subcommands = true)]
    Bridge(BridgeCommand),
    /// Manage veth pairs
    #[command(subcommand, alias = "v", infer_subcommands = true)]
    Veth(VethCommand),
    /// Show addresses, and add or delete them, in the words of `ip address`
    ///
    /// `add` and `delete` change the recorded resource that has the device; other addresses stay.
    #[command(
        aliases = ["address", "a", "ad"],
        override_usage = "netnsctl [-n NAMESPACE] [OPTION] addr [show] [dev DEVICE] [up] [master BRIDGE] [type TYPE]\n              \
                          [to PREFIX] [scope SCOPE] [permanent|dynamic]\n       \
                          netnsctl [-n NAMESPACE] addr add|replace|delete ADDRESS/PREFIX dev DEVICE\n       \
                          netnsctl [-n NAMESPACE] [-4|-6] addr flush dev DEVICE [to PREFIX]",
        after_help = "Examples:\n  netnsctl -br addr\n  netnsctl -n net0 addr add 10.0.0.1/24 dev eth0"
    )]
    Addr(Words),
    /// Show routes, and add or delete them, in the words of `ip route`
    ///
    /// Routes are recorded in the namespace of -n.
    #[command(
        aliases = ["r", "ro"],
        override_usage = "netnsctl [-n NAMESPACE] [OPTION] route [show] [[exact|root|match] DESTINATION] [dev DEVICE]\n              \
                          [table TABLE|all] [type TYPE] [via GATEWAY] [src ADDRESS] [proto NAME] [scope SCOPE]\n       \
                          netnsctl -n NAMESPACE route add|replace|delete [TYPE] DESTINATION [via GATEWAY] [dev DEVICE]\n              \
                          [metric N] [table N] [src ADDRESS] [onlink] [mtu N] [advmss N] [initcwnd N]\n              \
                          [nexthop [via GATEWAY] [dev DEVICE] [weight N]]...\n       \
                          netnsctl -n NAMESPACE [-4|-6] route flush [[exact|root|match] DESTINATION] [dev DEVICE]\n              \
                          [table TABLE|all] [type TYPE] [via GATEWAY] [src ADDRESS]",
        after_help = "Examples:\n  netnsctl -n net0 route\n  netnsctl -n net0 route add default via 10.0.0.254"
    )]
    Route(Words),
    /// Show policy rules, and add or delete them, in the words of `ip rule`
    ///
    /// Rules are recorded in the namespace of -n. A new one has a priority; without an address it is
    /// one of IPv4, or with -6 of IPv6.
    #[command(
        aliases = ["ru", "rul"],
        override_usage = "netnsctl [-n NAMESPACE] [-4|-6] rule [show]\n       \
                          netnsctl -n NAMESPACE [-4|-6] rule add|delete [not] priority N [from NET] [to NET] [iif DEVICE] [oif DEVICE]\n              \
                          [fwmark MARK[/MASK]] [ipproto PROTOCOL] [sport PORTS] [dport PORTS] [uidrange A-B]\n              \
                          [suppress_prefixlength N] table N|blackhole|unreachable|prohibit\n       \
                          netnsctl -n NAMESPACE [-4|-6] rule flush",
        after_help = "Examples:\n  netnsctl -n net0 rule\n  netnsctl -n net0 rule add priority 100 from 10.0.0.0/8 table 7"
    )]
    Rule(Words),
    /// Show ARP and NDP neighbours, and add or delete permanent ones, in the words of `ip neighbour`
    #[command(
        aliases = ["neighbour", "neighbor", "n", "ne"],
        override_usage = "netnsctl [-n NAMESPACE] [OPTION] neigh [show] [to PREFIX] [dev DEVICE] [nud STATE]\n       \
                          netnsctl -n NAMESPACE neigh add|replace ADDRESS lladdr MAC dev DEVICE\n       \
                          netnsctl -n NAMESPACE neigh add|replace proxy ADDRESS dev DEVICE\n       \
                          netnsctl -n NAMESPACE neigh delete [proxy] ADDRESS dev DEVICE\n       \
                          netnsctl -n NAMESPACE [-4|-6] neigh flush [to PREFIX] [dev DEVICE] nud permanent",
        after_help = "Example:\n  netnsctl -n net0 neigh add 10.0.0.9 lladdr 02:00:00:00:00:09 dev eth0"
    )]
    Neigh(Words),
    /// Show links, and add, change or delete them, in the words of `ip link`
    ///
    /// A new link is recorded as a resource of its name, and is down until it is set up. Other
    /// words change the recorded resource that has the device.
    #[command(
        alias = "l",
        override_usage = "netnsctl [-n NAMESPACE] [OPTION] link [show] [dev DEVICE] [up] [master BRIDGE] [type TYPE]\n       \
                          netnsctl [-n NAMESPACE] link add [NAME] type veth [peer name NAME [netns NAMESPACE]]\n       \
                          netnsctl [-n NAMESPACE] link add NAME type bridge [SETTING VALUE]...\n       \
                          netnsctl [-n NAMESPACE] link add NAME type dummy\n       \
                          netnsctl [-n NAMESPACE] link set DEVICE [up|down] [netns NAMESPACE] [master BRIDGE|nomaster]\n              \
                          [mtu N] [address MAC] [txqueuelen N] [name NAME] [alias TEXT]\n              \
                          [promisc on|off] [allmulticast on|off] [arp on|off]\n              \
                          [type bridge|bridge_slave SETTING VALUE...]\n       \
                          netnsctl [-n NAMESPACE] link delete DEVICE",
        after_help = "Examples:\n  netnsctl link add cable0 type veth peer name cable1 netns net0\n  netnsctl link set cable0 master br0 up"
    )]
    Link(Words),
    /// Manage bridges in the words of `brctl`
    #[command(
        override_usage = "netnsctl brctl addbr|delbr|showmacs|showstp BRIDGE\n       \
                          netnsctl brctl addif|delif BRIDGE DEVICE\n       \
                          netnsctl brctl show [BRIDGE]\n       \
                          netnsctl brctl stp BRIDGE on|off\n       \
                          netnsctl brctl setageing|setbridgeprio|setfd|sethello|setmaxage BRIDGE NUMBER\n       \
                          netnsctl brctl setpathcost|setportprio BRIDGE PORT NUMBER\n       \
                          netnsctl brctl hairpin BRIDGE PORT on|off",
        after_help = "Example:\n  netnsctl brctl addif br0 veth1"
    )]
    Brctl(Words),
    /// Show daemon and resource status
    #[command(
        after_help = "Exits with 1 unless everything is in sync.\n\nExample:\n  netnsctl status"
    )]
    Status,
    /// Show the rates of all links, live
    #[command(after_help = "Examples:\n  netnsctl top\n  netnsctl top net0 --interval 5")]
    Top(TopArgs),
    /// Wait until resources are in sync, for scripts and units
    #[command(
        after_help = "Example:\n  netnsctl wait veth/lan0 netns/net0 --for ready --timeout 10"
    )]
    Wait(WaitArgs),
    /// Apply a topology document atomically
    #[command(
        after_help = "Examples:\n  netnsctl apply lab.yaml\n  netnsctl apply -f lab.yaml --prune --label lab=one"
    )]
    Apply(DocumentArgs),
    /// Show the changes that apply would make, field by field, or the equivalent commands
    #[command(
        after_help = "Examples:\n  netnsctl plan -f lab.yaml\n  netnsctl plan -f lab.yaml --commands"
    )]
    Plan(PlanArgs),
    /// Diff a document against the recorded state (exit 1 if different)
    #[command(after_help = "Example:\n  netnsctl diff -f lab.yaml")]
    Diff(DocumentArgs),
    /// Draw the network, or that of a document
    #[command(after_help = "Examples:\n  netnsctl graph\n  netnsctl graph -f lab.yaml --mermaid")]
    Graph(GraphArgs),
    /// Export the whole network as a document
    #[command(after_help = "Example:\n  netnsctl export > lab.yaml")]
    Export {
        /// Only resources with this label: KEY=VALUE, KEY or KEY!=VALUE; repeatable
        #[arg(long, value_name = "LABEL")]
        label: Vec<String>,
    },
    /// Copy the whole database of netnsd to a file, while it runs (admin)
    ///
    /// The copy has everything: identities, MAC addresses, events, hashes of tokens, the audit log.
    /// `netnsd restore FILE` restores it while netnsd is stopped.
    #[command(after_help = "Example:\n  netnsctl backup netnsd.db")]
    Backup {
        /// File to write; an older one is replaced
        #[arg(value_hint = clap::ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Adopt existing namespaces, bridges and veth pairs without disruption
    #[command(
        after_help = "Examples:\n  netnsctl adopt --all --dry-run\n  netnsctl adopt netns/byhand bridge/lan"
    )]
    Adopt(AdoptArgs),
    /// Reconcile everything now
    #[command(after_help = "Example:\n  netnsctl reconcile")]
    Reconcile,
    /// Show events
    #[command(after_help = "Examples:\n  netnsctl events --type drifted\n  netnsctl events -f")]
    Events(EventsArgs),
    /// Manage bearer tokens (admin)
    #[command(subcommand, infer_subcommands = true)]
    Token(TokenCommand),
    /// Save the URL and credentials of a netnsd
    #[command(after_help = "Example:\n  netnsctl login http://127.0.0.1:8080 --token-file token")]
    Login {
        /// URL, as for --url
        #[arg(value_name = "URL")]
        target: String,
    },
    /// Delete the saved URL and credentials
    #[command(after_help = "Example:\n  netnsctl logout")]
    Logout,
    /// Show the audit log (admin)
    #[command(after_help = "Example:\n  netnsctl audit --limit 20")]
    Audit {
        /// Only entries after this id
        #[arg(long, value_name = "ID")]
        since: Option<u64>,
        /// Maximum number of entries (newest first unless --since)
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Edit a resource as YAML, in $VISUAL or $EDITOR
    #[command(after_help = "Example:\n  netnsctl edit bridge/br0")]
    Edit {
        /// The resource: KIND/NAME
        #[arg(value_name = "KIND/NAME")]
        resource: ResourceArg,
    },
    /// Generate shell completions, for commands and names of resources
    #[command(after_help = "Example:\n  netnsctl completion bash > netnsctl.bash")]
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages to a directory
    #[command(after_help = "Example:\n  netnsctl man man1")]
    Man {
        /// Output directory
        #[arg(value_hint = clap::ValueHint::DirPath)]
        dir: PathBuf,
    },
    /// Show the versions of netnsctl and netnsd
    #[command(after_help = "Example:\n  netnsctl version")]
    Version,
}

impl Command {
    /// Returns true if it writes, so that `--dry-run` makes sense.
    pub fn is_write(&self) -> bool {
        match self {
            Command::Netns { command } => command.as_ref().is_some_and(NetnsCommand::is_write),
            Command::Bridge(command) => command.is_write(),
            Command::Veth(command) => command.is_write(),
            Command::Addr(words) => words.is_write(ip::parse_address),
            Command::Route(words) => words.is_write(ip::parse_route),
            Command::Rule(words) => words.is_write(ip::parse_rule),
            Command::Neigh(words) => words.is_write(ip::parse_neighbour),
            Command::Link(words) => words.is_write(ip::parse_link),
            Command::Brctl(words) => words.is_write(ip::parse_brctl),
            Command::Apply(_) | Command::Adopt(_) => true,
            Command::Status
            | Command::Top(_)
            | Command::Wait(_)
            | Command::Plan(_)
            | Command::Diff(_)
            | Command::Graph(_)
            | Command::Export { .. }
            | Command::Backup { .. }
            | Command::Reconcile
            | Command::Events(_)
            | Command::Token(_)
            | Command::Login { .. }
            | Command::Logout
            | Command::Audit { .. }
            | Command::Edit { .. }
            | Command::Completion { .. }
            | Command::Man { .. }
            | Command::Version => false,
        }
    }

    /// Returns true if it takes this option of ip(8), such as `-n`.
    pub fn takes_ip_option(&self, option: &str) -> bool {
        match self {
            Command::Bridge(command) => command.takes_ip_options(),
            Command::Netns { command } => {
                let lists = command.as_ref().is_none_or(NetnsCommand::has_json_of_ip);
                lists && ["-j", "-p"].contains(&option)
            }
            Command::Addr(_)
            | Command::Route(_)
            | Command::Rule(_)
            | Command::Neigh(_)
            | Command::Link(_)
            | Command::Brctl(_) => true,
            Command::Veth(_)
            | Command::Apply(_)
            | Command::Adopt(_)
            | Command::Status
            | Command::Top(_)
            | Command::Wait(_)
            | Command::Plan(_)
            | Command::Diff(_)
            | Command::Graph(_)
            | Command::Export { .. }
            | Command::Backup { .. }
            | Command::Reconcile
            | Command::Events(_)
            | Command::Token(_)
            | Command::Login { .. }
            | Command::Logout
            | Command::Audit { .. }
            | Command::Edit { .. }
            | Command::Completion { .. }
            | Command::Man { .. }
            | Command::Version => false,
        }
    }
}
