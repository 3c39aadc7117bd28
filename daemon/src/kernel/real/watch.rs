//! Waiting for what others do: what namespaces say ([`Ears`]), names, mounts.
//!
//! One epoll descriptor over names and the socket is what the engine's thread waits for; mounts are
//! waited for beside it, because polling tells of each change of them once only, and a nested poll
//! would swallow it.

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

use super::{ears::Ears, local::Local, names::Names, worker};
use crate::kernel::{KernelEvent, Ns, NsChange, WatchChange};

/// Tokens of the names and of the namespaces.
const NAMES: u64 = 0;
const NAMESPACES: u64 = 1;

/// Everything that is listened to.
#[derive(Debug)]
pub(super) struct Watch {
    epoll: AsyncFd<Polled>,
    names: Option<Names>,
    /// `/proc/self/mountinfo`, which is only waited for: a mount that goes takes a namespace's name
    /// away.
    mounts: AsyncFd<File>,
    ears: Ears,
    /// Heard, and not told yet.
    heard: VecDeque<KernelEvent>,
    changes: BTreeSet<(Ns, NsChange)>,
}

#[derive(Debug)]
struct Polled(Epoll);

impl AsRawFd for Polled {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

impl Watch {
    /// Begins with names and mounts.
    pub fn start(local: &Local) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let ears = Ears::open(local)?;
        epoll.add(
            &ears.socket,
            EpollEvent::new(EpollFlags::EPOLLIN, NAMESPACES),
        )?;
        let mounts = File::open("/proc/self/mountinfo")?;
        // SAFETY: a `File` owns its descriptor, never gives it away here, and always tells the same
        // one.
        let mounts = unsafe { AsyncFd::register_with_interest(mounts, Interest::PRIORITY)? };
        // SAFETY: `Polled` owns its descriptor, never gives it away, and always tells the same one.
        let epoll = unsafe { AsyncFd::register(Polled(epoll))? };
        let mut watch = Self {
            epoll,
            names: None,
            mounts,
            ears,
            heard: VecDeque::new(),
            changes: BTreeSet::new(),
        };
        watch.watch_names();
        Ok(watch)
    }

    fn polled(&self) -> &Epoll {
        &self.epoll.get_ref().0
    }

    fn watch_names(&mut self) {
        let begun = Names::watch().and_then(|names| {
            self.polled()
                .add(&names, EpollEvent::new(EpollFlags::EPOLLIN, NAMES))?;
            Ok(names)
        });
        match begun {
            Ok(names) => self.names = Some(names),
            Err(errno) => tracing::warn!(
                error = errno.desc(),
                "{} cannot be watched: names that come and go there are found only now and then",
                worker::RUN
            ),
        }
    }

    /// Listens to those namespaces that are to be listened to and are there, and no more to the
    /// others.
    pub fn change(&mut self, local: &Local, changes: Vec<WatchChange>) {
        let before = self.ears.count();
        for change in &changes {
            if let WatchChange::Remove(ns) = change {
                self.ears.leave(ns);
            }
        }
        let left = before - self.ears.count();
        if left >= worker::MANY && left > self.ears.count() {
            // What so many say on their way out would be heard for nothing.
            if let Err(errno) = self.listen_anew(local) {
                tracing::debug!(error = errno.desc(), "listening goes on as before");
            }
        }
        // Most often each is known, and there are many.
        for change in changes {
            let WatchChange::Add { ns, inode } = change else {
                continue;
            };
            if inode.is_some() && inode == self.ears.inode(&ns) {
                continue;
            }
            if let Err(errno) = self.ears.attend(local, &ns) {
                let error = errno.desc();
                tracing::warn!(%ns, error, "cannot be watched: changes by others are found only now and then");
            }
        }
    }

    fn listen_anew(&mut self, local: &Local) -> Result<(), Errno> {
        let ears = self.ears.again(local)?;
        self.polled().add(
            &ears.socket,
            EpollEvent::new(EpollFlags::EPOLLIN, NAMESPACES),
        )?;
        self.ears.hear(&mut self.changes);
        self.ears = ears;
        Ok(())
    }

    /// Waits for the next notice. Nothing is lost when it is dropped.
    pub async fn next(&mut self) -> KernelEvent {
        loop {
            if let Some(notice) = self.pop() {
                return notice;
            }
            tokio::select! {
                Ok(mut ready) = self.epoll.readable() => {
                    ready.clear_ready();
                    self.read();
                }
                Ok(mut ready) = self.mounts.ready(Interest::PRIORITY) => {
                    ready.clear_ready();
                    self.ears.check_names(&mut self.changes);
                }
                else => std::future::pending().await,
            }
        }
    }

    fn pop(&mut self) -> Option<KernelEvent> {
        self.heard.pop_front().or_else(|| {
            let (ns, what) = self.changes.pop_first()?;
            Some(KernelEvent::Changed(ns, what))
        })
    }

    /// Everything that can be heard now, after changes of one's own: mounts among those are no
    /// news.
    pub fn heard(&mut self) -> Vec<KernelEvent> {
        self.read();
        let mut mounts = [PollFd::new(self.mounts.as_fd(), PollFlags::POLLPRI)];
        let _told_once = poll(&mut mounts, PollTimeout::ZERO);
        std::iter::from_fn(|| self.pop()).collect()
    }

    fn read(&mut self) {
        let mut events = [EpollEvent::empty(); 2];
        loop {
            let count = match self.polled().wait(&mut events, EpollTimeout::ZERO) {
                Ok(0) => return,
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(errno) => return tracing::error!(error = errno.desc(), "listening"),
            };
            for event in &events[..count] {
                match event.data() {
                    NAMES => self.hear_names(),
                    _ => self.ears.hear(&mut self.changes),
                }
            }
        }
    }

    fn hear_names(&mut self) {
        let Some(names) = &mut self.names else { return };
        if let Err(errno) = names.hear(&mut self.heard) {
            tracing::warn!(error = errno.desc(), "{} is watched anew", worker::RUN);
            self.names = None;
            self.watch_names();
            self.heard.push_back(KernelEvent::NamesLost);
        }
    }
}

impl AsFd for Polled {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}
