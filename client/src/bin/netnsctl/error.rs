//! Errors of commands: the text on stderr, and the exit code.

use std::io;

use netnsd_api::{Code, Problem};
use netnsd_client::Error;

use crate::output::escape_controls;

/// The reason why a command failed.
#[derive(Debug)]
pub enum CliError {
    /// The daemon refused, or its answer cannot be understood.
    Refused(String),
    /// The command line is wrong.
    Usage(String),
    /// The daemon cannot be reached.
    Unreachable(String),
    /// Everything has been reported; only the exit code is left.
    Exit(u8),
    /// The reader of the output closed it (`| head`).
    BrokenPipe,
}

impl CliError {
    /// Prints the error to stderr; returns the exit code.
    pub fn report(&self) -> u8 {
        let (text, code) = match self {
            CliError::Refused(text) => (text, 1),
            CliError::Usage(text) => (text, 2),
            CliError::Unreachable(text) => (text, 3),
            CliError::Exit(code) => return *code,
            CliError::BrokenPipe => return 0,
        };
        eprintln!("netnsctl: {}", escape_controls(text));
        code
    }

    /// Describes a problem, with a hint on a line of its own.
    pub fn from_problem(problem: &Problem, hint: Option<&str>) -> Self {
        // The API names its query parameter; here it is an option.
        let mut text = problem.to_string().replace("?cascade=true", "--cascade");
        let kernel_fields = [
            ("op", &problem.op),
            ("errno", &problem.errno),
            ("kernel", &problem.kernel_message),
        ];
        let details: Vec<String> = kernel_fields
            .iter()
            .filter_map(|(key, value)| Some((key, value.as_ref()?)))
            .filter(|(_, value)| !text.contains(value.as_str()))
            .map(|(key, value)| format!("{key}: {value}"))
            .collect();
        if !details.is_empty() {
            text = format!("{text} ({})", details.join(", "));
        }
        if let Some(hint) = hint {
            text = format!("{text}\n  {hint}");
        }
        CliError::Refused(text)
    }
}

/// Returns advice about a problem that does not depend on the caller.
pub fn problem_hint(problem: &Problem) -> Option<&'static str> {
    match problem.code {
        Code::InUse if !problem.detail.contains("cascade") => {
            Some("delete its dependents first, or delete them too with --cascade")
        }
        Code::AlreadyExists => Some("to change it, use the command set"),
        Code::Unauthenticated => {
            Some("give a token file (--token-file FILE), or save the token (netnsctl login URL)")
        }
        _ => None,
    }
}

impl From<Problem> for CliError {
    fn from(problem: Problem) -> Self {
        CliError::from_problem(&problem, problem_hint(&problem))
    }
}

impl From<Error> for CliError {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Problem(problem) => (*problem).into(),
            Error::Unexpected { .. } => CliError::Refused(text),
            Error::Unreachable { kind, .. } => {
                CliError::Unreachable(format!("{text}\n  {}", unreachable_hint(kind)))
            }
        }
    }
}

/// Returns advice about a daemon that cannot be reached; `kind` is the error of the connection
/// attempt.
fn unreachable_hint(kind: Option<io::ErrorKind>) -> &'static str {
    match kind {
        Some(io::ErrorKind::PermissionDenied) => {
            "only root and the group netnsd may open the socket: use sudo, or join the group \
             (sudo usermod -aG netnsd $USER, then log in again)"
        }
        Some(io::ErrorKind::NotFound) => {
            "is netnsd running? Start it (sudo systemctl start netnsd, or sudo netnsd), or give \
             its socket (--url unix:///PATH or NETNSCTL_URL)"
        }
        Some(io::ErrorKind::ConnectionRefused) => {
            "nothing listens there: start netnsd (sudo systemctl start netnsd, or sudo netnsd)"
        }
        _ => "did netnsd stop? See its log (journalctl -u netnsd)",
    }
}

impl From<serde_json::Error> for CliError {
    fn from(error: serde_json::Error) -> Self {
        CliError::Refused(format!(
            "unexpected answer from netnsd: {error}; is it of another version?"
        ))
    }
}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => CliError::BrokenPipe,
            _ => CliError::Refused(format!("cannot write the output: {error}")),
        }
    }
}
