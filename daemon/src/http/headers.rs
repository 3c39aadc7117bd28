//! Headers: request ids, ETags, preconditions, media types, timing.

use std::{
    fmt::Display,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
    middleware::Next,
    response::Response,
};
use http_body_util::BodyExt;
use netnsd_api::Code;
use tracing::Instrument;

use super::{
    audit::Unfinished,
    auth::CallerName,
    problem::{Failure, Reason},
};
use crate::{engine::Written, metrics::Metrics, model::Precondition};

pub(super) const REQUEST_ID: &str = "x-request-id";

/// Gives each request an id, which its response and its log lines carry, and counts it in the
/// metrics by the pattern of its path. A request's own id is kept if it is short and printable.
pub(super) async fn request_context(
    State(metrics): State<Arc<Metrics>>,
    mut request: Request,
    next: Next,
) -> Response {
    let start = Instant::now();
    let is_valid = |value: &&HeaderValue| {
        !value.is_empty() && value.len() <= 128 && value.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    let given = request.headers().get(REQUEST_ID).filter(is_valid).cloned();
    let id = given.or_else(|| HeaderValue::from_str(&uuid::Uuid::now_v7().to_string()).ok());
    let id = id.unwrap_or_else(|| HeaderValue::from_static("-"));
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let span = tracing::info_span!("request", id = id.to_str().unwrap_or("-"));
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let mut response = next.run(request).instrument(span.clone()).await;
    let (status, took) = (response.status().as_u16(), start.elapsed());
    metrics.record_request(
        method.as_str(),
        route.as_ref().map(MatchedPath::as_str),
        status,
        took,
    );
    let answer = response.extensions();
    let line = LogLine {
        span,
        method,
        path,
        caller: answer.get::<CallerName>().cloned(),
        reason: answer.get::<Reason>().cloned(),
        start,
    };
    match answer.get::<Unfinished>().cloned() {
        None => line.write(status),
        Some(outcome) => {
            let line = LineAtEnd { line, outcome };
            response = response.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    // hyper drops the body, and with it the line, after the last frame.
                    let _held = &line;
                    frame
                }))
            });
        }
    }
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// Parts of the log line of a request.
struct LogLine {
    span: tracing::Span,
    method: Method,
    path: String,
    caller: Option<CallerName>,
    reason: Option<Reason>,
    start: Instant,
}

impl LogLine {
    fn write(&self, status: u16) {
        let Self { method, path, .. } = self;
        let ms = self.start.elapsed().as_micros() as f64 / 1000.0;
        let caller = self.caller.as_ref().map(|caller| caller.0.name.as_str());
        let reason = self.reason.as_ref();
        let code = reason.map(|reason| tracing::field::display(reason.code));
        let detail = reason.map(|reason| reason.detail.as_str());
        self.span.in_scope(|| {
            if method == Method::GET || method == Method::HEAD {
                tracing::debug!(%method, path, status, caller, code, detail, ms, "answered");
            } else {
                tracing::info!(%method, path, status, caller, code, detail, ms, "answered");
            }
        });
    }
}

/// Status in the log of a request whose client left before the outcome was known, as nginx has it.
const CLIENT_LEFT: u16 = 499;

/// Log line of a response whose status line says nothing of the outcome: written when the body is
/// dropped.
struct LineAtEnd {
    line: LogLine,
    outcome: Unfinished,
}

impl Drop for LineAtEnd {
    fn drop(&mut self) {
        self.line
            .write(self.outcome.status().unwrap_or(CLIENT_LEFT));
    }
}

/// Returns the value of `ETag` for a tag.
pub(super) fn etag(tag: impl Display) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{tag}\""))
        .unwrap_or_else(|_| HeaderValue::from_static("\"0\""))
}

/// Returns true if the reader of something with this tag has it already (`If-None-Match`).
///
/// # Errors
/// If `If-Match` names other tags, or a header cannot be read.
pub(super) fn is_known(headers: &HeaderMap, tag: &str) -> Result<bool, Failure> {
    let mut is_known = false;
    for precondition in preconditions(headers)? {
        match &precondition {
            Precondition::NoneMatch(_) => is_known = !precondition.holds(Some(tag)),
            Precondition::Match(_) if !precondition.holds(Some(tag)) => {
                let detail = format!("precondition failed: the ETag is \"{tag}\"");
                return Err(Failure::new(Code::PreconditionFailed, detail));
            }
            Precondition::Match(_) => {}
        }
    }
    Ok(is_known)
}

/// Returns true if `Accept` names one of these media types; ranges such as `*/*` do not count.
pub(super) fn accepts(headers: &HeaderMap, kinds: &[&str]) -> bool {
    let values = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut asked = values
        .flat_map(|value| value.split(','))
        .map(|item| item.split(';').next().unwrap_or_default());
    asked.any(|item| {
        kinds
            .iter()
            .any(|kind| kind.eq_ignore_ascii_case(item.trim()))
    })
}

/// Returns the `Server-Timing` of a write, in milliseconds.
pub(super) fn server_timing(written: &Written) -> HeaderValue {
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let text = format!(
        "store;dur={:.3}, kernel;dur={:.3}",
        ms(written.store),
        ms(written.kernel)
    );
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("store"))
}

/// Reads `If-Match` and `If-None-Match` (RFC 9110, section 13.1).
pub(super) fn preconditions(headers: &HeaderMap) -> Result<Vec<Precondition>, Failure> {
    let exact = tags(headers, &header::IF_MATCH, false)?.map(Precondition::Match);
    let none = tags(headers, &header::IF_NONE_MATCH, true)?.map(Precondition::NoneMatch);
    Ok(exact.into_iter().chain(none).collect())
}

/// Reads the tags in a header; `Some(None)` stands for `*`. Weak tags count only if
/// `weak_counts`, as they do in `If-None-Match`.
fn tags(
    headers: &HeaderMap,
    name: &HeaderName,
    weak_counts: bool,
) -> Result<Option<Option<Vec<String>>>, Failure> {
    let mut all = Vec::new();
    let mut any = false;
    for value in headers.get_all(name) {
        any = true;
        let wrong = || {
            let shown = String::from_utf8_lossy(value.as_bytes());
            Failure::new(
                Code::InvalidQuery,
                format!("{name}: {shown:?} is not a valid ETag list: write it like \"3\", or *"),
            )
        };
        let text = value.to_str().map_err(|_| wrong())?.trim();
        if text == "*" {
            return Ok(Some(None));
        }
        for tag in text.split(',').map(str::trim) {
            let (weak, tag) = tag
                .strip_prefix("W/")
                .map_or((false, tag), |tag| (true, tag));
            let inner = tag
                .strip_prefix('"')
                .and_then(|tag| tag.strip_suffix('"'))
                .ok_or_else(wrong)?;
            all.extend((!weak || weak_counts).then(|| inner.to_owned()));
        }
    }
    Ok(any.then_some(Some(all)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &'static str, value: &'static str) -> Result<Vec<Precondition>, Failure> {
        preconditions(&HeaderMap::from_iter([(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )]))
    }

    #[test]
    fn etags_follow_rfc_9110() {
        assert_eq!(
            read("if-match", "\"3\", \"4\"").unwrap(),
            [Precondition::Match(Some(vec!["3".into(), "4".into()]))]
        );
        assert_eq!(
            read("if-match", "W/\"3\"").unwrap(),
            [Precondition::Match(Some(vec![]))]
        );
        assert_eq!(read("if-match", "*").unwrap(), [Precondition::Match(None)]);
        assert_eq!(
            read("if-none-match", "W/\"3\", \"x\"").unwrap(),
            [Precondition::NoneMatch(Some(vec!["3".into(), "x".into()]))]
        );
        assert!(read("if-match", "3").is_err());
    }
}
