//! `/connections`: those open now, and for who watches those that have ended since he looked last.

use std::time::Instant;

use fairway_core::io::admin::{Reply, Request, StatusCode, json_lines, parsed, text};
use fairway_core::limits::{CONNECTIONS_ENDED, Limits};

use crate::telemetry::ConnectionTable;

/// A JSON object a line. With `ended=NUMBER`, those that have ended after that number follow, oldest first; 0 is to begin with.
pub(super) fn answer(connections: &ConnectionTable, limits: &Limits, request: &Request, now: Instant) -> Reply {
    let Some(seen) = request.parameter("ended") else { return json_lines(connections.rows()) };
    match parsed("ended", seen) {
        Ok(seen) => json_lines(connections.rows_since(seen, limits.size(&CONNECTIONS_ENDED), now)),
        Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}; use /connections[?ended=NUMBER]\n")),
    }
}
