//! Wiring: who owns what, in start order.

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, bail};
use fairway_core::io::certs::Certificates;
use fairway_core::io::certs::authority::GrpcAuthority;
use fairway_core::io::drain::{self, Drain, Mode};
use fairway_core::io::grpc::ControlPlane;
use fairway_core::io::live::Live;
use fairway_core::io::logging::LogFilter;
use fairway_core::io::metrics::{Metrics, runtime};
use fairway_core::io::netns::NetworkNamespace;
use fairway_core::io::ready::Readiness;
use fairway_core::io::socket::{PACKET_MARK, SocketFactory};
use fairway_core::io::{admin, tls, xds};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::admin::{Admin, PodState, readiness_router, stats_router};
use crate::config::Config;
use crate::dns::Dns;
use crate::dns::lookup::Lookup;
use crate::dns::metrics::{self as dns_metrics, DnsMetrics};
use crate::dns::upstream::Upstream;
use crate::neighbours::Neighbours;
use crate::node::NodeClient;
use crate::node::pending::PendingPod;
use crate::pod::Mesh;
use crate::pods::Pods;
use crate::telemetry::Telemetry;
use crate::workers::Workers;

/// Runs the proxy until it is told to stop and its connections have drained.
///
/// # Errors
/// When something it cannot do without is missing: a port, a right, a usable setting.
pub async fn run(config: Config, log_filter: LogFilter, workers: Workers) -> anyhow::Result<()> {
    for ignored in &config.ignored {
        tracing::warn!(variable = ignored, "this setting has no effect here");
    }
    let home = NetworkNamespace::current().context("cannot open our own network namespace; is /proc mounted?")?;
    let metrics = Metrics::new(&[dns_metrics::BUCKETS]);
    // The workers first: theirs are the numbers that tell of the data path. This thread is the last.
    runtime::register(&metrics, &[workers.runtimes(), vec![Handle::current()]].concat());
    let readiness = Readiness::new();
    let (trigger, drain) = drain::new();
    let shutdown = CancellationToken::new();

    let provider = tls::provider();
    let authority = ControlPlane::new(config.ca.clone(), Arc::clone(&provider)).context("CA_ADDRESS")?;
    let authority = Arc::new(GrpcAuthority::new(authority, true));
    let certificates =
        Certificates::new(authority, Arc::clone(&provider), config.certificate_lifetime, SystemTime::now);
    let live = if config.on_demand { Live::on_demand() } else { Live::new() };
    let telemetry = Telemetry::new(&metrics);
    let counted = DnsMetrics::new(&metrics);
    let (resolvers, ours) = (config.dns.resolvers(), SocketFactory::host(Some(PACKET_MARK)));
    let upstream = Upstream::new(resolvers.clone(), ours.clone(), ours.clone());
    let mesh = Arc::new(Mesh {
        live: live.clone(),
        certificates: certificates.clone(),
        telemetry: telemetry.clone(),
        demand_wait: config.demand_wait,
        ipv6: config.ipv6,
        preserve_source: config.preserve_source,
        neighbours: Neighbours::default(),
        workers,
        lookup: Lookup::new(upstream, counted.clone()),
        dns: config.dns.port.map(|port| Arc::new(Dns::new(config.dns.zone.clone(), port, resolvers, ours, counted))),
    });
    let pods = Arc::new(Pods::new(mesh, home, config.node.node_name.as_str().into(), &metrics));

    let agent = NodeClient::new(config.node_socket.clone(), Arc::clone(&pods), readiness.block("node agent"), &metrics);
    let control_plane = ControlPlane::new(config.xds.clone(), provider).context("XDS_ADDRESS")?;
    let stream = configuration(&config, control_plane, live.clone(), &readiness, &metrics);
    let pages = Admin {
        stream: stream.status(),
        live,
        certificates,
        connections: telemetry.table().clone(),
        pods: {
            let (pods, waiting) = (Arc::clone(&pods), agent.pending());
            let served = move || pods.list().into_iter().map(|(uid, info)| PodState { uid, info, pending: None });
            let pending = |pod: PendingPod| PodState { uid: pod.uid, info: pod.info, pending: Some(pod.error) };
            Arc::new(move || served().chain(waiting.list().into_iter().map(pending)).collect())
        },
        config: config.dump(),
        log_filter,
        shutdown: shutdown.clone(),
    };
    operate(&config, &pages, &metrics, &readiness, &drain).await?;

    let mut stream = tokio::spawn(stream.run(drain.clone()));
    let (agent_trigger, agent_drain) = drain::new();
    let mut agent = tokio::spawn(agent.run(agent_drain));

    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        tls = tls::PROVIDER_NAME,
        node = config.node.node_name,
        "ztunnel is running"
    );
    tokio::select! {
        requested = stop_requested(&shutdown) => requested?,
        // Neither ends by itself. Carrying on with a frozen policy, or deaf to the agent, would look healthy.
        ended = &mut stream => bail!("the configuration stream's task ended: {ended:?}"),
        ended = &mut agent => bail!("the node socket's task ended: {:?}", ended.map(drop)),
    }
    let _draining = readiness.block("draining");
    tracing::info!(deadline = ?config.drain_deadline, "shutting down: no new connections, open ones may finish");
    // First no more pods, then their connections; policy and the operators' ports stay until the last one has ended.
    agent_trigger.start(Mode::Graceful);
    let _ = agent.await;
    pods.drain(config.drain_deadline).await;
    trigger.start(Mode::Graceful);
    let _ = stream.await;
    Ok(())
}

/// The client of the configuration server, with what is kept on disk if that is asked for.
fn configuration(
    config: &Config,
    control_plane: ControlPlane,
    live: Live,
    readiness: &Readiness,
    metrics: &Metrics,
) -> xds::Client {
    let stream = xds::Client::new(control_plane, config.node.clone(), live, readiness, metrics);
    let Some(directory) = &config.state_directory else { return stream };
    let owner = xds::Owner {
        cluster: config.xds.cluster_id.clone(),
        node: config.node.node_name.clone(),
        on_demand: config.on_demand,
    };
    stream.kept_by(xds::Keeper::new(directory.clone(), owner, config.store_interval, metrics))
}

/// Opens the ports operators use.
async fn operate(
    config: &Config,
    pages: &Admin,
    metrics: &Metrics,
    readiness: &Readiness,
    drain: &Drain,
) -> anyhow::Result<()> {
    let ports = config.ports;
    let listeners = admin::bind_loopback(ports.admin).await;
    let taken = || format!("cannot listen on port {} of loopback; another ztunnel? see --admin-port", ports.admin);
    for listener in listeners.with_context(taken)? {
        tokio::spawn(admin::serve(listener, pages.router(), drain.clone()));
    }
    for (port, flag, router) in [
        (ports.stats, "--stats-port", stats_router(metrics)),
        (ports.readiness, "--readiness-port", readiness_router(readiness)),
    ] {
        let listener = admin::bind_any(port, config.ipv6).await;
        let listener =
            listener.with_context(|| format!("cannot listen on port {port}; another ztunnel? see {flag}"))?;
        tokio::spawn(admin::serve(listener, router, drain.clone()));
    }
    Ok(())
}

async fn stop_requested(shutdown: &CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = shutdown.cancelled() => {}
    }
    Ok(())
}
