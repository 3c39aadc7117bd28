//! Which namespace a process lives in.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, RawQuery, State},
    response::IntoResponse,
    routing::get,
};
use netnsd_api::Code;

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
    let missing = |_| Failure::new(Code::NotFound, format!("there is no process {pid:?}"));
    let pid: u32 = pid.parse().map_err(missing)?;
    let mut found = app.process.identify(pid).await?;
    // A namespace out of reach has no name here.
    found.namespace = found.namespace.filter(|name| caller.reaches(name));
    Ok(Json(found).into_response())
}
