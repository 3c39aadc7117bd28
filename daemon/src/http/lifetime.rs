//! Lifetime of a long response: it ends when the daemon stops or the caller's rights expire.

use std::sync::Arc;

use netnsd_api::{Code, Problem};
use tokio::sync::watch;

use crate::access::Caller;

/// Lifetime of a response, which ends when the daemon stops or the caller's rights expire.
pub(super) struct StreamLifetime {
    stopping: watch::Receiver<bool>,
    caller: Arc<Caller>,
}

impl StreamLifetime {
    pub fn new(stopping: &watch::Receiver<bool>, caller: Arc<Caller>) -> Self {
        Self {
            stopping: stopping.clone(),
            caller,
        }
    }

    /// Waits for the end, and returns its reason.
    pub async fn expired(&mut self) -> Problem {
        tokio::select! {
            _ = self.stopping.wait_for(|stopping| *stopping) => {
                Problem::new(Code::ShuttingDown, "netnsd is stopping")
            }
            () = self.caller.expired() => {
                let detail = format!("{} is no longer valid", self.caller.name);
                Problem::new(Code::Unauthenticated, detail)
            }
        }
    }

    /// Awaits a result, which is dropped if the lifetime ends first.
    ///
    /// # Errors
    /// That of the result, or the reason of the end.
    pub async fn bound<T, E>(
        mut self,
        result: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Problem>
    where
        Problem: From<E>,
    {
        tokio::select! {
            result = result => Ok(result?),
            reason = self.expired() => Err(reason),
        }
    }
}
