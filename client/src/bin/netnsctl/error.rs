//! Errors of commands: the text on stderr, and the exit code.

use std::io;

use http::Method;
use netnsd_api::{Code, Problem};
use netnsd_client::Error;

use crate::{
    output::{escape_controls, join_words},
    suggest::find_nearest,
};

/// The reason why a command failed.
#[derive(Debug)]
pub enum CliError {
    /// The daemon refused.
    Problem {
        /// Its answer.
        problem: Box<Problem>,
        /// Advice, on a line of its own.
        hint: Option<String>,
    },
    /// The daemon refused, or its answer cannot be understood.
    Refused(String),
    /// The command line is wrong.
    Usage(String),
    /// The daemon cannot be reached.
    Unreachable(String),
    /// The program of `netns exec` was not started: the reason, and the exit code of a shell.
    NotExecuted(String, u8),
    /// Everything has been reported; only the exit code is left.
    Exit(u8),
    /// The reader of the output closed it (`| head`).
    BrokenPipe,
}

impl CliError {
    /// Prints the error to stderr; returns the exit code.
    pub fn report(&self) -> u8 {
        let code = match self {
            CliError::Problem { .. } | CliError::Refused(_) => 1,
            CliError::Usage(_) => 2,
            CliError::Unreachable(_) => 3,
            CliError::NotExecuted(_, code) => *code,
            CliError::Exit(code) => return *code,
            CliError::BrokenPipe => return 0,
        };
        eprintln!("netnsctl: {}", escape_controls(&self.text()));
        code
    }

    /// Returns the text for people; empty if everything has been reported.
    pub fn text(&self) -> String {
        match self {
            CliError::Problem { problem, hint } => {
                let place = problem.pointer.as_deref().map(describe_field);
                let place = place.filter(|place| !place.is_empty());
                let place = place.map_or(String::new(), |place| format!("{place}: "));
                let hint = hint.as_ref();
                let hint = hint.map_or(String::new(), |hint| format!("\n  {hint}"));
                format!("{place}{}{hint}", describe_problem(problem))
            }
            CliError::Refused(text)
            | CliError::Usage(text)
            | CliError::Unreachable(text)
            | CliError::NotExecuted(text, _) => text.clone(),
            CliError::Exit(_) | CliError::BrokenPipe => String::new(),
        }
    }
}

/// Returns a field in the words of the command line: `end 0, address` for
/// `/endpoints/0/addresses/1`.
pub fn describe_field(pointer: &str) -> String {
    let keys = pointer
        .split('/')
        .skip(1)
        .map(|key| key.replace("~1", "/").replace("~0", "~"));
    let mut words: Vec<String> = Vec::new();
    for key in keys {
        let is_index = key.bytes().all(|byte| byte.is_ascii_digit());
        match words.last_mut() {
            // One item of a list.
            Some(list) if is_index => match list.as_str() {
                "endpoints" => *list = format!("end {key}"),
                "addresses" => *list = "address".into(),
                other => *list = other.trim_end_matches('s').to_owned(),
            },
            Some(map) if map == "labels" || map == "sysctls" => {
                *map = format!("{} {key}", map.trim_end_matches('s'));
            }
            _ => words.push(key),
        }
    }
    words.join(", ")
}

/// Requests that texts of the API name, and the words of the command line for them.
const API_WORDS: &[(&str, &str)] = &[
    ("?cascade=true", "--cascade"),
    (": PUT replaces it, PATCH changes it", ""),
    (
        "take it over by PUT with ?adopt=true",
        "take it over (netnsctl adopt)",
    ),
    ("?adopt=true", "netnsctl adopt"),
    ("POST /v1/reconcile", "netnsctl reconcile"),
    ("GET /v1/namespaces/", "netnsctl netns show "),
];

/// Returns the explanation of a problem in the words of the command line, with what the kernel
/// said.
pub fn describe_problem(problem: &Problem) -> String {
    let mut text = API_WORDS
        .iter()
        .fold(problem.detail.clone(), |text, (api, own)| {
            text.replace(api, own)
        });
    // "POST /v1/veths requires role operator": the caller typed a command.
    let mut words = text.splitn(3, ' ');
    if let (Some(method), Some(path), Some(rest)) = (words.next(), words.next(), words.next())
        && path.starts_with("/v1/")
        && Method::from_bytes(method.as_bytes()).is_ok()
    {
        text = format!("this {rest}");
    }
    text = describe_unknown_word(&text)
        .or_else(|| describe_length(&text))
        .unwrap_or(text);
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
    if details.is_empty() {
        text
    } else {
        format!("{text} ({})", details.join(", "))
    }
}

/// Returns a message of serde about an unknown field or value with the nearest known one:
/// ``unknown field `nam`, expected one of `name`, `labels` ``.
fn describe_unknown_word(text: &str) -> Option<String> {
    let noun = ["unknown field `", "unknown value `"]
        .into_iter()
        .find(|prefix| text.starts_with(prefix))?;
    let mut quoted = text.split('`').skip(1).step_by(2);
    let word = quoted.next()?;
    let known: Vec<&str> = quoted.collect();
    let noun = noun.trim_end_matches(" `");
    Some(format!(
        "{noun} {word}{} Expected {}",
        match find_nearest(word, known.iter().copied()) {
            Some(near) => format!(": did you mean {near}?"),
            None => ".".to_owned(),
        },
        join_words(&known, "or")
    ))
}

/// Returns a message of serde about a list of another length in plain words: `invalid length 1,
/// expected an array of length 2`.
fn describe_length(text: &str) -> Option<String> {
    let (length, expected) = text
        .strip_prefix("invalid length ")?
        .split_once(", expected an array of length ")?;
    Some(format!("it has {length}, and needs {expected}"))
}

/// Returns advice about a problem that does not depend on the request.
pub fn problem_hint(problem: &Problem) -> Option<String> {
    let hint = match problem.code {
        Code::InUse if !problem.detail.contains("cascade") => {
            "delete its dependents first, or delete them too with --cascade"
        }
        Code::Unauthenticated => {
            "give a token file (--token-file FILE), or save the token (netnsctl login URL)"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

impl From<Problem> for CliError {
    fn from(problem: Problem) -> Self {
        CliError::Problem {
            hint: problem_hint(&problem),
            problem: Box::new(problem),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problem_is_told_in_words_of_the_client() {
        let text = |code, pointer: Option<&str>, detail: &str| {
            let mut problem = Problem::new(code, detail);
            problem.pointer = pointer.map(str::to_owned);
            CliError::from(problem).text()
        };
        let no_prefix = "\"10.1.1.1\" has no prefix length: write it as 10.1.1.1/24";
        for (pointer, place) in [
            ("/endpoints/1/addresses/0", "end 1, address: "),
            ("/routes/0/via", "route, via: "),
            ("/sysctls/net~1ipv4", "sysctl net/ipv4: "),
            ("/mtu", "mtu: "),
            ("", ""),
        ] {
            assert_eq!(
                text(Code::InvalidField, Some(pointer), no_prefix),
                format!("{place}{no_prefix}")
            );
        }
        let length = "invalid length 1, expected an array of length 2";
        assert_eq!(
            text(Code::InvalidField, Some("/endpoints"), length),
            "endpoints: it has 1, and needs 2"
        );
        let exists = "namespace net0 exists already: PUT replaces it, PATCH changes it";
        assert_eq!(
            text(Code::AlreadyExists, None, exists),
            "namespace net0 exists already"
        );
        assert_eq!(
            text(
                Code::Forbidden,
                None,
                "POST /v1/veths requires role operator; ci has role viewer"
            ),
            "this requires role operator; ci has role viewer"
        );
        assert_eq!(
            text(
                Code::UnknownField,
                Some("/nam"),
                "unknown field `nam`, expected one of `labels`, `name`"
            ),
            "nam: unknown field nam: did you mean name? Expected labels or name"
        );
    }
}
