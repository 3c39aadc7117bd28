//! A thread that shares the work of the engine's own thread inside namespaces.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
};

use crate::{Error, netns::switch::NamespaceSwitcher};

/// Smallest number of items for which the way to the other thread pays off.
pub const MIN_SHARED_ITEMS: usize = 8;

type Job = Box<dyn FnOnce(&mut NamespaceSwitcher) + Send>;

/// Handle of the helper thread, which ends when the last handle is dropped.
#[derive(Debug, Clone)]
pub struct HelperThread {
    jobs: mpsc::Sender<Job>,
}

/// Items that two threads work through; each takes the next one when it is free.
#[derive(Debug)]
pub(crate) struct WorkQueue<T> {
    pub items: Vec<T>,
    next: AtomicUsize,
}

impl<T> WorkQueue<T> {
    pub fn new(items: Vec<T>) -> Arc<Self> {
        Arc::new(Self {
            items,
            next: AtomicUsize::new(0),
        })
    }

    /// Takes the next item that no thread has taken, with its position.
    pub fn take(&self) -> Option<(usize, &T)> {
        let position = self.next.fetch_add(1, Ordering::Relaxed);
        Some((position, self.items.get(position)?))
    }
}

/// Result of a job that may still be running.
#[derive(Debug)]
pub struct PendingJob<R>(mpsc::Receiver<R>);

impl<R> PendingJob<R> {
    /// Waits for the result.
    ///
    /// # Errors
    /// If the job panicked.
    pub fn wait(self) -> Result<R, Error> {
        self.0.recv().map_err(|_| Error::Panicked)
    }
}

impl HelperThread {
    /// Starts the thread in the namespace of the caller.
    ///
    /// # Errors
    /// If no thread can be started, or `/proc` is missing.
    pub fn start(name: &str) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (started, start) = mpsc::channel();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let mut switcher = match NamespaceSwitcher::new() {
                    Ok(switcher) => switcher,
                    Err(error) => return drop(started.send(Err(error))),
                };
                drop(started.send(Ok(())));
                for job in queue {
                    let _ = switcher.catch_panic(job); // the caller sees its channel closed
                }
            })?;
        start.recv().map_err(io::Error::other)??;
        Ok(Self { jobs })
    }

    /// Starts a job on the thread.
    pub fn spawn<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut NamespaceSwitcher) -> R + Send + 'static,
    ) -> PendingJob<R> {
        let (result, pending) = mpsc::channel();
        let job = Box::new(move |switcher: &mut NamespaceSwitcher| {
            let _ = result.send(job(switcher)); // the caller may not wait for it
        });
        // If the thread is gone the job is dropped, and with it the sender of its result.
        let _ = self.jobs.send(job);
        PendingJob(pending)
    }

    /// Calls `each` for every item, on both threads if there are at least [`MIN_SHARED_ITEMS`].
    /// Returns the results in the order of the items.
    ///
    /// # Errors
    /// If the helper thread's part panicked.
    pub fn split_work<T: Send + Sync + 'static, R: Send + 'static>(
        &self,
        switcher: &mut NamespaceSwitcher,
        items: Vec<T>,
        each: fn(&mut NamespaceSwitcher, &T) -> R,
    ) -> Result<Vec<R>, Error> {
        if items.len() < MIN_SHARED_ITEMS {
            return Ok(items.iter().map(|item| each(switcher, item)).collect());
        }
        let queue = WorkQueue::new(items);
        let shared = queue.clone();
        let other_half = self.spawn(move |switcher| {
            let results = work_through(&shared, switcher, each);
            // An open connection keeps its namespace alive, which may be deleted next.
            switcher.release();
            results
        });
        let mut results = work_through(&queue, switcher, each);
        results.extend(other_half.wait()?);
        results.sort_unstable_by_key(|(position, _)| *position);
        Ok(results.into_iter().map(|(_, result)| result).collect())
    }
}

fn work_through<T, R>(
    queue: &WorkQueue<T>,
    switcher: &mut NamespaceSwitcher,
    each: fn(&mut NamespaceSwitcher, &T) -> R,
) -> Vec<(usize, R)> {
    std::iter::from_fn(|| queue.take())
        .map(|(position, item)| (position, each(switcher, item)))
        .collect()
}
