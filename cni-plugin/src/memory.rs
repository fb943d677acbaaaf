//! Gives memory back to the node's applications: after the start, and when many pods were taken in.

use std::time::Duration;

use fairway_core::io::memory::{Growth, let_go};
use tokio::sync::watch;

use crate::report::Latest;

/// Silence that ends a burst of passes; without work there is one every few seconds.
const SILENCE: Duration = Duration::from_secs(1);

/// Gives back what is free after each burst of work.
pub(crate) async fn give_back(mut reports: watch::Receiver<Latest>) {
    let mut growth = Growth::default();
    // It ends with those who report.
    while reports.changed().await.is_ok() {
        while matches!(tokio::time::timeout(SILENCE, reports.changed()).await, Ok(Ok(()))) {}
        if growth.give_back() {
            let_go();
        }
    }
}
