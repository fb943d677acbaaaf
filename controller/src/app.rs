//! Wiring: who owns what, in start order.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_core::io::drain::Drain;
use fairway_core::io::{admin as http, tls as provider};
use fairway_core::limits::Limits;
use fairway_core::source::cluster::{Cluster, ConnectError, connect};
use fairway_core::source::directory::Directory;
use fairway_core::source::{Freshness, Loaded, Source};
use fairway_proto::ca::istio_certificate_service_server::IstioCertificateServiceServer;
use fairway_proto::discovery::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::admin::Access;
use crate::admission::server::Webhook;
use crate::ca::keeper::{self, AuthorityError};
use crate::ca::signer::Current;
use crate::ca::{self, Authority, secret};
use crate::config::authority::AuthorityConfig;
use crate::config::{Config, SourceConfig};
use crate::kept::Store;
use crate::keys::{self, Fetcher};
use crate::lifecycle::automatic;
use crate::metrics::Metrics;
use crate::serve::clients::Clients;
use crate::serve::{self, Discovery};
use crate::state::{Published, Publisher};
use crate::tls::{self, ServerCertificate, TlsError};
use crate::token::review::Reviewer;
use crate::token::{KeyError, Keys, Verifier};
use crate::{admin, admission, announce, enrolment, lifecycle, memory, mesh_config, state, status};

/// Time between pings on a silent connection, and for the answer: a node that vanished is noticed within 40 s.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// Streams of one connection: a node proxy has one for discovery and a few for certificates.
const MAXIMUM_STREAMS: u32 = 100;
/// Bytes of headers: a token and some names.
const MAXIMUM_HEADER_BYTES: u32 = 32 * 1024;

/// Time between looks at how far behind the source is.
const FRESHNESS: Duration = Duration::from_secs(1);

/// Why the controller cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The certificate authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The file of keys cannot be read.
    #[error("cannot read --service-account-key {path}: {error}")]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The file of keys cannot be used.
    #[error("--service-account-key {path} {error}")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: KeyError,
    },
    /// No way to check tokens.
    #[error("tokens can be checked neither with a key nor by an API server; give --service-account-key")]
    Tokens,
    /// The API server.
    #[error("cannot talk to the API server: {0}")]
    Connect(#[from] ConnectError),
    /// A port is taken.
    #[error("cannot listen on {address}: {error}; stop who listens there or choose another address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
}

/// A controller that runs.
#[derive(Debug)]
pub struct Controller {
    /// Address for proxies.
    pub listen: SocketAddr,
    /// Address for operators.
    pub admin_listen: SocketAddr,
    /// Address for the API server, if it is asked of what is applied.
    pub webhook_listen: Option<SocketAddr>,
    /// The mesh's root certificates at the start, PEM.
    pub root_pem: String,
    server: JoinHandle<()>,
}

impl Controller {
    /// Starts everything; it runs until the drain starts.
    ///
    /// # Errors
    /// When the root, the keys or a port cannot be had.
    pub async fn start(config: Config, drain: Drain) -> Result<Self, StartError> {
        let place = match &config.source {
            SourceConfig::Directory(root) => Place::Directory(root.clone()),
            SourceConfig::Kubernetes(kubeconfig) => Place::Cluster(connect(kubeconfig.as_deref()).await?),
        };
        let verifier = Arc::new(verifier(&config, &place)?);
        let metrics = Metrics::new();
        let trust_domain = config.rules.trust_domain.clone();
        let authority = keeper::keep(authority(&config, &place), trust_domain, metrics.clone(), drain.clone()).await?;
        let certificate = ServerCertificate::new(authority.clone(), config.server_names.clone(), provider::provider())?;
        let tls = certificate.config(tls::HTTP2, None)?;
        let webhook_callers = config.webhook.client_authority.as_deref();
        let webhook_tls = certificate.config(admission::server::PROTOCOL, webhook_callers)?;
        let listener = bind(config.listen).await?;
        let admin_listener = bind(config.admin_listen).await?;
        let webhook_listener = match config.webhook.listen.filter(|_| matches!(place, Place::Cluster(_))) {
            Some(wanted) => Some(bind(wanted).await?),
            None => None,
        };
        let listen = address(&listener, config.listen);
        let admin_listen = address(&admin_listener, config.admin_listen);

        let clients = Clients::default();
        let (store, kept) = Store::open(&config.state_directory);
        let remembered = Loaded::remembered(&kept);
        let source: Box<dyn Source> = match &place {
            Place::Directory(root) => Box::new(Directory { root: root.clone() }),
            Place::Cluster(client) => Box::new(Cluster::new(client.clone())),
        };
        let readings = source.start(&remembered);
        let (told, fetched) = watch::channel(Arc::default());
        let fetcher = Fetcher::new(config.jwks_hosts.clone(), provider::provider()).map_err(TlsError::from)?;
        let mesh = config.settings.mesh.clone();
        let mesh = mesh_config::follow(config.mesh_config.clone(), mesh, metrics.clone(), drain.clone());
        let publisher = Publisher::new(&remembered, store, config.settings.clone(), metrics.clone(), fetched);
        let publisher = publisher.following(mesh);
        let published = state::publish(readings.loaded, publisher, drain.clone());
        let fetcher = (fetcher, config.jwks_maximum_age);
        tokio::spawn(keys::keep(published.clone(), told, fetcher, metrics.clone(), drain.clone()));
        tokio::spawn(memory::give_back(drain.clone()));
        tokio::spawn(watch_freshness(readings.freshness, metrics.clone(), drain.clone()));
        write_back(place, &config, &authority, &published, &clients, &drain);
        let access = Access::new(Arc::clone(&verifier), config.settings.root_namespace.clone());
        let pages = admin::router(published.clone(), clients.clone(), metrics.clone(), &access);
        tokio::spawn(http::serve(admin_listener, pages, Limits::default(), drain.clone()));
        tokio::spawn(certificate.renew(drain.clone()));
        let webhook_listen = webhook_listener.as_ref().and_then(|listener| listener.local_addr().ok());
        if let Some(listener) = webhook_listener {
            let webhook = Webhook::new(published.clone(), config.settings.clone(), metrics.clone());
            let bounds = admission::server::BOUNDS;
            let connections = tls::accept(listener, webhook_tls, bounds, metrics.clone(), drain.clone());
            tokio::spawn(webhook.serve(connections, drain.clone()));
        }

        let discovery =
            Discovery::new(published.clone(), Arc::clone(&verifier), clients, metrics.clone(), drain.clone())
                .with_maximum_age(config.maximum_connection_age)
                .with_node_accounts(config.rules.trusted.clone())
                .with_root_namespace(config.settings.root_namespace.clone());
        let root_pem = authority.borrow().roots_pem().to_owned();
        let authority =
            Authority::new(authority, verifier, published, config.rules, config.certificate_lifetime, metrics.clone());
        let connections = tls::accept(listener, tls, config.bounds, metrics, drain.clone());
        let server = tokio::spawn(serve(connections, discovery, authority, drain));
        tracing::info!(%listen, %admin_listen, "controller started");
        Ok(Self { listen, admin_listen, webhook_listen, root_pem, server })
    }

    /// Waits until the last client has been told to go elsewhere.
    pub async fn finished(self) {
        if let Err(error) = self.server.await {
            tracing::error!(%error, "the server ended badly");
        }
    }
}

async fn serve(
    connections: tokio::sync::mpsc::Receiver<tls::Connection>,
    discovery: Discovery,
    authority: Authority,
    mut drain: Drain,
) {
    let incoming = ReceiverStream::new(connections).map(Ok::<_, std::io::Error>);
    let served = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(PING.0))
        .http2_keepalive_timeout(Some(PING.1))
        .max_concurrent_streams(MAXIMUM_STREAMS)
        .http2_max_header_list_size(MAXIMUM_HEADER_BYTES)
        .add_service(
            AggregatedDiscoveryServiceServer::new(discovery).max_decoding_message_size(serve::MAXIMUM_REQUEST_BYTES),
        )
        .add_service(IstioCertificateServiceServer::new(authority).max_decoding_message_size(ca::MAXIMUM_REQUEST_BYTES))
        .serve_with_incoming_shutdown(incoming, async move {
            drain.started().await;
        })
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the gRPC server failed");
    }
}

/// Where objects come from, and where what is said of them goes.
enum Place {
    Directory(PathBuf),
    Cluster(kube::Client),
}

fn verifier(config: &Config, place: &Place) -> Result<Verifier, StartError> {
    match (&config.service_account_key, place) {
        (Some(path), _) => {
            let pem = std::fs::read(path).map_err(|error| StartError::KeyFile { path: path.clone(), error })?;
            let keys = Keys::from_pem(&pem, &config.token_issuer, &config.token_audience);
            keys.map(Verifier::Keys).map_err(|error| StartError::Key { path: path.clone(), error })
        }
        (None, Place::Cluster(client)) => {
            Ok(Verifier::Review(Box::new(Reviewer::new(client.clone(), &config.token_audience))))
        }
        (None, Place::Directory(_)) => Err(StartError::Tokens),
    }
}

/// Where the certificate authority is.
fn authority(config: &Config, place: &Place) -> keeper::Place {
    let own = || config.ca_directory.clone();
    let secret = |name: &String| match place {
        Place::Directory(_) => None,
        Place::Cluster(client) => {
            let namespace = config.settings.root_namespace.clone();
            Some(secret::Place { client: client.clone(), namespace, name: name.clone() })
        }
    };
    let found = match &config.authority {
        AuthorityConfig::Directory(directory) => Some(keeper::Place::Directory(directory.clone())),
        AuthorityConfig::Secret(name) => secret(name).map(keeper::Place::Secret),
        AuthorityConfig::Own(name) => name.as_ref().and_then(secret).map(|secret| keeper::Place::Shared(secret, own())),
    };
    found.unwrap_or_else(|| keeper::Place::Own(own()))
}

/// Tells users on their policies what became of them, makes waypoints of gateways, and tells namespaces the root. Of
/// several replicas, one does.
fn write_back(
    place: Place,
    config: &Config,
    authority: &Current,
    published: &watch::Receiver<Arc<Published>>,
    clients: &Clients,
    drain: &Drain,
) {
    match place {
        Place::Directory(root) => {
            if let Some(settings) = config.waypoints.clone() {
                tokio::spawn(lifecycle::directory::run(root.clone(), published.clone(), settings, drain.clone()));
            }
            if config.write_status {
                let writer = status::directory::Directory::new(&root);
                let accounts = config.rules.trusted.clone();
                tokio::spawn(status::keep(published.clone(), clients.clone(), accounts, writer, drain.clone()));
            }
        }
        Place::Cluster(client) => {
            let namespace = &config.settings.root_namespace;
            let leads = status::lease::strive(client.clone(), namespace, config.replica.clone(), drain.clone());
            let here = || (client.clone(), published.clone(), leads.clone());
            if let Some(name) = config.root_config_map.clone() {
                let (client, published, leads) = here();
                tokio::spawn(announce::run(client, published, leads, authority.clone(), name, drain.clone()));
            }
            if let (Some(_), Some(name)) = (config.webhook.listen, config.webhook.configuration.clone()) {
                let (client, _, leads) = here();
                tokio::spawn(admission::bundle::run(client, leads, authority.clone(), name, drain.clone()));
            }
            if let Some(settings) = config.waypoints.clone() {
                let (making, state, leading) = here();
                tokio::spawn(automatic::run(making, state, leading, automatic::LINGER, drain.clone()));
                let (client, published, leads) = here();
                tokio::spawn(lifecycle::run(client, published, leads, settings, drain.clone()));
            }
            let (telling, state, leading) = here();
            tokio::spawn(enrolment::run(telling, state, leading, config.replica.clone(), drain.clone()));
            if config.write_status {
                let writer = status::cluster::Cluster::new(client, leads);
                let accounts = config.rules.trusted.clone();
                tokio::spawn(status::keep(published.clone(), clients.clone(), accounts, writer, drain.clone()));
            }
        }
    }
}

/// Shows how far behind the source is.
async fn watch_freshness(freshness: Freshness, metrics: Metrics, mut drain: Drain) {
    loop {
        metrics.set_stale(freshness.stale_for(Instant::now()).unwrap_or_default());
        tokio::select! {
            () = tokio::time::sleep(FRESHNESS) => {}
            _ = drain.started() => return,
        }
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| StartError::Listen { address, error })
}

fn address(listener: &TcpListener, wanted: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(wanted)
}
