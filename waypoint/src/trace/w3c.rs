//! `traceparent` and `tracestate` (W3C Trace Context, 23 November 2021).

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::{Parent, Trace};
use crate::facts;

const PARENT: HeaderName = HeaderName::from_static("traceparent");
const STATE: HeaderName = HeaderName::from_static("tracestate");
/// As much of it as has to be passed on (§3.3.1.5).
const STATE_BYTES: usize = 512;
/// Characters of version 00 (§3.2.2).
const LENGTH: usize = 55;
/// The only flag that is understood (§3.2.2.5.1).
const SAMPLED: u8 = 1;

/// What `traceparent` says; nothing where it is not there once, or cannot be read.
pub(super) fn read(headers: &HeaderMap) -> Option<Parent> {
    let mut lines = headers.get_all(PARENT).iter();
    let line = lines.next()?.to_str().ok()?;
    if lines.next().is_some() {
        return None;
    }
    let fields = line.get(..LENGTH)?;
    // Later versions may say more, behind a dash (§4.3).
    let rest = line.get(LENGTH..)?;
    let mut fields = fields.split('-');
    let version = hexadecimal::<2>(fields.next()?)?;
    let trace = hexadecimal::<32>(fields.next()?)?;
    let span = u64::try_from(hexadecimal::<16>(fields.next()?)?).ok()?;
    let flags = u8::try_from(hexadecimal::<2>(fields.next()?)?).ok()?;
    let is_readable = if version == 0 { rest.is_empty() } else { rest.is_empty() || rest.starts_with('-') };
    let is_valid = fields.next().is_none() && is_readable && version != 0xff && trace != 0 && span != 0;
    is_valid.then_some(Parent { ids: Some((trace, span)), is_sampled: Some(flags & SAMPLED != 0) })
}

/// So many digits, in lower case (§3.2.2).
fn hexadecimal<const DIGITS: usize>(text: &str) -> Option<u128> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_whole = text.len() == DIGITS && text.bytes().all(is_digit);
    u128::from_str_radix(text, 16).ok().filter(|_| is_whole)
}

/// What `tracestate` says, unless it is longer than a span has to say.
pub(super) fn state(headers: &HeaderMap) -> String {
    let state = facts::joined(headers, &STATE).filter(|state| state.len() <= STATE_BYTES);
    state.map(|state| state.into_owned()).unwrap_or_default()
}

/// In the place of what the client has said; `tracestate` stays where its `traceparent` was understood.
pub(super) fn write(trace: &Trace, headers: &mut HeaderMap) {
    let flags = u8::from(trace.is_sampled);
    let line = format!("00-{:032x}-{:016x}-{flags:02x}", trace.trace, trace.span);
    headers.remove(PARENT);
    headers.extend(HeaderValue::try_from(line).ok().map(|line| (PARENT, line)));
    if !trace.keeps_state {
        headers.remove(STATE);
    }
}
