//! What one connection's task costs in memory, held to a bound by a test.
//!
//! The state of an async function is as large as its largest await. Steps that are over before bytes flow, such as
//! handshakes, are boxed where they are called, so that idle connections do not carry their space.

use crate::{inbound, outbound, passthrough};

/// Bytes of the future that `serve` returns.
fn future_size<A, B, F: Future>(_serve: impl Fn(A, B) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn an_idle_connection_is_small() {
    let sizes = [
        ("outbound", future_size(outbound::serve), 1_700),
        ("plaintext", future_size(passthrough::serve), 1_900),
        ("stranger", future_size(inbound::serve), 720),
        ("tunnel connection", future_size(|proven, (): ()| inbound::carry_streams(proven)), 5_600),
        ("tunnel stream", future_size(|stream: inbound::Arrived, (): ()| stream.serve()), 1_800),
    ];
    for (name, size, _) in sizes {
        println!("{name}: {size} bytes");
    }
    for (name, size, bound) in sizes {
        assert!(size <= bound, "{name} takes {size} bytes of memory per connection, more than {bound}");
    }
}
