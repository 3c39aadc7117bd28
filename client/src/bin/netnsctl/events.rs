//! What happens: the history, and what comes.

use std::time::Duration;

use clap::Args;
use netnsd_api::{Event, EventType, Items, Kind};

use crate::{
    cli::Context,
    curl::with_query,
    fail::Failure,
    output::{Format, line},
};

/// How long netnsctl waits before it connects again.
const AGAIN: Duration = Duration::from_secs(1);

/// `netnsctl events …`
#[derive(Debug, Args)]
pub struct Events {
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
    /// Only events after this number
    #[arg(long, value_name = "ID")]
    since: Option<u64>,
    /// Only of resources of this kind: namespace, bridge or veth; repeatable
    #[arg(long)]
    kind: Vec<Kind>,
    /// Only of resources of this name; repeatable
    #[arg(long)]
    name: Vec<String>,
    /// Only of this type, such as drifted; repeatable
    #[arg(long, value_name = "TYPE")]
    r#type: Vec<EventType>,
}

impl Events {
    fn query(&self) -> Vec<(&'static str, String)> {
        let kinds = self.kind.iter().map(|kind| ("kind", kind.to_string()));
        let names = self.name.iter().map(|name| ("name", name.clone()));
        kinds
            .chain(names)
            .chain(self.r#type.iter().map(|kind| ("type", kind.to_string())))
            .collect()
    }
}

/// Tells what happened, and with `-f` what happens.
pub async fn events(context: &Context, events: &Events) -> Result<(), Failure> {
    let query = events.query();
    if !events.follow {
        let since = events.since.map(|since| ("since", since.to_string()));
        let all: Vec<(&str, String)> = query.into_iter().chain(since).collect();
        let body = context.api.get_as(&path(&all), "application/json").await?;
        return match context.format {
            Format::Json => line(&body),
            _ => serde_json::from_slice::<Items<Event>>(&body)?
                .items
                .iter()
                .try_for_each(|event| line(told(event))),
        };
    }
    follow(context, &query, events.since, |event, json| {
        match context.format {
            Format::Json => line(json),
            _ => line(told(event)),
        }
    })
    .await
}

/// `add NAME` and `delete NAME` as namespaces come and go, ours and others', as `ip netns monitor`
/// says it.
pub async fn monitor(context: &Context) -> Result<(), Failure> {
    let types = [
        EventType::Created,
        EventType::Deleted,
        EventType::Appeared,
        EventType::Disappeared,
    ];
    let query: Vec<(&str, String)> = types
        .iter()
        .map(|kind| ("type", kind.to_string()))
        .collect();
    let query: Vec<(&str, String)> = query
        .into_iter()
        .chain([("kind", "namespace".to_owned())])
        .collect();
    follow(context, &query, None, |event, json| {
        let verb = match event.kind {
            EventType::Created | EventType::Appeared => "add",
            _ => "delete",
        };
        if context.format == Format::Json {
            line(json)
        } else {
            line(format!("{verb} {}", event.resource.name))
        }
    })
    .await
}

fn path(query: &[(&str, String)]) -> String {
    let pairs: Vec<(&str, &str)> = query
        .iter()
        .map(|(key, value)| (*key, value.as_str()))
        .collect();
    with_query("/v1/events", &pairs)
}

fn told(event: &Event) -> String {
    let detail = if event.detail.as_object().is_none_or(|map| map.is_empty()) {
        String::new()
    } else {
        format!(" {}", event.detail)
    };
    format!(
        "{} {} {} {}/{}{detail}",
        event.id, event.time, event.kind, event.resource.kind, event.resource.name
    )
}

/// Tells each event as it comes. When netnsd goes away it is looked for again, and nothing is
/// missed.
async fn follow(
    context: &Context,
    query: &[(&str, String)],
    mut since: Option<u64>,
    mut tell: impl FnMut(&Event, &str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut connected = false;
    loop {
        let asked = since.map(|since| ("since", since.to_string()));
        let all: Vec<(&str, String)> = query.iter().cloned().chain(asked).collect();
        let mut failed = None;
        let result = context
            .api
            .follow_events(&path(&all), |text| {
                let Some(data) = text.strip_prefix("data: ") else {
                    return true;
                };
                let Ok(event) = serde_json::from_str::<Event>(data) else {
                    return true;
                };
                since = Some(event.id);
                failed = tell(&event, data).err();
                failed.is_none()
            })
            .await;
        if let Some(failure) = failed {
            return Err(failure);
        }
        match result {
            Ok(()) => {}
            Err(Failure::Unreachable(_)) if connected => {}
            Err(failure) => return Err(failure),
        }
        if !connected {
            connected = true;
        }
        tokio::time::sleep(AGAIN).await;
    }
}
