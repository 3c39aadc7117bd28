//! `netnsctl status`, `wait` and `version`.

use std::{
    str::FromStr,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use netnsd_api::{About, Kind, Ready, State};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    cli::Context,
    completion::kind_command,
    error::CliError,
    output::{Format, format_table, or_dash, print_line, print_text},
    resource::{collection_path, resource_path},
};

/// Time between the first two polls of `netnsctl wait`; it doubles with each poll.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Maximum time between two polls of `netnsctl wait`.
const MAX_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Prints the status of netnsd and its resources; fails until netnsd is ready.
pub async fn show_status(context: &Context) -> Result<(), CliError> {
    let about_body = context.api.get("/v1").await?;
    let ready_body = context.api.get("/v1/ready").await?;
    let ready: Ready = serde_json::from_slice(&ready_body)?;
    let result = if ready.ready {
        Ok(())
    } else {
        Err(CliError::Exit(1))
    };
    if context.format == Format::Json {
        print_line(&about_body)?;
        print_line(&ready_body)?;
        return result;
    }
    let about: About = serde_json::from_slice(&about_body)?;
    let not_in_sync: Vec<State> = State::ALL
        .into_iter()
        .filter(|state| {
            *state != State::InSync
                && ready
                    .states
                    .get(state.as_str())
                    .is_some_and(|count| *count > 0)
        })
        .collect();
    let mut rows = Vec::new();
    for kind in Kind::ALL {
        for state in &not_in_sync {
            let list = context
                .api
                .list(&collection_path(kind), &[("state", state.as_str())])
                .await?;
            for item in &list.items {
                let item: ItemStatus = serde_json::from_str(item.get())?;
                let name = format!("{kind}/{}", item.name);
                rows.push(vec![
                    name,
                    state.as_str().to_owned(),
                    or_dash(item.status.reason),
                ]);
            }
        }
    }
    if context.format == Format::Name {
        rows.iter().try_for_each(|row| print_line(&row[0]))?;
        return result;
    }
    let states = ready
        .states
        .iter()
        .map(|(state, count)| format!("{count} {state}"));
    let states: Vec<String> = states.collect();
    let fields = [
        (
            "netnsd",
            format!(
                "{} on {}, kernel {}",
                about.version, about.hostname, about.kernel
            ),
        ),
        ("listens", about.listen.join(" ")),
        ("since", about.started_at),
        (
            "ready",
            (if ready.ready {
                "yes"
            } else {
                "no: initial reconciliation in progress"
            })
            .into(),
        ),
        ("resources", states.join(", ")),
    ];
    print_text(format_table(
        &[],
        fields
            .into_iter()
            .map(|(field, value)| vec![field.to_owned(), value])
            .collect(),
    ))?;
    if !rows.is_empty() {
        print_text(format!(
            "\n{}",
            format_table(&["RESOURCE", "STATE", "REASON"], rows)
        ))?;
    }
    result
}

/// The status in a resource.
#[derive(Debug, Deserialize)]
struct ItemStatus {
    name: String,
    status: netnsd_api::Status<Value>,
}

/// Conditions to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Condition {
    /// The kernel matches the specification
    InSync,
    /// In sync, and both ends of a pair have carrier
    Ready,
    /// It does not exist
    Deleted,
}

/// A resource on the command line: `KIND/NAME`.
#[derive(Debug, Clone)]
pub struct ResourceArg {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
}

impl FromStr for ResourceArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = text
            .split_once('/')
            .ok_or("expected KIND/NAME, such as veth/lan0")?;
        let kind = parse_kind(kind)?;
        Ok(Self {
            kind,
            name: name.to_owned(),
        })
    }
}

/// Parses a kind by the name of its command, in JSON or in paths.
fn parse_kind(text: &str) -> Result<Kind, String> {
    Kind::ALL
        .into_iter()
        .find(|kind| [kind_command(*kind), kind.as_str(), kind.plural()].contains(&text))
        .ok_or_else(|| {
            let known = Kind::ALL.map(kind_command).join(", ");
            format!("{text:?} is not a kind: expected one of {known}")
        })
}

/// `netnsctl wait …`
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// The resources: netns/NAME, bridge/NAME, veth/NAME
    #[arg(required = true, value_name = "KIND/NAME")]
    resources: Vec<ResourceArg>,
    /// The condition
    #[arg(
        long = "for",
        value_enum,
        value_name = "CONDITION",
        default_value = "in_sync"
    )]
    condition: Condition,
    /// Give up after this number of seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0)]
    timeout: f64,
}

/// Waits until a condition holds for all resources.
pub async fn wait_for_resources(context: &Context, args: &WaitArgs) -> Result<(), CliError> {
    let deadline = Duration::try_from_secs_f64(args.timeout)
        .ok()
        .and_then(|timeout| Instant::now().checked_add(timeout))
        .ok_or_else(|| {
            CliError::Usage(format!(
                "--timeout {}: not a valid number of seconds",
                args.timeout
            ))
        })?;
    for resource in &args.resources {
        wait_for_resource(context, resource, args.condition, deadline).await?;
    }
    Ok(())
}

async fn wait_for_resource(
    context: &Context,
    resource: &ResourceArg,
    condition: Condition,
    deadline: Instant,
) -> Result<(), CliError> {
    let mut interval = MIN_POLL_INTERVAL;
    loop {
        let unmet = find_unmet_condition(context, resource, condition).await;
        let left = deadline.saturating_duration_since(Instant::now());
        match unmet {
            Ok(None) => return Ok(()),
            // A daemon that cannot be reached may be restarting.
            Ok(Some(_)) | Err(CliError::Unreachable(_)) if !left.is_zero() => {}
            Ok(Some(reason)) => {
                return Err(CliError::Refused(format!(
                    "timed out waiting: {} {} {reason}",
                    resource.kind, resource.name
                )));
            }
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(interval.min(left)).await;
        interval = (interval * 2).min(MAX_POLL_INTERVAL);
    }
}

/// Returns why the condition does not hold; `None` if it holds.
async fn find_unmet_condition(
    context: &Context,
    resource: &ResourceArg,
    condition: Condition,
) -> Result<Option<String>, CliError> {
    let path = resource_path(resource.kind, &resource.name);
    let body = match context.api.get_optional(&path).await? {
        Some(body) => body,
        None => return Ok((condition != Condition::Deleted).then(|| "does not exist".into())),
    };
    if condition == Condition::Deleted {
        return Ok(Some("still exists".into()));
    }
    let status = serde_json::from_slice::<ItemStatus>(&body)?.status;
    let reason = status
        .reason
        .map_or(String::new(), |reason| format!(": {reason}"));
    if status.state != State::InSync {
        return Ok(Some(format!("is {}{reason}", status.state.as_str())));
    }
    // Only veth pairs have this field.
    let is_ready = status
        .observed
        .is_none_or(|observed| observed["ready"] != Value::Bool(false));
    Ok((condition == Condition::Ready && !is_ready).then(|| format!("is not ready{reason}")))
}

/// Prints the versions of netnsctl and, if it can be reached, netnsd.
pub async fn show_versions(context: &Context) -> Result<(), CliError> {
    let answer = context.api.get("/v1").await;
    if context.format == Format::Json {
        return print_line(answer?);
    }
    print_line(format!("netnsctl {}", env!("CARGO_PKG_VERSION")))?;
    match answer {
        Ok(body) => print_line(format!(
            "netnsd {}",
            serde_json::from_slice::<About>(&body)?.version
        )),
        Err(CliError::Unreachable(_)) => print_line("netnsd cannot be reached"),
        Err(error) => Err(error),
    }
}
