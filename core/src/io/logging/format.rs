//! One log line: tab-separated text or a JSON object, with the field names and order the event gives.

use std::fmt::{self, Write as _};
use std::time::SystemTime;

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::Shape;

/// RFC 3339, microseconds, UTC.
const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// The same in milliseconds, as Envoy writes it.
const MILLISECONDS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// A time as Envoy's access logs write it; empty beyond the year 9999.
pub fn in_milliseconds(time: SystemTime) -> String {
    let known = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let time =
        i64::try_from(known.as_secs()).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    let time = time.and_then(|time| time.replace_nanosecond(known.subsec_nanos()).ok());
    time.and_then(|time| time.format(MILLISECONDS).ok()).unwrap_or_default()
}

/// Formats events as lines of a [`Shape`].
#[derive(Clone, Debug)]
pub struct LineFormat {
    shape: Shape,
    now: fn() -> OffsetDateTime,
}

impl LineFormat {
    /// Lines stamped with the wall clock.
    pub fn new(shape: Shape) -> Self {
        Self { shape, now: OffsetDateTime::now_utc }
    }
}

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let time = (self.now)().format(TIME).map_err(|_| fmt::Error)?;
        let metadata = event.metadata();
        let level = match *metadata.level() {
            tracing::Level::ERROR => "error",
            tracing::Level::WARN => "warn",
            tracing::Level::INFO => "info",
            tracing::Level::DEBUG => "debug",
            tracing::Level::TRACE => "trace",
        };
        match self.shape {
            Shape::Plain => {
                let mut line = PlainLine::default();
                event.record(&mut line);
                writeln!(writer, "{time}\t{level}\t{}\t{}{}", metadata.target(), line.message, line.fields)
            }
            Shape::Json => {
                let mut line = JsonLine::default();
                event.record(&mut line);
                let mut object = Map::new();
                object.insert("level".to_owned(), level.into());
                object.insert("time".to_owned(), time.into());
                object.insert("scope".to_owned(), metadata.target().into());
                object.insert("message".to_owned(), line.message.into());
                object.extend(line.fields);
                let text = serde_json::to_string(&object).map_err(|_| fmt::Error)?;
                writeln!(writer, "{text}")
            }
        }
    }
}

#[derive(Default)]
struct PlainLine {
    message: String,
    fields: String,
}

impl PlainLine {
    fn push(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let separator = if self.fields.is_empty() { '\t' } else { ' ' };
        // Writing to a String cannot fail.
        let _ = write!(self.fields, "{separator}{}={value}", field.name());
    }
}

impl Visit for PlainLine {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            // Escaped, so that text from a peer cannot forge a line of its own.
            self.message = one_line(value);
        } else {
            self.push(field, format_args!("{value:?}"));
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, format_args!("{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, format_args!("{value}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.push(field, format_args!("{:?}", value.to_string()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = one_line(&format!("{value:?}"));
        if field.name() == "message" {
            self.message = text;
        } else if text.contains(' ') {
            self.push(field, format_args!("{text:?}"));
        } else {
            self.push(field, format_args!("{text}"));
        }
    }
}

fn one_line(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    text.chars().fold(String::with_capacity(text.len()), |mut line, character| {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
        line
    })
}

#[derive(Default)]
struct JsonLine {
    message: String,
    fields: Vec<(String, Value)>,
}

impl JsonLine {
    fn push(&mut self, field: &Field, value: Value) {
        self.fields.push((field.name().to_owned(), value));
    }
}

impl Visit for JsonLine {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.push(field, value.into());
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.push(field, value.to_string().into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.push(field, text.into());
        }
    }
}
