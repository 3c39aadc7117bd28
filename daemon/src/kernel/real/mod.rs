//! The real kernel: rtnetlink connections, and a thread kept to help with going into namespaces.

mod announce;
mod channel;
mod execute;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod local;
mod look;
mod making;
mod message;
mod observe;
mod parse;
#[cfg(test)]
mod tests;
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
use nix::errno::Errno;

pub(crate) use self::parse::protocol;
pub(super) use self::{local::Local, observe::observe, parse::address_scope};
use self::{local::Open, worker::Worker};
use super::{
    Announcement, BatchOp, Kernel, KernelEvent, Observed, OpError, Outcome, Scope, WatchChange,
};
pub(super) use netnsd_netlink::netns::file::list_names as listed;
use netnsd_netlink::{Error, Monitor, NamespaceSwitcher};

/// The real kernel, as seen from the namespace that it was started in: the host's. What it is asked
/// for is done on the thread that asks, which another one helps; nothing is awaited, so that the
/// thread is at home again whenever others have it.
#[derive(Debug)]
pub struct RealKernel {
    local: Local,
    switcher: NamespaceSwitcher,
    helper: Worker,
    /// Namespaces without a name that the other thread makes.
    expected: Option<Expected>,
    /// `None` before a namespace is to be watched.
    monitor: Option<Monitor>,
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
            switcher: NamespaceSwitcher::new()?,
            helper,
            expected: None,
            monitor: None,
        })
    }

    fn try_watch(&mut self, changes: Vec<WatchChange>) -> io::Result<()> {
        let monitor = &mut self.monitor;
        self.switcher.catch_panic(|switcher| {
            let monitor = match monitor {
                Some(monitor) => monitor,
                none => none.insert(Monitor::start(switcher)?),
            };
            monitor.update(switcher, changes);
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
        match &mut self.monitor {
            Some(monitor) => monitor.next_event().await,
            None => std::future::pending().await,
        }
    }

    fn heard(&mut self) -> Vec<KernelEvent> {
        self.monitor
            .as_mut()
            .map(Monitor::drain_events)
            .unwrap_or_default()
    }

    fn watch(&mut self, changes: Vec<WatchChange>) {
        if changes.is_empty() {
            return;
        }
        if let Err(error) = self.try_watch(changes) {
            tracing::warn!(%error, "cannot watch namespaces; falling back to periodic scans");
        }
    }

    fn names(&mut self) -> Vec<String> {
        listed()
    }

    fn announce(&mut self, links: &[Announcement]) {
        for link in links {
            let sent = self
                .switcher
                .catch_panic(|switcher| announce::announce(switcher, link));
            if let Err(error) = sent.and_then(|sent| sent) {
                tracing::debug!(
                    %error,
                    namespace = %link.ns,
                    link = link.name,
                    "cannot announce addresses"
                );
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

/// Keeps the error numbers that answers have always had, also for what the kernel did not say.
impl From<Error> for OpError {
    fn from(error: Error) -> Self {
        let errno = match &error {
            Error::Kernel { errno, .. } => *errno,
            Error::DumpInterrupted | Error::NamespacesChanged => Errno::EAGAIN,
            Error::AnswerLost => Errno::ENOBUFS,
            Error::TruncatedAnswer => Errno::EMSGSIZE,
            Error::InvalidAnswer => Errno::EBADMSG,
            Error::NoSuchNamespace(_) => Errno::ENOENT,
            Error::NameInUse => Errno::EEXIST,
            Error::RunDirBlocked => Errno::ENOTDIR,
            Error::Panicked => Errno::ESRCH,
            Error::IdsExhausted => Errno::EOVERFLOW,
        };
        let message = match error {
            Error::Kernel { message, .. } => message,
            Error::NoSuchNamespace(_) | Error::RunDirBlocked => Some(error.to_string()),
            Error::DumpInterrupted
            | Error::AnswerLost
            | Error::TruncatedAnswer
            | Error::InvalidAnswer
            | Error::NameInUse
            | Error::NamespacesChanged
            | Error::Panicked
            | Error::IdsExhausted => None,
        };
        Self { errno, message }
    }
}
