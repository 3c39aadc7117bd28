//! A typed client of netnsd's HTTP API, over its Unix socket.
//!
//! One client holds one connection, opened when it is first needed, and again after the daemon was
//! away or nothing was asked for some seconds.

#![forbid(unsafe_code)]

pub mod tls;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

pub use self::tls::Tls;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
pub use netnsd_api::shell_word;
use netnsd_api::{
    About, Exec, ExecResult, Items, Link, LinkAddress, LiveNeighbour, LiveRoute, Name, Page, Ping,
    PingResult, Problem, Process, Ready, Resource, Stored,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::Mutex,
};
pub use tokio_tungstenite::{WebSocketStream, tungstenite};
use tokio_tungstenite::{client_async, tungstenite::client::IntoClientRequest};

/// Why a request has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The daemon refused.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// The daemon does not answer.
    #[error("cannot reach netnsd at {place}: {reason}")]
    Unreachable {
        /// Where it was looked for.
        place: String,
        /// Why.
        reason: String,
        /// Why the socket could not be opened; none if the connection broke later.
        kind: Option<std::io::ErrorKind>,
    },
    /// The answer is not what it should be.
    #[error("netnsd answered something unexpected ({status}): {reason}")]
    Unexpected {
        /// The answer's status.
        status: StatusCode,
        /// What is wrong with it.
        reason: String,
    },
}

/// An answer as it came.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// How long a connection is kept unused. The daemon closes it after 30 seconds; what is sent at
/// that very moment is lost.
const KEPT: Duration = Duration::from_secs(10);

/// Where a daemon serves.
#[derive(Debug, Clone)]
pub enum Place {
    /// Behind a Unix socket.
    Unix(PathBuf),
    /// On a TCP port, as `HOST:PORT`, for who shows this token.
    Tcp {
        /// `HOST:PORT`.
        address: String,
        /// The bearer token; without one the daemon refuses.
        token: Option<String>,
        /// What it is spoken to by TLS with; without it in the clear.
        tls: Option<Tls>,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Unix(path) => write!(f, "{}", path.display()),
            Place::Tcp {
                address, tls: None, ..
            } => write!(f, "http://{address}"),
            Place::Tcp {
                address,
                tls: Some(_),
                ..
            } => write!(f, "https://{address}"),
        }
    }
}

/// A connection's bytes.
pub trait Bytewise: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytewise for T {}

/// A connection, of whichever sort.
pub type Stream = Box<dyn Bytewise>;

/// The client; clones share its connection.
#[derive(Clone)]
pub struct Client {
    place: Place,
    connection: Arc<Mutex<Option<Kept>>>,
}

/// A connection, and when it was last used.
struct Kept {
    sender: SendRequest<Full<Bytes>>,
    used: Instant,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("place", &self.place.to_string())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the daemon behind this Unix socket.
    pub fn unix(socket: impl AsRef<Path>) -> Self {
        Self::at(Place::Unix(socket.as_ref().to_owned()))
    }

    /// A client of the daemon that serves there.
    pub fn at(place: Place) -> Self {
        Self {
            place,
            connection: Arc::default(),
        }
    }

    fn unreachable(&self, reason: impl fmt::Display) -> Error {
        Error::Unreachable {
            place: self.place.to_string(),
            reason: reason.to_string(),
            kind: None,
        }
    }

    async fn open(&self) -> Result<Stream, Error> {
        let opened: std::io::Result<Stream> = match &self.place {
            Place::Unix(path) => UnixStream::connect(path)
                .await
                .map(|stream| Box::new(stream) as Stream),
            Place::Tcp { address, tls, .. } => match (TcpStream::connect(address).await, tls) {
                (Err(error), _) => Err(error),
                (Ok(stream), tls) => {
                    let _latency_only = stream.set_nodelay(true);
                    match tls {
                        None => Ok(Box::new(stream)),
                        Some(tls) => tls.connect(address, stream).await,
                    }
                }
            },
        };
        opened.map_err(|error| Error::Unreachable {
            place: self.place.to_string(),
            reason: error.to_string(),
            kind: Some(error.kind()),
        })
    }

    /// The headers that the place asks for: `Host`, and the token.
    fn own_headers(&self) -> Vec<(HeaderName, String)> {
        match &self.place {
            Place::Unix(_) => vec![(header::HOST, "netnsd".into())],
            Place::Tcp { address, token, .. } => {
                let token = token
                    .iter()
                    .map(|token| (header::AUTHORIZATION, format!("Bearer {token}")));
                std::iter::once((header::HOST, address.clone()))
                    .chain(token)
                    .collect()
            }
        }
    }

    fn build(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Error> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in self.own_headers() {
            request = request.header(name, value);
        }
        for (name, value) in headers {
            if let (Ok(name), Ok(value)) =
                (HeaderName::try_from(*name), HeaderValue::try_from(*value))
            {
                request = request.header(name, value);
            }
        }
        request
            .body(Full::new(body))
            .map_err(|error| self.unreachable(error))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Error> {
        let stream = self.open().await?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.unreachable(error))?;
        // It ends with its sender, or with the daemon; requests then say so.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    /// Sends any request and gives the answer as it came, errors of the API included.
    ///
    /// # Errors
    /// When the daemon cannot be reached.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer, Error> {
        let body = body.into();
        let mut slot = self.connection.lock().await;
        let kept = match slot.take() {
            Some(mut kept) if kept.used.elapsed() < KEPT => {
                kept.sender.ready().await.is_ok().then_some(kept.sender)
            }
            _ => None,
        };
        let was_kept = kept.is_some();
        let mut sender = match kept {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let build = || self.build(method.clone(), path, headers, body.clone());
        let response = match sender.try_send_request(build()?).await {
            Ok(response) => response,
            Err(mut error) => {
                // A kept connection may have died meanwhile. What was not sent, or does no harm
                // twice, is sent again.
                let unsent = error.take_message().is_some();
                if !was_kept || !(unsent || method.is_idempotent()) {
                    return Err(self.unreachable(error.into_error()));
                }
                sender = self.connect().await?;
                sender
                    .send_request(build()?)
                    .await
                    .map_err(|error| self.unreachable(error))?
            }
        };
        let (parts, body) = response.into_parts();
        let body = body
            .collect()
            .await
            .map_err(|error| self.unreachable(error))?
            .to_bytes();
        *slot = Some(Kept {
            sender,
            used: Instant::now(),
        });
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        })
    }

    /// Sends a request, on a connection of its own, and gives each line of the answer as it comes,
    /// until `line` says that it has enough. The answer has no body then, unless it is an error.
    ///
    /// # Errors
    /// When the daemon cannot be reached, or breaks off.
    pub async fn follow(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
        mut line: impl FnMut(&str) -> bool,
    ) -> Result<Answer, Error> {
        let mut sender = self.connect().await?;
        let request = self.build(method, path, headers, body.into())?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| self.unreachable(error))?;
        let (parts, mut body) = response.into_parts();
        let mut rest = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.unreachable(error))?;
            rest.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            while let Some(end) = rest
                .iter()
                .position(|byte| *byte == b'\n')
                .filter(|_| parts.status.is_success())
            {
                let whole: Vec<u8> = rest.drain(..=end).collect();
                if !line(String::from_utf8_lossy(&whole).trim_end_matches(['\r', '\n'])) {
                    return Ok(Answer {
                        status: parts.status,
                        headers: parts.headers,
                        body: Bytes::new(),
                    });
                }
            }
        }
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body: rest.into(),
        })
    }

    /// Opens a WebSocket, on a connection of its own; such as
    /// `/v1/namespaces/net0/exec?argv=sh&tty=true`.
    ///
    /// # Errors
    /// When the daemon cannot be reached, or refuses.
    pub async fn websocket(&self, path: &str) -> Result<WebSocketStream<Stream>, Error> {
        let stream = self.open().await?;
        let url = format!("ws://netnsd{path}");
        let mut request = url
            .into_client_request()
            .map_err(|error| self.unreachable(error))?;
        for (name, value) in self.own_headers() {
            let value = HeaderValue::try_from(value).map_err(|error| self.unreachable(error))?;
            request.headers_mut().insert(name, value);
        }
        match client_async(request, stream).await {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::Error::Http(response)) => {
                let body = response.body().as_deref().unwrap_or_default();
                Err(match serde_json::from_slice(body) {
                    Ok(problem) => Error::Problem(problem),
                    Err(error) => Error::Unexpected {
                        status: response.status(),
                        reason: error.to_string(),
                    },
                })
            }
            Err(error) => Err(self.unreachable(error)),
        }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Error> {
        let unexpected = |status, error: serde_json::Error| Error::Unexpected {
            status,
            reason: error.to_string(),
        };
        let answer = match body {
            Some(body) => {
                let body =
                    serde_json::to_vec(body).map_err(|error| unexpected(StatusCode::OK, error))?;
                self.request(method, path, &[("content-type", "application/json")], body)
                    .await?
            }
            None => self.request(method, path, &[], Bytes::new()).await?,
        };
        if !answer.status.is_success() {
            let problem = serde_json::from_slice(&answer.body)
                .map_err(|error| unexpected(answer.status, error))?;
            return Err(Error::Problem(problem));
        }
        let body: &[u8] = if answer.body.is_empty() {
            b"null"
        } else {
            &answer.body
        };
        serde_json::from_slice(body).map_err(|error| unexpected(answer.status, error))
    }

    async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.call(Method::GET, path, None::<&()>).await
    }

    /// About the daemon.
    ///
    /// # Errors
    /// See [`Error`]; so for every method here.
    pub async fn about(&self) -> Result<About, Error> {
        self.read("/v1").await
    }

    /// Whether everything recorded has been tried.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ready(&self) -> Result<Ready, Error> {
        let answer = self
            .request(Method::GET, "/v1/ready", &[], Bytes::new())
            .await?;
        serde_json::from_slice(&answer.body).map_err(|error| Error::Unexpected {
            status: answer.status,
            reason: error.to_string(),
        })
    }

    /// One page of a list; `query` is what follows the `?`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list<R: Resource>(&self, query: &str) -> Result<Page<Stored<R>>, Error> {
        self.read(&format!("/v1/{}?{query}", R::KIND.plural()))
            .await
    }

    /// One resource.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get<R: Resource>(&self, name: &Name) -> Result<Stored<R>, Error> {
        self.read(&format!("/v1/{}/{name}", R::KIND.plural())).await
    }

    /// Creates a resource, which must not exist.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create<R: Resource>(&self, resource: &R) -> Result<Stored<R>, Error> {
        self.call(
            Method::POST,
            &format!("/v1/{}", R::KIND.plural()),
            Some(resource),
        )
        .await
    }

    /// Creates or replaces a resource.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn put<R: Resource>(&self, resource: &R) -> Result<Stored<R>, Error> {
        self.call(
            Method::PUT,
            &format!("/v1/{}/{}", R::KIND.plural(), resource.name()),
            Some(resource),
        )
        .await
    }

    /// Merges a patch into a resource (RFC 7396).
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn patch<R: Resource>(&self, name: &Name, patch: &Value) -> Result<Stored<R>, Error> {
        self.call(
            Method::PATCH,
            &format!("/v1/{}/{name}", R::KIND.plural()),
            Some(patch),
        )
        .await
    }

    /// Deletes a resource; with `cascade` also what depends on it (a bridge lets its ports go).
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete<R: Resource>(&self, name: &Name, cascade: bool) -> Result<(), Error> {
        self.call(
            Method::DELETE,
            &format!("/v1/{}/{name}?cascade={cascade}", R::KIND.plural()),
            None::<&()>,
        )
        .await
    }

    /// Looks at something live; `path` is what follows `/v1/`, such as `namespaces/net0/links`.
    async fn look<T: DeserializeOwned>(
        &self,
        namespace: Option<&Name>,
        what: &str,
    ) -> Result<Vec<T>, Error> {
        let path = match namespace {
            Some(name) => format!("/v1/namespaces/{name}/{what}"),
            None => format!("/v1/host/{what}"),
        };
        Ok(self.read::<Items<T>>(&path).await?.items)
    }

    /// The links of a namespace; none is the host.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn links(&self, namespace: Option<&Name>) -> Result<Vec<Link>, Error> {
        self.look(namespace, "links").await
    }

    /// The addresses in a namespace; none is the host.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn addresses(&self, namespace: Option<&Name>) -> Result<Vec<LinkAddress>, Error> {
        self.look(namespace, "addresses").await
    }

    /// The routes of a namespace; none is the host.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn routes(&self, namespace: Option<&Name>) -> Result<Vec<LiveRoute>, Error> {
        self.look(namespace, "routes").await
    }

    /// The neighbours of a namespace; none is the host.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn neighbours(&self, namespace: Option<&Name>) -> Result<Vec<LiveNeighbour>, Error> {
        self.look(namespace, "neighbours").await
    }

    /// The processes of a namespace.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn processes(&self, namespace: &Name) -> Result<Vec<Process>, Error> {
        self.look(Some(namespace), "processes").await
    }

    /// Runs a command in a namespace.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn exec(&self, namespace: &Name, exec: &Exec) -> Result<ExecResult, Error> {
        self.call(
            Method::POST,
            &format!("/v1/namespaces/{namespace}/exec"),
            Some(exec),
        )
        .await
    }

    /// Pings from a namespace.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ping(&self, namespace: &Name, ping: &Ping) -> Result<PingResult, Error> {
        self.call(
            Method::POST,
            &format!("/v1/namespaces/{namespace}/ping"),
            Some(ping),
        )
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_that_was_long_unused_is_not_trusted() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        // Answers each request with the number of its connection.
        tokio::spawn(async move {
            for number in 1.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut head = [0; 1024];
                    while stream.read(&mut head).await.is_ok_and(|size| size > 0) {
                        let answer =
                            format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}");
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        let client = Client::unix(&socket);
        let ask = async || {
            client
                .request(Method::GET, "/", &[], Bytes::new())
                .await
                .unwrap()
                .body
        };
        assert_eq!((ask().await, ask().await), ("1".into(), "1".into()));
        client.connection.lock().await.as_mut().unwrap().used -= KEPT;
        assert_eq!(ask().await, "2");
    }
}
