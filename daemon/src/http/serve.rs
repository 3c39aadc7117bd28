//! Connections: HTTP/1.1 over a Unix socket or TCP, bounded, and ended in order.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    http::{HeaderName, HeaderValue, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    serve::{Listener, ListenerExt},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use netnsd_api::Code;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{Semaphore, watch},
};

use super::problem::Failure;

/// Connections at once; more wait to be accepted.
const CONNECTIONS: usize = 10_000;
/// How long a client may take to send a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long running requests may take once the daemon stops.
const GRACE: Duration = Duration::from_secs(30);

/// Serves a Unix socket until `stop` turns true, then ends in order: no new requests, the running ones answered.
pub async fn serve_unix(listener: UnixListener, router: Router, stop: watch::Receiver<bool>) {
    serve(listener, router, stop).await;
}

/// Serves a TCP address in the same way; every request carries the token.
pub async fn serve_tcp(listener: TcpListener, router: Router, token: Arc<str>, stop: watch::Receiver<bool>) {
    let router = router.layer(middleware::from_fn(move |request: Request, next: Next| {
        let token = token.clone();
        async move {
            match check_tcp(&request, &token) {
                Ok(()) => next.run(request).await,
                Err(failure) => refuse(failure),
            }
        }
    }));
    let quick = |stream: &mut tokio::net::TcpStream| {
        let _latency_only = stream.set_nodelay(true);
    };
    serve(listener.tap_io(quick), router, stop).await;
}

/// Accepts; where that fails (out of descriptors, most likely), axum's listeners wait before they try again.
async fn serve<L: Listener>(mut listener: L, router: Router, mut stop: watch::Receiver<bool>) {
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = async {
            let place = room.clone().acquire_owned().await;
            (listener.accept().await.0, place)
        };
        let (stream, place) = tokio::select! {
            accepted = accepted => accepted,
            () = stopped(&mut stop) => break,
        };
        handle(stream, router.clone(), &graceful, place);
    }
    drop(listener);
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests were still running after {GRACE:?}");
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Nobody who could ask for more service is left, either.
    let _closed = stop.wait_for(|stop| *stop).await;
}

fn handle<S, P>(stream: S, router: Router, graceful: &GracefulShutdown, place: P)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    P: Send + 'static,
{
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let service = TowerToHyperService::new(router);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended");
        }
        drop(place);
    });
}

fn refuse(failure: Failure) -> Response {
    let unauthenticated = failure.0.code == Code::Unauthenticated;
    let mut response = failure.into_response();
    if unauthenticated {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// The token, and that no web page of elsewhere is behind the request.
fn check_tcp(request: &Request, token: &str) -> Result<(), Failure> {
    let text = |name: HeaderName| request.headers().get(name).map(|value| value.to_str().unwrap_or("\u{fffd}"));
    let host = text(header::HOST).or_else(|| request.uri().host()).unwrap_or_default();
    if !is_loopback(host) {
        let detail = format!("Host {host:?} is not a loopback name: use localhost or 127.0.0.1");
        return Err(Failure::new(Code::Forbidden, detail));
    }
    let origin = text(header::ORIGIN);
    if let Some(origin) = origin.filter(|origin| !origin.split_once("://").is_some_and(|(_, place)| is_loopback(place)))
    {
        return Err(Failure::new(Code::Forbidden, format!("Origin {origin:?} is from elsewhere")));
    }
    let given = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    if !same(given.trim().as_bytes(), token.as_bytes()) {
        return Err(Failure::new(Code::Unauthenticated, "send the token of --token-file: Authorization: Bearer TOKEN"));
    }
    Ok(())
}

/// Compares in a time that does not tell where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

fn is_loopback(place: &str) -> bool {
    let host = match place.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => place.split(':').next().unwrap_or_default(),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn checked(headers: &[(&str, &str)]) -> Result<(), Code> {
        let mut request = axum::http::Request::builder().uri("/v1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        check_tcp(&request.body(Body::empty()).unwrap(), "secret").map_err(|failure| failure.0.code)
    }

    #[test]
    fn tcp_needs_the_token_and_a_loopback_name() {
        let token = ("authorization", "Bearer secret");
        for host in ["localhost:80", "127.0.0.1", "[::1]:99"] {
            assert_eq!(checked(&[("host", host), token]), Ok(()));
        }
        assert_eq!(checked(&[("host", "evil.example"), token]), Err(Code::Forbidden));
        assert_eq!(checked(&[("host", "localhost"), ("origin", "http://evil.example"), token]), Err(Code::Forbidden));
        assert_eq!(checked(&[("host", "localhost"), ("origin", "http://localhost:3000"), token]), Ok(()));
        assert_eq!(checked(&[("host", "localhost")]), Err(Code::Unauthenticated));
        assert_eq!(checked(&[("host", "localhost"), ("authorization", "Bearer secre")]), Err(Code::Unauthenticated));
    }
}
