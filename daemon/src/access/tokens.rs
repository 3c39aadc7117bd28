//! Authenticates callers: by access rules for users, groups and certificates, and by tokens.

use std::sync::{Arc, RwLock};

use jiff::Timestamp;
use netnsd_api::{HostAccess, NewToken, Role, Token};
use nix::unistd::{Gid, Uid};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::watch;

use super::{Caller, Identity, Uplink};
use crate::model::{TokenRow, format_rfc3339};

/// Subject of an access rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A user on a Unix socket.
    User(Uid),
    /// Members of a group on a Unix socket.
    Group(Gid),
    /// Clients with a certificate for this DNS name (`subjectAltName`, RFC 5280, section 4.2.1.6).
    Certificate(String),
}

/// Rights of a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRule {
    /// Subject that has the rights.
    pub subject: Subject,
    /// Role.
    pub role: Role,
    /// Prefix of the names of the resources that it may access; empty: all.
    pub prefix: String,
    /// Rights on the host itself.
    pub host: HostAccess,
}

impl AccessRule {
    fn matches(&self, identity: &Identity) -> bool {
        match &self.subject {
            Subject::User(uid) => identity.uid == *uid,
            Subject::Group(gid) => identity.gid == *gid || identity.groups.contains(gid),
            Subject::Certificate(_) => false,
        }
    }

    /// Returns a caller with the rights, under this name.
    fn caller(&self, name: String, identity: Option<Identity>) -> Caller {
        Caller {
            name,
            role: self.role,
            prefix: self.prefix.clone(),
            host: self.host,
            uplinks: Arc::default(),
            identity,
            expires_at: None,
            revoked: None,
            audit: None,
        }
    }
}

/// A token that has not been revoked; it may have expired.
#[derive(Debug)]
struct KnownToken {
    row: TokenRow,
    expires_at: Option<Timestamp>,
    revoked: watch::Sender<bool>,
}

/// Access rules and tokens, by which callers are authenticated.
#[derive(Debug, Default)]
pub struct Authenticator {
    /// The first rule that matches a caller applies.
    rules: Vec<AccessRule>,
    /// Hash of the token in `--token-file`.
    file: Option<String>,
    tokens: RwLock<Vec<KnownToken>>,
    /// Devices of the host that are lent.
    uplinks: Arc<[Uplink]>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hash(secret: &str) -> String {
    hex(&Sha256::digest(secret))
}

/// Compares in constant time.
fn ct_equal(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

/// Makes a token, and its secret of 256 random bits.
///
/// # Errors
/// If the kernel returns no random bytes (`getrandom(2)`).
pub fn issue_token(new: NewToken, now: Timestamp) -> Result<(TokenRow, String), getrandom::Error> {
    let mut bits = [0u8; 32];
    getrandom::fill(&mut bits)?;
    let secret = format!("netnsd_{}", hex(&bits));
    let NewToken {
        name,
        role,
        prefix,
        host,
        expires_at,
    } = new;
    // `NewToken::check` has refused what cannot be resolved.
    let host = HostAccess::resolve(host, role, prefix.as_deref()).unwrap_or_default();
    let token = Token {
        name,
        role,
        prefix,
        host,
        expires_at,
        created_at: format_rfc3339(now),
    };
    Ok((
        TokenRow {
            token,
            hash: hash(&secret),
        },
        secret,
    ))
}

impl Authenticator {
    /// Uses the configured rules, after one that makes root an admin, and the token of a file.
    pub fn new(rules: Vec<AccessRule>, file: Option<&str>) -> Self {
        let root = AccessRule {
            subject: Subject::User(Uid::from_raw(0)),
            role: Role::Admin,
            prefix: String::new(),
            host: HostAccess::Any,
        };
        Self {
            rules: std::iter::once(root).chain(rules).collect(),
            file: file.map(hash),
            tokens: RwLock::default(),
            uplinks: Arc::default(),
        }
    }

    /// Lends devices of the host.
    pub fn with_uplinks(self, uplinks: Vec<Uplink>) -> Self {
        Self {
            uplinks: uplinks.into(),
            ..self
        }
    }

    fn lend(&self, caller: Caller) -> Caller {
        Caller {
            uplinks: self.uplinks.clone(),
            ..caller
        }
    }

    /// Adds the tokens in the database.
    pub fn load(&self, rows: Vec<TokenRow>) {
        for row in rows {
            self.add(row);
        }
    }

    /// Makes a token valid; returns false if there is one of this name already.
    pub fn add(&self, row: TokenRow) -> bool {
        let mut tokens = self.write();
        let free = tokens
            .iter()
            .all(|known| known.row.token.name != row.token.name);
        if free {
            let expires_at = row
                .token
                .expires_at
                .as_deref()
                .and_then(|text| text.parse().ok());
            tokens.push(KnownToken {
                row,
                expires_at,
                revoked: watch::Sender::new(false),
            });
        }
        free
    }

    /// Revokes a token, also for the callers that it has authenticated.
    pub fn remove(&self, name: &str) {
        self.write().retain(|known| {
            let stays = known.row.token.name.as_str() != name;
            if !stays {
                known.revoked.send_replace(true);
            }
            stays
        });
    }

    /// Returns all tokens, sorted by name.
    pub fn tokens(&self) -> Vec<Token> {
        let mut all: Vec<Token> = self
            .read()
            .iter()
            .map(|known| known.row.token.clone())
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Returns the caller with these credentials; `None` if no rule matches.
    pub fn authenticate_unix(&self, identity: &Identity) -> Option<Caller> {
        let rule = self.rules.iter().find(|rule| rule.matches(identity))?;
        let caller = rule.caller(format!("uid {}", identity.uid), Some(identity.clone()));
        Some(self.lend(caller))
    }

    /// Returns the caller with a certificate for these names; `None` if no rule matches.
    pub fn authenticate_certificate(&self, names: &[String]) -> Option<Caller> {
        let (rule, name) = self.rules.iter().find_map(|rule| match &rule.subject {
            Subject::Certificate(name) if names.contains(name) => Some((rule, name)),
            _ => None,
        })?;
        Some(self.lend(rule.caller(format!("certificate {name}"), None)))
    }

    /// Returns the caller with this secret; `None` if no valid token has it.
    pub fn authenticate_token(&self, secret: &str) -> Option<Caller> {
        let hash = hash(secret);
        if self.file.as_ref().is_some_and(|file| ct_equal(file, &hash)) {
            return Some(Caller::admin("the token of --token-file"));
        }
        let now = Timestamp::now();
        let tokens = self.read();
        let known = tokens
            .iter()
            .find(|known| ct_equal(&known.row.hash, &hash))?;
        if known.expires_at.is_some_and(|at| at <= now) {
            return None;
        }
        let Token {
            name,
            role,
            prefix,
            host,
            ..
        } = &known.row.token;
        Some(Caller {
            name: format!("token {name}"),
            role: *role,
            prefix: prefix.clone().unwrap_or_default(),
            host: *host,
            uplinks: self.uplinks.clone(),
            identity: None,
            expires_at: known.expires_at,
            revoked: Some(known.revoked.subscribe()),
            audit: None,
        })
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Vec<KnownToken>> {
        self.tokens
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Vec<KnownToken>> {
        self.tokens
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(uid: u32, groups: &[u32]) -> Identity {
        let groups = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        Identity {
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(uid),
            groups,
        }
    }

    #[test]
    fn first_matching_rule_applies() {
        let lab = AccessRule {
            subject: Subject::User(Uid::from_raw(7)),
            role: Role::Viewer,
            prefix: "lab-".into(),
            host: HostAccess::None,
        };
        let team = AccessRule {
            subject: Subject::Group(Gid::from_raw(99)),
            role: Role::Operator,
            prefix: String::new(),
            host: HostAccess::Any,
        };
        let access = Authenticator::new(vec![lab, team], None);
        let role = |uid, groups: &[u32]| {
            access
                .authenticate_unix(&identity(uid, groups))
                .map(|caller| (caller.role, caller.prefix))
        };
        assert_eq!(role(0, &[]), Some((Role::Admin, String::new())));
        assert_eq!(role(7, &[99]), Some((Role::Viewer, "lab-".into())));
        assert_eq!(role(8, &[1, 99]), Some((Role::Operator, String::new())));
        assert_eq!(role(8, &[1]), None);
    }

    #[test]
    fn secret_is_valid_until_revoked_or_expired() {
        let access = Authenticator::new(Vec::new(), Some("file"));
        let new = |name: &str, expires_at: Option<&str>| NewToken {
            name: name.parse().unwrap(),
            role: Role::Operator,
            prefix: Some("ci-".into()),
            host: None,
            expires_at: expires_at.map(str::to_owned),
        };
        let (row, secret) =
            issue_token(new("ci", Some("2999-01-01T00:00:00Z")), Timestamp::now()).unwrap();
        assert!(
            !format!("{row:?}").contains(&secret[7..]),
            "the row contains the secret"
        );
        access.add(row);
        let (old, old_secret) =
            issue_token(new("old", Some("2001-01-01T00:00:00Z")), Timestamp::now()).unwrap();
        access.add(old);
        assert_eq!(access.authenticate_token("file").unwrap().role, Role::Admin);
        let caller = access.authenticate_token(&secret).unwrap();
        assert_eq!(
            (caller.name.as_str(), caller.role, caller.prefix.as_str()),
            ("token ci", Role::Operator, "ci-")
        );
        assert!(
            access.authenticate_token(&old_secret).is_none()
                && access.authenticate_token("").is_none()
        );
        access.remove("ci");
        assert!(access.authenticate_token(&secret).is_none());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(caller.expired());
    }
}
