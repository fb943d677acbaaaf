//! Waiting, and saying what for.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use fairway_lab::{Error, Result};
use serde_json::Value;

use super::cluster::Cluster;
use super::options::Patience;
use super::ready;

/// Time between looks at what is waited for.
const PERIOD: Duration = Duration::from_millis(500);

/// Waits until `look` finds nothing missing any more; says what is, whenever that changes. A roll-out over a thousand nodes takes
/// its time: patience ends when nothing has changed for so long. What was seen before is no progress, as with a pod that comes
/// and goes.
pub(super) fn wait(
    what: &str,
    patience: &Patience,
    hint: &str,
    mut look: impl FnMut() -> Result<Option<String>>,
) -> Result<()> {
    let mut since = Instant::now();
    let mut said = String::new();
    let mut seen = BTreeSet::new();
    loop {
        let Some(missing) = look()? else { return Ok(()) };
        if seen.insert(missing.clone()) {
            since = Instant::now();
        }
        if since.elapsed() >= patience.timeout() {
            return Err(Error::new(format!("waiting for {what}")).because(missing).hint(hint));
        }
        if missing != said {
            fairway_lab::say!("  {what}: {missing}");
            said = missing;
        }
        sleep(PERIOD);
    }
}

/// Waits until an object does what it is there for.
pub(super) fn wait_ready(cluster: &Cluster, object: &Value, patience: &Patience) -> Result<()> {
    let (kind, namespace, name) = fairway_manifests::key(object);
    let hint = if kind == "CustomResourceDefinition" {
        format!("look at: kubectl describe customresourcedefinition {name}")
    } else {
        format!("look at: kubectl -n {namespace} describe pods -l app={name}; then run the same command again")
    };
    wait(&format!("{kind} {name}"), patience, &hint, || {
        let present = cluster.same(object)?;
        Ok(present.map_or_else(|| Some("it is gone".to_owned()), |present| ready::missing(&present)))
    })
}
