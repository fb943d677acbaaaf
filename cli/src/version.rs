//! `fairway version`: the version of this command, and those of the proxies that the controller knows.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use fairway_lab::Result;
use serde::Serialize;

use crate::mesh::Where;
use crate::output::Format;
use crate::proxy_status::{self, Proxy};

/// Arguments of `version`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only that of this command
    #[arg(long)]
    client: bool,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    place: Where,
}

/// All of them; the schema of `-o json`.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    client: &'static str,
    /// How many proxies have each version, by kind.
    proxies: BTreeMap<String, BTreeMap<String, usize>>,
}

/// Prints them. Without a mesh, the command's own is still known.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    arguments.format.follow(|| {
        let asked = if arguments.client {
            Ok(Vec::new())
        } else {
            arguments.place.mesh().and_then(|mesh| proxy_status::proxies(&mesh))
        };
        let (proxies, error) = match asked {
            Ok(proxies) => (proxies, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let versions = Versions { client: env!("CARGO_PKG_VERSION"), proxies: counted(&proxies) };
        arguments.format.print(&versions, |_| shown(&versions))?;
        match error {
            Some(error) => Err(error),
            None => Ok(ExitCode::SUCCESS),
        }
    })
}

fn counted(proxies: &[Proxy]) -> BTreeMap<String, BTreeMap<String, usize>> {
    let mut counts: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for proxy in proxies {
        let version = if proxy.version.is_empty() { "unknown" } else { &proxy.version };
        *counts.entry(proxy.kind.clone()).or_default().entry(version.to_owned()).or_default() += 1;
    }
    counts
}

fn shown(versions: &Versions) -> String {
    let mut text = format!("fairway {}\n", versions.client);
    for (kind, counts) in &versions.proxies {
        let each: Vec<String> = counts.iter().map(|(version, count)| format!("{version} ({count})")).collect();
        text.push_str(&format!("{kind} {}\n", each.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn proxies_are_counted_by_kind_and_version() {
        let proxy = |kind: &str, version: &str| -> Proxy {
            serde_json::from_value(json!({"name": "n", "kind": kind, "node": "", "version": version, "types": {}}))
                .unwrap()
        };
        let proxies = [proxy("ztunnel", "1"), proxy("ztunnel", "2"), proxy("ztunnel", "1"), proxy("waypoint", "")];
        let text = shown(&Versions { client: "3", proxies: counted(&proxies) });
        assert_eq!(text, "fairway 3\nwaypoint unknown (1)\nztunnel 1 (2), 2 (1)\n");
    }
}
