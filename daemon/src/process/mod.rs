//! Commands inside namespaces: exec, ping, and who lives where. Never changes links.
//!
//! Begin at [`Processes`]. `exec` runs commands to their end, `session` carries their output off as it
//! comes, `environment` is what happens between their fork and exec,
//! `output` keeps what they print; `ping` sends echoes, `icmp` makes and reads their packets; `who` looks at `/proc`.
//!
//! No thread that serves requests is ever in another namespace: a command enters its own after the fork, and the
//! sockets of `ping` are opened by the one thread of `sockets`.

#![allow(unsafe_code, reason = "what is done between fork and exec, terminals, and filters of sockets")]
#![allow(clippy::result_large_err, reason = "a problem is the answer of a request, made once and not in a loop")]

mod environment;
mod exec;
mod icmp;
mod output;
mod ping;
mod session;
mod sockets;
#[cfg(test)]
mod tests;
mod who;

use std::{io, os::fd::OwnedFd, sync::Arc};

use netnsd_api::{Code, Exec, ExecResult, Name, Ping, PingResult, Problem, Process, ProcessNamespace};
use nix::errno::Errno;
use tokio::sync::Semaphore;

pub use self::{
    exec::Launch,
    session::{End, Happening, Input, Session, Size, Stream},
};
use crate::kernel::real::worker::{self, Pinned};

/// How many commands, how many in streams, and how many pings, run at the same time.
const AT_ONCE: usize = 256;

/// Runs commands and pings in namespaces, and tells who lives in them.
#[derive(Clone)]
pub struct Processes {
    sockets: sockets::Opener,
    commands: Arc<Semaphore>,
    sessions: Arc<Semaphore>,
    pings: Arc<Semaphore>,
}

impl Processes {
    /// Starts the thread that opens sockets inside namespaces; it ends with the last clone.
    pub fn start() -> io::Result<Self> {
        Ok(Self {
            sockets: sockets::Opener::start()?,
            commands: Arc::new(Semaphore::new(AT_ONCE)),
            sessions: Arc::new(Semaphore::new(AT_ONCE)),
            pings: Arc::new(Semaphore::new(AT_ONCE)),
        })
    }

    /// Runs a command in the environment of `ip netns exec`, as the daemon, or as whom it names; dropping the future kills
    /// its process group. Once it has begun, `beside` goes on beside it, and is awaited too.
    pub async fn exec(
        &self,
        name: &Name,
        request: &Exec,
        launch: Launch,
        beside: impl Future<Output = ()>,
    ) -> Result<ExecResult, Problem> {
        exec::check(request)?;
        let _turn = self.commands.acquire().await.map_err(|_| closing())?;
        exec::run(name, request, launch, beside).await
    }

    /// Starts a command whose output is carried off as it comes; with a size, in a terminal of its own.
    pub async fn session(
        &self,
        name: &Name,
        request: &Exec,
        launch: Launch,
        terminal: Option<Size>,
    ) -> Result<Session, Problem> {
        exec::check(request)?;
        // They may last for days: one more is refused, not made to wait.
        let turn = self.sessions.clone().try_acquire_owned().map_err(|_| {
            Problem::new(Code::TooManyRequests, format!("{AT_ONCE} commands run in streams already: end one first"))
        })?;
        let (name, request) = (name.clone(), request.clone());
        blocking(move || Session::start(&name, &request, launch, terminal, turn)).await
    }

    /// Sends ICMP echo requests from inside a namespace.
    pub async fn ping(&self, name: &Name, request: &Ping) -> Result<PingResult, Problem> {
        ping::check(request)?;
        let _turn = self.pings.acquire().await.map_err(|_| closing())?;
        ping::run(&self.sockets, name, request).await
    }

    /// The processes that live in a namespace, by their ids (`ip netns pids`).
    pub async fn processes(&self, name: &Name) -> Result<Vec<Process>, Problem> {
        let name = name.clone();
        blocking(move || who::processes(&name)).await
    }

    /// The namespace that a process lives in (`ip netns identify`).
    pub async fn identify(&self, pid: u32) -> Result<ProcessNamespace, Problem> {
        blocking(move || who::identify(pid)).await
    }
}

/// Opens the namespace that `/run/netns/NAME` pins. It blocks: not for async threads.
fn namespace_file(name: &Name) -> Result<OwnedFd, Problem> {
    let missing = |detail: String| Problem::new(Code::NotFound, detail);
    match worker::pinned(name.as_str()).map_err(|errno| failed("open the namespace", errno))? {
        Pinned::Namespace(fd) => Ok(fd),
        Pinned::Nothing => Err(missing(format!("there is no namespace {name}"))),
        Pinned::Stale(stale) => {
            let path = worker::path(name.as_str());
            Err(missing(format!("there is no namespace {name}: {} is {stale}", path.display())))
        }
    }
}

/// Runs what blocks away from the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Problem> + Send + 'static) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_cancelled() => Err(closing()),
        Err(error) => Err(Problem::new(Code::Internal, format!("a worker thread failed: {error}"))),
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
