//! Turns of callers at the one thread that looks at the kernel.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};

use crate::{access::Caller, shares::Shares};

/// Looks of one caller that wait for the thread or are under way; further ones wait for these, and so does nobody else.
const SHARE: usize = 2;

/// Looks of callers, by their names.
pub(super) type Places = Shares<String>;

/// Holds a look back until its caller has a place.
pub(super) async fn take_turns(
    State(places): State<Places>,
    Extension(caller): Extension<Arc<Caller>>,
    request: Request,
    next: Next,
) -> Response {
    let is_look = request.extensions().get::<MatchedPath>().is_some_and(|route| is_look(route.as_str()));
    let _place = if is_look { Some(places.wait(caller.name.clone(), SHARE).await) } else { None };
    next.run(request).await
}

/// Returns true for the routes that ask the thread; one scan for `include=unmanaged` answers all who wait for it.
fn is_look(route: &str) -> bool {
    ["/links", "/addresses", "/routes", "/neighbours", "/ports", "/fdb"].iter().any(|end| route.ends_with(end))
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use axum::{Router, body::Body, http::StatusCode, middleware::from_fn_with_state, routing::get};
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;
    use tokio::{sync::Semaphore, task::JoinSet, time::timeout};

    use super::*;

    #[tokio::test]
    async fn looks_of_one_caller_do_not_hold_up_others() {
        let (begun, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let look = {
            let (begun, gate) = (begun.clone(), gate.clone());
            move || async move {
                begun.fetch_add(1, Ordering::SeqCst);
                let _held = gate.acquire().await;
            }
        };
        let places = Places::default();
        let router = Router::new()
            .route("/v1/namespaces/{name}/routes", get(look))
            .route("/v1/namespaces", get(|| async {}))
            .layer(from_fn_with_state(places.clone(), take_turns));
        let routes = TowerToHyperService::new(router);
        let ask = |name: &str, path: &str| {
            let mut request = http::Request::get(path).body(Body::empty()).unwrap();
            request.extensions_mut().insert(Arc::new(Caller::admin(name)));
            routes.call(request)
        };
        let mut all = JoinSet::new();
        for _ in 0..200 {
            all.spawn(ask("a", "/v1/namespaces/x/routes"));
        }
        all.spawn(ask("b", "/v1/namespaces/x/routes"));
        let counted = async {
            while begun.load(Ordering::SeqCst) < SHARE + 1 {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(60), counted).await.unwrap();
        let list = ask("a", "/v1/namespaces").await.unwrap();
        assert_eq!((list.status(), begun.load(Ordering::SeqCst)), (StatusCode::OK, SHARE + 1));
        gate.add_permits(SHARE);
        assert_eq!((timeout(Duration::from_secs(60), all.join_all()).await.unwrap().len(), places.taken()), (201, 0));
        assert_eq!(begun.load(Ordering::SeqCst), 201);
    }
}
