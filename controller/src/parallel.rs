//! Work on many items at once, as far as it is pure, on all processors.

use std::thread::{ScopedJoinHandle, available_parallelism, scope};

/// Fewest items that a thread is started for: below that it costs more than it saves.
const SHARE: usize = 2_048;

/// What `make` makes of each item, in their order.
pub(crate) fn map<T: Sync, R: Send>(items: &[T], make: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let processors = available_parallelism().map_or(1, usize::from);
    map_on(processors.min(items.len() / SHARE), items, make)
}

fn map_on<T: Sync, R: Send>(threads: usize, items: &[T], make: impl Fn(&T) -> R + Sync) -> Vec<R> {
    if threads < 2 {
        return items.iter().map(make).collect();
    }
    let make = &make;
    scope(|scope| {
        let shares = items.chunks(items.len().div_ceil(threads).max(1));
        let made = shares.map(|share| scope.spawn(move || share.iter().map(make).collect::<Vec<R>>()));
        let made: Vec<ScopedJoinHandle<'_, Vec<R>>> = made.collect();
        // A panic is the caller's, as it would be without threads.
        made.into_iter()
            .flat_map(|share| share.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_stays_whoever_does_it() {
        let items: Vec<usize> = (0..10_001).collect();
        for threads in [0, 1, 2, 3, 64] {
            assert_eq!(map_on(threads, &items, |item| item * 2), items.iter().map(|item| item * 2).collect::<Vec<_>>());
        }
        assert!(map_on(4, &[] as &[u8], |item| *item).is_empty());
    }
}
