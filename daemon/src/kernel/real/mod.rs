//! The real kernel: operations and observations over the `netnsd-netlink` crate.

mod announce;
mod execute;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod message;
mod observe;
mod parse;
pub(super) mod query;
#[cfg(test)]
mod tests;

use std::io;

use netnsd_api::{Name, SysctlKey};
use netnsd_netlink::{
    HelperThread, Monitor, NamespacePool, NamespaceSwitcher, netns::file::list_names,
};

pub(crate) use self::parse::protocol;
pub(super) use self::{observe::observe, parse::address_scope};
use super::{
    Announcement, BatchOp, Kernel, KernelError, KernelEvent, Observed, Outcome, Scope, WatchChange,
};

/// The kernel, as seen from the namespace that it was started in: the host's. Requests are handled
/// on the calling thread, with the help of another; nothing is awaited, so that the thread is in the
/// host's namespace whenever it does anything else.
#[derive(Debug)]
pub struct RealKernel {
    switcher: NamespaceSwitcher,
    helper: HelperThread,
    /// Namespaces that the helper thread creates for the next batch.
    pool: Option<NamespacePool>,
    /// `None` before a namespace is to be watched.
    monitor: Option<Monitor>,
    /// Previous values of the sysctls that were set.
    replaced_sysctls: Vec<(Name, SysctlKey, String)>,
}

impl RealKernel {
    /// Starts in the namespace of the calling thread, which must run a tokio runtime.
    ///
    /// # Errors
    /// If no thread can be started, or `/proc` is missing.
    pub fn start() -> io::Result<Self> {
        Ok(Self {
            switcher: NamespaceSwitcher::new()?,
            helper: HelperThread::start("netnsd-ns")?,
            pool: None,
            monitor: None,
            replaced_sysctls: Vec::new(),
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

impl Kernel for RealKernel {
    async fn observe(&mut self, scope: &Scope) -> Result<Observed, KernelError> {
        let helper = &self.helper;
        self.switcher
            .catch_panic(|switcher| observe::observe_with(helper, switcher, scope))?
    }

    fn prefetch_namespaces(&mut self, namespaces: usize) {
        self.pool = (namespaces > 0)
            .then(|| NamespacePool::request(&self.helper, namespaces.min(self.switcher.reserve())));
    }

    async fn execute(
        &mut self,
        ops: &[BatchOp],
        done: Box<dyn Fn(usize) + Send>,
    ) -> Vec<Option<Outcome>> {
        let ready = self.pool.take().map(NamespacePool::into_ready);
        self.switcher.set_ready(ready.unwrap_or_default());
        let (helper, replaced) = (&self.helper, &mut self.replaced_sysctls);
        let outcomes = self
            .switcher
            .catch_panic(|switcher| execute::execute(switcher, helper, ops, &done, replaced));
        outcomes.unwrap_or_else(|error| vec![Some(Err(error.into())); ops.len()])
    }

    async fn next_event(&mut self) -> KernelEvent {
        match &mut self.monitor {
            Some(monitor) => monitor.next_event().await,
            None => std::future::pending().await,
        }
    }

    fn drain_events(&mut self) -> Vec<KernelEvent> {
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

    fn list_netns_names(&mut self) -> Vec<String> {
        list_names()
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
        std::mem::take(&mut self.replaced_sysctls)
    }

    fn release_idle(&mut self) {
        self.pool = None;
        self.switcher.release();
    }
}
