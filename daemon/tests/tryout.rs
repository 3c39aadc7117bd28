//! `netnsd try` as its user sees it; it makes a sandbox of its own.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use netnsd_client::Client;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const NETNSD: &str = env!("CARGO_BIN_EXE_netnsd");

/// `netnsd try` under way; ends with the test, also one that fails.
struct RunningTry(Child);

impl Drop for RunningTry {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM).unwrap();
            self.0.wait().unwrap();
        }
    }
}

fn run_try(options: &[&str]) -> (String, Output) {
    let output = Command::new(NETNSD)
        .arg("try")
        .args(options)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    (String::from_utf8(output.stdout.clone()).unwrap(), output)
}

/// Returns the drawing: the lines before those about the pings.
fn drawing(text: &str) -> &str {
    text.split_once("\n\n6 of 6 pings answered, in ")
        .unwrap_or_else(|| panic!("{text}"))
        .0
}

#[test]
fn drawing_is_the_one_in_the_readme() {
    let (text, output) = run_try(&["--exit"]);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(readme).unwrap();
    let drawing = drawing(&text);
    assert!(
        readme.contains(drawing),
        "README.md does not show:\n{drawing}"
    );
}

#[test]
fn verbose_prints_each_request() {
    let (text, _) = run_try(&["--exit", "--verbose"]);
    let is_curl = |line: &&str| line.starts_with("curl --unix-socket /");
    assert_eq!(text.lines().filter(is_curl).count(), 13 + 6, "{text}");
    assert!(
        text.contains("  ok  west -> 10.3.2.1 (east, through the router"),
        "{text}"
    );
    drawing(&text);
}

#[test]
fn next_steps_fit_a_terminal_and_work() {
    let mut tryout = RunningTry(
        Command::new(NETNSD)
            .arg("try")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let RunningTry(child) = &mut tryout;
    let mut text = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    while !text.contains("\nCtrl-C ends it") {
        assert!(out.read_line(&mut text).unwrap() > 0, "it ended: {text}");
    }
    assert!(text.lines().count() <= 25, "{text}");
    let is_short = |line: &str| line.chars().count() <= 80 || line.contains("export ");
    assert!(text.lines().all(is_short), "{text}");
    assert!(!text.contains("curl"), "{text}");
    let steps = text.lines().filter(|line| line.starts_with("  netnsctl "));
    assert_eq!(steps.count(), 3, "{text}");
    let socket = text.lines().find_map(|line| {
        line.strip_prefix("  export NETNSCTL_URL=unix://")
            .map(PathBuf::from)
    });
    let socket = socket.unwrap_or_else(|| panic!("{text}"));
    let graph = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { Client::unix(&socket).get_graph().await.unwrap() });
    assert_eq!(graph.edges.len(), 5 + 2, "{graph:#?}");

    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(!socket.parent().unwrap().exists(), "{}", socket.display());
}
