//! `netnsctl events` and `netnsctl netns monitor`.

use std::{str::FromStr, time::Duration};

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use netnsd_api::{Event, EventType, Items, Kind};
use serde_json::{Value, json, value::RawValue};

use crate::{
    api::with_query,
    cli::Context,
    error::CliError,
    output::{Format, print_json_or_yaml, print_line, print_text},
    status::parse_kind,
    yaml::to_yaml,
};

/// Time before netnsctl reconnects.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// The status of a daemon that starts or stops: Service Unavailable.
const UNAVAILABLE: u16 = 503;

/// `netnsctl events …`
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Follow new events
    #[arg(short, long)]
    follow: bool,
    /// Only events after this id, or since a time: RFC 3339, or 30s, 10m, 2h, 3d ago
    #[arg(long, value_name = "ID|TIME")]
    since: Option<Since>,
    /// Only the last N of them
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
    /// Only events of resources of this kind; repeatable
    #[arg(long, value_parser = parse_kind)]
    kind: Vec<Kind>,
    /// Only events of resources with this name; repeatable
    #[arg(long)]
    name: Vec<String>,
    /// Only events of this type, such as drifted; repeatable
    #[arg(long, value_name = "TYPE")]
    r#type: Vec<EventType>,
}

/// The beginning of the events to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// After the event with this id.
    Id(u64),
    /// From this time on.
    Time(Timestamp),
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(id) = text.parse() {
            return Ok(Since::Id(id));
        }
        if let Ok(time) = text.parse() {
            return Ok(Since::Time(time));
        }
        let ago = parse_duration(text).and_then(|ago| Timestamp::now().checked_sub(ago).ok());
        ago.map(Since::Time).ok_or_else(|| {
            format!(
                "{text:?} is not the id of an event, a time as 2026-01-31T12:00:00Z, or an age as \
                 10m"
            )
        })
    }
}

/// Parses a number with a unit: `30s`, `10m`, `2h`, `3d`.
fn parse_duration(text: &str) -> Option<SignedDuration> {
    let unit = match text.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return None,
    };
    let number: i64 = text[..text.len() - 1].parse().ok()?;
    Some(SignedDuration::from_secs(
        number.checked_mul(unit).filter(|seconds| *seconds >= 0)?,
    ))
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
    let list = list_events(context, &query).await?;
    let newest = list.last().map_or(0, |(event, _)| event.id);
    let shows_past = !args.follow || args.since.is_some() || args.tail.is_some();
    let mut shown: Vec<&(Event, Box<RawValue>)> = list
        .iter()
        .filter(|(event, _)| shows_past && is_since(event, args.since))
        .collect();
    if let Some(tail) = args.tail {
        shown.drain(..shown.len().saturating_sub(tail));
    }
    if !args.follow && matches!(context.format, Format::Json | Format::Yaml) {
        let items: Vec<&RawValue> = shown.iter().map(|(_, json)| &**json).collect();
        let body = serde_json::to_vec(&json!({ "items": items }))?;
        return print_json_or_yaml(context.format, &body).map(|_| ());
    }
    for (event, json) in shown {
        print_event(context, event, json.get())?;
    }
    if !args.follow {
        return Ok(());
    }
    follow_events(context, &query, newest, |event, json| {
        print_event(context, event, json)
    })
    .await
}

/// Returns true if an event is one of those to show.
fn is_since(event: &Event, since: Option<Since>) -> bool {
    match since {
        None => true,
        Some(Since::Id(id)) => event.id > id,
        // The daemon's times are RFC 3339.
        Some(Since::Time(time)) => event.time.parse::<Timestamp>().is_ok_and(|at| at >= time),
    }
}

/// Reads the recorded events, parsed and as they are.
async fn list_events(
    context: &Context,
    query: &[(&str, String)],
) -> Result<Vec<(Event, Box<RawValue>)>, CliError> {
    let body = context
        .api
        .get_as(&events_path(query), "application/json")
        .await?;
    serde_json::from_slice::<Items<Box<RawValue>>>(&body)?
        .items
        .into_iter()
        .map(|json| Ok((serde_json::from_str(json.get())?, json)))
        .collect()
}

/// Prints one event of many: a line, or a document of YAML.
fn print_event(context: &Context, event: &Event, json: &str) -> Result<(), CliError> {
    match context.format {
        Format::Json => print_line(json),
        Format::Yaml => print_text(format!("---\n{}", to_yaml(json.as_bytes())?)),
        Format::Name => print_line(format!("{}/{}", event.resource.kind, event.resource.name)),
        Format::Table => print_line(format_event(event)),
    }
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
    let newest = list_events(context, &query).await?;
    let newest = newest.last().map_or(0, |(event, _)| event.id);
    follow_events(context, &query, newest, |event, json| {
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

/// Returns an event as a line, whose columns are as wide as their usual contents.
fn format_event(event: &Event) -> String {
    let resource = format!("{}/{}", event.resource.kind, event.resource.name);
    let line = format!(
        "{:>6}  {}  {:<11}  {resource:<24}  {}",
        event.id,
        event.time,
        event.kind.as_str(),
        format_detail(&event.detail)
    );
    line.trim_end().to_owned()
}

/// Returns the details of an event: the reason, and the other fields by name.
fn format_detail(detail: &Value) -> String {
    let fields = detail.as_object().into_iter().flatten();
    let texts = fields.filter_map(|(key, value)| match value {
        Value::Null => None,
        Value::String(text) if key == "reason" => Some(text.clone()),
        Value::String(text) => Some(format!("{key} {text}")),
        Value::Array(items) => Some(count_items(items)),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => Some(format!("{key} {value}")),
    });
    texts.collect::<Vec<_>>().join(", ")
}

/// Returns the items of a list, each once with its number: `address_add ×2, link_up`.
fn count_items(items: &[Value]) -> String {
    let mut counts: Vec<(String, usize)> = Vec::new();
    for item in items {
        let text = item
            .as_str()
            .map_or_else(|| item.to_string(), str::to_owned);
        match counts.iter_mut().find(|(known, _)| *known == text) {
            Some((_, count)) => *count += 1,
            None => counts.push((text, 1)),
        }
    }
    let texts: Vec<String> = counts
        .into_iter()
        .map(|(text, count)| match count {
            1 => text,
            count => format!("{text} ×{count}"),
        })
        .collect();
    texts.join(", ")
}

/// Calls `on_event` with each event after the one with the id `since`. Reconnects if netnsd closes
/// the connection or is restarted, without losing events.
async fn follow_events(
    context: &Context,
    query: &[(&str, String)],
    mut since: u64,
    mut on_event: impl FnMut(&Event, &str) -> Result<(), CliError>,
) -> Result<(), CliError> {
    loop {
        let since_param = ("since", since.to_string());
        let params: Vec<(&str, String)> = query.iter().cloned().chain([since_param]).collect();
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
                since = event.id;
                failed = on_event(&event, data).err();
                failed.is_none()
            })
            .await;
        if let Some(failure) = failed {
            return Err(failure);
        }
        match result {
            // The first request was answered, so the daemon is gone only for a time.
            Ok(()) | Err(CliError::Unreachable(_)) => {}
            Err(CliError::Problem { problem, .. }) if problem.status == UNAVAILABLE => {}
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(RECONNECT_DELAY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginning_is_an_id_a_time_or_an_age() {
        assert_eq!("12".parse(), Ok(Since::Id(12)));
        let time: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        assert_eq!("2026-01-31T13:00:00+01:00".parse(), Ok(Since::Time(time)));
        for age in ["30s", "10m", "2h", "3d"] {
            assert!(matches!(age.parse(), Ok(Since::Time(_))), "{age}");
        }
        for wrong in [
            "",
            "m",
            "yesterday",
            "-3m",
            "10w",
            "9223372036854775807d",
            "é",
        ] {
            wrong.parse::<Since>().unwrap_err();
        }
    }

    #[test]
    fn details_are_told_without_json() {
        let detail = json!({"operations": ["address_add", "link_up", "address_add"]});
        assert_eq!(format_detail(&detail), "address_add ×2, link_up");
        assert_eq!(
            format_detail(&json!({"generation": 2, "reason": "gone"})),
            "generation 2, gone"
        );
        assert_eq!(format_detail(&Value::Null), "");
    }
}
