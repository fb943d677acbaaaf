//! The chart's files, embedded. A test sees to it that none is missing.

/// Which template is no object but text for the user.
pub(crate) const NOTES: &str = "NOTES.txt";

macro_rules! embedded {
    ($folder:literal: $($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../chart/", $folder, $name)))),*]
    };
}

pub(crate) const CHART: &str = include_str!("../chart/Chart.yaml");
pub(crate) const VALUES: &str = include_str!("../chart/values.yaml");
pub(crate) const SCHEMA: &str = include_str!("../chart/values.schema.json");

/// Below `templates/`, by name.
pub(crate) const TEMPLATES: &[(&str, &str)] = embedded!("templates/":
    "NOTES.txt",
    "_helpers.tpl",
    "cni.yaml",
    "controller-rbac.yaml",
    "controller.yaml",
    "gatewayclass.yaml",
    "mesh-config.yaml",
    "namespace.yaml",
    "network-policies.yaml",
    "node-rbac.yaml",
    "waypoints-rbac.yaml",
    "webhook.yaml",
    "ztunnel.yaml",
);

/// Below `crds/`.
pub(crate) const DEFINITIONS: &[(&str, &str)] = embedded!("crds/":
    "authorizationpolicies.yaml",
    "destinationrules.yaml",
    "externalprocessors.yaml",
    "peerauthentications.yaml",
    "ratelimits.yaml",
    "requestauthentications.yaml",
    "serviceentries.yaml",
    "telemetries.yaml",
    "virtualservices.yaml",
    "workloadentries.yaml",
);

macro_rules! profiles {
    ($($name:literal),*) => { &[$(($name, include_str!(concat!("../chart/profiles/", $name, ".yaml")))),*] };
}

/// Below `profiles/`, without their extension.
pub(crate) const PROFILES: &[(&str, &str)] = profiles!("demo", "minimal", "production");
