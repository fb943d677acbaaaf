//! Wiring of the node agent: who owns what, in start order, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use fairway_core::io::metrics::Metrics;
use fairway_core::io::{admin, drain};
use fairway_core::limits::{self, Limits};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::events::Recorder;
use crate::handoff::Handoff;
use crate::install;
use crate::kernel::{Kernel, Namespace};
use crate::memory;
use crate::place::Place;
use crate::plugin::protocol::Fail;
use crate::reconcile::{LEAVE_GRACE, Reconciler, Settings};
use crate::report::Reports;
use crate::serve;

/// Runs the agent until `stop`; rules stay in place unless the configuration says otherwise.
///
/// # Errors
/// When something it cannot work without cannot be had at the start: a port, the node socket, a name for its status.
pub async fn run(config: Config, kernel: Arc<dyn Kernel>, stop: CancellationToken) -> anyhow::Result<()> {
    let metrics = metrics();
    let reports = Reports::default();
    let mut place = Place::open(&config, &metrics).await?;
    let events = Arc::new(Recorder::new(metrics.clone(), place.events.clone()));
    let monitoring = config.monitoring();
    let listener = TcpListener::bind(monitoring)
        .await
        .with_context(|| format!("cannot listen on {monitoring}; is another agent running?"))?;
    let (trigger, handle) = drain::new();
    tokio::spawn(admin::serve(
        listener,
        crate::admin::router(metrics.clone(), reports.clone(), Arc::clone(&events)),
        Limits::default(),
        handle,
    ));

    let plugins = serve::bind(&config.cni_agent_run_dir)?;
    let (calls, queue) = mpsc::channel(limits::PLUGIN_CALLS.size());
    let install = Arc::new(config.install());
    let handoff = Handoff::new();
    let connected = handoff.clone();
    let gauge = metrics.gauge("ztunnel_connected", &[]);
    metrics.before_render(move || gauge.set(f64::from(u32::try_from(connected.connected()).unwrap_or(u32::MAX))));
    let settings = Settings {
        node: config.node_name.clone(),
        netns_dir: config.namespaces(),
        rules: config.rules(),
        namespaces_exist: place.namespaces_exist,
        leave_grace: LEAVE_GRACE,
        pods_wait: config.plugin_fail == Fail::Closed,
        established_grace: Duration::from_millis(config.established_grace),
        host_mounts: config.host_mounts.clone(),
        memory: Some(Arc::clone(&install)),
        events,
    };
    let giving_back = memory::give_back(reports.subscribe());
    let mut reconciler = Reconciler::new(
        settings,
        Arc::clone(&kernel),
        handoff.clone(),
        place.notices.clone(),
        reports.clone(),
        metrics.clone(),
    );
    let plugin = serve::serve(plugins, calls, metrics.clone());
    let installing = install_after_first_pass(&reports, install, metrics, &stop);
    // Pods first, proxies second: a proxy drops every pod that its snapshot does not list. No pass is done before the
    // source was read.
    let server = serve_after_first_pass(&handoff, &reports, &config);
    let work = async {
        // An installation that is under way comes to its end before anything is taken away.
        tokio::join!(reconciler.run(place.source.clone(), queue, &stop), installing);
        if config.cleanup_on_exit {
            tracing::info!("taking everything from this node");
            take_away(&config, kernel, &mut place, reconciler.held()).await?;
            // The proxies last: until its rules are gone a pod needs them.
            reconciler.dismiss().await;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        result = server => result?,
        result = work => result?,
        () = plugin => {}
        () = giving_back => {}
    }
    trigger.start(drain::Mode::Immediate);
    Ok(())
}

async fn serve_after_first_pass(handoff: &Handoff, reports: &Reports, config: &Config) -> anyhow::Result<()> {
    // The sender is ours, so this ends only with the first pass.
    let _ = reports.subscribe().wait_for(|latest| latest.passes > 0).await;
    handoff.serve(&config.ztunnel_uds_address).await?;
    Ok(())
}

/// Installs the plugin once it has something to ask and to read, until `stop`. What is installed stays for the next agent.
async fn install_after_first_pass(
    reports: &Reports,
    install: Arc<install::Settings>,
    metrics: Metrics,
    stop: &CancellationToken,
) {
    let mut latest = reports.subscribe();
    tokio::select! {
        () = stop.cancelled() => return,
        // The sender is ours, so this ends only with the first pass.
        _ = latest.wait_for(|latest| latest.passes > 0) => {}
    }
    install::keep(install, metrics, stop.clone()).await;
}

/// Takes everything from the node, for `--uninstall`.
///
/// # Errors
/// When something is left.
pub async fn uninstall(config: &Config, kernel: Arc<dyn Kernel>) -> anyhow::Result<()> {
    let mut place = Place::open(config, &Metrics::default()).await?;
    take_away(config, kernel, &mut place, Vec::new()).await
}

/// `held` are the namespaces that an agent has open, by uid of their pods.
async fn take_away(
    config: &Config,
    kernel: Arc<dyn Kernel>,
    place: &mut Place,
    held: Vec<(String, Namespace)>,
) -> anyhow::Result<()> {
    // Before it is known what was said of pods, nothing is taken: rules would go and their pods' status stay.
    place.read_soon().await?;
    let (install, namespaces) = (config.install(), config.namespaces());
    let done = crate::uninstall::uninstall(kernel, &install, &place.notices, &namespaces, held).await?;
    let program = if done.program_removed { "removed" } else { "kept, as running pods need it to end" };
    tracing::info!(released = done.released, program, "nothing of the mesh is left on this node");
    Ok(())
}

fn metrics() -> Metrics {
    let metrics = Metrics::new(&[]);
    metrics.describe("ztunnel_connected", "Node proxies connected to the node socket.");
    metrics.describe("nodeagent_reconcile_events_total", "Work on pods' rules, by type.");
    metrics.describe(
        "fairway_agent_pods",
        "Pods of this node by state; not_captured counts those that should be captured and are not, unsteady those that are and were not all the time of late, refused those that opt in and cannot be, unknown those whose namespace cannot be read.",
    );
    metrics.describe(
        "fairway_agent_captures_lost_total",
        "How often a pod that was captured was found not to be any more.",
    );
    metrics
        .describe("istio_cni_plugin_requests_total", "Calls of the CNI plugin, by the status they were answered with.");
    metrics.describe("istio_cni_installs_total", "Installations of the CNI plugin, by result.");
    metrics.describe(
        "fairway_source_stale_seconds",
        "How long a part of the source cannot be read; 0 while all of it can. The last state stays in force.",
    );
    metrics.describe("istio_cni_install_ready", "Whether the CNI plugin is installed.");
    metrics
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use fairway_core::source::directory::load;
    use tokio::sync::watch;

    use super::*;
    use crate::kernel::fake::FakeKernel;
    use crate::notices::{Marks, Notices};
    use crate::rules::Capture;

    #[tokio::test(start_paused = true)]
    async fn before_an_api_server_was_read_nothing_is_taken_away() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_str().unwrap();
        let netns = directory.path().join("u1");
        std::fs::write(&netns, "").unwrap();
        let flags = ["agent", "--manifests", "m", "--node-name", "node-1", "--cni-net-dir", root, "--netns-dir", root];
        let config = Config::try_parse_from(flags).unwrap();
        let kernel = Arc::new(FakeKernel::default());
        kernel.place(&netns, 7);
        kernel.tamper(7, Some(Capture::default()));
        let unread = load(&directory.path().join("missing"), None);
        assert!(unread.is_never_read());
        let (_sender, source) = watch::channel(Arc::new(unread));
        let notices = Notices::Server(Marks::unsent(source.clone()));
        let mut place = Place { source, namespaces_exist: true, notices, events: None };
        let held = vec![("u1".to_owned(), kernel.open(&netns).unwrap())];
        let shared: Arc<dyn Kernel> = Arc::<FakeKernel>::clone(&kernel);
        let error = take_away(&config, shared, &mut place, held).await.unwrap_err().to_string();
        assert!(error.contains("could not be read"), "{error}");
        assert!(kernel.content(7).is_some());
    }
}
