//! `netnsctl token` and `netnsctl audit`, for admins.

use clap::Subcommand;
use http::Method;
use netnsd_api::{AuditEntry, HostAccess, IssuedToken, Items, Role, Token};
use serde_json::json;

use crate::{
    api::{RequestBody, percent_encode, with_query},
    cli::Context,
    error::CliError,
    output::{Format, format_table, or_dash, print_line, print_text},
    resource::for_each_name,
    yaml::to_yaml,
};

/// `netnsctl token …`
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// List tokens, without their secrets
    #[command(visible_alias = "ls", after_help = "Example:\n  netnsctl token list")]
    List,
    /// Create a bearer token; its secret is printed only once
    #[command(
        after_help = "Example:\n  netnsctl token add ci --role operator --prefix ci- --expires-at 2099-01-31T12:00:00Z > ci.token"
    )]
    Add {
        /// The name
        name: String,
        /// Its role: viewer, operator or admin
        #[arg(long)]
        role: Role,
        /// Restrict it to resources whose names begin with this prefix
        #[arg(long)]
        prefix: Option<String>,
        /// Rights on the host itself: none, ports (without addresses) or any; none with a prefix,
        /// else any
        #[arg(long)]
        host: Option<HostAccess>,
        /// Expiry time (RFC 3339)
        #[arg(long, value_name = "TIME")]
        expires_at: Option<String>,
    },
    /// Revoke tokens immediately, and close their connections
    #[command(after_help = "Example:\n  netnsctl token delete ci")]
    Delete {
        /// The names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

/// Runs a command.
pub async fn run_token(context: &Context, command: TokenCommand) -> Result<(), CliError> {
    match command {
        TokenCommand::List => list_tokens(context).await,
        TokenCommand::Add {
            name,
            role,
            prefix,
            host,
            expires_at,
        } => {
            let mut body =
                json!({"name": name, "role": role, "prefix": prefix, "expires_at": expires_at});
            // Older daemons refuse the field.
            if let Some(host) = host {
                body["host"] = json!(host);
            }
            let answer = context
                .api
                .send(Method::POST, "/v1/tokens", Some(&RequestBody::Json(&body)))
                .await?;
            match context.format {
                Format::Json => print_line(&answer),
                Format::Yaml => print_text(to_yaml(&answer)?),
                Format::Name => print_line(name),
                Format::Table => print_line(serde_json::from_slice::<IssuedToken>(&answer)?.secret),
            }
        }
        TokenCommand::Delete { names } => {
            for_each_name(&names, async |name| {
                let path = format!("/v1/tokens/{}", percent_encode(name));
                context.api.send(Method::DELETE, &path, None).await?;
                Ok(())
            })
            .await
        }
    }
}

async fn list_tokens(context: &Context) -> Result<(), CliError> {
    let body = context.api.get("/v1/tokens").await?;
    let tokens = serde_json::from_slice::<Items<Token>>(&body)?.items;
    match context.format {
        Format::Json => print_line(&body),
        Format::Yaml => print_text(to_yaml(&body)?),
        Format::Name => tokens
            .into_iter()
            .try_for_each(|token| print_line(token.name.as_str())),
        Format::Table => print_text(format_table(
            &["NAME", "ROLE", "PREFIX", "HOST", "EXPIRES", "CREATED"],
            tokens.into_iter().map(token_row).collect(),
        )),
    }
}

fn token_row(token: Token) -> Vec<String> {
    vec![
        token.name.to_string(),
        token.role.to_string(),
        or_dash(token.prefix),
        token.host.to_string(),
        or_dash(token.expires_at),
        token.created_at,
    ]
}

/// Prints the audit log.
pub async fn show_audit_log(
    context: &Context,
    since: Option<u64>,
    limit: Option<u32>,
) -> Result<(), CliError> {
    let params = [
        ("since", since.map(|since| since.to_string())),
        ("limit", limit.map(|limit| limit.to_string())),
    ];
    let query: Vec<(&str, &str)> = params
        .iter()
        .filter_map(|(key, value)| Some((*key, value.as_deref()?)))
        .collect();
    let body = context.api.get(&with_query("/v1/audit", &query)).await?;
    let entries = serde_json::from_slice::<Items<AuditEntry>>(&body)?.items;
    match context.format {
        Format::Json => print_line(&body),
        Format::Yaml => print_text(to_yaml(&body)?),
        Format::Name => entries
            .into_iter()
            .try_for_each(|entry| print_line(entry.id.to_string())),
        Format::Table => print_text(format_table(
            &[
                "ID", "TIME", "CALLER", "FROM", "METHOD", "PATH", "STATUS", "COUNT", "COMMAND",
            ],
            entries.into_iter().map(audit_row).collect(),
        )),
    }
}

fn audit_row(entry: AuditEntry) -> Vec<String> {
    vec![
        entry.id.to_string(),
        entry.time,
        or_dash(entry.caller),
        entry.from,
        entry.method,
        entry.path,
        entry.status.to_string(),
        entry.count.to_string(),
        or_dash(entry.argv.map(|argv| argv.join(" "))),
    ]
}
