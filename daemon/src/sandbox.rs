//! Sandbox: a private host for the demo, the tests and the benches.
//!
//! It has its own network and mount namespaces, a user namespace if the process is not privileged, a
//! tmpfs on `/run` and its own `/etc/netns`. What is done inside does not change the machine; `/tmp`
//! and all other directories are the machine's.

use std::{
    collections::HashSet,
    ffi::{CStr, CString, OsStr},
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    libc,
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, chdir, getegid, geteuid, getpid, mkdir, symlinkat, write},
};

/// Moves this process, which must have only one thread, into a new sandbox.
///
/// # Errors
/// Those of the kernel; if it forbids such namespaces to this user, the error says what to do.
pub fn enter() -> io::Result<()> {
    let setup = Setup::prepare()?;
    let cwd = std::env::current_dir().ok();
    setup
        .execute()
        .map_err(|errno| explain_refusal(errno, setup.maps.is_some()))?;
    if let Some(cwd) = cwd {
        let _ = std::env::set_current_dir(cwd); // A mount may cover it now.
    }
    Ok(())
}

/// Arguments of the set-up, prepared before a fork: after it only system calls are safe.
struct Setup {
    /// Maps of user and group ids; `None` if no user namespace is needed.
    maps: Option<IdMaps>,
    /// Symbolic links of the new `/etc`: target and path.
    etc: Vec<(CString, CString)>,
    /// Directories below `/run` that must stay reachable.
    kept: Vec<KeptDir>,
}

/// Lines of `uid_map` and `gid_map` (user_namespaces(7)).
struct IdMaps {
    uid: String,
    gid: String,
}

/// Directory with its parents, outermost first.
struct KeptDir {
    parents: Vec<CString>,
    path: CString,
}

impl Setup {
    fn prepare() -> io::Result<Self> {
        let maps = (!is_privileged()).then(|| IdMaps {
            uid: format!("0 {} 1", geteuid()),
            gid: format!("0 {} 1", getegid()),
        });
        let wanted = [std::env::temp_dir()]
            .into_iter()
            .chain(std::env::current_dir());
        let exe = std::env::current_exe()
            .ok()
            .and_then(|exe| exe.parent().map(Path::to_owned));
        let kept = wanted
            .chain(exe)
            .filter_map(|dir| fs::canonicalize(dir).ok())
            .filter(|dir| dir.starts_with("/run") && dir != Path::new("/run"))
            .map(|dir| KeptDir::new(&dir))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            maps,
            etc: etc_links()?,
            kept,
        })
    }

    /// Creates the namespaces and mounts; makes system calls only.
    fn execute(&self) -> nix::Result<()> {
        let mut flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
        if self.maps.is_some() {
            flags |= CloneFlags::CLONE_NEWUSER;
        }
        unshare(flags)?;
        if let Some(maps) = &self.maps {
            write_file(c"/proc/self/setgroups", b"deny")?;
            write_file(c"/proc/self/uid_map", maps.uid.as_bytes())?;
            write_file(c"/proc/self/gid_map", maps.gid.as_bytes())?;
        }
        mount(
            None::<&CStr>,
            c"/",
            None::<&CStr>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&CStr>,
        )?;
        self.cover_run()?;
        self.cover_etc()?;
        set_loopback_up()
    }

    fn cover_run(&self) -> nix::Result<()> {
        // An open directory stays reachable after a mount covers its path. A fixed array is enough
        // for the few kept ones; a vector would allocate after the fork.
        let mut opened = [const { None::<OwnedFd> }; 3];
        for (slot, kept) in opened.iter_mut().zip(&self.kept) {
            *slot = Some(open(
                kept.path.as_c_str(),
                OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
                Mode::empty(),
            )?);
        }
        mount_tmpfs(c"/run")?;
        for (slot, kept) in opened.iter().zip(&self.kept) {
            let Some(fd) = slot else { continue };
            for parent in &kept.parents {
                make_dir(parent)?;
            }
            bind_mount(fd_path(fd.as_raw_fd(), &mut [0; 32]), &kept.path)?;
        }
        Ok(())
    }

    fn cover_etc(&self) -> nix::Result<()> {
        make_dir(c"/run/.etc")?;
        bind_mount(c"/etc", c"/run/.etc")?;
        mount_tmpfs(c"/etc")?;
        for (target, link) in &self.etc {
            symlinkat(target.as_c_str(), nix::fcntl::AT_FDCWD, link.as_c_str())?;
        }
        make_dir(c"/etc/netns")
    }
}

impl KeptDir {
    fn new(path: &Path) -> io::Result<Self> {
        let mut parents: Vec<_> = path
            .ancestors()
            .filter(|dir| *dir != Path::new("/") && *dir != Path::new("/run"))
            .collect();
        parents.reverse();
        let parents = parents.into_iter().map(c_path).collect::<io::Result<_>>()?;
        Ok(Self {
            parents,
            path: c_path(path)?,
        })
    }
}

/// Returns a symbolic link for each entry of `/etc` but `netns`.
fn etc_links() -> io::Result<Vec<(CString, CString)>> {
    let mut links = Vec::new();
    for entry in fs::read_dir("/etc")? {
        let entry = entry?;
        if entry.file_name() == "netns" {
            continue;
        }
        // A symbolic link is copied: a relative one would lead elsewhere from `/run/.etc`.
        let target = match fs::read_link(entry.path()) {
            Ok(target) => target,
            Err(_) => Path::new("/run/.etc").join(entry.file_name()),
        };
        links.push((c_path(&target)?, c_path(&entry.path())?));
    }
    Ok(links)
}

/// Returns true if this process may create network and mount namespaces without a user namespace.
fn is_privileged() -> bool {
    const NET_ADMIN: u64 = 1 << 12;
    const SYS_ADMIN: u64 = 1 << 21;
    geteuid().is_root()
        && effective_capabilities() & (NET_ADMIN | SYS_ADMIN) == NET_ADMIN | SYS_ADMIN
}

/// Returns the effective capabilities of this process as a bit set (`CapEff`,
/// proc_pid_status(5)).
pub(crate) fn effective_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

/// Returns the error of a refused set-up, with advice.
fn explain_refusal(errno: Errno, with_user_namespace: bool) -> io::Error {
    if !matches!(
        errno,
        Errno::EPERM | Errno::EACCES | Errno::ENOSPC | Errno::EUSERS | Errno::EINVAL
    ) {
        return errno.into();
    }
    let advice = if !with_user_namespace {
        "this process lacks CAP_SYS_ADMIN or the container it runs in forbids mounts: run it on a host or in a \
         privileged container"
    } else if read_setting("/proc/sys/user/max_user_namespaces").as_deref() == Some("0") {
        "allow them by `sysctl -w user.max_user_namespaces=10000`, or run this as root with sudo"
    } else if read_setting("/proc/sys/kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        "allow them by `sysctl -w kernel.unprivileged_userns_clone=1`, or run this as root with sudo"
    } else if read_setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref()
        == Some("1")
    {
        "allow them by `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or run this as root with sudo"
    } else {
        "the limits or the security policy of this system or container forbid it: run this as root with sudo"
    };
    let what = if with_user_namespace {
        "an unprivileged user namespace"
    } else {
        "network and mount namespaces"
    };
    let text = format!(
        "{what} for the sandbox could not be set up ({}): {advice}",
        errno.desc()
    );
    io::Error::new(io::ErrorKind::PermissionDenied, text)
}

/// Returns the value of a file of `/proc/sys`; `None` if the kernel has no such file.
fn read_setting(path: &str) -> Option<String> {
    let value = fs::read_to_string(path).ok()?;
    Some(value.trim().to_owned())
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn write_file(path: &CStr, content: &[u8]) -> nix::Result<()> {
    let file = open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    write(&file, content).map(drop)
}

fn make_dir(path: &CStr) -> nix::Result<()> {
    match mkdir(path, Mode::from_bits_truncate(0o755)) {
        Err(Errno::EEXIST) => Ok(()),
        other => other,
    }
}

fn mount_tmpfs(on: &CStr) -> nix::Result<()> {
    mount(
        Some(c"tmpfs"),
        on,
        Some(c"tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some(c"mode=0755"),
    )
}

/// Binds a directory with the mounts below it: in a user namespace those are locked and cannot be
/// left out (mount_namespaces(7)).
fn bind_mount(from: &CStr, to: &CStr) -> nix::Result<()> {
    mount(
        Some(from),
        to,
        None::<&CStr>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&CStr>,
    )
}

/// Returns `/proc/self/fd/FD` without allocating.
fn fd_path(fd: i32, buffer: &mut [u8; 32]) -> &CStr {
    use std::io::Write as _;
    // The buffer is long enough for any number.
    let _ = write!(&mut buffer[..31], "/proc/self/fd/{fd}");
    CStr::from_bytes_until_nul(buffer).unwrap_or(c"")
}

fn set_loopback_up() -> nix::Result<()> {
    // SAFETY: plain system calls on a socket that is ours; `ifreq` is valid when all zero.
    unsafe {
        let fd = Errno::result(libc::socket(
            libc::AF_INET,
            libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
            0,
        ))?;
        let socket = OwnedFd::from_raw_fd(fd);
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        Errno::result(libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &request,
        ))
        .map(drop)
    }
}

/// Sandbox for other processes, held open by a process that ends with this one.
#[derive(Debug)]
pub struct Sandbox {
    holder: Child,
    user: Option<OwnedFd>,
    mnt: OwnedFd,
    net: OwnedFd,
}

impl Sandbox {
    /// Creates a sandbox.
    ///
    /// # Errors
    /// As [`enter`].
    pub fn new() -> io::Result<Self> {
        let setup = Setup::prepare()?;
        let with_user = setup.maps.is_some();
        // cat ends when the pipe is closed: when this process ends, for whatever reason.
        let mut command = Command::new("/bin/cat");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/");
        // SAFETY: between fork and exec only system calls are made, on strings that exist already.
        unsafe { command.pre_exec(move || setup.execute().map_err(io::Error::from)) };
        let mut holder = command
            .spawn()
            .map_err(|error| match error.raw_os_error() {
                Some(code) => explain_refusal(Errno::from_raw(code), with_user),
                None => error,
            })?;
        match open_namespaces(holder.id(), with_user) {
            Ok((user, mnt, net)) => Ok(Self {
                holder,
                user,
                mnt,
                net,
            }),
            Err(error) => {
                let _ = holder.kill();
                let _ = holder.wait();
                Err(error)
            }
        }
    }

    /// Returns a command that will run inside, in the working directory that it would have outside.
    ///
    /// # Errors
    /// If no more files can be opened.
    pub fn command(&self, program: impl AsRef<OsStr>) -> io::Result<Command> {
        let user = self.user.as_ref().map(OwnedFd::try_clone).transpose()?;
        let (mnt, net) = (self.mnt.try_clone()?, self.net.try_clone()?);
        let mut command = Command::new(program);
        // SAFETY: only system calls, on file descriptors opened before.
        unsafe {
            command.pre_exec(move || {
                enter_namespaces(user.as_ref(), &mnt, &net).map_err(io::Error::from)
            })
        };
        Ok(command)
    }

    /// Runs a command inside and waits for its end.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn run<S: AsRef<OsStr>>(&self, argv: &[S]) -> io::Result<Output> {
        let (program, arguments) = argv
            .split_first()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no program given"))?;
        self.command(program)?
            .args(arguments)
            .stdin(Stdio::null())
            .output()
    }

    /// Returns the process id for `nsenter --target`.
    pub fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// Returns the path of the sandbox's root directory from outside.
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.holder.id()))
    }

    /// Kills all processes in these namespaces; returns true if there was none.
    fn kill_processes(&self, namespaces: &HashSet<u64>) -> bool {
        let mut was_empty = true;
        for pid in
            processes().filter(|pid| *pid != getpid().as_raw() && *pid as u32 != self.holder.id())
        {
            let is_inside = ["user", "mnt", "net"]
                .iter()
                .filter_map(|kind| fs::metadata(format!("/proc/{pid}/ns/{kind}")).ok())
                .any(|namespace| namespaces.contains(&namespace.ino()));
            // A zombie has no namespaces any more.
            if is_inside && kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok() {
                was_empty = false;
            }
        }
        was_empty
    }

    /// Returns the inodes of the sandbox's namespaces and of those named in its `/run/netns`.
    fn namespaces(&self) -> HashSet<u64> {
        let own = |kind: &str| {
            fs::metadata(format!("/proc/self/ns/{kind}"))
                .map(|namespace| namespace.ino())
                .ok()
        };
        let held = |fd: &OwnedFd| {
            nix::sys::stat::fstat(fd)
                .map(|namespace| namespace.st_ino)
                .ok()
        };
        let named = fs::read_dir(self.root().join("run/netns"))
            .into_iter()
            .flatten()
            .flatten();
        let mut found: HashSet<u64> = named
            .filter_map(|entry| entry.metadata().ok())
            .map(|entry| entry.ino())
            .collect();
        found.extend(
            [self.user.as_ref(), Some(&self.mnt), Some(&self.net)]
                .into_iter()
                .flatten()
                .filter_map(held),
        );
        // A namespace of the machine itself may have been attached: its processes must live.
        for machine in ["user", "mnt", "net"].into_iter().filter_map(own) {
            found.remove(&machine);
        }
        found
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let namespaces = self.namespaces();
        // A killed process may have forked just before: repeat until none is found.
        for _ in 0..100 {
            if self.kill_processes(&namespaces) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

type Namespaces = (Option<OwnedFd>, OwnedFd, OwnedFd);

fn open_namespaces(pid: u32, with_user: bool) -> io::Result<Namespaces> {
    let namespace =
        |kind: &str| fs::File::open(format!("/proc/{pid}/ns/{kind}")).map(OwnedFd::from);
    let user = with_user.then(|| namespace("user")).transpose()?;
    Ok((user, namespace("mnt")?, namespace("net")?))
}

/// Enters a sandbox; makes system calls only.
fn enter_namespaces(user: Option<&OwnedFd>, mnt: &OwnedFd, net: &OwnedFd) -> nix::Result<()> {
    // Entering a mount namespace changes the working directory to its root (setns(2)).
    let mut cwd = [0u8; libc::PATH_MAX as usize];
    // SAFETY: the pointer and the length are those of one live buffer.
    let known = !unsafe { libc::getcwd(cwd.as_mut_ptr().cast(), cwd.len()) }.is_null();
    // The user namespace first: it gives the right to enter the others.
    if let Some(user) = user {
        setns(user, CloneFlags::CLONE_NEWUSER)?;
    }
    setns(mnt, CloneFlags::CLONE_NEWNS)?;
    setns(net, CloneFlags::CLONE_NEWNET)?;
    if known && let Ok(path) = CStr::from_bytes_until_nul(&cwd) {
        let _ = chdir(path); // It may be covered inside; the root directory stays then.
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stdout(sandbox: &Sandbox, script: &str) -> String {
        let output = sandbox.run(&["/bin/sh", "-c", script]).unwrap();
        assert!(
            output.status.success(),
            "{script}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn sandbox_has_its_own_network_run_and_etc() {
        let sandbox = Sandbox::new().unwrap();
        let links = stdout(&sandbox, "ip -o link show up");
        assert_eq!(links.lines().count(), 1, "{links}");
        assert!(links.contains("lo:"));
        assert_eq!(stdout(&sandbox, "ls /etc/netns; ls -A /run"), ".etc\n");
        assert_eq!(stdout(&sandbox, "id -u"), "0\n");
        assert!(stdout(&sandbox, "cat /etc/passwd").contains("root"));
    }

    #[test]
    fn namespaces_inside_are_not_seen_outside() {
        let sandbox = Sandbox::new().unwrap();
        stdout(
            &sandbox,
            "ip netns add sandboxed && ip netns exec sandboxed true && mkdir /etc/netns/sandboxed",
        );
        assert!(!Path::new("/run/netns/sandboxed").exists());
        assert!(!Path::new("/etc/netns/sandboxed").exists());
        assert!(sandbox.root().join("run/netns/sandboxed").exists());
    }

    #[test]
    fn sandboxes_are_separate() {
        let (one, two) = (Sandbox::new().unwrap(), Sandbox::new().unwrap());
        stdout(&one, "ip link add br0 type bridge");
        assert!(!stdout(&two, "ip -o link").contains("br0"));
    }

    #[test]
    fn working_directory_is_kept() {
        let sandbox = Sandbox::new().unwrap();
        let output = sandbox
            .command("pwd")
            .unwrap()
            .current_dir("/usr/bin")
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "/usr/bin\n");
    }

    #[test]
    fn drop_kills_all_processes_inside() {
        let sandbox = Sandbox::new().unwrap();
        stdout(&sandbox, "ip netns add inner");
        let mut direct = sandbox
            .command("sleep")
            .unwrap()
            .arg("1000")
            .spawn()
            .unwrap();
        let script = "echo; exec sleep 1000";
        let mut nested = sandbox.command("ip").unwrap();
        let mut nested = nested
            .args(["netns", "exec", "inner", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Its line shows that it has entered the namespace.
        io::Read::read_exact(nested.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        drop(sandbox);
        assert!(!direct.wait().unwrap().success());
        assert!(!nested.wait().unwrap().success());
    }
}
