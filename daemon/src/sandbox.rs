//! A private host: user (when not root), network and mount namespaces of its own, a tmpfs on `/run`, its own `/etc/netns`.
//!
//! Shared by `netnsd try`, the tests and the benches: none of them changes the machine or needs root. What is done after
//! a fork consists of system calls only; every string is prepared before.

use std::{
    ffi::{CStr, CString},
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{ffi::OsStringExt, process::CommandExt},
    },
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, getegid, geteuid, mkdir, symlinkat, write},
};

/// Everything that setting up needs, prepared before the fork.
struct Setup {
    user: bool,
    uid_map: Vec<u8>,
    gid_map: Vec<u8>,
    /// Entries of `/etc`: where the link is made, and what it leads to.
    etc: Vec<(CString, CString)>,
}

const OLD_ETC: &CStr = c"/run/.etc";

impl Setup {
    fn prepare() -> io::Result<Self> {
        let mut etc = Vec::new();
        for entry in fs::read_dir("/etc")? {
            let name = entry?.file_name().into_vec();
            // The sandbox has an own one.
            if name == b"netns" {
                continue;
            }
            let path = |dir: &[u8]| CString::new([dir, b"/", &name[..]].concat());
            etc.push((path(b"/etc")?, path(OLD_ETC.to_bytes())?));
        }
        let (uid, gid) = (geteuid(), getegid());
        Ok(Self {
            user: !uid.is_root(),
            uid_map: format!("0 {uid} 1").into_bytes(),
            gid_map: format!("0 {gid} 1").into_bytes(),
            etc,
        })
    }

    /// Leaves for the sandbox. Only system calls: it runs between fork and exec.
    fn enter(&self) -> nix::Result<()> {
        let mut flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
        if self.user {
            flags |= CloneFlags::CLONE_NEWUSER;
        }
        unshare(flags)?;
        if self.user {
            write_file(c"/proc/self/setgroups", b"deny")?;
            write_file(c"/proc/self/uid_map", &self.uid_map)?;
            write_file(c"/proc/self/gid_map", &self.gid_map)?;
        }
        let none: Option<&CStr> = None;
        mount(none, c"/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(Some(c"tmpfs"), c"/run", Some(c"tmpfs"), MsFlags::empty(), Some(c"mode=0755"))?;
        // /etc/netns cannot be made by an ordinary user, not even through an overlay: a tmpfs with links into the old /etc can.
        mkdir(OLD_ETC, Mode::from_bits_truncate(0o755))?;
        mount(Some(c"/etc"), OLD_ETC, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
        mount(Some(c"tmpfs"), c"/etc", Some(c"tmpfs"), MsFlags::empty(), Some(c"mode=0755"))?;
        for (link, target) in &self.etc {
            symlinkat(target.as_c_str(), nix::fcntl::AT_FDCWD, link.as_c_str())?;
        }
        mkdir(c"/etc/netns", Mode::from_bits_truncate(0o755))
    }
}

fn write_file(path: &CStr, text: &[u8]) -> nix::Result<()> {
    let file = open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    write(&file, text).map(drop)
}

/// What a failure to make a sandbox means, and what to do.
fn explain(error: io::Error) -> io::Error {
    let errno = error.raw_os_error().map(Errno::from_raw);
    match errno {
        Some(Errno::EPERM | Errno::EACCES | Errno::ENOSPC | Errno::EINVAL) if !geteuid().is_root() => io::Error::new(
            error.kind(),
            format!(
                "this system does not let ordinary users make user namespaces ({error}): run it as root, or allow them \
                 (sysctl user.max_user_namespaces=10000, and where they exist kernel.unprivileged_userns_clone=1 and \
                 kernel.apparmor_restrict_unprivileged_userns=0)"
            ),
        ),
        _ => io::Error::new(error.kind(), format!("a sandbox cannot be made ({error})")),
    }
}

/// Leaves for a sandbox, with this whole process, which must have one thread only.
///
/// # Errors
/// A sentence that says what is missing; mostly that user namespaces are forbidden.
pub fn enter() -> io::Result<()> {
    Setup::prepare()?.enter().map_err(|errno| explain(errno.into()))?;
    loopback_up()
}

/// Sets `lo` of the sandbox's own host up, as on any host.
fn loopback_up() -> io::Result<()> {
    nix::ioctl_readwrite_bad!(set_interface_flags, nix::libc::SIOCSIFFLAGS, nix::libc::ifreq);
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: an all-zero ifreq is a valid one: integers, and a name that is empty.
    let mut request: nix::libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = *from as nix::libc::c_char;
    }
    request.ifr_ifru.ifru_flags = nix::libc::IFF_UP as nix::libc::c_short;
    // SAFETY: the request outlives the call, which reads a name and flags of it (netdevice(7)).
    unsafe { set_interface_flags(socket.as_raw_fd(), &raw mut request) }?;
    Ok(())
}

/// A sandbox beside this process, held by a process in it until it is dropped.
#[derive(Debug)]
pub struct Sandbox {
    holder: Child,
    /// The holder ends when this does, also when the test is killed.
    _line: Option<ChildStdin>,
    namespaces: Vec<OwnedFd>,
}

impl Sandbox {
    /// Makes a sandbox.
    ///
    /// # Errors
    /// A sentence that says what is missing; mostly that user namespaces are forbidden.
    pub fn new() -> io::Result<Self> {
        let setup = Setup::prepare()?;
        let user = setup.user;
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        // SAFETY: between fork and exec only system calls are made, with strings prepared before.
        unsafe { command.pre_exec(move || setup.enter().map_err(io::Error::from)) };
        let mut holder = command.spawn().map_err(explain)?;
        let line = holder.stdin.take();
        let names: &[&str] = if user { &["user", "mnt", "net"] } else { &["mnt", "net"] };
        let open_ns = |name: &&str| fs::File::open(format!("/proc/{}/ns/{name}", holder.id())).map(OwnedFd::from);
        let namespaces = names.iter().map(open_ns).collect::<io::Result<_>>()?;
        let sandbox = Self { holder, _line: line, namespaces };
        let up = sandbox.command("ip").args(["link", "set", "lo", "up"]).status()?;
        if !up.success() {
            return Err(io::Error::other("lo of the sandbox cannot be set up"));
        }
        Ok(sandbox)
    }

    /// A process in it, for `nsenter --target`.
    pub fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// A command that will run in it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let namespaces: Vec<i32> = self.namespaces.iter().map(AsRawFd::as_raw_fd).collect();
        let mut command = Command::new(program);
        let join = move || {
            for ns in &namespaces {
                // SAFETY: the sandbox, which outlives the spawning of its commands, owns the descriptor.
                let ns = unsafe { std::os::fd::BorrowedFd::borrow_raw(*ns) };
                setns(ns, CloneFlags::empty())?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec only setns(2) is called.
        unsafe { command.pre_exec(join) };
        command
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let home = fs::read_link(format!("/proc/{}/ns/mnt", self.holder.id())).ok();
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let inside = home.is_some() && mount_namespace(&process.path()) == home;
            if let (true, Some(pid)) = (inside, process.file_name().to_str().and_then(|pid| pid.parse().ok())) {
                let _gone_meanwhile = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let _gone_meanwhile = self.holder.kill();
        let _reaped = self.holder.wait();
    }
}

fn mount_namespace(process: &Path) -> Option<std::path::PathBuf> {
    fs::read_link(process.join("ns/mnt")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(sandbox: &Sandbox, script: &str) -> String {
        let output = sandbox.command("sh").args(["-c", script]).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    #[test]
    fn a_sandbox_is_a_host_of_its_own_and_leaves_nothing() {
        let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let sandbox = Sandbox::new().unwrap();
        assert_eq!(run(&sandbox, "ls /sys/class/net >/dev/null; ip -o link | wc -l; id -u"), "1\n0");
        run(
            &sandbox,
            "ip netns add a && ip -n a link set lo up && ip netns exec a true && mkdir /etc/netns/a && test -e /etc/passwd",
        );
        let mut sleeper = sandbox.command("sleep").arg("1000").spawn().unwrap();
        drop(sandbox);
        assert!(!sleeper.wait().unwrap().success());
        assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    }
}
