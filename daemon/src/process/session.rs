//! Commands whose output is streamed: through pipes, or through a terminal of their own.

use std::{
    future::pending,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    pin::Pin,
    process::ExitStatus,
    time::{Duration, Instant},
};

use bytes::Bytes;
use netnsd_api::{Exec, Name};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
    libc,
    pty::{Winsize, openpty},
    sys::signal::Signal,
    unistd::fchown,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::unix::pipe,
    time::{Sleep, sleep, timeout},
};

use super::{
    ProcessError,
    child::{Child, Process},
    exec::{GRACE, Launch, Pipes, killed_status, signal_name, spawn_command},
    permits::Permit,
};

/// Bytes read at once: the capacity of a pipe (pipe(7)).
const CHUNK: usize = 64 << 10;

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

impl From<TerminalSize> for Winsize {
    fn from(size: TerminalSize) -> Self {
        Winsize {
            ws_row: size.rows,
            ws_col: size.cols,
            ws_xpixel: 0,
            ws_ypixel: 0,
        }
    }
}

/// Stream of a command's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as the streams")]
pub enum OutputStream {
    Stdout,
    Stderr,
}

/// Event of a session.
#[derive(Debug, Clone, PartialEq)]
pub enum SessionEvent {
    /// The command wrote.
    Output(OutputStream, Bytes),
    /// The command ended; all of its output came before.
    Ended(CommandEnd),
}

/// Result of a command that ended.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandEnd {
    /// Exit code; `None` if a signal ended the command.
    pub exit_code: Option<i32>,
    /// Name of the signal that ended it.
    pub signal: Option<String>,
    /// True if it was killed because its time was over.
    pub timed_out: bool,
    /// Run time in milliseconds.
    pub duration_ms: f64,
}

/// Input of a command. Dropping it closes a pipe; a terminal stays open.
pub struct SessionInput {
    writer: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    terminal: Option<OwnedFd>,
}

impl SessionInput {
    /// Writes bytes; waits while the command does not read. Input of a command that has ended is
    /// discarded.
    pub async fn write(&mut self, bytes: &[u8]) {
        if let Some(writer) = &mut self.writer
            && (writer.write_all(bytes).await.is_err() || writer.flush().await.is_err())
        {
            self.close();
        }
    }

    /// Closes the command's input.
    pub fn close(&mut self) {
        self.writer = None;
    }

    /// Sets the size of the terminal, if there is one (`TIOCSWINSZ`, ioctl_tty(2)).
    pub fn resize(&self, size: TerminalSize) {
        if let Some(terminal) = &self.terminal {
            let _ = set_terminal_size(terminal, size); // The command may have ended.
        }
    }
}

/// Running command. Dropping it before its end kills its process group.
pub struct Session {
    /// `None` if its time was over before it executed its program.
    child: Option<Child>,
    input: Option<SessionInput>,
    outputs: [Option<Pin<Box<dyn AsyncRead + Send>>>; 2],
    buffers: [Vec<u8>; 2],
    limit: Pin<Box<Sleep>>,
    timed_out: bool,
    status: Option<ExitStatus>,
    started: Instant,
    _permit: Permit,
}

impl Session {
    /// Starts a command, which is killed after `timeout_s`; if a size is given, in a terminal of its
    /// own.
    pub(super) async fn start(
        name: &Name,
        namespace: OwnedFd,
        request: &Exec,
        launch: Launch,
        terminal: Option<TerminalSize>,
        permit: Permit,
    ) -> Result<Self, ProcessError> {
        let (started, time) = (Instant::now(), Duration::from_secs_f64(request.timeout_s));
        let limit = Box::pin(sleep(time));
        let (name, request) = (name.clone(), request.clone());
        let start = move |process: &Process| match terminal {
            None => spawn_with_pipes(process, &name, namespace, &request, launch),
            Some(size) => spawn_in_terminal(process, &name, namespace, &request, launch, size),
        };
        let (child, (input, outputs)) = match Child::start(permit.clone(), time, start).await? {
            Some((child, io)) => (Some(child), io),
            None => (
                None,
                (
                    SessionInput {
                        writer: None,
                        terminal: None,
                    },
                    [None, None],
                ),
            ),
        };
        Ok(Self {
            timed_out: child.is_none(),
            status: child.is_none().then(killed_status),
            child,
            input: Some(input),
            outputs,
            buffers: [const { Vec::new() }; 2],
            limit,
            started,
            _permit: permit,
        })
    }

    /// Returns the command's input; `None` if it was taken already.
    pub fn take_input(&mut self) -> Option<SessionInput> {
        self.input.take()
    }

    /// Waits for the next event; must not be called after [`SessionEvent::Ended`]. Cancel safe.
    ///
    /// # Errors
    /// If the command cannot be waited for.
    pub async fn next_event(&mut self) -> Result<SessionEvent, ProcessError> {
        while self.status.is_none() {
            let [out, err] = &mut self.outputs;
            let [out_buffer, err_buffer] = &mut self.buffers;
            let Some(child) = &mut self.child else { break };
            tokio::select! {
                read = read_output(out, out_buffer) => {
                    if let Some(bytes) = read {
                        return Ok(SessionEvent::Output(OutputStream::Stdout, bytes));
                    }
                }
                read = read_output(err, err_buffer) => {
                    if let Some(bytes) = read {
                        return Ok(SessionEvent::Output(OutputStream::Stderr, bytes));
                    }
                }
                status = child.wait() => self.status = Some(status?),
                () = &mut self.limit, if !self.timed_out => {
                    self.timed_out = true;
                    child.kill();
                }
            }
        }
        // The command's own output is in the pipes; those that descendants keep open are abandoned.
        for (i, stream) in [OutputStream::Stdout, OutputStream::Stderr]
            .into_iter()
            .enumerate()
        {
            while self.outputs[i].is_some() {
                match timeout(
                    GRACE,
                    read_output(&mut self.outputs[i], &mut self.buffers[i]),
                )
                .await
                {
                    Ok(Some(bytes)) => return Ok(SessionEvent::Output(stream, bytes)),
                    Ok(None) | Err(_) => self.outputs[i] = None,
                }
            }
        }
        Ok(SessionEvent::Ended(self.command_end()))
    }

    fn command_end(&self) -> CommandEnd {
        let signal = self.status.and_then(|status| status.signal());
        CommandEnd {
            exit_code: self.status.and_then(|status| status.code()),
            signal: signal.map(signal_name),
            timed_out: self.timed_out && signal == Some(Signal::SIGKILL as i32),
            duration_ms: (self.started.elapsed().as_secs_f64() * 1e6).round() / 1e3,
        }
    }
}

/// Reads available output; returns `None` at the end of the stream, which is closed then. Waits for
/// ever if the stream is closed already.
async fn read_output(
    stream: &mut Option<Pin<Box<dyn AsyncRead + Send>>>,
    buffer: &mut Vec<u8>,
) -> Option<Bytes> {
    let Some(open) = stream else {
        return pending().await;
    };
    buffer.resize(CHUNK, 0);
    // A terminal answers EIO once nobody holds its other side (tty(4)).
    match open.read(buffer).await {
        Ok(count @ 1..) => Some(Bytes::copy_from_slice(&buffer[..count])),
        Ok(0) | Err(_) => {
            *stream = None;
            None
        }
    }
}

/// Input and output of a command that was started.
type CommandIo = (SessionInput, [Option<Pin<Box<dyn AsyncRead + Send>>>; 2]);

fn spawn_with_pipes(
    process: &Process,
    name: &Name,
    namespace: OwnedFd,
    request: &Exec,
    launch: Launch,
) -> Result<CommandIo, ProcessError> {
    let (
        Pipes {
            stdin,
            stdout,
            stderr,
        },
        stdio,
    ) = Pipes::open()?;
    spawn_command(process, name, namespace, request, launch, stdio, false)?;
    let input = SessionInput {
        writer: Some(Box::pin(stdin)),
        terminal: None,
    };
    Ok((input, [Some(Box::pin(stdout)), Some(Box::pin(stderr))]))
}

fn spawn_in_terminal(
    process: &Process,
    name: &Name,
    namespace: OwnedFd,
    request: &Exec,
    launch: Launch,
    size: TerminalSize,
) -> Result<CommandIo, ProcessError> {
    let refused = |errno: Errno| ProcessError::refused("open a terminal", errno);
    let io = |error: io::Error| {
        refused(Errno::from_raw(
            error.raw_os_error().unwrap_or(Errno::EIO as i32),
        ))
    };
    let pair = openpty(&Winsize::from(size), None).map_err(refused)?;
    for end in [&pair.master, &pair.slave] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(refused)?;
    }
    let owner = match (&launch.identity, &request.user) {
        (Some(identity), _) => Some(identity.uid),
        (None, Some(user)) => super::exec::look_up_user(Some(user))?.map(|user| user.uid),
        (None, None) => None,
    };
    if owner.is_some() {
        fchown(&pair.slave, owner, None).map_err(refused)?;
    }
    fcntl(&pair.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(refused)?;
    let slave = || pair.slave.try_clone().map_err(io);
    spawn_command(
        process,
        name,
        namespace,
        request,
        launch,
        [slave()?, slave()?, pair.slave],
        true,
    )?;
    let reader = pipe::Receiver::from_owned_fd_unchecked(pair.master.try_clone().map_err(io)?)
        .map_err(io)?;
    let writer =
        pipe::Sender::from_owned_fd_unchecked(pair.master.try_clone().map_err(io)?).map_err(io)?;
    let input = SessionInput {
        writer: Some(Box::pin(writer)),
        terminal: Some(pair.master),
    };
    Ok((input, [Some(Box::pin(reader)), None]))
}

fn set_terminal_size(terminal: &OwnedFd, size: TerminalSize) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    let size = Winsize::from(size);
    // SAFETY: the kernel reads one `struct winsize`, which lives as long as the call.
    let result = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &size) };
    Errno::result(result).map(drop)
}
