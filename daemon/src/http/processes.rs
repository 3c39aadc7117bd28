//! Which namespace a process lives in.

use axum::{
    Json,
    extract::{Path, RawQuery, State},
    response::IntoResponse,
    routing::get,
};
use netnsd_api::Code;

use super::{App, Routes, problem::Failure, query, resource::Answer};

pub(super) fn routes() -> Routes {
    vec![("/v1/processes/{pid}/namespace", get(namespace))]
}

async fn namespace(State(app): State<App>, Path(pid): Path<String>, RawQuery(query): RawQuery) -> Answer {
    query::none(query.as_deref())?;
    let missing = |_| Failure::new(Code::NotFound, format!("there is no process {pid:?}"));
    let pid: u32 = pid.parse().map_err(missing)?;
    Ok(Json(app.process.identify(pid).await?).into_response())
}
