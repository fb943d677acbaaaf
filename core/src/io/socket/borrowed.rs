//! Which port a connection comes from that borrows its client's address.
//!
//! A client in clear text has a connection of its own from that address to the same address and port of the pod, which capture
//! redirects. Were both to come from one port, the kernel would take the second for the first, redirect it, too, and reset both:
//! the client waits for an answer that never comes. So none of the ports is used that clients are given.

/// Below what Linux gives connections by itself (`ip_local_port_range`, from 32768), as do most others, and above what services
/// listen on.
const PORTS: std::ops::Range<u16> = 10_240..32_768;

/// How many are tried before the kernel chooses: with half of them taken, one connection in a million comes to that.
const TRIES: u16 = 20;

/// Ports to be tried in turn for a client that comes from `client`; `chance` is any number.
pub(super) fn ports(client: u16, chance: u16) -> impl Iterator<Item = u16> {
    let count = PORTS.end - PORTS.start;
    // A step that shares no factor with the number of ports, so that it comes to each of them, and neighbours are not taken together.
    const STEP: u16 = 7_919;
    let nth = move |turn: u16| {
        let place = (u32::from(chance) + u32::from(turn) * u32::from(STEP)) % u32::from(count);
        PORTS.start + u16::try_from(place).unwrap_or_default()
    };
    (0..TRIES).map(nth).filter(move |port| *port != client)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_are_others_than_the_clients() {
        for (client, chance) in [(40_000, 0), (10_240, 0), (10_240, u16::MAX), (32_767, 22_527), (1, 22_528)] {
            let found: Vec<u16> = ports(client, chance).collect();
            assert!(found.iter().all(|port| PORTS.contains(port) && *port != client), "{client} {chance}: {found:?}");
            let different: BTreeSet<_> = found.iter().collect();
            assert!(
                different.len() == found.len() && found.len() >= usize::from(TRIES) - 1,
                "{client} {chance}: {found:?}"
            );
        }
        assert_ne!(ports(1, 1).next(), ports(1, 2).next());
    }
}
