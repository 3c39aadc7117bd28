//! Queue of writes: bounded, with a share for each caller, served round robin.
//!
//! **Invariant:** the writes of one caller stay in their order, and no caller can keep the others
//! from being served.

use std::collections::VecDeque;

use netnsd_api::Role;

use super::{QUEUE_CAPACITY, QueuedWrite, WriteError};
use crate::{
    access::Caller,
    shares::{LimitReached, Shares, Slot},
};

/// Writes of one caller that may wait at once; admins may fill the queue.
pub(super) const CALLER_SHARE: usize = QUEUE_CAPACITY / 4;
/// Places beside the queue, for admins only.
pub(super) const ADMIN_RESERVE: usize = QUEUE_CAPACITY / 8;

/// Reserves a place in the queue for a write of a caller.
///
/// # Errors
/// If the caller has its share already or all places are taken.
pub(super) fn reserve_place(
    places: &Shares<String>,
    caller: &Caller,
) -> Result<Slot<String>, WriteError> {
    let is_admin = caller.role == Role::Admin;
    let (share, most) = if is_admin {
        (
            QUEUE_CAPACITY + ADMIN_RESERVE,
            QUEUE_CAPACITY + ADMIN_RESERVE,
        )
    } else {
        (CALLER_SHARE, QUEUE_CAPACITY)
    };
    places
        .acquire(caller.name.clone(), share, most)
        .map_err(|full| match full {
            LimitReached::Total(pending) => WriteError::QueueFull { pending },
            LimitReached::Holder(pending) => WriteError::ShareFull {
                caller: caller.name.clone(),
                pending,
            },
        })
}

/// Waiting writes, by caller.
#[derive(Debug, Default)]
pub(super) struct WriteQueue {
    /// Callers with waiting writes, by name; the first is served next.
    callers: VecDeque<(String, VecDeque<QueuedWrite>)>,
}

impl WriteQueue {
    /// Appends a write to those of its caller.
    pub(super) fn push(&mut self, queued: QueuedWrite) {
        let name = &queued.write.caller.name;
        match self.callers.iter_mut().find(|(caller, _)| caller == name) {
            Some((_, writes)) => writes.push_back(queued),
            None => self
                .callers
                .push_back((name.clone(), VecDeque::from([queued]))),
        }
    }

    /// Returns the next write whose client still waits. The others are dropped: nothing was
    /// promised to their clients.
    pub(super) fn peek(&mut self) -> Option<&QueuedWrite> {
        while let Some((_, writes)) = self.callers.front_mut() {
            while writes.front().is_some_and(QueuedWrite::is_abandoned) {
                writes.pop_front();
            }
            if !writes.is_empty() {
                break;
            }
            self.callers.pop_front();
        }
        self.callers.front()?.1.front()
    }

    /// Takes the next write; then the next caller is served.
    pub(super) fn pop(&mut self) -> Option<QueuedWrite> {
        self.peek()?;
        let (caller, mut writes) = self.callers.pop_front()?;
        let queued = writes.pop_front();
        if !writes.is_empty() {
            self.callers.push_back((caller, writes));
        }
        queued
    }

    /// Returns true if nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.callers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use netnsd_api::Kind;
    use serde_json::json;
    use tokio::sync::oneshot;

    use super::*;
    use crate::{
        engine::{Write, Written},
        model::{Change, Spec},
    };

    type Answered = oneshot::Receiver<Result<Written, WriteError>>;

    fn caller(name: &str, role: Role) -> Caller {
        let mut caller = Caller::admin(name);
        caller.role = role;
        caller
    }

    fn queued(places: &Shares<String>, of: &str, name: &str) -> (QueuedWrite, Answered) {
        let spec = Spec::from_json(Kind::Namespace, json!({"name": name})).unwrap();
        let (answer, answered) = oneshot::channel();
        let write = Write {
            caller: Arc::new(caller(of, Role::Operator)),
            ..Write::by_admin(Change::Put(spec))
        };
        let place = reserve_place(places, &write.caller).unwrap();
        (
            QueuedWrite {
                write,
                answer: Some(answer),
                _place: place,
            },
            answered,
        )
    }

    fn name(queued: &QueuedWrite) -> String {
        let Change::Put(spec) = &queued.write.change else {
            unreachable!()
        };
        spec.resource().name.to_string()
    }

    #[test]
    fn callers_are_served_in_turn_and_in_order() {
        let (places, mut queue, mut answers) =
            (Shares::default(), WriteQueue::default(), Vec::new());
        for (of, name) in [("red", "r0"), ("red", "r1"), ("red", "r2"), ("blue", "b0")] {
            let (queued, answered) = queued(&places, of, name);
            queue.push(queued);
            answers.push(answered);
        }
        // Its client has gone.
        answers.remove(1);
        let order: Vec<String> = std::iter::from_fn(|| queue.pop())
            .map(|queued| name(&queued))
            .collect();
        assert_eq!(order, ["r0", "b0", "r2"]);
        assert!(queue.is_empty() && places.in_use() == 0);
    }

    #[test]
    fn full_share_leaves_places_for_others_and_admins() {
        let places = Shares::default();
        let (red, blue, root) = (
            caller("red", Role::Operator),
            caller("blue", Role::Operator),
            caller("root", Role::Admin),
        );
        let mut held: Vec<Slot<String>> = (0..CALLER_SHARE)
            .map(|_| reserve_place(&places, &red).unwrap())
            .collect();
        assert!(matches!(
            reserve_place(&places, &red),
            Err(WriteError::ShareFull { .. })
        ));
        held.push(reserve_place(&places, &blue).unwrap());
        for i in 0.. {
            match reserve_place(&places, &caller(&format!("uid {i}"), Role::Operator)) {
                Ok(place) => held.push(place),
                Err(_) => break,
            }
        }
        assert_eq!(places.in_use(), QUEUE_CAPACITY);
        held.extend((0..ADMIN_RESERVE).map(|_| reserve_place(&places, &root).unwrap()));
        assert!(reserve_place(&places, &root).is_err());
        drop(held);
        assert!(places.is_empty());
    }
}
