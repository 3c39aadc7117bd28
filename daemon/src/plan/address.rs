//! Addresses of a link: additions, deletions, and their order.
//!
//! The first of a network is the source address of packets, in both families, and the order of the
//! list is that of the kernel. An added address comes last in IPv4 (of the primary or of the
//! secondary ones) and first in IPv6; so the addresses that stay are the longest run that need not
//! move, and netnsd's others are added again behind them. Addresses of others stay where they are.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use netnsd_api::{InterfaceAddress, MIN_IPV6_MTU, is_link_local};

use super::{Ownership, Phase, Planner, Task};
use crate::kernel::{
    ADDRESS_PROTOCOL_KERNEL_LL, AddressChange, IFA_F_NODAD, LinkAt, ObservedAddress, ObservedNs,
};

/// Address that a link is to have.
pub(super) struct WantedAddress {
    /// Address as it is added.
    pub address: ObservedAddress,
    settings: AddressSettings,
}

/// Settings that an address must have also if it is there; `None` leaves one as it is.
struct AddressSettings {
    broadcast: Option<Option<Ipv4Addr>>,
    metric: Option<u32>,
    label: Option<Option<String>>,
}

impl WantedAddress {
    /// Returns an address with exactly these settings.
    pub(super) fn exactly(address: &ObservedAddress) -> Self {
        Self {
            settings: AddressSettings {
                broadcast: Some(address.broadcast),
                metric: Some(address.metric),
                label: Some(address.label.clone()),
            },
            address: address.clone(),
        }
    }

    /// Returns how an address that is there should be.
    fn adjust(&self, known: &ObservedAddress) -> ObservedAddress {
        let AddressSettings {
            broadcast,
            metric,
            label,
        } = &self.settings;
        ObservedAddress {
            broadcast: broadcast.unwrap_or(known.broadcast),
            metric: metric.unwrap_or(known.metric),
            label: label.clone().unwrap_or_else(|| known.label.clone()),
            ..known.clone()
        }
    }

    /// Returns true if an address that is there has a setting that is wrong, and that the kernel
    /// does not change: in IPv4 only the metric (`inet_rtm_newaddr()`, net/ipv4/devinet.c), in IPv6
    /// not back to the default (`inet6_addr_modify()`, net/ipv6/addrconf.c).
    fn needs_recreation(&self, known: &ObservedAddress) -> bool {
        let right = self.adjust(known);
        right.broadcast != known.broadcast
            || right.label != known.label
            || known.is_ipv6() && right.metric == 0 && known.metric != 0
    }
}

/// Returns the addresses that are asked for of an interface. A setting that is no longer asked for
/// goes back to the default; others than these are left as they are.
pub(super) fn wanted_addresses<'s>(
    interface: &str,
    desired: &[InterfaceAddress],
    earlier: impl Iterator<Item = &'s [InterfaceAddress]>,
) -> Vec<WantedAddress> {
    let mut set: HashMap<(IpNet, Option<IpAddr>), (bool, bool, bool)> = HashMap::new();
    for old in earlier.flatten().filter(|old| old.details().is_some()) {
        let key = ObservedAddress::of(old, interface);
        let (broadcast, metric, label) = set.entry((key.net, key.peer)).or_default();
        *broadcast |= old.broadcast().is_some();
        *metric |= old.metric().is_some();
        *label |= old.label().is_some();
    }
    let wanted = |asked: &InterfaceAddress| {
        let address = ObservedAddress::of(asked, interface);
        let was_set = set.get(&(address.net, address.peer));
        let (broadcast, metric, label) = was_set.copied().unwrap_or_default();
        let settings = AddressSettings {
            broadcast: (broadcast || asked.broadcast().is_some()).then_some(address.broadcast),
            metric: (metric || asked.metric().is_some()).then_some(address.metric),
            label: (label || asked.label().is_some()).then(|| address.label.clone()),
        };
        WantedAddress { address, settings }
    };
    desired.iter().map(wanted).collect()
}

impl Planner<'_> {
    /// Plans the addresses of a link with this MTU.
    pub(super) fn plan_addresses(
        &mut self,
        task: &Task<'_>,
        place: &LinkAt,
        wanted: &[WantedAddress],
        mtu: u32,
    ) {
        // Only addresses of netnsd are moved: adopted ones are netnsd's before, released ones until
        // the end.
        // Addresses that others gave to `lo` stay.
        if task.ownership == Ownership::Adopt && place.name != "lo" {
            self.mark_addresses(task, place, wanted);
        }
        for ipv6 in [false, true] {
            let mut order: Vec<&WantedAddress> = wanted
                .iter()
                .filter(|wanted| wanted.address.is_ipv6() == ipv6)
                .collect();
            if let (true, Some(first)) = (ipv6 && mtu < MIN_IPV6_MTU, order.first()) {
                // The kernel ends IPv6 on the link (`addrconf_notify()`, net/ipv6/addrconf.c).
                let LinkAt { ns, name } = place;
                let reason = format!(
                    "IPv6 needs an MTU of at least {MIN_IPV6_MTU}, and {name} in {ns} has {mtu}: {} waits for it",
                    first.address
                );
                self.pending(task, reason);
                continue;
            }
            if ipv6 {
                order.reverse();
            }
            self.refuse_excluded(task, place, &mut order);
            self.adjust_addresses(task, place, &order);
            self.order_addresses(task, place, &order, ipv6);
        }
        if task.is_released() {
            self.mark_addresses(task, place, wanted);
        }
    }

    /// Marks adopted addresses as netnsd's, or removes the mark; their other attributes stay.
    fn mark_addresses(&mut self, task: &Task<'_>, place: &LinkAt, wanted: &[WantedAddress]) {
        let Some(link) = self.ns_mut(&place.ns).links.get_mut(&place.name) else {
            return;
        };
        let mut taken = Vec::new();
        for known in &mut link.addresses {
            let mut wanted = wanted.iter().map(|wanted| &wanted.address);
            let Some(wanted) = wanted.find(|wanted| wanted.is_same(known)) else {
                continue;
            };
            if wanted.protocol != known.protocol {
                known.protocol = wanted.protocol;
                taken.push(if task.is_released() {
                    wanted.clone()
                } else {
                    known.clone()
                });
            }
        }
        for address in taken {
            let change = AddressChange::Add {
                address,
                replace: true,
            };
            self.emit(Phase::Addresses, task, place.change_addresses(change));
        }
    }

    /// Leaves out addresses that the kernel would refuse because of an address of others.
    fn refuse_excluded(
        &mut self,
        task: &Task<'_>,
        place: &LinkAt,
        order: &mut Vec<&WantedAddress>,
    ) {
        let Some(link) = self.now.link(&place.ns, &place.name) else {
            return;
        };
        let mut refused = Vec::new();
        order.retain(|wanted| {
            let address = &wanted.address;
            let excludes = |known: &&ObservedAddress| {
                let is_right = known.is_same(address) && wanted.adjust(known) == **known;
                !known.is_ours() && known.excludes(address) && !is_right
            };
            let Some(other) = link.addresses.iter().find(excludes) else {
                return true;
            };
            let settings = if other.is_same(address) {
                " with other settings"
            } else {
                ""
            };
            refused.push((address.net, format!("{other}{settings}")));
            false
        });
        for (wanted, other) in refused {
            let LinkAt { ns, name } = place;
            let way_out =
                "an interface has an address once: ask for another one, or remove that first";
            self.conflict(
                task,
                format!("{wanted} for {name} in {ns}: others gave it {other}, and {way_out}"),
            );
        }
    }

    /// Plans the addresses of a family, given in the order in which they are added.
    fn order_addresses(
        &mut self,
        task: &Task<'_>,
        place: &LinkAt,
        order: &[&WantedAddress],
        ipv6: bool,
    ) {
        let LinkAt { ns, name } = place;
        let Some(link) = self.now.link(ns, name) else {
            return;
        };
        let promotes = link.promote_secondaries;
        let mut trial = ObservedNs {
            links: BTreeMap::from([(name.clone(), link.clone())]),
            ..ObservedNs::default()
        };
        let all = task.is_released();
        let mut leaving = leaving(known(&trial, name), order, ipv6, all);
        // Without any IPv4 address the kernel takes the routes by the link away: the first that
        // comes does so before others go.
        let is_new = |wanted: &&WantedAddress| {
            !known(&trial, name)
                .iter()
                .any(|known| known.excludes(&wanted.address))
        };
        let lead = order
            .first()
            .copied()
            .filter(|first| !leaving.is_empty() && is_new(first));
        if let Some(lead) = lead {
            self.add_address(task, place, lead.address.clone());
            trial.add_address(name, lead.address.clone());
        }
        let mut delete: Vec<ObservedAddress> = Vec::new();
        while !leaving.is_empty() {
            leaving
                .iter()
                .for_each(|gone| trial.lose_address(name, gone, true));
            delete.append(&mut leaving);
            leaving = self::leaving(known(&trial, name), order, ipv6, all);
        }
        let as_it_was = |wanted: &WantedAddress| {
            let gone = delete
                .iter()
                .find(|gone| gone.is_same(&wanted.address) && !task.is_released());
            // The address was unique until now.
            let nodad = if ipv6 { IFA_F_NODAD } else { 0 };
            gone.map_or_else(
                || wanted.address.clone(),
                |gone| ObservedAddress {
                    flags: gone.flags | nodad,
                    ..wanted.adjust(gone)
                },
            )
        };
        let is_absent = |wanted: &&&WantedAddress| {
            !known(&trial, name)
                .iter()
                .any(|known| known.is_same(&wanted.address))
        };
        let mut add: Vec<ObservedAddress> = order
            .iter()
            .filter(is_absent)
            .map(|wanted| as_it_was(wanted))
            .collect();
        let comes = |gone: &&ObservedAddress| add.iter().any(|new| new.is_same(gone));
        let carried: Vec<_> = delete
            .iter()
            .filter(|gone| !gone.is_ours() && !comes(gone))
            .cloned()
            .collect();
        add.extend(carried);
        if delete
            .iter()
            .any(|gone| add.iter().any(|new| new.is_same(gone)))
        {
            let promote = !ipv6 && !promotes && delete.iter().any(|gone| !gone.secondary);
            self.ns_mut(ns).reorder_addresses(name, &delete, &add);
            let change = AddressChange::Reorder {
                delete,
                add,
                promote,
            };
            return self.emit(Phase::Addresses, task, place.change_addresses(change));
        }
        // The route to a network stays if the next address of it is added before the last one is
        // deleted.
        let is_followed = |gone: &ObservedAddress| {
            let is_of_it = |other: &ObservedAddress| other.network() == gone.network();
            !known(&trial, name).iter().any(is_of_it)
                && add.iter().any(|new| is_of_it(new) && !new.excludes(gone))
        };
        let (mut followed, at_once): (Vec<_>, Vec<_>) = delete.into_iter().partition(is_followed);
        at_once
            .into_iter()
            .for_each(|gone| self.delete_address(task, place, gone));
        for new in add {
            let network = new.network();
            self.add_address(task, place, new);
            for gone in followed.extract_if(.., |gone| gone.network() == network) {
                self.delete_address(task, place, gone);
            }
        }
    }

    /// Changes the settings of addresses that stay.
    fn adjust_addresses(&mut self, task: &Task<'_>, place: &LinkAt, order: &[&WantedAddress]) {
        let Some(link) = self.ns_mut(&place.ns).links.get_mut(&place.name) else {
            return;
        };
        let with_metric: HashMap<(IpNet, Option<IpAddr>), &WantedAddress> = order
            .iter()
            .filter(|wanted| wanted.settings.metric.is_some())
            .map(|wanted| ((wanted.address.net, wanted.address.peer), *wanted))
            .collect();
        let mut changed = Vec::new();
        for known in &mut link.addresses {
            let Some(wanted) = with_metric.get(&(known.net, known.peer)) else {
                continue;
            };
            let right = wanted.adjust(known);
            if right != *known && !wanted.needs_recreation(known) {
                known.clone_from(&right);
                changed.push(right);
            }
        }
        for address in changed {
            let change = AddressChange::Add {
                address,
                replace: true,
            };
            self.emit(Phase::Addresses, task, place.change_addresses(change));
        }
    }

    fn add_address(&mut self, task: &Task<'_>, place: &LinkAt, address: ObservedAddress) {
        let inside = self.ns_mut(&place.ns);
        inside.add_address(&place.name, address.clone());
        let change = AddressChange::Add {
            address,
            replace: false,
        };
        self.emit(Phase::Addresses, task, place.change_addresses(change));
    }

    fn delete_address(&mut self, task: &Task<'_>, place: &LinkAt, address: ObservedAddress) {
        let LinkAt { ns, name } = place;
        let Some(link) = self.ns_mut(ns).links.get(name) else {
            return;
        };
        let below =
            |known: &ObservedAddress| known.secondary && known.network() == address.network();
        let is_primary = link
            .addresses
            .iter()
            .any(|known| known.is_same(&address) && !known.secondary);
        let promote = !address.is_ipv6()
            && is_primary
            && !link.promote_secondaries
            && link.addresses.iter().any(below);
        self.ns_mut(ns).lose_address(name, &address, promote);
        let change = AddressChange::Delete { address, promote };
        self.emit(Phase::Addresses, task, place.change_addresses(change));
    }

    /// Adds the link-local address of a link that is set up, if IPv6 packets use it. The kernel
    /// makes the same one, and looks for duplicates first; until then the link solicits no
    /// neighbour (`ndisc_send_ns()`, net/ipv6/ndisc.c), and packets that a router should forward
    /// there are lost.
    pub(super) fn add_link_local(&mut self, task: &Task<'_>, place: &LinkAt) {
        let Some(link) = self.now.link(&place.ns, &place.name) else {
            return;
        };
        let Some(mac) = link
            .mac
            .filter(|_| !link.addr_gen_none && link.mtu >= MIN_IPV6_MTU && !task.is_released())
        else {
            return;
        };
        let is_global =
            |known: &ObservedAddress| known.is_ipv6() && !is_link_local(known.net.addr());
        let routed = || {
            self.link_local_gateways
                .contains(&(place.ns.clone(), place.name.clone()))
        };
        let address = ObservedAddress {
            protocol: ADDRESS_PROTOCOL_KERNEL_LL,
            ..ObservedAddress::new(IpNet::from(mac.link_local()))
        };
        let is_there = link.addresses.iter().any(|known| known.excludes(&address));
        if !is_there && (link.addresses.iter().any(is_global) || routed()) {
            self.add_address(task, place, address);
        }
    }
}

fn known<'n>(inside: &'n ObservedNs, name: &str) -> &'n [ObservedAddress] {
    inside.links.get(name).map_or(&[], |link| &link.addresses)
}

/// Returns netnsd's addresses that are not asked for, or not where the order has them. Addresses of
/// others are deleted, and added again, if they would rise above netnsd's first of their network,
/// and with `all` those in the order. Secondary ones come first.
fn leaving(
    addresses: &[ObservedAddress],
    order: &[&WantedAddress],
    ipv6: bool,
    all: bool,
) -> Vec<ObservedAddress> {
    let mut known: Vec<&ObservedAddress> = addresses
        .iter()
        .filter(|known| known.is_ipv6() == ipv6)
        .collect();
    if ipv6 {
        known.reverse();
    }
    let places: HashMap<_, usize> = known
        .iter()
        .enumerate()
        .map(|(i, known)| ((known.net, known.peer), i))
        .collect();
    let primaries: HashMap<IpNet, usize> = known
        .iter()
        .enumerate()
        .filter(|(_, known)| !ipv6 && !known.secondary)
        .map(|(i, known)| (known.network(), i))
        .collect();
    let mut leaves: Vec<bool> = known.iter().map(|known| known.is_ours()).collect();
    let mut is_fixed: Vec<bool> = leaves.iter().map(|ours| !ours).collect();
    for WantedAddress {
        address: wanted, ..
    } in order.iter().filter(|_| all)
    {
        if let Some(place) = places.get(&(wanted.net, wanted.peer)) {
            is_fixed[*place] = false;
        }
    }
    // The first place that the next one may have, of the primary ones of a scope and of the
    // secondary ones, or of a scope's.
    let mut from: BTreeMap<(u8, u8), usize> = BTreeMap::new();
    // Networks that are asked for, and the place before which others of theirs would become primary
    // instead of the first.
    let mut heads: HashMap<IpNet, usize> = HashMap::new();
    for asked in order {
        let wanted = &asked.address;
        let network = wanted.network();
        let by_others = primaries
            .get(&network)
            .is_some_and(|primary| is_fixed[*primary]);
        let is_head = !ipv6 && !by_others && !heads.contains_key(&network);
        let place = places.get(&(wanted.net, wanted.peer)).copied();
        let scope = place.map_or(wanted.scope, |place| known[place].scope);
        let class = if ipv6 {
            (0, wanted.scope_rank())
        } else {
            (u8::from(!is_head), if is_head { scope } else { 0 })
        };
        let from = from.entry(class).or_default();
        let rises = is_head && place.is_some_and(|place| known[place].secondary);
        let stays = place.filter(|place| {
            let fits = ipv6 || is_head || known[*place].secondary;
            let is_below = is_head || heads.get(&network).is_none_or(|head| place >= head);
            let is_kept = is_fixed[*place] || !asked.needs_recreation(known[*place]);
            fits && is_below
                && is_kept
                && if rises {
                    *from != usize::MAX
                } else {
                    place >= from
                }
        });
        let is_fixed = place.is_some_and(|place| is_fixed[place]);
        if let Some(place) = place {
            leaves[place] = stays.is_none() && !is_fixed;
        }
        if is_head {
            heads.insert(
                network,
                if rises || stays.is_none() {
                    stays.unwrap_or(usize::MAX)
                } else {
                    0
                },
            );
        }
        match stays {
            // It is promoted to the end of the primary ones.
            Some(_) if rises => *from = usize::MAX,
            Some(place) => *from = place + 1,
            None if is_fixed => {}
            None => *from = usize::MAX,
        }
    }
    for (i, other) in known
        .iter()
        .enumerate()
        .filter(|(i, known)| known.secondary && is_fixed[*i])
    {
        let primary_goes = || {
            primaries
                .get(&other.network())
                .is_some_and(|primary| leaves[*primary])
        };
        leaves[i] = heads.get(&other.network()).is_some_and(|head| i < *head) && primary_goes();
    }
    let those = |secondary: bool| {
        let goes = |i: &usize| leaves[*i] && known[*i].secondary == secondary;
        (0..known.len())
            .filter(goes)
            .map(|i| known[i].clone())
            .collect::<Vec<_>>()
    };
    let (mut gone, primary) = (those(true), those(false));
    gone.extend(primary);
    gone
}
