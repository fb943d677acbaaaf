//! DNS as the proxies speak it: messages on the wire, which resolvers are asked and how, and the addresses of one name.

pub mod addresses;
pub mod resolvers;
#[expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "for tests, which are to end where it cannot be set up"
)]
pub mod test_resolver;
pub mod upstream;
pub mod wire;
