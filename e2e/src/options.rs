//! What a lab is asked to be, and the resolved form its supervisor works from.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::binaries::{Binaries, Build};
use crate::error::{Doing, Error, Result};
use crate::layout::Layout;
use crate::process::write_atomically;

/// Nodes a lab may have: the pods of node n live in 10.(100+n).0.0/24.
pub const MAX_NODES: u8 = 100;

/// What a lab is asked to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the lab; labs with different names share nothing.
    pub name: String,
    /// How many nodes, from 1 to [`MAX_NODES`].
    pub nodes: u8,
    /// Whether controller, agents and ztunnels run; without them pods still talk to each other.
    pub mesh: bool,
    /// Whether the lab has a Kubernetes of its own, which then says what there is; else the lab's manifests do.
    pub kubernetes: bool,
    /// Explicit paths of binaries; the rest are looked for beside the running executable.
    pub binaries: Overrides,
    /// When to build binaries from a source checkout.
    pub build: Build,
    /// Whether the lab ends when the process that brought it up does.
    pub tied: bool,
    /// What Istio calls the mesh configuration, for the controller: whom policies may ask, who is told and who counts.
    pub mesh_config: Option<String>,
    /// Extra environment for components: `controller`, `ztunnel` or `agent`, or for a single one: `ztunnel-node-2`.
    pub environment: BTreeMap<String, BTreeMap<String, String>>,
}

/// Paths of binaries that replace the ones found.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// The `fairway` command, which also is the supervisor.
    pub fairway: Option<PathBuf>,
    /// The controller.
    pub controller: Option<PathBuf>,
    /// The node tunnel.
    pub ztunnel: Option<PathBuf>,
    /// Node tunnels of single nodes, by the node's number; the others run `ztunnel`.
    pub node_ztunnels: BTreeMap<u8, PathBuf>,
    /// The node agent.
    pub agent: Option<PathBuf>,
    /// Kubernetes' control plane in one program.
    pub kubernetes: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "default".to_owned(),
            nodes: 2,
            mesh: true,
            kubernetes: false,
            binaries: Overrides::default(),
            build: Build::InCheckout,
            tied: false,
            mesh_config: None,
            environment: BTreeMap::new(),
        }
    }
}

/// The resolved form of [`Options`], kept in the state directory for the supervisor and later commands.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Name of the lab.
    pub name: String,
    /// How many nodes.
    pub nodes: u8,
    /// Whether the mesh's components run.
    pub mesh: bool,
    /// Whether the lab ends when the supervisor's standard input is closed.
    pub tied: bool,
    /// Where the binaries are.
    pub binaries: Binaries,
    /// Whether there is a mesh configuration, in the file that [`Layout::mesh_config`] names.
    #[serde(default)]
    pub mesh_config: bool,
    /// `PATH` of everything in the lab.
    pub path: String,
    /// Environment that every component gets, taken from the command that brought the lab up.
    pub passed: BTreeMap<String, String>,
    /// Extra environment per component.
    pub environment: BTreeMap<String, BTreeMap<String, String>>,
}

/// Variables handed on from the caller to every component.
pub(crate) const PASSED_VARIABLES: [&str; 4] = ["RUST_LOG", "LOG_FORMAT", "RUST_BACKTRACE", "MALLOC_CONF"];

impl Config {
    /// Reads what [`Config::write`] wrote.
    ///
    /// # Errors
    /// When there is no such lab, or its description cannot be read.
    pub fn read(layout: &Layout) -> Result<Self> {
        let text = std::fs::read(layout.config()).map_err(|error| {
            Error::new(format!("there is no lab called `{}`", layout.name()))
                .because(error)
                .hint("bring it up with `fairway lab up`")
        })?;
        serde_json::from_slice(&text).doing(|| format!("reading {}", layout.config().display()))
    }

    /// Writes the description into the state directory.
    pub(crate) fn write(&self, layout: &Layout) -> Result<()> {
        write_atomically(&layout.config(), &serde_json::to_vec_pretty(self).doing(|| "describing the lab")?)
    }
}
