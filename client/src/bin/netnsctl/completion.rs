//! Shell completions, which complete names of resources too, and manual pages; both are generated
//! from the commands.

use std::{ffi::OsStr, path::Path, time::Duration};

use clap::{CommandFactory, Parser};
use clap_complete::{
    ArgValueCompleter, CompletionCandidate, Shell,
    env::{CompleteEnv, Shells},
};
use netnsd_api::Kind;

use crate::{
    api::Api,
    cli::Cli,
    error::CliError,
    output::write_raw,
    resource::{collection_path, item_names},
};

/// The variable by which a shell asks for completions, as clap_complete names it.
const VARIABLE: &str = "COMPLETE";
/// Time that netnsd has to answer, in which the user waits for the shell.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Commands below that of a kind whose names are new ones.
const CREATING_COMMANDS: &[&str] = &["add", "attach"];
/// Arguments that take names of a kind.
const NAME_ARGS: &[&str] = &["name", "names", "target"];
/// Commands whose argument `name` is a namespace.
const NAMESPACE_COMMANDS: &[&str] = &["addr", "route", "neigh", "link"];
/// Commands and their arguments that take KIND/NAME.
const RESOURCE_COMMANDS: &[(&str, &str)] = &[("wait", "resources"), ("edit", "resource")];

/// Answers a shell that asks for completions, and exits.
pub fn complete_and_exit() {
    CompleteEnv::with_factory(commands_with_completers)
        .var(VARIABLE)
        .complete();
}

/// Returns the command that manages a kind.
pub fn kind_command(kind: Kind) -> &'static str {
    // The command of ip(8).
    if kind == Kind::Namespace {
        "netns"
    } else {
        kind.as_str()
    }
}

/// Returns the commands, with completers for their arguments.
fn commands_with_completers() -> clap::Command {
    let mut all = Cli::command();
    for kind in Kind::ALL {
        all = all.mut_subcommand(kind_command(kind), |command| {
            command.mut_subcommands(|command| {
                if CREATING_COMMANDS.contains(&command.get_name()) {
                    command
                } else {
                    complete_args(command, NAME_ARGS, &name_completer(kind))
                }
            })
        });
    }
    for name in NAMESPACE_COMMANDS {
        all = all.mut_subcommand(name, |command| {
            complete_args(command, NAME_ARGS, &name_completer(Kind::Namespace))
        });
    }
    for (name, argument) in RESOURCE_COMMANDS {
        all = all.mut_subcommand(name, |command| {
            complete_args(command, &[argument], &resource_completer())
        });
    }
    all
}

/// Adds a completer to arguments of a command.
fn complete_args(
    command: clap::Command,
    ids: &[&str],
    completer: &ArgValueCompleter,
) -> clap::Command {
    // `mut_arg` would change the order of positional arguments.
    command.mut_args(|argument| {
        if ids.contains(&argument.get_id().as_str()) {
            argument.add(completer.clone())
        } else {
            argument
        }
    })
}

/// Completes names of a kind.
fn name_completer(kind: Kind) -> ArgValueCompleter {
    ArgValueCompleter::new(move |prefix: &OsStr| {
        list_candidates(prefix, async |api| list_names(api, kind).await)
    })
}

/// Completes KIND/NAME.
fn resource_completer() -> ArgValueCompleter {
    ArgValueCompleter::new(|prefix: &OsStr| {
        list_candidates(prefix, async |api| {
            let mut resources = Vec::new();
            for kind in Kind::ALL {
                let names = list_names(api, kind).await?;
                resources.extend(names.into_iter().map(|name| format!("{kind}/{name}")));
            }
            Some(resources)
        })
    })
}

async fn list_names(api: &Api, kind: Kind) -> Option<Vec<String>> {
    let list = api.list(&collection_path(kind), &[]).await.ok()?;
    item_names(&list.items).ok()
}

/// Returns the candidates that begin with a prefix; none if netnsd does not answer in time.
fn list_candidates(
    prefix: &OsStr,
    list: impl AsyncFnOnce(&Api) -> Option<Vec<String>>,
) -> Vec<CompletionCandidate> {
    let prefix = prefix.to_string_lossy();
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    else {
        return Vec::new();
    };
    let candidates = runtime.block_on(async {
        // Options on the command line are unknown here; the environment and the login apply.
        let server = Cli::try_parse_from(["netnsctl", "status"])
            .ok()?
            .globals
            .server()
            .ok()?;
        let api = Api::new(server, false);
        tokio::time::timeout(TIMEOUT, list(&api)).await.ok()?
    });
    candidates
        .unwrap_or_default()
        .into_iter()
        .filter(|name| name.starts_with(&*prefix))
        .map(CompletionCandidate::new)
        .collect()
}

/// Prints the script by which a shell asks for completions.
pub fn print_script(shell: Shell) -> Result<(), CliError> {
    let shells = Shells::builtins();
    let name = shell.to_string();
    let completer = shells
        .completer(&name)
        .ok_or_else(|| CliError::Usage(format!("no completions for {name}")))?;
    let mut script = Vec::new();
    completer
        .write_registration(VARIABLE, "netnsctl", "netnsctl", "netnsctl", &mut script)
        .map_err(|error| CliError::Refused(error.to_string()))?;
    write_raw(script)
}

/// Writes a manual page for each command to a directory.
pub fn write_manual(dir: &Path) -> Result<(), CliError> {
    std::fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), dir))
        .map_err(|error| CliError::Refused(format!("{}: {error}", dir.display())))
}
