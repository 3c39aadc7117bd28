//! Lifetime of an answer: the daemon's stop or the caller's revocation ends it.

use std::sync::Arc;

use netnsd_api::{Code, Problem};
use tokio::sync::watch;

use crate::access::Caller;

/// Lifetime of an answer, which ends when the daemon stops or the caller's rights end.
pub(super) struct Until {
    stopping: watch::Receiver<bool>,
    caller: Arc<Caller>,
}

impl Until {
    pub fn new(stopping: &watch::Receiver<bool>, caller: Arc<Caller>) -> Self {
        Self {
            stopping: stopping.clone(),
            caller,
        }
    }

    /// Waits for the end; returns its reason.
    pub async fn passed(&mut self) -> Problem {
        tokio::select! {
            _ = self.stopping.wait_for(|stopping| *stopping) => Problem::new(Code::ShuttingDown, "netnsd is stopping"),
            () = self.caller.expired() => {
                Problem::new(Code::Unauthenticated, format!("{} is no longer valid", self.caller.name))
            }
        }
    }

    /// Awaits a result, which is dropped where the end comes first.
    ///
    /// # Errors
    /// That of the result, or the reason of the end.
    pub async fn bound<T>(
        mut self,
        result: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        tokio::select! {
            result = result => result,
            reason = self.passed() => Err(reason),
        }
    }
}
