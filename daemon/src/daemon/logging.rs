//! Set-up of the log on stderr.

use std::io::{self, IsTerminal};

use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{access::audit, settings::LogFormat};

/// Writes the log, panics included, to stderr. Only the first call has an effect.
pub fn log_to_stderr(format: LogFormat, filter: &Targets) {
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        // They would go to stderr too, by a macro that panics if writing to stderr failed.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    let to_journal = stderr_is_journal();
    let layer = match format {
        // The journal adds the time to each line.
        LogFormat::Text if to_journal => layer.without_time().boxed(),
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().boxed(),
    };

    let mut filter = filter.clone();
    // A journal keeps audit entries where the daemon cannot change them. Elsewhere they are noise,
    // unless the filter asks for them.
    if !filter.iter().any(|(target, _)| target == audit::TARGET) && !to_journal {
        filter = filter.with_target(audit::TARGET, LevelFilter::OFF);
    }
    // Fails if a log is set up already, which then stays.
    let _ = tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init();
    std::panic::set_hook(Box::new(|info| tracing::error!(panic = true, "{info}")));
}

/// Returns true if stderr is connected to the journal: `JOURNAL_STREAM` is its device and inode
/// then (systemd.exec(5)).
fn stderr_is_journal() -> bool {
    let Ok(stderr) = nix::sys::stat::fstat(io::stderr()) else {
        return false;
    };
    std::env::var("JOURNAL_STREAM")
        .is_ok_and(|stream| stream == format!("{}:{}", stderr.st_dev, stderr.st_ino))
}
