//! Environment of a command: the steps of `ip netns exec` between fork and exec (iproute2,
//! `lib/namespace.c`, `netns_switch`), and the change of user.
//!
//! Unlike there, a file of `/etc/netns/NAME` is mounted on the name in `/etc` itself: where that is
//! a symbolic link, replacing what it leads to changes nothing. And where the namespace has `dns`,
//! resolvers of the host that are asked over Unix sockets are hidden.
//!
//! Everything that allocates happens in [`Environment::prepare`]; [`Environment::enter`] makes
//! system calls only, since after a fork of a process with threads any lock, malloc's too, may be
//! held by a thread that is gone.

use std::{
    collections::BTreeSet,
    ffi::{CStr, CString},
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use netnsd_api::Name;
use netnsd_netlink::{DnsFile, errno_of as errno, resolv_conf::etc_dir};
use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    libc,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::{
        prctl::set_no_new_privs,
        resource::{Resource, getrlimit, setrlimit},
        signal::SigSet,
        stat::Mode,
        statvfs::{FsFlags, statvfs},
    },
    unistd::{chdir, setgid, setgroups, setsid, setuid},
};

use super::ProcessError;
use crate::access::Identity;

/// A step between fork and exec that can fail; it travels to the parent in the upper half of the
/// error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Session = 1,
    Network,
    Mounts,
    Slave,
    Sys,
    Overlay,
    Etc,
    Resolvers,
    User,
    Directory,
}

impl Step {
    const ALL: [Step; 10] = [
        Step::Session,
        Step::Network,
        Step::Mounts,
        Step::Slave,
        Step::Sys,
        Step::Overlay,
        Step::Etc,
        Step::Resolvers,
        Step::User,
        Step::Directory,
    ];

    /// Returns the step in words that follow "could not".
    pub(super) fn words(self) -> &'static str {
        match self {
            Step::Session => "start a session",
            Step::Network => "enter the network namespace",
            Step::Mounts => "make a mount namespace",
            Step::Slave => "make / a slave mount",
            Step::Sys => "mount /sys",
            Step::Overlay => {
                "give the command a resolv.conf, for which an overlay is mounted where the host has no /etc/resolv.conf \
                 (create one: touch /etc/resolv.conf)"
            }
            Step::Etc => "put the files of /etc/netns/NAME over those of /etc",
            Step::Resolvers => "hide the sockets of the host's resolvers",
            Step::User => "change the user",
            Step::Directory => "enter the working directory",
        }
    }

    fn failed(self, errno: Errno) -> io::Error {
        // std hands the raw number to the parent as it is, all 32 bits; error numbers need 12.
        io::Error::from_raw_os_error(((self as i32) << 16) | errno as i32)
    }

    /// Splits the raw error number of a spawn; without a step, fork or exec itself failed.
    pub(super) fn split(raw: i32) -> (Option<Step>, Errno) {
        let step = Self::ALL.into_iter().find(|step| *step as i32 == raw >> 16);
        (step, Errno::from_raw(raw & 0xffff))
    }
}

/// A file or directory of `/etc/netns/NAME`, and the one in `/etc` that it covers.
struct Bind {
    from: CString,
    to: CString,
    is_dir: bool,
}

/// Flags of a mount in which there is nothing to use.
const UNUSED: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);

/// A read-only overlay over `/etc`, in which there is a `resolv.conf` that can be covered.
struct Overlay {
    /// Directory in `/etc` on which the layer with the file is mounted; the overlay itself shows
    /// the directory as it was.
    folder: CString,
    file: CString,
    options: CString,
}

/// Directories of the resolvers of a host that programs ask over Unix sockets, which no network
/// namespace separates: nscd(8), systemd-resolved(8).
const RESOLVERS: [&str; 4] = [
    "/run/nscd",
    "/run/systemd/resolve",
    "/var/run/nscd",
    "/var/run/systemd/resolve",
];

/// Everything that a child needs to enter its namespace.
pub(super) struct Environment {
    namespace: OwnedFd,
    name: CString,
    /// `None` if the host has an `/etc/resolv.conf`.
    overlay: Option<Overlay>,
    binds: Vec<Bind>,
    /// Directories that are covered by an empty one.
    hidden: Vec<CString>,
    identity: Option<Identity>,
    /// True if the command and its children can never gain privileges (`PR_SET_NO_NEW_PRIVS`).
    confined: bool,
    directory: CString,
    terminal: bool,
}

impl Environment {
    /// Gathers everything before the fork. With `has_dns` the namespace's own `resolv.conf` must be there.
    ///
    /// # Errors
    /// When a file of `/etc/netns/NAME` cannot take its place in `/etc`, and what to do then.
    pub(super) fn prepare(
        name: &Name,
        has_dns: bool,
        namespace: OwnedFd,
        identity: Option<Identity>,
        confined: bool,
        directory: CString,
        terminal: bool,
    ) -> Result<Self, ProcessError> {
        let (overlay, binds) = collect_binds(name, has_dns)?;
        let hidden = if has_dns {
            find_resolvers()
        } else {
            Vec::new()
        };
        // A name has no NUL byte; should that change, sysfs takes any source.
        let source = CString::new(name.as_str()).unwrap_or_default();
        Ok(Self {
            namespace,
            name: source,
            overlay,
            binds,
            hidden,
            identity,
            confined,
            directory,
            terminal,
        })
    }

    /// Returns the descriptor of the network namespace, which [`Environment::enter`] needs.
    pub(super) fn namespace(&self) -> RawFd {
        self.namespace.as_raw_fd()
    }

    /// Enters the environment by system calls only.
    pub(super) fn enter(&self) -> io::Result<()> {
        reset_signals();
        setsid().map_err(|errno| Step::Session.failed(errno))?;
        if self.terminal {
            // SAFETY: an ioctl without a pointer, on the standard input (TIOCSCTTY, ioctl_tty(2)).
            let result = unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) };
            Errno::result(result).map_err(|errno| Step::Session.failed(errno))?;
        }
        setns(&self.namespace, CloneFlags::CLONE_NEWNET)
            .map_err(|errno| Step::Network.failed(errno))?;
        unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| Step::Mounts.failed(errno))?;
        // Slave: no mount made here reaches the host, those of the host still arrive.
        mount(
            Some(c""),
            c"/",
            Some(c"none"),
            MsFlags::MS_SLAVE | MsFlags::MS_REC,
            None::<&CStr>,
        )
        .map_err(|errno| Step::Slave.failed(errno))?;
        self.mount_sys().map_err(|errno| Step::Sys.failed(errno))?;
        self.overlay_etc()
            .map_err(|errno| Step::Overlay.failed(errno))?;
        self.bind_etc().map_err(|errno| Step::Etc.failed(errno))?;
        // After what may have been taken from there.
        self.hide_resolvers()
            .map_err(|errno| Step::Resolvers.failed(errno))?;
        self.become_user()
            .map_err(|errno| Step::User.failed(errno))?;
        // As that user, so that nobody is put where they could not go.
        chdir(self.directory.as_c_str()).map_err(|errno| Step::Directory.failed(errno))?;
        self.lower_limits();
        Ok(())
    }

    /// Mounts the /sys that describes the namespace.
    fn mount_sys(&self) -> Result<(), Errno> {
        let mut flags = MsFlags::empty();
        // Where it cannot be unmounted it is covered; a read-only one can only be covered by a
        // read-only one.
        if umount2(c"/sys", MntFlags::MNT_DETACH).is_err()
            && statvfs(c"/sys").is_ok_and(|sys| sys.flags().contains(FsFlags::ST_RDONLY))
        {
            flags = MsFlags::MS_RDONLY;
        }
        mount(
            Some(self.name.as_c_str()),
            c"/sys",
            Some(c"sysfs"),
            flags,
            None::<&CStr>,
        )
    }

    /// Mounts the overlay over `/etc`, if one is needed: read-only, because it has no layer to
    /// write to.
    fn overlay_etc(&self) -> Result<(), Errno> {
        let Some(Overlay {
            folder,
            file,
            options,
        }) = &self.overlay
        else {
            return Ok(());
        };
        mount(
            Some(c"tmpfs"),
            folder.as_c_str(),
            Some(c"tmpfs"),
            UNUSED,
            Some(c"mode=0755"),
        )?;
        open(
            file.as_c_str(),
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC,
            Mode::from_bits_truncate(0o644),
        )?;
        mount(
            Some(c"overlay"),
            c"/etc",
            Some(c"overlay"),
            MsFlags::MS_RDONLY,
            Some(options.as_c_str()),
        )
    }

    /// Mounts the files of `/etc/netns/NAME` over those of `/etc`.
    fn bind_etc(&self) -> Result<(), Errno> {
        self.binds.iter().try_for_each(Bind::cover)
    }

    /// Covers the directories of resolvers by empty ones.
    fn hide_resolvers(&self) -> Result<(), Errno> {
        for path in &self.hidden {
            match mount(
                Some(c"tmpfs"),
                path.as_c_str(),
                Some(c"tmpfs"),
                UNUSED | MsFlags::MS_RDONLY,
                Some(c"mode=0755"),
            ) {
                // It was removed meanwhile.
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Lowers the command's limits; the others stay the daemon's.
    fn lower_limits(&self) {
        lower_limit(Resource::RLIMIT_NOFILE, FILES, None);
        lower_limit(Resource::RLIMIT_CORE, 0, Some(0));
        if self
            .identity
            .as_ref()
            .is_some_and(|identity| !identity.uid.is_root())
        {
            lower_limit(Resource::RLIMIT_NPROC, PROCESSES, Some(PROCESSES));
        }
    }

    fn become_user(&self) -> Result<(), Errno> {
        if self.confined {
            set_no_new_privs()?;
        }
        let Some(identity) = &self.identity else {
            return Ok(());
        };
        setgroups(&identity.groups)?;
        setgid(identity.gid)?;
        // Last: after it the others would not be allowed.
        setuid(identity.uid)
    }
}

/// Resets ignored and blocked signals, which exec would keep.
fn reset_signals() {
    // The kernel's own call: glibc's keeps two of the real-time signals for itself, and they can be
    // inherited ignored. A `struct sigaction` of zeroes is the default action without flags.
    let default = [0u64; 4];
    for number in 1..=64 {
        // SAFETY: the kernel reads at most those 32 bytes; the default action runs no code of this
        // process. SIGKILL and SIGSTOP refuse, and need no reset.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                8usize,
            )
        };
    }
    let _ = SigSet::empty().thread_set_mask();
}

/// Soft limit of a command's descriptors, which is the most that select(2) handles.
const FILES: u64 = 1024;
/// Limit of the processes that a command's user has on the host, unless it is root.
const PROCESSES: u64 = 4096;

/// Lowers a soft limit, and the hard one if it is given; neither needs a privilege (setrlimit(2)).
fn lower_limit(resource: Resource, soft: u64, hard: Option<u64>) {
    if let Ok((soft_now, hard_now)) = getrlimit(resource) {
        let (soft, hard) = (soft_now.min(soft), hard_now.min(hard.unwrap_or(u64::MAX)));
        let _ = setrlimit(resource, soft, hard); // else the limit stays as it is
    }
}

impl Bind {
    /// Mounts the file on the name itself, not on what a symbolic link there leads to
    /// (open_tree(2), move_mount(2)): replacing that would take the mount away. A directory can
    /// only be mounted on a directory.
    fn cover(&self) -> Result<(), Errno> {
        const OPEN_TREE_CLONE: libc::c_uint = 1;
        const FROM_AND_TO_ARE_OPEN: libc::c_uint =
            libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
        let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint;
        // SAFETY: the path is a string that lives as long as the call; the descriptor that it gives
        // is nobody else's.
        let from = unsafe {
            let fd = Errno::result(libc::syscall(
                libc::SYS_open_tree,
                libc::AT_FDCWD,
                self.from.as_ptr(),
                flags,
            ))?;
            OwnedFd::from_raw_fd(fd as i32)
        };
        let follow = if self.is_dir {
            OFlag::empty()
        } else {
            OFlag::O_NOFOLLOW
        };
        let to = open(
            self.to.as_c_str(),
            OFlag::O_PATH | OFlag::O_CLOEXEC | follow,
            Mode::empty(),
        )?;
        let (from, to, empty) = (from.as_raw_fd(), to.as_raw_fd(), c"".as_ptr());
        // SAFETY: two open descriptors and an empty string.
        let moved = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                from,
                empty,
                to,
                empty,
                FROM_AND_TO_ARE_OPEN,
            )
        };
        Errno::result(moved).map(drop)
    }
}

/// Returns the files of `/etc/netns/NAME` that have their like in `/etc`. Without
/// `/etc/resolv.conf` on the host, also an overlay that gives the namespace's a place there; others
/// without their like are left out, as by ip.
fn collect_binds(name: &Name, has_dns: bool) -> Result<(Option<Overlay>, Vec<Bind>), ProcessError> {
    let folder = etc_dir(name);
    let mut entries = Vec::new();
    match fs::read_dir(&folder) {
        Ok(all) => entries.extend(all.flatten()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(ProcessError::refused(
                format!("read {}", folder.display()),
                errno(&error),
            ));
        }
    }
    let (mut overlay, mut binds, mut resolv_conf) = (None, Vec::new(), false);
    for entry in entries {
        let (file, from) = (entry.file_name(), entry.path());
        if DnsFile::ALL
            .into_iter()
            .any(|dns| *file == *dns.temp_name())
        {
            continue;
        }
        let to = Path::new("/etc").join(&file);
        let is_resolv_conf = *file == *DnsFile::ResolvConf.as_str();
        let Ok(is_dir) = fs::metadata(&from).map(|found| found.is_dir()) else {
            if is_resolv_conf {
                return Err(ProcessError::DanglingLink(from));
            }
            continue;
        };
        let covered = if is_dir {
            fs::metadata(&to)
        } else {
            fs::symlink_metadata(&to)
        };
        match covered {
            Ok(covered) if covered.is_dir() != is_dir => {
                return Err(ProcessError::TypesDiffer { from, to, is_dir });
            }
            Ok(_) => {}
            Err(_) if is_resolv_conf => {
                let options = to_c_path(&format!("lowerdir={}:/etc", folder.display()))?;
                overlay = Some(Overlay {
                    folder: to_c_path(&folder)?,
                    file: to_c_path(&from)?,
                    options,
                });
            }
            Err(_) => continue,
        }
        resolv_conf |= is_resolv_conf;
        binds.push(Bind {
            from: to_c_path(&from)?,
            to: to_c_path(&to)?,
            is_dir,
        });
    }
    if has_dns && !resolv_conf {
        let path = folder.join(DnsFile::ResolvConf.as_str());
        return Err(ProcessError::NoResolvConf(path));
    }
    Ok((overlay, binds))
}

/// Returns the directories of resolvers that are there, each once: `/var/run` is a link to `/run`
/// nearly everywhere.
fn find_resolvers() -> Vec<CString> {
    let found: BTreeSet<PathBuf> = RESOLVERS
        .iter()
        .filter_map(|path| fs::canonicalize(path).ok())
        .collect();
    found
        .into_iter()
        .filter(|path| path.is_dir())
        .filter_map(|path| to_c_path(&path).ok())
        .collect()
}

fn to_c_path(path: &(impl AsRef<std::ffi::OsStr> + ?Sized)) -> Result<CString, ProcessError> {
    CString::new(path.as_ref().as_bytes()).map_err(|_| ProcessError::NulInPath)
}
