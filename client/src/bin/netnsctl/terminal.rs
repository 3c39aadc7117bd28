//! Commands in a namespace over a WebSocket, with standard streams and a terminal.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
};

use futures_util::{Sink, SinkExt, Stream, StreamExt};
use netnsd_client::tungstenite::{self, Message};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use serde::Deserialize;
use serde_json::json;
use terminal_size::{Height, Width, terminal_size_of};
use tokio::{
    io::AsyncReadExt,
    signal::unix::{SignalKind, signal},
};

use crate::{api::with_query, cli::Context, error::CliError, output::write_raw};

/// Channels of frames, in their first byte.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const CONTROL: u8 = 3;

/// Bytes of the standard input in one frame.
const STDIN_CHUNK: usize = 32 << 10;

/// Terminal size, as rows and columns, if that of stdout is unknown.
const DEFAULT_SIZE: (u16, u16) = (24, 80);

/// The standard input of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// That of netnsctl, with a terminal if netnsctl has one.
    Stdin,
    /// Empty.
    Empty,
}

/// The outcome of a command.
#[derive(Debug, Deserialize)]
pub struct ExecEnd {
    pub exit_code: Option<i32>,
    pub signal: Option<String>,
    #[serde(default)]
    pub timed_out: bool,
}

/// Restores the settings of the terminal at stdin when dropped.
pub struct TermiosGuard(Termios);

impl TermiosGuard {
    /// Changes the settings of the terminal.
    pub fn change(change: impl FnOnce(&mut Termios)) -> io::Result<Self> {
        let original = tcgetattr(io::stdin())?;
        let mut changed = original.clone();
        change(&mut changed);
        tcsetattr(io::stdin(), SetArg::TCSADRAIN, &changed)?;
        Ok(Self(original))
    }
}

impl Drop for TermiosGuard {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.0); // It cannot be reported.
    }
}

/// Returns the rows and columns of the terminal at stdout.
fn terminal_size() -> (u16, u16) {
    match terminal_size_of(io::stdout()) {
        Some((Width(columns), Height(rows))) if rows > 0 => (rows, columns),
        _ => DEFAULT_SIZE,
    }
}

/// Runs the command of a request and returns its outcome.
pub async fn run_session(
    context: &Context,
    path: &str,
    mut query: Vec<(&str, String)>,
    input: Input,
) -> Result<ExecEnd, CliError> {
    let has_terminal =
        input == Input::Stdin && io::stdin().is_terminal() && io::stdout().is_terminal();
    if has_terminal {
        query.extend(terminal_params());
    }
    let pairs: Vec<(&str, &str)> = query
        .iter()
        .map(|(key, value)| (*key, value.as_str()))
        .collect();
    let socket = context
        .api
        .open_websocket(&with_query(path, &pairs))
        .await?;
    let (sink, frames) = socket.split();
    let _raw_mode_guard = has_terminal
        .then(|| TermiosGuard::change(cfmakeraw))
        .transpose()?;

    // Both directions run concurrently: a command may block on its output while it is written to.
    tokio::select! {
        end = receive_output(frames) => end,
        error = send_input(sink, input) => Err(error),
    }
}

/// Returns the query parameters for a terminal.
fn terminal_params() -> Vec<(&'static str, String)> {
    let (rows, cols) = terminal_size();
    let mut params = vec![
        ("tty", "true".to_owned()),
        ("rows", rows.to_string()),
        ("cols", cols.to_string()),
    ];
    if let Ok(term) = std::env::var("TERM") {
        params.push(("env", format!("TERM={term}")));
    }
    params
}

/// Sends the standard input and changes of the terminal size; returns only with an error.
async fn send_input(
    mut sink: impl Sink<Message, Error = tungstenite::Error> + Unpin,
    input: Input,
) -> CliError {
    let mut resizes = match signal(SignalKind::window_change()) {
        Ok(resizes) => resizes,
        Err(error) => return error.into(),
    };
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; STDIN_CHUNK];
    let mut is_open = input == Input::Stdin;
    if !is_open {
        // A failed send means that the command ended; its outcome is still to be received.
        let _ = sink.send(to_frame(STDIN, b"")).await;
    }
    loop {
        let sent = tokio::select! {
            read = stdin.read(&mut buffer), if is_open => {
                // An empty frame closes the command's standard input.
                let count = read.unwrap_or(0);
                is_open = count > 0;
                sink.send(to_frame(STDIN, &buffer[..count])).await
            }
            _ = resizes.recv() => {
                let (rows, cols) = terminal_size();
                let control = json!({"resize": {"rows": rows, "cols": cols}}).to_string();
                sink.send(to_frame(CONTROL, control.as_bytes())).await
            }
        };
        is_open &= sent.is_ok();
    }
}

/// Writes the output of the command until it ends.
async fn receive_output(
    mut frames: impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin,
) -> Result<ExecEnd, CliError> {
    loop {
        match frames.next().await {
            Some(Ok(Message::Binary(bytes))) => {
                if let Some(end) = write_frame(&bytes)? {
                    return Ok(end);
                }
            }
            Some(Ok(Message::Close(Some(close)))) => return Err(session_aborted(close.reason)),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(session_aborted(error)),
            None => return Err(session_aborted("the connection was closed")),
        }
    }
}

/// Writes the output in a frame; returns the outcome if the frame has it.
fn write_frame(bytes: &[u8]) -> Result<Option<ExecEnd>, CliError> {
    match bytes.split_first() {
        Some((&STDOUT, text)) => write_raw(text)?,
        Some((&STDERR, text)) => io::stderr().write_all(text)?,
        Some((&CONTROL, text)) => return Ok(Some(serde_json::from_slice(text)?)),
        _ => {}
    }
    Ok(None)
}

fn to_frame(channel: u8, bytes: &[u8]) -> Message {
    Message::Binary([&[channel], bytes].concat().into())
}

fn session_aborted(reason: impl fmt::Display) -> CliError {
    CliError::Refused(format!("session aborted: {reason}"))
}
