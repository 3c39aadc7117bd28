//! `netnsctl`: the command line of netnsd. Each command is one HTTP call or a few.

#![forbid(unsafe_code)]

mod adopt;
mod bridge;
mod cli;
mod completion;
mod curl;
mod doing;
mod events;
mod fail;
mod login;
mod look;
mod netns;
mod output;
mod resource;
mod status;
mod terminal;
mod token;
mod veth;
mod whole;
mod words;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    cli::{Cli, Command, Context},
    curl::Api,
    fail::Failure,
};

fn main() -> ExitCode {
    completion::answer();
    let cli = Cli::parse();
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Refused(format!("cannot start: {error}")))
        .and_then(|runtime| {
            let result = runtime.block_on(run(cli));
            // A thread that still waits for the standard input holds nothing up.
            runtime.shutdown_background();
            result
        });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(failure.report()),
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let globals = cli.globals;
    match cli.command {
        Command::Login { place } => return login::login(globals, place).await,
        Command::Logout => return login::logout(),
        _ => {}
    }
    let context = Context {
        api: Api::new(globals.place()?, globals.verbose),
        format: globals.output,
        dry_run: globals.dry_run,
        wait: globals.wait,
        coloured: globals.coloured(),
    };
    if (context.dry_run || !context.wait) && !cli.command.writes() {
        let option = if context.dry_run {
            "--dry-run"
        } else {
            "--wait=false"
        };
        return Err(Failure::Usage(format!(
            "{option} is for commands that write: add, set, delete, attach, apply and adopt"
        )));
    }
    match cli.command {
        Command::Netns(command) => netns::run(&context, command).await,
        Command::Bridge(command) => bridge::run(&context, command).await,
        Command::Veth(command) => veth::run(&context, command).await,
        Command::Addr(look) => look::addresses(&context, &look).await,
        Command::Route(look) => look::routes(&context, &look).await,
        Command::Neigh(look) => look::neighbours(&context, &look).await,
        Command::Link(look) => look::links(&context, &look).await,
        Command::Apply(document) => whole::apply(&context, &document).await,
        Command::Plan(document) => whole::plan(&context, &document).await,
        Command::Diff(document) => whole::diff(&context, &document).await,
        Command::Export { label } => whole::export(&context, &label).await,
        Command::Adopt(what) => adopt::adopt(&context, &what).await,
        Command::Reconcile => whole::reconcile(&context).await,
        Command::Events(wanted) => events::events(&context, &wanted).await,
        Command::Token(command) => token::run(&context, command).await,
        Command::Audit { since, limit } => token::audit(&context, since, limit).await,
        // They need no daemon to talk to: done above.
        Command::Login { .. } | Command::Logout => Ok(()),
        Command::Edit { which } => whole::edit(&context, &which).await,
        Command::Status => status::status(&context).await,
        Command::Wait(wait) => status::wait(&context, &wait).await,
        Command::Version => status::version(&context).await,
        Command::Completion { shell } => completion::script(shell),
        Command::Man { dir } => completion::manual(&dir),
    }
}
