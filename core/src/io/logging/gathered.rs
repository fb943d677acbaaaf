//! Lines gathered for a moment and written together by a thread of their own, so that no connection waits for who reads the log.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

use crate::io::metrics::Metrics;
use crate::limits::{self, Limits};

const LOST: &str = "fairway_log_lines_lost_total";
/// Lines wait so long for others; nobody who reads along notices. Warnings and errors do not wait.
const PAUSE: Duration = Duration::from_millis(100);
/// So many bytes are worth a write.
const WORTH_A_WRITE: usize = 32 * 1024;
/// The process waits so long at its end for who reads its log.
const LAST: Duration = Duration::from_secs(1);

/// Where lines wait. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gathered(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Wakes the thread that writes.
    changed: Condvar,
    /// Wakes who waits for everything to be written.
    written: Condvar,
    /// Bytes that may wait.
    most: usize,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    is_urgent: bool,
    is_writing: bool,
}

impl State {
    fn is_worth_a_write(&self) -> bool {
        self.is_urgent || self.waiting.len() >= WORTH_A_WRITE
    }
}

impl Gathered {
    /// Starts the thread that writes to `output`.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(output: impl Write + Send + 'static, limits: &Limits) -> io::Result<Self> {
        let this = Self(Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            written: Condvar::new(),
            most: limits.size(&limits::LOG_WAITING),
            lost: AtomicU64::new(0),
        }));
        let writer = this.clone();
        std::thread::Builder::new().name("log".to_owned()).spawn(move || writer.write_for_ever(output))?;
        Ok(this)
    }

    /// Shows how many lines were lost in `metrics`.
    pub fn register(&self, metrics: &Metrics) {
        metrics.describe(LOST, "Lines of the log that were lost, as whoever reads it is too slow.");
        let (counter, this) = (metrics.counter(LOST, &[]), self.clone());
        metrics.before_render(move || counter.absolute(this.lost()));
    }

    /// Lines that were lost, as too many waited.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Waits until everything is written, but for who does not read no longer than a second.
    pub fn flush(&self) {
        let mut state = self.lock();
        state.is_urgent = true;
        self.0.changed.notify_one();
        let is_left = |state: &mut State| state.is_writing || !state.waiting.is_empty();
        let _ = self.0.written.wait_timeout_while(state, LAST, is_left);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, line: &[u8], is_urgent: bool) {
        let mut state = self.lock();
        if state.waiting.len() + line.len() > self.0.most {
            self.0.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let was_quiet = state.waiting.is_empty();
        let was_worth = state.is_worth_a_write();
        state.waiting.extend_from_slice(line);
        state.is_urgent |= is_urgent;
        if was_quiet || (state.is_worth_a_write() && !was_worth) {
            drop(state);
            self.0.changed.notify_one();
        }
    }

    fn write_for_ever(&self, mut output: impl Write) {
        let mut taken = Vec::new();
        loop {
            let state = self.lock();
            let (changed, written) = (&self.0.changed, &self.0.written);
            let state =
                changed.wait_while(state, |state| state.waiting.is_empty()).unwrap_or_else(PoisonError::into_inner);
            let waited = changed.wait_timeout_while(state, PAUSE, |state| !state.is_worth_a_write());
            let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut state.waiting, &mut taken);
            (state.is_urgent, state.is_writing) = (false, true);
            drop(state);
            // A log that cannot be written has nowhere to say so.
            let _ = output.write_all(&taken).and_then(|()| output.flush());
            taken.clear();
            taken.shrink_to(2 * WORTH_A_WRITE);
            self.lock().is_writing = false;
            written.notify_all();
        }
    }
}

impl<'a> MakeWriter<'a> for Gathered {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { gathered: self, is_urgent: true }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line<'a> {
        Line { gathered: self, is_urgent: *metadata.level() <= tracing::Level::WARN }
    }
}

/// One line; the formatter writes it in one piece.
#[derive(Debug)]
pub struct Line<'a> {
    gathered: &'a Gathered,
    is_urgent: bool,
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.gathered.add(line, self.is_urgent);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Says what is written, and waits each time until it may go on.
    struct Reader(Sender<String>, Receiver<()>);

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(String::from_utf8_lossy(bytes).into_owned()).unwrap();
            self.1.recv().unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// With room for a KiB.
    fn started() -> (Gathered, Receiver<String>, Sender<()>) {
        let ((written, seen), (may, goes_on)) = (channel(), channel());
        let limits = Limits::default().and(&limits::LOG_WAITING, 1024);
        (Gathered::start(Reader(written, goes_on), &limits).unwrap(), seen, may)
    }

    #[test]
    fn lines_come_in_order_and_in_one_write() {
        let (gathered, seen, may) = started();
        gathered.add(b"one\n", false);
        gathered.add(b"two\n", true);
        assert_eq!(seen.recv().unwrap(), "one\ntwo\n");
        may.send(()).unwrap();
    }

    #[test]
    fn whoever_logs_waits_for_no_reader_and_what_is_too_much_is_counted() {
        let (gathered, seen, may) = started();
        gathered.add(b"first\n", true);
        assert_eq!(seen.recv().unwrap(), "first\n");
        // The reader is busy with that one.
        let line = [b'x'; 512];
        (0..4).for_each(|_| gathered.add(&line, false));
        assert_eq!(gathered.lost(), 2);
        (0..2).for_each(|_| may.send(()).unwrap());
        assert_eq!(seen.recv().unwrap().len(), 1024);
        gathered.add(b"later\n", true);
        assert_eq!(gathered.lost(), 2);
        assert_eq!(seen.recv().unwrap(), "later\n");
        may.send(()).unwrap();
    }

    #[test]
    fn the_rest_is_written_before_the_end() {
        let (gathered, seen, may) = started();
        gathered.add(b"last\n", false);
        may.send(()).unwrap();
        gathered.flush();
        assert_eq!(seen.try_recv().unwrap(), "last\n");
    }
}
