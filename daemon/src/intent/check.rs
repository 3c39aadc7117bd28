//! Checks of a resource against everything else that is recorded: references, device names,
//! addresses.

use std::net::IpAddr;

use netnsd_api::{
    Bridge, Cidr, Code, Endpoint, FieldError, Kind, Name, Namespace, NetnsId, Resource,
    ResourceRef, SysctlKey, SysctlValue, Veth,
};

use super::{Intent, IntentError, segment};
use crate::{
    kernel::{Ns, sysctl::is_on},
    model::{Spec, ipv6_switches},
};

impl Intent {
    /// Checks a resource against everything that is recorded, itself included.
    pub(super) fn check(&self, resource: &ResourceRef, spec: &Spec) -> Result<(), IntentError> {
        match spec {
            Spec::Namespace(spec) => {
                spec.check()?;
                check_sysctls(spec)?;
                self.check_netnsid(resource, spec)?;
                self.check_ipv6_switches(resource, spec)
            }
            Spec::Bridge(spec) => self.check_bridge(resource, spec),
            Spec::Veth(spec) => self.check_veth(resource, spec),
        }
    }

    fn check_bridge(&self, resource: &ResourceRef, spec: &Bridge) -> Result<(), IntentError> {
        spec.check()?;
        self.check_namespace(spec.namespace.as_ref(), "/namespace")?;
        let ns = Ns::of(spec.namespace.as_ref());
        self.check_interface(resource, &ns, spec.device(), "/interface")?;
        for (i, address) in spec.addresses.iter().enumerate() {
            let pointer = format!("/addresses/{i}");
            self.check_ipv6(spec.namespace.as_ref(), spec.device(), address, &pointer)?;
            self.check_address(resource, &ns, Some(&spec.name), address.0.addr(), &pointer)?;
        }
        // Ports stay in the bridge's namespace: they are moved first.
        for port in self.dependents(resource) {
            let Some(Spec::Veth(veth)) = self.spec(&port) else {
                continue;
            };
            for end in veth
                .endpoints
                .iter()
                .filter(|end| end.bridge.as_ref() == Some(&spec.name))
            {
                if end.namespace != spec.namespace {
                    let detail = format!(
                        "{port} is a port of it in {}: move that end first",
                        Ns::of(end.namespace.as_ref())
                    );
                    let error = FieldError::new(Code::InvalidField, "/namespace", detail);
                    let namespace = end
                        .namespace
                        .clone()
                        .map(|name| ResourceRef::new(Kind::Namespace, name));
                    let resources = std::iter::once(port).chain(namespace).collect();
                    return Err(IntentError::field(error, resources));
                }
            }
        }
        Ok(())
    }

    fn check_veth(&self, resource: &ResourceRef, spec: &Veth) -> Result<(), IntentError> {
        spec.check()?;
        for (i, end) in spec.endpoints.iter().enumerate() {
            let at = |field: &str| format!("/endpoints/{i}/{field}");
            self.check_namespace(end.namespace.as_ref(), &at("namespace"))?;
            let ns = Ns::of(end.namespace.as_ref());
            self.check_interface(resource, &ns, end.device(), &at("interface"))?;
            if let Some(bridge) = &end.bridge {
                self.check_bridge_of(end, bridge, &at("bridge"))?;
            }
            let segment = segment(spec, i);
            for (j, address) in end.addresses.iter().enumerate() {
                let pointer = at(&format!("addresses/{j}"));
                self.check_ipv6(end.namespace.as_ref(), end.device(), address, &pointer)?;
                self.check_address(resource, &ns, segment, address.0.addr(), &pointer)?;
            }
        }
        check_own_addresses(spec)
    }

    fn check_netnsid(&self, resource: &ResourceRef, spec: &Namespace) -> Result<(), IntentError> {
        let Some(NetnsId::Id(id)) = spec.netnsid else {
            return Ok(());
        };
        let Some(owner) = self.index.netnsid(id, resource) else {
            return Ok(());
        };
        let detail = format!("{owner} has the netnsid {id} already: choose another, or \"auto\"");
        let error = FieldError::new(Code::Duplicate, "/netnsid", detail);
        Err(IntentError::field(error, vec![owner.clone()]))
    }

    /// Checks that IPv6 is not switched off where there are IPv6 addresses.
    fn check_ipv6_switches(
        &self,
        resource: &ResourceRef,
        spec: &Namespace,
    ) -> Result<(), IntentError> {
        if ipv6_switches(spec).next().is_none() {
            return Ok(());
        }
        for other in self.dependents(resource) {
            let Some(found) = self.spec(&other) else {
                continue;
            };
            for (device, address) in ipv6_addresses(found, &spec.name) {
                let Some((key, value)) = ipv6_switched_off(spec, device) else {
                    continue;
                };
                let (value, on) = (&value.0, key.at(device).unwrap_or_else(|| key.clone()));
                let detail = format!(
                    "{key} = {value} switches IPv6 off on {device}, where {other} has the address {address}: \
                     take that away first, or set {on} to 0"
                );
                let error = FieldError::at(Code::InvalidField, &["sysctls", key.as_str()], detail);
                return Err(IntentError::field(error, vec![other]));
            }
        }
        Ok(())
    }

    fn check_ipv6(
        &self,
        ns: Option<&Name>,
        device: &str,
        address: &Cidr,
        pointer: &str,
    ) -> Result<(), IntentError> {
        let Some(name) = ns.filter(|_| address.0.addr().is_ipv6()) else {
            return Ok(());
        };
        let resource = ResourceRef::new(Kind::Namespace, name.clone());
        let Some(Spec::Namespace(spec)) = self.spec(&resource) else {
            return Ok(());
        };
        let Some((key, value)) = ipv6_switched_off(spec, device) else {
            return Ok(());
        };
        let (value, on) = (&value.0, key.at(device).unwrap_or_else(|| key.clone()));
        let detail = format!(
            "{address} is an IPv6 address, and {key} = {value} of {resource} switches IPv6 off on {device}: \
             leave it out, or set {on} to 0 there first"
        );
        let error = FieldError::new(Code::InvalidField, pointer, detail);
        Err(IntentError::field(error, vec![resource]))
    }

    fn check_namespace(&self, namespace: Option<&Name>, pointer: &str) -> Result<(), IntentError> {
        match namespace {
            Some(name) if !self.records[Kind::Namespace as usize].contains_key(name) => {
                let detail = format!("there is no namespace {name}: create it first");
                Err(FieldError::new(Code::UnknownReference, pointer, detail).into())
            }
            _ => Ok(()),
        }
    }

    fn check_bridge_of(
        &self,
        end: &Endpoint,
        bridge: &Name,
        pointer: &str,
    ) -> Result<(), IntentError> {
        let Some(Spec::Bridge(found)) = self.records[Kind::Bridge as usize]
            .get(bridge)
            .map(|record| &*record.spec)
        else {
            let detail = format!("there is no bridge {bridge}: create it first");
            return Err(FieldError::new(Code::UnknownReference, pointer, detail).into());
        };
        if found.namespace != end.namespace {
            let detail = format!(
                "bridge {bridge} is in {}, this end in {}: a port and its bridge live in the same namespace",
                Ns::of(found.namespace.as_ref()),
                Ns::of(end.namespace.as_ref())
            );
            let error = FieldError::new(Code::InvalidField, pointer, detail);
            let namespace = found
                .namespace
                .clone()
                .map(|name| ResourceRef::new(Kind::Namespace, name));
            return Err(IntentError::field(error, namespace.into_iter().collect()));
        }
        Ok(())
    }

    fn check_interface(
        &self,
        resource: &ResourceRef,
        ns: &Ns,
        device: &str,
        pointer: &str,
    ) -> Result<(), IntentError> {
        let Some(owner) = self.index.interface(ns, device, resource) else {
            return Ok(());
        };
        let detail = format!("{ns} has an interface {device:?} already, of {owner}");
        let error = FieldError::new(Code::Duplicate, pointer, detail);
        Err(IntentError::field(error, vec![owner.clone()]))
    }

    fn check_address(
        &self,
        resource: &ResourceRef,
        ns: &Ns,
        segment: Option<&Name>,
        address: IpAddr,
        pointer: &str,
    ) -> Result<(), IntentError> {
        let in_ns = self
            .index
            .address(ns, address, resource)
            .map(|owner| (owner, ns.to_string()));
        let on_bridge = segment.and_then(|bridge| {
            Some((
                self.index.segment_address(bridge, address, resource)?,
                format!("bridge {bridge}"),
            ))
        });
        match in_ns.or(on_bridge) {
            Some((owner, place)) => {
                let detail = format!("{address} is given twice in {place}: {owner} has it already");
                let error = FieldError::new(Code::Duplicate, pointer, detail);
                Err(IntentError::field(error, vec![owner.clone()]))
            }
            None => Ok(()),
        }
    }
}

/// Sysctls that reach beyond their namespace, and how.
const REFUSED_SYSCTLS: [(&str, &str); 3] = [
    // `nf_hooks_lwtunnel_sysctl_handler()`, net/netfilter/nf_hooks_lwtunnel.c: a static key, which
    // is never disabled.
    (
        "net.netfilter.nf_hooks_lwtunnel",
        "it is one switch of the whole host, which cannot be switched off again",
    ),
    // `tcp_set_hashinfo()`, net/ipv4/tcp_ipv4.c; `udp_set_table()`, net/ipv4/udp.c.
    ("net.ipv4.tcp_child_ehash_entries", TABLES),
    ("net.ipv4.udp_child_hash_entries", TABLES),
];
const TABLES: &str = "it takes kernel memory for each network namespace that is made from within this one, and whoever runs there makes them";

/// Checks that no sysctl reaches beyond the namespace. They are refused when they are written, not
/// when they are read: a record of an older version stays until then.
fn check_sysctls(spec: &Namespace) -> Result<(), FieldError> {
    for (key, value) in &spec.sysctls {
        if let Some((_, reason)) = REFUSED_SYSCTLS
            .iter()
            .find(|(refused, _)| key.as_str() == *refused)
        {
            let detail = format!(
                "{key} = {} is not for netnsd to set: {reason}; leave it out",
                value.0
            );
            return Err(FieldError::at(
                Code::InvalidField,
                &["sysctls", key.as_str()],
                detail,
            ));
        }
    }
    Ok(())
}

/// The sysctl that switches IPv6 off on a device: its own goes before `default`, which netnsd gives
/// to its devices, and that before `all`.
fn ipv6_switched_off<'s>(
    spec: &'s Namespace,
    device: &str,
) -> Option<(&'s SysctlKey, &'s SysctlValue)> {
    let switch = |place: &str| ipv6_switches(spec).find(|(key, _)| key.is_of(place));
    let effective = switch(device)
        .or_else(|| switch("default"))
        .or_else(|| switch("all"));
    effective.filter(|(_, value)| is_on(&value.0))
}

/// The IPv6 addresses that are asked for in a namespace, and of which device.
fn ipv6_addresses<'s>(spec: &'s Spec, ns: &Name) -> Vec<(&'s str, &'s Cidr)> {
    let places: Vec<(Option<&Name>, &str, &[Cidr])> = match spec {
        Spec::Namespace(_) => Vec::new(),
        Spec::Bridge(bridge) => vec![(
            bridge.namespace.as_ref(),
            bridge.device(),
            &bridge.addresses[..],
        )],
        Spec::Veth(veth) => veth
            .endpoints
            .iter()
            .map(|end| (end.namespace.as_ref(), end.device(), &*end.addresses))
            .collect(),
    };
    let here = places.into_iter().filter(|(place, ..)| *place == Some(ns));
    let all = here
        .flat_map(|(_, device, addresses)| addresses.iter().map(move |address| (device, address)));
    all.filter(|(_, address)| address.0.addr().is_ipv6())
        .collect()
}

fn check_own_addresses(veth: &Veth) -> Result<(), IntentError> {
    let [a, b] = &veth.endpoints;
    let one_place = a.namespace == b.namespace || segment(veth, 0).is_some();
    for (i, address) in b.addresses.iter().enumerate().filter(|_| one_place) {
        let same = |other: &&netnsd_api::Cidr| other.0.addr() == address.0.addr();
        if a.addresses.iter().any(|other| same(&other))
            && !netnsd_api::is_link_local(address.0.addr())
        {
            let detail = format!("both ends have the address {}", address.0.addr());
            return Err(FieldError::new(
                Code::Duplicate,
                format!("/endpoints/1/addresses/{i}"),
                detail,
            )
            .into());
        }
    }
    Ok(())
}
