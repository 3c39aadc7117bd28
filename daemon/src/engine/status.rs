//! What the kernel said, as the status of a resource and as what readers see.

use netnsd_api::{
    Bridge, BridgeObserved, Cidr, EndpointObserved, NamespaceObserved, PortObserved, Resource,
    State, Status, Stored, Veth, VethObserved, is_link_local,
};

use super::Entry;
use crate::{
    kernel::{Ns, Observed, ObservedAddress, ObservedLink},
    model::{Record, Spec, format_rfc3339},
};

/// How a resource stands, apart from what was observed of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    pub state: State,
    pub reason: Option<String>,
}

impl Standing {
    pub fn in_sync() -> Self {
        Self {
            state: State::InSync,
            reason: None,
        }
    }
}

/// What readers see of a resource. Without an observation (a dry run), `observed` is null.
pub(super) fn entry(record: &Record, standing: &Standing, observed: &Observed) -> Entry {
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
            finish(record, &stored(spec, Some(true), record, standing, seen))
        }
        Spec::Bridge(spec) => {
            let seen = observed
                .link(&Ns::of(spec.namespace.as_ref()), spec.device())
                .and_then(|link| bridge(spec, link));
            let stored = stored(spec, None, record, standing, seen);
            Entry {
                bridge: Some(Box::new(stored.clone())),
                ..finish(record, &stored)
            }
        }
        Spec::Veth(spec) => {
            let links = [0, 1].map(|i: usize| end_link(spec, i, observed));
            let seen = veth(spec, links);
            let mut standing = standing.clone();
            if standing.state == State::InSync && standing.reason.is_none() {
                standing.reason = if seen.ready {
                    unequal_mtus(spec, &seen)
                } else {
                    Some(not_ready(spec, &seen))
                };
            }
            let mut ports: Vec<_> = (0..2).filter_map(|i| port(spec, i, links[i]?)).collect();
            ports.shrink_to_fit();
            Entry {
                ports,
                ..finish(record, &stored(spec, None, record, &standing, Some(seen)))
            }
        }
    }
}

fn stored<R: Resource>(
    spec: &R,
    managed: Option<bool>,
    record: &Record,
    standing: &Standing,
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
            state: standing.state,
            reason: standing.reason.clone(),
            observed,
        },
    }
}

fn finish<R: Resource>(record: &Record, stored: &Stored<R>) -> Entry {
    let mut json = serde_json::to_vec(stored).unwrap_or_else(|error| {
        tracing::error!(%error, resource = %record.spec.resource(), "a resource cannot be written as JSON");
        b"null".to_vec()
    });
    json.shrink_to_fit();
    Entry {
        spec: record.spec.clone(),
        uid: record.uid.clone(),
        generation: record.generation,
        state: stored.status.state,
        json: json.into(),
        bridge: None,
        ports: Vec::new(),
    }
}

fn end_link<'o>(spec: &Veth, i: usize, observed: &'o Observed) -> Option<&'o ObservedLink> {
    let end = &spec.endpoints[i];
    observed.link(&Ns::of(end.namespace.as_ref()), end.device())
}

fn bridge(spec: &Bridge, link: &ObservedLink) -> Option<BridgeObserved> {
    let settings = link.bridge.as_ref()?;
    let (addresses, foreign_addresses) = split(&spec.addresses, link);
    Some(BridgeObserved {
        index: link.index,
        mac: mac(link),
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

fn veth(spec: &Veth, links: [Option<&ObservedLink>; 2]) -> VethObserved {
    let seen = |i: usize| {
        links[i].map(|link| {
            let (addresses, foreign_addresses) = split(&spec.endpoints[i].addresses, link);
            EndpointObserved {
                index: link.index,
                mac: mac(link),
                mtu: link.mtu,
                up: link.up,
                carrier: link.carrier,
                operstate: link.operstate.clone(),
                addresses,
                foreign_addresses,
                bridge: link.master.clone(),
            }
        })
    };
    VethObserved {
        ready: links
            .iter()
            .all(|link| link.is_some_and(|link| link.up && link.carrier)),
        endpoints: [seen(0), seen(1)],
    }
}

fn not_ready(spec: &Veth, seen: &VethObserved) -> String {
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

/// Returns what a pair does whose ends have different MTUs (`veth_forward_skb()`,
/// drivers/net/veth.c).
fn unequal_mtus(spec: &Veth, seen: &VethObserved) -> Option<String> {
    let [a, b] = [0, 1].map(|i: usize| seen.endpoints[i].as_ref().map_or(0, |end| end.mtu));
    let (larger, most, least) = if a > b { (0, a, b) } else { (1, b, a) };
    let name = spec.endpoints[larger].device();
    (most != least)
        .then(|| format!("{name} has MTU {most}, its peer {least}: larger packets are dropped"))
}

fn port(spec: &Veth, i: usize, link: &ObservedLink) -> Option<(netnsd_api::Name, PortObserved)> {
    let (bridge, port) = (spec.endpoints[i].bridge.clone()?, link.port.as_ref()?);
    Some((
        bridge,
        PortObserved {
            interface: spec.endpoints[i].device().to_owned(),
            veth: Some(spec.name.clone()),
            endpoint: u8::try_from(i).ok(),
            state: port.state.clone(),
            path_cost: port.attrs.path_cost,
            priority: port.attrs.priority,
        },
    ))
}

fn mac(link: &ObservedLink) -> String {
    link.mac.map(|mac| mac.to_string()).unwrap_or_default()
}

/// The addresses that were asked for and are there, in the order in which they were, and those of
/// others; link-local ones that the kernel makes itself are neither.
fn split(wanted: &[Cidr], link: &ObservedLink) -> (Vec<String>, Vec<String>) {
    let is_asked =
        |known: &ObservedAddress, asked: &Cidr| known.peer.is_none() && known.net == asked.0;
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
