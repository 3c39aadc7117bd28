//! Network namespaces.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::{
    Kind, Resource,
    checks::{check_count, check_labels, check_unique},
};
use crate::{
    Code, Dns, FieldError, InterfaceAddress, Name, Neighbour, NetnsId, Route, Rule, SysctlKey,
    SysctlValue,
    device::check_addresses,
    topology::{default_fields, omit_defaults, omit_defaults_of_items},
    values::deserialize_sysctls,
};

/// Maximum number of routes, rules, neighbours or sysctls of a namespace, each.
const MAX_ITEMS: usize = 16_384;

/// A network namespace as it should be (`ip-netns(8)`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    /// The name, also that of its file in `/run/netns`.
    pub name: Name,
    /// Labels for filtering.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its nsid in the host's namespace (`ip netns set`).
    #[serde(default)]
    pub netnsid: Option<NetnsId>,
    /// True if `lo` is up.
    #[serde(default = "crate::kinds::enabled")]
    pub loopback: bool,
    /// IP addresses of `lo`, besides 127.0.0.1/8 and ::1/128.
    #[serde(default)]
    #[schema(max_items = 1024)]
    pub addresses: Vec<InterfaceAddress>,
    /// Routes, besides those that the kernel adds itself.
    #[serde(default)]
    #[schema(max_items = 16384)]
    pub routes: Vec<Route>,
    /// Policy rules, besides those that the kernel has itself.
    #[serde(default)]
    #[schema(max_items = 16384)]
    pub rules: Vec<Rule>,
    /// Permanent ARP and NDP entries.
    #[serde(default)]
    #[schema(max_items = 16384)]
    pub neighbours: Vec<Neighbour>,
    /// Sysctls below `net.`.
    #[serde(default, deserialize_with = "deserialize_sysctls")]
    pub sysctls: BTreeMap<SysctlKey, SysctlValue>,
    /// Its own name resolution, in `/etc/netns/NAME`; null: the host's.
    #[serde(default)]
    pub dns: Option<Dns>,
    /// On creation: pins the namespace of this process instead of creating one (`ip netns
    /// attach`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach: Option<Attach>,
}

/// The process whose namespace is pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// The process id.
    pub pid: u32,
}

/// Observed state of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NamespaceObserved {
    /// Its file.
    pub path: String,
    /// The namespace's inode number, which identifies it while it exists.
    pub inode: u64,
    /// Its nsid in the host's namespace.
    pub netnsid: Option<u32>,
    /// Number of links in it, `lo` included.
    pub links: usize,
}

impl Resource for Namespace {
    const KIND: Kind = Kind::Namespace;
    type Observed = NamespaceObserved;

    fn name(&self) -> &Name {
        &self.name
    }

    fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    fn check(&self) -> Result<(), FieldError> {
        check_labels(&self.labels)?;
        check_addresses(&self.addresses, "lo")?;
        check_count("routes", self.routes.len(), MAX_ITEMS)?;
        check_count("rules", self.rules.len(), MAX_ITEMS)?;
        check_count("neighbours", self.neighbours.len(), MAX_ITEMS)?;
        check_count("sysctls", self.sysctls.len(), MAX_ITEMS)?;
        self.check_routes()?;
        self.check_rules()?;
        self.check_neighbours()?;
        self.check_forwarding()?;
        self.dns.as_ref().map_or(Ok(()), Dns::check)
    }

    fn omit_nested_defaults(spec: &mut Map<String, Value>) {
        static ROUTE: LazyLock<Value> =
            LazyLock::new(|| default_fields::<Route>(json!({"destination": "default"})));
        static RULE: LazyLock<Value> =
            LazyLock::new(|| default_fields::<Rule>(json!({"priority": 0})));
        static NEIGHBOUR: LazyLock<Value> = LazyLock::new(|| {
            default_fields::<Neighbour>(json!({"address": "10.0.0.1", "interface": "eth0"}))
        });
        static DNS: LazyLock<Value> = LazyLock::new(|| default_fields::<Dns>(json!({})));

        // It is for the creation only.
        spec.remove("attach");
        omit_defaults_of_items(spec, "routes", &ROUTE, &["destination"]);
        omit_defaults_of_items(spec, "neighbours", &NEIGHBOUR, &["address", "interface"]);
        omit_defaults_of_items(spec, "rules", &RULE, &["priority"]);
        if let Some(Value::Object(dns)) = spec.get_mut("dns") {
            omit_defaults(dns, &DNS, &[]);
        }
    }
}

impl Namespace {
    fn check_routes(&self) -> Result<(), FieldError> {
        for (i, route) in self.routes.iter().enumerate() {
            route
                .check()
                .map_err(|error| error.below(&["routes", &i.to_string()]))?;
        }
        check_unique(
            "routes",
            self.routes
                .iter()
                .map(|route| (route.key(), route.destination)),
        )
    }

    /// Checks the rules: the kernel has no two of a family that differ by `not` only
    /// (`rule_exists()`, net/core/fib_rules.c).
    fn check_rules(&self) -> Result<(), FieldError> {
        let mut seen = BTreeSet::new();
        for (i, rule) in self.rules.iter().enumerate() {
            let index = i.to_string();
            rule.check()
                .map_err(|error| error.below(&["rules", &index]))?;
            for rule in rule.per_family() {
                let duplicate = format!("duplicate \"{rule}\"");
                if !seen.insert(Rule { not: false, ..rule }) {
                    return Err(FieldError::at(
                        Code::Duplicate,
                        &["rules", &index],
                        duplicate,
                    ));
                }
            }
        }
        Ok(())
    }

    fn check_neighbours(&self) -> Result<(), FieldError> {
        check_unique(
            "neighbours",
            self.neighbours
                .iter()
                .map(|entry| (entry.key(), entry.address)),
        )?;
        for (i, entry) in self.neighbours.iter().enumerate() {
            entry
                .check()
                .map_err(|error| error.below(&["neighbours", &i.to_string()]))?;
        }
        Ok(())
    }

    /// Refuses two values for one variable of the kernel that has two names (`devinet_sysctl`,
    /// net/ipv4/devinet.c).
    fn check_forwarding(&self) -> Result<(), FieldError> {
        let (key, alias) = ("net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding");
        if let (Some(value), Some(other)) = (self.sysctl(key), self.sysctl(alias))
            && value != other
        {
            return Err(FieldError::at(
                Code::InvalidField,
                &["sysctls", alias],
                format!(
                    "{key} = {} and {alias} = {} are the same setting: give one of them",
                    value.0, other.0
                ),
            ));
        }
        Ok(())
    }

    fn sysctl(&self, key: &str) -> Option<&SysctlValue> {
        self.sysctls
            .iter()
            .find(|(known, _)| known.as_str() == key)
            .map(|(_, value)| value)
    }
}
