//! Program netnsd: parses the command line and runs the daemon, the demo, or a restore.

#![forbid(unsafe_code)]

use std::{
    io::{self, Write},
    process::ExitCode,
};

use netnsd::{
    daemon::{self, DaemonError},
    memory,
    settings::{self, Flags, Settings, Verb},
    tryout,
};

fn main() -> ExitCode {
    memory::use_single_arena();
    match run() {
        Ok(code) => code,
        Err(error) => {
            // Unlike eprintln!, this does not panic if stderr is closed.
            let _ = writeln!(io::stderr(), "netnsd: {error}");
            error.exit_code()
        }
    }
}

fn run() -> Result<ExitCode, DaemonError> {
    let cli = settings::parse_command_line()?;
    let env = |key: &str| std::env::var(key).ok();
    match cli.command {
        Some(Verb::Try { exit, verbose }) => {
            return tryout::run(exit, verbose, settings::log_filter(&env, "warn")?);
        }
        Some(Verb::Restore {
            file,
            config,
            state_dir,
        }) => {
            let flags = Flags {
                config,
                state_dir,
                ..Flags::default()
            };
            let text = daemon::restore(&Settings::resolve(&flags, env)?, &file)?;
            // The restore is done, whether its report can be read or not.
            let _ = writeln!(io::stdout(), "{text}");
            return Ok(ExitCode::SUCCESS);
        }
        Some(Verb::Man { dir }) => {
            let failed = |error| DaemonError::Other(format!("{}: {error}", dir.display()));
            settings::write_manual(&dir).map_err(failed)?;
            return Ok(ExitCode::SUCCESS);
        }
        None => (),
    }

    let settings = Settings::resolve(&cli.flags, env)?;
    daemon::log_to_stderr(settings.log_format, &settings.log);
    daemon::build_runtime()?.block_on(daemon::run(settings, |_| ()))?;
    Ok(ExitCode::SUCCESS)
}
