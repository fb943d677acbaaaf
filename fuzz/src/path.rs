//! The path of a request, in the one form that policies and routes are asked about.

use fairway_waypoint::path::normalise;

use crate::input::Input;

/// Whether slashes are merged, and a path.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let merges = input.byte() & 1 > 0;
    let Ok(path) = std::str::from_utf8(input.rest()) else { return };
    let Ok(normal) = normalise(path, merges) else { return };
    assert_eq!(normalise(&normal, merges).as_deref(), Ok(&*normal), "what is normal stays so");
    if normal == "*" {
        return;
    }
    assert!(normal.starts_with('/') && normal.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_control()));
    assert!(normal.split('/').all(|segment| segment != "." && segment != ".."), "{normal}");
    assert!(!merges || !normal.contains("//"), "{normal}");
}
