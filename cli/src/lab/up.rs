//! `fairway lab up` and `fairway lab demo`.

use std::io::{IsTerminal, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use fairway_lab::binaries::Build;
use fairway_lab::layout::Layout;
use fairway_lab::options::Overrides;
use fairway_lab::{Error, Options, Result, demo, lab, manage};

/// How often readiness is looked at.
const POLL: Duration = Duration::from_millis(100);

/// What the two commands share.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Another `fairway`
    #[arg(long, value_name = "PATH")]
    fairway_binary: Option<PathBuf>,
    /// Another controller
    #[arg(long, value_name = "PATH")]
    controller_binary: Option<PathBuf>,
    /// Another node tunnel; Istio's works too
    #[arg(long, value_name = "PATH")]
    ztunnel_binary: Option<PathBuf>,
    /// Another node tunnel on one node only, such as `2=/usr/local/bin/ztunnel`; may be repeated
    #[arg(long, value_name = "NODE=PATH", value_parser = node_ztunnel)]
    node_ztunnel_binary: Vec<(u8, PathBuf)>,
    /// Another node agent
    #[arg(long, value_name = "PATH")]
    agent_binary: Option<PathBuf>,
    /// In a source checkout, use the binaries that are there
    #[arg(long)]
    no_build: bool,
}

impl Arguments {
    fn options(&self) -> Options {
        Options {
            binaries: Overrides {
                fairway: self.fairway_binary.clone(),
                controller: self.controller_binary.clone(),
                ztunnel: self.ztunnel_binary.clone(),
                node_ztunnels: self.node_ztunnel_binary.iter().cloned().collect(),
                agent: self.agent_binary.clone(),
                kubernetes: None,
            },
            build: if self.no_build { Build::Never } else { Build::InCheckout },
            ..Options::default()
        }
    }
}

/// `NODE=PATH`, the node by its number or its name.
fn node_ztunnel(text: &str) -> std::result::Result<(u8, PathBuf), String> {
    let (node, path) = text.split_once('=').ok_or("write a node and a path, such as 2=/usr/local/bin/ztunnel")?;
    let number = node.strip_prefix("node-").unwrap_or(node);
    let number = number.parse().map_err(|_| format!("{node:?} is no node; write its number"))?;
    Ok((number, path.into()))
}

/// Arguments of `up`.
#[derive(Debug, Args)]
pub(crate) struct UpArguments {
    #[command(flatten)]
    common: Arguments,
    /// How many nodes
    #[arg(long, default_value_t = 2)]
    nodes: u8,
    /// Wait until every component and pod is ready
    #[arg(long)]
    wait: bool,
    /// With a Kubernetes of the lab's own, for kubectl: API server, scheduler and controller-manager; the nodes are the lab's
    #[arg(long)]
    kubernetes: bool,
    /// Another program with Kubernetes' parts
    #[arg(long, value_name = "PATH", requires = "kubernetes")]
    kubernetes_binary: Option<PathBuf>,
    /// Istio's mesh configuration, of which the controller reads the providers: external authorizers, rate limiters and
    /// processors, collectors of traces and logs, access logs
    #[arg(long, value_name = "FILE", conflicts_with = "no_mesh")]
    mesh_config: Option<PathBuf>,
    /// Leave out controller, agents and ztunnels: pods talk to each other without a mesh
    #[arg(long)]
    no_mesh: bool,
}

fn progress(text: &str) {
    fairway_lab::complain!("{text}");
}

/// Brings a lab up.
pub(crate) fn up(name: &str, arguments: &UpArguments) -> Result<ExitCode> {
    let mut options = Options {
        name: name.to_owned(),
        nodes: arguments.nodes,
        mesh: !arguments.no_mesh,
        kubernetes: arguments.kubernetes,
        mesh_config: arguments.mesh_config.as_deref().map(read).transpose()?,
        ..arguments.common.options()
    };
    options.binaries.kubernetes.clone_from(&arguments.kubernetes_binary);
    manage::up(&options, &mut progress)?;
    if arguments.wait {
        wait(&Layout::of(name)?)?;
    }
    if arguments.kubernetes {
        let kubeconfig = Layout::of(name)?.kubeconfig();
        fairway_lab::say!("lab {name} is up; next: export KUBECONFIG={}; kubectl get nodes", kubeconfig.display());
        return Ok(ExitCode::SUCCESS);
    }
    fairway_lab::say!("lab {name} is up; next: fairway lab apply -f FILE, fairway lab status");
    Ok(ExitCode::SUCCESS)
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).map_err(|error| Error::new(format!("reading {}", file.display())).because(error))
}

/// Waits until every component and pod is ready.
pub(super) fn wait(layout: &Layout) -> Result<()> {
    let started = Instant::now();
    loop {
        let unsettled = lab::unsettled(layout)?;
        if unsettled.is_empty() {
            return Ok(());
        }
        if started.elapsed() > lab::PATIENCE {
            return Err(Error::new(format!("not ready after {:?}", lab::PATIENCE))
                .because(unsettled.join("\n  "))
                .hint("`fairway lab logs NAME` has the reason; the lab is left up"));
        }
        std::thread::sleep(POLL);
    }
}

/// Runs the demo.
pub(crate) fn demo(arguments: &Arguments) -> Result<ExitCode> {
    demo::run(arguments.options(), stdout().is_terminal()).map(|()| ExitCode::SUCCESS)
}
