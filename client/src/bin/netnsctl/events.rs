//! `netnsctl events` and `netnsctl netns monitor`.

use std::time::Duration;

use clap::Args;
use netnsd_api::{Event, EventType, Items, Kind};

use crate::{
    api::with_query,
    cli::Context,
    error::CliError,
    output::{Format, print_line},
};

/// Time before netnsctl reconnects.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// `netnsctl events …`
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Follow new events
    #[arg(short, long)]
    follow: bool,
    /// Only events after this id
    #[arg(long, value_name = "ID")]
    since: Option<u64>,
    /// Only events of resources of this kind; repeatable
    #[arg(long)]
    kind: Vec<Kind>,
    /// Only events of resources with this name; repeatable
    #[arg(long)]
    name: Vec<String>,
    /// Only events of this type, such as drifted; repeatable
    #[arg(long, value_name = "TYPE")]
    r#type: Vec<EventType>,
}

impl EventsArgs {
    /// Returns the filters as query parameters.
    fn query(&self) -> Vec<(&'static str, String)> {
        let kinds = self.kind.iter().map(|kind| ("kind", kind.to_string()));
        let names = self.name.iter().map(|name| ("name", name.clone()));
        kinds
            .chain(names)
            .chain(self.r#type.iter().map(|kind| ("type", kind.to_string())))
            .collect()
    }
}

/// Prints past events, and with `-f` new ones.
pub async fn show_events(context: &Context, args: &EventsArgs) -> Result<(), CliError> {
    let query = args.query();
    if !args.follow {
        let since = args.since.map(|since| ("since", since.to_string()));
        let params: Vec<(&str, String)> = query.into_iter().chain(since).collect();
        let body = context
            .api
            .get_as(&events_path(&params), "application/json")
            .await?;
        return match context.format {
            Format::Json => print_line(&body),
            _ => serde_json::from_slice::<Items<Event>>(&body)?
                .items
                .iter()
                .try_for_each(|event| print_line(format_event(event))),
        };
    }
    follow_events(context, &query, args.since, |event, json| {
        match context.format {
            Format::Json => print_line(json),
            _ => print_line(format_event(event)),
        }
    })
    .await
}

/// Prints `add NAME` and `delete NAME` as namespaces are created and deleted, by netnsd or others,
/// as `ip netns monitor` does.
pub async fn monitor_namespaces(context: &Context) -> Result<(), CliError> {
    let types = [
        EventType::Created,
        EventType::Deleted,
        EventType::Appeared,
        EventType::Disappeared,
    ];
    let mut query = vec![("kind", Kind::Namespace.to_string())];
    query.extend(types.iter().map(|kind| ("type", kind.to_string())));
    follow_events(context, &query, None, |event, json| {
        let verb = match event.kind {
            EventType::Created | EventType::Appeared => "add",
            EventType::Deleted
            | EventType::Disappeared
            | EventType::Updated
            | EventType::Applied
            | EventType::Drifted
            | EventType::Repaired
            | EventType::Failed => "delete",
        };
        if context.format == Format::Json {
            print_line(json)
        } else {
            print_line(format!("{verb} {}", event.resource.name))
        }
    })
    .await
}

fn events_path(query: &[(&str, String)]) -> String {
    let pairs: Vec<(&str, &str)> = query
        .iter()
        .map(|(key, value)| (*key, value.as_str()))
        .collect();
    with_query("/v1/events", &pairs)
}

fn format_event(event: &Event) -> String {
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

/// Calls `on_event` with each new event. Reconnects if netnsd closes the connection, without losing
/// events.
async fn follow_events(
    context: &Context,
    query: &[(&str, String)],
    mut since: Option<u64>,
    mut on_event: impl FnMut(&Event, &str) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut has_connected = false;
    loop {
        let since_param = since.map(|since| ("since", since.to_string()));
        let params: Vec<(&str, String)> = query.iter().cloned().chain(since_param).collect();
        let mut failed = None;
        let result = context
            .api
            .stream_events(&events_path(&params), |text| {
                let Some(data) = text.strip_prefix("data: ") else {
                    return true;
                };
                let Ok(event) = serde_json::from_str::<Event>(data) else {
                    return true;
                };
                since = Some(event.id);
                failed = on_event(&event, data).err();
                failed.is_none()
            })
            .await;
        if let Some(failure) = failed {
            return Err(failure);
        }
        match result {
            Ok(()) => {}
            Err(CliError::Unreachable(_)) if has_connected => {}
            Err(failure) => return Err(failure),
        }
        has_connected = true;
        tokio::time::sleep(RECONNECT_DELAY).await;
    }
}
