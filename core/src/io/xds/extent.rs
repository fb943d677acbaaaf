//! How much of what a client is owed a response completes: our extension of the delta protocol.
//!
//! The protocol cannot say whether the answer to a subscription ends with a response. A client that could not name all
//! it holds when it subscribed must know, because what such an answer leaves out is gone, and what it has not come to
//! yet is not. Our control plane says so in `system_version_info`, which the protocol leaves to servers and others
//! ignore; a server that says nothing answers in one response. There it also says whether the answer is one to a
//! [`Digest`](super::Digest).

use super::digest::Buckets;

/// What servers with this extension start the field with.
const PREFIX: &str = "fairway/";
const PART: &str = "part";
const OPEN: &str = "open";
const WHOLE: &str = "whole";

/// What has been sent once a response has arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extent {
    /// More belongs to the same answer.
    Part,
    /// All that exists for certain; more may exist, so nothing may be taken for gone unless it is named.
    Open,
    /// All that exists.
    #[default]
    Whole,
}

impl Extent {
    /// Reads the field of a response.
    #[must_use]
    pub fn of(system_version_info: &str) -> Self {
        match parts(system_version_info).and_then(|(extent, _)| extent) {
            Some(PART) => Self::Part,
            Some(OPEN) => Self::Open,
            _ => Self::Whole,
        }
    }

    /// The field of a response that belongs to a generation of the configuration.
    #[must_use]
    pub fn in_generation(self, generation: u64) -> String {
        let suffix = match self {
            Self::Part => "/part",
            Self::Open => "/open",
            Self::Whole => "",
        };
        format!("{PREFIX}{generation}{suffix}")
    }

    /// The field of the last response to a digest, of which these buckets differed.
    #[must_use]
    pub fn resumed(self, generation: u64, differing: &Buckets) -> String {
        let extent = match self {
            Self::Part => PART,
            Self::Open => OPEN,
            Self::Whole => WHOLE,
        };
        format!("{PREFIX}{generation}/{extent}/{}", differing.encode())
    }
}

/// The buckets that differed, if the response ends the answer to a digest.
pub(super) fn differing(system_version_info: &str) -> Option<Buckets> {
    parts(system_version_info)?.1.and_then(Buckets::decode)
}

/// Whether the server has this extension, and so understands a digest.
pub(super) fn is_ours(system_version_info: &str) -> bool {
    parts(system_version_info).is_some()
}

/// What follows the generation. Base 64 has slashes of its own.
fn parts(system_version_info: &str) -> Option<(Option<&str>, Option<&str>)> {
    let mut parts = system_version_info.strip_prefix(PREFIX)?.splitn(3, '/').skip(1);
    Some((parts.next(), parts.next()))
}

#[cfg(test)]
mod tests {
    use super::super::digest::Digest;
    use super::*;

    #[test]
    fn is_read_as_it_was_written() {
        let digest = Digest::of(1_000, [("a", "1")].into_iter());
        let buckets = digest.differing(&Digest::of(1_000, [("a", "2")].into_iter()));
        for extent in [Extent::Part, Extent::Open, Extent::Whole] {
            assert_eq!(Extent::of(&extent.in_generation(7)), extent);
            assert_eq!(differing(&extent.in_generation(7)), None);
            assert_eq!(Extent::of(&extent.resumed(7, &buckets)), extent);
            assert_eq!(differing(&extent.resumed(7, &buckets)), Some(buckets.clone()));
            assert!(is_ours(&extent.in_generation(7)));
        }
        for foreign in ["", "2026-01-02T03:04:05Z/7", "7/part", "fairway/7/unheard-of"] {
            assert_eq!(Extent::of(foreign), Extent::Whole, "{foreign}");
        }
        assert!(!is_ours("2026-01-02T03:04:05Z/7"));
    }
}
