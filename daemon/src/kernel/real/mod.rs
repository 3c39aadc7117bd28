//! The real kernel: rtnetlink connections, and a thread kept for `setns`.

mod channel;
mod execute;
mod look;
mod message;
mod names;
mod observe;
mod parse;
#[cfg(test)]
mod tests;
mod watch;
pub(crate) mod worker;

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    sync::Arc,
};

use netnsd_api::{Name, SysctlKey};
use nix::{errno::Errno, sys::stat::fstat};
use rtnetlink::packet_route::{RouteNetlinkMessage, nsid::NsidAttribute};

pub(super) use self::parse::protocol;
use self::{
    channel::Channel,
    watch::Watch,
    worker::{Pinned, Worker},
};
use super::{BatchOp, Kernel, Notice, Ns, Observed, OpError, Outcome, Scope};

/// The real kernel, as seen from the namespace that it was started in: the host's.
#[derive(Debug)]
pub struct RealKernel {
    worker: Worker,
    host: Arc<OwnedFd>,
    /// Connections of the work at hand. A connection keeps its namespace alive, so none is kept longer ([`Kernel::rest`]).
    open: BTreeMap<Ns, Open>,
    replaced: Vec<(Name, SysctlKey, String)>,
    /// None before something is to be watched.
    watch: Option<Watch>,
}

/// A namespace that is in use.
#[derive(Debug)]
struct Open {
    channel: Channel,
    ns: Arc<OwnedFd>,
}

impl RealKernel {
    /// Starts in the namespace of the calling thread, which must run a tokio runtime.
    ///
    /// # Errors
    /// When there is no thread, or no `/proc`.
    pub fn start() -> io::Result<Self> {
        let host = Arc::new(OwnedFd::from(File::open("/proc/thread-self/ns/net")?));
        Ok(Self { worker: Worker::start("netnsd-ns")?, host, open: BTreeMap::new(), replaced: Vec::new(), watch: None })
    }

    /// The connection into a namespace. The answer is none if there is no such namespace.
    fn channel(&mut self, ns: &Ns) -> Result<Option<&Open>, Errno> {
        let found = match ns {
            Ns::Host => self.host.clone(),
            Ns::Named(name) => match worker::pinned(name.as_str())? {
                Pinned::Namespace(fd) => Arc::new(fd),
                Pinned::Nothing | Pinned::Stale => {
                    self.open.remove(ns);
                    return Ok(None);
                }
            },
        };
        let inode = fstat(&*found)?.st_ino;
        if self.open.get(ns).is_none_or(|open| open.channel.inode != inode || open.channel.is_broken()) {
            let channel = Channel::open(&self.worker, found.clone(), inode)?;
            self.open.insert(ns.clone(), Open { channel, ns: found });
        }
        Ok(self.open.get(ns))
    }

    /// The connection into a namespace that must be there.
    fn reach(&mut self, ns: &Ns) -> Result<&Open, OpError> {
        // What was opened for this work is as good: nothing but this kernel's own operations changes what a name means.
        if self.open.get(ns).is_none_or(|open| open.channel.is_broken()) {
            self.channel(ns)?;
        }
        let missing = || OpError { errno: Errno::ENOENT, message: Some(format!("{ns} is not there")) };
        self.open.get(ns).ok_or_else(missing)
    }

    fn try_watch(&mut self, ns: &Ns, on: bool) -> io::Result<()> {
        if self.watch.is_none() {
            self.watch = Some(Watch::start()?);
        }
        let found = if on { self.channel(ns)?.map(|open| (open.ns.clone(), open.channel.inode)) } else { None };
        let Some(watch) = &mut self.watch else { return Ok(()) };
        match found {
            Some((file, inode)) => watch.listen(&self.worker, ns, file, inode)?,
            None => watch.leave(ns),
        }
        Ok(())
    }

    /// A namespace's id as seen from another one.
    async fn netnsid(&mut self, from: &Ns, ns: RawFd) -> Result<Option<u32>, OpError> {
        let answers = self.reach(from)?.channel.get(message::get_nsid(ns)).answer().await?;
        let id = answers.iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewNsId(nsid) => nsid.attributes.iter().find_map(|attribute| match attribute {
                NsidAttribute::Id(id) => u32::try_from(*id).ok(),
                _ => None,
            }),
            _ => None,
        });
        Ok(id)
    }
}

impl Open {
    fn raw(&self) -> RawFd {
        self.ns.as_fd().as_raw_fd()
    }
}

impl Kernel for RealKernel {
    async fn observe(&mut self, scope: &Scope) -> Result<Observed, OpError> {
        observe::observe(self, scope).await
    }

    async fn execute(&mut self, ops: &[BatchOp], done: &dyn Fn(usize)) -> Vec<Option<Outcome>> {
        execute::execute(self, ops, done).await
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

    fn watch(&mut self, ns: &Ns, on: bool) {
        if let Err(error) = self.try_watch(ns, on) {
            tracing::warn!(%ns, %error, "cannot be watched: changes by others are found only now and then");
        }
    }

    fn names(&mut self) -> Vec<String> {
        names::listed()
    }

    fn replaced_sysctls(&mut self) -> Vec<(Name, SysctlKey, String)> {
        std::mem::take(&mut self.replaced)
    }

    fn rest(&mut self) {
        self.open.clear();
    }
}
