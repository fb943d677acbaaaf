//! How a TLS connection begins: the name that is asked for, in whatever pieces it comes.

use fairway_waypoint::client_hello::{Hello, read};

use crate::input::Input;

/// The first bytes of a connection.
pub fn run(data: &[u8]) {
    let bytes = Input::new(data).rest();
    let whole = read(bytes);
    // Once it is clear what it is, more bytes do not change it; and it is not clear before.
    let pieces = (0..=bytes.len()).map(|length| read(&bytes[..length])).find(|hello| *hello != Hello::Incomplete);
    assert_eq!(pieces.unwrap_or(Hello::Incomplete), whole);
    if let Hello::Name(name) = whole {
        assert!(!name.is_empty() && name.len() <= 255 && name.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(name, name.to_ascii_lowercase());
    }
}
