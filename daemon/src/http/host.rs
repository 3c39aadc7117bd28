//! Looking at the host's own namespace.

use axum::{
    extract::{RawQuery, State},
    routing::get,
};

use super::{
    App, Routes, query,
    resource::{self, Answer},
};
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
            resource::live(&Ns::Host, app.look.$ask(&Ns::Host)).await
        }
    };
}

async fn links(State(app): State<App>, RawQuery(query): RawQuery) -> Answer {
    resource::links(&app, &Ns::Host, query.as_deref()).await
}

look!(addresses, addresses);
look!(live_routes, routes);
look!(neighbours, neighbours);
