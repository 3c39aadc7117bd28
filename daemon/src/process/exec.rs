//! Running a command in a namespace.

use std::{
    collections::BTreeMap,
    ffi::CString,
    os::fd::OwnedFd,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use netnsd_api::{Exec, ExecResult, Name, Problem};
use nix::{
    errno::Errno,
    sys::signal::{Signal, killpg},
    unistd::{Pid, Uid, User, getegid, geteuid, getgrouplist},
};
use tokio::{
    io::AsyncWriteExt,
    process::{Child, ChildStdin, Command},
    time::{sleep, timeout},
};

use super::{
    Origin, blocking,
    environment::{Environment, Step},
    failed, invalid,
    output::Output,
};
use crate::{access::Identity, kernel::real::worker::errno};

/// How a command is to be run in its namespace.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// Whose rights it has; none: the daemon's own, or those of whom the request names.
    pub identity: Option<Identity>,
    /// True if the namespace has `dns`: its own `resolv.conf` must be there, and the host's resolvers are out of reach.
    pub has_dns: bool,
    /// The share of places that it takes one of, and the namespace that it enters.
    pub origin: Origin,
}

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The longest time that may be asked for, in seconds: a day.
const LONGEST: f64 = 86_400.0;

/// How long the pipes of a command that has ended are waited for.
///
/// What it wrote itself is in the pipes by then and read at once, so this is only for descendants that are about to
/// end, as in `cmd | tee &`. Those that stay would keep the pipes open for ever, and each such answer waits this long.
pub(super) const GRACE: Duration = Duration::from_millis(100);

/// Refuses what could not be run, before it waits for its turn.
pub(super) fn check(request: &Exec) -> Result<(), Problem> {
    let Some(program) = request.argv.first() else {
        return Err(invalid(&["argv"], "argv is empty: it needs a program at least"));
    };
    if program.is_empty() {
        return Err(invalid(&["argv", "0"], "the program's name is empty"));
    }
    for (index, argument) in request.argv.iter().enumerate() {
        no_nul(&["argv", &index.to_string()], argument)?;
    }
    for (key, value) in &request.env {
        if key.is_empty() || key.contains(['=', '\0']) {
            return Err(invalid(&["env", key], format!("{key:?} is no variable's name: not empty, without = and NUL")));
        }
        no_nul(&["env", key], value)?;
    }
    no_nul(&["cwd"], request.cwd.as_deref().unwrap_or_default())?;
    no_nul(&["user"], request.user.as_deref().unwrap_or_default())?;
    if !(request.timeout_s > 0.0 && request.timeout_s <= LONGEST) {
        let detail =
            format!("{} is not a time limit: it is more than 0 and at most {LONGEST} seconds", request.timeout_s);
        return Err(invalid(&["timeout_s"], detail));
    }
    Ok(())
}

fn no_nul(path: &[&str], text: &str) -> Result<(), Problem> {
    if text.contains('\0') { Err(invalid(path, "it contains a NUL byte")) } else { Ok(()) }
}

/// Runs the command to its end.
pub(super) async fn run(
    name: &Name,
    namespace: OwnedFd,
    request: &Exec,
    launch: Launch,
) -> Result<ExecResult, Problem> {
    let started = Instant::now();
    let (owned_name, owned_request) = (name.clone(), request.clone());
    // If this future is dropped while the thread spawns, the thread's result is dropped, which kills the group.
    let pipes = [Stdio::piped(), Stdio::piped(), Stdio::piped()];
    let mut running = blocking(move || spawn(&owned_name, namespace, &owned_request, launch, pipes, false)).await?;
    let (mut stdout, mut stderr) = (Output::default(), Output::default());
    let time = Duration::from_secs_f64(request.timeout_s);
    let input = request.stdin.as_deref().unwrap_or_default().as_bytes();
    let (status, killed) = running.attend(input, time, &mut stdout, &mut stderr).await?;
    Ok(result(status, killed, started.elapsed(), stdout, stderr))
}

fn result(status: ExitStatus, killed: bool, took: Duration, stdout: Output, stderr: Output) -> ExecResult {
    use std::os::unix::process::ExitStatusExt;
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
        // One that ended by itself just before the kill was in time.
        timed_out: killed && status.signal() == Some(Signal::SIGKILL as i32),
        duration_ms: (took.as_secs_f64() * 1e6).round() / 1e3,
    }
}

pub(super) fn signal_name(number: i32) -> String {
    // Those without a name are the real-time signals.
    Signal::try_from(number).map_or_else(|_| format!("SIG{number}"), |signal| signal.as_str().to_owned())
}

/// A command that runs. Dropped before its end, it takes its process group along.
pub(super) struct Running {
    pub(super) child: Child,
    group: Option<Pid>,
}

impl Running {
    /// Feeds it, reads it, and kills it when its time is over; tells how it ended and whether it was killed.
    async fn attend(
        &mut self,
        input: &[u8],
        time: Duration,
        stdout: &mut Output,
        stderr: &mut Output,
    ) -> Result<(ExitStatus, bool), Problem> {
        let (stdin, out, err) = (self.child.stdin.take(), self.child.stdout.take(), self.child.stderr.take());
        let pipes = async { tokio::join!(stdout.fill(out), stderr.fill(err), feed(stdin, input)) };
        tokio::pin!(pipes);
        let limit = sleep(time);
        tokio::pin!(limit);
        let (mut closed, mut killed) = (false, false);
        let status = loop {
            tokio::select! {
                status = self.wait() => break status?,
                _ = &mut pipes, if !closed => closed = true,
                () = &mut limit, if !killed => {
                    self.kill();
                    killed = true;
                }
            }
        };
        if !closed {
            let _ = timeout(GRACE, pipes).await;
        }
        Ok((status, killed))
    }

    /// Waits for its end.
    pub(super) async fn wait(&mut self) -> Result<ExitStatus, Problem> {
        let status = self.child.wait().await.map_err(|error| failed("wait for the command", errno(&error)))?;
        // It is reaped: its number may be another's from now on, and what it left running is left alone.
        self.group = None;
        Ok(status)
    }

    /// Kills its process group.
    pub(super) fn kill(&self) {
        if let Some(group) = self.group {
            // It can only fail because nobody is left.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The child itself is reaped by tokio's queue of orphans.
        self.kill();
    }
}

async fn feed(stdin: Option<ChildStdin>, input: &[u8]) {
    if let Some(mut stdin) = stdin {
        // A command need not read what it is given: EPIPE is no error. Dropping it then closes it.
        let _ = stdin.write_all(input).await;
    }
}

/// Starts a command with these as its standard input, output and error; `terminal`: they are one, and it controls it. With
/// an identity it runs as that user, and never has more privileges.
pub(super) fn spawn(
    name: &Name,
    namespace: OwnedFd,
    request: &Exec,
    launch: Launch,
    [stdin, stdout, stderr]: [Stdio; 3],
    terminal: bool,
) -> Result<Running, Problem> {
    let confined = launch.identity.is_some();
    let (user, identity) = match launch.identity {
        Some(who) => (User::from_uid(who.uid).ok().flatten(), Some(who)),
        None => {
            let user = user(request.user.as_deref())?;
            let asked = user.as_ref().filter(|_| request.user.is_some());
            let identity = asked.map(identity).transpose()?.flatten();
            (user, identity)
        }
    };
    let variables = variables(user.as_ref(), &request.env);
    let directory = CString::new(request.cwd.as_deref().unwrap_or("/")).map_err(|_| invalid(&["cwd"], "a NUL byte"))?;
    let environment = Environment::prepare(name, launch.has_dns, namespace, identity, confined, directory, terminal)?;

    let mut command = Command::new(&request.argv[0]);
    command.args(&request.argv[1..]).env_clear().envs(&variables);
    command.stdin(stdin).stdout(stdout).stderr(stderr);
    // SAFETY: `enter` only makes system calls on what was prepared; it takes no lock and allocates nothing.
    unsafe { command.pre_exec(move || environment.enter()) };
    let child = command.spawn().map_err(|error| not_started(&error, request, &variables))?;
    // It made a session, so its own number is its group's.
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    Ok(Running { child, group })
}

/// The user asked for, or the daemon's own if it has a name.
pub(super) fn user(asked: Option<&str>) -> Result<Option<User>, Problem> {
    let Some(asked) = asked else { return Ok(User::from_uid(geteuid()).ok().flatten()) };
    let found = match asked.parse() {
        Ok(number) => User::from_uid(Uid::from_raw(number)),
        Err(_) => User::from_name(asked),
    };
    match found {
        Ok(Some(user)) => Ok(Some(user)),
        Ok(None) => Err(invalid(&["user"], format!("there is no user {asked:?}"))),
        Err(errno) => Err(failed("look up the user", errno)),
    }
}

/// What to change to be that user; none if the daemon is that user, as a sandbox could not even change to itself.
fn identity(user: &User) -> Result<Option<Identity>, Problem> {
    if user.uid == geteuid() && user.gid == getegid() {
        return Ok(None);
    }
    let name = CString::new(user.name.as_str()).map_err(|_| invalid(&["user"], "a NUL byte"))?;
    let groups = getgrouplist(&name, user.gid).map_err(|errno| failed("look up the user's groups", errno))?;
    Ok(Some(Identity { uid: user.uid, gid: user.gid, groups }))
}

/// The command's environment: nothing of the daemon's own but language and terminal, which may hold secrets.
fn variables(user: Option<&User>, asked: &BTreeMap<String, String>) -> BTreeMap<String, String> {
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

/// Says why a command was not started, by the step that failed.
fn not_started(error: &std::io::Error, request: &Exec, variables: &BTreeMap<String, String>) -> Problem {
    let (step, errno) = Step::split(error.raw_os_error().unwrap_or(Errno::EIO as i32));
    match step {
        Some(step @ Step::Directory) => {
            let directory = request.cwd.as_deref().unwrap_or("/");
            invalid(&["cwd"], format!("could not {} {directory:?}: {}", step.words(), errno.desc()))
        }
        Some(step @ Step::User) => {
            let user = request.user.as_deref().unwrap_or_default();
            invalid(&["user"], format!("could not {} to {user:?}: {}", step.words(), errno.desc()))
        }
        Some(step) => failed(step.words(), errno),
        None => not_executed(errno, &request.argv[0], variables),
    }
}

fn not_executed(errno: Errno, program: &str, variables: &BTreeMap<String, String>) -> Problem {
    let pointer = ["argv", "0"];
    match errno {
        Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE => failed("start a process", errno),
        Errno::E2BIG => {
            let detail = "the arguments and the environment are too long for the kernel (execve(2)): give what is large as stdin";
            invalid(&["argv"], detail)
        }
        Errno::ENOENT if program.contains('/') => {
            invalid(&pointer, format!("program {program:?} was not found, or what it names after #! was not"))
        }
        Errno::ENOENT => {
            let path = variables.get("PATH").map_or("", String::as_str);
            let detail =
                format!("program {program:?} was not found in PATH {path}: give its whole path, or PATH in env");
            invalid(&pointer, detail)
        }
        _ => {
            let advice = match errno {
                Errno::EACCES => {
                    ": it needs to be a file that its user may execute (chmod +x), in directories that it may enter"
                }
                Errno::ENOEXEC => {
                    ": a script begins with #! and its interpreter, or is given to one, as [\"sh\", \"script\"]"
                }
                _ => "",
            };
            let detail = format!("program {program:?} could not be executed: {}{advice}", errno.desc());
            Problem { errno: Some(format!("{errno:?}")), ..invalid(&pointer, detail) }
        }
    }
}
