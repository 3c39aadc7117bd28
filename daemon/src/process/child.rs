//! Child processes: fork, exec and reaping, on a thread for each.
//!
//! execve(2) takes as long as others like: opening the program waits for the holder of a lease
//! (`break_lease()`, fs/locks.c) or for a FUSE server, and so does chdir(2). So nobody else waits
//! on the thread that does, and the child can be killed from the fork on.

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read},
    mem,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::process::ExitStatusExt,
    },
    process::ExitStatus,
    ptr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use netnsd_netlink::errno_of as errno;
use nix::{
    errno::Errno,
    fcntl::OFlag,
    libc,
    sys::{
        signal::{Signal, kill, killpg},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::{ForkResult, Pid, fork, pipe2},
};
use tokio::{runtime::Handle, sync::oneshot, time::timeout};

use super::{ProcessError, cgroup::CommandCgroup, environment::Environment, permits::Permit};

/// A program with its arguments and its environment, as execve(2) takes them.
pub(super) struct Image {
    argv: Vec<CString>,
    env: Vec<CString>,
}

impl Image {
    /// Makes one of strings without NUL bytes.
    pub(super) fn new<'s>(
        argv: &[String],
        env: impl IntoIterator<Item = (&'s String, &'s String)>,
    ) -> Result<Self, std::ffi::NulError> {
        let argv = argv
            .iter()
            .map(|argument| CString::new(argument.as_str()))
            .collect::<Result<_, _>>()?;
        let env = env
            .into_iter()
            .map(|(key, value)| CString::new(format!("{key}={value}")))
            .collect::<Result<_, _>>()?;
        Ok(Self { argv, env })
    }
}

/// Progress of a child.
enum State {
    /// It is not forked yet.
    Starting,
    /// It was killed before the fork, which is not done any more.
    Cancelled,
    /// It is not reaped: its number is nobody else's.
    Forked {
        pid: Pid,
        /// `None` without systemd's delegation.
        cgroup: Option<CommandCgroup>,
        /// True after [`Process::kill`].
        killed: bool,
    },
    Reaped,
}

/// A child as the thread that reaps it, and those who kill it, share it.
pub(super) struct Process(Mutex<State>);

unsafe extern "C" {
    /// Environment of this process (environ(7)), in which execvp(3) looks for `PATH`.
    static mut environ: *const *const libc::c_char;
}

impl Process {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forks the child and waits until it has become the program. `stdio` become its standard
    /// input, output and error; no other descriptor is left to it, not even until then: it would
    /// keep connections, and the pipes of other children, open.
    ///
    /// # Errors
    /// A raw number for [`super::environment::Step::split`].
    pub(super) fn fork(
        &self,
        image: &Image,
        environment: &Environment,
        stdio: [OwnedFd; 3],
    ) -> io::Result<()> {
        let pointers = |strings: &[CString]| -> Vec<_> {
            strings
                .iter()
                .map(|string| string.as_ptr())
                .chain([ptr::null()])
                .collect()
        };
        let (argv, env) = (pointers(&image.argv), pointers(&image.env));
        let (report, reporter) = pipe2(OFlag::O_CLOEXEC)?;
        let cgroup = CommandCgroup::create();
        {
            let mut state = self.state();
            if matches!(*state, State::Cancelled) {
                return Err(Errno::ECANCELED.into());
            }
            // SAFETY: the child makes system calls only, on what was made before the fork.
            match unsafe { fork() }? {
                ForkResult::Parent { child } => {
                    *state = State::Forked {
                        pid: child,
                        cgroup,
                        killed: false,
                    }
                }
                ForkResult::Child => {
                    if let Some(cgroup) = &cgroup {
                        cgroup.enter();
                    }
                    let stdio = stdio.each_ref().map(AsRawFd::as_raw_fd);
                    let raw = become_program(&argv, &env, environment, stdio, reporter.as_raw_fd())
                        .to_ne_bytes();
                    // SAFETY: writes four bytes that live as long as the call, and ends the child
                    // without running anything else of it.
                    unsafe {
                        libc::write(reporter.as_raw_fd(), raw.as_ptr().cast(), raw.len());
                        libc::_exit(127)
                    }
                }
            }
        }
        drop((reporter, stdio));
        let mut raw = [0; 4];
        match File::from(report).read_exact(&mut raw) {
            Ok(()) => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(raw))),
            // The kernel has closed its end: the child is the program now, or was killed before.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Kills the child, its process group and its control group, if it has them; one that is not
    /// forked yet never is.
    fn kill(&self) {
        let mut state = self.state();
        match &mut *state {
            State::Starting => *state = State::Cancelled,
            State::Forked {
                pid,
                cgroup,
                killed,
            } => {
                *killed = true;
                // They can only fail because nobody is left.
                let _ = kill(*pid, Signal::SIGKILL);
                let _ = killpg(*pid, Signal::SIGKILL);
                if let Some(cgroup) = cgroup {
                    cgroup.kill();
                }
            }
            State::Cancelled | State::Reaped => {}
        }
    }

    /// Waits for the child's end. Returns its control group too, if processes that it started were
    /// killed in there with it; those that it left running are left alone from then on.
    fn reap(&self) -> (Result<ExitStatus, Errno>, Option<CommandCgroup>) {
        let State::Forked { pid, .. } = *self.state() else {
            return (Err(Errno::ECHILD), None);
        };
        // It is a zombie until the lock is held, so that nobody kills who gets its number next.
        let waited = wait_without_reaping(pid);
        let mut state = self.state();
        let State::Forked { cgroup, killed, .. } = mem::replace(&mut *state, State::Reaped) else {
            return (Err(Errno::ECHILD), None);
        };
        let status = waited.and_then(|()| {
            let mut status = 0;
            // SAFETY: the kernel writes one int, which lives as long as the call.
            Errno::result(unsafe { libc::waitpid(pid.as_raw(), &mut status, 0) })
                .map(|_| ExitStatus::from_raw(status))
        });
        (status, cgroup.filter(|_| killed))
    }
}

/// Waits until a child is a zombie (`WNOWAIT`, waitid(2)).
fn wait_without_reaping(pid: Pid) -> Result<(), Errno> {
    loop {
        match waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Becomes the program, in the child; returns only when that failed, with a raw error number.
fn become_program(
    argv: &[*const libc::c_char],
    env: &[*const libc::c_char],
    environment: &Environment,
    stdio: [RawFd; 3],
    reporter: RawFd,
) -> i32 {
    for (to, from) in (0..).zip(stdio) {
        // SAFETY: std opens 0 to 2 where they are closed at the start, so nothing else has these
        // numbers.
        if unsafe { libc::dup2(from, to) } < 0 {
            return Errno::last_raw();
        }
    }
    close_files_except([reporter, environment.namespace()]);
    if let Err(error) = environment.enter() {
        return error.raw_os_error().unwrap_or(libc::EIO);
    }
    // SAFETY: both arrays end with a null pointer, and no other thread is in the child.
    unsafe {
        environ = env.as_ptr();
        libc::execvp(argv[0], argv.as_ptr());
    }
    Errno::last_raw()
}

/// Closes all descriptors but the standard ones and these two, which are close-on-exec.
fn close_files_except(mut kept: [RawFd; 2]) {
    kept.sort_unstable();
    let mut from = 3;
    for fd in kept.into_iter().chain([RawFd::MAX]) {
        if from < fd {
            // SAFETY: the child is alone with its table of descriptors, and uses none of these.
            unsafe { libc::syscall(libc::SYS_close_range, from, fd - 1, 0) };
        }
        from = fd.saturating_add(1);
    }
}

/// Child process. Dropping it before its end kills it with everything that it started.
pub(super) struct Child {
    process: Arc<Process>,
    ended: oneshot::Receiver<Result<ExitStatus, Errno>>,
}

impl Child {
    /// Starts a child on a thread of its own, which holds the permit until the child is reaped.
    /// `work` forks it there, and may use the runtime's I/O. Returns `None` if that takes longer
    /// than `time`: the child is killed then.
    ///
    /// # Errors
    /// That of `work`, or where there is no thread.
    pub(super) async fn start<T: Send + 'static>(
        permit: Permit,
        time: Duration,
        work: impl FnOnce(&Process) -> Result<T, ProcessError> + Send + 'static,
    ) -> Result<Option<(Self, T)>, ProcessError> {
        let process = Arc::new(Process(Mutex::new(State::Starting)));
        let (tell_started, started) = oneshot::channel();
        let (tell_ended, ended) = oneshot::channel();
        let (shared, runtime) = (process.clone(), Handle::current());
        let thread = move || {
            let context = runtime.enter();
            // Nobody waits for either any more where the request has ended.
            let _ = tell_started.send(work(&shared));
            drop(context);
            let (status, killed_cgroup) = shared.reap();
            drop(permit);
            let _ = tell_ended.send(status);
            if let Some(cgroup) = killed_cgroup {
                cgroup.remove_killed();
            }
        };
        // Drops at the end of this function, at the latest, where it is not returned.
        let child = Self { process, ended };
        thread::Builder::new()
            .name("command".into())
            .spawn(thread)
            .map_err(|error| ProcessError::refused("start a thread", errno(&error)))?;
        match timeout(time, started).await {
            Ok(Ok(result)) => Ok(Some((child, result?))),
            Ok(Err(_)) => Err(ProcessError::ThreadEnded),
            Err(_) => Ok(None),
        }
    }

    /// Waits for the child's end, which can be awaited once.
    pub(super) async fn wait(&mut self) -> Result<ExitStatus, ProcessError> {
        let status = (&mut self.ended)
            .await
            .map_err(|_| ProcessError::ThreadEnded)?;
        status.map_err(|errno| ProcessError::refused("wait for the command", errno))
    }

    /// Kills it with its process group and its control group.
    pub(super) fn kill(&self) {
        self.process.kill();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}
