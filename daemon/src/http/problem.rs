//! Errors as answers: `application/problem+json`, always.

use std::{any::Any, fmt::Display};

use axum::{
    extract::Request,
    http::{HeaderValue, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use netnsd_api::{Code, FieldError, Problem};

use crate::kernel::look::LookError;

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
                ..Problem::new(Code::KernelUnavailable, format!("the kernel cannot be asked: {error}"))
            })),
        }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
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
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&*self.0).unwrap_or_default();
        let mut response = (status, body).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// A path that is none.
pub(super) async fn no_such_path(uri: Uri) -> Failure {
    Failure::new(Code::NoSuchPath, format!("there is no {}: GET /openapi.yaml lists every path", uri.path()))
}

/// A method that a path does not have; axum adds `Allow`.
pub(super) async fn method_not_allowed(request: Request) -> Failure {
    let detail = format!("{} does not take {}: see the Allow header", request.uri().path(), request.method());
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
    let plain =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
    match response.status() {
        // A path that is not UTF-8 once decoded.
        StatusCode::BAD_REQUEST if plain => {
            Failure::new(Code::NotFound, format!("nothing is called {path}")).into_response()
        }
        status if status.is_server_error() && plain => Failure::new(Code::Internal, status.to_string()).into_response(),
        _ => response,
    }
}
