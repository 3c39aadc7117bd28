//! A thread that helps the engine's own with going into namespaces, and what is done with their
//! names and files.

use std::{
    collections::BTreeMap,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
};

use netnsd_api::{Name, SysctlKey};
use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::{
        stat::Mode,
        statfs::{NSFS_MAGIC, fstatfs},
    },
    unistd::unlink,
};

use super::local::Local;
use crate::kernel::{DnsFile, StalePin, sysctl};

/// Where `ip netns` keeps its names (`NETNS_RUN_DIR`).
pub(crate) const RUN: &str = "/run/netns";

/// The network namespace that the calling thread is in.
pub(crate) const HERE: &str = "/proc/thread-self/ns/net";

/// So many things are worth the way to another thread.
pub(super) const MANY: usize = 8;

type Job = Box<dyn FnOnce(&mut Local) + Send>;

/// The way to such a thread.
#[derive(Debug, Clone)]
pub(super) struct Worker {
    jobs: mpsc::Sender<Job>,
}

/// Things that two threads do, whichever is free the next.
#[derive(Debug)]
pub(super) struct Queue<T> {
    pub things: Vec<T>,
    next: AtomicUsize,
}

impl<T> Queue<T> {
    pub fn new(things: Vec<T>) -> Arc<Self> {
        Arc::new(Self {
            things,
            next: AtomicUsize::new(0),
        })
    }

    /// The next one that nobody has begun, and its place.
    pub fn take(&self) -> Option<(usize, &T)> {
        let place = self.next.fetch_add(1, Ordering::Relaxed);
        Some((place, self.things.get(place)?))
    }
}

/// What a job is going to give.
#[derive(Debug)]
pub(super) struct Begun<R>(mpsc::Receiver<R>);

impl<R> Begun<R> {
    /// Waits for it.
    pub fn wait(self) -> Result<R, Errno> {
        self.0.recv().map_err(|_| Errno::ESRCH)
    }
}

impl Worker {
    /// Starts the thread, in the namespace of the caller.
    pub fn start(name: &str) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (started, start) = mpsc::channel();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let mut local = match Local::here() {
                    Ok(local) => local,
                    Err(error) => return drop(started.send(Err(error))),
                };
                drop(started.send(Ok(())));
                for job in queue {
                    let _asker_hears_nothing = local.safely(job);
                }
            })?;
        start.recv().map_err(io::Error::other)??;
        Ok(Self { jobs })
    }

    /// Begins a job there.
    pub fn begin<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Local) -> R + Send + 'static,
    ) -> Begun<R> {
        let (answer, answered) = mpsc::channel();
        let job = Box::new(move |local: &mut Local| {
            let _asker_gone = answer.send(job(local));
        });
        // A thread that is gone drops the job, and the way to answer with it.
        let _thread_gone = self.jobs.send(job);
        Begun(answered)
    }

    /// Does the same for each of some things, here and on that thread at once, if they are many:
    /// whichever is free takes the next. What it came to, in their order.
    pub fn share<T: Send + Sync + 'static, R: Send + 'static>(
        &self,
        local: &mut Local,
        things: Vec<T>,
        each: fn(&mut Local, &T) -> R,
    ) -> Result<Vec<R>, Errno> {
        if things.len() < MANY {
            return Ok(things.iter().map(|thing| each(local, thing)).collect());
        }
        let queue = Queue::new(things);
        let part = |queue: Arc<Queue<T>>| {
            move |local: &mut Local| {
                let taken = std::iter::from_fn(|| queue.take());
                taken
                    .map(|(place, thing)| (place, each(local, thing)))
                    .collect::<Vec<_>>()
            }
        };
        let there = part(queue.clone());
        let there = self.begin(move |local: &mut Local| {
            let done = there(local);
            // A connection keeps its namespace, which may be the next one to go.
            local.rest();
            done
        });
        let mut done = part(queue)(local);
        done.extend(there.wait()?);
        done.sort_unstable_by_key(|(place, _)| *place);
        Ok(done.into_iter().map(|(_, result)| result).collect())
    }
}

/// The file of a namespace.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(RUN).join(name)
}

/// What `/run/netns/NAME` is.
pub(crate) enum Pinned {
    /// No such file.
    Nothing,
    /// Something that pins nothing (any more).
    Stale(StalePin),
    /// A namespace.
    Namespace(OwnedFd),
}

/// Looks at a name by its file system's magic: a file in `/run/netns` need not be a namespace.
pub(crate) fn pinned(name: &str) -> Result<Pinned, Errno> {
    let path = path(name);
    let found = open(
        &path,
        OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK,
        Mode::empty(),
    );
    if let Ok(fd) = &found
        && fstatfs(fd)?.filesystem_type() == NSFS_MAGIC
    {
        return found.map(Pinned::Namespace);
    }
    let file = match fs::symlink_metadata(&path) {
        Ok(file) => file,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Pinned::Nothing);
        }
        Err(error) => return Err(errno(&error)),
    };
    let kind = file.file_type();
    Ok(Pinned::Stale(if kind.is_symlink() {
        let target = fs::read_link(&path).map_err(|error| errno(&error))?;
        StalePin::Link {
            target: target.display().to_string(),
            dangling: found.err() == Some(Errno::ENOENT),
        }
    } else if kind.is_dir() {
        StalePin::Other("a directory")
    } else if !kind.is_file() {
        StalePin::Other("a special file")
    } else if file.len() == 0 && file.permissions().mode() & 0o777 == 0 {
        StalePin::Lost
    } else {
        StalePin::File
    }))
}

/// Makes `/run/netns` as `ip netns add` does: a shared mount, so that other mount namespaces see
/// names come and go.
fn prepare_run() -> Result<(), Errno> {
    match nix::unistd::mkdir(RUN, Mode::from_bits_truncate(0o755)) {
        Ok(()) => {}
        // A file would become a mount point as well, and be in the way for good.
        Err(Errno::EEXIST) if fs::metadata(RUN).is_ok_and(|found| !found.is_dir()) => {
            return Err(Errno::ENOTDIR);
        }
        Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno),
    }
    let none: Option<&str> = None;
    match mount(
        Some(""),
        RUN,
        Some("none"),
        MsFlags::MS_SHARED | MsFlags::MS_REC,
        none,
    ) {
        // Not a mount point yet: it becomes one of its own.
        Err(Errno::EINVAL) => {
            mount(
                Some(RUN),
                RUN,
                Some("none"),
                MsFlags::MS_BIND | MsFlags::MS_REC,
                none,
            )?;
            mount(
                Some(""),
                RUN,
                Some("none"),
                MsFlags::MS_SHARED | MsFlags::MS_REC,
                none,
            )
        }
        other => other,
    }
}

/// Pins a namespace under a name. A file that lost its mount is used again.
pub(crate) fn pin(name: &str, ns: impl AsFd) -> Result<(), Errno> {
    prepare_run()?;
    let source = format!("/proc/self/fd/{}", ns.as_fd().as_raw_fd());
    let path = path(name);
    let flags = OFlag::O_RDONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    match open(&path, flags, Mode::empty()) {
        Ok(_fd) => {}
        Err(Errno::EEXIST) if matches!(pinned(name)?, Pinned::Stale(StalePin::Lost)) => {}
        Err(errno) => return Err(errno),
    }
    let none: Option<&str> = None;
    mount(Some(&*source), &path, Some("none"), MsFlags::MS_BIND, none).inspect_err(|_| {
        let _best_effort = unlink(&path);
    })
}

/// Takes a name away; the namespace lives on while something else holds it.
pub(crate) fn unpin(name: &str) -> Result<(), Errno> {
    let path = path(name);
    // A link may lead to the mount of another name.
    match umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(errno) => return Err(errno),
    }
    match unlink(&path) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn sysctl_path(key: &SysctlKey) -> PathBuf {
    key.parts()
        .fold(PathBuf::from("/proc/sys"), |path, part| path.join(part))
}

/// The kernel's error behind one of `std`; EIO for those that `std` made itself.
pub(crate) fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// Reads a sysctl of the namespace that this thread is in; white space has one spelling.
pub(crate) fn read_sysctl(key: &SysctlKey) -> Result<String, Errno> {
    let text = fs::read_to_string(sysctl_path(key)).map_err(|error| errno(&error))?;
    Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Writes a sysctl of the namespace that this thread is in; gives the values before of what that
/// changes. ENODEV where it is of an interface that is not there, ENOENT where there is no such
/// sysctl.
pub(crate) fn write_sysctl(
    key: &SysctlKey,
    value: &str,
) -> Result<Vec<(SysctlKey, String)>, Errno> {
    let path = sysctl_path(key);
    let is_missing =
        || key.interface().is_some() && path.parent().is_some_and(|interface| !interface.exists());
    let missing = |errno: Errno| {
        if errno == Errno::ENOENT && is_missing() {
            Errno::ENODEV
        } else {
            errno
        }
    };
    let mut before = vec![(key.clone(), read_sysctl(key).map_err(missing)?)];
    before.extend(
        sysctl::changed_along(key)
            .into_iter()
            .filter_map(|key| Some((key.clone(), read_sysctl(&key).ok()?))),
    );
    let mut file = fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .map_err(|error| errno(&error))?;
    io::Write::write_all(&mut file, value.as_bytes()).map_err(|error| errno(&error))?;
    Ok(before)
}

/// Tells why a sysctl of a namespace was not written, as seen from the host, where this thread is
/// again: what is missing or may only be read in a namespace, and is not so on the host, is the
/// host's (`ensure_safe_net_sysctl()`, net/sysctl_net.c).
pub(crate) fn refused_sysctl(key: &SysctlKey, value: &str, errno: Errno) -> String {
    let is_on_host = || key.interface().is_none() && sysctl_path(key).exists();
    match errno {
        Errno::ENODEV => format!(
            "there is no interface {}",
            key.interface().unwrap_or_default()
        ),
        Errno::ENOENT if is_on_host() => {
            "it is the host's, not the namespace's, which has none of its own".into()
        }
        Errno::ENOENT => "there is no such sysctl: it is misspelt, or this kernel lacks it".into(),
        Errno::EACCES | Errno::EPERM => {
            "it is the host's, not the namespace's: read-only there".into()
        }
        _ => format!("it does not take the value {value:?}"),
    }
}

/// Returns the directory of a namespace's own files of `/etc` (ip-netns(8)).
pub(crate) fn etc_path(name: &Name) -> PathBuf {
    Path::new("/etc/netns").join(name.as_str())
}

/// Reads a namespace's files of name resolution; one `stat` for a namespace that has no files.
pub(crate) fn read_dns(name: &Name) -> BTreeMap<DnsFile, String> {
    let dir = etc_path(name);
    if !dir.is_dir() {
        return BTreeMap::new();
    }
    DnsFile::ALL
        .into_iter()
        .filter_map(|file| Some((file, read_text(&dir.join(file.as_str()))?)))
        .collect()
}

/// Reads the host's `/etc/nsswitch.conf`.
pub(crate) fn read_nsswitch() -> Option<String> {
    read_text(Path::new("/etc/nsswitch.conf"))
}

fn read_text(path: &Path) -> Option<String> {
    fs::read(path)
        .ok()
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns the name under which a file is written before it is renamed.
pub(crate) fn unfinished(file: DnsFile) -> String {
    format!(".{file}.netnsd")
}

/// Writes a namespace's file of name resolution, or removes it, and its directory if that is empty
/// then.
pub(crate) fn write_dns(name: &Name, file: DnsFile, content: Option<&str>) -> Result<(), Errno> {
    let dir = etc_path(name);
    let path = dir.join(file.as_str());
    let result = match content {
        Some(content) => fs::create_dir_all(&dir).and_then(|()| {
            let part = dir.join(unfinished(file));
            fs::write(&part, content)?;
            fs::rename(&part, &path)
        }),
        None => match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => {
                // Others may have put their files beside it.
                let _not_empty = fs::remove_dir(&dir);
                Ok(())
            }
        },
    };
    result.map_err(|error| errno(&error))
}
