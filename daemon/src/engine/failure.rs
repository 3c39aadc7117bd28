//! Operations that failed.

use std::fmt;

use netnsd_api::{Kind, ResourceRef, SysctlKey};
use netnsd_netlink::Error;
use nix::errno::Errno;

use crate::kernel::{FeatureOp, KernelError, LinkOp, Op};

/// Reason of a failed operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailureCause {
    /// The kernel refused it.
    Refused(KernelError),
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
pub struct OpFailure {
    op: Op,
    cause: FailureCause,
}

impl OpFailure {
    /// Returns the failure of an operation that the kernel refused.
    pub fn refused(op: Op, error: KernelError) -> Self {
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

    /// Returns the reason.
    pub fn cause(&self) -> &FailureCause {
        &self.cause
    }

    /// Returns true if an object that the operation needs is missing: something else may have
    /// deleted it meanwhile.
    pub fn is_missing_dependency(&self) -> bool {
        match &self.cause {
            FailureCause::Refused(error) => is_missing_dependency(error),
            FailureCause::NotApplied => false,
        }
    }

    /// Returns the message of a resource that this operation was for.
    pub fn describe(&self, resource: &ResourceRef) -> String {
        let Self { op, cause } = self;
        let place = || format!("{} of {resource} in {}", op.label(), op.ns());
        match (cause, op.written_sysctl()) {
            (FailureCause::NotApplied, _) => format!("{}: {cause}", place()),
            (FailureCause::Refused(error), Some((_, key))) => {
                format!("sysctl {key} of {resource}: {error}")
            }
            (FailureCause::Refused(error), None) => {
                format!("the kernel refused {}: {error}", place())
            }
        }
    }

    /// Returns the type of the link that the kernel refused to create, if that is a field of the
    /// resource.
    pub fn refused_link_type(&self, resource: &ResourceRef) -> Option<&'static str> {
        match (&self.cause, &self.op) {
            (FailureCause::Refused(_), Op::Link(LinkOp::Create(new)))
                if resource.kind == Kind::Link =>
            {
                Some(new.settings.device_type().kind())
            }
            (FailureCause::Refused(_) | FailureCause::NotApplied, _) => None,
        }
    }

    /// Returns the sysctl that the kernel refused to write, if the operation wrote one: a field of
    /// the resource.
    pub fn refused_sysctl(&self) -> Option<&SysctlKey> {
        match &self.cause {
            FailureCause::Refused(_) => self.op.written_sysctl().map(|(_, key)| key),
            FailureCause::NotApplied => None,
        }
    }
}

/// Returns true if a failed operation may succeed later without a change of the intent. A sysctl
/// that is missing although its interface is there will not appear.
pub(super) fn may_succeed_later(op: &Op, error: &KernelError) -> bool {
    match op {
        Op::Feature(FeatureOp::Sysctl { .. }) => error.errno() == Some(Errno::ENODEV),
        Op::Namespace(_) => {
            matches!(
                error,
                KernelError::IdNotFreed { .. }
                    | KernelError::Netlink(Error::DumpInterrupted | Error::NamespacesChanged)
            ) || error.errno() == Some(Errno::EAGAIN)
        }
        Op::Link(_) | Op::Feature(_) => is_missing_dependency(error),
    }
}

/// Returns true for errors that mean that an object an operation needs is not there (yet).
fn is_missing_dependency(error: &KernelError) -> bool {
    error.is_missing_namespace()
        || matches!(
            error.errno(),
            Some(
                Errno::ENETUNREACH
                    | Errno::EHOSTUNREACH
                    | Errno::ENETDOWN
                    | Errno::ENODEV
                    | Errno::ENOENT
            )
        )
}

/// Returns the name of an error in metrics: the kernel's, or `other`.
pub(super) fn name_error(error: &KernelError) -> String {
    error
        .errno()
        .map_or_else(|| "other".to_owned(), |errno| format!("{errno:?}"))
}
