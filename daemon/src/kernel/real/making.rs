//! Namespaces in the making: another thread makes one after the other, while links are made in
//! those that are there already.
//!
//! Whoever needs one that nobody has begun yet begins the next one itself, so that neither thread
//! stands still.

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc},
};

use netnsd_api::Name;
use nix::errno::Errno;

use super::{
    execute::add_namespace,
    local::{Local, Open},
    worker::{Queue, Worker},
};
use crate::kernel::{Ns, OpError, Outcome};

/// A name, and the owner tag of what is to have it.
pub(super) type New = (Name, String);

/// A connection into it, if it is new.
type Made = Result<Option<Open>, OpError>;

/// Those that one piece of work makes, in their order.
#[derive(Debug)]
pub(super) struct Making {
    queue: Arc<Queue<New>>,
    made: mpsc::Receiver<(usize, Made)>,
    places: BTreeMap<Ns, usize>,
    /// None for those that are not made yet.
    outcomes: Vec<Option<Outcome>>,
    /// How many that are.
    left: usize,
}

impl Making {
    /// Has another thread begin.
    pub fn begin(other: &Worker, new: Vec<New>) -> Self {
        let places = new
            .iter()
            .enumerate()
            .map(|(place, (name, _))| (Ns::Named(name.clone()), place))
            .collect();
        let (outcomes, left) = (vec![None; new.len()], new.len());
        let queue = Queue::new(new);
        let (tell, made) = mpsc::channel();
        let theirs = queue.clone();
        other.begin(move |local| {
            while let Some((place, (name, owner_tag))) = theirs.take() {
                if tell
                    .send((place, add_namespace(local, name, owner_tag)))
                    .is_err()
                {
                    break;
                }
            }
            local.rest();
        });
        Self {
            queue,
            made,
            places,
            outcomes,
            left,
        }
    }

    /// Whether a namespace is still to be made.
    pub fn lacks(&self, ns: &Ns) -> bool {
        self.places
            .get(ns)
            .is_some_and(|place| self.outcomes[*place].is_none())
    }

    /// Why a namespace was not made. Whatever else has its name is none of this work's.
    pub fn refusal(&self, ns: &Ns) -> Option<OpError> {
        self.outcomes[*self.places.get(ns)?]
            .as_ref()?
            .as_ref()
            .err()
            .cloned()
    }

    /// How many are still to be made.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Goes on by one: what the other thread has made, or the next one, made here, or else what the
    /// other thread is making. A connection into it, if there is one.
    pub fn go_on(&mut self, local: &mut Local) -> Option<(Ns, Open)> {
        let next = self.made.try_recv().ok().or_else(|| {
            let (place, (name, owner_tag)) = self.queue.take()?;
            Some((place, add_namespace(local, name, owner_tag)))
        });
        let Some((place, made)) = next.or_else(|| self.made.recv().ok()) else {
            // The other thread is gone, and with it what it had begun.
            let lost = || Some(Err(Errno::ESRCH.into()));
            self.outcomes
                .iter_mut()
                .filter(|outcome| outcome.is_none())
                .for_each(|outcome| *outcome = lost());
            self.left = 0;
            return None;
        };
        let (outcome, open) = match made {
            Ok(open) => (Ok(()), open),
            Err(error) => (Err(error), None),
        };
        self.outcomes[place] = Some(outcome);
        self.left -= 1;
        Some((Ns::Named(self.queue.things[place].0.clone()), open?))
    }

    /// What came of each, once all are made.
    pub fn into_outcomes(self) -> Vec<Outcome> {
        self.outcomes.into_iter().flatten().collect()
    }
}
