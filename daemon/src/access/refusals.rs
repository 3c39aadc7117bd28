//! Counts requests that were refused or failed: repeated ones become one audit entry with a count,
//! so that a client cannot fill the audit log.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use netnsd_api::AuditEntry;

/// Time in which refusals of one kind become two entries: the first one's, and one for the rest.
const WINDOW: Duration = Duration::from_secs(60);
/// Kinds that one source may have in a window; its further refusals are distinguished by status
/// only.
const MAX_OF_SOURCE: usize = 32;
/// Kinds that all sources together may have in a window; then sources are not distinguished either.
const MAX_KINDS: usize = 1024;
/// Text of a field that differs between the counted refusals.
const VARIOUS: &str = "…";

/// The refused caller, if it was authenticated, and the network or socket of the request.
type Source = (Option<String>, String);

/// Refusals that are counted together; `None` where they may differ.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    source: Option<Source>,
    /// Method and path.
    target: Option<(String, String)>,
    status: u16,
}

/// Counts refusals by kind, in windows of [`WINDOW`].
#[derive(Debug, Default)]
pub struct Refusals {
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    /// Its end; `None` before the first refusal.
    end: Option<Instant>,
    /// Kinds whose first refusal is recorded, or being recorded, with the entry of the others.
    kinds: HashMap<Kind, Option<AuditEntry>>,
    /// Number of kinds of each source.
    sources: HashMap<Source, usize>,
    /// True if any kind has an entry of others.
    has_rests: bool,
}

impl Refusals {
    /// Counts a refusal of a request from this network or socket, and returns true. Returns false
    /// for the first of its kind, which the caller records itself.
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

    /// Counts a first refusal that could not be recorded.
    pub fn add(&self, entry: AuditEntry, place: &str) {
        let mut window = self.lock();
        let kind = window.kind_of(&entry, place);
        window.add(kind, entry);
    }

    /// Returns the time at which entries are due; `None` if nothing was counted.
    pub fn due_at(&self) -> Option<Instant> {
        let window = self.lock();
        window.end.filter(|_| window.has_rests)
    }

    /// Takes the entries that are due, and begins a new window.
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

    /// Counts entries again that were taken and could not be recorded.
    pub fn put_back(&self, entries: Vec<AuditEntry>) {
        for entry in entries {
            let place = entry.from.clone();
            self.add(entry, &place);
        }
    }

    /// Ends the window: its entries are due.
    pub fn end_window(&self) {
        self.lock().end = None;
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    /// Returns the kind of a refusal, or a wider one if there are too many kinds.
    fn kind_of(&self, entry: &AuditEntry, place: &str) -> Kind {
        let source = (entry.caller.clone(), place.to_owned());
        let of_source = self.sources.get(&source).copied().unwrap_or_default();
        let has_room = of_source < MAX_OF_SOURCE && self.kinds.len() < MAX_KINDS;
        let target = Some((entry.method.clone(), entry.path.clone()));
        let exact = Kind {
            source: Some(source),
            target,
            status: entry.status,
        };
        if has_room || self.kinds.contains_key(&exact) {
            return exact;
        }
        let wider = Kind {
            target: None,
            ..exact
        };
        if self.kinds.len() < MAX_KINDS || self.kinds.contains_key(&wider) {
            return wider;
        }
        Kind {
            source: None,
            ..wider
        }
    }

    fn begin(&mut self, kind: Kind) {
        if let Some(source) = &kind.source {
            *self.sources.entry(source.clone()).or_default() += 1;
        }
        self.kinds.insert(kind, None);
    }

    /// Adds a refusal to the entry of others of its kind, which has the fields of the last one.
    fn add(&mut self, kind: Kind, entry: AuditEntry) {
        if !self.kinds.contains_key(&kind) {
            self.begin(kind.clone());
        }
        self.end.get_or_insert_with(|| Instant::now() + WINDOW);
        self.has_rests = true;
        let (caller, from) = match &kind.source {
            Some((caller, place)) => (caller.clone(), place.clone()),
            None => (None, VARIOUS.to_owned()),
        };
        let role = entry.role.filter(|_| kind.source.is_some());
        let (method, path) = match &kind.target {
            Some(target) => target.clone(),
            None => (VARIOUS.to_owned(), VARIOUS.to_owned()),
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

    /// Counts refusals; returns the number of first ones, and the entries of the others.
    fn send(
        refusals: &Refusals,
        entries: impl Iterator<Item = AuditEntry>,
    ) -> (u64, Vec<AuditEntry>) {
        let first = entries
            .filter(|entry| !refusals.count(entry, "192.0.2.1"))
            .count() as u64;
        assert!(
            refusals.take_due().is_empty(),
            "no entry is due before the window ends"
        );
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
        // Entries that could not be recorded are counted on.
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
    fn kinds_are_bounded_by_source_and_in_total() {
        let refusals = Refusals::default();
        let (first, rest) = send(
            &refusals,
            (0..1000).map(|i| entry("red", &format!("/v1/{i}"))),
        );
        assert_eq!(
            (first, rest.len(), rest[0].count),
            (MAX_OF_SOURCE as u64 + 1, 1, 999 - MAX_OF_SOURCE as u64)
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
            (MAX_KINDS as u64 + 1, 1, 5000 - 1 - MAX_KINDS as u64)
        );
        assert_eq!((&rest[0].caller, &*rest[0].from), (&None, "…"));
    }
}
