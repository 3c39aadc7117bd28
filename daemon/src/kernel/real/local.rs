//! The kernel as a thread sees it that is kept for going into namespaces.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use netnsd_api::{Name, SysctlKey};
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
    channel::Channel,
    execute::ID_WAIT,
    making::{Making, New},
    worker::{self, Pinned, Worker},
};
use crate::kernel::{Ns, OpError, Outcome, StalePin, ownership};

/// What such a thread holds. Everything that it does ends in the namespace in which it was started:
/// the host's.
#[derive(Debug)]
pub(in crate::kernel) struct Local {
    pub(super) host: OwnedFd,
    /// Connections of the work at hand. A connection keeps its namespace alive, so none is kept
    /// longer ([`Local::rest`]).
    open: BTreeMap<Ns, Open>,
    /// How many of them there may be at once.
    most: usize,
    /// Namespaces that the work at hand makes, while it goes on.
    making: Option<Making>,
    /// Namespaces without a name, for those that are made next.
    pub(super) spares: Vec<Open>,
    /// What sysctls were before they were set.
    pub(super) replaced: Vec<(Name, SysctlKey, String)>,
    /// How long the batch at hand may still wait for ids of deleted namespaces.
    pub(super) id_wait: Duration,
}

/// A namespace that is in use.
#[derive(Debug)]
pub(super) struct Open {
    pub channel: Channel,
    pub ns: OwnedFd,
    pub inode: u64,
}

/// What a name in `/run/netns` means.
pub(super) enum Place<'l> {
    /// There is none.
    Nothing,
    /// Something that pins nothing (any more).
    Stale(StalePin),
    /// A namespace.
    There(&'l Open),
}

impl Open {
    /// Of a connection into this namespace.
    pub fn new(channel: Channel, ns: OwnedFd) -> Result<Self, Errno> {
        Ok(Self {
            channel,
            inode: fstat(&ns)?.st_ino,
            ns,
        })
    }

    pub fn raw(&self) -> RawFd {
        self.ns.as_raw_fd()
    }
}

impl Local {
    /// Of the calling thread, in the namespace that it is in.
    ///
    /// # Errors
    /// When there is no `/proc`.
    pub fn here() -> io::Result<Self> {
        let host = File::open(worker::HERE)?.into();
        Ok(Self {
            host,
            open: BTreeMap::new(),
            most: most(),
            making: None,
            spares: Vec::new(),
            replaced: Vec::new(),
            id_wait: ID_WAIT,
        })
    }

    /// Does something, and is at home again also when that panics: whoever asked hears that there
    /// is no answer (ESRCH).
    pub(super) fn safely<R>(&mut self, job: impl FnOnce(&mut Self) -> R) -> Result<R, Errno> {
        catch_unwind(AssertUnwindSafe(|| job(self))).map_err(|_| {
            self.rest();
            self.away(|| ());
            Errno::ESRCH
        })
    }

    /// Does something that goes into other namespaces, and comes back: a thread keeps alive the one
    /// that it is in.
    pub(super) fn away<R>(&self, job: impl FnOnce() -> R) -> R {
        let result = job();
        if let Err(errno) = setns(&self.host, CloneFlags::CLONE_NEWNET) {
            tracing::error!(
                error = errno.desc(),
                "cannot go back into the host's namespace"
            );
        }
        result
    }

    /// Does something inside a namespace.
    pub(super) fn within<R>(
        &self,
        ns: impl AsFd,
        job: impl FnOnce() -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        self.away(|| {
            setns(ns.as_fd(), CloneFlags::CLONE_NEWNET)?;
            job()
        })
    }

    /// Opens a connection into a namespace.
    pub(super) fn open(&self, ns: OwnedFd) -> Result<Open, Errno> {
        Open::new(self.within(&ns, Channel::open)?, ns)
    }

    /// A new namespace, without a name.
    pub(super) fn new_namespace(&mut self) -> Result<Open, Errno> {
        match self.spares.pop() {
            Some(spare) => Ok(spare),
            None => self.away(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                Open::new(
                    Channel::open()?,
                    File::open(worker::HERE)
                        .map_err(|error| worker::errno(&error))?
                        .into(),
                )
            }),
        }
    }

    /// Keeps a connection that was opened inside for the work at hand.
    pub(super) fn hold(&mut self, ns: Ns, open: Open) {
        self.open.insert(ns, open);
    }

    /// What a namespace's name means now.
    pub(super) fn pinned(&self, ns: &Ns) -> Result<Pinned, Errno> {
        match ns {
            Ns::Host => self
                .host
                .try_clone()
                .map(Pinned::Namespace)
                .map_err(|error| worker::errno(&error)),
            Ns::Named(name) => worker::pinned(name.as_str()),
        }
    }

    /// What a namespace's name means now, with a connection into it.
    pub(super) fn find(&mut self, ns: &Ns) -> Result<Place<'_>, Errno> {
        // The host's is always the same one.
        if *ns != Ns::Host || !self.open.contains_key(ns) {
            match self.pinned(ns)? {
                Pinned::Namespace(found) => {
                    let inode = fstat(&found)?.st_ino;
                    if self.open.get(ns).is_none_or(|open| open.inode != inode) {
                        let open = self.open(found)?;
                        self.open.insert(ns.clone(), open);
                    }
                }
                Pinned::Stale(stale) => {
                    self.open.remove(ns);
                    return Ok(Place::Stale(stale));
                }
                Pinned::Missing => {
                    self.open.remove(ns);
                    return Ok(Place::Nothing);
                }
            }
        }
        Ok(self.open.get(ns).map_or(Place::Nothing, Place::There))
    }

    /// The connection into a namespace. The answer is none if there is no such namespace.
    pub(super) fn channel(&mut self, ns: &Ns) -> Result<Option<&Open>, Errno> {
        Ok(match self.find(ns)? {
            Place::There(open) => Some(open),
            Place::Nothing | Place::Stale(_) => None,
        })
    }

    /// The connection into a namespace that must be there.
    pub(super) fn reach(&mut self, ns: &Ns) -> Result<&Open, OpError> {
        while self.making.as_ref().is_some_and(|making| making.lacks(ns)) {
            self.go_on_making();
        }
        if let Some(error) = self.making.as_ref().and_then(|making| making.refusal(ns)) {
            return Err(error);
        }
        // What was opened for this work is as good: nothing but this kernel's own operations
        // changes what a name means.
        if !self.open.contains_key(ns) {
            self.channel(ns)?;
        }
        let missing = || OpError {
            errno: Errno::ENOENT,
            message: Some(format!("{ns} is not there")),
        };
        self.open.get(ns).ok_or_else(missing)
    }

    /// Has namespaces made while other things are done; whoever reaches for one waits for it.
    pub(super) fn begin_making(&mut self, other: &Worker, new: Vec<New>) {
        self.making = Some(Making::begin(other, new));
        while !self.spares.is_empty() && self.unmade() > 0 {
            self.go_on_making();
        }
    }

    fn go_on_making(&mut self) {
        // Not there meanwhile: what makes a namespace waits for none.
        let Some(mut making) = self.making.take() else {
            return;
        };
        if let Some((ns, open)) = making.go_on(self) {
            self.hold(ns, open);
        }
        self.making = Some(making);
    }

    /// How many namespaces are still in the making.
    pub(super) fn unmade(&self) -> usize {
        self.making.as_ref().map_or(0, Making::left)
    }

    /// Waits for the namespaces in the making; what came of each.
    pub(super) fn finish_making(&mut self) -> Vec<Outcome> {
        while self.unmade() > 0 {
            self.go_on_making();
        }
        self.making
            .take()
            .map(Making::into_outcomes)
            .unwrap_or_default()
    }

    /// Makes one change in a namespace.
    pub(super) fn change(&mut self, ns: &Ns, message: RouteNetlinkMessage, flags: u16) -> Outcome {
        self.reach(ns)?.channel.change(message, flags)
    }

    /// Returns the name that a namespace has besides this one: the host's own has none in
    /// `/run/netns`, and netnsd pins each under one name, which its owner tag tells.
    pub(super) fn alias_of(
        &self,
        inode: u64,
        name: &Name,
        owner_tag: Option<&str>,
    ) -> Result<Option<Ns>, Errno> {
        if fstat(&self.host)?.st_ino == inode {
            return Ok(Some(Ns::Host));
        }
        let Some((owner, _)) = owner_tag
            .and_then(ownership::parse)
            .filter(|(owner, _)| owner.name != *name)
        else {
            return Ok(None);
        };
        Ok(match worker::pinned(owner.name.as_str())? {
            Pinned::Namespace(other) if fstat(&other)?.st_ino == inode => {
                Some(Ns::Named(owner.name))
            }
            _ => None,
        })
    }

    /// Forgets what a name meant.
    pub(super) fn forget(&mut self, ns: &Ns) {
        self.open.remove(ns);
    }

    /// A namespace's id as seen from another one.
    pub(super) fn netnsid(&mut self, from: &Ns, ns: RawFd) -> Result<Option<u32>, OpError> {
        self.reach(from)?.channel.netnsid(ns)
    }

    /// Makes room for more connections, where there are many: the next ones are opened anew. For
    /// how many there is room.
    pub(super) fn make_room(&mut self) -> usize {
        if self.open.len() >= self.most {
            self.open.clear();
        }
        self.most - self.open.len()
    }

    /// Lets go of every connection.
    pub fn rest(&mut self) {
        self.making = None;
        self.spares.clear();
        self.open.clear();
        self.most = most();
    }
}

/// How many connections may be open at once: each is two descriptors, of each of two threads, and
/// all together are a quarter of the limit (`RLIMIT_NOFILE`).
fn most() -> usize {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    usize::try_from(limit / 16).unwrap_or(usize::MAX).max(16)
}
