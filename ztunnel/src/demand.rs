//! Asks the control plane for what a connection needs and the world does not hold, within a time.

use std::sync::Arc;
use std::time::Duration;

use fairway_core::io::live::Live;
use fairway_core::reason::Reason;
use fairway_core::route::Refusal;
use fairway_core::snapshot::Snapshot;
use tokio::time::Instant;

/// Names one connection may need: its destination, a waypoint, and what that leads to.
const NAMES: usize = 4;

/// One snapshot for the whole decision, in which nothing that exists is `missing`. At once where everything is held.
///
/// # Errors
/// When the control plane does not say in time what there is.
pub async fn snapshot(
    live: &Live,
    patience: Duration,
    missing: impl Fn(&Snapshot) -> Option<String>,
) -> Result<Arc<Snapshot>, Box<Refusal>> {
    let mut snapshot = live.snapshot();
    let Some(demand) = live.demand() else { return Ok(snapshot) };
    let deadline = Instant::now() + patience;
    let mut asked = None;
    for _ in 0..NAMES {
        let Some(name) = missing(&snapshot) else { break };
        if asked.as_ref() == Some(&name) {
            // The control plane has said that there is no such thing.
            break;
        }
        demand.ask(&name, deadline.saturating_duration_since(Instant::now())).await.map_err(|error| {
            Box::new(Refusal {
                reason: Reason::DestinationUnknown,
                subject: format!("{name}: {error}"),
                service: None,
                workload: None,
            })
        })?;
        snapshot = live.snapshot();
        asked = Some(name);
    }
    Ok(snapshot)
}
