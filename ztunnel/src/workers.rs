//! Worker threads of the data path, each with a runtime of its own: a connection and everything it needs stay on one.
//!
//! A runtime shared by several threads wakes another thread, through the kernel, for nearly every message between the
//! tasks of one connection: that cost more than encrypting its bytes. Here a task wakes its neighbour by a push to a
//! queue. The price is that work does not move by itself, so connections are placed when they arrive.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::{self, EnterGuard, Handle};
use tokio_util::sync::CancellationToken;

use crate::listen::{Accepted, Arrival};

/// How many connections more than the least busy worker the home worker of a pod may have before it passes one on.
/// Passing on costs a wake-up and breaks up tunnels; with one to spare, a pod that opens connections one at a time
/// stays where it is.
const SLACK: usize = 1;

/// How long a worker's blocking work may take to end when the proxy goes down.
const LAST_BREATH: Duration = Duration::from_millis(100);

/// The workers. Cheap to clone; clones share them.
#[derive(Clone)]
pub struct Workers {
    workers: Arc<[Worker]>,
    homes: Arc<AtomicUsize>,
}

struct Worker {
    runtime: Handle,
    open: Arc<AtomicUsize>,
}

/// A connection's place on a worker; counts it there until dropped.
pub struct Place {
    worker: usize,
    open: Arc<AtomicUsize>,
}

/// The threads behind [`Workers`]. Dropping it ends them, and every connection they still carry.
pub struct Threads {
    stop: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` threads, at least one.
    ///
    /// # Errors
    /// When the system has no more threads or file descriptors.
    pub fn start(count: usize) -> io::Result<(Self, Threads)> {
        let mut threads = Threads { stop: CancellationToken::new(), threads: Vec::new() };
        let mut workers = Vec::new();
        for index in 0..count.max(1) {
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            workers.push(runtime.handle().clone());
            let stop = threads.stop.clone();
            let run = move || {
                runtime.block_on(stop.cancelled());
                runtime.shutdown_timeout(LAST_BREATH);
            };
            threads.threads.push(thread::Builder::new().name(format!("worker-{index}")).spawn(run)?);
        }
        Ok((Self::on(workers), threads))
    }

    /// Workers that are these runtimes, each of which somebody else drives with one thread.
    #[must_use]
    pub fn on(runtimes: Vec<Handle>) -> Self {
        let workers = runtimes.into_iter().map(|runtime| Worker { runtime, open: Arc::default() }).collect();
        Self { workers, homes: Arc::default() }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.workers.len()
    }

    /// The runtime of each.
    #[must_use]
    pub fn runtimes(&self) -> Vec<Handle> {
        self.workers.iter().map(|worker| worker.runtime.clone()).collect()
    }

    /// A worker for a new pod's listeners, each in turn.
    #[must_use]
    pub fn home(&self) -> usize {
        self.homes.fetch_add(1, Ordering::Relaxed) % self.workers.len()
    }

    /// Runs `task` on `worker`.
    pub fn spawn(&self, worker: usize, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(worker) = self.workers.get(worker) {
            worker.runtime.spawn(task);
        }
    }

    /// Makes sockets created meanwhile by this thread belong to `worker`.
    #[must_use]
    pub fn enter(&self, worker: usize) -> Option<EnterGuard<'_>> {
        Some(self.workers.get(worker)?.runtime.enter())
    }

    /// Finds a worker for a connection that `home`, the calling worker, has accepted, and serves it there.
    pub fn serve<T>(&self, home: usize, arrival: Arrival, serve: impl FnOnce(Accepted) -> T + Send + 'static)
    where
        T: Future<Output = ()> + Send + 'static,
    {
        let place = self.place(home);
        if place.worker == home {
            self.spawn(home, serve(Accepted { arrival, place }));
            return;
        }
        let Arrival { stream, peer, permit } = arrival;
        // A socket that cannot change hands is one that has gone.
        let Ok(stream) = stream.into_std() else { return };
        self.spawn(place.worker, async move {
            if let Ok(stream) = TcpStream::from_std(stream) {
                serve(Accepted { arrival: Arrival { stream, peer, permit }, place }).await;
            }
        });
    }

    fn place(&self, home: usize) -> Place {
        let open: Vec<usize> = self.workers.iter().map(|worker| worker.open.load(Ordering::Relaxed)).collect();
        let worker = choose(&open, home);
        let open = self.workers.get(worker).map(|worker| Arc::clone(&worker.open)).unwrap_or_default();
        open.fetch_add(1, Ordering::Relaxed);
        Place { worker, open }
    }
}

/// Where a connection accepted at `home` goes, with so many `open` at each worker.
fn choose(open: &[usize], home: usize) -> usize {
    let least = open.iter().enumerate().min_by_key(|(_, open)| **open);
    match (open.get(home), least) {
        (Some(mine), Some((other, fewest))) if *mine > fewest + SLACK => other,
        _ => home,
    }
}

impl Place {
    /// Which worker.
    #[must_use]
    pub fn worker(&self) -> usize {
        self.worker
    }

    /// One more connection at the same worker, counted like the first.
    #[must_use]
    pub fn another(&self) -> Self {
        self.open.fetch_add(1, Ordering::Relaxed);
        Self { worker: self.worker, open: Arc::clone(&self.open) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            // A worker that panicked has said so; the others end all the same.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::{Semaphore, mpsc};

    use super::*;

    #[test]
    fn a_connection_stays_at_home_unless_home_is_busier() {
        let rows: [(&[usize], usize, usize); 7] = [
            (&[0], 0, 0),
            (&[9], 0, 0),
            (&[0, 0], 1, 1),
            (&[1, 0], 0, 0),
            (&[2, 0], 0, 1),
            (&[5, 5], 1, 1),
            (&[7, 4, 3, 4], 0, 2),
        ];
        for (open, home, expected) in rows {
            assert_eq!(choose(open, home), expected, "{open:?} at home on {home}");
        }
    }

    #[test]
    fn connections_spread_over_the_workers_and_work_there() {
        let (workers, threads) = Workers::start(2).unwrap();
        let (report, mut reports) = mpsc::unbounded_channel();
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let mut clients = Vec::new();
            let permits = Arc::new(Semaphore::new(8));
            for _ in 0..8 {
                clients.push(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
                let (stream, peer) = listener.accept().await.unwrap();
                let permit = Arc::clone(&permits).try_acquire_owned().unwrap();
                let report = report.clone();
                // The listener's own runtime stands for none of the workers: all of them get a moved socket.
                workers.serve(0, Arrival { stream, peer, permit }, |accepted| async move {
                    let Accepted { arrival: Arrival { mut stream, .. }, place } = accepted;
                    let byte = stream.read_u8().await.unwrap();
                    stream.write_u8(byte).await.unwrap();
                    report.send((place.worker(), thread::current().name().map(ToOwned::to_owned))).unwrap();
                });
            }
            for client in &mut clients {
                client.write_u8(7).await.unwrap();
                assert_eq!(client.read_u8().await.unwrap(), 7);
            }
            let mut at = [0; 2];
            for _ in 0..8 {
                let (worker, thread) = reports.recv().await.unwrap();
                assert_eq!(thread, Some(format!("worker-{worker}")));
                at[worker] += 1;
            }
            assert!(at.iter().all(|connections| *connections >= 3), "{at:?}");
        });
        drop(threads);
        assert!(workers.workers.iter().all(|worker| worker.open.load(Ordering::Relaxed) == 0), "all places are free");
    }
}
