//! Commands run in a namespace.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A command to run in a namespace, in the environment that `ip netns exec` sets up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The program, looked up in `PATH`, and its arguments.
    #[schema(min_items = 1)]
    pub argv: Vec<String>,
    /// Variables to add to the environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Its working directory; null: `/`.
    #[serde(default)]
    pub cwd: Option<String>,
    /// Its standard input; null: empty.
    #[serde(default)]
    pub stdin: Option<String>,
    /// Seconds after its start at which it is killed, even while its program cannot be opened yet.
    #[serde(default = "default_timeout")]
    pub timeout_s: f64,
    /// The user that it runs as, by name or number; null: root.
    #[serde(default)]
    pub user: Option<String>,
}

fn default_timeout() -> f64 {
    60.0
}

/// The outcome of a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExecResult {
    /// Its exit code; null if a signal ended it.
    pub exit_code: Option<i32>,
    /// The signal that ended it, such as `SIGKILL`.
    pub signal: Option<String>,
    /// Its standard output, if it is text: UTF-8 without control characters other than tab, newline
    /// and carriage return.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<String>,
    /// Its standard error, if it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
    /// Its standard output in base64, if it is not text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout_base64: Option<String>,
    /// Its standard error in base64, if it is not text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_base64: Option<String>,
    /// True if output was cut after 4 MiB.
    pub truncated: bool,
    /// True if it was killed because its time was over.
    #[serde(default)]
    pub timed_out: bool,
    /// Time that it ran, in milliseconds.
    pub duration_ms: f64,
}
