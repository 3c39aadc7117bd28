//! Limits each caller's concurrent expensive requests: live kernel queries, which one thread
//! carries out, and large bodies.

use std::sync::Arc;

use axum::{
    Extension,
    body::HttpBody,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};

use super::{BODY_LIMIT, about::LINK_COUNTERS, query::Query, routes::RoutePolicy};
use crate::{access::Caller, shares::Shares};

/// Requests of one cost that one caller may have in progress; further ones of it wait, and do not
/// delay other callers.
const SHARE: usize = 2;

/// Scarce resource that an expensive request takes much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Cost {
    /// Time of the thread that queries the kernel. `include=unmanaged` is not among these: one scan
    /// answers all requests that wait for it.
    KernelQuery,
    /// The same, if the query asks for counters of links.
    LinkCounters,
    /// Memory, while its body is read, if that may be larger than [`BODY_LIMIT`].
    LargeBody,
}

/// Requests in progress, by the names of callers.
pub(super) type Places = Shares<(String, Cost)>;

/// Delays an expensive request until its caller has a place.
pub(super) async fn take_turns(
    State(places): State<Places>,
    Extension(caller): Extension<Arc<Caller>>,
    request: Request,
    next: Next,
) -> Response {
    let _place = match cost(&request) {
        Some(cost) => Some(
            places
                .acquire_when_free((caller.name.clone(), cost), SHARE)
                .await,
        ),
        None => None,
    };
    next.run(request).await
}

/// Returns what a request takes much of, if anything.
fn cost(request: &Request) -> Option<Cost> {
    match request.extensions().get::<RoutePolicy>()?.cost? {
        Cost::KernelQuery => Some(Cost::KernelQuery),
        Cost::LinkCounters if asks_for_links(request) => Some(Cost::KernelQuery),
        Cost::LinkCounters => None,
        Cost::LargeBody if has_large_body(request) => Some(Cost::LargeBody),
        Cost::LargeBody => None,
    }
}

fn asks_for_links(request: &Request) -> bool {
    let query = Query::read(request.uri().query());
    query.is_ok_and(|mut query| query.flag(LINK_COUNTERS, false).unwrap_or(false))
}

fn has_large_body(request: &Request) -> bool {
    let size = request.body().size_hint().upper();
    size.is_none_or(|size| size > BODY_LIMIT as u64)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use axum::{
        Router,
        body::Body,
        http::{Method, StatusCode},
        middleware::from_fn_with_state,
        routing::{get, put},
    };
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;
    use tokio::{sync::Semaphore, task::JoinSet, time::timeout};

    use super::*;
    use crate::http::routes;

    #[tokio::test]
    async fn requests_of_one_caller_do_not_hold_up_others() {
        let (begun, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let work = {
            let (begun, gate) = (begun.clone(), gate.clone());
            move || async move {
                begun.fetch_add(1, Ordering::SeqCst);
                let _held = gate.acquire().await;
            }
        };
        let places = Places::default();
        let router = Router::new()
            .route("/v1/namespaces/{name}/routes", get(work.clone()))
            .route("/v1/topology", put(work))
            .route("/v1/namespaces", get(async || ()))
            .layer(from_fn_with_state(places.clone(), take_turns));
        let routes = TowerToHyperService::new(router);
        let ask = |name: &str, path: &str, length: usize| {
            let pattern = path.replace("/x/", "/{name}/");
            let method = if length > 0 { Method::PUT } else { Method::GET };
            let body = Body::from(vec![b' '; length]);
            let mut request = http::Request::builder()
                .method(method.clone())
                .uri(path)
                .body(body)
                .unwrap();
            let extensions = request.extensions_mut();
            extensions.insert(Arc::new(Caller::admin(name)));
            extensions.insert(routes::index().policy(&method, Some(&pattern)));
            routes.call(request)
        };
        let mut all = JoinSet::new();
        for _ in 0..100 {
            all.spawn(ask("a", "/v1/namespaces/x/routes", 0));
            all.spawn(ask("a", "/v1/topology", BODY_LIMIT + 1));
        }
        all.spawn(ask("b", "/v1/namespaces/x/routes", 0));
        all.spawn(ask("a", "/v1/topology", 2));
        let counted = async {
            while begun.load(Ordering::SeqCst) < 2 * SHARE + 2 {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(60), counted).await.unwrap();
        let list = ask("a", "/v1/namespaces", 0).await.unwrap();
        assert_eq!(
            (list.status(), begun.load(Ordering::SeqCst)),
            (StatusCode::OK, 2 * SHARE + 2)
        );
        gate.add_permits(1);
        assert_eq!(
            (
                timeout(Duration::from_secs(60), all.join_all())
                    .await
                    .unwrap()
                    .len(),
                places.in_use()
            ),
            (202, 0)
        );
        assert_eq!(begun.load(Ordering::SeqCst), 202);
    }
}
