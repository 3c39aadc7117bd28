//! Commands that run to their end, with their whole output as the result.

use std::{
    collections::BTreeMap,
    ffi::CString,
    io,
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    process::ExitStatus,
    time::{Duration, Instant},
};

use netnsd_api::{Exec, ExecResult, Name};
use netnsd_netlink::errno_of as errno;
use nix::{
    errno::Errno,
    fcntl::OFlag,
    sys::signal::Signal,
    unistd::{Uid, User, getegid, geteuid, getgrouplist, pipe2},
};
use tokio::{
    io::AsyncWriteExt,
    net::unix::pipe,
    time::{sleep, timeout},
};

use super::{
    CallerScope, ProcessError,
    child::{Child, Image, Process},
    environment::{Environment, Step},
    output::Output,
    permits::Permit,
};

use crate::access::Identity;

/// Options of a command in its namespace.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// User whose rights the command has; `None`: the user that the request names, or the daemon's.
    pub identity: Option<Identity>,
    /// True if the namespace has `dns`: its own `resolv.conf` must be there, and the host's
    /// resolvers are out of reach.
    pub has_dns: bool,
    /// Limits of the caller.
    pub origin: CallerScope,
}

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Longest time limit of a request in seconds: a day.
const MAX_TIMEOUT_S: f64 = 86_400.0;

/// Time that the pipes of a command that has ended may stay open.
///
/// Its own output is in the pipes by then, so this time is only for descendants that are about to
/// end, as in `cmd | tee &`. Descendants that stay would keep the pipes open for ever; each such
/// response waits this long.
pub(super) const GRACE: Duration = Duration::from_millis(100);

/// Validates a request, before it waits for a permit.
pub(super) fn check_request(request: &Exec) -> Result<(), ProcessError> {
    let Some(program) = request.argv.first() else {
        return Err(ProcessError::invalid(
            &["argv"],
            "argv is empty: it needs a program at least",
        ));
    };
    if program.is_empty() {
        return Err(ProcessError::invalid(
            &["argv", "0"],
            "the program's name is empty",
        ));
    }
    for (index, argument) in request.argv.iter().enumerate() {
        check_no_nul(&["argv", &index.to_string()], argument)?;
    }
    for (key, value) in &request.env {
        if key.is_empty() || key.contains(['=', '\0']) {
            return Err(ProcessError::invalid(
                &["env", key],
                format!(
                    "{key:?} is not a valid variable name: it must not be empty or contain = or NUL"
                ),
            ));
        }
        check_no_nul(&["env", key], value)?;
    }
    check_no_nul(&["cwd"], request.cwd.as_deref().unwrap_or_default())?;
    check_no_nul(&["user"], request.user.as_deref().unwrap_or_default())?;
    if !(request.timeout_s > 0.0 && request.timeout_s <= MAX_TIMEOUT_S) {
        let detail = format!(
            "{} is not a valid time limit: it must be more than 0 and at most {MAX_TIMEOUT_S} seconds",
            request.timeout_s
        );
        return Err(ProcessError::invalid(&["timeout_s"], detail));
    }
    Ok(())
}

fn check_no_nul(path: &[&str], text: &str) -> Result<(), ProcessError> {
    if text.contains('\0') {
        Err(ProcessError::invalid(path, "it contains a NUL byte"))
    } else {
        Ok(())
    }
}

/// Runs a command to its end.
pub(super) async fn run_command(
    name: &Name,
    namespace: OwnedFd,
    request: &Exec,
    launch: Launch,
    permit: Permit,
) -> Result<ExecResult, ProcessError> {
    let started = Instant::now();
    let time = Duration::from_secs_f64(request.timeout_s);
    let (mut stdout, mut stderr) = (Output::default(), Output::default());
    let (name, owned) = (name.clone(), request.clone());
    let start = move |process: &Process| {
        let (pipes, stdio) = Pipes::open()?;
        spawn_command(process, &name, namespace, &owned, launch, stdio, false).map(|()| pipes)
    };
    let Some((mut child, pipes)) = Child::start(permit, time, start).await? else {
        return Ok(build_result(
            killed_status(),
            true,
            started.elapsed(),
            stdout,
            stderr,
        ));
    };
    let input = request.stdin.as_deref().unwrap_or_default().as_bytes();
    let time = time.saturating_sub(started.elapsed());
    let (status, killed) =
        pump_pipes(&mut child, pipes, input, time, &mut stdout, &mut stderr).await?;
    Ok(build_result(
        status,
        killed,
        started.elapsed(),
        stdout,
        stderr,
    ))
}

/// Returns the status of a command that was killed before it executed its program.
pub(super) fn killed_status() -> ExitStatus {
    ExitStatus::from_raw(Signal::SIGKILL as i32)
}

/// Daemon's ends of the pipes to a command's standard input, output and error.
pub(super) struct Pipes {
    pub(super) stdin: pipe::Sender,
    pub(super) stdout: pipe::Receiver,
    pub(super) stderr: pipe::Receiver,
}

impl Pipes {
    /// Opens the pipes; returns them and the command's ends. It needs the runtime's context.
    pub(super) fn open() -> Result<(Self, [OwnedFd; 3]), ProcessError> {
        let open = || {
            let ((input, stdin), (stdout, output), (stderr, error)) = (
                pipe2(OFlag::O_CLOEXEC)?,
                pipe2(OFlag::O_CLOEXEC)?,
                pipe2(OFlag::O_CLOEXEC)?,
            );
            let ours = Self {
                stdin: pipe::Sender::from_owned_fd(stdin)?,
                stdout: pipe::Receiver::from_owned_fd(stdout)?,
                stderr: pipe::Receiver::from_owned_fd(stderr)?,
            };
            Ok::<_, io::Error>((ours, [input, output, error]))
        };
        open().map_err(|error| ProcessError::refused("open a pipe", errno(&error)))
    }
}

fn build_result(
    status: ExitStatus,
    killed: bool,
    took: Duration,
    stdout: Output,
    stderr: Output,
) -> ExecResult {
    let truncated = stdout.truncated || stderr.truncated;
    let (stdout, stdout_base64) = stdout.into_text();
    let (stderr, stderr_base64) = stderr.into_text();
    ExecResult {
        exit_code: status.code(),
        signal: status.signal().map(signal_name),
        stdout,
        stderr,
        stdout_base64,
        stderr_base64,
        truncated,
        // A command that ended just before it was killed was in time.
        timed_out: killed && status.signal() == Some(Signal::SIGKILL as i32),
        duration_ms: (took.as_secs_f64() * 1e6).round() / 1e3,
    }
}

pub(super) fn signal_name(number: i32) -> String {
    // Real-time signals have no names.
    Signal::try_from(number).map_or_else(
        |_| format!("SIG{number}"),
        |signal| signal.as_str().to_owned(),
    )
}

/// Writes a command's input, reads its output and kills it when its time is over. Returns its status,
/// and true if it was killed.
async fn pump_pipes(
    child: &mut Child,
    Pipes {
        stdin,
        stdout: out,
        stderr: err,
    }: Pipes,
    input: &[u8],
    time: Duration,
    stdout: &mut Output,
    stderr: &mut Output,
) -> Result<(ExitStatus, bool), ProcessError> {
    let pipes = async {
        tokio::join!(
            stdout.read_all(out),
            stderr.read_all(err),
            write_input(stdin, input)
        )
    };
    tokio::pin!(pipes);
    let limit = sleep(time);
    tokio::pin!(limit);
    let (mut closed, mut killed) = (false, false);
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            _ = &mut pipes, if !closed => closed = true,
            () = &mut limit, if !killed => {
                child.kill();
                killed = true;
            }
        }
    };
    if !closed {
        let _ = timeout(GRACE, pipes).await; // Descendants may keep the pipes open.
    }
    Ok((status, killed))
}

async fn write_input(mut stdin: pipe::Sender, input: &[u8]) {
    // A command need not read its input: EPIPE is not an error. Dropping the pipe closes it.
    let _ = stdin.write_all(input).await;
}

/// Starts a command with these as its standard input, output and error; with `terminal` they are one
/// terminal, which becomes its controlling one. With an identity it runs as that user, and can never
/// gain privileges. Blocks until the command has executed its program.
pub(super) fn spawn_command(
    process: &Process,
    name: &Name,
    namespace: OwnedFd,
    request: &Exec,
    launch: Launch,
    stdio: [OwnedFd; 3],
    terminal: bool,
) -> Result<(), ProcessError> {
    let confined = launch.identity.is_some();
    let (user, identity) = match launch.identity {
        Some(identity) => (User::from_uid(identity.uid).ok().flatten(), Some(identity)),
        None => {
            let user = look_up_user(request.user.as_deref())?;
            let asked = user.as_ref().filter(|_| request.user.is_some());
            let identity = asked.map(identity_of).transpose()?.flatten();
            (user, identity)
        }
    };
    let variables = build_environment(user.as_ref(), &request.env);
    let directory = CString::new(request.cwd.as_deref().unwrap_or("/"))
        .map_err(|_| ProcessError::invalid(&["cwd"], "a NUL byte"))?;
    let environment = Environment::prepare(
        name,
        launch.has_dns,
        namespace,
        identity,
        confined,
        directory,
        terminal,
    )?;

    let image = Image::new(&request.argv, &variables)
        .map_err(|_| ProcessError::invalid(&["argv"], "it contains a NUL byte"))?;
    process
        .fork(&image, &environment, stdio)
        .map_err(|error| start_error(&error, request, &variables))
}

/// Looks up the requested user, or the daemon's own, which may have no name.
pub(super) fn look_up_user(asked: Option<&str>) -> Result<Option<User>, ProcessError> {
    let Some(asked) = asked else {
        return Ok(User::from_uid(geteuid()).ok().flatten());
    };
    let found = match asked.parse() {
        Ok(number) => User::from_uid(Uid::from_raw(number)),
        Err(_) => User::from_name(asked),
    };
    match found {
        Ok(Some(user)) => Ok(Some(user)),
        Ok(None) => Err(ProcessError::invalid(
            &["user"],
            format!("there is no user {asked:?}"),
        )),
        Err(errno) => Err(ProcessError::refused("look up the user", errno)),
    }
}

/// Returns the identity of a user; `None` if the daemon is that user, because in a sandbox it could
/// not even change to itself.
fn identity_of(user: &User) -> Result<Option<Identity>, ProcessError> {
    if user.uid == geteuid() && user.gid == getegid() {
        return Ok(None);
    }
    let name = CString::new(user.name.as_str())
        .map_err(|_| ProcessError::invalid(&["user"], "a NUL byte"))?;
    let groups = getgrouplist(&name, user.gid)
        .map_err(|errno| ProcessError::refused("look up the user's groups", errno))?;
    Ok(Some(Identity {
        uid: user.uid,
        gid: user.gid,
        groups,
    }))
}

/// Returns the command's environment. The daemon's own may hold secrets: only `LANG` and `TERM` are
/// passed on.
fn build_environment(
    user: Option<&User>,
    asked: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::from([("PATH".to_owned(), DEFAULT_PATH.to_owned())]);
    for key in ["LANG", "TERM"] {
        if let Ok(value) = std::env::var(key) {
            variables.insert(key.to_owned(), value);
        }
    }
    if let Some(user) = user {
        variables.insert("HOME".to_owned(), user.dir.to_string_lossy().into_owned());
        variables.insert("USER".to_owned(), user.name.clone());
        variables.insert("LOGNAME".to_owned(), user.name.clone());
    }
    variables.extend(asked.clone());
    variables
}

/// Returns the error of a command that was not started, by the step that failed.
fn start_error(
    error: &io::Error,
    request: &Exec,
    variables: &BTreeMap<String, String>,
) -> ProcessError {
    let (step, errno) = Step::split(error.raw_os_error().unwrap_or(Errno::EIO as i32));
    match step {
        Some(step @ Step::Directory) => {
            let directory = request.cwd.as_deref().unwrap_or("/");
            ProcessError::invalid(
                &["cwd"],
                format!("could not {} {directory:?}: {}", step.words(), errno.desc()),
            )
        }
        Some(step @ Step::User) => {
            let user = request.user.as_deref().unwrap_or_default();
            ProcessError::invalid(
                &["user"],
                format!("could not {} to {user:?}: {}", step.words(), errno.desc()),
            )
        }
        Some(step) => ProcessError::refused(step.words(), errno),
        None => exec_error(errno, &request.argv[0], variables),
    }
}

fn exec_error(errno: Errno, program: &str, variables: &BTreeMap<String, String>) -> ProcessError {
    let pointer = ["argv", "0"];
    match errno {
        Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE => {
            ProcessError::refused("start a process", errno)
        }
        Errno::E2BIG => {
            let detail = "the arguments and the environment are too long for the kernel (execve(2)): give what is large as stdin";
            ProcessError::invalid(&["argv"], detail)
        }
        Errno::ENOENT if program.contains('/') => ProcessError::invalid(
            &pointer,
            format!("program {program:?} was not found, or what it names after #! was not"),
        ),
        Errno::ENOENT => {
            let path = variables.get("PATH").map_or("", String::as_str);
            let detail = format!(
                "program {program:?} was not found in PATH {path}: give its whole path, or PATH in env"
            );
            ProcessError::invalid(&pointer, detail)
        }
        _ => ProcessError::NotExecutable {
            program: program.to_owned(),
            errno,
        },
    }
}
