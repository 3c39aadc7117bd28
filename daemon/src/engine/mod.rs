//! Engine: the single writer. One thread takes writes off a queue, commits them in batches, brings
//! them about in the kernel, and repairs drift.
//!
//! [`Engine`] is the handle that clients' requests use. Behind it, on one thread:
//!
//! | Part | Owns | Does not |
//! |---|---|---|
//! | [`event_loop`] | the parts below; waits for requests, kernel events and timers | I/O |
//! | [`records`] | intent and tombstones in memory | decide what is valid (`intent`) |
//! | [`recorder`] | the database, events, the audit log | touch the kernel |
//! | [`reconciler`] | the kernel | commit |
//! | [`drift`] | dirty resources, scans, repair backoff | observe or repair itself |
//! | [`retries`] | scheduled retries | |
//! | [`status`] | health of resources, the view of readers | |
//!
//! The life of a write is a table in [`batch`].

mod batch;
mod devices;
mod drift;
mod error;
mod event_loop;
mod failure;
mod host_addresses;
mod journal;
mod policy;
mod queue;
mod reconciler;
mod recorder;
mod records;
mod render;
mod retries;
mod status;
#[cfg(test)]
mod tests;
mod view;
mod workset;
mod write;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

use netnsd_api::{AuditEntry, Reconciled};
use tokio::sync::{mpsc, oneshot, watch};

pub use self::{
    error::{RecordError, Stopping, WriteError},
    failure::{FailureCause, OpFailure},
    policy::{DriftPolicy, ScanInterval},
    view::{Entry, View},
    write::{QUEUE_CAPACITY, Write, Written},
};
use self::{event_loop::EngineLoop, recorder::Recorder, records::Records};
use crate::{
    access::{Authenticator, Refusals},
    kernel::Kernel,
    metrics::Metrics,
    shares::{Shares, Slot},
    store::{AuxRecord, StoreError},
};

/// Capacity of the lane of tokens and audit entries; senders of further ones wait.
const AUX_LANE_CAPACITY: usize = 256;

/// Reason for which the engine could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Threads or sockets cannot be made.
    #[error("cannot start the engine: {0}")]
    Io(#[from] std::io::Error),
}

/// Request to the engine's thread.
#[derive(Debug)]
enum Request {
    Write(Box<QueuedWrite>),
    /// One pass over everything recorded.
    Reconcile(oneshot::Sender<Reconciled>),
}

/// Request to record something beside the resources.
#[derive(Debug)]
struct AuxRequest {
    record: AuxRecord,
    answer: oneshot::Sender<Result<(), RecordError>>,
}

/// Write in the queue or under way.
#[derive(Debug)]
struct QueuedWrite {
    write: Write,
    /// `None` after the answer was sent.
    answer: Option<oneshot::Sender<Result<Written, WriteError>>>,
    /// Place in the queue, which is freed when the write is done.
    _place: Slot<String>,
}

impl QueuedWrite {
    /// Answers the client, without what it may not know of the resources. Later answers are
    /// ignored.
    fn answer(&mut self, result: Result<Written, WriteError>) {
        let Some(answer) = self.answer.take() else {
            return;
        };
        let result = result.map(|written| written.redact(&self.write.caller));
        let _ = answer.send(result); // the client may be gone
    }

    /// Returns true if the client is gone and waits for no answer.
    fn is_abandoned(&self) -> bool {
        self.answer.as_ref().is_some_and(oneshot::Sender::is_closed)
    }
}

/// Everything that the engine's thread is started with, except the kernel.
struct Setup {
    database: PathBuf,
    aux_lane: mpsc::Receiver<AuxRequest>,
    refusals: Arc<Refusals>,
    view: Arc<View>,
    shown: watch::Sender<u64>,
    policy: DriftPolicy,
    metrics: Arc<Metrics>,
    access: Arc<Authenticator>,
}

impl Setup {
    /// Opens the database, and publishes what is recorded.
    async fn open<K: Kernel>(self, kernel: K) -> Result<EngineLoop<K>, StoreError> {
        let (recorder, stored) = Recorder::open(
            &self.database,
            self.aux_lane,
            self.refusals,
            self.shown,
            self.metrics.clone(),
        )
        .await?;
        self.access.load(stored.tokens);
        let records = Records::load(stored.key, stored.rows);
        Ok(EngineLoop::new(
            records,
            recorder,
            kernel,
            self.view,
            self.policy,
            self.metrics,
        ))
    }
}

/// Runs the engine on this thread, and reports to `started` once it is open.
fn run_thread<K: Kernel>(
    setup: Setup,
    kernel: impl FnOnce() -> std::io::Result<K>,
    requests: mpsc::UnboundedReceiver<Request>,
    started: &std::sync::mpsc::Sender<Result<(), StartError>>,
) {
    let report = |result| {
        let _ = started.send(result); // the starter may be gone
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return report(Err(error.into())),
    };
    runtime.block_on(async {
        let kernel = match kernel() {
            Ok(kernel) => kernel,
            Err(error) => return report(Err(error.into())),
        };
        match setup.open(kernel).await {
            Ok(engine) => {
                report(Ok(()));
                engine.run(requests).await;
            }
            Err(error) => report(Err(error.into())),
        }
    });
}

/// Handle of the engine; cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    /// Bounded by `places`, and by the clients that ask for a reconciliation.
    requests: mpsc::UnboundedSender<Request>,
    /// Places of pending writes, by the caller's name.
    places: Shares<String>,
    /// Lane of its own, which pending writes cannot fill.
    aux_lane: mpsc::Sender<AuxRequest>,
    refusals: Arc<Refusals>,
}

impl Engine {
    /// Starts the engine on a thread of its own, over a database and a kernel that is opened there.
    /// `shown` receives the id of the newest event that readers may see, and `access` the recorded
    /// tokens.
    ///
    /// The thread ends once every clone of the handle is dropped.
    ///
    /// # Errors
    /// When the database or the kernel cannot be opened.
    pub fn start<K: Kernel + 'static>(
        database: &Path,
        view: Arc<View>,
        shown: watch::Sender<u64>,
        policy: DriftPolicy,
        metrics: Arc<Metrics>,
        access: Arc<Authenticator>,
        kernel: impl FnOnce() -> std::io::Result<K> + Send + 'static,
    ) -> Result<(Self, JoinHandle<()>), StartError> {
        let (requests, request_receiver) = mpsc::unbounded_channel();
        let (aux_lane, aux_receiver) = mpsc::channel(AUX_LANE_CAPACITY);
        let refusals = Arc::<Refusals>::default();
        let setup = Setup {
            database: database.to_owned(),
            aux_lane: aux_receiver,
            refusals: refusals.clone(),
            view,
            shown,
            policy,
            metrics,
            access,
        };
        let (started, start) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("netnsd-engine".into())
            .spawn(move || run_thread(setup, kernel, request_receiver, &started))?;
        start
            .recv()
            .map_err(|_| std::io::Error::other("the engine's thread ended"))??;
        let engine = Self {
            requests,
            places: Shares::default(),
            aux_lane,
            refusals,
        };
        Ok((engine, thread))
    }

    /// Carries out a write, and returns once it is durable and applied. A write that still waits in
    /// the queue when this future is dropped is not carried out.
    ///
    /// # Errors
    /// The reason for which the write is refused; then nothing has changed.
    pub async fn write(&self, write: Write) -> Result<Written, WriteError> {
        let place = queue::reserve_place(&self.places, &write.caller)?;
        let (answer, answered) = oneshot::channel();
        self.send(Request::Write(Box::new(QueuedWrite {
            write,
            answer: Some(answer),
            _place: place,
        })))?;
        answered.await.unwrap_or_else(|_| Err(Stopping.into()))
    }

    /// Compares everything recorded with the kernel, and repairs it.
    ///
    /// # Errors
    /// If the engine stops.
    pub async fn reconcile(&self) -> Result<Reconciled, Stopping> {
        let (answer, answered) = oneshot::channel();
        self.send(Request::Reconcile(answer))?;
        answered.await.map_err(|_| Stopping)
    }

    /// Records a request that was refused. The first of its kind in a minute is durable when this
    /// returns, which also happens if the future is dropped; further ones, and one that could not
    /// be recorded, are counted and recorded together.
    ///
    /// # Errors
    /// The reason for which it is not recorded by itself.
    pub async fn record_refusal(
        &self,
        entry: AuditEntry,
        place: String,
    ) -> Result<(), RecordError> {
        if self.refusals.count(&entry, &place) {
            return Ok(());
        }
        let engine = self.clone();
        let recording = tokio::spawn(async move {
            let record = AuxRecord::PutAudit(entry.clone());
            let result = engine.record_aux(record).await;
            if result.is_err() {
                engine.refusals.add(entry, &place);
            }
            result
        });
        recording.await.unwrap_or_else(|_| Err(Stopping.into()))
    }

    /// Records something beside the resources, and returns once it is durable. It waits for the
    /// next commit, and is never refused for a full queue. If the database cannot be written, the
    /// entry of what an admin did is kept in memory as long as there is room: that is a success
    /// too.
    ///
    /// # Errors
    /// The reason for which it is not recorded.
    pub async fn record_aux(&self, record: AuxRecord) -> Result<(), RecordError> {
        let (answer, answered) = oneshot::channel();
        self.aux_lane
            .send(AuxRequest { record, answer })
            .await
            .map_err(|_| Stopping)?;
        answered.await.unwrap_or_else(|_| Err(Stopping.into()))
    }

    /// Returns the number of writes that wait or are under way.
    pub fn pending_writes(&self) -> usize {
        self.places.in_use()
    }

    fn send(&self, request: Request) -> Result<(), Stopping> {
        self.requests.send(request).map_err(|_| Stopping)
    }
}
