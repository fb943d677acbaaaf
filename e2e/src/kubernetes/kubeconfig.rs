//! Kubeconfig files: where the API server is, and who asks.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::certificates::Pair;

/// Name of cluster, user and context.
const NAME: &str = "fairway-lab";

/// How a client proves who it is.
#[derive(Clone, Debug)]
pub(crate) enum Credentials<'a> {
    /// With a certificate.
    Certificate(&'a Pair),
    /// With the token in a file, read again when it changes.
    Token(&'a Path),
}

/// A kubeconfig for the API server at `https://ADDRESS`, trusting `authority` (PEM).
pub(crate) fn render(address: &str, authority: &str, credentials: &Credentials<'_>) -> String {
    let cluster =
        json!({"server": format!("https://{address}"), "certificate-authority-data": STANDARD.encode(authority)});
    let user = match credentials {
        Credentials::Certificate(client) => json!({
            "client-certificate-data": STANDARD.encode(&client.certificate),
            "client-key-data": STANDARD.encode(&client.key),
        }),
        Credentials::Token(file) => json!({"tokenFile": file}),
    };
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
        let text = render("10.99.0.1:6443", "A", &Credentials::Certificate(&pair));
        let config = Kubeconfig::from_yaml(&text).unwrap();
        assert_eq!(config.current_context.as_deref(), Some("fairway-lab"));
        let cluster = config.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://10.99.0.1:6443"));
        assert_eq!(cluster.certificate_authority_data.as_deref(), Some("QQ=="));
        let text = render("10.99.0.1:6443", "A", &Credentials::Token(Path::new("/run/token")));
        let config = Kubeconfig::from_yaml(&text).unwrap();
        assert_eq!(config.auth_infos[0].auth_info.as_ref().unwrap().token_file.as_deref(), Some("/run/token"));
    }
}
