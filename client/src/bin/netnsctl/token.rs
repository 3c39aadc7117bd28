//! `netnsctl token` and `netnsctl audit`: for admins.

use clap::Subcommand;
use http::Method;
use netnsd_api::{AuditEntry, HostAccess, IssuedToken, Items, Role, Token};
use serde_json::json;

use crate::{
    cli::Context,
    curl::{Body, encoded, with_query},
    fail::Failure,
    output::{self, Format, line, or_dash, print, table},
    resource::each,
};

/// `netnsctl token …`
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// List tokens; their secrets are not kept
    #[command(visible_alias = "ls", after_help = "Example:\n  netnsctl token list")]
    List,
    /// Make a bearer token; its secret is printed this once
    #[command(
        after_help = "Example:\n  netnsctl token add ci --role operator --prefix ci- --expires-at 2099-01-31T12:00:00Z > ci.token"
    )]
    Add {
        /// What it is called
        name: String,
        /// What it may do: viewer, operator or admin
        #[arg(long)]
        role: Role,
        /// It reaches only resources whose names begin with this
        #[arg(long)]
        prefix: Option<String>,
        /// Rights on the host itself: none, ports (without addresses) or any; none with a prefix,
        /// else any
        #[arg(long)]
        host: Option<HostAccess>,
        /// When it stops being valid (RFC 3339)
        #[arg(long, value_name = "TIME")]
        expires_at: Option<String>,
    },
    /// Revoke tokens at once, also for what they have opened
    #[command(after_help = "Example:\n  netnsctl token delete ci")]
    Delete {
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

/// Runs it.
pub async fn run(context: &Context, command: TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::List => list(context).await,
        TokenCommand::Add {
            name,
            role,
            prefix,
            host,
            expires_at,
        } => {
            let mut body =
                json!({"name": name, "role": role, "prefix": prefix, "expires_at": expires_at});
            // A daemon from before there was this field takes what does not have it.
            if let Some(host) = host {
                body["host"] = json!(host);
            }
            let answer = context
                .api
                .send(Method::POST, "/v1/tokens", Some(&Body::Json(&body)))
                .await?;
            match context.format {
                Format::Json => line(&answer),
                Format::Yaml => print(output::yaml(&answer)?),
                Format::Name => line(name),
                Format::Table => line(serde_json::from_slice::<IssuedToken>(&answer)?.secret),
            }
        }
        TokenCommand::Delete { names } => {
            let delete = async |name: &str| {
                context
                    .api
                    .send(
                        Method::DELETE,
                        &format!("/v1/tokens/{}", encoded(name)),
                        None,
                    )
                    .await
                    .map(drop)
            };
            each(&names, delete).await
        }
    }
}

async fn list(context: &Context) -> Result<(), Failure> {
    let body = context.api.get("/v1/tokens").await?;
    let tokens = serde_json::from_slice::<Items<Token>>(&body)?.items;
    match context.format {
        Format::Json => line(&body),
        Format::Yaml => print(output::yaml(&body)?),
        Format::Name => tokens
            .into_iter()
            .try_for_each(|token| line(token.name.as_str())),
        Format::Table => {
            let row = |token: Token| {
                let Token {
                    name,
                    role,
                    prefix,
                    host,
                    expires_at,
                    created_at,
                } = token;
                vec![
                    name.to_string(),
                    role.to_string(),
                    or_dash(prefix),
                    host.to_string(),
                    or_dash(expires_at),
                    created_at,
                ]
            };
            print(table(
                &["NAME", "ROLE", "PREFIX", "HOST", "EXPIRES", "CREATED"],
                tokens.into_iter().map(row).collect(),
            ))
        }
    }
}

/// Tells who did what, with what answer.
pub async fn audit(
    context: &Context,
    since: Option<u64>,
    limit: Option<u32>,
) -> Result<(), Failure> {
    let asked = [
        ("since", since.map(|since| since.to_string())),
        ("limit", limit.map(|limit| limit.to_string())),
    ];
    let query: Vec<(&str, &str)> = asked
        .iter()
        .filter_map(|(key, value)| Some((*key, value.as_deref()?)))
        .collect();
    let body = context.api.get(&with_query("/v1/audit", &query)).await?;
    let entries = serde_json::from_slice::<Items<AuditEntry>>(&body)?.items;
    match context.format {
        Format::Json => line(&body),
        Format::Yaml => print(output::yaml(&body)?),
        Format::Name => entries
            .into_iter()
            .try_for_each(|entry| line(entry.id.to_string())),
        Format::Table => {
            let row = |entry: AuditEntry| {
                let AuditEntry {
                    id,
                    time,
                    caller,
                    from,
                    method,
                    path,
                    argv,
                    status,
                    count,
                    ..
                } = entry;
                let argv = or_dash(argv.map(|argv| argv.join(" ")));
                vec![
                    id.to_string(),
                    time,
                    or_dash(caller),
                    from,
                    method,
                    path,
                    status.to_string(),
                    count.to_string(),
                    argv,
                ]
            };
            let header = [
                "ID", "TIME", "CALLER", "FROM", "METHOD", "PATH", "STATUS", "COUNT", "COMMAND",
            ];
            print(table(&header, entries.into_iter().map(row).collect()))
        }
    }
}
