//! What a client sends for the endpoint that it wants back.

use std::time::UNIX_EPOCH;

use fairway_waypoint::config::Session;
use fairway_waypoint::session::{named, told};

/// The value of a cookie or header.
pub fn run(data: &[u8]) {
    let Ok(value) = std::str::from_utf8(data) else { return };
    let Some(endpoint) = named(value, UNIX_EPOCH) else { return };
    let session = Session::Cookie { name: "s".to_owned(), ttl: None };
    let edits = told(&session, None, endpoint, UNIX_EPOCH).expect("a cookie can be written");
    let line = edits.put.first().and_then(|put| put.value.to_str().ok()).expect("a line of text");
    let written = line.split('"').nth(1).expect("a value");
    assert_eq!(named(written, UNIX_EPOCH), Some(endpoint), "what is written leads to where what was read does");
}
