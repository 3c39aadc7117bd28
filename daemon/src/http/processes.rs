//! Network namespace of a process.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, RawQuery, State},
    response::IntoResponse,
};
use netnsd_api::{Code, ProcessNamespace, Role};

use super::{App, exec, json::Json, problem::Failure, query, resource::Answer};
use crate::access::Caller;

pub(super) async fn namespace(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(pid): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    query::none(query.as_deref())?;
    let missing = || Failure::new(Code::NotFound, format!("there is no process {pid:?}"));
    let pid = pid.parse().map_err(|_| missing())?;
    let found = app.process.identify_process(pid).await;
    if caller.role == Role::Admin && !caller.is_scoped() {
        return Ok(Json(found?).into_response());
    }
    // To others, processes outside the namespaces that they may enter do not exist.
    let found = found.ok().filter(|found| may_enter(&app, &caller, found));
    Ok(Json(found.ok_or_else(missing)?).into_response())
}

/// Returns true if a caller may run commands in a namespace.
fn may_enter(app: &App, caller: &Caller, found: &ProcessNamespace) -> bool {
    let name = found
        .namespace
        .as_ref()
        .filter(|name| caller.can_access(name))
        .and_then(|name| name.parse().ok());
    let origin = name.and_then(|name| exec::origin(app, caller, &name).ok());
    origin.is_some_and(|origin| origin.inode.is_none_or(|inode| inode == found.inode))
}
