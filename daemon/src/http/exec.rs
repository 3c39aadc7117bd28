//! Commands whose output is carried off as it comes: as lines of JSON, or over a WebSocket, with or
//! without a terminal.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::{
        Path, RawQuery, State,
        ws::{
            CloseCode, CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code,
            rejection::WebSocketUpgradeRejection,
        },
    },
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::{SinkExt, StreamExt, stream, stream::SplitSink};
use netnsd_api::{Code, Exec, Kind, Name, Namespace, Problem, Role, Stored};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{self, error::ProtocolError};

use super::{
    App, lifetime::StreamLifetime, namespaces::read_name, problem::Failure, query::Query,
    resource::Answer,
};
use crate::{
    access::{Caller, forbidden},
    model::Spec,
    process::{
        CallerScope, CommandEnd, Launch, OutputStream, Permit, Session, SessionEvent, SessionInput,
        TerminalSize, foreign_namespace, text_or_base64,
    },
    store::AuxRecord,
};

/// The first byte of a frame (see API.md): which channel it belongs to.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const CONTROL: u8 = 3;
/// The largest message of a client, in bytes.
const FRAME: usize = 1 << 20;
/// How often a client is asked whether it is still there.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// The longest reason of a Close frame, in bytes (RFC 6455, section 5.5).
const REASON: usize = 123;
/// How long a client may take to close its side.
const PARTING: Duration = Duration::from_secs(2);
/// The longest time that a command may run in a WebSocket's session: a day, unless `timeout_s` says
/// less.
const LONGEST_S: f64 = 86_400.0;

// ---- The whole
// -------------------------------------------------------------------------------------------------

/// An answer as bytes, with the place of its command.
struct Held {
    bytes: Vec<u8>,
    _permit: Permit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Runs a command and answers when it has ended. Its place is another's once the answer has been
/// written to the socket: so answers that nobody reads are no more than there are places.
pub(super) async fn run(app: &App, caller: Arc<Caller>, name: &Name, exec: &Exec) -> Answer {
    let launch = launch(app, &caller, name, exec)?;
    let record = record_command(app, &caller, exec, StatusCode::OK);
    // Dropped, the command is killed.
    let lifetime = StreamLifetime::new(&app.stopping, caller.clone());
    let (result, permit) = lifetime
        .bound(app.process.run_command(name, exec, launch, record))
        .await?;
    let bytes = serde_json::to_vec(&result).map_err(|error| {
        Problem::new(
            Code::Internal,
            format!("the result cannot be written: {error}"),
        )
    })?;
    drop(result);
    let kind = HeaderValue::from_static("application/json");
    let body = Body::from(Bytes::from_owner(Held {
        bytes,
        _permit: permit,
    }));
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, kind)], body).into_response())
}

// ---- Lines of JSON
// ---------------------------------------------------------------------------------------------

/// Runs a command and answers line by line.
pub(super) async fn stream_lines(
    app: App,
    caller: Arc<Caller>,
    name: &Name,
    exec: &Exec,
) -> Answer {
    let launch = launch(&app, &caller, name, exec)?;
    let record = record_command(&app, &caller, exec, StatusCode::OK);
    let mut session = app
        .process
        .start_session(name, exec, launch, None, record)
        .await?;
    let mut input = session.take_input();
    let text = exec.stdin.clone().unwrap_or_default();
    // The command may write before it has read everything: both go on at the same time.
    let feed = tokio::spawn(async move {
        if let Some(input) = &mut input {
            input.write(text.as_bytes()).await;
        }
    });
    let lifetime = StreamLifetime::new(&app.stopping, caller);
    let state = Lines {
        session: Some(session),
        halves: [const { Vec::new() }; 2],
        lifetime,
        feed,
    };
    let lines = stream::unfold(state, |mut lines| async move {
        let line = lines.next().await?;
        Some((Ok::<_, std::convert::Infallible>(line), lines))
    });
    let kind = HeaderValue::from_static("application/x-ndjson");
    Ok((
        StatusCode::OK,
        [(header::CONTENT_TYPE, kind)],
        Body::from_stream(lines),
    )
        .into_response())
}

struct Lines {
    /// None once its end was told. Dropped with the answer, it ends the command.
    session: Option<Session>,
    /// What was read of a character whose rest is still to come.
    halves: [Vec<u8>; 2],
    lifetime: StreamLifetime,
    feed: tokio::task::JoinHandle<()>,
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.feed.abort();
    }
}

impl Lines {
    async fn next(&mut self) -> Option<String> {
        loop {
            let session = self.session.as_mut()?;
            let happening = tokio::select! {
                happening = session.next_event() => happening,
                why = self.lifetime.expired() => Err(why),
            };
            let line = match happening {
                Ok(SessionEvent::Output(stream, bytes)) => self.output(stream, &bytes),
                Ok(SessionEvent::Ended(end)) => {
                    self.session = None;
                    let rest = self.rest();
                    return Some(format!("{rest}{}\n", ended(&end)));
                }
                Err(problem) => {
                    self.session = None;
                    serde_json::to_value(problem).ok()
                }
            };
            if let Some(line) = line {
                return Some(format!("{line}\n"));
            }
        }
    }

    /// A line of output, with characters kept whole; none while one is still incomplete.
    fn output(&mut self, stream: OutputStream, bytes: &[u8]) -> Option<Value> {
        let half = &mut self.halves[stream as usize];
        half.extend_from_slice(bytes);
        let cut = match std::str::from_utf8(half) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => half.len(),
        };
        let rest = half.split_off(cut);
        let whole = std::mem::replace(half, rest);
        (!whole.is_empty()).then(|| output(stream, whole))
    }

    /// Lines of what never became whole characters.
    fn rest(&mut self) -> String {
        let mut lines = String::new();
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            let half = std::mem::take(&mut self.halves[stream as usize]);
            if !half.is_empty() {
                lines += &format!("{}\n", output(stream, half));
            }
        }
        lines
    }
}

fn output(stream: OutputStream, bytes: Vec<u8>) -> Value {
    let stream = match stream {
        OutputStream::Stdout => "stdout",
        OutputStream::Stderr => "stderr",
    };
    match text_or_base64(bytes) {
        Ok(text) => json!({"stream": stream, "data": text}),
        Err(base64) => json!({"stream": stream, "data_base64": base64}),
    }
}

fn ended(end: &CommandEnd) -> Value {
    json!({"exit_code": end.exit_code, "signal": end.signal, "timed_out": end.timed_out, "duration_ms": end.duration_ms})
}

/// Returns how the caller's command is to be run.
pub(super) fn launch(
    app: &App,
    caller: &Caller,
    name: &Name,
    exec: &Exec,
) -> Result<Launch, Problem> {
    let entry = app.view.get(Kind::Namespace, name);
    let has_dns = entry
        .as_ref()
        .is_some_and(|entry| matches!(&*entry.spec, Spec::Namespace(spec) if spec.dns.is_some()));
    let identity = caller.command_identity(entry.is_some(), exec.user.as_deref())?;
    Ok(Launch {
        identity,
        has_dns,
        origin: origin(app, caller, name)?,
    })
}

/// Returns the share of places for a caller's command or ping, and the namespace that it may enter:
/// admins enter any, others only the one that netnsd made or took over under this name.
///
/// # Errors
/// `forbidden` where nothing is recorded, `conflict` where what is there is not what is recorded.
pub(super) fn origin(app: &App, caller: &Caller, name: &Name) -> Result<CallerScope, Problem> {
    if caller.role == Role::Admin {
        return Ok(CallerScope::default());
    }
    let Some(entry) = app.view.get(Kind::Namespace, name) else {
        return Err(forbidden(
            "commands and pings in namespaces that netnsd does not manage are for admins",
        ));
    };
    if entry.state == netnsd_api::State::Conflict {
        return Err(foreign_namespace(name, "its state is conflict"));
    }
    let stored: Stored<Namespace> = serde_json::from_slice(&entry.json).map_err(|error| {
        Problem::new(
            Code::Internal,
            format!("namespace {name} cannot be read: {error}"),
        )
    })?;
    let Some(observed) = stored.status.observed else {
        return Err(foreign_namespace(name, "it is not there yet"));
    };
    Ok(CallerScope {
        share: Some(caller.name.clone()),
        inode: Some(observed.inode),
    })
}

/// Records that a command begins, before it does: its caller may not wait for its end. `status` is
/// that of the answer to come; an answer of another status is an entry in addition.
///
/// # Errors
/// `store_unavailable` where it cannot be recorded: an admin's waits in memory then, where there is
/// room.
pub(super) async fn record_command(
    app: &App,
    caller: &Caller,
    exec: &Exec,
    status: StatusCode,
) -> Result<(), Problem> {
    let Some(audit) = &caller.audit else {
        return Ok(());
    };
    audit.set_argv(&exec.argv);
    let entry = audit.with_status(status.as_u16());
    match app
        .engine
        .record_aux(AuxRecord::PutAudit(entry.clone()))
        .await
    {
        Ok(()) => {
            audit.set_recorded(Some(entry));
            Ok(())
        }
        Err(problem) if problem.code == Code::ShuttingDown => Err(problem),
        Err(problem) => {
            let detail = format!(
                "the command was not run, since the audit log cannot be written ({}): try again",
                problem.detail
            );
            Err(Problem::new(Code::StoreUnavailable, detail))
        }
    }
}

// ---- WebSocket
// -------------------------------------------------------------------------------------------------

/// What the query of a WebSocket's request asks for.
pub(super) fn read(query: Option<&str>) -> Result<(Exec, Option<TerminalSize>), Failure> {
    let mut query = Query::read(query)?;
    let mut cells = |name, default| {
        Ok::<_, Failure>(
            query
                .number(name, 0..=u16::MAX.into())?
                .map_or(default, |n| n as u16),
        )
    };
    let size = TerminalSize {
        rows: cells("rows", 24)?,
        cols: cells("cols", 80)?,
    };
    let tty = query.flag("tty", false)?;
    let timeout_s = query.value("timeout_s")?.unwrap_or(LONGEST_S);
    let mut env = BTreeMap::new();
    for pair in query.all("env") {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(Failure::new(
                Code::InvalidQuery,
                format!("env={pair}: write KEY=VALUE"),
            ));
        };
        env.insert(key.to_owned(), value.to_owned());
    }
    let exec = Exec {
        argv: query.all("argv"),
        env,
        cwd: query.one("cwd")?,
        stdin: None,
        timeout_s,
        user: query.one("user")?,
    };
    query.finish()?;
    if exec.argv.is_empty() {
        return Err(Failure::new(
            Code::InvalidQuery,
            "argv is missing: give the program and each argument as argv=…",
        ));
    }
    Ok((exec, tty.then_some(size)))
}

/// Runs a command on the other side of a WebSocket.
pub(super) async fn socket(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Answer {
    let name = read_name(&name)?;
    let (exec, terminal) = read(query.as_deref())?;
    let upgrade = upgrade.map_err(|rejection| {
        let detail =
            format!("this is for WebSockets ({rejection}); without one, POST the command here");
        Failure::new(Code::InvalidQuery, detail)
    })?;
    let launch = launch(&app, &caller, &name, &exec)?;
    let record = record_command(&app, &caller, &exec, StatusCode::SWITCHING_PROTOCOLS);
    let session = app
        .process
        .start_session(&name, &exec, launch, terminal, record)
        .await?;
    let lifetime = StreamLifetime::new(&app.stopping, caller);
    // A frame is read whole before its message is judged.
    let upgrade = upgrade.max_frame_size(FRAME).max_message_size(FRAME);
    let response: Response = upgrade.on_upgrade(move |socket| carry(socket, session, lifetime));
    Ok(response)
}

/// Carries both ways until the command has ended, the client is gone, or the daemon stops. Whatever
/// ends it, the session is dropped with this, and with it the command; then the socket is closed as
/// RFC 6455, section 7.1.2, asks for.
async fn carry(socket: WebSocket, mut session: Session, mut lifetime: StreamLifetime) {
    let Some(mut input) = session.take_input() else {
        return;
    };
    let (mut sink, mut frames) = socket.split();
    let incoming = async {
        loop {
            match frames.next().await {
                Some(Ok(Message::Binary(frame))) => match said(&frame) {
                    Ok(said) => take(&mut input, said).await,
                    Err(close) => return Some(close),
                },
                Some(Ok(Message::Text(_))) => {
                    let reason =
                        "a text frame: send binary ones, whose first byte is the channel (0 or 3)";
                    return Some((close_code::UNSUPPORTED, reason.to_owned()));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                // Reading goes on below, and answers the Close frame.
                Some(Ok(Message::Close(_))) | None => return None,
                Some(Err(error)) => return unreadable(error),
            }
        }
    };
    let outgoing = send_all(&mut sink, &mut session);
    let close = tokio::select! {
        close = incoming => close,
        ended = outgoing => ended.then(|| (close_code::NORMAL, "ended".to_owned())),
        why = lifetime.expired() => Some((close_code::AWAY, why.detail)),
    };
    drop(session);
    let mut unread = false;
    if let Some((code, mut reason)) = close {
        unread = matches!(code, close_code::SIZE | close_code::PROTOCOL);
        let cut = (0..=REASON).rev().find(|at| reason.is_char_boundary(*at));
        reason.truncate(cut.unwrap_or_default());
        let _gone = sink
            .send(Message::Close(Some(CloseFrame {
                code,
                reason: reason.into(),
            })))
            .await;
    }
    let parting = async {
        while let Some(Ok(_)) = frames.next().await {}
        if unread {
            // Nothing more can be read, and the client may still be writing.
            std::future::pending::<()>().await;
        }
    };
    // A connection that is closed with something unread in it takes what was sent along (RFC 1122,
    // 4.2.2.13).
    let _patience = tokio::time::timeout(PARTING, parting).await;
}

/// Says how to close a socket that cannot be read any more; none if the client is gone.
fn unreadable(error: axum::Error) -> Option<(CloseCode, String)> {
    let error = error.into_inner();
    match error.downcast_ref::<tungstenite::Error>()? {
        // It went without a Close frame.
        tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        tungstenite::Error::Capacity(_) => Some((
            close_code::SIZE,
            format!("a message of more than {FRAME} bytes: send it in smaller ones"),
        )),
        error @ (tungstenite::Error::Protocol(_) | tungstenite::Error::Utf8(_)) => {
            Some((close_code::PROTOCOL, error.to_string()))
        }
        _ => None,
    }
}

/// What a client may control.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Control {
    resize: Resize,
}

#[derive(Deserialize)]
struct Resize {
    rows: u16,
    cols: u16,
}

/// What a frame of a client says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said<'f> {
    /// What the command is to read.
    Input(&'f [u8]),
    /// That there is no more of it.
    End,
    /// How large the terminal is.
    Resize(TerminalSize),
}

/// Reads a frame.
///
/// # Errors
/// The code and the reason to close the socket with, where it makes no sense.
pub(super) fn said(frame: &[u8]) -> Result<Said<'_>, (CloseCode, String)> {
    match frame.split_first() {
        Some((&STDIN, [])) => Ok(Said::End),
        Some((&STDIN, bytes)) => Ok(Said::Input(bytes)),
        Some((&CONTROL, text)) => match serde_json::from_slice(text) {
            Ok(Control {
                resize: Resize { rows, cols },
            }) => Ok(Said::Resize(TerminalSize { rows, cols })),
            Err(error) => {
                let reason = format!(
                    "on channel 3 send {{\"resize\": {{\"rows\": 24, \"cols\": 80}}}}: {error}"
                );
                Err((close_code::INVALID, reason))
            }
        },
        Some((channel, _)) => Err((
            close_code::POLICY,
            format!("channel {channel}: send on 0 (standard input) or 3 (control)"),
        )),
        None => Err((
            close_code::POLICY,
            "an empty frame: its first byte is the channel (0 or 3)".to_owned(),
        )),
    }
}

/// Does what the client said.
async fn take(input: &mut SessionInput, said: Said<'_>) {
    match said {
        Said::Input(bytes) => input.write(bytes).await,
        Said::End => input.close(),
        Said::Resize(size) => input.resize(size),
    }
}

/// Sends what the command writes, and how it ended; whether it did.
async fn send_all(sink: &mut SplitSink<WebSocket, Message>, session: &mut Session) -> bool {
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    loop {
        let message = tokio::select! {
            happening = session.next_event() => match happening {
                Ok(SessionEvent::Output(OutputStream::Stdout, bytes)) => frame(STDOUT, &bytes),
                Ok(SessionEvent::Output(OutputStream::Stderr, bytes)) => frame(STDERR, &bytes),
                Ok(SessionEvent::Ended(end)) => {
                    return sink.send(frame(CONTROL, ended(&end).to_string().as_bytes())).await.is_ok();
                }
                Err(problem) => {
                    tracing::error!(%problem, "a session broke off");
                    return true;
                }
            },
            _ = heartbeat.tick() => Message::Ping(Bytes::new()),
        };
        if sink.send(message).await.is_err() {
            return false;
        }
    }
}

fn frame(channel: u8, bytes: &[u8]) -> Message {
    let mut frame = Vec::with_capacity(bytes.len() + 1);
    frame.push(channel);
    frame.extend_from_slice(bytes);
    Message::Binary(frame.into())
}
