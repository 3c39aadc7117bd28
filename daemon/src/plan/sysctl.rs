//! Sysctls of a namespace: those asked for, those restored, and those that interfaces of netnsd
//! take from `default`.

use std::collections::BTreeSet;

use netnsd_api::{Namespace, SysctlKey};
use nix::errno::Errno;

use super::{Phase, Planner, Task};
use crate::{
    kernel::{FeatureOp, KernelError, Ns, ObservedLink, ObservedNs, ownership, sysctl},
    model::Spec,
};

/// Returns the sysctls that a namespace's task concerns: asked for now or before, changed by the
/// kernel along with those that are restored, and those of interfaces that follow `default`.
pub(super) fn keys_of(task: &Task<'_>) -> BTreeSet<SysctlKey> {
    let mut keys = BTreeSet::new();
    let specs = || {
        task.specs().filter_map(|spec| match spec {
            Spec::Namespace(spec) => Some(spec),
            _ => None,
        })
    };
    for key in specs().flat_map(|spec| spec.sysctls.keys()) {
        if sysctl::is_inherited(key) {
            keys.extend(task.interfaces.iter().filter_map(|device| key.at(device)));
        }
        keys.extend(
            sysctl::changed_along(key)
                .into_iter()
                .filter(|along| task.prior.contains_key(along)),
        );
        keys.insert(key.clone());
    }
    keys
}

impl Task<'_> {
    /// Returns the value that a key is to have, and true if that follows from the intent (else it
    /// is restored).
    fn sysctl(
        &self,
        spec: &Namespace,
        key: &SysctlKey,
        link: Option<&ObservedLink>,
    ) -> Option<(String, bool)> {
        let asked = |key: &SysctlKey| spec.sysctls.get(key).map(|value| value.0.clone());
        let given = |key: &SysctlKey| {
            let by = sysctl::given_by(key)?;
            asked(&by).or_else(|| asked(&sysctl::other_name(&by)?))
        };
        let default = key.at("default").filter(|_| key.interface().is_some());
        let is_ours = link.is_some_and(|link| {
            link.owner_tag
                .as_deref()
                .is_some_and(|tag| ownership::parse(tag).is_some())
        });
        let inherited = || {
            default
                .as_ref()
                .filter(|key| is_ours && sysctl::is_inherited(key))
                .and_then(asked)
        };
        let own = asked(key).or_else(|| asked(&sysctl::other_name(key)?));
        if let Some(value) = own
            .or_else(inherited)
            .or_else(|| given(key))
            .or_else(|| self.redirects(spec, key))
        {
            return Some((value, true));
        }
        let mtu = link
            .filter(|_| sysctl::is_ipv6_mtu(key))
            .map(|link| link.mtu.to_string());
        let before = || {
            self.prior
                .get(key)
                .or_else(|| self.prior.get(default.as_ref()?))
                .cloned()
        };
        Some((mtu.or_else(before)?, false))
    }

    /// Returns the value of `accept_redirects` that follows from the desired IPv4 forwarding.
    fn redirects(&self, spec: &Namespace, key: &SysctlKey) -> Option<String> {
        let is_changed = |(forwarding, value): &(&SysctlKey, &netnsd_api::SysctlValue)| {
            sysctl::changed_along(forwarding).contains(key)
                && self
                    .prior
                    .get(forwarding)
                    .is_some_and(|before| !sysctl::is_same_value(before, &value.0))
        };
        let is_redirects = key.setting() == "accept_redirects";
        let forwarding = spec
            .sysctls
            .iter()
            .filter(|_| is_redirects)
            .find(is_changed);
        forwarding.map(|(_, value)| sysctl::redirects_of(&value.0))
    }
}

impl Planner<'_> {
    /// Plans the sysctls of the whole namespace. They come before links: those inherit `default`,
    /// and writing `all` changes theirs.
    pub(super) fn shared_sysctls(&mut self, task: &Task<'_>, spec: &Namespace) {
        if self.in_conflict(task) {
            return;
        }
        let rank = |key: &SysctlKey| match key {
            _ if sysctl::other_name(key).is_some() => 0,
            key if key.is_of("all") => 1,
            key if key.is_of("default") => 2,
            _ => 3,
        };
        let mut keys: Vec<SysctlKey> = keys_of(task)
            .into_iter()
            .filter(|key| key.interface().is_none())
            .collect();
        keys.sort_by_key(rank);
        for key in keys {
            if let Some(value) = self.missing_sysctl(task, spec, &key) {
                self.write_sysctl(Phase::Sysctls, task, spec, key, value);
            }
        }
    }

    /// Plans the sysctls of interfaces, when the interfaces are known.
    pub(super) fn link_sysctls(&mut self, task: &Task<'_>, spec: &Namespace) {
        let ns = Ns::Named(spec.name.clone());
        for key in keys_of(task) {
            let Some(interface) = key.interface() else {
                continue;
            };
            let asked = spec.sysctls.get(&key);
            if let (Some(value), true) = (asked, self.is_unknown_setting(&ns, &key)) {
                let op = FeatureOp::Sysctl {
                    name: spec.name.clone(),
                    key,
                    value: value.0.clone(),
                };
                let error = KernelError::refused(
                    Errno::ENOENT,
                    "there is no such sysctl: it is misspelt, or this kernel lacks it",
                );
                self.plan
                    .refused
                    .push((task.resource.clone(), op.into(), error));
                continue;
            }
            let Some(link) = self.now.link(&ns, &interface) else {
                if asked.is_some() {
                    self.pending(
                        task,
                        format!("sysctl {key} waits for the interface {interface}"),
                    );
                }
                continue;
            };
            // A bridge port makes no link-local address (`Task::addr_gen_none`).
            if link.addr_gen_none && key.setting() == "addr_gen_mode" && asked.is_none() {
                continue;
            }
            if let Some(value) = self.missing_sysctl(task, spec, &key) {
                let phase = if sysctl::is_ipv6_mtu(&key) {
                    Phase::LinkMtuSysctls
                } else {
                    Phase::LinkSysctls
                };
                self.write_sysctl(phase, task, spec, key, value);
            }
        }
    }

    /// Returns true if no interface has this setting, as far as was read.
    fn is_unknown_setting(&self, ns: &Ns, key: &SysctlKey) -> bool {
        let seen = self.seen.namespaces.get(ns).filter(|seen| seen.inode != 0);
        let lacks = |seen: &ObservedNs, key: &SysctlKey| !seen.sysctls.contains_key(key);
        let template = sysctl::template(key);
        seen.is_some_and(|seen| {
            lacks(seen, key) && template.is_some_and(|template| lacks(seen, &template))
        })
    }

    /// Returns the value to write to a sysctl. A sysctl that is restored and was not observed does
    /// not exist.
    fn missing_sysctl(&self, task: &Task<'_>, spec: &Namespace, key: &SysctlKey) -> Option<String> {
        let ns = Ns::Named(spec.name.clone());
        let link = key
            .interface()
            .and_then(|interface| self.now.link(&ns, &interface));
        let (value, asked) = task.sysctl(spec, key, link)?;
        // A renamed link keeps its values, which were not read.
        let is_renamed = |link: &ObservedLink| {
            let interface = key.interface().unwrap_or_default();
            link.index != 0
                && self
                    .seen
                    .link(&ns, &interface)
                    .is_none_or(|seen| seen.index != link.index)
        };
        match self
            .now
            .namespaces
            .get(&ns)
            .and_then(|known| known.sysctls.get(key))
        {
            Some(now) if sysctl::is_same_value(now, &value) => None,
            None if !asked && !link.is_some_and(is_renamed) => None,
            _ => Some(value),
        }
    }

    fn write_sysctl(
        &mut self,
        phase: Phase,
        task: &Task<'_>,
        spec: &Namespace,
        key: SysctlKey,
        value: String,
    ) {
        self.ns_mut(&Ns::Named(spec.name.clone()))
            .write_sysctl(&key, &value);
        let retriable = key.interface().is_some();
        self.push(
            phase,
            task,
            FeatureOp::Sysctl {
                name: spec.name.clone(),
                key,
                value,
            }
            .into(),
            (retriable, false),
        );
    }
}
