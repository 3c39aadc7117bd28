//! The queue of writes: bounded, with a share for each caller, served in turns.

use std::collections::VecDeque;

use netnsd_api::{Code, Problem, Role};

use super::{Message, QUEUE};
use crate::{
    access::Caller,
    shares::{LimitReached, Shares, Slot},
};

/// Writes of one caller that may wait at once, of the [`QUEUE`] for all; admins may fill it.
pub(super) const SHARE: usize = QUEUE / 4;
/// Places beside the queue, which only admins take.
pub(super) const RESERVE: usize = QUEUE / 8;

/// Takes a place in the queue for a write of a caller.
///
/// # Errors
/// `overloaded`, if the caller has its share already or all places are taken.
pub(super) fn take_place(
    places: &Shares<String>,
    caller: &Caller,
) -> Result<Slot<String>, Problem> {
    let is_admin = caller.role == Role::Admin;
    let (share, most) = if is_admin {
        (QUEUE + RESERVE, QUEUE + RESERVE)
    } else {
        (SHARE, QUEUE)
    };
    places
        .acquire(caller.name.clone(), share, most)
        .map_err(|full| {
            let detail = match full {
                LimitReached::Total(count) => {
                    format!("the queue of writes is full ({count} wait): try again in a moment")
                }
                LimitReached::Holder(own) => {
                    format!(
                        "{own} writes of {} wait already, which is its share: try again later",
                        caller.name
                    )
                }
            };
            Problem::new(Code::Overloaded, detail)
        })
}

/// Waiting writes: those of one caller in their order, callers in turns.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// The callers that have something waiting, by name; the first is next.
    callers: VecDeque<(String, VecDeque<Message>)>,
}

impl Turns {
    /// Appends a write to those of its caller.
    pub(super) fn push(&mut self, message: Message) {
        let name = &message.write.caller.name;
        match self.callers.iter_mut().find(|(caller, _)| caller == name) {
            Some((_, messages)) => messages.push_back(message),
            None => self
                .callers
                .push_back((name.clone(), VecDeque::from([message]))),
        }
    }

    /// Returns the next write whose client still waits for it. Others are dropped: nothing was
    /// promised to them.
    pub(super) fn peek(&mut self) -> Option<&Message> {
        while let Some((_, messages)) = self.callers.front_mut() {
            while messages.front().is_some_and(Message::is_abandoned) {
                messages.pop_front();
            }
            if !messages.is_empty() {
                break;
            }
            self.callers.pop_front();
        }
        self.callers.front()?.1.front()
    }

    /// Takes the next write, after which it is the next caller's turn.
    pub(super) fn pop(&mut self) -> Option<Message> {
        self.peek()?;
        let (caller, mut messages) = self.callers.pop_front()?;
        let message = messages.pop_front();
        if !messages.is_empty() {
            self.callers.push_back((caller, messages));
        }
        message
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

    type Answered = oneshot::Receiver<Result<Written, Problem>>;

    fn caller(name: &str, role: Role) -> Caller {
        let mut caller = Caller::admin(name);
        caller.role = role;
        caller
    }

    fn message(places: &Shares<String>, of: &str, name: &str) -> (Message, Answered) {
        let spec = Spec::from_json(Kind::Namespace, json!({"name": name})).unwrap();
        let (answer, answered) = oneshot::channel();
        let write = Write {
            caller: Arc::new(caller(of, Role::Operator)),
            ..Write::by_admin(Change::Put(spec))
        };
        let place = take_place(places, &write.caller).unwrap();
        (
            Message {
                write,
                answer: Some(answer),
                _place: place,
            },
            answered,
        )
    }

    fn name(message: &Message) -> String {
        let Change::Put(spec) = &message.write.change else {
            unreachable!()
        };
        spec.resource().name.to_string()
    }

    #[test]
    fn callers_take_turns_and_keep_their_order() {
        let (places, mut turns, mut answers) = (Shares::default(), Turns::default(), Vec::new());
        for (of, name) in [("red", "r0"), ("red", "r1"), ("red", "r2"), ("blue", "b0")] {
            let (message, answered) = message(&places, of, name);
            turns.push(message);
            answers.push(answered);
        }
        // Its client has gone.
        answers.remove(1);
        let order: Vec<String> = std::iter::from_fn(|| turns.pop())
            .map(|message| name(&message))
            .collect();
        assert_eq!(order, ["r0", "b0", "r2"]);
        assert!(turns.is_empty() && places.in_use() == 0);
    }

    #[test]
    fn full_share_leaves_places_for_others_and_admins() {
        let places = Shares::default();
        let (red, blue, root) = (
            caller("red", Role::Operator),
            caller("blue", Role::Operator),
            caller("root", Role::Admin),
        );
        let mut held: Vec<Slot<String>> = (0..SHARE)
            .map(|_| take_place(&places, &red).unwrap())
            .collect();
        assert_eq!(
            take_place(&places, &red).unwrap_err().code,
            Code::Overloaded
        );
        held.push(take_place(&places, &blue).unwrap());
        for i in 0.. {
            match take_place(&places, &caller(&format!("uid {i}"), Role::Operator)) {
                Ok(place) => held.push(place),
                Err(_) => break,
            }
        }
        assert_eq!(places.in_use(), QUEUE);
        held.extend((0..RESERVE).map(|_| take_place(&places, &root).unwrap()));
        assert!(take_place(&places, &root).is_err());
        drop(held);
        assert!(places.is_empty());
    }
}
