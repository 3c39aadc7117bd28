//! Requests that were not carried out, counted: the audit log has them, and whoever repeats them
//! does not fill it.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use netnsd_api::AuditEntry;

/// Time in which refusals that are alike become two entries: the first one's, and one for the rest.
const WINDOW: Duration = Duration::from_secs(60);
/// Kinds of refusals that one source may have in a window; further ones are told apart by their
/// status only.
const SHARE: usize = 32;
/// The same of all sources together; then sources are not told apart either.
const KINDS: usize = 1024;
/// Stands for everything that was not told apart.
const ANYTHING: &str = "…";

/// The refused caller, if that is known, and the place that the request came from, without a port.
type Source = (Option<String>, String);

/// Refusals of one kind; `None` where it is not told apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    source: Option<Source>,
    /// Method and path.
    target: Option<(String, String)>,
    status: u16,
}

/// Counts refusals, by what they are, in windows of [`WINDOW`].
#[derive(Debug, Default)]
pub struct Refusals {
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    /// When it ends; none before the first one.
    end: Option<Instant>,
    /// The kinds whose first refusal is recorded, or being recorded, with the entry of the rest.
    kinds: HashMap<Kind, Option<AuditEntry>>,
    /// Number of kinds that each source has.
    sources: HashMap<Source, usize>,
    /// True if any has a rest.
    has_rests: bool,
}

impl Refusals {
    /// Counts a refusal that came from this place, and returns true; or false for the first of its
    /// kind, which is to be recorded by itself.
    pub fn count(&self, entry: &AuditEntry, place: &str) -> bool {
        let mut window = self.lock();
        let now = Instant::now();
        if window.end.is_none_or(|end| end <= now) && !window.has_rests {
            *window = Window {
                end: Some(now + WINDOW),
                ..Window::default()
            };
        }
        let kind = window.kind_of(entry, place);
        if window.kinds.contains_key(&kind) {
            window.add(kind, entry.clone());
            return true;
        }
        window.begin(kind);
        false
    }

    /// Counts a refusal that could not be recorded by itself.
    pub fn add(&self, entry: AuditEntry, place: &str) {
        let mut window = self.lock();
        let kind = window.kind_of(&entry, place);
        window.add(kind, entry);
    }

    /// Returns when entries are due; none if nothing was counted.
    pub fn due_at(&self) -> Option<Instant> {
        let window = self.lock();
        window.end.filter(|_| window.has_rests)
    }

    /// Takes the entries that are due, which begins a new window.
    pub fn take_due(&self) -> Vec<AuditEntry> {
        let mut window = self.lock();
        if !window.has_rests || window.end.is_some_and(|end| end > Instant::now()) {
            return Vec::new();
        }
        let mut due: Vec<AuditEntry> = std::mem::take(&mut *window)
            .kinds
            .into_values()
            .flatten()
            .collect();
        due.sort_by(|one, other| one.time.cmp(&other.time));
        due
    }

    /// Counts again what was taken and could not be recorded.
    pub fn put_back(&self, entries: Vec<AuditEntry>) {
        for entry in entries {
            let place = entry.from.clone();
            self.add(entry, &place);
        }
    }

    /// Ends the window: what it has is due.
    pub fn end_window(&self) {
        self.lock().end = None;
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    /// Returns the kind that a refusal is of, or the wider one where there are too many.
    fn kind_of(&self, entry: &AuditEntry, place: &str) -> Kind {
        let source = (entry.caller.clone(), place.to_owned());
        let has_room = self.sources.get(&source).is_none_or(|kinds| *kinds < SHARE)
            && self.kinds.len() < KINDS;
        let target = Some((entry.method.clone(), entry.path.clone()));
        let exact = Kind {
            source: Some(source),
            target,
            status: entry.status,
        };
        if has_room || self.kinds.contains_key(&exact) {
            return exact;
        }
        let of_source = Kind {
            target: None,
            ..exact
        };
        if self.kinds.len() < KINDS || self.kinds.contains_key(&of_source) {
            return of_source;
        }
        Kind {
            source: None,
            ..of_source
        }
    }

    fn begin(&mut self, kind: Kind) {
        if let Some(source) = &kind.source {
            *self.sources.entry(source.clone()).or_default() += 1;
        }
        self.kinds.insert(kind, None);
    }

    /// Adds an entry to the rest of its kind, which tells of the last one.
    fn add(&mut self, kind: Kind, entry: AuditEntry) {
        if !self.kinds.contains_key(&kind) {
            self.begin(kind.clone());
        }
        self.end.get_or_insert_with(|| Instant::now() + WINDOW);
        self.has_rests = true;
        let (caller, from) = match &kind.source {
            Some((caller, place)) => (caller.clone(), place.clone()),
            None => (None, ANYTHING.to_owned()),
        };
        let role = entry.role.filter(|_| kind.source.is_some());
        let (method, path) = match &kind.target {
            Some(target) => target.clone(),
            None => (ANYTHING.to_owned(), ANYTHING.to_owned()),
        };
        if let Some(rest) = self.kinds.get_mut(&kind) {
            let count = entry.count + rest.as_ref().map_or(0, |rest| rest.count);
            *rest = Some(AuditEntry {
                caller,
                role,
                from,
                method,
                path,
                count,
                argv: None,
                ..entry
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(caller: &str, path: &str) -> AuditEntry {
        AuditEntry {
            id: 0,
            time: "2026-11-29T00:00:00Z".into(),
            caller: Some(caller.into()),
            role: None,
            from: "192.0.2.1:99".into(),
            method: "PUT".into(),
            path: path.into(),
            argv: None,
            status: 403,
            count: 1,
            request_id: String::new(),
        }
    }

    /// Sends refusals, and returns how many were recorded by themselves and the entries of the
    /// rest.
    fn send(
        refusals: &Refusals,
        entries: impl Iterator<Item = AuditEntry>,
    ) -> (u64, Vec<AuditEntry>) {
        let first = entries
            .filter(|entry| !refusals.count(entry, "192.0.2.1"))
            .count() as u64;
        assert!(refusals.take_due().is_empty(), "the window is open");
        refusals.end_window();
        (first, refusals.take_due())
    }

    #[test]
    fn repeated_refusals_become_two_entries() {
        let refusals = Refusals::default();
        let (first, rest) = send(&refusals, (0..1000).map(|_| entry("red", "/v1/x")));
        assert_eq!(
            (first, rest.len(), rest[0].count, &*rest[0].from),
            (1, 1, 999, "192.0.2.1")
        );
        // An unrecorded rest is counted on; so is a first one.
        refusals.put_back(rest);
        refusals.add(entry("red", "/v1/x"), "192.0.2.1");
        assert!(refusals.count(&entry("red", "/v1/x"), "192.0.2.1") && refusals.due_at().is_some());
        refusals.end_window();
        assert_eq!(refusals.take_due()[0].count, 1001);
        assert!(
            refusals.due_at().is_none() && !refusals.count(&entry("red", "/v1/x"), "192.0.2.1")
        );
    }

    #[test]
    fn source_has_a_share_and_all_have_a_bound() {
        let refusals = Refusals::default();
        let (first, rest) = send(
            &refusals,
            (0..1000).map(|i| entry("red", &format!("/v1/{i}"))),
        );
        assert_eq!(
            (first, rest.len(), rest[0].count),
            (SHARE as u64 + 1, 1, 999 - SHARE as u64)
        );
        assert_eq!(
            (rest[0].caller.as_deref(), &*rest[0].path, &*rest[0].method),
            (Some("red"), "…", "…")
        );
        let (first, rest) = send(
            &refusals,
            (0..5000).map(|i| entry(&format!("uid {i}"), "/v1/x")),
        );
        assert_eq!(
            (first, rest.len(), rest[0].count),
            (KINDS as u64 + 1, 1, 5000 - 1 - KINDS as u64)
        );
        assert_eq!((&rest[0].caller, &*rest[0].from), (&None, "…"));
    }
}
