//! A typed client of netnsd's HTTP API, over its Unix socket or TCP.
//!
//! A client keeps one connection, which is opened for the first request, and again after the daemon
//! closed it or some seconds without a request.

#![forbid(unsafe_code)]

mod drawing;
pub mod tls;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

pub use self::{drawing::draw_graph, tls::Tls};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
pub use netnsd_api::shell_word;
use netnsd_api::{
    About, Exec, ExecResult, Graph, Items, LinkAddress, LiveLink, LiveNeighbour, LiveRoute,
    LiveRule, Name, Page, Ping, PingResult, Problem, Process, Ready, Resource, Stored,
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

/// Errors of requests.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The daemon answered with a problem.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// The daemon cannot be reached.
    #[error("cannot reach netnsd at {server}: {reason}")]
    Unreachable {
        /// The address of the daemon.
        server: String,
        /// The reason.
        reason: String,
        /// The error of the connection attempt; `None` if the connection broke later.
        kind: Option<std::io::ErrorKind>,
    },
    /// The answer cannot be understood.
    #[error("unexpected answer from netnsd ({status}): {reason}")]
    Unexpected {
        /// The answer's status.
        status: StatusCode,
        /// The reason.
        reason: String,
    },
}

/// An answer, unparsed.
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
    /// Returns the body as JSON; null if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// Returns a header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Time after which an idle connection is not used again.
///
/// The daemon closes it after 30 seconds, and a request sent at that moment would be lost.
const MAX_IDLE: Duration = Duration::from_secs(10);

/// The address of a daemon, and the credentials for it.
#[derive(Debug, Clone)]
pub enum Server {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP port.
    Tcp {
        /// `HOST:PORT`.
        address: String,
        /// The bearer token.
        token: Option<String>,
        /// The TLS configuration; without one the connection is not encrypted.
        tls: Option<Tls>,
    },
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Server::Unix(path) => write!(f, "{}", path.display()),
            Server::Tcp {
                address, tls: None, ..
            } => write!(f, "http://{address}"),
            Server::Tcp {
                address,
                tls: Some(_),
                ..
            } => write!(f, "https://{address}"),
        }
    }
}

/// A connection's byte stream.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A connection of any transport.
pub type Stream = Box<dyn ByteStream>;

/// The client; clones share its connection.
#[derive(Clone)]
pub struct Client {
    server: Server,
    connection: Arc<Mutex<Option<IdleConnection>>>,
}

/// A connection without a request in progress.
struct IdleConnection {
    sender: SendRequest<Full<Bytes>>,
    since: Instant,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("server", &self.server.to_string())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Returns a client of the daemon at a Unix socket.
    pub fn unix(socket: impl AsRef<Path>) -> Self {
        Self::new(Server::Unix(socket.as_ref().to_owned()))
    }

    /// Returns a client of the daemon at an address.
    pub fn new(server: Server) -> Self {
        Self {
            server,
            connection: Arc::default(),
        }
    }

    /// Returns the error for a connection that broke.
    fn unreachable(&self, reason: impl fmt::Display) -> Error {
        Error::Unreachable {
            server: self.server.to_string(),
            reason: reason.to_string(),
            kind: None,
        }
    }

    /// Opens a connection.
    async fn open_stream(&self) -> Result<Stream, Error> {
        let opened: std::io::Result<Stream> = match &self.server {
            Server::Unix(path) => UnixStream::connect(path)
                .await
                .map(|stream| Box::new(stream) as Stream),
            Server::Tcp { address, tls, .. } => match (TcpStream::connect(address).await, tls) {
                (Err(error), _) => Err(error),
                (Ok(stream), tls) => {
                    let _ = stream.set_nodelay(true); // It only improves latency.
                    match tls {
                        None => Ok(Box::new(stream)),
                        Some(tls) => tls.connect(address, stream).await,
                    }
                }
            },
        };
        opened.map_err(|error| Error::Unreachable {
            server: self.server.to_string(),
            reason: error.to_string(),
            kind: Some(error.kind()),
        })
    }

    /// Returns the headers of every request: `Host`, and the token.
    fn common_headers(&self) -> Vec<(HeaderName, String)> {
        match &self.server {
            Server::Unix(_) => vec![(header::HOST, "netnsd".into())],
            Server::Tcp { address, token, .. } => {
                let token = token
                    .iter()
                    .map(|token| (header::AUTHORIZATION, format!("Bearer {token}")));
                std::iter::once((header::HOST, address.clone()))
                    .chain(token)
                    .collect()
            }
        }
    }

    fn build_request(
        &self,
        method: &Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Error> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in self.common_headers() {
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

    /// Opens a connection and starts its driver task.
    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Error> {
        let stream = self.open_stream().await?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.unreachable(error))?;
        // It ends when the sender is dropped or the daemon closes it; a request then fails.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    /// Sends a request and returns the answer, also if it is a problem.
    ///
    /// # Errors
    /// If the daemon cannot be reached.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer, Error> {
        let body = body.into();
        let mut slot = self.connection.lock().await;
        let idle = match slot.take() {
            Some(mut idle) if idle.since.elapsed() < MAX_IDLE => {
                idle.sender.ready().await.is_ok().then_some(idle.sender)
            }
            _ => None,
        };
        let is_reused = idle.is_some();
        let mut sender = match idle {
            Some(sender) => sender,
            None => self.connect().await?,
        };

        let request = self.build_request(&method, path, headers, body.clone())?;
        let response = match sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut error) => {
                // The daemon may have closed an idle connection. A request that was not sent, or
                // is idempotent, is sent again.
                let is_unsent = error.take_message().is_some();
                if !is_reused || !(is_unsent || method.is_idempotent()) {
                    return Err(self.unreachable(error.into_error()));
                }
                sender = self.connect().await?;
                let request = self.build_request(&method, path, headers, body)?;
                sender
                    .send_request(request)
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
        *slot = Some(IdleConnection {
            sender,
            since: Instant::now(),
        });
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        })
    }

    /// Sends a request on a connection of its own, and calls `on_line` with each line of the answer
    /// until it returns false. The returned answer has a body only if it is a problem.
    ///
    /// # Errors
    /// If the daemon cannot be reached, or closes the connection.
    pub async fn stream_lines(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
        mut on_line: impl FnMut(&str) -> bool,
    ) -> Result<Answer, Error> {
        let mut sender = self.connect().await?;
        let request = self.build_request(&method, path, headers, body.into())?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| self.unreachable(error))?;
        let (parts, mut body) = response.into_parts();
        let mut buffer = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.unreachable(error))?;
            buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            while let Some(end) = buffer
                .iter()
                .position(|byte| *byte == b'\n')
                .filter(|_| parts.status.is_success())
            {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                if !on_line(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n'])) {
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
            body: buffer.into(),
        })
    }

    /// Opens a WebSocket on a connection of its own, such as
    /// `/v1/namespaces/net0/exec?argv=sh&tty=true`.
    ///
    /// # Errors
    /// If the daemon cannot be reached, or answers with a problem.
    pub async fn websocket(&self, path: &str) -> Result<WebSocketStream<Stream>, Error> {
        let stream = self.open_stream().await?;
        let url = format!("ws://netnsd{path}");
        let mut request = url
            .into_client_request()
            .map_err(|error| self.unreachable(error))?;
        for (name, value) in self.common_headers() {
            let value = HeaderValue::try_from(value).map_err(|error| self.unreachable(error))?;
            request.headers_mut().insert(name, value);
        }
        match client_async(request, stream).await {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::Error::Http(response)) => {
                let body = response.body().as_deref().unwrap_or_default();
                Err(Error::Problem(parse_answer(response.status(), body)?))
            }
            Err(error) => Err(self.unreachable(error)),
        }
    }

    /// Sends a request with a JSON body, and reads the answer.
    async fn send_json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Error> {
        let answer = match body {
            Some(body) => {
                let body = serde_json::to_vec(body)
                    .map_err(|error| unexpected_answer(StatusCode::OK, &error))?;
                self.request(method, path, &[("content-type", "application/json")], body)
                    .await?
            }
            None => self.request(method, path, &[], Bytes::new()).await?,
        };
        if !answer.status.is_success() {
            return Err(Error::Problem(parse_answer(answer.status, &answer.body)?));
        }
        let body: &[u8] = if answer.body.is_empty() {
            b"null"
        } else {
            &answer.body
        };
        parse_answer(answer.status, body)
    }

    async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.send_json(Method::GET, path, None::<&()>).await
    }

    /// Returns the daemon's version, features and limits.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_about(&self) -> Result<About, Error> {
        self.get_json("/v1").await
    }

    /// Returns the readiness and the number of resources in each state.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_ready(&self) -> Result<Ready, Error> {
        let answer = self
            .request(Method::GET, "/v1/ready", &[], Bytes::new())
            .await?;
        parse_answer(answer.status, &answer.body)
    }

    /// Returns everything recorded, and everything in the kernel, as a graph.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_graph(&self) -> Result<Graph, Error> {
        self.get_json("/v1/graph").await
    }

    /// Returns a page of a list; `query` is the part of the URL after the `?`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_page<R: Resource>(&self, query: &str) -> Result<Page<Stored<R>>, Error> {
        self.get_json(&format!("/v1/{}?{query}", R::KIND.plural()))
            .await
    }

    /// Returns a resource.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_resource<R: Resource>(&self, name: &Name) -> Result<Stored<R>, Error> {
        self.get_json(&format!("/v1/{}/{name}", R::KIND.plural()))
            .await
    }

    /// Creates a resource; it must not exist.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create_resource<R: Resource>(&self, resource: &R) -> Result<Stored<R>, Error> {
        self.send_json(
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
    pub async fn put_resource<R: Resource>(&self, resource: &R) -> Result<Stored<R>, Error> {
        self.send_json(
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
    pub async fn patch_resource<R: Resource>(
        &self,
        name: &Name,
        patch: &Value,
    ) -> Result<Stored<R>, Error> {
        self.send_json(
            Method::PATCH,
            &format!("/v1/{}/{name}", R::KIND.plural()),
            Some(patch),
        )
        .await
    }

    /// Deletes a resource; with `cascade` also its dependents (the ports of a bridge are only
    /// detached).
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete_resource<R: Resource>(
        &self,
        name: &Name,
        cascade: bool,
    ) -> Result<(), Error> {
        self.send_json(
            Method::DELETE,
            &format!("/v1/{}/{name}?cascade={cascade}", R::KIND.plural()),
            None::<&()>,
        )
        .await
    }

    /// Returns a live list of a namespace (`None`: the host's), such as `links`.
    async fn list_live<T: DeserializeOwned>(
        &self,
        namespace: Option<&Name>,
        list: &str,
    ) -> Result<Vec<T>, Error> {
        let path = match namespace {
            Some(name) => format!("/v1/namespaces/{name}/{list}"),
            None => format!("/v1/host/{list}"),
        };
        Ok(self.get_json::<Items<T>>(&path).await?.items)
    }

    /// Returns the links of a namespace; `None`: the host's.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_links(&self, namespace: Option<&Name>) -> Result<Vec<LiveLink>, Error> {
        self.list_live(namespace, "links").await
    }

    /// Returns the addresses in a namespace; `None`: the host's.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_addresses(
        &self,
        namespace: Option<&Name>,
    ) -> Result<Vec<LinkAddress>, Error> {
        self.list_live(namespace, "addresses").await
    }

    /// Returns the routes of a namespace; `None`: the host's.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_routes(&self, namespace: Option<&Name>) -> Result<Vec<LiveRoute>, Error> {
        self.list_live(namespace, "routes").await
    }

    /// Returns the policy rules of a namespace; `None`: the host's.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_rules(&self, namespace: Option<&Name>) -> Result<Vec<LiveRule>, Error> {
        self.list_live(namespace, "rules").await
    }

    /// Returns the neighbours of a namespace; `None`: the host's.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_neighbours(
        &self,
        namespace: Option<&Name>,
    ) -> Result<Vec<LiveNeighbour>, Error> {
        self.list_live(namespace, "neighbours").await
    }

    /// Returns the processes of a namespace.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_processes(&self, namespace: &Name) -> Result<Vec<Process>, Error> {
        self.list_live(Some(namespace), "processes").await
    }

    /// Runs a command in a namespace.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn run_command(&self, namespace: &Name, exec: &Exec) -> Result<ExecResult, Error> {
        self.send_json(
            Method::POST,
            &format!("/v1/namespaces/{namespace}/exec"),
            Some(exec),
        )
        .await
    }

    /// Pings an address from a namespace.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ping_address(&self, namespace: &Name, ping: &Ping) -> Result<PingResult, Error> {
        self.send_json(
            Method::POST,
            &format!("/v1/namespaces/{namespace}/ping"),
            Some(ping),
        )
        .await
    }
}

fn parse_answer<T: DeserializeOwned>(status: StatusCode, body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|error| unexpected_answer(status, &error))
}

fn unexpected_answer(status: StatusCode, error: &serde_json::Error) -> Error {
    Error::Unexpected {
        status,
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn idle_connection_is_reopened() {
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
        let get_number = async || {
            client
                .request(Method::GET, "/", &[], Bytes::new())
                .await
                .unwrap()
                .body
        };
        assert_eq!(
            (get_number().await, get_number().await),
            ("1".into(), "1".into())
        );
        client.connection.lock().await.as_mut().unwrap().since -= MAX_IDLE;
        assert_eq!(get_number().await, "2");
    }
}
