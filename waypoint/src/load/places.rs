//! Which endpoint a hash leads to: the same one for as long as it is there, and few others when endpoints come and go. By
//! Envoy's methods: ketama with its names of places, and Maglev.

use std::net::SocketAddr;

use twox_hash::XxHash64;

use crate::config::Balancer;

/// Most places on a ring, 16 bytes each: with more than a hundred for each of a thousand endpoints they share evenly.
const RING: usize = 1 << 17;
/// Most places of a table, 4 bytes each; the first prime above a million.
const TABLE: usize = 1_000_003;

/// Places of endpoints, by hash.
#[derive(Debug)]
pub(super) enum Places {
    /// On a ring: the next one after the hash (ketama).
    Ring(Vec<(u64, u32)>),
    /// In a table that each endpoint has an equal part of (Maglev).
    Table(Vec<u32>),
}

/// The hash of a text that requests are told apart by.
#[must_use]
pub fn hash(text: &[u8]) -> u64 {
    XxHash64::oneshot(0, text)
}

/// The hash of several texts, in whatever order they come; as Envoy has it for the lines of a header, so that a client keeps its
/// endpoint whoever is its proxy.
#[must_use]
pub fn hash_of_all(mut texts: Vec<&[u8]>) -> u64 {
    texts.sort_unstable();
    texts.iter().fold(0, |seed, text| XxHash64::oneshot(seed, text))
}

impl Places {
    /// The places of `endpoints` by their weights, if there are any, if `balancer` asks for some.
    #[must_use]
    pub(super) fn of(balancer: Balancer, endpoints: &[SocketAddr], weights: Option<&[u64]>) -> Option<Self> {
        let weight = |index: usize| weights.and_then(|weights| weights.get(index)).copied().unwrap_or(1);
        match balancer {
            Balancer::Ring(size) => Some(ring(size, endpoints, weight)),
            Balancer::Table(size) => Some(table(size, endpoints, weight)),
            Balancer::RoundRobin | Balancer::LeastRequest | Balancer::Random => None,
        }
    }

    /// Endpoints by their numbers, the one that is meant first and then who is next; some more than once.
    pub(super) fn from(&self, hash: u64) -> impl Iterator<Item = usize> {
        let (start, length) = match self {
            Self::Ring(ring) => (ring.partition_point(|(place, _)| *place < hash), ring.len()),
            Self::Table(table) => {
                let length = u64::try_from(table.len().max(1)).unwrap_or(u64::MAX);
                (usize::try_from(hash % length).unwrap_or_default(), table.len())
            }
        };
        (0..length).filter_map(move |step| {
            let place = (start + step) % length;
            let number = match self {
                Self::Ring(ring) => ring.get(place).map(|(_, number)| *number),
                Self::Table(table) => table.get(place).copied(),
            };
            usize::try_from(number?).ok()
        })
    }
}

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// As many places for each as its weight is of all, and at least `size` in all.
fn ring(size: usize, endpoints: &[SocketAddr], weight: impl Fn(usize) -> u64) -> Places {
    let total: u128 = (0..endpoints.len()).map(|index| u128::from(weight(index))).sum();
    let size = u128::try_from(size.min(RING)).unwrap_or_default();
    let each = |index| (size * u128::from(weight(index))).div_ceil(total.max(1)).max(1);
    let places = endpoints.iter().enumerate().flat_map(|(index, endpoint)| {
        (0..each(index)).map(move |place| (hash(format!("{endpoint}_{place}").as_bytes()), number(index)))
    });
    let mut ring: Vec<_> = places.collect();
    ring.sort_unstable();
    Places::Ring(ring)
}

/// The first prime from `least` on.
fn prime(least: u64) -> u64 {
    let is_prime =
        |number: &u64| (2..).take_while(|part| part * part <= *number).all(|part| !number.is_multiple_of(part));
    (least..).find(is_prime).unwrap_or(least)
}

/// Each endpoint in turn takes the next place of its own order that is free. The size is a prime, so that each order has all
/// places in it.
fn table(size: usize, endpoints: &[SocketAddr], weight: impl Fn(usize) -> u64) -> Places {
    const FREE: u32 = u32::MAX;
    if endpoints.is_empty() {
        return Places::Table(Vec::new());
    }
    let size = prime(u64::try_from(size.clamp(2, TABLE)).unwrap_or(2));
    let mut orders: Vec<(u64, u64)> = endpoints
        .iter()
        .map(|endpoint| {
            let name = endpoint.to_string();
            let step = XxHash64::oneshot(1, name.as_bytes()) % (size - 1) + 1;
            (hash(name.as_bytes()) % size, step)
        })
        .collect();
    let mut table = vec![FREE; usize::try_from(size).unwrap_or_default()];
    let mut left = table.len();
    // Who weighs most has a turn each time round, others as often as their weight is of that.
    let most = (0..endpoints.len()).map(&weight).max().unwrap_or(1).max(1);
    let mut due = vec![0_u64; endpoints.len()];
    while left > 0 {
        for (index, ((next, step), due)) in orders.iter_mut().zip(&mut due).enumerate() {
            *due = due.saturating_add(weight(index));
            if *due < most {
                continue;
            }
            *due -= most;
            for _ in 0..table.len() {
                let place = table.get_mut(usize::try_from(*next).unwrap_or_default());
                *next = (*next + *step) % size;
                if let Some(place) = place.filter(|place| **place == FREE) {
                    *place = number(index);
                    left -= 1;
                    break;
                }
            }
            if left == 0 {
                break;
            }
        }
    }
    Places::Table(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(count: u8) -> Vec<SocketAddr> {
        (0..count).map(|number| SocketAddr::from(([10, 0, 0, number], 80))).collect()
    }

    #[test]
    fn hashes_are_those_of_xxhash() {
        // Reference values of xxHash64 with seed 0.
        assert_eq!(hash(b""), 0xef46_db37_51d8_e999);
        assert_eq!(hash(b"a"), 0xd24e_c4f1_a98c_6e5b);
    }

    /// For a thousand hashes: how many lead to each of five, and how many elsewhere without one of them.
    #[test]
    fn hashes_lead_evenly_and_steadily() {
        for balancer in [Balancer::Ring(1024), Balancer::Ring(1), Balancer::Table(65_537), Balancer::Table(1_009)] {
            let all = endpoints(5);
            let places = Places::of(balancer, &all, None).unwrap();
            let fewer = Places::of(balancer, &all[..4], None).unwrap();
            let to = |places: &Places, key: u32| places.from(hash(&key.to_be_bytes())).next().unwrap();
            let mut counts = [0; 5];
            let mut moved = 0;
            for key in 0..1000 {
                let (before, after) = (to(&places, key), to(&fewer, key));
                counts[before] += 1;
                moved += usize::from(before != 4 && before != after);
                let mut others = places.from(hash(&key.to_be_bytes())).filter(|index| *index != before);
                assert!(others.next().is_some(), "there is a next one");
            }
            if balancer != Balancer::Ring(1) {
                assert!(counts.iter().all(|count| (100..350).contains(count)), "{balancer:?}: {counts:?}");
            }
            assert!(moved < 100, "{balancer:?}: {moved}");
        }
    }

    #[test]
    fn who_weighs_more_has_more_places() {
        for balancer in [Balancer::Ring(1024), Balancer::Table(1_009)] {
            let places = Places::of(balancer, &endpoints(3), Some(&[7, 2, 1])).unwrap();
            let mut counts = [0_i32; 3];
            for key in 0..1000_u32 {
                counts[places.from(hash(&key.to_be_bytes())).next().unwrap()] += 1;
            }
            for (count, expected) in counts.iter().zip([700, 200, 100]) {
                assert!((count - expected).abs() < 70, "{balancer:?}: {counts:?}");
            }
            let even = Places::of(balancer, &endpoints(3), Some(&[5, 5, 5])).unwrap();
            let plain = Places::of(balancer, &endpoints(3), None).unwrap();
            assert!((0..99).all(|key| even.from(key << 55).next() == plain.from(key << 55).next()), "{balancer:?}");
        }
    }

    #[test]
    fn tables_have_a_prime_number_of_places() {
        for (least, expected) in [(2, 2), (4, 5), (9, 11), (65_537, 65_537), (1_000_000, 1_000_003)] {
            assert_eq!(prime(least), expected);
        }
    }

    #[test]
    fn nobody_and_one_have_places_too() {
        for balancer in [Balancer::Ring(8), Balancer::Table(7), Balancer::Table(0), Balancer::Table(6)] {
            assert_eq!(Places::of(balancer, &[], None).unwrap().from(7).next(), None);
            assert_eq!(Places::of(balancer, &endpoints(1), None).unwrap().from(7).next(), Some(0), "{balancer:?}");
            assert!(Places::of(balancer, &endpoints(3), None).unwrap().from(7).all(|index| index < 3), "{balancer:?}");
        }
        assert!(Places::of(Balancer::Random, &endpoints(1), None).is_none());
    }
}
