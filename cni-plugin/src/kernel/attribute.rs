//! Attributes of netlink messages (netlink(7)): length, type, value, padding.

/// Length of an attribute's header, in bytes.
const HEADER: usize = 4;
/// The bits of a type that say how its value is written.
const FLAGS: u16 = 0xc000;

/// One attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attribute<'a> {
    /// Its type, without flags.
    pub(super) kind: u16,
    pub(super) value: &'a [u8],
    /// All of it, padding included.
    pub(super) whole: &'a [u8],
}

/// The attributes of `bytes`, up to the first place where none can be.
pub(super) fn all(bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let ([l0, l1, k0, k1], _) = rest.split_first_chunk::<HEADER>()?;
        let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
        let value = rest.get(HEADER..length)?;
        let whole = rest.get(..length.next_multiple_of(4)).unwrap_or(rest);
        rest = rest.get(whole.len()..).unwrap_or_default();
        Some(Attribute { kind: u16::from_ne_bytes([*k0, *k1]) & !FLAGS, value, whole })
    })
}

/// The value of the first attribute of type `kind`.
pub(super) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    all(bytes).find(|attribute| attribute.kind == kind).map(|attribute| attribute.value)
}

/// Adds an attribute; none of ours is longer than one may be.
pub(super) fn put(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let Ok(length) = u16::try_from(HEADER + value.len()) else { return };
    to.extend(length.to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_found_and_what_is_cut_off_is_not() {
        let mut bytes = Vec::new();
        put(&mut bytes, 1, b"abc");
        put(&mut bytes, 2 | 0x8000, b"");
        put(&mut bytes, 3, b"defg");
        assert_eq!(bytes.len(), 8 + 4 + 8);
        let kinds = |bytes: &[u8]| all(bytes).map(|attribute| attribute.kind).collect::<Vec<_>>();
        assert_eq!(kinds(&bytes), [1, 2, 3]);
        assert_eq!((find(&bytes, 1), find(&bytes, 2), find(&bytes, 9)), (Some(&b"abc"[..]), Some(&b""[..]), None));
        assert_eq!(all(&bytes).flat_map(|attribute| attribute.whole.to_vec()).collect::<Vec<_>>(), bytes);
        assert_eq!(kinds(&bytes[..18]), [1, 2]);
        // The last one may come without its padding; a length shorter than a header ends it all.
        assert_eq!(kinds(&bytes[..7]), [1]);
        assert_eq!(kinds(&[3, 0, 1, 0]), [0_u16; 0]);
        assert_eq!(kinds(&[]), [0_u16; 0]);
    }
}
