//! The trace that a request belongs to: continued if the client has begun it, and begun otherwise. Pure: what is random is an
//! argument.

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;

use crate::config::{TagValue, Tracing};
use crate::facts;

mod b3;
mod w3c;

/// Bytes of a text from a request that a span says at most; Envoy's bound for paths.
pub const TEXT_BYTES: usize = 256;

/// What a client says of the trace that its request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The trace and the client's span in it; none where the client says only whether the request is to be told about.
    pub ids: Option<(u128, u64)>,
    /// Whether it is told about; none where the client leaves that to others.
    pub is_sampled: Option<bool>,
}

/// Our span of a request.
#[derive(Clone, Debug)]
pub struct Trace {
    /// What the configuration says of it.
    pub tracing: Arc<Tracing>,
    /// The trace; never zero.
    pub trace: u128,
    /// Our span; never zero.
    pub span: u64,
    /// The client's span, unless we begin the trace.
    pub parent: Option<u64>,
    /// Whether a collector is told.
    pub is_sampled: bool,
    /// Whether what other systems have noted (`tracestate`) belongs to this trace.
    keeps_state: bool,
    /// It, where it is told about and not too long.
    pub state: String,
    /// What the span says besides.
    pub tags: Vec<(String, String)>,
    /// When it began.
    pub begun: SystemTime,
    /// In which forms the client has said it, besides W3C's.
    b3: b3::Forms,
}

/// What is drawn for a span.
#[derive(Clone, Copy, Debug)]
pub struct Drawn {
    /// For a trace, should it begin here.
    pub trace: u128,
    /// For our span.
    pub span: u64,
    /// Below a million: whether it is told about, where the client has not decided.
    pub chance: u32,
}

/// The span of a request with these headers. What a client says that cannot be read counts as not said.
#[must_use]
pub fn begin(tracing: &Arc<Tracing>, headers: &HeaderMap, drawn: Drawn, begun: SystemTime) -> Trace {
    let (b3, of_b3) = b3::read(headers);
    let of_w3c = w3c::read(headers);
    let b3 = if of_w3c.is_some() { b3.named_elsewhere() } else { b3 };
    let parent = of_w3c.or(of_b3);
    let ids = parent.and_then(|parent| parent.ids);
    // All zeros are none (Trace Context §3.2.2.3, §3.2.2.4).
    let trace = ids.map_or(drawn.trace.max(1), |(trace, _)| trace);
    let is_sampled = parent.and_then(|parent| parent.is_sampled).unwrap_or(drawn.chance < tracing.per_million);
    // It belongs to what it came with (Trace Context §3.3).
    let keeps_state = of_w3c.is_some();
    let state = if keeps_state && is_sampled { w3c::state(headers) } else { String::new() };
    let tags = if is_sampled { tags(tracing, headers) } else { Vec::new() };
    Trace {
        tracing: Arc::clone(tracing),
        trace,
        span: drawn.span.max(1),
        parent: ids.map(|(_, span)| span),
        is_sampled,
        keeps_state,
        state,
        tags,
        begun,
        b3,
    }
}

fn tags(tracing: &Tracing, headers: &HeaderMap) -> Vec<(String, String)> {
    let said = tracing.tags.iter().filter_map(|tag| {
        let value = match &tag.value {
            TagValue::Fixed(text) => Some(text.clone()),
            TagValue::Header(name, otherwise) => {
                let said = facts::joined(headers, name).map(|said| shortened(&said));
                said.or_else(|| otherwise.clone())
            }
        };
        Some((tag.name.clone(), value?))
    });
    said.collect()
}

/// No more of it than a span says.
#[must_use]
pub fn shortened(text: &str) -> String {
    beginning(text).to_owned()
}

/// The beginning of it that a span would say.
#[must_use]
pub fn beginning(text: &str) -> &str {
    let end = (0..=text.len().min(TEXT_BYTES)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    text.get(..end).unwrap_or_default()
}

impl Trace {
    /// Says it to whoever the request is sent on to: in W3C's form, and in those in which the client has said it.
    pub fn write(&self, headers: &mut HeaderMap) {
        w3c::write(self, headers);
        b3::write(self, headers);
    }
}

#[cfg(test)]
mod tests;
