//! A control group (cgroups(7), version 2) for each command, where systemd has delegated the
//! service's own to the daemon (`Delegate=`, systemd's CGROUP_DELEGATION.md).
//!
//! `cgroup.kill` ends everything in a group, also processes that left the command's process group
//! by setsid(2). Elsewhere (sandboxes, containers, version 1) commands have none, and only their
//! process group is killed.
//!
//! No controller is enabled in `cgroup.subtree_control`, so there are no limits here. With one
//! enabled, no process may be in the service's own group (`cgroup_migrate_vet_dst()`,
//! kernel/cgroup/cgroup.c), and systemd before 254 starts the service there: after a crash of the
//! daemon, a detached process would make each start fail with EBUSY.

use std::{
    ffi::{CStr, CString},
    fs::{self, File},
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::sleep,
    time::Duration,
};

use nix::{
    libc,
    sys::statfs::{CGROUP2_SUPER_MAGIC, statfs},
};
use tracing::warn;

/// Directory of the groups of commands, below the service's own.
const COMMANDS: &str = "commands";

/// Time between two attempts to remove the group of a command that was killed, and their number:
/// killed processes are in the group until they have been reaped.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
const RETRIES: usize = 100;

/// Control groups of commands, below the delegated one.
struct CommandCgroups {
    directory: PathBuf,
    next: AtomicU64,
    /// Groups whose commands are over, and in which processes live that detached themselves.
    left_behind: Mutex<Vec<PathBuf>>,
}

/// The control group of one command. Dropped, it is removed, or noted for later if processes are
/// left in it.
pub(super) struct CommandCgroup {
    cgroups: &'static CommandCgroups,
    path: PathBuf,
    procs: File,
}

/// Returns the groups of this process; `None` without delegation.
fn of_this_process() -> Option<&'static CommandCgroups> {
    static CGROUPS: OnceLock<Option<CommandCgroups>> = OnceLock::new();
    CGROUPS
        .get_or_init(|| {
            let directory = delegated_directory()?;
            CommandCgroups::open(&directory)
                .inspect_err(|error| warn!(%error, "cannot create control groups for commands"))
                .ok()
        })
        .as_ref()
}

/// Removes empty groups that an earlier run of the daemon left.
pub(super) fn remove_leftovers() {
    // Opening them does that.
    of_this_process();
}

/// Returns the directory of this process's control group, if systemd has delegated it.
fn delegated_directory() -> Option<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if statfs(root).ok()?.filesystem_type() != CGROUP2_SUPER_MAGIC {
        return None;
    }
    let all = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = all.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let directory = root.join(own);
    // cgroup.kill came with Linux 5.14.
    (is_delegated(&directory) && directory.join("cgroup.kill").exists()).then_some(directory)
}

/// Returns true if systemd has marked the group as delegated: `trusted.delegate`, and since
/// version 251 `user.delegate`, is 1.
fn is_delegated(directory: &Path) -> bool {
    let Ok(path) = CString::new(directory.as_os_str().as_bytes()) else {
        return false;
    };
    [c"trusted.delegate", c"user.delegate"]
        .into_iter()
        .any(|name| xattr_is_one(&path, name))
}

fn xattr_is_one(path: &CStr, name: &CStr) -> bool {
    let mut value = [0u8; 2];
    // SAFETY: two strings that end with NUL, and a buffer of the length that is given.
    let length = unsafe {
        libc::getxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    length == 1 && value[0] == b'1'
}

impl CommandCgroups {
    /// Opens the groups below a delegated one, and removes those that are empty.
    fn open(delegated: &Path) -> io::Result<Self> {
        let directory = delegated.join(COMMANDS);
        create_directory(&directory)?;

        let mut left_behind = Vec::new();
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                left_behind.push(entry.path());
            }
        }
        let cgroups = Self {
            directory,
            next: AtomicU64::new(1),
            left_behind: Mutex::new(left_behind),
        };
        cgroups.remove_empty();
        Ok(cgroups)
    }

    /// Creates the group of a command.
    fn create(&'static self) -> io::Result<CommandCgroup> {
        let path = loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let path = self.directory.join(number.to_string());
            match fs::create_dir(&path) {
                Ok(()) => break path,
                // A process that a command of an earlier run left behind lives there.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        };
        let procs = File::options().write(true).open(path.join("cgroup.procs"));
        match procs {
            Ok(procs) => Ok(CommandCgroup {
                cgroups: self,
                path,
                procs,
            }),
            Err(error) => {
                let _ = fs::remove_dir(&path); // nothing is in it
                Err(error)
            }
        }
    }

    /// Removes the groups left behind that have become empty.
    fn remove_empty(&self) {
        self.left_behind
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|path| !is_removed(path));
    }
}

impl CommandCgroup {
    /// Creates a group for a command; `None` without delegation, or if the kernel refuses.
    pub(super) fn create() -> Option<Self> {
        of_this_process()?
            .create()
            .inspect_err(|error| warn!(%error, "cannot create a control group for a command"))
            .ok()
    }

    /// Moves the calling process into the group: one system call, for a child after its fork.
    ///
    /// clone3(2) with `CLONE_INTO_CGROUP` would start it there; but a child that glibc's fork(3)
    /// did not make may find locks held, in glibc's setuid(2) too, by threads that it does not
    /// have.
    pub(super) fn enter(&self) {
        use std::io::Write;
        // If it fails, the process group is still killed.
        let _ = (&self.procs).write(b"0");
    }

    /// Kills all processes in the group (`cgroup.kill`), also those that are being forked.
    pub(super) fn kill(&self) {
        if let Err(error) = fs::write(self.path.join("cgroup.kill"), "1") {
            warn!(%error, "cannot kill the control group of a command");
        }
    }

    /// Removes the group after [`Self::kill`], as soon as its processes have ended. It blocks.
    pub(super) fn remove_killed(self) {
        for _ in 0..RETRIES {
            if is_removed(&self.path) {
                return;
            }
            sleep(RETRY_INTERVAL);
        }
    }
}

impl Drop for CommandCgroup {
    fn drop(&mut self) {
        self.cgroups.remove_empty();
        if !is_removed(&self.path) {
            self.cgroups
                .left_behind
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(self.path.clone());
        }
    }
}

fn create_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes a group if nothing is in it; returns true if it is gone.
fn is_removed(path: &Path) -> bool {
    match fs::remove_dir(path) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::process::CommandExt,
        process::{Child, Command, Stdio},
        time::Instant,
    };

    use super::*;
    use crate::skip::{skip, skip_unless_root};

    /// Groups below a directory of the test's own in the machine's cgroup2; `None`, with a line
    /// that says so, without the privilege or the file system.
    fn cgroups(name: &str) -> Option<(PathBuf, &'static CommandCgroups)> {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let root = mounts.lines().find_map(|line| {
            let mut words = line.split(' ').skip(1);
            words.next().filter(|_| words.next() == Some("cgroup2"))
        });
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let (Some(root), Some(own)) = (root, own) else {
            skip("no cgroup2 file system is mounted");
            return None;
        };
        let delegated = Path::new(root)
            .join(own)
            .join(format!("netnsd-test-{name}-{}", std::process::id()));
        if let Err(error) = fs::create_dir(&delegated) {
            skip_unless_root(&format!("cannot create a control group: {error}"));
            return None;
        }
        let cgroups = CommandCgroups::open(&delegated).unwrap();
        Some((delegated, Box::leak(Box::new(cgroups))))
    }

    fn remove(delegated: &Path) {
        fs::remove_dir(delegated.join(COMMANDS)).unwrap();
        fs::remove_dir(delegated).unwrap();
    }

    /// Starts a shell in a group, which detaches a process and then does `last`.
    fn spawn(cgroup: &CommandCgroup, last: &str) -> Child {
        let procs = cgroup.procs.try_clone().unwrap();
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("setsid sleep 1000 & {last}")])
            .stdout(Stdio::null());
        // SAFETY: one system call.
        unsafe {
            command.pre_exec(move || {
                use std::io::Write;
                (&procs).write(b"0").map(drop)
            })
        };
        command.spawn().unwrap()
    }

    fn processes(path: &Path) -> usize {
        fs::read_to_string(path.join("cgroup.procs")).map_or(0, |text| text.lines().count())
    }

    fn wait_until(description: &str, condition: impl Fn() -> bool) {
        let started = Instant::now();
        while !condition() {
            assert!(started.elapsed() < Duration::from_secs(60), "{description}");
            sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn kill_ends_a_process_that_left_by_setsid() {
        let Some((delegated, cgroups)) = cgroups("kill") else {
            return;
        };
        let cgroup = cgroups.create().unwrap();
        let path = cgroup.path.clone();
        let mut shell = spawn(&cgroup, "sleep 1000");
        wait_until("the command starts two processes", || processes(&path) == 3);

        cgroup.kill();
        shell.wait().unwrap();
        cgroup.remove_killed();

        assert!(!path.exists(), "the group of a killed command is left");
        remove(&delegated);
    }

    #[test]
    fn detached_process_outlives_a_normal_exit() {
        let Some((delegated, cgroups)) = cgroups("exit") else {
            return;
        };
        let cgroup = cgroups.create().unwrap();
        let path = cgroup.path.clone();
        let mut shell = spawn(&cgroup, "exit 0");
        shell.wait().unwrap();
        drop(cgroup);
        assert_eq!(processes(&path), 1, "processes left after a normal exit");

        // The next run of the daemon finds the group, and removes it once it is empty.
        let next = CommandCgroups::open(&delegated).unwrap();
        assert!(path.exists(), "a group with a process in it was removed");
        fs::write(path.join("cgroup.kill"), "1").unwrap();
        wait_until("the group is removed", || {
            next.remove_empty();
            !path.exists()
        });
        remove(&delegated);
    }

    #[test]
    fn group_without_delegation_is_not_used() {
        assert!(!is_delegated(Path::new("/")));
    }
}
