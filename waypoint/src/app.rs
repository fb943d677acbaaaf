//! Wiring: who owns what, in start order.

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, bail};
use arc_swap::ArcSwapOption;
use fairway_core::io::certs::Certificates;
use fairway_core::io::certs::authority::GrpcAuthority;
use fairway_core::io::dns::upstream::Upstream;
use fairway_core::io::drain::{self, Drain, Mode};
use fairway_core::io::grpc::ControlPlane;
use fairway_core::io::hbone::handshakes::Handshakes;
use fairway_core::io::hbone::{Pool, ReceiveBudget};
use fairway_core::io::listen;
use fairway_core::io::live::Live;
use fairway_core::io::logging::Log;
use fairway_core::io::metrics::{Metrics, runtime};
use fairway_core::io::ready::Readiness;
use fairway_core::io::socket::{Probing, SocketFactory};
use fairway_core::io::{admin, certs, stop, xds};
use fairway_core::limits;
use fairway_core::snapshot::PodRef;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::admin::Admin;
use crate::config::Current;
use crate::export;
use crate::in_flight::InFlight;
use crate::lines;
use crate::load::Loads;
use crate::names::{self, Names};
use crate::origination::Originations;
use crate::rates::Buckets;
use crate::settings::Settings;
use crate::telemetry::{self, HISTOGRAMS, Telemetry};
use crate::tunnel;
use crate::upstream::Upstreams;
use crate::waypoint::Waypoint;
use crate::xds::{Client, Held, KIND};

/// Runs the waypoint until it is told to stop and its connections have drained.
///
/// # Errors
/// When something it cannot do without is missing: a port, a usable setting.
pub async fn run(settings: Settings, log: &Log) -> anyhow::Result<()> {
    let buckets: Vec<_> = HISTOGRAMS.to_vec();
    let metrics = Metrics::within(&settings.limits, &buckets);
    runtime::register(&metrics, &[Handle::current()]);
    log.lines.register(&metrics);
    metrics.describe("istio_build", "Always 1; the labels say which version runs.");
    metrics.gauge("istio_build", &[("component", "waypoint"), ("tag", env!("CARGO_PKG_VERSION"))]).set(1.0);
    let readiness = Readiness::new();
    let (trigger, drain) = drain::new();
    let (stream_trigger, stream_drain) = drain::new();
    let shutdown = CancellationToken::new();

    let provider = settings.tls_profile.provider().context("COMPLIANCE_POLICY")?;
    let authority = ControlPlane::new(settings.ca.clone(), Arc::clone(&provider)).context("CA_ADDRESS")?;
    let authority = Arc::new(GrpcAuthority::new(authority, false));
    let certificates = Certificates::within(settings.limits.clone(), authority, Arc::clone(&provider), SystemTime::now);
    certs::metrics::register(&certificates, &metrics);
    let control_plane = ControlPlane::new(settings.xds.clone(), Arc::clone(&provider)).context("XDS_ADDRESS")?;
    let live = Live::new();
    let world = xds::Client::new(control_plane.clone(), settings.node.clone(), live.clone(), &readiness, &metrics);
    let stream = world.status();
    let budget = ReceiveBudget::new(&settings.limits);
    budget.register(&metrics);
    let sockets = SocketFactory::host(None).within(&settings.limits, Probing::default());
    let ourselves = PodRef {
        node: Some(settings.node.node_name.as_str()).filter(|node| !node.is_empty()).map(Into::into),
        namespace: settings.node.namespace.as_str().into(),
        name: settings.node.pod_name.as_str().into(),
        service_account: settings.service_account.as_str().into(),
    };
    let (exports, exporters) = export::queues(&settings.limits, &metrics);
    let (lines, writer) = lines::queue(&settings.limits, &metrics);
    let notice = settings.limits.duration(&limits::DRAIN_NOTICE).min(settings.drain / 2);
    let waypoint = Arc::new(Waypoint {
        config: Arc::new(Current::default()),
        held: Held::default(),
        in_flight: InFlight::default(),
        view: live.subscribe(&ourselves),
        last: ArcSwapOption::empty(),
        tunnels: Pool::new(sockets.clone(), certificates.clone(), budget.clone()),
        upstreams: Upstreams::within(&settings.limits),
        loads: Loads::default(),
        originations: Originations::new(provider, &settings.limits),
        names: Names::new(&metrics),
        rates: Buckets::within(&settings.limits),
        telemetry: Telemetry::new(&metrics, &settings.limits),
        exports,
        lines,
        handshakes: Handshakes::within(&settings.limits),
        limits: settings.limits.clone(),
        drain_notice: notice,
        live: live.clone(),
        certificates: certificates.clone(),
        sockets: sockets.clone(),
        budget,
    });
    telemetry::clusters::register(&waypoint, &metrics);
    let pages = Admin {
        waypoint: Arc::clone(&waypoint),
        stream,
        node: settings.node.message_of(KIND),
        log_filter: log.filter.clone(),
        shutdown: shutdown.clone(),
    };
    operate(&settings, &pages, &metrics, &readiness, &stream_drain).await?;

    let routes = Client::new(control_plane, &settings.node, Arc::clone(&waypoint), &readiness, &metrics);
    let mut world = tokio::spawn(world.run(stream_drain.clone()));
    let mut routes = tokio::spawn(routes.run(stream_drain.clone()));
    let exporters = tokio::spawn(exporters.run(Arc::clone(&waypoint), stream_drain.clone()));
    let upstream = Upstream::new(settings.resolvers.clone(), sockets.clone(), sockets.clone());
    let names = tokio::spawn(names::keep(Arc::clone(&waypoint), upstream, stream_drain.clone()));
    let writer = tokio::spawn(writer.run(std::io::stdout(), stream_drain.clone()));
    drop(stream_drain);
    tokio::spawn(first_certificate(Arc::clone(&waypoint), readiness.block("certificate")));
    tokio::spawn(Upstreams::keep_tidy(Arc::clone(&waypoint)));

    let port = settings.ports.tunnels;
    let listener = sockets.listen_all(port, true).or_else(|_no_ipv6| sockets.listen_all(port, false));
    let listener = listener.with_context(|| format!("cannot listen on port {port}; does another waypoint?"))?;
    let permits = Arc::new(Semaphore::new(settings.limits.size(&limits::CONNECTIONS_PER_POD)));
    let shared = Arc::clone(&waypoint);
    let held = drain.clone();
    let handle = move |arrival| drop(tokio::spawn(tunnel::serve(Arc::clone(&shared), arrival, held.clone())));
    tokio::spawn(listen::accept("tunnels", listener, permits, drain, handle));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pod = settings.node.pod_name, port, "waypoint is running");

    tokio::select! {
        requested = stop::requested(&shutdown) => requested?,
        // Neither ends by itself. Carrying on with frozen policies would look healthy.
        ended = &mut world => bail!("the task of the configuration stream ended: {ended:?}"),
        ended = &mut routes => bail!("the task of the stream of routes ended: {ended:?}"),
    }
    let _draining = readiness.block("draining");
    // Who chooses among us has to hear of it first: until then clients come, and have nowhere else to go.
    tracing::info!(?notice, deadline = ?settings.drain, "shutting down: not ready any more, and served until everybody knows");
    tokio::time::sleep(notice).await;
    tracing::info!("no new connections, open ones may finish");
    let ended = trigger.drain(Mode::Graceful, settings.drain.saturating_sub(notice)).await;
    tracing::info!(?ended, "connections have ended");
    stream_trigger.start(Mode::Graceful);
    let _ = tokio::join!(world, routes, exporters, names, writer);
    Ok(())
}

/// Ready means able to prove who we are.
async fn first_certificate(waypoint: Arc<Waypoint>, ready: fairway_core::io::ready::ReadyToken) {
    loop {
        if let Some(local) = waypoint.workload().await
            && waypoint.certificates.claim(&local.identity()).get().await.is_ok()
        {
            return drop(ready);
        }
    }
}

/// Opens the ports operators use.
async fn operate(
    settings: &Settings,
    pages: &Admin,
    metrics: &Metrics,
    readiness: &Readiness,
    drain: &Drain,
) -> anyhow::Result<()> {
    let ports = settings.ports;
    let taken = |port| format!("cannot listen on port {port}; does another waypoint?");
    for listener in admin::bind_loopback(ports.admin).await.with_context(|| taken(ports.admin))? {
        tokio::spawn(admin::serve(listener, pages.router(), settings.limits.clone(), drain.clone()));
    }
    for (port, router) in
        [(ports.stats, admin::stats_router(metrics)), (ports.readiness, admin::readiness_router(readiness))]
    {
        let listener = admin::bind_any(port, true).await.with_context(|| taken(port))?;
        tokio::spawn(admin::serve(listener, router, settings.limits.clone(), drain.clone()));
    }
    Ok(())
}
