//! What texts of users must be like before proxies get them: one that a proxy refuses would cost the whole service.

use std::time::Duration;

use regex_syntax::hir::{Hir, HirKind};

/// Longest pattern, in bytes; what Gateway API takes for a path.
const MAXIMUM_PATTERN: usize = 1024;
/// Deepest nesting of a pattern.
const MAXIMUM_NESTING: u32 = 32;
/// Most repetitions that RE2 takes.
const MAXIMUM_REPETITIONS: u32 = 1000;
/// Longest text, in bytes; longer ones are no paths or headers that proxies take.
const MAXIMUM_TEXT: usize = 4096;

/// Whether a text can be in a header or path.
pub(in super::super) fn is_clean(text: &str) -> bool {
    text.len() <= MAXIMUM_TEXT && !text.chars().any(char::is_control)
}

/// Whether it is a path.
pub(in super::super) fn is_path(text: &str) -> bool {
    text.starts_with('/') && is_clean(text) && !text.contains(['?', '#'])
}

/// Whether it is the name of a header (RFC 9110 §5.6.2).
pub(in super::super) fn is_header_name(name: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.len() <= 256 && name.bytes().all(is_token)
}

/// Whether it is the name of a host.
pub(in super::super) fn is_host(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !name.is_empty() && name.len() <= 253 && name.bytes().all(is_part)
}

/// Says why a text is no pattern that proxies take.
pub(in super::super) fn check_pattern(pattern: &str) -> Result<(), String> {
    if pattern.len() > MAXIMUM_PATTERN {
        return Err(format!("the pattern is longer than {MAXIMUM_PATTERN} bytes"));
    }
    let parser = regex_syntax::ParserBuilder::new().nest_limit(MAXIMUM_NESTING).build().parse(pattern);
    let parsed = parser.map_err(|error| match error {
        regex_syntax::Error::Parse(error) => format!("is no regular expression: {}", error.kind()),
        regex_syntax::Error::Translate(error) => format!("is no regular expression: {}", error.kind()),
        _ => "is no regular expression".to_owned(),
    })?;
    if repeats(&parsed) > u64::from(MAXIMUM_REPETITIONS) {
        return Err(format!("repeats more than {MAXIMUM_REPETITIONS} times"));
    }
    Ok(())
}

/// The greatest product of counted repetitions inside each other. Its depth is bounded by the parser's.
fn repeats(pattern: &Hir) -> u64 {
    match pattern.kind() {
        HirKind::Repetition(repetition) => {
            let times = u64::from(repetition.max.unwrap_or(repetition.min).max(1));
            times.saturating_mul(repeats(&repetition.sub))
        }
        HirKind::Capture(capture) => repeats(&capture.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().map(repeats).max().unwrap_or(1),
        _ => 1,
    }
}

/// Reads a duration as Gateway API writes it (GEP-2257), such as `1h30m` or `250ms`.
pub(in super::super) fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit())?;
        let (number, after) = rest.split_at_checked(digits)?;
        if number.len() > 5 {
            return None;
        }
        let number: u64 = number.parse().ok()?;
        let (part, after) = if let Some(after) = after.strip_prefix("ms") {
            (Duration::from_millis(number), after)
        } else if let Some(after) = after.strip_prefix('s') {
            (Duration::from_secs(number), after)
        } else if let Some(after) = after.strip_prefix('m') {
            (Duration::from_secs(number * 60), after)
        } else {
            (Duration::from_secs(number * 3600), after.strip_prefix('h')?)
        };
        total = total.checked_add(part)?;
        rest = after;
    }
    Some(total)
}

/// Reads a duration as Istio writes it: as above, or in seconds with a fraction, such as `1.5s`.
pub(in super::super) fn seconds(text: &str) -> Option<Duration> {
    let number = text.strip_suffix('s').filter(|number| number.len() <= 9);
    let number = number.filter(|number| number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'));
    let decimal = || Duration::try_from_secs_f64(number?.parse().ok()?).ok();
    duration(text).or_else(decimal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("1h30m", Some(5_400_000)),
            ("250ms", Some(250)),
            ("1s500ms", Some(1_500)),
            ("0s", Some(0)),
            ("", None),
            ("5", None),
            ("s", None),
            ("1d", None),
            ("123456s", None),
            ("-1s", None),
        ] {
            assert_eq!(duration(text).map(|it| it.as_millis()), expected, "{text:?}");
        }
        for (text, expected) in [("1.5s", Some(1_500)), ("1h", Some(3_600_000)), ("1.5", None), ("1e3s", None)] {
            assert_eq!(seconds(text).map(|it| it.as_millis()), expected, "{text:?}");
        }
    }

    #[test]
    fn patterns() {
        for pattern in ["/v[0-9]+/.*", "(?i)a|b", "x{1000}", "\\d+"] {
            assert_eq!(check_pattern(pattern), Ok(()), "{pattern}");
        }
        let deep = "(".repeat(40) + &")".repeat(40);
        let long = "a".repeat(MAXIMUM_PATTERN + 1);
        for pattern in ["(", "[a", "(?=a)", "\\1", "x{1001}", "(x{100}){100}", &deep, &long] {
            assert!(check_pattern(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn texts() {
        assert!(is_path("/a/b") && !is_path("a") && !is_path("/a?b") && !is_path("/a\n"));
        assert!(is_header_name("x-a") && !is_header_name("x a") && !is_header_name(":path") && !is_header_name(""));
        assert!(is_host("a.b-c") && !is_host("a:80") && !is_host("") && !is_host("a/b"));
    }
}
