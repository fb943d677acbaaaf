//! Ten thousand open connections, one of them stuck: all are cut, and the stuck one holds up nobody.

use super::held::Held;
use super::world::{AUTHORIZATION, CLIENT, SERVER, World, from};

const CONNECTIONS: usize = 10_000;

#[test]
fn ten_thousand_connections_one_of_them_stuck_are_cut() {
    let Some(world) = World::up("many") else { return };
    let mut bystander = world.hold("shop/other", SERVER);
    let mut held = Held::open(&world.lab, "shop/client", SERVER, CONNECTIONS, 1);
    bystander.assert_works();
    let mark = world.mark();
    let selector = "selector: {matchLabels: {app: server}}";
    let applied = world.authorize("shop/close", &format!("{{action: DENY, {selector}, rules: [{}]}}", from(CLIENT)));
    let ends = held.assert_cut(applied, "shop/close, attached by selector");
    // The tool gives the first ids to stuck connections.
    let stuck = ends.iter().find(|end| end.id == 0).unwrap();
    println!("the stuck connection: {} ms", stuck.when.duration_since(applied).as_millis());
    world.wait_ended(&mark, CONNECTIONS, "policy_denied", Some("shop/close"));
    assert_eq!(world.ended(&mark, "policy_denied", Some("shop/close")).len(), CONNECTIONS);
    bystander.assert_works();
    world.assert_refused("shop/client", SERVER);
    world.remove(AUTHORIZATION, "shop/close");
    world.wait_let_in("shop/client", SERVER);
}
