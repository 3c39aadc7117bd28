//! Taking down how things stand: states, events, what is tried again, what readers see.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use netnsd_api::{Code, EventType, FieldError, Kind, Problem, ResourceRef, State, is_link_local};
use nix::errno::Errno;
use serde_json::json;

use super::{
    core::{Again, Core},
    status::{self, Standing},
    work::{Passed, Work},
};
use crate::{
    kernel::{Announcement, Kernel, Ns, Observed, Op, OpError, WatchChange, ownership},
    model::{Record, Spec},
    plan::{self, Verdict},
    store::RowChange,
};

/// Why a piece of work was done.
#[derive(Debug)]
pub(super) enum Cause {
    /// These resources were changed by writes, those were refused and are taken back next.
    Write {
        changed: BTreeSet<ResourceRef>,
        refused: BTreeSet<ResourceRef>,
    },
    /// Refused writes are taken back.
    Undo,
    /// A pass at boot, for a retry, for a repair.
    Pass,
}

impl<K: Kernel> Core<K> {
    /// Takes down how everything of a piece of work stands now.
    pub(super) fn settle(&mut self, work: &Work, passed: &Passed, cause: &Cause) {
        let mut gone = Vec::new();
        let mut settled = BTreeSet::new();
        for resource in work.parts.keys() {
            if matches!(cause, Cause::Write { refused, .. } if refused.contains(resource)) {
                continue;
            }
            settled.insert(resource);
            // What may still be there is not forgotten.
            let left = passed.failures.contains_key(resource) || passed.unseen.contains(resource);
            if !left {
                self.clear_gone(resource);
            }
            if self.intent.get(resource).is_none() {
                self.standings.remove(resource);
                self.drift.forget(resource);
                gone.push(resource.clone());
                if left {
                    self.retry_later(resource);
                } else {
                    self.retries.remove(resource);
                }
                continue;
            }
            let standing = standing_of(resource, passed);
            if !left && matches!(standing.state, State::InSync | State::Pending) {
                self.clear_leftovers(resource, passed);
            }
            if !left && standing.state == State::InSync {
                self.retries.remove(resource);
            } else {
                self.retry_later(resource);
            }
            let lasts = self
                .intent
                .get(resource)
                .and_then(|record| plan::lasting(&record.spec, &record.applied))
                .is_some();
            self.drift.follow_ports(
                resource,
                lasts.then(|| self.intent.spec(resource)).flatten(),
            );
            self.tell(resource, &standing, passed, cause);
            self.standings.insert(resource.clone(), standing);
        }
        self.watch(settled.iter().copied(), passed);
        // Notifications of a new namespace are missed until it is subscribed to.
        for resource in settled.iter().copied().filter(|resource| {
            passed
                .done
                .get(*resource)
                .is_some_and(|done| makes_namespace(done))
        }) {
            if let Some(Spec::Namespace(spec)) = self.intent.spec(resource)
                && spec
                    .sysctls
                    .keys()
                    .any(|key| key.is_ipv6() && key.interface().is_some())
            {
                self.drift.mark(resource.clone());
            }
        }
        self.view.publish(Vec::new(), &gone);
        self.publish(settled.into_iter().chain(&work.looked_at), &passed.observed);
        // At boot everything is made, and nothing about it is news.
        if self.view.ready() {
            self.unannounced.extend(passed.remade.iter().cloned());
        }
        self.announce_remade(&passed.observed);
    }

    /// Announces the addresses of what was made again or moved, once its links have carrier.
    fn announce_remade(&mut self, observed: &Observed) {
        if self.unannounced.is_empty() {
            return;
        }
        let mut announcements = Vec::new();
        let intent = &self.intent;
        self.unannounced.retain(|resource| {
            let Some(spec) = intent.spec(resource) else {
                return false;
            };
            let links = spec.devices().into_iter();
            let found: Option<Vec<Announcement>> = links
                .map(|(ns, name)| announcement(ns, name, observed))
                .collect();
            announcements.extend(
                found
                    .iter()
                    .flatten()
                    .filter(|link| !link.addresses.is_empty())
                    .cloned(),
            );
            found.is_none()
        });
        self.kernel.announce(&announcements);
    }

    /// The event, if any, that a resource stands as it does now.
    fn tell(&mut self, resource: &ResourceRef, now: &Standing, passed: &Passed, cause: &Cause) {
        let before = self.standings.get(resource);
        let done = passed.done.get(resource);
        let changed = matches!(cause, Cause::Write { changed, .. } if changed.contains(resource));
        let (what, detail) = match now.state {
            State::InSync | State::Pending => {
                let what = match before.map(|standing| standing.state) {
                    _ if changed => EventType::Applied,
                    Some(State::Failed | State::Conflict) => EventType::Applied,
                    Some(State::Pending) if now.state == State::InSync => EventType::Applied,
                    Some(State::Drifted) => EventType::Repaired,
                    Some(State::InSync | State::Pending)
                        if matches!(cause, Cause::Pass) && done.is_some() =>
                    {
                        EventType::Repaired
                    }
                    None if done.is_some() => EventType::Applied,
                    _ => return,
                };
                let detail = match (what, now.state) {
                    (EventType::Repaired, _) => json!({"operations": done}),
                    (_, State::Pending) => json!({"state": now.state, "reason": now.reason}),
                    _ => json!({}),
                };
                (what, detail)
            }
            _ if before == Some(now) => return,
            _ => {
                let reason = now.reason.as_deref().unwrap_or_default();
                tracing::warn!(%resource, reason, "not as it was asked to be");
                (
                    EventType::Failed,
                    json!({"state": now.state, "reason": now.reason}),
                )
            }
        };
        let uid = self.intent.get(resource).map(|record| record.uid.as_str());
        self.journal
            .add(what, resource.kind, &resource.name, uid, detail);
    }

    /// Listens in namespaces that are asked for and there, and in no others.
    fn watch<'a>(&mut self, resources: impl IntoIterator<Item = &'a ResourceRef>, passed: &Passed) {
        let mut changes = Vec::new();
        for resource in resources
            .into_iter()
            .filter(|resource| resource.kind == Kind::Namespace)
        {
            let ns = Ns::Named(resource.name.clone());
            let seen = passed
                .observed
                .namespaces
                .get(&ns)
                .map(|inside| inside.inode)
                .filter(|inode| *inode != 0);
            let tagged = passed
                .observed
                .namespaces
                .get(&ns)
                .and_then(|inside| inside.owner_tag.as_deref());
            let tag = |record: &Record| ownership::owner_tag(resource, None, &record.uid);
            let is_ours =
                |record: &Record| tagged.is_some_and(|now| ownership::current(now) == tag(record));
            let ours = self.intent.get(resource).is_some_and(is_ours);
            changes.push(match seen.filter(|_| ours) {
                Some(inode) => WatchChange::Add {
                    ns,
                    inode: Some(inode),
                },
                None => WatchChange::Remove(ns),
            });
        }
        self.kernel.watch(changes);
    }

    /// What was deleted is out of the kernel: its row goes.
    fn clear_gone(&mut self, resource: &ResourceRef) {
        let done: Vec<String> = self
            .gone_of(resource)
            .map(|(uid, _)| uid.to_owned())
            .collect();
        for uid in done {
            self.gone.remove(&(resource.clone(), uid.clone()));
            self.confirmations
                .insert(uid.clone(), RowChange::Delete(uid));
        }
    }

    /// Nothing of earlier intents is left in the kernel but what lasts as long as the device, and
    /// nothing to take over.
    fn clear_leftovers(&mut self, resource: &ResourceRef, passed: &Passed) {
        let Some(record) = self.intent.get(resource) else {
            return;
        };
        let is_new = passed
            .done
            .get(resource)
            .is_some_and(|done| done.contains(&"bridge_add"));
        let lasting = if is_new {
            None
        } else {
            plan::lasting(&record.spec, &record.applied)
        };
        if record.applied.iter().eq(&lasting) && !record.adopt && !record.keep_macs {
            return;
        }
        let Some(left) = self.intent.leftovers_mut(resource) else {
            return;
        };
        *left.applied = lasting.into_iter().collect();
        *left.adopt = false;
        *left.keep_macs = false;
        self.confirm(resource);
    }

    pub(super) fn retry_later(&mut self, resource: &ResourceRef) {
        let tries = self
            .retries
            .get(resource)
            .map_or(0, |again| again.tries + 1);
        // 1 s, 2 s, 4 s, … 64 s.
        let delay = Duration::from_secs(1 << tries.min(6));
        self.retries.insert(
            resource.clone(),
            Again {
                at: Instant::now() + delay,
                tries,
            },
        );
    }

    /// Makes readers see what was observed of these resources.
    pub(super) fn publish<'a>(
        &mut self,
        resources: impl IntoIterator<Item = &'a ResourceRef>,
        observed: &Observed,
    ) {
        let mut entries = Vec::new();
        for resource in resources {
            let Some(record) = self.intent.get(resource) else {
                continue;
            };
            let standing = self
                .standings
                .get(resource)
                .cloned()
                .unwrap_or_else(Standing::in_sync);
            entries.push(status::entry(record, &standing, observed));
            self.drift.learn(resource, &record.spec, observed);
        }
        self.view.publish(entries, &[]);
    }
}

/// The announcement of a link's addresses; none before they can be used. Link-local ones of the
/// kernel's are not meant: they may still be looked for twice.
fn announcement(ns: Ns, name: String, observed: &Observed) -> Option<Announcement> {
    let link = observed.link(&ns, &name)?;
    let meant = link
        .addresses
        .iter()
        .filter(|known| known.is_ours() || !is_link_local(known.net.addr()));
    let addresses: Vec<IpAddr> = meant.map(|known| known.net.addr()).collect();
    let is_ready = addresses.is_empty() || link.up && link.carrier;
    let mac = link.mac.filter(|_| is_ready)?;
    Some(Announcement {
        ns,
        name,
        index: link.index,
        mac,
        addresses,
    })
}

/// Returns true if one of the operations makes a namespace.
fn makes_namespace(operations: &[&str]) -> bool {
    operations
        .iter()
        .any(|operation| matches!(*operation, "namespace_add" | "namespace_attach"))
}

fn standing_of(resource: &ResourceRef, passed: &Passed) -> Standing {
    let (state, reason) = match (passed.failures.get(resource), passed.verdicts.get(resource)) {
        (Some((op, error)), _) => (State::Failed, refusal(resource, op, error).detail),
        (_, Some(Verdict::Conflict { reason, .. })) => (State::Conflict, reason.clone()),
        (_, Some(Verdict::Pending(reason))) => (State::Pending, reason.clone()),
        (None, None) => return Standing::in_sync(),
    };
    Standing {
        state,
        reason: Some(reason),
    }
}

/// The kernel's refusal as a problem.
pub(super) fn refusal(resource: &ResourceRef, op: &Op, error: &OpError) -> Problem {
    let code = match error.errno {
        Errno::EEXIST | Errno::EBUSY => Code::Conflict,
        Errno::UnknownErrno | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT => {
            Code::UnsupportedByKernel
        }
        Errno::ENOMEM | Errno::ENOBUFS | Errno::EMFILE | Errno::ENFILE | Errno::ENOTCONN => {
            Code::KernelUnavailable
        }
        _ => Code::KernelRejected,
    };
    if let Some((_, key)) = op.written_sysctl() {
        let is_mistaken = matches!(error.errno, Errno::ENOENT | Errno::EACCES | Errno::EPERM)
            && error.message.is_some();
        let code = if is_mistaken {
            Code::InvalidField
        } else {
            code
        };
        if error.errno != Errno::UnknownErrno {
            let detail = format!("sysctl {key} of {resource}: {error}");
            return Problem {
                op: Some(op.label().into()),
                errno: Some(format!("{:?}", error.errno)),
                ..Problem::from(FieldError::at(code, &["sysctls", key.as_str()], detail))
            };
        }
    }
    let what = format!("{} of {resource} in {}", op.label(), op.ns());
    if error.errno == Errno::UnknownErrno {
        let detail = format!("{what}: this kernel takes it without an error and does not keep it");
        return Problem {
            op: Some(op.label().into()),
            ..Problem::new(code, detail)
        };
    }
    Problem {
        op: Some(op.label().into()),
        errno: Some(format!("{:?}", error.errno)),
        kernel_message: error.message.clone(),
        ..Problem::new(code, format!("the kernel refused {what}: {error}"))
    }
}
