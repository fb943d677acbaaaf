//! The way to an API server: found as kubectl finds it, and what went wrong on it, in words.

use std::path::Path;

use fairway_lab::{Error, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::runtime::{Builder, Runtime};

/// What to do about an answer with this status.
pub(crate) type Hint = (u16, &'static str);

/// The oldest Kubernetes that takes all fields of the chart, as its `kubeVersion` says.
pub(crate) const OLDEST_KUBERNETES: (u32, u32) = (1, 30);

/// A client of an API server, and what runs its requests.
pub(crate) struct Connection {
    runtime: Runtime,
    client: Client,
    described: String,
}

impl Connection {
    /// Finds the cluster in `kubeconfig`, or where kubectl would, and takes its `context`, or the current one. `hint` says how
    /// another one is named.
    pub(crate) fn open(kubeconfig: Option<&Path>, context: Option<&str>, hint: &str) -> Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::new("starting to talk to the cluster").because(error))?;
        let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
        let connected = runtime.block_on(async {
            let read = match kubeconfig {
                Some(path) => Kubeconfig::read_from(path)?,
                None => Kubeconfig::read()?,
            };
            let context = options.context.clone().or_else(|| read.current_context.clone()).unwrap_or_default();
            let config = Config::from_custom_kubeconfig(read, &options).await?;
            let described = format!("{context} ({})", config.cluster_url);
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((Client::try_from(config)?, described))
        });
        let (client, described) =
            connected.map_err(|error| Error::new("finding the cluster").because(error).hint(hint))?;
        Ok(Self { runtime, client, described })
    }

    /// A client of it.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Its context and where it answers, for who may have meant another.
    pub(crate) fn described(&self) -> &str {
        &self.described
    }

    /// Runs a request to its end.
    pub(crate) fn run<T>(&self, request: impl Future<Output = T>) -> T {
        self.runtime.block_on(request)
    }
}

/// What could not be done, why, and what to do about it: the first of `hints` for the answer's status, if there is one.
pub(crate) fn failed(doing: &str, error: kube::Error, hints: &[Hint]) -> Error {
    let code = if let kube::Error::Api(status) = &error { status.code } else { 0 };
    let hint = match hints.iter().find(|(wanted, _)| *wanted == code) {
        Some((_, hint)) => hint,
        None if code == 403 => "ask for the right to do that: kubectl auth can-i --list",
        None => "see that the cluster answers: kubectl version",
    };
    // What the API server says is a sentence; the rest of its answer is for programs.
    let error = match error {
        kube::Error::Api(status) => Error::new(doing).because(status.message),
        other => Error::new(doing).because(other),
    };
    error.hint(hint)
}

/// Whether the API server says that there is no such thing.
pub(crate) fn is_missing(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}
