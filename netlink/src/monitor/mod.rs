//! Monitor of changes that others make: notifications of namespaces, names in
//! `/run/netns`, mounts.
//!
//! The engine's thread waits for one epoll descriptor over names and socket. Mounts are waited for
//! beside it: poll(2) reports each change of them only once, and a nested poll would swallow it.

pub mod classify;
pub mod event;
mod netns_dir;
mod socket;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, VecDeque},
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};
use tokio::io::{Interest, unix::AsyncFd};

use self::{netns_dir::NetnsDirWatch, socket::NetlinkMonitor};
use crate::{
    Error, KernelEvent, Ns, NsChange, WatchChange,
    helper_thread::MIN_SHARED_ITEMS,
    netns::{file::RUN_DIR, switch::NamespaceSwitcher},
};

/// Epoll token of the watch of `/run/netns`.
const NETNS_DIR: u64 = 0;
/// Epoll token of the multicast socket.
const SOCKET: u64 = 1;

/// Everything that is watched.
#[derive(Debug)]
pub struct Monitor {
    epoll: AsyncFd<PolledEpoll>,
    /// `None` if `/run/netns` cannot be watched.
    netns_dir: Option<NetnsDirWatch>,
    /// `/proc/self/mountinfo`, which is only polled: an unmount removes a namespace's name.
    mounts: AsyncFd<File>,
    socket: NetlinkMonitor,
    /// Events that were read and not reported yet.
    events: VecDeque<KernelEvent>,
    /// Changes that were read and not reported yet; one that repeats is reported once.
    changes: BTreeSet<(Ns, NsChange)>,
}

#[derive(Debug)]
struct PolledEpoll(Epoll);

impl AsRawFd for PolledEpoll {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

impl AsFd for PolledEpoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

impl Monitor {
    /// Starts to watch names and mounts. A tokio runtime must be running.
    ///
    /// # Errors
    /// Those of the system calls behind it.
    #[allow(unsafe_code, reason = "descriptors that are registered with tokio")]
    pub fn start(switcher: &NamespaceSwitcher) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let socket = NetlinkMonitor::open(switcher)?;
        epoll.add(&socket.socket, EpollEvent::new(EpollFlags::EPOLLIN, SOCKET))?;
        let mounts = File::open("/proc/self/mountinfo")?;
        // SAFETY: a `File` owns its descriptor, never gives it away here, and always returns the
        // same one.
        let mounts = unsafe { AsyncFd::register_with_interest(mounts, Interest::PRIORITY)? };
        // SAFETY: `PolledEpoll` owns its descriptor, never gives it away, and always returns the
        // same one.
        let epoll = unsafe { AsyncFd::register(PolledEpoll(epoll))? };
        let mut monitor = Self {
            epoll,
            netns_dir: None,
            mounts,
            socket,
            events: VecDeque::new(),
            changes: BTreeSet::new(),
        };
        monitor.watch_netns_dir();
        Ok(monitor)
    }

    fn epoll(&self) -> &Epoll {
        &self.epoll.get_ref().0
    }

    fn watch_netns_dir(&mut self) {
        let started = NetnsDirWatch::start().and_then(|watch| {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, NETNS_DIR);
            self.epoll().add(&watch, event)?;
            Ok(watch)
        });
        match started {
            Ok(watch) => self.netns_dir = Some(watch),
            Err(errno) => tracing::warn!(
                error = errno.desc(),
                path = RUN_DIR,
                "cannot watch a directory; falling back to periodic scans"
            ),
        }
    }

    /// Changes which namespaces are watched.
    pub fn update(&mut self, switcher: &NamespaceSwitcher, changes: Vec<WatchChange>) {
        let before = self.socket.count();
        for change in &changes {
            if let WatchChange::Remove(ns) = change {
                self.socket.unsubscribe(ns);
            }
        }
        let removed = before - self.socket.count();
        if removed >= MIN_SHARED_ITEMS && removed > self.socket.count() {
            // Their deletion would send as many notifications for nothing.
            if let Err(error) = self.reopen_socket(switcher) {
                tracing::debug!(%error, "cannot reopen the netlink monitor");
            }
        }

        for change in changes {
            let WatchChange::Add { ns, inode } = change else {
                continue;
            };
            // Usually each is watched already, and there are many.
            if inode.is_some() && inode == self.socket.inode(&ns) {
                continue;
            }
            if let Err(error) = self.socket.subscribe(switcher, &ns) {
                tracing::warn!(
                    %error,
                    namespace = %ns,
                    "cannot watch a namespace; falling back to periodic scans"
                );
            }
        }
    }

    fn reopen_socket(&mut self, switcher: &NamespaceSwitcher) -> Result<(), Error> {
        let socket = self.socket.reopen(switcher)?;
        self.epoll()
            .add(&socket.socket, EpollEvent::new(EpollFlags::EPOLLIN, SOCKET))?;
        self.socket.read_events(&mut self.changes);
        self.socket = socket;
        Ok(())
    }

    /// Waits for the next event. It may be dropped while it waits: no event is lost.
    pub async fn next_event(&mut self) -> KernelEvent {
        loop {
            if let Some(event) = self.pop_event() {
                return event;
            }
            tokio::select! {
                Ok(mut ready) = self.epoll.readable() => {
                    ready.clear_ready();
                    self.read_ready();
                }
                Ok(mut ready) = self.mounts.ready(Interest::PRIORITY) => {
                    ready.clear_ready();
                    self.socket.check_names(&mut self.changes);
                }
                else => std::future::pending().await,
            }
        }
    }

    fn pop_event(&mut self) -> Option<KernelEvent> {
        self.events.pop_front().or_else(|| {
            let (ns, change) = self.changes.pop_first()?;
            Some(KernelEvent::Changed(ns, change))
        })
    }

    /// Returns the events up to now, after changes of the daemon's own: changes of mounts among
    /// those are ignored.
    pub fn drain_events(&mut self) -> Vec<KernelEvent> {
        self.read_ready();
        let mut mounts = [PollFd::new(self.mounts.as_fd(), PollFlags::POLLPRI)];
        let _ = poll(&mut mounts, PollTimeout::ZERO); // reported once: this swallows it
        std::iter::from_fn(|| self.pop_event()).collect()
    }

    fn read_ready(&mut self) {
        let mut events = [EpollEvent::empty(); 2];
        loop {
            let count = match self.epoll().wait(&mut events, EpollTimeout::ZERO) {
                Ok(0) => return,
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(errno) => {
                    return tracing::error!(error = errno.desc(), "cannot wait for notifications");
                }
            };
            for event in &events[..count] {
                match event.data() {
                    NETNS_DIR => self.read_netns_dir(),
                    _ => self.socket.read_events(&mut self.changes),
                }
            }
        }
    }

    fn read_netns_dir(&mut self) {
        let Some(watch) = &mut self.netns_dir else {
            return;
        };
        if let Err(errno) = watch.read_events(&mut self.events) {
            tracing::warn!(
                error = errno.desc(),
                path = RUN_DIR,
                "lost the watch of a directory; watching it again"
            );
            self.netns_dir = None;
            self.watch_netns_dir();
            self.events.push_back(KernelEvent::NamesLost);
        }
    }
}
