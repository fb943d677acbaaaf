//! `/requests`: what is under way, oldest first.

use std::fmt::Write as _;

use fairway_core::io::admin::{Reply, Request, StatusCode, json, text};
use serde::Serialize;

use super::Row;

/// What is under way.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Requests {
    /// So many are.
    pub in_flight: usize,
    /// Of which so many are not shown, as they are younger than those that are.
    pub left_out: usize,
    /// Oldest first.
    pub requests: Vec<Row>,
}

/// As JSON, or with `format=text` a line each.
#[must_use]
pub fn answer(page: &Request, requests: &Requests) -> Reply {
    match page.parameter("format").as_deref() {
        None | Some("json") => json(requests),
        Some("text") => text(StatusCode::OK, lines(requests)),
        Some(other) => text(
            StatusCode::BAD_REQUEST,
            format!("format is {other:?}\n/requests?format=json, or text for a line each\n"),
        ),
    }
}

fn lines(Requests { in_flight, left_out, requests }: &Requests) -> String {
    let mut lines = format!("{in_flight} under way, of which {left_out} are not shown\n");
    for row in requests {
        let some = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let endpoint = row.endpoint.map_or_else(|| "-".to_owned(), |endpoint| endpoint.to_string());
        let asked = match (&row.method, &row.server_name) {
            (Some(method), _) => format!("{method} {}{}", some(&row.authority), some(&row.path)),
            (None, name) => format!("{} {}", row.dialled, some(name)),
        };
        // Nobody reads what a text cannot be written to.
        let _ = writeln!(
            lines,
            "{} {}ms {} {} {} {asked} route={} cluster={} endpoint={endpoint} attempts={} received={} sent={} trace={}",
            row.id,
            row.age_milliseconds,
            row.phase,
            row.protocol,
            row.source_identity,
            some(&row.route),
            some(&row.cluster),
            row.attempts,
            row.received_bytes,
            row.sent_bytes,
            some(&row.trace_id),
        );
    }
    lines
}
