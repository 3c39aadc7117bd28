//! Taking over what others made: the host, as the kernel says it is, written down as a document.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use http::Method;
use netnsd_api::{
    DEFAULT_MTU, Items, Kind, Link, LinkAddress, LiveNeighbour, LiveRoute, Name, RouteType,
    UnmanagedNamespace, is_link_local,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::{
    cli::Context,
    curl::{Body, encoded},
    fail::Failure,
    status::Which,
    whole,
};

/// What to take over.
#[derive(Debug, Args)]
pub struct Adopt {
    /// What to take over, as `--all --dry-run` calls it: netns/NAME, bridge/NAME, veth/NAME
    #[arg(required_unless_present = "all", value_name = "KIND/NAME")]
    which: Vec<Which>,
    /// Every namespace, bridge and veth pair that netnsd did not make
    #[arg(long, conflicts_with = "which")]
    all: bool,
}

/// Takes over what others made, all or nothing.
pub async fn adopt(context: &Context, what: &Adopt) -> Result<(), Failure> {
    let (host, mut left) = Host::look(context).await?;
    let (mut document, also_left) = host.document();
    left.extend(also_left);
    if !what.all {
        let named = |which: &Which, kind: Kind, item: &Value| {
            which.kind == kind && item["name"] == which.name.as_str()
        };
        for which in &what.which {
            if !document[&which.kind]
                .iter()
                .any(|item| named(which, which.kind, item))
            {
                let detail = "netnsctl adopt --all --dry-run tells what there is";
                let Which { kind, name } = which;
                return Err(Failure::Usage(format!(
                    "there is no {kind}/{name} that others made: {detail}"
                )));
            }
        }
        for (kind, items) in &mut document {
            items.retain(|item| what.which.iter().any(|which| named(which, *kind, item)));
        }
    }
    for reason in left.iter().filter(|_| what.all) {
        eprintln!("netnsctl: {reason}");
    }
    let body: Map<String, Value> = document
        .into_iter()
        .map(|(kind, items)| (kind.plural().to_owned(), items.into()))
        .collect();
    whole::send(
        context,
        Method::PATCH,
        [("adopt", "true")].into_iter(),
        &Body::Json(&body.into()),
    )
    .await
}

/// The resources of a document, and sentences on what is left out of it.
type Written = (BTreeMap<Kind, Vec<Value>>, Vec<String>);

/// Everything that the kernel says.
#[derive(Debug)]
struct Host {
    /// The host first.
    places: Vec<Place>,
    /// Names that are taken.
    taken: BTreeSet<(Kind, String)>,
}

/// One namespace.
#[derive(Debug)]
struct Place {
    /// None for the host's.
    name: Option<String>,
    /// None for the host's, and where netnsd made it.
    unmanaged: Option<Inside>,
    links: Vec<Link>,
    addresses: Vec<LinkAddress>,
}

/// What is in a namespace beside links.
#[derive(Debug)]
struct Inside {
    netnsid: Option<u32>,
    routes: Vec<LiveRoute>,
    neighbours: Vec<LiveNeighbour>,
}

impl Host {
    /// Looks at everything but the namespaces that cannot be taken over; gives a sentence on each
    /// of those.
    async fn look(context: &Context) -> Result<(Self, Vec<String>), Failure> {
        let (mut left, mut seen) = (Vec::new(), BTreeMap::new());
        let mut taken = BTreeSet::new();
        for kind in Kind::ALL {
            let recorded = context
                .api
                .list(&format!("/v1/{}", kind.plural()), &[])
                .await?;
            taken.extend(
                crate::resource::names(&recorded.items)?
                    .into_iter()
                    .map(|name| (kind, name)),
            );
        }
        let mut places = vec![Place::look(context, None, None).await?];
        let namespaces = context
            .api
            .list("/v1/namespaces", &[("include", "unmanaged")])
            .await?;
        for item in &namespaces.items {
            let item: Value = serde_json::from_str(item.get())?;
            let name = item["name"].as_str().unwrap_or_default().to_owned();
            let unmanaged: Option<UnmanagedNamespace> = (item["managed"] == false)
                .then(|| serde_json::from_value(item))
                .transpose()?;
            if let Some(namespace) = &unmanaged
                && let Some(reason) = why_not(context, namespace, &mut seen).await?
            {
                left.push(format!("namespace {name} is left out: {reason}"));
                continue;
            }
            places.push(Place::look(context, Some(name), unmanaged).await?);
        }
        Ok((Self { places, taken }, left))
    }

    /// Writes down what netnsd did not make.
    fn document(mut self) -> Written {
        let mut document: BTreeMap<Kind, Vec<Value>> =
            Kind::ALL.map(|kind| (kind, Vec::new())).into();
        let mut left = Vec::new();
        let places = std::mem::take(&mut self.places);
        let mut bridges: BTreeMap<(Option<&str>, &str), String> = BTreeMap::new();
        for place in &places {
            if let (Some(name), Some(inside)) = (&place.name, &place.unmanaged) {
                match name.parse::<Name>() {
                    Ok(_) => document
                        .entry(Kind::Namespace)
                        .or_default()
                        .push(place.namespace(name, inside, &mut left)),
                    Err(error) => left.push(format!("namespace {name:?} is left out: {}", error.0)),
                }
            }
            for link in place
                .links
                .iter()
                .filter(|link| link.kind.as_deref() == Some(Kind::Bridge.as_str()))
            {
                let name = match &link.resource {
                    Some(resource) => resource.name.to_string(),
                    None => {
                        let name = self.free_name(Kind::Bridge, place, &link.name);
                        document
                            .entry(Kind::Bridge)
                            .or_default()
                            .push(place.bridge(&name, link, &mut left));
                        name
                    }
                };
                bridges.insert((place.name.as_deref(), &link.name), name);
            }
        }
        for (i, place) in places.iter().enumerate() {
            let is_veth = |link: &&Link| {
                link.kind.as_deref() == Some(Kind::Veth.as_str()) && link.resource.is_none()
            };
            for link in place.links.iter().filter(is_veth) {
                let peer = link.peer.as_ref().and_then(|peer| {
                    let there = places
                        .iter()
                        .position(|place| place.name == peer.namespace)?;
                    Some((
                        there,
                        places[there]
                            .links
                            .iter()
                            .position(|other| other.name == peer.interface)?,
                    ))
                });
                let Some((there, at)) = peer else {
                    let place = place.words();
                    left.push(format!(
                        "{} in {place} is left out: its other end is in no namespace that has a name",
                        link.name
                    ));
                    continue;
                };
                let other = &places[there].links[at];
                // Each pair once.
                if (i, link.index) > (there, other.index) {
                    continue;
                }
                let name = self.free_name(Kind::Veth, place, &link.name);
                let ends = [
                    place.end(link, &bridges, &mut left),
                    places[there].end(other, &bridges, &mut left),
                ];
                document
                    .entry(Kind::Veth)
                    .or_default()
                    .push(json!({"name": name, "endpoints": ends}));
            }
        }
        (document, left)
    }

    /// A name for what has none yet: that of the device, on the host; with the namespace before it
    /// elsewhere.
    fn free_name(&mut self, kind: Kind, place: &Place, device: &str) -> String {
        let fits = |c: char| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '_'
            }
        };
        let plain: String = match &place.name {
            Some(namespace) => format!("{namespace}-{device}"),
            None => device.to_owned(),
        };
        let plain: String = plain.chars().map(fits).collect();
        let plain = plain.trim_start_matches(['.', '-']);
        let numbered = (2..).map(|n: u32| format!("{plain}-{n}"));
        let mut names = std::iter::once(plain.to_owned()).chain(numbered);
        let name = names
            .find(|name| !self.taken.contains(&(kind, name.clone())))
            .unwrap_or_default();
        self.taken.insert((kind, name.clone()));
        name
    }
}

/// Asks why a namespace cannot be taken over: it may be the host's own, or have two names.
async fn why_not(
    context: &Context,
    namespace: &UnmanagedNamespace,
    seen: &mut BTreeMap<u64, String>,
) -> Result<Option<String>, Failure> {
    let UnmanagedNamespace { name, status, .. } = namespace;
    if name.parse::<Name>().is_err() {
        return Ok(None);
    }
    if status.observed.inode == 0 {
        return Ok(Some(format!(
            "{} is no network namespace",
            status.observed.path
        )));
    }
    if let Some(other) = seen.insert(status.observed.inode, name.clone()) {
        return Ok(Some(format!("it is namespace {other} already")));
    }
    let path = format!("/v1/namespaces/{}?adopt=true&dry_run=true", encoded(name));
    context.api.conflict(&path, &Body::Json(&json!({}))).await
}

impl Place {
    async fn look(
        context: &Context,
        name: Option<String>,
        unmanaged: Option<UnmanagedNamespace>,
    ) -> Result<Self, Failure> {
        let path = match &name {
            Some(name) => format!("/v1/namespaces/{}", encoded(name)),
            None => "/v1/host".into(),
        };
        let unmanaged = match unmanaged {
            Some(namespace) => Some(Inside {
                netnsid: namespace.status.observed.netnsid,
                routes: items(context, &format!("{path}/routes")).await?,
                neighbours: items(context, &format!("{path}/neighbours")).await?,
            }),
            None => None,
        };
        let links = items(context, &format!("{path}/links?settings=true")).await?;
        Ok(Self {
            name,
            unmanaged,
            links,
            addresses: items(context, &format!("{path}/addresses")).await?,
        })
    }

    fn words(&self) -> String {
        self.name
            .as_ref()
            .map_or_else(|| "the host".into(), |name| format!("namespace {name}"))
    }

    fn namespace(&self, name: &str, inside: &Inside, left: &mut Vec<String>) -> Value {
        let mut routes = Vec::new();
        // What the kernel, DHCP and router advertisements bring they bring again.
        let lasting = |route: &&LiveRoute| {
            !["kernel", "dhcp", "ra", "redirect"].contains(&route.protocol.as_str())
        };
        for route in inside.routes.iter().filter(lasting) {
            let kind = serde_json::from_value::<RouteType>(json!(route.kind)).ok();
            if kind.is_none() || !route.adoptable {
                left.push(format!(
                    "a route to {} in namespace {name} is left out: netnsd has no such routes",
                    route.destination
                ));
                continue;
            }
            let ipv6 = route.destination.contains(':')
                || route.via.as_ref().is_some_and(|via| via.contains(':'));
            routes.push(json!({
                "destination": route.destination, "via": route.via, "interface": route.interface, "source": route.source,
                "metric": Some(route.metric).filter(|metric| *metric != if ipv6 { 1024 } else { 0 }),
                "table": route.table, "type": route.kind, "onlink": route.onlink,
            }));
        }
        let permanent = |known: &&LiveNeighbour| known.state == "permanent" && known.mac.is_some();
        let neighbours: Vec<Value> = inside
            .neighbours
            .iter()
            .filter(permanent)
            .map(|known| json!({"address": known.address, "mac": known.mac, "interface": known.interface}))
            .collect();
        let loopback = self.links.iter().any(|link| link.name == "lo" && link.up);
        json!({"name": name, "netnsid": inside.netnsid, "loopback": loopback, "routes": routes, "neighbours": neighbours})
    }

    /// What bridges and ends of pairs have in common. MAC addresses are left to the kernel, as they
    /// were by whoever made it.
    fn device(&self, link: &Link, left: &mut Vec<String>) -> Map<String, Value> {
        let lasting = |known: &&LinkAddress| {
            let by_kernel = known
                .address
                .split_once('/')
                .and_then(|(address, _)| address.parse().ok());
            known.interface == link.name && known.permanent && !by_kernel.is_some_and(is_link_local)
        };
        let mut addresses: Vec<&str> = Vec::new();
        for known in self.addresses.iter().filter(lasting) {
            match &known.peer {
                None => addresses.push(&known.address),
                Some(peer) => left.push(format!(
                    "the address {} peer {peer} of {} in {} is left out: netnsd has no addresses with a peer",
                    known.address,
                    link.name,
                    self.words()
                )),
            }
        }
        let mut device = Map::from_iter([
            ("interface".to_owned(), json!(link.name)),
            ("namespace".to_owned(), json!(self.name)),
            ("up".to_owned(), json!(link.up)),
            ("addresses".to_owned(), json!(addresses)),
        ]);
        if link.mtu != DEFAULT_MTU {
            device.insert("mtu".into(), link.mtu.into());
        }
        device
    }

    fn bridge(&self, name: &str, link: &Link, left: &mut Vec<String>) -> Value {
        let mut bridge = self.device(link, left);
        bridge.insert("name".into(), name.into());
        // One that goes by its ports is not asked for.
        let ports = self
            .links
            .iter()
            .filter(|port| port.bridge.as_ref() == Some(&link.name));
        if ports.map(|port| port.mtu).min() == Some(link.mtu) {
            bridge.remove("mtu");
        }
        if let Some(Value::Object(settings)) =
            link.settings.as_ref().map(|settings| json!(settings))
        {
            bridge.extend(settings.into_iter().filter(|(field, _)| field != "port"));
        }
        bridge.into()
    }

    fn end(
        &self,
        link: &Link,
        bridges: &BTreeMap<(Option<&str>, &str), String>,
        left: &mut Vec<String>,
    ) -> Value {
        let mut end = self.device(link, left);
        if let Some(device) = &link.bridge {
            match bridges.get(&(self.name.as_deref(), device.as_str())) {
                Some(bridge) => {
                    end.insert("bridge".into(), bridge.as_str().into());
                    end.insert(
                        "port".into(),
                        json!(
                            link.settings
                                .as_ref()
                                .and_then(|settings| settings.port.clone())
                        ),
                    );
                }
                None => {
                    let (port, place) = (&link.name, self.words());
                    left.push(format!(
                        "{port} in {place} stays a port of {device}, which is no bridge that netnsd knows"
                    ));
                }
            }
        }
        end.into()
    }
}

async fn items<T: DeserializeOwned>(context: &Context, path: &str) -> Result<Vec<T>, Failure> {
    Ok(serde_json::from_slice::<Items<T>>(&context.api.get(path).await?)?.items)
}
