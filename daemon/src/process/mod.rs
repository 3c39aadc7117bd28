//! Commands inside namespaces: exec, ping, and who lives where. Never changes links.
//!
//! Begin at [`Processes`]. `exec` runs commands to their end, `session` carries their output off as
//! it comes; `child` forks and reaps them, `environment` is what happens between their fork and
//! exec, `output` keeps what they print; `permits` has their places. `ping` sends echoes, `icmp`
//! makes and reads their packets; `who` looks at `/proc`.
//!
//! No thread that serves requests is ever in another namespace: a command enters its own after the
//! fork, and the sockets of `ping` are opened by the one thread of `sockets`.

#![allow(
    unsafe_code,
    reason = "what is done between fork and exec, terminals, and filters of sockets"
)]
#![allow(
    clippy::result_large_err,
    reason = "a problem is the answer of a request, made once and not in a loop"
)]

mod child;
mod environment;
mod exec;
mod icmp;
mod output;
mod permits;
mod ping;
mod session;
mod sockets;
#[cfg(test)]
mod tests;
mod who;

use std::{io, os::fd::OwnedFd, time::Duration};

use netnsd_api::{
    Code, Exec, ExecResult, Name, Ping, PingResult, Problem, Process, ProcessNamespace,
};
use netnsd_netlink::netns::file::{NetnsFile, netns_path, open_netns};
use nix::{errno::Errno, sys::stat::fstat};

use self::permits::Permits;
pub use self::{
    exec::Launch,
    output::text_or_base64,
    permits::Permit,
    session::{CommandEnd, OutputStream, Session, SessionEvent, SessionInput, TerminalSize},
};

/// Time that a request waits for its place among those that run at the same time.
const WAIT: Duration = Duration::from_secs(10);

/// The caller of a command or a ping as far as its place and its namespace are concerned.
#[derive(Debug, Clone, Default)]
pub struct CallerScope {
    /// The name whose share of places it takes; `None` for an admin, who has no share.
    pub share: Option<String>,
    /// The inode number that the namespace must have; `None` for an admin, who enters any.
    pub inode: Option<u64>,
}

/// Runs commands and pings in namespaces, and tells who lives in them.
#[derive(Clone)]
pub struct Processes {
    sockets: sockets::Opener,
    commands: Permits,
    sessions: Permits,
    pings: Permits,
}

impl Processes {
    /// Starts the thread that opens sockets inside namespaces; it ends with the last clone.
    pub fn start() -> io::Result<Self> {
        Ok(Self {
            sockets: sockets::Opener::start()?,
            commands: Permits::new("commands"),
            sessions: Permits::new("commands in streams"),
            pings: Permits::new("pings"),
        })
    }

    /// Runs a command in the environment of `ip netns exec`, as the daemon, or as whom it names;
    /// dropping the future kills its process group. The permit that is returned holds its place
    /// while the result is in memory. `record` is awaited right before it starts, and an error of
    /// it is the answer instead.
    pub async fn run_command(
        &self,
        name: &Name,
        request: &Exec,
        launch: Launch,
        record: impl Future<Output = Result<(), Problem>>,
    ) -> Result<(ExecResult, Permit), Problem> {
        exec::check(request)?;
        let permit = self
            .commands
            .acquire(launch.origin.share.as_deref(), WAIT)
            .await?;
        let namespace = open_namespace(name, launch.origin.inode).await?;
        record.await?;
        let result = exec::run(name, namespace, request, launch, permit.clone()).await?;
        Ok((result, permit))
    }

    /// Starts a command whose output is carried off as it comes; with a size, in a terminal of its
    /// own. `record` is as for `exec`.
    pub async fn start_session(
        &self,
        name: &Name,
        request: &Exec,
        launch: Launch,
        terminal: Option<TerminalSize>,
        record: impl Future<Output = Result<(), Problem>>,
    ) -> Result<Session, Problem> {
        exec::check(request)?;
        // They may last for days: one more is refused, not made to wait.
        let permit = self.sessions.try_acquire(launch.origin.share.as_deref())?;
        let namespace = open_namespace(name, launch.origin.inode).await?;
        record.await?;
        Session::start(name, namespace, request, launch, terminal, permit).await
    }

    /// Sends ICMP echo requests from inside a namespace.
    pub async fn ping(
        &self,
        name: &Name,
        request: &Ping,
        origin: &CallerScope,
    ) -> Result<PingResult, Problem> {
        ping::check(request)?;
        let _permit = self.pings.acquire(origin.share.as_deref(), WAIT).await?;
        let namespace = open_namespace(name, origin.inode).await?;
        ping::run(&self.sockets, name, namespace, request).await
    }

    /// The processes that live in a namespace, by their ids (`ip netns pids`).
    pub async fn list_processes(&self, name: &Name) -> Result<Vec<Process>, Problem> {
        let name = name.clone();
        blocking(move || who::processes(&name)).await
    }

    /// The namespace that a process lives in (`ip netns identify`).
    pub async fn identify_process(&self, pid: u32) -> Result<ProcessNamespace, Problem> {
        blocking(move || who::identify(pid)).await
    }
}

/// Opens the namespace that `/run/netns/NAME` pins. It blocks: not for async threads.
fn namespace_file(name: &Name) -> Result<OwnedFd, Problem> {
    let missing = |detail: String| Problem::new(Code::NotFound, detail);
    match open_netns(name.as_str()).map_err(|errno| failed("open the namespace", errno))? {
        NetnsFile::Namespace(fd) => Ok(fd),
        NetnsFile::Missing => Err(missing(format!("there is no namespace {name}"))),
        NetnsFile::Stale(stale) => {
            let path = netns_path(name.as_str());
            Err(missing(format!(
                "there is no namespace {name}: {} is {stale}",
                path.display()
            )))
        }
    }
}

/// Opens the namespace that `/run/netns/NAME` pins, if it is the one of this inode number. What is
/// opened is what is entered: the name may be another's later.
async fn open_namespace(name: &Name, inode: Option<u64>) -> Result<OwnedFd, Problem> {
    let name = name.clone();
    blocking(move || {
        let file = namespace_file(&name)?;
        let Some(expected) = inode else {
            return Ok(file);
        };
        let found = fstat(&file)
            .map_err(|errno| failed("look at the namespace", errno))?
            .st_ino;
        if found == expected {
            Ok(file)
        } else {
            Err(foreign_namespace(
                &name,
                "something else has its name in /run/netns",
            ))
        }
    })
    .await
}

/// Refuses to enter a namespace that is recorded, where what is there is not netnsd's.
pub fn foreign_namespace(name: &Name, why: &str) -> Problem {
    let detail = format!(
        "namespace {name} is recorded, but the one in the kernel is not netnsd's ({why}): only admins run commands and pings \
         there; GET /v1/namespaces/{name} tells its state"
    );
    Problem::new(Code::Conflict, detail)
}

/// Runs what blocks away from the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_cancelled() => Err(closing()),
        Err(error) => Err(Problem::new(
            Code::Internal,
            format!("a worker thread failed: {error}"),
        )),
    }
}

fn closing() -> Problem {
    Problem::new(Code::ShuttingDown, "the daemon is stopping")
}

fn invalid(path: &[&str], detail: impl Into<String>) -> Problem {
    netnsd_api::FieldError::at(Code::InvalidField, path, detail).into()
}

/// The kernel refused a step.
fn failed(step: &str, errno: Errno) -> Problem {
    let code = match errno {
        // The machine is short of something: the same request may succeed later.
        Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE => Code::KernelUnavailable,
        _ => Code::KernelRejected,
    };
    let mut problem = Problem::new(code, format!("could not {step}: {}", errno.desc()));
    problem.op = Some(step.to_owned());
    problem.errno = Some(format!("{errno:?}"));
    problem
}
