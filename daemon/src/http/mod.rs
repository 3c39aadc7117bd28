//! Routes: extraction, answers, problem+json, OpenAPI. Decides nothing, and touches neither the
//! kernel nor SQL.

mod about;
mod answers;
mod body;
mod bridges;
mod events;
mod exec;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod guard;
mod half_close;
mod head_errors;
mod headers;
mod host;
mod json;
mod namespaces;
mod openapi;
mod problem;
mod processes;
mod query;
mod resource;
mod rest;
mod serve;
#[cfg(test)]
mod tests;
mod tls;
mod tokens;
mod topology;
mod turns;
mod until;
mod veths;
mod write_timeout;

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{MethodRouter, any},
};
use netnsd_api::{Bridge, Namespace, Veth};
use tokio::sync::watch;
use tower_http::catch_panic::CatchPanicLayer;

pub use self::{
    guard::FailedAuthLimiter,
    openapi::openapi,
    serve::{serve_tcp, serve_unix},
    tls::Tls,
};
use crate::{
    access::Authenticator,
    engine::{Engine, View},
    kernel::look::Look,
    metrics::Metrics,
    process::Processes,
    store::{AuditLog, History},
};

/// The largest body of a request, in bytes.
pub const BODY_LIMIT: usize = 1 << 20;

/// What every request has at hand: one of these, which costs nothing to hand on.
pub type App = Arc<AppState>;

/// What the routes need of the other rooms.
pub struct AppState {
    /// Takes writes.
    pub engine: Engine,
    /// What is recorded, for reads.
    pub view: Arc<View>,
    /// Asks the kernel.
    pub look: Look,
    /// What happened.
    pub history: History,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Who did what.
    pub audit: AuditLog,
    /// Who may do what.
    pub access: Arc<Authenticator>,
    /// Who sent wrong tokens.
    pub failed_auth: Arc<FailedAuthLimiter>,
    /// Runs commands and pings.
    pub process: Processes,
    /// When the daemon started (RFC 3339, UTC).
    pub started_at: String,
    /// Where it listens, as URLs.
    pub listen: Arc<[String]>,
    /// Turns true when the daemon stops: answers without an end are ended.
    pub stopping: watch::Receiver<bool>,
}

type Routes = Vec<(&'static str, MethodRouter<App>)>;

/// Every path, and what it answers.
fn table() -> Routes {
    let all: [Routes; 12] = [
        about::routes(),
        resource::routes::<Namespace>(),
        resource::routes::<Bridge>(),
        resource::routes::<Veth>(),
        topology::routes(),
        events::routes(),
        namespaces::routes(),
        bridges::routes(),
        veths::routes(),
        host::routes(),
        processes::routes(),
        tokens::routes(),
    ];
    all.into_iter().flatten().collect()
}

/// Every route.
pub fn router(app: App) -> Router {
    let add = |router: Router<App>, (path, methods): (&str, MethodRouter<App>)| {
        router.route(path, methods.fallback(problem::method_not_allowed))
    };
    table()
        .into_iter()
        .fold(Router::new(), add)
        .fallback(any(problem::no_such_path))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn_with_state(
            turns::Places::default(),
            turns::take_turns,
        ))
        .layer(middleware::from_fn_with_state(
            answers::Unsent::default(),
            answers::bound_unsent,
        ))
        .layer(middleware::from_fn_with_state(app.clone(), guard::guard))
        .layer(middleware::from_fn(rest::taken_in))
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(middleware::from_fn(problem::only_problems))
        .layer(middleware::from_fn_with_state(
            app.metrics.clone(),
            headers::attended,
        ))
        .with_state(app)
}
