//! Log output for binaries: plain or JSON lines on standard error, with a filter that can change at run time.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::TryInitError;
use tracing_subscriber::{Registry, reload};

use crate::limits::Limits;

mod format;
mod gathered;

pub use format::{LineFormat, in_milliseconds};
pub use gathered::Gathered;

/// Filter used when none is configured.
pub const DEFAULT_FILTER: &str = "info";

/// Shape of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// Tab-separated text.
    #[default]
    Plain,
    /// One JSON object a line.
    Json,
}

impl FromStr for Shape {
    type Err = LoggingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" | "plain" => Ok(Self::Plain),
            "json" => Ok(Self::Json),
            other => Err(LoggingError::Shape(other.to_owned())),
        }
    }
}

/// Why logging could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// Unknown value of `LOG_FORMAT`.
    #[error("LOG_FORMAT={0:?} is not known; write `plain` or `json`")]
    Shape(String),
    /// The filter does not parse.
    #[error("log filter {filter:?} is not understood ({source}); write for example `info` or `access=debug,info`")]
    Filter {
        /// The filter as given.
        filter: String,
        /// Where it goes wrong.
        source: ParseError,
    },
    /// There is no thread that writes.
    #[error("cannot start the thread that writes the log; is there a limit of processes or memory?")]
    Thread(#[source] io::Error),
    /// Another subscriber was installed first.
    #[error("logging is already set up in this process")]
    AlreadySet(#[source] TryInitError),
    /// The subscriber the filter belonged to is gone.
    #[error("logging has shut down, so its filter cannot change")]
    Gone(#[source] reload::Error),
}

/// Changes the filter of a running process. Cheap to clone.
#[derive(Clone)]
pub struct LogFilter {
    handle: reload::Handle<EnvFilter, Registry>,
    current: Arc<Mutex<String>>,
    initial: Arc<str>,
}

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogFilter").field("current", &self.current()).finish_non_exhaustive()
    }
}

impl LogFilter {
    /// The filter in force.
    pub fn current(&self) -> String {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the filter.
    ///
    /// # Errors
    /// If the filter does not parse; the old one stays in force.
    pub fn set(&self, filter: &str) -> Result<(), LoggingError> {
        let parsed = parse(filter)?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        self.handle.reload(parsed).map_err(LoggingError::Gone)?;
        filter.clone_into(&mut current);
        Ok(())
    }

    /// Goes back to the filter the process started with.
    ///
    /// # Errors
    /// If logging has shut down.
    pub fn reset(&self) -> Result<(), LoggingError> {
        self.set(&self.initial)
    }
}

fn parse(filter: &str) -> Result<EnvFilter, LoggingError> {
    EnvFilter::builder().parse(filter).map_err(|source| LoggingError::Filter { filter: filter.to_owned(), source })
}

/// The log of a process that writes a line for each connection or request. Hold it in `main`: what waits is written when it is
/// dropped.
#[derive(Debug)]
pub struct Log {
    /// The filter.
    pub filter: LogFilter,
    /// Lines that wait.
    pub lines: Gathered,
}

impl Drop for Log {
    fn drop(&mut self) {
        self.lines.flush();
    }
}

/// As [`init`], but lines are gathered for a moment; see [`Gathered`].
///
/// # Errors
/// If the filter does not parse, there is no thread that writes, or logging is already set up.
pub fn init_gathered(shape: Shape, filter: &str, limits: &Limits) -> Result<Log, LoggingError> {
    let lines = Gathered::start(io::stderr(), limits).map_err(LoggingError::Thread)?;
    let (subscriber, filter) = subscriber(shape, filter, lines.clone())?;
    tracing_subscriber::util::SubscriberInitExt::try_init(subscriber).map_err(LoggingError::AlreadySet)?;
    Ok(Log { filter, lines })
}

/// Installs the process's logging; for `main` only. `filter` has the syntax of `RUST_LOG`; an empty one means
/// [`DEFAULT_FILTER`].
///
/// # Errors
/// If the filter does not parse or logging is already set up.
pub fn init(shape: Shape, filter: &str) -> Result<LogFilter, LoggingError> {
    let (subscriber, handle) = subscriber(shape, filter, io::stderr)?;
    tracing_subscriber::util::SubscriberInitExt::try_init(subscriber).map_err(LoggingError::AlreadySet)?;
    Ok(handle)
}

/// A subscriber writing to `writer`, and the handle of its filter; [`init`] without the installation.
///
/// # Errors
/// If the filter does not parse.
pub fn subscriber<W>(
    shape: Shape,
    filter: &str,
    writer: W,
) -> Result<(impl tracing::Subscriber + Send + Sync + 'static, LogFilter), LoggingError>
where
    W: for<'a> tracing_subscriber::fmt::MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = if filter.is_empty() { DEFAULT_FILTER } else { filter };
    let (layer, handle) = reload::Layer::new(parse(filter)?);
    // One formatted line is one write, so lines of several threads do not mix.
    let lines =
        tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer).event_format(LineFormat::new(shape));
    let handle = LogFilter { handle, current: Arc::new(Mutex::new(filter.to_owned())), initial: filter.into() };
    Ok((tracing_subscriber::registry().with(layer).with(lines), handle))
}

#[cfg(test)]
mod tests;
