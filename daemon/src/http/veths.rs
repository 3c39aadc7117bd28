//! Single ends of veth pairs.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, RawQuery, Request, State},
    http::{HeaderMap, StatusCode, header},
    routing::get,
};
use netnsd_api::{Code, Endpoint, Kind, Resource, Veth, parse};
use serde_json::Value;

use super::{
    App, Routes,
    body::Patch,
    headers,
    json::json,
    problem::Failure,
    query,
    resource::{self, Answer, Asked, Served},
};
use crate::{
    access::Caller,
    engine::Entry,
    model::{Change, Spec},
};

pub(super) fn routes() -> Routes {
    vec![("/v1/veths/{name}/endpoints/{end}", get(show).patch(patch))]
}

fn index(end: &str) -> Result<usize, Failure> {
    match end {
        "0" => Ok(0),
        "1" => Ok(1),
        _ => Err(Failure::new(
            Code::NotFound,
            format!("a veth pair has the endpoints 0 and 1, not {end:?}"),
        )),
    }
}

/// One end as JSON: what was asked for, and what was observed of it.
fn of_pair(entry: &Entry, end: usize) -> Result<Value, Failure> {
    let mut pair: Value = serde_json::from_slice(&entry.json).map_err(resource::internal)?;
    let observed = pair["status"]["observed"]["endpoints"][end].take();
    let mut one = pair["endpoints"][end].take();
    one["status"] = serde_json::json!({"state": pair["status"]["state"], "reason": pair["status"]["reason"], "observed": observed});
    Ok(one)
}

fn answer(entry: &Entry, end: usize) -> Answer {
    let mut response = json(StatusCode::OK, of_pair(entry, end)?.to_string());
    response
        .headers_mut()
        .insert(header::ETAG, headers::etag(entry.generation));
    Ok(response)
}

async fn show(
    State(app): State<App>,
    Path((name, end)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Answer {
    query::none(query.as_deref())?;
    let entry = resource::entry(&app, &resource::existing(Kind::Veth, &name)?)?;
    answer(&entry, index(&end)?)
}

async fn patch(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    Path((name, end)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    request: Request,
) -> Answer {
    let resource = resource::existing(Kind::Veth, &name)?;
    let end = index(&end)?;
    let asked = Asked::read(query.as_deref())?;
    let preconditions = headers::preconditions(&headers)?;
    let patch = Patch::read(request).await?;
    let edit = move |spec: &Spec| {
        let mut pair = Veth::of(spec)
            .cloned()
            .ok_or_else(|| resource::internal("a veth is a veth"))?;
        let patched = Value::Object(
            patch.apply(serde_json::to_value(&pair.endpoints[end]).map_err(resource::internal)?)?,
        );
        let endpoint: Endpoint =
            parse(&patched).map_err(|error| error.below(&["endpoints", &end.to_string()]))?;
        pair.endpoints[end] = endpoint;
        pair.check()?;
        Ok(Spec::Veth(pair))
    };
    let write = asked.write(
        caller,
        Change::Edit(resource, Arc::new(edit)),
        preconditions,
    );
    let written = app.engine.write(write).await.map_err(|mut problem| {
        // The pointer is into this body, which is one end only.
        let inside = format!("/endpoints/{end}");
        problem.pointer = problem.pointer.map(|at| {
            at.strip_prefix(&inside)
                .map(ToOwned::to_owned)
                .unwrap_or(at)
        });
        problem
    })?;
    let entry = written
        .entry
        .as_ref()
        .ok_or_else(|| Failure::from(resource::internal("a patched pair is there")))?;
    if asked.dry_run {
        return resource::dry(&written, of_pair(entry, end)?);
    }
    let mut response = answer(entry, end)?;
    if !written.applied {
        *response.status_mut() = StatusCode::ACCEPTED;
    }
    response
        .headers_mut()
        .insert("server-timing", headers::server_timing(&written));
    Ok(response)
}
