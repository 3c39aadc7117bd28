//! Limits the bytes of responses that clients have not read yet.

use std::sync::Arc;

use axum::{
    Extension,
    body::{Body, Bytes, HttpBody},
    extract::{Request, State},
    http::Method,
    middleware::Next,
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt;
use netnsd_api::{Code, Role};

use super::{problem::Failure, resource::internal};
use crate::{
    access::Caller,
    shares::{LimitReached, Shares, Slot},
};

/// Size up to which a response is not counted: a socket's send buffer holds it.
const SMALL: usize = 16 << 10;
/// Bytes of unread responses of one caller.
const SHARE: usize = 64 << 20;
/// Bytes of unread responses of all callers.
const ALL: usize = 256 << 20;
/// Bytes beyond [`ALL`] that only admins may use.
const RESERVE: usize = 64 << 20;

/// Bytes of unread responses, by the names of callers.
pub(super) type Unsent = Shares<String>;

/// Refuses requests of a caller that leaves too much unread, and counts each large response until
/// its last byte has been written.
pub(super) async fn bound_unsent(
    State(unsent): State<Unsent>,
    Extension(caller): Extension<Arc<Caller>>,
    request: Request,
    next: Next,
) -> Response {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let (share, all) = if caller.role == Role::Admin {
        (ALL + RESERVE, ALL + RESERVE)
    } else {
        (SHARE, ALL)
    };
    // Before the request is carried out. A caller that leaves nothing unread gets small responses,
    // and can write, however much others leave.
    if let Err(full) = unsent.acquire_sized(caller.name.clone(), 0, share, usize::MAX) {
        return refuse(&caller, full);
    }
    let (parts, body) = next.run(request).await.into_parts();
    let Some(size) = body.size_hint().exact().filter(|size| *size > SMALL as u64) else {
        return Response::from_parts(parts, body);
    };
    let place = match unsent.acquire_sized(caller.name.clone(), size as usize, share, all) {
        Err(full) if is_read => return refuse(&caller, full),
        // A request that has changed something, or run a command, gets its response in any case.
        place => place.ok(),
    };
    // The body is one piece in memory: this neither waits nor copies.
    match body.collect().await {
        Ok(bytes) => {
            let counted = Counted {
                bytes: bytes.to_bytes(),
                _place: place,
            };
            Response::from_parts(parts, Body::from(Bytes::from_owner(counted)))
        }
        Err(error) => Failure::from(internal(error)).into_response(),
    }
}

/// Bytes of a response, which hyper drops once they are written.
struct Counted {
    bytes: Bytes,
    _place: Option<Slot<String>>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn refuse(caller: &Caller, full: LimitReached) -> Response {
    let detail = match full {
        LimitReached::Holder(bytes) => {
            format!(
                "{bytes} bytes of responses to {} are unread: read them, or close their connections",
                caller.name
            )
        }
        LimitReached::Total(bytes) => {
            format!("{bytes} bytes of responses to all callers are unread: retry in a moment")
        }
    };
    Failure::new(Code::TooManyRequests, detail).into_response()
}

#[cfg(test)]
mod tests {
    use axum::{Router, http::StatusCode, middleware::from_fn_with_state, routing::get};
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;

    use super::*;

    #[tokio::test]
    async fn unread_responses_are_bounded_for_each_caller() {
        let unsent = Unsent::default();
        let large = || async { vec![0u8; SHARE / 2] };
        let router = Router::new()
            .route("/large", get(large).post(large))
            .route("/small", get(|| async { vec![0u8; SMALL] }))
            .layer(from_fn_with_state(unsent.clone(), bound_unsent));
        let routes = TowerToHyperService::new(router);
        let ask = async |name: &str, role: Role, method: Method, path: &str| {
            let mut caller = Caller::admin(name);
            caller.role = role;
            let mut request = http::Request::builder()
                .method(method)
                .uri(path)
                .body(Body::empty())
                .unwrap();
            request.extensions_mut().insert(Arc::new(caller));
            routes.call(request).await.unwrap()
        };
        let of = async |name: &str| ask(name, Role::Viewer, Method::GET, "/large").await;
        let status = async |name: &str, method: Method, path: &str| {
            ask(name, Role::Viewer, method, path).await.status()
        };

        let (first, second) = (of("a").await, of("a").await);
        for (method, path) in [
            (Method::GET, "/large"),
            (Method::POST, "/large"),
            (Method::GET, "/small"),
        ] {
            assert_eq!(
                status("a", method, path).await,
                StatusCode::TOO_MANY_REQUESTS
            );
        }
        assert_eq!(status("b", Method::GET, "/large").await, StatusCode::OK);
        drop(first);
        // hyper has the bytes, and has not written them.
        let bytes = second.into_body().collect().await.unwrap().to_bytes();
        let again = of("a").await;
        assert_eq!(
            (again.status(), of("a").await.status()),
            (StatusCode::OK, StatusCode::TOO_MANY_REQUESTS)
        );
        drop(bytes);
        // A write gets its response even if that exceeds the share.
        let changed = ask("a", Role::Viewer, Method::POST, "/large").await;
        assert_eq!((changed.status(), unsent.in_use()), (StatusCode::OK, SHARE));
        drop((changed, again));

        let mut held = Vec::new();
        for caller in 0..ALL / SHARE {
            held.extend([of(&caller.to_string()).await, of(&caller.to_string()).await]);
        }
        assert_eq!(
            status("late", Method::GET, "/large").await,
            StatusCode::TOO_MANY_REQUESTS
        );
        for (method, path) in [(Method::GET, "/small"), (Method::POST, "/large")] {
            assert_eq!(status("late", method, path).await, StatusCode::OK);
        }
        assert_eq!(
            ask("root", Role::Admin, Method::GET, "/large")
                .await
                .status(),
            StatusCode::OK
        );
        drop(held);
        assert!(unsent.is_empty());
    }
}
