//! Routes that every kind of resource has: list, create, show, put, patch, delete.

use std::{fmt::Display, sync::Arc};

use axum::{
    Extension,
    body::Bytes,
    extract::{Path, RawQuery, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use netnsd_api::{
    Bridge, Code, DryRun, FieldError, InvalidValue, Kind, Link, Name, Namespace, Problem,
    ResourceRef, SysctlKey, Veth, parse,
};
use serde_json::{Map, Value, json};

use super::{
    App,
    body::{self, Patch},
    headers,
    json::json,
    problem::{Failure, redact},
    query::{self, Label, Query},
};
use crate::{
    access::Caller,
    engine::{Engine, Entry, Write, Written},
    model::{Change, ChangeKind, EditError, Precondition, Spec, SpecOf, WriteOutcome},
};

pub(super) type Answer = Result<Response, Failure>;

/// A kind of resource that these routes serve.
pub(super) trait ResourceRoutes: SpecOf {
    /// Returns an example of a request's body for the OpenAPI document, without a name.
    fn example() -> Value;
}

impl ResourceRoutes for Namespace {
    fn example() -> Value {
        json!({
            "labels": {"team": "lab"},
            "netnsid": 100,
            "routes": [{"destination": "default", "via": "10.1.1.254"}],
            "sysctls": {"net.ipv4.ip_forward": "1"},
        })
    }
}

impl ResourceRoutes for Bridge {
    fn example() -> Value {
        json!({"addresses": ["10.2.0.254/24"], "stp": true})
    }
}

impl ResourceRoutes for Veth {
    fn example() -> Value {
        json!({"endpoints": [
            {"namespace": "net0", "interface": "eth0", "addresses": ["10.1.1.1/24"]},
            {"interface": "port0", "bridge": "br0", "port": {"hairpin": true}},
        ]})
    }
}

impl ResourceRoutes for Link {
    fn example() -> Value {
        json!({"type": "dummy", "namespace": "net0", "addresses": ["192.0.2.1/32"]})
    }
}

/// Returns the reference to a resource that a path names. A text that is no valid name is not
/// found, rather than invalid.
pub(super) fn existing(kind: Kind, name: &str) -> Result<ResourceRef, Failure> {
    match name.parse() {
        Ok(name) => Ok(ResourceRef::new(kind, name)),
        Err(_) => Err(missing(kind, name)),
    }
}

/// Returns the problem of a path that names a resource which does not exist.
pub(super) fn missing(kind: Kind, name: &str) -> Failure {
    Failure::new(Code::NotFound, format!("there is no {kind} {name:?}"))
}

pub(super) fn entry(app: &App, resource: &ResourceRef) -> Result<Arc<Entry>, Failure> {
    let missing = || Failure::new(Code::NotFound, format!("there is no {resource}"));
    app.view
        .get(resource.kind, &resource.name)
        .ok_or_else(missing)
}

/// Returns the problem of an error that has no known cause; [`Failure`] logs it.
pub(super) fn internal(error: impl Display) -> Problem {
    Problem::new(Code::Internal, error.to_string())
}

/// Returns the error of recorded intent that cannot be read.
pub(super) fn unreadable(error: impl Display) -> EditError {
    EditError::Unreadable(error.to_string())
}

/// Returns true if a resource is within the caller's scope and has the labels.
pub(super) fn is_selected(caller: &Caller, labels: &[Label], spec: &Spec) -> bool {
    caller.can_access(spec.name().as_str())
        && labels.iter().all(|label| label.matches(spec.labels()))
}

/// Query parameters of a list.
struct ListParams {
    limit: usize,
    cursor: Option<Name>,
    labels: Vec<Label>,
    state: Option<netnsd_api::State>,
    namespace: Option<Name>,
    /// True for `include=unmanaged`.
    unmanaged: bool,
}

impl ListParams {
    fn read(kind: Kind, query: Option<&str>) -> Result<Self, Failure> {
        let mut query = Query::read(query)?;
        let params = Self {
            limit: query.limit()? as usize,
            cursor: query.value("cursor")?,
            labels: query.labels()?,
            state: query.value("state")?,
            namespace: query.value("namespace")?,
            unmanaged: kind == Kind::Namespace && takes_unmanaged(&mut query)?,
        };
        query.finish()?;
        Ok(params)
    }

    fn selects(&self, caller: &Caller, entry: &Entry) -> bool {
        is_selected(caller, &self.labels, &entry.spec)
            && self.state.is_none_or(|state| entry.state == state)
            && self
                .namespace
                .as_ref()
                .is_none_or(|namespace| entry.spec.is_in(namespace))
    }

    /// Returns true if namespaces that others made are listed: they have no labels and no state to
    /// filter by.
    fn lists_unmanaged(&self) -> bool {
        self.unmanaged && self.labels.is_empty() && self.state.is_none() && self.namespace.is_none()
    }
}

fn takes_unmanaged(query: &mut Query) -> Result<bool, Failure> {
    match query.one("include")?.as_deref() {
        None => Ok(false),
        Some("unmanaged") => Ok(true),
        Some(other) => Err(Failure::new(
            Code::InvalidQuery,
            format!("include={other}: the only value is \"unmanaged\""),
        )),
    }
}

pub(super) async fn list<R: ResourceRoutes>(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    RawQuery(query): RawQuery,
) -> Answer {
    let params = ListParams::read(R::KIND, query.as_deref())?;
    let (entries, more) = app
        .view
        .list(R::KIND, params.cursor.as_ref(), params.limit, |entry| {
            params.selects(&caller, entry)
        });
    let mut page = Page {
        next: entries
            .last()
            .filter(|_| more)
            .map(|entry| entry.spec.name().to_string()),
        items: entries
            .into_iter()
            .map(|entry| {
                let name = entry.spec.name().to_string();
                (name, entry.redact(&caller).json.clone())
            })
            .collect(),
    };
    if params.lists_unmanaged() {
        let others = super::namespaces::unmanaged(&app).await?;
        let others = others
            .into_iter()
            .filter(|(name, _)| caller.can_access(name));
        page.merge(others, params.cursor.as_ref(), params.limit);
    }
    Ok(json(StatusCode::OK, page.to_json()))
}

/// A page of a list.
struct Page {
    /// Items that are serialized already, with their names, sorted.
    items: Vec<(String, Bytes)>,
    /// Cursor of the next page: the last name of this one; `None` on the last page.
    next: Option<String>,
}

impl Page {
    /// Adds items that belong on this page, which begins after `cursor`, and cuts it off at
    /// `limit`.
    fn merge(
        &mut self,
        items: impl Iterator<Item = (String, Bytes)>,
        cursor: Option<&Name>,
        limit: usize,
    ) {
        let next = self.next.clone();
        let is_on_page = |name: &str| {
            cursor.is_none_or(|cursor| name > cursor.as_str())
                && next.as_deref().is_none_or(|next| name <= next)
        };
        self.items
            .extend(items.filter(|(name, _)| is_on_page(name)));
        self.items.sort();
        if self.items.len() > limit {
            self.items.truncate(limit);
            self.next = self.items.last().map(|(name, _)| name.clone());
        }
    }

    /// Serializes the page, without parsing its items again.
    fn to_json(&self) -> Vec<u8> {
        let size: usize = self.items.iter().map(|(_, json)| json.len() + 1).sum();
        let mut text = Vec::with_capacity(size + 128);
        text.extend_from_slice(b"{\"items\":[");
        for (i, (_, json)) in self.items.iter().enumerate() {
            if i > 0 {
                text.push(b',');
            }
            text.extend_from_slice(json);
        }
        text.extend_from_slice(b"],\"next\":");
        text.extend_from_slice(Value::from(self.next.as_deref()).to_string().as_bytes());
        text.push(b'}');
        text
    }
}

pub(super) async fn show<R: ResourceRoutes>(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answer {
    query::none(query.as_deref())?;
    let entry = entry(&app, &existing(R::KIND, &name)?)?.redact(&caller);
    let is_known = headers::is_known(&headers, &entry.generation.to_string())?;
    let mut response = if is_known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        json(StatusCode::OK, entry.json.clone())
    };
    response
        .headers_mut()
        .insert(header::ETAG, headers::etag(entry.generation));
    Ok(response)
}

/// Reads a resource of a JSON object, and checks it.
pub(super) fn read<R: ResourceRoutes>(map: Map<String, Value>) -> Result<R, FieldError> {
    let resource: R = parse(&Value::Object(map))?;
    resource.check()?;
    Ok(resource)
}

macro_rules! define_read_spec {
    ($($kind:ident($spec:ident) $name:ident $plural:ident $description:literal;)+) => {
        /// Reads a resource of this kind, and checks it.
        pub(super) fn read_spec(kind: Kind, map: Map<String, Value>) -> Result<Spec, FieldError> {
            match kind {
                $(Kind::$kind => read::<netnsd_api::$spec>(map).map(SpecOf::into_spec),)+
            }
        }
    };
}

netnsd_api::resource_kinds!(define_read_spec);

/// Query parameters of writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct WriteParams {
    /// Plan, and change nothing.
    pub dry_run: bool,
    /// Answer once the change is applied, not when it is durable.
    pub wait: bool,
    /// Take over what others made.
    pub adopt: bool,
}

impl WriteParams {
    /// Takes the parameters out of a query that may have others.
    pub fn take(query: &mut Query) -> Result<Self, Failure> {
        Ok(Self {
            dry_run: query.flag("dry_run", false)?,
            wait: query.flag("wait", true)?,
            adopt: false,
        })
    }

    /// Takes the parameters out of a query, with `adopt`, which only some writes have.
    pub fn take_with_adopt(query: &mut Query) -> Result<Self, Failure> {
        let params = Self::take(query)?;
        Ok(Self {
            adopt: query.flag("adopt", false)?,
            ..params
        })
    }

    /// Reads a query that has no other parameters.
    pub fn read(query: Option<&str>) -> Result<Self, Failure> {
        let mut query = Query::read(query)?;
        let params = Self::take(&mut query)?;
        query.finish()?;
        Ok(params)
    }

    /// Returns the write for the engine.
    pub fn write(
        self,
        caller: Arc<Caller>,
        change: Change,
        preconditions: Vec<Precondition>,
    ) -> Write {
        let Self {
            dry_run,
            wait,
            adopt,
        } = self;
        Write {
            change,
            preconditions,
            dry_run,
            wait,
            adopt,
            progress: None,
            caller,
        }
    }
}

/// Sends a write to the engine. `status_of` returns the status of the response by the outcome: the
/// audit entry is committed with the change, before the response.
pub(super) async fn send_write(
    engine: &Engine,
    write: Write,
    status_of: fn(WriteOutcome) -> StatusCode,
) -> Result<Written, Problem> {
    let caller = write.caller.clone();
    if let Some(audit) = &caller.audit {
        audit.set_statuses(status_of);
    }
    let result = engine.write(write).await;
    result.map_err(|error| redact(error.into(), &caller))
}

/// Sends a write of one resource to the engine, and answers with its result.
async fn write_resource(
    app: &App,
    caller: Arc<Caller>,
    params: WriteParams,
    change: Change,
    preconditions: Vec<Precondition>,
) -> Answer {
    let write = params.write(caller, change, preconditions);
    let written = send_write(&app.engine, write, status_of).await?;
    answer(&written, params.dry_run)
}

pub(super) async fn create<R: ResourceRoutes>(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Answer {
    let params = WriteParams::read(query.as_deref())?;
    let preconditions = headers::preconditions(request.headers())?;
    let map = body::without_read_only(body::object(request).await?);
    let change = Change::Create(read::<R>(map)?.into_spec());
    write_resource(&app, caller, params, change, preconditions).await
}

pub(super) async fn put<R: ResourceRoutes>(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Answer {
    let invalid = |error: InvalidValue| FieldError::new(Code::InvalidField, "/name", error.0);
    let name: Name = name.parse().map_err(invalid)?;
    let mut query = Query::read(query.as_deref())?;
    let params = WriteParams::take_with_adopt(&mut query)?;
    query.finish()?;
    let preconditions = headers::preconditions(request.headers())?;
    let map = body::without_read_only(body::object(request).await?);
    let change = Change::Put(read::<R>(with_name(map, &name)?)?.into_spec());
    write_resource(&app, caller, params, change, preconditions).await
}

/// Adds the path's name to the fields of a body, which may leave it out and must not contradict it.
fn with_name(mut map: Map<String, Value>, name: &Name) -> Result<Map<String, Value>, FieldError> {
    match map.get("name").filter(|name| !name.is_null()) {
        Some(Value::String(given)) if given == name.as_str() => Ok(map),
        Some(other) => {
            let detail = format!(
                "{other} is not the path's name: leave it out, or write {:?}",
                name.as_str()
            );
            Err(FieldError::new(Code::InvalidField, "/name", detail))
        }
        None => {
            map.insert("name".into(), Value::from(name.as_str()));
            Ok(map)
        }
    }
}

pub(super) async fn patch<R: ResourceRoutes>(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Answer {
    let resource = existing(R::KIND, &name)?;
    let params = WriteParams::read(query.as_deref())?;
    let preconditions = headers::preconditions(request.headers())?;
    let (mut patch, name) = (Patch::read(request).await?, resource.name.clone());
    if let Patch::Merge(Value::Object(patch)) = &mut patch {
        normalize_sysctls(patch);
    }
    let edit = move |spec: &Spec| {
        let recorded = spec.to_json().map_err(unreadable)?;
        let patched = patch.apply(recorded)?;
        Ok(read::<R>(with_name(patched, &name)?)?.into_spec())
    };
    let change = Change::Edit(resource, Arc::new(edit));
    write_resource(&app, caller, params, change, preconditions).await
}

/// Spells the sysctls of a patch as they are recorded, so that it changes those.
fn normalize_sysctls(patch: &mut Map<String, Value>) {
    let Some(Value::Object(sysctls)) = patch.get_mut("sysctls") else {
        return;
    };
    for (given, value) in std::mem::take(sysctls) {
        let recorded = given
            .parse::<SysctlKey>()
            .map_or_else(|_| given.clone(), |key| key.to_string());
        // An invalid key, and the second spelling of one key, stay as sent: the error names them.
        let key = if sysctls.contains_key(&recorded) {
            given
        } else {
            recorded
        };
        sysctls.insert(key, value);
    }
}

pub(super) async fn delete<R: ResourceRoutes>(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answer {
    let resource = existing(R::KIND, &name)?;
    let mut query = Query::read(query.as_deref())?;
    let params = WriteParams::take(&mut query)?;
    let cascade = query.flag("cascade", false)?;
    query.finish()?;
    let preconditions = headers::preconditions(&headers)?;
    let change = Change::Delete { resource, cascade };
    write_resource(&app, caller, params, change, preconditions).await
}

/// Answers a dry run with its plan.
pub(super) fn answer_dry_run(written: &Written, result: Value) -> Answer {
    let body = serde_json::to_vec(&DryRun {
        plan: written.plan.clone(),
        result,
    })
    .map_err(internal)?;
    let mut response = json(StatusCode::OK, body);
    response
        .headers_mut()
        .insert("server-timing", headers::server_timing(written));
    Ok(response)
}

/// Returns the status of the answer to a write of one resource.
pub(super) fn status_of(outcome: WriteOutcome) -> StatusCode {
    match outcome {
        WriteOutcome::Accepted => StatusCode::ACCEPTED,
        WriteOutcome::Applied(ChangeKind::Created) => StatusCode::CREATED,
        WriteOutcome::Applied(ChangeKind::Deleted) => StatusCode::NO_CONTENT,
        WriteOutcome::Applied(ChangeKind::Updated | ChangeKind::Unchanged) => StatusCode::OK,
    }
}

fn answer(written: &Written, dry_run: bool) -> Answer {
    let did = written.change_kind();
    let entry = written
        .entry
        .as_ref()
        .filter(|_| did != ChangeKind::Deleted);
    if dry_run {
        let result = entry
            .map(|entry| serde_json::from_slice(&entry.json))
            .transpose()
            .map_err(internal)?;
        return answer_dry_run(written, result.unwrap_or(Value::Null));
    }

    let status = status_of(written.outcome());
    let mut response = match entry {
        None => status.into_response(),
        Some(entry) => {
            let mut response = json(status, entry.json.clone());
            let headers = response.headers_mut();
            headers.insert(header::ETAG, headers::etag(entry.generation));
            let path = format!("/v1/{}/{}", entry.spec.kind().plural(), entry.spec.name());
            if let (ChangeKind::Created, Ok(path)) = (did, HeaderValue::from_str(&path)) {
                headers.insert(header::LOCATION, path);
            }
            response
        }
    };
    response
        .headers_mut()
        .insert("server-timing", headers::server_timing(written));
    Ok(response)
}
