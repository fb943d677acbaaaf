//! Labels that a Telemetry asks for: what they say of a request or a connection, and of how many values series are made.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fairway_core::cel::Subject;
use fairway_core::io::metrics::{AskedPair, LabelPair, OVERFLOW};
use fairway_core::limits::{self, Limits};

use super::UNKNOWN;
use crate::config::Metrics;

/// What labels say of one request or connection, by what the configuration asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    metrics: Arc<Metrics>,
    values: Vec<String>,
}

/// Labels of one metric.
pub(super) type Labels<'a> = (Vec<LabelPair<'a>>, Vec<AskedPair<'a>>);

/// Values that series are made of, by the listener whose labels they are. Cheap to clone; clones are one.
#[derive(Clone, Debug)]
pub(super) struct Values {
    most: usize,
    longest: usize,
    /// A value that nobody has used for so long makes room for another one.
    idle: Duration,
    known: Arc<Mutex<HashMap<String, Combinations>>>,
}

/// Combinations of values.
#[derive(Debug, Default)]
struct Combinations {
    /// When each was used last.
    used: HashMap<Vec<String>, Instant>,
    /// When those that nobody uses were looked for last.
    swept: Option<Instant>,
}

/// How often those are looked for that nobody uses: everybody waits for it.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

impl Combinations {
    /// Whether there is room for these values among so many.
    fn admit(&mut self, values: &[String], now: Instant, most: usize, idle: Duration) -> bool {
        if let Some(used) = self.used.get_mut(values) {
            *used = now;
            return true;
        }
        let is_due = self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP_INTERVAL);
        if self.used.len() >= most && is_due {
            self.swept = Some(now);
            self.used.retain(|_, used| now.saturating_duration_since(*used) < idle);
        }
        let has_room = self.used.len() < most;
        if has_room {
            self.used.insert(values.to_vec(), now);
        }
        has_room
    }
}

impl Said {
    /// The usual labels of a metric, but for those that are left out or say something else, and those that are added; nothing where the
    /// metric is off.
    pub(super) fn labels<'a>(&'a self, metric: &str, usual: &[LabelPair<'a>]) -> Option<Labels<'a>> {
        let Some(change) = self.metrics.change(metric) else { return Some((usual.to_vec(), Vec::new())) };
        if change.is_off {
            return None;
        }
        let is_other = |name: &str| {
            change.without.iter().any(|known| known == name) || change.with.iter().any(|(known, _)| **known == *name)
        };
        let kept = usual.iter().filter(|(name, _)| !is_other(name)).copied().collect();
        let value = |place: usize| self.values.get(place).map_or(UNKNOWN, String::as_str);
        let with = change.with.iter().map(|(name, place)| (Arc::clone(name), value(*place)));
        Some((kept, with.collect()))
    }
}

impl Values {
    pub(super) fn within(limits: &Limits) -> Self {
        Self {
            most: limits.size(&limits::METRIC_LABEL_VALUES),
            longest: limits.size(&limits::METRIC_LABEL_LENGTH),
            idle: limits.duration(&limits::METRIC_SERIES_IDLE),
            known: Arc::default(),
        }
    }

    /// What labels say of this at a listener, and whether it is only that there are too many values.
    pub(super) fn said(
        &self,
        listener: &str,
        metrics: &Arc<Metrics>,
        subject: &impl Subject,
        now: Instant,
    ) -> (Said, bool) {
        let value = |expression: &fairway_core::cel::Expression| {
            expression
                .of(subject)
                .map_or_else(|| UNKNOWN.to_owned(), |value| shortened(value.to_string(), self.longest))
        };
        let values: Vec<String> = metrics.values.iter().map(value).collect();
        let overflows = !values.is_empty() && !self.admit(listener, &values, now);
        let values = if overflows { vec![OVERFLOW.to_owned(); values.len()] } else { values };
        (Said { metrics: Arc::clone(metrics), values }, overflows)
    }

    /// Whether there is room for these values.
    fn admit(&self, listener: &str, values: &[String], now: Instant) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(combinations) = known.get_mut(listener) {
            return combinations.admit(values, now, self.most, self.idle);
        }
        // Listeners that are gone are forgotten with their last values.
        let is_used = |used: &Instant| now.saturating_duration_since(*used) < self.idle;
        known.retain(|_, combinations| combinations.used.values().any(is_used));
        known.entry(listener.to_owned()).or_default().admit(values, now, self.most, self.idle)
    }
}

fn shortened(mut text: String, most: usize) -> String {
    let end = (0..=text.len().min(most)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::collections::BTreeMap;

    use fairway_core::cel::{Attribute, Expression, Value};

    use super::*;

    /// A request for this path.
    struct Path(&'static str);

    impl Subject for Path {
        fn attribute(&self, attribute: Attribute) -> Option<Value<'_>> {
            (attribute == Attribute::UrlPath).then(|| Value::Text(self.0.into()))
        }

        fn header(&self, _name: &str) -> Option<Cow<'_, str>> {
            None
        }
    }

    fn values(most: u64) -> Values {
        let set = [(limits::METRIC_LABEL_VALUES.name, most), (limits::METRIC_LABEL_LENGTH.name, 4)];
        Values::within(&Limits::with(&BTreeMap::from(set)).unwrap())
    }

    fn asking(expressions: &[&str]) -> Arc<Metrics> {
        let values = expressions.iter().map(|text| Expression::label(text).unwrap()).collect();
        Arc::new(Metrics { values, ..Metrics::default() })
    }

    #[test]
    fn values_are_bounded_in_number_and_length_and_make_room_when_nobody_uses_them() {
        let (values, metrics, start) = (values(2), asking(&["request.url_path", "request.host"]), Instant::now());
        let idle = values.idle;
        let said = |listener: &str, path: &'static str, now: Instant| {
            let (said, overflows) = values.said(listener, &metrics, &Path(path), now);
            assert_eq!(overflows, said.values == [OVERFLOW, OVERFLOW]);
            said.values.join(" ")
        };
        assert_eq!(said("a", "/längste", start), "/lä unknown", "cut between characters");
        assert_eq!(said("a", "/b", start), "/b unknown");
        assert_eq!(said("a", "/c", start), "overflow overflow");
        assert_eq!(said("b", "/c", start), "/c unknown", "others have room of their own");
        assert_eq!(said("a", "/b", start + idle / 2), "/b unknown");
        assert_eq!(said("a", "/c", start + idle), "/c unknown", "in the place of one that nobody used");
        assert_eq!(said("a", "/d", start + idle), "overflow overflow", "and /b is used");
        let moment = SWEEP_INTERVAL / 2;
        assert_eq!(said("a", "/d", start + idle * 2 - moment), "/d unknown", "/b made room");
        assert_eq!(said("a", "/e", start + idle * 2 - moment), "overflow overflow");
        assert_eq!(said("a", "/e", start + idle * 2), "overflow overflow", "/c is not looked for again so soon");
        assert_eq!(said("c", "/d", start + idle * 4), "/d unknown");
        assert_eq!(values.known.lock().unwrap().len(), 1, "what nobody uses is forgotten");
    }

    #[test]
    fn who_asks_for_no_value_takes_no_room() {
        let values = values(1);
        let metrics = asking(&[]);
        for listener in ["a", "b"] {
            assert!(!values.said(listener, &metrics, &Path("/"), Instant::now()).1);
        }
        assert!(values.known.lock().unwrap().is_empty());
    }
}
