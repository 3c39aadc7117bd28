//! `netnsd try`: a demo that runs a daemon in a sandbox, creates a small network, draws it and pings
//! through it.

use std::{
    env,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use http::Method;
use netnsd_api::PingResult;
use netnsd_client::{Answer, Client, draw_graph, shell_word};
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

/// Columns of a terminal that every line of the demo fits into, unless it has a path.
const WIDTH: usize = 80;

type Result<T> = std::result::Result<T, DaemonError>;

/// Runs the demo; with `exit` it ends after the pings, else at a signal; with `verbose` it prints
/// the requests.
///
/// # Errors
/// If the sandbox or the daemon cannot be started, or the network cannot be created.
pub fn run(exit: bool, verbose: bool, log: Targets) -> Result<ExitCode> {
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
        uplinks: Vec::new(),
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
        verbose,
    };
    daemon::build_runtime()?.block_on(run_demo(settings, tour, exit))
}

/// Returns a directory for the socket that other terminals can reach: not one that the sandbox
/// covers.
fn reachable_temp_dir() -> PathBuf {
    let dir = env::temp_dir();
    if dir.starts_with("/run") || dir.starts_with("/etc") {
        "/tmp".into()
    } else {
        dir
    }
}

fn has_colours() -> bool {
    io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none()
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
    verbose: bool,
}

impl Tour {
    /// Creates the network, draws it and pings through it; returns true if all pings were answered.
    async fn show_network(&self) -> Result<bool> {
        let network: Vec<(String, Value)> = parse_bundled(NETWORK)?;
        let pings: Vec<(String, String, String)> = parse_bundled(PINGS)?;
        self.print_line("A daemon in a sandbox of its own, and its network:\n");
        for (path, body) in &network {
            let answer = self.send(Method::PUT, path, body).await?;
            if !answer.status.is_success() {
                return Err(DaemonError::Other(format!(
                    "PUT {path} was answered {}: {}",
                    answer.status,
                    answer.json()
                )));
            }
        }
        let mut times = Vec::new();
        for (from, address, what) in &pings {
            times.extend(self.ping(from, address, what).await?);
        }
        // After the pings, when the ports of the bridge are up.
        let graph = self.client.get_graph().await;
        let graph = graph.map_err(|error| {
            DaemonError::Other(format!("the network could not be drawn: {error}"))
        })?;
        self.print_line(&draw_graph(&graph, Some(WIDTH), self.colours));
        let all_answered = times.len() == pings.len();
        let counts = format!("{} of {} pings answered", times.len(), pings.len());
        let counts = self.paint(if all_answered { "32" } else { "31" }, &counts);
        let least = times.iter().copied().reduce(f64::min);
        let most = times.iter().copied().reduce(f64::max);
        match least.zip(most) {
            Some((least, most)) => {
                self.print_line(&format!("{counts}, in {least:.3} to {most:.3} ms"));
            }
            None => self.print_line(&counts),
        }
        Ok(all_answered)
    }

    /// Pings an address; returns the time that it took in milliseconds, if it was answered.
    async fn ping(&self, from: &str, address: &str, what: &str) -> Result<Option<f64>> {
        let path = format!("/v1/namespaces/{from}/ping");
        // The first packet may wait for a bridge port that is only just up.
        let body = serde_json::json!({"address": address, "count": 3});
        let answer = self.send(Method::POST, &path, &body).await?;
        let result = serde_json::from_slice::<PingResult>(&answer.body)
            .ok()
            .filter(|_| answer.status.is_success());
        let (time, found) = match result {
            Some(PingResult {
                rtt_ms: Some(rtt), ..
            }) => (Some(rtt.min), format!("{:.3} ms", rtt.min)),
            Some(_) => (None, "no answer".to_owned()),
            None => (None, format!("{}: {}", answer.status, answer.json())),
        };
        if self.verbose || time.is_none() {
            let word = match time {
                Some(_) => self.paint("32", "ok"),
                None => self.paint("31", "FAIL"),
            };
            self.print_line(&format!("  {word}  {from} -> {address} ({what}): {found}"));
        }
        Ok(time)
    }

    async fn send(&self, method: Method, path: &str, body: &Value) -> Result<Answer> {
        if self.verbose {
            self.print_line(&self.curl(&method, path, body));
        }
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
        let url = format!("unix://{}", self.socket.display());
        self.print_line("\nGo on in another terminal:");
        self.print_line(&format!("  export NETNSCTL_URL={}", shell_word(&url)));
        match find_netnsctl() {
            Netnsctl::InPath => {}
            Netnsctl::Beside(dir) => {
                let dir = shell_word(&dir.to_string_lossy());
                self.print_line(&format!("  export PATH=$PATH:{dir}"));
            }
            Netnsctl::Missing => {
                self.print_line("  cargo build --workspace    # netnsctl is not built yet");
            }
        }
        self.print_line("  netnsctl graph");
        self.print_line("  netnsctl netns exec alice -- ping -c 1 10.1.0.2");
        self.print_line("  netnsctl events -f");
        let pid = std::process::id();
        let user = if self.as_root {
            ""
        } else {
            " -U --preserve-credentials"
        };
        self.print_line("Or look at it from inside, with ip(8):");
        self.print_line(&format!(
            "  nsenter -t {pid}{user} -m -n ip -n router route"
        ));
        if !self.verbose {
            self.print_line("The requests that made it: netnsd try -v");
        }
        self.print_line("Ctrl-C ends it and leaves nothing behind.");
    }

    /// Returns the shell command of a request.
    fn curl(&self, method: &Method, path: &str, body: &Value) -> String {
        let socket = shell_word(&self.socket.to_string_lossy());
        let url = shell_word(&format!("http://netnsd{path}"));
        let body = shell_word(&body.to_string());
        format!(
            "curl --unix-socket {socket} -X {method} -H 'Content-Type: application/json' {url} \
             -d {body}"
        )
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

/// Place of netnsctl.
enum Netnsctl {
    InPath,
    /// In the directory of this program.
    Beside(PathBuf),
    Missing,
}

fn find_netnsctl() -> Netnsctl {
    let is_in = |dir: &Path| dir.join("netnsctl").is_file();
    let path = env::var_os("PATH").unwrap_or_default();
    if env::split_paths(&path).any(|dir| is_in(&dir)) {
        return Netnsctl::InPath;
    }
    let program = env::current_exe().ok();
    match program.as_deref().and_then(Path::parent) {
        Some(dir) if is_in(dir) => Netnsctl::Beside(dir.to_owned()),
        Some(_) | None => Netnsctl::Missing,
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
