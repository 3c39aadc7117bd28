//! Life of the daemon: prerequisites, sockets, services, readiness, shutdown.
//!
//! Begin at [`run`]. `prerequisites` checks what the daemon needs and locks the state directory,
//! `listeners` opens the sockets, `services` starts the store, the engine and the kernel's threads,
//! `shutdown` waits for signals and drains the servers; `logging` sets up the log. `restore` replaces
//! the database while no daemon runs.
//!
//! **Invariant:** the service manager is told that the daemon is ready only after everything
//! recorded has been applied, or tried.

mod listeners;
mod logging;
mod prerequisites;
mod restore;
mod services;
mod shutdown;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc};

use netnsd_api::{HostAccess, Role};
use nix::unistd::{Gid, Group};
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use self::{
    listeners::Listeners,
    prerequisites::{check_capabilities, lock_state_dir, raise_fd_limit, read_token},
    services::{Services, start_services},
    shutdown::{StopSignals, drain_servers},
};
pub use self::{logging::log_to_stderr, restore::restore};
use crate::{
    access::{AccessRule, Authenticator, Subject},
    http::Tls,
    sandbox, service_manager,
    settings::{Settings, SettingsError},
    watchdog,
};

/// Reason why the daemon did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A setting is invalid.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A setting is valid, but the file, socket or address that it names cannot be used.
    #[error("{0}")]
    InvalidSettingTarget(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl DaemonError {
    /// Returns the exit code of the program: 2 for its settings, else 1.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            DaemonError::Settings(_) | DaemonError::InvalidSettingTarget(_) => ExitCode::from(2),
            DaemonError::Other(_) => ExitCode::FAILURE,
        }
    }
}

type Result<T> = std::result::Result<T, DaemonError>;

/// Addresses that a daemon serves.
#[derive(Debug, Clone)]
pub struct Serving {
    /// Path of the Unix socket; `None` if the service manager passed the sockets.
    pub socket: Option<PathBuf>,
    /// TCP addresses as they were bound.
    pub tcp: Vec<SocketAddr>,
    /// True if TCP is served with TLS.
    pub tls: bool,
}

impl Serving {
    /// Returns the addresses as URLs.
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

/// Creates the daemon's runtime. Two threads are enough: the engine and the kernel's work have
/// threads of their own.
///
/// # Errors
/// If threads cannot be created.
pub fn build_runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("netnsd")
        .enable_all()
        .build()
        .map_err(|error| DaemonError::Other(format!("the runtime could not be started: {error}")))
}

/// Runs the daemon until a signal ends it; calls `ready` once everything recorded has been applied,
/// or tried.
///
/// # Errors
/// If the daemon cannot start.
pub async fn run(settings: Settings, ready: impl FnOnce(&Serving)) -> Result<()> {
    let mut signals = StopSignals::new()?;
    raise_fd_limit();
    check_capabilities(sandbox::effective_capabilities())?;

    let token = settings.token_file.as_deref().map(read_token).transpose()?;
    let tls = settings
        .tls
        .clone()
        .map(Tls::new)
        .transpose()
        .map_err(DaemonError::InvalidSettingTarget)?
        .map(Arc::new);
    let group = operator_group();
    let rules = access_rules(&settings, group);
    let access = Arc::new(
        Authenticator::new(rules, token.as_deref()).with_uplinks(settings.uplinks.clone()),
    );
    let _lock_guard = lock_state_dir(&settings.state_dir)?;

    let listeners = Listeners::open(&settings, group).await?;
    let serving = listeners.serving(tls.is_some());
    let (stop, stopping) = watch::channel(false);
    let Services {
        metrics,
        router,
        ready: services_ready,
        stopped: services_stopped,
    } = start_services(&settings, access, &serving, &stopping)?;
    let socket_file = listeners.socket_file.clone();
    let mut servers = listeners.serve(router, tls.as_ref(), &stopping);
    let tls_reloader = tokio::spawn(reload_tls_on_hangup(tls));
    tracing::info!(listen = serving.urls().join(" "), "serving");

    let is_ready = tokio::select! {
        () = services_ready => true,
        () = signals.next() => false,
    };
    if is_ready {
        tracing::info!("ready");
        service_manager::notify(&[NotifyState::Ready]);
        ready(&serving);
        let _watchdog_guard = watchdog::start(metrics.liveness.clone()).map_err(|error| {
            DaemonError::Other(format!("the watchdog's thread cannot be started: {error}"))
        })?;
        signals.next().await;
    }

    tls_reloader.abort();
    tracing::info!("stopping");
    service_manager::notify(&[NotifyState::Stopping]);
    // New clients find no socket from now on.
    drop(socket_file);
    let _ = stop.send(true); // All servers may have ended by themselves.
    drain_servers(&mut servers, &mut signals).await;
    services_stopped.await;
    tracing::info!("stopped");
    Ok(())
}

/// Group whose members are operators, and may open the Unix socket.
const OPERATOR_GROUP: &str = "netnsd";

fn operator_group() -> Option<Gid> {
    let group = Group::from_name(OPERATOR_GROUP).ok().flatten();
    group.map(|group| group.gid)
}

/// Returns the configured rules, and the one of the operators' group.
fn access_rules(settings: &Settings, group: Option<Gid>) -> Vec<AccessRule> {
    let operators = group.map(|gid| AccessRule {
        subject: Subject::Group(gid),
        role: Role::Operator,
        prefix: String::new(),
        host: HostAccess::Any,
    });
    settings.access.iter().cloned().chain(operators).collect()
}

/// Reads the TLS files again on each SIGHUP.
async fn reload_tls_on_hangup(tls: Option<Arc<Tls>>) {
    let Ok(mut hangups) = signal(SignalKind::hangup()) else {
        return;
    };
    while hangups.recv().await.is_some() {
        match tls.as_ref().map(|tls| tls.reload()) {
            None => tracing::info!("SIGHUP ignored: TLS is not configured"),
            Some(Ok(())) => tracing::info!("TLS certificate reloaded"),
            Some(Err(error)) => {
                tracing::error!(
                    error,
                    "cannot reload the TLS certificate; the old one stays"
                )
            }
        }
    }
}
