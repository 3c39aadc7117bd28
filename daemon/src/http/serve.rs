//! Connections: HTTP/1.1 over a Unix socket or TCP, bounded, and ended in order.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    http::Uri,
    serve::{Listener, ListenerExt},
};
use hyper::{
    body::Incoming,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto::Builder,
        graceful::{GracefulShutdown, Watcher},
    },
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{Semaphore, watch},
};

use super::{
    half_close::{Exchange, HalfClosable, IsGone, tcp_client_is_gone, unix_client_is_gone},
    tls::Tls,
};
use crate::access::{Peer, peer_of};

/// Connections at once; more wait to be accepted.
const CONNECTIONS: usize = 12_000;
/// Of them those of one address, over TCP; one more is closed at once.
const OF_ONE: usize = 1_000;
/// How long a client may take to send a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long running requests may take once the daemon stops.
const GRACE: Duration = Duration::from_secs(30);

/// Serves a Unix socket until `stop` turns true, then ends in order: no new requests, the running ones answered.
pub async fn serve_unix(listener: UnixListener, router: Router, stop: watch::Receiver<bool>) {
    serve(listener, stop, move |stream: UnixStream, _, watcher| {
        let peer = peer_of(&stream);
        carry(stream, unix_client_is_gone, router.clone(), peer, watcher)
    })
    .await;
}

/// Serves a TCP address in the same way, with TLS if that is given.
pub async fn serve_tcp(listener: TcpListener, router: Router, tls: Option<Arc<Tls>>, stop: watch::Receiver<bool>) {
    let to_loopback = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let quick = |stream: &mut TcpStream| {
        let _latency_only = stream.set_nodelay(true);
    };
    let addresses = Addresses::default();
    serve(listener.tap_io(quick), stop, move |stream, address, watcher| {
        let (router, tls) = (router.clone(), tls.clone());
        let place = addresses.clone().enter(address.ip());
        async move {
            let Some(_place) = place else { return tracing::debug!(%address, "too many connections") };
            let peer = |certificate| Peer::Tcp { address, to_loopback, certificate };
            match tls {
                None => carry(stream, tcp_client_is_gone, router, peer(Vec::new()), watcher).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok((stream, certificate)) => {
                        carry(stream, tcp_client_is_gone, router, peer(certificate), watcher).await
                    }
                    Err(error) => tracing::debug!(%error, %address, "a handshake failed"),
                },
            }
        }
    })
    .await;
}

/// How many connections each address has.
#[derive(Debug, Default, Clone)]
struct Addresses {
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A connection's place among those of its address, until it is dropped.
#[derive(Debug)]
struct Place {
    addresses: Addresses,
    of: IpAddr,
}

impl Addresses {
    /// A place for one more, if there is one. Of IPv6 a whole /64 counts as one: it is nobody's in part (RFC 4291, section 2.5.4).
    fn enter(self, from: IpAddr) -> Option<Place> {
        let of = match from.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
            v4 => v4,
        };
        {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            let count = counts.entry(of).or_default();
            if *count >= OF_ONE {
                return None;
            }
            *count += 1;
        }
        Some(Place { addresses: self, of })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.addresses.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.of);
            }
        }
    }
}

/// Accepts; where that fails (out of descriptors, most likely), axum's listeners wait before they try again.
async fn serve<L, C>(mut listener: L, mut stop: watch::Receiver<bool>, connect: impl Fn(L::Io, L::Addr, Watcher) -> C)
where
    L: Listener,
    C: Future<Output = ()> + Send + 'static,
{
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = async {
            let place = room.clone().acquire_owned().await;
            (listener.accept().await, place)
        };
        let ((stream, address), place) = tokio::select! {
            accepted = accepted => accepted,
            () = stopped(&mut stop) => break,
        };
        let connection = connect(stream, address, graceful.watcher());
        tokio::spawn(async move {
            connection.await;
            drop(place);
        });
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

/// Carries one connection to its end.
async fn carry<S>(stream: S, is_gone: IsGone<S>, router: Router, peer: Peer, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // Not HTTP/1's own: that one takes 8 KB before a client has said a word.
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let routes = TowerToHyperService::new(router);
    let exchange = Exchange::default();
    let stream = HalfClosable::new(stream, exchange.clone(), is_gone);
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        if let Some(uri) = without_trailing_slash(request.uri()) {
            *request.uri_mut() = uri;
        }
        let (answering, exchange) = (routes.call(exchange.begin(request)), exchange.clone());
        async move { answering.await.map(|response| exchange.end_with(response)) }
    });
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a connection ended");
    }
}

/// Returns the URI without the slash at its path's end, if it has one.
fn without_trailing_slash(uri: &Uri) -> Option<Uri> {
    let path = uri.path().strip_suffix('/').filter(|path| !path.is_empty())?;
    let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(format!("{path}{query}").parse().ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_slash_is_ignored() {
        let short = |uri: &str| without_trailing_slash(&uri.parse().unwrap()).map(|uri| uri.to_string());
        assert_eq!(short("/v1/namespaces/").as_deref(), Some("/v1/namespaces"));
        assert_eq!(short("/v1/namespaces/?limit=1").as_deref(), Some("/v1/namespaces?limit=1"));
        assert_eq!(short("http://netnsd/v1/").as_deref(), Some("http://netnsd/v1"));
        assert_eq!((short("/"), short("/v1"), short("/v1?a=/")), (None, None, None));
    }

    #[test]
    fn an_address_has_so_many_connections_and_no_more() {
        let addresses = Addresses::default();
        let enter = |from: &str| addresses.clone().enter(from.parse().unwrap());
        let mut places: Vec<_> = (0..OF_ONE).map(|_| enter("192.0.2.1").unwrap()).collect();
        assert!(enter("192.0.2.1").is_none() && enter("::ffff:192.0.2.1").is_none());
        assert!(enter("192.0.2.2").is_some());
        places.pop();
        assert!(enter("192.0.2.1").is_some());
        places = (0..OF_ONE).map(|i| enter(&format!("2001:db8::{i:x}")).unwrap()).collect();
        assert!(enter("2001:db8::ffff").is_none() && enter("2001:db8:0:1::1").is_some());
        drop(places);
        assert!(addresses.counts.lock().unwrap().is_empty());
    }
}
