//! What a handler left of a request's body.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::Request,
    http::header,
    middleware::Next,
    response::Response,
};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Frame, SizeHint};

use super::BODY_LIMIT;

/// How long a client may take to send what nobody asked for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Takes in what is left of the body before the answer goes out: a client that still writes when
/// the connection closes never sees the answer. Not every body is read: some come with a GET or a
/// DELETE (Ansible's `null`), and some requests are refused for their head alone.
pub(super) async fn taken_in(request: Request, next: Next) -> Response {
    // A client that asks before it sends its body sees the answer in any case.
    if request.headers().contains_key(header::EXPECT) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let body = Shared(Arc::new(Mutex::new(body)));
    let rest = Limited::new(body.clone(), BODY_LIMIT);
    let response = next.run(Request::from_parts(parts, Body::new(body))).await;
    // Too much or too slow: it is cut off after all.
    let _cut_off = tokio::time::timeout(PATIENCE, rest.collect()).await;
    response
}

/// A body that the handler reads, and then we.
#[derive(Clone)]
struct Shared(Arc<Mutex<Body>>);

impl HttpBody for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .size_hint()
    }
}
