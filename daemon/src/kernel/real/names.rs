//! Which names come into `/run/netns` and go out of it (`inotify(7)`), as `ip netns monitor` watches it.

use std::{
    collections::VecDeque,
    fs,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    path::Path,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor},
};
use tokio::io::unix::AsyncFd;

use super::worker::RUN;
use crate::kernel::Notice;

/// How long until watching is tried again after it could not be begun.
const AGAIN: Duration = Duration::from_secs(60);

/// The names in `/run/netns`, sorted.
pub(in crate::kernel) fn listed() -> Vec<String> {
    let entries = fs::read_dir(RUN).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Watches the names; begun when first asked.
#[derive(Debug, Default)]
pub(super) struct Names {
    watch: Option<Watch>,
    /// Heard, and not told yet.
    heard: VecDeque<Notice>,
}

#[derive(Debug)]
struct Watch {
    inotify: AsyncFd<Watched>,
    what: WatchDescriptor,
    /// Whether it is the directory itself, or only the one in which it will be made.
    itself: bool,
}

#[derive(Debug)]
struct Watched(Inotify);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Watch {
    fn begin() -> std::io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let names = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        let parent = Path::new(RUN).parent().unwrap_or(Path::new("/"));
        let (what, itself) = match inotify.add_watch(RUN, names) {
            Ok(what) => (what, true),
            Err(Errno::ENOENT | Errno::ENOTDIR) => {
                let made = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR;
                (inotify.add_watch(parent, made)?, false)
            }
            Err(errno) => return Err(errno.into()),
        };
        // SAFETY: `Watched` owns its descriptor, never gives it away, and always tells the same one.
        let inotify = unsafe { AsyncFd::register(Watched(inotify))? };
        Ok(Self { inotify, what, itself })
    }

    async fn read(&self) -> Result<Vec<InotifyEvent>, Errno> {
        loop {
            let mut ready = self.inotify.readable().await.map_err(|_| Errno::EIO)?;
            match self.inotify.get_ref().0.read_events() {
                Err(Errno::EAGAIN) => ready.clear_ready(),
                other => return other,
            }
        }
    }
}

impl Names {
    /// Waits for the next notice. Nothing is lost when it is dropped.
    pub async fn next(&mut self) -> Notice {
        loop {
            if let Some(notice) = self.heard.pop_front() {
                return notice;
            }
            let Some(watch) = &self.watch else {
                match Watch::begin() {
                    Ok(watch) => {
                        self.watch = Some(watch);
                        // What came before the watch began is found by looking.
                        self.heard.push_back(Notice::Lost);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "{RUN} cannot be watched: names that others make there are not told");
                        tokio::time::sleep(AGAIN).await;
                    }
                }
                continue;
            };
            match watch.read().await {
                Ok(events) => events.into_iter().for_each(|event| self.hear(event)),
                Err(error) => {
                    tracing::warn!(%error, "{RUN} is watched anew");
                    self.watch = None;
                }
            }
        }
    }

    fn hear(&mut self, event: InotifyEvent) {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            return self.heard.push_back(Notice::Lost);
        }
        let Some(watch) = self.watch.as_ref().filter(|watch| watch.what == event.wd) else { return };
        let name = event.name.and_then(|name| name.into_string().ok());
        let came = event.mask.intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO);
        match name {
            Some(name) if watch.itself && came => {
                // It may be gone again by now, as names that netnsd itself made and removed.
                if Path::new(RUN).join(&name).exists() {
                    self.heard.push_back(Notice::Appeared(name));
                }
            }
            Some(name) if watch.itself => self.heard.push_back(Notice::Disappeared(name)),
            // The directory was made, or is no longer there: another watch is needed.
            Some(name) if Path::new(RUN).file_name().is_some_and(|dir| *dir == *name) => self.watch = None,
            Some(_) => {}
            None => self.watch = None,
        }
    }
}
