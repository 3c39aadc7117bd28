//! Operations that failed, and the problems that their writes are answered with.

use std::fmt;

use netnsd_api::{Code, FieldError, Problem, ResourceRef};
use nix::errno::Errno;

use crate::kernel::{FeatureOp, Op, OpError};

/// Reason of a failed operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FailureCause {
    /// The kernel refused it.
    Refused(OpError),
    /// The kernel accepted it without an error, but a later observation does not show its effect.
    NotApplied,
}

impl fmt::Display for FailureCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::NotApplied => f.write_str("the kernel accepted it but did not apply it"),
        }
    }
}

/// Operation that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OpFailure {
    op: Op,
    cause: FailureCause,
}

impl OpFailure {
    /// Returns the failure of an operation that the kernel refused.
    pub fn refused(op: Op, error: OpError) -> Self {
        Self {
            op,
            cause: FailureCause::Refused(error),
        }
    }

    /// Returns the failure of an operation that had no effect.
    pub fn not_applied(op: Op) -> Self {
        Self {
            op,
            cause: FailureCause::NotApplied,
        }
    }

    /// Returns the operation.
    pub fn op(&self) -> &Op {
        &self.op
    }

    /// Returns true if an object that the operation needs is missing: something else may have
    /// deleted it meanwhile.
    pub fn is_missing_dependency(&self) -> bool {
        match &self.cause {
            FailureCause::Refused(error) => is_missing_dependency(error.errno),
            FailureCause::NotApplied => false,
        }
    }

    /// Returns the problem of a resource that this operation was for.
    pub fn to_problem(&self, resource: &ResourceRef) -> Problem {
        let error = match &self.cause {
            FailureCause::Refused(error) => error,
            FailureCause::NotApplied => {
                let detail = format!("{}: {}", self.describe(resource), self.cause);
                return Problem {
                    op: Some(self.op.label().into()),
                    ..Problem::new(Code::UnsupportedByKernel, detail)
                };
            }
        };
        let problem = match self.op.written_sysctl() {
            Some((_, key)) => {
                let is_mistaken =
                    matches!(error.errno, Errno::ENOENT | Errno::EACCES | Errno::EPERM)
                        && error.message.is_some();
                let code = if is_mistaken {
                    Code::InvalidField
                } else {
                    code_of(error.errno)
                };
                let detail = format!("sysctl {key} of {resource}: {error}");
                Problem::from(FieldError::at(code, &["sysctls", key.as_str()], detail))
            }
            None => {
                let detail = format!("the kernel refused {}: {error}", self.describe(resource));
                Problem {
                    kernel_message: error.message.clone(),
                    ..Problem::new(code_of(error.errno), detail)
                }
            }
        };
        Problem {
            op: Some(self.op.label().into()),
            errno: Some(format!("{:?}", error.errno)),
            ..problem
        }
    }

    fn describe(&self, resource: &ResourceRef) -> String {
        format!("{} of {resource} in {}", self.op.label(), self.op.ns())
    }
}

/// Returns the code of the problem that an errno becomes.
fn code_of(errno: Errno) -> Code {
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

/// Returns true if a failed operation may succeed later without a change of the intent. A sysctl
/// that is missing although its interface is there will not appear.
pub(super) fn may_succeed_later(op: &Op, errno: Errno) -> bool {
    match op {
        Op::Feature(FeatureOp::Sysctl { .. }) => errno == Errno::ENODEV,
        // The id of a deleted namespace, which the kernel is still clearing away.
        Op::Namespace(_) => errno == Errno::EAGAIN,
        Op::Link(_) | Op::Feature(_) => is_missing_dependency(errno),
    }
}

/// Returns true for errors that mean that an object an operation needs is not there (yet).
fn is_missing_dependency(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::ENETDOWN | Errno::ENODEV | Errno::ENOENT
    )
}

#[cfg(test)]
mod tests {
    use netnsd_api::Kind;

    use super::*;
    use crate::kernel::{LinkAt, LinkChange, Ns};

    #[test]
    fn ineffective_operation_is_unsupported_without_errno() {
        let bridge = ResourceRef::new(Kind::Bridge, "br0".parse().unwrap());
        let op = LinkAt::new(Ns::Host, "br0").set(LinkChange::Up(true));
        let problem = OpFailure::not_applied(op.clone()).to_problem(&bridge);
        assert_eq!(problem.code, Code::UnsupportedByKernel);
        assert_eq!(problem.errno, None, "the kernel reported no error");
        let problem = OpFailure::refused(op, Errno::EBUSY.into()).to_problem(&bridge);
        assert_eq!(problem.code, Code::Conflict);
        assert_eq!(problem.errno.as_deref(), Some("EBUSY"));
    }
}
