//! How much of what a client is owed a response completes: our extension of the delta protocol.
//!
//! The protocol cannot say whether the answer to a subscription ends with a response. A client that could not name all
//! it holds when it subscribed must know, because what such an answer leaves out is gone, and what it has not come to
//! yet is not. Our control plane says so in `system_version_info`, which the protocol leaves to servers and others
//! ignore; a server that says nothing answers in one response.

/// What servers with this extension start the field with.
const PREFIX: &str = "fairway/";
const PART: &str = "part";
const OPEN: &str = "open";

/// What has been sent once a response has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// More belongs to the same answer.
    Part,
    /// All that exists for certain; more may exist, so nothing may be taken for gone unless it is named.
    Open,
    /// All that exists.
    Whole,
}

impl Extent {
    /// Reads the field of a response.
    #[must_use]
    pub fn of(system_version_info: &str) -> Self {
        let ours = system_version_info.strip_prefix(PREFIX).and_then(|rest| rest.split_once('/'));
        match ours {
            Some((_, PART)) => Self::Part,
            Some((_, OPEN)) => Self::Open,
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_as_it_was_written() {
        for extent in [Extent::Part, Extent::Open, Extent::Whole] {
            assert_eq!(Extent::of(&extent.in_generation(7)), extent);
        }
        for foreign in ["", "2026-01-02T03:04:05Z/7", "7/part", "fairway/7/unheard-of"] {
            assert_eq!(Extent::of(foreign), Extent::Whole, "{foreign}");
        }
    }
}
