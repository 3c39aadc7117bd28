//! Who may do what: roles, tokens, and the audit log.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Code, FieldError, InvalidValue, Name, string_enum::string_enum};

string_enum! {
    /// What a caller may do; each role includes those before it.
    #[serde(rename_all = "lowercase")]
    pub enum Role as "a role" {
        /// Reads.
        Viewer = "viewer",
        /// Also writes namespaces, bridges and veth pairs, and runs commands as its own uid in managed
        /// namespaces.
        Operator = "operator",
        /// Also runs commands as any user, adopts, attaches, reads the audit log and manages tokens.
        Admin = "admin",
    }
}

string_enum! {
    /// Rights of a caller on the host itself, outside of every namespace.
    #[derive(Default)]
    #[serde(rename_all = "lowercase")]
    pub enum HostAccess as "a right on the host" {
        /// Nothing.
        None = "none",
        /// Bridges, and ends of veth pairs that are ports of its own ones: without addresses, and under
        /// names that begin with its prefix.
        Ports = "ports",
        /// Anything.
        // A daemon from before there was this rule allowed it.
        #[default]
        Any = "any",
    }
}

impl HostAccess {
    /// Returns the rule of a caller: what is given, else none with a prefix, and any without.
    ///
    /// # Errors
    /// If an admin without a prefix is to be kept off the host.
    pub fn resolve(
        given: Option<Self>,
        role: Role,
        prefix: Option<&str>,
    ) -> Result<Self, InvalidValue> {
        match (given, prefix) {
            (Some(given @ (HostAccess::None | HostAccess::Ports)), None) if role == Role::Admin => {
                Err(InvalidValue(format!(
                    "\"{given}\" does not bind an admin without a prefix: leave it out"
                )))
            }
            (Some(given), _) => Ok(given),
            (None, Some(_)) => Ok(HostAccess::None),
            (None, None) => Ok(HostAccess::Any),
        }
    }
}

/// A bearer token to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// What it is called; the name is all that is ever shown of it again.
    pub name: Name,
    /// What it may do.
    pub role: Role,
    /// It is confined to resources whose names begin with this, references included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Its rights on the host itself; if left out, `none` with a prefix, and `any` without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostAccess>,
    /// When it stops being valid (RFC 3339); never, if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

impl NewToken {
    /// Checks what the types alone do not.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn check(&self) -> Result<(), FieldError> {
        let wrong = |pointer: &str, error: InvalidValue| {
            FieldError::new(Code::InvalidField, pointer, error.0)
        };
        if let Some(prefix) = &self.prefix {
            check_prefix(prefix).map_err(|error| wrong("/prefix", error))?;
        }
        HostAccess::resolve(self.host, self.role, self.prefix.as_deref())
            .map_err(|error| wrong("/host", error))?;
        Ok(())
    }
}

/// Checks that names can begin with this.
///
/// # Errors
/// What is wrong with it.
pub fn check_prefix(prefix: &str) -> Result<(), InvalidValue> {
    let begins_a_name = format!("{prefix}x").parse::<Name>().is_ok();
    if prefix.is_empty() || !begins_a_name {
        return Err(InvalidValue(format!(
            "{prefix:?} is no beginning of a name: it is 1 to 63 characters of A-Z a-z 0-9 . _ -, not starting with . or -"
        )));
    }
    Ok(())
}

/// A bearer token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// What it is called.
    pub name: Name,
    /// What it may do.
    pub role: Role,
    /// Names of resources that it reaches begin with this; null: all.
    pub prefix: Option<String>,
    /// Its rights on the host itself.
    #[serde(default)]
    pub host: HostAccess,
    /// When it stops being valid (RFC 3339, UTC); null: never.
    pub expires_at: Option<String>,
    /// When it was made (RFC 3339, UTC).
    pub created_at: String,
}

/// A token that was just made: the only time that its secret is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IssuedToken {
    /// The token.
    #[serde(flatten)]
    pub token: Token,
    /// What to send: `Authorization: Bearer SECRET`.
    pub secret: String,
}

/// Who did what, when, from where, with what answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Its number: later entries have greater ones.
    pub id: u64,
    /// When it was answered (RFC 3339, UTC).
    pub time: String,
    /// Who: `uid 1000`, `token ci`; null if it is not known.
    pub caller: Option<String>,
    /// The caller's role; null if it has none.
    pub role: Option<Role>,
    /// From where: `unix` or an address, with its port where the entry stands for one request.
    pub from: String,
    /// The request's method.
    pub method: String,
    /// The request's path, without its query; `…`, like `method`, where there were too many to be
    /// told apart.
    pub path: String,
    /// The command and its arguments, cut after 4 KiB (a last `…` stands for the rest); null if it
    /// is no command.
    pub argv: Option<Vec<String>>,
    /// The answer's status.
    pub status: u16,
    /// Number of requests that the entry stands for: what is answered by 400 or more and repeated
    /// within a minute is one entry for the first and one for all others, which has the time and
    /// the id of the last.
    #[serde(default = "one")]
    pub count: u64,
    /// The request's id.
    pub request_id: String,
}

/// Returns the count of an entry from a daemon that has no such field.
fn one() -> u64 {
    1
}
