//! Walks the fields of an encoded message that cannot be decoded, as far as they can be told apart.

/// One field's value. Kinds that no address is written in are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Field numbers and values, up to the first byte that makes no sense. A last field that is cut short is given as far as
/// it goes.
pub(super) fn fields(bytes: &[u8]) -> impl Iterator<Item = (u64, Field<'_>)> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        loop {
            let key = varint(&mut rest)?;
            let number = key >> 3;
            match key & 7 {
                0 => return Some((number, Field::Number(varint(&mut rest)?))),
                2 => {
                    let length = usize::try_from(varint(&mut rest)?).unwrap_or(usize::MAX).min(rest.len());
                    let (value, after) = rest.split_at_checked(length)?;
                    rest = after;
                    return Some((number, Field::Bytes(value)));
                }
                1 => rest = rest.get(8..)?,
                5 => rest = rest.get(4..)?,
                _ => return None,
            }
        }
    })
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::RefusedResource;

    fn claimed(bytes: &[u8]) -> Vec<String> {
        let refused = RefusedResource::undecodable("x", bytes);
        let addresses = refused.addresses.iter().map(ToString::to_string);
        addresses.chain(refused.blocks.iter().map(ToString::to_string)).collect()
    }

    #[test]
    fn addresses_are_made_out_in_what_cannot_be_decoded() {
        let rows: [(&str, &[u8], &[&str]); 8] = [
            // A name that is not UTF-8, then two addresses and a network.
            (
                "workload",
                b"\x0a\x18\x0a\x02\xff\xfe\x1a\x04\x0a\x00\x00\x4d\x1a\x04\x0a\x00\x00\x4e\x22\x04east",
                &["east/10.0.0.77", "east/10.0.0.78"],
            ),
            ("its node's", b"\x0a\x09\x1a\x04\x0a\x00\x00\x4d\xc8\x01\x01", &[]),
            ("service", b"\x12\x0c\x0a\x02\xff\xfe\x22\x06\x12\x04\x0a\x60\x00\x4d", &["/10.96.0.77"]),
            ("block", b"\x12\x0a\x22\x08\x12\x04\xf0\x00\x00\x00\x18\x08", &["/240.0.0.0/8"]),
            ("cut short", b"\x0a\x7f\x1a\x04\x0a\x00\x00\x4d\x22\x04ea", &["ea/10.0.0.77"]),
            ("address cut short", b"\x0a\x7f\x1a\x04\x0a\x00", &[]),
            ("of another length", b"\x0a\x05\x1a\x03\x0a\x00\x00", &[]),
            ("garbage", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", &[]),
        ];
        for (what, bytes, expected) in rows {
            assert_eq!(claimed(bytes), expected, "{what}");
        }
    }
}
