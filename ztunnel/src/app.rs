//! Wiring: who owns what, in start order.

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, bail};
use fairway_core::io::certs::Authority;
use fairway_core::io::certs::Certificates;
use fairway_core::io::certs::authority::GrpcAuthority;
use fairway_core::io::certs::test_authority::TestAuthority;
use fairway_core::io::drain::{self, Drain, Mode};
use fairway_core::io::grpc::ControlPlane;
use fairway_core::io::hbone::ReceiveBudget;
use fairway_core::io::live::Live;
use fairway_core::io::logging::Log;
use fairway_core::io::metrics::{Metrics, runtime};
use fairway_core::io::netns::NetworkNamespace;
use fairway_core::io::ready::Readiness;
use fairway_core::io::socket::{Probing, SocketFactory, may_borrow_addresses};
use fairway_core::io::tls::profile::Report;
use fairway_core::io::tls::revocation::RevocationFile;
use fairway_core::io::{admin, certs, stop, xds};
use fairway_core::limits;
use fairway_core::local::Defaults;
use fairway_core::workload::Workload;
use fairway_core::workload::newcomer::Site;
use rustls::crypto::CryptoProvider;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::admin::{Admin, PodState};
use crate::config::{Config, Local, Mode as ProxyMode, Signer};
use crate::dns::Dns;
use crate::dns::lookup::Lookup;
use crate::dns::metrics::{self as dns_metrics, DnsMetrics};
use crate::local::{self, LocalFile};
use crate::memory;
use crate::memory::pressure::Pressure;
use crate::neighbours::Neighbours;
use crate::node::NodeClient;
use crate::node::pending::PendingPod;
use crate::pod::Mesh;
use crate::pods::{Pods, Settings};
use crate::telemetry::Telemetry;
use crate::workers::Workers;
use fairway_core::io::dns::upstream::Upstream;

/// Runs the proxy until it is told to stop and its connections have drained.
///
/// # Errors
/// When something it cannot do without is missing: a port, a right, a usable setting.
pub async fn run(config: Config, log: &Log, workers: Workers) -> anyhow::Result<()> {
    for (variable, reason) in &config.ignored {
        tracing::warn!(variable, reason, "this setting has no effect here");
    }
    let home = NetworkNamespace::current().context("cannot open our own network namespace; is /proc mounted?")?;
    let metrics = Metrics::within(&config.limits, &[dns_metrics::BUCKETS]);
    // The workers first: theirs are the numbers that tell of the data path. This thread is the last.
    runtime::register(&metrics, &[workers.runtimes(), vec![Handle::current()]].concat());
    log.lines.register(&metrics);
    let readiness = Readiness::new();
    let (trigger, drain) = drain::new();
    let shutdown = CancellationToken::new();

    let provider = config.tls_profile.provider().context("COMPLIANCE_POLICY")?;
    let report = Report::of(&provider, config.tls_profile);
    build_metrics(&metrics, &report);
    warm_up(&workers, &provider);
    let authority = authority(&config, &provider)?;
    let certificates = Certificates::within(config.limits.clone(), authority, Arc::clone(&provider), SystemTime::now);
    certs::metrics::register(&certificates, &metrics);
    if let Some(path) = &config.revocation_list {
        let file = RevocationFile::open(path, certificates.trust().clone(), &config.limits).await;
        tokio::spawn(file.context("CRL_PATH")?.follow());
    }
    let live = if config.on_demand { Live::on_demand() } else { Live::new() };
    let telemetry = Telemetry::leaving_out(config.labels_left_out.clone(), &metrics);
    let budget = ReceiveBudget::new(&config.limits);
    budget.register(&metrics);
    let counted = DnsMetrics::new(&metrics);
    let probing = Probing { keepalive: config.keepalive, user_timeout: config.user_timeout };
    let (resolvers, ours) =
        (config.dns.resolvers(), SocketFactory::host(config.packet_mark).within(&config.limits, probing));
    let upstream = Upstream::new(resolvers.clone(), ours.clone(), ours.clone());
    let pressure = Pressure::default();
    let mesh = Arc::new(Mesh {
        site: Site {
            trust_domain: config.names_trust_domain.then(|| config.trust_domain.clone()),
            cluster_id: config.cluster_id.as_str().into(),
            network: config.network.as_str().into(),
        },
        live: live.clone(),
        certificates: certificates.clone(),
        telemetry: telemetry.clone(),
        limits: config.limits.clone(),
        budget,
        pressure: pressure.clone(),
        ipv6: config.ipv6,
        exchange_baggage: config.exchange_baggage,
        waypoint_bypass: config.waypoint_bypass,
        clients_behind_waypoints: config.clients_behind_waypoints,
        tunnel_over_loopback: config.tunnel_over_loopback,
        neighbours: Neighbours::default(),
        workers,
        lookup: Lookup::new(upstream, counted.clone()),
        dns: config.dns.port.map(|port| Arc::new(Dns::new(config.dns.zone.clone(), port, resolvers, ours, counted))),
    });
    let settings = Settings {
        node: Some(config.node.node_name.as_str()).filter(|name| !name.is_empty()).map(Into::into),
        packet_mark: config.packet_mark,
        preserve_source: config.preserve_source.unwrap_or_else(may_borrow_addresses),
        probing,
    };
    let pods = Arc::new(Pods::new(Arc::clone(&mesh), home, settings, &metrics));
    let local = local_configuration(&config, &live, &metrics)?;
    let is_neighbour = {
        let pods = Arc::clone(&mesh);
        Arc::new(move |workload: &Workload, address| pods.neighbours.find(workload, address).is_some())
    };

    tokio::spawn(memory::watch(pressure, config.limits.clone(), metrics.clone()));
    tokio::spawn(memory::give_back(telemetry.table().clone(), config.limits.clone()));
    let agent = match &config.mode {
        ProxyMode::Shared { node_socket, .. } => {
            let block = readiness.block("node agent");
            Some(NodeClient::new(node_socket.clone(), Arc::clone(&pods), block, &metrics))
        }
        ProxyMode::Dedicated(_) => None,
    };
    let stream = match &config.xds {
        Some(address) => {
            let control_plane = ControlPlane::new(address.clone(), provider).context("XDS_ADDRESS")?;
            Some(configuration(&config, control_plane, live.clone(), &readiness, &metrics))
        }
        None => None,
    };
    let pages = Admin {
        stream: stream.as_ref().map(xds::Client::status).unwrap_or_default(),
        live,
        certificates,
        connections: telemetry.table().clone(),
        limits: config.limits.clone(),
        pods: {
            let (pods, waiting) = (Arc::clone(&pods), agent.as_ref().map(NodeClient::pending).unwrap_or_default());
            let served = move || pods.list().into_iter().map(|(uid, info)| PodState { uid, info, pending: None });
            let pending = |pod: PendingPod| PodState { uid: pod.uid, info: pod.info, pending: Some(pod.error) };
            Arc::new(move || served().chain(waiting.list().into_iter().map(pending)).collect())
        },
        is_neighbour,
        clients_behind_waypoints: config.clients_behind_waypoints,
        zone: config.dns.zone.clone(),
        config: config.dump(),
        log_filter: log.filter.clone(),
        shutdown: shutdown.clone(),
    };
    operate(&config, &pages, &metrics, &readiness, &drain).await?;

    let mut stream = match stream {
        Some(stream) => tokio::spawn(stream.run(drain.clone())),
        None => tokio::spawn(until_drained(drain.clone())),
    };
    let mut file = match local {
        Some(file) => tokio::spawn(file.run(drain.clone())),
        None => tokio::spawn(until_drained(drain.clone())),
    };
    let (agent_trigger, agent_drain) = drain::new();
    match &config.mode {
        ProxyMode::Shared { ourselves: Some(ourselves), .. } => {
            if let Err(error) = pods.serve_ourselves(ourselves.clone()) {
                tracing::warn!(%error, "our own ports cannot be reached through the mesh");
            }
        }
        ProxyMode::Shared { ourselves: None, .. } => {}
        ProxyMode::Dedicated(workload) => {
            let failed = "cannot serve the workload; does something else listen on 15001, 15006 or 15008 here?";
            pods.serve_here(workload.clone()).context(failed)?;
        }
    }
    let mut agent = match agent {
        Some(agent) => tokio::spawn(async move { drop(agent.run(agent_drain).await) }),
        None => tokio::spawn(until_drained(agent_drain)),
    };

    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        tls = report.provider,
        profile = %report.profile,
        node = config.node.node_name,
        "ztunnel is running"
    );
    tokio::select! {
        requested = stop::requested(&shutdown) => requested?,
        // None ends by itself. Carrying on with a frozen policy, or deaf to the agent, would look healthy.
        ended = &mut stream => bail!("the configuration stream's task ended: {ended:?}"),
        ended = &mut file => bail!("the task that follows the configuration file ended: {ended:?}"),
        ended = &mut agent => bail!("the node socket's task ended: {:?}", ended),
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
        cluster: config.cluster_id.clone(),
        node: config.node.node_name.clone(),
        on_demand: config.on_demand,
    };
    let interval = config.limits.duration(&limits::XDS_STORE_INTERVAL);
    stream.kept_by(xds::Keeper::new(directory.clone(), owner, interval, metrics))
}

/// Who signs certificates.
fn authority(config: &Config, provider: &Arc<CryptoProvider>) -> anyhow::Result<Arc<dyn Authority>> {
    match &config.signer {
        Signer::ControlPlane(address) => {
            let control_plane = ControlPlane::new(address.clone(), Arc::clone(provider)).context("CA_ADDRESS")?;
            // A proxy of one workload runs as that workload, and asks for nobody else.
            let impersonate = matches!(config.mode, ProxyMode::Shared { .. });
            Ok(Arc::new(GrpcAuthority::new(control_plane, impersonate)))
        }
        Signer::Test(root) => {
            tracing::warn!(root = %root.display(), "FAKE_CA: certificates are signed for anybody who has this file; for tests only");
            Ok(Arc::new(TestAuthority::open(root, SystemTime::now()).context("FAKE_CA_ROOT")?))
        }
    }
}

/// Puts the local configuration into the world, and gives what follows it from here on.
fn local_configuration(config: &Config, live: &Live, metrics: &Metrics) -> anyhow::Result<Option<LocalFile>> {
    let defaults = Defaults { trust_domain: config.trust_domain.to_string(), cluster_id: config.cluster_id.clone() };
    // With a control plane, what is missing from the file may still come; until then nothing is decided.
    let complete = config.xds.is_none();
    match &config.local {
        None => Ok(None),
        Some(Local::Text(text)) => {
            local::apply_text(text, &defaults, live, complete).context("LOCAL_XDS")?;
            Ok(None)
        }
        Some(Local::File(path)) => {
            let file = LocalFile::open(path, defaults, live.clone(), complete, metrics);
            Ok(Some(file.with_context(|| format!("LOCAL_XDS_PATH={}", path.display()))?))
        }
    }
}

/// Has each worker draw random bytes once: AWS-LC takes tens of milliseconds to gather entropy for a thread, which the
/// thread's first handshake, and all connections it carries, would wait for.
fn warm_up(workers: &Workers, provider: &CryptoProvider) {
    let random = provider.secure_random;
    for worker in 0..workers.count() {
        workers.spawn(worker, async move {
            if let Err(error) = random.fill(&mut [0; 32]) {
                tracing::warn!(?error, "no random bytes; handshakes will fail");
            }
        });
    }
}

/// What this build is, as metrics: the version as Istio's components say it, and the cryptography.
fn build_metrics(metrics: &Metrics, report: &Report) {
    metrics.describe("istio_build", "Always 1; the labels say which version runs.");
    metrics.gauge("istio_build", &[("component", "ztunnel"), ("tag", env!("CARGO_PKG_VERSION"))]).set(1.0);
    metrics.describe("fairway_tls_info", "Always 1; the labels say which cryptography tunnels use.");
    let text = |fact: bool| if fact { "true" } else { "false" };
    let labels = [
        ("provider", report.provider),
        ("profile", report.profile.as_str()),
        ("post_quantum", text(report.post_quantum)),
        ("fips_approved_algorithms_only", text(report.approved_algorithms_only)),
        ("fips_validated_module", text(report.validated_module)),
    ];
    metrics.gauge("fairway_tls_info", &labels).set(1.0);
}

/// Stands in for a task that this mode has no use for.
async fn until_drained(mut drain: Drain) {
    drain.started().await;
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
        tokio::spawn(admin::serve(listener, pages.router(), config.limits.clone(), drain.clone()));
    }
    for (port, flag, router) in [
        (ports.stats, "--stats-port", admin::stats_router(metrics)),
        (ports.readiness, "--readiness-port", admin::readiness_router(readiness)),
    ] {
        let listener = admin::bind_any(port, config.ipv6).await;
        let listener =
            listener.with_context(|| format!("cannot listen on port {port}; another ztunnel? see {flag}"))?;
        tokio::spawn(admin::serve(listener, router, config.limits.clone(), drain.clone()));
    }
    Ok(())
}
