//! Reads the rest of a request's body that its handler did not read.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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

/// Time for the client to send the rest of the body.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Reads and drops the rest of the body before the response is sent: a client that still writes
/// when the connection closes never sees the response. Not every body is read by a handler: some
/// clients send one with GET or DELETE (Ansible's `null`), and some requests are refused for their
/// headers alone.
pub(super) async fn drain_body(request: Request, next: Next) -> Response {
    // A client that asks before it sends its body sees the response in any case.
    if request.headers().contains_key(header::EXPECT) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let body = SharedBody(Arc::new(Mutex::new(body)));
    let rest = Limited::new(body.clone(), BODY_LIMIT);
    let response = next.run(Request::from_parts(parts, Body::new(body))).await;
    let _ = tokio::time::timeout(TIMEOUT, rest.collect()).await; // too much or too slow: cut off
    response
}

/// A body that first the handler reads, and then [`drain_body`].
#[derive(Clone)]
struct SharedBody(Arc<Mutex<Body>>);

impl SharedBody {
    fn lock(&self) -> MutexGuard<'_, Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HttpBody for SharedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut *self.lock()).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().size_hint()
    }
}
