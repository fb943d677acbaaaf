//! How a workload describes itself to the other end of a tunnel (interop §1.3).

use std::sync::Arc;

use fairway_core::ident::Identity;
use fairway_core::io::hbone::headers::Baggage;
use fairway_core::workload::Workload;
use fairway_proto::workload as proto;
use http::HeaderMap;

/// Longest name in Kubernetes (RFC 1123 §2.1).
const NAME_MAX: usize = 253;

/// The workload at the other end, which proved to be `identity`, by its own word: for labels where it is not known by its
/// address. What it says of another namespace than its certificate's is not believed, nor is anything else it says then;
/// and what is no name is no label, as labels are kept.
#[must_use]
pub fn described(headers: &HeaderMap, identity: &Identity) -> Option<Arc<Workload>> {
    let baggage = Baggage::parse(headers);
    let Baggage { cluster, namespace, workload, service, version, region, zone } = &baggage;
    let workload = workload.as_ref().map(|(_kind, name)| name);
    let said = [cluster, service, version, region, zone].into_iter().flatten().chain(workload);
    if baggage == Baggage::default() || !said.into_iter().all(|value| is_name(value)) {
        return None;
    }
    if namespace.as_ref().is_some_and(|namespace| namespace != identity.namespace()) {
        return None;
    }
    let (_kind, name) = baggage.workload.unwrap_or_default();
    let workload = Workload::try_from(proto::Workload {
        uid: format!("{identity}/{name}"),
        trust_domain: identity.trust_domain().to_owned(),
        namespace: identity.namespace().to_owned(),
        service_account: identity.service_account().to_owned(),
        name: name.clone(),
        workload_name: name,
        cluster_id: baggage.cluster.unwrap_or_default(),
        canonical_name: baggage.service.unwrap_or_default(),
        canonical_revision: baggage.version.unwrap_or_default(),
        locality: Some(proto::Locality {
            region: baggage.region.unwrap_or_default(),
            zone: baggage.zone.unwrap_or_default(),
            subzone: String::new(),
        }),
        ..proto::Workload::default()
    });
    workload.ok().map(Arc::new)
}

/// Whether the text could be a name in Kubernetes, whose longest are those of DNS, or of a place.
fn is_name(text: &str) -> bool {
    text.len() <= NAME_MAX && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte))
}

#[cfg(test)]
mod tests {
    use fairway_core::io::hbone::headers::BAGGAGE;

    use super::*;

    fn described_by(line: &str) -> Option<Arc<Workload>> {
        let identity = Identity::new("cluster.local", "shop", "cart").unwrap();
        described(&HeaderMap::from_iter([(BAGGAGE, line.parse().unwrap())]), &identity)
    }

    #[test]
    fn a_peer_is_described_by_its_own_words_and_its_certificate() {
        let line = "k8s.cluster.name=west,k8s.namespace.name=shop,k8s.job.name=sums,service.name=cart,service.version=v2,\
                    cloud.region=r,cloud.availability_zone=z";
        let workload = described_by(line).unwrap();
        assert_eq!(workload.identity.to_string(), "spiffe://cluster.local/ns/shop/sa/cart");
        let names =
            [&workload.workload_name, &workload.canonical_name, &workload.canonical_revision, &workload.cluster_id];
        assert_eq!(names.map(|name| &**name), ["sums", "cart", "v2", "west"]);
        assert_eq!((&*workload.locality.region, &*workload.locality.zone), ("r", "z"));
        assert_eq!(Baggage::of(&workload).service.as_deref(), Some("cart"));
    }

    #[test]
    fn who_speaks_for_another_namespace_or_in_no_names_is_not_believed() {
        for (line, is_believed) in [
            ("service.name=cart", true),
            ("k8s.namespace.name=shop", true),
            ("k8s.namespace.name=bank,service.name=vault", false),
            ("nonsense", false),
            ("service.name=a b", false),
            (&format!("service.name={}", "a".repeat(NAME_MAX)), true),
            (&format!("service.name={}", "a".repeat(NAME_MAX + 1)), false),
            (&format!("k8s.pod.name={}", "a".repeat(NAME_MAX + 1)), false),
        ] {
            assert_eq!(described_by(line).is_some(), is_believed, "{line}");
        }
    }
}
