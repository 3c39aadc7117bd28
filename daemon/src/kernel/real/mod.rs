//! The real kernel: rtnetlink connections, and a thread kept to help with going into namespaces.

mod announce;
mod channel;
mod ears;
mod execute;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod local;
mod look;
mod making;
mod message;
mod names;
mod news;
mod observe;
mod parse;
#[cfg(test)]
mod tests;
#[allow(unsafe_code, reason = "descriptors that are waited for")]
mod watch;
pub(crate) mod worker;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use netnsd_api::{Name, SysctlKey};

pub(crate) use self::parse::protocol;
pub(super) use self::{local::Local, observe::observe, parse::address_scope};
use self::{local::Open, watch::Watch, worker::Worker};
use super::{
    Announcement, BatchOp, Kernel, KernelEvent, Observed, OpError, Outcome, Scope, WatchChange,
};
pub(super) use netnsd_netlink::netns::file::list_names as listed;

/// The real kernel, as seen from the namespace that it was started in: the host's. What it is asked
/// for is done on the thread that asks, which another one helps; nothing is awaited, so that the
/// thread is at home again whenever others have it.
#[derive(Debug)]
pub struct RealKernel {
    local: Local,
    helper: Worker,
    /// Namespaces without a name that the other thread makes.
    expected: Option<Expected>,
    /// None before something is to be watched.
    watch: Option<Watch>,
}

impl RealKernel {
    /// Starts in the namespace of the calling thread, which must run a tokio runtime.
    ///
    /// # Errors
    /// When there is no thread, or no `/proc`.
    pub fn start() -> io::Result<Self> {
        let (local, helper) = (Local::here()?, Worker::start("netnsd-ns")?);
        Ok(Self {
            local,
            helper,
            expected: None,
            watch: None,
        })
    }

    fn try_watch(&mut self, changes: Vec<WatchChange>) -> io::Result<()> {
        let watch = &mut self.watch;
        self.local.safely(|local| {
            let watch = match watch {
                Some(watch) => watch,
                none => none.insert(Watch::start(local)?),
            };
            watch.change(local, changes);
            Ok(())
        })?
    }
}

/// Namespaces without a name in the making, while what they are for is being recorded.
#[derive(Debug)]
struct Expected {
    made: mpsc::Receiver<Open>,
    enough: Arc<AtomicBool>,
}

impl Expected {
    /// Has the other thread make as many as it can.
    fn begin(other: &Worker, most: usize) -> Self {
        let (give, made) = mpsc::channel();
        let enough = Arc::new(AtomicBool::new(false));
        let is_enough = enough.clone();
        other.begin(move |local| {
            for _ in 0..most {
                // Whoever needs one that is missing makes it, and hears why it cannot be made.
                let Ok(spare) = local.new_namespace() else {
                    break;
                };
                if give.send(spare).is_err() || is_enough.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        Self { made, enough }
    }

    /// Those that are made.
    fn end(self) -> Vec<Open> {
        self.enough.store(true, Ordering::Relaxed);
        self.made.iter().collect()
    }
}

impl Kernel for RealKernel {
    async fn observe(&mut self, scope: &Scope) -> Result<Observed, OpError> {
        self.local
            .safely(|local| observe::observe_with(&self.helper, local, scope))?
    }

    fn expect(&mut self, namespaces: usize) {
        self.expected = (namespaces > 0)
            .then(|| Expected::begin(&self.helper, namespaces.min(self.local.make_room())));
    }

    async fn execute(
        &mut self,
        ops: &[BatchOp],
        done: Box<dyn Fn(usize) + Send>,
    ) -> Vec<Option<Outcome>> {
        self.local.spares = self.expected.take().map(Expected::end).unwrap_or_default();
        let outcomes = self
            .local
            .safely(|local| execute::execute(local, &self.helper, ops, &done));
        outcomes.unwrap_or_else(|errno| vec![Some(Err(errno.into())); ops.len()])
    }

    async fn notice(&mut self) -> KernelEvent {
        match &mut self.watch {
            Some(watch) => watch.next().await,
            None => std::future::pending().await,
        }
    }

    fn heard(&mut self) -> Vec<KernelEvent> {
        self.watch.as_mut().map(Watch::heard).unwrap_or_default()
    }

    fn watch(&mut self, changes: Vec<WatchChange>) {
        if changes.is_empty() {
            return;
        }
        if let Err(error) = self.try_watch(changes) {
            tracing::warn!(%error, "nothing can be watched: changes by others are found only now and then");
        }
    }

    fn names(&mut self) -> Vec<String> {
        listed()
    }

    fn announce(&mut self, links: &[Announcement]) {
        for link in links {
            let sent = self.local.safely(|local| announce::announce(local, link));
            if let Err(errno) = sent.and_then(|sent| sent) {
                tracing::debug!(error = errno.desc(), namespace = %link.ns, link = link.name, "cannot announce addresses");
            }
        }
    }

    fn replaced_sysctls(&mut self) -> Vec<(Name, SysctlKey, String)> {
        std::mem::take(&mut self.local.replaced)
    }

    fn rest(&mut self) {
        self.expected = None;
        self.local.rest();
    }
}
