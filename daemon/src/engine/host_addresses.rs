//! Addresses that writes add on the host itself. Some would divert the host's own traffic: only
//! admins may add them.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::{IpNet, Ipv4Net};
use netnsd_api::{Cidr, Code, FieldError, Role, is_link_local};

use crate::{
    access::Caller,
    kernel::{Ns, NsScope, Observed, Scope},
    model::Spec,
};

/// Shortest prefixes that callers other than admins may add: in IPv4 and in IPv6.
const SHORTEST: (u8, u8) = (8, 16);

/// Link-local addresses (RFC 3927): the metadata service of a cloud is among them.
const LINK_LOCAL: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::new(169, 254, 0, 0), 16);

/// Address that a write adds to an interface of the host.
#[derive(Debug)]
pub(super) struct HostAddress {
    /// JSON pointer into its resource.
    pointer: String,
    address: Cidr,
}

/// Returns the addresses on the host that a changed resource gains.
pub(super) fn added_addresses(before: Option<&Spec>, after: &Spec) -> Vec<HostAddress> {
    let old: BTreeSet<IpNet> = before
        .map(addresses)
        .unwrap_or_default()
        .into_iter()
        .map(|known| known.address.0)
        .collect();
    addresses(after)
        .into_iter()
        .filter(|new| !old.contains(&new.address.0))
        .collect()
}

fn addresses(spec: &Spec) -> Vec<HostAddress> {
    let on_host = spec.devices().filter(|device| device.namespace.is_none());
    let all = on_host.flat_map(|device| {
        let addresses = device.addresses.iter().enumerate();
        addresses.flat_map(move |(i, address)| {
            let pointer = device.pointer(&format!("addresses/{i}"));
            // There is a route to the peer too.
            let peer = address.peer().map(|peer| HostAddress {
                pointer: format!("{pointer}/peer"),
                address: peer,
            });
            let own = HostAddress {
                pointer,
                address: address.cidr(),
            };
            std::iter::once(own).chain(peer)
        })
    });
    all.collect()
}

/// Returns the scope that [`check_addresses`] needs.
pub(super) fn scope() -> Scope {
    let part = NsScope {
        all_links: true,
        routes: true,
        kernel_routes: true,
        ..NsScope::default()
    };
    Scope {
        namespaces: BTreeMap::from([(Ns::Host, part)]),
        ..Scope::default()
    }
}

/// Checks addresses that a write of this caller adds on the host; addresses and routes on the
/// devices of `replaced`, the specs that it changes, do not count.
///
/// # Errors
/// `forbidden` for the first that only admins may add.
pub(super) fn check_addresses(
    caller: &Caller,
    new: &[HostAddress],
    replaced: &[&Spec],
    observed: &Observed,
) -> Result<(), FieldError> {
    let own: BTreeSet<String> = replaced
        .iter()
        .flat_map(|spec| spec.devices())
        .filter(|device| device.namespace.is_none())
        .map(|device| device.name.to_owned())
        .collect();
    let host = observed.namespaces.get(&Ns::Host);
    let on_links = host
        .into_iter()
        .flat_map(|host| &host.links)
        .filter(|(name, _)| !own.contains(*name));
    let on_links = on_links.flat_map(|(_, link)| link.addresses.iter().map(|address| address.net));
    // Also those of table `local`: addresses of `lo` are among them.
    let routes = host
        .into_iter()
        .flat_map(|host| &host.routes)
        .map(|known| (known, &known.route));
    let routes = routes.filter(|(_, route)| {
        route
            .interface
            .as_ref()
            .is_none_or(|device| !own.contains(device.as_str()))
    });
    let routes = routes
        .map(|(known, route)| route.destination.net(known.ipv6))
        .filter(|net| net.prefix_len() > 0);
    let taken: Vec<IpNet> = on_links.chain(routes).collect();
    for HostAddress { pointer, address } in new
        .iter()
        .filter(|new| !is_link_local(new.address.0.addr()))
    {
        let net = address.0;
        let least = if net.addr().is_ipv4() {
            SHORTEST.0
        } else {
            SHORTEST.1
        };
        let reason = if net.prefix_len() < least {
            format!("has a prefix of less than {least} bits")
        } else if overlaps(net, LINK_LOCAL.into()) {
            format!("overlaps {LINK_LOCAL}, where a cloud has its metadata service")
        } else if taken.iter().any(|taken| overlaps(net, *taken)) {
            "overlaps an address or a route of the host".to_owned()
        } else {
            continue;
        };
        let (name, role) = (&caller.name, caller.role);
        let detail = format!(
            "{address} on the host {reason}: that is for the role {}, and {name} is {role}; choose a network that the host does not use",
            Role::Admin
        );
        return Err(FieldError::new(Code::Forbidden, pointer, detail));
    }
    Ok(())
}

/// Returns true if two networks have an address in common.
fn overlaps(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a) || a.contains(&b.addr()) || b.contains(&a.addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_overlap_from_either_side() {
        let overlap = |a: &str, b: &str| overlaps(a.parse().unwrap(), b.parse().unwrap());
        for (a, b) in [
            ("10.1.2.3/8", "10.9.0.0/16"),
            ("10.9.0.1/32", "10.9.0.7/24"),
            ("fd00::1/64", "fd00::/48"),
        ] {
            assert!(overlap(a, b) && overlap(b, a), "{a} {b}");
        }
        for (a, b) in [
            ("10.1.2.3/16", "10.2.0.0/16"),
            ("10.0.0.1/8", "::/0"),
            ("169.253.0.1/16", "169.254.0.0/16"),
        ] {
            assert!(!overlap(a, b) && !overlap(b, a), "{a} {b}");
        }
    }
}
