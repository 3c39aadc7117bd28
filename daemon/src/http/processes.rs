//! Which namespace a process lives in.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, RawQuery, State},
    response::IntoResponse,
    routing::get,
};
use netnsd_api::{Code, ProcessNamespace, Role};

use super::{App, Routes, json::Json, problem::Failure, query, resource::Answer};
use crate::access::Caller;

pub(super) fn routes() -> Routes {
    vec![("/v1/processes/{pid}/namespace", get(namespace))]
}

async fn namespace(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(pid): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    query::none(query.as_deref())?;
    let missing = || Failure::new(Code::NotFound, format!("there is no process {pid:?}"));
    let found = app
        .process
        .identify_process(pid.parse().map_err(|_| missing())?)
        .await;
    if caller.role == Role::Admin && !caller.is_scoped() {
        return Ok(Json(found?).into_response());
    }
    // Others are told of namespaces that they could enter: the rest of the machine's processes are
    // not there.
    let is_within = |found: &ProcessNamespace| {
        let name = found
            .namespace
            .as_ref()
            .filter(|name| caller.can_access(name))
            .and_then(|name| name.parse().ok());
        let origin = name.and_then(|name| super::exec::origin(&app, &caller, &name).ok());
        origin.is_some_and(|origin| origin.inode.is_none_or(|inode| inode == found.inode))
    };
    Ok(Json(found.ok().filter(is_within).ok_or_else(missing)?).into_response())
}
