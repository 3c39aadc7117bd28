//! Routes of single endpoints of veth pairs.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, RawQuery, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use netnsd_api::{
    Code, Endpoint, EndpointObserved, Kind, Problem, Resource, State as ResourceState, Stored,
    Veth, parse,
};
use serde::Serialize;
use serde_json::Value;

use super::{
    App,
    body::Patch,
    headers,
    json::json,
    problem::Failure,
    query,
    resource::{self, Answer, WriteParams, internal, send_write, status_of, unreadable},
};
use crate::{
    access::Caller,
    engine::Entry,
    model::{Change, EditError, Spec, SpecOf},
};

fn read_index(end: &str) -> Result<usize, Failure> {
    match end {
        "0" => Ok(0),
        "1" => Ok(1),
        _ => Err(Failure::new(
            Code::NotFound,
            format!("a veth pair has the endpoints 0 and 1, not {end:?}"),
        )),
    }
}

/// One endpoint with its part of the pair's status.
#[derive(Serialize)]
struct EndpointAnswer {
    #[serde(flatten)]
    endpoint: Endpoint,
    status: EndpointStatus,
}

#[derive(Serialize)]
struct EndpointStatus {
    state: ResourceState,
    reason: Option<String>,
    observed: Option<EndpointObserved>,
}

impl EndpointAnswer {
    fn new(entry: &Entry, index: usize) -> Result<Self, Failure> {
        let pair: Stored<Veth> = serde_json::from_slice(&entry.json).map_err(internal)?;
        let endpoint = pair.spec.endpoints.into_iter().nth(index);
        let observed = pair.status.observed.map(|observed| observed.endpoints);
        Ok(Self {
            endpoint: endpoint.ok_or_else(|| internal("a veth pair has two endpoints"))?,
            status: EndpointStatus {
                state: pair.status.state,
                reason: pair.status.reason,
                observed: observed.and_then(|ends| ends.into_iter().nth(index).flatten()),
            },
        })
    }
}

fn answer(entry: &Entry, index: usize) -> Result<Response, Failure> {
    let endpoint = EndpointAnswer::new(entry, index)?;
    let text = serde_json::to_vec(&endpoint).map_err(internal)?;
    let mut response = json(StatusCode::OK, text);
    response
        .headers_mut()
        .insert(header::ETAG, headers::etag(entry.generation));
    Ok(response)
}

pub(super) async fn show(
    State(app): State<App>,
    Path((name, end)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Answer {
    query::none(query.as_deref())?;
    let entry = resource::entry(&app, &resource::existing(Kind::Veth, &name)?)?;
    answer(&entry, read_index(&end)?)
}

pub(super) async fn patch(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    Path((name, end)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    request: Request,
) -> Answer {
    let resource = resource::existing(Kind::Veth, &name)?;
    let index = read_index(&end)?;
    let params = WriteParams::read(query.as_deref())?;
    let preconditions = headers::preconditions(&headers)?;
    let patch = Patch::read(request).await?;
    let edit = Arc::new(move |spec: &Spec| patch_endpoint(spec, index, &patch));
    let write = params.write(caller, Change::Edit(resource, edit), preconditions);
    let written = send_write(&app.engine, write, status_of)
        .await
        .map_err(|problem| relative_to_endpoint(problem, index))?;

    let entry = written
        .entry
        .as_ref()
        .ok_or_else(|| internal("a patched veth pair has no entry"))?;
    if params.dry_run {
        let endpoint = EndpointAnswer::new(entry, index)?;
        let endpoint = serde_json::to_value(&endpoint).map_err(internal)?;
        return resource::answer_dry_run(&written, endpoint);
    }
    let mut response = answer(entry, index)?;
    if !written.applied {
        *response.status_mut() = StatusCode::ACCEPTED;
    }
    response
        .headers_mut()
        .insert("server-timing", headers::server_timing(&written));
    Ok(response)
}

/// Applies a patch to one endpoint of a pair.
fn patch_endpoint(spec: &Spec, index: usize, patch: &Patch) -> Result<Spec, EditError> {
    let mut pair = Veth::of(spec)
        .cloned()
        .ok_or_else(|| unreadable("the spec of a veth pair is of another kind"))?;
    let endpoint = serde_json::to_value(&pair.endpoints[index]).map_err(unreadable)?;
    let patched = Value::Object(patch.apply(endpoint)?);
    pair.endpoints[index] =
        parse(&patched).map_err(|error| error.below(&["endpoints", &index.to_string()]))?;
    pair.check()?;
    Ok(Spec::Veth(pair))
}

/// Makes the pointer of a problem, which is into the pair, one into the endpoint that was sent.
fn relative_to_endpoint(mut problem: Problem, index: usize) -> Problem {
    let endpoint = format!("/endpoints/{index}");
    problem.pointer = problem
        .pointer
        .map(|pointer| match pointer.strip_prefix(&endpoint) {
            Some(rest) => rest.to_owned(),
            None => pointer,
        });
    problem
}
