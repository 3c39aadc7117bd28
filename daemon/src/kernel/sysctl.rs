//! Effects that a sysctl has on others, as far as the kernel has any: `all` and `default` of
//! interfaces, and IPv4 forwarding.

use std::collections::BTreeMap;

use netnsd_api::SysctlKey;

use super::ObservedNs;

/// Settings of `net.ipv6.conf` that `all` gives to `default` and to every interface
/// (`addrconf_fixup_forwarding()`, `addrconf_disable_ipv6()`, `addrconf_sysctl_addr_gen_mode()`,
/// `addrconf_fixup_linkdown()`, net/ipv6/addrconf.c).
const GIVEN_BY_ALL: [&str; 4] = [
    "addr_gen_mode",
    "disable_ipv6",
    "forwarding",
    "ignore_routes_with_linkdown",
];

/// Settings that a new interface does not take from `default`: its MTU is that of the device
/// (`ipv6_add_dev()`, net/ipv6/addrconf.c).
const NOT_INHERITED: [&str; 1] = ["mtu"];

/// Names of the one variable that says whether IPv4 is forwarded (`devinet_sysctl_forward()`,
/// net/ipv4/devinet.c).
const IPV4_FORWARDING: [&str; 2] = ["net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding"];

fn is_ipv4_forwarding(key: &SysctlKey) -> bool {
    IPV4_FORWARDING.contains(&key.as_str())
}

/// The other name of the same variable.
pub fn other_name(key: &SysctlKey) -> Option<SysctlKey> {
    let other = IPV4_FORWARDING
        .into_iter()
        .find(|name| is_ipv4_forwarding(key) && *name != key.as_str());
    other.and_then(|name| name.parse().ok())
}

/// The key whose value an interface's or `default` takes when that is written.
pub fn given_by(key: &SysctlKey) -> Option<SysctlKey> {
    let all = key.at("all").filter(|all| all != key)?;
    let is_given = if key.is_ipv6() {
        GIVEN_BY_ALL.contains(&key.setting())
    } else {
        is_ipv4_forwarding(&all)
    };
    is_given.then_some(all)
}

/// Returns true if a key of `default` reaches the interfaces that are made later.
pub fn is_inherited(key: &SysctlKey) -> bool {
    key.is_of("default") && !NOT_INHERITED.contains(&key.setting())
}

/// The key of the same setting that is there in every namespace: it tells whether there is such a
/// setting, and what a new interface begins with (`neigh.default` is the host's only, `arp_init()`,
/// net/ipv4/arp.c).
pub fn template(key: &SysctlKey) -> Option<SysctlKey> {
    key.interface()?;
    key.at("default")
        .filter(|key| key.as_str().contains(".conf."))
        .or_else(|| key.at("lo"))
}

/// The keys of the whole namespace that change when this one is written (`inet_forward_change()`,
/// net/ipv4/devinet.c).
pub fn changed_along(key: &SysctlKey) -> Vec<SysctlKey> {
    let along = match key.at("default") {
        _ if is_ipv4_forwarding(key) => {
            let others = [
                "net.ipv4.conf.all.accept_redirects",
                "net.ipv4.conf.default.forwarding",
            ];
            return others
                .into_iter()
                .filter_map(|other| other.parse().ok())
                .chain(other_name(key))
                .collect();
        }
        Some(default) if given_by(&default).as_ref() == Some(key) => Some(default),
        _ => None,
    };
    along.into_iter().collect()
}

/// The value that redirects are accepted by in IPv4 once forwarding has been set to another value
/// than before.
pub fn redirects_of(forwarding: &str) -> String {
    String::from(if is_on(forwarding) { "0" } else { "1" })
}

/// Returns true for the values that switch something on.
pub fn is_on(value: &str) -> bool {
    value.parse::<i64>() != Ok(0)
}

/// Returns true if the kernel means the same by both values.
pub fn is_same_value(now: &str, wanted: &str) -> bool {
    now == wanted || matches!((now.parse::<i64>(), wanted.parse::<i64>()), (Ok(a), Ok(b)) if a == b)
}

impl ObservedNs {
    /// Writes a sysctl, with what that changes.
    pub fn write_sysctl(&mut self, key: &SysctlKey, value: &str) {
        let before = self.sysctls.insert(key.clone(), value.to_owned());
        match before {
            Some(before) if is_ipv4_forwarding(key) && is_same_value(&before, value) => return,
            // It is unknown if this changes the others, which it does when it changes itself.
            None if is_ipv4_forwarding(key) => {
                changed_along(key)
                    .iter()
                    .for_each(|other| drop(self.sysctls.remove(other)));
                return;
            }
            _ => {}
        }
        for other in changed_along(key) {
            let value = if other.setting() == "accept_redirects" {
                redirects_of(value)
            } else {
                value.to_owned()
            };
            self.sysctls.insert(other, value);
        }
        let is_given = |other: &SysctlKey| {
            given_by(other)
                .is_some_and(|by| by == *key || is_ipv4_forwarding(&by) && is_ipv4_forwarding(key))
        };
        let all = other_name(key)
            .filter(|other| other.is_of("all"))
            .unwrap_or_else(|| key.clone());
        let interfaces = self
            .links
            .keys()
            .filter_map(|name| all.at(name))
            .filter(is_given);
        self.sysctls
            .extend(interfaces.map(|other| (other, value.to_owned())));
        for (_, now) in self.sysctls.iter_mut().filter(|(other, _)| is_given(other)) {
            *now = value.to_owned();
        }
        if key.is_ipv6() && key.setting() == "disable_ipv6" && is_on(value) {
            let names: Vec<String> = self
                .links
                .keys()
                .filter(|name| key.is_of("all") || key.is_of(name))
                .cloned()
                .collect();
            names.iter().for_each(|name| self.lose_ipv6(name));
        }
    }

    /// Takes away what goes with IPv6 (`addrconf_ifdown()`, net/ipv6/addrconf.c).
    fn lose_ipv6(&mut self, interface: &str) {
        if let Some(link) = self.links.get_mut(interface) {
            link.addresses
                .retain(|address| address.net.addr().is_ipv4());
        }
        self.routes
            .retain_mut(|known| !(known.ipv6 && known.lose_hops(interface)));
    }

    /// Gives a new interface the sysctls that it begins with (`inetdev_init()`, net/ipv4/devinet.c;
    /// `ipv6_add_dev()`, net/ipv6/addrconf.c).
    pub fn inherit_sysctls(&mut self, interface: &str) {
        let inherited = self.sysctls.iter().filter(|(key, _)| is_inherited(key));
        let own: BTreeMap<SysctlKey, String> = inherited
            .filter_map(|(key, value)| Some((key.at(interface)?, value.clone())))
            .collect();
        self.sysctls.extend(own);
    }

    /// Sets the IPv6 MTU of an interface to that of the device, as the kernel does when it goes up,
    /// gets a carrier or another MTU (`addrconf_notify()`, net/ipv6/addrconf.c).
    pub fn reset_ipv6_mtu(&mut self, interface: &str) {
        let Some(mtu) = self.links.get(interface).map(|link| link.mtu) else {
            return;
        };
        let is_mtu = |key: &SysctlKey| is_ipv6_mtu(key) && key.is_of(interface);
        for (_, now) in self.sysctls.iter_mut().filter(|(key, _)| is_mtu(key)) {
            *now = mtu.to_string();
        }
    }
}

/// Returns true for the IPv6 MTU of an interface.
pub fn is_ipv6_mtu(key: &SysctlKey) -> bool {
    key.is_ipv6() && key.setting() == "mtu" && key.interface().is_some()
}
