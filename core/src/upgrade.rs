//! What a connection that begins as a request may go on as: other protocols (RFC 9110 §7.8), and tunnels (RFC 9110 §9.3.6).

use std::fmt;

/// The annotation of a service that allows more of them, by their names with commas between them.
pub const ANNOTATION: &str = "fairway.dev/upgrades";
/// What everybody may go on as.
const WEBSOCKET: &str = "websocket";
/// The name that stands for the method.
const CONNECT: &str = "connect";
/// What would carry further requests, in whatever version, which nobody has looked at (RFC 9113 §3.1, RFC 2817 §3).
const OF_REQUESTS: [&str; 6] = ["http", "https", "h2", "h2c", "h3", "tls"];
/// Tunnels of something else than bytes in order (RFC 9298, RFC 9484).
const OF_PACKETS: [&str; 2] = ["connect-udp", "connect-ip"];

/// What requests may go on as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upgrades {
    protocols: Vec<Protocol>,
    connect: bool,
}

/// A protocol, in lower case: its name has no case, and its version is compared without one, as Envoy does.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Protocol {
    name: String,
    /// None is any.
    version: Option<String>,
}

/// Why a name is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUpgrade {
    /// It is none.
    #[error("is neither the name of a protocol nor a name, a slash and a version (RFC 9110 §7.8)")]
    Malformed,
    /// A protocol for requests.
    #[error("would carry requests that no policy and no route is asked about")]
    OfRequests,
    /// A protocol that is carried in no other way either.
    #[error("carries packets, which waypoints do not")]
    OfPackets,
    /// CONNECT has none.
    #[error("is a method and has no version; name connect alone")]
    Version,
}

impl Upgrades {
    /// What everybody may have.
    #[must_use]
    pub fn usual() -> Self {
        let websocket = Protocol { name: WEBSOCKET.to_owned(), version: None };
        Self { protocols: vec![websocket], connect: false }
    }

    /// One more, by its name: that of a protocol with or without a version, or `connect`.
    ///
    /// # Errors
    /// Why it is never carried.
    pub fn allow(&mut self, name: &str) -> Result<(), BadUpgrade> {
        let protocol = Protocol::parse(name).ok_or(BadUpgrade::Malformed)?;
        match protocol.name.as_str() {
            name if OF_REQUESTS.contains(&name) => return Err(BadUpgrade::OfRequests),
            name if OF_PACKETS.contains(&name) => return Err(BadUpgrade::OfPackets),
            CONNECT if protocol.version.is_some() => return Err(BadUpgrade::Version),
            CONNECT => self.connect = true,
            _ if self.protocols.contains(&protocol) => {}
            _ => self.protocols.push(protocol),
        }
        Ok(())
    }

    /// Whether a request may go on as this protocol, which is written as in the header `Upgrade`.
    #[must_use]
    pub fn covers(&self, asked: &str) -> bool {
        Protocol::parse(asked).is_some_and(|asked| {
            let is_meant = |allowed: &Protocol| {
                allowed.name == asked.name && (allowed.version.is_none() || allowed.version == asked.version)
            };
            self.protocols.iter().any(is_meant)
        })
    }

    /// Whether CONNECT opens tunnels.
    #[must_use]
    pub fn has_connect(&self) -> bool {
        self.connect
    }

    /// The names, CONNECT as the method that it is.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let connect = self.connect.then(|| CONNECT.to_ascii_uppercase());
        self.protocols.iter().map(Protocol::to_string).chain(connect)
    }
}

/// Whether a protocol is WebSocket, in whatever version.
#[must_use]
pub fn is_websocket(protocol: &str) -> bool {
    Protocol::parse(protocol).is_some_and(|protocol| protocol.name == WEBSOCKET)
}

impl Protocol {
    fn parse(text: &str) -> Option<Self> {
        let (name, version) = text.split_once('/').map_or((text, None), |(name, version)| (name, Some(version)));
        let is_sound = is_token(name) && version.is_none_or(is_token);
        is_sound.then(|| Self { name: name.to_ascii_lowercase(), version: version.map(str::to_ascii_lowercase) })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.version.as_ref().map_or(Ok(()), |version| write!(f, "/{version}"))
    }
}

/// RFC 9110 §5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_would_carry_requests_or_is_no_name_is_refused() {
        use BadUpgrade::{Malformed, OfPackets, OfRequests, Version};
        let rows: [(&str, Result<&[&str], BadUpgrade>); 24] = [
            ("tcp", Ok(&["websocket", "tcp"])),
            ("SPDY/3.1", Ok(&["websocket", "spdy/3.1"])),
            ("websocket", Ok(&["websocket"])),
            ("WebSocket/13", Ok(&["websocket", "websocket/13"])),
            ("Connect", Ok(&["websocket", "CONNECT"])),
            ("connect/1", Err(Version)),
            ("connect-udp", Err(OfPackets)),
            ("CONNECT-IP", Err(OfPackets)),
            ("h2c", Err(OfRequests)),
            ("H2C/1", Err(OfRequests)),
            ("h2", Err(OfRequests)),
            ("h3", Err(OfRequests)),
            ("HTTP", Err(OfRequests)),
            ("HTTP/2.0", Err(OfRequests)),
            ("https", Err(OfRequests)),
            ("TLS/1.0", Err(OfRequests)),
            ("tls", Err(OfRequests)),
            ("", Err(Malformed)),
            ("/1", Err(Malformed)),
            ("a/", Err(Malformed)),
            ("a/1/2", Err(Malformed)),
            ("a b", Err(Malformed)),
            ("a,b", Err(Malformed)),
            ("\u{e9}", Err(Malformed)),
        ];
        for (name, expected) in rows {
            let mut upgrades = Upgrades::usual();
            let allowed = upgrades.allow(name);
            let names: Vec<String> = upgrades.names().collect();
            match expected {
                Ok(expected) => assert!(allowed.is_ok() && names == expected, "{name}: {allowed:?} {names:?}"),
                Err(why) => assert!(allowed == Err(why) && names == ["websocket"], "{name}: {allowed:?} {names:?}"),
            }
            assert_eq!(upgrades.has_connect(), name == "Connect", "{name}");
        }
    }

    #[test]
    fn a_name_stands_for_all_versions_and_a_version_for_itself() {
        let rows = [
            ("tcp", "tcp", true),
            ("tcp", "TCP", true),
            ("tcp", "tcp/1", true),
            ("tcp", "tcpx", false),
            ("tcp", "xtcp", false),
            ("spdy/3.1", "SPDY/3.1", true),
            ("SPDY/3.1", "spdy/3.1", true),
            ("spdy/3.1", "spdy/3", false),
            ("spdy/3.1", "spdy", false),
            ("spdy/3.1", "spdy/3.1/x", false),
            ("x/A", "x/a", true),
            // CONNECT is a method, not what a request may ask for by a header.
            ("connect", "connect", false),
            ("tcp", "websocket", true),
            ("tcp", "h2c", false),
            ("tcp", "", false),
        ];
        for (allowed, asked, expected) in rows {
            let mut upgrades = Upgrades::usual();
            upgrades.allow(allowed).unwrap();
            assert_eq!(upgrades.covers(asked), expected, "{allowed} {asked}");
        }
        assert!(!Upgrades::default().covers("websocket"));
    }

    proptest! {
        #[test]
        fn nothing_that_carries_requests_is_ever_covered(allowed in "[a-zA-Z0-9/.+-]{0,8}", version in "(/[0-9.]{1,3})?") {
            let mut upgrades = Upgrades::usual();
            let _ = upgrades.allow(&allowed);
            for name in OF_REQUESTS.iter().chain(&OF_PACKETS) {
                let asked = format!("{name}{version}");
                prop_assert!(!upgrades.covers(&asked), "{allowed} covers {asked}");
            }
        }

        #[test]
        fn what_is_rendered_is_read_as_the_same(names in proptest::collection::vec("[a-z]{1,6}(/[0-9.]{1,3})?", 0..4)) {
            let mut upgrades = Upgrades::usual();
            for name in &names {
                let _ = upgrades.allow(name);
            }
            let mut read = Upgrades::default();
            upgrades.names().for_each(|name| read.allow(&name).unwrap());
            prop_assert_eq!(read, upgrades);
        }
    }
}
