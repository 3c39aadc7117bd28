//! The network as a graph.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Extension,
    extract::{RawQuery, State},
    http::{HeaderMap, header},
    response::IntoResponse,
};
use netnsd_api::{Graph, KernelNamespace, ResourceRef, Topology};

use super::{App, headers, json::Json, problem::Failure, query, resource::Answer};
use crate::{access::Caller, engine::View, model::Spec};

pub(super) const MERMAID: &str = "text/vnd.mermaid";
pub(super) const GRAPHVIZ: &str = "text/vnd.graphviz";

pub(super) async fn graph(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answer {
    query::none(query.as_deref())?;
    let mut live = app
        .kernel
        .everything()
        .await
        .map_err(|error| Failure::query("namespace", error))?;
    let (recorded, states) = read_recorded(&app.view, &caller);
    redact(&mut live, &caller, &states);
    let graph = Graph::new(&recorded, &states, &live);
    if headers::accepts(&headers, &[MERMAID]) {
        return Ok(([(header::CONTENT_TYPE, MERMAID)], graph.to_mermaid()).into_response());
    }
    if headers::accepts(&headers, &[GRAPHVIZ]) {
        return Ok(([(header::CONTENT_TYPE, GRAPHVIZ)], graph.to_dot()).into_response());
    }
    Ok(Json(graph).into_response())
}

/// States of resources.
type States = HashMap<ResourceRef, netnsd_api::State>;

/// Returns the resources that a caller can access, and their states.
fn read_recorded(view: &View, caller: &Caller) -> (Topology, States) {
    let (mut recorded, mut states) = (Topology::default(), States::new());
    for entry in view.all(|entry| caller.can_access(entry.spec.name().as_str())) {
        states.insert(entry.spec.resource(), entry.state);
        match &*entry.spec {
            Spec::Namespace(spec) => recorded.namespaces.push(spec.clone()),
            Spec::Bridge(spec) => recorded.bridges.push(spec.clone()),
            Spec::Veth(spec) => recorded.veths.push(spec.clone()),
            Spec::Link(spec) => recorded.links.push(spec.clone()),
        }
    }
    (recorded, states)
}

/// Removes namespaces that are out of the caller's scope, and links of the host that are not its
/// own, as the live routes do.
fn redact(live: &mut Vec<KernelNamespace>, caller: &Caller, states: &States) {
    if !caller.is_scoped() {
        return;
    }
    live.retain_mut(|namespace| match &namespace.name {
        Some(name) => caller.can_access(name),
        None => {
            namespace.links.retain(|link| {
                link.owner
                    .as_ref()
                    .is_some_and(|(resource, _)| states.contains_key(resource))
            });
            !namespace.links.is_empty()
        }
    });
}
