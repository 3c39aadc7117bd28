//! Creating namespaces: ahead of time without a name, and the named ones of a batch by two threads.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use netnsd_api::Name;

use super::{
    file::{NetnsFile, open_netns, pin},
    switch::{NamespaceSwitcher, NsConnection},
};
use crate::{
    Error, Ns,
    helper_thread::{HelperThread, WorkQueue},
    link::{self, LinkId},
};

/// Namespaces without a name that the helper thread creates, while what they are for is recorded.
#[derive(Debug)]
pub struct NamespacePool {
    created: mpsc::Receiver<NsConnection>,
    stop: Arc<AtomicBool>,
}

impl NamespacePool {
    /// Makes the helper thread create namespaces, at most `max`.
    pub fn request(helper: &HelperThread, max: usize) -> Self {
        let (sender, created) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        helper.spawn(move |switcher| {
            for _ in 0..max {
                // The batch creates what is missing here, and reports why that fails.
                let Ok(namespace) = switcher.new_namespace() else {
                    break;
                };
                if sender.send(namespace).is_err() || stopped.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        Self { created, stop }
    }

    /// Stops, and returns the namespaces that were created.
    pub fn into_ready(self) -> Vec<NsConnection> {
        self.stop.store(true, Ordering::Relaxed);
        self.created.iter().collect()
    }
}

/// Creates a namespace, and gives its `lo` an alternative name before it is pinned: a namespace
/// that can be seen has one. Returns a connection into it, or `None` if it exists with that
/// alternative name.
///
/// # Errors
/// [`Error::NameInUse`] if another namespace has the name, and what the kernel refuses.
pub fn create_namespace(
    switcher: &mut NamespaceSwitcher,
    name: &Name,
    altname: &str,
) -> Result<Option<NsConnection>, Error> {
    if matches!(open_netns(name.as_str())?, NetnsFile::Namespace(_)) {
        let lo = switcher
            .connection(&Ns::Named(name.clone()))?
            .route
            .get(link::get_link(LinkId::Name("lo")))?;
        return if link::has_altname(&lo, altname) {
            Ok(None)
        } else {
            Err(Error::NameInUse)
        };
    }
    let namespace = switcher.new_namespace()?;
    pin_with_altname(&namespace, name, altname)?;
    Ok(Some(namespace))
}

/// Gives the `lo` of a namespace an alternative name, and pins the namespace.
///
/// # Errors
/// The kernel's refusal, such as EEXIST for an alternative name that is there.
pub fn pin_with_altname(namespace: &NsConnection, name: &Name, altname: &str) -> Result<(), Error> {
    namespace.route.send(link::add_altname("lo", altname), 0)?;
    pin(name.as_str(), &namespace.ns)
}

/// A namespace to create: its name, and the alternative name of its `lo`.
type NewNamespace = (Name, String);

/// A connection into a new namespace; `None` if it existed.
type Created = Result<Option<NsConnection>, Error>;

/// The namespaces that a batch creates. Two threads create them, while links are created in those
/// that exist: a thread that needs one that nobody has begun creates the next one.
#[derive(Debug)]
pub(super) struct BatchCreation {
    queue: Arc<WorkQueue<NewNamespace>>,
    created: mpsc::Receiver<(usize, Created)>,
    positions: BTreeMap<Ns, usize>,
    /// `None` for those that are not created yet.
    outcomes: Vec<Option<Result<(), Error>>>,
    pending: usize,
}

impl BatchCreation {
    /// Starts on the helper thread.
    pub fn begin(helper: &HelperThread, new: Vec<NewNamespace>) -> Self {
        let positions = new
            .iter()
            .enumerate()
            .map(|(position, (name, _))| (Ns::Named(name.clone()), position))
            .collect();
        let (outcomes, pending) = (vec![None; new.len()], new.len());
        let queue = WorkQueue::new(new);
        let (sender, created) = mpsc::channel();
        let shared = queue.clone();
        helper.spawn(move |switcher| {
            while let Some((position, (name, altname))) = shared.take() {
                let created = create_namespace(switcher, name, altname);
                if sender.send((position, created)).is_err() {
                    break;
                }
            }
            switcher.release();
        });
        Self {
            queue,
            created,
            positions,
            outcomes,
            pending,
        }
    }

    /// Returns true if a namespace is still to be created.
    pub fn is_pending(&self, ns: &Ns) -> bool {
        self.positions
            .get(ns)
            .is_some_and(|position| self.outcomes[*position].is_none())
    }

    /// Returns why a namespace was not created: what else has its name is not this batch's.
    pub fn failed(&self, ns: &Ns) -> Option<Error> {
        self.outcomes[*self.positions.get(ns)?]
            .as_ref()?
            .as_ref()
            .err()
            .cloned()
    }

    /// Returns the number of namespaces that are still to be created.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Takes one that the helper thread has created, or creates the next one here, or waits for the
    /// one that the helper thread is at. Returns the connection, if it is new.
    pub fn advance(&mut self, switcher: &mut NamespaceSwitcher) -> Option<(Ns, NsConnection)> {
        let next = self.created.try_recv().ok().or_else(|| {
            let (position, (name, altname)) = self.queue.take()?;
            Some((position, create_namespace(switcher, name, altname)))
        });
        let Some((position, created)) = next.or_else(|| self.created.recv().ok()) else {
            self.fail_pending();
            return None;
        };
        let (outcome, connection) = match created {
            Ok(connection) => (Ok(()), connection),
            Err(error) => (Err(error), None),
        };
        self.outcomes[position] = Some(outcome);
        self.pending -= 1;
        Some((Ns::Named(self.queue.items[position].0.clone()), connection?))
    }

    /// The helper thread's job panicked, and with it what it had begun.
    fn fail_pending(&mut self) {
        for outcome in &mut self.outcomes {
            outcome.get_or_insert(Err(Error::Panicked));
        }
        self.pending = 0;
    }

    /// Returns the outcome of each, once none is pending.
    pub fn into_outcomes(self) -> Vec<Result<(), Error>> {
        self.outcomes.into_iter().flatten().collect()
    }
}
