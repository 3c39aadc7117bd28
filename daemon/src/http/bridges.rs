//! Routes of bridges only: live ports and forwarding tables.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, RawQuery, State},
};
use netnsd_api::{Bridge, Kind};

use super::{
    App, live,
    problem::Failure,
    query,
    resource::{self, Answer},
};
use crate::{access::Caller, kernel::Ns, model::SpecOf};

/// Names a bridge that is recorded and not in the kernel, in a problem.
const DEVICE: &str = "such bridge in the kernel";

/// Returns the namespace and the name of a bridge's device.
fn device(app: &App, name: &str) -> Result<(Ns, String), Failure> {
    let entry = resource::entry(app, &resource::existing(Kind::Bridge, name)?)?;
    let bridge = Bridge::of(&entry.spec)
        .ok_or_else(|| resource::internal("the spec of a bridge is of another kind"))?;
    Ok((
        Ns::of(bridge.namespace.as_ref()),
        bridge.device().to_owned(),
    ))
}

pub(super) async fn ports(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    query::none(query.as_deref())?;
    let (ns, device) = device(&app, &name)?;
    live::answer(&caller, DEVICE, app.kernel.ports(&ns, &device).await)
}

pub(super) async fn fdb(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    query::none(query.as_deref())?;
    let (ns, device) = device(&app, &name)?;
    live::answer(&caller, DEVICE, app.kernel.fdb(&ns, &device).await)
}
