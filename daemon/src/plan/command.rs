//! Shell lines that do the same as operations: `ip(8)` of iproute2 6.1 or later, `sysctl(8)`,
//! `sh(1)`.
//!
//! Each line stands alone, and fails if the kernel refuses. Owner tags are set too, except for the
//! protocol number of addresses, which that `ip` cannot set yet.

use netnsd_api::{
    Family, InterfaceName, Mac, Neighbour, NetnsId, Route, RouteType, Rule, shell_word,
};

use crate::kernel::{
    AddressChange, FeatureOp, IFA_F_NODAD, IFA_F_NOPREFIXROUTE, LinkAt, LinkChange, LinkOp,
    NamespaceChange, NamespaceOp, NeighbourChange, NewEnd, NewLink, Ns, ObservedAddress, Op,
    ROUTE_PROTOCOL, RT_TABLE_MAIN, RemoteChange, RouteChange, RouteExtras, RuleChange, moved,
    ownership, prefix_route,
};
use crate::links::{DeviceAttrs, DeviceType, LinkSettings, PortAttrs, VlanChange};

/// Returns the shell line that does the same as an operation.
pub fn command(op: &Op) -> String {
    let line = line(op);
    // `sh -e` takes no notice of what fails before `&&`, unless it is in a subshell.
    if line.contains(" && ") {
        format!("({line})")
    } else {
        line
    }
}

fn line(op: &Op) -> String {
    match op {
        Op::Namespace(op) => namespace_line(op),
        Op::Link(op) => link_line(op),
        Op::Feature(op) => feature_line(op),
    }
}

fn namespace_line(NamespaceOp { name, change }: &NamespaceOp) -> String {
    let lo = LinkAt::loopback(Ns::Named(name.clone()));
    match change {
        NamespaceChange::Create { owner_tag } => {
            format!("ip netns add {name} && {}", altname(&lo, "add", owner_tag))
        }
        NamespaceChange::Attach { pid, owner_tag } => format!(
            "ip netns attach {name} {pid} && {}",
            altname(&lo, "add", owner_tag)
        ),
        NamespaceChange::Delete => format!("ip netns delete {name}"),
        NamespaceChange::SetId(NetnsId::Auto) => format!("ip netns set {name} auto"),
        NamespaceChange::SetId(NetnsId::Id(id)) => format!("ip netns set {name} {id}"),
        NamespaceChange::SetLoopbackUp(up) => link_set(&lo, up_or_down(*up)),
    }
}

fn link_line(op: &LinkOp) -> String {
    match op {
        LinkOp::Create(new) => match &new.peer {
            Some(peer) => veth(&new.end, peer),
            None => link_add(new),
        },
        LinkOp::Delete(link) => format!(
            "{} link delete dev {}",
            ip(&link.ns),
            shell_word(&link.name)
        ),
        LinkOp::Move { from, to } => {
            let mut change = format!("netns {}", netns_arg(&to.ns));
            if to.name != from.name {
                change += &format!(" name {}", shell_word(&to.name));
            }
            link_set(from, &change)
        }
        LinkOp::Set { link, change } => link_change_line(link, change),
    }
}

fn link_change_line(link: &LinkAt, change: &LinkChange) -> String {
    let change = match change {
        LinkChange::Name(name) => format!("name {}", shell_word(name)),
        LinkChange::Up(up) => up_or_down(*up).to_owned(),
        LinkChange::Mac(mac) => format!("address {mac}"),
        LinkChange::Mtu(mtu) => format!("mtu {mtu}"),
        LinkChange::AddrGenModeNone(true) => "addrgenmode none".to_owned(),
        LinkChange::AddrGenModeNone(false) => "addrgenmode eui64".to_owned(),
        LinkChange::Master(Some(master)) => format!("master {}", shell_word(master)),
        LinkChange::Master(None) => "nomaster".to_owned(),
        LinkChange::Device(settings) => DeviceAttrs::ip_args(settings).trim_start().to_owned(),
        LinkChange::Altname { name, present } => {
            return altname(link, if *present { "add" } else { "del" }, name);
        }
        LinkChange::Settings(settings) => type_args(settings, &settings.ip_change_args()),
        LinkChange::Port(settings) => format!("type bridge_slave{}", PortAttrs::ip_args(settings)),
        LinkChange::Vlans(change) => return vlan_lines(link, change),
        LinkChange::Owner { was, owner_tag, .. } => {
            let added = owner_tag.iter().map(|tag| altname(link, "add", tag));
            let removed = was.iter().map(|tag| match ownership::is_legacy(tag) {
                true => link_set(link, "alias ''"),
                false => altname(link, "del", tag),
            });
            return added.chain(removed).collect::<Vec<_>>().join(" && ");
        }
    };
    link_set(link, &change)
}

fn feature_line(op: &FeatureOp) -> String {
    match op {
        FeatureOp::Address { link, change } => address_line(link, change),
        FeatureOp::Remote { link, change } => {
            let (verb, to) = match change {
                RemoteChange::Add(to) => ("append", to),
                RemoteChange::Delete(to) => ("delete", to),
            };
            format!(
                "{} fdb {verb} 00:00:00:00:00:00 dev {} dst {to} self permanent",
                bridge(&link.ns),
                shell_word(&link.name)
            )
        }
        FeatureOp::Route { ns, change } => {
            let protocol = ROUTE_PROTOCOL.to_string();
            match change {
                RouteChange::Add {
                    route: new,
                    extras,
                    replace,
                    ..
                } => {
                    let verb = add_or_replace(*replace);
                    route(ns, verb, new, &protocol, &route_extras(extras))
                }
                RouteChange::Delete(old) => {
                    // Without its next hops and metrics, as the kernel is asked.
                    let bare = Route {
                        nexthops: Vec::new(),
                        mtu: None,
                        advmss: None,
                        initcwnd: None,
                        ..old.clone()
                    };
                    route(ns, "delete", &bare, &protocol, "")
                }
            }
        }
        FeatureOp::Rule { ns, change } => match change {
            RuleChange::Add(new) => rule(ns, "add", new),
            RuleChange::Delete(old) => rule(ns, "delete", old),
        },
        FeatureOp::Neighbour { ns, change } => match change {
            NeighbourChange::Set(new) => {
                let details = match new.mac {
                    Some(mac) => format!(" lladdr {mac} nud permanent"),
                    None => String::new(),
                };
                neighbour(ns, "replace", new) + &details
            }
            NeighbourChange::Delete(old) => neighbour(ns, "delete", old),
        },
        FeatureOp::Sysctl { name, key, value } => format!(
            "ip netns exec {name} sysctl -qw {}",
            shell_word(&format!("{key}={value}"))
        ),
        FeatureOp::Dns {
            name,
            file,
            content,
        } => {
            let dir = format!("/etc/netns/{name}");
            match content {
                Some(content) => format!(
                    "mkdir -p {dir} && printf %s {} >{dir}/{file}",
                    shell_word(content)
                ),
                None => format!("rm -f {dir}/{file} && {{ rmdir {dir} 2>/dev/null || true; }}"),
            }
        }
    }
}

fn address_line(link: &LinkAt, change: &AddressChange) -> String {
    match change {
        AddressChange::Add { address, replace } => {
            address_add(link, address, add_or_replace(*replace))
        }
        AddressChange::Delete { address, promote } => {
            promoting(link, *promote, vec![address_delete(link, address)])
        }
        AddressChange::Reorder {
            delete,
            add,
            promote,
        } => reorder(link, (delete, add), *promote),
        AddressChange::AddPrefixRoute(address) => {
            let new = prefix_route(&link.name, address);
            route(&link.ns, "append", &new, "kernel", "")
        }
    }
}

/// `ip`, in a namespace.
fn ip(ns: &Ns) -> String {
    match ns {
        Ns::Host => "ip".into(),
        Ns::Named(name) => format!("ip -n {name}"),
    }
}

/// `bridge`, in a namespace.
fn bridge(ns: &Ns) -> String {
    match ns {
        Ns::Host => "bridge".into(),
        Ns::Named(name) => format!("bridge -n {name}"),
    }
}

/// Returns the argument of the option `netns`; the host's namespace is that of the shell, `$$`.
fn netns_arg(ns: &Ns) -> String {
    match ns {
        Ns::Host => "$$".into(),
        Ns::Named(name) => name.to_string(),
    }
}

fn link_set(link: &LinkAt, change: &str) -> String {
    format!(
        "{} link set dev {} {change}",
        ip(&link.ns),
        shell_word(&link.name)
    )
}

/// Adds an alternative name to a link, or deletes it.
fn altname(link: &LinkAt, verb: &str, altname: &str) -> String {
    format!(
        "{} link property {verb} dev {} altname {}",
        ip(&link.ns),
        shell_word(&link.name),
        shell_word(altname)
    )
}

/// Changes the VLANs of a port.
fn vlan_lines(link: &LinkAt, change: &VlanChange) -> String {
    let bridge = match &link.ns {
        Ns::Host => "bridge".into(),
        Ns::Named(name) => format!("bridge -n {name}"),
    };
    let device = shell_word(&link.name);
    let deleted = change.delete.iter();
    let deleted = deleted.map(|range| format!("{bridge} vlan del vid {range} dev {device}"));
    let added = change.add.iter().map(|(range, flags)| {
        let mut line = format!("{bridge} vlan add vid {range} dev {device}");
        for (word, on) in [(" pvid", flags.pvid), (" untagged", flags.untagged)] {
            if on {
                line += word;
            }
        }
        line
    });
    deleted.chain(added).collect::<Vec<_>>().join(" && ")
}

fn add_or_replace(replace: bool) -> &'static str {
    if replace { "replace" } else { "add" }
}

fn up_or_down(up: bool) -> &'static str {
    if up { "up" } else { "down" }
}

fn address_add(link: &LinkAt, address: &ObservedAddress, verb: &str) -> String {
    let flag = |flag: u32, word: &str| {
        Some(word)
            .filter(|_| address.flags & flag != 0)
            .map(ToOwned::to_owned)
    };
    // The scope that `ip` would choose for 127.0.0.0/8 is another.
    let scope = (address.scope != 0 || address.net.addr().is_loopback()) && !address.is_ipv6();
    let lifetime = |seconds: u32| {
        if seconds == u32::MAX {
            "forever".into()
        } else {
            seconds.to_string()
        }
    };
    let details = options([
        (
            "broadcast",
            address.broadcast.map(|broadcast| broadcast.to_string()),
        ),
        ("label", address.label.as_deref().map(shell_word)),
        (
            "scope",
            scope.then(|| {
                if address.scope == 0 {
                    "global".into()
                } else {
                    address.scope.to_string()
                }
            }),
        ),
        (
            "metric",
            Some(address.metric)
                .filter(|metric| *metric != 0)
                .map(|metric| metric.to_string()),
        ),
        (
            "valid_lft",
            address.lifetimes.map(|(_, valid)| lifetime(valid)),
        ),
        (
            "preferred_lft",
            address.lifetimes.map(|(preferred, _)| lifetime(preferred)),
        ),
    ]);
    let flags = [
        flag(IFA_F_NODAD, " nodad"),
        flag(IFA_F_NOPREFIXROUTE, " noprefixroute"),
    ];
    let flags: String = flags.into_iter().flatten().collect();
    format!(
        "{} address {verb} {address} dev {}{details}{flags}",
        ip(&link.ns),
        shell_word(&link.name)
    )
}

fn address_delete(link: &LinkAt, address: &ObservedAddress) -> String {
    format!(
        "{} address delete {address} dev {}",
        ip(&link.ns),
        shell_word(&link.name)
    )
}

/// Wraps lines in `promote_secondaries` on and off, if needed.
fn promoting(link: &LinkAt, promote: bool, lines: Vec<String>) -> String {
    let LinkAt { ns, name } = link;
    let inside = ns
        .name()
        .map(|ns| format!("ip netns exec {ns} "))
        .unwrap_or_default();
    let key = |value| shell_word(&format!("net/ipv4/conf/{name}/promote_secondaries={value}"));
    let set = |value| promote.then(|| format!("{inside}sysctl -qw {}", key(value)));
    set(1)
        .into_iter()
        .chain(lines)
        .chain(set(0))
        .collect::<Vec<_>>()
        .join(" && ")
}

fn reorder(
    link: &LinkAt,
    (delete, add): (&[ObservedAddress], &[ObservedAddress]),
    promote: bool,
) -> String {
    let ns = &link.ns;
    let moved: Vec<String> = moved(delete, add)
        .map(|address| address.to_string())
        .collect();
    let ipv6 = add.iter().any(ObservedAddress::is_ipv6);
    // Of other tables IPv4 routes stay.
    let (ip, verb, table) = if ipv6 {
        (format!("{} -6", ip(ns)), "replace", " table all")
    } else {
        (ip(ns), "append", "")
    };
    let deletions = delete.iter().map(|gone| address_delete(link, gone));
    let additions = add.iter().map(|new| address_add(link, new, "add"));
    let save = format!(
        "routes=$(for of in {}; do {ip} -o route show{table} src $of; done | sed '/proto kernel/d; s/ linkdown//g')",
        moved.join(" ")
    );
    let restore =
        format!("printf '%s' \"$routes\" | while read -r one; do {ip} route {verb} $one; done");
    let lines = std::iter::once(save)
        .chain(deletions)
        .chain(additions)
        .chain([restore])
        .collect();
    promoting(link, promote, lines)
}

fn address(mac: Option<Mac>) -> String {
    mac.map(|mac| format!(" address {mac}")).unwrap_or_default()
}

/// Returns the device type and its settings.
fn type_args(settings: &LinkSettings, args: &str) -> String {
    format!("type {}{args}", settings.device_type().kind())
}

fn link_add(new: &NewLink) -> String {
    let NewLink { settings, end, .. } = new;
    let later = end.mtu.and_then(|mtu| settings.mtus_after_creation(mtu));
    let mtu = end.mtu.filter(|_| later.is_none());
    let mut args = settings.ip_args();
    let mut link = String::new();
    if let Some(lower) = new.lower.as_deref().map(shell_word) {
        match settings.device_type() {
            DeviceType::Vxlan => args += &format!(" dev {lower}"),
            _ => link = format!("link {lower} "),
        }
    }
    let birth = new.birthplace.as_ref();
    let netns = birth.map(|_| netns_arg(&end.at.ns));
    let mut line = format!(
        "{} link add {link}name {}{}{}{} {} && {}",
        ip(birth.map_or(&end.at.ns, |birth| &birth.ns)),
        shell_word(&end.at.name),
        options([("netns", netns)]),
        address(end.mac),
        options([("mtu", mtu.map(|mtu| mtu.to_string()))]),
        type_args(settings, &args),
        altname(&end.at, "add", &end.owner_tag)
    );
    for mtu in later.into_iter().flatten() {
        line += &format!(" && {}", link_set(&end.at, &format!("mtu {mtu}")));
    }
    line
}

fn veth(one: &NewEnd, other: &NewEnd) -> String {
    let end = |end: &NewEnd| {
        let mtu = end.mtu.map(|mtu| format!(" mtu {mtu}")).unwrap_or_default();
        format!("name {}{}{mtu}", shell_word(&end.at.name), address(end.mac))
    };
    // The option `netns` of the peer knows namespaces by their names: the host's end is the one
    // that is not the peer.
    let (a, b) = if other.at.ns == Ns::Host {
        (other, one)
    } else {
        (one, other)
    };
    let elsewhere = if a.at.ns == b.at.ns {
        String::new()
    } else {
        format!(" netns {}", netns_arg(&b.at.ns))
    };
    format!(
        "{} link add {} type veth peer {}{elsewhere} && {} && {}",
        ip(&a.at.ns),
        end(a),
        end(b),
        altname(&a.at, "add", &a.owner_tag),
        altname(&b.at, "add", &b.owner_tag)
    )
}

/// Returns the options whose values are given.
fn options<const N: usize>(all: [(&str, Option<String>); N]) -> String {
    all.into_iter()
        .filter_map(|(name, value)| Some(format!(" {name} {}", value?)))
        .collect()
}

fn route(ns: &Ns, verb: &str, route: &Route, protocol: &str, extras: &str) -> String {
    let family = if route.is_ipv6() { " -6" } else { "" };
    let kind = match route.kind {
        RouteType::Unicast => String::new(),
        other => format!("{} ", other.as_str()),
    };
    let device = |interface: &Option<InterfaceName>| {
        let name = interface.as_ref();
        name.map(|name| shell_word(name.as_str()))
    };
    let hops: String = route
        .nexthops
        .iter()
        .map(|hop| {
            let words = options([
                ("via", hop.via.map(|via| via.to_string())),
                ("dev", device(&hop.interface)),
                ("weight", Some(hop.weight.to_string())),
            ]);
            let onlink = if route.onlink { " onlink" } else { "" };
            format!(" nexthop{words}{onlink}")
        })
        .collect();
    let device = match (route.kind, &route.interface) {
        (RouteType::Local, None) => Some("lo".to_owned()),
        (_, interface) => device(interface),
    };
    let details = options([
        ("via", route.via.map(|via| via.to_string())),
        ("dev", device),
        (
            "metric",
            route
                .metric
                .filter(|metric| *metric != 0)
                .map(|metric| metric.to_string()),
        ),
        (
            "table",
            // That of a local route would be another by default.
            Some(route.table.to_string())
                .filter(|_| route.table != RT_TABLE_MAIN || route.kind == RouteType::Local),
        ),
        ("src", route.source.map(|source| source.to_string())),
        ("proto", Some(protocol.to_owned())),
        ("mtu", route.mtu.map(|mtu| mtu.to_string())),
        ("advmss", route.advmss.map(|mss| mss.to_string())),
        (
            "initcwnd",
            route.initcwnd.map(|segments| segments.to_string()),
        ),
    ]);
    let onlink = if route.onlink && hops.is_empty() {
        " onlink"
    } else {
        ""
    };
    format!(
        "{}{family} route {verb} {kind}{}{details}{extras}{onlink}{hops}",
        ip(ns),
        route.destination
    )
}

fn neighbour(ns: &Ns, verb: &str, neighbour: &Neighbour) -> String {
    format!(
        "{} neighbour {verb} {}{} dev {}",
        ip(ns),
        if neighbour.proxy { "proxy " } else { "" },
        neighbour.address,
        shell_word(neighbour.interface.as_str())
    )
}

fn rule(ns: &Ns, verb: &str, rule: &Rule) -> String {
    let family = match rule.family {
        Some(Family::Ipv6) => " -6",
        Some(Family::Ipv4) | None => "",
    };
    let words = rule.ip_words();
    let words: Vec<_> = words.iter().map(|word| shell_word(word)).collect();
    format!(
        "{}{family} rule {verb} {} protocol {ROUTE_PROTOCOL}",
        ip(ns),
        words.join(" ")
    )
}

/// The metrics of a route by their numbers (`RTAX_*`, linux/rtnetlink.h), from 2 on.
const METRICS: [&str; 16] = [
    "mtu",
    "window",
    "rtt",
    "rttvar",
    "ssthresh",
    "cwnd",
    "advmss",
    "reordering",
    "hoplimit",
    "initcwnd",
    "features",
    "rto_min",
    "initrwnd",
    "quickack",
    "congctl",
    "fastopen_no_cookie",
];

fn route_extras(extras: &RouteExtras) -> String {
    let number = |value: &[u8]| value.try_into().map(u32::from_ne_bytes).unwrap_or_default();
    let locks = extras
        .metrics
        .iter()
        .find(|(kind, _)| *kind == 1)
        .map_or(0, |(_, value)| number(value));
    let mut text = String::new();
    for (kind, value) in &extras.metrics {
        let Some(name) = usize::from(*kind)
            .checked_sub(2)
            .and_then(|i| METRICS.get(i))
        else {
            continue;
        };
        let value = match *name {
            "congctl" => String::from_utf8_lossy(value)
                .trim_end_matches('\0')
                .to_owned(),
            // `RTAX_FEATURE_ECN`, the only one that ip-route(8) knows.
            "features" => "ecn".to_owned(),
            _ => number(value).to_string(),
        };
        // `rto_min` is locked by itself, and the others know no lock (`iproute_modify()`,
        // ip/iproute.c).
        let has_lock = !["rto_min", "features", "quickack", "fastopen_no_cookie"].contains(name);
        let lock = if has_lock && locks & 1 << kind != 0 {
            " lock"
        } else {
            ""
        };
        text += &format!(" {name}{lock} {value}");
    }
    let preference = extras.preference.and_then(|preference| match preference {
        1 => Some("high"),
        3 => Some("low"),
        _ => None,
    });
    text += &options([
        (
            "realms",
            extras
                .realms
                .map(|realms| format!("{}/{}", realms >> 16, realms & 0xffff)),
        ),
        ("pref", preference.map(str::to_owned)),
        ("scope", extras.scope.map(|scope| scope.to_string())),
    ]);
    text
}
