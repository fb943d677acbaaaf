//! A policy that cannot be understood widens nothing: an update keeps what was in force, a new one refuses its targets.

use super::held::Held;
use super::world::{AUTHORIZATION, CLIENT, PEER, SERVER, STORE, World, from, manifest};

const NAMES: [&str; 4] = ["bad-address", "unknown-field", "wrong-type", "not-yaml"];

/// A policy that is broken in one of these ways; without its fault it would deny nobody who is there.
fn broken(how: &str, key: &str, selector: &str) -> String {
    let spec = match how {
        "bad-address" => "{SELECTOR action: DENY, rules: [{from: [{source: {ipBlocks: [\"10.0.0.0/99\"]}}]}]}",
        "unknown-field" => "{SELECTOR action: DENY, rules: [{from: [{source: {principal: [nobody]}}]}]}",
        "wrong-type" => "{SELECTOR action: DENY, rules: nobody}",
        "not-yaml" => "{SELECTOR action: DENY, rules: [}",
        other => panic!("{other}"),
    };
    manifest(AUTHORIZATION, key, &spec.replace("SELECTOR", selector))
}

#[test]
fn an_update_that_cannot_be_understood_keeps_the_policy_before_it() {
    let Some(world) = World::up("update") else { return };
    let mut bystanders = [world.hold("shop/other", SERVER), world.hold("depot/worker", STORE)];
    for how in NAMES {
        let key = format!("shop/{how}");
        let mut held = world.hold("shop/client", SERVER);
        let applied = world.deny(&key, CLIENT);
        held.assert_cut(applied, &key);
        let complaints = world.lab.log("controller").len();
        world.put(AUTHORIZATION, &key, &broken(how, &key, ""));
        world.wait_complaint(complaints, how);
        // Whoever the update would have let in is refused as before, in the policy's name, and nobody else is.
        let mark = world.mark();
        world.assert_refused("shop/client", SERVER);
        world.wait_ended(&mark, 1, "policy_denied", Some(&key));
        bystanders.iter_mut().for_each(Held::assert_works);
        // Put right, it counts again.
        world.deny(&key, "cluster.local/ns/shop/sa/nobody");
        world.wait_let_in("shop/client", SERVER);
        world.remove(AUTHORIZATION, &key);
    }
}

#[test]
fn an_allow_policy_with_a_broken_update_keeps_its_connections() {
    let Some(world) = World::up("allow") else { return };
    let mut held = world.hold("shop/client", SERVER);
    for how in NAMES {
        let key = format!("shop/{how}");
        // The visitor, who has no identity, shows when the list is in force.
        let mut visitor = world.hold("street/visitor", SERVER);
        let applied = world.authorize(&key, &format!("{{action: ALLOW, rules: [{}]}}", from(CLIENT)));
        visitor.assert_cut(applied, &key);
        let complaints = world.lab.log("controller").len();
        world.put(AUTHORIZATION, &key, &broken(how, &key, ""));
        world.wait_complaint(complaints, how);
        held.assert_works();
        assert!(world.is_let_in("shop/client", SERVER), "{how}: the client is listed still");
        world.assert_refused("street/visitor", SERVER);
        world.remove(AUTHORIZATION, &key);
        world.wait_let_in("street/visitor", SERVER);
        held.assert_works();
    }
}

#[test]
fn a_new_policy_that_cannot_be_understood_refuses_its_targets_only() {
    let Some(world) = World::up("new") else { return };
    let mut bystander = world.hold("depot/worker", STORE);
    // Nobody can tell whom a file is about that is not even YAML: see the next test.
    for how in NAMES.into_iter().filter(|how| *how != "not-yaml") {
        for selector in ["", "selector: {matchLabels: {app: server}},"] {
            let key = format!("shop/{how}{}", if selector.is_empty() { "" } else { "-by-selector" });
            let mut held = [
                world.hold("shop/client", SERVER),
                world.hold("shop/other", SERVER),
                world.hold("street/visitor", SERVER),
            ];
            let mark = world.mark();
            let applied = world.put(AUTHORIZATION, &key, &broken(how, &key, selector));
            held.iter_mut().for_each(|held| drop(held.assert_cut(applied, &key)));
            world.wait_ended(&mark, 3, "policy_denied", Some(&key));
            world.assert_refused("shop/other", SERVER);
            bystander.assert_works();
            assert!(world.is_let_in("depot/worker", STORE), "{key}: another namespace");
            // Put right it refuses nobody who is there.
            world.deny(&key, "cluster.local/ns/shop/sa/nobody");
            world.wait_let_in("shop/client", SERVER);
            world.remove(AUTHORIZATION, &key);
        }
    }
    let mut plain = world.hold("street/visitor", SERVER);
    let mut held = world.hold("shop/client", SERVER);
    let mark = world.mark();
    let applied = world.put(PEER, "shop/typo", &manifest(PEER, "shop/typo", "{mtls: {mode: STRICKT}}"));
    plain.assert_cut(applied, "shop/typo, a PeerAuthentication");
    world.wait_ended(&mark, 1, "strict_plaintext", Some("fairway-system/istio_converted_static_strict"));
    held.assert_works();
    bystander.assert_works();
    world.remove(PEER, "shop/typo");
    world.wait_let_in("street/visitor", SERVER);
}

#[test]
fn a_new_file_that_is_not_yaml_is_named_and_loosens_nothing() {
    let Some(world) = World::up("yaml") else { return };
    let mut bystander = world.hold("depot/worker", STORE);
    let mut held = world.hold("shop/client", SERVER);
    let applied = world.deny("shop/before", CLIENT);
    held.assert_cut(applied, "shop/before");
    let complaints = world.lab.log("controller").len();
    world.put(AUTHORIZATION, "shop/not-yaml", &broken("not-yaml", "shop/not-yaml", ""));
    world.wait_complaint(complaints, "not-yaml");
    world.assert_refused("shop/client", SERVER);
    // Other files still count, both ways.
    let mut other = world.hold("depot/worker", STORE);
    let applied = world.authorize("depot/after", "{action: DENY, rules: [{}]}");
    other.assert_cut(applied, "depot/after");
    bystander.assert_cut(applied, "depot/after");
    world.remove(AUTHORIZATION, "depot/after");
    world.wait_let_in("depot/worker", STORE);
}
