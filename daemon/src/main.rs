//! netnsd, the program: reads what is asked of it and hands over.

#![forbid(unsafe_code)]

use std::{
    io::{self, Write},
    process::ExitCode,
};

use netnsd::{
    daemon::{self, Failure},
    memory,
    settings::{self, Settings, Verb},
    tryout,
};

fn main() -> ExitCode {
    memory::use_single_arena();
    match start() {
        Ok(code) => code,
        Err(failure) => {
            // Unlike eprintln!, this does not panic when nobody reads.
            let _ = writeln!(io::stderr(), "netnsd: {failure}");
            failure.exit_code()
        }
    }
}

fn start() -> Result<ExitCode, Failure> {
    let cli = settings::command_line()?;
    let env = |key: &str| std::env::var(key).ok();
    if let Some(Verb::Try { exit }) = cli.command {
        return tryout::run(exit, settings::log_filter(&env, "warn")?);
    }
    let settings = Settings::resolve(&cli.flags, env)?;
    daemon::log_to_stderr(settings.log_format, &settings.log);
    daemon::runtime()?.block_on(daemon::run(settings, |_| ()))?;
    Ok(ExitCode::SUCCESS)
}
