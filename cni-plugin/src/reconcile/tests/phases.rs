//! Connections that are open when a pod comes in or leaves.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_were_open_have_their_time_and_no_more() {
    let (mut world, _client) = World::captured().await;
    let phase = |world: &World| world.kernel.content(INODE).unwrap().phase;
    assert_eq!(phase(&world), Phase::Joining);
    assert_eq!(world.reconciler.next_settling(world.now), Some(world.now + GRACE), "it wakes up for it");
    world.now += GRACE / 2;
    world.pass().await;
    assert_eq!(phase(&world), Phase::Joining);
    world.now += GRACE;
    assert_eq!(world.pass().await.actual, Actual::Captured);
    assert_eq!(phase(&world), Phase::Settled);
    assert_eq!(world.kernel.calls(), ["apply 7", "apply 7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_no_grace_they_are_cut_at_once() {
    let mut world = World::new();
    world.reconciler.settings.established_grace = Duration::ZERO;
    world.pass().await;
    let client = world.ready().await;
    world.answered(Answer::Accepted).await;
    world.pass().await;
    assert_eq!(world.kernel.content(INODE).unwrap().phase, Phase::Settled);
    world.kernel.hold_connections(3);
    world.label(None);
    world.pass().await;
    world.pass_later().await;
    client.let_go("u1");
    assert_eq!(world.kernel.calls(), ["apply 7", "remove 7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_leaves_keeps_its_proxy_until_its_connections_end() {
    for they_end in [true, false] {
        let (mut world, client) = World::captured().await;
        world.kernel.hold_connections(2);
        world.label(None);
        world.pass().await;
        for _ in 0..2 {
            assert_eq!(world.pass_later().await.actual, Actual::Pending);
            assert_eq!(world.kernel.content(INODE).unwrap().phase, Phase::Leaving, "nothing new is captured");
            assert!(world.reconciler.drains());
        }
        assert_eq!(world.handoff.answer("u1"), Answer::Accepted, "the proxy carries on");
        if they_end {
            world.kernel.hold_connections(0);
            world.pass().await;
        } else {
            world.now += GRACE;
            world.pass().await;
        }
        client.let_go("u1");
        assert_eq!(world.kernel.content(INODE), None, "they end: {they_end}");
        assert_eq!(world.kernel.calls(), ["apply 7", "apply 7", "remove 7"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_comes_back_while_its_connections_end_is_captured_again() {
    let (mut world, _client) = World::captured().await;
    world.kernel.hold_connections(2);
    world.label(None);
    world.pass().await;
    world.pass_later().await;
    world.label(Some("ambient"));
    assert_eq!(world.pass().await.actual, Actual::Captured);
    assert_eq!(world.kernel.content(INODE).unwrap().phase, Phase::Joining);
    assert_eq!(world.redirection().as_deref(), Some("enabled"));
}
