//! Start of the store, the engine and the kernel's threads.

use std::{fmt::Display, future::Future, pin::Pin, sync::Arc};

use axum::Router;
use jiff::Timestamp;
use tokio::sync::watch;

use super::{DaemonError, Result, Serving};
use crate::{
    access::Authenticator,
    engine::{Engine, View},
    http::{self, AppState},
    kernel::{query::KernelQueries, real::RealKernel},
    liveness::Liveness,
    metrics::Metrics,
    model::format_rfc3339,
    process::Processes,
    settings::Settings,
    store::{AuditLog, Backups, History},
};

/// Running services below HTTP, and the router that serves them.
pub(super) struct Services {
    pub(super) metrics: Arc<Metrics>,
    pub(super) router: Router,
    /// Ends once everything recorded has been applied, or tried.
    pub(super) ready: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Ends once nothing more will be written.
    pub(super) stopped: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Opens the store and starts the engine and the kernel's threads.
///
/// # Errors
/// If the database cannot be opened, or a thread cannot be created.
pub(super) fn start_services(
    settings: &Settings,
    access: Arc<Authenticator>,
    serving: &Serving,
    stopping: &watch::Receiver<bool>,
) -> Result<Services> {
    let view = Arc::new(View::default());
    let database = settings.database();
    let (shown, newest) = watch::channel(0);
    let mut metrics = Metrics::default();
    metrics.liveness = Liveness::new(sd_notify::watchdog_enabled()).into();
    let metrics = Arc::new(metrics);
    let (engine, engine_thread) = Engine::start(
        &database,
        view.clone(),
        shown,
        settings.policy,
        metrics.clone(),
        access.clone(),
        RealKernel::start,
    )
    .map_err(|error| DaemonError::Other(error.to_string()))?;
    let kernel =
        KernelQueries::start().map_err(|error| start_error("queries of the kernel", &error))?;
    let process = Processes::start().map_err(|error| start_error("commands", &error))?;

    let app = AppState {
        engine,
        view: view.clone(),
        kernel: kernel.clone(),
        history: History::new(&database, newest),
        metrics: metrics.clone(),
        audit: AuditLog::new(&database),
        backups: Backups::new(&database),
        access,
        failed_auth: Arc::default(),
        process,
        started_at: format_rfc3339(Timestamp::now()),
        listen: serving.urls().into(),
        stopping: stopping.clone(),
    };
    Ok(Services {
        metrics,
        router: http::router(app.into()),
        ready: Box::pin(async move {
            view.wait_ready().await;
            tokio::spawn(warn_of_unrecorded(kernel, view));
        }),
        stopped: Box::pin(wait_for_engine(engine_thread)),
    })
}

fn start_error(service: &str, error: &dyn Display) -> DaemonError {
    DaemonError::Other(format!("cannot start {service}: {error}"))
}

/// Waits for the engine's thread, which ends when the last `Engine` is dropped, with the router.
async fn wait_for_engine(thread: std::thread::JoinHandle<()>) {
    let joined = tokio::task::spawn_blocking(move || thread.join()).await;
    if joined.is_err() {
        tracing::error!("the engine's thread could not be joined");
    }
}

/// Number of resources that a log line names.
const MAX_NAMED: usize = 10;

/// Warns of resources that have owner tags in the kernel but no record, as after the database was
/// lost or truncated.
async fn warn_of_unrecorded(kernel: KernelQueries, view: Arc<View>) {
    let found = kernel
        .unrecorded(move |resource| view.get(resource.kind, &resource.name).is_some())
        .await;
    let Ok(found) = found else { return };
    if found.is_empty() {
        return;
    }
    let names: Vec<String> = found
        .iter()
        .take(MAX_NAMED)
        .map(ToString::to_string)
        .collect();
    tracing::warn!(
        count = found.len(),
        resources = names.join(", "),
        "the kernel has objects with netnsd's owner tags that the database does not know: they \
         stay as they are (if the database was lost, see \"The kernel has more than the \
         database\" in docs/operating.md)"
    );
}
