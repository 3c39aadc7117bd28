//! Commands on the other side of a WebSocket: what is typed goes in, what they write comes out, as
//! they go.

use std::io::{self, IsTerminal, Write};

use futures_util::{SinkExt, StreamExt};
use netnsd_client::tungstenite::Message;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use serde::Deserialize;
use serde_json::json;
use terminal_size::{Height, Width, terminal_size_of};
use tokio::{
    io::AsyncReadExt,
    signal::unix::{SignalKind, signal},
};

use crate::{cli::Context, curl::with_query, fail::Failure};

/// The channels of frames, by their first byte.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const CONTROL: u8 = 3;

/// How a command ended.
#[derive(Debug, Deserialize)]
pub struct End {
    pub exit_code: Option<i32>,
    pub signal: Option<String>,
    #[serde(default)]
    pub timed_out: bool,
}

/// The terminal that stdin is, with settings of its own; as it was before once dropped.
pub struct Changed(Termios);

impl Changed {
    /// Changes its settings so.
    pub fn by(change: impl FnOnce(&mut Termios)) -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut after = before.clone();
        change(&mut after);
        tcsetattr(io::stdin(), SetArg::TCSADRAIN, &after)?;
        Ok(Self(before))
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        let _nothing_left_to_do = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.0);
    }
}

/// Rows and columns of the terminal that stdout is.
fn size() -> (u16, u16) {
    let known = terminal_size_of(io::stdout()).filter(|(_, Height(rows))| *rows > 0);
    known.map_or((24, 80), |(Width(columns), Height(rows))| (rows, columns))
}

/// Runs a command, whose request this path and query are, to its end. With `input` it reads what
/// netnsctl reads; it gets a terminal where netnsctl has one.
pub async fn run(
    context: &Context,
    path: &str,
    mut query: Vec<(&str, String)>,
    input: bool,
) -> Result<End, Failure> {
    let tty = input && io::stdin().is_terminal() && io::stdout().is_terminal();
    if tty {
        let (rows, cols) = size();
        query.extend([
            ("tty", "true".to_owned()),
            ("rows", rows.to_string()),
            ("cols", cols.to_string()),
        ]);
        query.extend(
            std::env::var("TERM")
                .ok()
                .map(|term| ("env", format!("TERM={term}"))),
        );
    }
    let pairs: Vec<(&str, &str)> = query
        .iter()
        .map(|(key, value)| (*key, value.as_str()))
        .collect();
    let (mut sink, mut frames) = context
        .api
        .websocket(&with_query(path, &pairs))
        .await?
        .split();
    let _raw = tty.then(|| Changed::by(cfmakeraw)).transpose()?;
    let mut resized = signal(SignalKind::window_change())?;
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 32 << 10];
    let mut open = input;
    // Both ways at the same time: a command that writes while it is written to waits for neither.
    let outgoing = async {
        // A command that has ended takes no more: how it ended is still to be heard.
        if !open {
            let _ended_already = sink.send(frame(STDIN, b"")).await;
        }
        loop {
            let sent = tokio::select! {
                read = stdin.read(&mut buffer), if open => {
                    // An empty frame is the end of the input.
                    let count = read.unwrap_or(0);
                    open = count > 0;
                    sink.send(frame(STDIN, &buffer[..count])).await
                }
                _ = resized.recv() => {
                    let (rows, cols) = size();
                    let control = json!({"resize": {"rows": rows, "cols": cols}}).to_string();
                    sink.send(frame(CONTROL, control.as_bytes())).await
                }
            };
            open &= sent.is_ok();
        }
    };
    let incoming = async {
        loop {
            match frames.next().await {
                Some(Ok(Message::Binary(bytes))) => {
                    if let Some(end) = take(&bytes)? {
                        return Ok(end);
                    }
                }
                Some(Ok(Message::Close(Some(close)))) => return Err(broken(close.reason)),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(broken(error)),
                None => return Err(broken("the connection ended")),
            }
        }
    };
    tokio::select! {
        end = incoming => end,
        () = outgoing => Err(broken("nothing can be sent")),
    }
}

/// Writes what a frame brings; gives the end if it is that.
fn take(bytes: &[u8]) -> Result<Option<End>, Failure> {
    match bytes.split_first() {
        Some((&STDOUT, text)) => crate::output::raw(text)?,
        Some((&STDERR, text)) => io::stderr().write_all(text)?,
        Some((&CONTROL, text)) => return Ok(Some(serde_json::from_slice(text)?)),
        _ => {}
    }
    Ok(None)
}

fn frame(channel: u8, bytes: &[u8]) -> Message {
    Message::Binary([&[channel], bytes].concat().into())
}

fn broken(reason: impl std::fmt::Display) -> Failure {
    Failure::Refused(format!("the command was cut off: {reason}"))
}
