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

/// A value for each header, and an answer. One span comes of it, which is told on in a form that can be read again.
pub fn run(data: &[u8]) {
    static TRACING: OnceLock<Arc<Tracing>> = OnceLock::new();
    let collector = || Arc::new(Collector { cluster: "c".into(), service: "s".into() });
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
    let next = begin(&headers);
    assert_eq!((next.trace, next.parent, next.is_sampled), (trace.trace, Some(trace.span), trace.is_sampled));
    let _ = call::unframed::<CheckResponse>(input.rest());
}
