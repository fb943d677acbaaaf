//! Tells from the first bytes of a connection whether it carries HTTP.

/// How HTTP/2 without TLS begins (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longest method that a request is taken for one by; the longest registered one has 17 letters.
const METHOD_MAX: usize = 24;

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speech {
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Something else.
    Opaque,
    /// It cannot be said yet.
    Unclear,
}

/// What a connection carries that begins with these bytes.
#[must_use]
pub fn classify(first: &[u8]) -> Speech {
    // Servers skip empty lines before a request (RFC 9112 §2.2): what comes after them must not pass for something else.
    let blank = first.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let first = first.get(blank..).unwrap_or_default();
    let compared = first.len().min(PREFACE.len());
    if first.get(..compared) == PREFACE.get(..compared) {
        return if compared == PREFACE.len() { Speech::Http2 } else { Speech::Unclear };
    }
    // A method (RFC 9110 §9.1: a token, in practice of capital letters), a space, and what is asked for.
    let letters = first.iter().take_while(|byte| byte.is_ascii_uppercase() || **byte == b'-').count();
    if letters > METHOD_MAX {
        return Speech::Opaque;
    }
    match (letters, first.get(letters), first.get(letters + 1)) {
        (0, Some(_), _) => Speech::Opaque,
        (_, None, _) | (_, Some(b' '), None) => Speech::Unclear,
        (_, Some(b' '), Some(target)) if target.is_ascii_graphic() => Speech::Http1,
        _ => Speech::Opaque,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_what_is_spoken() {
        let rows: [(&[u8], Speech); 17] = [
            (b"\r\n", Speech::Unclear),
            (b"\r\n\nGET / ", Speech::Http1),
            (b"\r\n\x16\x03", Speech::Opaque),
            (b"", Speech::Unclear),
            (b"GE", Speech::Unclear),
            (b"GET ", Speech::Unclear),
            (b"GET /", Speech::Http1),
            (b"VERSION-CONTROL /x", Speech::Http1),
            (b"OPTIONS *", Speech::Http1),
            (b"PRI * HTTP/2.0\r\n\r\nSM", Speech::Unclear),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0", Speech::Http2),
            (b"PRI * HTTP/1.1\r\n", Speech::Http1),
            (b"\x16\x03\x01\x02\x00", Speech::Opaque),
            (b"get /", Speech::Opaque),
            (b"GET\t/", Speech::Opaque),
            (b"EHLO\r\n", Speech::Opaque),
            (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ /", Speech::Opaque),
        ];
        for (first, expected) in rows {
            assert_eq!(classify(first), expected, "{}", first.escape_ascii());
        }
    }
}
