//! Routes of namespaces only: unmanaged ones, processes, commands, pings.

use std::sync::Arc;

use axum::{
    Extension,
    body::Bytes,
    extract::{Path, RawQuery, Request, State},
    response::IntoResponse,
};
use netnsd_api::{
    Code, Exec, FieldError, Items, Kind, Name, Ping, UnmanagedNamespace, UnmanagedStatus, parse,
};
use serde_json::Value;

use super::{
    App, body, headers, json::Json, lifetime::StreamLifetime, problem::Failure, query, resource,
    resource::Answer,
};
use crate::access::Caller;

/// Returns the namespaces in `/run/netns` that others made, by name, serialized as items of a list.
pub(super) async fn unmanaged(app: &App) -> Result<Vec<(String, Bytes)>, Failure> {
    let all = app
        .kernel
        .namespaces()
        .await
        .map_err(|error| Failure::query("namespace", error))?;
    let mut items = Vec::new();
    for (name, observed) in all.iter().cloned() {
        let is_managed = name
            .parse()
            .is_ok_and(|name: Name| app.view.get(Kind::Namespace, &name).is_some());
        if is_managed {
            continue;
        }
        let item = UnmanagedNamespace {
            name: name.clone(),
            managed: false,
            status: UnmanagedStatus { observed },
        };
        let json = serde_json::to_vec(&item).map_err(resource::internal)?;
        items.push((name, json.into()));
    }
    Ok(items)
}

/// Reads the namespace's name in a path.
pub(super) fn read_name(name: &str) -> Result<Name, Failure> {
    Ok(resource::existing(Kind::Namespace, name)?.name)
}

pub(super) async fn processes(
    State(app): State<App>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    query::none(query.as_deref())?;
    let items = app.process.list_processes(&read_name(&name)?).await?;
    Ok(Json(Items { items }).into_response())
}

pub(super) async fn exec(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Answer {
    query::none(query.as_deref())?;
    let name = read_name(&name)?;
    let lines = headers::accepts(request.headers(), &["application/x-ndjson"]);
    let exec: Exec = parse(&Value::Object(body::object(request).await?))?;
    if exec.argv.is_empty() {
        return Err(FieldError::new(
            Code::InvalidField,
            "/argv",
            "argv is empty: its first item is the program",
        )
        .into());
    }
    if lines {
        return super::exec::stream_lines(app, caller, &name, &exec).await;
    }
    super::exec::run(&app, caller, &name, &exec).await
}

pub(super) async fn ping(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Answer {
    query::none(query.as_deref())?;
    let name = read_name(&name)?;
    let ping: Ping = parse(&Value::Object(body::object(request).await?))?;
    let origin = super::exec::origin(&app, &caller, &name)?;
    let lifetime = StreamLifetime::new(&app.stopping, caller);
    let reply = lifetime
        .bound(app.process.ping(&name, &ping, &origin))
        .await?;
    Ok(Json(reply).into_response())
}
