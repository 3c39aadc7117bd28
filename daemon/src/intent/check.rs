//! Checks of a resource against everything else that is recorded: references, device names,
//! addresses.

use std::net::IpAddr;

use netnsd_api::{
    Bridge, Code, FieldError, InterfaceAddress, Kind, Name, Namespace, NetnsId, ResourceRef,
    SysctlKey, SysctlValue, Veth,
};

use super::{Intent, IntentError, segment};
use crate::{
    kernel::{Ns, sysctl::is_on},
    model::{DeviceSpec, Spec, ipv6_switches},
};

impl Intent {
    /// Checks a resource against everything that is recorded, itself included.
    pub(super) fn check(&self, resource: &ResourceRef, spec: &Spec) -> Result<(), IntentError> {
        spec.check()?;
        self.check_base(resource, spec)?;
        for device in spec.devices() {
            self.check_device(resource, spec, &device)?;
        }
        match spec {
            Spec::Namespace(spec) => {
                check_sysctls(spec)?;
                self.check_loopback_addresses(resource, spec)?;
                self.check_netnsid(resource, spec)?;
                self.check_ipv6_switches(resource, spec)
            }
            Spec::Bridge(spec) => self.check_ports_of(resource, spec),
            Spec::Veth(spec) => check_own_addresses(spec),
            Spec::Link(_) => Ok(()),
        }
    }

    /// Checks that the base's namespace is there, and that a link is not on itself.
    fn check_base(&self, resource: &ResourceRef, spec: &Spec) -> Result<(), IntentError> {
        let base = spec.base();
        let pointer = format!("/{}", base.namespace_field());
        self.check_namespace(base.namespace().flatten(), &pointer)?;

        let mut lower = spec.lower();
        let mut below = Vec::new();
        while let Some((ns, device)) = lower {
            let owner = if spec
                .devices()
                .any(|own| (own.ns(), own.name) == (ns.clone(), device))
            {
                resource
            } else {
                match self.index.owner(&ns, device) {
                    Some(owner) => owner,
                    None => return Ok(()),
                }
            };
            if owner == resource {
                let detail =
                    format!("{device} in {ns} is {resource} itself, or on it: name another device");
                return Err(FieldError::new(Code::InvalidField, "/lower", detail).into());
            }
            // A ring without this link is found when one of its own is checked.
            if below.contains(&owner) {
                return Ok(());
            }
            below.push(owner);
            lower = self.spec(owner).and_then(Spec::lower);
        }
        Ok(())
    }

    fn check_device(
        &self,
        resource: &ResourceRef,
        spec: &Spec,
        device: &DeviceSpec<'_>,
    ) -> Result<(), IntentError> {
        self.check_namespace(device.namespace, &device.pointer("namespace"))?;
        let ns = device.ns();
        self.check_interface(resource, &ns, device.name, &device.pointer("interface"))?;
        if let Some(port) = device.port {
            self.check_bridge_of(device, port.bridge)?;
        }
        let segment = segment(spec, device.end);
        for (i, address) in device.addresses.iter().enumerate() {
            let pointer = device.pointer(&format!("addresses/{i}"));
            self.check_ipv6(device, address, &pointer)?;
            self.check_address(resource, &ns, segment, address.ip(), &pointer)?;
        }
        Ok(())
    }

    /// Checks that the ports of a bridge are in its namespace: they are moved first.
    fn check_ports_of(&self, resource: &ResourceRef, spec: &Bridge) -> Result<(), IntentError> {
        for other in self.dependents(resource) {
            let Some(found) = self.spec(&other) else {
                continue;
            };
            let is_astray = |device: &DeviceSpec<'_>| {
                device.port.is_some_and(|port| port.bridge == &spec.name)
                    && device.namespace != spec.namespace.as_ref()
            };
            if let Some(port) = found.devices().find(is_astray) {
                let detail = format!(
                    "{other} is a port of it in {}: move that end first",
                    port.ns()
                );
                let error = FieldError::new(Code::InvalidField, "/namespace", detail);
                let namespace = port
                    .namespace
                    .map(|name| ResourceRef::new(Kind::Namespace, name.clone()));
                let resources = std::iter::once(other).chain(namespace).collect();
                return Err(IntentError::field(error, resources));
            }
        }
        Ok(())
    }

    /// Checks the addresses of a namespace's `lo`.
    fn check_loopback_addresses(
        &self,
        resource: &ResourceRef,
        spec: &Namespace,
    ) -> Result<(), IntentError> {
        let ns = Ns::Named(spec.name.clone());
        for (i, address) in spec.addresses.iter().enumerate() {
            let pointer = format!("/addresses/{i}");
            if let Some((key, value)) =
                ipv6_switched_off(spec, "lo").filter(|_| address.ip().is_ipv6())
            {
                let detail = format!(
                    "{address} is an IPv6 address, and {key} = {} switches IPv6 off on lo: leave one of them out",
                    value.0
                );
                return Err(FieldError::new(Code::InvalidField, pointer, detail).into());
            }
            self.check_address(resource, &ns, None, address.ip(), &pointer)?;
        }
        Ok(())
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
        device: &DeviceSpec<'_>,
        address: &InterfaceAddress,
        pointer: &str,
    ) -> Result<(), IntentError> {
        let Some(name) = device.namespace.filter(|_| address.ip().is_ipv6()) else {
            return Ok(());
        };
        let device = device.name;
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

    fn check_bridge_of(&self, end: &DeviceSpec<'_>, bridge: &Name) -> Result<(), IntentError> {
        let pointer = end.pointer("bridge");
        let Some(Spec::Bridge(found)) = self.records[Kind::Bridge as usize]
            .get(bridge)
            .map(|record| &*record.spec)
        else {
            let detail = format!("there is no bridge {bridge}: create it first");
            return Err(FieldError::new(Code::UnknownReference, pointer, detail).into());
        };
        if found.namespace.as_ref() != end.namespace {
            let detail = format!(
                "bridge {bridge} is in {}, this end in {}: a port and its bridge live in the same namespace",
                Ns::of(found.namespace.as_ref()),
                end.ns()
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
fn ipv6_addresses<'s>(spec: &'s Spec, ns: &Name) -> Vec<(&'s str, &'s InterfaceAddress)> {
    let here = spec.devices().filter(|device| device.namespace == Some(ns));
    let all = here.flat_map(|device| {
        let addresses = device.addresses.iter();
        addresses.map(move |address| (device.name, address))
    });
    all.filter(|(_, address)| address.ip().is_ipv6()).collect()
}

fn check_own_addresses(veth: &Veth) -> Result<(), IntentError> {
    let [a, b] = &veth.endpoints;
    let one_place = a.namespace == b.namespace || a.bridge.is_some() || b.bridge.is_some();
    for (i, address) in b.addresses.iter().enumerate().filter(|_| one_place) {
        let same = |other: &&InterfaceAddress| other.ip() == address.ip();
        if a.addresses.iter().any(|other| same(&other)) && !netnsd_api::is_link_local(address.ip())
        {
            let detail = format!("both ends have the address {}", address.ip());
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
