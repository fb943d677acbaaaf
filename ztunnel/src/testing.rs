//! For tests: a pod served on loopback, certificates from an authority in memory, a test in a process of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fairway_core::ident::Identity;
use fairway_core::io::certs::authority::Answer;
use fairway_core::io::certs::{Authority, Certificates};
use fairway_core::io::drain::{self, Trigger};
use fairway_core::io::hbone::client::Opened;
use fairway_core::io::hbone::{ConnectRequest, Pool, ReceiveBudget, TunnelError, TunnelKey};
use fairway_core::io::live::Live;
use fairway_core::io::metrics::Metrics;
use fairway_core::io::socket::SocketFactory;
use fairway_core::io::tls;
use fairway_core::limits::{self, Limits};
use fairway_core::snapshot::{PodRef, Update};
use fairway_core::workload::Workload;
use fairway_core::workload::newcomer::Site;
use fairway_proto::workload as proto;
use http::HeaderMap;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, SanType,
};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::dns::lookup::Lookup;
use crate::dns::metrics::DnsMetrics;
use crate::pod::{Mesh, Pod};
use crate::telemetry::Telemetry;
use crate::workers::Workers;
use crate::{inbound, listen};
use fairway_core::io::dns::resolvers::Resolvers;
use fairway_core::io::dns::upstream::Upstream;

/// Generous: only a hang reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Signs whatever it is asked to.
struct MemoryAuthority {
    issuer: Issuer<'static, KeyPair>,
    root_pem: String,
}

impl MemoryAuthority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root_pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), root_pem }
    }

    fn issue(&self, identity: &Identity, csr_pem: &str) -> Vec<String> {
        let mut request = CertificateSigningRequestParams::from_pem(csr_pem).unwrap();
        request.params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(identity.to_string()).unwrap())];
        request.params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        request.params.not_before = SystemTime::now().into();
        request.params.not_after = (SystemTime::now() + Duration::from_secs(3600)).into();
        vec![request.signed_by(&self.issuer).unwrap().pem(), self.root_pem.clone()]
    }
}

impl Authority for MemoryAuthority {
    fn sign<'a>(&'a self, identity: &'a Identity, csr_pem: String, _lifetime: Duration) -> Answer<'a> {
        Box::pin(async move { Ok(self.issue(identity, &csr_pem)) })
    }
}

/// A pod whose tunnel listener is on loopback, all in this process and its namespace.
pub(crate) struct ServedPod {
    pub(crate) pod: Arc<Pod>,
    pub(crate) address: SocketAddr,
    pub(crate) metrics: Metrics,
    certificates: Certificates,
    _drain: Trigger,
}

impl ServedPod {
    pub(crate) async fn start() -> Self {
        Self::within(Limits::default()).await
    }

    /// As [`ServedPod::start`], with these limits.
    pub(crate) async fn within(limits: Limits) -> Self {
        Self::with(limits, |_| {}).await
    }

    /// As [`ServedPod::within`], with what `change` does to what the node's pods share.
    pub(crate) async fn with(limits: Limits, change: impl FnOnce(&mut Mesh)) -> Self {
        let certificates = Certificates::new(
            Arc::new(MemoryAuthority::new()),
            tls::provider(),
            Duration::from_secs(3600),
            SystemTime::now,
        );
        let message = proto::Workload {
            uid: "Kubernetes//Pod/shop/cart".to_owned(),
            name: "cart".to_owned(),
            namespace: "shop".to_owned(),
            node: "n1".to_owned(),
            service_account: "cart".to_owned(),
            ..Default::default()
        };
        let workers = Workers::on(vec![Handle::current()]);
        let live = Live::new();
        live.apply(vec![Workload::try_from(message).unwrap().into(), Update::Complete]);
        let metrics = Metrics::new(&[]);
        let (ours, resolvers) = (SocketFactory::host(None), Resolvers::fixed(&[]));
        let mut mesh = Mesh {
            site: Site::default(),
            limits: limits.and(&limits::XDS_DEMAND_WAIT, 10),
            live,
            certificates: certificates.clone(),
            telemetry: Telemetry::new(&metrics),
            budget: ReceiveBudget::default(),
            ipv6: false,
            pressure: Default::default(),
            exchange_baggage: true,
            waypoint_bypass: false,
            clients_behind_waypoints: true,
            tunnel_over_loopback: true,
            neighbours: crate::neighbours::Neighbours::default(),
            workers: workers.clone(),
            lookup: Lookup::new(Upstream::new(resolvers, ours.clone(), ours), DnsMetrics::new(&metrics)),
            dns: None,
        };
        change(&mut mesh);
        let mesh = Arc::new(mesh);
        let reference = PodRef {
            node: Some("n1".into()),
            namespace: "shop".into(),
            name: "cart".into(),
            service_account: "cart".into(),
        };
        let (trigger, drain) = drain::new();
        let pod = Arc::new(Pod::new(reference, mesh, SocketFactory::host(None), false, drain.clone()));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let permits = Arc::new(Semaphore::new(limits::CONNECTIONS_PER_POD.size()));
        let serving = Arc::clone(&pod);
        let serve = move |arrival| {
            let pod = Arc::clone(&serving);
            workers.serve(0, arrival, move |accepted| inbound::serve(pod, accepted));
        };
        tokio::spawn(listen::accept("tunnel", listener, permits, drain, serve));
        Self { pod, address, metrics, certificates, _drain: trigger }
    }

    /// Tunnels of a member of the mesh.
    pub(crate) fn member(&self) -> Pool {
        Pool::new(SocketFactory::host(None), self.certificates.clone(), ReceiveBudget::default())
    }

    /// Opens a stream on the member's tunnel to `port` of the pod.
    pub(crate) async fn open(&self, member: &Pool, port: u16) -> Result<Opened, TunnelError> {
        self.open_with(member, port, HeaderMap::new()).await
    }

    /// As [`ServedPod::open`], with these headers.
    pub(crate) async fn open_with(&self, member: &Pool, port: u16, headers: HeaderMap) -> Result<Opened, TunnelError> {
        self.open_as("web", member, port, headers).await
    }

    /// As [`ServedPod::open_with`], with this service account.
    pub(crate) async fn open_as(
        &self,
        account: &str,
        member: &Pool,
        port: u16,
        headers: HeaderMap,
    ) -> Result<Opened, TunnelError> {
        let identity = |account| Identity::new("cluster.local", "shop", account).unwrap();
        let key = TunnelKey {
            source: identity(account),
            accepted: [identity("cart")].into(),
            peer: self.address,
            workload: None,
            client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let authority = SocketAddr::new(self.address.ip(), port).to_string();
        member.open(&key, &ConnectRequest { authority, headers }).await
    }
}

const ALONE: &str = "FAIRWAY_TEST_ALONE";

/// Runs `body` in a process of its own, for tests that measure the process or set its limits. `test` is the path of the
/// test that calls this.
pub(crate) fn alone(test: &str, body: impl FnOnce()) {
    if std::env::var(ALONE).is_ok_and(|name| name == test) {
        return body();
    }
    let executable = std::env::current_exe().unwrap();
    let child = Command::new(executable).args(["--exact", test, "--nocapture"]).env(ALONE, test).output().unwrap();
    let output = [child.stdout, child.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    print!("{output}");
    assert!(child.status.success() && output.contains("1 passed"), "{test} by itself: {}\n{output}", child.status);
}

/// Lets this process have as many open files as it may.
pub(crate) fn raise_open_files() -> u64 {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    hard
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "waited in vain for {what}");
}

/// Bytes of this process in memory.
pub(crate) fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * usize::try_from(nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).unwrap().unwrap()).unwrap()
}
