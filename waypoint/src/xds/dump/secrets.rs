//! Our certificates in the form of Envoy's `SecretsConfigDump`. There is no private key in what is shown, so none can slip out.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fairway_core::ident::Identity;
use fairway_core::io::certs::describe::describe;
use fairway_core::io::certs::manager::State;
use serde_json::{Map, Value, json};

use super::REDACTED;

/// Field of those that are in force.
pub(super) const LIST: &str = "dynamic_active_secrets";
/// Type of each.
pub(super) const ONE: &str = "type.googleapis.com/envoy.admin.v3.SecretsConfigDump.DynamicSecret";
const PART: &str = "type.googleapis.com/envoy.admin.v3.SecretsConfigDump";
const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// The name of the roots that we believe, as Istio's proxies have it.
const ROOTS: &str = "ROOTCA";
/// The name of a workload's own certificate, as Istio's proxies have it.
const OWN: &str = "default";

/// A certificate of ours, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Its name.
    name: String,
    /// The chain and the roots, in PEM.
    pem: Option<(String, String)>,
    /// What went wrong since.
    error: Option<String>,
}

impl Certificate {
    /// Of these states; `own` is our own identity.
    #[must_use]
    pub fn all(states: &[(Identity, State)], own: Option<&Identity>) -> Vec<Self> {
        let one = |(identity, state): &(Identity, State)| Self {
            name: if Some(identity) == own { OWN.to_owned() } else { identity.to_string() },
            pem: state.certificate.as_ref().map(|it| (it.chain_pem.concat(), it.roots_pem.concat())),
            error: state.last_error.clone(),
        };
        states.iter().map(one).collect()
    }

    fn shown(&self) -> Map<String, Value> {
        let mut shown = Map::from_iter([("name".to_owned(), self.name.as_str().into())]);
        if let Some((chain, _)) = &self.pem {
            let serial = describe(chain).into_iter().next().and_then(|first| first.facts).map(|(serial, ..)| serial);
            shown.extend(serial.map(|serial| ("version_info".to_owned(), serial.into())));
            let secret = json!({
                "@type": SECRET, "name": self.name,
                "tls_certificate": {"certificate_chain": inline(chain), "private_key": inline(REDACTED)},
            });
            shown.insert("secret".to_owned(), secret);
        }
        if let Some(error) = &self.error {
            shown.insert("error_state".to_owned(), json!({"details": error}));
        }
        shown
    }
}

fn inline(text: &str) -> Value {
    json!({"inline_bytes": STANDARD.encode(text)})
}

/// Those in force, and the roots.
pub(super) fn active(certificates: &[Certificate]) -> Vec<(&str, Map<String, Value>)> {
    let there = certificates.iter().filter(|certificate| certificate.pem.is_some());
    let roots = certificates.iter().find_map(|certificate| certificate.pem.as_ref()).map(|(_, roots)| {
        let secret = json!({"@type": SECRET, "name": ROOTS, "validation_context": {"trusted_ca": inline(roots)}});
        (ROOTS, Map::from_iter([("name".to_owned(), ROOTS.into()), ("secret".to_owned(), secret)]))
    });
    there.map(|certificate| (certificate.name.as_str(), certificate.shown())).chain(roots).collect()
}

/// All of them with such names.
pub(super) fn part(certificates: &[Certificate], is_wanted: impl Fn(&str) -> bool) -> Value {
    let wanted = |(name, shown): (&str, Map<String, Value>)| is_wanted(name).then_some(shown);
    let waiting = certificates.iter().filter(|certificate| certificate.pem.is_none() && is_wanted(&certificate.name));
    json!({
        "@type": PART,
        LIST: active(certificates).into_iter().filter_map(wanted).collect::<Vec<_>>(),
        "dynamic_warming_secrets": waiting.map(Certificate::shown).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_never_shown_and_certificates_that_there_are_not_yet_wait() {
        let pem = Some(("CHAIN".to_owned(), "ROOTS".to_owned()));
        let certificates = [
            Certificate { name: OWN.to_owned(), pem, error: None },
            Certificate { name: "spiffe://other".to_owned(), pem: None, error: Some("refused".to_owned()) },
        ];
        let shown = part(&certificates, |_| true);
        let own = json!({"certificate_chain": {"inline_bytes": "Q0hBSU4="}, "private_key": {"inline_bytes": "W3JlZGFjdGVkXQ=="}});
        assert_eq!(shown[LIST][0]["secret"]["tls_certificate"], own);
        assert_eq!(shown[LIST][1]["secret"]["validation_context"]["trusted_ca"]["inline_bytes"], "Uk9PVFM=");
        let waiting = json!([{"name": "spiffe://other", "error_state": {"details": "refused"}}]);
        assert_eq!(shown["dynamic_warming_secrets"], waiting);
        assert_eq!(part(&certificates, |name| name == ROOTS)[LIST].as_array().unwrap().len(), 1);
    }
}
