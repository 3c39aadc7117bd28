//! Which names come into `/run/netns` and go out of it (`inotify(7)`), as `ip netns monitor`
//! watches it.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor},
};

use super::worker::RUN;
use crate::kernel::KernelEvent;

/// Watches the names.
#[derive(Debug)]
pub(super) struct Names {
    inotify: Inotify,
    what: WatchDescriptor,
    /// Whether it is the directory itself, or only the one in which it will be made.
    itself: bool,
}

impl AsFd for Names {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl Names {
    /// Begins to watch. What is there already, or came just before, is not told.
    pub fn watch() -> Result<Self, Errno> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let (what, itself) = begin(&inotify)?;
        Ok(Self {
            inotify,
            what,
            itself,
        })
    }

    /// Takes down what happened.
    pub fn hear(&mut self, heard: &mut VecDeque<KernelEvent>) -> Result<(), Errno> {
        loop {
            match self.inotify.read_events() {
                Ok(events) => {
                    for event in events {
                        self.take(event, heard)?;
                    }
                }
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(errno),
            }
        }
    }

    fn take(
        &mut self,
        event: InotifyEvent,
        heard: &mut VecDeque<KernelEvent>,
    ) -> Result<(), Errno> {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            heard.push_back(KernelEvent::NamesLost);
            return Ok(());
        }
        if event.wd != self.what {
            return Ok(());
        }
        let name = event.name.and_then(|name| name.into_string().ok());
        let came = event
            .mask
            .intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO);
        match name {
            Some(name) if self.itself && came => {
                // It may be gone again by now, as names that netnsd itself made and removed.
                if Path::new(RUN).join(&name).exists() {
                    heard.push_back(KernelEvent::Appeared(name));
                }
                return Ok(());
            }
            Some(name) if self.itself => {
                heard.push_back(KernelEvent::Disappeared(name));
                return Ok(());
            }
            Some(name) if Path::new(RUN).file_name().is_none_or(|dir| *dir != *name) => {
                return Ok(());
            }
            _ => {}
        }
        // The directory was made, or is no longer there: another watch is needed, and what it
        // missed is looked for.
        let _gone_with_the_directory = self.inotify.rm_watch(self.what);
        (self.what, self.itself) = begin(&self.inotify)?;
        heard.push_back(KernelEvent::NamesLost);
        Ok(())
    }
}

fn begin(inotify: &Inotify) -> Result<(WatchDescriptor, bool), Errno> {
    let made = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR;
    let names = made
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF;
    match inotify.add_watch(RUN, names) {
        Ok(what) => Ok((what, true)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => {
            let parent = Path::new(RUN).parent().unwrap_or(Path::new("/"));
            Ok((inotify.add_watch(parent, made)?, false))
        }
        Err(errno) => Err(errno),
    }
}
