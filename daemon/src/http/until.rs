//! How long answers without an end go on.

use std::sync::Arc;

use netnsd_api::{Code, Problem};
use tokio::sync::watch;

use crate::access::Caller;

/// Until the daemon stops, or who asked may no longer do anything.
pub(super) struct Until {
    stopping: watch::Receiver<bool>,
    caller: Arc<Caller>,
}

impl Until {
    pub fn new(stopping: &watch::Receiver<bool>, caller: Arc<Caller>) -> Self {
        Self { stopping: stopping.clone(), caller }
    }

    /// Waits for that, and tells why.
    pub async fn passed(&mut self) -> Problem {
        tokio::select! {
            _ = self.stopping.wait_for(|stopping| *stopping) => Problem::new(Code::ShuttingDown, "netnsd is stopping"),
            () = self.caller.over() => {
                Problem::new(Code::Unauthenticated, format!("{} is no longer valid", self.caller.name))
            }
        }
    }

    /// Waits for that, as `passed` does, as a future that owns all it needs.
    pub async fn into_passed(mut self) -> Problem {
        self.passed().await
    }
}
