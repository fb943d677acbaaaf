//! What a pod asks of the DNS proxy and what a resolver answers: nothing is answered that was not asked.

use std::sync::Arc;

use fairway_core::dns::{Family, Zone};
use fairway_core::io::dns::wire::{self, Action, Transport};
use fairway_core::snapshot::Snapshot;
use fairway_core::workload::Workload;
use hickory_proto::op::ResponseCode;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::input::Input;
use crate::world;

/// What a client takes in a datagram unless it says otherwise (RFC 1035 §4.2.1).
const PLAIN_DATAGRAM: usize = 512;

/// A transport, a name, a query and a resolver's reply.
pub fn run(data: &[u8]) {
    thread_local!(static WORLD: Arc<Snapshot> = world::snapshot());
    let mut input = Input::new(data);
    let transport = if input.byte() & 1 > 0 { Transport::Tcp } else { Transport::Udp };
    let (name, query, reply) = (input.text(), input.piece(), input.rest());
    WORLD.with(|snapshot| {
        let client = snapshot.workload_by_uid("Kubernetes//Pod/shop/cart").expect("the pod of the world");
        asked(snapshot, client, transport, query);
        for family in [Family::V4, Family::V6] {
            let Some(ours) = wire::question(7, name, family) else { continue };
            asked(snapshot, client, transport, &ours);
            // Taken for an answer only if it is one.
            if wire::accepts(&ours, reply) {
                assert_eq!(reply.get(..2), ours.get(..2), "another question's answer is taken");
            }
        }
    });
    if let Some(failure) = wire::failure(query, ResponseCode::ServFail) {
        assert!(wire::accepts(query, &failure), "a failure does not answer its query");
    }
    let _ = (wire::accepts(query, reply), wire::addresses(reply), wire::is_truncated(reply), wire::is_refusal(reply));
}

fn asked(snapshot: &Snapshot, client: &Workload, transport: Transport, query: &[u8]) {
    let mut rng = SmallRng::seed_from_u64(1);
    let verdict = wire::consider(snapshot, &Zone::default(), Some(client), transport, query, &mut rng);
    let is_response = query.get(2).is_some_and(|flags| flags & 0x80 > 0);
    match verdict.action {
        Action::Drop | Action::Forward if query.len() < 12 => {}
        Action::Drop => assert!(is_response, "a query gets no answer"),
        Action::Forward => assert!(!is_response, "a response is passed on as a query"),
        Action::Reply(reply) => {
            assert!(!is_response, "a response is answered");
            assert!(wire::accepts(query, &reply), "the answer is not one to the query");
            // Where nothing but the question is there, nobody has said that more may come.
            let more = query.get(6..12).is_some_and(|counts| counts.iter().any(|count| *count > 0));
            assert!(more || transport == Transport::Tcp || reply.len() <= PLAIN_DATAGRAM, "{} bytes", reply.len());
        }
    }
}
