//! `netnsctl`: the command line of netnsd. Each command is one HTTP request or a few.

#![forbid(unsafe_code)]

mod adopt;
mod api;
mod backup;
mod body;
mod bridge;
mod cli;
mod completion;
mod edit;
mod entries;
mod error;
mod events;
mod exec;
mod graph;
mod ip;
mod login;
mod netns;
mod output;
mod parse_args;
mod ping;
mod plan;
mod process;
mod recorded;
mod resource;
mod show;
mod status;
mod suggest;
mod terminal;
mod token;
mod top;
mod topology;
mod usage;
mod veth;
mod yaml;

use std::process::ExitCode;

use clap::FromArgMatches;

use crate::{
    api::Api,
    cli::{Cli, Command, Context, build_command},
    error::CliError,
};

fn main() -> ExitCode {
    completion::complete_and_exit();
    let result = ip::translate_words(std::env::args_os().collect()).and_then(|words| {
        build_command()
            .try_get_matches_from(&words)
            .and_then(|matches| Cli::from_arg_matches(&matches))
            .map_err(|error| usage::describe_usage_error(&error, &words))
            .and_then(run_command)
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(error.report()),
    }
}

fn run_command(cli: Cli) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Refused(format!("cannot start: {error}")))?;
    let result = runtime.block_on(dispatch(cli));
    // Do not wait for a thread that is blocked reading the standard input.
    runtime.shutdown_background();
    result
}

async fn dispatch(cli: Cli) -> Result<(), CliError> {
    let (globals, ip) = (cli.globals, cli.ip);
    let command = match cli.command {
        // These do not talk to the configured daemon.
        Command::Login { target } => return login::log_in(globals, target).await,
        Command::Logout => return login::log_out(),
        other => other,
    };

    let context = Context {
        api: Api::new(globals.server()?, globals.verbose),
        format: globals.output,
        dry_run: globals.dry_run,
        wait: globals.wait,
        use_color: globals.use_color(),
    };
    if (context.dry_run || !context.wait) && !command.is_write() {
        let option = if context.dry_run {
            "--dry-run"
        } else {
            "--wait=false"
        };
        return Err(CliError::Usage(format!(
            "{option} is only for commands that write: add, set, delete, attach, apply and adopt"
        )));
    }

    let mut given = ip.given().into_iter();
    if let Some(option) = given.find(|option| !command.takes_ip_option(option)) {
        return Err(CliError::Usage(format!(
            "{option} is an option of ip: it is only for link, addr, route, rule, neigh, brctl, \
             bridge link and bridge fdb"
        )));
    }

    match command {
        Command::Netns { command } => netns::run_netns(&context, &ip, command).await,
        Command::Bridge(command) => bridge::run_bridge(&context, &ip, command).await,
        Command::Veth(command) => veth::run_veth(&context, command).await,
        Command::Addr(words) => {
            let names = ["addr"];
            words.run(&context, &ip, &names, ip::parse_address).await
        }
        Command::Route(words) => {
            let names = ["route"];
            words.run(&context, &ip, &names, ip::parse_route).await
        }
        Command::Rule(words) => words.run(&context, &ip, &["rule"], ip::parse_rule).await,
        Command::Neigh(words) => {
            let names = ["neigh"];
            words.run(&context, &ip, &names, ip::parse_neighbour).await
        }
        Command::Link(words) => words.run(&context, &ip, &["link"], ip::parse_link).await,
        Command::Brctl(words) => words.run(&context, &ip, &["brctl"], ip::parse_brctl).await,
        Command::Apply(document) => topology::apply_document(&context, &document).await,
        Command::Plan(args) => topology::plan_document(&context, &args).await,
        Command::Diff(document) => topology::diff_document(&context, &document).await,
        Command::Graph(args) => graph::show_graph(&context, &args).await,
        Command::Export { label } => topology::export_document(&context, &label).await,
        Command::Backup { file } => backup::write_backup(&context, &file).await,
        Command::Adopt(args) => adopt::adopt_resources(&context, &args).await,
        Command::Reconcile => topology::reconcile(&context).await,
        Command::Events(args) => events::show_events(&context, &args).await,
        Command::Token(command) => token::run_token(&context, command).await,
        Command::Audit { since, limit } => token::show_audit_log(&context, since, limit).await,
        Command::Edit { resource } => edit::edit_resource(&context, &resource).await,
        Command::Status => status::show_status(&context).await,
        Command::Top(args) => top::show_top(&context, &args).await,
        Command::Wait(args) => status::wait_for_resources(&context, &args).await,
        Command::Version => status::show_versions(&context).await,
        Command::Completion { shell } => completion::print_script(shell),
        Command::Man { dir } => completion::write_manual(&dir),
        Command::Login { .. } | Command::Logout => Ok(()), // returned above
    }
}
