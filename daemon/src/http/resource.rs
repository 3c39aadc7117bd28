//! What the three kinds of resources have in common: list, create, get, put, patch, delete.

use std::{fmt::Display, sync::Arc};

use axum::{
    Extension,
    body::Bytes,
    extract::{Path, RawQuery, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use netnsd_api::{
    Bridge, Code, DryRun, FieldError, InvalidValue, Items, Kind, Name, Namespace, Problem,
    Resource, ResourceRef, SysctlKey, Veth, parse,
};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    App, Routes,
    body::{self, Patch},
    headers,
    json::{Json, json},
    problem::Failure,
    query::{self, Query},
};
use crate::{
    access::{Caller, Redact},
    engine::{Entry, Write, Written},
    kernel::{Ns, look::LookError},
    model::{Change, ChangeKind, Precondition, Spec},
};

pub(super) type Answer = Result<Response, Failure>;

/// A kind that the routes here serve.
pub(super) trait Served: Resource {
    /// Paths of the list, and of one.
    const PATHS: [&'static str; 2];
    /// The resource as the engine takes it.
    fn spec(self) -> Spec;
    /// The resource that the engine has recorded.
    fn of(spec: &Spec) -> Option<&Self>;
}

macro_rules! served {
    ($type:ident, $list:literal, $one:literal) => {
        impl Served for $type {
            const PATHS: [&'static str; 2] = [$list, $one];
            fn spec(self) -> Spec {
                Spec::$type(self)
            }
            fn of(spec: &Spec) -> Option<&Self> {
                match spec {
                    Spec::$type(inner) => Some(inner),
                    _ => None,
                }
            }
        }
    };
}

served!(Namespace, "/v1/namespaces", "/v1/namespaces/{name}");
served!(Bridge, "/v1/bridges", "/v1/bridges/{name}");
served!(Veth, "/v1/veths", "/v1/veths/{name}");

pub(super) fn routes<R: Served>() -> Routes {
    vec![
        (R::PATHS[0], get(list::<R>).post(create::<R>)),
        (
            R::PATHS[1],
            get(show::<R>)
                .put(put::<R>)
                .patch(patch::<R>)
                .delete(delete::<R>),
        ),
    ]
}

/// A resource that a path names: what can be no name is simply not there.
pub(super) fn existing(kind: Kind, name: &str) -> Result<ResourceRef, Failure> {
    Ok(ResourceRef::new(
        kind,
        name.parse().map_err(|_| missing(kind, name))?,
    ))
}

/// That a resource that a path names is not there.
pub(super) fn missing(kind: Kind, name: &str) -> Failure {
    Failure::new(Code::NotFound, format!("there is no {kind} {name:?}"))
}

pub(super) fn entry(app: &App, resource: &ResourceRef) -> Result<Arc<Entry>, Failure> {
    let missing = || Failure::new(Code::NotFound, format!("there is no {resource}"));
    app.view
        .get(resource.kind, &resource.name)
        .ok_or_else(missing)
}

async fn list<R: Served>(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    RawQuery(query): RawQuery,
) -> Answer {
    let mut query = Query::read(query.as_deref())?;
    let limit = query.limit()?;
    let cursor = query.value::<Name>("cursor")?;
    let labels = query.labels()?;
    let state = query.value::<netnsd_api::State>("state")?;
    let namespace = query.value::<Name>("namespace")?;
    let include = if R::KIND == Kind::Namespace {
        query.one("include")?
    } else {
        None
    };
    if let Some(other) = include.as_deref().filter(|include| *include != "unmanaged") {
        return Err(Failure::new(
            Code::InvalidQuery,
            format!("include={other}: the only value is \"unmanaged\""),
        ));
    }
    query.finish()?;
    let passes = |entry: &Entry| {
        caller.can_access(entry.spec.name().as_str())
            && labels.iter().all(|label| label.holds(entry.spec.labels()))
            && state.is_none_or(|state| entry.state == state)
            && namespace
                .as_ref()
                .is_none_or(|namespace| entry.spec.is_in(namespace))
    };
    let (page, more) = app
        .view
        .list(R::KIND, cursor.as_ref(), limit as usize, passes);
    let next = page
        .last()
        .filter(|_| more)
        .map(|entry| entry.spec.name().to_string());
    let mut items: Vec<(String, Bytes)> = page
        .into_iter()
        .map(|entry| {
            (
                entry.spec.name().to_string(),
                entry.redact(&caller).json.clone(),
            )
        })
        .collect();
    // Others' namespaces have no labels and no state: they are shown where nothing is filtered.
    if include.is_some() && labels.is_empty() && state.is_none() && namespace.is_none() {
        let after = |name: &str| cursor.as_ref().is_none_or(|cursor| name > cursor.as_str());
        let before = |name: &str| next.as_deref().is_none_or(|next| name <= next);
        let others = super::namespaces::unmanaged(&app).await?;
        items.extend(
            others
                .into_iter()
                .filter(|(name, _)| caller.can_access(name) && after(name) && before(name)),
        );
        items.sort();
    }
    // With others' among them there may be more than fit.
    let cut = items.len() > limit as usize;
    items.truncate(limit as usize);
    let next = if cut {
        items.last().map(|(name, _)| name.clone())
    } else {
        next
    };
    Ok(json(StatusCode::OK, page_of(&items, next.as_deref())))
}

/// A page, put together of what is JSON already.
fn page_of(items: &[(String, Bytes)], next: Option<&str>) -> Vec<u8> {
    let size: usize = items.iter().map(|(_, json)| json.len() + 1).sum();
    let mut text = Vec::with_capacity(size + 128);
    text.extend_from_slice(b"{\"items\":[");
    for (i, (_, json)) in items.iter().enumerate() {
        if i > 0 {
            text.push(b',');
        }
        text.extend_from_slice(json);
    }
    text.extend_from_slice(b"],\"next\":");
    text.extend_from_slice(Value::from(next).to_string().as_bytes());
    text.push(b'}');
    text
}

async fn show<R: Served>(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answer {
    query::none(query.as_deref())?;
    let entry = entry(&app, &existing(R::KIND, &name)?)?.redact(&caller);
    let mut known = false;
    for precondition in headers::preconditions(&headers)? {
        match precondition {
            Precondition::NoneMatch(generations) => {
                known = generations.is_none_or(|list| list.contains(&entry.generation))
            }
            Precondition::Match(Some(generations)) if !generations.contains(&entry.generation) => {
                let detail = format!(
                    "the resource is not as the request expects: its ETag is \"{}\"",
                    entry.generation
                );
                return Err(Failure::new(Code::PreconditionFailed, detail));
            }
            Precondition::Match(_) => {}
        }
    }
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        json(StatusCode::OK, entry.json.clone())
    };
    response
        .headers_mut()
        .insert(header::ETAG, headers::etag(entry.generation));
    Ok(response)
}

/// Answers a caller with what is found live; `what` is what there is none of if it is not there.
pub(super) async fn live<T: Serialize + Redact>(
    caller: &Caller,
    what: impl Display,
    found: impl Future<Output = Result<Vec<T>, LookError>>,
) -> Answer {
    let mut items = found.await.map_err(|error| Failure::look(what, error))?;
    items.iter_mut().for_each(|item| item.redact(caller));
    Ok(Json(Items { items }).into_response())
}

/// Answers with every link of a namespace.
pub(super) async fn links(app: &App, caller: &Caller, ns: &Ns, query: Option<&str>) -> Answer {
    let mut query = Query::read(query)?;
    let settings = query.flag("settings", false)?;
    query.finish()?;
    let found = async {
        let mut links = app.look.links(ns).await?;
        links
            .iter_mut()
            .filter(|_| !settings)
            .for_each(|link| link.settings = None);
        Ok(links)
    };
    live(caller, ns, found).await
}

/// Reads a resource of a JSON object.
pub(super) fn read<R: Served>(map: Map<String, Value>) -> Result<R, FieldError> {
    let resource: R = parse(&Value::Object(map))?;
    resource.check()?;
    Ok(resource)
}

/// What every write may be asked besides.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// `?dry_run=true`.
    pub dry_run: bool,
    /// Unless `?wait=false`.
    pub wait: bool,
    /// `?adopt=true`.
    pub adopt: bool,
}

impl Asked {
    /// Takes its parameters out of a query that may have others.
    pub fn take(query: &mut Query) -> Result<Self, Failure> {
        Ok(Self {
            dry_run: query.flag("dry_run", false)?,
            wait: query.flag("wait", true)?,
            adopt: false,
        })
    }

    /// The same, with that of writes which may take over what is there.
    pub fn take_put(query: &mut Query) -> Result<Self, Failure> {
        let asked = Self::take(query)?;
        Ok(Self {
            adopt: query.flag("adopt", false)?,
            ..asked
        })
    }

    /// Reads a query that has no others.
    pub fn read(query: Option<&str>) -> Result<Self, Failure> {
        let mut query = Query::read(query)?;
        let asked = Self::take(&mut query)?;
        query.finish()?;
        Ok(asked)
    }

    /// The write.
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
            status: Some(|did, applied| status_of(did, applied).as_u16()),
        }
    }
}

async fn create<R: Served>(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Answer {
    let asked = Asked::read(query.as_deref())?;
    let preconditions = headers::preconditions(request.headers())?;
    let map = body::without_read_only(body::object(request).await?);
    let change = Change::Create(read::<R>(map)?.spec());
    answer(
        &app.engine
            .write(asked.write(caller, change, preconditions))
            .await?,
        asked.dry_run,
    )
}

async fn put<R: Served>(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Answer {
    let invalid = |error: InvalidValue| FieldError::new(Code::InvalidField, "/name", error.0);
    let name: Name = name.parse().map_err(invalid)?;
    let mut query = Query::read(query.as_deref())?;
    let asked = Asked::take_put(&mut query)?;
    query.finish()?;
    let preconditions = headers::preconditions(request.headers())?;
    let map = named(body::without_read_only(body::object(request).await?), &name)?;
    let change = Change::Put(read::<R>(map)?.spec());
    answer(
        &app.engine
            .write(asked.write(caller, change, preconditions))
            .await?,
        asked.dry_run,
    )
}

/// Returns the fields with the path's name, which they may leave out and must not contradict.
fn named(mut map: Map<String, Value>, name: &Name) -> Result<Map<String, Value>, FieldError> {
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

/// Spells the sysctls of a patch as they are recorded, so that it meets them.
fn spell_sysctls(patch: &mut Map<String, Value>) {
    let Some(Value::Object(sysctls)) = patch.get_mut("sysctls") else {
        return;
    };
    for (given, value) in std::mem::take(sysctls) {
        let recorded = given
            .parse::<SysctlKey>()
            .map_or_else(|_| given.clone(), |key| key.to_string());
        // A mistake, or the same key twice, is told of the spelling that was sent.
        let key = if sysctls.contains_key(&recorded) {
            given
        } else {
            recorded
        };
        sysctls.insert(key, value);
    }
}

async fn patch<R: Served>(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Answer {
    let resource = existing(R::KIND, &name)?;
    let asked = Asked::read(query.as_deref())?;
    let preconditions = headers::preconditions(request.headers())?;
    let (mut patch, name) = (Patch::read(request).await?, resource.name.clone());
    if let Patch::Merge(Value::Object(patch)) = &mut patch {
        spell_sysctls(patch);
    }
    let edit = move |spec: &Spec| {
        let patched = patch.apply(spec.to_json().map_err(internal)?)?;
        Ok(read::<R>(named(patched, &name)?)?.spec())
    };
    let change = Change::Edit(resource, Arc::new(edit));
    answer(
        &app.engine
            .write(asked.write(caller, change, preconditions))
            .await?,
        asked.dry_run,
    )
}

/// What has no reason to happen: on its way out it goes to the log.
pub(super) fn internal(error: impl Display) -> Problem {
    Problem::new(Code::Internal, error.to_string())
}

async fn delete<R: Served>(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answer {
    let resource = existing(R::KIND, &name)?;
    let mut query = Query::read(query.as_deref())?;
    let (asked, cascade) = (Asked::take(&mut query)?, query.flag("cascade", false)?);
    query.finish()?;
    let preconditions = headers::preconditions(&headers)?;
    let change = Change::Delete { resource, cascade };
    answer(
        &app.engine
            .write(asked.write(caller, change, preconditions))
            .await?,
        asked.dry_run,
    )
}

/// The answer to a dry run.
pub(super) fn dry(written: &Written, result: Value) -> Answer {
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

/// The status of the answer to a write of one resource.
fn status_of(did: ChangeKind, applied: bool) -> StatusCode {
    match (applied, did) {
        (false, _) => StatusCode::ACCEPTED,
        (true, ChangeKind::Created) => StatusCode::CREATED,
        (true, ChangeKind::Deleted) => StatusCode::NO_CONTENT,
        (true, _) => StatusCode::OK,
    }
}

/// The answer to a write of one resource.
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
        return dry(written, result.unwrap_or(Value::Null));
    }
    let status = status_of(did, written.applied);
    let mut response = match entry {
        None => status.into_response(),
        Some(entry) => {
            let mut response = json(status, entry.json.clone());
            response
                .headers_mut()
                .insert(header::ETAG, headers::etag(entry.generation));
            let path = format!("/v1/{}/{}", entry.spec.kind().plural(), entry.spec.name());
            if let (ChangeKind::Created, Ok(path)) = (did, HeaderValue::from_str(&path)) {
                response.headers_mut().insert(header::LOCATION, path);
            }
            response
        }
    };
    response
        .headers_mut()
        .insert("server-timing", headers::server_timing(written));
    Ok(response)
}
