//! `netnsd try`: a demo that runs a daemon in a sandbox, creates a small network and prints the curl
//! commands that do the same.

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use http::Method;
use netnsd_api::PingResult;
use netnsd_client::{Answer, Client, shell_word};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;
use tokio::sync::oneshot;
use tracing_subscriber::filter::Targets;

use crate::{
    daemon::{self, DaemonError},
    engine::DriftPolicy,
    sandbox,
    settings::{LogFormat, Settings},
};

/// Path and body of each PUT of the demo, in order.
const NETWORK: &str = include_str!("../../examples/try/network.json");
/// Namespace, address and description of each ping of the demo.
const PINGS: &str = include_str!("../../examples/try/pings.json");

type Result<T> = std::result::Result<T, DaemonError>;

/// Runs the demo; with `exit` it ends after the pings, else at a signal.
///
/// # Errors
/// If the sandbox or the daemon cannot be started, or the network cannot be created.
pub fn run(exit: bool, log: Targets) -> Result<ExitCode> {
    // Before the sandbox, in whose user namespace every user is root.
    let as_root = geteuid().is_root();
    sandbox::enter().map_err(|error| DaemonError::Other(error.to_string()))?;
    let dir = tempfile::Builder::new()
        .prefix("netnsd-try-")
        .tempdir_in(reachable_temp_dir())
        .map_err(|error| {
            DaemonError::Other(format!("no temporary directory could be made: {error}"))
        })?;
    let settings = Settings {
        state_dir: dir.path().join("state"),
        socket: dir.path().join("netnsd.sock"),
        listen: Vec::new(),
        token_file: None,
        tls: None,
        access: Vec::new(),
        policy: DriftPolicy::default(),
        log_format: LogFormat::Text,
        log,
    };
    daemon::log_to_stderr(settings.log_format, &settings.log);
    let socket = settings.socket.clone();
    let tour = Tour {
        client: Client::unix(&socket),
        socket,
        colours: has_colours(),
        as_root,
    };
    daemon::build_runtime()?.block_on(run_demo(settings, tour, exit))
}

/// Returns a directory for the socket that other terminals can reach: not one that the sandbox
/// covers.
fn reachable_temp_dir() -> PathBuf {
    let dir = std::env::temp_dir();
    if dir.starts_with("/run") || dir.starts_with("/etc") {
        "/tmp".into()
    } else {
        dir
    }
}

fn has_colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Runs the daemon and the tour concurrently.
async fn run_demo(settings: Settings, tour: Tour, exit: bool) -> Result<ExitCode> {
    let (ready, is_ready) = oneshot::channel();
    let mut daemon = std::pin::pin!(daemon::run(settings, move |_| {
        let _ = ready.send(()); // The tour may have failed already.
    }));
    let walk = async {
        if is_ready.await.is_err() {
            return std::future::pending().await;
        }
        tour.show_network().await
    };
    let all_answered = tokio::select! {
        // A signal came before the end of the tour, or the start failed.
        result = &mut daemon => return result.map(|()| ExitCode::FAILURE),
        result = walk => result?,
    };
    if !exit {
        tour.show_next_steps();
        return daemon.await.map(|()| ExitCode::SUCCESS);
    }
    // The daemon stops in order, as at any signal.
    nix::sys::signal::kill(Pid::this(), nix::sys::signal::Signal::SIGTERM).map_err(|error| {
        DaemonError::Other(format!("the daemon could not be told to stop: {error}"))
    })?;
    daemon.await?;
    Ok(if all_answered {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Demo shown on stdout.
struct Tour {
    client: Client,
    socket: PathBuf,
    colours: bool,
    as_root: bool,
}

impl Tour {
    /// Creates the network and pings through it; returns true if all pings were answered.
    async fn show_network(&self) -> Result<bool> {
        let network: Vec<(String, Value)> = parse_bundled(NETWORK)?;
        let pings: Vec<(String, String, String)> = parse_bundled(PINGS)?;
        self.print_line(&format!(
            "A daemon in a sandbox of its own serves {}. It makes a network:",
            self.socket.display()
        ));
        for (path, body) in &network {
            self.print_line(&self.curl("PUT", path, Some(body)));
            let answer = self.send(Method::PUT, path, body).await?;
            if !answer.status.is_success() {
                return Err(DaemonError::Other(format!(
                    "PUT {path} was answered {}: {}",
                    answer.status,
                    answer.json()
                )));
            }
        }
        self.print_line("\nNow through all of it:");
        let mut all_answered = true;
        for (from, address, what) in &pings {
            all_answered &= self.ping(from, address, what).await?;
        }
        Ok(all_answered)
    }

    async fn ping(&self, from: &str, address: &str, what: &str) -> Result<bool> {
        let path = format!("/v1/namespaces/{from}/ping");
        // The first packet may wait for a bridge port that is only just up.
        let body = serde_json::json!({"address": address, "count": 3});
        self.print_line(&self.curl("POST", &path, Some(&body)));
        let answer = self.send(Method::POST, &path, &body).await?;
        let result = serde_json::from_slice::<PingResult>(&answer.body)
            .ok()
            .filter(|_| answer.status.is_success());
        let ok = result.as_ref().is_some_and(|result| result.received > 0);
        let word = if ok {
            self.paint("32", "ok")
        } else {
            self.paint("31", "FAIL")
        };
        let found = match result {
            Some(PingResult {
                rtt_ms: Some(rtt), ..
            }) => format!("{:.3} ms", rtt.min),
            Some(_) => "no answer".to_owned(),
            None => format!("{}: {}", answer.status, answer.json()),
        };
        self.print_line(&format!("  {word}  {from} -> {address} ({what}): {found}"));
        Ok(ok)
    }

    async fn send(&self, method: Method, path: &str, body: &Value) -> Result<Answer> {
        let sent = self.client.request(
            method,
            path,
            &[("content-type", "application/json")],
            body.to_string(),
        );
        sent.await
            .map_err(|error| DaemonError::Other(format!("{path} could not be asked for: {error}")))
    }

    fn show_next_steps(&self) {
        let pid = std::process::id();
        let nsenter = if self.as_root {
            format!("nsenter --target {pid} --mount --net")
        } else {
            format!("nsenter --target {pid} --user --preserve-credentials --mount --net")
        };
        self.print_line("\nGo on from another terminal:");
        self.print_line(&self.curl("GET", "/v1/namespaces", None));
        self.print_line(&self.curl("GET", "/v1/namespaces/router/links", None));
        self.print_line(&self.curl("DELETE", "/v1/veths/alice-bob", None));
        self.print_line("Look at it from inside, as ip sees it:");
        self.print_line(&format!("{nsenter} ip netns list"));
        self.print_line(&format!("{nsenter} ip -n router route"));
        self.print_line("Ctrl-C ends it and leaves nothing behind.");
    }

    /// Returns the shell command of a request.
    fn curl(&self, method: &str, path: &str, body: Option<&Value>) -> String {
        let socket = shell_word(&self.socket.to_string_lossy());
        let verb = if method == "GET" {
            String::new()
        } else {
            format!(" -X {method}")
        };
        let url = shell_word(&format!("http://netnsd{path}"));
        match body {
            Some(body) => format!(
                "curl --unix-socket {socket}{verb} -H 'Content-Type: application/json' {url} -d {}",
                shell_word(&body.to_string())
            ),
            None => format!("curl --unix-socket {socket}{verb} {url}"),
        }
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colours {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn print_line(&self, line: &str) {
        let _ = writeln!(io::stdout(), "{line}"); // The reader may be gone, as with `head`.
    }
}

fn parse_bundled<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|error| DaemonError::Other(format!("the bundled network is malformed: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundled_network_is_valid() {
        assert_eq!(
            parse_bundled::<Vec<(String, Value)>>(NETWORK)
                .unwrap()
                .len(),
            13
        );
        assert_eq!(
            parse_bundled::<Vec<(String, String, String)>>(PINGS)
                .unwrap()
                .len(),
            6
        );
    }
}
