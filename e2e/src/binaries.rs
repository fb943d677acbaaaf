//! Finding the binaries a lab runs, and building them when the lab runs from a source checkout.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::error::{Doing, Error, Result};
use crate::options::Options;

/// Where the binaries of a lab are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binaries {
    /// The `fairway` command.
    pub fairway: PathBuf,
    /// The controller.
    pub controller: PathBuf,
    /// The node tunnel.
    pub ztunnel: PathBuf,
    /// The node tunnels of nodes that have another one, by the node's number.
    #[serde(default)]
    pub node_ztunnels: BTreeMap<u8, PathBuf>,
    /// The node agent.
    pub agent: PathBuf,
    /// Kubernetes' control plane in one program; none in a lab without it.
    #[serde(default)]
    pub kubernetes: Option<PathBuf>,
}

impl Binaries {
    /// The node tunnel of a node.
    pub(crate) fn ztunnel_of(&self, node: u8) -> &Path {
        self.node_ztunnels.get(&node).unwrap_or(&self.ztunnel)
    }
}

/// When to build binaries from a source checkout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// Whenever the running executable came from a checkout: cargo decides what is stale.
    InCheckout,
    /// Only when a binary is missing.
    WhenMissing,
    /// Never.
    Never,
}

/// One binary: its file name and the package it is built from.
struct Binary {
    file: &'static str,
    package: &'static str,
}

const FAIRWAY: Binary = Binary { file: "fairway", package: "fairway-cli" };
const CONTROLLER: Binary = Binary { file: "controller", package: "fairway-controller" };
const ZTUNNEL: Binary = Binary { file: "ztunnel", package: "fairway-ztunnel" };
/// Installed by the agent, which finds it beside itself.
const PLUGIN: Binary = Binary { file: "fairway-cni", package: "fairway-cni" };
/// Run by pods of waypoints, which find it where all of ours are.
const WAYPOINT: Binary = Binary { file: "waypoint", package: "fairway-waypoint" };
/// Kubernetes' control plane below the build output; `./dev setup` builds it.
const HYPERKUBE: &str = "kubernetes/hyperkube";
const AGENT: Binary = Binary { file: "fairway-cni-agent", package: "fairway-cni" };

/// Finds the binaries that `options` asks for, building those that have to be. `progress` hears about slow steps.
///
/// # Errors
/// When a binary is nowhere and cannot be built.
pub fn resolve(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Binaries> {
    let running = env::current_exe().and_then(|path| path.canonicalize()).doing(|| "finding the running executable")?;
    let directory = binary_directory(&running);
    let overrides = &options.binaries;
    let mut wanted = vec![(FAIRWAY, overrides.fairway.as_ref())];
    if options.mesh {
        wanted.extend([
            (CONTROLLER, overrides.controller.as_ref()),
            (ZTUNNEL, overrides.ztunnel.as_ref()),
            (AGENT, overrides.agent.as_ref()),
            (PLUGIN, overrides.agent.as_ref()),
            (WAYPOINT, None),
        ]);
    }
    let sought: Vec<Binary> = wanted
        .into_iter()
        .filter(|(binary, path)| path.is_none() && directory.join(binary.file) != running)
        .map(|(binary, _)| binary)
        .collect();
    build(&sought, &directory, options.build, progress)?;
    let place = |binary: &Binary, path: &Option<PathBuf>| path.clone().unwrap_or_else(|| directory.join(binary.file));
    let found = Binaries {
        fairway: place(&FAIRWAY, &overrides.fairway),
        controller: place(&CONTROLLER, &overrides.controller),
        ztunnel: place(&ZTUNNEL, &overrides.ztunnel),
        node_ztunnels: overrides.node_ztunnels.clone(),
        agent: place(&AGENT, &overrides.agent),
        kubernetes: options.kubernetes.then(|| overrides.kubernetes.clone().unwrap_or_else(|| beside(&directory))),
    };
    absolute(found, options.mesh)
}

/// Kubernetes' control plane, if it was built in this checkout: it is to be found beside the binaries' directory.
#[must_use]
pub fn kubernetes() -> Option<PathBuf> {
    let running = env::current_exe().and_then(|path| path.canonicalize()).ok()?;
    Some(beside(&binary_directory(&running))).filter(|path| path.is_file())
}

fn beside(directory: &Path) -> PathBuf {
    directory.parent().unwrap_or(directory).join(HYPERKUBE)
}

/// The directory binaries are in: the running executable's, or its parent for a test in `deps/`.
fn binary_directory(running: &Path) -> PathBuf {
    let directory = running.parent().unwrap_or(Path::new("/"));
    match directory.file_name().and_then(|name| name.to_str()) {
        Some("deps" | "examples") => directory.parent().unwrap_or(directory).to_owned(),
        _ => directory.to_owned(),
    }
}

/// The checkout that `directory` is the build output of.
fn checkout(directory: &Path) -> Option<&Path> {
    directory
        .ancestors()
        .find(|ancestor| ancestor.join("Cargo.toml").is_file() && ancestor.join("e2e/Cargo.toml").is_file())
}

/// The cargo arguments that build into `directory`.
fn profile_arguments(directory: &Path) -> Vec<String> {
    match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => Vec::new(),
        Some("release") => vec!["--release".to_owned()],
        Some(profile) => vec!["--profile".to_owned(), profile.to_owned()],
    }
}

fn build(sought: &[Binary], directory: &Path, when: Build, progress: &mut dyn FnMut(&str)) -> Result<()> {
    let missing: Vec<&Binary> = sought.iter().filter(|binary| !directory.join(binary.file).is_file()).collect();
    let wanted: Vec<&Binary> = match when {
        Build::InCheckout => sought.iter().collect(),
        Build::WhenMissing => missing,
        Build::Never => return Ok(()),
    };
    let Some(checkout) = checkout(directory).filter(|_| !wanted.is_empty()) else { return Ok(()) };
    let names: Vec<&str> = wanted.iter().map(|binary| binary.file).collect();
    progress(&format!("building {} with cargo", names.join(", ")));
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(checkout).args(["build", "--quiet"]).args(profile_arguments(directory));
    for binary in &wanted {
        command.args(["--package", binary.package, "--bin", binary.file]);
    }
    let status = command.status().map_err(|error| {
        Error::new("running cargo to build the lab's binaries")
            .because(error)
            .hint("install Rust from https://rustup.rs")
    })?;
    if status.success() { Ok(()) } else { Err(Error::new(format!("cargo could not build {}", names.join(", ")))) }
}

fn absolute(binaries: Binaries, mesh: bool) -> Result<Binaries> {
    let check = |path: PathBuf, option: &str, needed: bool| {
        if !needed {
            return Ok(path);
        }
        path.canonicalize().map_err(|error| {
            Error::new(format!("no binary at {}", path.display()))
                .because(error)
                .hint(format!("build it (cargo build), or name another one with --{option}-binary PATH"))
        })
    };
    Ok(Binaries {
        fairway: check(binaries.fairway, "fairway", true)?,
        controller: check(binaries.controller, "controller", mesh)?,
        ztunnel: check(binaries.ztunnel, "ztunnel", mesh)?,
        node_ztunnels: (binaries.node_ztunnels.into_iter())
            .map(|(node, path)| Ok((node, check(path, "ztunnel", mesh)?)))
            .collect::<Result<_>>()?,
        agent: check(binaries.agent, "agent", mesh)?,
        kubernetes: binaries.kubernetes.map(kubernetes_at).transpose()?,
    })
}

fn kubernetes_at(path: PathBuf) -> Result<PathBuf> {
    path.canonicalize().map_err(|error| {
        Error::new(format!("no Kubernetes at {}", path.display()))
            .because(error)
            .hint("build it with `./dev setup`, which needs Go, or name another one with --kubernetes-binary PATH")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_find_binaries_one_directory_up() {
        assert_eq!(binary_directory(Path::new("/x/target/debug/deps/t-1")), Path::new("/x/target/debug"));
        assert_eq!(binary_directory(Path::new("/usr/bin/fairway")), Path::new("/usr/bin"));
    }

    #[test]
    fn the_profile_follows_the_directory() {
        assert!(profile_arguments(Path::new("/x/target/debug")).is_empty());
        assert_eq!(profile_arguments(Path::new("/x/target/release")), ["--release"]);
        assert_eq!(profile_arguments(Path::new("/x/target/bench")), ["--profile", "bench"]);
    }
}
