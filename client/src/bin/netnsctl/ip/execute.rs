//! Executes requests in the words of `ip`, `bridge` and `brctl` on the recorded network.

use netnsd_api::{Bridge, Link, Neighbour, Route, Veth, shell_word};
use serde_json::{Map, Value, json};

use super::{
    device::{Location, find_bridge, find_device, find_namespace},
    parse::{CommandLine, parse_command_line},
    request::{DeviceType, DeviceWords, NewLink, Request, SetLink},
    select::{RouteFields, Selection},
};
use crate::{
    cli::{Context, IpOptions},
    entries::{Edit, address_of},
    error::CliError,
    process::find_process_namespace,
    recorded::{Recorded, edit_operations, patch_recorded, set_field},
    resource, show,
};

const LOOPBACK: &str = "lo";

/// Executes a request that is not for help.
pub async fn execute(
    context: &Context,
    options: &IpOptions,
    request: Request,
) -> Result<(), CliError> {
    let location = options.netns.as_deref();
    if request.is_write() {
        let takes_family = !matches!(
            request,
            Request::AddLink(..) | Request::SetLink(_) | Request::DeleteLink(..)
        );
        let honoured: &[&str] = if takes_family { &["-4", "-6"] } else { &[] };
        options.check_honoured(honoured, "this command")?;
    }
    match request {
        Request::Help => Ok(()),
        Request::Show(list, selection) => show::show_list(context, options, list, &selection).await,
        Request::AddLink(device, link) => add_link(context, location, device, link).await,
        Request::SetLink(set) => set_link(context, location, &set).await,
        Request::DeleteLink(device, link_type) => {
            delete_link(context, location, &device, link_type).await
        }
        Request::EditDevice(edit, device) => {
            let edit = edit.of_family(options)?;
            patch_recorded(
                context,
                async || find_owner_of_addresses(context, location, &device).await,
                async |recorded| edit_operations(&recorded.fields, std::slice::from_ref(&edit)),
            )
            .await
        }
        Request::EditNamespace(edit) => {
            edit_namespace(context, location, &edit.of_family(options)?).await
        }
        Request::FlushAddresses(device, selection) => {
            flush_addresses(context, options, &device, &selection).await
        }
        Request::FlushRoutes(selection) => {
            flush_namespace(context, options, "routes", |entry| {
                let route: Route = serde_json::from_value(entry.clone())?;
                let family = if route.is_ipv6() { ":" } else { "" };
                Ok(options.matches_family(family)
                    && selection.selects_route(&RouteFields::of_recorded(&route)))
            })
            .await
        }
        Request::FlushNeighbours(selection) => {
            flush_namespace(context, options, "neighbours", |entry| {
                let entry: Neighbour = serde_json::from_value(entry.clone())?;
                let address = entry.address.to_string();
                Ok(!entry.proxy
                    && options.matches_family(&address)
                    && selection.selects_network(&address)
                    && selection.selects_device(&entry.interface.to_string()))
            })
            .await
        }
    }
}

/// Returns the namespace that `netns` names: by its name, or as that of a process.
async fn resolve_netns(context: &Context, text: &str) -> Result<Option<String>, CliError> {
    match text.parse::<u32>() {
        Ok(pid) if find_namespace(context, text).await.is_err() => {
            find_process_namespace(context, pid).await
        }
        _ => Ok(Some(text.to_owned())),
    }
}

/// Returns the fields of a new device.
async fn new_device_fields(
    context: &Context,
    location: Location<'_>,
    words: &DeviceWords,
) -> Result<Map<String, Value>, CliError> {
    let namespace = match &words.netns {
        Some(netns) => resolve_netns(context, netns).await?,
        None => location.map(str::to_owned),
    };
    if let Some(namespace) = &namespace {
        find_namespace(context, namespace).await?;
    }
    let mut fields = words.fields.clone();
    // A new link is down, as by ip(8).
    fields.entry("up").or_insert(Value::from(false));
    if let Some(Some(master)) = &words.master {
        let bridge = find_bridge(context, namespace.as_deref(), master).await?;
        fields.insert("bridge".into(), bridge.into());
    }
    fields.insert("namespace".into(), namespace.into());
    Ok(fields)
}

async fn add_link(
    context: &Context,
    location: Location<'_>,
    device: DeviceWords,
    link: NewLink,
) -> Result<(), CliError> {
    let mut fields = new_device_fields(context, location, &device).await?;
    match link {
        NewLink::Veth(peer) => {
            let mut peer_fields = new_device_fields(context, location, &peer).await?;
            for (fields, words) in [(&mut fields, &device), (&mut peer_fields, &peer)] {
                if let Some(name) = &words.name {
                    fields.insert("interface".into(), name.as_str().into());
                }
            }
            let mut body = json!({"endpoints": [fields, peer_fields]});
            if let Some(name) = device.name {
                body["name"] = name.into();
            }
            resource::add_resource::<Veth>(context, &body).await
        }
        NewLink::Bridge(options) => {
            if fields.remove("bridge").is_some() {
                return Err(CliError::Usage(
                    "a bridge cannot be a port of a bridge".into(),
                ));
            }
            fields.extend(options);
            fields.insert("name".into(), device.name.into());
            resource::add_resource::<Bridge>(context, &fields.into()).await
        }
        NewLink::Link(link_type, own) => {
            fields.extend(own);
            if let Some(lower) = &device.lower {
                // As by ip(8): the option -n says where it is.
                fields.insert(
                    "lower".into(),
                    json!({"namespace": location, "interface": lower}),
                );
            }
            if link_type.field_names().contains(&"underlay") {
                fields.insert("underlay".into(), location.into());
            }
            fields.insert("name".into(), device.name.into());
            fields.insert("type".into(), link_type.as_str().into());
            resource::add_resource::<Link>(context, &fields.into()).await
        }
    }
}

/// Sets `lo` of a namespace up or down, which is a field of the namespace.
async fn set_loopback(context: &Context, namespace: &str, set: &SetLink) -> Result<(), CliError> {
    let up = set.device.fields.get("up");
    let only_up = SetLink {
        device: DeviceWords {
            name: set.device.name.clone(),
            fields: up
                .map(|up| ("up".to_owned(), up.clone()))
                .into_iter()
                .collect(),
            ..DeviceWords::default()
        },
        ..SetLink::default()
    };
    let Some(up) = up.filter(|_| *set == only_up) else {
        return Err(CliError::Refused(
            "of lo, netnsd manages only up and down".into(),
        ));
    };
    patch_recorded(
        context,
        async || find_namespace(context, namespace).await,
        async |recorded| {
            Ok(set_field(&recorded.fields, "loopback", up)
                .into_iter()
                .collect())
        },
    )
    .await
}

async fn set_link(
    context: &Context,
    location: Location<'_>,
    set: &SetLink,
) -> Result<(), CliError> {
    let device = set.device.name.as_deref().unwrap_or_default();
    if let (LOOPBACK, Some(namespace)) = (device, location) {
        return set_loopback(context, namespace, set).await;
    }
    patch_recorded(
        context,
        async || find_device(context, location, device).await,
        async |recorded| link_operations(context, location, device, set, recorded).await,
    )
    .await
}

/// Returns the operations of `link set` on what is recorded about a device.
async fn link_operations(
    context: &Context,
    location: Location<'_>,
    device: &str,
    set: &SetLink,
    recorded: &Recorded,
) -> Result<Vec<Value>, CliError> {
    let old = &recorded.fields;
    let can_be_port = old.get("port").is_some();
    let mut new = set.device.fields.clone();
    let mut place = location.map(str::to_owned);
    if let Some(netns) = &set.device.netns {
        place = resolve_netns(context, netns).await?;
        if let Some(namespace) = &place {
            find_namespace(context, namespace).await?;
        }
        new.insert("namespace".into(), place.clone().into());
    }
    let moves = place.as_deref() != location;
    if let Some(bridge) = &set.port_of {
        let name = find_bridge(context, location, bridge).await?;
        if old["bridge"].as_str() != Some(&name) {
            return Err(CliError::Refused(format!(
                "{device} is not a port of {bridge}"
            )));
        }
    }

    match &set.device.master {
        Some(Some(_)) if !can_be_port => {
            return Err(CliError::Refused(format!(
                "{device} is a bridge, which cannot be a port of a bridge"
            )));
        }
        Some(Some(master)) => {
            let bridge = find_bridge(context, place.as_deref(), master).await?;
            new.insert("bridge".into(), bridge.into());
        }
        // The kernel detaches a port that leaves its namespace.
        None if moves && can_be_port => detach(&mut new),
        Some(None) if can_be_port => detach(&mut new),
        Some(None) | None => {}
    }

    if !set.bridge.is_empty() && can_be_port {
        return Err(CliError::Refused(format!("{device} is not a bridge")));
    }
    new.extend(set.bridge.clone());
    let bridge = new.get("bridge").unwrap_or(&old["bridge"]);
    if !set.port.is_empty() && bridge.is_null() {
        return Err(CliError::Refused(format!(
            "{device} is not a port of a bridge"
        )));
    }
    let port = set
        .port
        .iter()
        .filter(|(field, value)| old["port"][*field] != **value);
    let port = port.map(
        |(field, value)| json!({"op": "add", "path": format!("/port/{field}"), "value": value}),
    );
    let fields = new
        .iter()
        .filter_map(|(field, value)| set_field(old, field, value));
    Ok(fields.chain(port).collect())
}

/// Sets the fields of an end that is not a port.
fn detach(fields: &mut Map<String, Value>) {
    fields.insert("bridge".into(), Value::Null);
    fields.insert("port".into(), json!({}));
}

async fn delete_link(
    context: &Context,
    location: Location<'_>,
    device: &str,
    link_type: Option<DeviceType>,
) -> Result<(), CliError> {
    let target = find_device(context, location, device).await?.target;
    let kind = target.kind();
    if let Some(link_type) = link_type.filter(|link_type| link_type.kind() != kind) {
        return Err(CliError::Refused(format!(
            "{device} is a {kind}, not a {}",
            link_type.kind()
        )));
    }
    resource::delete_resource(context, &target).await
}

/// Returns the namespace of a command that changes a list of it.
fn location_of_list<'a>(location: Location<'a>, list: &str) -> Result<&'a str, CliError> {
    location.ok_or_else(|| {
        CliError::Refused(format!(
            "{list} of the host are not managed by netnsd yet: change them with ip, or give a \
             namespace (netnsctl -n NAME)"
        ))
    })
}

/// Edits a list of the namespace of a command.
async fn edit_namespace(
    context: &Context,
    location: Location<'_>,
    edit: &Edit,
) -> Result<(), CliError> {
    let namespace = location_of_list(location, edit.field())?;
    patch_recorded(
        context,
        async || find_namespace(context, namespace).await,
        async |recorded| edit_operations(&recorded.fields, std::slice::from_ref(edit)),
    )
    .await
}

/// Returns the operation that removes the selected entries of a list.
fn flush_operations(
    fields: &Value,
    list: &str,
    is_selected: impl Fn(&Value) -> Result<bool, CliError>,
) -> Result<Vec<Value>, CliError> {
    let mut kept = Vec::new();
    for entry in fields[list].as_array().into_iter().flatten() {
        if !is_selected(entry)? {
            kept.push(entry.clone());
        }
    }
    Ok(set_field(fields, list, &kept.into()).into_iter().collect())
}

/// Removes the selected entries of a list of the namespace of a command.
async fn flush_namespace(
    context: &Context,
    options: &IpOptions,
    list: &str,
    is_selected: impl Fn(&Value) -> Result<bool, CliError>,
) -> Result<(), CliError> {
    let namespace = location_of_list(options.netns.as_deref(), list)?;
    patch_recorded(
        context,
        async || find_namespace(context, namespace).await,
        async |recorded| flush_operations(&recorded.fields, list, &is_selected),
    )
    .await
}

/// Finds the recorded resource that has the addresses of a device: those of `lo` are the
/// namespace's.
async fn find_owner_of_addresses(
    context: &Context,
    location: Location<'_>,
    device: &str,
) -> Result<Recorded, CliError> {
    match location {
        Some(namespace) if device == LOOPBACK => find_namespace(context, namespace).await,
        _ => find_device(context, location, device).await,
    }
}

async fn flush_addresses(
    context: &Context,
    options: &IpOptions,
    device: &str,
    selection: &Selection,
) -> Result<(), CliError> {
    patch_recorded(
        context,
        async || find_owner_of_addresses(context, options.netns.as_deref(), device).await,
        async |recorded| {
            flush_operations(&recorded.fields, "addresses", |entry| {
                Ok(address_of(entry).is_some_and(|address| {
                    options.matches_family(address) && selection.selects_network(address)
                }))
            })
        },
    )
    .await
}

/// Returns the netnsctl command that records what a command changed, if it changed something that
/// netnsd manages.
pub async fn unrecorded_change(
    context: &Context,
    namespace: &str,
    command: &[String],
) -> Option<String> {
    let CommandLine {
        netns,
        words,
        request,
    } = parse_command_line(command)?;
    let location = netns.unwrap_or(namespace);
    let device = match &request.ok()? {
        Request::Help | Request::Show(..) => return None,
        Request::AddLink(..)
        | Request::EditNamespace(_)
        | Request::FlushRoutes(_)
        | Request::FlushNeighbours(_) => None,
        Request::SetLink(set) => set.device.name.clone(),
        Request::DeleteLink(device, _)
        | Request::EditDevice(_, device)
        | Request::FlushAddresses(device, _) => Some(device.clone()),
    };
    find_namespace(context, location).await.ok()?;
    if let Some(device) = device.filter(|device| device != LOOPBACK) {
        find_device(context, Some(location), &device).await.ok()?;
    }
    let words: Vec<_> = words.iter().map(|word| shell_word(word)).collect();
    Some(format!("netnsctl -n {location} {}", words.join(" ")))
}
