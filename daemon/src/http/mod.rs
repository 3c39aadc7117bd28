//! HTTP API: routes, authentication, request parsing, responses, the OpenAPI document.
//!
//! Takes no decision about resources, and calls neither the kernel nor SQL itself: writes go to the
//! engine, reads come from its view, from `kernel::query` and from the store's readers.

mod about;
mod answers;
mod audit;
mod auth;
mod backup;
mod body;
mod bridges;
mod drain_body;
mod events;
mod exec;
mod failed_auth;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod graph;
mod half_close;
mod head_errors;
mod headers;
mod json;
mod lifetime;
mod live;
mod namespaces;
mod openapi;
mod origin;
mod problem;
mod processes;
mod query;
mod resource;
mod routes;
mod serve;
mod tls;
mod tokens;
mod topology;
mod turns;
mod veths;
mod write_timeout;

use std::sync::Arc;

use axum::{Router, extract::DefaultBodyLimit, middleware, routing::any};
use tokio::sync::watch;
use tower_http::catch_panic::CatchPanicLayer;

pub use self::{
    failed_auth::FailedAuthLimiter,
    openapi::openapi,
    serve::{serve_tcp, serve_unix},
    tls::Tls,
};
use crate::{
    access::Authenticator,
    engine::{Engine, View},
    kernel::query::KernelQueries,
    metrics::Metrics,
    process::Processes,
    store::{AuditLog, Backups, History},
};

/// Largest body of a request, in bytes; topology documents have their own limit.
pub const BODY_LIMIT: usize = 1 << 20;

/// State of the handlers, cheap to clone.
pub type App = Arc<AppState>;

/// Services that the handlers use.
pub struct AppState {
    /// Takes writes.
    pub engine: Engine,
    /// Recorded resources, for reads.
    pub view: Arc<View>,
    /// Queries the kernel.
    pub kernel: KernelQueries,
    /// Reads events.
    pub history: History,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Reads the audit log.
    pub audit: AuditLog,
    /// Copies the database.
    pub backups: Backups,
    /// Authenticates callers.
    pub access: Arc<Authenticator>,
    /// Limits failed authentications.
    pub failed_auth: Arc<FailedAuthLimiter>,
    /// Runs commands and pings.
    pub process: Processes,
    /// Time at which the daemon started (RFC 3339, UTC).
    pub started_at: String,
    /// URLs on which it listens.
    pub listen: Arc<[String]>,
    /// Turns true when the daemon stops: endless responses end then.
    pub stopping: watch::Receiver<bool>,
}

/// Returns the router of all routes, with the layers that every request passes.
pub fn router(app: App) -> Router {
    // The last layer is the outermost.
    routes::router()
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
        .layer(middleware::from_fn_with_state(
            app.clone(),
            auth::auth_middleware,
        ))
        .layer(middleware::from_fn(drain_body::drain_body))
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(middleware::from_fn(problem::only_problems))
        .layer(middleware::from_fn_with_state(
            app.metrics.clone(),
            headers::request_context,
        ))
        .with_state(app)
}
