//! Signals that stop the daemon, and the end of its servers.

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};

use super::{DaemonError, Result};

/// SIGTERM and SIGINT.
pub(super) struct StopSignals {
    term: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Begins to receive the signals.
    ///
    /// # Errors
    /// If no handler can be installed.
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            term: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => (),
            _ = self.interrupt.recv() => (),
        }
    }
}

fn listen(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|error| DaemonError::Other(format!("signals cannot be received: {error}")))
}

/// Waits for the servers, which give running requests a limited time; a second signal ends the
/// daemon at once.
pub(super) async fn drain_servers(servers: &mut JoinSet<()>, signals: &mut StopSignals) {
    tokio::select! {
        () = async { while servers.join_next().await.is_some() {} } => (),
        () = signals.next() => {
            tracing::warn!("second stop signal: exiting without waiting for requests");
            std::process::exit(1);
        }
    }
}
