//! Losses: state that the kernel drops when a link changes. The planner's model and the simulated
//! kernel read the same table.

use netnsd_api::Neighbour;

use super::{ObservedLink, ObservedNs};

/// Change of a link after which the kernel has dropped state that hung on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkEvent {
    /// It got another MAC address, or began or ceased to do ARP.
    MacChanged,
    /// It was set down.
    Down,
    /// It was deleted, or left the namespace.
    Gone,
}

/// State of a link that is dropped; links whose master it is are its ports.
struct Losses {
    ipv6_addresses: bool,
    routes: bool,
    neighbours: bool,
    sysctls: bool,
    ports: bool,
}

impl LinkEvent {
    const fn losses(self) -> Losses {
        match self {
            // Permanent neighbours too (`neigh_changeaddr()`, net/core/neighbour.c;
            // `arp_netdev_event()`, net/ipv4/arp.c).
            LinkEvent::MacChanged => Losses {
                ipv6_addresses: false,
                routes: false,
                neighbours: true,
                sysctls: false,
                ports: false,
            },
            // `addrconf_ifdown()`, net/ipv6/addrconf.c; `fib_disable_ip()`,
            // net/ipv4/fib_frontend.c; `neigh_ifdown()`, net/core/neighbour.c.
            LinkEvent::Down => Losses {
                ipv6_addresses: true,
                routes: true,
                neighbours: true,
                sysctls: false,
                ports: false,
            },
            // `unregister_netdevice_many_notify()` and `__dev_change_net_namespace()`,
            // net/core/dev.c.
            LinkEvent::Gone => Losses {
                ipv6_addresses: true,
                routes: true,
                neighbours: true,
                sysctls: true,
                ports: true,
            },
        }
    }
}

impl ObservedNs {
    /// Removes the state that the kernel drops with a change of a link.
    pub fn lose(&mut self, interface: &str, event: LinkEvent) {
        let losses = event.losses();
        if losses.ipv6_addresses
            && let Some(link) = self.links.get_mut(interface)
        {
            link.addresses.retain(|address| !address.is_ipv6());
        }
        if losses.routes {
            // With a device that is gone, an IPv4 route goes as a whole (`fib_sync_down_dev()`,
            // net/ipv4/fib_semantics.c).
            let is_whole = event == LinkEvent::Gone;
            self.routes.retain_mut(|known| {
                let is_lost = is_whole && !known.ipv6 && known.is_by(interface);
                !is_lost && !known.lose_hops(interface)
            });
        }
        if losses.neighbours {
            let stays = |neighbour: &Neighbour| {
                neighbour.interface.as_str() != interface
                    || neighbour.proxy && event == LinkEvent::MacChanged
            };
            self.neighbours.retain(stays);
        }
        if losses.sysctls {
            self.sysctls
                .retain(|key, _| key.interface().as_deref() != Some(interface));
        }
        if losses.ports {
            let links = self.links.values_mut();
            for port in links.filter(|link| link.master.as_deref() == Some(interface)) {
                port.master = None;
                port.port = None;
            }
        }
    }

    /// Sets a link down.
    pub fn set_link_down(&mut self, interface: &str) {
        if let Some(link) = self.links.get_mut(interface) {
            link.up = false;
        }
        self.lose(interface, LinkEvent::Down);
    }

    /// Removes a link, and returns it.
    pub fn remove_link(&mut self, interface: &str) -> Option<ObservedLink> {
        let link = self.links.remove(interface);
        self.lose(interface, LinkEvent::Gone);
        link
    }
}

impl ObservedLink {
    /// Returns the link as it arrives in another namespace: down, no port, without addresses
    /// (`__dev_change_net_namespace()`, net/core/dev.c) and with the default `addrgenmode`
    /// (`ipv6_add_dev()`, net/ipv6/addrconf.c).
    pub fn moved(self) -> Self {
        Self {
            up: false,
            carrier: false,
            master: None,
            port: None,
            addresses: Vec::new(),
            addr_gen_none: false,
            ..self
        }
    }
}
