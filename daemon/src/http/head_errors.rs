//! Problems for request heads that hyper refuses: it answers those itself, without a body, and has
//! no hook for that.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use netnsd_api::{Code, Problem};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{half_close::Exchange, headers::REQUEST_ID};

/// A connection on which hyper's answer to a malformed head (`Server::on_error()` in its
/// `proto/h1/role.rs`) is replaced by a problem.
pub(super) struct HeadErrors<S> {
    stream: S,
    exchange: Exchange,
    /// Response in place of hyper's, and the number of its bytes that are written.
    answer: Option<(Vec<u8>, usize)>,
}

impl<S> HeadErrors<S> {
    pub fn new(stream: S, exchange: Exchange) -> Self {
        Self {
            stream,
            exchange,
            answer: None,
        }
    }
}

impl<S: AsyncWrite + Unpin> HeadErrors<S> {
    /// Writes the response that replaces `data`; `None` if `data` is not replaced.
    fn replace(
        &mut self,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Option<Poll<io::Result<usize>>> {
        if self.answer.is_none() && self.exchange.is_idle() {
            self.answer = refusal(data).map(|code| (problem(code), 0));
        }
        let (answer, written) = self.answer.as_mut()?;
        // hyper offers the same bytes until they are taken.
        while let Some(rest) = answer.get(*written..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut self.stream).poll_write(context, rest) {
                Poll::Ready(Ok(0)) => {
                    return Some(Poll::Ready(Err(io::ErrorKind::WriteZero.into())));
                }
                Poll::Ready(Ok(count)) => *written += count,
                other => return Some(other),
            }
        }
        self.answer = None;
        Some(Poll::Ready(Ok(data.len())))
    }
}

/// Returns the code of a response that is hyper's own; netnsd's have a request id.
fn refusal(data: &[u8]) -> Option<Code> {
    if !data.starts_with(b"HTTP/1.") || !data.ends_with(b"\r\n\r\n") {
        return None;
    }
    let head = std::str::from_utf8(data).ok()?;
    if !head.contains("\r\ncontent-length: 0\r\n") || head.contains(REQUEST_ID) {
        return None;
    }
    match head.split(' ').nth(1)? {
        "400" => Some(Code::MalformedRequest),
        "414" => Some(Code::UriTooLong),
        "431" => Some(Code::HeadTooLarge),
        _ => None,
    }
}

fn problem(code: Code) -> Vec<u8> {
    let detail = match code {
        Code::UriTooLong => "the URI is longer than 65,534 bytes: send a shorter one",
        Code::HeadTooLarge => {
            "the head of the request has more than 100 headers, or is too large: send fewer"
        }
        _ => "the head of the request is not HTTP/1.1: its first line or a header is malformed",
    };
    let problem = Problem::new(code, detail);
    let body = serde_json::to_string(&problem).unwrap_or_default() + "\n";
    let (status, title, length, id) = (
        problem.status,
        &problem.title,
        body.len(),
        uuid::Uuid::now_v7(),
    );
    format!(
        "HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\ncontent-length: {length}\r\n\
         x-content-type-options: nosniff\r\n{REQUEST_ID}: {id}\r\nconnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

impl<S: AsyncRead + Unpin> AsyncRead for HeadErrors<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, data)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeadErrors<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.replace(context, data) {
            Some(written) => written,
            None => Pin::new(&mut self.stream).poll_write(context, data),
        }
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [head] = data
            && let Some(written) = self.replace(context, head)
        {
            return written;
        }
        Pin::new(&mut self.stream).poll_write_vectored(context, data)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
