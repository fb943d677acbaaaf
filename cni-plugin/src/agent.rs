//! Wiring of the node agent: who owns what, in start order, and how it ends.

use std::sync::Arc;

use anyhow::Context;
use fairway_core::io::metrics::Metrics;
use fairway_core::io::{admin, drain};
use fairway_core::limits::Limits;
use fairway_core::source::directory;
use fairway_core::source::status::Writer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::handoff::Handoff;
use crate::kernel::Kernel;
use crate::reconcile::{LEAVE_GRACE, Reconciler, Settings};
use crate::report::Reports;

/// Runs the agent until `stop`; rules stay in place unless the configuration says otherwise.
///
/// # Errors
/// When something it cannot work without cannot be had at the start: a port, the node socket, a name for its status.
pub async fn run(config: Config, kernel: Arc<dyn Kernel>, stop: CancellationToken) -> anyhow::Result<()> {
    let metrics = metrics();
    let reports = Reports::default();
    let status = Writer::new(&config.manifests, &format!("cni-agent.{}", config.node_name))?;
    let listener = TcpListener::bind(config.monitoring_listen)
        .await
        .with_context(|| format!("cannot listen on {}; is another agent running?", config.monitoring_listen))?;
    let (trigger, handle) = drain::new();
    tokio::spawn(admin::serve(
        listener,
        crate::admin::router(metrics.clone(), reports.clone()),
        Limits::default(),
        handle,
    ));

    let handoff = Handoff::new();
    let connected = handoff.clone();
    let gauge = metrics.gauge("ztunnel_connected", &[]);
    metrics.before_render(move || gauge.set(f64::from(u32::try_from(connected.connected()).unwrap_or(u32::MAX))));
    let settings = Settings {
        node: config.node_name.clone(),
        netns_dir: config.netns_dir.clone(),
        rules: config.rules(),
        leave_grace: LEAVE_GRACE,
    };
    let mut reconciler = Reconciler::new(settings, kernel, handoff.clone(), status, reports.clone(), metrics);
    let source = directory::watch(&config.manifests);
    // Pods first, proxies second: a proxy drops every pod that its snapshot does not list.
    let server = serve_after_first_pass(&handoff, &reports, &config);
    let work = async {
        reconciler.run(source, &stop).await;
        if config.cleanup_on_exit {
            tracing::info!("releasing all pods");
            reconciler.release_all().await;
        }
    };
    tokio::select! {
        result = server => result?,
        () = work => {}
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

fn metrics() -> Metrics {
    let metrics = Metrics::new(&[]);
    metrics.describe("ztunnel_connected", "Node proxies connected to the node socket.");
    metrics.describe("nodeagent_reconcile_events_total", "Work on pods' rules, by type.");
    metrics.describe("fairway_agent_pods", "Pods of this node by state.");
    metrics
}
