//! Files in `/run/netns`, each of which pins a namespace by a bind mount, as ip-netns(8) does it.

use std::{
    fmt, fs, io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::{
        stat::Mode,
        statfs::{NSFS_MAGIC, fstatfs},
    },
    unistd::{mkdir, unlink},
};

use crate::{Error, errno_of};

/// Directory in which ip-netns(8) keeps its names (`NETNS_RUN_DIR`).
pub const RUN_DIR: &str = "/run/netns";

/// File of the network namespace that the calling thread is in.
pub const THREAD_NETNS: &str = "/proc/thread-self/ns/net";

/// A file in `/run/netns`.
#[derive(Debug)]
pub enum NetnsFile {
    /// No file has this name.
    Missing,
    /// The file pins no namespace.
    Stale(StalePin),
    /// The file pins this namespace, of whatever type.
    Namespace(OwnedFd),
}

/// A file in `/run/netns` that pins no namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StalePin {
    /// An empty file without permission bits, which `ip netns add` and netnsd leave when its mount
    /// is lost.
    Lost,
    /// Another regular file.
    File,
    /// A symbolic link; `dangling` if its target does not exist.
    #[allow(missing_docs, reason = "the words say it")]
    Link { target: String, dangling: bool },
    /// Anything else, in words.
    Other(&'static str),
}

impl fmt::Display for StalePin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StalePin::Lost | StalePin::File => f.write_str("a file that is no network namespace"),
            StalePin::Link {
                target,
                dangling: true,
            } => write!(f, "a dangling symbolic link to {target}"),
            StalePin::Link {
                target,
                dangling: false,
            } => write!(
                f,
                "a symbolic link to {target}, which is no network namespace"
            ),
            StalePin::Other(kind) => f.write_str(kind),
        }
    }
}

/// Returns the path of a namespace's file.
pub fn netns_path(name: &str) -> PathBuf {
    Path::new(RUN_DIR).join(name)
}

/// Lists the names in `/run/netns`, sorted.
pub fn list_names() -> Vec<String> {
    let entries = fs::read_dir(RUN_DIR).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// Opens `/run/netns/NAME`. The magic number of the file system tells whether it pins a namespace:
/// any file may be in `/run/netns`.
///
/// # Errors
/// If the file exists and cannot be opened, or if it disappears meanwhile.
pub fn open_netns(name: &str) -> Result<NetnsFile, Errno> {
    let path = netns_path(name);
    let opened = open(
        &path,
        OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK,
        Mode::empty(),
    );
    if let Ok(fd) = &opened
        && fstatfs(fd)?.filesystem_type() == NSFS_MAGIC
    {
        return opened.map(NetnsFile::Namespace);
    }

    let file = match fs::symlink_metadata(&path) {
        Ok(file) => file,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(NetnsFile::Missing);
        }
        Err(error) => return Err(errno_of(&error)),
    };
    let kind = file.file_type();
    Ok(NetnsFile::Stale(if kind.is_symlink() {
        let target = fs::read_link(&path).map_err(|error| errno_of(&error))?;
        StalePin::Link {
            target: target.display().to_string(),
            dangling: opened.err() == Some(Errno::ENOENT),
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

/// Creates `/run/netns` as `ip netns add` does: a shared mount, so that other mount namespaces see
/// names come and go.
fn prepare_run_dir() -> Result<(), Error> {
    match mkdir(RUN_DIR, Mode::from_bits_truncate(0o755)) {
        Ok(()) => {}
        // A file could be made a mount point as well, and would block the directory for good.
        Err(Errno::EEXIST) if fs::metadata(RUN_DIR).is_ok_and(|found| !found.is_dir()) => {
            return Err(Error::RunDirBlocked);
        }
        Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    match make_shared() {
        // It is not a mount point yet.
        Err(Errno::EINVAL) => {
            let none: Option<&str> = None;
            mount(
                Some(RUN_DIR),
                RUN_DIR,
                Some("none"),
                MsFlags::MS_BIND | MsFlags::MS_REC,
                none,
            )?;
            make_shared()?;
        }
        other => other?,
    }
    Ok(())
}

fn make_shared() -> Result<(), Errno> {
    let none: Option<&str> = None;
    mount(
        Some(""),
        RUN_DIR,
        Some("none"),
        MsFlags::MS_SHARED | MsFlags::MS_REC,
        none,
    )
}

/// Pins a namespace under a name. A file that lost its mount is used again.
///
/// # Errors
/// EEXIST if the name is in use, [`Error::RunDirBlocked`], and those of mount(2).
pub fn pin(name: &str, ns: impl AsFd) -> Result<(), Error> {
    prepare_run_dir()?;
    let source = format!("/proc/self/fd/{}", ns.as_fd().as_raw_fd());
    let path = netns_path(name);
    let flags = OFlag::O_RDONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    match open(&path, flags, Mode::empty()) {
        Ok(_created) => {}
        Err(Errno::EEXIST) if matches!(open_netns(name)?, NetnsFile::Stale(StalePin::Lost)) => {}
        Err(errno) => return Err(errno.into()),
    }
    let none: Option<&str> = None;
    mount(Some(&*source), &path, Some("none"), MsFlags::MS_BIND, none).inspect_err(|_| {
        let _ = unlink(&path); // the error of the mount is the one to report
    })?;
    Ok(())
}

/// Removes a name, also one that pins nothing; the namespace lives while something else holds it.
///
/// # Errors
/// Those of umount2(2) and unlink(2); a name that does not exist is no error.
pub fn unpin(name: &str) -> Result<(), Errno> {
    let path = netns_path(name);
    // A symbolic link may lead to the mount of another name.
    match umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(errno) => return Err(errno),
    }
    match unlink(&path) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}
