//! `netnsctl link|addr|route|rule|neigh`, `netnsctl bridge link|fdb` and `netnsctl brctl`: the words of
//! ip(8), bridge(8) and brctl(8), on the recorded network.

mod device;
mod execute;
mod options;
mod parse;
mod request;
mod select;

use clap::Args;

pub use self::{
    device::{find_bridge, list_bridges, live_path},
    execute::{execute, unrecorded_change},
    options::translate_words,
    parse::{
        Parser, parse_address, parse_brctl, parse_bridge_fdb, parse_bridge_link, parse_link,
        parse_neighbour, parse_route, parse_rule,
    },
    request::{Request, Show},
    select::{RouteFields, Selection, Table, is_ipv6},
};
use crate::{
    cli::{Context, IpOptions, build_command},
    error::CliError,
};

/// The words of a command.
#[derive(Debug, Args)]
pub struct Words {
    /// The words after it, as ip(8), bridge(8) or brctl(8) has them
    #[arg(value_name = "WORD")]
    words: Vec<String>,
}

impl Words {
    /// Returns true if the words are of a write, or wrong.
    pub fn is_write(&self, parser: Parser) -> bool {
        parser(&self.words).map_or(true, |request| request.is_write())
    }

    /// Runs the command; `names` are those by which it is called, for its help.
    pub async fn run(
        &self,
        context: &Context,
        options: &IpOptions,
        names: &[&str],
        parser: Parser,
    ) -> Result<(), CliError> {
        let request = parser(&self.words).map_err(CliError::Usage)?;
        if request == Request::Help {
            return print_help(names);
        }
        execute(context, options, request).await
    }
}

/// Prints the help of a command.
fn print_help(names: &[&str]) -> Result<(), CliError> {
    let mut command = build_command();
    command.build();
    let mut found = &mut command;
    for name in names {
        found = found
            .find_subcommand_mut(name)
            .ok_or_else(|| CliError::Usage(format!("there is no command {name}")))?;
    }
    Ok(found.print_long_help()?)
}
