//! Where objects come from, and where what the agent says of pods goes: a directory of manifests, or an API server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use fairway_core::io::metrics::Metrics;
use fairway_core::source::cluster::events::Announcer;
use fairway_core::source::cluster::{Cluster, connect};
use fairway_core::source::status::Writer;
use fairway_core::source::{Loaded, Source as _, directory};
use tokio::sync::watch;

use crate::config::{Config, SourceConfig};
use crate::events::{CONTROLLER, Events};
use crate::notices::{Marks, Notices};

/// For the first reading, when there is no point in going on without.
const FIRST_READING: Duration = Duration::from_secs(60);

/// Where the agent reads and writes.
pub struct Place {
    /// The objects.
    pub source: watch::Receiver<Arc<Loaded>>,
    /// Whether each pod's namespace is an object there, too.
    pub namespaces_exist: bool,
    /// What is said of pods.
    pub notices: Notices,
    /// Where events of pods go besides the agent's own record.
    pub events: Option<Arc<dyn Events>>,
}

impl Place {
    /// Starts to read.
    ///
    /// # Errors
    /// When there is no such place. A server that does not answer is waited for.
    pub async fn open(config: &Config, metrics: &Metrics) -> anyhow::Result<Self> {
        match config.source()? {
            SourceConfig::Directory(root) => {
                let owner = format!("cni-agent.{}", config.node_name);
                let writer = Writer::new(&root, &owner)?;
                let source = directory::watch_for_node(&root, &owner);
                Ok(Self { source, namespaces_exist: false, notices: writer.into(), events: None })
            }
            SourceConfig::Kubernetes(kubeconfig) => {
                let client = connect(kubeconfig.as_deref()).await.context("cannot talk to the API server")?;
                let cluster = Cluster::new(client.clone()).of_node(&config.node_name);
                let readings = Box::new(cluster).start(&Loaded::default());
                let (gauge, freshness) = (metrics.gauge("fairway_source_stale_seconds", &[]), readings.freshness);
                metrics.before_render(move || {
                    gauge.set(freshness.stale_for(Instant::now()).unwrap_or_default().as_secs_f64());
                });
                let notices = Notices::Server(Marks::start(client.clone(), readings.loaded.clone()));
                let events: Arc<dyn Events> = Arc::new(Announcer::start(client, CONTROLLER, &config.node_name));
                Ok(Self { source: readings.loaded, namespaces_exist: true, notices, events: Some(events) })
            }
        }
    }

    /// Waits until it is known what was said of pods: an API server must have been read for that. For who has something to
    /// say once; an agent goes by what each reading says of itself.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn read_soon(&mut self) -> anyhow::Result<()> {
        if matches!(self.notices, Notices::Files(_)) {
            return Ok(());
        }
        let read = self.source.wait_for(|loaded| !loaded.is_never_read());
        // It ends only with the process.
        let read = tokio::time::timeout(FIRST_READING, read).await.map(drop);
        read.with_context(|| format!("the API server could not be read within {FIRST_READING:?}"))
    }
}
