//! The command line as a whole.

use std::{io::IsTerminal, path::PathBuf};

use clap::{Args, ColorChoice, Parser, Subcommand};
use clap_complete::Shell;
use netnsd_client::Place;

use crate::{
    adopt::Adopt,
    bridge::BridgeCommand,
    curl::Api,
    events::Events,
    fail::Failure,
    login::Login,
    look::Look,
    netns::NetnsCommand,
    output::{Format, visible},
    status::{Wait, Which},
    token::TokenCommand,
    veth::VethCommand,
    whole::Document,
};

/// Network namespaces, veth pairs and bridges of netnsd, in the words of iproute2
///
/// Commands may be shortened as with ip: `netnsctl n l` lists the namespaces.
#[derive(Debug, Parser)]
#[command(
    name = "netnsctl",
    version,
    infer_subcommands = true,
    after_help = "Exit codes: 0 done, 1 refused, 2 usage, 3 netnsd cannot be reached.\n\nExample:\n  netnsctl netns list"
)]
pub struct Cli {
    #[command(flatten)]
    pub globals: Globals,
    #[command(subcommand)]
    pub command: Command,
}

/// Where netnsd serves, unless something else is said.
const SOCKET: &str = "unix:///run/netnsd/netnsd.sock";

/// Options of every command.
#[derive(Debug, Args)]
pub struct Globals {
    /// Where netnsd serves: unix:///PATH, http://HOST:PORT or https://HOST:PORT [default: where
    /// `netnsctl login` went, or unix:///run/netnsd/netnsd.sock]
    #[arg(
        long,
        global = true,
        env = "NETNSCTL_URL",
        value_name = "URL",
        help_heading = "Global options"
    )]
    pub url: Option<String>,
    /// The file with the token that netnsd asks for over TCP
    #[arg(
        long,
        global = true,
        env = "NETNSCTL_TOKEN_FILE",
        value_name = "FILE",
        help_heading = "Global options"
    )]
    pub token_file: Option<PathBuf>,
    /// With https, the file with the certificates (PEM) that vouch for netnsd; else the system's do
    #[arg(
        long,
        global = true,
        env = "NETNSCTL_CA_FILE",
        value_name = "FILE",
        help_heading = "Global options"
    )]
    pub ca_file: Option<PathBuf>,
    /// With https, the file with a certificate (PEM) to show, instead of a token
    #[arg(
        long,
        global = true,
        env = "NETNSCTL_CERT_FILE",
        value_name = "FILE",
        requires = "key_file",
        help_heading = "Global options"
    )]
    pub cert_file: Option<PathBuf>,
    /// With https, the file with that certificate's key (PEM)
    #[arg(
        long,
        global = true,
        env = "NETNSCTL_KEY_FILE",
        value_name = "FILE",
        requires = "cert_file",
        help_heading = "Global options"
    )]
    pub key_file: Option<PathBuf>,
    /// How to print
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value = "table",
        help_heading = "Global options"
    )]
    pub output: Format,
    /// Show each request as a curl line, on stderr
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub verbose: bool,
    /// Change nothing: show the commands that do by hand what a write would do
    #[arg(long, global = true, help_heading = "Global options")]
    pub dry_run: bool,
    /// Whether a write waits until the kernel is as asked; false: only until it is recorded
    #[arg(
        long,
        global = true,
        value_name = "true|false",
        default_value_t = true,
        action = clap::ArgAction::Set,
        help_heading = "Global options"
    )]
    pub wait: bool,
    /// Whether plans and differences are coloured
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
    /// Where netnsd is, with what it asks for: as the options say, or the last login.
    ///
    /// # Errors
    /// A URL that is none, a token that cannot be read.
    pub fn place(&self) -> Result<Place, Failure> {
        // What was given for that netnsd is shown to no other.
        let login = if self.url.is_none() {
            Login::remembered()?.unwrap_or_default()
        } else {
            Login::default()
        };
        let url = self
            .url
            .clone()
            .or((!login.url.is_empty()).then_some(login.url));
        let place = Login {
            url: url.unwrap_or_else(|| SOCKET.to_owned()),
            token: self.token()?.or(login.token),
            ca_file: self.ca_file.clone().or(login.ca_file),
            cert_file: self.cert_file.clone().or(login.cert_file),
            key_file: self.key_file.clone().or(login.key_file),
        };
        place.place()
    }

    /// The token of the file that is named.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn token(&self) -> Result<Option<String>, Failure> {
        let read = |file: &PathBuf| {
            std::fs::read_to_string(file)
                .map(|token| token.trim().to_owned())
                .map_err(|error| {
                    Failure::Usage(format!(
                        "--token-file {}: it cannot be read ({error})",
                        file.display()
                    ))
                })
        };
        self.token_file.as_ref().map(read).transpose()
    }

    /// Whether to colour what goes to stdout.
    pub fn coloured(&self) -> bool {
        match self.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
            }
        }
    }
}

/// What the global options come to.
#[derive(Debug)]
pub struct Context {
    /// The daemon.
    pub api: Api,
    /// How to print.
    pub format: Format,
    /// Whether writes only say what they would do.
    pub dry_run: bool,
    /// Whether writes wait for the kernel.
    pub wait: bool,
    /// Whether to colour.
    pub coloured: bool,
}

impl Context {
    /// What every write is asked besides, as a query's parameters.
    pub fn asked<'a>(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let dry = self.dry_run.then_some(("dry_run", "true"));
        dry.into_iter()
            .chain((!self.wait).then_some(("wait", "false")))
    }

    /// Returns text in a colour (ECMA-48) where there are any, without other control characters.
    pub fn painted(&self, colour: u8, text: &str) -> String {
        let text = visible(text);
        if self.coloured {
            format!("\u{1b}[{colour}m{text}\u{1b}[0m")
        } else {
            text.into_owned()
        }
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Network namespaces
    #[command(subcommand, alias = "n", infer_subcommands = true)]
    Netns(NetnsCommand),
    /// Bridges
    #[command(subcommand, alias = "b", infer_subcommands = true)]
    Bridge(BridgeCommand),
    /// Veth pairs
    #[command(subcommand, alias = "v", infer_subcommands = true)]
    Veth(VethCommand),
    /// Addresses that the kernel says are there
    #[command(alias = "address", after_help = "Example:\n  netnsctl addr net0")]
    Addr(Look),
    /// Routes that the kernel says are there
    #[command(after_help = "Example:\n  netnsctl route net0")]
    Route(Look),
    /// Neighbours (ARP, NDP) that the kernel says are there
    #[command(alias = "neighbour", after_help = "Example:\n  netnsctl neigh net0")]
    Neigh(Look),
    /// Links that the kernel says are there
    #[command(after_help = "Example:\n  netnsctl link net0 --dev eth0")]
    Link(Look),
    /// How netnsd and its resources stand
    #[command(after_help = "Example:\n  netnsctl status")]
    Status,
    /// Wait until resources are as they should be, for scripts and units
    #[command(
        after_help = "Example:\n  netnsctl wait veth/lan0 netns/net0 --for ready --timeout 10"
    )]
    Wait(Wait),
    /// Make the network as a document says, all or nothing
    #[command(
        after_help = "Examples:\n  netnsctl apply -f lab.yaml\n  netnsctl apply -f lab.yaml --prune --label lab=one"
    )]
    Apply(Document),
    /// Show what apply would change, and the commands that do it by hand
    #[command(after_help = "Example:\n  netnsctl plan -f lab.yaml")]
    Plan(Document),
    /// Show how a document differs from what is recorded; ends with 1 if it does
    #[command(after_help = "Example:\n  netnsctl diff -f lab.yaml")]
    Diff(Document),
    /// Print the whole network as a document
    #[command(after_help = "Example:\n  netnsctl export > lab.yaml")]
    Export {
        /// Only resources with this label: KEY=VALUE, KEY or KEY!=VALUE; repeatable
        #[arg(long, value_name = "LABEL")]
        label: Vec<String>,
    },
    /// Take over what others made: namespaces, bridges and veth pairs, as they are, with traffic
    /// going through them
    #[command(
        after_help = "Examples:\n  netnsctl adopt --all --dry-run\n  netnsctl adopt netns/byhand bridge/lan"
    )]
    Adopt(Adopt),
    /// Compare everything with the kernel now, and repair it
    #[command(after_help = "Example:\n  netnsctl reconcile")]
    Reconcile,
    /// Tell what happened
    #[command(after_help = "Examples:\n  netnsctl events --type drifted\n  netnsctl events -f")]
    Events(Events),
    /// Bearer tokens, for admins
    #[command(subcommand, infer_subcommands = true)]
    Token(TokenCommand),
    /// Go to a netnsd elsewhere from now on, with a token, a certificate, or what the options say
    /// of it
    #[command(after_help = "Example:\n  netnsctl login http://127.0.0.1:8080 --token-file token")]
    Login {
        /// Where it serves, as --url says it
        #[arg(value_name = "URL")]
        place: String,
    },
    /// Forget where `netnsctl login` went
    #[command(after_help = "Example:\n  netnsctl logout")]
    Logout,
    /// Tell who did what, with what answer, for admins
    #[command(after_help = "Example:\n  netnsctl audit --limit 20")]
    Audit {
        /// Only entries after this number
        #[arg(long, value_name = "ID")]
        since: Option<u64>,
        /// At most so many; the newest, without --since
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Edit a resource as YAML, in $VISUAL or $EDITOR
    #[command(after_help = "Example:\n  netnsctl edit bridge/br0")]
    Edit {
        /// KIND/NAME
        which: Which,
    },
    /// What makes a shell complete commands, and names as netnsd knows them
    #[command(after_help = "Example:\n  netnsctl completion bash > netnsctl.bash")]
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages into a directory
    #[command(after_help = "Example:\n  netnsctl man man1")]
    Man {
        /// Which
        dir: PathBuf,
    },
    /// Versions of netnsctl and netnsd
    #[command(after_help = "Example:\n  netnsctl version")]
    Version,
}

impl Command {
    /// Whether it writes, so that `--dry-run` makes sense.
    pub fn writes(&self) -> bool {
        match self {
            Command::Netns(command) => command.writes(),
            Command::Bridge(command) => command.writes(),
            Command::Veth(command) => command.writes(),
            Command::Apply(_) | Command::Adopt(_) => true,
            _ => false,
        }
    }
}
