//! Gives memory back to the node's applications: after the start, and when many pods were taken in.

use std::time::Duration;

use fairway_core::io::memory::{let_go, return_free_pages};
use tokio::sync::watch;

use crate::report::Latest;

/// Silence that ends a burst of passes; without work there is one every few seconds.
const SILENCE: Duration = Duration::from_secs(1);
/// Passes after which there is something to give back: every pass makes its reports anew, and a pod takes several.
const PASSES: u64 = 32;

/// Gives back what is free after each burst of work.
pub(crate) async fn give_back(mut reports: watch::Receiver<Latest>) {
    let mut given = None;
    // It ends with those who report.
    while reports.changed().await.is_ok() {
        while matches!(tokio::time::timeout(SILENCE, reports.changed()).await, Ok(Ok(()))) {}
        let passes = reports.borrow_and_update().passes;
        if given.is_none_or(|given| passes >= given + PASSES) {
            return_free_pages();
            let_go();
            given = Some(passes);
        }
    }
}
