//! Errors as answers: `application/problem+json`, always.

use std::{any::Any, collections::BTreeMap, fmt::Display, sync::LazyLock};

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderValue, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use netnsd_api::{Code, FieldError, Problem};
use serde_json::Value;

use crate::{kernel::look::LookError, store::StoreError};

/// A problem on its way out of a route.
#[derive(Debug, Clone)]
pub(super) struct Failure(pub Box<Problem>);

impl Failure {
    /// A problem with nothing but its code and what to tell people.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(code, detail)))
    }

    /// What a failed look at a thing means to who asked for it.
    pub fn look(what: impl Display, error: LookError) -> Self {
        match error {
            LookError::NoSuchNamespace => Self::new(Code::NotFound, format!("there is no {what}")),
            LookError::Kernel(error) => Self(Box::new(Problem {
                errno: Some(format!("{:?}", error.errno)),
                kernel_message: error.message.clone(),
                ..Problem::new(
                    Code::KernelUnavailable,
                    format!("the kernel cannot be asked: {error}"),
                )
            })),
        }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(Code::StoreUnavailable, error.to_string())
    }
}

impl From<FieldError> for Failure {
    fn from(error: FieldError) -> Self {
        Self(Box::new(error.into()))
    }
}

/// What clients are told of an error that is netnsd's own.
const INTERNAL: &str = "something went wrong in netnsd: its log has more, under this X-Request-Id";

impl IntoResponse for Failure {
    fn into_response(mut self) -> Response {
        if self.0.code == Code::Internal {
            // The detail may tell of paths and the like: it is for the log.
            tracing::error!(detail = self.0.detail, "internal");
            *self.0 = Problem::new(Code::Internal, INTERNAL);
        }
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut body = serde_json::to_vec(&*self.0).unwrap_or_default();
        body.push(b'\n');
        let mut response = (status, body).into_response();
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        ) {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// Answers a path that is none, with the known one that is nearest to it.
pub(super) async fn no_such_path(uri: Uri) -> Failure {
    let path = uri.path();
    let known = super::table();
    // Many leave out the version.
    let versioned = format!("/v1{path}");
    let candidates = known
        .iter()
        .flat_map(|(pattern, _)| [like(pattern, path), like(pattern, &versioned)]);
    let nearest = candidates.min_by_key(|known| distance(known, path));
    let hint = nearest.map_or_else(String::new, |nearest| {
        format!("; the nearest path is {nearest}")
    });
    Failure::new(
        Code::NoSuchPath,
        format!("there is no {path}{hint}: GET /openapi.yaml lists every path"),
    )
}

/// Fills a path's pattern with the names that another path has in these places.
fn like(pattern: &str, path: &str) -> String {
    let mut given = path.split('/');
    let fill = |part| match given.next() {
        Some(name) if part_is_variable(part) && !name.is_empty() => name,
        _ => part,
    };
    pattern.split('/').map(fill).collect::<Vec<_>>().join("/")
}

fn part_is_variable(part: &str) -> bool {
    part.starts_with('{')
}

/// Counts the changes that make one path of the other; of a very long one only the beginning
/// counts.
fn distance(known: &str, path: &str) -> usize {
    let begin = |text: &str| text.chars().take(128).collect::<String>();
    strsim::levenshtein(&begin(known), &begin(path))
}

/// Methods of each path, as the description has them.
static METHODS: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    let methods = |operations: &Value| {
        let names = operations
            .as_object()
            .into_iter()
            .flatten()
            .map(|(method, _)| method.to_uppercase());
        names.collect::<Vec<_>>().join(", ")
    };
    super::openapi()
        .paths
        .iter()
        .map(|(path, operations)| (path.clone(), methods(operations)))
        .collect()
});

/// Answers a method that a path does not have; axum adds `Allow`.
pub(super) async fn method_not_allowed(request: Request) -> Failure {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("", MatchedPath::as_str);
    let methods = METHODS.get(route).map_or("other methods", String::as_str);
    let detail = format!(
        "{} does not take {}: it takes {methods}",
        request.uri().path(),
        request.method()
    );
    Failure::new(Code::MethodNotAllowed, detail)
}

/// A panic ends one request, not the daemon; what it said is in the log, by the panic hook.
pub(super) fn panicked(_said: Box<dyn Any + Send>) -> Response {
    Failure::new(Code::Internal, "a panic").into_response()
}

/// What axum itself refuses becomes a problem too.
pub(super) async fn only_problems(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    let plain = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
    match response.status() {
        // A path that is not UTF-8 once decoded.
        StatusCode::BAD_REQUEST if plain => Failure::new(
            Code::NotFound,
            format!("{path} is not UTF-8 once it is decoded: nothing has such a name"),
        )
        .into_response(),
        status if status.is_server_error() && plain => {
            Failure::new(Code::Internal, status.to_string()).into_response()
        }
        _ => response,
    }
}
