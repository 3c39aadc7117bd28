//! JSON responses. They end with a newline, so that a shell's prompt is on a line of its own.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{problem::Failure, resource::internal};

/// Response with a value as JSON.
pub(super) struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(text) => json(StatusCode::OK, text),
            Err(error) => Failure::from(internal(error)).into_response(),
        }
    }
}

/// Returns a response with a text that is JSON already.
pub(super) fn json(status: StatusCode, text: impl Into<Vec<u8>>) -> Response {
    let mut body = text.into();
    body.push(b'\n');
    (
        status,
        [(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        )],
        body,
    )
        .into_response()
}
