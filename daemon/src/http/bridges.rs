//! What is of bridges only: ports and forwarding tables, live.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, RawQuery, State},
    routing::get,
};
use netnsd_api::{Bridge, Kind};

use super::{
    App, Routes,
    problem::Failure,
    query,
    resource::{self, Answer, Served},
};
use crate::{access::Caller, kernel::Ns};

pub(super) fn routes() -> Routes {
    vec![
        ("/v1/bridges/{name}/ports", get(ports)),
        ("/v1/bridges/{name}/fdb", get(fdb)),
    ]
}

/// Where a bridge's device is.
fn device(app: &App, name: &str) -> Result<(Ns, String), Failure> {
    let entry = resource::entry(app, &resource::existing(Kind::Bridge, name)?)?;
    let bridge = Bridge::of(&entry.spec)
        .ok_or_else(|| Failure::from(resource::internal("a bridge is a bridge")))?;
    Ok((
        Ns::of(bridge.namespace.as_ref()),
        bridge.device().to_owned(),
    ))
}

async fn ports(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    query::none(query.as_deref())?;
    let (ns, device) = device(&app, &name)?;
    resource::live(
        &caller,
        "such bridge in the kernel",
        app.look.ports(&ns, &device),
    )
    .await
}

async fn fdb(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    query::none(query.as_deref())?;
    let (ns, device) = device(&app, &name)?;
    resource::live(
        &caller,
        "such bridge in the kernel",
        app.look.fdb(&ns, &device),
    )
    .await
}
