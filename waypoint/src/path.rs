//! Brings paths into one form before anybody decides on them: two spellings of one path must not be two paths.

use std::borrow::Cow;

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// A percent sign that two hexadecimal digits do not follow.
    #[error("the path has a percent sign that encodes nothing")]
    Encoding,
    /// A zero byte, or another control character.
    #[error("the path has a control character in it")]
    Control,
    /// It does not begin with a slash.
    #[error("the path does not begin with a slash")]
    Relative,
}

/// The path of a request without its query, normalised as RFC 3986 §6.2.2 says: dot segments are gone, what need not be
/// encoded is not. A backslash is a slash, as some servers see it. Encoded slashes stay as they are.
///
/// # Errors
/// When it has no such form.
pub fn normalise(path: &str, merge_slashes: bool) -> Result<Cow<'_, str>, BadPath> {
    if path == "*" {
        return Ok(path.into());
    }
    if !path.starts_with('/') {
        return Err(BadPath::Relative);
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~');
    let odd = |pair: &[u8]| pair.starts_with(b"/.") || (merge_slashes && pair == b"//");
    let is_plain = path.bytes().all(|byte| plain(byte) || byte == b'/' || byte == b'.');
    if is_plain && !path.as_bytes().windows(2).any(odd) {
        return Ok(path.into());
    }
    let decoded = decode(path.as_bytes())?;
    let mut segments: Vec<&str> = Vec::new();
    let mut open_end = true;
    for segment in decoded.split('/').skip(1) {
        // Some servers take parameters away (RFC 3986 §3.3) before they look for dots.
        let bare = segment.split_once(';').map_or(segment, |(bare, _parameters)| bare);
        open_end = matches!(bare, "." | "..") || segment.is_empty();
        match bare {
            "." => {}
            ".." => drop(segments.pop()),
            _ if merge_slashes && segment.is_empty() => {}
            _ => segments.push(segment),
        }
    }
    // An empty last segment that is kept stands for the slash already.
    let closed = !open_end || (segments.last() == Some(&"") && decoded.ends_with('/'));
    let mut normal = String::with_capacity(decoded.len());
    for segment in &segments {
        normal.push('/');
        normal.push_str(segment);
    }
    if !closed || normal.is_empty() {
        normal.push('/');
    }
    Ok(normal.into())
}

fn decode(path: &[u8]) -> Result<String, BadPath> {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b'%' => {
                let [high, low, after @ ..] = rest else { return Err(BadPath::Encoding) };
                let (Some(upper), Some(lower)) = (digit(*high), digit(*low)) else { return Err(BadPath::Encoding) };
                rest = after;
                let byte = upper * 16 + lower;
                if byte.is_ascii_control() {
                    return Err(BadPath::Control);
                }
                if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                    decoded.push(char::from(byte));
                } else {
                    decoded.push('%');
                    decoded.push(char::from(high.to_ascii_uppercase()));
                    decoded.push(char::from(low.to_ascii_uppercase()));
                }
            }
            b'\\' => decoded.push('/'),
            byte if byte.is_ascii_control() => return Err(BadPath::Control),
            byte if byte.is_ascii() => decoded.push(char::from(*byte)),
            // What is no ASCII must be encoded; some clients forget.
            byte => decoded.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok(decoded)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_path_has_one_form() {
        let rows = [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/../../a", "/a"),
            ("/..", "/"),
            ("/%61dmin", "/admin"),
            ("/a/%2e%2E/admin", "/admin"),
            ("/a\\..\\admin", "/admin"),
            ("/a%2fb", "/a%2Fb"),
            ("/a//b", "/a/b"),
            ("//a", "/a"),
            ("/a//", "/a/"),
            ("/a/..//", "/"),
            ("/caf\u{e9}", "/caf%C3%A9"),
            ("/.hidden", "/.hidden"),
            ("/a/..;/b", "/b"),
            ("/a/..;x=1/b", "/b"),
            ("/a/.;/b", "/a/b"),
            ("/a/%2e%2e;/b", "/b"),
            ("/a/b/..;", "/a/"),
            ("/a/..%3b/b", "/a/..%3B/b"),
            ("/a/...;/b", "/a/...;/b"),
            ("/a/;x/b", "/a/;x/b"),
            ("*", "*"),
        ];
        for (path, expected) in rows {
            assert_eq!(normalise(path, true).as_deref(), Ok(expected), "{path}");
        }
        for (path, expected) in [("/a//b", "/a//b"), ("//", "//"), ("/a//", "/a//"), ("/a/.//b", "/a//b")] {
            assert_eq!(normalise(path, false).as_deref(), Ok(expected), "{path}, slashes kept");
        }
        let bad = [
            ("/%", BadPath::Encoding),
            ("/%g0", BadPath::Encoding),
            ("/a%00", BadPath::Control),
            ("/%0d%0a", BadPath::Control),
            ("a", BadPath::Relative),
            ("", BadPath::Relative),
        ];
        for (path, why) in bad {
            assert_eq!(normalise(path, true), Err(why), "{path}");
        }
    }

    proptest! {
        #[test]
        fn what_is_normal_stays_so(path in "/[a./;%25EF\\\\-]{0,24}", merge in any::<bool>()) {
            if let Ok(normal) = normalise(&path, merge) {
                prop_assert_eq!(normalise(&normal, merge), Ok(normal.clone()));
                prop_assert!(!normal.split('/').any(|segment| matches!(segment.split(';').next(), Some(".." | "."))));
            }
        }
    }
}
