//! The daemon itself: from its settings to the last answer.

use std::{
    fs, io,
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::{fs::DirBuilderExt, net::UnixListener as StdUnixListener},
    },
    path::Path,
    sync::{Arc, RwLock},
    time::Duration,
};

use jiff::Timestamp;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname},
    sys::stat::{Mode, umask},
};
use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
    task::JoinSet,
};

use crate::{
    engine::{Engine, View, rfc3339},
    http::{self, App},
    kernel::{look::Look, real::RealKernel},
    process::Processes,
    settings::Settings,
};

/// What the daemon needs of a process that is not root: the capability's number (`linux/capability.h`), name, reason.
const CAPABILITIES: [(u32, &str, &str); 4] = [
    (12, "CAP_NET_ADMIN", "links, addresses, routes"),
    (21, "CAP_SYS_ADMIN", "namespaces and mounts"),
    (13, "CAP_NET_RAW", "ping"),
    (19, "CAP_SYS_PTRACE", "the namespaces of processes"),
];

/// Names the capabilities that are missing.
fn check_capabilities() -> Result<(), String> {
    let status = fs::read_to_string("/proc/self/status").map_err(|error| format!("/proc/self/status: {error}"))?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
    let effective = u64::from_str_radix(effective.trim(), 16).unwrap_or(0);
    let missing: Vec<String> = CAPABILITIES
        .iter()
        .filter(|(number, _, _)| effective & (1 << number) == 0)
        .map(|(_, name, reason)| format!("{name} ({reason})"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("netnsd needs {}: run it as root, or try it without by `netnsd try`", missing.join(", ")))
}

/// Runs until SIGTERM or SIGINT. `ready` hears that everything recorded has been tried.
///
/// # Errors
/// A sentence that says why the daemon cannot start.
pub async fn run(settings: Settings, ready: oneshot::Sender<()>) -> Result<(), String> {
    check_capabilities()?;
    let _lock = lock(&settings.state_dir)?;
    let view = Arc::new(View::default());
    let database = settings.state_dir.join("netnsd.db");
    let (engine, engine_thread) =
        Engine::start(&database, view.clone(), RealKernel::start).map_err(|error| error.to_string())?;
    let app = App {
        engine,
        view: view.clone(),
        look: Look::start().map_err(|error| format!("cannot look at the kernel: {error}"))?,
        process: Processes::start().map_err(|error| format!("cannot run processes: {error}"))?,
        started_at: rfc3339(Timestamp::now()),
        listen: Arc::new(RwLock::new(Vec::new())),
    };
    let (stop, stopped) = watch::channel(false);
    let mut servers = JoinSet::new();
    let sockets = listen(&settings).await?;
    let mut addresses = Vec::new();
    let router = http::router(app.clone());
    for listener in sockets.unix {
        addresses.push(format!("unix://{}", unix_path(&listener)));
        servers.spawn(http::serve_unix(listener, router.clone(), stopped.clone()));
    }
    for listener in sockets.tcp {
        let token: Arc<str> = settings.token.as_deref().ok_or("a TCP socket needs --token-file")?.into();
        addresses.push(format!("http://{}", listener.local_addr().map_err(|error| error.to_string())?));
        servers.spawn(http::serve_tcp(listener, router.clone(), token, stopped.clone()));
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), listen = addresses.join(" "), "netnsd listens");
    if let Ok(mut listen) = app.listen.write() {
        *listen = addresses;
    }
    tokio::spawn(announce(view, ready));
    drop((app, router));
    wait_for_signal().await.map_err(|error| format!("signals: {error}"))?;
    notify(sd_notify::NotifyState::Stopping);
    let _all_gone = stop.send(true);
    while servers.join_next().await.is_some() {}
    let _ended = tokio::task::spawn_blocking(move || engine_thread.join()).await;
    if sockets.ours {
        let _already_gone = fs::remove_file(&settings.socket);
    }
    tracing::info!("netnsd has stopped; the network stays");
    Ok(())
}

/// Tells the service manager once everything recorded has been tried; then that the daemon lives.
async fn announce(view: Arc<View>, ready: oneshot::Sender<()>) {
    view.wait_ready().await;
    notify(sd_notify::NotifyState::Ready);
    let _nobody_waits = ready.send(());
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    let mut beat = tokio::time::interval(interval / 2);
    loop {
        beat.tick().await;
        notify(sd_notify::NotifyState::Watchdog);
    }
}

fn notify(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

/// Waits for SIGTERM or SIGINT; a second one ends the process at once.
async fn wait_for_signal() -> io::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    tracing::info!("stopping: running requests are answered first");
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        std::process::exit(1);
    });
    Ok(())
}

/// Makes the state directory and locks it.
fn lock(dir: &Path) -> Result<Flock<fs::File>, String> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| format!("--state-dir {}: {error}", dir.display()))?;
    let path = dir.join("lock");
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| format!("--state-dir {}: {error}", dir.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => {
            format!("--state-dir {}: another netnsd uses it: stop that one, or choose another directory", dir.display())
        }
        errno => format!("--state-dir {}: {}", path.display(), errno.desc()),
    })
}

struct Sockets {
    unix: Vec<UnixListener>,
    tcp: Vec<TcpListener>,
    /// Whether the Unix socket's file is ours to remove.
    ours: bool,
}

/// The sockets that systemd hands over, or those of the settings.
async fn listen(settings: &Settings) -> Result<Sockets, String> {
    let mut sockets = Sockets { unix: Vec::new(), tcp: Vec::new(), ours: false };
    let handed_over = sd_notify::listen_fds().map(Iterator::collect::<Vec<_>>).unwrap_or_default();
    for fd in handed_over {
        // SAFETY: the service manager gave this descriptor to this process, and nobody else takes it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        take_over(fd, &mut sockets).map_err(|error| format!("a socket handed over by the service manager: {error}"))?;
    }
    if sockets.unix.is_empty() {
        let at = |error: io::Error| format!("--socket {}: {error}", settings.socket.display());
        sockets.unix.push(bind(&settings.socket).map_err(at)?);
        sockets.ours = true;
    }
    for address in &settings.listen {
        let listener = TcpListener::bind(address).await.map_err(|error| format!("--listen {address}: {error}"))?;
        sockets.tcp.push(listener);
    }
    Ok(sockets)
}

fn take_over(fd: OwnedFd, sockets: &mut Sockets) -> io::Result<()> {
    let address: SockaddrStorage = getsockname(std::os::fd::AsRawFd::as_raw_fd(&fd))?;
    if address.family() == Some(AddressFamily::Unix) {
        let listener = StdUnixListener::from(fd);
        listener.set_nonblocking(true)?;
        sockets.unix.push(UnixListener::from_std(listener)?);
    } else {
        let listener = std::net::TcpListener::from(fd);
        listener.set_nonblocking(true)?;
        sockets.tcp.push(TcpListener::from_std(listener)?);
    }
    Ok(())
}

/// Binds the Unix socket, open to root only; a file that nobody listens on any more is replaced.
fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
        Err(_) => {}
    }
    // The mode is right from the first instant on: the mask applies to the file that bind(2) makes.
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    listener
}

fn unix_path(listener: &UnixListener) -> String {
    let address = listener.local_addr().ok();
    address
        .as_ref()
        .and_then(|address| address.as_pathname())
        .map_or_else(String::new, |path| path.display().to_string())
}

/// How long `netnsd try` waits for the daemon to be ready.
pub const START: Duration = Duration::from_secs(30);
