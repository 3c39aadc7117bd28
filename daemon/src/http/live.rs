//! Live kernel state of a namespace or of the host: links, addresses, routes, rules,
//! neighbours.

use std::{fmt::Display, sync::Arc};

use axum::{
    Extension,
    extract::{
        FromRequestParts, RawPathParams, RawQuery, State, rejection::RawPathParamsRejection,
    },
    http::request::Parts,
    response::{IntoResponse, Response},
};
use netnsd_api::Items;
use serde::Serialize;

use super::{
    App,
    json::Json,
    namespaces::read_name,
    problem::Failure,
    query::{self, Query},
    resource::Answer,
};
use crate::{
    access::{Caller, Redact},
    kernel::{Ns, query::QueryError},
};

/// Namespace that a path names by `{name}`; the host's own if it names none.
pub(super) struct PathNs(Ns);

impl<S: Send + Sync> FromRequestParts<S> for PathNs {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let params = match RawPathParams::from_request_parts(parts, state).await {
            Ok(params) => params,
            Err(RawPathParamsRejection::MissingPathParams(_)) => return Ok(Self(Ns::Host)),
            Err(rejection) => return Err(rejection.into_response()),
        };
        match params.iter().find(|(key, _)| *key == "name") {
            Some((_, name)) => match read_name(name) {
                Ok(name) => Ok(Self(Ns::Named(name))),
                Err(failure) => Err(failure.into_response()),
            },
            None => Ok(Self(Ns::Host)),
        }
    }
}

pub(super) async fn links(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    RawQuery(query): RawQuery,
    PathNs(ns): PathNs,
) -> Answer {
    let mut query = Query::read(query.as_deref())?;
    let settings = query.flag("settings", false)?;
    query.finish()?;
    let found = app.kernel.links(&ns).await.map(|mut links| {
        if !settings {
            links.iter_mut().for_each(|link| link.settings = None);
        }
        links
    });
    answer(&caller, &ns, found)
}

pub(super) async fn addresses(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    RawQuery(query): RawQuery,
    PathNs(ns): PathNs,
) -> Answer {
    query::none(query.as_deref())?;
    answer(&caller, &ns, app.kernel.addresses(&ns).await)
}

pub(super) async fn routes(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    RawQuery(query): RawQuery,
    PathNs(ns): PathNs,
) -> Answer {
    query::none(query.as_deref())?;
    answer(&caller, &ns, app.kernel.routes(&ns).await)
}

pub(super) async fn rules(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    RawQuery(query): RawQuery,
    PathNs(ns): PathNs,
) -> Answer {
    query::none(query.as_deref())?;
    answer(&caller, &ns, app.kernel.rules(&ns).await)
}

pub(super) async fn neighbours(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    RawQuery(query): RawQuery,
    PathNs(ns): PathNs,
) -> Answer {
    query::none(query.as_deref())?;
    answer(&caller, &ns, app.kernel.neighbours(&ns).await)
}

/// Answers with kernel objects, without the names that are out of the caller's scope; `place` names
/// their namespace or device in the problem of one that does not exist.
pub(super) fn answer<T: Serialize + Redact>(
    caller: &Caller,
    place: impl Display,
    found: Result<Vec<T>, QueryError>,
) -> Answer {
    let mut items = found.map_err(|error| Failure::query(place, error))?;
    items.iter_mut().for_each(|item| item.redact(caller));
    Ok(Json(Items { items }).into_response())
}
