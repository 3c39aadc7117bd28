//! Commands inside namespaces, pings, and lists of processes.
//!
//! Begin at [`Processes`]. `exec` runs commands to their end, `session` streams their output; `child`
//! forks and reaps them, `environment` sets them up between fork and exec, `output` keeps their
//! output, `permits` bounds their number. `ping` sends echo requests, `icmp` encodes and decodes
//! their packets, `sockets` opens their sockets; `procfs` reads `/proc`.
//!
//! It never changes links.
//!
//! **Invariant:** no thread that serves requests is ever in another namespace: a command enters its
//! own after the fork, and the one thread of `sockets` opens the sockets of `ping`.

#![allow(unsafe_code, reason = "fork, exec, terminals and socket filters")]

mod cgroup;
mod child;
mod environment;
mod error;
mod exec;
mod icmp;
mod output;
mod permits;
mod ping;
mod procfs;
mod session;
mod sockets;
#[cfg(test)]
mod tests;

use std::{io, os::fd::OwnedFd, time::Duration};

use netnsd_api::{Exec, ExecResult, Name, Ping, PingResult, Process, ProcessNamespace};
use netnsd_netlink::netns::file::{NetnsFile, netns_path, open_netns};
use nix::sys::stat::fstat;

use self::permits::Permits;
pub use self::{
    error::ProcessError,
    exec::Launch,
    output::text_or_base64,
    permits::Permit,
    session::{CommandEnd, OutputStream, Session, SessionEvent, SessionInput, TerminalSize},
};

/// Time that a request waits for a permit.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Limits of the caller of a command or a ping.
#[derive(Debug, Clone, Default)]
pub struct CallerScope {
    /// Name of the caller, whose share of permits it uses; `None` for an admin, who has no share.
    pub share: Option<String>,
    /// Inode number that the namespace must have; `None` for an admin, who may enter any.
    pub inode: Option<u64>,
}

/// Runs commands and pings in namespaces, and lists processes.
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
        cgroup::remove_leftovers();
        Ok(Self {
            sockets: sockets::Opener::start()?,
            commands: Permits::new("commands"),
            sessions: Permits::new("commands in streams"),
            pings: Permits::new("pings"),
        })
    }

    /// Runs a command in the environment of `ip netns exec` (ip-netns(8)); dropping the future kills
    /// its process group. The returned permit is held while the result is in memory. `record` is
    /// awaited right before the command starts; if it fails, the command is not started.
    pub async fn run_command<E: From<ProcessError>>(
        &self,
        name: &Name,
        request: &Exec,
        launch: Launch,
        record: impl Future<Output = Result<(), E>>,
    ) -> Result<(ExecResult, Permit), E> {
        exec::check_request(request)?;
        let permit = self
            .commands
            .acquire(launch.origin.share.as_deref(), PERMIT_TIMEOUT)
            .await?;
        let namespace = open_namespace(name, launch.origin.inode).await?;
        record.await?;
        let result = exec::run_command(name, namespace, request, launch, permit.clone()).await?;
        Ok((result, permit))
    }

    /// Starts a command whose output is streamed; if a size is given, in a terminal of its own.
    /// `record` is as for [`Self::run_command`].
    pub async fn start_session<E: From<ProcessError>>(
        &self,
        name: &Name,
        request: &Exec,
        launch: Launch,
        terminal: Option<TerminalSize>,
        record: impl Future<Output = Result<(), E>>,
    ) -> Result<Session, E> {
        exec::check_request(request)?;
        // Sessions may last for days: waiting for a permit is of no use.
        let permit = self.sessions.try_acquire(launch.origin.share.as_deref())?;
        let namespace = open_namespace(name, launch.origin.inode).await?;
        record.await?;
        Ok(Session::start(name, namespace, request, launch, terminal, permit).await?)
    }

    /// Sends ICMP echo requests from inside a namespace.
    pub async fn ping(
        &self,
        name: &Name,
        request: &Ping,
        origin: &CallerScope,
    ) -> Result<PingResult, ProcessError> {
        ping::check_request(request)?;
        let _permit_guard = self
            .pings
            .acquire(origin.share.as_deref(), PERMIT_TIMEOUT)
            .await?;
        let namespace = open_namespace(name, origin.inode).await?;
        ping::run_ping(&self.sockets, name, namespace, request).await
    }

    /// Lists the processes in a namespace, by their ids (`ip netns pids`).
    pub async fn list_processes(&self, name: &Name) -> Result<Vec<Process>, ProcessError> {
        let name = name.clone();
        run_blocking(move || procfs::list_processes(&name)).await
    }

    /// Returns the namespace of a process (`ip netns identify`).
    pub async fn identify_process(&self, pid: u32) -> Result<ProcessNamespace, ProcessError> {
        run_blocking(move || procfs::identify_process(pid)).await
    }
}

/// Opens the namespace that `/run/netns/NAME` pins. Blocks: not for async threads.
fn open_namespace_file(name: &Name) -> Result<OwnedFd, ProcessError> {
    match open_netns(name.as_str())
        .map_err(|errno| ProcessError::refused("open the namespace", errno))?
    {
        NetnsFile::Namespace(fd) => Ok(fd),
        NetnsFile::Missing => Err(ProcessError::NoNamespace(name.clone())),
        NetnsFile::Stale(pin) => Err(ProcessError::StaleNamespace {
            name: name.clone(),
            path: netns_path(name.as_str()),
            pin,
        }),
    }
}

/// Opens the namespace that `/run/netns/NAME` pins, if it has this inode number. The command enters
/// the opened file, because another namespace may get the name later.
async fn open_namespace(name: &Name, inode: Option<u64>) -> Result<OwnedFd, ProcessError> {
    let name = name.clone();
    run_blocking(move || {
        let file = open_namespace_file(&name)?;
        let Some(expected) = inode else {
            return Ok(file);
        };
        let found = fstat(&file)
            .map_err(|errno| ProcessError::refused("look at the namespace", errno))?
            .st_ino;
        if found == expected {
            Ok(file)
        } else {
            Err(ProcessError::ForeignNamespace {
                name,
                reason: "something else has its name in /run/netns",
            })
        }
    })
    .await
}

/// Runs blocking work on a thread for it.
async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ProcessError> + Send + 'static,
) -> Result<T, ProcessError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_cancelled() => Err(ProcessError::Stopping),
        Err(error) => Err(ProcessError::WorkerFailed(error.to_string())),
    }
}
