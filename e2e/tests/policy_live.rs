//! Policy reaches connections that are already open: what denies them cuts them and is named, what does not leaves them alone.
//!
//! Times are printed, from the moment a policy's file is in place to the moment the client's program sees its connection end.
//! They are measurements to read, not conditions: the tests wait, generously, for things to happen.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod policy_live {
    mod cut;
    mod held;
    mod invalid;
    mod kept;
    mod many;
    mod standalone;
    mod world;
}
