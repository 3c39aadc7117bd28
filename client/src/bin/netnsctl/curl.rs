//! Requests to the daemon; with `-v` each is shown as the curl line that does the same.

use bytes::Bytes;
use http::{Method, StatusCode};
use netnsd_api::{Page, Problem};
use netnsd_client::{Answer, Client, Error, Place, Stream, WebSocketStream, shell_word};
use serde_json::{Value, value::RawValue};

use crate::fail::Failure;

/// The daemon, as the commands talk to it.
#[derive(Debug)]
pub struct Api {
    client: Client,
    place: Place,
    verbose: bool,
}

/// What a request sends.
#[derive(Debug)]
pub enum Body<'a> {
    /// JSON.
    Json(&'a Value),
    /// YAML, of which JSON is a part.
    Yaml(&'a str),
}

impl Body<'_> {
    fn kind(&self) -> &'static str {
        match self {
            Body::Json(_) => "application/json",
            Body::Yaml(_) => "application/yaml",
        }
    }

    fn text(&self) -> String {
        match self {
            Body::Json(value) => value.to_string(),
            Body::Yaml(text) => (*text).to_owned(),
        }
    }
}

/// A list, all of its pages.
#[derive(Debug)]
pub struct Listed {
    /// The items, each as the daemon wrote it.
    pub items: Vec<Box<RawValue>>,
    /// The whole answer; that of several pages is put together.
    pub body: Bytes,
}

impl Api {
    /// The daemon that serves there.
    pub fn new(place: Place, verbose: bool) -> Self {
        Self {
            client: Client::at(place.clone()),
            place,
            verbose,
        }
    }

    /// Sends a request; gives the body of a success.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Body<'_>>,
    ) -> Result<Bytes, Failure> {
        let answer = self.answer(method, path, body, &[]).await?;
        // Not ready is an answer too.
        if answer.status.is_success() || path == "/v1/ready" {
            Ok(answer.body)
        } else {
            Err(refusal(&answer))
        }
    }

    /// The same for what may not be there.
    pub async fn find(&self, path: &str) -> Result<Option<Bytes>, Failure> {
        let answer = self.answer(Method::GET, path, None, &[]).await?;
        match answer.status {
            status if status.is_success() => Ok(Some(answer.body)),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(refusal(&answer)),
        }
    }

    /// Puts a body, and gives the detail of a conflict, if that is the answer.
    pub async fn conflict(&self, path: &str, body: &Body<'_>) -> Result<Option<String>, Failure> {
        let answer = self.answer(Method::PUT, path, Some(body), &[]).await?;
        match answer.status {
            status if status.is_success() => Ok(None),
            StatusCode::CONFLICT => Ok(Some(
                answer.json()["detail"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
            )),
            _ => Err(refusal(&answer)),
        }
    }

    async fn answer(
        &self,
        method: Method,
        path: &str,
        body: Option<&Body<'_>>,
        headers: &[(&str, &str)],
    ) -> Result<Answer, Failure> {
        self.tell(&method, path, body, headers);
        let kind = body.map(|body| ("content-type", body.kind()));
        let headers: Vec<(&str, &str)> = headers.iter().copied().chain(kind).collect();
        Ok(self
            .client
            .request(
                method,
                path,
                &headers,
                body.map(Body::text).unwrap_or_default(),
            )
            .await?)
    }

    /// Replaces a resource, if it is as this ETag says.
    pub async fn put_if(&self, path: &str, body: &Value, etag: &str) -> Result<(), Failure> {
        let answer = self
            .answer(
                Method::PUT,
                path,
                Some(&Body::Json(body)),
                &[("if-match", etag)],
            )
            .await?;
        if answer.status.is_success() {
            Ok(())
        } else {
            Err(refusal(&answer))
        }
    }

    /// Reads, in this media type.
    pub async fn get_as(&self, path: &str, kind: &str) -> Result<Bytes, Failure> {
        let answer = self
            .answer(Method::GET, path, None, &[("accept", kind)])
            .await?;
        if answer.status.is_success() {
            Ok(answer.body)
        } else {
            Err(refusal(&answer))
        }
    }

    /// Sends a write, and gives each line that tells how far it is.
    pub async fn follow(
        &self,
        method: Method,
        path: &str,
        body: &Body<'_>,
        line: impl FnMut(&str) -> bool,
    ) -> Result<(), Failure> {
        let headers = [
            ("accept", "application/x-ndjson"),
            ("content-type", body.kind()),
        ];
        self.tell(&method, path, Some(body), &headers[..1]);
        let answer = self
            .client
            .follow(method, path, &headers, body.text(), line)
            .await?;
        if answer.status.is_success() {
            Ok(())
        } else {
            Err(refusal(&answer))
        }
    }

    /// Reads events, and gives each line of their stream.
    pub async fn follow_events(
        &self,
        path: &str,
        line: impl FnMut(&str) -> bool,
    ) -> Result<(), Failure> {
        self.tell(&Method::GET, path, None, &[]);
        let answer = self.client.follow(Method::GET, path, &[], "", line).await?;
        if answer.status.is_success() {
            Ok(())
        } else {
            Err(refusal(&answer))
        }
    }

    /// Opens a WebSocket.
    pub async fn websocket(&self, path: &str) -> Result<WebSocketStream<Stream>, Failure> {
        if self.verbose {
            eprintln!("# a WebSocket, which curl cannot drive: {path}");
        }
        Ok(self.client.websocket(path).await?)
    }

    fn tell(&self, method: &Method, path: &str, body: Option<&Body<'_>>, headers: &[(&str, &str)]) {
        if self.verbose {
            eprintln!("{}", self.curl(method, path, body, headers));
        }
    }

    /// Reads.
    pub async fn get(&self, path: &str) -> Result<Bytes, Failure> {
        self.send(Method::GET, path, None).await
    }

    /// Reads a list to its end.
    pub async fn list(&self, path: &str, query: &[(&str, &str)]) -> Result<Listed, Failure> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut query = query.to_vec();
            query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let body = self.get(&with_query(path, &query)).await?;
            let page: Page<Box<RawValue>> = serde_json::from_slice(&body)?;
            let first = items.is_empty();
            items.extend(page.items);
            match page.next {
                Some(next) => cursor = Some(next),
                None if first => return Ok(Listed { items, body }),
                None => {
                    let all: Vec<&str> = items.iter().map(|item| item.get()).collect();
                    let body = format!("{{\"items\":[{}],\"next\":null}}", all.join(",")).into();
                    return Ok(Listed { items, body });
                }
            }
        }
    }

    fn curl(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Body<'_>>,
        headers: &[(&str, &str)],
    ) -> String {
        let (mut line, url) = match &self.place {
            Place::Unix(socket) => {
                let socket = shell_word(&socket.to_string_lossy());
                (
                    format!("curl -sS --unix-socket {socket}"),
                    format!("http://netnsd{path}"),
                )
            }
            // The token itself is nobody's business.
            place @ Place::Tcp { .. } => (
                "curl -sS -H \"authorization: Bearer $TOKEN\"".to_owned(),
                format!("{place}{path}"),
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
                body.kind(),
                shell_word(&body.text())
            );
        }
        format!("{line} {}", shell_word(&url))
    }
}

/// What an answer refuses.
fn refusal(answer: &Answer) -> Failure {
    match serde_json::from_slice::<Problem>(&answer.body) {
        Ok(problem) => problem.into(),
        Err(error) => Error::Unexpected {
            status: answer.status,
            reason: error.to_string(),
        }
        .into(),
    }
}

/// One segment of a path, or one side of a query's parameter.
pub fn encoded(text: &str) -> String {
    let plain =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'~');
    text.bytes()
        .map(|byte| {
            if plain(&byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// A path with its parameters.
pub fn with_query(path: &str, query: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = query
        .iter()
        .map(|(key, value)| format!("{key}={}", encoded(value)))
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
    fn a_request_is_a_line_that_a_shell_takes() {
        let api = Api::new(Place::Unix("/run/netnsd/netnsd.sock".into()), true);
        assert_eq!(
            api.curl(&Method::GET, "/v1", None, &[]),
            "curl -sS --unix-socket /run/netnsd/netnsd.sock http://netnsd/v1"
        );
        assert_eq!(
            api.curl(
                &Method::PATCH,
                "/v1/veths/a?dry_run=true",
                Some(&Body::Json(&json!({"labels": {"a": "it's"}}))),
                &[]
            ),
            "curl -sS --unix-socket /run/netnsd/netnsd.sock -X PATCH -H 'content-type: application/json' --data-binary \
             '{\"labels\":{\"a\":\"it'\\''s\"}}' 'http://netnsd/v1/veths/a?dry_run=true'"
        );
    }

    #[test]
    fn what_is_no_plain_text_is_encoded() {
        assert_eq!(encoded("a b/ü"), "a%20b%2F%C3%BC");
        assert_eq!(
            with_query("/v1/veths", &[("label", "a=b")]),
            "/v1/veths?label=a%3Db"
        );
    }
}
