//! Shell completions, which complete names of resources too, and manual pages; both are generated
//! from the commands.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::Duration,
};

use clap::Parser;
use clap_complete::{
    ArgValueCompleter, CompletionCandidate, PathCompleter, Shell,
    engine::ValueCompleter,
    env::{CompleteEnv, Shells},
};
use netnsd_api::{EventType, HostAccess, Kind, Role, State};

use crate::{
    api::Api,
    cli::{Cli, build_command},
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
/// Commands whose names are namespaces.
const NAMESPACE_COMMANDS: &[&str] = &["top"];

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
    add_completers(build_command(), &[]).mut_subcommands(|command| {
        let name = command.get_name().to_owned();
        add_completers(command, &[&name]).mut_subcommands(|below| {
            let below_name = below.get_name().to_owned();
            add_completers(below, &[&name, &below_name])
        })
    })
}

/// Adds completers to the arguments of the command with these words.
fn add_completers(command: clap::Command, words: &[&str]) -> clap::Command {
    // `mut_arg` would change the order of positional arguments.
    command.mut_args(|argument| match find_completer(words, &argument) {
        Some(completer) => argument.add(completer),
        None => argument,
    })
}

/// Returns the completer of an argument, by its name and its command.
fn find_completer(words: &[&str], argument: &clap::Arg) -> Option<ArgValueCompleter> {
    let values = argument.get_value_names().unwrap_or_default();
    if values.iter().any(|value| *value == "on|off") {
        return Some(word_completer(&["on", "off"]));
    }
    let kind = Kind::ALL
        .into_iter()
        .find(|kind| words.first() == Some(&kind_command(*kind)));
    match (words, argument.get_id().as_str()) {
        (_, "namespace") | ([], "netns") => Some(name_completer(Kind::Namespace)),
        (_, "bridge") => Some(name_completer(Kind::Bridge)),
        (_, "state") => Some(word_completer(&State::ALL.map(State::as_str))),
        (["events"], "kind") => Some(word_completer(&Kind::ALL.map(Kind::as_str))),
        (["events"], "type") => Some(word_completer(&EventType::ALL.map(EventType::as_str))),
        (["token", _], "role") => Some(word_completer(&Role::ALL.map(Role::as_str))),
        (["token", _], "host") => Some(word_completer(&HostAccess::ALL.map(HostAccess::as_str))),
        (["wait" | "adopt"], "resources") | (["edit"], "resource") => Some(resource_completer()),
        (["netns", "exec"], "command") => Some(ArgValueCompleter::new(CommandCompleter)),
        (["veth", "add"], "words") => Some(place_completer()),
        (["veth", "set"], "target") => Some(end_completer()),
        ([command], "name" | "names") if NAMESPACE_COMMANDS.contains(command) => {
            Some(name_completer(Kind::Namespace))
        }
        ([_, command], "name" | "names" | "target") if !CREATING_COMMANDS.contains(command) => {
            kind.map(name_completer)
        }
        _ => None,
    }
}

/// Completes one of a few words.
fn word_completer(words: &[&'static str]) -> ArgValueCompleter {
    let words = words.to_owned();
    ArgValueCompleter::new(move |prefix: &OsStr| {
        let words = words.iter().map(|word| (*word).to_owned());
        filter_candidates(prefix, words.collect())
    })
}

/// Completes a command in a namespace: programs of PATH, and files.
struct CommandCompleter;

impl ValueCompleter for CommandCompleter {
    fn complete(&self, prefix: &OsStr) -> Vec<CompletionCandidate> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let programs: BTreeSet<OsString> = std::env::split_paths(&path)
            .filter_map(|dir| fs::read_dir(dir).ok())
            .flatten()
            .flatten()
            .filter(|entry| {
                let name = entry.file_name();
                name.as_encoded_bytes()
                    .starts_with(prefix.as_encoded_bytes())
                    && is_executable(&entry.path())
            })
            .map(|entry| entry.file_name())
            .collect();
        let programs = programs.into_iter().map(CompletionCandidate::new);
        programs
            .chain(PathCompleter::any().complete(prefix))
            .collect()
    }

    fn complete_at(&self, index: usize, prefix: &OsStr) -> Vec<CompletionCandidate> {
        // clap_complete counts both the first and the second word as 0.
        if index > 0 {
            PathCompleter::any().complete(prefix)
        } else {
            self.complete(prefix)
        }
    }
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// Settings of a new end that are written after its place.
const END_SETTINGS: &[&str] = &["addr=", "bridge=", "mac=", "mtu=", "down"];

/// Completes a new end: its namespace, `net0:`, and its settings, `net0:eth0,bridge=br0`.
fn place_completer() -> ArgValueCompleter {
    ArgValueCompleter::new(|prefix: &OsStr| {
        let text = prefix.to_string_lossy().into_owned();
        let Some((place, setting)) = text.rsplit_once(',') else {
            return list_candidates(prefix, async |api| {
                let names = list_names(api, Kind::Namespace).await?;
                Some(names.into_iter().map(|name| format!("{name}:")).collect())
            });
        };
        if setting.starts_with("bridge=") {
            return list_candidates(prefix, async |api| {
                let names = list_names(api, Kind::Bridge).await?;
                let ends = names.into_iter();
                Some(ends.map(|name| format!("{place},bridge={name}")).collect())
            });
        }
        let settings = END_SETTINGS.iter();
        filter_candidates(
            prefix,
            settings
                .map(|setting| format!("{place},{setting}"))
                .collect(),
        )
    })
}

/// Completes a pair or one of its ends: `lan0`, `lan0/0`, `lan0/1`.
fn end_completer() -> ArgValueCompleter {
    ArgValueCompleter::new(|prefix: &OsStr| {
        list_candidates(prefix, async |api| {
            let names = list_names(api, Kind::Veth).await?;
            let ends = names
                .into_iter()
                .flat_map(|name| [format!("{name}/0"), format!("{name}/1"), name]);
            Some(ends.collect())
        })
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
    filter_candidates(prefix, candidates.unwrap_or_default())
}

/// Returns the words that begin with a prefix.
fn filter_candidates(prefix: &OsStr, words: Vec<String>) -> Vec<CompletionCandidate> {
    let prefix = prefix.to_string_lossy();
    words
        .into_iter()
        .filter(|word| word.starts_with(&*prefix))
        .map(CompletionCandidate::new)
        .collect()
}

/// Prints the script by which a shell asks for completions.
pub fn print_script(shell: Shell) -> Result<(), CliError> {
    // Their scripts from clap_complete split words at : and =, or end them with a space.
    match shell {
        Shell::Bash => return write_raw(include_str!("completion.bash")),
        Shell::Zsh => return write_raw(include_str!("completion.zsh")),
        _ => {}
    }
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
    fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(build_command(), dir))
        .map_err(|error| CliError::Refused(format!("{}: {error}", dir.display())))
}
