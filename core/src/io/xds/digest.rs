//! What a client holds, said in a few kilobytes: names spread over buckets, a sum over each (ADR 0011).
//!
//! A client that comes back says the sums; a server that has the same sums where nothing changed sends only what is in the
//! buckets that differ, and says which those are. What the client holds in one of them and is not sent is gone.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use ring::digest::{SHA256, digest};

/// Key of the node's metadata that carries a [`Digest`].
pub const METADATA_KEY: &str = "FAIRWAY_HELD";
/// Most buckets: 32 KiB of sums, and some 25 names in each in a mesh of 100,000 workloads.
pub const MAXIMUM_BUCKETS: usize = 4_096;
/// Names a bucket should have: each difference costs that many resources, each bucket eight bytes.
const NAMES_PER_BUCKET: usize = 16;
/// Version of the format.
const FORMAT: &str = "1:";

/// The sums of all buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    sums: Vec<u64>,
}

/// One name with its version, hashed; of use to servers, which have many clients and few versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    place: u64,
    content: u64,
}

impl Entry {
    /// Of a resource.
    #[must_use]
    pub fn new(name: &str, version: &str) -> Self {
        Self { place: hash(&[name]), content: hash(&[name, "\0", version]) }
    }
}

impl Digest {
    /// Over so many entries, in as many buckets as suits them.
    #[must_use]
    pub fn of<'a>(count: usize, entries: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let buckets = (count / NAMES_PER_BUCKET).next_power_of_two().min(MAXIMUM_BUCKETS);
        Self::in_buckets(buckets, entries.map(|(name, version)| Entry::new(name, version)))
    }

    /// Over the same number of buckets as another.
    #[must_use]
    pub fn like(other: &Self, entries: impl Iterator<Item = Entry>) -> Self {
        Self::in_buckets(other.sums.len(), entries)
    }

    fn in_buckets(buckets: usize, entries: impl Iterator<Item = Entry>) -> Self {
        let mut sums = vec![0_u64; buckets];
        for entry in entries {
            if let Some(sum) = sums.get_mut(bucket(entry.place, buckets)) {
                *sum = sum.wrapping_add(entry.content);
            }
        }
        Self { sums }
    }

    /// The buckets in which two of the same size differ.
    #[must_use]
    pub fn differing(&self, other: &Self) -> Buckets {
        let mut bits = vec![0_u8; self.sums.len().div_ceil(8)];
        for (index, (left, right)) in self.sums.iter().zip(&other.sums).enumerate() {
            if left != right
                && let Some(byte) = bits.get_mut(index / 8)
            {
                *byte |= 1 << (index % 8);
            }
        }
        Buckets { count: self.sums.len(), bits }
    }

    /// As text for the metadata.
    #[must_use]
    pub fn encode(&self) -> String {
        let bytes: Vec<u8> = self.sums.iter().flat_map(|sum| sum.to_be_bytes()).collect();
        format!("{FORMAT}{}", BASE64.encode(bytes))
    }

    /// Reads [`Digest::encode`]; none if it is anything else.
    #[must_use]
    pub fn decode(text: &str) -> Option<Self> {
        let bytes = BASE64.decode(text.strip_prefix(FORMAT)?).ok()?;
        let (sums, rest) = bytes.as_chunks::<8>();
        let is_valid = rest.is_empty() && sums.len().is_power_of_two() && sums.len() <= MAXIMUM_BUCKETS;
        is_valid.then(|| Self { sums: sums.iter().map(|sum| u64::from_be_bytes(*sum)).collect() })
    }
}

/// Some of the buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets {
    count: usize,
    bits: Vec<u8>,
}

impl Buckets {
    /// Whether the name belongs into one of them.
    #[must_use]
    pub fn hold(&self, name: &str) -> bool {
        self.has(hash(&[name]))
    }

    /// The same for an entry.
    #[must_use]
    pub fn hold_entry(&self, entry: Entry) -> bool {
        self.has(entry.place)
    }

    fn has(&self, place: u64) -> bool {
        let index = bucket(place, self.count);
        self.bits.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1)
    }

    /// As text: number of buckets, then a bit for each.
    #[must_use]
    pub fn encode(&self) -> String {
        format!("{}:{}", self.count, BASE64.encode(&self.bits))
    }

    /// Reads [`Buckets::encode`]; none if it is anything else.
    #[must_use]
    pub fn decode(text: &str) -> Option<Self> {
        let (count, bits) = text.split_once(':')?;
        let count: usize = count.parse().ok()?;
        let bits = BASE64.decode(bits).ok()?;
        let is_valid = count.is_power_of_two() && count <= MAXIMUM_BUCKETS && bits.len() == count.div_ceil(8);
        is_valid.then_some(Self { count, bits })
    }
}

fn bucket(place: u64, count: usize) -> usize {
    // A power of two, so the low bits do.
    usize::try_from(place & u64::try_from(count).unwrap_or(1).saturating_sub(1)).unwrap_or(0)
}

/// The first eight bytes of the SHA-256: a sum is not to be forged by choosing names.
fn hash(parts: &[&str]) -> u64 {
    let digest = match parts {
        [one] => digest(&SHA256, one.as_bytes()),
        parts => digest(&SHA256, parts.concat().as_bytes()),
    };
    digest.as_ref().first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<(String, String)> {
        (0..count).map(|number| (format!("Kubernetes//Pod/shop/web-{number}"), format!("v{number}"))).collect()
    }

    fn digest_of(entries: &[(String, String)], count: usize) -> Digest {
        Digest::of(count, entries.iter().map(|(name, version)| (name.as_str(), version.as_str())))
    }

    #[test]
    fn only_the_buckets_of_what_changed_differ() {
        let mine = names(1_000);
        let mut yours = mine.clone();
        yours[7].1 = "other".to_owned();
        let gone = yours.remove(500);
        let (left, right) = (digest_of(&mine, 1_000), digest_of(&yours, 1_000));
        assert_eq!(left.sums.len(), 64);
        let differing = left.differing(&right);
        assert!(differing.hold(&mine[7].0) && differing.hold(&gone.0));
        let held = mine.iter().filter(|(name, _)| differing.hold(name)).count();
        assert!(held < 100, "{held} of 1,000 names are in the buckets that differ");
        assert_eq!(left.differing(&left.clone()).bits, [0; 8]);
    }

    #[test]
    fn the_order_does_not_matter_but_who_has_which_version_does() {
        let mut entries = names(100);
        let first = digest_of(&entries, 1);
        entries.reverse();
        assert_eq!(digest_of(&entries, 1), first);
        let version = entries[0].1.clone();
        entries[0].1 = std::mem::replace(&mut entries[1].1, version);
        assert_ne!(digest_of(&entries, 1), first);
    }

    #[test]
    fn texts_are_read_back_and_others_are_not() {
        let digest = digest_of(&names(40), 40);
        assert_eq!(Digest::decode(&digest.encode()), Some(digest.clone()));
        for text in ["", "1:", "1:AAAA", "2:AAAAAAAAAAA", "1:*"] {
            assert_eq!(Digest::decode(text), None, "{text}");
        }
        assert_eq!(Digest::decode("1:AAAAAAAAAAA"), Some(Digest { sums: vec![0] }));
        let buckets = digest.differing(&Digest { sums: vec![0; 2] });
        assert_eq!(Buckets::decode(&buckets.encode()), Some(buckets));
        for text in ["", "3:AA", "2:AAAA", "8192:AA", "x:AA"] {
            assert_eq!(Buckets::decode(text), None, "{text}");
        }
    }

    #[test]
    fn the_format_is_as_written_down() {
        assert_eq!(hash(&["a"]), 0xca97_8112_ca1b_bdca);
        assert_eq!(hash(&["a", "\0", "b"]), 0x59b2_71ae_1bbc_b1d3);
        assert_eq!(Digest::of(1, [("a", "b")].into_iter()).encode(), "1:WbJxrhu8sdM");
    }
}
