//! Error responses: always `application/problem+json` (RFC 9457).

use std::{any::Any, cmp::Reverse, fmt::Display};

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderValue, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use netnsd_api::{Code, FieldError, Problem, ResourceRef};
use netnsd_netlink::Error;
use nix::errno::Errno;

use super::routes;
use crate::{
    access::{AccessError, Caller},
    engine::{FailureCause, OpFailure, RecordError, Stopping, WriteError},
    intent::IntentError,
    kernel::{KernelError, query::QueryError},
    model::EditError,
    process::ProcessError,
    store::StoreError,
};

/// Error of a handler: the problem that is sent.
#[derive(Debug, Clone)]
pub(super) struct Failure(pub Box<Problem>);

impl Failure {
    /// Returns a problem of a code and a detail.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(code, detail)))
    }

    /// Returns the problem of a failed kernel query; `place` names the queried namespace or device.
    pub fn query(place: impl Display, error: QueryError) -> Self {
        match error {
            QueryError::NoSuchNamespace => {
                Self::new(Code::NotFound, format!("there is no {place}"))
            }
            QueryError::Kernel(error) => {
                let detail = format!("netlink request failed: {error}");
                Self(Box::new(Problem {
                    errno: errno_name(&error),
                    kernel_message: kernel_message(&error),
                    ..Problem::new(Code::KernelUnavailable, detail)
                }))
            }
        }
    }
}

/// Longest detail in the log, in characters: details may quote a large body.
const LOGGED_DETAIL_CHARS: usize = 500;

/// Reason of an error response, for the log line of its request.
#[derive(Debug, Clone)]
pub(super) struct Reason {
    pub code: Code,
    pub detail: String,
}

/// Every error that a problem can be made of.
impl<E> From<E> for Failure
where
    Problem: From<E>,
{
    fn from(error: E) -> Self {
        Self(Box::new(error.into()))
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::new(Code::StoreUnavailable, error.to_string())
    }
}

impl From<AccessError> for Problem {
    fn from(error: AccessError) -> Self {
        let detail = error.to_string();
        match error {
            AccessError::OutOfScope {
                resource,
                is_named: false,
                ..
            } => Problem {
                resources: vec![resource],
                ..Problem::new(Code::Forbidden, detail)
            },
            AccessError::OutOfScope { .. }
            | AccessError::NameNotGiven { .. }
            | AccessError::AdminOnly { .. }
            | AccessError::UnmanagedNamespace { .. }
            | AccessError::NoUser { .. } => Problem::new(Code::Forbidden, detail),
            AccessError::Field(error) => error.into(),
            AccessError::InDocument { item, error } => locate(&item, (*error).into()),
        }
    }
}

impl From<EditError> for Problem {
    fn from(error: EditError) -> Self {
        match error {
            EditError::Field(error) => error.into(),
            EditError::Unreadable(detail) => Problem::new(Code::Internal, detail),
        }
    }
}

impl From<IntentError> for Problem {
    fn from(error: IntentError) -> Self {
        let detail = error.to_string();
        match error {
            IntentError::Access(error) => error.into(),
            IntentError::Field { error, resources } => Problem {
                resources,
                ..error.into()
            },
            IntentError::Edit(error) => error.into(),
            IntentError::AlreadyExists(resource) => Problem {
                resources: vec![resource],
                ..Problem::new(Code::AlreadyExists, detail)
            },
            IntentError::NotFound(_) => Problem::new(Code::NotFound, detail),
            IntentError::InUse { dependents, .. } => Problem {
                resources: dependents,
                ..Problem::new(Code::InUse, detail)
            },
            IntentError::PreconditionFailed { .. } | IntentError::NetworkChanged { .. } => {
                Problem::new(Code::PreconditionFailed, detail)
            }
            IntentError::InDocument { item, error } => locate(&item, (*error).into()),
        }
    }
}

impl From<Stopping> for Problem {
    fn from(error: Stopping) -> Self {
        Problem::new(Code::ShuttingDown, error.to_string())
    }
}

impl From<RecordError> for Problem {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Stopping(error) => error.into(),
            RecordError::Store(error) => Problem::new(Code::StoreUnavailable, error.to_string()),
        }
    }
}

/// For [`send_write`](super::resource::send_write), which redacts it.
impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Self {
        let detail = error.to_string();
        match error {
            WriteError::Stopping(error) => error.into(),
            WriteError::QueueFull { .. } | WriteError::ShareFull { .. } => {
                Problem::new(Code::Overloaded, detail)
            }
            WriteError::Intent(error) => error.into(),
            WriteError::HostAddress(error) => error.into(),
            WriteError::Conflict {
                resource, pointer, ..
            } => Problem {
                pointer,
                resources: vec![resource],
                ..Problem::new(Code::Conflict, detail)
            },
            WriteError::ForeignLinks { resource, .. } => Problem {
                resources: vec![resource],
                ..Problem::new(Code::InUse, detail)
            },
            WriteError::Operation {
                resource,
                failure,
                others,
            } => Problem {
                resources: others,
                ..operation_problem(&resource, &failure, detail)
            },
            WriteError::Unobservable(_) => Problem::new(Code::KernelUnavailable, detail),
            WriteError::Store(_) => Problem::new(Code::StoreUnavailable, detail),
            WriteError::InDocument { item, error } => locate(&item, (*error).into()),
        }
    }
}

/// Returns the problem of a failed operation.
fn operation_problem(resource: &ResourceRef, failure: &OpFailure, detail: String) -> Problem {
    let op = Some(failure.op().label().to_owned());
    let error = match failure.cause() {
        FailureCause::Refused(error) => error,
        FailureCause::NotApplied => {
            return Problem {
                op,
                ..Problem::new(Code::UnsupportedByKernel, detail)
            };
        }
    };
    let code = code_of(error);
    let refused = (
        failure.refused_sysctl(),
        failure.refused_link_type(resource),
    );
    let problem = match refused {
        (Some(key), _) => {
            let code = match error {
                KernelError::Refused {
                    errno: Errno::ENOENT | Errno::EACCES | Errno::EPERM,
                    message: Some(_),
                } => Code::InvalidField,
                _ => code,
            };
            FieldError::at(code, &["sysctls", key.as_str()], detail).into()
        }
        (None, Some(kind)) if code == Code::UnsupportedByKernel => {
            let detail = format!("this kernel has no links of type {kind}: {detail}");
            Problem {
                kernel_message: kernel_message(error),
                ..FieldError::new(code, "/type", detail).into()
            }
        }
        (None, _) => Problem {
            kernel_message: kernel_message(error),
            ..Problem::new(code, detail)
        },
    };
    Problem {
        op,
        errno: errno_name(error),
        ..problem
    }
}

/// Returns the name of the kernel's error, such as `EEXIST`.
fn errno_name(error: &KernelError) -> Option<String> {
    error.errno().map(|errno| format!("{errno:?}"))
}

fn kernel_message(error: &KernelError) -> Option<String> {
    match error {
        KernelError::Refused { message, .. } => message.clone(),
        KernelError::Netlink(_)
        | KernelError::NotAPair { .. }
        | KernelError::AlreadyNamed { .. }
        | KernelError::IdNotFreed { .. } => None,
    }
}

/// Returns the code of the problem that a failure becomes.
fn code_of(error: &KernelError) -> Code {
    match error {
        KernelError::Refused { errno, .. } | KernelError::Netlink(Error::Kernel { errno, .. }) => {
            code_of_errno(*errno)
        }
        KernelError::NotAPair { .. }
        | KernelError::AlreadyNamed { .. }
        | KernelError::Netlink(Error::NameInUse) => Code::Conflict,
        KernelError::Netlink(Error::AnswerLost) => Code::KernelUnavailable,
        KernelError::IdNotFreed { .. }
        | KernelError::Netlink(
            Error::DumpInterrupted
            | Error::TruncatedAnswer
            | Error::InvalidAnswer
            | Error::NoSuchNamespace(_)
            | Error::RunDirBlocked
            | Error::NamespacesChanged
            | Error::Panicked
            | Error::IdsExhausted,
        ) => Code::KernelRejected,
    }
}

fn code_of_errno(errno: Errno) -> Code {
    match errno {
        Errno::EEXIST | Errno::EBUSY => Code::Conflict,
        // `ENOTSUPP` (include/linux/errno.h) is among those that libc has no name for.
        Errno::UnknownErrno | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT => {
            Code::UnsupportedByKernel
        }
        Errno::ENOMEM | Errno::ENOBUFS | Errno::EMFILE | Errno::ENFILE | Errno::ENOTCONN => {
            Code::KernelUnavailable
        }
        _ => Code::KernelRejected,
    }
}

/// Replacement of a redacted name.
const REDACTED: &str = "something else";

/// Redacts the resources in a problem's list that are out of the caller's scope, there and in its
/// detail. Code that makes a problem whose detail names another resource adds it to that list.
pub(super) fn redact(mut problem: Problem, caller: &Caller) -> Problem {
    let (shown, hidden): (Vec<_>, Vec<_>) = problem
        .resources
        .into_iter()
        .partition(|resource| caller.can_access(resource.name.as_str()));
    problem.resources = shown;
    let mut hidden: Vec<String> = hidden.iter().map(ToString::to_string).collect();
    // The longest first: one name may be the start of another.
    hidden.sort_by_key(|name| Reverse(name.len()));
    for name in hidden {
        problem.detail = problem.detail.replace(&name, REDACTED);
    }
    problem
}

impl From<ProcessError> for Problem {
    fn from(error: ProcessError) -> Self {
        let detail = error.to_string();
        match error {
            ProcessError::Field(error) => error.into(),
            ProcessError::NotExecutable { errno, .. } => Problem {
                errno: Some(format!("{errno:?}")),
                ..FieldError::at(Code::InvalidField, &["argv", "0"], detail).into()
            },
            ProcessError::Refused { step, errno } => {
                let code = match errno {
                    // A shortage: the same request may succeed later.
                    Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE => {
                        Code::KernelUnavailable
                    }
                    _ => Code::KernelRejected,
                };
                Problem {
                    op: Some(step.into_owned()),
                    errno: Some(format!("{errno:?}")),
                    ..Problem::new(code, detail)
                }
            }
            ProcessError::NoIpv6 => Problem::new(Code::UnsupportedByKernel, detail),
            ProcessError::NoNamespace(_)
            | ProcessError::StaleNamespace { .. }
            | ProcessError::NoProcess(_) => Problem::new(Code::NotFound, detail),
            ProcessError::HiddenProcess(_) => Problem::new(Code::Forbidden, detail),
            ProcessError::ForeignNamespace { .. }
            | ProcessError::DanglingLink(_)
            | ProcessError::TypesDiffer { .. }
            | ProcessError::NoResolvConf(_) => Problem::new(Code::Conflict, detail),
            ProcessError::ShareFull { .. } | ProcessError::Full { .. } => {
                Problem::new(Code::TooManyRequests, detail)
            }
            ProcessError::Stopping => Problem::new(Code::ShuttingDown, detail),
            ProcessError::NulInPath | ProcessError::ThreadEnded | ProcessError::WorkerFailed(_) => {
                Problem::new(Code::Internal, detail)
            }
        }
    }
}

/// Prefixes a problem's pointer with that of the item of a document that it is about.
fn locate(item: &str, problem: Problem) -> Problem {
    let pointer = Some(item.to_owned() + problem.pointer.as_deref().unwrap_or_default());
    Problem { pointer, ..problem }
}

/// Detail that clients get of an internal error.
const INTERNAL: &str = "internal error in netnsd: see its log at this X-Request-Id";

impl IntoResponse for Failure {
    fn into_response(mut self) -> Response {
        if self.0.code == Code::Internal {
            // The detail may reveal paths and the like: only the log gets it.
            tracing::error!(error = self.0.detail, "internal error");
            *self.0 = Problem::new(Code::Internal, INTERNAL);
        }
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut body = serde_json::to_vec(&*self.0).unwrap_or_default();
        body.push(b'\n');
        let mut response = (status, body).into_response();
        response.extensions_mut().insert(Reason {
            code: self.0.code,
            detail: self.0.detail.chars().take(LOGGED_DETAIL_CHARS).collect(),
        });
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        ) {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// Answers a path that no route has, with the known path that is most similar, if one is.
pub(super) async fn no_such_path(uri: Uri) -> Failure {
    let path = uri.path();
    // The version is often left out.
    let versioned = format!("/v1{path}");
    let paths = routes::index().paths();
    let candidates = paths.iter().flat_map(|pattern| {
        [path, &versioned].map(|given| (difference(pattern, given), fill_in(pattern, given)))
    });
    let nearest = candidates
        .filter(|(difference, _)| *difference <= MAX_DIFFERENCE)
        .min_by(|(a, _), (b, _)| a.total_cmp(b));
    let detail = match nearest {
        Some((_, nearest)) => format!(
            "there is no {path}; the nearest path is {nearest}: GET /openapi.yaml lists every path"
        ),
        None => {
            format!("there is no {path}: GET / lists the main paths, GET /openapi.yaml every one")
        }
    };
    Failure::new(Code::NoSuchPath, detail)
}

/// Fills the variables of a path pattern with the segments that a path has there.
fn fill_in(pattern: &str, path: &str) -> String {
    let mut given = path.split('/');
    let mut filled = Vec::new();
    for segment in pattern.split('/') {
        let given = given.next().filter(|given| !given.is_empty());
        filled.push(match given {
            Some(given) if segment.starts_with('{') => given,
            _ => segment,
        });
    }
    filled.join("/")
}

/// Words of ip(8) and of other tools, and the segments that stand for them here.
const SYNONYMS: [(&str, &str); 12] = [
    ("netns", "namespaces"),
    ("ns", "namespaces"),
    ("list-id", "namespaces"),
    ("pids", "processes"),
    ("ps", "processes"),
    ("identify", "processes"),
    ("monitor", "events"),
    ("logs", "events"),
    ("neigh", "neighbours"),
    ("arp", "neighbours"),
    ("addr", "addresses"),
    ("status", "ready"),
];
/// Largest difference of a path that is suggested, in segments.
const MAX_DIFFERENCE: f64 = 0.6;
/// Difference of a segment that is missing at the end.
const MISSING_SEGMENT: f64 = 0.4;

/// Returns the difference of a path from a pattern, in segments: 0 if it fits.
fn difference(pattern: &str, path: &str) -> f64 {
    let mut known = pattern.split('/');
    let mut sum = 0.0;
    for given in path.split('/').take(MAX_SEGMENTS) {
        sum += match known.next() {
            Some(segment) if segment.starts_with('{') && !given.is_empty() => 0.0,
            Some(segment) => difference_of_words(segment, given),
            None => 1.0,
        };
    }
    sum + known.count() as f64 * MISSING_SEGMENT
}

/// Number of segments that are compared.
const MAX_SEGMENTS: usize = 16;

/// Returns the difference of a word from a segment: 0 if it is that one, 1 if nothing is alike.
fn difference_of_words(segment: &str, given: &str) -> f64 {
    let given: String = given.chars().take(128).collect();
    let synonym = SYNONYMS.iter().find(|(word, _)| *word == given);
    let given = synonym.map_or(&*given, |(_, own)| *own);
    1.0 - strsim::normalized_levenshtein(segment, given)
}

/// Answers a method that a path does not have; axum adds `Allow`.
pub(super) async fn method_not_allowed(request: Request) -> Failure {
    let pattern = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("", MatchedPath::as_str);
    let methods = routes::index().methods(pattern).join(", ");
    let detail = format!(
        "{} does not take {}: it takes {methods}",
        request.uri().path(),
        request.method()
    );
    Failure::new(Code::MethodNotAllowed, detail)
}

/// Answers a request whose handler panicked; the panic hook has logged the message.
pub(super) fn panicked(_message: Box<dyn Any + Send>) -> Response {
    Failure::new(Code::Internal, "a panic").into_response()
}

/// Turns the plain-text responses of axum's own refusals into problems.
pub(super) async fn only_problems(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    let plain = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
    match response.status() {
        // A path that is not UTF-8 once it is decoded.
        StatusCode::BAD_REQUEST if plain => Failure::new(
            Code::NotFound,
            format!("{path} is not UTF-8 once it is decoded: nothing has such a name"),
        )
        .into_response(),
        status if status.is_server_error() && plain => {
            Failure::new(Code::Internal, status.to_string()).into_response()
        }
        _ => response,
    }
}

#[cfg(test)]
mod tests {
    use netnsd_api::{Kind, Name, ResourceRef};

    use super::*;
    use crate::kernel::{LinkAt, LinkChange, Ns};

    #[test]
    fn names_out_of_scope_are_redacted() {
        let mut caller = Caller::admin("token red");
        caller.prefix = "red-".into();
        let veth = |name: &str| ResourceRef::new(Kind::Veth, name.parse::<Name>().unwrap());
        let problem = Problem {
            resources: vec![veth("core"), veth("core-up"), veth("red-v")],
            ..Problem::new(Code::InUse, "used by veth core, veth core-up, veth red-v")
        };
        let redacted = redact(problem, &caller);
        assert_eq!(
            redacted.detail,
            "used by something else, something else, veth red-v"
        );
        assert_eq!(redacted.resources, [veth("red-v")]);
    }

    #[test]
    fn ineffective_operation_is_unsupported_without_errno() {
        let bridge = ResourceRef::new(Kind::Bridge, "br0".parse().unwrap());
        let op = LinkAt::new(Ns::Host, "br0").set(LinkChange::Up(true));
        let problem_of = |failure| {
            Problem::from(WriteError::Operation {
                resource: bridge.clone(),
                failure: Box::new(failure),
                others: Vec::new(),
            })
        };
        let problem = problem_of(OpFailure::not_applied(op.clone()));
        assert_eq!(problem.code, Code::UnsupportedByKernel);
        assert_eq!(problem.errno, None, "the kernel reported no error");
        let problem = problem_of(OpFailure::refused(op, Errno::EBUSY.into()));
        assert_eq!(problem.code, Code::Conflict);
        assert_eq!(problem.errno.as_deref(), Some("EBUSY"));
    }
}
