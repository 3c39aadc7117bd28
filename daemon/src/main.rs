//! `netnsd`: the daemon, and `netnsd try`, which shows it in a sandbox.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use netnsd::{
    daemon, sandbox,
    settings::{Flags, LogFormat, Settings},
    tryout,
};
use tracing_subscriber::EnvFilter;

/// Owns Linux network namespaces, veth pairs and bridges behind an HTTP/JSON API
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows what netnsd does, in a sandbox: needs no root and changes nothing on this machine
    Try {
        /// End after the pings; exit 0 only if all were answered
        #[arg(long)]
        exit: bool,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::Try { exit }) => try_it(exit),
        None => Settings::load(cli.flags).map_err(|error| (error, 2)).and_then(serve),
    };
    match result {
        Ok(code) => code,
        Err((error, code)) => {
            eprintln!("netnsd: {error}");
            ExitCode::from(code)
        }
    }
}

fn serve(settings: Settings) -> Result<ExitCode, (String, u8)> {
    log(settings.log_format, "info");
    let (ready, _nobody_waits) = tokio::sync::oneshot::channel();
    runtime()?.block_on(daemon::run(settings, ready)).map_err(|error| (error, 1))?;
    Ok(ExitCode::SUCCESS)
}

fn try_it(exit: bool) -> Result<ExitCode, (String, u8)> {
    // Before any thread starts: a user namespace takes a process of one thread only.
    sandbox::enter().map_err(|error| (error.to_string(), 1))?;
    log(LogFormat::Text, "warn");
    let answered = runtime()?.block_on(tryout::run(exit)).map_err(|error| (error, 1))?;
    Ok(if answered { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn runtime() -> Result<tokio::runtime::Runtime, (String, u8)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|error| (format!("cannot start threads: {error}"), 1))
}

/// The log goes to stderr; `NETNSD_LOG` says how much of it (`tracing_subscriber::EnvFilter`).
fn log(format: LogFormat, level: &str) {
    let filter =
        EnvFilter::builder().with_env_var("NETNSD_LOG").try_from_env().unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => builder.json().init(),
    }
}
