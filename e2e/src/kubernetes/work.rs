//! The thread that works for the API server: it waits until there is one, sets the cluster up, then keeps everything going.

use std::io;
use std::time::Duration;

use kube::Client;
use tokio::time::sleep;

use super::{Worker, client, cluster, control_plane, endpoints, manifests, mirror, pods};
use crate::error::Result;
use crate::layout::Layout;
use crate::volumes::{self, Supply};

/// Pause before something that failed is tried again: the API server may be about to start.
pub(crate) const RETRY: Duration = Duration::from_millis(500);

/// Starts the thread, in the network of the calling one.
pub(crate) fn start(worker: Worker) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new()
        .name("kubernetes".to_owned())
        .spawn(move || {
            if let Err(error) = runtime.block_on(run(worker)) {
                tracing::error!(%error, "the lab does not work for its Kubernetes");
            }
        })
        .map(drop)
}

async fn run(worker: Worker) -> Result<()> {
    let layout = Layout::inside();
    let client = client::connect(&worker.authority).await?;
    await_server(&client).await;
    control_plane::admit(&layout, &worker.authority)?;
    if worker.mesh {
        manifests::install(&client, &worker.gateway_api).await?;
    }
    cluster::set_up(&client, worker.nodes, worker.mesh).await;
    tokio::join!(
        cluster::renew_leases(&client, worker.nodes),
        async {
            if worker.mesh {
                cluster::renew_tokens(&client, &layout, worker.nodes).await;
            }
        },
        mirror::run(&client, &layout),
        pods::run(&client, worker.reports),
        endpoints::run(&client, worker.frontends, worker.changed),
        volumes::run(Supply::ApiServer(client.clone()), worker.orders),
    );
    Ok(())
}

/// Waits until the API server says that it is ready, its own objects included.
async fn await_server(client: &Client) {
    while let Ok(request) = http::Request::get("/readyz").body(Vec::new()) {
        if client.request_text(request).await.is_ok() {
            return;
        }
        sleep(RETRY).await;
    }
}

/// Does something again and again until it succeeds.
pub(crate) async fn insist<T, F>(what: &str, mut attempt: impl FnMut() -> F) -> T
where
    F: Future<Output = kube::Result<T>>,
{
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => tracing::warn!(%error, what, "the API server refused; trying again"),
        }
        sleep(RETRY).await;
    }
}
