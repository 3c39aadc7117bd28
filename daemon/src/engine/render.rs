//! Rendering of resources for readers: the record, its health, and what was observed of it.

use netnsd_api::{
    Bridge, BridgeObserved, Endpoint, EndpointObserved, InterfaceAddress, Kind, Name,
    NamespaceObserved, PortObserved, Resource, State, Status, Stored, Veth, VethObserved,
    is_link_local,
};

use super::{Entry, status::Health};
use crate::{
    kernel::{Ns, Observed, ObservedAddress, ObservedLink},
    model::{DeviceSpec, Record, Spec, format_rfc3339},
};

/// Renders a resource as readers see it. `status.observed` is null where nothing was observed.
pub(super) fn render_entry(record: &Record, health: &Health, observed: &Observed) -> Entry {
    match &*record.spec {
        Spec::Namespace(spec) => {
            let known = observed
                .namespaces
                .get(&Ns::Named(spec.name.clone()))
                .filter(|known| known.inode != 0);
            let seen = known.map(|known| NamespaceObserved {
                path: format!("/run/netns/{}", spec.name),
                inode: known.inode,
                netnsid: known.netnsid,
                links: known.link_count,
            });
            to_entry(record, &to_stored(spec, Some(true), record, health, seen))
        }
        Spec::Bridge(spec) => {
            let seen = observed
                .link(&Ns::of(spec.namespace.as_ref()), spec.device())
                .and_then(|link| observed_bridge(spec, link));
            let stored = to_stored(spec, None, record, health, seen);
            Entry {
                bridge: Some(Box::new(stored.clone())),
                ..to_entry(record, &stored)
            }
        }
        Spec::Veth(spec) => {
            let links = [0, 1].map(|i: usize| find_end(spec, i, observed));
            let seen = observed_veth(spec, links);
            let mut health = health.clone();
            if health.state == State::InSync && health.reason.is_none() {
                health.reason = if seen.ready {
                    describe_unequal_mtus(spec, &seen)
                } else {
                    Some(describe_not_ready(spec, &seen))
                };
            }
            Entry {
                ports: observed_ports(&record.spec, observed),
                ..to_entry(record, &to_stored(spec, None, record, &health, Some(seen)))
            }
        }
        Spec::Link(spec) => {
            let seen = observed
                .link(&Ns::of(spec.device.namespace.as_ref()), spec.device_name())
                .map(|link| observed_end(&spec.device, link));
            Entry {
                ports: observed_ports(&record.spec, observed),
                ..to_entry(record, &to_stored(spec, None, record, health, seen))
            }
        }
    }
}

fn to_stored<R: Resource>(
    spec: &R,
    managed: Option<bool>,
    record: &Record,
    health: &Health,
    observed: Option<R::Observed>,
) -> Stored<R> {
    Stored {
        spec: spec.clone(),
        uid: record.uid.clone(),
        generation: record.generation,
        managed,
        created_at: format_rfc3339(record.created_at),
        updated_at: format_rfc3339(record.updated_at),
        status: Status {
            state: health.state,
            reason: health.reason.clone(),
            observed,
        },
    }
}

fn to_entry<R: Resource>(record: &Record, stored: &Stored<R>) -> Entry {
    let mut json = serde_json::to_vec(stored).unwrap_or_else(|error| {
        tracing::error!(%error, resource = %record.spec.resource(), "cannot serialize a resource");
        b"null".to_vec()
    });
    json.shrink_to_fit();
    Entry {
        spec: record.spec.clone(),
        uid: record.uid.clone(),
        generation: record.generation,
        updated_at: record.updated_at,
        state: stored.status.state,
        json: json.into(),
        bridge: None,
        ports: Vec::new(),
    }
}

fn find_end<'o>(spec: &Veth, i: usize, observed: &'o Observed) -> Option<&'o ObservedLink> {
    let end = &spec.endpoints[i];
    observed.link(&Ns::of(end.namespace.as_ref()), end.device())
}

fn observed_bridge(spec: &Bridge, link: &ObservedLink) -> Option<BridgeObserved> {
    let settings = link.bridge.as_ref()?;
    let (addresses, foreign_addresses) = split_addresses(&spec.addresses, link);
    Some(BridgeObserved {
        index: link.index,
        mac: format_mac(link),
        mtu: link.mtu,
        up: link.up,
        carrier: link.carrier,
        operstate: link.operstate.clone(),
        addresses,
        foreign_addresses,
        bridge_id: settings.bridge_id.clone(),
        root_id: settings.root_id.clone(),
        ports: Vec::new(),
    })
}

fn observed_end(spec: &Endpoint, link: &ObservedLink) -> EndpointObserved {
    let (addresses, foreign_addresses) = split_addresses(&spec.addresses, link);
    EndpointObserved {
        index: link.index,
        mac: format_mac(link),
        mtu: link.mtu,
        up: link.up,
        carrier: link.carrier,
        operstate: link.operstate.clone(),
        addresses,
        foreign_addresses,
        bridge: link.master.clone(),
    }
}

fn observed_veth(spec: &Veth, links: [Option<&ObservedLink>; 2]) -> VethObserved {
    let seen = |i: usize| links[i].map(|link| observed_end(&spec.endpoints[i], link));
    VethObserved {
        ready: links
            .iter()
            .all(|link| link.is_some_and(|link| link.up && link.carrier)),
        endpoints: [seen(0), seen(1)],
    }
}

fn describe_not_ready(spec: &Veth, seen: &VethObserved) -> String {
    let missing: Vec<String> = (0..2)
        .filter_map(|i| {
            let end = &spec.endpoints[i];
            let place = format!(
                "end {i} ({} in {})",
                end.device(),
                Ns::of(end.namespace.as_ref())
            );
            match &seen.endpoints[i] {
                None => Some(format!("{place} is not there")),
                Some(link) if !link.up => Some(format!("{place} is down")),
                Some(_) => None,
            }
        })
        .collect();
    match missing.is_empty() {
        true => "not ready: waiting for carrier".to_owned(),
        false => format!("not ready: {}", missing.join(", ")),
    }
}

/// Describes the effect of different MTUs at the ends of a pair (`veth_forward_skb()`,
/// drivers/net/veth.c).
fn describe_unequal_mtus(spec: &Veth, seen: &VethObserved) -> Option<String> {
    let [a, b] = [0, 1].map(|i: usize| seen.endpoints[i].as_ref().map_or(0, |end| end.mtu));
    let (larger, most, least) = if a > b { (0, a, b) } else { (1, b, a) };
    let name = spec.endpoints[larger].device();
    (most != least)
        .then(|| format!("{name} has MTU {most}, its peer {least}: larger packets are dropped"))
}

/// Returns the bridge ports that a resource's devices are, each with its bridge.
fn observed_ports(spec: &Spec, observed: &Observed) -> Vec<(Name, PortObserved)> {
    let ports = spec
        .devices()
        .filter_map(|device| observed_port(spec, &device, observed));
    let mut ports: Vec<_> = ports.collect();
    ports.shrink_to_fit();
    ports
}

fn observed_port(
    spec: &Spec,
    device: &DeviceSpec<'_>,
    observed: &Observed,
) -> Option<(Name, PortObserved)> {
    let link = observed.link(&device.ns(), device.name)?;
    let (asked, port) = (device.port?, link.port.as_ref()?);
    let name_of = |kind: Kind| (spec.kind() == kind).then(|| spec.name().clone());
    let veth = name_of(Kind::Veth);
    Some((
        asked.bridge.clone(),
        PortObserved {
            interface: device.name.to_owned(),
            endpoint: veth.as_ref().and(u8::try_from(device.end).ok()),
            veth,
            link: name_of(Kind::Link),
            state: port.state.clone(),
            path_cost: port.attrs.path_cost,
            priority: port.attrs.priority,
        },
    ))
}

fn format_mac(link: &ObservedLink) -> String {
    link.mac.map(|mac| mac.to_string()).unwrap_or_default()
}

/// Splits the addresses of a link into those that are asked for, in the order of the intent, and
/// foreign ones. Link-local ones that the kernel adds itself are neither.
fn split_addresses(wanted: &[InterfaceAddress], link: &ObservedLink) -> (Vec<String>, Vec<String>) {
    let is_asked = |known: &ObservedAddress, asked: &InterfaceAddress| {
        known.net == asked.net() && known.peer == asked.peer().map(|peer| peer.0.addr())
    };
    let there = wanted
        .iter()
        .filter(|asked| link.addresses.iter().any(|known| is_asked(known, asked)));
    let others = link.addresses.iter().filter(|known| {
        !is_link_local(known.net.addr()) && !wanted.iter().any(|asked| is_asked(known, asked))
    });
    (
        there.map(ToString::to_string).collect(),
        others.map(ToString::to_string).collect(),
    )
}
