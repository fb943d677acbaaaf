//! Connections accepted for a pod, on the worker that serves them.

pub use fairway_core::io::listen::{Arrival, accept};

use crate::workers::Place;

/// An accepted connection on the worker that serves it.
pub struct Accepted {
    /// The connection itself.
    pub arrival: Arrival,
    /// Its place on the worker.
    pub place: Place,
}
