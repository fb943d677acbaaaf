//! Keys of tokens' issuers, fetched from where the issuer has them.

use super::super::requests::{KEYS, TOKEN};
use super::super::shop;
use super::Shop;

/// What the server of keys shows, in the lab's directory.
pub(super) const DIRECTORY: &str = "keys";
/// The public half of another issuer's key that was made for this, and a token of its private half.
const OTHER_KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"2","x":"HaZ8g37RILsvQP-OtbK9KanXctopZxk9409LdEp1V5E","y":"nbAR5Zq-VNWJKc_6mSwZiQWi65iQZ7hdbXZOBIP2j20"}]}"#;
const OTHER_TOKEN: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6IjIifQ.eyJpc3MiOiJodHRwczovL2IuZXhhbXBsZSIsInN1YiI6Im1lIiwiYXVkIjoid2ViIn0.\
    YSr6A6_sHvGEYDezqWXW2vZCLBfJPjMQRRL6-JwSBPxpXhSmlV6MXiTxg69QHxFAJA9cngQZr5XMp3kXS9ciQA";

/// Two issuers: the keys of the first are in a file of the server, those of the other one are written.
fn believed(shop: &Shop, file: &str) -> String {
    let server = shop::address(&shop.lab, "shop/provider");
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: tokens, namespace: shop}}\nspec:\n  \
         targetRefs: [{{group: \"\", kind: Service, name: web}}]\n  jwtRules:\n  \
         - {{issuer: https://a.example, audiences: [web], jwksUri: \"http://{server}:8090/{file}\"}}\n  \
         - {{issuer: https://b.example, audiences: [web], jwks: '{OTHER_KEYS}'}}\n"
    )
}

pub(super) fn are_fetched(shop: &Shop) {
    let bearer = |token: &str| format!("authorization: Bearer {token}");
    let hears = |token: &str, parts: &[&str]| drop(shop.hears(&["-H", &bearer(token)], "/tokens", parts));
    let directory = shop.lab.layout().root().join(DIRECTORY);
    std::fs::create_dir_all(&directory).unwrap();
    shop.lab.apply(&believed(shop, "first.json")).unwrap();
    hears(TOKEN, &["401 ", "token_invalid"]);
    hears(OTHER_TOKEN, &["200 "]);
    // As soon as there are keys, they are found.
    std::fs::write(directory.join("first.json"), KEYS).unwrap();
    hears(TOKEN, &["200 "]);
    hears(OTHER_TOKEN, &["200 "]);
    // Keys of elsewhere take their place: nobody falls back to those that were known.
    std::fs::write(directory.join("second.json"), OTHER_KEYS).unwrap();
    let second = believed(shop, "second.json");
    shop.lab.apply(&second).unwrap();
    hears(TOKEN, &["401 ", "token_invalid"]);
    hears(OTHER_TOKEN, &["200 "]);
    shop.lab.delete(&second).unwrap();
    hears(TOKEN, &["200 "]);
}
