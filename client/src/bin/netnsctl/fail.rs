//! Why a command did not succeed: what is said on stderr, and the exit code.

use std::io;

use netnsd_api::{Code, Problem};
use netnsd_client::Error;

use crate::output::visible;

/// Why a command did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// The daemon refused, or answered what nobody understands.
    Refused(String),
    /// The command line makes no sense.
    Usage(String),
    /// The daemon cannot be reached.
    Unreachable(String),
    /// All is said; the exit code remains.
    Exit(u8),
    /// Whoever read the output went away (`| head`).
    Pipe,
}

impl Failure {
    /// Says it on stderr; gives the exit code.
    pub fn report(&self) -> u8 {
        let (text, code) = match self {
            Failure::Refused(text) => (text, 1),
            Failure::Usage(text) => (text, 2),
            Failure::Unreachable(text) => (text, 3),
            Failure::Exit(code) => return *code,
            Failure::Pipe => return 0,
        };
        eprintln!("netnsctl: {}", visible(text));
        code
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        // The API names its own parameter: here it is an option.
        let mut text = problem.to_string().replace("?cascade=true", "--cascade");
        let kernel = [
            ("op", &problem.op),
            ("errno", &problem.errno),
            ("kernel", &problem.kernel_message),
        ];
        let said: Vec<String> = kernel
            .iter()
            .filter_map(|(key, value)| Some((key, value.as_ref()?)))
            .filter(|(_, value)| !text.contains(value.as_str()))
            .map(|(key, value)| format!("{key}: {value}"))
            .collect();
        if !said.is_empty() {
            text = format!("{text} ({})", said.join(", "));
        }
        let hint = match problem.code {
            Code::InUse if !text.contains("--cascade") => {
                "delete what uses it first, or take it along with --cascade"
            }
            Code::AlreadyExists => "the command set changes what exists",
            Code::Forbidden => "this needs root: try sudo",
            Code::Unauthenticated => {
                "name the file that holds the token (--token-file FILE), or log in with it (netnsctl login URL)"
            }
            _ => "",
        };
        if !hint.is_empty() {
            text = format!("{text}\n  {hint}");
        }
        Failure::Refused(text)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Problem(problem) => (*problem).into(),
            Error::Unexpected { .. } => Failure::Refused(text),
            Error::Unreachable { kind, .. } => {
                let hint = match kind {
                    Some(io::ErrorKind::PermissionDenied) => {
                        "the socket is for root and the group netnsd: use sudo, or join the group (sudo usermod -aG \
                         netnsd $USER, then log in again)"
                    }
                    Some(io::ErrorKind::NotFound) => {
                        "is netnsd running? Start it (sudo systemctl start netnsd, or sudo netnsd), or say where its \
                         socket is (--url unix:///PATH or NETNSCTL_URL)"
                    }
                    Some(io::ErrorKind::ConnectionRefused) => {
                        "nobody listens there any more: start netnsd (sudo systemctl start netnsd, or sudo netnsd)"
                    }
                    _ => "did netnsd end meanwhile? Its log has more (journalctl -u netnsd)",
                };
                Failure::Unreachable(format!("{text}\n  {hint}"))
            }
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Failure::Refused(format!(
            "netnsd answered something unexpected: {error}; is it of another version?"
        ))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::Pipe,
            _ => Failure::Refused(format!("cannot write the output: {error}")),
        }
    }
}
