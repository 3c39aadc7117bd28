//! Error answers (RFC 9457).

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ResourceRef;

/// Codes of errors, for programs.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[allow(
    missing_docs,
    reason = "the codes are described where the contract lists them"
)]
pub enum Code {
    MalformedRequest,
    MalformedJson,
    InvalidQuery,
    Unauthenticated,
    Forbidden,
    NotFound,
    NoSuchPath,
    MethodNotAllowed,
    AlreadyExists,
    InUse,
    Conflict,
    PreconditionFailed,
    BodyTooLarge,
    UriTooLong,
    UnsupportedMediaType,
    InvalidField,
    UnknownField,
    UnknownReference,
    Duplicate,
    KernelRejected,
    UnsupportedByKernel,
    TooManyRequests,
    HeadTooLarge,
    StoreUnavailable,
    KernelUnavailable,
    ShuttingDown,
    Overloaded,
    Starting,
    Internal,
}

impl fmt::Display for Code {
    /// Writes the code as it is in JSON.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl Code {
    /// Returns the HTTP status of the code.
    pub fn status(self) -> u16 {
        match self {
            Code::MalformedRequest | Code::MalformedJson | Code::InvalidQuery => 400,
            Code::Unauthenticated => 401,
            Code::Forbidden => 403,
            Code::NotFound | Code::NoSuchPath => 404,
            Code::MethodNotAllowed => 405,
            Code::AlreadyExists | Code::InUse | Code::Conflict => 409,
            Code::PreconditionFailed => 412,
            Code::BodyTooLarge => 413,
            Code::UriTooLong => 414,
            Code::UnsupportedMediaType => 415,
            Code::InvalidField
            | Code::UnknownField
            | Code::UnknownReference
            | Code::Duplicate
            | Code::KernelRejected
            | Code::UnsupportedByKernel => 422,
            Code::TooManyRequests => 429,
            Code::HeadTooLarge => 431,
            Code::StoreUnavailable
            | Code::KernelUnavailable
            | Code::ShuttingDown
            | Code::Overloaded
            | Code::Starting => 503,
            Code::Internal => 500,
        }
    }

    fn title(self) -> &'static str {
        match self.status() {
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            409 => "Conflict",
            412 => "Precondition Failed",
            413 => "Content Too Large",
            414 => "URI Too Long",
            415 => "Unsupported Media Type",
            422 => "Unprocessable Content",
            429 => "Too Many Requests",
            431 => "Request Header Fields Too Large",
            503 => "Service Unavailable",
            _ => "Internal Server Error",
        }
    }
}

/// An error answer: `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`; see `code`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The reason phrase of the status.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The code of the error.
    pub code: Code,
    /// Explanation for people: the cause, and what to do.
    pub detail: String,
    /// JSON pointer to the invalid field (RFC 6901).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// The resources that prevent it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<ResourceRef>,
    /// The operation that the kernel refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<String>,
    /// The kernel's error by name, such as `EEXIST`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
    /// The kernel's message (extended ack).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_message: Option<String>,
}

impl Problem {
    /// Returns a problem with a code and an explanation only.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank".into(),
            title: code.title().into(),
            status: code.status(),
            code,
            detail: detail.into(),
            pointer: None,
            resources: Vec::new(),
            op: None,
            errno: None,
            kernel_message: None,
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)?;
        match &self.pointer {
            Some(pointer) => write!(f, " (at {pointer})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Problem {}

/// An invalid field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The code of the error.
    pub code: Code,
    /// JSON pointer (RFC 6901) to the field.
    pub pointer: String,
    /// The value, and what is expected.
    pub detail: String,
}

impl FieldError {
    /// Returns an error of the field at a pointer.
    pub fn new(code: Code, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            code,
            pointer: pointer.into(),
            detail: detail.into(),
        }
    }

    /// Returns an error of the field at a path of keys.
    pub fn at(code: Code, path: &[&str], detail: impl Into<String>) -> Self {
        Self::new(code, pointer(path), detail)
    }

    /// Prefixes the pointer with the path of the enclosing value.
    pub fn below(mut self, path: &[&str]) -> Self {
        self.pointer = pointer(path) + &self.pointer;
        self
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for FieldError {}

impl From<FieldError> for Problem {
    fn from(error: FieldError) -> Self {
        Problem {
            pointer: Some(error.pointer),
            ..Problem::new(error.code, error.detail)
        }
    }
}

/// Joins keys to a JSON pointer.
fn pointer(path: &[&str]) -> String {
    path.iter()
        .map(|part| format!("/{}", part.replace('~', "~0").replace('/', "~1")))
        .collect()
}
