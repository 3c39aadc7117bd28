//! The network as it should be, in memory: references, uniqueness, what depends on what. Pure.
//!
//! [`Intent::decide`] tells what a write would change, or why it may not; [`Intent::set`] makes one change and keeps the
//! indices, also to take a change back.

mod index;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::IpAddr};

use jiff::Timestamp;
use netnsd_api::{
    Bridge, Code, Endpoint, FieldError, InterfaceName, Kind, Name, Namespace, Problem, Resource, ResourceRef,
    SysctlKey, Veth,
};

use self::index::Index;
use crate::{
    engine::{Change, Did, Precondition, Spec, Write},
    kernel::Ns,
    store::Row,
};

/// One resource as it should be, and what is left of how it should have been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its identity.
    pub uid: String,
    /// Its generation.
    pub generation: u64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its intent last changed.
    pub updated_at: Timestamp,
    /// What is asked for.
    pub spec: Spec,
    /// Earlier intents that may still be in the kernel.
    pub applied: Vec<Spec>,
    /// Sysctls' values before netnsd set them.
    pub prior: BTreeMap<SysctlKey, String>,
}

impl Record {
    /// The row that records it.
    pub fn row(&self) -> Row {
        Row {
            uid: self.uid.clone(),
            kind: self.spec.kind(),
            name: self.spec.name().clone(),
            generation: self.generation,
            created_at: self.created_at,
            updated_at: self.updated_at,
            desired: Some(self.spec.clone()),
            applied: self.applied.clone(),
            prior: self.prior.clone(),
        }
    }
}

/// What a write would change.
#[derive(Debug, Clone)]
pub struct Decision {
    /// What happens to the resource that the write names.
    pub did: Did,
    /// That resource.
    pub resource: ResourceRef,
    /// Each change: the resource, and what becomes of it.
    pub changes: Vec<(ResourceRef, Option<Record>)>,
}

/// Everything recorded.
#[derive(Debug, Default)]
pub struct Intent {
    records: [BTreeMap<Name, Record>; 3],
    index: Index,
}

impl Intent {
    /// One resource.
    pub fn get(&self, resource: &ResourceRef) -> Option<&Record> {
        self.records[resource.kind as usize].get(&resource.name)
    }

    /// One resource, to note what is left of earlier intents; its intent itself is changed by [`Intent::set`] only.
    pub fn leftovers_mut(
        &mut self,
        resource: &ResourceRef,
    ) -> Option<(&mut Vec<Spec>, &mut BTreeMap<SysctlKey, String>)> {
        let record = self.records[resource.kind as usize].get_mut(&resource.name)?;
        Some((&mut record.applied, &mut record.prior))
    }

    /// Every resource, in the order of [`Kind`] and name.
    pub fn all(&self) -> impl Iterator<Item = (ResourceRef, &Record)> {
        Kind::ALL.into_iter().flat_map(|kind| {
            self.records[kind as usize].iter().map(move |(name, record)| (ResourceRef::new(kind, name.clone()), record))
        })
    }

    /// Puts a record in the place of what was there (none takes it away), and gives back what was there.
    pub fn set(&mut self, resource: &ResourceRef, record: Option<Record>) -> Option<Record> {
        let records = &mut self.records[resource.kind as usize];
        let before = match record {
            Some(record) => {
                let before = records.insert(resource.name.clone(), record);
                if let Some(before) = &before {
                    self.index.remove(resource, &before.spec);
                }
                before
            }
            None => {
                let before = records.remove(&resource.name)?;
                self.index.remove(resource, &before.spec);
                Some(before)
            }
        };
        if let Some(record) = self.records[resource.kind as usize].get(&resource.name) {
            self.index.insert(resource, &record.spec);
        }
        before
    }

    /// The device of a bridge resource.
    pub fn bridge_device(&self, bridge: &Name) -> Option<String> {
        match &self.records[Kind::Bridge as usize].get(bridge)?.spec {
            Spec::Bridge(spec) => Some(spec.device().to_owned()),
            _ => None,
        }
    }

    /// Resources that refer to this one, sorted.
    pub fn dependents(&self, resource: &ResourceRef) -> Vec<ResourceRef> {
        self.index.dependents(resource)
    }

    /// What a write would change.
    ///
    /// # Errors
    /// Why it may not: a precondition, a reference, a name that is taken, a field.
    pub fn decide(&self, write: &Write, now: Timestamp, new_uid: impl FnOnce() -> String) -> Result<Decision, Problem> {
        match &write.change {
            Change::Create(spec) => {
                let spec = self.named(spec.clone());
                let resource = spec.resource();
                check_preconditions(&write.preconditions, self.get(&resource))?;
                if self.get(&resource).is_some() {
                    let detail = format!("{resource} exists already: PUT replaces it, PATCH changes it");
                    return Err(Problem { resources: vec![resource], ..Problem::new(Code::AlreadyExists, detail) });
                }
                self.decide_put(spec, now, new_uid)
            }
            Change::Put(spec) => {
                check_preconditions(&write.preconditions, self.get(&spec.resource()))?;
                self.decide_put(spec.clone(), now, new_uid)
            }
            Change::Edit(resource, edit) => {
                let record = self.get(resource).ok_or_else(|| not_found(resource))?;
                check_preconditions(&write.preconditions, Some(record))?;
                self.decide_put(edit(&record.spec)?, now, new_uid)
            }
            Change::Delete { resource, cascade } => {
                let record = self.get(resource).ok_or_else(|| not_found(resource))?;
                check_preconditions(&write.preconditions, Some(record))?;
                self.decide_delete(resource, *cascade, now)
            }
        }
    }

    /// Gives a veth pair that was sent without a name the first free one.
    fn named(&self, mut spec: Spec) -> Spec {
        if let Spec::Veth(veth) = &mut spec
            && veth.name.is_unset()
        {
            let taken = &self.records[Kind::Veth as usize];
            let free = (0..=taken.len())
                .filter_map(|n| format!("veth{n}").parse().ok())
                .find(|name| !taken.contains_key(name));
            veth.name = free.unwrap_or_else(Name::unset);
        }
        spec
    }

    fn decide_put(
        &self,
        mut spec: Spec,
        now: Timestamp,
        new_uid: impl FnOnce() -> String,
    ) -> Result<Decision, Problem> {
        let resource = spec.resource();
        let current = self.get(&resource);
        self.complete(&mut spec, current.map(|record| &record.spec))?;
        if let Some(current) = current
            && current.spec == spec
        {
            return Ok(Decision { did: Did::Unchanged, resource, changes: Vec::new() });
        }
        self.check(&resource, &spec)?;
        let (did, record) = match current {
            Some(old) => {
                let mut applied = old.applied.clone();
                applied.push(old.spec.clone());
                (Did::Updated, Record { spec, generation: old.generation + 1, updated_at: now, applied, ..old.clone() })
            }
            None => (
                Did::Created,
                Record {
                    uid: new_uid(),
                    generation: 1,
                    created_at: now,
                    updated_at: now,
                    spec,
                    applied: Vec::new(),
                    prior: BTreeMap::new(),
                },
            ),
        };
        Ok(Decision { did, changes: vec![(resource.clone(), Some(record))], resource })
    }

    /// Fills in what the daemon chooses: device names; and keeps what is of creation only.
    fn complete(&self, spec: &mut Spec, current: Option<&Spec>) -> Result<(), Problem> {
        match (spec, current) {
            (Spec::Namespace(spec), Some(Spec::Namespace(current))) => {
                if spec.attach.is_some() && spec.attach != current.attach {
                    let detail = format!("namespace {} exists already: attach is for its creation only", spec.name);
                    return Err(FieldError::new(Code::InvalidField, "/attach", detail).into());
                }
                spec.attach.clone_from(&current.attach);
            }
            (Spec::Bridge(spec), _) if spec.interface.is_none() => spec.interface = spec.name.as_str().parse().ok(),
            (Spec::Veth(spec), current) => {
                let current = match current {
                    Some(Spec::Veth(current)) => Some(current),
                    _ => None,
                };
                self.name_ends(spec, current);
            }
            _ => {}
        }
        Ok(())
    }

    fn name_ends(&self, spec: &mut Veth, current: Option<&Veth>) {
        let resource = ResourceRef::new(Kind::Veth, spec.name.clone());
        for end in 0..2 {
            if spec.endpoints[end].interface.is_some() {
                continue;
            }
            let ns = Ns::of(spec.endpoints[end].namespace.as_ref());
            let kept = current.and_then(|current| current.endpoints[end].interface.clone());
            let other = &spec.endpoints[1 - end];
            let taken_by_other =
                |name: &InterfaceName| Ns::of(other.namespace.as_ref()) == ns && other.interface.as_ref() == Some(name);
            let free = |name: &InterfaceName| {
                !taken_by_other(name) && self.index.interface(&ns, name.as_str()).is_none_or(|owner| *owner == resource)
            };
            // One name more than there are claims is enough to find a free one.
            let automatic = || (0..).filter_map(|n: u32| format!("veth{n}").parse().ok()).find(|name| free(name));
            spec.endpoints[end].interface = kept.filter(free).or_else(automatic);
        }
    }

    fn check(&self, resource: &ResourceRef, spec: &Spec) -> Result<(), Problem> {
        match spec {
            Spec::Namespace(spec) => Ok(spec.check()?),
            Spec::Bridge(spec) => self.check_bridge(resource, spec),
            Spec::Veth(spec) => self.check_veth(resource, spec),
        }
    }

    fn check_bridge(&self, resource: &ResourceRef, spec: &Bridge) -> Result<(), Problem> {
        spec.check()?;
        self.check_namespace(spec.namespace.as_ref(), "/namespace")?;
        let ns = Ns::of(spec.namespace.as_ref());
        self.check_interface(resource, &ns, spec.device(), "/interface")?;
        for (i, address) in spec.addresses.iter().enumerate() {
            let pointer = format!("/addresses/{i}");
            self.check_address(resource, &ns, Some(&spec.name), address.0.addr(), &pointer)?;
        }
        // Ports stay in the bridge's namespace: they are moved first.
        for port in self.dependents(resource) {
            let Some(Spec::Veth(veth)) = self.get(&port).map(|record| &record.spec) else { continue };
            for end in veth.endpoints.iter().filter(|end| end.bridge.as_ref() == Some(&spec.name)) {
                if end.namespace != spec.namespace {
                    let detail =
                        format!("{port} is a port of it in {}: move that end first", Ns::of(end.namespace.as_ref()));
                    let error = FieldError::new(Code::InvalidField, "/namespace", detail);
                    return Err(Problem { resources: vec![port], ..Problem::from(error) });
                }
            }
        }
        Ok(())
    }

    fn check_veth(&self, resource: &ResourceRef, spec: &Veth) -> Result<(), Problem> {
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
                self.check_address(resource, &ns, segment, address.0.addr(), &at(&format!("addresses/{j}")))?;
            }
        }
        check_own_addresses(spec)
    }

    fn check_namespace(&self, namespace: Option<&Name>, pointer: &str) -> Result<(), Problem> {
        match namespace {
            Some(name) if !self.records[Kind::Namespace as usize].contains_key(name) => {
                let detail = format!("there is no namespace {name}: create it first");
                Err(FieldError::new(Code::UnknownReference, pointer, detail).into())
            }
            _ => Ok(()),
        }
    }

    fn check_bridge_of(&self, end: &Endpoint, bridge: &Name, pointer: &str) -> Result<(), Problem> {
        let Some(Spec::Bridge(found)) = self.records[Kind::Bridge as usize].get(bridge).map(|record| &record.spec)
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
            return Err(FieldError::new(Code::InvalidField, pointer, detail).into());
        }
        Ok(())
    }

    fn check_interface(&self, resource: &ResourceRef, ns: &Ns, device: &str, pointer: &str) -> Result<(), Problem> {
        match self.index.interface(ns, device) {
            Some(owner) if owner != resource => {
                let detail = format!("{ns} has an interface {device:?} already, of {owner}");
                let error = FieldError::new(Code::Duplicate, pointer, detail);
                Err(Problem { resources: vec![owner.clone()], ..Problem::from(error) })
            }
            _ => Ok(()),
        }
    }

    fn check_address(
        &self,
        resource: &ResourceRef,
        ns: &Ns,
        segment: Option<&Name>,
        address: IpAddr,
        pointer: &str,
    ) -> Result<(), Problem> {
        let mine = |owner: &&ResourceRef| *owner == resource;
        let in_ns = self.index.address(ns, address).filter(|owner| !mine(owner)).map(|owner| (owner, ns.to_string()));
        let on_bridge = segment.and_then(|bridge| {
            let owner = self.index.segment_address(bridge, address).filter(|owner| !mine(owner))?;
            Some((owner, format!("bridge {bridge}")))
        });
        match in_ns.or(on_bridge) {
            Some((owner, place)) => {
                let detail = format!("{address} is given twice in {place}: {owner} has it already");
                let error = FieldError::new(Code::Duplicate, pointer, detail);
                Err(Problem { resources: vec![owner.clone()], ..Problem::from(error) })
            }
            None => Ok(()),
        }
    }

    fn decide_delete(&self, resource: &ResourceRef, cascade: bool, now: Timestamp) -> Result<Decision, Problem> {
        let dependents = self.dependents(resource);
        if !dependents.is_empty() && !cascade {
            let names: Vec<String> = dependents.iter().map(ToString::to_string).collect();
            let it = match resource.kind {
                Kind::Bridge => "?cascade=true lets them go",
                _ => "?cascade=true deletes them too",
            };
            let detail = format!("{resource} is used by {}; {it}", names.join(", "));
            return Err(Problem { resources: dependents, ..Problem::new(Code::InUse, detail) });
        }
        let mut changes = Vec::new();
        match resource.kind {
            // A namespace takes its bridges and veths along; ports of its bridges are in it too.
            Kind::Namespace => changes.extend(dependents.into_iter().map(|other| (other, None))),
            // A bridge lets its ports go.
            Kind::Bridge => {
                for port in dependents {
                    let Some(old) = self.get(&port) else { continue };
                    changes.push((port, Some(release(old, &resource.name, now))));
                }
            }
            Kind::Veth => {}
        }
        changes.push((resource.clone(), None));
        Ok(Decision { did: Did::Deleted, resource: resource.clone(), changes })
    }
}

/// The veth without its ends' being ports of this bridge.
fn release(old: &Record, bridge: &Name, now: Timestamp) -> Record {
    let mut spec = old.spec.clone();
    if let Spec::Veth(veth) = &mut spec {
        for end in veth.endpoints.iter_mut().filter(|end| end.bridge.as_ref() == Some(bridge)) {
            end.bridge = None;
            end.port = netnsd_api::Port::default();
        }
    }
    let mut applied = old.applied.clone();
    applied.push(old.spec.clone());
    Record { spec, generation: old.generation + 1, updated_at: now, applied, ..old.clone() }
}

/// The bridge on whose segment an end's addresses are: its own, or the one that its other end is a port of.
fn segment(veth: &Veth, end: usize) -> Option<&Name> {
    veth.endpoints[end].bridge.as_ref().or(veth.endpoints[1 - end].bridge.as_ref())
}

fn check_own_addresses(veth: &Veth) -> Result<(), Problem> {
    let [a, b] = &veth.endpoints;
    let one_place = a.namespace == b.namespace || segment(veth, 0).is_some();
    for (i, address) in b.addresses.iter().enumerate().filter(|_| one_place) {
        let same = |other: &&netnsd_api::Cidr| other.0.addr() == address.0.addr();
        if a.addresses.iter().any(|other| same(&other)) && !netnsd_api::is_link_local(address.0.addr()) {
            let detail = format!("both ends have the address {}", address.0.addr());
            return Err(FieldError::new(Code::Duplicate, format!("/endpoints/1/addresses/{i}"), detail).into());
        }
    }
    Ok(())
}

fn not_found(resource: &ResourceRef) -> Problem {
    Problem::new(Code::NotFound, format!("there is no {resource}"))
}

fn check_preconditions(preconditions: &[Precondition], current: Option<&Record>) -> Result<(), Problem> {
    for precondition in preconditions {
        let holds = match (precondition, current) {
            (Precondition::Match(None), current) => current.is_some(),
            (Precondition::Match(Some(generations)), current) => {
                current.is_some_and(|record| generations.contains(&record.generation))
            }
            (Precondition::NoneMatch(None), current) => current.is_none(),
            (Precondition::NoneMatch(Some(generations)), current) => {
                current.is_none_or(|record| !generations.contains(&record.generation))
            }
        };
        if !holds {
            let now = current
                .map_or("it does not exist".to_owned(), |record| format!("its ETag is \"{}\"", record.generation));
            return Err(Problem::new(
                Code::PreconditionFailed,
                format!("the resource is not as the request expects: {now}"),
            ));
        }
    }
    Ok(())
}

/// The namespaces that a spec lives in.
pub fn namespaces_of(spec: &Spec) -> Vec<&Name> {
    match spec {
        Spec::Namespace(Namespace { name, .. }) => vec![name],
        Spec::Bridge(bridge) => bridge.namespace.iter().collect(),
        Spec::Veth(veth) => veth.endpoints.iter().filter_map(|end| end.namespace.as_ref()).collect(),
    }
}

/// The bridges that a spec's ends are ports of.
pub fn bridges_of(spec: &Spec) -> Vec<&Name> {
    match spec {
        Spec::Veth(veth) => veth.endpoints.iter().filter_map(|end| end.bridge.as_ref()).collect(),
        _ => Vec::new(),
    }
}

/// The resources that a spec refers to.
pub fn references(spec: &Spec) -> Vec<ResourceRef> {
    let namespaces = match spec {
        Spec::Namespace(_) => Vec::new(),
        other => namespaces_of(other),
    };
    let mut found: Vec<ResourceRef> = namespaces
        .into_iter()
        .map(|name| ResourceRef::new(Kind::Namespace, name.clone()))
        .chain(bridges_of(spec).into_iter().map(|name| ResourceRef::new(Kind::Bridge, name.clone())))
        .collect();
    found.sort();
    found.dedup();
    found
}

/// The devices that a spec claims.
pub fn interfaces(spec: &Spec) -> Vec<(Ns, String)> {
    match spec {
        Spec::Namespace(_) => Vec::new(),
        Spec::Bridge(bridge) => vec![(Ns::of(bridge.namespace.as_ref()), bridge.device().to_owned())],
        Spec::Veth(veth) => {
            veth.endpoints.iter().map(|end| (Ns::of(end.namespace.as_ref()), end.device().to_owned())).collect()
        }
    }
}
