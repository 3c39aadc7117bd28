//! Names that appear in `/run/netns` and disappear (inotify(7)), as `ip netns monitor` watches them.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor},
};

use crate::{KernelEvent, netns::file::RUN_DIR};

/// Watch of `/run/netns`, or of its parent until it exists.
#[derive(Debug)]
pub(super) struct NetnsDirWatch {
    inotify: Inotify,
    watch: WatchDescriptor,
    target: WatchTarget,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WatchTarget {
    /// `/run/netns`.
    NetnsDir,
    /// The directory in which `/run/netns` will be created.
    Parent,
}

impl AsFd for NetnsDirWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl NetnsDirWatch {
    /// Starts to watch. Names that exist already are not reported.
    pub fn start() -> Result<Self, Errno> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let (watch, target) = add_watch(&inotify)?;
        Ok(Self {
            inotify,
            watch,
            target,
        })
    }

    /// Reads the events up to now.
    ///
    /// # Errors
    /// Those of read(2) and inotify_add_watch(2); the watch is unusable then.
    pub fn read_events(&mut self, events: &mut VecDeque<KernelEvent>) -> Result<(), Errno> {
        loop {
            match self.inotify.read_events() {
                Ok(read) => {
                    for event in read {
                        self.take_event(event, events)?;
                    }
                }
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(errno),
            }
        }
    }

    fn take_event(
        &mut self,
        event: InotifyEvent,
        events: &mut VecDeque<KernelEvent>,
    ) -> Result<(), Errno> {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            events.push_back(KernelEvent::NamesLost);
            return Ok(());
        }
        if event.wd != self.watch {
            return Ok(());
        }

        let name = event.name.and_then(|name| name.into_string().ok());
        let appeared = event
            .mask
            .intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO);
        match (name, self.target) {
            (Some(name), WatchTarget::NetnsDir) if appeared => {
                // A name that netnsd itself created and removed is gone by now.
                if Path::new(RUN_DIR).join(&name).exists() {
                    events.push_back(KernelEvent::Appeared(name));
                }
                return Ok(());
            }
            (Some(name), WatchTarget::NetnsDir) => {
                events.push_back(KernelEvent::Disappeared(name));
                return Ok(());
            }
            (Some(name), WatchTarget::Parent)
                if Path::new(RUN_DIR)
                    .file_name()
                    .is_none_or(|dir| *dir != *name) =>
            {
                return Ok(());
            }
            (Some(_), WatchTarget::Parent) | (None, _) => {}
        }

        // The directory was created or is gone: another watch is needed, and the directory has to
        // be listed for what this one missed.
        let _ = self.inotify.rm_watch(self.watch); // the kernel removes it with the directory
        (self.watch, self.target) = add_watch(&self.inotify)?;
        events.push_back(KernelEvent::NamesLost);
        Ok(())
    }
}

fn add_watch(inotify: &Inotify) -> Result<(WatchDescriptor, WatchTarget), Errno> {
    let appearing =
        AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR;
    let all = appearing
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF;
    match inotify.add_watch(RUN_DIR, all) {
        Ok(watch) => Ok((watch, WatchTarget::NetnsDir)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => {
            let parent = Path::new(RUN_DIR).parent().unwrap_or(Path::new("/"));
            Ok((inotify.add_watch(parent, appearing)?, WatchTarget::Parent))
        }
        Err(errno) => Err(errno),
    }
}
