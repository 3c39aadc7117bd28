//! `netnsctl netns exec` and `netnsctl netns shell`.

use std::str::FromStr;

use clap::Args;
use netnsd_api::{Kind, Namespace};
use nix::sys::signal::Signal;

use crate::{
    cli::Context,
    error::{CliError, describe_problem},
    ip,
    output::print_line,
    parse_args,
    resource::{ResourcePath, collection_path, for_each_name, item_names},
    terminal::{self, Input},
};

/// Runs the shell `$0` if it exists, which may differ on another machine, else `/bin/sh`.
const SHELL_SCRIPT: &str = "command -v \"$0\" >/dev/null && exec \"$0\"; exec /bin/sh";

/// Exit codes of a shell for a program that it cannot start (POSIX, Shell Command Language, 2.8.2).
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// `netnsctl netns exec …`
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Run it in every namespace of netnsd, one after the other
    #[arg(long)]
    all: bool,
    /// An environment variable, or the name of one of netnsctl's; repeatable
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = parse_variable)]
    env: Vec<(String, String)>,
    /// Working directory [default: /]
    #[arg(short = 'C', long, visible_alias = "workdir", value_name = "DIR", value_parser = parse_directory,
        value_hint = clap::ValueHint::DirPath)]
    cwd: Option<String>,
    /// Kill it after this number of seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
    /// The user that it runs as [default: root]
    #[arg(long)]
    user: Option<String>,
    /// The namespace (not with --all)
    name: String,
    /// The command and its arguments
    #[arg(
        value_name = "COMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<String>,
}

/// Parses `KEY=VALUE`; `KEY` alone takes the value that netnsctl has.
fn parse_variable(text: &str) -> Result<(String, String), String> {
    if text.contains('=') {
        return parse_args::parse_key_value(text);
    }
    match std::env::var(text) {
        Ok(value) => Ok((text.to_owned(), value)),
        Err(_) => Err(format!("{text:?} is not set here: write {text}=VALUE")),
    }
}

/// Parses a directory, which may be relative to that of netnsctl.
fn parse_directory(text: &str) -> Result<String, String> {
    let path = std::path::absolute(text).map_err(|error| format!("{text:?}: {error}"))?;
    let path = path.into_os_string();
    path.into_string()
        .map_err(|_| format!("{text:?} is not UTF-8"))
}

impl ExecArgs {
    /// Returns the namespace, unless it is all of them, and the command.
    fn namespace_and_command(&self) -> (Option<&str>, Vec<&str>) {
        let command = self.command.iter().map(String::as_str);
        if self.all {
            // The first word is that of the command.
            let command = std::iter::once(self.name.as_str()).chain(command);
            (None, command.collect())
        } else {
            (Some(&self.name), command.collect())
        }
    }

    /// Returns the request as query parameters.
    fn query(&self, command: &[&str]) -> Vec<(&'static str, String)> {
        let mut query: Vec<_> = command
            .iter()
            .map(|word| ("argv", (*word).to_owned()))
            .collect();
        for (key, value) in &self.env {
            query.push(("env", format!("{key}={value}")));
        }
        query.extend(self.cwd.iter().map(|dir| ("cwd", dir.clone())));
        query.extend(
            self.timeout
                .map(|seconds| ("timeout_s", seconds.to_string())),
        );
        query.extend(self.user.iter().map(|user| ("user", user.clone())));
        query
    }
}

/// Runs a command in one namespace or in all of them.
pub async fn run_command(context: &Context, args: &ExecArgs) -> Result<(), CliError> {
    let (namespace, command) = args.namespace_and_command();
    if command.is_empty() {
        return Err(CliError::Usage(
            "no command given: netnsctl netns exec NAME -- COMMAND".into(),
        ));
    }
    if let Some(option) = command.first().filter(|word| word.starts_with('-')) {
        return Err(CliError::Usage(format!(
            "{option:?} is neither a command nor an option: netnsctl netns exec --help lists them; the \
             command has a terminal if netnsctl has one"
        )));
    }
    if let Some(namespace) = namespace {
        run_in(context, namespace, args.query(&command), Input::Stdin).await?;
        if let Some(line) = ip::unrecorded_change(context, namespace, &args.command).await {
            eprintln!(
                "netnsctl: this change is not recorded, and is lost at a reboot; to record it: {line}"
            );
        }
        return Ok(());
    }

    let list = context
        .api
        .list(&collection_path(Kind::Namespace), &[])
        .await?;
    let result = for_each_name(&item_names(&list.items)?, async |namespace| {
        print_line(format!("\nnetns: {namespace}"))?;
        run_in(context, namespace, args.query(&command), Input::Empty).await
    })
    .await;
    // The exit code of a single command would say nothing about the others.
    result.map_err(|error| match error {
        CliError::Exit(_) => CliError::Exit(1),
        other => other,
    })
}

/// Runs an interactive shell in a namespace.
pub async fn run_shell(context: &Context, namespace: &str) -> Result<(), CliError> {
    let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into());
    let query = ["/bin/sh", "-c", SHELL_SCRIPT, &shell]
        .map(|word| ("argv", word.to_owned()))
        .into();
    run_in(context, namespace, query, Input::Stdin).await
}

/// Gives a program that cannot be started the exit code of a shell: 127 if it is not found, else
/// 126.
fn with_shell_exit_code(error: CliError, query: &[(&str, String)]) -> CliError {
    match &error {
        CliError::Problem { problem, .. } if problem.pointer.as_deref() == Some("/argv/0") => {
            let is_missing = problem.detail.contains(" was not found");
            let code = if is_missing {
                NOT_FOUND
            } else {
                NOT_EXECUTABLE
            };
            let mut text = describe_problem(problem);
            let value = |key: &str| query.iter().find(|(name, _)| *name == key);
            let is_relative = value("argv")
                .is_some_and(|(_, program)| program.contains('/') && !program.starts_with('/'));
            if is_missing && is_relative && value("cwd").is_none() {
                text += "\n  a command starts in /: for a program of this directory give --cwd .";
            }
            CliError::NotExecuted(text, code)
        }
        _ => error,
    }
}

async fn run_in(
    context: &Context,
    namespace: &str,
    query: Vec<(&str, String)>,
    input: Input,
) -> Result<(), CliError> {
    let path = ResourcePath::resource::<Namespace>(namespace).child("exec");
    let end = terminal::run_session(context, &path.to_string(), query.clone(), input)
        .await
        .map_err(|error| with_shell_exit_code(error, &query))?;
    if end.timed_out {
        eprintln!("netnsctl: command timed out and was killed (see --timeout)");
    }
    // As a shell reports a signal.
    let signal_code = end
        .signal
        .as_deref()
        .map(|name| Signal::from_str(name).map_or(128, |signal| 128 + signal as i32));
    match end.exit_code.or(signal_code) {
        Some(0) => Ok(()),
        code => Err(CliError::Exit(
            code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
        )),
    }
}
