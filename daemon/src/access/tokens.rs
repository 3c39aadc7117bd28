//! What makes a caller: rules for who is behind a Unix socket, and tokens.

use std::sync::RwLock;

use jiff::Timestamp;
use netnsd_api::{HostAccess, NewToken, Role, Token};
use nix::unistd::{Gid, Uid};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::watch;

use super::{Caller, Identity};
use crate::model::{TokenRow, format_rfc3339};

/// Whom a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A user.
    User(Uid),
    /// The members of a group.
    Group(Gid),
    /// Who has a certificate for this DNS name (`subjectAltName`, RFC 5280, section 4.2.1.6).
    Certificate(String),
}

/// What somebody may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRule {
    /// Who.
    pub subject: Subject,
    /// What.
    pub role: Role,
    /// The beginning of the names that they reach; empty: all.
    pub prefix: String,
    /// Their rights on the host itself.
    pub host: HostAccess,
}

impl AccessRule {
    fn is_about(&self, identity: &Identity) -> bool {
        match &self.subject {
            Subject::User(uid) => identity.uid == *uid,
            Subject::Group(gid) => identity.gid == *gid || identity.groups.contains(gid),
            Subject::Certificate(_) => false,
        }
    }

    /// Who may do it, under this name.
    fn caller(&self, name: String, identity: Option<Identity>) -> Caller {
        Caller {
            name,
            role: self.role,
            prefix: self.prefix.clone(),
            host: self.host,
            identity,
            expires_at: None,
            revoked: None,
            audit: None,
        }
    }
}

/// A token that is valid, unless it has expired.
#[derive(Debug)]
struct Known {
    row: TokenRow,
    expires_at: Option<Timestamp>,
    revoked: watch::Sender<bool>,
}

/// Who may call.
#[derive(Debug, Default)]
pub struct Authenticator {
    /// The first rule that is about somebody holds.
    rules: Vec<AccessRule>,
    /// The hash of the token of `--token-file`.
    file: Option<String>,
    tokens: RwLock<Vec<Known>>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hash(secret: &str) -> String {
    hex(&Sha256::digest(secret))
}

/// Compares in a time that does not tell where they differ.
fn same(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

/// Makes a token, and its secret: 256 random bits.
///
/// # Errors
/// When there is no randomness to be had.
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
    // A rule that `NewToken::check` would refuse binds nobody.
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
    /// Over the configured rules, before which root is an admin, and the token of a file.
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
        }
    }

    /// Takes the tokens that are recorded.
    pub fn load(&self, rows: Vec<TokenRow>) {
        for row in rows {
            self.add(row);
        }
    }

    /// From now on this token is valid; false if there is one of its name.
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
            tokens.push(Known {
                row,
                expires_at,
                revoked: watch::Sender::new(false),
            });
        }
        free
    }

    /// From now on this token is not valid, and whoever it let in is told.
    pub fn remove(&self, name: &str) {
        self.write().retain(|known| {
            let stays = known.row.token.name.as_str() != name;
            if !stays {
                known.revoked.send_replace(true);
            }
            stays
        });
    }

    /// Every recorded token, by name.
    pub fn tokens(&self) -> Vec<Token> {
        let mut all: Vec<Token> = self
            .read()
            .iter()
            .map(|known| known.row.token.clone())
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Who is behind a Unix socket; none if they may not do anything.
    pub fn authenticate_unix(&self, identity: &Identity) -> Option<Caller> {
        let rule = self.rules.iter().find(|rule| rule.is_about(identity))?;
        Some(rule.caller(format!("uid {}", identity.uid), Some(identity.clone())))
    }

    /// Who has a certificate for these names; none if they may not do anything.
    pub fn authenticate_certificate(&self, names: &[String]) -> Option<Caller> {
        let (rule, name) = self.rules.iter().find_map(|rule| match &rule.subject {
            Subject::Certificate(name) if names.contains(name) => Some((rule, name)),
            _ => None,
        })?;
        Some(rule.caller(format!("certificate {name}"), None))
    }

    /// Who sends this secret; none if it is of no valid token.
    pub fn authenticate_token(&self, secret: &str) -> Option<Caller> {
        let hash = hash(secret);
        if self.file.as_ref().is_some_and(|file| same(file, &hash)) {
            return Some(Caller::admin("the token of --token-file"));
        }
        let now = Timestamp::now();
        let tokens = self.read();
        let known = tokens.iter().find(|known| same(&known.row.hash, &hash))?;
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
            identity: None,
            expires_at: known.expires_at,
            revoked: Some(known.revoked.subscribe()),
            audit: None,
        })
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Vec<Known>> {
        self.tokens
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Vec<Known>> {
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
    fn the_first_rule_about_somebody_holds() {
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
    fn a_secret_lets_in_until_it_is_revoked_or_expires() {
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
            "the secret is not kept"
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
