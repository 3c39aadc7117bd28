//! Access control: roles, tokens and the audit log.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Code, FieldError, InvalidValue, Name, string_enum::string_enum};

string_enum! {
    /// Roles of callers; each includes those before it.
    #[serde(rename_all = "lowercase")]
    pub enum Role as "a role" {
        /// Read only.
        Viewer = "viewer",
        /// Also writes resources, and runs commands as its own uid in managed namespaces.
        Operator = "operator",
        /// Also runs commands as any user, adopts, attaches, reads the audit log and manages tokens.
        Admin = "admin",
    }
}

string_enum! {
    /// Rights of a caller on the host itself, outside all namespaces.
    #[derive(Default)]
    #[serde(rename_all = "lowercase")]
    pub enum HostAccess as "a right on the host" {
        /// No access.
        None = "none",
        /// Bridges, and ends of veth pairs that are ports of the caller's own bridges: without
        /// addresses, and with names that begin with the caller's prefix.
        Ports = "ports",
        /// Full access.
        // Daemons before this rule allowed everything.
        #[default]
        Any = "any",
    }
}

impl HostAccess {
    /// Returns the right of a caller: the given one, else `none` with a prefix and `any` without.
    ///
    /// # Errors
    /// If an admin without a prefix is denied access to the host.
    pub fn resolve(
        given: Option<Self>,
        role: Role,
        prefix: Option<&str>,
    ) -> Result<Self, InvalidValue> {
        match (given, prefix) {
            (Some(given @ (HostAccess::None | HostAccess::Ports)), None) if role == Role::Admin => {
                Err(InvalidValue(format!(
                    "\"{given}\" has no effect for an admin without a prefix: leave host out"
                )))
            }
            (Some(given), _) => Ok(given),
            (None, Some(_)) => Ok(HostAccess::None),
            (None, None) => Ok(HostAccess::Any),
        }
    }
}

/// A bearer token to create.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// Its name.
    pub name: Name,
    /// Its role.
    pub role: Role,
    /// Restricts it to resources whose names begin with this prefix, references included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Its rights on the host itself; if left out, `none` with a prefix and `any` without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostAccess>,
    /// Time at which it expires (RFC 3339); if left out, never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

impl NewToken {
    /// Validates what needs more than one field.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn check(&self) -> Result<(), FieldError> {
        if let Some(prefix) = &self.prefix {
            check_prefix(prefix).map_err(|error| invalid("/prefix", error))?;
        }
        HostAccess::resolve(self.host, self.role, self.prefix.as_deref())
            .map_err(|error| invalid("/host", error))?;
        Ok(())
    }
}

fn invalid(pointer: &str, error: InvalidValue) -> FieldError {
    FieldError::new(Code::InvalidField, pointer, error.0)
}

/// Checks that a name can begin with this prefix.
///
/// # Errors
/// If no name can.
pub fn check_prefix(prefix: &str) -> Result<(), InvalidValue> {
    let is_prefix_of_a_name = format!("{prefix}x").parse::<Name>().is_ok();
    if prefix.is_empty() || !is_prefix_of_a_name {
        return Err(InvalidValue(format!(
            "{prefix:?} is not a valid name prefix: it has 1 to 63 characters of A-Z a-z 0-9 . _ - and does not start with . or -"
        )));
    }
    Ok(())
}

/// A bearer token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Its name.
    pub name: Name,
    /// Its role.
    pub role: Role,
    /// Prefix of the names of resources that it can access; null: all.
    pub prefix: Option<String>,
    /// Its rights on the host itself.
    #[serde(default)]
    pub host: HostAccess,
    /// Time at which it expires (RFC 3339, UTC); null: never.
    pub expires_at: Option<String>,
    /// Time of creation (RFC 3339, UTC).
    pub created_at: String,
}

/// A new token, with its secret, which is never shown again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IssuedToken {
    /// The token.
    #[serde(flatten)]
    pub token: Token,
    /// The secret, for `Authorization: Bearer SECRET`.
    pub secret: String,
}

/// An entry of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Its id; later entries have greater ids.
    pub id: u64,
    /// Time of the answer (RFC 3339, UTC).
    pub time: String,
    /// The caller: `uid 1000`, `token ci`; null if unknown.
    pub caller: Option<String>,
    /// The caller's role; null if it has none.
    pub role: Option<Role>,
    /// The origin: `unix` or an address, with its port if the entry stands for one request.
    pub from: String,
    /// The request's method.
    pub method: String,
    /// The request's path, without its query; `…`, like `method`, if there were too many to list.
    pub path: String,
    /// The command and its arguments, cut after 4 KiB (marked by a last `…`); null if it is not a
    /// command.
    pub argv: Option<Vec<String>>,
    /// The HTTP status of the answer.
    pub status: u16,
    /// Number of requests that the entry stands for: of requests that are answered by 400 or more
    /// and repeated within a minute, the first has an entry, and all others share one with the
    /// time and the id of the last.
    #[serde(default = "single_request")]
    pub count: u64,
    /// The request's id.
    pub request_id: String,
}

/// Returns the count of entries from daemons without the field.
fn single_request() -> u64 {
    1
}
