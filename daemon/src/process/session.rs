//! A command whose output is carried off as it comes: through pipes, or through a terminal of its
//! own.

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
use netnsd_api::{Exec, Name, Problem};
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
    child::{Child, Process},
    exec::{GRACE, Launch, Pipes, killed, signal_name, spawn},
    failed,
    permits::Permit,
};

/// How much is read at once; a pipe holds as much.
const CHUNK: usize = 64 << 10;

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters on a line.
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

/// Which stream output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words say it")]
pub enum OutputStream {
    Stdout,
    Stderr,
}

/// What happens in a session.
#[derive(Debug, Clone, PartialEq)]
pub enum SessionEvent {
    /// The command wrote.
    Output(OutputStream, Bytes),
    /// The command ended, and everything that it wrote was told.
    Ended(CommandEnd),
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandEnd {
    /// Its exit code; none if a signal ended it.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<String>,
    /// Whether it was killed because its time was over.
    pub timed_out: bool,
    /// How long it ran, in milliseconds.
    pub duration_ms: f64,
}

/// What goes into a command; closed when dropped, which a terminal does not notice.
pub struct SessionInput {
    writer: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    terminal: Option<OwnedFd>,
}

impl SessionInput {
    /// Writes; waits while the command does not read. One that has ended takes what it is given.
    pub async fn write(&mut self, bytes: &[u8]) {
        if let Some(writer) = &mut self.writer
            && (writer.write_all(bytes).await.is_err() || writer.flush().await.is_err())
        {
            self.close();
        }
    }

    /// Ends the command's input.
    pub fn close(&mut self) {
        self.writer = None;
    }

    /// Tells the terminal its size, if there is one (`TIOCSWINSZ`, ioctl_tty(2)).
    pub fn resize(&self, size: TerminalSize) {
        if let Some(terminal) = &self.terminal {
            let _too_late = set_size(terminal, size);
        }
    }
}

/// A command that runs. Dropped before its end, it takes its process group along.
pub struct Session {
    /// `None` if its time was over before it had become its program.
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
    /// Starts a command, which is killed after `timeout_s`; with a size, in a terminal of its own.
    pub(super) async fn start(
        name: &Name,
        namespace: OwnedFd,
        request: &Exec,
        launch: Launch,
        terminal: Option<TerminalSize>,
        permit: Permit,
    ) -> Result<Self, Problem> {
        let (started, time) = (Instant::now(), Duration::from_secs_f64(request.timeout_s));
        let limit = Box::pin(sleep(time));
        let (name, request) = (name.clone(), request.clone());
        let start = move |process: &Process| match terminal {
            None => in_pipes(process, &name, namespace, &request, launch),
            Some(size) => in_terminal(process, &name, namespace, &request, launch, size),
        };
        let (child, (input, outputs)) = match Child::start(permit.clone(), time, start).await? {
            Some((child, wired)) => (Some(child), wired),
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
            status: child.is_none().then(killed),
            child,
            input: Some(input),
            outputs,
            buffers: [const { Vec::new() }; 2],
            limit,
            started,
            _permit: permit,
        })
    }

    /// What goes into the command; it can be taken once.
    pub fn take_input(&mut self) -> Option<SessionInput> {
        self.input.take()
    }

    /// What happens next; nothing after the end. It may be dropped while it waits, and asked again.
    ///
    /// # Errors
    /// When the command cannot be waited for.
    pub async fn next(&mut self) -> Result<SessionEvent, Problem> {
        while self.status.is_none() {
            let [out, err] = &mut self.outputs;
            let [out_buffer, err_buffer] = &mut self.buffers;
            let Some(child) = &mut self.child else { break };
            tokio::select! {
                read = read(out, out_buffer) => {
                    if let Some(bytes) = read {
                        return Ok(SessionEvent::Output(OutputStream::Stdout, bytes));
                    }
                }
                read = read(err, err_buffer) => {
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
        // What it wrote is still in the pipes; what descendants hold open is not waited for.
        for (i, stream) in [OutputStream::Stdout, OutputStream::Stderr]
            .into_iter()
            .enumerate()
        {
            while self.outputs[i].is_some() {
                match timeout(GRACE, read(&mut self.outputs[i], &mut self.buffers[i])).await {
                    Ok(Some(bytes)) => return Ok(SessionEvent::Output(stream, bytes)),
                    Ok(None) | Err(_) => self.outputs[i] = None,
                }
            }
        }
        Ok(SessionEvent::Ended(self.end()))
    }

    fn end(&self) -> CommandEnd {
        let signal = self.status.and_then(|status| status.signal());
        CommandEnd {
            exit_code: self.status.and_then(|status| status.code()),
            signal: signal.map(signal_name),
            timed_out: self.timed_out && signal == Some(Signal::SIGKILL as i32),
            duration_ms: (self.started.elapsed().as_secs_f64() * 1e6).round() / 1e3,
        }
    }
}

/// Reads what is there; none at the stream's end, and then it is put away. Waits for ever where
/// there is none.
async fn read(
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

type Wired = (SessionInput, [Option<Pin<Box<dyn AsyncRead + Send>>>; 2]);

fn in_pipes(
    process: &Process,
    name: &Name,
    namespace: OwnedFd,
    request: &Exec,
    launch: Launch,
) -> Result<Wired, Problem> {
    let (
        Pipes {
            stdin,
            stdout,
            stderr,
        },
        stdio,
    ) = Pipes::open()?;
    spawn(process, name, namespace, request, launch, stdio, false)?;
    let input = SessionInput {
        writer: Some(Box::pin(stdin)),
        terminal: None,
    };
    Ok((input, [Some(Box::pin(stdout)), Some(Box::pin(stderr))]))
}

fn in_terminal(
    process: &Process,
    name: &Name,
    namespace: OwnedFd,
    request: &Exec,
    launch: Launch,
    size: TerminalSize,
) -> Result<Wired, Problem> {
    let refused = |errno: Errno| failed("open a terminal", errno);
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
        (Some(who), _) => Some(who.uid),
        (None, Some(user)) => super::exec::user(Some(user))?.map(|user| user.uid),
        (None, None) => None,
    };
    if owner.is_some() {
        fchown(&pair.slave, owner, None).map_err(refused)?;
    }
    fcntl(&pair.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(refused)?;
    let slave = || pair.slave.try_clone().map_err(io);
    spawn(
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

fn set_size(terminal: &OwnedFd, size: TerminalSize) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    let size = Winsize::from(size);
    // SAFETY: the kernel reads one `struct winsize`, which lives as long as the call.
    let result = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &size) };
    Errno::result(result).map(drop)
}
