//! Lines of access logs on their way to where they are written: requests leave them in a bounded queue and wait for nobody.

use std::io::{self, Write};
use std::time::Duration;

use fairway_core::io::drain::Drain;
use fairway_core::io::metrics::Metrics;
use fairway_core::limits::{self, Limits};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

const LINES: &str = "fairway_waypoint_access_log_lines_total";
/// Lines that are written at once.
const BATCH: usize = 512;
/// So long there is for what is left when we stop.
const FAREWELL: Duration = Duration::from_secs(3);

/// Where requests leave their lines.
#[derive(Debug)]
pub struct Lines {
    sender: mpsc::Sender<String>,
    metrics: Metrics,
}

/// What takes them from there.
#[derive(Debug)]
pub struct Writer {
    receiver: mpsc::Receiver<String>,
    metrics: Metrics,
}

/// Both ends of a queue of lines.
#[must_use]
pub fn queue(limits: &Limits, metrics: &Metrics) -> (Lines, Writer) {
    metrics
        .describe(LINES, "Lines of access logs: written, or lost as the queue was full or they could not be written.");
    let (sender, receiver) = mpsc::channel(limits.size(&limits::ACCESS_LOG_QUEUE));
    (Lines { sender, metrics: metrics.clone() }, Writer { receiver, metrics: metrics.clone() })
}

fn count(metrics: &Metrics, result: &str, lines: usize) {
    if lines > 0 {
        metrics.counter(LINES, &[("result", result)]).increment(u64::try_from(lines).unwrap_or(u64::MAX));
    }
}

impl Lines {
    /// Leaves a line, with its end, unless there is no room.
    pub fn write(&self, line: impl FnOnce() -> String) {
        match self.sender.try_reserve() {
            Ok(place) => place.send(line()),
            Err(_full) => count(&self.metrics, "queue_full", 1),
        }
    }
}

impl Writer {
    /// Writes until the drain starts, and then what is left.
    pub async fn run<W: Write + Send + 'static>(mut self, mut output: W, mut drain: Drain) {
        let mut lines = Vec::new();
        let mut says_trouble = true;
        loop {
            tokio::select! {
                // What is there is written, even when we stop.
                biased;
                _ = self.receiver.recv_many(&mut lines, BATCH) => {}
                _ = drain.started() => break,
            }
            if lines.is_empty() {
                return;
            }
            let (written, back) = put(output, std::mem::take(&mut lines), &self.metrics).await;
            match written {
                Ok(()) => says_trouble = true,
                Err(error) if says_trouble => {
                    says_trouble = false;
                    tracing::warn!(%error, "lines of access logs are lost, as they cannot be written");
                }
                Err(_said) => {}
            }
            let Some(back) = back else { return };
            output = back;
        }
        while let Ok(line) = self.receiver.try_recv() {
            lines.push(line);
        }
        // Whoever does not read by then is not waited for.
        let _in_time = timeout(FAREWELL, put(output, lines, &self.metrics)).await;
    }
}

/// Writes lines, where that keeps nobody but itself waiting.
async fn put<W: Write + Send + 'static>(
    mut output: W,
    lines: Vec<String>,
    metrics: &Metrics,
) -> (io::Result<()>, Option<W>) {
    let total = lines.len();
    let done = spawn_blocking(move || {
        let written = output.write_all(lines.concat().as_bytes()).and_then(|()| output.flush());
        (written, output)
    });
    let (written, output) = match done.await {
        Ok((written, output)) => (written, Some(output)),
        Err(stopped) => (Err(io::Error::other(stopped)), None),
    };
    count(metrics, if written.is_ok() { "written" } else { "failed" }, total);
    (written, output)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use fairway_core::io::drain;

    use super::*;

    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if bytes.starts_with(b"bad") {
                return Err(io::Error::other("no room"));
            }
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn what_there_is_room_for_is_written_even_when_we_stop() {
        let limits = Limits::with(&BTreeMap::from([(limits::ACCESS_LOG_QUEUE.name, 2)])).unwrap();
        let metrics = Metrics::default();
        let (lines, writer) = queue(&limits, &metrics);
        for line in ["a\n", "b\n", "c\n"] {
            lines.write(|| line.to_owned());
        }
        let (trigger, drain) = drain::new();
        trigger.start(drain::Mode::Graceful);
        let output = Output::default();
        writer.run(output.clone(), drain).await;
        assert_eq!(*output.0.lock().unwrap(), b"a\nb\n");
        let page = metrics.render();
        for line in [
            "fairway_waypoint_access_log_lines_total{result=\"queue_full\"} 1",
            "fairway_waypoint_access_log_lines_total{result=\"written\"} 2",
        ] {
            assert!(page.lines().any(|it| it == line), "{line}: {page}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_counted_and_what_follows_is_written() {
        let metrics = Metrics::default();
        let (lines, writer) = queue(&Limits::default(), &metrics);
        let (_trigger, drain) = drain::new();
        let output = Output::default();
        let task = tokio::spawn(writer.run(output.clone(), drain));
        let counted = async |line: &str| {
            while !metrics.render().lines().any(|it| it == line) {
                tokio::task::yield_now().await;
            }
        };
        lines.write(|| "bad\n".to_owned());
        counted("fairway_waypoint_access_log_lines_total{result=\"failed\"} 1").await;
        lines.write(|| "good\n".to_owned());
        counted("fairway_waypoint_access_log_lines_total{result=\"written\"} 1").await;
        assert_eq!(*output.0.lock().unwrap(), b"good\n");
        drop(lines);
        task.await.unwrap();
    }
}
