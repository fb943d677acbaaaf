//! `fairway dashboard`: pages of a part of the mesh, or of what is installed beside it, at an address of this machine.

mod forward;
mod pages;

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, ExitCode, Stdio};

use clap::{Args, Subcommand};
use fairway_lab::{Error, Result};
use tokio::net::TcpListener;
use tokio::runtime::Builder;

use crate::mesh::{Mesh, Part, Where};
use crate::proxy_status;
use forward::Beside;

/// Arguments of `dashboard`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    which: Which,
    /// Port of this machine; 0 is a free one
    #[arg(long, global = true, default_value_t = 0)]
    port: u16,
    /// Address of this machine. Others can reach one that is not loopback, and nothing protects the pages
    #[arg(long, global = true, default_value = "127.0.0.1")]
    address: IpAddr,
    /// Open the pages in this desktop's browser
    #[arg(long, global = true)]
    browser: bool,
    #[command(flatten)]
    place: Where,
}

#[derive(Debug, Subcommand)]
enum Which {
    /// Pages of a node proxy
    Ztunnel {
        /// The node; needed where there are several
        node: Option<String>,
    },
    /// Pages of a waypoint
    Waypoint {
        /// The waypoint or one of its pods: NAME or NAMESPACE/NAME; needed where there are several
        name: Option<String>,
    },
    /// Pages of the controller
    Controller {
        /// The pod; without it, one that is ready
        pod: Option<String>,
    },
    /// Pages of a node agent
    Agent {
        /// The node; needed where there are several
        node: Option<String>,
    },
    /// The Prometheus of the cluster
    Prometheus,
    /// The Grafana of the cluster
    Grafana,
}

/// A part, by names of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Chosen {
    Proxy(String),
    Agent(String),
    Controller,
    Replica(String),
    Waypoint(String, String),
}

impl Chosen {
    fn part(&self) -> Part<'_> {
        match self {
            Self::Proxy(node) => Part::Proxy(node),
            Self::Agent(node) => Part::Agent(node),
            Self::Controller => Part::Controller,
            Self::Replica(pod) => Part::Replica(pod),
            Self::Waypoint(namespace, pod) => Part::Waypoint(namespace, pod),
        }
    }
}

/// Serves until interrupted.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.which {
        Which::Prometheus => beside(arguments, &forward::PROMETHEUS)?,
        Which::Grafana => beside(arguments, &forward::GRAFANA)?,
        of_mesh => {
            let mesh = arguments.place.mesh()?;
            let chosen = choose(of_mesh, &mesh)?;
            // Nobody is told of a page that is not there.
            mesh.metrics(chosen.part())?;
            let runtime = Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| Error::new("starting to serve pages").because(error))?;
            runtime.block_on(async {
                let listener = listen(arguments).await?;
                pages::serve(listener, arguments.address, mesh, chosen).await;
                Ok(())
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn beside(arguments: &Arguments, which: &Beside) -> Result<()> {
    if arguments.place.lab()?.is_some() {
        return Err(Error::new(format!("a lab has no {}", which.name)).hint(
            "have one of your own scrape the pages (docs/reference/metrics.md says where they are), or name a cluster with --context",
        ));
    }
    let cluster = arguments.place.cluster()?;
    let pod = forward::find(&cluster, which, arguments.place.mesh_namespace())?;
    cluster.run(async {
        let listener = listen(arguments).await?;
        forward::serve(&cluster, listener, &pod, which.port).await
    })
}

/// Listens, and says where.
async fn listen(arguments: &Arguments) -> Result<TcpListener> {
    let address = SocketAddr::new(arguments.address, arguments.port);
    let failed = |error| Error::new(format!("listening at {address}")).because(error).hint("choose another --port");
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let url = format!("http://{}/", listener.local_addr().map_err(failed)?);
    fairway_lab::say!("{url}");
    if !arguments.address.is_loopback() {
        fairway_lab::complain!("warning: whoever can reach {} can see these pages", arguments.address);
    }
    if arguments.browser {
        open(&url);
    }
    Ok(listener)
}

/// Shows `url` in the desktop's browser. Without one, its user has the URL all the same.
fn open(url: &str) {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let started =
        Command::new(program).arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    if let Err(error) = started {
        fairway_lab::complain!("warning: {program} does not run ({error}); open the address yourself");
    }
}

fn choose(which: &Which, mesh: &Mesh) -> Result<Chosen> {
    Ok(match which {
        Which::Ztunnel { node } => Chosen::Proxy(only("node", mesh.nodes(node.as_deref())?)?),
        Which::Agent { node } => Chosen::Agent(only("node", mesh.nodes(node.as_deref())?)?),
        Which::Controller { pod: Some(pod) } => Chosen::Replica(pod.clone()),
        Which::Controller { pod: None } | Which::Prometheus | Which::Grafana => Chosen::Controller,
        Which::Waypoint { name } => {
            let proxies = proxy_status::proxies(mesh)?;
            let all = proxies.iter().filter(|proxy| proxy.kind == "waypoint").filter_map(|it| it.name.rsplit_once('.'));
            let (pod, namespace) = waypoint(name.as_deref(), all.collect())?;
            Chosen::Waypoint(namespace.to_owned(), pod.to_owned())
        }
    })
}

/// The only one of these.
fn only(what: &str, mut names: Vec<String>) -> Result<String> {
    match (names.pop(), names.is_empty()) {
        (Some(name), true) => Ok(name),
        (None, _) => Err(Error::new(format!("there is no {what}"))),
        (Some(last), false) => {
            names.push(last);
            Err(Error::new(format!("there are several {what}s")).hint(format!("name one of: {}", names.join(" "))))
        }
    }
}

/// The pod and namespace of the waypoint called so, of several replicas the first. `all` is pods and their namespaces.
fn waypoint<'a>(name: Option<&str>, mut all: Vec<(&'a str, &'a str)>) -> Result<(&'a str, &'a str)> {
    all.sort_unstable_by_key(|(pod, namespace)| (*namespace, *pod));
    let known = all.iter().map(|(pod, namespace)| format!("{namespace}/{pod}")).collect::<Vec<_>>().join(" ");
    let Some(name) = name else {
        return match *all {
            [only] => Ok(only),
            [] => Err(Error::new("there is no waypoint").hint("make one: fairway waypoint apply")),
            _ => Err(Error::new("there are several waypoints").hint(format!("name one of: {known}"))),
        };
    };
    let (namespace, name) = name.split_once('/').map_or((None, name), |(namespace, name)| (Some(namespace), name));
    let is_meant = |(pod, of): &&(&str, &str)| {
        // Its pods are called after it.
        let is_called = pod.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
        is_called && namespace.is_none_or(|namespace| namespace == *of)
    };
    let found = all.iter().find(|it| it.0 == name && is_meant(it)).or_else(|| all.iter().find(is_meant));
    found.copied().ok_or_else(|| Error::new(format!("there is no waypoint {name}")).hint(format!("there are: {known}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waypoint_is_found_by_its_name_or_that_of_a_pod() {
        let all = || vec![("waypoint-b", "shop"), ("waypoint-a", "shop"), ("waypoint-a", "bank"), ("egress-1", "shop")];
        for (name, expected) in [
            ("shop/waypoint", Some(("waypoint-a", "shop"))),
            ("waypoint", Some(("waypoint-a", "bank"))),
            ("shop/waypoint-b", Some(("waypoint-b", "shop"))),
            ("egress", Some(("egress-1", "shop"))),
            ("way", None),
            ("bank/egress", None),
        ] {
            assert_eq!(waypoint(Some(name), all()).ok(), expected, "{name}");
        }
        assert_eq!(waypoint(None, vec![("w-0", "a")]).ok(), Some(("w-0", "a")));
        let several = waypoint(None, all()).unwrap_err().to_string();
        assert!(several.contains("shop/waypoint-b"), "{several}");
        assert!(waypoint(None, vec![]).unwrap_err().to_string().contains("fairway waypoint apply"));
    }

    #[test]
    fn of_several_nodes_one_must_be_named() {
        assert_eq!(only("node", vec!["a".to_owned()]).unwrap(), "a");
        assert!(only("node", vec!["a".to_owned(), "b".to_owned()]).unwrap_err().to_string().contains("a b"));
        assert!(only("node", vec![]).is_err());
    }
}
