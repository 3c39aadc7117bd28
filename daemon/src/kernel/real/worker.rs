//! A thread that helps the engine's own with going into namespaces, and what is done with their
//! names and files.

use std::{
    io,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
};

use netnsd_api::SysctlKey;
use nix::errno::Errno;

use super::local::Local;
use crate::kernel::sysctl;

/// So many things are worth the way to another thread.
pub(super) const MANY: usize = 8;

type Job = Box<dyn FnOnce(&mut Local) + Send>;

/// The way to such a thread.
#[derive(Debug, Clone)]
pub(super) struct Worker {
    jobs: mpsc::Sender<Job>,
}

/// Things that two threads do, whichever is free the next.
#[derive(Debug)]
pub(super) struct Queue<T> {
    pub things: Vec<T>,
    next: AtomicUsize,
}

impl<T> Queue<T> {
    pub fn new(things: Vec<T>) -> Arc<Self> {
        Arc::new(Self {
            things,
            next: AtomicUsize::new(0),
        })
    }

    /// The next one that nobody has begun, and its place.
    pub fn take(&self) -> Option<(usize, &T)> {
        let place = self.next.fetch_add(1, Ordering::Relaxed);
        Some((place, self.things.get(place)?))
    }
}

/// What a job is going to give.
#[derive(Debug)]
pub(super) struct Begun<R>(mpsc::Receiver<R>);

impl<R> Begun<R> {
    /// Waits for it.
    pub fn wait(self) -> Result<R, Errno> {
        self.0.recv().map_err(|_| Errno::ESRCH)
    }
}

impl Worker {
    /// Starts the thread, in the namespace of the caller.
    pub fn start(name: &str) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (started, start) = mpsc::channel();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let mut local = match Local::here() {
                    Ok(local) => local,
                    Err(error) => return drop(started.send(Err(error))),
                };
                drop(started.send(Ok(())));
                for job in queue {
                    let _asker_hears_nothing = local.safely(job);
                }
            })?;
        start.recv().map_err(io::Error::other)??;
        Ok(Self { jobs })
    }

    /// Begins a job there.
    pub fn begin<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Local) -> R + Send + 'static,
    ) -> Begun<R> {
        let (answer, answered) = mpsc::channel();
        let job = Box::new(move |local: &mut Local| {
            let _asker_gone = answer.send(job(local));
        });
        // A thread that is gone drops the job, and the way to answer with it.
        let _thread_gone = self.jobs.send(job);
        Begun(answered)
    }

    /// Does the same for each of some things, here and on that thread at once, if they are many:
    /// whichever is free takes the next. What it came to, in their order.
    pub fn share<T: Send + Sync + 'static, R: Send + 'static>(
        &self,
        local: &mut Local,
        things: Vec<T>,
        each: fn(&mut Local, &T) -> R,
    ) -> Result<Vec<R>, Errno> {
        if things.len() < MANY {
            return Ok(things.iter().map(|thing| each(local, thing)).collect());
        }
        let queue = Queue::new(things);
        let part = |queue: Arc<Queue<T>>| {
            move |local: &mut Local| {
                let taken = std::iter::from_fn(|| queue.take());
                taken
                    .map(|(place, thing)| (place, each(local, thing)))
                    .collect::<Vec<_>>()
            }
        };
        let there = part(queue.clone());
        let there = self.begin(move |local: &mut Local| {
            let done = there(local);
            // A connection keeps its namespace, which may be the next one to go.
            local.rest();
            done
        });
        let mut done = part(queue)(local);
        done.extend(there.wait()?);
        done.sort_unstable_by_key(|(place, _)| *place);
        Ok(done.into_iter().map(|(_, result)| result).collect())
    }
}

pub(super) use netnsd_netlink::{
    errno_of as errno,
    netns::file::{
        NetnsFile as Pinned, THREAD_NETNS as HERE, netns_path as path, open_netns as pinned, unpin,
    },
    resolv_conf::{
        read_dns_files as read_dns, read_host_nsswitch as read_nsswitch,
        write_dns_file as write_dns,
    },
    sysctl::{describe_refusal as refused_sysctl, read_sysctl},
};

/// Writes a sysctl; gives the values before of what that changes.
pub(super) fn write_sysctl(
    key: &SysctlKey,
    value: &str,
) -> Result<Vec<(SysctlKey, String)>, Errno> {
    netnsd_netlink::sysctl::write_sysctl(key, value, &sysctl::changed_along(key))
}

/// Pins a namespace under a name.
pub(super) fn pin(name: &str, ns: impl AsFd) -> Result<(), Errno> {
    netnsd_netlink::netns::file::pin(name, ns)
        .map_err(|error| crate::kernel::OpError::from(error).errno)
}
