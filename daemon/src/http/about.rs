//! Routes about the daemon: index, health, readiness, metrics, OpenAPI.

use std::{fs, sync::Arc};

use axum::{
    Extension,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
};
use netnsd_api::{About, Code, Health, Index, Limits, Problem, Ready};
use serde::Serialize;

use super::{
    App, BODY_LIMIT,
    headers::accepts,
    json::{Json, json},
    problem::Failure,
    query::{self, Query},
    resource,
    resource::Answer,
};
use crate::{access::Caller, engine::QUEUE_CAPACITY, metrics::Format};

const NAME: &str = "netnsd";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Main paths by topic.
const LINKS: [(&str, &str); 15] = [
    ("about", "/v1"),
    ("audit", "/v1/audit"),
    ("backup", "/v1/backup"),
    ("bridges", "/v1/bridges"),
    ("events", "/v1/events"),
    ("graph", "/v1/graph"),
    ("health", "/v1/health"),
    ("host_links", "/v1/host/links"),
    ("metrics", "/metrics"),
    ("namespaces", "/v1/namespaces"),
    ("openapi", "/openapi.yaml"),
    ("ready", "/v1/ready"),
    ("tokens", "/v1/tokens"),
    ("topology", "/v1/topology"),
    ("veths", "/v1/veths"),
];

pub(super) async fn index(RawQuery(query): RawQuery) -> Answer {
    query::none(query.as_deref())?;
    let links = LINKS
        .into_iter()
        .map(|(name, path)| (name.to_owned(), path.to_owned()))
        .collect();
    Ok(Json(Index {
        name: NAME.into(),
        version: VERSION.into(),
        links,
    })
    .into_response())
}

/// Reads a file of one line; empty if it cannot be read.
fn read_line(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

pub(super) async fn about(State(app): State<App>, RawQuery(query): RawQuery) -> Answer {
    query::none(query.as_deref())?;
    let about = About {
        name: NAME.into(),
        version: VERSION.into(),
        api: "v1".into(),
        hostname: read_line("/proc/sys/kernel/hostname"),
        kernel: read_line("/proc/sys/kernel/osrelease"),
        boot_id: read_line("/proc/sys/kernel/random/boot_id"),
        started_at: app.started_at.clone(),
        listen: app.listen.to_vec(),
        features: app
            .kernel
            .features()
            .await
            .map_err(|error| Failure::query("the kernel", error))?,
        limits: Limits {
            body_bytes: BODY_LIMIT as u64,
            page_items: 10_000,
            labels: 64,
            queued_writes: QUEUE_CAPACITY as u32,
        },
    };
    Ok(Json(about).into_response())
}

pub(super) async fn health(RawQuery(query): RawQuery) -> Answer {
    query::none(query.as_deref())?;
    Ok(Json(Health {
        status: "ok".into(),
    })
    .into_response())
}

pub(super) async fn ready(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    RawQuery(query): RawQuery,
) -> Answer {
    query::none(query.as_deref())?;
    let states = app
        .view
        .states(&caller)
        .into_iter()
        .map(|(state, count)| (state.as_str().to_owned(), count))
        .collect();
    let ready = Ready {
        ready: app.view.ready(),
        states,
    };
    if ready.ready {
        return Ok(Json(ready).into_response());
    }
    let not_ready = NotReady {
        problem: Problem::new(
            Code::Starting,
            "the initial reconciliation has not finished: retry in a moment",
        ),
        ready,
    };
    let mut body = serde_json::to_vec(&not_ready).map_err(resource::internal)?;
    body.push(b'\n');
    let headers = [
        (header::CONTENT_TYPE, "application/problem+json"),
        (header::RETRY_AFTER, "1"),
    ];
    Ok((StatusCode::SERVICE_UNAVAILABLE, headers, body).into_response())
}

/// A problem that also has the fields of a [`Ready`].
#[derive(Serialize)]
struct NotReady {
    #[serde(flatten)]
    problem: Problem,
    #[serde(flatten)]
    ready: Ready,
}

pub(super) async fn reconcile(State(app): State<App>, RawQuery(query): RawQuery) -> Answer {
    query::none(query.as_deref())?;
    Ok(Json(app.engine.reconcile().await?).into_response())
}

/// Parameter of the metrics that adds counters of links.
pub(super) const LINK_COUNTERS: &str = "links";

/// Answers with the metrics: as OpenMetrics, or in Prometheus' older text format for clients that
/// accept only that.
pub(super) async fn metrics(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answer {
    let mut query = Query::read(query.as_deref())?;
    let with_links = query.flag(LINK_COUNTERS, false)?;
    query.finish()?;
    let links = if with_links {
        let counters = app.kernel.counters().await;
        counters.map_err(|error| Failure::query("the kernel", error))?
    } else {
        Vec::new()
    };
    let format = if accepts(&headers, &["text/plain"])
        && !accepts(&headers, &["application/openmetrics-text"])
    {
        Format::Prometheus
    } else {
        Format::OpenMetrics
    };
    let text = app
        .metrics
        .render(
            format,
            app.view.ready(),
            &app.view.states_by_kind(),
            app.engine.pending_writes(),
            links,
        )
        .map_err(resource::internal)?;
    Ok(([(header::CONTENT_TYPE, format.media_type())], text).into_response())
}

pub(super) async fn openapi_yaml(RawQuery(query): RawQuery) -> Answer {
    query::none(query.as_deref())?;
    let text = super::openapi().to_yaml().map_err(resource::internal)?;
    Ok(([(header::CONTENT_TYPE, "application/yaml")], text).into_response())
}

pub(super) async fn openapi_json(RawQuery(query): RawQuery) -> Answer {
    query::none(query.as_deref())?;
    let text = super::openapi().to_json().map_err(resource::internal)?;
    Ok(json(StatusCode::OK, text))
}
