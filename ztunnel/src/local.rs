//! Configuration from a file: read at start, followed while the proxy runs; a broken version changes nothing.

use std::path::Path;

use fairway_core::io::drain::Drain;
use fairway_core::io::live::Live;
use fairway_core::io::metrics::{Gauge, Metrics};
use fairway_core::local::{Defaults, LocalConfig, LocalError, Reading, watch};
use fairway_core::snapshot::Update;
use tokio::sync::watch::Receiver;

const REJECTED: &str = "fairway_local_file_rejected";

/// A configuration file that was good when the proxy started.
#[derive(Debug)]
pub struct LocalFile {
    readings: Receiver<Reading>,
    live: Live,
    name: String,
    complete: bool,
    rejected: Gauge,
}

/// Puts a configuration that never changes into the world. `complete`: nobody else has anything to say.
///
/// # Errors
/// What is wrong with the text.
pub fn apply_text(text: &str, defaults: &Defaults, live: &Live, complete: bool) -> Result<(), LocalError> {
    apply(live, LocalConfig::parse(text, defaults)?, complete);
    Ok(())
}

impl LocalFile {
    /// Reads the file and puts it into the world. `complete`: no control plane has anything to add.
    ///
    /// # Errors
    /// What is wrong with the file. There is no earlier state to go on with, and starting with less than is written
    /// could let in what is meant to be kept out.
    pub fn open(
        path: &Path,
        defaults: Defaults,
        live: Live,
        complete: bool,
        metrics: &Metrics,
    ) -> Result<Self, LocalError> {
        metrics.describe(REJECTED, "1 while the local configuration file is broken and its last good version in use.");
        let rejected = metrics.gauge(REJECTED, &[]);
        rejected.set(0.0);
        let mut readings = watch(path, defaults);
        let config = readings.borrow_and_update().config.clone()?;
        apply(&live, config, complete);
        Ok(Self { readings, live, name: path.display().to_string(), complete, rejected })
    }

    /// Follows the file until the drain starts.
    pub async fn run(mut self, mut drain: Drain) {
        loop {
            tokio::select! {
                _ = drain.started() => return,
                changed = self.readings.changed() => if changed.is_err() { return },
            }
            let config = self.readings.borrow_and_update().config.clone();
            match config {
                Ok(config) => {
                    tracing::info!(file = self.name, "configuration file read again");
                    self.rejected.set(0.0);
                    let (live, complete) = (self.live.clone(), self.complete);
                    // A large file takes long, and the workers have connections to carry.
                    if let Err(error) = tokio::task::spawn_blocking(move || apply(&live, config, complete)).await {
                        tracing::error!(%error, "applying the configuration file failed; please report this");
                    }
                }
                Err(error) => {
                    self.rejected.set(1.0);
                    tracing::warn!(
                        file = self.name,
                        line = error.line,
                        column = error.column,
                        field = error.field,
                        "configuration file in error, its last good version stays in use: {error}"
                    );
                }
            }
        }
    }
}

fn apply(live: &Live, config: LocalConfig, complete: bool) {
    live.apply_file(config.updates());
    if complete {
        live.apply(vec![Update::Complete]);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use fairway_core::io::drain::{self, Mode};
    use tokio::time::timeout;

    use super::*;

    fn defaults() -> Defaults {
        Defaults { trust_domain: "cluster.local".to_owned(), cluster_id: "Kubernetes".to_owned() }
    }

    async fn workloads(live: &Live, expected: &[&str]) {
        let present = || {
            let snapshot = live.snapshot();
            let mut names: Vec<_> = snapshot.workloads().map(|workload| workload.name.to_string()).collect();
            names.sort();
            names
        };
        let mut versions = live.versions();
        let seen = versions.wait_for(|_| present() == expected);
        timeout(Duration::from_secs(30), seen)
            .await
            .unwrap_or_else(|_| panic!("{:?}, not {expected:?}", present()))
            .unwrap();
    }

    /// The whole life of a file: good, broken, good again, gone.
    #[tokio::test]
    async fn a_broken_file_keeps_the_last_good_state() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("local.yaml");
        let (live, metrics) = (Live::new(), Metrics::new(&[]));
        let opened = LocalFile::open(&path, defaults(), live.clone(), true, &metrics);
        assert!(opened.unwrap_err().to_string().contains("cannot be read"));
        let write = |text: &str| {
            let draft = directory.path().join("draft");
            fs::write(&draft, text).unwrap();
            fs::rename(&draft, &path).unwrap();
        };
        let entry =
            |name: &str| format!("- {{name: {name}, namespace: n, workloadIps: [10.0.0.1], protocol: HBONE}}\n");
        write(&format!("workloads:\n{}", entry("a")));
        let file = LocalFile::open(&path, defaults(), live.clone(), true, &metrics).unwrap();
        workloads(&live, &["a"]).await;
        assert!(live.snapshot().is_complete());
        let (trigger, drain) = drain::new();
        let following = tokio::spawn(file.run(drain));
        write(&format!("workloads:\n{}  colour: red\n", entry("b")));
        let mut rendered = metrics.render();
        let broken = async {
            while !rendered.contains("fairway_local_file_rejected 1") {
                tokio::task::yield_now().await;
                rendered = metrics.render();
            }
        };
        timeout(Duration::from_secs(30), broken).await.unwrap();
        workloads(&live, &["a"]).await;
        write(&format!("workloads:\n{}{}", entry("b"), entry("c")));
        workloads(&live, &["b", "c"]).await;
        assert!(metrics.render().contains("fairway_local_file_rejected 0"));
        fs::remove_file(&path).unwrap();
        trigger.start(Mode::Graceful);
        following.await.unwrap();
        workloads(&live, &["b", "c"]).await;
    }
}
