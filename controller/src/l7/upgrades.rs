//! What requests to a service may go on as at its waypoint: WebSocket, and what an annotation of the service names.

use fairway_core::source::objects::annotation;
use fairway_core::upgrade::{ANNOTATION, Upgrades};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::translate::Fault;

/// What the service with this metadata says; nothing where it says nothing. A name that cannot be allowed is left out.
pub(crate) fn read(metadata: &ObjectMeta, has_waypoint: bool, faults: &mut Vec<Fault>) -> Option<Upgrades> {
    let written = annotation(metadata, ANNOTATION)?;
    let mut fault = |message| faults.push(Fault { field: format!("metadata.annotations[{ANNOTATION}]"), message });
    let mut upgrades = Upgrades::usual();
    for name in written.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        if let Err(problem) = upgrades.allow(name) {
            fault(format!("{name:?} {problem}; it is left out"));
        }
    }
    if !has_waypoint {
        fault("needs a waypoint before the service; it has no effect".to_owned());
    }
    Some(upgrades)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_allowed_is_left_out_and_said() {
        type Row = (Option<&'static str>, bool, Option<&'static [&'static str]>, &'static [&'static str]);
        let rows: [Row; 7] = [
            (None, true, None, &[]),
            (None, false, None, &[]),
            (Some(""), true, Some(&["websocket"]), &[]),
            (Some("spdy/3.1, tcp,"), true, Some(&["websocket", "spdy/3.1", "tcp"]), &[]),
            (Some("tcp"), false, Some(&["websocket", "tcp"]), &["needs a waypoint"]),
            (Some("CONNECT,h2c"), true, Some(&["websocket", "CONNECT"]), &["\"h2c\" would carry requests"]),
            (
                Some("a b,TLS/1.0"),
                true,
                Some(&["websocket"]),
                &["\"a b\" is neither", "\"TLS/1.0\" would carry requests"],
            ),
        ];
        for (written, has_waypoint, expected, messages) in rows {
            let annotations = written.map(|written| [(ANNOTATION.to_owned(), written.to_owned())].into());
            let metadata = ObjectMeta { annotations, ..ObjectMeta::default() };
            let mut faults = Vec::new();
            let upgrades = read(&metadata, has_waypoint, &mut faults);
            let names: Option<Vec<String>> = upgrades.map(|upgrades| upgrades.names().collect());
            assert_eq!(
                names.as_deref().map(|names| names.iter().map(String::as_str).collect()),
                expected.map(<[_]>::to_vec)
            );
            assert_eq!(faults.len(), messages.len(), "{faults:?}");
            for (fault, message) in faults.iter().zip(messages) {
                assert!(fault.message.starts_with(message), "{written:?}: {fault:?}");
                assert_eq!(fault.field, "metadata.annotations[fairway.dev/upgrades]");
            }
        }
    }
}
