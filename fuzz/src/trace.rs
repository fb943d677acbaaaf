//! Whatever a client says of a trace, and whatever an authorizer answers over gRPC.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use fairway_proto::external_auth::CheckResponse;
use fairway_waypoint::call;
use fairway_waypoint::config::{Collector, Tracing};
use fairway_waypoint::trace::{self, Drawn};
use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::input::Input;

const NAMES: [&str; 7] =
    ["traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags"];

/// What each form is known by, in the order in which they count.
const FORMS: [&str; 3] = ["traceparent", "b3", "x-b3-traceid"];

/// A value for each header, and an answer. One span comes of it, which is told on in forms of which each can be read again by
/// itself.
pub fn run(data: &[u8]) {
    static TRACING: OnceLock<Arc<Tracing>> = OnceLock::new();
    let collector = || Arc::new(Collector { cluster: "c".into(), attributes: Vec::new() });
    let tracing =
        TRACING.get_or_init(|| Arc::new(Tracing { collector: collector(), per_million: 500_000, tags: vec![] }));
    let mut input = Input::new(data);
    let mut headers = HeaderMap::new();
    for name in NAMES {
        let value = input.piece();
        if let (Ok(value), false) = (HeaderValue::from_bytes(value), value.is_empty()) {
            headers.append(HeaderName::from_static(name), value);
        }
    }
    let drawn = Drawn { trace: 0, span: 7, chance: u32::from(input.number()) };
    let begin = |headers: &HeaderMap| trace::begin(tracing, headers, drawn, SystemTime::UNIX_EPOCH);
    let trace = begin(&headers);
    assert!(trace.trace != 0 && trace.span != 0);
    trace.write(&mut headers);
    assert!(headers.contains_key("traceparent"));
    for form in FORMS {
        if headers.contains_key(form) {
            let next = begin(&headers);
            let read = (next.trace, next.parent, next.is_sampled);
            assert_eq!(read, (trace.trace, Some(trace.span), trace.is_sampled), "{form}");
            headers.remove(form);
        }
    }
    let _ = call::unframed::<CheckResponse>(input.rest());
}
