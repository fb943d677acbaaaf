//! Nobody loses a connection to a policy that does not deny it, nor to the controller or an agent being killed.

use super::held::Held;
use super::world::{AUTHORIZATION, CLIENT, OTHER, SERVER, STORE, World, from};

const SELECTOR: &str = "selector: {matchLabels: {app: server}}";

/// Policies that concern the client and do not deny it, of every scope and action.
fn harmless() -> Vec<(&'static str, String)> {
    let allow_client = format!("rules: [{}]", from(CLIENT));
    let deny_nobody = format!("action: DENY, rules: [{}]", from("cluster.local/ns/shop/sa/nobody"));
    vec![
        ("shop/allow", format!("{{{allow_client}}}")),
        ("shop/allow-by-selector", format!("{{{SELECTOR}, {allow_client}}}")),
        ("fairway-system/allow", "{rules: [{from: [{source: {principals: [\"*\"]}}]}]}".to_owned()),
        (
            "fairway-system/allow-by-selector",
            format!("{{{SELECTOR}, rules: [{{from: [{{source: {{principals: [\"*\"]}}}}]}}]}}"),
        ),
        ("shop/deny", format!("{{{deny_nobody}}}")),
        ("shop/deny-by-selector", format!("{{{SELECTOR}, {deny_nobody}}}")),
        ("fairway-system/deny", format!("{{{deny_nobody}}}")),
        ("fairway-system/deny-by-selector", format!("{{{SELECTOR}, {deny_nobody}}}")),
    ]
}

impl World {
    /// Waits until whatever was put in place before is in force: later files take effect no earlier than it, and this one cuts a
    /// connection.
    fn wait_in_force(&self) {
        let mut canary = self.hold("shop/other", SERVER);
        let applied = self.deny("shop/canary", OTHER);
        canary.assert_cut(applied, "shop/canary");
        self.remove(AUTHORIZATION, "shop/canary");
    }

    fn kill_and_wait(&self, component: &str) {
        let restarts = || {
            let status = self.lab.status().unwrap();
            let found = status.components.into_iter().find(|known| known.name == component).unwrap();
            (found.restarts, found.ready)
        };
        let (before, _) = restarts();
        self.lab.kill(component).unwrap();
        self.lab
            .wait_for(&format!("{component} to be back"), || {
                let (now, ready) = restarts();
                now > before && ready
            })
            .unwrap();
    }
}

fn held(world: &World) -> [Held; 3] {
    [
        Held::open(&world.lab, "shop/client", SERVER, 20, 0),
        Held::open(&world.lab, "shop/near", SERVER, 5, 0),
        world.hold("depot/worker", STORE),
    ]
}

#[test]
fn policies_that_do_not_deny_a_connection_come_and_go() {
    let Some(world) = World::up("kept") else { return };
    let mut kept = held(&world);
    for (key, spec) in harmless() {
        world.wait_let_in("shop/other", SERVER);
        world.authorize(key, &spec);
        if key.starts_with("shop/allow") {
            world.lab.wait_for("the list to be in force", || !world.is_let_in("shop/other", SERVER)).unwrap();
        } else {
            world.wait_in_force();
        }
        kept.iter_mut().for_each(Held::assert_works);
        world.remove(AUTHORIZATION, key);
        world.wait_let_in("shop/other", SERVER);
        kept.iter_mut().for_each(Held::assert_works);
    }
    // All at once, faster than anybody can follow.
    for _ in 0..20 {
        for (key, spec) in harmless() {
            world.authorize(key, &spec);
        }
        std::thread::yield_now();
        for (key, _) in harmless() {
            world.remove(AUTHORIZATION, key);
        }
    }
    world.wait_let_in("shop/other", SERVER);
    world.wait_in_force();
    kept.iter_mut().for_each(Held::assert_works);
}

#[test]
fn a_killed_controller_or_agent_costs_no_connection() {
    let Some(world) = World::up("killed") else { return };
    let mut kept = held(&world);
    world.authorize("shop/list", &format!("{{{SELECTOR}, rules: [{}, {}]}}", from(CLIENT), from(OTHER)));
    world.wait_in_force();
    kept.iter_mut().for_each(Held::assert_works);
    for round in 0..3 {
        // What changed while nobody watched must arrive without a gap in which it refuses.
        let (before, after) = (format!("shop/before-{round}"), format!("shop/after-{round}"));
        let list = format!("{{{SELECTOR}, rules: [{}, {}]}}", from(CLIENT), from(OTHER));
        world.authorize(&before, &list);
        world.lab.kill("controller").unwrap();
        world.authorize(&after, &list);
        world.wait_let_in("shop/other", SERVER);
        world.wait_in_force();
        kept.iter_mut().for_each(Held::assert_works);
        world.kill_and_wait("controller");
        world.remove(AUTHORIZATION, &before);
        world.lab.kill("controller").unwrap();
        world.remove(AUTHORIZATION, &after);
        world.wait_let_in("shop/other", SERVER);
        world.wait_in_force();
        kept.iter_mut().for_each(Held::assert_works);
    }
    for agent in ["agent-node-1", "agent-node-2"] {
        world.kill_and_wait(agent);
        kept.iter_mut().for_each(Held::assert_works);
    }
    world.lab.wait_ready().unwrap();
    world.wait_let_in("shop/client", SERVER);
    // The connections that lived through all of it still follow policy.
    let mark = world.mark();
    let applied = world.authorize("fairway-system/everybody", "{action: DENY, rules: [{}]}");
    kept.iter_mut().for_each(|kept| drop(kept.assert_cut(applied, "fairway-system/everybody, after all that")));
    world.wait_ended(&mark, 26, "policy_denied", Some("fairway-system/everybody"));
}
