//! The daemon's life: lock, rooms, sockets, ready, stop.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    future::Future,
    io::{self, IsTerminal, Read, Seek, Write},
    net::SocketAddr,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    pin::Pin,
    process::ExitCode,
    sync::Arc,
};

use axum::Router;
use jiff::Timestamp;
use netnsd_api::{HostAccess, Role};
use nix::{
    fcntl::{Flock, FlockArg},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        socket::{
            AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt,
            sockopt,
        },
    },
    unistd::{Gid, Group, geteuid},
};
use sd_notify::NotifyState;
use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{
    access::{AccessRule, Authenticator, Subject, audit},
    engine::{Engine, View},
    http::{self, AppState, Tls},
    kernel::{look::Look, real::RealKernel},
    liveness::Liveness,
    metrics::Metrics,
    model::format_rfc3339,
    process::Processes,
    sandbox, service_manager,
    settings::{LogFormat, Settings, Wrong},
    store::{AuditLog, History},
    watchdog,
};

/// Why the daemon did not start, or stopped, in a sentence.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A setting is wrong.
    #[error(transparent)]
    Setting(#[from] Wrong),
    /// A setting is wrong in what it points to.
    #[error("{0}")]
    Pointed(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl Failure {
    /// What the program ends with: 2 for its settings, else 1.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Setting(_) | Failure::Pointed(_) => ExitCode::from(2),
            Failure::Other(_) => ExitCode::FAILURE,
        }
    }
}

type Result<T> = std::result::Result<T, Failure>;

/// What serves, once it is ready.
#[derive(Debug, Clone)]
pub struct Serving {
    /// The Unix socket, unless another was handed over by the service manager.
    pub socket: Option<PathBuf>,
    /// The TCP addresses as they were bound.
    pub tcp: Vec<SocketAddr>,
    /// Whether those are served by TLS.
    pub tls: bool,
}

impl Serving {
    /// Where it serves, as URLs.
    pub fn urls(&self) -> Vec<String> {
        let unix = self
            .socket
            .iter()
            .map(|path| format!("unix://{}", path.display()));
        let scheme = if self.tls { "https" } else { "http" };
        unix.chain(
            self.tcp
                .iter()
                .map(|address| format!("{scheme}://{address}")),
        )
        .collect()
    }
}

/// A runtime for the daemon: few threads, since the kernel's work has its own.
///
/// # Errors
/// When threads cannot be made.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("netnsd")
        .enable_all()
        .build()
        .map_err(|error| Failure::Other(format!("the runtime could not be started: {error}")))
}

/// Writes the log, panics included, to stderr. Only the first call has an effect.
pub fn log_to_stderr(format: LogFormat, filter: &Targets) {
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        // They would go to stderr too, by a macro that panics when stderr is what failed.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    let layer = match format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().boxed(),
    };
    let mut filter = filter.clone();
    // A journal keeps the audit log's entries out of the reach of whoever fills that. Elsewhere
    // they are only noise, unless asked for.
    if !filter.iter().any(|(target, _)| target == audit::TARGET) && !stderr_is_journal() {
        filter = filter.with_target(audit::TARGET, LevelFilter::OFF);
    }
    // A log that is set up already, as when this is called twice, stays.
    let _ = tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init();
    std::panic::set_hook(Box::new(|info| tracing::error!(panic = true, "{info}")));
}

/// Returns true if stderr is connected to the journal: `JOURNAL_STREAM` is its device and inode
/// then (systemd.exec(5)).
fn stderr_is_journal() -> bool {
    let Ok(stderr) = nix::sys::stat::fstat(io::stderr()) else {
        return false;
    };
    std::env::var("JOURNAL_STREAM")
        .is_ok_and(|stream| stream == format!("{}:{}", stderr.st_dev, stderr.st_ino))
}

/// Runs the daemon until a signal ends it; `ready` is called once everything recorded has been
/// tried.
///
/// # Errors
/// What keeps it from starting.
pub async fn run(settings: Settings, ready: impl FnOnce(&Serving)) -> Result<()> {
    let mut signals = Signals::new()?;
    raise_files();
    check_capabilities(sandbox::effective_capabilities())?;
    let token = settings.token_file.as_deref().map(read_token).transpose()?;
    let tls = settings
        .tls
        .clone()
        .map(Tls::new)
        .transpose()
        .map_err(Failure::Pointed)?
        .map(Arc::new);
    let group = Group::from_name(GROUP)
        .ok()
        .flatten()
        .map(|group| group.gid);
    let access = Arc::new(Authenticator::new(
        rules(&settings, group),
        token.as_deref(),
    ));
    let _lock = lock(&settings.state_dir)?;
    let listeners = Listeners::open(&settings, group).await?;
    let serving = listeners.serving(tls.is_some());
    let (stop, stopping) = watch::channel(false);
    let rooms = start_rooms(&settings, access, &serving, &stopping)?;
    let socket_file = listeners.socket_file.clone();
    let mut servers = listeners.serve(rooms.router, tls.as_ref(), &stopping);
    let reloading = tokio::spawn(reload(tls));
    tracing::info!(listen = serving.urls().join(" "), "serving");
    let is_ready = tokio::select! {
        () = rooms.ready => true,
        () = signals.next() => false,
    };
    if is_ready {
        tracing::info!("ready");
        service_manager::notify(&[NotifyState::Ready]);
        ready(&serving);
        let watchdog = watchdog::start(rooms.metrics.liveness.clone()).map_err(|error| {
            Failure::Other(format!("the watchdog's thread cannot be started: {error}"))
        })?;
        signals.next().await;
        drop(watchdog);
    }
    reloading.abort();
    tracing::info!("stopping");
    service_manager::notify(&[NotifyState::Stopping]);
    drop(socket_file);
    let _ = stop.send(true);
    drain(&mut servers, &mut signals).await;
    rooms.stop.await;
    Ok(())
}

/// Whose members are operators, and may open the socket.
const GROUP: &str = "netnsd";

fn rules(settings: &Settings, group: Option<Gid>) -> Vec<AccessRule> {
    let members = group.map(|gid| AccessRule {
        subject: Subject::Group(gid),
        role: Role::Operator,
        prefix: String::new(),
        host: HostAccess::Any,
    });
    settings.access.iter().cloned().chain(members).collect()
}

/// Reads the files of TLS anew on each SIGHUP.
async fn reload(tls: Option<Arc<Tls>>) {
    let Ok(mut hangups) = signal(SignalKind::hangup()) else {
        return;
    };
    while hangups.recv().await.is_some() {
        match tls.as_ref().map(|tls| tls.reload()) {
            None => tracing::info!("nothing is read anew without TLS"),
            Some(Ok(())) => tracing::info!("the certificate was read anew"),
            Some(Err(error)) => tracing::error!(error, "the certificate stays the one read before"),
        }
    }
}

// ---- The rooms
// -------------------------------------------------------------------------------------------------

/// What the other rooms give to the daemon.
struct Rooms {
    metrics: Arc<Metrics>,
    router: Router,
    /// Ends when everything recorded has been tried.
    ready: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Ends when nothing more will be written.
    stop: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Opens the store and starts the engine and the kernel's threads.
fn start_rooms(
    settings: &Settings,
    access: Arc<Authenticator>,
    serving: &Serving,
    stopping: &watch::Receiver<bool>,
) -> Result<Rooms> {
    let other = |what: &str, error: &dyn std::fmt::Display| {
        Failure::Other(format!("{what} cannot be started: {error}"))
    };
    let view = Arc::new(View::default());
    let database = settings.state_dir.join("netnsd.db");
    let (shown, newest) = watch::channel(0);
    let mut metrics = Metrics::default();
    metrics.liveness = Liveness::new(sd_notify::watchdog_enabled()).into();
    let metrics = Arc::new(metrics);
    let (engine, thread) = Engine::start(
        &database,
        view.clone(),
        shown,
        settings.policy,
        metrics.clone(),
        access.clone(),
        RealKernel::start,
    )
    .map_err(|error| Failure::Other(error.to_string()))?;
    let look = Look::start().map_err(|error| other("looking at the kernel", &error))?;
    let app = AppState {
        engine,
        view: view.clone(),
        look: look.clone(),
        history: History::new(&database, newest),
        metrics: metrics.clone(),
        audit: AuditLog::new(&database),
        access,
        failed_auth: Arc::default(),
        process: Processes::start().map_err(|error| other("running processes", &error))?,
        started_at: format_rfc3339(Timestamp::now()),
        listen: serving.urls().into(),
        stopping: stopping.clone(),
    };
    let stop = async move {
        // The thread ends when the last way to the engine is gone, which the router was.
        if tokio::task::spawn_blocking(move || thread.join())
            .await
            .is_err()
        {
            tracing::error!("the engine ended badly");
        }
    };
    Ok(Rooms {
        metrics,
        router: http::router(app.into()),
        ready: Box::pin(async move {
            view.wait_ready().await;
            tokio::spawn(warn_of_unrecorded(look, view));
        }),
        stop: Box::pin(stop),
    })
}

/// Number of resources that a line of the log names.
const NAMED: usize = 10;

/// Warns of what bears owner tags in the kernel while no record has it, as after the database was
/// lost or cut.
async fn warn_of_unrecorded(look: Look, view: Arc<View>) {
    let found = look
        .unrecorded(move |resource| view.get(resource.kind, &resource.name).is_some())
        .await;
    let Ok(found) = found else { return };
    if !found.is_empty() {
        let names: Vec<String> = found.iter().take(NAMED).map(ToString::to_string).collect();
        tracing::warn!(
            count = found.len(),
            resources = names.join(", "),
            "the kernel has things that bear netnsd's owner tags and that the database does not know: they stay as they are \
             (if the database was lost, see \"The kernel has more than the database\" in docs/operating.md)"
        );
    }
}

// ---- Stopping
// --------------------------------------------------------------------------------------------------

struct Signals {
    term: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Failure::Other(format!("signals cannot be received: {error}")))
        };
        Ok(Self {
            term: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => (),
            _ = self.interrupt.recv() => (),
        }
    }
}

/// Waits for the servers, which give running requests a limited time; a second signal ends the
/// daemon at once.
async fn drain(servers: &mut JoinSet<()>, signals: &mut Signals) {
    tokio::select! {
        () = async { while servers.join_next().await.is_some() {} } => (),
        () = signals.next() => {
            tracing::warn!("told to stop twice: ending at once");
            std::process::exit(1);
        }
    }
}

// ---- What it needs
// ---------------------------------------------------------------------------------------------

/// The capabilities that the daemon cannot do without, by their numbers.
const NEEDED: [(&str, u32); 5] = [
    ("CAP_NET_BROADCAST", 11),
    ("CAP_NET_ADMIN", 12),
    ("CAP_NET_RAW", 13),
    ("CAP_SYS_PTRACE", 19),
    ("CAP_SYS_ADMIN", 21),
];

/// Takes as many descriptors as are allowed: each connection is one, and each into a namespace that
/// work is done in two.
fn raise_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(errno) = raised {
        tracing::warn!(
            error = errno.desc(),
            "the limit of descriptors stays as it is"
        );
    }
}

fn check_capabilities(effective: u64) -> Result<()> {
    let missing: Vec<_> = NEEDED
        .iter()
        .filter(|(_, bit)| effective & (1 << bit) == 0)
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::Other(format!(
        "netnsd lacks {}: run it as root, as with sudo, or try it without any by `netnsd try`",
        missing.join(", ")
    )))
}

/// One daemon at a time: the lock lasts as long as what is returned.
fn lock(state_dir: &Path) -> Result<Flock<File>> {
    let failed = |error: io::Error| {
        Failure::Pointed(format!(
            "state_dir is \"{}\", which cannot be used: {error}",
            state_dir.display()
        ))
    };
    make_dirs(state_dir, 0o700)
        .and_then(|()| check_owner(state_dir))
        .map_err(failed)?;
    let path = state_dir.join("lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    let mut file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(mut file, errno)| {
        if errno != nix::errno::Errno::EWOULDBLOCK {
            return failed(errno.into());
        }
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder);
        let holder = match holder.trim() {
            "" => "another daemon".to_owned(),
            pid => format!("another daemon, process {pid},"),
        };
        Failure::Other(format!(
            "{holder} holds the state directory {}: stop it first, or give this one another by --state-dir",
            state_dir.display()
        ))
    })?;
    let pid = format!("{}\n", std::process::id());
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(pid.as_bytes()))
        .map_err(failed)?;
    Ok(file)
}

/// Makes a directory of this mode; its parents, where missing, are open to be passed through.
fn make_dirs(dir: &Path, mode: u32) -> io::Result<()> {
    if let Some(parent) = dir.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)?;
    }
    match DirBuilder::new().mode(mode).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        other => other,
    }
}

/// Checks that nobody else can put files of theirs into a directory.
fn check_owner(dir: &Path) -> io::Result<()> {
    let metadata = fs::metadata(dir)?;
    let (mode, owner) = (metadata.permissions().mode() & 0o7777, metadata.uid());
    if mode & 0o022 == 0 && (owner == 0 || owner == geteuid().as_raw()) {
        return Ok(());
    }
    let text = format!(
        "others may write it (mode {mode:04o}, owner {owner}): make it yours alone, as by chmod 700, or give netnsd a directory of its own"
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

fn read_token(path: &Path) -> Result<String> {
    let wrong =
        |right: String| Failure::Pointed(format!("token_file is \"{}\": {right}", path.display()));
    let mut file =
        File::open(path).map_err(|error| wrong(format!("it cannot be read ({error})")))?;
    let mut text = String::new();
    let mode = file
        .metadata()
        .map(|metadata| metadata.permissions().mode())
        .unwrap_or(0);
    file.read_to_string(&mut text)
        .map_err(|error| wrong(format!("it cannot be read ({error})")))?;
    if mode & 0o077 != 0 {
        tracing::warn!("{} can be read by others: chmod 600 it", path.display());
    }
    let token = text.trim();
    if token.is_empty() || token.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(wrong(
            "it must hold one token, on one line, without spaces".into(),
        ));
    }
    Ok(token.to_owned())
}

// ---- Sockets
// ---------------------------------------------------------------------------------------------------

/// Everything that is served.
#[derive(Default)]
struct Listeners {
    unix: Vec<UnixListener>,
    tcp: Vec<TcpListener>,
    /// The socket's file, removed when this goes; none where the service manager owns it.
    socket_file: Option<std::sync::Arc<SocketFile>>,
}

impl Listeners {
    async fn open(settings: &Settings, group: Option<Gid>) -> Result<Self> {
        let mut listeners = Self::handed_over(settings)?;
        if listeners.unix.is_empty() {
            let (listener, file) = bind_unix(&settings.socket, group).map_err(|error| {
                Failure::Pointed(format!(
                    "socket is \"{}\", which cannot be served: {error}",
                    settings.socket.display()
                ))
            })?;
            listeners.unix.push(listener);
            listeners.socket_file = Some(std::sync::Arc::new(file));
        }
        for address in &settings.listen {
            let listener = TcpListener::bind(address).await.map_err(|error| {
                Failure::Pointed(format!(
                    "listen is \"{address}\", which cannot be served: {error}"
                ))
            })?;
            listeners.tcp.push(listener);
        }
        Ok(listeners)
    }

    /// What the service manager opened for us.
    fn handed_over(settings: &Settings) -> Result<Self> {
        let wrong = |text: String| {
            Failure::Other(format!(
                "a socket handed over by the service manager {text}"
            ))
        };
        let mut listeners = Self::default();
        let fds =
            sd_notify::listen_fds().map_err(|error| wrong(format!("cannot be taken: {error}")))?;
        for fd in fds {
            match take_over(fd)
                .map_err(|error| wrong(format!("(descriptor {fd}) cannot be served: {error}")))?
            {
                HandedOver::Unix(listener) => listeners.unix.push(listener),
                HandedOver::Tcp(listener) => {
                    let address = listener
                        .local_addr()
                        .map_err(|error| wrong(error.to_string()))?;
                    let by_certificate = settings
                        .tls
                        .as_ref()
                        .is_some_and(|tls| tls.client_ca.is_some());
                    if settings.token_file.is_none() && !by_certificate {
                        return Err(wrong(format!(
                            "is TCP ({address}), which needs token_file to be set"
                        )));
                    }
                    if !address.ip().is_loopback() && settings.tls.is_none() {
                        return Err(wrong(format!(
                            "is {address}: beyond loopback TCP needs tls_cert and tls_key to be set"
                        )));
                    }
                    listeners.tcp.push(listener);
                }
            }
        }
        Ok(listeners)
    }

    fn serving(&self, tls: bool) -> Serving {
        Serving {
            socket: self.socket_file.as_ref().map(|file| file.path.clone()),
            tcp: self
                .tcp
                .iter()
                .filter_map(|listener| listener.local_addr().ok())
                .collect(),
            tls,
        }
    }

    fn serve(
        self,
        router: Router,
        tls: Option<&Arc<Tls>>,
        stopping: &watch::Receiver<bool>,
    ) -> JoinSet<()> {
        let mut servers = JoinSet::new();
        for listener in self.unix {
            servers.spawn(http::serve_unix(listener, router.clone(), stopping.clone()));
        }
        for listener in self.tcp {
            servers.spawn(http::serve_tcp(
                listener,
                router.clone(),
                tls.cloned(),
                stopping.clone(),
            ));
        }
        servers
    }
}

enum HandedOver {
    Unix(UnixListener),
    Tcp(TcpListener),
}

fn take_over(fd: RawFd) -> io::Result<HandedOver> {
    // SAFETY: the service manager gave us this descriptor, for us alone; EBADF is found by the
    // calls below.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let listens = getsockopt(&borrowed, sockopt::AcceptConn)?;
    if !listens || getsockopt(&borrowed, sockopt::SockType)? != SockType::Stream {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a listening stream socket",
        ));
    }
    let family = getsockname::<SockaddrStorage>(fd)?.family();
    // SAFETY: it is open, as the calls above have shown, and nobody else owns it.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    match family {
        Some(AddressFamily::Unix) => {
            let listener = std::os::unix::net::UnixListener::from(owned);
            listener.set_nonblocking(true)?;
            UnixListener::from_std(listener).map(HandedOver::Unix)
        }
        Some(AddressFamily::Inet | AddressFamily::Inet6) => {
            let listener = std::net::TcpListener::from(owned);
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener).map(HandedOver::Tcp)
        }
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is neither a Unix nor a TCP socket",
        )),
    }
}

/// The file of a socket that we bound.
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another may have taken the place meanwhile.
        if fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds the socket so that at no moment others can open it: inside a closed directory, then moved
/// into place.
fn bind_unix(path: &Path, group: Option<Gid>) -> io::Result<(UnixListener, SocketFile)> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    make_dirs(parent, 0o755)?;
    refuse_taken(path)?;
    let closed = tempfile::Builder::new()
        .prefix(".netnsd-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in(parent)?;
    let bound = closed.path().join("s");
    // Through the open directory the path is short enough whatever the directory's own is.
    let directory = File::open(closed.path())?;
    let short = format!("/proc/self/fd/{}/s", directory.as_raw_fd());
    let listener = std::os::unix::net::UnixListener::bind(short)?;
    // Where the group is not there, or is not ours to give, it stays with our own.
    let _own_group = std::os::unix::fs::chown(&bound, None, group.map(Gid::as_raw));
    fs::set_permissions(&bound, fs::Permissions::from_mode(0o660))?;
    let inode = fs::symlink_metadata(&bound)?.ino();
    fs::rename(&bound, path)?;
    listener.set_nonblocking(true)?;
    Ok((
        UnixListener::from_std(listener)?,
        SocketFile {
            path: path.to_owned(),
            inode,
        },
    ))
}

/// A socket left behind by a crash may be replaced; one that somebody serves, or another file, may
/// not.
fn refuse_taken(path: &Path) -> io::Result<()> {
    let Ok(file) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !file.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "a file that is not a socket is there",
        ));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process serves it",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_capabilities_are_named() {
        assert!(check_capabilities(u64::MAX).is_ok());
        let text = check_capabilities(1 << 12).unwrap_err().to_string();
        assert!(
            text.contains("CAP_SYS_ADMIN")
                && text.contains("root")
                && !text.contains("CAP_NET_ADMIN"),
            "{text}"
        );
    }

    #[test]
    fn one_daemon_holds_a_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        let held = lock(&state).unwrap();
        assert_eq!(
            fs::metadata(&state).unwrap().permissions().mode() & 0o777,
            0o700
        );
        let text = lock(&state).unwrap_err().to_string();
        assert!(
            text.contains(&std::process::id().to_string()) && text.contains("a/b"),
            "{text}"
        );
        drop(held);
        lock(&state).unwrap();
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/socket");
        let (listener, file) = bind_unix(&path, None).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o660
        );
        assert_eq!(
            bind_unix(&path, None).err().unwrap().kind(),
            io::ErrorKind::AddrInUse
        );
        drop(listener);
        let second = bind_unix(&path, None).unwrap();
        drop(file);
        assert!(
            path.exists(),
            "the first one's end must not remove the second one's file"
        );
        drop(second);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert_eq!(
            bind_unix(&path, None).err().unwrap().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_token_is_one_word() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, good) in [
            ("secret\n", true),
            ("", false),
            ("\n", false),
            ("two words", false),
            ("a\nb\n", false),
        ] {
            fs::write(file.path(), text).unwrap();
            assert_eq!(read_token(file.path()).is_ok(), good, "{text:?}");
        }
    }
}
