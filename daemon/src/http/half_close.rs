//! Half-closed connections: clients that close their side and wait for the response, like `printf …
//! | socat - UNIX:SOCKET`.
//!
//! hyper takes the end of a client's data for a client that is gone, and drops the request in
//! progress, which is how a command ends with its client. Here the end of data is held back while a
//! complete request is answered, until the client is really gone.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, Incoming, SizeHint};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

/// Time to answer a TCP client that closed its side: the kernel does not show whether it has closed
/// the other side too.
const TCP_GRACE: Duration = Duration::from_secs(2);
/// Time between two checks of whether a client is gone, or answered.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// No request is in progress.
const IDLE: u8 = 0;
/// A request's head has been received, and its body has not been read.
const UNREAD: u8 = 1;
/// The handler waits for more of the body.
const RECEIVING: u8 = 2;
/// The request is complete and being answered.
const ANSWERING: u8 = 3;

/// Progress of a connection's current request, in one of the states above.
#[derive(Debug, Clone, Default)]
pub(super) struct Exchange {
    state: Arc<AtomicU8>,
    /// True once the connection was upgraded: it is no longer HTTP.
    is_upgraded: Arc<AtomicBool>,
}

impl Exchange {
    /// Begins a request.
    pub fn begin(&self, request: http::Request<Incoming>) -> http::Request<Received> {
        self.state.store(UNREAD, Ordering::Release);
        let received = request.map(|body| Received {
            body,
            exchange: self.clone(),
        });
        received.body().note_end();
        received
    }

    /// Ends the request when the body of its response is dropped.
    pub fn end_with(&self, response: http::Response<Body>) -> http::Response<Answered> {
        if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
            self.is_upgraded.store(true, Ordering::Release);
        }
        response.map(|body| Answered {
            body,
            exchange: self.clone(),
        })
    }

    /// Returns true if no request is in progress, and another may follow.
    pub fn is_idle(&self) -> bool {
        self.state.load(Ordering::Acquire) == IDLE && !self.is_upgraded.load(Ordering::Acquire)
    }
}

/// Body of a request.
pub(super) struct Received {
    body: Incoming,
    exchange: Exchange,
}

impl Received {
    fn note_end(&self) {
        if self.body.is_end_stream() {
            self.advance_to(ANSWERING);
        }
    }

    /// Advances to a later state, unless the request has been answered.
    fn advance_to(&self, next: u8) {
        let later = |state: u8| (IDLE < state && state < next).then_some(next);
        let state = &self.exchange.state;
        let _ = state.fetch_update(Ordering::AcqRel, Ordering::Acquire, later); // answered
    }
}

impl HttpBody for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match polled {
            Poll::Ready(_) => self.note_end(),
            Poll::Pending => self.advance_to(RECEIVING),
        }
        polled
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Body of a response, which hyper drops once it has taken all of it.
pub(super) struct Answered {
    body: Body,
    exchange: Exchange,
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.exchange.state.store(IDLE, Ordering::Release);
    }
}

impl HttpBody for Answered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Returns true if a client is gone that closed its side this long ago.
pub(super) type IsGone<S> = fn(&S, Duration) -> bool;

/// Returns true if both sides of a Unix socket are closed, which the kernel reports as `POLLHUP`
/// (`unix_poll()`, net/unix/af_unix.c).
pub(super) fn unix_client_is_gone(stream: &impl AsFd, _since: Duration) -> bool {
    let fd: BorrowedFd<'_> = stream.as_fd();
    let mut fds = [PollFd::new(fd, PollFlags::empty())];
    let found = poll(&mut fds, PollTimeout::ZERO);
    found.is_err()
        || fds[0]
            .revents()
            .is_none_or(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
}

/// Returns true after [`TCP_GRACE`]: TCP does not report it.
pub(super) fn tcp_client_is_gone<S>(_stream: &S, since: Duration) -> bool {
    since >= TCP_GRACE
}

/// A connection whose end of data is held back while a request is answered.
pub(super) struct HalfClosable<S> {
    /// First byte, which was read before.
    first: Option<u8>,
    stream: S,
    exchange: Exchange,
    is_gone: IsGone<S>,
    /// Time at which the client closed its side, and the timer of the next check.
    ended: Option<(Instant, Pin<Box<Sleep>>)>,
    /// True if the last check found [`RECEIVING`]: the handler may not have had what was received
    /// by then.
    was_receiving: bool,
    /// True if everything written has been flushed.
    flushed: bool,
}

impl<S> HalfClosable<S> {
    pub fn new(first: u8, stream: S, exchange: Exchange, is_gone: IsGone<S>) -> Self {
        Self {
            first: Some(first),
            stream,
            exchange,
            is_gone,
            ended: None,
            was_receiving: false,
            flushed: true,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HalfClosable<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buffer.remaining() > 0
            && let Some(first) = this.first.take()
        {
            buffer.put_slice(&[first]);
            return Poll::Ready(Ok(()));
        }
        if this.ended.is_none() {
            let before = buffer.remaining();
            ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
            if before == 0 || buffer.remaining() < before {
                return Poll::Ready(Ok(()));
            }
        }
        let (since, alarm) = this
            .ended
            .get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(POLL_INTERVAL))));
        loop {
            let state = this.exchange.state.load(Ordering::Acquire);
            let was_receiving = std::mem::replace(&mut this.was_receiving, state == RECEIVING);
            let is_cut_short = was_receiving && state == RECEIVING;
            let is_answered = state == IDLE && this.flushed;
            if is_cut_short || is_answered || (this.is_gone)(&this.stream, since.elapsed()) {
                return Poll::Ready(Ok(()));
            }
            ready!(alarm.as_mut().poll(context));
            alarm.as_mut().reset(Instant::now() + POLL_INTERVAL);
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HalfClosable<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.flushed = false;
        Pin::new(&mut self.stream).poll_write(context, data)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.flushed = false;
        Pin::new(&mut self.stream).poll_write_vectored(context, data)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.flushed = true;
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
