//! Commands in namespaces: their result as one JSON object, or their output while they run, as
//! lines of JSON or over a WebSocket, with or without a terminal.

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
    access::{AccessError, Caller},
    engine::RecordError,
    model::Spec,
    process::{
        CallerScope, CommandEnd, Launch, OutputStream, Permit, ProcessError, Session, SessionEvent,
        SessionInput, TerminalSize, text_or_base64,
    },
    store::AuxRecord,
};

/// First byte of a frame: its channel.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const CONTROL: u8 = 3;
/// Largest message of a client, in bytes.
const MAX_MESSAGE: usize = 1 << 20;
/// Time between two Pings, by which a lost client is noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Longest reason in a Close frame, in bytes (RFC 6455, section 5.5).
const MAX_REASON: usize = 123;
/// Time for a client to close its side.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Default of `timeout_s` for a command on a WebSocket: a day, the longest time.
const MAX_TIMEOUT_S: f64 = 86_400.0;

/// Bytes of a response, with the permit of its command.
struct PermittedBytes {
    bytes: Vec<u8>,
    _permit: Permit,
}

impl AsRef<[u8]> for PermittedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Runs a command and answers when it has ended. The permit is held until the response has been
/// written to the socket, so that there are no more unread responses than permits.
pub(super) async fn run(app: &App, caller: Arc<Caller>, name: &Name, exec: &Exec) -> Answer {
    let launch = launch(app, &caller, name, exec)?;
    let record = record_command(app, &caller, exec, StatusCode::OK);
    // Dropping the future kills the command.
    let lifetime = StreamLifetime::new(&app.stopping, caller.clone());
    let (result, permit) = lifetime
        .bound(app.process.run_command(name, exec, launch, record))
        .await?;
    let bytes = serde_json::to_vec(&result).map_err(|error| {
        Problem::new(
            Code::Internal,
            format!("cannot serialize the result: {error}"),
        )
    })?;
    drop(result);
    let kind = HeaderValue::from_static("application/json");
    let body = Body::from(Bytes::from_owner(PermittedBytes {
        bytes,
        _permit: permit,
    }));
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, kind)], body).into_response())
}

/// Runs a command and streams its output, one JSON object per line.
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
    // Concurrent with the output: the command may write before it has read everything.
    let feed = tokio::spawn(async move {
        if let Some(input) = &mut input {
            input.write(text.as_bytes()).await;
        }
    });
    let lifetime = StreamLifetime::new(&app.stopping, caller);
    let state = Lines {
        session: Some(session),
        partial: [const { Vec::new() }; 2],
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
    /// `None` after the last line was returned. Dropping it kills the command.
    session: Option<Session>,
    /// Incomplete UTF-8 characters at the end of what was read of each stream.
    partial: [Vec<u8>; 2],
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
            let event = tokio::select! {
                event = session.next_event() => event.map_err(Problem::from),
                why = self.lifetime.expired() => Err(why),
            };
            let line = match event {
                Ok(SessionEvent::Output(stream, bytes)) => self.output(stream, &bytes),
                Ok(SessionEvent::Ended(end)) => {
                    self.session = None;
                    let rest = self.take_partial();
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

    /// Returns a line of output without splitting characters; `None` if there is no whole one.
    fn output(&mut self, stream: OutputStream, bytes: &[u8]) -> Option<Value> {
        let partial = &mut self.partial[stream as usize];
        partial.extend_from_slice(bytes);
        let cut = match std::str::from_utf8(partial) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => partial.len(),
        };
        let rest = partial.split_off(cut);
        let whole = std::mem::replace(partial, rest);
        (!whole.is_empty()).then(|| output(stream, whole))
    }

    /// Returns lines of the incomplete characters that are left at the end.
    fn take_partial(&mut self) -> String {
        let mut lines = String::new();
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            let partial = std::mem::take(&mut self.partial[stream as usize]);
            if !partial.is_empty() {
                lines += &format!("{}\n", output(stream, partial));
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

/// Returns the identity and the namespace of the caller's command.
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

/// Returns the holder of permits for a caller's command or ping, and the inode of the namespace
/// that it may enter: admins enter any, others only the one that netnsd made or adopted under this
/// name.
///
/// # Errors
/// `forbidden` where nothing is recorded, `conflict` where what is there is not what is recorded.
pub(super) fn origin(app: &App, caller: &Caller, name: &Name) -> Result<CallerScope, Problem> {
    if caller.role == Role::Admin {
        return Ok(CallerScope::default());
    }
    let Some(entry) = app.view.get(Kind::Namespace, name) else {
        let work = "commands and pings";
        return Err(AccessError::UnmanagedNamespace { work }.into());
    };
    let foreign = |reason| {
        Problem::from(ProcessError::ForeignNamespace {
            name: name.clone(),
            reason,
        })
    };
    if entry.state == netnsd_api::State::Conflict {
        return Err(foreign("its state is conflict"));
    }
    let stored: Stored<Namespace> = serde_json::from_slice(&entry.json).map_err(|error| {
        Problem::new(
            Code::Internal,
            format!("namespace {name} cannot be read: {error}"),
        )
    })?;
    let Some(observed) = stored.status.observed else {
        return Err(foreign("it is not there yet"));
    };
    Ok(CallerScope {
        share: Some(caller.name.clone()),
        inode: Some(observed.inode),
    })
}

/// Records a command in the audit log before it runs, since its caller may not wait for its end.
/// `status` is that of the expected response; another one is recorded in addition.
///
/// # Errors
/// `store_unavailable` if it cannot be recorded. That of an admin waits in memory then, if there is
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
        Err(RecordError::Stopping(error)) => Err(error.into()),
        Err(RecordError::Store(error)) => {
            let detail = format!(
                "the command was not run, since the audit log cannot be written ({error}): try again"
            );
            Err(Problem::new(Code::StoreUnavailable, detail))
        }
    }
}

/// Reads the command in the query of a WebSocket's request, and the size of its terminal.
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
    let timeout_s = query.value("timeout_s")?.unwrap_or(MAX_TIMEOUT_S);
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

/// Runs a command with its input and output on a WebSocket.
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
    // A frame is read whole before the size of its message is checked.
    let upgrade = upgrade
        .max_frame_size(MAX_MESSAGE)
        .max_message_size(MAX_MESSAGE);
    let response: Response = upgrade.on_upgrade(move |socket| pump(socket, session, lifetime));
    Ok(response)
}

/// Pumps data both ways until the command has ended, the client is gone, or the daemon stops. Then
/// drops the session, which kills the command, and closes the socket (RFC 6455, section 7.1.2).
async fn pump(socket: WebSocket, mut session: Session, mut lifetime: StreamLifetime) {
    let Some(mut input) = session.take_input() else {
        return;
    };
    let (mut sink, mut frames) = socket.split();
    let incoming = async {
        loop {
            match frames.next().await {
                Some(Ok(Message::Binary(frame))) => match parse_frame(&frame) {
                    Ok(message) => handle(&mut input, message).await,
                    Err(close) => return Some(close),
                },
                Some(Ok(Message::Text(_))) => {
                    let reason =
                        "a text frame: send binary ones, whose first byte is the channel (0 or 3)";
                    return Some((close_code::UNSUPPORTED, reason.to_owned()));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                // The loop below reads on, which answers the Close frame.
                Some(Ok(Message::Close(_))) | None => return None,
                Some(Err(error)) => return unreadable(error),
            }
        }
    };
    let outgoing = send_output(&mut sink, &mut session);
    let close = tokio::select! {
        close = incoming => close,
        ended = outgoing => ended.then(|| (close_code::NORMAL, "ended".to_owned())),
        why = lifetime.expired() => Some((close_code::AWAY, why.detail)),
    };
    drop(session);
    let mut is_unreadable = false;
    if let Some((code, mut reason)) = close {
        is_unreadable = matches!(code, close_code::SIZE | close_code::PROTOCOL);
        let cut = (0..=MAX_REASON)
            .rev()
            .find(|at| reason.is_char_boundary(*at));
        reason.truncate(cut.unwrap_or_default());
        let close = Message::Close(Some(CloseFrame {
            code,
            reason: reason.into(),
        }));
        let _ = sink.send(close).await; // the client may be gone
    }
    let closing = async {
        while let Some(Ok(_)) = frames.next().await {}
        if is_unreadable {
            // Nothing more can be read, and the client may still write.
            std::future::pending::<()>().await;
        }
    };
    // Closing a connection with unread data in it resets it, which loses what was sent (RFC 1122,
    // 4.2.2.13).
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
}

/// Returns the code and reason to close a socket that cannot be read any more; `None` if the client
/// is gone.
fn unreadable(error: axum::Error) -> Option<(CloseCode, String)> {
    let error = error.into_inner();
    match error.downcast_ref::<tungstenite::Error>()? {
        // The client closed the connection without a Close frame.
        tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        tungstenite::Error::Capacity(_) => Some((
            close_code::SIZE,
            format!("a message of more than {MAX_MESSAGE} bytes: send it in smaller ones"),
        )),
        error @ (tungstenite::Error::Protocol(_) | tungstenite::Error::Utf8(_)) => {
            Some((close_code::PROTOCOL, error.to_string()))
        }
        _ => None,
    }
}

/// Message on the control channel.
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

/// Message in a frame of a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ClientMessage<'f> {
    /// Standard input of the command.
    Input(&'f [u8]),
    /// End of the input.
    EndOfInput,
    /// New size of the terminal.
    Resize(TerminalSize),
}

/// Parses a frame.
///
/// # Errors
/// The code and reason to close the socket, if the frame is invalid.
pub(super) fn parse_frame(frame: &[u8]) -> Result<ClientMessage<'_>, (CloseCode, String)> {
    match frame.split_first() {
        Some((&STDIN, [])) => Ok(ClientMessage::EndOfInput),
        Some((&STDIN, bytes)) => Ok(ClientMessage::Input(bytes)),
        Some((&CONTROL, text)) => match serde_json::from_slice(text) {
            Ok(Control {
                resize: Resize { rows, cols },
            }) => Ok(ClientMessage::Resize(TerminalSize { rows, cols })),
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

/// Passes a client's message to the command.
async fn handle(input: &mut SessionInput, message: ClientMessage<'_>) {
    match message {
        ClientMessage::Input(bytes) => input.write(bytes).await,
        ClientMessage::EndOfInput => input.close(),
        ClientMessage::Resize(size) => input.resize(size),
    }
}

/// Sends the output of the command, and its result. Returns true if the session has ended, false if
/// the client is gone.
async fn send_output(sink: &mut SplitSink<WebSocket, Message>, session: &mut Session) -> bool {
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    loop {
        let message = tokio::select! {
            event = session.next_event() => match event {
                Ok(SessionEvent::Output(OutputStream::Stdout, bytes)) => frame(STDOUT, &bytes),
                Ok(SessionEvent::Output(OutputStream::Stderr, bytes)) => frame(STDERR, &bytes),
                Ok(SessionEvent::Ended(end)) => {
                    return sink.send(frame(CONTROL, ended(&end).to_string().as_bytes())).await.is_ok();
                }
                Err(error) => {
                    tracing::error!(%error, "exec session aborted");
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
