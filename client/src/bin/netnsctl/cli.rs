//! The command line as a whole.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::{
    bridge::BridgeCommand, curl::Api, look::Look, netns::NetnsCommand, output::Format, status::Wait, veth::VethCommand,
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

/// Options of every command.
#[derive(Debug, Args)]
pub struct Globals {
    /// netnsd's socket
    #[arg(
        long,
        global = true,
        env = "NETNSCTL_SOCKET",
        value_name = "PATH",
        default_value = "/run/netnsd/netnsd.sock",
        help_heading = "Global options"
    )]
    pub socket: PathBuf,
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
    /// Change nothing: show the operations that a write would do
    #[arg(long, global = true, help_heading = "Global options")]
    pub dry_run: bool,
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
    #[command(after_help = "Example:\n  netnsctl wait veth/lan0 netns/net0 --for ready --timeout 10")]
    Wait(Wait),
    /// A shell's completions
    #[command(after_help = "Example:\n  netnsctl completion bash > netnsctl.bash")]
    Completion {
        /// The shell
        shell: Shell,
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
            _ => false,
        }
    }
}
