//! How busy the runtimes of a proxy are, under the names Istio's proxy has for its one (interop §9.1).

use tokio::runtime::{Handle, RuntimeMetrics};

use super::{Counter, Gauge, Metrics};

const WORKERS: &str = "tokio_num_workers";
const QUEUED: &str = "tokio_global_queue_depth";
const TASKS: &str = "tokio_num_alive_tasks";
const BUSY: &str = "tokio_worker_total_busy_duration_seconds_total";
const PARKED: &str = "tokio_worker_park_count_total";
const PARKS: &str = "tokio_worker_park_unpark_count_total";

/// Tells of `runtimes` as if they were one: what they hold is summed up, and their threads are numbered through in this order.
pub fn register(metrics: &Metrics, runtimes: &[Handle]) {
    metrics.describe(WORKERS, "Threads that run tasks.");
    metrics.describe(QUEUED, "Tasks that another thread queued and that have not been taken up.");
    metrics.describe(TASKS, "Tasks that have not ended.");
    metrics.describe(BUSY, "Seconds a thread ran tasks.");
    metrics.describe(PARKED, "Times a thread had nothing to do.");
    metrics.describe(PARKS, "Times a thread went to sleep or was woken.");
    let (threads, queued, tasks) = (metrics.gauge(WORKERS, &[]), metrics.gauge(QUEUED, &[]), metrics.gauge(TASKS, &[]));
    let runtimes: Vec<RuntimeMetrics> = runtimes.iter().map(Handle::metrics).collect();
    let places = runtimes.iter().flat_map(|runtime| (0..runtime.num_workers()).map(move |index| (runtime, index)));
    let workers: Vec<Worker> = places
        .enumerate()
        .map(|(number, (runtime, index))| Worker::new(metrics, number, runtime.clone(), index))
        .collect();
    metrics.before_render(move || {
        let sum = |of: fn(&RuntimeMetrics) -> usize| small(runtimes.iter().map(of).sum());
        threads.set(sum(RuntimeMetrics::num_workers));
        queued.set(sum(RuntimeMetrics::global_queue_depth));
        tasks.set(sum(RuntimeMetrics::num_alive_tasks));
        workers.iter().for_each(Worker::read);
    });
}

/// One thread.
struct Worker {
    runtime: RuntimeMetrics,
    /// Which of its runtime's threads.
    index: usize,
    busy: Gauge,
    parked: Counter,
    parks: Counter,
}

impl Worker {
    fn new(metrics: &Metrics, number: usize, runtime: RuntimeMetrics, index: usize) -> Self {
        let number = number.to_string();
        let labels = [("worker", number.as_str())];
        Self {
            runtime,
            index,
            // Counters hold whole numbers, and this is no whole number of seconds.
            busy: metrics.gauge(BUSY, &labels),
            parked: metrics.counter(PARKED, &labels),
            parks: metrics.counter(PARKS, &labels),
        }
    }

    fn read(&self) {
        self.busy.set(self.runtime.worker_total_busy_duration(self.index).as_secs_f64());
        self.parked.absolute(self.runtime.worker_park_count(self.index));
        self.parks.absolute(self.runtime.worker_park_unpark_count(self.index));
    }
}

fn small(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use tokio::runtime::Builder;
    use tokio::time::timeout;

    use super::*;

    #[test]
    fn runtimes_are_summed_up_and_their_threads_numbered_through() {
        let single = || Builder::new_current_thread().enable_time().build().unwrap();
        let [first, second] = [single(), single()];
        let metrics = Metrics::default();
        register(&metrics, &[first.handle().clone(), second.handle().clone()]);
        first.spawn(pending::<()>());
        second.spawn(pending::<()>());
        // Nothing to do but to wait for the end of the time: the second's thread parks.
        second.block_on(async { timeout(Duration::from_millis(1), pending::<()>()).await }).unwrap_err();
        let page = metrics.render();
        let value = |series: &str| -> f64 {
            let line = page.lines().find_map(|line| line.strip_prefix(series));
            line.unwrap_or_else(|| panic!("no {series} in {page}")).trim().parse().unwrap()
        };
        assert_eq!((value(WORKERS), value(TASKS)), (2.0, 2.0));
        let parked = |worker: u8| value(&format!("{PARKED}{{worker=\"{worker}\"}}"));
        assert_eq!(parked(0), 0.0, "the first has not run yet");
        assert!(parked(1) >= 1.0);
    }
}
