//! Routes of the whole network as one document, JSON or YAML.

use std::{pin::Pin, sync::Arc, time::Duration};

use axum::{
    Extension,
    body::Body,
    extract::{RawQuery, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::IntoResponse,
};
use netnsd_api::{Code, FieldError, Kind, Problem, Progress, ResourceRef, TopologyResult, sparse};
use serde_json::{Map, Value};
use tokio::{sync::watch, time::Instant};

use super::{
    App,
    audit::{self, Unfinished},
    body, headers,
    json::json,
    query::Query,
    resource::{self, Answer, WriteParams, internal, is_selected, send_write},
};
use crate::{
    access::Caller,
    engine::{Entry, Write, Written},
    model::{Change, ChangeKind, Document, DocumentItem, Spec, WriteOutcome, tag_versions},
};

/// Largest document, in bytes.
pub(super) const LIMIT: usize = 64 << 20;

pub(super) async fn show(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answer {
    let mut query = Query::read(query.as_deref())?;
    let labels = query.labels()?;
    query.finish()?;
    // One look at all kinds: document and tag are of one moment.
    let entries = app
        .view
        .all(|entry| is_selected(&caller, &labels, &entry.spec));
    let tag = tag_versions(entries.iter().map(|entry| entry.version()));
    let headers_of_all = [
        (header::ETAG, headers::etag(&tag)),
        (header::VARY, HeaderValue::from_static("accept")),
    ];
    if headers::is_known(&headers, &tag)? {
        return Ok((StatusCode::NOT_MODIFIED, headers_of_all).into_response());
    }
    let document = to_document(&entries).map_err(internal)?;
    if headers::accepts(&headers, &body::YAML) {
        let text = yaml_serde::to_string(&document).map_err(internal)?;
        let kind = [(header::CONTENT_TYPE, body::YAML[0])];
        return Ok((headers_of_all, kind, text).into_response());
    }
    let text = Value::Object(document).to_string();
    Ok((headers_of_all, json(StatusCode::OK, text)).into_response())
}

/// Returns a document of resources that are sorted by kind.
fn to_document(entries: &[Arc<Entry>]) -> serde_json::Result<Map<String, Value>> {
    let mut document: Map<String, Value> = Kind::ALL
        .into_iter()
        .map(|kind| (kind.plural().to_owned(), Value::Array(Vec::new())))
        .collect();
    for entry in entries {
        let kind = entry.spec.kind();
        if let Some(Value::Array(items)) = document.get_mut(kind.plural()) {
            items.push(sparse(kind, entry.spec.to_json()?));
        }
    }
    Ok(document)
}

pub(super) async fn put(
    app: State<App>,
    caller: Extension<Arc<Caller>>,
    query: RawQuery,
    request: Request,
) -> Answer {
    write(app, caller, query, request, true).await
}

pub(super) async fn patch(
    app: State<App>,
    caller: Extension<Arc<Caller>>,
    query: RawQuery,
    request: Request,
) -> Answer {
    write(app, caller, query, request, false).await
}

async fn write(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    RawQuery(query): RawQuery,
    request: Request,
    prune: bool,
) -> Answer {
    let mut query = Query::read(query.as_deref())?;
    let params = WriteParams::take_with_adopt(&mut query)?;
    let labels = query.labels()?;
    let cascade = prune && query.flag("cascade", false)?;
    query.finish()?;
    let lines = headers::accepts(request.headers(), &["application/x-ndjson"]);
    let preconditions = headers::preconditions(request.headers())?;
    let specs = body::document(request, LIMIT, read).await?;
    if let Some(outside) = specs
        .iter()
        .find(|placed| !caller.can_access(placed.spec.name().as_str()))
    {
        let error = caller.out_of_scope(&outside.spec.resource());
        return Err(error.in_document(outside).into());
    }
    let selects = {
        let caller = caller.clone();
        Arc::new(move |spec: &Spec| is_selected(&caller, &labels, spec))
    };
    let dry_run = params.dry_run;
    let write = params.write(
        caller,
        Change::Topology(Document {
            specs,
            prune,
            cascade,
            selects,
        }),
        preconditions,
    );
    if lines && !dry_run {
        return stream_progress(app, write).await;
    }
    answer(&send_write(&app.engine, write, status_of).await?, dry_run)
}

/// Reads the resources of a document.
pub(super) fn read(mut document: Map<String, Value>) -> Result<Vec<DocumentItem>, FieldError> {
    let mut specs = Vec::new();
    for kind in Kind::ALL {
        collect(kind, &mut document, &mut specs)?;
    }
    match document.keys().next() {
        None => Ok(specs),
        Some(other) => {
            let lists = Kind::ALL.map(|kind| format!("`{}`", kind.plural()));
            let detail = format!(
                "unknown field `{other}`, expected one of {}",
                lists.join(", ")
            );
            Err(FieldError::at(Code::UnknownField, &[other], detail))
        }
    }
}

fn collect(
    kind: Kind,
    document: &mut Map<String, Value>,
    specs: &mut Vec<DocumentItem>,
) -> Result<(), FieldError> {
    let list = kind.plural();
    let items = match document.remove(list) {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Array(items)) => items,
        Some(_) => {
            return Err(FieldError::at(
                Code::InvalidField,
                &[list],
                format!("{list} is a list of resources"),
            ));
        }
    };
    for (at, item) in items.into_iter().enumerate() {
        let index = at.to_string();
        let below = |error: FieldError| error.below(&[list, &index]);
        let Value::Object(map) = item else {
            return Err(below(FieldError::new(
                Code::InvalidField,
                "",
                "a resource is an object",
            )));
        };
        let spec = resource::read_spec(kind, body::without_read_only(map)).map_err(below)?;
        if spec.name().is_unset() {
            let detail = format!("a {kind} in a document needs its name");
            return Err(below(FieldError::new(Code::InvalidField, "/name", detail)));
        }
        specs.push(DocumentItem { spec, index: at });
    }
    Ok(())
}

fn result(written: &Written) -> TopologyResult {
    let changed = |wanted: ChangeKind| -> Vec<ResourceRef> {
        written
            .named
            .iter()
            .filter(|(_, kind)| *kind == wanted)
            .map(|(resource, _)| resource.clone())
            .collect()
    };
    TopologyResult {
        created: changed(ChangeKind::Created),
        updated: changed(ChangeKind::Updated),
        deleted: changed(ChangeKind::Deleted),
        unchanged: changed(ChangeKind::Unchanged).len(),
    }
}

fn status_of(outcome: WriteOutcome) -> StatusCode {
    match outcome {
        WriteOutcome::Accepted => StatusCode::ACCEPTED,
        WriteOutcome::Applied(_) => StatusCode::OK,
    }
}

fn answer(written: &Written, dry_run: bool) -> Answer {
    let result = serde_json::to_value(result(written)).map_err(internal)?;
    if dry_run {
        return resource::answer_dry_run(written, result);
    }
    let mut response = json(status_of(written.outcome()), result.to_string());
    response
        .headers_mut()
        .insert("server-timing", headers::server_timing(written));
    Ok(response)
}

type Writing = Pin<Box<dyn Future<Output = Result<Written, Problem>> + Send>>;

/// Time until the response begins, whatever the engine does.
const RESPONSE_DELAY: Duration = Duration::from_millis(100);
/// Time between two lines: short enough for a progress bar, without a line per operation.
const LINE_INTERVAL: Duration = Duration::from_millis(100);

/// Streams the progress of a write: one JSON object per line, the result last. A write that is
/// refused before its first operation and before the response begins is answered with a problem;
/// afterwards the problem is the last line.
async fn stream_progress(app: App, mut write: Write) -> Answer {
    let (sender, mut progress) = watch::channel(Progress::default());
    write.progress = Some(sender);
    let (caller, engine) = (write.caller.clone(), app.engine.clone());
    let mut writing: Writing =
        Box::pin(async move { send_write(&engine, write, |_| StatusCode::OK).await });
    let done = tokio::select! {
        biased;
        written = &mut writing => Some(written),
        Ok(()) = progress.changed() => None,
        () = tokio::time::sleep(RESPONSE_DELAY) => None,
    };
    let kind = [(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    )];
    if let Some(written) = done {
        let has_begun = progress.borrow().total > 0;
        match written {
            written if has_begun => writing = Box::pin(std::future::ready(written)),
            written => {
                let line = line(&result(&written?)).map_err(internal)?;
                return Ok((StatusCode::OK, kind, line).into_response());
            }
        }
    }
    let outcome = Unfinished::default();
    let stream = ProgressStream {
        app,
        caller,
        writing,
        progress,
        next: None,
        outcome: outcome.clone(),
    };
    let lines = Body::from_stream(futures_util::stream::unfold(Some(stream), next_line));
    // The outcome is recorded at the end of the stream.
    Ok((StatusCode::OK, kind, Extension(outcome), lines).into_response())
}

/// State of a progress stream.
struct ProgressStream {
    app: App,
    caller: Arc<Caller>,
    writing: Writing,
    progress: watch::Receiver<Progress>,
    /// Time of the next line; `None` before the first one.
    next: Option<Instant>,
    outcome: Unfinished,
}

async fn next_line(
    stream: Option<ProgressStream>,
) -> Option<(Result<Vec<u8>, serde_json::Error>, Option<ProgressStream>)> {
    let mut stream = stream?;
    let written = match stream.next {
        None => None,
        Some(next) => tokio::time::timeout_at(next, &mut stream.writing)
            .await
            .ok(),
    };
    let Some(written) = written else {
        stream.next = Some(Instant::now() + LINE_INTERVAL);
        let now = *stream.progress.borrow();
        return Some((line(&now), Some(stream)));
    };
    let status = written
        .as_ref()
        .map_or_else(|problem| problem.status, |_| StatusCode::OK.as_u16());
    stream.outcome.finish(status);
    if let Some(audit) = &stream.caller.audit {
        // The write is done in any case, and `record` logs the failure.
        let _ = audit::record(&stream.app, audit, status).await;
    }
    let last = match written {
        Ok(written) => line(&result(&written)),
        Err(problem) => line(&problem),
    };
    Some((last, None))
}

fn line(value: &impl serde::Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}
