//! What is done in a namespace: exec, ping; and its processes.

use std::str::FromStr;

use clap::Args;
use http::Method;
use netnsd_api::{Items, Namespace, PingResult, Process, ProcessNamespace};
use nix::sys::signal::Signal;

use crate::{
    cli::Context,
    fail::Failure,
    output::{Format, line, print, table},
    resource::{each, names, path},
    terminal,
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
    /// Kill it after so many seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
    /// The user that it runs as; by default root
    #[arg(long)]
    user: Option<String>,
    /// The namespace (not with --all), and the command
    #[arg(
        value_name = "NAME> <COMMAND",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
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
        (
            name,
            command
                .strip_prefix(&["--".to_owned()][..])
                .unwrap_or(command),
        )
    }

    /// What it asks for, as a query's parameters.
    fn query(&self, command: &[String]) -> Vec<(&'static str, String)> {
        let mut query: Vec<_> = command.iter().map(|word| ("argv", word.clone())).collect();
        query.extend(
            self.env
                .iter()
                .map(|(key, value)| ("env", format!("{key}={value}"))),
        );
        query.extend(self.cwd.iter().map(|dir| ("cwd", dir.clone())));
        query.extend(
            self.timeout
                .map(|seconds| ("timeout_s", seconds.to_string())),
        );
        query.extend(self.user.iter().map(|user| ("user", user.clone())));
        query
    }
}

/// Runs a command.
pub async fn exec(context: &Context, exec: &Exec) -> Result<(), Failure> {
    let (name, command) = exec.split();
    if command.is_empty() {
        return Err(Failure::Usage(
            "no command: netnsctl netns exec NAME -- COMMAND".into(),
        ));
    }
    if let Some(name) = name {
        return exec_in(context, name, exec.query(command), true).await;
    }
    let all = names(&context.api.list("/v1/namespaces", &[]).await?.items)?;
    let result = each(&all, async |name| {
        line(format!("\nnetns: {name}"))?;
        exec_in(context, name, exec.query(command), false).await
    })
    .await;
    // Which command's exit code would it be?
    result.map_err(|failure| match failure {
        Failure::Exit(_) => Failure::Exit(1),
        other => other,
    })
}

/// Runs a shell.
pub async fn shell(context: &Context, name: &str) -> Result<(), Failure> {
    // One that is not there, as on another machine, is no reason to do without.
    let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into());
    let script = "command -v \"$0\" >/dev/null && exec \"$0\"; exec /bin/sh";
    let query = ["/bin/sh", "-c", script, &shell]
        .map(|word| ("argv", word.to_owned()))
        .into();
    exec_in(context, name, query, true).await
}

async fn exec_in(
    context: &Context,
    name: &str,
    query: Vec<(&str, String)>,
    input: bool,
) -> Result<(), Failure> {
    let end = terminal::run(
        context,
        &format!("{}/exec", path::<Namespace>(name)),
        query,
        input,
    )
    .await?;
    if end.timed_out {
        eprintln!("netnsctl: killed, as its time was over: --timeout gives it more");
    }
    let signal = end
        .signal
        .as_deref()
        .map(|name| Signal::from_str(name).map_or(0, |signal| signal as i32));
    match end.exit_code.or(signal.map(|number| 128 + number)) {
        Some(0) => Ok(()),
        code => Err(Failure::Exit(
            code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
        )),
    }
}

/// `netnsctl netns ping …`
#[derive(Debug, Args)]
pub struct Ping {
    /// The namespace
    name: String,
    /// Address to ping; a link-local one with its interface: fe80::1%eth0
    address: String,
    /// The interface to ping by; by default what the routes say
    #[arg(short = 'I', long, value_name = "INTERFACE")]
    interface: Option<String>,
    /// How many times, up to 1000; in all a ping takes 10 minutes at most
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
    body.put("interface", ping.interface.clone());
    body.put("count", Some(ping.count));
    body.put("timeout_ms", ping.timeout.map(milliseconds));
    body.put("interval_ms", ping.interval.map(milliseconds));
    body.put("size", ping.size);
    let path = format!("{}/ping", path::<Namespace>(&ping.name));
    let answer = context
        .api
        .send(
            Method::POST,
            &path,
            Some(&crate::curl::Body::Json(&body.value())),
        )
        .await?;
    let result: PingResult = serde_json::from_slice(&answer)?;
    match context.format {
        Format::Json => line(&answer)?,
        _ => print(pinged(&ping.address, &result))?,
    }
    if result.received > 0 {
        Ok(())
    } else {
        Err(Failure::Exit(1))
    }
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
            (error, _) => format!(
                "icmp_seq={seq} {}\n",
                error.as_deref().unwrap_or("no reply")
            ),
        };
    }
    let loss = (result.loss * 100.0).round();
    text += &format!(
        "{} transmitted, {} received, {loss}% loss",
        result.transmitted, result.received
    );
    if let Some(rtt) = result.rtt_ms {
        text += &format!(
            ", rtt min/avg/max {:.3}/{:.3}/{:.3} ms",
            rtt.min, rtt.avg, rtt.max
        );
    }
    text + "\n"
}

/// Tells the namespace of a process: nothing, if it has no name.
pub async fn identify(context: &Context, pid: Option<u32>) -> Result<(), Failure> {
    let pid = pid.unwrap_or_else(std::process::id);
    let answer = context
        .api
        .get(&format!("/v1/processes/{pid}/namespace"))
        .await?;
    if context.format == Format::Json {
        return line(&answer);
    }
    serde_json::from_slice::<ProcessNamespace>(&answer)?
        .namespace
        .map_or(Ok(()), line)
}

/// Lists the processes of a namespace.
pub async fn pids(context: &Context, name: &str, long: bool) -> Result<(), Failure> {
    let answer = context
        .api
        .get(&format!("{}/processes", path::<Namespace>(name)))
        .await?;
    if context.format == Format::Json {
        return line(&answer);
    }
    let processes = serde_json::from_slice::<Items<Process>>(&answer)?.items;
    if !long || context.format == Format::Name {
        return processes
            .into_iter()
            .try_for_each(|process| line(process.pid.to_string()));
    }
    let row = |process: Process| {
        vec![
            process.pid.to_string(),
            process.uid.to_string(),
            process.command,
        ]
    };
    print(table(
        &["PID", "UID", "COMMAND"],
        processes.into_iter().map(row).collect(),
    ))
}
