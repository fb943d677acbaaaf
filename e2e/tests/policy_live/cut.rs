//! What denies an open connection cuts it, names itself in the access log, and lets others be.

use super::held::Held;
use super::world::{AUTHORIZATION, CLIENT, OTHER, PEER, SERVER, SERVER_TWO, STORE, World, from, manifest};

/// An AuthorizationPolicy that ends the client's open connections.
struct Case {
    key: &'static str,
    spec: String,
    reason: &'static str,
    /// Whether a policy can be named.
    named: bool,
}

impl Case {
    fn deny(key: &'static str, spec: String) -> Self {
        Self { key, spec, reason: "policy_denied", named: true }
    }
}

fn cases() -> Vec<Case> {
    let client = from(CLIENT);
    let deny = |rest: &str| format!("{{action: DENY, {rest}}}");
    let selector = "selector: {matchLabels: {app: server}}";
    let not_listed = format!("{{action: ALLOW, rules: [{}]}}", from(OTHER));
    let not_listed_by_selector = format!("{{action: ALLOW, {selector}, rules: [{}]}}", from(OTHER));
    let namespace = "{from: [{source: {namespaces: [shop], notPrincipals: [\"*/sa/other\"]}}]}";
    let port =
        format!("{{from: [{{source: {{principals: [\"{CLIENT}\"]}}}}], to: [{{operation: {{ports: [\"7000\"]}}}}]}}");
    vec![
        Case::deny("shop/by-namespace", deny(&format!("rules: [{client}]"))),
        Case::deny("shop/by-selector", deny(&format!("{selector}, rules: [{client}]"))),
        Case::deny("fairway-system/by-mesh", deny(&format!("rules: [{client}]"))),
        Case::deny("fairway-system/by-mesh-selector", deny(&format!("{selector}, rules: [{client}]"))),
        Case::deny("shop/by-port", deny(&format!("{selector}, rules: [{port}]"))),
        Case::deny("shop/by-clients-namespace", deny(&format!("rules: [{namespace}]"))),
        Case { key: "shop/not-listed", spec: not_listed, reason: "policy_not_allowed", named: false },
        Case {
            key: "shop/not-listed-by-selector",
            spec: not_listed_by_selector,
            reason: "policy_not_allowed",
            named: false,
        },
    ]
}

#[test]
fn a_policy_cuts_open_connections_and_lets_new_ones_in_when_it_is_gone() {
    let Some(world) = World::up("cut") else { return };
    // These are in nobody's way, whatever happens to the client.
    let mut bystanders = [world.hold("shop/other", SERVER), world.hold("depot/worker", STORE)];
    for Case { key, spec, reason, named } in cases() {
        let mark = world.mark();
        let mut held = [
            // From another node and from the server's own.
            Held::open(&world.lab, "shop/client", SERVER, 3, 0),
            world.hold("shop/near", SERVER),
        ];
        let mut second_port = world.hold("shop/client", SERVER_TWO);
        let applied = world.authorize(key, &spec);
        held.iter_mut().for_each(|held| drop(held.assert_cut(applied, key)));
        world.wait_ended(&mark, 4, reason, named.then_some(key));
        if key.ends_with("port") {
            second_port.assert_works();
        } else {
            second_port.assert_cut(applied, key);
        }
        world.assert_refused("shop/client", SERVER);
        bystanders.iter_mut().for_each(Held::assert_works);
        world.remove(AUTHORIZATION, key);
        for pod in ["shop/client", "shop/near"] {
            world.wait_let_in(pod, SERVER);
        }
        bystanders.iter_mut().for_each(Held::assert_works);
    }
}

#[test]
fn an_allow_list_edited_to_drop_the_client_cuts_it() {
    let Some(world) = World::up("drop") else { return };
    for (key, selector) in [("shop/list", ""), ("shop/list-by-selector", "selector: {matchLabels: {app: server}}, ")] {
        let list = |principals: &[&str]| {
            let rules: Vec<String> = principals.iter().map(|principal| from(principal)).collect();
            format!("{{action: ALLOW, {selector}rules: [{}]}}", rules.join(", "))
        };
        let mut held = world.hold("shop/client", SERVER);
        let mut other = world.hold("shop/other", SERVER);
        let mut visitor = world.hold("street/visitor", SERVER);
        let mark = world.mark();
        // The visitor, who has no identity, shows when the list is in force.
        let applied = world.authorize(key, &list(&[CLIENT, OTHER]));
        visitor.assert_cut(applied, key);
        world.wait_ended(&mark, 1, "policy_not_allowed", None);
        held.assert_works();
        other.assert_works();
        let mark = world.mark();
        let edited = world.authorize(key, &list(&[OTHER]));
        held.assert_cut(edited, &format!("{key}, edited"));
        world.wait_ended(&mark, 1, "policy_not_allowed", None);
        world.assert_refused("shop/client", SERVER);
        other.assert_works();
        world.remove(AUTHORIZATION, key);
        world.wait_let_in("shop/client", SERVER);
        world.wait_let_in("street/visitor", SERVER);
    }
}

#[test]
fn strict_mutual_tls_cuts_open_plaintext_connections() {
    const STATIC: &str = "fairway-system/istio_converted_static_strict";
    let Some(world) = World::up("strict") else { return };
    let mut bystanders = [world.hold("shop/client", SERVER), world.hold("depot/worker", STORE)];
    let cases = [
        ("shop/default", "{mtls: {mode: STRICT}}", STATIC),
        ("shop/some", "{selector: {matchLabels: {app: server}}, mtls: {mode: STRICT}}", STATIC),
        ("fairway-system/default", "{mtls: {mode: STRICT}}", STATIC),
        (
            "shop/port",
            "{selector: {matchLabels: {app: server}}, portLevelMtls: {\"7000\": {mode: STRICT}}}",
            "shop/converted_peer_authentication_port",
        ),
    ];
    for (key, spec, policy) in cases {
        let mark = world.mark();
        let mut held = Held::open(&world.lab, "street/visitor", SERVER, 3, 0);
        let mut second_port = world.hold("street/visitor", SERVER_TWO);
        let applied = world.put(PEER, key, &manifest(PEER, key, spec));
        held.assert_cut(applied, key);
        world.wait_ended(&mark, 3, "strict_plaintext", Some(policy));
        if key.ends_with("port") {
            second_port.assert_works();
        } else {
            second_port.assert_cut(applied, key);
        }
        world.assert_refused("street/visitor", SERVER);
        bystanders.iter_mut().for_each(Held::assert_works);
        world.remove(PEER, key);
        world.wait_let_in("street/visitor", SERVER);
        bystanders.iter_mut().for_each(Held::assert_works);
    }
}

/// The other end learns of a cut as well: the server's program must not wait for a client that is gone.
#[test]
fn the_servers_program_sees_a_reset_too() {
    let Some(world) = World::up("reset") else { return };
    let log = world.lab.layout().container_log("shop", "server", "one");
    let resets = || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.lines().filter(|line| line.contains("reset by peer")).count()
    };
    for pod in ["shop/client", "street/visitor"] {
        let mut held = Held::open(&world.lab, pod, SERVER, 5, 0);
        let before = resets();
        let applied = world.authorize("shop/everybody", "{action: DENY, rules: [{}]}");
        held.assert_cut(applied, "shop/everybody");
        world.lab.wait_for("the server's program to see five resets", || resets() >= before + 5).unwrap();
        world.remove(AUTHORIZATION, "shop/everybody");
        world.wait_let_in(pod, SERVER);
    }
}
