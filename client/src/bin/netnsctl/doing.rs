//! What is done in a namespace: exec, ping; and its processes.

use std::{
    io::{self, Read, Write},
    str::FromStr,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use clap::Args;
use http::Method;
use netnsd_api::{ExecResult, Items, Namespace, PingResult, Process, ProcessNamespace};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    cli::Context,
    fail::Failure,
    output::{Format, line, print, table},
    resource::{each, names, path},
    words::{Body, pair},
};

/// `netnsctl netns exec …`
#[derive(Debug, Args)]
pub struct Exec {
    /// In every namespace of netnsd, one after the other
    #[arg(long)]
    all: bool,
    /// A variable of its environment; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// The directory that it runs in; by default /
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Kill it after so many seconds; by default 60
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
    /// The user that it runs as; by default root
    #[arg(long)]
    user: Option<String>,
    /// Give it what netnsctl reads on its standard input, to the end
    #[arg(short = 'i', long)]
    stdin: bool,
    /// The namespace (not with --all), and the command
    #[arg(value_name = "NAME> <COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

impl Exec {
    /// The namespace, unless it is all, and the command.
    fn split(&self) -> (Option<&String>, &[String]) {
        let (name, command) = match &self.words[..] {
            words if self.all => (None, words),
            [name, command @ ..] => (Some(name), command),
            [] => (None, &[][..]),
        };
        // What follows a "--" is the command, and so is what follows the name.
        (name, command.strip_prefix(&["--".to_owned()][..]).unwrap_or(command))
    }

    fn body(&self, command: &[String]) -> Result<Value, Failure> {
        let mut body = Body::default();
        body.put("argv", Some(command.to_vec()));
        body.map("env", &self.env, &[]);
        body.put("cwd", self.cwd.clone());
        body.put("timeout_s", self.timeout);
        body.put("user", self.user.clone());
        if self.stdin {
            let mut text = String::new();
            io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| Failure::Refused(format!("the standard input cannot be passed on: {error}")))?;
            body.put("stdin", Some(text));
        }
        Ok(body.value())
    }
}

/// Runs a command.
pub async fn exec(context: &Context, exec: &Exec) -> Result<(), Failure> {
    let (name, command) = exec.split();
    if command.is_empty() {
        return Err(Failure::Usage("no command: netnsctl netns exec NAME -- COMMAND".into()));
    }
    let body = exec.body(command)?;
    if let Some(name) = name {
        return exec_in(context, name, &body).await;
    }
    let all = names(&context.api.list("/v1/namespaces", &[]).await?.items)?;
    let result = each(&all, async |name| {
        if context.format == Format::Table {
            line(format!("\nnetns: {name}"))?;
        }
        exec_in(context, name, &body).await
    })
    .await;
    // Which command's exit code would it be?
    result.map_err(|failure| match failure {
        Failure::Exit(_) => Failure::Exit(1),
        other => other,
    })
}

async fn exec_in(context: &Context, name: &str, body: &Value) -> Result<(), Failure> {
    let answer = context.api.send(Method::POST, &format!("{}/exec", path::<Namespace>(name)), Some(body)).await?;
    let result: ExecResult = serde_json::from_slice(&answer)?;
    if context.format == Format::Json {
        line(&answer)?;
    } else {
        print(stream(result.stdout, result.stdout_base64)?)?;
        io::stderr().write_all(&stream(result.stderr, result.stderr_base64)?)?;
        if result.truncated {
            eprintln!("netnsctl: its output is cut after 4 MiB");
        }
        if result.timed_out {
            eprintln!("netnsctl: killed, as its time was over: --timeout gives it more");
        }
    }
    let signal = result.signal.as_deref().map(|name| Signal::from_str(name).map_or(0, |signal| signal as i32));
    match result.exit_code.or(signal.map(|number| 128 + number)) {
        Some(0) => Ok(()),
        code => Err(Failure::Exit(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))),
    }
}

/// One of the command's outputs.
fn stream(text: Option<String>, base64: Option<String>) -> Result<Vec<u8>, Failure> {
    match (text, base64) {
        (Some(text), _) => Ok(text.into_bytes()),
        (None, Some(base64)) => BASE64_STANDARD
            .decode(base64)
            .map_err(|error| Failure::Refused(format!("netnsd answered something unexpected: {error}"))),
        (None, None) => Ok(Vec::new()),
    }
}

/// `netnsctl netns ping …`
#[derive(Debug, Args)]
pub struct Ping {
    /// The namespace
    name: String,
    /// Whom to ping
    address: String,
    /// How many times
    #[arg(short, long, default_value_t = 1)]
    count: u32,
    /// Seconds to wait for each reply; by default 1
    #[arg(short = 'W', long, value_name = "SECONDS")]
    timeout: Option<f64>,
    /// Seconds between two requests; by default 0.2
    #[arg(short, long, value_name = "SECONDS")]
    interval: Option<f64>,
    /// Bytes of payload; by default 56
    #[arg(short, long, value_name = "BYTES")]
    size: Option<u32>,
}

/// Pings: succeeds if there was a reply.
pub async fn ping(context: &Context, ping: &Ping) -> Result<(), Failure> {
    let milliseconds = |seconds: f64| (seconds * 1000.0).round() as u64;
    let mut body = Body::default();
    body.put("address", Some(ping.address.clone()));
    body.put("count", Some(ping.count));
    body.put("timeout_ms", ping.timeout.map(milliseconds));
    body.put("interval_ms", ping.interval.map(milliseconds));
    body.put("size", ping.size);
    let path = format!("{}/ping", path::<Namespace>(&ping.name));
    let answer = context.api.send(Method::POST, &path, Some(&body.value())).await?;
    let result: PingResult = serde_json::from_slice(&answer)?;
    match context.format {
        Format::Json => line(&answer)?,
        _ => print(pinged(&ping.address, &result))?,
    }
    if result.received > 0 { Ok(()) } else { Err(Failure::Exit(1)) }
}

/// As ping(8) says it.
fn pinged(address: &str, result: &PingResult) -> String {
    let mut text = String::new();
    for reply in &result.replies {
        let seq = reply.seq;
        text += &match (&reply.error, reply.rtt_ms) {
            (None, Some(rtt)) => {
                let from = reply.from.as_deref().unwrap_or(address);
                let ttl = reply.ttl.map_or(String::new(), |ttl| format!(" ttl={ttl}"));
                format!("from {from}: icmp_seq={seq}{ttl} time={rtt:.3} ms\n")
            }
            (error, _) => format!("icmp_seq={seq} {}\n", error.as_deref().unwrap_or("no reply")),
        };
    }
    let loss = (result.loss * 100.0).round();
    text += &format!("{} transmitted, {} received, {loss}% loss", result.transmitted, result.received);
    if let Some(rtt) = result.rtt_ms {
        text += &format!(", rtt min/avg/max {:.3}/{:.3}/{:.3} ms", rtt.min, rtt.avg, rtt.max);
    }
    text + "\n"
}

/// Tells the namespace of a process: nothing, if it has no name.
pub async fn identify(context: &Context, pid: Option<u32>) -> Result<(), Failure> {
    let pid = pid.unwrap_or_else(std::process::id);
    let answer = context.api.get(&format!("/v1/processes/{pid}/namespace")).await?;
    if context.format == Format::Json {
        return line(&answer);
    }
    serde_json::from_slice::<ProcessNamespace>(&answer)?.namespace.map_or(Ok(()), line)
}

/// Lists the processes of a namespace.
pub async fn pids(context: &Context, name: &str, long: bool) -> Result<(), Failure> {
    let answer = context.api.get(&format!("{}/processes", path::<Namespace>(name))).await?;
    if context.format == Format::Json {
        return line(&answer);
    }
    let processes = serde_json::from_slice::<Items<Process>>(&answer)?.items;
    if !long || context.format == Format::Name {
        return processes.into_iter().try_for_each(|process| line(process.pid.to_string()));
    }
    let row = |process: Process| vec![process.pid.to_string(), process.uid.to_string(), process.command];
    print(table(&["PID", "UID", "COMMAND"], processes.into_iter().map(row).collect()))
}
