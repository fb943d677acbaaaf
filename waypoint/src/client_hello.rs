//! The name a TLS client asks for, from the first bytes of its connection (RFC 8446 §4.1.2, RFC 6066 §3). Nothing is decrypted.

use std::ops::RangeInclusive;

/// Longest message that a client may begin with, in bytes: Envoy's bound; with keys against quantum computers they have 2 KiB.
pub const MAXIMUM: usize = 16 * 1024;

/// Bytes that are looked at, heads of records included: twice as many, unless somebody cuts the message up without need.
const ALL: usize = 2 * MAXIMUM;
/// Type of a record that carries messages of the handshake (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;
/// Types of records of TLS (RFC 8446 §B.1, RFC 6520 §3). Some servers pass over an alert that comes first.
const RECORDS: RangeInclusive<u8> = 20..=24;
/// Longest record in plain text (RFC 8446 §5.1).
const RECORD: usize = 1 << 14;
/// Type of the message that a client begins with.
const CLIENT_HELLO: u8 = 1;
/// Number of the extension with the name, and type of a name of DNS in it.
const SERVER_NAME: (u16, u8) = (0, 0);
/// Longest name of DNS (RFC 1035 §2.3.4).
const NAME: usize = 255;

/// How a connection begins. What a server might read otherwise than we do must not pass for a client that names nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// It cannot be said yet.
    Incomplete,
    /// As a client of this name's server does, which is in lower case.
    Name(String),
    /// As a client does that names no server.
    Nameless,
    /// As a client of TLS does, and which name it asks for cannot be told.
    Garbled,
    /// As no client of TLS does.
    Other,
}

/// How a connection begins that has sent these bytes so far.
#[must_use]
pub fn read(bytes: &[u8]) -> Hello {
    let first = bytes.get(..ALL).unwrap_or(bytes);
    let is_tls = first.first().is_some_and(|kind| RECORDS.contains(kind));
    let unread = if is_tls { Hello::Garbled } else { Hello::Other };
    let message = match message(first) {
        Ok(Some(message)) => message,
        Ok(None) if first.len() < ALL => return Hello::Incomplete,
        Ok(None) | Err(Garbled) => return unread,
    };
    match server_name(&message) {
        Ok(Some(name)) => Hello::Name(name),
        Ok(None) => Hello::Nameless,
        Err(Garbled) => unread,
    }
}

/// What is not what it should be.
struct Garbled;

/// The first message of the handshake, which may be spread over records; none where some of it is missing yet.
fn message(bytes: &[u8]) -> Result<Option<Vec<u8>>, Garbled> {
    let (mut rest, mut message) = (Reader(bytes), Vec::new());
    loop {
        // Each byte is looked at as soon as it is there: what is not TLS must not be waited for.
        match *rest.0 {
            [] => return Ok(None),
            [kind, ..] if kind != HANDSHAKE => return Err(Garbled),
            [_, major, ..] if major != 3 => return Err(Garbled),
            _ => {}
        }
        let Ok(head) = rest.take(3) else { return Ok(None) };
        let _type_and_version = head;
        let Ok(length) = rest.number(2) else { return Ok(None) };
        if length == 0 || length > RECORD {
            return Err(Garbled);
        }
        let available = rest.0.len().min(length);
        message.extend_from_slice(rest.take(available)?);
        if let Some(whole) = whole(&message)? {
            return Ok(Some(whole));
        }
        if available < length {
            return Ok(None);
        }
    }
}

/// The body of the message that begins here, if all of it is there.
fn whole(message: &[u8]) -> Result<Option<Vec<u8>>, Garbled> {
    let mut rest = Reader(message);
    match rest.number(1) {
        Ok(kind) if kind != usize::from(CLIENT_HELLO) => return Err(Garbled),
        Ok(_) => {}
        Err(Garbled) => return Ok(None),
    }
    let Ok(length) = rest.number(3) else { return Ok(None) };
    if length > MAXIMUM {
        return Err(Garbled);
    }
    Ok(rest.take(length).ok().map(<[u8]>::to_vec))
}

fn server_name(message: &[u8]) -> Result<Option<String>, Garbled> {
    let mut rest = Reader(message);
    let _version_and_random = rest.take(2 + 32)?;
    let _session = rest.piece(1)?;
    let _suites = rest.piece(2)?;
    let _compressions = rest.piece(1)?;
    if rest.0.is_empty() {
        return Ok(None);
    }
    let mut extensions = Reader(rest.piece(2)?);
    let mut name = None;
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let body = extensions.piece(2)?;
        if kind == usize::from(SERVER_NAME.0) {
            // Of two a server might take the other one.
            if name.is_some() {
                return Err(Garbled);
            }
            name = Some(only_name(body)?);
        }
    }
    Ok(name)
}

/// The one name in the extension (RFC 6066 §3: at most one of each type, and there is one type), without the dot of the root at its
/// end, which makes it no other name (RFC 1034 §3.1).
fn only_name(body: &[u8]) -> Result<String, Garbled> {
    let mut body = Reader(body);
    let mut names = Reader(body.piece(2)?);
    let kind = names.number(1)?;
    let written = names.piece(2)?;
    let name = written.strip_suffix(b".").unwrap_or(written);
    let is_name = (1..=NAME).contains(&name.len()) && name.iter().all(u8::is_ascii_graphic) && !name.ends_with(b".");
    if kind != usize::from(SERVER_NAME.1) || !names.0.is_empty() || !body.0.is_empty() || !is_name {
        return Err(Garbled);
    }
    Ok(name.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect())
}

/// What is left of a message.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Garbled> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Garbled)?;
        self.0 = rest;
        Ok(taken)
    }

    /// A number of so many bytes.
    fn number(&mut self, length: usize) -> Result<usize, Garbled> {
        Ok(self.take(length)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// A piece with its length before it, in so many bytes.
    fn piece(&mut self, length: usize) -> Result<&'a [u8], Garbled> {
        let length = self.number(length)?;
        self.take(length)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn piece(size: usize, bytes: &[u8]) -> Vec<u8> {
        [&bytes.len().to_be_bytes()[8 - size..], bytes].concat()
    }

    fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &piece(2, body)].concat()
    }

    fn name(name: &str) -> Vec<u8> {
        extension(0, &piece(2, &[&[0][..], &piece(2, name.as_bytes())].concat()))
    }

    fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
        let before = [&[3, 3][..], &[7; 32], &piece(1, &[9; 32]), &piece(2, &[0x13, 1]), &piece(1, &[0])].concat();
        let body = [before, piece(2, &extensions.concat())].concat();
        [&[1][..], &piece(3, &body)].concat()
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        message.chunks(size).flat_map(|chunk| [&[22, 3, 1][..], &piece(2, chunk)].concat()).collect()
    }

    /// What a client begins with that asks for a server of this name.
    pub(crate) fn asking_for(server: &str) -> Vec<u8> {
        records(&hello(&[name(server)]), RECORD)
    }

    /// The same, longer than anybody needs: with padding (RFC 7685) before the name.
    pub(crate) fn asking_at_length_for(server: &str) -> Vec<u8> {
        records(&hello(&[extension(21, &[0_u8].repeat(MAXIMUM + 1024)), name(server)]), RECORD)
    }

    /// What a client begins with that asks for two servers.
    pub(crate) fn asking_twice_for(first: &str, second: &str) -> Vec<u8> {
        records(&hello(&[name(first), name(second)]), RECORD)
    }

    #[test]
    fn names_are_read_and_nothing_else() {
        let one = |extensions: &[Vec<u8>]| records(&hello(extensions), RECORD);
        let web = || Hello::Name("web.example".to_owned());
        let two = extension(
            0,
            &piece(2, &[[&[0][..], &piece(2, b"a")].concat(), [&[0][..], &piece(2, b"b")].concat()].concat()),
        );
        let in_pieces = records(&hello(&[extension(21, &[0_u8].repeat(ALL / 4)), name("a")]), 1);
        let more = [one(&[name("web.example")]), records(&[20, 0], 2)].concat();
        let rows: Vec<(&str, Vec<u8>, Hello)> = vec![
            ("nothing", vec![], Hello::Incomplete),
            ("name", one(&[extension(10, &[0, 0]), name("Web.Example")]), web()),
            ("more after it", more, web()),
            ("no name", one(&[extension(10, &[0, 0])]), Hello::Nameless),
            ("no extensions", one(&[]), Hello::Nameless),
            ("absolute name", one(&[name("Web.Example.")]), web()),
            ("root", one(&[name(".")]), Hello::Garbled),
            ("empty label", one(&[name("web.example..")]), Hello::Garbled),
            ("empty name", one(&[name("")]), Hello::Garbled),
            ("no name of DNS", one(&[name("a b")]), Hello::Garbled),
            ("long name", one(&[name(&"a".repeat(256))]), Hello::Garbled),
            ("two extensions", asking_twice_for("a", "b"), Hello::Garbled),
            ("two names", one(&[two]), Hello::Garbled),
            ("cut off inside", records(&[1, 0, 0, 2, 3, 3], RECORD), Hello::Garbled),
            ("too long by its head", records(&[1, 1, 0, 0], RECORD), Hello::Garbled),
            ("too long", asking_at_length_for("web.example"), Hello::Garbled),
            ("in too many records", in_pieces, Hello::Garbled),
            ("another message", records(&[2, 0, 0, 2, 3, 3], RECORD), Hello::Garbled),
            ("an alert before it", [vec![21, 3, 1, 0, 2, 1, 90], one(&[name("a")])].concat(), Hello::Garbled),
            ("HTTP", b"GET / HTTP/1.1".to_vec(), Hello::Other),
            ("first byte only", vec![22], Hello::Incomplete),
            ("another version", vec![22, 2], Hello::Garbled),
            ("empty record", vec![22, 3, 1, 0, 0], Hello::Garbled),
        ];
        for (case, bytes, expected) in rows {
            assert_eq!(read(&bytes), expected, "{case}");
        }
    }

    #[test]
    fn it_does_not_matter_how_it_is_cut() {
        let message = hello(&[extension(10, &[0, 0]), name("web.example")]);
        for size in [1, 7, 100, RECORD] {
            let bytes = records(&message, size);
            for length in 0..bytes.len() {
                assert_eq!(read(&bytes[..length]), Hello::Incomplete, "{size}, {length}");
            }
            assert_eq!(read(&bytes), Hello::Name("web.example".to_owned()), "{size}");
        }
    }

    proptest! {
        #[test]
        fn garbled_bytes_are_refused_or_read(place in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = records(&hello(&[name("web.example")]), 40);
            let index = place.index(bytes.len());
            bytes[index] = byte;
            let _ = read(&bytes);
        }
    }
}
