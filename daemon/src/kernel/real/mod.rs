//! The real kernel: rtnetlink connections, and two threads kept for going into namespaces.

mod channel;
mod execute;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod local;
mod look;
mod message;
mod names;
mod observe;
mod parse;
#[cfg(test)]
mod tests;
#[allow(unsafe_code, reason = "descriptors that are waited for")]
mod watch;
pub(crate) mod worker;

use std::io;

use netnsd_api::{Name, SysctlKey};
use nix::errno::Errno;

pub(super) use self::{local::Local, observe::observe, parse::protocol};
use self::{watch::Watch, worker::Worker};
use super::{BatchOp, Kernel, Notice, Ns, Observed, OpError, Outcome, Scope};

/// The real kernel, as seen from the namespace that it was started in: the host's. What it is asked for is done on a
/// thread of its own, which another one helps, and waited for: the engine does nothing else meanwhile.
#[derive(Debug)]
pub struct RealKernel {
    worker: Worker,
    helper: Worker,
    /// Whether the first thread may hold connections.
    holds: bool,
    replaced: Vec<(Name, SysctlKey, String)>,
    /// None before something is to be watched.
    watch: Option<Watch>,
}

impl RealKernel {
    /// Starts in the namespace of the calling thread, which must run a tokio runtime.
    ///
    /// # Errors
    /// When there is no thread, or no `/proc`.
    pub fn start() -> io::Result<Self> {
        let (worker, helper) = (Worker::start("netnsd-ns")?, Worker::start("netnsd-ns-2")?);
        Ok(Self { worker, helper, holds: false, replaced: Vec::new(), watch: None })
    }

    /// Has the thread do something, and waits for it.
    fn run<R: Send + 'static>(&mut self, job: impl FnOnce(&mut Local) -> R + Send + 'static) -> Result<R, Errno> {
        self.holds = true;
        self.worker.run(job)
    }

    fn try_watch(&mut self, namespaces: Vec<(Ns, bool)>) -> io::Result<()> {
        self.holds = true;
        let watch = match &mut self.watch {
            Some(watch) => watch,
            none => none.insert(Watch::start()?),
        };
        Ok(watch.change(&self.worker, namespaces)?)
    }
}

impl Kernel for RealKernel {
    async fn observe(&mut self, scope: &Scope) -> Result<Observed, OpError> {
        let (scope, helper) = (scope.clone(), self.helper.clone());
        self.run(move |local| observe::observe_with(&helper, local, scope))?
    }

    async fn execute(&mut self, ops: &[BatchOp], done: Box<dyn Fn(usize) + Send>) -> Vec<Option<Outcome>> {
        let (count, ops, helper) = (ops.len(), ops.to_vec(), self.helper.clone());
        let done = move |local: &mut Local| {
            let outcomes = execute::execute(local, &helper, &ops, &done);
            (outcomes, std::mem::take(&mut local.replaced))
        };
        match self.run(done) {
            Ok((outcomes, replaced)) => {
                self.replaced.extend(replaced);
                outcomes
            }
            Err(errno) => vec![Some(Err(errno.into())); count],
        }
    }

    async fn notice(&mut self) -> Notice {
        match &mut self.watch {
            Some(watch) => watch.next().await,
            None => std::future::pending().await,
        }
    }

    fn heard(&mut self) -> Vec<Notice> {
        self.watch.as_mut().map(Watch::heard).unwrap_or_default()
    }

    fn watch(&mut self, namespaces: Vec<(Ns, bool)>) {
        if namespaces.is_empty() {
            return;
        }
        if let Err(error) = self.try_watch(namespaces) {
            tracing::warn!(%error, "nothing can be watched: changes by others are found only now and then");
        }
    }

    fn names(&mut self) -> Vec<String> {
        names::listed()
    }

    fn replaced_sysctls(&mut self) -> Vec<(Name, SysctlKey, String)> {
        std::mem::take(&mut self.replaced)
    }

    fn rest(&mut self) {
        // Asked for after each notice, most of which nothing was done for.
        if std::mem::take(&mut self.holds) {
            let _thread_gone = self.worker.run(Local::rest);
        }
    }
}
