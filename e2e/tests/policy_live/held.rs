//! Open connections of a program in a pod, and when and how they end.

use std::io::{BufRead, BufReader, Write};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use fairway_lab::Lab;
use fairway_lab::lab::Running;
use serde_json::Value;

/// Longest wait for one connection: generous, because a wait that ends here is a failure and never a measurement.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait for everything a program holds to be cut. The bound that is promised is a second, on a quiet machine.
const CEILING: Duration = Duration::from_secs(30);

/// Connections held by one program.
pub(crate) struct Held {
    running: Running,
    events: Receiver<(Instant, Value)>,
    open: usize,
    stuck: usize,
    label: String,
}

/// How one connection ended.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) id: u64,
    pub(crate) when: Instant,
    pub(crate) how: String,
}

impl Held {
    /// Opens `count` connections, of which `stuck` get filled up in both directions and never read.
    pub(crate) fn open(lab: &Lab, pod: &str, to: &str, count: usize, stuck: usize) -> Self {
        let (total, blocked) = (count.to_string(), stuck.to_string());
        let command = ["fairway", "lab", "tool", "hold", to, "--count", &total, "--stuck", &blocked];
        let mut running = lab.spawn(pod, &command).unwrap();
        let lines = BufReader::new(running.stdout.take().unwrap()).lines();
        let (told, events) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let Ok(event) = serde_json::from_str(&line) else { continue };
                if told.send((Instant::now(), event)).is_err() {
                    return;
                }
            }
        });
        let held = Self { running, events, open: count, stuck, label: format!("{pod} to {to}") };
        held.await_open();
        held
    }

    /// Until every connection is open and those meant to be are stuck, in whatever order that comes.
    fn await_open(&self) {
        let (mut open, mut stuck) = (false, 0);
        while !open || stuck < self.stuck {
            let (_, event) = self.next(Duration::from_secs(180), "to open");
            match kind(&event) {
                "open" => {
                    assert_eq!(event["connections"].as_u64(), u64::try_from(self.open).ok(), "{}", self.label);
                    open = true;
                }
                "stuck" => stuck += 1,
                _ => panic!("{}: {event}", self.label),
            }
        }
    }

    fn next(&self, patience: Duration, what: &str) -> (Instant, Value) {
        let event = self.events.recv_timeout(patience);
        event.unwrap_or_else(|error| panic!("{}: waited {patience:?} for connections {what}: {error}", self.label))
    }

    /// Every connection that is not stuck carries a byte there and back.
    pub(crate) fn assert_works(&mut self) {
        let stdin = self.running.stdin.as_mut().unwrap();
        stdin.write_all(b"\n").and_then(|()| stdin.flush()).unwrap();
        for _ in self.stuck..self.open {
            let (_, event) = self.next(PATIENCE, "to answer");
            assert_eq!(kind(&event), "answered", "{}: {event}", self.label);
        }
    }

    /// Waits until every connection has ended.
    pub(crate) fn ends(&mut self) -> Vec<End> {
        let ends = Instant::now() + CEILING;
        let mut ended = Vec::with_capacity(self.open);
        while ended.len() < self.open {
            let left = ends.saturating_duration_since(Instant::now());
            let what = format!("to be cut, {} of {} are", ended.len(), self.open);
            let (when, event) = self.next(left, &what);
            assert_eq!(kind(&event), "closed", "{}: {event}", self.label);
            let how = event["how"].as_str().unwrap().to_owned();
            ended.push(End { id: event["id"].as_u64().unwrap(), when, how });
        }
        self.open = 0;
        ended
    }

    /// Waits until every connection has been cut, which the program must see as a reset. Prints how long that took.
    pub(crate) fn assert_cut(&mut self, since: Instant, by: &str) -> Vec<End> {
        let ends = self.ends();
        for end in &ends {
            assert_eq!(end.how, "reset", "{}, cut by {by}, looks like an orderly end: {end:?}", self.label);
        }
        println!("{by}: {} cut after {}", self.label, summary(&ends, since));
        ends
    }
}

fn kind(event: &Value) -> &str {
    event["event"].as_str().unwrap_or_default()
}

/// Times from `since` to each end, for people to read.
fn summary(ends: &[End], since: Instant) -> String {
    let mut times: Vec<u128> = ends.iter().map(|end| end.when.duration_since(since).as_millis()).collect();
    times.sort_unstable();
    match times.as_slice() {
        [] => "nothing".to_owned(),
        [one] => format!("{one} ms"),
        [first, .., last] => {
            let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
            format!("{first} ms (first), {} ms (median), {} ms (p99), {last} ms (last)", at(50), at(99))
        }
    }
}
