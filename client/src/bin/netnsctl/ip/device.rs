//! Finds the recorded resource that has a device, and patches it.

use netnsd_api::{Items, Kind, LiveLink, Namespace};
use serde_json::Value;

use crate::{
    api::percent_encode,
    cli::Context,
    error::CliError,
    recorded::Recorded,
    resource::{ResourcePath, collection_path},
};

/// The namespace of a command: the host's if `None`.
pub type Location<'a> = Option<&'a str>;

/// Reads the resources of a kind in a namespace, or all of them.
async fn list_recorded(
    context: &Context,
    kind: Kind,
    location: Location<'_>,
) -> Result<Vec<Value>, CliError> {
    let query: Vec<(&str, &str)> = location
        .map(|name| ("namespace", name))
        .into_iter()
        .collect();
    let list = context.api.list(&collection_path(kind), &query).await?;
    list.items
        .iter()
        .map(|item| Ok(serde_json::from_str(item.get())?))
        .collect()
}

fn is_at(fields: &Value, location: Location<'_>) -> bool {
    fields["namespace"].as_str() == location
}

fn text<'a>(fields: &'a Value, field: &str) -> &'a str {
    fields[field].as_str().unwrap_or_default()
}

/// Returns the recorded bridges in a namespace.
pub async fn list_bridges(
    context: &Context,
    location: Location<'_>,
) -> Result<Vec<Value>, CliError> {
    let mut bridges = list_recorded(context, Kind::Bridge, location).await?;
    bridges.retain(|bridge| is_at(bridge, location));
    Ok(bridges)
}

/// Returns the name of the bridge that has a device.
pub async fn find_bridge(
    context: &Context,
    location: Location<'_>,
    device: &str,
) -> Result<String, CliError> {
    let recorded = find_device(context, location, device).await?;
    if recorded.target.kind() == Kind::Bridge {
        Ok(recorded.target.name().to_owned())
    } else {
        Err(CliError::Refused(format!("{device} is not a bridge")))
    }
}

/// Returns the devices of a resource.
fn devices(kind: Kind, resource: &Value) -> Vec<Recorded> {
    let path = ResourcePath::of(kind, text(resource, "name"));
    match kind {
        Kind::Namespace => Vec::new(),
        Kind::Bridge | Kind::Link => vec![Recorded::new(path, resource.clone())],
        Kind::Veth => [0, 1]
            .map(|index| Recorded::end(resource, path.clone(), index))
            .into(),
    }
}

/// Returns the name of a device, which by default is that of its resource.
fn device_name(fields: &Value) -> &str {
    match fields["interface"].as_str() {
        Some(interface) => interface,
        None => text(fields, "name"),
    }
}

/// Finds what is recorded about a device; returns `None` if nothing is.
async fn find_recorded(
    context: &Context,
    location: Location<'_>,
    device: &str,
) -> Result<Option<Recorded>, CliError> {
    for kind in Kind::ALL
        .into_iter()
        .filter(|kind| *kind != Kind::Namespace)
    {
        for resource in list_recorded(context, kind, location).await? {
            let found = devices(kind, &resource).into_iter().find(|recorded| {
                is_at(&recorded.fields, location) && device_name(&recorded.fields) == device
            });
            if found.is_some() {
                return Ok(found);
            }
        }
    }
    Ok(None)
}

/// Finds what is recorded about a device.
pub async fn find_device(
    context: &Context,
    location: Location<'_>,
    device: &str,
) -> Result<Recorded, CliError> {
    if let Some(namespace) = location {
        find_namespace(context, namespace).await?;
    }
    match find_recorded(context, location, device).await? {
        Some(recorded) => Ok(recorded),
        None => Err(explain_unmanaged(context, location, device).await?),
    }
}

/// Finds a recorded namespace.
pub async fn find_namespace(context: &Context, name: &str) -> Result<Recorded, CliError> {
    let target = ResourcePath::resource::<Namespace>(name);
    match context.api.get_optional(&target.to_string()).await? {
        Some(body) => Ok(Recorded::new(target, serde_json::from_slice(&body)?)),
        None => {
            let links = target.child("links").to_string();
            Err(CliError::Refused(
                match context.api.get_optional(&links).await? {
                    Some(_) => format!(
                        "namespace {name} is not managed by netnsd: change it with ip -n {name}, or \
                     adopt it first (netnsctl adopt netns/{name})"
                    ),
                    None => format!("there is no namespace {name}"),
                },
            ))
        }
    }
}

/// Returns the path of a live list.
pub fn live_path(location: Location<'_>, list: &str) -> String {
    match location {
        Some(name) => format!("/v1/namespaces/{}/{list}", percent_encode(name)),
        None => format!("/v1/host/{list}"),
    }
}

/// Explains why a device has no resource.
async fn explain_unmanaged(
    context: &Context,
    location: Location<'_>,
    device: &str,
) -> Result<CliError, CliError> {
    let body = context.api.get(&live_path(location, "links")).await?;
    let links = serde_json::from_slice::<Items<LiveLink>>(&body)?.items;
    let place = location.map_or("the host".to_owned(), |name| format!("namespace {name}"));
    let ip = location.map_or("ip".to_owned(), |name| format!("ip -n {name}"));
    let text = if !links.iter().any(|link| link.name == device) {
        format!("there is no device {device} in {place}")
    } else if device == "lo" {
        format!("lo of {place} is not managed by netnsd in this respect: change it with {ip}")
    } else {
        format!(
            "{device} in {place} is not managed by netnsd: change it with {ip}, or adopt it first \
             (netnsctl adopt --all --dry-run names what can be adopted)"
        )
    };
    Ok(CliError::Refused(text))
}
