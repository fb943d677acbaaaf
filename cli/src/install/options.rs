//! What the commands of an installation are told: values, where, and how long to wait.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use fairway_lab::{Error, Result};
use serde_json::Value;

use super::cluster::Cluster;

/// What putting the mesh on a cluster takes, for the first time or again.
#[derive(Debug, Args)]
pub(super) struct Putting {
    #[command(flatten)]
    pub(super) choice: Choice,
    #[command(flatten)]
    pub(super) place: Place,
    #[command(flatten)]
    waiting: Waiting,
    /// Take over fields that somebody else has set
    #[arg(long)]
    pub(super) force_conflicts: bool,
}

impl Putting {
    /// How long to wait for each part, if at all.
    pub(super) fn patience(&self) -> Option<&Patience> {
        (!self.waiting.no_wait).then_some(&self.waiting.patience)
    }
}

/// Which values; later ones go before earlier ones, and of the kinds below the lower ones.
#[derive(Debug, Args)]
pub(super) struct Choice {
    /// Values for a kind of installation: demo, minimal or production
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// File of values, as for Helm; can be repeated
    #[arg(short = 'f', long = "values", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// One value, such as controller.replicas=3; can be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    settings: Vec<String>,
}

impl Choice {
    /// What was chosen, over `base`.
    pub(super) fn over(&self, mut base: Value) -> Result<Value> {
        if let Some(name) = &self.profile {
            let values =
                fairway_manifests::profile(name).map_err(|error| Error::new("choosing values").because(error))?;
            fairway_manifests::merge(&mut base, &values);
        }
        for file in &self.files {
            let doing = || format!("reading {}", file.display());
            let text = std::fs::read_to_string(file).map_err(|error| Error::new(doing()).because(error))?;
            let values = fairway_manifests::parse(&file.to_string_lossy(), &text)
                .map_err(|error| Error::new("reading values").because(error))?;
            fairway_manifests::merge(&mut base, &values);
        }
        for setting in &self.settings {
            fairway_manifests::set(&mut base, setting).map_err(|error| Error::new("reading values").because(error))?;
        }
        Ok(base)
    }
}

/// Which cluster, and where in it.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// Namespace of the mesh's own parts
    #[arg(
        short,
        long,
        visible_alias = "mesh-namespace",
        value_name = "NAME",
        env = "FAIRWAY_NAMESPACE",
        default_value = fairway_manifests::NAMESPACE
    )]
    namespace: String,
    /// File that says where the cluster is, as for kubectl
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The cluster's name in there; without it, the current one
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

impl Place {
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(super) fn connect(&self) -> Result<Cluster> {
        Cluster::connect(self.kubeconfig.as_deref(), self.context.as_deref())
    }
}

/// How long to wait.
#[derive(Debug, Args)]
pub(super) struct Patience {
    /// How long a part may be without progress until it is ready, or gone, such as 5m or 90s
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = time)]
    timeout: Duration,
}

impl Patience {
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// Whether to wait, and how long. Not for removal: what still stands there keeps pods from being cut off.
#[derive(Debug, Args)]
struct Waiting {
    #[command(flatten)]
    patience: Patience,
    /// Wait for nothing
    #[arg(long)]
    no_wait: bool,
}

fn time(text: &str) -> std::result::Result<Duration, String> {
    let wrong = || format!("{text:?} is no time; write for example 5m, 90s or 1h");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times() {
        for (text, expected) in [
            ("5m", Some(300)),
            ("90s", Some(90)),
            ("1h", Some(3600)),
            ("5", None),
            ("", None),
            ("m", None),
            ("5µ", None),
        ] {
            assert_eq!(time(text).ok().map(|time| time.as_secs()), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_said_later_holds() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "controller: {replicas: 7}\nwaypoints: {resources: {cpu: 5}}\n").unwrap();
        let choice = Choice {
            profile: Some("production".to_owned()),
            files: vec![file.path().to_owned()],
            settings: vec!["controller.replicas=9".to_owned()],
        };
        let values = choice.over(json!({"controller": {"replicas": 1, "jwksHosts": "none"}})).unwrap();
        assert_eq!(values["controller"]["replicas"], 9, "--set is last");
        assert_eq!(values["waypoints"]["resources"]["cpu"], 5, "a file goes before a profile");
        assert_eq!(
            values["ztunnel"]["terminationGracePeriodSeconds"], 300,
            "a profile holds where nothing else is said"
        );
        assert_eq!(values["controller"]["jwksHosts"], "none", "what was there stays");
    }
}
