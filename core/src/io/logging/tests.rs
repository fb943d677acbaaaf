//! Tests of `logging`.

use std::io::Write;

use super::*;

/// Collects what a subscriber writes.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn take(&self) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn logged(shape: Shape, filter: &str, emit: impl FnOnce(&LogFilter)) -> Vec<String> {
    let lines = Lines::default();
    let writer = lines.clone();
    let (subscriber, handle) = subscriber(shape, filter, move || writer.clone()).unwrap();
    tracing::subscriber::with_default(subscriber, || emit(&handle));
    lines.take()
}

fn emit_access_line() {
    let absent: Option<&str> = None;
    tracing::event!(
        target: "access",
        tracing::Level::INFO,
        src.addr = %"10.0.0.1:80",
        src.workload = "client \"a\"",
        dst.service = absent,
        bytes_sent = 5_u64,
        open = true,
        "connection complete"
    );
}

#[test]
fn plain_lines() {
    let lines = logged(Shape::Plain, "", |_| emit_access_line());
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    let (time, rest) = line.split_once('\t').unwrap();
    assert_eq!(time.len(), "2026-01-02T03:04:05.678901Z".len(), "{time}");
    assert!(time.ends_with('Z'));
    assert_eq!(
        rest,
        "info\taccess\tconnection complete\tsrc.addr=10.0.0.1:80 src.workload=\"client \\\"a\\\"\" bytes_sent=5 open=true"
    );
}

#[test]
fn json_lines() {
    let lines = logged(Shape::Json, "", |_| emit_access_line());
    let object: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(object["level"], "info");
    assert_eq!(object["scope"], "access");
    assert_eq!(object["message"], "connection complete");
    assert_eq!(object["src.workload"], "client \"a\"");
    assert_eq!(object["bytes_sent"], 5);
    assert!(object.get("dst.service").is_none());
    assert!(object["time"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn text_from_outside_cannot_forge_a_line() {
    let lines = logged(Shape::Plain, "", |_| {
        let name = "x\nforged";
        tracing::info!(a = name, b = %name, "peer {name}");
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[test]
fn the_filter_changes_at_run_time_and_can_be_reset() {
    let lines = logged(Shape::Plain, "warn", |filter| {
        tracing::info!("hidden");
        filter.set("debug").unwrap();
        tracing::debug!("shown");
        assert!(matches!(filter.set("access=nonsense"), Err(LoggingError::Filter { .. })));
        assert_eq!(filter.current(), "debug");
        filter.reset().unwrap();
        tracing::info!("hidden again");
        assert_eq!(filter.current(), "warn");
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("shown"));
}

#[test]
fn shapes_parse_and_say_what_to_write() {
    assert_eq!("json".parse::<Shape>().unwrap(), Shape::Json);
    assert_eq!("".parse::<Shape>().unwrap(), Shape::Plain);
    let error = "xml".parse::<Shape>().unwrap_err().to_string();
    assert!(error.contains("plain") && error.contains("json"), "{error}");
}
