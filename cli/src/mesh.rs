//! Where the mesh is that a command looks at, and how its parts are asked.

use std::path::PathBuf;

use clap::Args;
use fairway_lab::control::{self, Page, Request};
use fairway_lab::layout::Layout;
use fairway_lab::status::Status;
use fairway_lab::{Error, Result, lab};
use serde::de::DeserializeOwned;

use crate::objects::Objects;

/// Name of the lab that is meant when nothing is said.
const DEFAULT_LAB: &str = "default";

/// Which mesh.
#[derive(Debug, Args)]
pub(crate) struct Where {
    /// Name of the lab to look at; without it and without a cluster, the lab `default`
    #[arg(long, global = true, env = "FAIRWAY_LAB", conflicts_with_all = ["kubeconfig", "context"])]
    lab: Option<String>,
    /// File that says where the cluster is, as for kubectl
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The cluster's name in there; without it, the current one
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
}

/// A part of the mesh that has pages for operators.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part<'a> {
    /// The proxy of a node.
    Proxy(&'a str),
    /// The agent of a node.
    Agent(&'a str),
    /// The controller.
    Controller,
}

/// A mesh that can be asked.
pub(crate) struct Mesh {
    layout: Layout,
    /// What runs in it.
    pub(crate) status: Status,
}

impl Where {
    /// Finds the mesh, to ask its parts.
    pub(crate) fn mesh(&self) -> Result<Mesh> {
        if self.is_cluster() {
            return Err(Error::new("the proxies of a cluster cannot be asked from here yet")
                .hint("on a node, curl 127.0.0.1:15000/config_dump; of a lab, name it with --lab"));
        }
        let layout = self.layout()?;
        let status = lab::status_of(&layout)?;
        Ok(Mesh { layout, status })
    }

    /// Finds the objects that the mesh is made of.
    pub(crate) fn objects(&self) -> Result<Objects> {
        if self.is_cluster() {
            return Objects::of_cluster(self.kubeconfig.as_deref(), self.context.as_deref());
        }
        let layout = self.layout()?;
        // Nobody has named a lab, and there is none: whoever has kubectl set up means that cluster.
        if self.lab.is_none() && !layout.root().exists() {
            return Objects::of_cluster(None, None);
        }
        Objects::of_lab(layout)
    }

    fn is_cluster(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some()
    }

    fn layout(&self) -> Result<Layout> {
        Layout::of(self.lab.as_deref().unwrap_or(DEFAULT_LAB))
    }
}

impl Part<'_> {
    /// Ports as in interop §9: node proxies 15000, agents 15114, controllers 15014.
    fn port(self) -> u16 {
        match self {
            Self::Proxy(_) => 15_000,
            Self::Agent(_) => 15_114,
            Self::Controller => 15_014,
        }
    }

    fn name(self) -> String {
        match self {
            Self::Proxy(node) => format!("the proxy of {node}"),
            Self::Agent(node) => format!("the agent of {node}"),
            Self::Controller => "the controller".to_owned(),
        }
    }

    fn node(self) -> Option<String> {
        match self {
            Self::Proxy(node) | Self::Agent(node) => Some(node.to_owned()),
            Self::Controller => None,
        }
    }
}

impl Mesh {
    /// Names of the nodes, or only `wanted`.
    ///
    /// # Errors
    /// When there is no such node.
    pub(crate) fn nodes(&self, wanted: Option<&str>) -> Result<Vec<String>> {
        let all = || self.status.nodes.iter().map(|node| node.name.clone());
        let nodes: Vec<String> = all().filter(|node| wanted.is_none_or(|wanted| wanted == node)).collect();
        match wanted.filter(|_| nodes.is_empty()) {
            None => Ok(nodes),
            Some(wanted) => Err(Error::new(format!("there is no node {wanted}"))
                .hint(format!("there are: {}", all().collect::<Vec<_>>().join(" ")))),
        }
    }

    /// Asks a part for a page in JSON.
    pub(crate) fn ask<T: DeserializeOwned>(&self, part: Part<'_>, path: &str) -> Result<T> {
        let body = self.page(part, path)?;
        serde_json::from_str(&body).map_err(|error| unreadable(part, error))
    }

    /// Asks a part for a page with one JSON object a line.
    pub(crate) fn ask_lines<T: DeserializeOwned>(&self, part: Part<'_>, path: &str) -> Result<Vec<T>> {
        let body = self.page(part, path)?;
        let lines = body.lines().filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_str(line).map_err(|error| unreadable(part, error))).collect()
    }

    fn page(&self, part: Part<'_>, path: &str) -> Result<String> {
        let url = format!("http://127.0.0.1:{}{path}", part.port());
        let page: Page = control::ask(&self.layout, &Request::Get { node: part.node(), url })?;
        if page.status != 200 {
            // The first line says what is wrong, the others how to ask.
            let said = page.body.lines().next().unwrap_or_default().to_owned();
            return Err(Error::new(format!("{} cannot say", part.name())).because(said));
        }
        Ok(page.body)
    }
}

fn unreadable(part: Part<'_>, error: serde_json::Error) -> Error {
    Error::new(format!("reading the answer of {}", part.name())).because(error)
}
