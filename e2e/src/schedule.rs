//! Which node a pod goes to.

/// The node (from 1) for a pod: the one it asks for, else the least loaded that has room, the first of equals.
///
/// `load` holds the number of pods per node, starting with node 1; `capacity` is how many a node takes.
pub(crate) fn place(wanted: Option<&str>, load: &[usize], capacity: usize) -> Result<u8, String> {
    let numbered = (1..=u8::MAX).zip(load.iter().copied());
    if let Some(wanted) = wanted {
        return match numbered.into_iter().find(|(number, _)| crate::addresses::node_name(*number) == wanted) {
            Some((number, pods)) if pods < capacity => Ok(number),
            Some(_) => Err(format!("node {wanted} is full: it takes {capacity} pods")),
            None => Err(format!("spec.nodeName: there is no node {wanted}; the lab has node-1 to node-{}", load.len())),
        };
    }
    numbered
        .filter(|(_, pods)| *pods < capacity)
        .min_by_key(|(_, pods)| *pods)
        .map(|(number, _)| number)
        .ok_or_else(|| format!("every node is full: each takes {capacity} pods; bring the lab up with more --nodes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_loaded_node_wins_and_a_wish_is_honoured() {
        assert_eq!(place(None, &[1, 0, 0], 9), Ok(2));
        assert_eq!(place(None, &[1, 1], 9), Ok(1));
        assert_eq!(place(Some("node-2"), &[0, 5], 9), Ok(2));
    }

    #[test]
    fn impossible_wishes_say_why() {
        assert!(place(Some("node-3"), &[0, 0], 9).unwrap_err().contains("node-1 to node-2"));
        assert!(place(Some("node-1"), &[9, 0], 9).unwrap_err().contains("full"));
        assert!(place(None, &[9, 9], 9).unwrap_err().contains("--nodes"));
    }
}
