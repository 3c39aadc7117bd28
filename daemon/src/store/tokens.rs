//! Table `tokens`: bearer tokens, with the hash of their secret.

use netnsd_api::Token;
use sqlx::{FromRow, Row, SqliteConnection, sqlite::SqliteRow};

use crate::model::TokenRow;

/// Reads all tokens, by their names.
pub(super) async fn load_tokens(connection: &mut SqliteConnection) -> sqlx::Result<Vec<TokenRow>> {
    let stored: Vec<StoredToken> = sqlx::query_as(
        "SELECT name, role, prefix, host, expires_at, created_at, hash FROM tokens ORDER BY name",
    )
    .fetch_all(connection)
    .await?;
    stored.into_iter().map(StoredToken::decode).collect()
}

/// Inserts a token.
pub(super) async fn insert_token(
    connection: &mut SqliteConnection,
    TokenRow { token, hash }: &TokenRow,
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO tokens (name, role, prefix, host, expires_at, created_at, hash) \
        VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(token.name.as_str())
    .bind(token.role.as_str())
    .bind(&token.prefix)
    .bind(token.host.as_str())
    .bind(&token.expires_at)
    .bind(&token.created_at)
    .bind(hash)
    .execute(connection)
    .await
    .map(drop)
}

/// Deletes the token of this name.
pub(super) async fn delete_token(
    connection: &mut SqliteConnection,
    name: &str,
) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM tokens WHERE name = ?")
        .bind(name)
        .execute(connection)
        .await
        .map(drop)
}

struct StoredToken {
    name: String,
    role: String,
    prefix: Option<String>,
    host: String,
    expires_at: Option<String>,
    created_at: String,
    hash: String,
}

impl FromRow<'_, SqliteRow> for StoredToken {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            name: row.try_get("name")?,
            role: row.try_get("role")?,
            prefix: row.try_get("prefix")?,
            host: row.try_get("host")?,
            expires_at: row.try_get("expires_at")?,
            created_at: row.try_get("created_at")?,
            hash: row.try_get("hash")?,
        })
    }
}

impl StoredToken {
    fn decode(self) -> sqlx::Result<TokenRow> {
        let invalid = |error: netnsd_api::InvalidValue| {
            sqlx::Error::Decode(format!("token {}: {}", self.name, error.0).into())
        };
        Ok(TokenRow {
            token: Token {
                name: self.name.parse().map_err(invalid)?,
                role: self.role.parse().map_err(invalid)?,
                prefix: self.prefix,
                host: self.host.parse().map_err(invalid)?,
                expires_at: self.expires_at,
                created_at: self.created_at,
            },
            hash: self.hash,
        })
    }
}
