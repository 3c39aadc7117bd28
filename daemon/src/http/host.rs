//! Looking at the host's own namespace.

use axum::{
    Json,
    extract::{RawQuery, State},
    response::IntoResponse,
    routing::get,
};
use netnsd_api::Items;

use super::{App, Routes, problem::Failure, query, resource::Answer};
use crate::kernel::Ns;

pub(super) fn routes() -> Routes {
    vec![
        ("/v1/host/links", get(links)),
        ("/v1/host/addresses", get(addresses)),
        ("/v1/host/routes", get(live_routes)),
        ("/v1/host/neighbours", get(neighbours)),
    ]
}

/// One looking route of the host.
macro_rules! look {
    ($handler:ident, $ask:ident) => {
        async fn $handler(State(app): State<App>, RawQuery(query): RawQuery) -> Answer {
            query::none(query.as_deref())?;
            let items = app.look.$ask(&Ns::Host).await.map_err(|error| Failure::look("host namespace", error))?;
            Ok(Json(Items { items }).into_response())
        }
    };
}

look!(links, links);
look!(addresses, addresses);
look!(live_routes, routes);
look!(neighbours, neighbours);
