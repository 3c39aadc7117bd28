//! Completions that know the names of resources, and manual pages: both made of the commands
//! themselves.

use std::{ffi::OsStr, path::Path, time::Duration};

use clap::{CommandFactory, Parser};
use clap_complete::{
    ArgValueCompleter, CompletionCandidate, Shell,
    env::{CompleteEnv, Shells},
};
use netnsd_api::Kind;

use crate::{cli::Cli, curl::Api, fail::Failure, output, resource::names};

/// The variable by which a shell asks for completions, as clap_complete names it.
const VARIABLE: &str = "COMPLETE";
/// How long netnsd may take: who presses the tabulator does not want to wait.
const PATIENCE: Duration = Duration::from_secs(1);

/// Arguments that take names of a kind: the command, its own command, the argument.
const NAMES: [(Kind, &str, &str, &str); 15] = [
    (Kind::Namespace, "netns", "show", "name"),
    (Kind::Namespace, "netns", "set", "name"),
    (Kind::Namespace, "netns", "delete", "names"),
    (Kind::Namespace, "netns", "pids", "name"),
    (Kind::Namespace, "netns", "shell", "name"),
    (Kind::Namespace, "netns", "ping", "name"),
    (Kind::Bridge, "bridge", "show", "name"),
    (Kind::Bridge, "bridge", "set", "name"),
    (Kind::Bridge, "bridge", "delete", "names"),
    (Kind::Bridge, "bridge", "link", "name"),
    (Kind::Bridge, "bridge", "fdb", "name"),
    (Kind::Veth, "veth", "show", "name"),
    (Kind::Veth, "veth", "set", "which"),
    (Kind::Veth, "veth", "delete", "names"),
    (Kind::Namespace, "netns", "exec", "words"),
];

/// Answers the shell if it asks for completions, and then ends.
pub fn answer() {
    CompleteEnv::with_factory(commands).var(VARIABLE).complete();
}

/// The commands, with what completes their arguments.
fn commands() -> clap::Command {
    let of_kind =
        |kind: Kind| ArgValueCompleter::new(move |given: &OsStr| candidates(&[kind], "", given));
    // `mut_arg` would put it behind the other positional ones.
    let completed = |command: clap::Command, id: &'static str, by: ArgValueCompleter| {
        command.mut_args(move |argument| {
            if argument.get_id() == id {
                argument.add(by.clone())
            } else {
                argument
            }
        })
    };
    let mut all = Cli::command();
    for (kind, command, own, argument) in NAMES {
        all = all.mut_subcommand(command, |command| {
            command.mut_subcommand(own, |own| completed(own, argument, of_kind(kind)))
        });
    }
    for command in ["addr", "route", "neigh", "link"] {
        all = all.mut_subcommand(command, |command| {
            completed(command, "name", of_kind(Kind::Namespace))
        });
    }
    let any = || ArgValueCompleter::new(|given: &OsStr| candidates(&Kind::ALL, "/", given));
    all.mut_subcommand("wait", |command| completed(command, "which", any()))
        .mut_subcommand("edit", |command| completed(command, "which", any()))
}

/// The names of resources that begin as given; with a separator `KIND/NAME`. None where netnsd does
/// not answer at once.
fn candidates(kinds: &[Kind], separator: &str, given: &OsStr) -> Vec<CompletionCandidate> {
    let given = given.to_string_lossy();
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    else {
        return Vec::new();
    };
    let asked = async {
        // The words of the line are not told here: netnsd is where the environment, or the default,
        // says.
        let place = Cli::try_parse_from(["netnsctl", "status"])
            .ok()?
            .globals
            .place()
            .ok()?;
        let api = Api::new(place, false);
        let mut found = Vec::new();
        for kind in kinds {
            let listed = api
                .list(&format!("/v1/{}", kind.plural()), &[])
                .await
                .ok()?;
            for name in names(&listed.items).ok()? {
                found.push(if separator.is_empty() {
                    name
                } else {
                    format!("{kind}{separator}{name}")
                });
            }
        }
        Some(found)
    };
    let found = runtime
        .block_on(async { tokio::time::timeout(PATIENCE, asked).await })
        .ok()
        .flatten();
    let fitting = found
        .into_iter()
        .flatten()
        .filter(|name| name.starts_with(&*given));
    fitting.map(CompletionCandidate::new).collect()
}

/// Prints what makes a shell ask for completions.
pub fn script(shell: Shell) -> Result<(), Failure> {
    let shells = Shells::builtins();
    let name = shell.to_string();
    let missing = || Failure::Usage(format!("there are no completions for {name}"));
    let completer = shells.completer(&name).ok_or_else(missing)?;
    let mut text = Vec::new();
    completer
        .write_registration(VARIABLE, "netnsctl", "netnsctl", "netnsctl", &mut text)
        .map_err(|error| Failure::Refused(error.to_string()))?;
    output::raw(text)
}

/// Writes a manual page for each command into a directory.
pub fn manual(dir: &Path) -> Result<(), Failure> {
    let failed = |error| Failure::Refused(format!("{}: {error}", dir.display()));
    std::fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(failed)
}
