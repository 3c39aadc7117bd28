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
    curl::encoded,
    fail::Failure,
    output::{Format, line, or_dash, print, table},
};

/// Shows how netnsd and its resources stand; fails until everything recorded has been tried.
pub async fn status(context: &Context) -> Result<(), Failure> {
    let about_body = context.api.get("/v1").await?;
    let ready_body = context.api.get("/v1/ready").await?;
    let ready: Ready = serde_json::from_slice(&ready_body)?;
    let outcome = if ready.ready {
        Ok(())
    } else {
        Err(Failure::Exit(1))
    };
    if context.format == Format::Json {
        line(&about_body)?;
        line(&ready_body)?;
        return outcome;
    }
    let about: About = serde_json::from_slice(&about_body)?;
    let bad: Vec<State> = State::ALL
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
        for state in &bad {
            let listed = context
                .api
                .list(
                    &format!("/v1/{}", kind.plural()),
                    &[("state", state.as_str())],
                )
                .await?;
            for item in &listed.items {
                let item: Stands = serde_json::from_str(item.get())?;
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
        rows.iter().try_for_each(|row| line(&row[0]))?;
        return outcome;
    }
    let states = ready
        .states
        .iter()
        .map(|(state, count)| format!("{count} {state}"));
    let states: Vec<String> = states.collect();
    let facts = [
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
                "no: not everything recorded has been tried"
            })
            .into(),
        ),
        ("resources", states.join(", ")),
    ];
    print(table(
        &[],
        facts
            .into_iter()
            .map(|(fact, value)| vec![fact.to_owned(), value])
            .collect(),
    ))?;
    if !rows.is_empty() {
        print(format!(
            "\n{}",
            table(&["RESOURCE", "STATE", "REASON"], rows)
        ))?;
    }
    outcome
}

/// How a resource stands.
#[derive(Debug, Deserialize)]
struct Stands {
    name: String,
    status: netnsd_api::Status<Value>,
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Condition {
    /// The kernel is as it was asked to be
    InSync,
    /// In sync, and of a pair both ends have carrier
    Ready,
    /// It is not there
    Deleted,
}

/// `KIND/NAME`.
#[derive(Debug, Clone)]
pub struct Which {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
}

impl FromStr for Which {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = text
            .split_once('/')
            .ok_or("it is KIND/NAME, such as veth/lan0")?;
        let kind = match kind {
            "netns" => Kind::Namespace,
            kind => Kind::ALL
                .into_iter()
                .find(|known| known.as_str() == kind || known.plural() == kind)
                .ok_or_else(|| {
                    format!("{kind:?} is not a kind: it is netns (or namespace), bridge or veth")
                })?,
        };
        Ok(Self {
            kind,
            name: name.to_owned(),
        })
    }
}

/// `netnsctl wait …`
#[derive(Debug, Args)]
pub struct Wait {
    /// What to wait for: netns/NAME, bridge/NAME, veth/NAME
    #[arg(required = true, value_name = "KIND/NAME")]
    which: Vec<Which>,
    /// The condition
    #[arg(
        long = "for",
        value_enum,
        value_name = "CONDITION",
        default_value = "in_sync"
    )]
    condition: Condition,
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0)]
    timeout: f64,
}

/// Waits for every one of them.
pub async fn wait(context: &Context, wait: &Wait) -> Result<(), Failure> {
    let end = Duration::try_from_secs_f64(wait.timeout)
        .ok()
        .and_then(|timeout| Instant::now().checked_add(timeout))
        .ok_or_else(|| {
            Failure::Usage(format!(
                "--timeout {}: that is no number of seconds",
                wait.timeout
            ))
        })?;
    for which in &wait.which {
        wait_for(context, which, wait.condition, end).await?;
    }
    Ok(())
}

async fn wait_for(
    context: &Context,
    which: &Which,
    condition: Condition,
    end: Instant,
) -> Result<(), Failure> {
    let mut pause = Duration::from_millis(20);
    loop {
        let seen = look(context, which, condition).await;
        let left = end.saturating_duration_since(Instant::now());
        match seen {
            Ok(None) => return Ok(()),
            // Also a daemon that is away may come back.
            Ok(Some(_)) | Err(Failure::Unreachable(_)) if !left.is_zero() => {}
            Ok(Some(reason)) => {
                return Err(Failure::Refused(format!(
                    "waited in vain: {} {} {reason}",
                    which.kind, which.name
                )));
            }
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(pause.min(left)).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

/// Why the condition does not hold; none if it does.
async fn look(
    context: &Context,
    which: &Which,
    condition: Condition,
) -> Result<Option<String>, Failure> {
    let path = format!("/v1/{}/{}", which.kind.plural(), encoded(&which.name));
    let body = match context.api.find(&path).await? {
        Some(body) => body,
        None => return Ok((condition != Condition::Deleted).then(|| "is not there".into())),
    };
    if condition == Condition::Deleted {
        return Ok(Some("is still there".into()));
    }
    let status = serde_json::from_slice::<Stands>(&body)?.status;
    let reason = status
        .reason
        .map_or(String::new(), |reason| format!(": {reason}"));
    if status.state != State::InSync {
        return Ok(Some(format!("is {}{reason}", status.state.as_str())));
    }
    // Only a pair can be in sync and not ready.
    let ready = status
        .observed
        .is_none_or(|observed| observed["ready"] != Value::Bool(false));
    Ok((condition == Condition::Ready && !ready).then(|| format!("is not ready{reason}")))
}

/// Shows versions; that of netnsd if it can be reached.
pub async fn version(context: &Context) -> Result<(), Failure> {
    let answer = context.api.get("/v1").await;
    if context.format == Format::Json {
        return line(answer?);
    }
    line(format!("netnsctl {}", env!("CARGO_PKG_VERSION")))?;
    match answer {
        Ok(body) => line(format!(
            "netnsd {}",
            serde_json::from_slice::<About>(&body)?.version
        )),
        Err(Failure::Unreachable(_)) => line("netnsd cannot be reached"),
        Err(failure) => Err(failure),
    }
}
