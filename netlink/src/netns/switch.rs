//! Entering other namespaces, and returning to the host's.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
};

use netnsd_api::Name;
use nix::{
    errno::Errno,
    sched::{CloneFlags, setns, unshare},
    sys::{
        resource::{Resource, getrlimit},
        stat::fstat,
    },
};
use rtnetlink::packet_route::RouteNetlinkMessage;

use super::{
    file::{NetnsFile, StalePin, THREAD_NETNS, open_netns},
    pool::BatchCreation,
};
use crate::{Error, Ns, errno_of, helper_thread::HelperThread, socket::RouteSocket};

/// An open namespace: its file, and the sockets in it.
#[derive(Debug)]
pub struct NsConnection {
    /// Socket for rtnetlink(7).
    pub route: RouteSocket,
    /// File of the namespace.
    pub ns: OwnedFd,
    /// Inode number of the file.
    pub inode: u64,
}

impl NsConnection {
    fn new(route: RouteSocket, ns: OwnedFd) -> Result<Self, Errno> {
        Ok(Self {
            route,
            inode: fstat(&ns)?.st_ino,
            ns,
        })
    }

    /// Returns the descriptor of the namespace's file.
    pub fn as_raw_ns(&self) -> RawFd {
        self.ns.as_raw_fd()
    }
}

/// A name in `/run/netns`, with a connection if it pins a namespace.
#[derive(Debug)]
pub enum CurrentNs<'s> {
    /// There is no such name.
    Missing,
    /// The file pins no namespace.
    Stale(StalePin),
    /// A connection into the namespace.
    Open(&'s NsConnection),
}

/// Enters namespaces on behalf of one thread, which is in the host's namespace whenever no method
/// runs, and caches connections for the work at hand.
///
/// A connection keeps its namespace alive: [`NamespaceSwitcher::release`] after the work.
#[derive(Debug)]
pub struct NamespaceSwitcher {
    host: OwnedFd,
    connections: BTreeMap<Ns, NsConnection>,
    /// Largest number of cached connections.
    max_connections: usize,
    /// Namespaces that the batch at hand creates in the meantime.
    creation: Option<BatchCreation>,
    /// Namespaces without a name, for the next ones to be created.
    ready: Vec<NsConnection>,
}

impl NamespaceSwitcher {
    /// Creates a switcher for the calling thread, whose namespace is the host's from now on.
    ///
    /// # Errors
    /// If `/proc` is missing.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            host: File::open(THREAD_NETNS)?.into(),
            connections: BTreeMap::new(),
            max_connections: max_connections(),
            creation: None,
            ready: Vec::new(),
        })
    }

    /// Returns the file of the host's namespace.
    pub fn host(&self) -> BorrowedFd<'_> {
        self.host.as_fd()
    }

    /// Runs a job, and is back in the host's namespace also if it panics.
    ///
    /// # Errors
    /// If the job panicked.
    pub fn catch_panic<R>(&mut self, job: impl FnOnce(&mut Self) -> R) -> Result<R, Error> {
        catch_unwind(AssertUnwindSafe(|| job(self))).map_err(|_| {
            self.release();
            self.restore_host_ns_after(|| ());
            Error::Panicked
        })
    }

    /// Runs a job that enters other namespaces, and returns to the host's: a thread keeps the
    /// namespace alive that it is in.
    pub fn restore_host_ns_after<R>(&self, job: impl FnOnce() -> R) -> R {
        let result = job();
        if let Err(errno) = setns(&self.host, CloneFlags::CLONE_NEWNET) {
            tracing::error!(
                error = errno.desc(),
                "cannot return to the host's network namespace"
            );
        }
        result
    }

    /// Runs a job inside a namespace (setns(2)).
    ///
    /// # Errors
    /// Those of the job and of setns(2).
    pub fn run_in<R, E: From<Errno>>(
        &self,
        ns: impl AsFd,
        job: impl FnOnce() -> Result<R, E>,
    ) -> Result<R, E> {
        self.restore_host_ns_after(|| {
            setns(ns.as_fd(), CloneFlags::CLONE_NEWNET)?;
            job()
        })
    }

    /// Runs a job inside a new namespace that nothing else sees (unshare(2)).
    ///
    /// # Errors
    /// Those of the job and of unshare(2).
    pub fn run_in_new<R, E: From<Errno>>(
        &self,
        job: impl FnOnce() -> Result<R, E>,
    ) -> Result<R, E> {
        self.restore_host_ns_after(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            job()
        })
    }

    /// Opens a connection into a namespace.
    ///
    /// # Errors
    /// Those of setns(2), such as EINVAL for another kind of namespace, and socket(2).
    pub fn connect(&self, ns: OwnedFd) -> Result<NsConnection, Errno> {
        NsConnection::new(self.run_in(&ns, RouteSocket::open)?, ns)
    }

    /// Creates a namespace without a name, or takes one that is ready.
    ///
    /// # Errors
    /// Those of unshare(2) and socket(2).
    pub fn new_namespace(&mut self) -> Result<NsConnection, Errno> {
        match self.ready.pop() {
            Some(ready) => Ok(ready),
            None => self.run_in_new(|| {
                let route = RouteSocket::open()?;
                let ns = File::open(THREAD_NETNS).map_err(|error| errno_of(&error))?;
                NsConnection::new(route, ns.into())
            }),
        }
    }

    /// Sets the namespaces that [`NamespaceSwitcher::new_namespace`] takes first.
    pub fn set_ready(&mut self, ready: Vec<NsConnection>) {
        self.ready = ready;
    }

    /// Caches a connection for the work at hand.
    pub fn cache(&mut self, ns: Ns, connection: NsConnection) {
        self.connections.insert(ns, connection);
    }

    /// Opens the file that a name stands for now.
    ///
    /// # Errors
    /// If the file exists and cannot be opened.
    pub fn open(&self, ns: &Ns) -> Result<NetnsFile, Errno> {
        match ns {
            Ns::Host => self
                .host
                .try_clone()
                .map(NetnsFile::Namespace)
                .map_err(|error| errno_of(&error)),
            Ns::Named(name) => open_netns(name.as_str()),
        }
    }

    /// Looks up what a name stands for now, and connects to it.
    ///
    /// # Errors
    /// Those of [`NamespaceSwitcher::connect`].
    pub fn lookup(&mut self, ns: &Ns) -> Result<CurrentNs<'_>, Errno> {
        // The host's namespace is always the same one.
        if *ns != Ns::Host || !self.connections.contains_key(ns) {
            match self.open(ns)? {
                NetnsFile::Namespace(file) => {
                    let inode = fstat(&file)?.st_ino;
                    let known = self.connections.get(ns);
                    if known.is_none_or(|known| known.inode != inode) {
                        let connection = self.connect(file)?;
                        self.connections.insert(ns.clone(), connection);
                    }
                }
                NetnsFile::Stale(stale) => {
                    self.connections.remove(ns);
                    return Ok(CurrentNs::Stale(stale));
                }
                NetnsFile::Missing => {
                    self.connections.remove(ns);
                    return Ok(CurrentNs::Missing);
                }
            }
        }
        Ok(self
            .connections
            .get(ns)
            .map_or(CurrentNs::Missing, CurrentNs::Open))
    }

    /// Connects to what a name stands for now; `None` if it pins no namespace.
    ///
    /// # Errors
    /// Those of [`NamespaceSwitcher::connect`].
    pub fn try_connection(&mut self, ns: &Ns) -> Result<Option<&NsConnection>, Errno> {
        Ok(match self.lookup(ns)? {
            CurrentNs::Open(connection) => Some(connection),
            CurrentNs::Missing | CurrentNs::Stale(_) => None,
        })
    }

    /// Returns the connection into a namespace that must exist. One that is being created is waited
    /// for.
    ///
    /// # Errors
    /// If the namespace does not exist, or could not be created.
    pub fn connection(&mut self, ns: &Ns) -> Result<&NsConnection, Error> {
        while self
            .creation
            .as_ref()
            .is_some_and(|creation| creation.is_pending(ns))
        {
            self.advance_creation();
        }
        if let Some(error) = self
            .creation
            .as_ref()
            .and_then(|creation| creation.failed(ns))
        {
            return Err(error);
        }
        // A cached connection is right: only this kernel's own operations change, while they are
        // done, what a name stands for.
        if !self.connections.contains_key(ns) {
            self.try_connection(ns)?;
        }
        self.connections
            .get(ns)
            .ok_or_else(|| Error::NoSuchNamespace(ns.clone()))
    }

    /// Begins to create namespaces on both threads; [`NamespaceSwitcher::connection`] waits for
    /// those that are asked for.
    pub fn begin_creation(&mut self, helper: &HelperThread, new: Vec<(Name, String)>) {
        for (name, _) in &new {
            self.forget(&Ns::Named(name.clone()));
        }
        self.creation = Some(BatchCreation::begin(helper, new));
        while !self.ready.is_empty() && self.pending_creations() > 0 {
            self.advance_creation();
        }
    }

    fn advance_creation(&mut self) {
        // Taken out meanwhile: creating a namespace waits for no other one.
        let Some(mut creation) = self.creation.take() else {
            return;
        };
        if let Some((ns, connection)) = creation.advance(self) {
            self.cache(ns, connection);
        }
        self.creation = Some(creation);
    }

    /// Returns the number of namespaces that are still to be created.
    pub fn pending_creations(&self) -> usize {
        self.creation.as_ref().map_or(0, BatchCreation::pending)
    }

    /// Waits for the namespaces that are being created. Returns the outcome of each, in order.
    pub fn finish_creation(&mut self) -> Vec<Result<(), Error>> {
        while self.pending_creations() > 0 {
            self.advance_creation();
        }
        self.creation
            .take()
            .map(BatchCreation::into_outcomes)
            .unwrap_or_default()
    }

    /// Sends one change into a namespace.
    ///
    /// # Errors
    /// If the namespace does not exist, or the kernel refuses the change.
    pub fn send(&mut self, ns: &Ns, message: RouteNetlinkMessage, flags: u16) -> Result<(), Error> {
        self.connection(ns)?.route.send(message, flags)
    }

    /// Drops the cached connection of a name.
    pub fn forget(&mut self, ns: &Ns) {
        self.connections.remove(ns);
    }

    /// Returns the id of a namespace as seen from another one.
    ///
    /// # Errors
    /// If `from` does not exist, or the kernel refuses the request.
    pub fn netnsid(&mut self, from: &Ns, ns: RawFd) -> Result<Option<u32>, Error> {
        self.connection(from)?.route.netnsid(ns)
    }

    /// Drops all cached connections if the cache is full. Returns the room that is left.
    pub fn reserve(&mut self) -> usize {
        if self.connections.len() >= self.max_connections {
            self.connections.clear();
        }
        self.max_connections - self.connections.len()
    }

    /// Closes every connection.
    pub fn release(&mut self) {
        self.creation = None;
        self.ready.clear();
        self.connections.clear();
        self.max_connections = max_connections();
    }
}

/// Returns the largest number of connections to cache: each takes two descriptors on each of two
/// threads, and all together take a quarter of the limit (`RLIMIT_NOFILE`).
fn max_connections() -> usize {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    usize::try_from(limit / 16).unwrap_or(usize::MAX).max(16)
}
