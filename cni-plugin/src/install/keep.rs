//! Watches the directory of configurations and puts ours back when somebody takes it out.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fairway_core::io::metrics::Metrics;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{InstallError, Installed, Settings};

/// How often it is looked at although nothing happened: a watch can be lost, as when the directory is replaced.
const EVERY: Duration = Duration::from_secs(5);

/// Installs, and installs again whenever something changes, until stopped. What was installed stays.
pub async fn keep(settings: Arc<Settings>, metrics: Metrics, stop: CancellationToken) {
    // One change that is not looked at yet stands for all.
    let (changed, mut changes) = mpsc::channel(1);
    let mut watcher: Option<RecommendedWatcher> = None;
    let mut said = None;
    loop {
        if watcher.is_none() {
            watcher = watch(&settings.net_dir, changed.clone());
        }
        let work = Arc::clone(&settings);
        let result = tokio::task::spawn_blocking(move || work.install()).await;
        if let Ok(result) = result {
            report(&result, &metrics, &mut said);
            if matches!(result, Err(InstallError::NoDirectory(_))) {
                watcher = None;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            _ = changes.recv() => {}
            () = tokio::time::sleep(EVERY) => watcher = None,
        }
    }
}

fn watch(directory: &Path, changed: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let tell = move |event: notify::Result<notify::Event>| {
        // To read is no change; our own reading would go round in circles.
        if event.map_or(true, |event| !event.kind.is_access()) {
            let _ = changed.try_send(());
        }
    };
    let mut watcher = notify::recommended_watcher(tell).ok()?;
    watcher.watch(directory, RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}

/// Says what is new; the same again only counts.
fn report(result: &Result<Installed, InstallError>, metrics: &Metrics, said: &mut Option<String>) {
    let (line, ready, outcome) = match result {
        Ok(installed) => (format!("in {}", installed.file), 1.0, installed.changed.then_some("SUCCESS")),
        Err(error) => (error.to_string(), 0.0, Some("FAILURE")),
    };
    metrics.gauge("istio_cni_install_ready", &[]).set(ready);
    if let Some(outcome) = outcome {
        metrics.counter("istio_cni_installs_total", &[("result", outcome)]).increment(1);
    }
    match result {
        Ok(installed) if installed.changed => tracing::info!(file = installed.file, "the CNI plugin is installed"),
        Err(error) if said.as_ref() != Some(&line) => {
            tracing::warn!(%error, "the CNI plugin is not installed; pods are captured after they have started");
        }
        _ => {}
    }
    *said = Some(line);
}
