//! Whatever an external processor says, in the pieces in which it comes.

use std::sync::OnceLock;

use bytes::BytesMut;
use fairway_proto::external_processor::ProcessingResponse;
use fairway_waypoint::config::Modes;
use fairway_waypoint::conversation::split;
use fairway_waypoint::processor::heard::{Rules, Said, read};
use http::header::HeaderName;
use prost::Message;

/// Bytes of a message.
const MOST: usize = 4096;
/// What is not a processor's to change, whoever says so.
const OURS: [&str; 6] =
    ["host", "content-length", "transfer-encoding", "connection", "x-forwarded-client-cert", "x-subject"];

/// A length of pieces, and what is said. Messages are the same in whatever pieces they come, and none changes what is ours.
pub fn run(data: &[u8]) {
    static RULES: OnceLock<Rules> = OnceLock::new();
    let Some((length, said)) = data.split_first() else { return };
    let whole = messages(said.chunks(said.len().max(1)));
    assert_eq!(messages(said.chunks(usize::from(*length).max(1))), whole);
    let rules = RULES.get_or_init(|| {
        let own = vec![HeaderName::from_static("x-subject")];
        Rules { modes: Modes::default(), may_override: true, own, kept: None }
    });
    for message in whole {
        let Ok(message) = ProcessingResponse::decode(&*message) else { continue };
        match read(message, rules) {
            Ok(Said::Answers(_, heard)) => {
                let names = heard.edits.put.iter().map(|put| &put.name).chain(&heard.edits.remove);
                names.for_each(|name| assert!(!OURS.contains(&name.as_str()), "{name}"));
            }
            Ok(Said::Replies(failure)) => {
                assert!(!failure.status().is_informational());
                let headers = failure.answer.map(|answer| answer.headers).unwrap_or_default();
                OURS.iter().for_each(|name| assert!(!headers.contains_key(*name), "{name}"));
            }
            Ok(Said::Waits(_)) | Err(_) => {}
        }
    }
}

fn messages<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match split(&mut buffer, MOST) {
                Ok(Some(message)) => found.push(message.to_vec()),
                Ok(None) => break,
                Err(_unusable) => return found,
            }
        }
    }
    found
}
