//! Where the mesh is that a command looks at, and how its proxies are asked.

use clap::Args;
use fairway_lab::control::{self, Page, Request};
use fairway_lab::layout::Layout;
use fairway_lab::status::Status;
use fairway_lab::{Error, Result, lab};
use serde::de::DeserializeOwned;

/// Port of a node proxy's pages for operators.
const ADMIN_PORT: u16 = 15_000;

/// Which mesh.
#[derive(Debug, Args)]
pub(crate) struct Where {
    /// Name of the lab to look at
    #[arg(long, default_value = "default", env = "FAIRWAY_LAB")]
    lab: String,
}

/// A mesh that can be asked.
pub(crate) struct Mesh {
    layout: Layout,
    /// What runs in it.
    pub(crate) status: Status,
}

impl Where {
    /// Finds the mesh.
    pub(crate) fn mesh(&self) -> Result<Mesh> {
        let layout = Layout::of(&self.lab)?;
        let status = lab::status_of(&layout)?;
        Ok(Mesh { layout, status })
    }
}

impl Mesh {
    /// Asks the proxy of a node for a page.
    pub(crate) fn ask_proxy<T: DeserializeOwned>(&self, node: &str, path: &str) -> Result<T> {
        let url = format!("http://127.0.0.1:{ADMIN_PORT}{path}");
        let page: Page = control::ask(&self.layout, &Request::Get { node: Some(node.to_owned()), url })?;
        if page.status != 200 {
            // The first line says what is wrong, the others how to ask.
            let said = page.body.lines().next().unwrap_or_default().to_owned();
            return Err(Error::new(format!("the proxy of {node} cannot say")).because(said));
        }
        serde_json::from_str(&page.body)
            .map_err(|error| Error::new(format!("reading the answer of the proxy of {node}")).because(error))
    }
}
