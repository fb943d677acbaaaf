//! The closed set of messages: code, severity, name and meaning of each. A code is never used again for something else.

use fairway_controller::status::judgement::Trouble;
use serde::Serialize;

/// How bad a message is, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Severity {
    /// Something is refused, or not in force.
    Error,
    /// Something has another effect than it says, or none.
    Warning,
    /// Something to know.
    Info,
}

impl Severity {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// A kind of message; the schema of `analyze --list -o json`.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Code {
    pub(crate) code: &'static str,
    pub(crate) severity: Severity,
    pub(crate) name: &'static str,
    pub(crate) meaning: &'static str,
}

macro_rules! codes {
    ($($constant:ident = $code:literal, $severity:ident, $name:literal, $meaning:literal;)+) => {
        $(pub(super) const $constant: &Code =
            &Code { code: $code, severity: Severity::$severity, name: $name, meaning: $meaning };)+
        /// Every code.
        pub(crate) const ALL: &[&Code] = &[$($constant,)+];
    };
}

codes! {
    UNREADABLE = "FW0001", Error, "Unreadable", "An object cannot be read";
    UNKNOWN_KIND = "FW0002", Warning, "UnknownKind", "A kind of Istio's or Gateway API's that the mesh does not read";
    MESH_CONFIG = "FW0003", Error, "MeshConfig", "The mesh configuration cannot be used";
    MESH_CONFIG_PART = "FW0004", Warning, "MeshConfigPart", "A part of the mesh configuration means nothing here";
    POLICY_INVALID = "FW0101", Error, "PolicyInvalid", "A policy cannot be in force as written, so the last good one is, or all is refused";
    RULE_NEEDS_WAYPOINT = "FW0102", Warning, "RuleNeedsWaypoint", "A rule about requests, enforced where nobody looks into requests";
    TARGET_NEEDS_WAYPOINT = "FW0103", Warning, "TargetNeedsWaypoint", "No waypoint is before what a policy is attached to";
    POLICY_DIFFERENT = "FW0104", Warning, "PolicyDifferent", "A part of a policy has no effect, or another one";
    WAYPOINT_NOT_ALLOWED = "FW0105", Warning, "WaypointNotAllowed", "Allow-lists leave out the waypoint that all traffic comes through";
    KEYS_MISSING = "FW0106", Error, "KeysMissing", "The keys of an issuer cannot be fetched, so its tokens are refused";
    NEVER = "FW0107", Warning, "NeverMatches", "A policy compares requests with what none of them has";
    NOT_ATTACHED = "FW0201", Error, "RouteNotAttached", "A route is not attached to what it names";
    CONFLICT = "FW0202", Error, "RouteConflict", "Another route has the place of this one";
    REFERENCE = "FW0203", Error, "ReferenceNotFound", "A reference leads nowhere, or may not be followed";
    UNSUPPORTED = "FW0204", Error, "Unsupported", "A field that is not supported; requests that need it are answered with 500";
    DIFFERENT = "FW0205", Warning, "FieldDifferent", "A field is followed in another way than it says";
    ROUTE_NEEDS_WAYPOINT = "FW0206", Warning, "RouteNeedsWaypoint", "A route or DestinationRule is for a service that has no waypoint";
    WAYPOINT_MISSING = "FW0301", Error, "WaypointMissing", "The waypoint that is to be used cannot be, and traffic is refused";
    WAYPOINT_DOWN = "FW0303", Error, "WaypointDown", "No pod of a waypoint works, and what has to come through it is refused";
    UNKNOWN_CLASS = "FW0304", Warning, "UnknownClass", "A gateway takes the mesh's tunnels and is of a class that means nothing here";
    NO_EFFECT = "FW0302", Warning, "NoEffect", "An object, or a part of it, has no effect";
    BLOCKS_TUNNELS = "FW0401", Error, "BlocksTunnels", "A NetworkPolicy keeps the mesh's tunnels, TCP port 15008, from pods of the mesh";
    HOST_NETWORK = "FW0501", Warning, "HostNetworkPod", "A pod of an enrolled namespace is on its node's network and stays outside";
    UNKNOWN_MODE = "FW0502", Error, "UnknownMode", "The label istio.io/dataplane-mode has a value that means nothing";
    SIDECARS_TOO = "FW0503", Warning, "SidecarsToo", "A namespace asks for the mesh and for injected sidecars";
    UNKNOWN_NAMESPACE = "FW0504", Info, "UnknownNamespace", "A policy names a namespace that does not exist";
}

/// Codes of what may be well where files come to what a mesh has.
pub(super) const OF_OTHERS: [&str; 5] =
    [TARGET_NEEDS_WAYPOINT.code, NOT_ATTACHED.code, REFERENCE.code, ROUTE_NEEDS_WAYPOINT.code, WAYPOINT_MISSING.code];

/// The code of what the controller says.
pub(super) fn of(trouble: Trouble) -> &'static Code {
    match trouble {
        Trouble::Unreadable => UNREADABLE,
        Trouble::PolicyInvalid => POLICY_INVALID,
        Trouble::RuleNeedsWaypoint => RULE_NEEDS_WAYPOINT,
        Trouble::TargetNeedsWaypoint => TARGET_NEEDS_WAYPOINT,
        Trouble::PolicyDifferent => POLICY_DIFFERENT,
        Trouble::NotAttached => NOT_ATTACHED,
        Trouble::Conflict => CONFLICT,
        Trouble::Reference => REFERENCE,
        Trouble::Unsupported => UNSUPPORTED,
        Trouble::Different => DIFFERENT,
        Trouble::WaypointMissing => WAYPOINT_MISSING,
        Trouble::NoEffect => NO_EFFECT,
        Trouble::BlocksTunnels => BLOCKS_TUNNELS,
    }
}
