//! Looking at the host's own namespace.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{RawQuery, State},
    routing::get,
};

use super::{
    App, Routes, query,
    resource::{self, Answer},
};
use crate::{access::Caller, kernel::Ns};

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
        async fn $handler(
            State(app): State<App>,
            Extension(caller): Extension<Arc<Caller>>,
            RawQuery(query): RawQuery,
        ) -> Answer {
            query::none(query.as_deref())?;
            resource::live(&caller, &Ns::Host, app.look.$ask(&Ns::Host)).await
        }
    };
}

async fn links(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    RawQuery(query): RawQuery,
) -> Answer {
    resource::links(&app, &caller, &Ns::Host, query.as_deref()).await
}

look!(addresses, addresses);
look!(live_routes, routes);
look!(neighbours, neighbours);
