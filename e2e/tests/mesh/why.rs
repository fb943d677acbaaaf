//! `fairway why` says of a connection what then becomes of it.

use fairway_lab::Lab;
use serde_json::Value;

use super::labs;
use super::look::fairway;
use super::shop::{self, CLIENT, CLIENT_IDENTITY, LONER, SERVER_IDENTITY};

const DENY: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-client, namespace: shop}
spec: {action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]}]}
";

/// Whether it succeeded, and what it printed.
fn why(lab: &Lab, arguments: &[&str]) -> (bool, String) {
    fairway(lab, &[&["why"], arguments].concat())
}

#[track_caller]
fn says(lab: &Lab, arguments: &[&str], parts: &[&str]) {
    let (succeeded, text) = why(lab, arguments);
    assert!(succeeded, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
}

#[test]
fn what_becomes_of_a_connection_is_told_by_those_who_carry_it() {
    let Some(lab) = shop::enrolled("why") else { return };
    let through = [CLIENT_IDENTITY, "server.shop.svc.cluster.local", "mutual TLS to", SERVER_IDENTITY, "ALLOWED"];
    says(&lab, &[CLIENT, "server"], &through);
    says(&lab, &["client", "server.shop:80", "-n", "shop"], &through);
    let loner = format!("{}:8080", shop::address(&lab, LONER));
    says(&lab, &[CLIENT, &loner], &["the other end is shop/loner", "clear text", "ALLOWED"]);

    lab.apply(DENY).unwrap();
    lab.wait_until("the refusal to be told", || {
        let (_, text) = why(&lab, &[CLIENT, "server"]);
        let told = text.contains("REFUSED by the destination's proxy: policy_denied (shop/no-client)");
        if told { Ok(()) } else { Err(text) }
    })
    .unwrap();
    assert!(labs::get(&lab, CLIENT, "http://server/").starts_with("error:"));
    let (_, text) = why(&lab, &[CLIENT, "server", "-o", "json"]);
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&told["allowed"], &told["arrival"]["policies"][0]),
        (&false.into(), &"shop/no-client".into()),
        "{text}"
    );

    for (arguments, parts) in [
        ([LONER, "server"], ["shop/loner is not in the mesh", "fairway namespace add shop"]),
        (["shop/nobody", "server"], ["there is no pod shop/nobody", CLIENT]),
        ([CLIENT, "example.com:443"], ["no name \"example.com\"", "give an address"]),
    ] {
        let (succeeded, text) = why(&lab, &arguments);
        assert!(!succeeded && parts.iter().all(|part| text.contains(part)), "{text}");
    }
}
