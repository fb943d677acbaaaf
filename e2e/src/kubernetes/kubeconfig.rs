//! Kubeconfig files: where the API server is, and who asks.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::certificates::Pair;

/// Name of cluster, user and context.
const NAME: &str = "fairway-lab";

/// A kubeconfig for the API server at `https://ADDRESS`, trusting `authority` (PEM), for the client with this certificate.
pub(crate) fn render(address: &str, authority: &str, client: &Pair) -> String {
    let cluster =
        json!({"server": format!("https://{address}"), "certificate-authority-data": STANDARD.encode(authority)});
    let user = json!({
        "client-certificate-data": STANDARD.encode(&client.certificate),
        "client-key-data": STANDARD.encode(&client.key),
    });
    let named = |what: &str, value: Value| json!([{"name": NAME, what: value}]);
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": named("cluster", cluster),
        "users": named("user", user),
        "contexts": named("context", json!({"cluster": NAME, "user": NAME})),
        "current-context": NAME,
    });
    // JSON is YAML.
    format!("{config:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::config::Kubeconfig;

    #[test]
    fn clients_read_it() {
        let pair = Pair { certificate: "C".into(), key: "K".into() };
        let text = render("10.99.0.1:6443", "A", &pair);
        let config = Kubeconfig::from_yaml(&text).unwrap();
        assert_eq!(config.current_context.as_deref(), Some("fairway-lab"));
        let cluster = config.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://10.99.0.1:6443"));
        assert_eq!(cluster.certificate_authority_data.as_deref(), Some("QQ=="));
    }
}
