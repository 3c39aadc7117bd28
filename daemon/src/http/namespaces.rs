//! What is of namespaces only: looking into them, and running things in them.

use std::sync::Arc;

use axum::{
    Extension,
    body::Bytes,
    extract::{Path, RawQuery, Request, State},
    response::IntoResponse,
    routing::{get, post},
};
use netnsd_api::{
    Code, Exec, FieldError, Items, Kind, Name, Ping, UnmanagedNamespace, UnmanagedStatus, parse,
};
use serde_json::Value;

use super::{
    App, Routes, body, headers, json::Json, problem::Failure, query, resource, resource::Answer,
    until::Until,
};
use crate::{access::Caller, kernel::Ns};

pub(super) fn routes() -> Routes {
    vec![
        ("/v1/namespaces/{name}/links", get(links)),
        ("/v1/namespaces/{name}/addresses", get(addresses)),
        ("/v1/namespaces/{name}/routes", get(live_routes)),
        ("/v1/namespaces/{name}/neighbours", get(neighbours)),
        ("/v1/namespaces/{name}/processes", get(processes)),
        (
            "/v1/namespaces/{name}/exec",
            post(exec).get(super::exec::socket),
        ),
        ("/v1/namespaces/{name}/ping", post(ping)),
    ]
}

/// The namespaces in `/run/netns` that others made, as items of a list.
pub(super) async fn unmanaged(app: &App) -> Result<Vec<(String, Bytes)>, Failure> {
    let all = app
        .look
        .namespaces()
        .await
        .map_err(|error| Failure::look("namespace", error))?;
    let mut items = Vec::new();
    for (name, observed) in all.iter().cloned() {
        let managed = name
            .parse()
            .is_ok_and(|name: Name| app.view.get(Kind::Namespace, &name).is_some());
        if !managed {
            let item = UnmanagedNamespace {
                name: name.clone(),
                managed: false,
                status: UnmanagedStatus { observed },
            };
            items.push((
                name,
                serde_json::to_vec(&item)
                    .map_err(resource::internal)?
                    .into(),
            ));
        }
    }
    Ok(items)
}

pub(super) fn named(name: &str) -> Result<Name, Failure> {
    Ok(resource::existing(Kind::Namespace, name)?.name)
}

/// One looking route of a namespace.
macro_rules! look {
    ($handler:ident, $ask:ident) => {
        async fn $handler(
            State(app): State<App>,
            Extension(caller): Extension<Arc<Caller>>,
            Path(name): Path<String>,
            RawQuery(query): RawQuery,
        ) -> Answer {
            query::none(query.as_deref())?;
            let ns = Ns::Named(named(&name)?);
            resource::live(&caller, &ns, app.look.$ask(&ns)).await
        }
    };
}

async fn links(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    resource::links(&app, &caller, &Ns::Named(named(&name)?), query.as_deref()).await
}

look!(addresses, addresses);
look!(live_routes, routes);
look!(neighbours, neighbours);

async fn processes(
    State(app): State<App>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    query::none(query.as_deref())?;
    let items = app.process.list_processes(&named(&name)?).await?;
    Ok(Json(Items { items }).into_response())
}

async fn exec(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Answer {
    query::none(query.as_deref())?;
    let name = named(&name)?;
    let lines = headers::accepts(request.headers(), &["application/x-ndjson"]);
    let exec: Exec = parse(&Value::Object(body::object(request).await?))?;
    if exec.argv.is_empty() {
        return Err(FieldError::new(
            Code::InvalidField,
            "/argv",
            "argv is empty: its first item is the program",
        )
        .into());
    }
    if lines {
        return super::exec::lines(app, caller, &name, &exec).await;
    }
    super::exec::whole(&app, caller, &name, &exec).await
}

async fn ping(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Answer {
    query::none(query.as_deref())?;
    let name = named(&name)?;
    let ping: Ping = parse(&Value::Object(body::object(request).await?))?;
    let origin = super::exec::origin(&app, &caller, &name)?;
    let until = Until::new(&app.stopping, caller);
    Ok(Json(until.bound(app.process.ping(&name, &ping, &origin)).await?).into_response())
}
