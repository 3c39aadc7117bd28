//! What `ip netns exec` does between fork and exec (iproute2, `lib/namespace.c`, `netns_switch`), and changing user.
//!
//! Everything that allocates happens in [`Environment::prepare`]; [`Environment::enter`] makes system calls only,
//! since after a fork of a process with threads any lock, malloc's too, may be held by a thread that is gone.

use std::{
    ffi::{CStr, CString},
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
};

use netnsd_api::Name;
use nix::{
    errno::Errno,
    libc,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::{
        prctl::set_no_new_privs,
        resource::{Resource, getrlimit, setrlimit},
        signal::SigSet,
        statvfs::{FsFlags, statvfs},
    },
    unistd::{chdir, setgid, setgroups, setsid, setuid, write},
};

use crate::access::Identity;

/// A step between fork and exec that can fail; it travels to the parent in the upper half of the error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Session = 1,
    Network,
    Mounts,
    Slave,
    Sys,
    User,
    Directory,
}

impl Step {
    const ALL: [Step; 7] =
        [Step::Session, Step::Network, Step::Mounts, Step::Slave, Step::Sys, Step::User, Step::Directory];

    /// The step in words, to follow "could not".
    pub(super) fn words(self) -> &'static str {
        match self {
            Step::Session => "start a session",
            Step::Network => "enter the network namespace",
            Step::Mounts => "make a mount namespace",
            Step::Slave => "make / a slave mount",
            Step::Sys => "mount /sys",
            Step::User => "change the user",
            Step::Directory => "enter the working directory",
        }
    }

    fn failed(self, errno: Errno) -> io::Error {
        // std hands the raw number to the parent as it is, all 32 bits; error numbers need 12.
        io::Error::from_raw_os_error(((self as i32) << 16) | errno as i32)
    }

    /// Takes a raw error number from a spawn apart: no step means that fork or exec itself failed.
    pub(super) fn split(raw: i32) -> (Option<Step>, Errno) {
        let step = Self::ALL.into_iter().find(|step| *step as i32 == raw >> 16);
        (step, Errno::from_raw(raw & 0xffff))
    }
}

struct Bind {
    from: CString,
    to: CString,
    complaint: String,
}

/// All that a child needs to enter its namespace.
pub(super) struct Environment {
    namespace: OwnedFd,
    name: CString,
    binds: Vec<Bind>,
    identity: Option<Identity>,
    /// Whether it and what it starts can never have more privileges than that (`PR_SET_NO_NEW_PRIVS`).
    confined: bool,
    directory: CString,
    terminal: bool,
}

impl Environment {
    /// Gathers it, before the fork.
    pub(super) fn prepare(
        name: &Name,
        namespace: OwnedFd,
        identity: Option<Identity>,
        confined: bool,
        directory: CString,
        terminal: bool,
    ) -> Self {
        // A name has no NUL byte; should that change, sysfs takes any source.
        let source = CString::new(name.as_str()).unwrap_or_default();
        Self { namespace, name: source, binds: binds(name), identity, confined, directory, terminal }
    }

    /// Enters it: system calls only.
    pub(super) fn enter(&self) -> io::Result<()> {
        reset_signals();
        setsid().map_err(|errno| Step::Session.failed(errno))?;
        if self.terminal {
            // SAFETY: an ioctl without a pointer, on the standard input (TIOCSCTTY, ioctl_tty(2)).
            let result = unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) };
            Errno::result(result).map_err(|errno| Step::Session.failed(errno))?;
        }
        setns(&self.namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| Step::Network.failed(errno))?;
        unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| Step::Mounts.failed(errno))?;
        // Slave: no mount made here reaches the host, those of the host still arrive.
        mount(Some(c""), c"/", Some(c"none"), MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&CStr>)
            .map_err(|errno| Step::Slave.failed(errno))?;
        self.mount_sys().map_err(|errno| Step::Sys.failed(errno))?;
        self.bind_etc();
        self.become_user().map_err(|errno| Step::User.failed(errno))?;
        // As that user, so that nobody is put where they could not go.
        chdir(self.directory.as_c_str()).map_err(|errno| Step::Directory.failed(errno))?;
        keep_only_standard_fds();
        lower_files();
        Ok(())
    }

    /// Mounts the /sys that describes the namespace.
    fn mount_sys(&self) -> Result<(), Errno> {
        let mut flags = MsFlags::empty();
        // Where it cannot be unmounted it is covered; a read-only one can only be covered by a read-only one.
        if umount2(c"/sys", MntFlags::MNT_DETACH).is_err()
            && statvfs(c"/sys").is_ok_and(|sys| sys.flags().contains(FsFlags::ST_RDONLY))
        {
            flags = MsFlags::MS_RDONLY;
        }
        mount(Some(self.name.as_c_str()), c"/sys", Some(c"sysfs"), flags, None::<&CStr>)
    }

    /// Puts the files of /etc/netns/NAME over those of /etc; as with ip, one that cannot be is only complained about.
    fn bind_etc(&self) {
        for bind in &self.binds {
            let from = Some(bind.from.as_c_str());
            if mount(from, bind.to.as_c_str(), Some(c"none"), MsFlags::MS_BIND, None::<&CStr>).is_err() {
                let _ = write(io::stderr(), bind.complaint.as_bytes());
            }
        }
    }

    fn become_user(&self) -> Result<(), Errno> {
        if self.confined {
            set_no_new_privs()?;
        }
        let Some(identity) = &self.identity else { return Ok(()) };
        setgroups(&identity.groups)?;
        setgid(identity.gid)?;
        // Last: after it the others would not be allowed.
        setuid(identity.uid)
    }
}

/// What is ignored or blocked stays so across exec: the daemon's own choices are not the command's.
fn reset_signals() {
    // The kernel's own call: glibc's keeps two of the real-time signals for itself, and they can be inherited ignored.
    // A `struct sigaction` of zeroes is the default action without flags.
    let default = [0u64; 4];
    for number in 1..=64 {
        // SAFETY: the kernel reads at most those 32 bytes; the default action runs no code of this process.
        // SIGKILL and SIGSTOP refuse, and need no reset.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, number, default.as_ptr(), std::ptr::null_mut::<u64>(), 8usize) };
    }
    let _ = SigSet::empty().thread_set_mask();
}

/// How many descriptors a command begins with, which is what `select(2)` knows; up to the hard limit it may take more.
const FILES: u64 = 1024;

fn lower_files() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _stays_as_it_is = setrlimit(Resource::RLIMIT_NOFILE, soft.min(FILES), hard);
    }
}

/// Marks every other descriptor close-on-exec, also those that came from a service manager without the mark.
fn keep_only_standard_fds() {
    // SAFETY: changes a flag of descriptors and closes none, so nothing that owns one is betrayed.
    unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

fn binds(name: &Name) -> Vec<Bind> {
    let folder = format!("/etc/netns/{name}");
    let Ok(entries) = std::fs::read_dir(&folder) else { return Vec::new() };
    let bind = |entry: std::fs::DirEntry| {
        let file = entry.file_name();
        let from = entry.path();
        let to = std::path::Path::new("/etc").join(&file);
        Some(Bind {
            complaint: format!("Bind {} -> {} failed\n", from.display(), to.display()),
            from: CString::new(from.as_os_str().as_bytes()).ok()?,
            to: CString::new(to.as_os_str().as_bytes()).ok()?,
        })
    };
    entries.flatten().filter_map(bind).collect()
}
