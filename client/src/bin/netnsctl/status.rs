//! `netnsctl status`, `wait` and `version`.

use std::{
    str::FromStr,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use netnsd_api::{About, Kind, Name, NotInSync, Ready, State};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    cli::Context,
    completion::kind_command,
    error::CliError,
    output::{
        Format, GREEN, RED, YELLOW, escape_controls, format_table, join_words, or_dash,
        print_json_or_yaml, print_line, write_raw,
    },
    resource::{collection_path, resource_path},
    suggest::did_you_mean,
};

/// Time between the first two polls of `netnsctl wait`; it doubles with each poll.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Maximum time between two polls of `netnsctl wait`.
const MAX_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Number of resources not in sync that `netnsctl status` shows.
const SHOWN_RESOURCES: usize = 20;

/// The answer of `netnsctl status` for programs.
#[derive(Debug, Serialize)]
struct Overview {
    netnsd: About,
    #[serde(flatten)]
    ready: Ready,
    not_in_sync: Vec<NotInSync>,
}

/// Prints the status of netnsd and its resources; fails unless netnsd is ready and everything is in
/// sync.
pub async fn show_status(context: &Context) -> Result<(), CliError> {
    let overview = Overview {
        netnsd: serde_json::from_slice(&context.api.get("/v1").await?)?,
        ready: serde_json::from_slice(&context.api.get("/v1/ready").await?)?,
        not_in_sync: list_not_in_sync(context).await?,
    };
    let body = serde_json::to_vec(&overview)?;
    if !print_json_or_yaml(context.format, &body)? {
        match context.format {
            Format::Name => overview
                .not_in_sync
                .iter()
                .try_for_each(|item| print_line(format!("{}/{}", item.kind, item.name)))?,
            Format::Table | Format::Json | Format::Yaml => {
                write_raw(format_overview(context, &overview))?;
            }
        }
    }
    if overview.ready.ready && overview.not_in_sync.is_empty() {
        Ok(())
    } else {
        Err(CliError::Exit(1))
    }
}

/// Reads the resources that are not in sync.
async fn list_not_in_sync(context: &Context) -> Result<Vec<NotInSync>, CliError> {
    let mut found = Vec::new();
    for kind in Kind::ALL {
        for state in State::ALL {
            if state == State::InSync {
                continue;
            }
            let list = context
                .api
                .list(&collection_path(kind), &[("state", state.as_str())])
                .await?;
            for item in &list.items {
                let item: ItemStatus = serde_json::from_str(item.get())?;
                found.push(NotInSync {
                    kind,
                    name: item.name,
                    state,
                    reason: item.status.reason,
                });
            }
        }
    }
    Ok(found)
}

fn format_overview(context: &Context, overview: &Overview) -> String {
    let Overview {
        netnsd,
        ready,
        not_in_sync,
    } = overview;
    let total: usize = ready.states.values().sum();
    let count = |state: State| ready.states.get(state.as_str()).copied().unwrap_or(0);
    let ready_text = if ready.ready {
        "yes".to_owned()
    } else {
        let tried = total - count(State::Pending).min(total);
        format!("no, still applying ({tried} of {total})")
    };
    let states: Vec<String> = State::ALL
        .into_iter()
        .filter(|state| count(*state) > 0)
        .map(|state| context.paint(state_color(state), &format!("{} {state}", count(state))))
        .collect();
    let states = if states.is_empty() {
        "none".to_owned()
    } else {
        states.join(", ")
    };
    let fields = [
        (
            "netnsd",
            format!(
                "{} on {}, kernel {}",
                netnsd.version, netnsd.hostname, netnsd.kernel
            ),
        ),
        ("listens", netnsd.listen.join(" ")),
        ("since", netnsd.started_at.clone()),
        ("ready", ready_text),
    ];
    let rows = fields.map(|(field, value)| vec![field.to_owned(), value]);
    let mut text = escape_controls(&format_table(&[], rows.into())).into_owned();
    text += &format!("resources  {states}\n");
    if not_in_sync.is_empty() {
        return text;
    }
    let rows = not_in_sync.iter().take(SHOWN_RESOURCES).map(|item| {
        vec![
            format!("{}/{}", item.kind, item.name),
            item.state.to_string(),
            or_dash(item.reason.as_ref()),
        ]
    });
    let table = format_table(&["RESOURCE", "STATE", "REASON"], rows.collect());
    let mut lines = table.lines();
    text += &format!("\n{}\n", lines.next().unwrap_or_default());
    for (line, item) in lines.zip(not_in_sync) {
        text += &context.paint(state_color(item.state), line);
        text += "\n";
    }
    if let Some(more) = not_in_sync.len().checked_sub(SHOWN_RESOURCES + 1) {
        text += &format!("… and {} more: netnsctl status -o name\n", more + 1);
    }
    text
}

fn state_color(state: State) -> u8 {
    match state {
        State::InSync => GREEN,
        State::Pending | State::Drifted => YELLOW,
        State::Failed | State::Conflict => RED,
    }
}

/// The status in a resource.
#[derive(Debug, Deserialize)]
struct ItemStatus {
    name: Name,
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
            .ok_or_else(|| format!("{text:?} is not KIND/NAME, such as veth/lan0"))?;
        let kind = parse_kind(kind)?;
        name.parse::<Name>()
            .map_err(|error| format!("{text:?}: {}", error.0))?;
        Ok(Self {
            kind,
            name: name.to_owned(),
        })
    }
}

/// Parses a kind by the name of its command, in JSON or in paths.
pub fn parse_kind(text: &str) -> Result<Kind, String> {
    Kind::ALL
        .into_iter()
        .find(|kind| {
            let short = (*kind == Kind::Namespace).then_some("ns");
            [kind_command(*kind), kind.as_str(), kind.plural()].contains(&text)
                || short == Some(text)
        })
        .ok_or_else(|| {
            let known = Kind::ALL.map(kind_command);
            let near = did_you_mean(text, known);
            format!(
                "{text:?} is not a kind ({}){near}",
                join_words(&known, "or")
            )
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
    if matches!(context.format, Format::Json | Format::Yaml) {
        return print_json_or_yaml(context.format, &answer?).map(|_| ());
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
