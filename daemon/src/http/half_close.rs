//! Clients that end their side of a connection and still wait for the answer, as `printf … | socat
//! - UNIX:SOCKET` does.
//!
//! hyper takes the end of what a client sends for the end of the client, and drops the request that
//! it works on: so a command ends with its client. Here the end is held back while a complete
//! request is answered, until the client is really gone.

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

/// How long a client over TCP is waited for that ended its side: nothing tells whether it has
/// closed the other one too.
const GRACE: Duration = Duration::from_secs(2);
/// Time between two looks at whether a client is gone, or answered.
const TICK: Duration = Duration::from_millis(50);

/// No request is at hand.
const IDLE: u8 = 0;
/// A request has come, and nobody has asked for its body yet.
const UNREAD: u8 = 1;
/// More of a request's body is waited for.
const RECEIVING: u8 = 2;
/// A complete request is being answered.
const ANSWERING: u8 = 3;

/// How far a connection's request is.
#[derive(Debug, Clone, Default)]
pub(super) struct Exchange {
    state: Arc<AtomicU8>,
    /// True once the connection is no longer HTTP's.
    is_upgraded: Arc<AtomicBool>,
}

impl Exchange {
    /// Begins with a request.
    pub fn begin(&self, request: http::Request<Incoming>) -> http::Request<Received> {
        self.state.store(UNREAD, Ordering::Release);
        let received = request.map(|body| Received {
            body,
            exchange: self.clone(),
        });
        received.body().note_end();
        received
    }

    /// Ends with the body of its answer.
    pub fn end_with(&self, response: http::Response<Body>) -> http::Response<Answered> {
        if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
            self.is_upgraded.store(true, Ordering::Release);
        }
        response.map(|body| Answered {
            body,
            exchange: self.clone(),
        })
    }

    /// Returns true if no request is at hand, and another may come.
    pub fn is_idle(&self) -> bool {
        self.state.load(Ordering::Acquire) == IDLE && !self.is_upgraded.load(Ordering::Acquire)
    }
}

/// The body of a request.
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

    /// Goes on to a later state; a request that is answered already stays so.
    fn advance_to(&self, next: u8) {
        let later = |state: u8| (IDLE < state && state < next).then_some(next);
        let _answered =
            self.exchange
                .state
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, later);
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

/// The body of an answer: hyper drops it once it has taken all of it over.
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

/// Tells whether a client is gone that ended its side so long ago.
pub(super) type IsGone<S> = fn(&S, Duration) -> bool;

/// The kernel says when both sides of a Unix socket are closed (`unix_poll()`, net/unix/af_unix.c).
pub(super) fn unix_client_is_gone(stream: &impl AsFd, _since: Duration) -> bool {
    let fd: BorrowedFd<'_> = stream.as_fd();
    let mut asked = [PollFd::new(fd, PollFlags::empty())];
    let found = poll(&mut asked, PollTimeout::ZERO);
    found.is_err()
        || asked[0]
            .revents()
            .is_none_or(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
}

/// Nothing does so of TCP: it is a matter of time.
pub(super) fn tcp_client_is_gone<S>(_stream: &S, since: Duration) -> bool {
    since >= GRACE
}

/// A connection's bytes, whose end is held back while a request is answered.
pub(super) struct HalfClosable<S> {
    /// The first byte, which was read already.
    first: Option<u8>,
    stream: S,
    exchange: Exchange,
    is_gone: IsGone<S>,
    /// Since when the client sends nothing more, and when it is looked at again.
    ended: Option<(Instant, Pin<Box<Sleep>>)>,
    /// At the last look more of a body was waited for: what had come by then may not have been
    /// handed over.
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
            .get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(TICK))));
        loop {
            let state = this.exchange.state.load(Ordering::Acquire);
            let was_receiving = std::mem::replace(&mut this.was_receiving, state == RECEIVING);
            let is_cut_short = was_receiving && state == RECEIVING;
            let is_answered = state == IDLE && this.flushed;
            if is_cut_short || is_answered || (this.is_gone)(&this.stream, since.elapsed()) {
                return Poll::Ready(Ok(()));
            }
            ready!(alarm.as_mut().poll(context));
            alarm.as_mut().reset(Instant::now() + TICK);
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
