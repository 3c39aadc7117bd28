//! Properties of the planner, over random networks and the simulated kernel.

use std::collections::BTreeMap;

use ipnet::IpNet;
use netnsd_api::{
    Bridge, Cidr, DetailedAddress, Endpoint, InterfaceAddress, Kind, Link, LinkType, Name,
    Namespace, ResourceRef, Route, Rule, Veth, VlanRange, is_link_local,
};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    intent::Intent,
    kernel::{
        AddressChange, BatchOp, FeatureOp, Kernel, LinkAt, LinkOp, ObservedAddress, ObservedLink,
        RouteChange, RouteExtras, sim::SimKernel,
    },
    links::example_fields,
};

/// A network: the specs by resource.
type Network = BTreeMap<ResourceRef, Spec>;

/// Sysctls that change others, and that reach links.
const SYSCTLS: [&str; 6] = [
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.accept_redirects",
    "net.ipv4.conf.default.rp_filter",
    "net.ipv6.conf.all.forwarding",
    "net.ipv6.conf.default.forwarding",
    "net.ipv6.conf.default.accept_ra",
];

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn namespace(i: usize) -> impl Strategy<Value = Spec> {
    let routes = proptest::collection::vec((0u8..4, 0u8..3, any::<bool>()), 0..4);
    let sysctls =
        proptest::collection::btree_map(proptest::sample::select(&SYSCTLS[..]), 0u8..2, 0..4);
    let rules = proptest::collection::vec((0u32..2, 0usize..6), 0..5);
    (any::<bool>(), routes, rules, sysctls).prop_map(move |(loopback, routes, rules, sysctls)| {
        let mut spec: Namespace =
            serde_json::from_value(json!({"name": format!("n{i}"), "loopback": loopback})).unwrap();
        for (net, via, blackhole) in routes {
            let route = if blackhole && via == 0 {
                json!({"destination": format!("172.17.{net}.0/24"), "mtu": 1300, "nexthops": [
                    {"via": "10.0.0.254"}, {"via": "10.1.0.254", "weight": 2}]})
            } else if blackhole {
                json!({"destination": format!("192.168.{net}.0/24"), "type": "blackhole"})
            } else {
                json!({"destination": format!("172.16.{net}.0/24"), "via": format!("10.{via}.0.254"), "table": 254 + net % 2})
            };
            let route: Route = serde_json::from_value(route).unwrap();
            if !spec.routes.iter().any(|other| other.destination == route.destination) {
                spec.routes.push(route);
            }
        }
        for (priority, selectors) in rules {
            let mut rule = json!({"priority": priority, "table": 7});
            let more = [
                json!({}),
                json!({"family": "ipv4"}),
                json!({"from": "10.0.0.0/8"}),
                json!({"from": "10.0.0.0/8", "not": true}),
                json!({"from": "10.0.0.0/8", "dport": 80}),
                json!({"fwmark": 0, "fwmask": 1}),
            ];
            let fields = more[selectors].as_object().unwrap().clone();
            rule.as_object_mut().unwrap().extend(fields);
            let rule: Rule = serde_json::from_value(rule).unwrap();
            let plain = |rule: Rule| Rule { not: false, ..rule };
            let known = spec.rules.iter().flat_map(Rule::per_family);
            let known: Vec<Rule> = known.map(plain).collect();
            if !rule.per_family().map(plain).any(|rule| known.contains(&rule)) {
                spec.rules.push(rule);
            }
        }
        let value = |(key, value): (&str, u8)| (key.parse().unwrap(), netnsd_api::SysctlValue(value.to_string()));
        spec.sysctls = sysctls.into_iter().map(value).collect();
        Spec::Namespace(spec)
    })
}

fn bridge(i: usize) -> impl Strategy<Value = Spec> {
    let delay = proptest::option::of(0u32..3);
    (
        proptest::option::of(0usize..2),
        0u8..3,
        any::<bool>(),
        proptest::option::of(0u16..5),
        any::<bool>(),
        delay,
    )
        .prop_map(move |(ns, device, stp, priority, up, delay)| {
            let mut spec: Bridge =
                serde_json::from_value(json!({"name": format!("b{i}"), "stp": stp, "up": up}))
                    .unwrap();
            spec.interface = Some(format!("eth{}", (i as u8 + device) % 3).parse().unwrap());
            spec.namespace = ns.map(|n| name(&format!("n{n}")));
            spec.priority = priority;
            let least = if stp { 200 } else { 0 };
            spec.forward_delay_s = delay.map(|delay| netnsd_api::Centiseconds(least + delay * 100));
            Spec::Bridge(spec)
        })
}

/// Addresses in any order, of three networks of each family.
fn addresses() -> impl Strategy<Value = Vec<IpNet>> {
    let text = |(net, host, v6): &(u8, u8, bool)| match v6 {
        true => format!("fd00:{net}::{host}/64"),
        false => format!("10.{net}.0.{host}/24"),
    };
    proptest::collection::btree_set((0u8..3, 1u8..5, any::<bool>()), 0..7)
        .prop_map(move |all| {
            all.iter()
                .map(|address| text(address).parse().unwrap())
                .collect::<Vec<IpNet>>()
        })
        .prop_shuffle()
}

fn end() -> impl Strategy<Value = Endpoint> {
    (
        proptest::option::of(0usize..2),
        0u8..4,
        any::<bool>(),
        addresses(),
        proptest::option::of(0usize..2),
        proptest::option::of(1u32..4),
    )
        .prop_map(move |(ns, device, up, addresses, bridge, cost)| {
            let mut end = Endpoint {
                up,
                ..Endpoint::default()
            };
            end.namespace = ns.map(|n| name(&format!("n{n}")));
            end.interface = Some(format!("eth{device}").parse().unwrap());
            end.bridge = bridge.map(|b| name(&format!("b{b}")));
            end.port.path_cost = cost.filter(|_| bridge.is_some());
            if bridge.is_some() {
                end.port.vlan = cost.filter(|cost| *cost > 1).map(|cost| cost as u16);
                let range = VlanRange::new(u16::from(device) + 5, 7);
                end.port.vlans = range.into_iter().filter(|_| up).collect();
            }
            end.arp = cost != Some(1);
            end.promiscuous = cost == Some(2);
            end.alias = cost.map(|cost| format!("alias {cost}"));
            let detailed = |net: IpNet| {
                let metric = cost.filter(|_| net.addr().is_ipv4() == up);
                let label = metric.map(|metric| format!("eth{device}:{metric}"));
                InterfaceAddress::from(DetailedAddress {
                    address: Cidr(net),
                    peer: None,
                    broadcast: None,
                    metric,
                    label: label.filter(|_| net.addr().is_ipv4()),
                })
            };
            end.addresses = addresses.into_iter().map(detailed).collect();
            end
        })
}

/// A valid network: references that do not fit are left out.
fn network() -> impl Strategy<Value = Network> {
    let veths = (0..3usize)
        .map(|_| (end(), end(), any::<bool>()))
        .collect::<Vec<_>>();
    let presence = (
        proptest::collection::vec(any::<bool>(), 2),
        proptest::collection::vec(any::<bool>(), 2),
    );
    (
        namespace(0),
        namespace(1),
        bridge(0),
        bridge(1),
        veths,
        (0..3usize)
            .map(|_| {
                (
                    end(),
                    proptest::sample::select(&LinkType::ALL[..]),
                    0usize..4,
                    any::<bool>(),
                )
            })
            .collect::<Vec<_>>(),
        presence,
    )
        .prop_map(|(n0, n1, b0, b1, veths, links, (ns_there, br_there))| {
            let mut network = Network::new();
            for (spec, there) in [n0, n1].into_iter().zip(ns_there) {
                if there {
                    network.insert(spec.resource(), spec);
                }
            }
            for (mut spec, there) in [b0, b1].into_iter().zip(br_there) {
                if let Spec::Bridge(bridge) = &mut spec {
                    bridge.namespace = bridge
                        .namespace
                        .take()
                        .filter(|ns| has(&network, Kind::Namespace, ns));
                    bridge.interface = Some(free_name(
                        &network,
                        &[],
                        bridge.namespace.as_ref(),
                        bridge.device(),
                    ));
                }
                if there {
                    network.insert(spec.resource(), spec);
                }
            }
            for (i, (a, b, there)) in veths.into_iter().enumerate() {
                if there {
                    let mut endpoints = [fit(a, &network), fit(b, &network)];
                    for end in 0..2 {
                        let (before, rest) = endpoints.split_at_mut(end);
                        let free = free_name(
                            &network,
                            before,
                            rest[0].namespace.as_ref(),
                            rest[0].device(),
                        );
                        rest[0].interface = Some(free);
                    }
                    let spec = Spec::Veth(Veth {
                        name: name(&format!("v{i}")),
                        labels: BTreeMap::new(),
                        endpoints,
                    });
                    network.insert(spec.resource(), spec);
                }
            }
            for (i, (end, link_type, lower, there)) in links.into_iter().enumerate() {
                if there {
                    let end = fit(end, &network);
                    let mut least = example_fields(link_type, "none");
                    least["name"] = format!("l{i}").into();
                    least["type"] = link_type.as_str().into();
                    let with_spec = |spec| Spec::devices(spec).map(move |device| (spec, device));
                    let below = network.values().flat_map(with_spec).nth(lower);
                    // The kernel does not put some types on their own.
                    let is_alike = |(spec, _): &(&Spec, _)| {
                        matches!(spec, Spec::Link(link) if link.fields.link_type() == link_type)
                    };
                    if below.as_ref().is_some_and(is_alike) {
                        continue;
                    }
                    match below.map(|(_, device)| device) {
                        Some(below) if least["lower"].is_object() => {
                            least["lower"] =
                                json!({"namespace": below.namespace, "interface": below.name});
                        }
                        None if least["lower"].is_object() => continue,
                        Some(_) | None => {}
                    }
                    if let Some(underlay) = end.namespace.as_ref().filter(|_| lower == 0)
                        && least["vni"].is_number()
                    {
                        least["underlay"] = underlay.as_str().into();
                    }
                    let mut link: Link = serde_json::from_value(least).unwrap();
                    let free = free_name(&network, &[], end.namespace.as_ref(), end.device());
                    link.device = Endpoint {
                        interface: Some(free),
                        ..end
                    };
                    let spec = Spec::Link(link);
                    network.insert(spec.resource(), spec);
                }
            }
            network
        })
}

/// The name, or the next that nobody has in this namespace: names change hands from one network to
/// another.
fn free_name(
    network: &Network,
    ends: &[Endpoint],
    ns: Option<&Name>,
    wanted: &str,
) -> netnsd_api::InterfaceName {
    let mut taken: Vec<(Option<&Name>, &str)> = ends
        .iter()
        .map(|end| (end.namespace.as_ref(), end.device()))
        .collect();
    for spec in network.values() {
        taken.extend(spec.devices().map(|device| (device.namespace, device.name)));
    }
    let mut names = std::iter::once(wanted.to_owned()).chain((0..).map(|i| format!("eth{i}")));
    names
        .find(|name| !taken.contains(&(ns, name.as_str())))
        .unwrap()
        .parse()
        .unwrap()
}

fn has(network: &Network, kind: Kind, name: &Name) -> bool {
    network.contains_key(&ResourceRef::new(kind, name.clone()))
}

fn fit(mut end: Endpoint, network: &Network) -> Endpoint {
    end.namespace = end
        .namespace
        .take()
        .filter(|ns| has(network, Kind::Namespace, ns));
    end.bridge = end.bridge.take().filter(|bridge| {
        let found = network.get(&ResourceRef::new(Kind::Bridge, bridge.clone()));
        matches!(found, Some(Spec::Bridge(bridge)) if bridge.namespace == end.namespace)
    });
    if end.bridge.is_none() {
        end.port = netnsd_api::Port::default();
    }
    end
}

/// Plans the way from one network to another and executes it; gives the plan and what is observed
/// after.
fn go(kernel: &SimKernel, from: &Network, to: &Network) -> (Plan, Plan) {
    let all: BTreeSet<&ResourceRef> = from.keys().chain(to.keys()).collect();
    let applied: BTreeMap<&ResourceRef, Vec<Spec>> = all
        .iter()
        .map(|resource| {
            (
                *resource,
                from.get(resource)
                    .filter(|old| to.get(resource) != Some(old))
                    .cloned()
                    .into_iter()
                    .collect(),
            )
        })
        .collect();
    let keys = SYSCTLS.into_iter().chain([
        "net.ipv4.conf.all.accept_redirects",
        "net.ipv4.conf.default.forwarding",
    ]);
    let prior = keys
        .map(|key| (key.parse().unwrap(), "0".to_owned()))
        .collect();
    let devices_in = |resource: &ResourceRef| {
        let places = to.values().flat_map(Spec::devices);
        let here = places.filter(|device| {
            device.namespace == Some(&resource.name) && resource.kind == Kind::Namespace
        });
        here.map(|device| device.name.to_owned())
            .collect::<Vec<String>>()
    };
    let uids: BTreeMap<&ResourceRef, String> = all
        .iter()
        .map(|resource| (*resource, resource.to_string().replace(' ', "-")))
        .collect();
    let macs = |resource: &ResourceRef| {
        to.get(resource)
            .map(|spec| Intent::default().derive_macs(spec))
    };
    let macs: BTreeMap<&ResourceRef, Vec<Mac>> = all
        .iter()
        .map(|resource| (*resource, macs(resource).unwrap_or_default()))
        .collect();
    let tasks: Vec<Task<'_>> = all
        .iter()
        .map(|resource| Task {
            resource: (*resource).clone(),
            uid: &uids[resource],
            desired: to.get(resource),
            applied: &applied[resource],
            prior: &prior,
            devices: &[],
            interfaces: devices_in(resource),
            is_new: false,
            macs: &macs[resource],
            keep_macs: false,
            ownership: Ownership::Keep,
        })
        .collect();
    let device = |bridge: &Name| match to.get(&ResourceRef::new(Kind::Bridge, bridge.clone())) {
        Some(Spec::Bridge(bridge)) => Some(crate::model::BridgeDevice::of(bridge)),
        _ => None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut kernel = kernel.clone();
        let observed = kernel.observe(&scope(&tasks)).await.unwrap();
        let first = plan(&tasks, &device, &observed);
        let ops: Vec<BatchOp> = first
            .steps
            .iter()
            .map(|step| BatchOp {
                op: step.op.clone(),
                part: 0,
                optional: step.retriable,
            })
            .collect();
        for (step, outcome) in first
            .steps
            .iter()
            .zip(kernel.execute(&ops, Box::new(|_| ())).await)
        {
            assert_eq!(outcome, Some(Ok(())), "{step:?}\nof {:#?}", first.steps);
        }
        let observed = kernel.observe(&scope(&tasks)).await.unwrap();
        (first, plan(&tasks, &device, &observed))
    })
}

/// A list as the kernel has it where nobody else has addresses: in IPv4 the first of each network
/// comes first, and in each family the order is that of the list.
fn in_order(list: &[IpNet], by_others: &[IpNet]) -> Vec<IpNet> {
    let mut begun: Vec<IpNet> = by_others.to_vec();
    let mut is_primary = |net: &IpNet| {
        let new = !begun.contains(&net.trunc());
        begun.push(net.trunc());
        new
    };
    let (v6, v4): (Vec<IpNet>, Vec<IpNet>) = list.iter().partition(|net| net.addr().is_ipv6());
    let (primary, secondary): (Vec<IpNet>, Vec<IpNet>) =
        v4.into_iter().partition(|net| is_primary(net));
    [primary, secondary, v6].concat()
}

fn ours(link: &ObservedLink) -> Vec<IpNet> {
    link.addresses
        .iter()
        .filter(|known| known.is_ours())
        .map(|known| known.net)
        .collect()
}

/// Every link has its addresses in the order of its list.
fn assert_order(kernel: &SimKernel, network: &Network) {
    let all = kernel.everything();
    for end in network.values().flat_map(Spec::endpoints) {
        let link = &all[&Ns::of(end.namespace.as_ref())].links[end.device()];
        let list: Vec<IpNet> = end.addresses.iter().map(InterfaceAddress::net).collect();
        assert_eq!(ours(link), in_order(&list, &[]), "{list:?} of {link:#?}");
    }
}

/// A pair of which the first end is in a namespace and has these addresses.
fn one_pair<T: serde::Serialize>(addresses: &[T]) -> Network {
    let namespace = Spec::Namespace(serde_json::from_value(json!({"name": "n0"})).unwrap());
    let ends = json!([{"namespace": "n0", "interface": "eth0", "addresses": addresses}, {"interface": "eth1"}]);
    let pair =
        Spec::Veth(serde_json::from_value(json!({"name": "v0", "endpoints": ends})).unwrap());
    [namespace, pair]
        .into_iter()
        .map(|spec| (spec.resource(), spec))
        .collect()
}

/// The operations that lead from one list of addresses to another.
fn steps(from: &[&str], to: &[&str]) -> Vec<&'static str> {
    steps_between(&one_pair(from), &one_pair(to))
}

/// The operations that lead from one network to another, after which nothing is left to do.
fn steps_between(from: &Network, to: &Network) -> Vec<&'static str> {
    let kernel = SimKernel::default();
    go(&kernel, &Network::new(), from);
    let (plan, rest) = go(&kernel, from, to);
    assert_eq!(rest.steps, vec![]);
    assert_order(&kernel, to);
    plan.steps.iter().map(|step| step.op.label()).collect()
}

/// A metric changes in place; other settings only by another creation, with those that come after.
#[test]
fn settings_of_addresses_change_by_the_fewest_operations() {
    let with = |fields: serde_json::Value| {
        let mut entry = json!({"address": "10.0.0.1/24"});
        for (field, value) in fields.as_object().unwrap() {
            entry[field] = value.clone();
        }
        one_pair(&[entry, json!("10.0.0.2/24"), json!("10.1.0.1/24")])
    };
    let plain = with(json!({}));
    let metric = with(json!({"metric": 5}));
    let label = with(json!({"label": "eth0:1"}));
    assert_eq!(steps_between(&plain, &metric), ["address_add"]);
    assert_eq!(steps_between(&metric, &plain), ["address_add"]);
    assert_eq!(steps_between(&metric, &metric), [""; 0]);
    for (from, to) in [(&plain, &label), (&label, &metric), (&label, &plain)] {
        assert_eq!(steps_between(from, to), ["address_reorder"]);
    }
    let v6 = |entry| one_pair(&[entry]);
    let metric = json!({"address": "fd00::1/64", "metric": 5});
    assert_eq!(
        steps_between(&v6(json!("fd00::1/64")), &v6(metric.clone())),
        ["address_add"]
    );
    assert_eq!(
        steps_between(&v6(metric), &v6(json!("fd00::1/64"))),
        ["address_reorder"]
    );
    let peer = |peer| one_pair(&[json!({"address": "10.0.0.1/32", "peer": peer})]);
    assert_eq!(
        steps_between(&peer("10.0.0.2/32"), &peer("10.0.0.3/32")),
        ["address_add", "address_delete"]
    );
}

#[test]
fn loopback_has_its_addresses() {
    let namespace = |fields: serde_json::Value| -> Network {
        let spec = Spec::Namespace(serde_json::from_value(fields).unwrap());
        [(spec.resource(), spec)].into()
    };
    let bare = namespace(json!({"name": "n0"}));
    let two = namespace(json!({"name": "n0", "addresses": ["10.0.0.1/32", "fd00::1/128"]}));
    let down = namespace(json!({"name": "n0", "addresses": ["10.0.0.1/32"], "loopback": false}));
    assert_eq!(steps_between(&bare, &two), ["address_add", "address_add"]);
    assert_eq!(steps_between(&two, &two), [""; 0]);
    assert_eq!(steps_between(&two, &down), ["loopback_set"]);
    assert_eq!(
        steps_between(&down, &bare),
        ["loopback_set", "address_delete"]
    );
}

/// Addresses that need not move are not touched.
#[test]
fn addresses_change_by_the_fewest_operations() {
    let (a, b, c, other) = ("10.0.0.1/24", "10.0.0.2/24", "10.0.0.3/24", "10.1.0.1/16");
    assert_eq!(steps(&[a], &[a, b]), ["address_add"]);
    assert_eq!(
        steps(&[a, b], &[a, b, other, c]),
        ["address_add", "address_add"]
    );
    assert_eq!(steps(&[a, b, c], &[a, c]), ["address_delete"]);
    assert_eq!(
        steps(&[a, b, c], &[b, c]),
        ["address_delete"],
        "the second rises"
    );
    assert_eq!(steps(&[a], &[b]), ["address_add", "address_delete"]);
    assert_eq!(steps(&[a], &[other]), ["address_add", "address_delete"]);
    assert_eq!(steps(&[a, b], &[b, a]), ["address_reorder"]);
    assert_eq!(steps(&[a], &[b, a]), ["address_add", "address_reorder"]);
    assert_eq!(
        steps(&["fd00::1/64"], &["fd00::2/64", "fd00::1/64"]),
        ["address_add"]
    );
    assert_eq!(
        steps(&["fd00::1/64"], &["fd00::1/64", "fd00::2/64"]),
        ["address_add", "address_reorder"]
    );
    assert_eq!(
        steps(&["fd00::1/64"], &["fd00::1/128"]),
        ["address_delete", "address_add"]
    );
    assert_eq!(
        steps(&["fd00::1/64"], &["fd00::2/64"]),
        ["address_add", "address_delete"]
    );
}

/// The remaining end of a pair is deleted at once, although the kernel would delete it with its
/// namespace: its name may be used again before that.
#[test]
fn half_a_pair_does_not_wait_for_the_end_of_its_namespace() {
    let kernel = SimKernel::default();
    let spec = |value| -> Network {
        let spec = Spec::Namespace(serde_json::from_value(value).unwrap());
        BTreeMap::from([(spec.resource(), spec)])
    };
    let mut network = spec(json!({"name": "n0"}));
    let pair = json!({"name": "v0", "endpoints": [{"namespace": "n0", "interface": "eth0"}, {"interface": "eth1"}]});
    let pair = Spec::Veth(serde_json::from_value(pair).unwrap());
    network.insert(pair.resource(), pair);
    go(&kernel, &Network::new(), &network);
    kernel.untag(&Ns::Host, "eth1");
    let (plan, _) = go(&kernel, &network, &Network::new());
    let deletion = Op::Link(LinkOp::Delete(LinkAt::new(Ns::Named(name("n0")), "eth0")));
    assert_eq!(
        plan.steps.first().map(|step| &step.op),
        Some(&deletion),
        "{:#?}",
        plan.steps
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// One plan is enough, after it there is nothing to do, and from nothing or from elsewhere the
    /// end is the same.
    #[test]
    fn a_plan_leads_there_at_once(first in network(), second in network()) {
        let kernel = SimKernel::default();
        let (_, rest) = go(&kernel, &Network::new(), &first);
        prop_assert_eq!(rest.steps, vec![]);
        let (_, again) = go(&kernel, &first, &first);
        prop_assert_eq!(again.steps, vec![]);
        let (_, rest) = go(&kernel, &first, &second);
        prop_assert_eq!(rest.steps, vec![]);
        assert_order(&kernel, &second);
        let fresh = SimKernel::default();
        go(&fresh, &Network::new(), &second);
        prop_assert_eq!(kernel.shape(), fresh.shape());
        let (_, rest) = go(&kernel, &second, &Network::new());
        prop_assert_eq!(rest.steps, vec![]);
        prop_assert_eq!(kernel.shape(), SimKernel::default().shape());
    }

    /// Repeating the operations of a plan does no harm.
    #[test]
    fn operations_are_safe_to_repeat(network in network()) {
        let kernel = SimKernel::default();
        let (plan, _) = go(&kernel, &Network::new(), &network);
        let before = kernel.shape();
        // Sysctls that change others, and those that are changed, are written in turn.
        for step in plan.steps.iter().filter(|step| !matches!(step.op, Op::Feature(FeatureOp::Sysctl { .. }))) {
            prop_assert_eq!(kernel.apply(&step.op), Ok(()), "{:?}", step);
        }
        prop_assert_eq!(kernel.shape(), before);
    }

    /// Addresses that others added to a link of netnsd survive each change of netnsd's: they, and
    /// their routes, also those that prefer an address of netnsd that stays, whatever
    /// `promote_secondaries` says. netnsd's are in order all the same.
    #[test]
    fn what_others_added_outlives_changes_of_addresses(
        lists in proptest::collection::vec(addresses(), 3),
        theirs in addresses(),
        promotes in any::<bool>(),
        early in any::<bool>(),
    ) {
        let kernel = SimKernel::default();
        let (ns, n0) = (Ns::Named(name("n0")), name("n0"));
        let add = |address: &IpNet| {
            let address = ObservedAddress { protocol: 0, metric: 7, ..ObservedAddress::new(*address) };
            let _exists = kernel.apply(&LinkAt::new(ns.clone(), "eth0").change_addresses(AddressChange::Add { address, replace: false }));
        };
        // Theirs come first, or after ours.
        go(&kernel, &Network::new(), &one_pair(if early { &[] } else { &lists[0] }));
        kernel.promote_secondaries(&ns, "eth0", promotes);
        theirs.iter().for_each(add);
        go(&kernel, &one_pair(if early { &[] } else { &lists[0] }), &one_pair(&lists[0]));
        let link = |kernel: &SimKernel| kernel.everything()[&ns].links["eth0"].clone();
        for (i, source) in link(&kernel).addresses.iter().enumerate().filter(|(_, known)| !is_link_local(known.net.addr())) {
            let bits = if source.is_ipv6() { format!("fd99:{i}::/32") } else { format!("198.51.{i}.0/24") };
            let route = json!({"destination": bits, "interface": "eth0", "source": source.net.addr()});
            let route = serde_json::from_value(route).unwrap();
            kernel.apply(&Op::route(&Ns::Named(n0.clone()), RouteChange::Add { route, extras: RouteExtras::default(), protocol: 4, replace: false })).unwrap();
        }
        let foreign = |kernel: &SimKernel| {
            let mut all: Vec<ObservedAddress> = link(kernel).addresses;
            all.retain(|known| !known.is_ours() && !is_link_local(known.net.addr()));
            all.iter_mut().for_each(|known| known.secondary = false);
            all.sort_by_key(|known| known.net);
            all
        };
        let routes = |kernel: &SimKernel| kernel.everything()[&ns].routes.clone();
        for pair in lists.windows(2) {
            let before = foreign(&kernel);
            let mut kept = routes(&kernel);
            let (_, rest) = go(&kernel, &one_pair(&pair[0]), &one_pair(&pair[1]));
            prop_assert_eq!(rest.steps, vec![]);
            prop_assert_eq!(foreign(&kernel), before.clone());
            let now = link(&kernel);
            let there = |address: &std::net::IpAddr| now.addresses.iter().any(|known| known.net.addr() == *address);
            kept.retain(|known| known.route.source.is_some_and(|source| there(&source.0)));
            for route in kept {
                prop_assert!(routes(&kernel).contains(&route), "{route:?} of {:#?}", routes(&kernel));
            }
            let asked: Vec<IpNet> =
                pair[1].iter().copied().filter(|net| !before.iter().any(|known| known.net == *net)).collect();
            let primaries = now.addresses.iter().filter(|known| !known.is_ours() && !known.secondary);
            let by_others: Vec<IpNet> = primaries.map(|known| known.network()).collect();
            prop_assert_eq!(ours(&now), in_order(&asked, &by_others), "{:#?}", now);
        }
    }
}
