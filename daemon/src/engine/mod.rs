//! The single writer: one queue, group commit, status, retries.
//!
//! [`Engine`] is the handle that the HTTP room holds; [`Core`] runs on a thread of its own, which
//! is also the kernel's. A batch is every waiting write that is independent of the others of it:
//! one transaction, one netlink batch.

mod batch;
mod core;
mod drift;
mod host;
mod journal;
mod queue;
mod settle;
mod status;
#[cfg(test)]
mod tests;
mod types;
mod work;

use std::{path::Path, sync::Arc, thread::JoinHandle};

use netnsd_api::{AuditEntry, Code, Problem, Reconciled};
use tokio::sync::{mpsc, oneshot, watch};

use self::core::Core;
pub use self::types::*;
use crate::{
    access::{Authenticator, Refusals},
    kernel::Kernel,
    metrics::Metrics,
    shares::{Shares, Slot},
    store::{AuxRecord, StoreError},
};

/// Size of the lane of tokens and audit entries; one more waits until there is room.
const KEEPINGS: usize = 256;

/// Why the engine could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Threads or sockets.
    #[error("cannot start the engine: {0}")]
    Io(#[from] std::io::Error),
}

/// What the engine is asked.
#[derive(Debug)]
enum Request {
    Write(Box<Message>),
    /// One pass over everything.
    Reconcile(oneshot::Sender<Reconciled>),
}

/// Something to be recorded beside resources, on its way.
#[derive(Debug)]
struct Keeping {
    what: AuxRecord,
    answer: oneshot::Sender<Result<(), Problem>>,
}

/// A write on its way.
#[derive(Debug)]
struct Message {
    write: Write,
    /// `None` after the answer was sent.
    answer: Option<oneshot::Sender<Result<Written, Problem>>>,
    /// Its place in the queue, which it gives back when it is done.
    _place: Slot<String>,
}

impl Message {
    /// Answers it, once, without what its caller may not know; a client that has gone away does not
    /// hear.
    fn answer(&mut self, result: Result<Written, Problem>) {
        let caller = &self.write.caller;
        let result = match result {
            Ok(written) => Ok(written.redact(caller)),
            Err(problem) => Err(caller.redact_problem(problem)),
        };
        if let Some(answer) = self.answer.take() {
            let _gone = answer.send(result);
        }
    }

    /// Returns true if its client has gone: nobody waits for the answer.
    fn is_abandoned(&self) -> bool {
        self.answer.as_ref().is_some_and(oneshot::Sender::is_closed)
    }

    fn refuse(&mut self, problem: Problem) {
        self.answer(Err(problem));
    }
}

/// The way to the engine.
#[derive(Debug, Clone)]
pub struct Engine {
    /// Bounded by `places`; a pass of everything by the requests that ask for it.
    queue: mpsc::UnboundedSender<Request>,
    /// Places of waiting writes, by the caller's name.
    places: Shares<String>,
    /// Its own lane, which waiting writes cannot fill.
    keepings: mpsc::Sender<Keeping>,
    refusals: Arc<Refusals>,
}

impl Engine {
    /// Starts the engine on a thread of its own, over a database and a kernel that is made there;
    /// `shown` is told the number of the newest event that may be shown, and `access` the recorded
    /// tokens.
    ///
    /// The thread ends once every clone of the engine is dropped.
    ///
    /// # Errors
    /// When the database cannot be opened or the kernel cannot be reached.
    pub fn start<K: Kernel + 'static>(
        database: &Path,
        view: Arc<View>,
        shown: watch::Sender<u64>,
        policy: Policy,
        metrics: Arc<Metrics>,
        access: Arc<Authenticator>,
        kernel: impl FnOnce() -> std::io::Result<K> + Send + 'static,
    ) -> Result<(Self, JoinHandle<()>), StartError> {
        let (sender, queue) = mpsc::unbounded_channel();
        let (keepings, keeping_lane) = mpsc::channel(KEEPINGS);
        let refusals = Arc::<Refusals>::default();
        let counted = refusals.clone();
        let (started, start) = std::sync::mpsc::channel();
        let database = database.to_owned();
        let thread = std::thread::Builder::new()
            .name("netnsd-engine".into())
            .spawn(move || {
                let runtime = match tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                {
                    Ok(runtime) => runtime,
                    Err(error) => return report(&started, Err(error.into())),
                };
                runtime.block_on(async {
                    let core = match kernel() {
                        Ok(kernel) => Core::open(
                            &database,
                            kernel,
                            keeping_lane,
                            counted,
                            view,
                            shown,
                            policy,
                            metrics,
                            &access,
                        )
                        .await
                        .map_err(StartError::from),
                        Err(error) => Err(error.into()),
                    };
                    match core {
                        Ok(core) => {
                            report(&started, Ok(()));
                            core.run(queue).await;
                        }
                        Err(error) => report(&started, Err(error)),
                    }
                });
            })?;
        start
            .recv()
            .map_err(|_| std::io::Error::other("the engine's thread ended"))??;
        Ok((
            Self {
                queue: sender,
                places: Shares::default(),
                keepings,
                refusals,
            },
            thread,
        ))
    }

    /// Carries out a write; answers when it is durable and applied. A write that still waits when
    /// this future is dropped is not carried out.
    ///
    /// # Errors
    /// Why it was refused; then nothing is changed.
    pub async fn write(&self, write: Write) -> Result<Written, Problem> {
        let place = queue::take_place(&self.places, &write.caller)?;
        let (answer, answered) = oneshot::channel();
        self.send(Request::Write(Box::new(Message {
            write,
            answer: Some(answer),
            _place: place,
        })))?;
        answered.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// One pass over everything recorded, now.
    ///
    /// # Errors
    /// When the engine is too busy, or stops.
    pub async fn reconcile(&self) -> Result<Reconciled, Problem> {
        let (answer, answered) = oneshot::channel();
        self.send(Request::Reconcile(answer))?;
        answered.await.map_err(|_| stopping())
    }

    /// Records a request that was not carried out. The first of its kind in a minute is durable
    /// when this answers, which also goes on if this future is dropped; further ones, and one that
    /// could not be recorded, are counted and recorded together.
    ///
    /// # Errors
    /// Why it is not recorded by itself.
    pub async fn record_refusal(&self, entry: AuditEntry, place: String) -> Result<(), Problem> {
        if self.refusals.count(&entry, &place) {
            return Ok(());
        }
        let engine = self.clone();
        let keeping = tokio::spawn(async move {
            let result = engine.record_aux(AuxRecord::PutAudit(entry.clone())).await;
            if result.is_err() {
                engine.refusals.add(entry, &place);
            }
            result
        });
        keeping.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Records something beside resources, in turn and not refused for a full queue; answers when
    /// it is durable. An admin's entry of the audit log that cannot be recorded waits in memory,
    /// where there is room: then this is a success too.
    ///
    /// # Errors
    /// Why it is not recorded.
    pub async fn record_aux(&self, what: AuxRecord) -> Result<(), Problem> {
        let (answer, answered) = oneshot::channel();
        self.keepings
            .send(Keeping { what, answer })
            .await
            .map_err(|_| stopping())?;
        answered.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Returns the number of writes that are waiting or under way.
    pub fn pending_writes(&self) -> usize {
        self.places.in_use()
    }

    fn send(&self, request: Request) -> Result<(), Problem> {
        self.queue.send(request).map_err(|_| stopping())
    }
}

fn stopping() -> Problem {
    Problem::new(Code::ShuttingDown, "netnsd is stopping")
}

fn report(to: &std::sync::mpsc::Sender<Result<(), StartError>>, result: Result<(), StartError>) {
    let _starter_gone = to.send(result);
}
