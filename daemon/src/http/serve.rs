//! Serves HTTP/1.1 on a Unix socket or TCP, with a bounded number of connections and an orderly
//! end.

use std::{
    net::IpAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    http::Uri,
    serve::{Listener, ListenerExt},
};
use hyper::{
    body::Incoming,
    server::conn::http1::Builder,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{Semaphore, watch},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    half_close::{Exchange, HalfClosable, IsGone, tcp_client_is_gone, unix_client_is_gone},
    head_errors::HeadErrors,
    tls::Tls,
    write_timeout::WriteTimeout,
};
use crate::{
    access::{SocketPeer, network_of, peer_of},
    shares::{LimitReached, Shares, Slot},
};

/// Connections to a socket; further ones wait to be accepted.
const MAX_CONNECTIONS: u32 = 12_000;
/// Connections of one user or network; further ones are closed at once. Root has no such limit.
const MAX_OF_SOURCE: usize = 1_000;
/// Connections to a socket that are reserved for root.
const ROOT_RESERVE: usize = 1_000;
/// Time from the accept, or from the previous response, to the end of a request's head; a TLS
/// handshake is included.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for requests in progress to end once the daemon stops.
const GRACE: Duration = Duration::from_secs(30);

/// Serves a Unix socket until `stop` turns true. Then it takes no new requests, and answers those
/// in progress.
pub async fn serve_unix(listener: UnixListener, router: Router, stop: watch::Receiver<bool>) {
    let shares = Shares::default();
    serve(listener, stop, move |stream: UnixStream, _, life| {
        let (peer, router) = (peer_of(&stream), router.clone());
        let uid = if let SocketPeer::Unix(Some(identity)) = &peer {
            Some(identity.uid.as_raw())
        } else {
            None
        };
        let place = take_place(&shares, Source::User(uid));
        async move {
            match place {
                Err(full) => tracing::debug!(uid, ?full, "too many connections"),
                Ok(_place) => {
                    serve_connection(stream, unix_client_is_gone, router, peer, life).await
                }
            }
        }
    })
    .await;
}

/// Serves a TCP address like [`serve_unix`], with TLS if that is given.
pub async fn serve_tcp(
    listener: TcpListener,
    router: Router,
    tls: Option<Arc<Tls>>,
    stop: watch::Receiver<bool>,
) {
    let to_loopback = listener
        .local_addr()
        .is_ok_and(|address| address.ip().is_loopback());
    let set_nodelay = |stream: &mut TcpStream| {
        let _ = stream.set_nodelay(true); // only latency suffers
    };
    let shares = Shares::default();
    serve(
        listener.tap_io(set_nodelay),
        stop,
        move |stream, address, mut life| {
            let (router, tls) = (router.clone(), tls.clone());
            let place = take_place(&shares, Source::of(address.ip()));
            async move {
                let _place = match place {
                    Ok(place) => place,
                    Err(full) => return tracing::debug!(%address, ?full, "too many connections"),
                };
                let peer = |certificate| SocketPeer::Tcp {
                    address,
                    to_loopback,
                    certificate,
                };
                let Some(tls) = tls else {
                    return serve_connection(
                        stream,
                        tcp_client_is_gone,
                        router,
                        peer(Vec::new()),
                        life,
                    )
                    .await;
                };
                let accepted = tokio::select! {
                    accepted = tls.accept(stream) => accepted,
                    () = stopped(&mut life.stop) => return,
                };
                match accepted {
                    Ok((stream, certificate)) => {
                        serve_connection(
                            stream,
                            tcp_client_is_gone,
                            router,
                            peer(certificate),
                            life,
                        )
                        .await
                    }
                    Err(error) => tracing::debug!(%error, %address, "TLS handshake failed"),
                }
            }
        },
    )
    .await;
}

/// Source of connections, whose number is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    /// A user on a Unix socket; `None` if the kernel does not report it.
    User(Option<u32>),
    /// First address of a network, see [`network_of`].
    Address(IpAddr),
}

impl Source {
    /// Returns the source of an address.
    fn of(address: IpAddr) -> Self {
        Source::Address(network_of(address))
    }
}

/// Counts one more connection to a socket, while the returned place lives; `None` for root, whose
/// connections are not counted.
fn take_place(
    shares: &Shares<Source>,
    source: Source,
) -> Result<Option<Slot<Source>>, LimitReached> {
    let most = match source {
        Source::User(Some(0)) => return Ok(None),
        Source::User(_) => MAX_CONNECTIONS as usize - ROOT_RESERVE,
        Source::Address(_) => usize::MAX,
    };
    shares.acquire(source, MAX_OF_SOURCE, most).map(Some)
}

/// Limits on the lifetime of a connection.
struct Life {
    stop: watch::Receiver<bool>,
    /// Deadline of the first complete head.
    first_head_by: Instant,
}

/// Accepts connections. If `accept` fails, most likely for want of file descriptors, axum's
/// listeners wait before they retry.
async fn serve<L, C>(
    mut listener: L,
    mut stop: watch::Receiver<bool>,
    connect: impl Fn(L::Io, L::Addr, Life) -> C,
) where
    L: Listener,
    C: Future<Output = ()> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS as usize));
    loop {
        let accepted = async {
            let place = room.clone().acquire_owned().await;
            (listener.accept().await, place)
        };
        let ((stream, address), place) = tokio::select! {
            accepted = accepted => accepted,
            () = stopped(&mut stop) => break,
        };
        let life = Life {
            stop: stop.clone(),
            first_head_by: Instant::now() + HEADER_TIMEOUT,
        };
        let connection = connect(stream, address, life);
        let mut stop = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = connection => (),
                // Each connection has a clone of the router, and the engine ends with the last.
                () = async { stopped(&mut stop).await; tokio::time::sleep(GRACE).await } => {
                    tracing::warn!(grace = ?GRACE, "closing a connection with a request in progress");
                }
            }
            drop(place);
        });
    }
    drop(listener);
    // Each connection ends within GRACE.
    let _ = room.acquire_many(MAX_CONNECTIONS).await;
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, so the daemon ends.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Serves one connection to its end.
async fn serve_connection<S>(
    mut stream: S,
    is_gone: IsGone<S>,
    router: Router,
    peer: SocketPeer,
    mut life: Life,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // hyper's connection takes 8 KB of memory: only once the client has sent something.
    let mut first = [0];
    let read = tokio::select! {
        read = timeout_at(life.first_head_by, stream.read(&mut first)) => read,
        () = stopped(&mut life.stop) => return,
    };
    if !matches!(read, Ok(Ok(1))) {
        return;
    }
    let routes = TowerToHyperService::new(router);
    let (exchange, has_head) = (Exchange::default(), Arc::new(AtomicBool::new(false)));
    let stream = HalfClosable::new(first[0], stream, exchange.clone(), is_gone);
    let stream = WriteTimeout::new(HeadErrors::new(stream, exchange.clone()));
    let service = {
        let has_head = has_head.clone();
        service_fn(move |mut request: http::Request<Incoming>| {
            has_head.store(true, Ordering::Release);
            request.extensions_mut().insert(peer.clone());
            if let Some(uri) = without_trailing_slash(request.uri()) {
                *request.uri_mut() = uri;
            }
            let (answering, exchange) = (routes.call(exchange.begin(request)), exchange.clone());
            async move { answering.await.map(|response| exchange.end_with(response)) }
        })
    };
    let mut builder = Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
    let mut connection = pin!(
        builder
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut life.stop) => {
            if !has_head.load(Ordering::Acquire) {
                return;
            }
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = async {
            sleep_until(life.first_head_by).await;
            if has_head.load(Ordering::Acquire) {
                std::future::pending().await
            }
        } => return tracing::debug!("no request head within {HEADER_TIMEOUT:?}"),
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection failed");
    }
}

/// Returns the URI without the trailing slash of its path; `None` if it has none.
fn without_trailing_slash(uri: &Uri) -> Option<Uri> {
    let path = uri
        .path()
        .strip_suffix('/')
        .filter(|path| !path.is_empty())?;
    let query = uri
        .query()
        .map_or_else(String::new, |query| format!("?{query}"));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(format!("{path}{query}").parse().ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_slash_is_ignored() {
        let short =
            |uri: &str| without_trailing_slash(&uri.parse().unwrap()).map(|uri| uri.to_string());
        assert_eq!(short("/v1/namespaces/").as_deref(), Some("/v1/namespaces"));
        assert_eq!(
            short("/v1/namespaces/?limit=1").as_deref(),
            Some("/v1/namespaces?limit=1")
        );
        assert_eq!(
            short("http://netnsd/v1/").as_deref(),
            Some("http://netnsd/v1")
        );
        assert_eq!(
            (short("/"), short("/v1"), short("/v1?a=/")),
            (None, None, None)
        );
    }

    #[test]
    fn sources_are_limited_and_root_has_a_reserve() {
        let shares = Shares::default();
        let from = |from: &str| take_place(&shares, Source::of(from.parse().unwrap()));
        for (one, same, other) in [
            ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
            ("2001:db8::1", "2001:db8::ffff", "2001:db8:0:1::1"),
            ("127.0.0.1", "127.9.9.9", "::1"),
        ] {
            let mut places: Vec<_> = (0..MAX_OF_SOURCE).map(|_| from(one).unwrap()).collect();
            assert!(
                from(one).is_err() && from(same).is_err() && from(other).is_ok(),
                "{one}"
            );
            places.pop();
            assert!(from(same).is_ok(), "{one}");
        }
        assert!(shares.is_empty());
        let user = |uid| take_place(&shares, Source::User(Some(uid)));
        let users = MAX_CONNECTIONS - ROOT_RESERVE as u32;
        let _places: Vec<_> = (0..users)
            .map(|i| user(1 + i / MAX_OF_SOURCE as u32).unwrap())
            .collect();
        assert!(user(9999).is_err() && user(0).is_ok());
    }
}
