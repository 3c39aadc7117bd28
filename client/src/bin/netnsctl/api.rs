//! Requests to the daemon; with `-v` each is printed as the equivalent curl line.

use bytes::Bytes;
use http::{Method, StatusCode};
use netnsd_api::{Code, Kind, Page, Problem, read_yaml};
use netnsd_client::{Answer, Client, Error, Server, Stream, WebSocketStream, shell_word};
use serde_json::{Value, value::RawValue};

use crate::{
    completion::kind_command,
    error::{CliError, problem_hint},
    resource::{collection_path, item_names},
    suggest::find_nearest,
};

/// A client of the daemon for the commands.
#[derive(Debug)]
pub struct Api {
    client: Client,
    server: Server,
    verbose: bool,
}

/// The body of a request.
#[derive(Debug)]
pub enum RequestBody<'a> {
    /// JSON.
    Json(&'a Value),
    /// YAML.
    Yaml(&'a str),
    /// Operations of a JSON patch (RFC 6902).
    Patch(&'a Value),
}

impl RequestBody<'_> {
    fn media_type(&self) -> &'static str {
        match self {
            RequestBody::Json(_) => "application/json",
            RequestBody::Yaml(_) => "application/yaml",
            RequestBody::Patch(_) => "application/json-patch+json",
        }
    }

    /// Returns the body as JSON.
    pub fn to_value(&self) -> Result<Value, CliError> {
        match self {
            RequestBody::Json(value) | RequestBody::Patch(value) => Ok((*value).clone()),
            RequestBody::Yaml(text) => read_yaml(text).map_err(CliError::Usage),
        }
    }

    fn text(&self) -> String {
        match self {
            RequestBody::Json(value) | RequestBody::Patch(value) => value.to_string(),
            RequestBody::Yaml(text) => (*text).to_owned(),
        }
    }
}

/// All pages of a list.
#[derive(Debug)]
pub struct FullList {
    /// The items, unparsed.
    pub items: Vec<Box<RawValue>>,
    /// The answer; several pages are joined.
    pub body: Bytes,
}

impl Api {
    /// Returns a client of the daemon at an address.
    pub fn new(server: Server, verbose: bool) -> Self {
        Self {
            client: Client::new(server.clone()),
            server,
            verbose,
        }
    }

    /// Sends a request; returns the body of a successful answer.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&RequestBody<'_>>,
    ) -> Result<Bytes, CliError> {
        self.send_if_match(method, path, body, None).await
    }

    /// Sends a request, with `If-Match` if a tag is given; returns the body of a successful answer.
    pub async fn send_if_match(
        &self,
        method: Method,
        path: &str,
        body: Option<&RequestBody<'_>>,
        if_match: Option<&str>,
    ) -> Result<Bytes, CliError> {
        let headers: Vec<_> = if_match
            .map(|etag| ("if-match", etag))
            .into_iter()
            .collect();
        let answer = self.request(method, path, body, &headers).await?;
        // /v1/ready has a body also if the daemon is not ready.
        if answer.status.is_success() || path == "/v1/ready" {
            Ok(answer.body)
        } else {
            Err(self.refusal(path, body, &answer).await)
        }
    }

    /// Reads a path, and the tag of its state.
    pub async fn get_with_etag(&self, path: &str) -> Result<(Bytes, Option<String>), CliError> {
        let answer = self.request(Method::GET, path, None, &[]).await?;
        if answer.status.is_success() {
            let etag = answer.header("etag").map(str::to_owned);
            Ok((answer.body, etag))
        } else {
            Err(self.refusal(path, None, &answer).await)
        }
    }

    /// Reads a resource; returns `None` if it does not exist.
    pub async fn get_optional(&self, path: &str) -> Result<Option<Bytes>, CliError> {
        let answer = self.request(Method::GET, path, None, &[]).await?;
        match answer.status {
            status if status.is_success() => Ok(Some(answer.body)),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.refusal(path, None, &answer).await),
        }
    }

    /// Sends a PUT; returns the detail of the problem if the answer is a conflict.
    pub async fn put_for_conflict(
        &self,
        path: &str,
        body: &RequestBody<'_>,
    ) -> Result<Option<String>, CliError> {
        let answer = self.request(Method::PUT, path, Some(body), &[]).await?;
        match answer.status {
            status if status.is_success() => Ok(None),
            StatusCode::CONFLICT => Ok(Some(
                answer.json()["detail"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
            )),
            _ => Err(self.refusal(path, Some(body), &answer).await),
        }
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&RequestBody<'_>>,
        headers: &[(&str, &str)],
    ) -> Result<Answer, CliError> {
        self.log_curl(&method, path, body, headers);
        let content_type = body.map(|body| ("content-type", body.media_type()));
        let headers: Vec<(&str, &str)> = headers.iter().copied().chain(content_type).collect();
        Ok(self
            .client
            .request(
                method,
                path,
                &headers,
                body.map(RequestBody::text).unwrap_or_default(),
            )
            .await?)
    }

    /// Patches a resource, if its generation is this one; returns `None` if it has changed.
    pub async fn patch_if_match(
        &self,
        path: &str,
        operations: &Value,
        generation: u64,
    ) -> Result<Option<Bytes>, CliError> {
        let etag = format!("\"{generation}\"");
        let body = RequestBody::Patch(operations);
        let answer = self
            .request(Method::PATCH, path, Some(&body), &[("if-match", &etag)])
            .await?;
        match answer.status {
            status if status.is_success() => Ok(Some(answer.body)),
            StatusCode::PRECONDITION_FAILED => Ok(None),
            _ => Err(self.refusal(path, Some(&body), &answer).await),
        }
    }

    /// Reads a path in a media type.
    pub async fn get_as(&self, path: &str, media_type: &str) -> Result<Bytes, CliError> {
        let answer = self
            .request(Method::GET, path, None, &[("accept", media_type)])
            .await?;
        if answer.status.is_success() {
            Ok(answer.body)
        } else {
            Err(self.refusal(path, None, &answer).await)
        }
    }

    /// Sends a write, with `If-Match` if a tag is given, and calls `on_line` with each line of its
    /// progress.
    pub async fn send_with_progress(
        &self,
        method: Method,
        path: &str,
        body: &RequestBody<'_>,
        if_match: Option<&str>,
        on_line: impl FnMut(&str) -> bool,
    ) -> Result<(), CliError> {
        let mut headers = vec![("accept", "application/x-ndjson")];
        headers.extend(if_match.map(|etag| ("if-match", etag)));
        self.log_curl(&method, path, Some(body), &headers);
        headers.push(("content-type", body.media_type()));
        let answer = self
            .client
            .stream_lines(method, path, &headers, body.text(), on_line)
            .await?;
        if answer.status.is_success() {
            Ok(())
        } else {
            Err(self.refusal(path, Some(body), &answer).await)
        }
    }

    /// Reads the event stream, and calls `on_line` with each line.
    pub async fn stream_events(
        &self,
        path: &str,
        on_line: impl FnMut(&str) -> bool,
    ) -> Result<(), CliError> {
        self.log_curl(&Method::GET, path, None, &[]);
        let answer = self
            .client
            .stream_lines(Method::GET, path, &[], "", on_line)
            .await?;
        if answer.status.is_success() {
            Ok(())
        } else {
            Err(self.refusal(path, None, &answer).await)
        }
    }

    /// Opens a WebSocket.
    pub async fn open_websocket(&self, path: &str) -> Result<WebSocketStream<Stream>, CliError> {
        if self.verbose {
            eprintln!("# WebSocket, not supported by curl: {path}");
        }
        match self.client.websocket(path).await {
            Ok(socket) => Ok(socket),
            Err(Error::Problem(problem)) => Err(self.add_hint(path, None, *problem).await),
            Err(other) => Err(other.into()),
        }
    }

    /// Prints the equivalent curl line, with `-v`.
    fn log_curl(
        &self,
        method: &Method,
        path: &str,
        body: Option<&RequestBody<'_>>,
        headers: &[(&str, &str)],
    ) {
        if self.verbose {
            eprintln!("{}", self.curl_line(method, path, body, headers));
        }
    }

    /// Reads a path.
    pub async fn get(&self, path: &str) -> Result<Bytes, CliError> {
        self.send(Method::GET, path, None).await
    }

    /// Reads all pages of a list.
    pub async fn list(&self, path: &str, query: &[(&str, &str)]) -> Result<FullList, CliError> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut query = query.to_vec();
            query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let body = self.get(&with_query(path, &query)).await?;
            let page: Page<Box<RawValue>> = serde_json::from_slice(&body)?;
            let is_first = items.is_empty();
            items.extend(page.items);
            match page.next {
                Some(next) => cursor = Some(next),
                None if is_first => return Ok(FullList { items, body }),
                None => {
                    let all: Vec<&str> = items.iter().map(|item| item.get()).collect();
                    let body = format!("{{\"items\":[{}],\"next\":null}}", all.join(",")).into();
                    return Ok(FullList { items, body });
                }
            }
        }
    }

    /// Returns the error for an answer that is not successful.
    async fn refusal(
        &self,
        path: &str,
        body: Option<&RequestBody<'_>>,
        answer: &Answer,
    ) -> CliError {
        match serde_json::from_slice::<Problem>(&answer.body) {
            Ok(problem) => self.add_hint(path, body, problem).await,
            Err(error) => Error::Unexpected {
                status: answer.status,
                reason: error.to_string(),
            }
            .into(),
        }
    }

    /// Adds advice that fits the request and the connection to a problem.
    async fn add_hint(
        &self,
        path: &str,
        body: Option<&RequestBody<'_>>,
        problem: Problem,
    ) -> CliError {
        let is_unprivileged_local =
            matches!(self.server, Server::Unix(_)) && !nix::unistd::geteuid().is_root();
        let hint = match problem.code {
            // On the Unix socket root is an admin.
            Code::Forbidden if is_unprivileged_local => Some("root is an admin: try sudo".into()),
            Code::AlreadyExists => existing_resource(path, body).map(|(kind, name)| {
                let command = kind_command(kind);
                format!("to change it: netnsctl {command} set {name} …")
            }),
            Code::NotFound => match resource_in_path(path) {
                Some((kind, name)) => self.suggest_name(kind, &name).await,
                None => None,
            },
            Code::UnknownReference => match unknown_reference(&problem, body) {
                Some((kind, name)) => self.suggest_name(kind, &name).await,
                None => None,
            },
            _ => problem_hint(&problem),
        };
        CliError::Problem {
            problem: Box::new(problem),
            hint,
        }
    }

    /// Returns the question after the existing name that is nearest to a mistyped one.
    async fn suggest_name(&self, kind: Kind, name: &str) -> Option<String> {
        let path = with_query(&collection_path(kind), &[("limit", "10000")]);
        let answer = self.request(Method::GET, &path, None, &[]).await.ok()?;
        let page: Page<Box<RawValue>> = serde_json::from_slice(&answer.body).ok()?;
        let names = item_names(&page.items).ok()?;
        let near = find_nearest(name, names.iter().map(String::as_str))?;
        Some(format!("did you mean {near}?"))
    }

    /// Returns the curl line that sends the same request.
    fn curl_line(
        &self,
        method: &Method,
        path: &str,
        body: Option<&RequestBody<'_>>,
        headers: &[(&str, &str)],
    ) -> String {
        let (mut line, url) = match &self.server {
            Server::Unix(socket) => {
                let socket = shell_word(&socket.to_string_lossy());
                (
                    format!("curl -sS --unix-socket {socket}"),
                    format!("http://netnsd{path}"),
                )
            }
            // The token is a secret.
            server @ Server::Tcp { .. } => (
                "curl -sS -H \"authorization: Bearer $TOKEN\"".to_owned(),
                format!("{server}{path}"),
            ),
        };
        if *method != Method::GET && !(*method == Method::POST && body.is_some()) {
            line = format!("{line} -X {method}");
        }
        for (name, value) in headers {
            line = format!("{line} -H {}", shell_word(&format!("{name}: {value}")));
        }
        if let Some(body) = body {
            line = format!(
                "{line} -H 'content-type: {}' --data-binary {}",
                body.media_type(),
                shell_word(&body.text())
            );
        }
        format!("{line} {}", shell_word(&url))
    }
}

/// Returns the kind and the name in the path of a resource.
fn resource_in_path(path: &str) -> Option<(Kind, String)> {
    let path = path.split('?').next()?;
    let mut segments = path.strip_prefix("/v1/")?.split('/');
    let plural = segments.next()?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.plural() == plural)?;
    Some((kind, segments.next()?.to_owned()))
}

/// Returns the kind and the name of a resource that a POST would have created.
fn existing_resource(path: &str, body: Option<&RequestBody<'_>>) -> Option<(Kind, String)> {
    let path = path.split('?').next()?;
    let kind = Kind::ALL
        .into_iter()
        .find(|kind| collection_path(*kind) == path)?;
    match body? {
        RequestBody::Json(body) => Some((kind, body["name"].as_str()?.to_owned())),
        RequestBody::Yaml(_) | RequestBody::Patch(_) => None,
    }
}

/// Returns the kind and the name that a request refers to, and that does not exist.
fn unknown_reference(problem: &Problem, body: Option<&RequestBody<'_>>) -> Option<(Kind, String)> {
    let pointer = problem.pointer.as_deref()?;
    let field = pointer.rsplit('/').next()?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == field)?;
    let body = body?.to_value().ok()?;
    Some((kind, body.pointer(pointer)?.as_str()?.to_owned()))
}

/// Percent-encodes a segment of a path, or a key or value of a query.
pub fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'~' => {
                encoded.push(char::from(byte));
            }
            other => encoded += &format!("%{other:02X}"),
        }
    }
    encoded
}

/// Appends query parameters to a path.
pub fn with_query(path: &str, query: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = query
        .iter()
        .map(|(key, value)| format!("{key}={}", percent_encode(value)))
        .collect();
    if pairs.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{}", pairs.join("&"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn curl_line_is_quoted_for_shells() {
        let api = Api::new(Server::Unix("/run/netnsd/netnsd.sock".into()), true);
        assert_eq!(
            api.curl_line(&Method::GET, "/v1", None, &[]),
            "curl -sS --unix-socket /run/netnsd/netnsd.sock http://netnsd/v1"
        );
        assert_eq!(
            api.curl_line(
                &Method::PATCH,
                "/v1/veths/a?dry_run=true",
                Some(&RequestBody::Json(&json!({"labels": {"a": "it's"}}))),
                &[]
            ),
            "curl -sS --unix-socket /run/netnsd/netnsd.sock -X PATCH -H 'content-type: application/json' --data-binary \
             '{\"labels\":{\"a\":\"it'\\''s\"}}' 'http://netnsd/v1/veths/a?dry_run=true'"
        );
    }

    #[test]
    fn special_characters_are_percent_encoded() {
        assert_eq!(percent_encode("a b/ü"), "a%20b%2F%C3%BC");
        assert_eq!(
            with_query("/v1/veths", &[("label", "a=b")]),
            "/v1/veths?label=a%3Db"
        );
    }
}
