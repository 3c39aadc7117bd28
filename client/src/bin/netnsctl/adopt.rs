//! `netnsctl adopt`: writes the live network of the host as a document, and adopts it.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use http::Method;
use netnsd_api::{
    DEFAULT_MTU, Items, Kind, LinkAddress, LinkType, LiveLink, LiveNeighbour, LiveRoute, Name,
    NextHop, RouteType, UnmanagedNamespace, default_metric, is_link_local,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::{
    api::{RequestBody, percent_encode},
    cli::Context,
    error::CliError,
    resource::{collection_path, item_names},
    status::ResourceArg,
    topology::send_document,
};

/// Origins of routes that are added again without netnsd: by the kernel, DHCP and router
/// advertisements.
const TRANSIENT_PROTOCOLS: &[&str] = &["kernel", "dhcp", "ra", "redirect"];

/// `netnsctl adopt …`
#[derive(Debug, Args)]
pub struct AdoptArgs {
    /// The resources, as `--all --dry-run` names them: netns/NAME, bridge/NAME, veth/NAME
    #[arg(required_unless_present = "all", value_name = "KIND/NAME")]
    resources: Vec<ResourceArg>,
    /// Every namespace, bridge and veth pair that netnsd does not manage
    #[arg(long, conflicts_with = "resources")]
    all: bool,
}

/// Adopts existing resources, all or none.
pub async fn adopt_resources(context: &Context, args: &AdoptArgs) -> Result<(), CliError> {
    let mut document = HostSnapshot::read(context).await?.into_document();
    if args.all {
        for reason in &document.omissions {
            eprintln!("netnsctl: {reason}");
        }
    } else {
        document.retain_only(&args.resources)?;
    }

    let body: Map<String, Value> = document
        .resources
        .into_iter()
        .map(|(kind, items)| (kind.plural().to_owned(), items.into()))
        .collect();
    send_document(
        context,
        Method::PATCH,
        [("adopt", "true")].into_iter(),
        &RequestBody::Json(&body.into()),
        None,
        "adopted",
    )
    .await
}

/// A topology document of resources to adopt.
#[derive(Debug)]
struct AdoptDocument {
    resources: BTreeMap<Kind, Vec<Value>>,
    /// Sentences on everything that is left out.
    omissions: Vec<String>,
}

impl AdoptDocument {
    fn new(omissions: Vec<String>) -> Self {
        Self {
            resources: Kind::ALL.map(|kind| (kind, Vec::new())).into(),
            omissions,
        }
    }

    fn add(&mut self, kind: Kind, item: Value) {
        self.resources.entry(kind).or_default().push(item);
    }

    fn omit(&mut self, reason: String) {
        self.omissions.push(reason);
    }

    /// Removes all resources but those named.
    fn retain_only(&mut self, names: &[ResourceArg]) -> Result<(), CliError> {
        for ResourceArg { kind, name } in names {
            let items = self.resources.get(kind).into_iter().flatten();
            if !items.into_iter().any(|item| item["name"] == name.as_str()) {
                return Err(CliError::Usage(format!(
                    "there is no unmanaged {kind}/{name}: see netnsctl adopt --all --dry-run"
                )));
            }
        }
        for (kind, items) in &mut self.resources {
            items.retain(|item| {
                names
                    .iter()
                    .any(|named| named.kind == *kind && item["name"] == named.name.as_str())
            });
        }
        Ok(())
    }
}

/// The live state of the host.
#[derive(Debug)]
struct HostSnapshot {
    /// The namespaces, the host's first.
    namespaces: Vec<NamespaceSnapshot>,
    /// Names of resources that are in use.
    used_names: BTreeSet<(Kind, String)>,
    /// Sentences on the namespaces that cannot be adopted.
    omissions: Vec<String>,
}

/// The live state of one namespace.
#[derive(Debug)]
struct NamespaceSnapshot {
    /// `None` for the host's.
    name: Option<String>,
    /// `None` for the host's, and for those that netnsd manages.
    unmanaged: Option<UnmanagedState>,
    links: Vec<LiveLink>,
    addresses: Vec<LinkAddress>,
}

/// The live state of an unmanaged namespace, besides its links.
#[derive(Debug)]
struct UnmanagedState {
    netnsid: Option<u32>,
    routes: Vec<LiveRoute>,
    neighbours: Vec<LiveNeighbour>,
}

/// Names of bridge resources, by their namespace and device.
type BridgeNames = BTreeMap<(Option<String>, String), String>;

impl HostSnapshot {
    /// Reads the state of the host and of all namespaces that can be adopted or are managed.
    async fn read(context: &Context) -> Result<Self, CliError> {
        let mut used_names = BTreeSet::new();
        for kind in Kind::ALL {
            let list = context.api.list(&collection_path(kind), &[]).await?;
            let names = item_names(&list.items)?;
            used_names.extend(names.into_iter().map(|name| (kind, name)));
        }

        let mut omissions = Vec::new();
        let mut seen_inodes = BTreeMap::new();
        let mut namespaces = vec![NamespaceSnapshot::read(context, None, None).await?];
        let list = context
            .api
            .list(
                &collection_path(Kind::Namespace),
                &[("include", "unmanaged")],
            )
            .await?;
        for item in &list.items {
            let item: Value = serde_json::from_str(item.get())?;
            let name = item["name"].as_str().unwrap_or_default().to_owned();
            let unmanaged: Option<UnmanagedNamespace> = (item["managed"] == false)
                .then(|| serde_json::from_value(item))
                .transpose()?;
            if let Some(namespace) = &unmanaged
                && let Some(reason) =
                    find_adoption_obstacle(context, namespace, &mut seen_inodes).await?
            {
                omissions.push(format!("namespace {name} is left out: {reason}"));
                continue;
            }
            namespaces.push(NamespaceSnapshot::read(context, Some(name), unmanaged).await?);
        }
        Ok(Self {
            namespaces,
            used_names,
            omissions,
        })
    }

    /// Writes a document of everything that netnsd does not manage.
    fn into_document(mut self) -> AdoptDocument {
        let mut document = AdoptDocument::new(std::mem::take(&mut self.omissions));
        let namespaces = std::mem::take(&mut self.namespaces);
        let mut bridges = BridgeNames::new();
        for namespace in &namespaces {
            namespace.add_namespace(&mut document);
            self.add_bridges(namespace, &mut bridges, &mut document);
        }
        self.add_veths(&namespaces, &bridges, &mut document);
        self.add_links(&namespaces, &bridges, &mut document);
        document
    }

    /// Adds the unmanaged bridges of a namespace; records the names of all of its bridges.
    fn add_bridges(
        &mut self,
        namespace: &NamespaceSnapshot,
        bridges: &mut BridgeNames,
        document: &mut AdoptDocument,
    ) {
        for link in namespace.links.iter().filter(|link| is_bridge(link)) {
            let name = match &link.resource {
                Some(resource) => resource.name.to_string(),
                None => {
                    let name = self.choose_name(Kind::Bridge, namespace, &link.name);
                    let bridge = namespace.bridge_spec(&name, link);
                    document.add(Kind::Bridge, bridge);
                    name
                }
            };
            bridges.insert((namespace.name.clone(), link.name.clone()), name);
        }
    }

    /// Adds the unmanaged veth pairs.
    fn add_veths(
        &mut self,
        namespaces: &[NamespaceSnapshot],
        bridges: &BridgeNames,
        document: &mut AdoptDocument,
    ) {
        for (i, namespace) in namespaces.iter().enumerate() {
            for link in namespace
                .links
                .iter()
                .filter(|link| is_unmanaged_veth(link))
            {
                let Some((peer_namespace, peer)) = find_peer(namespaces, link) else {
                    document.omit(format!(
                        "{} in {} is left out: its peer is in a namespace without a name",
                        link.name,
                        namespace.describe()
                    ));
                    continue;
                };
                // Each pair is found from both ends.
                if (i, link.index) > (peer_namespace, peer.index) {
                    continue;
                }
                let name = self.choose_name(Kind::Veth, namespace, &link.name);
                let endpoints = [
                    namespace.endpoint_spec(link, bridges, document),
                    namespaces[peer_namespace].endpoint_spec(peer, bridges, document),
                ];
                document.add(Kind::Veth, json!({"name": name, "endpoints": endpoints}));
            }
        }
    }

    /// Adds the unmanaged links of a type that netnsd has.
    fn add_links(
        &mut self,
        namespaces: &[NamespaceSnapshot],
        bridges: &BridgeNames,
        document: &mut AdoptDocument,
    ) {
        for namespace in namespaces {
            for link in &namespace.links {
                let link_type = link.kind.as_deref().and_then(|kind| kind.parse().ok());
                let Some(link_type): Option<LinkType> = link_type else {
                    continue;
                };
                if link.resource.is_none() && !link_type.field_names().is_empty() {
                    document.omit(format!(
                        "{} in {} is left out: a {link_type} is taken over by the API only",
                        link.name,
                        namespace.describe()
                    ));
                } else if link.resource.is_none() {
                    let mut spec = namespace.endpoint_spec(link, bridges, document);
                    spec["name"] = self.choose_name(Kind::Link, namespace, &link.name).into();
                    spec["type"] = link_type.as_str().into();
                    document.add(Kind::Link, spec);
                }
            }
        }
    }

    /// Chooses a name for a resource: that of the device, with its namespace before it unless that
    /// is the host's.
    fn choose_name(&mut self, kind: Kind, namespace: &NamespaceSnapshot, device: &str) -> String {
        let base: String = match &namespace.name {
            Some(namespace) => format!("{namespace}-{device}"),
            None => device.to_owned(),
        };
        let base: String = base
            .chars()
            .map(|c| match c {
                'A'..='Z' | 'a'..='z' | '0'..='9' | '.' | '_' | '-' => c,
                _ => '_',
            })
            .collect();
        let base = base.trim_start_matches(['.', '-']);
        let numbered = (2..).map(|n: u32| format!("{base}-{n}"));
        let name = std::iter::once(base.to_owned())
            .chain(numbered)
            .find(|name| !self.used_names.contains(&(kind, name.clone())))
            .unwrap_or_default();
        self.used_names.insert((kind, name.clone()));
        name
    }
}

fn is_bridge(link: &LiveLink) -> bool {
    link.kind.as_deref() == Some("bridge")
}

fn is_unmanaged_veth(link: &LiveLink) -> bool {
    link.kind.as_deref() == Some("veth") && link.resource.is_none()
}

/// Returns the peer of a veth device, and the index of its namespace.
fn find_peer<'a>(
    namespaces: &'a [NamespaceSnapshot],
    link: &LiveLink,
) -> Option<(usize, &'a LiveLink)> {
    let peer = link.peer.as_ref()?;
    let at = namespaces
        .iter()
        .position(|namespace| namespace.name == peer.namespace)?;
    let link = namespaces[at]
        .links
        .iter()
        .find(|other| other.name == peer.interface)?;
    Some((at, link))
}

/// Returns why a namespace cannot be adopted: it may be the host's own, or have two names.
async fn find_adoption_obstacle(
    context: &Context,
    namespace: &UnmanagedNamespace,
    seen_inodes: &mut BTreeMap<u64, String>,
) -> Result<Option<String>, CliError> {
    let UnmanagedNamespace { name, status, .. } = namespace;
    if name.parse::<Name>().is_err() {
        return Ok(None); // reported by `add_namespace`
    }
    // The API shows a file that is not a namespace with inode 0.
    if status.observed.inode == 0 {
        return Ok(Some(format!(
            "{} is not a network namespace",
            status.observed.path
        )));
    }
    if let Some(other) = seen_inodes.insert(status.observed.inode, name.clone()) {
        return Ok(Some(format!("it is the same as namespace {other}")));
    }
    let path = format!(
        "/v1/namespaces/{}?adopt=true&dry_run=true",
        percent_encode(name)
    );
    context
        .api
        .put_for_conflict(&path, &RequestBody::Json(&json!({})))
        .await
}

impl NamespaceSnapshot {
    async fn read(
        context: &Context,
        name: Option<String>,
        unmanaged: Option<UnmanagedNamespace>,
    ) -> Result<Self, CliError> {
        let path = match &name {
            Some(name) => format!("/v1/namespaces/{}", percent_encode(name)),
            None => "/v1/host".into(),
        };
        let unmanaged = match unmanaged {
            Some(namespace) => Some(UnmanagedState {
                netnsid: namespace.status.observed.netnsid,
                routes: read_items(context, &format!("{path}/routes")).await?,
                neighbours: read_items(context, &format!("{path}/neighbours")).await?,
            }),
            None => None,
        };
        Ok(Self {
            name,
            unmanaged,
            links: read_items(context, &format!("{path}/links?settings=true")).await?,
            addresses: read_items(context, &format!("{path}/addresses")).await?,
        })
    }

    /// Returns the namespace as text for messages.
    fn describe(&self) -> String {
        match &self.name {
            Some(name) => format!("namespace {name}"),
            None => "the host".into(),
        }
    }

    /// Adds the namespace, if netnsd does not manage it.
    fn add_namespace(&self, document: &mut AdoptDocument) {
        let (Some(name), Some(state)) = (&self.name, &self.unmanaged) else {
            return;
        };
        match name.parse::<Name>() {
            Ok(_) => {
                let namespace = self.namespace_spec(name, state, document);
                document.add(Kind::Namespace, namespace);
            }
            Err(error) => {
                document.omit(format!("namespace {name:?} is left out: {}", error.0));
            }
        }
    }

    fn namespace_spec(
        &self,
        name: &str,
        state: &UnmanagedState,
        document: &mut AdoptDocument,
    ) -> Value {
        let mut routes = Vec::new();
        for route in &state.routes {
            if TRANSIENT_PROTOCOLS.contains(&route.protocol.as_str()) {
                continue;
            }
            if route.kind.parse::<RouteType>().is_err() || !route.adoptable {
                document.omit(format!(
                    "a route to {} in namespace {name} is left out: netnsd does not support it",
                    route.destination
                ));
                continue;
            }
            routes.push(route_spec(route));
        }
        let neighbours: Vec<Value> = state
            .neighbours
            .iter()
            .filter(|entry| entry.proxy || entry.state == "permanent" && entry.mac.is_some())
            .map(|entry| {
                json!({
                    "address": entry.address,
                    "mac": entry.mac,
                    "interface": entry.interface,
                    "proxy": entry.proxy,
                })
            })
            .collect();
        let is_loopback_up = self.links.iter().any(|link| link.name == "lo" && link.up);
        json!({
            "name": name,
            "netnsid": state.netnsid,
            "loopback": is_loopback_up,
            "routes": routes,
            "neighbours": neighbours,
        })
    }

    /// Returns the fields of every device. MAC addresses are left out: those of the links stay.
    fn device_spec(&self, link: &LiveLink) -> Map<String, Value> {
        let mut addresses: Vec<Value> = Vec::new();
        for address in &self.addresses {
            if address.interface != link.name || !is_adoptable_address(address) {
                continue;
            }
            addresses.push(match &address.peer {
                None => json!(address.address),
                Some(peer) => json!({"address": address.address, "peer": peer}),
            });
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

    fn bridge_spec(&self, name: &str, link: &LiveLink) -> Value {
        let mut bridge = self.device_spec(link);
        bridge.insert("name".into(), name.into());
        // A bridge takes the lowest MTU of its ports unless one is set.
        let port_mtus = self
            .links
            .iter()
            .filter(|port| port.bridge.as_ref() == Some(&link.name))
            .map(|port| port.mtu);
        if port_mtus.min() == Some(link.mtu) {
            bridge.remove("mtu");
        }
        if let Value::Object(settings) = json!(link.settings) {
            bridge.extend(settings.into_iter().filter(|(field, _)| field != "port"));
        }
        bridge.into()
    }

    fn endpoint_spec(
        &self,
        link: &LiveLink,
        bridges: &BridgeNames,
        document: &mut AdoptDocument,
    ) -> Value {
        let mut endpoint = self.device_spec(link);
        if let Some(device) = &link.bridge {
            match bridges.get(&(self.name.clone(), device.clone())) {
                Some(bridge) => {
                    let settings = link.settings.as_ref();
                    let port = settings.and_then(|settings| settings.port.as_ref());
                    endpoint.insert("bridge".into(), bridge.as_str().into());
                    endpoint.insert("port".into(), json!(port));
                }
                None => document.omit(format!(
                    "{} in {} stays a port of {device}, which is not a bridge that netnsd supports",
                    link.name,
                    self.describe()
                )),
            }
        }
        endpoint.into()
    }
}

fn route_spec(route: &LiveRoute) -> Value {
    let is_ipv6 = route.destination.contains(':')
        || route.via.as_ref().is_some_and(|via| via.contains(':'))
        || route.nexthops.iter().any(NextHop::is_ipv6);
    let metric = Some(route.metric).filter(|metric| *metric != default_metric(is_ipv6));
    json!({
        "destination": route.destination,
        "via": route.via,
        "interface": route.interface,
        "source": route.source,
        "metric": metric,
        "table": route.table,
        "type": route.kind,
        "onlink": route.onlink,
        "nexthops": route.nexthops,
        "mtu": route.mtu,
        "advmss": route.advmss,
        "initcwnd": route.initcwnd,
    })
}

/// Returns true for an address that does not expire and was not added by the kernel.
fn is_adoptable_address(address: &LinkAddress) -> bool {
    let ip = address
        .address
        .split_once('/')
        .and_then(|(ip, _)| ip.parse().ok());
    address.permanent && !ip.is_some_and(is_link_local)
}

async fn read_items<T: DeserializeOwned>(
    context: &Context,
    path: &str,
) -> Result<Vec<T>, CliError> {
    Ok(serde_json::from_slice::<Items<T>>(&context.api.get(path).await?)?.items)
}
